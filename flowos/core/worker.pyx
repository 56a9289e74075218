"""A module on a thread of its own: windows go out to it and come back (D3.2 section 4.3.2.7, the Thread).

    engine's thread    lend(windows) ──> jobs ──> module's thread: process(window), ...
                       returned()    <── done <── the same windows, with what the module asked for

The engine makes the windows, and commits them when they come back: a module's thread changes nothing
but the windows it was lent, which are snapshots (snapshot.pyx).  Both queues are first in, first out,
so a module hears `opened`, its windows and `closed` of a connection in their order.  Of one connection
only one loan is out at a time; what comes meanwhile waits behind it, and goes out in one window.

On live ports nobody waits for a module for longer than its `hold`.  A thread that still works on what
it was given before that is *behind*: until it has caught up nothing but ends of connections is put
into its queue, so a module that blocks for ever costs no more memory than one that does not.
"""
import os
import threading
import time
from collections import deque
from queue import Empty, SimpleQueue

from libc.stdint cimport int64_t, uint32_t, uint64_t

from flowos.core.attachment cimport Attachment
from flowos.core.core cimport fos_row
from flowos.core.journal cimport FlowWindow
from flowos.core.state cimport Core
from flowos.core.window cimport Window

from flowos.core.errors import UsageError

cdef object WAIT = object()                # nothing more is in the queue
cdef uint32_t MOST_WINDOWS = 1024         # lent to one module at a time; the engine waits, or lets what comes wait
cdef uint64_t MOST_BYTES = 16 << 20
cdef uint32_t MOST_CALLS = 4096           # told and not heard of: where the engine waits


class ModuleThread(threading.Thread):
    """A thread that works for one engine: it may not call that engine's methods."""

    def __init__(self, engine_core, target, name):
        super().__init__(target=target, name=name, daemon=True)
        self.engine_core = engine_core


class Bell:
    """What wakes an engine that sleeps on descriptors: any thread rings it; the last one who has it closes it."""

    def __init__(self):
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self):
        return self._descriptor

    def ring(self):
        os.eventfd_write(self._descriptor, 1)

    def hush(self):
        """Forget that it rang."""
        os.eventfd_read(self._descriptor)

    def __del__(self, close=os.close):
        close(self._descriptor)


cdef class Job:
    """What a module's thread is given to do, in the order of the queue."""


cdef class Loan(Job):
    """Windows of one connection that are out: made by `Worker.lend`, ended by the engine."""


cdef class Call(Job):
    """Something that a module is told, but lends it nothing: a connection opened, a second went by."""


cdef class Worker:
    """The thread of one attachment, and what it was lent."""

    def __init__(self, Attachment a, Core core, bell=None, cpus=None):
        self.attachment = a
        self.bell = bell                      # a Bell, or None: the engine never sleeps
        self.jobs = SimpleQueue()
        self.done = SimpleQueue()
        self.lent = {}
        self.loans = deque()
        self.waiting = {}
        self.unheard = set()
        self.thread = ModuleThread(core, self._run, f"flowos {a.name}")
        self.thread.start()
        if cpus is not None:
            self._pin(cpus)

    def _pin(self, cpus):
        """Let the thread run on these processors alone; it ends if they cannot be had.  UsageError: why."""
        try:
            os.sched_setaffinity(self.thread.native_id, cpus)
        except (OSError, OverflowError, TypeError, ValueError) as error:
            self.jobs.put(None)
            raise UsageError(f"{self.attachment.name}: cpus={cpus!r}: {error}; expected numbers of processors, "
                             f"among {sorted(os.sched_getaffinity(0))}") from None

    # ---- the engine's side ---------------------------------------------------------------------

    cdef Loan lend(self, uint32_t index, uint32_t generation, list windows):
        """Send the windows of a connection to the module."""
        cdef Loan loan = Loan.__new__(Loan)
        cdef Window w
        loan.windows = windows
        loan.index = index
        loan.generation = generation
        loan.since = time.monotonic_ns()
        loan.round = self.round
        loan.failed = []
        loan.errors = []
        for w in windows:
            loan.bytes += w.length
        self.windows_out += len(windows)
        self.bytes_out += loan.bytes
        self.lent[index] = self.lent.get(index, 0) + 1
        self.loans.append(loan)
        self.jobs.put(loan)
        return loan

    cdef bint full(self) noexcept:
        """Is as much out as may be?"""
        return self.windows_out >= MOST_WINDOWS or self.bytes_out >= MOST_BYTES or self.calls >= MOST_CALLS

    cdef bint lags(self) noexcept:
        """Is something out since before the last delivery?"""
        return len(self.loans) != 0 and (<Loan>self.loans[0]).round + 1 < self.round

    cdef bint behind(self) except -1:
        """Does the thread work on something that it was given longer than `hold` ago?"""
        return self.at != 0 and time.monotonic_ns() - self.at > self.attachment.hold_ns

    cdef bint idle(self) noexcept:
        """Has it given back all that it was given?"""
        return not self.loans and not self.calls and not self.waiting

    cdef int end(self, Loan loan) except -1:
        """A loan is over: it came back, or was revoked."""
        loan.over = True
        self.windows_out -= len(loan.windows)
        self.bytes_out -= loan.bytes
        if self.lent[loan.index] == 1:
            del self.lent[loan.index]
        else:
            self.lent[loan.index] -= 1
        if self.loans[0] is loan:
            self.loans.popleft()
        else:
            self.loans.remove(loan)
        return 0

    cdef Call tell(self, function, tuple arguments):
        """Let the module's thread call a function; what it raises comes back."""
        cdef Call call = Call.__new__(Call)
        call.function = function
        call.arguments = arguments
        call.since = time.monotonic_ns()
        self.calls += 1
        self.jobs.put(call)
        return call

    cdef int tell_rows(self, FlowWindow window) except -1:
        """Give the module the rows of a flow."""
        cdef object function = self.attachment.process_batch
        cdef Call call
        if function is None:
            call = self.tell(self.attachment.process, (window,))
        else:
            call = self.tell(function, ([window],))
        call.window = window
        call.bytes = <uint64_t>len(window) * sizeof(fos_row)
        self.bytes_out += call.bytes
        return 0

    cdef int heard(self, Call call) except -1:
        """A call came back."""
        self.calls -= 1
        self.bytes_out -= call.bytes
        if self.ticking is call:
            self.ticking = None
        return 0

    cdef object returned(self, seconds):
        """The next loan or call that came back, or None; wait that many seconds for one."""
        try:
            return self.done.get(True, seconds) if seconds > 0 else self.done.get_nowait()
        except Empty:
            return None

    cdef int stop(self) except -1:
        """Let the thread end when its call under way has returned; wait a little for it."""
        self.jobs.put(None)
        if self.thread is not threading.current_thread() and not self.behind():
            self.thread.join(1.0)             # one that never returns keeps nothing but its own copies
        return 0

    # ---- the module's thread ---------------------------------------------------------------------

    def _run(self):
        cdef list loans
        job = self.jobs.get()
        while job is not None:
            self.at = (<Job>job).since
            if type(job) is Call:
                self._call(job)
                job = WAIT
            else:
                loans = [job]
                job = self._more(loans) if self.attachment.process_batch is not None else WAIT
                self._work(loans)
                loans = None                  # a window that comes back is used again when nobody has it
            if job is WAIT:
                self.at = 0
                job = self.jobs.get()

    def _more(self, list loans):
        """Take the loans that wait, for one call; give the job behind them, or WAIT."""
        while True:
            try:
                job = self.jobs.get_nowait()
            except Empty:
                return WAIT
            if type(job) is not Loan:
                return job
            loans.append(job)

    cdef int _work(self, list loans) except -1:
        """Hand loans to the module, and give them back with what it raised."""
        cdef Loan loan
        cdef int64_t start
        cdef uint32_t i
        for loan in loans:
            loan.begun = not loan.over and not self.attachment.detached
        start = time.perf_counter_ns()
        if self.attachment.process_batch is not None:
            windows = [w for loan in loans if loan.begun for w in loan.windows]
            try:
                if windows:
                    self.attachment.process_batch(windows)
            except BaseException as error:
                (<Loan>loans[0]).errors.append(error)
                for loan in loans:
                    loan.failed = list(range(len(loan.windows)))
            del windows
        else:
            loan = loans[0]
            for i in range(len(loan.windows) if loan.begun else 0):
                if loan.over:                 # it took too long: its windows are valid no more
                    break
                if i and (<Window>loan.windows[i - 1]).leaves:
                    (<Window>loan.windows[i]).leaves = True
                    continue
                try:
                    self.attachment.process(loan.windows[i])
                except BaseException as error:
                    loan.errors.append(error)
                    loan.failed.append(i)
        (<Loan>loans[0]).ns = time.perf_counter_ns() - start
        for loan in loans:
            self._give(loan)
        return 0

    cdef int _call(self, Call call) except -1:
        try:
            if not self.attachment.detached:
                call.function(*call.arguments)
        except BaseException as error:
            call.error = error
        call.function = call.arguments = None
        if call.window is not None:           # stale from now on; an array that was taken stays
            call.window.made = call.window.buffer = None
        self._give(call)
        return 0

    cdef int _give(self, job) except -1:
        self.done.put(job)
        if self.bell is not None:
            self.bell.ring()
        return 0
