"""Run modules over captures: read flows, edit them, and write what becomes of the packets.

    flowos run x.pcap --attach http_log --emit -
    flowos run x.pcap -w y.pcap --flow web=tcp,tp_dst=80 --attach http_strip:pattern=SECRET@web

Modules are named as `flowos modules` lists them, as path.py:Class, or by entry point. Without
@FLOW a module sees all traffic; without #ORDER modules come in the order given. With -w the run is
in line: every packet that came leaves, edited where a module edits, in a valid capture.
"""
import os
import re
import sys
import threading

from . import FAILED, INTERRUPTED, OK, UsageFault


LIVE = re.compile(r"(packet|xdp|tap|host|pipe):.")


def configure(parser):
    """Add the command's arguments."""
    parser.add_argument("inputs", nargs="+", metavar="IN", help="capture file, or - for standard input; several merge by time")
    parser.add_argument("-w", "--write", metavar="OUT", help="write the packets that leave: .pcap, or pcapng by any other name and for -")
    parser.add_argument("--flow", action="append", default=[], metavar="NAME=MATCH",
                        help="make a flow of the connections that match (may be repeated; the first that matches has them)")
    parser.add_argument("--attach", action="append", default=[], metavar="MODULE[:k=v,…][@FLOW][#ORDER]",
                        help="attach a module (may be repeated)")
    parser.add_argument("--emit", action="append", default=[], metavar="FILE",
                        help="write the modules' records: .jsonl, .json, .csv, .parquet, .arrow, or - (may be repeated)")
    parser.add_argument("--threads", choices=("inline", "own"), default="inline",
                        help="run modules in the engine's loop, or each on a thread of its own (inline)")
    parser.add_argument("--fail", choices=("open", "close"), help="what becomes of a connection whose module raises: "
                        "it goes on unedited, or is closed (as the module says)")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    parser.add_argument("--quiet", action="store_true", help="print no summary")


def flow_of(text):
    """Split NAME=MATCH.

    >>> flow_of("web=tcp,tp_dst=80")
    ('web', 'tcp,tp_dst=80')
    """
    name, sign, match = text.partition("=")
    if not sign or not name or "," in name:
        raise UsageFault(f"run: --flow {text}: expected NAME=MATCH, as in web=tcp,tp_dst=80")
    return name, match


class Emitter:
    """Hands each record to all sinks, under the name of the module that emitted it, and counts."""

    def __init__(self, sinks):
        self.sinks, self.counts = sinks, {}
        self.turn = threading.Lock()       # modules may have threads of their own
        self.fault = None                  # what a sink raised: no fault of the module's, and the run's end

    def of(self, module):
        """Make the `emit` of one attached module."""
        name = module.name or type(module).__name__
        self.counts[id(module)] = 0

        def emit(record):
            with self.turn:
                self.counts[id(module)] += 1
                if not isinstance(record, dict):
                    raise TypeError(f"emit: {record!r}, expected a dict")
                try:
                    for sink in self.sinks if self.fault is None else ():
                        sink.write({"module": name, **record})
                except OSError as error:
                    self.fault = error
        return emit

    def close(self):
        """Close every sink, whatever one of them raises; the first error is raised in the end."""
        errors = []
        for sink in self.sinks:
            try:
                sink.close()
            except Exception as error:
                errors.append(error)
        if errors:
            raise errors[0]


class Session:
    """One run: the engine, its attachments, the sinks of their records."""

    def __init__(self, arguments):
        from flowos import Config, Engine
        from flowos.emit import open_sink
        from flowos.registry import nearest

        from .run_attach import wanted

        asked = [wanted(text) for text in arguments.attach]
        flows = [flow_of(text) for text in arguments.flow]
        names = [name for name, _ in flows]
        for want in asked:
            if want.flow is not None and want.flow not in names:
                raise UsageFault(f"run: --attach {want.spec}@{want.flow}: there is no flow {want.flow!r}; "
                                 f"{nearest(want.flow, names)}")
        modules = [want.make() for want in asked]
        self.inputs, self.interrupted, self.fault = arguments.inputs, False, None
        self.output = arguments.write
        self.engine = Engine(Config.offline(isolate=True, measure=True))
        self.attached = []                 # (attachment, what was asked for), companions before their modules
        self.emitter = Emitter([])
        try:
            for spec in arguments.inputs:
                self.engine.add_port(spec)
            if self.output is not None:
                self.engine.add_output(self.output)
            for name, match in flows:
                self.engine.create_flow(name, match)
            self.emitter.sinks = [open_sink(spec) for spec in arguments.emit]
            for want, module in zip(asked, modules, strict=True):
                self.attach(want, module, arguments)
        except BaseException:
            self.close()
            raise

    def attach(self, want, module, arguments):
        """Attach one module as asked, behind its companions if it has any."""
        order = want.order
        for module in [*getattr(module, "companions", list)(), module]:
            module.emit = self.emitter.of(module)
            if arguments.fail is not None:
                module.fail = arguments.fail
            self.attached.append((self.engine.attach(module, want.flow, order, arguments.threads), want))
            order = None if order is None else order + 1

    def run(self, progress=None):
        """Run to the end of the inputs, or to Ctrl-C.

        An input that turns out damaged ends the run: what came before counts, and `fault` keeps the error.
        """
        try:
            while self.engine.step() and self.emitter.fault is None:
                if progress is not None:
                    progress(self.engine.capture.bytes)
        except KeyboardInterrupt:
            self.interrupted = True
        except OSError as error:
            self.fault = error

    def close(self):
        """End all connections, close outputs and sinks."""
        try:
            self.engine.close()
        finally:
            self.emitter.close()
        if self.emitter.fault is not None:
            raise self.emitter.fault


def check(arguments):
    """UsageFault where arguments contradict each other; OSError where an input is missing."""
    taken = [name for name, used in (("-w -", arguments.write == "-"), ("--emit -", "-" in arguments.emit),
                                     ("--json", arguments.json)) if used]
    if len(taken) > 1:
        raise UsageFault(f"run: {' and '.join(taken)} all want standard output; give one of them a file")
    for path in arguments.inputs:
        if path != "-":
            if (live := LIVE.match(path)) and not os.path.exists(path):
                raise UsageFault(f"run: {path} is a live port, and `flowos run` reads captures: `flowos up` stands between "
                                 f"two ports, Engine.add_port({path!r}) reads one" if live[1] != "pipe" else
                                 f"run: {path} ends in this process, where nothing fills it: use Engine.add_port({path!r})")
            os.stat(path)                  # a wrong name is said before anything is written
            if arguments.write not in (None, "-") and os.path.exists(arguments.write) \
                    and os.path.samefile(path, arguments.write):
                raise UsageFault(f"run: {path} is both read and written")


def run(arguments):
    """Run `flowos run`; the result is the exit code."""
    check(arguments)
    session = Session(arguments)
    try:
        with_progress(session)
    finally:
        session.close()
    from .run_report import print_errors, print_json, print_tables, summary

    told = summary(session)
    if arguments.json:
        print_json(told)
    elif not arguments.quiet:
        out = sys.stderr if arguments.write == "-" or "-" in arguments.emit else sys.stdout
        print_tables(told, out)
    failed = print_errors(session)
    if session.fault is not None:
        raise session.fault
    return INTERRUPTED if session.interrupted else FAILED if failed else OK


def with_progress(session):
    """Run a session, with a progress bar on stderr where somebody looks at one."""
    bar = None
    if sys.stderr.isatty():
        from .inspect_tables import progress

        bar = progress(session.inputs)
    if bar is None:
        session.run()
    else:
        with bar:
            session.run(lambda done: bar.update(bar.task_ids[0], completed=done))
