"""NAT: its book-keeping keeps the RFCs' rules whatever is asked; packets leave and come back translated."""
import collections
import subprocess

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import flowos
from anomalies import new_anomalies
from flowos.modules.nat import Book, Nat, Pool, port_range
from flowos.packets import ACK, SYN, Conversation, ethernet, tcp, udp, valid
from flowos.testing import play

START = 1_700_000_000 * 10**9


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




def nat_of(**parameters):
    return Nat(["203.0.113.1"], ["10.0.0.0/8"], seed=1, **parameters)


def test_a_connection_leaves_with_the_external_address_and_comes_back():
    talk = Conversation(("10.0.0.1", 5000), ("192.0.2.9", 80))
    talk.open().a(b"question").b(b"answer").close()
    done = play(nat_of(), talk.packets)
    assert len(done.packets) == len(talk.packets) and all(valid(frame) for _, frame in done.packets)
    outward = [frame for _, frame in done.packets if frame[26:30] == bytes([203, 0, 113, 1])]
    assert len(outward) == 5 and all(frame[34:36] == (5000).to_bytes(2, "big") for frame in outward)
    assert not any(frame[26:30] == bytes([10, 0, 0, 1]) for _, frame in done.packets)


def test_packets_from_outside_find_their_connection_by_the_external_tuple():
    inside, outside, peer = ("10.0.0.1", 5000), ("203.0.113.1", 5000), ("192.0.2.9", 80)
    packets = [(START, ethernet(tcp(inside, peer, 1, 0, SYN))), (START + 1, ethernet(tcp(peer, outside, 9, 2, SYN | ACK))),
               (START + 2, ethernet(tcp(inside, peer, 2, 10))), (START + 3, ethernet(tcp(peer, outside, 10, 2, ACK, b"data")))]
    done = play(nat_of(), packets, config=flowos.Config.offline(batch=1, deliver_units=1))
    ends = [(frame[26:30], frame[30:34]) for _, frame in done.packets]
    external, internal, remote = bytes([203, 0, 113, 1]), bytes([10, 0, 0, 1]), bytes([192, 0, 2, 9])
    assert ends == [(external, remote), (remote, internal), (external, remote), (remote, internal)]
    assert all(valid(frame) for _, frame in done.packets)
    assert done.statistics["connections"] == 1


@pytest.mark.parametrize("filtering, stranger, neighbour", [
    ("endpoint-independent", True, True), ("address-dependent", False, True), ("address-and-port-dependent", False, False)])
def test_who_may_come_in(filtering, stranger, neighbour):
    inside, outside = ("10.0.0.1", 5000), ("203.0.113.1", 5000)
    packets = [(START, ethernet(udp(inside, ("192.0.2.9", 80), b"out"))),
               (START + 1, ethernet(udp(("192.0.2.9", 81), outside, b"neighbour"))),
               (START + 2, ethernet(udp(("192.0.2.77", 80), outside, b"stranger"))),
               (START + 3, ethernet(udp(("192.0.2.9", 80), ("203.0.113.1", 6000), b"nobody")))]
    done = play(nat_of(filtering=filtering), packets)
    payloads = {frame[42:] for _, frame in done.packets}
    assert payloads == {b"out"} | ({b"neighbour"} if neighbour else set()) | ({b"stranger"} if stranger else set())
    for _, frame in done.packets:
        if frame[42:] != b"out":
            assert frame[30:34] == bytes([10, 0, 0, 1]) and valid(frame)


def test_hairpinning():
    one, two, outside = ("10.0.0.1", 5000), ("10.0.0.2", 6000), ("203.0.113.1", 5000)
    packets = [(START, ethernet(udp(one, ("192.0.2.9", 80), b"out"))), (START + 1, ethernet(udp(two, outside, b"to one")))]
    done = play(nat_of(), packets)
    frame = done.packets[1][1]
    assert frame[26:30] == bytes([203, 0, 113, 1]) and frame[30:34] == bytes([10, 0, 0, 1]) and valid(frame)


def test_a_real_capture_behind_nat(shared_pcaps, tshark, tmp_path):
    source = shared_pcaps / "pcapplusplus_many-protocols.pcap"
    nat = Nat(["203.0.113.1", "203.0.113.2"], ["10.0.0.0/8"], seed=1)
    target, records = tmp_path / "out.pcap", []
    nat.emit = records.append
    with flowos.Engine(flowos.Config.offline()) as engine:
        engine.add_port(source)
        engine.add_output(target)
        engine.attach(nat)
        engine.run()
    assert nat.translated > 100 and nat.dropped == 0
    # One capture holds both sides of the NAT, so tshark sees halves of conversations: its TCP analysis says nothing here.
    assert not [kind for kind in new_anomalies(tshark, source, target) if "checksum" in kind]
    with flowos.Engine(flowos.Config.offline()) as engine:
        engine.add_port(target)
        engine.run()
        assert engine.packets == 4709
    done = subprocess.run([tshark, "-r", target, "-Y", "(tcp || udp) && !icmp && ip.src == 10.0.0.0/8 && !(ip.dst == 10.0.0.0/8 || ip.dst == 224.0.0.0/4) && "
                           "!(tcp.port == 55181)",   # begun before the capture: its first packet here came from outside
                           "-T", "fields", "-e", "frame.number"], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == ""
    hosts = collections.defaultdict(set)
    for record in records:
        if "mapping" in record:
            (_, host, _), (_, external, _) = record["mapping"]
            hosts[host].add(external)
    assert all(len(externals) == 1 for externals in hosts.values())
