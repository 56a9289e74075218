"""Who owns which part of a key space: prefixes, of which the longest that matches decides.

A `PrefixTable` is a binary trie whose nodes may have an owner, a number.  It answers for keys
(`owners`), lays itself over a tree of load and gives the chunks that have one owner each
(`partition`; also over a second table, to see what changed hands), and finds the fewest prefixes
that say the same (`aggregated`).  The whole space has an owner from the start.
"""
from libc.stdint cimport int32_t, uint8_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

import numpy

from flowos import UsageError
from flowos.services.radix import CHUNK

cdef extern from "radix.h" nogil:
    const int FOS_KEY_BYTES
    ctypedef struct fos_load:
        double load
        int32_t left
    ctypedef struct fos_chunk:
        double load
        int32_t node
        uint8_t tree
        uint8_t length
        uint8_t bits[18]
    int fos_key_bit(const uint8_t *bits, unsigned at)
    void fos_chunk_split(const fos_load *nodes, const fos_chunk *whole, fos_chunk *left, fos_chunk *right)

cdef enum:
    NOBODY = -1

cdef struct Node:
    int32_t left                   # index of the left child, the right one beside it; 0: none
    int32_t owner                  # NOBODY: the nearest one above


cdef class _Chunks:
    """Chunks with two owners each, as they are found."""

    cdef:
        fos_chunk *chunks
        int32_t *owners
        Py_ssize_t n, room

    def __dealloc__(self):
        free(self.chunks)
        free(self.owners)

    cdef int put(self, const fos_chunk *chunk, int32_t owner, int32_t other) except -1:
        cdef Py_ssize_t room
        cdef void *more
        if self.n == self.room:
            room = 2 * self.room or 256
            more = realloc(self.chunks, room * sizeof(fos_chunk))
            if more == NULL:
                raise MemoryError
            self.chunks = <fos_chunk *>more
            more = realloc(self.owners, 2 * room * sizeof(int32_t))
            if more == NULL:
                raise MemoryError
            self.owners = <int32_t *>more
            self.room = room
        self.chunks[self.n] = chunk[0]
        self.owners[2 * self.n] = owner
        self.owners[2 * self.n + 1] = other
        self.n += 1
        return 0

    cdef object arrays(self):
        """Copy what was found into arrays: (chunks, owners, other owners)."""
        chunks, owners = numpy.empty(self.n, CHUNK), numpy.empty((self.n, 2), "<i4")
        cdef uint8_t[::1] raw
        cdef int32_t[:, ::1] pairs
        if self.n:
            raw, pairs = chunks.view("u1"), owners
            memcpy(&raw[0], self.chunks, self.n * sizeof(fos_chunk))
            memcpy(&pairs[0, 0], self.owners, 2 * self.n * sizeof(int32_t))
        return chunks, owners[:, 0].copy(), owners[:, 1].copy()


cdef class PrefixTable:
    """Map keys of `bits` bits to owners, numbers from 0, by longest prefix; `owner` has the whole.

    >>> table = PrefixTable(32, 0)
    >>> table.add(bytes([10, 0, 0, 0]), 8, 1)
    >>> table.add(bytes([10, 128, 0, 0]), 9, 2)
    >>> table.owners(numpy.array([[10, 1, 1, 1], [10, 200, 1, 1], [11, 0, 0, 0]], "u1")).tolist()
    [1, 2, 0]
    """

    cdef:
        Node *nodes
        int32_t used, room
        readonly int bits

    def __cinit__(self, int bits, int owner):
        if not 1 <= bits <= 8 * FOS_KEY_BYTES or owner < 0:
            raise UsageError(f"a prefix table has keys of 1 to {8 * FOS_KEY_BYTES} bits and owners from 0, "
                             f"not {bits} and {owner}")
        self.nodes = <Node *>malloc(64 * sizeof(Node))
        if self.nodes == NULL:
            raise MemoryError
        self.bits, self.room, self.used = bits, 64, 1
        self.nodes[0].left, self.nodes[0].owner = 0, owner

    def __dealloc__(self):
        free(self.nodes)

    @property
    def width(self):
        """Bytes of a key."""
        return (self.bits + 7) // 8

    cdef int fork(self, int32_t at) except -1:
        cdef Node *more
        if self.used + 2 > self.room:
            more = <Node *>realloc(self.nodes, 2 * self.room * sizeof(Node))
            if more == NULL:
                raise MemoryError
            self.nodes, self.room = more, 2 * self.room
        self.nodes[at].left = self.used
        self.nodes[self.used].left = self.nodes[self.used + 1].left = 0
        self.nodes[self.used].owner = self.nodes[self.used + 1].owner = NOBODY
        self.used += 2
        return 0

    cdef int put(self, const uint8_t *bits, int length, int32_t owner) except -1:
        cdef int32_t at = 0
        cdef int depth
        for depth in range(length):
            if not self.nodes[at].left:
                self.fork(at)
            at = self.nodes[at].left + fos_key_bit(bits, depth)
        self.nodes[at].owner = owner
        return 0

    def add(self, const uint8_t[::1] prefix, int length, int owner):
        """Give a prefix an owner; the one it had, if any, is replaced.  O(length)."""
        if prefix.shape[0] != self.width or not 0 <= length <= self.bits or owner < 0:
            raise UsageError(f"a prefix of {prefix.shape[0]} bytes, length {length}, owner {owner}: expected "
                             f"{self.width} bytes, at most {self.bits} bits, an owner from 0")
        self.put(&prefix[0], length, owner)

    def extend(self, chunks, const int32_t[::1] owners):
        """Add many: an array of chunks (radix.CHUNK) and the owner of each."""
        cdef Py_ssize_t i, n = len(chunks)
        cdef const uint8_t[::1] raw
        cdef const fos_chunk *chunk
        if chunks.dtype != CHUNK or not chunks.flags.c_contiguous:
            raise UsageError(f"chunks are an array of radix.CHUNK, not of {chunks.dtype}")
        if owners.shape[0] != n:
            raise UsageError(f"{n} chunks and {owners.shape[0]} owners: expected as many")
        if n:
            raw = chunks.view("u1")
            chunk = <const fos_chunk *>&raw[0]
            for i in range(n):
                if chunk[i].length > self.bits or owners[i] < 0:
                    raise UsageError(f"chunk {i} has length {chunk[i].length} and owner {owners[i]}: expected at most "
                                     f"{self.bits} and an owner from 0")
                self.put(chunk[i].bits, chunk[i].length, owners[i])

    def owners(self, const uint8_t[:, ::1] keys):
        """Give the owner of each key of an array (n, width): n numbers.  O(n * bits)."""
        cdef Py_ssize_t i, n = keys.shape[0]
        found = numpy.empty(n, "<i4")
        cdef int32_t[::1] out = found
        cdef int32_t at, owner
        cdef int depth
        if keys.shape[1] != self.width:
            raise UsageError(f"keys of {keys.shape[1]} bytes: expected {self.width}")
        for i in range(n):
            at, depth, owner = 0, 0, self.nodes[0].owner
            while self.nodes[at].left:
                at = self.nodes[at].left + fos_key_bit(&keys[i, 0], depth)
                depth += 1
                if self.nodes[at].owner != NOBODY:
                    owner = self.nodes[at].owner
            out[i] = owner
        return found

    def prefixes(self):
        """List the prefixes that have an owner, shorter ones first where one holds the other: (bytes, length, owner)."""
        cdef int32_t at
        found, todo = [], [(0, 0, 0)]
        while todo:
            at, value, length = todo.pop()
            if self.nodes[at].owner != NOBODY:
                found.append(((value << (8 * self.width - length)).to_bytes(self.width, "big"), length,
                              self.nodes[at].owner))
            if self.nodes[at].left:
                todo += [(self.nodes[at].left + side, value << 1 | side, length + 1) for side in (1, 0)]
        return found

    def partition(self, load, int tree=0, PrefixTable other=None):
        """Cut the space into chunks that have one owner each, and one in the table `other` as well.

        `load` is a LoadTree (anything that shows its nodes), `tree` the number the chunks carry.
        The result is three arrays: chunks in the order of keys, owners, the other table's owners
        (without one, the same again).  O(nodes of the tables).
        """
        cdef const uint8_t[::1] raw = load
        cdef fos_chunk whole
        cdef _Chunks out = _Chunks()
        if load.bits != self.bits or (other is not None and other.bits != self.bits):
            raise UsageError("tables and trees of load that are laid over each other have keys of one length")
        memset(&whole, 0, sizeof(whole))
        whole.tree = tree
        whole.load = (<const fos_load *>&raw[0])[0].load
        self.cut(<const fos_load *>&raw[0], &whole, 0, NOBODY, self if other is None else other, 0, NOBODY, out)
        return out.arrays()

    cdef int cut(self, const fos_load *loads, const fos_chunk *chunk, int32_t at, int32_t owner,
                 PrefixTable other, int32_t there, int32_t its, _Chunks out) except -1:
        """Cut one chunk; `at` and `there` are its nodes in the tables, NOBODY below their leaves."""
        cdef fos_chunk[2] halves
        cdef int32_t left = 0, right = 0
        cdef int side
        if at != NOBODY:
            left = self.nodes[at].left
            if self.nodes[at].owner != NOBODY:
                owner = self.nodes[at].owner
        if there != NOBODY:
            right = other.nodes[there].left
            if other.nodes[there].owner != NOBODY:
                its = other.nodes[there].owner
        if not left and not right:
            return out.put(chunk, owner, its)
        fos_chunk_split(loads, chunk, halves, halves + 1)
        for side in range(2):
            self.cut(loads, halves + side, left + side if left else NOBODY, owner,
                     other, right + side if right else NOBODY, its, out)
        return 0

    def aggregated(self):
        """Give the table with the fewest prefixes that has the same owner for every key.

        Optimal route table construction (Draves, King, Venkatachary, Zill: Constructing optimal IP
        routing tables, INFOCOM 1999): from the leaves up, the owners a node could have so that least
        is to be said below it; then from the root down one of them.  The owner of the whole is
        kept if it is among the best.  O(nodes * owners that tie).
        """
        cdef PrefixTable result
        wishes = self.wish(0, NOBODY)
        kept = self.nodes[0].owner
        result = PrefixTable(self.bits, kept if kept in wishes[0] else min(wishes[0]))
        self.choose(wishes, result.nodes[0].owner, 0, result, 0)
        return result

    cdef tuple wish(self, int32_t at, int32_t owner):
        """Give (owners that are best at a node, what its children wish or None)."""
        cdef int32_t left = self.nodes[at].left
        if self.nodes[at].owner != NOBODY:
            owner = self.nodes[at].owner
        if not left:
            return (frozenset((owner,)), None, None)
        low, high = self.wish(left, owner), self.wish(left + 1, owner)
        if low[1] is None and high[1] is None and low[0] == high[0]:
            return low
        return (low[0] & high[0] or low[0] | high[0], low, high)

    cdef int choose(self, tuple wishes, int32_t owner, int32_t at, PrefixTable result, int depth) except -1:
        """Write a node that has `owner` and what differs below it."""
        cdef int side
        cdef int32_t child
        for side in range(2):
            below = wishes[1 + side]
            if below is None or (below[1] is None and owner in below[0]):
                continue
            if not result.nodes[at].left:
                result.fork(at)
            child = result.nodes[at].left + side
            if owner in below[0]:
                self.choose(below, owner, child, result, depth + 1)
            else:
                result.nodes[child].owner = min(below[0])
                self.choose(below, result.nodes[child].owner, child, result, depth + 1)
        return 0
