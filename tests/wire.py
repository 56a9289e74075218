"""A wire for tests of ports: a pair of interfaces in namespaces, a raw socket at one end, frames that tell themselves apart."""
import contextlib
import select
import struct
import time

from namespaces import inside, join, raw_socket

HEAD = bytes.fromhex("02000000000202000000000188b5")


@contextlib.contextmanager
def wire(netns, make):
    """Give (socket, open, near, far): a raw socket on `near`'s end, and what opens `make("far", …)` on the other."""
    near, far = netns(), netns()
    join(near, far, "near", "far")
    with inside(near):
        sock = raw_socket("near")

    def port(**options):
        with inside(far):
            return make("far", **options)
    with sock:
        yield sock, port, near, far


def frames_of(count, size=100, seed=0):
    """Give frames of a size, no two alike."""
    return [HEAD + struct.pack("!I", n + seed) + bytes((n * 7 + i) & 255 for i in range(size - 18)) for n in range(count)]


def send(port, frames):
    """Send frames by a port."""
    ring = port.tx_ring
    for frame in frames:
        while ring.head == ring.tail:
            port.tx_sync()
        ring[ring.head].data = frame
        ring.head += 1
    port.tx_sync()
    ring._check()


def received(sock, count, patience=5):
    """Take `count` frames from a socket, fewer when no more come in time."""
    taken, end = [], time.monotonic() + patience
    while len(taken) < count and time.monotonic() < end:
        if select.select([sock], [], [], 0.05)[0]:
            taken.append(sock.recv(70000))
    return taken
