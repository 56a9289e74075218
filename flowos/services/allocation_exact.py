"""The exact rival: the whole problem as a model for OR-tools' CP-SAT (an optional package).

For small instances only, to say how far the searches are from the optimum, and to prove that there
is no solution where the bounds (allocation_bounds.py) cannot.  One Boolean per module and server,
one per sink and I/O switch, one per pair of spots and route, and one per edge and pair of spots that
it may join: the model grows with edges x servers², and is refused beyond LARGEST.  It searches the
same space as the others: routes are least-delay paths, up to 16 between two attach points.
"""
import time

import numpy

from flowos import FlowOSError, UsageError
from flowos.services.allocation_model import Solution
from flowos.services.allocation_problem import FREE
from flowos.services.allocation_state import State

#: Pairs of spots over all edges; half as many again took CP-SAT over a minute to read.
LARGEST = 200_000
#: The steps in which a share of bandwidth is minimised.
STEPS = 100_000


def solve(problem, objective, seconds):
    """Solve a problem to optimality, if the time is enough; statistics tell the bound that was proved."""
    try:
        from ortools.sat.python import cp_model
    except ImportError:
        raise FlowOSError("solver exact: OR-tools is not installed; install flowos[exact]") from None
    begun = time.monotonic()
    model = _Model(problem, cp_model.CpModel())
    model.minimise(objective)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.max_time_in_seconds = max(seconds - (time.monotonic() - begun), 0.1)
    status = solver.solve(model.model)
    spent = {"seconds": round(time.monotonic() - begun, 3)}
    if status == cp_model.INFEASIBLE:
        return Solution("infeasible", proof="CP-SAT: the search space is exhausted", statistics=spent)
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Solution("unknown", statistics=spent)
    if objective != "feasible":
        scale = STEPS if objective == "max-bandwidth" else 1
        spent |= {"objective": solver.objective_value / scale, "objective_bound": solver.best_objective_bound / scale}
    return model.solution(solver, spent)


class _Model:
    """The variables and constraints of a problem."""

    def __init__(self, problem, model):
        self.problem, self.model, self.state = problem, model, State(problem)
        self.at = {}                                # (node, spot): Boolean
        self.routes, self.taken = {}, {}            # (from, to): [links]; (from, to, route): Boolean
        self.loads = [[] for _ in range(problem.links)]
        self.hops = [[] for _ in range(problem.edges)]
        self._check_size()
        self._places()
        for edge in range(problem.edges):
            self._edge(edge)
        self.share = None
        for link, terms in enumerate(self.loads):
            if terms:
                model.add(sum(terms) <= int(problem.capacity[link]))
        for path, bound in enumerate(problem.bound.tolist()):
            if bound < FREE:
                model.add(self._delay(path) <= bound)

    def _spots(self, node):
        problem = self.problem
        if problem.kind[node] == 1:
            return range(problem.servers)
        return problem.choice[problem.choice_first[node]:problem.choice_first[node + 1]].tolist()

    def _check_size(self):
        size = sum(len(self._spots(tail)) * len(self._spots(head))
                   for tail, head in zip(self.problem.tail.tolist(), self.problem.head.tolist()))
        if size > LARGEST:
            raise UsageError(f"solver exact: {size:,} variables for edges, more than {LARGEST:,}; it is for small instances")

    def _places(self):
        """Put every node on one spot, within CPU and memory."""
        problem, model = self.problem, self.model
        for node in range(problem.nodes):
            spots = self._spots(node)
            for spot in spots:
                self.at[node, spot] = model.new_bool_var("")
            model.add_exactly_one(self.at[node, spot] for spot in spots)
        modules = numpy.flatnonzero(problem.kind == 1).tolist()
        for server in range(problem.servers):
            for need, room in ((problem.cpu, problem.cpu_cap), (problem.memory, problem.memory_cap)):
                model.add(sum(int(need[node]) * self.at[node, server] for node in modules) <= int(room[server]))

    def _ways(self, tail, head):
        """Give the routes between two spots, as lists of links with the access links, and choose one."""
        if (tail, head) not in self.routes:
            problem, state, ways = self.problem, self.state, []
            for choice in range(state.routes(tail, head)):
                if problem.attach[tail] != problem.attach[head]:
                    state.reroute(tail, head, choice)
                links = (problem.up[tail], *state.route(tail, head), problem.down[head])
                ways.append([int(link) for link in links if link >= 0])
            self.routes[tail, head] = ways
            if len(ways) > 1:
                for choice in range(len(ways)):
                    self.taken[tail, head, choice] = self.model.new_bool_var("")
                self.model.add_exactly_one(self.taken[tail, head, choice] for choice in range(len(ways)))
        return self.routes[tail, head]

    def _edge(self, edge):
        """Load the links that an edge uses, wherever its ends lie."""
        problem, model = self.problem, self.model
        first, second = int(problem.tail[edge]), int(problem.head[edge])
        traffic = int(problem.traffic[edge])
        for tail in self._spots(first):
            for head in self._spots(second):
                both = self._both([self.at[first, tail], self.at[second, head]])
                if tail == head:
                    self.loads[problem.inner[tail]].append(traffic * both)
                    self.hops[edge].append(int(problem.inner_delay[tail]) * both)
                    continue
                ways = self._ways(tail, head)
                if not ways:
                    model.add(both == 0)
                    continue
                self.hops[edge].append(int(problem.link_delay[ways[0]].sum()) * both)
                for choice, links in enumerate(ways):
                    used = both if len(ways) == 1 else self._both([both, self.taken[tail, head, choice]])
                    for link in links:
                        self.loads[link].append(traffic * used)

    def _both(self, parts):
        """Give a Boolean that is true if all parts are; nothing gains from its being true otherwise."""
        both = self.model.new_bool_var("")
        self.model.add_bool_or(both, *(part.negated() for part in parts))
        for part in parts:
            self.model.add_implication(both, part)
        return both

    def _delay(self, path):
        hops = self.problem.hop[self.problem.hop_first[path]:self.problem.hop_first[path + 1]]
        return sum(term for edge in hops.tolist() for term in self.hops[edge])

    def minimise(self, objective):
        """Set the objective."""
        problem, model = self.problem, self.model
        if objective == "delay":
            longest = []
            for service in range(problem.services):
                longest.append(model.new_int_var(0, FREE, ""))
                for path in range(problem.path_first[service], problem.path_first[service + 1]):
                    model.add(longest[-1] >= self._delay(path))
            model.minimize(sum(longest))
        elif objective == "max-bandwidth":
            self.share = model.new_int_var(0, STEPS, "")
            for link, terms in enumerate(self.loads):
                if terms:
                    room = int(problem.capacity[link])
                    model.add(sum(terms) * STEPS <= room * self.share)
            model.minimize(self.share)

    def solution(self, solver, statistics):
        """Read the solution that was found."""
        from flowos.services.allocation import solution_of

        state = State(self.problem)
        for (node, spot), here in self.at.items():
            if solver.boolean_value(here):
                state.place(node, spot)
        for (tail, head, choice), here in self.taken.items():
            if solver.boolean_value(here):
                state.reroute(tail, head, choice)
        return solution_of(state, None, statistics)
