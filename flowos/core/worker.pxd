"""Modules on threads of their own (worker.pyx)."""
from libc.stdint cimport int64_t, uint32_t, uint64_t

from flowos.core.attachment cimport Attachment
from flowos.core.journal cimport FlowWindow


cdef class Job:
    cdef int64_t since                 # when it was given, monotonic ns


cdef class Loan(Job):
    cdef list windows
    cdef uint32_t index, generation    # of the connection
    cdef uint64_t bytes
    cdef uint64_t round                # of the engine's deliveries: when it went out
    cdef bint begun                    # the module has it
    cdef bint over                     # it came back, or took too long
    cdef bint laned                    # the connection's lane counts it
    cdef list failed                   # numbers of the windows at which the module raised
    cdef list errors                   # what it raised
    cdef int64_t ns                    # how long it took


cdef class Call(Job):
    cdef object function
    cdef tuple arguments
    cdef FlowWindow window             # rows that go along, or None
    cdef uint64_t bytes                # ... and how much they are
    cdef object error


cdef class Worker:
    cdef Attachment attachment
    cdef object bell, jobs, done, thread
    cdef int64_t at                    # since when it has had what it works on, or 0; the thread's to write
    cdef dict lent                     # by connection record: how many loans are out
    cdef object loans                  # those that are out, oldest first
    cdef uint64_t windows_out, bytes_out
    cdef dict waiting                  # live, by connection record: since when its windows wait for room in the queue
    cdef set unheard                   # live: connections whose opening it was not told of, because it was behind
    cdef uint32_t calls                # told and not heard of yet
    cdef Call ticking                  # the last tick told, until it was heard
    cdef Loan lend(self, uint32_t index, uint32_t generation, list windows)
    cdef uint64_t round                # of the engine's deliveries
    cdef bint full(self) noexcept
    cdef bint lags(self) noexcept
    cdef bint behind(self) except -1
    cdef bint idle(self) noexcept
    cdef int tell_rows(self, FlowWindow window) except -1
    cdef int heard(self, Call call) except -1
    cdef int end(self, Loan loan) except -1
    cdef Call tell(self, function, tuple arguments)
    cdef object returned(self, seconds)
    cdef int stop(self) except -1
    cdef int _work(self, list loans) except -1
    cdef int _call(self, Call call) except -1
    cdef int _give(self, job) except -1
