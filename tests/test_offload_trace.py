"""Generated traffic: what a profile says is what the packets show."""
import numpy as np
import pytest

from flowos import UsageError
from flowos.services.offload_trace import PROFILES, Profile, Trace, pareto_scale

CALM = Profile(prefixes=500, packets=2000.0, flow=5.0, tail=2.5, churn=0.0, swing=0.0, crowds=0.0, strays=0.0)


def counts(trace, seconds):
    """Count packets by second and prefix."""
    return np.array([np.bincount(next(trace), minlength=trace.profile.prefixes) for _ in range(seconds)])


def test_the_same_seed_gives_the_same_packets():
    one, other, third = (Trace(PROFILES["ixp"], seed) for seed in (5, 5, 6))
    for _ in range(3):
        first = next(one)
        assert (first == next(other)).all() and first.tolist() != next(third).tolist()


def test_packets_come_at_the_rate_and_to_the_prefixes_that_were_asked_for():
    trace = Trace(CALM._replace(flat=2.0, zipf=1.2, cut=100.0))
    found = counts(trace, 600)
    assert found.sum() / 600 == pytest.approx(2000, rel=0.03)
    halves = found[:300].sum(1).mean(), found[300:].sum(1).mean()
    assert halves[0] == pytest.approx(halves[1], rel=0.05)             # it begins in the midst, and does not grow
    ranks = np.arange(500)
    law = (ranks + 1 + 2.0) ** -1.2 * np.exp(-ranks / 100)
    shares = found.sum(0)[trace.prefix_at] / found.sum()
    assert shares[:50] == pytest.approx((law / law.sum())[:50], rel=0.25)
    assert shares[50:].sum() == pytest.approx((law / law.sum())[50:].sum(), rel=0.1)


@pytest.mark.parametrize("mean, tail, longest", [(25, 1.2, 1e6), (7, 1.0, 1e4), (1.5, 3.0, 50), (1, 2, 1)])
def test_the_cut_pareto_law_has_the_mean(mean, tail, longest):
    least = pareto_scale(mean, tail, longest)
    uniform = (np.arange(4_000_000) + 0.5) / 4_000_000
    assert np.minimum(least * uniform ** (-1 / tail), longest).mean() == pytest.approx(mean, rel=0.02)


def test_days_swing():
    trace = Trace(CALM._replace(swing=0.8, day=400.0, flow=1.0, speed=500.0))
    rates = counts(trace, 800).sum(1)
    night, noon = rates[[*range(0, 40), *range(360, 440)]].mean(), rates[[*range(160, 240), *range(560, 640)]].mean()
    near = np.sinc(0.2)                                # the mean of a cosine over the fifth of a turn around its top
    assert night == pytest.approx(2000 * (1 - 0.8 * near), rel=0.1) and noon == pytest.approx(2000 * (1 + 0.8 * near), rel=0.05)


def test_a_crowd_comes_and_fades():
    trace = Trace(CALM._replace(crowds=0.0, flow=1.0, crowd_share=0.5, crowd_time=50.0))
    trace.crowds.append((int(trace.prefix_at[-1]), 0.5))               # at the prefix that is least popular
    found = counts(trace, 300)[:, trace.prefix_at[-1]] / 2000
    assert found[5:15].mean() == pytest.approx(0.5 * np.exp(-10 / 50), rel=0.1) and found[250:].mean() < 0.02
    busy = Trace(CALM._replace(crowds=3600.0, crowd_time=5.0))
    counts(busy, 50)
    assert busy.crowds and len({prefix for prefix, _ in busy.crowds}) > 1


def test_popularity_drifts_and_strays_go_anywhere():
    still, moving = Trace(CALM), Trace(CALM._replace(churn=1.0, reach=50.0))
    before = still.prefix_at.copy(), moving.prefix_at.copy()
    for trace in (still, moving):
        counts(trace, 120)
    assert (still.prefix_at == before[0]).all()
    moved = (moving.prefix_at != before[1]).sum()
    assert 5 < moved < 70 and sorted(moving.prefix_at.tolist()) == list(range(500))      # 2 of 500 · 120 / 3600 swaps
    strays = counts(Trace(CALM._replace(strays=1.0)), 200).sum(0)
    assert strays.min() > 0.8 * strays.mean() and strays.sum() / 200 == pytest.approx(2000, rel=0.02)


@pytest.mark.parametrize("field", Profile._fields)
def test_each_field_wrong_in_turn_is_named(field):
    wrong = [-1, -0.5, float("nan"), float("inf"), "1", None, True, {"prefixes": 1.5}.get(field, []), {
        "prefixes": 0, "cut": 0, "packets": 0, "tail": 0, "speed": 0, "day": 0, "crowd_time": 0, "flow": 0.5, "longest": 0.5,
        "reach": 0.5, "swing": 1.1, "churn": 1.1, "crowd_share": 1.1, "strays": 1.1}.get(field, -2)]
    for value in wrong:
        with pytest.raises(UsageError) as found:
            Trace(Profile()._replace(**{field: value}))
        assert str(found.value).startswith(f"{field}: got {value!r}, expected"), found.value


def test_other_errors():
    with pytest.raises(UsageError, match="flow: a mean of 30.0 packets is more than the longest, 20.0"):
        Trace(Profile(flow=30.0, longest=20.0))
    for seed in (-1, 1.0, True):
        with pytest.raises(UsageError, match="seed: got"):
            Trace(Profile(), seed)
