/* The engine's loop over packets: bursts from the ring, connections, closing, expiry.
 *
 *     burst of frames -> parse, hash, prefetch slots -> prefetch records -> find or open -> process
 *
 * Two rounds of prefetching hide the two cache misses of a lookup among many connections
 * behind the other packets of the burst (measured: 45 ns a packet become 22 at a million).
 */
#ifndef FOS_LOOP_H
#define FOS_LOOP_H

#include "ring.h"
#include "sctp.h"

enum { FOS_FIELDS_ROOM = 128 };  /* bytes of a struct fos_fields (fields.h) */
enum { FOS_BURST = 64 };      /* packets in flight between the rounds: 64 x 128 B stay in the L1 cache */

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
    if (plan->events || plan->rows || core->table.cold[index].handle || core->table.cold[index].decoding || (c->flags & FOS_CONN_READY)) {
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
            fos_wheel_enter(w, &core->table, index, deadline);
            if (now >= deadline) fos_conn_close(core, index, FOS_CLOSE_TIMEOUT);
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

/* ---- packets that are not TCP --------------------------------------------------------------- */

/* The connection that an ICMP error quotes (RFC 792, RFC 4443 section 2.4). */
FOS_NOINLINE void fos_icmp_error(fos_core *core, const fos_pkt *p) {
    uint32_t off = p->l4 + 8, cap = p->payload + p->paycap;
    if (cap < off || cap - off < 28) { FOS_COUNT(&core->counters, icmp_errors_unknown); return; }
    fos_counters quiet = {{0}};               /* what is quoted is no packet of ours: it must not count */
    fos_parser parser = core->parser;
    parser.counters = &quiet;
    parser.tunnels = 0;
    parser.on_fragment = NULL;
    fos_pkt quoted[FOS_MAX_LAYERS];
    fos_scan s = {.parser = &parser, .frame = p->frame, .cap = cap, .wire = cap, .out = quoted, .link = p->link};
    /* Only the first eight bytes behind the quoted header need be there: ports are enough. */
    const uint8_t *h = p->frame + off;
    fos_ip ip = {.ver = h[0] >> 4};
    if (ip.ver == 4 && (h[0] & 15) >= 5 && cap - off >= (h[0] & 15) * 4u + 4) {
        ip.src = h + 12;
        ip.dst = h + 16;
        ip.proto = h[9];
        ip.l4 = off + (h[0] & 15) * 4u;
    } else if (ip.ver == 6 && cap - off >= 44) {
        ip.src = h + 8;
        ip.dst = h + 24;
        ip.proto = h[6];
        ip.l4 = off + 40;
    } else { FOS_COUNT(&core->counters, icmp_errors_unknown); return; }
    fos_pkt *q = fos_new_pkt(&s, off, ip.l4);
    int ports = ip.proto == FOS_PROTO_TCP || ip.proto == FOS_PROTO_UDP || ip.proto == FOS_PROTO_SCTP ||
                ip.proto == FOS_PROTO_UDPLITE;
    const uint8_t *t = p->frame + ip.l4;
    fos_finish_key(&s, q, &ip, ports ? fos_be16(t) : 0, ports ? fos_be16(t + 2) : 0);
    uint32_t index = fos_table_find(&core->table, &q->key, q->hash, q->hash & core->table.mask);
    if (index) {
        core->table.cold[index].icmp_errors++;
        FOS_COUNT(&core->counters, icmp_errors);
    } else FOS_COUNT(&core->counters, icmp_errors_unknown);
}

/* One datagram, one unit: UDP, ICMP and protocols that are not decoded. */
FOS_INLINE void fos_datagram_packet(fos_core *core, uint32_t index, fos_conn *c, uint32_t class, const fos_pkt *p) {
    fos_plan *plan = &core->plans[c->flow];
    uint64_t off = c->payload[p->dir];        /* bytes that a snap length cut off count: the offset jumps over them */
    c->payload[p->dir] = off + p->paylen;
    if (class == FOS_CLASS_ICMP) {
        int error = p->key.ver == 4 ? p->type == 3 || p->type == 4 || p->type == 5 || p->type == 11 || p->type == 12
                                    : p->type >= 1 && p->type <= 4;
        if (error) fos_icmp_error(core, p);
    }
    if (FOS_UNLIKELY(plan->packets)) return;  /* the packet was a unit already */
    if (plan->rows & class)
        fos_append_rows(core, plan, class, index, c, p->dir, FOS_UNIT_DATA, off, p->paycap, p->wire, p->ts, p->number);
    FOS_COUNT(&core->counters, units);
    if (plan->units & class) {
        fos_origin o = fos_origin_of(p);
        fos_append_unit(core, index, c, p->dir, FOS_UNIT_DATA, p->paycap < p->paylen ? FOS_UNIT_CUT : 0, off, p->paycap,
                        p->payload, &o);
    }
}

/* A flow whose modules all work on whole datagrams: each packet is a unit, in order of arrival.
 * Offsets count the bytes of the datagrams behind their IP headers. */
FOS_NOINLINE void fos_packet_unit(fos_core *core, uint32_t index, fos_conn *c, const fos_pkt *p) {
    fos_plan *plan = &core->plans[c->flow];
    uint32_t class = fos_class_of(p->key.proto), end = p->payload + p->paycap;
    if (end > p->captured) end = p->captured;   /* the snap length may end inside the transport header */
    uint32_t len = end > p->l4 ? end - p->l4 : 0;
    fos_origin o = fos_origin_of(p);
    fos_half *h = fos_half_of(core, index, p->dir);
    uint64_t off = h->stream ? h->stream->tail_off : 0;
    uint16_t flags = p->paycap < p->paylen ? FOS_UNIT_CUT : 0;
    if (plan->rows & class)
        fos_append_rows(core, plan, class, index, c, p->dir, FOS_UNIT_DATA, off, len, p->wire, p->ts, p->number);
    if (plan->units & class) fos_append_unit(core, index, c, p->dir, FOS_UNIT_DATA, flags, off, len, p->l4, &o);
}

/* ---- the packet ----------------------------------------------------------------------------- */

/* A SYN without ACK: another connection on the same ports, or news of who opened this one.  Returns
 * the connection's index, or FOS_NONE. */
FOS_NOINLINE uint32_t fos_packet_syn(fos_core *core, uint32_t index, const fos_pkt *p) {
    fos_conn *c = &core->table.conns[index];
    const fos_half *h = fos_half_of(core, index, p->dir);
    if ((h->flags & FOS_HALF_BASE) && h->base_seq != p->seq) {
        fos_conn_close(core, index, FOS_CLOSE_REUSED);
        return fos_conn_open(core, p);
    }
    if (!(c->flags & (FOS_CONN_A_KNOWN | FOS_CONN_ANNOUNCED))) {
        c->flags |= FOS_CONN_A_KNOWN;
        if (fos_user_dir(c, p->dir) && !fos_half_of(core, index, 0)->stream && !fos_half_of(core, index, 1)->stream)
            c->flags ^= FOS_CONN_A_IS_HIGH;
    }
    return index;
}

/* A packet whose transport header is damaged: counted, with the flags that can be read. */
FOS_NOINLINE void fos_packet_bad(fos_core *core, uint32_t index, const fos_pkt *p) {
    if (p->key.proto != FOS_PROTO_TCP) return;
    fos_half *h = fos_half_of(core, index, p->dir);
    if (!(h->flags & FOS_HALF_BASE)) {
        h->flags |= FOS_HALF_BASE;
        h->base_seq = p->tcp_flags & FOS_TCP_SYN ? p->seq : p->seq - 1;
    }
    if ((p->tcp_flags & FOS_TCP_SYN) && h->syn != 0xffff) h->syn++;
    if ((p->tcp_flags & FOS_TCP_FIN) && h->fin_count != 0xffff) h->fin_count++;
    if ((p->tcp_flags & FOS_TCP_RST) && h->rst != 0xffff) h->rst++;
}

/* The first packet of a direction. */
FOS_NOINLINE void fos_packet_first(fos_core *core, uint32_t index, fos_conn *c, const fos_pkt *p) {
    if (!c->packets[!p->dir]) return;
    if (!(c->flags & FOS_CONN_OVER)) fos_age_move(core, index, FOS_CONN_ANSWERED);
    if (c->state == FOS_STATE_ACTIVE) c->state = FOS_STATE_ANSWERED;
}

FOS_INLINE void fos_packet(fos_core *core, const fos_pkt *p) {
    uint32_t index = p->conn;                 /* the guess of the prefetching round */
    fos_conn *c = &core->table.conns[index];
    if (FOS_UNLIKELY(!index || !fos_key_equal(&c->key, &p->key) || (c->flags & FOS_CONN_CLOSED))) {
        index = fos_table_find(&core->table, &p->key, p->hash, p->hash & core->table.mask);
        if (!index && !(index = fos_conn_open(core, p))) return;
        c = &core->table.conns[index];
    }
    int dir = p->dir;
    uint8_t proto = p->key.proto;
    if (FOS_UNLIKELY((p->tcp_flags & (FOS_TCP_SYN | FOS_TCP_ACK)) == FOS_TCP_SYN) && proto == FOS_PROTO_TCP) {
        index = fos_packet_syn(core, index, p);
        if (!index) return;
        c = &core->table.conns[index];
    }
    c->last_ns = p->ts;
    if (FOS_UNLIKELY(!c->packets[dir])) fos_packet_first(core, index, c, p);
    c->packets[dir]++;
    c->bytes[dir] += p->wire;
    if (FOS_UNLIKELY((p->vlans | (p->flags & FOS_PKT_BAD)) != 0)) {
        if (p->vlans) fos_conn_vlans(&core->table.cold[index], p->vlans);
        if (p->flags & FOS_PKT_BAD) {
            fos_packet_bad(core, index, p);
            return;
        }
    }
    if (FOS_UNLIKELY(core->packet_units) && core->plans[c->flow].packets) fos_packet_unit(core, index, c, p);
    if (FOS_LIKELY(proto == FOS_PROTO_UDP)) {
        fos_datagram_packet(core, index, c, FOS_CLASS_UDP, p);
    } else if (FOS_LIKELY(proto == FOS_PROTO_TCP)) {
        c->payload[dir] += p->paylen;
        fos_tcp_packet(core, index, c, p);
        if (FOS_UNLIKELY(c->state == FOS_STATE_CLOSED || c->state == FOS_STATE_RESET) && !(c->flags & FOS_CONN_OVER))
            fos_age_move(core, index, FOS_CONN_OVER);
    } else if (proto == FOS_PROTO_SCTP) {
        fos_sctp_packet(core, index, c, p);
    } else {
        fos_datagram_packet(core, index, c, fos_class_of(proto), p);
    }
}

FOS_NOINLINE void fos_note_link(fos_core *core, uint16_t link) {
    for (uint32_t i = 0; i < core->link_count; i++)
        if (core->links[i] == link) return;
    if (core->link_count < FOS_MAX_LINKS) core->links[core->link_count++] = link;
}

/* Take `n` slots of the ring, from `from`, through the core. */
static void fos_burst(fos_core *core, const fos_ring *ring, uint32_t from, uint32_t n) {
    fos_pkt pkts[FOS_BURST + FOS_MAX_LAYERS];
    uint64_t bytes = 0;
    uint32_t i = 0, link = 0xffffffff;
    if (!n) return;
    if (!core->packet_number) core->first_ns = fos_ring_slot(ring, from)->ts;
    core->last_ns = fos_ring_slot(ring, from + n - 1)->ts;
    while (i < n) {
        int count = 0;
        for (; i < n && count < FOS_BURST; i++) {
            const fos_slot *s = fos_ring_slot(ring, from + i);
            if (FOS_LIKELY(s->ts > core->now) || FOS_UNLIKELY(s->ts < core->now - 3600 * FOS_SECOND)) {
                if (FOS_UNLIKELY(s->ts >= core->tick_ns || s->ts < core->now)) {
                    if (count) break;             /* what came before this second is processed before it begins */
                    fos_expire(core, s->ts);
                }
                core->now = s->ts;
            }
            bytes += s->wire;
            if (FOS_UNLIKELY(s->link != link)) fos_note_link(core, (uint16_t)(link = s->link));
            if (FOS_UNLIKELY(s->len < s->wire)) FOS_COUNT(&core->counters, truncated);
            uint64_t number = ++core->packet_number;
            if (FOS_LIKELY(fos_parse_fast(&core->parser, s->ptr, s->len, s->wire, s->link, s->ts, number, s->iface,
                                          pkts + count))) {
                __builtin_prefetch(&core->table.slots[pkts[count].hash & core->table.mask]);
                count++;
                continue;
            }
            int m = fos_parse_frame(&core->parser, s->ptr, s->len, s->wire, s->link, s->ts, number, s->iface,
                                    pkts + count);
            for (int k = 0; k < m; k++)
                __builtin_prefetch(&core->table.slots[pkts[count + k].hash & core->table.mask]);
            count += m;
        }
        for (int k = 0; k < count; k++) {
            uint32_t index = core->table.slots[fos_table_probe(&core->table, pkts[k].hash)].conn;
            pkts[k].conn = index;
            const char *record = (const char *)&core->table.conns[index];
            __builtin_prefetch(record, 1);
            __builtin_prefetch(record + 64, 1);
            if (pkts[k].key.proto == FOS_PROTO_TCP) {
                const char *halves = (const char *)fos_half_of(core, index, 0);
                __builtin_prefetch(halves, 1);
                __builtin_prefetch(halves + 64, 1);
            }
        }
        for (int k = 0; k < count; k++) fos_packet(core, &pkts[k]);
        fos_defrag_sweep(&core->defrag);
    }
    FOS_COUNT_N(&core->counters, packets, n);
    FOS_COUNT_N(&core->counters, bytes, bytes);
    for (uint32_t f = 0; f < core->plan_count; f++)
        for (uint32_t j = 0; j < core->plans[f].journals; j++)
            if (core->plans[f].journal[j].count > core->rows_pending) core->rows_pending = core->plans[f].journal[j].count;
}

/* ---- making and ending the core --------------------------------------------------------------- */

static int fos_core_on_fragment(void *core, const fos_fragment *f, fos_datagram *out) {
    return fos_defrag_add(&((fos_core *)core)->defrag, f, out);
}

/* Set up a zeroed core whose limits, policies and hash keys are filled in; -1 without memory. */
static int fos_core_init(fos_core *core) {
    /* Records closed in this batch are still held while new ones open: room for a batch of them. */
    if (fos_table_init(&core->table, core->limits.max_connections + 16384)) return -1;
    fos_pool_init(&core->chunks, sizeof(fos_chunk), &core->blocks);
    fos_pool_init(&core->streams, sizeof(fos_stream), &core->blocks);
    fos_pool_init(&core->pieces, sizeof(fos_piece), &core->blocks);
    fos_pool_init(&core->ooos, sizeof(fos_ooo), &core->blocks);
    fos_pool_init(&core->fields, FOS_FIELDS_ROOM, &core->blocks);
    fos_pool_init(&core->defrag.entries, sizeof(fos_defrag_entry), &core->blocks);
    fos_pool_init(&core->defrag.pieces, sizeof(fos_piece), &core->blocks);
    core->defrag.counters = &core->counters;
    core->parser.counters = &core->counters;
    core->parser.defrag = core;
    core->parser.on_fragment = fos_core_on_fragment;
    core->plans = calloc(1, sizeof(fos_plan));
    core->plan_count = 1;
    core->now = core->tick_ns = INT64_MIN / 2;
    return core->plans ? 0 : -1;
}

/* One more flow; -1 without memory. */
FOS_UNUSED static int fos_core_add_plan(fos_core *core) {
    fos_plan *plans = realloc(core->plans, (core->plan_count + 1) * sizeof *plans);
    if (!plans) return -1;
    memset(&plans[core->plan_count], 0, sizeof *plans);
    core->plans = plans;
    core->plan_count++;
    return 0;
}

static void fos_core_destroy(fos_core *core) {
    for (uint32_t i = 1; i <= core->table.used; i++) {
        if (core->table.conns[i].flags & FOS_CONN_HALVES)
            for (int dir = 0; dir < 2; dir++) {
                fos_half *h = fos_half_of(core, i, dir);
                fos_ooo_free(core, h);
                if (h->stream) fos_stream_free_to(h->stream, h->stream->tail_index, &core->chunks);
            }
        fos_vlans_free(&core->table.cold[i]);
    }
    fos_defrag_destroy(&core->defrag);
    for (uint32_t i = 0; i < core->plan_count; i++)
        for (uint32_t j = 0; j < core->plans[i].journals; j++) free(core->plans[i].journal[j].rows);
    free(core->plans);
    free(core->opened.items);
    free(core->closed.items);
    fos_pool_destroy(&core->chunks);
    fos_pool_destroy(&core->streams);
    fos_pool_destroy(&core->pieces);
    fos_pool_destroy(&core->ooos);
    fos_pool_destroy(&core->fields);
    fos_table_destroy(&core->table);
    fos_blocks_destroy(&core->blocks);
}

/* Close every connection, oldest record first: the input is at its end. */
static void fos_core_end(fos_core *core) {
    for (uint32_t i = 1; i <= core->table.used; i++) {
        fos_conn *c = &core->table.conns[i];
        if (c->wheel_prev) fos_conn_close(core, i, FOS_CLOSE_END);
    }
    while (core->defrag.oldest[0] || core->defrag.oldest[1])
        for (int v = 0; v < 2; v++)
            if (core->defrag.oldest[v]) {
                if (!core->defrag.oldest[v]->poisoned) FOS_COUNT(&core->counters, ip_fragments_timed_out);
                fos_defrag_forget(&core->defrag, core->defrag.oldest[v]);
            }
}

static int fos_core_check(const fos_core *core) {
    int broken = fos_table_check(&core->table);
    if (broken) return broken;
    broken = fos_defrag_check(&core->defrag);
    if (broken) return 10 + broken;
    uint64_t waiting = 0;
    for (uint32_t i = 1; i <= core->table.used; i++)
        for (int dir = 0; dir < 2; dir++) {
            const fos_half *h = fos_half_of(core, i, dir);
            if (h->stream && (broken = fos_stream_check(h->stream))) return 20 + broken;
            if (!h->ooo) continue;
            if ((broken = fos_pieces_check(&h->ooo->pieces))) return 30 + broken;
            waiting += h->ooo->pieces.bytes;
        }
    return waiting == core->waiting_bytes ? 0 : 40;
}

#endif
