"""The live benchmarks measure what they say: their traffic is valid, their rivals forward, their answers are answers.

The judges are scapy's checksums, the kernel's `ping`, and arithmetic by hand.  Times are never looked at.
"""
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import live_aims  # noqa: E402
import live_latency  # noqa: E402
import live_net  # noqa: E402
import live_path  # noqa: E402
import live_ports  # noqa: E402
import live_sweep  # noqa: E402
from namespaces import carried, inside, raw_socket  # noqa: E402
from waiting import PATIENCE  # noqa: E402

live = pytest.mark.live


@pytest.fixture(scope="module")
def floor(tmp_path_factory):
    """Compile the C program."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    return live_net.build_floor(tmp_path_factory.mktemp("floor"))


@pytest.fixture
def row(root):
    """Make the three namespaces."""
    with live_net.network(addresses=True):
        for pair in live_net.PAIRS:
            for where, interface in zip(pair[::2], pair[1::2]):
                carried(live_net.SPACES[where], interface)
        yield


def socket_in(where, interface):
    """Open a packet socket on an interface of the row."""
    with inside(live_net.SPACES[where]):
        return raw_socket(interface)


LOCAL, IPV4 = b"\x88\xb5", b"\x08\0"            # EtherTypes


def received(sock, count, kind, patience=PATIENCE):
    """Take `count` frames of an EtherType; fewer when no more come in time."""
    taken, end = [], time.monotonic() + patience
    while len(taken) < count and time.monotonic() < end:
        try:
            frame = sock.recv(2048)
        except BlockingIOError:
            time.sleep(0.005)
            continue
        if frame[12:14] == kind:
            taken.append(frame)
    return taken


def valid(frame):
    """Is this what scapy makes of the same fields, checksums and lengths included?"""
    again = Ether(frame)
    del again[IP].chksum, again[IP].len
    if TCP in again:
        del again[TCP].chksum
    return bytes(again) == frame


@live
def test_streams_are_in_order_with_right_sums(row, floor, tmp_path):
    with socket_in("middle", "mid0") as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        with live_net.running("one", live_net.OTHERS, floor, "stream", "far0", 32, PATIENCE, tmp_path / "tally", ready=None):
            frames = received(sock, 320, IPV4)        # nobody counts: it stops at FLIGHT for a while
    assert len(frames) == 320 and all(valid(frame) for frame in frames)
    expected = {}
    for frame in frames:
        segment = Ether(frame)[TCP]
        assert segment.seq == expected.get(segment.sport, 0)
        assert bool(segment.flags & 2) == (segment.seq == 0)
        expected[segment.sport] = segment.seq + (1 if segment.flags & 2 else 6)
    assert len(expected) == 64


@live
@pytest.mark.parametrize("size", [60, 65, 1514])
def test_frames_have_the_size_asked_for(row, floor, size):
    with socket_in("middle", "mid0") as sock:
        with live_net.running("one", live_net.OTHERS, floor, "tx", "far0", 32, PATIENCE, "-", size, ready=None):
            frames = received(sock, 20, IPV4)
    assert len(frames) == 20 and {len(frame) for frame in frames} == {size} and all(valid(frame) for frame in frames)


@live
@pytest.mark.parametrize("name", ["C forwarder", "flowos", "flowos module", "dpkt loop", "scapy loop", "bridge"])
def test_who_stands_in_the_middle_forwards_both_ways(row, floor, tmp_path, name):
    if name == "dpkt loop":
        pytest.importorskip("dpkt")
    with live_path.middle(name, floor, tmp_path):
        live_net.wait_for(lambda: live_path.reaches(name), PATIENCE, name)
        with socket_in("one", "far0") as left, socket_in("two", "far1") as right:
            for source, sink in (left, right), (right, left):
                sent = [live_latency.HEAD + LOCAL + bytes([number]) * size
                        for number, size in enumerate((46, 100, 1500), 1)]
                for frame in sent:
                    source.send(frame)
                assert received(sink, 3, LOCAL) == sent


@live
def test_a_ping_is_answered_by_rings(row):
    where = live_net.SPACES["middle"]
    link = json.loads(subprocess.run(["ip", "-j", "-n", where, "link", "show", "mid0"], check=True, capture_output=True).stdout)
    live_net.ip("-n", live_net.SPACES["one"], "neighbour", "replace", "10.92.0.99", "lladdr", link[0]["address"], "dev", "far0")
    program = [sys.executable, ROOT / "benchmarks/live_rings.py", "ping", "xdp:mid0", 64, 3, 0]
    with live_net.running("middle", live_net.TESTED, *program) as process:       # ping checks sums, numbers and data
        told = live_net.inside("one", "ping", "-c", 5, "-i", "0.02", "-W", 1, "-p", "a5ff", "10.92.0.99").decode()
        assert " 5 received" in told and "wrong data" not in told
        assert json.loads(process.stdout.readline())["packets"] == 5


def test_ratios_are_of_neighbours_in_time():
    rounds = [{"per_cpu": value, "rate": 1, "per_all": 1} for value in (10, 20, 60)]
    others = [{"per_cpu": value, "rate": 1, "per_all": None} for value in (10, 10, 10)]
    told = live_path.summary({"job": {"first": rounds, "other": others}})["job"]["other"]
    assert (told["first_is"], told["least"], told["most"], told["per_all"]) == (2, 1, 6, None)


def test_what_a_straight_pair_needs_is_taken_off():
    rounds = [{"direct": (5, 9), **{who: (25, 105) for who in live_latency.NAMES}, "c": (15, 55)} for _ in range(3)]
    told = live_latency.summary(rounds)
    assert told["engine"]["p50"] == {"added_us": 20, "ratio": 2, "quartiles": [2, 2]}
    assert told["engine"]["p99"] == {"added_us": 100, "ratio": 2, "quartiles": [2, 2]}
    assert live_latency.percentiles(list(range(1000))) == (500, 990)


def quick(name, *words):
    """Run a benchmark with --quick; it writes no result and leaves no namespace."""
    folder = ROOT / "benchmarks/results"
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    done = subprocess.run([sys.executable, ROOT / "benchmarks" / name, "--quick", *words], capture_output=True, text=True, timeout=200,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    return done.stdout


@live
def test_the_path_quickly(root, floor):
    for needed in "nginx", "curl", "ethtool":
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not installed")
    told = quick("live_path.py", "--only", "edit", "--only", "requests", "--skip", "mitmproxy", "--skip", "mitmproxy pieces")
    assert told.count("flowos http_strip") == told.count("C forwarder") == 2


@live
@pytest.mark.soak
@pytest.mark.parametrize("name", ["live_ports.py", "live_latency.py", "live_sweep.py"])
def test_quickly(root, floor, name):
    assert "forward" in quick(name)


@pytest.mark.parametrize("bench", [live_aims, live_ports, live_path, live_latency, live_sweep], ids=lambda bench: bench.__name__)
def test_the_page_has_the_tables_of_the_results(bench, tmp_path, monkeypatch):
    page = tmp_path / "ports.md"
    page.write_text((ROOT / "docs/ports.md").read_text())
    monkeypatch.setattr(bench, "PAGE", page)
    bench.report()
    assert page.read_text() == (ROOT / "docs/ports.md").read_text()
