"""The prefix table against a dictionary of networks that is searched from end to end."""
import ipaddress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from flowos import LimitError, UsageError
from flowos.services.prefixes import MOST, PrefixTable


def network(family, value, length):
    """Make a network of the first `length` bits of a value."""
    bits = 32 if family == 4 else 128
    make = ipaddress.IPv4Network if family == 4 else ipaddress.IPv6Network
    return make((value >> (bits - length) << (bits - length), length))


def values(bits):
    """Draw addresses that share long beginnings, so that prefixes nest and lie side by side."""
    runs = st.lists(st.tuples(st.sampled_from([0, 1]), st.integers(1, 12)), min_size=1, max_size=24)

    def joined(parts):
        text = "".join(str(bit) * times for bit, times in parts)
        return int(text[:bits].ljust(bits, "0"), 2)
    return runs.map(joined)


networks = st.one_of(st.builds(network, st.just(4), values(32), st.integers(0, 32)),
                     st.builds(network, st.just(6), values(128), st.integers(0, 128)))


def longest(table, address):
    """Find the longest network that holds an address, one by one."""
    return max((net for net in table if net.version == address.version and address in net), key=lambda net: net.prefixlen, default=None)


class Tables(RuleBasedStateMachine):
    """Insert, remove and look up; `known` is {network: id}."""

    def __init__(self):
        super().__init__()
        self.table, self.known = PrefixTable(), {}

    @rule(net=networks)
    def insert(self, net):
        id = self.table.insert(net)
        assert self.known.setdefault(net, id) == id

    @rule(data=st.data(), there=st.booleans(), net=networks)
    def remove(self, data, there, net):
        if there and self.known:
            net = data.draw(st.sampled_from(sorted(self.known, key=str)))
        if net in self.known:
            assert self.table.remove(net) == self.known.pop(net)
        else:
            with pytest.raises(UsageError, match="not in the table"):
                self.table.remove(net)

    @rule(value4=values(32), value6=values(128), data=st.data())
    def look_up(self, value4, value6, data):
        address4, address6 = ipaddress.IPv4Address(value4), ipaddress.IPv6Address(value6)
        if self.known:
            near = data.draw(st.sampled_from(sorted(self.known, key=str)))
            last = near.broadcast_address
            address4, address6 = (last, address6) if near.version == 4 else (address4, last)
        for address in (address4, address6):
            assert self.table.lookup(address) == self.known.get(longest(self.known, address), -1)

    @invariant()
    def sound(self):
        self.table._check()
        assert len(self.table) == len(self.known) == len(set(self.known.values()))
        parents = self.table.parents()
        for net, id in self.known.items():
            assert net in self.table and self.table.id(net) == id and self.table.prefix(id) == str(net)
            above = [other for other in self.known if other != net and other.version == net.version and net.subnet_of(other)]
            assert parents[id] == self.known.get(max(above, key=lambda other: other.prefixlen, default=None), -1)
        assert sum(parents == -2) == self.table.bound - len(self.known)


TestTables = Tables.TestCase
TestTables.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


@settings(max_examples=30, deadline=None)
@given(nets=st.lists(networks, max_size=30), seed=st.integers(0, 99))
def test_many_at_a_time_are_as_one_by_one(nets, seed):
    rng, table = np.random.default_rng(seed), PrefixTable(nets)
    edges = [net.network_address for net in nets] + [net.broadcast_address for net in nets]
    four = np.array([int(a) for a in edges if a.version == 4] + rng.integers(0, 2**32, 40).tolist(), "u4")
    six = np.array([list(a.packed) for a in edges if a.version == 6] + rng.integers(0, 256, (20, 16)).tolist(), "u1")
    assert table.match4(four).tolist() == [table.lookup(ipaddress.IPv4Address(int(a))) for a in four]
    assert table.match6(six).tolist() == [table.lookup(ipaddress.IPv6Address(bytes(a))) for a in six]


def test_a_large_table_against_sorted_intervals():
    rng = np.random.default_rng(3)
    lengths = rng.integers(8, 33, 40_000)
    starts = (rng.integers(0, 2**32, 40_000) >> (32 - lengths) << (32 - lengths)).astype("i8")
    table, owner = PrefixTable(), {}
    for start, length in zip(starts.tolist(), lengths.tolist()):
        owner[length, start] = table.insert(f"{ipaddress.IPv4Address(start)}/{length}")
    addresses = rng.integers(0, 2**32, 100_000)
    expected = np.full(len(addresses), -1)
    for length in range(8, 33):                        # a longer one overwrites
        keys = sorted(start for bits, start in owner if bits == length)
        found = addresses >> (32 - length) << (32 - length)
        at = np.minimum(np.searchsorted(keys, found), len(keys) - 1)
        hit = np.array(keys)[at] == found
        expected[hit] = [owner[length, start] for start in found[hit].tolist()]
    assert (expected >= 0).any() and (table.match4(addresses.astype("u4")) == expected).all()
    assert table.statistics()["prefixes"] == len(owner)
    for (length, start) in list(owner)[::2]:
        table.remove(f"{ipaddress.IPv4Address(start)}/{length}")
    table._check()


def test_ids_are_given_again_and_results_can_be_kept_in_place():
    table = PrefixTable(["10.0.0.0/8", "10.0.0.0/8", "::/0"])
    assert (table.bound, len(table)) == (2, 2) and table.remove("10.0.0.0/8") == 0
    assert table.insert("192.0.2.1") == 0 and table.prefix(0) == "192.0.2.1/32" and table.bound == 2
    into = np.empty(1, "i4")
    assert table.match4(np.array([0xC0000201], "u4"), into) is not None and into[0] == 0
    assert len(table.match4(np.empty(0, "u4"))) == 0


@pytest.mark.parametrize("prefix, said", [
    ("10.0.0.0/33", "length here is 0 to 32, not '33'"), ("::/129", "0 to 128"), ("10.0.0.0/", "not ''"),
    ("10.0.0.0/-1", "not '-1'"), ("10.0.0.0/٣", "not '٣'"), ("10.0.0.1/24", "bits are set beyond the prefix's 24"),
    ("2001:db8::1/64", "beyond the prefix's 64"), ("10.0.0/8", "not a prefix"), ("", "not a prefix"), ("a\0b", "not a prefix"),
    (None, "not a prefix")])
def test_what_is_no_prefix_is_named(prefix, said):
    table = PrefixTable()
    for ask in (table.insert, table.remove, table.id):
        with pytest.raises(UsageError) as found:
            ask(prefix)
        assert said in str(found.value) and str(prefix) in str(found.value)
    assert len(table) == 0


def test_limits_and_other_errors():
    table = PrefixTable(["10.0.0.0/8"], most=1)
    assert table.insert("10.0.0.0/8") == 0
    with pytest.raises(LimitError, match="at most 1"):
        table.insert("11.0.0.0/8")
    table._check()
    for most in (0, MOST + 1, 1.5, None):
        with pytest.raises(UsageError, match="holds 1 to"):
            PrefixTable(most=most)
    for id in (-1, 1):
        with pytest.raises(UsageError, match=f"{id}: no prefix"):
            table.prefix(id)
    with pytest.raises(UsageError, match="expected an address, not a prefix"):
        table.lookup("10.0.0.0/8")
    with pytest.raises(UsageError, match="rows of 4 bytes, expected 16"):
        table.match6(np.zeros((2, 4), "u1"))
    with pytest.raises(UsageError, match="ids for 3 addresses"):
        table.match4(np.zeros(3, "u4"), np.zeros(2, "i4"))
