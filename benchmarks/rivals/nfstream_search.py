"""NFStream with a plugin that searches packets: it has no TCP reassembly, so what lies across two packets is not found.

    python nfstream_search.py PATTERN FILE.pcap
"""
import json
import sys

from nfstream import NFPlugin, NFStreamer


class Search(NFPlugin):
    """Count a pattern in the IP packets of a flow."""

    def on_init(self, packet, flow):
        flow.udps.matches = 0
        self.on_update(packet, flow)

    def on_update(self, packet, flow):
        flow.udps.matches += packet.ip_packet.count(self.pattern)


def main(pattern, path):
    """Search every packet."""
    packets = found = 0
    for flow in NFStreamer(source=path, n_dissections=0, n_meters=1, idle_timeout=3600, active_timeout=86_400,
                           udps=Search(pattern=pattern.encode())):
        packets += flow.bidirectional_packets
        found += flow.udps.matches
    print(json.dumps({"packets": packets, "found": found}))


if __name__ == "__main__":
    main(*sys.argv[1:])
