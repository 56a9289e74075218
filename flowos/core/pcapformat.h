/* The formats of capture files, pcap and pcapng, from bytes in memory to slots of a ring.
 *
 *     pcap:    [file header 24] { [record header 16 or 24] frame } ...
 *     pcapng:  { section header { interface | packet | anything else } ... } ...
 *              block = type, total length, body padded to 4 bytes, total length again
 *
 * A fos_capture is the state of one input; whoever drives it owns the bytes and the ring.
 * fos_capture_open reads the first header, fos_capture_fill makes slots that point into the
 * bytes, as often as it is called with more of them: a record that is not all there stays for
 * the next call, so the same code reads a mapped file and a stream of blocks.  Nothing here
 * copies a frame, and nothing trusts a length: what contradicts itself is counted and passed
 * over, and where a length is impossible the input ends (`stopped`), as it does for wireshark.
 *
 * A slot's `wire` is what the record says, even where that is less than `len`.
 * Sources: draft-ietf-opsawg-pcap and -pcapng; wiretap and libpcap for the variants of pcap.
 */
#ifndef FOS_PCAPFORMAT_H
#define FOS_PCAPFORMAT_H

#include <stdlib.h>

#include "base.h"
#include "ring.h"

/* A walk from record header to record header is a chain of cache and TLB misses, 106 ns per
 * packet of 907 bytes; asking for every line 4 KB ahead leaves 36. */
#define FOS_CAPTURE_AHEAD 4096u
#define FOS_CAPTURE_MAX_FRAME 262144u         /* no capture program's snap length is larger */
#define FOS_CAPTURE_MAX_BLOCK (16u << 20)     /* pcapng: wireshark's limit */
#define FOS_CAPTURE_MAX_INTERFACES 65536u     /* what slot.iface can name */
/* Times lie within 146 years of the epoch, so that no difference of two overflows. */
#define FOS_CAPTURE_LAST_NS ((INT64_C(1) << 62) - 1)

#define FOS_CAPTURE_COUNTERS(X) \
    X(packets, "packets delivered") \
    X(bytes, "bytes of these packets that the input holds") \
    X(cut, "packets that a snap length cut short") \
    X(damaged, "records or blocks that contradict themselves: passed over, or the end of the input") \
    X(cut_records, "1 when the input ends inside a record or block") \
    X(unread_bytes, "bytes behind the point where the input is cut or damaged") \
    X(without_time, "packets whose record has no time (pcapng simple packets): they carry the one before") \
    X(time_before_epoch, "packets whose time only makes sense as a negative number: they carry that") \
    X(time_out_of_range, "packets whose time is more than 146 years from 1970: they carry the nearest that is not") \
    X(other_blocks, "pcapng blocks without a packet: names, statistics, secrets, unknown ones") \
    X(sections, "pcapng sections") \
    X(described, "interfaces that the input describes") \
    X(renumbered, "times that interfaces were numbered from 0 again, their numbers being used up")

enum fos_capture_format { FOS_FORMAT_NONE, FOS_FORMAT_PCAP, FOS_FORMAT_PCAPNG };

enum fos_capture_result {
    FOS_CAPTURE_FULL = 0,     /* as many slots as wanted were made */
    FOS_CAPTURE_MORE = 1,     /* `need` bytes must be there from *pos on */
    FOS_CAPTURE_STOP = 2,     /* nothing behind *pos can be read */
    FOS_CAPTURE_UNKNOWN = -1, /* open: no capture */
    FOS_CAPTURE_VERSION = -2, /* open: a version of the format that is not read */
    FOS_CAPTURE_LENGTH = -3,  /* open: the section header has an impossible length */
    FOS_CAPTURE_ORDER = -4,   /* open: the section header has no byte-order magic */
    FOS_CAPTURE_MEMORY = -5,
};

typedef struct fos_interface {
    int64_t offset;           /* seconds added to every time (if_tsoffset) */
    uint64_t multiply;        /* ns per unit of time; 0: `divide` or `shift` applies */
    uint64_t divide;          /* units of time per ns; 0: no time reaches one ns */
    uint64_t most;            /* the largest time that `multiply` can take without overflow */
    uint32_t snaplen;         /* 0: no limit */
    uint16_t link;            /* LINKTYPE_* */
    uint8_t shift;            /* units of 2^-shift s */
    uint8_t resolution;       /* if_tsresol as the file has it */
    char name[24];            /* if_name, its first 23 bytes */
} fos_interface;
FOS_ASSERT_SIZE(fos_interface, 64);

typedef struct fos_capture {
    uint8_t format;           /* fos_capture_format */
    uint8_t swapped;          /* integers of the file or the present section are big-endian */
    uint8_t record;           /* pcap: bytes of a record's header */
    uint8_t stopped;
    uint16_t major;
    uint16_t minor;
    uint32_t unit;            /* pcap: ns per unit of the fraction of a second */
    uint32_t need;            /* see FOS_CAPTURE_MORE */
    fos_interface *interfaces; /* owned; freed by fos_capture_close */
    uint32_t interface_count;
    uint32_t interface_room;
    uint32_t section;         /* number of the present section's first interface */
    int64_t last_ts;          /* ns; what a packet without a time gets */
    const uint8_t *fetched;   /* how far the prefetch went */
#define X(name, text) uint64_t name;
    FOS_CAPTURE_COUNTERS(X)
#undef X
} fos_capture;

FOS_INLINE uint32_t fos_cap32(const uint8_t *p, int swapped) {
    return swapped ? fos_be32(p) : fos_le32(p);
}

FOS_INLINE uint16_t fos_cap16(const uint8_t *p, int swapped) {
    return swapped ? fos_be16(p) : fos_le16(p);
}

FOS_INLINE const uint8_t *fos_capture_fetch(const uint8_t *fetched, const uint8_t *next) {
    uintptr_t at = (uintptr_t)fetched, upto = (uintptr_t)next + FOS_CAPTURE_AHEAD;
    for (; at < upto; at += 64) __builtin_prefetch((const void *)at);
    return (const uint8_t *)at;
}

static void fos_capture_close(fos_capture *c) {
    free(c->interfaces);
    c->interfaces = NULL;
    c->interface_count = c->interface_room = 0;
}

/* ---------------------------------------------------------------------- interfaces and time */

static void fos_interface_resolve(fos_interface *i, uint8_t resolution, int64_t offset) {
    uint32_t n = resolution & 0x7f;
    i->resolution = resolution;
    i->offset = offset;
    i->multiply = i->divide = i->most = 0;
    i->shift = 0;
    if (resolution & 0x80) {
        i->shift = (uint8_t)n;
        if (n == 0) i->multiply = 1000000000u;
    } else if (n <= 9) {
        for (i->multiply = 1; n < 9; n++) i->multiply *= 10;
    } else if (n <= 9 + 19) {
        for (i->divide = 1; n > 9; n--) i->divide *= 10;
    }
    if (i->multiply && !offset) i->most = (uint64_t)FOS_CAPTURE_LAST_NS / i->multiply;
}

/* Nanoseconds since the epoch of a record's time; the rare cases of fos_interface_ns.  Times are
 * unsigned, but 2^63 units of a nanosecond or more are no date: whoever wrote such a time meant
 * one before the epoch. */
FOS_NOINLINE int64_t fos_interface_ns_slow(fos_capture *c, const fos_interface *i, uint64_t time) {
    __int128 ns;                              /* within 2^64 * 10^9 < 2^94 */
    if (i->multiply) {
        ns = (__int128)(int64_t)time * (int64_t)i->multiply;
        c->time_before_epoch += time >> 63;
    } else if (i->shift) ns = (__int128)(((unsigned __int128)time * 1000000000u) >> i->shift);
    else ns = i->divide ? time / i->divide : 0;
    ns += (__int128)i->offset * 1000000000;
    if (ns <= FOS_CAPTURE_LAST_NS && ns >= -FOS_CAPTURE_LAST_NS) return (int64_t)ns;
    c->time_out_of_range++;
    return ns > 0 ? FOS_CAPTURE_LAST_NS : -FOS_CAPTURE_LAST_NS;
}

FOS_INLINE int64_t fos_interface_ns(fos_capture *c, const fos_interface *i, uint64_t time) {
    if (FOS_LIKELY(time - 1 < i->most)) return (int64_t)(time * i->multiply);
    return fos_interface_ns_slow(c, i, time);
}

/* Give a new interface its number: 0, or FOS_CAPTURE_MEMORY, or 1 when all numbers are taken. */
static int fos_capture_describe(fos_capture *c, uint16_t link, uint32_t snaplen) {
    if (c->interface_count == FOS_CAPTURE_MAX_INTERFACES) {
        if (c->section == 0) return 1;
        c->interface_count -= c->section;
        memmove(c->interfaces, c->interfaces + c->section, c->interface_count * sizeof(fos_interface));
        c->section = 0;
        c->renumbered++;
    }
    if (c->interface_count == c->interface_room) {
        uint32_t room = c->interface_room ? c->interface_room * 2 : 4;
        fos_interface *grown = (fos_interface *)realloc(c->interfaces, room * sizeof(fos_interface));
        if (!grown) return FOS_CAPTURE_MEMORY;
        c->interfaces = grown;
        c->interface_room = room;
    }
    fos_interface *i = &c->interfaces[c->interface_count++];
    memset(i, 0, sizeof *i);
    i->link = link;
    i->snaplen = snaplen;
    fos_interface_resolve(i, 6, 0);           /* the default: microseconds */
    c->described++;
    return 0;
}

/* ------------------------------------------------------------------------------------- pcap */

/* Make up to `want` slots of the records in [*at, end).  `swapped` and `record` are constants
 * where this is called, so that each variant gets a loop of its own. */
FOS_INLINE int fos_pcap_walk(fos_capture *c, const uint8_t **at, const uint8_t *end, fos_ring *ring, uint32_t want,
                             const int swapped, const uint32_t record) {
    const uint8_t *p = *at, *fetched = c->fetched;
    const uint32_t mask = ring->size - 1, unit = c->unit, first = ring->tail;
    const uint16_t link = c->interfaces[0].link;
    /* Before 2.3 the length on the wire came first; programs of that time wrote 2.3 either way. */
    const int old = c->minor < 3 ? 2 : c->minor == 3;
    uint32_t tail = first, cut = 0;
    uint64_t bytes = 0;
    int result = FOS_CAPTURE_FULL;
    while (tail - first < want) {
        if (FOS_UNLIKELY((size_t)(end - p) < record)) {
            c->need = record;
            result = FOS_CAPTURE_MORE;
            break;
        }
        uint32_t len = fos_cap32(p + 8, swapped), wire = fos_cap32(p + 12, swapped);
        if (FOS_UNLIKELY(old && (old > 1 || len > wire))) { uint32_t other = len; len = wire; wire = other; }
        if (FOS_UNLIKELY((size_t)(end - p) - record < len || len > FOS_CAPTURE_MAX_FRAME)) {
            c->need = record + len;
            result = len > FOS_CAPTURE_MAX_FRAME ? FOS_CAPTURE_STOP : FOS_CAPTURE_MORE;
            break;
        }
        fos_slot *slot = &ring->slots[tail & mask];
        /* At most (2^32 - 1) * (10^9 + 10^3), which 63 bits hold. */
        slot->ts = (int64_t)((uint64_t)fos_cap32(p, swapped) * 1000000000u +
                             (uint64_t)fos_cap32(p + 4, swapped) * unit);
        slot->ptr = p + record;
        slot->buffer = FOS_NO_BUFFER;
        slot->len = len;
        slot->wire = wire;
        slot->link = link;
        slot->iface = 0;
        slot->flags = 0;
        cut += len < wire;
        bytes += len;
        p += record + len;
        fetched = fos_capture_fetch(fetched, p);
        tail++;
    }
    *at = p;
    c->fetched = fetched;
    c->packets += tail - first;
    c->bytes += bytes;
    c->cut += cut;
    ring->tail = tail;
    return result;
}

static int fos_pcap_open(fos_capture *c, const uint8_t *p, size_t n) {
    static const struct { uint32_t magic; uint8_t record; uint8_t extra; uint16_t unit; } variants[] = {
        {0xa1b2c3d4u, 16, 0, 1000}, {0xa1b23c4du, 16, 0, 1},
        {0xa1b2cd34u, 24, 0, 1000},           /* Kuznetzov's: 8 bytes more per record */
        {0x1c0001acu, 16, 4, 1000},           /* Ixia hardware: the size of all records follows the header */
        {0x1c0001abu, 16, 4, 1000},           /* Ixia software */
    };
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++) {
        int swapped = fos_be32(p) == variants[v].magic;
        if (!swapped && fos_le32(p) != variants[v].magic) continue;
        c->need = 24u + variants[v].extra;
        if (n < c->need) return 0;
        c->major = fos_cap16(p + 4, swapped);
        c->minor = fos_cap16(p + 6, swapped);
        if (c->major != 2) return FOS_CAPTURE_VERSION;
        c->format = FOS_FORMAT_PCAP;
        c->swapped = (uint8_t)swapped;
        c->record = variants[v].record;
        c->unit = variants[v].unit;
        /* The upper half of the last word tells of frame check sequences, not of the link. */
        int made = fos_capture_describe(c, (uint16_t)fos_cap32(p + 20, swapped), fos_cap32(p + 16, swapped));
        if (made) return made;
        c->interfaces[0].resolution = c->unit == 1 ? 9 : 6;
        return (int)c->need;
    }
    return FOS_CAPTURE_UNKNOWN;
}

/* ----------------------------------------------------------------------------------- pcapng */

enum fos_block {
    FOS_BLOCK_SECTION = 0x0a0d0d0a, FOS_BLOCK_INTERFACE = 1, FOS_BLOCK_OLD_PACKET = 2, FOS_BLOCK_SIMPLE = 3,
    FOS_BLOCK_PACKET = 6,
};

/* Read an interface description; `p` is the block of `len` bytes. */
static int fos_pcapng_interface(fos_capture *c, const uint8_t *p, uint32_t len) {
    const int swapped = c->swapped;
    if (len < 20) { c->damaged++; return 0; }
    int made = fos_capture_describe(c, fos_cap16(p + 8, swapped), fos_cap32(p + 12, swapped));
    if (made) {
        c->damaged += made > 0;
        return made < 0 ? made : 0;
    }
    fos_interface *i = &c->interfaces[c->interface_count - 1];
    uint8_t resolution = 6;
    int64_t offset = 0;
    for (uint32_t at = 16; at + 4 <= len - 4;) {
        uint32_t code = fos_cap16(p + at, swapped), size = fos_cap16(p + at + 2, swapped);
        const uint8_t *value = p + at + 4;
        if (code == 0) break;
        if (size > len - 4 - (at + 4)) { c->damaged++; break; }
        if (code == 2) memcpy(i->name, value, size < sizeof i->name ? size : sizeof i->name - 1);
        else if (code == 9 && size == 1) resolution = value[0];
        else if (code == 14 && size == 8)
            offset = (int64_t)(swapped ? fos_be64(value) : fos_le64(value));
        at += 4 + ((size + 3) & ~3u);
    }
    fos_interface_resolve(i, resolution, offset);
    return 0;
}

/* Make the slot of a packet block; returns 1, or 0 where the block contradicts itself. */
FOS_INLINE int fos_pcapng_packet(fos_capture *c, const uint8_t *p, uint32_t len, uint32_t type, fos_slot *slot) {
    const int swapped = c->swapped;
    uint32_t head = type == FOS_BLOCK_SIMPLE ? 12 : 28, number, have, wire;
    if (FOS_UNLIKELY(len < head + 4)) return 0;
    uint32_t room = len - head - 4, flags = 0;
    int64_t ts;
    if (type == FOS_BLOCK_PACKET) number = fos_cap32(p + 8, swapped);
    else if (type == FOS_BLOCK_OLD_PACKET) number = fos_cap16(p + 8, swapped);
    else number = 0;
    if (FOS_UNLIKELY(number >= c->interface_count - c->section)) return 0;
    const fos_interface *i = &c->interfaces[c->section + number];
    if (type == FOS_BLOCK_SIMPLE) {
        wire = fos_cap32(p + 8, swapped);
        have = i->snaplen && i->snaplen < wire ? i->snaplen : wire;
        if (FOS_UNLIKELY(have > room || have > FOS_CAPTURE_MAX_FRAME)) return 0;
        ts = c->last_ts;
        flags = FOS_SLOT_NO_TIME;
        c->without_time++;
    } else {
        have = fos_cap32(p + 20, swapped);
        wire = fos_cap32(p + 24, swapped);
        if (FOS_UNLIKELY(have > room || have > FOS_CAPTURE_MAX_FRAME)) return 0;
        uint64_t time = (uint64_t)fos_cap32(p + 12, swapped) << 32 | fos_cap32(p + 16, swapped);
        ts = c->last_ts = fos_interface_ns(c, i, time);
    }
    slot->ptr = p + head;
    slot->ts = ts;
    slot->buffer = FOS_NO_BUFFER;
    slot->len = have;
    slot->wire = wire;
    slot->link = i->link;
    slot->iface = (uint16_t)(c->section + number);
    slot->flags = flags;
    c->cut += have < wire;
    c->bytes += have;
    return 1;
}

/* Begin a section: 0, or the result that ends the input. */
static int fos_pcapng_section(fos_capture *c, const uint8_t *p, uint32_t len, int swapped) {
    if (len < 28) return FOS_CAPTURE_LENGTH;
    uint16_t major = fos_cap16(p + 12, swapped), minor = fos_cap16(p + 14, swapped);
    c->major = major;
    c->minor = minor;
    if (major != 1) return FOS_CAPTURE_VERSION;
    c->swapped = (uint8_t)swapped;
    c->section = c->interface_count;
    c->sections++;
    return 0;
}

/* The byte order of a section header: 1 big-endian, 0 little-endian, -1 neither. */
FOS_INLINE int fos_pcapng_order(const uint8_t *p) {
    return fos_le32(p + 8) == 0x1a2b3c4du ? 0 : fos_be32(p + 8) == 0x1a2b3c4du ? 1 : -1;
}

/* Make up to `want` slots of the blocks in [*at, end). */
static int fos_pcapng_walk(fos_capture *c, const uint8_t **at, const uint8_t *end, fos_ring *ring, uint32_t want) {
    const uint8_t *p = *at, *fetched = c->fetched;
    const uint32_t mask = ring->size - 1, first = ring->tail;
    uint32_t tail = first;
    int result = FOS_CAPTURE_FULL;
    while (tail - first < want) {
        size_t left = (size_t)(end - p);
        c->need = 12;
        if (FOS_UNLIKELY(left < 12)) { result = FOS_CAPTURE_MORE; break; }
        int swapped = c->swapped;
        uint32_t type = fos_cap32(p, swapped);
        if (FOS_UNLIKELY(type == FOS_BLOCK_SECTION)) {
            swapped = fos_pcapng_order(p);
            if (swapped < 0) { result = FOS_CAPTURE_STOP; break; }
        }
        uint32_t stated = fos_cap32(p + 4, swapped);
        if (FOS_UNLIKELY(stated < 12 || stated > FOS_CAPTURE_MAX_BLOCK)) { result = FOS_CAPTURE_STOP; break; }
        uint32_t len = (stated + 3) & ~3u;    /* some writers forget to count the padding */
        c->need = len;
        if (FOS_UNLIKELY(left < len)) { result = FOS_CAPTURE_MORE; break; }
        uint32_t again = fos_cap32(p + len - 4, swapped);
        if (FOS_UNLIKELY(again != stated && again != len)) { result = FOS_CAPTURE_STOP; break; }
        if (FOS_LIKELY(type == FOS_BLOCK_PACKET || type == FOS_BLOCK_SIMPLE || type == FOS_BLOCK_OLD_PACKET)) {
            if (FOS_LIKELY(fos_pcapng_packet(c, p, len, type, &ring->slots[tail & mask]))) tail++;
            else c->damaged++;
        } else if (type == FOS_BLOCK_INTERFACE) {
            if (fos_pcapng_interface(c, p, len)) { result = FOS_CAPTURE_MEMORY; break; }
        } else if (type == FOS_BLOCK_SECTION) {
            if (fos_pcapng_section(c, p, len, swapped)) { result = FOS_CAPTURE_STOP; break; }
        } else {
            c->other_blocks++;
        }
        p += len;
        fetched = fos_capture_fetch(fetched, p);
    }
    *at = p;
    c->fetched = fetched;
    c->packets += tail - first;
    ring->tail = tail;
    return result;
}

/* ------------------------------------------------------------------------------- both of them */

/* Find out what begins at `p`, of which `n` bytes are there: sets `format` and returns the bytes
 * of the file header (none for pcapng); leaves `format` FOS_FORMAT_NONE and returns 0 where `need`
 * bytes must be there first, or a negative fos_capture_result. */
static int fos_capture_open(fos_capture *c, const uint8_t *p, size_t n) {
    c->need = 4;
    if (n < 4) return 0;
    if (fos_le32(p) != FOS_BLOCK_SECTION) return fos_pcap_open(c, p, n);
    c->need = 28;
    if (n < 28) return 0;
    int swapped = fos_pcapng_order(p);
    if (swapped < 0) return FOS_CAPTURE_ORDER;
    uint32_t len = fos_cap32(p + 4, swapped);
    if (len < 28 || len > FOS_CAPTURE_MAX_BLOCK) return FOS_CAPTURE_LENGTH;
    c->major = fos_cap16(p + 12, swapped);
    c->minor = fos_cap16(p + 14, swapped);
    if (c->major != 1) return FOS_CAPTURE_VERSION;
    c->format = FOS_FORMAT_PCAPNG;
    return 0;
}

/* Make up to `want` slots at the ring's tail out of base[*pos, n) and move *pos behind them.
 * The caller makes sure that the ring has room.  Complexity: the bytes of the headers. */
static int fos_capture_fill(fos_capture *c, const uint8_t *base, size_t n, size_t *pos, fos_ring *ring, uint32_t want) {
    const uint8_t *p = base + *pos, *end = base + n;
    int result;
    if (c->stopped) return FOS_CAPTURE_STOP;
    /* What was fetched counts while it lies just ahead in these same bytes. */
    if ((uintptr_t)c->fetched - (uintptr_t)p > FOS_CAPTURE_AHEAD + 64) c->fetched = p;
    if (c->format == FOS_FORMAT_PCAPNG) result = fos_pcapng_walk(c, &p, end, ring, want);
    else if (c->record == 24)
        result = c->swapped ? fos_pcap_walk(c, &p, end, ring, want, 1, 24) : fos_pcap_walk(c, &p, end, ring, want, 0, 24);
    else
        result = c->swapped ? fos_pcap_walk(c, &p, end, ring, want, 1, 16) : fos_pcap_walk(c, &p, end, ring, want, 0, 16);
    *pos = (size_t)(p - base);
    if (result == FOS_CAPTURE_STOP) {
        c->stopped = 1;
        c->damaged++;
    }
    return result;
}

/* Count what is left when the input has ended: `left` bytes behind the last record read. */
static void fos_capture_end(fos_capture *c, uint64_t left) {
    if (!c->stopped && left) c->cut_records = 1;
    c->stopped = 1;
    c->unread_bytes += left;
}

/* The counters by index, for who shows them. */
static const struct { const char *name, *text; size_t offset; } fos_capture_counters[] FOS_UNUSED = {
#define X(name, text) {#name, text, offsetof(fos_capture, name)},
    FOS_CAPTURE_COUNTERS(X)
#undef X
};
enum { FOS_CAPTURE_COUNTER_COUNT = sizeof fos_capture_counters / sizeof *fos_capture_counters };

FOS_INLINE const char *fos_capture_counter_name(size_t i) { return fos_capture_counters[i].name; }
FOS_INLINE const char *fos_capture_counter_text(size_t i) { return fos_capture_counters[i].text; }
FOS_INLINE uint64_t fos_capture_counter(const fos_capture *c, size_t i) {
    uint64_t v;
    memcpy(&v, (const char *)c + fos_capture_counters[i].offset, sizeof v);
    return v;
}

#endif
