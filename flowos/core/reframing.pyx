"""Messages stay valid under edits: the last stage of a flow whose modules resize them.

    edits of the last module ──► units with their edits ──► the decoder's framing ──► edits that are final

A decoder whose class has `framing` knows how its messages tell their length; when a module changes
it, the framing gives the corrections, and says how far the stream may leave: a head waits for its
body, until the hold limit.  To the core it is a stage like any other, behind all modules (lane.h).
The contract of `framing` is in docs/http-framing.md.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from flowos.core.core cimport *
from flowos.core.decoding cimport Decoding, ruled_out
from flowos.core.framing cimport Framing
from flowos.core.lane cimport *
from flowos.core.state cimport Core
from flowos.core.unit cimport *

from flowos.core.errors import LimitError

cdef extern from "splice.h" nogil:
    uint32_t fos_edits_above(const fos_edits *e, uint64_t pos)
    int fos_edits_put(fos_edits *e, fos_blocks *blocks, uint64_t pos, uint64_t removed, const uint8_t *data, uint64_t n)

cdef list NO_EDITS = []               # never added to


cdef bytes between(Core core, uint32_t index, int dir, uint64_t start, uint64_t end):
    """The original bytes [start, end), which the stream holds."""
    cdef fos_stream *s = fos_half_of(core.c, index, dir).stream
    cdef bytes data = PyBytes_FromStringAndSize(NULL, end - start)
    cdef char *out = PyBytes_AS_STRING(data)
    cdef fos_chunk *chunk = s.first
    cdef fos_unit *u
    cdef uint64_t i, low, high
    while chunk != NULL and chunk.next != NULL and chunk.next.units[0].off <= start:
        chunk = chunk.next
    i = max(s.head_index, chunk.base) if chunk != NULL else s.head_index
    u = fos_stream_walk(s, &chunk, i)
    while u != NULL and u.off < end:
        low, high = max(start, u.off), min(end, u.off + u.len)
        if low < high and u.kind != FOS_UNIT_GAP:
            memcpy(out + (low - start), u.frame + u.payload + (low - u.off), high - low)
        i += 1
        u = fos_stream_walk(s, &chunk, i)
    return data


cdef class Side:
    """What was fed of one direction."""


cdef class Reframer:
    """The framing of one decoder's messages, on every connection of a flow."""

    def __init__(self, core, decoder, framing, hold_ns, hold_bytes):
        self.core = core
        self.decoder = decoder
        self.framing = framing
        self.hold_ns = hold_ns
        # In line the sender's window closes at keep_bytes, and what waits would wait for the time to be up; half of it
        # lets the sender go on meanwhile.
        self.hold_bytes = min(hold_bytes, self.core.c.limits.keep_bytes // 2)
        self.pairs = {}

    def forget(self, index):
        """The connection is over."""
        self.pairs.pop(index, None)

    cdef int work(self, fos_lane *lane, uint32_t k, bint force) except -1:
        """Let the stage go on as far as the framing allows; `force`: nothing more comes."""
        self.one_way(lane, k, 0, force)
        return self.one_way(lane, k, 1, force)

    cdef int one_way(self, fos_lane *lane, uint32_t k, int dir, bint force) except -1:
        cdef fos_core *c = self.core.c
        cdef fos_way *way = &lane.way[dir]
        cdef fos_stage *st = &way.stages[k]
        cdef fos_half *h = fos_half_of(c, lane.index, dir)
        cdef fos_stream *s = h.stream
        cdef const fos_edits *given = fos_stage_input(way, k)
        cdef void *held = c.table.cold[lane.index].decoding
        cdef Decoding decoding = <Decoding>held if held != NULL else None
        cdef fos_at limit
        cdef fos_unit *u
        cdef Side side
        cdef fos_chunk *chunk = NULL
        cdef uint64_t start, end, covered
        cdef int body
        if s == NULL:
            return 0
        limit = fos_stage_limit(way, k, s.tail_off, 0)
        if decoding is None or decoding.over or decoding.failed or (decoding.decoder is not None and decoding.name != self.decoder):
            return self.pass_on(lane, k, dir, limit)
        if decoding.decoder is None:
            covered = limit.off if force else ruled_out(decoding, dir, limit.off)
            if covered == limit.off or covered > st.at.off:
                if covered < limit.off:
                    limit.off, limit.skip = covered, 0
                self.pass_on(lane, k, dir, limit)
            st.unit = 0                       # what there will be is wanted
            return 0
        sides = self.pairs.get(lane.index)
        if sides is None:
            sides = self.pairs[lane.index] = [Side.__new__(Side), Side.__new__(Side)]
            # Where the connection is under way a message may be, too: what it promised stands until the next begins.
            pair = self.framing.pair((lane.way[0].stages[k].at.off > 0, lane.way[1].stages[k].at.off > 0))
            for d in range(2):
                (<Side>sides[d]).framing = pair[d]
                (<Side>sides[d]).fed = lane.way[d].stages[k].at.off
                (<Side>sides[d]).unit = decoding.up[d].head_index
        side = <Side>sides[dir]
        st.unit = side.unit
        if side.unit >= decoding.up[dir].tail_index and not force and not side.since and not h.flags & FOS_HALF_FIN_DONE:
            return 0                          # nothing new
        covered = st.at.off
        body = body_kind(decoding)
        side.unit = max(side.unit, decoding.up[dir].head_index)
        while True:
            u = fos_stream_walk(&decoding.up[dir], &chunk, side.unit)
            if u == NULL:
                break
            start, end = max(u.start, side.fed), min(u.end, limit.off)
            if u.start > limit.off or (end < u.end and u.kind != body) or start > end:
                if start > end and u.end <= side.fed:
                    side.unit += 1
                    continue
                break
            if start == end and u.end > end:
                break
            if u.kind == body and end == u.end:   # what follows of the same body goes with it: one call, not one for each packet
                end = self.run(&decoding.up[dir], &chunk, side, u.message, body, end, limit.off)
                covered = self.feed(side, way, st, u, start, end, given, lane.index, dir, decoding)
                continue
            covered = self.feed(side, way, st, u, start, end, given, lane.index, dir, decoding)
            if end < u.end:
                break
            side.unit += 1
        if side.framing.holding:
            if not side.since:
                side.since = c.now if c.now else 1
            if force or limit.off - st.at.off > self.hold_bytes or c.now - side.since >= self.hold_ns:
                c.counters.v[FOS_C_windows_hold_limit] += 1
                side.framing.decide()
                covered = self.final(st, side.framing)
                side.since = 0
        else:
            side.since = 0
        if (force or h.flags & FOS_HALF_FIN_DONE) and not side.ended and side.fed >= s.tail_off:
            side.ended = True
            side.framing.close()
            covered = self.final(st, side.framing)
        if side.ended or (force and side.fed >= s.tail_off):
            covered = max(covered, limit.off)
        if covered > st.at.off:
            st.at.off = covered
            st.at.skip = 0
        if st.at.off >= s.tail_off and limit.skip and h.flags & FOS_HALF_FIN_DONE:
            st.at.skip = 0
        st.head = st.out.shown = st.at.off
        st.unit = side.unit
        st.held_since = side.since
        return 0

    cdef uint64_t run(self, fos_stream *up, fos_chunk **chunk, Side side, uint32_t message, int body, uint64_t end, uint64_t limit) noexcept:
        """Move on over whole units of a body that follow each other; give where they end."""
        cdef fos_unit *u
        while True:
            side.unit += 1
            u = fos_stream_walk(up, chunk, side.unit)
            if u == NULL or u.kind != body or u.message != message or u.start != end or u.end > limit:
                return end
            end = u.end

    cdef uint64_t feed(self, Side side, fos_way *way, fos_stage *st, fos_unit *u, uint64_t start, uint64_t end,
                       const fos_edits *given, uint32_t index, int dir, Decoding decoding) except? 0xffffffffffffffff:
        """Feed [start, end) of a unit with the edits in it."""
        cdef uint32_t i, seen = 0
        cdef uint64_t pos, removed
        cdef bint body = u.kind == body_kind(decoding), inside
        cdef list edits = NO_EDITS
        cdef bytes data = None
        if side.carry and start == side.fed:
            removed = min(side.carry, end - start)
            if removed:
                edits = [(start, removed, b"")]
            side.carry -= removed
        if given != NULL:
            for i in range(fos_edits_above(given, side.fed - 1) if side.fed else given.first, given.end):
                pos = given.items[i].pos
                if pos == side.fed:
                    seen += 1
                    if seen <= side.taken:
                        continue
                inside = pos < end or (pos == end and (body or start == end))
                if not inside:
                    break
                removed = min(given.items[i].removed, end - pos)
                side.carry = given.items[i].removed - removed
                if edits is NO_EDITS:
                    edits = []
                edits.append((pos, removed, PyBytes_FromStringAndSize(<const char *>given.items[i].data, given.items[i].inserted)
                              if given.items[i].inserted else b""))
        if end > side.fed:
            side.taken = 0
        if given != NULL:
            seen = 0
            if body or start == end:
                for i in range(fos_edits_above(given, end - 1) if end else given.first, fos_edits_above(given, end)):
                    seen += 1
            if end > side.fed or seen > side.taken:
                side.taken = seen
        side.fed = end
        if not body and u.end > u.start:
            data = between(self.core, index, dir, u.start, u.end)
        side.framing.unit(u.kind, start, end, u.message, merged(edits) if edits else NO_EDITS, data)
        return self.final(st, side.framing)

    cdef uint64_t final(self, fos_stage *st, Framing framing) except? 0xffffffffffffffff:
        """Put the edits that are final behind the stage's own; give how far it may go."""
        cdef bytes data
        if framing.final:
            for pos, removed, data in framing.given() or NO_EDITS:
                if fos_edits_put(&st.out, &self.core.c.blocks, pos, removed, <const uint8_t *>PyBytes_AS_STRING(data), len(data)):
                    raise LimitError("no memory for the edits of a connection")
        return framing.covered

    cdef int pass_on(self, fos_lane *lane, uint32_t k, int dir, fos_at limit) except -1:
        """Not this decoder's: what the modules released goes on as it is."""
        cdef fos_way *way = &lane.way[dir]
        cdef fos_stage *st = &way.stages[k]
        if fos_stage_take(st, &self.core.c.blocks, fos_stage_input(way, k), limit, FOS_TAKE_PASS):
            raise LimitError("no memory for the edits of a connection")
        st.head = st.out.shown = st.at.off
        st.unit = FOS_ALL                     # of the decoder's units it needs none
        return 0


cdef list merged(list edits):
    """Edits at one offset as one: what they insert in their order, what they take away once."""
    cdef list out = []
    last = None
    for pos, removed, data in edits:
        if last is not None and last[0] == pos:
            last[1] += removed
            last[2] += data
        elif removed or data:
            last = [pos, removed, data]
            out.append(last)
    return [tuple(edit) for edit in out]


cdef int body_kind(Decoding decoding) except -2:
    """Number of the decoder's kind "body", or -1."""
    if decoding.body_kind == 0:
        decoding.kind_name(0)
        decoding.body_kind = {name: number for number, name in decoding.kinds.items()}.get("body", -1)
    return decoding.body_kind
