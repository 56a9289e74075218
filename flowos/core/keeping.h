/* Keeping a TCP connection going in line: what left edited is ours until its receiver has it.
 *
 *     sender ──data──► in order? ──► stages ──► queue [una, end) ──► receiver
 *        ▲                │                       │   ▲
 *        └─ acknowledged ─┘                       └───┘ sent again when lost
 *
 * From the moment a connection has a lane, in line, both its ends talk to us: their bytes are
 * acknowledged when they are in order and in our hands, and what the last stage released is sent from
 * a queue of our own, within the receiver's window and a congestion window (RFC 5681, 6582), and sent
 * again on time-out (RFC 6298), three duplicate acknowledgements, or SACK (RFC 2018).  So a module may
 * hold, insert and delete as it likes, and nobody's connection stalls.  Sequence numbers, options and
 * time stamps stay each side's own.  Bytes that left before belong to their sender: until they are
 * acknowledged, its retransmissions and their acknowledgements pass.  Final offsets are those of what
 * leaves, original ones those of what came (splice.h).
 *
 * Neither end is end to end any more: what an end is told to have arrived is with us.  So a kept
 * connection is never forgotten while its two sides count differently: when it is idle for too long
 * both ends are asked, and when it must go both are reset.  Writer: the engine loop.
 */
#ifndef FOS_KEEPING_H
#define FOS_KEEPING_H

#include "fate.h"
#include "sending.h"
#include "translate.h"

enum { FOS_KEEP_TRIES = 15 };             /* time-outs in a row before both sides are reset: RFC 1122's R2 and more */
enum { FOS_KEEP_ACKS = 4 };               /* duplicate acknowledgements sent at once: three start a fast retransmission */
enum { FOS_KEEP_PROBES = 9 };             /* an idle connection's ends are asked so often, as Linux does */
enum { FOS_KEEP_LEAST_MSS = 64 };         /* no ICMP error makes segments smaller (Linux: route.min_pmtu is 552) */
#define FOS_KEEP_PROBE_EVERY (75 * FOS_SECOND)
#define FOS_KEEP_RTO_MOST 20000000000LL

/* ---- the end of a connection ---------------------------------------------------------------------------- */

/* Tell a direction's receiver that the connection is over: at the byte that comes next, and, if what was sent got
 * lost, at the byte that it waits for. */
static void fos_keep_reset(fos_core *core, fos_lane *lane, int dir, int64_t now) {
    fos_keep *k = lane->way[dir].keep;
    if (k->reset) return;
    fos_keep_segment(core, lane, dir, k->next + k->fin_sent, 0, FOS_TCP_RST, now);
    if (k->una >= k->start && k->una < k->next) fos_keep_segment(core, lane, dir, k->una, 0, FOS_TCP_RST, now);
    k->reset = 1;
    k->deadline = 0;
}

/* Do both sides count alike, with nothing on its way?  Then the connection goes on without us. */
static int fos_keep_even(const fos_core *core, const fos_lane *lane) {
    for (int dir = 0; dir < 2; dir++) {
        const fos_way *w = &lane->way[dir];
        const fos_keep *k = w->keep;
        if (w->sent.delta || k->una != k->end || k->una < k->start || k->fin != k->fin_acked) return 0;
        if (w->gone != fos_half_of(core, lane->index, dir)->next || fos_half_of(core, lane->index, dir)->ooo) return 0;
        for (uint32_t i = 0; i < lane->stage_count; i++)
            if (fos_edits_count(&w->stages[i].out)) return 0;
    }
    return 1;
}

/* Has each side all that it is to have? */
static int fos_keep_over(const fos_lane *lane) {
    const fos_keep *a = lane->way[0].keep, *b = lane->way[1].keep;
    return (a->fin_acked && b->fin_acked) || (a->reset && b->reset);
}

/* What is sent next is this connection's: addresses are translated as it leaves. */
FOS_INLINE void fos_keep_leaves(fos_core *core, const fos_lane *lane) {
    if (FOS_UNLIKELY(core->translations != NULL)) fos_translate_leaving(core, lane->index);
}

/* A kept connection was idle for its time-out.  1: it must stay, and its ends are asked whether they are there. */
FOS_NOINLINE int fos_keep_lingers(fos_core *core, uint32_t index) {
    fos_lane *lane = core->table.lanes[index];
    if (!lane || !lane->way[0].keep || fos_keep_over(lane) || fos_keep_even(core, lane) || fos_fate_drops(core, index)) return 0;
    fos_keep_leaves(core, lane);
    if (lane->probes++ >= FOS_KEEP_PROBES) {
        FOS_COUNT(&core->counters, kept_given_up);
        for (int dir = 0; dir < 2; dir++) fos_keep_reset(core, lane, dir, core->now);
        return 0;
    }
    FOS_COUNT(&core->counters, kept_probes);
    for (int dir = 0; dir < 2; dir++)         /* a byte that it has: it answers with where it stands (RFC 1122 section 4.2.3.6) */
        if (!lane->way[dir].keep->reset) fos_keep_segment(core, lane, dir, lane->way[dir].keep->una - 1, 0, 0, core->now);
    return 1;
}

/* A kept connection's record goes: its ends must not go on when their numbers mean nothing to each other. */
static void fos_keep_end(fos_core *core, fos_lane *lane, int reason) {
    int64_t now = core->now;
    if (reason == FOS_CLOSE_REUSED || fos_keep_over(lane) || fos_keep_even(core, lane)) return;
    FOS_COUNT(&core->counters, kept_resets);
    for (int dir = 0; dir < 2; dir++) {
        lane->way[dir].keep->cwnd = FOS_ALL / 2;
        fos_keep_push(core, lane, dir, now);
    }
    for (int dir = 0; dir < 2; dir++) fos_keep_reset(core, lane, dir, now);
}

/* A module ended the connection: each end is told in its own numbers, if it is to be told at all. */
FOS_NOINLINE void fos_keep_dropped(fos_core *core, fos_lane *lane) {
    fos_conn *c = &core->table.conns[lane->index];
    FOS_COUNT(&core->counters, merged_dropped);
    if (!(c->depth & FOS_DEPTH_RESET)) return;
    c->depth &= (uint8_t)~FOS_DEPTH_RESET;
    for (int dir = 0; dir < 2; dir++) fos_keep_reset(core, lane, dir, core->now);
}

/* The timer of a way ran out. */
static void fos_keep_timeout(fos_core *core, fos_lane *lane, int dir, int64_t now) {
    fos_way *w = &lane->way[dir];
    fos_keep *k = w->keep;
    k->deadline = 0;
    if (k->reset || k->una < k->start) return;
    if (k->una == k->end && (!k->fin_sent || k->fin_acked)) return;
    if (++k->tries > FOS_KEEP_TRIES) {
        FOS_COUNT(&core->counters, kept_given_up);
        fos_keep_reset(core, lane, 0, now);
        fos_keep_reset(core, lane, 1, now);
        return;
    }
    FOS_COUNT(&core->counters, kept_timeouts);
    k->rto = k->rto * 2 < FOS_KEEP_RTO_MOST ? k->rto * 2 : FOS_KEEP_RTO_MOST;
    k->timed_at = 0;
    if (k->una == k->next && k->next < k->end) {
        fos_keep_segment(core, lane, dir, k->next, 1, 0, now);   /* zero window: one byte asks */
        k->tries = 1;
    } else if (k->una == k->end) fos_keep_segment(core, lane, dir, k->end, 0, FOS_TCP_FIN, now);
    else {
        k->sacks = k->dupacks = 0;            /* a receiver may have dropped what it had (RFC 2018 section 8) */
        fos_keep_repair(k, FOS_REPAIR_TIMEOUT, k->next, fos_keep_mss(w));
    }
    k->deadline = now + k->rto;
}

/* ---- packets that come -------------------------------------------------------------------------------- */

/* Remember a packet's headers, to send with. */
static void fos_keep_learn(fos_lane *lane, const fos_transit *t) {
    fos_way *w = &lane->way[t->dir];
    uint32_t hl = (uint32_t)(t->frame[t->l4 + 12] >> 4) * 4, n = t->l4 + hl;
    w->link = t->link;
    w->iface = t->iface;
    if (n <= FOS_TEMPLATE_ROOM && n <= t->captured && hl >= 20) {
        memcpy(w->template, t->frame, n);
        w->template_n = (uint16_t)n;
        w->template_l3 = (uint8_t)t->l3;
        w->template_l4 = (uint8_t)t->l4;
        uint8_t *ip = w->template + t->l3;
        if (ip[0] >> 4 == 4) ip[1] &= (uint8_t)~3;               /* not ECN-capable: nobody echoes marks for us */
        else ip[1] &= (uint8_t)~0x30;
    }
    /* Where no SYN was seen, what came in one packet may leave in one. */
    if (!w->mss && t->paylen > 536 && t->paylen < 1461) w->mss = (uint16_t)t->paylen;
}

/* Send on the bytes [off, off + n) of a packet of its sender's, with our acknowledgement. */
static void fos_keep_forward(fos_core *core, fos_lane *lane, const fos_transit *t, uint64_t n, uint8_t flags) {
    uint32_t payload = t->l4 + (uint32_t)(t->frame[t->l4 + 12] >> 4) * 4;
    uint8_t *out = fos_outlets_room(&core->outlets);
    if (!out) { core->failed = 1; return; }
    if (payload + n > t->captured) return;
    fos_seg seg = {.p = t->frame + payload, .n = n};
    fos_repack job = {.frame = t->frame, .captured = t->captured, .l3 = t->l3, .l4 = t->l4, .payload = payload, .link = t->link,
                      .segs = &seg, .seg_count = 1, .n = n};
    job.fields.set = FOS_SET_FLAGS;
    job.fields.tcp_flags = flags;
    if (!(flags & FOS_TCP_SYN)) {
        job.fields.set |= FOS_SET_ACK | FOS_SET_WINDOW;
        job.fields.ack = fos_half_of(core, lane->index, !t->dir)->origin + (uint32_t)fos_keep_acked(core, lane, !t->dir);
        job.fields.window = fos_keep_window(core, lane, !t->dir);
    }
    uint32_t size = fos_repack_build(&job, out, FOS_SCRATCH_FRAME);
    if (!size) return;
    FOS_COUNT(&core->counters, merged_rewritten);
    fos_send_made(core, t->flags & FOS_TRANSIT_JOINED ? fos_block_of(t->frame)->bundle : NULL, out, size, size, t->l3, 0, t->ts, t->link, t->iface);
}

static void fos_keep_pass(fos_core *core, const fos_transit *t) {
    fos_send_came(core, t->flags & FOS_TRANSIT_JOINED, t->frame, t->captured, t->wire, t->l3, t->ts, t->link, t->iface);
}

/* An ICMP error about what left in direction `dir`: a narrower link is ours to obey; its sender hears of what it sent
 * itself, and of what is not about sizes, in its own numbers. */
static void fos_keep_icmp(fos_core *core, fos_lane *lane, const fos_transit *t) {
    int dir = !t->dir;
    fos_way *w = &lane->way[dir];
    fos_keep *k = w->keep;
    const fos_half *h = fos_half_of(core, lane->index, dir);
    fos_quote q;
    if (!fos_find_quote(t->frame, t->captured, t->l3, t->l4, &q) || q.end < q.l4 + 8u) { fos_keep_pass(core, t); return; }
    const uint8_t *icmp = t->frame + t->l4;
    int four = t->frame[t->l3] >> 4 == 4;
    uint64_t final = k->una + (uint64_t)(int64_t)fos_seq_diff(fos_be32(t->frame + q.l4 + 4), (uint32_t)(h->origin + (uint32_t)k->una));
    int ours = final >= k->start && final <= k->next;        /* a blind forger does not know (RFC 5927 section 4.1) */
    if (four ? icmp[0] == 3 && icmp[1] == 4 : icmp[0] == 2) {
        uint32_t mtu = four ? fos_be16(icmp + 6) : fos_be32(icmp + 4);
        uint32_t head = (q.l4 - q.l3) + 20 + (k->stamps && lane->way[!dir].keep->stamps ? 12 : 0);
        if (four && !mtu) mtu = 576;                         /* a router older than RFC 1191 */
        if (!four && mtu < 1280) mtu = 1280;
        uint64_t mss = mtu > head + FOS_KEEP_LEAST_MSS ? mtu - head : FOS_KEEP_LEAST_MSS;
        if (final >= k->una && final <= k->next && mss < fos_keep_mss(w)) {
            FOS_COUNT(&core->counters, kept_path_mtu);
            w->mss = (uint16_t)mss;
            if (k->una >= k->start && k->next > k->una) {    /* none of it arrived, and not for want of room */
                uint64_t ssthresh = k->ssthresh, cwnd = k->cwnd;
                fos_keep_repair(k, FOS_REPAIR_TIMEOUT, k->next, mss);
                k->ssthresh = ssthresh;
                k->cwnd = cwnd;
            }
        }
        if (ours) return;
    }
    if (final < k->start) { fos_keep_pass(core, t); return; }
    if (!ours || t->captured > FOS_SCRATCH_FRAME) return;
    uint8_t *out = fos_outlets_room(&core->outlets);
    if (!out) { core->failed = 1; return; }
    memcpy(out, t->frame, t->captured);
    /* Its sender knows of what is not acknowledged to it: the next byte stands for ours. */
    fos_rewrite fields = {.set = FOS_SET_SEQ, .seq = h->origin + (uint32_t)fos_keep_acked(core, lane, dir)};
    if (fos_rewrite_quote(out, t->captured, t->l3, t->l4, &fields)) return;
    FOS_COUNT(&core->counters, merged_rewritten);
    fos_outlets_send(&core->outlets, &core->counters, out, t->captured, t->wire, t->ts, t->link, t->iface);
    fos_outlets_keep(&core->outlets, t->captured);
}

/* A reset came: what its receiver can take goes first, all else is void. */
static void fos_keep_reset_came(fos_core *core, fos_lane *lane, const fos_transit *t) {
    fos_keep *k = lane->way[t->dir].keep, *back = lane->way[!t->dir].keep;
    if (t->refused) {                         /* not the next byte: its sender, if it is its sender, says it again (RFC 5961) */
        if (!fos_keep_left(core, lane, t->dir)) k->acks_due++;
        return;
    }
    if (!k->reset) {
        k->cwnd = FOS_ALL / 2;
        fos_keep_push(core, lane, t->dir, core->now);
        fos_keep_reset(core, lane, t->dir, core->now);
    }
    back->reset = 1;
    back->deadline = 0;
}

/* Take what a packet acknowledges. */
static void fos_keep_acks(fos_core *core, fos_lane *lane, const fos_transit *t, const fos_tcp_options *o) {
    const uint8_t *th = t->frame + t->l4;
    const fos_half *other = fos_half_of(core, lane->index, !t->dir);
    fos_keep *back = lane->way[!t->dir].keep;
    uint32_t base = other->origin + (uint32_t)back->una;
    uint64_t una = back->una, final = una + (uint64_t)(int64_t)fos_seq_diff(fos_be32(th + 8), base);
    int scale = fos_keep_scale(core, lane, !t->dir), news = 0, before = una < back->start;
    uint64_t right = final + ((uint64_t)fos_be16(th + 14) << (scale < 0 ? 0 : scale));
    for (uint32_t i = 0; o->sack && i + 1 < o->sack_edges; i += 2) {
        uint64_t l = una + (uint64_t)(int64_t)fos_seq_diff(fos_be32(th + o->sack + 4 * i), base);
        uint64_t r = una + (uint64_t)(int64_t)fos_seq_diff(fos_be32(th + o->sack + 4 * i + 4), base), stop;
        if (l >= r || r > back->next + back->fin_sent || l < una || r > (uint64_t)1 << 62) continue;   /* or a duplicate's (RFC 2883) */
        news |= fos_keep_hole(back, l, &stop) < r;
        fos_keep_has(back, l, r);
    }
    fos_keep_ack(core, lane, !t->dir, final, right, !t->paylen && !(th[13] & FOS_TCP_FIN), news, core->now);
    if (before && (back->una > una || !t->paylen)) back->acks_due++;   /* the sender of what left before us waits for it */
}

/* Take what a packet of a kept connection says; its bytes, if it brings any, come by the stream. */
static void fos_keep_packet(fos_core *core, fos_lane *lane, const fos_transit *t) {
    int dir = t->dir;
    fos_way *w = &lane->way[dir];
    fos_keep *k = w->keep, *back = lane->way[!dir].keep;
    const fos_half *h = fos_half_of(core, lane->index, dir), *other = fos_half_of(core, lane->index, !dir);
    const uint8_t *th = t->frame + t->l4;
    uint32_t hl = (uint32_t)(th[12] >> 4) * 4;
    if (!(t->flags & FOS_TRANSIT_TCP)) {
        if (t->refused) fos_keep_icmp(core, lane, t);
        else fos_keep_pass(core, t);
        return;
    }
    if (t->captured < t->l4 + 20u || t->captured < t->l4 + hl) { fos_keep_pass(core, t); return; }
    if (th[13] & FOS_TCP_RST) { fos_keep_reset_came(core, lane, t); return; }
    lane->probes = 0;
    fos_keep_learn(lane, t);
    fos_tcp_options o = fos_tcp_find_options(th, hl);
    if (o.timestamps) {
        uint32_t tsval = fos_be32(th + o.timestamps), tsecr = fos_be32(th + o.timestamps + 4u);
        if (!k->stamps || fos_seq_diff(tsval, k->tsval) > 0) k->tsval = tsval;
        k->stamps = 1;
        if (!back->stamps && tsecr && (th[13] & FOS_TCP_ACK)) {  /* what it heard last from the other end */
            back->stamps = 1;
            back->tsval = tsecr;
        }
    }
    if (th[13] & FOS_TCP_SYN) {               /* a handshake; data with it comes by the stream */
        if (t->paylen) fos_keep_forward(core, lane, t, 0, (uint8_t)(th[13] & ~FOS_TCP_FIN));
        else fos_keep_pass(core, t);
        if ((th[13] & FOS_TCP_ACK) && (other->flags & FOS_HALF_STARTED)) k->acks_due++;   /* it repeats: the last step got lost */
        return;
    }
    if (k->reset || back->reset) {            /* it does not know yet, or asks back (RFC 5961) */
        if (th[13] & FOS_TCP_ACK) {
            uint64_t q = back->una + (uint64_t)(int64_t)fos_seq_diff(fos_be32(th + 8), (uint32_t)(other->origin + (uint32_t)back->una));
            if (!fos_keep_left(core, lane, dir)) fos_keep_segment(core, lane, !dir, q, 0, FOS_TCP_RST, core->now);
        }
        return;
    }
    const uint8_t *ip = t->frame + t->l3;
    if (((ip[0] >> 4 == 4 ? ip[1] : ip[1] >> 4) & 3) == 3) k->congested = 1;
    else if (th[13] & FOS_TCP_CWR) k->congested = 0;
    if ((th[13] & FOS_TCP_ACK) && (other->flags & FOS_HALF_STARTED)) fos_keep_acks(core, lane, t, &o);
    if (t->refused) { k->acks_due++; return; }
    if (t->flags & FOS_TRANSIT_AHEAD && t->off > 0) k->recent = (uint64_t)t->off;
    if (t->paylen || th[13] & FOS_TCP_FIN) {
        k->acks_due++;
        /* What left before we kept it is its sender's to repeat; what lies behind is ours. */
        if (!(t->flags & (FOS_TRANSIT_DATA | FOS_TRANSIT_AHEAD)) && (t->flags & FOS_TRANSIT_OFF) && k->una < k->start && t->off >= 0 &&
            t->off < (int64_t)k->start) {
            uint64_t n = k->start - (uint64_t)t->off;
            fos_keep_forward(core, lane, t, n < t->paylen ? n : t->paylen, FOS_TCP_ACK | FOS_TCP_PSH);
        }
    } else if ((t->flags & FOS_TRANSIT_OFF) && t->off < (int64_t)h->next) k->acks_due++;   /* a keep-alive, a window probe */
}

/* After the log: send what is due in both directions. */
static void fos_keep_output(fos_core *core, fos_lane *lane) {
    int64_t now = core->now;
    for (int dir = 0; dir < 2; dir++) fos_keep_push(core, lane, dir, now);
    for (int dir = 0; dir < 2; dir++) {
        fos_keep *k = lane->way[dir].keep, *back = lane->way[!dir].keep;
        const fos_half *h = fos_half_of(core, lane->index, dir);
        if (k->reset || back->reset) continue;
        /* A window that was shut and has room again is told of. */
        uint64_t edge = k->edge, acked = fos_keep_acked(core, lane, dir), mss = fos_keep_mss(&lane->way[dir]);
        if (!k->acks_due && edge && edge < acked + 2 * mss && !(h->flags & FOS_HALF_FIN_DONE)) {
            fos_keep_window(core, lane, dir);
            if (k->edge >= edge + 2 * mss) k->acks_due = 1;
            k->edge = edge;
        }
        uint32_t n = k->acks_due;
        if (n > FOS_KEEP_ACKS) n = FOS_KEEP_ACKS;
        if (n > 1 && !h->ooo && k->una >= k->start) n = 1;       /* several only where they tell of a hole */
        if (fos_keep_left(core, lane, dir) && n > 1) n = 1;
        while (n--) fos_keep_segment(core, lane, !dir, back->next + back->fin_sent, 0, 0, now);
        k->acks_due = 0;
        if (k->deadline && (!core->keep_deadline || k->deadline < core->keep_deadline)) core->keep_deadline = k->deadline;
    }
}

/* Run the timers that are due. */
static void fos_keep_timers(fos_core *core) {
    if (!core->keep_deadline || core->now < core->keep_deadline) return;
    int64_t next = 0;
    for (fos_lane *lane = core->all_lanes; lane; lane = lane->all_next) {
        if (!lane->way[0].keep || fos_fate_drops(core, lane->index)) continue;
        for (int dir = 0; dir < 2; dir++) {
            fos_keep *k = lane->way[dir].keep;
            if (k->deadline && k->deadline <= core->now) {
                fos_keep_leaves(core, lane);
                fos_keep_timeout(core, lane, dir, core->now);
                fos_keep_push(core, lane, dir, core->now);
            }
            if (k->deadline && (!next || k->deadline < next)) next = k->deadline;
        }
    }
    core->keep_deadline = next;
}

#endif
