"""Packets as columns, turned into the bytes of a pcap file.

A trace is an array of `PACKET` rows, one per packet, whose payloads are ranges of one pool of
bytes.  `assemble` lays the records out in one flat array: headers as rows of a structured type
per layout, payloads by their range, checksums at the end over what then lies there.

    record 16 | Ethernet 14 | IPv4 20 | nothing, UDP 8 or TCP 20 to 40 | payload | padding to 60

Nothing here loops over packets.
"""
import numpy as np

MICROSECONDS = 1_000_000
EPOCH = 1_700_000_000                   # the first packet's second: 14 November 2023
RECORD, ETHER, IP = 16, 14, 20
SHORTEST = 60                           # an Ethernet frame without its check sequence
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
MORE_FRAGMENTS, DO_NOT_FRAGMENT = 0x2000, 0x4000

# Layouts.  RAW: the payload is all that follows the IP header.  TCP_SCALED and TCP_OPENING are for
# SYNs: with the window's scale alone, and with what an operating system sends.
RAW, UDP, TCP, TCP_STAMPED, TCP_SCALED, TCP_OPENING = range(6)

PACKET = np.dtype([
    ("time", "i8"),                     # microseconds since EPOCH
    ("source", "u4"), ("destination", "u4"), ("sport", "u2"), ("dport", "u2"),
    ("layout", "u1"), ("proto", "u1"), ("flags", "u1"), ("fragment", "u2"), ("identification", "u2"),
    ("seq", "u4"), ("ack", "u4"),
    ("at", "i8"), ("length", "u4"),     # the payload: pool[at:at + length]
])

_record = [("seconds", "<u4"), ("micros", "<u4"), ("captured", "<u4"), ("wire", "<u4"),
           ("ether", "u1", ETHER),
           ("version", "u1"), ("tos", "u1"), ("total", ">u2"), ("identification", ">u2"), ("fragment", ">u2"),
           ("ttl", "u1"), ("proto", "u1"), ("ip_sum", ">u2"), ("source", ">u4"), ("destination", ">u4")]
_ports = [("sport", ">u2"), ("dport", ">u2")]
_tcp = _ports + [("seq", ">u4"), ("ack", ">u4"), ("offset", "u1"), ("flags", "u1"), ("window", ">u2"),
                 ("sum", ">u2"), ("urgent", ">u2")]
HEADERS = {
    RAW: np.dtype(_record),
    UDP: np.dtype(_record + _ports + [("udp_length", ">u2"), ("sum", ">u2")]),
    TCP: np.dtype(_record + _tcp),
    TCP_STAMPED: np.dtype(_record + _tcp + [("padded_stamps", ">u4"), ("stamp", ">u4"), ("echo", ">u4")]),
    TCP_SCALED: np.dtype(_record + _tcp + [("scale", ">u4")]),
    TCP_OPENING: np.dtype(_record + _tcp + [("segment", ">u4"), ("selective_stamps", ">u4"), ("stamp", ">u4"),
                                            ("echo", ">u4"), ("scale", ">u4")]),
}
HEADER_BYTES = np.array([HEADERS[layout].itemsize - RECORD - ETHER - IP for layout in range(len(HEADERS))])
_SUM_AT = {UDP: 6, TCP: 16, TCP_STAMPED: 16, TCP_SCALED: 16, TCP_OPENING: 16}
# Options, four bytes each: NOP NOP timestamps (RFC 7323 appendix A); selective acknowledgements
# allowed, timestamps; segments of 1460 bytes at most; NOP, windows in units of 128.
_OPTIONS = {"padded_stamps": 0x0101080A, "selective_stamps": 0x0402080A, "segment": 0x020405B4, "scale": 0x01030307}
_MACS = np.frombuffer(bytes.fromhex("020000000002" "020000000001" "0800"), np.uint8)


def file_header(nanoseconds=False):
    """Give the 24 bytes that open a pcap file of Ethernet frames, little-endian."""
    return np.array([0xA1B23C4D if nanoseconds else 0xA1B2C3D4, 4 << 16 | 2, 0, 0, 65535, 1], "<u4").tobytes()


def windows(flat, width):
    """View every range of `width` bytes of an array as a row, so that ranges can be picked by their start."""
    return np.lib.stride_tricks.as_strided(flat, (max(len(flat) - width + 1, 0), width), (1, 1))


def sums(flat, starts, ends):
    """Sum the 16-bit big-endian words of each range [start, end), not empty, an odd last byte padded with zero.

    Even and odd positions are summed apart, so a range may begin anywhere.
    """
    def every_second(first, last, phase):
        lane = flat[phase::2]
        bounds = np.empty(2 * len(first), np.int64)
        bounds[0::2], bounds[1::2] = first, last
        # reduceat takes no index past the end, and gives an element where a range is empty.
        low, high = bounds.min(), bounds.max()
        lane = np.append(lane[low:high], np.uint8(0))
        result = np.add.reduceat(lane, bounds - low, dtype=np.uint32)[0::2].astype(np.int64)
        result[first == last] = 0
        return result

    result = np.empty(len(starts), np.int64)
    for at in range(0, len(starts), 1 << 16):
        a, b = starts[at:at + (1 << 16)], ends[at:at + (1 << 16)]
        even = every_second((a + 1) // 2, (b + 1) // 2, 0)
        odd = every_second(a // 2, b // 2, 1)
        result[at:at + (1 << 16)] = np.where(a % 2 == 0, even * 256 + odd, odd * 256 + even)
    return result


def fold(total):
    """Fold sums of words into the Internet checksum (RFC 1071)."""
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def frame_lengths(packets):
    """Give the bytes of each frame, padding included."""
    inside = ETHER + IP + HEADER_BYTES[packets["layout"]] + packets["length"]
    return np.maximum(inside, SHORTEST).astype(np.int64)


def header_rows(packets, layout, lengths):
    """Make the record, Ethernet, IP and transport headers of packets of one layout; transport checksums stay 0."""
    rows = np.zeros(len(packets), HEADERS[layout])
    rows["seconds"] = EPOCH + packets["time"] // MICROSECONDS
    rows["micros"] = packets["time"] % MICROSECONDS
    rows["captured"] = rows["wire"] = lengths
    rows["ether"] = _MACS
    total = IP + HEADER_BYTES[layout] + packets["length"]
    rows["version"], rows["ttl"], rows["total"] = 0x45, 64, total
    for name in ("identification", "fragment", "proto", "source", "destination"):
        rows[name] = packets[name]
    source, destination = packets["source"].astype(np.int64), packets["destination"].astype(np.int64)
    rows["ip_sum"] = fold(0x4500 + total + packets["identification"] + packets["fragment"]
                          + (64 << 8 | packets["proto"].astype(np.int64))
                          + (source >> 16) + (source & 0xFFFF) + (destination >> 16) + (destination & 0xFFFF))
    if layout != RAW:
        rows["sport"], rows["dport"] = packets["sport"], packets["dport"]
    if layout == UDP:
        rows["udp_length"] = 8 + packets["length"]
    elif layout != RAW:
        rows["seq"], rows["ack"], rows["flags"] = packets["seq"], packets["ack"], packets["flags"]
        rows["offset"] = HEADER_BYTES[layout] // 4 << 4
        rows["window"] = np.where(packets["flags"] & SYN, 64240, 501)
    for name in set(_OPTIONS).intersection(rows.dtype.names):
        rows[name] = _OPTIONS[name]
    if "stamp" in rows.dtype.names:
        rows["stamp"] = packets["time"] // 1000
        rows["echo"] = np.maximum(packets["time"] // 1000 - 20, 0)
    return rows


def assemble(packets, pool):
    """Give the records of these packets, in this order, as one array of bytes.

    `pool` is an array of bytes that the payloads are ranges of.
    """
    lengths = frame_lengths(packets)
    ends = np.cumsum(lengths + RECORD)
    starts = ends - lengths - RECORD
    flat = np.zeros(int(ends[-1]), np.uint8)
    for layout in np.unique(packets["layout"]):
        picked = np.flatnonzero(packets["layout"] == layout)
        rows = header_rows(packets[picked], layout, lengths[picked])
        windows(flat, rows.itemsize)[starts[picked]] = rows.view(np.uint8).reshape(len(rows), rows.itemsize)
    payload = starts + RECORD + ETHER + IP + HEADER_BYTES[packets["layout"]]
    copy_ranges(flat, payload, pool, packets["at"], packets["length"])
    for layout, sum_at in _SUM_AT.items():
        picked = np.flatnonzero(packets["layout"] == layout)
        if len(picked):
            put_checksums(flat, starts[picked] + RECORD + ETHER, packets[picked], sum_at)
    return flat


def copy_ranges(target, to, source, at, length):
    """Copy source[at:at+length] to target[to:], for each row: ranges of one length at a time."""
    order = np.argsort(length, kind="stable")
    values, first = np.unique(length[order], return_index=True)
    for n, group in zip(values.tolist(), np.split(order, first[1:])):
        step = max(1, (16 << 20) // max(n, 1))          # some 16 MB of rows at a time
        for i in range(0, len(group) if n else 0, step):
            part = group[i:i + step]
            windows(target, n)[to[part]] = windows(source, n)[at[part]]


def put_checksums(flat, ip_at, packets, sum_at):
    """Write the UDP or TCP checksums of packets of one layout whose IP headers begin at `ip_at`."""
    begin = ip_at + IP
    length = (HEADER_BYTES[packets["layout"]] + packets["length"]).astype(np.int64)
    pseudo = sums(flat, ip_at + 12, ip_at + IP) + packets["proto"] + length
    value = fold(sums(flat, begin, begin + length) + pseudo)
    value[(value == 0) & (packets["proto"] == 17)] = 0xFFFF     # 0 means "none" in UDP (RFC 768)
    flat[begin + sum_at] = value >> 8
    flat[begin + sum_at + 1] = value & 0xFF
