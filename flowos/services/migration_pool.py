"""State that all connections share: units of which each connection may hold one, as a NAT's ports.

A unit is in exactly one place: free at A, free at B, held by a connection, or in a message between
them.  When a migration opens, A gives B its free units at once (D3.2 §2.3.4), but for a reserve
from which it serves connections that its own groups still expect; a unit that gets free at A
during the idle phase is reported to B and is B's from then on.
"""


class Pool:
    """The free units of one machine, out of `units`, all there are.

    >>> pool = Pool(range(5))
    >>> pool.take(), sorted(pool.give(keep=1)), sorted(pool.free)
    (0, [1, 2, 3], [4])
    """

    __slots__ = ("units", "free")

    def __init__(self, units=()):
        self.units = frozenset(units)
        self.free = set(self.units)

    def take(self):
        """Take a free unit, the least; None when there is none."""
        if not self.free:
            return None
        unit = min(self.free)
        self.free.remove(unit)
        return unit

    def add(self, units):
        """Take free units in."""
        self.free |= set(units)

    def give(self, keep=0):
        """Give all free units but the `keep` greatest away."""
        given = frozenset(sorted(self.free)[:max(0, len(self.free) - keep)])
        self.free -= given
        return given

    def reclaim(self, held):
        """Take every unit that is not held: the peer is dead, and with it what it had."""
        self.free = set(self.units) - set(held)
