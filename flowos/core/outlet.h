/* Where packets leave: the sending side of ports, and which one a packet takes.
 *
 *     in from interface i ──► route[i] ──► outlet: TX ring of a port
 *
 * A port that writes files takes a frame where it lies (`lends`); others have it copied into their
 * slot's buffer.  What is lent stays until the next sync: frames made here come from `scratch`,
 * which is used again after one.  Writer: the engine loop.
 */
#ifndef FOS_OUTLET_H
#define FOS_OUTLET_H

#include <stdlib.h>

#include "base.h"
#include "counters.h"
#include "memory.h"
#include "ring.h"

enum { FOS_MAX_OUTLETS = 16, FOS_MAX_ROUTES = 256, FOS_NO_OUTLET = 255 };
/* A frame is an IP packet and its link header; the scratch is small enough to stay in a second-level cache. */
enum { FOS_SCRATCH = 384 << 10, FOS_SCRATCH_FRAME = 66 << 10 };

typedef struct fos_outlet {
    fos_ring *tx;
    void *port;
    int (*sync)(void *port);  /* send what is below tx->head; -1: the port failed */
    int lends;                /* slots may point to any memory */
} fos_outlet;

typedef struct fos_outlets {
    fos_outlet list[FOS_MAX_OUTLETS];
    uint32_t count;
    uint32_t failed;          /* a port failed: its error waits */
    uint8_t route[FOS_MAX_ROUTES];   /* by the interface that a packet came from */
    uint8_t *scratch;
    size_t used;
    fos_block *spent;         /* blocks whose frames may be lent: dropped behind the next sync */
    fos_blocks *blocks;       /* where they go back to */
    const void *change_with;  /* not NULL: frames are changed as they leave, by `change` */
    void (*change)(const void *with, uint8_t *frame, uint32_t n, uint16_t link);
} fos_outlets;

static int fos_outlets_sync(fos_outlets *o) {
    for (uint32_t i = 0; i < o->count; i++)
        if (o->list[i].sync(o->list[i].port) < 0) o->failed = 1;
    o->used = 0;
    while (o->spent) {
        fos_block *next = o->spent->link;
        fos_block_drop(o->blocks, o->spent->data);
        o->spent = next;
    }
    return o->failed ? -1 : 0;
}

/* Drop a block, whose only holder the caller is, once its frame is no longer lent. */
FOS_INLINE void fos_outlets_spend(fos_outlets *o, const uint8_t *frame) {
    fos_block *block = fos_block_of(frame);
    block->link = o->spent;
    o->spent = block;
}

/* Room for a frame that is made here, or NULL without memory. */
static uint8_t *fos_outlets_room(fos_outlets *o) {
    if (!o->scratch && !(o->scratch = malloc(FOS_SCRATCH))) return NULL;
    if (o->used + FOS_SCRATCH_FRAME > FOS_SCRATCH) fos_outlets_sync(o);
    return o->scratch + o->used;
}

/* Keep the n bytes that were put into the room until they are sent. */
FOS_INLINE void fos_outlets_keep(fos_outlets *o, size_t n) { o->used += (n + 63) & ~(size_t)63; }

/* A frame that is changed as it leaves: one of ours where it lies, else a copy. */
FOS_NOINLINE const uint8_t *fos_outlets_change(fos_outlets *o, const uint8_t *frame, uint32_t n, uint16_t link) {
    uint8_t *out = (uint8_t *)(uintptr_t)frame;
    if (!o->scratch || frame < o->scratch || frame >= o->scratch + FOS_SCRATCH) {
        out = n <= FOS_SCRATCH_FRAME ? fos_outlets_room(o) : NULL;
        if (!out) return frame;
        memcpy(out, frame, n);
        fos_outlets_keep(o, n);
    }
    o->change(o->change_with, out, n, link);
    return out;
}

/* Send a frame by the way that leads from interface `iface`: 1, or 0 when it was dropped. */
static int fos_outlets_send(fos_outlets *o, fos_counters *counters, const uint8_t *frame, uint32_t n, uint32_t wire,
                            int64_t ts, uint16_t link, uint16_t iface) {
    uint8_t way = o->route[iface < FOS_MAX_ROUTES ? iface : 0];
    if (FOS_UNLIKELY(way >= o->count)) { FOS_COUNT(counters, merged_no_port); return 0; }
    if (FOS_UNLIKELY(o->change_with != NULL)) frame = fos_outlets_change(o, frame, n, link);
    fos_outlet *out = &o->list[way];
    fos_ring *tx = out->tx;
    if (FOS_UNLIKELY(tx->head == tx->tail)) {
        if (out->sync(out->port) < 0) o->failed = 1;
        if (tx->head == tx->tail) { FOS_COUNT(counters, merged_port_full); return 0; }
    }
    fos_slot *slot = fos_ring_slot(tx, tx->head);
    if (FOS_LIKELY(out->lends)) slot->ptr = frame;
    else {
        if (n > tx->buffer_size) { FOS_COUNT(counters, merged_oversize); return 0; }
        memcpy((uint8_t *)(uintptr_t)slot->ptr, frame, n);
    }
    slot->ts = ts;
    slot->len = n;
    slot->wire = wire;
    slot->link = link;
    slot->iface = iface;
    slot->flags = 0;
    tx->head++;
    tx->cur = tx->head;
    FOS_COUNT(counters, merged_packets);
    return 1;
}

#endif
