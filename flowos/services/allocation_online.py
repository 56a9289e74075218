"""Services that arrive and leave: few moves of those that run (the source's future work, §3.2.5).

`Allocator` keeps a feasible allocation.  An arrival gets a place without any move if there is one;
otherwise some running services are taken out of one rack or two and put back in another order, with
ever more of them, until all fit; the smallest set of moves that was found is made.  Every call gives
the actions that a controller has to carry out, in an order in which they can be carried out one after
another only where servers have slack: `Move` is state migration, and its two ends overlap.
"""
from typing import NamedTuple

import numpy

from flowos import UsageError
from flowos.services.allocation_packing import Packer
from flowos.services.allocation_problem import Problem
from flowos.services.allocation_state import State


class Place(NamedTuple):
    """Start a node of a service on a server, or a sink at an I/O switch."""

    service: str
    node: str
    to: str


class Move(NamedTuple):
    """Move a running node (allocation.py never moves sources)."""

    service: str
    node: str
    origin: str
    to: str


class Remove(NamedTuple):
    """Stop a node."""

    service: str
    node: str
    origin: str


class Allocator:
    """A feasible allocation of a changing set of services.

    `services` is the catalogue of those that may arrive: arrays are made for all of them at once.
    `learn` makes them anew for others.
    `effort` is the number of ruin-and-recreate rounds that an arrival may cost.  Errors are
    UsageErrors: an unknown service, one that runs already, one that does not.

    >>> from flowos.services.allocation_generate import basic_platform, services
    >>> allocator = Allocator(basic_platform(), services(basic_platform(), 8))
    >>> [type(action).__name__ for action in allocator.arrive("network-access-control-0")]
    ['Place', 'Place', 'Place', 'Place']
    >>> len(allocator.leave("network-access-control-0")), allocator.running
    (4, [])
    """

    def __init__(self, platform, services, delay_bound=None, *, effort=2000, seed=1):
        self.platform, self.delay_bound, self.effort, self.seed = platform, delay_bound, effort, seed
        self.arrivals = self.refused = self.moves = 0
        self._make(services, {}, ())

    def _make(self, services, running, routes):
        """Make the arrays of a catalogue; `running` is {service: spots of its nodes}."""
        self._catalogue = tuple(services)
        self.problem = Problem(self.platform, self._catalogue, self.delay_bound)
        self.state = State(self.problem, self.seed)
        for node, _ in self.problem.fixed:          # a source loads nothing until its service runs
            self.state.clear(node)
        for route in routes:
            self.state.reroute(*route)
        for name, spots in running.items():
            first = int(self.problem.node_first[self.problem.service_of[name]])
            for at, spot in enumerate(spots):
                self.state.place(first + at, spot)
        self.packer = Packer(self.state, waiting=False)

    def learn(self, services):
        """Replace the catalogue by what runs and `services`; nothing that runs is touched.

        O(size of the new catalogue): some 0.1 s for 10,000 services.  UsageError if a name is taken.
        """
        running = {}
        for name in self.running:
            number = self.problem.service_of[name]
            running[name] = self.state.spot[self.problem.node_first[number]:self.problem.node_first[number + 1]].tolist()
        for service in services:
            if service.name in running:
                raise UsageError(f"service {service.name}: it runs already")
        kept = [record for record in self._catalogue if record.name in running]
        self._make((*kept, *services), running, self.state.rerouted())

    @property
    def running(self):
        """The names of the services that have a place."""
        return [record.name for number, record in enumerate(self.problem.service_records) if self.packer.runs(number)]

    def statistics(self):
        """Give counters: arrivals, those refused, nodes moved."""
        return {"arrivals": self.arrivals, "refused": self.refused, "moves": self.moves}

    def _number(self, name, runs):
        number = self.problem.service_of.get(name)
        if number is None:
            raise UsageError(f"service {name}: not in the catalogue")
        if self.packer.runs(number) is not runs:
            raise UsageError(f"service {name}: it {'does not run' if runs else 'runs already'}")
        return number

    def arrive(self, name):
        """Start a service; give the actions, or None if no place was found: then nothing changed."""
        number = self._number(name, False)
        self.arrivals += 1
        paths = slice(self.problem.path_first[number], self.problem.path_first[number + 1])
        if (self.problem.least_delay[paths] > self.problem.bound[paths]).any():
            self.refused += 1
            return None
        before = self.state.spot.copy()
        for node, spot in self._sources(number):
            self.state.place(node, spot)
        if not self.packer.arrive(number, self.effort):
            for node, _ in self._sources(number):
                self.state.clear(node)
            self.refused += 1
            return None
        actions = self._difference(before)
        self.moves += sum(isinstance(action, Move) for action in actions)
        return actions

    def leave(self, name):
        """Stop a service; give the actions."""
        number = self._number(name, True)
        before = self.state.spot.copy()
        self.packer.leave(number)
        for node, _ in self._sources(number):
            self.state.clear(node)
        return self._difference(before)

    def _sources(self, number):
        first, last = self.problem.node_first[number], self.problem.node_first[number + 1]
        return [(node, int(self.problem.choice[self.problem.choice_first[node]])) for node in range(first, last)
                if self.problem.kind[node] == 0]

    def _difference(self, before):
        """Give the actions that lead from where nodes lay to where they lie; sources need none."""
        problem, spot, actions = self.problem, self.state.spot, []
        for node in numpy.flatnonzero((before != spot) & (problem.kind != 0)).tolist():
            service = problem.service_records[problem.node_service[node]].name
            was, now = int(before[node]), int(spot[node])
            name = problem.node_names[node]
            if was < 0:
                actions.append(Place(service, name, problem.spot_names[now]))
            elif now < 0:
                actions.append(Remove(service, name, problem.spot_names[was]))
            else:
                actions.append(Move(service, name, problem.spot_names[was], problem.spot_names[now]))
        order = {Remove: 0, Move: 1, Place: 2}
        return sorted(actions, key=lambda action: order[type(action)])
