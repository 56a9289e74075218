/* Datagrams that came in IP fragments, on their way through: joined for the modules, in fragments on the wire.
 *
 *     defragmenter's entry ── whole ──► bundle {frames} ◄── block of the joined datagram ◄── units, log, parked
 *       frames wait here                     |
 *                                            |  nothing was edited: the frames leave as they came
 *                                            '─ else: the new datagram, cut to the size of the old fragments
 *
 * A bundle holds the frames of one datagram that have not left, in order of arrival: all of them where a
 * module may edit (they waited, defrag.h), else the last one.  It keeps the joined datagram's block,
 * whose `bundle` leads back here, and is gone once nobody else does.  Writer: the engine loop.
 */
#ifndef FOS_BUNDLE_H
#define FOS_BUNDLE_H

#include "core.h"
#include "fragment.h"

typedef struct fos_bundle {
    struct fos_bundle *next;  /* of the core's list */
    const uint8_t *frame;     /* the joined datagram: the first byte of its block */
    fos_parked *first, *last; /* fragments that have not left */
    uint32_t mtu;             /* bytes of the longest fragment's IP packet */
    uint32_t id;              /* the fragments' identification */
    uint32_t begun;           /* fragments before the last left: the datagram's header stands */
} fos_bundle;

/* Let go of an entry's block: its frame may be lent to a port until the next sync; a joined datagram's never is. */
FOS_INLINE void fos_transit_drop(fos_core *core, const fos_transit *t) {
    if (!(t->flags & FOS_TRANSIT_BLOCK)) return;
    if (t->flags & FOS_TRANSIT_JOINED) fos_block_drop(&core->blocks, t->frame);
    else fos_outlets_spend(&core->outlets, t->frame);
}

static void fos_parked_free(fos_core *core, fos_parked *p) {
    fos_transit_drop(core, &p->packet);
    fos_pool_give(&core->parked, p);
}

/* A packet that stays behind must not depend on the ring. */
static void fos_parked_spill(fos_core *core, fos_parked *p) {
    if (p->packet.flags & FOS_TRANSIT_BLOCK) return;
    fos_block *block = fos_block_new(&core->blocks, p->packet.captured);
    if (!block) { core->failed = 1; return; }
    memcpy(block->data, p->packet.frame, p->packet.captured);
    p->packet.frame = block->data;
    p->packet.flags |= FOS_TRANSIT_BLOCK;
    FOS_COUNT(&core->counters, merged_spilled);
}

/* A bundle for a datagram that became whole with the frame of *entry, which turns into the datagram's. */
FOS_NOINLINE void fos_bundle_new(fos_core *core, const fos_datagram *d, fos_transit *entry) {
    fos_bundle *b = fos_pool_take(&core->bundled);
    fos_parked *last = NULL;
    if (b && !(entry->flags & FOS_TRANSIT_FRAGMENT)) {
        last = fos_pool_take(&core->parked);
        if (!last) fos_pool_give(&core->bundled, b);
        else *last = (fos_parked){.packet = *entry};
    }
    if (!b || !(last || d->first)) { core->failed = 1; return; }
    *b = (fos_bundle){.next = core->bundles, .frame = d->data, .first = d->first, .last = d->last, .mtu = d->longest, .id = d->id, .begun = !d->first};
    if (last && b->last) b->last->next = last;
    else if (last) b->first = last;
    if (last) b->last = last;
    core->bundles = b;
    fos_block_of(d->data)->bundle = b;
    fos_block_keep(d->data);                  /* the bundle's, and the entry's */
    fos_block_keep(d->data);
    entry->frame = d->data;
    entry->captured = entry->wire = d->len;
    entry->flags = (uint16_t)((entry->flags & ~FOS_TRANSIT_FRAGMENT) | FOS_TRANSIT_BLOCK | FOS_TRANSIT_JOINED);
}

/* Fragments whose datagram left edited, or stayed: it was counted once. */
static void fos_bundle_drop_frames(fos_core *core, fos_bundle *b) {
    if (b->first) FOS_COUNT_N(&core->counters, merged_joined, -1);
    while (b->first) {
        FOS_COUNT(&core->counters, merged_joined);
        fos_parked *p = b->first;
        b->first = p->next;
        fos_parked_free(core, p);
    }
    b->last = NULL;
}

/* Free the bundles whose datagram nobody holds any more (`all`: every one); frames that stay must not depend on the ring. */
static void fos_bundles_sweep(fos_core *core, int all) {
    fos_bundle **at = &core->bundles;
    while (*at) {
        fos_bundle *b = *at;
        fos_block *block = fos_block_of(b->frame);
        if (all || __atomic_load_n(&block->refs, __ATOMIC_ACQUIRE) == 1) {
            *at = b->next;
            block->bundle = NULL;
            fos_bundle_drop_frames(core, b);
            fos_block_drop(&core->blocks, b->frame);
            fos_pool_give(&core->bundled, b);
            continue;
        }
        for (fos_parked *p = core->stable ? NULL : b->first; p; p = p->next) fos_parked_spill(core, p);
        at = &b->next;
    }
}

/* Frames that waited for a datagram that will never be whole: they are logged as if they came now, by themselves. */
static void fos_fragments_let_go(void *owner, fos_parked *first) {
    fos_core *core = owner;
    while (first) {
        fos_parked *p = first;
        first = p->next;
        fos_transit *t = core->in_line ? fos_log_add(&core->log) : NULL;
        if (!t) {
            fos_parked_free(core, p);
            continue;
        }
        *t = p->packet;                       /* its block goes along */
        t->flags &= FOS_TRANSIT_BLOCK;
        if (core->now > t->ts) t->ts = core->now;
        fos_pool_give(&core->parked, p);
    }
}

/* Send the fragments that have not left. */
static void fos_bundle_send(fos_core *core, fos_bundle *b, int64_t ts) {
    while (b->first) {
        fos_parked *p = b->first;
        b->first = p->next;
        FOS_COUNT(&core->counters, merged_unchanged);
        fos_outlets_send(&core->outlets, &core->counters, p->packet.frame, p->packet.captured, p->packet.wire, ts, p->packet.link,
                         p->packet.iface);
        fos_parked_free(core, p);
    }
    b->last = NULL;
}

/* Send a frame of ours that lies in the outlets' room; made from a joined datagram it leaves in fragments no longer
 * than those that came.  Gives the number of packets. */
static uint32_t fos_send_made(fos_core *core, fos_bundle *from, uint8_t *out, uint32_t size, uint32_t wire, uint32_t l3,
                              uint16_t nth, int64_t ts, uint16_t link, uint16_t iface) {
    fos_cut cut = {.count = 1};
    if (FOS_UNLIKELY(from != NULL && from->begun && !core->outlets.change_with)) {
        fos_bundle_send(core, from, ts);      /* its first editor came when half of it had left */
        return 1;
    }
    if (FOS_UNLIKELY(from != NULL)) {
        if (core->outlets.change_with) core->outlets.change(core->outlets.change_with, out, size, link);
        if (out[l3] >> 4 == 4 && out[l3 + 6] & 0x40) {       /* whoever cut it in spite of DF did not mean the network */
            out[l3 + 6] &= (uint8_t)~0x40;
            fos_make_ip4_checksum(out + l3);
        }
        fos_cut_plan(&cut, out, size, link, l3, from->mtu);
        wire = size;
    }
    fos_outlets_keep(&core->outlets, size);
    if (FOS_LIKELY(cut.count < 2)) {          /* or it cannot be cut: it leaves whole */
        const void *change_with = core->outlets.change_with;
        if (from) core->outlets.change_with = NULL;
        fos_outlets_send(&core->outlets, &core->counters, out, size, wire, ts, link, iface);
        core->outlets.change_with = change_with;
        return 1;
    }
    const void *change_with = core->outlets.change_with;
    core->outlets.change_with = NULL;         /* done, on the whole */
    for (uint32_t i = 0; i < cut.count; i++) {
        uint8_t *part = fos_outlets_room(&core->outlets);
        uint32_t n = fos_cut_build(&cut, i, from->id + nth, part, FOS_SCRATCH_FRAME);
        fos_outlets_send(&core->outlets, &core->counters, part, n, n, ts, link, iface);
        fos_outlets_keep(&core->outlets, n);
    }
    core->outlets.change_with = change_with;
    FOS_COUNT_N(&core->counters, merged_made, cut.count - 1);
    return cut.count;
}

/* Send a packet as it came: of a joined datagram, the fragments that have not left. */
static void fos_send_came(fos_core *core, int joined, const uint8_t *frame, uint32_t captured, uint32_t wire, uint32_t l3, int64_t ts,
                          uint16_t link, uint16_t iface) {
    fos_bundle *b = FOS_UNLIKELY(joined) ? fos_block_of(frame)->bundle : NULL;
    if (FOS_LIKELY(!b)) {
        FOS_COUNT(&core->counters, merged_unchanged);
        fos_outlets_send(&core->outlets, &core->counters, frame, captured, wire, ts, link, iface);
        return;
    }
    if (core->outlets.change_with) {          /* ports stand in the first fragment alone, their sums cover all */
        uint8_t *out = b->first ? fos_outlets_room(&core->outlets) : NULL;
        if (!out) return;
        memcpy(out, frame, captured);
        FOS_COUNT(&core->counters, merged_rewritten);
        fos_send_made(core, b, out, captured, wire, l3, 0, ts, link, iface);
        fos_bundle_drop_frames(core, b);
        return;
    }
    fos_bundle_send(core, b, ts);
}

#endif
