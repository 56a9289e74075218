"""The algorithms that move processes, on states of connections (D3.2 §2.3.1), for comparison.

    total copy       freeze all, copy all, go on at B
    demand paging    go on at B at once; each state is fetched when its first packet comes
    pre-copy         copy all while A goes on, then again what changed, until that does not get
                     less; then freeze and copy the rest

All three serve every connection at one machine at a time, so new ones keep arriving at A until B
takes over.  A packet changes its connection's state.
"""
from typing import NamedTuple

import numpy as np

from .migration_population import Population, newcomers


class TotalCopy(NamedTuple):
    """Total copy: the states copied, the time everybody stands still and the whole time, seconds."""

    copied: int
    downtime: float
    total_time: float


class DemandPaging(NamedTuple):
    """Demand paging: fetched on demand; how long packets waited for that; when the last was settled.

    `downtime` is the switching itself.  `wait_mean`, `wait_99` (99th percentile) and `wait_most`
    are of first packets; `degraded` is the time until 99 % of all fetches were done, seconds.
    """

    copied: int
    downtime: float
    total_time: float
    wait_mean: float
    wait_99: float
    wait_most: float
    degraded: float


class PreCopy(NamedTuple):
    """Pre-copy: states copied, downtime and total time, seconds, and what each round copied.

    `last` is how many states were copied while everything stood still.
    """

    copied: int
    downtime: float
    total_time: float
    last: int
    rounds: tuple


def total_copy(setting):
    """Freeze everything, copy it, go on; O(1).

    >>> from flowos.services.migration_simulation import Setting
    >>> round(total_copy(Setting(states=1_000_000)).downtime, 4)
    0.8002
    """
    setting.check()
    downtime = setting.copying(setting.states) + setting.round_trip
    return TotalCopy(setting.states, downtime, downtime)


def demand_paging(setting):
    """Go on at B at once and fetch each state when its first packet comes; O(n log n).

    Fetches share the fast link, first come, first served.
    """
    rng, drawn = setting.check().draw()
    if setting.packet_rate:
        first = rng.exponential(1 / setting.packet_rate, setting.states)
    else:
        first = np.full(setting.states, np.inf)
    asked = np.sort(first[first < drawn.ends])
    # Waiting in line (Lindley): a fetch is done one service after it was asked for, or after the one before.
    service = setting.copying(1)
    place = np.arange(len(asked)) * service
    done = np.maximum.accumulate(asked - place) + place + service + setting.round_trip
    waits = done - asked if len(asked) else np.zeros(1)
    settled = float(np.minimum(first, drawn.ends).max())            # asked for, or ended unasked
    return DemandPaging(
        len(asked), setting.round_trip / 2, max(settled, float(done[-1]) if len(asked) else 0.0),
        float(waits.mean()), float(np.quantile(waits, 0.99)), float(waits.max()),
        float(np.quantile(done, 0.99)) if len(asked) else 0.0)


def pre_copy(setting, most_rounds=30):
    """Copy in rounds at the slow rate, then stop and copy the rest at the fast one.

    Ends when a round dirtied as many states as it copied (D3.2 §2.3.1.3), or after `most_rounds`
    (Xen's number).  O(states) per round.
    """
    rng, there = setting.check().draw()
    dirty = np.ones(setting.states, bool)
    now, rounds = 0.0, []
    while True:
        count = int(dirty.sum())
        rounds.append(count)
        lasted = setting.copying(count, setting.slow)
        now += lasted
        stay = there.ends > now
        touched = rng.random(int(stay.sum())) < -np.expm1(-setting.packet_rate * lasted)
        fresh = newcomers(setting.arrivals, now - lasted, now, setting.durations, rng)
        there = Population(np.concatenate((there.begun[stay], fresh.begun)),
                           np.concatenate((there.ends[stay], fresh.ends)))
        dirty = np.concatenate((touched, np.ones(len(fresh.ends), bool)))
        left = int(dirty.sum())
        if left == 0 or left >= count or len(rounds) == most_rounds:
            break
    downtime = setting.copying(left) + setting.round_trip
    return PreCopy(sum(rounds) + left, downtime, now + downtime, left, tuple(rounds))
