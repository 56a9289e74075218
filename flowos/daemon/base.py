"""The common daemon: takes calls, finds the command or task of that name, and has it run (D3.2 section 3.1.1).

What a call may name: `command`, `task`, `compound`, `result`.  Everything else that a daemon does lives in
its commands and tasks; what several of them need is a method of the daemon's own class.
"""
from pathlib import Path

from flowos.core.errors import FlowOSError, UsageError
from flowos.daemon.board import Board
from flowos.daemon.items import Command, Shelf, Task, answer
from flowos.daemon.mailbox import Mailbox
from flowos.daemon.values import CODE_FAILURE, CODE_SUCCESS, ReturnValue, told

HERE = Path(__file__).parent


class Daemon:
    """A process that runs commands and tasks: derive, name it, and call `turn` often.

    `name` is the folder of its own commands and tasks, beside those in `common`.
    """

    name = "common"

    def __init__(self, folder=HERE):
        kinds = dict.fromkeys((self.name, "common"))
        self.commands = Shelf(Command, [Path(folder) / "commands" / kind for kind in kinds])
        self.tasks = Shelf(Task, [Path(folder) / "tasks" / kind for kind in kinds])
        self.mailbox = Mailbox()
        self.board = Board(self._run_task)
        self.running = True

    # ---- calls, on any thread -------------------------------------------------------------

    def call(self, method, arguments):
        """Carry out one call from outside; give a ReturnValue.  UsageError: no such call, or wrong arguments."""
        known = {"command": (1, 2), "task": (1, 3), "compound": (1, 2), "result": (1, 1)}
        if method not in known:
            raise UsageError(f"there is no method {method!r:.80}; expected {', '.join(known)}")
        least, most = known[method]
        if not least <= len(arguments) <= most:
            raise UsageError(f"{method} takes {least} to {most} arguments, not {len(arguments)}")
        return self.mailbox.call(getattr(self, f"_{method}"), *arguments)

    # ---- on the daemon's thread -----------------------------------------------------------

    def turn(self):
        """Carry out the calls that wait, and one turn of a task."""
        self.mailbox.work()
        if self.board.busy:
            self.board.turn()
            self.mailbox.wake()               # to be back soon

    def changed(self):
        """Hear that a command or task changed what the daemon is to do."""

    def _command(self, name, parameter=None):
        try:
            found = self.commands.find(name)
            checked = found.check(name, parameter)
            try:
                result = answer(found(self).run_command(checked))
            except Exception as error:
                result = ReturnValue(CODE_FAILURE, told(error))
        except FlowOSError as error:
            return ReturnValue(CODE_FAILURE, told(error))
        if found.changes:                     # one that failed may have done a part
            try:
                self.changed()
            except (FlowOSError, OSError) as error:
                done = f"{name} is done" if result.status == CODE_SUCCESS else result.message
                return ReturnValue(CODE_FAILURE, f"{done}, but the configuration could not be saved: {told(error)}", result.value)
        return result

    def _run_task(self, name, parameter):
        found = self.tasks.find(name)
        return found(self).run_task(found.check(name, parameter))

    def _task(self, name, parameter=None, priority="normal"):
        return self._queue([(name, parameter)], priority)

    def _compound(self, steps, priority="normal"):
        if not isinstance(steps, list) or not steps or not all(
                isinstance(step, list) and len(step) == 2 for step in steps):
            return ReturnValue(CODE_FAILURE, "compound: expected a list of [task, parameter]")
        return self._queue([tuple(step) for step in steps], priority)

    def _queue(self, steps, priority):
        try:
            for name, parameter in steps:
                self.tasks.find(name).check(name, parameter)
            return ReturnValue(value=self.board.add(steps, priority))
        except FlowOSError as error:
            return ReturnValue(CODE_FAILURE, told(error))

    def _result(self, number):
        return self.board.result(number if isinstance(number, int) else repr(number))
