"""A machine's states and packets during a migration, step by step, and whole migrations there and back."""
import pytest

from flowos import UsageError
from flowos.services import migration as m
from flowos.services.migration_groups import FROZEN, GIVEN, REGAINED, STAGED
from flowos.services.migration_peers import PACKET, Message, Redirect, SourceEnd, TargetEnd
from flowos.services.migration_plane import (BUFFERED, COUNTERS, DROPPED, EXHAUSTED, FORWARD, HELD, PROCESSED,
                                             Application, Plane)

NOW = m.Policy(idle_least=0, idle_most=0)


class Wire:
    """Both ends, with a channel between them that delivers when it is told to."""

    def __init__(self, a, b=None, policy=NOW):
        self.a, self.b = SourceEnd(a, policy), TargetEnd(b or Plane(serving=False))
        self.to_a, self.to_b, self.redirected = [], [], []

    def out(self, outputs):
        for output in outputs:
            if isinstance(output, Redirect):
                self.redirected.append(output.here)
            else:
                self.to_b.append(output.message)
        return self

    def settle(self, now=1.0):
        """Deliver everything, until nothing is under way."""
        while self.to_a or self.to_b:
            while self.to_b:
                self.to_a += [output.message for output in self.b.receive(self.to_b.pop(0), now)]
            while self.to_a:
                self.out(self.a.receive(self.to_a.pop(0), now))
        return self


def machine(*connections, **settings):
    plane = Plane(**settings)
    for connection in connections:
        assert plane.packet(connection, b"", 0.0) == PROCESSED
    return plane


def test_what_becomes_of_a_packet():
    plane = machine("x", "y", "z")
    plane.stop()
    assert plane.packet("new", b"", 0.0) == FORWARD
    plane.freeze(1, 1, 0.0)
    assert plane.index["x"].status == FROZEN and plane.resident == 2
    assert plane.packet("x", b"1", 0.0) == BUFFERED and plane.packet("y", b"", 0.0) == PROCESSED
    assert plane.commit(1) == (("x", b"1"),)
    assert plane.index["x"].status == GIVEN
    assert plane.packet("x", b"2", 0.0) == FORWARD
    assert plane.index["x"].buffer == [("x", b"1"), ("x", b"2")]
    plane.holding = True
    assert plane.packet("x", b"3", 0.0) == HELD and plane.packet("new", b"", 0.0) == HELD
    plane.own(GIVEN, 0.0, 1)
    assert plane.state("x") == 3                # the first packet, and the two in the log
    plane.resume(0.0)
    assert plane.state("x") == 4 and plane.state("new") == 1 and plane.waiting == 0
    assert plane.statistics() == {"processed": 8, "forwarded": 2, "buffered": 1, "held": 2, "exhausted": 0,
                                  "dropped": 0, "unlogged": 0, "superseded": 0}
    assert set(plane.statistics()) == set(COUNTERS)


def test_a_regained_group_waits_until_the_peer_has_forgotten_it():
    a = machine("x")
    copies = a.freeze(1, 1, 0.0)
    b = Plane()
    b.install(copies, 0.0, REGAINED)
    assert b.packet("x", b"", 0.0) == HELD and b.state("x") == 1
    b.resume(0.0)
    assert b.state("x") == 2


def test_a_staged_copy_takes_no_packets():
    b = Plane()
    b.install(machine("x").freeze(1, 1, 0.0), 0.0, STAGED, 1)
    with pytest.raises(UsageError, match="^packet of 'x': its state is staged here"):
        b.packet("x", b"", 0.0)
    with pytest.raises(UsageError, match="^state of 'x': came from the peer twice$"):
        b.install(machine("x").freeze(1, 1, 0.0), 0.0, STAGED, 2)


def test_what_waits_is_bounded_and_counted():
    plane = machine("x", most=2)
    plane.freeze(1, 1, 0.0)
    assert [plane.packet("x", b"", 0.0) for _ in range(3)] == [BUFFERED, BUFFERED, DROPPED]
    plane.commit(1)
    assert plane.packet("x", b"", 0.0) == FORWARD
    assert plane.counts["dropped"] == plane.counts["unlogged"] == 1
    plane.remove(GIVEN, 1)
    assert plane.waiting == 0 and plane.index == {}


def test_timers_travel_as_what_is_left_of_them():
    wire = Wire(machine("x"))
    wire.out(wire.a.event(m.START, 50.0)).settle(50.0).out(wire.a.event(m.TICK, 50.0))
    wire.settle(1000.0)                         # B's clock is another one
    assert wire.b.plane.overdue(1009.0) == [] and wire.b.plane.overdue(1010.0) == ["x"]


def test_a_relaxed_timer_begins_anew():
    class Fixed(Application):
        def relaxed(self, connection):
            return True

    wire = Wire(machine("x", application=Fixed()), Plane(Fixed(), serving=False))
    wire.out(wire.a.event(m.START, 50.0)).settle(50.0).out(wire.a.event(m.TICK, 50.0))
    assert wire.a.plane.packet("x", b"", 50.0) == PROCESSED         # under way, and served
    wire.settle(1000.0)
    assert wire.b.plane.overdue(1059.0) == [] and wire.b.plane.overdue(1060.0) == ["x"]


def test_a_state_under_way_does_not_end():
    plane = machine("x", "y")
    plane.freeze(1, 1, 0.0)
    assert plane.overdue(1e9) == ["y"]
    assert plane.end("x") is None and plane.end("y") == frozenset()
    assert list(plane.index) == ["x"]


# -- linked states

def test_an_expected_connection_is_made_where_its_group_is():
    plane = machine("control", "other")
    plane.expect("data", "control")
    plane.stop()
    assert plane.packet("data", b"", 0.0) == PROCESSED and plane.packet("new", b"", 0.0) == FORWARD
    copies = plane.freeze(1, 2, 0.0)
    assert len(copies) == 1                                         # both, or none
    assert [member[0] for member in copies[0].members] == ["control", "data"]
    plane.commit(1)
    b = Plane()
    b.install(copies, 0.0, STAGED, 1)
    b.own(STAGED, 0.0, 1)
    assert b.packet("data", b"", 0.0) == PROCESSED and b.state("data") == 2


def test_an_expectation_travels():
    wire = Wire(machine("control"))
    wire.a.plane.expect("data", "control")
    wire.out(wire.a.event(m.START, 0.0)).settle().out(wire.a.event(m.TICK, 9.0)).out(wire.a.packet("data", b"", 9.0))
    assert wire.a.plane.counts["buffered"] == 1
    wire.settle()
    assert wire.b.plane.index["control"].members.keys() == {"control", "data"}


def test_an_expectation_ends_with_its_group():
    plane = machine("control")
    plane.expect("data", "control")
    plane.end("control")
    assert plane.groups == plane.index == {}


def test_who_comes_again_is_not_linked():
    a, b = machine("control"), machine()
    a.expect("data", "control")
    a.packet("data", b"", 0.0)
    a.end("control")
    assert a.packet("control", b"", 0.0) == PROCESSED               # another connection of that name
    assert len(a.groups) == 2
    a.end("control")
    b.packet("control", b"", 0.0)
    b.install(a.freeze(1, 9, 0.0), 0.0, STAGED, 1)
    b.own(STAGED, 0.0, 1)
    assert b.index.keys() == {"control", "data"} and len(b.groups) == 2
    b._check()


def test_what_the_peer_sends_is_newer():
    # B had these connections before A came to expect them; since then A has had their packets.
    a, b = machine("control"), machine("data", "late", units=range(3))
    for name in ("data", "late", "third"):
        a.expect(name, "control")
    a.packet("data", b"", 0.0)
    a.packet("data", b"", 0.0)
    b.install(a.freeze(1, 9, 0.0), 0.0, STAGED, 1)
    b._check()
    assert b.counts["superseded"] == 1 and b.state("data") == 2 and b.pool.free == {0, 2}
    assert b.index["late"] is not b.index["control"] is b.index["third"]
    c = machine("x")
    c.expect("data", "x")
    c.install(a.freeze(2, 9, 0.0) or [group.snapshot(0.0, 1.0) for group in a.groups], 0.0, STAGED, 1)
    c._check()
    assert c.index["x"].expected == set() and c.state("data") == 2


def test_expectations_that_cannot_be():
    plane = machine("x", "y")
    with pytest.raises(UsageError, match="^expect 'd': 'z' has no state here"):
        plane.expect("d", "z")
    with pytest.raises(UsageError, match="^expect 'y': it is here already$"):
        plane.expect("y", "x")
    plane.freeze(1, 1, 0.0)
    with pytest.raises(UsageError, match="^expect 'd': 'x' has no state here that may change"):
        plane.expect("d", "x")


# -- shared state

def test_free_ports_are_given_at_once_and_reported_throughout():
    wire = Wire(machine("x", "y", "z", units=range(1000, 1006), reserve=1), policy=m.Policy())
    wire.out(wire.a.event(m.START, 0.0)).settle()
    assert wire.b.plane.pool.free == {1003, 1004} and wire.a.plane.pool.free == {1005}
    wire.out(wire.a.end("x"))
    assert wire.to_b == [Message(m.FREED, None, frozenset({1000}))]
    wire.settle()
    for name in ("n1", "n2", "n3"):
        wire.out(wire.a.packet(name, b"", 1.0))
    assert {message.kind for message in wire.to_b} == {PACKET}
    wire.settle()
    held = [group.units for group in wire.b.plane.groups]
    assert held == [{1000}, {1003}, {1004}]
    assert wire.out(wire.a.packet("n4", b"", 1.0)).settle().b.plane.counts["exhausted"] == 1
    assert "n4" not in wire.b.plane.index
    wire.out(wire.a.end("y")).settle().out(wire.a.end("z")).settle().out(wire.a.event(m.TICK, 2.0))
    wire.out(wire.a.event(m.REDIRECTED, 3.0)).settle()
    assert wire.redirected == [False] and (wire.a.source.phase, wire.b.phase) == (m.DONE, m.SERVING)
    assert wire.b.plane.pool.free == {1001, 1002, 1005} and wire.a.plane.pool.free == set()


def test_no_unit_no_state():
    plane = Plane(units=[7])
    assert plane.packet("x", b"", 0.0) == PROCESSED and plane.packet("y", b"", 0.0) == EXHAUSTED
    plane.end("x")
    assert plane.packet("y", b"", 0.0) == PROCESSED


# -- whole migrations

def migrate(wire, now=0.0):
    wire.out(wire.a.event(m.START, now)).settle(now).out(wire.a.event(m.TICK, now + 1)).settle(now + 1)
    wire.out(wire.a.event(m.REDIRECTED, now + 2)).settle(now + 2)
    assert (wire.a.source.phase, wire.b.phase) == (m.DONE, m.SERVING)


def test_there_and_back():
    a, b = machine("x", "y", units=range(4)), Plane(serving=False)
    migrate(Wire(a, b))
    assert a.groups == {} and [b.state("x"), b.state("y")] == [1, 1] and b.pool.free == {2, 3}
    b.packet("z", b"", 5.0)
    migrate(Wire(b, a), now=10.0)
    assert b.groups == {} and sorted(a.index) == ["x", "y", "z"] and a.pool.free == {3}
    assert a.packet("w", b"", 20.0) == PROCESSED


def test_an_abort_brings_everything_home():
    wire = Wire(machine("x", "y", units=range(9)), policy=NOW._replace(batch=1))
    wire.out(wire.a.event(m.START, 0.0)).out(wire.a.packet("new", b"", 0.0)).settle()
    wire.out(wire.a.event(m.TICK, 2.0))
    assert wire.to_b[0].kind == m.STAGE
    wire.out(wire.a.event(m.ABORT, 2.0)).out(wire.a.packet("new", b"", 2.0)).out(wire.a.packet("x", b"", 2.0)).settle()
    assert wire.a.source.phase == m.SERVING and wire.b.phase == m.STANDBY
    assert [wire.a.plane.state(name) for name in ("x", "y", "new")] == [2, 1, 2]
    assert wire.b.plane.groups == {} and wire.b.plane.pool.free == set()
    assert len(wire.a.plane.pool.free) == 6 and wire.redirected == []


def test_no_way_back_after_the_handover_began():
    wire = Wire(machine(), policy=NOW)
    wire.out(wire.a.event(m.START, 0.0)).settle().out(wire.a.event(m.TICK, 0.0)).out(wire.a.event(m.ABORT, 0.0))
    assert wire.a.source.phase == m.HANDOVER
    wire.b.packet("early", b"", 0.0)
    assert wire.b.plane.groups == {}            # others may be on their way by A
    wire.out(wire.a.packet("early", b"", 0.0)).out(wire.a.event(m.REDIRECTED, 0.0)).settle()
    assert wire.b.plane.state("early") == 2


def test_several_batches_in_flight():
    wire = Wire(machine(*"vwxyz"), policy=NOW._replace(batch=2, window=2))
    wire.out(wire.a.event(m.START, 0.0)).settle().out(wire.a.event(m.TICK, 2.0))
    assert [message.batch for message in wire.to_b] == [1, 2]
    wire.settle(2.0)
    assert wire.redirected == [False] and list(wire.b.plane.index) == list("vwxyz")
