"""A compiled module in a package of its own: the entropy of each direction's bytes, counted without the GIL.

    pip install --no-build-isolation ./examples/compiled_module     # with the FlowOS, Cython and setuptools that are here
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
            if segments[i].p != NULL:         # NULL: bytes that the capture lacks
                for k in range(segments[i].n):
                    histogram[segments[i].p[k]] += 1


cdef double entropy(const uint64_t *histogram, uint64_t total) noexcept nogil:
    """Give Shannon's entropy in bits per byte."""
    cdef double bits = 0, share
    cdef int value
    for value in range(256):
        if histogram[value]:
            share = <double>histogram[value] / total
            bits -= share * log2(share)
    return bits


cdef class Histograms:
    """How often each byte occurred in each direction of a connection."""
    cdef uint64_t counts[2][256]


class ByteEntropy(Module):
    """Emit, for each direction of a TCP connection, the entropy of what was sent, in bits per byte.

    `rounds` repeats the count, to have something to measure.  The system makes the state of a connection
    (`state`) and forgets it when the connection has ended.
    """

    name, protocol, state = "byte_entropy", "tcp", Histograms

    def __init__(self, rounds: int = 1):
        self.rounds = rounds

    def process(self, Window window):
        cdef Histograms histograms = window.state
        cdef uint64_t *histogram = histograms.counts[window.direction]
        cdef const fos_seg *segments
        cdef uint32_t n, value, rounds = self.rounds
        cdef uint64_t total = 0
        window.pieces(&segments, &n)
        with nogil:
            count(segments, n, rounds, histogram)
        if window.complete:
            for value in range(256):
                total += histogram[value]
            if total:
                window.emit({"bytes": total // rounds, "entropy": round(entropy(histogram, total), 3)})
