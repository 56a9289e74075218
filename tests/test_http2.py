"""The HTTP/2 decoder: recorded connections against tshark, at every cut, through gaps and damage; inside TLS.

tests/data/http2.pcap was recorded from curl with nginx, curl with h2 (an upgrade) and Node with itself;
https.pcap, with its key log, from curl with nginx.  Frames of our own are built from RFC 9113.
"""
import collections
import re
import subprocess
from pathlib import Path

import pytest
from follow import follow
from hpack import Encoder
from hypothesis import given
from hypothesis import strategies as st

import flowos
from flowos import Engine, Module
from flowos.decoders import http2
from flowos.decoders.http import HttpDecoder
from flowos.decoders.http2 import PREFACE, REASONS, Http2Decoder
from flowos.decoders.tls_data import TlsDataDecoder

DATA = Path(__file__).parent / "data"
STREAMS = range(4)
LARGE, HEAD, UPGRADE, NODE = STREAMS
LARGE_TEXT = b"".join(b"line %d\n" % n for n in range(1000))
PAGE = b"<p>the first page</p>\n"


@pytest.fixture(scope="module")
def streams(tshark):
    """{stream: [(direction, piece)]} of the recorded connections; direction 0 is the client's."""
    found = follow(tshark, DATA / "http2.pcap", STREAMS)
    assert sorted(found) == list(STREAMS)
    first = {number: pieces[0] for number, pieces in found.items()}
    assert first[NODE][1].startswith(b"\x00")           # its server speaks first: tshark calls it 0 all the same
    return found


def play(steps, decoder=None, described=REASONS):
    """Feed (direction, bytes | gap length), then finish: (decoder, [(direction, unit)])."""
    decoder, at, ends, units = decoder or Http2Decoder(), [0, 0], [0, 0], []

    def take(direction, made):
        for unit in made:
            assert unit.start == ends[direction] <= unit.end, unit
            ends[direction] = unit.end
            units.append((direction, unit))

    for direction, what in steps:
        if isinstance(what, int):
            take(direction, decoder.gap(direction, at[direction], what, 0))
            at[direction] += what
        else:
            take(direction, decoder.feed(direction, what, at[direction], 0))
            at[direction] += len(what)
    for direction in (0, 1):
        take(direction, decoder.finish(direction, at[direction], 0))
        assert ends[direction] == at[direction]
    assert set(decoder.counters) <= set(described)
    return decoder, units


def told(units):
    """Give what units say, adjoining `other` ones joined."""
    story = []
    for d, unit in units:
        last = story[-1] if story else None
        if unit.kind == "other" and last and last[0] == d and last[3] == "other" and last[2] == unit.start:
            story[-1] = (d, last[1], unit.end, "other", None, (last[5] or b"") + (unit.data or b""))
        else:
            story.append((d, unit.start, unit.end, unit.kind, unit.info, unit.data))
    return sorted(story, key=lambda entry: entry[:3])


def kinds(units, direction=0):
    return [unit.kind for d, unit in units if d == direction]


def bodies(units):
    """Give {(direction, stream): body}."""
    found = collections.defaultdict(bytes)
    for d, unit in units:
        if unit.kind == "data":
            found[d, unit.info.stream] += unit.data
    return found


# ---- recorded connections --------------------------------------------------------------------

def tshark_frames(tshark):
    """Give {(stream, source port): ([(type, stream, length)], [(name, value)])} as tshark reads the capture."""
    names = ("http2.type", "http2.streamid", "http2.length", "http2.header.name", "http2.header.value")
    done = subprocess.run(
        [tshark, "-r", str(DATA / "http2.pcap"), "-Y", "http2", "-T", "fields", "-E", "aggregator=|", "-d",
         "tcp.port==8080,http2", "-d", "tcp.port==8090,http2", "-d", "tcp.port==8070,http", "-e", "tcp.stream", "-e",
         "tcp.srcport", *[word for name in names for word in ("-e", name)]],
        capture_output=True, text=True, timeout=300, check=True)
    found = collections.defaultdict(lambda: ([], []))
    for line in done.stdout.splitlines():
        stream, port, *columns = line.split("\t")
        types, ids, sizes, keys, values = (column.split("|") if column else [] for column in columns)
        frames, headers = found[int(stream), int(port)]
        # The preface is a frame without a type to tshark, and has neither stream nor length.
        frames += [(int(a), int(b), int(c)) for a, b, c in zip(types, ids[-len(types):], sizes[-len(types):], strict=True)]
        headers += zip(keys, values, strict=True)
    return found


def test_tshark_reads_the_same(streams, tshark):
    theirs = tshark_frames(tshark)
    for number in STREAMS:
        _, units = play(streams[number])
        client = next(d for d, unit in units if unit.kind == "preface")
        for (_, port), (frames, headers) in ((key, value) for key, value in theirs.items() if key[0] == number):
            direction = client if port > 10000 else 1 - client
            mine = [unit for d, unit in units if d == direction and unit.info is not None]
            expected = []
            for kind, stream, size in frames:
                if kind == 9:                           # CONTINUATION: one unit with the frame before it
                    expected[-1] = (*expected[-1][:2], expected[-1][2] + 9 + size)
                else:
                    expected.append((kind, stream, size))
            assert [(unit.info.type, unit.info.stream, unit.end - unit.start - 9) for unit in mine] == expected
            # tshark lists pairs once more where it puts a block together, and marks what it lacks.
            pairs = [(key.decode(), value.decode()) for unit in mine for key, value in unit.info.headers or ()]
            assert pairs == [(key, value) for key, value in headers]


def test_what_was_asked_and_answered(streams):
    told = {}
    for number in (LARGE, HEAD):
        decoder, units = play(streams[number])
        assert decoder.counters == {}
        request, = [unit.info for d, unit in units if d == 0 and unit.kind == "headers"]
        response, = [unit.info for d, unit in units if d == 1 and unit.kind == "headers"]
        told[number] = request.method, request.path, request.authority, response.status
        assert request.get("user-agent").startswith(b"curl/") and request.get(b"absent") is None
        found = bodies(units)
        assert int(response.get("content-length")) == len(found[1, 1]) or number == HEAD
    assert told == {LARGE: ("GET", "/large.txt", "127.0.0.1:8080", 200),
                    HEAD: ("HEAD", "/index.html", "127.0.0.1:8080", 200)}
    assert bodies(play(streams[LARGE])[1])[1, 1] == LARGE_TEXT


def test_an_upgrade(streams):
    decoder, units = play(streams[UPGRADE])
    assert decoder.counters == {}
    assert kinds(units, 0)[:3] == ["upgrade", "preface", "settings"]
    assert kinds(units, 1)[:4] == ["upgrade", "settings", "headers", "data"]
    assert units[0][1].data.startswith(b"GET /upgrade HTTP/1.1\r\n")
    assert bodies(units)[1, 1] == b"upgraded words"


def test_padding_trailers_a_push_and_long_headers(streams):
    decoder, units = play(streams[NODE])
    assert decoder.counters == {}
    client = next(d for d, unit in units if unit.kind == "preface")
    requests = {unit.info.stream: unit.info for d, unit in units if d == client and unit.kind == "headers"}
    assert {number: info.path for number, info in requests.items()} == {
        1: "/plain", 3: "/words", 5: "/push", 7: "/reset", 9: "/long", 11: "/again"}
    assert requests[9].get("x-words") == b" ".join(b"%d" % n for n in range(9000))
    assert not requests[9].flags & 0x04                  # it came in several frames
    found = bodies(units)
    assert (requests[3].method, found[client, 3]) == ("POST", b"some words " * 30)
    assert {number: found[1 - client, number] for number in (1, 2, 3, 5, 9, 11)} == {
        1: b"you asked for /plain", 2: b"pushed words", 3: b"you asked for /words", 5: b"you asked for /push",
        9: b"you asked for /long", 11: b"you asked for /again"}
    push, = [unit.info for _, unit in units if unit.kind == "push_promise"]
    assert (push.stream, push.promised, push.path) == (5, 2, "/pushed")
    answers = [unit.info for d, unit in units if d != client and unit.kind == "headers" and unit.info.stream == 9]
    assert answers[0].status == 200 and answers[0].get("x-long") == b"y" * 20000
    assert [value for key, value in answers[0].headers if key == b"set-cookie"] == [b"a=1", b"b=2"]
    assert answers[1].headers == [(b"x-trailer", b"the end")] and answers[1].end_stream
    reset, = [unit.info for _, unit in units if unit.kind == "rst_stream"]
    assert (reset.stream, reset.error) == (7, 11)
    goaway = [unit.info for d, unit in units if d != client and unit.kind == "goaway"]
    assert {(info.last, info.error) for info in goaway} == {(11, 0)}
    assert [unit.info.ack for _, unit in units if unit.kind == "ping"] == [False, True]


class Requests(Module):
    def __init__(self, protocol):
        self.protocol = protocol
        self.found, self.bodies = [], collections.defaultdict(bytes)

    def process(self, window):
        for unit in window.units:
            if unit.kind == "headers" and unit.info.method:
                self.found.append(("h2", unit.info.path))
            elif unit.kind == "request":
                self.found.append(("h1", unit.info.uri))
            elif unit.kind in ("data", "body"):
                self.bodies[window.connection.a.port, window.direction] += bytes(unit.data)


def test_through_the_engine():
    module = Requests("http2")
    with Engine() as engine:
        engine.add_port(DATA / "http2.pcap")
        engine.attach(module)
        engine.run()
    assert collections.Counter(path for _, path in module.found) == {
        "/large.txt": 1, "/index.html": 1, "/words": 1, "/plain": 1, "/push": 1, "/reset": 1, "/long": 1, "/again": 1}


# ---- inside TLS ------------------------------------------------------------------------------

class Https(TlsDataDecoder):
    name = "https"
    keylog = DATA / "https.keys"
    inner = (Http2Decoder, HttpDecoder)


@pytest.fixture(scope="module")
def sealed(tshark):
    found = follow(tshark, DATA / "https.pcap", range(5))
    assert len(found) == 5
    return found


def test_a_decoder_inside_another_through_the_engine():
    flowos.register_decoder(Https)
    try:
        module = Requests("https")
        with Engine() as engine:
            engine.add_port(DATA / "https.pcap")
            engine.attach(module)
            engine.run()
    finally:
        flowos.unregister_decoder("https")
    assert collections.Counter(module.found) == {
        ("h2", "/index.html"): 3, ("h2", "/large.txt"): 3, ("h2", "/missing"): 2, ("h2", "/index.html?again"): 1,
        ("h1", "/index.html"): 2, ("h1", "/large.txt"): 2, ("h1", "/missing"): 2}
    answers = [body for (_, direction), body in module.bodies.items() if direction]
    assert len(answers) == 5
    for body in answers:                                # streams of one connection may be interleaved
        assert body.count(PAGE) in (1, 2) and len(body) > len(LARGE_TEXT)


@pytest.mark.parametrize("number", range(5))
def test_units_lie_over_the_records(sealed, number):
    decoder, units = play(sealed[number], Https())
    assert decoder.counters == {}
    plain, records = play(sealed[number], type("Plain", (Https,), {"inner": ()})())
    ends = {(d, unit.end) for d, unit in records}
    assert {(d, unit.end) for d, unit in units} <= ends
    seen = {unit.kind for _, unit in units}
    assert {"preface", "settings", "headers", "data"} <= seen or {"request", "response", "body"} <= seen
    assert {"handshake", "change_cipher_spec", "alert"} & seen
    # What is inside is what a decoder of its own makes of the plaintext.
    inner = Http2Decoder() if "preface" in seen else None
    if inner:
        at, expected = [0, 0], []
        for d, unit in records:
            if unit.kind == "data":
                expected += [(d, u.kind, u.data) for u in inner.feed(d, unit.data, at[d], 0)]
                at[d] += len(unit.data)
        outer = {"handshake", "change_cipher_spec", "alert"}
        assert [(d, u.kind, u.data) for d, u in units if u.kind not in outer] == expected


@pytest.mark.parametrize("number", range(5))
def test_inside_tls_byte_by_byte(sealed, number):
    single = [(d, piece[n:n + 1]) for d, piece in sealed[number] for n in range(len(piece))]
    expected = play(sealed[number], Https())[1]
    assert [(d, u.start, u.end, u.kind, u.data) for d, u in play(single, Https())[1]] == [
        (d, u.start, u.end, u.kind, u.data) for d, u in expected]


# ---- cuts ------------------------------------------------------------------------------------

@pytest.mark.parametrize("number", STREAMS)
def test_byte_by_byte(streams, number):
    single = [(d, piece[n:n + 1]) for d, piece in streams[number] for n in range(len(piece))]
    assert told(play(single)[1]) == told(play(streams[number])[1])


@pytest.mark.parametrize("number", [HEAD, UPGRADE])
def test_at_every_cut(streams, number):
    steps = streams[number]
    expected = told(play(steps)[1])
    for index, (direction, piece) in enumerate(steps):
        for cut in range(1, len(piece)):
            cuts = [(direction, piece[:cut]), (direction, piece[cut:])]
            assert told(play(steps[:index] + cuts + steps[index + 1:])[1]) == expected


# ---- frames of our own -----------------------------------------------------------------------

def frame(kind, flags=0, stream=0, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def packed(*pairs, encoder=None):
    return (encoder or Encoder()).encode(list(pairs))


REQUEST = packed((":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "a.example"))
START = PREFACE + frame(4)
SMALL = frame(1, 0x05, 1, REQUEST)


def lead(*frames):
    return [(0, START + b"".join(frames))]


CASES = {
    "priority in headers": ([(0, START + frame(1, 0x24, 1, b"\x80\x00\x00\x03\x0f" + REQUEST))], ["headers"], {}),
    "padding": (lead(frame(0, 0x09, 1, b"\x03abc\0\0\0")), ["data"], {}),
    "an unknown type": (lead(frame(0x0a, 0, 0, b"alt-svc")), ["frame"], {}),
    "too much padding": (lead(frame(0, 0x08, 1, b"\x04abc"), frame(0, 0x08, 1)), ["frame", "frame"], {"bad_frame": 2}),
    "sizes that may not be": (
        lead(frame(2, 0, 1, b"1234"), frame(3, 0, 1, b"12345"), frame(4, 0, 0, b"1"), frame(6, 0, 0, b"1"), frame(7, 0, 0, b"1"),
             frame(8, 0, 0, b"1"), frame(5, 4, 1, b"1")), ["frame"] * 7, {"bad_frame": 7}),
    "headers too short": (lead(frame(1, 0x24, 1, b"1234"), SMALL), ["frame", "headers"], {"bad_frame": 1, "closed_headers": 1}),
    "a block in three frames": (
        lead(frame(1, 0x01, 1, REQUEST[:1]), frame(9, 0, 1, REQUEST[1:3]), frame(9, 4, 1, REQUEST[3:])), ["headers"], {}),
    "a block that is interrupted": (
        lead(frame(1, 0x01, 1, REQUEST[:1]), frame(0, 0, 1, b"x"), SMALL), ["other", "data", "headers"],
        {"broken_headers": 1, "closed_headers": 1}),
    "a block that is continued elsewhere": (
        lead(frame(1, 0x01, 1, REQUEST[:1]), frame(9, 4, 3, REQUEST[1:]), SMALL), ["other", "frame", "headers"],
        {"broken_headers": 1, "closed_headers": 1}),
    "a block that does not end": (lead(frame(1, 0x01, 1, REQUEST), frame(9, 0, 1)), ["other"], {}),
    "headers that cannot be unpacked": (
        lead(frame(1, 0x04, 1, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), SMALL), ["headers", "headers"],
        {"bad_headers": 1, "closed_headers": 1}),
    "cut in a frame": (lead(frame(0, 0, 1, b"abcdef")[:12]), ["other"], {}),
    "a frame longer than was agreed": (
        [(1, frame(4)), (0, START + frame(0, 0, 1, bytes(16385)))], ["other"], {"not_http2": 1}),
    "no HTTP/2 behind an upgrade": (
        [(0, b"GET / HTTP/1.1\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n\r\nGET"), (0, b"what")],
        ["upgrade", "other", "other"], {"not_http2": 1, "bad_frame": 1}),
    "an upgrade with a body": (
        [(0, b"POST / HTTP/1.1\r\nUpgrade: h2c\r\nContent-Length: 5\r\nHTTP2-Settings: \r\n\r\nwords" + START)],
        ["upgrade", "upgrade", "preface", "settings"], {}),
    "an upgrade that is refused to a client that goes on": (
        [(0, b"GET / HTTP/1.1\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\nPRI *"), (1, b"HTTP/1.1 200 OK\r\n\r\nwords"),
         (0, b" HTTP/2.0"), (1, b"more")], ["upgrade", "other"], {"not_upgraded": 1}),
    "a request for something else": ([(0, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + START)], ["other"], {"not_http2": 1}),
    "an upgrade that is refused": (
        [(0, b"GET / HTTP/1.1\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n"), (1, b"HTTP/1.1 200 OK\r\n\r\nwords"),
         (0, b"GET /"), (1, b"more")], ["upgrade", "other"], {"not_upgraded": 1}),
    "a head that does not end": ([(0, b"GET / HTTP/1.1\r\n" + b"x" * 70000)], ["other"], {"head_too_large": 1}),
}


@pytest.mark.parametrize("name", CASES)
def test_case_whole_and_cut(name):
    steps, expected, counters = CASES[name]
    decoder, units = play(steps)
    mine = kinds(units)
    assert (mine[2:] if mine[:2] == ["preface", "settings"] and name != "an upgrade with a body" else mine) == expected
    assert decoder.counters == counters
    if sum(len(piece) for _, piece in steps) < 2000:
        single = [(d, piece[n:n + 1]) for d, piece in steps for n in range(len(piece))]
        again, units_again = play(single)
        assert told(units_again) == told(units) and again.counters == counters


def test_what_frames_say():
    _, units = play(lead(
        frame(1, 0x24, 3, b"\x80\x00\x00\x01\x0f" + REQUEST), frame(2, 0, 5, b"\x00\x00\x00\x03\xff"), frame(3, 0, 3, u32(8)),
        frame(4, 0, 0, b"\x00\x05" + u32(20000) + b"\x12\x34" + u32(7)), frame(6, 1, 0, b"12345678"),
        frame(7, 0, 0, u32(3) + u32(2) + b"why"), frame(8, 0, 3, u32(99)), frame(0, 0x09, 3, b"\x02abc\0\0")))
    infos = [unit.info for _, unit in units][2:]
    headers, priority, reset, settings, ping, goaway, window, data = infos
    assert (headers.depends_on, headers.exclusive, headers.weight, headers.authority) == (1, True, 16, "a.example")
    assert (priority.depends_on, priority.exclusive, priority.weight) == (3, False, 256)
    assert reset.error == 8 and settings.settings == {"max_frame_size": 20000, 0x1234: 7}
    assert ping.ack and (goaway.last, goaway.error) == (3, 2) and window.increment == 99
    assert data.end_stream and units[-1][1].data == b"abc"
    assert repr(window) == "<Http2Frame window_update stream=3, increment=99>"
    assert headers.status is None


def u32(value):
    return value.to_bytes(4, "big")


def test_headers_share_a_table():
    encoder = Encoder()
    blocks = [packed((":status", "200"), ("x-name", "a value"), encoder=encoder) for _ in range(3)]
    assert len(blocks[1]) < len(blocks[0])
    _, units = play([(1, frame(4) + b"".join(frame(1, 4, 2 * n + 1, block) for n, block in enumerate(blocks)))])
    assert [unit.info.headers for _, unit in units if unit.kind == "headers"] == [
        [(b":status", b"200"), (b"x-name", b"a value")]] * 3


# ---- gaps and limits -------------------------------------------------------------------------

def test_a_gap_inside_data():
    whole = frame(0, 0, 1, b"0123456789")
    for first in range(9, 19):
        for length in range(1, 20 - first):
            decoder, units = play([(0, START + SMALL + whole[:first]), (0, length), (0, whole[first + length:] + SMALL)])
            assert decoder.counters == {}
            middle = [unit for _, unit in units if unit.kind in ("data", "gap")]
            assert [unit.kind for unit in middle] == ["data", "gap"] + ["data"] * (first + length < 19)
            assert b"".join(unit.data for unit in middle if unit.kind == "data") == \
                b"0123456789"[:first - 9] + b"0123456789"[first - 9 + length:]
            assert all(unit.info.incomplete for unit in middle if unit.kind == "data")
            assert [unit.info.path for _, unit in units if unit.kind == "headers"] == ["/", "/"]


def test_two_gaps_inside_data():
    whole = frame(0, 0, 1, bytes(30))
    decoder, units = play([(0, START + whole[:12]), (0, 5), (0, whole[17:20]), (0, 5), (0, whole[25:] + SMALL)])
    assert kinds(units)[2:] == ["data", "gap", "data", "gap", "data", "headers"] and decoder.counters == {}


def test_a_gap_elsewhere_closes_headers():
    for first in (0, 5, 9, 12):
        decoder, units = play([(0, START + SMALL[:first]), (0, len(SMALL) - first), (0, SMALL + frame(0, 1, 1, b"words"))])
        assert decoder.counters == {"resync": 1, "closed_headers": 1}
        assert kinds(units)[-2:] == ["headers", "data"] and units[-2][1].info.headers is None


def test_a_gap_in_a_block_of_headers():
    decoder, units = play([(0, START + frame(1, 0, 1, REQUEST[:3])), (0, 50), (0, frame(0, 0, 1, b"words"))])
    assert kinds(units)[2:] == ["other", "gap", "data"] and decoder.counters == {"resync": 1}


def test_garbage_is_passed_until_frames_begin():
    steps = [(0, START), (0, 10), (0, b"garbage, no frame"), (0, frame(6, 0, 0, b"1234567")), (0, frame(6, 0, 0, b"12345678"))]
    decoder, units = play(steps)
    assert kinds(units)[2:] == ["gap", "other", "other", "ping"] and decoder.counters == {"resync": 1}


def test_a_frame_beyond_the_limit(monkeypatch):
    monkeypatch.setattr(http2, "FRAME_LIMIT", 100)
    large = frame(0, 0, 1, bytes(101))
    for cut in (0, 1, 50):
        decoder, units = play([(0, START + SMALL + large[:cut]), (0, large[cut:] + SMALL)])
        assert decoder.counters == {"frame_too_large": 1}
        assert [entry[3] for entry in told(units)][2:] == ["headers", "other", "headers"]
    decoder, units = play([(0, START + frame(9, 0, 1, bytes(101)) + SMALL)])
    assert decoder.counters == {"frame_too_large": 1, "closed_headers": 1}
    decoder, units = play([(0, START + large[:50]), (0, 20), (0, large[70:] + SMALL)])
    assert kinds(units)[2:] == ["other", "gap", "other", "headers"] and decoder.counters == {"frame_too_large": 1}


def test_blocks_of_headers_beyond_the_limits(monkeypatch):
    monkeypatch.setattr(http2, "HEADERS_LIMIT", 1000)
    decoder, units = play([(0, START + frame(1, 0, 1, bytes(900)) + frame(9, 0, 1, bytes(101)) + frame(9, 4, 1) + SMALL)])
    assert decoder.counters == {"headers_too_large": 1, "closed_headers": 2}
    assert kinds(units)[2:] == ["headers", "headers"] and units[-2][1].info.headers is None
    frames = frame(1, 0, 1, REQUEST) + frame(9, 0, 1) * http2.HEADERS_FRAMES + frame(9, 4, 1)
    assert play([(0, START + frames)])[0].counters == {"headers_too_large": 1, "closed_headers": 1}
    long = packed(("x", "y" * 2000))                    # unpacked it is too long
    assert play([(0, START + frame(1, 4, 1, long[:900]))])[0].counters == {"bad_headers": 1}


def test_without_the_package_for_headers(streams, monkeypatch):
    monkeypatch.setattr(http2, "HpackDecoder", None)
    decoder, units = play(streams[LARGE])
    assert decoder.counters == {"no_hpack": 2} and bodies(units)[1, 1] == LARGE_TEXT


# ---- damage and probing ----------------------------------------------------------------------

@given(data=st.data())
def test_damage_never_raises(streams, data):
    steps = [(d, bytearray(piece)) for d, piece in streams[data.draw(st.sampled_from([HEAD, UPGRADE, NODE]))]]
    for _ in range(data.draw(st.integers(1, 6))):
        _, piece = steps[data.draw(st.integers(0, len(steps) - 1))]
        what = data.draw(st.sampled_from(["flip", "head", "cut"]))
        if what == "cut":
            del piece[data.draw(st.integers(0, len(piece))):]
        elif piece:
            piece[data.draw(st.integers(0, (len(piece) if what == "flip" else min(60, len(piece))) - 1))] = \
                data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        steps.insert(data.draw(st.integers(0, len(steps))), (data.draw(st.integers(0, 1)), data.draw(st.integers(1, 3000))))
    for _, piece in steps:
        if not isinstance(piece, int):
            Http2Decoder.probe(memoryview(bytes(piece))[:2048], 0, 80)
    _, units = play([(d, piece if isinstance(piece, int) else bytes(piece)) for d, piece in steps])
    for _, unit in units:
        if unit.info is not None:
            repr(unit.info), unit.info.status, unit.info.method, unit.info.path, unit.info.authority


@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 255), st.integers(0, 3), st.binary(max_size=40)), max_size=12),
       st.binary(max_size=20))
def test_any_frames_never_raise(frames, tail):
    play(lead(*[frame(*entry) for entry in frames], tail))


@given(st.binary(max_size=60))
def test_any_headers_never_raise(block):
    _, units = play(lead(frame(1, 4, 1, block), SMALL))
    assert kinds(units)[2:] == ["headers", "headers"]


@given(st.binary(max_size=200))
def test_any_bytes_never_raise(data):
    play([(0, data)])
    Http2Decoder.probe(data, 0, 80)


UPGRADE_HEAD = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n"
PROBES = [
    (PREFACE, True), (PREFACE + b"more", True), (PREFACE[:23], None), (b"P", None), (b"", None), (b"PRI * HTTP/1", None), (b"PRI * HTTP/3", False),
    (frame(4), True), (frame(4, 0, 0, bytes(12)), True), (frame(4)[:8], None), (frame(4) + frame(0, 0, 0), False),
    (frame(4) + frame(8, 0, 0, bytes(4)), True), (frame(4, 0, 0, bytes(11)), False), (frame(4, 1), False),
    (frame(4, 0, 1), False), (frame(1, 4, 1, REQUEST), False), (UPGRADE_HEAD, True), (UPGRADE_HEAD[:40], None),
    (b"GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n", False), (b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", False),
    (b"GE", None), (b"GET /", None), (b"GET / HTTP/1.0\r\n", False), (b"EHLO there\r\n", False), (b"SSH-2.0-x\r\n", False),
    (b"HTTP/1.1 200 OK\r\n", False), (b"\x16\x03\x01\x00\x05\x01", False), (b"\x00\x1d\x12\x34\x01\x00\x00\x01\x00", False)]


@pytest.mark.parametrize("data, expected", PROBES)
def test_probe(data, expected):
    assert Http2Decoder.probe(memoryview(data), 0, 80) is expected


def test_every_counter_is_described():
    page = (DATA.parent.parent / "docs" / "decoders.md").read_text()
    section = re.search(r"^## HTTP/2\n(.*?)^## ", page, re.M | re.S)[1]
    for reason in REASONS:
        assert f"`{reason}`" in section
