"""The HTTP decoder: framing rule by rule, at every cut, through gaps and damage, against others.

Wire bytes stand in the table CASES with the units they must give; the table is played whole, cut
at every byte and byte by byte.  tests/test_http_peers.py compares with h11, httptools and tshark.
The file is long because the table is the decoder's specification.
"""
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowos.core.recorder import Recorder
from flowos.decoders.http import KINDS, METHODS, REASONS, HttpDecoder, parse_head

INCOMPLETE = 16
HEADS = ("request", "response")


def play(steps):
    """Run steps on a fresh decoder: (direction, bytes), (direction, gap length) or (direction, None).

    None ends the direction.  Returns the decoder and the records, after checking what holds always.
    """
    decoder = HttpDecoder()
    recorder = Recorder(decoder)
    sent = (bytearray(), bytearray())
    for direction, what in steps:
        if what is None:
            recorder.finish(direction)
        elif isinstance(what, int):
            recorder.gap(direction, what)
            sent[direction].extend(bytes(what))
        else:
            recorder.feed(direction, what)
            sent[direction].extend(what)
    for direction in (0, 1):
        check([r for r in recorder.records if r.direction == direction], bytes(sent[direction]))
    return decoder, recorder.records


def check(records, sent):
    """Check one direction: each byte in one unit, in order; each message has a head and one end."""
    at, open_message, begun = 0, None, 0
    for record in records:
        word = KINDS[record.kind]
        assert record.start == record.off == at <= record.end
        assert record.end - record.start == record.length
        if word == "gap":
            assert record.data is None and record.length
        elif word == "end":
            assert record.length == 0 and record.message == open_message
            open_message = None
        else:
            assert record.data == sent[record.start:record.end] and record.length
        if word in HEADS:
            assert open_message is None and record.message == begun
            open_message, begun = record.message, begun + 1
        elif word in ("body", "trailer"):
            assert record.message == open_message
        elif word != "end":
            assert record.message == (begun if open_message is None else open_message)
        at = record.end


def tell(records, direction):
    """Give a direction's units as [word, content, ...], pieces of one kind joined.

    A word ends in "!" when its unit is incomplete; an end's content is the body's length.
    """
    story = []
    for record in records:
        if record.direction != direction:
            continue
        word = KINDS[record.kind] + "!" * (record.flags == INCOMPLETE and KINDS[record.kind] != "other")
        content = record.value if word[:3] == "end" else record.length if word == "gap" else record.data
        joins = word in ("body", "framing", "other") and story and story[-1][0] == word \
            and story[-1][2] == record.message
        if joins:
            story[-1] = word, story[-1][1] + content, record.message
        else:
            story.append((word, content, record.message))
    return [part for word, content, _ in story for part in (word, content)]


GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
OK0 = OK + b"Content-Length: 0\r\n\r\n"
OK5 = OK + b"Content-Length: 5\r\n\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CONNECT = b"CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n"

# name: (steps, what direction 0 tells, what direction 1 tells, counters)
CASES = {
    "a request without a body": (
        [(0, GET)], ["request", GET, "end", 0], [], {}),
    "a response with a length": (
        [(0, GET), (1, OK5 + b"hello")],
        ["request", GET, "end", 0], ["response", OK5, "body", b"hello", "end", 5], {}),
    "a length of zero": (
        [(0, GET), (1, OK0)], ["request", GET, "end", 0], ["response", OK0, "end", 0], {}),
    "requests in a pipeline": (
        [(0, GET + POST + b"Content-Length: 3\r\n\r\nabc" + GET)],
        ["request", GET, "end", 0, "request", POST + b"Content-Length: 3\r\n\r\n", "body", b"abc", "end", 3,
         "request", GET, "end", 0], [], {}),
    "chunks": (
        [(0, GET), (1, CHUNKED + b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n" + OK0)],
        ["request", GET, "end", 0],
        ["response", CHUNKED, "framing", b"5\r\n", "body", b"hello", "framing", b"\r\n1\r\n", "body", b"!",
         "framing", b"\r\n0\r\n\r\n", "end", 6, "response", OK0, "end", 0], {"response_first": 1}),
    "chunks with extensions, capitals and leading zeros": (
        [(0, GET), (1, CHUNKED + b"000A;name=value\r\n0123456789\r\n0;x\r\n\r\n")],
        ["request", GET, "end", 0],
        ["response", CHUNKED, "framing", b"000A;name=value\r\n", "body", b"0123456789",
         "framing", b"\r\n0;x\r\n\r\n", "end", 10], {}),
    "chunks with bare line feeds": (
        [(0, GET), (1, CHUNKED + b"2\nhi\n0\n\n")],
        ["request", GET, "end", 0],
        ["response", CHUNKED, "framing", b"2\n", "body", b"hi", "framing", b"\n0\n\n", "end", 2], {}),
    "a trailer": (
        [(0, GET), (1, CHUNKED + b"1\r\nx\r\n0\r\nA: b\r\nC: d\r\n\r\n" + OK0)],
        ["request", GET, "end", 0],
        ["response", CHUNKED, "framing", b"1\r\n", "body", b"x", "framing", b"\r\n0\r\n",
         "trailer", b"A: b\r\nC: d\r\n\r\n", "end", 1, "response", OK0, "end", 0], {"response_first": 1}),
    "a request in chunks": (
        [(0, POST + b"Transfer-Encoding: gzip, Chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n" + GET)],
        ["request", POST + b"Transfer-Encoding: gzip, Chunked\r\n\r\n", "framing", b"1\r\n", "body", b"x",
         "framing", b"\r\n0\r\n\r\n", "end", 1, "request", GET, "end", 0], [], {}),
    "until the connection closes": (
        [(0, GET), (1, OK + b"\r\nall of it"), (1, None)],
        ["request", GET, "end", 0], ["response", OK + b"\r\n", "body", b"all of it", "end", 9], {}),
    "a response to HEAD": (
        [(0, HEAD + GET), (1, OK5 + OK5 + b"hello")],
        ["request", HEAD, "end", 0, "request", GET, "end", 0],
        ["response", OK5, "end", 0, "response", OK5, "body", b"hello", "end", 5], {}),
    "204 and 304": (
        [(0, GET + GET), (1, b"HTTP/1.1 204 No\r\nContent-Length: 9\r\n\r\nHTTP/1.1 304 No\r\n"
                             b"Transfer-Encoding: chunked\r\n\r\n")],
        ["request", GET, "end", 0] * 2,
        ["response", b"HTTP/1.1 204 No\r\nContent-Length: 9\r\n\r\n", "end", 0,
         "response", b"HTTP/1.1 304 No\r\nTransfer-Encoding: chunked\r\n\r\n", "end", 0], {}),
    "interim responses answer nothing": (
        [(0, POST + b"Content-Length: 1\r\n\r\n"), (1, b"HTTP/1.1 100 Continue\r\n\r\n"), (0, b"x" + HEAD),
         (1, b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + OK5 + b"helloHTTP/1.1 200\r\nContent-Length: 7\r\n\r\n")],
        ["request", POST + b"Content-Length: 1\r\n\r\n", "body", b"x", "end", 1, "request", HEAD, "end", 0],
        ["response", b"HTTP/1.1 100 Continue\r\n\r\n", "end", 0,
         "response", b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n", "end", 0, "response", OK5, "body", b"hello",
         "end", 5, "response", b"HTTP/1.1 200\r\nContent-Length: 7\r\n\r\n", "end", 0], {}),
    "CONNECT accepted": (
        [(0, CONNECT), (1, OK + b"Content-Length: 3\r\n\r\n" + GET), (0, GET)],
        ["request", CONNECT, "end", 0, "other", GET],
        ["response", OK + b"Content-Length: 3\r\n\r\n", "end", 0, "other", GET], {}),
    "CONNECT refused": (
        [(0, CONNECT), (1, b"HTTP/1.1 407 No\r\nContent-Length: 2\r\n\r\nno"), (0, GET)],
        ["request", CONNECT, "end", 0, "request", GET, "end", 0],
        ["response", b"HTTP/1.1 407 No\r\nContent-Length: 2\r\n\r\n", "body", b"no", "end", 2], {}),
    "an upgrade": (
        [(0, b"GET /chat HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"),
         (1, b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n" + OK0), (0, b"\x81\x05hello" + GET)],
        ["request", b"GET /chat HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", "end", 0, "other", b"\x81\x05hello" + GET],
        ["response", b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n", "end", 0, "other", OK0], {}),
    "an upgrade granted before the request was seen": (
        [(1, b"HTTP/1.1 101 Switching\r\n\r\nopaque"), (0, GET + GET)],
        ["request", GET, "end", 0, "other", GET],
        ["response", b"HTTP/1.1 101 Switching\r\n\r\n", "end", 0, "other", b"opaque"], {}),
    "an upgrade while the request's body still comes": (
        [(0, POST + b"Content-Length: 4\r\n\r\nab"), (1, b"HTTP/1.1 101 Switching\r\n\r\n"), (0, b"cd" + GET)],
        ["request", POST + b"Content-Length: 4\r\n\r\n", "body", b"abcd", "end", 4, "other", GET],
        ["response", b"HTTP/1.1 101 Switching\r\n\r\n", "end", 0], {}),
    "coding before length": (
        [(0, POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n" + GET)],
        ["request", POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", "framing", b"1\r\n",
         "body", b"x", "framing", b"\r\n0\r\n\r\n", "end", 1, "request", GET, "end", 0], [],
        {"length_and_chunked": 1}),
    "a response coded otherwise": (
        [(0, GET), (1, OK + b"Content-Length: 1\r\nTransfer-Encoding: gzip\r\n\r\nzipped"), (1, None)],
        ["request", GET, "end", 0],
        ["response", OK + b"Content-Length: 1\r\nTransfer-Encoding: gzip\r\n\r\n", "body", b"zipped", "end", 6],
        {"length_and_chunked": 1}),
    "a request coded otherwise has no frame": (
        [(0, POST + b"Transfer-Encoding: chunked, gzip\r\n\r\nPUT me HTTP/1.1 or not\r\n")],
        ["request", POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n", "end!", 0,
         "other", b"PUT me HTTP/1.1 or not\r\n"], [], {"bad_coding": 1}),
    "a request without a frame, and a sound one": (
        [(0, POST + b"Content-Length: +4\r\n\r\n" + GET + GET)],
        ["request", POST + b"Content-Length: +4\r\n\r\n", "end!", 0] + ["request", GET, "end", 0] * 2, [],
        {"bad_length": 1, "resync": 1}),
    "identity is no coding": (
        [(0, POST + b"Transfer-Encoding: identity\r\nContent-Length: 1\r\n\r\nx" + GET)],
        ["request", POST + b"Transfer-Encoding: identity\r\nContent-Length: 1\r\n\r\n", "body", b"x", "end", 1,
         "request", GET, "end", 0], [], {}),
    "HTTP/1.0 in chunks": (
        [(0, GET), (1, b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n")],
        ["request", GET, "end", 0],
        ["response", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "framing", b"1\r\n", "body", b"x",
         "framing", b"\r\n0\r\n\r\n", "end", 1], {"chunked_in_1_0": 1}),
    "equal lengths": (
        [(0, POST + b"Content-Length: 2, 2\r\nContent-Length: 02\r\n\r\nhi" + GET)],
        ["request", POST + b"Content-Length: 2, 2\r\nContent-Length: 02\r\n\r\n", "body", b"hi", "end", 2,
         "request", GET, "end", 0], [], {}),
    "lengths that differ: the last one": (
        [(0, POST + b"Content-Length: 2\r\nContent-Length: 4\r\n\r\nfour" + GET)],
        ["request", POST + b"Content-Length: 2\r\nContent-Length: 4\r\n\r\n", "body", b"four", "end", 4,
         "request", GET, "end", 0], [], {"conflicting_lengths": 1}),
    "a length that is no number, in a response": (
        [(0, GET), (1, OK + b"Content-Length: 0x5\r\n\r\nhello!"), (1, None)],
        ["request", GET, "end", 0],
        ["response", OK + b"Content-Length: 0x5\r\n\r\n", "body", b"hello!", "end", 6], {"bad_length": 1}),
    "a length beyond 18 digits": (
        [(0, GET), (1, OK + b"Content-Length: 1000000000000000000\r\n\r\nx"), (1, None)],
        ["request", GET, "end", 0],
        ["response", OK + b"Content-Length: 1000000000000000000\r\n\r\n", "body", b"x", "end", 1],
        {"bad_length": 1}),
    "a folded length": (
        [(0, POST + b"Content-Length:\r\n\t 2\r\n\r\nhi" + GET)],
        ["request", POST + b"Content-Length:\r\n\t 2\r\n\r\n", "body", b"hi", "end", 2, "request", GET, "end", 0],
        [], {}),
    "a length with space before the colon, a line without one": (
        [(0, POST + b"junk\r\n folded: 9\r\ncontent-length : 2\r\n\r\nhi")],
        ["request", POST + b"junk\r\n folded: 9\r\ncontent-length : 2\r\n\r\n", "body", b"hi", "end", 2], [],
        {"bad_field": 1 + 1}),
    "bare line feeds": (
        [(0, b"GET / HTTP/1.1\nHost: a\n\n" + GET)],
        ["request", b"GET / HTTP/1.1\nHost: a\n\n", "end", 0, "request", GET, "end", 0], [], {}),
    "blank lines before a message": (
        [(0, b"\r\n\n" + GET + b"\r\n" + GET)],
        ["framing", b"\r\n\n", "request", GET, "end", 0, "framing", b"\r\n", "request", GET, "end", 0], [], {}),
    "spaces in a target": (
        [(0, b"GET /a b c HTTP/1.1\r\n\r\n")],
        ["request", b"GET /a b c HTTP/1.1\r\n\r\n", "end", 0], [], {}),
    "a method of another name": (
        [(0, b"FROB /a HTTP/1.0\r\n\r\n")], ["request", b"FROB /a HTTP/1.0\r\n\r\n", "end", 0], [], {}),
    "known methods without a version": (
        [(0, b"GET /\r\n\r\nOPTIONS HTTP/1.1\n\nPUT / HTTP/1.\n\n")],
        ["request", b"GET /\r\n\r\n", "end", 0, "request", b"OPTIONS HTTP/1.1\n\n", "end", 0,
         "request", b"PUT / HTTP/1.\n\n", "end", 0], [], {"odd_request_line": 3}),
    "other protocols": (
        [(0, b"OPTIONS sip:a SIP/2.0\r\n\r\n"), (1, b"SSH-2.0-x\r\n" + OK0)],
        ["other", b"OPTIONS sip:a SIP/2.0\r\n\r\n"], ["other", b"SSH-2.0-x\r\n" + OK0], {"not_http": 2}),
    "HTTP/2": (
        [(0, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")], ["other", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], [],
        {"not_http": 1}),
    "control bytes in a start line": (
        [(0, b"GET /\x01 HTTP/1.1\r\n\r\n"), (1, b"HTTP/1.1 200 \x00\r\n\r\nHTTP/1.1 2\x000 OK\r\n\r\n")],
        ["other", b"GET /\x01 HTTP/1.1\r\n\r\n"],
        ["response", b"HTTP/1.1 200 \x00\r\n\r\n", "body", b"HTTP/1.1 2\x000 OK\r\n\r\n"],
        {"not_http": 1, "response_first": 1}),
    "control bytes in a status": (
        [(1, b"HTTP/1.1 2\x000 OK\r\n\r\n")], [], ["other", b"HTTP/1.1 2\x000 OK\r\n\r\n"], {"not_http": 1}),
    "a CR in front of chunk sizes": (
        [(0, GET), (1, CHUNKED + b"\r2\r\nhi\r\n \t0\r\n\r\n")],
        ["request", GET, "end", 0],
        ["response", CHUNKED, "framing", b"\r2\r\n", "body", b"hi", "framing", b"\r\n \t0\r\n\r\n", "end", 2],
        {"odd_chunk": 2}),
    "a damaged chunk size": (
        [(0, GET), (1, CHUNKED + b"2\r\nhi\r\nzwei\r\n")],
        ["request", GET, "end", 0],
        ["response", CHUNKED, "framing", b"2\r\n", "body", b"hi", "framing", b"\r\n", "end!", 2, "other", b"zwei\r\n"],
        {"bad_chunk": 1}),
    "a chunk longer than its size": (
        [(0, GET), (1, CHUNKED + b"2\r\nhim")],
        ["request", GET, "end", 0],
        ["response", CHUNKED, "framing", b"2\r\n", "body", b"hi", "end!", 2, "other", b"m"], {"bad_chunk": 1}),
    "a chunk size beyond 2^62": (
        [(0, GET), (1, CHUNKED + b"fffffffffffffffff\r\n")],
        ["request", GET, "end", 0],
        ["response", CHUNKED, "framing", b"f" * 15, "end!", 0, "other", b"ff\r\n"], {"bad_chunk": 1}),
    "cut in the start line": (
        [(0, b"GET / HT"), (0, None)], ["other", b"GET / HT"], [], {}),
    "cut in the head": (
        [(0, GET[:-2]), (0, None)], ["request!", GET[:-2], "end!", 0], [], {}),
    "cut in the body": (
        [(1, OK5 + b"hel"), (1, None)], [], ["response", OK5, "body", b"hel", "end!", 3], {"response_first": 1}),
    "cut in a chunk": (
        [(1, CHUNKED + b"5\r\nhel"), (1, None)], [],
        ["response", CHUNKED, "framing", b"5\r\n", "body", b"hel", "end!", 3], {"response_first": 1}),
    "cut behind the last chunk": (
        [(1, CHUNKED + b"3\r\nhel\r\n0\r\n"), (1, None)], [],
        ["response", CHUNKED, "framing", b"3\r\n", "body", b"hel", "framing", b"\r\n0\r\n", "end", 3],
        {"response_first": 1}),
    "cut in a trailer": (
        [(1, CHUNKED + b"0\r\nA: b\r\n"), (1, None)], [],
        ["response", CHUNKED, "framing", b"0\r\n", "trailer!", b"A: b\r\n", "end!", 0], {"response_first": 1}),
    "a response before its request": (
        [(1, OK5 + b"hello" + OK5 + b"again"), (0, GET + GET + HEAD), (1, OK5 + OK5)],
        ["request", GET, "end", 0, "request", GET, "end", 0, "request", HEAD, "end", 0],
        ["response", OK5, "body", b"hello", "end", 5, "response", OK5, "body", b"again", "end", 5,
         "response", OK5, "end", 0, "response", OK5], {"response_first": 3}),
    "a response to HEAD before its request": (
        [(1, OK5), (0, HEAD), (1, OK0)],
        ["request", HEAD, "end", 0], ["response", OK5, "end", 0, "response", OK0, "end", 0],
        {"response_first": 2}),
    "a response to CONNECT before its request": (
        [(1, OK + b"\r\n"), (0, CONNECT + b"secret"), (1, b"opaque")],
        ["request", CONNECT, "end", 0, "other", b"secret"],
        ["response", OK + b"\r\n", "end", 0, "other", b"opaque"], {"response_first": 1}),
    "a gap in a body of known length": (
        [(0, GET), (1, OK5 + b"h"), (1, 3), (1, b"o" + OK0), (1, None)],
        ["request", GET, "end", 0],
        ["response", OK5, "body", b"h", "gap", 3, "body", b"o", "end!", 2, "response", OK0, "end", 0],
        {"response_first": 1}),
    "a gap that ends with the body": (
        [(0, GET), (1, OK5), (1, 5), (1, OK0)],
        ["request", GET, "end", 0],
        ["response", OK5, "gap", 5, "end!", 0, "response", OK0, "end", 0], {"response_first": 1}),
    "a gap beyond the body": (
        [(0, GET), (1, OK5), (1, 9), (1, OK0)],
        ["request", GET, "end", 0],
        ["response", OK5, "gap", 5, "end!", 0, "gap", 4, "response", OK0, "end", 0],
        {"gap_past_message": 1, "resync": 1, "response_first": 1}),
    "a gap in a chunk": (
        [(0, GET), (1, CHUNKED + b"4\r\na"), (1, 2), (1, b"d\r\n4\r\n"), (1, 4), (1, b"\r\n0\r\n\r\n")],
        ["request", GET, "end", 0],
        ["response", CHUNKED, "framing", b"4\r\n", "body", b"a", "gap", 2, "body", b"d", "framing", b"\r\n4\r\n",
         "gap", 4, "framing", b"\r\n0\r\n\r\n", "end!", 2], {}),
    "a gap in chunk framing": (
        [(0, GET), (1, CHUNKED + b"4\r\nabcd"), (1, 5), (1, b"abcd\r\n0\r\n\r\n"), (1, OK0)],
        ["request", GET, "end", 0],
        ["response", CHUNKED, "framing", b"4\r\n", "body", b"abcd", "end!", 4, "gap", 5,
         "other", b"abcd\r\n0\r\n\r\n", "response", OK0, "end", 0],
        {"gap_in_framing": 1, "resync": 1, "response_first": 1}),
    "a gap until the connection closes": (
        [(0, GET), (1, OK + b"\r\nab"), (1, 7), (1, b"cd"), (1, None)],
        ["request", GET, "end", 0],
        ["response", OK + b"\r\n", "body", b"ab", "gap", 7, "body", b"cd", "end!", 4], {}),
    "a gap in a head": (
        [(0, GET[:20]), (0, 8), (0, GET)],
        ["request!", GET[:20], "end!", 0, "gap", 8, "request", GET, "end", 0], [],
        {"gap_in_head": 1, "resync": 1}),
    "a gap in a start line": (
        [(0, b"GET /ab"), (0, 8), (0, b" HTTP/1.1\r\n\r\n"), (0, GET)],
        ["other", b"GET /ab", "gap", 8, "other", b" HTTP/1.1\r\n\r\n", "request", GET, "end", 0], [], {"resync": 1}),
    "a gap in a tunnel": (
        [(0, CONNECT), (1, OK + b"\r\n"), (0, 3), (0, GET)],
        ["request", CONNECT, "end", 0, "gap", 3, "other", GET], ["response", OK + b"\r\n", "end", 0], {}),
    "a gap that swallows requests": (
        [(0, GET), (1, OK0), (0, 99), (1, OK0 + OK0), (0, HEAD), (1, OK5 + OK5)],
        ["request", GET, "end", 0, "gap", 99, "request", HEAD, "end", 0],
        ["response", OK0, "end", 0] * 3 + ["response", OK5, "end", 0, "response", OK5],
        {"resync": 1, "response_first": 3}),
    "a gap that swallows responses": (
        [(0, GET), (0, GET), (0, HEAD), (1, 99), (1, OK5 + OK0)],
        ["request", GET, "end", 0] * 2 + ["request", HEAD, "end", 0],
        ["gap", 99, "response", OK5, "end", 0, "response", OK0, "end", 0],
        {"resync": 1, "response_first": 1}),
    "begun in mid-stream": (
        [(1, b"</html>\r\n" + OK0), (1, OK0), (0, b"=1&b=2"), (0, GET)],
        ["other", b"=1&b=2", "request", GET, "end", 0],
        ["other", b"</html>\r\n" + OK0, "response", OK0, "end", 0],
        {"not_http": 2, "resync": 2, "response_first": 1}),
}
# What a piece's start decides cannot be the same at every cut.
UNSYNCED = {"other protocols", "begun in mid-stream", "a gap in chunk framing", "a gap in a start line"}


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    steps, a, b, counters = CASES[name]
    decoder, records = play(steps)
    assert (tell(records, 0), tell(records, 1)) == (a, b)
    assert decoder.counters == counters


@pytest.mark.parametrize("name", sorted(CASES.keys() - UNSYNCED))
def test_case_at_every_cut(name):
    steps, a, b, counters = CASES[name]
    for index, (direction, piece) in enumerate(steps):
        if isinstance(piece, bytes):
            for cut in range(1, len(piece)):
                cuts = [(direction, piece[:cut]), (direction, piece[cut:])]
                decoder, records = play(steps[:index] + cuts + steps[index + 1:])
                assert (tell(records, 0), tell(records, 1)) == (a, b), cut
                assert decoder.counters == counters, cut


@pytest.mark.parametrize("name", sorted(CASES.keys() - UNSYNCED))
def test_case_byte_by_byte(name):
    steps, a, b, counters = CASES[name]
    single = []
    for direction, piece in steps:
        whole = [piece] if not isinstance(piece, bytes) else [bytes([byte]) for byte in piece]
        single += [(direction, part) for part in whole]
    decoder, records = play(single)
    assert (tell(records, 0), tell(records, 1)) == (a, b)
    assert decoder.counters == counters


def test_values_flags_and_times():
    recorder = Recorder(HttpDecoder())
    recorder.feed(0, b"FROB / HTTP/1.1\r\n\r\nPATCH / HTTP/1.1\r\nContent-Length: 4\r\n\r\nab", ts=7)
    recorder.feed(0, b"cd", ts=9)
    recorder.feed(1, b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", ts=11)
    assert [(KINDS[r.kind], r.message, r.value, r.ts, r.flags) for r in recorder.records] == [
        ("request", 0, 0, 7, 0), ("end", 0, 0, 7, 0), ("request", 1, METHODS.index("PATCH"), 7, 0),
        ("body", 1, 0, 7, 0), ("body", 1, 2, 9, 0), ("end", 1, 4, 9, 0),
        ("response", 0, 404, 11, 0), ("end", 0, 0, 11, 0)]


def test_a_stream_that_begins_elsewhere():
    recorder = Recorder(HttpDecoder())
    assert [(r.off, r.start, r.end) for r in recorder.feed(0, GET, offset=1 << 40)] == [
        (0, 1 << 40, (1 << 40) + len(GET)), (len(GET), (1 << 40) + len(GET), (1 << 40) + len(GET))]


# ------------------------------------------------------------------------------------- limits

LIMIT = 65536


@pytest.mark.parametrize("pieces", [1, 2, 7])
@pytest.mark.parametrize("extra, fits", [(0, True), (1, False)])
def test_the_limit_of_a_head(pieces, extra, fits):
    head = b"GET / HTTP/1.1\r\nA: " + b"x" * (LIMIT + extra - 23) + b"\r\n\r\n"
    assert len(head) == LIMIT + extra
    size = -(-len(head) // pieces)
    decoder, records = play([(0, head[i:i + size]) for i in range(0, len(head), size)] + [(0, GET)])
    if fits:
        assert tell(records, 0) == ["request", head, "end", 0, "request", GET, "end", 0]
    else:
        assert tell(records, 0) == ["other", head, "request", GET, "end", 0]
        assert decoder.counters == {"head_too_large": 1, "resync": 1}


def test_a_start_line_without_end_is_not_held_beyond_the_limit():
    decoder, records = play([(0, b"GET /"), *[(0, b"x" * 5000)] * 14])
    assert tell(records, 0) == ["other", b"GET /" + b"x" * 70000]
    assert decoder.counters == {"head_too_large": 1}


def test_the_limit_of_fields():
    head = b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 256 + b"\r\n"
    assert tell(play([(0, head)])[1], 0) == ["request", head, "end", 0]
    head = b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 257 + b"\r\n"
    for steps in ([(0, head), (0, GET)], [(0, head[:99]), (0, head[99:]), (0, GET)]):
        decoder, records = play(steps)
        assert tell(records, 0) == ["other", head, "request", GET, "end", 0]
        assert decoder.counters == {"too_many_fields": 1, "resync": 1}


def test_the_limit_of_a_chunk_size_line():
    line = b"1;" + b"x" * (4096 - 4) + b"\r\n"
    assert len(line) == 4096
    story = tell(play([(1, CHUNKED + line + b"y")])[1], 1)
    assert story[2:] == ["framing", line, "body", b"y"]
    decoder, records = play([(1, CHUNKED + b"1;x" + line[2:] + b"y")])
    assert tell(records, 1)[2:] == ["framing", b"1;x" + line[2:-1], "end!", 0, "other", b"\ny"]
    assert decoder.counters["chunk_line_too_long"] == 1


@pytest.mark.parametrize("size", [1 << 20, 999])
def test_the_limit_of_a_trailer(size):
    text = CHUNKED + b"0\r\n" + b"A: b\r\n" * 12000
    decoder, records = play([(1, text[i:i + size]) for i in range(0, len(text), size)])
    assert tell(records, 1) == ["response", CHUNKED, "framing", b"0\r\n", "end!", 0, "other", b"A: b\r\n" * 12000]
    assert decoder.counters["trailer_too_large"] == 1


def test_pairing_remembers_heads_beyond_many_requests_and_forgets_beyond_1024():
    decoder, records = play([(0, GET * 5000 + HEAD), (1, OK0 * 5000 + OK5 + OK0)])
    assert tell(records, 1) == ["response", OK0, "end", 0] * 5000 + [
        "response", OK5, "end", 0, "response", OK0, "end", 0]
    assert decoder.counters == {"response_first": 1}
    decoder, records = play([(0, HEAD * 1025), (1, OK5 * 1025 + b"hello")])
    assert tell(records, 1) == ["response", OK5, "end", 0] * 1024 + ["response", OK5, "body", b"hello", "end", 5]
    assert decoder.counters == {"pending_overflow": 1}


def test_every_reason_is_met_by_a_test_of_this_file():
    met = set()
    for _, _, _, counters in CASES.values():
        met |= counters.keys()
    met |= {"head_too_large", "too_many_fields", "chunk_line_too_long", "trailer_too_large", "pending_overflow"}
    assert met == REASONS.keys()


# ------------------------------------------------------------------------------------- properties

EXCHANGES = [GET, POST + b"Content-Length: 3\r\n\r\nabc", HEAD,
             POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: 1\r\n\r\n"]
ANSWERS = [OK5 + b"hello", CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", OK5, b"HTTP/1.1 100 Go\r\n\r\n" + OK0]


@given(st.permutations(range(8)))
def test_any_order_of_arrival_in_which_requests_come_first(order):
    # Step i < 4 is request i, 4 + i its answer; each direction stays in its own order.
    requests, answers = iter(EXCHANGES), iter(ANSWERS)
    steps, asked, answered = [], 0, 0
    for step in order:
        if step >= 4 and answered < asked:
            steps.append((1, next(answers)))
            answered += 1
        elif asked < 4:
            steps.append((0, next(requests)))
            asked += 1
    steps += [(0, piece) for piece in requests] + [(1, piece) for piece in answers]
    straight = [(0, piece) for piece in EXCHANGES] + [(1, piece) for piece in ANSWERS]
    decoder, records = play(steps)
    _, expected = play(straight)
    assert (tell(records, 0), tell(records, 1)) == (tell(expected, 0), tell(expected, 1))
    assert decoder.counters == {}


FRAGMENTS = st.sampled_from([
    GET, HEAD, POST, CONNECT, OK, OK0, OK5, CHUNKED, b"\r\n", b"\n", b"\r", b"hello", b"5\r\n", b"0\r\n", b"0\r\n\r\n",
    b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"HTTP/1.1 101 X\r\n\r\n", b" ", b":", b"\x00", b"GET",
    b"HTTP/", b"ffff", b";", b"A: b\r\n"]) | st.binary(max_size=8)
STEPS = st.lists(st.tuples(st.integers(0, 1), FRAGMENTS | st.integers(1, 40) | st.none()), max_size=40)


@given(STEPS)
def test_anything_at_all_gives_every_byte_once_and_never_raises(steps):
    decoder, _ = play(steps + [(0, None), (1, None)])
    assert set(decoder.counters) <= set(REASONS)


@given(st.lists(FRAGMENTS, max_size=12), st.data())
def test_bytes_in_sync_are_told_the_same_at_any_cuts(fragments, data):
    text = b"".join(fragments)
    decoder, records = play([(0, text)])
    if decoder.unsynced or decoder.counters.keys() & {"resync", "not_http", "bad_chunk", "bad_coding", "bad_length"}:
        return                      # where sync is lost, a piece's start may find it again
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=9)) | {0, len(text)})
    _, again = play([(0, text[a:b]) for a, b in itertools.pairwise(cuts)])
    assert tell(records, 0) == tell(again, 0)


# ------------------------------------------------------------------------------------- Python's view

PROBES = [
    (b"GET / HTTP/1.1\r\n", True), (b"GET /", None), (b"G", None), (b"\r\n", None), (b"\r\nPOST /x HTTP/1.0\n", True),
    (b"GET /" + b"x" * 80, True), (b"GET /\x00" + b"x" * 80, False), (b"CONNECT a:443 HTTP/1.1\r\n", True),
    (b"FROB /a HTTP/1.1\r\n", True), (b"FROB /" + b"a" * 80, False), (b"HTTP/1.1 200 OK", True), (b"HTTP/1.1 2", None),
    (b"HTTP/1.0 302\r\n", True), (b"HTTP/1.1 abc\r\n", None), (b"GET/HTTP/1.1\nHost: a\n", None),
    (b"GET /\r\n", True), (b"OPTIONS\r\n", True),
    (b"GET /HTTP/1.1\nHost: a\n", True), (b"OPTIONS sip:a@b SIP/2.0\r\n", False), (b"OPTIONS * RTSP/1.0\r\n", False),
    (b"SIP/2.0 200 OK\r\n", False), (b"RTSP/1.0 200 OK\r\n", False), (b"SSH-2.0-OpenSSH_9\r\n", False),
    (b"220 mail ESMTP\r\n", False), (b"EHLO a\r\n", False), (b"USER a\r\n", False), (b"SEARCH ALL\r\n", False),
    (b"COPY 1:2 box\r\n", False), (b"\x16\x03\x01\x02\x00\x01", False), (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", False),
    (b"\x00", False), (b"</html>", False), (b"", None),
]


@pytest.mark.parametrize("data, expected", PROBES)
def test_probe(data, expected):
    assert HttpDecoder.probe(memoryview(data)[:64], 0, 80) is expected


def test_the_view_of_a_head():
    head = parse_head(b"POST /a?b HTTP/1.1\r\nHost: h.example\r\nContent-Length: 12\r\nTransfer-Encoding: gzip\r\n"
                      b"TRANSFER-ENCODING: chunked;q=1\r\nContent-Encoding: br\r\nUpgrade: h2c\r\nX: a\r\n\t b\r\n"
                      b" \r\nnonsense\r\n more of it\r\nY : c \r\n\r\nbody: no field\r\n")
    assert (head.kind, head.version, head.method, head.uri) == ("request", "HTTP/1.1", "POST", "/a?b")
    assert (head.status, head.reason) == (None, None)
    assert (head.host, head.content_length, head.chunked) == ("h.example", 12, True)
    assert (head.transfer_encoding, head.content_encoding, head.upgrade) == ("gzip, chunked;q=1", "br", "h2c")
    assert head.headers[-2:] == [(b"X", b"a b"), (b"Y", b"c")]
    assert (head.get("x"), head.get(b"Y"), head.get("z"), head.get("z", b"?")) == (b"a b", b"c", None, b"?")
    assert repr(head) == "<HttpHead POST /a?b HTTP/1.1>"
    with pytest.raises(AttributeError):
        head.method = "GET"


def test_the_view_of_a_response_and_of_odd_lines():
    head = parse_head(b"HTTP/1.0 404 Not  Found\nContent-Length: 5, 7\n\n")
    assert (head.kind, head.version, head.status, head.reason) == ("response", "HTTP/1.0", 404, "Not  Found")
    assert (head.content_length, head.chunked, head.host) == (5, False, None)
    assert parse_head(b"HTTP/1.1 200\r\n\r\n").reason == ""
    assert parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n").content_length is None
    head = parse_head(b"GET /a b HTTP/1.1\r\n\r\n")
    assert (head.uri, head.version) == ("/a b", "HTTP/1.1")
    head = parse_head(b"OPTIONS HTTP/1.1\n")
    assert (head.uri, head.version) == ("HTTP/1.1", "")
    assert parse_head(b"no head\r\n\r\n") is None
    assert parse_head(b"") is None


def test_describe():
    decoder = HttpDecoder()
    kinds = {word: kind for kind, word in KINDS.items()}
    assert decoder.describe(kinds["request"], GET).host == "a"
    assert decoder.describe(kinds["response"], OK0).status == 200
    assert decoder.describe(kinds["trailer"], b"A: b\r\nC: d\r\n e\r\n\r\n") == [(b"A", b"b"), (b"C", b"d e")]
    assert decoder.describe(kinds["body"], b"x") is None


@given(st.binary(max_size=60) | st.builds(lambda line, rest: line + rest, st.sampled_from([GET, OK0]), st.binary()))
def test_the_view_never_raises(data):
    head = parse_head(data)
    if head is not None:
        assert head.kind in HEADS
        assert head.content_length is None or head.content_length >= 0
        assert isinstance(head.chunked, bool)
