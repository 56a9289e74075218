"""The fields of a UDP or UDP-Lite header (RFC 768, 3828)."""
import struct
from dataclasses import dataclass

FIXED = struct.Struct(">4H")


@dataclass(frozen=True, slots=True)
class UdpHeader:
    """A UDP header; in UDP-Lite `length` is the checksum's coverage in bytes, 0 for all."""

    source_port: int
    destination_port: int
    length: int
    checksum: int


def fields(header):
    """Read the header at the beginning of bytes; None where it is cut.

    >>> fields(bytes.fromhex("d431003500200000")).destination_port
    53
    """
    return UdpHeader(*FIXED.unpack_from(header)) if len(header) >= FIXED.size else None
