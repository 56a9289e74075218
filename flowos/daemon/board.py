"""The tasks of a daemon: those that wait, by priority, and the results of those that are done.

    high    ■ ■ ■ ─┐
    normal  ■ ■    ┴─► one turn of one task per step of the engine

A normal task is started only while no high one waits (D3.2 section 3.1.1).  A compound task is a list of
tasks in one place of the queue: they run in order, and the first failure ends it.
"""
import itertools
import types
from collections import OrderedDict, deque

from flowos.core.errors import LimitError, UsageError
from flowos.daemon.items import answer
from flowos.daemon.values import CODE_FAILURE, CODE_NOT_READY, CODE_SUCCESS, ReturnValue, told
from flowos.parameters import nearest

PRIORITIES = ("high", "normal")
WAITING, KEPT = 256, 1024                     # tasks that may wait; results that are kept for those who ask


class Board:
    """Tasks waiting, running and done; `run` makes a task's work: `run(name, parameter)`."""

    def __init__(self, run):
        self._run = run
        self._waiting = {priority: deque() for priority in PRIORITIES}
        self._running = {}                    # priority: (number, generator), started and not done
        self._results = OrderedDict()
        self._numbers = itertools.count(1)

    def add(self, steps, priority):
        """Queue a list of (name, parameter), of one or, for a compound task, several; give its number.

        LimitError: too many tasks wait.
        """
        if priority not in PRIORITIES:
            raise UsageError(f"priority is {priority!r:.80}; {nearest(str(priority), PRIORITIES)}")
        if sum(map(len, self._waiting.values())) >= WAITING:
            raise LimitError(f"{WAITING} tasks wait already")
        number = next(self._numbers)
        self._waiting[priority].append((number, steps))
        self._results[number] = ReturnValue(CODE_NOT_READY, "waits")
        while len(self._results) > KEPT + WAITING + len(PRIORITIES):
            oldest = next((old for old, result in self._results.items() if result.status != CODE_NOT_READY), None)
            del self._results[oldest]
        return number

    def result(self, number):
        """Give a task's ReturnValue; CODE_NOT_READY before it is done."""
        return self._results.get(number, ReturnValue(CODE_FAILURE, f"there is no task {number!r:.80}, or it is long done"))

    @property
    def busy(self):
        """Say whether a task waits or runs."""
        return bool(self._running) or any(self._waiting.values())

    def turn(self):
        """Let the first task go on until it is done or yields."""
        for priority in PRIORITIES:
            if priority not in self._running and self._waiting[priority]:
                number, steps = self._waiting[priority].popleft()
                self._running[priority] = number, self._work(steps)
                self._results[number] = ReturnValue(CODE_NOT_READY, "runs")
            if priority in self._running:
                number, work = self._running[priority]
                try:
                    next(work)
                except StopIteration as done:
                    del self._running[priority]
                    self._results[number] = done.value
                return

    def _work(self, steps):
        values = []
        for place, (name, parameter) in enumerate(steps):
            if place:
                yield
            try:
                result = self._run(name, parameter)
                if isinstance(result, types.GeneratorType):
                    result = yield from result
                result = answer(result)
            except Exception as error:
                result = ReturnValue(CODE_FAILURE, told(error))
            values.append(result.wire())
            if result.status != CODE_SUCCESS:
                return ReturnValue(result.status, f"{name}: {result.message}", values)
        return result if len(steps) == 1 else ReturnValue(value=values)
