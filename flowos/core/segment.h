/* A segment: one contiguous piece of a window's bytes.
 *
 *     window:   at                                   at + n
 *               [ p[0] ................... p[n-1] ][ the next segment's ...
 *
 * A window's bytes lie in several buffers; an array of segments names them in order, without a
 * copy: each begins at the index where the one before ends.  Segments own nothing.
 */
#ifndef FOS_SEGMENT_H
#define FOS_SEGMENT_H

#include "base.h"

typedef struct fos_seg {
    const uint8_t *p;         /* the first byte */
    uint64_t n;               /* bytes */
    uint64_t at;              /* window index of the first byte */
    uint64_t in;              /* where it comes from, as whoever made the segment says */
} fos_seg;
FOS_ASSERT_SIZE(fos_seg, 32);

#endif
