/* A node of a trie of prefixes, and the longest match.
 *
 *     address   101101 011100 000010 …          Each node looks at six bits.  `inside` has a bit for
 *                 │                              each prefix that ends in the node, in heap order:
 *     root ─101101─► node ─011100─► node         1 ends at the node's first bit, 2 and 3 take one
 *                                                bit more, …, 32 to 63 take five (position 0 is no
 *     position  1                                prefix).  A prefix of six bits more is position 1
 *              2 3                               of a child.  `below` has a bit for each child.
 *            4 5 6 7
 *
 * Children of a node lie side by side in one array, and so do the ids of its prefixes: the place
 * of one is the number of lower bits that are set.  The prefixes that cover an address are one
 * mask of positions, and the longest of them is the highest bit: a node costs one AND, a count of
 * leading zeros and a population count.  (The tree bitmap of Eatherton, Varghese and Dittia, CCR
 * 34(2), 2004, with nodes that fill a word.)  prefixes.pyx owns the arrays and alone writes them.
 */
#ifndef FLOWOS_PREFIXES_H
#define FLOWOS_PREFIXES_H

#include <stdint.h>
#include <string.h>

typedef struct fos_trie_node {
    uint64_t inside;
    uint64_t below;
    uint32_t ids;                   /* the first of popcount(inside) ids */
    uint32_t children;              /* the first of popcount(below) nodes */
} fos_trie_node;

/* A prefix's bits begin at the top of `high`; IPv4's are in `high` alone, and the rest is zero. */
typedef struct fos_prefix {
    uint64_t high, low;
    uint8_t length;
    uint8_t family;                 /* 4 or 6; 0: the id is free */
} fos_prefix;

_Static_assert(sizeof(fos_trie_node) == 24, "the two or three nodes that a lookup misses are a cache line each, at most");

#define FOS_TRIE_BITS 6

/* All positions on the path of six bits: of the prefixes in a node that cover them. */
static inline uint64_t fos_trie_path(unsigned bits)
{
    unsigned at = 32 | bits >> 1;
    return 1ull << at | 1ull << (at >> 1) | 1ull << (at >> 2) | 1ull << (at >> 3) | 1ull << (at >> 4) | 2;
}

static inline unsigned fos_trie_rank(uint64_t set, unsigned at)
{
    return __builtin_popcountll(set & ((1ull << at) - 1));
}

/* Shift a key of 128 bits to the next six. */
static inline void fos_trie_shift(uint64_t *high, uint64_t *low)
{
    *high = *high << FOS_TRIE_BITS | *low >> (64 - FOS_TRIE_BITS);
    *low <<= FOS_TRIE_BITS;
}

/* Give the id of the longest prefix that covers a key, or -1. */
static inline __attribute__((always_inline)) int32_t
fos_trie_match(const fos_trie_node *nodes, const int32_t *ids, uint32_t root, uint64_t high, uint64_t low)
{
    const fos_trie_node *at = nodes + root;
    const int32_t *best = NULL;
    for (;;) {
        unsigned bits = high >> (64 - FOS_TRIE_BITS);
        uint64_t hits = at->inside & fos_trie_path(bits);
        if (hits)
            best = ids + at->ids + fos_trie_rank(at->inside, 63 - __builtin_clzll(hits));
        if (!(at->below >> bits & 1))
            return best ? *best : -1;
        at = nodes + at->children + fos_trie_rank(at->below, bits);
        fos_trie_shift(&high, &low);
    }
}

/* The loops over many addresses are compiled twice: population count is one instruction on every
 * x86-64 since 2008, and a call of 3 ns where the compiler may not use it. */
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define FOS_CLONES __attribute__((target_clones("popcnt", "default")))
#else
#define FOS_CLONES
#endif

/* Lookups go side by side, a node of each in turn: while one waits for memory, the others go on. */
#define FOS_LANES 16

typedef struct fos_lane {
    uint64_t high, low;
    const fos_trie_node *at;
    const int32_t *best;
    int64_t number;                 /* of the address */
} fos_lane;

static inline uint64_t fos_trie_word(const uint8_t *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, 8);
    return __builtin_bswap64(word);
}

static const int32_t fos_trie_none = -1;

static inline __attribute__((always_inline)) void
fos_lane_begin(fos_lane *lane, const fos_trie_node *root, const void *addresses, int six, int64_t number)
{
    lane->high = six ? fos_trie_word((const uint8_t *)addresses + 16 * number)
                     : (uint64_t)((const uint32_t *)addresses)[number] << 32;
    lane->low = six ? fos_trie_word((const uint8_t *)addresses + 16 * number + 8) : 0;
    lane->at = root;
    lane->best = &fos_trie_none;
    lane->number = number;
}

/* Look at one node; 0 when it was the last. */
static inline __attribute__((always_inline)) int
fos_lane_step(fos_lane *lane, const fos_trie_node *nodes, const int32_t *ids, int six)
{
    fos_trie_node at = *lane->at;
    unsigned bits = lane->high >> (64 - FOS_TRIE_BITS);
    uint64_t hits = at.inside & fos_trie_path(bits);
    if (hits)
        lane->best = ids + at.ids + fos_trie_rank(at.inside, 63 - __builtin_clzll(hits));
    if (!(at.below >> bits & 1))
        return 0;
    lane->at = nodes + at.children + fos_trie_rank(at.below, bits);
    __builtin_prefetch(lane->at);
    if (six)
        fos_trie_shift(&lane->high, &lane->low);
    else
        lane->high <<= FOS_TRIE_BITS;
    return 1;
}

static inline __attribute__((always_inline)) void
fos_trie_match_many(const fos_trie_node *nodes, const int32_t *ids, uint32_t root,
                    const void *addresses, int six, int32_t *found, int64_t count)
{
    fos_lane lanes[FOS_LANES];
    int running = 0;
    int64_t next = 0;
    while (running < FOS_LANES && next < count)
        fos_lane_begin(&lanes[running++], nodes + root, addresses, six, next++);
    while (running)
        for (int i = 0; i < running; i++) {
            if (fos_lane_step(&lanes[i], nodes, ids, six))
                continue;
            found[lanes[i].number] = *lanes[i].best;
            if (next < count)
                fos_lane_begin(&lanes[i], nodes + root, addresses, six, next++);
            else
                lanes[i--] = lanes[--running];
        }
}

FOS_CLONES __attribute__((unused)) static void
fos_trie_match4(const fos_trie_node *nodes, const int32_t *ids, uint32_t root,
                const uint32_t *addresses, int32_t *found, int64_t count)
{
    fos_trie_match_many(nodes, ids, root, addresses, 0, found, count);
}

FOS_CLONES __attribute__((unused)) static void
fos_trie_match6(const fos_trie_node *nodes, const int32_t *ids, uint32_t root,
                const uint8_t *addresses, int32_t *found, int64_t count)
{
    fos_trie_match_many(nodes, ids, root, addresses, 1, found, count);
}

#endif
