"""Sinks write every record, in every format, and say at once what they cannot write."""
import csv
import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flowos
from flowos.emit import open_sink, plain

RECORDS = [{"ts": 1, "host": "a.example", "size": 5, "list": [1, 2]}, {"ts": 2, "host": None, "extra": b"x\xff", "ok": True},
           {"ts": 2**40, "size": 1.5, "nested": {"k": [b"v"]}}]
VALUES = st.recursive(st.none() | st.booleans() | st.integers(-2**63, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
                      | st.text() | st.binary(), lambda inner: st.lists(inner, max_size=3)
                      | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8)


def written(path, records):
    with open_sink(path) as sink:
        for record in records:
            sink.write(record)
    return path


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_json_lines(tmp_path, suffix):
    lines = written(tmp_path / f"x.{suffix}", RECORDS).read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        RECORDS[0], {"ts": 2, "host": None, "extra": "x\\xff", "ok": True}, {"ts": 2**40, "size": 1.5, "nested": {"k": ["v"]}}]


@given(st.lists(st.dictionaries(st.text(), VALUES, max_size=4), max_size=4))
def test_any_record_is_one_json_line(tmp_path_factory, records):
    path = written(tmp_path_factory.mktemp("emit") / "x.jsonl", records)
    lines = path.read_bytes().decode().split("\n")
    assert len(lines) == len(records) + 1 and lines[-1] == ""
    for line, record in zip(lines, records, strict=False):
        assert json.loads(line).keys() == record.keys()


def test_numbers_that_json_lacks_are_null(tmp_path):
    path = written(tmp_path / "x.jsonl", [{"a": float("nan"), "b": [float("inf")], "c": np.int64(3), "d": np.float32(0.5)}])
    assert json.loads(path.read_text()) == {"a": None, "b": [None], "c": 3, "d": 0.5}


def test_csv_has_every_column(tmp_path):
    rows = list(csv.DictReader(written(tmp_path / "x.csv", RECORDS).open()))
    assert list(rows[0]) == ["ts", "host", "size", "list", "extra", "ok", "nested"]
    assert [row["list"] for row in rows] == ["[1, 2]", "", ""]
    assert (rows[1]["extra"], rows[1]["ok"], rows[2]["nested"]) == ("x\\xff", "true", '{"k": ["v"]}')


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_tables_have_types(tmp_path, suffix):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    path = written(tmp_path / f"x.{suffix}", RECORDS)
    if suffix == "parquet":
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(path)
    else:
        table = pyarrow.ipc.open_file(path).read_all()
    assert table.column_names == ["ts", "host", "size", "list", "extra", "ok", "nested"]
    assert table["ts"].to_pylist() == [1, 2, 2**40] and table["size"].to_pylist() == [5.0, None, 1.5]
    assert table["list"].to_pylist() == [[1, 2], None, None] and table["extra"].to_pylist() == [None, b"x\xff", None]


def test_a_column_of_mixed_kinds_is_text(tmp_path):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    import pyarrow.parquet

    records = [{"v": 1}] * 9000 + [{"v": "word"}, {"v": [1]}, {"v": 2**70}]
    table = pyarrow.parquet.read_table(written(tmp_path / "x.parquet", records))
    assert table["v"].to_pylist() == ["1"] * 9000 + ["word", "[1]", str(2**70)]


def test_an_empty_run_leaves_a_readable_file(tmp_path):
    assert written(tmp_path / "x.csv", []).read_text() == "\n"
    assert written(tmp_path / "x.jsonl", []).read_text() == ""


def test_callables_and_sinks_are_taken_as_they_are():
    kept = []
    with open_sink(kept.append) as sink:
        sink.write(RECORDS[0])
        assert open_sink(sink) is sink
    assert kept == [RECORDS[0]]


def test_standard_output_stays_open(capsys):
    with open_sink("-") as sink:
        sink.write({"a": 1})
    print("more")
    assert capsys.readouterr().out == '{"a": 1}\nmore\n'
    assert not sys.stdout.closed


def test_what_cannot_be_written_is_said_at_once(tmp_path):
    for wrong in (tmp_path / "x.txt", tmp_path / "x", 5):
        with pytest.raises(flowos.UsageError, match="records"):
            open_sink(wrong)
    for suffix in ("jsonl", "csv", "parquet"):
        with pytest.raises(flowos.CaptureError, match="No such file"):
            open_sink(tmp_path / "no" / f"x.{suffix}")


def test_plain_values():
    assert plain({1: (np.array([1, 2]), {"b", "a"}, bytearray(b"x"), memoryview(b"y"))}) == {
        "1": [[1, 2], ["a", "b"], b"x", b"y"]}
