"""Forward between two interfaces packet by packet in Python, on AF_PACKET sockets: how one does it without FlowOS.

    python benchmarks/live_rivals.py dpkt|scapy IN OUT SECONDS

Each frame of IN is parsed, counted under its connection in a dictionary, and sent to OUT; frames of OUT go back unparsed.
"""
import select
import socket
import sys
import time
from collections import Counter

PACKET_IGNORE_OUTGOING = 23


def key_dpkt():
    """Give the function that parses a frame with dpkt and names its connection."""
    from dpkt.ethernet import Ethernet

    def key(frame):
        packet = Ethernet(frame).data
        return packet.src, getattr(packet.data, "sport", 0), packet.dst, getattr(packet.data, "dport", 0), packet.p

    return key


def key_scapy():
    """Give the function that parses a frame with scapy and names its connection."""
    from scapy.layers.inet import IP, TCP, UDP
    from scapy.layers.l2 import Ether

    def key(frame):
        packet = Ether(frame)[IP]
        above = packet.payload
        ports = (above.sport, above.dport) if isinstance(above, (TCP, UDP)) else ()
        return packet.src, packet.dst, packet.proto, ports

    return key


def opened(interface):
    """Open a packet socket that receives what comes in by an interface."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    made.setsockopt(263, PACKET_IGNORE_OUTGOING, 1)
    made.bind((interface, 3))
    made.setblocking(False)
    return made


def forward(key, left, right, end):
    """Forward until the time is over; give the packets of each connection."""
    seen, waiting = Counter(), select.poll()
    for side in left, right:
        waiting.register(side, select.POLLIN)
    while time.monotonic() < end:
        waiting.poll(100)
        for source, out in (left, right), (right, left):
            try:
                for _ in range(64):
                    frame = source.recv(65535)
                    if source is left and frame[12:14] == b"\x08\0":
                        seen[key(frame)] += 1
                    out.send(frame)
            except BlockingIOError:
                pass
            except OSError:                    # longer than the way out takes
                pass
    return seen


def main(library, left, right, seconds):
    """Run one of them."""
    key = {"dpkt": key_dpkt, "scapy": key_scapy}[library]()
    sides = opened(left), opened(right)
    print("ready", flush=True)
    forward(key, *sides, time.monotonic() + float(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
