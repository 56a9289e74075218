"""IP fragments for tests: frames cut into them, and put together again, as plainly as Python can say it.

Frames are Ethernet frames of models.build: IPv4 without options, IPv6 without extension headers.
"""
import struct

from models import build


def cut(record, size, number=7):
    """Cut a record's datagram into fragments of `size` payload bytes, a multiple of eight."""
    ts, frame = record[:2]
    link, packet = frame[:14], frame[14:]
    at = 20 if packet[0] >> 4 == 4 else 40
    payload, parts = packet[at:], []
    for start in range(0, len(payload), size):
        part, more = payload[start:start + size], start + size < len(payload)
        if at == 20:
            header = bytearray(packet[:20])
            struct.pack_into(">HHH", header, 2, 20 + len(part), number, more << 13 | start // 8)
            struct.pack_into(">H", header, 10, 0)
            struct.pack_into(">H", header, 10, build.checksum(bytes(header)))
            parts.append((ts, link + bytes(header) + part))
        else:
            header = packet[:4] + struct.pack(">HB", 8 + len(part), 44) + packet[7:40]
            parts.append((ts, link + header + build.fragment_header(packet[6], number, start, more) + part))
    return parts


def is_fragment(frame):
    packet = frame[14:]
    return bool(struct.unpack_from(">H", packet, 6)[0] & 0x3FFF) if packet[0] >> 4 == 4 else packet[6] == 44


def joined(packets):
    """Put packets together: whole datagrams in the order in which they became whole; asserts that none is left over."""
    waiting, whole = {}, []
    for ts, frame in packets:
        packet = frame[14:]
        if not is_fragment(frame):
            whole.append((ts, frame))
            continue
        four = packet[0] >> 4 == 4
        at, word = (20, struct.unpack_from(">H", packet, 6)[0] << 3) if four else (48, struct.unpack_from(">H", packet, 42)[0])
        total = struct.unpack_from(">H", packet, 2)[0] if four else 40 + struct.unpack_from(">H", packet, 4)[0]
        key = (packet[12:20] + packet[4:6]) if four else packet[8:40] + packet[44:48]
        more, start = (packet[6] >> 5 & 1, word & 0xFFF8) if four else (word & 1, word & 0xFFF8)
        entry = waiting.setdefault(key, {"parts": {}, "end": None, "first": None})
        for i, value in enumerate(packet[at:total], start):
            assert entry["parts"].setdefault(i, value) == value, "fragments contradict each other"
        if not more:
            entry["end"] = start + total - at
        if not start:
            entry["first"] = frame
        if entry["end"] is not None and len(entry["parts"]) == entry["end"] and entry["first"]:
            del waiting[key]
            header = bytearray(entry["first"][14:34 if four else 54])
            payload = bytes(entry["parts"][i] for i in range(entry["end"]))
            if four:
                struct.pack_into(">H", header, 2, 20 + len(payload))
                struct.pack_into(">H", header, 6, 0)
                struct.pack_into(">H", header, 10, 0)
                struct.pack_into(">H", header, 10, build.checksum(bytes(header)))
            else:
                header[6] = entry["first"][14 + 40]
                struct.pack_into(">H", header, 4, len(payload))
            whole.append((ts, entry["first"][:14] + bytes(header) + payload))
    assert not waiting, "a datagram is not whole"
    return whole
