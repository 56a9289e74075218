/* Find one pattern in bytes that lie in segments, across any number of borders; nothing is allocated.
 *
 *     fos_find      where the pattern occurs next
 *     fos_partial   how many bytes at the end may still become an occurrence
 *
 * fos_find looks for the two bytes of the pattern that are rarest on the wire, sixteen places at a
 * time (sixty-four where the processor has AVX2), has the next segment fetched meanwhile, and compares the pattern only where both stand.  The scan runs over every byte's place in
 * every segment, so borders need no care but in the comparison.  Comparisons that come to nothing
 * are counted; when they cost more than a few times the bytes passed (aaaa…ab in aaaa…), a
 * second algorithm goes on from there: Crochemore's String Matching on Ordered Alphabets
 * (Theoretical Computer Science 92, 1992), at most 6n comparisons, constant memory, nothing
 * prepared.  It alone answers fos_partial, as it always knows the longest prefix in hand.
 * patterns.h has the same for many patterns.
 */
#ifndef FOS_SEARCH_H
#define FOS_SEARCH_H

#ifdef __SSE2__
#include <immintrin.h>
#endif

#include "patterns.h"
#include "segment.h"

enum {
    FOS_FIND_PAIR_MAX = 15,   /* how far the two bytes lie apart: less than a vector */
    FOS_FIND_RARE_MAX = 1024, /* bytes of a pattern that are looked at for rare ones */
    FOS_FIND_FETCH = 1536,    /* bytes of the next segment that are fetched while one is searched: all that a packet has */
    FOS_FIND_SLACK = 2048,    /* what may be spent on failed comparisons before any is too much: 1 µs */
    FOS_FIND_RATE = 4,        /* ... and for each byte passed: what the second algorithm costs, about */
};

/* How common each byte is, 255 the most, in web pages, scripts, source text, machine code and
 * compressed data (weighed 4:3:1:2).  Only speed hangs on it. */
static const uint8_t fos_commonness[256] = {
    250, 201, 186, 164, 183, 155, 136, 125, 192, 167, 239, 111, 117,  92, 166, 203,
    180, 112,  89,  85,  90, 102,  38,  68, 140,  23,  31,  18,  63,  29,  22, 153,
    255, 121, 238, 195, 191, 139, 137, 235, 219, 216, 159, 151, 231, 228, 230, 236,
    211, 202, 194, 181, 170, 162, 156, 141, 171, 169, 208, 176, 241, 226, 243, 160,
    172, 221, 184, 209, 207, 215, 188, 182, 223, 213, 133, 144, 210, 187, 204, 200,
    199,  82, 205, 220, 218, 193, 152, 174, 149, 147,  88, 177, 196, 179, 108, 225,
    138, 252, 227, 244, 242, 254, 232, 229, 237, 246, 197, 206, 245, 233, 248, 247,
    240, 148, 249, 251, 253, 234, 222, 214, 217, 224, 161, 143, 178, 146, 150, 131,
    168,  74,  20, 165, 157, 154,  57,  42, 106, 198,  10, 185,  54, 173,  52,  76,
     99,   3,  25,  15,  64,  19,  13,  43,  46,   7,  14,  21,  41,  28,  17,  95,
    189,   0,   5,  61,   4,  12,   1,  36,  39,   6,  11,  32,  16,  24,  33,  69,
     60,   2,   9,  40,  34,  35, 100,  86, 103,  59,  77,  58,  50,  78, 109, 123,
    163, 127, 190, 132, 104, 110,  93, 129,  81,  87,  47,  44,  30,  48,  26,  72,
    120,  84,  71,  83,   8,  55,  37,  67,  80,  94,  51,  79,  27,  45,  75, 126,
    119,  73,  97,  66,  53,  49,  65,  96, 175, 142,  70, 122, 107,  98,  91, 134,
    114,  62, 105, 115,  56, 101, 128, 118, 130, 116, 113, 124, 135, 145, 158, 212,
};

/* The two bytes of a pattern that are looked for: the rarest, and another near it. */
typedef struct fos_pair {
    uint32_t rare;            /* index in the pattern */
    int32_t mate;             /* the other's index, less that; 0: there is none */
} fos_pair;

FOS_INLINE fos_pair fos_pair_of(const uint8_t *pat, size_t m) {
    size_t rare = 0, mate, low, high;
    if (m > FOS_FIND_RARE_MAX) m = FOS_FIND_RARE_MAX;
    for (size_t i = 1; i < m; i++)
        if (fos_commonness[pat[i]] < fos_commonness[pat[rare]]) rare = i;
    low = rare > FOS_FIND_PAIR_MAX ? rare - FOS_FIND_PAIR_MAX : 0;
    high = m - rare > FOS_FIND_PAIR_MAX ? rare + FOS_FIND_PAIR_MAX : m - 1;
    mate = rare;
    for (size_t i = low; i <= high; i++) {    /* the same byte again is the last choice */
        if (i == rare) continue;
        if (mate == rare || pat[mate] == pat[rare]
            || (pat[i] != pat[rare] && fos_commonness[pat[i]] < fos_commonness[pat[mate]]))
            mate = i;
    }
    return (fos_pair){(uint32_t)rare, (int32_t)mate - (int32_t)rare};
}

#if defined __SSE2__ && defined __GNUC__
/* The part of fos_pair_find that AVX2 does: a place at most 63 before the first in [at, stop), or stop; 64 places at least. */
__attribute__((target("avx2"))) FOS_NOINLINE size_t fos_pair_skip(const uint8_t *p, size_t at, size_t stop, uint8_t a, uint8_t b, int32_t mate) {
    const __m256i first = _mm256_set1_epi8((char)a), second = _mm256_set1_epi8((char)b);
    for (const size_t last = stop - 64; at < stop; at = at < last && at + 64 > last ? last : at + 64) {   /* the last step overlaps */
        const uint8_t *q = p + at;
        __m256i x = _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)q), first),
                                     _mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)(q + mate)), second));
        __m256i y = _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)(q + 32)), first),
                                     _mm256_cmpeq_epi8(_mm256_loadu_si256((const __m256i *)(q + 32 + mate)), second));
        if (!_mm256_testz_si256(_mm256_or_si256(x, y), _mm256_or_si256(x, y))) return at;
    }
    return stop;
}
#endif

/* The first i in [at, end) with p[i] == a, and p[i + mate] == b unless that lies outside p[0:n]; or
 * end.  With mate == 0 there is one byte to look for. */
FOS_INLINE size_t fos_pair_find(const uint8_t *p, size_t n, size_t at, size_t end, uint8_t a, uint8_t b,
                                int32_t mate) {
    const size_t before = mate < 0 ? (size_t)-mate : 0, behind = mate > 0 ? (size_t)mate : 0;
    const uint8_t *hit;
    if (mate == 0) {
        hit = memchr(p + at, a, end - at);
        return hit ? (size_t)(hit - p) : end;
    }
    for (; at < end && at < before; at++)
        if (p[at] == a) return at;
#ifdef __SSE2__
    const __m128i first = _mm_set1_epi8((char)a), second = _mm_set1_epi8((char)b);
#ifdef __GNUC__
    const size_t stop = end + behind <= n ? end : n > behind ? n - behind : 0;
    if (at + 64 <= stop && __builtin_cpu_supports("avx2")) at = fos_pair_skip(p, at, stop, a, b, mate);
#endif
    for (; at < end && at + behind + 16 <= n; at += 16) {
        __m128i x = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(p + at)), first);
        __m128i y = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)(p + at + mate)), second);
        unsigned hits = (unsigned)_mm_movemask_epi8(_mm_and_si128(x, y));
        if (hits) {
            at += (unsigned)__builtin_ctz(hits);
            return at < end ? at : end;
        }
    }
#endif
    for (; at < end; at++) {
        hit = memchr(p + at, a, end - at);
        if (!hit) return end;
        at = (size_t)(hit - p);
        if (at + behind >= n || p[at + (size_t)(ptrdiff_t)mate] == b) return at;
    }
    return end;
}

/* How many bytes from the start x and y have in common, at most n. */
FOS_INLINE size_t fos_common(const uint8_t *x, const uint8_t *y, size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t differ = fos_le64(x + i) ^ fos_le64(y + i);
        if (differ) return i + (size_t)__builtin_ctzll(differ) / 8;
    }
    while (i < n && x[i] == y[i]) i++;
    return i;
}

/* How many bytes from the start the pattern and the text at `at` have in common; `k` is a segment
 * at or behind it, and all m bytes of text are there. */
FOS_INLINE size_t fos_common_at(const fos_seg *segs, uint32_t k, uint64_t at, const uint8_t *pat, size_t m) {
    size_t done = 0;
    while (at < segs[k].at) k--;
    for (;; k++) {
        uint64_t skip = at + done - segs[k].at, n = segs[k].n - skip;
        if (skip >= segs[k].n) continue;      /* empty */
        if (!segs[k].p) return done;
        if (n > m - done) n = m - done;
        size_t same = fos_common(segs[k].p + skip, pat + done, (size_t)n);
        done += same;
        if (same < n || done == m) return done;
    }
}

/* A maximal suffix and its period, of a string that grows and loses multiples of its period. */
typedef struct fos_suffix {
    int64_t before;           /* index before the suffix */
    int64_t rival;            /* index of the suffix it is compared with */
    int64_t k;                /* offset of the comparison, from 1 */
    int64_t period;
} fos_suffix;

static const fos_suffix fos_suffix_start = {-1, 0, 1, 1};

/* Byte t of the string pat[0:i] + last. */
FOS_INLINE int fos_seen(const uint8_t *pat, int64_t i, int last, int64_t t) {
    return t < i ? pat[t] : last;
}

/* Take the maximal suffix on to the whole of pat[0:i] + last. */
FOS_INLINE void fos_suffix_extend(fos_suffix *s, const uint8_t *pat, int64_t i, int last) {
    while (s->rival + s->k <= i) {
        int a = fos_seen(pat, i, last, s->before + s->k), b = fos_seen(pat, i, last, s->rival + s->k);
        if (a == b) {
            if (s->k == s->period) s->rival += s->period, s->k = 1;
            else s->k++;
        } else if (a > b) {
            s->rival += s->k;
            s->k = 1;
            s->period = s->rival - s->before;
        } else {
            s->before = s->rival++;
            s->k = s->period = 1;
        }
    }
}

/* Whether pat[0:i] + last has the period of its maximal suffix. */
FOS_INLINE int fos_suffix_is_period(const fos_suffix *s, const uint8_t *pat, int64_t i, int last) {
    if (s->before >= s->period) return 0;
    for (int64_t t = 0; t <= s->before; t++)
        if (fos_seen(pat, i, last, t) != fos_seen(pat, i, last, t + s->period)) return 0;
    return 1;
}

/* The first occurrence at or behind `from` that ends by `total`, or -1; then *partial is how many
 * bytes before `total` are the longest beginning of the pattern.  O(n), constant memory.
 *
 * The text read at a candidate is pat[0:i] + last, so the text itself is only read forward of what
 * is known; a mismatch moves the candidate by that string's smallest period, or less. */
FOS_NOINLINE int64_t fos_find_linear(const fos_seg *segs, uint32_t count, uint64_t from, uint64_t total,
                                     const uint8_t *pat, size_t m, uint64_t *partial) {
    fos_reader text = {segs, count, fos_seg_of(segs, count, from)};
    fos_suffix s = fos_suffix_start;
    uint64_t at = from;                       /* the candidate; moves forward only */
    int64_t i = 0;                            /* bytes that agree there */
    for (;;) {
        int last = -1;
        while (i < (int64_t)m && at + (uint64_t)i < total) {
            last = fos_byte_at(&text, at + (uint64_t)i);
            if (last != pat[i]) break;
            i++;
        }
        if (i == (int64_t)m) return (int64_t)at;
        if (at + (uint64_t)i >= total) {
            *partial = (uint64_t)i;
            return -1;
        }
        if (i == 0) {
            at++;
            s = fos_suffix_start;
            continue;
        }
        fos_suffix_extend(&s, pat, i, last);
        if (fos_suffix_is_period(&s, pat, i, last)) {
            at += (uint64_t)s.period;
            i = i > s.period ? i - s.period : 0;
            if (s.rival - s.before > s.period) s.rival -= s.period;
            else s = fos_suffix_start;
        } else {
            int64_t move = i - s.before - 1 < s.rival + 1 ? i - s.before - 1 : s.rival + 1;
            at += (uint64_t)(move > s.before + 1 ? move : s.before + 1) + 1;
            i = 0;
            s = fos_suffix_start;
        }
    }
}

/* The window index of the first occurrence of pat[0:m] that starts at or behind `from` and ends by
 * `total`, or -1; an empty pattern occurs nowhere.  [from, total) lies inside the segments.
 * O(n + m) whatever the bytes are; 0.05 ns per byte where nothing looks like the pattern. */
static FOS_UNUSED int64_t fos_find(const fos_seg *segs, uint32_t count, uint64_t from, uint64_t total,
                                   const uint8_t *pat, size_t m) {
    if (m == 0 || from > total || total - from < m) return -1;
    const fos_pair pair = fos_pair_of(pat, m);
    const uint8_t a = pat[pair.rare], b = pat[(int32_t)pair.rare + pair.mate];
    const uint64_t stop = total - m + pair.rare + 1;       /* places of the rare byte */
    uint64_t at = from + pair.rare, spent = 0, partial;
    for (uint32_t k = fos_seg_of(segs, count, at); at < stop; k++) {
        const fos_seg *s = &segs[k];
        uint64_t end = s->at + s->n < stop ? s->at + s->n : stop;
        if (k + 1 < count)
            for (uint64_t ahead = 0; ahead < s[1].n && ahead < FOS_FIND_FETCH; ahead += 64) __builtin_prefetch(s[1].p + ahead);
        while (s->p && at < end) {
            at = s->at + fos_pair_find(s->p, s->n, at - s->at, end - s->at, a, b, pair.mate);
            if (at == end) break;
            uint64_t start = at - pair.rare;
            size_t same = fos_common_at(segs, k, start, pat, m);
            if (same == m) return (int64_t)start;
            spent += same + 8;
            if (spent > FOS_FIND_SLACK + FOS_FIND_RATE * (start - from))
                return fos_find_linear(segs, count, start + 1, total, pat, m, &partial);
            at++;
        }
        at = end > at ? end : at;
    }
    return -1;
}

/* The length of the longest suffix of the text, starting at or behind `from`, that is a proper
 * prefix of pat[0:m]: so many bytes at the end may still become an occurrence.  O(m). */
static FOS_UNUSED uint64_t fos_partial(const fos_seg *segs, uint32_t count, uint64_t from, uint64_t total,
                                       const uint8_t *pat, size_t m) {
    uint64_t partial = 0;
    if (m < 2 || from >= total) return 0;
    if (total - from > m - 1) from = total - (m - 1);
    fos_find_linear(segs, count, from, total, pat, m, &partial);
    return partial;
}

#endif
