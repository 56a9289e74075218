"""The logging modules tell what tshark tells of the same captures: HTTP exchanges, DNS, TLS handshakes."""
import collections
import json
import subprocess

import pytest

import flowos
from conversations import datagram, exchange, records, save
from flowos.modules.dns_log import DnsLog
from flowos.modules.http_log import HttpLog
from flowos.modules.tls_log import TlsLog
from models.talk import Talk

HTTP_CAPTURES = ["zeek_http-methods.pcap", "zeek_http-100-continue.pcap", "zeek_http-pipelined-requests.pcap",
                 "pcapplusplus_many-protocols.pcap"]
DNS_CAPTURES = ["pcapplusplus_DnsPackets.pcap", "ndpi_dns_fragmented.pcap", "pcapplusplus_many-protocols.pcap"]
TLS_CAPTURES = ["pcapplusplus_many-protocols.pcap", "ndpi_alexa-app.pcapng", "zeek_tls-tls1.2.pcap"]


def logged(module, *paths, **config):
    """Run captures through a logging module; give its records."""
    found = []
    module.emit = found.append
    with flowos.Engine(flowos.Config.offline(**config)) as engine:
        for path in paths:
            engine.add_port(path)
        engine.attach(module)
        engine.run()
    return found


def tshark_fields(tshark, path, display, *names):
    """Let tshark list fields of the packets that a display filter takes: one dict of lists per packet."""
    done = subprocess.run([tshark, "-r", path, "-Y", display, "-T", "json", "-2",
                           *[part for name in names for part in ("-e", name)]],
                          capture_output=True, text=True, timeout=300, check=False)
    return [packet["_source"]["layers"] for packet in json.loads(done.stdout)]


@pytest.mark.parametrize("name", HTTP_CAPTURES)
def test_http_requests_and_their_answers_are_tsharks(shared_pcaps, tshark, name):
    path = shared_pcaps / name
    ours = logged(HttpLog(), path)
    theirs = tshark_fields(tshark, path, "http.request and tcp", "http.request.method", "http.request.uri", "http.host",
                           "http.response_in", "frame.number")
    expected = collections.Counter((method, uri) for packet in theirs for method, uri in zip(
        packet.get("http.request.method", []), packet.get("http.request.uri", []), strict=True))
    told = collections.Counter((record["method"], record["uri"]) for record in ours if record["method"])
    assert expected - told == collections.Counter()
    # tshark waits for whole bodies and may miss a message; what it pairs, we pair with the same status.
    answers = {packet["frame.number"][0]: packet["http.response.code"] for packet in tshark_fields(
        tshark, path, "http.response and tcp", "http.response.code", "frame.number")}
    pairs = collections.Counter()
    for packet in theirs:
        where = packet.get("http.response_in", [])
        if len(where) == len(packet["http.request.uri"]) == 1 and len(answers.get(where[0], ())) == 1:
            pairs[packet["http.request.uri"][0], int(answers[where[0]][0])] += 1
    assert pairs
    ours_paired = collections.Counter(
        (record["uri"], status) for record in ours if record["method"]
        for status in (*record["informational"], record["status"]))
    assert pairs - ours_paired == collections.Counter()


def test_a_response_that_is_lent_before_its_request_is_still_its_answer(tmp_path):
    talk = Talk()
    talk.open()
    first, second = b"GET /1 HTTP/1.1\r\n\r\n", b"GET /2 HTTP/1.1\r\n\r\n"
    answer, other = (b"HTTP/1.1 %d OK\r\nContent-Length: 2\r\n\r\nok" % status for status in (200, 201))
    talk.a(0, first, ack=0).b(0, answer[:30], ack=len(first))
    # One delivery more for every unit: the rest of the first answer opens the next one.
    talk.b(30, answer[30:], ack=len(first)).a(len(first), second, ack=len(answer))
    talk.b(len(answer), other, ack=len(first + second))
    path = save(tmp_path, records(talk))
    for units in range(1, 12):
        ours = logged(HttpLog(), path, deliver_units=units, batch=1)
        assert [(record["uri"], record["status"]) for record in ours] == [("/1", 200), ("/2", 201)]


def test_a_response_without_a_request_and_a_request_without_a_response_are_told(tmp_path):
    orphan = exchange(request=b"", response=b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx")
    silent = exchange(request=b"GET /lost HTTP/1.0\r\nHost: h\r\n\r\n", response=b"", a=("10.0.0.9", 1))
    ours = logged(HttpLog(), save(tmp_path, [*orphan, *silent]))
    assert sorted((record["uri"], record["status"], record["complete"]) for record in ours if record["uri"]) == [
        ("/lost", None, False)]
    assert [(record["status"], record["response_bytes"]) for record in ours if not record["uri"]] == [(200, 1)]


def test_informational_answers_come_before_the_answer(tmp_path):
    response = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 201 Made\r\nContent-Length: 0\r\n\r\n"
    request = b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nUser-Agent: u\r\n\r\nabc"
    record, = logged(HttpLog(), save(tmp_path, exchange(request, response)))
    assert (record["informational"], record["status"], record["reason"]) == ([100, 103], 201, "Made")
    assert (record["request_bytes"], record["user_agent"], record["complete"]) == (3, "u", True)
    assert record["duration"] > 0


@pytest.mark.parametrize("name", DNS_CAPTURES)
def test_dns_questions_and_answers_are_tsharks(shared_pcaps, tshark, name):
    path = shared_pcaps / name
    ours = logged(DnsLog(), path)
    packets = tshark_fields(tshark, path, "(dns or mdns or llmnr) and not icmp and not icmpv6", "dns.id", "dns.flags.response",
                            "dns.qry.name", "dns.flags.rcode", "dns.time", "dns.a", "dns.aaaa",
                            "dns.resp.type", "dns.count.answers")
    asked = collections.Counter((int(packet["dns.id"][0], 16), packet.get("dns.qry.name", [None])[0])
                                for packet in packets if packet["dns.flags.response"][0] in ("0", "False"))
    told = collections.Counter((record["id"], record["qname"]) for record in ours
                               if record["rtt"] is not None or record["rcode"] is None)
    assert asked == told
    assert sum(asked.values()) > 10
    # Round-trip times: tshark's, where it pairs (it does not pair repeated questions one by one).
    times = collections.Counter((int(packet["dns.id"][0], 16), round(float(packet["dns.time"][0]), 6))
                                for packet in packets if "dns.time" in packet)
    ours_times = collections.Counter((record["id"], round(record["rtt"], 6)) for record in ours if record["rtt"] is not None)
    assert sum((times & ours_times).values()) >= 0.95 * sum(times.values())
    addresses = collections.Counter()
    for packet in packets:             # the lists go through all sections, answers first
        kinds = packet.get("dns.resp.type", [])[:int(packet["dns.count.answers"][0])]
        addresses.update(packet.get("dns.a", [])[:kinds.count("1")])
        addresses.update(packet.get("dns.aaaa", [])[:kinds.count("28")])
    texts = collections.Counter(text for record in ours for text in record["answers"])
    assert addresses - texts == collections.Counter()
    assert sum(addresses.values()) > 0


def test_an_answer_under_a_name_that_is_too_long_is_told(tmp_path):
    question, record = bytes.fromhex("0161036f72670000010001"), bytes.fromhex("00010001000000090004c0000201")
    owner = (b"\x3f" + b"x" * 63) * 4 + b"\x00"          # 257 bytes: RFC 1035 section 2.3.4 allows 255
    query = bytes.fromhex("123401000001000000000000") + question
    answer = bytes.fromhex("123481800001000200000000") + question + owner + record + b"\xc0\x0c" + record
    a, b = ("10.0.0.1", 40000), ("10.0.0.2", 53)
    told, = logged(DnsLog(), save(tmp_path, [datagram(query, a, b), datagram(answer, b, a, at=1000)]))
    assert (told["answers"], told["ttl"], told["rtt"]) == (["192.0.2.1", "192.0.2.1"], 9, 1e-6)


@pytest.mark.parametrize("name", TLS_CAPTURES)
def test_tls_handshakes_are_tsharks(shared_pcaps, tshark, name):
    path = shared_pcaps / name
    ours = logged(TlsLog(), path)
    asked = tshark_fields(tshark, path, "tls.handshake.type == 1 and tcp", "tls.handshake.extensions_server_name")
    names = collections.Counter(packet.get("tls.handshake.extensions_server_name", [None])[0] for packet in asked)
    told = collections.Counter(record["sni"] for record in ours if record["versions"])
    assert names == told
    answers = tshark_fields(tshark, path, "tls.handshake.type == 2 and tcp", "tls.handshake.ciphersuite")
    # A packet may hold both hellos' bytes reassembled; the server's choice is its only suite.
    suites = collections.Counter(packet["tls.handshake.ciphersuite"][0] for packet in answers
                                 if len(packet["tls.handshake.ciphersuite"]) == 1)
    chosen = collections.Counter(record["cipher"] for record in ours if record["cipher"])
    assert suites - chosen == collections.Counter()
    assert any(record["answered"] for record in ours)


def test_what_is_never_answered_takes_no_memory(tmp_path):
    from flowos.exchanges import MOST_WAITING

    requests = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n" * (MOST_WAITING + 500)
    log = HttpLog()
    before_the_end = []
    log.emit = before_the_end.append
    with flowos.Engine(flowos.Config.offline(deliver_units=4)) as engine:
        engine.add_port(save(tmp_path, exchange(requests, b"", close=False)))
        engine.attach(log)
        while engine.step() and not engine.finished:
            assert all(len(talk.waiting) <= MOST_WAITING for talk in log.talks.values())
    assert len(before_the_end) == MOST_WAITING + 500


def test_a_question_asked_again_and_again_is_told(tmp_path):
    query = bytes.fromhex("1234010000010000000000000161036f72670000010001")
    packets = [datagram(query, b=("10.0.0.2", 53), at=number * 1000) for number in range(100)]
    ours = logged(DnsLog(), save(tmp_path, packets))
    assert [record["rcode"] for record in ours] == [None] * 100
    assert [record["ts"] for record in ours] == sorted(record["ts"] for record in ours)
