"""The object that owns one core (state.pyx)."""
from flowos.core.core cimport fos_core


cdef class Core:
    cdef fos_core *c
    cdef object owner          # what keeps stable frames in memory: the port
    cdef public object on_datagram   # called with each datagram put together, as bytes
    cdef public object error         # what a callback raised where nothing may raise
    cdef public dict extra     # counters that Python code keeps, by name
    cdef public tuple flow_names     # by number of flow; 0: no flow
