"""The layers: imports, cimports and includes run one way, and files say what they are.

    headers -> core -> { decoders, modules } -> flowos/*.py -> { services, daemon } -> cli, examples, tests

The tree itself is read, as text; nothing is imported.  Each rule is a pure function from a
file's name and text to complaints, and is tried on text that breaks it before it is trusted.
"""
import io
import re
from pathlib import Path

import pyflakes.api
import pyflakes.reporter
import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("*.py", "*.pyx", "*.pxd", "*.h")

# Which parts of FlowOS each part may import; other packages are everybody's own business.
# "flowos" alone is the public face; "flowos.*" the plain modules beside it (flowos/engine.py).
MAY_IMPORT = {
    "core": {"core"},
    "decoders": {"core", "decoder", "errors"},
    "modules": {"core", "module", "errors", "face"},
    "face": {"core", "face", "module", "decoder", "errors"},
    "services": {"face", "module", "decoder", "errors", "services"},
    "daemon": {"core", "modules", "face", "module", "decoder", "errors", "services", "daemon"},
    "cli": {"core", "face", "module", "decoder", "errors", "services", "daemon", "cli"},
}
# What stands under flowos. as a name of its own; every other name there belongs to the face.
PARTS = {"core", "decoders", "modules", "services", "daemon", "cli", "module", "decoder", "errors"}
# The core frames, defragments and reassembles by itself, so these words are its own as well.
CORE_PROTOCOLS = {"ip4", "ip6", "tcp", "udp", "sctp", "icmp"}
# Modules whose names are plain verbs, which any code may use.
CORE_VERBS = {"extract", "mirror", "replace"}

IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<origin>[.\w]+)[ \t]+c?import[ \t]+(?P<names>\([^)]*\)|[^\n#;]+)"
    r"|c?import[ \t]+(?P<plain>[^\n#;]+))", re.M)
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]+(["<])([^">]+)[">]', re.M)
EXTERN = re.compile(r'cdef extern from "([^"]+)"')
STRING = re.compile(r'("""|\'\'\')(?:.|\n)*?\1')


def part_of(path):
    """Name the part of the tree that a file belongs to: core, decoders, modules, face, ..."""
    folder = path.parts[0]
    if folder != "flowos":
        return folder
    return path.parts[1] if len(path.parts) > 2 else "face"


def imported(path, text):
    """Yield the dotted name of everything of FlowOS that a Python or Cython source imports."""
    package = {"decoders": ("flowos", "decoders"), "modules": ("flowos", "modules")}.get(
        path.parts[0], path.parts[:-1])
    package = (*package, *path.parts[1:-1]) if path.parts[0] in ("decoders", "modules") else package
    for found in IMPORT.finditer(STRING.sub("", text)):
        if found["plain"]:
            names = [name.split(" as ")[0].strip() for name in found["plain"].split(",")]
        else:
            origin = found["origin"]
            dots = len(origin) - len(origin.lstrip("."))
            base = ".".join((*package[:len(package) - dots + 1], *filter(None, [origin.lstrip(".")]))) \
                if dots else origin
            listed = re.sub(r"#[^\n]*|[()]", "", found["names"]).split(",")
            names = [f"{base}.{name.split(' as ')[0].strip()}" for name in listed if name.strip()]
        yield from (name for name in names if name.split(".")[0] in ("flowos", "decoders", "modules"))


def target_part(name):
    """Name the part that a dotted FlowOS name leads to."""
    first, *rest = name.split(".")
    if first != "flowos":
        return first                                    # `import decoders`: a second copy
    if not rest:
        return "face"
    return rest[0] if rest[0] in PARTS else "face"


def import_complaints(path, text):
    """Say which imports of a source go against the layers."""
    part = part_of(path)
    for name in imported(path, text):
        if part == "face" and name in ("flowos.decoders", "flowos.modules"):
            continue                            # the registry looks into the folders, and names no file
        target = target_part(name)
        if target not in MAY_IMPORT.get(part, {target}):
            yield f"{path}: {part} must not import {name}"


def test_the_import_rule_can_fail():
    bad = {
        "flowos/core/x.pyx": "from flowos.engine import Engine",
        "flowos/core/y.py": "from .. import engine",
        "flowos/core/z.py": "import os, flowos.decoders.http as h",
        "decoders/a.py": "from flowos.decoders import b",
        "decoders/b.py": "from . import a",
        "decoders/c.pyx": "from flowos.engine cimport Engine",
        "modules/a.py": "from flowos.decoders.http import Head",
        "modules/b.py": "import modules.a",
        "flowos/engine.py": "from flowos.cli import main",
        "flowos/registry.py": "import flowos.decoders.http",
        "flowos/face.py": "from flowos import (Engine,  # reason\n    services)",
        "flowos/services/s.py": "from ..core import ring",
        "flowos/services/t.py": "    from flowos.core.ring import Ring",
    }
    for name, text in bad.items():
        assert list(import_complaints(Path(name), text)), f"{name}: {text}"
    good = {
        "flowos/core/x.pyx": "from flowos.core.unit cimport fos_unit\nfrom .ring import Ring\nimport numpy",
        "decoders/a.py": "from flowos.decoder import Decoder\nfrom flowos.core.errors import UsageError",
        "modules/a.py": "from flowos import Module, RDWR",
        "flowos/engine.py": '"""Text.\n\nfrom flowos.cli import main\n"""\nfrom flowos.core.engine import Loop',
        "flowos/registry.py": "import flowos.decoders",
        "flowos/services/s.py": "from flowos import Engine\nfrom . import rpc",
        "flowos/cli/c.py": "from flowos.services import rpc",
    }
    for name, text in good.items():
        assert not list(import_complaints(Path(name), text)), f"{name}: {text}"


def sources(*folders):
    """Give the source files of some folders, as paths relative to the root."""
    return sorted(
        path.relative_to(ROOT) for folder in folders for pattern in SOURCES
        for path in (ROOT / folder).rglob(pattern)
        if path.is_file() and not any(parent.is_symlink() for parent in path.parents))


def read(path):
    """Read a file of the tree."""
    return (ROOT / path).read_text()


def test_imports_run_one_way():
    files = [path for path in sources("flowos", "decoders", "modules") if path.suffix != ".h"]
    assert len(files) > 10
    assert not [complaint for path in files for complaint in import_complaints(path, read(path))]


def cycle(edges):
    """Give a cycle of a graph {node: {node}} as a list of nodes, or None."""
    done, trail = set(), []

    def visit(node):
        if node in trail:
            return trail[trail.index(node):] + [node]
        if node in done:
            return None
        trail.append(node)
        for other in sorted(edges.get(node, ())):
            if found := visit(other):
                return found
        done.add(trail.pop())
        return None

    for start in sorted(edges):
        if found := visit(start):
            return found
    return None


def test_the_cycle_finder_can_fail():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": set()}) is None
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def core_edges():
    """Give what each file of the core leans on: headers and core modules, by name."""
    edges = {}
    for path in sources("flowos/core"):
        text, node = read(path), path.name if path.suffix == ".h" else path.stem
        wanted = edges.setdefault(node, set())
        if path.suffix == ".h":
            wanted.update(name for mark, name in INCLUDE.findall(text) if mark == '"')
        else:
            for name in imported(path, text):
                if name.startswith("flowos.core."):
                    wanted.add(name.split(".")[2])
            wanted.update(EXTERN.findall(text))
        wanted.discard(node)
    return edges


def test_the_core_has_no_cycles():
    assert (found := cycle(core_edges())) is None, " -> ".join(found)


def test_headers_include_only_the_system_and_the_core():
    headers = [path for path in sources("flowos", "decoders", "modules") if path.suffix == ".h"]
    core = {path.name for path in headers if path.parent == Path("flowos/core")}
    for path in headers:
        # Shared structs live in the core; decoders/http.h would be the plain-C half of decoders/http.pyx.
        assert path.name in core or (ROOT / path).with_suffix(".pyx").exists(), \
            f"{path} belongs in flowos/core, or beside a .pyx of its name"
        for mark, name in INCLUDE.findall(read(path)):
            if mark == '"':
                assert name in core, f'{path} includes "{name}", which is no header of the core'
            else:
                assert not name.startswith(("Python", "numpy")), f"{path}: headers know no Python"


def test_declarations_for_cimport_live_in_the_core():
    # Cython silently ignores decoders/x.pxd.
    assert all(path.parent == Path("flowos/core")
               for path in sources("flowos", "decoders", "modules") if path.suffix == ".pxd")


def code_of(text):
    """Strip comments and docstrings from a source: what is left says what it does."""
    text = STRING.sub("", text)
    text = re.sub(r"/\*(?:.|\n)*?\*/|//[^\n]*", "", text)
    return re.sub(r"(?m)#(?!\s*(?:include|define|if|endif|else|error|undef)\b)[^\n]*", "", text)


def named_plugins(text, plugins):
    """Give the decoders and modules that a core source names in its code."""
    words = set(re.findall(r"[a-z0-9]+", code_of(text).lower()))
    return sorted(words & plugins)


def test_the_name_rule_can_fail():
    assert named_plugins('"""Speaks of http."""\nx = 1  # http too\n', {"http"}) == []
    assert named_plugins('"""Doc."""\nif name == "http":\n', {"http"}) == ["http"]
    assert named_plugins("/* http */\nint feed_http(void);\n", {"http"}) == ["http"]


def test_the_core_names_no_decoder_and_no_module():
    plugins = {path.stem for path in sources("decoders", "modules")} - {"__init__"} - CORE_PROTOCOLS - CORE_VERBS
    found = {str(path): names for path in sources("flowos/core") if (names := named_plugins(read(path), plugins))}
    assert not found


def opening(path, text):
    """Give the paragraph that a file opens with, or an empty string."""
    text = re.sub(r"\A(#![^\n]*\n|#[^\n]*coding[^\n]*\n|# (?:cython|distutils):[^\n]*\n)+", "", text).lstrip()
    if path.suffix == ".h":
        found = re.match(r"/\*(.*?)\*/", text, re.S) or re.match(r"((?://[^\n]*\n)+)", text)
    else:
        found = re.match(r'[rR]?"""(.*?)"""', text, re.S)
    return found[1].strip(" *\n") if found else ""


WRITTEN = sources("flowos", "decoders", "modules", "tests", "examples", "benchmarks", "scripts")


@pytest.mark.parametrize("path", WRITTEN, ids=str)
def test_a_file_opens_with_what_it_is(path):
    text = read(path)
    paragraph = opening(path, text)
    assert len(paragraph) >= 20, f"{path} must open with a paragraph that says what it is"
    if path.parts[0] in ("flowos", "decoders", "modules") and text.count("\n") > 500:
        assert re.search(r"\b(long|longer|one file)\b.*\b(because|so that)\b", paragraph, re.S), \
            f'{path} has over 500 lines: its opening says "... is long because ..."'


def test_the_opening_rule_can_fail():
    assert opening(Path("x.py"), "import os\n") == ""
    assert opening(Path("x.h"), "#ifndef X\n") == ""
    assert opening(Path("x.h"), "/* Rings.\n * More. */\n") == "Rings.\n * More."
    assert opening(Path("x.pyx"), '# cython: language_level=3\n"""Rings."""\n') == "Rings."


# ------------------------------------------------------------------------------------------ names

def flaws(path, text):
    """List the names of a Python file that nothing defines, and the imports and variables that nothing uses.

    A path is met by some test only if a test runs it; a name that is missing is found without.  A
    line whose comment says `noqa` has told why.
    """
    out, err = io.StringIO(), io.StringIO()
    pyflakes.api.check(text, path, pyflakes.reporter.Reporter(out, err))
    lines = text.splitlines()
    return err.getvalue().splitlines() + [
        line for line in out.getvalue().splitlines() if "# noqa" not in lines[int(line.removeprefix(path).split(":")[1]) - 1]]


@pytest.mark.parametrize("path", [
    str(path.relative_to(ROOT)) for folder in ("flowos", "modules", "decoders", "examples", "benchmarks", "tests")
    for path in sorted((ROOT / folder).rglob("*.py")) if "build" not in path.relative_to(ROOT).parts])
def test_every_name_is_defined_and_every_import_used(path):
    assert flaws(path, (ROOT / path).read_text()) == []


def test_the_rule_of_names_can_fail():
    assert flaws("a.py", "import os\ntime.sleep(1)\n") == [
        "a.py:1:1: 'os' imported but unused", "a.py:2:1: undefined name 'time'"]
    assert flaws("a.py", "import os  # noqa: F401: for its effect\n") == []
    assert len(flaws("a.py", "def f(:\n")) > 0
