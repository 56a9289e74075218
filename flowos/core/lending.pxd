"""How windows are lent and taken back (lending.pyx)."""
from libc.stdint cimport uint32_t, uint64_t

from flowos.core.attachment cimport Attachment
from flowos.core.core cimport fos_conn
from flowos.core.decoding cimport Decoding
from flowos.core.lane cimport fos_lane, fos_way
from flowos.core.state cimport Core
from flowos.core.window cimport Window


cdef Decoding decoding_of(Core core, uint32_t index)
cdef bint reads(Attachment a, Decoding decoding)
cdef uint32_t plan_stage(Core core, Attachment a, uint32_t index)
cdef Window pooled(Core core, Attachment a, uint32_t n)
cdef uint32_t offer(Core core, list serving, Attachment a, uint32_t index, int direction, uint32_t n) except? 0xffffffff
cdef int commit(Core core, list serving, Attachment a, Window w, bint failed) except -1
cdef uint64_t units_end(Core core, Attachment a, uint32_t index, int dir)
cdef int settle(Core core, list serving, Attachment a, uint32_t index, bint force) except -1
cdef int let_go(Core core, Attachment a, fos_lane *lane, uint32_t k, int dir) except -1
cdef bint pass_by(Core core, list serving, Attachment a, uint32_t index) except -1
cdef int leave(Core core, Attachment a, uint32_t index) except -1
cdef int settle_gone(Core core, fos_lane *lane, uint32_t before) except -1
cdef fos_lane *lane_at(Core core, list serving, uint32_t index, uint32_t start) except NULL
cdef int prepare(Core core, list serving, fos_lane *lane, uint32_t start) except -1
cdef int stage_number(fos_lane *lane, Attachment a) noexcept
cdef bint untouched(const fos_conn *conn) noexcept
cdef int forget(Core core, list serving, uint32_t index) except -1
