/* Slots and rings: netmap's model (D3.2 section 4.1.3.2; netmap.h) in one header.
 *
 *            head          cur            tail
 *     ........|=============|==============|.........
 *     kernel/ | held by the | new, not yet | port's
 *     port's  | user        | looked at    |
 *
 * The user owns [head, tail).  `tail` is moved by the port alone, in rxsync or txsync; `head`
 * and `cur` are moved by the user alone.  Advancing `cur` without `head` holds packets back;
 * advancing `head` gives slots back to the port at its next sync.  On a TX ring [head, tail)
 * are free slots; the user fills slots at head and advances it; txsync sends them.
 * D3.2's `avail` is tail - cur.
 *
 * Indices run freely modulo 2^32 and are masked on use, so tail - head is the number of
 * slots held even across the wrap; `size` is a power of two.
 *
 * A frame stays where slot.ptr says until its slot was released (head moved past it) and the
 * port was synced again; a port whose `stable` flag is set (a mapped file) keeps it for life.
 */
#ifndef FOS_RING_H
#define FOS_RING_H

#include "base.h"

#define FOS_NO_BUFFER 0xffffffffu

enum {
    FOS_SLOT_CHANGED = 1u,    /* the buffer index was swapped: netmap's NS_BUF_CHANGED */
    FOS_SLOT_NO_TIME = 2u,    /* the record carries no time of its own (pcapng simple packet) */
};

enum {
    FOS_RING_LENT = 1u,       /* slots that are not held own no buffer: the kernel has it (AF_XDP) */
};

typedef struct fos_slot {
    const uint8_t *ptr;       /* first byte of the frame.  RX: written by the port; TX: by the user */
    int64_t ts;               /* nanoseconds since the epoch */
    uint32_t buffer;          /* index in the arena, or FOS_NO_BUFFER: ptr leads into a map or block */
    uint32_t len;             /* bytes present at ptr */
    uint32_t wire;            /* bytes the frame had on the wire; > len: cut by a snap length */
    uint16_t link;            /* LINKTYPE_* of the frame's first header */
    uint16_t iface;           /* which of the port's interfaces (pcapng), or which file of several */
    uint32_t flags;           /* FOS_SLOT_* */
    uint32_t pad;
} fos_slot;
FOS_ASSERT_SIZE(fos_slot, 40);

typedef struct fos_ring {
    fos_slot *slots;          /* `size` of them; written once */
    uint8_t *arena;           /* base of buffer 0, or NULL; written once */
    uint32_t buffer_size;     /* bytes per buffer; written once */
    uint32_t size;            /* slots, a power of two; written once */
    uint32_t head;            /* user */
    uint32_t cur;             /* user */
    uint32_t tail;            /* port */
    uint32_t flags;           /* FOS_RING_*; written once */
} fos_ring;

FOS_INLINE uint32_t fos_ring_avail(const fos_ring *r) {
    return r->tail - r->cur;
}

FOS_INLINE fos_slot *fos_ring_slot(const fos_ring *r, uint32_t index) {
    return &r->slots[index & (r->size - 1)];
}

/* Have a slot's frame brought near, soon to be written: after a turn round the ring it is cold. */
FOS_INLINE void fos_ring_warm(const fos_ring *r, uint32_t index) {
    __builtin_prefetch(fos_ring_slot(r, index)->ptr, 1);
}

/* Swap the buffers of two slots of rings on one arena: forwarding without a copy (section 4.1.6). */
FOS_INLINE void fos_slot_swap(fos_slot *a, fos_slot *b) {
    const uint8_t *ptr = a->ptr;
    uint32_t buffer = a->buffer;
    a->ptr = b->ptr;
    a->buffer = b->buffer;
    b->ptr = ptr;
    b->buffer = buffer;
    a->flags |= FOS_SLOT_CHANGED;
    b->flags |= FOS_SLOT_CHANGED;
}

/* Swap buffers, and let a free slot take over what the other says about its packet. */
FOS_INLINE void fos_slot_forward(fos_slot *to, fos_slot *packet) {
    fos_slot_swap(to, packet);
    to->ts = packet->ts;
    to->len = packet->len;
    to->wire = packet->wire;
    to->link = packet->link;
    to->iface = packet->iface;
}

/* 0 when the ring's invariants hold, else the number of the first broken one. */
FOS_INLINE int fos_ring_check(const fos_ring *r) {
    if (r->size == 0 || (r->size & (r->size - 1))) return 1;
    if (r->tail - r->head > r->size) return 2;
    if (r->cur - r->head > r->tail - r->head) return 3;
    return 0;
}

#endif
