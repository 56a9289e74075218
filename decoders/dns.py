"""DNS messages over UDP and TCP, and their kin: mDNS, LLMNR (RFC 1035, 6762, 4795).

Over UDP a datagram is a message; over TCP each follows its length in two bytes.  The header and
the questions are read here, bounded and strict, so that every message with a whole header is
told, however damaged the rest; the records behind them are dpkt's, on demand (`unpack`).  DNS is
known by its content: what a probe is shown must hold together as DNS.  A port only makes it
believe odder messages.
"""
import struct
from dataclasses import dataclass, field

import dpkt

from flowos.decoder import Decoder, Unit

HEADER = struct.Struct(">6H")
QUESTION = struct.Struct(">2H")
RECORD = struct.Struct(">8xH")  # of a record behind its name: the length of its data
SEEN = 64                       # bytes of a stream that a probe is shown at most
NAME_LIMIT = 255                # bytes of a name: RFC 1035 section 2.3.4
COUNT_LIMIT = 256               # more records than this are not believed without a port
HINTS = {53, 5353, 5355}
NETBIOS = 137                   # the port of a name service that borrows the format (RFC 1002 section 4.2)
OPCODES = {0, 1, 2, 4, 5, 6}    # query, inverse query, status, notify, update, stateful
CLASSES = {1, 2, 3, 4, 254, 255}    # IN, CS, CH, HS, NONE, ANY; mDNS has the top bit for itself
ESCAPES = {ord(char): escape for char, escape in zip("\a\b\t\n\v\f\r", r"\a \b \t \n \v \f \r".split(), strict=True)}
ESCAPES |= {code: f"\\{code:03o}" for code in (*range(32), 127) if code not in ESCAPES}


class Damaged(Exception):
    """A message contradicts itself; never leaves this file."""


class Cut(Damaged):
    """A message breaks off."""


@dataclass(frozen=True, slots=True)
class DnsMessage:
    """What a message's header and questions say.

    Names are text without the dot at the end, "<Root>" for the root; control bytes are escaped as
    in C, bytes that are no UTF-8 are replaced.  The counts are the header's; `whole` is false
    where a question could not be read.
    """

    id: int
    response: bool
    opcode: int
    rcode: int
    authoritative: bool
    truncated: bool
    qnames: list
    qtypes: list
    qclasses: list
    questions: int
    answers: int
    authorities: int
    additionals: int
    whole: bool
    data: bytes = field(repr=False)

    def unpack(self):
        """Give the message as dpkt reads it, records included, or None where dpkt fails."""
        try:
            return dpkt.dns.DNS(self.data)
        except Exception:       # dpkt raises a dozen kinds of error on damaged messages
            return None


def read_name(data, at):
    """Read a name at an offset: (list of labels as bytes, offset behind it); raises Damaged.

    Each compression pointer must lead further back than the one before, which ends any loop.
    """
    labels, size, behind, limit = [], 1, None, at
    while True:
        if at >= len(data):
            raise Cut("in a name")
        length = data[at]
        if length >= 0xc0:
            if at + 2 > len(data):
                raise Cut("in a pointer")
            behind = behind or at + 2
            at = (length & 0x3f) << 8 | data[at + 1]
            if at >= limit:
                raise Damaged("a pointer leads forward")
            limit = at
            continue
        if length >= 0x40:
            raise Damaged("a label type of its own")
        at += 1
        if not length:
            return labels, behind or at
        size += 1 + length
        if size > NAME_LIMIT:
            raise Damaged("a name longer than 255 bytes")
        if at + length > len(data):
            raise Cut("in a label")
        labels.append(bytes(data[at:at + length]))
        at += length


def name_text(labels):
    """Write a name as text.

    >>> name_text([b"www", b"example", b"org"]), name_text([]), name_text([b"tab\\t", b"x"])
    ('www.example.org', '<Root>', 'tab\\\\t.x')
    """
    return b".".join(labels).decode("utf-8", "replace").translate(ESCAPES) or "<Root>"


def read_question(data, at):
    """Read a question at an offset: (labels, type, class, offset behind it); raises Damaged."""
    labels, at = read_name(data, at)
    if at + QUESTION.size > len(data):
        raise Cut("in a question")
    return (labels, *QUESTION.unpack_from(data, at), at + QUESTION.size)


def read_record(data, at):
    """Step over a resource record: the offset behind it; raises Damaged."""
    _, at = read_name(data, at)
    if at + RECORD.size > len(data):
        raise Cut("in a record")
    at += RECORD.size + RECORD.unpack_from(data, at)[0]
    if at > len(data):
        raise Cut("in a record's data")
    return at


def parse(data):
    """Parse one message; None where even its header is cut.

    >>> message = parse(bytes.fromhex("1234010000010000000000000161036f72670000010001"))
    >>> message.qnames, message.qtypes, message.response
    (['a.org'], [1], False)
    """
    if len(data) < HEADER.size:
        return None
    number, flags, asked, *counts = HEADER.unpack_from(data)
    questions, at, whole = [], HEADER.size, True
    for _ in range(asked):
        try:
            labels, kind, group, at = read_question(data, at)
        except Damaged:
            whole = False
            break
        questions.append((name_text(labels), kind, group))
    names, types, classes = zip(*questions, strict=True) if questions else ((), (), ())
    return DnsMessage(
        number, bool(flags & 0x8000), flags >> 11 & 15, flags & 15, bool(flags & 0x0400), bool(flags & 0x0200),
        list(names), list(types), list(classes), asked, *counts, whole, bytes(data))


def holds_together(data, cut, hinted):
    """Say whether bytes are a DNS message in every respect that can be seen.

    `cut`: they are the beginning of a longer message.  `hinted`: a port speaks for DNS, so that
    messages without exactly one question are believed too.
    """
    if len(data) < HEADER.size:
        return False
    _, flags, asked, *counts = HEADER.unpack_from(data)
    response = flags & 0x8000
    if flags >> 11 & 15 not in OPCODES or flags & 0x0040:       # the reserved bit is zero
        return False
    if not response and flags & 15 and not hinted:              # only responses have a result
        return False
    if max(asked, *counts) > COUNT_LIMIT or not hinted and asked != 1:
        return False
    at = HEADER.size
    try:
        for _ in range(asked):
            labels, kind, group, at = read_question(data, at)
            if not kind or group & 0x7fff not in CLASSES or is_netbios(labels, kind):
                return False
        for _ in range(sum(counts)):
            at = read_record(data, at)
    except Cut:
        return cut
    except Damaged:
        return False
    return cut or hinted or at == len(data)


def is_netbios(labels, kind):
    """Say whether a question is NetBIOS's, which borrows the format (RFC 1002 section 4.2)."""
    return kind in (32, 33) and labels and len(labels[0]) == 32 and set(labels[0]) <= set(range(0x41, 0x51))


def is_datagram(data, hinted):
    """Say whether a datagram's first bytes are a message."""
    return holds_together(data, len(data) >= SEEN, hinted)


def is_stream(data, hinted):
    """Say whether a stream's first bytes are a message behind its length."""
    if len(data) < 2 + HEADER.size:
        return False
    length = int.from_bytes(data[:2], "big")
    return length >= HEADER.size and holds_together(data[2:2 + length], length + 2 > len(data), hinted)


class DnsDecoder(Decoder):
    """Decode DNS in both directions of one connection.

    Units: `query` and `response`, with a DnsMessage as info and the message as data (over TCP the
    unit covers the two bytes of length before it as well); `other`, what is no message.
    """

    name = "dns"
    over = ("udp", "tcp")

    def __init__(self):
        super().__init__()
        self.stream = None                  # whether messages follow their length; None: not known
        self.held = (bytearray(), bytearray())      # of a stream: bytes of a message so far
        self.lost = set()                   # directions that wait for a piece that begins a message

    @staticmethod
    def probe(data, direction, port):
        """Say whether a datagram's or a stream's first bytes are DNS; None asks for more.

        >>> query = bytes.fromhex("1234010000010000000000000161036f72670000010001")
        >>> DnsDecoder.probe(query, 0, 9999), DnsDecoder.probe(b"\\x00\\x17" + query, 0, 53)
        (True, True)
        """
        if port == NETBIOS:
            return False
        data, hinted = bytes(data[:SEEN]), port in HINTS
        if is_datagram(data, hinted) or is_stream(data, hinted):
            return True
        if hinted and len(data) >= HEADER.size and data[2] >> 3 & 15 in OPCODES and not data[3] & 0x40:
            return True                     # on its own port a damaged message is still one
        return None if hinted and len(data) < 2 + HEADER.size else False

    def feed(self, direction, data, offset, ts):
        """Take a datagram or a piece of a stream; give its messages."""
        data = bytes(data)
        if self.stream is None:
            self.stream = self.is_in_stream(self.held[direction], data)
        if self.stream is False:            # what is held, if anything, were datagrams too short
            short = self.finish(direction, offset, ts)
            return [*short, self.message(data, offset, offset + len(data), data)]
        return self.pieces(direction, data, offset)

    @staticmethod
    def is_in_stream(held, data):
        """Say whether messages follow their length, as the first bytes tell; None: too few."""
        first = held + data
        if is_datagram(data[:SEEN], False):
            return bool(held) and is_stream(first[:SEEN], True)
        if len(first) >= 2 + HEADER.size:
            return bool(held) or is_stream(data[:SEEN], True) or int.from_bytes(data[:2], "big") == len(data) - 2
        if held or len(data) < HEADER.size:
            return None
        # Not much more than a header.  As a datagram it answers an error or is damaged; read as
        # one, a length and the begin of a query on a stream would ask 256 questions.
        _, flags, asked, *_ = HEADER.unpack_from(data)
        return False if 0 < asked < 256 or flags & 0x8000 and not asked else None

    def message(self, data, start, end, covered):
        """Make the unit of one message; `covered` is what it covers when it is none."""
        message = parse(data)
        if message is None:
            self.count("short")
            return Unit(start, end, "other", None, covered)
        if not message.whole:
            self.count("bad_question")
        return Unit(start, end, "response" if message.response else "query", message, data)

    def pieces(self, direction, data, offset):
        """Cut a stream's bytes into messages, which follow their length in two bytes."""
        held = self.held[direction]
        if direction in self.lost:
            if not is_stream(data[:SEEN], False):
                return [Unit(offset, offset + len(data), "other", None, data)] if data else []
            self.lost.discard(direction)
            self.count("resync")
        start, at, units = offset - len(held), 0, []
        held += data
        while len(held) >= at + 2 and len(held) >= (end := at + 2 + int.from_bytes(held[at:at + 2], "big")):
            units.append(self.message(bytes(held[at + 2:end]), start + at, start + end, bytes(held[at:end])))
            at = end
        del held[:at]
        return units

    def gap(self, direction, offset, length, ts):
        """Give up the message that the gap cuts; the next piece that begins one goes on."""
        units = self.finish(direction, offset, ts)
        if self.stream is not False:
            self.lost.add(direction)
            self.count("gap")
        return [*units, Unit(offset, offset + length, "gap")]

    def finish(self, direction, offset, ts):
        """Give what is held of a message that never came whole."""
        held = bytes(self.held[direction])
        self.held[direction].clear()
        return [Unit(offset - len(held), offset, "other", None, held)] if held else []
