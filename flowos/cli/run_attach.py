"""What `flowos run --attach` takes: MODULE[:k=v,…][@FLOW][#ORDER], read and made into modules."""
import re
from dataclasses import dataclass

from flowos.parameters import make, pairs
from flowos.registry import find_module

from . import UsageFault

EVERYTHING = ("", "any")
FILE = re.compile(r"(.*?\.py(?::[A-Za-z_]\w*(?=[:@#]|$))?)(.*)", re.S)
NAME = re.compile(r"([^:@#]*)(.*)", re.S)


@dataclass(frozen=True)
class Wanted:
    """One --attach: the module's spec, its parameters as texts, a flow's name or None, an order or None."""

    spec: str
    values: dict
    flow: str | None
    order: int | None

    def make(self):
        """Make the module; UsageError names what is wrong with its name or parameters."""
        return make(find_module(self.spec), self.values)


def unquoted(text, marks):
    """Give the place of the last of some characters outside quotes, or -1.

    >>> unquoted("x:p='a@b'@web", "@"), unquoted("x:p=a#1", "@")
    (9, -1)
    """
    quote, found, escaped = "", -1, False
    for at, char in enumerate(text):
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in marks:
            found = at
    return found


def wanted(text):
    """Read one --attach.

    A `@` or `#` in a value stands in quotes or behind a backslash.

    >>> wanted("replace:pattern=a,replacement=b@web#2")
    Wanted(spec='replace', values={'pattern': 'a', 'replacement': 'b'}, flow='web', order=2)
    >>> wanted("my/mods.py:Strip:n=1")
    Wanted(spec='my/mods.py:Strip', values={'n': '1'}, flow=None, order=None)
    """
    rest, order, flow = text, None, None
    at = unquoted(rest, "#")
    if at >= 0 and at > unquoted(rest, "@,="):
        rest, number = rest[:at], rest[at + 1:]
        if not number.isdecimal():
            raise UsageFault(f"run: --attach {text}: order {number!r}, expected a number behind #")
        order = int(number)
    at = unquoted(rest, "@")
    if at >= 0:
        rest, flow = rest[:at], rest[at + 1:]
    spec, values = (FILE.fullmatch(rest) or NAME.fullmatch(rest)).groups()
    if not spec or values and not values.startswith(":"):
        raise UsageFault(f"run: --attach {text}: expected MODULE[:k=v,…][@FLOW][#ORDER], as in byte_count@web#1")
    return Wanted(spec, pairs(values[1:]), None if flow in (None, *EVERYTHING) else flow, order)
