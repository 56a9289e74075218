/* The engine's loop over packets: bursts from the ring, through parser and table, to the protocols.
 *
 *     burst of frames -> parse, hash, prefetch slots -> prefetch records -> find or open -> process
 *
 * Two rounds of prefetching hide the two cache misses of a lookup among many connections
 * behind the other packets of the burst (measured: 45 ns a packet become 22 at a million).  The file is long
 * because what happens to a packet between the two is one path, inlined as a whole.
 */
#ifndef FOS_LOOP_H
#define FOS_LOOP_H

#include "lifecycle.h"
#include "ring.h"

enum { FOS_FIELDS_ROOM = 128 };  /* bytes of a struct fos_fields (fields.h) */
enum { FOS_BURST = 64 };      /* packets in flight between the rounds: 64 x 128 B stay in the L1 cache */

/* The connection between the ends that an IP header names, and its first four bytes behind it where these are
 * ports; FOS_NONE: there is none.  *dir is the direction of that packet. */
static uint32_t fos_find_by_header(const fos_core *core, const fos_ip *ip, const uint8_t *transport, int *dir) {
    fos_scan s = {.parser = &core->parser};
    fos_pkt p = {.key.zone = 0};
    int ports = ip->proto == FOS_PROTO_TCP || ip->proto == FOS_PROTO_UDP || ip->proto == FOS_PROTO_SCTP || ip->proto == FOS_PROTO_UDPLITE;
    fos_finish_key(&s, &p, ip, ports ? fos_be16(transport) : 0, ports ? fos_be16(transport + 2) : 0);
    if (core->translations) fos_alias_resolve((fos_core *)core, &p);
    *dir = p.dir;
    return fos_table_find(&core->table, &p.key, p.hash, p.hash & core->table.mask);
}

/* ---- packets that are not TCP --------------------------------------------------------------- */

/* The connection that an ICMP error quotes (RFC 792, RFC 4443 section 2.4). */
FOS_NOINLINE void fos_icmp_error(fos_core *core, const fos_pkt *p) {
    uint32_t off = p->l4 + 8, cap = p->payload + p->paycap;
    if (cap < off || cap - off < 28) { FOS_COUNT(&core->counters, icmp_errors_unknown); return; }
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
    int dir;
    uint32_t index = fos_find_by_header(core, &ip, p->frame + ip.l4, &dir);
    if (index) {
        core->table.cold[index].icmp_errors++;
        core->quoted = index;
        core->quoted_dir = (uint32_t)dir;
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
    if (fos_wants_units(plan, c, class)) {
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
    if (fos_wants_units(plan, c, class)) fos_append_unit(core, index, c, p->dir, FOS_UNIT_DATA, flags, off, len, p->l4, &o);
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
    if (c->state == FOS_STATE_ACTIVE) {
        c->state = FOS_STATE_ANSWERED;
        fos_conn_retime(core, index);
    }
}

/* After a packet that may have ended the connection, or half of it. */
FOS_NOINLINE void fos_packet_end(fos_core *core, uint32_t index, const fos_conn *c) {
    if ((c->state == FOS_STATE_CLOSED || c->state == FOS_STATE_RESET) && !(c->flags & FOS_CONN_OVER))
        fos_age_move(core, index, FOS_CONN_OVER);
    fos_conn_retime(core, index);
}

/* Process one packet; returns its connection's index, or FOS_NONE. */
FOS_INLINE uint32_t fos_packet(fos_core *core, const fos_pkt *p) {
    uint32_t index = p->conn;                 /* the guess of the prefetching round */
    fos_conn *c = &core->table.conns[index];
    if (FOS_UNLIKELY(!index || !fos_key_equal(&c->key, &p->key) || (c->flags & FOS_CONN_CLOSED))) {
        index = fos_table_find(&core->table, &p->key, p->hash, p->hash & core->table.mask);
        if (!index && !(index = fos_conn_open(core, p))) return FOS_NONE;
        c = &core->table.conns[index];
    }
    int dir = p->dir;
    uint8_t proto = p->key.proto;
    if (FOS_UNLIKELY((p->tcp_flags & (FOS_TCP_SYN | FOS_TCP_ACK | FOS_TCP_RST)) == FOS_TCP_SYN) && proto == FOS_PROTO_TCP) {
        index = fos_packet_syn(core, index, p);
        if (!index) return FOS_NONE;
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
            return index;
        }
    }
    if (FOS_UNLIKELY(core->packet_units) && core->plans[c->flow].packets) fos_packet_unit(core, index, c, p);
    if (FOS_LIKELY(proto == FOS_PROTO_UDP)) {
        fos_datagram_packet(core, index, c, FOS_CLASS_UDP, p);
    } else if (FOS_LIKELY(proto == FOS_PROTO_TCP)) {
        uint8_t state = c->state;
        c->payload[dir] += p->paylen;
        fos_tcp_packet(core, index, c, p);
        if (FOS_UNLIKELY(c->state != state) && core->limits.timeout_ns[c->state] < core->limits.timeout_ns[state]) fos_conn_retime(core, index);
        if (FOS_UNLIKELY(p->tcp_flags & (FOS_TCP_FIN | FOS_TCP_RST))) fos_packet_end(core, index, c);
    } else if (proto == FOS_PROTO_SCTP) {
        fos_sctp_packet(core, index, c, p);
        if (c->state == FOS_STATE_CLOSED || c->state == FOS_STATE_RESET) fos_packet_end(core, index, c);
    } else {
        fos_datagram_packet(core, index, c, fos_class_of(proto), p);
    }
    return index;
}

/* In line: note what the packet is to its connection, for the merger. */
FOS_NOINLINE void fos_packet_in_line(fos_core *core, const fos_pkt *p) {
    uint32_t units = core->units_pending;
    uint64_t waited = core->waited;
    core->refused = core->quoted = 0;
    uint32_t index = fos_packet(core, p);
    fos_transit *t = &core->log.items[p->log - 1];
    if (!index) return;
    const fos_conn *c = &core->table.conns[index];
    const fos_plan *plan = &core->plans[c->flow];
    t->conn = index;
    t->dir = p->dir;
    t->l3 = p->l3;
    t->l4 = p->l4;
    t->payload = p->payload;
    t->paylen = p->paylen;
    t->tcp_flags = p->tcp_flags;
    t->refused = (uint8_t)core->refused;
    if (FOS_UNLIKELY(core->quoted && core->live) && fos_has_lane(core, core->quoted) && !(plan->units & FOS_CLASS_ICMP)) {
        t->conn = core->quoted;               /* an error about a connection that is kept: its lane knows what it means */
        t->dir = (uint8_t)!core->quoted_dir;
        t->refused = 1;
        return;
    }
    if (FOS_UNLIKELY(p->tcp_flags & FOS_TCP_RST) && core->live && !t->refused && p->key.proto == FOS_PROTO_TCP && fos_has_lane(core, index)) {
        core->table.lanes[index]->reset = 1;
        fos_make_ready(core, index, &core->table.conns[index]);
    }
    const fos_half *h = fos_half_of(core, index, p->dir), *other = fos_half_of(core, index, !p->dir);
    const fos_stream *s = h->stream;
    for (uint64_t i = s ? s->tail_index : 0, n = s ? core->units_pending - units : 0; n && i > s->head_index; n--) {
        const fos_unit *u = fos_stream_last(s, --i);
        if (!u) u = fos_stream_unit(s, i);
        if (!u || u->packet != p->number || u->kind == FOS_UNIT_GAP) continue;
        if (u->kind == FOS_UNIT_FIN && !(p->tcp_flags & FOS_TCP_FIN)) continue;   /* it came before: this packet's time closed the hole */
        t->flags |= FOS_TRANSIT_DATA;
        break;
    }
    if (p->key.proto != FOS_PROTO_TCP || plan->packets || (p->flags & FOS_PKT_BAD)) return;
    t->flags |= FOS_TRANSIT_TCP;
    int fin = (p->tcp_flags & (FOS_TCP_FIN | FOS_TCP_RST)) == FOS_TCP_FIN;
    if (h->flags & FOS_HALF_STARTED) {
        t->off = fos_unwrap(h, p->seq);
        t->flags |= FOS_TRANSIT_OFF;
    }
    /* What waits already is not awaited twice: a repetition is a packet of its own; so is a FIN without payload. */
    if (!(t->flags & FOS_TRANSIT_DATA) && p->paylen && core->waited != waited &&
        (fos_wants_units(plan, &core->table.conns[index], FOS_CLASS_TCP) || fos_has_lane(core, index)) &&
        (h->flags & FOS_HALF_PICKUP || (t->flags & FOS_TRANSIT_OFF && t->off + p->paylen + fin > (int64_t)h->next + !!(h->flags & FOS_HALF_FIN_DONE))))
        t->flags |= FOS_TRANSIT_AHEAD;
    if ((p->tcp_flags & FOS_TCP_ACK) && (other->flags & FOS_HALF_STARTED)) t->flags |= FOS_TRANSIT_ACK;
    if (fin && !p->paylen && !(t->flags & FOS_TRANSIT_DATA) && !(h->flags & FOS_HALF_FIN_DONE)) t->flags |= FOS_TRANSIT_END;
}

FOS_NOINLINE void fos_note_link(fos_core *core, uint16_t link) {
    for (uint32_t i = 0; i < core->link_count; i++)
        if (core->links[i] == link) return;
    if (core->link_count < FOS_MAX_LINKS) core->links[core->link_count++] = link;
}

/* An entry in the log for a frame that just came. */
FOS_NOINLINE void fos_burst_log(fos_core *core, const fos_slot *s, uint64_t number) {
    fos_transit *t = fos_log_add(&core->log);
    if (!t) { core->failed = 1; core->in_line = 0; return; }
    memset(t, 0, sizeof *t);
    t->frame = s->ptr;
    t->ts = s->ts;
    t->number = number;
    t->wire = s->wire;
    t->captured = s->len;
    t->link = s->link;
    t->iface = (uint16_t)(s->iface + core->iface_base);
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
                    core->now = s->ts;
                    fos_expire(core, s->ts);
                }
                core->now = s->ts;
            }
            bytes += s->wire;
            if (FOS_UNLIKELY(s->link != link)) fos_note_link(core, (uint16_t)(link = s->link));
            if (FOS_UNLIKELY(s->len < s->wire)) FOS_COUNT(&core->counters, truncated);
            uint64_t number = ++core->packet_number;
            if (FOS_UNLIKELY(core->in_line)) fos_burst_log(core, s, number);
            if (FOS_LIKELY(fos_parse_fast(&core->parser, s->ptr, s->len, s->wire, s->link, s->ts, number, (uint16_t)(s->iface + core->iface_base),
                                          pkts + count))) {
                if (FOS_UNLIKELY(core->in_line)) pkts[count].log = core->log.count;
                __builtin_prefetch(&core->table.slots[pkts[count].hash & core->table.mask]);
                count++;
                continue;
            }
            int m = fos_parse_frame(&core->parser, s->ptr, s->len, s->wire, s->link, s->ts, number, (uint16_t)(s->iface + core->iface_base),
                                    pkts + count);
            for (int k = 0; k < m; k++) {
                /* A frame that holds several packets leaves as it came: only single ones are followed out. */
                pkts[count + k].log = m == 1 && core->in_line ? core->log.count : 0;
                __builtin_prefetch(&core->table.slots[pkts[count + k].hash & core->table.mask]);
            }
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
        if (FOS_LIKELY(!core->in_line))
            for (int k = 0; k < count; k++) fos_packet(core, &pkts[k]);
        else
            for (int k = 0; k < count; k++)
                if (pkts[k].log && pkts[k].depth == 1) {
                    if (FOS_UNLIKELY(core->translations != NULL)) fos_alias_resolve(core, &pkts[k]);
                    fos_packet_in_line(core, &pkts[k]);
                } else core->table.conns[fos_packet(core, &pkts[k])].depth |= FOS_DEPTH_SHARED;
        fos_defrag_sweep(&core->defrag);
    }
    FOS_COUNT_N(&core->counters, packets, n);
    FOS_COUNT_N(&core->counters, bytes, bytes);
    for (uint32_t f = 0; f < core->plan_count; f++)
        for (uint32_t j = 0; j < core->plans[f].journals; j++)
            if (core->plans[f].journal[j].count > core->rows_pending) core->rows_pending = core->plans[f].journal[j].count;
}

/* ---- fragments in line ------------------------------------------------------------------------ */

/* Must a fragment wait for its datagram?  Where some module may edit what it may be of, until its first fragment says
 * that its flow is another's: that is told in `passes`. */
static int fos_fragment_waits(const fos_core *core, fos_fragment *f) {
    uint32_t class = fos_class_of(f->proto);
    if (f->ver == 6 && class == FOS_CLASS_OTHER) class = FOS_CLASS_ALL;      /* more headers may follow */
    int written = (core->writes & class) != 0 || core->translations;
    if (!written && !(core->live && core->lane_count)) return 0;
    if (f->offset || f->captured < 4) return 1;
    const uint8_t *h = f->frame + f->l3;
    fos_ip ip = {.src = h + (f->ver == 4 ? 12 : 8), .dst = h + (f->ver == 4 ? 16 : 24), .ver = f->ver, .proto = f->proto};
    int dir;
    uint32_t index = class == FOS_CLASS_ALL ? FOS_NONE : fos_find_by_header(core, &ip, f->frame + f->data, &dir);
    if (!index) return 1;
    const fos_lane *lane = fos_lane_of(core, index);
    if (core->plans[core->table.conns[index].flow].writes & class || (lane && lane->writes) || fos_translation_of(core, index)) return 1;
    f->passes = 1;
    return 0;
}

/* The parser found a fragment.  1: it completed a datagram, *out. */
static int fos_core_on_fragment(void *owner, const fos_fragment *fragment, fos_datagram *out) {
    fos_core *core = owner;
    if (FOS_LIKELY(!core->in_line) || !fragment->outer || !core->log.count) return fos_defrag_add(&core->defrag, fragment, out);
    fos_fragment f = *fragment;
    uint32_t at = core->log.count - 1;        /* its frame's entry; what is let go meanwhile is logged behind it, */
    fos_transit entry = core->log.items[at];
    if (fos_fragment_waits(core, &f)) f.entry = &entry;
    int whole = fos_defrag_add(&core->defrag, &f, out);
    if (whole) fos_bundle_new(core, out, &entry);
    uint32_t more = core->log.count - 1 - at;
    memmove(core->log.items + at, core->log.items + at + 1, more * sizeof entry);    /* ... and leaves in front of it */
    core->log.items[at + more] = entry;
    return whole;
}

/* ---- making and ending the core --------------------------------------------------------------- */

/* Set up a zeroed core whose limits, policies and hash keys are filled in; -1 without memory. */
static int fos_core_init(fos_core *core) {
    /* Records closed in this batch are still held while new ones open: room for a batch of them. */
    if (fos_table_init(&core->table, core->limits.max_connections + 16384)) return -1;
    fos_pool_init(&core->chunks, sizeof(fos_chunk), &core->blocks);
    fos_pool_init(&core->streams, sizeof(fos_stream), &core->blocks);
    fos_pool_init(&core->pieces, sizeof(fos_piece), &core->blocks);
    fos_pool_init(&core->ooos, sizeof(fos_ooo), &core->blocks);
    fos_pool_init(&core->lane_pool, sizeof(fos_lane), &core->blocks);
    fos_pool_init(&core->parked, sizeof(fos_parked), &core->blocks);
    fos_pool_init(&core->queued, sizeof(fos_queued), &core->blocks);
    fos_pool_init(&core->bundled, sizeof(fos_bundle), &core->blocks);
    core->outlets.blocks = &core->blocks;
    memset(core->outlets.route, FOS_NO_OUTLET, sizeof core->outlets.route);
    fos_pool_init(&core->fields, FOS_FIELDS_ROOM, &core->blocks);
    fos_pool_init(&core->defrag.entries, sizeof(fos_defrag_entry), &core->blocks);
    fos_pool_init(&core->defrag.pieces, sizeof(fos_piece), &core->blocks);
    core->defrag.counters = &core->counters;
    core->defrag.parked = &core->parked;
    core->defrag.owner = core;
    core->defrag.let_go = fos_fragments_let_go;
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
    while (core->all_lanes) fos_lane_free(core, core->all_lanes);
    free(core->segs);
    for (uint32_t i = 0; i < core->log.count; i++) fos_transit_drop(core, &core->log.items[i]);
    free(core->log.items);
    free(core->merged.items);
    free(core->outlets.scratch);
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
    fos_bundles_sweep(core, 1);
    core->outlets.count = 0;                  /* the ports are gone; blocks that were lent to them are not */
    fos_outlets_sync(&core->outlets);
    for (uint32_t i = 0; i < core->plan_count; i++)
        for (uint32_t j = 0; j < core->plans[i].journals; j++) free(core->plans[i].journal[j].rows);
    free(core->plans);
    free(core->opened.items);
    free(core->closed.items);
    fos_pool_destroy(&core->chunks);
    fos_pool_destroy(&core->streams);
    fos_pool_destroy(&core->pieces);
    fos_pool_destroy(&core->ooos);
    fos_pool_destroy(&core->lane_pool);
    fos_pool_destroy(&core->parked);
    fos_pool_destroy(&core->queued);
    fos_pool_destroy(&core->bundled);
    fos_pool_destroy(&core->fields);
    fos_translations_destroy(core);
    fos_table_destroy(&core->table);
    fos_blocks_destroy(&core->blocks);
}

/* Nobody hears of this connection's end, and nothing of it waits. */
FOS_INLINE int fos_conn_unheard(const fos_core *core, uint32_t index) {
    const fos_conn *c = &core->table.conns[index];
    const fos_cold *cold = &core->table.cold[index];
    return !(c->flags & (FOS_CONN_HALVES | FOS_CONN_READY)) && !core->plans[c->flow].events && !cold->handle && !cold->decoding && !fos_lane_of(core, index);
}

/* Close every connection, oldest record first: the input is at its end.  Those of which nobody hears
 * are only counted, and the index is emptied in one go: 40 ns each, saved a million times. */
static void fos_core_end(fos_core *core) {
    for (uint32_t i = 1; i <= core->table.used; i++)
        if (core->table.conns[i].wheel_prev && !fos_conn_unheard(core, i)) fos_conn_close(core, i, FOS_CLOSE_END);
    for (uint32_t i = 1; i <= core->table.used; i++) {
        fos_conn *c = &core->table.conns[i];
        if (!c->wheel_prev) continue;
        c->wheel_prev = c->wheel_next = 0;
        c->reason = FOS_CLOSE_END;
        c->flags |= FOS_CONN_CLOSED;
        FOS_COUNT(&core->counters, connections_closed);
    }
    memset(core->table.slots, 0, fos_slots_bytes(core->table.mask));
    memset(core->wheel.first, 0, sizeof core->wheel.first);
    memset(core->ages, 0, sizeof core->ages);
    core->table.count = 0;
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
    for (const fos_lane *lane = core->all_lanes; lane; lane = lane->all_next)
        for (int dir = 0; dir < 2; dir++) {
            const fos_stream *s = fos_half_of(core, lane->index, dir)->stream;
            if (s && (broken = fos_way_check(&lane->way[dir], lane->stage_count, s->head_off, s->tail_off))) return 40 + broken;
        }
    return waiting == core->waiting_bytes ? 0 : 50;
}

#endif
