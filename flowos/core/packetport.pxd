"""The port on a network interface through an AF_PACKET socket."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from flowos.core.arena cimport Arena
from flowos.core.port cimport Port
from flowos.core.ring cimport fos_ring


cdef extern from "packetport.h" nogil:
    enum:
        FOS_TUNNEL_ALL
        FOS_PACKET_TAG

    ctypedef struct fos_counters:
        pass

    ctypedef struct fos_parser:
        fos_counters *counters
        uint32_t tunnels

    ctypedef struct fos_packet_io:
        fos_parser parser
        fos_counters unused
        int fd
        uint16_t link
        int error
        uint64_t received, too_long, tags, completed
        uint64_t transmitted, refused_long, refused_full, refused_down, refused

    uint32_t fos_packet_receive(fos_packet_io *io, fos_ring *rx)
    uint32_t fos_packet_send(fos_packet_io *io, fos_ring *tx)


cdef class PacketPort(Port):
    cdef fos_packet_io *io
    cdef object socket
    cdef readonly Arena arena
    cdef readonly str interface
    cdef int index
    cdef uint64_t kernel_dropped

    cdef int heed_error(self) except -1
