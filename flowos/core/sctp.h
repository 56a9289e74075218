/* SCTP: DATA chunks as units, in the order of their transmission sequence numbers (RFC 9260).
 *
 * `next` of a direction counts chunks (TSN less the first one), `acked` holds the stream
 * offset: user data in TSN order, one unit per chunk.  A chunk ahead of its turn waits among the
 * pieces, as a piece of length one; what the receiver's SACK says is missing for good, or
 * too much waiting behind it, is passed over with a gap unit of unknown length (0).
 */
#ifndef FOS_SCTP_H
#define FOS_SCTP_H

#include "tcp.h"

enum { FOS_SCTP_DATA = 0, FOS_SCTP_SACK = 3, FOS_SCTP_SHUTDOWN = 7, FOS_SCTP_SHUTDOWN_COMPLETE = 14, FOS_SCTP_ABORT = 6,
       FOS_SCTP_IDATA = 64, FOS_SCTP_WAITING = 256 };

/* Deliver one chunk; `data` leads to the chunk header. */
static void fos_sctp_chunk(fos_core *core, uint32_t index, fos_conn *c, int dir, const uint8_t *data, const fos_origin *o) {
    fos_half *h = fos_half_of(core, index, dir);
    uint32_t header = data[0] == FOS_SCTP_IDATA ? 20 : 16;
    uint32_t len = fos_be16(data + 2) - header, at = (uint32_t)(data - o->frame) + header;
    uint32_t have = at < o->captured ? o->captured - at : 0;
    uint16_t flags = have < len ? FOS_UNIT_CUT : 0;
    if (have < len) len = have;
    fos_deliver(core, index, c, FOS_CLASS_SCTP, dir, FOS_UNIT_DATA, flags, h->acked, len, at, o);
    h->acked += len;
    c->payload[dir] += len;
    h->next++;
}

static void fos_sctp_drain(fos_core *core, uint32_t index, fos_conn *c, int dir) {
    fos_half *h = fos_half_of(core, index, dir);
    while (h->ooo && h->ooo->pieces.first && h->ooo->pieces.first->start <= h->next) {
        fos_piece *p = fos_pieces_pop(&h->ooo->pieces);
        core->waiting_bytes--;
        fos_origin from = fos_origin_of_piece(p);
        if (p->start == h->next) fos_sctp_chunk(core, index, c, dir, p->data, &from);
        fos_piece_free(&core->pieces, p);
    }
    if (h->ooo && !h->ooo->pieces.first) fos_ooo_free(core, h);
}

/* Pass over the chunks that will not come. */
static void fos_sctp_skip(fos_core *core, uint32_t index, fos_conn *c, int dir, int cause, const fos_origin *o) {
    fos_half *h = fos_half_of(core, index, dir);
    fos_origin at = {.ts = o->ts, .packet = o->packet, .l3 = o->l3, .l4 = o->l4};   /* no frame holds what is missing */
    FOS_COUNT(&core->counters, sctp_gaps);
    if (cause == FOS_GAP_LIMIT) FOS_COUNT(&core->counters, sctp_gap_by_limit);
    fos_deliver(core, index, c, FOS_CLASS_SCTP, dir, FOS_UNIT_GAP, 0, h->acked, 0, 0, &at);
    h->next = h->ooo->pieces.first->start;
    fos_sctp_drain(core, index, c, dir);
}

static void fos_sctp_data(fos_core *core, uint32_t index, fos_conn *c, int dir, const fos_pkt *p, uint32_t at,
                          const fos_origin *from) {
    fos_half *h = fos_half_of(core, index, dir);
    const uint8_t *data = p->frame + at;
    uint32_t tsn = fos_be32(data + 4);
    if (!(h->flags & FOS_HALF_STARTED)) {
        h->flags |= FOS_HALF_STARTED;
        h->origin = tsn;
        h->fin = FOS_NO_OFFSET;
    }
    int64_t n = fos_unwrap(h, tsn);
    if (n < (int64_t)h->next) { FOS_COUNT(&core->counters, sctp_retransmitted); return; }
    if (n == (int64_t)h->next) {
        fos_sctp_chunk(core, index, c, dir, data, from);
        if (h->ooo) fos_sctp_drain(core, index, c, dir);
        return;
    }
    if (n > (int64_t)h->next + (1 << 20)) { FOS_COUNT(&core->counters, sctp_damaged); return; }
    fos_ooo *ooo = fos_ooo_of(core, h);
    if (!ooo) return;
    fos_origin o = *from;
    int copied = 0;
    if (!core->stable && !(o.flags & FOS_UNIT_OWNED)) {
        if (fos_spill(core, &o, &data)) return;
        copied = 1;
    }
    fos_piece seg = {.start = (uint64_t)n, .end = (uint64_t)n + 1, .ostart = (uint64_t)n, .oend = (uint64_t)n + 1,
                     .data = data, .frame = o.frame, .ts = o.ts, .packet = o.packet, .wire = o.wire,
                     .captured = o.captured, .l3 = o.l3, .l4 = o.l4, .flags = o.flags};
    uint64_t before = ooo->pieces.bytes;
    if (fos_pieces_insert(&ooo->pieces, &core->pieces, &seg, FOS_FIRST) & FOS_MET_NOTHING_NEW)
        FOS_COUNT(&core->counters, sctp_retransmitted);
    core->waiting_bytes += ooo->pieces.bytes - before;
    if (copied) fos_block_drop(&core->blocks, o.frame);
    while (h->ooo && h->ooo->pieces.first &&
           (h->ooo->pieces.count > FOS_SCTP_WAITING || from->ts - h->ooo->pieces.first->ts >= core->limits.gap_ns))
        fos_sctp_skip(core, index, c, dir, FOS_GAP_LIMIT, from);
}

FOS_NOINLINE void fos_sctp_packet(fos_core *core, uint32_t index, fos_conn *c, const fos_pkt *p) {
    fos_origin o = fos_origin_of(p);
    uint32_t at = p->payload, end = p->payload + p->paycap;
    while (end - at >= 4) {
        const uint8_t *h = p->frame + at;
        uint32_t len = fos_be16(h + 2), header = h[0] == FOS_SCTP_IDATA ? 20 : 16;
        if (len < 4) { FOS_COUNT(&core->counters, sctp_damaged); return; }
        if (h[0] == FOS_SCTP_DATA || h[0] == FOS_SCTP_IDATA) {
            if (len < header || end - at < header) { FOS_COUNT(&core->counters, sctp_damaged); return; }
            fos_sctp_data(core, index, c, p->dir, p, at, &o);
        } else if (h[0] == FOS_SCTP_ABORT || h[0] == FOS_SCTP_SHUTDOWN_COMPLETE) {
            c->state = h[0] == FOS_SCTP_ABORT ? FOS_STATE_RESET : FOS_STATE_CLOSED;
        }
        uint32_t step = (len + 3) & ~3u;
        if (step > end - at) return;
        at += step;
    }
}

static void fos_sctp_finish(fos_core *core, uint32_t index, fos_conn *c) {
    fos_origin o = {.ts = c->last_ns};
    for (int dir = 0; dir < 2; dir++)
        while (fos_half_of(core, index, dir)->ooo && fos_half_of(core, index, dir)->ooo->pieces.first) fos_sctp_skip(core, index, c, dir, FOS_GAP_END, &o);
}

#endif
