"""Modules that come, go and are replaced while connections are under way: nothing is lost, repeated or reordered.

Writers put in marks, bytes that no end sends, and hold; so what leaves, without the marks, must be what came,
whoever was attached when.  Every packet is held to it, repetitions included: a byte of the stream that
leaves twice is the same byte.
"""
import random

import h11
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

import flowos
from flowos.core.pipe import pipe
from flowos.packets import valid
from flowos.registry import get_module
from conversations import records
from fragmented import cut, joined
from left import parse, record
from models import build
from models.talk import Talk
from models.traffic import ISNS

SECOND = 10**9
MARKS = range(0xF0, 0x100)


def content(side, start, length):
    """Bytes of a stream: no mark, and others a little further on."""
    return bytes((7 * i + (i >> 7) * 13 + 100 * side) % 0xF0 for i in range(start, start + length))


class Marker(flowos.Module):
    """Puts in marks if it may, holds, releases partly, fails: as its seed and the window say."""

    name, protocol = "marker", "tcp"

    def __init__(self, seed, writes, hold):
        self.seed, self.hold, self.working = seed, hold, True
        self.mode = flowos.RDWR if writes else flowos.RDONLY

    def process(self, window):
        assert self.working, "called after stop"
        key, size = (window.connection.id, window.direction), window.tail - window.head
        window.shared["calls"] = window.shared.get("calls", 0) + 1
        dice = random.Random(f"{self.seed} {key} {window.head} {window.tail} {window.complete}")
        kept = size if dice.random() < 0.5 else dice.randint(0, size)
        places = sorted({dice.randint(0, kept) for _ in range(dice.choice([0, 0, 1, 2]))})
        if self.mode == flowos.RDWR:
            for place in places:
                window.insert(window.head + place, bytes([dice.choice(MARKS)]) * dice.choice([1, 3, 40]))
        if kept < size:
            window.release(upto=window.head + kept)
        if dice.random() < 0.05:
            raise ZeroDivisionError

    def stop(self):
        assert self.working, "stopped twice"
        self.working = False


class Side:
    """One direction: what was sent, and which of it did not come yet."""

    def __init__(self):
        self.sent, self.missing, self.fin = 0, [], False

    @property
    def got(self):
        return min([start for start, _ in self.missing], default=self.sent + self.fin)


class Machine(RuleBasedStateMachine):
    """One connection; packets gather until they are delivered together."""

    @initialize(isns=st.tuples(ISNS, ISNS), six=st.booleans(), cut=st.sampled_from([0, 0, 24]), own=st.booleans())
    def begin(self, isns, six, cut, own):
        self.ends = [(("10.0.0.1", 40000), ("10.0.0.2", 80)), (("2001:db8::1", 40000), ("2001:db8::2", 80))][six]
        self.talk, self.cut, self.own = Talk(*isns), cut, own
        self.now, self.given, self.came, self.waiting, self.left = build.START_NS, 0, 0, [], []
        self.sides, self.attached = [Side(), Side()], []
        self.engine = flowos.Engine(flowos.Config.offline(isolate=True, gap_seconds=10**6))
        self.port, theirs = pipe("in", 1024, buffer_size=4096)
        self.engine.add_port(theirs)
        out, self.output = pipe("out", 4096, buffer_size=8192)
        self.engine.add_output(out)
        self.packet(0, -1, flags="S", ack=False)
        self.packet(1, -1, flags="S")
        self.packet(0, 0)

    def packet(self, side, at, length=0, flags="", ack=True):
        self.talk.now = self.now
        self.talk.packet(side, at, content(side, max(at, 0), length), self.sides[1 - side].got if ack else None, flags, 0.001, None)
        self.now = self.talk.now
        self.came += 1
        self.waiting.append(record(self.talk.packets[-1], self.came, *self.ends))

    @rule(side=st.integers(0, 1), length=st.integers(1, 40))
    def send(self, side, length):
        s = self.sides[side]
        if not s.fin:
            self.packet(side, s.sent, length)
            s.sent += length

    @rule(side=st.integers(0, 1), length=st.integers(1, 20))
    def lose(self, side, length):
        """Bytes that come later, or never."""
        s = self.sides[side]
        if not s.fin:
            s.missing.append((s.sent, s.sent + length))
            s.sent += length

    @rule(side=st.integers(0, 1), before=st.integers(0, 8), behind=st.integers(0, 8))
    def repair(self, side, before, behind):
        """What was missing comes, with some that had come."""
        s = self.sides[side]
        if s.missing:
            start, end = s.missing.pop(0)
            start, end = max(0, start - before), min([s.sent, end + behind, *(start for start, _ in s.missing)])
            self.packet(side, start, end - start)

    @rule(side=st.integers(0, 1), back=st.integers(1, 60), length=st.integers(1, 30))
    def repeat(self, side, back, length):
        s = self.sides[side]
        start = max(0, s.sent - back)
        end = min(start + length, s.sent)
        if end > start and not any(a < end and start < b for a, b in s.missing):
            self.packet(side, start, end - start)

    @rule(side=st.integers(0, 1), length=st.integers(0, 20))
    def end(self, side, length):
        """FIN, in the same segment as the last bytes or in its own."""
        s = self.sides[side]
        if not s.fin:
            self.packet(side, s.sent, length, "F")
            s.sent, s.fin = s.sent + length, True

    @rule(seconds=st.sampled_from([2, 700]))
    def wait(self, seconds):
        self.now += seconds * SECOND

    @rule()
    def deliver(self):
        for number, packet in enumerate(self.waiting, self.came - len(self.waiting) + 1):
            for ts, frame in cut(packet, self.cut, number) if self.cut else [packet]:
                assert self.port.send(frame, ts)
        self.waiting = []
        self.port.tx_sync()
        for _ in range(3):
            self.engine.step()
            self.engine.drain()               # what is out to threads comes back: nobody's pace shows
        self.take()

    def take(self):
        self.engine._check()
        self.left += [(ts, bytes(frame)) for ts, frame in self.output.receive()]
        for attachment in self.attached:
            assert all("ZeroDivisionError" in error for error in attachment.errors), attachment.errors

    @rule(seed=st.integers(0, 10**6), writes=st.booleans(), order=st.integers(1, 6), hold=st.sampled_from([1.0, 600.0]), own=st.booleans())
    def attach(self, seed, writes, order, hold, own):
        try:
            self.attached.append(self.engine.attach(Marker(seed, writes, hold), None, order, "own" if own and self.own else "inline"))
        except flowos.UsageError:             # a writer is alone in its order
            pass

    @rule(which=st.integers(0, 5))
    def detach(self, which):
        if self.attached:
            gone = self.attached.pop(which % len(self.attached))
            self.engine.detach(gone)
            assert not gone.module.working

    @rule(which=st.integers(0, 5), seed=st.integers(0, 10**6), hold=st.sampled_from([1.0, 600.0]))
    def reload(self, which, seed, hold):
        if self.attached:
            attachment = self.attached[which % len(self.attached)]
            old, shared = attachment.module, attachment.shared
            new = Marker(seed, old.mode == flowos.RDWR, hold)
            self.engine.reload(attachment, new)
            assert attachment.module is new and attachment.shared == shared and new.working and not old.working

    def teardown(self):
        if hasattr(self, "engine"):
            try:
                self.deliver()
                self.port.close()
                while self.engine.step():
                    pass
                self.take()
                self.judge()
            finally:
                self.engine.close()

    def judge(self):
        """Hold what left to what came."""
        packets = [parse(*packet) for packet in joined(self.left)]
        assert all(valid(packet.frame) for packet in packets)
        for number, side in enumerate(self.sides):
            origin, stream = self.talk.isns[number] + 1, {}
            for packet in packets:
                if packet.src == self.ends[number]:
                    start = (packet.seq - origin + 2**31 & 0xFFFFFFFF) - 2**31
                    for place, byte in enumerate(packet.payload, start):
                        assert stream.setdefault(place, byte) == byte, f"packet {packet.number} has another byte {place} of side {number}"
            missing = {place for start, end in side.missing for place in range(start, end)}
            came = [byte for place, byte in enumerate(content(number, 0, side.sent)) if place not in missing]
            assert [stream[place] for place in sorted(stream) if stream[place] not in MARKS] == came
            if not missing:
                assert sorted(stream) == list(range(len(stream))), f"side {number} has a hole"


TestMachine = Machine.TestCase
#: Some 10 ms each: 400 cases in the default profile, 8,000 in soak.
TestMachine.settings = settings(max_examples=4 * settings.default.max_examples, stateful_step_count=40)


# ------------------------------------------------------------------------------ messages under way

def responses(dice, count):
    """Draw responses of a kept connection, by length and in chunks, in whose bodies a pattern stands and begins."""
    for _ in range(count):
        body = b"".join(dice.choice([b"hello ", b"<script", b"x" * 30, b"<scr"]) for _ in range(dice.randint(0, 12)))
        if dice.random() < 0.7:
            yield b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        else:
            yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"


def talk_of(dice, messages):
    """Give the records of requests and their responses, cut at random."""
    talk, sent, got = Talk().open(), 0, 0
    for message in messages:
        talk.a(sent, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", ack=got)
        sent, at = sent + 27, 0
        while at < len(message):
            size = dice.randint(1, 40)
            talk.b(got + at, message[at:at + size], ack=sent)
            at += size
        got += len(message)
    return records(talk.a(sent, ack=got, flags="F").b(got, ack=sent + 1, flags="F").a(sent + 1, ack=got + 1))


@pytest.mark.parametrize("seed", [*range(40), 41, 195])
def test_messages_stay_whole_when_what_resizes_them_comes_and_goes(seed):
    """h11 reads every response, whenever http_strip was attached, detached and replaced, inline and on a thread."""
    dice = random.Random(seed)
    count, attachment, left = dice.randint(2, 6), None, []
    threads = dice.choice(["inline", "inline", "own"])
    port, theirs = pipe("in", 1024, buffer_size=4096)
    out, output = pipe("out", 4096, buffer_size=8192)
    with flowos.Engine(flowos.Config.offline()) as engine:
        engine.add_port(theirs)
        engine.add_output(out)
        for ts, frame, *_ in talk_of(dice, responses(dice, count)):
            port.send(frame, ts)
            port.tx_sync()
            if dice.random() < 0.7:
                for _ in range(3):
                    engine.step()
                engine.drain()
            step = dice.random()
            if step < 0.1 and attachment is None:
                attachment = engine.attach(get_module("http_strip")(), threads=threads)
            elif step < 0.15 and attachment is not None:
                engine.detach(attachment)
                attachment = None
            elif step < 0.18 and attachment is not None:
                engine.reload(attachment, get_module("http_strip")())
        port.close()
        while engine.step():
            pass
        engine._check()
        left = [parse(ts, bytes(frame)) for ts, frame in output.receive()]
    stream = {}
    for packet in left:
        for place, byte in enumerate(packet.payload, packet.seq - 70001):
            if packet.src == build.B:
                assert stream.setdefault(place, byte) == byte
    assert sorted(stream) == list(range(len(stream)))
    reader, events = h11.Connection(h11.CLIENT), []
    for number in range(count):
        reader.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
        reader.send(h11.EndOfMessage())
        if not number:
            reader.receive_data(bytes(stream[place] for place in sorted(stream)))
        while not events or type(events[-1]) is not h11.EndOfMessage:
            events.append(reader.next_event())
            assert events[-1] is not h11.NEED_DATA, f"response {number} ends too early"
        events.clear()
        if number < count - 1:
            reader.start_next_cycle()
    assert not reader.trailing_data[0]
