"""The engine's loop and delivery (engine.pyx)."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from flowos.core.connection cimport Connection
from flowos.core.core cimport fos_conn
from flowos.core.decoding cimport Decoding
from flowos.core.flowtable cimport FlowTable
from flowos.core.port cimport Port
from flowos.core.ring cimport fos_ring
from flowos.core.state cimport Core
from flowos.core.window cimport Window


cdef class Attachment:
    cdef readonly object module
    cdef readonly object flow          # number of the flow, or None: all
    cdef readonly object protocol
    cdef readonly int order
    cdef int lvl
    cdef uint32_t classes
    cdef bint whole_flow               # scope "flow"
    cdef readonly bint detached        # nothing more is delivered to it
    cdef object opened, closed, process, process_batch, tick
    cdef list pool                     # windows to use again
    cdef readonly list errors          # the last exceptions raised, newest last
    cdef dict journals                 # by number of flow: index of its journal in the plan


cdef class BaseEngine:
    cdef Core core
    cdef readonly object config
    cdef Port port
    cdef FlowTable flow_table          # None until there is a flow
    cdef list attachments              # in their order; a list never changes, another takes its place
    cdef list serving                  # those that the delivery under way is for
    cdef list names                    # of the flows, by number; 0: none
    cdef list free_numbers             # of flows that were deleted
    cdef list flow_decoders            # by number of flow: {class bit: [decoder classes]}
    cdef dict decoder_classes          # by protocol
    cdef readonly list decoder_errors
    cdef Decoding nothing              # stands for connections that no decoder wanted
    cdef uint32_t *ready
    cdef uint32_t ready_room, ready_count
    cdef uint32_t batch, deliver_units, deliver_rows
    cdef bint ended
    cdef bint busy                     # packets are on their way through, or windows lent
    cdef bint replan_due               # modules came or went meanwhile
    cdef bint aborting                 # an interrupt: no module is called in what is left of the delivery
    cdef object raised                 # what a module raised: raised again when the delivery is over
    cdef int64_t tick_at               # capture time of the next tick
    cdef int64_t ticking               # time to be told now
    cdef uint32_t before_tick(self, const fos_ring *ring, uint32_t n) noexcept nogil
    cdef bint hears(self, Attachment a, const fos_conn *conn)
    cdef int change(self) except -1
    cdef int replan(self) except -1
    cdef int plan_flow(self, uint32_t f) except -1
    cdef int _fault(self, Attachment a, error) except -1
    cdef int pump(self, uint32_t most) except -1 nogil
    cdef bint due(self) noexcept nogil
    cdef int deliver(self) except -1
    cdef int _decode(self, uint32_t index) except -1
    cdef Window window(self, Attachment a, uint32_t n)
    cdef int _call(self, Attachment a, uint32_t n) except -1
