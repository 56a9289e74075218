"""The decoder at work on one connection: found by content, fed in order, its units kept.

    transport units of both directions, by arrival -> probe -> decoder.feed/gap/finish
                                                                 | emit
                                                                 v
                                             one stream of units for each direction

While no decoder has accepted the first bytes of either direction, they are kept aside (at most
2,048 bytes) and fed to the one that does.  A direction that was picked up in mid-stream may begin
anywhere: the start of each of its first 16 pieces is tried, and the decoder begins there.
A decoder that raises is taken off its connection; the error is kept.
"""
import sys

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove

from flowos.core.core cimport *
from flowos.core.decoder cimport Decoder
from flowos.core.state cimport Core
from flowos.core.unit cimport *

from flowos.core.errors import DecoderError

cdef enum:
    PROBE_BYTES = 2048         # what a probe is shown at most: a request line may be long
    PENDING_BYTES = 2048       # first bytes kept for decoders that cannot tell yet
    PENDING_UNITS = 64         # ... in so many pieces: who types a request sends a byte at a time
    MIDSTREAM_TRIES = 16       # pieces of a stream picked up midway that are tried as a beginning


cdef extern from "Python.h":
    void *PyErr_NoMemory()


cdef int no_memory(decoding_sink *s) noexcept nogil:
    """What a decoder returns must come with an exception."""
    s.core.failed = 1
    with gil:
        PyErr_NoMemory()
    return -1


cdef void mark(packet_marks *p, uint64_t end, uint64_t packet) noexcept nogil:
    """Note which packet brought the lower unit that ends at `end`.  Of many that wait every second is noted."""
    cdef uint32_t i
    if p.count == MARKS:
        p.count = MARKS // 2
        for i in range(p.count):
            p.marks[i] = p.marks[2 * i + 1]
    p.marks[p.count].end = end
    p.marks[p.count].packet = packet
    p.count += 1


cdef int _emit(fos_sink *sink, const fos_unit *unit, const uint8_t *bytes, size_t n) noexcept nogil:
    """Append a unit; its bytes stay where they are when they lie in the piece being fed, else they are copied."""
    cdef decoding_sink *s = <decoding_sink *>sink
    cdef fos_unit *u = fos_stream_append(s.stream, &s.core.chunks)
    cdef fos_block *block
    if u == NULL:
        return no_memory(s)
    s.packets.covered = unit.end
    u[0] = unit[0]
    u.ts = s.ts
    u.bytes = NULL
    u.flags &= <uint16_t>~FOS_UNIT_OWNED
    if bytes != NULL and n and n >= u.len and u.kind >= FOS_UNIT_DECODER:
        if s.piece != NULL and bytes >= s.piece and bytes + n <= s.piece + s.piece_n:
            u.bytes = bytes
        else:
            block = fos_block_new(&s.core.blocks, n)
            if block == NULL:
                return no_memory(s)
            memcpy(block.data, bytes, n)
            u.bytes = block.data
            u.flags |= FOS_UNIT_OWNED
    s.stream.tail_off = u.off + u.len
    s.emitted += 1
    return 0


cdef class Decoding:
    """What one connection's decoder made so far; `name` is its protocol, None while unknown."""

    def __cinit__(self, Core core, uint32_t index, list candidates, errors):
        self.core = core
        self.index = index
        self.candidates = [candidates, candidates]
        self.errors = errors
        self.pending = []
        self.made = [[], []]
        self.sink.base.emit = _emit
        self.sink.core = core.c

    def kind_name(self, int kind):
        """Name a kind of unit in the words of the decoder's module: its table KINDS."""
        if self.kinds is None:
            self.kinds = getattr(sys.modules[type(self.decoder).__module__], "KINDS", {})
        return self.kinds.get(kind) or f"kind-{kind}"

    def describe(self, int kind, bytes data):
        """Give the decoder's object for a unit of this kind."""
        return self.decoder.describe(kind, data)

    @property
    def over(self):
        """Say whether every decoder declined, or the one there was failed: there is nothing to decode."""
        return self.failed or (self.decoder is None and not self.candidates[0] and not self.candidates[1])

    def counters(self):
        """Give what the decoder counted on this connection: {reason: int}."""
        return getattr(self.decoder, "counters", None) or {}

    cdef int decode(self) except -1:
        """Feed the new transport units of both directions, in order of their packets."""
        if self.over:
            return 0
        cdef fos_stream *s[2]
        cdef uint64_t at[2]
        cdef fos_unit *u[2]
        cdef int d
        for d in range(2):
            s[d] = fos_half_of(self.core.c, self.index, d).stream
            at[d] = max(self.fed[d], s[d].head_index) if s[d] != NULL else 0
        while True:
            for d in range(2):
                u[d] = fos_stream_unit(s[d], at[d]) if s[d] != NULL else NULL
            if u[0] == NULL and u[1] == NULL:
                return 0
            if u[1] == NULL:
                d = 0
            elif u[0] == NULL:
                d = 1
            else:
                d = 0 if u[0].packet <= u[1].packet else 1
            at[d] += 1
            self.fed[d] = at[d]
            if not self.over:
                self._unit(d, u[d])

    cdef int _unit(self, int dir, const fos_unit *u) except -1:
        self.sink.packet = u.packet
        if self.decoder is None:
            return self._probe(dir, u)
        if u.kind == FOS_UNIT_DATA:
            # A block of the heap goes with the unit below: a view on a unit above would not keep it.
            self._feed(dir, u.frame + u.payload, u.len, u.off, u.ts, not u.flags & FOS_UNIT_OWNED)
        elif u.kind == FOS_UNIT_GAP:
            self._gap(dir, u.off, u.len, u.ts)
        elif u.kind == FOS_UNIT_FIN:
            self.finish(dir, u.off, u.ts)
        return 0

    cdef int _probe(self, int dir, const fos_unit *u) except -1:
        """Ask the candidates; on agreement feed what was kept, then this unit."""
        cdef const char *p
        if u.kind == FOS_UNIT_SYN or u.kind == FOS_UNIT_RST:
            return 0
        data = b""
        if u.kind == FOS_UNIT_DATA:
            data = PyBytes_FromStringAndSize(<const char *>(u.frame + u.payload), u.len)
        self.pending.append((dir, u.kind, data, u.off, u.len, u.ts, u.packet))
        self.pending_bytes += len(data)
        if not data or not self.candidates[dir]:
            return self._bound()
        cdef fos_conn *c = &self.core.c.table.conns[self.index]
        cdef int direction = dir ^ (c.flags & FOS_CONN_A_IS_HIGH)
        cdef int b_is_high = not (c.flags & FOS_CONN_A_IS_HIGH)
        if not self.tries[dir] and not self.packets[dir].covered:
            self.packets[dir].covered = u.off     # what went by before anybody listened
        cdef bint midstream = c.key.proto == 6 and (
            self.packets[dir].covered or not fos_half_of(self.core.c, self.index, dir).flags & FOS_HALF_FROM_SYN)
        port = c.key.ports & 0xffff if b_is_high else c.key.ports >> 16
        first = b"".join([entry[2] for entry in self.pending if entry[0] == dir])
        self.tries[dir] += 1
        left, may_be = [], b""                # what may be a beginning: all that was kept, this piece, or nothing
        for decoder in self.candidates[dir]:
            answer = self._ask(decoder, first, direction, port)
            if answer is None:
                may_be = first
            elif not answer and midstream and len(data) < len(first):
                answer = self._ask(decoder, data, direction, port)
                if answer:                    # begins with this piece: what lies before is not its own
                    self.pending = [entry for entry in self.pending if entry[0] != dir or entry[2] is data]
                elif answer is None:
                    may_be = may_be or data
            if answer:
                return self._accept(decoder)
            if answer is None or (midstream and self.tries[dir] < MIDSTREAM_TRIES):
                left.append(decoder)
        self.candidates[dir] = left
        if not left:                          # what it refused, no decoder will be fed later
            if c.key.proto != 6:              # datagrams: both directions of a protocol look alike
                self.candidates[1 - dir] = left
            self.pending = [entry for entry in self.pending if entry[0] != dir]
            self.pending_bytes = sum([len(entry[2]) for entry in self.pending])
        if midstream and left:                # keep only what may still be a beginning; what is none need not wait
            if self.core.c.live:              # nor what may be one: both ends wait for it, and more may never come
                may_be = b""
            if len(may_be) < len(first):
                self.pending = [entry for entry in self.pending if entry[0] != dir or (may_be and entry[2] is data)]
                self.pending_bytes = sum([len(entry[2]) for entry in self.pending])
            self.packets[dir].covered = u.off + u.len - len(may_be)
            return 0
        return self._bound()

    cdef object _ask(self, decoder, data, int direction, port):
        """Give the probe's answer; a probe that raises counts as a no."""
        try:
            return decoder.probe(memoryview(data)[:PROBE_BYTES], direction, port)
        except Exception as error:
            self._note(decoder, error)
            return False

    cdef int _bound(self) except -1:
        """Give up when too much was kept for decoders that cannot tell."""
        if self.pending_bytes > PENDING_BYTES or len(self.pending) > PENDING_UNITS:
            for dir in range(2):
                if not any([entry[0] == dir and entry[2] for entry in self.pending]):
                    continue                  # nothing of this direction was seen yet: it may still tell
                self.candidates[dir] = []
        if self.over:
            self.pending = []
        elif self.pending_bytes > PENDING_BYTES:
            self.pending = self.pending[len(self.pending) - 1:] if self.pending_bytes > 16 * PENDING_BYTES else self.pending
            self.pending_bytes = sum([len(entry[2]) for entry in self.pending])
        return 0

    cdef int _accept(self, decoder) except -1:
        cdef bytes data
        try:
            self.decoder = decoder()
        except Exception as error:
            self.candidates = [[], []]
            self._note(decoder, error)
            return 0
        self.name = decoder.name
        self.candidates = [[], []]
        if isinstance(self.decoder, Decoder):
            self.native = <Decoder>self.decoder
        pending, self.pending = self.pending, []
        for dir, kind, data, off, length, ts, packet in pending:
            self.sink.packet = packet
            if length:
                mark(&self.packets[dir], off + length, packet)
            if kind == FOS_UNIT_DATA:
                self._feed(dir, <const uint8_t *><char *>data, len(data), off, ts, False)
            elif kind == FOS_UNIT_GAP:
                self._gap(dir, off, length, ts)
            elif kind == FOS_UNIT_FIN:
                self.finish(dir, off, ts)
        return 0

    cdef int _fault(self, decoder, error) except -1:
        """The decoder failed: feed it no more; the units that it made before are delivered."""
        self.failed = True
        return self._note(decoder, error)

    cdef int _note(self, decoder, error) except -1:
        """Count a decoder's error and keep it."""
        self.core.c.counters.v[FOS_C_decoder_errors] += 1
        self.errors.append((getattr(decoder, "name", repr(decoder)), error))
        del self.errors[:max(0, len(self.errors) - 32)]
        return 0

    cdef void aim(self, int dir, const uint8_t *piece, size_t n, int64_t ts) noexcept:
        """Set the sink up for one call; `piece` when units may refer to its bytes."""
        self.sink.stream = &self.up[dir]
        self.sink.packets = &self.packets[dir]
        self.sink.piece = piece
        self.sink.piece_n = n
        self.sink.ts = ts

    cdef uint64_t packet_of(self, int dir, const fos_unit *unit) noexcept:
        """The packet that brought the last byte of a unit that the stream above holds; 0: there is none."""
        cdef packet_marks *p = &self.packets[dir]
        cdef fos_stream *s = fos_half_of(self.core.c, self.index, dir).stream
        cdef fos_unit *u
        cdef uint64_t i
        for i in range(p.count):
            if p.marks[i].end >= unit.end:
                return p.marks[i].packet
        if s == NULL:
            return 0
        for i in range(s.head_index, s.tail_index):
            u = fos_stream_unit(s, i)
            if u.off + u.len >= unit.end and (u.len or unit.start == unit.end):
                return u.packet
        return 0

    cdef void remember(self, int dir, uint64_t below) noexcept:
        """The lower units below this index go: note those that no unit covers yet, and the last one that some do."""
        cdef packet_marks *p = &self.packets[dir]
        cdef fos_stream *s = fos_half_of(self.core.c, self.index, dir).stream
        cdef fos_chunk *chunk = s.first if s != NULL else NULL
        cdef fos_unit *u
        cdef uint64_t i
        cdef uint32_t gone = 0
        while gone < p.count and p.marks[gone].end < p.covered:
            gone += 1
        p.count -= gone
        memmove(&p.marks[0], &p.marks[gone], p.count * sizeof(packet_mark))
        while chunk != NULL:
            if chunk.next == NULL or chunk.next.units[0].off >= p.covered:
                for i in range(max(chunk.base, s.head_index), min(chunk.base + FOS_CHUNK_UNITS, below)):
                    u = &chunk.units[i - chunk.base]
                    if u.len and u.off + u.len >= p.covered:
                        mark(p, u.off + u.len, u.packet)
            chunk = chunk.next

    cdef int _user(self, int dir) noexcept:
        return dir ^ (self.core.c.table.conns[self.index].flags & FOS_CONN_A_IS_HIGH)

    cdef int _feed(self, int dir, const uint8_t *p, uint64_t n, uint64_t off, int64_t ts, bint lasting) except -1:
        if self.failed:
            return 0
        self.aim(dir, p if lasting else NULL, n, ts)
        try:
            if self.native is not None:
                self.native.feed(self._user(dir), p, n, off, ts, &self.sink.base)
            else:
                data = PyBytes_FromStringAndSize(<const char *>p, n)
                self._keep(dir, self.decoder.feed(self._user(dir), data, off, ts), ts)
        except Exception as error:
            self._fault(self.decoder, error)
        return 0

    cdef int _gap(self, int dir, uint64_t off, uint64_t n, int64_t ts) except -1:
        if self.failed:
            return 0
        self.aim(dir, NULL, 0, ts)
        try:
            if self.native is not None:
                self.native.gap(self._user(dir), off, n, ts, &self.sink.base)
            else:
                self._keep(dir, self.decoder.gap(self._user(dir), off, n, ts), ts)
        except Exception as error:
            self._fault(self.decoder, error)
        return 0

    cdef int finish(self, int dir, uint64_t offset, int64_t ts) except -1:
        """The direction ends: let the decoder say what is left, once."""
        if self.finished[dir] or self.decoder is None or self.failed:
            return 0
        self.finished[dir] = True
        self.aim(dir, NULL, 0, ts)
        try:
            if self.native is not None:
                self.native.finish(self._user(dir), offset, ts, &self.sink.base)
            else:
                self._keep(dir, self.decoder.finish(self._user(dir), offset, ts), ts)
        except Exception as error:
            self._fault(self.decoder, error)
        return 0

    cdef int _keep(self, int dir, units, int64_t ts) except -1:
        cdef uint64_t start, end
        for unit in units or ():
            start, end = unit.start, unit.end
            if start > end or not isinstance(unit.data, (bytes, bytearray, memoryview, type(None))):
                raise DecoderError(f"decoder {self.name!r} made {unit!r}: expected start <= end, and bytes or None as data")
            unit.ts = ts
            unit.packet = self.sink.packet
            self.made[dir].append(unit)
            if end > self.packets[dir].covered:
                self.packets[dir].covered = end
            self.sink.emitted += 1
        return 0

    cdef int release(self, int dir, uint64_t upto, uint64_t below) except -1:
        """Free the units of a direction before number `upto` (2^64 - 1: all): every module has released them.

        The transport's units before index `below` go, too.
        """
        cdef uint64_t n
        cdef bint everything = upto == <uint64_t>-1
        if self.native is not None and not self.core.c.table.conns[self.index].flags & FOS_CONN_CLOSED:
            self.remember(dir, below)
        if self.native is not None:
            if everything or upto > self.up[dir].tail_index:   # a stage that reads other units stands where it stands
                upto = self.up[dir].tail_index
            if self.up[dir].head_index < upto:
                fos_stream_free_to(&self.up[dir], upto, &self.core.c.chunks)
        elif self.made[dir]:
            n = len(self.made[dir])
            if everything or upto >= self.gone[dir] + n:
                self.gone[dir] += n
                self.made[dir] = []
            elif upto > self.gone[dir]:
                self.made[dir] = self.made[dir][upto - self.gone[dir]:]
                self.gone[dir] = upto
        self.sink.emitted = 0
        return 0

    def __dealloc__(self):
        cdef int d
        for d in range(2):
            if self.core is not None and self.core.c != NULL:
                fos_stream_free_to(&self.up[d], self.up[d].tail_index, &self.core.c.chunks)
