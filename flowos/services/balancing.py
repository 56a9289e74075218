"""Balance traffic over machines by prefixes: the algorithm of D3.2 §2.2, made for heavy tails too.

    balance      a fresh plan for loads and machines
    rebalance    a plan near an old one, for loads that changed, machines that came or went

Both are pure: loads in, a `Balance` out, that is a plan, what it does to the machines, what had to
be moved, and what no plan could do better (`unsplittable`, `bound`).  A controller polls the servers
for their loads, calls `rebalance` when the imbalance grows, and installs the rules of the plan
(balancing_rules.py); which connections must stay or move with it, balancing_moves.py says.
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

__all__ = ["Balance", "Fleet", "Loads", "Machine", "Move", "Plan", "Space", "balance", "rebalance"]

#: The most load a machine may have over what it is meant to have, and the chunk threshold as a part
#: of the mean load (§2.2.5, §2.2.7).
IMBALANCE, CHUNK_THRESHOLD = 1.1, 0.2
#: A re-balance aims at this part of the allowed imbalance above and below the quota: a machine left
#: at the limit itself would move traffic again with the next small rise.
SETTLE = 0.5
#: A re-balance that would leave more prefixes than this per machine starts afresh: the source's
#: claim for a fresh plan is fewer than 3.
PREFIXES_PER_MACHINE = 3


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


def _limits(loads, imbalance, chunk, finest):
    """Check the parameters; give the finest lengths of the trees."""
    for value, least, name in ((imbalance, 1, "the maximum imbalance"), (chunk, 0, "the chunk threshold")):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < math.inf:
            raise UsageError(f"{name} is a number from {least}, not {value!r}")
    finest = loads.space.finest() if finest is None else tuple(finest)
    if len(finest) != len(loads.trees) or not all(0 <= n <= tree.bits for n, tree in zip(finest, loads.trees)):
        raise UsageError(f"the finest prefixes {finest} do not fit: see Space.finest")
    return finest


def _grain(quotas, imbalance):
    """Give the load below which a chunk is not split: a small part of the overload that is allowed to the smallest machine."""
    return quotas.min() * max((imbalance - 1) / 16, 1 / 4096)


def _roots(trees):
    """Give the chunks that the trees of load are as a whole."""
    chunks = numpy.zeros(len(trees), CHUNK)
    chunks["tree"] = range(len(trees))
    chunks["load"] = [tree.total for tree in trees]
    return chunks


def _stubborn(loads, finest, quotas, imbalance):
    """List what cannot be split and exceeds every ceiling, heaviest first, and give the bound it sets."""
    most = quotas.max()
    heaviest = sorted(((load, loads.space.format(number, key, length))
                       for number, (tree, length) in enumerate(zip(loads.trees, finest))
                       for key, load in tree.heavy(length, most * (1 + 1e-9))), reverse=True)
    bound = heaviest[0][0] / most if heaviest else 1.0
    return [(prefix, load) for load, prefix in heaviest if load > most * imbalance * (1 + 1e-9)], bound


def _write(tables, chunks, owners, base):
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
    finest = _limits(loads, imbalance, chunk, finest)
    if loads.total <= 0:
        loads = Loads.uniform(loads.space)
    total = loads.total
    quotas = total * machines.shares
    default = int(quotas.argmax())
    mine = numpy.zeros(len(machines))
    mine[default] = total
    chunks, owners, groups, _ = shed(mine, quotas, quotas * imbalance, default, _roots(loads.trees), loads.trees, finest,
                                     chunk * total / len(machines), _grain(quotas, imbalance), share)
    tables = [PrefixTable(tree.bits, default) for tree in loads.trees]
    _write(tables, chunks, owners, len(machines))
    plan = Plan(loads.space, machines, tables, groups)
    return Balance(plan, mine, quotas, *_stubborn(loads, finest, quotas, imbalance),
                   int(((chunks["node"] < 0) & (chunks["load"] > 0)).sum()))


def rebalance(plan, loads, machines=None, imbalance=IMBALANCE, chunk=CHUNK_THRESHOLD, finest=None, share=False,
              most=None):
    """Mend a plan for new loads and machines (None: the same ones), moving little.

    What machines that left owned goes to those with most room, prefix by prefix; then each
    overloaded machine sheds chunks as the default machine does in `balance`, but only down to half-way
    between its quota and the allowed overload; and machines that came get their part from those who have most.  The prefixes are then made as few as say the same; should
    there be more than `most` all the same (3 per machine unless said otherwise), a fresh plan is taken whose parts are
    given to those who own most of them now.  Machines are known by name.  Errors as `balance`.
    """
    machines = plan.machines if machines is None else Fleet(machines)
    if loads.space != plan.space:
        raise UsageError(f"the plan balances on {plan.space.on}, the loads are on {loads.space.on}")
    finest = _limits(loads, imbalance, chunk, finest)
    most = PREFIXES_PER_MACHINE * len(machines) + len(loads.trees) if most is None else most
    if loads.total <= 0:
        loads = Loads.uniform(loads.space)
    total = loads.total
    quotas = total * machines.shares
    ceilings, assumed = quotas * imbalance, 0
    tables, mine, groups = _inherit(plan, loads, machines, quotas, ceilings)
    defaults = {table.prefixes()[0][2] for table in tables}
    margin = (imbalance - 1) * SETTLE
    known = {machine.name for machine in plan.machines}
    new = numpy.array([machine.name not in known for machine in machines])
    for receivers, givers in _rounds(mine, quotas, ceilings, new, margin):
        parts = [table.partition(tree, number)[:2] for number, (table, tree) in enumerate(zip(tables, loads.trees))]
        chunks = numpy.concatenate([part[0] for part in parts])
        owners = numpy.concatenate([part[1] for part in parts])
        for donor in givers:
            low, high = quotas[donor] * (1 - margin), quotas[donor] * (1 + (margin if receivers is None else -margin))
            rooms = quotas.copy()
            if receivers is not None:
                rooms[~receivers & (numpy.arange(len(machines)) != donor)] = 0
            moved, whose, shared, _ = shed(
                mine, rooms, ceilings, donor,
                chunks[owners == donor], loads.trees, finest, chunk * total / len(machines), _grain(quotas, imbalance),
                share and receivers is None, high, low, donor not in defaults)
            _write(tables, moved, whose, len(machines) + len(groups))
            groups += shared
            assumed += int(((moved["node"] < 0) & (moved["load"] > 0)).sum())
    made = Plan(plan.space, machines, [table.aggregated() for table in tables], groups)
    if len(made) > most:
        fresh = _familiar(balance(loads, machines, imbalance, chunk, finest, share), plan, loads)
        if len(fresh.plan) < len(made):
            return fresh._replace(moves=moves(plan, fresh.plan, loads))
    return Balance(made, mine, quotas, *_stubborn(loads, finest, quotas, imbalance), assumed, moves(plan, made, loads))


def _rounds(mine, quotas, ceilings, new, margin):
    """Yield (receivers, givers) of each round of a re-balance: the overloaded give to all, the fullest to who is new.

    `mine` changes while a round is played.
    """
    overloaded = [int(i) for i in numpy.argsort(-mine / quotas) if mine[i] > ceilings[i] * (1 + 1e-9)]
    if overloaded:
        yield None, overloaded

    def fullest():
        for giver in numpy.argsort(-mine / quotas):
            hungry = new & (mine < quotas * (1 - margin))
            if not hungry.any():
                return
            if not new[giver] and mine[giver] > quotas[giver] * (1 - margin):
                yield int(giver)

    if new.any():
        yield new, fullest()


def _inherit(plan, loads, machines, quotas, ceilings):
    """Carry a plan over to other machines: tables, the load of each machine, and the groups that stay.

    A hash group stays while its members do, its prefix is too hot for one machine and none of its
    parts is; otherwise its heaviest member that is still there gets the prefix.  A prefix of a machine that left
    goes to the one with most room when its turn comes, heaviest first.
    """
    index = {machine.name: number for number, machine in enumerate(machines)}
    heirs = [index.get(machine.name) for machine in plan.machines]
    before, count = len(plan.machines), len(machines)
    by_owner = _by_owner(plan.tables, loads, before + len(plan.groups))
    groups = []
    for number, group in enumerate(plan.groups):
        load, total = by_owner[before + number], sum(group.values())
        members = {heirs[member]: weight for member, weight in group.items() if heirs[member] is not None}
        if len(members) == len(group) and load > ceilings.max() * SETTLE and \
                all(load * weight / total <= ceilings[member] for member, weight in members.items()):
            heirs.append(count + len(groups))
            groups.append(members)
        else:
            heirs.append(max(members, key=members.get) if members else None)
    tables, orphans = [], []
    for number, (table, tree) in enumerate(zip(plan.tables, loads.trees)):
        carried = None
        for key, length, owner in table.prefixes():
            heir = heirs[owner]
            if heir is None:                              # an owner of its own, until its load is known
                heir = count + len(groups) + len(orphans)
                orphans.append((number, key, length))
            if carried is None:                           # the first prefix is the whole space
                carried = PrefixTable(tree.bits, heir)
            else:
                carried.add(key, length, heir)
        tables.append(carried)
    fixed = count + len(groups)
    by_owner = _by_owner(tables, loads, fixed + len(orphans))
    mine = Plan(plan.space, machines, tables, groups).divide(by_owner)
    for orphan in sorted(range(len(orphans)), key=lambda orphan: -by_owner[fixed + orphan]):
        number, key, length = orphans[orphan]
        heir = int((quotas - mine).argmax())
        mine[heir] += by_owner[fixed + orphan]
        tables[number].add(key, length, heir)
    return tables, mine, groups


def _by_owner(tables, loads, owners):
    """Give the load of each of so many owners: an array."""
    found = numpy.zeros(owners)
    for number, (table, tree) in enumerate(zip(tables, loads.trees)):
        chunks, whose, _ = table.partition(tree, number)
        found += numpy.bincount(whose, chunks["load"], owners)
    return found


def _common(before, after):
    """Number the owners of two plans alike: an array from each plan's owners to numbers, equal where the owner is."""
    numbers, found = {}, []
    for plan in (before, after):
        names = [plan.described(owner) for owner in range(len(plan.machines) + len(plan.groups))]
        keys = [name if isinstance(name, str) else tuple(sorted(name.items())) for name in names]
        found.append(numpy.array([numbers.setdefault(key, len(numbers)) for key in keys]))
    return found


def moves(before, after, loads):
    """List what changes hands between two plans of one space, in the order of keys."""
    known, listed = _common(before, after), []
    for number, (old, new, tree) in enumerate(zip(before.tables, after.tables, loads.trees)):
        chunks, now, then = new.partition(tree, number, old)
        for at in numpy.flatnonzero(known[1][now] != known[0][then]):
            piece = chunks[at]
            key = piece["bits"].tobytes()[:loads.space.trees[number].width]
            listed.append(Move(loads.space.format(number, key, int(piece["length"])), before.described(int(then[at])),
                               after.described(int(now[at])), float(piece["load"])))
    return listed


def _familiar(fresh, old, loads):
    """Exchange machines of one capacity in a fresh plan so that most of what they own stays with its owner."""
    plan = fresh.plan
    count, names = len(plan.machines), {machine.name: number for number, machine in enumerate(plan.machines)}
    overlap = {}
    for number, (table, before, tree) in enumerate(zip(plan.tables, old.tables, loads.trees)):
        chunks, now, then = table.partition(tree, number, before)
        for new, was, load in zip(now.tolist(), then.tolist(), chunks["load"].tolist()):
            if new < count and was < len(old.machines):
                name = names.get(old.machines[was].name)
                if name is not None and plan.machines[name].capacity == plan.machines[new].capacity:
                    overlap[new, name] = overlap.get((new, name), 0.0) + load
    becomes, taken = {}, set()
    for (new, name), _ in sorted(overlap.items(), key=lambda item: (-item[1], item[0])):
        if new not in becomes and name not in taken:
            becomes[new] = name
            taken.add(name)
    for new in range(count):                             # the rest keeps within its capacity
        if new not in becomes:
            becomes[new] = next(name for name in range(count) if name not in taken and
                                plan.machines[name].capacity == plan.machines[new].capacity)
            taken.add(becomes[new])
    tables = []
    for table in plan.tables:
        renamed = None
        for key, length, owner in table.prefixes():
            owner = becomes.get(owner, owner)
            if renamed is None:
                renamed = PrefixTable(table.bits, owner)
            else:
                renamed.add(key, length, owner)
        tables.append(renamed)
    groups = [{becomes[member]: weight for member, weight in group.items()} for group in plan.groups]
    mine = numpy.empty(count)
    mine[[becomes[new] for new in range(count)]] = fresh.loads
    return fresh._replace(plan=Plan(plan.space, plan.machines, tables, groups), loads=mine)
