"""How framed messages stay valid under edits (reframing.pyx)."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from flowos.core.core cimport fos_chunk, fos_stream
from flowos.core.decoding cimport Decoding
from flowos.core.framing cimport Framing
from flowos.core.lane cimport fos_at, fos_edits, fos_lane, fos_stage, fos_way
from flowos.core.state cimport Core
from flowos.core.unit cimport fos_unit


cdef class Side


cdef class Reframer:
    cdef Core core
    cdef readonly object decoder       # name of the decoder whose class says how its messages are framed
    cdef object framing                # that class's own: a pair of objects for each connection
    cdef dict pairs                    # by connection record
    cdef int64_t hold_ns
    cdef uint64_t hold_bytes
    cdef bint retiring                 # no module resizes any more: connections that it began on are kept valid to their end
    cdef int work(self, fos_lane *lane, uint32_t k, bint force) except -1
    cdef int one_way(self, fos_lane *lane, uint32_t k, int dir, bint force) except -1
    cdef uint64_t run(self, fos_stream *up, fos_chunk **chunk, Side side, uint32_t message, int body, uint64_t end, uint64_t limit) noexcept
    cdef uint64_t feed(self, Side side, fos_way *way, fos_stage *st, fos_unit *u, uint64_t start, uint64_t end,
                       const fos_edits *given, uint32_t index, int dir, Decoding decoding) except? 0xffffffffffffffff
    cdef uint64_t final(self, fos_stage *st, Framing framing) except? 0xffffffffffffffff
    cdef int pass_on(self, fos_lane *lane, uint32_t k, int dir, fos_at limit) except -1


cdef class Side:
    cdef Framing framing               # the decoder's, for this direction
    cdef uint64_t fed                  # offset up to which units were fed
    cdef uint32_t taken                # edits at `fed` that were fed
    cdef uint64_t carry                # bytes from `fed` on that an edit fed before takes away
    cdef uint64_t unit                 # index of the first unit that was not fed to its end
    cdef int64_t since                 # capture time since which something waits, or 0
    cdef bint ended
