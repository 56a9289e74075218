"""The capture writer: a port that ends in a capture file."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from flowos.core.port cimport Port
from flowos.core.ring cimport fos_ring, fos_slot


cdef extern from "pcapwrite.h" nogil:
    enum fos_write_result:
        FOS_WRITE_PUT
        FOS_WRITE_FULL
        FOS_WRITE_OTHER_LINK
        FOS_WRITE_TOO_MANY
        FOS_WRITE_MEMORY

    const uint32_t FOS_WRITER_MAX_SNAPLEN
    const uint32_t FOS_WRITER_MAX_NAME

    ctypedef struct fos_writer:
        uint8_t *data
        size_t size
        size_t have
        uint16_t link
        bint begun

    int fos_writer_init(fos_writer *writer, size_t size, bint ng, uint32_t snaplen)
    void fos_writer_close(fos_writer *writer)
    void fos_writer_begin(fos_writer *writer, uint16_t link)
    int fos_writer_describe(fos_writer *writer, uint16_t iface, uint16_t link, const char *name, uint32_t length,
                            uint32_t *number)
    int fos_writer_put(fos_writer *writer, const fos_slot *slot)
    const size_t FOS_WRITER_COUNTER_COUNT
    const char *fos_writer_counter_name(size_t index)
    const char *fos_writer_counter_text(size_t index)
    uint64_t fos_writer_counter(const fos_writer *writer, size_t index)


cdef class CaptureWriter(Port):
    cdef fos_writer c
    cdef int fd
    cdef bint owns_fd
    cdef readonly str file_format   # "pcap" or "pcapng"
    cdef object target              # keeps the caller's file object alive
    cdef size_t written             # [0, written) of the buffer is in the file
    cdef uint32_t sent              # TX slots below were written

    cdef int write_slot(self, const fos_slot *slot) except -1 nogil
    cdef int write_out(self) except -1 nogil
    cdef int wait_or_fail(self, int error) except -1
    cdef int check_open(self) except -1
    cdef int close_target(self) except -1
