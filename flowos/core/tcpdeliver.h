/* TCP: what waits for earlier bytes, how it is delivered, and when a hole is closed.
 *
 *     next                first piece
 *      |---- hole ---------|=========|---- hole ----|====|
 *      v
 *     delivered so far; a hole is filled by a segment, or closed as a gap unit by acknowledgement
 *     and patience, by limits, by time, or at the end (docs/reassembly.md)
 *
 * The lower half of tcp.h, which decides what a segment means.
 */
#ifndef FOS_TCPDELIVER_H
#define FOS_TCPDELIVER_H

#include "core.h"

#define FOS_TCP_FAR (1LL << 30)           /* the largest window: 65535 << 14 (RFC 7323) */
enum { FOS_GAPS_KEPT = 4096 };            /* gaps remembered per direction, for late segments */

/* ---- what waits --------------------------------------------------------------------------- */

static fos_ooo *fos_ooo_of(fos_core *core, fos_half *h) {
    if (!h->ooo) {
        h->ooo = fos_pool_take(&core->ooos);
        if (!h->ooo) { core->failed = 1; return NULL; }
        memset(h->ooo, 0, sizeof *h->ooo);
        h->ooo->fin_piece = FOS_NO_OFFSET;
    }
    return h->ooo;
}

static void fos_ooo_free(fos_core *core, fos_half *h) {
    if (!h->ooo) return;
    core->waiting_bytes -= h->ooo->pieces.bytes;
    fos_pieces_clear(&h->ooo->pieces, &core->pieces);
    free(h->ooo->gaps);
    fos_pool_give(&core->ooos, h->ooo);
    h->ooo = NULL;
}

/* When something last came for the hole before the first piece that waits, or that piece itself. */
FOS_INLINE int64_t fos_ooo_last(const fos_ooo *ooo) {
    return ooo->pieces.first->ts > ooo->since_ns ? ooo->pieces.first->ts : ooo->since_ns;
}

/* Packets of the connection so far: the clock of the patience with gaps. */
FOS_INLINE uint32_t fos_tcp_clock(const fos_conn *c) { return (uint32_t)(c->packets[0] + c->packets[1]); }

FOS_INLINE int64_t fos_unwrap(const fos_half *h, uint32_t seq) {
    return (int64_t)h->next + fos_seq_diff(seq, (uint32_t)(h->origin + (uint32_t)h->next));
}

/* ---- delivery ----------------------------------------------------------------------------- */

static void fos_tcp_deliver_fin(fos_core *core, uint32_t index, fos_conn *c, int dir, const fos_origin *o) {
    fos_half *h = fos_half_of(core, index, dir);
    if (h->fin != h->next || (h->flags & FOS_HALF_FIN_DONE)) return;
    h->flags |= FOS_HALF_FIN_DONE;
    fos_deliver(core, index, c, FOS_CLASS_TCP, dir, FOS_UNIT_FIN, 0, h->next, 0, 0, o);
}

static fos_origin fos_origin_of_piece(const fos_piece *p) {
    fos_origin o = {.frame = p->frame, .ts = p->ts, .packet = p->packet, .wire = p->wire, .captured = p->captured,
                    .l3 = p->l3, .l4 = p->l4,
                    .flags = p->flags & (FOS_UNIT_OWNED | FOS_UNIT_COPIED | FOS_UNIT_REASSEMBLED)};
    return o;
}

/* Deliver the pieces that are in order now, and FIN behind them. */
FOS_NOINLINE void fos_tcp_drain(fos_core *core, uint32_t index, fos_conn *c, int dir, const fos_origin *o) {
    fos_half *h = fos_half_of(core, index, dir);
    fos_ooo *ooo = h->ooo;
    while (ooo->pieces.first && ooo->pieces.first->start <= h->next) {
        fos_piece *p = fos_pieces_pop(&ooo->pieces);
        core->waiting_bytes -= p->end - p->start;
        if (p->end > h->next) {               /* else an in-order segment overtook it */
            uint64_t skip = h->next - p->start, len = p->end - h->next;
            fos_origin from = fos_origin_of_piece(p);
            uint16_t flags = p->flags & FOS_UNIT_SAME_DATAGRAM;
            if (p->packet != o->packet) flags |= FOS_UNIT_WAITED;
            if (p->data)
                fos_deliver(core, index, c, FOS_CLASS_TCP, dir, FOS_UNIT_DATA, flags, h->next, len,
                            (uint32_t)(p->data + skip - p->frame), &from);
            else {
                FOS_COUNT_N(&core->counters, tcp_cut_bytes, len);
                fos_deliver(core, index, c, FOS_CLASS_TCP, dir, FOS_UNIT_GAP, flags | FOS_UNIT_CUT, h->next, len,
                            0, &from);
            }
            h->next = p->end;
        }
        fos_piece_free(&core->pieces, p);
    }
    if (!ooo->pieces.first && !ooo->gap_count) fos_ooo_free(core, h);
    fos_tcp_deliver_fin(core, index, c, dir, o);
}

enum fos_gap_cause { FOS_GAP_ACK, FOS_GAP_LIMIT, FOS_GAP_TIME, FOS_GAP_END };

/* Close the hole [next, end) as a gap unit. */
FOS_NOINLINE void fos_tcp_gap(fos_core *core, uint32_t index, fos_conn *c, int dir, uint64_t end, int cause,
                              const fos_origin *o) {
    fos_half *h = fos_half_of(core, index, dir);
    fos_ooo *ooo = fos_ooo_of(core, h);
    uint64_t len = end - h->next;
    FOS_COUNT(&core->counters, tcp_gaps);
    FOS_COUNT_N(&core->counters, tcp_gap_bytes, len);
    switch (cause) {
    case FOS_GAP_ACK: FOS_COUNT(&core->counters, tcp_gap_by_ack); break;
    case FOS_GAP_LIMIT: FOS_COUNT(&core->counters, tcp_gap_by_limit); break;
    case FOS_GAP_TIME: FOS_COUNT(&core->counters, tcp_gap_by_time); break;
    default: FOS_COUNT(&core->counters, tcp_gap_by_end);
    }
    if (ooo && ooo->gap_count < FOS_GAPS_KEPT) {
        if (ooo->gap_count == ooo->gap_capacity) {
            uint32_t capacity = ooo->gap_capacity ? ooo->gap_capacity * 2 : 4;
            fos_gap *gaps = realloc(ooo->gaps, capacity * sizeof *gaps);
            if (gaps) { ooo->gaps = gaps; ooo->gap_capacity = capacity; }
        }
        if (ooo->gap_count < ooo->gap_capacity) ooo->gaps[ooo->gap_count++] = (fos_gap){h->next, end};
    }
    h->flags |= FOS_HALF_GAPS;
    fos_origin at = {.ts = o->ts, .packet = o->packet, .l3 = o->l3, .l4 = o->l4};   /* no frame holds what is missing */
    fos_deliver(core, index, c, FOS_CLASS_TCP, dir, FOS_UNIT_GAP, 0, h->next, len, 0, &at);
    h->next = end;
}

/* Close the holes that the rules say will not be filled.  Called on each packet of the connection. */
FOS_NOINLINE void fos_tcp_close_gaps(fos_core *core, uint32_t index, fos_conn *c, int dir, const fos_origin *o) {
    fos_half *h = fos_half_of(core, index, dir);
    if (h->flags & FOS_HALF_PICKUP) return;
    if (FOS_UNLIKELY(core->live) && (core->plans[c->flow].writes & FOS_CLASS_TCP || fos_has_lane(core, index))) return;   /* the sender fills it */
    while (h->ooo && h->ooo->pieces.first) {
        fos_pieces *pieces = &h->ooo->pieces;
        fos_piece *p = pieces->first;
        int cause;
        if (p->acked_since && fos_tcp_clock(c) - p->acked_since >= core->limits.gap_packets) cause = FOS_GAP_ACK;
        else if (pieces->bytes > core->limits.reassembly_bytes || pieces->count > core->limits.reassembly_pieces ||
                 core->waiting_bytes > core->limits.reassembly_total) cause = FOS_GAP_LIMIT;
        else if (o->ts - fos_ooo_last(h->ooo) >= core->limits.gap_ns) cause = FOS_GAP_TIME;
        else return;
        fos_tcp_gap(core, index, c, dir, p->start, cause, o);
        fos_tcp_drain(core, index, c, dir, o);
    }
}

#endif
