/* The log of packets in transit: what came in this delivery, in order of arrival, until it left.
 *
 * In line, every frame gets an entry when it is parsed; what it means for its connection is filled in
 * when it is processed.  After the modules ran, the merger (merge.h) walks the log: most packets
 * leave as they came, from the memory that they lie in.  Writer: the engine loop.
 */
#ifndef FOS_TRANSIT_H
#define FOS_TRANSIT_H

#include <stdlib.h>

#include "packet.h"

enum fos_transit_flags {
    FOS_TRANSIT_DATA = 1,     /* its new bytes, SYN or FIN are in the stream as units that bear its number */
    FOS_TRANSIT_AHEAD = 2,    /* they will be, once earlier bytes came */
    FOS_TRANSIT_TCP = 4,
    FOS_TRANSIT_OFF = 8,      /* `off` is valid */
    FOS_TRANSIT_ACK = 16,     /* `ack` is valid */
    FOS_TRANSIT_FRAGMENT = 32,    /* an IP fragment that waits with its datagram's others (defrag.h) */
    FOS_TRANSIT_END = 64,     /* a FIN without payload that came ahead of earlier bytes */
    FOS_TRANSIT_BLOCK = 128,  /* `frame` is a block of the heap that goes with this entry */
    FOS_TRANSIT_JOINED = 256, /* `frame` is a datagram joined from fragments (bundle.h) */
};

typedef struct fos_transit {
    const uint8_t *frame;
    int64_t ts;
    uint64_t number;
    int64_t off;              /* stream offset of its first payload byte; a SYN's is -1 */
    int64_t ack;              /* offset in the other direction that it acknowledges up to */
    uint32_t wire, captured;
    uint32_t conn;            /* record, or 0: nothing that is followed */
    uint32_t payload, paylen; /* offset of the payload in the frame, its bytes */
    uint16_t l3, l4;
    uint16_t link, iface;
    uint16_t flags;           /* fos_transit_flags */
    uint8_t dir, tcp_flags;
    uint8_t refused;          /* it may not touch its connection, or (quotes) it is an ICMP error about one */
    uint8_t spare[3];
} fos_transit;
FOS_ASSERT_SIZE(fos_transit, 80);

/* A packet that waits without being in a stream: an acknowledgement, a retransmission, a fragment. */
typedef struct fos_parked {
    struct fos_parked *next;
    fos_transit packet;
} fos_parked;

typedef struct fos_log {
    fos_transit *items;
    uint32_t count, capacity;
} fos_log;

/* A new entry at the end, or NULL without memory. */
FOS_INLINE fos_transit *fos_log_add(fos_log *log) {
    if (__builtin_expect(log->count == log->capacity, 0)) {
        uint32_t capacity = log->capacity ? log->capacity * 2 : 1024;
        fos_transit *items = realloc(log->items, capacity * sizeof *items);
        if (!items) return NULL;
        log->items = items;
        log->capacity = capacity;
    }
    return &log->items[log->count++];
}

#endif
