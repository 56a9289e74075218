"""Windows and data units as Python sees them: handles over the core's records.

A window is `[head, tail)` of one direction of one connection at one level: the units that
became available since the last call.  Records are not copied for it; bytes are lent as
read-only views.  A view of a mapped file or of a joined datagram pins its memory; of input that
will be overwritten it is a copy.  After the call that it was lent for, a window or unit raises
`StaleError` when it is asked for bytes.  The file is long because window and unit share the one way of finding bytes.
"""
from collections import namedtuple

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from flowos.core.connection cimport Connection, connection_of
from flowos.core.core cimport *
from flowos.core.decoding cimport Decoding
from flowos.core.state cimport Core
from flowos.core.unit cimport *

from flowos.core.connection import PROTOCOLS
from flowos.core.errors import StaleError

KINDS = {FOS_UNIT_DATA: "data", FOS_UNIT_GAP: "gap", FOS_UNIT_SYN: "syn", FOS_UNIT_FIN: "fin", FOS_UNIT_RST: "rst"}
LEVELS = ("frame", "ip", "transport")

Fragment = namedtuple("Fragment", "packet offset length")
Fragment.__doc__ = "A fragment of a joined datagram: the number of its packet, where its bytes lie, how many."

cdef object _row = None


def row_dtype():
    """Give the dtype of a row: what `array()` shows of a unit (40 bytes, the core's struct fos_row).

    NumPy is imported at the first call: programs that want no arrays start without it.
    """
    global _row
    if _row is None:
        import numpy

        _row = numpy.dtype([
            ("offset", "<u8"), ("ts", "<i8"), ("packet", "<u8"), ("connection", "<u4"), ("length", "<u4"),
            ("wire", "<u4"), ("kind", "<u2"), ("direction", "u1"), ("proto", "u1")])
    return _row


cdef class View:
    """A read-only buffer on the core's memory that keeps this memory alive."""

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, <void *>self.p, self.n, 1, flags)

    def __dealloc__(self):
        if self.block != NULL:
            fos_block_drop(NULL, self.block)


cdef object view_of(Core core, const fos_unit *u, const uint8_t *p, uint64_t n):
    """n bytes at p, which belong to unit u: a view that pins them, or a copy where they will not stay."""
    cdef View view
    cdef const uint8_t *block = NULL
    if u.flags & FOS_UNIT_OWNED:
        block = u.bytes if u.kind >= FOS_UNIT_DECODER else u.frame
    elif not core.c.stable:
        return memoryview(PyBytes_FromStringAndSize(<const char *>p, n))
    view = View.__new__(View)
    view.p = p
    view.n = n
    if block != NULL:
        fos_block_keep(block)
        view.block = block
    else:
        view.owner = core.owner
    return memoryview(view)


cdef inline bint has_bytes(const fos_unit *u) noexcept nogil:
    return u.len and u.kind != FOS_UNIT_GAP


cdef inline DataUnit unit_on(Core core, uint32_t index, int dir, int level, uint64_t number):
    cdef DataUnit unit = DataUnit.__new__(DataUnit)
    cdef fos_conn *conn = &core.c.table.conns[index]
    unit.core = core
    unit.index = index
    unit.generation = conn.generation
    unit.dir = dir
    unit.direction = dir ^ (conn.flags & FOS_CONN_A_IS_HIGH)
    unit.proto = conn.key.proto
    unit.lvl = level
    unit.number = number
    if level == LEVEL_DECODER:
        unit.decoding = <Decoding>core.c.table.cold[index].decoding
    return unit


cdef DataUnit unit_of(Core core, uint32_t index, int dir, int level, uint64_t number, const fos_unit *u):
    """The handle on a record of the transport's stream, or of a compiled decoder's."""
    cdef DataUnit unit = unit_on(core, index, dir, level, number)
    unit.u = u[0]
    return unit


cdef DataUnit made_unit(Core core, uint32_t index, int dir, Decoding decoding, list made, uint64_t number):
    """The handle on a unit that a Python decoder made: the one of this number in the list."""
    cdef DataUnit unit = unit_on(core, index, dir, LEVEL_DECODER, number)
    unit.made = made[number]
    unit.mates = made
    unit.u.ts = unit.made.ts
    unit.u.off = unit.u.start = unit.made.start
    unit.u.end = unit.made.end
    unit.u.len = len(unit.made.data) if unit.made.data is not None else unit.made.end - unit.made.start
    return unit


cdef inline bint has_frame(const fos_unit *u) noexcept nogil:
    return u.frame != NULL and (u.kind != FOS_UNIT_GAP or u.flags & FOS_UNIT_CUT)


cdef inline bint is_datagram(const fos_unit *u, const fos_unit *before) noexcept nogil:
    """Is this a datagram's first record?  A hole is none, and data may be followed by its FIN."""
    if not has_frame(u) or u.flags & FOS_UNIT_SAME_DATAGRAM:
        return False
    return before == NULL or before.packet != u.packet or not has_frame(before)


cdef class DataUnit:
    """One protocol data unit: an IP datagram, a TCP segment's new bytes, an HTTP head or body part.

    Its numbers stay readable; its bytes only while the window is lent (`StaleError` afterwards,
    but a view taken before stays valid).  D3.2 section 4.3.2.2.
    """

    def __init__(self):
        raise TypeError("data units are made by the core, from packets")

    cdef fos_stream *stream(self) except? NULL:
        if self.lvl == LEVEL_DECODER:
            return &self.decoding.up[self.dir]
        return fos_half_of(self.core.c, self.index, self.dir).stream

    cdef bint held(self):
        cdef fos_stream *s
        if self.core.c.table.conns[self.index].generation != self.generation:
            return False
        if self.made is not None:
            return self.decoding.made[self.dir] is self.mates
        s = self.stream()
        return s != NULL and s.head_index <= self.number < s.tail_index

    cdef int alive(self) except -1:
        if not self.held():
            raise StaleError(f"unit {self.number} of connection record {self.index}: its bytes were released")
        return 1

    cdef int extent(self, const uint8_t **start, uint64_t *n, const uint8_t **header, uint64_t *header_n) except -1:
        """Where this unit's payload and header lie."""
        cdef fos_unit *u = &self.u
        cdef uint32_t stop
        header[0] = NULL
        header_n[0] = 0
        start[0] = NULL
        n[0] = 0
        if self.lvl == LEVEL_DECODER:
            start[0] = u.bytes
            n[0] = u.len if u.bytes != NULL else 0
            return 0
        if u.frame == NULL or u.kind == FOS_UNIT_GAP:
            return 0
        if self.lvl == LEVEL_FRAME:
            start[0] = u.frame + u.l3
            n[0] = u.captured - u.l3 if u.captured > u.l3 else 0
            header[0] = u.frame
            header_n[0] = u.l3
        elif self.lvl == LEVEL_IP:
            stop = ip_end(u)
            start[0] = u.frame + u.l4
            n[0] = stop - u.l4 if stop > u.l4 else 0
            header[0] = u.frame + u.l3
            header_n[0] = u.l4 - u.l3
        else:
            start[0] = u.frame + u.payload
            n[0] = u.len
            header[0] = u.frame + u.l4
            header_n[0] = transport_header(u, self.proto)
        return 0

    cdef object bytes_at(self, const uint8_t *p, uint64_t n):
        return view_of(self.core, &self.u, p, n) if n else memoryview(b"")

    @property
    def kind(self):
        """Name what it is: "data", "gap", "syn", "fin", "rst", or the decoder's word."""
        if self.made is not None:
            return self.made.kind
        if self.lvl == LEVEL_DECODER and self.u.kind >= FOS_UNIT_DECODER:
            return self.decoding.kind_name(self.u.kind)
        return KINDS.get(self.u.kind, "data")

    @property
    def level(self):
        """Name the level: "frame", "ip", the transport's protocol, or the decoder's."""
        if self.lvl == LEVEL_DECODER:
            return self.decoding.name
        if self.lvl == LEVEL_TRANSPORT:
            return PROTOCOLS.get(self.proto) or f"ip-{self.proto}"
        return LEVELS[self.lvl]

    @property
    def offset(self):
        """Give the stream offset of the first byte.

        At the levels frame and ip it is that of the transport's first byte, whose record they share;
        in a flow that has modules at these levels only, it counts the bytes behind the IP headers.
        """
        return self.u.off

    @property
    def length(self):
        """Count the stream bytes: of a gap, those that are missing."""
        return self.u.len

    @property
    def end(self):
        """Give the stream offset behind the last byte."""
        return self.u.off + self.u.len

    @property
    def ts(self):
        """Give the time of the packet that completed the unit, in ns since the epoch."""
        return self.u.ts

    @property
    def packet(self):
        """Number the packet that brought the unit's last byte, from 1.

        On a decoder's level it is looked up: `StaleError` after the call; 0 for what no byte brought.
        """
        if self.made is not None:
            return self.made.packet
        if self.lvl != LEVEL_DECODER:
            return self.u.packet
        self.alive()
        return self.decoding.packet_of(self.dir, &self.u)

    @property
    def wire(self):
        """Count the frame's bytes on the wire; 0 on a decoder's level."""
        return self.u.wire if self.lvl != LEVEL_DECODER else 0

    @property
    def truncated(self):
        """Say whether a snap length cut bytes off this unit."""
        return bool(self.u.flags & FOS_UNIT_CUT)

    @property
    def reassembled(self):
        """Say whether the datagram came in IP fragments."""
        return self.lvl != LEVEL_DECODER and bool(self.u.flags & FOS_UNIT_REASSEMBLED)

    @property
    def fragments(self):
        """List the fragments that a reassembled datagram was joined from: (packet, offset, length) each.

        Offsets count in the datagram's payload; [] for a datagram that came whole.  The frames of
        the fragments are not kept: the unit at level "frame" is the joined datagram.
        """
        cdef fos_block *block
        cdef fos_origin_fragment *entry
        cdef uint32_t i
        if not self.reassembled or self.u.frame == NULL:
            return []
        self.alive()
        block = fos_block_of(self.u.frame)
        entry = <fos_origin_fragment *>(&block.data[0] + fos_fragments_at(block.size))
        return [Fragment(entry[i].packet, entry[i].offset, entry[i].len) for i in range(block.fragments)]

    @property
    def incomplete(self):
        """Say whether the message ended before it was whole."""
        return bool(self.u.flags & FOS_UNIT_INCOMPLETE)

    @property
    def message(self):
        """Number the message in its direction, from 0; None where the decoder does not count them."""
        return self.u.message if self.lvl == LEVEL_DECODER and self.made is None else None

    @property
    def value(self):
        """Give the decoder's own number: a status, a length; None where it has none."""
        return self.u.value if self.lvl == LEVEL_DECODER and self.made is None else None

    @property
    def lower(self):
        """Give the range (start, end) of the lower stream that a decoder's unit covers, else None."""
        return (self.u.start, self.u.end) if self.lvl == LEVEL_DECODER else None

    @property
    def data(self):
        """Lend the payload: a read-only memoryview, empty for gaps and control units."""
        cdef const uint8_t *p
        cdef const uint8_t *h
        cdef uint64_t n, m
        if self.made is not None:
            return memoryview(self.made.data or b"").toreadonly()
        self.alive()
        self.extent(&p, &n, &h, &m)
        return self.bytes_at(p, n)

    @property
    def payload(self):
        """List the payload's segments: memoryviews without a copy, in order (D3.2 section 4.3.2.3)."""
        data = self.data
        return [data] if len(data) else []

    @property
    def header(self):
        """Lend the protocol header of this level: a read-only memoryview."""
        cdef const uint8_t *p
        cdef const uint8_t *h
        cdef uint64_t n, m
        if self.made is not None:
            return memoryview(b"")
        self.alive()
        self.extent(&p, &n, &h, &m)
        return self.bytes_at(h, m)

    @property
    def frame_offset(self):
        """Give where this level's payload begins in the frame; None for what has none there.

        That is: on a decoder's level, for gaps, and for SYN and FIN at the transport's level.
        """
        if self.lvl == LEVEL_DECODER or self.u.kind == FOS_UNIT_GAP or self.u.frame == NULL:
            return None
        if self.lvl == LEVEL_TRANSPORT and self.u.kind != FOS_UNIT_DATA:
            return None
        return self.u.l3 if self.lvl == LEVEL_FRAME else self.u.l4 if self.lvl == LEVEL_IP else self.u.payload

    @property
    def info(self):
        """Give what the decoder says of the unit: an object of its own, or None."""
        if self.made is not None:
            return self.made.info
        if self.lvl != LEVEL_DECODER:
            return None
        return self.decoding.describe(self.u.kind, bytes(self.data))

    def _at(self, int level, number):
        """The unit of this level that shows a record of the transport's stream; None: there is no such record."""
        cdef fos_stream *s = fos_half_of(self.core.c, self.index, self.dir).stream
        cdef fos_unit *u = fos_stream_unit(s, number)
        cdef fos_unit *before
        while u != NULL and level < LEVEL_TRANSPORT and number > s.head_index:
            before = fos_stream_unit(s, number - 1)
            if before.packet != u.packet or is_datagram(u, before):
                break
            number, u = number - 1, before    # the datagram's first record stands for it
        if u == NULL:
            return None
        return unit_of(self.core, self.index, self.dir, level, number, u)

    def _above(self, uint64_t start, uint64_t end):
        """The decoder's units that cover bytes of [start, end) of the transport's stream."""
        cdef void *held = self.core.c.table.cold[self.index].decoding
        cdef Decoding decoding
        cdef fos_unit *u
        cdef uint64_t i
        if held == NULL:
            return []
        decoding = <Decoding>held
        found = []
        if decoding.native is None:
            made = decoding.made[self.dir]
            for i in range(len(made)):
                if made[i].start < end and made[i].end > start:
                    found.append(made_unit(self.core, self.index, self.dir, decoding, made, i))
            return found
        for i in range(decoding.up[self.dir].head_index, decoding.up[self.dir].tail_index):
            u = fos_stream_unit(&decoding.up[self.dir], i)
            if u.start < end and u.end > start:
                found.append(unit_of(self.core, self.index, self.dir, LEVEL_DECODER, i, u))
        return found

    def _below(self, uint64_t start, uint64_t end):
        """The units of the transport's stream that hold bytes of [start, end)."""
        cdef fos_stream *s = fos_half_of(self.core.c, self.index, self.dir).stream
        cdef fos_unit *u
        cdef uint64_t i
        found = []
        for i in range(s.head_index, s.tail_index):
            u = fos_stream_unit(s, i)
            if u.off < end and u.off + u.len > start:
                found.append(unit_of(self.core, self.index, self.dir, LEVEL_TRANSPORT, i, u))
        return found

    @property
    def parents(self):
        """List the units of the next higher level that hold bytes of this one."""
        self.alive()
        if self.lvl == LEVEL_DECODER:
            return []
        if self.lvl == LEVEL_TRANSPORT:
            return self._above(self.u.off, self.u.off + self.u.len)
        if self.lvl == LEVEL_FRAME:
            return [self._at(LEVEL_IP, self.number)]
        found, number = [self._at(LEVEL_TRANSPORT, self.number)], self.number + 1
        while True:
            unit = self._at(LEVEL_TRANSPORT, number)
            if unit is None or unit.packet != self.packet:
                return found
            found.append(unit)
            number += 1

    @property
    def children(self):
        """List the units of the next lower level that this one was made from."""
        self.alive()
        if self.lvl == LEVEL_DECODER:
            return self._below(self.u.start, self.u.end)
        if self.lvl == LEVEL_FRAME or self.u.kind == FOS_UNIT_GAP:
            return []
        return [self._at(self.lvl - 1, self.number)]

    @property
    def connection(self):
        """Give the connection; `StaleError` once it has ended."""
        if self.core.c.table.conns[self.index].generation != self.generation:
            raise StaleError(f"unit {self.number}: its connection has ended")
        return connection_of(self.core, self.index)

    @property
    def next(self):
        """Give the next unit of the same stream that is held, or None (D3.2's list of units)."""
        cdef fos_stream *s
        cdef fos_unit *u
        cdef fos_unit *before
        cdef uint64_t number = self.number + 1
        self.alive()
        if self.made is not None:
            if number == <uint64_t>len(self.mates):
                return None
            return made_unit(self.core, self.index, self.dir, self.decoding, self.mates, number)
        s = self.stream()
        before = fos_stream_unit(s, self.number)
        u = fos_stream_unit(s, number)
        while u != NULL and self.lvl < LEVEL_TRANSPORT and not is_datagram(u, before):
            number += 1
            before, u = u, fos_stream_unit(s, number)
        if u == NULL:
            return None
        return unit_of(self.core, self.index, self.dir, self.lvl, number, u)

    def __eq__(self, other):
        cdef DataUnit o
        if not isinstance(other, DataUnit):
            return NotImplemented
        o = <DataUnit>other
        return (self.core is o.core and self.index == o.index and self.generation == o.generation
                and self.dir == o.dir and self.lvl == o.lvl and self.number == o.number and self.made is o.made)

    def __hash__(self):
        return hash((self.index, self.generation, self.dir, self.lvl, self.number))

    def __repr__(self):
        return f"<DataUnit {self.level} {self.kind} [{self.offset}, {self.end})>"


cdef uint32_t ip_end(const fos_unit *u) noexcept nogil:
    """Where the IP packet ends in the frame, by its header, within what was captured."""
    cdef const uint8_t *h = u.frame + u.l3
    cdef uint32_t total
    if h[0] >> 4 == 4:
        total = <uint32_t>h[2] << 8 | h[3]
    else:
        total = 40 + (<uint32_t>h[4] << 8 | h[5])
    if total <= 40 and h[0] >> 4 == 6 or total == 0:
        return u.captured
    return u.l3 + total if total < u.captured - u.l3 else u.captured


cdef uint64_t transport_header(const fos_unit *u, uint8_t proto) noexcept nogil:
    cdef uint64_t n = u.captured - u.l4 if u.captured > u.l4 else 0
    cdef uint64_t want = 0
    if proto == 6:
        want = (u.frame[u.l4 + 12] >> 4) * 4 if n >= 20 else 0
    elif proto == 17 or proto == 1 or proto == 58 or proto == 136:
        want = 8
    elif proto == 132:
        want = 12
    return want if want < n else n


cdef class Window:
    """The range `[head, tail)` of one direction of one connection that a module is lent.

    `connection`, `direction` (0: a to b), `offset` and `length` in stream bytes; `units`, `data`,
    `segments`, `array()`.  Valid until the module's call returns; the engine uses a window
    object again when nobody kept it.
    """

    def __init__(self):
        raise TypeError("windows are made by the engine")

    cdef int check(self) except -1:
        if not self.live:
            raise StaleError("the window was released: its call has returned")
        return 0

    @property
    def connection(self):
        """Give the connection: a handle that stays usable."""
        if self.live:
            return connection_of(self.core, self.index)
        raise StaleError("the window was released: take `window.connection` during the call")

    @property
    def slot(self):
        """Give the index of the connection's record, without making a handle."""
        return self.index

    @property
    def head(self):
        """Give the stream offset where the window begins."""
        return self.offset

    @property
    def tail(self):
        """Give the stream offset where the window ends."""
        return self.offset + self.length

    cdef DataUnit unit_at(self, uint64_t number):
        if self.made is not None:
            return made_unit(self.core, self.index, self.dir, self.decoding, self.made, number)
        return unit_of(self.core, self.index, self.dir, self.lvl, number, fos_stream_unit(self.stream, number))

    @property
    def units(self):
        """Iterate over the data units, oldest first."""
        self.check()
        return self._iterate()

    def _iterate(self):
        cdef uint64_t i = self.first
        cdef bint all_show = self.made is not None or self.lvl >= LEVEL_TRANSPORT
        while i < self.stop:
            if not self.live:
                self.check()
            if all_show or self.shows(i):
                yield self.unit_at(i)
            i += 1

    cdef bint shows(self, uint64_t number):
        """Is this record a unit of the window's level?  On the lower ones a datagram is one unit."""
        if self.made is not None or self.lvl >= LEVEL_TRANSPORT:
            return True
        return is_datagram(fos_stream_unit(self.stream, number), fos_stream_unit(self.stream, number - 1))

    def __len__(self):
        cdef uint64_t i, n = 0
        self.check()
        if self.made is not None or self.lvl >= LEVEL_TRANSPORT:
            return self.stop - self.first
        for i in range(self.first, self.stop):
            n += self.shows(i)
        return n

    @property
    def segments(self):
        """Iterate over the bytes without a copy: one memoryview per unit that has bytes."""
        for unit in self.units:
            data = unit.data
            if len(data):
                yield data

    @property
    def data(self):
        """Lend the bytes in one piece: a view when they lie in one unit, else a joined copy.

        Gaps are left out; `units` shows where they are.
        """
        cdef fos_chunk *chunk
        cdef fos_unit *u
        cdef fos_unit *only = NULL
        cdef uint64_t i, total = 0
        cdef int n = 0
        cdef char *out
        self.check()
        if self.made is not None or self.lvl != LEVEL_TRANSPORT:
            parts = [bytes(unit.data) for unit in self.units]
            return memoryview(b"".join(parts))
        chunk = self.stream.first
        while chunk != NULL and chunk.base < self.stop:
            for i in range(max(chunk.base, self.first), min(chunk.base + FOS_CHUNK_UNITS, self.stop)):
                u = &chunk.units[i - chunk.base]
                if has_bytes(u):
                    only = u
                    n += 1
                    total += u.len
            chunk = chunk.next
        if n == 0:
            return memoryview(b"")
        if n == 1:
            return view_of(self.core, only, only.frame + only.payload, only.len)
        joined = PyBytes_FromStringAndSize(NULL, total)
        out = PyBytes_AS_STRING(joined)
        chunk = self.stream.first
        while chunk != NULL and chunk.base < self.stop:
            for i in range(max(chunk.base, self.first), min(chunk.base + FOS_CHUNK_UNITS, self.stop)):
                u = &chunk.units[i - chunk.base]
                if has_bytes(u):
                    memcpy(out, u.frame + u.payload, u.len)
                    out += u.len
            chunk = chunk.next
        return memoryview(joined)

    def array(self):
        """Give the units as a NumPy structured array of dtype `flowos.ROW`: one row per unit, a copy."""
        cdef fos_unit *u
        cdef uint64_t i
        self.check()
        import numpy

        rows = []
        proto = self.core.c.table.conns[self.index].key.proto
        for i in range(self.first, self.stop):
            if self.made is not None:
                made = self.made[i]
                unit = self.unit_at(i)
                rows.append((unit.offset, made.ts, made.packet, self.index, unit.length, 0, 0, self.direction, proto))
                continue
            if not self.shows(i):
                continue
            u = fos_stream_unit(self.stream, i)
            rows.append((u.off, u.ts, u.packet if self.lvl != LEVEL_DECODER else self.decoding.packet_of(self.dir, u), self.index, min(u.len, 0xffffffff),
                         u.wire if self.lvl != LEVEL_DECODER else 0, u.kind, self.direction, proto))
        return numpy.array(rows, row_dtype())

    def __repr__(self):
        if not self.live:
            return "<Window released>"
        return f"<Window {self.protocol} [{self.head}, {self.tail}) of {self.connection!r}>"
