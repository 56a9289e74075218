/* Have fetched, while one connection is served, what serving the next ones will ask for.
 *
 *     ready[i + 6]: record, directions, lane ──► [i + 4]: streams ──► [i + 2]: units ──► window: its bytes
 *
 * A delivery visits a thousand connections whose records were last touched a thousand packets ago:
 * each step of that chain is a cache miss, and each is started here a few connections before the next
 * step needs it.  Nothing is written, and nothing hangs on it but time: a chunk that does not begin at a
 * multiple of its size has another line fetched.
 */
#ifndef FOS_FETCH_H
#define FOS_FETCH_H

#include "core.h"

enum { FOS_FETCH_BYTES = 1536 };   /* of a window's first unit: all that a packet has */

FOS_INLINE void fos_fetch_ready(const fos_core *core, const uint32_t *ready, uint32_t i, uint32_t count) {
    if (i + 6 < count) {
        uint32_t index = ready[i + 6];
        __builtin_prefetch(&core->table.conns[index]);
        __builtin_prefetch(&core->table.lanes[index]);
        __builtin_prefetch(&core->table.cold[index].decoding);
        for (int dir = 0; dir < 2; dir++) __builtin_prefetch(&fos_half_of(core, index, dir)->stream);
    }
    if (i + 4 < count)
        for (int dir = 0; dir < 2; dir++) {
            const fos_stream *s = fos_half_of(core, ready[i + 4], dir)->stream;
            if (s) __builtin_prefetch(s);
        }
    if (i + 2 < count)
        for (int dir = 0; dir < 2; dir++) {
            const fos_stream *s = fos_half_of(core, ready[i + 2], dir)->stream;
            if (!s || !s->last) continue;
            __builtin_prefetch(s->last);      /* of what is held longer, only the newest is asked for */
            if (s->first == s->last) __builtin_prefetch(&s->last->units[s->head_index % FOS_CHUNK_UNITS]);
        }
}

/* The bytes of the oldest unit of a stream that has few. */
FOS_INLINE void fos_fetch_bytes(const fos_stream *s) {
    if (!s || !s->first || s->first != s->last || s->head_index == s->tail_index) return;
    const fos_unit *u = &s->first->units[s->head_index - s->first->base];
    if (u->kind >= FOS_UNIT_DECODER || !u->frame) return;
    const uint8_t *p = u->frame + u->payload;
    for (uint32_t at = 0; at < u->len && at < FOS_FETCH_BYTES; at += 64) __builtin_prefetch(p + at);
}

#endif
