/* Edits of one direction of a connection, and the map from what arrived to what leaves.
 *
 *     arrived:   0 ........ pos [removed] pos+removed ............     original offsets
 *     leaves:    0 ........ pos+delta [inserted] .................     final offsets
 *
 * An edit takes `removed` bytes away from `pos` on and puts `inserted` bytes in their place, in front
 * of the byte at pos + removed.  A list of edits is in ascending order and only grows at its end: a
 * release is final.  Several edits may stand at one position; they count in their order.  What lies
 * below a list's first edit is folded into one number.  Both maps are monotone (DESIGN section 9).
 * Writer: the engine loop.
 */
#ifndef FOS_SPLICE_H
#define FOS_SPLICE_H

#include "memory.h"

typedef struct fos_edit {
    uint64_t pos;             /* original offset where it begins */
    uint64_t removed;         /* original bytes that it takes away */
    const uint8_t *data;      /* what it puts in their place: a reference on a block, or NULL */
    uint64_t inserted;        /* bytes at data, or once there */
    int64_t delta;            /* final offset of `pos`, before this edit, less pos */
} fos_edit;
FOS_ASSERT_SIZE(fos_edit, 40);

typedef struct fos_edits {
    fos_edit *items;          /* [first, end) are the list */
    uint32_t first, end, capacity;
    uint32_t spare;
    int64_t delta;            /* what all edits so far add to an offset behind them */
    uint64_t shown;           /* edits that begin below this offset were read by others: they change no more */
} fos_edits;

FOS_INLINE uint32_t fos_edits_count(const fos_edits *e) { return e->end - e->first; }

static void fos_edits_free(fos_edits *e, fos_blocks *blocks) {
    for (uint32_t i = e->first; i < e->end; i++)
        if (e->items[i].data) fos_block_drop(blocks, e->items[i].data);
    free(e->items);
    memset(e, 0, sizeof *e);
}

/* Make room for one more: 0, or -1 without memory. */
static int fos_edits_room(fos_edits *e) {
    if (e->end < e->capacity) return 0;
    if (e->first > e->capacity / 2) {
        memmove(e->items, e->items + e->first, fos_edits_count(e) * sizeof(fos_edit));
        e->end -= e->first;
        e->first = 0;
        return 0;
    }
    uint32_t capacity = e->capacity ? e->capacity * 2 : 8;
    fos_edit *items = realloc(e->items, capacity * sizeof *items);
    if (!items) return -1;
    e->items = items;
    e->capacity = capacity;
    return 0;
}

/* Append an edit that shares the block of `data` (the n bytes at it; NULL with n = 0). */
static int fos_edits_share(fos_edits *e, uint64_t pos, uint64_t removed, const fos_edit *from) {
    if (fos_edits_room(e)) return -1;
    if (from->data) fos_block_keep(from->data);
    e->items[e->end++] = (fos_edit){.pos = pos, .removed = removed, .data = from->data, .inserted = from->inserted,
                                    .delta = e->delta};
    e->delta += (int64_t)from->inserted - (int64_t)removed;
    return 0;
}

/* Append an edit with a copy of n bytes at data.  `pos` is not below the end of the edit before. */
static int fos_edits_put(fos_edits *e, fos_blocks *blocks, uint64_t pos, uint64_t removed, const uint8_t *data, uint64_t n) {
    fos_block *block = NULL;
    if (!n && !removed) return 0;
    if (e->end > e->first && !n) {            /* removals that touch are one */
        fos_edit *last = &e->items[e->end - 1];
        if (last->pos + last->removed == pos && !last->inserted && last->pos >= e->shown) {
            last->removed += removed;
            e->delta -= (int64_t)removed;
            return 0;
        }
    }
    if (fos_edits_room(e)) return -1;
    if (n) {
        block = fos_block_new(blocks, n);
        if (!block) return -1;
        memcpy(block->data, data, n);
    }
    e->items[e->end++] = (fos_edit){.pos = pos, .removed = removed, .data = block ? block->data : NULL, .inserted = n,
                                    .delta = e->delta};
    e->delta += (int64_t)n - (int64_t)removed;
    return 0;
}

/* Index of the first edit whose position is above `pos`, in [first, end]. */
static uint32_t fos_edits_above(const fos_edits *e, uint64_t pos) {
    uint32_t low = e->first, high = e->end;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (e->items[middle].pos <= pos) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* Index of the first edit that does not end at or before `pos`, in [first, end]. */
static uint32_t fos_edits_at(const fos_edits *e, uint64_t pos) {
    uint32_t low = e->first, high = e->end;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const fos_edit *m = &e->items[middle];
        if (m->pos + m->removed < pos || (m->pos + m->removed == pos && m->pos < pos)) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* Where the original offset `pos` stands in what leaves, behind all edits at `pos` or before. */
FOS_INLINE uint64_t fos_edits_seq(const fos_edits *e, uint64_t pos) {
    if (FOS_LIKELY(e->first == e->end)) return pos + (uint64_t)e->delta;
    uint32_t i = fos_edits_above(e, pos);
    if (i == e->first) return pos + (uint64_t)e->items[i].delta;
    const fos_edit *edit = &e->items[i - 1];
    uint64_t end = edit->pos + edit->removed, base = edit->pos + (uint64_t)edit->delta + edit->inserted;
    return pos < end ? base : base + (pos - end);
}

/* The original offset up to which everything arrived when what leaves is acknowledged up to `final`. */
FOS_INLINE uint64_t fos_edits_ack(const fos_edits *e, uint64_t final) {
    if (FOS_LIKELY(e->first == e->end)) return final - (uint64_t)e->delta;
    uint32_t low = e->first, high = e->end;      /* first edit that begins above `final` in what leaves */
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (e->items[middle].pos + (uint64_t)e->items[middle].delta <= final) low = middle + 1;
        else high = middle;
    }
    if (low == e->first) return final - (uint64_t)e->items[low].delta;
    const fos_edit *edit = &e->items[low - 1];
    uint64_t begin = edit->pos + (uint64_t)edit->delta;
    if (final < begin + edit->inserted) return edit->pos;
    return edit->pos + edit->removed + (final - begin - edit->inserted);
}

/* Forget the edits that end at or below `pos`: the map is right above it only. */
static void fos_edits_forget(fos_edits *e, fos_blocks *blocks, uint64_t pos) {
    while (e->first < e->end) {
        fos_edit *edit = &e->items[e->first];
        if (edit->pos + edit->removed > pos || edit->pos >= pos) break;
        if (edit->data) fos_block_drop(blocks, edit->data);
        e->first++;
    }
    if (e->first == e->end) e->first = e->end = 0;
}

/* Let go of the first edit: it belongs to somebody else now, with its reference. */
FOS_INLINE fos_edit fos_edits_take(fos_edits *e) {
    fos_edit edit = e->items[e->first++];
    if (e->first == e->end) e->first = e->end = 0;
    return edit;
}

/* Append an edit together with the reference that it holds. */
static int fos_edits_give(fos_edits *e, fos_edit edit) {
    if (fos_edits_room(e)) return -1;
    edit.delta = e->delta;
    e->items[e->end++] = edit;
    e->delta += (int64_t)edit.inserted - (int64_t)edit.removed;
    return 0;
}

/* 0 when the list's invariants hold, else the number of the first broken one. */
static int fos_edits_check(const fos_edits *e) {
    if (e->first > e->end || e->end > e->capacity) return 1;
    for (uint32_t i = e->first; i < e->end; i++) {
        const fos_edit *edit = &e->items[i];
        int64_t after = edit->delta + (int64_t)edit->inserted - (int64_t)edit->removed;
        if (i + 1 < e->end ? e->items[i + 1].delta != after : e->delta != after) return 2;
        if (i + 1 < e->end && e->items[i + 1].pos < edit->pos + edit->removed) return 3;
        if (!edit->inserted && !edit->removed) return 4;
    }
    return 0;
}

#endif
