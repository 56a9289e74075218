"""A module at work on a flow (attachment.pyx)."""
from libc.stdint cimport int64_t, uint32_t, uint64_t


cdef class Attachment:
    cdef readonly object module
    cdef readonly object flow          # number of the flow, or None: all
    cdef readonly object protocol
    cdef readonly int order
    cdef readonly uint64_t serial      # unlike that of any other attachment of the engine
    cdef int lvl
    cdef uint32_t classes
    cdef bint whole_flow               # scope "flow"
    cdef bint writes                   # mode RDWR
    cdef bint same_length              # ... but messages whose framing tells their length keep it
    cdef object decoder                # name of the decoder whose units it works on, or None
    cdef object kinds                  # of these units only those of a kind: its name and number; None: all
    cdef int end_kind                  # number of the decoder's kind "end", or -1
    cdef readonly object fail          # "open" or "close": what becomes of a window when the module raises
    cdef int64_t hold_ns               # how long a window may be held, in capture time
    cdef int64_t limit_ns              # how long a call may take, in wall time; 0: as long as it takes
    cdef uint64_t hold_bytes           # ... and how much of it
    cdef readonly tuple depends        # names of modules that it follows
    cdef readonly bint detached        # nothing more is delivered to it
    cdef object opened, closed, process, process_batch, tick
    cdef list pool                     # windows to use again
    cdef readonly list errors          # the last exceptions raised, newest last
    cdef dict journals                 # by number of flow: index of its journal in the plan
    cdef dict states                   # by connection record: the module's state of it
    cdef object common                 # the state that it has once, or None
    cdef dict groups                   # state by key
    cdef object make_state, make_shared, make_group
    cdef set bypassed                  # connection records that the module wants to see no more of
    cdef uint64_t windows, units, bytes, edits, removed, inserted, held, failures
    cdef int64_t ns
    cdef object worker                 # a Worker: its module runs on a thread of its own; None: in the engine's loop
