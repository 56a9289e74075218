"""dpkt as people use it: a loop over the capture, a dictionary, no limits.

    python dpkt_loop.py flows|streams|datagrams FILE.pcap

    flows      packets and bytes per connection, both directions under one key
    streams    TCP payload in order: the next number of each direction, and a dictionary of what came early
    datagrams  IP fragments joined when all bytes of a datagram are there
"""
import json
import sys

import dpkt


def flows(packets):
    """Count packets and bytes per connection."""
    table, count = {}, 0
    for _, frame in packets:
        count += 1
        ip = dpkt.ethernet.Ethernet(frame).data
        if not isinstance(ip, dpkt.ip.IP) or not isinstance(ip.data, (dpkt.tcp.TCP, dpkt.udp.UDP)):
            continue
        here, there = (ip.src, ip.data.sport), (ip.dst, ip.data.dport)
        key = (here, there, ip.p) if here < there else (there, here, ip.p)
        entry = table.get(key)
        if entry is None:
            table[key] = entry = [0, 0]
        entry[0] += 1
        entry[1] += len(frame)
    return {"packets": count, "connections": len(table)}


def streams(packets):
    """Put TCP payload in order, one direction at a time, and count its bytes."""
    expected, early, count, delivered = {}, {}, 0, 0
    for _, frame in packets:
        count += 1
        ip = dpkt.ethernet.Ethernet(frame).data
        if not isinstance(ip, dpkt.ip.IP) or not isinstance(ip.data, dpkt.tcp.TCP):
            continue
        tcp = ip.data
        key = ip.src, tcp.sport, ip.dst, tcp.dport
        if tcp.flags & dpkt.tcp.TH_SYN:
            expected[key] = (tcp.seq + 1) % (1 << 32)
            continue
        if not tcp.data:
            continue
        at, data = expected.setdefault(key, tcp.seq), tcp.data
        skip = (at - tcp.seq) % (1 << 32)
        if skip >= 1 << 31:                             # from the future
            early.setdefault(key, {})[tcp.seq] = data
            continue
        data = data[skip:]
        waiting = early.get(key)
        while data:
            delivered += len(data)
            at = (at + len(data)) % (1 << 32)
            data = waiting.pop(at, None) if waiting else None
        expected[key] = at
    return {"packets": count, "stream_bytes": delivered}


def datagrams(packets):
    """Join IP fragments and count the datagrams."""
    parts, count, whole, size = {}, 0, 0, 0
    for _, frame in packets:
        count += 1
        ip = dpkt.ethernet.Ethernet(frame).data
        if not isinstance(ip, dpkt.ip.IP) or not (ip.mf or ip.offset):
            continue
        key = ip.src, ip.dst, ip.p, ip.id
        entry = parts.setdefault(key, {})
        entry[ip.offset * 8] = bytes(ip.data), ip.mf
        last = next((offset + len(data) for offset, (data, more) in entry.items() if not more), None)
        if last == sum(len(data) for data, _ in entry.values()):
            joined = b"".join(entry[offset][0] for offset in sorted(entry))
            whole += 1
            size += len(joined)
            del parts[key]
    return {"packets": count, "datagrams": whole, "datagram_bytes": size}


if __name__ == "__main__":
    work = {"flows": flows, "streams": streams, "datagrams": datagrams}[sys.argv[1]]
    with open(sys.argv[2], "rb", buffering=1 << 20) as file:
        print(json.dumps(work(dpkt.pcap.Reader(file))))
