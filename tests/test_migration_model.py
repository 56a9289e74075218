"""Every interleaving of small migrations, and random ones of larger: nothing is lost.

A `World` is both ends, the switch, all queues and channels between them, and what may happen:
packets, messages, ticks, ends of connections, a batch that is late, an abort, one machine's death
and its discovery, in any order.  `explore` visits every state that can be reached.  What is checked
is told from the packets' numbers alone, by code that knows neither tables nor verdicts:

    one writer    at most one living machine may change a connection's state
    kept          a copy without effect is never the only one
    exact copies  whatever a survivor would revive has seen all that its writer has seen
    order         each state is made of the connection's packets, each once, in order, but for those
                  that were only at a machine when it died
    units         each shared unit is in exactly one place
    linked        connections of a group are never at two machines
    an end        every run comes to rest, with nothing frozen, staged, held or under way
"""
import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowos.services import migration as m
from flowos.services.migration_groups import FROZEN, GIVEN, RESIDENT, STAGED, Group, Member
from flowos.services.migration_peers import Redirect, Send, SourceEnd, TargetEnd
from flowos.services.migration_plane import Application, Plane
from flowos.services.migration_pool import Pool

MARKER = ("marker", None)               # in A's queue: the switch's barrier after a redirection
LATE = 10.0                             # a time by which every batch is overdue


class Recorder(Application):
    """States are the numbers of the packets they have seen; `relaxed` ones of none."""

    def __init__(self, relaxed=()):
        self.fixed = frozenset(relaxed)

    def relaxed(self, connection):
        return connection in self.fixed

    def establish(self, connection, unit):
        return ("fixed",) if connection in self.fixed else ()

    def process(self, state, packet):
        return state if state[:1] == ("fixed",) else (*state, packet)


class Broken(AssertionError):
    """A property does not hold."""


class World:
    """Two machines and all between them; `script` is the connections of the packets to come."""

    def __init__(self, script, old=("x",), expected=(), units=4, reserve=1, batch=1, window=1,
                 aborts=1, deaths="AB", ends=(), late=1, relaxed=(),
                 announced=()):
        self.script, self.sent, self.ends = tuple(script), 0, tuple(ends)
        self.linked, self.announced = dict(expected), tuple(announced)
        plane = Plane(Recorder(relaxed), range(units), reserve)
        self.a = SourceEnd(plane, m.Policy(idle_least=0, idle_most=1e9, batch=batch, window=window, patience=1))
        self.b = TargetEnd(Plane(Recorder(relaxed), serving=False))
        self.relaxed = frozenset(relaxed)
        self.alive, self.known = {"A": True, "B": True}, True
        self.target, self.to_a, self.to_b, self.ab, self.ba = "A", (), (), (), ()
        self.aborts, self.deaths, self.late = aborts, deaths, late
        self.arrived, self.consumed, self.lost = {}, {}, frozenset()
        self.started, self.saved = False, frozenset()
        for number, connection in enumerate(old):
            self.arrived[connection] = (-1 - number,)
            plane.packet(connection, -1 - number, 0.0)
        for connection, other in expected:
            plane.expect(connection, other)

    # -- copying and comparing: what is shared is never changed in place

    def clone(self):
        other = shallow(self)
        other.alive, other.arrived, other.consumed = dict(self.alive), dict(self.arrived), dict(self.consumed)
        other.linked = dict(self.linked)
        other.a, other.b = shallow(self.a), shallow(self.b)
        other.a.plane, other.b.plane = clone_plane(self.a.plane), clone_plane(self.b.plane)
        return other

    def key(self):
        return (self.sent, self.ends, self.alive["A"], self.alive["B"], self.known, self.target, self.to_a, self.to_b,
                self.ab, self.ba, self.aborts, self.deaths, self.late, self.started, self.lost, self.saved, self.announced,
                tuple(self.consumed.items()), self.a.source, self.b.phase,
                plane_key(self.a.plane), plane_key(self.b.plane))

    # -- what may happen

    def moves(self):
        """List what may happen next, as (name, argument)."""
        a, b = self.alive["A"], self.alive["B"]
        found = []
        if self.sent < len(self.script):
            found.append(("send", None))
        if a:
            if self.to_a:
                found.append(("arrive", "A"))
            if self.ba:
                found.append(("deliver", "A"))
            if not self.started and self.known:
                found.append(("start", None))
            found += [("tick", 0.0), ("busy", None)]
            if self.late and self.a.source.batches:
                found.append(("tick", LATE))
            if self.aborts and self.started:
                found.append(("abort", None))
        if b:
            if self.to_b:
                found.append(("arrive", "B"))
            if self.ab:
                found.append(("deliver", "B"))
        found += [("end", connection) for connection in self.ends if self.may_end(connection)]
        found += [("announce", pair) for pair in self.announced
                  if pair[0] not in self.arrived and self.writers(pair[1])]
        if self.known:
            found += [("die", who) for who in self.deaths if self.started]
        else:
            found.append(("discover", None))
        return found

    def may_end(self, connection):
        owners = self.writers(connection)
        # What ends at B while A does not know yet that B has it would come back if B died.
        return len(owners) == 1 and GIVEN not in self.statuses(connection)

    def step(self, move):
        """Give the world after a move."""
        world = self.clone()
        getattr(world, "do_" + move[0])(move[1])
        source = world.a.source         # times mean nothing here
        world.a.source = source._replace(since=0.0, batches=tuple(kept._replace(since=0.0) for kept in source.batches))
        return world

    def carry_out(self, who, outputs):
        for output in outputs:
            if isinstance(output, Redirect):
                self.target = who if output.here else "B"          # only A gives traffic away
                if not output.here:
                    self.to_a = (*self.to_a, MARKER)
            elif isinstance(output, Send) and who == "A":
                self.ab = (*self.ab, output.message)
            else:
                self.ba = (*self.ba, output.message)

    def do_send(self, _):
        connection, number = self.script[self.sent], self.sent
        self.sent += 1
        self.arrived[connection] = (*self.arrived.get(connection, ()), number)
        if not self.alive[self.target]:
            self.lost |= {number}
        elif self.target == "A":
            self.to_a = (*self.to_a, (connection, number))
        else:
            self.to_b = (*self.to_b, (connection, number))

    def do_arrive(self, who):
        if who == "A":
            first, self.to_a = self.to_a[0], self.to_a[1:]
            self.carry_out("A", self.a.event(m.REDIRECTED, 0.0) if first == MARKER else self.a.packet(*first, 0.0))
        else:
            first, self.to_b = self.to_b[0], self.to_b[1:]
            self.carry_out("B", self.b.packet(*first, 0.0))

    def do_deliver(self, who):
        if who == "A":
            first, self.ba = self.ba[0], self.ba[1:]
            self.carry_out("A", self.a.receive(first, 0.0))
        else:
            first, self.ab = self.ab[0], self.ab[1:]
            self.carry_out("B", self.b.receive(first, 0.0))

    def do_start(self, _):
        self.started = True
        self.carry_out("A", self.a.event(m.START, 0.0))

    def do_tick(self, now):
        self.late -= now == LATE
        self.carry_out("A", self.a.event(m.TICK, now))

    def do_busy(self, _):
        self.carry_out("A", self.a.event(m.TICK, 0.0, rate=1e9))

    def do_abort(self, _):
        self.aborts -= 1
        self.carry_out("A", self.a.event(m.ABORT, 0.0))

    def do_end(self, connection):
        who, end = ("A", self.a) if self.writers(connection) == ["A"] else ("B", self.b)
        state = end.plane.state(connection)
        outputs = end.end(connection)
        if connection not in end.plane.index:           # it was there, and is not any more
            self.ends = tuple(other for other in self.ends if other != connection)
            self.consumed[connection] = (*self.consumed.get(connection, ()), *state)
        self.carry_out(who, outputs)

    def do_announce(self, pair):
        self.announced = tuple(other for other in self.announced if other != pair)
        end = self.a if self.writers(pair[1]) == ["A"] else self.b
        end.plane.expect(*pair)
        self.linked[pair[0]] = pair[1]

    def do_die(self, who):
        self.alive[who], self.known, self.deaths = False, False, ""
        if who == "A":
            self.to_a = ()
        else:
            self.to_b = ()

    def do_discover(self, _):
        """The survivor learns of the death; what only the dead machine had, or what was under way, is gone."""
        self.known, self.ab, self.ba = True, (), ()
        who, end, queue = ("A", self.a, self.to_a) if self.alive["A"] else ("B", self.b, self.to_b)
        kept = {number for _, number in queue} | {number for _, number in end.plane.held}
        for group in end.plane.groups:
            kept |= {number for _, number in group.buffer}
            kept |= {number for member in group.members.values() for number in member.state}
        kept |= {number for numbers in self.consumed.values() for number in numbers}
        self.lost |= {number for numbers in self.arrived.values() for number in numbers} - kept
        self.saved = frozenset(connection for connection in self.arrived if self.groups(connection))
        self.carry_out(who, end.event(m.PEER_DEAD, 0.0))

    # -- what must hold

    def planes(self):
        return [plane for who, plane in (("A", self.a.plane), ("B", self.b.plane)) if self.alive[who]]

    def groups(self, connection):
        """Give the living machines' groups that have a connection's state, as {machine: group}."""
        found = {}
        for who, plane in (("A", self.a.plane), ("B", self.b.plane)):
            group = plane.index.get(connection) if self.alive[who] else None
            if group is not None and connection in group.members:
                found[who] = group
        return found

    def statuses(self, connection):
        return [group.status for group in self.groups(connection).values()]

    def writers(self, connection):
        return [who for who, group in self.groups(connection).items() if group.status == RESIDENT]

    def check(self):
        """Raise Broken if a property does not hold now."""
        for plane in self.planes():
            plane._check()
        for connection in self.arrived:
            groups, writers = self.groups(connection), self.writers(connection)
            if len(writers) > 1:
                raise Broken(f"{connection}: both machines change its state")
            if self.alive["A"] and set(self.statuses(connection)) == {STAGED}:
                raise Broken(f"{connection}: B has a copy without effect, and A has none")
            done = self.consumed.get(connection, ())
            expected = tuple(number for number in self.arrived[connection] if number not in self.lost)
            for group in groups.values():
                state = (*done, *group.members[connection].state)
                if connection in self.relaxed:
                    state = ()
                if self.known and state != expected[:len(state)]:
                    raise Broken(f"{connection}: its state has seen {state} of {expected}")
            if writers:
                seen = groups[writers[0]].members[connection].state
                for who, group in groups.items():
                    logged = tuple(number for other, number in group.buffer if other == connection)
                    if who != writers[0] and (*group.members[connection].state, *logged)[:len(seen)] != seen:
                        raise Broken(f"{connection}: the copy at {who} has missed packets")
        for connection, other in self.linked.items():
            ended = connection in self.consumed or other in self.consumed       # who comes again is not linked
            if not ended and len(set(self.writers(connection)) | set(self.writers(other))) > 1:
                raise Broken(f"{connection} and {other} are separated")
        if self.known:
            self.check_units()

    def check_units(self):
        places = collections.Counter()
        held = set()
        for plane in self.planes():
            places.update(plane.pool.free)
            held |= {(connection, member.unit) for group in plane.groups
                     for connection, member in group.members.items()}
        places.update(unit for _, unit in held)
        if all(self.alive.values()):
            for message in (*self.ab, *self.ba):
                places.update(units_of(message, {connection for connection, _ in held}))
        if any(count > 1 for count in places.values()):
            raise Broken(f"units in two places: {places}")
        # Those that only a dead machine had are found again by what the survivor reclaims.
        if set(places) != set(self.a.plane.pool.units) and (self.alive["A"] or self.b.phase == m.SERVING):
            raise Broken(f"units lost: only {sorted(places)} are left")

    def check_rest(self):
        """Raise Broken unless this world is one in which nothing more has to happen."""
        for plane in self.planes():
            if plane.held or any(group.status != RESIDENT or group.buffer for group in plane.groups):
                raise Broken("at rest, but something waits")
            if plane.waiting:
                raise Broken(f"at rest, but {plane.waiting} packets are counted as waiting")
        phases = {"A": {m.SERVING, m.DONE}, "B": {m.SERVING, m.STANDBY}}
        for who, phase in (("A", self.a.source.phase), ("B", self.b.phase)):
            if self.alive[who] and phase not in phases[who]:
                raise Broken(f"at rest, but {who} is {phase}")
        if not self.alive["A"] and self.b.phase == m.STANDBY:
            return                      # B had no part in it (yet, or any more)
        for connection in self.saved - set(self.consumed):
            if not self.groups(connection):
                raise Broken(f"{connection}: the survivor had a copy, and has none now")
        for connection, numbers in self.arrived.items():
            found = [group.members[connection].state for group in self.groups(connection).values()]
            if connection in self.relaxed:
                if len(found) != 1 and all(self.alive.values()):
                    raise Broken(f"{connection}: {len(found)} copies at rest")
                continue
            whole = (*self.consumed.get(connection, ()), *(found[0] if found else ()))
            if whole != tuple(number for number in numbers if number not in self.lost):
                raise Broken(f"{connection}: at rest with {whole} of {numbers}, lost {sorted(self.lost)}")


def units_of(message, held_by):
    """Give the units a message carries: free ones, and those of connections that no machine has."""
    if message.kind == m.OPEN:
        return message.body[1]
    if message.kind in (m.FREED, m.DRAINED):
        return message.body
    if message.kind == m.RETURNED:
        copies, free = message.body
        return [*free, *(unit for one in copies for connection, _, _, unit in one.members if connection not in held_by)]
    return ()


def shallow(item):
    """Give a copy that shares all attributes."""
    other = object.__new__(type(item))
    other.__dict__.update(item.__dict__)
    return other


def clone_plane(plane):
    other = shallow(plane)
    other.pool = Pool()
    other.pool.units, other.pool.free = plane.pool.units, set(plane.pool.free)
    other.index, other.held, other.counts, other.groups = {}, list(plane.held), dict(plane.counts), {}
    other.batches = {}
    for group in plane.groups:
        twin = Group(group.status, group.relaxed)
        other.groups[twin] = None
        twin.batch, twin.buffer, twin.expected = group.batch, list(group.buffer), set(group.expected)
        twin.members = {connection: Member(member.state, 0.0, member.unit)
                        for connection, member in group.members.items()}
        if twin.batch is not None:
            other.batches.setdefault(twin.batch, []).append(twin)
        other.index.update(dict.fromkeys((*twin.members, *twin.expected), twin))
    return other


def plane_key(plane):
    return (plane.establishing, plane.chained, plane.holding, tuple(plane.held), frozenset(plane.pool.free), tuple(
        (group.status, group.batch, tuple(group.buffer), frozenset(group.expected),
         tuple((connection, member.state, member.unit) for connection, member in group.members.items()))
        for group in plane.groups))


RESTLESS = ("send", "start", "tick", "arrive", "deliver", "discover")     # what happens by itself, sooner or later


def explore(world):
    """Visit every world that can be reached, check each, and that each can come to rest; give how many.

    Raises Broken with the moves that led there.
    """
    numbers, came, worlds, backward = {world.key(): 0}, {0: None}, collections.deque([(0, world)]), [[]]
    resting = []
    while worlds:
        number, here = worlds.popleft()
        restless = False
        for move in here.moves():
            try:
                there = here.step(move)
                key = there.key()
                if key not in numbers:
                    there.check()
            except Exception as error:
                raise Broken(f"{error!r} after {[*trail(came, number), move]}") from error
            other = numbers.setdefault(key, len(numbers))
            if other == number:
                continue
            restless = restless or move[0] in RESTLESS
            if other == len(backward):
                backward.append([])
                came[other] = (number, move)
                worlds.append((other, there))
            if move[0] in RESTLESS:
                backward[other].append(number)
        if not restless:
            try:
                here.check_rest()
            except Broken as error:
                raise Broken(f"{error} after {trail(came, number)}") from error
            resting.append(number)
    reached, waiting = set(resting), list(resting)
    while waiting:
        for before in backward[waiting.pop()]:
            if before not in reached:
                reached.add(before)
                waiting.append(before)
    if len(reached) != len(numbers):
        stuck = min(set(range(len(numbers))) - reached)
        raise Broken(f"never comes to rest after {trail(came, stuck)}")
    return len(numbers)


def trail(came, number):
    """Give the moves that led to a world."""
    moves = []
    while came[number] is not None:
        number, move = came[number]
        moves.append(move)
    return moves[::-1]


SMALL = {
    "nothing fails": dict(script="xnx", late=0, aborts=0, deaths=""),
    "aborted": dict(script="xnx", deaths=""),
    "the source dies": dict(script="xnx", aborts=0, deaths="A"),
    "the destination dies": dict(script="xnx", aborts=0, deaths="B"),
    "aborted, and one dies": dict(script="xn"),
    "linked": dict(script="yxy", expected=[("y", "x")], late=0, deaths="B"),
    "linked, the source dies": dict(script="yx", expected=[("y", "x")], aborts=0, deaths="A"),
    "announced on the way": dict(script="yx", announced=[("y", "x")], late=0),
    "linked, and one ends": dict(script="yx", expected=[("y", "x")], ends="xy", late=0, deaths="A"),
    "connections end": dict(script="xn", old="xw", ends="x", late=0, deaths=""),
    "ends, and one dies": dict(script="x", ends="x", late=0),
    "two batches in flight": dict(script="xw", old="xw", window=2, aborts=0),
    "a batch of two": dict(script="xw", old="xw", batch=2, late=0),
    "relaxed": dict(script="xx", relaxed="x"),
}


@pytest.mark.parametrize("name", SMALL)
def test_every_interleaving(name):
    assert explore(World(**SMALL[name])) > 300


def test_every_row_of_the_tables_is_needed(monkeypatch):
    taken, choose = set(), m._choose
    monkeypatch.setattr(m, "_choose", lambda *given: taken.add(row := choose(*given)) or row)
    explore(World("", aborts=2, late=2, ends="x", units=2))
    rows = {*m.PHASES, *m.BATCHES, *m.DESTINATION}
    assert taken <= rows
    assert sorted(rows - taken) == []


@pytest.mark.soak
@pytest.mark.parametrize("world", [
    dict(script="xnw", old="xw", window=2, ends="w", late=0),
    dict(script="xyn", old="xw", expected=[("y", "x")], batch=2, window=2, units=6, reserve=2),
], ids=["ends", "linked"])
def test_every_interleaving_of_more(world):
    assert explore(World(**world)) > 10_000


@given(st.data())
def test_random_interleavings_of_larger_migrations(data):
    old = [f"c{number}" for number in range(data.draw(st.integers(1, 6)))]
    linked = [("e", "c0"), ("f", old[-1])]
    expected, announced = ([pair for pair in linked if data.draw(st.booleans())] for _ in range(2))
    announced = [pair for pair in announced if pair not in expected]
    names = [*old, "n", "o", "e", "f"]
    world = World(data.draw(st.lists(st.sampled_from(names), max_size=12)), old, expected, announced=announced, units=len(names) + 2,
                  reserve=2, batch=data.draw(st.integers(1, 4)), window=data.draw(st.integers(1, 3)),
                  aborts=data.draw(st.integers(0, 1)), deaths=data.draw(st.sampled_from(["", "A", "B"])),
                  ends=data.draw(st.lists(st.sampled_from([*old, "e"]), unique=True, max_size=3)), late=2)
    pace = data.draw(st.integers(0, 120))
    for _ in range(pace):
        moves = world.moves()
        if not moves:
            break
        world = world.step(data.draw(st.sampled_from(moves)))
        world.check()
    world.aborts, world.deaths, world.ends, world.late = 0, "", (), 0
    for _ in range(500):                # let it come to rest
        before = world.key()
        for move in world.moves():
            if move in world.moves():
                world = world.step(move)
                world.check()
        if world.key() == before:
            break
    assert world.key() == before
    world.check_rest()


def test_relaxed_states_never_wait():
    world = World("xx", relaxed="x", deaths="", aborts=0, late=0)
    for move in (("start", None), ("deliver", "B"), ("deliver", "A"), ("tick", 0.0), ("send", None), ("arrive", "A")):
        world = world.step(move)
    assert world.a.plane.index["x"].status == FROZEN
    assert world.a.plane.counts["buffered"] == 0 and world.a.plane.counts["processed"] == 2


def table(rows, *changes):
    """Give a table with some rows replaced: (state, event) -> Row, or None to keep but do nothing."""
    replaced = {(row.state, row.event): row for row in changes}
    return m.index([replaced.get((row.state, row.event), row) for row in rows])


def no_log(self, batch, _commit=Plane.commit):
    packets = _commit(self, batch)
    for group in self.groups:
        if group.status == GIVEN:
            group.buffer = []
    return packets


def written_while_frozen(self, connection, packet, now, _packet=Plane.packet):
    group = self.index.get(connection)
    if group is not None and group.status == FROZEN:
        return self._process(group, connection, packet, now)
    return _packet(self, connection, packet, now)


def logged_and_held(self, connection, packet, now, _packet=Plane.packet):
    group = self.index.get(connection)
    if group is not None and group.status == GIVEN and self.holding:
        group.buffer.append((connection, packet))
    return _packet(self, connection, packet, now)


def shared_by_both(self, keep=0):
    return frozenset(self.free)


# What is spoiled, and a small world in which it must be found out.
FAULTS = {
    "thawed before the copy is discarded": (m, "_BATCHES", table(
        m.BATCHES, m.Row(m.STAGING, m.OVERDUE, "", m.RECALLING, (m.RECALL, m.THAW))), "the source dies"),
    "committed before it is staged": (m, "_BATCHES", table(
        m.BATCHES, m.Row(m.STAGING, m.OVERDUE, "", m.COMMITTED, (m.COMMIT, m.FORGET))), "the destination dies"),
    "forgotten before it is confirmed": (m, "_BATCHES", table(
        m.BATCHES, m.Row(m.STAGING, m.STAGED, "", m.COMMITTED, (m.COMMIT, m.FORGET))), "the destination dies"),
    "touched before B has forgotten": (m, "_PHASES", table(
        m.PHASES, m.Row(m.RETURNING, m.RETURNED, "", m.SERVING, (m.INSTALL, m.ACCEPT, m.RESUME))),
        "aborted, and one dies"),
    "not held on the way back": (m, "_PHASES", table(
        m.PHASES, m.Row(m.IDLE, m.ABORT, "", m.RETURNING, (m.RETURN,))), "aborted"),
    "redirected before it is empty": (m, "_PHASES", table(
        m.PHASES, m.Row(m.COPYING, m.TICK, "empty", m.HANDOVER, ()),
        m.Row(m.IDLE, m.TICK, "quiet", m.HANDOVER, (m.REDIRECT,))), "nothing fails"),
    "staged copies dropped at A's death": (m, "_DESTINATION", table(
        m.DESTINATION, m.Row(m.CHAINED, m.PEER_DEAD, "", m.SERVING, (m.RECLAIM, m.ATTRACT, m.RESUME))),
        "the source dies"),
    "units not reclaimed": (m, "_DESTINATION", table(
        m.DESTINATION, m.Row(m.CHAINED, m.PEER_DEAD, "", m.SERVING, (m.OWN_ALL, m.ATTRACT, m.RESUME))),
        "the source dies"),
    "no log": (Plane, "commit", no_log, "the destination dies"),
    "a frozen state is written": (Plane, "packet", written_while_frozen, "nothing fails"),
    "logged and held": (Plane, "packet", logged_and_held, "aborted, and one dies"),
    "overtaken on the way": (TargetEnd, "packet", lambda self, connection, packet, now: [
        self.plane.packet(connection, packet, now), []][1], "nothing fails"),
    "units at both machines": (Pool, "give", shared_by_both, "nothing fails"),
    "linked states separated": (Plane, "expect", lambda self, connection, other: None, "linked"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_explorer_finds(fault, monkeypatch):
    owner, name, spoiled, world = FAULTS[fault]
    monkeypatch.setattr(owner, name, spoiled)
    with pytest.raises(Broken):
        explore(World(**SMALL[world]))
