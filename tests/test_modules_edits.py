"""The editing modules on real captures: streams are what a plain replacement makes of them, tshark finds nothing new."""
import collections
import re

import pytest

import flowos
from anomalies import anomalies, new_anomalies
from conversations import datagram, save
from flowos.modules.http_header import HttpHeader
from flowos.modules.http_strip import AskIdentity, HttpStrip
from flowos.modules.pattern_count import PatternCount
from flowos.modules.replace import Replace
from flowos.testing import run

REQUEST = b"GET /a HTTP/1.1\r\nHost: h.example\r\nAccept-Encoding: gzip, br\r\nCookie: a=b\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length: 5\r\n\r\nhello"


def edited(folder, source, *modules, match="any"):
    """Run a capture through modules in line; give the output's path."""
    target = folder / f"out{source.suffix}"
    with flowos.Engine(flowos.Config.offline()) as engine:
        engine.add_port(source)
        engine.add_output(target)
        engine.create_flow("edited", match)
        for module in modules:
            engine.attach(module, "edited")
        engine.run()
    return target


def streams(path):
    """Give both streams of every TCP connection with data, by its ends and place among those of these ends."""
    found, number = {}, collections.Counter()
    for connection in flowos.open(path, match="tcp"):
        ends = (connection.a, connection.b)
        number[ends] += 1
        found[ends, number[ends]] = (connection.a_to_b.read(), connection.b_to_a.read())
    return found


@pytest.mark.parametrize("name, pattern, replacement", [
    ("pcapplusplus_many-protocols.pcap", b"HTTP", b"XTTP"),
    ("zeek_http-methods.pcap", b"google", b"g"),
    ("zeek_http-methods.pcap", b"<", b"&lt;"),
    ("zeek_smtp.pcap", b"\r\n", b"\n"),
    ("zeek_ftp-ipv4.pcap", b"226", b"226 really"),
    ("peafowl_tcp_resegment-http_out_of_order_1.pcap", b"a", b""),
])
def test_streams_are_replaced_and_tshark_finds_nothing_new(shared_pcaps, tshark, tmp_path, name, pattern, replacement):
    source = shared_pcaps / name
    target = edited(tmp_path, source, Replace(pattern, replacement), match="tcp")
    before, after = streams(source), streams(target)
    assert after == {key: tuple(stream.replace(pattern, replacement) for stream in pair) for key, pair in before.items()}
    assert any(pattern in stream for pair in before.values() for stream in pair)
    # Where a capture has acknowledgements in front of the bytes they are about, they left before the edit was known.
    early = {"ack_lost_segment": 1} if name == "peafowl_tcp_resegment-http_out_of_order_1.pcap" else {}
    assert new_anomalies(tshark, source, target) == early


def test_the_anomaly_check_can_fail(shared_pcaps, tshark, tmp_path):
    source = shared_pcaps / "zeek_smtp.pcap"
    data = bytearray(source.read_bytes())
    at = data.find(b"MAIL FROM")
    data[at] ^= 1
    (tmp_path / "bad.pcap").write_bytes(data)
    assert new_anomalies(tshark, source, tmp_path / "bad.pcap")["tcp.checksum.status"] == 1
    assert anomalies(tshark, shared_pcaps / "arkime_wireshark-retrans.pcap")["retransmission"] > 0


def test_nothing_to_replace_leaves_the_capture_as_it_is(shared_pcaps, tmp_path):
    source = shared_pcaps / "pcapplusplus_many-protocols.pcap"
    target = edited(tmp_path, source, Replace(b"no such bytes anywhere", b"x"))
    # Bytes that may begin a match are held for a moment, so a packet may leave later; but as it is.
    before, after = (collections.Counter(bytes(slot.data) for slot in ring(path)) for path in (source, target))
    assert before == after


def ring(path):
    """Yield the slots of a capture."""
    from flowos.core.ports import open_port

    port = open_port(path)
    while port.rx_sync() or not port.ended:
        yield from port.rx_ring
        port.rx_ring.head = port.rx_ring.cur = port.rx_ring.tail


@pytest.mark.parametrize("direction, expected", [
    ("both", (b"-<--", b"<-")), ("a_to_b", (b"-<--", b"<aa")), ("b_to_a", (b"aa<aaaa", b"<-"))])
def test_one_direction_or_both_at_every_cut(direction, expected):
    done = run(Replace, a=b"aa<aaaa", b=b"<aa", reorder=3, pattern=b"aa", replacement=b"-", direction=direction)
    assert (done.a, done.b) == expected


def test_datagrams_are_replaced_one_by_one(tmp_path):
    source = save(tmp_path, [datagram(b"one two"), datagram(b"two"), datagram(b"tw"), datagram(b"o")])
    target = edited(tmp_path, source, Replace(b"two", b"three", "udp"))
    connection, = flowos.open(target)
    assert connection.a_to_b.read() == b"one threethreetwo"


def test_counts_are_those_of_the_streams(shared_pcaps):
    source = shared_pcaps / "pcapplusplus_many-protocols.pcap"
    patterns = [b"HTTP/1.1", b"GET ", b"\x00\x00"]
    every = [stream for pair in streams(source).values() for stream in pair]
    for chosen in ([patterns[0]], patterns):
        records, count = [], PatternCount(chosen)
        count.emit = records.append
        with flowos.Engine(flowos.Config.offline()) as engine:
            engine.add_port(source)
            engine.attach(count)
            engine.run()
        oracle = re.compile(b"|".join(map(re.escape, chosen)))
        expected = collections.Counter(match[0] for stream in every for match in oracle.finditer(stream))
        assert count.totals == [expected[pattern] for pattern in chosen]
        assert sum(sum(record["a_to_b"].values()) + sum(record["b_to_a"].values()) for record in records) == sum(count.totals)


def test_a_pattern_is_counted_at_every_cut():
    done = run(PatternCount, a=b"abcabcab" * 3, b=b"xabc", patterns=[b"abcab", b"bca"], reorder=5)
    record, = done.records
    found = collections.Counter(re.findall("abcab|bca", "abcabcab" * 3))
    assert record["a_to_b"] == {"abcab": found["abcab"], "bca": found["bca"]} == {"abcab": 3, "bca": 0} | dict(found)
    assert record["b_to_a"] == {"abcab": 0, "bca": 0}


@pytest.mark.parametrize("parameters, expected", [
    ({"set": ["cookie: c=d"]}, REQUEST.replace(b"Cookie: a=b", b"cookie: c=d")),
    ({"set": ["Via: me"]}, REQUEST[:-2] + b"Via: me\r\n\r\n"),
    ({"remove": ["COOKIE", "accept-encoding"]}, b"GET /a HTTP/1.1\r\nHost: h.example\r\n\r\n"),
    ({"add": ["Cookie: e=f"]}, REQUEST[:-2] + b"Cookie: e=f\r\n\r\n"),
    ({"set": ["X: y"], "host": "h.example"}, REQUEST[:-2] + b"X: y\r\n\r\n"),
    ({"set": ["X: y"], "host": "other"}, REQUEST),
])
def test_header_fields_at_every_cut(parameters, expected):
    done = run(HttpHeader, a=REQUEST, b=ANSWER, cuts=[1, 20, 40, 60, 70], reorder=1, **parameters)
    assert (done.a, done.b) == (expected, ANSWER)


def test_header_fields_of_responses_and_pipelined_requests():
    done = run(HttpHeader, a=[REQUEST * 3], b=[ANSWER * 3], cuts=[30, 90], on="response", set=["Server: none"])
    assert done.a == REQUEST * 3
    assert done.b == ANSWER.replace(b"nginx", b"none") * 3


def test_folded_and_repeated_fields():
    head = b"GET / HTTP/1.1\r\nX: 1\r\n\tmore\r\nHost: h\r\nx: 2\r\n\r\n"
    done = run(HttpHeader, a=head, b=ANSWER, cuts="none", set=["X: 3"])
    assert done.a == b"GET / HTTP/1.1\r\nX: 3\r\nHost: h\r\n\r\n"


def test_heads_on_a_real_capture(shared_pcaps, tshark, tmp_path):
    source = shared_pcaps / "pcapplusplus_many-protocols.pcap"
    target = edited(tmp_path, source, HttpHeader(remove=["User-Agent"], set=["X-Seen-By: flowos"]))
    before, after = streams(source), streams(target)
    assert after.keys() == before.keys()
    seen = sum(stream.count(b"X-Seen-By: flowos\r\n") for pair in after.values() for stream in pair)
    agents = re.compile(rb"\r\nUser-Agent:[^\r]*", re.I)
    assert seen > 20
    edited_streams = [key for key in before if before[key][0] != after[key][0]]
    for key in edited_streams:
        assert agents.sub(b"", before[key][0]) == agents.sub(b"", after[key][0].replace(b"X-Seen-By: flowos\r\n", b""))
    assert new_anomalies(tshark, source, target) == collections.Counter()


@pytest.mark.parametrize("wrong", [
    {"set": ["no colon"]}, {"set": ["Content-Length: 5"]}, {"remove": ["transfer-encoding"]}, {"remove": ["a b"]}, {},
    {"set": ["A: b\r\nC: d"]}, {"set": ["A: b"], "on": "both"}, {"set": ["A: b"], "on": "response", "host": "h"}])
def test_headers_that_cannot_be_edited_are_refused(wrong):
    with pytest.raises(flowos.UsageError, match="http_header"):
        HttpHeader(**wrong)


def test_wrong_parameters_are_refused():
    for make in (lambda: Replace(b"", b"x"), lambda: Replace(b"a", b"b", direction="up"), lambda: PatternCount([]),
                 lambda: PatternCount([b""]), lambda: HttpStrip(b"")):
        with pytest.raises(flowos.UsageError, match="expected"):
            make()


@pytest.mark.parametrize("asked, expected", [
    (b"Accept-Encoding: gzip\r\n", b"Accept-Encoding: identity\r\n"),
    (b"", b"Accept-Encoding: identity\r\n"),
    (b"accept-encoding: gzip\r\nAccept-Encoding: br\r\n", b"Accept-Encoding: identity\r\n"),
    (b"Accept-Encoding: identity\r\n", b"Accept-Encoding: identity\r\n")])
def test_servers_are_asked_for_identity(asked, expected):
    done = run(AskIdentity, a=b"GET / HTTP/1.1\r\nHost: h\r\n" + asked + b"\r\n", b=ANSWER, cuts=[20, 30])
    assert done.a == b"GET / HTTP/1.1\r\nHost: h\r\n" + expected + b"\r\n"
    assert HttpStrip(identity=True).companions()[0].name == AskIdentity.name and not HttpStrip().companions()


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nab<script\r\n5\r\nscrip\r\n7\r\nt>cdefg\r\n0\r\n\r\n"


def body_of(response):
    """Undo the chunks of a response with a plain reader."""
    head, _, rest = response.partition(b"\r\n\r\n")
    if b"chunked" not in head:
        assert int(re.search(rb"Content-Length: (\d+)", head)[1]) == len(rest)
        return rest
    body = b""
    while True:
        size, _, rest = rest.partition(b"\r\n")
        if int(size, 16) == 0:
            assert rest == b"\r\n"
            return body
        body, rest = body + rest[:int(size, 16)], rest[int(size, 16):]
        assert rest[:2] == b"\r\n"
        rest = rest[2:]


@pytest.mark.parametrize("answer, plain", [
    (CHUNKED.replace(b"8\r\nab<script", b"9\r\nab<script"), b"ab<scriptscript>cdefg"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\nab<script<script>cdefg"[:-1], b"ab<script<script>cdef"),
])
def test_bodies_are_stripped_and_stay_framed(answer, plain):
    done = run(HttpStrip, a=REQUEST, b=answer, cuts=range(40, len(answer), 5), pattern=b"script")
    assert body_of(done.b) == plain.replace(b"script", b"") and done.a == REQUEST


def test_strip_on_a_real_capture(shared_pcaps, tshark, tmp_path):
    source = shared_pcaps / "zeek_http-methods.pcap"
    target = edited(tmp_path, source, HttpStrip(b"google"))
    assert new_anomalies(tshark, source, target) == collections.Counter()
    before, after = streams(source), streams(target)
    assert before.keys() == after.keys() and before != after
    # What is left of the pattern stands in heads, which are none of this module's business.
    for key, (_, answer) in after.items():
        assert b"google" not in answer.partition(b"\r\n\r\n")[2] or b"\r\n\r\n" not in answer, key


def test_the_command_line_attaches_companions(tmp_path, capsys):
    from conversations import exchange
    from flowos.cli import main

    source, target = save(tmp_path, exchange(REQUEST, ANSWER)), tmp_path / "out.pcap"
    assert main(["run", str(source), "-w", str(target), "--attach", "http_strip:pattern=ell,identity=yes#3", "--quiet"]) == 0
    capsys.readouterr()
    connection, = flowos.open(target)
    assert connection.a_to_b.read() == REQUEST.replace(b"gzip, br", b"identity")
    assert connection.b_to_a.read() == ANSWER.replace(b"hello", b"ho").replace(b"Length: 5", b"Length: 2")
