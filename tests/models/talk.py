"""Write a TCP conversation down by stream offsets, as packets of the model.

`a` and `b` append one packet each: `at` is an offset in the sender's stream, `ack` one in the other's;
a SYN stands at -1 by itself. `open` is the three-way handshake. A number for `data` means so many bytes
that the snaplen cut off, a pair (bytes, number) that only the last were cut.
"""

from .build import START_NS
from .tcp import ACK, FIN, POLICIES, PSH, RST, SYN, Config, Packet

FLAGS = {"S": SYN, "F": FIN, "R": RST, "A": ACK, "P": PSH}


class Talk:
    """The packets of one conversation so far, and what is needed to write the next one."""

    def __init__(self, isn_a=1000, isn_b=70000):
        self.isns = (isn_a, isn_b)
        self.now = START_NS
        self.packets = []

    def open(self):
        return self.a(flags="S").b(flags="SA", ack=0).a(ack=0)

    def a(self, at=None, data=b"", *, ack=None, flags="", after=0.001, isn=None):
        return self.packet(0, at, data, ack, flags, after, isn)

    def b(self, at=None, data=b"", *, ack=None, flags="", after=0.001, isn=None):
        return self.packet(1, at, data, ack, flags, after, isn)

    def packet(self, side, at, data, ack, flags, after, isn):
        bits = sum(FLAGS[flag] for flag in flags) | (ACK if ack is not None else 0)
        if at is None:
            at = -1 if bits & SYN else self.end(side)
        payload, missing = data if isinstance(data, tuple) else (data, 0) if isinstance(data, bytes) else (b"", data)
        self.now += round(after * 1e9)
        here = self.isns[side] if isn is None else isn
        self.packets.append(Packet(
            side, self.now, (here + 1 + at) & 0xFFFFFFFF,
            (self.isns[1 - side] + 1 + ack) & 0xFFFFFFFF if ack is not None else 0,
            bits, len(payload) + missing, payload))
        return self

    def end(self, side):
        """Give the offset just after what this side has sent so far."""
        return max([0] + [((packet.seq - self.isns[side] - 1) & 0xFFFFFFFF) + packet.length
                          for packet in self.packets if packet.direction == side and not packet.flags & SYN])


class Vectors(dict):
    """Named vectors: a function that gives (talk, items of a, items of b, counters), and a configuration."""

    def add(self, *policies, **config):
        """Register a function for some policies, or for all."""
        def register(function):
            for policy in policies or POLICIES:
                name = f"{function.__name__}-{policy}"
                assert name not in self, f"two vectors are called {name}"
                self[name] = function, Config(policy=policy, **config)
            return function
        return register


def whole(data, fin=False):
    """Give the items of a stream without gaps."""
    items = [("data", 0, data)] if data else []
    return items + [("fin", len(data))] if fin else items
