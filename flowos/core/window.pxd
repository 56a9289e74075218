"""Windows, data units and views (window.pyx)."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from flowos.core.connection cimport Connection
from flowos.core.core cimport fos_stream
from flowos.core.decoding cimport Decoding
from flowos.core.state cimport Core
from flowos.core.unit cimport fos_unit


cdef enum:
    LEVEL_FRAME = 0
    LEVEL_IP = 1
    LEVEL_TRANSPORT = 2
    LEVEL_DECODER = 3


cdef class View:
    cdef const uint8_t *p
    cdef Py_ssize_t n
    cdef object owner
    cdef const uint8_t *block


cdef class DataUnit:
    cdef fos_unit u
    cdef Core core
    cdef uint32_t index
    cdef uint32_t generation
    cdef uint64_t number       # index of the record in its stream
    cdef int dir               # by key
    cdef readonly int direction
    cdef int lvl               # LEVEL_*
    cdef uint8_t proto
    cdef Decoding decoding
    cdef object made           # what a Python decoder emitted: a flowos.decoder.Unit
    cdef list mates            # the list that it stands in
    cdef fos_stream *stream(self) except? NULL
    cdef bint held(self)
    cdef int alive(self) except -1
    cdef int extent(self, const uint8_t **start, uint64_t *n, const uint8_t **header, uint64_t *header_n) except -1
    cdef object bytes_at(self, const uint8_t *p, uint64_t n)


cdef class Window:
    cdef Core core
    cdef uint32_t index
    cdef uint32_t generation
    cdef int dir               # by key
    cdef int lvl               # LEVEL_*
    cdef Decoding decoding
    cdef fos_stream *stream
    cdef list made             # units of a Python decoder, in place of a stream
    cdef uint64_t first, stop  # range of unit indices
    cdef readonly uint64_t offset
    cdef readonly uint64_t length
    cdef readonly int direction
    cdef readonly bint complete
    cdef readonly object protocol
    cdef readonly int64_t now
    cdef bint live
    cdef int check(self) except -1
    cdef DataUnit unit_at(self, uint64_t number)
    cdef bint shows(self, uint64_t number)


cdef object view_of(Core core, const fos_unit *u, const uint8_t *p, uint64_t n)
cdef DataUnit unit_of(Core core, uint32_t index, int dir, int level, uint64_t number, const fos_unit *u)
cdef DataUnit made_unit(Core core, uint32_t index, int dir, Decoding decoding, list made, uint64_t number)
