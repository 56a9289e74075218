"""Ports on capture files: the part that every capture format shares, and the mapped file.

    file:   [given back | dropped behind | held and new frames | mapped in ahead | .........]
            0           dropped          rx.head        pos     populated         limit

A mapped file is read where it lies: slots point into a private, read-only map and nothing is
copied.  The map is faulted in a step ahead of the walk and given back behind the oldest held
slot, so memory is flat however long the file is.  A frame that is looked at later faults in
again from the page cache, until the next giving back: every frame stays valid for as long as
the port object lives, closed or not.  A file that is cut while it is read ends where it was cut.
"""
import os

from libc.stdint cimport uint8_t, uint32_t

from flowos.core.port cimport Port
from flowos.core.ring cimport fos_ring, fos_ring_slot
from flowos.core.errors import CaptureError, UsageError
from flowos.core.stream_input import describe_content

__all__ = ["CapturePort", "FormatPort"]

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <sys/mman.h>
    #include <sys/stat.h>
    #ifndef MADV_POPULATE_READ
    #define MADV_POPULATE_READ 22             /* Linux 5.14 */
    #endif

    static const uint8_t *fos_map_file(int fd, size_t length) {
        void *map = mmap(NULL, length, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map == MAP_FAILED) return NULL;
        madvise(map, length, MADV_SEQUENTIAL);    /* 10 % less to give back: pages are not marked as used again */
        return (const uint8_t *)map;
    }
    static void fos_map_free(const uint8_t *map, size_t length) { munmap((void *)map, length); }
    static void fos_map_drop(const uint8_t *p, size_t n) { madvise((void *)p, n, MADV_DONTNEED); }

    /* Map the first n bytes anew: frees their pages, those looked at again since, and the tables of both. */
    static void fos_map_renew(const uint8_t *map, size_t n, int fd) {
        mmap((void *)map, n, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0);
    }

    /* Fault in n bytes of the map: 1 done; 0 this kernel cannot, faults will do it; -1 they are not there. */
    static int fos_map_populate(const uint8_t *p, size_t n) {
        if (madvise((void *)p, n, MADV_POPULATE_READ) == 0) return 1;
        return errno == EFAULT || errno == EHWPOISON ? -1 : 0;
    }
    static int64_t fos_file_size(int fd) {
        struct stat s;
        return fstat(fd, &s) ? -1 : (int64_t)s.st_size;
    }
    """
    const uint8_t *fos_map_file(int fd, size_t length)
    void fos_map_free(const uint8_t *map, size_t length)
    void fos_map_drop(const uint8_t *p, size_t n)
    void fos_map_renew(const uint8_t *map, size_t n, int fd)
    int fos_map_populate(const uint8_t *p, size_t n)
    long long fos_file_size(int fd)

cdef enum:
    STEP = 1 << 20              # mapped in at a time: a system call for some 1,000 large packets
    DROP = 2 << 20              # given back at a time
    KEEP = 4 << 20              # stays mapped in behind the oldest held slot, for who looks back a little

FORMATS = {FOS_FORMAT_NONE: None, FOS_FORMAT_PCAP: "pcap", FOS_FORMAT_PCAPNG: "pcapng"}


cdef class FormatPort(Port):
    """Read packets in a capture format: what its header said, and what was counted."""

    def __dealloc__(self):
        fos_capture_close(&self.format)

    cdef int refuse(self, int result, const uint8_t *p, size_t n) except -1:
        """Raise the CaptureError that says why the input's first `n` bytes, at `p`, begin no capture."""
        head = bytes(p[:min(n, 64)]) if n else b""
        if result == FOS_CAPTURE_MEMORY:
            raise MemoryError(f"{self.name}: no memory for an interface")
        if result == FOS_CAPTURE_VERSION:
            raise CaptureError(f"{self.name}: offset {12 if head[:1] == bytes([10]) else 4}: version "
                               f"{self.format.major}.{self.format.minor}, expected pcap 2.x or pcapng 1.x")
        if result == FOS_CAPTURE_LENGTH:
            raise CaptureError(f"{self.name}: offset 4: section header of impossible length {head[4:8].hex(' ')}, "
                               f"expected 28 bytes to 16 MB")
        if result == FOS_CAPTURE_ORDER:
            raise CaptureError(f"{self.name}: offset 8: byte-order magic {head[8:12].hex(' ')}, "
                               f"expected 1a 2b 3c 4d or 4d 3c 2b 1a")
        if result == 0 and 4 <= n:
            raise CaptureError(f"{self.name}: offset {n}: the file ends inside its header, "
                               f"expected {self.format.need} bytes")
        raise CaptureError(f"{self.name}: offset 0: {describe_content(head)}, expected a pcap or pcapng header")

    @property
    def file_format(self):
        """"pcap" or "pcapng"."""
        return FORMATS[self.format.format]

    @property
    def interfaces(self):
        """The interfaces described so far: a list of dicts with link, snaplen, resolution, offset, name.

        A slot's `iface` is an index into it.  `resolution` is the unit of time as if_tsresol codes
        it (6: microseconds, 0x80 + n: 2**-n seconds), `offset` in seconds.
        """
        return [{
            "link": self.format.interfaces[i].link,
            "snaplen": self.format.interfaces[i].snaplen,
            "resolution": self.format.interfaces[i].resolution,
            "offset": self.format.interfaces[i].offset,
            "name": bytes(self.format.interfaces[i].name).decode("utf-8", "replace"),
        } for i in range(self.format.interface_count)]

    def statistics(self):
        return {fos_capture_counter_name(i).decode(): fos_capture_counter(&self.format, i)
                for i in range(FOS_CAPTURE_COUNTER_COUNT)}

    @property
    def descriptions(self):
        return {fos_capture_counter_name(i).decode(): fos_capture_counter_text(i).decode()
                for i in range(FOS_CAPTURE_COUNTER_COUNT)}


cdef class CapturePort(FormatPort):
    """Read a capture file in place, without copying a byte.

    `slots`, a power of two, is the size of the RX ring and so of the largest batch.  A damaged
    or cut file delivers what is good and counts the rest.  CaptureError: the file cannot be
    opened, or does not begin as a capture does.  Memory: the ring, and at most some 8 MB of
    the file beyond what the held slots span.
    """

    def __cinit__(self, path, slots=256, name=None):
        cdef int started
        self.fd = -1
        self.name = name or os.fsdecode(path)
        self.stable = True
        self.make_ring(&self.rx, slots)
        try:
            self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise CaptureError(f"{self.name}: {error.strerror}") from error
        size = fos_file_size(self.fd)
        if size == 0:
            raise CaptureError(f"{self.name}: offset 0: the file is empty, expected a pcap or pcapng header")
        self.map = fos_map_file(self.fd, size) if size > 0 else NULL
        if self.map == NULL:
            raise CaptureError(f"{self.name}: cannot be mapped; expected a regular file")
        self.length = self.limit = size
        self.populates = True
        self.populate()
        started = fos_capture_open(&self.format, self.map, self.populated)
        if self.format.format == FOS_FORMAT_NONE:
            self.refuse(started, self.map, self.populated)
        self.pos = started

    def __dealloc__(self):
        if self.map != NULL:
            fos_map_free(self.map, self.length)
        self.close_file()

    cdef void populate(self) noexcept nogil:
        """Map in the next step; where the file turns out to end before it, set the limit."""
        cdef size_t upto = min(self.limit, self.populated + STEP)
        cdef int done = 0
        cdef long long size
        if self.populates:
            done = fos_map_populate(self.map + self.populated, upto - self.populated)
            self.populates = done != 0
        if done < 0:
            size = fos_file_size(self.fd)
            # Either the file was cut, or the device fails to read this step: in both cases it ends here.
            self.limit = min(upto, <size_t> size) if 0 <= size < <long long> upto else self.populated
            self.vanished = self.length - self.limit
            upto = max(self.limit, self.pos)
        self.populated = upto

    cdef void drop(self) noexcept nogil:
        """Give back what lies behind the oldest held slot."""
        cdef fos_ring *ring = &self.rx
        cdef size_t held = self.pos
        if ring.head != ring.tail:
            held = fos_ring_slot(ring, ring.head).ptr - self.map
        if held > self.dropped + DROP + KEEP:
            self.dropped = (held - KEEP) & ~<size_t> (DROP - 1)
            fos_map_renew(self.map, self.dropped, self.fd)

    cdef int rxsync(self) except -1 nogil:
        cdef fos_ring *ring = &self.rx
        cdef uint32_t before = ring.tail, upto = ring.head + ring.size
        cdef int result
        if self.ended:
            return 0
        while True:
            result = fos_capture_fill(&self.format, self.map, self.populated, &self.pos, ring, upto - ring.tail)
            if result == FOS_CAPTURE_FULL:
                break
            if result == FOS_CAPTURE_MORE and self.populated < self.limit:
                self.populate()
                continue
            self.ended = True
            fos_capture_end(&self.format, self.length - self.pos)
            if result == FOS_CAPTURE_MEMORY:
                with gil:
                    raise MemoryError(f"{self.name}: no memory for an interface")
            break
        self.drop()
        return ring.tail - before

    cdef int close_file(self) except -1:
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)
        return 0

    def fileno(self):
        """Give the file's descriptor; UsageError when the port was closed."""
        if self.fd < 0:
            raise UsageError(f"{self.name}: the port is closed")
        return self.fd

    def close(self):
        """Stop reading and close the file.  Frames stay valid until this object goes."""
        Port.close(self)
        fos_map_drop(self.map, self.length)
        self.close_file()
