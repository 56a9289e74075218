"""The manual page and the completion scripts say what `--help` says, and the systemd unit what the daemon needs.

The page is rendered by man; the scripts are typed into by a terminal's keyboard, in the shells themselves.
"""
import os
import pty
import re
import select
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import namespaces
import pytest
from conftest import program

from flowos.cli import commands, main
from flowos.cli.completion_model import model
from flowos.cli.completion_shells import bash, fish, zsh
from flowos.cli.man_page import page
from flowos.cli.man_parsers import parser_of
from flowos.daemon.privileges import CAPABILITIES

ROOT = Path(__file__).resolve().parent.parent
UNIT = ROOT / "packaging" / "flowosd.service"
COMMANDS = commands()


# ---- the manual page --------------------------------------------------------------------------

@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """The page as man shows it: {command: its text}."""
    file = tmp_path_factory.mktemp("man") / "flowos.1"
    file.write_text(page())
    done = subprocess.run([program("man"), "-l", "--warnings=all", str(file)], capture_output=True, text=True, timeout=300, check=False,
                          env={**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "400", "MAN_KEEP_FORMATTING": ""})
    assert done.returncode == 0 and not done.stderr, done.stderr
    parts = re.split(r"^   flowos (\w+)$", done.stdout.split("\nEXIT STATUS\n")[0], flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def help_text(command, capsys):
    """Give what `flowos COMMAND --help` prints."""
    assert main([command, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_has_what_help_has(command, capsys, rendered):
    text = help_text(command, capsys)
    assert parser_of(command).format_help() == text                # one source
    usage, _, rest = text.partition("\n\n")
    options = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", usage))
    listed = re.split(r"^options:\n", text, flags=re.M)[1]
    for line in re.findall(r"^  (-\S.*?)(?:  |$)", listed, re.M):
        options |= set(re.findall(r"(?<!\S)--?[a-z][\w-]*", line))
    assert {"-h", "--help"} <= options
    # An entry begins with the spellings of its option, not so deep as what they mean.
    entries = " ".join(re.findall(r"^ {7}((?:-\S+(?: \S+)?, )*-\S+)", rendered[command].partition("[-h]")[2], re.M))
    assert not [option for option in options if not re.search(rf"(?<!\S){option}(?![\w-])", entries)]
    described = rest.split("\n\n")[0].split()
    assert " ".join(described) in " ".join(rendered[command].split())


def test_the_page_has_every_command(rendered):
    assert list(rendered) == COMMANDS


# ---- completion -------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    """A daemon with a flow `flow1` that http_strip works on; gives the environment of a shell that finds it, and `flowos`."""
    folder = tmp_path_factory.mktemp("daemon")
    (folder / "flowos").write_text(f'#!/bin/sh\nexec {sys.executable} -m flowos.cli "$@"\n')
    (folder / "flowos").chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder), 
                   "FLOWOS_SOCKET": str(folder / "socket"), "FLOWOS_STATE": str(folder / "state" / "flowosd.toml"),
                   "TERM": "xterm", "XDG_CONFIG_HOME": str(folder), "LC_ALL": "C.UTF-8"}

    def flowos(*words):
        subprocess.run([folder / "flowos", *words], env=environment, check=True, capture_output=True, timeout=300)
    flowos("up", *(("--user", "root") if os.geteuid() == 0 else ()), "--port", "lan=pipe:man-lan", "--port", "wan=pipe:man-wan")
    try:
        flowos("flow", "add", "tcp,tp_dst=80")
        flowos("attach", "http_strip", "flow1", "pattern=SECRET")
        yield folder, environment
    finally:
        flowos("down")


SAY = {"bash": 'say() { echo "[[$*]]"; }', "zsh": 'say() { echo "[[$*]]" }', "fish": 'function say; echo "[[$argv]]"; end'}
SOURCE = {"bash": ". {}", "zsh": "autoload -Uz compinit; compinit -u; . {}", "fish": "source {}"}
TYPED = {                            # what is typed, and the words that stand there then
    "flowos att\t": "flowos attach",
    "flowos attach http_st\tfl\t": "flowos attach http_strip flow1",
    "flowos attach --thr\tow\tbyte_c\t": "flowos attach --threads own byte_count",
    "flowos detach h\tf\t": "flowos detach http_strip flow1",
    "flowos get flow1/\t": "flowos get flow1/http_strip.pattern",
    "flowos show --socket none fl\t": "flowos show --socket none fl",      # nobody answers there
    "flowos flow li\t": "flowos flow list",
    "flowos apply --pl\twan\t": "flowos apply --plan wanted.toml",
}


def typed(daemon, shell, options, script):
    """Type at a shell that has read a script; give {what was typed: what stood there then}."""
    folder, environment = daemon
    name = Path(shell).name
    (folder / f"completion.{name}").write_text(script)
    (folder / "wanted.toml").touch()
    ours, theirs = pty.openpty()
    process = subprocess.Popen([program("setsid"), "--ctty", shell, *options], stdin=theirs, stdout=theirs, stderr=theirs,
                               env=environment, cwd=folder)
    os.close(theirs)
    try:
        os.write(ours, f"{SAY[name]}\r{SOURCE[name].format(f'completion.{name}')}\rsay rea''dy\r".encode())
        until(ours, b"[[ready]]")
        said = {}
        for line in TYPED:
            os.write(ours, line.encode() + b"\x01say \r")            # Ctrl-A: at the beginning of the line
            said[line] = re.search(rb"\[\[(.*)\]\]", until(ours, b"]]"))[1].decode()
        return said
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def until(descriptor, text):
    """Read until a text comes; give all."""
    seen = b""
    while text not in seen:
        assert select.select([descriptor], [], [], 60)[0], seen
        seen += os.read(descriptor, 65536)
    return seen


def test_bash(daemon):
    assert typed(daemon, program("bash"), ["--norc", "--noprofile", "-i"], bash(model())) == TYPED


@pytest.mark.live
def test_zsh(daemon):
    assert typed(daemon, program("zsh"), ["-f", "-i"], zsh(model())) == TYPED


@pytest.mark.live
def test_fish(daemon):
    assert typed(daemon, program("fish"), ["--no-config", "-i"], fish(model())) == TYPED


def test_the_script_is_printed(capsys):
    assert main(["completion", "bash"]) == 0
    assert capsys.readouterr().out == bash(model())
    assert main(["completion"]) == 2
    assert capsys.readouterr().err == "flowos: completion: expected a shell, one of bash, zsh, fish, or --names\n"


# ---- the systemd unit -------------------------------------------------------------------------

def directives(name):
    """Give the values of a directive of the unit, as words."""
    return [word for value in re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.M) for word in value.split()]


def test_the_unit_keeps_what_the_daemon_keeps():
    bounding = set(directives("CapabilityBoundingSet"))
    assert set(CAPABILITIES) <= bounding
    assert bounding - set(CAPABILITIES) == {"CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP", "CAP_CHOWN", "CAP_DAC_OVERRIDE"}
    assert directives("ExecStopPost") == ["+/usr/bin/flowos", "doctor", "--restore"]


def test_systemd_takes_the_unit(tmp_path):
    unit = tmp_path / "flowosd.service"
    unit.write_text(UNIT.read_text().replace("/usr/bin/flowos", shutil.which("true")))
    for words in (["verify", "--man=no"], ["security", "--offline=yes", "--threshold=40"]):
        done = subprocess.run([program("systemd-analyze"), *words, str(unit)], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert words[0] == "security" or not done.stderr


@pytest.mark.live
def test_the_daemon_starts_with_what_the_unit_gives(netns):
    """Start it twice: the second time its folder is its user's already."""
    name = netns()
    for port, far in ("lan", "lan-far"), ("wan", "wan-far"):
        namespaces.ip("link", "add", port, "netns", name, "type", "veth", "peer", "name", far, "netns", name)
        for end in (port, far):
            namespaces.ip("-n", name, "link", "set", end, "up")
    bounding = ",".join("+" + word.removeprefix("CAP_").lower() for word in directives("CapabilityBoundingSet"))
    user = [] if all(folder.stat().st_mode & 1 for folder in ROOT.parents) else ["--user", "root"]
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.bind(f"{folder}/notify")
            os.chmod(f"{folder}/notify", 0o777)
            systemd.settimeout(60)
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "FLOWOS_SOCKET": f"{folder}/socket",
                           "FLOWOS_STATE": f"{folder}/state/flowosd.toml", "NOTIFY_SOCKET": f"{folder}/notify"}
            for _ in range(2):
                process = subprocess.Popen(
                    ["ip", "netns", "exec", name, program("setpriv"), "--no-new-privs", f"--bounding-set=-all,{bounding}", sys.executable,
                     "-m", "flowos.cli", "up", "--foreground", *user, "--port", "lan=packet:lan", "--port", "wan=packet:wan"],
                    env=environment, stderr=subprocess.PIPE, text=True)
                try:
                    assert systemd.recv(100) == b"READY=1"
                    status = Path(f"/proc/{process.pid}/status").read_text()
                    bits = int(re.search(r"^CapEff:\s+(\w+)", status, re.M)[1], 16)
                    if not user:
                        assert {bit for bit in range(64) if bits >> bit & 1} == set(CAPABILITIES.values())
                    process.terminate()
                    assert systemd.recv(100) == b"STOPPING=1"
                    assert process.wait(60) == 0, process.stderr.read()
                finally:
                    process.kill()
                    process.communicate()
