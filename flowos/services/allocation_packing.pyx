"""Packing whole services: the search that FlowOS uses instead of tabu search.

A service is placed as a whole or not at all, so a state never violates anything; what is searched
for is a place for the services that have none.

    insert     a service into one rack or two: depth first over its modules, each on one of the
               WIDTH servers that it fills best, servers with a neighbour of it first; a module that
               would violate anything is taken back at once, a link that overflows sends its traffic
               by another route
    fill       each service, the largest first, into the rack with most room
    repair     ruin and recreate: the services on some servers of a rack are taken out, and put back in
               another order together with one that has no place; what is not better, or as
               good, is undone

The file is long because these share the arrays of one class, and Cython's declarations are shared
in flowos/core only.

Why racks: a path inside a rack takes 2 per hop, one to another rack 4 or 6, and no link above the
ToR carries traffic between modules.  The idea of ruin and recreate is Schrimpf et al., "Record
breaking optimization results using the ruin and recreate principle" (2000).
"""
import time

import numpy

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "allocation_state.h" nogil:
    ctypedef struct fos_allocation:
        int32_t servers, spots, nodes, edges, services, paths, links, attaches
        const int32_t *cpu_cap
        const int32_t *memory_cap
        const int32_t *attach
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
        const int32_t *touch_first
        const int32_t *touch
        const int32_t *tail
        const int32_t *head
        int32_t *spot
        int32_t *cpu_used
        int32_t *memory_used
        int32_t *member
        int32_t *member_next
        int64_t *load
        int32_t *pool
        int32_t failed
    int64_t fos_score(const fos_allocation *)
    int fos_connects(const fos_allocation *, int32_t, int32_t)
    void fos_place(fos_allocation *, int32_t, int32_t)
    void fos_clear(fos_allocation *, int32_t)
    void fos_set_bound(fos_allocation *, int32_t, int32_t)
    int32_t fos_routes(fos_allocation *, int32_t, int32_t)
    int32_t fos_choice(const fos_allocation *, int32_t, int32_t, int32_t)
    const int32_t *fos_route(fos_allocation *, int32_t, int32_t, int32_t *)
    int fos_reroute(fos_allocation *, int32_t, int32_t, int32_t)
    uint32_t fos_random(fos_allocation *, uint32_t)

cdef enum:
    WIDTH = 3              # servers tried per module
    EFFORT = 64            # modules placed, and taken back, per service
    RACKS_TRIED = 6        # by `fill`, per service
    RUIN = 24              # services taken out at a time, at most
    RUNS = -1              # in place_of: the service has a place
    ABSENT = -2            # it wants none
    JOURNAL = 4096         # routes changed that can be taken back; beyond, none is changed


cdef double TINY = 1e-9    # sums of sizes are compared with this


cdef class Packer:
    """A search on a state; `unplaced` are the services that have no place (numbers).

    `fill` and `repair` leave the state without violations, if it had none; `inserts` counts what
    was tried.  With `waiting` False no service asks for a place before it arrives (`arrive`, `leave`).
    """

    cdef fos_allocation *s
    cdef readonly object state
    cdef readonly int64_t inserts, rounds
    cdef double[::1] size
    cdef int32_t[::1] home, place_of, waiting
    cdef int32_t waits
    cdef int64_t[::1] rack_cpu, rack_memory, rack_cpu_cap, rack_memory_cap
    cdef int32_t racks, effort
    cdef int64_t clean
    cdef double together, noise
    cdef bint loose
    # what a ruin took out: services, and where their nodes lay
    cdef int32_t[::1] taken, taken_home, saved
    cdef int32_t[::1] order, tried
    # routes that were changed since the last point that may be gone back to: from, to, what it was
    cdef int32_t[:, ::1] journal
    cdef int32_t journaled
    cdef int32_t takes, stamp

    def __init__(self, state, waiting=True):
        cdef int32_t service
        self.state = state
        problem = state.problem
        self.s = <fos_allocation *> PyCapsule_GetPointer(state.capsule, "fos_allocation")
        cpu_mean, memory_mean = max(problem.cpu_cap.mean(), 1), max(problem.memory_cap.mean(), 1)
        self.size = numpy.zeros(max(problem.services, 1))
        numpy.add.at(numpy.asarray(self.size), problem.node_service,
                     problem.cpu / cpu_mean + problem.memory / memory_mean)
        count = max(problem.services, 1)
        self.home, self.place_of = numpy.full(count, -1, numpy.int32), numpy.full(count, RUNS, numpy.int32)
        self.waiting = numpy.zeros(count, numpy.int32)
        self.order, self.tried = numpy.zeros(count + RUIN, numpy.int32), numpy.zeros(problem.attaches, numpy.int32)
        self.taken, self.taken_home = numpy.zeros(RUIN + 1, numpy.int32), numpy.zeros(RUIN + 1, numpy.int32)
        self.saved = numpy.zeros(problem.nodes + 1, numpy.int32)
        self.journal = numpy.zeros((JOURNAL, 3), numpy.int32)
        self.racks = problem.racks
        server_rack = problem.attach[:problem.servers]
        self.rack_cpu_cap = numpy.bincount(server_rack, problem.cpu_cap, problem.racks).astype(numpy.int64)
        self.rack_memory_cap = numpy.bincount(server_rack, problem.memory_cap, problem.racks).astype(numpy.int64)
        self.rack_cpu = numpy.bincount(server_rack, state.cpu_used, problem.racks).astype(numpy.int64)
        self.rack_memory = numpy.bincount(server_rack, state.memory_used, problem.racks).astype(numpy.int64)
        self.clean, self.together, self.noise, self.effort = state.score, 1, 0, EFFORT
        for service in range(problem.services):
            first, last = problem.node_first[service], problem.node_first[service + 1]
            lies = state.spot[first:last][problem.kind[first:last] == 1]
            if (lies >= 0).all() and len(lies):
                self.home[service] = problem.attach[lies[0]]
            elif waiting:
                self.wait_for(service)
            else:
                self.place_of[service] = ABSENT

    @property
    def unplaced(self):
        """The services that have no place."""
        return [self.waiting[i] for i in range(self.waits)]

    cdef void wait_for(self, int32_t service) noexcept nogil:
        self.place_of[service] = self.waits
        self.waiting[self.waits] = service
        self.waits += 1

    cdef void wait_no_more(self, int32_t service) noexcept nogil:
        cdef int32_t place = self.place_of[service], last = self.waiting[self.waits - 1]
        self.waiting[place] = last
        self.place_of[last] = place
        self.place_of[service] = RUNS
        self.waits -= 1

    # -- one service ---------------------------------------------------------------------------

    cdef bint settle(self, int32_t node, int32_t spot) noexcept nogil:
        """Place a node; take it back unless nothing is violated, by some routes."""
        cdef fos_allocation *s = self.s
        cdef int64_t before = fos_score(s)
        cdef int32_t i, tail, head, mark = self.journaled
        if not fos_connects(s, node, spot):
            return False
        fos_place(s, node, spot)
        if fos_score(s) == before:
            return True
        for i in range(s.touch_first[node], s.touch_first[node + 1]):
            tail, head = s.spot[s.tail[s.touch[i]]], s.spot[s.head[s.touch[i]]]
            if tail >= 0 and head >= 0 and self.overflows(tail, head) and self.redirect(tail, head, before):
                return True
        fos_clear(s, node)
        self.go_back(mark)
        return False

    cdef bint redirect(self, int32_t tail, int32_t head, int64_t wanted) noexcept nogil:
        """Send what flows between two spots by the route that overflows least; True if nothing does."""
        cdef fos_allocation *s = self.s
        cdef int32_t place = fos_routes(s, s.attach[tail], s.attach[head]), count, was, found, choice
        cdef int64_t best = fos_score(s), score
        count = s.pool[place] if place > 0 else 0
        if count < 2 or self.journaled == JOURNAL:
            return False
        was = fos_choice(s, tail, head, count)
        found = was
        for choice in range(count):
            if choice == was:
                continue
            fos_reroute(s, tail, head, choice)
            score = fos_score(s)
            if score < best:
                best, found = score, choice
                if best == wanted:
                    break
        fos_reroute(s, tail, head, found)
        if found != was:
            self.journal[self.journaled, 0] = tail
            self.journal[self.journaled, 1] = head
            self.journal[self.journaled, 2] = was
            self.journaled += 1
        return best == wanted

    cdef void go_back(self, int32_t mark) noexcept nogil:
        """Take back the changes of routes since the journal was `mark` long, the last first.

        A service that is put back where it lay finds its links free only if they are the same.
        """
        while self.journaled > mark:
            self.journaled -= 1
            fos_reroute(self.s, self.journal[self.journaled, 0], self.journal[self.journaled, 1],
                        self.journal[self.journaled, 2])

    cdef bint overflows(self, int32_t tail, int32_t head) noexcept nogil:
        """Say whether a link on the route between two spots carries too much."""
        cdef int32_t length, i
        cdef const int32_t *route = fos_route(self.s, tail, head, &length)
        for i in range(length):
            if self.s.load[route[i]] > self.s.cap[route[i]]:
                return True
        return False

    cdef bint settle_sink(self, int32_t node) noexcept nogil:
        """Put a sink on the I/O switch of its choice whose way is the least loaded that does."""
        cdef fos_allocation *s = self.s
        cdef int32_t i, j, spot, length, best, edge
        cdef double use, share, least
        cdef const int32_t *route
        cdef uint64_t out = 0              # choices that failed, as bits; choices past 64 are tried in order
        cdef int32_t first = s.choice_first[node], count = s.choice_first[node + 1] - first
        while True:
            best, least = -1, 0
            for i in range(min(count, 64)):
                if out >> i & 1:
                    continue
                spot, use = s.choice[first + i], 0
                for j in range(s.touch_first[node], s.touch_first[node + 1]):
                    edge = s.touch[j]
                    if fos_connects(s, node, spot):
                        route = fos_route(s, s.spot[s.tail[edge]], spot, &length)
                        if length:
                            share = <double> s.load[route[length - 1]] / <double> s.cap[route[length - 1]]
                            use = max(use, share)
                if best < 0 or use < least:
                    best, least = i, use
            if best < 0:
                break
            if self.settle(node, s.choice[first + best]):
                return True
            out |= <uint64_t> 1 << best
        for i in range(64, count):
            if self.settle(node, s.choice[first + i]):
                return True
        return False

    cdef bint deepen(self, int32_t node, int32_t last, int32_t rack, int32_t other) noexcept nogil:
        """Place the nodes [node, last) of a service on the servers of a rack or two."""
        cdef fos_allocation *s = self.s
        cdef int32_t best[WIDTH]
        cdef double worth[WIDTH]
        cdef int32_t count = 0, i, k, r, server, found, edge, to
        cdef double fit
        cdef bint new_seen = False
        while node < last and s.kind[node] == 0:
            node += 1
        if node == last:
            return True
        if s.kind[node] == 2:
            if not self.settle_sink(node):
                return False
            if self.deepen(node + 1, last, rack, other):
                return True
            fos_clear(s, node)
            return False
        for r in range(2):
            if r == 1 and (other < 0 or other == rack):
                break
            k = rack if r == 0 else other
            for i in range(s.rack_first[k], s.rack_first[k + 1]):
                server = s.rack_server[i]
                if s.cpu_used[server] + s.cpu[node] > s.cpu_cap[server] \
                        or s.memory_used[server] + s.memory[node] > s.memory_cap[server]:
                    continue
                # What would be left, as a share: the best fit leaves least.
                fit = (<double> (s.cpu_cap[server] - s.cpu_used[server] - s.cpu[node]) / <double> max(s.cpu_cap[server], 1)
                       + <double> (s.memory_cap[server] - s.memory_used[server] - s.memory[node])
                       / <double> max(s.memory_cap[server], 1))
                if self.loose:
                    fit = -fit
                if self.noise > 0:
                    fit += self.noise * fos_random(s, 1024) / 1024.0
                for found in range(s.touch_first[node], s.touch_first[node + 1]):
                    edge = s.touch[found]
                    to = s.tail[edge] if s.head[edge] == node else s.head[edge]
                    if s.kind[to] == 1 and s.spot[to] == server:
                        fit -= self.together
                        break
                found = count if count < WIDTH else WIDTH
                while found > 0 and fit < worth[found - 1]:
                    if found < WIDTH:
                        best[found], worth[found] = best[found - 1], worth[found - 1]
                    found -= 1
                if found < WIDTH:
                    best[found], worth[found] = server, fit
                    count = min(count + 1, WIDTH)
        for i in range(count):
            if self.effort <= 0:
                return False
            self.effort -= 1
            if not self.settle(node, best[i]):
                continue
            if self.deepen(node + 1, last, rack, other):
                return True
            fos_clear(s, node)
        return False

    cdef bint insert(self, int32_t service, int32_t rack, int32_t other) noexcept nogil:
        """Place a service that has no place; the state is as before if that fails."""
        cdef fos_allocation *s = self.s
        self.inserts += 1
        self.effort = EFFORT
        if not self.deepen(s.node_first[service], s.node_first[service + 1], rack, other):
            return False
        self.home[service] = rack
        self.account(service, 1)
        self.wait_no_more(service)
        return True

    cdef void remove(self, int32_t service) noexcept nogil:
        """Take a service out; sources stay where they are."""
        cdef int32_t node
        self.account(service, -1)
        for node in range(self.s.node_first[service], self.s.node_first[service + 1]):
            if self.s.kind[node] != 0 and self.s.spot[node] >= 0:
                fos_clear(self.s, node)
        self.wait_for(service)

    cdef void account(self, int32_t service, int32_t sign) noexcept nogil:
        """Add what a placed service takes to its racks, or take it off."""
        cdef int32_t node, rack
        for node in range(self.s.node_first[service], self.s.node_first[service + 1]):
            if self.s.kind[node] == 1:
                rack = self.s.attach[self.s.spot[node]]
                self.rack_cpu[rack] += sign * self.s.cpu[node]
                self.rack_memory[rack] += sign * self.s.memory[node]

    # -- racks ---------------------------------------------------------------------------------

    cdef double room(self, int32_t rack) noexcept nogil:
        """Give the share of a rack that is free: of CPU or of memory, whichever is less."""
        cdef double cpu = 1 - <double> self.rack_cpu[rack] / <double> max(self.rack_cpu_cap[rack], 1)
        cdef double memory = 1 - <double> self.rack_memory[rack] / <double> max(self.rack_memory_cap[rack], 1)
        return min(cpu, memory)

    cdef int32_t roomiest(self) noexcept nogil:
        """Give the rack with most room that was not tried under this stamp; -1: none."""
        cdef int32_t rack, best = -1
        cdef double room, most = 0
        for rack in range(self.racks):
            if self.tried[rack] != self.stamp:
                room = self.room(rack)
                if best < 0 or room > most:
                    best, most = rack, room
        return best

    cdef bint find_rack(self, int32_t service) noexcept nogil:
        """Insert a service into the roomiest racks, one after another; then into pairs of them."""
        cdef int32_t tries, rack, i, first = -1
        self.stamp += 1
        for tries in range(RACKS_TRIED):
            rack = self.roomiest()
            if rack < 0:
                break
            # The best fit leaves least behind, but it may leave no server with room for what must lie
            # together; then the emptiest servers do.
            for i in range(2):
                self.loose, self.together = i, 1 if i == 0 else 4
                if self.insert(service, rack, -1) or (first >= 0 and self.insert(service, first, rack)):
                    self.loose, self.together = False, 1
                    return True
            if first < 0:
                first = rack
            self.tried[rack] = self.stamp
        self.loose, self.together = False, 1
        return False

    def fill(self, seconds, clock=time.monotonic):
        """Give every service that has no place one, the largest first, where it goes without violation.

        Gives the number of services that are left.
        """
        end = clock() + seconds
        size = numpy.asarray(self.size)
        for at, service in enumerate(sorted(self.unplaced, key=lambda service: -size[service])):
            self.journaled = 0
            self.find_rack(service)
            if at % 64 == 0 and clock() > end:
                break
        self.check()
        return self.waits

    # -- ruin and recreate ---------------------------------------------------------------------

    cdef void take(self, int32_t service) noexcept nogil:
        """Take a placed service out and remember where it lay."""
        cdef int32_t node
        for node in range(self.s.node_first[service], self.s.node_first[service + 1]):
            self.saved[node] = self.s.spot[node]
        self.taken[self.takes] = service
        self.taken_home[self.takes] = self.home[service]
        self.takes += 1
        self.remove(service)

    cdef void ruin(self, int32_t rack, int32_t hosts, int32_t most) noexcept nogil:
        """Take out the services that have a module on some servers of a rack."""
        cdef fos_allocation *s = self.s
        cdef int32_t size = s.rack_first[rack + 1] - s.rack_first[rack], server, node, i
        for i in range(hosts):
            server = s.rack_server[s.rack_first[rack] + <int32_t> fos_random(s, <uint32_t> size)]
            node = s.member[server]
            while node >= 0 and self.takes < most:
                if self.place_of[s.node_service[node]] < 0:
                    self.take(s.node_service[node])
                    node = s.member[server]
                else:
                    node = s.member_next[node]

    cdef void restore(self, int32_t count, int32_t mark) noexcept nogil:
        """Put the first `count` taken services back where they lay, over the routes of then."""
        cdef int32_t i, node, service
        for i in range(count):
            service = self.taken[i]
            if self.place_of[service] < 0:
                self.remove(service)
        self.go_back(mark)
        for i in range(count):
            service = self.taken[i]
            for node in range(self.s.node_first[service], self.s.node_first[service + 1]):
                if self.s.kind[node] != 0:
                    fos_place(self.s, node, self.saved[node])
            self.home[service] = self.taken_home[i]
            self.account(service, 1)
            self.wait_no_more(service)

    cdef bint round(self, int32_t service, int32_t hosts, int32_t most, double limit) noexcept nogil:
        """Ruin a rack, or two, and recreate them with a service that has no place; True if kept.

        At most `most` services are taken out, those on up to `hosts` servers of a rack.  It is kept
        if the services that have no place afterwards are no larger than `limit`.
        """
        cdef fos_allocation *s = self.s
        cdef int32_t rack, other = -1, i, j, k, taken, mark = self.journaled
        cdef double left, key
        cdef double keys[RUIN + 1]
        self.rounds += 1
        rack = self.draw_rack()
        if fos_random(s, 4) == 0 and self.racks > 1:
            other = self.draw_rack()
            if other == rack:
                other = -1
        self.noise = 0.25 * fos_random(s, 4)
        self.together = 0.5 * fos_random(s, 4)
        self.takes = 0
        self.ruin(rack, 1 + <int32_t> fos_random(s, <uint32_t> hosts), (most + 1) // 2 if other >= 0 else most)
        if other >= 0:
            self.ruin(other, 1 + <int32_t> fos_random(s, <uint32_t> hosts), most)
        taken = self.takes
        self.taken[taken] = service
        for i in range(taken + 1):             # largest first, more or less
            key = self.size[self.taken[i]] * (1 + self.noise * fos_random(s, 1024) / 512.0)
            j = i
            while j > 0 and keys[j - 1] < key:
                keys[j] = keys[j - 1]
                self.order[j] = self.order[j - 1]
                j -= 1
            keys[j] = key
            self.order[j] = self.taken[i]
        left = 0
        for i in range(taken + 1):
            k = self.order[i]
            if self.insert(k, rack, -1):
                continue
            if other >= 0 and (self.insert(k, other, -1) or self.insert(k, rack, other)):
                continue
            left += self.size[k]
            if left > limit + TINY:
                break
        self.noise, self.together = 0, 1
        if left > limit + TINY:
            if self.place_of[service] == RUNS:
                self.remove(service)
            self.restore(taken, mark)
            return False
        return True

    cdef int32_t draw_rack(self) noexcept nogil:
        """Draw a rack: the roomier of two, or three."""
        cdef int32_t best = <int32_t> fos_random(self.s, <uint32_t> self.racks), i, rack
        for i in range(<int32_t> fos_random(self.s, 3)):
            rack = <int32_t> fos_random(self.s, <uint32_t> self.racks)
            if self.room(rack) > self.room(best):
                best = rack
        return best

    def repair(self, seconds, rounds=None, clock=time.monotonic):
        """Search for some seconds, or rounds, or until every service has a place; give how many have none."""
        cdef int32_t i, service
        cdef int64_t end_round = self.rounds + (rounds if rounds is not None else 2**62)
        end = clock() + seconds
        while self.waits and self.rounds < end_round and clock() < end:
            with nogil:
                for i in range(16):
                    if self.waits and self.rounds < end_round:
                        service = self.waiting[<int32_t> fos_random(self.s, <uint32_t> self.waits)]
                        self.journaled = 0
                        self.round(service, 5, RUIN, self.size[service])
            self.check()
        return self.waits

    # -- one by one ----------------------------------------------------------------------------

    def runs(self, int32_t service):
        """Say whether a service has a place."""
        return self.place_of[service] == RUNS

    def arrive(self, int32_t service, int32_t rounds):
        """Give a service a place, moving as few others as it takes; False: none found, nothing changed.

        The rounds take out one other service at most, then two, and so on, so that what is found
        first moves little; only a round that leaves nobody without place is kept.
        """
        cdef int32_t i
        cdef bint found
        self.wait_for(service)
        self.journaled = 0
        with nogil:
            found = self.find_rack(service)
            for i in range(rounds):
                if found:
                    break
                found = self.round(service, 1 + i * 4 // rounds, 1 + i * 8 // rounds, 0)
        if not found:
            self.go_back(0)
            self.wait_no_more(service)
            self.place_of[service] = ABSENT
        self.check()
        return found

    def put_back(self, int32_t service, const int32_t[::1] spots):
        """Place a service that has no place on given spots, one per node: those where it lay before."""
        cdef int32_t node, first = self.s.node_first[service]
        self.wait_for(service)
        for node in range(first, self.s.node_first[service + 1]):
            if self.s.kind[node] != 0:
                fos_place(self.s, node, spots[node - first])
            if self.s.kind[node] == 1:
                self.home[service] = self.s.attach[spots[node - first]]
        self.account(service, 1)
        self.wait_no_more(service)
        self.check()

    def leave(self, int32_t service):
        """Take a service that has a place away."""
        self.remove(service)
        self.wait_no_more(service)
        self.place_of[service] = ABSENT

    def check(self):
        """Raise what went wrong in the search."""
        if self.s.failed:
            raise MemoryError
        assert fos_score(self.s) == self.clean, "a packing violates nothing that was not violated before"
