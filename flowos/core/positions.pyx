"""Where attachments stand: heads and tails of their windows, summed over connections, for who looks on from outside.

Connections without a lane (lane.h) are not walked: there each module has released all that it was lent, so
its head is its tail.  Called on the engine's thread, between two steps; changes nothing.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from flowos.core.attachment cimport Attachment
from flowos.core.core cimport *
from flowos.core.engine cimport BaseEngine
from flowos.core.lane cimport *

from flowos.core.errors import LimitError


cdef struct Place:
    uint64_t serial                # of the attachment
    uint64_t open, head, tail


cdef void add_up(const fos_lane *lane, Place *places, uint32_t n) noexcept nogil:
    """Add what the stages of all lanes have to the places of their attachments; others are passed over."""
    cdef const fos_stage *stage
    cdef uint64_t tail
    cdef uint32_t k, direction, i, at = 0
    while lane != NULL:
        for k in range(lane.stage_count):
            for i in range(n):                # stages stand as their attachments do: the next is most often the one
                if places[at].serial == lane.way[0].stages[k].serial:
                    break
                at = at + 1 if at + 1 < n else 0
            else:
                continue
            for direction in range(2):
                stage = &lane.way[direction].stages[k]
                if stage.flags & FOS_STAGE_GONE:
                    continue
                tail = max(stage.seen_off, stage.at.off)
                places[at].open += tail > stage.at.off
                places[at].head += stage.at.off
                places[at].tail += tail
        lane = lane.all_next


def positions(BaseEngine engine):
    """Give {serial of an attachment: {"open", "head", "tail"}} over the directions of all lanes.

    `open`: in how many directions it holds something.  `head`: bytes it released, `tail`: bytes it was
    lent; both are offsets in the streams as they arrived, added up over connections that live still.
    """
    cdef list attachments = engine.attachments
    cdef uint32_t i, n = <uint32_t>len(attachments)
    cdef Place *places = <Place *>calloc(n + 1, sizeof(Place))
    if places == NULL:
        raise LimitError("no memory for the places of attachments")
    try:
        for i in range(n):
            places[i].serial = (<Attachment>attachments[i]).serial
        add_up(engine.core.c.all_lanes, places, n)
        return {places[i].serial: {"open": places[i].open, "head": places[i].head, "tail": places[i].tail} for i in range(n)}
    finally:
        free(places)
