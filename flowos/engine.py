"""The engine: ports, flows and modules put together."""
from collections import namedtuple

from flowos.config import Config
from flowos.core.engine import BaseEngine
from flowos.core.errors import UsageError
from flowos.core.ports import merge_ports, open_port
from flowos.registry import decoders, get_decoder

_LEVELS = frozenset(("frame", "ip", "transport", "tcp", "udp", "sctp", "icmp"))

Capture = namedtuple("Capture", "packets bytes truncated linktypes first_ns last_ns")
Capture.__doc__ = """What the input was so far: packets, bytes on the wire, packets cut short, link types in the
order seen, times of the first and the last packet in ns since the epoch (None before one came)."""


class Flow:
    """A named match and the modules attached to it (D3.2 section 4.3.2.5).  Made by `Engine.create_flow`."""

    def __init__(self, engine, name, match, priority, number):
        self.engine = engine
        self.name = name
        self.match = match
        self.priority = priority
        self.number = number

    def __repr__(self):
        return f"<Flow {self.name} priority={self.priority} {self.match}>"


class Engine(BaseEngine):
    """Turn packets into flows and hand their data to modules.

    >>> from flowos import Engine, Module
    >>> class Bytes(Module):
    ...     protocol, total = "tcp", 0
    ...     def process(self, window):
    ...         self.total += window.length
    >>> engine = Engine()
    >>> engine.add_port("examples/demo.pcap")
    >>> count = Bytes()
    >>> attachment = engine.attach(count)
    >>> engine.run()
    >>> count.total > 0
    True

    One engine has no globals and belongs to one thread at a time.  UsageError where a rule of
    the library is broken, CaptureError where an input is no capture.
    """

    def __init__(self, config=None):
        super().__init__()
        self._flows = {}
        self._inputs = []
        self._modules = []
        self._classifier = None

    def __new__(cls, config=None):
        return super().__new__(cls, config or Config())

    # ---- ports ----------------------------------------------------------------------------

    def add_port(self, spec):
        """Add an input: a path, "-" for standard input, or a `Port`; several are merged by time."""
        if self.packets:
            raise UsageError("ports are added before the first packet is taken")
        port = open_port(spec)
        self._inputs.append(port)
        self._set_port(port if len(self._inputs) == 1 else merge_ports(self._inputs))

    # ---- flows ----------------------------------------------------------------------------

    def create_flow(self, name, match="any", priority=0):
        """Create a flow: connections whose first packet matches belong to it (D3.2, CreateFlow).

        `match` is an OpenFlow match as ovs-ofctl writes it, such as "tcp,tp_dst=80".  The highest
        priority wins, then the oldest.  UsageError: the name is taken, or the match is wrong.
        """
        from flowos.core.match import Match

        if name in self._flows:
            raise UsageError(f"flow {name!r} exists already")
        parsed = match if isinstance(match, Match) else Match.parse(match)
        flow = Flow(self, name, parsed, priority, self._add_flow(name))
        self._flows[name] = flow
        self._match_flow(flow.match, priority, flow.number)
        return flow

    def delete_flow(self, flow):
        """Delete a flow, detaching its modules; its connections are decided anew (D3.2, DeleteFlow)."""
        flow = self.find_flow(flow) if isinstance(flow, str) else flow
        if flow is None or self._flows.get(flow.name) is not flow:
            raise UsageError(f"there is no flow {flow!r}")
        for attachment in [a for a in self._modules if a.flow == flow.number]:
            self.detach(attachment)
        del self._flows[flow.name]
        self._unmatch_flow(flow.number)
        self._name_flow(flow.number, None)

    def find_flow(self, name):
        """Give the flow of this name, or None (D3.2, FindFlowByName)."""
        return self._flows.get(name)

    def explain(self, frame, in_port=1):
        """Say which flow an Ethernet frame's connection would belong to, and why: text for people.

        Every table of the classifier is shown with what it compared, and why the other flows lost.
        UsageError: there are no flows.
        """
        if self._flow_table is None:
            raise UsageError("explain: there are no flows; create_flow makes one")
        names = {flow.number: flow.name for flow in self._flows.values()}
        return str(self._flow_table.classifier.explain(bytes(frame), in_port, names))

    @property
    def flows(self):
        """List the flows, oldest first."""
        return list(self._flows.values())

    # ---- modules --------------------------------------------------------------------------

    def attach(self, module, flow=None, order=None):
        """Attach a module to a flow by name or object; None: to all traffic (D3.2, AttachModule).

        Without `order` it goes last.  Returns the attachment, which `detach` takes.
        """
        if flow is not None:
            found = self.find_flow(flow) if isinstance(flow, str) else flow
            if found is None or self._flows.get(found.name) is not found:
                names = ", ".join(self._flows) or "none"
                raise UsageError(f"there is no flow {flow!r}; the flows are: {names}")
            flow = found
        if module.protocol not in _LEVELS or self.config.detect:
            self._load_decoders(module.protocol)
        if order is None:
            order = 1 + max((a.order for a in self._modules), default=0)
        attachment = self._attach(module, None if flow is None else flow.number, order)
        self._modules.append(attachment)
        module.start(flow)
        return attachment

    def detach(self, attachment):
        """Take a module off its flow: what it was lent is done with (D3.2, DetachModule)."""
        if attachment not in self._modules:
            raise UsageError(f"{attachment!r} is not attached to this engine")
        self._detach(attachment)
        self._modules.remove(attachment)
        attachment.module.stop()

    def _load_decoders(self, protocol):
        if self.config.detect:
            self._set_decoders(decoders())
        elif protocol not in self.decoder_names:
            decoder = get_decoder(protocol)
            if decoder is not None:
                self._set_decoders({**self._decoders, protocol: decoder})

    # ---- running --------------------------------------------------------------------------

    def run(self):
        """Run until every port has ended and all data was delivered; Ctrl-C leaves what was done."""
        if self.config.detect:
            self._load_decoders(None)
        while self.step():
            pass

    def close(self):
        """End every connection, deliver what is left, and tell the modules to stop."""
        if self.packets:
            self.finish()
        while self._modules:
            self.detach(self._modules[0])

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    @property
    def capture(self):
        """Give what the input was so far: a `Capture`."""
        return Capture(*self._capture)

    @property
    def on_datagram(self):
        """Set to a callable to be told each reassembled datagram: (version, src, dst, id, payload)."""
        return self._datagram_callback

    @on_datagram.setter
    def on_datagram(self, callback):
        self._datagram_callback = callback
        self._tell_datagrams(None if callback is None else _datagram_teller(callback))


def _datagram_teller(callback):
    import socket

    def tell(packet, ident):
        if packet[0] >> 4 == 4:
            header = (packet[0] & 15) * 4
            src, dst = (socket.inet_ntop(socket.AF_INET, packet[i:i + 4]) for i in (12, 16))
            callback(4, src, dst, int.from_bytes(packet[4:6], "big"), packet[header:])
        else:
            src, dst = (socket.inet_ntop(socket.AF_INET6, packet[i:i + 16]) for i in (8, 24))
            callback(6, src, dst, ident, packet[_ip6_payload(packet):])
    return tell


def _ip6_payload(packet):
    """Where the part of an IPv6 datagram that was fragmented begins: behind the per-fragment headers."""
    at, kind = 40, packet[6]
    while kind in (0, 43):
        kind, at = packet[at], at + 8 + 8 * packet[at + 1]
    return at
