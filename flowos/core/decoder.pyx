"""What a decoder is to the core: an object per connection that turns bytes into units.

A decoder sees the two byte streams of one connection, piece by piece and in order, cut
anywhere; it emits units whose [start, end) are offsets in the lower stream.  The core makes
one instance per connection when a decoder's `probe` accepts the first bytes, and drops it when
the connection ends.  Decoders never keep `data` beyond the call, never raise on what the wire
says, and bound what they store.

    feed    n bytes at `offset` of direction 0 (a to b) or 1 (b to a)
    gap     `length` bytes at `offset` that will never come
    finish  the direction ends at `offset`: emit what is left, marked incomplete where it is

Each returns 0, or -1 with a Python exception set for a fault of the decoder itself.
"""
from libc.stdint cimport int64_t, uint8_t, uint64_t

from flowos.core.unit cimport fos_sink


cdef class Decoder:
    """The base of compiled decoders: a subclass overrides `feed`, `gap` and `finish`.

    Class attributes that the registry reads:
    `name`  the protocol's name, unique: "http";
    `over`  names of the protocols below: ("tcp",);
    `probe` a static method `probe(data, direction, port) -> bool | None`: whether the first
    bytes of a stream (a memoryview of at most 2,048) are this protocol; None asks for more.
    """

    name = ""
    over = ()

    @staticmethod
    def probe(data, direction, port):
        """Say whether the first bytes of a stream belong to this protocol."""
        return False

    cdef int feed(self, int direction, const uint8_t *data, size_t n, uint64_t offset,
                  int64_t ts, fos_sink *sink) except -1 nogil:
        return 0

    cdef int gap(self, int direction, uint64_t offset, uint64_t length,
                 int64_t ts, fos_sink *sink) except -1 nogil:
        return 0

    cdef int finish(self, int direction, uint64_t offset, int64_t ts,
                    fos_sink *sink) except -1 nogil:
        return 0

    def describe(self, int kind, bytes data):
        """Give the object that `DataUnit.info` shows for a unit of this kind, or None."""
        return None
