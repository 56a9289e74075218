"""What is shipped is whole: wheel, sdist, editable install, and the headers for other builds.

The tree is copied first, so that nothing compiled or left over here helps a build along, but for the C
that Cython made of files that did not change; the copies compile without optimisation, which is all that the
content of a package needs.
"""
import configparser
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import flowos

ROOT = Path(__file__).resolve().parent.parent
TREES = {"flowos": "flowos", "decoders": "flowos/decoders", "modules": "flowos/modules"}
QUICK = {"CFLAGS": "-O0 -g0 -w"}
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", ".venvs", "build", "dist", "*.egg-info", "*.so", "*.tmp",
                                  "__pycache__", ".hypothesis", ".pytest_cache", "results")
EXTENSION = """
cimport cython
from libc.stdint cimport uint8_t, uint64_t
from flowos.core.decoder cimport Decoder
from flowos.core.unit cimport fos_unit, fos_sink, FOS_UNIT_DATA

cdef class Plain(Decoder):
    '''Emits each piece of a stream as one unit.'''
    name = "plain"
    over = ("tcp",)

def size():
    return sizeof(fos_unit) + FOS_UNIT_DATA
"""
BUILD = """
from pathlib import Path
import flowos.core
from Cython.Build import cythonize
from setuptools import Extension, setup
headers = str(Path(flowos.core.__file__).parent)
setup(name="plain", ext_modules=cythonize([Extension("plain", ["plain.pyx"], include_dirs=[headers])]))
"""


def run(*command, cwd, **environment):
    """Run a command in a folder; fail with all it printed."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LD_PRELOAD")}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env={**inherited, **environment},
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-8000:]
    return done.stdout


def build(tree, out, kind, **environment):
    """Build a tree through its PEP 517 hooks, as pip does, with what is installed here."""
    run(sys.executable, "-c", f"from setuptools import build_meta; build_meta.build_{kind}({str(out)!r})", cwd=tree, **environment)


def fresh_environment(folder):
    """Make a virtual environment that sees this one's packages, but not its FlowOS."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    packages = next(folder.glob("lib/python3*/site-packages"))
    here = next(path for path in map(Path, sys.path) if (path / "numpy").is_dir())
    # On the path as a plain folder: its .pth files, the editable FlowOS among them, are not read.
    (packages / "others.pth").write_text(f"{here}\n")
    return folder / "bin" / "python", packages


@pytest.fixture(scope="session")
def sdist(tmp_path_factory):
    """An sdist of the tree."""
    folder = tmp_path_factory.mktemp("sdist")
    shutil.copytree(ROOT, folder / "tree", ignore=LEFT_OUT, symlinks=True)
    build(folder / "tree", folder, "sdist", FLOWOS_BUILD="none")
    return next(folder.glob("flowos-*.tar.gz"))


@pytest.fixture(scope="session")
def wheel(sdist, tmp_path_factory):
    """A wheel built from the sdist, so that what the sdist lacks shows."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    tree = next(folder.glob("flowos-*/"))
    if (ROOT / "build" / "cython").is_dir():
        shutil.copytree(ROOT / "build" / "cython", tree / "build" / "cython")
        (tree / "build" / "profile").write_text("release")
    build(tree, folder, "wheel", **QUICK)
    return next(folder.glob("flowos-*.whl"))


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """A fresh environment with the wheel in it: (interpreter, site-packages)."""
    python, packages = fresh_environment(tmp_path_factory.mktemp("installed") / "env")
    install(python, wheel)
    return python, packages


def install(python, *what, **environment):
    """Install into the environment of `python`, with the pip that is here and nothing else."""
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index",
        "--ignore-installed", *what, cwd=python.parent, **environment)


def shipped(suffixes):
    """Give the tree's files of some kinds, by the path they have once installed."""
    return {f"{package}/{path.relative_to(ROOT / folder)}"
            for folder, package in TREES.items() for path in (ROOT / folder).rglob("*")
            if path.suffix in suffixes and not any(parent.is_symlink() for parent in path.parents)}


def test_setup_cfg_lists_every_package():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    there = {f"{package}/{path.parent.relative_to(ROOT / folder)}".rstrip("./").replace("/", ".")
             for folder, package in TREES.items() for path in (ROOT / folder).rglob("__init__.py")
             if not any(parent.is_symlink() for parent in path.parents)}
    assert listed == there


def test_the_version_is_said_once():
    assert flowos.__version__ == __import__("flowos._version", fromlist=["x"]).__version__


@pytest.mark.parametrize("name", ["decoders", "modules"])
def test_a_second_copy_cannot_be_imported(name):
    done = subprocess.run([sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True,
                          check=False)
    assert done.returncode != 0 and f"import flowos.{name}" in done.stderr


@pytest.mark.slow
def test_the_sdist_holds_the_sources(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    wanted = {str(path.relative_to(ROOT)) for folder in (*TREES, "tests", "docs", "examples", "scripts")
              for path in (ROOT / folder).rglob("*")
              if path.is_file() and path.suffix not in (".so", ".pyc", ".tmp")
              and not any(parent.is_symlink() or parent.name == "__pycache__" for parent in path.parents)}
    wanted |= {"LICENSE", "README.md", "CHANGELOG.md", "Makefile", "setup.py", "setup.cfg", "pyproject.toml"}
    assert wanted - names == set()
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


@pytest.mark.slow
def test_the_wheel_holds_modules_and_contract(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    wanted = shipped({".py", ".pyx", ".pxd", ".h", ".pyi"}) | {"flowos/py.typed"}
    assert wanted - names == set()
    compiled = {name.split(".")[0] for name in names if name.endswith(".so")}
    assert compiled == {name.removesuffix(".pyx") for name in shipped({".pyx"})}
    stray = {name for name in names if not name.startswith(("flowos/", "flowos-"))}
    assert stray == set(), "only the flowos package and its metadata"
    assert not [name for name in names if name.endswith((".c", ".so.tmp"))]


@pytest.mark.slow
def test_an_installed_wheel_works(installed, tmp_path):
    python, packages = installed
    where = run(python, "-c", "import flowos; print(flowos.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(packages)
    assert flowos.__version__ in run(python.parent / "flowos", "--version", cwd=tmp_path)
    listed = run(python, "-c", "import pkgutil, flowos.decoders as d\n"
                 "for m in pkgutil.iter_modules(d.__path__): __import__('flowos.decoders.' + m.name); print(m.name)",
                 cwd=tmp_path).split()
    assert set(listed) == {path.stem for path in (ROOT / "decoders").glob("[a-z]*.py*")
                           if path.suffix in (".py", ".pyx")}


@pytest.mark.slow
def test_an_installed_wheel_inspects_the_demo(installed, demo_capture, tmp_path):
    python, _ = installed
    assert '"connections"' in run(python.parent / "flowos", "inspect", "--json", demo_capture, cwd=tmp_path)


@pytest.mark.slow
def test_another_package_compiles_against_the_installed_headers(installed, tmp_path):
    python, _ = installed
    (tmp_path / "plain.pyx").write_text(EXTENSION)
    (tmp_path / "setup.py").write_text(BUILD)
    run(python, "setup.py", "-q", "build_ext", "--inplace", cwd=tmp_path, **QUICK)
    output = run(python, "-c", "import plain; print(plain.size(), plain.Plain.name)", cwd=tmp_path)
    assert output.split() == ["64", "plain"]


@pytest.mark.slow
def test_an_editable_install_works(tmp_path):
    shutil.copytree(ROOT, tmp_path / "tree", ignore=LEFT_OUT, symlinks=True)
    # One extension shows that the mapping works; compiling all of them again would show no more.
    for source in (tmp_path / "tree").rglob("*.pyx"):
        if source.stem != "decoder":
            source.unlink()
    python, _ = fresh_environment(tmp_path / "env")
    install(python, "--no-build-isolation", "-e", tmp_path / "tree", **QUICK)
    tree = tmp_path / "tree"
    (tree / "decoders" / "newcomer.py").write_text('"""A decoder added after the install."""\nname = "newcomer"\n')
    (tree / "flowos" / "__init__.py").write_text('"""Only the mapping is tried here."""\n')
    code = ("import flowos.core.decoder as d, flowos.decoders.newcomer as n, flowos.modules as m\n"
            "print(d.__file__, n.__file__, m.__file__, sep='\\n')")
    for where in run(python, "-c", code, cwd=tmp_path).split():
        assert Path(where).is_relative_to(tree)


def test_make_help_names_every_command():
    makefile = (ROOT / "Makefile").read_text()
    commands = set(makefile.split(".PHONY:")[1].split())
    assert {"demo", "test", "bench", "fuzz", "soak", "build", "clean"} <= commands
    told = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split()[1] for line in told.splitlines()} == commands
