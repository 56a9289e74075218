"""The window of a module of scope "flow": one array over all connections of the flow.

The core appends a row of 40 bytes per unit; the window lends the rows as they lie, without a
copy.  When the module keeps the array, the rows' memory goes with it and the journal starts on
new memory; otherwise it is used again.
"""
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.ref cimport Py_REFCNT
from libc.stdint cimport uint32_t
from libc.stdlib cimport free

from flowos.core.core cimport fos_journal, fos_row
from flowos.core.window import row_dtype
from flowos.core.errors import StaleError


cdef class RowBuffer:
    """Owns the memory of a journal's rows while an array refers to it."""

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, <void *>self.rows, self.count * sizeof(fos_row), 1, flags)

    def __dealloc__(self):
        free(self.rows)


cdef class FlowWindow:
    """New units of all connections of a flow, in the order in which they became available."""

    def __init__(self):
        raise TypeError("windows are made by the engine")

    def __len__(self):
        if self.buffer is None:
            raise StaleError("the window was released: its call has returned")
        return self.buffer.count

    def array(self):
        """Lend the rows as a read-only NumPy array of dtype `flowos.ROW`, without a copy.

        The array stays valid for as long as it is kept.
        """
        if self.buffer is None:
            raise StaleError("the window was released: its call has returned")
        if self.made is None:
            import numpy

            self.made = numpy.frombuffer(self.buffer, row_dtype())
        return self.made

    def __repr__(self):
        return f"<FlowWindow {self.protocol} of {self.flow!r}>"


cdef FlowWindow flow_window(fos_journal *journal, object flow, object protocol):
    """Take the journal's rows into a window; give_back ends it."""
    cdef FlowWindow window = FlowWindow.__new__(FlowWindow)
    window.buffer = RowBuffer.__new__(RowBuffer)
    window.buffer.rows = journal.rows
    window.buffer.count = journal.count
    window.flow = flow
    window.protocol = protocol
    return window


cdef int give_back(FlowWindow window, fos_journal *journal) except -1:
    """The call returned: use the rows' memory again unless somebody kept an array on it."""
    cdef RowBuffer buffer = window.buffer
    window.made = None
    window.buffer = None
    journal.count = 0
    if Py_REFCNT(buffer) == 1:
        buffer.rows = NULL                # the journal goes on with it
    else:
        journal.rows = NULL
        journal.capacity = 0
    return 0
