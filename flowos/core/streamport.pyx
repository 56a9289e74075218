"""A port on what cannot be mapped: standard input, FIFOs, sockets, gzip and zstd.

    held blocks, oldest first            the block being read
    [.. frames ..] [.. frames ..]  ...   [.. frames | next record | not read yet ]
                                                    pos           have

Bytes are read into blocks and slots point into them, so a frame is copied only where it begins
in one block and ends in the next.  A block is used again once every slot in it was released and
the port was synced; while nothing is held, one block serves for ever, which keeps it in the
second-level cache.  rxsync waits for input only when it has no packet to give.
"""
import os
import select

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove, strerror
from posix.unistd cimport read

from flowos.core.capture cimport (
    FOS_CAPTURE_FULL, FOS_CAPTURE_MEMORY, FOS_CAPTURE_MORE, FOS_FORMAT_NONE, FormatPort, fos_capture_end,
    fos_capture_fill, fos_capture_open)
from flowos.core.port cimport Port
from flowos.core.ring cimport fos_ring
from flowos.core.errors import CaptureError, UsageError
from flowos.core.stream_input import Decompressed, compression_of

__all__ = ["StreamPort"]

cdef enum:
    # A block holds the longest pcap record and is read in one go where the input has as much;
    # larger ones fall out of a second-level cache of 1 to 2 MB (pcapng blocks beyond it get their own).
    BLOCK = 512 << 10
    PIPE_SIZE = 1 << 20         # what a pipe is asked to hold: the most that an ordinary user may ask for


cdef class StreamPort(FormatPort):
    """Read a capture from a path, a file descriptor or an object with `fileno()`, as it comes.

    Compression is told by content.  Frames are gone once their slot was released and the port
    was synced again.  `slots`, a power of two, is the size of the RX ring.  The constructor
    waits for the first header.  CaptureError: no such input, or no capture.  An input that
    breaks off or is damaged later ends there, counted; `problem` says why.  A descriptor that
    was handed over stays open.
    """

    def __cinit__(self, source, slots=256, name=None):
        self.fd = -1
        self.make_ring(&self.rx, slots)
        self.open_source(source, name)
        self.open_block(BLOCK)
        self.open_format()

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.held_count):
            free(self.held[(self.held_first + i) & (self.held_room - 1)].data)
        free(self.held)
        free(self.block.data)
        free(self.spare.data)
        self.close_source()

    def open_source(self, source, name):
        """Open a path, or take a descriptor as it is."""
        if isinstance(source, (str, bytes, os.PathLike)):
            self.name = name or os.fsdecode(source)
            try:
                self.fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise CaptureError(f"{self.name}: {error.strerror}") from error
            self.owns_fd = True
        else:
            self.fd = source if isinstance(source, int) else source.fileno()
            self.name = name or f"descriptor {self.fd}"
            self.source = source
        try:
            import fcntl
            fcntl.fcntl(self.fd, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        except (AttributeError, OSError):
            pass                              # no pipe, or no such right: slower, nothing else
