/* TAP devices: frames between a character device and the slots of rings, one system call each.
 *
 * Without a virtio header the kernel cuts and checksums what it writes to us, so a frame is as it would
 * be on a wire.  No call blocks.  One thread receives and sends.
 */
#ifndef FOS_TAPPORT_H
#define FOS_TAPPORT_H

#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "ring.h"

typedef struct fos_tap_io {
    int fd;
    int gone;                 /* the device was deleted */
    uint32_t sent;            /* TX slots below this are sent */
    uint64_t received, too_long, transmitted, refused_down, refused;
} fos_tap_io;

/* Receive into the free slots of `rx` as long as there is something.  Returns how many came. */
static uint32_t fos_tap_receive(fos_tap_io *io, fos_ring *rx) {
    uint32_t before = rx->tail;
    int64_t now = 0;
    while (rx->tail - rx->head < rx->size) {
        fos_slot *slot = fos_ring_slot(rx, rx->tail);
        ssize_t n = read(io->fd, (void *)(uintptr_t)slot->ptr, rx->buffer_size);
        if (n < 0) {
            if (errno == EINTR) continue;
            if (errno != EAGAIN && errno != EIO) io->gone = 1;     /* EBADFD: deleted; EIO: its namespace is going */
            break;
        }
        if ((size_t)n >= rx->buffer_size) { io->too_long++; continue; }     /* cut, for all one can tell */
        if (!now) {
            struct timespec t;
            clock_gettime(CLOCK_REALTIME, &t);
            now = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
        }
        slot->ts = now;
        slot->len = slot->wire = (uint32_t)n;
        slot->link = 1;
        slot->iface = 0;
        slot->flags = 0;
        rx->tail++;
    }
    io->received += rx->tail - before;
    return rx->tail - before;
}

/* Send the slots below tx->head; what the kernel refuses is dropped and counted.  Returns how many were sent. */
static uint32_t fos_tap_send(fos_tap_io *io, fos_ring *tx) {
    uint64_t before = io->transmitted;
    while (io->sent != tx->head) {
        const fos_slot *slot = fos_ring_slot(tx, io->sent);
        if (write(io->fd, slot->ptr, slot->len) >= 0) io->transmitted++;
        else if (errno == EINTR) continue;
        else if (errno == EAGAIN) break;
        else if (errno == EIO || errno == EBADFD) io->refused_down++;
        else io->refused++;
        io->sent++;
    }
    tx->tail = io->sent + tx->size;
    return (uint32_t)(io->transmitted - before);
}

#endif
