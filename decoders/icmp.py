"""The fields of an ICMP or ICMPv6 message (RFC 792, 1191, 4443, 4861)."""
import struct
from dataclasses import dataclass

from flowos.core.errors import UsageError

FIXED = struct.Struct(">BBH")
TYPES = {
    4: {0: "echo_reply", 3: "destination_unreachable", 4: "source_quench", 5: "redirect", 8: "echo_request",
        9: "router_advertisement", 10: "router_solicitation", 11: "time_exceeded", 12: "parameter_problem",
        13: "timestamp_request", 14: "timestamp_reply", 17: "address_mask_request", 18: "address_mask_reply",
        42: "extended_echo_request", 43: "extended_echo_reply"},
    6: {1: "destination_unreachable", 2: "packet_too_big", 3: "time_exceeded", 4: "parameter_problem",
        128: "echo_request", 129: "echo_reply", 130: "listener_query", 131: "listener_report", 132: "listener_done",
        133: "router_solicitation", 134: "router_advertisement", 135: "neighbor_solicitation",
        136: "neighbor_advertisement", 137: "redirect", 143: "listener_report_2"},
}
ASKING = {4: {0, 8, 13, 14, 17, 18}, 6: {128, 129}}     # these have an identifier and a sequence number
ERRORS = {4: {3, 4, 5, 11, 12}, 6: {1, 2, 3, 4}}        # these quote the packet that caused them


@dataclass(frozen=True, slots=True)
class IcmpHeader:
    """An ICMP message's header; what a type does not have is None.

    `quoted` is the packet that an error quotes, as far as it does; `mtu` is of IPv4's
    "fragmentation needed" and IPv6's "packet too big"; `pointer` of a parameter problem.
    """

    kind: int
    name: str
    code: int
    checksum: int
    identifier: int | None
    sequence_number: int | None
    mtu: int | None
    pointer: int | None
    quoted: bytes | None


def fields(header, version=4):
    """Read the message at the beginning of bytes; `version` 6 for ICMPv6; None where it is cut.

    UsageError: another version of IP.

    >>> fields(bytes.fromhex("0800f7fd00010001")).name, fields(bytes.fromhex("8000f7fd00010002"), 6).sequence_number
    ('echo_request', 2)
    """
    if version not in TYPES:
        raise UsageError(f"ICMP belongs to version 4 or 6 of IP, not {version!r}")
    if len(header) < FIXED.size:
        return None
    kind, code, checksum = FIXED.unpack_from(header)
    whole = len(header) >= 8
    identifier, sequence = struct.unpack_from(">HH", header, 4) if whole and kind in ASKING[version] else (None, None)
    mtu = pointer = None
    if whole and version == 4:
        mtu = int.from_bytes(header[6:8], "big") if (kind, code) == (3, 4) else None
        pointer = header[4] if kind == 12 else None
    elif whole:
        mtu = int.from_bytes(header[4:8], "big") if kind == 2 else None
        pointer = int.from_bytes(header[4:8], "big") if kind == 4 else None
    quoted = bytes(header[8:]) if whole and kind in ERRORS[version] else None
    return IcmpHeader(kind, TYPES[version].get(kind, ""), code, checksum, identifier, sequence, mtu, pointer, quoted)
