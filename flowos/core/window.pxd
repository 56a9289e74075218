"""Windows, data units and views (window.pyx)."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from flowos.core.connection cimport Connection
from flowos.core.core cimport fos_stream
from flowos.core.decoding cimport Decoding
from flowos.core.lane cimport fos_at, fos_edits
from flowos.core.patterns cimport fos_seg
from flowos.core.state cimport Core
from flowos.core.unit cimport FOS_UNIT_DECODER, fos_unit


cdef enum:
    LEVEL_FRAME = 0
    LEVEL_IP = 1
    LEVEL_TRANSPORT = 2
    LEVEL_DECODER = 3


cdef class View:
    cdef const uint8_t *p
    cdef Py_ssize_t n
    cdef object owner
    cdef const uint8_t *block


cdef class Window


cdef class DataUnit:
    cdef fos_unit u
    cdef Core core
    cdef uint32_t index
    cdef uint32_t generation
    cdef uint64_t number       # index of the record in its stream
    cdef int dir               # by key
    cdef readonly int direction
    cdef int lvl               # LEVEL_*
    cdef uint8_t proto
    cdef Decoding decoding
    cdef object made           # what a Python decoder emitted: a flowos.decoder.Unit
    cdef list mates            # the list that it stands in
    cdef Window edits          # the window that it may be edited in, or None
    cdef Window lens           # the window whose edits of earlier stages it shows, or None
    cdef fos_stream *stream(self) except? NULL
    cdef bint held(self)
    cdef int alive(self) except -1
    cdef int extent(self, const uint8_t **start, uint64_t *n, const uint8_t **header, uint64_t *header_n) except -1
    cdef object bytes_at(self, const uint8_t *p, uint64_t n)
    cdef bint through(self) noexcept
    cdef int here(self, what) except -1


ctypedef struct seg_mark:      # what a segment of a window is
    fos_at at                  # where its first byte stands in the stage's input
    const uint8_t *block       # the block that its bytes lie in, or NULL
    bint inserted              # by an earlier stage: `at.off` does not move along it


cdef class Window:
    cdef Core core
    cdef uint32_t index
    cdef uint32_t generation
    cdef int dir               # by key
    cdef int lvl               # LEVEL_*
    cdef Decoding decoding
    cdef fos_stream *stream
    cdef list made             # units of a Python decoder, in place of a stream
    cdef uint64_t first, stop  # range of unit indices
    cdef readonly uint64_t offset
    cdef readonly uint64_t length
    cdef readonly int direction
    cdef readonly bint complete
    cdef readonly object protocol
    cdef readonly int64_t now
    cdef bint live
    cdef object attachment     # whose window it is
    cdef bint writes           # edits are allowed
    cdef bint follows          # it is not the first of this call in its direction
    cdef bint by_offset        # it is a range of offsets: begin and limit count, units are cut by them
    cdef uint64_t kind_bits    # the same as bits, where all their numbers are below 64
    cdef object kinds          # only units of these kinds: a frozenset of numbers or names, or None: all
    cdef uint32_t stage        # number of its attachment among those of the flow
    cdef fos_at begin          # where the stage stands
    cdef fos_at limit          # how far it may go
    cdef const fos_edits *input    # edits of earlier stages, or NULL
    cdef fos_seg *segs         # the bytes; built when they are asked for
    cdef seg_mark *marks
    cdef uint32_t seg_count, seg_room
    cdef bint built
    cdef list edits            # (start, end, bytes) in indices of the window, in the order made
    cdef uint64_t kept         # index of the first byte that was not released
    cdef bint asked            # release was called
    cdef uint64_t looked       # behind the last match found or edit made: no partial match begins before
    cdef bint leaves           # bypass was called
    cdef int64_t wake_ns       # wake was called: when, from now, or 0;
    cdef uint64_t wake_bytes   # ... with so many bytes at least, or 0;
    cdef uint64_t wake_units   # ... or so many units
    cdef list lent             # views that must outlive a copy
    cdef bytes store           # a snapshot's bytes (snapshot.pyx), or None: the window shows the engine's memory
    cdef fos_stream own        # ... its units
    cdef list packets          # ... for each of a compiled decoder's units, the packet that brought its end
    cdef Connection handle     # ... its connection
    cdef uint8_t proto
    cdef object view(self, const uint8_t *p, uint64_t n, const uint8_t *block)
    cdef void forget(self) noexcept
    cdef int pieces(self, const fos_seg **segments, uint32_t *count) except -1
    cdef int check(self) except -1
    cdef DataUnit unit_at(self, uint64_t number)
    cdef DataUnit copied_unit(self, uint64_t number)
    cdef uint64_t packet_at(self, const fos_unit *u, uint64_t number) except? 0
    cdef bint shows(self, uint64_t number)
    cdef int put(self, const uint8_t *p, uint64_t n, fos_at at, const uint8_t *block, bint inserted) except -1
    cdef int put_input(self, fos_at *at, fos_at to) except -1
    cdef int put_made(self, data, fos_at at) except -1
    cdef bint edited_before(self, uint64_t start, uint64_t end) noexcept
    cdef bint of_kind(self, uint64_t number)
    cdef int edit(self, what, start, end, bytes data) except -1
    cdef bint altered(self, uint64_t start, uint64_t end) except? True
    cdef int unit_range(self, uint64_t start, uint64_t end, uint64_t *low, uint64_t *high) except -1
    cdef bint edited(self, uint64_t start, uint64_t end) except? True
    cdef object unit_bytes(self, uint64_t start, uint64_t end)
    cdef int put_range(self, uint64_t start, uint64_t end) except -1
    cdef int build(self) except -1
    cdef int build_units(self) except -1
    cdef uint64_t size(self) except? 0xffffffffffffffff
    cdef uint64_t index_of(self, offset, what) except? 0xffffffffffffffff
    cdef fos_at place(self, uint64_t i, bint behind)
    cdef void reset(self) noexcept
    cdef int put_missing(self, uint64_t start, uint64_t end) except -1
    cdef bint follows_at(self, uint64_t start, uint64_t end, uint32_t k) noexcept
    cdef uint64_t place_of(self, uint64_t start) except? 0xffffffffffffffff


cdef uint64_t bits_of(object kinds)


cdef inline int kind_bit(uint16_t kind) noexcept:
    """The bit of a kind in a set of kinds: the first 32 of all units and of a decoder's own have one; 64: none."""
    if kind < 32:
        return kind
    return 32 + kind - FOS_UNIT_DECODER if FOS_UNIT_DECODER <= kind < FOS_UNIT_DECODER + 32 else 64


cdef inline bint kind_among(uint16_t kind, uint64_t bits, object kinds):
    """Is a kind of unit in a set?  `bits` is the same set (`bits_of`), or 0."""
    return bits >> kind_bit(kind) & 1 if bits and kind_bit(kind) < 64 else kind in kinds


cdef object view_at(Core core, const uint8_t *p, uint64_t n, const uint8_t *block)
cdef object view_of(Core core, const fos_unit *u, const uint8_t *p, uint64_t n)
cdef DataUnit unit_of(Core core, uint32_t index, int dir, int level, uint64_t number, const fos_unit *u)
cdef DataUnit made_unit(Core core, uint32_t index, int dir, Decoding decoding, list made, uint64_t number)
