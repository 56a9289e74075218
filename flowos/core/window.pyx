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
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from flowos.core.connection cimport Connection, connection_of
from flowos.core.core cimport *
from flowos.core.decoding cimport Decoding
from flowos.core.lane cimport FOS_ALL, fos_at, fos_edits, fos_stage_run
from flowos.core.patterns cimport (
    Patterns, fos_find, fos_partial, fos_patterns_next, fos_patterns_partial, fos_scan_begin, fos_scan_state)
from flowos.core.state cimport Core
from flowos.core.unit cimport *

from flowos.core.connection import PROTOCOLS
from flowos.core.errors import LimitError, StaleError, UsageError

KINDS = {FOS_UNIT_DATA: "data", FOS_UNIT_GAP: "gap", FOS_UNIT_SYN: "syn", FOS_UNIT_FIN: "fin", FOS_UNIT_RST: "rst"}
LEVELS = ("frame", "ip", "transport")

Fragment = namedtuple("Fragment", "packet offset length")
Fragment.__doc__ = "A fragment of a joined datagram: the number of its packet, where its bytes lie, how many."

Span = namedtuple("Span", "start end")
Span.__doc__ = "A range of stream offsets [start, end): what find gives, what delete and replace take."

cdef object _row = None
cdef object NO_MATCH = iter(())


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


cdef object view_at(Core core, const uint8_t *p, uint64_t n, const uint8_t *block):
    """n bytes at p, which lie in a block or in the port's memory: a view that pins them, or a copy."""
    cdef View view
    if block == NULL and not core.c.stable:
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


cdef uint64_t bits_of(object kinds):
    """A set of numbers of kinds as bits (`kind_bit`); 0: one of them has none."""
    cdef uint64_t bits = 0
    for kind in kinds:
        if not isinstance(kind, int):
            continue                          # a name: what decoders in Python call it
        if not 0 <= kind <= 0xffff or kind_bit(kind) == 64:
            return 0
        bits |= <uint64_t>1 << kind_bit(kind)
    return bits


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
    fill_made(unit, made, number)
    return unit


cdef int fill_made(DataUnit unit, list made, uint64_t number) except -1:
    """What a handle says of a unit that a Python decoder made."""
    unit.made = made[number]
    unit.mates = made
    unit.u.ts = unit.made.ts
    unit.u.off = unit.u.start = unit.made.start
    unit.u.end = unit.made.end
    unit.u.len = len(unit.made.data) if unit.made.data is not None else unit.made.end - unit.made.start
    return 0


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
        if self.lens is not None and self.lens.store is not None:
            return self.lens.stream
        if self.lvl == LEVEL_DECODER:
            return &self.decoding.up[self.dir]
        return fos_half_of(self.core.c, self.index, self.dir).stream

    cdef bint held(self):
        cdef fos_stream *s
        if self.lens is not None and self.lens.store is not None:
            return self.lens.live
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

    cdef bint through(self) noexcept:
        """Are its bytes seen as earlier stages left them?"""
        return self.lens is not None and self.lens.live and self.lens.by_offset

    cdef int here(self, what) except -1:
        """UsageError when the unit belongs to a snapshot, which knows neither other levels nor other windows."""
        self.alive()
        if self.lens is not None and self.lens.store is not None:
            raise UsageError(f"{what}: a module on a thread of its own is lent a copy of its level alone; attach it inline for this")
        return 0

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
        if not n:
            return memoryview(b"")
        if self.lens is not None and self.lens.store is not None:
            return self.lens.view(p, n, NULL)
        return view_of(self.core, &self.u, p, n)

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
        in a flow that has modules at these levels only, it counts the bytes behind the IP headers.  In a
        call, behind an editor, it counts what that one made of the stream, as the window's `head` does.
        """
        if self.through() and self.lvl != LEVEL_DECODER and self.lens.input != NULL:
            return self.lens.place_of(self.u.off)
        return self.u.off

    @property
    def length(self):
        """Count the stream bytes: of a gap, those that are missing; with what earlier stages edited."""
        if self.through() and self.u.kind != FOS_UNIT_GAP:
            return len(self._through() if self.lvl == LEVEL_DECODER else self.lens.unit_bytes(self.u.off, self.u.off + self.u.len))
        return self.u.len

    @property
    def end(self):
        """Give the stream offset behind the last byte."""
        if self.through() and self.lvl != LEVEL_DECODER and self.lens.input != NULL:
            return self.offset + self.length
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
        if self.lens is not None and self.lens.packets is not None:
            return self.lens.packets[self.number - self.lens.first]
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

        Offsets count in the datagram's payload; [] for a datagram that came whole.  The unit at level
        "frame" is the joined datagram, behind the link's header of its first fragment.
        """
        cdef fos_block *block
        cdef fos_origin_fragment *entry
        cdef uint32_t i
        if not self.reassembled or self.u.frame == NULL:
            return []
        self.here("fragments")
        block = fos_block_of(self.u.frame)
        entry = <fos_origin_fragment *>(&block.data[0] + fos_fragments_at(block.size))
        return [Fragment(entry[i].packet, entry[i].offset, entry[i].len) for i in range(block.fragments)]

    @property
    def dirty(self):
        """Say whether an edit of this call lies in the unit (D3.2's PM_DIRTY; clean again when the call has returned)."""
        if self.edits is None or not self.edits.live:
            return False
        if self.lvl == LEVEL_DECODER:
            return self.edits.edited(self.u.start, self.u.end)
        return self.edits.edited(self.u.off, self.u.off + self.u.len)

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
        if self.through():
            return self._through()
        if self.made is not None:
            return memoryview(self.made.data or b"").toreadonly()
        self.alive()
        self.extent(&p, &n, &h, &m)
        return self.bytes_at(p, n)

    def _through(self):
        """The payload as the stages before left it; on the lower levels behind the headers that came."""
        cdef fos_unit *u = &self.u
        cdef uint32_t begin
        if self.lvl == LEVEL_DECODER:
            if self.made is not None and self.made.data is not None and not self.lens.altered(u.start, u.end):
                return memoryview(self.made.data).toreadonly()      # what was decrypted is not what lies below
            return self.lens.unit_bytes(u.start, u.end)
        payload = self.lens.unit_bytes(u.off, u.off + u.len)
        if self.lvl == LEVEL_TRANSPORT or u.frame == NULL or u.kind == FOS_UNIT_GAP:
            return payload
        begin = u.l3 if self.lvl == LEVEL_FRAME else u.l4
        header = bytearray(PyBytes_FromStringAndSize(<const char *>(u.frame + begin), u.payload - begin if u.payload > begin else 0))
        if self.lvl == LEVEL_FRAME and len(header) >= 20:
            if header[0] >> 4 == 4:
                header[2:4] = (len(header) + len(payload)).to_bytes(2, "big")
            else:
                header[4:6] = (len(header) - 40 + len(payload)).to_bytes(2, "big")
        return memoryview(bytes(header) + bytes(payload))

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
        self.here("parents")
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
        self.here("children")
        if self.lvl == LEVEL_DECODER:
            return self._below(self.u.start, self.u.end)
        if self.lvl == LEVEL_FRAME or self.u.kind == FOS_UNIT_GAP:
            return []
        return [self._at(self.lvl - 1, self.number)]

    @property
    def connection(self):
        """Give the connection; `StaleError` once it has ended."""
        if self.lens is not None and self.lens.handle is not None:
            return self.lens.handle
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
        if self.lens is not None and self.lens.store is not None:
            return next((unit for unit in self.lens.units if (<DataUnit>unit).number > self.number), None)
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


cdef bytes as_bytes(str what, data):
    """Bytes from anything that has them; a text or a number is a mistake, not so many zeros."""
    if type(data) is bytes:
        return <bytes>data
    if isinstance(data, str):
        raise UsageError(f"{what}: {data!r} is text, expected bytes, as in b{data!r}")
    try:
        return bytes(memoryview(data))
    except TypeError:
        raise UsageError(f"{what}: {data!r}, expected bytes") from None


cdef class Window:
    """The range `[head, tail)` of one direction of one connection that a module is lent.

    `connection`, `direction` (0: a to b), `offset` and `length` in stream bytes; `units`, `data`,
    `segments`, `array()`.  Valid until the module's call returns; the engine uses a window
    object again when nobody kept it.
    """

    def __init__(self):
        raise TypeError("windows are made by the engine")

    def __dealloc__(self):
        free(self.segs)
        free(self.marks)
        self.forget()

    cdef void forget(self) noexcept:
        """Free what a snapshot owns beside its bytes."""
        cdef fos_chunk *chunk = self.own.first
        while chunk != NULL:
            self.own.first = chunk.next
            free(chunk)
            chunk = self.own.first
        self.own.last = self.own.cursor = NULL

    cdef void reset(self) noexcept:
        """Forget what the last call was about."""
        self.built = self.asked = self.by_offset = self.writes = self.follows = self.leaves = False
        self.wake_ns = 0
        self.wake_bytes = self.wake_units = 0
        self.kinds = None
        self.input = NULL
        self.seg_count = 0
        self.kept = FOS_ALL
        self.looked = 0
        if self.edits is not None:
            self.edits = None
        if self.store is not None:
            self.store = self.packets = self.handle = None
            self.forget()

    cdef int check(self) except -1:
        if not self.live:
            raise StaleError("the window was released: its call has returned")
        return 0

    @property
    def connection(self):
        """Give the connection: a handle that stays usable."""
        if self.live:
            return connection_of(self.core, self.index) if self.handle is None else self.handle
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
        cdef DataUnit unit
        if self.store is not None:
            unit = self.copied_unit(number)
        elif self.made is not None:
            unit = made_unit(self.core, self.index, self.dir, self.decoding, self.made, number)
        else:
            unit = unit_of(self.core, self.index, self.dir, self.lvl, number, fos_stream_unit(self.stream, number))
        if self.by_offset or self.store is not None:
            unit.lens = self
        if self.writes:
            unit.edits = self
        return unit

    cdef DataUnit copied_unit(self, uint64_t number):
        """The handle on a unit of a snapshot."""
        cdef DataUnit unit = DataUnit.__new__(DataUnit)
        unit.core = self.core
        unit.index = self.index
        unit.generation = self.generation
        unit.dir = self.dir
        unit.direction = self.direction
        unit.proto = self.proto
        unit.lvl = self.lvl
        unit.number = number
        unit.decoding = self.decoding
        if self.made is None:
            unit.u = fos_stream_unit(self.stream, number)[0]
        else:
            fill_made(unit, self.made, number)
        return unit

    cdef object view(self, const uint8_t *p, uint64_t n, const uint8_t *block):
        """n bytes at p, which this window shows."""
        cdef View view
        if self.store is None:
            return view_at(self.core, p, n, block)
        view = View.__new__(View)
        view.p = p
        view.n = n
        view.owner = self.store
        return memoryview(view)

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
            if (all_show or self.shows(i)) and (self.kinds is None or self.of_kind(i)):
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
        if self.kinds is not None:
            return sum([self.of_kind(i) for i in range(self.first, self.stop)])
        if self.made is not None or self.lvl >= LEVEL_TRANSPORT:
            return self.stop - self.first
        for i in range(self.first, self.stop):
            n += self.shows(i)
        return n

    @property
    def segments(self):
        """Iterate over the bytes without a copy: one memoryview per unit that has bytes."""
        cdef uint32_t k
        if self.by_offset:
            self.check()
            self.size()
            for k in range(self.seg_count):
                if self.segs[k].p != NULL:
                    yield self.view(self.segs[k].p, self.segs[k].n, self.marks[k].block)
            return
        for unit in self.units:
            data = unit.data
            if len(data):
                yield data

    # ---- the bytes, as segments ------------------------------------------------------------

    cdef int put(self, const uint8_t *p, uint64_t n, fos_at at, const uint8_t *block, bint inserted) except -1:
        """Append a segment: n bytes at p (NULL: bytes that nobody has)."""
        cdef uint32_t room
        cdef void *more
        if self.seg_count == self.seg_room:
            room = self.seg_room * 2 if self.seg_room else 32
            more = realloc(self.segs, room * sizeof(fos_seg))
            if more != NULL:
                self.segs = <fos_seg *>more
                more = realloc(self.marks, room * sizeof(seg_mark))
            if more == NULL:
                raise LimitError("no memory for the segments of a window")
            self.marks = <seg_mark *>more
            self.seg_room = room
        cdef fos_seg *seg = &self.segs[self.seg_count]
        seg.p = p
        seg.n = n
        seg.at = self.segs[self.seg_count - 1].at + self.segs[self.seg_count - 1].n if self.seg_count else 0
        self.marks[self.seg_count].at = at
        self.marks[self.seg_count].block = block
        self.marks[self.seg_count].inserted = inserted
        self.seg_count += 1
        return 0

    cdef int put_range(self, uint64_t start, uint64_t end) except -1:
        """Append the original bytes [start, end), which the transport's stream holds."""
        cdef fos_stream *s = fos_half_of(self.core.c, self.index, self.dir).stream
        cdef fos_chunk *chunk = s.first if s != NULL else NULL
        cdef fos_unit *u
        cdef uint64_t i, stop
        cdef const uint8_t *bytes
        cdef const uint8_t *block
        cdef fos_at at
        while chunk != NULL and start < end:
            if chunk.next != NULL and chunk.next.units[0].off <= start:
                chunk = chunk.next
                continue
            stop = min(chunk.base + FOS_CHUNK_UNITS, s.tail_index)
            for i in range(max(chunk.base, s.head_index), stop):
                u = &chunk.units[i - chunk.base]
                if u.off + u.len <= start or not u.len:
                    continue
                if u.off >= end:
                    break
                if u.off > start:
                    self.put_missing(start, u.off)
                    start = u.off
                at.off = start
                at.skip = 0
                bytes = block = NULL
                if u.kind != FOS_UNIT_GAP:
                    bytes = u.frame + u.payload + (start - u.off)
                    if u.flags & FOS_UNIT_OWNED:
                        block = u.frame
                self.put(bytes, min(end, u.off + u.len) - start, at, block, False)
                start = min(end, u.off + u.len)
                if start == end:
                    return 0
            chunk = chunk.next
        if start < end:
            self.put_missing(start, end)
        return 0

    cdef int put_missing(self, uint64_t start, uint64_t end) except -1:
        """Append offsets that no unit has: a snap length cut them off datagrams."""
        cdef fos_at at
        at.off = start
        at.skip = 0
        return self.put(NULL, end - start, at, NULL, False)

    cdef int put_input(self, fos_at *at, fos_at to) except -1:
        """Append what lies between two places of the stage's input."""
        cdef uint64_t start = 0, n = 0
        cdef const uint8_t *data = NULL
        cdef const uint8_t *block = NULL
        cdef fos_at mark
        cdef uint32_t count
        cdef int kind
        while True:
            mark = at[0]
            kind = fos_stage_run(self.input, at, to, &start, &data, &block, &n)
            if kind == 0:
                return 0
            if kind == 2:
                count = self.seg_count
                self.put_range(start, start + n)
                if count < self.seg_count:    # it stands behind what was put in front of it
                    self.marks[count].at.skip = mark.skip
            else:
                mark.skip = at.skip - n
                mark.off = start
                self.put(data, n, mark, block, True)

    cdef int put_made(self, data, fos_at at) except -1:
        """Append what a Python decoder made of bytes at a place."""
        if len(data):
            data = b"".join((data,))
            self.lent = [] if self.lent is None else self.lent
            self.lent.append(data)
            self.put(<const uint8_t *><const char *>data, len(data), at, NULL, False)
        return 0

    cdef bint edited_before(self, uint64_t start, uint64_t end) noexcept:
        """Did earlier stages edit original bytes of [start, end), or put some among them?"""
        cdef uint32_t i
        if self.input != NULL:
            for i in range(self.input.first, self.input.end):
                if self.input.items[i].pos < end and (self.input.items[i].pos + self.input.items[i].removed > start or self.input.items[i].pos >= start):
                    return True
        return False

    cdef bint of_kind(self, uint64_t number):
        """Is the decoder's unit of this number one that the module asked for?"""
        if self.kinds is None:
            return True
        if self.made is not None:
            return self.made[number].kind in self.kinds
        return kind_among(fos_stream_unit(self.stream, number).kind, self.kind_bits, self.kinds)

    cdef int build_units(self) except -1:
        """Find the bytes of a compiled decoder's units; those that follow each other are one range of the stream below."""
        cdef fos_at at = self.begin, to
        cdef fos_chunk *chunk = NULL
        cdef fos_unit *u
        cdef uint64_t i = self.first
        while i < self.stop:
            u = fos_stream_walk(self.stream, &chunk, i)
            i += 1
            if self.kinds is not None and not kind_among(u.kind, self.kind_bits, self.kinds):
                continue
            if at.off < u.start:
                at.off = u.start
                at.skip = 0
            to.off = u.end
            while i < self.stop:
                u = fos_stream_walk(self.stream, &chunk, i)
                if self.kinds is not None and not kind_among(u.kind, self.kind_bits, self.kinds):
                    i += 1
                    continue
                if u.start != to.off:
                    break
                to.off = u.end
                i += 1
            to.skip = FOS_ALL
            if to.off > self.limit.off:
                to = self.limit
            if at.off <= to.off:
                self.put_input(&at, to)
        return 0

    cdef int build(self) except -1:
        """Find the window's bytes."""
        cdef uint64_t i
        cdef const uint8_t *bytes
        cdef const uint8_t *block
        cdef fos_unit *u
        cdef fos_chunk *chunk = NULL
        cdef fos_at at, to
        cdef uint64_t passed
        if self.built:
            return 0
        self.built = True
        self.seg_count = 0
        if self.by_offset and self.lvl != LEVEL_DECODER:
            at = self.begin
            self.put_input(&at, self.limit)
            return 0
        if self.by_offset and self.made is None:
            return self.build_units()
        if self.by_offset:
            at = self.begin
            for i in range(self.first, self.stop):
                if not self.of_kind(i):
                    continue
                start, end = self.made[i].start, self.made[i].end
                data = self.made[i].data
                if data is not None and not self.writes and at.off <= start and end <= self.limit.off and not self.edited_before(start, end):
                    at.off = start            # what a reader sees is what was decoded, of whatever bytes below
                    at.skip = 0
                    self.put_made(data, at)
                    at.off = end
                    continue
                if at.off < start:
                    at.off = start
                    at.skip = 0
                to.off = end
                to.skip = FOS_ALL
                if to.off > self.limit.off:
                    to = self.limit
                if at.off <= to.off:
                    self.put_input(&at, to)
            return 0
        passed = self.begin.off
        for i in range(self.first, self.stop):
            if self.made is not None:
                data = self.made[i].data
                at.off = self.made[i].start
                at.skip = 0
                if data is not None:
                    self.put_made(data, at)
                continue
            u = fos_stream_walk(self.stream, &chunk, i)
            if self.lvl == LEVEL_TRANSPORT and u.off > passed:
                self.put_missing(passed, u.off)
            passed = u.off + u.len
            if not u.len:
                continue
            at.skip = 0
            if self.lvl == LEVEL_DECODER:
                at.off = u.start
                self.put(u.bytes, u.len, at, u.bytes if u.flags & FOS_UNIT_OWNED else NULL, False)
            else:
                at.off = u.off
                bytes = block = NULL
                if u.kind != FOS_UNIT_GAP:
                    bytes = u.frame + u.payload
                    if u.flags & FOS_UNIT_OWNED:
                        block = u.frame
                self.put(bytes, u.len, at, block, False)
        if self.lvl == LEVEL_TRANSPORT and self.made is None and self.limit.off > passed:
            self.put_missing(passed, self.limit.off)
        return 0

    cdef uint64_t size(self) except? 0xffffffffffffffff:
        """How many bytes the window counts."""
        if not self.built:
            self.build()
        return self.segs[self.seg_count - 1].at + self.segs[self.seg_count - 1].n if self.seg_count else 0

    cdef fos_at place(self, uint64_t i, bint behind):
        """Where index i stands in the stage's input; `behind`: at the end of the byte before it."""
        cdef uint32_t low = 0, high = self.seg_count, middle
        cdef fos_at at
        cdef uint64_t inside
        while low < high:
            middle = low + (high - low) // 2
            if self.segs[middle].at + self.segs[middle].n > i or (behind and self.segs[middle].at + self.segs[middle].n == i):
                high = middle
            else:
                low = middle + 1
        if low == self.seg_count:
            if low == 0:
                return self.begin
            low -= 1
        inside = i - self.segs[low].at
        at = self.marks[low].at
        if self.marks[low].inserted:
            at.skip += inside
        elif inside:
            at.off += inside
            at.skip = 0
        return at

    cdef uint64_t index_of(self, offset, what) except? 0xffffffffffffffff:
        """The index of a stream offset, which must lie in the window."""
        cdef uint64_t n = self.size()
        try:
            i = int(offset) - self.offset
        except (TypeError, ValueError):
            raise UsageError(f"{what}: {offset!r} is no stream offset") from None
        if not 0 <= i <= n:
            raise UsageError(f"{what}: offset {offset} lies outside the window [{self.offset}, {self.offset + n})")
        return i

    # ---- searching -------------------------------------------------------------------------

    def find(self, pattern, start=None):
        """Iterate over the matches of `pattern` (bytes), left to right, as Spans of stream offsets.

        Borders of segments and units do not matter; nothing is found across a gap.  Matches do not
        overlap.  `start` is the offset to begin at.  UsageError: the pattern is empty.
        """
        cdef const uint8_t *p
        cdef size_t m
        cdef int64_t hit
        cdef uint64_t begin
        self.check()
        pattern = as_bytes("find", pattern)
        p = <const uint8_t *>PyBytes_AS_STRING(pattern)
        m = len(pattern)
        if m == 0:
            raise UsageError("find: the pattern is empty")
        if not self.built:
            self.build()
        begin = 0 if start is None else self.index_of(start, "find")
        if not self.seg_count:
            return NO_MATCH
        hit = fos_find(self.segs, self.seg_count, begin, self.segs[self.seg_count - 1].at + self.segs[self.seg_count - 1].n, p, m)
        if hit < 0:
            return NO_MATCH
        return self._matches(pattern, hit)

    def _matches(self, pattern, int64_t hit):
        cdef size_t m = len(pattern)
        while hit >= 0:
            if not self.live:
                self.check()
            if <uint64_t>hit + m > self.looked:
                self.looked = <uint64_t>hit + m
            yield Span(self.offset + <uint64_t>hit, self.offset + <uint64_t>hit + m)
            hit = fos_find(self.segs, self.seg_count, <uint64_t>hit + m, self.size(),
                           <const uint8_t *>PyBytes_AS_STRING(pattern), m)

    def find_many(self, patterns, start=None):
        """Iterate over the matches of a set of patterns: (Span, number of the pattern) each.

        `patterns` is a `flowos.Patterns`, or bytes to make one of for this call alone.  The leftmost
        match comes first, of several that begin together the longest; matches do not overlap.
        """
        cdef Patterns compiled = patterns if isinstance(patterns, Patterns) else Patterns(patterns)
        self.check()
        self.size()
        return self._many(compiled, 0 if start is None else self.index_of(start, "find_many"))

    def _many(self, Patterns compiled, uint64_t start):
        cdef fos_scan_state state
        fos_scan_begin(&state, self.segs, self.seg_count, start, not self.complete)
        while fos_patterns_next(compiled.c, self.segs, self.seg_count, &state):
            if state.end > self.looked:
                self.looked = state.end
            yield Span(self.offset + state.start, self.offset + state.end), state.index
            if not self.live:
                self.check()

    def partial(self, pattern):
        """Count the bytes at the window's end that may still become a match: bytes, or a `flowos.Patterns`.

        0 when nothing more joins (`complete`).  Bytes of a match found or of an edit do not count.
        """
        self.check()
        if self.complete:
            return 0
        cdef uint64_t total = self.size()
        if isinstance(pattern, Patterns):
            return fos_patterns_partial((<Patterns>pattern).c, self.segs, self.seg_count, self.looked, total)
        pattern = as_bytes("partial", pattern)
        return fos_partial(self.segs, self.seg_count, self.looked, total, <const uint8_t *>PyBytes_AS_STRING(pattern),
                           len(pattern))

    # ---- editing ---------------------------------------------------------------------------

    cdef int edit(self, what, start, end, bytes data) except -1:
        cdef uint64_t i, j
        self.check()
        if not self.writes:
            raise UsageError(f"{what}: {type(self.attachment.module).__name__} is read-only here; "
                             f"a module edits with mode = RDWR, and not what is tunnelled")
        i = self.index_of(start, what)
        j = self.index_of(end, what)
        if j < i:
            raise UsageError(f"{what}: the range ends at {end}, before its start {start}")
        if self.edits is None:
            self.edits = []
        self.edits.append((i, j, data))
        if j > self.looked:
            self.looked = j
        return 0

    def delete(self, start, end=None):
        """Delete the bytes of a Span, or [start, end).  UsageError: outside the window, or not RDWR."""
        if end is None:
            start, end = start
        self.edit("delete", start, end, b"")

    def replace(self, start, end, data=None):
        """Replace a Span, or the bytes [start, end), by others of any length: replace(span, data), or (start, end, data)."""
        if data is None:
            (start, end), data = start, end
        self.edit("replace", start, end, as_bytes("replace", data))

    def insert(self, offset, data):
        """Insert bytes in front of the byte at `offset`; at `tail`, behind the last one."""
        self.edit("insert", offset, offset, as_bytes("insert", data))

    def drop(self, unit):
        """Delete a whole unit of this window; a datagram goes no further, without a trace but a counter."""
        cdef DataUnit u
        cdef uint64_t i, begin = 0, stop = 0
        cdef bint any = False
        if not isinstance(unit, DataUnit):
            raise UsageError(f"drop: {unit!r} is no data unit of this window")
        u = <DataUnit>unit
        self.size()
        low, high = (u.u.start, u.u.end) if u.lvl == LEVEL_DECODER else (u.u.off, u.u.off + u.u.len)
        for i in range(self.seg_count):
            if low <= self.marks[i].at.off < high and (self.marks[i].inserted or self.segs[i].n):
                begin = self.segs[i].at if not any else begin
                stop = self.segs[i].at + self.segs[i].n
                any = True
        if any:
            self.edit("drop", self.offset + begin, self.offset + stop, b"")

    def release(self, upto=None, keep=None):
        """Release the window up to an offset, or but for the last `keep` bytes; the rest is offered again.

        Without a call all is released on return; `release(upto=window.head)` holds all.  Edits that
        reach beyond are a UsageError.  A window that is `complete` may be held, until its limit.
        """
        cdef uint64_t total, upto_index
        self.check()
        total = self.size()
        if upto is None and keep is None:
            upto_index = total
        elif upto is None:
            if not 0 <= keep <= total:
                raise UsageError(f"release: keep={keep} of a window of {total} bytes")
            upto_index = total - <uint64_t>keep
        elif keep is None:
            upto_index = self.index_of(upto, "release")
        else:
            raise UsageError("release: give upto or keep, not both")
        if self.asked and upto_index < self.kept:
            raise UsageError(f"release: offset {self.offset + self.kept} was released already, a release is final")
        for start, end, _data in self.edits or ():
            if end > upto_index:
                raise UsageError(f"release: the edit at {self.offset + start} reaches beyond {self.offset + upto_index}")
        self.asked = True
        self.kept = upto_index

    def release_units(self, n):
        """Release the first n data units of the window; the rest is offered again (D3.2, ReleaseDataByUnit)."""
        cdef DataUnit u
        units = list(self.units)
        if not 0 <= n <= len(units):
            raise UsageError(f"release_units: {n} of {len(units)} units")
        if n == len(units):
            self.release()
            return
        u = <DataUnit>units[n]
        low = u.u.start if u.lvl == LEVEL_DECODER else u.u.off
        self.size()
        for i in range(self.seg_count):
            if self.marks[i].at.off >= low:
                self.release(upto=self.offset + self.segs[i].at)
                return
        self.release(keep=0)

    def wake(self, after=None, bytes=None, units=None):
        """Say when what is held is to be offered again (D3.2 section 4.3.4, the sleep of BEGIN_PROCESS).

        `after` seconds, capture time off line, although nothing came; and where `bytes` or `units` is given, not before the
        window has so many: what comes meanwhile waits.  The end of the stream and the limits of holding count all the same.
        It means nothing for a window that is released as a whole.  UsageError: a number below 0, or none of the three.
        """
        self.check()
        if after is None and bytes is None and units is None:
            raise UsageError("wake: give after, bytes or units")
        for what, value in (("after", after), ("bytes", bytes), ("units", units)):
            if value is not None and not value >= 0:
                raise UsageError(f"wake: {what} is {value!r}, expected 0 or more")
        self.wake_ns = max(1, <int64_t>(min(<double>after, 1e9) * 1e9)) if after is not None else 0
        self.wake_bytes = min(bytes or 0, FOS_ALL)
        self.wake_units = min(units or 0, FOS_ALL)

    def bypass(self):
        """Let the module see no more of this connection: all of it is released, and the rest passes by at no cost.

        `closed` is told all the same.  Where no module is left that wants it, the connection is only forwarded and counted.
        """
        self.check()
        self.leaves = True

    cdef int pieces(self, const fos_seg **segments, uint32_t *count) except -1:
        """For compiled modules: where the window's bytes lie, in order, to be read without the GIL.

        A segment is `n` bytes at `p`, NULL for bytes that are missing, `at` bytes behind the window's head.  They stay until
        the call that the window was lent for returns.  StaleError: it has returned.
        """
        self.check()
        self.size()
        segments[0] = self.segs
        count[0] = self.seg_count
        return 0

    @property
    def writable(self):
        """Say whether it may be edited: the module's mode is RDWR, and the packets are not in a tunnel."""
        return self.writes

    @property
    def state(self):
        """Give the connection's state of this module: what `state` declares, a dict by default."""
        self.check()
        return self.attachment.state_at(self.index)

    @property
    def shared(self):
        """Give the state that the module has once per attachment: what its `shared` makes, a dict by default."""
        self.check()
        return self.attachment.shared

    def group(self, key):
        """Give the state that belongs to a key, of whichever connection: what the module's `group` makes, a dict by default."""
        self.check()
        return self.attachment.group(key)

    def emit(self, record):
        """Send a record (a dict) to the run's sinks, with the time, the connection's number and the direction."""
        self.check()
        number = self.core.c.table.cold[self.index].id if self.handle is None else self.handle.id
        self.attachment.module.emit({"ts": self.now, "connection": number,
                                     "direction": self.direction, **record})

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
        if self.by_offset:
            return self._joined(0, self.size())
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
            if self.store is not None:
                return self.view(only.frame + only.payload, only.len, NULL)
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

    def _joined(self, uint64_t begin, uint64_t end):
        """The bytes of [begin, end) that are there: a view of one segment, else a copy."""
        cdef uint32_t k, only = 0
        cdef uint64_t low, high, total = 0
        cdef int n = 0
        cdef char *out
        for k in range(self.seg_count):
            low, high = max(begin, self.segs[k].at), min(end, self.segs[k].at + self.segs[k].n)
            if low < high and self.segs[k].p != NULL:
                only = k
                n += 1
                total += high - low
        if n == 0:
            return memoryview(b"")
        if n == 1:
            low = max(begin, self.segs[only].at)
            return self.view(self.segs[only].p + (low - self.segs[only].at), total, self.marks[only].block)
        joined = PyBytes_FromStringAndSize(NULL, total)
        out = PyBytes_AS_STRING(joined)
        for k in range(self.seg_count):
            low, high = max(begin, self.segs[k].at), min(end, self.segs[k].at + self.segs[k].n)
            if low < high and self.segs[k].p != NULL:
                memcpy(out, self.segs[k].p + (low - self.segs[k].at), high - low)
                out += high - low
        return memoryview(joined)

    cdef object unit_bytes(self, uint64_t start, uint64_t end):
        """What the window has of a unit that covers the original bytes [start, end), edits of earlier stages applied."""
        cdef uint64_t low, high
        self.unit_range(start, end, &low, &high)
        return self._joined(low, high) if low < high else memoryview(b"")

    cdef int unit_range(self, uint64_t start, uint64_t end, uint64_t *low, uint64_t *high) except -1:
        """Where in the window such a unit's bytes stand: indices [low, high); low > high: nowhere."""
        cdef uint32_t k
        cdef uint64_t n
        cdef fos_at at
        self.size()
        low[0] = FOS_ALL
        high[0] = 0
        for k in range(self.seg_count):
            at = self.marks[k].at
            n = self.segs[k].n
            if self.marks[k].inserted:
                if at.off < start or at.off > end or (at.off == end and self.follows_at(start, end, k)):
                    continue
                low[0] = min(low[0], self.segs[k].at)
                high[0] = self.segs[k].at + n
            elif at.off < end and at.off + n > start:
                low[0] = min(low[0], self.segs[k].at + (start - at.off if start > at.off else 0))
                high[0] = self.segs[k].at + min(n, end - at.off)
        return 0

    cdef bint follows_at(self, uint64_t start, uint64_t end, uint32_t k) noexcept:
        """Do bytes put in at the end of a unit, segment k, belong to another unit?"""
        if self.lvl == LEVEL_DECODER:
            return start < end and k + 1 < self.seg_count and not self.marks[k + 1].inserted
        if self.core.c.table.conns[self.index].key.proto != 6:
            return start < end                # datagrams: to the next one
        return end < self.limit.off or (start == end and self.segs[k].at > 0)     # a FIN: they are its, if none is before it

    cdef uint64_t place_of(self, uint64_t start) except? 0xffffffffffffffff:
        """Where a unit that begins at an original offset begins in the window's own coordinates."""
        cdef uint32_t k
        cdef fos_at at
        self.size()
        for k in range(self.seg_count):
            at = self.marks[k].at
            if at.off >= start or (not self.marks[k].inserted and at.off + self.segs[k].n > start):
                return self.offset + self.segs[k].at + (start - at.off if start > at.off else 0)
        return self.offset + self.size()

    cdef bint edited(self, uint64_t start, uint64_t end) except? True:
        """Does an edit of this call lie in the unit that covers the original bytes [start, end)?"""
        cdef uint64_t low, high
        if not self.edits:
            return False
        self.unit_range(start, end, &low, &high)
        for i, j, _data in self.edits:
            if (i < high and j > low) or low <= <uint64_t>i < high:
                return True
        return False

    cdef bint altered(self, uint64_t start, uint64_t end) except? True:
        """Did an earlier stage put bytes in or take some from [start, end) of the original stream?"""
        cdef uint32_t k
        cdef uint64_t there = 0
        self.size()
        for k in range(self.seg_count):
            low, high = self.marks[k].at.off, self.marks[k].at.off + self.segs[k].n
            if self.marks[k].inserted and start <= low < end:
                return True
            if not self.marks[k].inserted and low < end and high > start:
                there += min(high, end) - max(low, start)
        return there != end - start

    def array(self):
        """Give the units as a NumPy structured array of dtype `flowos.ROW`: one row per unit, a copy."""
        cdef fos_unit *u
        cdef uint64_t i
        self.check()
        import numpy

        rows = []
        proto = self.core.c.table.conns[self.index].key.proto if self.store is None else self.proto
        for i in range(self.first, self.stop):
            if self.made is not None:
                made = self.made[i]
                unit = self.unit_at(i)
                rows.append((unit.offset, made.ts, made.packet, self.index, unit.length, 0, 0, self.direction, proto))
                continue
            if not self.shows(i) or not self.of_kind(i):
                continue
            u = fos_stream_unit(self.stream, i)
            rows.append((u.off, u.ts, self.packet_at(u, i), self.index, min(u.len, 0xffffffff),
                         u.wire if self.lvl != LEVEL_DECODER else 0, u.kind, self.direction, proto))
        return numpy.array(rows, row_dtype())

    cdef uint64_t packet_at(self, const fos_unit *u, uint64_t number) except? 0:
        """The packet that brought the end of a unit."""
        if self.lvl != LEVEL_DECODER:
            return u.packet
        return self.decoding.packet_of(self.dir, u) if self.packets is None else self.packets[number - self.first]

    def __repr__(self):
        if not self.live:
            return "<Window released>"
        return f"<Window {self.protocol} [{self.head}, {self.tail}) of {self.connection!r}>"
