/* The node of a tree of load, and a chunk of the space that it counts.
 *
 *        node 0: the whole space            A node's children lie side by side, so one index names
 *         /           \                     both; 0, the root's, says that there are none.  `load`
 *     left         left + 1                 is what was counted at the node or below it since the
 *                                           node was made: a node that forked late has more than
 * its children together, and what they do not account for is shared out between them in
 * proportion (fos_chunk_split).  radix.pyx owns the nodes and alone writes them; who splits chunks
 * reads them, through the buffer that a tree exports, while it does not grow.
 *
 * A chunk is a prefix: `length` leading bits of a key, the others zero.  Its `node` is -1 where
 * the counters end above it: nothing is known of how the load lies there, and halves are taken.
 */
#ifndef FLOWOS_RADIX_H
#define FLOWOS_RADIX_H

#include <stdint.h>
#include <string.h>

/* An IPv6 address and a port. */
#define FOS_KEY_BYTES 18

typedef struct fos_load {
    double load;
    int32_t left;
    int32_t unused;
} fos_load;

typedef struct fos_chunk {
    double load;
    int32_t node;
    uint8_t tree;                   /* which of the trees that are balanced together */
    uint8_t length;
    uint8_t bits[FOS_KEY_BYTES];
} fos_chunk;

_Static_assert(sizeof(fos_load) == 16, "four nodes to a cache line");
_Static_assert(sizeof(fos_chunk) == 32, "two chunks to a cache line, as NumPy's record has it");

static inline int fos_key_bit(const uint8_t *bits, unsigned at)
{
    return bits[at >> 3] >> (7 - (at & 7)) & 1;
}

/* Split a chunk in two halves of its space.  The caller knows that it has a bit left. */
static inline void fos_chunk_split(const fos_load *nodes, const fos_chunk *whole, fos_chunk *left, fos_chunk *right)
{
    fos_chunk low = *whole, high = *whole;
    int32_t child = whole->node < 0 ? 0 : nodes[whole->node].left;
    low.node = high.node = -1;
    low.load = high.load = whole->load / 2;
    if (child) {
        double left_load = nodes[child].load, right_load = nodes[child + 1].load, sum = left_load + right_load;
        low.node = child;
        high.node = child + 1;
        if (sum == whole->load) {   /* all accounted for: exact, where a quotient would round */
            low.load = left_load;
            high.load = right_load;
        } else if (sum > 0) {
            low.load = whole->load * (left_load / sum);
            high.load = whole->load - low.load;
        }
    }
    low.length = high.length = whole->length + 1;
    high.bits[whole->length >> 3] |= 0x80 >> (whole->length & 7);
    *left = low;
    *right = high;
}

#endif
