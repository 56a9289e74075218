"""Forward between two interfaces by swapping buffers, not a byte copied: D3.2 section 4.1.6.

    python examples/ring_forwarder.py xdp:veth0 xdp:veth1
"""
import sys

from flowos.rings import poll, register_pair


def forward(left, right, seconds=None):
    """Forward both ways until nothing came for `seconds`, or Ctrl-C; returns how many packets each way."""
    moved = {left: 0, right: 0}
    ports = register_pair(left, right)
    other = dict(zip(ports, reversed(ports)))
    try:
        while ready := poll(*ports, timeout=seconds):
            for port in ready:
                out = other[port]
                moved[port.name] += out.tx_ring.take(port.rx_ring)
                out.tx_sync()
    except KeyboardInterrupt:
        pass
    finally:
        for port in ports:
            port.close()
    return moved


if __name__ == "__main__":
    print(forward(*sys.argv[1:3]))
