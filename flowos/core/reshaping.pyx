"""Modules that come and go while connections are under way: their lanes are brought in line with the plan.

    merger      later stages        new stage            earlier stages
      |--gone-----|--seen------------|> begins here, at a unit's border ...

What went becomes a stage without a module: it lets go of what was held, and stays until its edits have
left.  What comes begins behind all that any later stage, or the merger, may have seen
(docs/in-line.md).  Where nobody wrote, that is also what came ahead of earlier bytes: it left on arrival, with the
numbers that it had.  Called by the engine between deliveries.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memmove, memset

from flowos.core.attachment cimport Attachment
from flowos.core.core cimport *
from flowos.core.lane cimport *
from flowos.core.lending cimport settle_gone, units_end
from flowos.core.merge cimport fos_lane_touch, fos_way_ahead
from flowos.core.state cimport Core
from flowos.core.unit cimport *
from flowos.core.window cimport LEVEL_DECODER

from flowos.core.errors import LimitError

cdef uint64_t REFRAMER = 0xffffffffffffffff   # the serial of the stage that keeps messages valid


cdef int reshape(Core core, list serving, fos_lane *lane) except -1:
    """Bring a lane's stages in line with its flow's plan: what comes begins, what went lets go (invariant 7)."""
    cdef fos_plan *plan = &core.c.plans[core.c.table.conns[lane.index].flow]
    cdef uint32_t i, k, n
    cdef bint found
    cdef int dir
    k = 0
    while k < lane.stage_count:
        found = False
        for i in range(plan.stage_count):
            found = found or plan.stage[i].serial == lane.way[0].stages[k].serial
        if not found:
            for dir in range(2):
                lane.way[dir].stages[k].flags |= FOS_STAGE_GONE
                lane.way[dir].stages[k].held_since = 0
            settle_gone(core, lane, k + 1)
            if spent(core, lane, k):
                remove_stage(core, lane, k)
                continue
        k += 1
    for i in range(plan.stage_count):
        found = False
        n = 0
        for k in range(lane.stage_count):
            found = found or lane.way[0].stages[k].serial == plan.stage[i].serial
            if lane.way[0].stages[k].order <= plan.stage[i].order:
                n = k + 1
        # Messages are reframed from their connection's beginning, or not at all.
        if not found and plan.stage[i].serial != REFRAMER:
            insert_stage(core, serving, lane, n, plan, i)
    fos_lane_touch(core.c, lane)
    fos_make_ready(core.c, lane.index, &core.c.table.conns[lane.index])
    return 0


cdef bint spent(Core core, fos_lane *lane, uint32_t k) noexcept:
    """Has a stage whose module is gone let go of all that it had, its edits included?"""
    cdef fos_stream *s
    cdef int dir
    for dir in range(2):
        s = fos_half_of(core.c, lane.index, dir).stream
        if fos_edits_count(&lane.way[dir].stages[k].out) or (s != NULL and lane.way[dir].stages[k].at.off < s.tail_off):
            return False
    return True


cdef int remove_stage(Core core, fos_lane *lane, uint32_t k) except -1:
    cdef int dir
    for dir in range(2):
        fos_edits_free(&lane.way[dir].stages[k].out, &core.c.blocks)
        memmove(&lane.way[dir].stages[k], &lane.way[dir].stages[k + 1], (lane.stage_count - k - 1) * sizeof(fos_stage))
    lane.stage_count -= 1
    return 0


cdef int insert_stage(Core core, list serving, fos_lane *lane, uint32_t k, fos_plan *plan, uint32_t number) except -1:
    """A module came: its stage begins behind all that a later stage, or the merger, may have seen, at a border of units."""
    cdef fos_way *way
    cdef fos_stage *st
    cdef fos_stage *grown
    cdef fos_stream *s
    cdef fos_unit *u
    cdef const fos_edits *given
    cdef const fos_edit *e
    cdef fos_at begin, tail
    cdef Attachment a, b = None
    cdef uint64_t i, end
    cdef uint32_t j
    cdef int dir
    for a in serving:
        if a.serial == plan.stage[number].serial:
            b = a
    first_writer = plan.stage[number].flags & FOS_STAGE_WRITES and (
        not any([lane.way[0].stages[j].flags & FOS_STAGE_WRITES for j in range(lane.stage_count)]) if core.c.live else not lane.writes)
    for dir in range(2):
        way = &lane.way[dir]
        s = fos_half_of(core.c, lane.index, dir).stream
        end = s.tail_off if s != NULL else way.gone
        begin.off = min(fos_way_limit(way, lane.stage_count), end)
        begin.skip = FOS_ALL
        for j in range(k, lane.stage_count):  # as far as later stages may have seen
            tail = fos_stage_limit(way, j, end, 0)
            if fos_at_before(begin, tail):
                begin = tail
        given = fos_stage_input(way, k)
        if given != NULL:                     # not in the middle of what an edit takes away
            for j in range(given.first, given.end):
                if given.items[j].pos < begin.off < given.items[j].pos + given.items[j].removed:
                    begin.off = given.items[j].pos + given.items[j].removed
        for i in range(s.head_index if s != NULL else 0, s.tail_index if s != NULL else 0):
            u = fos_stream_unit(s, i)
            if u.off < begin.off < u.off + u.len:
                begin.off = u.off + u.len
        grown = <fos_stage *>realloc(way.stages, (lane.stage_count + 1) * sizeof(fos_stage))
        if grown == NULL:
            raise LimitError("no memory for a module that was attached to a connection under way")
        way.stages = grown
        memmove(&grown[k + 1], &grown[k], (lane.stage_count - k) * sizeof(fos_stage))
        st = &grown[k]
        memset(st, 0, sizeof(fos_stage))
        st.serial = plan.stage[number].serial
        st.flags = plan.stage[number].flags
        st.order = plan.stage[number].order
        given = fos_stage_input(way, k)
        begin.skip = 0
        if given != NULL:                     # what was inserted there goes with what is before it
            if given.first < given.end:
                st.out.delta = given.items[given.first].delta
            else:
                st.out.delta = given.delta
            for j in range(given.first, given.end):
                e = &given.items[j]
                if e.pos > begin.off or (e.pos == begin.off and e.removed):
                    break
                if e.pos == begin.off:
                    begin.skip += e.inserted
                if st.flags & FOS_STAGE_WRITES and fos_edits_share(&st.out, e.pos, e.removed, e):
                    raise LimitError("no memory for the edits of a connection")
        st.at = begin
        st.head = st.seen_off = st.out.shown = begin.off
        st.unit = 0
        if s != NULL:
            st.unit = s.tail_index
            for i in range(s.head_index, s.tail_index):
                u = fos_stream_unit(s, i)
                if u.off >= begin.off:
                    st.unit = i
                    break
        if b is not None and b.lvl == LEVEL_DECODER:
            st.unit = units_end(core, b, lane.index, dir)
        st.seen_unit = st.unit
        if first_writer and core.c.table.conns[lane.index].key.proto == 6 and core.c.table.conns[lane.index].flags & FOS_CONN_HALVES:
            st.begins = fos_way_ahead(core.c, lane.index, dir)
            if not core.c.live:
                way.passed = core.c.packet_number
    lane.stage_count += 1
    if plan.stage[number].flags & FOS_STAGE_WRITES:
        lane.writes = 1
    return 0
