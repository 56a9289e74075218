"""The jobs of jobs.py with scapy, packet by packet, as people write them.

    python scapy_jobs.py count FILE.pcap
    python scapy_jobs.py search PATTERN FILE.pcap
    python scapy_jobs.py pipeline PATTERN... FILE.pcap
    python scapy_jobs.py strip PATTERN OUT.pcap FILE.pcap
"""
import json
import logging
import sys

logging.getLogger("scapy").setLevel(logging.ERROR)

from scapy.layers.inet import IP, TCP                # noqa: E402: scapy warns while it is imported
from scapy.layers.l2 import Ether                    # noqa: E402, F401: tells scapy what a frame is
from scapy.utils import PcapReader, PcapWriter       # noqa: E402

import scapy_loop                                    # noqa: E402


class Search:
    """Put TCP payload in order, and count a pattern in it wherever it is cut."""

    def __init__(self, pattern):
        self.pattern = pattern
        self.expected, self.early, self.tails = {}, {}, {}
        self.matches = 0

    def take(self, packet):
        """Take one packet."""
        if TCP not in packet:
            return
        ip, tcp = packet[IP], packet[TCP]
        key = ip.src, tcp.sport, ip.dst, tcp.dport
        if tcp.flags.S:
            self.expected[key] = (tcp.seq + 1) % (1 << 32)
            return
        data = bytes(tcp.payload)[:ip.len - ip.ihl * 4 - tcp.dataofs * 4]      # an Ethernet frame may be padded
        if not data:
            return
        at = self.expected.setdefault(key, tcp.seq)
        skip = (at - tcp.seq) % (1 << 32)
        if skip >= 1 << 31:
            self.early.setdefault(key, {})[tcp.seq] = data
            return
        data = data[skip:]
        waiting = self.early.get(key)
        while data:
            text = self.tails.get(key, b"") + data
            self.matches += text.count(self.pattern)
            behind = text.rfind(self.pattern) + len(self.pattern) if self.pattern in text else 0
            self.tails[key] = text[max(behind, len(text) - len(self.pattern) + 1):]
            at = (at + len(data)) % (1 << 32)
            data = waiting.pop(at, None) if waiting else None
        self.expected[key] = at


def pipeline(path, patterns):
    """Hand every packet, dissected once, to a module per pattern."""
    modules, count = [Search(pattern) for pattern in patterns], 0
    with PcapReader(path) as packets:
        for packet in packets:
            count += 1
            for module in modules:
                module.take(packet)
    print(json.dumps({"packets": count, "matches": sum(module.matches for module in modules)}))


def strip(path, pattern, out):
    """Remove the pattern from each packet's payload; what is deleted from the layers scapy computes anew."""
    count = cut = 0
    with PcapReader(path) as packets, PcapWriter(out) as writer:
        for packet in packets:
            count += 1
            if TCP in packet and pattern in (data := bytes(packet[TCP].payload)):
                cut += data.count(pattern)
                packet[TCP].remove_payload()
                packet[TCP].add_payload(data.replace(pattern, b""))
                del packet[IP].len, packet[IP].chksum, packet[TCP].chksum
            writer.write(packet)
    print(json.dumps({"packets": count, "cut": cut}))


if __name__ == "__main__":
    job, *given, file = sys.argv[1:]
    if job == "count":
        scapy_loop.main(file)
    elif job == "strip":
        strip(file, given[0].encode(), given[1])
    else:
        pipeline(file, [one.encode() for one in given])
