"""Capture files built byte by byte, a plain reader of them to compare with, and how tests drain a port.

The reader knows the formats as their drafts describe them and uses nothing of FlowOS; it reads a
whole input from memory and is slow.
"""
import random
import socket
import struct
import threading
from collections import namedtuple
from fractions import Fraction

from flowos.core.streamport import StreamPort

MICRO, NANO, KUZNETZOV = 0xa1b2c3d4, 0xa1b23c4d, 0xa1b2cd34
IXIA_HARDWARE, IXIA_SOFTWARE = 0x1c0001ac, 0x1c0001ab
MAX_FRAME, MAX_BLOCK, NO_TIME = 262144, 16 << 20, 2

Packet = namedtuple("Packet", "ts len wire link iface flags data")


# --------------------------------------------------------------------------- for all tests

def packet_of(slot):
    """Give a slot's fields, its frame copied."""
    return Packet(slot.ts, slot.len, slot.wire, slot.link, slot.iface, slot.flags, slot.data)


def drain(port):
    """Read a port to its end: a list of packets, each released at once."""
    packets, ring = [], port.rx_ring
    while True:
        port.rx_sync()
        packets.extend(map(packet_of, ring))
        if ring.head == ring.tail and port.ended:
            return packets
        ring.head = ring.tail
        ring._check()


def save(tmp_path, data, name="x.pcap"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def frames(count, seed=1, most=90):
    """Give `count` frames of random bytes and lengths."""
    source = random.Random(seed)
    return [source.randbytes(source.randrange(most)) for _ in range(count)]


def streamed(data, slots=16, step=None):
    """Read bytes through a socket, `step` at a time."""
    ours, theirs = socket.socketpair()

    def send():
        with theirs:
            for at in range(0, len(data), step or len(data) or 1):
                theirs.sendall(data[at:at + (step or len(data))])

    sender = threading.Thread(target=send)
    sender.start()
    try:
        with ours, StreamPort(ours, slots) as port:
            return drain(port), port.statistics(), port.problem
    finally:
        ours.close()
        sender.join()


# -------------------------------------------------------------------------------------- pcap

def pcap_header(order="<", magic=MICRO, snaplen=65535, link=1, major=2, minor=4):
    """Build a pcap file's header."""
    header = struct.pack(order + "IHHiIII", magic, major, minor, 0, 0, snaplen, link)
    return header + (bytes(4) if magic in (IXIA_HARDWARE, IXIA_SOFTWARE) else b"")


def pcap_record(seconds, fraction, data, wire=None, order="<", magic=MICRO, wire_first=False):
    """Build a pcap record; `fraction` is in the file's own unit, `wire_first` puts the lengths as versions up to 2.2 did."""
    lengths = (len(data), len(data) if wire is None else wire)
    header = struct.pack(order + "IIII", seconds, fraction, *lengths[::-1 if wire_first else 1])
    return header + (struct.pack(order + "IHBB", 3, 0x0800, 0, 0) if magic == KUZNETZOV else b"") + data


# ------------------------------------------------------------------------------------ pcapng

def block(kind, body, order="<"):
    """Build a pcapng block."""
    body += bytes(-len(body) % 4)
    size = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + size + body + size


def options(*pairs, order="<"):
    """Build a list of options from (code, bytes) pairs, with its end."""
    return b"".join(struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)
                    for code, value in pairs) + (bytes(4) if pairs else b"")


def section(order="<", major=1, minor=0):
    """Build a section header."""
    return block(0x0a0d0d0a, struct.pack(order + "IHHq", 0x1a2b3c4d, major, minor, -1), order)


def interface(link=1, snaplen=0, resolution=None, offset=None, name=None, order="<"):
    """Build an interface description."""
    pairs = [(2, name)] if name is not None else []
    pairs += [(9, bytes([resolution]))] if resolution is not None else []
    pairs += [(14, struct.pack(order + "q", offset))] if offset is not None else []
    return block(1, struct.pack(order + "HHI", link, 0, snaplen) + options(*pairs, order=order), order)


def enhanced(number, time, data, wire=None, order="<", extra=b""):
    """Build an enhanced packet block."""
    body = struct.pack(order + "IIIII", number, time >> 32, time & 0xffffffff, len(data),
                       len(data) if wire is None else wire)
    return block(6, body + data + bytes(-len(data) % 4) + extra, order)


def simple(data, wire=None, order="<"):
    """Build a simple packet block."""
    return block(3, struct.pack(order + "I", len(data) if wire is None else wire) + data, order)


def obsolete(number, time, data, wire=None, order="<"):
    """Build an obsolete packet block."""
    return block(2, struct.pack(order + "HHIIII", number, 0, time >> 32, time & 0xffffffff, len(data),
                                len(data) if wire is None else wire) + data, order)


def interface_time(time, resolution=6, offset=0):
    """Give the ns of a pcapng time, by exact arithmetic, limited to what FlowOS holds."""
    base, power = (2, resolution & 0x7f) if resolution & 0x80 else (10, resolution)
    unit = Fraction(10**9, base**power)
    if (base == 10 or power == 0) and unit >= 1 and time >= 1 << 63:
        time -= 1 << 64                       # no date: a time before the epoch
    ns = int(time * unit) + offset * 10**9    # never negative where it is not whole
    most = (1 << 62) - 1
    return max(-most, min(most, ns))


# ------------------------------------------------------------------------------------ reader

def read_plainly(data):
    """Read a capture: its packets, the number of damaged records or blocks, whether its end is cut.

    ValueError: it does not begin as a capture does.
    """
    if data[:4] == b"\x0a\x0d\x0d\x0a":
        return read_pcapng(data)
    for order in "<>":
        magic = struct.unpack_from(order + "I", data)[0] if len(data) >= 4 else 0
        if magic in (MICRO, NANO, KUZNETZOV, IXIA_HARDWARE, IXIA_SOFTWARE):
            return read_pcap(data, order, magic)
    raise ValueError("no capture")


def read_pcap(data, order, magic):
    """Read a pcap file."""
    at = 28 if magic in (IXIA_HARDWARE, IXIA_SOFTWARE) else 24
    if len(data) < at or struct.unpack_from(order + "H", data, 4)[0] != 2:
        raise ValueError("header")
    link, minor = struct.unpack_from(order + "I", data, 20)[0] & 0xffff, struct.unpack_from(order + "H", data, 6)[0]
    unit = 1 if magic == NANO else 1000
    head, packets = 24 if magic == KUZNETZOV else 16, []
    while at < len(data):
        if len(data) - at < head:
            return packets, 0, True
        seconds, fraction, size, wire = struct.unpack_from(order + "IIII", data, at)
        if minor < 3 or minor == 3 and size > wire:
            size, wire = wire, size
        if size > MAX_FRAME:
            return packets, 1, False
        if len(data) - at < head + size:
            return packets, 0, True
        frame = data[at + head:at + head + size]
        packets.append(Packet(seconds * 10**9 + fraction * unit, size, wire, link, 0, 0, frame))
        at += head + size
    return packets, 0, False


def read_pcapng(data):
    """Read a pcapng file."""
    at, packets, damaged, last = 0, [], 0, 0
    interfaces, numbered = [], 0
    order = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}.get(data[8:12])
    if len(data) < 28 or order is None or not 28 <= struct.unpack_from(order + "I", data, 4)[0] <= MAX_BLOCK \
            or struct.unpack_from(order + "H", data, 12)[0] != 1:
        raise ValueError("header")
    while at < len(data):
        if len(data) - at < 12:
            return packets, damaged, True
        first = data[at:at + 4] == b"\x0a\x0d\x0d\x0a"
        if first:
            order = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}.get(data[at + 8:at + 12])
            if order is None:
                return packets, damaged + 1, False
        kind, size = struct.unpack_from(order + "II", data, at)
        if size < 12 or size > MAX_BLOCK:
            return packets, damaged + 1, False
        padded = size + -size % 4
        if len(data) - at < padded:
            return packets, damaged, True
        if struct.unpack_from(order + "I", data, at + padded - 4)[0] not in (size, padded):
            return packets, damaged + 1, False
        body = data[at + 8:at + padded - 4]
        at += padded
        if first:
            if len(body) < 16 or struct.unpack_from(order + "H", body, 4)[0] != 1:
                return packets, damaged + 1, False
            numbered += len(interfaces)
            interfaces = []
        elif kind == 1:
            if len(body) < 8:
                damaged += 1
                continue
            made, bad = read_interface(body, order)
            interfaces.append(made)
            damaged += bad
        elif kind in (2, 3, 6):
            packet = read_packet(kind, body, order, interfaces, last)
            if packet is None:
                damaged += 1
                continue
            last = packet.ts
            packets.append(packet._replace(iface=packet.iface + numbered))
    return packets, damaged, False


def read_interface(body, order):
    """Read an interface description: (link, snaplen, resolution, offset), and 1 where it is damaged."""
    link, _, snaplen = struct.unpack_from(order + "HHI", body)
    at, resolution, offset = 8, 6, 0
    while at + 4 <= len(body):
        code, size = struct.unpack_from(order + "HH", body, at)
        if code == 0:
            break
        if at + 4 + size > len(body):
            return (link, snaplen, resolution, offset), 1
        value = body[at + 4:at + 4 + size]
        if code == 9 and size == 1:
            resolution = value[0]
        elif code == 14 and size == 8:
            offset = struct.unpack(order + "q", value)[0]
        at += 4 + size + -size % 4
    return (link, snaplen, resolution, offset), 0


def read_packet(kind, body, order, interfaces, last):
    """Read a packet block, or give None where it contradicts itself."""
    if kind == 3:
        if len(body) < 4 or not interfaces:
            return None
        link, snaplen, _, _ = interfaces[0]
        wire = struct.unpack_from(order + "I", body)[0]
        size = min(wire, snaplen or wire)
        if size > min(len(body) - 4, MAX_FRAME):
            return None
        return Packet(last, size, wire, link, 0, NO_TIME, body[4:4 + size])
    if len(body) < 20:
        return None
    if kind == 6:
        number, high, low, size, wire = struct.unpack_from(order + "IIIII", body)
    else:
        number, _, high, low, size, wire = struct.unpack_from(order + "HHIIII", body)
    if number >= len(interfaces) or size > min(len(body) - 20, MAX_FRAME):
        return None
    link, _, resolution, offset = interfaces[number]
    return Packet(interface_time(high << 32 | low, resolution, offset), size, wire, link, number, 0, body[20:20 + size])
