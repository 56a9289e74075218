/* TCP: one connection's two byte streams, in order, each byte once, holes named.
 *
 *     segment -> [picked up in mid-stream?] -> trim -> in order? ---yes--> deliver
 *                                                        | no
 *                                                        v
 *                                       pieces (pieces.h) --hole filled or closed--> deliver
 *
 * Offsets are 64-bit and count from the first byte after SYN; 32-bit sequence numbers are
 * unwrapped around `next`.  A hole is closed as a gap unit by acknowledgement and patience, by
 * limits, by time or at the end; docs/reassembly.md gives the rules (RFC 9293).
 */
#ifndef FOS_TCP_H
#define FOS_TCP_H

#include "keep.h"
#include "tcpdeliver.h"
#include "tcpstates.h"

#define FOS_PICKUP_BIAS 0x80000000ull     /* offsets while the start of a stream is not known */
#define FOS_SYN_BEFORE_DATA (1 << 20)     /* a SYN this close before buffered data is believed */

/* ---- picking a stream up in the middle ------------------------------------------------------ */

/* The SYN that set the origin takes its place in the stream, once. */
static void fos_half_begin_syn(fos_core *core, uint32_t index, fos_conn *c, int dir, const fos_origin *o) {
    fos_half_of(core, index, dir)->flags |= FOS_HALF_FROM_SYN;
    if (fos_half_of(core, index, dir)->next == 0) fos_deliver(core, index, c, FOS_CLASS_TCP, dir, FOS_UNIT_SYN, 0, 0, 0, 0, o);
}

static void fos_half_begin(fos_core *core, uint32_t index, fos_conn *c, int dir, uint32_t origin, int from_syn,
                           const fos_origin *o) {
    fos_half *h = fos_half_of(core, index, dir);
    h->origin = origin;
    h->next = 0;
    h->acked = 0;
    h->flags |= FOS_HALF_STARTED;
    h->flags &= (uint8_t)~FOS_HALF_PICKUP;
    if (from_syn && !(h->flags & FOS_HALF_FROM_SYN)) fos_half_begin_syn(core, index, c, dir, o);
}

/* The start became known: `start` in pick-up coordinates becomes offset 0. */
static void fos_tcp_start(fos_core *core, uint32_t index, fos_conn *c, int dir, uint64_t start, int from_syn,
                          const fos_origin *o) {
    fos_half *h = fos_half_of(core, index, dir);
    fos_ooo *ooo = h->ooo;
    uint32_t origin = h->origin + (uint32_t)start;
    if (!from_syn) FOS_COUNT(&core->counters, tcp_picked_up);
    for (fos_piece *p = ooo ? ooo->pieces.first : NULL; p; p = p->next) {
        p->start -= start;
        p->end -= start;
        p->ostart -= start;
        p->oend -= start;
    }
    uint64_t fin = ooo ? ooo->fin_piece : FOS_NO_OFFSET;
    if (ooo) ooo->since_ns = INT64_MIN;
    fos_half_begin(core, index, c, dir, origin, from_syn, o);
    if (fin != FOS_NO_OFFSET && (fin < start || fin - start > (uint64_t)FOS_TCP_FAR)) {
        FOS_COUNT(&core->counters, tcp_fin_ignored);
        ooo->fin_piece = FOS_NO_OFFSET;
    } else if (fin != FOS_NO_OFFSET) {
        h->fin = fin - start;
        uint64_t before = ooo->pieces.bytes;
        if (fos_pieces_trim(&ooo->pieces, &core->pieces, h->fin)) FOS_COUNT(&core->counters, tcp_beyond_fin);
        core->waiting_bytes -= before - ooo->pieces.bytes;
        ooo->fin_piece = FOS_NO_OFFSET;
    }
    if (h->flags & FOS_HALF_PEER_ACK) {
        int64_t acked = fos_unwrap(h, h->peer_ack);
        if (acked > 0 && acked < FOS_TCP_FAR) h->acked = (uint64_t)acked;
        for (fos_piece *p = ooo ? ooo->pieces.first : NULL; p && p->start <= h->acked; p = p->next)
            if (!p->acked_since) p->acked_since = fos_tcp_clock(c);
    }
    if (ooo) fos_tcp_drain(core, index, c, dir, o);
    else fos_tcp_deliver_fin(core, index, c, dir, o);
}

/* Is it time to believe that the lowest byte buffered is the stream's first? */
static void fos_tcp_try_start(fos_core *core, uint32_t index, fos_conn *c, int dir, int end, const fos_origin *o) {
    fos_half *h = fos_half_of(core, index, dir);
    fos_ooo *ooo = h->ooo;
    if (!(h->flags & FOS_HALF_PICKUP) || !ooo) return;
    const fos_pieces *pieces = &ooo->pieces;
    if (!pieces->first && ooo->fin_piece == FOS_NO_OFFSET) return;
    uint64_t lowest = pieces->first ? pieces->first->start : ooo->fin_piece;
    int go = end;
    int awaited = 0;                          /* the receiver says that it waits for earlier bytes */
    if (h->flags & FOS_HALF_PEER_ACK) {
        int32_t ahead = fos_seq_diff(h->peer_ack, h->origin + (uint32_t)lowest);
        go |= ahead >= 0;
        awaited = ahead < 0 && ahead >= -FOS_TCP_FAR;
    }
    if (pieces->first) {
        go |= pieces->count >= (awaited ? core->limits.reassembly_pieces : core->limits.pickup_pieces);
        go |= pieces->bytes >= (awaited ? core->limits.reassembly_bytes : core->limits.pickup_bytes);
        go |= o->ts - ooo->since_ns >= (awaited ? core->limits.gap_ns : core->limits.pickup_ns);
        if (ooo->fin_piece != FOS_NO_OFFSET && ooo->fin_piece > lowest) {
            uint64_t at = lowest;             /* every byte up to the FIN is here: nothing is to be waited for */
            for (const fos_piece *p = pieces->first; p && p->start <= at; p = p->next) at = p->end;
            go |= at >= ooo->fin_piece;
        }
    }
    if (go) fos_tcp_start(core, index, c, dir, lowest, 0, o);
}

/* ---- segments ------------------------------------------------------------------------------ */

static void fos_tcp_count_old(fos_core *core, const fos_half *h, int64_t off, int64_t end, int whole) {
    if (off < 0) { FOS_COUNT(&core->counters, tcp_before_start); return; }
    if (h->ooo)
        for (uint32_t i = 0; i < h->ooo->gap_count; i++)
            if ((uint64_t)off < h->ooo->gaps[i].end && (uint64_t)end > h->ooo->gaps[i].start) {
                FOS_COUNT(&core->counters, tcp_late_after_gap);
                return;
            }
    if (whole) FOS_COUNT(&core->counters, tcp_retransmitted);
}

/* Put [off + trim, off + len) of a segment of `full` bytes among what waits; its first `cap` are present. */
FOS_NOINLINE void fos_tcp_wait(fos_core *core, uint32_t index, const fos_conn *c, int dir, uint64_t off, uint64_t full,
                               uint64_t len, uint64_t cap, uint64_t trim, uint32_t payload, const fos_origin *from) {
    fos_half *h = fos_half_of(core, index, dir);
    fos_ooo *ooo = fos_ooo_of(core, h);
    if (!ooo) return;
    if (FOS_UNLIKELY(core->live) && (core->plans[c->flow].writes & FOS_CLASS_TCP || fos_has_lane(core, index)) && (h->flags & FOS_HALF_STARTED) &&
        (ooo->pieces.bytes >= core->limits.reassembly_bytes || ooo->pieces.count >= core->limits.reassembly_pieces)) {
        FOS_COUNT(&core->counters, kept_no_room);   /* no hole is closed under an editor: the sender repeats it all */
        return;
    }
    fos_origin o = *from;
    const uint8_t *data = o.frame + payload;
    /* A reassembled block is kept by reference; a frame that will not stay is copied. */
    int copied = 0;
    if (!core->stable && !(o.flags & FOS_UNIT_OWNED)) {
        if (fos_spill(core, &o, &data)) return;
        copied = 1;
    }
    fos_piece seg = {.start = off + trim, .end = off + (cap > trim ? cap : trim), .ostart = off, .oend = off + full,
                     .data = data + trim, .frame = o.frame, .ts = o.ts, .packet = o.packet, .wire = o.wire,
                     .captured = o.captured, .l3 = o.l3, .l4 = o.l4, .flags = o.flags};
    if ((h->flags & FOS_HALF_STARTED) && seg.start <= h->acked) seg.acked_since = fos_tcp_clock(c);
    if (!ooo->pieces.first && (h->flags & FOS_HALF_STARTED)) ooo->since_ns = INT64_MIN;
    uint64_t before = ooo->pieces.bytes;
    int met = fos_pieces_insert(&ooo->pieces, &core->pieces, &seg, core->tcp_policy), news = !(met & FOS_MET_NOTHING_NEW);
    if (len > cap) {
        fos_piece cut = seg;
        cut.start = off + (cap > trim ? cap : trim);
        cut.end = off + len;
        cut.data = NULL;
        cut.flags |= FOS_UNIT_SAME_DATAGRAM;
        cut.acked_since = (h->flags & FOS_HALF_STARTED) && cut.start <= h->acked ? fos_tcp_clock(c) : 0;
        int behind = fos_pieces_insert(&ooo->pieces, &core->pieces, &cut, core->tcp_policy);
        news |= !(behind & FOS_MET_NOTHING_NEW);
        met |= behind;
    }
    core->waiting_bytes += ooo->pieces.bytes - before;
    core->waited += (uint64_t)news;           /* or took the place of what waited */
    if (met & FOS_MET_OVERLAP) FOS_COUNT(&core->counters, tcp_overlaps);
    if (met & FOS_MET_CONFLICT) FOS_COUNT(&core->counters, tcp_conflicts);
    if (met & FOS_MET_NO_MEMORY) core->failed = 1;
    if (copied) fos_block_drop(&core->blocks, o.frame);
}

/* A segment in a direction whose start is not known yet. */
FOS_NOINLINE void fos_tcp_pickup(fos_core *core, uint32_t index, fos_conn *c, int dir, const fos_pkt *p,
                                 const fos_origin *o) {
    fos_half *h = fos_half_of(core, index, dir);
    if (!(h->flags & FOS_HALF_PICKUP)) {
        h->flags |= FOS_HALF_PICKUP;
        h->origin = p->seq - (uint32_t)FOS_PICKUP_BIAS;
        h->next = FOS_PICKUP_BIAS;
        h->fin = FOS_NO_OFFSET;
    }
    fos_ooo *ooo = fos_ooo_of(core, h);
    if (!ooo) return;
    if (!ooo->pieces.first) ooo->since_ns = o->ts;
    int64_t off = fos_unwrap(h, p->seq);
    if (p->paylen) fos_tcp_wait(core, index, c, dir, (uint64_t)off, p->paylen, p->paylen, p->paycap, 0, p->payload, o);
    if ((p->tcp_flags & (FOS_TCP_FIN | FOS_TCP_ACK)) == (FOS_TCP_FIN | FOS_TCP_ACK) && ooo->fin_piece == FOS_NO_OFFSET)
        ooo->fin_piece = (uint64_t)off + p->paylen;
    fos_tcp_try_start(core, index, c, dir, 0, o);
}

/* Payload that is not simply the next bytes. */
FOS_NOINLINE void fos_tcp_segment(fos_core *core, uint32_t index, fos_conn *c, int dir, const fos_pkt *p, int64_t off,
                                  const fos_origin *o) {
    fos_half *h = fos_half_of(core, index, dir);
    int64_t next = (int64_t)h->next, end = off + p->paylen;
    uint64_t len = p->paylen, cap = p->paycap;
    if (end <= next) { fos_tcp_count_old(core, h, off, end, 1); return; }
    if (off < next) fos_tcp_count_old(core, h, off, next, 0);
    if (off > next + FOS_TCP_FAR) { FOS_COUNT(&core->counters, tcp_out_of_window); return; }
    if (h->fin != FOS_NO_OFFSET && (uint64_t)end > h->fin) {
        FOS_COUNT(&core->counters, tcp_beyond_fin);
        if (off >= (int64_t)h->fin || next >= (int64_t)h->fin) return;
        len = h->fin - (uint64_t)off;
        if (cap > len) cap = len;
        end = (int64_t)h->fin;
    }
    uint64_t trim = off < next ? (uint64_t)(next - off) : 0;
    if (off <= next && !(h->ooo && h->ooo->pieces.first)) {
        if (cap > trim)
            fos_deliver(core, index, c, FOS_CLASS_TCP, dir, FOS_UNIT_DATA, len > cap ? FOS_UNIT_CUT : 0, h->next,
                        cap - trim, p->payload + (uint32_t)trim, o);
        uint64_t have = cap > trim ? cap : trim;
        if (len > have) {
            FOS_COUNT_N(&core->counters, tcp_cut_bytes, len - have);
            fos_deliver(core, index, c, FOS_CLASS_TCP, dir, FOS_UNIT_GAP, FOS_UNIT_CUT | FOS_UNIT_SAME_DATAGRAM,
                        (uint64_t)off + have, len - have, 0, o);
        }
        h->next = (uint64_t)end;
        fos_tcp_deliver_fin(core, index, c, dir, o);
        return;
    }
    if (off > next) FOS_COUNT(&core->counters, tcp_out_of_order);
    else h->ooo->since_ns = o->ts;            /* the hole becomes smaller: something waits behind it */
    fos_tcp_wait(core, index, c, dir, (uint64_t)off, p->paylen, len, cap, trim, p->payload, o);
    fos_tcp_drain(core, index, c, dir, o);
}

FOS_NOINLINE void fos_tcp_fin(fos_core *core, uint32_t index, fos_conn *c, int dir, int64_t end, const fos_origin *o) {
    fos_half *h = fos_half_of(core, index, dir);
    if (h->fin == FOS_NO_OFFSET && end >= (int64_t)h->next && end <= (int64_t)h->next + FOS_TCP_FAR) {
        h->fin = (uint64_t)end;
        if (h->ooo) {
            uint64_t before = h->ooo->pieces.bytes;
            if (fos_pieces_trim(&h->ooo->pieces, &core->pieces, h->fin)) FOS_COUNT(&core->counters, tcp_beyond_fin);
            core->waiting_bytes -= before - h->ooo->pieces.bytes;
        }
    } else if (h->fin == FOS_NO_OFFSET || (int64_t)h->fin != end) {
        FOS_COUNT(&core->counters, tcp_fin_ignored);
    }
    fos_tcp_deliver_fin(core, index, c, dir, o);
}

/* 1: the SYN was taken (or says nothing new); 0: it contradicts the connection and is ignored, payload and all. */
FOS_NOINLINE int fos_tcp_syn(fos_core *core, uint32_t index, fos_conn *c, int dir, const fos_pkt *p, const fos_origin *o) {
    fos_half *h = fos_half_of(core, index, dir);
    fos_ooo *ooo = h->ooo;
    int waiting = ooo && ooo->pieces.first;
    if (h->flags & FOS_HALF_PICKUP) {
        uint64_t start = (uint64_t)fos_unwrap(h, p->seq + 1);
        uint64_t lowest = waiting ? ooo->pieces.first->start : ooo->fin_piece;
        if (waiting ? start <= lowest && lowest - start <= FOS_SYN_BEFORE_DATA : start == lowest) {
            fos_tcp_start(core, index, c, dir, start, 1, o);
            return 1;
        }
        if (!waiting) {                       /* a lone FIN before the handshake: forged, or of an older connection */
            fos_ooo_free(core, h);
            fos_half_begin(core, index, c, dir, p->seq + 1, 1, o);
            return 1;
        }
    } else if (!(h->flags & FOS_HALF_STARTED)) {
        h->fin = FOS_NO_OFFSET;
        fos_half_begin(core, index, c, dir, p->seq + 1, 1, o);
        return 1;
    } else if (p->seq + 1 == h->origin) {
        if (!(h->flags & FOS_HALF_FROM_SYN)) fos_half_begin_syn(core, index, c, dir, o);
        return 1;
    } else {
        int confirmed = (h->flags & FOS_HALF_PEER_ACK) && h->peer_ack == h->origin;
        int may = (p->tcp_flags & FOS_TCP_ACK) || !(h->flags & FOS_HALF_FROM_SYN);
        if (h->next == 0 && !waiting && may && !confirmed && !(h->flags & FOS_HALF_FIN_DONE)) {
            h->fin = FOS_NO_OFFSET;
            fos_half_begin(core, index, c, dir, p->seq + 1, 1, o);
            return 1;
        }
    }
    FOS_COUNT(&core->counters, tcp_syn_ignored);
    return 0;
}

/* The receiver acknowledges the first SYN of direction `dir`; another one has set the origin since. */
FOS_NOINLINE void fos_tcp_first_syn(fos_core *core, uint32_t index, fos_conn *c, int dir, const fos_pkt *p) {
    fos_half *h = fos_half_of(core, index, dir);
    if (!(h->flags & FOS_HALF_FROM_SYN) || h->flags & FOS_HALF_FIN_DONE || (h->ooo && h->ooo->pieces.first)) return;
    fos_origin o = fos_origin_of(p);
    h->fin = FOS_NO_OFFSET;
    fos_half_begin(core, index, c, dir, p->ack, 1, &o);
}

/* An acknowledgement for a direction that is being picked up. */
FOS_NOINLINE void fos_tcp_ack_pickup(fos_core *core, uint32_t index, fos_conn *c, int dir, const fos_pkt *p) {
    fos_origin o = fos_origin_of(p);
    fos_tcp_try_start(core, index, c, dir, 0, &o);
}

/* The receiver of direction `dir` acknowledged what packet `p` says. */
FOS_INLINE void fos_tcp_ack(fos_core *core, uint32_t index, fos_conn *c, int dir, const fos_pkt *p) {
    fos_half *h = fos_half_of(core, index, dir);
    if (FOS_UNLIKELY(core->live) && core->table.lanes[index]) return;   /* it speaks of what left, not of what came */
    h->peer_ack = p->ack;
    uint8_t flags = h->flags | FOS_HALF_PEER_ACK;
    h->flags = flags;
    if (FOS_UNLIKELY(!(flags & FOS_HALF_STARTED))) {
        if (flags & FOS_HALF_PICKUP) fos_tcp_ack_pickup(core, index, c, dir, p);
        return;
    }
    if (FOS_UNLIKELY(!h->next) && p->ack == h->base_seq + 1 && p->ack != h->origin) fos_tcp_first_syn(core, index, c, dir, p);
    int64_t acked = fos_unwrap(h, p->ack);
    if (acked <= (int64_t)h->acked || acked > (int64_t)h->next + FOS_TCP_FAR) return;
    h->acked = (uint64_t)acked;
    if (FOS_UNLIKELY(h->ooo != NULL))
        for (fos_piece *q = h->ooo->pieces.first; q && q->start <= h->acked; q = q->next)
            if (!q->acked_since) q->acked_since = fos_tcp_clock(c);
}

/* A reset without payload does not touch the streams, whatever other flags it has. */
FOS_INLINE int fos_bare_reset(const fos_pkt *p) { return (p->tcp_flags & FOS_TCP_RST) && !p->paylen; }

/* SYN, FIN and RST: count, move the state machine.  0: the packet's payload is to be ignored. */
FOS_NOINLINE int fos_tcp_flags(fos_core *core, uint32_t index, fos_conn *c, int dir, const fos_pkt *p, const fos_origin *o) {
    fos_half *h = fos_half_of(core, index, dir);
    uint8_t f = p->tcp_flags;
    int event = FOS_EV_ACK, taken = 1;
    if (f & FOS_TCP_SYN) {
        if (h->syn != 0xffff) h->syn++;
        event = f & FOS_TCP_ACK ? FOS_EV_SYNACK : FOS_EV_SYN;
        if (!fos_bare_reset(p)) taken = fos_tcp_syn(core, index, c, dir, p, o);
    }
    if (f & FOS_TCP_FIN) {
        if (h->fin_count != 0xffff) h->fin_count++;
        event = fos_half_of(core, index, !dir)->fin_count ? FOS_EV_FIN_BOTH : FOS_EV_FIN;
    }
    if (f & FOS_TCP_RST) {
        if (h->rst != 0xffff) h->rst++;
        event = FOS_EV_RST;
    }
    c->state = fos_tcp_next_state[c->state][event];
    return taken;
}

/* Payload and FIN that are not simply the next bytes. */
FOS_NOINLINE void fos_tcp_odd(fos_core *core, uint32_t index, fos_conn *c, const fos_pkt *p, uint32_t seq, int fin) {
    int dir = p->dir;
    fos_half *h = fos_half_of(core, index, dir);
    fos_origin o = fos_origin_of(p);
    if (!(h->flags & FOS_HALF_STARTED)) {
        fos_tcp_pickup(core, index, c, dir, p, &o);
        return;
    }
    int64_t off = fos_unwrap(h, seq);
    /* FIN before the payload: what waits beyond it must not be drained behind the payload. */
    if (fin) fos_tcp_fin(core, index, c, dir, off + p->paylen, &o);
    if (p->paylen) fos_tcp_segment(core, index, c, dir, p, off, &o);
}

FOS_NOINLINE int fos_tcp_control(fos_core *core, uint32_t index, fos_conn *c, const fos_pkt *p) {
    fos_origin o = fos_origin_of(p);
    return fos_tcp_flags(core, index, c, p->dir, p, &o);
}

FOS_NOINLINE void fos_tcp_gaps(fos_core *core, uint32_t index, fos_conn *c, const fos_pkt *p) {
    fos_origin o = fos_origin_of(p);
    fos_tcp_close_gaps(core, index, c, p->dir, &o);
    fos_tcp_close_gaps(core, index, c, !p->dir, &o);
}

/* One TCP packet of connection `index`; the counters of the connection are up to date. */
FOS_INLINE void fos_tcp_packet(fos_core *core, uint32_t index, fos_conn *c, const fos_pkt *p) {
    int dir = p->dir, fin = 0;
    if (FOS_UNLIKELY(core->live) && fos_has_lane(core, index) && !fos_keep_admits(core, index, p)) {
        core->refused = 1;
        return;
    }
    fos_half *h = fos_half_of(core, index, dir), *r = fos_half_of(core, index, !dir);
    uint8_t f = p->tcp_flags;
    uint32_t seq = p->seq;
    if (FOS_UNLIKELY(!(h->flags & FOS_HALF_BASE)) && !((f & FOS_TCP_RST) && !p->paylen)) {
        h->base_seq = f & FOS_TCP_SYN ? seq : seq - 1;
        h->flags |= FOS_HALF_BASE;
    }
    if (FOS_UNLIKELY(f & (FOS_TCP_SYN | FOS_TCP_FIN | FOS_TCP_RST))) {
        int taken = fos_tcp_control(core, index, c, p);
        if (f & FOS_TCP_SYN) seq++;
        fin = (f & (FOS_TCP_FIN | FOS_TCP_ACK)) == (FOS_TCP_FIN | FOS_TCP_ACK) && !fos_bare_reset(p);
        if ((f & FOS_TCP_FIN) && !fin && !fos_bare_reset(p)) FOS_COUNT(&core->counters, tcp_fin_ignored);
        if (f & FOS_TCP_ACK) fos_tcp_ack(core, index, c, !dir, p);
        if (taken && (p->paylen || fin)) fos_tcp_odd(core, index, c, p, seq, fin);
    } else {
        if (FOS_UNLIKELY(c->state != FOS_STATE_ESTABLISHED)) c->state = fos_tcp_next_state[c->state][FOS_EV_ACK];
        if (FOS_LIKELY(f & FOS_TCP_ACK)) fos_tcp_ack(core, index, c, !dir, p);
        if (p->paylen) {
            if (FOS_LIKELY((h->flags & FOS_HALF_STARTED) && seq == h->origin + (uint32_t)h->next && !h->ooo &&
                           p->paycap == p->paylen && h->fin == FOS_NO_OFFSET)) {
                uint64_t off = h->next;
                h->next = off + p->paylen;
                fos_plan *plan = &core->plans[c->flow];
                if (FOS_LIKELY((plan->rows | plan->units) & FOS_CLASS_TCP) || fos_has_lane(core, index)) {
                    fos_origin o = fos_origin_of(p);
                    fos_deliver(core, index, c, FOS_CLASS_TCP, dir, FOS_UNIT_DATA, 0, off, p->paylen, p->payload, &o);
                } else FOS_COUNT(&core->counters, units);
            } else fos_tcp_odd(core, index, c, p, seq, 0);
        }
    }
    if (FOS_UNLIKELY(h->ooo != NULL || r->ooo != NULL)) fos_tcp_gaps(core, index, c, p);
}

/* The connection ends: deliver what waits, name what is missing. */
FOS_NOINLINE void fos_tcp_finish(fos_core *core, uint32_t index, fos_conn *c) {
    fos_origin o = {.ts = c->last_ns};
    for (int dir = 0; dir < 2; dir++) {
        fos_half *h = fos_half_of(core, index, dir);
        fos_tcp_try_start(core, index, c, dir, 1, &o);
        while (h->ooo && h->ooo->pieces.first) {
            fos_tcp_gap(core, index, c, dir, h->ooo->pieces.first->start, FOS_GAP_END, &o);
            fos_tcp_drain(core, index, c, dir, &o);
        }
        if ((h->flags & FOS_HALF_STARTED) && h->fin != FOS_NO_OFFSET && h->next < h->fin) {
            fos_tcp_gap(core, index, c, dir, h->fin, FOS_GAP_END, &o);
            fos_tcp_deliver_fin(core, index, c, dir, &o);
        }
    }
}

#endif
