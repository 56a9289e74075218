"""The greedy of D3.2 §2.2.4: take load off a machine that has too much, in chunks as large as fit.

`shed` is the pseudo-code's loop.  One machine, the donor, has too much; its chunks of the key
space lie in a heap by load, the other machines in a heap by room.  The largest chunk goes to the
machine with most room if it fits, else it is split in two, until the donor is no longer
overloaded.  At the start of balancing the donor is the default machine and its one chunk is the whole
space; to mend a balance that was lost, each overloaded machine in turn is a donor of what it owns.

What the source leaves out: chunks that cannot be split further.  One that fits within the allowed
overload goes to the machine with most room; one that fits nowhere is shared among machines (a hash
group) if that is allowed, and otherwise goes where it overloads least, or stays.
"""
from libc.stdint cimport int32_t, uint8_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

import numpy

from flowos import UsageError
from flowos.services.radix import CHUNK

cdef extern from "radix.h" nogil:
    ctypedef struct fos_load:
        double load
        int32_t left
    ctypedef struct fos_chunk:
        double load
        int32_t node
        uint8_t tree
        uint8_t length
        uint8_t bits[18]
    void fos_chunk_split(const fos_load *nodes, const fos_chunk *whole, fos_chunk *left, fos_chunk *right)

# Sums of loads are compared with quotas that were computed otherwise: rounding is no overload.
cdef double SLACK = 1e-9

cdef struct Entry:
    double key                      # load of a chunk, room of a machine
    int32_t index


cdef struct Given:
    int32_t chunk
    int32_t owner                   # a machine, or SHARED - g for group g


cdef enum:
    SHARED = -2
    MOST_CHUNKS = 1 << 22           # 200 MB: only absurd capacities, a million to one, get there


cdef inline void sift_down(Entry *heap, Py_ssize_t n, Py_ssize_t at) noexcept nogil:
    """Restore the order of a heap, largest first, below an entry; of equals the lower index goes first."""
    cdef Entry moved = heap[at]
    cdef Py_ssize_t child = 2 * at + 1
    while child < n:
        if child + 1 < n and (heap[child + 1].key > heap[child].key or (
                heap[child + 1].key == heap[child].key and heap[child + 1].index < heap[child].index)):
            child += 1
        if moved.key > heap[child].key or (moved.key == heap[child].key and moved.index < heap[child].index):
            break
        heap[at] = heap[child]
        at = child
        child = 2 * at + 1
    heap[at] = moved


cdef inline void sift_up(Entry *heap, Py_ssize_t at) noexcept nogil:
    """Restore the order of a heap above its entry `at`."""
    cdef Entry moved = heap[at]
    cdef Py_ssize_t parent
    while at:
        parent = (at - 1) // 2
        if heap[parent].key > moved.key or (heap[parent].key == moved.key and heap[parent].index < moved.index):
            break
        heap[at] = heap[parent]
        at = parent
    heap[at] = moved


cdef class _Work:
    """The memory of one call: chunks, the two heaps, and what was decided."""

    cdef:
        fos_chunk *chunks
        Entry *waiting              # heap of chunks that are still the donor's
        Entry *machines             # heap of the others by room
        Given *given
        Py_ssize_t n, room, waits, others, gifts, gift_room

    def __dealloc__(self):
        free(self.chunks)
        free(self.waiting)
        free(self.machines)
        free(self.given)

    cdef int reserve(self, Py_ssize_t more) except -1 nogil:
        """Make room for more chunks."""
        cdef Py_ssize_t room = max(self.room, <Py_ssize_t>1024)
        cdef void *chunks
        cdef void *waiting
        if self.n + more <= self.room:
            return 0
        while room < self.n + more:
            room *= 2
        chunks = realloc(self.chunks, room * sizeof(fos_chunk))
        if chunks != NULL:
            self.chunks = <fos_chunk *>chunks
        waiting = realloc(self.waiting, room * sizeof(Entry))
        if waiting != NULL:
            self.waiting = <Entry *>waiting
        if chunks == NULL or waiting == NULL:
            with gil:
                raise MemoryError
        self.room = room
        return 0

    cdef int give(self, int32_t chunk, int32_t owner) except -1 nogil:
        """Note who gets a chunk."""
        cdef void *more
        cdef Py_ssize_t room
        if self.gifts == self.gift_room:
            room = 2 * self.gift_room or 1024
            more = realloc(self.given, room * sizeof(Given))
            if more == NULL:
                with gil:
                    raise MemoryError
            self.given, self.gift_room = <Given *>more, room
        self.given[self.gifts].chunk, self.given[self.gifts].owner = chunk, owner
        self.gifts += 1
        return 0

    cdef void pop(self) noexcept nogil:
        """Take the largest chunk off the heap."""
        self.waits -= 1
        if self.waits:
            self.waiting[0] = self.waiting[self.waits]
            sift_down(self.waiting, self.waits, 0)

    cdef void push(self, int32_t chunk) noexcept nogil:
        """Put a chunk on the heap; `reserve` made room."""
        self.waiting[self.waits].key, self.waiting[self.waits].index = self.chunks[chunk].load, chunk
        self.waits += 1
        sift_up(self.waiting, self.waits - 1)

    cdef void charge(self, double load) noexcept nogil:
        """Take room from the machine that had most."""
        self.machines[0].key -= load
        sift_down(self.machines, self.others, 0)


def shed(double[::1] loads, const double[::1] quotas, const double[::1] ceilings, int donor, chunks, trees, finest,
         double threshold, double grain, bint shared=False, double goal=-1, double floor=0, bint stay=False):
    """Move chunks of an overloaded machine to others until its load is at most `goal` (its ceiling).

    `loads` (changed in place), `quotas` and `ceilings` have an entry per machine; a machine with quota 0
    receives nothing.  `chunks` (radix.CHUNK) are the donor's, cut from the `trees` of load, and are
    not split past `finest[tree]` bits, nor where they hold no more than `grain`: when only such are left and do not
    fit, the work ends.  Below `threshold` a chunk need only stay under a ceiling, not a quota.  None is
    moved that would leave the donor less than `floor`.

    What fits nowhere and cannot be split is `shared` by a hash group, if that is allowed; otherwise it goes where
    it overloads least.  Where the donor, once rid of all else, is as good as another, it goes, or
    with `stay` it stays.

    Give (chunks, owners, groups, unplaced): what moved, to whom, where owner SHARED - g means
    group g of `groups`, a list of {machine: load}; and how many chunks were left that could neither be split nor
    moved to advantage.  O((splits + moves) * log(chunks + machines)); each chunk that fits nowhere
    costs O(machines).  Runs without the GIL.
    """
    cdef _Work work = _Work()
    cdef Py_ssize_t i, n = loads.shape[0], count = len(chunks)
    cdef const uint8_t[::1] raw
    cdef const fos_load *nodes[8]
    cdef int[8] last
    cdef int32_t chunk, machine, best, unplaced = 0
    cdef double load, room, ratio, least, part, kept = 0
    cdef list groups = []
    if chunks.dtype != CHUNK or not chunks.flags.c_contiguous:
        raise UsageError(f"chunks are an array of radix.CHUNK, not of {chunks.dtype}")
    if not 0 <= donor < n or quotas.shape[0] != n or ceilings.shape[0] != n:
        raise UsageError(f"{n} loads, {quotas.shape[0]} quotas, {ceilings.shape[0]} ceilings, donor {donor} do not fit")
    if not 1 <= len(trees) <= 8 or len(finest) != len(trees):
        raise UsageError(f"1 to 8 trees are balanced together, not {len(trees)}, each with its finest length")
    views = [memoryview(tree) for tree in trees]
    for i in range(len(trees)):
        if not 0 <= finest[i] <= trees[i].bits:
            raise UsageError(f"tree {i} has {trees[i].bits} bits; its finest prefix cannot have {finest[i]}")
        raw = views[i]
        nodes[i], last[i] = <const fos_load *>&raw[0], finest[i]
    work.reserve(count + 2)
    work.machines = <Entry *>malloc(max(n, <Py_ssize_t>1) * sizeof(Entry))
    if work.machines == NULL:
        raise MemoryError
    if count:
        raw = chunks.view("u1")
        memcpy(work.chunks, &raw[0], count * sizeof(fos_chunk))
    for i in range(count):
        if work.chunks[i].tree >= len(trees):
            raise UsageError(f"chunk {i} is of tree {work.chunks[i].tree}, and there are {len(trees)}")
        work.waiting[i].key, work.waiting[i].index = work.chunks[i].load, i
    work.n = work.waits = count
    for i in range(n):
        if i != donor and quotas[i] > 0:
            work.machines[work.others].key, work.machines[work.others].index = quotas[i] - loads[i], i
            work.others += 1
    if goal < 0:
        goal = ceilings[donor]
    with nogil:
        for i in range(work.waits // 2 - 1, -1, -1):
            sift_down(work.waiting, work.waits, i)
        for i in range(work.others // 2 - 1, -1, -1):
            sift_down(work.machines, work.others, i)
        while work.waits and work.others and loads[donor] > goal * (1 + SLACK):
            chunk, load = work.waiting[0].index, work.waiting[0].key
            if load <= 0:
                break
            machine = work.machines[0].index
            room = quotas[machine] if load > threshold and load > grain else ceilings[machine]
            work.pop()
            if loads[machine] + load > room * (1 + SLACK) or loads[donor] - load < floor * (1 - SLACK):
                if work.chunks[chunk].length < last[work.chunks[chunk].tree]:
                    if load <= grain or work.n > MOST_CHUNKS:
                        break
                    work.reserve(2)
                    fos_chunk_split(nodes[work.chunks[chunk].tree], work.chunks + chunk,
                                    work.chunks + work.n, work.chunks + work.n + 1)
                    work.n += 2
                    work.push(work.n - 2)
                    work.push(work.n - 1)
                    continue
                if loads[machine] + load > ceilings[machine] * (1 + SLACK):
                    least = load * SLACK
                    if shared and work.machines[0].key > least:
                        with gil:
                            group = {}
                        loads[donor] -= load
                        while load > least and work.machines[0].key > least:
                            machine = work.machines[0].index
                            part = min(load, work.machines[0].key)
                            load -= part
                            loads[machine] += part
                            work.charge(part)
                            with gil:
                                group[machine] = group.get(machine, 0.0) + part
                        if load > least:                  # the others are full, the donor keeps the rest
                            loads[donor] += load
                            with gil:
                                group[donor] = load
                        else:
                            loads[machine] += load
                        with gil:
                            groups.append(group)
                            work.give(chunk, SHARED - (len(groups) - 1))
                        continue
                    # It overloads whoever has it: the one that it overloads least, the donor with nothing else or another.
                    best, least = donor, 1e300
                    if quotas[donor] > 0:
                        least = (kept + load) / quotas[donor] * (1 - SLACK if stay else 1 + SLACK)
                    for i in range(n):
                        if i != donor and quotas[i] > 0:
                            ratio = (loads[i] + load) / quotas[i]
                            if ratio < least:
                                best, least = i, ratio * (1 - SLACK)
                    if best == donor:
                        unplaced += 1
                        kept += load
                        continue
                    loads[donor] -= load
                    loads[best] += load
                    for i in range(work.others):
                        if work.machines[i].index == best:
                            work.machines[i].key -= load
                            sift_down(work.machines, work.others, i)
                            break
                    work.give(chunk, best)
                    continue
            loads[donor] -= load
            loads[machine] += load
            work.charge(load)
            work.give(chunk, machine)
    moved, owners = numpy.empty(work.gifts, CHUNK), numpy.empty(work.gifts, "<i4")
    cdef uint8_t[::1] out
    cdef int32_t[::1] whose
    if work.gifts:
        out, whose = moved.view("u1"), owners
        for i in range(work.gifts):
            memcpy(&out[i * sizeof(fos_chunk)], work.chunks + work.given[i].chunk, sizeof(fos_chunk))
            whose[i] = work.given[i].owner
    return moved, owners, groups, unplaced
