"""Texts become parameters as the annotations say; errors name the class, the parameter, and what was expected."""
import sys
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import flowos
from flowos.parameters import convert, make, pairs, parameters_of, spell, split, unescape
from flowos.registry import all_modules, find_module, get_module


class Sample(flowos.Module):
    """A module with a parameter of each kind."""

    name = "sample"

    def __init__(self, pattern: bytes, times: int = 1, rate: float = 0.5, on: bool = False, names: list[str] = (),
                 ports: set[int] = frozenset(), path: Path | None = None, side: Literal["a", "b"] = "a", plain=3):
        self.seen = (pattern, times, rate, on, list(names), set(ports), path, side, plain)


def test_every_kind_is_read():
    values = {"pattern": r"a\x00\n", "times": "0x1f", "rate": "1e3", "on": "Yes", "names": "x;y", "ports": "80;443",
              "path": "some/where", "side": "b", "plain": "7"}
    assert make(Sample, values).seen == (b"a\x00\n", 31, 1000.0, True, ["x", "y"], {80, 443}, Path("some/where"), "b", 7)
    assert make(Sample, {"pattern": b"as it is", "path": "none"}).seen[0::6] == (b"as it is", None)


@pytest.mark.parametrize("values, message", [
    ({}, "sample: parameter 'pattern' (bytes) is missing: give pattern=…"),
    ({"patern": "x"}, "sample: there is no parameter 'patern'; did you mean 'pattern'?"),
    ({"pattern": "x", "zzz": "1"}, "expected pattern, times, rate, on, names, ports, path, side, plain"),
    ({"pattern": "x", "times": "many"}, "sample: times is 'many', expected a whole number"),
    ({"pattern": "x", "rate": "fast"}, "sample: rate is 'fast', expected a number"),
    ({"pattern": "x", "on": "maybe"}, "sample: on is 'maybe', expected yes or no"),
    ({"pattern": "x", "ports": "80;x"}, "sample: ports is '80;x', expected a whole number"),
    ({"pattern": "x", "side": "c"}, "sample: side is 'c', expected one of a, b"),
    ({"pattern": "\\q"}, "sample: pattern is '\\\\q', expected bytes, with"),
])
def test_errors_name_what_is_wrong(values, message):
    with pytest.raises(flowos.UsageError) as error:
        make(Sample, values)
    assert message in str(error.value)


@given(st.binary())
def test_bytes_come_back_as_they_were_spelled(data):
    assert unescape(spell(data).replace("\\'", "'")) == data


@given(st.lists(st.text(), min_size=1))
def test_quoting_protects_every_text(parts):
    quoted = ",".join('"' + "".join(f"\\{c}" if c in "\"'" else c for c in part) + '"' for part in parts)
    if not any("\\" in part for part in parts):         # a backslash before a quote or comma is an escape itself
        assert split(quoted, ",") == parts


@pytest.mark.parametrize("text", ["novalue", "=x", "a=1,a=2", "a='x", "9=x"])
def test_pairs_that_are_none(text):
    with pytest.raises(flowos.UsageError):
        pairs(text)


def test_values_with_commas_are_quoted():
    assert pairs('rules="tcp,tp_dst=80 -> drop;udp -> pass",default=drop') == {
        "rules": "tcp,tp_dst=80 -> drop;udp -> pass", "default": "drop"}
    assert convert("1.5", int | float) == 1.5 and convert("x;y", tuple) == ("x", "y")


def test_classes_that_no_command_line_can_make_are_refused():
    class Any(flowos.Module):
        def __init__(self, *anything):
            pass

    class Odd(flowos.Module):
        def __init__(self, what: dict):
            pass

    with pytest.raises(flowos.UsageError, match="names only"):
        parameters_of(Any)
    with pytest.raises(flowos.UsageError, match="cannot be given as a text"):
        make(Odd, {"what": "x"})


@pytest.mark.parametrize("name", sorted(all_modules()))
def test_every_shipped_module_tells_its_parameters(name):
    cls = get_module(name)
    assert cls.name == name and issubclass(cls, flowos.Module) and cls.__doc__
    for parameter in parameters_of(cls).values():
        if parameter.default is not parameter.NEEDED:
            value = parameter.default
            read = convert(spell(value), parameter.type)
            assert read == value or list(read) == list(value), parameter


def test_modules_are_found_in_files(tmp_path):
    one, two, none = tmp_path / "one.py", tmp_path / "two.py", tmp_path / "none.py"
    none.write_text("X = 5\n")
    one.write_text("from flowos import Module\nclass Only(Module):\n    name = 'only'\n")
    two.write_text("from flowos import Module\nclass A(Module): pass\nclass B(Module): pass\nX = 5\n")
    assert find_module(str(one)) is find_module(f"{one}:Only")
    assert find_module(f"{two}:B").__name__ == "B"
    for spec, message in [(str(two), "has 2 module classes: A, B"), (f"{two}:C", "has no 'C'"),
                          (f"{two}:X", "5 is not a subclass"), (f"{tmp_path}/no.py", "No such file"),
                          (f"{tmp_path}/one", "for the file say .*one.py"), (str(none), "expected a class derived from flowos.Module")]:
        with pytest.raises(flowos.UsageError, match=message):
            find_module(spec)
    one.write_text("from flowos import Module\nclass Only(Module):\n    name = 'changed'\n")
    assert find_module(str(one)).name == "changed"


def test_a_file_that_does_not_run_says_where(tmp_path):
    for text, message in [("x = 1\ny = nothing\n", r"bad.py:2: NameError"), ("x = = 1\n", r"bad.py:1: SyntaxError")]:
        (tmp_path / "bad.py").write_text(text)
        with pytest.raises(flowos.UsageError, match=message):
            find_module(str(tmp_path / "bad.py"))


def test_a_file_imports_those_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "beside_it.py").write_text("WORD = 'beside'\n")
    (tmp_path / "one.py").write_text("import beside_it\nfrom flowos import Module\nclass One(Module):\n    name = beside_it.WORD\n")
    assert find_module(str(tmp_path / "one.py")).name == "beside"
    assert sys.path[-1] == str(tmp_path)


def test_an_init_that_raises_is_told_with_its_place(tmp_path):
    (tmp_path / "bad.py").write_text("from flowos import Module\nclass Bad(Module):\n    name = 'bad'\n"
                                     "    def __init__(self):\n        raise KeyError('x')\n")
    with pytest.raises(flowos.UsageError, match=r"bad: its __init__ raised KeyError: 'x' \(.*bad.py:5\)"):
        make(find_module(str(tmp_path / "bad.py")))


def test_modules_of_packages_are_found_by_entry_point(tmp_path, monkeypatch):
    (tmp_path / "their_mod.py").write_text("from flowos import Module\nclass Theirs(Module):\n    name = 'theirs'\n")
    info = tmp_path / "their-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[flowos.modules]\ntheirs = their_mod:Theirs\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert get_module("theirs").__name__ == "Theirs" and "theirs" in all_modules()
