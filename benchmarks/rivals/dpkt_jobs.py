"""The jobs of jobs.py with dpkt, packet by packet, as people write them.

    python dpkt_jobs.py count FILE.pcap
    python dpkt_jobs.py search PATTERN FILE.pcap
    python dpkt_jobs.py pipeline PATTERN... FILE.pcap      a module per pattern, each with its own reassembly
    python dpkt_jobs.py strip PATTERN OUT.pcap FILE.pcap   in each packet; no number of TCP's is mended, no length of HTTP's
"""
import json
import sys

import dpkt
from dpkt_loop import flows


class Search:
    """Put TCP payload in order, and count a pattern in it wherever it is cut."""

    def __init__(self, pattern):
        self.pattern = pattern
        self.expected, self.early, self.tails = {}, {}, {}
        self.matches = self.bytes = 0

    def take(self, ip):
        """Take one packet."""
        if not isinstance(ip, dpkt.ip.IP) or not isinstance(ip.data, dpkt.tcp.TCP):
            return
        tcp = ip.data
        key = ip.src, tcp.sport, ip.dst, tcp.dport
        if tcp.flags & dpkt.tcp.TH_SYN:
            self.expected[key] = (tcp.seq + 1) % (1 << 32)
            return
        if not tcp.data:
            return
        at, data = self.expected.setdefault(key, tcp.seq), tcp.data
        skip = (at - tcp.seq) % (1 << 32)
        if skip >= 1 << 31:                             # from the future
            self.early.setdefault(key, {})[tcp.seq] = data
            return
        data = data[skip:]
        waiting = self.early.get(key)
        while data:
            self.found(key, data)
            at = (at + len(data)) % (1 << 32)
            data = waiting.pop(at, None) if waiting else None
        self.expected[key] = at

    def found(self, key, data):
        """Search what came in order, behind the last bytes of what came before."""
        self.bytes += len(data)
        text = self.tails.get(key, b"") + data
        self.matches += text.count(self.pattern)
        behind = text.rfind(self.pattern) + len(self.pattern) if self.pattern in text else 0
        self.tails[key] = text[max(behind, len(text) - len(self.pattern) + 1):]


def pipeline(packets, patterns):
    """Hand every packet, parsed once, to a module per pattern."""
    modules, count = [Search(pattern) for pattern in patterns], 0
    for _, frame in packets:
        count += 1
        ip = dpkt.ethernet.Ethernet(frame).data
        for module in modules:
            module.take(ip)
    return {"packets": count, "matches": sum(module.matches for module in modules), "stream_bytes": modules[0].bytes}


def strip(packets, pattern, out):
    """Remove the pattern from each packet's payload; lengths and checksums of the packet are made anew."""
    count = cut = 0
    with open(out, "wb", buffering=1 << 20) as file:
        writer = dpkt.pcap.Writer(file)
        for ts, frame in packets:
            count += 1
            ethernet = dpkt.ethernet.Ethernet(frame)
            ip = ethernet.data
            if isinstance(ip, dpkt.ip.IP) and isinstance(ip.data, dpkt.tcp.TCP) and pattern in ip.data.data:
                cut += ip.data.data.count(pattern)
                ip.data.data = ip.data.data.replace(pattern, b"")
                ip.data.sum = ip.sum = 0
                ip.len = len(ip)
                frame = bytes(ethernet)
            writer.writepkt(frame, ts)
    return {"packets": count, "cut": cut}


def main(job, *given):
    *given, path = given
    with open(path, "rb", buffering=1 << 20) as file:
        packets = dpkt.pcap.Reader(file)
        if job == "count":
            return flows(packets)
        if job == "strip":
            return strip(packets, given[0].encode(), given[1])
        return pipeline(packets, [pattern.encode() for pattern in given])


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
