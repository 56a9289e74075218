"""Read captures for `flowos offload`: bins of destination prefixes, in the order of packets."""
import ipaddress

import numpy as np

from flowos import Config, Engine, LimitError, Module, UsageError
from flowos.services.offload_cover import offloadable
from flowos.services.prefixes import MOST, PrefixTable

# A silence, or a clock that jumps, ends after so many empty bins: all rates have faded by then.
SILENCE = 1000
# The id of a direction that had no packet yet; -1 is no prefix.
UNKNOWN = -2


def read_routes(path):
    """Read a table of routes: a prefix is the first word of a line, # begins a comment; UsageError names the line."""
    table = PrefixTable()
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            words = line.partition("#")[0].split(maxsplit=1)
            if words:
                try:
                    table.insert(words[0])
                except UsageError as error:
                    raise UsageError(f"{path}, line {number}: {error}") from None
    if not len(table):
        raise UsageError(f"{path}: no prefix in it")
    return table


class Routes:
    """The prefixes of a table; those that need too many guards have no id, and stay with the controller."""

    def __init__(self, table, most_guards):
        self.table, self.parents = table, table.parents()
        self.open = offloadable(self.parents, most_guards)
        self.room = len(self.open)

    def id(self, address):
        """Give the id of the longest prefix, or -1."""
        id = self.table.lookup(address)
        return id if id >= 0 and self.open[id] else -1


class Flat:
    """Prefixes of one length per family, known as they come; beyond `most`, new ones have no id."""

    parents = None

    def __init__(self, length4, length6, most):
        for length, bits in ((length4, 32), (length6, 128)):
            if not 0 <= length <= bits:
                raise UsageError(f"--aggregate: a length of {length}, expected 0 to {bits}")
        if not 1 <= most <= MOST:
            raise UsageError(f"--prefixes: got {most}, expected 1 to {MOST}")
        self.table, self.lengths, self.room = PrefixTable(most=most), {4: length4, 6: length6}, most

    def id(self, address):
        """Give the id of the address's prefix, or -1."""
        address = ipaddress.ip_address(address)
        prefix = ipaddress.ip_network((address, self.lengths[address.version]), strict=False)
        try:
            return self.table.insert(prefix)
        except LimitError:
            return -1


class Bins(Module):
    """Sort the datagrams of all connections into bins of `step` seconds, by the prefix they go to.

    `ready` has the bins that are over, oldest first.  What comes late by its time is in the current one.
    """

    protocol = "ip"
    scope = "flow"

    def __init__(self, prefixes, step):
        self.prefixes, self.step = prefixes, int(step * 1e9)
        self.ids = np.zeros((1024, 2), "i4")          # by connection slot and direction
        self.ends = {}                                # by slot: where the two directions go to
        self.ready, self.parts = [], []
        self.end = None                               # of the current bin, ns

    def opened(self, connection):
        """Note where a connection's two directions go to, under its slot."""
        while connection.slot >= len(self.ids):
            self.ids = np.concatenate([self.ids, np.zeros_like(self.ids)])
        self.ids[connection.slot] = UNKNOWN
        self.ends[connection.slot] = connection.b.addr, connection.a.addr

    def resolve(self, slots, directions):
        """Find the prefixes of directions that have their first packet: others must not take up room."""
        for slot, direction in dict.fromkeys(zip(slots.tolist(), directions.tolist())):
            self.ids[slot, direction] = self.prefixes.id(self.ends[slot][direction])

    def process(self, window):
        """Take the datagrams of one delivery."""
        rows = window.array()
        slots, directions, times = rows["connection"], rows["direction"], rows["ts"]
        ids = self.ids[slots, directions]
        new = ids == UNKNOWN
        if new.any():
            self.resolve(slots[new], directions[new])
            ids = self.ids[slots, directions]
        if self.end is None and len(rows):
            self.end = int(times[0]) + self.step
        times = np.maximum.accumulate(times)
        at = 0
        while at < len(ids):
            stop = int(np.searchsorted(times, self.end))
            if stop > at:
                self.parts.append(ids[at:stop])
                at = stop
            if at < len(ids):
                self.cut()
                empty = (int(times[at]) - self.end) // self.step + 1
                self.ready += [np.empty(0, "i4")] * min(empty, SILENCE)
                self.end += empty * self.step

    def cut(self):
        """End the current bin."""
        self.ready.append(np.concatenate(self.parts) if self.parts else np.empty(0, "i4"))
        self.parts, self.end = [], self.end + self.step


def bins(inputs, prefixes, step, progress=None):
    """Yield the bins of captures, the last one too if it is not whole.  Tunnels are not followed: a switch does not."""
    with Engine(Config.offline(tunnels=())) as engine:
        for path in inputs:
            engine.add_port(path)
        sorter = Bins(prefixes, step)
        engine.attach(sorter)
        while engine.step() or not engine.finished:
            ready, sorter.ready = sorter.ready, []
            yield from ready
            if progress is not None:
                progress(engine.capture.bytes)
    if sorter.parts:
        sorter.cut()
    yield from sorter.ready
