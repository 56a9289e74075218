"""TCP reassembly against its reference model: hand-written vectors, real captures, random traffic.

The vectors hold for the model and for the engine alike. Random traffic goes through both, and every
item, every gap, every counter must agree, under every policy. FLOWOS_LONG=1 tries far more of it.
"""
import hashlib
import itertools
import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import build, engine, overlap_vectors, read, tcp, tcp_vectors, traffic
from models.talk import Talk

VECTORS = tcp_vectors.VECTORS | overlap_vectors.VECTORS
LONG = bool(os.environ.get("FLOWOS_LONG"))
POLICIES = st.sampled_from(tcp.POLICIES)
TIGHT = st.builds(tcp.Config, policy=POLICIES, gap_packets=st.integers(0, 6), gap_seconds=st.just(30),
                  reassembly_bytes=st.sampled_from([1 << 20, 30, 10]),
                  reassembly_pieces=st.sampled_from([1024, 5, 2]))


def examples(few):
    """Give Hypothesis's settings: a few examples, or very many with FLOWOS_LONG=1."""
    return settings(max_examples=few * 50 if LONG else few)


# ---------------------------------------------------------------------------------- model and engine

def by_model(packets, config):
    """Give ([(side that is `a`, items of side 0, items of side 1)], counters) from the model."""
    connections, counters = tcp.reassemble(packets, config), {}
    for connection in connections:
        for name, value in connection.counters.items():
            counters[name] = counters.get(name, 0) + value
    return [(connection.a, connection.result(0), connection.result(1)) for connection in connections], counters


def by_engine(packets, config, ends=(build.A, build.B)):
    """Give the same from the engine."""
    capture = build.pcap([build.tcp_record(packet, *ends) for packet in packets])
    result = engine.run_pcap(capture, **engine.tcp_config(config))
    connections = []
    for connection in result["connections"]:
        a = int(connection["a"] != ends[0])
        items = connection["a_to_b"]["items"], connection["b_to_a"]["items"]
        connections.append((a, items[a], items[1 - a]))
    return connections, engine.tcp_counters(result)


DETAILS = {"tcp_gap_bytes", "tcp_gap_by_ack", "tcp_gap_by_limit", "tcp_gap_by_time", "tcp_gap_by_end",
           "tcp_cut_bytes", "tcp_picked_up"}
MACHINES = {"model": by_model, "engine": by_engine}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", VECTORS)
def test_vector(name, machine):
    make, config = VECTORS[name]
    talk, items_a, items_b, counters = make()
    connections, counted = MACHINES[machine](talk.packets, config)
    assert [items for _, *items in connections] == [[items_a, items_b]]
    missing = sum(length for _, length in tcp.gaps(items_a) + tcp.gaps(items_b))
    assert counted.get("tcp_gap_bytes", 0) + counted.get("tcp_cut_bytes", 0) == missing
    # A vector states the reasons of its gaps where they are the point; the rest it states in full.
    assert {name: value for name, value in counted.items() if name in counters or name not in DETAILS} == counters


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("opening, a", [
    (Talk().a(flags="S").b(flags="S", ack=0), 0), (Talk().b(flags="S").a(flags="S", ack=0), 1),
    (Talk().b(flags="S", ack=0).a(flags="S").a(ack=0), 0), (Talk().a(flags="S", ack=0).b(ack=0), 1),
    (Talk().b(0, b"x", ack=0).a(ack=1), 1), (Talk().a(flags="S").b(flags="S").a(ack=0), 0)])
def test_who_is_a(opening, a, machine):
    connections, _ = MACHINES[machine](opening.packets, tcp.Config())
    assert [connection[0] for connection in connections] == [a]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("base, again, count", [
    (Talk().open(), {"flags": "S"}, 1),                             # the same SYN
    (Talk().open(), {"flags": "S", "isn": 900}, 2),                 # another
    (Talk().open(), {"flags": "S", "isn": 900, "ack": 0}, 1),       # another, but with ACK
    (Talk().a(5, b"x", ack=0), {"flags": "S", "at": 4}, 1),         # just before what was picked up
    (Talk().a(5, b"x", ack=0), {"flags": "S", "at": 5}, 2),
    (Talk().a(900, flags="R"), {"flags": "S"}, 1),                  # a bare reset says nothing
    (Talk().a(900, b"x", flags="R"), {"flags": "S"}, 2),
    (Talk().b(5, b"x", ack=0), {"flags": "S"}, 1)])                 # the other side spoke first
def test_a_syn_with_another_sequence_begins_another_connection(base, again, count, machine):
    talk = Talk()
    talk.packets, talk.now = list(base.packets), base.now
    connections, _ = MACHINES[machine](talk.a(**again).packets, tcp.Config())
    assert len(connections) == count


# ------------------------------------------------------------------------------------ random traffic

def check(packets, config, ends=(build.A, build.B)):
    """Compare engine and model: items per side, in each connection, and every counter."""
    expected, counters = by_model(packets, config)
    found, counted = by_engine(packets, config, ends)
    assert [items for _, *items in found] == [items for _, *items in expected]
    assert counted == counters


@examples(150)
@given(traffic.wild(), TIGHT)
def test_wild_traffic(packets, config):
    check(packets, config)


@examples(100)
@given(traffic.carried(), TIGHT)
def test_carried_traffic(conversation, config):
    check(conversation[0], config, (build.A6, build.B6))


@examples(60)
@given(traffic.carried(lossy=False), POLICIES)
def test_without_loss_the_stream_is_the_original(conversation, policy):
    packets, *streams = conversation
    for machine in MACHINES.values():
        (_, *items), = machine(packets, tcp.Config(policy=policy))[0]
        assert [tcp.data(side) for side in items] == streams
        assert not any(tcp.gaps(side) for side in items)


@examples(30)
@given(st.lists(st.one_of(traffic.wild(), traffic.carried().map(lambda drawn: drawn[0])), min_size=2, max_size=4),
       TIGHT)
def test_connections_do_not_disturb_each_other(conversations, config):
    ends = [(("10.0.0.1", 1000 + number), build.B) for number in range(len(conversations))]
    records = [build.tcp_record(packet, *ends[number]) for number, packet in itertools.chain.from_iterable(
        itertools.zip_longest(*([(number, packet) for packet in packets]
                                for number, packets in enumerate(conversations)), fillvalue=(0, None)))
        if packet is not None]
    found = engine.run_pcap(build.pcap(records), **engine.tcp_config(config))["connections"]
    for (a, b), packets in zip(ends, conversations):
        mine = [(connection["a_to_b"]["items"], connection["b_to_a"]["items"])[::1 if connection["a"] == a else -1]
                for connection in found if a in (connection["a"], connection["b"])]
        assert mine == [tuple(items) for _, *items in by_model(packets, config)[0]]


def test_what_waits_in_all_connections_is_capped():
    ends = [(("10.0.0.1", 1000 + number), build.B) for number in range(2)]
    talks = [Talk().open().a(10, b"x" * 600, ack=0).b(ack=0).a(0, b"y" * 10, ack=0) for _ in ends]
    capture = build.pcap([build.tcp_record(packet, *where) for packets in zip(*(talk.packets for talk in talks))
                          for packet, where in zip(packets, ends)])
    whole, holed = b"y" * 10 + b"x" * 600, [("gap", 0, 10), ("data", 10, b"x" * 600)]
    for total, expected in ((1200, [("data", 0, whole)]), (1199, holed)):
        first, second = engine.run_pcap(capture, reassembly_total=total)["connections"]
        assert first["a_to_b"]["items"] == [("data", 0, whole)]
        assert second["a_to_b"]["items"] == expected


# -------------------------------------------------------------------------- the model against itself

@examples(100)
@given(traffic.wild(), TIGHT)
def test_the_model_invents_nothing(packets, config):
    for connection, packets in zip(tcp.reassemble(packets, config), split(packets)):
        for side in (0, 1):
            end, sent = 0, {(packet.seq + bool(packet.flags & tcp.SYN) + at) & 0xFFFFFFFF: set()
                            for packet in packets if packet.direction == side for at in range(packet.length)}
            for packet in packets:
                if packet.direction == side:
                    for at, value in enumerate(packet.payload):
                        sent[(packet.seq + bool(packet.flags & tcp.SYN) + at) & 0xFFFFFFFF].add(value)
            for kind, offset, *what in connection.result(side):
                assert offset == end
                if kind == "data":
                    end += len(what[0])
                    for at, value in enumerate(what[0], offset):
                        assert value in sent[(connection.ways[side].origin + at) & 0xFFFFFFFF]
                elif kind == "gap":
                    assert what[0] > 0
                    end += what[0]


def split(packets):
    """Give the packets of each connection in turn."""
    parts, connection = [], None
    for packet in packets:
        if connection is None or connection.starts_another(packet):
            connection = tcp.Connection()
            parts.append([])
        connection.remember(packet)
        parts[-1].append(packet)
    return parts


@examples(100)
@given(traffic.carried())
def test_the_first_policy_is_a_layout_in_sequence_space(conversation):
    packets = conversation[0]
    connection, = tcp.reassemble(packets, tcp.Config(gap_packets=10**6))
    for side in (0, 1):
        isn = next(packet.seq for packet in packets if packet.direction == side)
        laid, fin = {}, None
        for packet in packets:
            if packet.direction == side:
                start = (packet.seq - isn - 1) & 0xFFFFFFFF
                if packet.flags & tcp.FIN:
                    fin = start + packet.length
                for at, value in enumerate(packet.payload):
                    laid.setdefault(start + at, value)
        items = connection.result(side)
        end = max([fin or 0] + [at + 1 for at in laid])
        covered = {at for kind, offset, *what in items if kind == "gap" for at in range(offset, offset + what[0])}
        assert tcp.data(items) == bytes(laid[at] for at in sorted(laid))
        assert covered == set(range(end)) - set(laid)
        assert (("fin", fin) in items) == (fin is not None)


@examples(60)
@given(traffic.wild(), TIGHT, traffic.ISNS, traffic.ISNS)
def test_sequence_numbers_are_relative(packets, config, move_a, move_b):
    moves = move_a, move_b
    moved = [packet._replace(seq=(packet.seq + moves[packet.direction]) & 0xFFFFFFFF,
                             ack=(packet.ack + moves[1 - packet.direction]) & 0xFFFFFFFF) for packet in packets]
    assert by_model(moved, config) == by_model(packets, config)


# ------------------------------------------------------------------------------------- real captures

# Damaged headers, and what needs more layers than models.read knows.
NOT_READ = {"ndpi_fuzz-2006-09-29-28586.pcap", "pcapplusplus_tcp-malformed.pcap"}


def expectations(oracle):
    """Give {(end, end): [oracle's TCP stream]} of the streams that are not in a tunnel."""
    streams = {}
    for stream in oracle["tcp_streams"]:
        ends = [(stream[side]["addr"], stream[side]["port"]) for side in "ab"]
        if stream["depth"] == 1:
            streams.setdefault((min(ends), max(ends)), []).append((ends[0], stream))
    return streams


def test_captures(shared_pcaps):
    compared = 0
    for path in sorted(shared_pcaps.glob("*.pcap*")):
        if path.suffix == ".json" or path.name in NOT_READ or (path.stat().st_size > 1_000_000 and not LONG):
            continue
        pairs = read.tcp_pairs(path.read_bytes())
        for ends, streams in expectations(json.loads(path.with_name(path.name + ".json").read_text())).items():
            if ends not in pairs:
                continue                # MPLS, PPPoE: not for this reader
            connections = tcp.reassemble(pairs[ends])
            assert len(connections) == len(streams), f"{path.name} {ends}"
            for connection, (a, stream) in zip(connections, streams):
                for side in (0, 1):
                    expected = stream["a_to_b" if ends[side] == a else "b_to_a"]["expected"]
                    if expected is not None:
                        data = tcp.data(connection.result(side))
                        compared += 1
                        assert (len(data), hashlib.sha256(data).hexdigest()) == \
                            (expected["bytes"], expected["sha256"]), f"{path.name} stream {stream['stream']}"
    assert compared > 400


# ------------------------------------------------------------------------------------- the builder

@pytest.mark.parametrize("ends", [(build.A, build.B), (build.A6, build.B6)])
@pytest.mark.parametrize("payload", [b"", b"odd", b"even"])
def test_built_frames_are_what_scapy_would_build(ends, payload):
    scapy = pytest.importorskip("scapy.all")
    version = scapy.IPv6 if ":" in ends[0][0] else scapy.IP
    for protocol, segment in ((build.TCP, build.tcp(*ends, 2**32 - 1, 7, 0x18, payload, options=b"\2\4\5\xb4")),
                              (build.UDP, build.udp(*ends, payload))):
        frame = build.ethernet(build.ip(*ends, protocol, segment))
        again = scapy.Ether(frame)
        for layer, fields in ((version, ("len", "chksum", "plen")), (scapy.TCP, ("chksum",)),
                              (scapy.UDP, ("chksum", "len"))):
            for field in fields:
                if layer in again and hasattr(again[layer], field):
                    delattr(again[layer], field)
        assert scapy.raw(again) == frame
