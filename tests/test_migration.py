"""The tables of migration by themselves: closed, complete, and as the page draws them.

That they are right is for test_migration_model.py to find out; here is what can be said of each
row alone, of guards and of the policy.
"""
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowos import FlowOSError, UsageError
from flowos.services import migration as m
from flowos.services.migration_diagram import machines, markdown, mermaid
from flowos.services.migration_groups import pick
from flowos.services.migration_meter import EndingRate

ROOT = Path(__file__).resolve().parent.parent
VIEW = m.View(now=5.0, resident=10, rate=0.0)
SENT_BY_A = {m.OPEN, m.COMMIT, m.RECALL, m.DRAINED, m.RETURN, m.ACCEPT, m.STAGE, m.FREED}
SENT_BY_B = {m.OPENED, m.STAGED, m.CONFIRMED, m.RECALLED, m.RETURNED, m.ACCEPTED}


def reached(rows, start):
    """Give the states that a table leads to from one of them."""
    found, waiting = {start}, [start]
    while waiting:
        state = waiting.pop()
        for row in rows:
            if row.state == state and row.next not in found:
                found.add(row.next)
                waiting.append(row.next)
    return found


@pytest.mark.parametrize("name", machines())
def test_every_state_can_be_reached(name):
    rows = machines()[name]
    assert reached(rows, rows[0].state) >= {row.state for row in rows}


@pytest.mark.parametrize("name", machines())
def test_no_row_is_dead(name):
    seen = {}
    for row in machines()[name]:
        assert row.guard in m.GUARDS
        assert "" not in seen.setdefault((row.state, row.event), []), f"{row}: the row before takes every case"
        seen[row.state, row.event].append(row.guard)
    assert all(guards[-1] == "" for guards in seen.values())


def test_both_ends_speak_of_the_same_messages():
    assert {row.event for row in m.DESTINATION} - {m.PEER_DEAD} == SENT_BY_A
    heard = {row.event for rows in (m.PHASES, m.BATCHES) for row in rows}
    assert SENT_BY_B <= heard
    assert {kind for row in m.DESTINATION for kind in row.actions if kind in heard} == SENT_BY_B
    sent = {kind for rows in (m.PHASES, m.BATCHES) for row in rows for kind in row.actions} & SENT_BY_A
    assert sent | {m.STAGE, m.FREED} == SENT_BY_A       # a freeze stages; a connection's end frees


@pytest.mark.parametrize("phase", {row.state for row in m.PHASES})
@pytest.mark.parametrize("event", [m.TICK, m.ABORT, m.PEER_DEAD])
def test_what_may_always_happen(phase, event):
    source, _ = m.advance(m.Source(phase, 0.0), event, VIEW, m.Policy())
    assert source.phase in {row.state for row in m.PHASES}


@pytest.mark.parametrize("phase, event", [(m.SERVING, m.RETURNED), (m.IDLE, m.START), (m.COPYING, m.ACCEPTED),
                                          (m.IDLE, "nonsense")])
def test_what_cannot_happen_is_said(phase, event):
    with pytest.raises(UsageError, match=f"^{event}: cannot happen while {phase}$") as caught:
        m.advance(m.Source(phase), event, VIEW, m.Policy())
    assert isinstance(caught.value, (FlowOSError, ValueError))


def test_a_batch_that_is_not_in_flight_is_said():
    with pytest.raises(UsageError, match="^staged: no batch 3 is in flight$"):
        m.advance(m.Source(m.COPYING), m.STAGED, VIEW, m.Policy(), batch=3)
    with pytest.raises(UsageError, match="^drained: cannot happen while standby$"):
        m.answer(m.STANDBY, m.DRAINED)


# -- guards

@pytest.mark.parametrize("idle, resident, rate, expected", [
    (0.4, 10, 0.0, m.IDLE),                 # too early, whatever the rate
    (0.6, 10, 9.0, m.COPYING),              # fewer than all of them per second
    (0.6, 10, 10.0, m.IDLE),
    (0.6, 10, 11.0, m.IDLE),
    (30.0, 10, 1e9, m.COPYING),             # long enough
    (30.0, 0, 0.0, m.HANDOVER),
    (0.0, 0, 1e9, m.HANDOVER),
])
def test_when_the_idle_phase_ends(idle, resident, rate, expected):
    source, _ = m.advance(m.Source(m.IDLE, since=100.0), m.TICK, m.View(100.0 + idle, resident, rate), m.Policy())
    assert source.phase == expected


def test_a_rate_in_states_per_second():
    policy = m.Policy(expiry_rate=50.0, expiry_share=0.0)
    for rate, expected in ((50.0, m.IDLE), (49.0, m.COPYING)):
        assert m.advance(m.Source(m.IDLE), m.TICK, VIEW._replace(rate=rate), policy)[0].phase == expected


def test_not_more_batches_than_the_window():
    source, policy = m.Source(m.COPYING), m.Policy(window=2)
    for expected in (1, 2, 2):
        source, _ = m.advance(source, m.TICK, VIEW, policy)
        assert len(source.batches) == expected


def test_no_handover_while_a_batch_is_in_flight():
    source, _ = m.advance(m.Source(m.COPYING), m.TICK, VIEW, m.Policy())
    source, actions = m.advance(source, m.TICK, VIEW._replace(resident=0), m.Policy())
    assert source.phase == m.COPYING and actions == []


def test_a_late_batch_halves_the_next():
    policy, view = m.Policy(batch=8, patience=1.0), VIEW
    source, sizes = m.Source(m.COPYING), []
    for number in range(1, 6):
        source, actions = m.advance(source, m.TICK, view, policy)
        sizes.append(actions[-1].size)
        view = view._replace(now=view.now + 100.0)
        source, actions = m.advance(source, m.TICK, view, policy)
        assert actions == [m.Action(m.RECALL, number)]
        source, actions = m.advance(source, m.STAGED, view, policy, number)     # it crossed with the recall
        assert actions == []
        source, actions = m.advance(source, m.RECALLED, view, policy, number)
        assert actions == [m.Action(m.THAW, number)]
    assert sizes == [8, 4, 2, 1, 1]
    for number, size in ((6, 1), (7, 2), (8, 4), (9, 8), (10, 8)):
        source, actions = m.advance(source, m.TICK, view, policy)
        assert actions == [m.Action(m.FREEZE, number, size)]
        for event, kind in ((m.STAGED, m.COMMIT), (m.CONFIRMED, m.FORGET)):
            source, actions = m.advance(source, event, view, policy, number)
            assert actions == [m.Action(kind, number)]


def test_smaller_batches_have_more_time():
    policy, source = m.Policy(batch=8, patience=1.0), m.Source(m.COPYING, size=2)
    source, _ = m.advance(source, m.TICK, VIEW, policy)
    for now, expected in ((VIEW.now + 3.9, []), (VIEW.now + 4.1, [m.Action(m.RECALL, 1)])):
        source, actions = m.advance(source, m.TICK, VIEW._replace(now=now), policy)
        assert actions == expected


# -- policy

WRONG = {
    "batch": (0, -1, 1.5, True, "9"), "window": (0, 2.0, None), "expiry_rate": (-1, math.nan, math.inf, "x"),
    "expiry_share": (-0.1, True), "idle_least": (-1, math.inf), "idle_most": (-1, math.nan, 0.1),
    "patience": (-1, "1"), "rate_window": (0, -1, math.inf),
}


@pytest.mark.parametrize("name, value", [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_policy_is_named(name, value):
    with pytest.raises(UsageError, match=f"^{name}: got "):
        m.Policy(**{name: value}).check()
    assert set(WRONG) == set(m.Policy._fields)


# -- what batches are made of, and the rate

@given(st.lists(st.integers(1, 9), max_size=20), st.integers(1, 30))
def test_a_batch_is_the_oldest_groups_that_fit(sizes, size):
    chosen = pick(enumerate(sizes), size)
    assert chosen == list(range(len(chosen)))
    assert bool(chosen) == bool(sizes)
    assert sum(sizes[:len(chosen)]) <= size or len(chosen) == 1
    if chosen and len(chosen) < len(sizes):
        assert sum(sizes[:len(chosen) + 1]) > size


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 20)), min_size=2, max_size=40), st.integers(1, 16))
def test_the_rate_is_that_of_the_last_window(steps, window):
    meter, now, ended, rows = EndingRate(window), 0, 0, []
    for step, more in steps:
        now, ended = now + step, ended + more
        meter.add(now, ended)
        rows.append((now, ended))
    # From the last row that is a window old, or the first there is.
    then, before = max((row for row in rows if row[0] <= now - window), default=rows[0])
    assert meter.per_second == pytest.approx((ended - before) / (now - then))


def test_a_clock_that_goes_back_is_said():
    meter = EndingRate(1.0)
    meter.add(2.0, 5)
    assert meter.per_second == 0.0
    for row in ((1.0, 5), (3.0, 4)):
        with pytest.raises(UsageError, match="^now, ended: got "):
            meter.add(*row)
    for window in (0, -1, math.nan, "1", True):
        with pytest.raises(UsageError, match="^window: got "):
            EndingRate(window)


# -- the page

@pytest.mark.parametrize("name", machines())
def test_the_page_has_the_diagrams_and_tables(name):
    page = (ROOT / "docs" / "migration.md").read_text()
    rows = machines()[name]
    assert f"```mermaid\n{mermaid(rows)}\n```" in page
    assert markdown(rows) in page


def test_the_page_has_the_newest_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import migration as benchmark

    result = json.loads(max(benchmark.RESULTS.glob("*-migration.json")).read_text())
    page = benchmark.PAGE.read_text()
    for name, part in benchmark.blocks(result).items():
        assert f"<!-- begin {name} -->\n{part}\n<!-- end -->" in page
