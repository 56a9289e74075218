"""The C declarations of the bounds-checked cursor that decoders read with (cursor.h)."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "cursor.h" nogil:
    ctypedef struct fos_cursor:
        const uint8_t *p
        const uint8_t *end
        int bad

    fos_cursor fos_cur(const uint8_t *data, size_t n) noexcept
    size_t fos_cur_left(const fos_cursor *c) noexcept
    int fos_cur_ok(const fos_cursor *c) noexcept
    const uint8_t *fos_cur_bytes(fos_cursor *c, size_t n) noexcept
    void fos_cur_skip(fos_cursor *c, size_t n) noexcept
    uint8_t fos_cur_u8(fos_cursor *c) noexcept
    uint16_t fos_cur_be16(fos_cursor *c) noexcept
    uint32_t fos_cur_be24(fos_cursor *c) noexcept
    uint32_t fos_cur_be32(fos_cursor *c) noexcept
    uint64_t fos_cur_be64(fos_cursor *c) noexcept
    fos_cursor fos_cur_sub(fos_cursor *c, size_t n) noexcept
    const uint8_t *fos_cur_line(fos_cursor *c, size_t *n) noexcept
