"""Flows: to which a connection belongs, when that is decided, and when it is decided anew.

The first packet decides, all its fields included; the highest priority wins, then the oldest.  A
change of the flows decides each live connection anew, on what its first packet showed.  In all
of it each unit reaches the modules of exactly one flow, once.
"""
import random

import pytest

import flowos
from conversations import MILLISECOND, REQUEST, RESPONSE, Log, datagram, datagrams, exchange, exchanges, in_fragments, save
from flowos import Config, Engine, Module, UsageError
from models import build
from models.build import START_NS

SMALL_STEPS = {"batch": 4, "deliver_units": 1}


class Names(Module):
    """Notes the flow of each connection, as the handle tells it in every call."""

    protocol = "transport"

    def __init__(self):
        self.seen = {}

    def note(self, connection):
        self.seen.setdefault(connection.id, []).append(connection.flow)

    def opened(self, connection):
        self.note(connection)

    def process(self, window):
        self.note(window.connection)
        for unit in window.units:
            self.note(unit.connection)

    def closed(self, connection, reason):
        self.note(connection)

    def flows(self):
        """List the connections' flows; a connection whose calls disagree gives a set."""
        return [seen[0] if len(set(seen)) == 1 else set(seen) for _, seen in sorted(self.seen.items())]


def flows_of(path, *flows, **config):
    """Run a capture with flows (name, match, priority), and list the flow of each connection."""
    engine, names = Engine(Config(**config)), Names()
    engine.add_port(path)
    for name, match, *priority in flows:
        engine.create_flow(name, match, *priority)
    engine.attach(names)
    engine.run()
    engine.close()
    return names.flows()


def tagged(record, vlan):
    ts, frame, *_ = record
    return ts, frame[:12] + b"\x81\0" + vlan.to_bytes(2, "big") + frame[12:]


# ------------------------------------------------------------------------------------ which flow

def test_the_highest_priority_wins_then_the_oldest(tmp_path):
    path = save(tmp_path, exchange() + [datagram(b"x", at=MILLISECOND)])
    for flows, expected in (
            ([("all", "any"), ("web", "tcp,tp_dst=80", 5)], ["web", "all"]),
            ([("web", "tcp,tp_dst=80", 5), ("all", "any", 6)], ["all", "all"]),
            ([("first", "tcp"), ("second", "tcp,tp_dst=80")], ["first", None]),
            ([("second", "tcp,tp_dst=80"), ("first", "tcp")], ["second", None]),
            ([("dns", "udp,tp_dst=53")], [None, None]),
            ([], [None, None])):
        assert flows_of(path, *flows) == expected


def test_both_directions_belong_to_the_first_packet_s_flow(tmp_path):
    """The answer's source port is 80; it belongs to what the question's destination says."""
    path = save(tmp_path, exchange() + exchange(a=("10.0.0.9", 80), b=("10.0.0.8", 7777), at=MILLISECOND))
    to, back = Log(name="to"), Log(name="from")
    engine = Engine()
    engine.add_port(path)
    engine.create_flow("to", "tcp,tp_dst=80", 9)
    engine.create_flow("from", "tcp,tp_src=80")
    engine.attach(to, "to")
    engine.attach(back, "from")
    engine.run()
    assert to.streams() == {(0, 0): REQUEST, (0, 1): RESPONSE} and back.streams() == {(1, 0): REQUEST, (1, 1): RESPONSE}


@pytest.mark.parametrize("match, expected", [
    ("dl_vlan=7", [True, False, False]), ("dl_vlan=9", [False, False, True]), ("ip,nw_ttl=64", [True, True, True]),
    ("ip,nw_ttl=3", [False, False, False]), ("tcp,tcp_flags=+syn-ack", [True, True, True]), ("tcp,tcp_flags=+fin", [False] * 3),
    ("dl_dst=02:00:00:00:00:02", [True] * 3), ("dl_src=02:00:00:00:00:02", [False] * 3),
    ("in_port=1", [True] * 3), ("in_port=2", [False] * 3)])
def test_all_fields_of_the_first_packet_count_and_no_other_packet_s(tmp_path, match, expected):
    parts = [*[tagged(part, 7) for part in exchange(a=("10.5.0.1", 1))], *exchange(a=("10.5.0.2", 1), at=100 * MILLISECOND)]
    third = exchange(a=("10.5.0.3", 1), at=200 * MILLISECOND)
    parts += [tagged(third[0], 9), *[tagged(part, 7) for part in third[1:]]]
    found = flows_of(save(tmp_path, parts), ("it", match))
    assert [flow == "it" for flow in found] == expected


def test_a_reassembled_datagram_is_classified_whole(tmp_path):
    """No fragment but the first has ports; the connection begins with the joined datagram."""
    assert flows_of(save(tmp_path, in_fragments([datagram(bytes(100), b=("10.0.0.2", 99))])), ("it", "udp,tp_dst=99")) == ["it"]


def test_six_and_tunnels(tmp_path):
    inner = build.ip(build.A6, build.B6, build.UDP, build.udp(build.A6, build.B6, b"x"))
    path = save(tmp_path, [(START_NS, build.ethernet(build.ipv4("10.0.0.1", "10.0.0.2", 41, inner)))])
    assert flows_of(path, ("four", "ip,nw_proto=41"), ("six", "udp6,ipv6_dst=2001:db8::2")) == ["six"]
    assert flows_of(path, ("four", "ip,nw_proto=41"), ("six", "udp6,ipv6_dst=2001:db8::2"), tunnels=frozenset()) == ["four"]


def test_a_module_s_flow(tmp_path):
    """By name, by object, or None for all traffic, whether it belongs to a flow or not."""
    path = save(tmp_path, sorted(exchanges(3) + datagrams(5)))
    engine, logs = Engine(), [Log("transport") for _ in range(4)]
    engine.add_port(path)
    web = engine.create_flow("web", "tcp,tp_dst=80")
    engine.create_flow("none", "udp,tp_dst=99")
    for log, flow in zip(logs, ("web", web, None, "none")):
        engine.attach(log, flow)
    engine.run()
    assert [len(log.told("opened")) for log in logs] == [3, 3, 8, 0] == [len(log.told("closed")) for log in logs]
    assert [log.told("start") for log in logs] == [["web"], ["web"], [None], ["none"]]
    assert logs[0].units == logs[1].units and len(logs[2].units) == len(logs[0].units) + 5
    assert engine.statistics()["connections_unmatched"] == 5


def test_windows_of_whole_flows_are_separate(tmp_path):
    seen = {}

    class Rows(Module):
        protocol, scope = "transport", "flow"

        def process(self, window):
            seen.setdefault(window.flow, set()).update(window.array()["proto"].tolist())

    engine = Engine()
    engine.add_port(save(tmp_path, sorted(exchanges(3) + datagrams(5) + datagrams(5, port=99))))
    engine.create_flow("web", "tcp")
    engine.create_flow("names", "udp,tp_dst=53")
    engine.attach(Rows())
    engine.run()
    assert seen == {"web": {6}, "names": {17}, None: {17}}


def test_random_flows_agree_with_the_match_itself(tmp_path):
    """The flow of every connection is the best of those whose match holds for its first packet."""
    from flowos.core.extract import extract

    chance = random.Random(3)
    parts = []
    for i in range(60):
        a = (f"10.6.{chance.randrange(4)}.{chance.randrange(4)}", 5000 + i)
        b = (f"10.7.{chance.randrange(4)}.{chance.randrange(4)}", chance.choice([53, 80, 443, 4000]))
        at = i * 50 * MILLISECOND
        parts.append(exchange(a=a, b=b, at=at) if chance.random() < 0.5 else [datagram(b"x", a, b, at)])
    first = [part[0][1] for part in parts]
    for _ in range(5):
        flows = []
        for number in range(12):
            fields = [chance.choice(["tcp", "udp", "ip"])]
            if chance.random() < 0.6:
                fields.append(f"nw_src=10.6.{chance.randrange(4)}." + chance.choice(["0/24", "0/31", "2/31", "1", "3"]))
            if fields[0] != "ip" and chance.random() < 0.6:
                fields.append(f"tp_dst={chance.choice([53, 80, 443, 4000])}")
            flows.append((f"f{number}", ",".join(fields), chance.randrange(4)))
        expected = []
        for frame in first:
            packet = extract(frame, 1)
            fitting = [(-priority, number, name) for number, (name, match, priority) in enumerate(flows)
                       if flowos.core.match.Match.parse(match).matches(packet)]
            expected.append(min(fitting)[2] if fitting else None)
        assert flows_of(save(tmp_path, [record for part in parts for record in part]), *flows) == expected
        engine = Engine()
        for flow in flows:
            engine.create_flow(*flow)
        for frame, name in zip(first, expected):
            found = engine.packet_to_flow(frame)
            assert (found.name if found else None) == name
            assert (name or "no flow") in engine.explain(frame).splitlines()[0]


# ------------------------------------------------------------------------------------ decided anew

def changing(tmp_path, *steps, protocol="tcp"):
    """Run long connections; after every few steps do one of `steps`.  Gives (engine, all units, logs by name)."""
    parts = sorted(record for i in range(4)
                   for record in exchange(bytes([i]) * 4000, b"", a=(f"10.7.0.{i}", 4000 + i), at=i, cut=50))
    engine, whole, logs = Engine(Config(batch=8, deliver_units=1)), Log(protocol), {}
    engine.add_port(save(tmp_path, parts))
    engine.attach(whole)

    def listen(name):
        logs[name] = Log(protocol, name)
        return engine.attach(logs[name], name)

    for step in steps:
        for _ in range(5):
            engine.step()
        step(engine, listen)
        engine._check()
    engine.run()
    engine.close()
    return engine, whole, logs


def in_order(*logs):
    """Give the bytes of each stream put together from what several modules were given; holes fail."""
    units = sorted((unit for log in logs for unit in log.units if unit[2] == "data"), key=lambda unit: unit[:2] + unit[3:4])
    found = {}
    for number, direction, _, offset, _, data in units:
        stream = found.setdefault((number, direction), b"")
        assert offset == len(stream), "a unit was lost or came twice"
        found[number, direction] = stream + data
    return found


@pytest.mark.parametrize("protocol", ["tcp", "frame", "transport"])
def test_a_flow_made_on_the_way_takes_over_its_live_connections(tmp_path, protocol):
    def start(engine, listen):
        engine.create_flow("all", "any", 1)
        listen("all")

    def split(engine, listen):
        engine.create_flow("two", "tcp,tp_src=4002", 5)
        listen("two")

    def back(engine, listen):
        engine.delete_flow("two")

    engine, whole, logs = changing(tmp_path, start, split, back, protocol=protocol)
    assert protocol == "frame" or in_order(whole) == {(i, 0): bytes([i]) * 4000 for i in range(4)}
    before = [unit for unit in whole.units if unit not in logs["all"].units and unit not in logs["two"].units]
    assert sorted(before + logs["all"].units + logs["two"].units) == sorted(whole.units)
    assert {unit[0] for unit in logs["two"].units} == {2} and logs["two"].calls[-1] == ("stop",)
    third = [unit[3] for unit in logs["all"].units if unit[0] == 2 and unit[2] == "data"]
    taken = [unit[3] for unit in logs["two"].units if unit[2] == "data"]
    assert min(third) < min(taken) < max(taken) < max(third), "it went, and came back"


def test_handles_tell_the_flow_they_are_in_now(tmp_path):
    names = []

    def make(engine, listen):
        names.append([connection.flow for connection in engine.connections()])
        engine.create_flow("some", "tcp,nw_src=10.7.0.2/31")
        names.append([connection.flow for connection in engine.connections()])

    def drop(engine, listen):
        engine.delete_flow("some")
        engine.create_flow("other", "tcp")
        names.append([connection.flow for connection in engine.connections()])

    changing(tmp_path, make, drop)
    assert names == [[None] * 4, [None, None, "some", "some"], ["other"] * 4]


def test_it_is_decided_on_the_first_packet_also_later(tmp_path):
    """While there are flows, all fields of the first packet are kept; one that began before is known by its ends."""
    parts = [tagged(part, 7) for part in exchange(bytes(3000), b"", cut=50)]
    for early, expected in ((True, "seven"), (False, "ends")):
        engine, names = Engine(Config(**SMALL_STEPS)), Names()
        engine.add_port(save(tmp_path, parts))
        engine.attach(Log())
        if early:
            engine.create_flow("first", "udp")
        for _ in range(4):
            engine.step()
        engine.create_flow("seven", "dl_vlan=7", 9)
        engine.create_flow("ends", "tcp,nw_src=10.0.0.1,tp_dst=80")
        engine.create_flow("back", "tcp,tp_src=80", 20)
        assert [connection.flow for connection in engine.connections()] == [expected]
        engine.attach(names)
        engine.run()
        assert names.flows() == [expected]


def test_http_goes_on_when_its_connection_moves(tmp_path):
    body = bytes(5000)
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + body
    path = save(tmp_path, exchange(REQUEST, response, cut=100))
    engine, first, second = Engine(Config(**SMALL_STEPS)), Log("http", "first"), Log("http", "second")
    engine.add_port(path)
    engine.create_flow("web", "tcp")
    engine.attach(first, "web")
    for _ in range(10):
        engine.step()
    engine.create_flow("better", "tcp,tp_dst=80", 5)
    engine.attach(second, "better")
    engine.run()
    units = [unit for unit in first.units + second.units if unit[1] == 1]
    assert [unit[2] for unit in units][:2] == ["response", "body"] and units[-1][2] == "end"
    assert b"".join(unit[5] for unit in units if unit[2] == "body") == body
    assert first.units and second.units


def test_what_waits_for_reassembly_moves_along(tmp_path):
    """A hole is open when the flow changes: its bytes reach the new flow's module once it is filled."""
    from conversations import records
    from models.talk import Talk

    talk = Talk().open().a(0, b"abc", ack=0)
    for i in range(20):
        talk.a(10 + i, bytes([i]), ack=0)
    parts = records(talk.a(3, b"defghij", ack=0))
    parts.insert(12, datagram(b"now", at=50 * MILLISECOND))
    for name in ("mapped.pcap", "passing.pcap.gz"):
        engine, now, early, late = Engine(Config(batch=1, deliver_units=1)), Log("udp"), Log(), Log()
        engine.add_port(save(tmp_path, parts, name))
        engine.create_flow("early", "tcp")
        engine.attach(now)
        engine.attach(early, "early")
        while not now.units:
            engine.step()
        engine.create_flow("late", "tcp,tp_dst=80", 5)
        engine.attach(late, "late")
        engine.run()
        assert in_order(early) == {(0, 0): b"abc"}
        assert [(unit[3], unit[5]) for unit in late.units if unit[2] == "data"] == \
            [(3, b"defghij"), *[(10 + i, bytes([i])) for i in range(20)]]


# ------------------------------------------------------------------------------------ the rest

def test_explain_says_why(tmp_path):
    engine = Engine()
    engine.create_flow("web", "tcp,tp_dst=80", 9)
    engine.create_flow("all", "any")
    engine.create_flow("mine", "tcp,nw_src=10.9.9.9", 20)
    text = engine.explain(exchange()[0][1])
    assert text.splitlines()[0] == "flow web: tcp,tp_dst=80, priority 9"
    assert "flow mine (tcp,nw_src=10.9.9.9, priority 20): wants nw_src=10.9.9.9" in text
    assert "flow all (any, priority 0): matches too, with a lower priority than 9" in text
    assert engine.explain(datagram(b"x")[1]).startswith("flow all")
    engine.delete_flow("all")
    assert engine.explain(datagram(b"x")[1]).startswith("no flow")
    assert engine.packet_to_flow(datagram(b"x")[1]) is None
    assert engine.packet_to_flow(memoryview(exchange()[0][1])) is engine.find_flow("web")


def test_the_list_of_flows():
    engine = Engine()
    one, two = engine.create_flow("one", "tcp"), engine.create_flow("two", "udp", priority=3)
    assert engine.flows == [one, two] and engine.find_flow("two") is two and engine.find_flow("three") is None
    assert (two.name, two.priority, str(two.match), two.engine) == ("two", 3, "udp", engine) and "two" in repr(two)
    engine.delete_flow(one)
    assert engine.flows == [two]
    engine.create_flow("one", "icmp")
    assert [flow.name for flow in engine.flows] == ["two", "one"]


def test_wrong_flows_are_refused():
    engine, other = Engine(), Engine()
    web = engine.create_flow("web", "tcp")
    for name, match, priority in (("web", "udp", 0), ("", "udp", 0), (None, "udp", 0), (5, "udp", 0), ("bad", "tcp,tp_dst=x", 0),
                                  ("bad", "nonsense", 0), ("bad", "udp", -1), ("bad", "udp", 70_000), ("bad", "udp", "x")):
        with pytest.raises(UsageError):
            engine.create_flow(name, match, priority)
    assert engine.flows == [web]
    for flow in ("none", web, 7, None):
        with pytest.raises(UsageError, match="there is no flow"):
            other.delete_flow(flow)
        if flow is not None:
            with pytest.raises(UsageError, match="there is no flow"):
                other.attach(Log(), flow)
    engine.delete_flow(web)
    with pytest.raises(UsageError, match="there is no flow"):
        engine.delete_flow(web)
    with pytest.raises(UsageError):
        engine.explain(bytes(60))
    engine.create_flow("after", "udp")


def test_many_flows_and_many_changes(tmp_path):
    """Two thousand flows live beside each other, and a number is used again when its flow is gone."""
    path = save(tmp_path, datagrams(100))
    engine = Engine()
    engine.add_port(path)
    for i in range(2000):
        engine.create_flow(f"flow{i}", f"udp,nw_src=10.2.{i >> 8}.{i & 255}")
    names = Names()
    engine.attach(names, "flow7")
    engine.run()
    assert names.seen == {7: ["flow7"] * 4}
    for i in range(1000):
        flow = engine.create_flow("again", "tcp")
        assert flow.number <= 2001
        engine.delete_flow(flow)


def test_modules_of_a_deleted_flow_are_stopped(tmp_path):
    engine, log, all_traffic = Engine(Config(**SMALL_STEPS)), Log(), Log()
    engine.add_port(save(tmp_path, exchanges(5)))
    engine.create_flow("web", "tcp")
    engine.attach(log, "web")
    engine.attach(all_traffic)
    for _ in range(5):
        engine.step()
    engine.delete_flow("web")
    seen = len(log.units)
    assert log.calls[-1] == ("stop",) and seen
    engine.run()
    assert len(log.units) == seen and len(all_traffic.streams()) == 10
    engine.close()
    assert log.calls.count(("stop",)) == 1
