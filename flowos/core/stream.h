/* A stream: the data units of one level in one direction of one connection.
 *
 *     head_index                                   tail_index
 *        |                                             |
 *     [chunk: 15 units] -> [chunk: 15 units] -> [chunk ...]
 *
 * Units are appended at the tail by the engine loop and freed at the head once every module
 * has released them; in between they neither move nor change.  A window is a range of indices.
 * An idle stream owns no chunk.
 */
#ifndef FOS_STREAM_H
#define FOS_STREAM_H

#include "memory.h"
#include "unit.h"

enum { FOS_CHUNK_UNITS = 15 };

typedef struct fos_chunk {
    struct fos_chunk *next;
    uint64_t base;            /* index of units[0] */
    uint64_t pad[6];
    fos_unit units[FOS_CHUNK_UNITS];
} fos_chunk;
FOS_ASSERT_SIZE(fos_chunk, 1024);

typedef struct fos_stream {
    fos_chunk *first, *last;
    uint64_t head_index;      /* oldest unit held; writer: the engine loop */
    uint64_t tail_index;      /* one past the newest; writer: the engine loop */
    uint64_t head_off;        /* stream offset of the oldest byte held */
    uint64_t tail_off;        /* one past the newest byte */
    fos_chunk *cursor;        /* where a unit was looked up last, or NULL; the next is as a rule there or behind it */
    uint16_t mss;             /* largest payload that the receiver takes, as its SYN said; 0: not known */
    uint8_t wscale;           /* shift of the receiver's window, as its SYN said, and 1; 0: none */
    uint8_t sack;             /* the receiver's SYN permits SACK */
    uint32_t spare;
} fos_stream;
FOS_ASSERT_SIZE(fos_stream, 64);

/* The record that the next unit goes into (the caller fills it in), or NULL when memory is out. */
FOS_INLINE fos_unit *fos_stream_append(fos_stream *s, fos_pool *chunks) {
    fos_chunk *c = s->last;
    if (FOS_UNLIKELY(!c) || FOS_UNLIKELY(s->tail_index - c->base == FOS_CHUNK_UNITS)) {
        fos_chunk *n = fos_pool_take(chunks);
        if (FOS_UNLIKELY(!n)) return NULL;
        n->next = NULL;
        n->base = s->tail_index;
        if (c) c->next = n;
        else s->first = n;
        s->last = c = n;
    }
    return &c->units[s->tail_index++ - c->base];
}

/* The chunk of a unit that is held, or NULL.  Only the cursor of *s is written. */
FOS_INLINE fos_chunk *fos_stream_chunk(const fos_stream *s, uint64_t index) {
    fos_chunk *c = s->cursor && index >= s->cursor->base ? s->cursor : s->first;
    if (s->last && index >= s->last->base) return s->last;   /* what was just appended, however much waits before it */
    while (c && index - c->base >= FOS_CHUNK_UNITS) c = c->next;
    ((fos_stream *)s)->cursor = c;
    return c;
}

/* The unit of this index when it lies in the last chunk, else NULL.  O(1). */
FOS_INLINE fos_unit *fos_stream_last(const fos_stream *s, uint64_t index) {
    return s->last && index >= s->last->base && index < s->tail_index ? &s->last->units[index - s->last->base] : NULL;
}

/* The unit of this index, or NULL when it is not (or no longer) held.  O(1) in the last chunk and where the last look-up
 * was; else O(chunks between). */
FOS_INLINE fos_unit *fos_stream_unit(const fos_stream *s, uint64_t index) {
    if (index < s->head_index || index >= s->tail_index) return NULL;
    fos_chunk *c = fos_stream_chunk(s, index);
    return c ? &c->units[index - c->base] : NULL;
}

/* The same for a walk: *chunk is NULL at first and remembers where the last unit was.  O(1) for the next one. */
FOS_INLINE fos_unit *fos_stream_walk(const fos_stream *s, fos_chunk **chunk, uint64_t index) {
    if (index < s->head_index || index >= s->tail_index) return NULL;
    if (!*chunk || index < (*chunk)->base) *chunk = fos_stream_chunk(s, index);
    while (index - (*chunk)->base >= FOS_CHUNK_UNITS) *chunk = (*chunk)->next;
    return &(*chunk)->units[index - (*chunk)->base];
}

FOS_INLINE void fos_unit_dispose(fos_unit *u, fos_blocks *blocks) {
    if (FOS_UNLIKELY(u->flags & FOS_UNIT_OWNED))
        fos_block_drop(blocks, u->kind >= FOS_UNIT_DECODER ? u->bytes : u->frame);
}

/* Free the units before `index`. */
FOS_INLINE void fos_stream_free_to(fos_stream *s, uint64_t index, fos_pool *chunks) {
    while (s->head_index < index) {
        fos_chunk *c = s->first;
        uint64_t stop = c->base + FOS_CHUNK_UNITS;
        uint64_t upto = index < stop ? index : stop;
        for (uint64_t i = s->head_index; i < upto; i++) {
            fos_unit *u = &c->units[i - c->base];
            s->head_off = u->off + u->len;
            fos_unit_dispose(u, chunks->blocks);
        }
        s->head_index = upto;
        if (upto == stop || upto == s->tail_index) {
            s->first = c->next;
            if (!s->first) s->last = NULL;
            if (s->cursor == c) s->cursor = NULL;
            fos_pool_give(chunks, c);
        }
    }
}

/* 0 when the stream's invariants hold, else the number of the first broken one. */
static int fos_stream_check(const fos_stream *s) {
    if (s->head_index > s->tail_index) return 1;
    if (s->head_off > s->tail_off) return 2;
    uint64_t index = s->head_index, off = s->head_off;
    int seen = 0;
    for (const fos_chunk *c = s->first; c; c = c->next) {
        if (c->base > index) return 3;
        for (; index < s->tail_index && index - c->base < FOS_CHUNK_UNITS; index++) {
            const fos_unit *u = &c->units[index - c->base];
            if (u->off < off) return 4;
            off = u->off + u->len;
        }
        if (!c->next && s->last != c) return 5;
        seen |= c == s->cursor;
    }
    if (s->cursor && !seen) return 8;
    if (index != s->tail_index) return 6;
    return off > s->tail_off ? 7 : 0;
}

#endif
