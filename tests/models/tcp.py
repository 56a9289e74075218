"""What TCP reassembly must deliver: a model of one connection's two directions, byte by byte.

Packets go in, in the order they were captured. Out come, for each direction, the items a module
would see: ("data", offset, bytes), ("gap", offset, length), ("fin", offset), and the counters.
The rules are those of docs/reassembly.md; their numbers stand beside the code that follows them.

    buffer   {offset: Byte} of what arrived beyond `next`; a Byte remembers the segment it came from
    next     every offset below was delivered, as data or as a gap
    origin   the 32-bit sequence number of offset 0; None until the stream has begun

Only the path of a segment that arrives in order handles more than one byte at a time.
"""

from dataclasses import dataclass
from typing import NamedTuple, Optional

FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
POLICIES = ("first", "last", "bsd", "linux", "windows")
WINDOW = 1 << 30            # no TCP window is larger (RFC 7323, 2.3)
PICK_UP_PIECES = 16
PICK_UP_BYTES = 64 << 10
PICK_UP_NS = 1_000_000_000
PICK_UP_HOLE = 1 << 20      # a SYN may turn up this far below what was picked up


class Packet(NamedTuple):
    """One TCP packet: `length` is the payload's by the IP header, `payload` what was captured."""

    direction: int
    ts: int
    seq: int
    ack: int
    flags: int
    length: int
    payload: bytes


@dataclass(frozen=True)
class Config:
    """The knobs of reassembly, by the names the engine gives them."""

    policy: str = "first"
    gap_packets: int = 32
    gap_seconds: float = 120
    reassembly_bytes: int = 8 << 20
    reassembly_pieces: int = 4096


class Byte(NamedTuple):
    """One buffered byte; `value` is None where the wire had a byte that the capture has not."""

    value: Optional[int]
    piece: tuple            # which segment it came from, and which part of that
    start: int              # of the whole segment, before any trimming
    end: int
    ts: int


def difference(a, b):
    """Give a - b of 32-bit numbers as the signed number nearest to zero."""
    return ((a - b + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)


def new_wins(policy, new, old):
    """Say whether a new byte displaces a buffered one of another segment (T6)."""
    return {
        "first": False,
        "last": True,
        "bsd": new.start < old.start,
        "linux": new.start <= old.start,
        "windows": new.start < old.start and new.end > old.end,
    }[policy]


class Direction:
    """One direction of a connection."""

    def __init__(self, config, counters):
        self.config = config
        self.counters = counters
        self.origin = None
        self.origin_from_syn = False
        self.next = 0
        self.buffer = {}
        self.fin = None
        self.complete = False
        self.items = []         # ["data", offset, bytearray], ["gap", offset, length], ["fin", offset]
        self.segments = 0
        self.last_ack = None    # as the other side sent it
        self.acked = None       # the highest, as an offset
        self.acked_at = {}      # buffered offset: the packet at which its piece was found acknowledged
        self.filled_ns = None   # while pieces wait: when a segment last brought the byte at `next`
        self.holes = []         # the holes that were closed: (offset, length)
        self.pick_up_base = None
        self.pick_up_since = None
        self.pick_up_fin = None

    def count(self, name, by=1):
        self.counters[name] = self.counters.get(name, 0) + by

    # ------------------------------------------------------------------ what arrives

    def synchronise(self, packet):
        """Take in a SYN; say False where the packet is to be ignored (T1)."""
        origin = (packet.seq + 1) & 0xFFFFFFFF
        if self.origin is None and not self.buffer:
            self.origin, self.origin_from_syn = origin, True
            return True
        if self.origin is None:
            ahead = difference(self.pick_up_base + min(self.buffer), origin)
            if not 0 <= ahead <= PICK_UP_HOLE:
                return False
            self.begin_picked_up(difference(origin, self.pick_up_base), from_syn=True)
            return True
        if origin == self.origin:
            return True
        if self.items or self.buffer or self.last_ack == self.origin:
            return False
        if self.origin_from_syn and not packet.flags & ACK:
            return False
        self.origin, self.origin_from_syn = origin, True
        self.fin = self.acked = None
        return True

    def segment(self, packet):
        """Take in the payload and the FIN of a packet that this direction's sender sent."""
        seq = (packet.seq + 1) & 0xFFFFFFFF if packet.flags & SYN else packet.seq
        has_fin = packet.flags & FIN and packet.flags & ACK                     # T7
        if packet.flags & FIN and not has_fin:
            self.count("tcp_fin_ignored")
        if self.origin is None:
            if packet.length or has_fin:
                self.pick_up(packet, seq, has_fin)
            return
        offset = self.unwrap(seq)
        if has_fin:
            self.finish_at(offset + packet.length)
        if packet.length:
            self.accept(offset, packet)
        self.deliver()

    def pick_up(self, packet, seq, has_fin):
        """Keep what comes before the start of the stream is known (T2)."""
        if self.pick_up_base is None:
            self.pick_up_base = seq
        offset = difference(seq, self.pick_up_base)
        if has_fin and self.pick_up_fin is None:
            self.pick_up_fin = offset + packet.length
        if packet.length:
            if self.pick_up_since is None:
                self.pick_up_since = packet.ts
            self.place(offset, offset, offset + packet.length, packet)
        self.try_to_begin(packet.ts)

    def accept(self, offset, packet):
        """Take in the bytes of a segment whose place in the stream is known (T3)."""
        start, end = max(offset, self.next), offset + packet.length
        below = min(end, self.next)
        if offset < 0:
            self.count("tcp_before_start")
        elif any(at < below and offset < at + size for at, size in self.holes):
            self.count("tcp_late_after_gap")
        elif end <= self.next:
            self.count("tcp_retransmitted")
        if start >= end:
            return
        if self.fin is not None and end > self.fin:
            self.count("tcp_beyond_fin")
            end = self.fin
        if start > self.next + WINDOW and start < end:
            self.count("tcp_out_of_window")
        elif start == self.next and not self.buffer:
            self.deliver_in_order(packet.payload[start - offset:end - offset], end)    # T5
        else:
            filling = self.buffer and start == self.next and start < end
            self.place(offset, start, end, packet)
            if filling:
                self.filled_ns = packet.ts

    def place(self, offset, start, end, packet):
        """Buffer the bytes [start, end) of a segment that began at `offset` as the policy says."""
        self.segments += 1
        if not self.buffer:
            self.filled_ns = None
        overlap, conflict, part, below = False, False, 0, ()
        for position in range(start, end):
            captured = position - offset < len(packet.payload)
            old = self.buffer.get(position)
            if below != (captured, old and old.piece):
                part, below = part + 1, (captured, old and old.piece)
            new = Byte(packet.payload[position - offset] if captured else None,
                       (self.segments, part), offset, offset + packet.length, packet.ts)
            if old is None or (old.value is None and captured):
                self.put(position, new)                                         # T4
            elif captured:
                overlap = True
                conflict = conflict or old.value != new.value
                if new_wins(self.config.policy, new, old):
                    self.put(position, new)                                     # T6
        if overlap:
            self.count("tcp_overlaps")
        if conflict:
            self.count("tcp_conflicts")

    def put(self, position, byte):
        self.buffer[position] = byte
        self.acked_at.pop(position, None)

    def finish_at(self, offset):
        """Note where the stream ends; the first FIN that can be true stands (T7)."""
        if self.fin is not None or not self.next <= offset <= self.next + WINDOW:
            if offset != self.fin:
                self.count("tcp_fin_ignored")
            return
        self.fin = offset
        beyond = [position for position in self.buffer if position >= offset]
        if beyond:
            self.count("tcp_beyond_fin")
        for position in beyond:
            del self.buffer[position]

    def acknowledge(self, ack, first):
        """Take in an acknowledgement that the other side sent (T10); `first` is the offset 0 of the first SYN seen (T1)."""
        self.last_ack = ack
        if self.origin is None:
            return
        if ack == first != self.origin and self.origin_from_syn and not self.items and not self.buffer:
            self.origin, self.fin, self.acked = first, None, None
        offset = self.unwrap(ack)
        if offset <= self.next + WINDOW and (self.acked is None or offset > self.acked):
            self.acked = offset

    # ------------------------------------------------------------------ where it begins

    def unwrap(self, seq):
        """Give a sequence number's offset: of those it may mean, the one nearest to `next`."""
        return self.next + difference(seq, (self.origin + self.next) & 0xFFFFFFFF)

    def begin_picked_up(self, at, from_syn):
        """Begin the stream at `at`, counted from the first segment that was picked up."""
        self.origin = (self.pick_up_base + at) & 0xFFFFFFFF
        self.origin_from_syn = from_syn
        self.buffer = {position - at: byte._replace(start=byte.start - at, end=byte.end - at)
                       for position, byte in self.buffer.items()}
        if self.pick_up_fin is not None:
            self.finish_at(self.pick_up_fin - at)
        if self.last_ack is not None:
            self.acknowledge(self.last_ack, None)                                     # T10
        self.deliver()

    def lowest(self):
        """Give the lowest offset picked up; a FIN alone counts as well."""
        return min(self.buffer) if self.buffer else self.pick_up_fin

    def try_to_begin(self, now):
        """Begin a stream that was picked up midway, if its first byte is known well enough (T2)."""
        if self.waits_for_start() and self.start_is_known(now):
            self.count("tcp_picked_up")
            self.begin_picked_up(self.lowest(), from_syn=False)

    def start_is_known(self, now):
        lowest, fin = self.lowest(), self.pick_up_fin
        most_bytes, most_pieces, patience = PICK_UP_BYTES, PICK_UP_PIECES, PICK_UP_NS
        if self.last_ack is not None:
            ahead = difference(self.last_ack, self.pick_up_base + lowest)
            if ahead >= 0:
                return True                                                     # (a), (b)
            if ahead >= -WINDOW:
                most_bytes, most_pieces = self.config.reassembly_bytes, self.config.reassembly_pieces
                patience = self.config.gap_seconds * 1e9
        if not self.buffer:
            return False
        if fin is not None and lowest < fin and all(at in self.buffer for at in range(lowest, fin)):
            return True                                                         # (d)
        return len(self.buffer) >= most_bytes or now - self.pick_up_since >= patience \
            or len(self.pieces()) >= most_pieces                                # (c), (f)

    def waits_for_start(self):
        return self.origin is None and (self.buffer or self.pick_up_fin is not None)

    # ------------------------------------------------------------------ what is delivered

    def deliver_in_order(self, data, end):
        if data:
            self.emit_data(data)
        if self.next < end:
            self.count("tcp_cut_bytes", end - self.next)
            self.emit_gap(end - self.next)

    def deliver(self):
        """Deliver everything contiguous, and the FIN when it is its turn."""
        while self.next in self.buffer:
            byte = self.buffer.pop(self.next)
            self.acked_at.pop(self.next, None)
            if byte.value is None:
                self.count("tcp_cut_bytes")
                self.emit_gap(1)
            else:
                self.emit_data(bytes([byte.value]))
        if self.next == self.fin and not self.complete:
            self.complete = True
            self.items.append(["fin", self.next])

    def emit_data(self, data):
        if self.items and self.items[-1][0] == "data":
            self.items[-1][2].extend(data)
        else:
            self.items.append(["data", self.next, bytearray(data)])
        self.next += len(data)

    def emit_gap(self, length):
        if self.items and self.items[-1][0] == "gap":
            self.items[-1][2] += length
        else:
            self.items.append(["gap", self.next, length])
        self.next += length

    # ------------------------------------------------------------------ holes

    def pieces(self):
        """List the pieces as lists of offsets.

        A segment that arrives is cut where the pieces begin and end that it meets, and where the
        captured bytes end; what a later segment takes the middle of becomes two.
        """
        pieces, previous = [], (None, None)
        for position in sorted(self.buffer):
            piece = self.buffer[position].piece
            if (position - 1, piece) != previous:
                pieces.append([])
            pieces[-1].append(position)
            previous = position, piece
        return pieces

    def over_a_limit(self):
        if len(self.buffer) > self.config.reassembly_bytes:
            return True
        return len(self.buffer) > self.config.reassembly_pieces \
            and len(self.pieces()) > self.config.reassembly_pieces

    def note_acknowledged(self, packets):
        """Remember of each piece the packet at which it was first seen to be acknowledged (T9 a)."""
        if not self.buffer or self.acked is None or self.acked < min(self.buffer):
            return
        for piece in self.pieces():
            if piece[0] <= self.acked and piece[0] not in self.acked_at:
                self.acked_at.update(dict.fromkeys(piece, packets))

    def waiting_since(self, first):
        """Give the time since when nothing has come for the hole before offset `first`."""
        came = self.buffer[first].ts
        return came if self.filled_ns is None else max(came, self.filled_ns)

    def close_hole(self, end, reason):
        self.count("tcp_gaps")
        self.count("tcp_gap_bytes", end - self.next)
        self.count(f"tcp_gap_by_{reason}")
        self.holes.append((self.next, end - self.next))
        self.emit_gap(end - self.next)
        self.deliver()

    def close_holes(self, packets, now):
        """Close the holes that need not be waited for any longer; after each packet (T9)."""
        if self.origin is None:
            return
        self.note_acknowledged(packets)
        while self.buffer:
            first = min(self.buffer)
            acked_at = self.acked_at.get(first)
            if acked_at is not None and packets - acked_at >= self.config.gap_packets:
                self.close_hole(first, "ack")                                   # (a)
            elif self.over_a_limit():
                self.close_hole(first, "limit")                                 # (b)
            elif now - self.waiting_since(first) >= self.config.gap_seconds * 1e9:
                self.close_hole(first, "time")                                  # (c)
            else:
                return

    def end(self):
        """Deliver everything that is left: the connection is over (T9 d, T11)."""
        if self.waits_for_start():
            self.count("tcp_picked_up")
            self.begin_picked_up(self.lowest(), from_syn=False)
        while self.buffer:
            self.close_hole(min(self.buffer), "end")
        if self.fin is not None and self.next < self.fin:
            self.close_hole(self.fin, "end")

    def result(self):
        """Give the items as tuples."""
        return [("data", item[1], bytes(item[2])) if item[0] == "data" else tuple(item)
                for item in self.items]


class Connection:
    """Both directions of one connection, and the counters they share."""

    def __init__(self, config=Config()):
        self.counters = {}
        self.ways = (Direction(config, self.counters), Direction(config, self.counters))
        self.packets = 0
        self.bases = [None, None]
        self.first_sender = self.first_syn_sender = self.first_syn_ack_sender = None

    def starts_another(self, packet):
        """Say whether a packet opens a new connection of the same two ends (R1)."""
        base = self.bases[packet.direction]
        return packet.flags & SYN and not packet.flags & ACK and base is not None and packet.seq != base

    def packet(self, packet):
        """Take in the next packet."""
        self.packets += 1
        self.remember(packet)
        sender, receiver = self.ways[packet.direction], self.ways[1 - packet.direction]
        ignored = packet.flags & RST and not packet.length                      # T8
        if packet.flags & SYN and not ignored and not sender.synchronise(packet):
            sender.count("tcp_syn_ignored")
            ignored = True
        if packet.flags & ACK:
            base = self.bases[1 - packet.direction]
            receiver.acknowledge(packet.ack, None if base is None else (base + 1) & 0xFFFFFFFF)
            receiver.try_to_begin(packet.ts)
        if not ignored:
            sender.segment(packet)
        for way in (sender, receiver):
            way.close_holes(self.packets, packet.ts)

    def remember(self, packet):
        side, flags = packet.direction, packet.flags
        if self.first_sender is None:
            self.first_sender = side
        if flags & SYN and flags & ACK and self.first_syn_ack_sender is None:
            self.first_syn_ack_sender = side
        if flags & SYN and not flags & ACK and self.first_syn_sender is None:
            self.first_syn_sender = side
        if self.bases[side] is None and (packet.length or not flags & RST):
            self.bases[side] = packet.seq if flags & SYN else (packet.seq - 1) & 0xFFFFFFFF

    @property
    def a(self):
        """The side that opened the connection, as far as one can tell (R2)."""
        if self.first_syn_sender is not None:
            return self.first_syn_sender
        if self.first_syn_ack_sender is not None:
            return 1 - self.first_syn_ack_sender
        return self.first_sender

    def end(self):
        for way in self.ways:
            way.end()

    def result(self, side):
        """Give what the sender `side` had delivered."""
        return self.ways[side].result()


def reassemble(packets, config=Config()):
    """Run the packets of one 5-tuple through the model: a list of ended connections, in turn."""
    connections = []
    for packet in packets:
        if not connections or connections[-1].starts_another(packet):
            connections.append(Connection(config))
        connections[-1].packet(packet)
    for connection in connections:
        connection.end()
    return connections


def data(items):
    """Join the data of one direction's items."""
    return b"".join(item[2] for item in items if item[0] == "data")


def gaps(items):
    """List the (offset, length) of one direction's gaps."""
    return [(item[1], item[2]) for item in items if item[0] == "gap"]
