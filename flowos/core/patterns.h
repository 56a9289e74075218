/* A compiled set of patterns (Aho–Corasick) that finds the leftmost, longest match, across segments.
 *
 *     nodes      one per distinct prefix, numbered breadth first: a node's children follow each other
 *     first rows of a dense table  node x class of byte -> node;  for as many nodes as its budget holds
 *     the others                   a search among the children, then the failure link
 *
 * A node stands for the bytes read since its match could have begun.  Bytes of a match that was
 * found but may still become a longer one, or give way to one further left, lie inside that string,
 * so what is the best match so far is a property of the node.  A step that would drop the start of
 * that match is DEAD: the match is reported, and the scan goes on behind it with the node that the
 * rest of the string leads to, prepared per node (`resume`), so that bytes are not read again:
 * {a, aaa…b} in aaaa… costs the same per byte as any other text.  Where the rest itself dies,
 * `left` bytes are read again; only nested sets of long patterns come to that.
 *
 * Memory: 36 bytes per node, at most one node per byte of pattern, and FOS_PATTERNS_TABLE.
 * A set is built once, then read by any number of threads.
 */
#ifndef FOS_PATTERNS_H
#define FOS_PATTERNS_H

#include <stdlib.h>

#ifdef __SSSE3__
#define FOS_PATTERNS_FILTER 1
#include <tmmintrin.h>
#elif defined(__x86_64__)
#define FOS_PATTERNS_FILTER 1
#include <tmmintrin.h>
#else
#define FOS_PATTERNS_FILTER 0
#endif

#include "segment.h"

enum {
    FOS_PATTERNS_BYTES = 4 << 20,  /* of all patterns: 151 MB of nodes at the most */
    FOS_PATTERNS_TABLE = 4 << 20,  /* bytes of the dense table, but at least the root's row */
    FOS_PATTERNS_BLOCK = 16,       /* bytes that the filter looks at together */
};
#define FOS_PATTERNS_DEAD UINT32_MAX

typedef struct fos_pattern_node {
    uint32_t child;           /* its first child; the next node's `child` ends them */
    uint32_t fail;            /* the longest proper suffix that is a node */
    uint32_t next;            /* fail, or DEAD where that drops the start of `best` */
    uint32_t depth;           /* length of the string */
    uint32_t start;           /* the best match in the string: the leftmost, then the longest */
    uint32_t length;          /* ... 0: there is none */
    uint32_t index;           /* ... the pattern that it is of */
    uint32_t resume;          /* the node of what follows the best match in the string */
    uint32_t left;            /* ... but for so many bytes, of which the first is DEAD there */
} fos_pattern_node;
FOS_ASSERT_SIZE(fos_pattern_node, 36);

typedef struct fos_patterns {
    fos_pattern_node *nodes;  /* `count` and one that ends the last one's children */
    uint8_t *label;           /* the class of the byte that leads to each node */
    uint32_t *table;          /* dense rows of the first `dense` nodes */
    uint32_t count;
    uint32_t dense;
    uint32_t classes;         /* of bytes: bytes in no pattern share class 0 */
    uint32_t patterns;
    uint32_t longest;
    uint32_t window;          /* bytes that the filter looks at: 1 to 3, 0: it is not used */
    uint8_t class_of[256];
    uint8_t begins[256];      /* whether a pattern begins so */
    uint8_t low[3][16];       /* the filter: groups of patterns by nibbles of their first bytes */
    uint8_t high[3][16];
} fos_patterns;

/* Where a scan stands.  Set by fos_scan_begin, moved by fos_patterns_next alone; valid while the
 * segments are. */
typedef struct fos_scan_state {
    uint64_t at;              /* the next byte to read */
    uint32_t node;
    uint32_t k;               /* segment of `at`, or one before it */
    uint32_t more;            /* bytes may follow the last segment */
    uint32_t index;           /* the match: which pattern */
    uint64_t start;           /* ... and [start, end) */
    uint64_t end;
} fos_scan_state;

/* ------------------------------------------------------------------ building */

typedef struct fos_pattern_source {
    const uint8_t *p;
    size_t n;
    uint32_t index;
} fos_pattern_source;

static int fos_pattern_order(const void *left, const void *right) {
    const fos_pattern_source *a = left, *b = right;
    int order = memcmp(a->p, b->p, a->n < b->n ? a->n : b->n);
    if (order) return order;
    if (a->n != b->n) return a->n < b->n ? -1 : 1;
    return a->index < b->index ? -1 : a->index > b->index;
}

/* The child of a node by a class, or DEAD. */
FOS_INLINE uint32_t fos_pattern_child(const fos_patterns *c, uint32_t node, uint8_t by) {
    uint32_t low = c->nodes[node].child, high = c->nodes[node + 1].child, end = high;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (c->label[middle] < by) low = middle + 1;
        else high = middle;
    }
    return low < end && c->label[low] == by ? low : FOS_PATTERNS_DEAD;
}

/* One step of the scan: a node, or DEAD.  The root never dies. */
FOS_INLINE uint32_t fos_pattern_step(const fos_patterns *c, uint32_t node, uint8_t by) {
    for (;;) {
        if (node < c->dense) return c->table[(size_t)node * c->classes + by];
        uint32_t child = fos_pattern_child(c, node, by);
        if (child != FOS_PATTERNS_DEAD) return child;
        if (node == 0) return 0;
        node = c->nodes[node].next;
        if (node == FOS_PATTERNS_DEAD) return node;
    }
}

static FOS_UNUSED void fos_patterns_free(fos_patterns *c) {
    if (!c) return;
    free(c->nodes);
    free(c->label);
    free(c->table);
    free(c);
}

/* The nodes: [low, high) of the sorted patterns share the node's string; node by node, breadth first. */
static void fos_patterns_grow(fos_patterns *c, const fos_pattern_source *sorted, uint32_t n, uint32_t *low,
                              uint32_t *high) {
    c->count = 1;
    low[0] = 0;
    high[0] = n;
    for (uint32_t node = 0; node < c->count; node++) {
        fos_pattern_node *w = &c->nodes[node];
        uint32_t i = low[node];
        w->child = c->count;
        w->index = UINT32_MAX;
        while (i < high[node] && sorted[i].n == w->depth) {    /* ends here; equal ones: the first counts */
            if (w->index == UINT32_MAX) w->index = sorted[i].index;
            i++;
        }
        while (i < high[node]) {
            uint32_t child = c->count++;
            uint8_t byte = sorted[i].p[w->depth];
            low[child] = i;
            while (i < high[node] && sorted[i].p[w->depth] == byte) i++;
            high[child] = i;
            c->nodes[child].depth = w->depth + 1;
            c->nodes[child].resume = node;                     /* the parent, until links are made */
            c->label[child] = c->class_of[byte];
        }
    }
    c->nodes[c->count].child = c->count;
}

/* Links, the best match of each node, and where to go on behind it.  `longest` and `which` are room
 * for the longest pattern that ends each node's string: its length, or 0, and index. */
static void fos_patterns_link(fos_patterns *c, uint32_t *longest, uint32_t *which) {
    longest[0] = which[0] = 0;
    for (uint32_t node = 0; node < c->count; node++) {
        fos_pattern_node *w = &c->nodes[node];
        uint32_t parent = w->resume, own = w->index;
        const fos_pattern_node *p = &c->nodes[parent];
        uint8_t by = c->label[node];
        w->fail = w->next = w->resume = w->left = w->start = w->length = w->index = 0;
        if (node == 0) continue;
        if (parent != 0) {
            uint32_t from = p->fail;
            while ((w->fail = fos_pattern_child(c, from, by)) == FOS_PATTERNS_DEAD) {
                if (from == 0) {
                    w->fail = 0;
                    break;
                }
                from = c->nodes[from].fail;
            }
        }
        longest[node] = own != UINT32_MAX ? w->depth : longest[w->fail];
        which[node] = own != UINT32_MAX ? own : which[w->fail];
        w->start = p->start;
        w->length = p->length;
        w->index = p->index;
        if (longest[node] && (!w->length || w->depth - longest[node] <= w->start)) {
            w->start = w->depth - longest[node];
            w->length = longest[node];
            w->index = which[node];
        } else if (w->length) {               /* the same match: what follows it is one byte longer */
            w->resume = p->resume;
            w->left = p->left + (p->left > 0);
            if (!w->left) {
                uint32_t to = fos_pattern_step(c, w->resume, by);
                if (to == FOS_PATTERNS_DEAD) w->left = 1;
                else w->resume = to;
            }
        }
        w->next = w->length && w->depth - c->nodes[w->fail].depth > w->start
            ? FOS_PATTERNS_DEAD : w->fail;
    }
}

/* Dense rows, in order: a row's links lead to rows before it. */
static void fos_patterns_fill(fos_patterns *c, uint32_t rows) {
    for (uint32_t node = 0; node < rows; node++) {
        const fos_pattern_node *w = &c->nodes[node];
        uint32_t *row = c->table + (size_t)node * c->classes;
        for (uint32_t by = 0; by < c->classes; by++)
            row[by] = node == 0 ? 0 : w->next == FOS_PATTERNS_DEAD ? FOS_PATTERNS_DEAD
                : c->table[(size_t)w->next * c->classes + by];
        for (uint32_t child = w->child; child < c->nodes[node + 1].child; child++)
            row[c->label[child]] = child;
    }
    c->dense = rows;
}

/* The filter: patterns in eight groups, neighbours in order together; a place may begin a match when
 * one group has the nibbles of all its first bytes.  Not used where it would let too much through. */
static void fos_patterns_filter(fos_patterns *c, const fos_pattern_source *sorted, uint32_t n) {
    size_t window = 3;
    double passes = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (sorted[i].n < window) window = sorted[i].n;
        c->begins[sorted[i].p[0]] = 1;
    }
    for (uint32_t i = 0; i < n; i++)
        for (size_t j = 0; j < window; j++) {
            uint8_t group = (uint8_t)(1 << (uint64_t)i * 8 / n), byte = sorted[i].p[j];
            c->low[j][byte & 15] |= group;
            c->high[j][byte >> 4] |= group;
        }
    for (int group = 1; group < 256; group <<= 1) {
        double pass = 1;
        for (size_t j = 0; j < window; j++) {
            int low = 0, high = 0;
            for (int nibble = 0; nibble < 16; nibble++) {
                low += (c->low[j][nibble] & group) != 0;
                high += (c->high[j][nibble] & group) != 0;
            }
            pass *= low * high / 256.0;
        }
        passes += pass;
    }
#if FOS_PATTERNS_FILTER
    if (n && passes < 1.0 / 16 && __builtin_cpu_supports("ssse3")) c->window = (uint32_t)window;
#endif
}

/* Compile n patterns; NULL when memory is out, a pattern is empty, or all together have more than
 * FOS_PATTERNS_BYTES.  The patterns are copied.  Of equal ones the first counts.  O(bytes), but for
 * sorting; no pattern at all is a set that matches nothing. */
static FOS_UNUSED fos_patterns *fos_patterns_build(const uint8_t *const *pats, const size_t *lens, uint32_t n) {
    size_t total = 0, distinct = 0, rows;
    for (uint32_t i = 0; i < n; i++) {
        if (lens[i] == 0 || lens[i] > FOS_PATTERNS_BYTES - total) return NULL;
        total += lens[i];
    }
    fos_patterns *c = calloc(1, sizeof(*c));
    fos_pattern_source *sorted = malloc((n + 1) * sizeof(*sorted));
    uint32_t *room = malloc(2 * (total + 1) * sizeof(*room));
    if (c) {
        c->nodes = calloc(total + 2, sizeof(*c->nodes));
        c->label = calloc(total + 1, 1);
    }
    if (!c || !sorted || !room || !c->nodes || !c->label) goto failed;
    c->patterns = n;
    for (uint32_t i = 0; i < n; i++) {
        sorted[i] = (fos_pattern_source){pats[i], lens[i], i};
        if (lens[i] > c->longest) c->longest = (uint32_t)lens[i];
        for (size_t j = 0; j < lens[i]; j++) c->class_of[pats[i][j]] = 1;
    }
    for (int byte = 0; byte < 256; byte++) distinct += c->class_of[byte];
    c->classes = distinct < 256;              /* class 0: all bytes in no pattern, if there are any */
    for (int byte = 0; byte < 256; byte++)
        if (c->class_of[byte]) c->class_of[byte] = (uint8_t)c->classes++;
    qsort(sorted, n, sizeof(*sorted), fos_pattern_order);
    fos_patterns_grow(c, sorted, n, room, room + total + 1);
    fos_patterns_link(c, room, room + total + 1);
    rows = FOS_PATTERNS_TABLE / sizeof(*c->table) / c->classes;
    if (rows > c->count) rows = c->count;
    c->table = malloc(rows * c->classes * sizeof(*c->table));
    if (!c->table) goto failed;
    fos_patterns_fill(c, (uint32_t)rows);
    fos_patterns_filter(c, sorted, n);
    free(sorted);
    free(room);
    return c;
failed:
    free(sorted);
    free(room);
    fos_patterns_free(c);
    return NULL;
}

/* ------------------------------------------------------------------ scanning */

#if FOS_PATTERNS_FILTER
/* The first i from `at` where the filter passes, or the first that is too near n to look at. */
__attribute__((target("ssse3"), noinline, unused))
static size_t fos_patterns_sift(const fos_patterns *c, const uint8_t *p, size_t at, size_t n) {
    const __m128i nibble = _mm_set1_epi8(15), none = _mm_setzero_si128();
    __m128i low[3], high[3];
    const uint32_t window = c->window;
    for (uint32_t j = 0; j < window; j++) {
        low[j] = _mm_loadu_si128((const __m128i *)c->low[j]);
        high[j] = _mm_loadu_si128((const __m128i *)c->high[j]);
    }
    for (; at + window - 1 + FOS_PATTERNS_BLOCK <= n; at += FOS_PATTERNS_BLOCK) {
        __m128i pass = _mm_set1_epi8(-1);
        for (uint32_t j = 0; j < window; j++) {
            __m128i x = _mm_loadu_si128((const __m128i *)(p + at + j));
            __m128i by_low = _mm_shuffle_epi8(low[j], _mm_and_si128(x, nibble));
            __m128i by_high = _mm_shuffle_epi8(high[j], _mm_and_si128(_mm_srli_epi16(x, 4), nibble));
            pass = _mm_and_si128(pass, _mm_and_si128(by_low, by_high));
        }
        unsigned stops = (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(pass, none)) ^ 0xffff;
        if (stops) return at + (unsigned)__builtin_ctz(stops);
    }
    return at;
}
#endif

/* The first i in [at, n) where a match may begin, or n. */
FOS_INLINE size_t fos_patterns_skip(const fos_patterns *c, const uint8_t *p, size_t at, size_t n) {
#if FOS_PATTERNS_FILTER
    if (c->window && n - at >= 2 * FOS_PATTERNS_BLOCK) {
        at = fos_patterns_sift(c, p, at, n);
        if (at + c->window - 1 + FOS_PATTERNS_BLOCK <= n) return at;
    }
#endif
    while (at < n && !c->begins[p[at]]) at++;
    return at;
}

/* Begin a scan at index `from`.  With `more`, bytes may follow the last segment later: a match that
 * they could make longer, or move to the left, is then not reported, and fos_patterns_partial, from
 * the end of the last reported match, counts its bytes.  So matches do not depend on where a text
 * is cut into windows. */
static FOS_UNUSED void fos_scan_begin(fos_scan_state *st, const fos_seg *segs, uint32_t count, uint64_t from,
                                      int more) {
    memset(st, 0, sizeof(*st));
    st->at = from;
    st->k = fos_seg_of(segs, count, from);
    st->more = more != 0;
}

/* Report the best match of a node that the scan left at index `at`, and go on behind it. */
FOS_INLINE int fos_scan_report(const fos_patterns *c, const fos_seg *segs, fos_scan_state *st, uint32_t node,
                               uint32_t k, uint64_t at) {
    const fos_pattern_node *w = &c->nodes[node];
    st->start = at - w->depth + w->start;
    st->end = st->start + w->length;
    st->index = w->index;
    st->node = w->resume;
    st->at = at - w->left;
    while (k && st->at < segs[k].at) k--;
    st->k = k;
    return 1;
}

/* Find the next match: leftmost, of those the longest, behind the last one.  Returns 1 and sets
 * start, end and index; or 0 at the end, and at every call after that. */
static FOS_UNUSED int fos_patterns_next(const fos_patterns *c, const fos_seg *segs, uint32_t count,
                                        fos_scan_state *st) {
    uint32_t node = st->node, k = st->k;
    uint64_t at = st->at;
    for (; k < count; k++) {
        const fos_seg *s = &segs[k];
        if (at >= s->at + s->n) continue;
        if (!s->p) {
            if (c->nodes[node].length) return fos_scan_report(c, segs, st, node, k, at);
            node = 0;
            at = s->at + s->n;
            continue;
        }
        for (size_t i = (size_t)(at - s->at); i < s->n; i++) {
            if (node == 0 && (i = fos_patterns_skip(c, s->p, i, s->n)) == s->n) break;
            uint32_t to = fos_pattern_step(c, node, c->class_of[s->p[i]]);
            if (to == FOS_PATTERNS_DEAD) return fos_scan_report(c, segs, st, node, k, s->at + i);
            node = to;
        }
        at = s->at + s->n;
    }
    k = count ? count - 1 : 0;
    if (c->nodes[node].length && (!st->more || c->nodes[node].child == c->nodes[node + 1].child))
        return fos_scan_report(c, segs, st, node, k, at);
    st->node = node;
    st->at = at;
    st->k = k;
    return 0;
}

/* The length of the longest suffix of the text, starting at or behind `from`, that is a proper
 * prefix of a pattern.  O(longest pattern). */
static FOS_UNUSED uint64_t fos_patterns_partial(const fos_patterns *c, const fos_seg *segs, uint32_t count,
                                                uint64_t from, uint64_t total) {
    fos_reader text = {segs, count, 0};
    uint32_t node = 0, child;
    if (from >= total || c->longest < 2) return 0;
    if (total - from > c->longest - 1) from = total - (c->longest - 1);
    text.k = fos_seg_of(segs, count, from);
    for (; from < total; from++) {
        int byte = fos_byte_at(&text, from);
        if (byte < 0) {
            node = 0;
            continue;
        }
        while ((child = fos_pattern_child(c, node, c->class_of[byte])) == FOS_PATTERNS_DEAD && node)
            node = c->nodes[node].fail;
        if (child != FOS_PATTERNS_DEAD) node = child;
    }
    while (c->nodes[node].child == c->nodes[node + 1].child && node) node = c->nodes[node].fail;
    return c->nodes[node].depth;
}

#endif
