"""Where attachments stand: heads and tails of their windows, summed over connections, for who looks on from outside.

Connections without a lane (lane.h) are not walked: there each module has released all that it was lent, so
its head is its tail.  Called on the engine's thread, between two steps; changes nothing.
"""
from libc.stdint cimport uint32_t, uint64_t

from flowos.core.core cimport *
from flowos.core.engine cimport BaseEngine
from flowos.core.lane cimport *


def positions(BaseEngine engine):
    """Give {serial of an attachment: {"open", "head", "tail"}} over the directions of all lanes.

    `open`: in how many directions it holds something.  `head`: bytes it released, `tail`: bytes it was
    lent; both are offsets in the streams as they arrived, added up over connections that live still.
    """
    cdef fos_lane *lane = engine.core.c.all_lanes
    cdef fos_stage *stage
    cdef uint64_t tail
    cdef uint32_t k, direction
    found = {}
    while lane != NULL:
        for k in range(lane.stage_count):
            for direction in range(2):
                stage = &lane.way[direction].stages[k]
                if stage.flags & FOS_STAGE_GONE:
                    continue
                tail = max(stage.seen_off, stage.at.off)
                place = found.setdefault(stage.serial, {"open": 0, "head": 0, "tail": 0})
                place["open"] += tail > stage.at.off
                place["head"] += stage.at.off
                place["tail"] += tail
        lane = lane.all_next
    return found
