"""Edited messages stay valid: HttpFraming against h11 and httptools, and rule by rule on wire bytes.

The rules stand in CASES: what came, what a module did with it, what leaves.  The properties draw
conversations of every framing, cut them anywhere for the decoder, release bodies in random parts
with random edits, hit the hold limit at random, and let both parsers read what leaves: they must
find the bodies as edited.  A model applies the edits to the bodies alone and knows no framing.
"""
import itertools

import h11
import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowos.core.recorder import Recorder
from flowos.decoders.http import (BODY, END, FRAMING, FRAMING_REASONS, KINDS, REQUEST, RESPONSE, TRAILER, HttpDecoder,
                                  HttpFraming, edited)

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
GET_1_0 = b"GET / HTTP/1.0\r\n\r\n"
GET_1_0_KEEP = b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"


class Line:
    """One connection: decodes what is sent, feeds the pair, and keeps what left of each direction."""

    def __init__(self, already_sent=(False, False), unanswered=0):
        self.recorder = Recorder(HttpDecoder())
        self.pair = HttpDecoder.framing.pair(already_sent, unanswered)
        self.came = (bytearray(), bytearray())
        self.edits = ([], [])
        self.covered = [0, 0]

    def units(self, direction, data):
        """The units of bytes that came; None ends the direction."""
        if data is None:
            return self.recorder.finish(direction)
        self.came[direction].extend(data)
        return self.recorder.feed(direction, data)

    def given(self, direction, result):
        """Check and keep what the framing gave."""
        edits, covered = result
        at = self.edits[direction][-1][0] + self.edits[direction][-1][1] if self.edits[direction] else 0
        assert covered >= self.covered[direction]
        for offset, removed, data in edits:
            assert offset >= max(at, self.covered[direction]) and offset + removed <= covered
            assert removed or data
            at = offset + removed
        offsets = [offset for offset, _, _ in edits]
        assert all(a < b for a, b in itertools.pairwise(offsets))
        self.edits[direction].extend(edits)
        self.covered[direction] = covered
        return bool(edits)

    def take(self, unit, edits=(), start=None, end=None):
        """Feed a unit, or a part of it."""
        start, end = unit.start if start is None else start, unit.end if end is None else end
        data = unit.data if unit.kind in (REQUEST, RESPONSE, FRAMING) else None
        self.given(unit.direction, self.pair[unit.direction].take(unit.kind, start, end, unit.message, edits, data))

    def out(self, direction):
        """What left so far."""
        covered = self.covered[direction]
        return edited(bytes(self.came[direction][:covered]), self.edits[direction])


def play(steps, substitute, **options):
    """Play (direction, bytes) and (direction, "limit"), (direction, None); in bodies, and at ends, substitute.

    `substitute` maps body bytes to others, and None to what is added at the end of a body.
    """
    line = Line(**options)
    for direction, what in steps:
        if what == "limit":
            line.given(direction, line.pair[direction].limit())
            continue
        for unit in line.units(direction, what):
            edits = []
            if unit.kind == BODY:
                for old, new in substitute.items():
                    if old and (at := unit.data.find(old)) >= 0:
                        edits.append((unit.start + at, len(old), new))
            elif unit.kind == END and None in substitute:
                edits.append((unit.end, 0, substitute[None]))
            line.take(unit, edits)
        if what is None:
            line.given(direction, line.pair[direction].finish())
    return line


OK = b"HTTP/1.1 200 OK\r\n"
OK_1_0 = b"HTTP/1.0 200 OK\r\n"
OK5 = OK + b"Content-Length: 5\r\n\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"
LONGER, SHORTER, SAME, GONE = {b"ell": b"ELEPHANT"}, {b"ell": b""}, {b"ell": b"ELL"}, {b"hello": b""}

# name: (steps, substitutions, and of the last step's direction: what leaves, covered or None for all, counters)
CASES = {
    "a length that nobody changed": ([(0, GET), (1, OK5 + b"hello")], {}, OK5 + b"hello", None, {}),
    "an edit that keeps the length": ([(0, GET), (1, OK5 + b"hello")], SAME, OK5 + b"hELLo", None, {}),
    "a length corrected": (
        [(0, GET), (1, OK5 + b"hello")], LONGER,
        OK + b"Content-Length: 10\r\n\r\nhELEPHANTo", None, {"corrected": 1}),
    "a length that comes to nothing": (
        [(0, GET), (1, OK5 + b"hello")], GONE, OK + b"Content-Length: 0\r\n\r\n", None, {"corrected": 1}),
    "lengths, repeated, folded, spaced": (
        [(0, GET), (1, OK + b"Content-length :\t5 \r\nA: b\r\nCONTENT-LENGTH:\r\n 5, 5\r\n\r\n" + b"hello")], SHORTER,
        OK + b"Content-length :\t2 \r\nA: b\r\nCONTENT-LENGTH:\r\n 2\r\n\r\nho", None, {"corrected": 1}),
    "the head waits for the body": ([(0, GET), (1, OK5 + b"hell")], LONGER, b"", 0, {}),
    "of a request too": (
        [(0, POST + b"say"), (0, b" hello")], SHORTER, POST.replace(b"9", b"6") + b"say ho", None, {"corrected": 1}),
    "a message cut by the end stays as short as it was": (
        [(0, GET), (1, OK5 + b"hell"), (1, None)], SHORTER, OK + b"Content-Length: 2\r\n\r\nh", None, {"corrected": 1}),
    "something added at the end": (
        [(0, GET), (1, OK5 + b"hello")], {None: b"!"}, OK + b"Content-Length: 6\r\n\r\nhello!", None, {"corrected": 1}),
    "something added to an empty body": (
        [(0, GET), (1, OK + b"Content-Length: 0\r\n\r\n")], {None: b"!"}, OK + b"Content-Length: 1\r\n\r\n!", None,
        {"corrected": 1}),
    "nothing is added to a response to HEAD": ([(0, HEAD), (1, OK5)], {None: b"!"}, OK5, None, {"refused_bodiless": 1}),
    "nor to 304, nor to 100": (
        [(0, GET), (1, b"HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n")], {None: b"!"},
        b"HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 304 Same\r\nContent-Length: 5\r\n\r\n", None, {"refused_bodiless": 2}),
    "nor to a request without a body": ([(0, GET)], {None: b"!"}, GET, None, {"refused_bodiless": 1}),
    "the limit makes it chunked": (
        [(0, GET), (1, OK5 + b"hel"), (1, "limit")], {}, CHUNKED + b"3\r\nhel", None, {"to_chunked": 1}),
    "... each run a chunk": (
        [(0, GET), (1, OK5 + b"hel"), (1, "limit"), (1, b"l"), (1, b"o" + OK5 + b"hello")], {b"l": b""},
        CHUNKED + b"2\r\nhe\r\n1\r\no\r\n0\r\n\r\n" + OK + b"Content-Length: 4\r\n\r\nhelo", None,
        {"to_chunked": 1, "corrected": 1}),
    "... with nothing in hand yet": (
        [(0, GET), (1, OK5), (1, "limit"), (1, b"hello")], {}, CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", None, {"to_chunked": 1}),
    "... and with an end that was added": (
        [(0, GET), (1, OK5), (1, "limit"), (1, b"hello")], {b"hello": b"", None: b"!"},
        CHUNKED + b"1\r\n!\r\n0\r\n\r\n", None, {"to_chunked": 1}),
    "... of a request whose server did not say": (
        [(0, POST + b"say"), (0, "limit"), (0, b" hello")], {},
        POST.replace(b"Content-Length: 9", b"Transfer-Encoding: chunked") + b"3\r\nsay\r\n6\r\n hello\r\n0\r\n\r\n", None,
        {"to_chunked": 1, "to_chunked_unheard": 1}),
    "... of a request whose server said it": (
        [(0, GET), (1, OK5 + b"hello"), (0, POST), (0, "limit")], {},
        GET + POST.replace(b"Content-Length: 9", b"Transfer-Encoding: chunked"), None, {"to_chunked": 1}),
    "a cut message made chunked has no last chunk": (
        [(0, GET), (1, OK5 + b"hel"), (1, "limit"), (1, b"l"), (1, None)], {}, CHUNKED + b"3\r\nhel\r\n1\r\nl", None,
        {"to_chunked": 1}),
    "a receiver of 1.0: the close delimits": (
        [(0, GET_1_0), (1, OK + b"A: b\r\nContent-Length: 5\r\n\r\nhel"), (1, "limit"), (1, b"lo")], {b"lo": b"p me"},
        OK + b"A: b\r\n\r\nhelp me", None, {"to_close": 1}),
    "a sender of 1.0: the close delimits": (
        [(0, GET), (1, OK_1_0 + b"Content-Length: 5\r\n\r\nhel"), (1, "limit"), (1, b"lo")], {b"lo": b"p me"},
        OK_1_0 + b"\r\nhelp me", None, {"to_close": 1}),
    "... but not where the connection lives on": (
        [(0, GET_1_0_KEEP), (1, OK + b"Connection: keep-alive\r\nContent-Length: 5\r\n\r\nhel"), (1, "limit"), (1, b"lo")],
        {b"h": b"", b"e": b"E", b"lo": b"p me", b"o": b"O"},
        OK + b"Connection: keep-alive\r\nContent-Length: 5\r\n\r\nhEllO", None, {"kept_length": 1, "refused_limit": 2}),
    "a request of 1.0 passes unedited": (
        [(0, POST.replace(b"1.1", b"1.0") + b"say"), (0, "limit"), (0, b" hello")], {b"say": b"", **LONGER},
        POST.replace(b"1.1", b"1.0") + b"say hello", None, {"kept_length": 1, "refused_limit": 2}),
    "so does one to a server of 1.0": (
        [(0, GET), (1, OK_1_0 + b"Connection: keep-alive\r\nContent-Length: 0\r\n\r\n"), (0, POST + b"say"), (0, "limit"),
         (0, b" hello")], LONGER, GET + POST + b"say hello", None, {"kept_length": 1, "refused_limit": 1}),
    "a response whose request is unknown": (
        [(1, OK5 + b"hel"), (1, "limit"), (1, b"lo")], {}, OK5 + b"hello", None, {"kept_length": 1}),
    "chunks that nobody changed": (
        [(0, GET), (1, CHUNKED + b"05;x=y\r\nhello\r\n0;z\r\nA: b\r\n\r\n")], {},
        CHUNKED + b"05;x=y\r\nhello\r\n0;z\r\nA: b\r\n\r\n", None, {}),
    "a chunk resized": (
        [(0, GET), (1, CHUNKED + b"05;x=y\r\nhello\r\n01;k\r\n!\r\n0\r\n\r\n")], LONGER,
        CHUNKED + b"a\r\nhELEPHANTo\r\n01;k\r\n!\r\n0\r\n\r\n", None, {"chunks_resized": 1}),
    "a chunk waits until it is whole": (
        [(0, GET), (1, CHUNKED + b"1\r\n-\r\n5\r\nhell")], LONGER, CHUNKED + b"1\r\n-\r\n", len(CHUNKED) + 6, {}),
    "an emptied chunk goes": (
        [(0, GET), (1, CHUNKED + b"1\r\n-\r\n5\r\nhello\r\n1\r\n+\r\n0\r\n\r\n")], GONE,
        CHUNKED + b"1\r\n-\r\n1\r\n+\r\n0\r\n\r\n", None, {"chunks_removed": 1}),
    "the first chunk goes, the trailer stays": (
        [(0, GET), (1, CHUNKED + b"5\r\nhello\r\n0;q\r\nA: b\r\n\r\n")], GONE, CHUNKED + b"0;q\r\nA: b\r\n\r\n", None,
        {"chunks_removed": 1}),
    "chunks with bare line feeds": (
        [(0, GET), (1, CHUNKED + b"1\n-\n5\nhello\n2\nhi\n0\n\n")], {**GONE, b"hi": b"ho!"},
        CHUNKED + b"1\n-\n3\r\nho!\n0\n\n", None, {"chunks_removed": 1, "chunks_resized": 1}),
    "the limit cuts a chunk": (
        [(0, GET), (1, CHUNKED + b"5;x\r\nhel"), (1, "limit"), (1, b"l"), (1, b"o\r\n0\r\n\r\n")], {b"l": b""},
        CHUNKED + b"2\r\nhe\r\n1\r\no\r\n0\r\n\r\n", None, {"chunks_split": 1}),
    "... where nothing of it is left yet": (
        [(0, GET), (1, CHUNKED + b"5;x\r\nhel"), (1, "limit"), (1, b"l"), (1, b"o\r\n0\r\n\r\n")], {b"hel": b"", b"o": b""},
        CHUNKED + b"1\r\nl\r\n0\r\n\r\n", None, {"chunks_split": 1}),
    "an end added to chunks": (
        [(0, GET), (1, CHUNKED + b"5\r\nhello\r\n0\r\nA: b\r\n\r\n")], {None: b"!"},
        CHUNKED + b"5\r\nhello\r\n1\r\n!\r\n0\r\nA: b\r\n\r\n", None, {}),
    "a chunk cut by the end stays as short as it was": (
        [(0, GET), (1, CHUNKED + b"5\r\nhell"), (1, None)], SHORTER, CHUNKED + b"2\r\nh", None, {"chunks_resized": 1}),
    "damaged chunks": (
        [(0, GET), (1, CHUNKED + b"5\r\nhello\r\nzz\r\nhello")], LONGER,
        CHUNKED + b"a\r\nhELEPHANTo\r\nzz\r\nhello", None, {"chunks_resized": 1}),
    "until the close": (
        [(0, GET), (1, OK + b"\r\nhello"), (1, None)], {**LONGER, None: b"!"}, OK + b"\r\nhELEPHANTo!", None, {}),
    "what is no HTTP": ([(0, b"\x00\x01hello")], {}, b"\x00\x01hello", None, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_rule(name):
    steps, substitute, leaves, covered, counters = CASES[name]
    line = play(steps, substitute)
    direction = steps[-1][0]
    assert line.out(direction) == leaves
    assert line.covered[direction] == (len(line.came[direction]) if covered is None else covered)
    assert line.pair[direction].counters == counters
    assert set(counters) <= set(FRAMING_REASONS)


def test_every_reason_but_three_is_met_by_a_rule():
    met = {reason for case in CASES.values() for reason in case[4]}
    assert set(FRAMING_REASONS) - met == {
        "length_by_hand", "refused_midway", "refused_damaged", "refused_framing", "unknown_head"}


# ------------------------------------------------------------------ heads, and objects made midway

def take_all(framing, units):
    """Take (kind, bytes, edits) in a row; give what leaves."""
    came, edits, covered = b"", [], 0
    for kind, data, own in units:
        start = len(came)
        came += data
        text = data if kind in (REQUEST, RESPONSE, FRAMING) else None
        more, covered = framing.take(kind, start, len(came), 0, [(start + at, n, new) for at, n, new in own], text)
        edits += more
    return edited(came[:covered], edits)


def test_a_module_that_edits_the_head_too():
    add = [(17, 0, b"X-Seen: yes\r\n")]
    framing = HttpFraming()
    assert take_all(framing, [(RESPONSE, OK5, add), (BODY, b"hello", [(0, 1, b"J")]), (END, b"", [])]) \
        == OK + b"X-Seen: yes\r\nContent-Length: 5\r\n\r\nJello"
    assert take_all(HttpFraming(), [(RESPONSE, OK5, add), (BODY, b"hello", [(0, 0, b"<")]), (END, b"", [])]) \
        == OK + b"X-Seen: yes\r\nContent-Length: 6\r\n\r\n<hello"
    whole = [(0, len(OK5), OK + b"Server: x\r\nContent-Length: 5\r\n\r\n")]
    assert take_all(HttpFraming(), [(RESPONSE, OK5, whole), (BODY, b"hello", [(0, 0, b"<")]), (END, b"", [])]) \
        == OK + b"Server: x\r\nContent-Length: 6\r\n\r\n<hello"


def test_a_length_by_hand_is_respected():
    framing = HttpFraming()
    at = OK5.index(b"5\r\n\r\n")
    assert take_all(framing, [(RESPONSE, OK5, [(at, 1, b"777")]), (BODY, b"hello", [(0, 0, b"<")]), (END, b"", [])]) \
        == OK + b"Content-Length: 777\r\n\r\n<hello"
    assert framing.counters == {"length_by_hand": 1}


def test_made_midway():
    framing = HttpFraming(already_sent=True)
    edits, covered = framing.take(BODY, 100, 105, 4, [(100, 1, b"J"), (102, 1, b"longer")])
    assert (edits, covered) == ([(100, 1, b"J")], 105)
    assert framing.take(END, 105, 105, 4, [(105, 0, b"!")]) == ([], 105)
    assert framing.counters == {"refused_midway": 2}
    assert framing.take(RESPONSE, 105, 105 + len(OK5), 5, [], OK5) == ([], 105)
    assert framing.holding


def test_unanswered_requests_keep_their_place():
    ends = [(0, GET_1_0_KEEP), (1, OK5 + b"hello"), (1, OK5 + b"hel"), (1, "limit")]
    # The first response answers a request that went by before; the second one's spoke 1.0.
    line = play(ends, {}, unanswered=1)
    assert line.pair[1].counters == {"to_close": 1}
    line = play([(0, GET), *ends[1:]], {}, unanswered=1)
    assert line.pair[1].counters == {"to_chunked": 1}


def test_the_request_may_be_given():
    for head, counters in ((GET, {"to_chunked": 1}), (GET_1_0, {"to_close": 1}), (None, {"kept_length": 1})):
        framing = HttpFraming()
        framing.take(RESPONSE, 0, len(OK5), 0, [], OK5, head)
        framing.limit()
        assert framing.counters == counters


def test_heads_and_framing_without_their_bytes_pass():
    framing = HttpFraming()
    assert framing.take(RESPONSE, 0, 40, 0, []) == ([], 40)
    assert framing.take(BODY, 40, 45, 0, [(40, 1, b"")]) == ([], 45)
    framing.take(END, 45, 45, 0, [])
    framing.take(RESPONSE, 45, 45 + len(CHUNKED), 1, [], CHUNKED)
    assert framing.take(FRAMING, 92, 95, 1, [(92, 1, b"x")]) == ([], 95)
    assert framing.take(BODY, 95, 98, 1, [(95, 1, b"")]) == ([], 98)
    assert framing.counters == {"unknown_head": 1, "refused_limit": 1, "refused_framing": 1, "refused_damaged": 1}


def test_a_trailer_may_be_edited():
    assert take_all(HttpFraming(), [
        (RESPONSE, CHUNKED, []), (FRAMING, b"1\r\n", []), (BODY, b"-", []), (FRAMING, b"\r\n0\r\n", []),
        (TRAILER, b"A: b\r\n\r\n", [(3, 1, b"longer")]), (END, b"", [(0, 0, b"+")])]) \
        == CHUNKED + b"1\r\n-\r\n1\r\n+\r\n0\r\nA: longer\r\n\r\n"


def test_many_requests_without_an_answer():
    first, second = HttpFraming.pair()
    for i in range(3000):
        first.take(REQUEST, i * len(GET), (i + 1) * len(GET), i, [], GET)
        first.take(END, (i + 1) * len(GET), (i + 1) * len(GET), i, [])
    at = 0
    for i in range(3000):
        second.take(RESPONSE, at, at + len(OK5), i, [], OK5)
        second.limit()
        second.take(END, at + len(OK5), at + len(OK5), i, [])
        at += len(OK5)
    assert second.counters == {"to_chunked": 1024, "kept_length": 1976}


# ------------------------------------------------------------------ anything may come

PIECES = st.one_of(
    st.sampled_from([GET, GET_1_0, HEAD, POST, OK5, CHUNKED, OK + b"\r\n", OK_1_0 + b"Content-Length: 3\r\n\r\n", b"hello",
                     b"5\r\n", b"0\r\n\r\n", b"\r\n", b"0\r\nA: b\r\n\r\n", b" ;x\r\n", b"\r3\nabc\r\n", b"HTTP/1.1 ",
                     b"HTTP/1.1 101 Up\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\n\r\n", b"Content-Length: x\r\n",
                     b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
                     b"PUT / HTTP/1.1\r\nContent-Length: 2, 3\r\n\r\n"]), st.binary(max_size=20))


@given(st.data(), st.lists(st.tuples(st.integers(0, 1), st.one_of(PIECES, st.just("limit"), st.integers(1, 9))),
                           max_size=25), st.tuples(st.booleans(), st.booleans()))
def test_nothing_raises_and_nothing_stays(data, steps, already_sent):
    """Damage, gaps, edits in any unit: no error; at the end all has left; without edits and limits, as it came."""
    line, editing, limited = Line(already_sent), data.draw(st.booleans()), False
    for direction, what in [*steps, (0, None), (1, None)]:
        if what == "limit":
            limited = True
            line.given(direction, line.pair[direction].limit())
            assert not line.pair[direction].holding
            continue
        if isinstance(what, int):
            units = line.recorder.gap(direction, what)
            line.came[direction].extend(bytes(what))
        else:
            units = line.units(direction, what)
        before = line.out(direction)
        for unit in units:
            edits = data.draw(part_edits(unit.start, unit.end)) if editing and KINDS[unit.kind] != "gap" else []
            line.take(unit, edits)
        assert line.out(direction).startswith(before)
    for direction in (0, 1):
        line.given(direction, line.pair[direction].finish())
        assert line.given(direction, line.pair[direction].finish()) is False
        assert line.covered[direction] == len(line.came[direction])
        assert editing or limited or not line.edits[direction]
        assert set(line.pair[direction].counters) <= set(FRAMING_REASONS)


# ------------------------------------------------------------------ against h11 and httptools

def head_bytes(line, fields):
    return "\r\n".join([line, *(f"{name}: {value}" for name, value in fields), "", ""]).encode()


@st.composite
def bodies(draw, version, ways):
    """Draw (fields, body bytes with framing)."""
    body = draw(st.binary(max_size=60))
    how = draw(st.sampled_from(ways if version == "1.1" else [way for way in ways if way != "chunked"]))
    if how == "none":
        return [], b""
    if how == "length":
        return [("Content-Length", str(len(body)))], body
    if how == "close":
        return [], body
    cuts = sorted(draw(st.sets(st.integers(0, len(body)), max_size=4)) | {0, len(body)})
    extension = draw(st.sampled_from([b"", b";a=b"]))
    chunks = b"".join(b"%02x%s\r\n%s\r\n" % (b - a, extension, body[a:b]) for a, b in itertools.pairwise(cuts) if a < b)
    return [("Transfer-Encoding", "chunked")], chunks + b"0\r\n" + draw(st.sampled_from([b"", b"T: u\r\n"])) + b"\r\n"


@st.composite
def conversations(draw):
    """Draw a list of (method, request version, request bytes, response bytes, status)."""
    exchanges = []
    for last in [False] * draw(st.integers(0, 2)) + [True]:
        asked, answered = (draw(st.sampled_from(["1.0", "1.1", "1.1"])) if last else "1.1" for _ in range(2))
        method = draw(st.sampled_from(["GET", "HEAD", "POST"]))
        fields, data = draw(bodies(asked, ["length", "chunked"] if method == "POST" else ["none"]))
        request = head_bytes(f"{method} / HTTP/{asked}", [("Host", "h"), *fields]) + data
        status = draw(st.sampled_from([200, 200, 200, 204, 304]))
        if method == "HEAD" or status != 200:
            fields, data = ([("Content-Length", "9")] if method == "HEAD" and draw(st.booleans()) else []), b""
        else:       # chunks only for those who know them
            ways = ["length", "length", "chunked"] if asked == "1.1" else ["length"]
            fields, data = draw(bodies(answered, [*ways, "close"] if last else ways))
        interim = b"HTTP/1.1 103 Early\r\nA: b\r\n\r\n" if asked == "1.1" and draw(st.booleans()) else b""
        exchanges.append((method, asked, request, interim + head_bytes(f"HTTP/{answered} {status} Fine", fields) + data))
    return exchanges


@st.composite
def part_edits(draw, start, end):
    """Draw edits inside [start, end]: (offset, removed, bytes), ascending."""
    at, edits = start, []
    if end > start and draw(st.integers(0, 3)) == 3:        # all of it: chunks must go
        return [(start, end - start, b"")]
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        offset = draw(st.integers(at, end))
        removed = draw(st.integers(0, end - offset))
        new = draw(st.one_of(st.binary(max_size=20), st.just(bytes(removed))))
        if edits and edits[-1][0] == offset or not removed and not new:
            continue
        edits.append((offset, removed, new))
        at = offset + removed
    return edits


class Model:
    """The bodies of one direction as edited: knows edits and bodies, but no framing."""

    def __init__(self):
        self.messages = []

    def head(self):
        self.messages.append([])

    def part(self, data, start, edits):
        self.messages[-1].append((data, start, edits))

    def refuse(self):
        """Of this message's edits only those that keep the length count, until `head`."""
        self.messages[-1] = [(data, start, [e for e in edits if e[1] == len(e[2])])
                             for data, start, edits in self.messages[-1]]

    def bodies(self):
        return [b"".join(edited(data, edits, start) for data, start, edits in parts) for parts in self.messages]


@given(st.data(), conversations(), st.sampled_from([0.0, 0.1, 0.5]), st.booleans())
def test_what_leaves_is_read_as_edited(data, conversation, limits, editing):
    line, models = Line(), (Model(), Model())
    refusing = [False, False]
    methods = [method for method, *_ in conversation]
    left = [b"", b""]

    def limit(direction):
        before = line.pair[direction].counters.get("kept_length", 0)
        line.given(direction, line.pair[direction].limit())
        if line.pair[direction].counters.get("kept_length", 0) > before:
            refusing[direction] = True
            models[direction].refuse()

    def take(unit, edits, start, end):
        direction = unit.direction
        line.take(unit, edits, start, end)
        if unit.kind in (REQUEST, RESPONSE):
            models[direction].head()
            refusing[direction] = False
        elif unit.kind == BODY:
            models[direction].part(unit.data[start - unit.start:end - unit.start], start, edits)
        elif unit.kind == END:
            models[direction].part(b"", start, edits if can_add(direction, unit) else [])
        if refusing[direction]:
            models[direction].refuse()
        assert line.out(direction).startswith(left[direction])
        left[direction] = line.out(direction)
        if data.draw(st.floats(0, 1)) < limits:
            limit(direction)

    def can_add(direction, unit):
        parts = models[direction].messages[-1]
        return not refusing[direction] and (any(text for text, _, _ in parts) or framed[direction])

    framed = [False, False]
    for method, _, *sides in conversation:
        for direction, side in enumerate(sides):
            cuts = sorted(data.draw(st.sets(st.integers(0, len(side)), max_size=5)) | {0, len(side)})
            for a, b in itertools.pairwise(cuts):
                for unit in line.units(direction, side[a:b]):
                    if unit.kind in (REQUEST, RESPONSE):
                        head = unit.data.lower()
                        framed[direction] = (b"content-length" in head or b"transfer-encoding" in head
                                             or direction == 1 and b" 200 " in head) \
                            and not (direction == 1 and method == "HEAD")
                    places = [unit.start, unit.end]
                    if unit.kind == BODY:
                        places = sorted({*places, *data.draw(st.sets(st.integers(unit.start, unit.end), max_size=2))})
                    for start, end in itertools.pairwise(places):
                        edits = data.draw(part_edits(start, end)) \
                            if editing and unit.kind in (BODY, END) else []
                        take(unit, edits, start, end)
    for direction in (0, 1):
        for unit in line.units(direction, None):
            take(unit, [], unit.start, unit.end)
        line.given(direction, line.pair[direction].finish())
        assert line.covered[direction] == len(line.came[direction])
        if not editing and not limits:
            assert not line.edits[direction]
    assert not any(reason in ("refused_damaged", "refused_framing", "refused_midway")
                   for framing in line.pair for reason in framing.counters)
    requests, responses = models[0].bodies(), models[1].bodies()
    assert read_requests(line.out(0)) == requests
    assert read_responses(line.out(1), methods) == [
        body for body, last in zip(responses, finals(line, responses)) if last]
    assert read_by_llhttp(line.out(0), httptools.HttpRequestParser) == requests
    if "HEAD" not in methods:
        assert read_by_llhttp(line.out(1), httptools.HttpResponseParser) == responses


def finals(line, responses):
    """Tell for each response whether it is a final one: h11 gives interim ones apart."""
    heads = [record.value >= 200 for record in line.recorder.records
             if record.direction == 1 and KINDS[record.kind] == "response"]
    assert len(heads) == len(responses)
    return heads


def read_requests(data):
    """The bodies of a stream of requests, as h11 reads them."""
    server, found = h11.Connection(h11.SERVER), []
    server.receive_data(data)
    server.receive_data(b"")
    while (event := server.next_event()) not in (h11.NEED_DATA,) and not isinstance(event, h11.ConnectionClosed):
        if isinstance(event, h11.Request):
            found.append(b"")
        elif isinstance(event, h11.Data):
            found[-1] += event.data
        elif isinstance(event, h11.EndOfMessage):
            server.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            server.send(h11.EndOfMessage())
            if server.our_state is not h11.DONE or server.their_state is not h11.DONE:
                break
            server.start_next_cycle()
    return found


def read_responses(data, methods):
    """The bodies of a stream of responses, as h11 reads them; it must close where the stream does."""
    client, found = h11.Connection(h11.CLIENT), []
    client.receive_data(data)
    client.receive_data(b"")
    for method in methods:
        client.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
        client.send(h11.EndOfMessage())
        found.append(b"")
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            assert isinstance(event, (h11.Data, h11.Response, h11.InformationalResponse)), event
            if isinstance(event, h11.Data):
                found[-1] += event.data
        if client.their_state is not h11.DONE:
            break
        client.start_next_cycle()
    assert not client.trailing_data[0]
    return found


def read_by_llhttp(data, parser):
    """The bodies of a stream of messages, as llhttp reads them; None for what it refuses."""
    found = []

    class Reader:
        def on_message_begin(self):
            found.append(b"")

        def on_body(self, body):
            found[-1] += body

    parser(Reader()).feed_data(data)
    return found
