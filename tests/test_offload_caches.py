"""LRU and LFU against the plainest dictionaries that do the same."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowos import UsageError
from flowos.services.offload_caches import LFU, LRU


def plain(kind, n, packets):
    """Give (misses, replaced, entries) of a cache that looks for its victim among all entries."""
    entries, misses, replaced = {}, 0, 0               # id: (uses, time of the last use)
    for now, id in enumerate(packets):
        if id in entries:
            entries[id] = entries[id][0] + 1, now
            continue
        misses += 1
        if len(entries) == n:
            replaced += 1
            del entries[min(entries, key=lambda other: entries[other][1 if kind is LRU else slice(None)])]
        entries[id] = 1, now
    return misses, replaced, sorted(entries)


@pytest.mark.parametrize("kind", [LRU, LFU])
@given(n=st.integers(1, 9), packets=st.lists(st.integers(0, 14), max_size=120), cuts=st.integers(1, 40))
def test_caches_do_as_the_plain_ones(kind, n, packets, cuts):
    cache, total = kind(n, 15), np.zeros(2, int)
    for at in range(0, len(packets), cuts):
        total += cache.run(np.array(packets[at:at + cuts], "i4"))
    assert (*total, cache.installed().tolist()) == plain(kind, n, packets)


@pytest.mark.parametrize("kind", [LRU, LFU])
def test_a_long_run_with_a_heavy_tail(kind):
    packets = (np.random.default_rng(1).pareto(0.7, 20_000) * 20 % 400).astype("i4")
    cache = kind(50, 400)
    assert (*cache.run(packets), cache.installed().tolist()) == plain(kind, 50, packets.tolist())


@pytest.mark.parametrize("kind", [LRU, LFU])
def test_an_id_out_of_range_is_named(kind):
    with pytest.raises(UsageError, match="id 4: expected 0 to 3"):
        kind(2, 4).run(np.array([1, 4], "i4"))
    with pytest.raises(UsageError, match="id -1"):
        kind(2, 4).run(np.array([-1], "i4"))
    for n, prefixes in ((0, 4), (2, 0), (1.5, 4), (True, 4)):
        with pytest.raises(UsageError, match="expected a number from 1"):
            kind(n, prefixes)
