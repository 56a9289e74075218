"""README's live tour, as it stands there: pasted into a shell on a machine of its own, as far as it can see.

The shell has its own mounts and network, with an empty /run, so that nothing of the tour meets what runs here.
"""
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WHOLE, STRIPPED = "The SECRET of a good soup is time.", "The  of a good soup is time."
PROGRAMS = {"python": f'exec {sys.executable} "$@"',
            "flowos": f'PYTHONPATH={ROOT} exec {sys.executable} -m flowos.cli "$@"'}
# What is there when the tour is over.
LEFT = "ip netns list; ls -A /run; ip -o link | grep -v ' lo:'"


def tour():
    """Give the commands of README's section "Live"."""
    section = (ROOT / "README.md").read_text().split("\n## Live\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```", section, re.M | re.S)
    assert len(blocks) == 1
    return blocks[0]


@pytest.fixture
def machine(root, tmp_path):
    """Give a function that pastes text into a shell whose folder looks like a clone after `make demo`."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, text in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)

    def paste(text):
        # --kill-child: what the text leaves running goes with the shell, should the test be cut short.
        return subprocess.run(
            ["unshare", "--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child", "bash"],
            input=f"mount -t tmpfs tmpfs /run\n{text}", capture_output=True, text=True, timeout=300, cwd=tmp_path, check=False)
    if (probe := paste("ip netns add probe")).returncode:
        pytest.skip(f"no network namespaces here: {probe.stderr.strip()}")
    return paste


@pytest.mark.live
def test_the_tour(machine):
    done = machine(tour() + LEFT)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("flowosd runs as process ")
    assert lines[1:4] == ["flow1", "http_strip", f"1:{WHOLE}"], done
    number, _, page = lines[4].partition(":")
    assert page == STRIPPED and int(number) > 1
    assert lines[5] == "flow1  priority=0  tcp,tp_dst=80"
    shown = re.fullmatch(r" +1 http_strip pattern=SECRET \(rdwr http\.body, inline\): .* ([\d,]+) edits, ([\d,]+) bytes removed", lines[6])
    edits, removed = (int(text.replace(",", "")) for text in shown.groups())
    assert 0 < edits and removed == len("SECRET") * edits
    assert lines[7].endswith(f":{WHOLE}")
    assert lines[8:] in ([], ["netns"]), "the tour left something behind"
    assert not done.stderr, done.stderr
