"""The data plane of a migration, as a model: what happens to a packet, and what actions do to states.

One `Plane` is one machine.  `packet` tells what becomes of a packet; the other methods are the
actions of `migration`'s tables.  It has no clock, no socket and no peer: `migration_peers` sends
what its methods give.  It is the reference that a faster plane is tested against, and fast enough
for a control path: dictionaries, one look-up per packet.

    a packet of ...                           is
    a resident group                          processed
    a frozen group, relaxed                   processed: it only refreshes a timer
    a frozen group                            buffered, and goes with the group when B owns it
    a given group                             forwarded, and logged until B confirms
    no group, while states are made here      the first of a new one
    no group, while everything is held        held: who will own it is being settled
    no group, otherwise                       forwarded to B: the daisy chain
"""
from flowos import UsageError

from .migration_groups import FROZEN, GIVEN, REGAINED, RESIDENT, Group, Member, pick
from .migration_pool import Pool

# Verdicts.
PROCESSED, FORWARD, BUFFERED, HELD, EXHAUSTED, DROPPED = (
    "processed", "forward", "buffered", "held", "exhausted", "dropped")

COUNTERS = {
    "processed": "packets that met a state, or made one",
    "forwarded": "packets passed on to the peer",
    "buffered": "packets that waited for a frozen group",
    "held": "packets that waited for all of the peer's states",
    "exhausted": "packets of new connections dropped: no unit was free",
    "dropped": "packets dropped: `most` were waiting",
    "unlogged": "packets forwarded, but not logged: the log was full",
    "superseded": "states ended because the peer, which had the connection's packets, sent newer ones",
}


class Application:
    """What the states mean.  States are values: `process` gives a new one and leaves the old alone.

    This one counts packets.  `timeout` is the idle time-out, seconds; `relaxed(connection)` tells
    whether its state is never changed by a packet, so that it may be copied while it goes on.
    """

    timeout = 60.0

    def relaxed(self, connection):
        """Tell whether nothing can happen to the state but to expire."""
        return False

    def establish(self, connection, unit):
        """Give the state of a new connection."""
        return 0

    def process(self, state, packet):
        """Give the state after a packet."""
        return state + 1


class Plane:
    """The states of one machine, and what it does with packets.

    `units` are what connections share (None: they need none); `reserve` of them stay when the
    others are given away.  At most `most` packets wait or are logged; beyond that they are dropped
    and counted.

    >>> plane = Plane()
    >>> plane.packet("c1", b"x", now=0.0), plane.packet("c1", b"y", now=1.0)
    ('processed', 'processed')
    >>> plane.state("c1")
    2
    """

    def __init__(self, application=None, units=None, reserve=0, most=65536, serving=True):
        self.application = application or Application()
        self.shared = units is not None
        self.pool, self.reserve = Pool(units or ()), reserve
        self.groups, self.index = {}, {}        # an ordered set, the oldest first; connection, also expected: Group
        self.batches = {}                       # batch: its groups
        self.resident = 0                       # states here that are in no batch
        self.establishing, self.chained, self.holding = serving, False, False
        self.held, self.most, self.waiting = [], most, 0
        self.counts = dict.fromkeys(COUNTERS, 0)

    def statistics(self):
        """Give {counter: value}; COUNTERS describes them."""
        return dict(self.counts)

    def state(self, connection):
        """Give a connection's state; KeyError when there is none here."""
        return self.index[connection].members[connection].state

    def _check(self):
        """Assert what holds between any two calls."""
        names = [connection for group in self.groups for connection in (*group.members, *group.expected)]
        assert len(names) == len(set(names)) and set(names) == set(self.index)
        assert set(self.index.values()) == set(self.groups)
        assert all(connection in group.members or connection in group.expected
                   for connection, group in self.index.items())
        assert all(group.members for group in self.groups)
        assert self.waiting == len(self.held) + sum(len(group.buffer) for group in self.groups)
        held = [member.unit for group in self.groups for member in group.members.values()
                if member.unit is not None]
        assert len(held) == len(set(held)) and not self.pool.free & set(held)
        assert not (self.establishing and self.holding)
        assert self.resident == sum(len(group.members) for group in self.groups if group.status == RESIDENT)
        batched = [(group, group.batch) for group in self.groups if group.batch is not None]
        assert sorted(map(id, (group for group, _ in batched))) == sorted(
            id(group) for groups in self.batches.values() for group in groups)
        assert all(group in self.batches[batch] and group.status != RESIDENT for group, batch in batched)

    # -- packets

    def packet(self, connection, packet, now):
        """Deal with a packet; the result is the verdict."""
        group = self.index.get(connection)
        if group is None:
            return self._stranger(connection, packet, now)
        if group.status == RESIDENT or (group.status == FROZEN and group.relaxed and connection in group.members):
            return self._process(group, connection, packet, now)
        if group.status == FROZEN:
            return self._wait(group.buffer, connection, packet, BUFFERED, "buffered")
        if group.status == GIVEN:
            if self.holding:                # what is forwarded must be in the log, what is held must not
                return self._wait(self.held, connection, packet, HELD, "held")
            if self.waiting < self.most:
                group.buffer.append((connection, packet))
                self.waiting += 1
            else:
                self.counts["unlogged"] += 1
            return self._forward()
        if group.status == REGAINED:
            return self._wait(self.held, connection, packet, HELD, "held")
        raise UsageError(f"packet of {connection!r}: its state is staged here, and the peer may still change it")

    def hold(self, connection, packet):
        """Keep a packet that came on another way than its predecessors, until `resume`."""
        return self._wait(self.held, connection, packet, HELD, "held")

    def expect(self, connection, other):
        """Link a connection that will come to the group of `other`, which must be resident here."""
        group = self.index.get(other)
        if group is None or group.status != RESIDENT:
            raise UsageError(f"expect {connection!r}: {other!r} has no state here that may change")
        if connection in self.index:
            raise UsageError(f"expect {connection!r}: it is here already")
        group.expected.add(connection)
        self.index[connection] = group

    def end(self, connection):
        """End a connection; give the units to report to the peer, or None when it must stay for now.

        A state that is under way is not ended: its timer goes on where it lands.
        """
        group = self.index[connection]
        if group.status != RESIDENT:
            return None
        unit = group.members.pop(connection).unit
        self.resident -= 1
        del self.index[connection]
        if not group.members:
            self._drop(group)
        if unit is None:
            return frozenset()
        if self.chained and not self.holding:
            return frozenset((unit,))
        self.pool.add((unit,))
        return frozenset()

    def overdue(self, now):
        """List the connections whose idle timer has run out and that may be ended; O(states)."""
        return [connection for group in self.groups if group.status == RESIDENT
                for connection, member in group.members.items() if member.deadline <= now]

    def _stranger(self, connection, packet, now):
        if self.holding:
            return self._wait(self.held, connection, packet, HELD, "held")
        if not self.establishing:
            return self._forward()
        group = Group(relaxed=self.application.relaxed(connection))
        verdict = self._process(group, connection, packet, now)
        if verdict != EXHAUSTED:
            self.groups[group] = None
        return verdict

    def _process(self, group, connection, packet, now):
        member = group.members.get(connection)
        if member is None:
            unit = self.pool.take() if self.shared else None
            if self.shared and unit is None:
                self.counts["exhausted"] += 1
                return EXHAUSTED
            member = group.members[connection] = Member(self.application.establish(connection, unit), 0.0, unit)
            group.expected.discard(connection)
            self.index[connection] = group
            self.resident += 1                  # no group but a resident one gets members
        member.state = self.application.process(member.state, packet)
        member.deadline = now + self.application.timeout
        self.counts["processed"] += 1
        return PROCESSED

    def _wait(self, line, connection, packet, verdict, counter):
        if self.waiting >= self.most:
            self.counts["dropped"] += 1
            return DROPPED
        line.append((connection, packet))
        self.waiting += 1
        self.counts[counter] += 1
        return verdict

    def _forward(self):
        self.counts["forwarded"] += 1
        return FORWARD

    # -- actions of both ends

    def stop(self):
        """Make no new states: what has none here is the peer's."""
        self.establishing, self.chained = False, True

    def resume(self, now):
        """Make new states, own what was regained, and deal with what was held."""
        self.establishing, self.chained, self.holding = True, False, False
        for group in self.groups:
            if group.status == REGAINED:
                self._mark(group, RESIDENT)
        held, self.held = self.held, []
        self.waiting -= len(held)
        for connection, packet in held:
            self.packet(connection, packet, now)

    def reclaim(self):
        """Take all units that no connection here holds: the peer is dead."""
        self.pool.reclaim(unit for group in self.groups for unit in group.units)

    def install(self, copies, now, status, batch=None):
        """Take groups in from the wire.

        What is known here of their connections is older: the peer has had the packets.
        """
        for copy in copies:
            group = copy.revive(now, status, batch)
            for connection in group.members:
                known = self.index.get(connection)
                if known is None:
                    continue
                if connection in known.expected:
                    known.expected.remove(connection)
                    del self.index[connection]
                elif self.end(connection) is None:
                    raise UsageError(f"state of {connection!r}: came from the peer twice")
                else:
                    self.counts["superseded"] += 1
            group.expected = {connection for connection in group.expected if connection not in self.index}
            self.groups[group] = None
            if batch is not None:
                self.batches.setdefault(batch, []).append(group)
            self.index.update(dict.fromkeys((*group.members, *group.expected), group))

    def remove(self, status, batch=None):
        """Drop the groups with a status, of one batch or of all."""
        for group in self._take(status, batch):
            self.waiting -= len(group.buffer)
            self._drop(group)

    def own(self, status, now, batch=None, packets=()):
        """Make groups with a status resident, and process what waited for them, in order."""
        for group in self._take(status, batch):
            self._mark(group, RESIDENT)
            buffer, group.buffer = group.buffer, []
            self.waiting -= len(buffer)
            for connection, packet in buffer:
                self.packet(connection, packet, now)
        for connection, packet in packets:
            self.packet(connection, packet, now)

    def _drop(self, group):
        for connection in (*group.members, *group.expected):
            del self.index[connection]
        del self.groups[group]

    def _mark(self, group, status):
        self.resident += len(group.members) * ((status == RESIDENT) - (group.status == RESIDENT))
        group.status = status

    def _take(self, status, batch):
        """Give the groups with a status, of one batch or of all, and take them out of their batches."""
        if batch is None:
            found = [group for group in self.groups if group.status == status]
        else:
            found = [group for group in self.batches.get(batch, ()) if group.status == status]
        for number in {group.batch for group in found} - {None}:        # a batch's groups share their status
            del self.batches[number]
        for group in found:
            group.batch = None
        return found

    # -- actions of the source

    def freeze(self, batch, size, now):
        """Freeze a batch of resident groups, the oldest first; give their Copies."""
        chosen = pick(((group, len(group.members)) for group in self.groups if group.status == RESIDENT), size)
        for group in chosen:
            self._mark(group, FROZEN)
            group.batch = batch
        self.batches[batch] = chosen
        return tuple(group.snapshot(now, self.application.timeout) for group in chosen)

    def commit(self, batch):
        """Give a batch to the peer; the result is the packets that waited, which stay as the log's beginning."""
        packets = []
        for group in self.batches[batch]:
            self._mark(group, GIVEN)
            packets += group.buffer
        return tuple(packets)

    # -- actions of the destination

    def yield_all(self, now):
        """Give everything back: Copies of all groups, which stay without effect until the peer has them, and free units."""
        self.establishing = False
        for group in self.groups:
            self._mark(group, GIVEN)
        copies = tuple(group.snapshot(now, self.application.timeout) for group in self.groups)
        return copies, self.pool.give()
