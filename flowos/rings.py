"""Rings on their own: netmap's way of using an interface, without an engine (D3.2 sections 4.1.3 to 4.1.6).

    port = register("xdp:eth0/0")          NIOCREG: an interface, all its rings or one pair
    while poll(port):                      poll(): wait, and sync
        for slot in port.rx_ring: ...      slots [head, tail) are ours; `avail` is how many are new
        port.rx_ring.head = port.rx_ring.tail

`port.rx_sync()` and `port.tx_sync()` are NIOCRXSYNC and NIOCTXSYNC: they never block.  A frame is forwarded
by `tx_ring.take(rx_ring)` or slot by slot (`Slot.take`), by a swap of buffers, where both ports share an arena.
Cython code takes the same structures from `flowos.core.ring` and `flowos.core.port`.
"""
import select
import time

from flowos.core.errors import UsageError
from flowos.core.packetport import PacketPort
from flowos.core.port import Port
from flowos.core.ports import open_pair, open_port
from flowos.core.ring import Ring, Slot

__all__ = ["Port", "Ring", "Slot", "poll", "register", "register_pair"]

ASK = 0.001                         # seconds between questions where there is nothing to wait on


def register(spec):
    """Open a port by its spec, such as "xdp:eth0" or, bound to one ring pair, "xdp:eth0/2"; a context manager.

    What else a spec may be is told in docs/ports.md; "packet:eth0" receives and sends here.  Errors as the ports
    have them.
    """
    if isinstance(spec, str) and spec.startswith("packet:"):
        return PacketPort(spec[len("packet:"):])
    return open_port(spec)


def register_pair(left, right):
    """Open two ports that packets are to go between; those on AF_XDP share one arena, so buffers can be swapped."""
    return tuple(open_pair(left, right))


def poll(*ports, timeout=None, send=()):
    """Wait until one of `ports` has packets or one of `send` has free slots, syncing all; list those that do.

    `timeout` in seconds, None: for ever, that is until all of `ports` have ended.  The list is empty at the time-out
    and at the end.  UsageError: no ports.
    """
    if not ports and not send:
        raise UsageError("poll: no ports to wait for")
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        for port in ports:
            port.rx_sync()
        for port in send:
            port.tx_sync()
        ready = [port for port in ports if port.rx_ring.avail] + [port for port in send if port.tx_ring.avail]
        if ready or (ports and all(port.ended for port in ports)):
            return ready
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return []
        wait(ports, send, min(left if left is not None else 0.2, 0.2))


def wait(ports, send, seconds):
    """Sleep until a descriptor is ready; a deleted interface wakes nobody, so never for long."""
    waiting = select.poll()
    try:
        for port in {*ports, *send}:
            waiting.register(port.fileno(), select.POLLIN * (port in ports) | select.POLLOUT * (port in send))
    except UsageError:                    # a pipe in memory
        time.sleep(min(seconds, ASK))
        return
    waiting.poll(max(1, int(seconds * 1000)))
