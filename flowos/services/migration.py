"""Flow-state migration (D3.2 §2.3): what the two ends do, as tables; events in, actions out.

Machine A, the source, hands the states of its connections to machine B, the destination, while
traffic flows.  All traffic goes to A first, and what A has no state for is passed on to B:

    idle phase            A makes no new states; old ones end by themselves, new ones grow on B
    freeze-and-copy       what stays is frozen a batch at a time, copied, and owned by B
    handover              A is empty: the switch sends everything to B at once

The idle phase goes on throughout: connections that are not in a batch live on A and end there.

A batch is staged (B has the copies, inert), then committed (B owns them and gets the packets that
A kept), then confirmed (A may forget).  The rule behind every row: **at each moment at most one
machine may change a state, and the other's copy, if it has one, is exact or marked as unfinished.**
So whoever dies, the survivor knows what to do with each copy it has.

PHASES and BATCHES are the source's tables, DESTINATION is B's; `advance` and `answer` are all the
code that reads them.  Nothing here has a clock, a socket or a packet: `migration_plane` applies
actions to states and packets, `migration_peers` joins both.  The diagrams in docs/migration.md are
drawn from these tables.
"""
from typing import NamedTuple

from flowos import UsageError

# Phases of the source.
SERVING, OPENING, IDLE, COPYING, HANDOVER, RETURNING, ACCEPTING, DONE = (
    "serving", "opening", "idle", "copying", "handover", "returning", "accepting", "done")
# Phases that only the destination has.
STANDBY, CHAINED = "standby", "chained"
# What can be with a batch in flight.
STAGING, RECALLING, COMMITTED, HOME, AWAY = "staging", "recalling", "committed", "home", "away"

# Events: from the operator, the clock, the switch, the failure detector ...
START, ABORT, TICK, REDIRECTED, PEER_DEAD = "start", "abort", "tick", "redirected", "peer dead"
# ... and messages from the peer.
OPEN, FREED, STAGE, COMMIT, RECALL, DRAINED, RETURN, ACCEPT = (
    "open", "freed", "stage", "commit", "recall", "drained", "return", "accept")
OPENED, STAGED, CONFIRMED, RECALLED, RETURNED, ACCEPTED = (
    "opened", "staged", "confirmed", "recalled", "returned", "accepted")
OVERDUE = "overdue"                     # a batch's own event: its tick came too late

# Actions that are not messages of the same name.
STOP, RESUME, HOLD, FREEZE, THAW, FORGET = "stop", "resume", "hold", "freeze", "thaw", "forget"
REDIRECT, ATTRACT, RECLAIM, INSTALL = "redirect", "attract", "reclaim", "install"
KEEP, OWN, DISCARD, OWN_ALL, RELEASE, CLEAR = "keep", "own", "discard", "own all", "release", "clear"


class Row(NamedTuple):
    """One transition: in `state`, on `event`, if `guard` holds ("" always does), to `next` by `actions`."""

    state: str
    event: str
    guard: str
    next: str
    actions: tuple[str, ...]


PHASES = (
    # Packets without state are forwarded from here on; behind OPEN they find B ready.
    Row(SERVING, START, "", OPENING, (STOP, OPEN)),
    Row(OPENING, OPENED, "", IDLE, ()),
    Row(OPENING, TICK, "", OPENING, ()),
    Row(OPENING, ABORT, "", RETURNING, (HOLD, RETURN)),
    Row(OPENING, PEER_DEAD, "", SERVING, (RECLAIM, RESUME)),
    Row(IDLE, TICK, "empty", HANDOVER, (REDIRECT,)),
    Row(IDLE, TICK, "quiet", COPYING, (FREEZE,)),
    Row(IDLE, TICK, "", IDLE, ()),
    Row(IDLE, ABORT, "", RETURNING, (HOLD, RETURN)),
    Row(IDLE, PEER_DEAD, "", SERVING, (RECLAIM, RESUME)),
    Row(COPYING, TICK, "empty", HANDOVER, (REDIRECT,)),
    Row(COPYING, TICK, "room", COPYING, (FREEZE,)),
    Row(COPYING, TICK, "", COPYING, ()),
    Row(COPYING, ABORT, "", RETURNING, (HOLD, RETURN)),
    Row(COPYING, PEER_DEAD, "", SERVING, (RECLAIM, RESUME)),
    # From here on the way is forward: B owns everything, and traffic may already go there.
    Row(HANDOVER, REDIRECTED, "", DONE, (DRAINED,)),
    Row(HANDOVER, TICK, "", HANDOVER, ()),
    Row(HANDOVER, ABORT, "", HANDOVER, ()),
    Row(HANDOVER, PEER_DEAD, "", SERVING, (ATTRACT, RECLAIM, RESUME)),
    Row(DONE, TICK, "", DONE, ()),
    Row(DONE, ABORT, "", DONE, ()),
    Row(DONE, PEER_DEAD, "", SERVING, (ATTRACT, RECLAIM, RESUME)),
    # The way back: B gives everything, and forgets before A touches it.
    # What B answered before it read RETURN; that settles every batch.
    Row(RETURNING, OPENED, "", RETURNING, ()),
    Row(RETURNING, STAGED, "", RETURNING, ()),
    Row(RETURNING, CONFIRMED, "", RETURNING, ()),
    Row(RETURNING, RECALLED, "", RETURNING, ()),
    Row(RETURNING, RETURNED, "", ACCEPTING, (INSTALL, ACCEPT)),
    Row(RETURNING, TICK, "", RETURNING, ()),
    Row(RETURNING, ABORT, "", RETURNING, ()),
    Row(RETURNING, PEER_DEAD, "", SERVING, (RECLAIM, RESUME)),
    Row(ACCEPTING, ACCEPTED, "", SERVING, (RESUME,)),
    Row(ACCEPTING, TICK, "", ACCEPTING, ()),
    Row(ACCEPTING, ABORT, "", ACCEPTING, ()),
    Row(ACCEPTING, PEER_DEAD, "", SERVING, (RECLAIM, RESUME)),
    Row(SERVING, TICK, "", SERVING, ()),
    Row(SERVING, ABORT, "", SERVING, ()),
    Row(SERVING, REDIRECTED, "", SERVING, ()),
    Row(SERVING, PEER_DEAD, "", SERVING, ()),
)

BATCHES = (
    Row(STAGING, STAGED, "", COMMITTED, (COMMIT,)),
    Row(STAGING, OVERDUE, "", RECALLING, (RECALL,)),
    Row(RECALLING, STAGED, "", RECALLING, ()),              # crossed with our recall
    Row(RECALLING, RECALLED, "", HOME, (THAW,)),
    Row(RECALLING, OVERDUE, "", RECALLING, ()),
    Row(COMMITTED, CONFIRMED, "", AWAY, (FORGET,)),
    Row(COMMITTED, OVERDUE, "", COMMITTED, ()),
    # B is dead: what A has of a batch is all there is.  It is exact, also once committed: A logs
    # what it passes on until B confirms.
    Row(STAGING, PEER_DEAD, "", HOME, (THAW,)),
    Row(RECALLING, PEER_DEAD, "", HOME, (THAW,)),
    Row(COMMITTED, PEER_DEAD, "", HOME, (THAW,)),
    # B returned everything: it discarded what was staged, and what was committed came back.
    Row(STAGING, RETURNED, "", HOME, (THAW,)),
    Row(RECALLING, RETURNED, "", HOME, (THAW,)),
    Row(COMMITTED, RETURNED, "", AWAY, (FORGET,)),
)

DESTINATION = (
    Row(STANDBY, OPEN, "", CHAINED, (INSTALL, OPENED)),
    Row(CHAINED, FREED, "", CHAINED, (RELEASE,)),
    Row(CHAINED, STAGE, "", CHAINED, (KEEP, STAGED)),
    Row(CHAINED, COMMIT, "", CHAINED, (OWN, CONFIRMED)),
    Row(CHAINED, RECALL, "", CHAINED, (DISCARD, RECALLED)),
    Row(CHAINED, DRAINED, "", SERVING, (RELEASE, RESUME)),
    Row(CHAINED, RETURN, "", RETURNING, (CLEAR, RETURNED)),
    # A is dead.  What is staged was frozen there and A did not thaw it: the copies are exact.
    Row(CHAINED, PEER_DEAD, "", SERVING, (OWN_ALL, RECLAIM, ATTRACT, RESUME)),
    Row(RETURNING, ACCEPT, "", STANDBY, (FORGET, ACCEPTED)),
    # What it returned it has not forgotten, and A has not touched it: exact as well.
    Row(RETURNING, PEER_DEAD, "", SERVING, (OWN_ALL, RECLAIM, ATTRACT, RESUME)),
    Row(SERVING, PEER_DEAD, "", SERVING, (ATTRACT,)),
    Row(STANDBY, PEER_DEAD, "", STANDBY, ()),
)


class Policy(NamedTuple):
    """Tell when the second phase starts and how it goes; times in seconds.

    The idle phase ends when fewer than `expiry_rate` states end per second, or fewer than
    `expiry_share` of those that are left, but not before `idle_least`, and at `idle_most` in any
    case.  The rate is taken over `rate_window`.  `idle_least` must cover that and the shortest life
    of a connection: if they all began just now, none ends at first, and a rate of zero says nothing.

    A batch has at most `batch` states (a larger group goes alone); at most `window` batches are
    in flight.  One that is not staged within `patience` is recalled, and the next has half the
    size and twice the patience, so that a slow wire is not asked the same for ever; each that is
    confirmed doubles the size again, up to `batch`, and halves the patience.
    """

    expiry_rate: float = 0.0
    expiry_share: float = 1.0
    idle_least: float = 0.5
    idle_most: float = 30.0
    batch: int = 1000
    window: int = 1
    patience: float = 1.0
    rate_window: float = 0.25

    def check(self):
        """Return the policy; UsageError names the field that is wrong.

        >>> Policy(batch=0).check()
        Traceback (most recent call last):
            ...
        flowos.core.errors.UsageError: batch: got 0, expected a whole number above 0
        """
        for name in ("batch", "window"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"{name}: got {value!r}, expected a whole number above 0")
        for name in ("expiry_rate", "expiry_share", "idle_least", "idle_most", "patience", "rate_window"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                raise UsageError(f"{name}: got {value!r}, expected a number from 0")
        if self.rate_window == 0:
            raise UsageError("rate_window: got 0, expected seconds above 0")
        if self.idle_most < self.idle_least:
            raise UsageError(f"idle_most: got {self.idle_most:g}, expected at least idle_least, {self.idle_least:g}")
        return self


class View(NamedTuple):
    """What A sees when an event comes: the clock, states that are in no batch, states ending per second."""

    now: float
    resident: int
    rate: float


class Batch(NamedTuple):
    """A batch in flight: its number, what is with it, and since when it is frozen."""

    number: int
    status: str
    since: float


class Source(NamedTuple):
    """A's side of one migration; `size` is the next batch's, `numbered` how many there were."""

    phase: str = SERVING
    since: float = 0.0
    batches: tuple[Batch, ...] = ()
    size: int = 0
    numbered: int = 0


class Action(NamedTuple):
    """One thing to do: its kind; the batch it is about; for FREEZE the most states to take."""

    kind: str
    batch: int | None = None
    size: int | None = None


def _empty(source, view, policy):
    return view.resident == 0 and not source.batches


def _quiet(source, view, policy):
    idle = view.now - source.since
    slow = view.rate < max(policy.expiry_rate, policy.expiry_share * view.resident)
    return view.resident > 0 and (idle >= policy.idle_most or (idle >= policy.idle_least and slow))


def _room(source, view, policy):
    return view.resident > 0 and len(source.batches) < policy.window


# Names of guards, as tables and diagrams have them: no state left; few end; a batch may start.
GUARDS = {"": lambda source, view, policy: True, "empty": _empty, "quiet": _quiet, "room": _room}


def index(rows):
    """Arrange a table as {(state, event): rows}; the first row whose guard holds is taken."""
    table = {}
    for row in rows:
        table.setdefault((row.state, row.event), []).append(row)
    return table


_PHASES, _BATCHES, _DESTINATION = index(PHASES), index(BATCHES), index(DESTINATION)


def advance(source, event, view, policy, batch=None):
    """Give (source, actions) after an event at A.

    STAGED, CONFIRMED and RECALLED are about the batch of number `batch`; after each of them, and
    after a FREEZE was applied, give a TICK with a fresh view.  UsageError for an event that cannot
    happen.  Costs time in proportion to the batches in flight.

    >>> source, actions = advance(Source(), START, View(0.0, 50, 0.0), Policy())
    >>> source.phase, [action.kind for action in actions]
    ('opening', ['stop', 'open'])
    >>> source, actions = advance(source, OPENED, View(0.1, 40, 0.0), Policy())
    >>> source, actions = advance(source, TICK, View(1.0, 7, 2.0), Policy())
    >>> source.phase, actions
    ('copying', [Action(kind='freeze', batch=1, size=1000)])
    """
    actions = []
    if event == TICK and source.phase == COPYING:       # on the way back RETURN settles what is in flight
        patience = policy.patience * policy.batch / (source.size or policy.batch)
        late = [kept.number for kept in source.batches if view.now - kept.since > patience]
        for number in late:
            source = _move_batch(source, number, OVERDUE, policy, actions)
    elif event in (STAGED, CONFIRMED, RECALLED) and (source.phase, event) not in _PHASES:
        return _move_batch(source, batch, event, policy, actions), actions
    row = _choose(_PHASES, source.phase, event, lambda name: GUARDS[name](source, view, policy))
    for kind in row.actions:
        if kind == FREEZE:
            source = _begin_batch(source, view, policy, actions)
            continue
        if kind in (RECLAIM, INSTALL):  # what is in flight is settled before
            for kept in source.batches:
                source = _move_batch(source, kept.number, event, policy, actions)
        actions.append(Action(kind))
    if row.next != source.phase:
        source = source._replace(phase=row.next, since=view.now)
    return source, actions


def answer(phase, event):
    """Give (phase, kinds of action) of the destination after an event there; UsageError if it cannot happen.

    >>> answer(STANDBY, OPEN)
    ('chained', ('install', 'opened'))
    """
    row = _choose(_DESTINATION, phase, event, lambda name: True)
    return row.next, row.actions


def _choose(table, state, event, holds):
    for row in table.get((state, event), ()):
        if holds(row.guard):
            return row
    raise UsageError(f"{event}: cannot happen while {state}")


def _begin_batch(source, view, policy, actions):
    number, size = source.numbered + 1, source.size or policy.batch
    actions.append(Action(FREEZE, number, size))
    return source._replace(numbered=number, size=size,
                           batches=(*source.batches, Batch(number, STAGING, view.now)))


def _move_batch(source, number, event, policy, actions):
    kept = next((kept for kept in source.batches if kept.number == number), None)
    if kept is None:
        raise UsageError(f"{event}: no batch {number!r} is in flight")
    row = _choose(_BATCHES, kept.status, event, lambda name: True)
    actions += [Action(kind, number) for kind in row.actions]
    size = source.size
    if event == RECALLED:
        size = max(1, size // 2)
    elif event == CONFIRMED:
        size = min(policy.batch, size * 2)
    rest = tuple(kept._replace(status=row.next) if kept.number == number else kept
                 for kept in source.batches if kept.number != number or row.next not in (HOME, AWAY))
    return source._replace(batches=rest, size=size)
