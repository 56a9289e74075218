"""In line between two ports: what becomes of a kept connection in cases that the kernel never makes.

The kernel's TCP judges edited streams (test_kernel_tcp.py).  Here pipes in memory and packets made
by hand ask about forged resets, holes, marks of congestion, ends that vanish, modules that come and
go, and how `run` waits, stops and ends.
"""
import struct
import threading
import time

import pytest
from models import build
from models.tcp import ACK, FIN, PSH, RST, SYN

from flowos import RDWR, Config, Engine, Module
from flowos.core.pipe import pipe
from waiting import PATIENCE, until

A, B = build.A, build.B
ISNS = 1000, 70000
OPTIONS = bytes([2, 4, 1460 >> 8, 1460 & 255, 4, 2, 1, 1])    # MSS 1460, SACK permitted


class Shout(Module):
    """Put "(" in front of the first byte that it is given; hold what begins with "hold"."""

    protocol, mode, hold = "tcp", RDWR, 600.0

    def __init__(self):
        self.done = [False, False]

    def process(self, window):
        if bytes(window.data).startswith(b"hold"):
            window.release(upto=window.head)
        elif window.length and not self.done[window.direction]:
            self.done[window.direction] = True
            window.insert(window.head, b"(")


class Seen(Module):
    """Remember each direction's bytes."""

    protocol = "tcp"

    def __init__(self):
        self.seen = [b"", b""]

    def process(self, window):
        self.seen[window.direction] += bytes(window.data)


def put(end, frame):
    """Send a frame from a far end, now."""
    assert end.send(frame, ts=time.time_ns())
    end.tx_sync()


class Between:
    """An engine between two pipes, and both far ends of these."""

    def __init__(self, *modules, **config):
        self.ends, inner = zip(pipe("left"), pipe("right"))
        self.engine = Engine(Config(**config))
        self.engine.connect(*inner)
        self.attachments = [self.engine.attach(module) for module in modules]

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.engine.close()

    def say(self, side, at, data=b"", ack=0, flags=ACK, options=b"", tos=0):
        """Send a segment at stream offset `at`, acknowledging `ack`; give what left to the left and to the right."""
        ends = (A, B) if side == 0 else (B, A)
        seq, acked = ISNS[side] + 1 + at, ISNS[1 - side] + 1 + ack
        packet = bytearray(build.ip(*ends, build.TCP, build.tcp(*ends, seq, acked if flags & ACK else 0, flags, data, options=options)))
        packet[1] = tos
        packet[10:12] = bytes(2)
        packet[10:12] = struct.pack(">H", build.checksum(bytes(packet[:20])))
        put(self.ends[side], build.ethernet(bytes(packet)))
        return self.step()

    def step(self):
        """Take a step of the engine; give what left, a list of segments to either side."""
        self.engine.step()
        return [[self.segment(side, frame) for _, frame in end.receive()] for side, end in enumerate(self.ends)]

    def segment(self, side, frame):
        """Give (offset, acknowledged offset, flags, payload, options) of what arrived on a side."""
        frame = bytes(frame)
        length = struct.unpack(">H", frame[16:18])[0]
        seq, ack, head, flags = struct.unpack(">IIBB", frame[38:48])
        header = (head >> 4) * 4
        assert build.checksum(frame[14:34]) == 0
        assert build.with_checksum("10.0.0.2" if side == 0 else "10.0.0.1", "10.0.0.1" if side == 0 else "10.0.0.2", build.TCP,
                                   frame[34:50] + bytes(2) + frame[52:14 + length], 16) == frame[34:14 + length]
        return (seq - ISNS[1 - side] - 1, ack - ISNS[side] - 1, flags, frame[34 + header:14 + length], frame[54:34 + header])

    def open(self):
        """The handshake, which passes as it is."""
        assert len(self.say(0, -1, flags=SYN, options=OPTIONS)[1]) == 1
        assert len(self.say(1, -1, flags=SYN | ACK, options=OPTIONS)[0]) == 1
        assert len(self.say(0, 0)[1]) == 1
        return self

    def edited(self):
        """A connection with one byte more from a to b than was sent, all acknowledged."""
        left, right = self.open().say(0, 0, b"hello", flags=ACK | PSH)
        assert (0, 0, ACK | PSH, b"(hello", b"") in right and left[-1][:3] == (0, 5, ACK)
        assert self.say(1, 0, ack=6) == [[], []]
        return self

    def count(self, name):
        return self.engine.statistics()[name]


def test_a_reset_must_name_the_next_byte():
    with Between(Shout()) as between:
        between.edited()
        left, right = between.say(0, 3, flags=RST)
        assert not right and [segment[:3] for segment in left] == [(0, 5, ACK)]       # asked back, at the edge
        assert between.count("kept_resets_refused") == 1
        left, right = between.say(0, 5, flags=RST)
        assert [segment[0] for segment in right] == [6] and right[0][2] & RST and not left


@pytest.mark.parametrize("fail, expected", [("open", b"hold this"), ("close", b"")])
def test_what_is_held_at_a_reset_goes_or_is_dropped_as_the_attachment_says(fail, expected):
    module = Shout()
    module.fail = fail
    with Between(module) as between:
        left, right = between.open().say(0, 0, b"hold this", flags=ACK | PSH)
        assert left[-1][:3] == (0, 9, ACK) and not b"".join(segment[3] for segment in right)
        left, right = between.say(0, 9, flags=RST)
        assert b"".join(segment[3] for segment in right) == expected
        assert [segment[0] for segment in right if segment[2] & RST][0] == len(expected)


def test_a_hole_is_told_of_with_sack():
    with Between(Shout()) as between:
        between.edited()
        left, right = between.say(0, 15, b"third", ack=0)
        assert not right
        offset, acked, flags, payload, options = left[0]
        assert (acked, flags, payload) == (5, ACK, b"")
        assert options == b"\1\1\5\12" + struct.pack(">II", ISNS[0] + 16, ISNS[0] + 21)
        left, right = between.say(0, 25, b"fifth", ack=0)                             # the latest comes first
        assert left[0][4] == b"\1\1\5\22" + struct.pack(">IIII", *(ISNS[0] + 1 + n for n in (25, 30, 15, 20)))
        left, right = between.say(0, 5, b"no. second", ack=0)
        assert b"".join(segment[3] for segment in right) == b"no. secondthird" and left[-1][1] == 20


def test_marks_of_congestion_are_echoed_until_answered():
    with Between(Shout()) as between:
        between.edited()
        assert between.say(0, 5, b"a", tos=3)[0][0][2] == ACK | 64
        assert between.say(0, 6, b"b", tos=2)[0][0][2] == ACK | 64
        assert between.say(0, 7, b"c", flags=ACK | 128, tos=2)[0][0][2] == ACK


def test_the_end_of_the_engine_resets_what_cannot_go_on_without_it():
    with Between(Shout()) as between:
        between.edited().engine.finish()
        left, right = ([between.segment(side, frame) for _, frame in end.receive()] for side, end in enumerate(between.ends))
        assert [(segment[0], segment[2] & RST) for segment in left + right] == [(0, RST), (6, RST)]
        assert between.count("kept_resets") == 1


class Hold(Module):
    """Hold what begins with "hold" until more comes; change nothing."""

    protocol, mode = "tcp", RDWR

    def process(self, window):
        if bytes(window.data) == b"hold":
            window.release(upto=window.head)


def test_what_counts_alike_on_both_sides_goes_on_without_it():
    with Between(Hold()) as between:
        between.open().say(0, 0, b"hold", flags=ACK | PSH)
        assert b"".join(segment[3] for segment in between.say(0, 4, b"ing")[1]) == b"holding"
        between.say(1, 0, ack=7)
        between.engine.finish()
        assert [end.receive() for end in between.ends] == [[], []] and not between.count("kept_resets")


def test_an_idle_edited_connection_is_asked_not_forgotten():
    with Between(Shout(), timeout_tcp=2.0) as between:
        between.edited()
        left, right = [], []

        def both():
            for seen, more in zip((left, right), between.step()):
                seen += more
            return left and right
        until(both, "both ends are asked")
        assert [segment[:4] for segment in left] == [(-1, 5, ACK, b"")] and [segment[:4] for segment in right] == [(5, 0, ACK, b"")]
        assert between.count("kept_probes") == 1 and not between.count("connections_closed")
        assert between.say(0, 5, b"!")[1][0][:4] == (6, 0, ACK | PSH, b"!")


@pytest.mark.slow
def test_ends_that_vanished_are_reset_in_the_end():
    with Between(Shout(), timeout_tcp=1.0) as between:
        between.edited()
        resets = [0, 0]

        def closed():
            for side, segments in enumerate(between.step()):
                resets[side] += sum(segment[2] & RST != 0 for segment in segments)
            return between.count("connections_closed")
        until(closed, "the connection is given up", patience=4 * PATIENCE, pause=0.05)
        assert resets == [1, 1] and between.count("kept_given_up") == 1


def test_modules_come_and_go_while_a_connection_is_kept():
    editor, early, late = Shout(), Seen(), Seen()
    with Between(editor, early) as between:
        between.edited()
        behind = between.engine.attach(late)
        between.say(0, 5, b" world", ack=0)
        assert early.seen[0] == b"(hello world" and late.seen[0] == b" world"
        for attachment in [*between.attachments, behind]:
            between.engine.detach(attachment)
        left, right = between.say(0, 11, b"!", ack=0)
        assert right[0][:4] == (12, 0, ACK | PSH, b"!") and left[-1][1] == 12
        assert early.seen[0] == b"(hello world"
        again = Seen()
        between.engine.attach(again)
        right = between.say(0, 12, b"?", flags=ACK | FIN)[1]
        assert again.seen[0] == b"?" and right[-1][0] == 13 and right[-1][2] & FIN


def test_a_writer_that_comes_behind_another_begins_where_that_one_stands():
    with Between(Shout()) as between:
        between.edited()
        second = Shout()
        between.engine.attach(second)
        assert between.say(0, 5, b"next", ack=0)[1][0][3] == b"(next"
        between.engine.detach(between.attachments[0])
        assert between.say(0, 9, b"last", ack=0)[1][0][:4] == (11, 0, ACK | PSH, b"last")


def test_what_a_module_held_goes_unchanged_when_it_is_detached():
    with Between(Shout()) as between:
        right = between.open().say(0, 0, b"hold this", flags=ACK | PSH)[1]
        assert not any(segment[3] for segment in right)
        between.engine.detach(between.attachments[0])
        assert b"".join(segment[3] for segment in between.step()[1]) == b"hold this"


def test_a_path_that_is_narrower_is_learned():
    with Between(Shout()) as between:
        between.edited()
        right = between.say(0, 5, b"x" * 1400, ack=0)[1]
        frame = build.ip(A, B, build.TCP, build.tcp(A, B, ISNS[0] + 7, ISNS[1] + 1, ACK, b"x" * 8))
        assert [len(segment[3]) for segment in right] == [1400]
        for spoofed in 5000, 0:               # a forger does not know the numbers
            quoted = frame[:24] + struct.pack(">I", ISNS[0] + 7 + spoofed) + frame[28:]
            message = bytes([3, 4, 0, 0, 0, 0]) + struct.pack(">H", 800) + quoted
            message = message[:2] + struct.pack(">H", build.checksum(message)) + message[4:]
            put(between.ends[1], build.ethernet(build.ipv4("10.0.0.9", "10.0.0.1", 1, message)))
            left, right = between.step() if spoofed else (None, None)
            if spoofed:
                assert not right and not between.count("kept_path_mtu")
        between.engine.step()
        lengths = [len(between.segment(1, frame)[3]) for _, frame in between.ends[1].receive()]
        assert between.count("kept_path_mtu") == 1 and lengths == [760, 640]


# ------------------------------------------------------------------------------ run

def test_run_moves_frames_and_is_stopped_from_another_thread():
    left, right = pipe("left"), pipe("right")
    with Engine() as engine:
        engine.connect(left[1], right[1])
        runner = threading.Thread(target=engine.run)
        runner.start()
        frame = build.ethernet(build.ip(A, B, build.UDP, build.udp(A, B, b"hello")))
        put(left[0], frame)
        arrived = until(right[0].receive, "the frame")
        engine.stop()
        runner.join(PATIENCE)
        assert not runner.is_alive() and [bytes(data) for _, data in arrived] == [frame] and not engine.finished


def test_run_ends_when_both_ports_have():
    left, right = pipe("left"), pipe("right")
    with Engine() as engine:
        engine.connect(left[1], right[1])
        left[0].close()
        right[0].close()
        engine.run()
        assert engine.finished
