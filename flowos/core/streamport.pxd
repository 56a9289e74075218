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
    cdef uint32_t first             # index of the first slot whose frame lies in it
    cdef size_t have                # [0, have) of it was read
    cdef size_t pos                 # the next record in it
    cdef fos_input_block *held      # earlier ones, each with held slots: a ring of rx.size, oldest first
    cdef uint32_t held_first, held_count
    cdef fos_input_block spare      # one that is free again
    cdef uint64_t input_bytes, carried_bytes, blocks_made

    cdef int open_source(self, object source, object name) except -1
    cdef int open_format(self) except -1
    cdef int open_block(self, size_t size) except -1 nogil
    cdef void release_block(self, fos_input_block *block) noexcept nogil
    cdef void recycle(self) noexcept nogil
    cdef int make_room(self) except -1 nogil
    cdef Py_ssize_t refill(self) except -1 nogil
    cdef Py_ssize_t wait_or_end(self, int error) except -1
    cdef int close_source(self) except -1
