"""The decoder at work on one connection (decoding.pyx)."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from flowos.core.core cimport fos_core, fos_stream
from flowos.core.decoder cimport Decoder
from flowos.core.state cimport Core
from flowos.core.unit cimport fos_sink, fos_unit


cdef enum:
    MARKS = 4


ctypedef struct packet_mark:
    uint64_t end               # where a unit of the lower stream ended,
    uint64_t packet            # ... and the packet that brought it


ctypedef struct packet_marks:  # of lower units that were released before units covered them
    packet_mark[MARKS] marks
    uint32_t count
    uint64_t covered           # lower bytes that units cover, or that can be none's: no decoder begins there


ctypedef struct decoding_sink:
    fos_sink base
    fos_core *core
    fos_stream *stream
    packet_marks *packets
    const uint8_t *piece       # the bytes being fed, when units may refer to them
    size_t piece_n
    int64_t ts
    uint64_t packet            # number of the packet being fed
    int emitted


cdef class Decoding:
    cdef Core core
    cdef uint32_t index
    cdef readonly object name
    cdef object decoder
    cdef dict kinds            # names of the decoder's kinds of units
    cdef int body_kind         # number of the kind "body"; -1: there is none; 0: not looked up yet
    cdef Decoder native
    cdef fos_stream up[2]      # by direction of the key
    cdef packet_marks packets[2]
    cdef list made             # units of a Python decoder: a list for each direction of the key
    cdef uint64_t gone[2]      # ... of which so many went before
    cdef uint64_t fed[2]       # index of the first unit of the transport that was not fed
    cdef decoding_sink sink
    cdef list candidates       # classes not yet ruled out: a list for each direction of the key
    cdef list pending          # what the accepted decoder will be fed first
    cdef int[2] tries
    cdef Py_ssize_t pending_bytes
    cdef bint finished[2]
    cdef bint failed           # taken off: what it made before still counts
    cdef object errors
    cdef int decode(self) except -1
    cdef int _unit(self, int dir, const fos_unit *u) except -1
    cdef int _probe(self, int dir, const fos_unit *u) except -1
    cdef object _ask(self, decoder, data, int direction, port)
    cdef int _bound(self) except -1
    cdef int _accept(self, decoder) except -1
    cdef int _fault(self, decoder, error) except -1
    cdef int _note(self, decoder, error) except -1
    cdef int _user(self, int dir) noexcept
    cdef int _feed(self, int dir, const uint8_t *p, uint64_t n, uint64_t off, int64_t ts, bint lasting) except -1
    cdef int _gap(self, int dir, uint64_t off, uint64_t n, int64_t ts) except -1
    cdef int _keep(self, int dir, units, int64_t ts) except -1
    cdef int finish(self, int dir, uint64_t offset, int64_t ts) except -1
    cdef void aim(self, int dir, const uint8_t *piece, size_t n, int64_t ts) noexcept
    cdef uint64_t packet_of(self, int dir, const fos_unit *unit) noexcept
    cdef void remember(self, int dir, uint64_t below) noexcept
    cdef int release(self, int dir, uint64_t upto, uint64_t below) except -1


cdef inline uint64_t ruled_out(Decoding decoding, int dir, uint64_t tail):
    """Up to where a direction that has no decoder yet holds nothing that one could make units of; at most `tail`."""
    cdef uint64_t covered = decoding.packets[dir].covered
    return tail if not decoding.candidates[dir] or covered > tail else covered
