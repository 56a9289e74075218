"""The state of an allocation, owned from Python: memory, moves, and what they come to.

`State` holds the arrays of allocation_state.h, made from a Problem (allocation_problem.py), and
hands the structure to the searches as a capsule, so that all of them change one and the same
state.  Python sees NumPy views of what moves.  Not safe for two threads at a time.
"""
import numpy

from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from flowos import UsageError

cdef extern from "allocation_state.h" nogil:
    const int FOS_UNIT
    ctypedef struct fos_allocation:
        int32_t servers, spots, nodes, edges, services, paths, links, attaches, switches
        const int32_t *cpu_cap
        const int32_t *memory_cap
        const int32_t *attach
        const int32_t *up
        const int32_t *down
        const int32_t *out_delay
        const int32_t *in_delay
        const int32_t *inner
        const int32_t *inner_delay
        const int32_t *rack_first
        const int32_t *rack_server
        const int64_t *cap
        const int32_t *switch_first
        const int32_t *switch_to
        const int32_t *switch_link
        const int32_t *switch_delay
        const uint8_t *transit
        const int32_t *attach_switch
        const int32_t *distance
        const int32_t *node_first
        const int32_t *edge_first
        const int32_t *path_first
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
        const int32_t *least
        const int64_t *traffic
        const int32_t *hop_first
        const int32_t *hop
        int32_t *bound
        int32_t *spot
        int32_t *cpu_used
        int32_t *memory_used
        int32_t *member
        int32_t *member_next
        int32_t *member_prev
        int64_t *load
        int32_t *delay
        int64_t cpu_over, memory_over, bandwidth_over, delay_over
        int32_t *route
        int32_t *pool
        int64_t pool_size
        uint64_t *other_key
        uint8_t *other
        uint32_t other_room
        uint64_t seed
        int32_t failed
    int64_t fos_score(const fos_allocation *)
    int fos_connects(const fos_allocation *, int32_t, int32_t)
    void fos_place(fos_allocation *, int32_t, int32_t)
    void fos_clear(fos_allocation *, int32_t)
    void fos_set_bound(fos_allocation *, int32_t, int32_t)
    const int32_t *fos_route(fos_allocation *, int32_t, int32_t, int32_t *)
    int32_t fos_routes(fos_allocation *, int32_t, int32_t)
    int fos_reroute(fos_allocation *, int32_t, int32_t, int32_t)

#: The score of a state is in these parts of a unit of the source's tables.
UNIT = FOS_UNIT


def distances(const int32_t[::1] first, const int32_t[::1] to, const int32_t[::1] delay,
              const uint8_t[::1] transit, const int32_t[::1] goals):
    """Compute the least delay from each switch to each of `goals`; -1: no way.

    Parameters: the links out of switch i are `[first[i], first[i + 1])` of `to` and `delay`;
    switches with `transit` 0 only begin or end a path.
    Returns int32 of shape (switches, goals).  Bellman's algorithm with a queue: O(links) per goal
    where all delays are alike.
    """
    cdef int32_t switches = first.shape[0] - 1, n = goals.shape[0], goal, here, other, k, through
    cdef int64_t head, tail, i
    result = numpy.full((switches, n), -1, numpy.int32)
    cdef int32_t[:, ::1] best = result
    # The walk is from the goal backwards, so links are needed by where they lead to.
    order = numpy.argsort(numpy.asarray(to), kind="stable").astype(numpy.int32)
    begins = numpy.zeros(switches + 1, numpy.int32)
    begins[1:] = numpy.cumsum(numpy.bincount(numpy.asarray(to), minlength=switches))
    tails = numpy.repeat(numpy.arange(switches, dtype=numpy.int32), numpy.diff(numpy.asarray(first)))
    cdef const int32_t[::1] back = order, back_first = begins, link_tail = tails
    cdef int32_t[::1] queue = numpy.zeros(switches + 1, numpy.int32)
    cdef uint8_t[::1] waiting = numpy.zeros(switches, numpy.uint8)
    with nogil:
        for goal in range(n):
            queue[0] = goals[goal]
            best[goals[goal], goal] = 0
            head, tail = 0, 1
            while head != tail:
                here = queue[head]
                head = head + 1 if head < switches else 0
                waiting[here] = 0
                if not transit[here] and here != goals[goal]:
                    continue
                for i in range(back_first[here], back_first[here + 1]):
                    k = back[i]
                    other = link_tail[k]
                    through = best[here, goal] + delay[k]
                    if best[other, goal] < 0 or through < best[other, goal]:
                        best[other, goal] = through
                        if not waiting[other]:
                            waiting[other] = 1
                            queue[tail] = other
                            tail = tail + 1 if tail < switches else 0
    return result


cdef class State:
    """Where each node of a problem lies.  Nodes and spots are numbers, as in the Problem."""

    cdef fos_allocation s
    cdef readonly object problem
    cdef readonly object capsule
    cdef readonly object spot, load, delay, bound, cpu_used, memory_used
    cdef list kept

    def __cinit__(self):
        memset(&self.s, 0, sizeof(self.s))

    def __init__(self, problem, seed=1):
        """Make a state in which nothing lies anywhere."""
        cdef fos_allocation *s = &self.s
        self.problem, self.kept = problem, []
        s.servers, s.spots, s.nodes = problem.servers, problem.spots, problem.nodes
        s.edges, s.services, s.paths = problem.edges, problem.services, problem.paths
        s.links, s.attaches, s.switches = problem.links, problem.attaches, problem.switches
        s.cpu_cap, s.memory_cap = self.ints(problem.cpu_cap), self.ints(problem.memory_cap)
        s.attach, s.up, s.down = self.ints(problem.attach), self.ints(problem.up), self.ints(problem.down)
        s.out_delay, s.in_delay = self.ints(problem.out_delay), self.ints(problem.in_delay)
        s.inner, s.inner_delay = self.ints(problem.inner), self.ints(problem.inner_delay)
        s.rack_first, s.rack_server = self.ints(problem.rack_first), self.ints(problem.rack_server)
        s.cap = self.longs(problem.capacity)
        s.switch_first, s.switch_to = self.ints(problem.switch_first), self.ints(problem.switch_to)
        s.switch_link, s.switch_delay = self.ints(problem.switch_link), self.ints(problem.switch_delay)
        s.transit = self.bytes(problem.transit)
        s.attach_switch, s.distance = self.ints(problem.attach_switch), self.ints(problem.distance)
        s.node_first, s.edge_first = self.ints(problem.node_first), self.ints(problem.edge_first)
        s.path_first, s.node_service = self.ints(problem.path_first), self.ints(problem.node_service)
        s.cpu, s.memory, s.kind = self.ints(problem.cpu), self.ints(problem.memory), self.bytes(problem.kind)
        s.choice_first, s.choice = self.ints(problem.choice_first), self.ints(problem.choice)
        s.touch_first, s.touch = self.ints(problem.touch_first), self.ints(problem.touch)
        s.tail, s.head, s.least = self.ints(problem.tail), self.ints(problem.head), self.ints(problem.least)
        s.traffic = self.longs(problem.traffic)
        s.hop_first, s.hop = self.ints(problem.hop_first), self.ints(problem.hop)
        self.bound = numpy.array(problem.bound, numpy.int32)
        s.bound = self.ints(self.bound)
        self.spot = numpy.full(s.nodes, -1, numpy.int32)
        self.cpu_used, self.memory_used = numpy.zeros(s.servers, numpy.int32), numpy.zeros(s.servers, numpy.int32)
        self.load = numpy.zeros(s.links, numpy.int64)
        self.delay = numpy.array(problem.least_delay, numpy.int32)
        s.spot, s.cpu_used = self.ints(self.spot), self.ints(self.cpu_used)
        s.memory_used, s.delay = self.ints(self.memory_used), self.ints(self.delay)
        s.load = self.longs(self.load)
        s.member = self.ints(numpy.full(s.servers, -1, numpy.int32))
        s.member_next = self.ints(numpy.full(s.nodes, -1, numpy.int32))
        s.member_prev = self.ints(numpy.full(s.nodes, -1, numpy.int32))
        s.route = <int32_t *> calloc(<size_t> s.attaches * s.attaches, sizeof(int32_t))
        if s.route == NULL:
            raise MemoryError
        s.delay_over = int(numpy.maximum(self.delay - self.bound, 0).sum())
        s.seed = seed
        self.capsule = PyCapsule_New(s, "fos_allocation", NULL)
        for node, spot in problem.fixed:
            self.place(node, spot)

    def __dealloc__(self):
        free(self.s.route)
        free(self.s.pool)
        free(self.s.other_key)
        free(self.s.other)

    cdef int32_t *ints(self, array) except? NULL:
        cdef int32_t[::1] view = array
        self.kept.append(view)
        return &view[0] if view.shape[0] else NULL

    cdef int64_t *longs(self, array) except? NULL:
        cdef int64_t[::1] view = array
        self.kept.append(view)
        return &view[0] if view.shape[0] else NULL

    cdef uint8_t *bytes(self, array) except? NULL:
        cdef uint8_t[::1] view = array
        self.kept.append(view)
        return &view[0] if view.shape[0] else NULL

    @property
    def score(self):
        """The sum of the violations, in parts (UNIT) of the tables' units."""
        return fos_score(&self.s)

    @property
    def over(self):
        """The violations: CPU in 0.01 core, memory in MB, bandwidth in bit/s, delay."""
        return self.s.cpu_over, self.s.memory_over, self.s.bandwidth_over, self.s.delay_over

    cdef int check_node(self, int32_t node) except -1:
        if not 0 <= node < self.s.nodes:
            raise UsageError(f"node {node}: there are {self.s.nodes}")
        return 0

    def place(self, int32_t node, int32_t spot):
        """Put a node on a spot, from wherever it lies."""
        self.check_node(node)
        if not 0 <= spot < (self.s.servers if self.s.kind[node] == 1 else self.s.spots):
            raise UsageError(f"node {node}: it cannot lie on spot {spot}")
        if self.s.spot[node] >= 0:
            fos_clear(&self.s, node)
        if not fos_connects(&self.s, node, spot):
            raise UsageError(f"node {node}: no path leads from spot {spot} to a neighbour, or back")
        fos_place(&self.s, node, spot)
        if self.s.failed:
            raise MemoryError

    def clear(self, int32_t node):
        """Take a node away; nothing happens if it lies nowhere."""
        self.check_node(node)
        if self.s.spot[node] >= 0:
            fos_clear(&self.s, node)

    def set_bound(self, int32_t path, int32_t bound):
        """Change the bound on a path's delay."""
        if not 0 <= path < self.s.paths:
            raise UsageError(f"path {path}: there are {self.s.paths}")
        fos_set_bound(&self.s, path, bound)

    def route(self, int32_t tail, int32_t head):
        """Give the links of the path from one spot to another, between their attach points."""
        cdef int32_t length, i
        cdef const int32_t *links = fos_route(&self.s, tail, head, &length)
        if self.s.failed:
            raise MemoryError
        return [links[i] for i in range(length)]

    def routes(self, int32_t tail, int32_t head):
        """Give the number of routes that there are to choose from between two spots."""
        if self.s.attach[tail] == self.s.attach[head]:
            return 1
        cdef int32_t place = fos_routes(&self.s, self.s.attach[tail], self.s.attach[head])
        if place < 0:
            raise MemoryError
        return self.s.pool[place]

    def reroute(self, int32_t tail, int32_t head, int32_t choice):
        """Send what flows from one spot to another along route number `choice`."""
        if not 0 <= choice < self.routes(tail, head):
            raise UsageError(f"route {choice}: there are {self.routes(tail, head)} from spot {tail} to spot {head}")
        if fos_reroute(&self.s, tail, head, choice):
            raise MemoryError

    def rerouted(self):
        """Give what does not take its hashed route, as (from, to, choice)."""
        return [(<int64_t> (self.s.other_key[i] - 1) >> 32, <int64_t> ((self.s.other_key[i] - 1) & 0xffffffff), self.s.other[i])
                for i in range(self.s.other_room) if self.s.other_key[i]]

    def _check(self):
        """Compute everything anew from where the nodes lie; AssertionError if the books differ."""
        problem, spot = self.problem, self.spot
        cpu, memory = numpy.zeros(problem.servers, int), numpy.zeros(problem.servers, int)
        load = numpy.zeros(problem.links, int)
        lies = (problem.kind == 1) & (spot >= 0)
        numpy.add.at(cpu, spot[lies], problem.cpu[lies])
        numpy.add.at(memory, spot[lies], problem.memory[lies])
        hops = numpy.array(problem.least, int)
        for edge in range(problem.edges):
            tail, head = int(spot[problem.tail[edge]]), int(spot[problem.head[edge]])
            if tail < 0 or head < 0:
                continue
            if tail == head:
                hops[edge] = problem.inner_delay[tail]
                load[problem.inner[tail]] += problem.traffic[edge]
                continue
            links = [link for link in (problem.up[tail], *self.route(tail, head), problem.down[head]) if link >= 0]
            hops[edge] = problem.link_delay[links].sum()
            load[links] += problem.traffic[edge]
        delay = [hops[problem.hop[problem.hop_first[path]:problem.hop_first[path + 1]]].sum()
                 for path in range(problem.paths)]
        assert (cpu == self.cpu_used).all() and (memory == self.memory_used).all()
        assert (load == self.load).all() and (numpy.array(delay, int) == self.delay).all()
        assert self.over == tuple(int(numpy.maximum(used - room, 0).sum()) for used, room in (
            (cpu, problem.cpu_cap), (memory, problem.memory_cap), (load, problem.capacity),
            (self.delay.astype(int), self.bound)))
        for server in range(problem.servers):
            members, node = [], self.s.member[server]
            while node >= 0:
                members.append(node)
                node = self.s.member_next[node]
            assert sorted(members) == numpy.flatnonzero(lies & (spot == server)).tolist()
