"""Segments and searching them (segment.h, search.h, patterns.h), and the compiled set (patterns.pyx)."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef extern from "search.h" nogil:
    ctypedef struct fos_seg:
        const uint8_t *p
        uint64_t n
        uint64_t at
        uint64_t in_ "in"

    ctypedef struct fos_patterns:
        uint32_t count
        uint32_t patterns
        uint32_t longest

    ctypedef struct fos_scan_state:
        uint64_t at
        uint32_t index
        uint64_t start
        uint64_t end

    enum:
        FOS_PATTERNS_BYTES

    int64_t fos_find(const fos_seg *segs, uint32_t count, uint64_t start, uint64_t total,
                     const uint8_t *pat, size_t m) noexcept
    uint64_t fos_partial(const fos_seg *segs, uint32_t count, uint64_t start, uint64_t total,
                         const uint8_t *pat, size_t m) noexcept
    fos_patterns *fos_patterns_build(const uint8_t **pats, const size_t *lens, uint32_t n) noexcept
    void fos_patterns_free(fos_patterns *c) noexcept
    void fos_scan_begin(fos_scan_state *st, const fos_seg *segs, uint32_t count, uint64_t start,
                        int more) noexcept
    int fos_patterns_next(const fos_patterns *c, const fos_seg *segs, uint32_t count,
                          fos_scan_state *st) noexcept
    uint64_t fos_patterns_partial(const fos_patterns *c, const fos_seg *segs, uint32_t count,
                                  uint64_t start, uint64_t total) noexcept


cdef class Patterns:
    cdef fos_patterns *c       # built once, read-only; freed with this object
    cdef readonly tuple patterns
