"""Say what is in a capture: flows, connections, streams with their digests, and messages.

Reads capture files (pcap, pcapng, also compressed; `-` is standard input; several merge by
time) and prints tables, or with --json one object whose shape is stable, or with --jsonl a
line per record as it is found.  Long inputs need no memory: sections wait on disk (TMPDIR).
"""
import os
import signal
import sys
import threading

from . import INTERRUPTED, OK, UsageFault

POLICIES = ("first", "last", "linux", "bsd", "windows")
PROTOCOLS = ("tcp", "udp", "sctp", "icmp", "icmpv6", "http", "dns", "tls")
PARTS = "flowos.cli.inspect_"      # names of the modules that make the report begin so
TUNNELS = ("ipip", "6in4", "teredo", "gre", "vxlan", "geneve", "gtpu")


def configure(parser):
    """Add the command's arguments."""
    parser.add_argument("inputs", nargs="+", metavar="IN", help="capture file, or - for standard input")
    parser.add_argument("--flow", action="append", default=[], metavar="NAME=MATCH",
                        help="name a flow: connections that match carry its name (may be repeated)")
    parser.add_argument("--protocol", choices=PROTOCOLS, metavar="P",
                        help="list only this protocol: " + ", ".join(PROTOCOLS))
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print one JSON object")
    shape.add_argument("--jsonl", action="store_true", help="print a JSON line per record as it is found")
    parser.add_argument("--limit", type=natural, default=25, metavar="N",
                        help="rows per table (25; 0: all)")
    parser.add_argument("--write-streams", metavar="DIR", help="write each stream to a file in DIR")
    parser.add_argument("--policy", choices=POLICIES, default="first",
                        help="whose bytes stand where TCP segments overlap (first)")
    parser.add_argument("--ip-policy", choices=POLICIES, default="first",
                        help="whose bytes stand where IPv4 fragments overlap (first)")
    parser.add_argument("--max-connections", type=natural, metavar="N",
                        help="connections tracked at a time; beyond, the least promising is given up")
    tunnels = parser.add_mutually_exclusive_group()
    tunnels.add_argument("--tunnel", action="append", choices=TUNNELS, metavar="NAME",
                         help="follow only these tunnels: " + ", ".join(TUNNELS))
    tunnels.add_argument("--no-tunnels", action="store_true", help="follow no tunnel")


def natural(text):
    """Read a number that is not negative (an argparse type)."""
    value = int(text)
    if value < 0:
        raise ValueError(text)
    return value


def flow_of(text):
    """Split NAME=MATCH.

    >>> flow_of("web=tcp,tp_dst=80")
    ('web', 'tcp,tp_dst=80')
    """
    name, sign, match = text.partition("=")
    if not sign or not name or "," in name:
        raise UsageFault(f"inspect: --flow {text}: expected NAME=MATCH, as in web=tcp,tp_dst=80")
    return name, match


def settings(arguments):
    """Give the engine's Config for these arguments."""
    from flowos import Config

    chosen = {"tcp_policy": arguments.policy, "ip_policy": arguments.ip_policy}
    if arguments.max_connections is not None:
        chosen["max_connections"] = arguments.max_connections
    if arguments.no_tunnels:
        chosen["tunnels"] = ()
    elif arguments.tunnel:
        chosen["tunnels"] = tuple(arguments.tunnel)
    return Config.offline(**chosen)


class Inspection:
    """One run over captures: the engine, the modules that fill the report, the report.

    `files` (a StreamFiles) also writes the streams.  After `run` the report is finished;
    `interrupted` says that it covers only what came before Ctrl-C.
    """

    def __init__(self, inputs, report, config=None, flows=(), files=None):
        from flowos import Config, Engine, get_decoder
        from .inspect_messages import Names, Requests
        from .inspect_streams import Streams

        self.report, self.files, self.interrupted = report, files, False
        self.engine = Engine(config=config or Config.offline())
        self.http = Requests(report)
        for name, match in flows:
            self.engine.create_flow(name, match)
        self.streams = Streams(report, files)
        self.engine.attach(self.streams)
        for module in (self.http, Names(report, "dns"), Names(report, "tls")):
            if get_decoder(module.protocol) is not None:       # a decoder may be left out: its section is empty
                self.engine.attach(module)
        for path in inputs:
            self.engine.add_port(path)

    def run(self, progress=None):
        """Read the inputs to their end, or to Ctrl-C; then finish the report.

        An input that turns out damaged ends the run: the report covers what came before, and
        the error is raised when it has been written.
        """
        fault = None
        with Interruptible() as interrupt:
            try:
                while not interrupt.asked and self.engine.step():
                    self.report.settle()
                    if progress is not None:
                        progress(self.engine.capture.bytes)
            except KeyboardInterrupt:
                pass
            except OSError as error:
                fault = error
            self.interrupted = interrupt.asked
        self.finish()
        if fault is not None:
            raise fault

    def finish(self):
        """End what is open and write the report."""
        engine = self.engine
        engine.close()
        self.report.settle()
        capture = engine.capture
        self.report.finish(
            {"packets": capture.packets, "bytes": capture.bytes, "truncated": capture.truncated,
             "linktypes": list(capture.linktypes), "first_ns": capture.first_ns, "last_ns": capture.last_ns},
            dict(engine.ip_reassembly), {**engine.statistics(), **self.http.statistics(), **self.streams.statistics()})

    def close(self):
        """Close the files, and drop what the report kept."""
        if self.files is not None:
            self.files.close()
        self.report.close()


class Interruptible:
    """While it is entered, Ctrl-C asks for an end (`asked`).

    A report's part that is interrupted half-way would leave half a record: then the run ends
    after the batch.  When the engine runs or waits for input, and at the second Ctrl-C,
    KeyboardInterrupt is raised at once.
    """

    def __init__(self):
        self.asked, self.before = False, None

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGINT, self.ask)
        return self

    def ask(self, number, frame):
        """Handle the signal, which came while `frame` was running."""
        again, self.asked = self.asked, True
        while frame is not None and not again:
            if frame.f_globals.get("__name__", "").startswith(PARTS):
                return
            frame = frame.f_back
        raise KeyboardInterrupt

    def __exit__(self, *failure):
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)


def reporter(arguments):
    """Make the report that the arguments ask for."""
    from .inspect_report import JsonlReport, JsonReport, Selection

    selection = Selection(arguments.protocol)
    if arguments.json:
        return JsonReport(sys.stdout, selection)
    if arguments.jsonl:
        return JsonlReport(sys.stdout, selection)
    from .inspect_tables import TableReport

    return TableReport(sys.stdout, selection, arguments.limit)


def run(arguments):
    """Run `flowos inspect`; the result is the exit code."""
    flows = [flow_of(text) for text in arguments.flow]
    for path in arguments.inputs:
        if path != "-":
            os.stat(path)              # a wrong name is said before anything is written
    files = None
    if arguments.write_streams is not None:
        from .inspect_streams import StreamFiles

        files = StreamFiles(arguments.write_streams)
    report = reporter(arguments)
    inspection = Inspection(arguments.inputs, report, settings(arguments), flows, files)
    bar = None
    if not arguments.jsonl and sys.stderr.isatty():
        from .inspect_tables import progress

        bar = progress(arguments.inputs)
    try:
        if bar is None:
            inspection.run()
        else:
            with bar:
                inspection.run(lambda done: bar.update(bar.task_ids[0], completed=done))
    finally:
        inspection.close()
    return INTERRUPTED if inspection.interrupted else OK
