"""What keeps a decoder's messages valid while modules edit them, as the core calls it.

The class of a compiled decoder may have `framing`: a subclass of Framing whose `pair` makes an
object for each direction of a connection.  The last stage of a flow (reframing.pyx) tells it of
every unit, with the edits in it; it answers which edits are final, its own among them, and how far
the stream may leave.  The rules are in docs/http-framing.md.
"""
from libc.stdint cimport uint32_t, uint64_t


cdef class Framing:
    """Keep the messages of one direction valid; a subclass says how, by its own `unit`, `decide` and `close`."""

    def __cinit__(self):
        self.final = []

    cdef int unit(self, int kind, uint64_t start, uint64_t end, uint32_t message, list edits, bytes data) except -1:
        """Take the next unit, or part of a body; `edits` are of the modules, `data` the bytes of what is no body."""
        raise NotImplementedError(f"{type(self).__name__} has no unit()")

    cdef int decide(self) except -1:
        """Let go of what waits: the hold limit was hit."""
        raise NotImplementedError(f"{type(self).__name__} has no decide()")

    cdef int close(self) except -1:
        """Make everything final: the stream ends here."""
        raise NotImplementedError(f"{type(self).__name__} has no close()")

    cdef list given(self):
        """Hand over the edits that became final, those that insert at one offset as one; None: there are none."""
        cdef list result
        before = None                           # the last edit, while it only inserts
        if not self.final:
            return None
        result = []
        for offset, removed, data in self.final:
            if not removed and not data:
                continue
            if before is not None and before[0] == offset:
                result.pop()
                data = before[2] + data
            before = None if removed else (offset, 0, data)
            result.append((offset, removed, data))
        self.final = []
        return result
