/* Pieces waiting for reassembly: a sorted list of disjoint byte ranges, and who wins overlaps.
 *
 *     [start, end)      what the piece still covers        data: its byte at `start`, or NULL:
 *     [ostart, oend)    what its segment covered           a range that the snap length cut off
 *
 * TCP and IP reassembly share it; offsets are stream offsets or offsets in the datagram.
 * Overlap policies are those of target-based reassembly (Novak and Sturges, 2005 and 2007):
 * they depend on where both segments began and ended, never on what was trimmed off since.
 */
#ifndef FOS_PIECES_H
#define FOS_PIECES_H

#include "memory.h"
#include "unit.h"

enum fos_policy { FOS_FIRST = 0, FOS_LAST, FOS_LINUX, FOS_BSD, FOS_WINDOWS };

typedef struct fos_piece {
    struct fos_piece *next;
    uint64_t start, end;
    uint64_t ostart, oend;
    const uint8_t *data;
    const uint8_t *frame;     /* first byte of the frame or block that `data` lies in */
    int64_t ts;
    uint64_t packet;
    uint32_t acked_since;     /* TCP: the connection's packet count when `start` was first acknowledged */
    uint32_t wire, captured;
    uint16_t l3, l4;
    uint16_t flags;           /* FOS_UNIT_OWNED: `frame` is a block, and this piece holds a reference */
    uint16_t spare;
} fos_piece;

typedef struct fos_pieces {
    fos_piece *first, *last;
    uint64_t bytes;           /* covered, cut ranges included */
    uint32_t count;
} fos_pieces;

/* What inserting a segment met. */
enum { FOS_MET_OVERLAP = 1, FOS_MET_CONFLICT = 2, FOS_MET_NOTHING_NEW = 4, FOS_MET_NO_MEMORY = 8 };

FOS_INLINE int fos_new_wins(int policy, const fos_piece *old, const fos_piece *seg) {
    if (!seg->data) return 0;
    if (!old->data) return 1;
    int64_t began = (int64_t)(seg->ostart - old->ostart);  /* a segment may begin before offset 0 */
    switch (policy) {
    case FOS_LAST: return 1;
    case FOS_LINUX: return began <= 0;
    case FOS_BSD: return began < 0;
    case FOS_WINDOWS: return began < 0 && seg->oend > old->oend;
    default: return 0;
    }
}

/* A copy of `from` that covers [start, end), with its own reference. */
static fos_piece *fos_piece_part(fos_pool *pool, const fos_piece *from, uint64_t start, uint64_t end) {
    fos_piece *p = fos_pool_take(pool);
    if (!p) return NULL;
    *p = *from;
    p->start = start;
    p->end = end;
    if (from->data) p->data = from->data + (start - from->start);
    if (p->flags & FOS_UNIT_OWNED) fos_block_keep(p->frame);
    return p;
}

FOS_INLINE void fos_piece_free(fos_pool *pool, fos_piece *p) {
    if (p->flags & FOS_UNIT_OWNED) fos_block_drop(pool->blocks, p->frame);
    fos_pool_give(pool, p);
}

/* Put the segment in; what of it loses, or is there already, is left out.  `seg` itself is only
 * read.  Returns FOS_MET_* bits.  O(pieces), O(1) when it lies behind all of them. */
static int fos_pieces_insert(fos_pieces *list, fos_pool *pool, const fos_piece *seg, int policy) {
    uint64_t s = seg->start, e = seg->end;
    int met = FOS_MET_NOTHING_NEW;
    uint16_t again = 0;                          /* set on every part of the segment but its first */
    if (s >= e) return met;
    fos_piece **at = &list->first;
    if (list->last && s >= list->last->end) at = &list->last->next;
    while (s < e) {
        while (*at && (*at)->end <= s) at = &(*at)->next;
        fos_piece *q = *at;
        uint64_t stop = q && q->start < e ? q->start : e;
        if (s < stop) {                          /* empty ground up to the next piece */
            fos_piece *p = fos_piece_part(pool, seg, s, stop);
            if (!p) return met | FOS_MET_NO_MEMORY;
            p->flags |= again;
            again = FOS_UNIT_SAME_DATAGRAM;
            p->next = q;
            *at = p;
            at = &p->next;
            if (!q) list->last = p;
            list->bytes += stop - s;
            list->count++;
            met &= ~FOS_MET_NOTHING_NEW;
            s = stop;
            continue;
        }
        uint64_t m = e < q->end ? e : q->end;    /* q->start <= s < m */
        if (seg->data && q->data) {
            met |= FOS_MET_OVERLAP;
            if (memcmp(seg->data + (s - seg->start), q->data + (s - q->start), m - s)) met |= FOS_MET_CONFLICT;
        }
        if (fos_new_wins(policy, q, seg)) {
            fos_piece *p = fos_piece_part(pool, seg, s, m);
            if (!p) return met | FOS_MET_NO_MEMORY;
            met &= ~FOS_MET_NOTHING_NEW;
            p->flags |= again;
            again = FOS_UNIT_SAME_DATAGRAM;
            if (m < q->end) {                    /* what of q lies behind */
                fos_piece *r = fos_piece_part(pool, q, m, q->end);
                if (!r) { fos_piece_free(pool, p); return met | FOS_MET_NO_MEMORY; }
                if (q->start < s) r->flags |= FOS_UNIT_SAME_DATAGRAM;
                r->next = q->next;
                q->next = r;
                if (list->last == q) list->last = r;
                list->count++;
            }
            if (q->start < s) {                  /* what of q lies before */
                p->next = q->next;
                q->next = p;
                q->end = s;
                if (list->last == q) list->last = p;
                list->count++;
                at = &p->next;
            } else {
                p->next = q->next;
                *at = p;
                if (list->last == q) list->last = p;
                fos_piece_free(pool, q);
                at = &p->next;
            }
        }
        s = m;
    }
    return met;
}

static fos_piece *fos_pieces_pop(fos_pieces *list) {
    fos_piece *p = list->first;
    list->first = p->next;
    if (!list->first) list->last = NULL;
    list->bytes -= p->end - p->start;
    list->count--;
    return p;
}

/* Drop everything at or beyond `end`; returns the bytes dropped. */
static uint64_t fos_pieces_trim(fos_pieces *list, fos_pool *pool, uint64_t end) {
    uint64_t dropped = 0;
    fos_piece **at = &list->first, *last = NULL;
    while (*at) {
        fos_piece *p = *at;
        if (p->start >= end) {
            *at = p->next;
            dropped += p->end - p->start;
            list->count--;
            fos_piece_free(pool, p);
            continue;
        }
        if (p->end > end) {
            dropped += p->end - end;
            p->end = end;
        }
        last = p;
        at = &p->next;
    }
    list->last = last;
    list->bytes -= dropped;
    return dropped;
}

static void fos_pieces_clear(fos_pieces *list, fos_pool *pool) {
    while (list->first) fos_piece_free(pool, fos_pieces_pop(list));
}

/* 0 when sorted, disjoint and counted right, else what is broken. */
static int fos_pieces_check(const fos_pieces *list) {
    uint64_t bytes = 0, at = 0;
    uint32_t count = 0;
    const fos_piece *last = NULL;
    for (const fos_piece *p = list->first; p; p = p->next) {
        if (p->start >= p->end) return 1;
        if (last && p->start < at) return 2;
        if ((int64_t)(p->start - p->ostart) < 0 || p->end > p->oend) return 3;
        at = p->end;
        bytes += p->end - p->start;
        count++;
        last = p;
    }
    if (bytes != list->bytes || count != list->count) return 4;
    return last == list->last ? 0 : 5;
}

#endif
