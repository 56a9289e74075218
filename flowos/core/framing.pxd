"""The contract between the core and what keeps a decoder's messages valid (see framing.pyx)."""
from libc.stdint cimport uint32_t, uint64_t


cdef class Framing:
    cdef readonly uint64_t covered     # everything below is final: its edits are known
    cdef readonly bint holding         # something waits that `decide` would let go
    cdef list final                    # edits that are final and were not asked for yet, in ascending order
    cdef int unit(self, int kind, uint64_t start, uint64_t end, uint32_t message, list edits, bytes data) except -1
    cdef int decide(self) except -1
    cdef int close(self) except -1
    cdef list given(self)
