"""Arenas, rings and slots against a model in Python: random schedules, the invariants checked after each step."""
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flowos.core.arena import Arena
from flowos.core.errors import LimitError, StaleError, UsageError
from flowos.core.ring import Ring, Slot

BUFFERS, SLOTS, BUFFER = 12, 4, 64


class Rings(RuleBasedStateMachine):
    """Two rings on one arena, buffers taken and given by hand, and a model of who owns which bytes."""

    def __init__(self):
        super().__init__()
        self.arena = Arena(BUFFERS, BUFFER)
        self.rings = [Ring(SLOTS, self.arena), Ring(SLOTS, self.arena)]
        self.loose = []                       # buffers taken by hand
        self.cursors = [[0, 0, 0], [0, 0, 0]]   # head, cur, tail by ring
        # What the slots hold, by ring and place: (buffer, bytes).  Both follow a swap together.
        self.slots = [{}, {}]
        for number, ring in enumerate(self.rings):
            ring.offer(SLOTS)
            self.slots[number] = {i: (ring[i].buffer, b"") for i in range(SLOTS)}
            ring.head = ring.tail
            self.cursors[number] = [SLOTS, SLOTS, SLOTS]

    which = st.integers(0, 1)

    @rule(which=which, data=st.data())
    def offer(self, which, data):
        head, _, tail = self.cursors[which]
        count = data.draw(st.integers(0, SLOTS - (tail - head)))
        self.rings[which].offer(count)
        self.cursors[which][2] += count

    @rule(which=which)
    def offer_too_many(self, which):
        head, _, tail = self.cursors[which]
        with pytest.raises(UsageError, match="offered"):
            self.rings[which].offer(SLOTS - (tail - head) + 1)

    @rule(which=which, data=st.data())
    def move_cur(self, which, data):
        head, cur, tail = self.cursors[which]
        to = data.draw(st.integers(head - 1, tail + 1))
        if cur <= to <= tail:
            self.rings[which].cur = to
            self.cursors[which][1] = to
        else:
            with pytest.raises(UsageError, match="cur"):
                self.rings[which].cur = to

    @rule(which=which, data=st.data())
    def move_head(self, which, data):
        head, cur, tail = self.cursors[which]
        to = data.draw(st.integers(head - 1, tail + 1))
        if head <= to <= tail:
            self.rings[which].head = to
            self.cursors[which][:2] = to, max(cur, to)
        else:
            with pytest.raises(UsageError, match="head"):
                self.rings[which].head = to

    @rule(which=which, data=st.data(), text=st.binary(max_size=BUFFER))
    def write(self, which, data, text):
        head, _, tail = self.cursors[which]
        index = data.draw(st.integers(head, tail))
        if index == tail:
            with pytest.raises(StaleError):
                self.rings[which][index]
            return
        self.rings[which][index].data = text
        buffer, _ = self.slots[which][index % SLOTS]
        self.slots[which][index % SLOTS] = buffer, text

    @precondition(lambda self: all(tail - head for head, _, tail in self.cursors))
    @rule(one=which, two=which, data=st.data())
    def swap(self, one, two, data):
        i, j = (data.draw(st.integers(self.cursors[n][0], self.cursors[n][2] - 1)) for n in (one, two))
        before = self.rings[one][i].address, self.rings[two][j].address
        self.rings[one].swap(i, self.rings[two], j)
        assert (self.rings[two][j].address, self.rings[one][i].address) == before, "no byte was copied"
        a, b = self.slots[one][i % SLOTS], self.slots[two][j % SLOTS]
        self.slots[one][i % SLOTS], self.slots[two][j % SLOTS] = b, a
        # Lengths belong to the slot, not to the buffer: who swaps to forward sets them too.
        for number, index, (_, text) in ((one, i, b), (two, j, a)):
            self.rings[number][index].data = text

    @rule()
    def take(self):
        if len(self.loose) == BUFFERS - 2 * SLOTS:
            with pytest.raises(LimitError, match="all 12 buffers"):
                self.arena.take()
        else:
            index = self.arena.take()
            owned = {buffer for slots in self.slots for buffer, _ in slots.values()}
            assert index not in owned and index not in self.loose
            self.loose.append(index)

    @rule(index=st.integers(-1, BUFFERS))
    def give(self, index):
        owned = {buffer for slots in self.slots for buffer, _ in slots.values()}
        if index in self.loose:
            self.arena.give(index)
            self.loose.remove(index)
        if index not in owned:
            with pytest.raises(UsageError, match="is not taken"):
                self.arena.give(index)

    @invariant()
    def holds(self):
        self.arena._check()
        assert self.arena.free == BUFFERS - 2 * SLOTS - len(self.loose)
        for ring, (head, cur, tail), slots in zip(self.rings, self.cursors, self.slots):
            ring._check()
            assert (ring.head, ring.cur, ring.tail) == (head, cur, tail)
            assert (ring.avail, len(ring)) == (tail - cur, tail - head)
            for index in range(head, tail):
                buffer, text = slots[index % SLOTS]
                assert (ring[index].buffer, ring[index].data) == (buffer, text)
                assert ring[index].address == self.arena.address(buffer)

    def teardown(self):
        self.rings.clear()
        self.arena._check()
        assert self.arena.free == BUFFERS - len(self.loose), "a ring gives its buffers back"


TestRings = Rings.TestCase
TestRings.settings = settings(max_examples=100, stateful_step_count=40)


def test_cursors_run_across_two_to_the_32():
    ring = Ring(1 << 20)
    for _ in range(4095):
        ring.offer(1 << 20)
        ring.head = ring.tail
    ring.offer(1 << 20)
    ring.head += (1 << 20) - 2
    assert (ring.head, ring.cur, ring.tail) == (2**32 - 2, 2**32 - 2, 0)
    ring.offer(3)
    assert (len(ring), ring.avail, ring.tail) == (5, 5, 3)
    ring.cur = 1
    ring._check()
    with pytest.raises(UsageError, match="cur"):
        ring.cur = 2**32 - 1
    assert ring[2**32 - 1].len == ring[2].len == 0
    with pytest.raises(StaleError):
        ring[3]
    ring.head = 0
    assert (len(ring), ring.avail) == (3, 2)
    ring._check()


def test_what_a_ring_refuses():
    arena = Arena(8)
    for slots in (0, 3, -4, 1 << 21):
        with pytest.raises(UsageError, match="power of two"):
            Ring(slots)
    with pytest.raises(LimitError, match="the arena has 8 free buffers"):
        Ring(16, arena)
    ring, other = Ring(4, arena), Ring(4, Arena(4))
    ring.offer(1)
    other.offer(1)
    with pytest.raises(UsageError, match="one arena"):
        ring.swap(0, other, 0)
    plain = Ring(2)
    plain.offer(1)
    with pytest.raises(UsageError, match="no buffer of its own"):
        plain[0].data = b"x"
    with pytest.raises(UsageError, match="the buffer holds 2048"):
        ring[0].data = bytes(2049)
    with pytest.raises(UsageError, match="made once"):
        ring.__init__(8)
    assert len(ring) == 1 and arena.free == 4


def test_handles_that_show_nothing_do_not_crash():
    bare = Ring.__new__(Ring)
    assert (bare.head, bare.tail, bare.avail, len(bare), list(bare)) == (0, 0, 0, 0, [])
    for use in (lambda: bare[0], lambda: Slot().data, lambda: Slot.__new__(Slot).ts):
        with pytest.raises(StaleError):
            use()


def test_a_slot_keeps_the_fields_it_was_given():
    ring = Ring(2, Arena(2))
    ring.offer(1)
    slot = ring[0]
    slot.data = b"abc"
    slot.ts, slot.wire, slot.link, slot.iface = -5, 9, 113, 7
    assert (slot.ts, slot.len, slot.wire, slot.link, slot.iface, slot.flags) == (-5, 3, 9, 113, 7, 0)
    assert "3 of 9 bytes" in repr(slot)
    ring.head += 1
    with pytest.raises(StaleError, match=r"slot 0 is not held: the user has \[1, 1\)"):
        slot.ts = 1


def test_what_an_arena_refuses():
    for count, size in ((0, 2048), (1 << 25, 2048), (4, 100), (4, 32), (4, 2 << 20)):
        with pytest.raises(UsageError):
            Arena(count, size)
    arena = Arena(2)
    with pytest.raises(UsageError, match="buffer 2"):
        arena.address(2)
    taken = [arena.take(), arena.take()]
    with pytest.raises(LimitError):
        arena.take()
    arena.give(taken[0])
    with pytest.raises(UsageError, match="not taken"):
        arena.give(taken[0])
    counted = arena.statistics()
    assert (counted["least_free"], counted["exhausted"], counted["refused"]) == (0, 1, 1)
    assert counted.keys() == arena.descriptions.keys()
    assert arena.address(1) - arena.address(0) == arena.buffer_size == 2048
    arena._check()
