"""Set, add or remove header fields of HTTP requests or responses.

    flowos run x.pcap -w y.pcap --attach 'http_header:set=Server: none,remove=X-Powered-By,on=response'

Fields that frame the message (Content-Length, Transfer-Encoding, …) are not edited: then the two
ends would not agree on where it ends.
"""
from typing import Literal

from flowos import RDWR, Module, UsageError
from flowos.headers import field_lines, is_name, is_value

#: RFC 9112 section 6, RFC 9110 sections 7.6.1 and 7.8: what says where messages and the protocol end.
FRAMING = frozenset((b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"trailer", b"te"))


class HttpHeader(Module):
    """Edit header fields of each request or response (`on`); attach it twice for both.

    `set` puts a value in the place of all of the field's lines, or adds the field; `add` adds a line beside
    those there; `remove` removes all lines of a name.  `host` edits only requests to this host.

    >>> from flowos.testing import run
    >>> run(HttpHeader, a=b"GET / HTTP/1.1\\r\\nHost: h\\r\\nCookie: c\\r\\n\\r\\n", set=["Via: me"], remove=["Cookie"]).a
    b'GET / HTTP/1.1\\r\\nHost: h\\r\\nVia: me\\r\\n\\r\\n'
    """

    name, protocol = "http_header", "http.request"
    mode = RDWR

    def __init__(self, set: list[bytes] = (), add: list[bytes] = (), remove: list[bytes] = (),
                 on: Literal["request", "response"] = "request", host: bytes = b""):
        if on not in ("request", "response"):
            raise UsageError(f"http_header: on is {on!r}, expected request or response")
        if host and on == "response":
            raise UsageError("http_header: host selects requests; responses do not name one")
        self.protocol, self.host = f"http.{on}", as_bytes(host).lower()
        self.set = [field(text) for text in set]
        self.add = [field(text) for text in add]
        self.removed = {name for name, _ in self.set} | {checked(as_bytes(name)) for name in remove}
        if not (self.set or self.add or self.removed):
            raise UsageError("http_header: nothing to do: expected set, add or remove")

    def process(self, window):
        if not window.writable:            # tunnelled: it passes as it is
            return
        lines, blank = field_lines(window.data)
        if self.host and not any(line.name == b"host" and line.value.lower() == self.host for line in lines):
            return
        waiting = dict(self.set)
        for line in lines:
            if line.name not in self.removed:
                continue
            text = waiting.pop(line.name, None)          # the first line of a name takes the new value
            span = (window.head + line.start, window.head + line.end)
            if text is None:
                window.delete(span)
            elif bytes(window.data[line.start:line.end]) != text:
                window.replace(*span, text)
        more = b"".join([*waiting.values(), *(text for _, text in self.add)])
        if more:
            window.insert(window.head + blank, more)


def as_bytes(text):
    """Take bytes, or text as UTF-8."""
    return text.encode() if isinstance(text, str) else bytes(text)


def checked(name):
    """Give a field's name in lower case; UsageError: it is none, or frames messages."""
    name = name.strip().lower()
    if not is_name(name):
        raise UsageError(f"http_header: {name.decode('latin-1')!r} is no field name")
    if name in FRAMING:
        raise UsageError(f"http_header: {name.decode()} frames the message, so it is not edited")
    return name


def field(text):
    """Read `Name: value`; give (name in lower case, the line)."""
    name, colon, value = as_bytes(text).partition(b":")
    if not colon or not is_value(value.strip()):
        raise UsageError(f"http_header: {text!r}, expected Name: value on one line")
    return checked(name), name.strip() + b": " + value.strip() + b"\r\n"
