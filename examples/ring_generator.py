"""Send packets as fast as the interface takes them, with rings alone: the generator of D3.2 section 4.1.5.

    python examples/ring_generator.py xdp:veth0 1000000
"""
import struct
import sys

from flowos.rings import poll, register

FRAME = bytes.fromhex("020000000002020000000001") + struct.pack("!H", 0x88b5) + bytes(46)     # 60 bytes, with 4 of FCS 64


def generate(spec, count, frame=FRAME):
    """Send `count` frames; returns the port's counters."""
    with register(spec) as port:
        ring = port.tx_ring
        while count:
            poll(send=[port])
            count -= ring.write(frame, count)
        port.tx_sync()
        return port.statistics()


if __name__ == "__main__":
    print(generate(sys.argv[1], int(sys.argv[2])))
