/* AF_PACKET sockets: batches of frames between a socket and the slots of rings.
 *
 *     socket --recvmmsg--> the buffers of free RX slots      sendmmsg <-- the buffers of TX slots
 *                          [ 4 bytes left for a tag ]
 *
 * One system call moves up to FOS_PACKET_BATCH frames, and none blocks.  The kernel takes a VLAN
 * tag out of the frame and leaves local senders' checksums to the network card; both are put back
 * here, from what it says beside the frame (PACKET_AUXDATA), so a frame is as it would be on a
 * wire.  One thread receives and sends.
 */
#ifndef FOS_PACKETPORT_H
#define FOS_PACKETPORT_H

#include <errno.h>
#include <linux/if_packet.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#include "partial.h"
#include "ring.h"

enum { FOS_PACKET_BATCH = 64, FOS_PACKET_TAG = 4 };

typedef struct fos_packet_io {
    struct mmsghdr messages[FOS_PACKET_BATCH];
    struct iovec vectors[FOS_PACKET_BATCH];
    /* Beside each frame: a tpacket_auxdata (20 bytes) and a timespec (16), each with its header. */
    union { struct cmsghdr align; uint8_t bytes[128]; } beside[FOS_PACKET_BATCH];
    fos_parser parser;
    fos_counters unused;      /* the parser's; a frame is counted when the engine parses it */
    uint32_t sent;            /* TX slots below this index are sent */
    int fd;
    uint16_t link;
    int error;                /* the last errno of recvmmsg other than EAGAIN; 0: none */
    uint64_t received, too_long, tags, completed;
    uint64_t transmitted, refused_long, refused_full, refused_down, refused;
} fos_packet_io;

/* Read what the kernel says beside a frame, and make the frame whole with it. */
static void fos_packet_finish(fos_packet_io *io, struct msghdr *message, fos_slot *slot) {
    uint8_t *frame = (uint8_t *)(uintptr_t)slot->ptr;
    uint32_t status = 0;
    slot->ts = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_TIMESTAMPNS) {
            struct timespec t;
            memcpy(&t, CMSG_DATA(c), sizeof t);
            slot->ts = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
        } else if (c->cmsg_level == SOL_PACKET && c->cmsg_type == PACKET_AUXDATA) {
            struct tpacket_auxdata aux;
            memcpy(&aux, CMSG_DATA(c), sizeof aux);
            status = aux.tp_status;
            if ((status & TP_STATUS_VLAN_VALID) && io->link == 1 && slot->len >= 14) {
                memmove(frame + 16, frame + 12, slot->len - 12);
                fos_put16(frame + 12, status & TP_STATUS_VLAN_TPID_VALID ? aux.tp_vlan_tpid : 0x8100);
                fos_put16(frame + 14, aux.tp_vlan_tci);
                slot->len += FOS_PACKET_TAG;
                io->tags++;
            }
        }
    }
    if (FOS_UNLIKELY(slot->ts == 0)) {
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        slot->ts = (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    }
    if (FOS_UNLIKELY(status & TP_STATUS_CSUMNOTREADY))
        io->completed += (uint64_t)fos_partial_complete(&io->parser, frame, slot->len, io->link);
    slot->wire = slot->len;
    slot->link = io->link;
    slot->iface = 0;
}

/* Receive into the free slots of `rx` as long as there is something.  Returns how many came. */
static uint32_t fos_packet_receive(fos_packet_io *io, fos_ring *rx) {
    uint32_t before = rx->tail, most = rx->buffer_size - FOS_PACKET_TAG;
    for (;;) {
        uint32_t n = rx->size - (rx->tail - rx->head), kept = 0;
        if (n > FOS_PACKET_BATCH) n = FOS_PACKET_BATCH;
        if (n == 0) break;
        for (uint32_t i = 0; i < n; i++) {
            io->vectors[i].iov_base = (void *)(uintptr_t)fos_ring_slot(rx, rx->tail + i)->ptr;
            io->vectors[i].iov_len = most;
            io->messages[i].msg_hdr = (struct msghdr){.msg_iov = &io->vectors[i], .msg_iovlen = 1,
                .msg_control = &io->beside[i], .msg_controllen = sizeof io->beside[i]};
        }
        int got = recvmmsg(io->fd, io->messages, n, MSG_DONTWAIT | MSG_TRUNC, NULL);
        if (got < 0) {
            if (errno == EINTR) continue;
            if (errno != EAGAIN) io->error = errno;
            break;
        }
        for (uint32_t i = 0; i < (uint32_t)got; i++) {
            if (FOS_UNLIKELY(io->messages[i].msg_len > most)) { io->too_long++; continue; }
            fos_slot *slot = fos_ring_slot(rx, rx->tail + kept);
            slot->flags = 0;
            if (FOS_UNLIKELY(i != kept)) fos_slot_swap(slot, fos_ring_slot(rx, rx->tail + i));
            slot->len = io->messages[i].msg_len;
            fos_packet_finish(io, &io->messages[i].msg_hdr, slot);
            kept++;
        }
        rx->tail += kept;
        if ((uint32_t)got < n) break;
    }
    io->received += rx->tail - before;
    return rx->tail - before;
}

/* Send the slots below tx->head.  What the kernel has no room for now waits for the next call; what it refuses
 * is dropped and counted.  Returns how many were sent. */
static uint32_t fos_packet_send(fos_packet_io *io, fos_ring *tx) {
    uint64_t before = io->transmitted;
    while (io->sent != tx->head) {
        uint32_t n = tx->head - io->sent;
        if (n > FOS_PACKET_BATCH) n = FOS_PACKET_BATCH;
        for (uint32_t i = 0; i < n; i++) {
            const fos_slot *slot = fos_ring_slot(tx, io->sent + i);
            io->vectors[i].iov_base = (void *)(uintptr_t)slot->ptr;
            io->vectors[i].iov_len = slot->len;
            io->messages[i].msg_hdr = (struct msghdr){.msg_iov = &io->vectors[i], .msg_iovlen = 1};
        }
        int went = sendmmsg(io->fd, io->messages, n, MSG_DONTWAIT);
        if (went > 0) {
            io->sent += (uint32_t)went;
            io->transmitted += (uint32_t)went;
            continue;
        }
        if (errno == EINTR) continue;
        if (errno == EAGAIN) break;
        switch (errno) {                      /* the first of these frames is the one refused */
        case EMSGSIZE: io->refused_long++; break;
        case ENOBUFS: io->refused_full++; break;
        case ENETDOWN: case ENXIO: case ENODEV: io->refused_down++; break;
        default: io->refused++;
        }
        io->sent++;
    }
    tx->tail = io->sent + tx->size;
    return (uint32_t)(io->transmitted - before);
}

#endif
