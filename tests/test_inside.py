"""A decoder inside a decoder: found by content, fed in order, its units laid over those of the outer one.

The outer decoder here puts its data into envelopes: what is inside is known, and where each byte lies.
"""
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowos.core.inside import PENDING_UNITS, PROBE_BYTES, Inside
from flowos.decoder import Decoder, Unit
from flowos.decoders.http import HttpDecoder


class Lines(Decoder):
    """Lines of text, in streams that begin with "TALK"."""

    name, over = "lines", ("tcp",)

    def __init__(self):
        super().__init__()
        self.held = [b"", b""]
        self.fed = []

    @staticmethod
    def probe(data, direction, port):
        head = bytes(data[:4])
        return True if head == b"TALK" else None if b"TALK".startswith(head) else False

    def feed(self, direction, data, offset, ts):
        self.fed.append((direction, offset, ts))
        start = offset - len(self.held[direction])
        *lines, self.held[direction] = (self.held[direction] + data).split(b"\n")
        units = []
        for line in lines:
            units.append(Unit(start, start + len(line) + 1, "line", len(line), line))
            start = units[-1].end
            self.count("lines")
        return units

    def finish(self, direction, offset, ts):
        held = self.held[direction]
        return [Unit(offset - len(held), offset, "rest", None, held)] if held else []


class Never(Lines):
    name = "never"

    @staticmethod
    def probe(data, direction, port):
        return False


def envelopes(inside, steps, end=True):
    """Take (direction, kind, data) in envelopes of 10 bytes more: [(direction, start, end, kind, data)]."""
    at, made = [0, 0], []
    for n, (direction, kind, data) in enumerate(steps):
        stop = at[direction] + len(data) + 10
        inside.take(direction, Unit(at[direction], stop, kind, None, data), n)
        at[direction] = stop
        made += [(direction, u) for u in inside.units(direction)]
    for direction in (0, 1) if end else ():
        inside.end(direction, 0)
        made += [(direction, u) for u in inside.units(direction)]
    reached = [0, 0]
    for direction, unit in made:
        assert unit.start == reached[direction] <= unit.end
        reached[direction] = unit.end
    if end:
        assert reached == at
    return [(d, u.start, u.end, u.kind, u.data) for d, u in made]


def test_units_end_where_their_last_byte_came():
    steps = [(0, "data", b"TALK\nab"), (0, "note", b""), (0, "data", b"c\nd\ne\n"), (1, "data", b"yes\n"), (0, "data", b"f")]
    inside = Inside((Never, Lines), Unit)
    assert envelopes(inside, steps) == [
        (0, 0, 17, "line", b"TALK"), (0, 17, 27, "note", b""), (0, 27, 43, "line", b"abc"), (0, 43, 43, "line", b"d"),
        (0, 43, 43, "line", b"e"), (1, 0, 14, "line", b"yes"), (0, 43, 54, "rest", b"f")]
    assert inside.counters() == {"lines_lines": 5}


def test_what_waits_for_a_decoder_comes_in_order():
    steps = [(0, "note", b""), (0, "data", b"TA"), (1, "note", b"x"), (0, "note", b"y"), (0, "data", b"LK\n"), (1, "data", b"z\n")]
    assert envelopes(Inside((Lines,), Unit), steps) == [
        (0, 0, 10, "note", b""), (0, 10, 33, "note", b"y"), (0, 33, 46, "line", b"TALK"), (1, 0, 11, "note", b"x"),
        (1, 11, 23, "line", b"z")]


def test_a_compiled_decoder():
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    made = envelopes(Inside((HttpDecoder,), Unit), [(0, "data", request[:9]), (0, "data", request[9:] + request)])
    assert [(kind, data) for _, _, _, kind, data in made] == [("request", request), ("end", None)] * 2
    inside = Inside((HttpDecoder,), Unit)
    inside.take(0, Unit(0, 50, "data", None, request), 0)
    assert [unit.info and unit.info.host for unit in inside.units(0)] == ["a", None]


@pytest.mark.parametrize("first", [b"other words", b"TAX"])
def test_nobody_agrees(first):
    inside = Inside((Lines,), Unit)
    assert envelopes(inside, [(0, "data", first), (0, "data", b"TALK\n")]) == [
        (0, 0, len(first) + 10, "data", first), (0, len(first) + 10, len(first) + 25, "data", b"TALK\n")]
    assert inside.counters() == {}


def test_what_waits_is_bounded():
    class Slow(Lines):
        @staticmethod
        def probe(data, direction, port):
            return None

    for size, most in ((1, PENDING_UNITS), (1000, PROBE_BYTES // 1000 + 1)):
        inside = Inside((Slow,), Unit)
        for n in range(100):
            inside.take(0, Unit(n, n + 1, "data", None, bytes(size)), 0)
            assert len(inside.waiting) < most
        assert len(inside.units(0)) == 100


def test_nothing_but_undecided_data():
    assert envelopes(Inside((Lines,), Unit), [(0, "data", b"TA"), (1, "note", b"")]) == [
        (0, 0, 12, "data", b"TA"), (1, 0, 10, "note", b"")]


def test_an_end_before_the_end():
    inside = Inside((Lines,), Unit)
    envelopes(inside, [(0, "data", b"TALK\nab")], end=False)
    assert inside.end(0, 0) is True and inside.end(0, 0) is False
    assert [unit.kind for unit in inside.units(0)] == ["rest"]
    inside.take(0, Unit(17, 20, "data", None, b"more"), 0)
    assert [(unit.start, unit.end, unit.kind) for unit in inside.units(0)] == [(17, 20, "data")]


def test_times_and_offsets():
    inside = Inside((Lines,), Unit)
    envelopes(inside, [(0, "data", b"TALK\n"), (1, "data", b"ab"), (0, "data", b"cd")])
    assert inside.decoder.decoder.fed == [(0, 0, 0), (1, 0, 1), (0, 5, 2)]


@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from(["data", "data", "note"]), st.sampled_from(
    [b"", b"a", b"\n", b"ab\ncd", b"\n\n\nx", b"long words without an end"])), max_size=20), st.integers(0, 5))
def test_any_pieces(steps, cut):
    steps = [(0, "data", b"TALK\n"[:cut]), (0, "data", b"TALK\n"[cut:]), *steps]
    made = envelopes(Inside((Lines,), Unit), steps)
    for direction in (0, 1):
        text = b"".join(data for d, kind, data in steps if d == direction and kind == "data")
        found = [data + b"\n" * (kind == "line") for d, _, _, kind, data in made if d == direction and kind in ("line", "rest")]
        assert b"".join(found) == text
