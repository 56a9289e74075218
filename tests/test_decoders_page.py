"""The page on decoders tells the truth: its Cython decoder compiles and works, its tables are whole.

The page's Python blocks run in test_docs.py.  Both examples decode one protocol, so each is the
other's oracle, at every cut and on damaged bytes.
"""
import importlib.util
import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import flowos.core
from flowos.core.recorder import Recorder
from flowos.decoders import http, tls

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "decoders.md").read_text()

BUILD = """
import sys
from Cython.Build import cythonize
from setuptools import Extension, setup
setup(name="netstring", script_args=["-q", "build_ext", "--inplace"], ext_modules=cythonize(
    [Extension("netstring", ["netstring.pyx"], include_dirs=[sys.argv[1]])],
    include_path=[sys.argv[2]], compiler_directives={"language_level": 3, "cdivision": True}))
"""


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Compile the page's Cython decoder as a package of its own would, and import it."""
    pytest.importorskip("Cython", reason="Cython is not installed")
    folder = tmp_path_factory.mktemp("netstring")
    source, = blocks("cython")
    (folder / "netstring.pyx").write_text(source)
    headers = Path(flowos.core.__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(headers), str(headers.parent.parent)], cwd=folder, text=True,
        capture_output=True, timeout=300, check=False, env={**os.environ, "CFLAGS": "-O1 -std=gnu11"})
    assert done.returncode == 0, done.stdout + done.stderr
    library, = folder.glob("netstring*.so")
    spec = importlib.util.spec_from_file_location("netstring", library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def python_decoder():
    names = {}
    exec(blocks("python run")[0], names)
    return names["NetstringDecoder"]


def strings_of_records(module, records):
    """Put a compiled decoder's units together: (whole strings, bytes of everything else)."""
    found, part = [], {}
    for record in records:
        word = module.KINDS[record.kind]
        if word == "string":
            part[record.message] = part.get(record.message, b"") + record.data
        elif word == "end" and not record.flags:
            found.append(part.pop(record.message, b""))
            assert len(found[-1]) == record.value
    at = 0
    for record in records:
        assert record.start == record.off == at
        at = record.end
    return found


@pytest.mark.slow
def test_the_compiled_decoder_and_the_python_one_agree(compiled):
    Python = python_decoder()

    @given(st.lists(st.binary(max_size=30), max_size=5), st.binary(max_size=6), st.data())
    def agree(strings, tail, data):
        stream = b"".join(b"%d:%s," % (len(s), s) for s in strings) + tail
        cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=6)) | {0, len(stream)})
        recorder, decoder, theirs = Recorder(compiled.NetstringDecoder()), Python(), []
        for a, b in itertools.pairwise(cuts):
            recorder.feed(0, stream[a:b])
            theirs += decoder.feed(0, stream[a:b], a, 0)
        recorder.finish(0)
        theirs += decoder.finish(0, len(stream), 0)
        ours = strings_of_records(compiled, recorder.records)
        assert ours == [unit.info for unit in theirs if unit.kind == "string"]
        assert ours[:len(strings)] == strings

    agree()


@pytest.mark.slow
def test_the_page_shows_how_to_play_the_core(compiled, monkeypatch):
    monkeypatch.setitem(sys.modules, "netstring", compiled)
    example, = (block for block in blocks("python") if "import KINDS, NetstringDecoder" in block)
    exec(example, {})


@pytest.mark.slow
def test_a_gap_inside_a_string_keeps_the_compiled_decoder_in_step(compiled):
    recorder = Recorder(compiled.NetstringDecoder())
    recorder.feed(0, b"9:abc")
    recorder.gap(0, 4)
    recorder.feed(0, b"hi,2:ok,1:")
    recorder.finish(0)
    told = [(compiled.KINDS[r.kind], r.data, r.flags) for r in recorder.records if compiled.KINDS[r.kind] != "length"]
    assert told == [("string", b"abc", 0), ("gap", None, 0), ("string", b"hi", 0), ("comma", b",", 0), ("end", None, 0),
                    ("string", b"ok", 0), ("comma", b",", 0), ("end", None, 0), ("end", None, 16)]


@pytest.mark.parametrize("module", [http, tls])
def test_the_page_names_every_kind_and_counter(module):
    title = {http: "HTTP", tls: "TLS"}[module]
    section = re.search(rf"^## {title}\n(.*?)^## ", PAGE, re.M | re.S)[1]
    for reason in module.REASONS:
        assert f"`{reason}`" in section
    for kind in module.KINDS.values():
        assert re.search(rf"\b{kind}\b", section)
