"""The port on an input that cannot be mapped: a pipe, a socket, compressed data."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from flowos.core.capture cimport FormatPort


cdef struct fos_input_block:
    uint8_t *data
    size_t size
    uint32_t last                   # index behind the last slot whose frame lies in this block


cdef class StreamPort(FormatPort):
    cdef int fd
    cdef bint owns_fd
    cdef object source              # keeps the caller's file object alive
    cdef object decompressed        # readinto(view), or None: read from the descriptor
    cdef readonly str compression   # "gzip", "zstd" or None
    cdef readonly str problem       # why the input ended early, or None
    cdef fos_input_block block      # the one being filled and walked
    cdef size_t have                # [0, have) of it was read
    cdef size_t pos                 # the next record in it
    cdef fos_input_block *held      # filled ones whose slots are held, oldest first, a ring of `held_room`
    cdef uint32_t held_first, held_count, held_room
    cdef fos_input_block spare      # one block that is free again
    cdef uint64_t read_bytes, blocks, carried

    cdef int open_block(self, size_t size) except -1 nogil
    cdef int make_room(self) except -1 nogil
    cdef void recycle(self) noexcept nogil
    cdef void release(self, fos_input_block *block) noexcept nogil
    cdef ssize_t refill(self) except -1 nogil
