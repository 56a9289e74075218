"""The C declarations of slots and rings (ring.h), and the handle that shows a ring to Python."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from flowos.core.arena cimport Arena


cdef extern from "ring.h" nogil:
    const uint32_t FOS_NO_BUFFER

    enum:
        FOS_SLOT_CHANGED
        FOS_SLOT_NO_TIME
        FOS_RING_LENT

    ctypedef struct fos_slot:
        const uint8_t *ptr
        int64_t ts
        uint32_t buffer
        uint32_t len
        uint32_t wire
        uint16_t link
        uint16_t iface
        uint32_t flags

    ctypedef struct fos_ring:
        fos_slot *slots
        uint8_t *arena
        uint32_t buffer_size
        uint32_t size
        uint32_t head
        uint32_t cur
        uint32_t tail
        uint32_t flags

    uint32_t fos_ring_avail(const fos_ring *ring)
    fos_slot *fos_ring_slot(const fos_ring *ring, uint32_t index)
    void fos_slot_swap(fos_slot *a, fos_slot *b)
    void fos_slot_forward(fos_slot *to, fos_slot *packet)
    void fos_ring_warm(const fos_ring *ring, uint32_t index)
    int fos_ring_check(const fos_ring *ring)


cdef class Ring:
    cdef fos_ring *c                # the ring shown: `own`, or a port's
    cdef fos_ring own               # slots NULL unless this handle made the ring
    cdef object owner               # whatever must live as long as the ring shown
    cdef Arena arena                # whose buffers the slots own, or None

    cdef fos_slot *slot(self, object index) except NULL


cdef class Slot:
    cdef Ring ring
    cdef uint32_t index

    cdef fos_slot *held(self) except NULL


cdef Ring ring_over(fos_ring *ring, object owner, Arena arena)
cdef int make_slots(fos_ring *ring, object slots, Arena arena, str name) except -1
cdef void free_slots(fos_ring *ring, Arena arena) noexcept
