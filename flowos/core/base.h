/* Integers, byte order and hints that every other header uses.
 *
 * Nothing here owns memory or knows a protocol.  Loads from wire bytes are unaligned and
 * go through memcpy, which compilers turn into one instruction.
 */
#ifndef FOS_BASE_H
#define FOS_BASE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FOS_LIKELY(x) __builtin_expect(!!(x), 1)
#define FOS_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define FOS_INLINE static inline __attribute__((always_inline))
#define FOS_NOINLINE static __attribute__((noinline, unused))
#define FOS_UNUSED __attribute__((unused))
#define FOS_ASSERT_SIZE(type, bytes) \
    _Static_assert(sizeof(type) == (bytes), #type " has the size its layout comment says")

FOS_INLINE uint16_t fos_be16(const uint8_t *p) {
    uint16_t v;
    memcpy(&v, p, 2);
    return __builtin_bswap16(v);
}

FOS_INLINE uint32_t fos_be32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return __builtin_bswap32(v);
}

FOS_INLINE uint64_t fos_be64(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, 8);
    return __builtin_bswap64(v);
}

FOS_INLINE uint16_t fos_le16(const uint8_t *p) {
    uint16_t v;
    memcpy(&v, p, 2);
    return v;
}

FOS_INLINE uint32_t fos_le32(const uint8_t *p) {
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

FOS_INLINE uint64_t fos_le64(const uint8_t *p) {
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

/* a - b modulo 2^32, read as a signed distance (RFC 9293 section 3.4). */
FOS_INLINE int32_t fos_seq_diff(uint32_t a, uint32_t b) {
    return (int32_t)(a - b);
}

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the loads above assume a little-endian machine"
#endif

#endif
