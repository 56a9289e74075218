"""Mend a plan: for loads that changed, machines that came or went, moving little and adding few prefixes.

In the order of the work: a plan is carried over to the machines that are there now; those that
left give away all they had, those that are overloaded what they have too much, and those that came get
their part from whoever has most (`shed` in balancing_greedy.pyx each time, with another donor). Then the
prefixes are made as few as say the same, and if they are too many all the same, a fresh plan is
taken, its parts given to those who own most of them already.
"""
import numpy

from flowos import UsageError
from flowos.services.balancing import CHUNK_THRESHOLD, IMBALANCE, balance
from flowos.services.balancing_plan import Fleet, Plan
from flowos.services.balancing_work import SETTLE, SLACK, Move, Work, renamed

#: Prefixes per machine beyond which a fresh plan is looked for: the source claims fewer for one.
PREFIXES_PER_MACHINE = 3


def rebalance(plan, loads, machines=None, imbalance=IMBALANCE, chunk=CHUNK_THRESHOLD, finest=None, share=False,
              most=None):
    """Mend a plan for new loads and machines (None: the same ones): a `Balance` with its moves.

    Machines are known by name.  `most` is how many prefixes the plan may have before it is given
    up for a fresh one with fewer (None: 3 per machine).  The other parameters and errors are those of `balance`.
    O(prefixes * bits + overloaded machines * machines).

    >>> from flowos.services.balancing import Loads, Machine, Space
    >>> loads = Loads.uniform(Space("src"), 90.0)
    >>> made = balance(loads, [Machine("a"), Machine("b"), Machine("c")])
    >>> fewer = rebalance(made.plan, loads, [Machine("a"), Machine("b")])
    >>> {move.before for move in fewer.moves}, bool(fewer.imbalance <= 1.1)
    ({'c'}, True)
    """
    machines = plan.machines if machines is None else Fleet(machines)
    if loads.space != plan.space:
        raise UsageError(f"the plan balances on {plan.space.on}, the loads are on {loads.space.on}")
    work = Mending(plan, loads, machines, imbalance, chunk, finest, share)
    work.leave()
    work.relieve()
    work.join()
    made, loads = work.balance(work.plan()), work.loads
    if len(made.plan) > (PREFIXES_PER_MACHINE * len(machines) + len(loads.trees) if most is None else most):
        fresh = balance(loads, machines, imbalance, chunk, finest, share)
        if len(fresh.plan) < len(made.plan):
            made = _familiar(fresh, plan, loads)
    return made._replace(moves=moves(plan, made.plan, loads))


class Mending(Work):
    """A plan on its way to other loads or machines."""

    def __init__(self, plan, loads, machines, imbalance, chunk, finest, share):
        index = {machine.name: number for number, machine in enumerate(machines)}
        heirs, after = [], len(machines)
        for machine in plan.machines:
            heirs.append(index.get(machine.name, after))
            after += machine.name not in index
        super().__init__(loads, machines, imbalance, chunk, finest, share, after - len(machines))
        self.known = {heir for heir in heirs if heir < self.there}
        self.inherit(plan, heirs)

    def inherit(self, plan, heirs):
        """Carry the tables over, and the hash groups that are still right.

        A group stays while its members do, its load is more than the smallest of them would carry with ease, and
        no part is too much for its machine; the heaviest member of any other gets the prefix, to be shared anew if need be.
        """
        before, self.groups = len(plan.machines), []
        by_owner = _by_owner(plan.tables, self.loads, before + len(plan.groups))
        heirs = list(heirs)
        for number, group in enumerate(plan.groups):
            load, total = by_owner[before + number], sum(group.values())
            members = {heirs[member]: weight for member, weight in group.items()}
            if max(members) < self.there and load > SETTLE * min(self.ceilings[member] for member in members) and \
                    all(load * weight / total <= self.ceilings[member] * SLACK for member, weight in members.items()):
                heirs.append(self.base + len(self.groups))
                self.groups.append(members)
            else:                                         # one that is there before one that left
                heirs.append(min(members, key=lambda member: (member >= self.there, -members[member])))
        self.tables = tuple(renamed(table, heirs) for table in plan.tables)
        by_owner = _by_owner(self.tables, self.loads, self.base + len(self.groups))
        self.mine = by_owner[:self.base].copy()
        for group, load in zip(self.groups, by_owner[self.base:]):
            for member, weight in group.items():
                self.mine[member] += load * weight / sum(group.values())

    def leave(self):
        """Let the machines that left give everything away; the space where there is no load, to who has most room."""
        if self.base == self.there:
            return
        part = self.parts()
        names = list(range(self.base + len(self.groups)))
        for leaver in sorted(range(self.there, self.base), key=lambda leaver: -self.mine[leaver]):
            self.shed(leaver, part(leaver), 0.0)
        names += range(len(names), self.base + len(self.groups))
        for leaver in range(self.there, self.base):
            heir = names[leaver] = int((self.quotas - self.mine)[:self.there].argmax())
            self.mine[heir] += self.mine[leaver]
            self.mine[leaver] = 0.0
        for group in self.groups:                         # a leaver may hold the rest of what it shared
            for member in [member for member in group if member >= self.there]:
                group[names[member]] = group.get(names[member], 0.0) + group.pop(member)
        self.tables = tuple(renamed(table, names) for table in self.tables)

    def join(self):
        """Give those that came their part, in chunks of those that have most."""
        new = [machine for machine in range(self.there) if machine not in self.known]
        if not new:
            return
        part, least = self.parts(), self.quotas * (1 - self.margin)
        for donor in numpy.argsort(-self.mine[:self.there] / self.quotas[:self.there]).tolist():
            if all(self.mine[machine] >= least[machine] for machine in new):
                return
            if donor in self.known and self.mine[donor] > least[donor]:
                self.shed(donor, part(donor), least[donor], least[donor], new, stay=True)


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
    """List what changes hands between two plans of one space: the fewest prefixes, in the order of keys."""
    known, listed = _common(before, after), []
    for number, (old, new, tree) in enumerate(zip(before.tables, after.tables, loads.trees)):
        chunks, now, then = new.partition(tree, number, old)
        bits, found = 8 * tree.width, []
        for at in numpy.flatnonzero(known[1][now] != known[0][then]).tolist():
            length = int(chunks["length"][at])
            value = int.from_bytes(chunks["bits"][at].tobytes()[:tree.width], "big") >> (bits - length)
            change, load = (int(then[at]), int(now[at])), float(chunks["load"][at])
            while found and value & 1 and found[-1][:3] == (value - 1, length, change):      # two halves make a whole
                load += found.pop()[3]
                value, length = value >> 1, length - 1
            found.append((value, length, change, load))
        for value, length, (was, will), load in found:
            key = (value << (bits - length)).to_bytes(tree.width, "big")
            listed.append(Move(loads.space.format(number, key, length), before.described(was), after.described(will), load))
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
    names = [becomes[new] for new in range(count)] + list(range(count, count + len(plan.groups)))
    groups = [{becomes[member]: weight for member, weight in group.items()} for group in plan.groups]
    mine = numpy.empty(count)
    mine[names[:count]] = fresh.loads
    return fresh._replace(plan=Plan(plan.space, plan.machines, [renamed(table, names) for table in plan.tables], groups),
                          loads=mine)
