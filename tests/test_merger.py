"""The merger off line, case by case: edits of a capture's streams, and every packet that leaves.

`edit` runs records through scripts (editscript.py) and gives what left; a case says what it must be.
What is true of every output is checked in one place, `left`: right checksums, times in order, the
streams that the scripts make.
"""
import collections
import struct

import pytest

import flowos
from anomalies import anomalies, new_anomalies
from conversations import datagram, in_fragments, records, save
from conversations import run_in_line as run
from editscript import Edit, Scripted, edited
from flowos.packets import valid
from flowos.testing import read_packets, read_streams
from left import parse
from models import build
from models.talk import Talk

FIN, SYN, RST, ACK = 1, 2, 4, 16
A6, B6 = build.A6, build.B6


def left(folder, talk, forth=(), back=(), ends=(build.A, build.B), modules=None, **config):
    """Run a Talk through scripts; check what is true of every output; give the packets taken apart."""
    packets, _ = run(folder, records(talk, *ends), *(modules or [Scripted(forth, back)]), **config)
    assert all(valid(frame) for _, frame in packets)
    times = [ts for ts, _ in packets]
    assert times == sorted(times)
    before = read_streams([record[:2] for record in records(talk, *ends)])
    assert read_streams(packets) == (edited(before[0], forth), edited(before[1], back))
    return [parse(*packet) for packet in packets]


def of(packets, side, ends=(build.A, build.B)):
    """Give one side's packets with bytes or a FIN: (offset from the first byte, payload, FIN?)."""
    here = [packet for packet in packets if packet.src == ends[side]]
    origin = 1001 if side == 0 else 70001
    return [(packet.seq - origin, packet.payload, bool(packet.flags & FIN)) for packet in here
            if packet.payload or packet.flags & FIN]


def acks(packets, side):
    """Give what one side's packets acknowledge, from the other's first byte."""
    origin = 70001 if side == 0 else 1001
    return [packet.ack - origin for packet in packets if packet.src == (build.A, build.B)[side] and packet.ack is not None]


# ------------------------------------------------------------------------------ ends of a stream

def test_append_at_the_end_with_the_fin_in_the_same_segment(tmp_path):
    talk = Talk().open().a(0, b"hello", ack=0, flags="F").b(0, ack=6).b(0, ack=6, flags="F").a(6, ack=1)
    packets = left(tmp_path, talk, forth=[Edit(5, 0, b" world")])
    assert of(packets, 0) == [(0, b"hello world", True)]
    assert acks(packets, 1) == [0, 12, 12]


def test_append_at_the_end_with_the_fin_in_the_next_segment(tmp_path):
    talk = Talk().open().a(0, b"hello", ack=0).b(0, ack=5).a(5, ack=0, flags="F").b(0, ack=6).b(0, ack=6, flags="F").a(6, ack=1)
    packets = left(tmp_path, talk, forth=[Edit(5, 0, b" world")], batch=1, deliver_units=1)
    assert of(packets, 0) == [(0, b"hello", False), (5, b" world", True)]
    assert acks(packets, 1) == [0, 5, 12, 12]


def test_insert_before_the_first_byte(tmp_path):
    talk = Talk().open().a(0, b"hello", ack=0).b(0, ack=5)
    packets = left(tmp_path, talk, forth=[Edit(0, 0, b">> ")])
    assert of(packets, 0) == [(0, b">> hello", False)]
    assert [packet.flags for packet in packets[:3]] == [SYN, SYN | ACK, ACK]
    assert acks(packets, 1) == [0, 8]


def test_bytes_of_a_syn_that_leave_behind_it_acknowledge_the_other_syn(tmp_path):
    """The server took none of them (RFC 7413 section 4.2.2), so they came again; the first time they were held."""
    talk = Talk().a(-1, b"hello", flags="S").b(flags="SA", ack=0).a(0, b"hello", ack=0).b(0, b"ok", ack=5).a(5, ack=2)
    seen = []
    wait = Scripted([Edit(0, 0, b">> ")], until=lambda direction, window: not direction and not seen.append(1) and len(seen) < 2)
    packets = left(tmp_path, talk, forth=[Edit(0, 0, b">> ")], modules=[wait], batch=1, deliver_units=1)
    assert [packet.flags & (SYN | ACK) for packet in packets[:2]] == [SYN, SYN | ACK]
    assert all(packet.flags & ACK for packet in packets[2:]) and b"".join(data for _, data, _ in of(packets, 0))[:8] == b">> hello"


def test_a_fin_leaves_once_where_both_ends_count_from_one_number(tmp_path):
    """Where the other side's stream begins is told by the FIN of this one, whose sequence number is the same."""
    talk = Talk(isn_a=5, isn_b=5).a(0, ack=0, flags="F").b(0, ack=1, flags="F")
    packets, _ = run(tmp_path, records(talk), Scripted(back=[Edit(0, 0, b"bye")]))
    there = [parse(*packet) for packet in packets]
    assert [(packet.src, packet.seq, packet.payload, packet.flags & FIN) for packet in there] == [
        (build.A, 6, b"", FIN), (build.B, 6, b"bye", FIN)]


@pytest.mark.parametrize("fin", [True, False])
def test_delete_the_last_byte(tmp_path, fin):
    talk = Talk().open().a(0, b"hello", ack=0, flags="F" if fin else "").b(0, ack=5 + fin)
    packets = left(tmp_path, talk, forth=[Edit(4, 1)])
    assert of(packets, 0) == [(0, b"hell", fin)]
    assert acks(packets, 1) == [0, 4 + fin]


def test_delete_all_bytes_and_the_fin_stays(tmp_path):
    talk = Talk().open().a(0, b"one", ack=0).b(0, ack=3).a(3, b"two", ack=0, flags="F").b(0, ack=7)
    packets = left(tmp_path, talk, forth=[Edit(0, 6)])
    assert of(packets, 0) == [(0, b"", True)]
    assert acks(packets, 1)[-1] == 1


# ------------------------------------------------------------------------------ acknowledgements

def test_emptied_packets_do_not_leave_nor_do_acknowledgements_of_them(tmp_path):
    talk = Talk().open().a(0, b"one", ack=0).b(0, ack=3).a(3, b"two", ack=0).b(0, ack=6).a(6, b"six", ack=0).b(0, ack=9)
    packets = left(tmp_path, talk, forth=[Edit(3, 3)])
    assert of(packets, 0) == [(0, b"one", False), (3, b"six", False)]
    assert acks(packets, 1) == [0, 3, 6]
    counters = run(tmp_path, records(talk), Scripted([Edit(3, 3)]))[1]
    assert counters["merged_emptied"] == counters["merged_acks_dropped"] == 1


def test_data_is_acknowledged_where_it_stands_after_the_edits(tmp_path):
    talk = Talk().open()
    for at in range(0, 50, 10):
        talk.a(at, bytes([at]) * 10, ack=at // 10 * 4).b(at // 10 * 4, b"back", ack=at + 10)
    packets = left(tmp_path, talk, forth=[Edit(12, 3, b"0123456789"), Edit(30, 10)], back=[Edit(4, 4), Edit(8, 0, b"++")])
    # Nothing is acknowledged but what left: the insertion at 8 went with the packet in front of it.
    assert [ack for ack in acks(packets, 0) if ack] == [4, 6, 10, 14]
    assert [ack for ack in acks(packets, 1) if ack] == [10, 27, 37, 37, 47]


def sack(left_edge, right_edge):
    return b"\x01\x01\x05\x0a" + struct.pack(">II", left_edge, right_edge)


def test_sack_around_a_replacement(tmp_path):
    """A hole in front of a replacement: the receiver's SACK edges follow the edits."""
    talk = Talk().open().a(0, b"a" * 10, ack=0).a(10, b"b" * 10, ack=0).a(20, b"c" * 10, ack=0).b(0, ack=10)
    packets = records(talk)
    segment = build.tcp(build.B, build.A, 70001, 1011, ACK, options=sack(1021, 1031))
    packets[-1] = (packets[-1][0], build.ethernet(build.ip(build.B, build.A, build.TCP, segment)))
    out, _ = run(tmp_path, packets, Scripted([Edit(12, 4, b"replaced")]))
    assert all(valid(frame) for _, frame in out)
    tcp = out[-1][1][34:]
    assert struct.unpack_from(">I", tcp, 8) == (1011,)
    assert struct.unpack_from(">II", tcp, 24) == (1025, 1035)


# ------------------------------------------------------------------------------ holes and repetitions

def test_a_hole_under_a_writer_that_is_filled_late(tmp_path):
    talk = (Talk().open().a(0, b"first ", ack=0).a(12, b"third ", ack=0).b(0, ack=6).b(0, ack=6).b(0, ack=6)
            .a(6, b"second", ack=0).b(0, ack=18))
    left(tmp_path, talk, forth=[Edit(6, 6, b"2nd")])
    packets = left(tmp_path, talk, forth=[Edit(6, 6, b"2nd")], batch=1, deliver_units=1)
    assert of(packets, 0) == [(0, b"first ", False), (6, b"2nd", False), (9, b"third ", False)]
    assert acks(packets, 1) == [0, 6, 6, 6, 15]


def test_a_retransmission_bears_the_edited_bytes(tmp_path):
    talk = Talk().open().a(0, b"hello world", ack=0).a(0, b"hello world", ack=0).a(6, b"world", ack=0).a(11, ack=0, flags="F").b(0, ack=12)
    packets = left(tmp_path, talk, forth=[Edit(0, 5, b"bye"), Edit(11, 0, b"!")], batch=1, deliver_units=1)
    assert [(at, data) for at, data, _ in of(packets, 0)][:3] == [(0, b"bye world"), (0, b"bye world"), (4, b"world")]


def test_a_keep_alive_stands_one_byte_before_what_comes_next(tmp_path):
    talk = Talk().open().a(0, b"hello", ack=0).b(0, ack=5).a(4, b"o", ack=0).b(0, ack=5)
    packets = left(tmp_path, talk, forth=[Edit(0, 0, b"++")])
    assert of(packets, 0) == [(0, b"++hello", False), (6, b"o", False)]
    assert acks(packets, 1) == [0, 7, 7]


def test_reset_takes_the_place_of_the_edited_stream(tmp_path):
    talk = Talk().open().a(0, b"hello", ack=0).b(0, ack=5).a(5, ack=0, flags="R")
    packets = left(tmp_path, talk, forth=[Edit(5 - 1, 1, b"oooo")])
    assert packets[-1].flags & RST and packets[-1].seq == 1001 + 8


# ------------------------------------------------------------------------------ lengths

def test_growth_beyond_the_segment_is_split(tmp_path):
    talk = Talk().open().a(0, b"x" * 1000, ack=0).b(0, ack=1000).a(1000, b"y" * 1000, ack=0, flags="FP").b(0, ack=2001)
    packets = left(tmp_path, talk, forth=[Edit(1500, 0, bytes(5000))])
    data = of(packets, 0)
    assert sum(len(payload) for _, payload, _ in data) == 7000 and max(len(payload) for _, payload, _ in data) <= 1220
    assert [fin for _, _, fin in data] == [False] * (len(data) - 1) + [True]
    assert acks(packets, 1)[-1] == 7001


def test_more_edits_in_a_segment_than_pieces_of_a_packet(tmp_path):
    talk = Talk().open().a(0, b"ab" * 700, ack=0).b(0, ack=1400)
    left(tmp_path, talk, forth=[Edit(at, 1, b"-+") for at in range(0, 1400, 2)])


@pytest.mark.parametrize("size", [0, 1, 3, 2000])
def test_replacements_of_any_length_over_several_segments(tmp_path, size):
    talk = Talk().open()
    for at in range(0, 400, 100):
        talk.a(at, bytes([at % 251]) * 100, ack=0).b(0, ack=at + 100)
    left(tmp_path, talk, forth=[Edit(50, 300, bytes(size))])


def test_sequence_numbers_wrap(tmp_path):
    talk = Talk(2**32 - 5, 2**32 - 3).open().a(0, b"hello world", ack=0).b(0, b"answer", ack=11).a(11, ack=6)
    packets = left(tmp_path, talk, forth=[Edit(2, 3)], back=[Edit(0, 0, b"an ")])
    assert [packet.ack for packet in packets[3:]] == [2**32 - 2, 4, 7]


# ------------------------------------------------------------------------------ several modules

class Reader(flowos.Module):
    """Collects what it sees, a part of each window at a time."""

    def __init__(self, protocol="tcp", slowly=False):
        self.protocol, self.slowly, self.streams, self.units = protocol, slowly, {}, []

    def process(self, window):
        upto = window.tail
        if self.slowly and not window.complete:
            upto -= (window.tail - window.head) // 2
        data = bytes(window.data)[:upto - window.head]
        self.streams[window.direction] = self.streams.get(window.direction, b"") + data
        self.units += [(window.direction, bytes(unit.data)) for unit in window.units]
        window.release(upto=upto)


@pytest.mark.parametrize("config", [{}, {"batch": 1, "deliver_units": 1}])
def test_overlapping_readers_before_a_writer(tmp_path, config):
    """Readers pass each other, the writer waits for the slower one, the reader behind it sees the edits."""
    talk = Talk().open()
    for at in range(0, 60, 10):
        talk.a(at, bytes(range(at, at + 10)), ack=0).b(0, ack=at + 10)
    talk.a(60, ack=0, flags="F").b(0, ack=61)
    slow, fast, behind = Reader(slowly=True), Reader(), Reader(slowly=True)
    script = [Edit(5, 10, b"<>"), Edit(30, 0, b"inserted"), Edit(59, 1), Edit(60, 0, b"end")]
    left(tmp_path, talk, forth=script, modules=[slow, fast, Scripted(script), behind], **config)
    whole = bytes(range(60))
    assert slow.streams[0] == fast.streams[0] == whole
    assert behind.streams[0] == edited(whole, script)


def test_writers_one_behind_the_other(tmp_path):
    talk = Talk().open().a(0, b"hello world", ack=0).b(0, ack=11).a(11, ack=0, flags="F")
    first, second = [Edit(5, 1, b", big ")], [Edit(0, 1, b"H"), Edit(7, 3), Edit(16, 0, b"!")]
    packets, _ = run(tmp_path, records(talk), Scripted(first), Scripted(second))
    assert read_streams(packets)[0] == edited(edited(b"hello world", first), second) == b"Hello,  world!"


def test_the_pipeline_of_figure_4_13(shared_pcaps, tmp_path):
    """An editor of HTTP bodies, then two readers of IP datagrams: each sees all, edited, datagram by datagram."""
    source, target = shared_pcaps / "zeek_http-206_example_a.pcap", tmp_path / "out.pcap"

    class Editor(flowos.Module):
        protocol, mode = "http.body", flowos.RDWR

        def process(self, window):
            for match in window.find(b"e"):
                window.replace(match, b"E")

    readers = Reader("ip"), Reader("ip")
    plain = Reader("tcp")
    with flowos.Engine(flowos.Config.offline()) as engine:
        engine.add_port(source)
        engine.add_output(target)
        for order, module in ((1, Editor()), (2, readers[0]), (2, readers[1]), (3, plain)):
            engine.attach(module, order=order)
        engine.run()
        engine._check()
    before, after = ([pair for pair in streams(path)] for path in (source, target))
    assert before != after
    for (forth, back), (new_forth, new_back) in zip(before, after, strict=True):
        assert forth == new_forth and len(back) == len(new_back)
        assert {(a, b) for a, b in zip(back, new_back, strict=True) if a != b} <= {(ord("e"), ord("E"))}
    joined = {direction: b"".join(pair[direction] for pair in after) for direction in (0, 1)}
    assert plain.streams == {direction: data for direction, data in joined.items() if data}
    assert readers[0].streams == readers[1].streams == plain.streams and readers[0].units == readers[1].units


def streams(path):
    """Yield both streams of every TCP connection of a capture."""
    for connection in flowos.open(path, match="tcp"):
        yield connection.a_to_b.read(), connection.b_to_a.read()


# ------------------------------------------------------------------------------ other ways to carry bytes

def test_ipv6(tmp_path):
    talk = Talk().open().a(0, b"hello", ack=0).b(0, b"there", ack=5).a(5, ack=5, flags="F").b(5, ack=6)
    left(tmp_path, talk, forth=[Edit(0, 0, b"> "), Edit(5, 0, b"!")], back=[Edit(1, 3)], ends=(A6, B6))


@pytest.mark.parametrize("tags", [1, 2])
def test_vlan_tags_stay(tmp_path, tags):
    talk = Talk().open().a(0, b"hello", ack=0).b(0, ack=5)
    tag = b"\x81\x00\x00\x2a" * tags
    tagged = [(ts, frame[:12] + tag + frame[12:]) for ts, frame, *_ in records(talk)]
    packets, _ = run(tmp_path, tagged, Scripted([Edit(1, 1, b"aaa")]))
    assert all(frame[12:12 + len(tag)] == tag and valid(frame[:12] + frame[12 + len(tag):]) for _, frame in packets)
    assert read_streams(packets)[0] == b"haaallo"


def test_payload_in_fragments(tmp_path):
    """Fragments are put together for the modules; when nothing was edited they leave as they came."""
    talk = Talk().open().a(0, b"hello " * 10, ack=0).a(60, b"world " * 10, ack=0).b(0, ack=120)
    packets = records(talk)
    packets = packets[:3] + in_fragments(packets[3:5], 32) + packets[5:]
    reader = Reader("tcp")
    out, _ = run(tmp_path, packets, reader, Scripted())
    assert reader.streams[0] == b"hello " * 10 + b"world " * 10
    assert collections.Counter(out) == collections.Counter((ts, frame) for ts, frame, *_ in packets)


class Slow(flowos.Module):
    """Reads, and holds half of what it is lent each time."""

    protocol = "tcp"

    def process(self, window):
        window.release(upto=window.head + window.length // 2)


@pytest.mark.parametrize("threads", ["inline", "own"])
def test_what_a_reader_holds_leaves_as_it_came(tmp_path, threads):
    """Bytes repeated under a FIN that came early, and a FIN behind bytes that are held: packets and fragments stay whole."""
    talk = Talk().open().b(7, b"!", ack=0, flags="F").b(0, b"1234567!", ack=0).a(0, b"hello", ack=9, flags="F").b(9, ack=6)
    packets = records(talk)
    packets = packets[:3] + in_fragments(packets[3:], 24)
    source, target = save(tmp_path, packets), tmp_path / "out.pcap"
    with flowos.Engine(flowos.Config.offline(batch=1, deliver_units=1)) as engine:
        engine.add_port(source)
        engine.add_output(target)
        engine.attach(Slow(), threads=threads)
        engine.run()
    assert collections.Counter(frame for _, frame in read_packets(target)) == collections.Counter(frame for _, frame, *_ in packets)


def test_datagrams_keep_their_borders(tmp_path):
    class Twice(flowos.Module):
        protocol, mode = "udp", flowos.RDWR

        def process(self, window):
            if window.data == b"none":
                window.delete(window.head, window.tail)
            elif window.data != b"same":
                window.insert(window.tail, b"+")
                window.replace(window.head, window.head + 1, b"--")

    came = [b"one", b"none", b"same", b"x"]
    packets, counters = run(tmp_path, [datagram(payload, at=i) for i, payload in enumerate(came)], Twice())
    assert [parse(*packet).payload for packet in packets] == [b"--ne+", b"same", b"--+"]
    assert all(valid(frame) for _, frame in packets)
    assert counters["merged_dropped"] == 1 and counters["merged_unchanged"] == 1


# ------------------------------------------------------------------------------ nothing edited, nothing changed

def is_fragment(frame):
    """Say whether an Ethernet frame, tagged or not, holds an IP fragment."""
    at = 12
    while frame[at:at + 2] in (b"\x81\x00", b"\x88\xa8"):
        at += 4
    if frame[at:at + 2] == b"\x08\x00":
        return bool(struct.unpack_from(">H", frame, at + 8)[0] & 0x3fff)
    return frame[at:at + 2] == b"\x86\xdd" and frame[at + 8] == 44


class Nop(flowos.Module):
    mode = flowos.RDWR

    def __init__(self, protocol):
        self.protocol = protocol

    def process(self, window):
        pass


@pytest.mark.parametrize("policy", ["last", "linux", "bsd", "windows"])
def test_who_wins_overlaps_changes_no_packet(shared_pcaps, tmp_path, policy):
    """A segment all of whose bytes a later one replaced leaves all the same, and none leaves twice."""
    for name in ("zeek_tcp-reassembly.pcap", "ndpi_rtsp.pcapng", "ndpi_ultrasurf.pcap", "zeek_smtp.pcap"):
        for config in ({}, {"batch": 1, "deliver_units": 1}):
            source, target = shared_pcaps / name, tmp_path / "out.pcapng"
            with flowos.Engine(flowos.Config.offline(tcp_policy=policy, ip_policy=policy, **config)) as engine:
                engine.add_port(source)
                engine.add_output(target)
                engine.attach(Nop("tcp"))
                engine.run()
                engine._check()
            before, after = (collections.Counter(frame for _, frame in read_packets(path)) for path in (source, target))
            assert before == after, (name, policy, config)


@pytest.mark.parametrize("protocols", [["tcp"], ["udp"], ["ip"], ["frame"], ["transport"], ["http"], ["http.body"], ["dns"],
                                       ["http.body", "tcp", "ip"]], ids="+".join)
def test_unedited_captures_leave_as_they_came(shared_pcaps, tmp_path, protocols):
    """Every packet of every capture leaves, byte for byte."""
    for source in sorted(shared_pcaps.glob("*.pcap*")):
        if source.suffix == ".json" or source.stat().st_size > 500_000:
            continue
        target = tmp_path / "out.pcapng"
        with flowos.Engine(flowos.Config.offline()) as engine:
            engine.add_port(source)
            engine.add_output(target)
            for protocol in protocols:
                engine.attach(Nop(protocol))
            engine.run()
            engine._check()
        before, after = read_packets(source), read_packets(target)
        assert collections.Counter(frame for _, frame in before) == collections.Counter(frame for _, frame in after), source.name
        if protocols[0] in ("ip", "frame"):   # fragments wait for their datagram
            assert [frame for _, frame in before if not is_fragment(frame)] == [frame for _, frame in after if not is_fragment(frame)], source.name


@pytest.mark.parametrize("name", ["zeek_http-206_example_a.pcap", "zeek_smtp.pcap", "arkime_v6.pcap", "ndpi_rtsp.pcapng",
                                  "zeek_ftp-ipv4.pcap", "zeek_tcp-reassembly.pcap", "zeek_http-pipelined-requests.pcap",
                                  "tcpreplay_test.pcap"])
def test_tshark_finds_nothing_new_in_edited_captures(shared_pcaps, tshark, tmp_path, name):
    class Change(flowos.Module):
        protocol, mode = "tcp", flowos.RDWR

        def process(self, window):
            for match in window.find(b"e"):
                if match.start % 3 == 0:
                    window.replace(match, b"EEEE")
                elif match.start % 3 == 1:
                    window.delete(match)

    source, target = shared_pcaps / name, tmp_path / "out.pcapng"
    with flowos.Engine(flowos.Config.offline()) as engine:
        engine.add_port(source)
        engine.add_output(target)
        engine.attach(Change())
        engine.run()
        assert engine.statistics()["edits"] > 0
    # Packets that grew are split, so a repeated one may be two: more of a kind that was there is no new kind.
    there = anomalies(tshark, source)
    again = {"repeated"} if there["retransmission"] or there["out_of_order"] else set()
    assert not {kind for kind in new_anomalies(tshark, source, target) if not there[kind]} - again
