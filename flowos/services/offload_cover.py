"""What else a switch needs so that an offloaded prefix takes no packets of longer ones.

A switch that has 10.0.0.0/8 and not the table's 10.1.0.0/16 would send the latter's packets the
former's way.  So each next longer prefix that is not offloaded gets a guard: an entry that sends
its packets to the controller.  One level is enough: what is longer still is under a guard, or
under an entry of its own.  A default route over a whole table would need a guard for every
route, so prefixes with many next longer ones are better left to the controller (`offloadable`).
D3.2 §2.4 does not speak of this; `parents` are those of `PrefixTable.parents`.
"""
import numpy as np

from flowos import UsageError


def guards(installed, parents):
    """Give the ids that need an entry to the controller while `installed` are offloaded.  O(ids).

    >>> parents = np.array([-1, 0, 1, 0])         # /8; a /16 in it with a /24; another /16
    >>> guards(np.array([0, 3]), parents).tolist()
    [1]
    """
    here = np.zeros(len(parents), bool)
    here[installed] = True
    return np.flatnonzero((parents >= 0) & here[parents] & ~here).astype(np.int32)


def offloadable(parents, most):
    """Say by id whether a prefix has at most `most` next longer ones, so that it needs no more guards than that."""
    if not isinstance(most, int) or isinstance(most, bool) or most < 0:
        raise UsageError(f"most: got {most!r}, expected a number of guards from 0")
    return (np.bincount(parents[parents >= 0], minlength=len(parents)) <= most) & (parents != -2)
