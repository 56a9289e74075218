"""The port that looks on a network interface through TPACKET_V3 blocks."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from flowos.core.port cimport Port
from flowos.core.ring cimport fos_ring


cdef extern from "blockport.h" nogil:
    enum:
        FOS_BLOCK_TAG
        FOS_TUNNEL_ALL

    ctypedef struct fos_counters:
        pass

    ctypedef struct fos_parser:
        fos_counters *counters
        uint32_t tunnels

    ctypedef struct fos_block_io:
        uint8_t *map
        uint32_t size, count
        uint8_t *ends
        uint16_t link
        fos_parser parser
        fos_counters unused
        uint64_t received, tags, completed

    uint32_t fos_block_receive(fos_block_io *io, fos_ring *rx)


cdef class BlockPort(Port):
    cdef fos_block_io *io
    cdef object socket
    cdef object mapping             # the mmap, alive as long as slots may lead into it
    cdef readonly str interface
    cdef uint64_t kernel_dropped, frozen
    cdef int index
    cdef int empty                  # calls in a row that found nothing
