/* The timer wheel: connections expire without a packet ever touching it.
 *
 * A connection is put into the slot of its deadline once; packets only write `last_ns`.  When
 * the slot comes up, the connection either is idle for its timeout, or is put into the slot of
 * its new deadline (lazy re-scheduling; MiddleClick's virtual flow manager does the same).
 * Slots are lists through wheel_next and wheel_prev of the records, so leaving is O(1).
 * One turn covers FOS_WHEEL_SLOTS seconds; later deadlines wait in the last slot of the turn.
 */
#ifndef FOS_WHEEL_H
#define FOS_WHEEL_H

#include "conn.h"

enum { FOS_WHEEL_SLOTS = 1024 };
#define FOS_SECOND 1000000000LL

typedef struct fos_wheel {
    uint32_t first[FOS_WHEEL_SLOTS];
    int64_t now_tick;         /* seconds: slots up to here have been handled */
    int started;
} fos_wheel;

FOS_INLINE void fos_wheel_leave(fos_wheel *w, fos_table *t, uint32_t c) {
    fos_conn *conn = &t->conns[c];
    uint32_t next = conn->wheel_next, prev = conn->wheel_prev;
    if (prev & 0x80000000u) w->first[prev & 0x7fffffffu] = next;   /* first in its slot */
    else t->conns[prev].wheel_next = next;
    if (next) t->conns[next].wheel_prev = prev;
    conn->wheel_next = conn->wheel_prev = 0;
}

FOS_INLINE void fos_wheel_enter(fos_wheel *w, fos_table *t, uint32_t c, int64_t deadline_ns) {
    int64_t tick = deadline_ns / FOS_SECOND + 1;
    if (tick <= w->now_tick) tick = w->now_tick + 1;
    if (tick - w->now_tick >= FOS_WHEEL_SLOTS) tick = w->now_tick + FOS_WHEEL_SLOTS - 1;
    uint32_t slot = (uint32_t)((uint64_t)tick % FOS_WHEEL_SLOTS);
    fos_conn *conn = &t->conns[c];
    conn->wheel_next = w->first[slot];
    conn->wheel_prev = 0x80000000u | slot;
    if (w->first[slot]) t->conns[w->first[slot]].wheel_prev = c;
    w->first[slot] = c;
}

#endif
