"""The daemon's counters for Prometheus, over HTTP, for `flowos up --metrics`.

    scrape ─► thread of the HTTP server ─► mailbox ─► command `top`, on the engine's thread, between two steps

Names follow Prometheus's conventions: a prefix, base units (bytes, seconds), `_total` on what only grows, labels for what
there are several of.  Nothing is kept between scrapes; what a counter means is told by its HELP line, which is
the engine's or the port's own description.
"""
import io
import socket
import threading
import time
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from flowos._version import __version__
from flowos.core.counters import DESCRIPTIONS
from flowos.core.errors import FlowOSError
from flowos.daemon.server import Timed

try:
    from prometheus_client import CollectorRegistry, make_wsgi_app
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
except ModuleNotFoundError as error:
    raise FlowOSError(f"up --metrics: {error.name} is not installed; `pip install 'flowos[metrics]'` brings it") from None

PATIENCE = 5.0                                # seconds
#: Of the engine's counters, what goes up and down.
GAUGES = {"connections_live"}
#: Per attached module: counter of the command `top` -> (name, what it counts, its unit's share in the base unit).
STAGE = {
    "windows": ("windows", "windows that a module was given", 1),
    "units": ("units", "data units in these windows", 1),
    "bytes": ("bytes", "bytes in these windows", 1),
    "edits": ("edits", "edits that a module committed", 1),
    "bytes_removed": ("removed_bytes", "bytes that its edits took away", 1),
    "bytes_inserted": ("inserted_bytes", "bytes that its edits put in", 1),
    "held_released": ("hold_limits", "windows released unchanged because a module held them too long, or too much", 1),
    "errors": ("errors", "exceptions that a module raised", 1),
    "ns": ("processing_seconds", "time spent in a module", 1e-9),
}


class Collector:
    """Makes metrics of what a daemon tells at the moment it is asked."""

    def __init__(self, daemon):
        self.daemon = daemon

    def collect(self):
        """Give the metric families.  FlowOSError: the daemon is going down."""
        told, meanings = self.daemon.mailbox.call(self.ask)
        return list(families(told, meanings))

    def ask(self):
        """Ask, on the engine's thread; also for what each port's counters mean."""
        told = self.daemon.commands.find("top")(self.daemon).run_command({})
        told["began"] = self.daemon.began
        return told, {name: port.descriptions for name, port in self.daemon.ports.items()}

    def describe(self):
        """Say nothing beforehand: the engine need not be asked to be registered."""
        return []


def families(told, meanings):
    """Yield metric families of what the command `top` told; `meanings`: {port: {counter: text}}."""
    yield InfoMetricFamily("flowos", "the daemon's version", {"version": __version__})
    yield GaugeMetricFamily("flowos_start_time_seconds", "when the daemon was started, since the epoch", told["began"])
    for name, meaning in whole(DESCRIPTIONS).items():
        family = GaugeMetricFamily if name in GAUGES else CounterMetricFamily
        yield family(f"flowos_{name}", meaning, told["counters"][name])
    yield from port_families(told["ports"], meanings)
    yield from stage_families(told["flows"])


def whole(descriptions):
    """Give descriptions that stand alone: one that goes on from the one before it, "... as they came", begins with that.

    >>> whole({"packets": "packets that left", "unchanged": "... as they came"})
    {'packets': 'packets that left', 'unchanged': 'packets that left as they came'}
    """
    made, before = {}, ""
    for name, text in descriptions.items():
        before = before if text.startswith("...") else text
        made[name] = f"{before}{text[3:]}" if text.startswith("...") else text
    return made


def port_families(ports, meanings):
    """Yield a family per counter that some port has."""
    found = {}
    for port, counters in ports.items():
        for name, meaning in whole(meanings[port]).items():
            if name not in found:
                found[name] = CounterMetricFamily(f"flowos_port_{name}", meaning, labels=("port", "spec"))
            found[name].add_metric((port, counters["spec"]), counters[name])
    yield from found.values()


def stage_families(flows):
    """Yield a family per counter of attached modules, and what they hold."""
    labels = ("flow", "module")
    stages = [((flow["name"], stage["module"]), stage) for flow in flows for stage in flow["pipeline"]]
    for counter, (name, meaning, share) in STAGE.items():
        family = CounterMetricFamily(f"flowos_module_{name}", meaning, labels=labels)
        for label, stage in stages:
            family.add_metric(label, stage[counter] * share)
        yield family
    held = GaugeMetricFamily("flowos_module_held_bytes", "bytes that a module was lent and has not released", labels=labels)
    attached = GaugeMetricFamily("flowos_module_attached", "1 while a module works, 0 once it was taken off because it took too long",
                                 labels=labels)
    for label, stage in stages:
        held.add_metric(label, stage["tail"] - stage["head"])
        attached.add_metric(label, int(stage["attached"]))
    yield from (held, attached)


class Handler(WSGIRequestHandler):
    """One scrape; a slow one is cut off, and nothing is written to the log."""

    def setup(self):
        """Begin: the clock runs."""
        self.timeout = self.server.patience
        super().setup()
        self.rfile = io.BufferedReader(Timed(self.connection, time.monotonic() + self.server.patience))

    def log_message(self, *_):
        """Say nothing."""


class Server(WSGIServer):
    """One scrape at a time, on an address; each has `patience` seconds to say what it wants."""

    patience = PATIENCE

    def __init__(self, address):
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, Handler)

    def server_bind(self):
        """Bind, without asking a name server what the machine is called."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.server_address[:2]
        self.setup_environ()

    def handle_error(self, request, address):
        """A scraper that hung up is nobody's fault."""


def answering(app):
    """Wrap a WSGI application: a daemon that is going down says so."""
    def answer(environ, start):
        try:
            return app(environ, start)
        except FlowOSError as error:
            start("503 Service Unavailable", [("Content-Type", "text/plain; charset=utf-8")])
            return [f"{error}\n".encode()]
    return answer


def expose(daemon, address):
    """Answer scrapes of `daemon` at (host, port) from now on; give a function that ends it.  FlowOSError: the address cannot be had."""
    registry = CollectorRegistry()
    registry.register(Collector(daemon))
    try:
        server = Server(address)
    except OSError as error:
        raise FlowOSError(f"--metrics {address[0]}:{address[1]}: {error.strerror or error}") from error
    server.set_app(answering(make_wsgi_app(registry, disable_compression=True)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="metrics", daemon=True)
    thread.start()

    def stop():
        server.shutdown()
        server.server_close()
        thread.join(PATIENCE)
    return stop
