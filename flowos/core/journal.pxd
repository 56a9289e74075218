"""Rows of a flow, lent as one NumPy array (journal.pyx)."""
from libc.stdint cimport uint32_t

from flowos.core.core cimport fos_journal, fos_row


cdef class RowBuffer:
    cdef fos_row *rows
    cdef uint32_t count


cdef class FlowWindow:
    cdef RowBuffer buffer
    cdef object made
    cdef readonly object flow
    cdef readonly object protocol


cdef FlowWindow flow_window(fos_journal *journal, object flow, object protocol)
cdef int give_back(FlowWindow window, fos_journal *journal) except -1
