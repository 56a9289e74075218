"""Windows that go to another thread (snapshot.pyx)."""
from flowos.core.window cimport Window


cdef int snapshot(Window w) except -1
