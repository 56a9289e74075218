"""Which established connections a change of plan touches (D3.2 §2.2.1: it must disrupt none).

A connection whose end changes hands either stays with its old machine until it ends, pinned there by a
rule of its own (balancing_rules.pins), or its state migrates to the new one.  Where the old machine
leaves there is no choice.  Behind a hash group the switch alone knows which machine has it.
"""
from typing import NamedTuple

import numpy

from flowos.services.balancing_plan import Plan


class Transition(NamedTuple):
    """What becomes of connections: lists of (connection, machine before, machine after).

    `stay` lists those that can stay where they are, `migrate` those whose machine leaves; `unknown`
    those that a hash group held or receives, with the group as {machine: weight}.  The others are not touched.
    """

    stay: list
    migrate: list
    unknown: list

    def pins(self):
        """Give what stays as `balancing_rules.pins` takes it."""
        return [(connection.proto, tuple(connection.a), tuple(connection.b), before) for connection, before, _ in self.stay]


def transition(before, after, connections):
    """Sort connections by what a change of plan does to them.

    A connection has `proto`, `a` and `b`, each (address, port or None), `a` at the platform's first port,
    as flowos.Connection has.  O(connections * bits).
    """
    connections = list(connections)
    found = Transition([], [], [])
    there = {machine.name for machine in after.machines}
    for connection, was, will in zip(connections, owners(before, connections), owners(after, connections)):
        if was == will and isinstance(was, str):
            continue
        if isinstance(was, str) and was not in there:
            found.migrate.append((connection, was, will))
        elif isinstance(was, str) and isinstance(will, str):
            found.stay.append((connection, was, will))
        else:
            found.unknown.append((connection, was, will))
    return found


def owners(plan: Plan, connections):
    """Give the owner of each connection, as `Plan.described` names it."""
    keys = [[] for _ in plan.tables]
    places = []
    for connection in connections:
        end = connection.a if plan.space.end == "src" else connection.b
        tree, key = plan.space.key(end[0], end[1], connection.proto)
        places.append((tree, len(keys[tree])))
        keys[tree].append(key)
    found = [table.owners(numpy.frombuffer(b"".join(mine), "u1").reshape(len(mine), table.width)) if mine else ()
             for table, mine in zip(plan.tables, keys)]
    names = {}
    result = []
    for tree, at in places:
        number = int(found[tree][at])
        if number not in names:
            names[number] = plan.described(number)
        result.append(names[number])
    return result
