/* Fuzz the whole per-packet path: parser, connections, defragmentation, reassembly, expiry.
 *
 * The input's first byte picks policies and whether frames stay in memory; then come frames,
 * each behind a header of four bytes: length (2), link type (1), time step (1).  After every
 * batch the invariants are checked and what was delivered is read to the last byte, so that
 * the sanitizers see each pointer used.  Frames of an unstable input are freed after their
 * batch: a reference that outlives them is a use after free.
 */
#include <stdio.h>
#include <stdlib.h>

#include "loop.h"

static const uint16_t links[] = {1, 1, 1, 1, 101, 113, 276, 0, 9, 104, 108, 50, 51, 228, 12, 147};

static volatile uint64_t sink;

static void consume(fos_core *core) {
    while (core->ready_first) {
        uint32_t index = core->ready_first;
        fos_conn *c = &core->table.conns[index];
        core->ready_first = c->next_ready;
        c->flags &= (uint8_t)~FOS_CONN_READY;
        for (int dir = 0; dir < 2; dir++) {
            fos_stream *s = fos_half_of(core, index, dir)->stream;
            if (!s) continue;
            if (fos_stream_check(s)) abort();
            for (uint64_t i = s->head_index; i < s->tail_index; i++) {
                const fos_unit *u = fos_stream_unit(s, i);
                if (u->kind != FOS_UNIT_DATA) continue;
                if ((uint64_t)u->payload + u->len > u->captured) abort();
                for (uint64_t k = 0; k < u->len; k++) sink += u->frame[u->payload + k];
            }
            fos_stream_free_to(s, s->tail_index, &core->chunks);
        }
    }
    core->ready_last = core->ready_count = 0;
    core->units_pending = core->rows_pending = 0;
    core->plans[0].journal[0].count = 0;
    for (uint32_t i = 0; i < core->closed.count; i++) fos_conn_free(core, core->closed.items[i]);
    core->closed.count = core->opened.count = 0;
    if (fos_core_check(core)) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    fos_core *core = calloc(1, sizeof *core);
    core->limits = (fos_limits){.max_connections = 64, .reassembly_pieces = 32, .reassembly_bytes = 4096,
                                .reassembly_total = 16384, .gap_packets = 4, .pickup_pieces = 4,
                                .pickup_bytes = 2048, .gap_ns = 3 * FOS_SECOND, .pickup_ns = FOS_SECOND,
                                .icmp_timeout_ns = 5 * FOS_SECOND};
    for (int i = 0; i < FOS_STATE_COUNT; i++) core->limits.timeout_ns[i] = 20 * FOS_SECOND;
    for (int i = 0; i < 12; i++) core->parser.hash_key.k[i] = core->defrag.hash_key.k[i] = 0x9e3779b97f4a7c15ull * (i + 1);
    core->parser.tunnels = FOS_TUNNEL_ALL;
    core->tcp_policy = core->defrag.policy = data[0] % 5;
    core->stable = core->defrag.stable = data[0] >> 7;
    core->defrag.max_datagrams = 16;
    core->defrag.max_pieces = 64;
    core->defrag.max_bytes = 65536;
    core->defrag.timeout_ns[0] = core->defrag.timeout_ns[1] = 4 * FOS_SECOND;
    if (fos_core_init(core)) abort();
    core->plans[0].units = FOS_CLASS_ALL;
    core->plans[0].rows = FOS_CLASS_ALL;
    core->plans[0].events = 1;
    core->plans[0].packets = core->packet_units = data[0] >> 6 & 1;
    core->plans[0].journals = 1;
    core->plans[0].journal[0].classes = FOS_CLASS_ALL;

    enum { SLOTS = 16, MOST = 4096 };
    static fos_slot slots[SLOTS];
    static uint8_t *frames[MOST];
    fos_ring ring = {.slots = slots, .size = SLOTS};
    size_t at = 1, count = 0;
    int64_t now = 1700000000LL * FOS_SECOND;
    while (at + 4 <= size && count < MOST) {
        uint32_t n = 0;
        size_t first = count;
        while (n < SLOTS && at + 4 <= size && count < MOST) {
            uint32_t len = fos_le16(data + at) & 0x7ff;
            uint8_t link = data[at + 2], step = data[at + 3];
            at += 4;
            if (len > size - at) len = (uint32_t)(size - at);
            uint8_t *frame = malloc(len ? len : 1);      /* its own block: reading past the end shows */
            memcpy(frame, data + at, len);
            at += len;
            frames[count++] = frame;
            now += (int64_t)(int8_t)step * FOS_SECOND / 16;
            slots[n++] = (fos_slot){.ptr = frame, .len = len, .wire = len + (link >> 7) * 60, .ts = now,
                                    .link = links[link & 15]};
        }
        fos_burst(core, &ring, 0, n);
        consume(core);
        if (!core->stable) {
            for (size_t i = first; i < count; i++) free(frames[i]);
            count = first;
        }
    }
    fos_core_end(core);
    consume(core);
    if (core->table.count || core->waiting_bytes) abort();
    fos_core_destroy(core);
    free(core);
    for (size_t i = 0; i < count; i++) free(frames[i]);
    return 0;
}
