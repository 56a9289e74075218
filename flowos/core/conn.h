/* The connection record and the table that finds it.
 *
 *     index: 8-byte slots {hash, record}, open addressing      records: one mapped region
 *     +------+------+------+------+----                        +-----------+-----------+--
 *     | h  7 |  -   | h' 2 | h" 9 | ...       ------------>    | fos_conn 1| fos_conn 2| ...
 *     +------+------+------+------+----                        +-----------+-----------+--
 *                                                              | fos_half 1| two per record
 *                                                              | fos_cold 1| one per record
 *
 * A record has three parts in three regions: two cache lines that every packet touches, one
 * line per direction for TCP and SCTP, and one that opening and closing touch.  So a packet of
 * UDP costs two lines, and a million UDP connections cost 192 MB.  Records never move; the
 * regions are reserved for the limit of connections and cost memory only where touched.
 * Writer of everything here: the engine loop.
 */
#ifndef FOS_CONN_H
#define FOS_CONN_H

#include <sys/mman.h>

#include "hash.h"
#include "stream.h"

#define FOS_NONE 0u           /* record 0 stays unused: index 0 says "no connection" */
#define FOS_NO_OFFSET (~(uint64_t)0)

enum fos_conn_state {
    FOS_STATE_NEW = 0, FOS_STATE_SYN_SENT, FOS_STATE_SYN_RECEIVED, FOS_STATE_ESTABLISHED, FOS_STATE_CLOSING,
    FOS_STATE_CLOSED, FOS_STATE_RESET, FOS_STATE_MIDSTREAM, FOS_STATE_ACTIVE, FOS_STATE_ANSWERED,
    FOS_STATE_COUNT,
};

enum fos_conn_flags {
    FOS_CONN_A_IS_HIGH = 1,   /* the opener is the higher end of the key: packet dir 1 is a to b */
    FOS_CONN_READY = 2,       /* on the list of connections with something to deliver */
    FOS_CONN_CLOSED = 4,      /* off the table; waits for its last delivery */
    FOS_CONN_ANNOUNCED = 8,   /* `opened` was told */
    FOS_CONN_ANSWERED = 16,   /* on the list of answered connections, */
    FOS_CONN_OVER = 32,       /* ... or of those that only wait for stragglers; else of unanswered ones */
    FOS_CONN_A_KNOWN = 64,    /* a SYN said who opened */
    FOS_CONN_HALVES = 128,    /* the lines of its directions are in use: they are cleared when it goes */
};

enum {                        /* bits of fos_conn.depth that are no depth (fate.h has more) */
    FOS_DEPTH_SHARED = 0x80,  /* some of its frames hold packets of other connections: tunnels, read-only */
    FOS_DEPTH_BYPASSED = 0x10,    /* no module wants its units any more: it is only forwarded and counted */
    FOS_DEPTH_COUNT = 0x0f,
};

enum fos_half_flags {
    FOS_HALF_STARTED = 1,     /* origin is set */
    FOS_HALF_FROM_SYN = 2,    /* ... by a SYN */
    FOS_HALF_PICKUP = 4,      /* pieces wait for the stream's start to become known */
    FOS_HALF_ACKED = 8,       /* `acked` is valid */
    FOS_HALF_BASE = 16,       /* base_seq is valid */
    FOS_HALF_FIN_DONE = 32,   /* FIN delivered: the direction is complete */
    FOS_HALF_PEER_ACK = 64,   /* peer_ack is valid */
    FOS_HALF_GAPS = 128,      /* a gap was closed */
};

struct fos_ooo;

/* One direction of a TCP connection; offsets count from the first byte after SYN. */
typedef struct fos_half {
    uint64_t next;            /* the next byte to deliver */
    uint64_t acked;           /* highest offset the receiver acknowledged; SCTP: bytes delivered */
    uint64_t fin;             /* where FIN ends the stream, or FOS_NO_OFFSET */
    struct fos_ooo *ooo;      /* what waits for earlier bytes, or NULL */
    fos_stream *stream;       /* transport units on their way through the pipeline, or NULL */
    uint32_t origin;          /* sequence number of offset 0 */
    uint32_t base_seq;        /* sequence of the SYN, or of the first packet less 1 */
    uint32_t peer_ack;        /* last ACK value that the receiver sent, raw */
    uint16_t syn, fin_count, rst;
    uint8_t flags;            /* fos_half_flags */
    uint8_t spare;
} fos_half;
FOS_ASSERT_SIZE(fos_half, 64);

typedef struct fos_conn {
    /* line 0: found by key, touched by every packet */
    fos_key key;
    int64_t last_ns;
    uint8_t state;
    uint8_t flags;
    uint8_t depth;            /* enclosing IP headers; FOS_DEPTH_SHARED */
    uint8_t reason;           /* why it closed: fos_close */
    uint32_t flow;
    uint32_t next_ready;      /* list of ready connections; of free records */
    uint32_t generation;      /* of the record: a handle that saw another one is stale */
    /* line 1: counters by direction of the key (0: from the lower end), and the lists */
    uint64_t packets[2];
    uint64_t bytes[2];
    uint64_t payload[2];
    uint32_t wheel_next, wheel_prev;
    uint32_t age_next, age_prev;  /* list of (un)answered connections by age, for eviction */
} fos_conn;
FOS_ASSERT_SIZE(fos_conn, 128);

/* What opening and closing touch, and what only some connections have. */
typedef struct fos_cold {
    uint64_t id;              /* order of the first packet, from 0 */
    int64_t first_ns;
    uint64_t vlans;           /* first stack of tags seen, as in fos_pkt */
    struct fos_vlans *more_vlans;
    void *handle;             /* borrowed: the Python handle, or NULL */
    void *decoding;           /* owned by the engine: the decoders' state, or NULL */
    void *fields;             /* owned by the engine: what the flow was decided on, or NULL */
    uint32_t icmp_errors;
    uint32_t hash;
} fos_cold;
FOS_ASSERT_SIZE(fos_cold, 64);

/* Further stacks of VLAN tags of one connection. */
typedef struct fos_vlans {
    struct fos_vlans *next;
    uint64_t vlans;
} fos_vlans;

static void fos_vlans_free(fos_cold *cold) {
    while (cold->more_vlans) {
        fos_vlans *next = cold->more_vlans->next;
        free(cold->more_vlans);
        cold->more_vlans = next;
    }
}

typedef struct fos_slot8 {
    uint32_t hash;
    uint32_t conn;
} fos_slot8;

typedef struct fos_table {
    fos_slot8 *slots;
    uint64_t mask;
    fos_conn *conns;          /* conns[0] is unused */
    fos_half *halves;         /* halves[2 * index + dir] */
    fos_cold *cold;           /* cold[index] */
    struct fos_lane **lanes;  /* lanes[index]: NULL for most, and for these no memory is touched */
    uint32_t limit;           /* records, at most */
    uint32_t used;            /* records ever handed out: the high-water mark */
    uint32_t free;            /* list of records given back, through next_ready */
    uint32_t count;           /* in the table now */
} fos_table;

static void *fos_map_region(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return NULL;
    if (bytes >= (8u << 20)) madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

static size_t fos_slots_bytes(uint64_t mask) { return (size_t)(mask + 1) * sizeof(fos_slot8); }

/* The regions are for `limit` records and the unused one. */
static size_t fos_records(const fos_table *t) { return (size_t)t->limit + 2; }

static void *fos_reserve(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static int fos_table_init(fos_table *t, uint32_t limit) {
    memset(t, 0, sizeof *t);
    t->limit = limit;
    t->mask = 4095;
    t->slots = fos_map_region(fos_slots_bytes(t->mask));
    t->conns = fos_reserve(fos_records(t) * sizeof(fos_conn));
    t->halves = fos_reserve(fos_records(t) * sizeof(fos_half) * 2);
    t->cold = fos_reserve(fos_records(t) * sizeof(fos_cold));
    t->lanes = fos_reserve(fos_records(t) * sizeof *t->lanes);
    return t->slots && t->conns && t->halves && t->cold && t->lanes ? 0 : -1;
}

static void fos_table_destroy(fos_table *t) {
    if (t->slots) munmap(t->slots, fos_slots_bytes(t->mask));
    if (t->conns) munmap(t->conns, fos_records(t) * sizeof(fos_conn));
    if (t->halves) munmap(t->halves, fos_records(t) * sizeof(fos_half) * 2);
    if (t->cold) munmap(t->cold, fos_records(t) * sizeof(fos_cold));
    if (t->lanes) munmap(t->lanes, fos_records(t) * sizeof *t->lanes);
    memset(t, 0, sizeof *t);
}

FOS_NOINLINE int fos_table_grow(fos_table *t) {
    uint64_t mask = t->mask * 2 + 1;
    fos_slot8 *slots = fos_map_region(fos_slots_bytes(mask));
    if (!slots) return -1;
    for (uint64_t i = 0; i <= t->mask; i++) {
        if (!t->slots[i].conn) continue;
        uint64_t j = t->slots[i].hash & mask;
        while (slots[j].conn) j = (j + 1) & mask;
        slots[j] = t->slots[i];
    }
    munmap(t->slots, fos_slots_bytes(t->mask));
    t->slots = slots;
    t->mask = mask;
    /* Past 16 k connections large pages save a TLB miss per lookup; before, they only cost memory. */
    if (mask == 65535) {
        madvise(t->conns, fos_records(t) * sizeof(fos_conn), MADV_HUGEPAGE);
        madvise(t->halves, fos_records(t) * sizeof(fos_half) * 2, MADV_HUGEPAGE);
        madvise(t->cold, fos_records(t) * sizeof(fos_cold), MADV_HUGEPAGE);
    }
    return 0;
}

/* First slot whose hash agrees, or the empty slot that ends the search. */
FOS_INLINE uint64_t fos_table_probe(const fos_table *t, uint32_t hash) {
    uint64_t i = hash & t->mask;
    while (t->slots[i].conn && t->slots[i].hash != hash) i = (i + 1) & t->mask;
    return i;
}

/* The connection of this key, or FOS_NONE.  `from` is where probing starts. */
FOS_INLINE uint32_t fos_table_find(const fos_table *t, const fos_key *key, uint32_t hash, uint64_t from) {
    for (uint64_t i = from;; i = (i + 1) & t->mask) {
        uint32_t c = t->slots[i].conn;
        if (FOS_UNLIKELY(!c)) return FOS_NONE;
        if (FOS_LIKELY(t->slots[i].hash == hash) && FOS_LIKELY(fos_key_equal(&t->conns[c].key, key))) return c;
    }
}

/* A cleared record put into the table under its key, or FOS_NONE at the limit or without memory. */
static uint32_t fos_table_insert(fos_table *t, const fos_key *key, uint32_t hash) {
    if (FOS_UNLIKELY((uint64_t)(t->count + 1) * 2 > t->mask) && fos_table_grow(t)) return FOS_NONE;
    uint32_t c = t->free, generation;
    if (c) {
        t->free = t->conns[c].next_ready;
        generation = t->conns[c].generation;
        memset(&t->conns[c], 0, sizeof(fos_conn));
        memset(&t->cold[c], 0, sizeof(fos_cold));
    } else {
        if (t->used >= t->limit) return FOS_NONE;
        c = ++t->used;                     /* fresh pages are zero */
        generation = 0;
    }
    fos_conn *conn = &t->conns[c];
    conn->generation = generation + 1;
    conn->key = *key;
    t->cold[c].hash = hash;
    uint64_t i = hash & t->mask;
    while (t->slots[i].conn) i = (i + 1) & t->mask;
    t->slots[i].hash = hash;
    t->slots[i].conn = c;
    t->count++;
    return c;
}

/* Take a record out of the index; it stays readable until fos_table_release. */
static void fos_table_remove(fos_table *t, uint32_t c) {
    uint32_t hash = t->cold[c].hash;
    uint64_t i = hash & t->mask;
    while (t->slots[i].conn != c) {
        if (!t->slots[i].conn) return;
        i = (i + 1) & t->mask;
    }
    /* Backward shift: no tombstones, so lookups stay short however long it runs. */
    uint64_t j = i;
    for (;;) {
        j = (j + 1) & t->mask;
        if (!t->slots[j].conn) break;
        uint64_t home = t->slots[j].hash & t->mask;
        if (((j - home) & t->mask) >= ((j - i) & t->mask)) {
            t->slots[i] = t->slots[j];
            i = j;
        }
    }
    t->slots[i].conn = 0;
    t->count--;
}

static void fos_table_release(fos_table *t, uint32_t c) {
    fos_conn *conn = &t->conns[c];
    fos_vlans_free(&t->cold[c]);
    conn->generation++;                    /* handles made before are stale from here on */
    conn->next_ready = t->free;
    t->free = c;
}

/* 0 when every slot leads to its record and is found from its hash, else what is broken. */
static int fos_table_check(const fos_table *t) {
    uint32_t seen = 0;
    for (uint64_t i = 0; i <= t->mask; i++) {
        uint32_t c = t->slots[i].conn;
        if (!c) continue;
        seen++;
        if (c > t->used || t->cold[c].hash != t->slots[i].hash) return 1;
        for (uint64_t j = t->slots[i].hash & t->mask; j != i; j = (j + 1) & t->mask)
            if (!t->slots[j].conn) return 2;
        if (t->conns[c].flags & FOS_CONN_CLOSED) return 3;
    }
    return seen == t->count ? 0 : 4;
}

#endif
