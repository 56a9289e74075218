"""The base of decoders written in Python: bytes of one connection in, units out.

The core makes one instance per connection when `probe` accepts its first bytes, and drops it when
the connection ends.  A decoder bounds what it keeps, and never raises on what the wire says: it
counts it in `counters`.  (Compiled decoders subclass flowos.core.decoder.Decoder instead.)
"""
from dataclasses import dataclass


@dataclass(slots=True)
class Unit:
    """One unit that a decoder made: it covers [start, end) of the stream below.

    `kind` is the decoder's word; `info` what `DataUnit.info` shows; `data` the unit's bytes, or
    None; `ts` (nanoseconds) and `packet` (its number) are set by the core.
    """

    start: int
    end: int
    kind: str
    info: object = None
    data: bytes | None = None
    ts: int = 0
    packet: int = 0


class Decoder:
    """The base of Python decoders: set `name` and `over`, override `probe` and `feed`.

    Over "tcp" a decoder is fed pieces cut anywhere, in order; over "udp" one datagram per call.
    `direction` is 0 from a to b, 1 from b to a; `offset` counts the direction's bytes.
    """

    name = ""
    over = ()

    def __init__(self):
        self.counters = {}

    @staticmethod
    def probe(data, direction, port):
        """Say whether the first bytes of a stream (a memoryview) are this protocol's; None asks for more."""
        return False

    def feed(self, direction, data, offset, ts):
        """Take bytes, give the list of Units that they complete."""
        return []

    def gap(self, direction, offset, length, ts):
        """Take note of bytes that will never come; give a list of Units."""
        return []

    def finish(self, direction, offset, ts):
        """Take note that the direction ends; give a list of Units for what is left."""
        return []

    def count(self, reason):
        """Count something odd under its name."""
        self.counters[reason] = self.counters.get(reason, 0) + 1
