"""Pipes in memory: a pair of ports, each of which receives what the other sends.

    end a:  TX ring ====swap====> RX ring  :end b
            RX ring <===swap===== TX ring

A packet crosses by a swap of buffer indices (pipe.h); no byte is copied.  The ends may belong to
different threads.  Nothing is lost while both are open: a full ring makes the sender wait or
turn to something else.
"""
cimport cython
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from flowos.core.arena cimport Arena
from flowos.core.port cimport Port
from flowos.core.ring cimport FOS_NO_BUFFER, Ring, fos_ring, fos_ring_slot, fos_slot, free_slots, make_slots, ring_over
from flowos.core.errors import UsageError

__all__ = ["PipePort", "open_end", "pipe"]

DESCRIPTIONS = {
    "sent": "packets handed to the other end",
    "received": "packets that came from the other end",
    "too_long": "packets not sent because they are longer than a buffer",
    "full": "packets not sent because the ring was full",
    "lost": "packets sent after the other end was closed",
}
waiting = {}                        # pipe:NAME -> the end that nobody has opened yet


@cython.no_gc_clear                 # the arena is needed to the last
cdef class Link:
    def __dealloc__(self):
        cdef int end
        for end in range(2):
            free_slots(&self.rx[end], self.arena)
            free_slots(&self.tx[end], self.arena)


cdef class PipePort(Port):
    """One end of a pipe; `pipe` makes both.

    Each slot of both rings owns a buffer of `arena`.  A packet is sent by writing a slot at the
    TX ring's head, or swapping another one's buffer into it, advancing the head and syncing.
    """

    def __cinit__(self):
        self.closed = self.ended = True       # until `pipe` has set all else

    def __init__(self):
        raise UsageError("the two ends of a pipe are made by pipe()")

    def __dealloc__(self):
        self.rx.slots = self.tx.slots = NULL  # the link's

    cdef Ring show(self, fos_ring *ring):
        return ring_over(ring, self, self.arena)

    cdef int rxsync(self) except -1 nogil:
        cdef uint32_t n
        if self.ended:
            return 0
        n = fos_pipe_receive(self.inward, &self.rx)
        self.received += n
        if n == 0 and fos_pipe_dry(self.inward):
            self.ended = True
        return n

    cdef int txsync(self) except -1 nogil:
        cdef uint32_t n
        if self.closed:
            return 0
        n = fos_pipe_send(self.outward, &self.tx, &self.lost)
        self.sent += n
        return n

    cdef bint put(self, const fos_slot *slot) noexcept nogil:
        """Copy a packet into the next free TX slot, for the next txsync; False, counted, where it cannot be."""
        cdef fos_ring *tx = &self.tx
        cdef fos_slot *to
        cdef const uint8_t *ptr
        cdef uint32_t buffer
        if slot.len > tx.buffer_size:
            self.too_long += 1
            return False
        if tx.head == tx.tail:
            self.full += 1
            return False
        to = fos_ring_slot(tx, tx.head)
        ptr, buffer = to.ptr, to.buffer
        to[0] = slot[0]
        to.ptr, to.buffer = ptr, buffer
        memcpy(<void *> ptr, slot.ptr, slot.len)
        tx.head += 1
        tx.cur = tx.head
        return True

    def send(self, data, ts=0, link=1, wire=None, iface=0):
        """Copy a packet into the TX ring, for the next `tx_sync`; return whether it went in.

        `ts` in nanoseconds, `link` a LINKTYPE_* number, `wire` the bytes it had on the wire if not all
        are here.  UsageError: the port is closed.
        """
        cdef const uint8_t[::1] view = data
        cdef fos_slot slot
        cdef uint8_t nothing = 0
        if self.closed:
            raise UsageError(f"{self.name}: the port is closed")
        slot.ptr = &view[0] if view.shape[0] else &nothing
        slot.len = <uint32_t> view.shape[0]
        slot.wire = slot.len if wire is None else wire
        slot.ts = ts
        slot.link = link
        slot.iface = iface
        slot.flags = 0
        slot.buffer = FOS_NO_BUFFER
        return self.put(&slot)

    def receive(self):
        """Sync the RX ring, take all packets that came and release them: a list of (ts, bytes)."""
        cdef fos_slot *slot
        cdef list packets = []
        self.rxsync()
        while self.rx.head != self.rx.tail:
            slot = fos_ring_slot(&self.rx, self.rx.head)
            packets.append((slot.ts, bytes(slot.ptr[:slot.len]) if slot.len else b""))
            self.rx.head += 1
        self.rx.cur = self.rx.head
        return packets

    def close(self):
        """Send what the TX ring holds, end the way out and leave the way in."""
        if not self.closed:
            self.txsync()
            fos_pipe_end(self.outward)
            fos_pipe_leave(self.inward)
        Port.close(self)

    def statistics(self):
        return {"sent": self.sent, "received": self.received, "too_long": self.too_long, "full": self.full,
                "lost": self.lost}

    @property
    def descriptions(self):
        return DESCRIPTIONS


def pipe(name="pipe", slots=256, Arena arena=None, buffer_size=2048):
    """Make a pipe and return its two ports.

    Each ring has `slots` slots, a power of two; four times as many buffers come from `arena`, or from
    a new one of `buffer_size`-byte buffers.  UsageError, LimitError: sizes out of range.

    >>> a, b = pipe()
    >>> a.send(b"packet", ts=5), a.tx_sync()
    (True, 1)
    >>> b.receive()
    [(5, b'packet')]
    """
    cdef Link link = Link.__new__(Link)
    cdef PipePort port
    cdef int end
    if arena is None:
        if not 1 <= slots <= 1 << 20:
            raise UsageError(f"{name}: rings of {slots} slots; expected a power of two up to {1 << 20}")
        arena = Arena(4 * slots, buffer_size)
    link.arena = arena
    for end in range(2):
        make_slots(&link.rx[end], slots, arena, name)
        make_slots(&link.tx[end], slots, arena, name)
        link.ways[end].slots = link.tx[end].slots
        link.ways[end].size = link.tx[end].size
    ports = []
    for end in range(2):
        port = PipePort.__new__(PipePort)
        port.link, port.arena, port.name = link, arena, f"{name}:{'ab'[end]}"
        port.rx, port.tx = link.rx[end], link.tx[end]
        port.tx.tail = port.tx.size
        port.outward, port.inward = &link.ways[end], &link.ways[1 - end]
        port.closed = port.ended = False
        ports.append(port)
    return tuple(ports)


def open_end(name):
    """Open one end of the pipe called `name`: the first call makes it, the second gets the other end."""
    if name in waiting:
        return waiting.pop(name)
    first, waiting[name] = pipe(f"pipe:{name}")
    return first
