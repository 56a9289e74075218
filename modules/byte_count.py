"""Count the bytes of each connection: the smallest useful reader (D3.2, figure 4.13).

    flowos run x.pcap --attach byte_count --emit bytes.csv

A record per connection when it ends: `connection`, `proto`, `a`, `b`, and of each direction the
bytes delivered and the bytes that the capture lacks (`a_to_b`, `a_to_b_missing`, `b_to_a`, …).
"""
from flowos import Module
from flowos.emit import ends

LOWER = ("frame", "ip")              # levels without gaps: what did not come is no unit there


class ByteCount(Module):
    """Count the bytes that a level delivers, per connection and direction.

    `protocol` is the level: at "transport" (any), "tcp" or "udp" stream bytes are counted, at "ip"
    and "frame" what stands behind the IP header.

    >>> from flowos import Engine
    >>> with Engine() as engine:
    ...     engine.add_port("examples/demo.pcap")
    ...     count = ByteCount("udp")
    ...     attachment = engine.attach(count)
    ...     engine.run()
    >>> count.total
    42113
    """

    name, protocol = "byte_count", "transport"

    def __init__(self, protocol: str = "transport"):
        self.protocol = protocol
        self.total = 0                     # bytes of all connections that have ended
        self.counts = {}                   # connection -> [a to b, b to a], of those that live

    def process(self, window):
        number, length = window.connection.id, window.length
        if length:
            self.counts.setdefault(number, [0, 0])[window.direction] += length

    def closed(self, connection, reason):
        counts = self.counts.pop(connection.id, None)
        if counts is None:
            return
        missing = [0, 0]
        if self.protocol not in LOWER:
            missing = [sum(length for _, length in connection.gaps(way)) for way in (0, 1)]
        bytes_a, bytes_b = (count - gap for count, gap in zip(counts, missing, strict=True))
        self.total += bytes_a + bytes_b
        self.emit({"ts": connection.last_ns, **ends(connection), "a_to_b": bytes_a, "a_to_b_missing": missing[0],
                   "b_to_a": bytes_b, "b_to_a_missing": missing[1]})
