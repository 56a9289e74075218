"""`flowos inspect` as its users meet it: the JSON's shape, lines, stream files, errors, exit codes.

The capture is made here: an HTTP exchange with a gzip body, cut by a lost segment on a second
connection, a DNS query, a ping, and a GRE tunnel.  What the report must say is worked out by
hand; that it is right on real traffic is test_captures.py's business.
"""
import gzip
import hashlib
import json
import os
import signal
import struct
import subprocess
import sys

import pytest

from flowos import cli
from models import build
from models.build import START_NS
from models.tcp import ACK, FIN, SYN
from waiting import taken

CLIENT, SERVER = ("10.0.0.1", 40000), ("10.0.0.2", 80)
SECOND = ("10.0.0.3", 40001)
RESOLVER, ASKER = ("10.0.0.53", 53), ("10.0.0.1", 5353 + 1000)
GRE = 47

BODY = "".join(hashlib.sha256(bytes([number])).hexdigest() for number in range(20)).encode()
PACKED = gzip.compress(BODY, mtime=0)
REQUEST = b"GET /a%20b HTTP/1.1\r\nHost: web.example\r\n\r\n"
RESPONSE = (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: " + str(len(PACKED)).encode()
            + b"\r\n\r\n" + PACKED)
QUERY = struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + b"\3www\7example\0" + struct.pack(">HH", 1, 1)


def segment(a, b, seq, ack, flags, payload=b""):
    return build.ethernet(build.ip(a, b, build.TCP, build.tcp(a, b, seq, ack, flags, payload)))


def exchange(client, server, sent, answered, lost=None):
    """Give the frames of a connection; `lost` cuts a range of the answer out of the capture."""
    frames = [segment(client, server, 99, 0, SYN), segment(server, client, 499, 100, SYN | ACK),
              segment(client, server, 100, 500, ACK, sent)]
    pieces = [(0, answered)] if lost is None else [(0, answered[:lost[0]]), (lost[1], answered[lost[1]:])]
    frames += [segment(server, client, 500 + at, 100 + len(sent), ACK, data) for at, data in pieces]
    frames.append(segment(client, server, 100 + len(sent), 500 + len(answered), ACK | FIN))
    frames.append(segment(server, client, 500 + len(answered), 101 + len(sent), ACK | FIN))
    frames.append(segment(client, server, 101 + len(sent), 501 + len(answered), ACK))
    return frames


def frames():
    """Give the capture's frames in order."""
    query = build.ethernet(build.ip(ASKER, RESOLVER, build.UDP, build.udp(ASKER, RESOLVER, QUERY)))
    ping = build.ethernet(build.ipv4("10.0.0.1", "10.0.0.2", 1, b"\x08\0\0\0\0\1\0\1" + b"ping" * 8))
    inner = build.ip(("172.16.0.1", 9), ("172.16.0.2", 9), build.UDP,
                     build.udp(("172.16.0.1", 9), ("172.16.0.2", 9), b"inside"))
    tunnel = build.ethernet(build.ipv4("10.0.0.1", "10.0.0.2", GRE, struct.pack(">HH", 0, 0x0800) + inner))
    return (exchange(CLIENT, SERVER, REQUEST, RESPONSE) + [query, ping, tunnel]
            + exchange(SECOND, SERVER, REQUEST, RESPONSE, lost=(100, 110)))


@pytest.fixture
def capture(tmp_path):
    """The path of the capture, written anew."""
    path = tmp_path / "made.pcap"
    path.write_bytes(build.pcap([(START_NS + 1000 * number, frame) for number, frame in enumerate(frames())]))
    return path


def run(capsys, *arguments):
    """Run the command in this process: (exit code, stdout, stderr)."""
    code = cli.main(["inspect", *map(str, arguments)])
    told = capsys.readouterr()
    return code, told.out, told.err


def report(capsys, *arguments):
    code, out, err = run(capsys, "--json", *arguments)
    assert (code, err) == (0, "")
    return json.loads(out)


def traffic(told):
    """Leave the counters out of a report: some tell how the input came, not what it held."""
    return {section: told[section] for section in told if section != "counters"}


# ---- the shape ------------------------------------------------------------------------------

NUMBER, TEXT, FLAG = int, str, bool
END = {"addr": TEXT, "port": (NUMBER, None)}
WAY = {"packets": NUMBER, "bytes": NUMBER, "payload_bytes": NUMBER, "syn": NUMBER, "fin": NUMBER, "rst": NUMBER,
       "stream": {"bytes": NUMBER, "sha256": TEXT, "gaps": [{"offset": NUMBER, "length": NUMBER}]}}
SHAPE = {
    "capture": {"packets": NUMBER, "bytes": NUMBER, "truncated": NUMBER, "linktypes": [NUMBER],
                "first_ns": (NUMBER, None), "last_ns": (NUMBER, None)},
    "connections": [{"proto": TEXT, "a": END, "b": END, "vlans": [[NUMBER]], "depth": NUMBER, "flow": (TEXT, None),
                     "first_ns": NUMBER, "last_ns": NUMBER, "state": TEXT, "detected": (TEXT, None),
                     "a_to_b": WAY, "b_to_a": WAY}],
    "http": [{"connection": NUMBER, "direction": TEXT, "kind": TEXT, "version": (TEXT, None), "method": (TEXT, None),
              "uri": (TEXT, None), "host": (TEXT, None), "status": (NUMBER, None), "content_length": (NUMBER, None),
              "body_bytes": NUMBER, "body_sha256": TEXT, "complete": FLAG}],
    "dns": [{"id": NUMBER, "response": FLAG, "opcode": NUMBER, "rcode": NUMBER, "qnames": [TEXT], "qtypes": [NUMBER],
             "answers": NUMBER}],
    "tls": [{"connection": NUMBER, "direction": TEXT, "kind": TEXT, "sni": (TEXT, None), "alpn": [TEXT],
             "versions": [TEXT]}],
    "ip_reassembly": {"datagrams": NUMBER, "fragments": NUMBER, "timed_out": NUMBER, "overlaps": NUMBER,
                      "conflicts": NUMBER},
    "counters": {},
}


def misshapen(value, shape, path="report"):
    """List where a value has not the given shape: keys, their order, and types exactly."""
    if isinstance(shape, dict) and isinstance(value, dict):
        if shape and list(value) != list(shape):
            return [f"{path}: keys {list(value)}, expected {list(shape)}"]
        return [fault for key in shape for fault in misshapen(value[key], shape[key], f"{path}.{key}")]
    if isinstance(shape, list) and isinstance(value, list):
        return [fault for place, part in enumerate(value) for fault in misshapen(part, shape[0], f"{path}[{place}]")]
    if isinstance(shape, tuple):
        return [] if value is None else misshapen(value, shape[0], path)
    if isinstance(shape, type) and type(value) is shape:
        return []
    return [f"{path}: {value!r}"]


def test_the_shape_check_finds_faults():
    assert misshapen({"a": 1}, {"a": NUMBER}) == []
    for value in ({"a": True}, {"a": "1"}, {"b": 1}, {"a": 1, "b": 1}, {"a": None}, [1]):
        assert misshapen(value, {"a": NUMBER}) != []


def test_json_has_exactly_its_shape(capsys, capture):
    told = report(capsys, capture)
    assert misshapen(told, SHAPE) == []
    assert all(type(count) is int for count in told["counters"].values())
    assert {"http_bodies_damaged", "tcp_gaps"} <= set(told["counters"])


def test_an_empty_capture_has_the_shape_too(capsys, tmp_path):
    path = tmp_path / "empty.pcap"
    path.write_bytes(build.pcap([]))
    told = report(capsys, path)
    assert misshapen(told, SHAPE) == []
    assert told["capture"]["packets"] == 0 and told["capture"]["first_ns"] is None


# ---- what it says ---------------------------------------------------------------------------

def test_capture_section(capsys, capture):
    wire = [len(frame) for frame in frames()]
    assert report(capsys, capture)["capture"] == {
        "packets": len(wire), "bytes": sum(wire), "truncated": 0, "linktypes": [1], "first_ns": START_NS,
        "last_ns": START_NS + 1000 * (len(wire) - 1)}


def test_connections_stand_in_order_of_their_first_packet(capsys, capture):
    told = report(capsys, capture)["connections"]
    assert [(c["proto"], c["a"]["addr"], c["depth"]) for c in told] == [
        ("tcp", "10.0.0.1", 1), ("udp", "10.0.0.1", 1), ("icmp", "10.0.0.1", 1), ("udp", "172.16.0.1", 2),
        ("tcp", "10.0.0.3", 1)]
    assert told[2]["a"] == {"addr": "10.0.0.1", "port": None}
    assert [c["detected"] for c in told] == ["http", "dns", None, None, "http"]


def test_streams_and_gaps(capsys, capture):
    told = report(capsys, capture)["connections"]
    whole, gapped = told[0], told[4]
    assert whole["a_to_b"]["stream"] == {
        "bytes": len(REQUEST), "sha256": hashlib.sha256(REQUEST).hexdigest(), "gaps": []}
    assert whole["b_to_a"]["payload_bytes"] == whole["b_to_a"]["stream"]["bytes"] == len(RESPONSE)
    left = RESPONSE[:100] + RESPONSE[110:]
    assert gapped["b_to_a"]["stream"] == {
        "bytes": len(left), "sha256": hashlib.sha256(left).hexdigest(), "gaps": [{"offset": 100, "length": 10}]}
    assert told[1]["a_to_b"]["stream"]["sha256"] == hashlib.sha256(QUERY).hexdigest()
    assert [whole[way][flag] for way in ("a_to_b", "b_to_a") for flag in ("syn", "fin", "rst")] == [1, 1, 0] * 2


def test_http_messages(capsys, capture):
    told = report(capsys, capture)["http"]
    request, response, _, cut = told
    assert request == {
        "connection": 0, "direction": "a_to_b", "kind": "request", "version": "HTTP/1.1", "method": "GET",
        "uri": "/a%20b", "host": "web.example", "status": None, "content_length": None, "body_bytes": 0,
        "body_sha256": hashlib.sha256(b"").hexdigest(), "complete": True}
    assert response == {
        "connection": 0, "direction": "b_to_a", "kind": "response", "version": "HTTP/1.1", "method": None,
        "uri": None, "host": None, "status": 200, "content_length": len(PACKED), "body_bytes": len(BODY),
        "body_sha256": hashlib.sha256(BODY).hexdigest(), "complete": True}
    assert (cut["connection"], cut["status"], cut["complete"]) == (4, 200, False)


def test_dns_messages(capsys, capture):
    assert report(capsys, capture)["dns"] == [
        {"id": 7, "response": False, "opcode": 0, "rcode": 0, "qnames": ["www.example"], "qtypes": [1], "answers": 0}]


def test_messages_stand_in_the_order_of_the_capture(capsys, tmp_path):
    """Not connection by connection: two resolutions that overlap, and an HTTP exchange around them."""
    def asked(client, number):
        return build.ethernet(build.ip(client, RESOLVER, build.UDP, build.udp(client, RESOLVER, number + QUERY[2:])))

    def answered(client, number):
        message = number + b"\x81\x80" + QUERY[4:]
        return build.ethernet(build.ip(RESOLVER, client, build.UDP, build.udp(RESOLVER, client, message)))

    one, two = ("10.0.0.1", 1111), ("10.0.0.1", 2222)
    web = exchange(CLIENT, SERVER, REQUEST, RESPONSE)
    other = exchange(SECOND, SERVER, REQUEST, RESPONSE)
    order = (web[:2] + other[:3] + [asked(one, b"\0\1"), asked(two, b"\0\2")] + web[2:] + [answered(two, b"\0\2")]
             + other[3:] + [answered(one, b"\0\1"), asked(two, b"\0\3")])
    path = tmp_path / "order.pcap"
    path.write_bytes(build.pcap([(START_NS, frame) for frame in order]))     # one time for all
    told = report(capsys, path)
    assert [(message["id"], message["response"]) for message in told["dns"]] == [
        (1, False), (2, False), (2, True), (1, True), (3, False)]
    assert [(message["connection"], message["kind"]) for message in told["http"]] == [
        (1, "request"), (0, "request"), (0, "response"), (1, "response")]


# ---- options --------------------------------------------------------------------------------

def test_jsonl_gives_the_same_records(capsys, capture):
    told = report(capsys, capture)
    code, out, err = run(capsys, "--jsonl", capture)
    lines = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    kinds = {}
    for line in lines:
        kinds.setdefault(line.pop("record"), []).append(line)
    connections = sorted(kinds["connection"], key=lambda line: line["id"])
    assert [line.pop("id") for line in connections] == list(range(len(told["connections"])))
    assert connections == told["connections"]
    for section in ("http", "dns", "tls"):
        assert kinds.get(section, []) == told[section]
    for section in ("capture", "ip_reassembly", "counters"):
        assert kinds[section] == [told[section]]


def test_written_streams_are_what_was_digested(capsys, capture, tmp_path):
    told = report(capsys, capture, "--write-streams", tmp_path / "streams")["connections"]
    found = {}
    for name in os.listdir(tmp_path / "streams"):
        data = (tmp_path / "streams" / name).read_bytes()
        found[name] = (len(data), hashlib.sha256(data).hexdigest())
    expected = {}
    for number, connection in enumerate(told):
        for way, (one, other) in (("a_to_b", "ab"), ("b_to_a", "ba")):
            stream = connection[way]["stream"]
            if stream["bytes"]:
                ends = [connection[side]["addr"] + ("" if connection[side]["port"] is None
                                                    else f".{connection[side]['port']}") for side in (one, other)]
                expected[f"{number:06d}.{connection['proto']}.{'-'.join(ends)}"] = (stream["bytes"], stream["sha256"])
    assert found == expected


def test_flows_name_the_connections_that_match(capsys, capture):
    told = report(capsys, capture, "--flow", "web=tcp,tp_dst=80", "--flow", "names=udp,tp_dst=53")
    assert [connection["flow"] for connection in told["connections"]] == ["web", "names", None, None, "web"]


@pytest.mark.parametrize("protocol, connections, sections", [
    ("tcp", [0, 4], {"http": [0, 0, 1, 1]}), ("http", [0, 4], {"http": [0, 0, 1, 1]}),
    ("dns", [1], {"dns": 1}), ("udp", [1, 3], {"dns": 1}), ("icmp", [2], {}), ("tls", [], {})])
def test_a_protocol_selects_and_numbers_follow(capsys, capture, protocol, connections, sections):
    every = report(capsys, capture)["connections"]
    told = report(capsys, capture, "--protocol", protocol)
    assert told["connections"] == [every[number] for number in connections]
    assert [message["connection"] for message in told["http"]] == sections.get("http", [])
    assert len(told["dns"]) == sections.get("dns", 0)


def test_tunnels_can_be_left_alone(capsys, capture):
    told = report(capsys, capture, "--no-tunnels")["connections"]
    assert [connection["depth"] for connection in told] == [1] * 5
    assert "gre" in [connection["proto"] for connection in told]
    assert report(capsys, capture, "--tunnel", "gre") == report(capsys, capture)
    assert report(capsys, capture, "--tunnel", "vxlan")["connections"] == told


def test_the_policy_decides_overlaps(capsys, tmp_path):
    path = tmp_path / "overlap.pcap"
    pieces = [segment(CLIENT, SERVER, 99, 0, SYN), segment(SERVER, CLIENT, 499, 100, SYN | ACK),
              segment(CLIENT, SERVER, 104, 500, ACK, b"OLD!"), segment(CLIENT, SERVER, 104, 500, ACK, b"new."),
              segment(CLIENT, SERVER, 100, 500, ACK, b"head")]
    path.write_bytes(build.pcap([(START_NS + number, frame) for number, frame in enumerate(pieces)]))
    for policy, text in (("first", b"headOLD!"), ("last", b"headnew.")):
        stream = report(capsys, path, "--policy", policy)["connections"][0]["a_to_b"]["stream"]
        assert stream["sha256"] == hashlib.sha256(text).hexdigest(), policy


def test_tables_for_people(capsys, capture):
    code, out, err = run(capsys, capture)
    assert (code, err) == (0, "")
    for text in ("connections (5)", "HTTP messages (4)", "DNS messages (1)", "10.0.0.2:80", "GET /a%20b HTTP/1.1",
                 "web.example", "www.example", "counters that are not 0"):
        assert text in out, text


def test_tables_on_a_narrow_screen(capsys, capture, monkeypatch):
    monkeypatch.setattr("flowos.cli.inspect_tables.PIPED_WIDTH", 80)
    _, out, _ = run(capsys, capture)
    assert max(map(len, out.splitlines())) <= 80
    assert "10.0.0.1:40000" in out and "10.0.0.2:80" in out


def test_tables_are_limited(capsys, capture):
    code, out, _ = run(capsys, "--limit", "2", capture)
    assert code == 0 and "3 more" in out and "10.0.0.3" not in out
    assert "more" not in run(capsys, "--limit", "0", capture)[1]


# ---- inputs ---------------------------------------------------------------------------------

def shell(arguments, **options):
    """Run the command in a process of its own."""
    return subprocess.run([sys.executable, "-m", "flowos.cli", *map(str, arguments)], capture_output=True,
                          timeout=300, check=False, **options)


def test_standard_input(capsys, capture):
    done = shell(["inspect", "--json", "-"], input=capture.read_bytes())
    assert (done.returncode, done.stderr) == (0, b"")
    assert traffic(json.loads(done.stdout)) == traffic(report(capsys, capture))


def test_gzip_compressed(capsys, capture, tmp_path):
    packed = tmp_path / "made.pcap.gz"
    packed.write_bytes(gzip.compress(capture.read_bytes()))
    assert traffic(report(capsys, packed)) == traffic(report(capsys, capture))


def test_several_inputs_merge_by_time(capsys, capture, tmp_path):
    records = [(START_NS + 1000 * number, frame) for number, frame in enumerate(frames())]
    halves = []
    for parity in (0, 1):
        halves.append(tmp_path / f"half{parity}.pcap")
        halves[-1].write_bytes(build.pcap(records[parity::2]))
    assert traffic(report(capsys, *halves)) == traffic(report(capsys, capture))


# ---- errors and exit codes ------------------------------------------------------------------

@pytest.mark.parametrize("arguments, code, words", [
    (["inspct"], 2, ["inspct", "did you mean inspect?"]),
    (["xyzzy"], 2, ["xyzzy: no such command", "--help"]),
    (["--nonsense"], 2, ["--nonsense"]),
    (["inspect"], 2, ["inspect", "IN"]),
    (["inspect", "--json", "--jsonl", "x.pcap"], 2, ["--jsonl", "--json"]),
    (["inspect", "--policy", "best", "x.pcap"], 2, ["--policy", "best", "first"]),
    (["inspect", "--limit", "-1", "x.pcap"], 2, ["--limit", "-1"]),
    (["inspect", "--flow", "web", "x.pcap"], 2, ["--flow web", "NAME=MATCH"]),
    (["inspect", "missing.pcap"], 1, ["missing.pcap", "No such file"]),
    (["inspect", "--json", "missing.pcap"], 1, ["missing.pcap", "No such file"]),
])
def test_errors_are_one_line(capsys, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == code
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("flowos: ") and told.err.count("\n") == 1
    for word in words:
        assert word in told.err


def test_a_wrong_match_is_a_usage_error(capsys, capture):
    code, out, err = run(capsys, "--flow", "web=nonsense=1", "--json", capture)
    assert (code, out) == (2, "")
    assert err.startswith("flowos: ") and "nonsense" in err


def test_a_file_that_is_no_capture(capsys, tmp_path):
    path = tmp_path / "text.pcap"
    path.write_text("this is no capture file at all\n")
    code, out, err = run(capsys, "--json", path)
    assert code == 1 and "text.pcap" in err and err.count("\n") == 1


def test_a_directory_is_no_capture(capsys, tmp_path):
    code, _, err = run(capsys, tmp_path)
    assert code == 1 and str(tmp_path) in err


def test_a_capture_that_is_cut_short_is_reported_up_to_there(capsys, capture):
    capture.write_bytes(capture.read_bytes()[:-7])
    code, out, err = run(capsys, "--json", capture)
    told = json.loads(out)
    assert misshapen(told, SHAPE) == []
    assert told["capture"]["packets"] == len(frames()) - 1
    assert code in (0, 1) and (code == 0) == (err == "")


def test_help_and_version(capsys):
    assert cli.main(["--help"]) == 0
    assert "inspect" in capsys.readouterr().out
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("flowos ")
    assert cli.main(["inspect", "--help"]) == 0
    assert "--write-streams" in capsys.readouterr().out
    assert cli.main([]) == 2


def test_a_reader_that_goes_away_is_no_error(capture):
    process = subprocess.Popen([sys.executable, "-m", "flowos.cli", "inspect", "--json", str(capture)],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=300) == cli.NO_READER
    assert err == b""


def test_ctrl_c_ends_with_a_whole_report(tmp_path, capture):
    """The writer of the FIFO stays; Ctrl-C must end the run, and the JSON must be whole."""
    fifo, out = tmp_path / "fifo", tmp_path / "out.json"
    os.mkfifo(fifo)
    with open(out, "wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "flowos.cli", "inspect", "--json", str(fifo)],
                                   stdout=file, stderr=subprocess.PIPE)
    with open(fifo, "wb", buffering=0) as writer:
        writer.write(capture.read_bytes())
        taken(writer, process.pid)
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=300)[1]
    assert (process.returncode, err) == (cli.INTERRUPTED, b"")
    told = json.loads(out.read_bytes())
    assert misshapen(told, SHAPE) == [] and told["capture"]["packets"] == len(frames())
