/* TPACKET_V3: frames of an interface in blocks that the kernel fills and we give back.
 *
 *     blocks:  [ours: frame frame frame][ours: frame ...][the kernel's][the kernel's] ...
 *                ^ slots lead into it     ^ read from here on
 *
 * A slot points into a block: nothing is copied again.  Slots are released in order, so blocks are given back
 * in order, each when the last of its slots was.  The kernel hands a block over when it is full or its time is up:
 * cheap, and late by that time.  Tags and checksums are put back as in packetport.h; merged segments come whole.
 */
#ifndef FOS_BLOCKPORT_H
#define FOS_BLOCKPORT_H

#include <linux/if_packet.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "partial.h"
#include "ring.h"

enum { FOS_BLOCK_TAG = 4 };               /* PACKET_RESERVE: room in front of a frame for its tag */

typedef struct fos_block_io {
    uint8_t *map;
    uint32_t size, count;     /* bytes per block, blocks */
    uint32_t reading;         /* block that is read, or will be next */
    uint32_t oldest;          /* first block that was not given back; both run freely */
    uint32_t left;            /* frames of it that were not shown yet */
    const uint8_t *next;      /* the first of these */
    uint8_t *ends;            /* by slot: how many blocks end with it */
    uint32_t released;        /* slots below this were taken back */
    uint16_t link;
    fos_parser parser;
    fos_counters unused;
    uint64_t received, tags, completed;
} fos_block_io;

FOS_INLINE struct tpacket_hdr_v1 *fos_block(const fos_block_io *io, uint32_t number) {
    return &((struct tpacket_block_desc *)(io->map + (size_t)(number % io->count) * io->size))->hdr.bh1;
}

FOS_INLINE void fos_block_give_back(fos_block_io *io) {
    __atomic_store_n(&fos_block(io, io->oldest++)->block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
}

/* Show one frame in a slot; the tag that the kernel took out goes back behind the addresses. */
FOS_INLINE void fos_block_show(fos_block_io *io, const struct tpacket3_hdr *h, fos_slot *slot) {
    uint8_t *frame = (uint8_t *)(uintptr_t)h + h->tp_mac;
    uint32_t len = h->tp_snaplen, wire = h->tp_len;
    if (FOS_UNLIKELY((h->tp_status & TP_STATUS_VLAN_VALID) && io->link == FOS_LINK_ETHERNET && len >= 14)) {
        frame -= FOS_BLOCK_TAG;
        memmove(frame, frame + FOS_BLOCK_TAG, 12);
        fos_put16(frame + 12, h->tp_status & TP_STATUS_VLAN_TPID_VALID ? h->hv1.tp_vlan_tpid : 0x8100);
        fos_put16(frame + 14, h->hv1.tp_vlan_tci);
        len += FOS_BLOCK_TAG;
        wire += FOS_BLOCK_TAG;
        io->tags++;
    }
    if (FOS_UNLIKELY(h->tp_status & TP_STATUS_CSUMNOTREADY))
        io->completed += (uint64_t)fos_partial_complete(&io->parser, frame, len, io->link);
    *slot = (fos_slot){.ptr = frame, .ts = (int64_t)h->tp_sec * 1000000000 + h->tp_nsec, .buffer = FOS_NO_BUFFER,
                       .len = len, .wire = wire, .link = io->link};
}

/* Give back the blocks whose slots are released, and show what came.  Returns how many frames are new. */
static uint32_t fos_block_receive(fos_block_io *io, fos_ring *rx) {
    uint32_t before = rx->tail;
    for (; io->released != rx->head; io->released++)
        for (uint8_t n = io->ends[io->released & (rx->size - 1)]; n; n--) fos_block_give_back(io);
    while (rx->tail - rx->head < rx->size) {
        if (io->left == 0) {
            if (io->reading - io->oldest == io->count) break;     /* all blocks are ours */
            struct tpacket_hdr_v1 *block = fos_block(io, io->reading);
            if (!(__atomic_load_n(&block->block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER)) break;
            io->left = block->num_pkts;
            io->next = (const uint8_t *)(io->map + (size_t)(io->reading % io->count) * io->size) + block->offset_to_first_pkt;
            io->reading++;
            if (io->left == 0) {              /* nothing in it: it goes back with the one before, or at once */
                if (io->reading - io->oldest == 1) fos_block_give_back(io);
                else io->ends[(rx->tail - 1) & (rx->size - 1)]++;
                continue;
            }
        }
        const struct tpacket3_hdr *h = (const struct tpacket3_hdr *)io->next;
        fos_block_show(io, h, fos_ring_slot(rx, rx->tail));
        io->ends[rx->tail & (rx->size - 1)] = --io->left == 0;
        io->next += h->tp_next_offset;
        rx->tail++;
    }
    io->received += rx->tail - before;
    return rx->tail - before;
}

#endif
