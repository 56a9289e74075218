"""The pipe: two ports in memory, each of which receives what the other sends."""
from libc.stdint cimport uint32_t, uint64_t

from flowos.core.arena cimport Arena
from flowos.core.port cimport Port
from flowos.core.ring cimport fos_ring, fos_slot


cdef extern from "pipe.h" nogil:
    ctypedef struct fos_pipe_way:
        fos_slot *slots
        uint32_t size

    uint32_t fos_pipe_send(fos_pipe_way *way, fos_ring *tx, uint64_t *lost)
    uint32_t fos_pipe_receive(fos_pipe_way *way, fos_ring *rx)
    void fos_pipe_end(fos_pipe_way *way)
    void fos_pipe_leave(fos_pipe_way *way)
    bint fos_pipe_dry(const fos_pipe_way *way)


cdef class Link:
    """What the two ends share: slots, buffers and cursors.  It lives as long as either of them."""
    cdef fos_pipe_way ways[2]       # by sending end
    cdef fos_ring rx[2]             # by end; the ports hold copies and move their cursors
    cdef fos_ring tx[2]
    cdef Arena arena


cdef class PipePort(Port):
    cdef Link link
    cdef fos_pipe_way *outward
    cdef fos_pipe_way *inward
    cdef readonly Arena arena
    cdef uint64_t sent, received, too_long, full, lost

    cdef bint put(self, const fos_slot *slot) noexcept nogil
