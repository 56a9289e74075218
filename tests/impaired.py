"""Bad networks in user space: loss, duplication, reordering and delay, from a seed.

    interface ── PacketPort ── inward Impairment ──► [pipe] ──► who is under test
                            ◄─ outward Impairment ◄─ [pipe] ◄─

`Impairment` knows no clock and no port: it is given the time with each frame, so a test of it runs
in no time and always alike.  `ImpairedPort` puts one each way between an interface and a port in
memory; `step` moves what is due and must be called often.
"""
import heapq
import random
import struct
import time
from dataclasses import dataclass, field

from flowos.core.pipe import pipe

PIPE_SLOTS = 1024


@dataclass
class Impairment:
    """Lose, double, reorder and delay frames.

    Probabilities are from 0 to 1, times in seconds.  Every frame waits `delay` and up to `jitter` more,
    which alone does not change their order; a reordered one, and every second copy, waits `lateness`
    on top.  `drop(frame)` loses frames of choice before chance has its turn.
    """

    seed: int = 0
    loss: float = 0
    duplicate: float = 0
    reorder: float = 0
    delay: float = 0
    jitter: float = 0
    lateness: float = 0.004
    drop: object = None
    counts: dict = field(default_factory=lambda: dict.fromkeys(
        ("offered", "lost", "dropped", "duplicated", "reordered", "given"), 0))

    def __post_init__(self):
        self._random = random.Random(self.seed)
        self._waiting = []
        self._last = 0.0
        self._number = 0

    def offer(self, now, frame):
        """Take a frame that came at `now`."""
        self.counts["offered"] += 1
        if self.drop is not None and self.drop(frame):
            self.counts["dropped"] += 1
            return
        chance = self._random.random
        # Always as many draws per frame: one frame's fate does not shift the next one's.
        lost, double, late, wait = chance() < self.loss, chance() < self.duplicate, chance() < self.reorder, chance()
        if lost:
            self.counts["lost"] += 1
            return
        due = now + self.delay + wait * self.jitter
        if late:
            self.counts["reordered"] += 1
            self._push(due + self.lateness, frame)
        else:
            self._last = max(self._last, due)
            self._push(self._last, frame)
        if double:
            self.counts["duplicated"] += 1
            self._push(due + self.lateness, frame)

    def _push(self, due, frame):
        heapq.heappush(self._waiting, (due, self._number, frame))
        self._number += 1

    def take(self, now):
        """Yield the frames that are due at `now`, in order."""
        while self._waiting and self._waiting[0][0] <= now:
            self.counts["given"] += 1
            yield heapq.heappop(self._waiting)[2]

    @property
    def next_due(self):
        """When the next frame is due, or None."""
        return self._waiting[0][0] if self._waiting else None


def frames_in(port, ring):
    """Sync a port, take every frame of its RX ring and release it: a list of bytes."""
    port.rx_sync()
    frames = [bytes(ring[index].data) for index in range(ring.head, ring.head + len(ring))]
    if frames:
        ring.head = ring.tail
        ring.cur = ring.tail
    return frames


def put(port, ring, frames):
    """Send frames by a port; what does not fit its ring is lost, as on any full queue.  Returns how many were."""
    lost = 0
    for frame in frames:
        if ring.head == ring.tail:
            port.tx_sync()
        if ring.head == ring.tail:
            lost += 1
            continue
        slot = ring[ring.head]
        slot.data, slot.link, slot.ts = frame, 1, time.time_ns()     # Ethernet
        ring.head += 1
    port.tx_sync()
    return lost


class ImpairedPort:
    """Stand between an interface's port and `port`, the one to hand to whoever is under test."""

    def __init__(self, outer, inward=None, outward=None, name="impaired"):
        self.outer, self.inward, self.outward = outer, inward or Impairment(), outward or Impairment()
        self.port, self._end = pipe(name, PIPE_SLOTS, buffer_size=outer.arena.buffer_size)
        self._outer_rx, self._outer_tx, self._end_rx, self._end_tx = (
            outer.rx_ring, outer.tx_ring, self._end.rx_ring, self._end.tx_ring)
        self.overflowed = 0
        self.record = None                    # a list: (time, frame) of what passes the inner port, both ways
        for way, other in (self.inward, self.outward), (self.outward, self.inward):
            if hasattr(way.drop, "back"):     # it answers
                way.drop.back = lambda frame, other=other: other.offer(time.monotonic(), frame)

    def step(self, now):
        """Move what came and what is due; True if there was anything."""
        came = frames_in(self.outer, self._outer_rx)
        for frame in came:
            self.inward.offer(now, frame)
        went = frames_in(self._end, self._end_rx)
        for frame in went:
            self.outward.offer(now, frame)
        inward, outward = list(self.inward.take(now)), list(self.outward.take(now))
        if self.record is not None:
            self.record += [(now, frame) for frame in [*inward, *went]]
        if inward:
            self.overflowed += put(self._end, self._end_tx, inward)
        if outward:
            self.overflowed += put(self.outer, self._outer_tx, outward)
        return bool(came or went or inward or outward)

    def write_record(self, path):
        """Write what was recorded as a pcap file."""
        with open(path, "wb") as file:
            file.write(struct.pack("<IHHiIII", 0xa1b2c3d4, 2, 4, 0, 0, 65535, 1))
            for at, frame in self.record:
                file.write(struct.pack("<IIII", int(at), int(at % 1 * 1e6), len(frame), len(frame)) + frame)

    @property
    def next_due(self):
        """When the next frame is due either way, or None."""
        return min((due for due in (self.inward.next_due, self.outward.next_due) if due is not None), default=None)

    def fileno(self):
        """Give the interface's descriptor to wait on."""
        return self.outer.fileno()

    def close(self):
        """Close the interface's port and this side of the pipe."""
        self._end.close()
        self.outer.close()


# ------------------------------------------------------------------------------ frames of choice

def segment_in(frame):
    """Give (flags, sequence number, payload bytes) of an Ethernet frame's TCP segment, or None.  No extensions."""
    kind = int.from_bytes(frame[12:14], "big")
    if kind == 0x0800 and frame[23] == 6:
        tcp, end = 14 + 4 * (frame[14] & 15), 14 + int.from_bytes(frame[16:18], "big")
    elif kind == 0x86dd and frame[20] == 6:
        tcp, end = 54, 54 + int.from_bytes(frame[18:20], "big")
    else:
        return None
    payload = tcp + 4 * (frame[tcp + 12] >> 4)
    return frame[tcp + 13], int.from_bytes(frame[tcp + 4:tcp + 8], "big"), end - payload


class DropAt:
    """Lose the first `times` segments that carry bytes of [position, to) of one way's stream.

    It sees the SYN go by and so knows positions; behind an editor they are the edited stream's.
    """

    def __init__(self, position, times=1, to=None):
        self.position, self.to, self.times, self.origin, self.dropped = position, to or position + 1, times, None, 0

    def __call__(self, frame):
        segment = segment_in(frame)
        if segment is None:
            return False
        flags, sequence, size = segment
        if flags & 2:
            self.origin = sequence + 1
        if self.origin is None or not size or self.dropped == self.times:
            return False
        begin = (sequence - self.origin) & 0xffffffff
        if begin < self.to and begin + size > self.position:
            self.dropped += 1
            return True
        return False


def internet_checksum(data):
    """Give the checksum of RFC 1071, the slow way."""
    total = sum(int.from_bytes(data[i:i + 2].ljust(2, b"\0"), "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


class Narrow:
    """A router with a small MTU on the way: it drops what is longer and says so in an ICMP error to the sender.

    The error quotes as little as routers may: the IP header and eight bytes (RFC 792), or all that
    fits 1,280 bytes (RFC 4443).  `ImpairedPort` sends it back the other way.
    """

    def __init__(self, mtu):
        self.mtu, self.dropped, self.back = mtu, 0, None

    def __call__(self, frame):
        if segment_in(frame) is None or len(frame) - 14 <= self.mtu:
            return False
        self.dropped += 1
        self.back(self.error(frame))
        return True

    def error(self, frame):
        """Build the ICMP error about a frame: fragmentation needed, or packet too big."""
        link, packet = frame[6:12] + frame[:6] + frame[12:14], frame[14:]
        if packet[0] >> 4 == 4:
            message = bytes([3, 4, 0, 0, 0, 0]) + self.mtu.to_bytes(2, "big") + packet[:4 * (packet[0] & 15) + 8]
            message = message[:2] + internet_checksum(message).to_bytes(2, "big") + message[4:]
            # from the router, whoever that is, to the packet's sender
            head = bytes([0x45, 0]) + (20 + len(message)).to_bytes(2, "big") + bytes([0, 0, 0, 0, 64, 1, 0, 0])
            head += packet[16:19] + b"\xfe" + packet[12:16]
            return link + head[:10] + internet_checksum(head).to_bytes(2, "big") + head[12:] + message
        message = bytes([2, 0, 0, 0]) + self.mtu.to_bytes(4, "big") + packet[:1280 - 48]
        addresses = packet[24:39] + b"\xfe" + packet[8:24]
        pseudo = addresses + len(message).to_bytes(4, "big") + bytes([0, 0, 0, 58])
        message = message[:2] + internet_checksum(pseudo + message).to_bytes(2, "big") + message[4:]
        return link + bytes([0x60, 0, 0, 0]) + len(message).to_bytes(2, "big") + bytes([58, 64]) + addresses + message
