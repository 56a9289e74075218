"""The packet classifier: tuple-space search over matches with priorities.

    fields --mask of shape 1--> hash --> record?  rank ----.
           --mask of shape 2--> hash --> record?  rank ----+--> the best rank's flow
           ...  stop: no shape left has a better rank -----'

Rules with the same mask share a hash table, so a lookup costs one probe per shape, whatever the
number of rules.  A rule's rank is its priority, then its age, in one number: rules are compared,
shapes are ordered and the search is stopped by comparing ranks.  The hash is keyed with secret
random numbers (multilinear, strongly universal: Lemire and Kaser 2014), so no choice of
addresses and ports can pile rules or packets up.

Rules change in Python (`add`, `remove`); `lookup` is C, takes no lock and allocates nothing.
"""
import os

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Realloc
from libc.string cimport memcpy, memmove

from flowos.core.fields cimport FOS_FIELD_WORDS

from bisect import insort
from hashlib import shake_256

import numpy
from sortedcontainers import SortedList

from flowos.core import fields as layout
from flowos.core.errors import LimitError, UsageError
from flowos.core.explain import explain
from flowos.core.extract import extract
from flowos.core.fields import Fields
from flowos.core.match import HIGHEST_PRIORITY, Match

cdef enum:
    AGE_BITS = 48               # of a rank; the rest is the priority
    SMALLEST = 8                # records in the table of a new shape


cdef uint64_t rank_of(uint64_t priority, uint64_t age) noexcept:
    # Rank 0 stands for no rule, so ages count down from the greatest.
    return priority << AGE_BITS | (<uint64_t>1 << AGE_BITS) - 1 - age


cdef inline uint32_t hash_words(const uint64_t *key, const Shape *s, const uint64_t *masked) noexcept nogil:
    cdef uint64_t h = 0
    cdef uint32_t i, w
    for i in range(s.words):
        w = s.word[i]
        h += (key[2 * w] + <uint32_t>masked[i]) * (key[2 * w + 1] + (masked[i] >> 32))
    # Sums of products keep arithmetic progressions, such as addresses one after another, in step;
    # the mixing sends neighbours apart, which linear probing needs.
    h = (h ^ (h >> 32)) * 0x9e3779b97f4a7c15ULL
    return <uint32_t>(h >> 32)


cdef inline bint same_words(const uint64_t *a, const uint64_t *b, uint32_t words) noexcept nogil:
    cdef uint64_t different = 0
    cdef uint32_t i
    for i in range(words):
        different |= a[i] ^ b[i]
    return different == 0


cdef inline uint64_t *probe(const Shape *s, uint32_t hashed, const uint64_t *masked) noexcept nogil:
    """Find the record with these words, or the empty place where it would be."""
    cdef uint32_t at = hashed & (s.capacity - 1)
    cdef uint64_t *record
    while True:
        record = s.records + <size_t>at * s.stride
        if record[0] == 0 or (<uint32_t>(record[1] >> 32) == hashed and same_words(record + 2, masked, s.words)):
            return record
        at = (at + 1) & (s.capacity - 1)


cdef class Rule:
    """A match with its priority, age and flow; sorted, the best comes first."""
    cdef readonly object match
    cdef readonly uint32_t id
    cdef readonly uint32_t priority
    cdef readonly uint64_t rank

    def __init__(self, match, id, priority, rank):
        self.match, self.id, self.priority, self.rank = match, id, priority, rank

    def __lt__(self, Rule other):
        return self.rank > other.rank


cdef class Table:
    """One shape's records, and beside them all its rules, for the changes."""
    cdef Shape shape
    cdef readonly object mask           # as an integer over fos_fields
    cdef readonly dict equal            # masked value: the rules that have it, best first
    cdef readonly object rules          # all of them, best first

    def __cinit__(self, mask):
        cdef bytes raw = mask.to_bytes(layout.SIZE, "little")
        cdef const uint64_t *words = <const uint64_t *><const char *>raw
        cdef uint32_t w
        for w in range(FOS_FIELD_WORDS):
            if words[w]:
                self.shape.word[self.shape.words] = w
                self.shape.mask[self.shape.words] = words[w]
                self.shape.words += 1
        self.shape.stride = 2 + self.shape.words
        self.mask, self.equal, self.rules = mask, {}, SortedList()

    def __dealloc__(self):
        PyMem_Free(self.shape.records)

    cdef int pick(self, object value, uint64_t *masked) except -1:
        """Gather the words of a value that the shape covers."""
        cdef bytes raw = value.to_bytes(layout.SIZE, "little")
        cdef const uint64_t *words = <const uint64_t *><const char *>raw
        cdef uint32_t i
        for i in range(self.shape.words):
            masked[i] = words[self.shape.word[i]]
        return 0

    cdef int resize(self, uint32_t capacity) except -1:
        """Move the records to a new array."""
        cdef Shape old = self.shape
        cdef uint64_t *record
        cdef uint64_t *place
        cdef uint32_t i
        cdef uint64_t *records = <uint64_t *>PyMem_Calloc(capacity, old.stride * sizeof(uint64_t))
        if records is NULL:
            raise LimitError(f"Classifier: no memory for a table of {capacity} rules")
        self.shape.records, self.shape.capacity = records, capacity
        for i in range(old.capacity):
            record = old.records + <size_t>i * old.stride
            if record[0]:
                place = probe(&self.shape, <uint32_t>(record[1] >> 32), record + 2)
                memcpy(place, record, old.stride * sizeof(uint64_t))
        PyMem_Free(old.records)
        return 0

    cdef int put(self, const uint64_t *key, Rule rule) except -1:
        """Make a rule the one that packets with its value find."""
        cdef Shape *s = &self.shape
        cdef uint64_t[16] masked
        cdef uint64_t *record
        if s.capacity == 0:
            self.resize(SMALLEST)
        self.pick(rule.match.value, &masked[0])
        cdef uint32_t hashed = hash_words(key, s, &masked[0])
        record = probe(s, hashed, &masked[0])
        if record[0] == 0:
            if (s.count + 1) * 2 > s.capacity:
                self.resize(s.capacity * 2)
                record = probe(s, hashed, &masked[0])
            s.count += 1
            memcpy(record + 2, &masked[0], s.words * sizeof(uint64_t))
        record[0] = rule.rank
        record[1] = <uint64_t>hashed << 32 | rule.id
        return 0

    cdef int drop(self, const uint64_t *key, object value) except -1:
        """Remove the record of a value; those that were displaced past it move up."""
        cdef uint64_t[16] masked
        cdef Shape *s = &self.shape
        cdef uint32_t hole, at, home, wrap
        cdef uint64_t *record
        self.pick(value, &masked[0])
        wrap = s.capacity - 1
        hole = <uint32_t>((probe(s, hash_words(key, s, &masked[0]), &masked[0]) - s.records) // s.stride)
        at = hole
        while True:
            at = (at + 1) & wrap
            record = s.records + <size_t>at * s.stride
            if record[0] == 0:
                break
            home = <uint32_t>(record[1] >> 32) & wrap
            if ((at - home) & wrap) >= ((at - hole) & wrap):
                memcpy(s.records + <size_t>hole * s.stride, record, s.stride * sizeof(uint64_t))
                hole = at
        s.records[<size_t>hole * s.stride] = 0
        s.count -= 1
        if s.capacity > SMALLEST and s.count * 8 < s.capacity:
            try:
                self.resize(s.capacity // 2)
            except LimitError:
                pass                    # the larger array serves as well
        return 0


cdef class Classifier:
    """Finds the flow of a packet: of the rules that match, the highest priority, then the oldest.

    >>> classifier = Classifier()
    >>> classifier.add("tcp,tp_dst=80", 100, 1)
    >>> classifier.add("ip", 10, 2)
    >>> classifier.find(Fields(dl_type=0x800, nw_proto=6, tp_dst=80))
    1
    >>> classifier.find(Fields(dl_type=0x800, nw_proto=17)), classifier.find(Fields())
    (2, 0)

    `seed`: bytes that make the hash's secret; random when left out.
    """

    def __cinit__(self, seed=None):
        cdef bytes secret = shake_256(os.urandom(32) if seed is None else bytes(seed)).digest(sizeof(self.key))
        memcpy(self.key, <const char *>secret, sizeof(self.key))
        self.rules, self.tables = {}, {}

    def __dealloc__(self):
        PyMem_Free(self.order)

    def __len__(self):
        return len(self.rules)

    def __contains__(self, id):
        return id in self.rules

    cdef uint32_t lookup(self, const fos_fields *fields) noexcept nogil:
        cdef const uint64_t *words = <const uint64_t *>fields
        cdef uint64_t[16] masked
        cdef const uint64_t *record
        cdef const Shape *s
        cdef uint64_t best = 0
        cdef uint32_t i, w, flow = 0
        for i in range(self.shapes):
            s = self.order[i]
            if s.top <= best:
                break
            for w in range(s.words):
                masked[w] = words[s.word[w]] & s.mask[w]
            record = probe(s, hash_words(&self.key[0], s, &masked[0]), &masked[0])
            if record[0] > best:
                best = record[0]
                flow = <uint32_t>record[1]
        return flow

    def add(self, match, priority, id):
        """Add a rule: packets of this match belong to flow `id`, from 1 to 2^32 - 1.

        `match` is a `Match` or its text, `priority` 0 to 65535.  O(log rules).  UsageError: the
        id has a rule already, or an argument is out of range.
        """
        cdef Table shape
        match = match if isinstance(match, Match) else Match(match)
        if not isinstance(id, int) or not 0 < id < 1 << 32:
            raise UsageError(f"Classifier.add: id {id!r}: expected a number from 1 to {(1 << 32) - 1}")
        if not isinstance(priority, int) or not 0 <= priority <= HIGHEST_PRIORITY:
            raise UsageError(f"Classifier.add: priority {priority!r}: expected a number from 0 to {HIGHEST_PRIORITY}")
        if id in self.rules:
            raise UsageError(f"Classifier.add: flow {id} has a rule already: {self.rules[id].match}")
        rule = Rule(match, id, priority, rank_of(priority, self.age))
        shape = self.tables.get(match.mask)
        if shape is None:
            shape = Table(match.mask)
            self.reserve(self.shapes + 1)
        equal = shape.equal.get(match.value, [])
        if not equal or rule < equal[0]:
            shape.put(&self.key[0], rule)
        insort(equal, rule)
        shape.equal[match.value] = equal
        shape.rules.add(rule)
        self.tables[match.mask] = shape
        self.rules[id] = rule
        self.age += 1
        self.generation += 1
        self.settle(&shape.shape, shape.rules[0].rank)

    def remove(self, id):
        """Remove the rule of a flow.  O(log rules).  UsageError: it has none."""
        cdef Table shape
        rule = self.rules.get(id)
        if rule is None:
            raise UsageError(f"Classifier.remove: flow {id!r} has no rule")
        shape = self.tables[rule.match.mask]
        equal = shape.equal[rule.match.value]
        equal.remove(rule)
        if equal:
            shape.put(&self.key[0], equal[0])
        else:
            shape.drop(&self.key[0], rule.match.value)
            del shape.equal[rule.match.value]
        shape.rules.remove(rule)
        del self.rules[id]
        self.generation += 1
        self.settle(&shape.shape, shape.rules[0].rank if shape.rules else 0)
        if not shape.rules:
            del self.tables[rule.match.mask]

    cdef int reserve(self, uint32_t shapes) except -1:
        """Make room in `order`, so that settling never allocates."""
        cdef Shape **order = <Shape **>PyMem_Realloc(self.order, shapes * sizeof(Shape *))
        if order is NULL:
            raise LimitError(f"Classifier: no memory for {shapes} shapes")
        self.order = order
        return 0

    cdef void settle(self, Shape *s, uint64_t top) noexcept:
        """Move a shape to where its new top belongs; 0 takes it out."""
        cdef uint32_t at
        if top == s.top:
            return
        for at in range(self.shapes):
            if self.order[at] == s:
                self.shapes -= 1
                memmove(&self.order[at], &self.order[at + 1], (self.shapes - at) * sizeof(Shape *))
                break
        s.top = top
        if not top:
            return
        at = self.shapes
        while at and self.order[at - 1].top < top:
            self.order[at] = self.order[at - 1]
            at -= 1
        self.order[at] = s
        self.shapes += 1

    def find(self, packet, in_port=0):
        """Give the flow of a packet, `Fields` or an Ethernet frame; 0 when none matches."""
        cdef bytes raw = bytes(packet if isinstance(packet, Fields) else extract(packet, in_port))
        return self.lookup(<const fos_fields *><const char *>raw)

    def find_many(self, blocks):
        """Give the flows of many packets as a NumPy array of uint32; 0 where none matches.

        `blocks` is a buffer of the packets' `bytes(Fields)`, 128 bytes each, end to end.
        """
        cdef const char *data
        cdef Py_ssize_t i, count
        cdef uint32_t *flows
        cdef Py_buffer view
        PyObject_GetBuffer(blocks, &view, PyBUF_SIMPLE)
        try:
            if view.len % sizeof(fos_fields):
                raise UsageError(f"Classifier.find_many: {view.len} bytes are no multiple of {sizeof(fos_fields)}")
            data, count = <const char *>view.buf, view.len // sizeof(fos_fields)
            found = numpy.empty(count, numpy.uint32)
            flows = <uint32_t *><size_t>found.ctypes.data
            for i in range(count):
                flows[i] = self.lookup(<const fos_fields *>(data + i * sizeof(fos_fields)))
        finally:
            PyBuffer_Release(&view)
        return found

    def explain(self, packet, in_port=0, names=None):
        """Say which flow a packet belongs to and why: an `Explanation`, whose text is for people.

        `packet` is `Fields` or an Ethernet frame; `names` maps flow ids to names.

        >>> classifier = Classifier()
        >>> classifier.add("tcp,tp_dst=80", 100, 1)
        >>> classifier.add("ip", 10, 2)
        >>> print(classifier.explain(Fields(dl_type=0x800, nw_proto=17, tp_dst=80), names={2: "rest"}))
        flow rest: ip, priority 10
          shape 1 of 2 (dl_type,nw_proto,tp_dst: 1 rule, highest priority 100)
            looked for ip,nw_proto=17,tp_dst=80: no such rule
          shape 2 of 2 (dl_type: 1 rule, highest priority 10)
            looked for ip: flow rest, priority 10
          flow 1 (tcp,tp_dst=80, priority 100): wants nw_proto=6 where the packet has nw_proto=17
        """
        packet = packet if isinstance(packet, Fields) else extract(packet, in_port)
        tables = sorted(self.tables.values(), key=lambda table: -table.rules[0].rank)
        return explain(packet, tables, self.rules.get(self.find(packet)), names or {})

    def statistics(self):
        """Give {name: number}: rules, shapes, bytes of the tables, generation, and the longest probe.

        The longest probe is how many records a lookup in one shape may have to look at; it walks
        all records.
        """
        cdef Table shape
        cdef uint64_t total = self.shapes * sizeof(Shape *)
        cdef uint32_t i, run, longest = 0
        for shape in self.tables.values():
            total += shape.shape.capacity * shape.shape.stride * sizeof(uint64_t) + sizeof(Shape)
            run = 0
            for i in range(2 * shape.shape.capacity):       # twice around: a run may cross the end
                run = run + 1 if shape.shape.records[<size_t>(i & (shape.shape.capacity - 1)) * shape.shape.stride] else 0
                longest = max(longest, run)
        return {"rules": len(self.rules), "shapes": self.shapes, "bytes": total, "generation": self.generation,
                "longest_probe": longest}

    cdef int places(self, const Shape *s) noexcept:
        cdef uint32_t i
        cdef int count = 0
        for i in range(self.shapes):
            count += self.order[i] == s
        return count

    def _check(self):
        """Verify what the structure promises; AssertionError when it does not hold."""
        cdef Table shape
        cdef uint64_t *record
        cdef uint64_t[16] masked
        cdef uint32_t i, filled
        assert self.shapes == len(self.tables)
        for i in range(1, self.shapes):
            assert self.order[i - 1].top > self.order[i].top
        assert sum(len(shape.rules) for shape in self.tables.values()) == len(self.rules)
        for mask, shape in self.tables.items():
            assert mask == shape.mask and shape.rules
            assert self.places(&shape.shape) == 1
            assert shape.shape.top == shape.rules[0].rank == max(rule.rank for rule in shape.rules)
            assert list(shape.rules) == sorted(rule for equal in shape.equal.values() for rule in equal)
            assert shape.shape.count == len(shape.equal) and shape.shape.count * 2 <= shape.shape.capacity
            assert shape.shape.capacity & (shape.shape.capacity - 1) == 0
            filled = 0
            for i in range(shape.shape.capacity):
                filled += shape.shape.records[<size_t>i * shape.shape.stride] != 0
            assert filled == shape.shape.count
            for value, equal in shape.equal.items():
                assert equal and equal == sorted(equal) and not value & ~mask
                assert all((rule.match.value, rule.match.mask) == (value, mask) for rule in equal)
                assert all(self.rules[rule.id] is rule for rule in equal)
                shape.pick(value, &masked[0])
                record = probe(&shape.shape, hash_words(&self.key[0], &shape.shape, &masked[0]), &masked[0])
                assert record[0] == equal[0].rank and <uint32_t>record[1] == equal[0].id
