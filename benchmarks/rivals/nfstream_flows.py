"""NFStream without its deep inspection: one object per flow.

    python nfstream_flows.py FILE.pcap

Its meter is a process of its own, waited for, so its CPU time counts.  The time-outs are longer
than any trace: a flow ends with the file.
"""
import json
import sys

from nfstream import NFStreamer


def main(path):
    """Count flows and their packets."""
    flows = packets = 0
    for flow in NFStreamer(source=path, n_dissections=0, n_meters=1, idle_timeout=3600, active_timeout=86_400):
        flows += 1
        packets += flow.bidirectional_packets
    print(json.dumps({"packets": packets, "connections": flows}))


if __name__ == "__main__":
    main(sys.argv[1])
