/* What is kept of a TCP connection in line: the queue, the receiver's scoreboard, the timers.
 *
 *     start        una          again        lost          next            end        right
 *       | sender's  | repeated   | to repeat  | in flight   | not sent yet  |            |
 *       '-----------'------------'------------'-------------'---------------'            '- receiver's window
 *
 * One `fos_keep` per direction.  Offsets are final, those of what leaves, except `edge`.  The
 * scoreboard holds what the receiver said it has behind a hole (RFC 2018); from it follow how much is
 * on its way (`pipe`) and what counts as lost (RFC 6675).  Nothing here sends: keeping.h does.
 * Writer: the engine loop.
 */
#ifndef FOS_KEEP_H
#define FOS_KEEP_H

#include "core.h"

enum { FOS_DEFAULT_MSS = 1220 };          /* IPv6's least MTU less 60 bytes of headers: safe everywhere */
enum { FOS_KEEP_RANGES = 16 };            /* ranges of the scoreboard: more holes than that are repeated needlessly */

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

enum fos_keep_repair {
    FOS_REPAIR_NONE, FOS_REPAIR_FAST,     /* after duplicate acknowledgements or SACK */
    FOS_REPAIR_TIMEOUT,                   /* after a time-out: all that was sent counts as lost */
};

/* One way of a kept connection: what its sender gave us and its receiver has not acknowledged. */
typedef struct fos_keep {
    fos_queued *first, *last;
    uint64_t start;           /* bytes below left before: they are their sender's to repeat */
    uint64_t una;             /* acknowledged by the receiver up to here */
    uint64_t next;            /* sent up to here */
    uint64_t end;             /* queued up to here */
    uint64_t right;           /* the receiver takes no byte at or behind */
    uint64_t edge;            /* what the sender was told it may send up to (original) */
    uint64_t recent;          /* where the sender's latest segment ahead of a hole began (original) */
    uint64_t recover;         /* a loss below belongs to the one being repaired */
    uint64_t again;           /* repeated up to here in this repair */
    uint64_t lost;            /* bytes below count as lost, unless the receiver has them or they were repeated */
    uint64_t timed;           /* the segment whose round trip is measured ends here, */
    int64_t timed_at;         /* ... and was sent then; 0: none is */
    int64_t deadline;         /* of the retransmission timer, or 0 */
    int64_t srtt, rttvar, rto;
    uint64_t cwnd, ssthresh;
    fos_range sack[FOS_KEEP_RANGES];      /* what the receiver has behind a hole: ascending, apart */
    uint32_t sacks, dupacks, tries;
    uint32_t acks_due;        /* acknowledgements that the sender is owed */
    uint32_t tsval;           /* the sender's newest time stamp */
    uint16_t ident;           /* IPv4 identifications used */
    uint8_t stamps;           /* its packets bear time stamps */
    uint8_t repair;           /* fos_keep_repair */
    uint8_t right_known;      /* `right` is the receiver's own word */
    uint8_t congested;        /* the sender's packets were marked on their way to us: it is told until it answers (RFC 3168) */
    uint8_t fin, fin_sent, fin_acked;
    uint8_t reset;            /* the receiver was told that the connection is reset, or did it itself */
} fos_keep;

/* ---- the scoreboard ---------------------------------------------------------------------------------- */

/* The receiver has [start, end). */
static void fos_keep_has(fos_keep *k, uint64_t start, uint64_t end) {
    uint32_t i = 0, j;
    if (start < k->una) start = k->una;
    if (start >= end) return;
    while (i < k->sacks && k->sack[i].end < start) i++;
    for (j = i; j < k->sacks && k->sack[j].start <= end; j++) {
        if (k->sack[j].start < start) start = k->sack[j].start;
        if (k->sack[j].end > end) end = k->sack[j].end;
    }
    if (j == i && k->sacks == FOS_KEEP_RANGES) return;
    memmove(&k->sack[i + 1], &k->sack[j], (k->sacks - j) * sizeof *k->sack);
    k->sacks += 1 + i - j;
    k->sack[i] = (fos_range){start, end};
}

/* It has all below `una`. */
static void fos_keep_trim(fos_keep *k) {
    uint32_t n = 0;
    while (n < k->sacks && k->sack[n].end <= k->una) n++;
    memmove(k->sack, k->sack + n, (k->sacks - n) * sizeof *k->sack);
    k->sacks -= n;
    if (k->sacks && k->sack[0].start < k->una) k->sack[0].start = k->una;
}

/* The first byte at or behind `at` that it does not have; *stop: where what it has begins again, or FOS_ALL. */
static uint64_t fos_keep_hole(const fos_keep *k, uint64_t at, uint64_t *stop) {
    *stop = FOS_ALL;
    for (uint32_t i = 0; i < k->sacks; i++) {
        if (k->sack[i].end <= at) continue;
        if (k->sack[i].start > at) {
            *stop = k->sack[i].start;
            break;
        }
        at = k->sack[i].end;
    }
    return at;
}

/* Bytes on their way: not lost or repeated, and not with the receiver. */
static uint64_t fos_keep_pipe(const fos_keep *k, uint64_t mss) {
    uint64_t pipe = 0, at = k->una, stop;
    while ((at = fos_keep_hole(k, at, &stop)) < k->next) {
        if (stop > k->next) stop = k->next;
        if (k->again > at) pipe += (k->again < stop ? k->again : stop) - at;
        uint64_t from = k->lost > k->again ? k->lost : k->again;
        if (from < at) from = at;
        if (from < stop) pipe += stop - from;
        at = stop;
    }
    uint64_t arrived = k->sacks ? 0 : k->dupacks * mss;      /* without SACK each duplicate says that one arrived */
    return pipe > arrived ? pipe - arrived : 0;
}

/* Where what lies below has as much behind it, with the receiver, as three segments: it is lost (RFC 6675). */
static uint64_t fos_keep_lost(const fos_keep *k, uint64_t mss) {
    uint64_t have = 0, enough = 2 * mss + 1, flight = k->next - k->una;
    if (k->next == k->end && flight < 4 * mss) enough = flight > 2 * mss ? mss + 1 : 1;   /* too few for three (RFC 5827) */
    for (uint32_t i = k->sacks; i--;) {
        have += k->sack[i].end - k->sack[i].start;
        if (have >= enough) return k->sack[i].start;
    }
    return k->dupacks >= 3 ? k->una + mss : 0;
}

/* ---- what a kept connection takes --------------------------------------------------------------------- */

/* Is all that one end sent in our hands, and all that it is to have with it?  Nothing it says matters any more. */
FOS_INLINE int fos_keep_left(const fos_core *core, const fos_lane *lane, int dir) {
    return (fos_half_of(core, lane->index, dir)->flags & FOS_HALF_FIN_DONE) && lane->way[!dir].keep->fin_acked;
}

/* May a packet touch its connection?  A reset must name the very next byte (RFC 5961), data must not lie far beyond
 * the window that its sender was told.  0: it is refused. */
FOS_NOINLINE int fos_keep_admits(fos_core *core, uint32_t index, const fos_pkt *p) {
    const fos_lane *lane = core->table.lanes[index];
    const fos_keep *k = lane->way[p->dir].keep;
    const fos_half *h = fos_half_of(core, index, p->dir);
    if (!k || !(h->flags & FOS_HALF_STARTED)) return 1;
    uint64_t next = h->next + !!(h->flags & FOS_HALF_FIN_DONE);
    int64_t off = (int64_t)h->next + fos_seq_diff(p->seq, (uint32_t)(h->origin + (uint32_t)h->next));
    if (p->tcp_flags & FOS_TCP_RST) {
        if (((uint64_t)off == next || (k->una < k->start && (uint64_t)off == k->una)) && !fos_keep_left(core, lane, p->dir)) return 1;
        FOS_COUNT(&core->counters, kept_resets_refused);
        return 0;
    }
    /* Before we kept it, its receiver may have let it send more than we have room for. */
    if (p->paylen && k->edge && off > 0 && (uint64_t)off + p->paylen > k->edge + core->limits.keep_bytes) {
        FOS_COUNT(&core->counters, kept_no_room);
        return 0;
    }
    return 1;
}

#endif
