"""The field lines of an HTTP/1 head: where each lies, so that it can be edited in place (RFC 9112 section 5)."""
import re
from typing import NamedTuple

LINE = re.compile(rb"[^\n]*(?:\n[ \t][^\n]*)*\n")     # a line, with those that are folded under it
TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class FieldLine(NamedTuple):
    """One field line: bytes [start, end) of the head, line end included; name in lower case, value without space."""

    start: int
    end: int
    name: bytes
    value: bytes


def field_lines(head):
    """Give (the field lines of a head, the offset of the blank line that ends it).

    Lines without a colon are no fields and are left out.

    >>> lines, blank = field_lines(b"GET / HTTP/1.1\\r\\nHost: h\\r\\nX: a\\r\\n b\\r\\n\\r\\n")
    >>> [(line.start, line.name, line.value) for line in lines], blank
    ([(16, b'host', b'h'), (25, b'x', b'a b')], 35)
    """
    head = bytes(head)
    at, found = head.find(b"\n") + 1, []
    while at and (line := LINE.match(head, at)) and line[0] not in (b"\r\n", b"\n"):
        name, colon, value = line[0].partition(b":")
        if colon:
            found.append(FieldLine(at, line.end(), name.strip().lower(), b" ".join(value.split())))
        at = line.end()
    return found, at


def is_name(name):
    """Say whether bytes are a field's name (RFC 9110 section 5.1)."""
    return TOKEN.fullmatch(name) is not None


def is_value(value):
    """Say whether bytes may be a field's value: no line ends, no NUL (RFC 9110 section 5.5)."""
    return not re.search(rb"[\r\n\0]", value) and value == value.strip()
