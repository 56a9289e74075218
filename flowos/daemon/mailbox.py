"""The way from the control socket's threads to the engine's: a queue, and a bell that ends its sleep.

The engine's thread empties it between two steps (`Mailbox.work`).  A caller is held until its call was
worked on, or the mailbox was closed.
"""
from collections import deque
from concurrent.futures import Future

from flowos.core.errors import FlowOSError
from flowos.core.worker import Bell


class Mailbox:
    """Calls that wait for the engine's thread; `bell` rings when one came."""

    def __init__(self):
        self.bell = Bell()
        self._calls = deque()                 # append and popleft are atomic
        self._closed = False

    def call(self, function, *arguments):
        """Have the engine's thread call a function; wait, and give what it gave or raise what it raised."""
        future = Future()
        self._calls.append((future, function, arguments))
        if self._closed:
            self._refuse()
        else:
            self.wake()
        return future.result()

    def wake(self):
        """Let the engine's thread look."""
        self.bell.ring()

    def work(self, most=16):
        """Carry out what waits, at most so many calls, so that traffic has its turn."""
        for _ in range(most):
            if not self._calls:
                return
            future, function, arguments = self._calls.popleft()
            try:
                future.set_result(function(*arguments))
            except Exception as error:
                future.set_exception(error)
        if self._calls:
            self.wake()

    def close(self):
        """Refuse what waits and what comes."""
        self._closed = True
        self._refuse()

    def _refuse(self):
        while self._calls:
            try:
                future = self._calls.popleft()[0]
            except IndexError:                # another thread was faster
                return
            future.set_exception(FlowOSError("the daemon is going down"))
