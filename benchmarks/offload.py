"""Claim: few prefixes carry most traffic, and TFO keeps them in the switch with little change.

    python benchmarks/offload.py [--quick] [--results DIR]
    python benchmarks/offload.py --draw RESULT.json        plot and write the tables of docs/offload.md anew

Reproduces figures 2.9 to 2.11 and 2.13 of D3.2 in kind: its traces are private, so traffic is
generated to fit what §2.4.1 says of them (flowos/services/offload_trace.py).  A day lasts an hour
there, and two days are served after ten minutes of warming up.  Measured as well: what the factor
of step 4 does and whether the tuned one is as good as the best, what each time scale is worth,
and how fast packets are counted by a million prefixes, a trie library beside ours in the same
run.  One line per claim is printed, everything goes to benchmarks/results/, quick runs to
build/benchmarks/.  No time is asserted.
"""
import argparse
import datetime
import json
import socket
import sys
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT)]

import measure                                                                                 # noqa: E402
import offload_report                                                                          # noqa: E402
from migration import best                                                                     # noqa: E402
from flowos.services.offload import tfo                                                        # noqa: E402
from flowos.services.offload_evaluation import STRATEGIES, Evaluation, strategy                # noqa: E402
from flowos.services.offload_trace import PROFILES, Trace                                      # noqa: E402
from flowos.services.offload_traffic import Traffic                                            # noqa: E402
from flowos.services.offload_tuning import FACTORS, Tuner                                      # noqa: E402
from flowos.services.prefixes import PrefixTable                                               # noqa: E402

ENTRIES = (20, 50, 100, 200, 500, 1000, 2000, 4000, 5000, 6000, 8000, 10_000, 14_000, 18_000, 30_000)
SERIES = (200, 2000, 18_000)
RANKS = (10, 100, 1000, 2000, 6000, 10_000, 30_000)
SCALES = ((10,), (10, 60), (10, 600), (10, 60, 600))
PRICES = (1, 10, 100, 1000)
WARM, DAYS = 600, 2
# Of the IPv4 routes of the global table: lengths from 16 to 24, the rest left out; about 2020 to 2025.
LENGTHS, SHARES = range(16, 25), (1.4, 0.8, 1.4, 2.6, 4.6, 5.4, 11.5, 10.3, 62.0)


def seconds_of(name, seconds, seed=1, **changes):
    """Yield seconds of generated traffic, WARM more than asked for."""
    trace = Trace(PROFILES[name]._replace(**changes), seed)
    for _ in range(WARM + seconds):
        yield next(trace)


def bins_of(seconds, length):
    """Join so many seconds each."""
    parts = []
    for second in seconds:
        parts.append(second)
        if len(parts) == length:
            yield np.concatenate(parts)
            parts = []


class Feed:
    """An evaluation that is fed second by second, whatever its bin; only strategies of the names given."""

    def __init__(self, step, entries, prefixes, names):
        contestants = {(name, n): strategy(name, n, prefixes) for name in names for n in entries}
        scales = tuple(scale for scale in (10.0, 60.0, 600.0) if scale > step) if names != ("bin-optimal",) else ()
        self.step, self.parts = step, []
        self.evaluation = Evaluation(contestants, max(entries), prefixes, (step, *scales), WARM // step)

    def second(self, ids):
        """Take a second's packets; serve the bin when it is whole."""
        self.parts.append(ids)
        if len(self.parts) == self.step:
            self.evaluation.serve(np.concatenate(self.parts))
            self.parts = []

    def rows(self):
        """Give a row per strategy and n."""
        return [{"bin": self.step, "strategy": name, "n": n, **figures}
                for (name, n), figures in self.evaluation.summary().items()]


def figures(name, seconds, entries):
    """Serve a trace: popularity of prefixes, and for each strategy and n what was left and changed."""
    prefixes = PROFILES[name].prefixes
    feeds = [Feed(10, entries, prefixes, STRATEGIES)]
    if name == "isp":
        feeds += [Feed(step, entries, prefixes, ("bin-optimal",)) for step in (1, 600)]
    total = np.zeros(prefixes, "i8")
    for number, ids in enumerate(seconds_of(name, seconds)):
        if number >= WARM:
            total += np.bincount(ids, minlength=prefixes)
        for feed in feeds:
            feed.second(ids)
    evaluation = feeds[0].evaluation
    shares = np.cumsum(np.sort(total)[::-1]) / total.sum()
    at = np.unique(np.geomspace(1, np.count_nonzero(total), 60).astype(int))
    return {"packets": int(total.sum()), "prefixes": int(np.count_nonzero(total)),
            "rate_median": float(np.median(evaluation.totals) / 10),
            "half": float(1 - shares[np.count_nonzero(total) // 2]),
            "popularity": [[int(rank), float(shares[rank - 1])] for rank in sorted({*at.tolist(), *RANKS})],
            "rows": [row for feed in feeds for row in feed.rows()],
            "series": [{"strategy": kind, "n": n, "changes": [served.changes for served in evaluation.results[kind, n]]}
                       for kind in ("tfo", "bin-optimal") for n in SERIES if n in entries]}


def factors(seconds, name="isp", entries=(1000, 2000)):
    """What the factor does, and what the tuned one costs beside every fixed one."""
    contestants = {(n, factor): strategy("tfo", n, 1, factor) for n in entries for factor in FACTORS}
    contestants |= {(n, -price): strategy("tfo", n, 1, Tuner(n, price)) for n in entries for price in PRICES}
    evaluation = Evaluation(contestants, max(entries), PROFILES[name].prefixes, warm=WARM // 10)
    for ids in bins_of(seconds_of(name, seconds, crowds=6.0), 10):
        evaluation.serve(ids)
    figures, rows = evaluation.summary(), []
    for n in entries:
        sums = {key: (sum(served.left for served in evaluation.results[n, key]),
                      sum(served.changes for served in evaluation.results[n, key]))
                for m, key in contestants if m == n}
        bins = len(evaluation.totals)
        rows.append({"n": n, "fixed": [{"factor": factor, **figures[n, factor]} for factor in FACTORS],
                     "tuned": [{"price": price, "cost": (sums[-price][0] + price * sums[-price][1]) / bins,
                                "last": contestants[n, -price].factor,
                                "fixed": {str(factor): (sums[factor][0] + price * sums[factor][1]) / bins for factor in FACTORS}}
                               for price in PRICES]})
    return rows


def scales(seconds, entries=(1000, 2000, 6000)):
    """What TFO's time scales are worth: the same traffic, some scales left out."""
    rows = []
    for name in PROFILES:
        prefixes = PROFILES[name].prefixes
        evaluations = [Evaluation({n: strategy("tfo", n, prefixes) for n in entries}, max(entries), prefixes, chosen, WARM // 10)
                       for chosen in SCALES]
        for ids in bins_of(seconds_of(name, seconds), 10):
            for evaluation in evaluations:
                evaluation.serve(ids)
        rows += [{"trace": name, "scales": chosen, "n": n, **found} for chosen, evaluation in zip(SCALES, evaluations)
                 for n, found in evaluation.summary().items()]
    return rows


def routes(count, seed=1):
    """Draw IPv4 prefixes, as many of each length as the global table has: network addresses, lengths."""
    rng = np.random.default_rng(seed)
    shares = np.array(SHARES) / sum(SHARES)
    lengths = rng.choice(LENGTHS, 3 * count // 2, p=shares)
    networks = rng.integers(1 << 24, 224 << 24, len(lengths)).astype("u4") >> (32 - lengths) << (32 - lengths)
    both = np.unique(networks.astype("u8") << np.uint64(8) | lengths.astype("u8"))
    both = rng.permutation(both)[:count]
    return (both >> np.uint64(8)).astype("u4"), (both & np.uint64(255)).astype("u1")


def text(address):
    """Spell an IPv4 address.

    >>> text(0x0A000001)
    '10.0.0.1'
    """
    return socket.inet_ntoa(int(address).to_bytes(4, "big"))


def speed(prefixes, packets, batch=4096):
    """How fast packets are counted by their prefixes on one core; destinations by Zipf's law, or anywhere."""
    rng = np.random.default_rng(2)
    networks, lengths = routes(prefixes)
    names = [f"{text(network)}/{length}" for network, length in zip(networks, lengths)]
    table = PrefixTable()

    def fill():
        for name in names:
            table.insert(name)

    filled = best(fill, 1)
    weights = np.cumsum(1 / np.arange(1, len(networks) + 1))
    ranks = np.searchsorted(weights / weights[-1], rng.random(packets))
    zipf = networks[ranks] + rng.integers(0, 256, packets, dtype="u4")
    anywhere = rng.integers(1 << 24, 224 << 24, packets).astype("u4")
    six = PrefixTable(f"2{number >> 16:03x}:{number & 0xffff:x}::/32" for number in range(min(prefixes, 200_000)))
    far = rng.integers(0, 256, (packets // 8, 16), "u1")
    number = rng.integers(0, len(six), len(far))
    far[:, 0], far[:, 1] = 0x20 | number >> 24, number >> 16 & 255
    far[:, 2], far[:, 3] = number >> 8 & 255, number & 255
    traffic = Traffic(prefixes=prefixes)
    into = np.empty(batch, "i4")

    def count(match, addresses):
        for at in range(0, len(addresses), batch):
            part = addresses[at:at + batch]
            traffic.count(match(part, into[:len(part)]))

    found = {"prefixes": len(table), "packets": packets, "fill": filled, "bytes": table.statistics()["bytes"]}
    for name, match, addresses in (("zipf", table.match4, zipf), ("anywhere", table.match4, anywhere),
                                   ("ipv6", six.match6, far)):
        found[name] = len(addresses) / best(lambda match=match, addresses=addresses: count(match, addresses)) / 1e6
    found["tick"] = best(traffic.tick)
    count(table.match4, zipf)
    traffic.tick()
    found["traffic_bytes"] = traffic.statistics()["bytes"]
    first = tfo(np.empty(0, "i4"), traffic.rates, 6000)
    found["round"] = best(lambda: tfo(first.installed, traffic.rates, 6000))
    found["rival"] = rival(names, zipf[:packets // 32], table)
    return found


def rival(names, addresses, table):
    """Look up as many as there is patience for in pytricia, a Patricia trie in C; None where it is not installed."""
    try:
        import pytricia
    except ImportError:
        print("skipped: pytricia is not installed", file=sys.stderr)
        return None
    trie = pytricia.PyTricia(32, socket.AF_INET)
    begun = time.process_time()
    for number, name in enumerate(names):
        trie.insert(name, number)
    filled = time.process_time() - begun
    asked = [text(address) for address in addresses]
    least = best(lambda: [trie.get(address) for address in asked], 3)
    if [trie.get(address, -1) for address in asked] != table.match4(addresses).tolist():
        raise SystemExit("error: pytricia and the prefix table disagree")
    return {"name": "pytricia", "mpps": len(asked) / least / 1e6, "fill": filled}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short and few; figures mean little")
    parser.add_argument("--results", type=Path, help="where to write the result")
    parser.add_argument("--draw", type=Path, metavar="RESULT.json", help="measure nothing: plots and tables of this result")
    arguments = parser.parse_args()
    if arguments.draw:
        result = json.loads(arguments.draw.read_text())
        page = ROOT / "docs" / "offload.md"
        page.write_text(offload_report.rewritten(page.read_text(), result))
        offload_report.plots(result, arguments.draw.with_suffix(""))
        return
    quick = arguments.quick
    seconds, entries = (1200, (200, 2000, 6000)) if quick else (DAYS * 3600, ENTRIES)
    result = {"date": datetime.date.today().isoformat(), "host": measure.host(), "seconds": seconds,
              "profiles": {name: profile._asdict() for name, profile in PROFILES.items()}, "traces": {}}
    for name, part in (("speed", lambda: speed(100_000 if quick else 1_000_000, 1_000_000 if quick else 16_000_000)),
                       ("factors", lambda: factors(300 if quick else 3600)),
                       ("scales", lambda: scales(300 if quick else 3600))):
        result[name] = part()
        print(f"{name}: done", file=sys.stderr, flush=True)
    for name in PROFILES:
        result["traces"][name] = figures(name, seconds, entries)
        print(f"{name}: done", file=sys.stderr, flush=True)
    directory = arguments.results or ROOT / ("build/benchmarks" if quick else "benchmarks/results")
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{result['date']}-offload.json"
    path.write_text(offload_report.dumped(result))
    print(f"written: {path}")
    if quick:
        return
    for line in offload_report.claims(result):
        print(f"{line.claim}: {line.ours} (source: {line.source}): {line.verdict}")
    try:
        offload_report.plots(result, path.with_suffix(""))
    except ImportError:
        print("skipped: the plots: matplotlib is not installed")


if __name__ == "__main__":
    main()
