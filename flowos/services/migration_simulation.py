"""A migration, simulated: the tables of `migration`, driven by drawn connections and a link.

This is a discrete-event simulation: ticks, and messages that arrive after the link's delay, go
through `advance`, whose actions make the next messages.  Connections themselves are no events:
their ends are arrays, counted when something looks (a tick, a batch), so a run costs O(n log n)
for n connections to sort the ends, and O(what phase two finds) per batch.  Packets are no events
either: those of a connection are Poisson, so the count in a span of time is drawn.
"""
import heapq
import itertools
from typing import NamedTuple

import numpy as np

from flowos import UsageError

from . import migration as m
from .migration_meter import EndingRate
from .migration_population import STATIONARY, Durations, population


MOST = 50_000_000               # states: three gigabytes


class Setting(NamedTuple):
    """What is simulated; times in seconds, rates per second, D3.2 §2.3.3 where it says.

    `packet_rate` is per connection; the source gives none.  50 makes ten packets in the mean
    duration.  `group` is how many states are linked on average: connections are dealt out to
    `states / group` groups.  `shared_bytes` is what is copied first: a NAT's free ports, say.
    `round_trip` is between A and B.  `slow` is what pre-copy's rounds may use, `fast` what is used
    when states are frozen, bits per second.
    """

    states: int = 100_000
    population: str = STATIONARY
    durations: Durations = Durations()
    packet_rate: float = 50.0
    state_bytes: int = 100
    shared_bytes: int = 0
    group: int = 1
    slow: float = 100e6
    fast: float = 1e9
    round_trip: float = 200e-6
    seed: int = 1

    def check(self):
        """Return the setting; UsageError names the field that is wrong."""
        for name, least in (("states", 1), ("state_bytes", 1), ("shared_bytes", 0), ("group", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UsageError(f"{name}: got {value!r}, expected a whole number from {least}")
        if self.states > MOST:
            raise UsageError(f"states: got {self.states}, expected at most {MOST}: each takes some 60 bytes here")
        for name, above in (("packet_rate", False), ("round_trip", False), ("slow", True), ("fast", True)):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")
            if not number or (above and value == 0):
                raise UsageError(f"{name}: got {value!r}, expected a number {'above' if above else 'from'} 0")
        self.durations.check()
        return self

    def draw(self):
        """Give (random generator, population): the same for the same setting."""
        rng = np.random.default_rng(self.seed)
        return rng, population(self.population, self.states, self.durations, rng)

    def deal(self, rng):
        """Give the number of each connection's group; ask right after `draw`, with its generator."""
        if self.group == 1:
            return np.arange(self.states)
        return rng.integers(0, -(-self.states // self.group), self.states)

    @property
    def arrivals(self):
        """New connections per second: what keeps the number of states where it is."""
        return self.states / self.durations.mean

    def copying(self, states, rate=None):
        """Give the seconds that so many states take on the wire, at `rate` (default: fast)."""
        return states * self.state_bytes * 8 / (rate or self.fast)


class Migration(NamedTuple):
    """What a simulated migration came to; times in seconds from its start.

    `downtime` is the longest time a connection was frozen, `downtime_mean` over those that were
    copied; `frozen_time` is how long anything was.  `handover` is for how long B may have to hold
    what comes straight from the switch, until it has what went by A.  `buffered` packets waited for
    frozen states, `most_buffered` of them in one batch.  `series` has rows (time, states at A, of
    them frozen, states copied to B).
    """

    population: str
    states: int
    idle_time: float
    total_time: float
    ended: int
    copied: int
    batches: int
    recalled: int
    bytes: int
    downtime: float
    downtime_mean: float
    frozen_time: float
    handover: float
    buffered: int
    most_buffered: int
    series: list


class _Run:
    """One run: the clock, the queue of events, the wire, and who is where."""

    def __init__(self, setting, policy, interval):
        self.setting, self.policy, self.interval = setting, policy, interval
        self.rng, drawn = setting.draw()
        self.sorted_ends = np.sort(drawn.ends)
        self.drawn = drawn
        self.dealt = setting.deal(self.rng) if setting.group > 1 else None
        # Phase two: those left in the order of freezing, their ends and groups; the places of those in no batch.
        self.ends = self.groups = self.waiting = None
        self.frozen = {}                # batch: (frozen since, places)
        self.source, self.now, self.meter = m.Source(), 0.0, EndingRate(policy.rate_window)
        self.queue, self.order, self.free_at = [], itertools.count(), 0.0
        self.copied, self.recalled = 0, 0
        self.bytes, self.buffered, self.most = 0, 0, 0
        self.down, self.down_sum, self.spans, self.series = 0.0, 0.0, [], []
        self.idle_time = None

    def resident(self):
        """Count the states at A that are in no batch."""
        if self.waiting is None:
            return self.setting.states - int(np.searchsorted(self.sorted_ends, self.now, "right"))
        self.waiting = self.waiting[self.ends[self.waiting] > self.now]
        return len(self.waiting)

    def push(self, time, event, batch=None):
        heapq.heappush(self.queue, (time, next(self.order), event, batch))

    def send(self, size):
        """Put bytes on the wire to B; give when they are there."""
        self.free_at = max(self.free_at, self.now) + size * 8 / self.setting.fast
        return self.free_at + self.setting.round_trip / 2

    def run(self):
        self.meter.add(0.0, 0)
        self.give(m.START)
        self.push(self.interval, m.TICK)
        while self.source.phase != m.DONE:
            self.now, _, event, batch = heapq.heappop(self.queue)
            if event == m.TICK:
                self.measure()
                self.give(m.TICK)
                self.push(self.now + self.interval, m.TICK)
            else:
                self.give(event, batch)
                if event in (m.STAGED, m.CONFIRMED, m.RECALLED):
                    self.give(m.TICK)

    def measure(self):
        """Tell the meter how many states ended, and add a row to the series."""
        resident = self.resident()
        frozen = sum(len(places) for _, places in self.frozen.values())
        self.meter.add(self.now, self.setting.states - self.copied - frozen - resident)
        self.series.append((self.now, resident + frozen, frozen, self.copied))

    def give(self, event, batch=None):
        view = m.View(self.now, self.resident(), self.meter.per_second)
        self.source, actions = m.advance(self.source, event, view, self.policy, batch)
        for action in actions:
            getattr(self, "do_" + action.kind)(action)
        if any(action.kind == m.FREEZE for action in actions):
            self.give(m.TICK)

    def do_stop(self, action):
        """New connections are B's from now on: they are no states of A."""

    do_drained = do_stop

    def do_open(self, action):
        """Give B the shared state; it is ready when that is there."""
        size = self.setting.shared_bytes
        self.bytes += size
        self.push(self.send(size) + self.setting.round_trip / 2, m.OPENED)

    def begin_copying(self):
        """Put those that are left in the order of freezing: by the age of the group's oldest, then by age."""
        begun, ends = self.drawn
        order = np.flatnonzero(ends > self.now)
        if self.dealt is None:
            order = order[np.argsort(begun[order], kind="stable")]
        else:
            by_age = np.argsort(begun, kind="stable")
            rank = np.empty(len(begun), np.int64)
            rank[by_age] = np.arange(len(begun))
            oldest = np.full(int(self.dealt.max()) + 1, len(begun))
            np.minimum.at(oldest, self.dealt, rank)
            order = order[np.lexsort((rank[order], oldest[self.dealt[order]]))]
            self.groups = self.dealt[order]
        self.ends, self.waiting = ends[order], np.arange(len(order))
        self.idle_time = self.now

    def do_freeze(self, action):
        if self.waiting is None:
            self.begin_copying()
        size = action.size
        if self.groups is not None and size < len(self.waiting):
            groups = self.groups[self.waiting]
            edges = np.append(np.flatnonzero(groups[1:] != groups[:-1]) + 1, len(groups))
            size = edges[max(0, np.searchsorted(edges, size, "right") - 1)]
        taken, self.waiting = self.waiting[:size], self.waiting[size:]
        self.frozen[action.batch] = self.now, taken
        self.bytes += len(taken) * self.setting.state_bytes
        self.push(self.send(len(taken) * self.setting.state_bytes) + self.setting.round_trip / 2, m.STAGED, action.batch)

    def waited(self, batch, until):
        """Account for a batch that is frozen until then; give how long it is."""
        since, places = self.frozen[batch]
        spans = np.minimum(self.ends[places], until) - since        # a connection that ends sends nothing more
        packets = int(self.rng.poisson(self.setting.packet_rate * spans.sum()))
        self.buffered += packets
        self.most = max(self.most, packets)
        self.spans.append((since, until))
        self.down = max(self.down, until - since)
        return until - since

    def do_commit(self, action):
        """Send what was buffered; B serves when it is there."""
        up = self.send(0)
        self.down_sum += self.waited(action.batch, up) * len(self.frozen[action.batch][1])
        self.push(up + self.setting.round_trip / 2, m.CONFIRMED, action.batch)

    def do_forget(self, action):
        self.copied += len(self.frozen.pop(action.batch)[1])

    def do_recall(self, action):
        self.recalled += 1
        self.push(self.send(0) + self.setting.round_trip / 2, m.RECALLED, action.batch)

    def do_thaw(self, action):
        self.waited(action.batch, self.now)
        _, places = self.frozen.pop(action.batch)
        self.waiting = np.sort(np.concatenate((places, self.waiting)))

    def do_redirect(self, action):
        self.push(self.now + self.setting.round_trip / 2, m.REDIRECTED)

    def outcome(self):
        """Give the Migration."""
        setting = self.setting
        return Migration(
            setting.population, setting.states, self.idle_time if self.idle_time is not None else self.now, self.now,
            setting.states - self.copied, self.copied, self.source.numbered, self.recalled, self.bytes, self.down,
            self.down_sum / self.copied if self.copied else 0.0, _length(self.spans), setting.round_trip,
            self.buffered, self.most, self.series)


def _length(spans):
    """Give the length of a union of spans.

    >>> _length([(0, 2), (5, 6), (1, 3)])
    4.0
    """
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def check(setting, policy):
    """Raise UsageError unless setting and policy make sense, each alone and together."""
    least = setting.check().copying(1) + setting.round_trip
    if policy.check().patience <= least:
        raise UsageError(f"patience: got {policy.patience:g} s, but one state takes {least:g} s to be staged")


def simulate(setting, policy=m.Policy(), interval=0.01):
    """Run one migration of all states from A to B; the measurement interval is in seconds.

    UsageError for a setting or a policy that makes no sense.

    >>> found = simulate(Setting(states=10_000))
    >>> found.copied + found.ended == 10_000 and found.downtime < 0.01
    True
    """
    if not 0 < interval < float("inf"):
        raise UsageError(f"interval: got {interval!r}, expected seconds above 0")
    check(setting, policy)
    run = _Run(setting, policy, interval)
    run.run()
    return run.outcome()
