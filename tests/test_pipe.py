"""Pipes in memory against a model: a queue each way; and that a packet crosses without being copied."""
import threading
import time

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flowos.core.arena import Arena
from flowos.core.errors import LimitError, StaleError, UsageError
from flowos.core.pipe import PipePort, pipe
from flowos.core.ports import open_port

SLOTS, BUFFER = 4, 64


class Pipes(RuleBasedStateMachine):
    """Both ends of a pipe driven at random, each with a list of what is on its way."""

    def __init__(self):
        super().__init__()
        self.arena = Arena(4 * SLOTS, BUFFER)
        self.ends = pipe("p", SLOTS, self.arena)
        self.free = [SLOTS, SLOTS]            # TX slots that the sender may fill, by end
        self.written = [[], []]               # in the TX ring, not synced
        self.sent = [[], []]                  # synced, not yet received by the other end
        self.held = [[], []]                  # in the RX ring
        self.open = [True, True]
        self.count = 0

    end = st.integers(0, 1)

    @rule(end=end, size=st.integers(0, BUFFER + 1))
    def send(self, end, size):
        self.count += 1
        text = (b"%d " % self.count * size)[:size]
        if not self.open[end]:
            with pytest.raises(UsageError, match="closed"):
                self.ends[end].send(text)
            return
        fits = size <= BUFFER and self.free[end] > 0
        assert self.ends[end].send(text, ts=self.count, link=size, wire=size + 1, iface=end) == fits
        if fits:
            self.free[end] -= 1
            self.written[end].append((self.count, size + 1, size, end, text))

    @rule(end=end)
    def tx_sync(self, end):
        port, other = self.ends[end], 1 - end
        assert port.tx_sync() == (len(self.written[end]) if self.open[end] else 0)
        if not self.open[end]:
            return
        self.sent[end] += self.written[end]
        self.written[end] = []
        if not self.open[other]:
            self.sent[end] = []               # counted as lost
        self.free[end] = SLOTS - len(self.sent[end])

    @rule(end=end)
    def rx_sync(self, end):
        port, other = self.ends[end], 1 - end
        room = SLOTS - len(self.held[end])
        came = self.sent[other][:room] if self.open[end] else []
        assert port.rx_sync() == len(came)
        if self.open[end]:
            self.sent[other] = self.sent[other][len(came):]
            self.held[end] += came
            assert port.ended == (not self.open[other] and not came and not self.sent[other])

    @rule(end=end, data=st.data())
    def release(self, end, data):
        count = data.draw(st.integers(0, len(self.held[end])))
        self.ends[end].rx_ring.head += count
        self.held[end] = self.held[end][count:]

    @precondition(lambda self: all(self.open))
    @rule(end=end)
    def forward_by_swap(self, end):
        """Send the oldest packet held back where it came from, by swapping buffers."""
        port = self.ends[end]
        rx, tx = port.rx_ring, port.tx_ring
        if not self.held[end] or not self.free[end]:
            return
        here, there = rx[rx.head], tx[tx.head]
        address, fields = here.address, (here.ts, here.wire, here.link, here.iface, here.data)
        there.data = bytes(here.len)          # sets the length; the bytes come with the buffer
        rx.swap(rx.head, tx, tx.head)
        assert there.address == address and there.data == fields[-1]
        there.ts, there.wire, there.link, there.iface = fields[:4]
        rx.head += 1
        tx.head += 1
        self.free[end] -= 1
        self.written[end].append(self.held[end].pop(0))

    @rule(end=end)
    def close(self, end):
        if self.count < 30:
            return                            # not before something happened
        if self.open[end]:
            self.sent[end] += self.written[end] if self.open[1 - end] else []
            self.written[end], self.held[end], self.open[end] = [], [], False
            self.free[end] = 0
        self.ends[end].close()

    @invariant()
    def holds(self):
        self.arena._check()
        assert self.arena.free == 0
        owned = []
        for end, port in enumerate(self.ends):
            port.rx_ring._check()
            port.tx_ring._check()
            assert [(s.ts, s.wire, s.link, s.iface, s.data) for s in port.rx_ring] == self.held[end]
            if self.open[end]:
                assert len(port.tx_ring) == self.free[end]
        for port in self.ends:
            owned += [slot.buffer for ring in (port.rx_ring, port.tx_ring) for slot in ring]
        assert len(owned) == len(set(owned)), "a buffer has one owner"

    def teardown(self):
        self.ends = ()
        assert self.arena.free == len(self.arena), "all buffers came back"
        self.arena._check()


TestPipes = Pipes.TestCase
TestPipes.settings = settings(max_examples=100, stateful_step_count=60)


def test_a_packet_crosses_without_being_copied():
    left, right = pipe(slots=4)
    left.send(b"payload", ts=3, link=101, wire=9)
    ring = left.tx_ring
    slot = ring[ring.head]
    slot.data = b"second"
    address = slot.address
    ring.head += 1
    assert left.tx_sync() == 2 and right.rx_sync() == 2
    first, second = right.rx_ring
    assert (first.data, first.ts, first.link, first.wire) == (b"payload", 3, 101, 9)
    assert second.address == address and second.data == b"second"
    assert left.statistics()["sent"] == right.statistics()["received"] == 2
    right.rx_ring.head += 1
    with pytest.raises(StaleError):
        first.data


def test_a_full_ring_refuses_and_nothing_is_lost():
    left, right = pipe(slots=4)
    assert [left.send(b"%d" % i) for i in range(5)] == [True] * 4 + [False]
    assert left.statistics()["full"] == 1
    left.tx_sync()
    assert not left.send(b"x"), "the other end has not taken them yet"
    assert [data for _, data in right.receive()] == [b"0", b"1", b"2", b"3"]
    left.tx_sync()
    assert left.send(b"4")
    left.close()
    assert [data for _, data in right.receive()] == [b"4"]
    assert right.receive() == [] and right.ended


def test_what_is_sent_to_a_closed_end_is_counted():
    left, right = pipe(slots=4)
    right.close()
    for i in range(10):
        assert left.send(b"x")
        left.tx_sync()
    assert left.statistics()["lost"] == 10
    assert not left.send(bytes(2049))
    assert left.statistics()["too_long"] == 1
    assert left.statistics().keys() == left.descriptions.keys()


def test_open_by_name():
    left, right = open_port("pipe:named"), open_port("pipe:named")
    third = open_port("pipe:named")
    assert [port.name for port in (left, right, third)] == ["pipe:named:a", "pipe:named:b", "pipe:named:a"]
    right.send(b"x")
    right.tx_sync()
    assert third.receive() == [] and left.receive() == [(0, b"x")]
    open_port("pipe:named").close()


def test_what_a_pipe_refuses():
    for slots in (0, 3, 1 << 21):
        with pytest.raises(UsageError, match="power of two"):
            pipe(slots=slots)
    with pytest.raises(LimitError, match="free buffers"):
        pipe(slots=4, arena=Arena(8))
    with pytest.raises(UsageError, match="made by pipe"):
        PipePort()
    bare = PipePort.__new__(PipePort)
    assert bare.rx_sync() == bare.tx_sync() == 0
    bare.close()
    with pytest.raises(UsageError, match="no file descriptor"):
        bare.fileno()


def test_two_pipes_on_one_arena_pass_packets_on_by_swap():
    arena = Arena(64)
    source, left = pipe("one", 8, arena)
    right, sink = pipe("two", 8, arena)
    source.send(b"through")
    source.tx_sync()
    left.rx_sync()
    address = left.rx_ring[left.rx_ring.head].address
    rx, tx = left.rx_ring, right.tx_ring
    tx[tx.head].data = bytes(rx[rx.head].len)
    rx.swap(rx.head, tx, tx.head)
    rx.head += 1
    tx.head += 1
    right.tx_sync()
    sink.rx_sync()
    assert [(slot.data, slot.address) for slot in sink.rx_ring] == [(b"through", address)]


@pytest.mark.threads
def test_the_ends_may_be_on_two_threads():
    count, (left, right) = 5000, pipe(slots=64)

    def send():
        sent = 0
        while sent < count:
            if left.send(b"%d" % sent, ts=sent):
                sent += 1
            else:
                left.tx_sync()
                time.sleep(0)                 # let the other thread have the interpreter
        left.close()

    sender = threading.Thread(target=send)
    sender.start()
    received = []
    while not right.ended:
        received += right.receive()
        time.sleep(0)
    sender.join()
    assert received == [(i, b"%d" % i) for i in range(count)]
