"""The parts of `flowos inspect`: bodies, spools, reports, stream files, tables, each on its own."""
import gzip
import hashlib
import io
import json
import os
import zlib

import pytest

from flowos import cli
from flowos.cli import inspect as command
from flowos.cli.inspect_bodies import BOMB_FLOOR, Body
from flowos.cli.inspect_report import JsonlReport, JsonReport, Selection
from flowos.cli.inspect_spool import NumberedSpool, Spool
from flowos.cli.inspect_streams import SMALL, Digest, StreamFiles
from flowos.cli.inspect_tables import Rows, shown

BODY = "".join(hashlib.sha256(bytes([number])).hexdigest() for number in range(20)).encode()
PACKED = gzip.compress(BODY, mtime=0)


@pytest.mark.parametrize("coding, packed", [
    ("", BODY), ("identity", BODY), ("gzip", PACKED), ("x-gzip", PACKED), ("GZIP", PACKED),
    ("deflate", zlib.compress(BODY)), ("deflate", zlib.compress(BODY)[2:-4]),
    ("gzip", gzip.compress(BODY[:100]) + gzip.compress(BODY[100:])), ("gzip", PACKED + b"\0" * 9),
    ("deflate, gzip", gzip.compress(zlib.compress(BODY)))])
@pytest.mark.parametrize("step", [1, 7, 10**6])
def test_bodies_are_decoded(coding, packed, step):
    body = Body(coding)
    for at in range(0, len(packed), step):
        body.feed(packed[at:at + step])
    assert body.finish(True) == (len(BODY), hashlib.sha256(BODY).hexdigest(), None)


def test_zstd_bodies_are_decoded():
    zstandard = pytest.importorskip("zstandard")
    packed = zstandard.ZstdCompressor().compress(BODY)
    for step in (1, 5, 10**6):
        body = Body("zstd")
        for at in range(0, len(packed), step):
            body.feed(packed[at:at + step])
        assert body.finish(True) == (len(BODY), hashlib.sha256(BODY).hexdigest(), None)


@pytest.mark.parametrize("coding, raw, problem", [
    ("gzip", b"plain text", "damaged"), ("deflate", b"\xff" * 20, "damaged"), ("rot13", b"cynva", "unknown"),
    ("gzip", PACKED[:-9], "cut"), ("gzip," * 9, PACKED, "unknown"), ("gzip", PACKED[:30] + b"\xff" * 30, "damaged")])
def test_what_cannot_be_decoded_is_reported_as_transferred(coding, raw, problem):
    body = Body(coding)
    body.feed(raw)
    assert body.finish(True) == (len(raw), hashlib.sha256(raw).hexdigest(), problem)


def test_an_incomplete_body_is_decoded_as_far_as_it_goes():
    body = Body("gzip")
    body.feed(PACKED[:-9])
    size, _, problem = body.finish(False)
    assert 0 < size <= len(BODY) and problem is None


def test_no_body_is_no_problem():
    assert Body("gzip").finish(True) == (0, hashlib.sha256(b"").hexdigest(), None)


def test_a_bomb_is_reported_as_transferred():
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range((BOMB_FLOOR >> 20) + 2)) + packer.flush()
    body = Body("gzip")
    body.feed(bomb)
    body.feed(b"more")
    assert body.finish(True) == (len(bomb) + 4, hashlib.sha256(bomb + b"more").hexdigest(), "bomb")


def test_spools_give_back_what_they_took():
    spool, numbered = Spool(), NumberedSpool()
    order = [(number * 7919) % 10007 for number in range(10007)]
    for number in order:
        spool.append(f"line {number} ä")
        numbered.put(number, f"line {number} ä")
    assert list(spool.lines()) == [f"line {number} ä" for number in order]
    assert list(numbered.numbered()) == [(number, f"line {number} ä") for number in range(10007)]
    numbered.put(10 ** 6, "far")
    assert list(numbered.numbered())[-1] == (10 ** 6, "far") and numbered.count == 10008


class Told:
    """Stands for a connection, to reports."""

    def __init__(self, number, proto="tcp"):
        self.id, self.proto = number, proto


def test_messages_leave_in_order_of_the_packets_that_completed_them():
    for kind in (JsonReport, JsonlReport):
        out = io.StringIO()
        told = kind(out)
        for number in (0, 1):
            told.connection(number, {"proto": "tcp", "detected": "dns"})
        for packet, name in ((5, "d"), (2, "a"), (3, "b"), (3, "c")):
            told.message("dns", Told(packet % 2), {"name": name}, packet)
        told.settle()
        told.message("dns", Told(0), {"name": "e"}, 1)       # of a later batch
        told.settle()
        told.finish({}, {}, {})
        told.close()
        text = out.getvalue()
        assert [text.index(f'"{name}"') for name in "abcde"] == sorted(text.index(f'"{name}"') for name in "abcde")


def test_a_selection_renumbers_what_messages_name():
    out = io.StringIO()
    told = JsonReport(out, Selection("http"))
    for number, detected in ((3, "http"), (0, "dns"), (1, "http")):
        told.connection(number, {"proto": "tcp", "detected": detected, "n": number})
    for number in (1, 3):
        told.message("http", Told(number), {"n": number}, number)
    told.message("dns", Told(0), {"n": 0}, 0)
    told.settle()
    told.finish({}, {}, {})
    told.close()
    parsed = json.loads(out.getvalue())
    assert [record["n"] for record in parsed["connections"]] == [1, 3]
    assert parsed["http"] == [{"connection": 0, "n": 1}, {"connection": 1, "n": 3}]
    assert parsed["dns"] == []


def test_few_stream_files_are_open_at_a_time(tmp_path):
    class End:
        def __init__(self, port):
            self.addr, self.port = "::1", port

    class Connection:
        proto = "tcp"

        def __init__(self, number):
            self.id, self.a, self.b = number, End(number), End(80)

    files = StreamFiles(str(tmp_path))
    connections = [Connection(number) for number in range(300)]
    for piece in (b"one ", b"two"):
        for connection in connections:
            files.write(connection, 0, piece)
        assert len(files.open) <= 128
    for connection in connections:
        files.finish(connection)
    files.close()
    assert len(os.listdir(tmp_path)) == 300
    assert (tmp_path / "000007.tcp.--1.7---1.80").read_bytes() == b"one two"


def test_rows_from_the_wire_cannot_steer_a_terminal():
    assert shown("\x1b]0;title\x07") == "\\x1b]0;title\\x07"
    rows = Rows("t", 1, ("a",))
    rows.add(("x",), 5)
    rows.add(("y",), 4)
    assert rows.kept() == [("y",)] and rows.total == 2


def test_flow_arguments():
    assert command.flow_of("web=tcp,tp_dst=80") == ("web", "tcp,tp_dst=80")
    for text in ("tcp", "=tcp", "tcp,tp_dst=80"):
        with pytest.raises(cli.UsageFault):
            command.flow_of(text)


@pytest.mark.parametrize("sizes", [[], [1], [SMALL], [SMALL + 1], [1, 1], [SMALL, 1], [SMALL + 1, SMALL], [5] * 60])
def test_a_digest_is_of_all_bytes(sizes):
    digest, whole = Digest(), b""
    for number, size in enumerate(sizes):
        piece = bytes([number]) * size
        whole += piece
        digest.feed(memoryview(piece))
    assert digest.record() == {"bytes": len(whole), "sha256": hashlib.sha256(whole).hexdigest(), "gaps": []}


def test_gaps_that_touch_are_one_and_those_behind_the_end_are_none():
    digest = Digest()
    for step in ((0, 5), b"five.", (10, 2), (12, 3), b"more", (19, 9)):
        if isinstance(step, bytes):
            digest.feed(step)
        else:
            assert digest.gap(*step)
    assert digest.record()["gaps"] == [{"offset": 0, "length": 5}, {"offset": 10, "length": 5}]
