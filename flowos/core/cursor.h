/* The bounds-checked cursor: the one way decoders read bytes from the wire.
 *
 *     p ..................... end          [p, end) is what is left; p only advances
 *
 * A read past the end returns zero (or NULL), moves to the end and sets `bad`, which stays set:
 * a parser reads a whole structure and asks once whether it was all there.  No byte outside
 * [p, end) is ever touched.  The cursor owns nothing.
 */
#ifndef FOS_CURSOR_H
#define FOS_CURSOR_H

#include "base.h"

typedef struct fos_cursor {
    const uint8_t *p;         /* the next byte; moved by the functions below alone */
    const uint8_t *end;       /* written once */
    int bad;                  /* sticky: a read went past the end */
} fos_cursor;

FOS_INLINE fos_cursor fos_cur(const uint8_t *data, size_t n) {
    fos_cursor c = {data, data + n, 0};
    return c;
}

FOS_INLINE size_t fos_cur_left(const fos_cursor *c) {
    return (size_t)(c->end - c->p);
}

FOS_INLINE int fos_cur_ok(const fos_cursor *c) {
    return !c->bad;
}

/* The next n bytes, stepped over; NULL when there are fewer.  n = 0 gives p. */
FOS_INLINE const uint8_t *fos_cur_bytes(fos_cursor *c, size_t n) {
    const uint8_t *at = c->p;
    if (FOS_UNLIKELY(n > fos_cur_left(c))) {
        c->p = c->end;
        c->bad = 1;
        return NULL;
    }
    c->p = at + n;
    return at;
}

FOS_INLINE void fos_cur_skip(fos_cursor *c, size_t n) {
    (void)fos_cur_bytes(c, n);
}

FOS_INLINE uint8_t fos_cur_u8(fos_cursor *c) {
    const uint8_t *at = fos_cur_bytes(c, 1);
    return at ? *at : 0;
}

FOS_INLINE uint16_t fos_cur_be16(fos_cursor *c) {
    const uint8_t *at = fos_cur_bytes(c, 2);
    return at ? fos_be16(at) : 0;
}

FOS_INLINE uint32_t fos_cur_be24(fos_cursor *c) {
    const uint8_t *at = fos_cur_bytes(c, 3);
    return at ? (uint32_t)at[0] << 16 | (uint32_t)at[1] << 8 | at[2] : 0;
}

FOS_INLINE uint32_t fos_cur_be32(fos_cursor *c) {
    const uint8_t *at = fos_cur_bytes(c, 4);
    return at ? fos_be32(at) : 0;
}

FOS_INLINE uint64_t fos_cur_be64(fos_cursor *c) {
    const uint8_t *at = fos_cur_bytes(c, 8);
    return at ? fos_be64(at) : 0;
}

/* A cursor over the next n bytes, which this one steps over; empty and bad when there are fewer. */
FOS_INLINE fos_cursor fos_cur_sub(fos_cursor *c, size_t n) {
    const uint8_t *at = fos_cur_bytes(c, n);
    fos_cursor s = {at ? at : c->end, at ? at + n : c->end, at ? 0 : 1};
    return s;
}

/* The next text line, stepped over with its LF, which *n counts; NULL, and nothing moves, when
 * no LF is left.  Running out of lines is no failure: `bad` is not set. */
FOS_INLINE const uint8_t *fos_cur_line(fos_cursor *c, size_t *n) {
    const uint8_t *at = c->p;
    const uint8_t *lf = at < c->end ? (const uint8_t *)memchr(at, '\n', fos_cur_left(c)) : NULL;
    if (!lf) {
        *n = 0;
        return NULL;
    }
    c->p = lf + 1;
    *n = (size_t)(c->p - at);
    return at;
}

#endif
