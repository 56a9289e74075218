"""scapy as people use it: every packet dissected, a dictionary of flows.

    python scapy_loop.py FILE.pcap
"""
import json
import logging
import sys

logging.getLogger("scapy").setLevel(logging.ERROR)

from scapy.layers.inet import IP, TCP, UDP          # noqa: E402: scapy warns while it is imported
from scapy.layers.l2 import Ether                   # noqa: E402, F401: tells scapy what a frame is
from scapy.utils import PcapReader                  # noqa: E402


def main(path):
    """Count packets and bytes per connection, both directions under one key."""
    table, count = {}, 0
    with PcapReader(path) as packets:
        for packet in packets:
            count += 1
            if IP not in packet:
                continue
            ip = packet[IP]
            transport = ip.payload
            if not isinstance(transport, (TCP, UDP)):
                continue
            ends = sorted([(ip.src, transport.sport), (ip.dst, transport.dport)])
            entry = table.setdefault((*ends, ip.proto), [0, 0])
            entry[0] += 1
            entry[1] += packet.wirelen
    print(json.dumps({"packets": count, "connections": len(table)}))


if __name__ == "__main__":
    main(sys.argv[1])
