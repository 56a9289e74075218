"""Allocate services to a platform (D3.2 §3.2): which server for each module, which paths between them.

    allocate     a solution for all services at once, or a proof that there is none
    Allocator    services that arrive and leave one by one (allocation_online.py)
    evaluate     what a solution violates (allocation_check.py)

All are pure: records in (allocation_model.py), a Solution or a list of actions out; nothing is read,
written or printed, and a run is a function of its arguments, the seed, and the time it is given.
`allocate` first looks for a proof that no solution exists, then packs whole services per rack, and
spends what time is left on the objective.
"""
import time
from dataclasses import asdict

import numpy

from flowos import UsageError
from flowos.services.allocation_bounds import least_delays, prove
from flowos.services.allocation_check import evaluate
from flowos.services.allocation_model import Platform, Service, Solution, Violations
from flowos.services.allocation_online import Allocator
from flowos.services.allocation_packing import Packer
from flowos.services.allocation_problem import FREE, Problem
from flowos.services.allocation_state import UNIT, State
from flowos.services.allocation_tabu import Tabu, complete, greedy

__all__ = ["Allocator", "Platform", "Service", "Solution", "allocate", "evaluate", "solution_of"]

OBJECTIVES = ("feasible", "delay", "max-bandwidth")
SOLVERS = ("packing", "tabu", "greedy", "exact")
#: Seconds between two calls of `progress`.
BEAT = 0.25
#: The share of the time that packing may use before tabu search takes over what it could not place.
PACKING_SHARE = 0.7
#: Steps of bisection of the largest share of bandwidth: 1/1024 is finer than one flow of 0.1 Gb/s in 10.
BISECTIONS = 10

#: Times that a service without place is allowed one unit of delay more, before its own bound is.
LEVELS = 8
#: Rounds of ruin and recreate that one service may cost that looks for a faster place.
TIGHTEN_ROUNDS = 400


class _Watch:
    """The time of one run, its progress, and the history of violations (for figures 3.3 and 3.4)."""

    def __init__(self, seconds, progress):
        self.begun, self.seconds, self.progress = time.monotonic(), seconds, progress
        self.history = []

    def left(self):
        return self.begun + self.seconds - time.monotonic()

    def note(self, phase, violations, unplaced=0):
        """Remember and show how far it is: seconds, what is done, total violations, services without place."""
        self.history.append((round(time.monotonic() - self.begun, 6), phase, violations, unplaced))
        self.show(phase, violations, unplaced)

    def show(self, phase, violations, unplaced=0):
        """Show how far it is."""
        if self.progress is not None:
            self.progress(time.monotonic() - self.begun, phase, violations, unplaced)


def allocate(platform, services, delay_bound=None, objective="feasible", time_limit=60.0, solver="packing", seed=1,
             progress=None):
    """Find places and paths for all services.

    Parameters: `delay_bound` replaces the bound of every path; `objective` is "feasible" (any
    solution without violations), "delay" (least sum of the services' delays) or "max-bandwidth"
    (least share of the fullest link); `time_limit` in seconds; `solver` is "packing", or of the
    source "tabu" and "greedy", or "exact" (CP-SAT, an optional package, for small instances);
    `progress(seconds, phase, violations, unplaced)` is called now and then.
    Returns a Solution: "feasible", "infeasible" with a proof, or "unknown", complete but for the
    violations it has, when the time is over.  UsageError for a parameter that is none.
    Source: D3.2 §3.2.1 to §3.2.3.
    """
    if objective not in OBJECTIVES:
        raise UsageError(f"objective {objective!r}: expected one of {', '.join(OBJECTIVES)}")
    if solver not in SOLVERS:
        raise UsageError(f"solver {solver!r}: expected one of {', '.join(SOLVERS)}")
    if objective != "feasible" and solver not in ("packing", "exact"):
        raise UsageError(f"objective {objective}: solver {solver} only looks for a feasible solution")
    if isinstance(time_limit, bool) or not isinstance(time_limit, (int, float)) or not time_limit > 0:
        raise UsageError(f"time limit: expected a number of seconds over 0, not {time_limit!r}")
    if delay_bound is not None and (isinstance(delay_bound, bool) or not isinstance(delay_bound, int) or delay_bound < 0):
        raise UsageError(f"delay bound: expected a whole number from 0, not {delay_bound!r}")
    watch = _Watch(time_limit, progress)
    problem = Problem(platform, services, delay_bound)
    if solver in ("greedy", "tabu"):
        return _source(problem, solver, seed, watch)
    proof = prove(problem)
    if proof:
        return Solution("infeasible", proof=proof, statistics={"seconds": time.monotonic() - watch.begun})
    if solver == "exact":
        from flowos.services.allocation_exact import solve

        return solve(problem, objective, watch.left())
    if objective == "delay":
        return _least_delay(problem, seed, watch)
    state, packer = _pack(problem, seed, watch, PACKING_SHARE)
    if objective == "max-bandwidth" and state.score == 0 and not packer.unplaced:
        return _least_bandwidth(problem, state, seed, watch)
    return _finish(state, packer, watch)


def _source(problem, solver, seed, watch):
    """Run the source's searches: greedy, then tabu search until the time is over."""
    state = State(problem, seed)
    misses = greedy(state)
    watch.note("greedy", state.score / UNIT)
    statistics = {"greedy_misses": misses, "greedy_violations": asdict(_violations(state)),
                  "greedy_seconds": round(time.monotonic() - watch.begun, 3)}
    if solver == "tabu":
        _tabu(state, watch, statistics)
    return solution_of(state, watch, statistics)


def _tabu(state, watch, statistics):
    """Search until nothing is violated or the time is over; the state is the best found."""
    if (state.spot < 0).any():
        return
    search = Tabu(state)
    while search.best > 0 and watch.left() > 0:
        search.run(min(BEAT, watch.left()))
        watch.show("tabu", search.best / UNIT)
    watch.history += [(round(at - watch.begun, 6), "tabu", score / UNIT, 0) for at, score in search.trace]
    watch.note("tabu", search.best / UNIT)
    for node in numpy.flatnonzero(state.spot != search.best_spot).tolist():
        state.place(node, int(search.best_spot[node]))
    statistics["tabu_moves"] = search.moves


def _pack(problem, seed, watch, share=1.0):
    """Pack services until all have a place or the time is over; give the state and the packer."""
    state = State(problem, seed)
    packer = Packer(state)
    end = watch.begun + watch.seconds * share
    packer.fill(end - time.monotonic())
    watch.note("fill", None, len(packer.unplaced))
    _repair(packer, end, watch)
    return state, packer


def _repair(packer, end, watch):
    while packer.unplaced and time.monotonic() < end:
        packer.repair(min(BEAT, end - time.monotonic()))
        watch.note("repair", None, len(packer.unplaced))


def _finish(state, packer, watch):
    """Place what has no place with violations, and let tabu search reduce them while there is time."""
    statistics = {"inserts": packer.inserts, "rounds": packer.rounds}
    if packer.unplaced:
        statistics["unplaced"] = len(packer.unplaced)
        complete(state)
        watch.note("complete", state.score / UNIT)
        _tabu(state, watch, statistics)
    return solution_of(state, watch, statistics)


def _least_delay(problem, seed, watch):
    """Minimise the sum of delays: each service first asks for the least it could have alone on the platform.

    One that finds no place with its paths bounded by d is tried with d + 1, and so on up to its own
    bound.  When all have a place, each that is slower than it could be looks for a faster one.  The
    statistics tell the sum that was reached, and the sum of what each takes at least.
    """
    floor = least_delays(problem)
    own = problem.bound.copy()
    per_path = numpy.repeat(numpy.arange(problem.services), numpy.diff(problem.path_first))
    state = State(problem, seed)
    for path, bound in enumerate(numpy.minimum(own, floor[per_path]).tolist()):
        state.set_bound(path, bound)
    packer = Packer(state)
    for level in range(1, LEVELS + 1):
        packer.fill(watch.left())
        packer.repair(min(watch.left(), watch.seconds / (4 * LEVELS)))
        watch.note("delay", None, len(packer.unplaced))
        if not packer.unplaced or watch.left() <= 0:
            break
        more = 1 if level < LEVELS else FREE
        for service in packer.unplaced:
            for path in range(problem.path_first[service], problem.path_first[service + 1]):
                state.set_bound(path, min(int(own[path]), int(state.bound[path]) + more))
    packer.fill(watch.left())
    _repair(packer, watch.begun + watch.seconds * PACKING_SHARE, watch)
    if not packer.unplaced:
        _tighten(problem, state, packer, floor, watch)
    for path in range(problem.paths):
        state.set_bound(path, int(own[path]))
    solution = _finish(state, packer, watch)
    solution.statistics.update(total_delay=int(_service_delays(problem, state).sum()), total_delay_bound=int(floor.sum()))
    return solution


def _service_delays(problem, state):
    return numpy.array([state.delay[problem.path_first[service]:problem.path_first[service + 1]].max(initial=0)
                        for service in range(problem.services)], int)


def _tighten(problem, state, packer, floor, watch):
    """Let each service that takes longer than it could alone look for a faster place; nobody gets slower.

    Passes go on until the time is over or one of them found nothing.
    """
    improved = True
    while improved:
        improved, delays = False, _service_delays(problem, state)
        for service in range(problem.services):
            for path in range(problem.path_first[service], problem.path_first[service + 1]):
                state.set_bound(path, min(int(state.bound[path]), int(delays[service])))
        for service in numpy.flatnonzero(delays > floor).tolist():
            if watch.left() <= 0:
                return
            nodes = slice(problem.node_first[service], problem.node_first[service + 1])
            paths = range(problem.path_first[service], problem.path_first[service + 1])
            lay, bounds = state.spot[nodes].copy(), state.bound[paths.start:paths.stop].tolist()
            packer.leave(service)
            for path in paths:
                state.set_bound(path, int(delays[service]) - 1)
            if packer.arrive(service, TIGHTEN_ROUNDS):
                improved = True
                continue
            for path, bound in zip(paths, bounds):
                state.set_bound(path, bound)
            packer.put_back(service, lay)
        watch.note("delay", None, 0)


def _least_bandwidth(problem, state, seed, watch):
    """Minimise the share of the fullest link by bisection: each step asks for a packing on narrower links."""
    capacity = problem.capacity
    used = capacity > 0
    low = _least_share(problem)
    bound, high, best = low, float((state.load[used] / capacity[used]).max(initial=0)), state
    for step in range(BISECTIONS):
        if high - low < 1e-9 or watch.left() <= 0:
            break
        middle = (low + high) / 2
        problem.capacity = (capacity * middle).astype(numpy.int64)
        try:
            if prove(problem) is not None:
                bound = middle
            else:
                share = _Watch(watch.left() / (BISECTIONS - step), None)
                trial, packer = _pack(problem, seed, share)
                if not packer.unplaced:
                    best = trial
                    high = float((trial.load[used] / capacity[used]).max(initial=0))
                    watch.note("bandwidth", high)
                    continue
        finally:
            problem.capacity = capacity
        low = middle
    return solution_of(best, watch, {"max_bandwidth": high, "max_bandwidth_bound": bound})


def _least_share(problem):
    """Give a share of bandwidth that some link reaches in every solution: what sources bring to their I/O switch."""
    traffic, out = numpy.zeros(problem.spots, numpy.int64), numpy.zeros(problem.spots, numpy.int64)
    for node, spot in problem.fixed:
        edges = problem.touch[problem.touch_first[node]:problem.touch_first[node + 1]]
        traffic[spot] += problem.traffic[edges].sum()
    for spot in range(problem.servers, problem.spots):
        switch = problem.attach_switch[problem.attach[spot]]
        out[spot] = problem.capacity[problem.switch_link[problem.switch_first[switch]:problem.switch_first[switch + 1]]].sum()
    busy = traffic > 0
    return float((traffic[busy] / out[busy]).max(initial=0)) if busy.any() else 0.0


def _violations(state):
    cpu, memory, bandwidth, delay = state.over
    return Violations(cpu, memory, bandwidth // UNIT if bandwidth % UNIT == 0 else bandwidth / UNIT, delay)


def solution_of(state, watch=None, statistics=None):
    """Give a state as a Solution with names, and the path between each two spots that talk."""
    problem, spot = state.problem, state.spot.tolist()
    names = problem.spot_names
    placement = {}
    for number, record in enumerate(problem.service_records):
        first = int(problem.node_first[number])
        placement[record.name] = {node.name: names[spot[first + at]] for at, node in enumerate(record.nodes)
                                  if spot[first + at] >= 0}
    links, paths = problem.platform.links, {}
    for tail, head in dict.fromkeys(zip(state.spot[problem.tail].tolist(), state.spot[problem.head].tolist())):
        if tail < 0 or head < 0 or tail == head:
            continue
        way = [link for link in (int(problem.up[tail]), *state.route(tail, head), int(problem.down[head])) if link >= 0]
        paths[names[tail], names[head]] = (names[tail], *(links[link].head for link in way))
    over = _violations(state)
    whole = bool((state.spot >= 0).all())
    statistics = dict(statistics or {})
    if watch is not None:
        statistics["seconds"] = round(time.monotonic() - watch.begun, 3)
        statistics["history"] = watch.history
    return Solution("feasible" if whole and not over else "unknown", placement, paths, over, "", statistics)
