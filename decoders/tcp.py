"""The fields of a TCP header and its options (RFC 9293, 7323, 2018).  The core reassembles TCP itself."""
import struct
from dataclasses import dataclass

FIXED = struct.Struct(">HHIIHHHH")
MSS, WINDOW_SCALE, SACK_PERMITTED, SACK, TIMESTAMPS = 2, 3, 4, 5, 8
OPTIONS = {0: "end", 1: "no_operation", MSS: "maximum_segment_size", WINDOW_SCALE: "window_scale",
           SACK_PERMITTED: "sack_permitted", SACK: "sack", TIMESTAMPS: "timestamps", 19: "md5_signature",
           28: "user_timeout", 29: "authentication", 30: "multipath", 34: "fast_open", 69: "encryption_negotiation",
           172: "accurate_ecn_0", 174: "accurate_ecn_1"}


@dataclass(frozen=True, slots=True)
class TcpOption:
    """One option: its kind, the kind's name or "", its data without kind and length."""

    kind: int
    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class TcpHeader:
    """A TCP header; `header_length` is in bytes.

    An option that is absent, or has the wrong length, leaves None, or () for the SACK blocks,
    which are (left edge, right edge) pairs; `timestamps` is (value, echo reply).
    """

    source_port: int
    destination_port: int
    sequence_number: int
    acknowledgment_number: int
    header_length: int
    reserved: int
    ae: bool
    cwr: bool
    ece: bool
    urg: bool
    ack: bool
    psh: bool
    rst: bool
    syn: bool
    fin: bool
    window: int
    checksum: int
    urgent_pointer: int
    options: tuple
    maximum_segment_size: int | None
    window_scale: int | None
    sack_permitted: bool
    sack_blocks: tuple
    timestamps: tuple | None


def options(data):
    """Read options up to the end or the first damaged one: a tuple of TcpOption."""
    found, at = [], 0
    while at < len(data):
        kind, size = data[at], 1
        if kind > 1:
            size = data[at + 1] if at + 1 < len(data) else 0
            if size < 2 or at + size > len(data):
                break
        found.append(TcpOption(kind, OPTIONS.get(kind, ""), bytes(data[at + 2:at + size])))
        if kind == 0:
            break
        at += size
    return tuple(found)


def fields(header):
    """Read the header at the beginning of bytes; None where the fixed part is cut.

    >>> header = fields(bytes.fromhex("d4310050000000010000000060 02faf0 0000 0000 020405b4"))
    >>> header.syn, header.ack, header.maximum_segment_size
    (True, False, 1460)
    """
    if len(header) < FIXED.size:
        return None
    source, target, sequence, acknowledged, word, window, checksum, urgent = FIXED.unpack_from(header)
    size = word >> 12 << 2
    found = options(header[FIXED.size:size])
    first = {}
    for option in found:
        first.setdefault(option.kind, option.data)
    sack = first.get(SACK, b"")
    edges = struct.unpack(f">{len(sack) // 4}I", sack) if len(sack) % 8 == 0 else ()

    def number(kind, width):
        data = first.get(kind, b"")
        return int.from_bytes(data, "big") if len(data) == width else None

    stamps = first.get(TIMESTAMPS, b"")
    return TcpHeader(
        source, target, sequence, acknowledged, size, word >> 9 & 7,
        *(bool(word & 1 << bit) for bit in range(8, -1, -1)), window, checksum, urgent, found,
        number(MSS, 2), number(WINDOW_SCALE, 1), first.get(SACK_PERMITTED) == b"",
        tuple(zip(edges[::2], edges[1::2], strict=True)), struct.unpack(">II", stamps) if len(stamps) == 8 else None)
