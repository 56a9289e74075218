"""HTTP/2 over a stream: frames, and the header blocks in them (RFC 9113, RFC 7541).

Each direction is a sequence of frames, nine bytes of header and a payload; the client begins with a
preface, or with an HTTP/1.1 request that asks for the upgrade ("h2c", RFC 7540 section 3.2).  A frame is
one unit; a header block is one with all the frames it came in:

    FIRST ---- preface ----------------> FRAMES --- length, type, flags, stream, payload ---> FRAMES
      |------- an HTTP/1.1 head, body --> as FIRST, without a second head
      '------- a frame: a server's -----> FRAMES
    SEARCH: until a piece begins with frames           TAIL: the rest of a DATA frame behind a gap

Header blocks depend on all that came before, so that after a loss outside DATA they stay closed.
Damage never raises; it is counted.  Without the package `hpack` (extra `http2`) frames are told,
headers are not.
"""
import base64
import binascii
import re
from dataclasses import dataclass, field, fields

from flowos.decoder import Decoder, Unit

try:
    from hpack import Decoder as HpackDecoder
    from hpack.exceptions import HPACKError
except ImportError:             # what can be told without headers is told
    HpackDecoder, HPACKError = None, ValueError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER = 9
FRAME_SIZE = 16384              # bytes of a frame that need no agreement: RFC 9113 section 4.2
FRAME_LIMIT = 1 << 20           # bytes of a frame that is held; a longer one passes as other
HEADERS_LIMIT = 1 << 18         # bytes of a header block, packed or not, and of the table that unpacks it
HEADERS_FRAMES = 64             # frames that it may come in
HEAD_LIMIT = 1 << 16            # bytes of an HTTP/1.1 head before the upgrade
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
KINDS = ("data", "headers", "priority", "rst_stream", "settings", "push_promise", "ping", "goaway", "window_update")
END_STREAM, END_HEADERS, PADDED, HAS_PRIORITY = 0x01, 0x04, 0x08, 0x20
ACK = 0x01
# Which flags a type may have, and whether it belongs to a stream (True), to none (False), to either (None).
SHAPES = {DATA: (0x09, True), HEADERS: (0x2d, True), PRIORITY: (0, True), RST_STREAM: (0, True), SETTINGS: (ACK, False),
          PUSH_PROMISE: (0x0c, True), PING: (ACK, False), GOAWAY: (0, False), WINDOW_UPDATE: (0, None),
          CONTINUATION: (END_HEADERS, True)}
SIZES = {PRIORITY: 5, RST_STREAM: 4, PING: 8, WINDOW_UPDATE: 4}
SETTING_NAMES = {1: "header_table_size", 2: "enable_push", 3: "max_concurrent_streams", 4: "initial_window_size",
                 5: "max_frame_size", 6: "max_header_list_size", 8: "enable_connect_protocol",
                 9: "no_rfc7540_priorities"}

REASONS = {
    "not_http2": "bytes where a frame, the preface or an upgrade should begin that are none of them",
    "not_upgraded": "servers that answered the request for an upgrade in HTTP/1: the rest is other",
    "resync": "frames found again after a gap or bytes that were not HTTP/2",
    "bad_frame": "frames whose payload contradicts itself, told without what it says",
    "frame_too_large": "frames beyond the limit, passed on as other",
    "headers_too_large": "header blocks beyond the limits, told without headers; later ones stay closed",
    "broken_headers": "header blocks that another frame interrupts; later ones stay closed",
    "bad_headers": "header blocks that cannot be unpacked; later ones stay closed",
    "closed_headers": "header blocks that stay closed, since an earlier one was lost",
    "no_hpack": "header blocks that were not unpacked because the package hpack is missing",
    "head_too_large": "HTTP/1.1 heads before the upgrade that are too long",
}

# How an HTTP/1.1 request begins, or its beginning.
REQUEST = re.compile(rb"[A-Z]{3,20} [^ \r\n]+ HTTP/1\.1\r\n|[A-Z]{1,20}(?: [^ \r\n]*(?: [HTP/1.]{0,8}\r?)?)?\Z")


class Damaged(Exception):
    """A frame's payload contradicts itself; never leaves this file."""


@dataclass(slots=True, repr=False)
class Http2Frame:
    """What a frame says.  Fields that its type does not have keep their defaults.

    `type` is the number of RFC 9113 section 6.  `headers` are pairs of bytes in order, pseudo-fields
    first as sent; None where the block stayed closed.  `settings` is {name or number: value}; `error`
    a code; `promised`, `last` and `depends_on` are streams.  `incomplete`: bytes are missing.
    """

    type: int
    stream: int = 0
    flags: int = 0
    end_stream: bool = False
    ack: bool = False
    headers: list | None = None
    settings: dict = field(default_factory=dict)
    error: int | None = None
    last: int | None = None
    promised: int | None = None
    increment: int | None = None
    depends_on: int | None = None
    exclusive: bool = False
    weight: int | None = None
    incomplete: bool = False

    def __repr__(self):
        values = ((f.name, getattr(self, f.name)) for f in fields(self)[1:])
        told = (f"{name}={value!r}" for name, value in values if value not in (None, 0, {}))
        return f"<Http2Frame {KINDS[self.type] if self.type < len(KINDS) else self.type} {', '.join(told)}>"

    def get(self, name):
        """Give the first value of a header field as bytes, or None; names of HTTP/2 are in lower case."""
        wanted = name.encode() if isinstance(name, str) else name
        return next((value for key, value in self.headers or () if key == wanted), None)

    @property
    def method(self):
        """The request's method as text, or None."""
        return text(self.get(":method"))

    @property
    def path(self):
        """The request's path as text, or None."""
        return text(self.get(":path"))

    @property
    def authority(self):
        """The request's host as text, or None."""
        return text(self.get(":authority"))

    @property
    def status(self):
        """The response's status, or None."""
        value = self.get(":status") or b""
        return int(value) if value.isdigit() and len(value) == 3 else None


def text(value):
    """Decode a field's value byte by byte, as Latin-1; None stays None."""
    return None if value is None else value.decode("latin-1")


def begins_frames(data):
    """Say whether bytes begin with what can only be a frame, and with another behind it as far as can be seen."""
    at = 0
    while at + HEADER <= len(data):
        size, kind, flags = int.from_bytes(data[at:at + 3], "big"), data[at + 3], data[at + 4]
        stream = int.from_bytes(data[at + 5:at + 9], "big")
        allowed, of_stream = SHAPES.get(kind, (0, None))
        if kind not in SHAPES or flags & ~allowed or stream >> 31:
            return False
        if size > FRAME_SIZE or SIZES.get(kind, size) != size:
            return False
        if of_stream is not None and of_stream != bool(stream) or kind == SETTINGS and size % 6:
            return False
        at += HEADER + size
    return at > 0


def unpadded(payload, flags):
    """Take the padding off a payload (RFC 9113 section 6.1)."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise Damaged
    return payload[1:len(payload) - payload[0]]


def read_settings(payload):
    """Read a SETTINGS payload: {name or number: value}."""
    if len(payload) % 6:
        raise Damaged
    pairs = [(int.from_bytes(payload[at:at + 2], "big"), int.from_bytes(payload[at + 2:at + 6], "big"))
             for at in range(0, len(payload), 6)]
    return {SETTING_NAMES.get(number, number): value for number, value in pairs}


def read_payload(frame, payload):
    """Fill in what a frame's payload says; gives its content: data, a block of headers, or the payload itself."""
    kind = frame.type
    if kind in SIZES and len(payload) != SIZES[kind]:
        raise Damaged
    if kind in (DATA, HEADERS, PUSH_PROMISE):
        payload = unpadded(payload, frame.flags)
    if kind == PRIORITY or kind == HEADERS and frame.flags & HAS_PRIORITY:
        if len(payload) < 5:
            raise Damaged
        word = int.from_bytes(payload[:4], "big")
        frame.depends_on, frame.exclusive, frame.weight = word & 0x7fffffff, bool(word >> 31), payload[4] + 1
        payload = payload[5:] if kind == HEADERS else payload
    elif kind == RST_STREAM:
        frame.error = int.from_bytes(payload, "big")
    elif kind == SETTINGS:
        frame.settings = read_settings(payload)
    elif kind == PUSH_PROMISE:
        if len(payload) < 4:
            raise Damaged
        frame.promised = int.from_bytes(payload[:4], "big") & 0x7fffffff
        payload = payload[4:]
    elif kind == GOAWAY:
        if len(payload) < 8:
            raise Damaged
        frame.last, frame.error = int.from_bytes(payload[:4], "big") & 0x7fffffff, int.from_bytes(payload[4:8], "big")
    elif kind == WINDOW_UPDATE:
        frame.increment = int.from_bytes(payload, "big") & 0x7fffffff
    return payload


def read_head(head):
    """Read an HTTP/1.1 head: (first line, {lower-case name: value}) as bytes."""
    first, *lines = head.split(b"\r\n")
    pairs = [line.partition(b":") for line in lines]
    return first, {name.strip().lower(): value.strip() for name, colon, value in pairs if colon}


class Side:
    """One direction's state."""

    def __init__(self):
        self.held = bytearray()         # a frame, a preface or a head that is not whole
        self.state = "first"            # first, body and begin (behind a head), frames, search, pass, tail, skip
        self.left = 0                   # bytes of a body, a tail or what is skipped still to come
        self.tail = None                # the Http2Frame of the tail
        self.block = None               # (Http2Frame, start, bytearray, frames) of headers to be continued
        self.hpack = None               # unpacks this direction's headers; False: its state is lost
        self.largest = None             # bytes of a frame that the other side allows; None: not known


class Http2Decoder(Decoder):
    """Decode both directions of one HTTP/2 connection.

    Units, with an Http2Frame as info: `headers` and `push_promise`, all frames of a block in one, the
    packed block as data; `data`, the payload without padding; `priority`, `rst_stream`, `settings`,
    `ping`, `goaway`, `window_update`, and `frame` for other types or damaged ones, the payload as data.
    Without: `preface`; `upgrade`, HTTP/1.1 before HTTP/2; `other`; `gap`.
    """

    name = "http2"
    over = ("tcp",)

    def __init__(self):
        super().__init__()
        self.sides = (Side(), Side())

    @staticmethod
    def probe(data, direction, port):
        """Say whether a stream begins with the preface, a server's settings, or a request for an upgrade.

        >>> Http2Decoder.probe(b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n", 0, 80), Http2Decoder.probe(b"PRI", 0, 80)
        (True, None)
        >>> Http2Decoder.probe(b"GET / HTTP/1.1\\r\\nHost: a.example\\r\\n\\r\\n", 0, 80)
        False
        """
        data = bytes(data)
        if PREFACE.startswith(data[:24]):
            return len(data) >= 24 or None
        if data[:1] == b"\x00":
            if len(data) < HEADER:
                return None
            return data[3:HEADER] == bytes([SETTINGS, 0, 0, 0, 0, 0]) and begins_frames(data)
        head, blank, _ = data.partition(b"\r\n\r\n")
        if not REQUEST.match(head):
            return False
        _, fields = read_head(head)
        if b"h2c" in fields.get(b"upgrade", b"").lower() and b"http2-settings" in fields:
            return True
        return None if not blank and len(data) < 2048 else False

    # -- the three calls of the core

    def feed(self, direction, data, offset, ts):
        """Take a piece; give the units that it completes."""
        side, data = self.sides[direction], bytes(data)
        if side.state == "search" and data and begins_frames(data):
            side.state = "frames"
            self.count("resync")
        if side.state in ("search", "pass"):
            side.held += data
            return self.cut(direction, offset + len(data))
        start = offset - len(side.held)
        side.held += data
        units, at = [], 0
        while at < len(side.held):
            size, made = self.step(direction, side, start + at, at)
            if not size:
                break
            at += size
            units += made
        del side.held[:at]
        return units

    def gap(self, direction, offset, length, ts):
        """Give up what is in hand; a gap inside a DATA frame costs that frame alone."""
        side = self.sides[direction]
        held, units = side.held, []
        if side.state == "tail" and length <= side.left - len(held):
            units = self.tail_unit(side, offset)
            side.left -= length
        elif side.state == "skip" and length <= side.left:
            side.left -= length
        elif side.state == "frames" and len(held) >= HEADER and held[3] == DATA and side.block is None and (
                length <= HEADER + int.from_bytes(held[:3], "big") - len(held)):
            frame = self.frame(held)
            frame.incomplete = True
            side.tail, side.left = frame, HEADER + int.from_bytes(held[:3], "big") - len(held) - length
            units = [Unit(offset - len(held), offset, "data", frame, bytes(held[HEADER + bool(frame.flags & PADDED):]))]
            side.state = "tail"
            held.clear()
        else:
            units = self.cut(direction, offset)
            side.state, side.hpack, side.left = "pass" if side.state == "pass" else "search", False, 0
        if side.state in ("tail", "skip") and not side.left:
            side.state = "frames"
        return [*units, Unit(offset, offset + length, "gap")]

    def finish(self, direction, offset, ts):
        """Give what is held of a frame that never came whole."""
        side = self.sides[direction]
        return self.tail_unit(side, offset) if side.state == "tail" else self.cut(direction, offset)

    def cut(self, direction, offset):
        """Give what is held, a begun block of headers included, as other."""
        side = self.sides[direction]
        start, held = offset - len(side.held), bytes(side.held)
        side.held.clear()
        return self.dropped(side, start) + ([Unit(start, offset, "other", None, held)] if held else [])

    @staticmethod
    def dropped(side, end):
        """Drop a begun block of headers: what stands for the frames that it came in."""
        block, side.block = side.block, None
        return [Unit(block[1], end, "other")] if block is not None else []

    def tail_unit(self, side, offset):
        """Give what is held of a DATA frame's rest, as a list of units."""
        held = bytes(side.held)
        side.held.clear()
        side.left -= len(held)
        return [Unit(offset - len(held), offset, "data", side.tail, held)] if held else []

    # -- one step: what begins at held[at], whose offset is `start`

    def step(self, direction, side, start, at):
        """Take the next thing that is whole: (bytes taken, units); no bytes: more is needed."""
        data = side.held
        if side.state in ("first", "begin"):
            begin = bytes(data[at:at + len(PREFACE)])
            if begin[0] == 0:
                side.state = "frames"
            elif PREFACE.startswith(begin):
                if len(begin) < len(PREFACE):
                    return 0, []
                side.state = "frames"
                return len(PREFACE), [Unit(start, start + len(PREFACE), "preface", None, PREFACE)]
            elif side.state == "first":
                return self.head(side, start, at)
            else:
                return self.lose(side, start, at, "not_http2")
        if side.state in ("tail", "body"):
            size = side.left
            if len(data) - at < size:
                return 0, []
            unit = Unit(start, start + size, "upgrade", None, bytes(data[at:at + size]))
            if side.state == "tail":
                unit.kind, unit.info = "data", side.tail
            side.state, side.left = "begin" if side.state == "body" else "frames", 0
            return size, [unit]
        if side.state == "skip":
            size = min(side.left, len(data) - at)
            side.left -= size
            side.state = "skip" if side.left else "frames"
            return size, [Unit(start, start + size, "other", None, bytes(data[at:at + size]))]
        return self.next_frame(direction, side, start, at)

    def next_frame(self, direction, side, start, at):
        """Take the next frame, as `step` does."""
        data = side.held
        if len(data) < at + HEADER:
            return 0, []
        size = int.from_bytes(data[at:at + 3], "big")
        if side.largest is not None and size > side.largest:
            return self.lose(side, start, at, "not_http2")
        if size > FRAME_LIMIT:
            self.count("frame_too_large")
            if data[at + 3] != DATA or side.block is not None:
                side.hpack = False
            units = self.dropped(side, start)
            side.state, side.left = "skip", HEADER + size
            taken, more = self.step(direction, side, start, at)
            return taken, units + more
        end = at + HEADER + size
        return (end - at, self.whole(direction, side, bytes(data[at:end]), start)) if len(data) >= end else (0, [])

    def lose(self, side, start, at, reason):
        """Pass what is there as other, and look for frames from the next piece on."""
        self.count(reason)
        side.state, side.hpack = "search", False
        data = bytes(side.held[at:])
        return len(data), [*self.dropped(side, start), Unit(start, start + len(data), "other", None, data)]

    def head(self, side, start, at):
        """Take an HTTP/1.1 head, which comes before HTTP/2; the body that it announces is next."""
        end = side.held.find(b"\r\n\r\n", side.left)
        if end < 0 and len(side.held) <= HEAD_LIMIT:
            side.left = max(0, len(side.held) - 3)      # searched so far
            return 0, []
        side.left = 0
        if not 0 <= end <= HEAD_LIMIT:
            return self.lose(side, start, at, "head_too_large")
        head = bytes(side.held[:end + 4])
        first, fields = read_head(head[:-4])
        if first.startswith(b"HTTP/") and b" 101" not in first:
            self.count("not_upgraded")
            for one in self.sides:
                one.state = "pass"
            return len(side.held), [Unit(start, start + len(side.held), "other", None, bytes(side.held))]
        side.state = "begin"
        if not first.startswith(b"HTTP/"):
            if b"http2-settings" not in fields:
                return self.lose(side, start, at, "not_http2")
            length = fields.get(b"content-length", b"")
            if length.isdigit() and len(length) < 9 and 0 < int(length) <= FRAME_LIMIT:
                side.state, side.left = "body", int(length)
            self.upgrade(side, fields[b"http2-settings"])
        return len(head), [Unit(start, start + len(head), "upgrade", None, head)]

    def upgrade(self, side, settings):
        """Take the settings that a request for an upgrade brings (RFC 7540 section 3.2.1)."""
        try:
            settings = read_settings(base64.urlsafe_b64decode(settings + b"=" * (-len(settings) % 4)))
        except (Damaged, binascii.Error):
            self.count("bad_frame")
        else:
            self.settings(side, settings)

    def settings(self, side, settings):
        """Note what one side's settings allow the other."""
        other = self.sides[1 - self.sides.index(side)]
        other.largest = max(FRAME_SIZE, settings.get("max_frame_size", 0), other.largest or 0)

    # -- frames

    @staticmethod
    def frame(data):
        """Read a frame's header."""
        frame = Http2Frame(data[3], int.from_bytes(data[5:9], "big") & 0x7fffffff, data[4])
        frame.end_stream = frame.type in (DATA, HEADERS) and bool(frame.flags & END_STREAM)
        frame.ack = frame.type in (SETTINGS, PING) and bool(frame.flags & ACK)
        return frame

    def whole(self, direction, side, data, start):
        """Make the unit of a whole frame, as a list; none when it is a part of a block of headers that goes on."""
        frame, end, units = self.frame(data), start + len(data), []
        if frame.type == CONTINUATION and side.block is not None and side.block[0].stream == frame.stream:
            return self.more(side, frame, data[HEADER:], end)
        if frame.type == CONTINUATION or side.block is not None:
            units = self.dropped(side, start)
            self.count("broken_headers")
            side.hpack = False
        kind = KINDS[frame.type] if frame.type < len(KINDS) else "frame"
        try:
            content = read_payload(frame, data[HEADER:])
        except Damaged:
            self.count("bad_frame")
            side.hpack = False if frame.type in (HEADERS, PUSH_PROMISE) else side.hpack
            return [*units, Unit(start, end, "frame", frame, data[HEADER:])]
        if frame.type == SETTINGS and not frame.ack:
            self.settings(side, frame.settings)
        elif frame.type in (HEADERS, PUSH_PROMISE):
            if not frame.flags & END_HEADERS:
                side.block = frame, start, bytearray(content), 1
                return units
            self.unpack(side, frame, content)
        return [*units, Unit(start, end, kind, frame, content)]

    def more(self, side, frame, payload, end):
        """Add a CONTINUATION to the block in hand; give its unit, as a list, when it is whole."""
        first, start, packed, frames = side.block
        if side.hpack is not False and (len(packed) + len(payload) > HEADERS_LIMIT or frames >= HEADERS_FRAMES):
            self.count("headers_too_large")
            side.hpack = False
        if side.hpack is not False:
            packed += payload
        side.block = first, start, packed, frames + 1
        if not frame.flags & END_HEADERS:
            return []
        side.block = None
        self.unpack(side, first, bytes(packed))
        return [Unit(start, end, KINDS[first.type], first, bytes(packed))]

    def unpack(self, side, frame, packed):
        """Unpack a block of headers, unless an earlier one was lost."""
        if HpackDecoder is None:
            self.count("no_hpack")
            return
        if side.hpack is None:
            side.hpack = HpackDecoder(max_header_list_size=HEADERS_LIMIT)
            side.hpack.max_allowed_table_size = HEADERS_LIMIT       # what the settings allow may not be seen
        if side.hpack is False:
            self.count("closed_headers")
            return
        try:
            frame.headers = [(bytes(name), bytes(value)) for name, value in side.hpack.decode(packed, raw=True)]
        except HPACKError:
            self.count("bad_headers")
            side.hpack = False
