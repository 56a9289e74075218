"""The simulator against slower ones that follow every connection and every packet.

`Slow` runs the real ends (planes, messages, a packet at a time) on a queue of events, with the same
drawn connections: what it finds must be the same to the last digit, but for the packets, which
each draws for itself.  Populations are compared with arrivals that really come and go, rivals with
loops that do what they say.
"""
import heapq
import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowos import UsageError
from flowos.services import migration as m
from flowos.services.migration_groups import RESIDENT
from flowos.services.migration_meter import EndingRate
from flowos.services.migration_peers import PACKET, Redirect, SourceEnd, TargetEnd
from flowos.services.migration_plane import Plane
from flowos.services.migration_population import COHORT, STATIONARY, Durations, newcomers, population
from flowos.services.migration_rivals import demand_paging, pre_copy, total_copy
from flowos.services.migration_simulation import Setting, simulate

KINDS = (COHORT, STATIONARY)


class Slow:
    """One migration, every packet of it; states are copied over a wire that sends one thing at a time."""

    def __init__(self, setting, policy, interval):
        self.setting, self.interval, self.random = setting, interval, random.Random(setting.seed)
        rng, drawn = setting.draw()
        dealt, first = setting.deal(rng), {}             # groups by number, and the oldest connection of each
        order = np.argsort(drawn.begun, kind="stable")
        self.ends = {str(number): float(drawn.ends[number]) for number in order}
        self.a, self.b = SourceEnd(Plane(), policy), TargetEnd(Plane(serving=False))
        for connection in self.ends:
            oldest = first.setdefault(int(dealt[int(connection)]), connection)
            if oldest != connection:
                self.a.plane.expect(connection, oldest)
            self.a.plane.packet(connection, -1.0, 0.0)
        self.queue, self.order, self.now, self.wire = [], itertools.count(), 0.0, 0.0
        self.meter, self.late, self.ended = EndingRate(policy.rate_window), set(), 0
        self.frozen, self.owned, self.waits, self.idle_time = {}, {}, [], None

    def at(self, time, function, *arguments):
        heapq.heappush(self.queue, (time, next(self.order), function, arguments))

    def run(self):
        for connection, end in self.ends.items():
            self.at(end, self.end, connection)
            time = self.random.expovariate(self.setting.packet_rate)
            while time < end and time < 60:
                self.at(time, self.packet, connection)
                time += self.random.expovariate(self.setting.packet_rate)
        self.meter.add(0.0, 0)
        self.carry_out(self.a.event(m.START, 0.0))
        self.at(self.interval, self.tick)
        while self.a.source.phase != m.DONE:
            self.now, _, function, arguments = heapq.heappop(self.queue)
            function(*arguments)
        return self

    def end(self, connection):
        if connection not in self.a.plane.index:
            return
        if self.a.plane.end(connection) is None:
            self.late.add(connection)           # frozen: it ends where it lands
        else:
            self.ended += 1

    def packet(self, connection):
        self.carry_out(self.a.packet(connection, self.now, self.now))

    def tick(self):
        self.meter.add(self.now, self.ended)
        self.carry_out(self.a.event(m.TICK, self.now, self.meter.per_second))
        self.at(self.now + self.interval, self.tick)

    def carry_out(self, outputs):
        for output in outputs:
            if isinstance(output, Redirect):
                self.at(self.now + self.setting.round_trip / 2, self.redirected)
                continue
            message, size = output.message, 0
            if message.kind == m.STAGE:
                size = sum(len(copy.members) for copy in message.body) * self.setting.state_bytes
                if self.idle_time is None:
                    self.idle_time = self.now
                self.frozen.update((member[0], self.now) for copy in message.body for member in copy.members)
            elif message.kind == m.OPEN:
                size = self.setting.shared_bytes
            elif message.kind == m.COMMIT:
                self.waits += [number for _, number in message.body]
            if message.kind != PACKET:          # the simulator leaves out what packets take of the wire
                self.wire = max(self.wire, self.now) + size * 8 / self.setting.fast
            self.at(max(self.wire, self.now) + self.setting.round_trip / 2, self.to_b, message)

    def to_b(self, message):
        for output in self.b.receive(message, self.now):
            self.at(self.now + self.setting.round_trip / 2, self.to_a, output.message)
        if message.kind == m.COMMIT:
            for key in self.frozen:
                group = self.b.plane.index.get(key)
                if group is not None and group.status == RESIDENT:
                    self.owned.setdefault(key, self.now)

    def to_a(self, message):
        rate = self.meter.per_second
        if message.kind != m.RECALLED:
            self.carry_out(self.a.receive(message, self.now, rate))
            return
        # Connections that ended while they were under way end now, before another batch is chosen.
        self.carry_out(self.a.event(message.kind, self.now, rate, message.batch))
        for connection in list(self.late):
            group = self.a.plane.index.get(connection)
            if group is not None and group.status == RESIDENT:
                self.late.discard(connection)
                self.end(connection)
        self.carry_out(self.a.event(m.TICK, self.now, rate))

    def redirected(self):
        self.carry_out(self.a.event(m.REDIRECTED, self.now))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("group, changes", [
    (1, {}), (1, {"window": 3}), (1, {"batch": 7, "window": 2}), (1, {"batch": 1000}), (5, {}), (30, {"window": 2}),
    (100, {"batch": 3}), (3, {"batch": 1000}),
], ids=["one", "three in flight", "two small ones", "all at once", "groups", "groups, two in flight",
        "groups larger than batches", "groups, all at once"])
def test_the_same_as_following_every_packet(kind, group, changes):
    setting = Setting(states=3000, population=kind, state_bytes=1000, shared_bytes=5000, group=group, fast=2e7,
                      round_trip=0.01, seed=3)
    policy = m.Policy(**{"batch": 20, "patience": 100.0, "idle_least": 0.2, "expiry_share": 2.0, **changes})
    fast, slow = simulate(setting, policy), Slow(setting, policy, 0.01).run()
    assert fast.copied == len(slow.owned) >= 20
    assert fast.ended == setting.states - len(slow.owned)
    assert fast.batches == slow.a.source.numbered
    assert math.isclose(fast.total_time, slow.now) and math.isclose(fast.idle_time, slow.idle_time)
    spans = [slow.owned[key] - slow.frozen[key] for key in slow.owned]
    assert math.isclose(fast.downtime, max(spans)) and math.isclose(fast.downtime_mean, sum(spans) / len(spans))
    counted = slow.a.plane.counts["buffered"]
    assert abs(fast.buffered - counted) < 6 * math.sqrt(counted) + 6
    assert all(wait >= 0 for wait in slow.waits)


@pytest.mark.parametrize("group, window", [(1, 1), (1, 3), (4, 2)])
def test_batches_that_come_home(group, window):
    # The wire takes longer than A's patience, until batches are small enough.
    setting = Setting(states=2000, state_bytes=1000, group=group, fast=2e6, round_trip=0.01, seed=5)
    policy = m.Policy(batch=64, window=window, patience=0.1, idle_least=0.3, expiry_share=5.0)
    fast, slow = simulate(setting, policy), Slow(setting, policy, 0.01).run()
    assert fast.recalled > 0 and fast.batches == slow.a.source.numbered
    assert fast.copied == sum(key in slow.b.plane.index for key in slow.frozen)
    assert math.isclose(fast.total_time, slow.now)
    assert fast.copied + fast.ended == 2000
    counted = slow.a.plane.counts["buffered"]
    assert abs(fast.buffered - counted) < 6 * math.sqrt(counted) + 6


@given(states=st.integers(1, 3000), kind=st.sampled_from(KINDS), batch=st.integers(1, 500), window=st.integers(1, 4),
       seed=st.integers(0, 99), least=st.floats(0, 2), group=st.integers(1, 50), fast=st.floats(1e6, 1e10), patience=st.floats(0.01, 1))
def test_every_state_ends_or_is_copied(states, kind, batch, window, seed, least, group, fast, patience):
    policy = m.Policy(batch=batch, window=window, idle_least=least, patience=patience)
    found = simulate(Setting(states=states, population=kind, seed=seed, group=group, fast=fast), policy)
    assert found.copied + found.ended == states
    assert found.frozen_time <= found.total_time - found.idle_time + 1e-9
    assert found.downtime_mean <= found.downtime + 1e-12
    counts = [row[1] for row in found.series]
    assert counts == sorted(counts, reverse=True)
    if kind == COHORT and least < 0.1:
        assert found.idle_time < 0.2            # nothing ends in the first 100 ms: too short a look


# -- populations

def close(found, expected, share):
    assert np.all(np.abs(np.asarray(found) - expected) <= share * np.asarray(expected)), (found, expected)


@pytest.mark.parametrize("durations", [Durations(), Durations(0.5, 0.2), Durations(0.3, 0.25)])
def test_arrivals_that_come_and_go(durations):
    rng, rate, window = np.random.default_rng(7), 40_000, 5.0
    begun = np.sort(rng.random(int(rate * window)) * window)
    ends = begun + durations.minimum / rng.random(len(begun)) ** (1 / durations.shape)
    alive = ends > window
    drawn = newcomers(rate, 0.0, window, durations, rng)
    assert abs(len(drawn.ends) - alive.sum()) < 6 * math.sqrt(alive.sum())
    assert drawn.begun.min() >= 0 and drawn.begun.max() <= window < drawn.ends.min()
    for ours, theirs in ((window - drawn.begun, window - begun[alive]), (drawn.ends - window, ends[alive] - window)):
        close(np.quantile(ours, [0.1, 0.5, 0.9]), np.quantile(theirs, [0.1, 0.5, 0.9]), 0.06)


@pytest.mark.parametrize("shape", [1.5, 2.0, 3.0])
def test_survivors_follow_the_theory(shape):
    durations, rng = Durations(0.1 * shape / (shape - 1), 0.1), np.random.default_rng(11)
    assert math.isclose(durations.shape, shape)
    times = np.array([0.05, 0.1, 0.3, 1.0, 2.0])
    fresh, old = (population(kind, 400_000, durations, rng) for kind in KINDS)
    close([(fresh.ends > time).mean() for time in times], np.where(times < 0.1, 1, (0.1 / times) ** shape), 0.06)
    expected = np.where(times < 0.1, 1 - times / durations.mean, (0.1 / times) ** (shape - 1) / shape)
    close([(old.ends > time).mean() for time in times], expected, 0.03)
    close(durations.residual(times), expected, 1e-9)
    assert math.isclose(durations.draw(rng, 1_000_000).mean(), durations.mean, rel_tol=0.2 if shape < 2 else 0.02)


def test_the_claim_of_the_source_holds_for_a_cohort_only():
    fresh, old = (simulate(Setting(states=400_000, population=kind), m.Policy(idle_least=5.0)) for kind in KINDS)
    left = {kind: {round(row[0], 2): row[1] for row in found.series} for kind, found in zip(KINDS, (fresh, old))}
    assert 85 < 400_000 / left[COHORT][1.0] < 115
    assert 18 < 400_000 / left[STATIONARY][1.0] < 22
    assert 90 < 400_000 / left[STATIONARY][5.0] < 110


# -- rivals

def test_total_copy():
    found = total_copy(Setting(states=1000, state_bytes=125, fast=1e6, round_trip=0.5))
    assert found == (1000, 1.5, 1.5)


@given(st.integers(1, 300), st.floats(1e4, 1e8), st.integers(0, 50))
def test_fetches_wait_in_line(states, fast, seed):
    setting = Setting(states=states, fast=fast, seed=seed)
    found = demand_paging(setting)
    rng, drawn = setting.draw()
    first = rng.exponential(1 / setting.packet_rate, states)
    free, waits = 0.0, []
    for asked in sorted(time for time, end in zip(first, drawn.ends) if time < end):
        free = max(free, asked) + 800 / fast
        waits.append(free + setting.round_trip - asked)
    assert found.copied == len(waits)
    assert math.isclose(found.wait_most, max(waits, default=0.0), rel_tol=1e-6, abs_tol=1e-9)
    assert math.isclose(found.wait_mean, sum(waits) / max(1, len(waits)), rel_tol=1e-6, abs_tol=1e-9)


def follow_pre_copy(setting, seed):
    """Pre-copy with every arrival and packet; gives (rounds, last)."""
    chance = random.Random(seed)
    _, drawn = setting._replace(seed=seed).draw()
    ends = dict(enumerate(drawn.ends.tolist()))
    dirty, now, rounds, names = set(ends), 0.0, [], itertools.count(len(ends))
    while True:
        rounds.append(len(dirty))
        until = now + len(dirty) * setting.state_bytes * 8 / setting.slow
        touched = set()
        for name, end in ends.items():
            if now + chance.expovariate(setting.packet_rate) < min(until, end):
                touched.add(name)
        time = now + chance.expovariate(setting.arrivals)
        while time < until:
            name = next(names)
            ends[name] = time + setting.durations.minimum * (1 - chance.random()) ** (-1 / setting.durations.shape)
            touched.add(name)
            time += chance.expovariate(setting.arrivals)
        now = until
        ends = {name: end for name, end in ends.items() if end > now}
        dirty = touched & set(ends)
        if not dirty or len(dirty) >= rounds[-1] or len(rounds) == 30:
            return rounds, len(dirty)


@pytest.mark.parametrize("states", [500, 1500, 6000])
@pytest.mark.parametrize("kind", KINDS)
def test_pre_copy_like_following_every_packet(states, kind):
    setting = Setting(states=states, population=kind)
    runs = range(30 if states < 5000 else 6)
    followed = [follow_pre_copy(setting, seed) for seed in runs]
    found = [pre_copy(setting._replace(seed=seed)) for seed in runs]
    assert {run.rounds[0] for run in found} == {states}
    same([(*rounds, last)[1] for rounds, last in followed], [(*run.rounds, run.last)[1] for run in found])
    same([sum(rounds) + last for rounds, last in followed], [run.copied for run in found])


def same(theirs, ours):
    """Two samples of one distribution: their means differ by less than five of the difference's deviations."""
    deviation = math.sqrt((np.var(theirs, ddof=1) + np.var(ours, ddof=1)) / len(ours))
    assert abs(np.mean(theirs) - np.mean(ours)) < 5 * deviation


# -- wrong input

WRONG = {
    "states": (0, -1, 1.5, True, "9"), "state_bytes": (0, 0.5), "shared_bytes": (-1, 2.0), "group": (0, 1.5), "seed": (-1, 1.0),
    "packet_rate": (-1, math.nan, math.inf, "x"), "round_trip": (-1e-9, math.inf), "slow": (0, -1, math.nan),
    "fast": (0, math.inf), "population": ("old", None),
}


@pytest.mark.parametrize("name, value", [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_setting_is_named(name, value):
    with pytest.raises(UsageError, match=f"^{name}: got "):
        simulate(Setting(**{"states": 10, name: value}))


@pytest.mark.parametrize("durations, name", [((0.1, 0.1), "mean"), ((0.2, 0), "minimum"), ((math.inf, 0.1), "mean"),
                                             ((0.2, math.nan), "minimum"), (("1", 0.1), "mean")])
def test_wrong_durations_are_named(durations, name):
    with pytest.raises(UsageError, match=f"^{name}: got "):
        simulate(Setting(states=10, durations=Durations(*durations)))


def test_patience_that_nothing_can_meet():
    with pytest.raises(UsageError, match="^patience: got 0.01 s, but one state takes 0.05"):
        simulate(Setting(states=10, round_trip=0.05), m.Policy(patience=0.01))


@pytest.mark.parametrize("interval", [0, -1, math.inf, math.nan])
def test_a_wrong_interval_is_named(interval):
    with pytest.raises(UsageError, match="^interval: got "):
        simulate(Setting(states=10), interval=interval)
