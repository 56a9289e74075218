"""The traces are what they say: checksums by tshark, streams by dpkt, messages by http.client.

Small ones: what the generators do does not depend on the size.
"""
import http.client
import io
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

np = pytest.importorskip("numpy")

import traces                                           # noqa: E402
import webtrace                                         # noqa: E402

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return traces.ensure(tmp_path_factory.mktemp("traces"), 0.004, say=lambda line: None)


def fields(path, *names):
    """Ask tshark for fields of every packet, checksums verified; rows of text."""
    tshark = shutil.which("tshark") or pytest.skip("tshark is not installed")
    command = [tshark, "-r", str(path), "-T", "fields", "-E", "separator=,", "-E", "occurrence=f"]
    for protocol in ("ip", "udp", "tcp"):
        command += ["-o", f"{protocol}.check_checksum:TRUE"]
    for name in names:
        command += ["-e", name]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [line.split(",") for line in output.splitlines()]


def check_sums(path):
    """Check the checksums of every packet; give the number of packets."""
    rows = fields(path, "ip.checksum.status", "udp.checksum.status", "tcp.checksum.status", "ip.flags.mf", "ip.frag_offset")
    for ip, udp, tcp, more, offset in rows:
        assert ip == "1" and {udp, tcp} <= {"1", ""}                # 1: good
        assert udp or tcp or more == "True" or more == "1" or offset != "0"
    return len(rows)


@pytest.mark.parametrize("name", traces.NAMES)
def test_checksums(made, name):
    path, truth = made[name]
    assert check_sums(path) == truth["packets"]


def streams(path):
    """Put the TCP payloads of a capture together by their numbers: {(from, to): bytes}."""
    dpkt = pytest.importorskip("dpkt")
    first, parts = {}, {}
    with open(path, "rb") as file:
        for _, frame in dpkt.pcap.Reader(file):
            ip = dpkt.ethernet.Ethernet(frame).data
            if not isinstance(ip.data, dpkt.tcp.TCP):
                continue
            tcp = ip.data
            key = (ip.src, tcp.sport), (ip.dst, tcp.dport)
            if tcp.flags & dpkt.tcp.TH_SYN:
                first[key] = tcp.seq + 1
            elif tcp.data:
                parts.setdefault(key, {})[(tcp.seq - first[key]) % (1 << 32)] = tcp.data
    whole = {}
    for key, pieces in parts.items():
        data = bytearray()
        for offset in sorted(pieces):
            assert offset == len(data), "a hole or an overlap"
            data += pieces[offset]
        whole[key] = bytes(data)
    return whole


@pytest.mark.parametrize("name", ["imix", "http"])
def test_streams(made, name):
    path, truth = made[name]
    whole = streams(path)
    assert sum(map(len, whole.values())) == truth["stream_bytes"]
    assert sum(map(zlib.crc32, whole.values())) == truth["streams_crc"]


class _Socket:
    """What http.client reads responses from."""

    def __init__(self, data):
        self.file = io.BytesIO(data)
        self.file.close = lambda: None

    def makefile(self, mode):
        return self.file


def test_messages(made):
    path, truth = made["http"]
    responses = bodies = patterns = 0
    for (source, _), data in streams(path).items():
        if source[1] != 80:
            continue
        socket = _Socket(data)
        while socket.file.tell() < len(data):
            response = http.client.HTTPResponse(socket)
            response.begin()
            body = response.read()
            responses, bodies, patterns = responses + 1, bodies + len(body), patterns + body.count(webtrace.PATTERN)
    assert (responses, bodies, patterns) == (truth["responses"], truth["body_bytes"], truth["patterns"])


def test_fragments(made):
    path, truth = made["frag"]
    rows = fields(path, "udp.length")
    assert [row[0] for row in rows].count("4008") == truth["datagrams"]


def test_long_capture(tmp_path):
    path, truth = tmp_path / "long.pcap", tmp_path / "truth.json"
    with open(path, "wb") as file:
        subprocess.run([sys.executable, HERE / "bigstream.py", "--bytes", "3e6", "--connections", "1024", "--truth", truth],
                       stdout=file, check=True)
    assert f'"packets": {check_sums(path)}' in truth.read_text()
    assert f'"stream_bytes": {sum(map(len, streams(path).values()))}' in truth.read_text()
