"""The port on a TAP device: a network interface of this host's own, with us at its other end."""
from libc.stdint cimport uint32_t, uint64_t

from flowos.core.arena cimport Arena
from flowos.core.port cimport Port
from flowos.core.ring cimport fos_ring


cdef extern from "tapport.h" nogil:
    ctypedef struct fos_tap_io:
        int fd
        int gone
        uint32_t sent
        uint64_t received, too_long, transmitted, refused_down, refused

    uint32_t fos_tap_receive(fos_tap_io *io, fos_ring *rx)
    uint32_t fos_tap_send(fos_tap_io *io, fos_ring *tx)


cdef class TapPort(Port):
    cdef fos_tap_io io
    cdef object device
    cdef readonly Arena arena
    cdef readonly str interface

    cdef int open_device(self, str title, str name, object slots, Arena arena) except -1
