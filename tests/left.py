"""What leaves an engine, held to the pipeline's model: every byte, number, acknowledgement and packet.

A TCP packet carries the number of its arrival in its window field, so that what leaves can be traced
to what came.  The rules are those of the merger off line: bytes leave once and in order, numbers
follow the edits, nothing is acknowledged before it left, and no packet goes missing but one whose
bytes were deleted or one that acknowledges nothing else.
"""
import collections
import ipaddress
import struct
from typing import NamedTuple

from flowos.packets import valid
from models import build

MASK = 0xFFFFFFFF


class Left(NamedTuple):
    """A TCP packet, or a UDP datagram, as it came or left."""

    ts: int
    frame: bytes
    src: tuple
    dst: tuple
    number: int                               # of the packet that brought it
    seq: int
    ack: int | None
    flags: int
    payload: bytes


def parse(ts, frame):
    """Take a frame of models.build apart."""
    packet = frame[14:]
    if packet[0] >> 4 == 4:
        protocol, at, total = packet[9], 20, struct.unpack_from(">H", packet, 2)[0]
        src, dst = (".".join(map(str, packet[i:i + 4])) for i in (12, 16))
    else:
        protocol, at, total = packet[6], 40, 40 + struct.unpack_from(">H", packet, 4)[0]
        src, dst = (str(ipaddress.ip_address(packet[i:i + 16])) for i in (8, 24))
    sport, dport = struct.unpack_from(">HH", packet, at)
    if protocol == build.UDP:
        return Left(ts, frame, (src, sport), (dst, dport), 0, 0, None, 0, packet[at + 8:total])
    seq, ack, offset, flags, window = struct.unpack_from(">IIBBH", packet, at + 4)
    return Left(ts, frame, (src, sport), (dst, dport), window, seq, ack if flags & 16 else None, flags,
                packet[at + (offset >> 4) * 4:total])


def record(packet, number, a, b):
    """Turn a packet of the TCP model into (ts, frame); its number is its window."""
    here, there = (a, b) if packet.direction == 0 else (b, a)
    segment = build.tcp(here, there, packet.seq, packet.ack if packet.flags & 16 else 0, packet.flags, packet.payload,
                        window=number)
    return packet.ts, build.ethernet(build.ip(here, there, build.TCP, segment))


def judge(model, ends, origins, came, left, policy="first"):
    """Hold the packets that left to the model's streams; an AssertionError names what is wrong.

    `ends` are {connection: (a, b)}, `origins` {(connection, direction): raw sequence number of offset 0};
    `came` and `left` are lists of `Left`; `policy` says who wins overlaps of what waits.
    """
    ordered = any(stage.writes for stage in model.stages)
    for number, (a, b) in ends.items():
        ways = [Direction(model, number, direction, origins, ordered) for direction in (0, 1)]
        for direction, way in enumerate(ways):
            way.note([packet for packet in came if (packet.src, packet.dst) == ((a, b), (b, a))[direction]], policy)
        for packet in left:
            if (packet.src, packet.dst) in ((a, b), (b, a)):
                assert valid(packet.frame), f"packet {packet.number}: wrong checksum"
                direction, source = int(packet.src == b), came[packet.number - 1]
                assert source.src == packet.src and packet.ts >= source.ts
                ways[direction].carry(packet, source)
                ways[1 - direction].acknowledge(packet, source)
        for direction, way in enumerate(ways):
            way.end()
            for i, packet in enumerate(came, 1):
                if (packet.src, packet.dst) == ((a, b), (b, a))[direction] and i not in way.numbers:
                    assert way.may_miss(packet), f"packet {i} is missing: {packet}"


class Direction:
    """One direction of a connection while its packets leave."""

    def __init__(self, model, number, direction, origins, ordered):
        self.way = model.way(number, direction)
        self.final = self.way.final()
        self.origin = origins.get((number, direction))
        self.ordered = ordered
        self.gone = set()                     # final offsets that left
        self.numbers = set()                  # packets that left
        self.acknowledged = 0                 # final offset that the other end said it has
        self.name = f"connection {number}, direction {direction}"

    def offset(self, raw, size):
        """Give the stream offset that a raw sequence number means, near `size`."""
        return size + ((raw - self.origin - size + 2**31) & MASK) - 2**31

    def note(self, came, policy):
        """Note which packets came when all bytes in front of them had come, and which bytes can only leave with each."""
        have, self.in_order, self.new, often = set(), set(), {}, collections.Counter()
        for packet in came if self.origin is not None else ():
            start = self.offset(packet.seq, len(self.way.arrived))
            if all(i in have for i in range(min(start, len(self.way.arrived)))):
                self.in_order.add(packet.number)
            places = set(range(start, start + len(packet.payload)))
            self.new[packet.number] = places - have
            have |= places
            often.update(places)
        if policy != "first":                 # a later packet may have taken the place of bytes that waited
            self.new = {number: {place for place in places if often[place] == 1} for number, places in self.new.items()}

    def place(self, raw):
        """Give between which final offsets an original sequence number lies: (lowest, highest)."""
        start = self.offset(raw, len(self.way.arrived))
        beyond = max(0, start - len(self.way.arrived)) + min(0, start)   # behind a FIN, or what was lost; before the first
        low, high = self.way.sequence(start)
        return low + beyond, high + beyond

    def carry(self, packet, source):
        """Check a packet's bytes and place."""
        self.numbers.add(packet.number)
        if self.origin is None or packet.flags & 6:
            return
        at = self.offset(packet.seq, len(self.final))
        for i, value in enumerate(packet.payload, at):
            if 0 <= i < len(self.final):
                expected = self.final[i].value
                assert expected in (None, value), f"{self.name}, packet {packet.number}: byte {i} is {value}, not {expected}"
                if self.ordered and i and i not in self.gone and self.final[i - 1].value is not None:
                    assert i - 1 in self.gone, f"{self.name}, packet {packet.number}: byte {i} left before {i - 1}"
                self.gone.add(i)
        if packet.flags & 1 and self.way.fin:
            assert at + len(packet.payload) == len(self.final), f"{self.name}, packet {packet.number}: FIN at {at}"
        elif not packet.payload and not source.payload:
            low, high = self.place(source.seq)
            if source.number in self.in_order:    # else its place was not known yet
                assert low <= at <= high, f"{self.name}, packet {packet.number} stands at {at}, not in {low} to {high}"

    def acknowledge(self, packet, source):
        """Check what a packet of the other direction says it has of this one: that, and nothing that has not left."""
        if packet.ack is None or source.ack is None or self.origin is None:
            return
        got = self.offset(packet.ack, len(self.final))
        if packet.flags & 4:                  # a reset may say anything; what is made behind it says so again
            self.acknowledged = max(self.acknowledged, got)
            return
        low, high = self.place(source.ack)
        low, high = min(low, self.acknowledged), max(high, self.acknowledged)   # one that was made says what was said before
        self.acknowledged = max(self.acknowledged, got)
        assert low <= got <= high, f"{self.name}: packet {packet.number} acknowledges {got}, not {low} to {high}"
        early = [i for i in range(min(got, len(self.final))) if i not in self.gone and self.final[i].value is not None]
        assert not early, f"{self.name}: packet {packet.number} acknowledges byte {early[0]}, which has not left"

    def end(self):
        """Check that everything left."""
        missing = [i for i, byte in enumerate(self.final) if byte.value is not None and i not in self.gone]
        assert not missing, f"{self.name}: bytes {missing[:5]} of {len(self.final)} did not leave"

    def may_miss(self, packet):
        """May a packet be left out: all its bytes were deleted, or it acknowledges only what was?"""
        if packet.flags & 7:
            return False
        if not packet.payload:
            return packet.ack is not None
        places = self.new.get(packet.number, ())
        return not any(byte.came and byte.place in places for byte in self.final)
