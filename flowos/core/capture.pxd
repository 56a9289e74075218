"""The C declarations of the capture formats (pcapformat.h) and the port on a mapped file."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from flowos.core.port cimport Port
from flowos.core.ring cimport fos_ring


cdef extern from "pcapformat.h" nogil:
    enum fos_capture_format:
        FOS_FORMAT_NONE
        FOS_FORMAT_PCAP
        FOS_FORMAT_PCAPNG

    enum fos_capture_result:
        FOS_CAPTURE_FULL
        FOS_CAPTURE_MORE
        FOS_CAPTURE_STOP
        FOS_CAPTURE_UNKNOWN
        FOS_CAPTURE_VERSION
        FOS_CAPTURE_LENGTH
        FOS_CAPTURE_ORDER
        FOS_CAPTURE_MEMORY

    ctypedef struct fos_interface:
        int64_t offset
        uint32_t snaplen
        uint16_t link
        uint8_t resolution
        char *name

    ctypedef struct fos_capture:
        uint8_t format
        uint8_t swapped
        uint8_t record
        uint8_t stopped
        uint16_t major
        uint16_t minor
        uint32_t unit
        uint32_t need
        fos_interface *interfaces
        uint32_t interface_count
        int64_t last_ts

    int fos_capture_open(fos_capture *capture, const uint8_t *p, size_t n)
    int fos_capture_fill(fos_capture *capture, const uint8_t *base, size_t n, size_t *pos, fos_ring *ring,
                         uint32_t want)
    void fos_capture_end(fos_capture *capture, uint64_t left)
    void fos_capture_close(fos_capture *capture)
    const size_t FOS_CAPTURE_COUNTER_COUNT
    const char *fos_capture_counter_name(size_t index)
    const char *fos_capture_counter_text(size_t index)
    uint64_t fos_capture_counter(const fos_capture *capture, size_t index)


cdef class FormatPort(Port):
    """What the ports that read a capture format share: the format's state, its counters."""
    cdef fos_capture format

    cdef int refuse(self, int result, const uint8_t *p, size_t n) except -1


cdef class CapturePort(FormatPort):
    cdef const uint8_t *map         # the whole file, read-only; goes with the object
    cdef size_t length              # bytes mapped
    cdef size_t limit               # bytes that are there: fewer once the file is found cut while it is read
    cdef size_t pos                 # where the next record begins
    cdef size_t populated           # [0, populated) was mapped in
    cdef size_t dropped             # [0, dropped) was given back
    cdef int fd
    cdef bint populates             # the kernel has MADV_POPULATE_READ
    cdef uint64_t vanished          # bytes that were there when the file was opened

    cdef int close_file(self) except -1
    cdef void populate(self) noexcept nogil
    cdef void drop(self) noexcept nogil
