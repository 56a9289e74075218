"""How the load lies in a key space: a tree of load per family, and the files it is kept in.

`Loads` is what a balancer decides on.  It is filled from packets by a server (`count`), from
connections, from those of other servers (`merge`), or from a file: a line per prefix, `PREFIX
LOAD`, where `#` begins a comment; prefixes must not overlap.
"""
import numpy

from flowos import FlowOSError, UsageError
from flowos.services.balancing_space import Space
from flowos.services.radix import LoadTree

#: Counters of a tree, unless said otherwise: half a megabyte, one 16,384th of the load each.
COUNTERS = 16384


class Loads:
    """The load of every part of a space.

    `counters` bounds the leaves of each tree that counts packets (None: no bound).

    >>> loads = Loads(Space("src"))
    >>> loads.add("10.0.0.0/8", 75)
    >>> loads.add("2001:db8::/32", 25)
    >>> loads.total, loads.load("10.128.0.0/9")
    (100.0, 37.5)
    """

    def __init__(self, space, counters=COUNTERS, seed=1):
        self.space = space
        self.trees = tuple(LoadTree(tree.bits, counters, seed + number) for number, tree in enumerate(space.trees))

    @property
    def total(self):
        """All load."""
        return sum(tree.total for tree in self.trees)

    def add(self, prefix, load):
        """Add load to a prefix, written as text."""
        tree, key, length = self.space.parse(prefix)
        self.trees[tree].add(key, length, load)

    def load(self, prefix):
        """Estimate the load of a prefix, written as text."""
        tree, key, length = self.space.parse(prefix)
        return self.trees[tree].load(key, length)

    def count(self, tree, keys, weights, every=1):
        """Count packets of one tree: keys (n, width) and weights as `LoadTree.count` takes them."""
        self.trees[tree].count(numpy.ascontiguousarray(keys, "u1"), numpy.ascontiguousarray(weights, "f8"), every)

    def merge(self, other):
        """Add the loads that another server counted."""
        if other.space != self.space:
            raise UsageError(f"loads on {self.space.on} and on {other.space.on} do not add up")
        for mine, its in zip(self.trees, other.trees):
            mine.merge(its)

    def decay(self, factor):
        """Age all load by a factor between 0 and 1: call it once per period."""
        for tree in self.trees:
            tree.decay(factor)

    def rows(self):
        """Give (prefix, load) of every counter that has load, in the order of keys."""
        return [(self.space.format(number, key, length), load)
                for number, tree in enumerate(self.trees) for key, length, load in tree.rows()]

    @classmethod
    def uniform(cls, space, load=1.0):
        """Assume what is assumed before anything was counted: the same load everywhere (§2.2.5)."""
        loads = cls(space, counters=None)
        for tree in loads.trees:
            tree.add(bytes(tree.width), 0, load / len(loads.trees))
        return loads

    @classmethod
    def of_rows(cls, space, rows):
        """Make loads of (prefix, load) pairs.  UsageError: prefixes that overlap, loads that are none."""
        loads, parsed = cls(space, counters=None), []
        for prefix, load in rows:
            tree, key, length = space.parse(prefix)
            parsed.append((tree, key, length, prefix))
            if isinstance(load, bool) or not isinstance(load, (int, float)):
                raise UsageError(f"the load of {prefix} is a number, not {load!r}")
            loads.trees[tree].add(key, length, load)
        last = None
        for tree, key, length, prefix in sorted(parsed):
            if last is not None and last[0] == tree:
                shift = space.trees[tree].bits - last[2]
                if length >= last[2] and int.from_bytes(key, "big") >> shift == int.from_bytes(last[1], "big") >> shift:
                    raise UsageError(f"the prefixes {last[3]} and {prefix} overlap: the load of each part is said once")
            last = tree, key, length, prefix
        return loads


def read_loads(lines, space, name):
    """Read a file of loads from its lines.  UsageError names the file and the line that is wrong."""
    rows = []
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].replace(",", " ").split()
        if not words:
            continue
        try:
            if len(words) != 2:
                raise UsageError(f"expected PREFIX LOAD, not {line.strip()!r}")
            space.parse(words[0])
            load = float(words[1])
            if not 0 <= load < float("inf"):
                raise ValueError
        except FlowOSError as error:
            raise UsageError(f"{name}, line {number}: {error}") from None
        except ValueError:
            raise UsageError(f"{name}, line {number}: a load is a number that is not negative, not {words[1]!r}") from None
        rows.append((words[0], load))
    if not rows:
        raise UsageError(f"{name}: no loads; expected lines of PREFIX LOAD")
    try:
        return Loads.of_rows(space, rows)
    except FlowOSError as error:
        raise UsageError(f"{name}: {error}") from None


def write_loads(loads, file):
    """Write loads as `read_loads` reads them."""
    for prefix, load in loads.rows():
        file.write(f"{prefix} {load:.17g}\n")


#: The functions of §2.2.7, which gives no parameters (those here are ours), and a heavy tail.
DISTRIBUTIONS = ("gauss-narrow", "gauss-wide", "constant", "random-uniform", "random-exponential", "zipf")


def distribution(name, bits=16, seed=1, exponent=1.0):
    """Give the loads of the 2**bits prefixes of that length: an array that adds up to 1.

    Bell curves about the middle of the space with a standard deviation of a twelfth and of a quarter of
    it; independent uniform and exponential draws; Zipf's law over prefixes in random order.
    """
    size = 1 << bits
    at, random = (numpy.arange(size) + 0.5) / size, numpy.random.default_rng(seed)
    if name == "zipf":
        values = random.permutation(numpy.arange(1, size + 1, dtype=float) ** -exponent)
    else:
        values = {"gauss-narrow": lambda: numpy.exp(-((at - 0.5) * 12) ** 2 / 2),
                  "gauss-wide": lambda: numpy.exp(-((at - 0.5) * 4) ** 2 / 2),
                  "constant": lambda: numpy.ones(size),
                  "random-uniform": lambda: random.random(size),
                  "random-exponential": lambda: random.exponential(size=size)}.get(name, lambda: None)()
    if values is None:
        raise UsageError(f"no distribution {name!r}: expected one of {', '.join(DISTRIBUTIONS)}")
    return values / values.sum()


def spread(values, space=None, tree=0):
    """Make loads of an array of 2**bits values, the loads of the prefixes of that length."""
    bits = len(values).bit_length() - 1
    loads = Loads(space or Space("src"), counters=None)
    into = loads.trees[tree]
    shift = 8 * into.width - bits
    for number, load in enumerate(values):
        into.add((number << shift).to_bytes(into.width, "big"), bits, float(load))
    return loads
