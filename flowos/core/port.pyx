"""Ports: what every source and sink of packets has in common.

A port owns the slots of its rings and is the only writer of their tails; whoever uses the port
is the only writer of their heads and cursors (ring.h has the picture).  A port class overrides
`rxsync` or `txsync`; both are called once per batch, never per packet, and never block for
longer than the port's class says.
"""
from flowos.core.ring cimport Ring, fos_ring, free_slots, make_slots, ring_over
from flowos.core.errors import UsageError

__all__ = ["Port"]


cdef class Port:
    """Name a pair of rings on something real.

    `stable` says that frames stay where they are for as long as this object lives; otherwise a
    frame is gone once its slot was released and the port was synced again.
    """

    def __cinit__(self):
        self.name = ""

    def __dealloc__(self):
        free_slots(&self.rx, None)
        free_slots(&self.tx, None)

    cdef int make_ring(self, fos_ring *ring, object slots) except -1:
        """Give the RX or TX ring its slots; theirs is no arena."""
        return make_slots(ring, slots, None, self.name)

    cdef Ring show(self, fos_ring *ring):
        """Make the handle of the RX or TX ring."""
        return ring_over(ring, self, None)

    cdef int rxsync(self) except -1 nogil:
        """Take back the slots below rx.head and fill free ones; return how many are new."""
        return 0

    cdef int txsync(self) except -1 nogil:
        """Send the slots below tx.head and give back free ones; return how many were sent."""
        return 0

    @property
    def rx_ring(self):
        """The ring of packets that came in, a Ring; None where the port has none."""
        return self.show(&self.rx) if self.rx.size else None

    @property
    def tx_ring(self):
        """The ring of packets to send, a Ring; None where the port has none."""
        return self.show(&self.tx) if self.tx.size else None

    def rx_sync(self):
        """Take back the slots below the head of the RX ring and fill free ones; return how many are new."""
        cdef int made
        with nogil:
            made = self.rxsync()
        return made

    def tx_sync(self):
        """Send the slots below the head of the TX ring; return how many were sent."""
        cdef int sent
        with nogil:
            sent = self.txsync()
        return sent

    def fileno(self):
        """Give the file descriptor to wait on, or raise UsageError where there is none."""
        raise UsageError(f"{self.name}: this port has no file descriptor")

    def close(self):
        """Let go of what the port is on; slots still held become empty.  Closing twice is harmless."""
        self.ended = self.closed = True
        self.rx.head = self.rx.cur = self.rx.tail
        self.tx.head = self.tx.cur = self.tx.tail

    def statistics(self):
        """Give the port's counters, {name: value}; `descriptions` says what each one counts."""
        return {}

    @property
    def descriptions(self):
        """What each counter of `statistics` counts, {name: text}."""
        return {}

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __repr__(self):
        return f"<{type(self).__name__} {self.name!r}{' ended' if self.ended else ''}>"
