"""The object that owns one core (state.pyx)."""
from cpython.pythread cimport PyThread_type_lock
from libc.stdint cimport int64_t

from flowos.core.core cimport fos_core


cdef class Core:
    cdef fos_core *c
    cdef object owner          # what keeps stable frames in memory: the port
    cdef public object on_datagram   # called with each datagram put together, as bytes
    cdef public object error         # what a callback raised where nothing may raise
    cdef public dict extra     # counters that Python code keeps, by name
    cdef public tuple flow_names     # by number of flow; 0: no flow
    cdef int64_t wake_at       # capture time when a module asked to be called again with what it holds: the earliest, or 2^63 - 1
    cdef bint guarded          # other threads may ask: they and the engine's work without the GIL exclude each other
    cdef unsigned long thread  # the engine's
    cdef PyThread_type_lock quiet
    cdef int guard(self) except -1
    cdef bint enter(self) noexcept
    cdef void leave(self) noexcept
