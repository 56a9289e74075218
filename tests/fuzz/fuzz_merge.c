/* Fuzz the way out: lanes, edits, the merger and what it keeps going, fragments and all.
 *
 *     input ──► ops of four bytes ──► packets of two conversations, wild ones too ──► fos_burst
 *                                                                                      |
 *     checked to the last byte ◄── outlets ◄── fos_merge ◄── stages that pass, hold, remove, insert
 *
 * The driver does what the engine does between bursts, with stages whose decisions come from a
 * generator that the input seeds.  Frames that stay nowhere are freed after their delivery, or after
 * the outlet's sync where it lends: what refers to them later is a use after free.  Whatever leaves
 * must have right lengths and checksums, unless the input damaged what came; at the end every pool
 * must be empty.  The first byte picks off line or in line, lending, stable frames, policies; the
 * second the stages.
 */
#include <stdio.h>
#include <stdlib.h>

#include "loop.h"
#include "merge.h"

enum { SLOTS = 16, MOST = 2048, ROOM = 4096 };

static volatile uint64_t sink;
static uint64_t dice;
static int damaged;                           /* some packet that came was no honest one */

static uint32_t roll(uint32_t n) {
    dice ^= dice << 13;
    dice ^= dice >> 7;
    dice ^= dice << 17;
    return n ? (uint32_t)(dice >> 32) % n : 0;
}

/* ---- what leaves ---------------------------------------------------------------------------------- */

typedef struct fuzz_port {
    fos_ring ring;
    fos_slot slots[SLOTS];
    uint32_t taken;
    uint8_t buffers[SLOTS][FOS_SCRATCH_FRAME];
} fuzz_port;

static fuzz_port ports[2];

static void check_sum(const uint8_t *frame, uint32_t l3, uint32_t l4, uint32_t n) {
    static uint8_t again[FOS_SCRATCH_FRAME];
    memcpy(again, frame, n);
    fos_make_checksum(again, l3, l4, n - l4);
    if (memcmp(again, frame, n)) abort();
}

static void check_frame(const fos_slot *s) {
    const uint8_t *f = s->ptr, *ip = f + 14;
    for (uint32_t i = 0; i < s->len; i++) sink += f[i];
    if (damaged) return;
    if (s->len < 34 || s->len != s->wire) abort();
    if (ip[0] >> 4 == 4) {
        if (fos_be16(ip + 2) + 14u != s->len || fos_sum(ip, (ip[0] & 15) * 4u) != 0xffff) abort();
        if (!(fos_be16(ip + 6) & 0x3fff)) check_sum(f, 14, 14 + (ip[0] & 15) * 4u, s->len);
    } else {
        if (fos_be16(ip + 4) + 54u != s->len) abort();
        if (ip[6] != 44) check_sum(f, 14, 54, s->len);
    }
}

static int sync_port(void *port) {
    fuzz_port *p = port;
    for (; p->taken != p->ring.head; p->taken++) check_frame(fos_ring_slot(&p->ring, p->taken));
    p->ring.tail = p->ring.head + SLOTS;
    return 0;
}

/* ---- what modules do ------------------------------------------------------------------------------- */

static void move(fos_core *core, fos_way *w, uint32_t k, fos_at to, enum fos_take how) {
    if (fos_stage_take(&w->stages[k], &core->blocks, fos_stage_input(w, k), to, how)) abort();
}

static void put_in(fos_core *core, fos_stage *st) {
    static uint8_t bytes[3000];
    if (fos_stage_insert(st, &core->blocks, bytes, 1 + roll(roll(8) ? 8 : sizeof bytes))) abort();
}

/* A place between where a stage stands and its limit. */
static fos_at somewhere(const fos_way *w, uint32_t k, fos_at limit) {
    fos_at at = w->stages[k].at;
    if (limit.off <= at.off || !roll(3)) return limit;
    fos_at to = {at.off + roll((uint32_t)(limit.off - at.off)) + 1, 0};
    uint64_t there = fos_inserted_at(fos_stage_input(w, k), to.off);
    if (there && roll(2)) to.skip = roll((uint32_t)there + 1);
    return fos_at_least(to, limit);
}

static void work_stream(fos_core *core, fos_way *w, uint32_t k, fos_at limit) {
    fos_stage *st = &w->stages[k];
    for (uint32_t n = roll(4); n--;) {
        uint32_t what = st->flags & FOS_STAGE_WRITES ? roll(3) : 0;
        move(core, w, k, somewhere(w, k, limit), what == 1 ? FOS_TAKE_REMOVE : FOS_TAKE_PASS);
        if (what == 2) put_in(core, st);
    }
}

/* Each datagram for itself: what edits never joins two, nor stands behind one's last byte. */
static void work_datagrams(fos_core *core, fos_way *w, uint32_t k, const fos_stream *s, fos_at limit) {
    fos_stage *st = &w->stages[k];
    for (uint64_t i = s->head_index; i < s->tail_index; i++) {
        const fos_unit *u = fos_stream_unit(s, i);
        uint64_t end = u->off + u->len;
        if (end > limit.off) break;
        if (u->off < st->at.off || !u->len) continue;
        if (!roll(8)) break;
        move(core, w, k, (fos_at){u->off, 0}, FOS_TAKE_PASS);
        for (uint32_t n = st->flags & FOS_STAGE_WRITES ? roll(4) : 0; n-- && st->at.off < end;) {
            uint32_t what = roll(3);
            fos_at to = {st->at.off + roll((uint32_t)(end - st->at.off) + (what != 2)), 0};
            move(core, w, k, to, what == 1 ? FOS_TAKE_REMOVE : FOS_TAKE_PASS);
            if (what == 2) put_in(core, st);
        }
        move(core, w, k, (fos_at){end, 0}, FOS_TAKE_PASS);
        st->head = st->out.shown = st->at.off;
    }
}

static void work(fos_core *core, uint32_t index) {
    fos_conn *c = &core->table.conns[index];
    const fos_plan *plan = &core->plans[c->flow];
    int over = (c->flags & FOS_CONN_CLOSED) != 0;
    fos_lane *lane = fos_lane_of(core, index);
    if (!lane && (over || roll(3) || c->key.proto == FOS_PROTO_SCTP || c->depth & FOS_DEPTH_SHARED)) return;
    if (!lane && !(lane = fos_lane_new(core, index, 0))) abort();
    fos_lane_touch(core, lane);
    for (uint32_t k = 0; k < lane->stage_count; k++)
        for (int dir = 0; dir < 2; dir++) {
            fos_way *w = &lane->way[dir];
            fos_stage *st = &w->stages[k];
            const fos_stream *s = fos_half_of(core, index, dir)->stream;
            if (!s) continue;
            fos_at limit = fos_stage_limit(w, k, s->tail_off, 0);
            if (c->key.proto == FOS_PROTO_TCP && !plan->packets) {
                if (roll(4)) work_stream(core, w, k, limit);
                if (over || lane->reset || roll(2)) move(core, w, k, limit, FOS_TAKE_PASS);
            } else {
                work_datagrams(core, w, k, s, limit);
                if (over) move(core, w, k, limit, FOS_TAKE_PASS);
            }
            st->head = st->out.shown = st->at.off;
            if (fos_edits_check(&st->out)) abort();
        }
}

/* Free what every stage and the merger are done with; what stays must not lie in a frame that goes. */
static void forget(fos_core *core, uint32_t index) {
    const fos_lane *lane = fos_lane_of(core, index);
    for (int dir = 0; dir < 2; dir++) {
        fos_stream *s = fos_half_of(core, index, dir)->stream;
        if (!s) continue;
        if (fos_stream_check(s)) abort();
        uint64_t upto = lane ? lane->way[dir].next_unit : s->tail_index, least = FOS_ALL;
        for (uint32_t k = 0; lane && k < lane->stage_count; k++)
            if (lane->way[dir].stages[k].at.off < least) least = lane->way[dir].stages[k].at.off;
        while (upto > s->head_index) {
            const fos_unit *u = fos_stream_unit(s, upto - 1);
            if (u->off + u->len <= least) break;
            upto--;
        }
        fos_stream_free_to(s, upto, &core->chunks);
        for (uint64_t i = s->head_index; !core->stable && i < s->tail_index; i++) {
            fos_unit *u = fos_stream_unit(s, i);
            if (u->flags & FOS_UNIT_OWNED || !u->frame) continue;
            fos_block *block = fos_block_new(&core->blocks, u->captured);
            memcpy(block->data, u->frame, u->captured);
            u->frame = block->data;
            u->flags |= FOS_UNIT_OWNED | FOS_UNIT_COPIED;
        }
    }
}

static int is_live(const fos_core *core, uint32_t index) { return core->table.conns[index].generation & 1; }

/* Between bursts: the modules, the merger, the books. */
static void deliver(fos_core *core) {
    for (uint32_t i = 1; i <= core->table.used; i++)
        if (is_live(core, i)) {
            if (!roll(200)) fos_fate_drop(core, i, (int)roll(2));
            work(core, i);
        }
    fos_merge(core);
    for (uint32_t i = 1; i <= core->table.used; i++)
        if (is_live(core, i)) forget(core, i);
    while (core->ready_first) {
        fos_conn *c = &core->table.conns[core->ready_first];
        core->ready_first = c->next_ready;
        c->flags &= (uint8_t)~FOS_CONN_READY;
    }
    core->ready_last = core->ready_count = core->units_pending = core->merged.count = 0;
    for (uint32_t i = 0; i < core->closed.count; i++) fos_conn_free(core, core->closed.items[i]);
    core->closed.count = core->opened.count = 0;
    if (fos_core_check(core) || core->failed) abort();
}

/* ---- what comes ------------------------------------------------------------------------------------- */

typedef struct fuzz_talk {
    uint32_t sent[2];         /* bytes each side has sent, */
    uint32_t base[2];         /* ... from this sequence number on */
} fuzz_talk;

/* A frame between two hosts: IPv4 or IPv6, TCP or UDP, with right checksums; its length. */
static uint32_t make(uint8_t *f, int six, int side, int number, uint8_t proto, uint32_t seq, uint32_t ack, uint8_t flags, uint32_t n) {
    uint32_t l4 = six ? 54 : 34, header = proto == FOS_PROTO_TCP ? 20 : 8;
    memset(f, 0, l4 + header);
    f[12] = six ? 0x86 : 0x08;
    f[13] = six ? 0xdd : 0;
    uint8_t *ip = f + 14, *t = f + l4;
    if (six) {
        ip[0] = 0x60;
        fos_put16(ip + 4, header + n);
        ip[6] = proto;
        ip[7] = 64;
        ip[8] = ip[24] = 0xfd;
        ip[23] = (uint8_t)(1 + side);
        ip[39] = (uint8_t)(2 - side);
    } else {
        ip[0] = 0x45;
        fos_put16(ip + 2, 20 + header + n);
        fos_put16(ip + 4, roll(65536));
        ip[8] = 64;
        ip[9] = proto;
        ip[12] = ip[16] = 10;
        ip[15] = (uint8_t)(1 + side);
        ip[19] = (uint8_t)(2 - side);
        fos_make_ip4_checksum(ip);
    }
    fos_put16(t, side ? 80 : 1000u + (uint32_t)number);
    fos_put16(t + 2, side ? 1000u + (uint32_t)number : 80);
    if (proto == FOS_PROTO_TCP) {
        fos_put32(t + 4, seq);
        fos_put32(t + 8, ack);
        t[12] = 0x50;
        t[13] = flags;
        fos_put16(t + 14, 0x4000);
    } else {
        fos_put16(t + 4, header + n);
        t[6] = 1;                             /* it bears a checksum */
    }
    for (uint32_t i = 0; i < n; i++) t[header + i] = (uint8_t)((seq + i) * 31 + (uint32_t)side);
    fos_make_checksum(f, 14, l4, header + n);
    return l4 + header + n;
}

static fos_slot slots[SLOTS];
static uint8_t *frames[MOST];
static uint32_t waiting, count;
static int64_t now;

static void give(const uint8_t *frame, uint32_t n, int side) {
    if (waiting == SLOTS || count == MOST) return;
    frames[count] = malloc(n ? n : 1);        /* its own block: reading past the end shows */
    memcpy(frames[count], frame, n);
    slots[waiting++] = (fos_slot){.ptr = frames[count++], .len = n, .wire = n, .ts = now, .link = 1, .iface = (uint16_t)side};
}

static void give_fragments(const uint8_t *frame, uint32_t n, int side, uint32_t how) {
    static uint8_t part[ROOM];
    fos_cut cut;
    uint32_t parts = fos_cut_plan(&cut, frame, n, 1, 14, 80 + 8 * (how & 7)), id = roll(4);
    for (uint32_t i = 0; i < parts && parts > 1; i++) {
        uint32_t which = how & 8 ? parts - 1 - i : i, size = fos_cut_build(&cut, which, id, part, sizeof part);
        if (how & 16 && !roll(4)) continue;   /* lost */
        give(part, size, side);
        if (how & 32 && !roll(4)) give(part, size, side);
    }
    if (parts == 1) give(frame, n, side);
}

static void op(fuzz_talk *talks, const uint8_t *o, const uint8_t *rest, size_t left) {
    static uint8_t frame[ROOM];
    int kind = o[0] & 7, side = o[0] >> 3 & 1, six = o[0] >> 4 & 1, number = o[0] >> 5 & 1;
    fuzz_talk *t = &talks[2 * six + number];
    uint32_t n = o[2], at = t->sent[side] + (uint32_t)(o[1] & 128 ? (int8_t)o[1] / 2 : 0) + (o[1] & 64 && !(o[1] & 128) ? o[1] & 63 : 0);
    uint32_t ack = t->base[!side] + t->sent[!side] - (o[3] & 15 ? 0 : o[3] >> 4), size;
    uint8_t flags = FOS_TCP_ACK;
    now += (int64_t)(o[3] & 127) * (o[3] & 128 ? FOS_SECOND / 8 : 1000);
    if (kind == 3) size = make(frame, six, side, number, FOS_PROTO_UDP, at, 0, 0, n);
    else {
        if (kind == 2) n = 0;
        if (kind == 4) flags = (uint8_t)(o[3] & (FOS_TCP_FIN | FOS_TCP_SYN | FOS_TCP_RST | FOS_TCP_ACK | FOS_TCP_URG));
        if (flags & FOS_TCP_SYN) at = (uint32_t)-1;
        size = make(frame, six, side, number, FOS_PROTO_TCP, t->base[side] + at, flags & FOS_TCP_ACK ? ack : 0, flags, n);
        uint32_t end = at + n + !!(flags & FOS_TCP_SYN) + !!(flags & FOS_TCP_FIN);
        if ((int32_t)(end - t->sent[side]) > 0 && !(flags & FOS_TCP_RST)) t->sent[side] = end;
    }
    if (kind == 7) {                          /* a wild one: some bytes changed, or cut */
        damaged = 1;
        for (uint32_t i = 0; i < 4 && i < left; i++) frame[(rest[i] * 7u + i) % size] ^= (uint8_t)(1 << (rest[i] & 7));
        if (o[3] & 64) size = 14 + (uint32_t)o[1] % (size - 13);
    }
    if (kind == 5 || (kind == 3 && o[1] & 1)) give_fragments(frame, size, side, o[1]);
    else give(frame, size, side);
}

/* ---- one input --------------------------------------------------------------------------------------- */

static fos_core *begin(uint8_t how, uint8_t pipeline) {
    fos_core *core = calloc(1, sizeof *core);
    core->limits = (fos_limits){.max_connections = 64, .reassembly_pieces = 32, .reassembly_bytes = 4096,
                                .reassembly_total = 16384, .gap_packets = 4, .pickup_pieces = 4, .pickup_bytes = 2048,
                                .gap_ns = 3 * FOS_SECOND, .pickup_ns = FOS_SECOND, .icmp_timeout_ns = 5 * FOS_SECOND, .keep_bytes = 8192};
    for (int i = 0; i < FOS_STATE_COUNT; i++) core->limits.timeout_ns[i] = 60 * FOS_SECOND;
    for (int i = 0; i < 12; i++) core->parser.hash_key.k[i] = core->defrag.hash_key.k[i] = 0x9e3779b97f4a7c15ull * (uint64_t)(i + 1);
    core->parser.tunnels = FOS_TUNNEL_ALL;
    core->tcp_policy = core->defrag.policy = how >> 5 > 4 ? 0 : how >> 5;
    core->live = how & 1;
    core->stable = core->defrag.stable = how >> 2 & 1;
    core->defrag.max_datagrams = 8;
    core->defrag.max_pieces = 32;
    core->defrag.max_bytes = 16384;
    core->defrag.timeout_ns[0] = core->defrag.timeout_ns[1] = 4 * FOS_SECOND;
    if (fos_core_init(core)) abort();
    fos_plan *plan = &core->plans[0];
    plan->units = FOS_CLASS_ALL;
    plan->packets = core->packet_units = (how >> 3 & 3) == 3;
    plan->stage_count = 1 + pipeline % 3;
    for (uint32_t k = 0; k < plan->stage_count; k++) {
        int writes = pipeline >> (2 + k) & 1;
        plan->stage[k] = (fos_plan_stage){.serial = k + 1, .flags = writes ? FOS_STAGE_WRITES : 0, .order = (int32_t)k};
        if (writes) plan->writes = core->writes = FOS_CLASS_TCP | FOS_CLASS_UDP;
    }
    core->in_line = 1;
    core->outlets.count = core->live ? 2 : 1;
    core->outlets.route[0] = core->live ? 1 : 0;
    core->outlets.route[1] = 0;
    for (int i = 0; i < 2; i++) {
        fuzz_port *p = &ports[i];
        p->ring = (fos_ring){.slots = p->slots, .size = SLOTS, .tail = SLOTS, .buffer_size = FOS_SCRATCH_FRAME};
        p->taken = 0;
        for (int j = 0; j < SLOTS; j++) p->slots[j].ptr = p->buffers[j];
        core->outlets.list[i] = (fos_outlet){.tx = &p->ring, .port = p, .sync = sync_port, .lends = how >> 1 & 1};
    }
    return core;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 8) return 0;
    fos_core *core = begin(data[0], data[1]);
    fuzz_talk talks[4] = {{{0}, {1, 1}}, {{0}, {0xfffffff0, 7}}, {{0}, {1000, 0xffffff00}}, {{0}, {5, 5}}};
    fos_ring ring = {.slots = slots, .size = SLOTS};
    dice = fos_le32(data + 2) | (uint64_t)1 << 40;
    now = 1700000000LL * FOS_SECOND;
    damaged = (data[0] >> 3 & 3) == 3;        /* whole packets as units: an edit may hit the transport's header */
    count = waiting = 0;
    size_t at = 6;
    while (at + 4 <= size && count < MOST - SLOTS) {
        uint32_t first = count;
        for (; at + 4 <= size && waiting < SLOTS; at += 4) {
            if ((data[at] & 7) == 6) { now += data[at + 1] * (FOS_SECOND / 16); at += 4; break; }
            op(talks, data + at, data + at + 4, size - at - 4);
        }
        fos_burst(core, &ring, 0, waiting);
        waiting = 0;
        deliver(core);
        if (!core->stable) {
            for (uint32_t i = first; i < count; i++) free(frames[i]);
            count = first;
        }
    }
    fos_core_end(core);
    deliver(core);
    deliver(core);
    if (core->table.count || core->waiting_bytes || core->lane_count || core->defrag.held || core->bundles || core->parked.in_use ||
        core->queued.in_use || core->log.count) abort();
    fos_core_destroy(core);
    free(core);
    for (uint32_t i = 0; i < count; i++) free(frames[i]);
    return 0;
}
