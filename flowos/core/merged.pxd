"""The port that merges several others by time."""
from libc.stdint cimport uint16_t, uint32_t

from flowos.core.port cimport Port
from flowos.core.ring cimport fos_ring


cdef class MergedPort(Port):
    cdef readonly tuple ports
    cdef void **sources             # the ports again, for use without the GIL
    cdef fos_ring **rings           # their RX rings: cur is the next packet, head lags until release
    cdef uint32_t count
    cdef uint32_t *heap             # numbers of the ports whose next packet is known, earliest first
    cdef uint32_t waiting           # how many
    cdef uint32_t *lacking          # numbers of those whose next packet is not
    cdef uint32_t lacking_count
    cdef uint16_t *origin           # by slot: the number of the port it came from
    cdef uint32_t released          # the slots below were given back to their ports

    cdef bint earlier(self, uint32_t a, uint32_t b) noexcept nogil
    cdef void sift_down(self) noexcept nogil
    cdef void push(self, uint32_t number) noexcept nogil
    cdef void give_back(self) noexcept nogil
    cdef bint ask(self) except -1 nogil
