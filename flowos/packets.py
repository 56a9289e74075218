"""Packets made by hand: Ethernet, IPv4 and IPv6, TCP and UDP, with right checksums; captures of them.

Bytes in, bytes out.  An endpoint is a pair (address, port); the address says which IP it is.

>>> frame = ethernet(udp(("10.0.0.1", 1000), ("10.0.0.2", 53), b"hello"))
>>> len(frame), frame[-5:]
(47, b'hello')
"""
import ipaddress
import struct

TCP, UDP = 6, 17
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


def checksum(data):
    """Give the Internet checksum of some bytes (RFC 1071); 0 for bytes that hold their own right one.

    >>> hex(checksum(bytes.fromhex("0001f203f4f5f6f7")))
    '0x220d'
    """
    total = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def ip(src, dst, protocol, payload, number=0, ttl=64):
    """Wrap a payload in an IPv4 (RFC 791) or IPv6 (RFC 8200) header, by the addresses' kind."""
    source, target = ipaddress.ip_address(src), ipaddress.ip_address(dst)
    if source.version == 6:
        return struct.pack(">IHBB", 6 << 28, len(payload), protocol, ttl) + source.packed + target.packed + payload
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), number & 0xffff, 0x4000, ttl, protocol, 0)
    header += source.packed + target.packed
    return header[:10] + struct.pack(">H", checksum(header)) + header[12:] + payload


def pseudo_header(src, dst, protocol, length):
    """Give the pseudo header that transport checksums cover (RFC 9293 section 3.1, RFC 8200 section 8.1)."""
    addresses = ipaddress.ip_address(src).packed + ipaddress.ip_address(dst).packed
    return addresses + struct.pack(">HH" if len(addresses) == 8 else ">II",
                                   *((protocol, length) if len(addresses) == 8 else (length, protocol)))


def tcp(src, dst, seq, ack=0, flags=ACK, payload=b"", window=65535, options=b"", **fields):
    """Make an IP packet with a TCP segment from one endpoint to another (RFC 9293)."""
    options += b"\1" * (-len(options) % 4)
    segment = struct.pack(">HHIIBBHHH", src[1], dst[1], seq & 0xffffffff, ack & 0xffffffff,
                          (20 + len(options)) << 2, flags, window, 0, 0) + options + payload
    value = checksum(pseudo_header(src[0], dst[0], TCP, len(segment)) + segment)
    return ip(src[0], dst[0], TCP, segment[:16] + struct.pack(">H", value) + segment[18:], **fields)


def udp(src, dst, payload=b"", **fields):
    """Make an IP packet with a UDP datagram from one endpoint to another (RFC 768)."""
    datagram = struct.pack(">HHHH", src[1], dst[1], 8 + len(payload), 0) + payload
    value = checksum(pseudo_header(src[0], dst[0], UDP, len(datagram)) + datagram) or 0xffff
    return ip(src[0], dst[0], UDP, datagram[:6] + struct.pack(">H", value) + datagram[8:], **fields)


def ethernet(packet, src=b"\2\0\0\0\0\1", dst=b"\2\0\0\0\0\2"):
    """Wrap an IP packet in an Ethernet frame."""
    return dst + src + (b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet


def valid(frame):
    """Say whether all checksums of an Ethernet frame with TCP or UDP over IP are right.

    >>> frame = ethernet(tcp(("::1", 1), ("::2", 2), 100, payload=b"x"))
    >>> valid(frame), valid(frame[:-1] + b"y")
    (True, False)
    """
    packet = frame[14:]
    if packet[0] >> 4 == 4:
        size, length, protocol = (packet[0] & 15) * 4, struct.unpack_from(">H", packet, 2)[0], packet[9]
        addresses, right = packet[12:20], checksum(packet[:size]) == 0
    else:
        size, length, protocol = 40, 40 + struct.unpack_from(">H", packet, 4)[0], packet[6]
        addresses, right = packet[8:40], True
    segment, half = packet[size:length], len(addresses) // 2
    if protocol == UDP and segment[6:8] == b"\0\0" and half == 4:
        return right
    source, target = (str(ipaddress.ip_address(part)) for part in (addresses[:half], addresses[half:]))
    return right and checksum(pseudo_header(source, target, protocol, len(segment)) + segment) == 0


def save(path, packets, link=1):
    """Write a pcap file (times in ns) of packets: (ns since the epoch, frame) each, in order."""
    with open(path, "wb") as file:
        file.write(struct.pack("<IHHiIII", 0xa1b23c4d, 2, 4, 0, 0, 262144, link))
        for ts, frame in packets:
            file.write(struct.pack("<IIII", ts // 10**9, ts % 10**9, len(frame), len(frame)) + frame)


class Conversation:
    """A TCP connection between two ends, written down packet by packet, each a millisecond after the last.

    `packets` lists (ns, frame).  Both ends acknowledge what they got with all they send.

    >>> talk = Conversation().open().a(b"GET / HTTP/1.0\\r\\n\\r\\n").b(b"HTTP/1.0 200 OK\\r\\n\\r\\n").close()
    >>> len(talk.packets), all(valid(frame) for _, frame in talk.packets)
    (8, True)
    """

    def __init__(self, a=("10.0.0.1", 40000), b=("10.0.0.2", 80), isns=(1000, 70000), start=1_700_000_000 * 10**9,
                 step=10**6):
        self.ends, self.next, self.now, self.step = (a, b), list(isns), start, step
        self.packets = []

    def segment(self, side, payload=b"", flags=ACK):
        """Send one segment from an end (0 or 1)."""
        self.now += self.step
        here, there = self.ends[side], self.ends[1 - side]
        packet = tcp(here, there, self.next[side], self.next[1 - side] if flags & ACK else 0, flags, payload,
                     number=len(self.packets))
        self.packets.append((self.now, ethernet(packet)))
        self.next[side] += len(payload) + bool(flags & SYN) + bool(flags & FIN)
        return self

    def open(self):
        """Shake hands."""
        return self.segment(0, flags=SYN).segment(1, flags=SYN | ACK).segment(0)

    def a(self, data, mss=1400):
        """Let a send data, in segments of at most `mss` bytes; b acknowledges nothing of its own."""
        return self.send(0, data, mss)

    def b(self, data, mss=1400):
        """Let b send data."""
        return self.send(1, data, mss)

    def send(self, side, data, mss=1400):
        """Let an end (0 or 1) send data in segments of at most `mss` bytes."""
        for at in range(0, len(data), mss):
            self.segment(side, data[at:at + mss], ACK | PSH)
        return self

    def close(self):
        """Let both ends finish, a first."""
        return self.segment(0, flags=ACK | FIN).segment(1, flags=ACK | FIN).segment(0)

    def reset(self, side=0):
        """Let an end reset the connection."""
        return self.segment(side, flags=ACK | RST)

    def save(self, path):
        """Write the packets to a pcap file."""
        save(path, self.packets)
