"""The source's two searches: two-level greedy round robin and tabu search (D3.2 §3.2.3).

`greedy` fills rack by rack and leaves violations where a rack is full; `Tabu` is Algorithm 1, which
moves one module at a time to where the sum of all violations is least.  A move is tried by making
it on the state (allocation_state.h) and taking it back, so it costs what the module's own edges and
paths cost.  What the source leaves open is decided here:

    the rest of a service      whose module found no place in its rack goes on in the next rack: this
                               alone gives the tables' signature, paths of 13 to 16 hops in the start
    a tie                      the first server found, from a random one on
    how long a module is tabu  TENURE moves, and as many again at random
    sinks                      the I/O switch that adds least violation, then the one loaded least;
                               a module that moves leaves them where they are
"""
import time

import numpy

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from "allocation_state.h" nogil:
    const int FOS_UNIT
    ctypedef struct fos_allocation:
        int32_t servers, spots, nodes, edges, services, paths, links, attaches
        const int32_t *cpu_cap
        const int32_t *memory_cap
        const int32_t *up
        const int32_t *down
        const int32_t *inner
        const int32_t *rack_first
        const int32_t *rack_server
        const int64_t *cap
        const int32_t *node_first
        const int32_t *node_service
        const int32_t *cpu
        const int32_t *memory
        const uint8_t *kind
        const int32_t *choice_first
        const int32_t *choice
        const int32_t *path_first
        const int32_t *tail
        const int32_t *head
        const int64_t *traffic
        const int32_t *hop_first
        const int32_t *hop
        int32_t *bound
        int32_t *spot
        int32_t *cpu_used
        int32_t *memory_used
        int32_t *member
        int32_t *member_next
        int64_t *load
        int32_t *delay
        int64_t cpu_over, memory_over, bandwidth_over, delay_over
        int32_t failed
    int64_t fos_score(const fos_allocation *)
    int64_t fos_excess(int64_t, int64_t)
    int fos_connects(const fos_allocation *, int32_t, int32_t)
    void fos_place(fos_allocation *, int32_t, int32_t)
    void fos_clear(fos_allocation *, int32_t)
    const int32_t *fos_route(fos_allocation *, int32_t, int32_t, int32_t *)
    uint32_t fos_random(fos_allocation *, uint32_t)

# Moves for which a module that moved stays where it is, at least; twice as many at most.
cdef enum:
    TENURE = 10


cdef int32_t place_sink(fos_allocation *s, int32_t node) noexcept nogil:
    """Put a sink on the I/O switch of its choice that adds least; give the spot, -1 if none is reached."""
    cdef int32_t i, spot, best = -1
    cdef int64_t before = fos_score(s), added, least = 0
    cdef double use, least_use = 0
    for i in range(s.choice_first[node], s.choice_first[node + 1]):
        spot = s.choice[i]
        if not fos_connects(s, node, spot):
            continue
        fos_place(s, node, spot)
        added = fos_score(s) - before
        use = last_use(s, node)
        fos_clear(s, node)
        if best < 0 or added < least or (added == least and use < least_use):
            best, least, least_use = spot, added, use
    if best >= 0:
        fos_place(s, node, best)
    return best


cdef double last_use(fos_allocation *s, int32_t node) noexcept nogil:
    """Give the share used of the last link on the way of the sink's last edge."""
    cdef int32_t p, last, length, link
    cdef const int32_t *route
    for p in range(s.path_first[s.node_service[node]], s.path_first[s.node_service[node] + 1]):
        last = s.hop[s.hop_first[p + 1] - 1]
        if s.head[last] == node and s.spot[s.tail[last]] >= 0:
            route = fos_route(s, s.spot[s.tail[last]], s.spot[node], &length)
            if length:
                link = route[length - 1]
                return <double> s.load[link] / <double> s.cap[link]
    return 0


cdef int32_t least_server(fos_allocation *s, int32_t node, int32_t not_on, const int32_t *servers,
                          int32_t count, int64_t enough) noexcept nogil:
    """Give the server of `servers` (NULL: of all) where the score is least, beginning at a random one.

    Those that overload CPU and memory more than the best so far allows are passed over unseen; the
    search ends at a score of `enough`.
    """
    cdef int32_t i, server, best = -1, start
    cdef int64_t base = fos_score(s), least = 0, score
    if count <= 0:
        return -1
    start = <int32_t> fos_random(s, <uint32_t> count)
    for i in range(count):
        server = start + i
        if server >= count:
            server -= count
        if servers != NULL:
            server = servers[server]
        if server == not_on:
            continue
        if best >= 0:
            score = fos_excess(s.cpu_used[server] + s.cpu[node], s.cpu_cap[server]) \
                - fos_excess(s.cpu_used[server], s.cpu_cap[server]) \
                + fos_excess(s.memory_used[server] + s.memory[node], s.memory_cap[server]) \
                - fos_excess(s.memory_used[server], s.memory_cap[server])
            if base + score * FOS_UNIT >= least:
                continue
        if not fos_connects(s, node, server):
            continue
        fos_place(s, node, server)
        score = fos_score(s)
        fos_clear(s, node)
        if best < 0 or score < least:
            best, least = server, score
            if score <= enough:
                break
    return best


def greedy(state):
    """Place every service, rack by rack, with violations where it does not fit.

    Each module goes to the first server, from the last one used, in the current rack where it adds no
    violation; if there is none, to the server of the rack where it adds least, and the next rack
    becomes the current one.  Gives the number of modules that found no place without violation.
    O(modules x servers per rack).
    """
    cdef fos_allocation *s = <fos_allocation *> PyCapsule_GetPointer(state.capsule, "fos_allocation")
    cdef int32_t service, node, rack = 0, racks = state.problem.racks, size, i, j, at = 0, server, misses = 0, lost = 0
    cdef const int32_t *members
    cdef int64_t before
    with nogil:
        for service in range(s.services):
            for node in range(s.node_first[service], s.node_first[service + 1]):
                if s.kind[node] == 0:
                    continue
                if s.kind[node] == 2:
                    lost += place_sink(s, node) < 0
                    continue
                members = s.rack_server + s.rack_first[rack]
                size = s.rack_first[rack + 1] - s.rack_first[rack]
                before = fos_score(s)
                server = -1
                for i in range(size):
                    j = at + i if at + i < size else at + i - size
                    if s.cpu_used[members[j]] + s.cpu[node] > s.cpu_cap[members[j]] \
                            or s.memory_used[members[j]] + s.memory[node] > s.memory_cap[members[j]] \
                            or not fos_connects(s, node, members[j]):
                        continue
                    fos_place(s, node, members[j])
                    if fos_score(s) == before:
                        server, at = members[j], j
                        break
                    fos_clear(s, node)
                if server >= 0:
                    continue
                misses += 1
                server = least_server(s, node, -1, members, size, before)
                if server < 0:
                    server = least_server(s, node, -1, NULL, s.servers, before)
                if server < 0:
                    lost += 1
                else:
                    fos_place(s, node, server)
                rack = rack + 1 if rack + 1 < racks else 0
                at = 0
    if s.failed:
        raise MemoryError
    return misses


def complete(state):
    """Place what lies nowhere where it adds least violation; give the number of nodes that no place reaches."""
    cdef fos_allocation *s = <fos_allocation *> PyCapsule_GetPointer(state.capsule, "fos_allocation")
    cdef int32_t node, server, lost = 0
    with nogil:
        for node in range(s.nodes):
            if s.spot[node] >= 0:
                continue
            if s.kind[node] == 2:
                lost += place_sink(s, node) < 0
                continue
            server = least_server(s, node, -1, NULL, s.servers, fos_score(s))
            if server < 0:
                lost += 1
            else:
                fos_place(s, node, server)
    if s.failed:
        raise MemoryError
    return lost


cdef class Tabu:
    """Algorithm 1 on a state in which everything lies; `run` goes on from where it stopped.

    `best` is the least score seen and `best_spot` where the nodes lay then; `moves` counts moves;
    `trace` holds (time, score) of each improvement.
    """

    cdef fos_allocation *s
    cdef object state
    cdef readonly object best_spot
    cdef readonly int64_t best, moves
    cdef readonly list trace
    cdef int64_t[::1] until
    cdef int64_t[::1] blame
    cdef int32_t[::1] best_view

    def __init__(self, state):
        self.state = state
        self.s = <fos_allocation *> PyCapsule_GetPointer(state.capsule, "fos_allocation")
        self.best, self.best_spot, self.trace = state.score, state.spot.copy(), []
        self.best_view = self.best_spot
        self.until, self.blame = numpy.zeros(self.s.nodes, numpy.int64), numpy.zeros(self.s.nodes, numpy.int64)

    def run(self, seconds, clock=time.monotonic):
        """Search for some seconds or until nothing is violated; give the best score."""
        cdef int64_t before
        end = clock() + seconds
        while self.best > 0 and clock() < end:
            before = self.best
            with nogil:
                self.step()
            if self.s.failed:
                raise MemoryError
            if self.best < before:
                self.trace.append((clock(), self.best))
        return self.best

    cdef void step(self) noexcept nogil:
        """Make one move (lines 3 to 22 of Algorithm 1)."""
        cdef fos_allocation *s = self.s
        cdef int32_t node, server
        self.moves += 1
        if s.cpu_over + s.memory_over + s.bandwidth_over > 0:
            self.assign_blame()
            node = self.most_to_blame(False)
            if node < 0:
                return
            server = self.best_move(node)
            if self.until[node] > self.moves and self.score_at(node, server) >= self.best:
                node = self.most_to_blame(True)
                if node < 0:
                    return
                server = self.best_move(node)
        elif s.delay_over > 0:
            node = self.best_of_late(&server)
        else:
            return
        if node < 0 or server < 0:
            return
        fos_clear(s, node)
        fos_place(s, node, server)
        self.until[node] = self.moves + TENURE + <int64_t> fos_random(s, TENURE + 1)
        if fos_score(s) < self.best:
            self.best = fos_score(s)
            memcpy(&self.best_view[0], s.spot, s.nodes * sizeof(int32_t))

    cdef int32_t best_move(self, int32_t node) noexcept nogil:
        """Give the server, other than its own, to which a module moves best."""
        cdef int32_t was = self.s.spot[node], server
        fos_clear(self.s, node)
        server = least_server(self.s, node, was, NULL, self.s.servers, fos_score(self.s))
        fos_place(self.s, node, was)
        return server

    cdef int64_t score_at(self, int32_t node, int32_t server) noexcept nogil:
        """Give the score if a module lay on a server."""
        cdef int32_t was = self.s.spot[node]
        cdef int64_t score
        if server < 0:
            return self.best
        fos_clear(self.s, node)
        fos_place(self.s, node, server)
        score = fos_score(self.s)
        fos_clear(self.s, node)
        fos_place(self.s, node, was)
        return score

    cdef void assign_blame(self) noexcept nogil:
        """Work out what each module adds to what is overloaded: at most the excess itself."""
        cdef fos_allocation *s = self.s
        cdef int32_t server, node, edge, i, length
        cdef int64_t cpu, memory
        cdef const int32_t *route
        for node in range(s.nodes):
            self.blame[node] = 0
        for server in range(s.servers):
            cpu = s.cpu_used[server] - s.cpu_cap[server]
            memory = s.memory_used[server] - s.memory_cap[server]
            if cpu <= 0 and memory <= 0:
                continue
            node = s.member[server]
            while node >= 0:
                if cpu > 0:
                    self.blame[node] += min(cpu, <int64_t> s.cpu[node]) * FOS_UNIT
                if memory > 0:
                    self.blame[node] += min(memory, <int64_t> s.memory[node]) * FOS_UNIT
                node = s.member_next[node]
        if s.bandwidth_over == 0:
            return
        for edge in range(s.edges):
            if s.spot[s.tail[edge]] < 0 or s.spot[s.head[edge]] < 0:
                continue
            if s.spot[s.tail[edge]] == s.spot[s.head[edge]]:
                self.blame_link(edge, s.inner[s.spot[s.tail[edge]]])
                continue
            self.blame_link(edge, s.up[s.spot[s.tail[edge]]])
            self.blame_link(edge, s.down[s.spot[s.head[edge]]])
            route = fos_route(s, s.spot[s.tail[edge]], s.spot[s.head[edge]], &length)
            for i in range(length):
                self.blame_link(edge, route[i])

    cdef void blame_link(self, int32_t edge, int32_t link) noexcept nogil:
        cdef int64_t excess
        if link < 0:
            return
        excess = min(fos_excess(self.s.load[link], self.s.cap[link]), self.s.traffic[edge])
        self.blame[self.s.tail[edge]] += excess
        self.blame[self.s.head[edge]] += excess

    cdef int32_t most_to_blame(self, bint free) noexcept nogil:
        """Give the module that contributes most (of those not tabu, if `free`); -1: none."""
        cdef int32_t node, found = -1, ties = 0
        for node in range(self.s.nodes):
            if self.s.kind[node] != 1 or self.blame[node] <= 0 or (free and self.until[node] > self.moves):
                continue
            if found < 0 or self.blame[node] > self.blame[found]:
                found, ties = node, 1
            elif self.blame[node] == self.blame[found]:
                ties += 1
                if fos_random(self.s, <uint32_t> ties) == 0:
                    found = node
        return found

    cdef int32_t best_of_late(self, int32_t *server) noexcept nogil:
        """Give the best move of a module on one of the three latest paths (lines 15 to 18)."""
        cdef fos_allocation *s = self.s
        cdef int32_t latest[3]
        cdef int32_t path, i, j, node, to, found = -1, count = 0
        cdef int64_t late, score, least = 0
        for path in range(s.paths):
            late = s.delay[path] - s.bound[path]
            if late <= 0:
                continue
            i = count if count < 3 else 3
            while i > 0 and late > s.delay[latest[i - 1]] - s.bound[latest[i - 1]]:
                if i < 3:
                    latest[i] = latest[i - 1]
                i -= 1
            if i < 3:
                latest[i] = path
                count = min(count + 1, 3)
        path = latest[fos_random(s, <uint32_t> count)]
        for j in range(s.hop_first[path], s.hop_first[path + 1] - 1):
            node = s.head[s.hop[j]]
            to = self.best_move(node)
            if to < 0:
                continue
            score = self.score_at(node, to)
            if (self.until[node] <= self.moves or score < self.best) and (found < 0 or score < least):
                found, least, server[0] = node, score, to
        return found
