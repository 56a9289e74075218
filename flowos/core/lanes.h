/* Making and ending lanes: where the pipeline's state of a connection begins (lane.h).
 *
 * Lanes come from a pool and stand on one list, so that attaching and detaching finds them.
 * Writer: the engine loop.
 */
#ifndef FOS_LANES_H
#define FOS_LANES_H

#include "bundle.h"

FOS_INLINE fos_lane *fos_lane_of(const fos_core *core, uint32_t index) { return core->table.lanes[index]; }

/* Original offset of the first byte that was not handed out before this delivery. */
static uint64_t fos_way_begin(const fos_core *core, uint32_t index, int dir) {
    const fos_conn *c = &core->table.conns[index];
    const fos_half *h = fos_half_of(core, index, dir);
    const fos_stream *s = h->stream;
    if (s) return s->head_index < s->tail_index ? s->first->units[s->head_index - s->first->base].off : s->tail_off;
    if (c->key.proto == FOS_PROTO_TCP) return h->flags & FOS_HALF_STARTED ? h->next : 0;
    return c->payload[dir];
}

/* Original offset behind all of a TCP direction that came ahead of earlier bytes; FOS_ALL: its FIN did; 0: nothing. */
static uint64_t fos_way_ahead(const fos_core *core, uint32_t index, int dir) {
    const fos_half *h = fos_half_of(core, index, dir);
    const fos_ooo *ooo = h->ooo;
    const fos_piece *first = ooo ? ooo->pieces.first : NULL;
    if (h->flags & FOS_HALF_STARTED) {
        if (h->fin != FOS_NO_OFFSET && !(h->flags & FOS_HALF_FIN_DONE)) return FOS_ALL;
        return first ? ooo->pieces.last->end : 0;
    }
    if (ooo && ooo->fin_piece != FOS_NO_OFFSET) return FOS_ALL;
    /* Where the stream begins is still open: no further in front of the first piece than it is waited for. */
    return first ? ooo->pieces.last->end - first->start + core->limits.pickup_bytes : 0;
}

/* A lane for a connection; the stages of its flow from number `from` on stand at the first unit held,
 * those before it behind the last.  NULL without memory. */
FOS_NOINLINE fos_lane *fos_lane_new(fos_core *core, uint32_t index, uint32_t from) {
    const fos_conn *c = &core->table.conns[index];
    const fos_plan *plan = &core->plans[c->flow];
    fos_lane *lane = fos_pool_take(&core->lane_pool);
    if (!lane) { core->failed = 1; return NULL; }
    memset(lane, 0, sizeof *lane);
    lane->index = index;
    lane->stage_count = plan->stage_count;
    for (int dir = 0; dir < 2; dir++) {
        fos_way *w = &lane->way[dir];
        const fos_stream *s = fos_half_of(core, index, dir)->stream;
        uint64_t begin = fos_way_begin(core, index, dir), tail = s ? s->tail_off : begin;
        w->next_unit = s ? s->head_index : 0;
        w->gone = begin;
        w->stages = calloc(plan->stage_count ? plan->stage_count : 1, sizeof(fos_stage));
        if (!w->stages) { core->failed = 1; return NULL; }
        for (uint32_t k = 0; k < plan->stage_count; k++) {
            fos_stage *st = &w->stages[k];
            st->serial = plan->stage[k].serial;
            st->flags = plan->stage[k].flags;
            st->order = plan->stage[k].order;
            if (st->flags & FOS_STAGE_WRITES) lane->writes = 1;
            st->head = st->at.off = st->seen_off = k < from ? tail : begin;
            st->unit = st->seen_unit = s ? k < from ? s->tail_index : s->head_index : 0;
            st->ended = k < from && fos_half_of(core, index, dir)->flags & FOS_HALF_FIN_DONE;
        }
    }
    if (core->live) lane->writes = 1;         /* what waits for earlier bytes is ours to send */
    for (int dir = 0; dir < 2; dir++) {
        const fos_half *h = fos_half_of(core, index, dir);
        lane->way[dir].passed = lane->writes ? 0 : FOS_ALL;
        lane->way[dir].mss = h->stream ? h->stream->mss : 0;
    }
    lane->all_next = core->all_lanes;
    if (core->all_lanes) core->all_lanes->all_prev = lane;
    core->all_lanes = lane;
    core->table.lanes[index] = lane;
    core->lane_count++;
    return lane;
}

static void fos_keep_free(fos_core *core, struct fos_keep *keep);

static void fos_lane_free(fos_core *core, fos_lane *lane) {
    for (int dir = 0; dir < 2; dir++) {
        fos_way *w = &lane->way[dir];
        for (uint32_t k = 0; k < lane->stage_count; k++) fos_edits_free(&w->stages[k].out, &core->blocks);
        free(w->stages);
        fos_keep_free(core, w->keep);
        fos_edits_free(&w->sent, &core->blocks);
        while (w->first) {
            fos_parked *p = w->first;
            w->first = p->next;
            fos_parked_free(core, p);
        }
        while (w->early) {
            fos_parked *p = w->early;
            w->early = p->next;
            fos_parked_free(core, p);
        }
    }
    if (lane->all_prev) lane->all_prev->all_next = lane->all_next;
    else core->all_lanes = lane->all_next;
    if (lane->all_next) lane->all_next->all_prev = lane->all_prev;
    core->table.lanes[lane->index] = NULL;
    core->lane_count--;
    fos_pool_give(&core->lane_pool, lane);
}

/* Is nothing of the connection held, edited or waiting, so that it might as well have no lane? */
static int fos_lane_idle(const fos_core *core, const fos_lane *lane) {
    if (lane->away || lane->touched) return 0;
    for (int dir = 0; dir < 2; dir++) {
        const fos_way *w = &lane->way[dir];
        const fos_half *h = fos_half_of(core, lane->index, dir);
        const fos_stream *s = h->stream;
        if (w->first || w->keep || h->ooo || w->sent.first < w->sent.end || w->sent.delta || (s && s->head_index < s->tail_index)) return 0;
        for (uint32_t k = 0; k < lane->stage_count; k++) {
            const fos_edits *e = &w->stages[k].out;
            if (e->first < e->end || e->delta) return 0;
        }
    }
    return 1;
}

/* See to it that the lane is looked after when the log was walked. */
FOS_INLINE void fos_lane_touch(fos_core *core, fos_lane *lane) {
    if (lane->touched) return;
    lane->touched = 1;
    lane->next = core->touched_lanes;
    core->touched_lanes = lane;
}

#endif
