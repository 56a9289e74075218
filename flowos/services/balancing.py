"""Balance traffic over machines by prefixes: the algorithm of D3.2 §2.2, made for heavy tails too.

`balance` is pure: loads and machines in, a `Balance` out, that is a plan, what it does to the
machines, and what no plan could do better (`unsplittable`, `bound`).  A controller makes one plan at the start.
Then it polls the servers for their loads, mends the plan when the imbalance grows
(balancing_mend.py), and installs its rules (balancing_rules.py); which connections must stay or
move with a change, balancing_moves.py says.
"""
import math
from typing import NamedTuple

import numpy

from flowos import UsageError
from flowos.services.balancing_greedy import shed
from flowos.services.balancing_loads import Loads
from flowos.services.balancing_plan import Fleet, Machine, Plan
from flowos.services.balancing_space import Space
from flowos.services.balancing_table import PrefixTable
from flowos.services.radix import CHUNK

__all__ = ["Balance", "Fleet", "Loads", "Machine", "Move", "Plan", "Space", "balance"]

#: The most load a machine may have over what it is meant to have, and the chunk threshold as a part
#: of the mean load (§2.2.5, §2.2.7).
IMBALANCE, CHUNK_THRESHOLD = 1.1, 0.2

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


def limits(loads, imbalance, chunk, finest):
    """Check the parameters; give the finest lengths of the trees."""
    for value, least, name in ((imbalance, 1, "the maximum imbalance"), (chunk, 0, "the chunk threshold")):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < math.inf:
            raise UsageError(f"{name} is a number from {least}, not {value!r}")
    finest = loads.space.finest() if finest is None else tuple(finest)
    if len(finest) != len(loads.trees) or not all(0 <= n <= tree.bits for n, tree in zip(finest, loads.trees)):
        raise UsageError(f"the finest prefixes {finest} do not fit: see Space.finest")
    return finest


def grain(quotas, imbalance):
    """Give the load below which a chunk is not split: a small part of the overload that is allowed to the smallest machine."""
    return quotas.min() * max((imbalance - 1) / 16, 1 / 4096)


def _roots(trees):
    """Give the chunks that the trees of load are as a whole."""
    chunks = numpy.zeros(len(trees), CHUNK)
    chunks["tree"] = range(len(trees))
    chunks["load"] = [tree.total for tree in trees]
    return chunks


def stubborn(loads, finest, quotas, imbalance):
    """List what cannot be split and exceeds every ceiling, heaviest first, and give the bound it sets."""
    most = quotas.max()
    heaviest = sorted(((load, loads.space.format(number, key, length))
                       for number, (tree, length) in enumerate(zip(loads.trees, finest))
                       for key, load in tree.heavy(length, most * (1 + 1e-9))), reverse=True)
    bound = heaviest[0][0] / most if heaviest else 1.0
    return [(prefix, load) for load, prefix in heaviest if load > most * imbalance * (1 + 1e-9)], bound


def write(tables, chunks, owners, base):
    """Enter what `shed` moved into the tables; its group g becomes owner base + g."""
    if len(owners) and owners.min() < 0:
        owners = numpy.where(owners < 0, base - 2 - owners, owners).astype("<i4")
    for number, table in enumerate(tables):
        mine = chunks["tree"] == number if len(tables) > 1 else slice(None)
        table.extend(chunks[mine], owners[mine])


def balance(loads, machines, imbalance=IMBALANCE, chunk=CHUNK_THRESHOLD, finest=None, share=False):
    """Make a plan from nothing by the greedy of §2.2.4.

    `imbalance` is the maximum allowed, `chunk` the chunk threshold as a part of the mean load.
    `finest` (Space.finest) bounds how long prefixes may get; `share` allows hash groups for
    what is too hot even so.  Without any load it is taken to be uniform (§2.2.5).
    O(prefixes * bits * log(prefixes)).  UsageError: parameters out of range, no machines.

    >>> loads = Loads.uniform(Space("src"))
    >>> made = balance(loads, [Machine("a"), Machine("b"), Machine("c", 2.0)])
    >>> made.plan.machines[2].name, made.imbalance <= 1.1, len(made.plan)
    ('c', True, 4)
    """
    machines = Fleet(machines)
    finest = limits(loads, imbalance, chunk, finest)
    if loads.total <= 0:
        loads = Loads.uniform(loads.space)
    total = loads.total
    quotas = total * machines.shares
    default = int(quotas.argmax())
    mine = numpy.zeros(len(machines))
    mine[default] = total
    chunks, owners, groups, _ = shed(mine, quotas, quotas * imbalance, default, _roots(loads.trees), loads.trees, finest,
                                     chunk * total / len(machines), grain(quotas, imbalance), share)
    tables = [PrefixTable(tree.bits, default) for tree in loads.trees]
    write(tables, chunks, owners, len(machines))
    plan = Plan(loads.space, machines, tables, groups)
    return Balance(plan, mine, quotas, *stubborn(loads, finest, quotas, imbalance),
                   int(((chunks["node"] < 0) & (chunks["load"] > 0)).sum()))
