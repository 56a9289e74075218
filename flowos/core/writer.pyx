"""The capture writer: packets into a pcap or pcapng file, a FIFO or standard output.

Records gather in a buffer of 1 MB (pcapwrite.h) that is written out in whole records, so a reader
of the file meets a cut record only where the system itself stopped in mid-write.  `close`, which
leaving a `with` block calls whatever ended it, writes the rest.
"""
import os
import select

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint32_t
from posix.unistd cimport write

from flowos.core.port cimport Port
from flowos.core.ring cimport FOS_NO_BUFFER, fos_ring, fos_ring_slot, fos_slot
from flowos.core.errors import CaptureError, UsageError

__all__ = ["CaptureWriter"]

cdef enum:
    ROOM = 1 << 10              # more than the headers of a packet and its interface
    BUFFER = 1 << 20            # 4 times the longest record; a system call for some 700 large packets


cdef class CaptureWriter(Port):
    """Write a capture to a path, "-" (standard output), a descriptor or an object with `fileno()`.

    `file_format` is "pcap" (times in ns, one link type) or "pcapng" (any interfaces and link types,
    times in ns); without it a path that ends in .pcap gives the former, all else the latter.
    `link` fixes the LINKTYPE_* of a pcap file, which is otherwise its first packet's.  Frames are cut
    to `snaplen` bytes.  Writing blocks as the target does.  CaptureError: it cannot be written.
    A descriptor that was handed over stays open.

    >>> import io, os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "x.pcap")
    >>> with CaptureWriter(path) as writer:
    ...     writer.write(1_500_000_000, b"frame")
    >>> os.path.getsize(path)
    45
    """

    def __cinit__(self, target, file_format=None, link=None, slots=256, snaplen=FOS_WRITER_MAX_SNAPLEN):
        self.fd = -1
        is_path = isinstance(target, (str, bytes, os.PathLike)) and target != "-"
        self.name = os.fsdecode(target) if is_path else "standard output" if target == "-" else ""
        self.file_format = file_format or ("pcap" if is_path and self.name.endswith(".pcap") else "pcapng")
        if self.file_format not in ("pcap", "pcapng"):
            raise UsageError(f"{self.name}: format {file_format!r}; expected 'pcap' or 'pcapng'")
        if not 1 <= snaplen <= FOS_WRITER_MAX_SNAPLEN:
            raise UsageError(f"{self.name}: snap length {snaplen}; expected 1 to {FOS_WRITER_MAX_SNAPLEN}")
        self.make_ring(&self.tx, slots)
        self.tx.tail = self.tx.size
        if fos_writer_init(&self.c, BUFFER, self.file_format == "pcapng", snaplen):
            raise MemoryError(f"{self.name}: no memory for a buffer of {BUFFER} bytes")
        if is_path:
            try:
                self.fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise CaptureError(f"{self.name}: {error.strerror}") from error
            self.owns_fd = True
        else:
            self.target = target
            self.fd = 1 if target == "-" else target if isinstance(target, int) else target.fileno()
            self.name = self.name or f"descriptor {self.fd}"
        if self.file_format == "pcapng" or link is not None:
            fos_writer_begin(&self.c, 0 if link is None else link)

    def __dealloc__(self):
        if self.fd >= 0 and self.c.data != NULL:
            while self.written < self.c.have:     # the last chance; there is nobody to tell of errors
                done = write(self.fd, self.c.data + self.written, self.c.have - self.written)
                if done <= 0:
                    break
                self.written += done
        fos_writer_close(&self.c)
        self.close_target()

    cdef int wait_or_fail(self, int error) except -1:
        """After a failed write: wait until it is worth another try, or raise."""
        if error == EINTR:
            PyErr_CheckSignals()
            return 0
        if error == EAGAIN:
            poll = select.poll()
            poll.register(self.fd, select.POLLOUT)
            poll.poll()
            return 0
        raise CaptureError(f"{self.name}: cannot be written: {os.strerror(error)}")

    cdef int write_out(self) except -1 nogil:
        """Write the buffer to the target; where that is interrupted, the next call goes on."""
        cdef Py_ssize_t done
        while self.written < self.c.have:
            done = write(self.fd, self.c.data + self.written, self.c.have - self.written)
            if done >= 0:
                self.written += done
            else:
                with gil:
                    self.wait_or_fail(errno)
        self.written = self.c.have = 0
        return 0

    cdef int write_slot(self, const fos_slot *slot) except -1 nogil:
        """Write one packet; returns FOS_WRITE_PUT, or why it was counted instead."""
        cdef int result = fos_writer_put(&self.c, slot)
        while result == FOS_WRITE_FULL:
            self.write_out()
            result = fos_writer_put(&self.c, slot)
        if result == FOS_WRITE_MEMORY:
            with gil:
                raise MemoryError(f"{self.name}: no memory for an interface")
        return result

    cdef int txsync(self) except -1 nogil:
        cdef fos_ring *tx = &self.tx
        cdef uint32_t before = self.sent
        if self.closed:
            return 0
        while self.sent != tx.head:
            self.write_slot(fos_ring_slot(tx, self.sent))
            self.sent += 1
        tx.tail = tx.head + tx.size
        return tx.head - before

    cdef int check_open(self) except -1:
        if self.closed:
            raise UsageError(f"{self.name}: the capture is closed")
        return 0

    def write(self, ts_ns, data, wire_len=None, link=1, iface=0):
        """Write a packet of the bytes `data` with its time in ns since the epoch.

        `wire_len` is what it had on the wire, if more; `link` a LINKTYPE_* number; `iface` tells the
        interfaces of a pcapng file apart.  UsageError: the writer is closed, or a pcap file holds
        another link type.  CaptureError: it cannot be written.
        """
        cdef const uint8_t[::1] view = data
        cdef fos_slot slot
        cdef int result
        self.check_open()
        slot.ptr = &view[0] if view.shape[0] else NULL
        slot.len = <uint32_t> view.shape[0]
        slot.wire = slot.len if wire_len is None else wire_len
        slot.ts = ts_ns
        slot.link = link
        slot.iface = iface
        slot.flags = 0
        slot.buffer = FOS_NO_BUFFER
        if self.c.size - self.c.have >= slot.len + ROOM:
            result = self.write_slot(&slot)
        else:
            with nogil:                       # it may block
                result = self.write_slot(&slot)
        if result == FOS_WRITE_OTHER_LINK:
            raise UsageError(f"{self.name}: link type {link}; this pcap file holds link type {self.c.link}")

    def describe_interface(self, iface, link=1, name=""):
        """Describe an interface of a pcapng file before its first packet, with a name.

        UsageError: the file is pcap, the writer is closed, or the name exceeds 1,024 bytes.
        """
        cdef uint32_t number
        cdef int result = FOS_WRITE_FULL
        cdef bytes text = name.encode()
        self.check_open()
        if self.file_format != "pcapng":
            raise UsageError(f"{self.name}: a pcap file describes no interfaces")
        if len(text) > FOS_WRITER_MAX_NAME:
            raise UsageError(f"{self.name}: an interface name of {len(text)} bytes; expected at most {FOS_WRITER_MAX_NAME}")
        while result == FOS_WRITE_FULL:
            result = fos_writer_describe(&self.c, iface, link, text, <uint32_t> len(text), &number)
            if result == FOS_WRITE_FULL:
                with nogil:
                    self.write_out()
        if result:
            raise UsageError(f"{self.name}: more than 65536 interfaces")

    def take_from(self, Port port):
        """Write the packets that lie in a port's RX ring, and release them there; return how many.

        Frames are copied once, into the buffer.  Sync the port first; only what is there is taken.
        """
        cdef fos_ring *rx = &port.rx
        cdef fos_ring *tx = &self.tx
        cdef uint32_t count = 0
        self.check_open()
        with nogil:
            while rx.head != rx.tail:
                if tx.head == tx.tail:
                    self.txsync()
                fos_ring_slot(tx, tx.head)[0] = fos_ring_slot(rx, rx.head)[0]
                tx.head += 1
                tx.cur = tx.head
                rx.head += 1
                count += 1
            rx.cur = rx.head
            self.txsync()                     # before the port may use these frames' memory again
        return count

    def flush(self):
        """Write out what is buffered."""
        self.check_open()
        with nogil:
            self.write_out()

    cdef int close_target(self) except -1:
        if self.fd >= 0 and self.owns_fd:
            fd, self.fd = self.fd, -1
            os.close(fd)
        self.fd = -1
        self.target = None
        return 0

    def fileno(self):
        """Give the descriptor written to; UsageError when the writer was closed."""
        self.check_open()
        return self.fd

    def close(self):
        """Write the rest, TX slots below the head included, and close the target if this object opened it."""
        if self.closed:
            return
        try:
            with nogil:
                self.txsync()
                if not self.c.begun:
                    fos_writer_begin(&self.c, 1)  # a capture without packets is one, too
                self.write_out()
        finally:
            Port.close(self)
            self.close_target()

    def statistics(self):
        return {fos_writer_counter_name(i).decode(): fos_writer_counter(&self.c, i)
                for i in range(FOS_WRITER_COUNTER_COUNT)}

    @property
    def descriptions(self):
        return {fos_writer_counter_name(i).decode(): fos_writer_counter_text(i).decode()
                for i in range(FOS_WRITER_COUNTER_COUNT)}
