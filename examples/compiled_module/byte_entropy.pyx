"""A compiled module in a package of its own: the entropy of each direction's bytes, counted without the GIL.

    pip install --no-build-isolation .      # against the FlowOS that is here; Cython and setuptools are, too
    flowos run x.pcap --attach byte_entropy --emit -

It is a `flowos.Module` like any other, but its window is typed: `Window.pieces` gives the pointers, and
the loop over them runs `nogil`.  On threads of their own (`--threads own`) such modules run in parallel.
"""
from libc.math cimport log2
from libc.stdint cimport uint32_t, uint64_t

from flowos.core.patterns cimport fos_seg
from flowos.core.window cimport Window

from flowos import Module


cdef void count(const fos_seg *segments, uint32_t n, uint32_t rounds, uint64_t *histogram) noexcept nogil:
    """Add the bytes of some segments to a histogram of 256 counters."""
    cdef uint32_t i, r
    cdef uint64_t k
    for r in range(rounds):
        for i in range(n):
            if segments[i].p != NULL:         # bytes that the capture lacks
                for k in range(segments[i].n):
                    histogram[segments[i].p[k]] += 1


cdef class Histogram:
    """How often each byte occurred in both directions of a connection."""
    cdef uint64_t counts[2][256]

    cdef double entropy(self, int direction) noexcept:
        """Give bits per byte."""
        cdef uint64_t total = 0
        cdef double bits = 0, share
        cdef int i
        for i in range(256):
            total += self.counts[direction][i]
        for i in range(256):
            if self.counts[direction][i]:
                share = <double>self.counts[direction][i] / total
                bits -= share * log2(share)
        return bits


class ByteEntropy(Module):
    """Emit, for each TCP connection that ends, the entropy of what each side sent, in bits per byte.

    `rounds` repeats the count, to have something to measure.
    """

    name, protocol = "byte_entropy", "tcp"

    def __init__(self, rounds: int = 1):
        self.rounds, self.histograms = rounds, {}

    def process(self, Window window):
        cdef const fos_seg *segments
        cdef uint32_t n, rounds = self.rounds
        cdef Histogram histogram = self.histograms.get(window.slot)
        cdef uint64_t *counts
        if histogram is None:
            histogram = self.histograms[window.slot] = Histogram()
        counts = histogram.counts[window.direction]
        window.pieces(&segments, &n)
        with nogil:
            count(segments, n, rounds, counts)

    def closed(self, connection, reason):
        cdef Histogram histogram = self.histograms.pop(connection.slot, None)
        if histogram is not None:
            self.emit({"connection": connection.id, "a_to_b": round(histogram.entropy(0), 3), "b_to_a": round(histogram.entropy(1), 3)})
