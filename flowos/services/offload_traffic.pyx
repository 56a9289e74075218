"""Traffic by prefix at several time scales, in memory that the number of prefixes bounds.

        packets ─► counts of this step ─► rate over 10 s
                       (at each tick)  ─► rate over 1 min        a count of 8 and a rate of 4 bytes
                                       ─► rate over 10 min       per prefix and time scale

At a tick each rate moves towards what was counted by the share step / scale: the shortest scale,
which is the step, shows the last step just as it was; a longer one is a mean whose weights fall
off exponentially, with the scale as their mean age.  No bin of the past is kept.  A tick costs
the same whatever was counted: it is a pass over all rates, some 20 ms for a million prefixes.
"""
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

import numpy

from flowos import UsageError

#: Rates below this many packets per second are zero: what is left of them would never end.
cdef float LEAST = 1e-6


cdef class Traffic:
    """Count packets by the ids of their prefixes, and keep rates per second over `scales` seconds.

    `scales` rise; the first is the step between ticks.  Arrays grow with the ids that come;
    `uncounted` is what came under id -1, of packets that no prefix covers.  UsageError: scales that
    do not rise, or an id below -1.

    >>> traffic = Traffic((10, 60))
    >>> traffic.count(numpy.array([3, 3, 1, -1], "i4"))
    >>> traffic.tick()
    >>> traffic.rates.tolist()[0][:4], traffic.uncounted
    ([0.0, 0.10000000149011612, 0.0, 0.20000000298023224], 1)
    """

    cdef:
        readonly tuple scales
        readonly uint64_t uncounted
        readonly int64_t ticks
        object count_array, rate_array
        uint64_t[::1] counting
        float[:, ::1] moving

    def __init__(self, scales=(10.0, 60.0, 600.0), prefixes=1024):
        try:
            self.scales = tuple(float(scale) for scale in scales)
        except (TypeError, ValueError):
            raise UsageError(f"time scales: got {scales!r}, expected seconds") from None
        rising = all(0 < a < b for a, b in zip(self.scales, self.scales[1:]))
        if not self.scales or not rising or not 0 < self.scales[0] or not self.scales[len(self.scales) - 1] < float("inf"):
            raise UsageError(f"time scales: got {scales!r}, expected rising numbers of seconds")
        if not isinstance(prefixes, int) or not 1 <= prefixes <= 1 << 28:
            raise UsageError(f"prefixes: got {prefixes!r}, expected 1 to {1 << 28}")
        self.uncounted = self.ticks = 0
        self.take(numpy.zeros(prefixes, "u8"), numpy.zeros((len(self.scales), prefixes), "f4"))

    cdef take(self, counts, rates):
        self.count_array, self.rate_array = counts, rates
        self.counting, self.moving = counts, rates

    @property
    def counts(self):
        """Show what was counted since the last tick, by id: uint64, a view."""
        return self.count_array

    @property
    def rates(self):
        """Show the rates at the last tick: float32 (scales, ids), per second, a view."""
        return self.rate_array

    @property
    def step(self):
        """Give the seconds between ticks: the shortest time scale."""
        return self.scales[0]

    def reserve(self, int64_t prefixes):
        """Make room for ids below `prefixes`.  Views taken before show the old arrays."""
        old = len(self.count_array)
        if prefixes > old:
            more = max(prefixes, 2 * old) - old
            self.take(numpy.concatenate([self.count_array, numpy.zeros(more, "u8")]),
                      numpy.concatenate([self.rate_array, numpy.zeros((len(self.scales), more), "f4")], axis=1))

    def count(self, const int32_t[::1] ids, const uint32_t[::1] weights=None):
        """Count packets under `ids`; each counts 1, or its weight, such as its length.  O(packets), without the GIL."""
        cdef int64_t i, n = ids.shape[0]
        cdef int32_t id, least = 0, most = -1
        cdef uint64_t missed = 0
        cdef bint weighed = weights is not None
        cdef uint64_t *counts
        if weighed and weights.shape[0] != n:
            raise UsageError(f"{n} ids and {weights.shape[0]} weights: expected as many")
        with nogil:
            for i in range(n):
                id = ids[i]
                least = min(least, id)
                most = max(most, id)
        if least < -1:
            raise UsageError(f"id {least}: expected an id of a prefix, or -1")
        if most >= self.counting.shape[0]:
            self.reserve(<int64_t>most + 1)
        counts = &self.counting[0]
        with nogil:
            for i in range(n):
                id = ids[i]
                if id < 0:
                    missed += 1
                else:
                    counts[id] += weights[i] if weighed else 1
        self.uncounted += missed

    def forget(self, int32_t id):
        """Forget what is known of an id whose prefix was taken out of its table."""
        if not 0 <= id < self.counting.shape[0]:
            raise UsageError(f"id {id}: expected 0 to {self.counting.shape[0] - 1}")
        self.count_array[id] = 0
        self.rate_array[:, id] = 0

    def tick(self):
        """End a step: move the rates towards what was counted, and count anew.  O(ids · scales), without the GIL."""
        cdef int64_t i, n = self.counting.shape[0]
        cdef int scale, scales = len(self.scales)
        cdef float share, now, per_second = 1 / self.scales[0]
        cdef float *rates
        cdef uint64_t *counts = &self.counting[0]
        for scale in range(scales):
            share = self.scales[0] / self.scales[scale]
            rates = &self.moving[scale, 0]
            with nogil:
                for i in range(n):
                    now = rates[i] + share * (<float><int64_t>counts[i] * per_second - rates[i])
                    rates[i] = now if now >= LEAST else 0
        self.count_array[:] = 0
        self.ticks += 1

    def statistics(self):
        """Give figures: ticks, ids there is room for, bytes of memory, packets that no prefix covers."""
        return {"ticks": self.ticks, "ids": len(self.count_array), "uncounted": self.uncounted,
                "bytes": self.count_array.nbytes + self.rate_array.nbytes}
