/* AF_XDP sockets: a port's rings on the four rings of each queue's socket, buffers being the arena's.
 *
 *               ┌─ fill ◄── buffers of released RX slots        TX slots below head ──► tx ─┐
 *     kernel ───┤                                                                          ├─── kernel
 *               └─ rx ────► new RX slots                        free TX slots ◄── done ────┘
 *
 * The arena is the UMEM: a slot's buffer index names the frame, and a frame goes from one port to
 * another by a swap of slots.  Slots outside [head, tail) own no buffer: the kernel has it, and `lent`
 * remembers each one, so that no address it hands back is taken on trust.  An RX slot's frame begins
 * behind the kernel's headroom; what is sent may begin anywhere in its buffer.
 *
 * A port may have several queues: buffers go evenly to all of them, frames leave by the first.
 * No call blocks.  One thread receives and sends.
 */
#ifndef FOS_XSK_H
#define FOS_XSK_H

#include <errno.h>
#include <linux/if_xdp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "arena.h"
#include "partial.h"
#include "ring.h"

/* Newer than the oldest headers that we are built with. */
enum { FOS_AF_XDP = 44, FOS_SOL_XDP = 283, FOS_XDP_TX_BUDGET = 9, FOS_XDP_HEADROOM = 256 };

/* Free TX slots that the user has at once, where the ring has more: those go round in few buffers, the warmest. */
enum { FOS_XDP_WINDOW = 256 };

typedef struct fos_xring {
    uint32_t *producer, *consumer, *flags;    /* shared with the kernel */
    void *items;
    uint32_t size;
    uint32_t made, taken;     /* our copies of producer and consumer */
    void *map;
    size_t mapped;
} fos_xring;

typedef struct fos_xsk {
    fos_xring rx, tx, fill, done;
    int fd;
    uint32_t queue;
    uint32_t has;             /* buffers that the kernel has for receiving */
} fos_xsk;

typedef struct fos_xdp_io {
    fos_xsk *queues;
    uint32_t count;
    uint32_t quota;           /* buffers for receiving that each queue gets */
    uint32_t next;            /* queue to look at first */
    fos_arena *arena;
    uint8_t *lent;            /* by buffer: 1 while the kernel has it from this port */
    uint32_t *spare;          /* buffers for sending that are in no slot; the last that came back goes first */
    uint32_t spares;
    fos_parser parser;
    fos_counters unused;      /* the parser's; a frame is counted when the engine parses it */
    uint32_t released;        /* RX slots below this gave their buffers to the kernel */
    uint32_t sent;            /* TX slots below this were handed over */
    uint32_t longest;         /* bytes of the longest frame that the interface sends */
    int zero_copy;
    int gone;                 /* the interface was deleted */
    int64_t looked;           /* when it was last seen to be there */
    uint64_t received, completed, strange;
    uint64_t transmitted, refused_long, refused_short, refused_full, refused_down;
} fos_xdp_io;

/* ---- one socket ------------------------------------------------------------------------------- */

static int fos_xring_map(fos_xring *r, int fd, off_t page, const struct xdp_ring_offset *at, uint32_t n, uint32_t size) {
    r->mapped = at->desc + (size_t)n * size;
    r->map = mmap(NULL, r->mapped, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, page);
    if (r->map == MAP_FAILED) { r->map = NULL; return -1; }
    uint8_t *base = r->map;
    r->producer = (uint32_t *)(base + at->producer);
    r->consumer = (uint32_t *)(base + at->consumer);
    r->flags = (uint32_t *)(base + at->flags);
    r->items = base + at->desc;
    r->size = n;
    return 0;
}

/* The rings are unmapped before the socket is closed: a mapping keeps the socket, and with it the queue. */
static void fos_xsk_close(fos_xsk *s) {
    fos_xring *rings[] = {&s->rx, &s->tx, &s->fill, &s->done};
    for (int i = 0; i < 4; i++)
        if (rings[i]->map) munmap(rings[i]->map, rings[i]->mapped);
    if (s->fd >= 0) close(s->fd);
    memset(s, 0, sizeof *s);
    s->fd = -1;
}

/* Make the arena this socket's UMEM.  0, or -1 with errno. */
static int fos_xsk_register(const fos_xsk *s, const fos_arena *a) {
    /* struct xdp_umem_reg with the field that Linux 6.8 put in its padding */
    struct { uint64_t addr, len; uint32_t chunk, headroom, flags, metadata; } reg = {
        .addr = (uint64_t)(uintptr_t)a->base, .len = (uint64_t)a->count * a->buffer_size, .chunk = a->buffer_size};
    madvise(a->base, (size_t)reg.len, MADV_HUGEPAGE);       /* all of it is pinned at once; a ring goes round through it */
    return setsockopt(s->fd, FOS_SOL_XDP, XDP_UMEM_REG, &reg, sizeof reg);
}

/* Make and map the four rings, n entries each.  0, or -1 with errno. */
static int fos_xsk_rings(fos_xsk *s, uint32_t n) {
    struct xdp_mmap_offsets at;
    socklen_t size = sizeof at;
    int budget = 256;                         /* frames per call; 32 where the kernel has no such setting */
    if (setsockopt(s->fd, FOS_SOL_XDP, XDP_UMEM_FILL_RING, &n, sizeof n)
            || setsockopt(s->fd, FOS_SOL_XDP, XDP_UMEM_COMPLETION_RING, &n, sizeof n)
            || setsockopt(s->fd, FOS_SOL_XDP, XDP_RX_RING, &n, sizeof n)
            || setsockopt(s->fd, FOS_SOL_XDP, XDP_TX_RING, &n, sizeof n)
            || getsockopt(s->fd, FOS_SOL_XDP, XDP_MMAP_OFFSETS, &at, &size)
            || fos_xring_map(&s->fill, s->fd, (off_t)XDP_UMEM_PGOFF_FILL_RING, &at.fr, n, sizeof(uint64_t))
            || fos_xring_map(&s->done, s->fd, (off_t)XDP_UMEM_PGOFF_COMPLETION_RING, &at.cr, n, sizeof(uint64_t))
            || fos_xring_map(&s->rx, s->fd, XDP_PGOFF_RX_RING, &at.rx, n, sizeof(struct xdp_desc))
            || fos_xring_map(&s->tx, s->fd, XDP_PGOFF_TX_RING, &at.tx, n, sizeof(struct xdp_desc)))
        return -1;
    setsockopt(s->fd, FOS_SOL_XDP, FOS_XDP_TX_BUDGET, &budget, sizeof budget);
    return 0;
}

/* Bind to a queue, with the UMEM of another socket unless `shared` is -1.  0, or -1 with errno. */
static int fos_xsk_bind(const fos_xsk *s, int ifindex, uint32_t flags, int shared) {
    struct sockaddr_xdp to = {.sxdp_family = FOS_AF_XDP, .sxdp_ifindex = (uint32_t)ifindex, .sxdp_queue_id = s->queue};
    to.sxdp_flags = (uint16_t)(shared < 0 ? flags : XDP_SHARED_UMEM);       /* the first socket's mode holds for all */
    to.sxdp_shared_umem_fd = shared < 0 ? 0 : (uint32_t)shared;
    return bind(s->fd, (struct sockaddr *)&to, sizeof to);
}

static int fos_xsk_is_zero_copy(const fos_xsk *s) {
    struct xdp_options options = {0};
    socklen_t size = sizeof options;
    return getsockopt(s->fd, FOS_SOL_XDP, XDP_OPTIONS, &options, &size) == 0 && options.flags & XDP_OPTIONS_ZEROCOPY;
}

/* Add a socket's counters, in the order of struct xdp_statistics. */
static void fos_xsk_count(const fos_xsk *s, uint64_t counters[6]) {
    struct xdp_statistics told = {0};
    socklen_t size = sizeof told;
    if (getsockopt(s->fd, FOS_SOL_XDP, XDP_STATISTICS, &told, &size)) return;
    counters[0] += told.rx_dropped;
    counters[1] += told.rx_invalid_descs;
    counters[2] += told.tx_invalid_descs;
    counters[3] += told.rx_ring_full;
    counters[4] += told.rx_fill_ring_empty_descs;
    counters[5] += told.tx_ring_empty_descs;
}

FOS_INLINE uint32_t fos_xring_waiting(fos_xring *r) {
    r->made = __atomic_load_n(r->producer, __ATOMIC_ACQUIRE);
    return r->made - r->taken;
}

FOS_INLINE int fos_xring_sleeps(const fos_xring *r) {
    return (__atomic_load_n(r->flags, __ATOMIC_RELAXED) & XDP_RING_NEED_WAKEUP) != 0;
}

/* ---- receiving -------------------------------------------------------------------------------- */

/* A buffer that the kernel hands back: 1 when it is one we lent. */
FOS_INLINE int fos_xdp_back(fos_xdp_io *x, uint64_t address, uint32_t *buffer) {
    uint64_t index = address / x->arena->buffer_size;
    if (FOS_UNLIKELY(index >= x->arena->count || !x->lent[index])) { x->strange++; return 0; }
    x->lent[index] = 0;
    *buffer = (uint32_t)index;
    return 1;
}

/* Give the buffers of released slots to the kernel, to each queue its share. */
static void fos_xdp_refill(fos_xdp_io *x, fos_ring *rx) {
    for (uint32_t q = 0; q < x->count && x->released != rx->head; q++) {
        fos_xsk *s = &x->queues[q];
        uint32_t n = rx->head - x->released;
        if (n > x->quota - s->has) n = x->quota - s->has;
        for (uint32_t i = 0; i < n; i++) {
            fos_slot *slot = fos_ring_slot(rx, x->released++);
            x->lent[slot->buffer] = 1;
            ((uint64_t *)s->fill.items)[s->fill.made++ & (s->fill.size - 1)] = (uint64_t)slot->buffer * x->arena->buffer_size;
            slot->buffer = FOS_NO_BUFFER;
        }
        s->has += n;
        if (n) __atomic_store_n(s->fill.producer, s->fill.made, __ATOMIC_RELEASE);
    }
}

/* Nothing came: is the interface still there?  poll never tells. */
static void fos_xdp_look(fos_xdp_io *x) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    int64_t now = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    if (now - x->looked < 100000000) return;
    x->looked = now;
    if (recvfrom(x->queues[0].fd, NULL, 0, MSG_DONTWAIT, NULL, NULL) < 0 && errno == ENXIO) x->gone = 1;
}

/* Take back released slots and show what came.  Returns how many frames are new. */
static uint32_t fos_xdp_receive(fos_xdp_io *x, fos_ring *rx) {
    uint32_t before = rx->tail, first = x->next;
    int64_t now = 0;
    fos_xdp_refill(x, rx);
    for (uint32_t q = 0; q < x->count; q++) {
        fos_xsk *s = &x->queues[(first + q) % x->count];
        uint32_t room = rx->size - (rx->tail - rx->head), n = fos_xring_waiting(&s->rx);
        if (n > room) n = room;
        if (n && !now) {
            struct timespec t;
            clock_gettime(CLOCK_REALTIME, &t);
            now = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
        }
        for (uint32_t i = 0; i < n; i++) {
            const struct xdp_desc *d = (const struct xdp_desc *)s->rx.items + (s->rx.taken++ & (s->rx.size - 1));
            uint32_t buffer;
            if (!fos_xdp_back(x, d->addr, &buffer)) continue;
            s->has--;
            fos_slot *slot = fos_ring_slot(rx, rx->tail++);
            uint8_t *frame = x->arena->base + d->addr;
            *slot = (fos_slot){.ptr = frame, .ts = now, .buffer = buffer, .len = d->len, .wire = d->len, .link = FOS_LINK_ETHERNET};
            if (FOS_UNLIKELY(fos_partial(frame, d->len)))
                x->completed += (uint64_t)fos_partial_complete(&x->parser, frame, d->len, FOS_LINK_ETHERNET);
        }
        if (n) {
            __atomic_store_n(s->rx.consumer, s->rx.taken, __ATOMIC_RELEASE);
            x->next = (first + q + 1) % x->count;         /* fair where the ring is full before all were asked */
        }
        if (FOS_UNLIKELY(fos_xring_sleeps(&s->fill))) recvfrom(s->fd, NULL, 0, MSG_DONTWAIT, NULL, NULL);
    }
    if (rx->tail == before) fos_xdp_look(x);
    x->received += rx->tail - before;
    return rx->tail - before;
}

/* ---- sending ---------------------------------------------------------------------------------- */

/* Take back what was sent, and give the user free slots. */
static void fos_xdp_reap(fos_xdp_io *x, fos_ring *tx) {
    fos_xring *done = &x->queues[0].done;
    uint32_t n = fos_xring_waiting(done), buffer;
    for (uint32_t i = 0; i < n; i++)
        if (fos_xdp_back(x, ((uint64_t *)done->items)[done->taken++ & (done->size - 1)], &buffer)) x->spare[x->spares++] = buffer;
    if (n) __atomic_store_n(done->consumer, done->taken, __ATOMIC_RELEASE);
    uint32_t window = tx->size < FOS_XDP_WINDOW ? tx->size : FOS_XDP_WINDOW;
    while (x->spares && tx->tail - tx->head < window) {
        fos_slot *slot = fos_ring_slot(tx, tx->tail++);
        slot->buffer = x->spare[--x->spares];
        slot->ptr = fos_arena_buffer(x->arena, slot->buffer);
    }
}

/* Begin: all buffers of the TX slots are spare. */
static void fos_xdp_begin(fos_xdp_io *x, fos_ring *tx) {
    for (uint32_t i = tx->size; i--;) {
        x->spare[x->spares++] = tx->slots[i].buffer;
        tx->slots[i].buffer = FOS_NO_BUFFER;
    }
    fos_xdp_reap(x, tx);
}

/* Have the kernel send what the tx ring holds, for as long as it gets on: each bad frame ends a call, and so does its budget. */
static void fos_xdp_kick(fos_xdp_io *x) {
    fos_xsk *s = &x->queues[0];
    for (;;) {
        uint32_t taken = __atomic_load_n(s->tx.consumer, __ATOMIC_ACQUIRE);
        if (taken == s->tx.made || !fos_xring_sleeps(&s->tx)) return;
        if (sendto(s->fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0) switch (errno) {
        case EBUSY: x->refused_full++; break;     /* the device dropped one */
        case ENETDOWN: x->refused_down++; return; /* they wait until it is up */
        case ENXIO: case ENODEV: x->gone = 1; return;
        case EAGAIN: case ENOBUFS: case EINTR: break;
        default: return;
        }
        if (taken == __atomic_load_n(s->tx.consumer, __ATOMIC_ACQUIRE)) return;
    }
}

/* Send the slots below tx->head.  Returns how many were handed over. */
static uint32_t fos_xdp_send(fos_xdp_io *x, fos_ring *tx) {
    fos_xring *out = &x->queues[0].tx;
    uint64_t before = x->transmitted;
    for (; x->sent != tx->head; x->sent++) {
        const fos_slot *slot = fos_ring_slot(tx, x->sent);
        uint32_t buffer = slot->buffer, len = slot->len;
        uint64_t address = (uint64_t)(slot->ptr - x->arena->base);
        /* The kernel completes what it refuses, and each refusal ends its batch: it never gets to see them. */
        if (FOS_UNLIKELY(len > x->longest || address / tx->buffer_size != buffer
                         || (address & (tx->buffer_size - 1)) + len > tx->buffer_size || len < 14)) {
            if (len < 14) x->refused_short++; else x->refused_long++;
            x->spare[x->spares++] = buffer;
            continue;
        }
        x->lent[buffer] = 1;
        ((struct xdp_desc *)out->items)[out->made++ & (out->size - 1)] = (struct xdp_desc){.addr = address, .len = len};
        x->transmitted++;
    }
    if (x->transmitted != before) __atomic_store_n(out->producer, out->made, __ATOMIC_RELEASE);
    fos_xdp_kick(x);
    fos_xdp_reap(x, tx);
    return (uint32_t)(x->transmitted - before);
}

#endif
