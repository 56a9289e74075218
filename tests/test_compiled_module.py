"""The example of a compiled module, built as a package of its own against an installed wheel, and run.

The oracle counts bytes in Python: with `collections.Counter`, over the same streams read by the pull face.
"""
import collections
import json
import math
import shutil

import pytest
from test_packaging import LEFT_OUT, QUICK, ROOT, build, fresh_environment, install, run

import flowos
from flowos.packets import Conversation, save

EXAMPLE = ROOT / "examples" / "compiled_module"


@pytest.fixture
def installed(tmp_path):
    """A fresh environment with a wheel of the tree in it: (interpreter, site-packages).

    What was compiled for the tree goes along, and only what changed since is compiled again.
    """
    tree = tmp_path / "tree"
    shutil.copytree(ROOT, tree, ignore=LEFT_OUT, symlinks=True)
    for kept in (path for name in ("cython", "lib.*", "temp.*") for path in (ROOT / "build").glob(name)):
        shutil.copytree(kept, tree / "build" / kept.name)
    if (ROOT / "build" / "profile").exists():
        shutil.copy2(ROOT / "build" / "profile", tree / "build")
    build(tree, tmp_path, "wheel")
    python, packages = fresh_environment(tmp_path / "env")
    install(python, next(tmp_path.glob("flowos-*.whl")))
    return python, packages


def entropy(data):
    """Give Shannon's entropy in bits per byte, rounded as the example does."""
    return round(-sum(n / len(data) * math.log2(n / len(data)) for n in collections.Counter(data).values()), 3)


def expected(path):
    """Say what the example must emit for a capture: [(connection, direction, bytes, entropy), …]."""
    found = collections.defaultdict(bytes)

    class Streams(flowos.Module):
        def process(self, window):
            found[window.connection.id, window.direction] += bytes(window.data)

    with flowos.Engine(flowos.Config.offline()) as engine:
        engine.add_port(path)
        engine.attach(Streams())
        engine.run()
    return sorted((*way, len(data), entropy(data)) for way, data in found.items() if data)


def with_hole(path):
    """Save a conversation of which a segment was never captured."""
    talk = Conversation().open().send(0, bytes(range(256)) * 4, mss=100)
    del talk.packets[6]
    save(path, talk.send(1, b"received").close().packets)
    return path


@pytest.mark.slow
def test_the_example_is_built_against_the_wheel_and_counts_what_python_counts(installed, demo_capture, tmp_path):
    python, packages = installed
    shutil.copytree(EXAMPLE, tmp_path / "package", ignore=shutil.ignore_patterns("build", "*.c", "*.so", "*.egg-info"))
    install(python, "--no-build-isolation", tmp_path / "package", **QUICK)
    assert list(packages.glob("byte_entropy.*.so"))
    assert "byte_entropy" in run(python.parent / "flowos", "modules", cwd=tmp_path)
    for capture in (demo_capture, with_hole(tmp_path / "hole.pcap")):
        known = expected(capture)
        assert known
        for arguments in (("byte_entropy",), ("byte_entropy:rounds=3", "--threads", "own")):
            records = tmp_path / "records.jsonl"
            run(python.parent / "flowos", "run", capture, "--quiet", "--attach", *arguments, "--emit", records, cwd=tmp_path)
            lines = map(json.loads, records.read_text().splitlines())
            assert sorted((r["connection"], r["direction"], r["bytes"], r["entropy"]) for r in lines) == known, arguments
