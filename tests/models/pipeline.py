"""The pipeline as plainly as Python can say it: streams, windows, stages, release, hold, edits, merge.

    units ──► stream ──► stage 1 [head, tail) ──► stage 2 [head, tail) ──► … ──► what leaves
                              └ a writer makes a stream of its own ┘

This is the semantics of windows, written from the rules and not from the machinery: a stream is a
list of bytes that each know their place in what arrived, a stage is a number that only grows, a
writer appends what it releases to a list that the stages behind it read.  Nothing is shared, nothing
is freed, everything is counted from the stream's first byte.  docs/windows.md quotes it.

A module is a function from a `View` to an `Answer`.  When windows are made is not the semantics' to
say, so it is part of the input: `Pipeline.deliver` is called with the units that came in between.
"""
from dataclasses import dataclass, field
from typing import NamedTuple


class Byte(NamedTuple):
    """One byte of a stream: `value` None is one that nobody has (a gap).

    `place` is the offset in what arrived of the byte itself, or, of an inserted one, of the byte in
    front of which it was put.
    """

    value: int | None
    place: int
    came: bool                                # it arrived; else a module put it in


class Unit(NamedTuple):
    """A data unit of the transport: `data` is None for a gap; SYN and FIN have length 0."""

    kind: str
    offset: int
    length: int
    data: bytes | None


class View(NamedTuple):
    """What a module sees of a window: [head, tail) of its own input, and whether nothing more will join."""

    connection: int
    direction: int
    head: int
    tail: int
    data: bytes                               # without the gaps
    complete: bool
    units: int                                # how many data units reach into it


class Edit(NamedTuple):
    """Take [start, end) of the window away and put `data` in its place; offsets count from the window's head."""

    start: int
    end: int
    data: bytes = b""


class Answer(NamedTuple):
    """What a module made of a window: None for `release` is all of it, a number so many bytes from its head."""

    edits: tuple = ()
    drop: int | None = None                   # ... or the data unit of this number
    release: int | None = None
    fails: bool = False                       # it raised, after all this


@dataclass(frozen=True)
class Stage:
    """What the pipeline must know of a module: how it is attached."""

    decide: object                            # View -> Answer
    writes: bool = False
    order: int = 0
    depends: frozenset = frozenset()          # numbers of earlier stages that it must follow
    whole: bool = False                       # below the transport: windows hold whole datagrams only
    hold: int = 10**18                        # ns
    hold_bytes: int = 1 << 20


@dataclass
class Cursor:
    """Where a stage stands in one direction."""

    head: int = 0                             # bytes of its input that it released, for good (rule 2)
    place: int = 0                            # ... and how far that is in what arrived
    seen: tuple = (0, 0)                      # the tail of its last window: (bytes, place)
    told: bool = False                        # its last window was complete
    held_since: int | None = None
    out: list = field(default_factory=list)   # a writer's: what it made


class Way:
    """One direction of one connection."""

    def __init__(self, stages):
        self.stages = stages
        self.arrived, self.units = [], []
        self.fin = self.closed = False
        self.cursors = [Cursor() for _ in stages]

    def append(self, unit):
        """Take in the next unit of the stream."""
        self.fin |= unit.kind == "fin"
        self.units.append(unit)
        self.arrived += [Byte(unit.data[i] if unit.data is not None else None, unit.offset + i, True)
                         for i in range(unit.length)]

    # ---- what a stage may see

    def writer_before(self, k):
        """Give the number of the last stage before k that writes, or None."""
        return next((j for j in reversed(range(k)) if self.stages[j].writes), None)

    def input(self, k):
        """Give the stream that stage k reads: what arrived, or what the last writer before it released (rule 4)."""
        writer = self.writer_before(k)
        return self.arrived if writer is None else self.cursors[writer].out

    def tail(self, k):
        """Give how far stage k may go (rule 3): (bytes of its input, place in what arrived).

        Behind a writer that is all it released.  A stage that writes, or depends on an earlier one,
        does not pass that one's head; readers pass each other.
        """
        writer, stage = self.writer_before(k), self.stages[k]
        source = self.input(k)
        tail = len(source)
        place = len(self.arrived) if writer is None else self.cursors[writer].place
        for j in range(0 if writer is None else writer + 1, k):
            if self.stages[j].order != stage.order and (stage.writes or j in stage.depends) and self.cursors[j].head < tail:
                tail, place = self.cursors[j].head, self.cursors[j].place
        if stage.whole:
            border = max((u.offset for u in self.units if u.offset <= place < u.offset + u.length), default=place)
            if border < place:                # inside a datagram: only what is in front of it
                tail, place = sum(1 for byte in source[:tail] if byte.place < border), border
        return tail, place

    def complete(self, k):
        """Say whether nothing more joins stage k's window: the stream ended, and all before it released everything."""
        writer, tail = self.writer_before(k), self.tail(k)
        return ((self.fin or self.closed) and tail == (len(self.input(k)), len(self.arrived))
                and (writer is None or self.cursors[writer].head == len(self.input(writer))))

    # ---- a module's turn

    def offer(self, k, connection, direction, now):
        """Hand stage k its window, if there is anything new in it; give the View, or None."""
        stage, cursor = self.stages[k], self.cursors[k]
        tail, place = self.tail(k)
        complete = self.complete(k)
        news = (tail, place) > cursor.seen or (complete and not cursor.told and (self.fin or cursor.held_since is not None))
        if not news:
            return None
        bytes_ = self.input(k)[cursor.head:tail]
        units = [u for u in self.units if u.kind == "data" and u.offset + u.length > cursor.place and u.offset < place]
        view = View(connection, direction, cursor.head, tail, bytes(b.value for b in bytes_ if b.value is not None),
                    complete, len(units))
        cursor.seen, cursor.told = (tail, place), complete
        self.commit(k, bytes_, place, units, stage.decide(view), now)
        return view

    def commit(self, k, window, place, units, answer, now):
        """Carry out what a module made of its window, all at once (rules 4 and 8)."""
        stage, cursor = self.stages[k], self.cursors[k]
        edits = list(answer.edits)
        if answer.drop is not None:
            edits += self.extent(window, units[answer.drop])
        upto = len(window) if answer.release is None else answer.release
        if answer.fails:                      # what it released before it failed stands; the rest goes on unchanged
            edits = [edit for edit in edits if answer.release is not None and edit.end <= upto]
            upto = len(window)
        if len(window) - upto > stage.hold_bytes:
            upto = len(window)
        if stage.writes:
            cursor.out += self.rewritten(cursor, window, upto, edits)
        cursor.head += upto
        if upto == len(window):
            cursor.place, cursor.held_since = place, None
        else:
            cursor.place = behind(window, upto, cursor.place)
            if any(edit.start == upto and edit.data for edit in edits):   # put in front of a byte that it holds
                cursor.place = max(cursor.place, window[upto].place)
            if upto or cursor.held_since is None:
                cursor.held_since = now

    def extent(self, window, unit):
        """Give the edit that deletes a unit: its bytes, and what earlier stages put in front of any of them."""
        inside = [i for i, b in enumerate(window) if unit.offset <= b.place < unit.offset + unit.length]
        return [Edit(inside[0], inside[-1] + 1)] if inside else []

    def rewritten(self, cursor, window, upto, edits):
        """Give what a writer releases: the first `upto` bytes of its window with its edits."""
        out, at = [], 0
        for start, end, data in sorted(edits, key=lambda edit: edit[:2]):
            out += window[at:start]
            if end > start:
                place = window[start].place
            elif start < len(window):         # in front of the byte there
                place = window[start].place
            else:
                place = behind(window, start, cursor.place)
            out += [Byte(value, place, False) for value in data]
            at = max(at, end)
        return out + window[at:upto]

    def pass_on(self, k, lent=False):
        """Release what stage k may see, or only what its last window held, unchanged: the system's doing."""
        stage, cursor = self.stages[k], self.cursors[k]
        tail, place = cursor.seen if lent else self.tail(k)
        if stage.writes:
            cursor.out += self.input(k)[cursor.head:tail]
        cursor.head, cursor.place, cursor.held_since = max(cursor.head, tail), place, None
        cursor.seen = max(cursor.seen, (tail, place))

    # ---- what leaves

    def final(self):
        """Give what left, or may leave: the stream behind the last writer, as far as every stage released it."""
        return self.input(len(self.stages))

    def gone(self):
        """Give how far the stream left: below the least head of all stages (rule 3), as a place in what arrived."""
        return min([cursor.place for cursor in self.cursors], default=len(self.arrived))

    def sequence(self, offset):
        """Give between which two final offsets an original one lies: in front of and behind what was put in there.

        Both grow with `offset`: the map of sequence and acknowledgement numbers is monotone whichever is taken.
        """
        final = self.final()
        low = max((i + 1 for i, byte in enumerate(final) if byte.came and byte.place < offset), default=0)
        high = next((i for i, byte in enumerate(final) if byte.came and byte.place >= offset), len(final))
        return low, high


def behind(window, index, otherwise):
    """Give the place right behind the byte before `index` of a window."""
    if not index:
        return otherwise
    byte = window[index - 1]
    return byte.place + byte.came


class Pipeline:
    """All connections of a flow, and what each stage saw."""

    def __init__(self, stages):
        self.stages = stages
        self.ways = {}                        # (connection, direction) -> Way
        self.seen = [[] for _ in stages]      # Views, in the order they were handed out

    def way(self, connection, direction):
        key = connection, direction
        if key not in self.ways:
            self.ways[key] = Way(self.stages)
        return self.ways[key]

    def deliver(self, now, units, closed=()):
        """Take units (connection, direction, Unit) in and hand every stage what is new, stage by stage.

        `closed` lists connections that ended: each stage then sees what is left and the system releases it.
        """
        for connection, direction, unit in units:
            self.way(connection, direction).append(unit)
        for connection in closed:
            for direction in (0, 1):
                self.way(connection, direction).closed = True
        for k in range(len(self.stages)):
            for (connection, direction), way in sorted(self.ways.items()):
                view = way.offer(k, connection, direction, now)
                if view is not None:
                    self.seen[k].append(view)
                if connection in closed:
                    way.pass_on(k)
        for way in self.ways.values():        # the hold limit: what was held for too long goes on unchanged
            for k, stage in enumerate(self.stages):
                since = way.cursors[k].held_since
                if since is not None and now - since >= stage.hold:
                    way.pass_on(k, lent=True)
        self.check()

    def check(self):
        """Verify the rules: heads lie inside the stream, behind those of the stages they follow."""
        for way in self.ways.values():
            for k, cursor in enumerate(way.cursors):
                assert 0 <= cursor.head <= way.tail(k)[0] <= len(way.input(k)), "rules 1 to 3"
                assert cursor.place <= len(way.arrived)
            for k in range(1, len(way.stages)):
                if way.stages[k].writes:
                    assert way.cursors[k].place <= min(c.place for c in way.cursors[:k]), "rule 3"
