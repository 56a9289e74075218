"""A table of IP prefixes: which is the longest that covers an address.

Prefixes of both families have ids from 0 on, so that what is known of them (traffic, a next hop)
lies in plain arrays; the id of a prefix that was taken out is given to a later one.  Lookups take
an array of addresses and give an array of ids: a call per packet would cost more than the match.

The trie (prefixes.h) is two pools, of nodes and of ids, handed out in blocks of 1 to 64 that lie
side by side; a block that grows moves to a larger one, and the old one waits in the free list of
its size.  Change and lookup exclude each other; lookups may share.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

import socket

import numpy

from flowos import LimitError, UsageError

cdef extern from "prefixes.h" nogil:
    ctypedef struct fos_trie_node:
        uint64_t inside, below
        uint32_t ids, children
    ctypedef struct fos_prefix:
        uint64_t high, low
        uint8_t length, family
    uint64_t fos_trie_path(unsigned bits)
    unsigned fos_trie_rank(uint64_t set, unsigned at)
    void fos_trie_shift(uint64_t *high, uint64_t *low)
    int32_t fos_trie_match(const fos_trie_node *nodes, const int32_t *ids, uint32_t root, uint64_t high, uint64_t low)
    void fos_trie_match4(const fos_trie_node *nodes, const int32_t *ids, uint32_t root,
                         const uint32_t *addresses, int32_t *found, int64_t count)
    void fos_trie_match6(const fos_trie_node *nodes, const int32_t *ids, uint32_t root,
                         const uint8_t *addresses, int32_t *found, int64_t count)
    uint64_t fos_trie_word(const uint8_t *bytes)
    int popcount "__builtin_popcountll"(uint64_t bits)
    int leading_zeros "__builtin_clzll"(uint64_t bits)

#: Prefixes that a table takes at most: sixteen times the Internet's.
MOST = 1 << 24
cdef enum:
    BITS = 6                        # FOS_TRIE_BITS
    LARGEST = 64                    # entries of a block
    DEEPEST = 22                    # nodes on the path of 128 bits
cdef uint32_t END = 0xFFFFFFFF      # of a free list


cdef struct Pool:
    char *memory
    uint32_t used, room             # entries
    uint32_t size                   # bytes of an entry
    uint32_t[LARGEST + 1] spare     # first free block of each size, each linked by its first word


cdef int pool_make(Pool *pool, uint32_t size) except -1:
    memset(pool, 0, sizeof(Pool))
    memset(pool.spare, 0xFF, sizeof(pool.spare))
    pool.size, pool.room = size, 256
    pool.memory = <char *>malloc(pool.room * size)
    if pool.memory == NULL:
        raise MemoryError
    return 0


cdef uint32_t pool_take(Pool *pool, unsigned count) except? 0xFFFFFFFF:
    """Give a block of so many entries; it may move the pool."""
    cdef uint32_t block = pool.spare[count]
    cdef char *more
    if block != END:
        memcpy(&pool.spare[count], pool.memory + <size_t>block * pool.size, 4)
        return block
    if pool.used + count > pool.room:
        if pool.room >= <uint32_t>1 << 31:
            raise LimitError("a prefix table has no room for more nodes")
        more = <char *>realloc(pool.memory, <size_t>2 * pool.room * pool.size)
        if more == NULL:
            raise MemoryError
        pool.memory, pool.room = more, 2 * pool.room
    block = pool.used
    pool.used += count
    return block


cdef void pool_give(Pool *pool, uint32_t block, unsigned count) noexcept:
    if count:
        memcpy(pool.memory + <size_t>block * pool.size, &pool.spare[count], 4)
        pool.spare[count] = block


cdef uint32_t pool_widen(Pool *pool, uint32_t block, unsigned count, unsigned at) except? 0xFFFFFFFF:
    """Move a block of `count` entries to one with a gap at `at`; give the new block."""
    cdef uint32_t wide = pool_take(pool, count + 1)
    cdef char *old = pool.memory + <size_t>block * pool.size
    cdef char *new = pool.memory + <size_t>wide * pool.size
    if count:
        memcpy(new, old, at * pool.size)
        memcpy(new + (at + 1) * pool.size, old + at * pool.size, (count - at) * pool.size)
    pool_give(pool, block, count)
    return wide


cdef uint32_t pool_narrow(Pool *pool, uint32_t block, unsigned count, unsigned at) except? 0xFFFFFFFF:
    """Move a block of `count` entries to one without the entry at `at`; give the new block."""
    cdef uint32_t narrow = 0
    cdef char *old
    cdef char *new
    if count > 1:
        narrow = pool_take(pool, count - 1)
        old = pool.memory + <size_t>block * pool.size
        new = pool.memory + <size_t>narrow * pool.size
        memcpy(new, old, at * pool.size)
        memcpy(new + at * pool.size, old + (at + 1) * pool.size, (count - 1 - at) * pool.size)
    pool_give(pool, block, count)
    return narrow


cdef int read_prefix(object text, fos_prefix *into) except -1:
    """Read a prefix; UsageError says what is wrong with it."""
    cdef const uint8_t *raw
    cdef int most, length
    name, slash, bits = str(text).partition("/")
    family = socket.AF_INET6 if ":" in name else socket.AF_INET
    try:
        packed = socket.inet_pton(family, name)
    except (OSError, ValueError):
        raise UsageError(f"{text}: not a prefix: expected an IPv4 or IPv6 address, / and a length") from None
    most = 8 * len(packed)
    length = most
    if slash:
        if not (bits.isascii() and bits.isdigit() and len(bits) <= 3 and int(bits) <= most):
            raise UsageError(f"{text}: a prefix's length here is 0 to {most}, not {bits!r}")
        length = int(bits)
    raw = packed
    if most == 32:
        into.high = (<uint64_t>raw[0] << 24 | <uint64_t>raw[1] << 16 | <uint64_t>raw[2] << 8 | raw[3]) << 32
        into.low, into.family = 0, 4
    else:
        into.high, into.low, into.family = fos_trie_word(raw), fos_trie_word(raw + 8), 6
    into.length = length
    if into.high & ~mask(length) or into.low & ~mask(length - 64):
        raise UsageError(f"{text}: bits are set beyond the prefix's {length}")
    return 0


cdef uint64_t mask(int length) noexcept nogil:
    """Give a word whose first `length` bits are set: none below 0, all from 64 on."""
    if length <= 0:
        return 0
    return ~<uint64_t>0 << (64 - length) if length < 64 else ~<uint64_t>0


cdef class PrefixTable:
    """Map prefixes to ids, and addresses to the id of the longest prefix that covers them.

    `most` prefixes at most; one more is a LimitError.  A million prefixes as the Internet's take
    about 70 MB.  Read-only while a lookup runs without the GIL; not safe for a change meanwhile.

    >>> table = PrefixTable(["10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32"])
    >>> table.lookup("10.1.2.3"), table.lookup("10.2.2.3"), table.lookup("11.0.0.1")
    (1, 0, -1)
    >>> table.prefix(table.lookup("2001:db8::1"))
    '2001:db8::/32'
    >>> table.remove("10.1.0.0/16"), table.lookup("10.1.2.3"), len(table)
    (1, 0, 2)
    """

    cdef:
        Pool nodes, ids
        uint32_t[2] roots              # IPv4, IPv6
        fos_prefix *prefixes           # by id
        int32_t *free_ids
        int32_t free_count
        int32_t room                   # ids there is memory for
        readonly int32_t bound         # every id is below this
        readonly int64_t most

    def __cinit__(self, prefixes=(), most=MOST):
        if not isinstance(most, int) or not 1 <= most <= MOST:
            raise UsageError(f"a prefix table holds 1 to {MOST} prefixes, not {most!r}")
        self.most, self.room = most, 256
        pool_make(&self.nodes, sizeof(fos_trie_node))
        pool_make(&self.ids, sizeof(int32_t))
        self.prefixes = <fos_prefix *>malloc(self.room * sizeof(fos_prefix))
        self.free_ids = <int32_t *>malloc(self.room * sizeof(int32_t))
        if self.prefixes == NULL or self.free_ids == NULL:
            raise MemoryError
        for family in range(2):
            self.roots[family] = pool_take(&self.nodes, 1)
            memset(self.node(self.roots[family]), 0, sizeof(fos_trie_node))

    def __init__(self, prefixes=(), most=MOST):
        for prefix in prefixes:
            self.insert(prefix)

    def __dealloc__(self):
        free(self.nodes.memory)
        free(self.ids.memory)
        free(self.prefixes)
        free(self.free_ids)

    cdef inline fos_trie_node *node(self, uint32_t index) noexcept:
        return <fos_trie_node *>self.nodes.memory + index

    cdef int32_t new_id(self) except -1:
        cdef void *more
        if self.free_count:
            self.free_count -= 1
            return self.free_ids[self.free_count]
        if self.bound == self.room:
            more = realloc(self.prefixes, <size_t>2 * self.room * sizeof(fos_prefix))
            if more == NULL:
                raise MemoryError
            self.prefixes = <fos_prefix *>more
            more = realloc(self.free_ids, <size_t>2 * self.room * sizeof(int32_t))
            if more == NULL:
                raise MemoryError
            self.free_ids = <int32_t *>more
            self.room *= 2
        self.bound += 1
        return self.bound - 1

    cdef int32_t put(self, const fos_prefix *prefix) except -1:
        """Put a prefix in; give its id, the old one where it was there."""
        cdef uint64_t high = prefix.high, low = prefix.low
        cdef uint32_t at = self.roots[prefix.family == 6], block
        cdef unsigned left = prefix.length, bits, rank, position
        cdef int32_t found
        if len(self) >= self.most:          # said before any node is made
            found = self.find(prefix, False)
            if found < 0:
                raise LimitError(f"a prefix table of at most {self.most} prefixes is full")
            return found
        while left >= BITS:
            bits = high >> (64 - BITS)
            rank = fos_trie_rank(self.node(at).below, bits)
            if not self.node(at).below >> bits & 1:
                block = pool_widen(&self.nodes, self.node(at).children, popcount(self.node(at).below), rank)
                self.node(at).children = block
                self.node(at).below |= <uint64_t>1 << bits
                memset(self.node(block + rank), 0, sizeof(fos_trie_node))
            at = self.node(at).children + rank
            fos_trie_shift(&high, &low)
            left -= BITS
        position = 1 << left | <unsigned>(high >> 1 >> (63 - left))
        rank = fos_trie_rank(self.node(at).inside, position)
        if self.node(at).inside >> position & 1:
            return (<int32_t *>self.ids.memory)[self.node(at).ids + rank]
        found = self.new_id()
        block = pool_widen(&self.ids, self.node(at).ids, popcount(self.node(at).inside), rank)
        self.node(at).ids = block
        self.node(at).inside |= <uint64_t>1 << position
        (<int32_t *>self.ids.memory)[block + rank] = found
        self.prefixes[found] = prefix[0]
        return found

    cdef int32_t find(self, const fos_prefix *prefix, bint take) except -2:
        """Give the id of a prefix, or -1; with `take` it is taken out, and so are nodes that hold nothing more."""
        cdef uint32_t[DEEPEST] path
        cdef unsigned[DEEPEST] ways
        cdef uint64_t high = prefix.high, low = prefix.low
        cdef uint32_t at = self.roots[prefix.family == 6]
        cdef unsigned left = prefix.length, bits, rank, position, depth = 0
        cdef int32_t found
        while left >= BITS:
            bits = high >> (64 - BITS)
            if not self.node(at).below >> bits & 1:
                return -1
            path[depth], ways[depth] = at, bits
            depth += 1
            at = self.node(at).children + fos_trie_rank(self.node(at).below, bits)
            fos_trie_shift(&high, &low)
            left -= BITS
        position = 1 << left | <unsigned>(high >> 1 >> (63 - left))
        if not self.node(at).inside >> position & 1:
            return -1
        rank = fos_trie_rank(self.node(at).inside, position)
        found = (<int32_t *>self.ids.memory)[self.node(at).ids + rank]
        if not take:
            return found
        self.node(at).ids = pool_narrow(&self.ids, self.node(at).ids, popcount(self.node(at).inside), rank)
        self.node(at).inside &= ~(<uint64_t>1 << position)
        while depth and not self.node(at).inside and not self.node(at).below:
            depth -= 1
            at, bits = path[depth], ways[depth]
            rank = fos_trie_rank(self.node(at).below, bits)
            # Blocks move, but never the nodes above the one that is taken out.
            self.node(at).children = pool_narrow(&self.nodes, self.node(at).children, popcount(self.node(at).below), rank)
            self.node(at).below &= ~(<uint64_t>1 << bits)
        self.prefixes[found].family = 0
        self.free_ids[self.free_count] = found
        self.free_count += 1
        return found

    def __len__(self):
        return self.bound - self.free_count

    def __contains__(self, prefix):
        return self.id(prefix) >= 0

    def insert(self, prefix):
        """Put a prefix in and give its id; one that is there keeps its id.

        `prefix` is as "10.0.0.0/8"; an address alone is its host's.  O(length / 6).  UsageError: not a
        prefix, or bits set beyond its length.  LimitError: the table is full.
        """
        cdef fos_prefix read
        read_prefix(prefix, &read)
        return self.put(&read)

    def remove(self, prefix):
        """Take a prefix out and give the id that it had.  O(length / 6).  UsageError: it is not there."""
        cdef fos_prefix read
        read_prefix(prefix, &read)
        found = self.find(&read, True)
        if found < 0:
            raise UsageError(f"{prefix}: not in the table")
        return found

    def id(self, prefix):
        """Give the id of exactly this prefix, or -1."""
        cdef fos_prefix read
        read_prefix(prefix, &read)
        return self.find(&read, False)

    def prefix(self, int32_t id):
        """Give the prefix of an id, as text.  UsageError: there is none."""
        cdef fos_prefix *at
        if not 0 <= id < self.bound or not self.prefixes[id].family:
            raise UsageError(f"{id}: no prefix of the table has this id")
        at = &self.prefixes[id]
        raw = int(at.high).to_bytes(8, "big") + int(at.low).to_bytes(8, "big")
        if at.family == 4:
            return f"{socket.inet_ntop(socket.AF_INET, raw[:4])}/{at.length}"
        return f"{socket.inet_ntop(socket.AF_INET6, raw)}/{at.length}"

    def lookup(self, address):
        """Give the id of the longest prefix that covers an address, or -1.  UsageError: not an address."""
        cdef fos_prefix read
        if "/" in str(address):
            raise UsageError(f"{address}: expected an address, not a prefix")
        read_prefix(address, &read)
        return fos_trie_match(<fos_trie_node *>self.nodes.memory, <int32_t *>self.ids.memory,
                              self.roots[read.family == 6], read.high, read.low)

    def match4(self, const uint32_t[::1] addresses, int32_t[::1] into=None):
        """Give the ids for IPv4 addresses, an array of uint32 (10.0.0.1 is 0x0A000001); -1: none covers it.

        Without the GIL.  `into`, an int32 array as long, is filled and given where it is there.
        """
        cdef int64_t count = addresses.shape[0]
        into = result_array(into, count)
        if count:
            with nogil:
                fos_trie_match4(<fos_trie_node *>self.nodes.memory, <int32_t *>self.ids.memory, self.roots[0],
                                &addresses[0], &into[0], count)
        return numpy.asarray(into)

    def match6(self, const uint8_t[:, ::1] addresses, int32_t[::1] into=None):
        """Give the ids for IPv6 addresses, an array of bytes (n, 16); as `match4`."""
        cdef int64_t count = addresses.shape[0]
        if addresses.shape[1] != 16:
            raise UsageError(f"IPv6 addresses: got rows of {addresses.shape[1]} bytes, expected 16")
        into = result_array(into, count)
        if count:
            with nogil:
                fos_trie_match6(<fos_trie_node *>self.nodes.memory, <int32_t *>self.ids.memory, self.roots[1],
                                &addresses[0, 0], &into[0], count)
        return numpy.asarray(into)

    def parents(self):
        """Give, by id, the id of the next shorter prefix that covers it: int32; -1: none, -2: no such id.  O(prefixes)."""
        cdef int32_t[::1] into = numpy.full(self.bound, -2, numpy.int32)
        cdef int32_t id
        for id in range(self.bound):
            if self.prefixes[id].family:
                into[id] = self.parent(&self.prefixes[id])
        return numpy.asarray(into)

    cdef int32_t parent(self, const fos_prefix *prefix) noexcept nogil:
        cdef uint64_t high = prefix.high, low = prefix.low, hits
        cdef fos_trie_node *at = <fos_trie_node *>self.nodes.memory + self.roots[prefix.family == 6]
        cdef unsigned left = prefix.length, bits
        cdef int32_t best = -1
        while True:
            bits = high >> (64 - BITS)
            hits = at.inside & fos_trie_path(bits)
            if left < BITS:                   # positions below 1 << left are of fewer bits than the prefix
                hits &= (<uint64_t>1 << (1 << left)) - 1
            if hits:
                best = (<int32_t *>self.ids.memory)[at.ids + fos_trie_rank(at.inside, 63 - leading_zeros(hits))]
            if left < BITS:
                return best
            at = <fos_trie_node *>self.nodes.memory + at.children + fos_trie_rank(at.below, bits)
            fos_trie_shift(&high, &low)
            left -= BITS

    def statistics(self):
        """Give the table's figures: prefixes, nodes and bytes of memory in use or set aside."""
        return {"prefixes": len(self), "nodes": self.nodes.used, "bytes": <size_t>self.nodes.room * self.nodes.size
                + <size_t>self.ids.room * self.ids.size + <size_t>self.room * (sizeof(fos_prefix) + sizeof(int32_t))}

    def _check(self):
        """Verify the trie: each id is found where its prefix is, no node is empty, and blocks tile the pools."""
        blocks = ([], [])
        seen = []
        for family in range(2):
            blocks[0].append((self.roots[family], 1))
            self.check_node(self.roots[family], 4 + 2 * family, 0, 0, blocks, seen)
        assert sorted(seen) == [id for id in range(self.bound) if self.prefixes[id].family]
        assert len(seen) == len(self)
        self.check_pool(&self.nodes, blocks[0])
        self.check_pool(&self.ids, blocks[1])

    cdef check_node(self, uint32_t index, int family, value, int length, blocks, seen):
        cdef fos_trie_node at = self.node(index)[0]
        cdef unsigned position, bits, rank = 0
        assert not at.inside & 1
        assert length == 0 or at.inside or at.below, "an empty node stayed"
        if at.inside:
            blocks[1].append((at.ids, popcount(at.inside)))
        for position in range(1, 64):
            if at.inside >> position & 1:
                id = (<int32_t *>self.ids.memory)[at.ids + rank]
                rank += 1
                more = 63 - leading_zeros(position)
                read = self.prefixes[id]
                found = int(read.high) << 64 | int(read.low)
                assert (read.family, read.length) == (family, length + more)
                assert found == (value << more | position - (1 << more)) << (128 - length - more)
                seen.append(id)
        if at.below:
            blocks[0].append((at.children, popcount(at.below)))
        rank = 0
        for bits in range(64):
            if at.below >> bits & 1:
                self.check_node(at.children + rank, family, value << BITS | bits, length + BITS, blocks, seen)
                rank += 1

    cdef check_pool(self, Pool *pool, blocks):
        cdef uint32_t block, size
        for size in range(1, LARGEST + 1):
            block = pool.spare[size]
            while block != END:
                blocks.append((block, size))
                memcpy(&block, pool.memory + <size_t>block * pool.size, 4)
        end = 0
        for start, size in sorted(blocks):
            assert start == end, "blocks overlap, or one was lost"
            end += size
        assert end == pool.used


cdef int32_t[::1] result_array(int32_t[::1] into, int64_t count):
    if into is None:
        return numpy.empty(count, numpy.int32)
    if into.shape[0] != count:
        raise UsageError(f"ids for {count} addresses do not fill an array of {into.shape[0]}")
    return into
