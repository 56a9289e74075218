/* The Internet checksum: sums of bytes, pseudo-headers, and incremental update.
 *
 * A sum is 16 bits in memory order: it is stored with memcpy and never swapped, which one's
 * complement addition allows (RFC 1071 section 2 B).  An update by the old and the new bytes alone
 * (RFC 1624 equation 3) leaves a checksum exactly as right or as wrong as it was: frames captured
 * before a network card completed them stay as they are.
 */
#ifndef FOS_CHECKSUM_H
#define FOS_CHECKSUM_H

#include "base.h"

FOS_INLINE uint32_t fos_fold(uint64_t sum) {
    sum = (sum & 0xffffffffu) + (sum >> 32);
    sum = (sum & 0xffffffffu) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint32_t)sum;
}

/* The one's complement sum of n bytes, folded to 16 bits; an odd last byte is padded with zero. */
static uint32_t fos_sum(const uint8_t *p, size_t n) {
    uint64_t sum = 0, high = 0;
    for (; n >= 8; p += 8, n -= 8) {
        uint64_t word = fos_le64(p);
        sum += word & 0xffffffffu;
        high += word >> 32;
    }
    sum += high;
    if (n & 4) { sum += fos_le32(p); p += 4; }
    if (n & 2) { sum += fos_le16(p); p += 2; }
    if (n & 1) sum += *p;
    return fos_fold(sum);
}

FOS_INLINE void fos_put16(uint8_t *p, uint32_t v) {
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

FOS_INLINE void fos_put32(uint8_t *p, uint32_t v) {
    v = __builtin_bswap32(v);
    memcpy(p, &v, 4);
}

FOS_INLINE uint32_t fos_csum_load(const uint8_t *p) { return fos_le16(p); }

FOS_INLINE void fos_csum_store(uint8_t *p, uint32_t csum) {
    uint16_t v = (uint16_t)csum;
    memcpy(p, &v, 2);
}

/* A number as it adds to a sum of bytes. */
FOS_INLINE uint32_t fos_sum_of16(uint32_t v) { return __builtin_bswap16((uint16_t)v); }

/* Update the checksum at `at` for bytes that summed to `before` and now sum to `after`: ~(~HC + ~m + m'). */
FOS_INLINE void fos_csum_update(uint8_t *at, uint32_t before, uint32_t after) {
    if (before == after) return;              /* the formula would turn a (wrong) 0xffff into 0 */
    uint64_t sum = (uint64_t)(uint16_t)~fos_csum_load(at) + (uint16_t)~before + after;
    fos_csum_store(at, ~fos_fold(sum));
}

/* Overwrite bytes [at, at + n) of what a checksum covers from `base` on.  *before and *after gather the
 * sums of the 16-bit words touched.  The word behind an odd end must be there. */
FOS_INLINE void fos_patch(uint8_t *base, uint32_t at, const void *bytes, uint32_t n, uint64_t *before, uint64_t *after) {
    uint32_t first = at & ~1u, words = (at + n + 1 - first) & ~1u;
    *before += fos_sum(base + first, words);
    memcpy(base + at, bytes, n);
    *after += fos_sum(base + first, words);
}

#endif
