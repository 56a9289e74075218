"""The demo capture: FlowOS finds in it what curl and dig said they got when it was recorded.

examples/demo.json was written by the recording script from the programs' own reports, so it is
an oracle that knows nothing of packets.  The last test records anew and compares again: other
ports, other timing, the same programs.
"""
import collections
import json
import subprocess
import sys

import pytest


def inspect(capture):
    """Give what `flowos inspect --json` says of a capture."""
    done = subprocess.run([sys.executable, "-c", "from flowos.cli import main; raise SystemExit(main())",
                           "inspect", "--json", str(capture)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def compare(folder):
    """Compare a recording with what the programs said."""
    told = json.loads((folder / "demo.json").read_text())
    found = inspect(folder / "demo.pcap")
    connections = found["connections"]
    responses = collections.defaultdict(list)
    for message in found["http"]:
        if message["kind"] == "response" and message["status"] >= 200:
            responses[connections[message["connection"]]["a"]["port"]].append(message)
    paths = collections.defaultdict(list)
    for message in found["http"]:
        if message["kind"] == "request":
            paths[connections[message["connection"]]["a"]["port"]].append((message["method"], message["uri"]))

    transfers = collections.defaultdict(list)
    for transfer in told["transfers"]:
        if transfer["scheme"] == "http" and transfer["status"]:
            transfers[transfer["client_port"]].append(transfer)
    assert len(transfers) >= 10
    for port, expected in transfers.items():
        got = [message for message in responses[port] if message["status"] != 301]
        assert [(m["status"], m["body_bytes"], m["body_sha256"]) for m in got] == \
            [(t["status"], t["body_bytes"], t["body_sha256"]) for t in expected], f"client port {port}"
        assert all(message["complete"] for message in got)
        assert [path for path in paths[port] if path[1] != "/old"] == [(t["method"], t["path"]) for t in expected]

    by_port = {connection["a"]["port"]: connection for connection in connections if connection["proto"] == "tcp"}
    for transfer in told["transfers"]:
        if transfer["status"]:
            connection = by_port[transfer["client_port"]]
            assert (":" in connection["a"]["addr"]) == (transfer["ip"] == 6)
            assert connection["detected"] == {"http": "http", "https": "tls"}[transfer["scheme"]]
            for way in ("a_to_b", "b_to_a"):
                assert connection[way]["stream"]["gaps"] == []
    names = {hello["sni"] for hello in found["tls"] if hello.get("sni")}
    assert names == {"www.flowos.example"}

    rcodes = {0: "NOERROR", 3: "NXDOMAIN"}
    answered = collections.Counter((rcodes[message["rcode"]], message["answers"] if isinstance(message["answers"], int)
                                    else len(message["answers"])) for message in found["dns"] if message["response"])
    asked = collections.Counter((lookup["status"], lookup["answers"]) for lookup in told["lookups"])
    assert asked - answered == collections.Counter(), "an answer that dig got is missing"

    assert found["capture"]["truncated"] == 0
    assert found["ip_reassembly"]["datagrams"] >= 10 and found["ip_reassembly"]["timed_out"] == 0
    return found


def test_the_demo_capture(demo_capture):
    found = compare(demo_capture.parent)
    assert {"tcp", "udp", "icmp", "icmpv6"} <= {connection["proto"] for connection in found["connections"]}


@pytest.mark.slow
@pytest.mark.live
def test_a_new_recording(netns, project, tmp_path):
    netns()                                     # skips where namespaces cannot be made
    done = subprocess.run([sys.executable, project / "examples" / "record_demo.py", tmp_path],
                          capture_output=True, text=True, timeout=300, check=False)
    if done.returncode and done.stderr.startswith("needs "):
        pytest.skip(f"recording {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    compare(tmp_path)


def test_what_make_demo_shows(project):
    """The pages are the stripped ones, and tshark finds nothing new to complain about."""
    done = subprocess.run([sys.executable, "examples/strip_demo.py"], cwd=project, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "before: status 200, Content-Length 596" in done.stdout
    assert "after : status 200, Content-Length 76" in done.stdout
    assert "each is the original without the pattern: yes" in done.stdout
