"""The classifier and the fields that it looks at, for other compiled modules (classifier.pyx, fields.h).

A module that holds a `Classifier` and a frame calls, without the GIL:

    cdef fos_fields fields
    fos_extract(frame, captured, wire, in_port, FOS_MAX_TAGS, &fields)
    flow = classifier.lookup(&fields)          # 0: none

Rules change under the GIL, and never while another thread is in `lookup`: the engine changes
them between batches.  Each change raises `generation`.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from flowos.core.fields cimport (FOS_MAX_TAGS, fos_extract, fos_extract_inner, fos_extract_ip, fos_extract_typed,
                                  fos_fields)


# All rules of one shape, which is one mask: a hash table with linear probing.  A record is
# {rank, hash << 32 | id, the masked words that the shape covers}; rank 0 is an empty place.  Of
# rules with equal words only the best has a record.
cdef struct Shape:
    uint64_t top                    # the best rank of its rules
    uint64_t *records
    uint32_t capacity               # of records: a power of two, at least twice `count`
    uint32_t count
    uint32_t stride                 # words per record
    uint32_t words                  # how many words of fos_fields the mask touches
    uint8_t[16] word                # which
    uint64_t[16] mask               # and their masks


cdef class Classifier:
    cdef readonly uint32_t generation      # of the rules: raised by every change
    cdef Shape **order                     # the shapes, best top first
    cdef uint32_t shapes
    cdef uint64_t[32] key                  # secret; two per word of fos_fields
    cdef uint64_t age                      # rules added so far
    cdef dict rules                        # id: Rule
    cdef dict tables                       # mask: Table

    cdef uint32_t lookup(self, const fos_fields *fields) noexcept nogil
    cdef int places(self, const Shape *s) noexcept
    cdef int reserve(self, uint32_t shapes) except -1
    cdef void settle(self, Shape *s, uint64_t top) noexcept
