"""What others would do with the same traffic: the rivals of D3.2 §2.2.3.

`wang` is the partitioning of Wang, Butnariu, Rexford: OpenFlow-based server load balancing gone
wild (Hot-ICE 2011): traffic is taken to be uniform, and weights are rounded so that they add up to a power of
two.  `hashed` is the switch's hash over connections (ECMP), by the 5-tuple or by the end that is
balanced on.  Both are evaluated on the load that came, not on what they assume.
"""
import hashlib
import math
from typing import NamedTuple

import numpy

from flowos import UsageError
from flowos.services.balancing_plan import Fleet, Plan
from flowos.services.balancing_table import PrefixTable


class Traffic(NamedTuple):
    """One connection's part in the load: its protocol, its ends (address, port or None), how much it carried."""

    proto: str
    a: tuple
    b: tuple
    load: float


def weights_of(machines, imbalance=1.1, most=20):
    """Give whole weights that add up to a power of two and are near the capacities.

    The least power with which no weight is over its share by more than `imbalance`, at most 2**`most`;
    what rounding down leaves goes to the largest remainders.

    >>> from flowos.services.balancing_plan import Machine
    >>> weights_of([Machine("a"), Machine("b"), Machine("c", 2.0)])
    [1, 1, 2]
    """
    parts = Fleet(machines).shares
    for power in range(math.ceil(math.log2(len(parts))), most + 1):
        exact = parts * (1 << power)
        weights = numpy.floor(exact).astype(int)
        left = (1 << power) - int(weights.sum())
        weights[numpy.argsort(weights - exact, kind="stable")[:left]] += 1
        if weights.min() > 0 and (weights / exact).max() <= imbalance:
            return weights.tolist()
    raise UsageError(f"{len(parts)} machines: no weights up to 2**{most} come within {imbalance} of the capacities")


def wang(space, machines, imbalance=1.1):
    """Divide every tree of a space as if its traffic were uniform: a Plan.

    A machine of weight w gets a prefix per bit set in w; larger prefixes are laid out first, so all
    are aligned.
    """
    machines = Fleet(machines)
    weights = weights_of(machines, imbalance)
    power = sum(weights).bit_length() - 1
    pieces = sorted(((bit, index) for index, weight in enumerate(weights) for bit in range(power + 1) if weight >> bit & 1),
                    key=lambda piece: (-piece[0], piece[1]))
    tables = []
    for tree in space.trees:
        if power > tree.bits:
            raise UsageError(f"{1 << power} parts do not fit into {tree.bits} bits")
        table, at = PrefixTable(tree.bits, 0), 0
        for bit, index in pieces:
            length = power - bit
            table.add((at << (8 * tree.width - power)).to_bytes(tree.width, "big"), length, index)
            at += 1 << bit
        tables.append(table.aggregated())
    return Plan(space, machines, tables)


class Hashed(NamedTuple):
    """What hashing does: the imbalance, and how many ends, of how many, have connections on several machines.

    `torn_load` is their part of the load.
    """

    imbalance: float
    torn: int
    ends: int
    torn_load: float


def hashed(space, machines, connections, by="5tuple", seed=0):
    """Hash connections (Traffic) to machines by their 5-tuple or by the `end` that is balanced on.

    A machine's chance is its part of the capacity; both directions of a connection have one hash.  O(connections).
    """
    if by not in ("5tuple", "end"):
        raise UsageError(f"hashing is by 5tuple or by end, not {by!r}")
    machines = Fleet(machines)
    edges = numpy.cumsum(machines.shares)
    keys, ends, loads = [], {}, []
    for connection in connections:
        end = space.key(*(connection.a if space.end == "src" else connection.b), connection.proto)
        both = connection.proto, *sorted((connection.a, connection.b), key=repr)
        text = repr((seed, end) if by == "end" else (seed, *both))
        keys.append(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2 ** 64)
        loads.append(connection.load)
        ends.setdefault(end, []).append(len(keys) - 1)
    if not keys:
        return Hashed(1.0, 0, 0, 0.0)
    where = numpy.minimum(numpy.searchsorted(edges, keys, side="right"), len(machines) - 1)
    loads = numpy.array(loads, float)
    mine = numpy.bincount(where, loads, len(machines))
    torn = [members for members in ends.values() if len({int(where[at]) for at in members}) > 1]
    return Hashed(float((mine / machines.shares).max() / max(mine.sum(), 1e-300)), len(torn), len(ends),
                  float(sum(loads[members].sum() for members in torn) / max(loads.sum(), 1e-300)))


def compare(loads, machines, connections=None, imbalance=1.1):
    """Give what each rival would do: a list of {"rival", "imbalance", "prefixes", "torn"}, None where it does not apply."""
    found = []
    plan = wang(loads.space, machines, imbalance)
    found.append({"rival": "Wang et al.", "imbalance": plan.imbalance(loads), "prefixes": len(plan), "torn": None})
    if connections is not None:
        connections = list(connections)
        for name, by in (("5-tuple hash", "5tuple"), (f"hash of {loads.space.on}", "end")):
            result = hashed(loads.space, machines, connections, by)
            found.append({"rival": name, "imbalance": result.imbalance, "prefixes": None, "torn": result.torn_load})
    return found
