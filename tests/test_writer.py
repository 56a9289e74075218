"""Writing captures: what is written is read back equal, by FlowOS, by a plain reader and by tshark.

Files stay valid whatever ends the writing: close, an exception, Ctrl-C, a reader that goes away.
"""
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import capturebytes as cb
from capturebytes import drain, read_plainly
from flowos.core.capture import CapturePort
from flowos.core.errors import CaptureError, UsageError
from flowos.core.ports import open_port
from flowos.core.writer import CaptureWriter
from waiting import asleep, until, unread

TIME = 1_600_000_000_123_456_789


def read_back(path):
    """Read a file with FlowOS, after checking that the plain reader sees the same in it."""
    packets, damaged, cut = read_plainly(Path(path).read_bytes())
    assert not damaged and not cut
    with CapturePort(path) as port:
        assert drain(port) == packets
    return packets


packets = st.lists(st.tuples(
    st.integers(-2**61, 2**61), st.binary(max_size=70), st.integers(0, 9), st.sampled_from([1, 101, 113, 65535]),
    st.integers(0, 3)), max_size=30)


@settings(max_examples=120)
@given(packets)
def test_pcapng_holds_everything(tmp_path_factory, packets):
    path = tmp_path_factory.mktemp("w") / "x.pcapng"
    with CaptureWriter(path) as writer:
        for ts, data, more, link, iface in packets:
            writer.write(ts, data, len(data) + more, link, iface)
    order = list(dict.fromkeys((iface, link) for _, _, _, link, iface in packets))
    assert read_back(path) == [
        cb.Packet(ts, len(data), len(data) + more, link, order.index((iface, link)), 0, data)
        for ts, data, more, link, iface in packets]
    assert writer.statistics()["interfaces"] == len(order)


@settings(max_examples=120)
@given(packets)
def test_pcap_holds_one_link_type(tmp_path_factory, packets):
    path = tmp_path_factory.mktemp("w") / "x.pcap"
    expected = []
    with CaptureWriter(path) as writer:
        first = packets[0][3] if packets else None
        for ts, data, more, link, iface in packets:
            if link == first:
                writer.write(ts, data, len(data) + more, link, iface)
                nearest = max(0, min(ts, 2**32 * 10**9 - 1))
                expected.append(cb.Packet(nearest, len(data), len(data) + more, link, 0, 0, data))
            else:
                with pytest.raises(UsageError, match=f"link type {link}; this pcap file holds link type {first}"):
                    writer.write(ts, data, len(data) + more, link, iface)
    assert read_back(path) == expected
    counted = writer.statistics()
    assert counted["packets"] == len(expected)
    assert counted["other_link"] == len(packets) - len(expected)
    assert counted["time_out_of_range"] == sum(ts != p.ts for p, ts in zip(
        expected, [ts for ts, _, _, link, _ in packets if link == first]))


@pytest.mark.parametrize("name", ["x.pcap", "x.pcapng", "x", "x.cap"])
def test_tshark_reads_what_was_written(tmp_path, tshark, name):
    path = tmp_path / name
    source = random.Random(1)
    with CaptureWriter(path) as writer:
        assert writer.file_format == ("pcap" if name == "x.pcap" else "pcapng")
        for i in range(300):
            link = 1 if name == "x.pcap" else source.choice([1, 113, 276])
            writer.write(TIME + i, source.randbytes(i), i + i % 2, link, i % 3)
    shown = subprocess.run([tshark, "-r", path, "-T", "fields", "-e", "frame.time_epoch", "-e", "frame.cap_len", "-e",
                            "frame.len"], capture_output=True, text=True, timeout=300, check=True).stdout
    assert shown.split() == [text for i in range(300) for text in (
        f"{(TIME + i) // 10**9}.{(TIME + i) % 10**9}", str(i), str(i + i % 2))]


def test_interface_names(tmp_path, tshark):
    path = tmp_path / "x.pcapng"
    with CaptureWriter(path) as writer:
        writer.describe_interface(7, 1, "left")
        writer.describe_interface(8, 113, "right éü")
        writer.write(1, b"x", iface=8, link=113)
        writer.write(2, b"y" * 20, iface=7)
        writer.write(3, b"z" * 20, iface=9)
        with pytest.raises(UsageError, match="1025 bytes"):
            writer.describe_interface(1, 1, "x" * 1025)
    with CapturePort(path) as port:
        assert [(p.iface, p.link) for p in drain(port)] == [(1, 113), (0, 1), (2, 1)]
        assert [i["name"] for i in port.interfaces] == ["left", "right éü", ""]
        assert [i["resolution"] for i in port.interfaces] == [9] * 3
    shown = subprocess.run([tshark, "-r", path, "-T", "fields", "-e", "frame.interface_name"], capture_output=True,
                           text=True, timeout=300, check=True).stdout
    assert shown.splitlines()[:2] == ["right éü", "left"]
    with CaptureWriter(tmp_path / "y.pcap") as writer:
        with pytest.raises(UsageError, match="describes no interfaces"):
            writer.describe_interface(0)


def test_frames_are_cut_to_the_snap_length(tmp_path):
    for name in ("x.pcap", "x.pcapng"):
        with CaptureWriter(tmp_path / name, snaplen=10) as writer:
            writer.write(1, b"0123456789ABC")
            writer.write(2, b"01234")
        assert [(p.data, p.wire) for p in read_back(tmp_path / name)] == [(b"0123456789", 13), (b"01234", 5)]
        assert writer.statistics()["cut"] == 1
        with CaptureWriter(tmp_path / name) as writer:
            writer.write(1, bytes(300_000))
        assert [(p.len, p.wire) for p in read_back(tmp_path / name)] == [(262144, 300_000)]


def test_a_capture_without_packets(tmp_path):
    for name in ("x.pcap", "x.pcapng"):
        CaptureWriter(tmp_path / name).close()
        assert read_back(tmp_path / name) == []
    with CaptureWriter(tmp_path / "x.pcap", link=113):
        pass
    with CapturePort(tmp_path / "x.pcap") as port:
        assert port.interfaces[0]["link"] == 113


def test_more_than_the_buffer_holds(tmp_path):
    source = random.Random(2)
    sent = [source.randbytes(source.choice([60, 1500, 60_000, 262_144])) for _ in range(100)]
    for name in ("x.pcap", "x.pcapng"):
        with CaptureWriter(tmp_path / name) as writer:
            for i, data in enumerate(sent):
                writer.write(i, data)
        assert [p.data for p in read_back(tmp_path / name)] == sent


def test_many_interfaces(tmp_path):
    path = tmp_path / "x.pcapng"
    pairs = [(iface, link) for link in (1, 113) for iface in range(33_000)]
    with CaptureWriter(path) as writer:
        for i, (iface, link) in enumerate(pairs + pairs[:500]):
            writer.write(i, b"", iface=iface, link=link)
    counted = writer.statistics()
    assert (counted["interfaces"], counted["too_many_interfaces"]) == (65_536, 66_000 - 65_536)
    with CapturePort(path, 1 << 17) as port:
        port.rx_sync()
        ring = port.rx_ring
        seen = [(ring[i].iface, ring[i].link) for i in (0, 32_999, 33_000, 65_535, 65_536, 66_035)]
    assert seen == [(0, 1), (32_999, 1), (33_000, 113), (65_535, 113), (0, 1), (499, 1)]


def test_packets_go_from_port_to_port(tmp_path):
    """take_from copies slots into the TX ring and syncs it, whatever the sizes of the rings."""
    data = cb.section() + cb.interface(1) + cb.interface(113, resolution=9)
    data += b"".join(cb.enhanced(i % 2, 1_600_000_000_000_000 + i, bytes([i % 256]) * (i % 99), i % 99 + 3)
                     for i in range(1000))
    (tmp_path / "in").write_bytes(data)
    for rx, tx in ((256, 256), (64, 4), (1, 64)):
        with CapturePort(tmp_path / "in", rx) as port, CaptureWriter(tmp_path / "out", slots=tx) as writer:
            total = 0
            while port.rx_sync() or not port.ended:
                total += writer.take_from(port)
                assert len(port.rx_ring) == 0
                port.rx_ring._check()
                writer.tx_ring._check()
        assert total == 1000
        assert read_back(tmp_path / "out") == read_plainly(data)[0]
        assert len(writer.tx_ring) == 0 and writer.tx_sync() == 0


# -------------------------------------------------------------------------- however it ends

def test_an_exception_leaves_a_valid_file(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        with CaptureWriter(tmp_path / "x.pcapng") as writer:
            writer.write(1, b"one")
            raise KeyboardInterrupt
    assert [p.data for p in read_back(tmp_path / "x.pcapng")] == [b"one"]
    assert writer.closed
    writer.close()
    for use in (lambda: writer.write(2, b"two"), writer.flush, writer.fileno, lambda: writer.describe_interface(1)):
        with pytest.raises(UsageError, match="is closed"):
            use()


def test_a_writer_that_is_forgotten_writes_the_rest(tmp_path):
    writer = CaptureWriter(tmp_path / "x.pcapng")
    writer.write(1, b"one")
    del writer
    assert [p.data for p in read_back(tmp_path / "x.pcapng")] == [b"one"]


WRITE_FOREVER = """
import sys
from flowos.core.writer import CaptureWriter
with CaptureWriter(sys.argv[1]) as writer:
    print("begun", file=sys.stderr, flush=True)
    number = 0
    while True:
        writer.write(number, b"x" * (number % 1500))
        number += 1
"""


def start(*arguments, **options):
    """Start a Python that finds FlowOS where this one does."""
    return subprocess.Popen([sys.executable, "-c", *arguments], stderr=subprocess.PIPE,
                            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, **options)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "kill"])
def test_signals_leave_whole_records(tmp_path, number):
    path = tmp_path / "x.pcap"
    child = start(WRITE_FOREVER, path)
    assert child.stderr.readline() == b"begun\n"
    while not path.exists() or path.stat().st_size < 3 << 20:
        time.sleep(0.01)
    child.send_signal(number)
    child.communicate(timeout=300)
    packets, damaged, cut = read_plainly(path.read_bytes())
    assert not damaged and len(packets) > 1000
    assert not cut or number == signal.SIGKILL    # killed inside the system call, it may end anywhere
    assert all(p.ts == i and p.len == i % 1500 for i, p in enumerate(packets))


def test_ctrl_c_while_a_fifo_is_full(tmp_path):
    """A write that is interrupted goes on where it stopped: the reader sees whole records."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    child = start(WRITE_FOREVER, path)
    with open(path, "rb") as file:
        assert child.stderr.readline() == b"begun\n"
        until(lambda: unread(file) and asleep(child.pid), "it waits, its buffer and the pipe full")
        child.send_signal(signal.SIGINT)
        data = file.read()
    assert b"KeyboardInterrupt" in child.communicate(timeout=300)[1]
    packets, damaged, cut = read_plainly(data)
    assert not damaged and not cut and len(packets) > 1000
    assert all(p.ts == i and p.len == i % 1500 for i, p in enumerate(packets))


def test_standard_output(tmp_path):
    program = ("from flowos.core.writer import CaptureWriter\nwriter = CaptureWriter('-')\n"
               "writer.write(5, b'abc')\nwriter.flush()\nwriter.write(6, b'def')\nwriter.close()\n")
    data, errors = start(program, stdout=subprocess.PIPE).communicate(timeout=300)
    assert not errors
    assert [(p.ts, p.data) for p in read_plainly(data)[0]] == [(5, b"abc"), (6, b"def")]


def test_a_writer_and_a_reader_at_the_ends_of_a_fifo(tmp_path):
    os.mkfifo(tmp_path / "fifo")

    def send():
        with CaptureWriter(tmp_path / "fifo") as writer:
            for i in range(5000):
                writer.write(i, struct.pack("<I", i) * 100)

    sender = threading.Thread(target=send)
    sender.start()
    with open_port(tmp_path / "fifo") as port:
        assert [p.data for p in drain(port)] == [struct.pack("<I", i) * 100 for i in range(5000)]
    sender.join()


def test_a_descriptor_that_does_not_block(tmp_path):
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    received = bytearray()

    def receive():
        while piece := theirs.recv(1 << 16):
            received.extend(piece)

    receiver = threading.Thread(target=receive)
    receiver.start()
    with CaptureWriter(ours, "pcap") as writer:
        for i in range(2000):
            writer.write(i, bytes(1500))
    ours.close()
    receiver.join()
    theirs.close()
    assert len(read_plainly(bytes(received))[0]) == 2000


def test_errors_of_writing(tmp_path):
    with pytest.raises(CaptureError, match="No such file or directory"):
        CaptureWriter(tmp_path / "none" / "x.pcap")
    with pytest.raises(UsageError, match="format 'cap'"):
        CaptureWriter(tmp_path / "x", file_format="cap")
    for snaplen in (0, 262145):
        with pytest.raises(UsageError, match="snap length"):
            CaptureWriter(tmp_path / "x", snaplen=snaplen)
    writer = CaptureWriter("/dev/full")
    with pytest.raises(CaptureError, match="/dev/full: cannot be written: No space left on device"):
        for i in range(1000):
            writer.write(i, bytes(1500))
    with pytest.raises(CaptureError, match="No space left"):
        writer.close()
    assert writer.closed
    writer.close()
    ours, theirs = socket.socketpair()
    theirs.close()
    writer = CaptureWriter(ours)
    with pytest.raises(CaptureError, match="Broken pipe"):
        writer.close()
    ours.close()


def test_counters_have_descriptions(tmp_path):
    with CaptureWriter(tmp_path / "x") as writer:
        assert writer.statistics().keys() == writer.descriptions.keys()
        assert all(writer.descriptions.values())
        assert "CaptureWriter" in repr(writer)
