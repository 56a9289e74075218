"""What the modules that police traffic decide: NAT's book-keeping, token buckets, firewall rules."""
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import flowos
from flowos.modules.firewall import Firewall
from flowos.modules.nat import Book, Nat, Pool, port_range
from flowos.modules.rate_limit import SECOND, Bucket, RateLimit


class PoolMachine(RuleBasedStateMachine):
    """Mappings come and go at random; the rules of RFC 4787 hold after every step."""

    EXTERNAL, PORTS = ["192.0.2.1", "192.0.2.2", "192.0.2.3"], range(1024, 1034)

    def __init__(self):
        super().__init__()
        self.book = Book()
        self.pool = Pool(self.book, self.EXTERNAL, self.PORTS, preserve=True, seed=7)
        self.pairs = {}

    @rule(protocol=st.sampled_from(["tcp", "udp"]), host=st.integers(1, 4), port=st.integers(1020, 1036))
    def ask(self, protocol, host, port):
        before = dict(self.book.inside)
        key = (protocol, f"10.0.0.{host}", port)
        mapping = self.pool.map(*key)
        if key in before:
            assert mapping is before[key], "REQ-1: one mapping for all destinations"
            return
        if mapping is None:
            taken = [outside for outside in self.book.outside if outside[0] == protocol]
            assert len(taken) == len(self.EXTERNAL) * len(self.PORTS), "refused while a port was free"
            return
        assert mapping.inside == key and mapping.outside[0] == protocol
        paired = self.pairs.get(key[1])
        full = paired and sum(outside[:2] == (protocol, paired) for outside in self.book.outside) >= len(self.PORTS)
        if paired is not None and not full:
            assert mapping.outside[1] == paired, "REQ-2: paired pooling"
        free = {place for place in self.PORTS if (protocol, mapping.outside[1], place) not in self.book.outside}
        if mapping.outside[2] != port and any(place % 2 == port % 2 for place in free):
            assert mapping.outside[2] % 2 == port % 2, "REQ-4: parity"
        self.pairs.setdefault(key[1], mapping.outside[1])

    @rule(which=st.integers(0, 10**6))
    def forget(self, which):
        if self.book.inside:
            mapping = list(self.book.inside.values())[which % len(self.book.inside)]
            self.pool.drop(mapping)
            host = mapping.inside[1]
            if not any(key[1] == host for key in self.book.inside):
                self.pairs.pop(host, None)

    @invariant()
    def the_book_balances(self):
        book = self.book
        assert {mapping.outside: mapping for mapping in book.inside.values()} == book.outside     # REQ-3: none is shared
        assert len(book.inside) == len(book.outside) == sum(book.used.values()) == sum(book.hosts.values())
        assert book.paired.keys() == book.hosts.keys()
        assert book.paired == self.pairs
        assert all(outside[2] in self.PORTS for outside in book.outside)


TestPool = PoolMachine.TestCase


def test_ports_are_kept_where_they_are_free():
    pool = Pool(Book(), ["192.0.2.1"], range(1024, 65536), seed=3)
    assert pool.map("udp", "10.0.0.1", 5000).outside == ("udp", "192.0.2.1", 5000)
    other = pool.map("udp", "10.0.0.2", 5000).outside[2]
    assert other != 5000 and other % 2 == 0
    assert Pool(Book(), ["192.0.2.1"], range(1024, 65536), False, 3).map("udp", "10.0.0.1", 5000).outside[2] != 5000


@pytest.mark.parametrize("wrong", [
    {"external": []}, {"external": ["192.0.2.x"]}, {"external": ["192.0.2.1"], "internal": ["10.0.0.0/99"]},
    {"external": ["192.0.2.1"], "ports": "5000"}, {"external": ["192.0.2.1"], "ports": "9-8"},
    {"external": ["192.0.2.1"], "filtering": "none"}])
def test_a_nat_that_cannot_be_is_refused(wrong):
    with pytest.raises(flowos.UsageError, match="nat: .*expected"):
        Nat(**wrong)
    assert port_range("1-65535") == range(1, 65536)


@given(st.floats(1, 1e6), st.floats(1, 1e5), st.lists(st.tuples(st.integers(1, 5000), st.integers(0, SECOND)), max_size=60))
def test_a_bucket_never_lets_more_pass_than_rate_and_burst(rate, burst, packets):
    bucket, now, passed = Bucket(rate, burst), 0, []
    for size, gap in packets:
        now += gap
        if bucket.take(size, now):
            passed.append((now, size))
    for i, (begin, _) in enumerate(passed):
        for j in range(i, len(passed)):
            sizes = [size for _, size in passed[i:j + 1]]
            # One packet that is larger than the bucket may pass when it is full.
            assert sum(sizes) <= burst + rate * (passed[j][0] - begin) / SECOND + max(0, max(sizes) - burst) * len(sizes) + 1e-3


@given(st.floats(1, 1e6), st.floats(1, 1e5), st.integers(1, 5000))
def test_a_bucket_says_how_long_to_wait(rate, burst, size):
    bucket = Bucket(rate, burst)
    bucket.take(burst, 0)
    seconds = bucket.wait(size)
    assert bucket.take(size, int(seconds * SECOND * (1 + 1e-9)) + 2)


def test_time_that_runs_back_brings_no_tokens():
    bucket = Bucket(10, 10)
    assert bucket.take(10, 5 * SECOND) and not bucket.take(1, 4 * SECOND) and not bucket.take(1, 5 * SECOND)


@pytest.mark.parametrize("wrong", [{"rate": 0}, {"rate": -1.0}, {"rate": 1, "burst": -1}, {"rate": 1, "per": "host"},
                                   {"rate": 1, "beyond": "mark"}])
def test_a_limit_that_cannot_be_is_refused(wrong):
    with pytest.raises(flowos.UsageError, match="rate_limit: .*expected"):
        RateLimit(**wrong)


def test_rules_are_read_from_texts_and_files(tmp_path):
    file = tmp_path / "rules"
    file.write_text("# comment\n\ntcp,tp_dst=23 -> reset   # telnet\nudp->drop\n")
    firewall = Firewall(["ip,nw_src=10.0.0.0/8 -> pass"], file=file)
    assert [(str(rule.match), rule.action) for rule in firewall.rules] == [
        ("ip,nw_src=10.0.0.0/8", "pass"), ("tcp,tp_dst=23", "reset"), ("udp", "drop")]


@pytest.mark.parametrize("wrong", [{"rules": ["tcp"]}, {"rules": ["tcp -> kill"]}, {"rules": ["tcq -> drop"]},
                                   {"default": "kill"}, {"file": "no/such/file"}])
def test_rules_that_cannot_be_are_refused(wrong):
    with pytest.raises(flowos.UsageError):
        Firewall(**wrong)
