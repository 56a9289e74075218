"""Routing offload: which prefixes the switch forwards by itself, and which stay with the software.

A switch has room for n entries; the controller routes the rest in software.  Traffic-aware flow
offloading (TFO, D3.2 §2.4.2.2) takes the heavy hitters of several time scales, and changes an
entry only where that pays:

    1  `candidates`   the top prefixes of each time scale in turn, until there are n
    2  `difference`   what is to be added to the entries in place, and what removed
    3  `ordered`      additions by falling, removals by rising traffic at the smallest time scale
    4  `worthwhile`   pairs of them while the addition has `factor` times the removal's traffic

`tfo` is all four: rates and entries in, the next entries and the actions out.  Nothing here looks
at a packet or speaks to a switch.  Prefixes are ids, small numbers from 0 on (prefixes.pyx).
"""
from typing import NamedTuple

import numpy as np

from flowos import UsageError

ADD, REMOVE = "add", "remove"


class Change(NamedTuple):
    """An action: `kind` is "add" or "remove", of the prefix `id`."""

    kind: str
    id: int


class Round(NamedTuple):
    """A round's outcome: the entries from now on, rising; what was added and removed, as in step 3."""

    installed: np.ndarray
    added: np.ndarray
    removed: np.ndarray

    def actions(self):
        """List the changes in an order in which there are never too many entries: each removal before its addition."""
        ahead = len(self.removed) - len(self.added)
        free = max(0, -ahead)
        changes = [Change(ADD, int(id)) for id in self.added[:free]]
        changes += [Change(REMOVE, int(id)) for id in self.removed[:max(0, ahead)]]
        for out, into in zip(self.removed[max(0, ahead):], self.added[free:]):
            changes += [Change(REMOVE, int(out)), Change(ADD, int(into))]
        return changes


NOTHING = np.empty(0, np.int32)


def ranking(rates, most):
    """Give the ids of the `most` (from 1) highest rates above 0, the highest first, the lower id where they tie.

    O(ids + most log most).

    >>> ranking(np.array([5, 0, 9, 5]), 2).tolist()
    [2, 0]
    """
    ids = np.flatnonzero(rates > 0)
    values = rates[ids]
    if len(ids) > most:
        least = np.partition(values, len(ids) - most)[len(ids) - most]
        above = ids[values > least]
        ids = np.sort(np.concatenate([above, ids[values == least][:most - len(above)]]))
        values = rates[ids]
    return ids[np.argsort(-values, kind="stable")].astype(np.int32)


def in_turn(rankings):
    """Merge rankings: the first of each, the second of each, …; who comes again is left out.

    The first n are step 1's candidates, for every n that no ranking is shorter than.  A time
    scale whose next prefix is in already has had its turn.  O(total · log total).

    >>> in_turn([np.array([4, 2, 7]), np.array([4, 9])]).tolist()
    [4, 2, 9, 7]
    """
    ranks = np.concatenate([np.arange(len(ids)) for ids in rankings] or [NOTHING])
    ids = np.concatenate([*rankings, NOTHING])
    ids = ids[np.argsort(ranks, kind="stable")]
    _, first = np.unique(ids, return_index=True)
    return ids[np.sort(first)]


def candidates(rates, n):
    """Take the top prefixes of each time scale in turn until there are n (step 1); `rates` is (scales, ids)."""
    return in_turn([ranking(scale, n) for scale in rates])[:n]


def difference(installed, wanted):
    """Give what is to be added and what removed to get from one set to the other (step 2)."""
    return np.setdiff1d(wanted, installed), np.setdiff1d(installed, wanted)


def ordered(additions, removals, recent):
    """Sort additions by falling, removals by rising traffic (step 3); the lower id first where it ties."""
    additions, removals = np.sort(additions), np.sort(removals)
    return (additions[np.argsort(-recent[additions], kind="stable")],
            removals[np.argsort(recent[removals], kind="stable")])


def worthwhile(additions, removals, recent, factor):
    """Count the pairs that are worth a change (step 4).

    The i-th addition is to have `factor` times the traffic of the i-th removal, and some.  As the
    one falls and the other rises, these are the first pairs.
    """
    pairs = min(len(additions), len(removals))
    into, out = recent[additions[:pairs]].astype(float), recent[removals[:pairs]].astype(float)
    return int(np.count_nonzero((into >= factor * out) & (into > 0)))


def advance(installed, wanted, recent, n, factor, most_changes=None):
    """Do steps 2 to 4 for candidates that are known, n at most; give the Round.

    Free entries are filled without a pair.  More entries than n lose the surplus, the least
    traffic first.  `most_changes` bounds the additions of a round; the best come first.
    """
    additions, removals = ordered(*difference(installed, wanted), recent)
    surplus = max(0, len(installed) - n)
    free = max(0, n - len(installed))
    pairs = worthwhile(additions[free:], removals[surplus:], recent, factor)
    added, removed = additions[:free + pairs], removals[:surplus + pairs]
    if most_changes is not None and len(added) > most_changes:
        added, removed = added[:most_changes], removed[:surplus + max(0, most_changes - free)]
    kept = np.setdiff1d(installed, removed)
    return Round(np.union1d(kept, added).astype(np.int32), added.astype(np.int32), removed.astype(np.int32))


def tfo(installed, rates, n, factor=2.0, most_changes=None):
    """Do a round of TFO: from the entries in place and the rates to the next entries.

    `installed` are ids without repeats; `rates` is an array (time scales, ids), the smallest scale
    first, as `Traffic.rates`; n is how many entries there is room for; `factor` is by how much an
    addition must exceed the entry that it replaces, from 1.  UsageError: one of these is not so.
    O(scales · ids + n log n).

    >>> rates = np.array([[0, 8, 9, 50], [9, 8, 7, 0]])        # now, and in the long run
    >>> done = tfo(np.array([0, 1]), rates, n=2)
    >>> done.installed.tolist(), done.actions()
    ([0, 3], [Change(kind='remove', id=1), Change(kind='add', id=3)])
    """
    rates, installed = np.asarray(rates), np.asarray(installed)
    if rates.ndim != 2 or not len(rates):
        raise UsageError(f"rates: got an array of shape {rates.shape}, expected (time scales, ids)")
    check_limits(n, factor, most_changes)
    if installed.ndim != 1 or (len(installed) and installed.dtype.kind not in "iu"):
        raise UsageError("installed: expected an array of ids")
    if len(installed) and not 0 <= installed.min() <= installed.max() < rates.shape[1]:
        raise UsageError(f"installed: ids go from {installed.min()} to {installed.max()}, and rates are known below {rates.shape[1]}")
    if len(np.unique(installed)) != len(installed):
        raise UsageError("installed: an id is there twice")
    return advance(installed.astype(np.int32), candidates(rates, n), rates[0], n, factor, most_changes)


def check_limits(n, factor, most_changes=None):
    """Raise UsageError unless n is a number of entries, `factor` a number from 1 and `most_changes` a number or None."""
    if not isinstance(n, (int, np.integer)) or isinstance(n, bool) or n < 1:
        raise UsageError(f"n: got {n!r}, expected a number of entries from 1")
    if not isinstance(factor, (int, float)) or isinstance(factor, bool) or not 1 <= factor < float("inf"):
        raise UsageError(f"factor: got {factor!r}, expected a number from 1")
    if most_changes is not None and (not isinstance(most_changes, int) or isinstance(most_changes, bool) or most_changes < 0):
        raise UsageError(f"most_changes: got {most_changes!r}, expected a number from 0, or None")
