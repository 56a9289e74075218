"""IP defragmentation against its reference model: hand-written vectors, real captures, random traffic.

The vectors hold for the model and for the engine alike. Random fragments go through both, and every
datagram and every counter must agree. FLOWOS_LONG=1 tries far more of them.
"""
import hashlib
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import build, defrag, engine, read, tcp, traffic
from models.defrag_vectors import VECTORS, Pieces

LONG = bool(os.environ.get("FLOWOS_LONG"))
VERSIONS = st.sampled_from([4, 6])
POLICIES = st.sampled_from(tcp.POLICIES)


def examples(few):
    """Give Hypothesis's settings: a few examples, or very many with FLOWOS_LONG=1."""
    return settings(max_examples=few * 50 if LONG else few)


def atomic(fragment):
    return fragment.version == 6 and fragment.offset == 0 and not fragment.more


def by_model(fragments, policy, pieces=8192):
    """Give ([(id, payload)] in order of completion, counters) from the model."""
    defragmenter, datagrams = defrag.Defragmenter(policy, pieces=pieces), []
    for fragment in fragments:
        payload = defragmenter.fragment(fragment)
        if payload is not None and not atomic(fragment):
            datagrams.append((fragment.id, payload))
    defragmenter.end()
    return datagrams, defragmenter.counters


def by_engine(fragments, policy, pieces=8192):
    """Give the same from the engine."""
    capture = build.pcap([build.fragment_record(fragment) for fragment in fragments])
    result = engine.run_pcap(capture, ip_policy=policy, defrag_pieces=pieces)
    assert {datagram[0] for datagram in result["datagrams"]} <= {fragment.version for fragment in fragments}
    return [(identity, payload) for *_, identity, payload in result["datagrams"]], engine.ip_counters(result)


MACHINES = {"model": by_model, "engine": by_engine}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", VECTORS)
def test_vector(name, machine):
    policy, fragments, datagrams, counters = VECTORS[name]
    found, counted = MACHINES[machine](fragments, policy)
    assert found == datagrams
    assert counted == counters


# ------------------------------------------------------------------------------------ random traffic

@examples(200)
@given(VERSIONS.flatmap(traffic.fragments), POLICIES, st.sampled_from([8192, 5, 2]))
def test_random_fragments(fragments, policy, pieces):
    assert by_engine(fragments, policy, pieces) == by_model(fragments, policy, pieces)


@examples(60)
@given(VERSIONS.flatmap(lambda version: traffic.fragments(version, honest=True)), POLICIES)
def test_honest_fragments_make_the_original(fragments, policy):
    originals = {}
    for fragment in fragments:
        content = originals.setdefault(fragment.id, {})
        content.update(enumerate(fragment.payload, fragment.offset))
    originals = sorted((identity, bytes(content[at] for at in sorted(content)))
                       for identity, content in originals.items())
    for machine in MACHINES.values():
        found, _ = machine(fragments, policy)
        # What comes after completion begins the datagram anew, and may complete it again.
        assert sorted(set(found)) == [original for original in originals if original in found]
        assert {identity for identity, _ in found} == {identity for identity, _ in originals}


@examples(100)
@given(traffic.fragments(4))
def test_the_first_policy_is_a_layout(fragments):
    """Lay one datagram out by itself, first bytes first, and compare."""
    fragments = [fragment for fragment in fragments if fragment.id == 0]
    usable = [fragment for fragment in fragments
              if fragment.length == len(fragment.payload) and not (fragment.more and fragment.length % 8)]
    ends = {fragment.end for fragment in usable if not fragment.more}
    spans = usable and usable[-1].ts - usable[0].ts
    if len(ends) != 1 or spans >= 30 * 10**9 or any(fragment.end > min(ends) for fragment in usable):
        return
    laid, found = {}, []
    for fragment in usable:
        for at, value in enumerate(fragment.payload, fragment.offset):
            laid.setdefault(at, value)
        if any(not before.more for before in usable[:usable.index(fragment) + 1]) and len(laid) == min(ends):
            found.append((0, bytes(laid[at] for at in sorted(laid))))
            break
    assert by_model(fragments, "first")[0][:1] == found


def crowd(size):
    """Give fragments of one datagram too many, then the missing ones of the first two and the last."""
    pieces = Pieces(4)
    for number in range(size + 1):
        pieces.add(0, b"x" * 8, id=number, after=0.0001)
    return pieces.last(8, b"last", id=size).last(8, b"first", id=0).last(8, b"second", id=1)


def test_the_oldest_goes_when_there_are_too_many():
    defragmenter = defrag.Defragmenter(datagrams=3)
    found = [defragmenter.fragment(fragment) for fragment in crowd(3)]
    assert found == [None] * 4 + [b"x" * 8 + b"last", None, b"x" * 8 + b"second"]
    assert defragmenter.counters["ip_fragments_evicted"] == 1


def test_the_engine_holds_8192_datagrams():
    datagrams, counters = by_engine(crowd(8192), "first")
    assert datagrams == [(8192, b"x" * 8 + b"last"), (1, b"x" * 8 + b"second")]
    assert counters == {"datagrams_reassembled": 2, "ip_fragments_evicted": 1, "ip_fragments_timed_out": 8191}


def test_memory_is_capped_by_evicting_the_oldest():
    pieces = Pieces(4).add(0, b"a" * 8, id=1).add(0, b"b" * 16, id=2).add(16, b"c" * 8, id=2)
    pieces.last(8, b"1", id=1).last(24, b"2", id=2)
    defragmenter = defrag.Defragmenter(memory=25)
    found = [defragmenter.fragment(fragment) for fragment in pieces]
    assert found == [None] * 4 + [b"b" * 16 + b"c" * 8 + b"2"]
    assert defragmenter.counters["ip_fragments_evicted"] == 1


def test_a_datagram_is_delivered_to_tcp():
    """Cut a TCP segment's packet into fragments: the stream is as if it had come whole."""
    segments = [build.tcp(build.A, build.B, seq, 0, flags, data)
                for seq, flags, data in ((99, tcp.SYN, b""), (100, tcp.ACK, b"0123456789" * 4), (140, tcp.ACK, b"x"))]
    packets = [build.ipv4(build.A[0], build.B[0], build.TCP, segment[at:at + 16], id=number, offset=at,
                          more=at + 16 < len(segment))
               for number, segment in enumerate(segments) for at in reversed(range(0, len(segment), 16))]
    capture = build.pcap([(build.START_NS + number, build.ethernet(packet)) for number, packet in enumerate(packets)])
    (ends, found), = read.tcp_pairs(capture).items()
    items = tcp.reassemble(found)[0].result(0)
    assert ends == (build.A, build.B) and items == [("data", 0, b"0123456789" * 4 + b"x")]
    connection, = engine.run_pcap(capture)["connections"]
    assert (connection["a"], connection["a_to_b"]["items"]) == (build.A, items)


@pytest.mark.parametrize("before", ["", "hop-by-hop", "routing"])
@pytest.mark.parametrize("after", ["", "destination"])
def test_extension_headers_around_the_fragment_header(before, after):
    segment = build.udp(build.A6, build.B6, b"0123456789abcdef")
    inner, first = (build.extension(build.UDP, b"\1\4\0\0\0\0") + segment, build.DESTINATION) if after \
        else (segment, build.UDP)
    code = {"hop-by-hop": build.HOP_BY_HOP, "routing": build.ROUTING}.get(before)
    records = []
    for at in (16, 0):
        payload = build.fragment_header(first, 5, at, more=at == 0) + inner[at:at + 16 if at == 0 else None]
        if before:
            payload = build.extension(build.FRAGMENT, b"\1\4\0\0\0\0" if before == "hop-by-hop" else bytes(6)) + payload
        packet = build.ipv6(build.A6[0], build.B6[0], code if before else build.FRAGMENT, payload)
        records.append((build.START_NS + at, build.ethernet(packet)))
    result = engine.run_pcap(build.pcap(records))
    assert result["datagrams"] == [(6, build.A6[0], build.B6[0], 5, inner)]


# ------------------------------------------------------------------------------------- real captures

def test_captures(shared_pcaps):
    compared = 0
    for path in sorted(shared_pcaps.glob("*.pcap")):
        oracle = json.loads(path.with_name(path.name + ".json").read_text())["ip_reassembly"]
        if not oracle["fragment_headers"]:
            continue
        defragmenter, found = defrag.Defragmenter(), []
        for number, ts, linktype, frame in read.frames(path.read_bytes()):
            for whole in read.datagrams(read.ip_packet(linktype, frame), ts, defragmenter):
                found.append((number, whole.src, whole.dst, len(whole.payload),
                              hashlib.sha256(whole.payload).hexdigest()))
        for datagram in oracle["datagrams"]:
            expected = (datagram["completed_in_frame"], datagram["src"], datagram["dst"],
                        datagram["payload_bytes"], datagram["payload_sha256"])
            assert (expected in found) == datagram["settled"], f"{path.name} frame {expected[0]}"
            compared += 1
    assert compared > 150
