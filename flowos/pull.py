"""The pull face: iterate over a capture's connections and read their streams like files.

    for connection in flowos.open("x.pcap", match="tcp,tp_dst=80"):
        request = connection.a_to_b.read()

The engine runs only as far as the reader asks.  Bytes of connections that wait to be read are
kept in memory up to `memory`, then in temporary files without a name; those of streams to which
nobody refers any more are let go.  So memory is bounded but for the handles of connections that
began and were not asked for yet, and no byte is lost.
"""
import tempfile
import weakref
from collections import deque

from flowos.config import Config
from flowos.core.errors import UsageError
from flowos.engine import Engine
from flowos.module import Module

GAPS_KEPT = 4096
#: Bytes in one file of what waits on disk: each is given back when all in it was read.
FILE_SIZE = 64 << 20
COLUMNS = (
    "id", "proto", "a_addr", "a_port", "b_addr", "b_port", "depth", "flow", "state", "first_ns", "last_ns",
    "a_to_b_packets", "a_to_b_bytes", "a_to_b_payload_bytes", "a_to_b_stream_bytes", "a_to_b_syn", "a_to_b_fin",
    "a_to_b_rst", "a_to_b_gaps", "b_to_a_packets", "b_to_a_bytes", "b_to_a_payload_bytes", "b_to_a_stream_bytes",
    "b_to_a_syn", "b_to_a_fin", "b_to_a_rst", "b_to_a_gaps",
)


class _File:
    """A part of what waits on disk; it goes when nothing in it waits any more."""

    def __init__(self):
        self.file = tempfile.TemporaryFile(prefix="flowos-")
        self.end = 0
        self.waiting = 0                  # bytes


class _Store:
    """Where bytes wait for their reader: memory first, then files that have no name."""

    def __init__(self, memory):
        self.memory = memory
        self.held = 0                     # bytes that wait in memory
        self.files = []                   # the last one is written to

    def put(self, data):
        """Keep bytes; give what `take` wants."""
        if self.held + len(data) <= self.memory:
            self.held += len(data)
            return bytes(data)
        if not self.files or self.files[-1].end >= FILE_SIZE:
            self.files.append(_File())
        into = self.files[-1]
        into.file.seek(into.end)
        into.file.write(data)
        where = (into, into.end, len(data))
        into.end += len(data)
        into.waiting += len(data)
        return where

    def take(self, kept):
        """Give back bytes that were put."""
        data = kept
        if not isinstance(kept, bytes):
            kept[0].file.seek(kept[1])
            data = kept[0].file.read(kept[2])
        self.drop(kept)
        return data

    def drop(self, kept):
        """Forget bytes that were put."""
        if isinstance(kept, bytes):
            self.held -= len(kept)
            return
        file = kept[0]
        file.waiting -= kept[2]
        if file.waiting == 0 and file in self.files:
            self.files.remove(file)
            file.file.close()

    def close(self):
        """Give up the files and all that is in them."""
        while self.files:
            self.files.pop().file.close()

    __del__ = close


class Stream:
    """Read one direction of a connection: bytes in order, each once; gaps are left out and listed.

    Counters of the direction (`packets`, `bytes`, `payload_bytes`, …) are attributes too.  `ended` says
    that nothing more will come; `gaps` lists (offset, length) of bytes that the capture lacks, at
    most 4,096 of them.
    """

    def __init__(self, reader, direction):
        self.gaps = []
        self.ended = False
        self._reader = reader
        self._counters = direction
        self._kept = deque()
        self._piece = memoryview(b"")     # what is left of the piece in hand
        self._size = 0                    # bytes that wait, those in hand included

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._counters, name)

    def __repr__(self):
        return f"<Stream {self._counters!r}, {self._size} bytes wait{', ended' if self.ended else ''}>"

    def __del__(self):
        while self._kept:
            self._reader._store.drop(self._kept.popleft())

    def _put(self, window):
        data = window.data
        if len(data):
            self._kept.append(self._reader._store.put(data))
            self._size += len(data)
        if len(data) != window.length and len(self.gaps) < GAPS_KEPT:
            self.gaps += [(unit.offset, unit.length) for unit in window.units if unit.kind == "gap"]
        if window.complete:
            self.ended = True

    def _next(self):
        """Give the next piece; an empty one at the end."""
        piece, self._piece = self._piece, memoryview(b"")
        while not len(piece) and self._wait(1):
            piece = memoryview(self._reader._store.take(self._kept.popleft()))
        self._size -= len(piece)
        return piece

    def _wait(self, n):
        """Run the engine until n bytes wait (all, when n is negative) or no more will come; say whether any do."""
        self._reader._check_open()
        while not self.ended and (n < 0 or self._size < n) and self._reader._advance():
            pass
        return self._size > 0

    def read(self, n=-1):
        """Give the next n bytes, fewer only at the end; all that is left when n is negative or None.

        Runs the engine as far as that needs.  b"" at the end of the stream.  UsageError: the reader was
        closed.
        """
        n = -1 if n is None else n
        self._wait(n)
        parts, left = [], self._size if n < 0 else min(n, self._size)
        while left:
            piece = self._next()
            if len(piece) > left:
                self._piece, piece = piece[left:], piece[:left]
                self._size += len(self._piece)
            parts.append(piece)
            left -= len(piece)
        return b"".join(parts)

    def __iter__(self):
        """Iterate over the stream in pieces, as they come."""
        while len(piece := self._next()):
            yield bytes(piece)


class PulledConnection:
    """A connection whose streams are read: `a_to_b` and `b_to_a` are `Stream`s, the rest is `Connection`'s."""

    def __init__(self, reader, connection):
        self._connection = connection
        self.a_to_b = Stream(reader, connection.a_to_b)
        self.b_to_a = Stream(reader, connection.b_to_a)

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._connection, name)

    def __repr__(self):
        return repr(self._connection)


class _Feed(Module):
    """Hands windows to the streams that somebody may still read."""

    protocol = "transport"

    def __init__(self, reader):
        self.reader = reader

    def opened(self, connection):
        if not self.reader.closed:
            pulled = PulledConnection(self.reader, connection)
            self.reader._waiting.append(pulled)
            self.reader._known[connection.id] = (weakref.ref(pulled.a_to_b), weakref.ref(pulled.b_to_a))

    def process(self, window):
        known = self.reader._known.get(window.connection.id)
        stream = known[window.direction]() if known is not None else None
        if stream is not None:
            stream._put(window)

    def closed(self, connection, reason):
        for known in self.reader._known.pop(connection.id, ()):
            stream = known()
            if stream is not None:
                stream.ended = True


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
        self._waiting = deque()           # connections that nobody asked for yet
        self._known = {}                  # connection's number -> weak references to its streams
        self._attached = None
        self.closed = False

    def _check_open(self):
        if self.closed:
            raise UsageError("the reader was closed, and what waited in it is gone")

    def _start(self, module):
        self._check_open()
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
        self._check_open()
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
        self.closed = True
        self._waiting.clear()
        self._known.clear()
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

    >>> sorted({connection.proto for connection in open("examples/demo.pcap")})
    ['icmp', 'icmpv6', 'tcp', 'udp']
    >>> with open("examples/demo.pcap", match="tcp,tp_dst=80") as reader:
    ...     first = next(reader)
    ...     first.a_to_b.read(4)
    b'GET '
    """
    if not inputs:
        raise UsageError("open() needs at least one input")
    return Reader(inputs, match, config or Config.offline(), memory)
