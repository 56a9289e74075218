/* The arena: one mapped region of fixed-size packet buffers, each named by its index.
 *
 *     base:   [buffer 0][buffer 1][buffer 2] ... [buffer count-1]     buffer_size bytes each
 *     free:   a stack of the indices nobody has
 *     taken:  a byte per buffer: 1 while somebody has it
 *
 * Whoever takes a buffer owns it until it is given back; rings own the buffers in their slots, and
 * a swap of two slots swaps ownership.  One thread takes and gives; buffers themselves may be
 * written by whoever owns them.  Giving back what is not taken is refused and counted.
 */
#ifndef FOS_ARENA_H
#define FOS_ARENA_H

#include <stdlib.h>
#include <sys/mman.h>

#include "base.h"
#include "ring.h"

typedef struct fos_arena {
    uint8_t *base;            /* written once */
    uint32_t *free;           /* [0, free_count) are free indices; the last one is taken next */
    uint8_t *taken;
    uint32_t buffer_size;     /* a power of two, written once */
    uint32_t count;           /* buffers, written once */
    uint32_t free_count;
    uint32_t least_free;      /* the fewest that were ever free */
    uint64_t exhausted;       /* times that no buffer was left */
    uint64_t refused;         /* buffers given back that were not taken, or do not exist */
} fos_arena;

static void fos_arena_close(fos_arena *a) {
    if (a->base) munmap(a->base, (size_t)a->count * a->buffer_size);
    free(a->free);
    free(a->taken);
    memset(a, 0, sizeof *a);
}

/* Returns 0, or -1 without memory. */
static int fos_arena_open(fos_arena *a, uint32_t count, uint32_t buffer_size) {
    memset(a, 0, sizeof *a);
    void *base = mmap(NULL, (size_t)count * buffer_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED) return -1;
    a->base = (uint8_t *)base;
    a->count = a->free_count = a->least_free = count;
    a->buffer_size = buffer_size;
    a->free = (uint32_t *)malloc(count * sizeof(uint32_t));
    a->taken = (uint8_t *)calloc(count, 1);
    if (!a->free || !a->taken) {
        fos_arena_close(a);
        return -1;
    }
    for (uint32_t i = 0; i < count; i++) a->free[i] = count - 1 - i;
    return 0;
}

FOS_INLINE uint8_t *fos_arena_buffer(const fos_arena *a, uint32_t index) {
    return a->base + (size_t)index * a->buffer_size;
}

/* Take a free buffer: its index, or FOS_NO_BUFFER. */
FOS_INLINE uint32_t fos_arena_take(fos_arena *a) {
    if (FOS_UNLIKELY(a->free_count == 0)) {
        a->exhausted++;
        return FOS_NO_BUFFER;
    }
    uint32_t index = a->free[--a->free_count];
    if (a->free_count < a->least_free) a->least_free = a->free_count;
    a->taken[index] = 1;
    return index;
}

/* Give a buffer back: 0, or -1 when it was not taken. */
FOS_INLINE int fos_arena_give(fos_arena *a, uint32_t index) {
    if (FOS_UNLIKELY(index >= a->count || !a->taken[index])) {
        a->refused++;
        return -1;
    }
    a->taken[index] = 0;
    a->free[a->free_count++] = index;
    return 0;
}

/* 0 when the invariants hold, else the number of the first broken one. */
static int fos_arena_check(const fos_arena *a) {
    uint32_t taken = 0;
    if (a->free_count > a->count || a->least_free > a->free_count) return 1;
    for (uint32_t i = 0; i < a->count; i++) {
        if (a->taken[i] > 1) return 2;
        taken += a->taken[i];
    }
    if (taken + a->free_count != a->count) return 3;
    uint8_t *seen = (uint8_t *)calloc(a->count, 1);
    if (!seen) return 0;
    int broken = 0;
    for (uint32_t i = 0; i < a->free_count && !broken; i++) {
        uint32_t index = a->free[i];
        if (index >= a->count || a->taken[index]) broken = 4;
        else if (seen[index]++) broken = 5;
    }
    free(seen);
    return broken;
}

#endif
