"""Read captures for `flowos balance`: the load by key, and the connections that are open at the end."""
from typing import NamedTuple

from flowos import Config, Engine, Module
from flowos.services.balancing_rivals import Traffic


class Open(NamedTuple):
    """A connection that was open when the capture ended."""

    proto: str
    a: tuple
    b: tuple


class LoadCounter(Module):
    """Count the datagrams of all connections into loads, by the end that is balanced on.

    The opener of a connection stands at the platform's first port, so its address is the source.
    `every` samples one datagram in so many; `weigh` is "bytes" (of frames) or "packets".  With `keep`
    what each connection carried is kept as well, for those who hash connections.
    """

    protocol = "ip"
    scope = "flow"

    def __init__(self, loads, every=1, weigh="bytes", keep=False):
        import numpy

        self.numpy, self.loads, self.every, self.weigh = numpy, loads, every, weigh
        widths = [tree.width for tree in loads.space.trees]
        # By connection slot: the number of its tree, and its key in a row wide enough for every tree.
        self.trees = numpy.zeros(1024, "u1")
        self.keys = numpy.zeros((1024, max(widths)), "u1")
        self.open = []
        self.traffic = [] if keep else None

    def opened(self, connection):
        """Note the key of a connection under its slot, which is its own until it closed."""
        numpy, slot = self.numpy, connection.slot
        while slot >= len(self.trees):
            self.trees = numpy.concatenate([self.trees, numpy.zeros_like(self.trees)])
            self.keys = numpy.concatenate([self.keys, numpy.zeros_like(self.keys)])
        end = connection.a if self.loads.space.end == "src" else connection.b
        tree, key = self.loads.space.key(end.addr, end.port, connection.proto)
        self.trees[slot] = tree
        self.keys[slot, :len(key)] = numpy.frombuffer(key, "u1")

    def process(self, window):
        """Count the datagrams of one delivery."""
        numpy, rows = self.numpy, window.array()
        slots = rows["connection"]
        weights = rows["wire"].astype("f8") if self.weigh == "bytes" else numpy.ones(len(rows))
        trees = self.trees[slots]
        for number, tree in enumerate(self.loads.trees):
            mine = trees == number
            if mine.any():
                self.loads.count(number, self.keys[slots[mine], :tree.width], weights[mine], self.every)

    def closed(self, connection, reason):
        """Keep what was open to the last."""
        if reason == "end":
            self.open.append(Open(connection.proto, tuple(connection.a), tuple(connection.b)))
        if self.traffic is not None:
            load = sum(getattr(way, self.weigh) for way in (connection.a_to_b, connection.b_to_a))
            self.traffic.append(Traffic(connection.proto, tuple(connection.a), tuple(connection.b), float(load)))


def read(inputs, loads, every=1, weigh="bytes", keep=False, progress=None):
    """Count captures into `loads`; give the `LoadCounter`.  Tunnels are not followed: a switch does not."""
    with Engine(Config.offline(tunnels=())) as engine:
        for path in inputs:
            engine.add_port(path)
        counter = LoadCounter(loads, every, weigh, keep)
        engine.attach(counter)
        while engine.step() or not engine.finished:
            if progress is not None:
                progress(engine.capture.bytes)
    return counter
