"""Commands and tasks: the base classes, and the folders in which they are found by name.

    commands/common/show.py    for every daemon          commands/flowosd/attach.py   for one kind
    tasks/common/upgrade.py

A file holds one class derived from `Command` or `Task`.  It is loaded when it is first asked for, and
again after `forget` (the `upgrade` task): a daemon is patched while it runs, D3.2 section 3.1.1.
A name is looked up among files, never imported by path, so a caller can name nothing else.
"""
import importlib.util
from pathlib import Path

from flowos.core.errors import UsageError
from flowos.daemon.values import ReturnValue
from flowos.parameters import nearest

WORDS = {str: "a text", int: "a whole number", bool: "yes or no", dict: "a table", list: "a list"}


class Item:
    """What commands and tasks have in common: the daemon, and a checked parameter.

    `takes` names the fields of the parameter, a table, with their types; `needs` those that must be there.
    """

    takes = {}
    needs = ()

    def __init__(self, daemon):
        self.daemon = daemon

    @classmethod
    def check(cls, name, parameter):
        """Give the parameter as a dict; UsageError names the field that is unknown, missing or of a wrong type.

        >>> class Hello(Item):
        ...     takes = {"times": int}
        >>> Hello.check("hello", {"times": "3"})
        Traceback (most recent call last):
            ...
        flowos.core.errors.UsageError: hello: times is '3', expected a whole number
        """
        if parameter is None:
            parameter = {}
        if not isinstance(parameter, dict):
            raise UsageError(f"{name}: the parameter is {parameter!r:.80}, expected a table")
        for field, value in parameter.items():
            if field not in cls.takes:
                raise UsageError(f"{name}: there is no field {field!r:.80}; {nearest(str(field)[:80], cls.takes)}")
            kind = cls.takes[field]
            if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
                raise UsageError(f"{name}: {field} is {value!r:.80}, expected {WORDS[kind]}")
        for field in cls.needs:
            if field not in parameter:
                raise UsageError(f"{name}: {field} is missing, expected {WORDS[cls.takes[field]]}")
        return parameter


def texts(table, where):
    """Give a table of parameters as the texts that a command line has; UsageError names one that is neither text nor number.

    >>> texts({"pattern": "a", "times": 3, "identity": True}, "load")
    {'pattern': 'a', 'times': '3', 'identity': 'yes'}
    """
    for name, value in table.items():
        if not isinstance(value, (str, int, float)):
            raise UsageError(f"{where}.parameters.{name:.80} is {value!r:.60}, expected a text or a number")
    return {name: "yes" if value is True else "no" if value is False else str(value) for name, value in table.items()}


class Command(Item):
    """A short operation whose caller waits: derive, and write `run_command(parameter)`."""

    #: It changes what the daemon is to do, so the configuration is saved after it.
    changes = False

    def run_command(self, parameter):
        """Do the work on the engine's thread, between two steps; the result is a ReturnValue, or its value."""
        raise NotImplementedError


class Task(Item):
    """An asynchronous operation: derive, and write `run_task(parameter)`.

    It runs on the engine's thread.  A long one is a generator: at each `yield` traffic goes on; what it
    returns is the task's value.
    """

    changes = False

    def run_task(self, parameter):
        """Do the work; the result is a ReturnValue, or its value."""
        raise NotImplementedError


class Shelf:
    """The items of one kind that a daemon has: files in folders, the first folder that has a name wins."""

    def __init__(self, base, folders):
        self.base, self.folders = base, [Path(folder) for folder in folders]
        self.loaded = {}                      # name: (class, path, (mtime_ns, size))

    def names(self):
        """List what there is, sorted."""
        return sorted({path.stem for folder in self.folders for path in folder.glob("*.py") if path.stem[0] != "_"})

    def find(self, name):
        """Give the class of a name; UsageError, with the nearest name: there is none, or its file is broken."""
        if not isinstance(name, str):
            raise UsageError(f"a {self.base.__name__.lower()} is named by a text, not by {name!r:.80}")
        if name in self.loaded:
            return self.loaded[name][0]
        if name not in self.names():
            raise UsageError(f"there is no {self.base.__name__.lower()} {name!r:.80}; {nearest(name[:80], self.names())}")
        found = self._load(name)
        self.loaded[name] = found
        return found[0]

    def _load(self, name):
        path = next(folder / f"{name}.py" for folder in self.folders if (folder / f"{name}.py").is_file())
        told = path.stat()
        spec = importlib.util.spec_from_file_location(f"flowos_item_{self.base.__name__.lower()}_{name}", path)
        module = importlib.util.module_from_spec(spec)
        try:                                  # compiled from the source: a cached file of the same second is none
            exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
        except Exception as error:
            raise UsageError(f"{path}: {type(error).__name__}: {error}") from error
        found = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, self.base)
                 and value.__module__ == module.__name__]
        if len(found) != 1:
            raise UsageError(f"{path} has {len(found)} classes derived from {self.base.__name__}, expected one")
        return found[0], path, (told.st_mtime_ns, told.st_size)

    def refresh(self):
        """Load again what changed on disk; give the names.  UsageError: a file is broken; what was loaded serves on."""
        fresh = {}
        for name, (_, path, seen) in self.loaded.items():
            if name not in self.names():
                fresh[name] = None
            elif not path.is_file() or (path.stat().st_mtime_ns, path.stat().st_size) != seen:
                fresh[name] = self._load(name)
        for name, found in fresh.items():
            if found is None:
                del self.loaded[name]
            else:
                self.loaded[name] = found
        return sorted(fresh)


def answer(result):
    """Make a ReturnValue of what an item gave."""
    return result if isinstance(result, ReturnValue) else ReturnValue(value=result)
