"""The C declarations of lanes as the engine makes them, and of the merger (lanes.h, merge.h)."""
from libc.stdint cimport uint32_t, uint64_t

from flowos.core.core cimport fos_core
from flowos.core.lane cimport fos_lane


cdef extern from "merge.h" nogil:
    fos_lane *fos_lane_of(const fos_core *core, uint32_t index)
    void fos_lane_free(fos_core *core, fos_lane *lane)
    int fos_lane_idle(const fos_core *core, const fos_lane *lane)
    fos_lane *fos_lane_new(fos_core *core, uint32_t index, uint32_t start)
    uint64_t fos_way_ahead(const fos_core *core, uint32_t index, int dir)
    void fos_lane_touch(fos_core *core, fos_lane *lane)
    void fos_lane_spill(fos_core *core, fos_lane *lane)
    void fos_merge(fos_core *core)
