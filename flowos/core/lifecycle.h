/* The life of a connection record: opening, ageing, expiry, eviction, closing.
 *
 *     open -> unanswered -> answered -> over          three lists by age: who is evicted first
 *       |         |            |          |
 *       '---------+----- wheel (time) ----+--> close -> off the table, on the list `closed`
 *                                                        -> last delivery -> free
 *
 * Every record is on one list by age and in one slot of the wheel while it is in the table.
 * Writer: the engine loop.
 */
#ifndef FOS_LIFECYCLE_H
#define FOS_LIFECYCLE_H

#include "keeping.h"
#include "sctp.h"
#include "translate.h"

/* ---- the ages of connections: who is evicted first ------------------------------------------- */

FOS_INLINE int fos_age_of(const fos_conn *c) {
    return c->flags & FOS_CONN_OVER ? FOS_AGE_OVER : c->flags & FOS_CONN_ANSWERED ? FOS_AGE_ANSWERED : FOS_AGE_UNANSWERED;
}

static void fos_age_enter(fos_core *core, uint32_t index) {
    fos_conn *c = &core->table.conns[index];
    struct fos_ages *list = &core->ages[fos_age_of(c)];
    c->age_next = 0;
    c->age_prev = list->last;
    if (list->last) core->table.conns[list->last].age_next = index;
    else list->first = index;
    list->last = index;
}

static void fos_age_leave(fos_core *core, uint32_t index) {
    fos_conn *c = &core->table.conns[index];
    struct fos_ages *list = &core->ages[fos_age_of(c)];
    if (c->age_prev) core->table.conns[c->age_prev].age_next = c->age_next;
    else list->first = c->age_next;
    if (c->age_next) core->table.conns[c->age_next].age_prev = c->age_prev;
    else list->last = c->age_prev;
}

FOS_NOINLINE void fos_age_move(fos_core *core, uint32_t index, uint8_t flag) {
    fos_age_leave(core, index);
    core->table.conns[index].flags |= flag;
    fos_age_enter(core, index);
}

/* ---- closing ------------------------------------------------------------------------------- */

static void fos_conn_free(fos_core *core, uint32_t index) {
    if (core->table.conns[index].flags & FOS_CONN_HALVES) {
        for (int dir = 0; dir < 2; dir++) {
            fos_half *h = fos_half_of(core, index, dir);
            fos_ooo_free(core, h);
            if (h->stream) {
                fos_stream_free_to(h->stream, h->stream->tail_index, &core->chunks);
                fos_pool_give(&core->streams, h->stream);
            }
            memset(h, 0, sizeof *h);
        }
    }
    if (FOS_UNLIKELY(core->lane_count) && fos_lane_of(core, index)) fos_lane_free(core, fos_lane_of(core, index));
    if (FOS_UNLIKELY(core->translations != NULL)) fos_translate_free(core, index);
    if (core->table.cold[index].fields) {
        fos_pool_give(&core->fields, core->table.cold[index].fields);
        core->table.cold[index].fields = NULL;
    }
    fos_table_release(&core->table, index);
}

/* End a connection: deliver what waits, take it off the table; the record goes once delivered. */
FOS_NOINLINE void fos_conn_close(fos_core *core, uint32_t index, int reason) {
    fos_conn *c = &core->table.conns[index];
    if (c->key.proto == FOS_PROTO_TCP) fos_tcp_finish(core, index, c);
    else if (c->key.proto == FOS_PROTO_SCTP) fos_sctp_finish(core, index, c);
    if ((reason == FOS_CLOSE_TIMEOUT || reason == FOS_CLOSE_EVICTED) && c->state == FOS_STATE_CLOSED) reason = FOS_CLOSE_FIN;
    else if ((reason == FOS_CLOSE_TIMEOUT || reason == FOS_CLOSE_EVICTED) && c->state == FOS_STATE_RESET) reason = FOS_CLOSE_RST;
    FOS_COUNT(&core->counters, connections_closed);
    if (reason == FOS_CLOSE_TIMEOUT) FOS_COUNT(&core->counters, connections_timed_out);
    else if (reason == FOS_CLOSE_EVICTED) FOS_COUNT(&core->counters, connections_evicted);
    else if (reason == FOS_CLOSE_REUSED) FOS_COUNT(&core->counters, connections_reused);
    c->reason = (uint8_t)reason;
    c->flags |= FOS_CONN_CLOSED;
    fos_wheel_leave(&core->wheel, &core->table, index);
    fos_age_leave(core, index);
    fos_table_remove(&core->table, index);
    fos_plan *plan = &core->plans[c->flow];
    if (plan->events || plan->rows || core->table.cold[index].handle || core->table.cold[index].decoding || (c->flags & FOS_CONN_READY) ||
        core->in_line) {                      /* the log may still name the record */
        if (fos_list_add(&core->closed, index)) core->failed = 1;
    } else fos_conn_free(core, index);
}

/* Make room: what is over, else the oldest without an answer, else an old one that has been quiet. */
FOS_NOINLINE void fos_conn_evict(fos_core *core) {
    uint32_t victim = core->ages[FOS_AGE_OVER].first;
    if (!victim) victim = core->ages[FOS_AGE_UNANSWERED].first;
    if (!victim) {
        victim = core->ages[FOS_AGE_ANSWERED].first;
        for (int tries = 0; tries < 16 && victim; tries++) {
            if (core->now - core->table.conns[victim].last_ns > 10 * FOS_SECOND) break;
            fos_age_leave(core, victim);
            fos_age_enter(core, victim);
            victim = core->ages[FOS_AGE_ANSWERED].first;
        }
    }
    if (victim) fos_conn_close(core, victim, FOS_CLOSE_EVICTED);
}

/* ---- expiry --------------------------------------------------------------------------------- */

FOS_INLINE int64_t fos_conn_timeout(const fos_core *core, const fos_conn *c) {
    if (FOS_UNLIKELY(fos_class_of(c->key.proto) == FOS_CLASS_ICMP)) return core->limits.icmp_timeout_ns;
    return core->limits.timeout_ns[c->state];
}

/* The connection's state has another time-out now: where it is shorter, the old slot would come up too late. */
FOS_NOINLINE void fos_conn_retime(fos_core *core, uint32_t index) {
    const fos_conn *c = &core->table.conns[index];
    fos_wheel_leave(&core->wheel, &core->table, index);
    fos_wheel_enter(&core->wheel, &core->table, index, c->last_ns + fos_conn_timeout(core, c));
}

/* Handle the slots of the wheel up to `now`. */
FOS_NOINLINE void fos_expire(fos_core *core, int64_t now) {
    fos_wheel *w = &core->wheel;
    int64_t tick = now / FOS_SECOND - (now % FOS_SECOND < 0);
    core->tick_ns = (tick + 1) * FOS_SECOND;
    if (!w->started || tick < w->now_tick) {          /* the first packet, or a clock set back */
        w->started = 1;
        w->now_tick = tick;
        return;
    }
    if (tick - w->now_tick > FOS_WHEEL_SLOTS) w->now_tick = tick - FOS_WHEEL_SLOTS;
    while (w->now_tick < tick) {
        w->now_tick++;
        uint32_t slot = (uint32_t)((uint64_t)w->now_tick % FOS_WHEEL_SLOTS);
        uint32_t index = w->first[slot];
        w->first[slot] = 0;
        while (index) {
            fos_conn *c = &core->table.conns[index];
            uint32_t next = c->wheel_next;
            if (next) core->table.conns[next].wheel_prev = 0x80000000u | slot;
            int64_t deadline = c->last_ns + fos_conn_timeout(core, c);
            int stays = now >= deadline && FOS_UNLIKELY(core->live) && fos_keep_lingers(core, index);
            if (stays) {                      /* its ends are asked, and again in a while */
                int64_t idle = deadline - c->last_ns;
                deadline = now + (idle < FOS_KEEP_PROBE_EVERY ? idle : FOS_KEEP_PROBE_EVERY);
            }
            fos_wheel_enter(w, &core->table, index, deadline);
            if (now >= deadline && !stays) fos_conn_close(core, index, FOS_CLOSE_TIMEOUT);
            index = next;
        }
    }
    fos_defrag_expire(&core->defrag, now);
}

/* ---- opening -------------------------------------------------------------------------------- */

FOS_NOINLINE uint32_t fos_conn_open(fos_core *core, const fos_pkt *p) {
    if (core->table.count >= core->limits.max_connections) fos_conn_evict(core);
    uint32_t index = fos_table_insert(&core->table, &p->key, p->hash);
    if (!index) { core->failed = 1; return FOS_NONE; }
    fos_conn *c = &core->table.conns[index];
    fos_cold *cold = &core->table.cold[index];
    cold->id = core->next_id++;
    cold->first_ns = c->last_ns = p->ts;
    c->depth = p->depth;
    FOS_COUNT(&core->counters, connections);
    /* Who opened: a SYN's sender, a SYN+ACK's receiver, else who spoke first. */
    int dir = p->dir;
    if (p->key.proto == FOS_PROTO_TCP) {
        if (p->tcp_flags & FOS_TCP_SYN) {
            if (p->tcp_flags & FOS_TCP_ACK) dir = !dir;
            else c->flags |= FOS_CONN_A_KNOWN;
        }
        c->state = FOS_STATE_NEW;
    } else c->state = FOS_STATE_ACTIVE;
    if (p->key.proto == FOS_PROTO_TCP || p->key.proto == FOS_PROTO_SCTP) {
        c->flags |= FOS_CONN_HALVES;
        fos_half_of(core, index, 0)->fin = fos_half_of(core, index, 1)->fin = FOS_NO_OFFSET;
    }
    uint64_t same = p->key.ver == 4 ? p->key.w[0] >> 32 == (p->key.w[0] & 0xffffffffu)
                                     : p->key.w[0] == p->key.w[2] && p->key.w[1] == p->key.w[3];
    if (same && p->key.ports >> 16 == (p->key.ports & 0xffff)) dir = p->dir;   /* both ends equal: all is a to b */
    if (dir) c->flags |= FOS_CONN_A_IS_HIGH;
    c->flow = core->classify ? core->classify(core->classifier, p, index) : 0;
    if (!c->flow) FOS_COUNT(&core->counters, connections_unmatched);
    fos_age_enter(core, index);
    fos_wheel_enter(&core->wheel, &core->table, index, p->ts + fos_conn_timeout(core, c));
    if (core->plans[c->flow].events && fos_list_add(&core->opened, index)) core->failed = 1;
    return index;
}

FOS_NOINLINE void fos_conn_vlans(fos_cold *c, uint64_t vlans) {
    if (!c->vlans) { c->vlans = vlans; return; }
    if (c->vlans == vlans) return;
    fos_vlans **at = &c->more_vlans;
    int n = 0;
    for (; *at; at = &(*at)->next, n++)
        if ((*at)->vlans == vlans) return;
    if (n >= 64) return;                      /* more stacks than that on one connection say nothing new */
    *at = calloc(1, sizeof(fos_vlans));
    if (*at) (*at)->vlans = vlans;
}

#endif
