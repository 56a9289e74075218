"""Take up changed commands and tasks while the daemon runs (D3.2 section 3.1.1, hot patching).

New files may come along, {"commands/NAME.py": text}; they are written where the daemon may write its own
folder.  A daemon that gave up its rights may not: copy the file there, and run this task without files.
"""
import re

from flowos.core.errors import UsageError
from flowos.daemon.configuration import save
from flowos.daemon.items import Task

NAME = re.compile(r"(commands|tasks)/([a-z][a-z0-9_]{0,63})\.py")


class Upgrade(Task):
    """Write files, and load again what changed; the value names it."""

    takes = {"files": dict}

    def run_task(self, parameter):
        shelves = {"commands": self.daemon.commands, "tasks": self.daemon.tasks}
        files = []
        for path, text in parameter.get("files", {}).items():
            found = NAME.fullmatch(path)
            if not found or not isinstance(text, str):
                raise UsageError(f"{path!r:.80}: expected commands/NAME.py or tasks/NAME.py, and a text")
            try:
                compile(text, path, "exec")
            except SyntaxError as error:
                raise UsageError(f"{path}:{error.lineno}: {error.msg}") from None
            files.append((shelves[found[1]].folders[0] / f"{found[2]}.py", text))
        for path, text in files:
            try:
                save(path, text)
            except OSError as error:
                raise UsageError(f"{path}: {error.strerror}; copy the file there, and upgrade without files") from None
            yield
        return {kind: shelf.refresh() for kind, shelf in shelves.items()}
