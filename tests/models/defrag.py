"""What IP defragmentation must deliver: a model of the table of unfinished datagrams, byte by byte.

Fragments go in, in the order they were captured; `fragment` gives the datagram's payload back with
the one that completes it. The rules are those of docs/reassembly.md, their numbers stand beside the code.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from .tcp import new_wins

SECOND_NS = 1_000_000_000


class Fragment(NamedTuple):
    """One fragment: `offset` and `length` in bytes, `payload` what was captured of it."""

    version: int
    src: str
    dst: str
    id: int
    protocol: int           # IPv4's protocol; the fragment header's next header in IPv6
    ts: int
    offset: int
    more: bool
    length: int
    payload: bytes

    @property
    def end(self):
        return self.offset + self.length

    @property
    def key(self):
        """Give what the fragments of one datagram share (RFC 791, 3.2; RFC 8200, 4.5)."""
        return (self.version, self.src, self.dst, self.id, self.protocol if self.version == 4 else None)


class Byte(NamedTuple):
    """One buffered byte, and where the fragment it came from began and ended."""

    value: int
    start: int
    end: int


@dataclass
class Datagram:
    """A datagram of which fragments are missing; a poisoned one only waits for its timeout."""

    since: int
    total: int = None
    bytes: dict = field(default_factory=dict)
    extents: dict = field(default_factory=dict)     # (start, end) -> payload of the fragments taken in
    taken: int = 0
    poisoned: bool = False

    def whole(self):
        return self.total is not None and len(self.bytes) == self.total

    def contradicts(self, fragment):
        """Say whether a fragment and this datagram disagree about where the datagram ends (D2)."""
        if self.total is not None:
            return fragment.end > self.total if fragment.more else fragment.end != self.total
        return not fragment.more and any(at >= fragment.end for at in self.bytes)


class Defragmenter:
    """All unfinished datagrams, oldest first."""

    def __init__(self, policy="first", timeouts=(30, 60), datagrams=8192, memory=64 << 20, pieces=8192):
        self.policy = policy
        self.timeouts = {4: timeouts[0] * SECOND_NS, 6: timeouts[1] * SECOND_NS}
        self.limits = (datagrams, memory)
        self.pieces = pieces
        self.table = {}
        self.counters = {}

    def count(self, name):
        self.counters[name] = self.counters.get(name, 0) + 1

    def fragment(self, fragment):
        """Take in a fragment; give the payload of the datagram that it completes, or None."""
        if fragment.version == 6 and fragment.offset == 0 and not fragment.more:
            return fragment.payload                                             # D6, RFC 6946
        self.expire(fragment.ts)
        fault = self.fault(fragment)
        if fault:
            self.count(fault)
            return None
        datagram = self.table.get(fragment.key)
        if datagram is None:
            datagram = self.table[fragment.key] = Datagram(fragment.ts)
        if datagram.poisoned:
            self.count("ip_fragment_poisoned")
            return None
        datagram.taken += 1
        if datagram.taken > self.pieces:
            del self.table[fragment.key]
            self.count("ip_fragment_too_many")
            return None
        if datagram.contradicts(fragment):
            self.count("ip_fragment_conflict_end")
            return None
        if fragment.version == 6:
            self.place_6(datagram, fragment)
        else:
            self.place_4(datagram, fragment)
        if datagram.poisoned:
            return None
        if not fragment.more:
            datagram.total = fragment.end
        return self.finish(fragment.key, datagram)

    def fault(self, fragment):
        """Name what makes a fragment unusable whatever came before it (D3, D7)."""
        if len(fragment.payload) < fragment.length:
            return "ip_fragment_truncated"
        if fragment.length == 0 or (fragment.more and fragment.length % 8):
            return "ip_fragment_malformed"
        if fragment.end > 65535:
            return "ip_fragment_too_big"
        return None

    def note_overlap(self, datagram, fragment):
        """Count a fragment that meets bytes that are there already; say whether it does."""
        met = [at for at in range(fragment.offset, fragment.end) if at in datagram.bytes]
        if met:
            self.count("ip_fragment_overlaps")
        if any(datagram.bytes[at].value != fragment.payload[at - fragment.offset] for at in met):
            self.count("ip_fragment_conflicts")
        return bool(met)

    def place_4(self, datagram, fragment):
        """Put an IPv4 fragment where the policy says (D1)."""
        self.note_overlap(datagram, fragment)
        for at in range(fragment.offset, fragment.end):
            new = Byte(fragment.payload[at - fragment.offset], fragment.offset, fragment.end)
            old = datagram.bytes.get(at)
            if old is None or new_wins(self.policy, new, old):
                datagram.bytes[at] = new

    def place_6(self, datagram, fragment):
        """Take in an IPv6 fragment; anything but an exact repetition poisons the datagram (D1, RFC 5722)."""
        extent = (fragment.offset, fragment.end)
        overlaps = self.note_overlap(datagram, fragment)
        if datagram.extents.get(extent) == fragment.payload:
            return
        if overlaps:
            self.count("ip6_fragment_overlap")
            datagram.poisoned = True
            datagram.bytes, datagram.extents = {}, {}
            return
        datagram.extents[extent] = fragment.payload
        for at in range(*extent):
            datagram.bytes[at] = Byte(fragment.payload[at - fragment.offset], *extent)

    def finish(self, key, datagram):
        """Give the payload if it is whole, else see to the limits (D2, D5)."""
        if datagram.whole():
            del self.table[key]
            self.count("datagrams_reassembled")
            return bytes(datagram.bytes[at].value for at in range(datagram.total))
        datagrams, memory = self.limits
        while len(self.table) > datagrams or sum(len(d.bytes) for d in self.table.values()) > memory:
            del self.table[next(iter(self.table))]
            self.count("ip_fragments_evicted")
        return None

    def expire(self, now):
        """Forget what began too long ago (D4)."""
        self.forget(key for key, datagram in self.table.items() if now - datagram.since >= self.timeouts[key[0]])

    def end(self):
        """Give up what is unfinished at the end of the capture."""
        self.forget(self.table)

    def forget(self, keys):
        for key in list(keys):
            datagram = self.table.pop(key)
            if not datagram.poisoned:
                self.count("ip_fragments_timed_out")
