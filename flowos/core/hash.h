/* Keyed hash of a connection's key: multilinear, strongly universal.
 *
 * h = (k0 + sum k_i * x_i mod 2^64) >> 32 over the key's 32-bit words x_i with secret random
 * 64-bit k_i: for two different keys chosen without knowing k, P[h = h'] = 2^-32 (Lemire and
 * Kaser, "Strongly universal string hashing is fast", 2014).  So no input can be crafted to
 * pile up in the table.  The ends are in canonical order, which makes it symmetric.
 */
#ifndef FOS_HASH_H
#define FOS_HASH_H

#include "packet.h"

typedef struct fos_hash_key {
    uint64_t k[12];
} fos_hash_key;

/* A bijection that spreads keys in a row (addresses, ports) over the table: their sums would step
 * through it in equal strides, which linear probing turns into long runs for an unlucky k. */
FOS_INLINE uint32_t fos_mix(uint32_t h) {
    h ^= h >> 16;
    h *= 0x7feb352du;
    return h ^ h >> 15;
}

FOS_INLINE uint32_t fos_hash4(const fos_hash_key *hk, const fos_key *key) {
    uint64_t w = key->w[0];
    uint64_t h = hk->k[0] + hk->k[1] * (uint32_t)w + hk->k[2] * (uint32_t)(w >> 32);
    h += hk->k[3] * key->ports + hk->k[4] * ((uint32_t)key->proto | (uint32_t)key->zone << 16);
    return fos_mix((uint32_t)(h >> 32));
}

FOS_INLINE uint32_t fos_hash6(const fos_hash_key *hk, const fos_key *key) {
    uint64_t h = hk->k[0];
    for (int i = 0; i < 4; i++) {
        h += hk->k[1 + 2 * i] * (uint32_t)key->w[i];
        h += hk->k[2 + 2 * i] * (uint32_t)(key->w[i] >> 32);
    }
    h += hk->k[9] * key->ports;
    h += hk->k[10] * ((uint32_t)key->proto | (uint32_t)key->zone << 16 | 0x8000u);
    return fos_mix((uint32_t)(h >> 32));
}

FOS_INLINE uint32_t fos_hash_key_of(const fos_hash_key *hk, const fos_key *key) {
    return key->ver == 4 ? fos_hash4(hk, key) : fos_hash6(hk, key);
}

FOS_INLINE int fos_key_equal(const fos_key *a, const fos_key *b) {
    uint64_t d = (a->w[0] ^ b->w[0]);
    uint64_t ta, tb;
    memcpy(&ta, &a->ports, 8);
    memcpy(&tb, &b->ports, 8);
    d |= ta ^ tb;
    if (FOS_LIKELY(a->ver == 4)) return d == 0;
    d |= (a->w[1] ^ b->w[1]) | (a->w[2] ^ b->w[2]) | (a->w[3] ^ b->w[3]);
    return d == 0;
}

#endif
