"""Count what comes on an interface, with rings alone: the receiver of D3.2 section 4.1.9.

    python examples/ring_receiver.py xdp:veth0
"""
import sys

from flowos.rings import poll, register


def receive(spec, seconds=None):
    """Count until nothing came for `seconds`, or Ctrl-C; returns (packets, bytes)."""
    packets = total = 0
    with register(spec) as port:
        ring = port.rx_ring
        try:
            while poll(port, timeout=seconds):
                for slot in ring:
                    packets += 1
                    total += slot.wire
                ring.head = ring.tail
        except KeyboardInterrupt:
            pass
    return packets, total


if __name__ == "__main__":
    print("%d packets, %d bytes" % receive(sys.argv[1]))
