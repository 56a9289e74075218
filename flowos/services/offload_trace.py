"""Generated traffic by prefix: flows on prefixes of Zipf popularity, which drifts, with days and crowds.

Packets come from flows, so that heavy hitters are as volatile as the sizes of flows are heavy:

    prefix     popularity (rank + flat) ** -zipf, cut off exponentially; churn swaps the popularity of prefixes
    flow       begins at random at a prefix drawn by popularity; its packets are Pareto, its rate
               is lognormal; so bursts last, and the next bin's traffic is not the last one's
    day        the flows per second swing with a cosine
    crowds     now and then one prefix takes a share of all new flows, which fades

A `Profile` has the numbers.  Those of `PROFILES` are fitted to what D3.2 §2.4.1 says of its three
traces (docs/offload.md); their days are an hour long, so that a short trace has several.
"""
from typing import NamedTuple

import numpy as np

from flowos import UsageError


class Profile(NamedTuple):
    """What traffic is like.  Times in seconds, rates per second.

    `prefixes` may have traffic, and ranks beyond a few times `cut` hardly have flows; `packets` is the
    mean rate of all.  `flow` is the mean number of packets of a flow, `tail` its Pareto exponent,
    `longest` its most packets; `speed` is the median rate of a flow and `spread` the standard
    deviation of its logarithm.  Each hour `churn` of
    the prefixes swap their popularity with others, of ranks up to `reach` times as low.  `swing`
    is the day's amplitude, a share of the mean.  `crowds` come per hour; each begins with the share
    `crowd_share` of all new flows and fades with the time constant `crowd_time`.  `strays` is the share
    of packets that belong to no flow and go anywhere, as scans do.
    """

    prefixes: int = 100_000
    zipf: float = 1.0
    flat: float = 0.0
    cut: float = 1e5
    packets: float = 40_000.0
    flow: float = 25.0
    tail: float = 1.2
    longest: float = 1e6
    speed: float = 20.0
    spread: float = 1.5
    churn: float = 0.05
    reach: float = 4.0
    day: float = 3600.0
    swing: float = 0.4
    crowds: float = 2.0
    crowd_share: float = 0.05
    crowd_time: float = 60.0
    strays: float = 0.01

    def check(self):
        """Return the profile; UsageError names the field that is wrong."""
        for name, value in self._asdict().items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                raise UsageError(f"{name}: got {value!r}, expected a number from 0")
        if not isinstance(self.prefixes, int) or not 1 <= self.prefixes <= 1 << 27:
            raise UsageError(f"prefixes: got {self.prefixes!r}, expected a whole number from 1 to {1 << 27}")
        for name in ("cut", "packets", "tail", "speed", "day", "crowd_time"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name}: got {getattr(self, name)!r}, expected a number above 0")
        for name in ("flow", "longest", "reach"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}: got {getattr(self, name)!r}, expected a number from 1")
        for name in ("swing", "churn", "crowd_share", "strays"):
            if getattr(self, name) > 1:
                raise UsageError(f"{name}: got {getattr(self, name)!r}, expected a share, from 0 to 1")
        if self.flow > self.longest:
            raise UsageError(f"flow: a mean of {self.flow!r} packets is more than the longest, {self.longest!r}")
        return self


#: What §2.4.1 describes.  The IXP's packets are the samples, 1 in 2**14.
PROFILES = {
    "isp": Profile(prefixes=200_000, zipf=1.0, flat=1, cut=2_700, packets=43_000, flow=7, tail=1.3, speed=30,
                   strays=0.004, swing=0.5),
    "mawi": Profile(prefixes=600_000, zipf=1.0, flat=1, cut=20_000, packets=30_000, flow=40, tail=1.4, speed=30,
                    strays=0.05, swing=0.3),
    "ixp": Profile(prefixes=300_000, zipf=1.05, flat=20, cut=7_500, packets=9_500, flow=1.1, tail=2.5, speed=30,
                   strays=0.045, swing=0.4),
}


def pareto_scale(mean, tail, longest):
    """Find the least size with which a Pareto law that is cut at `longest` has this mean, by bisection."""
    low, high = 1e-9, mean
    for _ in range(100):
        least = (low + high) / 2
        ratio = longest / least
        now = least * (1 + np.log(ratio)) if tail == 1 else least * (tail - ratio ** (1 - tail)) / (tail - 1)
        low, high = (least, high) if now < mean else (low, least)
    return least


class Trace:
    """Traffic of a profile: iterate over seconds of it, each an array of prefix ids in the order of packets.

    The ids are int32 in [0, profile.prefixes); id and popularity have nothing to do with each
    other.  The same seed gives the same packets.  Memory is that of the flows under way.

    >>> trace = Trace(Profile(prefixes=1000, packets=500.0), seed=7)
    >>> second = next(trace)
    >>> second.dtype, bool(0 <= second.min() <= second.max() < 1000)
    (dtype('int32'), True)
    """

    def __init__(self, profile, seed=1):
        self.profile = p = profile.check()
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise UsageError(f"seed: got {seed!r}, expected a whole number from 0")
        self.rng = np.random.default_rng(seed)
        self.second = 0
        weights = (np.arange(1, p.prefixes + 1) + p.flat) ** -float(p.zipf)
        weights *= np.exp(-np.arange(p.prefixes) / p.cut)
        self.ranks = np.cumsum(weights)               # the rank of a flow: where its draw falls
        self.ranks /= self.ranks[-1]
        self.prefix_at = self.rng.permutation(p.prefixes).astype("i4")
        self.arrivals = p.packets * (1 - p.strays) / p.flow
        self.least = pareto_scale(p.flow, p.tail, p.longest)
        self.crowds = []                              # (prefix, share)
        self.prefix, self.left, self.speed = np.empty(0, "i4"), np.empty(0), np.empty(0)
        self.settle()

    def settle(self):
        """Begin in the midst: with the flows that began earlier and are still there.

        Of a law of flows, `arrivals × duration` are under way at a time.
        """
        p = self.profile
        draws = 1_000_000
        prefix, size, speed = self.draw(draws)
        lasts = np.minimum(size / speed, 36_000.0)
        number = self.rng.poisson(self.arrivals * (1 - p.swing) * lasts / draws)
        chosen = np.repeat(np.arange(draws), number)
        self.prefix, self.speed = prefix[chosen], speed[chosen]
        self.left = np.ceil(size[chosen] * self.rng.random(len(chosen)))    # somewhere between beginning and end

    def draw(self, count):
        """Draw flows: prefixes, sizes in packets (some may be 0 where the mean is near 1), packets per second."""
        p, rng = self.profile, self.rng
        rank = np.searchsorted(self.ranks, rng.random(count))
        size = np.minimum(self.least * (1 - rng.random(count)) ** (-1 / p.tail), p.longest)
        size = np.floor(size + rng.random(count))     # up or down at random, so that the mean stays
        return self.prefix_at[rank], size, p.speed * np.exp(p.spread * rng.standard_normal(count))

    def drift(self):
        """Swap the popularity of a second's share of the prefixes with others not far off in rank."""
        p, rng = self.profile, self.rng
        count = rng.poisson(p.churn * p.prefixes / 3600)
        if count:
            a = rng.integers(0, p.prefixes, count)
            b = np.minimum(((a + 1) * p.reach ** rng.random(count)).astype("i8"), p.prefixes) - 1
            for one, other in zip(a.tolist(), b.tolist()):
                at = self.prefix_at
                at[one], at[other] = at[other], at[one]

    def crowd(self, prefix):
        """Let new flows of this second come together at the prefixes that have a crowd; give their prefixes."""
        p, rng = self.profile, self.rng
        for _ in range(rng.poisson(p.crowds / 3600)):
            self.crowds.append((int(rng.integers(p.prefixes)), p.crowd_share))
        for one, share in self.crowds:
            prefix[rng.random(len(prefix)) < share] = one
        fading = float(np.exp(-1 / p.crowd_time))
        self.crowds = [(one, share * fading) for one, share in self.crowds if share > 1e-4]
        return prefix

    def __iter__(self):
        return self

    def __next__(self):
        p, rng = self.profile, self.rng
        self.drift()
        now = 1 - p.swing * np.cos(2 * np.pi * self.second / p.day)      # begins at night
        prefix, size, speed = self.draw(rng.poisson(self.arrivals * now))
        self.prefix = np.concatenate([self.prefix, self.crowd(prefix)])
        self.left = np.concatenate([self.left, size])
        self.speed = np.concatenate([self.speed, speed])
        sent = np.minimum(rng.poisson(self.speed), self.left)
        self.left -= sent
        strays = rng.integers(0, p.prefixes, rng.poisson(p.packets * p.strays), "i4")
        packets = rng.permutation(np.concatenate([np.repeat(self.prefix, sent.astype("i8")), strays]))
        going = self.left > 0
        self.prefix, self.left, self.speed = self.prefix[going], self.left[going], self.speed[going]
        self.second += 1
        return packets
