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
 * leaves, original ones those of what came (splice.h).  Writer: the engine loop.
 * The file is long because a sender's timers, windows and repairs are one machine.
 */
#ifndef FOS_KEEPING_H
#define FOS_KEEPING_H

#include "lanes.h"
#include "repack.h"

enum { FOS_KEEP_SEGS = 64 };              /* pieces of one segment */
enum { FOS_KEEP_TRIES = 15 };             /* time-outs in a row before both sides are reset: RFC 1122's R2 and more */
enum { FOS_KEEP_ACKS = 4 };               /* duplicate acknowledgements sent at once: three start a fast retransmission */
#define FOS_KEEP_RTO_FIRST 300000000LL
#define FOS_KEEP_RTO_LEAST 40000000LL     /* a round trip and a delayed acknowledgement on a local network */
#define FOS_KEEP_RTO_MOST 20000000000LL

/* Bytes of the queue: one unit's, as the last stage released them. */
typedef struct fos_queued {
    struct fos_queued *next;
    uint64_t at;              /* final offset of the first byte */
    uint64_t n;
    const uint8_t *data;      /* a block */
} fos_queued;

typedef struct fos_range {
    uint64_t start, end;
} fos_range;

/* One way of a kept connection: what its sender gave us and its receiver has not acknowledged. */
typedef struct fos_keep {
    fos_queued *first, *last;
    uint64_t start;           /* bytes below left before: they are their sender's to repeat */
    uint64_t una;             /* acknowledged by the receiver up to here (final) */
    uint64_t next;            /* sent up to here */
    uint64_t end;             /* queued up to here */
    uint64_t right;           /* the receiver takes no byte at or behind */
    uint64_t edge;            /* what the sender was told it may send up to (original) */
    uint64_t recover;         /* a loss below this offset belongs to the one being repaired */
    uint64_t again;           /* holes below were filled in this repair */
    uint64_t timed;           /* the segment whose round trip is measured ends here, */
    int64_t timed_at;         /* ... and was sent then; 0: none is */
    int64_t deadline;         /* of the retransmission timer, or 0 */
    int64_t srtt, rttvar, rto;
    uint64_t cwnd, ssthresh;
    fos_range sack[4];        /* what the receiver says it has behind a hole (final) */
    uint32_t sacks, dupacks, tries;
    uint32_t acks_due;        /* acknowledgements that the sender is owed */
    uint32_t tsval;           /* the sender's newest time stamp */
    uint16_t ident;           /* IPv4 identifications used */
    uint8_t stamps;           /* its packets bear time stamps */
    uint8_t repairing;
    uint8_t fin, fin_sent, fin_acked;
    uint8_t reset;            /* the sender reset the connection, or we did */
} fos_keep;

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
        k->cwnd = 10u * (w->mss ? w->mss : 1220u);
        k->ssthresh = FOS_ALL;
        if (h->flags & FOS_HALF_FIN_DONE) {   /* has the FIN left already? */
            const fos_stream *s = h->stream;
            const fos_unit *u;
            k->fin = 1;
            for (uint64_t i = w->next_unit; s && (u = fos_stream_unit(s, i)); i++)
                if (u->kind == FOS_UNIT_FIN) k->fin = 0;
            k->fin_sent = w->fin_gone = k->fin;
            k->fin_acked = k->fin && h->acked > w->gone;
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

/* The window field for a direction's sender: what we have room for, never less than it was told. */
static uint16_t fos_keep_window(const fos_core *core, fos_lane *lane, int dir) {
    fos_keep *k = lane->way[dir].keep;
    const fos_half *h = fos_half_of(core, lane->index, dir);
    const fos_stream *s = h->stream, *o = fos_half_of(core, lane->index, !dir)->stream;
    uint64_t acked = fos_keep_acked(core, lane, dir), waiting = h->ooo ? h->ooo->pieces.bytes : 0;
    uint64_t used = (k->end - k->una) + (h->next - lane->way[dir].gone) + waiting;
    uint64_t right = acked + (used < core->limits.keep_bytes ? core->limits.keep_bytes - used : 0);
    if (right < k->edge) right = k->edge;
    uint32_t scale = s && o && s->wscale && o->wscale ? s->wscale - 1u : 0;
    uint64_t window = right > acked ? (right - acked) >> scale : 0;
    if (window > 65535) window = 65535;
    right = acked + (window << scale);
    if (right > k->edge) k->edge = right;
    return (uint16_t)window;
}

/* Send one segment of n bytes from final offset `at` on; flags without ACK, which is always set. */
static void fos_keep_segment(fos_core *core, fos_lane *lane, int dir, uint64_t at, uint64_t n, uint8_t flags, int64_t now) {
    fos_way *w = &lane->way[dir];
    fos_keep *k = w->keep, *back = lane->way[!dir].keep;
    fos_seg segs[FOS_KEEP_SEGS];
    uint32_t count = 0;
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
    int stamps = k->stamps && back->stamps;
    fos_repack job = {.frame = w->template, .captured = w->template_n, .l3 = w->template_l3, .l4 = w->template_l4,
                      .payload = w->template_l4 + (uint32_t)(w->template[w->template_l4 + 12] >> 4) * 4, .link = w->link,
                      .ip_id_add = ++k->ident, .options = options, .segs = segs, .seg_count = count, .n = have};
    job.options_len = fos_tcp_make_options(options, stamps, k->tsval, back->tsval, NULL, 0);
    job.fields.set = FOS_SET_SEQ | FOS_SET_ACK | FOS_SET_FLAGS | FOS_SET_WINDOW | FOS_SET_URGENT;
    job.fields.seq = fos_half_of(core, lane->index, dir)->origin + (uint32_t)at;
    job.fields.ack = fos_half_of(core, lane->index, !dir)->origin + (uint32_t)fos_keep_acked(core, lane, !dir);
    job.fields.window = fos_keep_window(core, lane, !dir);
    job.fields.tcp_flags = (uint8_t)(flags | FOS_TCP_ACK);
    uint32_t size = fos_repack_build(&job, out, FOS_SCRATCH_FRAME);
    if (!size) { FOS_COUNT(&core->counters, merged_oversize); return; }
    uint8_t *ip = out + w->template_l3;       /* no congestion marks of packets that were not ours */
    (void)ip;
    FOS_COUNT(&core->counters, merged_made);
    fos_outlets_send(&core->outlets, &core->counters, out, size, size, now, w->link, w->iface);
    fos_outlets_keep(&core->outlets, size);
    back->acks_due = 0;
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

static int fos_keep_sacked(const fos_keep *k, uint64_t at) {
    for (uint32_t i = 0; i < k->sacks; i++)
        if (at >= k->sack[i].start && at < k->sack[i].end) return 1;
    return 0;
}

FOS_INLINE uint64_t fos_keep_mss(const fos_way *w) { return w->mss ? w->mss : 536; }

/* Send the segment at `at` again. */
static void fos_keep_repeat(fos_core *core, fos_lane *lane, int dir, uint64_t at, int64_t now) {
    fos_way *w = &lane->way[dir];
    fos_keep *k = w->keep;
    uint64_t n = k->end > at ? k->end - at : 0, mss = fos_keep_mss(w);
    if (n > mss) n = mss;
    k->timed_at = 0;                          /* Karn: what was sent twice tells no round trip */
    fos_keep_segment(core, lane, dir, at, n, (uint8_t)(at + n == k->end && k->fin_sent ? FOS_TCP_FIN | FOS_TCP_PSH : FOS_TCP_PSH), now);
}

/* Fill the holes that the receiver's SACK blocks show, as far as the congestion window allows. */
static void fos_keep_repair(fos_core *core, fos_lane *lane, int dir, int64_t now, uint32_t most) {
    fos_keep *k = lane->way[dir].keep;
    uint64_t top = k->una + 1, mss = fos_keep_mss(&lane->way[dir]);
    for (uint32_t i = 0; i < k->sacks; i++)
        if (k->sack[i].end > top) top = k->sack[i].end;
    uint64_t at = k->again > k->una ? k->again : k->una;
    while (most && at < top && at < k->next + k->fin_sent) {
        if (!fos_keep_sacked(k, at)) {
            fos_keep_repeat(core, lane, dir, at, now);
            most--;
        }
        at += mss;
    }
    k->again = at;
}

/* The receiver acknowledged up to final offset `final`; `pure`: its packet carried nothing else. */
static void fos_keep_ack(fos_core *core, fos_lane *lane, int dir, uint64_t final, uint64_t right, int pure, int64_t now) {
    fos_way *w = &lane->way[dir];
    fos_keep *k = w->keep;
    uint64_t mss = fos_keep_mss(w), flight = k->next - k->una;
    int moved = right > k->right;
    if (final > k->end + k->fin || final < k->una) return;
    if (moved || final > k->una) k->right = right;
    if (final > k->una) {
        uint64_t got = final - k->una;
        if (k->fin && final > k->end) {
            k->fin_acked = 1;
            final = k->end;
        }
        k->una = final;
        if (k->next < k->una) k->next = k->una;
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
        if (k->repairing && k->una >= k->recover) {
            k->repairing = 0;
            k->cwnd = k->ssthresh;
        } else if (k->repairing) {
            if (k->again < k->una) k->again = k->una;
            fos_keep_repair(core, lane, dir, now, 2);   /* a partial acknowledgement: the next hole (RFC 6582) */
        } else if (k->cwnd < k->ssthresh) k->cwnd += got < 2 * mss ? got : 2 * mss;
        else k->cwnd += mss * got / (k->cwnd ? k->cwnd : 1) + 1;
        k->deadline = k->una < k->next || (k->fin_sent && !k->fin_acked) ? now + k->rto : 0;
    } else if (pure && !moved && flight && k->una >= k->start) {
        k->dupacks++;
        if (!k->repairing && (k->dupacks == 3 || (k->sacks && k->sack[0].end > k->una + 3 * mss && k->dupacks >= 2))) {
            k->ssthresh = flight / 2 > 2 * mss ? flight / 2 : 2 * mss;
            k->cwnd = k->ssthresh;
            k->recover = k->next;
            k->repairing = 1;
            k->again = k->una;
            fos_keep_repair(core, lane, dir, now, 2);
            k->deadline = now + k->rto;
        } else if (k->repairing) fos_keep_repair(core, lane, dir, now, 1);
    }
}

/* Send what the windows allow. */
static void fos_keep_push(fos_core *core, fos_lane *lane, int dir, int64_t now) {
    fos_way *w = &lane->way[dir];
    fos_keep *k = w->keep;
    uint64_t mss = fos_keep_mss(w), limit = k->una + k->cwnd;
    if (k->reset) return;
    if (limit > k->right) limit = k->right;
    while (k->next < k->end && k->next < limit) {
        uint64_t n = k->end - k->next;
        if (n > mss) n = mss;
        if (n > limit - k->next) n = limit - k->next;
        if (n < mss && k->next + n < k->end && k->next > k->una) break;   /* no silly window (RFC 1122 section 4.2.3.4) */
        int last = k->next + n == k->end;
        uint8_t flags = last ? FOS_TCP_PSH : 0;
        if (last && k->fin) {
            flags |= FOS_TCP_FIN;
            k->fin_sent = 1;
        }
        if (!fos_keep_sacked(k, k->next)) fos_keep_segment(core, lane, dir, k->next, n, flags, now);
        k->next += n;
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

/* Tell an end that the connection is over; `final`: where it stands. */
static void fos_keep_reset(fos_core *core, fos_lane *lane, int dir, int64_t now) {
    fos_keep *k = lane->way[dir].keep;
    fos_keep_segment(core, lane, dir, k->una > k->start ? k->una : k->next, 0, FOS_TCP_RST, now);
    if (k->una < k->next) fos_keep_segment(core, lane, dir, k->next, 0, FOS_TCP_RST, now);
    k->reset = 1;
    k->deadline = 0;
}

/* The timer of a way ran out. */
static void fos_keep_timeout(fos_core *core, fos_lane *lane, int dir, int64_t now) {
    fos_way *w = &lane->way[dir];
    fos_keep *k = w->keep;
    uint64_t mss = fos_keep_mss(w), flight = k->next - k->una;
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
    if (k->una == k->next && k->next < k->end && k->next >= k->right) {
        fos_keep_segment(core, lane, dir, k->next, 1, 0, now);   /* zero window: one byte asks */
        k->tries = 1;
    } else {
        k->ssthresh = flight / 2 > 2 * mss ? flight / 2 : 2 * mss;
        k->cwnd = 2 * mss;
        k->repairing = 1;
        k->recover = k->next;
        k->sacks = 0;                         /* a receiver may have dropped what it had (RFC 2018 section 8) */
        k->again = k->una;
        fos_keep_repeat(core, lane, dir, k->una, now);
        k->again = k->una + mss;
        k->dupacks = 0;
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
}

/* Bytes that left before we kept the connection are repeated by their sender; what lies behind them is ours to send. */
static void fos_keep_relay(fos_core *core, fos_lane *lane, const fos_transit *t) {
    fos_keep *k = lane->way[t->dir].keep;
    uint32_t hl = (uint32_t)(t->frame[t->l4 + 12] >> 4) * 4, payload = t->l4 + hl;
    uint64_t n = k->start - (uint64_t)t->off < t->paylen ? k->start - (uint64_t)t->off : t->paylen;
    uint8_t *out = fos_outlets_room(&core->outlets);
    if (!out) { core->failed = 1; return; }
    if (t->off < 0 || payload + n > t->captured) return;
    fos_seg seg = {.p = t->frame + payload, .n = n};
    fos_repack job = {.frame = t->frame, .captured = t->captured, .l3 = t->l3, .l4 = t->l4, .payload = payload, .link = t->link,
                      .segs = &seg, .seg_count = 1, .n = n};
    job.fields.set = FOS_SET_ACK | FOS_SET_FLAGS | FOS_SET_WINDOW;
    job.fields.ack = fos_half_of(core, lane->index, !t->dir)->origin + (uint32_t)fos_keep_acked(core, lane, !t->dir);
    job.fields.window = fos_keep_window(core, lane, !t->dir);
    job.fields.tcp_flags = FOS_TCP_ACK | FOS_TCP_PSH;
    uint32_t size = fos_repack_build(&job, out, FOS_SCRATCH_FRAME);
    if (!size) return;
    FOS_COUNT(&core->counters, merged_rewritten);
    fos_outlets_send(&core->outlets, &core->counters, out, size, size, t->ts, t->link, t->iface);
    fos_outlets_keep(&core->outlets, size);
}

/* Take what a packet says of the other direction, and note what its sender is owed.  1: its bytes, if any, come
 * by the stream; 0: it was sent on, or is done with. */
static void fos_keep_packet(fos_core *core, fos_lane *lane, const fos_transit *t) {
    int dir = t->dir;
    fos_way *w = &lane->way[dir];
    fos_keep *k = w->keep, *back = lane->way[!dir].keep;
    const fos_half *h = fos_half_of(core, lane->index, dir), *other = fos_half_of(core, lane->index, !dir);
    const uint8_t *th = t->frame + t->l4;
    uint32_t hl = (uint32_t)(th[12] >> 4) * 4;
    int64_t now = core->now;
    if (!(t->flags & FOS_TRANSIT_TCP) || t->captured < t->l4 + 20u || t->captured < t->l4 + hl) {
        fos_outlets_send(&core->outlets, &core->counters, t->frame, t->captured, t->wire, t->ts, t->link, t->iface);
        return;
    }
    fos_keep_learn(lane, t);
    fos_tcp_options o = fos_tcp_find_options(th, hl);
    if (o.timestamps) {
        uint32_t tsval = fos_be32(th + o.timestamps);
        if (!k->stamps || fos_seq_diff(tsval, k->tsval) > 0) k->tsval = tsval;
        k->stamps = 1;
    }
    if (th[13] & FOS_TCP_SYN) {               /* a handshake that is repeated; its answer is no news either */
        FOS_COUNT(&core->counters, merged_unchanged);
        fos_outlets_send(&core->outlets, &core->counters, t->frame, t->captured, t->wire, t->ts, t->link, t->iface);
        return;
    }
    if (th[13] & FOS_TCP_RST) {
        if (!k->reset) fos_keep_reset(core, lane, dir, now);
        lane->way[!dir].keep->reset = 1;
        return;
    }
    if (k->reset || back->reset) {            /* it does not know yet, or asks back (RFC 5961) */
        back->una = back->una < back->start ? back->start : back->una;
        if (th[13] & FOS_TCP_ACK) {
            uint64_t q = back->una + (uint64_t)(int64_t)fos_seq_diff(fos_be32(th + 8), (uint32_t)(other->origin + (uint32_t)back->una));
            fos_keep_segment(core, lane, !dir, q, 0, FOS_TCP_RST, now);
        }
        return;
    }
    if ((th[13] & FOS_TCP_ACK) && (other->flags & FOS_HALF_STARTED)) {
        uint64_t final = back->una + (uint64_t)(int64_t)fos_seq_diff(fos_be32(th + 8), (uint32_t)(other->origin + (uint32_t)back->una));
        const fos_stream *s = h->stream, *os = other->stream;
        uint32_t scale = s && os && s->wscale && os->wscale ? os->wscale - 1u : 0;
        uint64_t right = final + ((uint64_t)fos_be16(th + 14) << scale);
        back->sacks = 0;
        for (uint32_t i = 0; o.sack && i + 1 < o.sack_edges && back->sacks < 4; i += 2) {
            uint64_t l = back->una + (uint64_t)(int64_t)fos_seq_diff(fos_be32(th + o.sack + 4 * i), (uint32_t)(other->origin + (uint32_t)back->una));
            uint64_t r = back->una + (uint64_t)(int64_t)fos_seq_diff(fos_be32(th + o.sack + 4 * i + 4), (uint32_t)(other->origin + (uint32_t)back->una));
            if (l < r && r <= back->next && r > back->una) back->sack[back->sacks++] = (fos_range){l, r};
        }
        int before = back->una < back->start;
        uint64_t una = back->una;
        fos_keep_ack(core, lane, !dir, final, right, !t->paylen && !(th[13] & FOS_TCP_FIN), now);
        if (before && (back->una > una || !t->paylen)) back->acks_due++;   /* the sender of what left before us waits for it */
    }
    int fin = (th[13] & FOS_TCP_FIN) != 0;
    if (t->paylen || fin) {
        k->acks_due++;
        if (!(t->flags & (FOS_TRANSIT_DATA | FOS_TRANSIT_AHEAD)) && (t->flags & FOS_TRANSIT_OFF) && k->una < k->start &&
            t->off < (int64_t)k->start) fos_keep_relay(core, lane, t);
    } else if ((t->flags & FOS_TRANSIT_OFF) && t->off < (int64_t)h->next) k->acks_due++;   /* a keep-alive, a window probe */
}

/* After the log: send what is due in both directions. */
static void fos_keep_output(fos_core *core, fos_lane *lane) {
    int64_t now = core->now;
    for (int dir = 0; dir < 2; dir++) fos_keep_push(core, lane, dir, now);
    for (int dir = 0; dir < 2; dir++) {
        fos_keep *k = lane->way[dir].keep, *back = lane->way[!dir].keep;
        if (k->reset || back->reset) continue;
        /* A window that was shut and has room again is told of. */
        uint64_t edge = k->edge, acked = fos_keep_acked(core, lane, dir);
        if (!k->acks_due && edge && edge < acked + 2 * fos_keep_mss(&lane->way[dir])) {
            uint64_t told = k->edge;
            fos_keep_window(core, lane, dir);
            if (k->edge >= told + 2 * fos_keep_mss(&lane->way[dir])) k->acks_due = 1;
            k->edge = told;
        }
        uint32_t n = k->acks_due;
        if (n > FOS_KEEP_ACKS) n = FOS_KEEP_ACKS;
        const fos_half *h = fos_half_of(core, lane->index, dir);
        if (n > 1 && !h->ooo) n = 1;          /* several only where they tell of a hole */
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
        if (!lane->way[0].keep) continue;
        for (int dir = 0; dir < 2; dir++) {
            fos_keep *k = lane->way[dir].keep;
            if (k->deadline && k->deadline <= core->now) {
                fos_keep_timeout(core, lane, dir, core->now);
                fos_keep_push(core, lane, dir, core->now);
            }
            if (k->deadline && (!next || k->deadline < next)) next = k->deadline;
        }
    }
    core->keep_deadline = next;
}

#endif
