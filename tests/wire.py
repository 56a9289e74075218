"""A wire for tests of ports: a pair of interfaces in namespaces, a raw socket at one end, frames that tell themselves apart.

The test's thread stays on one processor: the kernel keeps the order of what is sent there, and of nothing else.
"""
import contextlib
import os
import select
import struct
import time

from namespaces import inside, join, raw_socket
from waiting import PATIENCE, until

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
    with sock, one_processor():
        yield sock, port, near, far


@contextlib.contextmanager
def one_processor():
    """Keep this thread, and those that it starts, on one processor."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(before)[os.getpid() % len(before)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


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


def fill(port, count):
    """Sync a port until its RX ring holds so many frames, and no more."""
    def full():
        port.rx_sync()
        return len(port.rx_ring) >= count
    until(full, f"{port.name}: {count} frames")
    assert len(port.rx_ring) == count


def received(sock, count, patience=PATIENCE):
    """Take `count` frames from a socket, fewer when no more come in time."""
    taken, end = [], time.monotonic() + patience
    while len(taken) < count and time.monotonic() < end:
        if select.select([sock], [], [], 0.05)[0]:
            taken.append(sock.recv(70000))
    return taken
