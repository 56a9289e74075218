"""TFO's steps against a plain reading of D3.2 §2.4.2.2, and guards against a switch that matches longest prefixes."""
import ipaddress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowos import UsageError
from flowos.services.offload import ADD, REMOVE, candidates, ranking, tfo
from flowos.services.offload_cover import guards, offloadable
from flowos.services.prefixes import PrefixTable

IDS = 14


def plain(installed, rates, n, factor, most_changes):
    """Choose the next entries as the text says it, one prefix at a time; lower ids first where they tie."""
    order = [sorted((id for id in range(IDS) if scale[id] > 0), key=lambda id: (-scale[id], id)) for scale in rates]
    wanted, turn = [], 0
    while len(wanted) < n and turn < IDS:              # 1: in turn from each time scale
        for ids in order:
            if turn < len(ids) and ids[turn] not in wanted and len(wanted) < n:
                wanted.append(ids[turn])
        turn += 1
    recent, now = rates[0], set(installed)
    additions = sorted(set(wanted) - now, key=lambda id: (-recent[id], id))      # 2 and 3
    removals = sorted(now - set(wanted), key=lambda id: (recent[id], id))
    added = 0
    while len(now) > n:
        now.remove(removals.pop(0))
    while additions and (most_changes is None or added < most_changes):          # 4
        if len(now) < n:
            now.add(additions.pop(0))
        elif removals and recent[additions[0]] > 0 and recent[additions[0]] >= factor * recent[removals[0]]:
            now.remove(removals.pop(0))
            now.add(additions.pop(0))
        else:
            break
        added += 1
    return sorted(now)


cases = st.fixed_dictionaries({
    "installed": st.sets(st.integers(0, IDS - 1)).map(sorted),
    "rates": st.integers(1, 3).flatmap(lambda scales: st.lists(
        st.lists(st.integers(0, 9), min_size=IDS, max_size=IDS), min_size=scales, max_size=scales)),
    "n": st.integers(1, IDS + 2), "factor": st.sampled_from([1.0, 1.5, 2.0, 3.0]),
    "most_changes": st.none() | st.integers(0, 5)})


def round_of(case):
    """Run TFO on a case."""
    return tfo(np.array(case["installed"], "i4"), np.array(case["rates"], "f4"), case["n"], case["factor"], case["most_changes"])


@given(cases)
def test_a_round_is_what_the_text_says(case):
    assert round_of(case).installed.tolist() == plain(**case)


@given(cases)
def test_actions_lead_from_the_old_entries_to_the_new_and_never_overfill(case):
    done, now = round_of(case), set(case["installed"])
    room = max(case["n"], len(now))
    for change in done.actions():
        assert (change.kind == ADD) == (change.id not in now) and change.kind in (ADD, REMOVE)
        (now.add if change.kind == ADD else now.remove)(change.id)
        assert len(now) <= room
    assert sorted(now) == done.installed.tolist() and len(now) <= case["n"]
    assert case["most_changes"] is None or len(done.added) <= case["most_changes"]


@given(cases)
def test_a_second_round_on_the_same_traffic_changes_nothing(case):
    case["most_changes"] = None
    done = round_of(case)
    again = tfo(done.installed, np.array(case["rates"]), case["n"], case["factor"])
    assert not again.actions() and again.installed.tolist() == done.installed.tolist()


@given(cases)
def test_a_larger_factor_changes_less_and_every_change_gains(case):
    case["most_changes"] = None
    recent = np.array(case["rates"])[0]
    few, many = round_of({**case, "factor": case["factor"] + 1}), round_of(case)
    assert set(few.added.tolist()) <= set(many.added.tolist()) and set(few.removed.tolist()) <= set(many.removed.tolist())
    if len(case["installed"]) == case["n"]:
        assert all(recent[into] >= case["factor"] * recent[out] for into, out in zip(many.added, many.removed, strict=True))


def test_a_sudden_heavy_prefix_enters_in_one_round():
    rng = np.random.default_rng(1)
    rates = rng.pareto(1, (3, 5000))
    settled = tfo(np.empty(0, "i4"), rates, 100).installed
    new = int(np.setdiff1d(np.arange(5000), settled)[0])
    rates[0, new] = 10 * rates.max()
    rates[1:, new] = 0
    done = tfo(settled, rates, 100)
    assert new in done.installed and done.added[0] == new


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 45))
def test_a_ranking_is_a_sort(values, most):
    expected = sorted((id for id, value in enumerate(values) if value), key=lambda id: (-values[id], id))
    assert ranking(np.array(values, "u8").astype("i8"), most).tolist() == expected[:most]


def test_candidates_of_ranks_that_agree_reach_further_down():
    rates = np.array([[9, 8, 7, 6, 0], [9, 8, 7, 0, 5]])
    assert candidates(rates, 4).tolist() == [0, 1, 2, 3]
    assert candidates(rates, 9).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("field, value, said", [
    ("installed", [[1]], "expected an array of ids"), ("installed", [0.5], "expected an array of ids"),
    ("installed", [4], "ids go from 4 to 4, and rates are known below 4"), ("installed", [-1], "from -1"),
    ("installed", [1, 1], "an id is there twice"), ("rates", [1.0, 2.0], "expected (time scales, ids)"),
    ("rates", np.empty((0, 4)), "expected (time scales, ids)"), ("n", 0, "n: got 0"), ("n", 1.5, "n: got 1.5"), ("n", True, "n: got True"),
    ("factor", 0.5, "factor: got 0.5"), ("factor", "2", "factor: got '2'"), ("factor", float("nan"), "factor: got nan"),
    ("factor", float("inf"), "factor: got inf"), ("most_changes", -1, "most_changes: got -1"), ("most_changes", 1.0, "most_changes: got 1.0")])
def test_what_is_wrong_is_named(field, value, said):
    good = {"installed": [1], "rates": np.ones((2, 4)), "n": 2, "factor": 2.0, "most_changes": None}
    tfo(**good)
    with pytest.raises(UsageError) as found:
        tfo(**{**good, field: value})
    assert field in str(found.value) and said in str(found.value)


@given(st.sets(st.tuples(st.integers(0, 7), st.integers(0, 255)), min_size=1, max_size=25), st.data())
def test_no_packet_takes_the_way_of_a_shorter_prefix(drawn, data):
    nets = sorted({ipaddress.ip_network((value >> (8 - length) << (32 - length), length)) for length, value in drawn}, key=str)
    table = PrefixTable(nets)
    entries = data.draw(st.sets(st.integers(0, len(nets) - 1)))
    held = guards(np.array(sorted(entries), "i4"), table.parents())
    assert not entries & set(held.tolist())
    switch = PrefixTable([table.prefix(id) for id in [*entries, *held.tolist()]])
    for value in range(256):
        address = ipaddress.IPv4Address(value << 24)
        at = switch.lookup(address)
        way = table.id(switch.prefix(at)) if at >= 0 else -1
        true = table.lookup(address)
        assert way == true if true in entries else way not in entries
    for guard in held.tolist():                        # each is there for an entry right above it
        assert table.parents()[guard] in entries


def test_prefixes_with_many_below_stay():
    table = PrefixTable(["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16", "11.0.0.0/8", "12.0.0.0/8", "13.0.0.0/8"])
    table.remove("13.0.0.0/8")
    assert offloadable(table.parents(), 2).tolist() == [False, True, True, True, True, True, False]
    assert offloadable(table.parents(), 3).tolist()[0]
    for most in (-1, 1.0, True):
        with pytest.raises(UsageError, match="most: got"):
            offloadable(table.parents(), most)
