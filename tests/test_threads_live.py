"""Modules on threads of their own between live ports: nobody waits for them for longer than their `hold`.

The ends are made by hand over pipes in memory, so that nothing but the module decides what waits.
"""
import threading
import time

import pytest
from models import build
from models.tcp import ACK, PSH, SYN

import flowos
from flowos.core.pipe import pipe
from waiting import PATIENCE

pytestmark = pytest.mark.threads
ISNS = 1000, 70000


class Blocks(flowos.Module):
    """Block at windows that hold b"block", until told to go on; answer others with an insertion."""

    mode, hold = flowos.RDWR, 0.2

    def __init__(self):
        self.go, self.begun = threading.Event(), threading.Event()
        self.stale, self.heard, self.windows = [], [], 0

    def opened(self, connection):
        self.heard.append(("opened", connection.a.addr))

    def closed(self, connection, reason):
        self.heard.append(("closed", connection.a.addr))

    def process(self, window):
        self.windows += 1
        if b"block" in bytes(window.data):
            self.begun.set()
            self.go.wait(60)
            for ask in (lambda: window.insert(window.head, b"!"), lambda: window.data, lambda: window.release(), lambda: list(window.units)):
                try:
                    ask()
                except flowos.StaleError:
                    self.stale.append(window)
        elif window.length:
            window.insert(window.head, b"+")


class Between:
    """An engine between two pipes, and both far ends of these."""

    def __init__(self, *attached, **config):
        self.ends, inner = zip(pipe("left", 4096), pipe("right", 4096))
        self.engine = flowos.Engine(flowos.Config(isolate=True, **config))
        self.engine.connect(*inner)
        self.attachments = [self.engine.attach(module, threads=threads) for module, threads in attached]
        self.arrived = {}

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for attachment in self.attachments:
            attachment.module.go.set()
        self.engine.close()

    def say(self, number, side, at, data=b"", ack=0, flags=ACK):
        """Send a segment of connection `number` at stream offset `at`."""
        a, b = (f"10.0.{number >> 8}.{number & 255}", 40000), ("10.9.9.9", 80)
        here, there = (a, b) if side == 0 else (b, a)
        segment = build.tcp(here, there, ISNS[side] + 1 + at, ISNS[1 - side] + 1 + ack if flags & ACK else 0, flags, data)
        while not self.ends[side].send(build.ethernet(build.ip(here, there, build.TCP, segment)), ts=time.time_ns()):
            self.ends[side].tx_sync()
            self.step()
        self.ends[side].tx_sync()

    def open(self, number):
        self.say(number, 0, -1, flags=SYN)
        self.step()
        self.say(number, 1, -1, flags=SYN | ACK)
        self.step()
        self.say(number, 0, 0)
        self.step()

    def step(self):
        """Take a step, and keep what arrived on the right: {connection: [bytes, …]}."""
        self.engine.step()
        self.engine._check()
        for _, frame in self.ends[1].receive():
            frame = bytes(frame)
            data = frame[34 + (frame[46] >> 4) * 4:14 + int.from_bytes(frame[16:18], "big")]
            if data:
                self.arrived.setdefault(frame[28] << 8 | frame[29], []).append(data)
        self.ends[0].receive()

    def worked_on(self, number, at):
        """Send pieces of connection `number` from `at` on until the module has worked on one; give where the next begins.

        On a machine that stalls it may be late for one, which then leaves as it came.
        """
        while True:
            before = len(self.arrived.get(number, ()))
            self.say(number, 0, at, b"piece", flags=ACK | PSH)
            self.until(lambda: len(self.arrived.get(number, ())) > before)
            assert self.arrived[number][-1] in (b"piece", b"+piece")
            at += 5
            if self.arrived[number][-1] == b"+piece":
                return at

    def until(self, condition, seconds=PATIENCE):
        """Step until something holds; fail when it does not come to hold."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, (self.arrived, self.engine.statistics()["windows_hold_limit"])
            self.step()


def test_a_blocked_module_stalls_nobody_for_longer_than_hold():
    module = Blocks()
    with Between((module, "own")) as between:
        for number in (1, 2, 3):
            between.open(number)
        at = between.worked_on(1, 0)
        between.say(2, 0, 0, b"block", flags=ACK | PSH)
        between.until(module.begun.is_set)
        between.say(3, 0, 0, b"there", flags=ACK | PSH)
        between.until(lambda: 2 in between.arrived and 3 in between.arrived)
        assert between.arrived[2] == [b"block"] and between.arrived[3] == [b"there"]      # unchanged, the module blocks still
        assert not module.go.is_set() and between.engine.statistics()["windows_hold_limit"] >= 2
        assert between.attachments[0].counters["held_released"] >= 2
        between.say(3, 0, 5, b"and now", flags=ACK | PSH)
        steps = 0
        while len(between.arrived[3]) == 1:
            between.step()
            steps += 1
        assert steps <= 3 and between.arrived[3][1] == b"and now"     # it is behind: what comes passes at once
        module.go.set()
        between.until(lambda: len(module.stale) == 4)
        between.engine.drain()
        between.worked_on(1, at)              # it works again
        assert between.attachments[0].errors == []


def test_memory_is_bounded_while_a_module_blocks():
    module, count = Blocks(), 3000
    with Between((module, "own"), timeout_tcp_closed=1.0) as between:
        between.open(1)
        between.say(1, 0, 0, b"block", flags=ACK | PSH)
        between.until(module.begun.is_set)
        between.until(lambda: 1 in between.arrived)
        for number in range(2, count):
            between.say(number, 0, -1, flags=SYN)
            between.say(number, 0, 0, b"x" * 1000, flags=ACK | PSH)
            if number % 50 == 0:
                between.step()
        between.until(lambda: len(between.arrived) >= count - 1)
        assert module.windows <= 3 and len(module.heard) == 1       # nothing of theirs is in its queue
        module.go.set()
        between.until(lambda: len(module.stale) == 4)
        between.engine.drain()
        assert [what for what, _ in module.heard].count("opened") < 10
        between.worked_on(7, 1000)
        assert ("opened", "10.0.0.7") in module.heard


def test_more_than_its_queue_takes_waits_and_is_worked_on():
    """A module that is slow, but not too slow, sees all there is."""
    class Slow(Blocks):
        hold = 60.0

        def process(self, window):
            if window.length and not self.begun.is_set():
                self.begun.set()
                self.go.wait(60)
            super().process(window)

    module, count = Slow(), 1500
    with Between((module, "own")) as between:
        for number in range(count):
            between.say(number, 0, -1, flags=SYN)
            between.say(number, 0, 0, b"hello", flags=ACK | PSH)
            if number % 50 == 0:
                between.step()
        between.until(module.begun.is_set)
        assert not between.arrived
        module.go.set()
        between.until(lambda: len(between.arrived) == count)
        assert {data for parts in between.arrived.values() for data in parts} == {b"+hello"}     # nobody acknowledges: it may come again
        assert between.engine.statistics()["windows_hold_limit"] == 0


def test_a_module_that_blocks_in_opened_is_not_waited_for():
    class Stuck(Blocks):
        def opened(self, connection):
            self.begun.set()
            self.go.wait(60)

    module = Stuck()
    with Between((module, "own")) as between:
        between.open(1)
        between.say(1, 0, 0, b"hello", flags=ACK | PSH)
        between.until(lambda: between.arrived.get(1) == [b"hello"])
        between.engine.drain()
        assert module.begun.is_set() and not module.go.is_set()
        between.engine.detach(between.attachments.pop())            # nor by this
        module.go.set()


def test_a_sleeping_engine_is_woken_by_a_window_that_comes_back(monkeypatch):
    """What the engine sleeps on says so: no timer is due, and the poll has no end of its own."""
    module = Blocks()
    module.hold = 60.0
    with Between((module, "own")) as between:
        engine = between.engine
        between.open(1)
        between.say(1, 0, 0, b"block", flags=ACK | PSH)
        between.until(module.begun.is_set)
        engine._wait()
        polls = []

        class Watched:
            def __init__(self, poll):
                self.poll_of = poll

            def poll(self, _timeout):
                polls.append(self.poll_of.poll(30_000))
                return polls[-1]

        engine._poll = Watched(engine._poll)
        engine.bell.hush() if engine._poll.poll_of.poll(0) else None
        threading.Timer(0.05, module.go.set).start()
        engine._wait()
        assert [descriptor for descriptor, _ in polls[0]] == [engine.bell.fileno()]
        between.until(lambda: 1 in between.arrived)
