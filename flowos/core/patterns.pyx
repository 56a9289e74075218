"""`Patterns`: a set of byte patterns compiled once, for `Window.find_many` and by itself.

The machinery is C (patterns.h, search.h) and works on a window's segments where they lie.  Here
are the object that owns a compiled set, and the same searches over a list of Python's own buffers,
as if they were joined: `Patterns.find_all`, `find`, `partial`.
"""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from flowos.core.errors import LimitError, UsageError


cdef class Pieces:
    """Buffers taken as if joined, in their places; made once for several searches, or by each itself.

    `pieces` is one buffer or a list of them, which stay exported while this lives; None stands for
    a byte that is not there.
    """

    cdef fos_seg *segs
    cdef uint32_t count
    cdef uint64_t total
    cdef list views

    def __cinit__(self, pieces):
        cdef const uint8_t[::1] view
        cdef uint32_t i = 0
        if isinstance(pieces, (bytes, bytearray, memoryview)):
            pieces = [pieces]
        pieces = list(pieces)
        self.views = []
        self.segs = <fos_seg *>calloc(len(pieces) + 1, sizeof(fos_seg))
        if self.segs == NULL:
            raise LimitError(f"no memory for {len(pieces)} segments")
        for piece in pieces:
            self.segs[i].at = self.total
            if piece is None:
                self.segs[i].n = 1
            else:
                view = piece
                self.views.append(view)
                self.segs[i].n = <uint64_t>view.shape[0]
                # A pointer that is not NULL: an empty piece is no gap.
                self.segs[i].p = &view[0] if view.shape[0] else <const uint8_t *>self.segs
            self.total += self.segs[i].n
            i += 1
        self.count = i

    def __dealloc__(self):
        free(self.segs)


cdef Pieces pieces_of(pieces):
    return pieces if isinstance(pieces, Pieces) else Pieces(pieces)


cdef bytes pattern_of(pattern):
    """The bytes of one pattern; UsageError when it is no bytes, or empty."""
    if not isinstance(pattern, (bytes, bytearray, memoryview)):
        raise UsageError(f"pattern {pattern!r}: expected bytes, got {type(pattern).__name__}")
    if not len(pattern):
        raise UsageError("an empty pattern is everywhere: expected at least one byte")
    return bytes(pattern)


cdef class Patterns:
    """A set of byte patterns, compiled for searching windows for all of them at once.

    `patterns` is any iterable of bytes; a match names a pattern by its place in it (of equal ones,
    the first).  Matches are the leftmost ones, of those that start together the longest, and do not
    overlap.  A set never changes and may be shared by threads; it takes some 40 bytes per byte of
    pattern and up to 4 MB for its table.  UsageError: an empty pattern, something other than
    bytes, more than 4 MiB of patterns.

    >>> names = Patterns([b"Content-Type", b"Content-Type-Options", b"Set-Cookie"])
    >>> list(names.find_all([b"X-Content-Type-Op", b"tions: a", b"Content-Type: b"]))
    [(2, 22, 1), (25, 37, 0)]
    >>> names.partial([b"X-Content-Type-Op", b"tion"])
    19
    """

    def __cinit__(self, patterns):
        cdef const uint8_t **pats = NULL
        cdef size_t *lens = NULL
        cdef size_t n, i
        if isinstance(patterns, (bytes, bytearray, memoryview, str)):
            raise UsageError(f"patterns {patterns!r}: expected an iterable of bytes, such as [{patterns!r}]")
        self.patterns = tuple([pattern_of(pattern) for pattern in patterns])
        total = sum(map(len, self.patterns))
        if total > FOS_PATTERNS_BYTES:
            raise UsageError(f"{len(self.patterns)} patterns have {total} bytes: "
                             f"expected at most {FOS_PATTERNS_BYTES} in a set")
        n = len(self.patterns)
        pats = <const uint8_t **>malloc((n + 1) * sizeof(uint8_t *))
        lens = <size_t *>malloc((n + 1) * sizeof(size_t))
        if pats != NULL and lens != NULL:
            for i in range(n):
                pats[i] = <const uint8_t *><bytes>self.patterns[i]
                lens[i] = len(<bytes>self.patterns[i])
            with nogil:
                self.c = fos_patterns_build(pats, lens, <uint32_t>n)
        free(pats)
        free(lens)
        if self.c == NULL:
            raise LimitError(f"no memory to compile {n} patterns of {total} bytes")

    def __dealloc__(self):
        fos_patterns_free(self.c)

    def __len__(self):
        return len(self.patterns)

    def __repr__(self):
        return f"<Patterns: {len(self.patterns)}, longest {self.c.longest} bytes>"

    def __reduce__(self):
        return Patterns, (self.patterns,)

    def find_all(self, pieces, bint more=False):
        """Give the matches in buffers taken as if joined: an iterator of (start, end, index).

        With `more`, a match at the end that following bytes could make longer, or move to the left,
        is left out: `partial` counts its bytes.  O(bytes + matches).
        """
        cdef Pieces text = pieces_of(pieces)
        cdef fos_scan_state st
        cdef bint found
        fos_scan_begin(&st, text.segs, text.count, 0, more)
        while True:
            with nogil:
                found = fos_patterns_next(self.c, text.segs, text.count, &st)
            if not found:
                return
            yield st.start, st.end, st.index

    def partial(self, pieces, uint64_t start=0):
        """Say how many bytes at the end, behind `start`, may still become a match."""
        cdef Pieces text = pieces_of(pieces)
        return fos_patterns_partial(self.c, text.segs, text.count, start, text.total)


def find(pieces, pattern, uint64_t start=0):
    """Give the offset of the first `pattern` from `start` on in buffers taken as if joined, or -1.

    >>> find([b"GET / HT", b"TP/1", b".1"], b"HTTP/1.1")
    6
    """
    cdef Pieces text = pieces_of(pieces)
    cdef bytes wanted = pattern_of(pattern)
    cdef const uint8_t *p = wanted
    cdef size_t m = len(wanted)
    cdef int64_t at
    with nogil:
        at = fos_find(text.segs, text.count, start, text.total, p, m)
    return at


def partial(pieces, pattern, uint64_t start=0):
    """Say how many bytes at the end of buffers, behind `start`, may still become `pattern`.

    >>> partial([b"GET / HT", b"TP"], b"HTTP/1.1")
    4
    """
    cdef Pieces text = pieces_of(pieces)
    cdef bytes wanted = pattern_of(pattern)
    return fos_partial(text.segs, text.count, start, text.total, wanted, len(wanted))
