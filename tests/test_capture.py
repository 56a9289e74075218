"""Reading captures: every format, from a mapped file or a stream, whole, cut and damaged.

Three oracles: a plain reader in Python (capturebytes.py), tshark's frame tables beside the real
captures, and tshark itself on files made here.
"""
import gzip
import hashlib
import json
import os
import random
import struct
import subprocess
from pathlib import Path

import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

import capturebytes as cb
from capturebytes import drain, frames, read_plainly, save, streamed
from flowos.core.capture import CapturePort
from flowos.core.errors import CaptureError, StaleError, UsageError
from flowos.core.merged import MergedPort
from flowos.core.pipe import pipe
from flowos.core.port import Port
from flowos.core.ports import open_port
from flowos.core.streamport import StreamPort

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "pcaps"
CAPTURES = sorted(path for path in SHARED.glob("*") if path.suffix in (".pcap", ".pcapng"))


# ---------------------------------------------------------------------------- pcap variants

VARIANTS = [(cb.MICRO, 1000), (cb.NANO, 1), (cb.KUZNETZOV, 1000), (cb.IXIA_HARDWARE, 1000), (cb.IXIA_SOFTWARE, 1000)]


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("magic, unit", VARIANTS, ids=hex)
def test_pcap_variants(tmp_path, order, magic, unit):
    data = cb.pcap_header(order, magic, link=113)
    expected = []
    for i, frame in enumerate(frames(700)):
        data += cb.pcap_record(1_600_000_000 + i, 7 * i, frame, wire=len(frame) + i % 3, order=order, magic=magic)
        expected.append(cb.Packet((1_600_000_000 + i) * 10**9 + 7 * i * unit, len(frame), len(frame) + i % 3, 113, 0, 0,
                                  frame))
    with CapturePort(save(tmp_path, data)) as port:
        assert drain(port) == expected == read_plainly(data)[0]
        assert port.file_format == "pcap"
        counted = port.statistics()
    assert (counted["packets"], counted["damaged"], counted["cut_records"]) == (700, 0, 0)
    assert counted["bytes"] == sum(len(p.data) for p in expected)
    assert counted["cut"] == sum(p.wire > p.len for p in expected)
    assert streamed(data)[0] == expected


def test_the_largest_times_of_pcap(tmp_path):
    data = cb.pcap_header(magic=cb.MICRO) + cb.pcap_record(0xffffffff, 0xffffffff, b"x")
    with CapturePort(save(tmp_path, data)) as port:
        assert drain(port)[0].ts == 0xffffffff * 10**9 + 0xffffffff * 1000


def test_bits_about_check_sequences_are_not_part_of_the_link_type(tmp_path):
    data = cb.pcap_header(link=0x24000001) + cb.pcap_record(1, 0, b"x")
    with CapturePort(save(tmp_path, data)) as port:
        assert drain(port)[0].link == 1
        assert port.interfaces[0]["link"] == 1


def test_a_wire_length_below_the_captured_one_is_given_as_it_is(tmp_path):
    data = cb.pcap_header() + cb.pcap_record(1, 0, b"abcdef", wire=2)
    with CapturePort(save(tmp_path, data)) as port:
        assert drain(port)[0][:3] == (10**9, 6, 2)
        assert port.statistics()["cut"] == 0


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("minor, wire_first", [(0, True), (2, True), (3, True), (3, False), (4, False)])
def test_old_versions_of_pcap_put_the_wire_length_first(tmp_path, order, minor, wire_first):
    data = cb.pcap_header(order, minor=minor) + b"".join(
        cb.pcap_record(i, 0, b"abcdef", wire=6 + 54 * i, order=order, wire_first=wire_first) for i in range(3))
    with CapturePort(save(tmp_path, data)) as port:
        assert [p[1:3] for p in drain(port)] == [(6, 6), (6, 60), (6, 114)]
        assert (port.statistics()["cut"], port.statistics()["damaged"]) == (2, 0)
    assert [p[1:3] for p in streamed(data, step=7)[0]] == [(6, 6), (6, 60), (6, 114)]


@pytest.mark.parametrize("order", "<>")
def test_an_impossible_length_ends_a_pcap_file(tmp_path, order):
    good = cb.pcap_header(order) + cb.pcap_record(1, 0, b"abc", order=order)
    bad = struct.pack(order + "IIII", 2, 0, cb.MAX_FRAME + 1, 5) + bytes(300_000)
    with CapturePort(save(tmp_path, good + bad)) as port:
        assert [p.data for p in drain(port)] == [b"abc"]
        assert port.statistics()["damaged"] == 1
        assert port.statistics()["unread_bytes"] == len(bad)


def test_the_longest_record(tmp_path):
    frame = random.Random(3).randbytes(cb.MAX_FRAME)
    data = cb.pcap_header() + cb.pcap_record(1, 0, b"a") + cb.pcap_record(2, 0, frame) * 5 + cb.pcap_record(3, 0, b"z")
    for packets in (drain(CapturePort(save(tmp_path, data))), streamed(data, step=50_000)[0]):
        assert [p.data for p in packets] == [b"a"] + [frame] * 5 + [b"z"]


# ------------------------------------------------------------------------------------ pcapng

def test_pcapng_of_several_sections_interfaces_and_byte_orders(tmp_path):
    data = b""
    for order in "<>>":
        data += cb.section(order) + cb.interface(1, name=b"eth0", order=order)
        data += cb.interface(113, 96, resolution=9, offset=-3600, name=b"any", order=order)
        data += cb.enhanced(0, 1_500_000_000_123_456, b"first", order=order)
        data += cb.block(5, bytes(12), order) + cb.block(0x0bad, b"custom", order)
        data += cb.enhanced(1, 1_500_000_000_123_456_789, b"second", wire=600, order=order,
                            extra=cb.options((1, b"comment"), order=order))
        data += cb.obsolete(1, 77, b"third", order=order) + cb.simple(b"fourth", order=order)
    with CapturePort(save(tmp_path, data)) as port:
        packets = drain(port)
        counted = port.statistics()
        assert [i["name"] for i in port.interfaces] == ["eth0", "any"] * 3
        assert [(i["link"], i["snaplen"], i["resolution"], i["offset"]) for i in port.interfaces][:2] == [
            (1, 0, 6, 0), (113, 96, 9, -3600)]
    assert packets == read_plainly(data)[0]
    assert [(p.ts, p.link, p.iface, p.flags) for p in packets[4:8]] == [
        (1_500_000_000_123_456_000, 1, 2, 0), (1_499_996_400_123_456_789, 113, 3, 0),
        (-3600 * 10**9 + 77, 113, 3, 0), (-3600 * 10**9 + 77, 1, 2, cb.NO_TIME)]
    assert (counted["packets"], counted["sections"], counted["described"], counted["other_blocks"]) == (12, 3, 6, 6)
    assert (counted["cut"], counted["without_time"], counted["damaged"]) == (3, 3, 0)


def test_a_simple_packet_is_as_long_as_the_snap_length_lets_it(tmp_path):
    data = cb.section() + cb.interface(snaplen=6) + cb.simple(b"abcdef", wire=100) + cb.simple(b"abc")
    with CapturePort(save(tmp_path, data)) as port:
        assert [(p.data, p.wire) for p in drain(port)] == [(b"abcdef", 100), (b"abc", 3)]
        assert port.statistics()["cut"] == 1


@settings(max_examples=300)
@given(st.integers(0, 2**64 - 1), st.integers(0, 255), st.one_of(st.just(0), st.integers(-2**63, 2**63 - 1)))
@example(2**64 - 505274165, 6, 0)
@example(2**63 - 1, 9, 0)
@example(2**62 - 1, 9, 0)
@example(2**62, 9, 0)
@example(0, 0x80, -1)
@example(2**64 - 1, 0xff, 2**63 - 1)
@example(1_600_000_000 << 20, 0x80 + 20, 0)
@example(1_600_000_000_123_456_789_123 % 2**64, 12, 18446744)
def test_pcapng_times_of_every_resolution(tmp_path_factory, time, resolution, offset):
    data = cb.section() + cb.interface(resolution=resolution, offset=offset) + cb.enhanced(0, time, b"x")
    with CapturePort(save(tmp_path_factory.mktemp("time"), data)) as port:
        assert drain(port)[0].ts == cb.interface_time(time, resolution, offset)


def test_damaged_blocks_are_passed_over(tmp_path):
    good = cb.section() + cb.interface() + cb.enhanced(0, 1, b"one")
    bad = [
        cb.enhanced(1, 2, b"no such interface"),
        cb.block(6, struct.pack("<IIIII", 0, 0, 3, 9, 9) + b"too short"[:8]),
        cb.block(6, b"no header"),
        cb.block(3, b""),
        cb.block(2, bytes(8)),
        cb.block(1, b"\1\0"),
    ]
    for block in bad:
        data = good + block + cb.enhanced(0, 9, b"two")
        with CapturePort(save(tmp_path, data)) as port:
            assert [p.data for p in drain(port)] == [b"one", b"two"], block
            assert port.statistics()["damaged"] == 1, block
    options = cb.block(1, struct.pack("<HHI", 7, 0, 0) + struct.pack("<HH", 9, 500))
    with CapturePort(save(tmp_path, good + options + cb.enhanced(1, 9, b"two"))) as port:
        assert [(p.data, p.link) for p in drain(port)] == [(b"one", 1), (b"two", 7)]
        assert port.statistics()["damaged"] == 1


@pytest.mark.parametrize("bad", [
    struct.pack("<II", 6, 8) + bytes(40),
    struct.pack("<II", 6, cb.MAX_BLOCK + 4) + bytes(40),
    cb.enhanced(0, 1, b"gone")[:-4] + struct.pack("<I", 9999),
    cb.block(0x0a0d0d0a, bytes(16)),
    cb.section(major=7),
], ids=["short", "long", "trailer", "no byte order", "version"])
def test_an_impossible_block_ends_a_pcapng_file(tmp_path, bad):
    good = cb.section() + cb.interface() + cb.enhanced(0, 1, b"one")
    data = good + bad + cb.enhanced(0, 9, b"two")
    with CapturePort(save(tmp_path, data)) as port:
        assert [p.data for p in drain(port)] == [b"one"]
        counted = port.statistics()
    assert counted["damaged"] == 1
    assert counted["unread_bytes"] == len(data) - len(good)
    assert read_plainly(data)[1] == 1


def test_more_interfaces_than_there_are_numbers(tmp_path):
    many = b"".join(cb.interface(link) for link in range(40_000))
    data = (cb.section() + many + cb.enhanced(39_999, 1, b"x")) * 2
    with CapturePort(save(tmp_path, data)) as port:
        assert [(p.link, p.iface) for p in drain(port)] == [(39_999, 39_999)] * 2
        assert port.statistics()["renumbered"] == 1
        assert port.statistics()["described"] == 80_000
    data = cb.section() + many * 2 + cb.enhanced(65_535, 1, b"x") + cb.enhanced(65_536, 2, b"y")
    with CapturePort(save(tmp_path, data)) as port:
        assert [p.iface for p in drain(port)] == [65_535]
        assert port.statistics()["damaged"] == 80_000 - 65_536 + 1


def test_a_block_larger_than_the_blocks_of_a_stream(tmp_path):
    data = cb.section() + cb.interface() + cb.enhanced(0, 1, b"one")
    data += cb.block(10, random.Random(5).randbytes(3 << 20)) + cb.enhanced(0, 2, b"two")
    for packets in (drain(CapturePort(save(tmp_path, data))), streamed(data, slots=1)[0]):
        assert [p.data for p in packets] == [b"one", b"two"]


# ------------------------------------------------------------------------------ what is none

@pytest.mark.parametrize("data, expected", [
    (b"", "empty"),
    (b"\xd4", "begins d4"),
    (cb.pcap_header()[:20], "ends inside its header, expected 24 bytes"),
    (cb.pcap_header(magic=cb.IXIA_HARDWARE)[:27], "expected 28 bytes"),
    (cb.section()[:27], "ends inside its header, expected 28 bytes"),
    (cb.pcap_header(major=3), "offset 4: version 3.4, expected pcap 2"),
    (cb.section(major=2), "offset 12: version 2.0"),
    (cb.section()[:4] + bytes([12, 0, 0, 0]) + cb.section()[8:], "offset 4: section header of impossible length 0c 00"),
    (cb.section()[:8] + b"abcd" + cb.section()[12:], "offset 8: byte-order magic 61 62 63 64"),
    (b"PK\3\4" + bytes(40), "a zip archive"),
    (b"GMBU" + bytes(40), "a Network Monitor 2 capture"),
    (b"time,src,dst\n1,2,3\n", "text that begins 'time,src,dst'"),
    (bytes(64), "data that begins 00 00 00 00"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_is_no_capture_is_refused_by_name(tmp_path, data, expected):
    path = save(tmp_path, data)
    for port in (CapturePort, open_port):
        with pytest.raises(CaptureError, match="x.pcap: ") as error:
            port(path)
        assert expected in str(error.value)
    with pytest.raises(CaptureError) as error:
        StreamPort(path)
    assert "x.pcap" in str(error.value) and "expected" in str(error.value)


def test_errors_of_opening(tmp_path):
    for port in (CapturePort, StreamPort, open_port):
        with pytest.raises(CaptureError, match="none.pcap: No such file"):
            port(tmp_path / "none.pcap")
    with pytest.raises(CaptureError, match="is a directory"):
        open_port(tmp_path)
    with pytest.raises(UsageError, match="named by a path"):
        open_port(7)
    path = save(tmp_path, cb.pcap_header())
    for slots in (0, 3, -1, 1 << 21):
        for port in (CapturePort, StreamPort):
            with pytest.raises(UsageError, match="power of two"):
                port(path, slots)
    with pytest.raises(UsageError, match="merging 0 ports"):
        MergedPort([])


@pytest.mark.parametrize("data", [cb.pcap_header(), cb.section(), cb.section() + cb.interface()],
                         ids=["pcap", "section", "interface"])
def test_a_capture_without_packets_is_one(tmp_path, data):
    path = save(tmp_path, data)
    for make in (CapturePort, StreamPort):
        with make(path) as port:
            assert drain(port) == []
            assert port.ended and port.rx_sync() == 0
            assert port.statistics()["cut_records"] == 0


# -------------------------------------------------------------------------- cut at every byte

def small_captures():
    """Give one small capture of each format, with every kind of block."""
    pcap = {f"pcap {order}{magic:x}": cb.pcap_header(order, magic) + b"".join(
        cb.pcap_record(i, i, frame, order=order, magic=magic) for i, frame in enumerate(frames(4, most=9)))
        for order in "<>" for magic, _ in VARIANTS}
    pcap |= {f"pcap 2.{minor}": cb.pcap_header(minor=minor) + b"".join(
        cb.pcap_record(i, i, frame, wire=len(frame) + i, wire_first=True) for i, frame in enumerate(frames(4, most=9)))
        for minor in (2, 3)}
    for order in "<>":
        pcap[f"pcapng {order}"] = (
            cb.section(order) + cb.interface(1, 5, 9, 17, b"lo", order) + cb.enhanced(0, 99, b"abcde", order=order)
            + cb.simple(b"abcde", 9, order) + cb.block(4, bytes(4), order) + cb.section(order)
            + cb.interface(101, order=order) + cb.obsolete(0, 5, b"xyz", order=order))
    return pcap


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in small_captures().items()])
def test_cut_at_every_byte(tmp_path, data):
    path = tmp_path / "cut"
    for end in range(len(data) + 1):
        cut = data[:end]
        path.write_bytes(cut)
        try:
            expected, damaged, broken = read_plainly(cut)
        except ValueError:
            for make in (CapturePort, StreamPort):
                with pytest.raises(CaptureError):
                    make(path)
            continue
        for make in (CapturePort, StreamPort):
            with make(path, 2) as port:
                assert drain(port) == expected, end
                counted = port.statistics()
            assert (counted["damaged"], counted["cut_records"]) == (damaged, broken), end
            assert bool(counted["unread_bytes"]) == broken


@settings(max_examples=150)
@given(st.data())
def test_damaged_anywhere(tmp_path_factory, data):
    good = data.draw(st.sampled_from(sorted(small_captures().items())))[1]
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    path = save(tmp_path_factory.mktemp("bad"), bad)
    try:
        expected, damaged, broken = read_plainly(bytes(bad))
    except ValueError:
        for make in (CapturePort, StreamPort):
            with pytest.raises(CaptureError):
                make(path)
        return
    for make in (CapturePort, StreamPort):
        with make(path, 4) as port:
            assert drain(port) == expected
            counted = port.statistics()
        assert (counted["damaged"], counted["cut_records"]) == (damaged, broken)


# ----------------------------------------------------------------------------- real captures

def epoch_text(ns):
    """Write a time as tshark prints it."""
    return f"{'-' if ns < 0 else ''}{abs(ns) // 10**9}.{abs(ns) % 10**9:09d}"


@pytest.mark.parametrize("path", CAPTURES or [pytest.param(None, marks=pytest.mark.skip("no captures in ../shared/pcaps"))],
                         ids=lambda path: path.name if path else "none")
def test_real_captures_agree_with_tshark(path):
    oracle = json.loads(Path(f"{path}.json").read_text())["capture"]
    with CapturePort(path) as port:
        packets = drain(port)
        counted = port.statistics()
        interfaces = port.interfaces

    def tshark_time(packet):
        # tshark takes every pcapng time for unsigned, even one of the year 586,524; here it is one before the epoch.
        if packet.flags & cb.NO_TIME:
            return "none"
        if packet.ts < 0 and interfaces[packet.iface]["offset"] == 0:
            return epoch_text(packet.ts + 2**64 * 10**(9 - interfaces[packet.iface]["resolution"]))
        return epoch_text(packet.ts)

    table = hashlib.sha256()
    for packet in packets:
        table.update(f"{tshark_time(packet)},{packet.len},{packet.wire}\n".encode())
    assert table.hexdigest() == oracle["frame_table_sha256"]
    assert counted["packets"] == len(packets) == oracle["packets"]
    assert counted["bytes"] == oracle["bytes_captured"]
    assert counted["cut"] == oracle["packets_cut_by_snaplen"]
    assert sum(p.wire for p in packets) == oracle["bytes_on_wire"]
    assert tshark_time(packets[0]) == oracle["first_time"]
    assert tshark_time(packets[-1]) == oracle["last_time"]
    assert {i["link"] for i in interfaces} == set(oracle["linktypes"])


@pytest.mark.parametrize("path", CAPTURES[::6], ids=lambda path: path.name)
def test_real_captures_read_the_same_every_way(tmp_path, path):
    data = path.read_bytes()
    with CapturePort(path) as port:
        expected = drain(port)
        counted = port.statistics()
    for step in (None, 1009):
        packets, streamed_count, problem = streamed(data, step=step)
        assert packets == expected and problem is None
        assert {name: streamed_count[name] for name in counted} == counted
    for name, packed in (("gz", gzip.compress(data)), ("zst", zstandard.compress(data))):
        with open_port(save(tmp_path, packed, name)) as port:
            assert drain(port) == expected
            assert port.problem is None and port.statistics()["input_bytes"] == len(data)


def test_tshark_reads_what_is_built_here(tmp_path, tshark):
    """The builders of these tests, and so the plain reader, know the formats as tshark does."""
    for name, data in small_captures().items():
        path = save(tmp_path, data, "built")
        shown = subprocess.run([tshark, "-r", path, "-T", "fields", "-e", "frame.time_epoch", "-e", "frame.cap_len",
                                "-e", "frame.len"], capture_output=True, text=True, timeout=300, check=True).stdout
        rows = [line.split("\t") for line in shown.splitlines()]
        expected = read_plainly(data)[0]
        assert [(int(cap), int(size)) for _, cap, size in rows] == [(p.len, p.wire) for p in expected], name
        # A later section's interfaces, and records without a time, are tshark's own affair.
        assert [time for time, *_ in rows if time] == [
            epoch_text(p.ts) for p, row in zip(expected, rows) if row[0]], name


# --------------------------------------------------------------------------------- mapped file

def big_capture(path, megabytes):
    """Write a capture of frames of 1,000 bytes, each full of its number; return how many."""
    count = megabytes * (1 << 20) // 1016
    with open(path, "wb") as file:
        file.write(cb.pcap_header(magic=cb.NANO))
        for i in range(count):
            file.write(cb.pcap_record(i, 0, struct.pack("<I", i) * 250))
    return count


def resident(kind):
    """Give the resident kilobytes of one kind of this process: RssAnon, RssFile."""
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines()
                    if line.startswith(kind)).split()[1])


def test_a_long_file_needs_flat_memory_and_its_frames_stay(tmp_path):
    count = big_capture(tmp_path / "big", 64)
    port = CapturePort(tmp_path / "big")
    assert port.stable
    before, most, seen, addresses = resident("RssFile"), 0, 0, []
    ring = port.rx_ring
    while port.rx_sync() or not port.ended:
        if len(ring):
            assert ring[ring.head].data[:4] == struct.pack("<I", seen)
            addresses.append(ring[ring.head].address)
        seen += len(ring)
        ring.head = ring.tail
        most = max(most, resident("RssFile"))
    assert seen == count
    assert most - before < 24 << 10, "of 64 MB, at most some 10 stay mapped in"
    port.close()
    for number, address in enumerate(addresses):
        assert bytes((port_byte(address, i) for i in range(4))) == struct.pack("<I", number * 256)


def test_memory_is_flat_for_who_looks_back_far(tmp_path):
    big_capture(tmp_path / "big", 64)
    before, most, addresses = resident("RssFile"), 0, []
    with CapturePort(tmp_path / "big") as port:
        ring = port.rx_ring
        while port.rx_sync() or not port.ended:
            addresses += [slot.address for slot in list(ring)[::16]]
            ring.head = ring.tail
            for address in addresses[-2000:-1500]:    # some 24 to 32 MB back
                port_byte(address, 0)
            most = max(most, resident("RssFile"))
    assert most - before < 32 << 10, "pages looked at again are given back again"


def port_byte(address, offset):
    """Read a byte of memory."""
    import ctypes
    return ctypes.c_ubyte.from_address(address + offset).value


def test_held_slots_stay_mapped_in(tmp_path):
    big_capture(tmp_path / "big", 4)
    with CapturePort(tmp_path / "big", 4096) as port:
        port.rx_sync()
        held = [slot.data for slot in port.rx_ring]
        assert port.rx_sync() == 0
        assert [slot.data for slot in port.rx_ring] == held
        assert [data[:4] for data in held] == [struct.pack("<I", i) for i in range(len(held))]


def test_a_slot_is_stale_after_its_release_and_after_close(tmp_path):
    data = cb.pcap_header() + cb.pcap_record(1, 0, b"abc") * 3
    port = CapturePort(save(tmp_path, data))
    port.rx_sync()
    first, second = list(port.rx_ring)[:2]
    port.rx_ring.head += 1
    assert second.data == b"abc"
    with pytest.raises(StaleError):
        first.data
    port.close()
    port.close()
    with pytest.raises(StaleError):
        second.data
    assert port.ended and port.rx_sync() == 0
    with pytest.raises(UsageError, match="closed"):
        port.fileno()


def test_a_file_that_is_cut_while_it_is_read(tmp_path):
    count = big_capture(tmp_path / "big", 16)
    with CapturePort(tmp_path / "big") as port:
        port.rx_sync()
        os.truncate(tmp_path / "big", 6 << 20)
        seen = len(drain(port))
        assert (6 << 20) // 1016 - 1 <= seen < count
        assert port.statistics()["cut_records"] == 1


def test_batches_are_as_large_as_the_ring(tmp_path):
    data = cb.pcap_header() + cb.pcap_record(1, 0, b"abc") * 100
    with CapturePort(save(tmp_path, data), 32) as port:
        ring = port.rx_ring
        assert port.rx_sync() == 32 and port.rx_sync() == 0
        ring.head += 5
        assert ring.cur == ring.head and port.rx_sync() == 5
        ring.cur = ring.tail
        assert ring.avail == 0 and len(ring) == 32
        ring._check()


def test_counters_have_descriptions(tmp_path):
    path = save(tmp_path, cb.pcap_header() + cb.pcap_record(1, 0, b"abc"))
    ports = [CapturePort(path), StreamPort(path), MergedPort([CapturePort(path), StreamPort(path)]), *pipe()]
    for port in ports:
        assert isinstance(port, Port)
        assert port.statistics().keys() == port.descriptions.keys()
        assert all(port.descriptions.values())
        port.close()
