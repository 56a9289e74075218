"""How fast states end, over a sliding window: what tells that the idle phase has done its work."""
from collections import deque

from flowos import UsageError


class EndingRate:
    """The rate at which states end, from a running count of those that ended.

    The window (seconds) must hold some tens of endings for the rate to mean something: over a
    single tick of a machine with few states it is zero by chance, and phase two would begin too
    early.  Memory is a row per tick of the window.

    >>> rate = EndingRate(1.0)
    >>> for tick in range(20):
    ...     rate.add(tick / 4, 125 * tick)
    >>> rate.per_second
    500.0
    """

    def __init__(self, window):
        if isinstance(window, bool) or not isinstance(window, (int, float)) or not 0 < window < float("inf"):
            raise UsageError(f"window: got {window!r}, expected seconds above 0")
        self.window, self._rows = window, deque()

    def add(self, now, ended):
        """Take note that `ended` states have ended by `now`; both never go back."""
        if self._rows and (now < self._rows[-1][0] or ended < self._rows[-1][1]):
            raise UsageError(f"now, ended: got {now:g}, {ended} after {self._rows[-1][0]:g}, {self._rows[-1][1]}")
        self._rows.append((now, ended))
        # The oldest row kept is the last one that is a whole window old.
        while len(self._rows) > 1 and self._rows[1][0] <= now - self.window:
            self._rows.popleft()

    @property
    def per_second(self):
        """States that ended per second of the window; 0 before there are two rows."""
        if len(self._rows) < 2:
            return 0.0
        (then, before), (now, after) = self._rows[0], self._rows[-1]
        return (after - before) / (now - then) if now > then else 0.0
