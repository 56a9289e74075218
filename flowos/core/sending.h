/* What a kept connection sends: segments from its queue, within the windows, what was lost first.
 *
 *     queue ──► segment: headers of the last packet that way, numbers and stamps of the sender,
 *               acknowledgement, window and SACK blocks from what came the other way
 *
 * Congestion control is Reno's (RFC 5681) with SACK (RFC 6675), or NewReno's (RFC 6582) where there
 * is none; time-outs are measured (RFC 6298).  keep.h has the state, keeping.h what is done with
 * packets that come.  Writer: the engine loop.
 */
#ifndef FOS_SENDING_H
#define FOS_SENDING_H

#include "keep.h"
#include "lanes.h"
#include "repack.h"

enum { FOS_KEEP_SEGS = 64 };              /* pieces of one segment */
#define FOS_KEEP_RTO_FIRST 300000000LL
#define FOS_KEEP_RTO_LEAST 60000000LL     /* a round trip and a delayed acknowledgement (40 ms) on a local network */

static void fos_keep_free(fos_core *core, fos_keep *k) {
    if (!k) return;
    while (k->first) {
        fos_queued *q = k->first;
        k->first = q->next;
        fos_block_drop(&core->blocks, q->data);
        fos_pool_give(&core->queued, q);
    }
    free(k);
}

/* Begin to keep a connection: what left so far is known from its lane. */
static int fos_keep_begin(fos_core *core, fos_lane *lane) {
    for (int dir = 0; dir < 2; dir++) {
        fos_way *w = &lane->way[dir];
        const fos_half *h = fos_half_of(core, lane->index, dir);
        fos_keep *k = calloc(1, sizeof *k);
        if (!k) { core->failed = 1; return -1; }
        w->keep = k;
        k->start = k->next = k->end = w->gone;
        k->una = h->acked < w->gone ? h->acked : w->gone;
        k->right = k->una + 65535;
        k->rto = FOS_KEEP_RTO_FIRST;
        k->cwnd = 10u * (w->mss ? w->mss : FOS_DEFAULT_MSS);      /* RFC 6928 */
        k->ssthresh = FOS_ALL;
        k->acks_due = h->flags & FOS_HALF_FROM_SYN && !h->acked;  /* the handshake's last step may wait with what we hold */
        if (h->flags & FOS_HALF_FIN_DONE) {   /* has the FIN left already? */
            const fos_stream *s = h->stream;
            const fos_unit *u;
            k->fin = 1;
            for (uint64_t i = w->next_unit; s && (u = fos_stream_unit(s, i)); i++)
                if (u->kind == FOS_UNIT_FIN) k->fin = 0;
            k->fin_sent = w->fin_gone = k->fin;
            k->fin_acked = k->fin && h->acked > w->gone;
            if (k->fin && !k->fin_acked && k->una == k->start) k->deadline = core->now + k->rto;
        }
    }
    return 0;
}

/* ---- the packets that we send ---------------------------------------------------------------------- */

/* The headers to send with in a direction: the last packet's that way, or the other way's turned round. */
static int fos_keep_template(fos_lane *lane, int dir) {
    fos_way *w = &lane->way[dir], *o = &lane->way[!dir];
    if (w->template_n) return 1;
    if (!o->template_n) return 0;
    memcpy(w->template, o->template, o->template_n);
    w->template_n = o->template_n;
    w->template_l3 = o->template_l3;
    w->template_l4 = o->template_l4;
    w->link = o->link;
    w->iface = (uint16_t)(o->iface ^ 1);
    uint8_t *f = w->template, *ip = f + w->template_l3, *th = f + w->template_l4;
    if (w->link == 1 && w->template_l3 >= 14) {
        memcpy(f, o->template + 6, 6);
        memcpy(f + 6, o->template, 6);
    }
    uint32_t at = ip[0] >> 4 == 4 ? 12 : 8, n = ip[0] >> 4 == 4 ? 4 : 16;
    const uint8_t *oip = o->template + w->template_l3, *oth = o->template + w->template_l4;
    memcpy(ip + at, oip + at + n, n);
    memcpy(ip + at + n, oip + at, n);
    memcpy(th, oth + 2, 2);
    memcpy(th + 2, oth, 2);
    return 1;
}

/* Original offset up to which a direction's sender is acknowledged, its FIN included. */
static uint64_t fos_keep_acked(const fos_core *core, const fos_lane *lane, int dir) {
    const fos_keep *k = lane->way[dir].keep;
    const fos_half *h = fos_half_of(core, lane->index, dir);
    if (k->una < k->start) return k->una;
    return h->next + !!(h->flags & FOS_HALF_FIN_DONE);
}

/* The shift of the window fields that direction `dir`'s receiver sends; -1: its handshake was not seen. */
static int fos_keep_scale(const fos_core *core, const fos_lane *lane, int dir) {
    const fos_stream *s = fos_half_of(core, lane->index, dir)->stream, *o = fos_half_of(core, lane->index, !dir)->stream;
    if (!s || !s->mss || !o || !o->mss) return -1;
    return s->wscale && o->wscale ? (int)s->wscale - 1 : 0;
}

/* The window field for a direction's sender: what we have room for, never less than it was told. */
static uint16_t fos_keep_window(const fos_core *core, fos_lane *lane, int dir) {
    fos_keep *k = lane->way[dir].keep;
    const fos_half *h = fos_half_of(core, lane->index, dir);
    uint64_t acked = fos_keep_acked(core, lane, dir), waiting = h->ooo ? h->ooo->pieces.bytes : 0;
    uint64_t used = (k->end - k->una) + (h->next - lane->way[dir].gone) + waiting;
    uint64_t right = acked + (used < core->limits.keep_bytes ? core->limits.keep_bytes - used : 0);
    if (right < k->edge) right = k->edge;
    int scale = fos_keep_scale(core, lane, dir);
    if (scale < 0) scale = 7;                 /* a guess: if it shifts less it is told too little, which is safe */
    uint64_t window = right > acked ? (right - acked) >> scale : 0;
    if (window > 65535) window = 65535;
    right = acked + (window << scale);
    if (right > k->edge) k->edge = right;
    return (uint16_t)window;
}

/* SACK blocks for a direction's sender: the one of its latest segment first (RFC 2018 section 4). */
static uint32_t fos_keep_blocks(const fos_core *core, const fos_lane *lane, int dir, uint32_t *edges, uint32_t most) {
    const fos_half *h = fos_half_of(core, lane->index, dir), *r = fos_half_of(core, lane->index, !dir);
    const fos_keep *k = lane->way[dir].keep;
    uint32_t n = 2;
    int found = 0;
    if (!h->ooo || !h->ooo->pieces.first || !h->stream || !h->stream->sack || !r->stream || !r->stream->sack) return 0;
    for (const fos_piece *p = h->ooo->pieces.first; p && (n < most || !found);) {
        uint64_t start = p->start, end = p->end;
        for (p = p->next; p && p->start == end; p = p->next) end = p->end;
        int recent = !found && k->recent >= start && k->recent < end;
        if (!recent && n >= most) continue;
        uint32_t *at = recent ? edges : edges + n;
        at[0] = h->origin + (uint32_t)start;
        at[1] = h->origin + (uint32_t)end;
        if (recent) found = 1;
        else n += 2;
    }
    if (found) return n;
    memmove(edges, edges + 2, (n - 2) * sizeof *edges);
    return n - 2;
}

/* Send one segment of n bytes from final offset `at` on; flags without ACK, which is always set. */
static void fos_keep_segment(fos_core *core, fos_lane *lane, int dir, uint64_t at, uint64_t n, uint8_t flags, int64_t now) {
    fos_way *w = &lane->way[dir];
    fos_keep *k = w->keep, *back = lane->way[!dir].keep;
    fos_seg segs[FOS_KEEP_SEGS];
    uint32_t count = 0, edges[8], edge_count = 0;
    uint64_t have = 0;
    if (!fos_keep_template(lane, dir)) return;
    if (n && (!k->first || at < k->first->at)) return;      /* its sender's to repeat */
    for (const fos_queued *q = k->first; q && have < n && count < FOS_KEEP_SEGS; q = q->next) {
        if (q->at + q->n <= at + have) continue;
        uint64_t skip = at + have - q->at, part = q->n - skip;
        if (part > n - have) part = n - have;
        segs[count++] = (fos_seg){.p = q->data + skip, .n = part, .at = have};
        have += part;
    }
    uint8_t *out = fos_outlets_room(&core->outlets);
    uint8_t options[40];
    if (!out) { core->failed = 1; return; }
    int stamps = k->stamps && back->stamps, holes = fos_half_of(core, lane->index, !dir)->ooo != NULL;
    fos_repack job = {.frame = w->template, .captured = w->template_n, .l3 = w->template_l3, .l4 = w->template_l4,
                      .payload = w->template_l4 + (uint32_t)(w->template[w->template_l4 + 12] >> 4) * 4, .link = w->link,
                      .ip_id_add = ++k->ident, .options = options, .segs = segs, .seg_count = count, .n = have};
    if (!n && holes && back->una >= back->start) edge_count = fos_keep_blocks(core, lane, !dir, edges, stamps ? 6 : 8);
    job.options_len = fos_tcp_make_options(options, stamps, k->tsval, back->tsval, edges, edge_count);
    job.fields.set = FOS_SET_SEQ | FOS_SET_ACK | FOS_SET_FLAGS | FOS_SET_WINDOW | FOS_SET_URGENT;
    job.fields.seq = fos_half_of(core, lane->index, dir)->origin + (uint32_t)at;
    job.fields.ack = fos_half_of(core, lane->index, !dir)->origin + (uint32_t)fos_keep_acked(core, lane, !dir);
    job.fields.window = fos_keep_window(core, lane, !dir);
    job.fields.tcp_flags = (uint8_t)(flags | FOS_TCP_ACK | (back->congested ? FOS_TCP_ECE : 0));
    uint32_t size = fos_repack_build(&job, out, FOS_SCRATCH_FRAME);
    if (!size) { FOS_COUNT(&core->counters, merged_oversize); return; }
    FOS_COUNT(&core->counters, merged_made);
    fos_outlets_send(&core->outlets, &core->counters, out, size, size, now, w->link, w->iface);
    fos_outlets_keep(&core->outlets, size);
    if (!holes && back->una >= back->start) back->acks_due = 0;  /* where bytes are missing a bare one says more */
}

/* ---- the queue -------------------------------------------------------------------------------------- */

/* Put what leaves at the end of the queue. */
static void fos_keep_append(fos_core *core, fos_way *w, const fos_seg *segs, uint32_t count, uint64_t n) {
    fos_keep *k = w->keep;
    if (!n) return;
    fos_block *block = fos_block_new(&core->blocks, n);
    fos_queued *q = block ? fos_pool_take(&core->queued) : NULL;
    if (!q) { core->failed = 1; return; }
    fos_segs_copy(block->data, segs, count, 0, n);
    *q = (fos_queued){.at = k->end, .n = n, .data = block->data};
    if (k->last) k->last->next = q;
    else k->first = q;
    k->last = q;
    k->end += n;
}

FOS_INLINE uint64_t fos_keep_mss(const fos_way *w) { return w->mss ? w->mss : 536; }

/* What is there from `at` on that one segment may carry, up to `stop`. */
static uint64_t fos_keep_part(const fos_keep *k, uint64_t at, uint64_t stop, uint64_t mss) {
    uint64_t n = stop > at ? stop - at : 0;
    if (at + n > k->end) n = k->end > at ? k->end - at : 0;
    return n < mss ? n : mss;
}

/* Send n bytes at `at` again. */
static void fos_keep_repeat(fos_core *core, fos_lane *lane, int dir, uint64_t at, uint64_t n, int64_t now) {
    fos_keep *k = lane->way[dir].keep;
    k->timed_at = 0;                          /* Karn: what was sent twice tells no round trip */
    fos_keep_segment(core, lane, dir, at, n, at + n == k->end ? k->fin_sent ? FOS_TCP_FIN | FOS_TCP_PSH : FOS_TCP_PSH : 0, now);
}

/* Something was lost: halve, and repeat what lies below `lost`. */
static void fos_keep_repair(fos_keep *k, uint8_t how, uint64_t lost, uint64_t mss) {
    uint64_t flight = k->next - k->una;
    if (!k->repair || how == FOS_REPAIR_TIMEOUT) k->ssthresh = flight / 2 > 2 * mss ? flight / 2 : 2 * mss;
    k->cwnd = how == FOS_REPAIR_TIMEOUT ? mss : k->ssthresh;
    k->recover = k->next;
    k->repair = how;
    k->again = k->una;
    k->lost = lost;
}

/* The receiver has all up to final offset `final`, its FIN not counted. */
static void fos_keep_advance(fos_core *core, fos_way *w, uint64_t final, int64_t now) {
    fos_keep *k = w->keep;
    uint64_t mss = fos_keep_mss(w), got = final - k->una, flight = k->next - k->una;
    k->una = final;
    if (k->next < k->una) k->next = k->una;
    fos_keep_trim(k);
    while (k->first && k->first->at + k->first->n <= k->una) {
        fos_queued *q = k->first;
        k->first = q->next;
        if (!k->first) k->last = NULL;
        fos_block_drop(&core->blocks, q->data);
        fos_pool_give(&core->queued, q);
    }
    if (k->timed_at && final >= k->timed) {
        int64_t rtt = now - k->timed_at;
        if (!k->srtt) { k->srtt = rtt; k->rttvar = rtt / 2; }
        else {
            int64_t off = k->srtt - rtt;
            k->rttvar += ((off < 0 ? -off : off) - k->rttvar) / 4;
            k->srtt += (rtt - k->srtt) / 8;
        }
        k->timed_at = 0;
    }
    k->rto = k->srtt ? k->srtt + 4 * k->rttvar : FOS_KEEP_RTO_FIRST;
    if (k->rto < FOS_KEEP_RTO_LEAST) k->rto = FOS_KEEP_RTO_LEAST;
    k->tries = k->dupacks = 0;
    if (k->again < k->una) k->again = k->una;
    if (k->repair && k->una >= k->recover) {
        if (k->repair == FOS_REPAIR_FAST) k->cwnd = k->ssthresh;
        k->repair = FOS_REPAIR_NONE;
        k->lost = 0;
    } else if (k->repair == FOS_REPAIR_FAST && !k->sacks) {      /* a partial acknowledgement: the next hole (RFC 6582) */
        k->again = k->una;
        k->lost = k->una + mss;
    }
    if (k->repair != FOS_REPAIR_FAST && flight + 2 * mss >= k->cwnd) {   /* it was the limit */
        if (k->cwnd < k->ssthresh) k->cwnd += got < 2 * mss ? got : 2 * mss;
        else k->cwnd += mss * got / (k->cwnd ? k->cwnd : 1) + 1;
    }
}

/* The receiver acknowledged up to final offset `final`; `pure`: its packet carried nothing else; `news`: SACK blocks
 * that say more than before. */
static void fos_keep_ack(fos_core *core, fos_lane *lane, int dir, uint64_t final, uint64_t right, int pure, int news, int64_t now) {
    fos_way *w = &lane->way[dir];
    fos_keep *k = w->keep;
    uint64_t mss = fos_keep_mss(w);
    int moved = right > k->right || !k->right_known, forward = final > k->una;
    if (final > k->end + k->fin_sent || final < k->una) return;
    if (moved || forward) {
        k->right = right;
        k->right_known = 1;
    }
    if (final > k->end) {
        forward = !k->fin_acked;
        k->fin_acked = 1;
        final = k->end;
    }
    if (forward) {
        fos_keep_advance(core, w, final, now);
        k->deadline = k->una < k->next || (k->fin_sent && !k->fin_acked) ? now + k->rto : 0;
    } else if (k->next > k->una && k->una >= k->start && (news || (pure && !moved))) k->dupacks++;
    if (k->una < k->start || k->una == k->next) return;
    uint64_t lost = fos_keep_lost(k, mss);
    if (lost <= k->una) return;
    if (!k->repair) {
        fos_keep_repair(k, FOS_REPAIR_FAST, lost, mss);
        k->deadline = now + k->rto;
    } else if (k->sacks && lost > k->lost) k->lost = lost;
}

/* Send what the windows allow: what was lost first. */
static void fos_keep_push(fos_core *core, fos_lane *lane, int dir, int64_t now) {
    fos_way *w = &lane->way[dir];
    fos_keep *k = w->keep;
    uint64_t mss = fos_keep_mss(w), stop;
    if (k->reset) return;
    uint64_t pipe = fos_keep_pipe(k, mss);
    while (k->repair && k->una >= k->start) {
        uint64_t at = fos_keep_hole(k, k->again > k->una ? k->again : k->una, &stop);
        if (stop > k->lost) stop = k->lost;
        if (stop > k->next) stop = k->next;
        uint64_t n = fos_keep_part(k, at, stop, mss);
        if (!n || (pipe && pipe + n > k->cwnd)) break;
        fos_keep_repeat(core, lane, dir, at, n, now);
        k->again = at + n;
        pipe += n;
        if (!k->deadline) k->deadline = now + k->rto;
    }
    while (k->next < k->end && k->next < k->right) {
        uint64_t n = fos_keep_part(k, k->next, k->right, mss);
        if (pipe && pipe + n > k->cwnd) break;
        if (n < mss && k->next + n < k->end && k->next > k->una) break;   /* no silly window (RFC 1122 section 4.2.3.4) */
        uint8_t flags = k->next + n == k->end ? FOS_TCP_PSH : 0;
        if (flags && k->fin) {
            flags |= FOS_TCP_FIN;
            k->fin_sent = 1;
        }
        fos_keep_segment(core, lane, dir, k->next, n, flags, now);
        k->next += n;
        pipe += n;
        if (!k->timed_at) {
            k->timed_at = now;
            k->timed = k->next;
        }
        if (!k->deadline) k->deadline = now + k->rto;
    }
    if (k->fin && !k->fin_sent && k->next == k->end) {
        fos_keep_segment(core, lane, dir, k->end, 0, FOS_TCP_FIN, now);
        k->fin_sent = 1;
        if (!k->deadline) k->deadline = now + k->rto;
    }
    if (!k->deadline && k->next < k->end) k->deadline = now + k->rto;   /* a closed window is probed */
}

#endif
