"""Connections that come and go: Poisson arrivals, Pareto durations (D3.2 §2.3.3).

Two populations of the same size are looked at.  A *cohort* began all at once, at time 0: what a
machine has just after a flash crowd, and what the source's figures show.  A *stationary* one has
been going on for ever: long connections are more common in it than among arrivals, since they
stay to be seen, and its survivors are many more.  With durations of at least m and shape a:

    still there after t, of a cohort            (m / t) ** a                       t >= m
    the same, of a stationary population        (m / t) ** (a - 1) / a             t >= m

Instead of letting arrivals come and go, those that are alive at some moment are drawn: the count
is Poisson, the ages are independent, and what is left of each depends on its age alone
(an M/G/infinity queue).  That is exact, and costs nothing for the many that ended before.
"""
from typing import NamedTuple

import numpy as np

from flowos import UsageError

COHORT, STATIONARY = "cohort", "stationary"


class Durations(NamedTuple):
    """Pareto durations with a mean and a minimum, seconds.

    >>> Durations(0.2, 0.1).shape
    2.0
    """

    mean: float = 0.2
    minimum: float = 0.1

    def check(self):
        """Return the durations; UsageError unless 0 < minimum < mean."""
        for name, value in self._asdict().items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                raise UsageError(f"{name}: got {value!r}, expected seconds above 0")
        if self.mean <= self.minimum:
            raise UsageError(f"mean: got {self.mean:g} s, expected more than the minimum, {self.minimum:g} s")
        return self

    @property
    def shape(self):
        """The exponent of the tail; the mean is shape / (shape - 1) times the minimum."""
        return self.mean / (self.mean - self.minimum)

    def survival(self, time):
        """Give the share of durations above `time` (an array or a number)."""
        return (self.minimum / np.maximum(time, self.minimum)) ** self.shape

    def tail(self, time):
        """Give the integral of the survival from `time` on, seconds; from 0 on it is the mean."""
        time = np.asarray(time, float)
        beyond = np.maximum(time, self.minimum)
        above = self.minimum / (self.shape - 1) * (self.minimum / beyond) ** (self.shape - 1)
        return above + np.maximum(self.minimum - time, 0.0)

    def residual(self, time):
        """Give the share of a stationary population that is still there after `time`."""
        return self.tail(time) / self.mean

    def draw(self, rng, count, older=0.0):
        """Draw durations, each above its own `older` (a number or an array), seconds."""
        uniform = 1.0 - rng.random(count)                   # in (0, 1]
        return np.maximum(older, self.minimum) * uniform ** (-1.0 / self.shape)

    def ages(self, rng, count, window=np.inf):
        """Draw the ages of those alive now among the arrivals of the last `window` seconds.

        Their density is the survival, cut at the window; its distribution function is inverted.
        """
        least = float(self.tail(window)) if np.isfinite(window) else 0.0
        beyond = least + (self.mean - least) * (1.0 - rng.random(count))       # the tail at the age
        at_minimum = self.mean - self.minimum
        above = self.minimum * (at_minimum / np.minimum(beyond, at_minimum)) ** (1.0 / (self.shape - 1))
        return np.where(beyond > at_minimum, self.mean - beyond, above)


class Population(NamedTuple):
    """Connections alive at some moment: when each began and will end, seconds, two arrays."""

    begun: np.ndarray
    ends: np.ndarray

    def alive(self, time):
        """Give those whose end is after `time`."""
        there = self.ends > time
        return Population(self.begun[there], self.ends[there])


def population(kind, count, durations, rng):
    """Draw `count` connections that are alive at time 0; O(count).

    >>> began = population(COHORT, 1000, Durations(), np.random.default_rng(1))
    >>> int((began.ends > 0.1).sum())
    1000
    """
    if kind == COHORT:
        return Population(np.zeros(count), durations.draw(rng, count))
    if kind == STATIONARY:
        ages = durations.ages(rng, count)
        return Population(-ages, durations.draw(rng, count, ages) - ages)
    raise UsageError(f"population: got {kind!r}, expected {COHORT} or {STATIONARY}")


def newcomers(rate, since, until, durations, rng):
    """Draw those that arrived between two times, `rate` per second, and are alive at the second.

    O(those alive), however many came and went.
    """
    window = until - since
    count = rng.poisson(rate * (durations.mean - float(durations.tail(window))))
    ages = durations.ages(rng, count, window)
    return Population(until - ages, until + durations.draw(rng, count, ages) - ages)
