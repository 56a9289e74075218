"""The two ends of a migration: a table, a plane, and the messages between them.

    source = SourceEnd(plane, Policy())       at A, which has the states and gets the traffic
    target = TargetEnd(plane)                 at B

Every method takes what happened and gives a list of outputs, which the caller carries out in
order: `Send(message)` to the peer, `Redirect(here)` to whoever sets the switch's rule.  Between
the two there must be a reliable channel that keeps the order (TCP, or a session on top of it that
survives reconnecting); it may be as slow as it likes.  A peer is called dead (`PEER_DEAD`) only
when it has been cut off from the traffic and will not speak again: a machine that is slow is not
dead.  Packets passed on to B go through the same channel as messages: their order matters.
"""
from typing import NamedTuple

from . import migration as m
from .migration_groups import FROZEN, GIVEN, REGAINED, STAGED
from .migration_plane import FORWARD, Plane  # noqa: F401: the example of both ends uses Plane

PACKET = "packet"               # a message that is no event: a packet on the daisy chain


class Message(NamedTuple):
    """What one end tells the other: an event's name, the batch it is about, and a body."""

    kind: str
    batch: int | None = None
    body: object = None


class Send(NamedTuple):
    """An output: this message goes to the peer."""

    message: Message


class Redirect(NamedTuple):
    """An output: traffic is to go to the peer from now on, or to this machine if `here`.

    When the switch has confirmed it (OpenFlow's barrier), and every packet that came before that
    has been given to `packet`, the source is told: `event(REDIRECTED)`.
    """

    here: bool


class SourceEnd:
    """Machine A in one migration.

    >>> a, b = SourceEnd(Plane(), m.Policy(idle_least=0, idle_most=0)), TargetEnd(Plane(serving=False))
    >>> verdict = a.plane.packet("old", b"", now=0.0)
    >>> def pass_on(outputs):               # what a caller does: here there is no network between
    ...     for output in outputs:
    ...         if isinstance(output, Redirect):
    ...             print("redirect")
    ...             continue
    ...         for reply in b.receive(output.message, now=9.0):
    ...             print(output.message.kind, "->", reply.message.kind)
    ...             pass_on(a.receive(reply.message, now=9.0))
    >>> pass_on(a.event(m.START, 1.0))
    open -> opened
    >>> pass_on(a.packet("new", b"", 2.0))
    >>> b.plane.state("new")
    1
    >>> pass_on(a.event(m.TICK, 10.0))
    stage -> staged
    commit -> confirmed
    redirect
    >>> pass_on(a.event(m.REDIRECTED, 11.0))
    >>> a.source.phase, b.phase, b.plane.state("old")
    ('done', 'serving', 1)
    """

    def __init__(self, plane, policy):
        self.plane, self.policy, self.source = plane, policy.check(), m.Source()

    def view(self, now, rate):
        """Give what the tables' guards look at."""
        return m.View(now, self.plane.resident, rate)

    def packet(self, connection, packet, now):
        """Deal with a packet from the switch."""
        if self.plane.packet(connection, packet, now) == FORWARD:
            return [Send(Message(PACKET, None, (connection, packet)))]
        return []

    def end(self, connection):
        """End a connection, if it may be ended now."""
        units = self.plane.end(connection)
        return [Send(Message(m.FREED, None, units))] if units else []

    def receive(self, message, now, rate=0.0):
        """Deal with a message from B."""
        outputs = self.event(message.kind, now, rate, message.batch, message.body)
        if message.kind in (m.STAGED, m.CONFIRMED, m.RECALLED) and self.source.phase == m.COPYING:
            outputs += self.event(m.TICK, now, rate)
        return outputs

    def event(self, kind, now, rate=0.0, batch=None, body=None):
        """Deal with an event; `rate` is how many states end per second."""
        self.source, actions = m.advance(self.source, kind, self.view(now, rate), self.policy, batch)
        outputs = [output for action in actions for output in self._apply(action, now, body)]
        if any(action.kind == m.FREEZE for action in actions):
            outputs += self.event(m.TICK, now, rate)
        return outputs

    def _apply(self, action, now, body):
        plane, kind, batch = self.plane, action.kind, action.batch
        if kind == m.STOP:
            plane.stop()
        elif kind == m.HOLD:
            plane.holding = True
        elif kind == m.THAW:
            plane.own(FROZEN, now, batch)
            plane.own(GIVEN, now, batch)
        elif kind == m.FORGET:
            plane.remove(GIVEN, batch)
        elif kind == m.RECLAIM:
            plane.reclaim()
        elif kind == m.RESUME:
            plane.resume(now)
        elif kind == m.INSTALL:
            copies, units = body
            plane.install(copies, now, REGAINED)
            plane.pool.add(units)
        elif kind in (m.REDIRECT, m.ATTRACT):
            return [Redirect(here=kind == m.ATTRACT)]
        else:
            return [Send(Message(kind if kind != m.FREEZE else m.STAGE, batch, self._body(action, now)))]
        return []

    def _body(self, action, now):
        plane = self.plane
        if action.kind == m.OPEN:
            return plane.pool.units, plane.pool.give(plane.reserve)
        if action.kind == m.FREEZE:
            return plane.freeze(action.batch, action.size, now)
        if action.kind == m.COMMIT:
            return plane.commit(action.batch)
        return plane.pool.give() if action.kind == m.DRAINED else None


class TargetEnd:
    """Machine B in one migration; when it is over, B serves, and may be the source of another."""

    def __init__(self, plane):
        self.plane, self.phase = plane, m.STANDBY

    def packet(self, connection, packet, now):
        """Deal with a packet that came straight from the switch.

        Until A says that it has passed on all it had, this one may have overtaken another.
        """
        if self.phase == m.SERVING:
            self.plane.packet(connection, packet, now)
        else:
            self.plane.hold(connection, packet)
        return []

    def end(self, connection):
        """End a connection, if it may be ended now."""
        self.plane.end(connection)
        return []

    def receive(self, message, now):
        """Deal with a message from A."""
        if message.kind == PACKET:
            self.plane.packet(*message.body, now)
            return []
        return self.event(message.kind, now, message.batch, message.body)

    def event(self, kind, now, batch=None, body=None):
        """Deal with an event, which is a message's kind or PEER_DEAD."""
        self.phase, kinds = m.answer(self.phase, kind)
        return [output for action in kinds for output in self._apply(action, now, batch, body)]

    def _apply(self, kind, now, batch, body):
        plane = self.plane
        if kind == m.INSTALL:
            units, plane.pool.free = body[0], set(body[1])
            plane.pool.units, plane.shared, plane.establishing = units, bool(units), True
            plane.chained = False
        elif kind == m.RELEASE:
            plane.pool.add(body)
        elif kind == m.KEEP:
            plane.install(body, now, STAGED, batch)
        elif kind == m.OWN:
            plane.own(STAGED, now, batch, body)
        elif kind == m.OWN_ALL:
            plane.own(STAGED, now)
            plane.own(GIVEN, now)
        elif kind == m.DISCARD:
            plane.remove(STAGED, batch)
        elif kind == m.CLEAR:
            plane.remove(STAGED)
        elif kind == m.FORGET:
            plane.remove(GIVEN)
        elif kind == m.RECLAIM:
            plane.reclaim()
        elif kind == m.RESUME:
            plane.resume(now)
        elif kind == m.ATTRACT:
            return [Redirect(here=True)]
        else:
            return [Send(Message(kind, batch, plane.yield_all(now) if kind == m.RETURNED else None))]
        return []
