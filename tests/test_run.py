"""`flowos run`: modules by name and by file, flows, records, outputs, the summary, and what is said of mistakes."""
import csv
import io
import json
import os
import pty
import subprocess
import sys

import pytest

import flowos
from conversations import exchange, exchanges, save
from flowos.cli import main
from waiting import taken, until

FAILING = "from flowos import Module\nclass Bad(Module):\n    name = 'bad'\n    def process(self, window):\n        raise ValueError('no')\n"


@pytest.fixture
def capture(tmp_path):
    """A capture of three HTTP connections."""
    return str(save(tmp_path, exchanges(3)))


def run(capsys, *arguments):
    """Run `flowos run`; give (exit code, standard output, standard error)."""
    code = main(["run", *map(str, arguments)])
    told = capsys.readouterr()
    return code, told.out, told.err


def test_records_go_where_they_are_told(capsys, capture, tmp_path):
    code, out, _ = run(capsys, capture, "--attach", "http_log", "--attach", "byte_count", "--emit", "-",
                       "--emit", tmp_path / "all.csv")
    records = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [record["module"] for record in records].count("http_log") == 3
    assert {record["uri"] for record in records if record["module"] == "http_log"} == {"/page"}
    assert len(list(csv.DictReader((tmp_path / "all.csv").open()))) == len(records) == 6


def test_the_summary_counts_per_module(capsys, capture, tmp_path):
    code, out, err = run(capsys, capture, "--flow", "web=tcp,tp_dst=80", "--attach", "byte_count@web#5",
                         "--attach", "pattern_count:patterns=hello@web", "--json")
    told = json.loads(out)
    first, second = told["modules"]
    assert code == 0 and not err
    assert (first["module"], first["flow"], first["order"], first["records"]) == ("byte_count", "web", 5, 3)
    assert (second["module"], second["order"], second["records"], second["errors"]) == ("pattern_count", 6, 3, 0)
    size = sum(len(part) for pair in [(connection.a_to_b.read(), connection.b_to_a.read())
                                      for connection in flowos.open(capture)] for part in pair)
    assert first["bytes"] == size and first["windows"] > 0 and first["units"] >= first["windows"]
    assert told["capture"]["packets"] == told["counters"]["packets"] > 0 and told["books"] == {}


def test_people_get_a_table(capsys, capture):
    code, out, _ = run(capsys, capture, "--attach", "byte_count")
    assert code == 0
    assert "byte_count" in out and "records" in out and "packets" in out
    assert run(capsys, capture, "--attach", "byte_count", "--quiet")[1] == ""


def test_an_output_has_every_packet(capsys, capture, tmp_path):
    target = tmp_path / "out.pcap"
    code, out, _ = run(capsys, capture, "-w", target, "--attach", "byte_count", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["books"]["left"] == told["capture"]["packets"] == told["books"]["unchanged"]
    assert target.read_bytes() == open(capture, "rb").read()


def test_an_edit_is_in_the_output_and_in_the_books(capsys, capture, tmp_path):
    target = tmp_path / "out.pcapng"
    code, out, _ = run(capsys, capture, "-w", target, "--attach", "replace:pattern=hello,replacement=HELLO", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["modules"][0]["edits"] == 3 == told["counters"]["edits"]
    books = told["books"]
    assert books["left"] == sum(books[kind] for kind in ("unchanged", "rewritten", "edited", "made"))
    assert [connection.b_to_a.read()[-5:] for connection in flowos.open(target)] == [b"HELLO"] * 3


def test_standard_input_and_output(tmp_path, capture):
    done = subprocess.run([sys.executable, "-m", "flowos.cli", "run", "-", "-w", "-", "--attach", "byte_count"],
                          stdin=open(capture, "rb"), capture_output=True, timeout=300, check=True)
    (tmp_path / "piped.pcapng").write_bytes(done.stdout)
    assert len(list(flowos.open(tmp_path / "piped.pcapng"))) == 3
    assert b"byte_count" in done.stderr


def test_modules_from_files_and_their_parameters(capsys, capture, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from flowos import Module\nclass Mine(Module):\n    def __init__(self, word: bytes, n: int = 1):\n"
        "        self.word, self.n = word, n\n    def closed(self, connection, reason):\n"
        "        self.emit({'word': self.word, 'n': self.n})\n")
    code, out, _ = run(capsys, capture, "--attach", f"{tmp_path}/mine.py:Mine:word='a,b@c#1',n=2", "--emit", "-")
    assert code == 0
    assert [json.loads(line) for line in out.splitlines()] == [{"module": "Mine", "word": "a,b@c#1", "n": 2}] * 3


def test_a_module_that_raises_is_isolated_and_told(capsys, capture, tmp_path):
    (tmp_path / "bad.py").write_text(FAILING)
    code, out, err = run(capsys, capture, "-w", tmp_path / "out.pcap", "--attach", f"{tmp_path}/bad.py",
                         "--attach", "byte_count", "--json")
    told = json.loads(out)
    assert code == 1
    assert "ValueError: no" in err and "bad.py" in err
    assert told["modules"][0]["errors"] > 0 and told["modules"][1]["records"] == 3
    assert (tmp_path / "out.pcap").read_bytes() == open(capture, "rb").read()


@pytest.mark.parametrize("arguments, code, message", [
    (["--attach", "http_lgo"], 2, "there is no module 'http_lgo'; did you mean 'http_log'?"),
    (["--attach", "replace:patern=x"], 2, "replace: there is no parameter 'patern'; did you mean 'pattern'?"),
    (["--attach", "replace"], 2, "replace: parameter 'pattern' (bytes) is missing"),
    (["--attach", "byte_count@wbe", "--flow", "web=tcp"], 2, "there is no flow 'wbe'; did you mean 'web'?"),
    (["--attach", "byte_count#x"], 2, "order 'x', expected a number"),
    (["--attach", ":x=1"], 2, "expected MODULE"),
    (["--attach", "replace:pattern='x"], 2, "a ' without its end"),
    (["--flow", "web"], 2, "expected NAME=MATCH"),
    (["--flow", "web=tcp,tp_dst=no"], 2, "tp_dst"),
    (["--flow", "web=tcp", "--flow", "web=udp"], 2, "flow 'web' exists already"),
    (["--emit", "x.txt"], 2, "x.txt"),
    (["--emit", "-", "--json"], 2, "--emit - and --json all want standard output"),
    (["-w", "/no/such/folder/x.pcap"], 1, "No such file"),
    (["--attach", "byte_count:protocol=nonsense"], 2, "nonsense"),
    (["--attach", "replace:pattern=a,replacement=b#1", "--attach", "byte_count#1"], 2, "order 1 is taken"),
])
def test_mistakes_are_named(capsys, capture, arguments, code, message):
    got, out, err = run(capsys, capture, *arguments)
    assert (got, out) == (code, "")
    assert message in err and err.startswith("flowos: ") and err.count("\n") == 1


def test_a_missing_input_makes_no_output(capsys, tmp_path):
    code, _, err = run(capsys, tmp_path / "no.pcap", "-w", tmp_path / "out.pcap")
    assert code == 1 and "No such file" in err and not (tmp_path / "out.pcap").exists()


def test_the_input_is_not_overwritten(capsys, capture):
    before = open(capture, "rb").read()
    code, _, err = run(capsys, capture, "-w", capture)
    assert code == 2 and "both read and written" in err and open(capture, "rb").read() == before


def test_a_damaged_input_counts_up_to_the_damage(capsys, capture, tmp_path):
    whole = open(capture, "rb").read()
    (tmp_path / "cut.pcap").write_bytes(whole[:-10] + b"")
    code, out, err = run(capsys, tmp_path / "cut.pcap", "--attach", "byte_count", "--json")
    assert json.loads(out)["modules"][0]["records"] == 3
    assert (code, bool(err)) in ((0, False), (1, True))


def test_a_capture_that_ends_inside_a_record_says_so(capsys, capture, tmp_path):
    (tmp_path / "cut.pcap").write_bytes(open(capture, "rb").read()[:-10])
    assert "ends inside a record" in run(capsys, tmp_path / "cut.pcap", "--attach", "byte_count")[1].splitlines()[0]
    assert "ends inside" not in run(capsys, capture, "--attach", "byte_count")[1]
    assert main(["inspect", str(tmp_path / "cut.pcap")]) == 0
    assert "ends inside a record" in capsys.readouterr().out


def test_edits_that_are_not_written_are_told(capsys, capture, tmp_path):
    edits = "--attach", "replace:pattern=hello,replacement=HELLO"
    assert "-w OUT writes them" in run(capsys, capture, *edits)[1]
    assert "-w OUT" not in run(capsys, capture, *edits, "-w", tmp_path / "out.pcap")[1]
    assert "-w OUT" not in run(capsys, capture, "--attach", "replace:pattern=nowhere,replacement=x")[1]


def test_what_raised_often_is_counted_in_full(capsys, tmp_path):
    (tmp_path / "bad.py").write_text(FAILING)
    capture = save(tmp_path, exchanges(30))
    _, out, _ = run(capsys, capture, "--attach", f"{tmp_path}/bad.py", "--json")
    times = json.loads(out)["modules"][0]["errors"]
    assert times >= 30
    assert f"raised {times} times; the last was" in run(capsys, capture, "--attach", f"{tmp_path}/bad.py", "--quiet")[2]


def test_a_record_is_a_dict(capsys, capture, tmp_path):
    (tmp_path / "bad.py").write_text(FAILING.replace("raise ValueError('no')", "self.emit('text')"))
    code, _, err = run(capsys, capture, "--attach", f"{tmp_path}/bad.py", "--emit", tmp_path / "x.jsonl", "--quiet")
    assert code == 1 and "emit: 'text', expected a dict" in err


@pytest.mark.parametrize("spec, message", [("packet:lo", "`flowos up` stands between"), ("pipe:x", "nothing fills it")])
def test_live_ports_are_no_captures(capsys, spec, message):
    code, _, err = run(capsys, spec, "--attach", "byte_count")
    assert code == 2 and message in err and "Engine.add_port" in err


def test_a_reader_that_goes_away_ends_the_run(capture):
    done = subprocess.run(["bash", "-c", f"'{sys.executable}' -m flowos.cli run '{capture}' --attach http_log --attach flow_stats "
                           "--emit - --quiet | true; exit ${PIPESTATUS[0]}"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, 141) and "Traceback" not in done.stderr


def test_an_interrupt_leaves_a_valid_output(tmp_path):
    first, second = os.pipe()
    target = tmp_path / "out.pcap"
    process = subprocess.Popen([sys.executable, "-m", "flowos.cli", "run", "-", "-w", target, "--attach", "byte_count", "--json"],
                               stdin=first, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    os.close(first)
    data = open(save(tmp_path, exchange(), "in.pcap"), "rb").read()
    os.write(second, data)
    until(target.exists, "the output is begun")
    taken(second, process.pid)
    process.send_signal(2)
    out, err = process.communicate(timeout=300)
    os.close(second)
    assert process.returncode == 130, err
    assert json.loads(out)["capture"]["packets"] > 0
    assert target.read_bytes() == data


def test_progress_is_shown_on_a_terminal_only(capture):
    leader, follower = pty.openpty()
    subprocess.run([sys.executable, "-m", "flowos.cli", "run", capture, "--attach", "byte_count"], stdout=subprocess.DEVNULL,
                   stderr=follower, timeout=300, check=True)
    os.close(follower)
    os.close(leader)
    done = subprocess.run([sys.executable, "-m", "flowos.cli", "run", capture, "--attach", "byte_count"],
                          capture_output=True, timeout=300, check=True)
    assert done.stderr == b"" and io.BytesIO(done.stdout).read(1)


def test_modules_and_decoders_are_listed(capsys):
    assert main(["modules", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["replace"]["mode"] == "rdwr" and told["replace"]["parameters"]["pattern"] == {
        "type": "bytes", "needed": True, "default": None}
    assert told["http_log"]["summary"].startswith("Emit a record")
    assert main(["modules", "replace"]) == 0
    assert "pattern (bytes; needed)" in capsys.readouterr().out
    assert main(["decoders", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["http"]["over"] == ["tcp", "sctp"]
    assert main(["decoders"]) == 0 and "dns" in capsys.readouterr().out
    assert main(["modules", "rplace"]) == 2 and "did you mean 'replace'" in capsys.readouterr().err
