"""The Python handles of a ring and its slots (ring.h has the picture and says who moves what).

The per-packet path uses the C structs; these handles are for tests, for looking, and for who
moves a few packets by hand.  Whoever holds one is the ring's user: it may move `head` and `cur`.
"""
cimport cython
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from flowos.core.arena cimport Arena, fos_arena_buffer, fos_arena_give, fos_arena_take
from flowos.core.errors import LimitError, StaleError, UsageError

__all__ = ["Ring", "Slot"]

INVARIANTS = {1: "the size is a power of two", 2: "no more slots are held than there are",
              3: "cur lies in [head, tail]", 4: "each slot owns a buffer of its own", 5: "slots point into their buffers"}


cdef inline uint32_t room_of(const fos_ring *ring, const fos_slot *slot) noexcept:
    """How many bytes fit from a slot's first byte to its buffer's end: a received frame begins behind a headroom."""
    if ring.arena == NULL:
        return ring.buffer_size
    return ring.buffer_size - <uint32_t> ((slot.ptr - ring.arena) % ring.buffer_size)


cdef int make_slots(fos_ring *ring, object slots, Arena arena, str name) except -1:
    """Give a ring its slots; with an arena, each slot owns one of its buffers."""
    cdef uint32_t i
    if not 1 <= slots <= 1 << 20 or slots & (slots - 1):
        raise UsageError(f"{name}: a ring of {slots} slots; expected a power of two up to {1 << 20}")
    if arena is not None and arena.c.free_count < slots:
        raise LimitError(f"{name}: a ring of {slots} slots; the arena has {arena.c.free_count} free buffers")
    ring.slots = <fos_slot *> calloc(slots, sizeof(fos_slot))
    if ring.slots == NULL:
        raise MemoryError(f"{name}: no memory for a ring of {slots} slots")
    ring.size = slots
    for i in range(ring.size):
        ring.slots[i].buffer = FOS_NO_BUFFER
        if arena is not None:
            ring.slots[i].buffer = fos_arena_take(&arena.c)
            ring.slots[i].ptr = fos_arena_buffer(&arena.c, ring.slots[i].buffer)
    if arena is not None:
        ring.arena = arena.c.base
        ring.buffer_size = arena.c.buffer_size
    return 0


cdef void free_slots(fos_ring *ring, Arena arena) noexcept:
    """Free a ring's slots and give their buffers back."""
    cdef uint32_t i
    if arena is not None and ring.slots != NULL:
        for i in range(ring.size):
            fos_arena_give(&arena.c, ring.slots[i].buffer)
    free(ring.slots)
    ring.slots = NULL
    ring.size = 0


cdef Ring ring_over(fos_ring *ring, object owner, Arena arena):
    """Make the handle of a ring that `owner` keeps alive."""
    cdef Ring made = Ring.__new__(Ring)
    made.c = ring
    made.owner = owner
    made.arena = arena
    return made


@cython.no_gc_clear             # the arena is needed to the last
cdef class Ring:
    """Show a ring of slots, or make one of `slots` slots whose buffers come from `arena`.

    `head`, `cur` and `tail` run freely modulo 2**32; [head, tail) is the user's, and `ring[i]` for
    such an i is a Slot.  UsageError: not a power of two.  LimitError: the arena has too few buffers.
    Source: D3.2 section 4.1.3.2.

    >>> from flowos.core.arena import Arena
    >>> ring = Ring(4, Arena(8))
    >>> ring.offer(3)
    >>> ring.head, ring.cur, ring.tail, ring.avail
    (0, 0, 3, 3)
    >>> ring.cur = 2
    >>> ring.avail, len(ring)
    (1, 3)
    """

    def __cinit__(self):
        self.c = &self.own

    def __init__(self, slots, Arena arena=None):
        if self.c.size:
            raise UsageError("a ring is made once")
        make_slots(&self.own, slots, arena, "ring")
        self.arena = arena

    def __dealloc__(self):
        free_slots(&self.own, self.arena)

    cdef fos_slot *slot(self, object index) except NULL:
        cdef uint32_t at = index & 0xffffffff
        if at - self.c.head >= self.c.tail - self.c.head:
            raise StaleError(f"slot {index} is not held: the user has [{self.c.head}, {self.c.tail})")
        return fos_ring_slot(self.c, at)

    @property
    def size(self):
        """Slots in the ring."""
        return self.c.size

    @property
    def head(self):
        """The oldest slot held; setting it gives back the slots below at the next sync.

        UsageError: outside [head, tail].
        """
        return self.c.head

    @head.setter
    def head(self, value):
        cdef uint32_t at = value & 0xffffffff
        if at - self.c.head > self.c.tail - self.c.head:
            raise UsageError(f"head {value}; expected [{self.c.head}, {self.c.tail}]")
        if self.c.cur - self.c.head < at - self.c.head:
            self.c.cur = at
        self.c.head = at

    @property
    def cur(self):
        """The first slot not yet looked at.  UsageError when set outside [cur, tail]."""
        return self.c.cur

    @cur.setter
    def cur(self, value):
        cdef uint32_t at = value & 0xffffffff
        if at - self.c.cur > self.c.tail - self.c.cur:
            raise UsageError(f"cur {value}; expected [{self.c.cur}, {self.c.tail}]")
        self.c.cur = at

    @property
    def tail(self):
        """Behind the newest slot held.  Moved by the port alone."""
        return self.c.tail

    @property
    def avail(self):
        """Slots not yet looked at: tail - cur."""
        return fos_ring_avail(self.c)

    def __len__(self):
        """Slots held: tail - head."""
        return self.c.tail - self.c.head

    def __getitem__(self, index):
        """Give the slot of a free-running index; StaleError when the user does not hold it."""
        cdef Slot made = Slot.__new__(Slot)
        self.slot(index)
        made.ring = self
        made.index = index & 0xffffffff
        return made

    def __iter__(self):
        """Yield the slots held, oldest first."""
        cdef uint32_t i
        for i in range(self.c.tail - self.c.head):
            yield self[self.c.head + i]

    def offer(self, count):
        """Move the tail of a ring that this handle made, as a port does with new or free slots.

        UsageError: the ring is a port's, or has no room.
        """
        if self.own.slots == NULL:
            raise UsageError("the tail of a port's ring is moved by the port alone")
        if not 0 <= count <= self.c.size - (self.c.tail - self.c.head):
            raise UsageError(f"offered {count} slots; expected at most "
                             f"{self.c.size - (self.c.tail - self.c.head)}")
        self.c.tail += <uint32_t> count

    def swap(self, index, Ring other, other_index):
        """Swap the buffers of two held slots of rings on one arena; no byte is copied.

        UsageError: the rings are on different arenas or none.  Source: D3.2 section 4.1.6.
        """
        if self.arena is None or other.arena is not self.arena:
            raise UsageError("slots are swapped between rings on one arena")
        cdef fos_slot *a = self.slot(index)
        cdef fos_slot *b = other.slot(other_index)
        if a != b:
            fos_slot_swap(a, b)

    def read(self, most=None):
        """Take at most `most` packets from `cur` on and release them: a list of (ts, wire, bytes).

        `ts` in nanoseconds, `wire` the bytes that the frame had; the bytes are copies.  Slots that were held back
        before `cur` are released too.
        """
        cdef uint32_t i, n = self.c.tail - self.c.cur
        cdef fos_slot *slot
        cdef list packets = []
        if most is not None and most < n:
            n = max(0, most)
        for i in range(n):
            slot = fos_ring_slot(self.c, self.c.cur + i)
            packets.append((slot.ts, slot.wire, (<const char *> slot.ptr)[:slot.len]))
        self.c.cur += n
        self.c.head = self.c.cur
        return packets

    def write(self, data, count=1):
        """Fill at most `count` free slots from `cur` on with a frame each, all the same, for the next sync; returns how many.

        UsageError: the frame does not fit, or the slots have no buffers.
        """
        cdef const unsigned char[::1] view = data
        cdef uint32_t i, n = self.c.tail - self.c.cur
        cdef fos_slot *slot
        if count < n:
            n = max(0, count)
        for i in range(n):
            slot = fos_ring_slot(self.c, self.c.cur)
            fos_ring_warm(self.c, self.c.cur + 8)
            if slot.buffer == FOS_NO_BUFFER:
                raise UsageError("the slot has no buffer of its own to write to")
            if view.shape[0] > room_of(self.c, slot):
                raise UsageError(f"{view.shape[0]} bytes; the buffer holds {room_of(self.c, slot)}")
            if view.shape[0]:
                memcpy(<void *> slot.ptr, &view[0], view.shape[0])
            slot.len = slot.wire = <uint32_t> view.shape[0]
            self.c.cur += 1
            self.c.head = self.c.cur
        return n

    def take(self, Ring other, most=None):
        """Fill free slots with packets of a port's RX ring, by swapping buffers, and release those; returns how many.

        As many as there are of both from `cur` on, at most `most`; not a byte is copied.  UsageError: the rings are on
        different arenas or none.  Source: D3.2 section 4.1.6.

        >>> from flowos.core.arena import Arena
        >>> arena = Arena(8)
        >>> came, free = Ring(4, arena), Ring(4, arena)
        >>> came.offer(3); free.offer(4); came[0].data = b"first"
        >>> free.take(came), came.avail, free.avail, free.head
        (3, 0, 1, 3)
        """
        cdef uint32_t i, n = min(self.c.tail - self.c.cur, other.c.tail - other.c.cur)
        if self.arena is None or other.arena is not self.arena or self.c == other.c:
            raise UsageError("slots are swapped between two rings on one arena")
        if most is not None and most < n:
            n = max(0, most)
        with nogil:
            for i in range(n):
                fos_slot_forward(fos_ring_slot(self.c, self.c.cur + i), fos_ring_slot(other.c, other.c.cur + i))
        self.c.cur += n
        self.c.head = self.c.cur
        other.c.cur += n
        other.c.head = other.c.cur
        return n

    def _check(self):
        """Raise AssertionError where an invariant is broken."""
        cdef uint32_t i, count = self.c.size
        cdef fos_slot *slot
        cdef int broken = fos_ring_check(self.c)
        if not broken and self.arena is not None:
            if self.c.flags & FOS_RING_LENT:
                count = self.c.tail - self.c.head
            seen = set()
            for i in range(count):
                slot = fos_ring_slot(self.c, self.c.head + i)
                seen.add(slot.buffer)
                if slot.buffer >= self.arena.c.count or not self.arena.c.taken[slot.buffer]:
                    broken = 4
                elif <size_t> (slot.ptr - fos_arena_buffer(&self.arena.c, slot.buffer)) >= self.c.buffer_size:
                    broken = broken or 5
            if len(seen) != count:
                broken = 4
        assert broken == 0, f"broken invariant of {self!r}: {INVARIANTS[broken]}"

    def __repr__(self):
        return f"<Ring of {self.c.size} slots: head {self.c.head}, cur {self.c.cur}, tail {self.c.tail}>"


cdef class Slot:
    """Show one slot while it is held; any use after its release raises StaleError."""

    def __cinit__(self):
        self.ring = Ring.__new__(Ring)        # one without slots, until ring[index] sets it

    cdef fos_slot *held(self) except NULL:
        return self.ring.slot(self.index)

    @property
    def data(self):
        """The bytes present, copied.  Setting it writes the slot's buffer and sets `len` and `wire`.

        UsageError when set where the slot has no buffer of its own, or the bytes do not fit.
        """
        cdef fos_slot *slot = self.held()
        return bytes(slot.ptr[:slot.len]) if slot.len else b""

    @data.setter
    def data(self, value):
        cdef fos_slot *slot = self.held()
        cdef const unsigned char[::1] view = value
        if slot.buffer == FOS_NO_BUFFER:
            raise UsageError("the slot has no buffer of its own to write to")
        if view.shape[0] > room_of(self.ring.c, slot):
            raise UsageError(f"{view.shape[0]} bytes; the buffer holds {room_of(self.ring.c, slot)}")
        if view.shape[0]:
            memcpy(<void *> slot.ptr, &view[0], view.shape[0])
        slot.len = slot.wire = <uint32_t> view.shape[0]

    def take(self, Slot other):
        """Swap buffers with another held slot and take over its length, time and link: forwarding without a copy.

        UsageError: the slots are of rings on different arenas or none.  Source: D3.2 section 4.1.6.
        """
        cdef fos_slot *mine = self.held()
        cdef fos_slot *theirs = other.held()
        if self.ring.arena is None or other.ring.arena is not self.ring.arena:
            raise UsageError("slots are swapped between rings on one arena")
        if mine != theirs:
            fos_slot_forward(mine, theirs)

    @property
    def address(self):
        """Address of the first byte."""
        return <size_t> self.held().ptr

    @property
    def buffer(self):
        """Index of the buffer in the arena, or None."""
        cdef fos_slot *slot = self.held()
        return None if slot.buffer == FOS_NO_BUFFER else slot.buffer

    @property
    def ts(self):
        """Nanoseconds since the epoch."""
        return self.held().ts

    @ts.setter
    def ts(self, value):
        self.held().ts = value

    @property
    def wire(self):
        """Bytes that the frame had on the wire."""
        return self.held().wire

    @wire.setter
    def wire(self, value):
        self.held().wire = value

    @property
    def link(self):
        """LINKTYPE_* of the frame's first header."""
        return self.held().link

    @link.setter
    def link(self, value):
        self.held().link = value

    @property
    def iface(self):
        """Number of the interface, or of the file."""
        return self.held().iface

    @iface.setter
    def iface(self, value):
        self.held().iface = value

    @property
    def flags(self):
        """FOS_SLOT_*: 1 the buffer was swapped, 2 the record has no time."""
        return self.held().flags

    @property
    def len(self):
        """Bytes present."""
        return self.held().len

    def __repr__(self):
        cdef fos_slot *slot = self.held()
        return f"<Slot {self.index}: {slot.len} of {slot.wire} bytes at {slot.ts} ns, link {slot.link}>"
