/* The floor: the least that a C program can do for the same result, by stage.
 *
 *     floor io|parse|flow|defrag|tcp FILE.pcap [check]
 *     floor search PATTERN FILE.pcap
 *     floor strip PATTERN OUT.pcap FILE.pcap
 *
 *     io      walk the records and touch each frame
 *     parse   + Ethernet, IPv4, ports, the key that both directions share, its hash
 *     flow    + find or make the connection, count packets and bytes
 *     defrag  flow, and IP fragments joined with one copy and handed over
 *     tcp     flow, and TCP payload in order, by reference, handed over through a pointer
 *     search  tcp, and the matches of a pattern of 2 to 15 bytes counted, wherever the stream is cut
 *     strip   flow, and each frame copied out without the pattern, where all of it lies in one segment:
 *             lengths, sequence and acknowledgement numbers, checksums in full; nothing above TCP
 *
 * A yardstick, no product: nothing expires, nothing is bounded, input is trusted to be whole
 * frames of Ethernet and IPv4, checksums are not looked at.  What makes it fast:
 * the file is mapped at once and fetched 4 KB ahead of the walk; packets go in batches of 32,
 * so that the cache misses of a batch's index slots, then of its records, overlap; the index
 * has 8 bytes per slot and records are two cache lines.
 * One line of JSON says what was found; `check` adds digests that the measured runs leave out.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#if defined __SSE4_2__ || defined __AVX512BW__
#include <immintrin.h>
#endif

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define INLINE static inline __attribute__((always_inline))

enum stage { IO, PARSE, FLOW, DEFRAG, TCP, STRIP };
enum { BATCH = 32, AHEAD = 4096, LINE = 64, HUGE = 2 << 20, ETHER = 14, LONGEST = 15 };

#define LOAD(type, p) (((const struct { type v; } __attribute__((packed)) *)(p))->v)

/* ---- records ------------------------------------------------------------------------- */

typedef struct piece {                 /* a TCP segment that came too early, or a fragment */
    struct piece *next;
    const uint8_t *data;
    uint32_t at, length;
} piece;

typedef struct {                       /* one direction of a TCP connection */
    piece *waiting;                    /* by sequence number */
    uint32_t next;                     /* sequence number of the next byte */
    union {
        uint32_t crc;                  /* with `check` */
        int32_t moved;                 /* strip: what was taken out of the stream, negative */
    };
    bool open;
    uint8_t kept;                      /* search: how much of `tail` */
    uint8_t tail[LONGEST - 1];         /* search: the last bytes, which may begin a match */
} half;

typedef struct {
    uint64_t addresses;                /* both, the lower endpoint's first */
    uint32_t ports, proto;
    uint64_t packets, bytes;
    uint32_t last, windows;
    half halves[2];
} __attribute__((aligned(128))) record;
_Static_assert(sizeof(record) == 128, "two cache lines");

typedef struct { uint32_t tag, number; } slot;      /* number 0: empty */

static record *records;
static uint32_t record_count = 1;
static slot *slots;
static uint64_t slot_mask;
static piece *free_pieces;

static uint64_t packets, stream_bytes, windows, datagrams, datagram_bytes, digest, touched, matches;

static void *reserve(size_t size)
{
    uint8_t *p = mmap(NULL, size + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) { perror("floor: mmap"); exit(1); }
    p = (uint8_t *)(((uintptr_t)p + HUGE - 1) & ~(uintptr_t)(HUGE - 1));
    madvise(p, size, MADV_HUGEPAGE);
    return p;
}

static void grow_index(uint64_t count)
{
    slot *old = slots;
    uint64_t old_count = old ? slot_mask + 1 : 0;
    slots = reserve(count * sizeof(slot));
    slot_mask = count - 1;
    for (uint64_t i = 0; i < old_count; i++) {
        if (!old[i].number) continue;
        uint64_t at = old[i].tag & slot_mask;
        while (slots[at].number) at = (at + 1) & slot_mask;
        slots[at] = old[i];
    }
    if (old) munmap(old, old_count * sizeof(slot));
}

static piece *new_piece(void)
{
    piece *p = free_pieces;
    if (p) { free_pieces = p->next; return p; }
    p = malloc(sizeof *p);
    if (!p) { perror("floor"); exit(1); }
    return p;
}

static void drop_piece(piece *p) { p->next = free_pieces; free_pieces = p; }

/* ---- consumers, reached through pointers ---------------------------------------------- */

static uint32_t crc32_table[256];

static uint32_t crc32_of(uint32_t crc, const uint8_t *p, size_t n)
{
    crc = ~crc;
    while (n--) crc = crc32_table[(crc ^ *p++) & 255] ^ crc >> 8;
    return ~crc;
}

static void make_crc_table(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++) c = c & 1 ? 0xEDB88320u ^ c >> 1 : c >> 1;
        crc32_table[i] = c;
    }
}

static void count_window(record *r, half *h, const uint8_t *p, uint32_t n)
{
    (void)h, (void)p;
    windows++;
    stream_bytes += n;
    r->windows++;
}

static void check_window(record *r, half *h, const uint8_t *p, uint32_t n)
{
    count_window(r, h, p, n);
    h->crc = crc32_of(h->crc, p, n);
}

/* ---- a pattern -------------------------------------------------------------------------- */

static const uint8_t *pattern;
static uint32_t pattern_length;

/* The first match at or behind `from`, or -1. */
INLINE int64_t find_pattern(const uint8_t *p, size_t n, size_t from)
{
    const size_t m = pattern_length;
#ifdef __AVX512BW__
    const __m512i first = _mm512_set1_epi8((char)pattern[0]), last = _mm512_set1_epi8((char)pattern[m - 1]);
    if (n < m) return -1;
    for (size_t i = from, end = n - m + 1; i < end; i += 64) {
        uint64_t lanes = end - i >= 64 ? ~0ull : (1ull << (end - i)) - 1;
        lanes = _mm512_mask_cmpeq_epi8_mask(lanes, _mm512_maskz_loadu_epi8(lanes, p + i), first);
        if (!lanes) continue;
        lanes &= _mm512_cmpeq_epi8_mask(_mm512_maskz_loadu_epi8(lanes, p + i + m - 1), last);
        for (; lanes; lanes &= lanes - 1) {
            size_t at = i + (size_t)__builtin_ctzll(lanes);
            if (!memcmp(p + at, pattern, m)) return (int64_t)at;
        }
    }
    return -1;
#else
    const uint8_t *hit = from < n ? memmem(p + from, n - from, pattern, m) : NULL;
    return hit ? hit - p : -1;
#endif
}

static void search_window(record *r, half *h, const uint8_t *p, uint32_t n)
{
    const uint32_t most = pattern_length - 1;
    uint8_t joint[2 * LONGEST];
    size_t from = 0;
    int64_t at;
    (void)r;
    windows++;
    stream_bytes += n;
    memcpy(joint, h->tail, h->kept);
    uint32_t taken = n < most ? n : most, seam = h->kept + taken;
    memcpy(joint + h->kept, p, taken);
    if (h->kept && (at = find_pattern(joint, seam, 0)) >= 0) {
        matches++;
        from = (size_t)at + pattern_length - h->kept;
    }
    if (n <= most) {                                    /* too short for a match of its own */
        uint32_t begin = from ? h->kept + (uint32_t)from : 0, rest = seam - begin;
        if (rest > most) begin += rest - most, rest = most;
        memcpy(h->tail, joint + begin, rest);
        h->kept = (uint8_t)rest;
        return;
    }
    while ((at = find_pattern(p, n, from)) >= 0) {
        matches++;
        from = (size_t)at + pattern_length;
    }
    h->kept = (uint8_t)(n - from < most ? n - from : most);
    memcpy(h->tail, p + n - h->kept, h->kept);
}

static void count_datagram(const uint8_t *p, uint32_t n)
{
    (void)p;
    datagrams++;
    datagram_bytes += n;
}

static void check_datagram(const uint8_t *p, uint32_t n)
{
    count_datagram(p, n);
    digest += crc32_of(0, p, n);
}

static void (*on_window)(record *, half *, const uint8_t *, uint32_t) = count_window;
static void (*on_datagram)(const uint8_t *, uint32_t) = count_datagram;

/* ---- IP fragments --------------------------------------------------------------------- */

typedef struct datagram {
    struct datagram *next;
    uint64_t addresses;
    uint32_t id, have, total;          /* id: protocol and identification; total: 0 until known */
    piece *pieces;
} datagram;

enum { BUCKETS = 1 << 14 };
static datagram *buckets[BUCKETS], *free_datagrams;

INLINE uint32_t mix(uint64_t a, uint64_t b)
{
#ifdef __SSE4_2__
    return (uint32_t)(_mm_crc32_u64(_mm_crc32_u64(0x51, a), b) * 0x9E3779B97F4A7C15u >> 32);
#else
    uint64_t h = (a ^ b * 0xC2B2AE3D27D4EB4Fu) * 0x9E3779B97F4A7C15u;
    return (uint32_t)(h >> 32 ^ h >> 13);
#endif
}

static void take_fragment(const uint8_t *ip)
{
    static uint8_t joined[1 << 16];
    uint16_t word = ntohs(LOAD(uint16_t, ip + 6)), header = (ip[0] & 15) * 4;
    uint64_t addresses = LOAD(uint64_t, ip + 12);
    uint32_t id = LOAD(uint16_t, ip + 4) | (uint32_t)ip[9] << 16;
    datagram **link = &buckets[mix(addresses, id) % BUCKETS], *d;
    while ((d = *link) && (d->addresses != addresses || d->id != id)) link = &d->next;
    if (!d) {
        d = free_datagrams;
        if (d) free_datagrams = d->next;
        else if (!(d = malloc(sizeof *d))) { perror("floor"); exit(1); }
        *d = (datagram){.addresses = addresses, .id = id};
        *link = d;
    }
    piece *p = new_piece();
    p->data = ip + header;
    p->at = (word & 0x1fff) * 8;
    p->length = ntohs(LOAD(uint16_t, ip + 2)) - header;
    p->next = d->pieces;
    d->pieces = p;
    d->have += p->length;
    if (!(word & 0x2000)) d->total = p->at + p->length;
    if (d->have != d->total) return;
    for (piece *next; (p = d->pieces); d->pieces = next) {
        memcpy(joined + p->at, p->data, p->length);
        next = p->next;
        drop_piece(p);
    }
    *link = d->next;
    d->next = free_datagrams;
    free_datagrams = d;
    on_datagram(joined, d->total);
}

/* ---- packets and connections ---------------------------------------------------------- */

typedef struct {
    uint64_t addresses, at;            /* at: where the search for its slot stopped */
    const uint8_t *ip;
    uint32_t ports, tag, wire, seconds;
    uint8_t header, proto, direction;
} packet;

INLINE bool parse(packet *q, const uint8_t *frame, uint32_t captured, const enum stage stage)
{
    const uint8_t *ip = frame + ETHER;
    if (unlikely(LOAD(uint16_t, frame + 12) != htons(0x0800) || captured < 42)) return false;
    if (unlikely(LOAD(uint16_t, ip + 6) & htons(0x3fff))) {
        if (stage == DEFRAG) take_fragment(ip);
        return false;
    }
    q->ip = ip;
    q->header = (ip[0] & 15) * 4;
    q->proto = ip[9];
    uint32_t source = LOAD(uint32_t, ip + 12), destination = LOAD(uint32_t, ip + 16);
    uint32_t ports = LOAD(uint32_t, ip + q->header);
    uint64_t from = (uint64_t)source << 16 | (ports & 0xffff), to = (uint64_t)destination << 16 | ports >> 16;
    uint64_t low = from < to ? from : to, high = from < to ? to : from;     /* no branch: it could not be predicted */
    q->direction = from > to;
    q->addresses = (low >> 16) << 32 | high >> 16;
    q->ports = (uint32_t)(low << 16) | (high & 0xffff);
    q->tag = mix(q->addresses, (uint64_t)q->proto << 32 | q->ports);
    return true;
}

INLINE void take_segment(record *r, const packet *q)
{
    const uint8_t *tcp = q->ip + q->header;
    half *h = &r->halves[q->direction];
    uint32_t seq = ntohl(LOAD(uint32_t, tcp + 4));
    uint32_t header = (tcp[12] >> 4) * 4;
    int32_t length = ntohs(LOAD(uint16_t, q->ip + 2)) - q->header - (int32_t)header;
    if (unlikely(tcp[13] & 2)) {                        /* SYN */
        h->next = seq + 1;
        h->open = true;
        return;
    }
    if (length <= 0) return;
    const uint8_t *data = tcp + header;
    if (unlikely(!h->open)) {
        h->next = seq;
        h->open = true;
    }
    int32_t ahead = (int32_t)(seq - h->next);
    if (unlikely(ahead > 0)) {
        piece **link = &h->waiting, *p = new_piece();
        while (*link && (int32_t)((*link)->at - seq) < 0) link = &(*link)->next;
        *p = (piece){.next = *link, .data = data, .at = seq, .length = (uint32_t)length};
        *link = p;
        return;
    }
    if (unlikely(ahead + length <= 0)) return;          /* all of it was there before */
    h->next += (uint32_t)(ahead + length);
    on_window(r, h, data - ahead, (uint32_t)(ahead + length));
    while (unlikely(h->waiting != NULL)) {
        piece *p = h->waiting;
        int32_t known = (int32_t)(h->next - p->at), rest = (int32_t)p->length - known;
        if (known < 0) return;
        h->waiting = p->next;
        if (rest > 0) {
            h->next += (uint32_t)rest;
            on_window(r, h, p->data + known, (uint32_t)rest);
        }
        drop_piece(p);
    }
}

static uint8_t out[(256 << 10) + (1 << 17)];
static size_t out_used;
static int out_file = -1;

static void flush(void)
{
    for (size_t done = 0; done < out_used;) {
        ssize_t n = write(out_file, out + done, out_used - done);
        if (n < 0) { perror("floor: write"); exit(1); }
        done += (size_t)n;
    }
    out_used = 0;
}

INLINE uint64_t add_up(const uint8_t *p, size_t n)      /* 32-bit words: the compiler makes vectors of it */
{
    uint64_t sum = 0;
    size_t i = 0;
    for (; i + 4 <= n; i += 4) sum += LOAD(uint32_t, p + i);
    uint32_t rest = 0;
    memcpy(&rest, p + i, n - i);
    return sum + rest;
}

INLINE uint16_t folded(uint64_t sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

INLINE void store16(uint8_t *p, uint16_t v) { memcpy(p, &v, 2); }
INLINE void store32(uint8_t *p, uint32_t v) { memcpy(p, &v, 4); }

INLINE void strip_packet(record *r, const packet *q)
{
    const uint8_t *frame = q->ip - ETHER;
    uint32_t captured = LOAD(uint32_t, frame - 8);
    uint8_t *copy = out + out_used, *ip = copy + 16 + ETHER, *tcp = ip + q->header;
    half *h = &r->halves[q->direction], *other = &r->halves[!q->direction];
    memcpy(copy, frame - 16, 16 + captured);
    uint32_t total = ntohs(LOAD(uint16_t, ip + 2)), header = (tcp[12] >> 4) * 4;
    uint32_t length = total - q->header - header;
    int32_t before = h->moved;
    uint8_t *data = tcp + header;
    for (int64_t at = 0; length && (at = find_pattern(data, length, (size_t)at)) >= 0;) {
        memmove(data + at, data + at + pattern_length, length - (size_t)at - pattern_length);
        length -= pattern_length;
        total -= pattern_length;
        captured -= pattern_length;
        h->moved -= (int32_t)pattern_length;
        matches++;
    }
    store32(copy + 8, captured);
    store32(copy + 12, captured);
    store16(ip + 2, htons((uint16_t)total));
    store32(tcp + 4, htonl(ntohl(LOAD(uint32_t, tcp + 4)) + (uint32_t)before));
    store32(tcp + 8, htonl(ntohl(LOAD(uint32_t, tcp + 8)) + (uint32_t)other->moved));
    store16(ip + 10, 0);
    store16(ip + 10, folded(add_up(ip, q->header)));
    store16(tcp + 16, 0);
    uint64_t pseudo = (uint64_t)LOAD(uint32_t, ip + 12) + LOAD(uint32_t, ip + 16) + htons(6) + htons((uint16_t)(header + length));
    store16(tcp + 16, folded(pseudo + add_up(tcp, header + length)));
    out_used += 16 + captured;
    if (out_used >= 256 << 10) flush();
}

INLINE record *find(const packet *q)
{
    for (uint64_t at = q->at;; at = (at + 1) & slot_mask) {
        slot *s = &slots[at];
        if (!s->number) {
            record *r = &records[record_count];
            *s = (slot){.tag = q->tag, .number = record_count++};
            r->addresses = q->addresses;
            r->ports = q->ports;
            r->proto = q->proto;
            return r;
        }
        record *r = &records[s->number];
        if (s->tag == q->tag && r->addresses == q->addresses && r->ports == q->ports && r->proto == q->proto)
            return r;
    }
}

INLINE void take_batch(packet *batch, int count, const enum stage stage)
{
    for (int i = 0; i < count; i++) {
        uint64_t at = batch[i].tag & slot_mask;
        while (slots[at].number && slots[at].tag != batch[i].tag) at = (at + 1) & slot_mask;
        batch[i].at = at;
        const char *r = (const char *)&records[slots[at].number];
        __builtin_prefetch(r);
        if (stage >= TCP) __builtin_prefetch(r + LINE);
    }
    for (int i = 0; i < count; i++) {
        record *r = find(&batch[i]);
        r->packets++;
        r->bytes += batch[i].wire;
        r->last = batch[i].seconds;
        if (stage == TCP && batch[i].proto == 6) take_segment(r, &batch[i]);
        if (stage == STRIP && batch[i].proto == 6) strip_packet(r, &batch[i]);
    }
    if (unlikely(record_count > slot_mask / 2)) grow_index((slot_mask + 1) * 2);
}

INLINE void walk(const uint8_t *p, const uint8_t *end, const enum stage stage)
{
    packet batch[BATCH];
    const uint8_t *fetched = p;
    uint64_t seen = 0, sum = 0;
    while (end - p >= 16) {
        int count = 0;
        for (int n = 0; n < BATCH && end - p >= 16; n++) {
            uint32_t captured = LOAD(uint32_t, p + 8);
            const uint8_t *frame = p + 16, *next = frame + captured;
            if (unlikely(next > end)) { end = p; break; }
            const uint8_t *stop = end - next > AHEAD ? next + AHEAD : end;
            for (; fetched < stop; fetched += LINE) __builtin_prefetch(fetched);
            if (stage == IO) {
                sum += LOAD(uint32_t, frame + 26);
            } else if (likely(parse(&batch[count], frame, captured, stage))) {
                packet *q = &batch[count++];
                q->seconds = LOAD(uint32_t, p);
                q->wire = LOAD(uint32_t, p + 12);
                if (stage == PARSE) sum += q->tag;
                else __builtin_prefetch(&slots[q->tag & slot_mask]);
            }
            p = next;
            seen++;
        }
        if (stage > PARSE) take_batch(batch, count, stage);
    }
    packets = seen;
    touched = sum;
}

static void report(const char *mode, bool check)
{
    printf("{\"packets\": %" PRIu64 ", \"touched\": %" PRIu64, packets, touched);
    if (strcmp(mode, "io") && strcmp(mode, "parse") && strcmp(mode, "defrag")) printf(", \"connections\": %" PRIu32, record_count - 1);
    if (!strcmp(mode, "search")) printf(", \"matches\": %" PRIu64, matches);
    if (!strcmp(mode, "strip")) printf(", \"cut\": %" PRIu64, matches);
    if (!strcmp(mode, "tcp") || !strcmp(mode, "search")) printf(", \"stream_bytes\": %" PRIu64 ", \"windows\": %" PRIu64, stream_bytes, windows);
    if (!strcmp(mode, "defrag"))
        printf(", \"datagrams\": %" PRIu64 ", \"datagram_bytes\": %" PRIu64, datagrams, datagram_bytes);
    if (check && !strcmp(mode, "defrag")) printf(", \"datagrams_crc\": %" PRIu64, digest);
    else if (check) {
        uint64_t squared = 0, bytes = 0, crcs = 0;
        for (uint32_t i = 1; i < record_count; i++) {
            squared += records[i].packets * records[i].packets;
            bytes += records[i].bytes;
            crcs += (uint64_t)records[i].halves[0].crc + records[i].halves[1].crc;
        }
        printf(", \"packets_squared\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"streams_crc\": %" PRIu64,
               squared, bytes, crcs);
    }
    printf("}\n");
}

/* Take PATTERN, and OUT.pcap of strip, off the arguments; give how many there were. */
static int take_pattern(const char *mode, char **argv, int argc)
{
    bool strips = !strcmp(mode, "strip");
    if (!strips && strcmp(mode, "search")) return 0;
    if (argc < 4 + strips) return argc;
    pattern = (const uint8_t *)argv[2];
    pattern_length = (uint32_t)strlen(argv[2]);
    if (pattern_length < 2 || pattern_length > LONGEST) {
        fprintf(stderr, "floor: a pattern of %" PRIu32 " bytes, expected 2 to %d\n", pattern_length, LONGEST);
        exit(2);
    }
    on_window = search_window;
    if (strips && (out_file = open(argv[3], O_WRONLY | O_CREAT | O_TRUNC, 0666)) < 0) { perror(argv[3]); exit(1); }
    return 1 + strips;
}

int main(int argc, char **argv)
{
    int taken = argc > 1 ? take_pattern(argv[1], argv, argc) : 0;
    if (argc < 3 + taken) {
        fprintf(stderr, "usage: floor io|parse|flow|defrag|tcp|search PATTERN|strip PATTERN OUT.pcap FILE.pcap [check]\n");
        return 2;
    }
    const char *mode = argv[1];
    argv += taken;
    argc -= taken;
    bool check = argc > 3 && !strcmp(argv[3], "check");
    if (check) {
        make_crc_table();
        on_window = check_window;
        on_datagram = check_datagram;
    }
    int fd = open(argv[2], O_RDONLY);
    struct stat info;
    if (fd < 0 || fstat(fd, &info)) { perror(argv[2]); return 1; }
    const uint8_t *file = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (file == MAP_FAILED || info.st_size < 24) { perror(argv[2]); return 1; }
    if (LOAD(uint32_t, file) != 0xA1B2C3D4u && LOAD(uint32_t, file) != 0xA1B23C4Du) {
        fprintf(stderr, "%s: expected little-endian pcap\n", argv[2]);
        return 1;
    }
    records = reserve(sizeof(record) << 24);
    grow_index(1 << 16);
    const uint8_t *p = file + 24, *end = file + info.st_size;
    if (!strcmp(mode, "io")) walk(p, end, IO);
    else if (!strcmp(mode, "parse")) walk(p, end, PARSE);
    else if (!strcmp(mode, "flow")) walk(p, end, FLOW);
    else if (!strcmp(mode, "defrag")) walk(p, end, DEFRAG);
    else if (!strcmp(mode, "tcp") || !strcmp(mode, "search")) walk(p, end, TCP);
    else if (!strcmp(mode, "strip")) {
        memcpy(out, file, 24);
        out_used = 24;
        walk(p, end, STRIP);
        flush();
    }
    else { fprintf(stderr, "floor: no mode '%s'\n", mode); return 2; }
    report(mode, check);
    return 0;
}
