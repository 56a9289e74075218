"""A port on what cannot be mapped: standard input, FIFOs, sockets, gzip and zstd.

    held blocks, oldest first            the block being read
    [.. frames ..] [.. frames ..]  ...   [.. frames | next record | not read yet ]
                                                    pos           have

Bytes are read into blocks and slots point into them, so a frame is copied only where it begins
in one block and ends in the next.  A block is used again once every slot in it was released and
the port was synced; while nothing is held, one block serves for ever, which keeps it in the
second-level cache.  rxsync waits for input only when it has no packet to give.
"""
import fcntl
import os
import select

from cpython.buffer cimport PyBUF_WRITE
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memmove
from posix.unistd cimport read

from flowos.core.capture cimport (
    FOS_CAPTURE_FULL, FOS_CAPTURE_MEMORY, FOS_CAPTURE_MORE, FOS_FORMAT_NONE, FormatPort, fos_capture_end,
    fos_capture_fill, fos_capture_open)
from flowos.core.port cimport Port
from flowos.core.ring cimport fos_ring
from flowos.core.errors import CaptureError, UsageError
from flowos.core.stream_input import Decompressed, compression_of

__all__ = ["StreamPort"]

cdef extern from "Python.h":
    object PyMemoryView_FromMemory(char *memory, Py_ssize_t size, int flags)

cdef enum:
    BLOCK = 512 << 10           # two of them stay in a second-level cache of 1 to 2 MB; larger records get their own
    ROOM = 64 << 10             # less room than this is not worth a system call
    PIPE_SIZE = 1 << 20         # what a pipe is asked to hold: the most that an ordinary user may ask for

DESCRIPTIONS = {
    "input_bytes": "bytes read from the input, after decompression",
    "carried_bytes": "bytes copied because a record began in one block and ended in the next",
    "blocks": "blocks allocated for input",
}


cdef class StreamPort(FormatPort):
    """Read a capture from a path, a file descriptor or an object with `fileno()`, as it comes.

    Compression is told by content.  A frame is gone once its slot was released and the port was
    synced again.  `slots`, a power of two, is the size of the RX ring and so of the largest batch.
    The constructor waits for the first header.  CaptureError: no such input, or no capture.  An
    input that breaks off or is damaged later ends there, counted, and `problem` says why.  A
    descriptor that was handed over stays open.
    """

    def __cinit__(self, source, slots=256, name=None):
        self.fd = -1
        self.open_source(source, name)
        self.make_ring(&self.rx, slots)
        self.held = <fos_input_block *> calloc(self.rx.size, sizeof(fos_input_block))
        if self.held == NULL:
            raise MemoryError(f"{self.name}: no memory for {slots} blocks")
        self.open_block(BLOCK)
        self.open_format()

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.held_count):
            free(self.held[(self.held_first + i) & (self.rx.size - 1)].data)
        free(self.held)
        free(self.block.data)
        free(self.spare.data)
        self.close_source()

    cdef int open_source(self, object source, object name) except -1:
        """Open a path, or take a descriptor as it is."""
        if isinstance(source, (str, bytes, os.PathLike)):
            self.name = name or os.fsdecode(source)
            try:
                self.fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise CaptureError(f"{self.name}: {error.strerror}") from error
            self.owns_fd = True
        else:
            self.source = source
            self.fd = source if isinstance(source, int) else source.fileno()
            self.name = name or f"descriptor {self.fd}"
        try:
            fcntl.fcntl(self.fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        except (AttributeError, OSError):
            pass                              # no pipe, or no right to it: slower, nothing else
        return 0

    cdef int open_format(self) except -1:
        """Read until it is clear what the input is."""
        cdef int result
        cdef bint told = False
        cdef Py_ssize_t more
        while True:
            with nogil:                       # whoever writes the other end may be a thread of this process
                more = self.refill()
            if not told and (self.have >= 4 or not more):
                told = True
                head = bytes(self.block.data[:self.have])
                self.compression = compression_of(head)
                if self.compression:
                    self.decompressed = Decompressed(self.fd, head, self.compression)
                    self.have = self.input_bytes = 0
                    continue
            result = fos_capture_open(&self.format, self.block.data, self.have)
            if self.format.format != FOS_FORMAT_NONE:
                self.pos = result
                return 0
            if result < 0 or not more:
                if self.problem:
                    raise CaptureError(f"{self.name}: offset 0: {self.problem}; expected a pcap or pcapng header")
                self.refuse(result, self.block.data, self.have)

    cdef int open_block(self, size_t size) except -1 nogil:
        """Begin an empty block of at least `size` bytes; the one before is the caller's business."""
        cdef fos_input_block block = self.spare
        if block.data == NULL or size > block.size:
            block.size = max(size, <size_t> BLOCK)
            block.data = <uint8_t *> malloc(block.size)
            if block.data == NULL:
                with gil:
                    raise MemoryError(f"{self.name}: no memory for a block of {size} bytes")
            self.blocks_made += 1
        else:
            self.spare.data = NULL
        self.block = block
        self.first = self.rx.tail
        return 0

    cdef void release_block(self, fos_input_block *block) noexcept nogil:
        if self.spare.data == NULL and block.size == BLOCK:
            self.spare = block[0]
        else:
            free(block.data)

    cdef void recycle(self) noexcept nogil:
        """Free the blocks in which every slot was released."""
        cdef fos_input_block *oldest
        while self.held_count:
            oldest = &self.held[self.held_first & (self.rx.size - 1)]
            if <int32_t> (self.rx.head - oldest.last) < 0:
                return
            self.release_block(oldest)
            self.held_first += 1
            self.held_count -= 1

    cdef int make_room(self) except -1 nogil:
        """Make room behind what was read, enough for the record at `pos`; frames of held slots stay."""
        cdef fos_ring *ring = &self.rx
        cdef bint pinned = ring.tail != ring.head and ring.tail != self.first
        cdef size_t need = self.format.need, rest = self.have - self.pos
        cdef fos_input_block old = self.block
        if pinned and old.size - self.pos >= need and old.size - self.have >= ROOM:
            return 0
        if not pinned and need <= old.size:
            memmove(old.data, old.data + self.pos, rest)
        else:
            self.open_block(need)
            memcpy(self.block.data, old.data + self.pos, rest)
            if pinned:
                # Each held block has a held slot, so there are never more than the ring has slots.
                old.last = ring.tail
                self.held[(self.held_first + self.held_count) & (ring.size - 1)] = old
                self.held_count += 1
            else:
                self.release_block(&old)
        self.carried_bytes += rest
        self.have = rest
        self.pos = 0
        return 0

    cdef Py_ssize_t refill(self) except -1 nogil:
        """Read what there is, waiting for the first byte; return the bytes read, 0 at the end."""
        cdef Py_ssize_t got
        while True:
            if self.compression is not None:
                with gil:
                    got = self.decompressed.readinto(PyMemoryView_FromMemory(
                        <char *> self.block.data + self.have, self.block.size - self.have, PyBUF_WRITE))
                    self.problem = self.decompressed.problem
            else:
                got = read(self.fd, self.block.data + self.have, self.block.size - self.have)
                if got < 0:
                    with gil:
                        if self.wait_or_end(errno):
                            continue
                    got = 0
            self.have += got
            self.input_bytes += got
            return got

    cdef Py_ssize_t wait_or_end(self, int error) except -1:
        """After a failed read: 1 when it is worth another try, 0 when the input is at its end."""
        if error == EINTR:
            PyErr_CheckSignals()
            return 1
        if error == EAGAIN:
            poll = select.poll()
            poll.register(self.fd, select.POLLIN)
            poll.poll()
            return 1
        self.problem = f"cannot be read: {os.strerror(error)}"
        return 0

    cdef int rxsync(self) except -1 nogil:
        cdef fos_ring *ring = &self.rx
        cdef uint32_t before = ring.tail, upto = ring.head + ring.size
        cdef int result
        if self.ended:
            return 0
        self.recycle()
        while True:
            result = fos_capture_fill(&self.format, self.block.data, self.have, &self.pos, ring, upto - ring.tail)
            if result == FOS_CAPTURE_FULL or ring.tail != before:
                break                         # never wait for input while there is something to give
            if result == FOS_CAPTURE_MORE:
                self.make_room()
                if self.refill():
                    continue
            self.ended = True
            fos_capture_end(&self.format, self.have - self.pos)
            if result == FOS_CAPTURE_MEMORY:
                with gil:
                    raise MemoryError(f"{self.name}: no memory for an interface")
            break
        return ring.tail - before

    cdef int close_source(self) except -1:
        if self.fd >= 0 and self.owns_fd:
            fd, self.fd = self.fd, -1
            os.close(fd)
        self.fd = -1
        self.source = self.decompressed = None
        return 0

    def fileno(self):
        """Give the descriptor read from; UsageError when the port was closed."""
        if self.fd < 0:
            raise UsageError(f"{self.name}: the port is closed")
        return self.fd

    def close(self):
        """Stop reading; close the input if this port opened it.  Held frames are given up."""
        Port.close(self)
        self.close_source()

    def statistics(self):
        return {**super().statistics(), "input_bytes": self.input_bytes,
                "carried_bytes": self.carried_bytes, "blocks": self.blocks_made}

    @property
    def descriptions(self):
        return {**super().descriptions, **DESCRIPTIONS}
