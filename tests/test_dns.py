"""The DNS decoder: messages of the wire, streams at every cut, damage, and who is not DNS.

Messages are built here from RFC 1035; dpkt and scapy read the same ones, and tshark's oracles
say what is in the shared captures, over UDP and TCP, mDNS and LLMNR included.
"""
import collections
import struct
import subprocess

import pytest
from follow import follow, oracle
from hypothesis import given
from hypothesis import strategies as st

from flowos.decoders.dns import DnsDecoder, name_text, parse, read_name

A, NS, TXT, AAAA, OPT = 1, 2, 16, 28, 41


def name(*labels):
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\x00"


def question(labels=(b"www", b"example", b"org"), kind=A, group=1):
    return name(*labels) + struct.pack(">2H", kind, group)


def record(owner, kind, data, ttl=60, group=1):
    return owner + struct.pack(">2HIH", kind, group, ttl, len(data)) + data


def message(*parts, number=0x1234, flags=0x0100, counts=(1, 0, 0, 0)):
    return struct.pack(">6H", number, flags, *counts) + b"".join(parts)


QUERY = message(question())
RESPONSE = message(question(), record(b"\xc0\x0c", A, bytes([192, 0, 2, 1])),
                   record(b"\xc0\x0c", A, bytes([192, 0, 2, 2])), record(b"\x00", OPT, b"", group=1232),
                   flags=0x8583, counts=(1, 2, 0, 1))
SHARED = message(question((b"a", b"example", b"org"), AAAA), b"\x01b\xc0\x0e" + struct.pack(">2H", TXT, 1),
                 counts=(2, 0, 0, 0))


def units(decoder, *steps):
    """Feed (direction, bytes | gap length | None) and give [(kind, info or data)] of all units.

    Checks that each byte is in exactly one unit, in order.
    """
    at, done, told = [0, 0], [0, 0], []
    for direction, what in steps:
        if what is None:
            made = decoder.finish(direction, at[direction], 0)
        elif isinstance(what, int):
            made = decoder.gap(direction, at[direction], what, 0)
            at[direction] += what
        else:
            made = decoder.feed(direction, what, at[direction], 0)
            at[direction] += len(what)
        for unit in made:
            assert unit.start == done[direction] <= unit.end <= at[direction]
            done[direction] = unit.end
            told.append((unit.kind, unit.info or unit.data))
    return told


def lengthy(data):
    """A message as a stream has it: behind its length."""
    return struct.pack(">H", len(data)) + data


def test_a_query():
    (kind, info), = units(DnsDecoder(), (0, QUERY))
    assert kind == "query"
    assert (info.id, info.response, info.opcode, info.rcode) == (0x1234, False, 0, 0)
    assert (info.qnames, info.qtypes, info.qclasses) == (["www.example.org"], [A], [1])
    assert (info.questions, info.answers, info.authorities, info.additionals) == (1, 0, 0, 0)
    assert info.whole and not info.truncated and not info.authoritative
    assert info.data == QUERY


def test_a_response():
    (kind, info), = units(DnsDecoder(), (0, RESPONSE))
    assert (kind, info.response, info.rcode, info.authoritative) == ("response", True, 3, True)
    assert (info.answers, info.additionals) == (2, 1)
    assert [str(rr.rdata) for rr in info.unpack().an] == [str(bytes([192, 0, 2, n])) for n in (1, 2)]


def test_compressed_questions():
    assert parse(SHARED).qnames == ["a.example.org", "b.example.org"]
    assert parse(SHARED).qtypes == [AAAA, TXT]


@pytest.mark.parametrize("labels, text", [
    ((), "<Root>"), ((b"A", b"b-_"), "A.b-_"), ((b"a b",), "a b"), ((b"a.b", b"c"), "a.b.c"), ((b"\xc3\xa9",), "\xe9"),
    ((b"\xff\x00\x01",), "\ufffd\\000\\001"), ((b"tab\t", b"nl\n\x7f"), "tab\\t.nl\\n\\177"),
])
def test_names_are_written_as_tshark_writes_them(labels, text):
    assert name_text(list(labels)) == text
    assert parse(message(question(labels))).qnames == [text]


@pytest.mark.parametrize("questions", [
    b"\x03www\x07exa",                              # breaks off in a label
    name(b"a") + b"\x00",                           # breaks off behind the name
    b"\xc0\x0c\x00\x01\x00\x01",                    # a pointer to itself
    b"\x01a\xc0\x40\x00\x01\x00\x01",               # a pointer forward
    b"\x43abc\x00\x00\x01\x00\x01",                 # a label type of its own
    b"\xc0",                                        # half a pointer
    name(*[b"x" * 63] * 4) + b"\x00\x01\x00\x01",   # 257 bytes
])
def test_a_damaged_question_leaves_the_header_told(questions):
    info = parse(message(questions, counts=(1, 0, 0, 0)))
    assert (info.id, info.questions, info.qnames, info.whole) == (0x1234, 1, [], False)
    decoder = DnsDecoder()
    assert [kind for kind, _ in units(decoder, (0, message(questions)))] == ["query"]
    assert decoder.counters == {"bad_question": 1}


def test_a_name_may_have_255_bytes():
    labels = [b"x" * 63] * 3 + [b"x" * 61]
    assert read_name(name(*labels), 0) == (labels, 255)


def test_questions_before_the_damage_stand():
    info = parse(message(question(), b"\x03ab", counts=(2, 0, 0, 0)))
    assert (info.qnames, info.questions, info.whole) == (["www.example.org"], 2, False)


def test_less_than_a_header():
    assert parse(QUERY[:11]) is None
    decoder = DnsDecoder()
    assert [kind for kind, _ in units(decoder, (0, QUERY), (0, b"short"), (1, RESPONSE))] == [
        "query", "other", "response"]
    assert decoder.counters == {"short": 1}


def test_what_dpkt_cannot_read_is_told_all_the_same():
    data = RESPONSE[:-3]
    info = parse(data)
    assert info.unpack() is None
    assert info.qnames == ["www.example.org"] and info.whole


# ------------------------------------------------------------------------------ streams

STREAM = lengthy(QUERY) + lengthy(SHARED) + lengthy(QUERY)


def test_a_stream():
    told = units(DnsDecoder(), (0, STREAM), (1, lengthy(RESPONSE)))
    assert [(kind, info.qnames) for kind, info in told] == [
        ("query", ["www.example.org"]), ("query", ["a.example.org", "b.example.org"]),
        ("query", ["www.example.org"]), ("response", ["www.example.org"])]


@pytest.mark.parametrize("cut", range(1, len(STREAM)))
def test_a_stream_at_every_cut(cut):
    assert units(DnsDecoder(), (0, STREAM[:cut]), (0, STREAM[cut:])) == units(DnsDecoder(), (0, STREAM))


def test_a_stream_byte_by_byte():
    decoder = DnsDecoder()
    assert units(decoder, *[(0, bytes([byte])) for byte in STREAM]) == units(DnsDecoder(), (0, STREAM))
    assert decoder.stream is True


def test_a_stream_with_a_message_too_short_and_one_cut():
    decoder = DnsDecoder()
    told = units(decoder, (0, lengthy(QUERY) + lengthy(b"abc") + lengthy(QUERY) + lengthy(QUERY)[:9]), (0, None))
    assert [kind for kind, _ in told] == ["query", "other", "query", "other"]
    assert told[1][1] == lengthy(b"abc") and told[3][1] == lengthy(QUERY)[:9]
    assert decoder.counters == {"short": 1}


def test_a_gap_in_a_stream():
    decoder = DnsDecoder()
    told = units(decoder, (0, lengthy(QUERY)[:20]), (0, 99), (0, QUERY[30:]), (0, STREAM))
    assert [kind for kind, _ in told] == ["other", "gap", "other", "query", "query", "query"]
    assert decoder.counters == {"gap": 1, "resync": 1}


def test_datagrams_that_are_too_short_come_first():
    told = units(DnsDecoder(), (0, b"keep"), (0, QUERY), (1, RESPONSE))
    assert [kind for kind, _ in told] == ["other", "query", "response"]


def test_an_answer_that_is_a_header_alone():
    data = message(counts=(0, 0, 0, 0), flags=0x8181)
    assert [kind for kind, _ in units(DnsDecoder(), (0, data), (0, data))] == ["response", "response"]


def test_a_datagram_whose_id_is_like_a_length():
    data = message(question(), number=len(QUERY) - 2)
    assert [kind for kind, _ in units(DnsDecoder(), (0, data))] == ["query"]


# ------------------------------------------------------------------------------ probing

NTP = bytes.fromhex("1b0004fa0001000000010000") + bytes(36)
STUN = bytes.fromhex("000100002112a442") + bytes(12)
DHCP = bytes.fromhex("0101060000003d1d") + bytes(232)
SNMP = bytes.fromhex("302602010004067075626c6963a019020400000001020100020100300b300906052b060102010500")
NBNS = message(question((b"FHEPFCELEHFCEPFFFACACACACACACAAA",), 32), flags=0x0110)
NBSTAT = message(question((b"CK" + b"A" * 30,), 33), flags=0x0000)
QUIC = bytes.fromhex("c300000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11")
RTP = bytes.fromhex("8000d4310000000012345678") + bytes(160)
TFTP = b"\x00\x01boot.img\x00octet\x00"
SIP = b"OPTIONS sip:a@example.org SIP/2.0\r\nVia: SIP/2.0/UDP b\r\n\r\n"
RADIUS = bytes.fromhex("010100260f403f9473978057bd83d5cb98f4227a") + bytes(18)


@pytest.mark.parametrize("data", [QUERY, RESPONSE, lengthy(QUERY), lengthy(RESPONSE), STREAM[:64]])
def test_dns_is_known_on_any_port(data):
    assert DnsDecoder.probe(memoryview(data)[:64], 0, 9999) is True


@pytest.mark.parametrize("data", [NTP, STUN, DHCP, SNMP, NBNS, NBSTAT, QUIC, RTP, TFTP, SIP, RADIUS, b"", b"\x00" * 40,
                                  b"\xff" * 64, QUERY + b"trailing", QUERY[:-1], lengthy(QUERY[:-1])])
def test_others_are_not_claimed(data):
    assert DnsDecoder.probe(memoryview(data)[:64], 0, 9999) is False


def test_a_port_makes_odd_messages_believed():
    mdns = message(record(name(b"host", b"local"), A, bytes(4)), number=0, flags=0x8400, counts=(0, 1, 0, 0))
    for data in (mdns, SHARED, QUERY[:-1], QUERY + b"trailing", message(counts=(0, 0, 0, 0), flags=0x8181)):
        assert DnsDecoder.probe(data, 0, 9999) is False
        assert DnsDecoder.probe(data, 0, 53) is True
    assert DnsDecoder.probe(b"\x00", 0, 53) is None
    assert DnsDecoder.probe(STUN[:2] + b"\x00\x40" + STUN[4:], 0, 53) is False


def test_nothing_is_dns_on_the_port_of_netbios():
    cut_name = message(question((b"FHEPFCELEHFCEPFFFACACACACACACAB",), 32), flags=0x0110)     # one byte too short
    assert DnsDecoder.probe(cut_name, 0, 53) is True
    assert DnsDecoder.probe(cut_name, 0, 137) is False


@given(st.binary(min_size=12, max_size=64))
def test_random_bytes_are_not_dns(data):
    # One header in 2^40 may look right; Hypothesis likes zeros, which have no question.
    if DnsDecoder.probe(data, 0, 9999):
        assert parse(data).questions == 1 and parse(data).whole or parse(data[2:]).questions == 1


# ------------------------------------------------------------------------------ properties

LABELS = st.lists(st.binary(min_size=1, max_size=20), max_size=5)


@given(st.lists(st.tuples(LABELS, st.integers(1, 0xffff)), max_size=4), st.integers(0, 0xffff), st.integers(0, 0xffff))
def test_what_was_built_is_read(questions, number, flags):
    data = message(*[question(labels, kind) for labels, kind in questions], number=number, flags=flags,
                   counts=(len(questions), 0, 0, 0))
    info = parse(data)
    assert info.whole and (info.id, info.response, info.opcode, info.rcode) == (
        number, flags >> 15 == 1, flags >> 11 & 15, flags & 15)
    assert (info.qnames, info.qtypes) == ([name_text(labels) for labels, _ in questions], [k for _, k in questions])
    theirs = info.unpack()
    if theirs is not None:                  # dpkt wants names in UTF-8
        assert [q.type for q in theirs.qd] == info.qtypes


@given(st.data())
def test_damage_never_raises(data):
    text = bytearray(data.draw(st.sampled_from([QUERY, RESPONSE, SHARED, STREAM])))
    for _ in range(data.draw(st.integers(0, 5))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    text = bytes(text)
    DnsDecoder.probe(memoryview(text)[:64], 0, data.draw(st.sampled_from([53, 9999])))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=5)) | {0, len(text)})
    steps = [(data.draw(st.integers(0, 1)), text[a:b]) for a, b in zip(cuts, cuts[1:], strict=False)]
    for _, info in units(DnsDecoder(), *steps, (0, 3), (0, text), (0, None), (1, None)):
        if hasattr(info, "unpack"):
            info.unpack()


@given(st.lists(LABELS, min_size=1, max_size=5))
def test_scapy_reads_the_same_names(names):
    from scapy.layers.dns import DNS

    data = message(*[question(labels) for labels in names], counts=(len(names), 0, 0, 0))
    theirs = [q.qname for q in DNS(data).qd]
    assert theirs == [b"".join(label + b"." for label in labels) or b"." for labels in names]
    assert [read_name(name(*labels), 0)[0] for labels in names] == names


# ------------------------------------------------------------------------------ captures

CAPTURES = ["arkime_v6.pcap", "ndpi_6in4tunnel.pcap", "ndpi_alexa-app.pcapng", "ndpi_dns_fragmented.pcap",
            "ndpi_dnscrypt-v1-and-resolver-pings.pcap", "ndpi_netflix.pcap", "pcapplusplus_DnsPackets.pcap",
            "pcapplusplus_ip6_fragments.pcap", "pcapplusplus_many-protocols.pcap", "pcapplusplus_raw_ip.pcap",
            "tcpdump_ipv4_invalid_total_length.pcap", "tcpreplay_test.pcap", "zeek_smtp.pcap",
            "zeek_tunnels-Teredo.pcap", "zeek_tunnels-gre-sample.pcap", "ndpi_quic_frags_ch_in_multiple_packets.pcapng",
            "pcapplusplus_sip_resp.pcap"]


def datagrams(tshark, path):
    """Yield (source port, destination port, payload) of each UDP datagram, tunnelled ones too."""
    done = subprocess.run(
        [tshark, "-r", str(path), "-o", "ip.defragment:TRUE", "-o", "ipv6.defragment:TRUE", "-Y", "udp", "-T", "fields",
         "-E", "aggregator=/", "-e", "udp.srcport", "-e", "udp.dstport", "-e", "udp.payload"],
        capture_output=True, text=True, timeout=300, check=False)
    for line in done.stdout.splitlines():
        columns = [column.split("/") for column in line.split("\t")]
        for source, target, payload in zip(*columns, strict=False):
            yield int(source), int(target), bytes.fromhex(payload)


def key(info):
    return (info.id, info.response, info.opcode, tuple(info.qnames), tuple(info.qtypes), info.answers,
            info.rcode if info.response else None)


@pytest.mark.parametrize("path", CAPTURES)
def test_capture(path, shared_pcaps, tshark):
    path = shared_pcaps / path
    said = collections.Counter(
        (m["id"], m["response"], m["opcode"], tuple(m["qnames"]), tuple(m["qtypes"]), m["answers"], m.get("rcode"))
        for m in oracle(path)["dns"])
    ours = collections.Counter()
    for source, target, payload in datagrams(tshark, path):
        if any(DnsDecoder.probe(memoryview(payload)[:64], 0, port) for port in (source, target)):
            (_, info), = units(DnsDecoder(), (0, payload))
            ours[key(info)] += 1
    streams = {c["stream"] for c in oracle(path)["conversations"]
               if c["proto"] == "tcp" and 53 in (c["a"]["port"], c["b"]["port"])}
    for pieces in follow(tshark, path, streams).values():
        for kind, info in units(DnsDecoder(), *pieces, (0, None), (1, None)):
            if kind in ("query", "response"):
                ours[key(info)] += 1
    assert ours == said
