"""Machines, and the plan that says which of them gets which part of the key space.

A plan is a table of prefixes per tree of the space, the longest match deciding; the prefix of
length 0 is the default machine's (D3.2 §2.2.4).  An owner in a table is a machine's index or, from
`len(machines)` on, a hash group: machines that share one prefix by weights.  Plans do not change;
they are compared, evaluated on loads, and kept as JSON.
"""
import json
import math
from typing import NamedTuple

import numpy

from flowos import UsageError
from flowos.services.balancing_space import CHOICES, Space
from flowos.services.balancing_table import PrefixTable


#: The last number of a real port (OpenFlow 1.0; the 16-bit numbers that Open vSwitch uses with all versions).
LAST_PORT = 0xfeff


class Machine(NamedTuple):
    """A server that traffic is balanced to; `capacity` in any unit, `port` its OpenFlow port if known."""

    name: str
    capacity: float = 1.0
    port: int | None = None


class Fleet(tuple):
    """Machines that were checked, once: what a controller hands in again and again.

    `shares` is the part of the load that each machine is meant to have, in proportion to its
    capacity; they add up to 1.  UsageError: no machine, a name twice, a capacity or port that is none.

    >>> Fleet([Machine("a"), Machine("b", 3.0)]).shares.tolist()
    [0.25, 0.75]
    """

    def __new__(cls, machines):
        if isinstance(machines, cls):
            return machines
        self = super().__new__(cls, machines)
        if not self:
            raise UsageError("there are no machines to balance to")
        names, ports = set(), set()
        for name, capacity, port in self:
            if not isinstance(name, str) or not name or name in names:
                raise UsageError(f"machine {name!r}: expected a name that no other machine has")
            if isinstance(capacity, bool) or not isinstance(capacity, (int, float)) or not 0 < capacity < math.inf:
                raise UsageError(f"machine {name}: its capacity is a number above 0, not {capacity!r}")
            if port is not None and (isinstance(port, bool) or not isinstance(port, int) or not 0 < port <= LAST_PORT
                                     or port in ports):
                raise UsageError(f"machine {name}: its port is a number from 1 to {LAST_PORT} that no other machine has, "
                                 f"not {port!r}")
            names.add(name)
            ports.add(port)
            ports.discard(None)
        capacities = numpy.array([machine.capacity for machine in self], float)
        self.shares = capacities / capacities.sum()
        return self


class Plan:
    """Who gets what: `space`, `machines`, one `PrefixTable` per tree, and hash groups.

    `groups` is a list of {machine index: weight}.  `default` is the index of the machine that owns the
    whole space but for the prefixes.

    >>> prefixes = [("0.0.0.0/0", "a"), ("10.0.0.0/8", "b"), ("::/0", "a")]
    >>> plan = Plan.of_prefixes(Space("src"), [Machine("a"), Machine("b")], prefixes)
    >>> plan.owner("10.1.1.1"), plan.owner("2001:db8::1"), len(plan)
    ('b', 'a', 3)
    """

    def __init__(self, space, machines, tables, groups=()):
        self.space = space
        self.machines = Fleet(machines)
        self.tables = tuple(tables)
        self.groups = tuple(groups)

    def __len__(self):
        """Count the prefixes, those of the default machine included."""
        return sum(len(table.prefixes()) for table in self.tables)

    def prefixes(self):
        """List (prefix, owner): owner is a machine's name, or for a hash group {name: weight}."""
        return [(self.space.format(tree, key, length), self.described(owner))
                for tree, table in enumerate(self.tables) for key, length, owner in table.prefixes()]

    def described(self, owner):
        """Name an owner: a machine's name, or for a hash group {name: weight}."""
        if owner < len(self.machines):
            return self.machines[owner].name
        return {self.machines[index].name: weight for index, weight in self.groups[owner - len(self.machines)].items()}

    def owner(self, address="0.0.0.0", port=None, proto="tcp"):
        """Say who gets the traffic of an end: a machine's name, or for a hash group {name: weight}."""
        tree, key = self.space.key(address, port, proto)
        return self.described(int(self.tables[tree].owners(numpy.frombuffer(key, "u1")[None, :])[0]))

    def divide(self, by_owner):
        """Turn loads by owner into loads by machine: groups are divided by their weights, what follows is left out."""
        count = len(self.machines)
        loads = numpy.zeros(count)
        loads[:] = by_owner[:count]
        for number, group in enumerate(self.groups):
            total = sum(group.values())
            for index, weight in group.items():
                loads[index] += by_owner[count + number] * weight / total
        return loads

    def loads(self, loads):
        """Give the load of every machine, were `loads` the traffic: an array.  O(prefixes * bits)."""
        by_owner = numpy.zeros(len(self.machines) + len(self.groups))
        for number, (table, tree) in enumerate(zip(self.tables, loads.trees)):
            chunks, owners, _ = table.partition(tree, number)
            by_owner += numpy.bincount(owners, chunks["load"], len(by_owner))
        return self.divide(by_owner)

    def imbalance(self, loads):
        """Give the load of the machine that is overworked most over what it is meant to have (§2.2.4); 1 without load."""
        mine = self.loads(loads)
        return float((mine / self.machines.shares).max() / mine.sum()) if mine.sum() > 0 else 1.0

    @classmethod
    def of_prefixes(cls, space, machines, prefixes):
        """Make a plan of (prefix, machine's name or {name: weight}) pairs.

        UsageError: a machine that is not there, a prefix twice or badly written, a tree without default.
        """
        machines = Fleet(machines)
        index = {machine.name: number for number, machine in enumerate(machines)}
        found, groups = {}, []
        for prefix, owner in prefixes:
            place = space.parse(prefix)
            if place in found:
                raise UsageError(f"the prefix {prefix} has two owners")
            for name in owner if isinstance(owner, dict) else (owner,):
                if not isinstance(name, str) or name not in index:
                    raise UsageError(f"the prefix {prefix} belongs to {name!r}, which is none of the machines")
            if isinstance(owner, dict):
                if not owner or not all(isinstance(w, (int, float)) and not isinstance(w, bool) and 0 < w < math.inf
                                        for w in owner.values()):
                    raise UsageError(f"the prefix {prefix} is shared by weights above 0, not {owner!r}")
                groups.append({index[name]: float(weight) for name, weight in owner.items()})
                found[place] = len(machines) + len(groups) - 1
            else:
                found[place] = index[owner]
        tables = []
        for number, tree in enumerate(space.trees):
            default = found.get((number, bytes(tree.width), 0))
            if default is None:
                raise UsageError(f"the plan has no default machine for {tree.family}: "
                                 f"expected an owner of {space.format(number, bytes(tree.width), 0)}")
            table = PrefixTable(tree.bits, default)
            for (which, key, length), owner in found.items():
                if which == number:
                    table.add(key, length, owner)
            tables.append(table)
        return cls(space, machines, tables, groups)

    def to_json(self):
        """Give the plan as what `json` can write."""
        return {"on": self.space.on, "machines": [machine._asdict() for machine in self.machines],
                "prefixes": [{"prefix": prefix, "machine": owner} if isinstance(owner, str) else
                             {"prefix": prefix, "shared": owner} for prefix, owner in self.prefixes()]}

    @classmethod
    def from_json(cls, data):
        """Make a plan of what `to_json` gave.  UsageError names the field that is wrong."""
        expect(data, dict, "the plan", ("on", "machines", "prefixes"))
        if not isinstance(data["on"], str) or data["on"] not in CHOICES:
            raise UsageError(f"on: expected one of {', '.join(CHOICES)}, not {data['on']!r}")
        machines = machines_of(data)
        expect(data["prefixes"], list, "prefixes")
        pairs = []
        for number, entry in enumerate(data["prefixes"]):
            where = f"prefixes[{number}]"
            owner = "shared" if isinstance(entry, dict) and "shared" in entry else "machine"
            expect(entry, dict, where, ("prefix", owner))
            if owner == "shared":
                expect(entry["shared"], dict, f"{where}.shared")
            pairs.append((entry["prefix"], entry[owner]))
        return cls.of_prefixes(Space(data["on"]), machines, pairs)


def machines_of(data):
    """Read {"machines": [{"name", "capacity", "port"}, …]}; capacity and port may be left out."""
    expect(data, dict, "the file", ("machines",), others=True)
    expect(data["machines"], list, "machines")
    machines = []
    for number, entry in enumerate(data["machines"]):
        where = f"machines[{number}]"
        expect(entry, dict, where, ("name",), ("capacity", "port"))
        machines.append(Machine(entry["name"], entry.get("capacity", 1.0), entry.get("port")))
    return Fleet(machines)


def expect(value, kind, where, fields=(), optional=(), others=False):
    """Check the shape of a piece of JSON: its kind, the fields that it must have and those it may."""
    if not isinstance(value, kind):
        raise UsageError(f"{where}: expected {'an object' if kind is dict else 'a list'}, not {value!r:.60}")
    for field in fields:
        if field not in value:
            raise UsageError(f"{where}: {field!r} is missing")
    if kind is dict and fields and not others:
        for field in value:
            if field not in fields and field not in optional:
                raise UsageError(f"{where}: {field!r} is no field; expected {', '.join((*fields, *optional))}")


def read_json(text, name, make):
    """Read a JSON text and make something of it; UsageError begins with the file's name."""
    try:
        return make(json.loads(text))
    except json.JSONDecodeError as error:
        raise UsageError(f"{name}, line {error.lineno}: not JSON: {error.msg}") from None
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None
