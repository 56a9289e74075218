"""The pipe: two ports in memory, each of which receives what the other sends."""
from libc.stdint cimport uint32_t, uint64_t

from flowos.core.arena cimport Arena
from flowos.core.port cimport Port
from flowos.core.ring cimport fos_ring, fos_slot


cdef extern from "pipe.h" nogil:
    ctypedef struct fos_pipe_way:
        pass

    uint32_t fos_pipe_send(fos_pipe_way *way, fos_ring *tx)
    uint32_t fos_pipe_receive(fos_pipe_way *way, fos_ring *rx, fos_ring *tx)
    void fos_pipe_finish(fos_pipe_way *way)
    void fos_pipe_refuse(fos_pipe_way *way)
    bint fos_pipe_finished(const fos_pipe_way *way)


cdef class Link:
    """What the two ends share; it lives as long as either of them."""
    cdef fos_pipe_way ways[2]
    cdef fos_ring rx[2]
    cdef fos_ring tx[2]
    cdef Arena arena


cdef class PipePort(Port):
    cdef Link link                  # whose rings this port's rx and tx are copies of
    cdef int side
    cdef readonly Arena arena
    cdef uint64_t sent, received, too_long, full

    cdef int put(self, const fos_slot *slot) noexcept nogil
