/* The core's state: one struct that the engine loop owns, and the delivery of units.
 *
 *     slots -> parse -> connection -> tcp/udp/sctp/icmp -> fos_deliver -> streams and journals
 *
 * A plan says, for one flow, what its modules want; units nobody wants are counted and not
 * made.  Streams hold units for modules of scope "connection" until they are released; a
 * journal holds one row per unit for modules of scope "flow".  Everything here runs without
 * the GIL and is written by the one thread that runs the engine.
 */
#ifndef FOS_CORE_H
#define FOS_CORE_H

#include "conn.h"
#include "counters.h"
#include "defrag.h"
#include "lane.h"
#include "outlet.h"
#include "pieces.h"
#include "wheel.h"

/* What a connection carries, as a bit: plans are masks of these. */
enum fos_class {
    FOS_CLASS_TCP = 1, FOS_CLASS_UDP = 2, FOS_CLASS_SCTP = 4, FOS_CLASS_ICMP = 8, FOS_CLASS_OTHER = 16,
    FOS_CLASS_ALL = 31,
};

FOS_INLINE uint32_t fos_class_of(uint8_t proto) {
    switch (proto) {
    case FOS_PROTO_TCP: return FOS_CLASS_TCP;
    case FOS_PROTO_UDP: case FOS_PROTO_UDPLITE: return FOS_CLASS_UDP;
    case FOS_PROTO_SCTP: return FOS_CLASS_SCTP;
    case FOS_PROTO_ICMP: case FOS_PROTO_ICMP6: return FOS_CLASS_ICMP;
    default: return FOS_CLASS_OTHER;
    }
}

/* One unit as a module of scope "flow" sees it: a row of its window's array. */
typedef struct fos_row {
    uint64_t offset;          /* of the unit's first byte in its stream */
    int64_t ts;
    uint64_t packet;
    uint32_t connection;      /* index of the record: unique among live connections */
    uint32_t length;          /* bytes of the stream; a gap's is cut to 4 GB - 1 */
    uint32_t wire;            /* bytes of the frame; 0 for a further piece of the same datagram */
    uint16_t kind;
    uint8_t direction;        /* 0: a to b */
    uint8_t proto;
} fos_row;
FOS_ASSERT_SIZE(fos_row, 40);

typedef struct fos_journal {
    fos_row *rows;
    uint32_t count, capacity;
    uint32_t classes;         /* fos_class bits */
    uint32_t spare;
} fos_journal;

enum { FOS_MAX_JOURNALS = 8, FOS_MAX_LINKS = 32, FOS_MAX_STAGES = 32 };

/* One attachment of scope "connection", as lanes know it. */
typedef struct fos_plan_stage {
    uint64_t serial;
    uint32_t flags;           /* fos_stage_flags */
    int32_t order;
} fos_plan_stage;

/* What the modules of one flow want.  Writer: attach and detach, between batches. */
typedef struct fos_plan {
    uint32_t units;           /* fos_class bits: streams are kept for these */
    uint32_t rows;            /* fos_class bits: some journal wants these */
    uint32_t events;          /* opened and closed are wanted */
    uint32_t packets;         /* nothing above the IP level is wanted: one unit per packet, as it comes */
    uint32_t writes;          /* classes that some module may edit: what comes ahead of earlier bytes must wait */
    uint32_t stage_count;     /* modules of scope "connection", in their order */
    uint32_t journals;
    fos_journal journal[FOS_MAX_JOURNALS];
    fos_plan_stage stage[FOS_MAX_STAGES];
} fos_plan;

typedef struct fos_limits {
    uint32_t max_connections;
    uint32_t reassembly_pieces;   /* per direction */
    uint64_t reassembly_bytes;    /* per direction */
    uint64_t reassembly_total;    /* over all connections */
    uint32_t gap_packets;
    uint32_t pickup_pieces;
    uint64_t pickup_bytes;
    int64_t gap_ns;
    int64_t pickup_ns;
    int64_t timeout_ns[FOS_STATE_COUNT];
    int64_t icmp_timeout_ns;
    uint64_t keep_bytes;          /* per direction of a kept connection: held, queued and not acknowledged */
} fos_limits;

enum fos_close {
    FOS_CLOSE_NONE = 0, FOS_CLOSE_FIN, FOS_CLOSE_RST, FOS_CLOSE_TIMEOUT, FOS_CLOSE_EVICTED, FOS_CLOSE_REUSED,
    FOS_CLOSE_END,
};

/* What waits in one TCP direction, and the gaps that were closed in it. */
typedef struct fos_gap {
    uint64_t start, end;
} fos_gap;

typedef struct fos_ooo {
    fos_pieces pieces;
    uint64_t fin_piece;       /* while picking up: FIN's offset in pick-up coordinates, or FOS_NO_OFFSET */
    int64_t since_ns;         /* while picking up: when the first piece came; then: when the hole last became smaller */
    fos_gap *gaps;
    uint32_t gap_count, gap_capacity;
} fos_ooo;

typedef struct fos_list {
    uint32_t *items;
    uint32_t count, capacity;
} fos_list;

typedef struct fos_core {
    fos_table table;
    fos_wheel wheel;
    fos_parser parser;
    fos_defrag defrag;
    fos_counters counters;
    fos_limits limits;
    fos_plan *plans;          /* by flow number; 0 is "no flow" */
    uint32_t plan_count;
    uint32_t ready_first, ready_last, ready_count;
    uint32_t rows_pending;    /* most rows in any journal; counted after each burst */
    uint32_t units_pending;   /* units appended to streams since the last delivery */
    fos_list opened;          /* connections whose `opened` is due, in order */
    fos_list closed;          /* connections off the table that wait for their last delivery */
    fos_pool chunks, streams, pieces, ooos;
    fos_pool lane_pool, parked, queued, bundled;
    struct fos_bundle *bundles;   /* joined datagrams whose fragments have not all left (bundle.h) */
    uint32_t writes;          /* classes that some module may edit, or did: fragments of these wait for their datagram */
    int64_t keep_deadline;    /* in line: when the next retransmission timer runs out, or 0 */
    fos_lane *all_lanes, *touched_lanes;
    struct fos_translations *translations;   /* connections that are translated (translate.h), or NULL */
    uint8_t fated;            /* some connection was dropped by a module (fate.h) */
    fos_list merged;          /* connections whose lanes the merger looked after in this delivery */
    uint32_t lane_count;
    uint32_t in_line;         /* packets are to leave: each gets an entry in the log */
    uint32_t refused;         /* the packet under way may not touch its connection */
    uint32_t quoted;          /* the connection that the packet under way, an ICMP error, is about, or 0; */
    uint32_t quoted_dir;      /* ... and the direction of the packet it quotes */
    uint32_t live;            /* two ports are connected: whoever is there answers */
    uint32_t iface_base;      /* number of the port that is being read, added to its slots' interface */
    fos_log log;
    struct fos_seg *segs;     /* pieces of the payload that the merger puts together, */
    uint32_t seg_room;        /* ... so many at most */
    fos_outlets outlets;
    fos_pool fields;          /* what flows were decided on, one per connection once there are flows */
    fos_blocks blocks;
    uint64_t waited;          /* segments that added something to what waits for earlier bytes */
    uint64_t waiting_bytes;   /* over all directions: payload that waits for earlier bytes */
    uint64_t next_id;
    uint64_t packet_number;
    int64_t now;              /* the latest capture time of the packets processed */
    int64_t tick_ns;          /* from this time on the wheel has something to do */
    int64_t first_ns, last_ns;    /* of the first packet and of the last, in order of arrival */
    uint32_t link_count;
    uint16_t links[FOS_MAX_LINKS];  /* link types in the order in which they were seen */
    int tcp_policy;
    int stable;               /* the port's frames stay where they are */
    int failed;               /* memory ran out */
    struct fos_ages {         /* connections by age, for eviction: over, unanswered, answered */
        uint32_t first, last;
    } ages[3];
    /* Decides the flow of a new connection from its first packet; NULL: flow 0. */
    uint32_t (*classify)(void *classifier, const fos_pkt *p, uint32_t index);
    void *classifier;
    void *owner;              /* the Python object that owns this core */
    int packet_units;         /* some plan has `packets` set */
    int wants_datagrams;      /* reassembled datagrams are told to the owner */
} fos_core;

FOS_INLINE fos_half *fos_half_of(const fos_core *core, uint32_t index, int dir) {
    return &core->table.halves[2 * (size_t)index + (size_t)dir];
}

enum { FOS_AGE_OVER = 0, FOS_AGE_UNANSWERED, FOS_AGE_ANSWERED };

static int fos_list_add(fos_list *l, uint32_t item) {
    if (l->count == l->capacity) {
        uint32_t capacity = l->capacity ? l->capacity * 2 : 256;
        uint32_t *items = realloc(l->items, capacity * sizeof *items);
        if (!items) return -1;
        l->items = items;
        l->capacity = capacity;
    }
    l->items[l->count++] = item;
    return 0;
}

FOS_INLINE int fos_a_is_high(const fos_conn *c) { return c->flags & FOS_CONN_A_IS_HIGH; }

/* Direction as users count it (0: a to b) from the packet's (0: from the lower end of the key). */
FOS_INLINE int fos_user_dir(const fos_conn *c, int dir) { return dir ^ (c->flags & FOS_CONN_A_IS_HIGH); }

FOS_INLINE void fos_make_ready(fos_core *core, uint32_t index, fos_conn *c) {
    if (c->flags & FOS_CONN_READY) return;
    c->flags |= FOS_CONN_READY;
    c->next_ready = 0;
    if (core->ready_last) core->table.conns[core->ready_last].next_ready = index;
    else core->ready_first = index;
    core->ready_last = index;
    core->ready_count++;
}

/* What is common to the units that one packet or piece gives rise to. */
typedef struct fos_origin {
    const uint8_t *frame;
    int64_t ts;
    uint64_t packet;
    uint32_t wire, captured;
    uint16_t l3, l4;
    uint16_t flags;           /* FOS_UNIT_OWNED | FOS_UNIT_REASSEMBLED: `frame` is a block */
} fos_origin;

/* A SYN says how much payload its sender takes in one packet (RFC 9293 section 3.7.1): the other direction's limit. */
FOS_NOINLINE void fos_note_mss(fos_core *core, uint32_t index, fos_conn *c, int dir, const fos_origin *o) {
    if (c->key.proto != FOS_PROTO_TCP || !o->frame || o->captured < o->l4 + 20u) return;
    const uint8_t *th = o->frame + o->l4;
    uint32_t n = (uint32_t)(th[12] >> 4) * 4, mss = c->key.ver == 4 ? 536 : 1220, scale = 0, sack = 0;
    if (n > o->captured - o->l4) n = o->captured - o->l4;
    for (uint32_t i = 20; i + 1 < n && th[i];) {
        if (th[i] == 1) { i++; continue; }
        if (th[i] == 2 && th[i + 1] == 4 && i + 4 <= n) mss = fos_be16(th + i + 2);
        if (th[i] == 3 && th[i + 1] == 3 && i + 3 <= n) scale = 1u + (th[i + 2] > 14 ? 14 : th[i + 2]);
        if (th[i] == 4) sack = 1;
        if (th[i + 1] < 2) break;
        i += th[i + 1];
    }
    /* Segments carry timestamps where SYNs do: 12 bytes that the MSS does not count (RFC 6691). */
    if (mss > 12 + 64) mss -= 12;
    fos_half *h = fos_half_of(core, index, !dir);
    if (!h->stream) {
        h->stream = fos_pool_take(&core->streams);
        if (!h->stream) { core->failed = 1; return; }
        memset(h->stream, 0, sizeof *h->stream);
    }
    h->stream->mss = (uint16_t)mss;
    h->stream->wscale = (uint8_t)scale;
    h->stream->sack = (uint8_t)sack;
}

FOS_NOINLINE void fos_append_unit(fos_core *core, uint32_t index, fos_conn *c, int dir, uint16_t kind,
                                  uint16_t flags, uint64_t off, uint64_t len, uint32_t payload, const fos_origin *o) {
    fos_half *h = fos_half_of(core, index, dir);
    if (!h->stream) {
        h->stream = fos_pool_take(&core->streams);
        if (!h->stream) { core->failed = 1; return; }
        c->flags |= FOS_CONN_HALVES;
        memset(h->stream, 0, sizeof *h->stream);
        h->stream->head_off = h->stream->tail_off = off;
    }
    fos_unit *u = fos_stream_append(h->stream, &core->chunks);
    if (!u) { core->failed = 1; return; }
    h->stream->tail_off = off + len;
    if (FOS_UNLIKELY(kind == FOS_UNIT_SYN)) fos_note_mss(core, index, c, dir, o);
    u->off = off;
    u->len = len;
    u->ts = o->ts;
    u->kind = kind;
    u->flags = flags | o->flags;
    u->wire = o->wire;
    u->frame = o->frame;
    u->packet = o->packet;
    u->l3 = o->l3;
    u->l4 = o->l4;
    u->payload = payload < o->captured ? payload : o->captured;   /* an empty unit behind a cut header */
    u->captured = o->captured;
    u->spare = 0;
    if (o->flags & FOS_UNIT_OWNED) fos_block_keep(o->frame);
    core->units_pending++;
    fos_make_ready(core, index, c);
}

FOS_NOINLINE int fos_journal_grow(fos_journal *j) {
    uint32_t capacity = j->capacity ? j->capacity * 2 : 1024;
    fos_row *rows = realloc(j->rows, capacity * sizeof *rows);
    if (!rows) return -1;
    j->rows = rows;
    j->capacity = capacity;
    return 0;
}

FOS_INLINE void fos_append_rows(fos_core *core, fos_plan *plan, uint32_t class, uint32_t index, const fos_conn *c, int dir,
                                uint16_t kind, uint64_t off, uint64_t len, uint32_t wire, int64_t ts, uint64_t packet) {
    fos_journal *j = plan->journal, *end = j + plan->journals;
    do {
        if (!(j->classes & class)) continue;
        if (FOS_UNLIKELY(j->count == j->capacity) && fos_journal_grow(j)) { core->failed = 1; return; }
        fos_row *r = &j->rows[j->count++];
        r->offset = off;
        r->ts = ts;
        r->packet = packet;
        r->connection = index;
        r->length = FOS_UNLIKELY(len > 0xffffffffu) ? 0xffffffffu : (uint32_t)len;
        r->wire = wire;
        r->kind = kind;
        r->direction = (uint8_t)fos_user_dir(c, dir);
        r->proto = c->key.proto;
    } while (++j < end);
}

/* What has a lane leaves by its stream, whether a module is left to see it or not. */
FOS_INLINE int fos_has_lane(const fos_core *core, uint32_t index) {
    return FOS_UNLIKELY(core->lane_count != 0) && core->table.lanes[index];
}

/* Does some module want the units of a connection?  `classes` is its own. */
FOS_INLINE int fos_wants_units(const fos_plan *plan, const fos_conn *c, uint32_t classes) {
    return (plan->units & classes) && FOS_LIKELY(!(c->depth & FOS_DEPTH_BYPASSED));
}

/* A unit of the transport level became available: hand it to whoever wants it. */
FOS_INLINE void fos_deliver(fos_core *core, uint32_t index, fos_conn *c, uint32_t class, int dir, uint16_t kind,
                            uint16_t flags, uint64_t off, uint64_t len, uint32_t payload, const fos_origin *o) {
    fos_plan *plan = &core->plans[c->flow];
    if (FOS_UNLIKELY(plan->packets)) return;   /* the packet was a unit already */
    FOS_COUNT(&core->counters, units);
    if (plan->rows & class)
        fos_append_rows(core, plan, class, index, c, dir, kind, off, len, flags & FOS_UNIT_SAME_DATAGRAM ? 0 : o->wire, o->ts,
                        o->packet);
    if (fos_wants_units(plan, c, class) || fos_has_lane(core, index))
        fos_append_unit(core, index, c, dir, kind, flags, off, len, payload, o);
}

/* Copy a packet's frame to a block of its own, because its buffer will not stay. */
static int fos_spill(fos_core *core, fos_origin *o, const uint8_t **data) {
    fos_block *block = fos_block_new(&core->blocks, o->captured);
    if (!block) { core->failed = 1; return -1; }
    memcpy(block->data, o->frame, o->captured);
    FOS_COUNT_N(&core->counters, bytes_copied, o->captured);
    if (*data) *data = block->data + (*data - o->frame);
    o->frame = block->data;
    o->flags |= FOS_UNIT_OWNED | FOS_UNIT_COPIED;
    return 0;
}

FOS_INLINE fos_origin fos_origin_of(const fos_pkt *p) {
    fos_origin o = {.frame = p->frame, .ts = p->ts, .packet = p->number, .wire = p->wire, .captured = p->captured,
                    .l3 = (uint16_t)p->l3, .l4 = (uint16_t)p->l4,
                    .flags = p->flags & FOS_PKT_BLOCK ? FOS_UNIT_OWNED | FOS_UNIT_REASSEMBLED : 0};
    return o;
}

#endif
