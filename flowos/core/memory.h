/* Slab pools and shared blocks: no allocation per packet.
 *
 * A pool hands out items of one size from slabs of 256 and takes them back on a free list; it
 * never returns slabs before it is destroyed, so its footprint is its high-water mark.
 * A block is a reference-counted heap copy of a frame, or a datagram put together: `frame`
 * pointers of packets and units lead to its first byte, which is how the block is found again.
 * What waits for reuse is poisoned under AddressSanitizer: to touch it is an error as after free().
 */
#ifndef FOS_MEMORY_H
#define FOS_MEMORY_H

#include <stdlib.h>

#include "base.h"

#if defined(__SANITIZE_ADDRESS__)
#define FOS_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FOS_ASAN 1
#endif
#endif
#ifdef FOS_ASAN
#include <sanitizer/asan_interface.h>
#define FOS_POISON(p, n) __asan_poison_memory_region((p), (n))
#define FOS_UNPOISON(p, n) __asan_unpoison_memory_region((p), (n))
#else
#define FOS_POISON(p, n) ((void)0)
#define FOS_UNPOISON(p, n) ((void)0)
#endif

typedef struct fos_pool {
    void *free;               /* list through the items' first word */
    void *slabs;              /* list through the slabs' first word */
    size_t item;              /* bytes per item, a multiple of 16 */
    uint64_t in_use;
    struct fos_blocks *blocks; /* where the blocks that its items refer to go back to */
} fos_pool;

enum { FOS_SLAB_ITEMS = 256 };

static void fos_pool_init(fos_pool *pool, size_t item, struct fos_blocks *blocks) {
    pool->blocks = blocks;
    pool->free = pool->slabs = NULL;
    pool->item = (item + 15) & ~(size_t)15;
    pool->in_use = 0;
}

FOS_NOINLINE int fos_pool_grow(fos_pool *pool) {
    uint8_t *slab = aligned_alloc(64, (64 + pool->item * FOS_SLAB_ITEMS + 63) & ~(size_t)63);
    if (!slab) return -1;
    *(void **)slab = pool->slabs;
    pool->slabs = slab;
    for (int i = FOS_SLAB_ITEMS - 1; i >= 0; i--) {
        void *item = slab + 64 + pool->item * (size_t)i;
        *(void **)item = pool->free;
        pool->free = item;
        FOS_POISON((uint8_t *)item + sizeof(void *), pool->item - sizeof(void *));
    }
    return 0;
}

/* An item with undefined content, or NULL when memory is out. */
FOS_INLINE void *fos_pool_take(fos_pool *pool) {
    if (FOS_UNLIKELY(!pool->free) && fos_pool_grow(pool)) return NULL;
    void *item = pool->free;
    FOS_UNPOISON(item, pool->item);
    pool->free = *(void **)item;
    pool->in_use++;
    return item;
}

FOS_INLINE void fos_pool_give(fos_pool *pool, void *item) {
    *(void **)item = pool->free;
    FOS_POISON((uint8_t *)item + sizeof(void *), pool->item - sizeof(void *));
    pool->free = item;
    pool->in_use--;
}

static void fos_pool_destroy(fos_pool *pool) {
    while (pool->slabs) {
        void *next = *(void **)pool->slabs;
        free(pool->slabs);
        pool->slabs = next;
    }
    pool->free = NULL;
}

/* Blocks of 2^k bytes that were used and wait for reuse: glibc would give pages of this size back
 * to the kernel and fault them in again, at ten times the cost of the copy. */
enum { FOS_BLOCK_MIN = 9, FOS_BLOCK_CLASSES = 9, FOS_BLOCKS_KEPT = 64 };   /* 512 B .. 128 KB */

typedef struct fos_block {
    int32_t refs;             /* atomic: views die on any thread */
    uint32_t size;            /* bytes of `data` in use */
    struct fos_block *link;   /* the owner's list */
    uint32_t class;           /* room is 2^(FOS_BLOCK_MIN + class); FOS_BLOCK_CLASSES: its own size */
    uint32_t fragments;       /* a joined datagram's: entries behind the bytes (defrag.h) */
    struct fos_bundle *bundle;    /* a joined datagram's: its fragments on their way (bundle.h) */
    uint8_t data[];
} fos_block;
FOS_ASSERT_SIZE(fos_block, 32);

typedef struct fos_blocks {
    fos_block *free[FOS_BLOCK_CLASSES];
    uint32_t kept[FOS_BLOCK_CLASSES];
} fos_blocks;

FOS_INLINE fos_block *fos_block_of(const uint8_t *frame) {
    return (fos_block *)(uintptr_t)(frame - offsetof(fos_block, data));
}

static fos_block *fos_block_new(fos_blocks *cache, size_t size) {
    uint32_t class = 0;
    while (class < FOS_BLOCK_CLASSES && ((size_t)1 << (FOS_BLOCK_MIN + class)) < size) class++;
    fos_block *block;
    if (class < FOS_BLOCK_CLASSES && cache->free[class]) {
        block = cache->free[class];
        cache->free[class] = block->link;
        cache->kept[class]--;
        FOS_UNPOISON(block->data, (size_t)1 << (FOS_BLOCK_MIN + class));
    } else {
        block = malloc(sizeof(fos_block) + (class < FOS_BLOCK_CLASSES ? (size_t)1 << (FOS_BLOCK_MIN + class) : size));
        if (!block) return NULL;
        block->class = class;
    }
    block->refs = 1;
    block->size = (uint32_t)size;
    block->link = NULL;
    block->fragments = 0;
    block->bundle = NULL;
    return block;
}

FOS_INLINE void fos_block_keep(const uint8_t *frame) {
    __atomic_add_fetch(&fos_block_of(frame)->refs, 1, __ATOMIC_RELAXED);
}

/* Drop a reference; `cache` may be NULL (a view dies outside the engine): then the block is freed. */
FOS_INLINE void fos_block_drop(fos_blocks *cache, const uint8_t *frame) {
    fos_block *block = fos_block_of(frame);
    if (__atomic_sub_fetch(&block->refs, 1, __ATOMIC_ACQ_REL)) return;
    if (cache && block->class < FOS_BLOCK_CLASSES && cache->kept[block->class] < FOS_BLOCKS_KEPT) {
        block->link = cache->free[block->class];
        cache->free[block->class] = block;
        cache->kept[block->class]++;
        FOS_POISON(block->data, (size_t)1 << (FOS_BLOCK_MIN + block->class));
    } else free(block);
}

static void fos_blocks_destroy(fos_blocks *cache) {
    for (int i = 0; i < FOS_BLOCK_CLASSES; i++)
        while (cache->free[i]) {
            fos_block *next = cache->free[i]->link;
            free(cache->free[i]);
            cache->free[i] = next;
        }
}

#endif
