"""The evaluation and the tuned factor against a plain evaluator that goes packet by packet."""
from collections import Counter, OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowos import UsageError
from flowos.services.offload import tfo
from flowos.services.offload_evaluation import STRATEGIES, Evaluation, Served, figures, strategy
from flowos.services.offload_trace import Profile, Trace
from flowos.services.offload_tuning import Tuner

IDS = 12


def rates_after(bins, scales):
    """Give the rates by scale and id after some bins, in single precision as counters have it."""
    rates = np.zeros((len(scales), IDS), "f4")
    for packets in bins:
        counts = np.array([packets.count(id) for id in range(IDS)], "f4")
        for number, scale in enumerate(scales):
            rates[number] += np.float32(scales[0] / scale) * (counts * np.float32(1 / scales[0]) - rates[number])
            rates[number][rates[number] < 1e-6] = 0
    return rates


def plain(name, bins, n, scales, factor, most_changes):
    """Serve bins of ids packet by packet; give [(left, changed)]."""
    result, entries, uses = [], OrderedDict(), Counter()
    for number, packets in enumerate(bins):
        left = changed = 0
        if name == "bin-optimal":
            best = sorted(Counter(id for id in packets if id >= 0).items(), key=lambda item: (-item[1], item[0]))[:n]
            changed = sum(id not in entries for id, _ in best)
            entries = OrderedDict(best)
        for id in packets:
            if id in entries:
                entries.move_to_end(id)
            else:
                left += 1
            if name in ("lru", "lfu") and id >= 0:
                if id not in entries and len(entries) == n:
                    changed += 1
                    out = min(entries, key=uses.__getitem__) if name == "lfu" else next(iter(entries))
                    del entries[out], uses[out]        # of those used as often, the first is the longest ago
                entries[id] = None
                uses[id] += 1
        if name == "tfo":
            known = [[id for id in some if id >= 0] for some in bins[:number + 1]]
            chosen = tfo(np.array(sorted(entries), "i4"), rates_after(known, scales), n, factor, most_changes).installed.tolist()
            changed = len(set(chosen) - set(entries))
            entries = OrderedDict.fromkeys(chosen)
        result.append((left, changed))
    return result


@settings(max_examples=60, deadline=None)
@given(bins=st.lists(st.lists(st.integers(-1, IDS - 1), max_size=40), min_size=1, max_size=8), ns=st.sets(st.integers(1, 6), min_size=1),
       scales=st.sampled_from([(10.0,), (10.0, 60.0), (1.0, 2.0, 8.0)]), factor=st.sampled_from([1.0, 2.0]),
       most_changes=st.none() | st.integers(0, 2), warm=st.integers(0, 2))
def test_every_strategy_does_as_the_plain_one(bins, ns, scales, factor, most_changes, warm):
    contestants = {(name, n): strategy(name, n, IDS, factor, most_changes) for name in STRATEGIES for n in ns}
    evaluation = Evaluation(contestants, max(ns), IDS, scales, warm)
    for packets in bins:
        evaluation.serve(np.array(packets, "i4"))
    for (name, n), served in evaluation.results.items():
        assert [tuple(bin) for bin in served] == plain(name, bins, n, scales, factor, most_changes)[warm:], (name, n)
    assert evaluation.totals == [len(packets) for packets in bins[warm:]]
    assert evaluation.uncovered == [packets.count(-1) for packets in bins[warm:]]


def test_no_choice_for_a_bin_leaves_less_than_bin_optimal():
    trace, ns = Trace(Profile(prefixes=2000, packets=3000.0, zipf=1.1), 4), (10, 100)
    evaluation = Evaluation({(name, n): strategy(name, n, 2000) for name in ("tfo", "bin-optimal") for n in ns}, 100, 2000)
    for _ in range(30):
        evaluation.serve(np.concatenate([next(trace) for _ in range(10)]))
    for n in ns:
        pairs = list(zip(evaluation.results["bin-optimal", n], evaluation.results["tfo", n]))
        assert all(best.left <= ours.left for best, ours in pairs)
        assert sum(ours.left for _, ours in pairs[3:]) < 2 * sum(best.left for best, _ in pairs[3:])
    found = evaluation.summary()
    assert found["tfo", 10]["gain"] < found["tfo", 100]["gain"] < found["bin-optimal", 100]["gain"] < 1


def test_figures_sum_up():
    done = figures([Served(10, 4), Served(30, 0), Served(20, 8)], [100, 100, 200], 10)
    assert done == {"gain": 0.85, "left_median": 2.0, "left_max": 3.0, "changes_median": 4.0, "changes_max": 8, "changes_mean": 4.0}


def fading_costs(bins, n, price, factors, half_life):
    """Give the factor that was cheapest so far after each bin, each run by itself."""
    costs, entries, best = np.zeros(len(factors)), [np.empty(0, "i4") for _ in factors], []
    for number, packets in enumerate(bins):
        counts = np.bincount(packets, minlength=IDS)
        for which, factor in enumerate(factors):
            left = sum(1 for id in packets if id not in set(entries[which].tolist()))
            done = tfo(entries[which], counts[None, :], n, factor)
            if number:
                costs[which] = costs[which] * 0.5 ** (1 / half_life) + left + price * len(done.added)
            entries[which] = done.installed
        best.append(factors[int(np.argmin(costs))])
    return best


@settings(max_examples=40, deadline=None)
@given(bins=st.lists(st.lists(st.integers(0, IDS - 1), min_size=1, max_size=40), min_size=2, max_size=10), n=st.integers(1, 4),
       price=st.sampled_from([0.0, 1.0, 7.0]), half_life=st.sampled_from([1.0, 16.0]))
def test_the_tuner_follows_the_factor_that_would_have_been_cheapest(bins, n, price, half_life):
    factors = (1.0, 2.0, 4.0)
    tuner = Tuner(n, price, factors, half_life)
    assert tuner.factor == 2.0
    chosen = []
    for packets in bins:
        counts = np.bincount(packets, minlength=IDS)
        wanted = sorted(np.flatnonzero(counts).tolist(), key=lambda id: (-counts[id], id))[:n]
        chosen.append(tuner.step(counts, np.array(wanted, "i4")))
    assert chosen[1:] == fading_costs(bins, n, price, factors, half_life)[1:]


def test_a_dear_change_makes_for_fewer():
    changes = []
    for price in (0, 20, 2000):
        contestant = strategy("tfo", 20, 400, Tuner(20, price))
        evaluation = Evaluation({"tuned": contestant}, 20, 400, (10.0,), warm=20)
        rng = np.random.default_rng(1)
        for bin in range(150):                         # what is popular moves on, slowly
            evaluation.serve(((rng.pareto(0.8, 2000) * 5 + bin / 8) % 400).astype("i4"))
        changes.append(sum(bin.changes for bin in evaluation.results["tuned"]))
    assert changes[0] > changes[1] > changes[2]


@pytest.mark.parametrize("make, said", [
    (lambda: strategy("fifo", 1, 1), "fifo: no such strategy; expected tfo, bin-optimal, lru, lfu"),
    (lambda: strategy("tfo", 0, 1), "n: got 0"), (lambda: strategy("lru", 0, 1), "n: got 0"),
    (lambda: strategy("bin-optimal", 0, 1), "n: got 0"), (lambda: strategy("tfo", 1, 1, 0.5), "factor: got 0.5"),
    (lambda: Tuner(0, 1), "n: got 0"), (lambda: Tuner(1, -1), "price: got -1"), (lambda: Tuner(1, "1"), "price: got '1'"),
    (lambda: Tuner(1, float("nan")), "price: got nan"), (lambda: Tuner(1, 1, ()), "factors: expected one at least"),
    (lambda: Tuner(1, 1, (0.5,)), "factor: got 0.5"), (lambda: Tuner(1, 1, half_life=0), "half_life: got 0"),
    (lambda: Evaluation({}, 1, 4).serve(np.array([4], "i4")), "id 4: expected"),
    (lambda: figures([], [], 10), "no bin of traffic")])
def test_what_is_wrong_is_named(make, said):
    with pytest.raises(UsageError) as found:
        make()
    assert said in str(found.value)
