/* Data units, their streams, and how decoders hand units over.
 *
 * A unit is one record of 64 bytes.  One record serves the levels frame, ip and transport at
 * once (a datagram's headers lie in one frame), so mapping between these levels is pointer
 * arithmetic; a decoder's level has records of its own whose [start, end) names the range of
 * the lower stream that it covers.  Records never move and never change after append.
 *
 *     stream:   head_index ............................. tail_index     (unit indices)
 *               [chunk: 15 units][chunk: 15 units][chunk ...]
 *     offsets:  head_off ............................... tail_off       (bytes of the stream)
 */
#ifndef FOS_UNIT_H
#define FOS_UNIT_H

#include "base.h"

enum fos_unit_kind {
    FOS_UNIT_DATA = 0,        /* payload bytes in order */
    FOS_UNIT_GAP = 1,         /* `len64` bytes that the capture lacks; no data */
    FOS_UNIT_SYN = 2,         /* control: position only, no bytes */
    FOS_UNIT_FIN = 3,
    FOS_UNIT_RST = 4,
    FOS_UNIT_DECODER = 0x100, /* a decoder's own kinds start here */
};

enum fos_unit_flags {
    FOS_UNIT_SAME_DATAGRAM = 1,  /* the same datagram as the unit before: its bytes came in two pieces */
    FOS_UNIT_REASSEMBLED = 2,    /* the datagram came in fragments: `frame` is a joined copy */
    FOS_UNIT_CUT = 4,            /* the snap length cut bytes off this unit */
    FOS_UNIT_COPIED = 8,         /* the bytes were copied to the heap (spilled) */
    FOS_UNIT_INCOMPLETE = 16,    /* a decoder's message ended early */
    FOS_UNIT_OWNED = 32,         /* `frame`/`bytes` is a heap block that goes with the unit */
    FOS_UNIT_WAITED = 64,        /* its packet came ahead of earlier bytes */
    FOS_UNIT_LEFT = 128,         /* its packet left already; writer: the merger, once every stage has released it */
};

typedef struct fos_unit {
    uint64_t off;             /* offset of the first byte in this stream */
    uint64_t len;             /* bytes of the stream in this unit (a gap's may exceed 4 GB) */
    int64_t ts;               /* ns since the epoch: when the unit became available */
    uint16_t kind;            /* fos_unit_kind, or a decoder's own */
    uint16_t flags;           /* fos_unit_flags */
    union {
        uint32_t wire;        /* frame, ip, transport: the frame's bytes on the wire */
        uint32_t message;     /* a decoder's level: number of the message in this direction, from 0 */
    };
    union {
        struct {              /* frame, ip and transport levels */
            const uint8_t *frame;     /* first byte of the frame or of the joined datagram */
            uint64_t packet;          /* number of the packet that completed the unit, from 1 */
            uint16_t l3;              /* offset of the IP header in `frame` */
            uint16_t l4;              /* offset of the transport header */
            uint32_t payload;         /* offset of this unit's first byte in `frame` */
            uint32_t captured;        /* bytes present at `frame` */
            uint32_t spare;
        };
        struct {              /* levels that decoders add */
            uint64_t start;           /* range [start, end) of the lower stream that this covers */
            uint64_t end;
            const uint8_t *bytes;     /* the unit's bytes in one piece, or NULL */
            int64_t value;            /* the decoder's own: a status, a content length */
        };
    };
} fos_unit;
FOS_ASSERT_SIZE(fos_unit, 64);

/* Where a decoder puts the units it makes.  `emit` copies *unit; `bytes`, when given, must stay
 * valid for the call only: the sink copies them unless they lie in the piece being fed.
 * Returns 0, or -1 with no memory left (the caller returns -1 at once). */
typedef struct fos_sink fos_sink;
struct fos_sink {
    int (*emit)(fos_sink *sink, const fos_unit *unit, const uint8_t *bytes, size_t n);
};

#endif
