"""The fields of an IPv4 header (RFC 791, 2474, 3168).  The core frames and defragments IPv4 itself."""
import struct
from dataclasses import dataclass
from socket import AF_INET, inet_ntop

FIXED = struct.Struct(">BBHHHBBH4s4s")
OPTIONS = {0: "end", 1: "no_operation", 7: "record_route", 68: "timestamp", 130: "security",
           131: "loose_source_route", 136: "stream_id", 137: "strict_source_route", 148: "router_alert"}


@dataclass(frozen=True, slots=True)
class Ip4Option:
    """One option: its type with the copied flag and class in it, the type's name or "", its data."""

    kind: int
    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Ip4Header:
    """An IPv4 header; lengths and the fragment offset are in bytes."""

    version: int
    header_length: int
    dscp: int
    ecn: int
    total_length: int
    identification: int
    reserved: bool
    dont_fragment: bool
    more_fragments: bool
    fragment_offset: int
    time_to_live: int
    protocol: int
    header_checksum: int
    source_address: str
    destination_address: str
    options: tuple


def options(data):
    """Read options up to the end or the first damaged one: a tuple of Ip4Option."""
    found, at = [], 0
    while at < len(data):
        kind, size = data[at], 1
        if kind > 1:
            size = data[at + 1] if at + 1 < len(data) else 0
            if size < 2 or at + size > len(data):
                break
        found.append(Ip4Option(kind, OPTIONS.get(kind, ""), bytes(data[at + 2:at + size])))
        if kind == 0:
            break
        at += size
    return tuple(found)


def fields(header):
    """Read the header at the beginning of bytes; None where the fixed part is cut.

    Options that are cut or damaged are left out, with all behind them.

    >>> fields(bytes.fromhex("45000054abcd40004006f96cc0000201c0000202")).destination_address
    '192.0.2.2'
    """
    if len(header) < FIXED.size:
        return None
    first, service, length, number, fragment, ttl, protocol, checksum, source, target = FIXED.unpack_from(header)
    size = 4 * (first & 15)
    return Ip4Header(
        first >> 4, size, service >> 2, service & 3, length, number, bool(fragment & 0x8000), bool(fragment & 0x4000),
        bool(fragment & 0x2000), 8 * (fragment & 0x1fff), ttl, protocol, checksum, inet_ntop(AF_INET, source),
        inet_ntop(AF_INET, target), options(header[FIXED.size:size]))
