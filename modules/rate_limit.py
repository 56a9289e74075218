"""Limit the rate of connections or of a flow with a token bucket (RFC 2697's, with one rate).

    flowos run x.pcap -w y.pcap --flow bulk=tcp,tp_dst=80 --attach rate_limit:rate=125000,per=flow@bulk

Tokens are bytes on the wire.  A packet that finds too few is dropped (`police`, as routers do: TCP slows
down by itself) or waits for them (`delay`, up to `hold` seconds, after which it leaves all the same).
"""
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

    def wait(self, count):
        """Say in how many seconds there are so many tokens."""
        return max(0.0, (min(count, self.burst) - self.tokens) / self.rate)


class RateLimit(Module):
    """Let `rate` bytes per second pass, `burst` at once; what is beyond is dropped or delayed.

    `per` is what has a bucket of its own: each "connection", each of its "direction"s, or the whole "flow".
    Counts packets: `passed`, `dropped`, `delayed`.
    """

    name = "rate_limit"
    protocol = "frame"
    mode = RDWR

    def __init__(self, rate: float, burst: float = 0, per: Literal["connection", "direction", "flow"] = "connection",
                 beyond: Literal["police", "delay"] = "police", hold: float = 10.0):
        if not rate > 0 or burst < 0 or hold < 0:
            raise UsageError(f"rate_limit: rate {rate}, burst {burst}, hold {hold}: expected a rate above 0, nothing below 0")
        if per not in ("connection", "direction", "flow") or beyond not in ("police", "delay"):
            raise UsageError(f"rate_limit: per {per!r}, beyond {beyond!r}: expected connection, direction or flow; police or delay")
        # Without a burst given: a quarter of a second, or some packets where that is less.
        self.rate, self.burst = rate, burst or max(rate / 4, 15_000)
        self.per, self.delays, self.hold = per, beyond == "delay", hold
        self.shared = Bucket(self.rate, self.burst)
        self.passed = self.dropped = self.delayed = 0

    def bucket(self, window):
        """Give the bucket that a window's packets take from."""
        if self.per == "flow":
            return self.shared
        key = window.direction if self.per == "direction" else 0
        state = window.state
        if key not in state:
            state[key] = Bucket(self.rate, self.burst)
        return state[key]

    def process(self, window):
        bucket = self.bucket(window)
        for done, unit in enumerate(window.units):
            if bucket.take(unit.wire, max(unit.ts, window.now) if self.delays else unit.ts):
                self.passed += 1
            elif self.delays:
                self.delayed += 1
                window.release_units(done)
                window.wake(after=bucket.wait(unit.wire))
                return
            else:
                self.dropped += 1
                window.drop(unit)
