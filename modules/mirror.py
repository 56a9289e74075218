"""Mirror the packets of a flow to another port, where an analyser listens; the flow goes its way.

    flowos run x.pcap --flow web=tcp,tp_dst=80 --attach mirror:to=pipe:analyser@web

A mirror never makes the flow wait: what its port does not take is dropped and counted (`dropped`).
What reaches it is what reaches any module at level "frame": see pcap_dump.
"""
from flowos import Module, UsageError
from flowos.core.ports import open_port

ETHERNET = 1               # LINKTYPE_ETHERNET


class Mirror(Module):
    """Send a copy of each packet of a flow to the port `to`: a spec as `Engine.add_port` takes, or a Port.

    `link` is the LINKTYPE_* of packets whose port does not say.  UsageError: the port cannot send.

    >>> from flowos import Engine
    >>> from flowos.core.pipe import pipe
    >>> analyser, mirrored = pipe("mirrored")
    >>> with Engine() as engine:
    ...     engine.add_port("examples/demo.pcap")
    ...     flow = engine.create_flow("pings", "icmp")
    ...     attachment = engine.attach(Mirror(mirrored), "pings")
    ...     engine.run()
    >>> len(analyser.receive())
    7
    """

    name = "mirror"
    protocol = "frame"

    def __init__(self, to: str, link: int = ETHERNET):
        self.to, self.link = to, link
        self.port = None
        self.sent = self.dropped = 0

    def start(self, flow):
        self.port = open_port(self.to)
        if not hasattr(self.port, "send"):
            name = self.port.name
            self.port.close()
            raise UsageError(f"mirror: {name} only receives; expected a port that sends, as pipe:NAME")

    def process(self, window):
        for unit in window.units:
            frame = bytes(unit.header) + bytes(unit.data)
            if self.port.send(frame, unit.ts, getattr(unit, "link", self.link), unit.wire):
                self.sent += 1
            else:
                self.dropped += 1
        self.port.tx_sync()

    def stop(self):
        if self.port is not None:
            self.port.close()
