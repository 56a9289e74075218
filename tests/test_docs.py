"""The documentation is true: examples run, public names are described, stubs match.

Examples are of three kinds: doctests in docstrings; `>>>` sessions in the Markdown files; and
fenced blocks marked `python run` or `sh run` there, which are executed from the project's root.
The blocks of one file share their names, as a reader who follows the page would have it.
"""
import ast
import doctest
import importlib
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import flowos

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
COMMAND = "from flowos.cli import main; raise SystemExit(main())"
FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```", re.M | re.S)


def modules_of(package):
    """Yield the names of a package and of every module below it."""
    yield package
    for found in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        if not found.name.endswith(".__main__"):
            yield found.name


# flowos.decoders and flowos.modules lie elsewhere in the tree, so they are walked by name.
MODULES = sorted({name for package in ("flowos", "flowos.decoders", "flowos.modules")
                  for name in modules_of(package)})


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    """Examples name files from the project's root."""
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert result.failed == 0


def test_there_are_docstring_examples():
    finder = doctest.DocTestFinder()
    examples = sum(len(test.examples) for name in MODULES
                   for test in finder.find(importlib.import_module(name), name))
    assert examples >= 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_examples(page, tmp_path):
    text, names = page.read_text(), {"__name__": page.stem}
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(optionflags=FLAGS)
    for number, (info, code) in enumerate(FENCE.findall(text)):
        label = f"{page.name}, block {number}"
        if info.strip() == "python run":
            exec(compile(code, label, "exec"), names)
        elif info.strip() == "sh run":
            (tmp_path / "flowos").write_text(f"#!/bin/sh\nexec {sys.executable} -c '{COMMAND}' \"$@\"\n")
            (tmp_path / "flowos").chmod(0o755)
            programs = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
            done = subprocess.run(["bash", "-euc", code], capture_output=True, text=True, timeout=300,
                                  check=False, env={**os.environ, "PATH": programs, "OUT": str(tmp_path)})
            assert done.returncode == 0, f"{label}: {done.stderr}"
        elif info.startswith("python") and ">>> " in code:
            example = parser.get_doctest(code, names, label, str(page), 0)
            runner.run(example, clear_globs=False)
            names.update(example.globs)
    assert runner.failures == 0


def test_the_pages_have_examples():
    assert sum(info.strip() in ("python run", "sh run") for page in PAGES
               for info, _ in FENCE.findall(page.read_text())) >= 5


LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
NAMED = re.compile(r"\b(?:tests|docs|scripts|examples|decoders|modules|flowos)/[\w/]+\.(?:py|pyx|pxd|h|md|sh|c)\b")
IMAGINED = {"decoders/x.py", "decoders/x.pyx", "decoders/x.h"}      # a reader's own, in the instructions


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_files_that_exist(page):
    text = page.read_text()
    lost = [link for link in LINK.findall(text) if "://" not in link and not (page.parent / link).exists()]
    lost += [name for name in NAMED.findall(text) if name not in IMAGINED and not (ROOT / name).exists()]
    assert not lost


def public(owner):
    """Give the public names a class defines itself."""
    return {name for name in vars(owner) if not name.startswith("_")}


def described():
    """Yield (dotted name, object) of everything public that must have a docstring."""
    for name in flowos.__all__:
        item = getattr(flowos, name)
        if inspect.isclass(item):
            yield f"flowos.{name}", item
            for attribute in sorted(public(item)):
                member = inspect.getattr_static(item, attribute)
                if isinstance(member, (classmethod, staticmethod)):
                    member = member.__func__
                if isinstance(member, property) or inspect.isroutine(member) or inspect.isfunction(member):
                    yield f"flowos.{name}.{attribute}", member
        elif callable(item):
            yield f"flowos.{name}", item


DESCRIBED = dict(described())


def first_line(item):
    """Give the first line of a docstring, past the signature that Cython embeds."""
    lines = (inspect.getdoc(item) or "").splitlines()
    if lines and re.match(r"^[\w.]+\(.*\)( -> .*)?$", lines[0]):
        lines = lines[1:]
    return next((line.strip() for line in lines if line.strip()), "")


@pytest.mark.parametrize("name", DESCRIBED)
def test_public_names_have_a_docstring(name):
    item = DESCRIBED[name]
    line = first_line(item)
    assert line, f"{name} has no docstring"
    assert line[-1] in ".:?" or line.endswith(".)"), f"{name}: one line that is a sentence, not {line!r}"
    if inspect.isfunction(item) or type(item).__name__ == "cython_function_or_method":
        # An imperative: "Give", "Attach".  What describes instead ("Gives", "This") is caught.
        word = line.split()[0].strip(",:`")
        assert not re.fullmatch(r"(?:This|Returns?ed|It|The|[A-Z]\w+[^s]s)", word), \
            f"{name}: begin with an imperative, not {word!r}"


def test_the_docstring_rule_can_fail():
    def good():
        """Give the answer."""

    def cython():
        """cython(x: int) -> int

        Give the answer.
        """

    assert first_line(good) == first_line(cython) == "Give the answer."
    assert first_line(lambda: 0) == ""


def test_no_submodule_hides_a_public_name():
    for name in MODULES:
        importlib.import_module(name)
    assert [name for name in flowos.__all__ if inspect.ismodule(getattr(flowos, name))] == []


STUBS = sorted(path for folder in ("flowos", "decoders", "modules") for path in (ROOT / folder).rglob("*.pyi"))


def stub_names(body):
    """Give {public name: names of its members} that a stub's statements declare."""
    names = {}
    for node in body:
        if isinstance(node, ast.ClassDef):
            names[node.name] = set(stub_names(node.body))
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            names[node.name] = set()
        elif isinstance(node, ast.AnnAssign):
            names[node.target.id] = set()
        elif isinstance(node, ast.Assign):
            names.update({target.id: set() for target in node.targets})
        elif isinstance(node, ast.ImportFrom):          # `from x import y as y` hands a name on
            names.update({alias.asname: set() for alias in node.names if alias.asname})
        elif isinstance(node, ast.If):
            names.update(stub_names(node.body))
    return {name: members for name, members in names.items() if not name.startswith("_")}


def set_on_self(item):
    """Give the attributes that a class's own Python source assigns on `self`; none for a compiled one."""
    try:
        return set(re.findall(r"\bself\.([a-z]\w*)\s*=[^=]", inspect.getsource(item)))
    except (OSError, TypeError):
        return set()


def test_there_is_a_stub_for_the_public_face():
    assert (ROOT / "flowos" / "py.typed").exists()
    assert ROOT / "flowos" / "__init__.pyi" in STUBS


@pytest.mark.parametrize("path", STUBS, ids=lambda path: str(path.relative_to(ROOT)))
def test_stubs_declare_what_exists(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "flowos" else ("flowos", *parts)
    module = importlib.import_module(".".join(part for part in parts if part != "__init__"))
    declared = stub_names(ast.parse(path.read_text()).body)
    runtime = set(getattr(module, "__all__", None) or
                  {name for name, item in vars(module).items() if not name.startswith("_")
                   and getattr(item, "__module__", module.__name__) == module.__name__
                   and not inspect.ismodule(item)})
    assert set(declared) == {name for name in runtime if not name.startswith("_")}
    for name, members in declared.items():
        item = getattr(module, name)
        if inspect.isclass(item) and members:
            fields = set(getattr(item, "__annotations__", ())) | set_on_self(item)
            assert members - fields - set(dir(item)) == set(), f"{name}: declared, but not there"
            own = {member for member in public(item) if not inspect.isclass(vars(item)[member])
                   and first_line(vars(item)[member]) not in ("", f"{member}: object", f"{member}: dict")}
            inherited = {member for base in item.__mro__[1:] for member in vars(base)}
            assert own - members - inherited == set(), f"{name}: there, but not declared"


TEXT = (".py", ".pyx", ".pxd", ".pyi", ".h", ".c", ".md", ".sh", ".cfg", ".toml", ".in", ".json", "")
SKIPPED = {".git", ".venv", ".venvs", "build", "dist", "__pycache__", ".pytest_cache", ".hypothesis", ".benchmarks"}


def text_files(top):
    """Yield the text files of the tree, without what was made from them."""
    for path in sorted(top.iterdir()):
        if path.name in SKIPPED or path.name.endswith(".egg-info") or path.is_symlink():
            continue
        if path.is_dir():
            yield from text_files(path)
        elif path.suffix in TEXT:
            yield path


# A build must work from a mirror, or with no network: the tree names no host of a registry.
HOSTS = ["pypi" + ".org", "python" + "hosted.org", "deb" + ".debian.org", "registry.npm" + "js.org",
         "archive" + ".ubuntu.com"]


def placed(text, places):
    """Give the first of the places, or of the registries' hosts, that a text names."""
    for place in places:
        if found := re.search(rf"(?<![\w./~-]){re.escape(str(place))}/", text):
            return found[0]
    return next((host for host in HOSTS if host in text), None)


def test_the_place_rule_can_fail():
    assert placed("see /home/me/flowos/x", [Path("/home/me")]) == "/home/me/"
    assert placed("see /usr/home/me/x and /home/meadow", [Path("/home/me")]) is None
    assert placed(f"from {HOSTS[0]}", []) == HOSTS[0]


def test_the_tree_names_no_place_it_was_made_in():
    places = [place for place in {ROOT, ROOT.parent, Path.home(), Path(sys.base_prefix).resolve()}
              if len(place.parts) > 1 and place.parts[1] not in ("usr", "tmp", "opt", "var")]
    found = {str(path.relative_to(ROOT)): word for path in text_files(ROOT)
             if (word := placed(path.read_text(errors="replace"), places))}
    assert not found
