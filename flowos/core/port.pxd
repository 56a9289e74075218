"""The seam between the engine and anything packets come from or go to: a pair of rings."""
from flowos.core.ring cimport Ring, fos_ring


cdef class Port:
    cdef fos_ring rx, tx            # size 0 where the port has no such ring
    cdef readonly str name
    cdef readonly bint stable       # frames stay where they are for as long as the port object lives
    cdef readonly bint ended        # no packet will come any more; those in the ring are still there
    cdef readonly bint closed
    cdef readonly bint live         # packets come as they happen: none now does not mean that one is late

    cdef int make_ring(self, fos_ring *ring, object slots) except -1
    cdef Ring show(self, fos_ring *ring)
    cdef int rxsync(self) except -1 nogil
    cdef int txsync(self) except -1 nogil
