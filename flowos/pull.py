"""The pull face: iterate over a capture's connections and read their streams like files.

    for connection in flowos.open("x.pcap", match="tcp,tp_dst=80"):
        request = connection.a_to_b.read()

The engine runs only as far as the reader asks.  Bytes of connections that wait to be read are
kept in memory up to `memory`, then in a temporary file without a name; those of connections
whose handle was dropped are let go.  So memory is bounded, and no byte is lost.
"""
import tempfile
import weakref
from collections import deque

from flowos.config import Config
from flowos.core.errors import UsageError
from flowos.engine import Engine
from flowos.module import Module

COLUMNS = (
    "id", "proto", "a_addr", "a_port", "b_addr", "b_port", "depth", "flow", "state", "first_ns", "last_ns",
    "a_to_b_packets", "a_to_b_bytes", "a_to_b_payload_bytes", "a_to_b_stream_bytes", "a_to_b_syn", "a_to_b_fin",
    "a_to_b_rst", "a_to_b_gaps", "b_to_a_packets", "b_to_a_bytes", "b_to_a_payload_bytes", "b_to_a_stream_bytes",
    "b_to_a_syn", "b_to_a_fin", "b_to_a_rst", "b_to_a_gaps",
)


class _Store:
    """Where bytes wait for their reader: memory first, then one file for all."""

    def __init__(self, memory):
        self.memory = memory
        self.held = 0
        self.file = None
        self.end = 0

    def put(self, data):
        """Keep bytes; give what `take` wants."""
        if self.held + len(data) <= self.memory:
            self.held += len(data)
            return bytes(data)
        if self.file is None:
            self.file = tempfile.TemporaryFile(prefix="flowos-")
        self.file.seek(self.end)
        self.file.write(data)
        where = (self.end, len(data))
        self.end += len(data)
        return where

    def take(self, kept):
        if isinstance(kept, bytes):
            self.held -= len(kept)
            return kept
        self.file.seek(kept[0])
        return self.file.read(kept[1])

    def drop(self, kept):
        if isinstance(kept, bytes):
            self.held -= len(kept)

    def close(self):
        if self.file is not None:
            self.file.close()


class Stream:
    """Read one direction of a connection: bytes in order, each once; gaps are left out and listed.

    Counters of the direction (`packets`, `bytes`, `payload_bytes`, …) are attributes too.
    """

    def __init__(self, reader, direction, store):
        self._reader = reader
        self._counters = direction
        self._store = store
        self._kept = deque()
        self._size = 0
        self.gaps = []                    # (offset, length) of bytes that the capture lacks
        self.ended = False                # nothing more will come

    def __getattr__(self, name):
        return getattr(self._counters, name)

    def _put(self, window):
        if window.length:
            data = window.data
            if len(data):
                self._kept.append(self._store.put(data))
                self._size += len(data)
            if len(data) != window.length:
                self.gaps += [(unit.offset, unit.length) for unit in window.units if unit.kind == "gap"]
        if window.complete:
            self.ended = True

    def _drop(self):
        while self._kept:
            self._store.drop(self._kept.popleft())
        self._size = 0

    def read(self, n=-1):
        """Give the next n bytes, fewer only at the end; all that is left when n is negative.

        Runs the engine as far as that needs.  b"" at the end of the stream.
        """
        while not self.ended and (n < 0 or self._size < n):
            if not self._reader._advance():
                break
        parts, left = [], self._size if n < 0 else min(n, self._size)
        self._size -= left
        while left:
            data = self._store.take(self._kept.popleft())
            if len(data) > left:
                self._kept.appendleft(self._store.put(data[left:]))
                data = data[:left]
            parts.append(data)
            left -= len(data)
        return b"".join(parts)

    def __iter__(self):
        """Iterate over the stream in pieces, as they come."""
        while True:
            while not self._kept:
                if self.ended or not self._reader._advance():
                    break
            if not self._kept:
                return
            data = self._store.take(self._kept.popleft())
            self._size -= len(data)
            yield data


class PulledConnection:
    """A connection whose streams are read: `a_to_b` and `b_to_a` are `Stream`s, the rest is `Connection`'s."""

    def __init__(self, reader, connection, store):
        self._connection = connection
        self.a_to_b = Stream(reader, connection.a_to_b, store)
        self.b_to_a = Stream(reader, connection.b_to_a, store)
        weakref.finalize(self, _let_go, self.a_to_b, self.b_to_a)

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def __repr__(self):
        return repr(self._connection)


def _let_go(*streams):
    for stream in streams:
        stream._drop()


class _Feed(Module):
    """Hands windows to the connections that somebody may still read."""

    protocol = "transport"

    def __init__(self, reader):
        self.reader = reader

    def opened(self, connection):
        pulled = PulledConnection(self.reader, connection, self.reader._store)
        self.reader._waiting.append(pulled)
        self.reader._known[connection.id] = weakref.ref(pulled)

    def process(self, window):
        known = self.reader._known.get(window.connection.id)
        pulled = known() if known is not None else None
        if pulled is not None:
            (pulled.b_to_a if window.direction else pulled.a_to_b)._put(window)

    def closed(self, connection, reason):
        known = self.reader._known.pop(connection.id, None)
        pulled = known() if known is not None else None
        if pulled is not None:
            pulled.a_to_b.ended = pulled.b_to_a.ended = True


class Reader:
    """Iterate over the connections of an input; made by `flowos.open`.

    A context manager; `engine` is the engine beneath.  `to_pandas` and `to_arrow` give a table
    instead: one row per connection.
    """

    def __init__(self, inputs, match, config, memory):
        self.engine = Engine(config)
        for spec in inputs:
            self.engine.add_port(spec)
        self._flow = None if match is None else self.engine.create_flow("open", match)
        self._store = _Store(memory)
        self._waiting = deque()
        self._known = {}
        self._attached = None

    def _start(self, module):
        if self._attached is not None:
            raise UsageError("this input is being read already: open it again for another pass")
        self._attached = self.engine.attach(module, self._flow)

    def _advance(self):
        """Run the engine a little; False when everything was delivered."""
        return self.engine.step() or not self.engine.finished

    def __iter__(self):
        return self

    def __next__(self):
        if self._attached is None:
            self._start(_Feed(self))
        while not self._waiting:
            if not self._advance():
                if self._waiting:
                    break
                raise StopIteration
        return self._waiting.popleft()

    def columns(self):
        """Run to the end; give {column: list}, one entry per connection in order of first packets."""
        rows = _Rows()
        self._start(rows)
        self.engine.run()
        rows.rows.sort()
        return {name: [row[i] for row in rows.rows] for i, name in enumerate(COLUMNS)}

    def to_pandas(self):
        """Run to the end; give a pandas DataFrame with a row per connection.  Needs pandas."""
        try:
            import pandas
        except ImportError as error:
            raise UsageError("to_pandas needs pandas: pip install 'flowos[pandas]'") from error
        return pandas.DataFrame(self.columns())

    def to_arrow(self):
        """Run to the end; give a pyarrow Table with a row per connection.  Needs pyarrow."""
        try:
            import pyarrow
        except ImportError as error:
            raise UsageError("to_arrow needs pyarrow: pip install 'flowos[arrow]'") from error
        return pyarrow.table(self.columns())

    def close(self):
        """Let go of the input and of what waits; closing twice is harmless."""
        self._waiting.clear()
        self.engine.close()
        self._store.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


class _Rows(Module):
    """Collects a row per connection when it ends."""

    protocol = "transport"
    process = None

    def __init__(self):
        self.rows = []

    def closed(self, connection, reason):
        a, b, ways = connection.a, connection.b, (connection.a_to_b, connection.b_to_a)
        counters = []
        for way in ways:
            counters += [way.packets, way.bytes, way.payload_bytes, way.stream_bytes, way.syn, way.fin, way.rst,
                         len(way.gaps)]
        self.rows.append((connection.id, connection.proto, a.addr, a.port, b.addr, b.port, connection.depth,
                          connection.flow, connection.state, connection.first_ns, connection.last_ns, *counters))


def open(*inputs, match=None, config=None, memory=64 << 20):
    """Open captures and iterate over their connections, or make a table of them.

    `inputs` are paths, "-" or ports, merged by time; `match` keeps connections whose first packet
    matches; `memory` bounds the bytes that wait in memory.  CaptureError, UsageError as `Engine`.

    >>> sorted({connection.proto for connection in open("examples/demo.pcapng")})
    ['icmp', 'tcp', 'udp']
    >>> with open("examples/demo.pcapng", match="tcp,tp_dst=80") as reader:
    ...     first = next(reader)
    ...     first.a_to_b.read(4)
    b'GET '
    """
    if not inputs:
        raise UsageError("open() needs at least one input")
    return Reader(inputs, match, config or Config.offline(), memory)
