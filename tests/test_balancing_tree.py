"""The tree of load and the table of prefixes, against dictionaries and exhaustive search.

Small key spaces, of 8 and 16 bits, so that every key can be asked.
"""
import math
from fractions import Fraction

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flowos import UsageError
from flowos.services.balancing_table import PrefixTable
from flowos.services.radix import LoadTree


def keys(values, width=1):
    """Give keys as an array of bytes."""
    return numpy.array([list(int(value).to_bytes(width, "big")) for value in values], "u1").reshape(-1, width)


# ---- the tree of load -----------------------------------------------------------------------------

PREFIX = st.integers(0, 8).flatmap(lambda length: st.tuples(st.integers(0, (1 << length) - 1), st.just(length)))


def disjoint(prefixes):
    """Keep of prefixes those that overlap none before them."""
    kept = []
    for value, length in prefixes:
        if not any(value >> max(0, length - other) == was >> max(0, other - length) for was, other in kept):
            kept.append((value, length))
    return kept


@given(st.lists(PREFIX, max_size=12), st.data())
def test_disjoint_loads_are_kept_exactly(prefixes, data):
    tree, per_key = LoadTree(8), [Fraction(0)] * 256
    for value, length in disjoint(prefixes):
        load = data.draw(st.integers(0, 1000))
        tree.add(bytes([value << (8 - length)]), length, load)
        for key in range(value << (8 - length), (value + 1) << (8 - length)):
            per_key[key] += Fraction(load, 1 << (8 - length))
    tree._check()
    for length in range(9):
        for value in range(1 << length):
            first = value << (8 - length)
            expected = sum(per_key[first:first + (1 << (8 - length))])
            assert math.isclose(tree.load(bytes([first]), length), expected, rel_tol=1e-12, abs_tol=1e-9)
    assert math.isclose(sum(load for _, _, load in tree.rows()), tree.total, abs_tol=1e-9)
    least = data.draw(st.integers(1, 500))
    heavy = {key[0] for key, _ in tree.heavy(8, least)}
    assert all((key in heavy) == (per_key[key] >= least) for key in range(256) if abs(per_key[key] - least) > 1e-6)


def test_every_key_is_counted_exactly_without_a_bound():
    tree, rng = LoadTree(16), numpy.random.default_rng(3)
    drawn = rng.zipf(1.3, 20000) % 65536
    tree.count(keys(drawn, 2), numpy.ones(len(drawn)))
    tree._check()
    for value, times in zip(*numpy.unique(drawn, return_counts=True)):
        assert tree.load(int(value).to_bytes(2, "big"), 16) == times


@given(st.integers(4, 200), st.integers(0, 2**32), st.floats(0.8, 2))
@settings(max_examples=30)
def test_bounded_counters_stay_so_and_lose_nothing(counters, seed, exponent):
    tree, rng = LoadTree(16, counters), numpy.random.default_rng(seed)
    ranks = numpy.arange(1, 2001) ** -exponent
    drawn = rng.permutation(65536)[:2000][rng.choice(2000, 30000, p=ranks / ranks.sum())]
    for start in range(0, len(drawn), 1000):
        tree.count(keys(drawn[start:start + 1000], 2), numpy.ones(min(1000, len(drawn) - start)))
        tree._check()
    assert tree.leaves <= counters and tree.total == len(drawn) == tree.samples
    assert math.isclose(sum(load for _, _, load in tree.rows()), tree.total)


@given(st.integers(0, 2**32), st.floats(0.5, 2))
@settings(max_examples=20)
def test_what_is_off_is_bounded_while_the_counters_suffice(seed, exponent):
    counters = 4096
    tree, rng = LoadTree(16, counters), numpy.random.default_rng(seed)
    ranks = numpy.arange(1, 301) ** -exponent
    drawn = rng.permutation(65536)[:300][rng.choice(300, 20000, p=ranks / ranks.sum())]
    tree.count(keys(drawn, 2), numpy.ones(len(drawn)))
    assert tree.leaves < counters
    for length in (4, 9, 16):
        true = numpy.bincount(drawn >> (16 - length), minlength=1 << length)
        for value in set((drawn >> (16 - length)).tolist()):
            off = abs(tree.load((value << (16 - length)).to_bytes(2, "big"), length) - true[value])
            assert off <= length * (2 * len(drawn) / counters + 1)


def test_a_hot_key_is_resolved_to_its_last_bit():
    tree, rng = LoadTree(32, 1024), numpy.random.default_rng(4)
    drawn = rng.integers(0, 1 << 32, 60000)
    drawn[rng.random(60000) < 0.3] = 0x0a010203
    tree.count(keys(drawn, 4), numpy.ones(60000))
    assert [key for key, _ in tree.heavy(32, 6000)] == [bytes([10, 1, 2, 3])]
    assert 0.25 * 60000 < tree.load(bytes([10, 1, 2, 3]), 32) <= 0.31 * 60000


def test_the_hottest_of_several_are_told_apart_as_they_change():
    tree, rng = LoadTree(32, 2048), numpy.random.default_rng(5)
    for hot in (0x01020304, 0xfffefdfc, 0x80000001):
        for _ in range(6):
            drawn = rng.integers(0, 1 << 32, 20000)
            drawn[rng.random(20000) < 0.2] = hot
            tree.decay(0.5)
            tree.count(keys(drawn, 4), numpy.ones(20000))
            tree._check()
        assert [int.from_bytes(key, "big") for key, _ in tree.heavy(32, 0.1 * tree.total)] == [hot]


def test_one_packet_in_a_hundred_tells_the_load():
    tree, rng = LoadTree(8), numpy.random.default_rng(6)
    drawn = rng.integers(0, 4, 400000)
    for start in range(0, 400000, 1001):                     # sizes with which a rhythm would show
        part = drawn[start:start + 1001]
        tree.count(keys(part), numpy.full(len(part), 7.0), 100)
    assert 3700 < tree.samples < 4300                        # mean 4000, standard deviation 63
    assert abs(tree.total / 2800000 - 1) < 0.08
    for key in range(4):
        assert abs(tree.load(bytes([key]), 8) / 700000 - 1) < 0.16


def test_samples_do_not_fall_in_step_with_the_traffic():
    tree = LoadTree(8)
    tree.count(keys([1] + [0] * 99) .repeat(1, 0)[numpy.arange(200000) % 100], numpy.ones(200000), 100)
    assert tree.load(bytes([1]), 8) < 8000                   # in step it would be all or nothing: 200,000 or 0
    assert tree.load(bytes([1]), 8) > 0


@given(st.lists(st.tuples(PREFIX, st.integers(0, 100)), max_size=10), st.lists(st.tuples(PREFIX, st.integers(0, 100)), max_size=10))
def test_merged_trees_have_the_load_of_both(one, other):
    trees = LoadTree(8), LoadTree(8)
    for tree, rows in zip(trees, (one, other)):
        for (value, length), load in rows:
            tree.add(bytes([value << (8 - length)]), length, load)
    total = trees[0].total + trees[1].total
    trees[0].merge(trees[1])
    trees[0]._check()
    assert math.isclose(trees[0].total, total, abs_tol=1e-9)
    trees[0].decay(0.25)
    assert math.isclose(trees[0].total, total / 4, abs_tol=1e-9)


def test_a_tree_does_not_change_while_it_is_looked_at():
    tree = LoadTree(8)
    with memoryview(tree):
        with pytest.raises(UsageError, match="looked at"):
            tree.count(keys([1]), numpy.ones(1))
        with pytest.raises(UsageError, match="looked at"):
            tree.decay(0.5)
    tree.count(keys([1]), numpy.ones(1))
    assert tree.total == 1


@pytest.mark.parametrize("wrong", [
    lambda: LoadTree(0), lambda: LoadTree(145), lambda: LoadTree("8"), lambda: LoadTree(8, 1), lambda: LoadTree(8, 2.5),
    lambda: LoadTree(8).add(b"ab", 8, 1), lambda: LoadTree(8).add(b"a", 9, 1), lambda: LoadTree(8).add(b"a", 8, -1),
    lambda: LoadTree(8).add(b"a", 8, float("nan")), lambda: LoadTree(8).add("a", 8, 1), lambda: LoadTree(8).decay(1.5),
    lambda: LoadTree(8).count(keys([1]), numpy.ones(2)), lambda: LoadTree(16).count(keys([1]), numpy.ones(1)),
    lambda: LoadTree(8).count(keys([1]), numpy.ones(1), 0.5), lambda: LoadTree(8).count(keys([1]), numpy.ones(1), float("inf")),
    lambda: PrefixTable(8, 0).extend(numpy.zeros(1), numpy.zeros(1, "i4")), lambda: LoadTree(8).merge(LoadTree(16)),
    lambda: LoadTree(8).heavy(9, 1), lambda: LoadTree(8).heavy(8, 0), lambda: PrefixTable(0, 0), lambda: PrefixTable(8, -1),
    lambda: PrefixTable(8, 0).add(b"ab", 1, 0), lambda: PrefixTable(8, 0).add(b"a", 9, 0), lambda: PrefixTable(8, 0).add(b"a", 1, -1),
    lambda: PrefixTable(8, 0).owners(keys([1], 2)), lambda: PrefixTable(8, 0).partition(LoadTree(16)),
])
def test_what_does_not_fit_is_refused(wrong):
    with pytest.raises(UsageError):
        wrong()


# ---- the table of prefixes --------------------------------------------------------------------------

def owner_of(entries, key, bits=8):
    """Say who owns a key: the reference, by looking at every prefix."""
    return max((length, owner) for (value, length), owner in entries.items() if key >> (bits - length) == value)[1]


TABLE = st.dictionaries(PREFIX, st.integers(0, 3), max_size=12)


def table_of(entries):
    table = PrefixTable(8, entries[0, 0])
    for (value, length), owner in entries.items():
        table.add(bytes([value << (8 - length)]), length, owner)
    return table


@given(TABLE, st.integers(0, 3))
def test_the_longest_prefix_decides(entries, default):
    entries = {**entries, (0, 0): default}
    table = table_of(entries)
    assert table.owners(keys(range(256))).tolist() == [owner_of(entries, key) for key in range(256)]
    assert {(int.from_bytes(key, "big") >> (8 - length), length): owner for key, length, owner in table.prefixes()} == entries


@given(TABLE, TABLE, st.integers(0, 3), st.lists(st.integers(0, 9), min_size=16, max_size=16))
def test_partitions_cover_the_space_once(one, other, default, loads):
    one, other = {**one, (0, 0): default}, {**other, (0, 0): 3 - default}
    tree = LoadTree(8)
    for value, load in enumerate(loads):
        tree.add(bytes([value << 4]), 4, load)
    chunks, owners, others = table_of(one).partition(tree, 5, table_of(other))
    at = 0
    for chunk, owner, its in zip(chunks, owners, others):
        size = 1 << (8 - int(chunk["length"]))
        assert int(chunk["bits"][0]) == at and chunk["tree"] == 5
        assert {owner_of(one, key) for key in range(at, at + size)} == {owner}
        assert {owner_of(other, key) for key in range(at, at + size)} == {its}
        assert math.isclose(chunk["load"], sum(loads[key >> 4] / 16 for key in range(at, at + size)), abs_tol=1e-9)
        at += size
    assert at == 256


@given(TABLE, st.integers(0, 3))
def test_an_aggregated_table_says_the_same_with_no_more(entries, default):
    entries = {**entries, (0, 0): default}
    table = table_of(entries)
    fewer = table.aggregated()
    assert fewer.owners(keys(range(256))).tolist() == table.owners(keys(range(256))).tolist()
    assert len(fewer.prefixes()) <= len(table.prefixes())
    assert fewer.aggregated().prefixes() == fewer.prefixes()


def fewest(leaves):
    """Give {owner around: fewest prefixes} to make these leaves, by trying every owner at every node."""
    owners = set(leaves)
    if len(leaves) == 1:
        return {around: int(around != leaves[0]) for around in range(4)}
    low, high = fewest(leaves[:len(leaves) // 2]), fewest(leaves[len(leaves) // 2:])
    inside = {owner: low[owner] + high[owner] for owner in range(4)}
    return {around: min(inside[owner] + (owner != around) for owner in range(4)) for around in range(4)} if owners else {}


@given(st.lists(st.integers(0, 3), min_size=16, max_size=16))
def test_no_table_is_smaller_than_the_aggregated(leaves):
    table = PrefixTable(4, leaves[0])
    for value, owner in enumerate(leaves):
        table.add(bytes([value << 4]), 4, owner)
    # The whole space has an owner in any case, whichever: one prefix more than what is below it.
    low, high = fewest(leaves[:8]), fewest(leaves[8:])
    assert len(table.aggregated().prefixes()) == 1 + min(low[owner] + high[owner] for owner in range(4))


# ---- growth and ageing in any order -------------------------------------------------------------------

class Counting(RuleBasedStateMachine):
    """Count, age, merge and clear in any order: the total is right and the shape holds."""

    def __init__(self):
        super().__init__()
        self.tree, self.total = LoadTree(16, 32), 0.0

    @rule(values=st.lists(st.integers(0, 65535), max_size=40), weight=st.integers(0, 100))
    def count(self, values, weight):
        self.tree.count(keys(values, 2), numpy.full(len(values), float(weight)))
        self.total += len(values) * weight

    @rule(values=st.lists(st.integers(0, 65535), max_size=20))
    def merge(self, values):
        other = LoadTree(16, 64, seed=9)
        other.count(keys(values, 2), numpy.ones(len(values)))
        self.tree.merge(other)
        self.total += len(values)

    @rule(factor=st.sampled_from([0, 0.5, 1]))
    def decay(self, factor):
        self.tree.decay(factor)
        self.total *= factor

    @precondition(lambda self: self.total)
    @rule()
    def clear(self):
        self.tree.clear()
        self.total = 0.0

    @invariant()
    def holds(self):
        self.tree._check()
        assert math.isclose(self.tree.total, self.total, rel_tol=1e-9, abs_tol=1e-9)


TestCounting = Counting.TestCase
