"""Module code: from which folders a daemon takes it, and how changed code takes the place of running code.

Modules are trusted code: they run in the daemon.  A daemon that was started as root takes them only from
folders on its list, and only where nobody but root could have written: each folder on the way, and the
file.  (A folder like /tmp, where all may make files but none may touch another's, passes on the way.)
"""
import copy
import importlib
import importlib.util
import os
import stat
import sys
from importlib.metadata import entry_points
from pathlib import Path

import flowos.modules
from flowos.core.errors import UsageError
from flowos.parameters import make, nearest, parameters_of
from flowos.registry import FILE_SPEC, find_module, module_names

FOLDERS = ("/usr/lib/flowos/modules", "/etc/flowos/modules")
#: What is state without being asked: values of these types that changed since `__init__`.
PLAIN = (bool, int, float, str, bytes, bytearray, type(None), list, dict, set, frozenset, tuple)


class Code:
    """Finds module classes by name, "path.py:Class" or entry point; `guarded`: only from folders of the list."""

    def __init__(self, folders=(), guarded=False):
        self.guarded = guarded
        self.folders = [Path(os.path.realpath(folder)) for folder in (*flowos.modules.__path__, *FOLDERS, *folders)]

    def find(self, spec):
        """Give the module class of a spec.  UsageError: there is none, or it may not be loaded."""
        spec = self.resolve(spec)
        path = self.path_of(spec)
        if self.guarded and path is not None:
            self.check(path)
        return find_module(spec)

    def reload(self, spec):
        """Give the class anew, from what the file says now; what runs keeps its class until it is replaced."""
        spec = self.resolve(spec)
        path = self.path_of(spec)
        if self.guarded and path is not None:
            self.check(path)
        title = f"flowos.modules.{spec}"
        if not FILE_SPEC.fullmatch(spec) and title in sys.modules and path is not None and path.suffix == ".py":
            module = sys.modules[title]
            kept = dict(vars(module))
            importlib.invalidate_caches()
            try:                              # compiled from the source: a cached file of the same second is none
                exec(compile(path.read_bytes(), str(path), "exec"), vars(module))
            except Exception as error:
                vars(module).clear()
                vars(module).update(kept)
                raise UsageError(f"{path}: {type(error).__name__}: {error}") from error
        return find_module(spec)

    def resolve(self, spec):
        """Give the spec that is loaded: a name's file in a folder of the list, and paths without symbolic links.

        What was checked is then what is loaded: nobody can point a link elsewhere in between.
        """
        if found := FILE_SPEC.fullmatch(spec):
            return os.path.realpath(found["path"]) + (f":{found['name']}" if found["name"] else "")
        if spec.isidentifier() and spec not in module_names():
            for folder in self.folders[len(list(flowos.modules.__path__)):]:
                if (folder / f"{spec}.py").is_file():
                    return os.path.realpath(folder / f"{spec}.py")
            raise UsageError(f"there is no module {spec!r}; {nearest(spec, module_names())}")
        return spec

    def path_of(self, spec):
        """Give the file that a spec would load, without running any of it; None: there is none."""
        if found := FILE_SPEC.fullmatch(spec):
            return Path(os.path.realpath(found["path"]))
        point = next((point for point in entry_points(group="flowos.modules") if point.name == spec), None)
        title = point.module.partition(".")[0] if point is not None else f"flowos.modules.{spec}"
        try:
            found = importlib.util.find_spec(title)
        except (ImportError, ValueError):
            found = None
        return Path(os.path.realpath(found.origin)) if found is not None and found.origin else None

    def check(self, path):
        """UsageError: the file is in no folder of the list, or others than root could have written it."""
        if not any(folder in path.parents for folder in self.folders):
            raise UsageError(f"{path}: the daemon loads modules from {', '.join(map(str, self.folders))} only; "
                             "move it there, or start the daemon with --modules-from")
        for place in (path, *path.parents):
            try:
                told = place.stat()
            except OSError as error:
                raise UsageError(f"{path}: {error.strerror}") from None
            if told.st_uid != 0 or told.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not (
                    told.st_mode & stat.S_ISVTX and place.is_dir()):
                raise UsageError(f"{place}: others than root may write here, so no module is loaded from {path}; "
                                 f"`chown root:root` and `chmod go-w` it")


class Made:
    """A module that was made from a class and values, and what its plain attributes were then."""

    def __init__(self, cls, values):
        self.cls, self.values = cls, dict(values)
        self.module = make(cls, values)
        self.began = {name: copy.copy(value) for name, value in vars(self.module).items() if isinstance(value, PLAIN)}

    def parameter(self, name):
        """Give a parameter's value now.  UsageError: there is no such parameter."""
        known = parameters_of(self.cls)
        if name not in known:
            raise UsageError(f"{self.module.name or self.cls.__name__}: there is no parameter {name!r}; {nearest(name, known)}")
        return getattr(self.module, name, self.values.get(name, known[name].default))

    def inherit(self, old):
        """Take over from an older one what it gathered: plain attributes of equal name and type that changed since it began.

        A module that keeps more than that defines `migrate(old_module)`.
        """
        for name, value in vars(old.module).items():
            if name in old.began and value != old.began[name] and name in self.began \
                    and type(value) is type(self.began[name]):
                setattr(self.module, name, value)
        migrate = getattr(self.module, "migrate", None)
        if migrate is not None:
            migrate(old.module)
