"""What `flowos new` writes: (module, test) of an editing module, a reading one, and a decoder.

`@name@` and `@class@` stand for the file's and the class's name.
"""

EDITOR = ('''\
"""@class@: replace a text in HTTP bodies.  Change this line, then `process`."""
from flowos import RDWR, Module


class @class@(Module):
    """Replace every `old` in HTTP bodies by `new`."""

    name = "@name@"
    protocol = "http.body"     # what process is lent: "http.body", "http", "tcp", "udp", "ip", ...
    mode = RDWR                # it edits; RDONLY for a module that only reads
    resizes = True             # its edits may change the length of a message

    def __init__(self, old: bytes = b"hello", new: bytes = b"goodbye"):
        self.old, self.new = old, new      # parameters: flowos run ... --attach @name@.py:old=x,new=y

    def process(self, window):
        for match in window.find(self.old):
            window.replace(match, self.new)
        # What may be the beginning of a match stays here until more has come; all else goes on.
        window.release(keep=window.partial(self.old))
''', '''\
"""@class@ replaces texts, wherever TCP cuts the stream."""
from @name@ import @class@
from flowos.testing import run

REQUEST = b"GET / HTTP/1.1\\r\\nHost: h.example\\r\\n\\r\\n"
RESPONSE = b"HTTP/1.1 200 OK\\r\\nContent-Length: 12\\r\\n\\r\\nhello world!"


def test_the_text_is_replaced_at_every_cut():
    # `run` plays the conversation whole, cut at every byte, and out of order: all must agree.
    done = run(@class@, a=REQUEST, b=RESPONSE, reorder=1)
    assert done.a == REQUEST
    assert done.b == b"HTTP/1.1 200 OK\\r\\nContent-Length: 14\\r\\n\\r\\ngoodbye world!"


def test_parameters():
    done = run(@class@, a=REQUEST, b=RESPONSE, cuts="none", old=b"world", new=b"earth")
    assert done.b.endswith(b"hello earth!")
''')

READER = ('''\
"""@class@: count the lines of each connection.  Change this line, then `process`."""
from flowos import Module
from flowos.emit import ends


class @class@(Module):
    """Emit a record per connection: how often `mark` ended a line, in each direction."""

    name = "@name@"
    protocol = "tcp"           # what process is lent: "tcp", "udp", "http", "dns", "ip", ...

    def __init__(self, mark: bytes = b"\\n"):
        self.mark = mark                   # parameters: flowos run ... --attach @name@.py:mark=x
        self.counts = {}                   # connection -> [a to b, b to a]

    def process(self, window):
        counts = self.counts.setdefault(window.connection.id, [0, 0])
        counts[window.direction] += bytes(window.data).count(self.mark)

    def closed(self, connection, reason):
        a, b = self.counts.pop(connection.id, (0, 0))
        self.emit({**ends(connection), "a_to_b": a, "b_to_a": b})
''', '''\
"""@class@ counts lines, wherever TCP cuts the stream."""
from @name@ import @class@
from flowos.testing import run


def test_lines_are_counted_at_every_cut():
    # `run` plays the conversation whole, cut at every byte, and out of order: all must agree.
    done = run(@class@, a=b"one\\ntwo\\n", b=b"three\\n", reorder=1)
    record, = done.records
    assert (record["a_to_b"], record["b_to_a"]) == (2, 1)
''')

DECODER = ('''\
"""@class@Decoder: lines that begin with @name@'s greeting.  Change this, `probe` and `feed`."""
from flowos import register_decoder
from flowos.decoder import Decoder, Unit

GREETING = b"HELLO "
LONGEST = 4096                 # bytes of a line: what a decoder keeps is bounded


@register_decoder
class @class@Decoder(Decoder):
    """Decode lines: units `line`, with the text as info; `other` for what is none."""

    name = "@name@"
    over = ("tcp",)

    def __init__(self):
        super().__init__()
        self.held = (bytearray(), bytearray())     # a line that is not whole yet, of each direction

    @staticmethod
    def probe(data, direction, port):
        seen = bytes(data[:len(GREETING)])
        if len(seen) < len(GREETING) and GREETING.startswith(seen):
            return None                            # more is needed to tell
        return seen == GREETING

    def feed(self, direction, data, offset, ts):
        held = self.held[direction]
        at, units = offset - len(held), []
        held += data
        while (end := held.find(b"\\n") + 1):
            line = bytes(held[:end])
            units.append(Unit(at, at + end, "line", line.decode("utf-8", "replace").rstrip(), line))
            del held[:end]
            at += end
        if len(held) > LONGEST:
            self.count("line_too_long")
            units += self.finish(direction, at + len(held), ts)
        return units

    def gap(self, direction, offset, length, ts):
        return [*self.finish(direction, offset, ts), Unit(offset, offset + length, "gap")]

    def finish(self, direction, offset, ts):
        held = bytes(self.held[direction])
        self.held[direction].clear()
        return [Unit(offset - len(held), offset, "other", None, held)] if held else []
''', '''\
"""@class@Decoder gives the same units, wherever TCP cuts the stream."""
from @name@ import @class@Decoder
from flowos import Module
from flowos.testing import run


class Lines(Module):
    """Emit each line, so that outcomes can be compared."""

    protocol = "@name@"

    def process(self, window):
        for unit in window.units:
            if unit.kind == "line":
                self.emit({"direction": window.direction, "line": unit.info})


def test_lines_come_whole_at_every_cut():
    # `run` plays the conversation whole, cut at every byte, and out of order: all must agree.
    done = run(Lines, a=b"HELLO world\\nbye\\n", b=b"HELLO to you\\n", reorder=1)
    assert sorted((record["direction"], record["line"]) for record in done.records) == [
        (0, "HELLO world"), (0, "bye"), (1, "HELLO to you")]


def test_other_protocols_are_left_alone():
    assert @class@Decoder.probe(b"GET / HTTP/1.1", 0, 80) is False
    assert @class@Decoder.probe(b"HEL", 0, 80) is None
''')
