"""Police the rate of connections or of a flow with a token bucket (RFC 2697's, with one rate).

    flowos run x.pcap -w y.pcap --flow bulk=tcp,tp_dst=80 --attach rate_limit:rate=125000,per=flow@bulk

Tokens are bytes on the wire.  A packet that finds too few is dropped, as routers do: TCP takes it for a
loss and slows down by itself.
"""
from operator import itemgetter
from typing import Literal

from flowos import RDWR, Module, UsageError

SECOND = 10**9


class Bucket:
    """A token bucket: `rate` tokens come per second, at most `burst` are kept.

    >>> bucket = Bucket(100, 50)
    >>> bucket.take(50, now=0), bucket.take(10, now=0), bucket.take(10, now=SECOND // 10)
    (True, False, True)
    """

    def __init__(self, rate, burst):
        self.rate, self.burst = rate, burst
        self.tokens, self.last = burst, None

    def fill(self, now):
        """Take in what came until `now`, in ns; time that runs back brings nothing."""
        if self.last is not None and now > self.last:
            self.tokens = min(self.burst, self.tokens + (now - self.last) * self.rate / SECOND)
        self.last = now if self.last is None else max(now, self.last)

    def take(self, count, now):
        """Take tokens if there are so many; more than a burst pass when the bucket is full."""
        self.fill(now)
        if self.tokens < min(count, self.burst):
            return False
        self.tokens -= count
        return True


class RateLimit(Module):
    """Let `rate` bytes per second pass, `burst` at once, and drop what is beyond.

    `per` is what has a bucket of its own: each "connection", each of its "direction"s, or the whole "flow".
    Attributes `passed` and `dropped` count packets.

    >>> from flowos.testing import play, talk, turns
    >>> limit = RateLimit(1, burst=200)
    >>> len(play(limit, talk(turns(b"hello", b"world")).packets).packets), limit.dropped
    (3, 7)
    """

    name = "rate_limit"
    protocol = "frame"
    mode = RDWR

    def __init__(self, rate: float, burst: float = 0, per: Literal["connection", "direction", "flow"] = "connection"):
        if not rate > 0 or burst < 0:
            raise UsageError(f"rate_limit: rate {rate}, burst {burst}: expected a rate above 0, a burst of 0 (by rate) or more")
        if per not in ("connection", "direction", "flow"):
            raise UsageError(f"rate_limit: per {per!r}, expected connection, direction or flow")
        # Without a burst given: a quarter of a second, or ten packets where that is less.
        self.rate, self.burst, self.per = rate, burst or max(rate / 4, 15_000), per
        self.common = Bucket(self.rate, self.burst)
        self.passed = self.dropped = 0

    def bucket(self, window):
        """Give the bucket that a window's packets take from."""
        if self.per == "flow":
            return self.common
        key = window.direction if self.per == "direction" else 0
        state = window.state
        if key not in state:
            state[key] = Bucket(self.rate, self.burst)
        return state[key]

    def process_batch(self, windows):
        # Windows come one after the other, packets came side by side: tokens are taken in their order.
        packets = [(unit.packet, number, unit) for number, window in enumerate(windows) for unit in window.units]
        buckets = [self.bucket(window) for window in windows]
        packets.sort(key=itemgetter(0))
        for _, number, unit in packets:
            if buckets[number].take(unit.wire, unit.ts) or not windows[number].writable:   # what is tunnelled passes
                self.passed += 1
            else:
                self.dropped += 1
                windows[number].drop(unit)
