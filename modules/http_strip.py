"""Strip a byte pattern from HTTP bodies: the example of the FlowOS report, and the library's mission in a file.

    flowos run x.pcap -w y.pcap --flow web=tcp,tp_dst=80 --attach http_strip:pattern=SECRET@web

Bodies are searched as they are transferred: what a content coding hides is not found.  With
`identity=yes` servers are asked for bodies without coding, by an Accept-Encoding of `identity` in
each request (RFC 9110 section 12.5.3).  On a live path that is what makes stripping work; the
responses of a capture were chosen before.
"""
from flowos import RDWR, Module, UsageError
from flowos.headers import field_lines

FIELD, IDENTITY = b"accept-encoding", b"identity"
LINE = b"Accept-Encoding: identity\r\n"


class HttpStrip(Module):
    """Remove every occurrence of a byte pattern from HTTP bodies; the messages' lengths are put right.

    >>> from flowos.testing import run
    >>> answer = b"HTTP/1.1 200 OK\\r\\nContent-Length: 14\\r\\n\\r\\nno SECRETs now"
    >>> run(HttpStrip, a=b"GET / HTTP/1.1\\r\\nHost: h\\r\\n\\r\\n", b=answer, cuts=[40], pattern=b"SECRET").b
    b'HTTP/1.1 200 OK\\r\\nContent-Length: 8\\r\\n\\r\\nno s now'
    """

    name = "http_strip"
    protocol = "http.body"
    mode = RDWR
    resizes = True

    def __init__(self, pattern: bytes = b"<script", identity: bool = False):
        if not pattern:
            raise UsageError("http_strip: pattern is empty, expected at least one byte")
        self.pattern, self.identity = pattern, identity

    def companions(self):
        """Give the modules that go before this one on the same flow: they edit heads, this one bodies.

        `flowos run` attaches them; with an engine of your own do so: `engine.attach(companion, flow)` for each.
        """
        return [AskIdentity()] if self.identity else []

    def process(self, window):
        if not window.writable:                                # tunnelled: it passes as it is
            return
        for match in window.find(self.pattern):
            window.delete(match)
        window.release(keep=window.partial(self.pattern))      # only a suffix that may still become a match


class AskIdentity(Module):
    """Ask servers for bodies without content coding: Accept-Encoding becomes `identity` in every request."""

    name = "http_strip.identity"
    protocol = "http.request"
    mode = RDWR

    def process(self, window):
        if not window.writable:
            return
        lines, blank = field_lines(window.data)
        asked = [line for line in lines if line.name == FIELD]
        for line in asked[1:]:
            window.delete(window.head + line.start, window.head + line.end)
        if not asked:                      # without the field any coding is acceptable
            window.insert(window.head + blank, LINE)
        elif asked[0].value != IDENTITY:
            window.replace(window.head + asked[0].start, window.head + asked[0].end, LINE)
