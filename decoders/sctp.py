"""The fields of an SCTP header and its chunks (RFC 9260).  The core orders the DATA chunks itself."""
import struct
from dataclasses import dataclass

FIXED = struct.Struct(">HHII")
DATA = struct.Struct(">IHHI")
CHUNKS = {0: "DATA", 1: "INIT", 2: "INIT ACK", 3: "SACK", 4: "HEARTBEAT", 5: "HEARTBEAT ACK", 6: "ABORT",
          7: "SHUTDOWN", 8: "SHUTDOWN ACK", 9: "ERROR", 10: "COOKIE ECHO", 11: "COOKIE ACK", 12: "ECNE", 13: "CWR",
          14: "SHUTDOWN COMPLETE", 15: "AUTH", 64: "I-DATA", 128: "ASCONF-ACK", 130: "RE-CONFIG", 132: "PAD",
          192: "FORWARD TSN", 193: "ASCONF", 194: "I-FORWARD-TSN"}


@dataclass(frozen=True, slots=True)
class SctpChunk:
    """One chunk; `value` is what follows its four bytes of header, padding left out.

    The fields from `tsn` on are a DATA chunk's, None in others; its user data is `value[12:]`.
    """

    kind: int
    name: str
    flags: int
    length: int
    value: bytes
    tsn: int | None = None
    stream: int | None = None
    sequence: int | None = None
    payload_protocol: int | None = None
    beginning: bool | None = None
    ending: bool | None = None
    unordered: bool | None = None


@dataclass(frozen=True, slots=True)
class SctpHeader:
    """An SCTP common header and the chunks behind it."""

    source_port: int
    destination_port: int
    verification_tag: int
    checksum: int
    chunks: tuple


def chunks(data):
    """Read chunks up to the end or the first damaged one; the last may be cut: a tuple of SctpChunk."""
    found, at = [], 0
    while at + 4 <= len(data):
        kind, flags, length = struct.unpack_from(">BBH", data, at)
        if length < 4:
            break
        value = bytes(data[at + 4:at + length])
        own = (*DATA.unpack_from(value), *(bool(flags & bit) for bit in (2, 1, 4))) \
            if kind == 0 and len(value) >= DATA.size else ()
        found.append(SctpChunk(kind, CHUNKS.get(kind, ""), flags, length, value, *own))
        at += length + 3 & ~3
    return tuple(found)


def fields(header):
    """Read the header and the chunks at the beginning of bytes; None where the common header is cut.

    >>> fields(bytes.fromhex("0050d43100000001000000000e000004")).chunks[0].name
    'SHUTDOWN COMPLETE'
    """
    if len(header) < FIXED.size:
        return None
    return SctpHeader(*FIXED.unpack_from(header), chunks(header[FIXED.size:]))
