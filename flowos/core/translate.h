/* Connections whose addresses and ports are translated (NAT): how packets leave, and how they are found.
 *
 *     arrives  a  -> b      is the connection's, direction a to b       leaves  a' -> b'
 *     arrives  b' -> a'     is found by its alias, b to a               leaves  b  -> a
 *     arrives  b  -> a      (a capture taken inside) is too             leaves  as it came
 *
 * Modules see a and b in both directions.  A frame is rewritten as it enters its outlet, on a copy,
 * behind everything else; checksums follow incrementally (RFC 1624), an ICMP error's quote too (RFC 5508).
 * Fragments that were not joined are not translated.  Writer: the engine loop, for Connection.translate.
 */
#ifndef FOS_TRANSLATE_H
#define FOS_TRANSLATE_H

#include "lanes.h"
#include "rewrite.h"

enum { FOS_ALIAS_BUCKETS = 1 << 14 };
enum { FOS_END_A, FOS_END_B, FOS_END_A2, FOS_END_B2, FOS_ENDS };    /* a, b, a', b' */

typedef struct fos_end {
    uint8_t addr[16];         /* as on the wire; 4 bytes for IPv4 */
    uint16_t port;
} fos_end;

typedef struct fos_translation {
    struct fos_translation *next;    /* in its bucket */
    fos_key alias;            /* of b' -> a' */
    uint32_t hash, conn;
    uint8_t alias_dir;        /* direction of b' -> a' in the alias's key */
    uint8_t ports;            /* the protocol has ports, and they are translated */
    uint8_t ver;
    fos_end ends[FOS_ENDS];
} fos_translation;

typedef struct fos_translations {
    fos_translation **of;     /* by the connection's index */
    fos_translation *buckets[FOS_ALIAS_BUCKETS];
} fos_translations;

FOS_INLINE fos_translation *fos_translation_of(const fos_core *core, uint32_t index) {
    return core->translations && index ? core->translations->of[index] : NULL;
}

static fos_translation *fos_alias_find(const fos_core *core, const fos_key *key, uint32_t hash) {
    fos_translation *t = core->translations->buckets[hash & (FOS_ALIAS_BUCKETS - 1)];
    while (t && !(t->hash == hash && fos_key_equal(&t->alias, key))) t = t->next;
    return t;
}

/* A packet whose tuple is an alias becomes its connection's. */
FOS_NOINLINE void fos_alias_resolve(fos_core *core, fos_pkt *p) {
    const fos_translation *t = fos_alias_find(core, &p->key, p->hash);
    if (!t || t->alias_dir != p->dir) return;
    const fos_conn *c = &core->table.conns[t->conn];
    p->key = c->key;
    p->hash = core->table.cold[t->conn].hash;
    p->dir = c->flags & FOS_CONN_A_IS_HIGH ? 0 : 1;
    p->conn = t->conn;
}

/* Where the IP header of a frame stands, or n where the link type is not known. */
static uint32_t fos_l3_of(const uint8_t *frame, uint32_t n, uint16_t link) {
    uint32_t at = link == 1 ? 14 : link == 113 ? 16 : link == 276 ? 20 : link == 0 || link == 108 ? 4 :
                  link == 101 || link == 228 || link == 229 || link == 12 ? 0 : n;
    if (link == 1)
        while (at + 4 <= n && (fos_be16(frame + at - 2) == 0x8100 || fos_be16(frame + at - 2) == 0x88a8)) at += 4;
    return at + 20 <= n && (frame[at] >> 4 == 4 || frame[at] >> 4 == 6) ? at : n;
}

static uint32_t fos_l4_of(const uint8_t *frame, uint32_t n, uint32_t l3) {
    if (frame[l3] >> 4 == 4) return l3 + (frame[l3] & 15u) * 4;
    uint32_t at = l3 + 40;
    for (uint8_t kind = frame[l3 + 6]; (kind == 0 || kind == 43 || kind == 60) && at + 8 <= n; at += 8u + 8u * frame[at + 1]) kind = frame[at];
    return at;
}

static int fos_end_sends(const fos_translation *t, const fos_end *end, const uint8_t *frame, uint32_t n, uint32_t l3, uint32_t l4) {
    const uint8_t *src = frame + l3 + (t->ver == 4 ? 12 : 8);
    if (memcmp(src, end->addr, t->ver == 4 ? 4 : 16)) return 0;
    return !t->ports || l4 + 2 > n || fos_be16(frame + l4) == end->port;
}

static void fos_translate_ends(const fos_translation *t, fos_rewrite *w, const fos_end *src, const fos_end *dst) {
    w->set = FOS_SET_SRC | FOS_SET_DST | (t->ports ? FOS_SET_SPORT | FOS_SET_DPORT : 0);
    memcpy(w->src, src->addr, 16);
    memcpy(w->dst, dst->addr, 16);
    w->sport = src->port;
    w->dport = dst->port;
}

/* Rewrite a frame that leaves: it is of the translated connection. */
static void fos_translate_frame(const void *translation, uint8_t *frame, uint32_t n, uint16_t link) {
    const fos_translation *t = translation;
    uint32_t l3 = fos_l3_of(frame, n, link);
    if (l3 == n || frame[l3] >> 4 != t->ver || l3 + (t->ver == 4 ? 20u : 40u) > n) return;
    uint32_t l4 = fos_l4_of(frame, n, l3);
    fos_rewrite w = {0};
    if (fos_end_sends(t, &t->ends[FOS_END_A], frame, n, l3, l4)) fos_translate_ends(t, &w, &t->ends[FOS_END_A2], &t->ends[FOS_END_B2]);
    else fos_translate_ends(t, &w, &t->ends[FOS_END_B], &t->ends[FOS_END_A]);
    fos_rewrite_packet(frame, n, l3, l4, &w);
}

/* Let what is sent from now on be translated as this connection's. */
FOS_INLINE void fos_translate_leaving(fos_core *core, uint32_t index) {
    core->outlets.change_with = fos_translation_of(core, index);
    core->outlets.change = fos_translate_frame;
}

/* Translate a connection: 0; 1: its alias is another connection's; -1: no memory, or a tunnel. */
static int fos_translate_set(fos_core *core, uint32_t index, const fos_end *a2, const fos_end *b2) {
    fos_conn *c = &core->table.conns[index];
    if (c->depth & FOS_DEPTH_SHARED) return -1;
    if (!core->translations) {
        core->translations = calloc(1, sizeof *core->translations);
        if (core->translations) core->translations->of = fos_reserve(fos_records(&core->table) * sizeof *core->translations->of);
        if (!core->translations || !core->translations->of) return -1;
    }
    if (core->translations->of[index]) return 1;
    fos_translation *t = calloc(1, sizeof *t);
    if (!t) return -1;
    int high = c->flags & FOS_CONN_A_IS_HIGH;
    t->conn = index;
    t->ver = c->key.ver;
    t->ports = c->key.proto == FOS_PROTO_TCP || c->key.proto == FOS_PROTO_UDP || c->key.proto == FOS_PROTO_UDPLITE;
    for (int end = 0; end < 2; end++) {       /* a and b, out of the key */
        fos_end *e = &t->ends[end];
        int upper = end == 0 ? high : !high;
        e->port = (uint16_t)(upper ? c->key.ports & 0xffff : c->key.ports >> 16);
        if (t->ver == 4) {
            uint32_t v = upper ? (uint32_t)c->key.w[0] : (uint32_t)(c->key.w[0] >> 32);
            for (int i = 0; i < 4; i++) e->addr[i] = (uint8_t)(v >> (24 - 8 * i));
        } else memcpy(e->addr, &c->key.w[upper ? 2 : 0], 16);
    }
    t->ends[FOS_END_A2] = a2 ? *a2 : t->ends[FOS_END_A];
    t->ends[FOS_END_B2] = b2 ? *b2 : t->ends[FOS_END_B];
    const fos_end *src = &t->ends[FOS_END_B2], *dst = &t->ends[FOS_END_A2];
    fos_pkt p;
    memset(&p, 0, sizeof p);
    p.key.proto = c->key.proto;
    p.key.ver = c->key.ver;
    if (t->ver == 4) fos_key4(&p, fos_be32(src->addr), fos_be32(dst->addr), src->port, dst->port);
    else fos_key6(&p, src->addr, dst->addr, src->port, dst->port);
    p.key.zone = c->key.zone;
    t->alias = p.key;
    t->alias_dir = p.dir;
    t->hash = fos_hash_key_of(&core->parser.hash_key, &p.key);
    if (fos_alias_find(core, &t->alias, t->hash) ||
        (!fos_key_equal(&t->alias, &c->key) && fos_table_find(&core->table, &t->alias, t->hash, t->hash & core->table.mask))) {
        free(t);
        return 1;
    }
    fos_translation **bucket = &core->translations->buckets[t->hash & (FOS_ALIAS_BUCKETS - 1)];
    t->next = *bucket;
    *bucket = t;
    core->translations->of[index] = t;
    return 0;
}

/* The connection's record goes: its alias with it. */
static void fos_translate_free(fos_core *core, uint32_t index) {
    fos_translation *t = fos_translation_of(core, index), **at;
    if (!t) return;
    at = &core->translations->buckets[t->hash & (FOS_ALIAS_BUCKETS - 1)];
    while (*at != t) at = &(*at)->next;
    *at = t->next;
    core->translations->of[index] = NULL;
    free(t);
}

static void fos_translations_destroy(fos_core *core) {
    if (!core->translations) return;
    for (uint32_t i = 0; i < FOS_ALIAS_BUCKETS; i++)
        while (core->translations->buckets[i]) fos_translate_free(core, core->translations->buckets[i]->conn);
    munmap(core->translations->of, fos_records(&core->table) * sizeof *core->translations->of);
    free(core->translations);
    core->translations = NULL;
}

#endif
