"""Inputs that are read as they come: sockets, FIFOs, standard input, gzip and zstd, whole and damaged.

What arrives is compared with a plain reader of the same bytes (capturebytes.py); held slots must
keep their frames whatever is read meanwhile.
"""
import gzip
import os
import random
import socket
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import pytest
import zstandard

import capturebytes as cb
from capturebytes import drain, frames, read_plainly, save, streamed
from flowos.core.errors import CaptureError
from flowos.core.ports import open_port
from flowos.core.stream_input import Decompressed
from flowos.core.streamport import StreamPort


def test_a_stream_gives_what_it_has_without_waiting():
    ours, theirs = socket.socketpair()
    theirs.sendall(cb.pcap_header())
    with ours, theirs, StreamPort(ours, 8) as port:
        assert not port.stable and port.fileno() == ours.fileno()
        for number in range(20):
            record = cb.pcap_record(number, 0, b"x" * number)
            theirs.sendall(record[:-1])
            rest = threading.Timer(0.01, theirs.sendall, [record[-1:]])
            rest.start()                      # the record is not whole: rx_sync waits for its last byte
            assert port.rx_sync() == 1
            assert [slot.len for slot in port.rx_ring] == [number]
            port.rx_ring.head += 1
            rest.join()
        theirs.close()
        assert port.rx_sync() == 0 and port.ended


@pytest.mark.parametrize("slots", [1, 2, 64, 1024])
def test_held_slots_pin_their_blocks(slots):
    """Frames of held slots stay as they are while more is read, whatever is released when."""
    source = random.Random(slots)
    sent = [source.randbytes(source.choice([0, 60, 1500, 9000, 60_000])) for _ in range(1200)]
    data = cb.pcap_header() + b"".join(cb.pcap_record(i, 0, frame) for i, frame in enumerate(sent))
    ours, theirs = socket.socketpair()
    sender = threading.Thread(target=lambda: (theirs.sendall(data), theirs.close()))
    sender.start()
    with ours, StreamPort(ours, slots) as port:
        ring, released = port.rx_ring, 0
        while not (port.ended and len(ring) == 0):
            port.rx_sync()
            for i, slot in enumerate(ring):
                assert slot.data == sent[released + i]
            go = source.randrange(len(ring) + 1) if not port.ended else len(ring)
            ring.head += go
            released += go
        blocks = port.statistics()["blocks"]
    sender.join()
    assert released == len(sent)
    assert blocks <= slots + 2


def test_one_block_serves_while_nothing_is_held():
    data = cb.pcap_header() + cb.pcap_record(1, 0, bytes(1400)) * 5000
    packets, counted, _ = streamed(data, slots=256)
    assert len(packets) == 5000 and counted["blocks"] == 1


def test_a_fifo_and_a_descriptor(tmp_path):
    data = cb.pcap_header() + b"".join(cb.pcap_record(i, 0, f) for i, f in enumerate(frames(500)))
    os.mkfifo(tmp_path / "fifo")
    writer = threading.Thread(target=(tmp_path / "fifo").write_bytes, args=[data])
    writer.start()
    with open_port(str(tmp_path / "fifo")) as port:
        assert isinstance(port, StreamPort)
        assert drain(port) == read_plainly(data)[0]
    writer.join()
    with open(save(tmp_path, data), "rb") as file:
        with StreamPort(file) as port:
            assert len(drain(port)) == 500
        assert not file.closed
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        with StreamPort(file.fileno(), name="mine") as port:
            assert port.name == "mine" and len(drain(port)) == 500


READ_STDIN = """
import sys
sys.path.insert(0, sys.argv[1])
import capturebytes
from flowos.core.ports import open_port
with open_port("-") as port:
    print(port.name, type(port).__name__, len(capturebytes.drain(port)))
"""


def test_standard_input_from_a_pipe_and_from_a_file(tmp_path):
    data = cb.pcap_header() + cb.pcap_record(1, 0, b"abc") * 999
    command = [sys.executable, "-c", READ_STDIN, str(Path(__file__).parent)]
    project = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for feed, kind in ((data, "StreamPort"), (gzip.compress(data), "StreamPort")):
        done = subprocess.run(command, input=feed, capture_output=True, env=project, timeout=300)
        assert done.stdout.decode() == f"standard input {kind} 999\n", done.stderr.decode()
    for packed, kind in ((data, "CapturePort"), (zstandard.compress(data), "StreamPort")):
        with open(save(tmp_path, packed), "rb") as file:
            done = subprocess.run(command, stdin=file, capture_output=True, env=project, timeout=300)
        assert done.stdout.decode() == f"standard input {kind} 999\n", done.stderr.decode()


def test_a_descriptor_that_does_not_block():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.sendall(cb.pcap_header())
    with ours, theirs, StreamPort(ours.fileno()) as port:
        later = threading.Timer(0.02, theirs.sendall, [cb.pcap_record(1, 0, b"abc")])
        later.start()
        assert port.rx_sync() == 1
        later.join()


def test_an_input_that_cannot_be_read_any_more():
    read, write = os.pipe()
    os.write(write, cb.pcap_header() + cb.pcap_record(1, 0, b"abc"))
    port = StreamPort(read)
    os.dup2(write, read)                      # a descriptor to write to: reading fails
    assert len(drain(port)) == 1
    assert port.ended and "cannot be read: Bad file descriptor" in port.problem
    os.close(read)
    os.close(write)


# ---------------------------------------------------------------------------------- compressed

def zstd(data, **options):
    return zstandard.ZstdCompressor(**options).compress(data)


SKIPPABLE = b"\x52\x2a\x4d\x18\x05\0\0\0hello"


@pytest.mark.parametrize("pack", [
    gzip.compress, zstd,
    lambda data: gzip.compress(data[:100]) + gzip.compress(b"") + gzip.compress(data[100:]) + bytes(600),
    lambda data: zstd(data[:100]) + SKIPPABLE + zstd(b"") + zstd(data[100:]),
    lambda data: SKIPPABLE + zstd(data, write_checksum=True),
    lambda data: b"".join(gzip.compress(data[i:i + 7]) for i in range(0, len(data), 7)),
], ids=["gzip", "zstd", "gzip members and padding", "zstd frames", "skippable", "tiny members"])
def test_compressed_input(tmp_path, pack):
    data = cb.pcap_header() + b"".join(cb.pcap_record(i, 0, f) for i, f in enumerate(frames(300)))
    with open_port(save(tmp_path, pack(data), "named.pcap")) as port:
        assert drain(port) == read_plainly(data)[0]
        assert port.problem is None and port.compression in ("gzip", "zstd")


@pytest.mark.parametrize("compression, pack", [("gzip", gzip.compress), ("zstd", zstd)], ids=["gzip", "zstd"])
def test_compressed_input_cut_at_every_byte(tmp_path, compression, pack):
    data = cb.pcap_header() + b"".join(cb.pcap_record(i, 0, f) for i, f in enumerate(frames(12)))
    packed = pack(data)
    whole = read_plainly(data)[0]
    path = tmp_path / "cut"
    most = 0
    for end in range(1, len(packed)):
        path.write_bytes(packed[:end])
        try:
            with StreamPort(path) as port:
                packets = drain(port)
                assert port.problem == f"the input ends inside its {compression} data"
        except CaptureError as error:
            assert "the input ends inside" in str(error) or end < 4
            continue
        assert packets == whole[:len(packets)]
        most = max(most, len(packets))
    assert most == 12 or compression == "zstd"


@pytest.mark.parametrize("spoil, problem", [
    (lambda packed: packed[:-8] + bytes(4) + packed[-4:], "damaged gzip data"),
    (lambda packed: packed + b"garbage", "after its gzip data: text that begins 'garbage'"),
    (lambda packed: packed + bytes(9) + b"PK\3\4", "after its gzip data: a zip archive"),
    (lambda packed: packed + gzip.compress(b"more")[:-3], "the input ends inside its gzip data"),
], ids=["check sum", "text behind", "zip behind", "member cut"])
def test_what_is_wrong_with_compressed_input_is_told(tmp_path, spoil, problem):
    data = cb.pcap_header() + b"".join(cb.pcap_record(i, 0, f) for i, f in enumerate(frames(300)))
    with StreamPort(save(tmp_path, spoil(gzip.compress(data)))) as port:
        packets = drain(port)
        assert packets == read_plainly(data)[0][:len(packets)]
        assert port.ended and problem in port.problem


def test_compressed_bombs_are_taken_in_bounded_pieces():
    """What one call puts out is bounded, however much the input says it holds."""
    for compression, packed, size in (("gzip", gzip.compress(bytes(40 << 20)), 40 << 20),
                                      ("zstd", zstd(bytes(80 << 20)), 80 << 20)):
        source = Decompressed(os.open(os.devnull, os.O_RDONLY), packed, compression)
        view, total, most = memoryview(bytearray(1 << 16)), 0, 0
        while got := source.readinto(view):
            total += got
            most = max(most, got + len(source._out))
        os.close(source.fd)
        assert total == size and source.problem is None
        assert most <= 33 << 20


def test_zlib_is_not_taken_for_gzip(tmp_path):
    with pytest.raises(CaptureError, match="offset 0: data that begins 78 9c"):
        open_port(save(tmp_path, zlib.compress(cb.pcap_header())))
