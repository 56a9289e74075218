"""Sinks: where the records go that modules emit.

    "-"                 JSON lines on standard output
    x.jsonl, x.json     a JSON object per line, written as it comes
    x.csv               a table; its header names every key that any record had
    x.parquet, x.arrow  the same table with types (pyarrow: pip install 'flowos[arrow]')
    a callable          is called with each record

A record is a dict whose keys are texts.  A table's header and types are known when the last
record has come: until then records wait in a temporary file, never in memory.
"""
import csv
import json
import marshal
import numbers
import os
import sys
import tempfile

from flowos.core.errors import CaptureError, UsageError

#: Records of a table that are turned into columns at once: some megabytes at the usual width.
BATCH = 8192


def plain(value):
    """Turn a record, or what is in one, into values that every sink can write.

    >>> plain({"port": 80, "list": (1, b"ab"), "set": {3}})
    {'port': 80, 'list': [1, b'ab'], 'set': [3]}
    """
    if value is None or type(value) in (str, int, float, bool, bytes):
        return value
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, (set, frozenset)):
        return [plain(part) for part in sorted(value)]
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    if hasattr(value, "tolist"):                    # a NumPy scalar or array
        return plain(value.tolist())
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    return str(value)


def text_of(data):
    """Spell bytes as text: UTF-8 where they are, escapes where they are not.

    >>> text_of(b"caf\\xc3\\xa9 \\xff")
    'café \\\\xff'
    """
    return data.decode("utf-8", "backslashreplace")


class Sink:
    """The base of sinks: `write(record)` any number of times, then `close()`; a context manager."""

    def write(self, record):
        """Take one record, a dict."""
        raise NotImplementedError

    def close(self):
        """Write what waits and let go of the target; closing twice is harmless."""

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        self.close()


class CallSink(Sink):
    """Hands each record to a function."""

    def __init__(self, function):
        self.write = function


class JsonSink(Sink):
    """Writes a JSON object per line; bytes as text, not-a-number as null."""

    def __init__(self, path):
        self.path, self.own = path, path != "-"
        self.file = open_text(path) if self.own else sys.stdout

    def write(self, record):
        """Write a record on a line of its own."""
        try:
            line = json.dumps(record, default=json_value, ensure_ascii=False, allow_nan=False)
        except ValueError:                          # NaN and infinity are no JSON
            line = json.dumps(finite(plain(record)), default=json_value, ensure_ascii=False)
        except TypeError:                           # a key that is no text
            line = json.dumps(plain(record), default=json_value, ensure_ascii=False)
        self.file.write(line + "\n")

    def close(self):
        """Flush; close the file unless it is standard output."""
        if self.file is not None:
            if self.own:
                self.file.close()
            else:
                self.file.flush()
            self.file = None


class TableSink(Sink):
    """The base of sinks that must see all records before the first can be written."""

    def __init__(self, path):
        self.path = path
        open_text(path).close()                     # a path that cannot be written is said at once
        self.spool = tempfile.TemporaryFile(prefix="flowos-")
        self.columns = {}                           # name -> None, in order of first appearance

    def write(self, record):
        """Put a record aside."""
        record = plain(record)
        self.columns.update(dict.fromkeys(record))
        marshal.dump(record, self.spool)

    def batches(self):
        """Yield lists of the records, oldest first."""
        end = self.spool.tell()
        self.spool.seek(0)
        while self.spool.tell() < end:
            batch = []
            while len(batch) < BATCH and self.spool.tell() < end:
                batch.append(marshal.load(self.spool))
            yield batch

    def close(self):
        """Write the table."""
        if self.spool is not None:
            try:
                self.table()
            finally:
                self.spool.close()
                self.spool = None


class CsvSink(TableSink):
    """Writes a table as comma-separated values: a header, then a row per record; lists as JSON."""

    def table(self):
        """Write header and rows."""
        with open_text(self.path) as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(self.columns)
            for batch in self.batches():
                rows.writerows([cell(record.get(name)) for name in self.columns] for record in batch)


class ArrowSink(TableSink):
    """Writes a table with types: Parquet, or Arrow's own file format."""

    def __init__(self, path):
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise UsageError(f"{path}: writing it needs pyarrow: pip install 'flowos[arrow]'") from error
        self.arrow = pyarrow
        super().__init__(path)

    def table(self):
        """Find the types that hold every record, then write the records in batches."""
        pa, texts = self.arrow, set()
        while True:
            try:
                schema = self.schema(texts)
                break
            except MixedColumn as mixed:            # numbers here, texts there: all of it as text
                texts.add(mixed.name)
        with self.writer(schema) as writer:
            for batch in self.batches():
                writer.write_table(pa.Table.from_pylist(self.rows(batch, texts), schema=schema))

    def rows(self, batch, texts):
        return [{name: spelled(value) if name in texts else value for name, value in record.items()}
                for record in batch]

    def schema(self, texts):
        """Give the schema of the whole table; MixedColumn names a column that no type holds."""
        pa = self.arrow
        kinds = dict.fromkeys(self.columns, pa.null())
        for batch in self.batches():
            rows = self.rows(batch, texts)
            for name in self.columns:
                try:
                    found = pa.array([row.get(name) for row in rows]).type
                    pair = [pa.schema([pa.field(name, kind)]) for kind in (kinds[name], found)]
                    kinds[name] = pa.unify_schemas(pair, promote_options="permissive").field(0).type
                except (pa.ArrowException, OverflowError):
                    raise MixedColumn(name) from None
        return pa.schema([pa.field(name, kind) for name, kind in kinds.items()])

    def writer(self, schema):
        if str(self.path).endswith(".parquet"):
            return self.arrow.parquet.ParquetWriter(self.path, schema)
        return self.arrow.ipc.new_file(self.path, schema)


class MixedColumn(Exception):
    """A column whose values have no type in common."""

    def __init__(self, name):
        super().__init__(name)
        self.name = name


def open_text(path):
    """Open a file for writing text; CaptureError where that cannot be."""
    try:
        return open(path, "w", encoding="utf-8", newline="")
    except OSError as error:
        raise CaptureError(f"{path}: {error.strerror}") from error


def json_value(value):
    """Give what JSON writes for a value that it does not know (json.dumps's `default`)."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return text_of(bytes(value))
    return plain(value)


def finite(value):
    """Put None in the place of numbers that JSON cannot write."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and (value != value or abs(value) == float("inf")) else value


def cell(value):
    """Spell a value for CSV: nothing for None, JSON for what is no single value."""
    if value is None:
        return ""
    return spelled(value) if isinstance(value, (bytes, bool, dict, list)) else value


def spelled(value):
    """Spell a value as text; None stays None."""
    if value is None or isinstance(value, str):
        return value
    return text_of(value) if isinstance(value, bytes) else json.dumps(value, default=json_value, ensure_ascii=False)


def ends(connection):
    """Give how a record about a connection begins: its number, protocol and both ends as text."""
    a, b = connection.a, connection.b
    return {"connection": connection.id, "proto": connection.proto, "a": spot(*a), "b": spot(*b)}


def spot(address, port):
    """Spell an endpoint.

    >>> spot("10.0.0.1", 80), spot("::1", 80), spot("::1", None)
    ('10.0.0.1:80', '[::1]:80', '::1')
    """
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


KINDS = {".jsonl": JsonSink, ".json": JsonSink, ".csv": CsvSink, ".parquet": ArrowSink, ".arrow": ArrowSink}


def open_sink(spec):
    """Open a sink for records: a path by its suffix, "-" for standard output, a callable, a sink.

    UsageError: a suffix that stands for no format, or pyarrow is missing.  CaptureError: the path
    cannot be written.

    >>> kept = []
    >>> with open_sink(kept.append) as sink:
    ...     sink.write({"host": "a.example"})
    >>> kept
    [{'host': 'a.example'}]
    """
    if spec == "-":
        return JsonSink("-")
    if isinstance(spec, (str, os.PathLike)):
        suffix = os.path.splitext(os.fspath(spec))[1].lower()
        if suffix not in KINDS:
            raise UsageError(f"{spec}: records are written to {', '.join(KINDS)} or '-', not to {suffix or 'a bare name'!r}")
        return KINDS[suffix](os.fspath(spec))
    if hasattr(spec, "write") and hasattr(spec, "close") and not hasattr(spec, "fileno"):
        return spec
    if callable(spec):
        return CallSink(spec)
    raise UsageError(f"records go to a path, '-' or a callable, not to {spec!r}")
