"""Files out of HTTP are those that tshark exports and those that were sent; dumps hold the flow's packets."""
import collections
import gzip
import hashlib
import subprocess
import zlib

import pytest

import flowos
from conversations import datagrams, exchange, save
from flowos.core.pipe import pipe
from flowos.modules.extract import Extract, joined, safe_name
from flowos.modules.mirror import Mirror
from flowos.modules.pcap_dump import PcapDump


def extracted(folder, *paths, **parameters):
    """Extract from captures; give ({name: bytes}, records)."""
    found, module = [], Extract(folder / "files", **parameters)
    module.emit = found.append
    with flowos.Engine(flowos.Config.offline()) as engine:
        for path in paths:
            engine.add_port(path)
        engine.attach(module)
        engine.run()
    files = {path.name: path.read_bytes() for path in (folder / "files").iterdir()}
    for record in found:
        data = files[record["file"]]
        assert (record["bytes"], record["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    assert sorted(files) == sorted(record["file"] for record in found)
    return files, found


def response(body, *fields, status=b"200 OK"):
    """Make a response with a body."""
    head = b"\r\n".join([b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *fields])
    return head + b"\r\n\r\n" + body


def fetch(path, answer, **parts):
    return exchange(b"GET " + path + b" HTTP/1.1\r\nHost: h.example\r\n\r\n", answer, **parts)


@pytest.mark.parametrize("name", ["zeek_http-methods.pcap", "zeek_http-pipelined-requests.pcap",
                                  "pcapplusplus_many-protocols.pcap", "pcapplusplus_raw_ip.pcap"])
def test_the_files_are_those_tshark_exports(shared_pcaps, tshark, tmp_path, name):
    files, found = extracted(tmp_path, shared_pcaps / name, errors=True, uploads=True)
    subprocess.run([tshark, "-r", shared_pcaps / name, "--export-objects", f"http,{tmp_path / 'theirs'}"],
                   capture_output=True, timeout=300, check=True)
    bodies = [path.read_bytes() for path in (tmp_path / "theirs").iterdir()]
    # Requests without a proper line ("GET/HTTP/1.1") are bodies to tshark; so are messages without one.
    theirs = collections.Counter(hashlib.sha256(body).hexdigest() for body in bodies
                                 if body and b"HTTP/1.1\nHost: " not in body)
    ours = collections.Counter(record["sha256"] for record in found)
    assert sum(theirs.values()) > 2
    # Of two scripts sent in chunks over a lossy connection tshark joins the middle with its chunk lines.
    lost = theirs - ours
    assert sum(lost.values()) <= (2 if "many" in name else 0)


def test_the_demo_served_known_files(demo_capture, tmp_path):
    files, found = extracted(tmp_path, demo_capture, types=["text/css"])
    assert files["style.css"] == files["style-2.css"]
    assert {record["problem"] for record in found} == {None}


@pytest.mark.parametrize("coding, pack", [
    (b"gzip", gzip.compress), (b"deflate", zlib.compress), (b"deflate", lambda data: zlib.compress(data, wbits=-15)),
    (b"gzip, deflate", lambda data: zlib.compress(gzip.compress(data))), (b"identity", bytes)])
def test_content_codings_are_undone(tmp_path, coding, pack):
    text = b"the same again and again " * 400
    capture = save(tmp_path, fetch(b"/a.txt", response(pack(text), b"Content-Encoding: " + coding)))
    files, (record,) = extracted(tmp_path, capture)
    assert files == {"a.txt": text}
    assert (record["complete"], record["problem"]) == (True, None)


def test_what_cannot_be_undone_is_written_as_it_came(tmp_path):
    damaged = gzip.compress(b"text " * 99)[:-20] + b"x" * 30
    capture = save(tmp_path, [
        *fetch(b"/damaged", response(damaged, b"Content-Encoding: gzip")),
        *fetch(b"/rot", response(b"grkg", b"Content-Encoding: rot13"), a=("10.0.0.3", 1)),
        *fetch(b"/short", response(gzip.compress(b"cut off")[:-9], b"Content-Encoding: gzip"), a=("10.0.0.4", 1)),
        *fetch(b"/lost", response(b"0123456789")[:-3], a=("10.0.0.5", 1))])
    files, found = extracted(tmp_path, capture)
    assert (files["damaged"], files["rot"], files["lost"]) == (damaged, b"grkg", b"0123456")
    assert {record["file"]: (record["complete"], record["problem"]) for record in found} == {
        "damaged": (True, "damaged"), "rot": (True, "unknown coding"), "short": (True, "cut"), "lost": (False, None)}


def test_ranges_of_one_resource_make_one_file(tmp_path):
    whole = bytes(range(256)) * 20
    parts = [(0, 1000), (3000, 5120), (900, 3000)]
    capture = save(tmp_path, [record for number, (start, end) in enumerate(parts) for record in fetch(
        b"/big.bin", response(whole[start:end], b"Content-Range: bytes %d-%d/%d" % (start, end - 1, len(whole)),
                              b'ETag: "1"', status=b"206 Partial Content"), a=(f"10.0.1.{number}", 9), at=number * 10**9)])
    files, (record,) = extracted(tmp_path, capture)
    assert files == {"big.bin": whole}
    assert record["complete"] and record["status"] == 206


def test_ranges_that_stay_incomplete_are_written_with_holes(tmp_path):
    capture = save(tmp_path, fetch(b"/x", response(b"tail", b"Content-Range: bytes 6-9/10", status=b"206 Partial")))
    files, (record,) = extracted(tmp_path, capture)
    assert files == {"x": bytes(6) + b"tail"}
    assert not record["complete"]


def test_a_bomb_ends_at_the_limit(tmp_path):
    capture = save(tmp_path, fetch(b"/bomb", response(gzip.compress(bytes(10**7)), b"Content-Encoding: gzip")))
    files, (record,) = extracted(tmp_path, capture, max_bytes=5000)
    assert len(files["bomb"]) <= 5000 and record["problem"] == "cut"


@pytest.mark.parametrize("uri, fields, expected", [
    (b"/../../etc/passwd", [], "passwd"),
    (b"/..%2f..%2fetc%2fpasswd", [], "passwd"),
    (b"/a%00b%0a.txt?q=/x", [], "a_b_.txt"),
    (b"/", [], "unnamed"),
    (b"/..", [], "unnamed"),
    (b"/", [b"Content-Type: text/html"], "index.html"),
    (b"http://other/deep/name.png#frag", [], "name.png"),
    (b"/x", [b'Content-Disposition: attachment; filename="../../.bashrc"'], "bashrc"),
    (b"/x", [b"Content-Disposition: attachment; filename=plain.txt; filename*=UTF-8''na%C3%AFve.txt"], "na\u00efve.txt"),
    (b"/x", [b"Content-Disposition: attachment; filename=\"C:\\\\dir\\\\evil.exe\""], "evil.exe"),
])
def test_names_from_the_wire_stay_in_the_folder(tmp_path, uri, fields, expected):
    files, _ = extracted(tmp_path, save(tmp_path, fetch(uri, response(b"body", *fields))))
    assert files == {expected: b"body"}
    assert {path.name for path in tmp_path.iterdir()} == {"files", "capture.pcap"}


def test_nothing_that_exists_is_written_to(tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "elsewhere").write_bytes(b"precious")
    (tmp_path / "files" / "link").symlink_to(tmp_path / "elsewhere")
    found, module = [], Extract(tmp_path / "files")
    module.emit = found.append
    with flowos.Engine() as engine:
        engine.add_port(save(tmp_path, fetch(b"/link", response(b"evil"))))
        engine.attach(module)
        engine.run()
    assert (tmp_path / "elsewhere").read_bytes() == b"precious"
    assert found[0]["file"] == "link-2"


def test_safe_names_and_joined_ranges():
    assert len(safe_name("\u00e9" * 500 + ".jpeg").encode()) <= 160
    assert safe_name("\u00e9" * 500 + ".jpeg").endswith(".jpeg")
    assert joined([]) == [] and joined([(3, 4), (0, 1), (1, 3)]) == [(0, 4)]


def frames(tshark, path):
    """Let tshark list a capture: (time, length, captured length, first checksum field or so) per frame."""
    done = subprocess.run([tshark, "-r", path, "-T", "fields", "-e", "frame.time_epoch", "-e", "frame.len",
                           "-e", "frame.cap_len", "-e", "ip.id", "-e", "tcp.seq_raw"],
                          capture_output=True, text=True, timeout=300, check=True)
    return collections.Counter(done.stdout.splitlines())


@pytest.mark.parametrize("suffix", ["pcap", "pcapng"])
def test_a_dump_holds_the_packets_of_the_flow(shared_pcaps, tshark, tmp_path, suffix):
    source, target = shared_pcaps / "pcapplusplus_many-protocols.pcap", tmp_path / f"web.{suffix}"
    dump = PcapDump(target)
    with flowos.Engine(flowos.Config.offline()) as engine:
        engine.add_port(source)
        engine.create_flow("web", "tcp")
        engine.attach(dump, "web")
        engine.run()
    whole, ours = frames(tshark, source), frames(tshark, target)
    done = subprocess.run([tshark, "-r", source, "-Y", "tcp && !icmp && !vlan", "-T", "fields", "-e", "frame.number"],
                          capture_output=True, text=True, timeout=300, check=True)
    assert ours - whole == collections.Counter()
    assert dump.packets == sum(ours.values()) >= len(done.stdout.split()) - 20


def test_a_dump_of_everything_is_the_capture(tmp_path):
    path = save(tmp_path, datagrams(300, size=300))
    with flowos.Engine() as engine:
        engine.add_port(path)
        engine.attach(PcapDump(tmp_path / "copy.pcap"))
        engine.run()
    source, copy = path.read_bytes(), (tmp_path / "copy.pcap").read_bytes()
    assert copy[24:] == source[24:] and copy[:16] == source[:16]       # the header's snap length may differ


def test_dumps_rotate_and_cut(tmp_path):
    path = save(tmp_path, datagrams(10, size=300))
    dump = PcapDump(tmp_path / "d.pcap", snaplen=100, rotate_bytes=1000)
    with flowos.Engine() as engine:
        engine.add_port(path)
        engine.attach(dump)
        engine.run()
    parts = sorted(tmp_path.glob("d*.pcap"))
    assert len(parts) == 5 == dump.files
    for part in parts:
        with flowos.Engine() as engine:
            engine.add_port(part)
            engine.run()
            assert engine.capture.truncated == engine.packets == 2


def test_a_mirror_sends_copies_and_drops_what_is_not_taken(tmp_path):
    path = save(tmp_path, datagrams(100))
    analyser, end = pipe("mirror-test", slots=64)
    mirror = Mirror(end)
    with flowos.Engine() as engine:
        engine.add_port(path)
        engine.attach(mirror)
        engine.run()
        got = analyser.receive()
    assert mirror.sent + mirror.dropped == 100
    assert len(got) == mirror.sent > 0 and mirror.dropped > 0
    data = path.read_bytes()
    assert all(frame in data for _, frame in got)


def test_wrong_parameters_are_said_at_once(tmp_path):
    for make in (lambda: PcapDump(tmp_path / "x", snaplen=0), lambda: PcapDump(tmp_path / "x", rotate_bytes=-1),
                 lambda: Extract(tmp_path, max_bytes=0)):
        with pytest.raises(flowos.UsageError, match="expected"):
            make()
    with pytest.raises(flowos.UsageError, match="only receives"), flowos.Engine() as engine:
        engine.attach(Mirror(str(save(tmp_path, datagrams(1)))))

