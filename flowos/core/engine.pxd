"""The engine's loop and delivery (engine.pyx)."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from flowos.core.attachment cimport Attachment
from flowos.core.connection cimport Connection
from flowos.core.core cimport fos_conn
from flowos.core.decoding cimport Decoding
from flowos.core.flowtable cimport FlowTable
from flowos.core.lane cimport fos_lane
from flowos.core.port cimport Port
from flowos.core.ring cimport fos_ring
from flowos.core.state cimport Core
from flowos.core.window cimport Window
from flowos.core.worker cimport Loan


cdef class BaseEngine:
    cdef Core core
    cdef readonly object config
    cdef Port port
    cdef FlowTable flow_table          # None until there is a flow
    cdef list attachments              # in their order; a list never changes, another takes its place
    cdef list serving                  # those that the delivery under way is for
    cdef list names                    # of the flows, by number; 0: none
    cdef list free_numbers             # of flows that were deleted
    cdef list reframers                # by number of flow: a Reframer, or None
    cdef list workers                  # attachments whose modules have threads of their own
    cdef public object bell            # a worker.Bell that such a thread wakes a sleeping engine by, or None
    cdef list wired                    # two ports that are connected, or None
    cdef readonly bint stalled      # a way out has no room, and the policy is to wait for it
    cdef list outputs                  # ports that packets leave by
    cdef uint64_t serials              # attachments made so far
    cdef int64_t held_checked          # capture time when holds were last looked at
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
    cdef bint checks                   # FLOWOS_CHECKS=1: verify the invariants after each delivery
    cdef object raised                 # what a module raised: raised again when the delivery is over
    cdef int64_t tick_at               # capture time of the next tick
    cdef int64_t ticking               # time to be told now
    cdef int64_t waking                # capture time that a module asked to be called at, and that has come
    cdef set resting                   # connection records that no module wants, which are only forwarded
    cdef bint bypassing                # some module left a connection
    cdef int _wake(self) except -1
    cdef int _let_be(self, uint32_t index) except -1
    cdef int _foresee(self) except -1
    cdef int _look_again(self) except -1
    cdef uint32_t before_tick(self, const fos_ring *ring, uint32_t n) noexcept nogil
    cdef bint hears(self, Attachment a, const fos_conn *conn)
    cdef int change(self) except -1
    cdef int _equip(self, Attachment a, module) except -1
    cdef int replan(self) except -1
    cdef int plan_flow(self, uint32_t f) except -1
    cdef int _fault(self, Attachment a, error) except -1
    cdef int pump(self, uint32_t most) except -1 nogil
    cdef bint due(self) noexcept nogil
    cdef int deliver(self) except -1
    cdef int _check_core(self) except -1
    cdef int _reframe(self, uint32_t index) except -1
    cdef int _step_wired(self) except -1
    cdef int pump_into(self, Port out) except -1
    cdef bint _wired_ended(self) except -1
    cdef int _decode(self, uint32_t index) except -1
    cdef int _call(self, Attachment a, uint32_t n) except -1
    cdef int _take(self, Attachment a, Window w, bint failed) except -1
    cdef int _fail(self, Attachment a, uint32_t index) except -1
    cdef int _overstayed(self, Attachment a, int64_t ns) except -1
    cdef int _tell(self, Attachment a, function, tuple arguments) except -1
    cdef bint over(self, uint32_t index) noexcept
    cdef int _drain(self, list workers) except -1
    cdef bint _owes(self, Attachment a) except -1
    cdef int _claim(self) except -1
    cdef int _lend(self, Attachment a, uint32_t index, fos_lane *lane, uint32_t n) except -1
    cdef bint _overtakes(self, Attachment a, uint32_t index) except -1
    cdef int _admit(self, Attachment a, uint32_t index) except -1
    cdef int _count_passed(self, Attachment a) except -1
    cdef int _dismiss(self, Attachment a) except -1
    cdef int _hand_over(self, Attachment a) except -1
    cdef int _await(self, Attachment a) except -1
    cdef int _take_back(self, Attachment a) except -1
    cdef int _accept(self, Attachment a, job) except -1
    cdef int _revoke(self, Attachment a, Loan loan) except -1
    cdef int _commit_loan(self, Attachment a, Loan loan, bint revoked) except -1
