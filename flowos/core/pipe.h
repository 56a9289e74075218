/* One way of a pipe in memory: what one end sends is what the other receives, by slot swap.
 *
 *     sender's TX ring:    | receiver may take |  free, the sender fills  |
 *                        taken                sent/head                  tail = taken + size
 *
 * The two ends may be on two threads.  Slots in [taken, sent) are the receiver's alone, all others
 * the sender's, so each cursor has one writer and no lock is needed.  The ends share one arena:
 * the receiver puts its own free buffers where it takes full ones.
 */
#ifndef FOS_PIPE_H
#define FOS_PIPE_H

#include "base.h"
#include "ring.h"

typedef struct fos_pipe_way {
    fos_slot *slots;          /* of the sender's TX ring; written once */
    uint32_t size;            /* of the sender's TX ring; written once */
    uint32_t ended;           /* sender: nothing more will be sent */
    uint32_t sent;            /* sender, in txsync */
    uint8_t apart[64];        /* the two threads' cursors never share a cache line */
    uint32_t taken;           /* receiver, in rxsync; the sender once `gone` */
    uint32_t gone;            /* receiver: it takes nothing more */
    uint8_t behind[64];
} fos_pipe_way;

/* Hand the slots below tx->head to the receiver and take back those it is done with.
 * Returns how many were handed over; *lost grows by those that nobody will receive. */
FOS_INLINE uint32_t fos_pipe_send(fos_pipe_way *way, fos_ring *tx, uint64_t *lost) {
    uint32_t n = tx->head - way->sent;
    __atomic_store_n(&way->sent, tx->head, __ATOMIC_RELEASE);
    if (FOS_UNLIKELY(__atomic_load_n(&way->gone, __ATOMIC_ACQUIRE))) {
        *lost += tx->head - way->taken;
        way->taken = tx->head;
    }
    tx->tail = __atomic_load_n(&way->taken, __ATOMIC_ACQUIRE) + way->size;
    return n;
}

/* Take what was sent, as far as the RX ring has room.  Returns how many packets came. */
FOS_INLINE uint32_t fos_pipe_receive(fos_pipe_way *way, fos_ring *rx) {
    uint32_t taken = way->taken;
    uint32_t n = __atomic_load_n(&way->sent, __ATOMIC_ACQUIRE) - taken;
    uint32_t room = rx->size - (rx->tail - rx->head);
    if (n > room) n = room;
    for (uint32_t i = 0; i < n; i++) {
        fos_slot *from = &way->slots[(taken + i) & (way->size - 1)];
        fos_slot *to = fos_ring_slot(rx, rx->tail + i);
        fos_slot_swap(from, to);
        to->ts = from->ts;
        to->len = from->len;
        to->wire = from->wire;
        to->link = from->link;
        to->iface = from->iface;
        to->flags = from->flags;              /* CHANGED on both, and what the sender had set */
        from->flags = FOS_SLOT_CHANGED;
    }
    rx->tail += n;
    __atomic_store_n(&way->taken, taken + n, __ATOMIC_RELEASE);
    return n;
}

FOS_INLINE void fos_pipe_end(fos_pipe_way *way) { __atomic_store_n(&way->ended, 1, __ATOMIC_RELEASE); }

FOS_INLINE void fos_pipe_leave(fos_pipe_way *way) { __atomic_store_n(&way->gone, 1, __ATOMIC_RELEASE); }

/* Whether the receiver has taken all there will ever be: `ended` is read first, `sent` behind it. */
FOS_INLINE int fos_pipe_dry(const fos_pipe_way *way) {
    return __atomic_load_n(&way->ended, __ATOMIC_ACQUIRE) && __atomic_load_n(&way->sent, __ATOMIC_ACQUIRE) == way->taken;
}

#endif
