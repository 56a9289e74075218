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
    MOST_TREES = 8
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


cdef class _Shedding:
    """One call of `shed`: the machines' loads, the chunks, the two heaps, and what was decided."""

    cdef:
        double *loads
        const double *quotas
        const double *ceilings
        const fos_load *nodes[MOST_TREES]
        int[MOST_TREES] finest
        int32_t donor, count            # the donor, and how many machines there are
        bint shared, stay
        double threshold, grain, goal, floor
        double kept                     # load that could be neither split nor moved to advantage
        fos_chunk *chunks
        Entry *waiting                  # heap of chunks that are still the donor's
        Entry *machines                 # heap of the others by room
        Given *given
        Py_ssize_t n, room, waits, others, gifts, gift_room
        list groups

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

    cdef int start(self, chunks) except -1:
        """Build both heaps."""
        cdef const uint8_t[::1] raw
        cdef Py_ssize_t i, count = len(chunks)
        self.reserve(count)
        self.machines = <Entry *>malloc(self.count * sizeof(Entry))
        if self.machines == NULL:
            raise MemoryError
        if count:
            raw = chunks.view("u1")
            memcpy(self.chunks, &raw[0], count * sizeof(fos_chunk))
        for i in range(count):
            self.waiting[i].key, self.waiting[i].index = self.chunks[i].load, i
        self.n = self.waits = count
        for i in range(self.count):
            if i != self.donor and self.quotas[i] > 0:
                self.machines[self.others].key, self.machines[self.others].index = self.quotas[i] - self.loads[i], i
                self.others += 1
        for i in range(count // 2 - 1, -1, -1):
            sift_down(self.waiting, count, i)
        for i in range(self.others // 2 - 1, -1, -1):
            sift_down(self.machines, self.others, i)
        return 0

    cdef int run(self) except -1 nogil:
        """Go through the chunks, the largest first, until the donor is at its goal or nothing helps."""
        cdef int32_t chunk, machine
        cdef double load, most
        cdef const fos_chunk *it
        while self.waits and self.others and self.loads[self.donor] > self.goal * (1 + SLACK):
            chunk, load = self.waiting[0].index, self.waiting[0].key
            if load <= 0:
                break
            self.waits -= 1
            self.waiting[0] = self.waiting[self.waits]
            sift_down(self.waiting, self.waits, 0)
            machine, it = self.machines[0].index, self.chunks + chunk
            most = self.quotas[machine] if load > self.threshold and load > self.grain else self.ceilings[machine]
            if self.loads[machine] + load <= most * (1 + SLACK) and \
                    self.loads[self.donor] - load >= self.floor * (1 - SLACK):
                self.move(chunk, 0)
            elif it.length < self.finest[it.tree]:
                if load <= self.grain or self.n > MOST_CHUNKS:
                    break
                self.split(chunk)
            elif self.loads[machine] + load <= self.ceilings[machine] * (1 + SLACK):
                self.move(chunk, 0)
            elif self.shared and self.machines[0].key > load * SLACK:
                self.share(chunk)
            else:
                self.settle(chunk)
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

    cdef void charge(self, Py_ssize_t at, double load) noexcept nogil:
        """Move load from the donor to the machine at a place of the heap."""
        self.loads[self.donor] -= load
        self.loads[self.machines[at].index] += load
        self.machines[at].key -= load
        sift_down(self.machines, self.others, at)

    cdef int move(self, int32_t chunk, Py_ssize_t at) except -1 nogil:
        """Give a chunk to the machine at a place of the heap."""
        self.give(chunk, self.machines[at].index)
        self.charge(at, self.chunks[chunk].load)
        return 0

    cdef int split(self, int32_t chunk) except -1 nogil:
        """Put the halves of a chunk on the heap in its place."""
        cdef fos_chunk *halves
        cdef int side
        self.reserve(2)
        halves = self.chunks + self.n
        fos_chunk_split(self.nodes[self.chunks[chunk].tree], self.chunks + chunk, halves, halves + 1)
        for side in range(2):
            self.waiting[self.waits].key, self.waiting[self.waits].index = halves[side].load, self.n + side
            self.waits += 1
            sift_up(self.waiting, self.waits - 1)
        self.n += 2
        return 0

    cdef int share(self, int32_t chunk) except -1 nogil:
        """Make a hash group of the machines with most room; what does not fit stays the donor's part."""
        cdef double load = self.chunks[chunk].load, least = load * SLACK, part
        cdef int32_t machine = self.donor
        with gil:
            group = {}
        while load > least and self.machines[0].key > least:
            machine = self.machines[0].index
            part = min(load, self.machines[0].key)
            if load - part <= least:
                part = load
            load -= part
            self.charge(0, part)
            with gil:
                group[machine] = group.get(machine, 0.0) + part
        with gil:
            if load > 0:
                group[self.donor] = load
            self.groups.append(group)
            self.give(chunk, SHARED - (<int32_t>len(self.groups) - 1))
        return 0

    cdef int settle(self, int32_t chunk) except -1 nogil:
        """Leave a chunk that overloads whoever has it where it overloads least; the donor counts as rid of all else."""
        cdef double load = self.chunks[chunk].load, least = 1e300, ratio
        cdef Py_ssize_t i, best = -1
        cdef int32_t machine
        if self.quotas[self.donor] > 0:
            least = (self.kept + load) / self.quotas[self.donor] * (1 - SLACK if self.stay else 1 + SLACK)
        for i in range(self.others):
            machine = self.machines[i].index
            ratio = (self.loads[machine] + load) / self.quotas[machine]
            if ratio < least:
                best, least = i, ratio * (1 - SLACK)
        if best < 0:
            self.kept += load
            return 0
        return self.move(chunk, best)

    cdef tuple result(self):
        """Copy what was decided: (chunks, owners, groups)."""
        cdef uint8_t[::1] out
        cdef int32_t[::1] whose
        cdef Py_ssize_t i
        moved, owners = numpy.empty(self.gifts, CHUNK), numpy.empty(self.gifts, "<i4")
        if self.gifts:
            out, whose = moved.view("u1"), owners
            for i in range(self.gifts):
                memcpy(&out[i * sizeof(fos_chunk)], self.chunks + self.given[i].chunk, sizeof(fos_chunk))
                whose[i] = self.given[i].owner
        return moved, owners, self.groups


def shed(double[::1] loads, const double[::1] quotas, const double[::1] ceilings, int donor, chunks, trees, finest,
         double threshold, double grain, double goal, double floor=0, bint shared=False, bint stay=False):
    """Move chunks of an overloaded machine to others until its load is at most `goal`.

    `loads` (changed in place), `quotas` and `ceilings` have an entry per machine; a machine with quota 0
    receives nothing.  `chunks` (radix.CHUNK) are the donor's, cut from the `trees` of load.  They are
    not split past `finest[tree]` bits, nor where they hold no more than `grain`: when only such are
    left and do not fit, the work ends.  Below `threshold` a chunk need only stay under a ceiling, not
    a quota.  None that can be split is moved if that would leave the donor less than `floor`.

    What fits nowhere and cannot be split is `shared` by a hash group, if that is allowed; otherwise it
    goes where it overloads least.  Where the donor, once rid of all else, is as good as another, it
    goes, or with `stay` it stays.

    Give (chunks, owners, groups): what moved, and to whom, where owner SHARED - g means group g of
    `groups`, a list of {machine: load}.  O((splits + moves) * log(chunks + machines)), and O(machines)
    for each chunk that fits nowhere; without the GIL.  UsageError: arrays that do not fit together.
    """
    cdef _Shedding work = _Shedding()
    cdef Py_ssize_t i, n = loads.shape[0]
    cdef const uint8_t[::1] raw
    if not 0 <= donor < n or quotas.shape[0] != n or ceilings.shape[0] != n:
        raise UsageError(f"{n} loads, {quotas.shape[0]} quotas, {ceilings.shape[0]} ceilings, donor {donor} do not fit")
    if not 1 <= len(trees) <= MOST_TREES or len(finest) != len(trees):
        raise UsageError(f"1 to {MOST_TREES} trees are balanced together, not {len(trees)}, each with its finest length")
    if chunks.dtype != CHUNK or not chunks.flags.c_contiguous or (len(chunks) and chunks["tree"].max() >= len(trees)):
        raise UsageError(f"chunks are an array of radix.CHUNK of {len(trees)} trees, not {chunks!r:.80}")
    views = [memoryview(tree) for tree in trees]          # no tree grows while these are there
    for i in range(len(trees)):
        if not 0 <= finest[i] <= trees[i].bits:
            raise UsageError(f"tree {i} has {trees[i].bits} bits; its finest prefix cannot have {finest[i]}")
        raw = views[i]
        work.nodes[i], work.finest[i] = <const fos_load *>&raw[0], finest[i]
    work.loads, work.quotas, work.ceilings, work.donor, work.count = &loads[0], &quotas[0], &ceilings[0], donor, n
    work.threshold, work.grain, work.goal, work.floor = threshold, grain, goal, floor
    work.shared, work.stay, work.groups = shared, stay, []
    work.start(chunks)
    with nogil:
        work.run()
    return work.result()
