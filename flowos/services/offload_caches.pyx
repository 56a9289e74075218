"""Route caches, for comparison: LRU and LFU, which change an entry at every miss.

Both bring a prefix in when its packet finds it missing (D3.2 §2.4.2.1), at once, and put out the
least recently or the least frequently used one.  So a miss is a packet at the controller and,
once the cache is full, a change of an entry.  Each packet costs O(1):

    LRU   one list of the entries, by their last use
    LFU   a list of frequencies that rise; each has the list of its entries, by their last use
          (Shah, Mitra and Matani, 2010).  Frequencies count since the entry came in.

Links are indices into arrays by id; the last places of an array are the heads of lists.
"""
from libc.stdint cimport int32_t, int64_t, uint64_t

import numpy

from flowos import UsageError


def check(n, prefixes):
    """Raise UsageError unless n and the number of prefixes are from 1."""
    for name, value in (("n", n), ("prefixes", prefixes)):
        if not isinstance(value, (int, numpy.integer)) or isinstance(value, bool) or not 1 <= value < 1 << 30:
            raise UsageError(f"{name}: got {value!r}, expected a number from 1 to {(1 << 30) - 1}")


cdef int check_ids(const int32_t[::1] ids, int64_t prefixes) except -1:
    cdef int64_t i
    for i in range(ids.shape[0]):
        if not 0 <= ids[i] < prefixes:
            raise UsageError(f"id {ids[i]}: expected 0 to {prefixes - 1}")
    return 0


cdef class LRU:
    """Keep the n prefixes that were used last, of ids below `prefixes`.

    >>> cache = LRU(2, prefixes=4)
    >>> cache.run(numpy.array([0, 1, 0, 2, 1], "i4")), sorted(cache.installed().tolist())
    ((4, 2), [1, 2])
    """

    cdef:
        readonly int64_t n, prefixes
        int64_t size
        int32_t[::1] after, before          # by id; place `prefixes` is the head: the last used is after it

    def __init__(self, n, prefixes):
        check(n, prefixes)
        self.n, self.prefixes, self.size = n, prefixes, 0
        self.after = numpy.full(prefixes + 1, -1, "i4")
        self.before = numpy.full(prefixes + 1, -1, "i4")
        self.after[prefixes] = self.before[prefixes] = prefixes

    def run(self, const int32_t[::1] ids):
        """Use the cache for packets in their order; give (packets that missed, entries that were replaced)."""
        cdef int64_t i, misses = 0, replaced = 0
        cdef int32_t id, old, head = self.prefixes
        cdef int32_t *after = &self.after[0]
        cdef int32_t *before = &self.before[0]
        check_ids(ids, self.prefixes)
        with nogil:
            for i in range(ids.shape[0]):
                id = ids[i]
                if after[head] == id:
                    continue
                if after[id] < 0:
                    misses += 1
                    if self.size == self.n:
                        replaced += 1
                        old = before[head]
                        before[head] = before[old]
                        after[before[old]] = head
                        after[old] = -1
                    else:
                        self.size += 1
                else:
                    after[before[id]] = after[id]
                    before[after[id]] = before[id]
                after[id], before[id] = after[head], head
                before[after[head]] = id
                after[head] = id
        return misses, replaced

    def installed(self):
        """Give the ids of the entries."""
        return numpy.flatnonzero(numpy.asarray(self.after)[:self.prefixes] >= 0).astype("i4")


cdef class LFU:
    """Keep the n prefixes that were used most often since they came in, of ids below `prefixes`.

    Of those used equally often the one goes whose last use is longest ago.

    >>> cache = LFU(2, prefixes=4)
    >>> cache.run(numpy.array([0, 0, 1, 2, 1], "i4")), sorted(cache.installed().tolist())
    ((4, 2), [0, 1])
    """

    cdef:
        readonly int64_t n, prefixes
        int64_t size
        int32_t[::1] after, before          # entries; place prefixes + f heads the list of class f
        int32_t[::1] class_of               # by id; -1: not in the cache
        uint64_t[::1] uses                  # by class; class 0 has none, and heads the list of classes
        int32_t[::1] up, down               # between classes, by rising uses
        int32_t spare                       # classes that are free, linked by `up`

    def __init__(self, n, prefixes):
        check(n, prefixes)
        self.n, self.prefixes, self.size = n, prefixes, 0
        classes = min(n, prefixes) + 2      # one for each entry, one while an entry moves, and the head
        self.after = numpy.arange(prefixes + classes, dtype="i4")
        self.before = numpy.arange(prefixes + classes, dtype="i4")
        self.class_of = numpy.full(prefixes, -1, "i4")
        self.uses = numpy.zeros(classes, "u8")
        self.up = numpy.arange(1, classes + 1, dtype="i4")
        self.up[classes - 1] = 0
        self.down = numpy.zeros(classes, "i4")
        self.up[0], self.spare = 0, 1

    cdef inline void leave(self, int32_t id) noexcept nogil:
        """Take an entry out of its class; a class with no more entries is free."""
        cdef int32_t f = self.class_of[id], head = self.prefixes + f
        self.after[self.before[id]] = self.after[id]
        self.before[self.after[id]] = self.before[id]
        if self.after[head] == head:
            self.up[self.down[f]] = self.up[f]
            self.down[self.up[f]] = self.down[f]
            self.up[f] = self.spare
            self.spare = f

    cdef inline void enter(self, int32_t id, int32_t below, uint64_t uses) noexcept nogil:
        """Put an entry in the class of so many uses, which is the one above `below` or is made there."""
        cdef int32_t f = self.up[below], head
        if f == 0 or self.uses[f] != uses:
            f = self.spare
            self.spare = self.up[f]
            self.uses[f] = uses
            self.up[f], self.down[f] = self.up[below], below
            self.down[self.up[below]] = f
            self.up[below] = f
        head = self.prefixes + f
        self.class_of[id] = f
        self.after[id], self.before[id] = head, self.before[head]
        self.after[self.before[head]] = id
        self.before[head] = id

    def run(self, const int32_t[::1] ids):
        """Use the cache for packets in their order; give (packets that missed, entries that were replaced)."""
        cdef int64_t i, misses = 0, replaced = 0
        cdef int32_t id, f, old, below
        cdef uint64_t uses
        check_ids(ids, self.prefixes)
        with nogil:
            for i in range(ids.shape[0]):
                id = ids[i]
                f = self.class_of[id]
                if f >= 0:
                    uses, below = self.uses[f], f
                    if self.after[self.prefixes + f] == id and self.before[self.prefixes + f] == id:
                        below = self.down[f]                # the class goes with its only entry
                        if self.up[f] == 0 or self.uses[self.up[f]] > uses + 1:
                            self.uses[f] = uses + 1         # … or takes its uses
                            continue
                    self.leave(id)
                    self.enter(id, below, uses + 1)
                    continue
                misses += 1
                if self.size == self.n:
                    replaced += 1
                    old = self.after[self.prefixes + self.up[0]]
                    self.leave(old)
                    self.class_of[old] = -1
                else:
                    self.size += 1
                self.enter(id, 0, 1)
        return misses, replaced

    def installed(self):
        """Give the ids of the entries."""
        return numpy.flatnonzero(numpy.asarray(self.class_of) >= 0).astype("i4")
