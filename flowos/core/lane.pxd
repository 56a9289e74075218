"""The C declarations of the pipeline's state per connection, and of where packets leave (lane.h, outlet.h)."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from flowos.core.ring cimport fos_ring


cdef extern from "core.h" nogil:
    ctypedef struct fos_blocks:
        pass

    enum:
        FOS_STAGE_WRITES
        FOS_STAGE_AWAY
        FOS_STAGE_LENT
        FOS_STAGE_WOKEN
        FOS_STAGE_TOLD
        FOS_STAGE_GONE
        FOS_TAKE_PASS
        FOS_TAKE_REMOVE
        FOS_MAX_STAGES
        FOS_MAX_OUTLETS
        FOS_NO_OUTLET
        FOS_MAX_ROUTES

    const uint64_t FOS_ALL

    ctypedef struct fos_at:
        uint64_t off
        uint64_t skip

    ctypedef struct fos_edit:
        uint64_t pos
        uint64_t removed
        const uint8_t *data
        uint64_t inserted
        int64_t delta

    ctypedef struct fos_edits:
        fos_edit *items
        uint32_t first
        uint32_t end
        int64_t delta
        uint64_t shown

    ctypedef struct fos_stage:
        uint64_t serial
        fos_at at
        uint64_t head
        fos_edits out
        uint32_t flags
        int32_t order
        uint64_t unit
        uint64_t seen_unit
        uint64_t seen_off
        uint64_t seen_skip
        int64_t held_since
        int64_t wake
        uint64_t wake_bytes
        uint64_t wake_units
        uint64_t begins
        uint32_t bypass
        uint32_t ended

    ctypedef struct fos_way:
        fos_stage *stages
        fos_edits sent
        uint64_t next_unit
        uint64_t passed
        uint64_t gone
        uint64_t ahead

    ctypedef struct fos_lane:
        uint32_t index
        uint32_t stage_count
        uint32_t writes
        uint32_t reset
        uint32_t away
        int64_t lent
        int64_t floor
        void *owner
        fos_lane *all_next
        fos_way *way

    ctypedef struct fos_outlet:
        fos_ring *tx
        void *port
        int (*sync)(void *port) noexcept nogil
        int lends

    ctypedef struct fos_outlets:
        fos_outlet *list
        uint32_t count
        uint32_t failed
        uint8_t *route

    int fos_stage_take(fos_stage *s, fos_blocks *blocks, const fos_edits *edits, fos_at to, int how)
    int fos_stage_insert(fos_stage *s, fos_blocks *blocks, const uint8_t *data, uint64_t n)
    int fos_stage_run(const fos_edits *edits, fos_at *at, fos_at to, uint64_t *start, const uint8_t **data,
                      const uint8_t **block, uint64_t *n)
    const fos_edits *fos_stage_input(const fos_way *w, uint32_t k)
    uint64_t fos_inserted_at(const fos_edits *e, uint64_t off)
    fos_at fos_stage_limit(const fos_way *w, uint32_t k, uint64_t tail, uint32_t depends)
    uint64_t fos_edits_seq(const fos_edits *e, uint64_t pos)
    int fos_edits_share(fos_edits *e, uint64_t pos, uint64_t removed, const fos_edit *source)
    uint32_t fos_edits_count(const fos_edits *e)
    uint64_t fos_way_limit(const fos_way *w, uint32_t stages)
    int fos_edits_check(const fos_edits *e)
    void fos_edits_free(fos_edits *e, fos_blocks *blocks)
    int fos_at_before(fos_at a, fos_at b)
