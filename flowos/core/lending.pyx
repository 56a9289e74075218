"""Windows are lent and taken back: what each stage of a pipeline may see, and what it made of it.

    no lane:  the window is all units that came; released whole and unedited, nothing is noted
    lane:     the window is [at, limit) of the stage (lane.h), cut to the level's units

`offer` makes the windows of one attachment on one direction of a connection, `commit` takes one back
with its edits and what it released, `settle` lets the stage pass what is not of its level, `forget`
frees what all stages and the merger are done with.  Called by the engine only, in the pipeline's order.
The file is long because these share one way of reading where a stage stands.
"""
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from flowos.core.attachment cimport Attachment
from flowos.core.core cimport *
from flowos.core.decoding cimport Decoding, ruled_out
from flowos.core.lane cimport *
from flowos.core.merge cimport fos_lane_new, fos_lane_of, fos_lane_touch
from flowos.core.state cimport Core
from flowos.core.unit cimport *
from flowos.core.window cimport LEVEL_DECODER, LEVEL_TRANSPORT, Window, bits_of, kind_among

from flowos.core.errors import LimitError, UsageError


cdef uint64_t REFRAMER = 0xffffffffffffffff   # the serial of the stage that keeps messages valid


cdef Window pooled(Core core, Attachment a, uint32_t n):
    """The n-th window of an attachment's pool."""
    cdef Window w
    if n == <uint32_t>len(a.pool):
        w = Window.__new__(Window)
        w.core = core
        a.pool.append(w)
    return <Window>a.pool[n]


cdef int stage_number(fos_lane *lane, Attachment a) noexcept:
    """Which of the lane's stages is the attachment's; -1: none, it came later."""
    cdef uint32_t k
    for k in range(lane.stage_count):
        if lane.way[0].stages[k].serial == a.serial:
            return <int>k
    return -1


cdef Decoding decoding_of(Core core, uint32_t index):
    """The decoders' state of a connection, or None."""
    cdef void *held = core.c.table.cold[index].decoding
    return <Decoding>held if held != NULL else None


cdef bint untouched(const fos_conn *conn) noexcept:
    """What nobody edits or holds: packets in tunnels, and SCTP, whose chunks are under a checksum of the whole packet."""
    return conn.depth & FOS_DEPTH_SHARED or conn.key.proto == 132


cdef bint reads(Attachment a, Decoding decoding):
    """Does the connection's decoder make the units that the attachment works on?"""
    return decoding is not None and decoding.name == a.decoder and decoding.decoder is not None


cdef uint64_t units_end(Core core, Attachment a, uint32_t index, int dir):
    """One past the newest unit of the attachment's level."""
    cdef fos_stream *s
    cdef Decoding decoding
    if a.lvl == LEVEL_DECODER:
        decoding = decoding_of(core, index)
        if not reads(a, decoding):
            return 0
        return decoding.up[dir].tail_index if decoding.native is not None else decoding.gone[dir] + len(decoding.made[dir])
    s = fos_half_of(core.c, index, dir).stream
    return s.tail_index if s != NULL else 0


cdef int prepare(Core core, list serving, fos_lane *lane, uint32_t start) except -1:
    """A new lane whose stages before number `start` have seen all: of decoders' units the core knows nothing."""
    cdef Attachment a
    cdef fos_stage *st
    cdef int k, dir
    lane.owner = <void *>core
    for a in serving:
        k = stage_number(lane, a)
        if k < 0:
            continue
        for dir in range(2):
            lane.way[dir].stages[k].bypass = 1 if a.bypassed and lane.index in a.bypassed else 0
            if a.lvl != LEVEL_DECODER:
                continue
            st = &lane.way[dir].stages[k]
            st.unit = st.seen_unit = units_end(core, a, lane.index, dir) if <uint32_t>k < start else units_start(core, a, lane.index, dir)
    return 0


cdef uint64_t units_start(Core core, Attachment a, uint32_t index, int dir):
    """The oldest unit held of a decoder's level."""
    cdef Decoding decoding = decoding_of(core, index)
    if not reads(a, decoding):
        return 0
    return decoding.up[dir].head_index if decoding.native is not None else decoding.gone[dir]


cdef fos_lane *lane_at(Core core, list serving, uint32_t index, uint32_t start) except NULL:
    """The connection's lane; a new one has the stages from number `start` on at the first unit held."""
    cdef fos_lane *lane = fos_lane_of(core.c, index)
    if lane == NULL:
        lane = fos_lane_new(core.c, index, start)
        if lane == NULL:
            raise LimitError("no memory for a connection whose windows are held or edited")
        prepare(core, serving, lane, start)
    return lane


# ---- what a stage may see ---------------------------------------------------------------------

cdef uint32_t depends_on(list serving, fos_lane *lane, Attachment a):
    """The stages that the attachment must follow, as bits."""
    cdef Attachment b
    cdef int k
    cdef uint32_t bits = 0
    for b in serving:
        if b.name in a.depends:
            k = stage_number(lane, b)
            if k >= 0:
                bits |= 1 << k
    return bits


cdef bint ends(Core core, uint32_t index, int dir) noexcept:
    """Will nothing more come in this direction?"""
    cdef fos_conn *conn = &core.c.table.conns[index]
    return (conn.flags & FOS_CONN_CLOSED) != 0 or (
        (conn.flags & FOS_CONN_HALVES) != 0 and (fos_half_of(core.c, index, dir).flags & FOS_HALF_FIN_DONE) != 0)


cdef void dress(Core core, Attachment a, Window w, uint32_t index, int dir, Decoding decoding):
    """Fill in what every window says."""
    cdef fos_conn *conn = &core.c.table.conns[index]
    w.index = index
    w.generation = conn.generation
    w.dir = dir
    w.direction = dir ^ (conn.flags & FOS_CONN_A_IS_HIGH)
    w.lvl = a.lvl
    w.decoding = decoding
    w.protocol = a.protocol
    w.attachment = a
    w.writes = a.writes and not untouched(conn)
    w.kinds = a.kinds
    w.kind_bits = bits_of(a.kinds) if a.kinds is not None else 0
    w.now = core.c.now
    w.complete = ends(core, index, dir)
    w.live = True


cdef uint32_t offer(Core core, list serving, Attachment a, uint32_t index, int direction, uint32_t n) except? 0xffffffff:
    """Make the attachment's windows on one direction, from number n of its pool on; give the next number."""
    cdef fos_conn *conn = &core.c.table.conns[index]
    cdef int dir = direction ^ (conn.flags & FOS_CONN_A_IS_HIGH)
    cdef fos_stream *s = fos_half_of(core.c, index, dir).stream
    cdef fos_lane *lane = fos_lane_of(core.c, index)
    cdef Decoding decoding = None
    cdef fos_stream *up = NULL
    cdef Window w
    cdef int k = -1
    if lane != NULL:
        k = stage_number(lane, a)
        if k < 0:
            return n
        if lane.way[dir].stages[k].begins:    # what came before its module, and has bytes in front of it that come only now
            pass_to(core, serving, a, lane, <uint32_t>k, dir, lane.way[dir].stages[k].begins)
            if lane.way[dir].stages[k].begins:
                return n
    if s == NULL or (a.bypassed and index in a.bypassed):
        return n
    if a.lvl == LEVEL_DECODER:
        decoding = decoding_of(core, index)
        if not reads(a, decoding):
            return n
        up = &decoding.up[dir]
        if lane == NULL and not a.writes and a.kinds is None:
            return plain_decoded(core, a, index, dir, decoding, n)
        return decoded(core, serving, a, index, dir, decoding, lane, k, n)
    if lane != NULL:
        return ranged(core, serving, a, index, dir, lane, <uint32_t>k, n)
    if s.head_index == s.tail_index:
        return n
    if a.writes and fos_class_of(conn.key.proto) != FOS_CLASS_TCP:
        return datagrams(core, a, index, dir, s, s.head_index, n)
    w = pooled(core, a, n)
    w.reset()
    dress(core, a, w, index, dir, None)
    w.made = None
    w.stream = s
    w.first = s.head_index
    w.stop = s.tail_index
    w.offset = s.first.units[s.head_index - s.first.base].off
    w.length = s.tail_off - w.offset
    w.begin.off = w.offset
    w.begin.skip = 0
    w.limit.off = s.tail_off
    w.limit.skip = FOS_ALL
    return n + 1


cdef uint32_t plain_decoded(Core core, Attachment a, uint32_t index, int dir, Decoding decoding, uint32_t n):
    """All new units of a decoder, in one window."""
    cdef fos_stream *up = &decoding.up[dir]
    cdef Window w
    if decoding.native is None:
        if not decoding.made[dir]:
            return n
        w = pooled(core, a, n)
        w.reset()
        w.made = decoding.made[dir]
        w.first = 0
        w.stop = len(w.made)
        w.offset = w.made[0].start
        end = w.made[w.stop - 1].end
        w.length = end - w.offset if end > w.offset else 0
    else:
        if up.head_index == up.tail_index:
            return n
        w = pooled(core, a, n)
        w.reset()
        w.made = None
        w.first = up.head_index
        w.stop = up.tail_index
        w.offset = up.first.units[up.head_index - up.first.base].off
        w.length = up.tail_off - w.offset
    dress(core, a, w, index, dir, decoding)
    w.stream = up
    w.begin.off = w.offset
    w.begin.skip = 0
    w.limit.off = w.offset + w.length
    w.limit.skip = FOS_ALL
    return n + 1


cdef uint32_t datagrams(Core core, Attachment a, uint32_t index, int dir, fos_stream *s, uint64_t first, uint32_t n):
    """A window for each datagram: what edits never joins two."""
    cdef Window w
    cdef uint64_t i
    cdef fos_unit *u
    for i in range(first, s.tail_index):
        u = fos_stream_unit(s, i)
        w = pooled(core, a, n)
        w.reset()
        dress(core, a, w, index, dir, None)
        w.made = None
        w.stream = s
        w.follows = i > first
        w.first = i
        w.stop = i + 1
        w.offset = w.begin.off = u.off
        w.length = u.len
        w.begin.skip = 0
        w.limit.off = u.off + u.len
        w.limit.skip = 0
        w.complete = True
        n += 1
    return n


cdef inline bint beyond(fos_way *way, uint32_t k, fos_at limit) noexcept:
    """Does a limit show the stage bytes that it was not lent before?"""
    cdef fos_stage *st = &way.stages[k]
    if limit.off != st.seen_off:
        return limit.off > st.seen_off
    return min(limit.skip, fos_inserted_at(fos_stage_input(way, k), limit.off)) > st.seen_skip


cdef uint32_t ranged(Core core, list serving, Attachment a, uint32_t index, int dir, fos_lane *lane, uint32_t k, uint32_t n) except? 0xffffffff:
    """The window of a stage on the transport's stream, from where it stands to where it may go."""
    cdef fos_way *way = &lane.way[dir]
    cdef fos_stage *st = &way.stages[k]
    cdef fos_stream *s = fos_half_of(core.c, index, dir).stream
    cdef fos_at limit = fos_stage_limit(way, k, s.tail_off, depends_on(serving, lane, a) if a.depends else 0)
    cdef uint64_t first = max(st.unit, s.head_index), stop = first
    cdef fos_unit *u = fos_stream_unit(s, stop)
    cdef bint tcp = core.c.table.conns[index].key.proto == 6
    cdef Window w
    while u != NULL and (u.off < limit.off or (u.len == 0 and u.off == limit.off and (
            limit.skip == FOS_ALL or (limit.skip and u.kind != FOS_UNIT_FIN)))):
        if u.off + u.len > limit.off and (a.lvl < LEVEL_TRANSPORT or not tcp):
            limit.off = u.off                 # whole datagrams only
            limit.skip = 0
            break
        stop += 1
        u = fos_stream_unit(s, stop)
    if st.seen_unit >= stop and not beyond(way, k, limit) and not st.flags & FOS_STAGE_WOKEN and not (
            st.held_since and not st.ended and stop == s.tail_index and limit.off >= s.tail_off and ends(core, index, dir)):
        return n
    if not tcp and a.writes:
        if a.worker is not None and st.held_since and first < st.seen_unit and (
                st.flags & (FOS_STAGE_TOLD | FOS_STAGE_WOKEN)) == FOS_STAGE_TOLD:
            return n                          # it holds the first of them, and those behind it wait for that
        while first < stop:
            first_unit = first
            u = fos_stream_unit(s, first)
            w = one_range(core, a, index, dir, way, k, first, first + 1, n)
            w.begin.off = max(u.off, st.at.off)
            w.begin.skip = st.at.skip if w.begin.off == st.at.off else 0
            w.limit.off = u.off + u.len
            w.limit.skip = 0
            w.complete = True
            finish_range(w)
            n += 1
            first += 1
        return n
    w = one_range(core, a, index, dir, way, k, first, stop, n)
    w.begin = st.at
    w.limit = limit
    w.complete = w.complete and limit.off >= s.tail_off
    finish_range(w)
    if sleeps(a, st, w):
        return n
    st.ended = w.complete
    return n + 1


cdef Window one_range(Core core, Attachment a, uint32_t index, int dir, fos_way *way, uint32_t k, uint64_t first, uint64_t stop, uint32_t n):
    cdef Window w = pooled(core, a, n)
    w.reset()
    dress(core, a, w, index, dir, None)
    w.made = None
    w.stream = fos_half_of(core.c, index, dir).stream
    w.by_offset = True
    w.input = fos_stage_input(way, k)
    w.first = first
    w.stop = stop
    if w.complete and stop < w.stream.tail_index:
        w.complete = False
    return w


cdef bint sleeps(Attachment a, const fos_stage *st, Window w):
    """Did the module ask not to be called before more is there than the window has?"""
    if not (st.wake_bytes or st.wake_units) or st.flags & FOS_STAGE_WOKEN or w.complete or w.length > a.hold_bytes:
        return False
    if st.wake_bytes and w.length >= st.wake_bytes:
        return False
    return not st.wake_units or <uint64_t>len(w) < st.wake_units


cdef int finish_range(Window w) except -1:
    w.offset = w.begin.off + w.begin.skip
    if w.input != NULL:
        w.offset = input_offset(w.input, w.begin)
    w.length = w.size()
    return 0


cdef uint64_t input_offset(const fos_edits *e, fos_at at):
    """Where a place stands in the stream that the stage reads: behind the edits before it, and `skip` bytes."""
    cdef uint32_t i
    cdef int64_t delta = e.delta
    for i in range(e.first, e.end):
        if e.items[i].pos >= at.off:
            delta = e.items[i].delta
            break
        if e.items[i].pos + e.items[i].removed > at.off:      # among bytes taken away: where these stood
            return e.items[i].pos + <uint64_t>e.items[i].delta + e.items[i].inserted
    return at.off + <uint64_t>delta + at.skip


cdef uint32_t decoded(Core core, list serving, Attachment a, uint32_t index, int dir, Decoding decoding, fos_lane *lane, int k,
                      uint32_t n) except? 0xffffffff:
    """The windows of a stage on a decoder's units: one for each message when it asked for a kind of unit."""
    cdef fos_way *way = &lane.way[dir] if lane != NULL else NULL
    cdef fos_stage *st = &way.stages[k] if lane != NULL else NULL
    cdef fos_stream *s = fos_half_of(core.c, index, dir).stream
    cdef fos_stream *up = &decoding.up[dir]
    cdef bint native = decoding.native is not None
    cdef list made = decoding.made[dir]
    cdef uint64_t base = 0 if native else decoding.gone[dir]
    cdef uint64_t head = up.head_index if native else base, tail = up.tail_index if native else base + len(made)
    cdef uint64_t i, first, start, end, low = 0, high = 0
    cdef int64_t message = -1, number
    cdef fos_at at, limit
    cdef fos_unit *u = NULL
    cdef fos_chunk *chunk = NULL
    cdef uint64_t bits = bits_of(a.kinds) if a.kinds is not None else 0
    cdef Window w = None
    cdef bint mine, fresh, over, follows = False
    cdef uint32_t begun = n
    if lane != NULL:
        at = st.at
        limit = fos_stage_limit(way, k, s.tail_off, depends_on(serving, lane, a) if a.depends else 0)
        first = max(st.unit, head)
        over = ends(core, index, dir) and limit.skip == FOS_ALL
        fresh = tail > st.seen_unit or beyond(way, <uint32_t>k, limit) or st.flags & FOS_STAGE_WOKEN != 0 or (
            st.held_since and over and not st.ended)
        if not fresh:
            return n
    else:
        at.off = at.skip = 0
        limit.off = s.tail_off
        limit.skip = FOS_ALL
        over = ends(core, index, dir)
        first = head
    i = first
    while i < tail:
        if native:
            u = fos_stream_walk(up, &chunk, i)
            start, end, number = u.start, u.end, u.message
            mine = a.kinds is None or kind_among(u.kind, bits, a.kinds)
        else:
            unit = made[i - base]
            start, end, number = unit.start, unit.end, 0
            mine = a.kinds is None or unit.kind in a.kinds
        if start > limit.off or (end > limit.off and a.kinds is None):
            break
        if w is not None and a.kinds is not None and number != message:
            w.complete = True
            finish_range(w)
            w = None
        if mine and (start < limit.off or start == end):
            if w is None:
                w = pooled(core, a, n)
                n += 1
                w.reset()
                dress(core, a, w, index, dir, decoding)
                w.complete = False
                w.follows = follows
                follows = True
                w.made = None if native else made
                w.stream = up
                w.by_offset = True
                w.input = fos_stage_input(way, k) if way != NULL else NULL
                w.first = i - base
                w.begin.off = start
                w.begin.skip = 0
                if lane != NULL and fos_at_before(w.begin, at):
                    w.begin = at
                message = number
            w.stop = i + 1 - base
            w.limit.off = min(end, limit.off)
            w.limit.skip = FOS_ALL if end <= limit.off else limit.skip
        elif w is not None and a.kinds is not None and native and u.kind == a.end_kind:
            w.complete = True
            finish_range(w)
            w = None
        i += 1
    if w is not None:
        w.complete = w.complete or (over and i == tail)
        finish_range(w)
    if st != NULL:
        if n > begun and sleeps(a, st, <Window>a.pool[begun]):
            return begun
        if (n == begun + 1 or (n > begun and a.worker is not None)) and st.held_since and not st.flags & FOS_STAGE_WOKEN:
            w = <Window>a.pool[begun]         # it holds all of that: what came behind is no unit of its kind, or another message
            if (not w.complete or (st.flags & FOS_STAGE_TOLD and a.worker is not None)) and w.stop + base <= st.seen_unit and w.limit.off <= st.seen_off and (
                    w.limit.off < st.seen_off or fos_inserted_at(w.input, w.limit.off) <= st.seen_skip or w.limit.skip <= st.seen_skip):
                return begun
        st.ended = over
    return n


# ---- what it made of it ---------------------------------------------------------------------------

cdef int go(Core core, Attachment a, fos_way *way, uint32_t k, fos_at to, int how) except -1:
    """Move a stage on; what it leaves behind is covered."""
    cdef fos_stage *st = &way.stages[k]
    if fos_stage_take(st, &core.c.blocks, fos_stage_input(way, k), to, how):
        raise LimitError("no memory for the edits of a connection")
    return 0


cdef int commit(Core core, list serving, Attachment a, Window w, bint failed) except -1:
    """Take a window back: its edits, and what was released of it."""
    cdef uint64_t total = w.length
    cdef list edits = w.edits
    cdef uint64_t kept = min(w.kept, total) if w.asked else total
    cdef fos_lane *lane
    cdef fos_way *way
    cdef fos_stage *st
    cdef fos_at to
    cdef int k
    cdef uint64_t i, j, low, high, done = 0
    cdef uint32_t g
    cdef bint datagram = False
    cdef bytes data
    if w.leaves and not failed:
        kept = total
        leave(core, a, w.index)
    if untouched(&core.c.table.conns[w.index]):
        return 0                              # its frames left as they came, whoever holds what is in them
    if failed:
        edits = [edit for edit in edits or () if w.asked and edit[1] <= kept]
        kept = total
    if not edits and kept == total:
        lane = fos_lane_of(core.c, w.index)
        if lane == NULL:
            return 0
    lane = fos_lane_of(core.c, w.index)
    if lane == NULL:
        lane = lane_at(core, serving, w.index, plan_stage(core, a, w.index))
        k = stage_number(lane, a)
        if k >= 0:
            catch_up(core, a, w, lane, <uint32_t>k)
    k = stage_number(lane, a)
    if k < 0:
        return 0
    way = &lane.way[w.dir]
    st = &way.stages[k]
    fos_lane_touch(core.c, lane)
    st.flags &= ~<uint32_t>FOS_STAGE_WOKEN
    st.wake = 0
    st.wake_bytes = st.wake_units = 0
    if st.held_since and lane.floor < w.now:
        lane.floor = w.now
    if fos_at_before(w.begin, st.at) or (w.by_offset and w.lvl != LEVEL_DECODER and fos_at_before(st.at, w.begin) and st.held_since):
        return 0                              # a window before it is held: it is offered again
    if st.held_since and fos_at_before(st.at, w.begin) and st.seen_off < w.begin.off:
        return 0
    if edits:
        datagram = fos_class_of(core.c.table.conns[w.index].key.proto) != FOS_CLASS_TCP
        edits = settled(core, a, w, edits, datagram)   # all of them are right, or none is carried out
        for i, j, data in edits:
            apply(core, a, w, way, k, i, j, data)
        core.c.counters.v[FOS_C_edits] += len(edits)
        a.edits += len(edits)
    if kept == total:
        if w.lvl != LEVEL_DECODER and w.by_offset or w.lvl != LEVEL_DECODER:
            go(core, a, way, k, w.limit, FOS_TAKE_PASS)
        else:
            to = w.limit
            go(core, a, way, k, to, FOS_TAKE_PASS)
        st.unit = first_held(core, a, w, w.limit)
        st.held_since = 0
    else:
        if kept:
            go(core, a, way, k, w.place(kept, True), FOS_TAKE_PASS)
        st.unit = first_held(core, a, w, st.at)
        core.c.counters.v[FOS_C_windows_held] += 1
        if total - kept > a.hold_bytes:
            go(core, a, way, k, w.limit, FOS_TAKE_PASS)
            st.unit = first_held(core, a, w, w.limit)
            st.held_since = 0
            core.c.counters.v[FOS_C_windows_hold_limit] += 1
            a.held += 1
        elif not st.held_since or kept:
            st.held_since = core.c.now if core.c.now else 1
        if st.held_since and not failed:
            st.wake_bytes = w.wake_bytes
            st.wake_units = w.wake_units
            if w.wake_ns:
                st.wake = w.now + w.wake_ns
                core.wake_at = min(core.wake_at, st.wake)
    st.seen_unit = w.stop + (w.decoding.gone[w.dir] if w.lvl == LEVEL_DECODER and w.decoding.native is None else 0)
    st.seen_off = w.limit.off
    st.seen_skip = min(w.limit.skip, fos_inserted_at(fos_stage_input(way, k), w.limit.off))
    if st.held_since and w.complete:
        st.flags |= FOS_STAGE_TOLD
    else:
        st.flags &= ~<uint32_t>FOS_STAGE_TOLD
    if w.complete and ends(core, w.index, w.dir):
        st.ended = True                       # it was told, whether or not the connection had a lane then
    st.head = st.out.shown = st.at.off
    return 0


cdef list settled(Core core, Attachment a, Window w, list edits, bint datagram):
    """Put a window's edits in order; UsageError: two of them overlap, or one changes a length that stands."""
    cdef uint64_t i, j, done = 0, total = w.length
    cdef list found = []
    for i, j, data in sorted(edits, key=_start):
        if i < done:
            raise UsageError(f"edits overlap at {w.offset + i}: the one before ends at {w.offset + done}")
        done = j
        if a.same_length and len(data) != <Py_ssize_t>(j - i):
            raise UsageError(f"{a.name} changes the length of a {a.protocol} by an edit at {w.offset + i}: "
                             f"that takes resizes = True")
        if datagram and i == j == total:      # behind a datagram's end stands the next one: the last byte takes it along
            if not total:
                core.c.counters.v[FOS_C_edits_refused] += 1
                continue
            if found and found[len(found) - 1][1] == total:
                i, _, before = found.pop()
            else:
                i, before = total - 1, bytes(w._joined(total - 1, total))
            data = before + data
        found.append((i, j, data))
    return found


cdef int leave(Core core, Attachment a, uint32_t index) except -1:
    """The module wants no more of a connection: its stages let pass what comes."""
    cdef fos_lane *lane = fos_lane_of(core.c, index)
    cdef int k = stage_number(lane, a) if lane != NULL else -1
    cdef int dir
    if a.bypassed is None:
        a.bypassed = set()
    a.bypassed.add(index)
    if k >= 0:
        for dir in range(2):
            lane.way[dir].stages[k].bypass = True
            lane.way[dir].stages[k].held_since = 0
        fos_make_ready(core.c, index, &core.c.table.conns[index])
    return 0


cdef int catch_up(Core core, Attachment a, Window w, fos_lane *lane, uint32_t k) except -1:
    """The lane is made by a window that was not the first of its call: those before it were released."""
    cdef fos_stage *st
    cdef fos_stream *s
    if w.follows:
        go(core, a, &lane.way[w.dir], k, w.begin, FOS_TAKE_PASS)
        st = &lane.way[w.dir].stages[k]
        st.head = st.out.shown = st.at.off
    if w.direction == 1:                      # a to b comes first
        st = &lane.way[1 - w.dir].stages[k]
        s = fos_half_of(core.c, w.index, 1 - w.dir).stream
        if s != NULL and a.lvl != LEVEL_DECODER:
            st.at.off = st.head = st.seen_off = s.tail_off
            st.unit = st.seen_unit = s.tail_index
            st.ended = ends(core, w.index, 1 - w.dir)
        elif s != NULL:
            st.unit = st.seen_unit = units_end(core, a, w.index, 1 - w.dir)
            st.seen_off = s.tail_off
            st.at.off = st.head = s.tail_off
            if not ends(core, w.index, 1 - w.dir) and decoding_of(core, w.index) is not None:
                st.at.off = st.head = min(s.tail_off, decoding_of(core, w.index).packets[1 - w.dir].covered)
    return 0


cdef uint32_t plan_stage(Core core, Attachment a, uint32_t index):
    """The attachment's number among the stages of the connection's flow."""
    cdef fos_plan *plan = &core.c.plans[core.c.table.conns[index].flow]
    cdef uint32_t k
    for k in range(plan.stage_count):
        if plan.stage[k].serial == a.serial:
            return k
    return plan.stage_count


cdef uint64_t first_held(Core core, Attachment a, Window w, fos_at at):
    """Number of the first unit with bytes at or behind a place: the last one may be released in part."""
    cdef uint64_t i = w.stop, gone = w.decoding.gone[w.dir] if w.made is not None else 0
    cdef fos_unit *u
    while i > w.first:
        if w.made is not None:
            if w.made[i - 1].end <= at.off:
                break
        else:
            u = fos_stream_unit(w.stream, i - 1)
            if (u.end if w.lvl == LEVEL_DECODER else u.off + u.len) <= at.off:
                break
        i -= 1
    return i + gone


cdef int apply(Core core, Attachment a, Window w, fos_way *way, uint32_t k, uint64_t i, uint64_t j, bytes data) except -1:
    """Carry one edit of [i, j) out on the stage: what is before it passes, its bytes go, others come."""
    cdef fos_stage *st = &way.stages[k]
    cdef uint32_t g
    cdef uint64_t low, high
    cdef fos_at start, end
    cdef bint first = True
    if i == j:
        go(core, a, way, k, w.place(i, i == w.length), FOS_TAKE_PASS)
        put_in(core, a, st, data)
        return 0
    for g in range(w.seg_count):
        low, high = max(i, w.segs[g].at), min(j, w.segs[g].at + w.segs[g].n)
        if low >= high:
            continue
        start = w.marks[g].at
        if w.marks[g].inserted:
            start.skip += low - w.segs[g].at
            end = start
            end.skip += high - low
        else:
            if low > w.segs[g].at:
                start.off += low - w.segs[g].at
                start.skip = 0
            end.off = start.off + (high - low)
            end.skip = 0
        go(core, a, way, k, start, FOS_TAKE_PASS)
        if first:
            put_in(core, a, st, data)
            first = False
        go(core, a, way, k, end, FOS_TAKE_REMOVE)
        core.c.counters.v[FOS_C_edit_bytes_removed] += high - low
        a.removed += high - low
    return 0


cdef int put_in(Core core, Attachment a, fos_stage *st, bytes data) except -1:
    if not data:
        return 0
    if fos_stage_insert(st, &core.c.blocks, <const uint8_t *>PyBytes_AS_STRING(data), len(data)):
        raise LimitError("no memory for the edits of a connection")
    core.c.counters.v[FOS_C_edit_bytes_inserted] += len(data)
    a.inserted += len(data)
    return 0


def _start(edit):
    return edit[0], edit[1]


# ---- what is not of the stage's level ---------------------------------------------------------------

cdef uint64_t cover(Core core, Attachment a, uint32_t index, int dir, fos_at limit):
    """Up to where nothing can become a unit of the attachment's level any more that it has not seen."""
    cdef Decoding decoding
    if a.lvl != LEVEL_DECODER or ends(core, index, dir):
        return limit.off
    decoding = decoding_of(core, index)
    if decoding is None or decoding.over or decoding.failed:
        return limit.off
    if decoding.decoder is None:              # its first bytes are still asked for what they are
        return ruled_out(decoding, dir, limit.off)
    if decoding.name != a.decoder:
        return limit.off
    return min(limit.off, decoding.packets[dir].covered)


cdef int settle(Core core, list serving, Attachment a, uint32_t index, bint force) except -1:
    """Let the stage pass what it has released and what is not of its level; `force`: all it was lent."""
    cdef fos_lane *lane = fos_lane_of(core.c, index)
    cdef fos_conn *conn = &core.c.table.conns[index]
    cdef fos_stream *s
    cdef fos_way *way
    cdef fos_stage *st
    cdef fos_at limit
    cdef uint64_t covered
    cdef int k, dir
    if untouched(conn):
        return 0
    cdef bint hears = (a.classes & fos_class_of(conn.key.proto)) != 0 and not a.detached
    if lane == NULL:
        if not a.writes or a.lvl != LEVEL_DECODER or not hears or force:
            return 0
        limit.skip = FOS_ALL
        for dir in range(2):
            s = fos_half_of(core.c, index, dir).stream
            if s != NULL and s.head_index < s.tail_index:
                limit.off = s.tail_off
                if cover(core, a, index, dir, limit) < s.tail_off:
                    lane = lane_at(core, serving, index, plan_stage(core, a, index))
                    break
        if lane == NULL:
            return 0
    k = stage_number(lane, a)
    if k < 0:
        return 0
    fos_lane_touch(core.c, lane)
    for dir in range(2):
        way = &lane.way[dir]
        st = &way.stages[k]
        s = fos_half_of(core.c, index, dir).stream
        if s == NULL:
            continue
        limit = fos_stage_limit(way, k, s.tail_off, 0)
        if force or not hears or st.bypass:
            if st.held_since and force:
                lane.floor = max(lane.floor, core.c.now)
                core.c.counters.v[FOS_C_windows_hold_limit] += 1
                a.held += 1
            go(core, a, way, k, limit, FOS_TAKE_REMOVE if lane.reset and a.writes and a.fail == "close" else FOS_TAKE_PASS)
            st.unit = st.seen_unit = units_end(core, a, index, dir)
            st.held_since = 0
        elif a.lvl == LEVEL_DECODER and not st.held_since:
            covered = cover(core, a, index, dir, limit)
            if covered > st.at.off or (covered == limit.off == st.at.off):
                if covered < limit.off:
                    limit.off = covered
                    limit.skip = 0
                go(core, a, way, k, limit, FOS_TAKE_PASS)
        st.head = st.out.shown = st.at.off
    return 0


cdef int let_go(Core core, Attachment a, fos_lane *lane, uint32_t k, int dir) except -1:
    """Release what a stage holds in one direction, unchanged: what it was lent, not what came since."""
    cdef fos_way *way = &lane.way[dir]
    cdef fos_stage *st = &way.stages[k]
    cdef Decoding decoding
    cdef fos_stream *s
    cdef fos_unit *u
    cdef fos_at to
    cdef uint64_t end = 0
    to.off = st.seen_off
    to.skip = st.seen_skip
    if fos_at_before(st.at, to):
        go(core, a, way, k, to, FOS_TAKE_PASS)
    st.unit = max(st.unit, st.seen_unit)
    if st.unit and st.unit == st.seen_unit:   # the last unit may have been lent in part
        if a.lvl != LEVEL_DECODER:
            s = fos_half_of(core.c, lane.index, dir).stream
            u = fos_stream_unit(s, st.unit - 1) if s != NULL and st.unit > s.head_index else NULL
            end = u.off + u.len if u != NULL else 0
        else:
            decoding = decoding_of(core, lane.index)
            if reads(a, decoding) and decoding.native is not None:
                u = fos_stream_unit(&decoding.up[dir], st.unit - 1) if st.unit > decoding.up[dir].head_index else NULL
                end = u.end if u != NULL else 0
            elif reads(a, decoding) and st.unit > decoding.gone[dir]:
                end = decoding.made[dir][st.unit - 1 - decoding.gone[dir]].end
        if end > st.at.off:
            st.unit -= 1
    st.held_since = st.wake = 0
    st.wake_bytes = st.wake_units = 0
    st.head = st.out.shown = st.at.off
    lane.floor = max(lane.floor, core.c.now)
    core.c.counters.v[FOS_C_windows_hold_limit] += 1
    a.held += 1
    return 0


cdef bint pass_by(Core core, list serving, Attachment a, uint32_t index) except -1:
    """Let all that a stage may have pass it, lent or not: its module takes too long.  Did anything?"""
    cdef fos_lane *lane = fos_lane_of(core.c, index)
    cdef int k = stage_number(lane, a), dir
    cdef bint passed = False
    for dir in range(2):
        if k >= 0:
            passed |= pass_to(core, serving, a, lane, <uint32_t>k, dir, FOS_ALL)
    return passed


cdef bint pass_to(Core core, list serving, Attachment a, fos_lane *lane, uint32_t k, int dir, uint64_t most) except -1:
    """Let what a stage may have in one direction pass it, up to offset `most`.  Did anything?"""
    cdef fos_way *way = &lane.way[dir]
    cdef fos_stage *st = &way.stages[k]
    cdef fos_stream *s = fos_half_of(core.c, lane.index, dir).stream
    cdef fos_at limit
    cdef bint passed
    if s == NULL:
        return False
    limit = fos_stage_limit(way, k, s.tail_off, depends_on(serving, lane, a) if a.depends else 0)
    if most <= limit.off:
        limit.off = most
        limit.skip = 0
    passed = st.at.off < limit.off
    go(core, a, way, k, limit, FOS_TAKE_PASS)
    st.unit = st.seen_unit = unit_behind(core, a, lane.index, dir, st)
    st.seen_off = limit.off
    st.seen_skip = min(limit.skip, fos_inserted_at(fos_stage_input(way, k), limit.off))
    st.held_since = 0
    st.ended = limit.off >= s.tail_off and ends(core, lane.index, dir)
    st.head = st.out.shown = st.at.off
    if st.begins <= st.at.off:
        st.begins = 0
    return passed


cdef uint64_t unit_behind(Core core, Attachment a, uint32_t index, int dir, const fos_stage *st):
    """Number of the first unit of the attachment's level with bytes behind the place where its stage stands."""
    cdef Decoding decoding = None
    cdef fos_stream *s = fos_half_of(core.c, index, dir).stream
    cdef fos_unit *u
    cdef uint64_t i, last = units_end(core, a, index, dir)
    if a.lvl == LEVEL_DECODER:
        decoding = decoding_of(core, index)
        if not reads(a, decoding):
            return st.unit
        s = &decoding.up[dir]
    i = max(st.unit, units_start(core, a, index, dir) if decoding is not None else s.head_index)
    while i < last:
        if decoding is not None and decoding.native is None:
            if decoding.made[dir][i - decoding.gone[dir]].end > st.at.off:
                break
        else:
            u = fos_stream_unit(s, i)
            if (u.end if decoding is not None else u.off + u.len) > st.at.off:
                break
        i += 1
    return i


cdef int settle_gone(Core core, fos_lane *lane, uint32_t before) except -1:
    """Stages whose module was detached pass everything on; those below number `before`."""
    cdef uint32_t k
    cdef int dir
    cdef fos_stage *st
    cdef fos_stream *s
    for k in range(min(before, lane.stage_count)):
        if not lane.way[0].stages[k].flags & FOS_STAGE_GONE:
            continue
        for dir in range(2):
            st = &lane.way[dir].stages[k]
            s = fos_half_of(core.c, lane.index, dir).stream
            if s == NULL:
                continue
            go(core, None, &lane.way[dir], k, fos_stage_limit(&lane.way[dir], k, s.tail_off, 0), FOS_TAKE_PASS)
            st.head = st.out.shown = st.at.off
            st.unit = s.tail_index
    return 0


# ---- what nobody needs any more --------------------------------------------------------------------

cdef int forget(Core core, list serving, uint32_t index) except -1:
    """Free the units that every stage and the merger are done with."""
    cdef fos_lane *lane = fos_lane_of(core.c, index)
    cdef Decoding decoding = decoding_of(core, index)
    cdef Attachment a
    cdef fos_stage *st
    cdef fos_stream *s
    cdef fos_unit *u
    cdef uint64_t upto, least, least_up
    cdef int k, dir
    if lane != NULL and lane.owner == NULL:   # the merger made it, after every module had seen all
        prepare(core, serving, lane, FOS_MAX_STAGES)
    for dir in range(2):
        s = fos_half_of(core.c, index, dir).stream
        if s == NULL:
            continue
        if lane == NULL:
            upto = s.tail_index
            if decoding is not None:
                decoding.release(dir, FOS_ALL, upto)
            fos_stream_free_to(s, upto, &core.c.chunks)
            continue
        upto = lane.way[dir].next_unit if core.c.in_line else s.tail_index
        least = least_up = FOS_ALL
        for a in serving:
            k = stage_number(lane, a)
            if k < 0:
                continue
            st = &lane.way[dir].stages[k]
            least = min(least, st.at.off)
            if a.lvl == LEVEL_DECODER:
                if reads(a, decoding):
                    least_up = min(least_up, st.unit)
            elif st.unit < upto:
                upto = st.unit
        for k in range(<int>lane.stage_count):
            least = min(least, lane.way[dir].stages[k].at.off)
            if lane.way[dir].stages[k].serial == REFRAMER and not lane.way[dir].stages[k].flags & FOS_STAGE_GONE:
                least_up = min(least_up, lane.way[dir].stages[k].unit)
        while upto > s.head_index:            # what lies at or behind the least place stays
            u = fos_stream_unit(s, upto - 1)
            if u.off + u.len <= least:
                break
            upto -= 1
        if decoding is not None:
            decoding.release(dir, least_up, upto)
        fos_stream_free_to(s, upto, &core.c.chunks)
        if not core.c.stable:
            spill(core, s, decoding, dir)
    return 0


cdef int spill(Core core, fos_stream *s, Decoding decoding, int dir) except -1:
    """Copy the frames of units that stay to the heap, and point the units above at the copies."""
    cdef uint64_t i, j
    cdef fos_unit *u
    cdef fos_unit *v
    cdef fos_block *block
    for i in range(s.head_index, s.tail_index):
        u = fos_stream_unit(s, i)
        if u.flags & FOS_UNIT_OWNED or u.frame == NULL:
            continue
        block = fos_block_new(&core.c.blocks, u.captured)
        if block == NULL:
            raise LimitError("no memory for packets that are held")
        memcpy(&block.data[0], u.frame, u.captured)
        core.c.counters.v[FOS_C_bytes_copied] += u.captured
        if decoding is not None and decoding.native is not None:
            for j in range(decoding.up[dir].head_index, decoding.up[dir].tail_index):
                v = fos_stream_unit(&decoding.up[dir], j)
                if not v.flags & FOS_UNIT_OWNED and v.bytes != NULL and u.frame <= v.bytes < u.frame + u.captured:
                    v.bytes = &block.data[0] + (v.bytes - u.frame)
        u.frame = &block.data[0]
        u.flags |= FOS_UNIT_OWNED | FOS_UNIT_COPIED
    return 0
