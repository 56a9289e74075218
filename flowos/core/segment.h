/* Segments: the pieces of memory that a window's bytes lie in.
 *
 *     segs[0]          segs[1]      segs[2]
 *     |--- n ---|      |- n -|      |---- n ----|        in memory: anywhere
 *     at = from ................................ total   window indices: without holes
 *
 * A list of segments is in ascending order and contiguous in `at`.  A segment whose p is NULL
 * stands for bytes that are not there (a gap): nothing matches them, and nothing matches across.
 * Empty segments are allowed.  Nothing here owns memory.
 */
#ifndef FOS_SEGMENT_H
#define FOS_SEGMENT_H

#include "base.h"

typedef struct fos_seg {
    const uint8_t *p;         /* the bytes, or NULL */
    uint64_t n;               /* how many */
    uint64_t at;              /* window index of the first */
    uint64_t in;              /* the maker's own: where in its input this piece lies */
} fos_seg;
FOS_ASSERT_SIZE(fos_seg, 32);

/* The window index behind the last segment; 0 without segments. */
FOS_INLINE uint64_t fos_segs_end(const fos_seg *segs, uint32_t count) {
    return count ? segs[count - 1].at + segs[count - 1].n : 0;
}

/* The first segment that ends behind index `at`; count when none does.  O(log count). */
FOS_INLINE uint32_t fos_seg_of(const fos_seg *segs, uint32_t count, uint64_t at) {
    uint32_t low = 0, high = count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (segs[middle].at + segs[middle].n > at) high = middle;
        else low = middle + 1;
    }
    return low;
}

/* A place to read single bytes from; `k` follows the index, one step at a time. */
typedef struct fos_reader {
    const fos_seg *segs;
    uint32_t count;
    uint32_t k;               /* the segment read last; moved by fos_byte_at alone */
} fos_reader;

/* The byte at a window index inside the segments, or -1 in a gap. */
FOS_INLINE int fos_byte_at(fos_reader *r, uint64_t at) {
    const fos_seg *s = &r->segs[r->k];
    while (FOS_UNLIKELY(at < s->at)) s--;
    while (FOS_UNLIKELY(at >= s->at + s->n)) s++;
    r->k = (uint32_t)(s - r->segs);
    return s->p ? s->p[at - s->at] : -1;
}

#endif
