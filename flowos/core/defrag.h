/* IP defragmentation, IPv4 and IPv6 (RFC 791, 815, 5722, 6946, 8200 section 4.5).
 *
 *     key {addresses, id, protocol} -> entry -> pieces, sorted -> all there: one heap block
 *
 * Entries hang in a hash table and in a list by age for each version, so timing out and
 * evicting take the oldest first.  Fragments of a stable input (a mapped file) are kept by
 * reference and copied once, when the datagram is complete; others are copied as they come.
 * The joined datagram gets a header without the marks of fragmentation, behind the link's header of
 * its first fragment.  In line, where a module may edit, the fragments' frames wait in the entry too:
 * they go with the datagram when it is whole (bundle.h), and are let go when it will never be.
 */
#ifndef FOS_DEFRAG_H
#define FOS_DEFRAG_H

#include "parse.h"
#include "pieces.h"
#include "transit.h"

enum { FOS_DEFRAG_BUCKETS = 4096 };

typedef struct fos_defrag_entry {
    struct fos_defrag_entry *chain;           /* in the bucket */
    struct fos_defrag_entry *older, *newer;   /* by age */
    uint64_t addr[4];
    uint32_t id;
    uint8_t proto, ver, poisoned, ended;
    uint8_t inner;                            /* protocol of the payload, from the fragment at offset 0 */
    uint32_t hash;
    uint32_t total;                           /* bytes of the datagram, valid once `ended` */
    uint32_t arrived;                         /* fragments taken, whatever became of them */
    int64_t first_ns;
    const uint8_t *header;                    /* of the fragment at offset 0 */
    fos_block *header_block;                  /* holds `header` when the input is not stable */
    uint32_t header_len, next_at;
    uint32_t lead;                            /* bytes of the link's header in front of `header` */
    uint32_t longest;                         /* bytes of the longest fragment's IP packet */
    uint32_t passes;                          /* its fragments leave as they come */
    fos_parked *first, *last;                 /* those that wait, in order of arrival */
    fos_pieces pieces;
} fos_defrag_entry;

typedef struct fos_defrag {
    fos_defrag_entry *buckets[FOS_DEFRAG_BUCKETS];
    fos_defrag_entry *oldest[2], *newest[2];  /* IPv4, IPv6 */
    fos_pool entries, pieces;
    fos_counters *counters;
    fos_hash_key hash_key;
    uint64_t bytes;                           /* waiting, over all entries */
    uint32_t count;
    int stable;                               /* the input's frames stay where they are */
    int policy;
    uint32_t max_datagrams, max_pieces;
    uint64_t max_bytes;
    int64_t timeout_ns[2];
    fos_block *spent;                         /* datagrams handed out since the last sweep */
    fos_pool *parked;                         /* in line: where fragments wait, */
    uint64_t held;                            /* ... their frames' bytes, */
    void *owner;
    void (*let_go)(void *owner, fos_parked *first);   /* ... and who takes those whose datagram will never be whole */
} fos_defrag;

static uint32_t fos_defrag_hash(const fos_defrag *d, const uint64_t *addr, uint32_t id, uint32_t kind) {
    const uint64_t *k = d->hash_key.k;
    uint64_t h = k[0] + k[1] * (uint32_t)addr[0] + k[2] * (uint32_t)(addr[0] >> 32) + k[9] * id + k[10] * kind;
    if ((kind & 0xff) == 6)
        for (int i = 1; i < 4; i++) h += k[1 + 2 * i] * (uint32_t)addr[i] + k[2 + 2 * i] * (uint32_t)(addr[i] >> 32);
    return (uint32_t)(h >> 32);
}

/* Put a fragment's frame among those that wait for their datagram; its entry in the log is void. */
static void fos_defrag_hold(fos_defrag *d, fos_defrag_entry *e, fos_transit *entry) {
    fos_parked *p = fos_pool_take(d->parked);
    if (!p) return;                           /* it leaves at once */
    entry->flags |= FOS_TRANSIT_FRAGMENT;
    p->next = NULL;
    p->packet = *entry;
    if (!d->stable) {
        fos_block *block = fos_block_new(d->pieces.blocks, entry->captured);
        if (!block) {
            fos_pool_give(d->parked, p);
            entry->flags &= (uint16_t)~FOS_TRANSIT_FRAGMENT;
            return;
        }
        memcpy(block->data, entry->frame, entry->captured);
        p->packet.frame = block->data;
        p->packet.flags |= FOS_TRANSIT_BLOCK;
    }
    if (e->last) e->last->next = p;
    else e->first = p;
    e->last = p;
    d->held += entry->captured;
    FOS_COUNT(d->counters, ip_fragments_held);
}

/* Hand the frames that wait in an entry over. */
static fos_parked *fos_defrag_release(fos_defrag *d, fos_defrag_entry *e) {
    fos_parked *first = e->first;
    for (fos_parked *p = first; p; p = p->next) d->held -= p->packet.captured;
    e->first = e->last = NULL;
    return first;
}

/* Let the frames that wait in an entry leave: its datagram will never be whole, or nobody may edit it. */
static void fos_defrag_let_go(fos_defrag *d, fos_defrag_entry *e) {
    if (FOS_UNLIKELY(e->first != NULL)) d->let_go(d->owner, fos_defrag_release(d, e));
}

/* Take an entry out and free what it holds. */
static void fos_defrag_forget(fos_defrag *d, fos_defrag_entry *e) {
    int v = e->ver == 6;
    fos_defrag_let_go(d, e);
    fos_defrag_entry **at = &d->buckets[e->hash % FOS_DEFRAG_BUCKETS];
    while (*at != e) at = &(*at)->chain;
    *at = e->chain;
    if (e->older) e->older->newer = e->newer; else d->oldest[v] = e->newer;
    if (e->newer) e->newer->older = e->older; else d->newest[v] = e->older;
    d->bytes -= e->pieces.bytes;
    fos_pieces_clear(&e->pieces, &d->pieces);
    if (e->header_block) fos_block_drop(d->pieces.blocks, e->header_block->data);
    d->count--;
    fos_pool_give(&d->entries, e);
}

/* Give up datagrams whose time is over by `now`. */
static void fos_defrag_expire(fos_defrag *d, int64_t now) {
    for (int v = 0; v < 2; v++)
        while (d->oldest[v] && now - d->oldest[v]->first_ns >= d->timeout_ns[v]) {
            if (!d->oldest[v]->poisoned) FOS_COUNT(d->counters, ip_fragments_timed_out);
            fos_defrag_forget(d, d->oldest[v]);
        }
}

static void fos_defrag_evict(fos_defrag *d) {
    fos_defrag_entry *a = d->oldest[0], *b = d->oldest[1];
    fos_defrag_entry *e = !a || (b && b->first_ns < a->first_ns) ? b : a;
    if (!e) return;
    FOS_COUNT(d->counters, ip_fragments_evicted);
    fos_defrag_forget(d, e);
}

static fos_defrag_entry *fos_defrag_entry_of(fos_defrag *d, const fos_fragment *f) {
    uint64_t addr[4] = {0};                   /* IPv4: both addresses are the first word */
    const uint8_t *h = f->frame + f->l3;
    if (f->ver == 4) memcpy(addr, h + 12, 8);
    else memcpy(addr, h + 8, 32);
    uint8_t proto = f->ver == 4 ? f->proto : 0;
    uint32_t hash = fos_defrag_hash(d, addr, f->id, (uint32_t)proto << 8 | f->ver);
    fos_defrag_entry **bucket = &d->buckets[hash % FOS_DEFRAG_BUCKETS];
    for (fos_defrag_entry *e = *bucket; e; e = e->chain)
        if (FOS_LIKELY(e->hash == hash && e->id == f->id && e->proto == proto && e->ver == f->ver && e->addr[0] == addr[0]) &&
            (f->ver == 4 || !memcmp(e->addr, addr, sizeof addr))) return e;
    while (d->count >= d->max_datagrams) fos_defrag_evict(d);
    fos_defrag_entry *e = fos_pool_take(&d->entries);
    if (!e) return NULL;
    int v = f->ver == 6;
    memset(e, 0, sizeof *e);
    memcpy(e->addr, addr, sizeof addr);
    e->id = f->id;
    e->proto = proto;
    e->ver = f->ver;
    e->hash = hash;
    e->first_ns = f->ts;
    e->chain = *bucket;
    *bucket = e;
    e->older = d->newest[v];
    if (e->older) e->older->newer = e; else d->oldest[v] = e;
    d->newest[v] = e;
    d->count++;
    return e;
}

static uint16_t fos_ip4_checksum(const uint8_t *h, uint32_t n) {
    uint32_t sum = 0;
    for (uint32_t i = 0; i + 1 < n; i += 2) sum += fos_be16(h + i);
    while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

/* Which packet brought which bytes of a joined datagram: an array behind its bytes in the block. */
typedef struct fos_origin_fragment {
    uint64_t packet;
    uint32_t offset, len;
} fos_origin_fragment;

FOS_INLINE size_t fos_fragments_at(uint32_t size) { return ((size_t)size + 7) & ~(size_t)7; }

/* Join the pieces of a complete entry into one block: header without marks, then the payload. */
static fos_block *fos_defrag_join(fos_defrag *d, const fos_defrag_entry *e) {
    uint32_t size = e->lead + e->header_len + e->total;
    fos_block *block = fos_block_new(d->pieces.blocks, fos_fragments_at(size) + sizeof(fos_origin_fragment) * e->pieces.count);
    if (!block) return NULL;
    uint8_t *h = block->data + e->lead;
    fos_origin_fragment *from = (fos_origin_fragment *)(block->data + fos_fragments_at(size));
    block->size = size;
    block->fragments = e->pieces.count;
    memcpy(block->data, e->header - e->lead, e->lead + e->header_len);
    for (fos_piece *p = e->pieces.first; p; p = p->next) {
        memcpy(h + e->header_len + p->start, p->data, p->end - p->start);
        *from++ = (fos_origin_fragment){p->packet, (uint32_t)p->start, (uint32_t)(p->end - p->start)};
    }
    if (e->ver == 4) {
        uint32_t len = e->header_len + e->total;
        if (len > 65535) len = 0;             /* read back as "to the end of the packet" */
        h[2] = (uint8_t)(len >> 8);
        h[3] = (uint8_t)len;
        h[6] &= 0x40;                         /* keep "don't fragment", drop "more" and the offset */
        h[7] = 0;
        h[10] = h[11] = 0;
        uint16_t sum = fos_ip4_checksum(h, e->header_len);
        h[10] = (uint8_t)(sum >> 8);
        h[11] = (uint8_t)sum;
    } else {
        uint32_t len = e->header_len - 40 + e->total;
        if (len > 65535) len = 0;
        h[4] = (uint8_t)(len >> 8);
        h[5] = (uint8_t)len;
        h[e->next_at] = e->inner;
    }
    return block;
}

/* Keep a fragment's bytes: by reference, or in a block of its own. */
static int fos_defrag_keep(fos_defrag *d, const fos_fragment *f, int referable, fos_piece *seg, fos_block **block) {
    *block = NULL;
    seg->frame = f->frame;
    seg->data = f->frame + f->data;
    if (referable) return 0;
    uint32_t n = f->lead + f->data - f->l3 + f->len, from = f->l3 - f->lead;
    *block = fos_block_new(d->pieces.blocks, n);
    if (!*block) return -1;
    memcpy((*block)->data, f->frame + from, n);
    FOS_COUNT_N(d->counters, bytes_copied, n);
    seg->frame = (*block)->data;
    seg->data = (*block)->data + (f->data - from);
    seg->flags = FOS_UNIT_OWNED;
    return 0;
}

/* Take a fragment.  1: it completed a datagram, *out is its packet (valid until fos_defrag_sweep). */
static int fos_defrag_add(fos_defrag *d, const fos_fragment *f, fos_datagram *out) {
    fos_counters *c = d->counters;
    int referable = d->stable && !f->block;
    fos_defrag_expire(d, f->ts);
    if (f->captured < f->len) { FOS_COUNT(c, ip_fragment_truncated); return 0; }
    if (f->len == 0 || (f->more && (f->len & 7))) { FOS_COUNT(c, ip_fragment_malformed); return 0; }
    if ((uint64_t)f->offset + f->len > 65535) { FOS_COUNT(c, ip_fragment_too_big); return 0; }
    fos_defrag_entry *e = fos_defrag_entry_of(d, f);
    if (!e) return 0;
    if (e->poisoned) { FOS_COUNT(c, ip_fragment_poisoned); return 0; }
    if (f->passes) {
        e->passes = 1;
        fos_defrag_let_go(d, e);
    }
    if (f->entry && !e->passes) fos_defrag_hold(d, e, f->entry);
    if (f->data - f->l3 + f->len > e->longest) e->longest = f->data - f->l3 + f->len;
    if (++e->arrived > d->max_pieces) {
        FOS_COUNT(c, ip_fragment_too_many);
        fos_defrag_forget(d, e);
        return 0;
    }
    uint32_t start = f->offset, end = f->offset + f->len;
    if (!f->more) {
        if (e->ended ? end != e->total : (e->pieces.last && e->pieces.last->end > end)) {
            FOS_COUNT(c, ip_fragment_conflict_end);
            return 0;
        }
        e->ended = 1;
        e->total = end;
    } else if (e->ended && end > e->total) {
        FOS_COUNT(c, ip_fragment_conflict_end);
        return 0;
    }
    fos_piece seg = {.start = start, .end = end, .ostart = start, .oend = end, .packet = f->number};
    if (f->ver == 6) {
        int overlap = 0, differ = 0, same = 0;
        for (fos_piece *p = e->pieces.first; p && p->start < end; p = p->next) {
            if (p->end <= start) continue;
            uint64_t from = p->start > start ? p->start : start, to = p->end < end ? p->end : end;
            overlap = 1;
            same |= p->start == start && p->end == end;
            differ |= memcmp(p->data + (from - p->start), f->frame + f->data + (from - start), to - from) != 0;
        }
        if (overlap) {
            FOS_COUNT(c, ip_fragment_overlaps);
            if (differ) FOS_COUNT(c, ip_fragment_conflicts);
            if (same && !differ) return 0;    /* an exact duplicate: RFC 8200 section 4.5 */
            FOS_COUNT(c, ip6_fragment_overlap);
            d->bytes -= e->pieces.bytes;
            fos_pieces_clear(&e->pieces, &d->pieces);
            e->poisoned = 1;
            fos_defrag_let_go(d, e);
            return 0;
        }
    }
    fos_block *block;
    if (fos_defrag_keep(d, f, referable, &seg, &block)) return 0;
    uint64_t before = e->pieces.bytes;
    int met = fos_pieces_insert(&e->pieces, &d->pieces, &seg, d->policy);
    d->bytes += e->pieces.bytes - before;
    if (f->ver == 4 && (met & FOS_MET_OVERLAP)) FOS_COUNT(c, ip_fragment_overlaps);
    if (met & FOS_MET_CONFLICT) FOS_COUNT(c, ip_fragment_conflicts);
    if (start == 0 && !e->header) {
        e->header_block = block;
        if (block) fos_block_keep(block->data);
        e->header = block ? block->data + f->lead : f->frame + f->l3;
        e->lead = f->lead;
        e->header_len = f->header;
        e->next_at = f->next_at;
        e->inner = f->proto;
    }
    if (block) fos_block_drop(d->pieces.blocks, block->data);
    /* Disjoint, sorted, nothing beyond `total`: complete when the bytes add up. */
    if (e->ended && e->header && e->pieces.bytes == e->total) {
        fos_block *whole = fos_defrag_join(d, e);
        if (whole) {
            out->l3 = e->lead;
            out->longest = e->longest;
            out->last = e->last;
            out->first = fos_defrag_release(d, e);
        }
        fos_defrag_forget(d, e);
        if (!whole) return 0;
        whole->link = d->spent;
        d->spent = whole;
        FOS_COUNT(c, datagrams_reassembled);
        out->data = whole->data;
        out->len = whole->size;
        out->id = f->id;
        return 1;
    }
    while (d->bytes + d->held > d->max_bytes) fos_defrag_evict(d);
    return 0;
}

/* Let go of the datagrams handed out; units that refer to them hold references of their own. */
FOS_INLINE void fos_defrag_sweep(fos_defrag *d) {
    while (FOS_UNLIKELY(d->spent != NULL)) {
        fos_block *next = d->spent->link;
        fos_block_drop(d->pieces.blocks, d->spent->data);
        d->spent = next;
    }
}

static void fos_defrag_destroy(fos_defrag *d) {
    for (int v = 0; v < 2; v++)
        while (d->oldest[v]) {
            fos_parked *p = fos_defrag_release(d, d->oldest[v]), *next;
            for (; p; p = next) {
                next = p->next;
                if (p->packet.flags & FOS_TRANSIT_BLOCK) fos_block_drop(d->pieces.blocks, p->packet.frame);
                fos_pool_give(d->parked, p);
            }
            fos_defrag_forget(d, d->oldest[v]);
        }
    fos_defrag_sweep(d);
    fos_pool_destroy(&d->entries);
    fos_pool_destroy(&d->pieces);
}

static int fos_defrag_check(const fos_defrag *d) {
    uint64_t bytes = 0, held = 0;
    uint32_t count = 0;
    for (int v = 0; v < 2; v++)
        for (fos_defrag_entry *e = d->oldest[v]; e; e = e->newer) {
            if (fos_pieces_check(&e->pieces)) return 1;
            if (e->ended && e->pieces.last && e->pieces.last->end > e->total) return 2;
            for (const fos_parked *p = e->first; p; p = p->next) held += p->packet.captured;
            bytes += e->pieces.bytes;
            count++;
        }
    return bytes == d->bytes && held == d->held && count == d->count ? 0 : 3;
}

#endif
