/* Capture files as they are written: records of pcap (nanoseconds) and pcapng into one buffer.
 *
 *     data:  [header or section] { [interface] | [record or packet block] } ...  | room
 *            0                                                                  have   size
 *
 * Only whole records enter the buffer; FOS_WRITE_FULL asks the owner to write [0, have) out and
 * to call again.  In pcapng each pair of a slot's `iface` and `link` becomes an interface,
 * described before its first packet.  What a format cannot hold is counted, never written wrongly.
 */
#ifndef FOS_PCAPWRITE_H
#define FOS_PCAPWRITE_H

#include <stdlib.h>

#include "base.h"
#include "ring.h"

#define FOS_WRITER_COUNTERS(X) \
    X(packets, "packets written") \
    X(bytes, "bytes of these packets") \
    X(cut, "packets longer than the snap length: their first bytes were written") \
    X(other_link, "packets not written: a pcap file holds one link type, and theirs is another") \
    X(too_many_interfaces, "packets not written: of interfaces beyond the 65,536 that readers can number") \
    X(time_out_of_range, "packets whose time pcap cannot hold: before 1970 or after 2106; written with the nearest") \
    X(interfaces, "interfaces described")

enum fos_write_result {
    FOS_WRITE_PUT = 0,
    FOS_WRITE_FULL = 1,       /* write out and call again */
    FOS_WRITE_OTHER_LINK = 2, /* not written, counted */
    FOS_WRITE_TOO_MANY = 3,   /* not written, counted */
    FOS_WRITE_MEMORY = -1,
};

#define FOS_WRITER_MAX_INTERFACES 65536u
#define FOS_WRITER_MAX_SNAPLEN 262144u        /* readers take longer records for damage */
#define FOS_WRITER_MAX_NAME 1024u

typedef struct fos_writer_number {
    uint32_t key;             /* iface << 16 | link */
    uint32_t number;          /* of the interface in the file, plus one; 0: empty */
} fos_writer_number;

typedef struct fos_writer {
    uint8_t *data;
    size_t size;
    size_t have;
    fos_writer_number *numbers; /* open addressing, a power of two, at most half full */
    uint32_t room;
    uint32_t snaplen;
    uint16_t link;            /* pcap: of the whole file */
    uint8_t ng;
    uint8_t begun;            /* the file's header is in the buffer or was written */
#define X(name, text) uint64_t name;
    FOS_WRITER_COUNTERS(X)
#undef X
} fos_writer;

static int fos_writer_init(fos_writer *w, size_t size, int ng, uint32_t snaplen) {
    memset(w, 0, sizeof *w);
    w->data = (uint8_t *)malloc(size);
    w->room = 16;
    w->numbers = (fos_writer_number *)calloc(w->room, sizeof *w->numbers);
    w->size = size;
    w->ng = ng != 0;
    w->snaplen = snaplen;
    return w->data && w->numbers ? 0 : FOS_WRITE_MEMORY;
}

static void fos_writer_close(fos_writer *w) {
    free(w->data);
    free(w->numbers);
    w->data = NULL;
    w->numbers = NULL;
}

FOS_INLINE void fos_write32(uint8_t *p, uint32_t v) { memcpy(p, &v, 4); }
FOS_INLINE void fos_write16(uint8_t *p, uint16_t v) { memcpy(p, &v, 2); }

/* Begin the file; `link` matters to pcap alone.  The buffer is empty, so there is room. */
static void fos_writer_begin(fos_writer *w, uint16_t link) {
    uint8_t *p = w->data + w->have;
    if (w->begun) return;
    w->begun = 1;
    w->link = link;
    if (w->ng) {
        fos_write32(p, 0x0a0d0d0au);
        fos_write32(p + 4, 28);
        fos_write32(p + 8, 0x1a2b3c4du);
        fos_write16(p + 12, 1);               /* version 1.0 */
        fos_write16(p + 14, 0);
        memset(p + 16, 0xff, 8);              /* the section's length is not known */
        fos_write32(p + 24, 28);
        w->have += 28;
    } else {
        fos_write32(p, 0xa1b23c4du);
        fos_write16(p + 4, 2);                /* version 2.4 */
        fos_write16(p + 6, 4);
        memset(p + 8, 0, 8);
        fos_write32(p + 16, w->snaplen);
        fos_write32(p + 20, link);
        w->have += 24;
    }
}

/* Find an interface's place in `numbers`: its own, or the empty one that it would get. */
FOS_INLINE fos_writer_number *fos_writer_find(const fos_writer *w, uint32_t key) {
    uint32_t at = (key * 2654435761u) >> 8;
    for (;; at++) {
        fos_writer_number *n = &w->numbers[at & (w->room - 1)];
        if (!n->number || n->key == key) return n;
    }
}

static int fos_writer_grow(fos_writer *w) {
    fos_writer old = *w;
    w->numbers = (fos_writer_number *)calloc((size_t)old.room * 2, sizeof *w->numbers);
    if (!w->numbers) {
        w->numbers = old.numbers;
        return FOS_WRITE_MEMORY;
    }
    w->room *= 2;
    for (uint32_t i = 0; i < old.room; i++)
        if (old.numbers[i].number) *fos_writer_find(w, old.numbers[i].key) = old.numbers[i];
    free(old.numbers);
    return 0;
}

/* pcapng: describe an interface.  *number is its number in the file, plus one. */
static int fos_writer_describe(fos_writer *w, uint16_t iface, uint16_t link, const char *name, uint32_t length,
                               uint32_t *number) {
    uint32_t named = length ? 4 + ((length + 3) & ~3u) : 0, size = 16 + named + 8 + 4 + 4;
    if (w->interfaces == FOS_WRITER_MAX_INTERFACES) return FOS_WRITE_TOO_MANY;
    if (w->size - w->have < size) return FOS_WRITE_FULL;
    if (w->interfaces * 2 >= w->room && fos_writer_grow(w)) return FOS_WRITE_MEMORY;
    uint8_t *p = w->data + w->have;
    memset(p, 0, size);
    fos_write32(p, 1);
    fos_write32(p + 4, size);
    fos_write16(p + 8, link);
    fos_write32(p + 12, w->snaplen);
    if (length) {
        fos_write16(p + 16, 2);               /* if_name */
        fos_write16(p + 18, (uint16_t)length);
        memcpy(p + 20, name, length);
    }
    fos_write16(p + 16 + named, 9);           /* if_tsresol: 10^-9 s */
    fos_write16(p + 18 + named, 1);
    p[20 + named] = 9;
    fos_write32(p + size - 4, size);          /* before it: the end of the options, zeros */
    w->have += size;
    *number = (uint32_t)++w->interfaces;
    fos_writer_number *n = fos_writer_find(w, (uint32_t)iface << 16 | link);
    n->key = (uint32_t)iface << 16 | link;
    n->number = *number;
    return 0;
}

/* Put a packet into the buffer. */
static int fos_writer_put(fos_writer *w, const fos_slot *slot) {
    uint32_t len = slot->len < w->snaplen ? slot->len : w->snaplen;
    uint32_t wire = slot->wire;
    if (!w->begun) {
        if (w->size - w->have < 28) return FOS_WRITE_FULL;
        fos_writer_begin(w, slot->link);
    }
    if (w->ng) {
        uint32_t number = fos_writer_find(w, (uint32_t)slot->iface << 16 | slot->link)->number;
        if (FOS_UNLIKELY(!number)) {
            int result = fos_writer_describe(w, slot->iface, slot->link, NULL, 0, &number);
            if (result) {
                w->too_many_interfaces += result == FOS_WRITE_TOO_MANY;
                return result;
            }
        }
        uint32_t padded = (len + 3) & ~3u, size = 28 + padded + 4;
        if (w->size - w->have < size) return FOS_WRITE_FULL;
        uint8_t *p = w->data + w->have;
        fos_write32(p, 6);
        fos_write32(p + 4, size);
        fos_write32(p + 8, number - 1);
        fos_write32(p + 12, (uint32_t)((uint64_t)slot->ts >> 32));
        fos_write32(p + 16, (uint32_t)slot->ts);
        fos_write32(p + 20, len);
        fos_write32(p + 24, wire);
        if (len) {
            fos_write32(p + 28 + padded - 4, 0);
            memcpy(p + 28, slot->ptr, len);
        }
        fos_write32(p + size - 4, size);
        w->have += size;
    } else {
        if (FOS_UNLIKELY(slot->link != w->link)) {
            w->other_link++;
            return FOS_WRITE_OTHER_LINK;
        }
        uint32_t size = 16 + len;
        if (w->size - w->have < size) return FOS_WRITE_FULL;
        uint8_t *p = w->data + w->have;
        int64_t ts = slot->ts;
        const int64_t most = INT64_C(0xffffffff) * 1000000000 + 999999999;
        if (FOS_UNLIKELY(ts < 0 || ts > most)) {
            w->time_out_of_range++;
            ts = ts < 0 ? 0 : most;
        }
        fos_write32(p, (uint32_t)(ts / 1000000000));
        fos_write32(p + 4, (uint32_t)(ts % 1000000000));
        fos_write32(p + 8, len);
        fos_write32(p + 12, wire);
        if (len) memcpy(p + 16, slot->ptr, len);
        w->have += size;
    }
    w->cut += len < slot->len;
    w->packets++;
    w->bytes += len;
    return FOS_WRITE_PUT;
}

/* The counters by index, for who shows them. */
static const struct { const char *name, *text; size_t offset; } fos_writer_counters[] FOS_UNUSED = {
#define X(name, text) {#name, text, offsetof(fos_writer, name)},
    FOS_WRITER_COUNTERS(X)
#undef X
};
enum { FOS_WRITER_COUNTER_COUNT = sizeof fos_writer_counters / sizeof *fos_writer_counters };

FOS_INLINE const char *fos_writer_counter_name(size_t i) { return fos_writer_counters[i].name; }
FOS_INLINE const char *fos_writer_counter_text(size_t i) { return fos_writer_counters[i].text; }
FOS_INLINE uint64_t fos_writer_counter(const fos_writer *w, size_t i) {
    uint64_t v;
    memcpy(&v, (const char *)w + fos_writer_counters[i].offset, sizeof v);
    return v;
}

#endif
