"""Which flow a new connection belongs to (flowtable.pyx)."""
from libc.stdint cimport uint32_t

from flowos.core.classifier cimport Classifier
from flowos.core.core cimport fos_core
from flowos.core.state cimport Core


cdef class FlowTable:
    cdef Core core             # keeps `c` alive
    cdef fos_core *c
    cdef readonly Classifier classifier
    cdef int redecide(self) except -1
