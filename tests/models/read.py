"""Capture files for the models: packets out of a pcap or pcapng file, as far as the models need it.

A second opinion, so nothing of the engine is used. Ethernet with VLAN tags, Linux cooked, raw IP and
BSD loopback are understood; no tunnels, no MPLS: what lies deeper is left out.
"""

import ipaddress
import struct
from typing import NamedTuple

from . import defrag, tcp

HEADERS_6 = (0, 43, 60)         # extension headers of one layout (RFC 8200, 4.2)


class Datagram(NamedTuple):
    """One whole IP packet's payload: its ends, protocol, length by the IP header, bytes captured."""

    src: str
    dst: str
    protocol: int
    length: int
    payload: bytes


def frames(data):
    """Yield (number, time in ns, link type, bytes) of each packet in a capture file."""
    if data[:4] == b"\x0a\x0d\x0d\x0a":
        yield from frames_pcapng(data)
        return
    order = "<" if data[0] in (0xD4, 0x4D) else ">"
    magic, = struct.unpack_from(order + "I", data)
    unit = 1 if magic == 0xA1B23C4D else 1000
    linktype, = struct.unpack_from(order + "I", data, 20)
    at, number = 24, 0
    while at + 16 <= len(data):
        seconds, fraction, captured = struct.unpack_from(order + "III", data, at)
        number += 1
        yield number, seconds * 10**9 + fraction * unit, linktype & 0x0FFFFFFF, data[at + 16:at + 16 + captured]
        at += 16 + captured


def frames_pcapng(data):
    at, number, order, interfaces = 0, 0, "<", []
    while at + 12 <= len(data):
        if data[at:at + 4] == b"\x0a\x0d\x0d\x0a":
            order, interfaces = "<" if data[at + 8:at + 12] == b"\x4d\x3c\x2b\x1a" else ">", []
        kind, length = struct.unpack_from(order + "II", data, at)
        if kind == 1:
            interfaces.append((struct.unpack_from(order + "H", data, at + 8)[0],
                               resolution(data[at + 16:at + length - 4], order)))
        number += kind != 1                                 # tshark numbers other blocks, too
        if kind == 6:
            interface, high, low, captured = struct.unpack_from(order + "IIII", data, at + 8)
            linktype, unit = interfaces[interface]
            yield number, int((high << 32 | low) * unit), linktype, data[at + 28:at + 28 + captured]
        at += length


def resolution(options, order):
    """Give the length of an interface's tick in ns."""
    at = 0
    while at + 4 <= len(options):
        code, length = struct.unpack_from(order + "HH", options, at)
        if code == 9:
            value = options[at + 4]
            return 10**9 / (2 ** (value & 0x7F) if value & 0x80 else 10 ** value)
        at += 4 + (length + 3) // 4 * 4
    return 1000


def ip_packet(linktype, frame):
    """Give the IP packet in a frame, or nothing."""
    if linktype == 1:
        at, kind = 14, frame[12:14]
    elif linktype == 113:
        at, kind = 16, frame[14:16]
    elif linktype in (12, 14, 101):
        return frame
    elif linktype in (0, 108):
        return frame[4:]
    else:
        return b""
    while kind in (b"\x81\x00", b"\x88\xa8"):
        at, kind = at + 4, frame[at + 2:at + 4]
    return frame[at:] if kind in (b"\x08\x00", b"\x86\xdd") else b""


def address(raw):
    return str(ipaddress.ip_address(raw))


def datagrams(packet, ts, defragmenter):
    """Yield the whole datagram that an IP packet is or completes."""
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        header = (packet[0] & 15) * 4
        total, identity, fragment = struct.unpack_from(">HHH", packet, 2)
        src, dst, protocol = address(packet[12:16]), address(packet[16:20]), packet[9]
        length, payload = total - header, packet[header:total]
        offset, more, is_fragment = (fragment & 0x1FFF) * 8, bool(fragment & 0x2000), fragment & 0x3FFF
        version = 4
    elif len(packet) >= 40 and packet[0] >> 4 == 6:
        size, protocol = struct.unpack_from(">HB", packet, 4)
        src, dst, at, version = address(packet[8:24]), address(packet[24:40]), 40, 6
        while protocol in HEADERS_6 and at + 2 <= len(packet):
            protocol, at = packet[at], at + (packet[at + 1] + 1) * 8
        is_fragment = protocol == 44 and at + 8 <= len(packet)
        if is_fragment:
            protocol, _, fragment, identity = struct.unpack_from(">BBHI", packet, at)
            at, offset, more = at + 8, fragment & 0xFFF8, bool(fragment & 1)
        length, payload = 40 + size - at, packet[at:40 + size]
    else:
        return
    if not is_fragment:
        yield Datagram(src, dst, protocol, length, payload)
        return
    whole = defragmenter.fragment(defrag.Fragment(version, src, dst, identity, protocol, ts, offset, more,
                                                  length, payload))
    if whole is not None:
        yield Datagram(src, dst, protocol, len(whole), whole)


def tcp_segment(datagram):
    """Give (source end, destination end, seq, ack, flags, length, payload), or None where damaged."""
    if datagram.protocol != 6 or len(datagram.payload) < 20:
        return None
    sport, dport, seq, ack, offset, flags = struct.unpack_from(">HHIIBB", datagram.payload)
    header = (offset >> 4) * 4
    if header < 20 or header > datagram.length:
        return None
    return ((datagram.src, sport), (datagram.dst, dport), seq, ack, flags,
            datagram.length - header, datagram.payload[header:])


def tcp_pairs(data, defragmenter=None):
    """Give {(end, end): [tcp.Packet]} of a capture file; direction 0 is sent by the key's first end."""
    defragmenter = defragmenter or defrag.Defragmenter()
    pairs = {}
    for _, ts, linktype, frame in frames(data):
        for datagram in datagrams(ip_packet(linktype, frame), ts, defragmenter):
            segment = tcp_segment(datagram)
            if segment is not None and segment[0] != segment[1]:
                here, there = segment[:2]
                key = min(here, there), max(here, there)
                pairs.setdefault(key, []).append(tcp.Packet(int(here != key[0]), ts, *segment[2:]))
    return pairs
