"""How offload strategies do on traffic: packets left to the controller, and entries changed, per bin.

        bin t        the entries in place serve it: what they miss is left to the controller
        its end      TFO decides from the traffic up to here; its changes are in place from t + 1 on

Bin-optimal knows bin t beforehand and changes its entries at once (D3.2 §2.4.1.2); the caches
change theirs packet by packet within it.  A change is an entry that comes in, in place of
another.  Every strategy and every n sees the same bins in one pass.
"""
from typing import NamedTuple

import numpy as np

from flowos import UsageError

from .offload import NOTHING, advance, check_limits, in_turn, ranking
from .offload_caches import LFU, LRU
from .offload_traffic import Traffic
from .offload_tuning import Tuner

STRATEGIES = ("tfo", "bin-optimal", "lru", "lfu")


class Bin(NamedTuple):
    """A bin of traffic: ids in the order of packets, packets by id, ids by falling packets; TFO's candidates after it."""

    packets: np.ndarray
    counts: np.ndarray
    ranked: np.ndarray
    candidates: np.ndarray


class Served(NamedTuple):
    """What a strategy did in a bin: packets left to the controller, entries changed."""

    left: int
    changes: int


class BinOptimal:
    """Serve each bin with its own n heaviest prefixes."""

    def __init__(self, n):
        check_limits(n, 1.0)
        self.n, self.installed = n, NOTHING

    def serve(self, bin):
        """Serve a bin; give what was left and changed."""
        chosen = bin.ranked[:self.n]
        changes = len(np.setdiff1d(chosen, self.installed, assume_unique=True))
        self.installed = chosen
        return Served(len(bin.packets) - int(bin.counts[chosen].sum()), changes)


class Cached:
    """Serve packets from a cache of n entries: LRU or LFU."""

    def __init__(self, kind, n, prefixes):
        self.cache = kind(n, prefixes)

    def serve(self, bin):
        """Serve a bin; give what was left and changed."""
        return Served(*self.cache.run(bin.packets))


class Tfo:
    """Serve with n entries that TFO chooses after each bin; the factor is a number or a `Tuner`'s.

    `on_round`, where it is set, is called with each Round.
    """

    def __init__(self, n, factor=2.0, most_changes=None):
        self.tuner = factor if isinstance(factor, Tuner) else None
        self.n, self.factor, self.most_changes = n, 2.0 if self.tuner else factor, most_changes
        check_limits(n, self.factor, most_changes)
        self.installed, self.on_round = NOTHING, None

    def serve(self, bin):
        """Serve a bin, then choose the entries of the next; give what was left and changed."""
        left = len(bin.packets) - int(bin.counts[self.installed].sum())
        if self.tuner is not None:
            self.factor = self.tuner.step(bin.counts, bin.candidates[:self.n])
        done = advance(self.installed, bin.candidates[:self.n], bin.counts, self.n, self.factor, self.most_changes)
        self.installed = done.installed
        if self.on_round is not None:
            self.on_round(done)
        return Served(left, len(done.added))


def strategy(name, n, prefixes, factor=2.0, most_changes=None):
    """Make a strategy by its name.  UsageError: no such one."""
    if name == "tfo":
        return Tfo(n, factor, most_changes)
    if name == "bin-optimal":
        return BinOptimal(n)
    if name in ("lru", "lfu"):
        return Cached(LRU if name == "lru" else LFU, n, prefixes)
    raise UsageError(f"{name}: no such strategy; expected {', '.join(STRATEGIES)}")


class Evaluation:
    """Run strategies side by side; `contestants` is {key: strategy}, `most` the largest n.

    `serve` takes a bin's ids; -1 is a packet that no prefix covers, which the controller has in
    any case.  `results` is {key: [Served]}, `totals` the packets of each bin; the first `warm` bins are
    served and not kept.
    """

    def __init__(self, contestants, most, prefixes, scales=(10.0, 60.0, 600.0), warm=0):
        self.contestants, self.most, self.warm = contestants, most, warm
        self.traffic = Traffic(scales, prefixes)
        self.seen = np.zeros(prefixes, bool)          # by id: whether it ever had a packet
        self.results = {key: [] for key in contestants}
        self.totals, self.uncovered = [], []

    def serve(self, ids):
        """Serve one bin, as long as the smallest time scale: ids in the order of packets, int32."""
        if len(ids) and ids.max() >= len(self.seen):
            raise UsageError(f"id {ids.max()}: expected -1 to {len(self.seen) - 1}")
        packets = np.ascontiguousarray(ids[ids >= 0], "i4") if len(ids) and ids.min() < 0 else ids
        traffic = self.traffic
        traffic.count(packets)
        counts = traffic.counts.astype("i8")
        ranked = ranking(counts, self.most)
        self.seen |= counts > 0
        traffic.tick()
        wanted = in_turn([ranked, *(ranking(rates, self.most) for rates in traffic.rates[1:])])
        bin = Bin(packets, counts, ranked, wanted)
        missed = len(ids) - len(packets)
        served = {key: contestant.serve(bin) for key, contestant in self.contestants.items()}
        if self.warm:
            self.warm -= 1
            return
        self.totals.append(len(ids))
        self.uncovered.append(missed)
        for key, done in served.items():
            self.results[key].append(Served(done.left + missed, done.changes))

    def summary(self):
        """Give {key: figures}: see `figures`."""
        seconds = self.traffic.step
        return {key: figures(served, self.totals, seconds) for key, served in self.results.items()}


def figures(served, totals, seconds):
    """Sum up bins: medians and maxima of packets left per second and of changes per bin, and the gain.

    `gain` is the share of all packets that the switch forwarded.
    """
    if not served:
        raise UsageError("no bin of traffic was served: expected more than the warm-up")
    left = np.array([bin.left for bin in served])
    changes = np.array([bin.changes for bin in served])
    return {"gain": float(1 - left.sum() / max(1, sum(totals))),
            "left_median": float(np.median(left) / seconds), "left_max": float(left.max() / seconds),
            "changes_median": float(np.median(changes)), "changes_max": int(changes.max()),
            "changes_mean": float(changes.mean())}
