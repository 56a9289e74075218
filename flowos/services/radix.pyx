"""A radix tree of load: counters on prefixes that are fine where the load is.

Keys are strings of bits, such as addresses; the tree knows how much load fell on each prefix.  It
is filled in one of two ways.  `add` puts a known load on a prefix, exactly.  `count` takes the
keys of packets one by one and lets the tree grow where they fall: a leaf that has counted its
share of the whole forks, and when the counters run out the coldest are folded into their parents.
So a fixed number of counters resolves a hot host to its last bit and leaves the rest coarse.

What a leaf counted before it forked stays with it and is shared out between its children as they
count (radix.h).  A tree is state only: who polls it, ages it (`decay`) or joins those of several
servers (`merge`) decides when.  Not safe for two threads at a time.
"""
from cpython.buffer cimport PyBuffer_FillInfo
from libc.math cimport isfinite, log, log1p
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset

import numpy

from flowos import LimitError, UsageError

cdef extern from "radix.h" nogil:
    const int FOS_KEY_BYTES
    ctypedef struct fos_load:
        double load
        int32_t left
        int32_t unused
    ctypedef struct fos_chunk:
        double load
        int32_t node
        uint8_t tree
        uint8_t length
        uint8_t bits[18]
    int fos_key_bit(const uint8_t *bits, unsigned at)
    void fos_chunk_split(const fos_load *nodes, const fos_chunk *whole, fos_chunk *left, fos_chunk *right)

#: A chunk as NumPy sees it: the layout of fos_chunk.
CHUNK = numpy.dtype([("load", "<f8"), ("node", "<i4"), ("tree", "u1"), ("length", "u1"), ("bits", "u1", (FOS_KEY_BYTES,))])

# A leaf forks once it has counted this many times the mean share of a counter: with 1, as many
# leaves as there are counters would be forked by a uniform load, and folded again at once.
cdef double FORK = 2.0


cdef class LoadTree:
    """Count load by prefixes of keys of `bits` bits, with at most `counters` leaves.

    Without a number of counters every key that is counted gets its own, to the last bit.  With one
    the load of a prefix is off by at most FORK * total / counters and a packet for each bit of its
    length, while the counters suffice.  UsageError: bits or counters out of range.

    >>> tree = LoadTree(32)
    >>> tree.add(bytes([10, 0, 0, 0]), 8, 30.0)
    >>> tree.add(bytes([192, 168, 0, 0]), 16, 10.0)
    >>> tree.total, tree.load(bytes([10, 0, 0, 0]), 9), tree.load(bytes([11, 0, 0, 0]), 8)
    (40.0, 15.0, 0.0)
    """

    cdef:
        fos_load *nodes
        int32_t room                   # nodes there is memory for
        int32_t used                   # nodes given out, those in the free list included
        int32_t spare                  # first pair of the free list, linked by `left`; 0: none
        Py_ssize_t exports
        uint64_t random
        uint64_t skip                  # packets to let pass before the next sample
        readonly int bits
        readonly object counters
        readonly int64_t leaves
        readonly int64_t samples       # keys that were counted, aged like the loads
        double aged_samples

    def __cinit__(self, bits, counters=None, seed=1):
        if not isinstance(bits, int) or not 1 <= bits <= 8 * FOS_KEY_BYTES:
            raise UsageError(f"a load tree's keys have 1 to {8 * FOS_KEY_BYTES} bits, not {bits!r}")
        if counters is not None and (not isinstance(counters, int) or not 2 <= counters <= 1 << 28):
            raise UsageError(f"a load tree has 2 to {1 << 28} counters, not {counters!r}")
        self.bits, self.counters, self.random = bits, counters, (<uint64_t>seed * 2 + 1) * 0x9E3779B97F4A7C15ULL
        self.nodes = <fos_load *>malloc(64 * sizeof(fos_load))
        if self.nodes == NULL:
            raise MemoryError
        self.room = 64
        self.clear()

    def __dealloc__(self):
        free(self.nodes)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.nodes, self.used * <Py_ssize_t>sizeof(fos_load), 1, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.exports -= 1

    def clear(self):
        """Forget all load."""
        if self.exports:
            raise UsageError("a load tree cannot change while its nodes are looked at")
        memset(self.nodes, 0, sizeof(fos_load))
        self.used, self.spare, self.leaves, self.samples, self.skip, self.aged_samples = 1, 0, 1, 0, 0, 0.0

    @property
    def total(self):
        """All load."""
        return self.nodes[0].load

    @property
    def width(self):
        """Bytes of a key."""
        return (self.bits + 7) // 8

    cdef int32_t fork(self, int32_t at) except -1 nogil:
        """Give a leaf two children that have counted nothing; the index of the left one."""
        cdef int32_t left = self.spare
        cdef fos_load *more
        if left:
            self.spare = self.nodes[left].left
        else:
            if self.used + 2 > self.room:
                if self.exports or self.room > 1 << 29:
                    with gil:
                        raise LimitError("a load tree cannot grow " + (
                            "while its nodes are looked at" if self.exports else "past a thousand million nodes"))
                more = <fos_load *>realloc(self.nodes, 2 * self.room * sizeof(fos_load))
                if more == NULL:
                    with gil:
                        raise MemoryError
                self.nodes, self.room = more, 2 * self.room
            left = self.used
            self.used += 2
        memset(self.nodes + left, 0, 2 * sizeof(fos_load))
        self.nodes[at].left = left
        self.leaves += 1
        return left

    cdef void fold(self, int32_t at) noexcept nogil:
        """Take the two leaves below a node away; what they counted is in the node."""
        cdef int32_t left = self.nodes[at].left
        self.nodes[left].left = self.spare
        self.spare = left
        self.nodes[at].left = 0
        self.leaves -= 1

    cdef void fold_below(self, int32_t at, double least) noexcept nogil:
        """Fold every node that counted less than `least`, and all below it."""
        cdef int32_t left = self.nodes[at].left
        if left == 0:
            return
        self.fold_below(left, least)
        self.fold_below(left + 1, least)
        if self.nodes[at].load < least and not self.nodes[left].left and not self.nodes[left + 1].left:
            self.fold(at)

    cdef void make_room(self, int64_t most) noexcept nogil:
        """Fold the coldest until a quarter of the counters is free."""
        cdef int64_t wanted = max(3 * most // 4, <int64_t>1)
        cdef double least = FORK * self.nodes[0].load / (4.0 * wanted)
        while self.leaves > wanted and self.nodes[0].left:
            self.fold_below(0, least)
            least = 2 * least if least > 0 else 1.0

    cdef const uint8_t *key(self, object prefix, int length, uint8_t *into) except NULL:
        """Check a prefix and copy its bits."""
        cdef const uint8_t[::1] raw
        cdef int i
        if not isinstance(prefix, (bytes, bytearray)) or len(prefix) != self.width:
            raise UsageError(f"a key of {self.bits} bits is {self.width} bytes, not {prefix!r}")
        if not 0 <= length <= self.bits:
            raise UsageError(f"the length of a prefix is 0 to {self.bits} bits here, not {length}")
        raw = prefix
        memset(into, 0, FOS_KEY_BYTES)
        for i in range(raw.shape[0]):
            into[i] = raw[i]
        return into

    def add(self, prefix, int length, double load):
        """Add a load that fell on a prefix: `length` leading bits of the bytes `prefix`.

        Where finer prefixes have load already, it is shared out among them.  O(length).
        UsageError: a prefix that does not fit, or a load that is negative or not finite.
        """
        cdef uint8_t[18] bits
        cdef const uint8_t *key = self.key(prefix, length, bits)
        cdef int32_t at = 0, left
        cdef int depth
        if not isfinite(load) or load < 0:
            raise UsageError(f"a load is a number that is not negative, not {load}")
        for depth in range(length):
            left = self.nodes[at].left or self.fork(at)
            self.nodes[at].load += load
            at = self.nodes[at].left + fos_key_bit(key, depth)
        self.nodes[at].load += load

    cdef uint64_t gap(self, double every) noexcept nogil:
        """Draw how many packets pass before the next sample, one in `every` being taken."""
        cdef double uniform
        if every <= 1:
            return 0
        self.random ^= self.random << 13                # xorshift64 (Marsaglia 2003)
        self.random ^= self.random >> 7
        self.random ^= self.random << 17
        uniform = ((self.random >> 11) + 1) * (1.0 / 9007199254740993.0)
        return <uint64_t>(log(uniform) / log1p(-1 / every))

    def count(self, keys, weights, double every=1):
        """Count packets: `keys` is an array (n, width) of bytes, `weights` n numbers such as lengths.

        One packet in `every` is counted, drawn at random so that no rhythm of the traffic hides
        from it (the gaps are geometric), for `every` times its weight.  O(n / every * bits), without
        the GIL.  UsageError: arrays that do not fit.
        """
        cdef const uint8_t[:, ::1] rows = keys
        cdef const double[::1] loads = weights
        cdef Py_ssize_t i, n = rows.shape[0]
        cdef int64_t most = self.counters or 0
        if rows.shape[1] != self.width or loads.shape[0] != n:
            raise UsageError(f"keys ({n}, {rows.shape[1]}) and {loads.shape[0]} weights: expected (n, {self.width}) and n")
        if not 1 <= every <= 1e12:
            raise UsageError(f"one packet in N is counted, N from 1 to 10**12, not {every}")
        if self.exports:
            raise UsageError("a load tree cannot count while its nodes are looked at")
        with nogil:
            i = 0
            while self.skip < <uint64_t>(n - i):
                i += self.skip
                self.sample(&rows[i, 0], loads[i] * every, most)
                i += 1
                self.skip = self.gap(every)
            self.skip -= n - i

    cdef int sample(self, const uint8_t *key, double load, int64_t most) except -1 nogil:
        """Count one packet: along its path, and one level deeper where the last counter is full."""
        cdef int32_t at = 0
        cdef int depth = 0
        cdef fos_load *node
        cdef double full
        self.samples += 1
        self.aged_samples += 1
        while True:
            node = self.nodes + at
            node.load += load
            if not node.left and (most or depth == self.bits):
                break
            if not node.left:
                self.fork(at)
                node = self.nodes + at
            at = node.left + fos_key_bit(key, depth)
            depth += 1
        if depth == self.bits:
            return 0
        # Until there are as many samples as counters, a mean sample counts as the share of one.
        full = FORK * self.nodes[0].load / min(<double>most, self.aged_samples)
        if self.nodes[at].load > full:
            if self.leaves >= most:
                self.make_room(most)
            else:
                self.fork(at)
        return 0

    def decay(self, double factor):
        """Age all load: multiply it by a factor between 0 and 1.  O(counters)."""
        cdef int32_t i
        if not 0 <= factor <= 1:
            raise UsageError(f"load ages by a factor between 0 and 1, not {factor}")
        if self.exports:
            raise UsageError("a load tree cannot change while its nodes are looked at")
        for i in range(self.used):
            self.nodes[i].load *= factor
        self.aged_samples *= factor

    def merge(self, LoadTree other):
        """Add the load of another tree over the same keys, such as another server's.  O(counters)."""
        if other.bits != self.bits:
            raise UsageError(f"trees of {self.bits} and {other.bits} bits do not merge")
        if other is self:
            raise UsageError("a load tree does not merge with itself")
        self.join(0, other, 0)
        self.samples += other.samples
        self.aged_samples += other.aged_samples
        if self.counters is not None and self.leaves > self.counters:
            self.make_room(self.counters)

    cdef int join(self, int32_t at, LoadTree other, int32_t there) except -1:
        cdef int32_t left = other.nodes[there].left
        cdef int side
        self.nodes[at].load += other.nodes[there].load
        if left:
            if not self.nodes[at].left:
                self.fork(at)
            for side in range(2):
                self.join(self.nodes[at].left + side, other, left + side)
        return 0

    def load(self, prefix, int length):
        """Estimate the load of a prefix; below the last counter halves are taken.  O(length)."""
        cdef fos_chunk[2] halves
        cdef fos_chunk chunk
        cdef uint8_t[18] bits
        cdef const uint8_t *key = self.key(prefix, length, bits)
        memset(&chunk, 0, sizeof(chunk))
        chunk.load = self.nodes[0].load
        for depth in range(length):
            fos_chunk_split(self.nodes, &chunk, halves, halves + 1)
            chunk = halves[fos_key_bit(key, depth)]
        return chunk.load

    def rows(self):
        """List the leaves that have load, in the order of keys: (prefix, length, load)."""
        cdef fos_chunk chunk
        memset(&chunk, 0, sizeof(chunk))
        chunk.load = self.nodes[0].load
        rows = []
        self.collect(&chunk, rows)
        return rows

    cdef int collect(self, const fos_chunk *chunk, list rows) except -1:
        cdef fos_chunk[2] halves
        if chunk.load > 0 and not self.nodes[chunk.node].left:
            rows.append((bytes(chunk.bits[:self.width]), chunk.length, chunk.load))
        elif chunk.load > 0:
            fos_chunk_split(self.nodes, chunk, halves, halves + 1)
            self.collect(halves, rows)
            self.collect(halves + 1, rows)
        return 0

    def heavy(self, int length, double least):
        """List the prefixes of one length with a load of at least `least`, above 0: (prefix, load) in the order of keys."""
        cdef fos_chunk chunk
        if not 0 <= length <= self.bits or not least > 0:
            raise UsageError(f"prefixes of {length} bits with a load of {least}: expected at most {self.bits}, and above 0")
        memset(&chunk, 0, sizeof(chunk))
        chunk.load = self.nodes[0].load
        found = []
        self.find_heavy(&chunk, length, least, found)
        return found

    cdef int find_heavy(self, const fos_chunk *chunk, int length, double least, list found) except -1:
        cdef fos_chunk[2] halves
        if chunk.load < least:
            return 0
        if chunk.length == length:
            found.append((bytes(chunk.bits[:self.width]), chunk.load))
            return 0
        fos_chunk_split(self.nodes, chunk, halves, halves + 1)
        self.find_heavy(halves, length, least, found)
        return self.find_heavy(halves + 1, length, least, found)

    def _check(self):
        """Check what must hold of the tree (for tests)."""
        seen, leaves, free_pairs, todo = 1, 0, 0, [(0, 0)]
        while todo:
            at, depth = todo.pop()
            left = self.nodes[at].left
            assert self.nodes[at].load >= 0 and depth <= self.bits
            if not left:
                leaves += 1
                continue
            below = self.nodes[left].load + self.nodes[left + 1].load
            assert below <= self.nodes[at].load * (1 + 1e-9) + 1e-9, (depth, below, self.nodes[at].load)
            seen += 2
            todo += [(left, depth + 1), (left + 1, depth + 1)]
        pair = self.spare
        while pair:
            free_pairs += 1
            pair = self.nodes[pair].left
        assert leaves == self.leaves and seen + 2 * free_pairs == self.used <= self.room
        assert self.counters is None or self.samples == 0 or leaves <= self.counters
