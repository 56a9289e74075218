"""Drive a compiled decoder from Python bytes and record the units it emits.

A compiled decoder is called by the core, without the GIL, through a C sink.  A `Recorder` owns
such a sink, so that a test, a fuzzer or a notebook can feed a decoder by hand.  It keeps the
offset of each direction itself, copies every unit's bytes before the decoder goes on, and owns
nothing of the decoder but a reference.
"""
from collections import namedtuple

from libc.stdint cimport int64_t, uint8_t, uint64_t

from flowos.core.decoder cimport Decoder
from flowos.core.unit cimport FOS_UNIT_GAP, fos_sink, fos_unit

Record = namedtuple("Record", "direction kind off length start end ts flags message value data")
Record.__doc__ = """One emitted unit, as fos_unit (unit.h) has it, with a copy of its bytes.

`data` is None where the decoder gave no bytes (a gap).  Offsets and lengths are in bytes,
`off` and `length` in the decoder's stream, `start` and `end` in the stream below it.
"""


cdef struct Tap:
    fos_sink sink             # first: the decoder's sink pointer leads to the whole
    void *owner               # the Recorder; borrowed
    uint64_t units
    uint64_t nbytes
    int direction


cdef int count(fos_sink *sink, const fos_unit *unit, const uint8_t *data, size_t n) noexcept nogil:
    cdef Tap *tap = <Tap *>sink
    tap.units += 1
    tap.nbytes += n
    return 0


cdef int keep(fos_sink *sink, const fos_unit *unit, const uint8_t *data, size_t n) noexcept nogil:
    cdef Tap *tap = <Tap *>sink
    count(sink, unit, data, n)
    with gil:
        try:
            (<Recorder>tap.owner).records.append(Record(
                tap.direction, unit.kind, unit.off, unit.len, unit.start, unit.end, unit.ts,
                unit.flags, unit.message, unit.value,
                (<const char *>data)[:n] if data != NULL else None))
        except MemoryError:
            return -1
    return 0


cdef class Recorder:
    """Feed `decoder` by hand; `records` lists what it emitted, in order.

    With ``keep=False`` units are only counted (`units`, `bytes`), without the GIL: for measuring.
    `direction` is 0 or 1, `ts` in nanoseconds; a piece begins where its direction's last ended,
    or at `offset`, which moves the direction there.

    >>> from flowos.decoders.http import HttpDecoder, KINDS
    >>> recorder = Recorder(HttpDecoder())
    >>> for unit in recorder.feed(0, b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n"):
    ...     print(KINDS[unit.kind], unit.data)
    request b'GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n'
    end None
    """

    cdef Tap tap
    cdef uint64_t at[2]
    cdef readonly Decoder decoder
    cdef readonly list records

    def __cinit__(self, Decoder decoder not None, bint keep=True):
        self.decoder = decoder
        self.records = []
        self.tap.owner = <void *>self
        self.set_keep(keep)

    cdef set_keep(self, bint on):
        self.tap.sink.emit = keep if on else count

    @property
    def units(self):
        """Units emitted so far."""
        return self.tap.units

    @property
    def bytes(self):
        """Bytes in these units."""
        return self.tap.nbytes

    cdef int aim(self, int direction, object offset) except -1:
        if direction != 0 and direction != 1:
            raise ValueError(f"a direction is 0 or 1, not {direction}")
        if offset is not None:
            self.at[direction] = offset
        self.tap.direction = direction
        return 0

    def feed(self, int direction, const uint8_t[::1] data not None, offset=None, int64_t ts=0,
             size_t size=0):
        """Feed one piece, or with `size` many of that many bytes; return the records they caused."""
        cdef size_t n = data.shape[0], at = 0, k
        cdef const uint8_t *start = NULL
        cdef size_t before = len(self.records)
        if n:
            start = &data[0]
        if size == 0:
            size = n
        self.aim(direction, offset)
        with nogil:
            while at < n:
                k = size if size < n - at else n - at
                self.decoder.feed(direction, start + at, k, self.at[direction], ts, &self.tap.sink)
                self.at[direction] += k
                at += k
        return self.records[before:]

    def gap(self, int direction, uint64_t length, offset=None, int64_t ts=0):
        """Tell of `length` bytes that will never come; return the records this caused."""
        cdef size_t before = len(self.records)
        self.aim(direction, offset)
        with nogil:
            self.decoder.gap(direction, self.at[direction], length, ts, &self.tap.sink)
        self.at[direction] += length
        return self.records[before:]

    def finish(self, int direction, offset=None, int64_t ts=0):
        """End the direction; return the records this caused."""
        cdef size_t before = len(self.records)
        self.aim(direction, offset)
        with nogil:
            self.decoder.finish(direction, self.at[direction], ts, &self.tap.sink)
        return self.records[before:]
