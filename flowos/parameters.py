"""Parameters: from texts, as a command line has them, to the arguments of a class's `__init__`.

A module's parameters are the keyword parameters of its `__init__`; their annotations say how a text
is read, their defaults what holds without one.  Every error names the class, the parameter, what
came and what was expected, and the nearest name where one was mistyped.
"""
import difflib
import inspect
import re
import traceback
import types
import typing
from dataclasses import dataclass
from pathlib import Path

from flowos.core.errors import UsageError

TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
ESCAPES = {"n": b"\n", "r": b"\r", "t": b"\t", "0": b"\0", "\\": b"\\"}
QUOTES = "\"'"
WORDS = {bytes: "bytes, with \\n, \\r, \\t, \\0, \\\\ and \\xHH", int: "a whole number", float: "a number",
         bool: "yes or no"}


class Wrong(ValueError):
    """A text is no value of a type; the message says what was expected.  Never leaves this file."""


@dataclass(frozen=True)
class Parameter:
    """One parameter: its name, its type, its default (`Parameter.NEEDED`: it has none)."""

    NEEDED = inspect.Parameter.empty

    name: str
    type: object
    default: object

    @property
    def kind(self):
        """Spell the type: `bytes`, `list[str]`, `int or none`."""
        return type_name(self.type)

    def __str__(self):
        return self.name if self.default is self.NEEDED else f"{self.name}={spell(self.default)}"


def parameters_of(cls):
    """Give the parameters of a class in order: {name: Parameter}.

    A parameter without an annotation has the type of its default, else text.  UsageError: its
    `__init__` takes positional-only or any arguments, which no command line can name.

    >>> class Strip:
    ...     def __init__(self, pattern: bytes = b"<script", times: int = 1): pass
    >>> [str(parameter) for parameter in parameters_of(Strip).values()]
    ['pattern=<script', 'times=1']
    """
    if cls.__init__ is object.__init__:
        return {}
    try:
        signature = inspect.signature(cls.__init__)
        hints = typing.get_type_hints(cls.__init__)
    except (NameError, TypeError, ValueError) as error:
        raise UsageError(f"{cls.__name__}: the parameters of __init__ cannot be read: {error}") from error
    found = {}
    for place, parameter in enumerate(signature.parameters.values()):
        if place == 0:
            continue                                # self
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise UsageError(f"{cls.__name__}: __init__ takes {parameter}: expected parameters with names only")
        kind = hints.get(parameter.name)
        if kind is None:
            kind = type(parameter.default) if isinstance(parameter.default, (bool, int, float, bytes)) else str
        found[parameter.name] = Parameter(parameter.name, kind, parameter.default)
    return found


def make(cls, values=()):
    """Make an instance of a class from {name: value}; texts are read as the annotations say.

    A value that is no text is passed on as it is.  UsageError: an unknown or missing parameter, a
    text that is no value of its type.

    >>> class Strip:
    ...     def __init__(self, pattern: bytes, times: int = 1): self.args = (pattern, times)
    >>> make(Strip, {"pattern": "a\\\\x00b", "times": "0x10"}).args
    (b'a\\x00b', 16)
    >>> make(Strip, {"patern": "a"})
    Traceback (most recent call last):
        ...
    flowos.core.errors.UsageError: Strip: there is no parameter 'patern'; did you mean 'pattern'?
    """
    title = getattr(cls, "name", "") or cls.__name__
    known, arguments = parameters_of(cls), {}
    for name, value in dict(values).items():
        if name not in known:
            raise UsageError(f"{title}: there is no parameter {name!r}; {nearest(name, known)}")
        arguments[name] = read(title, known[name], value) if isinstance(value, str) else value
    for parameter in known.values():
        if parameter.default is parameter.NEEDED and parameter.name not in arguments:
            raise UsageError(f"{title}: parameter {parameter.name!r} ({parameter.kind}) is missing: "
                             f"give {parameter.name}=…")
    try:
        return cls(**arguments)
    except (UsageError, OSError):
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise UsageError(f"{title}: its __init__ raised {type(error).__name__}: {error} "
                         f"({last.filename}:{last.lineno})") from error


def nearest(name, known):
    """Say which of the known names may have been meant, or list them.

    >>> nearest("patern", ["pattern", "flow"]), nearest("TCP", ["tcp"]), nearest("x", ["pattern"]), nearest("x", [])
    ("did you mean 'pattern'?", "did you mean 'tcp'?", 'expected pattern', 'there are none')
    """
    near = difflib.get_close_matches(name, list(known), n=1) or difflib.get_close_matches(name.lower(), list(known), n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"expected {', '.join(known)}" if known else "there are none"


def read(title, parameter, text):
    """Read a parameter's value from a text; UsageError names the parameter."""
    try:
        return convert(text, parameter.type)
    except Wrong as wrong:
        raise UsageError(f"{title}: {parameter.name} is {text!r}, expected {wrong}") from None


def convert(text, kind):
    """Turn a text into a value of a type, or raise Wrong.

    >>> convert("yes", bool), convert("80;443", list[int]), convert("none", int | None), convert("1e6", float)
    (True, [80, 443], None, 1000000.0)
    """
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return any_of(text, parts)
    if origin is typing.Literal:
        for part in parts:
            if text == str(part):
                return part
        raise Wrong(f"one of {', '.join(map(str, parts))}")
    if origin in (list, tuple, set, frozenset) or kind in (list, tuple, set, frozenset):
        inner = parts[0] if parts else str
        return (origin or kind)(convert(part, inner) for part in split(text, ";"))
    if kind is bool:
        if text.lower() not in TRUE + FALSE:
            raise Wrong(WORDS[bool])
        return text.lower() in TRUE
    if kind is bytes:
        return unescape(text)
    if kind in (int, float):
        return number(text, kind)
    if isinstance(kind, type) and issubclass(kind, Path):
        return kind(text)
    if kind in (str, typing.Any, object):
        return text
    raise Wrong(f"a {type_name(kind)}, which cannot be given as a text")


def any_of(text, kinds):
    """Read a text as the first of several types that takes it; "none" where None is one."""
    if type(None) in kinds and text.lower() in ("", "none"):
        return None
    expected = []
    for kind in kinds:
        if kind is not type(None):
            try:
                return convert(text, kind)
            except Wrong as wrong:
                expected.append(str(wrong))
    raise Wrong(" or ".join(expected) + (" or none" if type(None) in kinds else ""))


def number(text, kind):
    """Read a whole number (also 0x…, 1_000) or a number."""
    try:
        return int(text, 0) if kind is int else float(text)
    except ValueError:
        raise Wrong(WORDS[kind]) from None


def unescape(text):
    r"""Read bytes: the text's UTF-8, with escapes undone.

    >>> unescape(r"GET\x20/\r\n")
    b'GET /\r\n'
    """
    def undo(found):
        word = found[1]
        if word.startswith("x") and len(word) == 3:
            return bytes([int(word[1:], 16)])
        if word not in ESCAPES:
            raise Wrong(WORDS[bytes])
        return ESCAPES[word]

    pieces = re.split(r"(\\(?:x[0-9a-fA-F]{2}|.?))", text, flags=re.S)
    return b"".join(undo((piece, piece[1:])) if place % 2 else piece.encode() for place, piece in enumerate(pieces))


def type_name(kind):
    """Spell a type for people: `list[str]`, `int or none`."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("none" if part is type(None) else type_name(part) for part in parts)
    if origin is typing.Literal:
        return "|".join(map(str, parts))
    if origin is not None:
        return f"{origin.__name__}[{', '.join(map(type_name, parts))}]"
    return "path" if kind is Path else getattr(kind, "__name__", str(kind))


def spell(value):
    """Spell a value as a command line would give it.

    >>> spell(b"a\\r\\n"), spell(True), spell([80, 443]), spell(None)
    ('a\\\\r\\\\n', 'yes', '80;443', 'none')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, bytes):
        return repr(value)[2:-1]
    if isinstance(value, (list, tuple, set, frozenset)):
        return ";".join(spell(part) for part in value)
    return "none" if value is None else str(value)


def split(text, mark):
    """Split a text at a character; in quotes, or behind a backslash, it separates nothing.

    Quotes go, a backslash before the mark or a quote goes, other escapes stay.  UsageError: a
    quote without its end.  An empty text has no parts.

    >>> split('a="1,2",b=3', ","), split(r"a\\,b", ","), split("", ",")
    (['a=1,2', 'b=3'], ['a,b'], [])
    """
    parts, part, quote, at = [], [], "", 0
    while at < len(text):
        char = text[at]
        if char == "\\" and at + 1 < len(text) and text[at + 1] in mark + QUOTES:
            at += 1
            part.append(text[at])
        elif quote:
            if char == quote:
                quote = ""
            else:
                part.append(char)
        elif char in QUOTES:
            quote = char
        elif char == mark:
            parts.append("".join(part))
            part = []
        else:
            part.append(char)
        at += 1
    if quote:
        raise UsageError(f"{text}: a {quote} without its end")
    return [*parts, "".join(part)] if text else []


def pairs(text):
    """Read `k=v,k=v` into {k: v}; UsageError: a part without its sign, a name twice.

    >>> pairs('pattern=<script,flags="a,b"')
    {'pattern': '<script', 'flags': 'a,b'}
    """
    found = {}
    for part in split(text, ","):
        name, sign, value = part.partition("=")
        name = name.strip()
        if not sign or not name.isidentifier():
            raise UsageError(f"{part!r} in {text!r}: expected NAME=VALUE; quote values that hold commas")
        if name in found:
            raise UsageError(f"{text}: {name} is given twice")
        found[name] = value
    return found
