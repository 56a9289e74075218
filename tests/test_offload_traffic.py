"""Rates by prefix against the weighted means that they stand for."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowos import UsageError
from flowos.services.offload_traffic import Traffic


@given(st.lists(st.lists(st.integers(-1, 9), max_size=30), max_size=12), st.sampled_from([(1,), (10, 60), (2, 3, 600.5)]), st.booleans())
def test_rates_are_means_that_fade(bins, scales, weighed):
    traffic, history, missed = Traffic(scales, prefixes=1), [], 0
    for number, ids in enumerate(bins):
        weights = np.arange(len(ids), dtype="u4") + number if weighed else np.ones(len(ids), "u4")
        half = len(ids) // 2                           # in two parts, as it comes
        for part in (slice(None, half), slice(half, None)):
            traffic.count(np.array(ids[part], "i4"), weights[part] if weighed else None)
        counted = [sum(int(weight) for id, weight in zip(ids, weights) if id == wanted) for wanted in range(10)]
        history.append(counted)
        missed += ids.count(-1)
        assert traffic.counts[:10].tolist() == counted[:len(traffic.counts)]
        traffic.tick()
        assert not traffic.counts.any()
    for scale, rates in zip(scales, traffic.rates):
        share, ages = scales[0] / scale, np.arange(len(history))[::-1]
        expected = (share * (1 - share) ** ages) @ np.array(history).reshape(-1, 10) / scales[0]
        known = min(10, len(rates))
        assert rates[:known] == pytest.approx(expected[:known], rel=1e-4, abs=2e-5) and not expected[known:].any()
    assert traffic.ticks == len(bins) and traffic.uncounted == missed and traffic.step == scales[0]


def test_a_rate_of_a_prefix_that_fell_silent_becomes_nothing():
    traffic = Traffic((1, 2), prefixes=4)
    traffic.count(np.array([2], "i4"))
    for _ in range(40):
        traffic.tick()
    assert not traffic.rates.any()


def test_what_is_known_of_an_id_can_be_forgotten():
    traffic = Traffic((10, 60), prefixes=4)
    for _ in range(2):
        traffic.count(np.array([1, 2], "i4"))
        traffic.tick()
    traffic.count(np.array([1, 2], "i4"))
    traffic.forget(1)
    assert traffic.counts.tolist() == [0, 0, 1, 0] and (traffic.rates > 0).tolist() == [[False, False, True, False]] * 2
    assert traffic.statistics() == {"ticks": 2, "ids": 4, "uncounted": 0, "bytes": 4 * 8 + 2 * 4 * 4}
    traffic.reserve(1000)
    assert traffic.rates.shape == (2, 1000) and traffic.rates[0, 2] > 0 and traffic.counts[2] == 1


@pytest.mark.parametrize("scales", [(), (0,), (-1, 2), (10, 10), (60, 10), (10, float("inf")), (float("nan"),), "ab", None, 10])
def test_scales_that_do_not_rise_are_named(scales):
    with pytest.raises(UsageError, match="time scales: got"):
        Traffic(scales)


def test_other_errors():
    traffic = Traffic(prefixes=4)
    for prefixes in (0, 1.5, (1 << 28) + 1):
        with pytest.raises(UsageError, match="prefixes: got"):
            Traffic(prefixes=prefixes)
    with pytest.raises(UsageError, match="id -2: expected"):
        traffic.count(np.array([1, -2], "i4"))
    with pytest.raises(UsageError, match="2 ids and 1 weights"):
        traffic.count(np.array([1, 2], "i4"), np.array([1], "u4"))
    assert not traffic.counts.any()
    for id in (-1, 4):
        with pytest.raises(UsageError, match=f"id {id}: expected 0 to 3"):
            traffic.forget(id)
