"""What `flowos new` writes works as it is: its own tests pass, and `flowos run` takes the module."""
import subprocess
import sys

import pytest

import flowos
from conversations import exchanges, save
from flowos.cli import main

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def try_out(folder):
    """Run the tests in a folder as a newcomer would."""
    return subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", folder, folder],
                          cwd=folder, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("arguments", [["module", "redact"], ["module", "tally", "--reads"], ["decoder", "chat"]])
def test_a_skeletons_own_tests_pass(tmp_path, capsys, arguments):
    assert main(["new", *arguments, "-d", str(tmp_path)]) == 0
    name = arguments[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name}.py", f"test_{name}.py"]
    told = capsys.readouterr().out
    assert f"-m pytest {tmp_path}/test_{name}.py" in told and "pip install" not in told
    done = try_out(tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "passed" in done.stdout


@pytest.mark.parametrize("arguments, broken", [
    (["module", "redact"], ("keep=window.partial(self.old)", "keep=0")),
    (["module", "tally", "--reads"], ("count(self.mark)", "count(self.mark) + len(window)")),
    (["decoder", "chat"], ("if held else []", "if held else [Unit(offset, offset, 'line', 'x')]")),
])
def test_a_skeletons_tests_can_fail(tmp_path, arguments, broken):
    assert main(["new", *arguments, "-d", str(tmp_path)]) == 0
    path = tmp_path / f"{arguments[1]}.py"
    text = path.read_text()
    assert text.count(broken[0]) == 1
    path.write_text(text.replace(*broken))
    assert try_out(tmp_path).returncode == 1


def test_a_skeleton_edits_a_capture(tmp_path, capsys):
    main(["new", "module", "redact", "-d", str(tmp_path)])
    source, target = save(tmp_path, exchanges(2, response=ANSWER)), tmp_path / "out.pcap"
    assert main(["run", str(source), "-w", str(target), "--attach", f"{tmp_path}/redact.py:Redact:new=HELLO"]) == 0
    capsys.readouterr()
    assert [connection.b_to_a.read() for connection in flowos.open(target)] == [ANSWER.replace(b"hello", b"HELLO")] * 2


@pytest.mark.parametrize("arguments, message", [
    (["module", "http_log"], "there is a module 'http_log' already"),
    (["decoder", "dns"], "there is a decoder 'dns' already"),
    (["module", "Upper"], "'Upper' is no name"), (["module", "a-b"], "is no name"), (["module", "class"], "is no name"),
    (["module", "_x"], "is no name"), (["module", "json"], "would hide"), (["decoder", "chat", "--reads"], "--reads is for modules"),
    (["thing", "x"], "invalid choice"),
])
def test_mistakes_write_nothing(tmp_path, capsys, arguments, message):
    assert main(["new", *arguments, "-d", str(tmp_path / "made")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_pytest_is_asked_for_where_it_is_not(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["new", "module", "mine", "-d", str(tmp_path)]) == 0
    assert "-m pip install pytest" in capsys.readouterr().out


def test_a_module_imports_the_decoder_beside_it(tmp_path, capsys):
    main(["new", "decoder", "chat", "-d", str(tmp_path)])
    assert "`import chat`" in capsys.readouterr().out
    (tmp_path / "lines.py").write_text("import chat\nfrom flowos import Module\nclass Lines(Module):\n    protocol = 'chat'\n"
                                       "    def process(self, window):\n        for unit in window.units:\n"
                                       "            self.emit({'line': unit.info})\n")
    source = save(tmp_path, exchanges(1, request=b"HELLO you\n", response=b"HELLO too\n"))
    done = subprocess.run([sys.executable, "-m", "flowos.cli", "run", str(source), "--attach", str(tmp_path / "lines.py"),
                           "--emit", "-", "--quiet"], capture_output=True, text=True, timeout=300, check=True)
    assert '"HELLO you"' in done.stdout and '"HELLO too"' in done.stdout


def test_nothing_is_overwritten(tmp_path, capsys):
    (tmp_path / "test_mine.py").write_text("precious")
    assert main(["new", "module", "mine", "-d", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["test_mine.py"]
