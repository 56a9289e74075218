"""The Python handle of an arena: packet buffers by index (arena.h has the picture).

Rings hold a reference to the arena whose buffers their slots own, so it outlives them.
"""
from libc.stdint cimport uint32_t

from flowos.core.errors import LimitError, UsageError

__all__ = ["Arena"]


cdef class Arena:
    """Map `count` packet buffers of `buffer_size` bytes, a power of two from 64 to 1 MB.

    Memory is used as buffers are first written.  UsageError: sizes out of range.  MemoryError:
    no address space.  Source: D3.2 section 4.1.3.

    >>> arena = Arena(4)
    >>> arena.take(), arena.free
    (0, 3)
    >>> arena.give(0)
    >>> len(arena)
    4
    """

    def __cinit__(self, count, buffer_size=2048):
        if not 1 <= count <= 1 << 24:
            raise UsageError(f"an arena of {count} buffers; expected 1 to {1 << 24}")
        if not 64 <= buffer_size <= 1 << 20 or buffer_size & (buffer_size - 1):
            raise UsageError(f"buffers of {buffer_size} bytes; expected a power of two from 64 to {1 << 20}")
        if fos_arena_open(&self.c, count, buffer_size):
            raise MemoryError(f"no memory for an arena of {count} buffers of {buffer_size} bytes")

    def __dealloc__(self):
        fos_arena_close(&self.c)

    def __len__(self):
        return self.c.count

    def __repr__(self):
        return f"<Arena of {self.c.count} buffers of {self.c.buffer_size} bytes, {self.c.free_count} free>"

    @property
    def buffer_size(self):
        """Bytes per buffer."""
        return self.c.buffer_size

    @property
    def free(self):
        """Buffers that nobody has."""
        return self.c.free_count

    def take(self):
        """Take a free buffer and return its index; LimitError when there is none."""
        cdef uint32_t index = fos_arena_take(&self.c)
        if index == FOS_NO_BUFFER:
            raise LimitError(f"all {self.c.count} buffers of the arena are taken")
        return index

    def give(self, index):
        """Give a buffer back.  UsageError: it was given back already, or there is no such buffer."""
        if not 0 <= index < self.c.count or fos_arena_give(&self.c, index):
            raise UsageError(f"buffer {index} was given back, but it is not taken (the arena has {self.c.count})")

    def address(self, index):
        """Give the address of a buffer's first byte."""
        if not 0 <= index < self.c.count:
            raise UsageError(f"buffer {index}; the arena has {self.c.count}")
        return <size_t> fos_arena_buffer(&self.c, index)

    def statistics(self):
        """Give the arena's counters, {name: value}; `descriptions` says what each one counts."""
        return {"buffers": self.c.count, "free": self.c.free_count, "least_free": self.c.least_free,
                "exhausted": self.c.exhausted, "refused": self.c.refused}

    @property
    def descriptions(self):
        """What each counter of `statistics` counts, {name: text}."""
        return {
            "buffers": "buffers in the arena",
            "free": "buffers that nobody has",
            "least_free": "the fewest that were ever free",
            "exhausted": "times that a buffer was wanted and none was free",
            "refused": "buffers given back that were not taken",
        }

    def _check(self):
        """Raise AssertionError where an invariant is broken."""
        broken = fos_arena_check(&self.c)
        assert broken == 0, f"invariant {broken} of arena.h is broken: {self!r}"
