"""Frames and capture files for tests: Ethernet, IPv4, IPv6, TCP, UDP, fragments, written with `struct`.

Everything is bytes in, bytes out; checksums are right. `pcap` joins frames into a capture file with
nanosecond times; a record longer on the wire than in the file is one that the snaplen cut.
"""

import ipaddress
import struct

from .tcp import ACK

A, B = ("10.0.0.1", 40000), ("10.0.0.2", 80)
A6, B6 = ("2001:db8::1", 40000), ("2001:db8::2", 80)
START_NS = 1_700_000_000_000_000_000
TCP, UDP, HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION = 6, 17, 0, 43, 44, 60


def checksum(data):
    """Give the Internet checksum of some bytes (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packed(address):
    return ipaddress.ip_address(address).packed


def ethernet(payload, ethertype=None, src=b"\x02\0\0\0\0\x01", dst=b"\x02\0\0\0\0\x02"):
    """Wrap a packet in an Ethernet frame; the type is read off an IP header."""
    if ethertype is None:
        ethertype = {4: 0x0800, 6: 0x86DD}[payload[0] >> 4]
    return dst + src + struct.pack(">H", ethertype) + payload


def ipv4(src, dst, protocol, payload, *, id=0, offset=0, more=False, ttl=64):
    """Make an IPv4 packet, or a fragment of one: `offset` is in bytes (RFC 791)."""
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), id, more << 13 | offset // 8,
                         ttl, protocol, 0, packed(src), packed(dst))
    return header[:10] + struct.pack(">H", checksum(header)) + header[12:] + payload


def ipv6(src, dst, next_header, payload, *, hops=64):
    """Make an IPv6 packet (RFC 8200)."""
    return struct.pack(">IHBB16s16s", 6 << 28, len(payload), next_header, hops,
                       packed(src), packed(dst)) + payload


def extension(next_header, body=b""):
    """Make an options or routing extension header, padded to eight bytes (RFC 8200, 4.2)."""
    body += bytes(-(2 + len(body)) % 8)
    return struct.pack(">BB", next_header, (2 + len(body)) // 8 - 1) + body


def fragment_header(next_header, id, offset=0, more=False):
    """Make an IPv6 fragment header; `offset` is in bytes (RFC 8200, 4.5)."""
    return struct.pack(">BBHI", next_header, 0, offset & 0xFFF8 | more, id)


def with_checksum(src, dst, protocol, segment, at):
    """Fill in a transport checksum at `at` over the pseudo header (RFC 9293, 3.1; RFC 8200, 8.1)."""
    src, dst = packed(src), packed(dst)
    pseudo = src + dst + (struct.pack(">BBH", 0, protocol, len(segment)) if len(src) == 4
                          else struct.pack(">II", len(segment), protocol))
    value = checksum(pseudo + segment)
    return segment[:at] + struct.pack(">H", value or (0xFFFF if protocol == UDP else 0)) + segment[at + 2:]


def tcp(a, b, seq, ack, flags, payload=b"", *, window=65535, options=b""):
    """Make a TCP segment from endpoint `a` to endpoint `b` (RFC 9293)."""
    options += bytes(-len(options) % 4)
    segment = struct.pack(">HHIIBBHHH", a[1], b[1], seq, ack, (5 + len(options) // 4) << 4, flags,
                          window, 0, 0) + options + payload
    return with_checksum(a[0], b[0], TCP, segment, 16)


def udp(a, b, payload=b""):
    """Make a UDP datagram from endpoint `a` to endpoint `b` (RFC 768)."""
    segment = struct.pack(">HHHH", a[1], b[1], 8 + len(payload), 0) + payload
    return with_checksum(a[0], b[0], UDP, segment, 6)


def ip(a, b, protocol, payload, **fields):
    """Make an IPv4 or IPv6 packet, as the endpoints' addresses ask."""
    make = ipv6 if ":" in a[0] else ipv4
    return make(a[0], b[0], protocol, payload, **fields)


def pcap(packets, linktype=1, snaplen=262144):
    """Write a capture file of packets: (time in ns, frame) or (time in ns, frame, length on the wire)."""
    parts = [struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, snaplen, linktype)]
    for ts, frame, *length in packets:
        parts.append(struct.pack("<IIII", ts // 10**9, ts % 10**9, len(frame), *(length or [len(frame)])))
        parts.append(frame)
    return b"".join(parts)


def tcp_record(packet, a=A, b=B):
    """Turn a packet of the TCP model into a record for `pcap`; what was not captured is cut off."""
    here, there = (a, b) if packet.direction == 0 else (b, a)
    missing = packet.length - len(packet.payload)
    segment = tcp(here, there, packet.seq, packet.ack if packet.flags & ACK else 0, packet.flags,
                  packet.payload + bytes(missing))
    frame = ethernet(ip(here, there, TCP, segment))
    return packet.ts, frame[:len(frame) - missing], len(frame)


def fragment_record(fragment):
    """Turn a fragment of the defragmentation model into a record for `pcap`."""
    missing = fragment.length - len(fragment.payload)
    payload = fragment.payload + bytes(missing)
    if fragment.version == 4:
        packet = ipv4(fragment.src, fragment.dst, fragment.protocol, payload, id=fragment.id,
                      offset=fragment.offset, more=fragment.more)
    else:
        packet = ipv6(fragment.src, fragment.dst, FRAGMENT,
                      fragment_header(fragment.protocol, fragment.id, fragment.offset, fragment.more) + payload)
    frame = ethernet(packet)
    return fragment.ts, frame[:len(frame) - missing], len(frame)
