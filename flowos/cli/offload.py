"""Find which prefixes a switch should route by itself, and what is left to software.

The traffic comes from captures (pcap, pcapng, also compressed; `-` is standard input), by the
prefix that a packet goes to, or from --generate.  TFO is compared with bin-optimal, which knows
the future, and with LRU and LFU caches, for each number n of entries in the switch.

  flowos offload traffic.pcap -n 10,100,1000
  flowos offload traffic.pcap --routes table.txt --changes changes.jsonl
  flowos offload --generate isp --duration 1800 -n 1000,6000 --factor auto --price 100
"""
import contextlib
import os
import sys

from . import OK, UsageFault
from .inspect import natural

STRATEGIES = ("tfo", "bin-optimal", "lru", "lfu")
KINDS = ("isp", "mawi", "ixp")


def configure(parser):
    """Add the command's arguments."""
    parser.add_argument("inputs", nargs="*", metavar="IN", help="capture file, or - for standard input")
    parser.add_argument("--generate", choices=KINDS, metavar="KIND", help="generate traffic: " + ", ".join(KINDS))
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=NUMBER",
                        help="change a number of the generated traffic's profile (may be repeated)")
    parser.add_argument("--duration", type=natural, metavar="S", help="seconds to generate (1200)")
    parser.add_argument("--seed", type=natural, metavar="N", help="seed of the generated traffic (1)")
    parser.add_argument("-n", default="100,1000,6000", metavar="N,…", help="entries in the switch (100,1000,6000)")
    parser.add_argument("--strategy", default=",".join(STRATEGIES), metavar="S,…",
                        help="which to run: " + ", ".join(STRATEGIES))
    parser.add_argument("--scales", default="10,60,600", metavar="S,…",
                        help="TFO's time scales, seconds; the first is the bin (10,60,600)")
    parser.add_argument("--factor", default="2", metavar="X|auto",
                        help="by how much an addition must exceed what it replaces (2); auto: tuned on line")
    parser.add_argument("--price", type=float, metavar="PACKETS",
                        help="for --factor auto: packets at the controller that are as bad as a change (10)")
    parser.add_argument("--most-changes", type=natural, metavar="N", help="changes per bin that TFO may make (no limit)")
    parser.add_argument("--warm", type=natural, metavar="S",
                        help="seconds that are served and not counted (generated: the longest scale; else 0)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--routes", metavar="FILE", help="take the prefixes of this table, one to a line")
    what.add_argument("--aggregate", metavar="IPV4,IPV6", help="take prefixes of these lengths (24,48)")
    parser.add_argument("--prefixes", type=natural, default=1 << 18, metavar="N",
                        help="with --aggregate: prefixes kept at most; later ones stay with the controller (262144)")
    parser.add_argument("--most-guards", type=natural, default=16, metavar="N",
                        help="with --routes: leave prefixes with more next longer ones to the controller (16)")
    parser.add_argument("--changes", metavar="FILE", help="write TFO's changes for the largest n as lines of JSON")
    parser.add_argument("--series", action="store_true", help="with --json: the figures of each bin as well")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def numbers(option, text, kind=float):
    """Read numbers with commas between; UsageFault names the option.

    >>> numbers("-n", "10,200", int)
    [10, 200]
    """
    try:
        return [kind(word) for word in text.split(",")]
    except ValueError:
        raise UsageFault(f"offload: {option} {text}: expected numbers with commas between") from None


def profile_of(arguments):
    """Give the profile of --generate and --set."""
    from flowos.services.offload_trace import PROFILES

    profile = PROFILES[arguments.generate]
    for text in arguments.set:
        name, _, value = text.partition("=")
        if name not in profile._fields:
            raise UsageFault(f"offload: --set {text}: expected FIELD=NUMBER, FIELD one of {', '.join(profile._fields)}")
        try:
            profile = profile._replace(**{name: int(value) if name == "prefixes" else float(value)})
        except ValueError:
            raise UsageFault(f"offload: --set {text}: {value!r} is no number") from None
    return profile.check()


def generated(profile, seed, duration, step, progress=None):
    """Yield generated bins: each a whole number of seconds."""
    import numpy as np

    from flowos.services.offload_trace import Trace

    trace = Trace(profile, seed)
    for number in range(duration // step):
        yield np.concatenate([next(trace) for _ in range(step)])
        if progress is not None:
            progress((number + 1) * step)


class Source:
    """Where the bins come from: its name, room for ids, seconds to warm up, and `bins(progress)`."""

    def __init__(self, arguments, scales):
        self.routes = None
        if arguments.generate is not None:
            if arguments.inputs or arguments.routes or arguments.aggregate:
                raise UsageFault("offload: --generate makes prefixes and traffic: expected no input, --routes or --aggregate")
            if scales[0] != int(scales[0]) or scales[0] < 1:
                raise UsageFault(f"offload: --scales {arguments.scales}: generated bins are whole seconds")
            self.name, profile = f"generated {arguments.generate}", profile_of(arguments)
            self.room, self.warm = profile.prefixes, scales[-1]
            self.duration = 1200 if arguments.duration is None else arguments.duration
            seed = 1 if arguments.seed is None else arguments.seed
            self.bins = lambda progress: generated(profile, seed, self.duration, int(scales[0]), progress)
            return
        for name in ("set", "duration", "seed"):
            if getattr(arguments, name) not in (None, []):
                raise UsageFault(f"offload: --{name} is of generated traffic: expected --generate")
        if not arguments.inputs:
            raise UsageFault("offload: no input: expected captures, or --generate")
        for path in arguments.inputs:
            if path != "-":
                os.stat(path)
        from .offload_capture import Flat, Routes, bins, read_routes

        if arguments.routes is not None:
            self.routes = Routes(read_routes(arguments.routes), arguments.most_guards)
        else:
            lengths = numbers("--aggregate", arguments.aggregate or "24,48", int)
            if len(lengths) != 2:
                raise UsageFault(f"offload: --aggregate {arguments.aggregate}: expected two lengths")
            self.routes = Flat(*lengths, arguments.prefixes)
        self.name, self.room, self.warm, self.duration = ", ".join(arguments.inputs), self.routes.room, 0, None
        self.bins = lambda progress: bins(arguments.inputs, self.routes, scales[0], progress)

    def prefix(self, id):
        """Give the name of an id."""
        return self.routes.table.prefix(id) if self.routes is not None else f"prefix-{id}"


@contextlib.contextmanager
def shown(inputs, duration):
    """Give what to call with how far the work is, or None where nobody watches."""
    bar = None
    if sys.stderr.isatty() and duration is None:
        from .inspect_tables import progress

        bar = progress(inputs)
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        bar = Progress(console=Console(stderr=True), transient=True)
        bar.add_task("seconds of traffic", total=duration)
    if bar is None:
        yield None
        return
    with bar:
        yield lambda done: bar.update(bar.task_ids[0], completed=done)


def contestants_of(arguments, ns, room):
    """Make {(strategy, n): strategy} as the arguments ask for."""
    from flowos.services.offload_evaluation import strategy
    from flowos.services.offload_tuning import Tuner

    names = arguments.strategy.split(",")
    if len(set(names)) != len(names) or len(set(ns)) != len(ns):
        raise UsageFault("offload: a strategy or a number of entries is there twice")
    if arguments.factor != "auto" and arguments.price is not None:
        raise UsageFault("offload: --price is for --factor auto")
    price = 10.0 if arguments.price is None else arguments.price
    try:
        factor = None if arguments.factor == "auto" else float(arguments.factor)
    except ValueError:
        raise UsageFault(f"offload: --factor {arguments.factor}: expected a number or auto") from None
    return {(name, n): strategy(name, n, room, Tuner(n, price) if factor is None else factor, arguments.most_changes)
            for name in names for n in ns}


def run(arguments):
    """Run `flowos offload`; the result is the exit code."""
    import json

    from flowos.services.offload_cover import guards
    from flowos.services.offload_evaluation import Evaluation
    from flowos.services.offload_traffic import Traffic
    from .offload_report import ChangeLog, as_json, as_table

    ns, scales = numbers("-n", arguments.n, int), numbers("--scales", arguments.scales)
    Traffic(scales, 1)                                 # what is wrong with the scales is said first
    source = Source(arguments, scales)
    contestants = contestants_of(arguments, ns, source.room)
    chosen = contestants.get(("tfo", max(ns)))
    if arguments.changes is not None and chosen is None:
        raise UsageFault("offload: --changes are TFO's: expected it among --strategy")
    warm = source.warm if arguments.warm is None else arguments.warm
    if source.duration is not None and source.duration < warm + scales[0]:
        raise UsageFault(f"offload: --duration {source.duration}: nothing would be counted after {warm:g} s of warming up (--warm)")
    evaluation = Evaluation(contestants, max(ns), source.room, scales, int(-(-warm // scales[0])))
    with contextlib.ExitStack() as open_files:
        if arguments.changes is not None:
            file = open_files.enter_context(open(arguments.changes, "w", encoding="utf-8"))
            chosen.on_round = ChangeLog(file, scales[0], source.prefix)
        progress = open_files.enter_context(shown(arguments.inputs, source.duration))
        for bin in source.bins(progress):
            evaluation.serve(bin)
    more = {"prefixes": int(evaluation.seen.sum())}
    if chosen is not None:
        more["installed"] = len(chosen.installed)
        if arguments.factor == "auto":
            more["factor"] = chosen.factor
        if source.routes is not None and source.routes.parents is not None:
            more["guards"] = len(guards(chosen.installed, source.routes.parents))
    if arguments.json:
        json.dump(as_json(source.name, evaluation, more, arguments.series), sys.stdout)
        print()
    else:
        as_table(source.name, evaluation, more, sys.stdout)
    return OK
