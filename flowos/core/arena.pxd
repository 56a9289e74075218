"""The C declarations of the arena (arena.h) and its Python handle."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef extern from "arena.h" nogil:
    const uint32_t FOS_NO_BUFFER

    ctypedef struct fos_arena:
        uint8_t *base
        uint8_t *taken
        uint32_t buffer_size
        uint32_t count
        uint32_t free_count
        uint32_t least_free
        uint64_t exhausted
        uint64_t refused

    int fos_arena_open(fos_arena *arena, uint32_t count, uint32_t buffer_size)
    void fos_arena_close(fos_arena *arena)
    uint8_t *fos_arena_buffer(const fos_arena *arena, uint32_t index)
    uint32_t fos_arena_take(fos_arena *arena)
    int fos_arena_give(fos_arena *arena, uint32_t index)
    int fos_arena_check(const fos_arena *arena)


cdef class Arena:
    cdef fos_arena c
