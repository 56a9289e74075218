"""The contract between the core and its decoders (see decoder.pyx)."""
from libc.stdint cimport int64_t, uint8_t, uint64_t

from flowos.core.unit cimport fos_sink


cdef class Decoder:
    cdef int feed(self, int direction, const uint8_t *data, size_t n, uint64_t offset,
                  int64_t ts, fos_sink *sink) except -1 nogil
    cdef int gap(self, int direction, uint64_t offset, uint64_t length,
                 int64_t ts, fos_sink *sink) except -1 nogil
    cdef int finish(self, int direction, uint64_t offset, int64_t ts,
                    fos_sink *sink) except -1 nogil
