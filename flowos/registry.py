"""Where decoders and modules are found: a file of the right name, an entry point, or by hand.

A decoder for protocol "x" is the class with `name = "x"` in `flowos/decoders/x`; third
parties add theirs as entry points of the group "flowos.decoders", or call
`register_decoder`.  Modules are found alike in `flowos/modules` and the group "flowos.modules",
and in any file, as `path.py:Class`.  Nothing is imported before it is asked for.
"""
import hashlib
import importlib
import importlib.util
import os
import pkgutil
import re
import sys
from importlib.metadata import entry_points

from flowos.core.errors import DecoderError, UsageError
from flowos.module import Module
from flowos.parameters import nearest

_registered = {}


def register_decoder(decoder):
    """Register a decoder class for its protocol; it may be used as a class decorator.

    DecoderError: no `name`, no `over`, no `probe`.  UsageError: the protocol has a decoder that was
    registered before.  D3.2 section 4.3.3, RegisterDecoder.
    """
    for attribute in ("name", "over", "probe"):
        if not getattr(decoder, attribute, None):
            raise DecoderError(f"{decoder!r} has no {attribute!r}: a decoder needs name, over and probe")
    if decoder.name in _registered:
        raise UsageError(f"protocol {decoder.name!r} has a decoder already: {_registered[decoder.name]!r}")
    _registered[decoder.name] = decoder
    return decoder


def unregister_decoder(protocol):
    """Take back what `register_decoder` did; the shipped decoder, if any, serves again."""
    if protocol not in _registered:
        raise UsageError(f"no decoder was registered for {protocol!r}")
    del _registered[protocol]


def get_decoder(protocol):
    """Give the decoder class of a protocol, or None.  D3.2 section 4.3.3, GetDecoder.

    >>> get_decoder("http").over
    ('tcp', 'sctp')
    >>> get_decoder("gopher") is None
    True
    """
    if protocol in _registered:
        return _registered[protocol]
    for point in entry_points(group="flowos.decoders"):
        if point.name == protocol:
            return point.load()
    if not protocol.isidentifier():
        return None
    try:
        module = importlib.import_module(f"flowos.decoders.{protocol}")
    except ModuleNotFoundError as error:
        if error.name == f"flowos.decoders.{protocol}":
            return None
        raise
    return _class_in(module, protocol)


def _class_in(module, protocol):
    for value in vars(module).values():
        if isinstance(value, type) and getattr(value, "name", None) == protocol and hasattr(value, "probe"):
            return value
    return None


def all_decoders():
    """Give every decoder there is: {protocol: class}."""
    import flowos.decoders

    names = {point.name for point in entry_points(group="flowos.decoders")}
    names.update(info.name for info in pkgutil.iter_modules(flowos.decoders.__path__))
    names.update(_registered)
    found = {}
    for name in sorted(names):
        decoder = get_decoder(name)
        if decoder is not None:
            found[name] = decoder
    return found


# ---- modules ------------------------------------------------------------------------------

FILE_SPEC = re.compile(r"(?P<path>.*\.py)(?::(?P<name>\w+))?", re.S)


def module_names():
    """List the names of all modules that `get_module` finds, sorted; none is imported.

    >>> "byte_count" in module_names()
    True
    """
    import flowos.modules

    names = {point.name for point in entry_points(group="flowos.modules")}
    names.update(info.name for info in pkgutil.iter_modules(flowos.modules.__path__))
    return sorted(names)


def get_module(spec):
    """Give the module class of a name, or of `path.py:Class`; None: there is none of this name.

    `path.py` alone will do for a file with one module class.  UsageError: there is no such file,
    it does not run, or has no such class.

    >>> get_module("byte_count").protocol
    'transport'
    >>> get_module("gopher_strip") is None
    True
    """
    if found := FILE_SPEC.fullmatch(spec):
        return _class_in_file(found["path"], found["name"])
    for point in entry_points(group="flowos.modules"):
        if point.name == spec:
            return _checked_module(point.load(), f"entry point {point.value}")
    if not spec.isidentifier():
        return None
    try:
        module = importlib.import_module(f"flowos.modules.{spec}")
    except ModuleNotFoundError as error:
        if error.name == f"flowos.modules.{spec}":
            return None
        raise
    return next((cls for cls in _modules_in(module) if cls.name == spec), None)


def find_module(spec):
    """Give the module class of a name or of `path.py:Class`; UsageError, with the nearest name: there is none.

    >>> find_module("byte_cuont")
    Traceback (most recent call last):
        ...
    flowos.core.errors.UsageError: there is no module 'byte_cuont'; did you mean 'byte_count'?
    """
    found = get_module(spec)
    if found is None and os.path.isfile(f"{spec}.py"):
        raise UsageError(f"there is no module {spec!r}; for the file say {spec}.py")
    if found is None:
        raise UsageError(f"there is no module {spec!r}; {nearest(spec, module_names())}")
    return found


def all_modules():
    """Give every module there is: {name: class}."""
    found = {name: get_module(name) for name in module_names()}
    return {name: module for name, module in found.items() if module is not None}


def _checked_module(cls, where):
    if not (isinstance(cls, type) and issubclass(cls, Module)):
        title = cls.__name__ if isinstance(cls, type) else repr(cls)
        raise UsageError(f"{where}: {title} is not a subclass of flowos.Module")
    return cls


def _modules_in(module):
    """List the module classes that a file defines itself, compiled ones included, in order."""
    return [value for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, Module) and value.__module__ == module.__name__]


def _class_in_file(path, name):
    """Run a file and give its module class of a name, or the only one."""
    module = _run_file(path)
    if name is not None:
        if not hasattr(module, name):
            raise UsageError(f"{path} has no {name!r}; {nearest(name, [cls.__name__ for cls in _modules_in(module)])}")
        return _checked_module(getattr(module, name), path)
    found = _modules_in(module)
    if len(found) != 1:
        if not found:
            raise UsageError(f"{path} has no module: expected a class derived from flowos.Module")
        names = ", ".join(cls.__name__ for cls in found)
        raise UsageError(f"{path} has {len(found)} module classes: {names}; say which: {path}:{found[0].__name__}")
    return found[0]


def _run_file(path):
    """Import a file that is in no package; asked for again unchanged, it is the same module.

    It may import the files beside it, such as a decoder; whatever else has their names goes before them.
    """
    try:
        with open(path, "rb") as file:
            digest = hashlib.sha256(os.fsencode(os.path.realpath(path)) + b"\0" + file.read()).hexdigest()[:16]
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    title = f"flowos_file_{digest}"
    if title in sys.modules:
        return sys.modules[title]
    spec = importlib.util.spec_from_file_location(title, path)
    module = sys.modules[title] = importlib.util.module_from_spec(spec)   # dataclasses look themselves up there
    folder = os.path.dirname(os.path.realpath(path))
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[title]
        line = _line_in(error, path)
        raise UsageError(f"{path}{line}: {type(error).__name__}: {error}") from error
    return module


def _line_in(error, path):
    """Say on which line of a file an exception came up, as `:12`."""
    line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else None
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == path:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f":{line}" if line else ""
