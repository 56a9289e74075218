"""Fragments in line: they wait where a module may edit, leave as they came, or newly cut; nothing goes missing.

What left is put together again by the defragmentation model, the oracle of reassembly, and its
checksums are computed anew.
"""
import contextlib
import socket
import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flowos
from conversations import datagram, records, save
from editscript import Edit, Scripted, edited
from flowos.core.packetport import PacketPort
from flowos.core.pipe import pipe
from flowos.packets import valid
from fragmented import cut, is_fragment, joined
from flowos.testing import read_packets, read_streams
from kernel_tcp import ADDRESSES, Network
from models import build
from models.talk import Talk
from namespaces import inside
from waiting import until

ENDS = {4: (build.A, build.B), 6: (build.A6, build.B6)}
SECOND = 10**9


def run(folder, packets, *modules, orders=None, flow=None, **config):
    """Run records through modules in line; give (what left, counters)."""
    source, target = save(folder, packets), folder / "out.pcap"
    with flowos.Engine(flowos.Config.offline(**config)) as engine:
        engine.add_port(source)
        engine.add_output(target)
        if flow:
            engine.create_flow("chosen", flow)
        for module in modules:
            engine.attach(module, "chosen" if flow else None)
        engine.run()
        engine._check()
        counters = engine.statistics()
    return read_packets(target), counters


class Change(flowos.Module):
    """Replaces `old` by `new` in UDP datagrams."""

    protocol, mode = "udp", flowos.RDWR

    def __init__(self, old=b"", new=b""):
        self.old, self.new, self.seen = old, new, []

    def process(self, window):
        self.seen.append(bytes(window.data))
        for match in window.find(self.old) if self.old else ():
            window.replace(match, self.new) if self.new else window.delete(match)


def udp(payload, version=4, at=0):
    return datagram(payload, *ENDS[version], at)


def talk(*said):
    """Give the records of a handshake and A's segments."""
    conversation = Talk().open()
    at = 0
    for data in said:
        conversation.a(at, data, ack=0)
        at += len(data)
    return conversation.a(at, ack=0, flags="F").b(0, ack=at + 1)


# ------------------------------------------------------------------------------ nothing edited

@pytest.mark.parametrize("stable", [True, False])
@pytest.mark.parametrize("version", [4, 6])
def test_unedited_fragments_leave_as_they_came(tmp_path, version, stable):
    packets = [udp(b"before", version), *cut(udp(bytes(range(200)), version), 64), udp(b"behind", version)]
    module = Change()
    if stable:
        out, counters = run(tmp_path, packets, module)
    else:                                     # a compressed capture comes through buffers that are used again
        source, target = save(tmp_path, packets, "in.pcap.gz"), tmp_path / "out.pcap"
        with flowos.Engine(flowos.Config.offline(batch=2, deliver_units=1)) as engine:
            engine.add_port(source)
            engine.add_output(target)
            engine.attach(module)
            engine.run()
            counters = engine.statistics()
        out = read_packets(target)
    assert out == packets and module.seen == [b"before", bytes(range(200)), b"behind"]
    assert counters["ip_fragments_held"] == 4 and counters["merged_unchanged"] == len(packets)


@pytest.mark.parametrize("version", [4, 6])
def test_segments_in_fragments_leave_as_they_came(tmp_path, version):
    came = records(talk(b"a" * 100, b"b" * 100), *ENDS[version])
    packets = [(ts, frame) for ts, frame, *_ in came[:3]]
    for number, record in enumerate(came[3:5]):
        packets += cut(record, 32, number)
    packets += [(ts, frame) for ts, frame, *_ in came[5:]]
    assert run(tmp_path, packets, Scripted())[0] == packets
    shuffled = packets[:3] + packets[3:7][::-1] + packets[7:]
    assert [frame for _, frame in run(tmp_path, shuffled, Scripted())[0]] == [frame for _, frame in shuffled]


def test_a_segment_in_fragments_that_came_early_waits_with_them(tmp_path):
    came = [record[:2] for record in records(talk(b"a" * 100, b"b" * 100))]
    late = cut(came[4], 40)
    packets = [*came[:3], *late, came[3], *came[5:]]
    out = [frame for _, frame in run(tmp_path, packets, Scripted(), batch=1, deliver_units=1)[0]]
    assert out == [frame for _, frame in (*came[:4], *late, *came[5:])]


# ------------------------------------------------------------------------------ edited

@pytest.mark.parametrize("order", ["forward", "backward"])
@pytest.mark.parametrize("new", [b"", b"short", b"x" * 3000])
@pytest.mark.parametrize("version", [4, 6])
def test_an_edited_datagram_leaves_in_fragments_no_longer_than_those_that_came(tmp_path, version, new, order):
    payload = b"-" * 300 + b"old text" + b"+" * 300
    parts = cut(udp(payload, version), 160)
    out, counters = run(tmp_path, parts if order == "forward" else parts[::-1], Change(b"old text", new))
    assert max(len(frame) for _, frame in out) <= max(len(frame) for _, frame in parts)
    whole, = joined(out)
    assert valid(whole[1]) and whole[1][:14] == parts[0][1][:14]
    assert whole[1][14 + (20 if version == 4 else 40) + 8:] == payload.replace(b"old text", new)
    assert counters["merged_edited"] == 1 and counters["merged_packets"] == len(out)


def test_an_edited_datagram_that_fits_leaves_whole(tmp_path):
    out, _ = run(tmp_path, cut(udp(b"a" * 40), 32), Change(b"a" * 30))
    (_, frame), = out
    assert not is_fragment(frame) and valid(frame) and frame[42:] == b"a" * 10


def test_a_dropped_datagram_takes_its_fragments_along(tmp_path):
    class Drop(flowos.Module):
        protocol, mode = "udp", flowos.RDWR

        def process(self, window):
            window.delete(window.head, window.tail)

    assert run(tmp_path, cut(udp(b"a" * 40), 16), Drop())[0] == []


@pytest.mark.parametrize("version", [4, 6])
def test_edited_segments_in_fragments(tmp_path, version):
    said = b"hello " * 20, b"world " * 20
    came = records(talk(*said), *ENDS[version])
    packets = [record[:2] for record in came[:3]]
    for number, record in enumerate(came[3:5]):
        packets += cut(record, 48, number)
    packets += [record[:2] for record in came[5:]]
    script = [Edit(3, 2, b"p!"), Edit(130, 0, b"(new)" * 30), Edit(239, 1)]
    out, _ = run(tmp_path, packets, Scripted(script))
    assert max(len(frame) for _, frame in out) <= max(len(frame) for _, frame in packets)
    whole = joined(out)
    assert all(valid(frame) for _, frame in whole)
    assert read_streams(whole)[0] == edited(b"".join(said), script)


def test_a_retransmission_in_fragments_bears_the_edited_bytes(tmp_path):
    came = [record[:2] for record in records(talk(b"hello " * 20))]
    again = cut((came[3][0], came[3][1]), 48, 9)
    packets = [*came[:3], *cut(came[3], 48), *again, *came[4:]]
    out, _ = run(tmp_path, packets, Scripted([Edit(0, 5, b"bye"), Edit(60, 0, b"++")]), batch=1, deliver_units=1)
    segments = [frame for _, frame in joined(out) if len(frame) > 54]
    assert all(valid(frame) for frame in segments)
    assert [frame[54:] for frame in segments] == [edited(b"hello " * 20, [Edit(0, 5, b"bye"), Edit(60, 0, b"++")])] * 2


def test_translated_datagrams_in_fragments(tmp_path):
    """Ports stand in the first fragment alone: the datagram is translated whole, and cut again."""
    class Translate(flowos.Module):
        protocol, mode = "ip", flowos.RDWR

        def opened(self, connection):
            connection.translate(("192.0.2.1", 1234))

        def process(self, window):
            pass

    parts = cut(udp(b"payload " * 40), 80)
    out, _ = run(tmp_path, parts, Translate())
    assert max(len(frame) for _, frame in out) <= max(len(frame) for _, frame in parts)
    (_, frame), = joined(out)
    assert valid(frame) and frame[26:30] == bytes([192, 0, 2, 1]) and frame[34:36] == struct.pack(">H", 1234)
    assert frame[42:] == b"payload " * 40


# ------------------------------------------------------------------------------ never whole

def test_fragments_of_a_datagram_that_never_becomes_whole_leave(tmp_path):
    """At its time-out, at the end, when it is evicted, when it contradicts itself: each leaves once, as it came."""
    parts = cut(udp(b"a" * 100), 32)
    at_the_end, counters = run(tmp_path, [udp(b"x"), *parts[:-1]], Change())
    assert at_the_end == [udp(b"x"), *parts[:-1]] and counters["ip_fragments_timed_out"] == 1
    late = udp(b"late", at=31 * SECOND)
    timed_out, _ = run(tmp_path, [*parts[:-1], late], Change())
    assert [frame for _, frame in timed_out] == [frame for _, frame in (*parts[:-1], late)]
    assert [ts for ts, _ in timed_out] == [late[0]] * 4
    others = [fragment for number in range(20) for fragment in cut(udp(b"b" * 100), 32, 100 + number)[:2]]
    evicted, counters = run(tmp_path, [*parts[:-1], *others], Change(), defrag_datagrams=4)
    assert sorted(frame for _, frame in evicted) == sorted(frame for _, frame in (*parts[:-1], *others))
    assert counters["ip_fragments_evicted"] == 17
    six = cut(udp(b"c" * 100, 6), 32)
    overlap = (six[0][0], six[1][1][:14 + 42] + struct.pack(">H", 8 | 1) + six[1][1][14 + 44:])
    poisoned, counters = run(tmp_path, [six[0], six[1], overlap, six[2], six[3]], Change())
    assert [frame for _, frame in poisoned] == [frame for _, frame in (six[0], six[1], overlap, six[2], six[3])]
    assert counters["ip6_fragment_overlap"] == 1 and counters["ip_fragment_poisoned"] == 2
    many, _ = run(tmp_path, parts, Change(), defrag_pieces=2)
    assert sorted(frame for _, frame in many) == sorted(frame for _, frame in parts)


def test_repeated_and_overlapping_fragments_leave_with_the_others(tmp_path):
    parts = cut(udp(bytes(range(100))), 32)
    overlap = cut(udp(bytes(range(100))), 48)[0]
    packets = [parts[0], parts[0], overlap, parts[2], parts[1], parts[3]]
    out, _ = run(tmp_path, packets, Change())
    assert out == packets
    out, _ = run(tmp_path, packets, Change(bytes(range(40, 50)), b"-"))
    (_, frame), = joined(out)
    assert valid(frame) and frame[42:] == bytes(range(40)) + b"-" + bytes(range(50, 100))


# ------------------------------------------------------------------------------ nobody writes

class Count(flowos.Module):
    protocol = "udp"

    def process(self, window):
        pass


def test_without_writers_fragments_leave_at_once(tmp_path):
    parts = cut(udp(b"a" * 100), 32)
    other = datagram(b"other", ("10.9.9.9", 5), ("10.0.0.2", 53))
    packets = [parts[0], other, parts[1], other, *parts[2:]]
    out, counters = run(tmp_path, packets, Count())
    assert out == packets and counters["ip_fragments_held"] == 0


def test_fragments_of_a_flow_that_nobody_writes_leave_at_once(tmp_path):
    """A writer of another flow holds nothing up, where the first fragment is one of a connection that is known."""
    parts = cut(udp(b"a" * 100), 32)
    other = datagram(b"other", ("10.9.9.9", 5), ("10.0.0.2", 5353))
    packets = [udp(b"known"), parts[0], other, parts[1], other, *parts[2:]]
    out, counters = run(tmp_path, packets, Change(), flow="udp,tp_dst=5353", batch=1)
    assert out == packets and counters["ip_fragments_held"] == 0


# ------------------------------------------------------------------------------ in line

class Shout(flowos.Module):
    protocol, mode = "tcp", flowos.RDWR

    def process(self, window):
        for match in window.find(b"hello"):
            window.replace(match, b"HELLO!")


class Between:
    """An engine between two pipes."""

    def __init__(self, *modules, **config):
        self.ends, inner = zip(pipe("left"), pipe("right"))
        self.engine = flowos.Engine(flowos.Config(**config))
        self.engine.connect(*inner)
        for module in modules:
            self.engine.attach(module)

    def say(self, side, *packets):
        """Send packets from one side; give what left to the left and to the right."""
        for _, frame in packets:
            assert self.ends[side].send(frame, ts=time.time_ns())
        self.ends[side].tx_sync()
        self.engine.step()
        return [[(ts, bytes(frame)) for ts, frame in end.receive()] for end in self.ends]


@pytest.mark.parametrize("version", [4, 6])
def test_a_kept_connection_takes_segments_in_fragments(version):
    """Both ends get whole segments of ours: acknowledged, edited, with the link's header."""
    came = [record[:2] for record in records(talk(b"hello " * 40), *ENDS[version])]
    between = Between(Shout())
    with between.engine:
        for side, packet in zip((0, 1, 0), came[:3]):
            assert between.say(side, packet)[1 - side] == [(pytest.approx(time.time_ns(), abs=60 * SECOND), packet[1])]
        left, right = between.say(0, *cut(came[3], 64))
        start = 14 + (20 if version == 4 else 40)
        assert all(valid(frame) and frame[12:14] == came[0][1][12:14] for _, frame in left + right)
        assert b"".join(frame[start + 20:] for _, frame in right) == b"HELLO! " * 40
        assert struct.unpack_from(">I", left[-1][1], start + 8)[0] == 1001 + 240


def test_fragments_that_wait_are_let_go_in_time():
    """In line time goes on without packets."""
    parts = cut(udp(b"a" * 100), 32)
    between = Between(Change(), defrag_seconds_ipv4=1.0)
    with between.engine:
        began = time.monotonic()
        left, right = between.say(0, *parts[:2])
        assert not left and (not right or time.monotonic() - began >= 1)
        right = right or until(lambda: between.say(0)[1], "they are let go")
        assert [frame for _, frame in right] == [frame for _, frame in parts[:2]]


@pytest.mark.live
@pytest.mark.parametrize("version", [4, 6])
def test_the_kernel_puts_edited_datagrams_together(root, version):
    """The kernel cuts long datagrams, and takes what left: its reassembly and its checksums judge."""
    with Network() as network, contextlib.ExitStack() as stack:
        with inside(network.names["middle"]):
            ports = [stack.enter_context(contextlib.closing(PacketPort(name, slots=256))) for name in ("m0", "m1")]
        engine = stack.enter_context(flowos.Engine())
        engine.connect(*ports)
        engine.attach(Change(b"old", b"brand new"))
        sockets = []
        for role, address in zip(("client", "server"), ADDRESSES[version]):
            with inside(network.names[role]):
                sockets.append(stack.enter_context(socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_DGRAM)))
            sockets[-1].bind((address, 5000))
            sockets[-1].setblocking(False)
        for size in (10, 2000, 9000, 30000):
            for side in (0, 1):
                payload = (b"an old thing " * 3000)[:size]
                sockets[side].sendto(payload, (ADDRESSES[version][1 - side], 5000))

                def arrived():
                    engine.step()
                    with contextlib.suppress(BlockingIOError):
                        return sockets[1 - side].recv(65535)
                assert until(arrived, "the datagram", pause=0) == payload.replace(b"old", b"brand new")


# ------------------------------------------------------------------------------ at random

@settings(deadline=None)
@given(data=st.data())
def test_random_datagrams_in_random_fragments(data, tmp_path_factory):
    """Sizes, orders, repetitions and edits at random: each datagram leaves once, edited; no fragment is longer than before."""
    version = data.draw(st.sampled_from([4, 6]))
    packets, expected, pieces = [], [], []
    for number in range(data.draw(st.integers(1, 3))):
        payload = data.draw(st.binary(min_size=1, max_size=120))
        parts = cut(udp(payload, version, number), 8 * data.draw(st.integers(1, 8)), number)
        parts += data.draw(st.lists(st.sampled_from(parts), max_size=2)) if version == 4 else []
        last = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        while parts and last in parts:
            parts.remove(last)
        packets += [*data.draw(st.permutations(parts)), last]
        pieces.append([*parts, last])
        expected.append(payload)
    old, new = data.draw(st.sampled_from([(b"", b""), (b"\0", b""), (b"\0", b"long" * 30), (b"\1", b"\2")]))
    packets = [(build.START_NS + i, frame) for i, (_, frame) in enumerate(packets)]
    out, _ = run(tmp_path_factory.mktemp("bundle"), packets, Change(old, new), batch=data.draw(st.sampled_from([1, 256])), deliver_units=1)
    expected = [payload.replace(old, new) if old else payload for payload in expected]
    start = 14 + (20 if version == 4 else 40) + 8
    longest = max(max(len(frame) for _, frame in parts) if len(parts) > 1 else start + 8 + len(payload)    # what came whole may grow
                  for parts, payload in zip(pieces, expected, strict=True))
    assert max([len(frame) for _, frame in out], default=0) <= longest
    whole = [frame for _, frame in joined(out)]
    assert all(valid(frame) for frame in whole)
    assert [frame[start:] for frame in whole] == [payload for payload in expected if payload]
    if not old:
        assert [frame for _, frame in out] == [frame for _, frame in packets]
