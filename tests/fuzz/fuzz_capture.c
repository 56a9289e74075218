/* Fuzz the capture formats: any bytes are read whole and read in pieces, which must agree, and what
 * was read is written in both formats and read again, which must agree too.
 *
 * Each piece lies in an allocation of exactly its size, so that a read beyond it is seen.
 */
#include <stdio.h>
#include <stdlib.h>

#include "pcapformat.h"
#include "pcapwrite.h"

#define MUST(condition) \
    do { if (!(condition)) { fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); abort(); } } while (0)

enum { SLOTS = 8 };

typedef struct record {
    int64_t ts;
    uint32_t len, wire, flags;
    uint16_t link, iface;
    uint64_t sum;             /* of the frame's bytes */
} record;

typedef struct records {
    record *r;
    size_t n, room;
    uint64_t damaged, cut_records;
    int result;               /* of fos_capture_open where it failed */
} records;

static uint64_t sum_of(const uint8_t *p, uint32_t n) {
    uint64_t sum = 14695981039346656037u;
    for (uint32_t i = 0; i < n; i++) sum = (sum ^ p[i]) * 1099511628211u;
    return sum;
}

/* Take what is in the ring, checking that every frame lies in [low, high). */
static void take(records *out, fos_ring *ring, const uint8_t *low, const uint8_t *high) {
    MUST(fos_ring_check(ring) == 0);
    for (; ring->head != ring->tail; ring->head++) {
        const fos_slot *s = fos_ring_slot(ring, ring->head);
        MUST(s->ptr >= low && s->ptr <= high && s->len <= (size_t)(high - s->ptr));
        MUST(s->ts <= FOS_CAPTURE_LAST_NS && s->ts >= -FOS_CAPTURE_LAST_NS);
        if (out->n == out->room) {
            out->room = out->room ? out->room * 2 : 64;
            out->r = realloc(out->r, out->room * sizeof *out->r);
            MUST(out->r);
        }
        out->r[out->n++] = (record){s->ts, s->len, s->wire, s->flags, s->link, s->iface, sum_of(s->ptr, s->len)};
    }
    ring->cur = ring->head;
}

static uint8_t *copy_of(const uint8_t *p, size_t n) {
    uint8_t *made = malloc(n ? n : 1);
    MUST(made);
    if (n) memcpy(made, p, n);
    return made;
}

/* Read `n` bytes, `step` of them at a time (0: all at once, as a mapped file is read). */
static records read_all(const uint8_t *data, size_t n, size_t step) {
    fos_slot slots[SLOTS];
    fos_ring ring = {.slots = slots, .size = SLOTS};
    fos_capture c = {0};
    records out = {0};
    size_t given = step && step < n ? step : n, base = 0, pos = 0;
    uint8_t *bytes = copy_of(data, given);
    for (;;) {
        int result;
        if (c.format == FOS_FORMAT_NONE) {
            result = fos_capture_open(&c, bytes, given);
            if (result < 0) { out.result = result; break; }
            if (c.format != FOS_FORMAT_NONE) { pos = (size_t)result; continue; }
            if (given == n) { out.result = 1; break; }
            result = FOS_CAPTURE_MORE;
        } else {
            size_t before = pos;
            result = fos_capture_fill(&c, bytes, given - base, &pos, &ring, SLOTS);
            MUST(pos >= before && pos <= given - base);
            MUST(result != FOS_CAPTURE_FULL || ring.tail - ring.head == SLOTS);
            MUST(result != FOS_CAPTURE_MORE || c.need > given - base - pos);
            take(&out, &ring, bytes, bytes + (given - base));
        }
        if (result == FOS_CAPTURE_FULL) continue;
        if (result != FOS_CAPTURE_MORE || given == n) {
            if (c.format != FOS_FORMAT_NONE) fos_capture_end(&c, n - base - pos);
            break;
        }
        base += pos;
        pos = 0;
        given = n - given > step ? given + step : n;
        free(bytes);
        bytes = copy_of(data + base, given - base);
    }
    MUST(c.packets == out.n);
    out.damaged = c.damaged;
    out.cut_records = c.cut_records;
    fos_capture_close(&c);
    free(bytes);
    return out;
}

static int same(const record *a, const record *b) {
    return a->ts == b->ts && a->len == b->len && a->wire == b->wire && a->flags == b->flags && a->link == b->link &&
           a->iface == b->iface && a->sum == b->sum;
}

/* Write the packets of a capture in one format, read that again and compare. */
static void write_again(const uint8_t *data, size_t n, const records *expected, int ng) {
    fos_slot slots[SLOTS];
    fos_ring ring = {.slots = slots, .size = SLOTS};
    fos_capture c = {0};
    fos_writer w;
    uint8_t *file = NULL;
    size_t have = 0, pos;
    int opened = fos_capture_open(&c, data, n);
    MUST(opened >= 0 && !fos_writer_init(&w, 1 << 19, ng, FOS_WRITER_MAX_SNAPLEN));
    pos = (size_t)opened;
    uint16_t link = expected->n ? expected->r[0].link : 1;
    if (ng) fos_writer_begin(&w, 0);
    for (;;) {
        int result = fos_capture_fill(&c, data, n, &pos, &ring, SLOTS), put = FOS_WRITE_PUT;
        for (; ring.head != ring.tail; ring.head += put != FOS_WRITE_FULL) {
            put = fos_writer_put(&w, fos_ring_slot(&ring, ring.head));
            MUST(w.have <= w.size);
            if (put != FOS_WRITE_FULL) continue;
            MUST(w.have);
            file = realloc(file, have + w.have);
            MUST(file);
            memcpy(file + have, w.data, w.have);
            have += w.have;
            w.have = 0;
        }
        if (result != FOS_CAPTURE_FULL) break;
    }
    fos_writer_begin(&w, link);
    file = realloc(file, have + w.have);
    MUST(file);
    memcpy(file + have, w.data, w.have);
    have += w.have;
    records again = read_all(file, have, 0);
    MUST(again.result == 0 && again.damaged == 0 && again.cut_records == 0);
    MUST(again.n == w.packets && w.packets + w.other_link + w.too_many_interfaces == expected->n);
    for (size_t i = 0, j = 0; i < expected->n; i++) {
        record e = expected->r[i];
        if (!ng && e.link != link) continue;
        record *g = &again.r[j++];
        if (!ng && (e.ts < 0 || e.ts > INT64_C(4294967295999999999))) g->ts = e.ts;
        e.iface = g->iface;                   /* numbered anew, by first use */
        e.flags = g->flags;
        MUST(same(&e, g));
    }
    free(again.r);
    free(file);
    fos_writer_close(&w);
    fos_capture_close(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const size_t steps[] = {1, 7, 64, 1000};
    records whole = read_all(data, size, 0);
    for (size_t s = 0; s < sizeof steps / sizeof *steps; s++) {
        if (size > 4096 * steps[s]) continue;
        records pieces = read_all(data, size, steps[s]);
        MUST(pieces.result == whole.result && pieces.n == whole.n && pieces.damaged == whole.damaged &&
             pieces.cut_records == whole.cut_records);
        for (size_t i = 0; i < whole.n; i++) MUST(same(&whole.r[i], &pieces.r[i]));
        free(pieces.r);
    }
    if (whole.result == 0) {
        write_again(data, size, &whole, 0);
        write_again(data, size, &whole, 1);
    }
    free(whole.r);
    return 0;
}
