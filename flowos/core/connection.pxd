"""The handle on a connection (connection.pyx)."""
from libc.stdint cimport uint32_t, uint64_t

from flowos.core.core cimport fos_cold, fos_conn, fos_end, fos_half
from flowos.core.state cimport Core


cdef class Connection:
    cdef Core core
    cdef uint32_t index
    cdef uint32_t generation
    cdef bint gone             # the record is given back: the copies below stand in
    cdef fos_conn conn_copy
    cdef fos_half half_copy[2]
    cdef fos_cold cold_copy
    cdef object gaps_copy
    cdef object vlans_copy
    cdef object detected_copy
    cdef object flow_copy
    cdef public dict state_of        # per module: what it keeps about this connection
    cdef object __weakref__
    cdef const fos_conn *conn(self)
    cdef const fos_cold *cold(self)
    cdef const fos_half *half(self, int direction)
    cdef int settle(self) except -1
    cdef bint copied(self)
    cdef list gaps_of(self, int direction)
    cdef object fields(self)
    cdef int end_of(self, what, given, end, fos_end *into) except -1
    cdef int fate(self, what, int reset) except -1


cdef class Direction:
    cdef Connection connection
    cdef int number
    cdef uint64_t _count(self, int what)


cdef Connection connection_of(Core core, uint32_t index)
