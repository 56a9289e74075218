"""A balance in the making: tables, the load of each machine, and the work of taking load off one of them.

`Work` is what a fresh plan (balancing.py) and a mended one (balancing_mend.py) have in common.  Its
arrays have an entry per machine, then one per machine that left, whose quota is 0.  An owner in its
tables is such an index or, from `base` on, a hash group.
"""
import math
from typing import NamedTuple

import numpy

from flowos import UsageError
from flowos.services.balancing_greedy import shed
from flowos.services.balancing_loads import Loads
from flowos.services.balancing_plan import Plan
from flowos.services.balancing_table import PrefixTable
from flowos.services.radix import CHUNK

#: A machine is brought to within this part of the allowed imbalance above or below its quota: one left
#: at the limit itself would move traffic again with the next small rise.
SETTLE = 0.5
#: Rounds of relief: what fits nowhere may overload whoever gets it, who then sheds in turn.
ROUNDS = 4
#: Sums of loads are compared with quotas that were computed otherwise.
SLACK = 1 + 1e-9


class Move(NamedTuple):
    """A part of the space that changes hands; owners as `Plan.described` names them."""

    prefix: str
    before: object
    after: object
    load: float


class Balance(NamedTuple):
    """A plan and what it does.

    `loads` and `quotas` are arrays with an entry per machine, in the order of `plan.machines`.
    `unsplittable` lists (prefix, load) that may not be split further and exceed what any machine
    may carry; `bound` is the least imbalance that they leave possible without hash groups (1 if there are none).
    `assumed` counts the prefixes that end below the counters: their load is a guess, to be counted finer.
    `moves` lists what changed hands against an old plan; None for a fresh plan.
    """

    plan: Plan
    loads: numpy.ndarray
    quotas: numpy.ndarray
    unsplittable: list
    bound: float
    assumed: int
    moves: list | None = None

    @property
    def imbalance(self):
        """The load of the machine that is overworked most over what it is meant to have."""
        return float((self.loads / self.quotas).max())

    @property
    def moved(self):
        """The load that changed hands; 0 for a fresh plan."""
        return sum(move.load for move in self.moves or ())


class Work:
    """Loads and machines, and how far the plan for them has got.

    `tables` and `groups` are set by whoever starts the work; `mine` are the loads of the machines.
    UsageError: parameters out of range.
    """

    def __init__(self, loads, machines, imbalance, chunk, finest, share, leavers=0):
        for value, least, name in ((imbalance, 1, "the maximum imbalance"), (chunk, 0, "the chunk threshold")):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < math.inf:
                raise UsageError(f"{name} is a number from {least}, not {value!r}")
        self.finest = loads.space.finest() if finest is None else tuple(finest)
        if len(self.finest) != len(loads.trees) or not all(0 <= n <= tree.bits for n, tree in zip(self.finest, loads.trees)):
            raise UsageError(f"the finest prefixes {self.finest} do not fit: see Space.finest")
        if not loads.total < math.inf:
            raise UsageError("the loads add up to more than a number holds")
        self.loads = loads if loads.total > 0 else Loads.uniform(loads.space)
        self.machines, self.share, self.limit = machines, share, imbalance
        self.there = len(machines)
        self.base = self.there + leavers
        self.quotas = numpy.zeros(self.base)
        self.quotas[:self.there] = self.loads.total * machines.shares
        self.ceilings = self.quotas * imbalance
        self.margin = (imbalance - 1) * SETTLE
        self.threshold = chunk * self.loads.total / self.there
        self.grain = grain(self.quotas[:self.there], imbalance, self.threshold)
        self.mine, self.tables, self.groups, self.assumed = numpy.zeros(self.base), (), [], 0

    def start(self):
        """Give everything to the machine of largest quota, and let it shed: the algorithm of §2.2.4."""
        default = int(self.quotas.argmax())
        self.mine[default] = self.loads.total
        self.tables = tuple(PrefixTable(tree.bits, default) for tree in self.loads.trees)
        roots = numpy.zeros(len(self.tables), CHUNK)
        roots["tree"] = range(len(self.tables))
        roots["load"] = [tree.total for tree in self.loads.trees]
        self.shed(default, roots, float(self.ceilings[default]))

    def shed(self, donor, chunks, goal, floor=0.0, receivers=None, stay=False):
        """Let one machine shed load down to `goal`; `receivers` (None: all) may get some."""
        rooms = self.quotas
        if receivers is not None:
            rooms = numpy.zeros(self.base)
            rooms[[*receivers, donor]] = self.quotas[[*receivers, donor]]
        moved, owners, groups = shed(self.mine, rooms, self.ceilings, donor, chunks, self.loads.trees, self.finest,
                                     self.threshold, self.grain, goal, floor, self.share and receivers is None, stay)
        if groups:
            owners = numpy.where(owners < 0, self.base + len(self.groups) - 2 - owners, owners).astype("<i4")
            self.groups += groups
        for number, table in enumerate(self.tables):
            mine = moved["tree"] == number if len(self.tables) > 1 else slice(None)
            table.extend(moved[mine], owners[mine])
        self.assumed += int(((moved["node"] < 0) & (moved["load"] > 0)).sum())

    def parts(self):
        """Give a function from a machine to the chunks that it has now."""
        found = [table.partition(tree, number)[:2]
                 for number, (table, tree) in enumerate(zip(self.tables, self.loads.trees))]
        chunks = numpy.concatenate([chunks for chunks, _ in found])
        owners = numpy.concatenate([owners for _, owners in found])
        order = numpy.argsort(owners, kind="stable")
        borders = numpy.searchsorted(owners[order], numpy.arange(self.base + 1))
        return lambda machine: chunks[order[borders[machine]:borders[machine + 1]]]

    def overloaded(self):
        """List the machines that have more than they may, the worst first."""
        worst = numpy.argsort(-self.mine[:self.there] / self.quotas[:self.there], kind="stable")
        return [int(machine) for machine in worst if self.mine[machine] > self.ceilings[machine] * SLACK]

    def relieve(self):
        """Let the overloaded shed what is too much, no further than below their quota by the margin."""
        defaults = {table.prefixes()[0][2] for table in self.tables}
        for _ in range(ROUNDS):
            donors, before = self.overloaded(), self.mine.copy()
            if not donors:
                return
            part = self.parts()
            for donor in donors:
                quota = self.quotas[donor]
                self.shed(donor, part(donor), quota * (1 + self.margin), quota * (1 - self.margin),
                          stay=donor not in defaults)
            if (self.mine == before).all():
                return

    def unsplittable(self):
        """List what cannot be split and exceeds every ceiling, heaviest first, and give the bound it sets."""
        most, space = self.quotas.max(), self.loads.space
        heaviest = sorted(((load, space.format(number, key, length))
                           for number, (tree, length) in enumerate(zip(self.loads.trees, self.finest))
                           for key, load in tree.heavy(length, most * SLACK)), reverse=True)
        bound = heaviest[0][0] / most if heaviest else 1.0
        return [(prefix, load) for load, prefix in heaviest if load > most * self.limit * SLACK], bound

    def plan(self, fewest=True):
        """Give the plan; of `fewest` prefixes that say the same, if that is asked."""
        tables = self.tables
        if self.base > self.there:                        # groups follow the machines that are there
            names = [*range(self.there), *[0] * (self.base - self.there), *range(self.there, self.there + len(self.groups))]
            tables = [renamed(table, names) for table in tables]
        if fewest:
            tables = [table.aggregated() for table in tables]
        return Plan(self.loads.space, self.machines, tables, self.groups)

    def balance(self, plan):
        """Give the result."""
        return Balance(plan, self.mine[:self.there], self.quotas[:self.there], *self.unsplittable(), self.assumed)


def grain(quotas, imbalance, threshold):
    """Give the load below which a chunk is not split.

    While a machine is overloaded another is below its quota, so half of what the smallest may have too much finds
    room, as does what is below the chunk threshold.  The other terms bound the work where hardly any imbalance is
    allowed, or capacities are wide apart.
    """
    return max(min(quotas.min() * max((imbalance - 1) / 2, 1 / 4096), threshold), quotas.mean() / 65536)


def renamed(table, names):
    """Give a table in which each owner is `names[owner]`."""
    (_, _, default), *others = table.prefixes()           # the first is the whole space
    result = PrefixTable(table.bits, names[default])
    for key, length, owner in others:
        result.add(key, length, names[owner])
    return result
