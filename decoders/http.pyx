"""HTTP/1.0 and 1.1 over a byte stream: heads, bodies, chunk framing, trailers (RFC 9110, 9112).

One HttpDecoder serves both directions of a connection, because a response's framing depends
on its request.  Each direction walks this machine, fed with pieces cut anywhere:

            start line       blank line
    START ------------> HEAD -----------+-- no body -----------------------------> end
      |  not HTTP                       +-- BODY (Content-Length) ---------------> end
      v                                 +-- UNTIL_CLOSE ------------- finish ----> end
    SEARCH: only a piece that           '-- SIZE -> CHUNK -> CHUNK_END -> SIZE ...
      begins as a head can begin              '-- size 0 --> TRAILER ------------> end
    TUNNEL: for good, after CONNECT or 101    (end: back to START)

Every byte of the stream below is in exactly one unit.  Bytes are handed on where they lie; only
a head or trailer that is cut by a piece's end is held (64 KiB at most).  Nothing is decoded:
bodies keep their content coding.  Damage never raises; it is counted by reason.

http.h reads the text; here are the machine, its limits, what Python sees of a head, and HttpFraming,
which keeps messages valid while a module edits their bodies.
The file is longer than most because a decoder is one file.
"""
import collections

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcpy, memmove, memset
from posix.strings cimport strncasecmp

from flowos.core.decoder cimport Decoder
from flowos.core.framing cimport Framing
from flowos.core.unit cimport (FOS_UNIT_DECODER, FOS_UNIT_GAP, FOS_UNIT_INCOMPLETE, fos_sink,
                               fos_unit)


cdef extern from "http.h" nogil:
    enum:
        FOS_HTTP_HEAD
        FOS_HTTP_CONNECT
        FOS_HTTP_CORE
        FOS_HTTP_METHOD_COUNT

    ctypedef struct fos_http_name:
        const char *text

    const fos_http_name *fos_http_methods

    ctypedef struct fos_http_start:
        int value
        uint8_t response
        uint8_t is_1_1
        uint8_t odd

    ctypedef struct fos_http_framing:
        uint64_t length
        uint32_t fields
        uint32_t bad_fields
        uint8_t has_length
        uint8_t bad_length
        uint8_t conflict
        uint8_t has_coding
        uint8_t chunked

    ctypedef struct fos_http_chunk:
        uint64_t size
        uint32_t n
        uint8_t phase
        uint8_t odd

    enum fos_http_chunk_result:
        FOS_HTTP_MORE
        FOS_HTTP_DONE
        FOS_HTTP_BAD
        FOS_HTTP_LONG

    bint fos_http_is_token(uint8_t c) noexcept
    bint fos_http_may_start(const uint8_t *t, size_t n, bint strict) noexcept
    bint fos_http_status_line(fos_http_start *s, const uint8_t *t, size_t n, bint strict) noexcept
    bint fos_http_start_line(fos_http_start *s, const uint8_t *t, size_t n, bint strict) noexcept
    size_t fos_http_head_end(const uint8_t *t, size_t n) noexcept
    bint fos_http_ends_blank(const uint8_t *t, size_t n) noexcept
    void fos_http_fields(fos_http_framing *f, const uint8_t *t, size_t n) noexcept
    fos_http_chunk_result fos_http_chunk_line(fos_http_chunk *k, const uint8_t *p, size_t n,
                                              size_t *used) noexcept

cdef enum:
    K_REQUEST = FOS_UNIT_DECODER
    K_RESPONSE
    K_BODY
    K_FRAMING
    K_TRAILER
    K_END
    K_OTHER

REQUEST, RESPONSE, BODY, FRAMING, TRAILER, END, OTHER = range(K_REQUEST, K_OTHER + 1)
KINDS = {REQUEST: "request", RESPONSE: "response", BODY: "body", FRAMING: "framing",
         TRAILER: "trailer", END: "end", OTHER: "other", FOS_UNIT_GAP: "gap"}

# A request unit's value is the method's place here, 0 for a method of another name.
METHODS = tuple(fos_http_methods[_i].text.decode() for _i in range(FOS_HTTP_METHOD_COUNT))

cdef enum:
    HEAD_MAX = 65536     # bytes of a head, and of a trailer: what common servers allow at most
    FIELD_MAX = 256      # fields in a head
    PENDING_MAX = 1024   # unanswered HEAD and CONNECT requests that are remembered
    PROBE_BYTES = 2048    # what a probe looks at: a request line may be long
    DECIDE_BYTES = 64     # ... but without its end, so many bytes are enough to say
    M_UNKNOWN = -1       # the request was not seen yet


cdef enum:
    R_NOT_HTTP, R_RESYNC, R_HEAD_TOO_LARGE, R_TOO_MANY_FIELDS, R_BAD_FIELD, R_ODD_REQUEST_LINE
    R_BAD_LENGTH, R_CONFLICTING_LENGTHS, R_LENGTH_AND_CHUNKED, R_CHUNKED_IN_1_0, R_BAD_CODING
    R_BAD_CHUNK, R_ODD_CHUNK, R_CHUNK_LINE_TOO_LONG, R_TRAILER_TOO_LARGE
    R_GAP_IN_HEAD, R_GAP_IN_FRAMING, R_GAP_PAST_MESSAGE
    R_RESPONSE_FIRST, R_PENDING_OVERFLOW
    R_COUNT

REASONS = {
    "not_http": "bytes where a message should begin that no message begins with",
    "resync": "messages found again after bytes that were not HTTP, or a gap",
    "head_too_large": "heads of more than 64 KiB, passed on as other",
    "too_many_fields": "heads of more than 256 fields, passed on as other",
    "bad_field": "head lines without a colon, or with space before it (RFC 9112 section 5.1)",
    "odd_request_line": "request lines without a proper version, taken for their known method",
    "bad_length": "messages whose Content-Length is no number",
    "conflicting_lengths": "messages with Content-Lengths that differ; the last one was followed",
    "length_and_chunked": "messages with Content-Length and Transfer-Encoding; the latter ruled",
    "chunked_in_1_0": "HTTP/1.0 messages with a Transfer-Encoding, which was followed",
    "bad_coding": "requests whose Transfer-Encoding does not end in chunked",
    "bad_chunk": "chunked bodies given up because their framing is damaged",
    "odd_chunk": "chunk-size lines with space or a bare CR in front, taken all the same",
    "chunk_line_too_long": "chunked bodies given up over a size line of more than 4 KiB",
    "trailer_too_large": "trailers of more than 64 KiB, passed on as other",
    "gap_in_head": "heads cut by a gap",
    "gap_in_framing": "chunked bodies given up because a gap swallowed framing",
    "gap_past_message": "messages whose end lies inside a gap",
    "response_first": "responses framed before their request was seen",
    "pending_overflow": "HEAD and CONNECT requests forgotten because too many were unanswered",
}
cdef tuple REASON_NAMES = tuple(REASONS)
assert len(REASON_NAMES) == R_COUNT

cdef enum:
    S_START, S_HEAD, S_BODY, S_UNTIL_CLOSE, S_SIZE, S_CHUNK, S_CHUNK_END, S_TRAILER
    S_ENDING             # the message is over; `end` is due at the direction's next call
    S_SEARCH, S_TUNNEL
    S_NO_BODY, S_UNFRAMED    # outcomes of framing, not states a side rests in


cdef struct Side:             # one direction; written by its own calls, but for what `peer.` sets
    uint64_t off              # bytes of the http stream emitted
    uint64_t left             # body or chunk bytes still to come
    uint64_t body             # body bytes of this message so far
    uint64_t requests         # requests begun
    uint64_t answers          # final responses begun: response i answers the peer's request i
    uint64_t tunnel_at        # a tunnel begins after this many requests; 0: none
    uint64_t held_at          # offset below of held[0]
    uint8_t *held             # a start line, head or trailer that a piece's end cut
    uint32_t held_n
    uint32_t held_room
    uint32_t held_old         # bytes of `held` that came before the piece in hand
    uint32_t message          # messages begun
    uint32_t pending_n
    uint32_t pending_room
    uint64_t *pending         # unanswered requests: index * 2 + (1 for CONNECT, 0 for HEAD)
    fos_http_start start      # the start line of the message in hand
    fos_http_chunk chunk      # the chunk-size line in hand
    uint8_t state
    uint8_t strict            # only what can only be a head is taken for one
    uint8_t broken            # a gap lies in the message
    uint8_t unsure            # a response framed before its request was seen
    uint8_t tunnel_next       # this message's end begins the tunnel
    uint8_t behind_cr         # CHUNK_END: the CR came


cdef struct Piece:
    const uint8_t *data
    size_t n
    size_t at                 # data[:at] is done
    uint64_t offset           # of data[0] in the stream below
    int64_t ts
    fos_sink *sink


# ------------------------------------------------------------------ emitting and holding

cdef int put(Side *s, Piece *p, int kind, uint64_t start, uint64_t n, const uint8_t *data,
             int64_t value, int flags, uint32_t message) noexcept nogil:
    """Emit one unit of n bytes at `start` of the stream below; `data` may be NULL."""
    cdef fos_unit u
    u.off = s.off
    u.len = n
    u.ts = p.ts
    u.kind = kind
    u.flags = flags
    u.message = message
    u.start = start
    u.end = start + n
    u.bytes = data
    u.value = value
    s.off += n
    return p.sink.emit(p.sink, &u, data, n if data != NULL else 0)


cdef int hold(Side *s, Piece *p, size_t n) noexcept nogil:
    """Move the piece's next n bytes, at most HEAD_MAX in all, to `held`."""
    cdef uint32_t room
    cdef void *more
    if s.held_n + n > s.held_room:
        room = 256
        while room < s.held_n + n:
            room *= 2
        more = realloc(s.held, room)
        if more == NULL:
            return -1
        s.held = <uint8_t *>more
        s.held_room = room
    if s.held_n == 0:
        s.held_at = p.offset + p.at
    memcpy(s.held + s.held_n, p.data + p.at, n)
    s.held_n += <uint32_t>n
    p.at += n
    return 0


cdef void let_go(Side *s) noexcept nogil:
    free(s.held)
    s.held = NULL
    s.held_n = s.held_room = s.held_old = 0


cdef int put_held(Side *s, Piece *p, int kind, int flags, uint32_t message) noexcept nogil:
    """Emit what is held, if anything, as one unit."""
    cdef int result = 0
    if s.held_n:
        result = put(s, p, kind, s.held_at, s.held_n, s.held,
                     s.start.value if kind <= K_RESPONSE else 0, flags, message)
        let_go(s)
    return result


cdef inline uint64_t here(Piece *p) noexcept nogil:
    return p.offset + p.at


cdef inline size_t line_left(Piece *p, bint *whole) noexcept nogil:
    """The bytes up to and with the next LF, or all that is left of the piece."""
    cdef const uint8_t *lf = <const uint8_t *>memchr(p.data + p.at, 10, p.n - p.at)
    whole[0] = lf != NULL
    return p.n - p.at if lf == NULL else lf + 1 - (p.data + p.at)


cdef int put_rest(Side *s, Piece *p) noexcept nogil:
    """Pass the rest of the piece on as other."""
    cdef size_t at = p.at
    if at == p.n:
        return 0
    p.at = p.n
    return put(s, p, K_OTHER, p.offset + at, p.n - at, p.data + at, 0, 0, s.message)


# ------------------------------------------------------------------ editing: framing that stays true

FRAMING_REASONS = {
    "corrected": "messages whose Content-Length was corrected",
    "to_chunked": "messages with a length that became chunked at the hold limit",
    "to_chunked_unheard": "... of them requests whose server had not told its version yet",
    "to_close": "responses with a length that became delimited by the close, at the hold limit",
    "kept_length": "messages that passed unedited from the hold limit on: an end speaks HTTP/1.0",
    "length_by_hand": "messages whose framing fields a module edited itself: all else passes as it is",
    "chunks_resized": "chunks whose size line was replaced",
    "chunks_removed": "chunks that were emptied, and went with their framing",
    "chunks_split": "chunks that were cut at the hold limit",
    "refused_midway": "edits refused: the head had left before editing began",
    "refused_limit": "edits refused: the message passes unedited since the hold limit",
    "refused_bodiless": "edits refused: the message can have no body",
    "refused_damaged": "edits refused: the chunk framing is damaged",
    "refused_framing": "edits refused: they lie in chunk framing",
    "unknown_head": "messages that pass unedited because their head's bytes were not given",
}

cdef enum:
    F_FREE           # edits pass as they are: the close delimits, or nothing is framed
    F_LENGTH         # Content-Length: the head waits, everything is pending
    F_CHUNKING       # had a length: each run leaves as a chunk of its own
    F_CHUNKED        # came chunked: a chunk waits until it is whole
    F_REFUSE         # only edits that keep the length pass

cdef enum:           # where a chunked body stands
    C_LINE, C_DATA, C_EOL, C_LAST


cdef class Exchange:
    """What the two directions of a connection tell each other: requests without an answer, versions."""

    cdef object requests        # deque of Head; None: unknown
    cdef uint64_t unknown       # requests behind these, too many to remember
    cdef object server_is_1_1   # None: not heard yet

    def __init__(self, unanswered=0):
        self.requests = collections.deque([None] * min(unanswered, PENDING_MAX))

    cdef int ask(self, Head head) except -1:
        """A request begins."""
        if self.unknown or len(self.requests) == PENDING_MAX:
            self.unknown += 1
        else:
            self.requests.append(head)
        return 0

    cdef Head answer(self, bint final):
        """A response begins: give its request's Head, or None."""
        if self.requests:
            return self.requests.popleft() if final else self.requests[0]
        if final and self.unknown:
            self.unknown -= 1
        return None


cdef class Head:
    """A head as the framing needs it: its start line and framing fields; its text while it waits."""

    cdef bytes text
    cdef fos_http_start start
    cdef fos_http_framing fields
    cdef readonly bint keeps, closes            # options of Connection

    def __cinit__(self, bytes text not None):
        cdef const char *all_of_it = text
        cdef const char *lf = <const char *>memchr(all_of_it, 10, len(text))
        cdef Py_ssize_t line = lf - all_of_it + 1 if lf != NULL else 0
        self.text = text
        if line == 0 or not fos_http_start_line(&self.start, text, line, False):
            self.start = fos_http_start(0, text[:5] == b"HTTP/", 0, 1)
        fos_http_fields(&self.fields, text, len(text))
        line = connection_line(text, 0)
        while line >= 0:
            line = self.take_options(line)

    cdef Py_ssize_t take_options(self, Py_ssize_t line) except -2:
        """Read the options of the Connection field that begins here; give where the next one does, or -1."""
        cdef const char *text = self.text
        cdef Py_ssize_t end = line_end(text, line, len(self.text)), at = line + 10
        cdef bytes name, value
        if text[end] == 32 or text[end] == 9:   # folded; behind the last line is a zero
            for name, value in parse_fields(self.text[line:].split(b"\n")):   # the line that is none ends it
                if name.lower() == b"connection":
                    self.read_options(value, len(value))
        else:
            while text[at] == 32 or text[at] == 9:
                at += 1
            if text[at] == 58:
                self.read_options(text + at + 1, end - at - 1)
        return connection_line(self.text, end - 1) if end < len(self.text) else -1

    cdef void read_options(self, const char *at, Py_ssize_t n) noexcept:
        """Read the options of a Connection field's value."""
        cdef const char *end = at + n
        cdef const char *comma
        cdef const char *last
        while at < end:
            comma = <const char *>memchr(at, 44, end - at)
            comma = last = end if comma == NULL else comma
            while at < last and is_blank(at[0]):
                at += 1
            while last > at and is_blank((last - 1)[0]):
                last -= 1
            self.keeps |= last - at == 10 and strncasecmp(at, b"keep-alive", 10) == 0
            self.closes |= last - at == 5 and strncasecmp(at, b"close", 5) == 0
            at = comma + 1

    cdef bint frames_like(self, Head other):
        return self.fields.has_length == other.fields.has_length and self.fields.length == other.fields.length \
            and self.fields.bad_length == other.fields.bad_length \
            and self.fields.has_coding == other.fields.has_coding and self.fields.chunked == other.fields.chunked

    cdef list with_length(self, uint64_t length):
        """The edits that set every Content-Length."""
        return [(value, end - value, b"%d" % length) for _, is_length, value, end, _ in framing_fields(self.text) if is_length]

    cdef list without_length(self, bytes instead):
        """The edits that put a field line in the place of what says the length."""
        edits = []
        for line, _, _, _, end in framing_fields(self.text):   # a Transfer-Encoding here is identity
            edits.append((line, end - line, instead))
            instead = b""
        return edits


cdef inline bint is_blank(char c) noexcept nogil:
    return c == 32 or 9 <= c <= 13


cdef inline Py_ssize_t line_end(const char *text, Py_ssize_t at, Py_ssize_t n) noexcept nogil:
    """Where the line that begins at `at` ends, behind its LF, or the text does."""
    cdef const char *lf = <const char *>memchr(text + at, 10, n - at)
    return lf - text + 1 if lf != NULL else n


cdef Py_ssize_t connection_line(bytes text, Py_ssize_t start):
    """Where the first line behind a line end at or behind `start` begins that may be a Connection field, or -1."""
    cdef const char *p = text
    cdef const char *at = p + start
    cdef const char *end = p + len(text)
    while True:
        at = <const char *>memchr(at, 10, end - at)
        if at == NULL or end - at < 11:
            return -1
        at += 1
        if strncasecmp(at, b"connection", 10) == 0:
            return at - p


cdef list framing_fields(bytes text):
    """(line, is it Content-Length, value, end of value, end of lines) of each field that says a length: offsets."""
    cdef const char *p = text
    cdef Py_ssize_t n = len(text), at = line_end(p, 0, n), end, name, value, stop
    cdef const char *colon
    cdef list found = []
    while 0 < at < n:
        end = line_end(p, at, n)
        while p[end] == 32 or p[end] == 9:    # behind the last line is a zero
            end = line_end(p, end, n)
        name = 14 if strncasecmp(p + at, b"content-length", 14) == 0 else 17 if strncasecmp(p + at, b"transfer-encoding", 17) == 0 else 0
        colon = <const char *>memchr(p + at, 58, end - at) if name else NULL
        if colon != NULL:
            value, stop = colon - p, end
            while value > at and (p[value - 1] == 32 or p[value - 1] == 9):
                value -= 1
            if value - at == name:
                value = colon - p + 1
                while value < stop and is_blank(p[value]):
                    value += 1
                while stop > value and is_blank(p[stop - 1]):
                    stop -= 1
                found.append((at, name == 14, value, stop, end))
        at = end
    return found


def edited(bytes text, edits, uint64_t start=0):
    """Apply edits (offset, removed, data), ascending, to bytes whose first has the offset `start`.

    >>> edited(b"hello", [(0, 1, b"j"), (5, 0, b"!")])
    b'jello!'
    """
    cdef uint64_t at = start
    parts = []
    for offset, removed, data in edits:
        parts += text[at - start:offset - start], data
        at = offset + removed
    return b"".join(parts) + text[at - start:]


cdef list NO_EDITS = []          # never added to


cdef class HttpFraming(Framing):
    """Keep the messages of one direction valid while a module edits their bodies.

    Feed it every unit of the direction, in order, as the module releases it, whole or in parts,
    with the module's edits in it; it gives back the edits that are final, its own among them.
    An edit is (offset, removed, data): at an offset of the stream below, so many bytes give way
    to `data`; what is inserted stands in front of the byte at the offset.

    Content-Length    the head waits for the whole body; the field is corrected when the body's length
                      changed.  At the hold limit the message becomes chunked when both ends speak
                      HTTP/1.1; else, a response after which the connection closes is delimited by
                      that; any other passes unedited, and only edits that keep the length are taken
    chunked           a chunk waits until it is whole; a resized one gets a new size line, without
                      extensions; an emptied one goes.  At the hold limit it is cut in two
    until the close   nothing needs care

    Trailers stay.  So do fields that depend on the content (Content-MD5, Digest, ETag,
    Content-Range); which of them to drop is for a module to know.  Edits in heads pass; when they
    change the framing fields, the message is the module's own.  Nothing here raises on traffic or
    keeps a byte of a body; `counters` says what happened, by reason of FRAMING_REASONS.

    One object serves one direction; `pair` makes both.  `already_sent`: the direction's first
    message is under way, so that edits in it are refused where they change a length.

    >>> framing = HttpFraming()
    >>> head = b"HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\n"
    >>> framing.take(RESPONSE, 0, 38, 0, [], head)
    ([], 0)
    >>> framing.take(BODY, 38, 43, 0, [(43, 0, b" world")])
    ([], 0)
    >>> framing.take(END, 43, 43, 0, [])
    ([(33, 1, b'11'), (43, 0, b' world')], 43)
    """

    cdef readonly dict counters
    cdef Exchange exchange      # shared with the other direction
    cdef uint64_t at            # end of what was taken
    cdef str why                # the reason why edits that change a length are refused
    cdef int mode, chunk
    cdef Head head              # while it waits
    cdef uint64_t start         # ... its offset
    cdef list head_edits, edits # ... of the body, pending; NO_EDITS is not added to
    cdef int64_t delta          # what they add
    cdef int64_t n              # bytes of the body so far; chunked: of the chunk
    cdef Head asked             # a response's request, or None
    cdef bint open              # a chunk was sent whose line end is due
    cdef bytes line             # a size line that waits
    cdef uint64_t line_at
    cdef int64_t size           # of the body or the chunk, as it says
    cdef bint split
    cdef object peer_head       # the request's head, as the caller of `take` knows it, or None

    def __init__(self, exchange=None, already_sent=False):
        self.exchange = exchange or Exchange()
        self.counters = {}
        self.why = "refused_midway"
        self.reset(F_REFUSE if already_sent else F_FREE)

    @classmethod
    def pair(cls, already_sent=(False, False), unanswered=0):
        """Make the objects of a connection's two directions, which know each other.

        `unanswered` counts requests whose heads went by before, and wait for their response.
        """
        exchange = Exchange(unanswered)
        return cls(exchange, already_sent[0]), cls(exchange, already_sent[1])

    cdef reset(self, int mode):
        """Begin a message, or the time between two."""
        self.mode = mode
        if self.head is not None:
            self.head.text = b""            # a request's head is kept for its response
        self.head = self.asked = None
        self.start = self.line_at = 0
        self.head_edits = self.edits = NO_EDITS
        self.delta = self.n = 0
        self.open = self.split = False
        self.chunk = C_LINE
        self.line = b""
        self.size = 0

    # -- the calls of the system

    def take(self, int kind, uint64_t start, uint64_t end, message, edits=(), data=None, peer_head=None):
        """Take the next unit, or part of a body unit, and the module's edits in it.

        `data`: the bytes of a head or framing unit; `peer_head`: the request's head, for a response
        whose pair does not know it.  Edits lie in [start, end], in ascending order.
        `message` is the unit's number; the order of units says as much, so it is not looked at.
        Returns (edits, covered): what became final, in ascending order, and the offset up to which
        the stream may leave.  Edits have offsets up to `covered`, where one still goes out with
        what is before it; a later one at the same offset follows it.
        """
        self.peer_head = peer_head
        self.unit(kind, start, end, 0, list(edits), None if data is None else bytes(data))
        return self.given() or [], self.covered

    cdef int unit(self, int kind, uint64_t start, uint64_t end, uint32_t message, list edits, bytes data) except -1:
        if kind == K_REQUEST or kind == K_RESPONSE:
            self.settle()
            self.at = end
            self.begin(start, end, edits, data, kind == K_RESPONSE)
            return self.waits()
        self.at = end
        if kind == K_END:
            self.settle(edits, True)
        elif kind == K_BODY or kind == FOS_UNIT_GAP:
            self.take_body(start, end, edits)
        elif self.mode == F_CHUNKED and kind == K_FRAMING:
            self.count("refused_framing", len(edits))
            self.take_framing(start, data)
        elif self.mode == F_CHUNKED and self.chunk == C_LAST:
            self.keep(edits)                    # the trailer leaves with the end
        elif self.mode == F_FREE:
            self.let(edits, end)
        elif self.mode == F_REFUSE:
            self.let(self.fitting(edits, self.why), end)
        else:
            self.count("refused_framing", len(edits))
        return self.waits()

    cdef int waits(self) noexcept:
        """Note whether something waits that the limit would let go."""
        self.holding = self.mode == F_LENGTH or (
            self.mode == F_CHUNKED and self.chunk == C_DATA and self.n > 0 and not self.split)
        return 0

    def limit(self):
        """Decide now: the hold limit was hit.  Returns what `take` returns.

        Where only framing waits for its own rest (part of a size line, the end of the last chunk) there
        is nothing to decide, and `covered` stays: without that rest its receiver could do nothing either.
        """
        self.decide()
        return self.given() or [], self.covered

    cdef int decide(self) except -1:
        if self.mode == F_LENGTH:
            self.leave_length()
        elif self.mode == F_CHUNKED and self.chunk == C_DATA and self.n and not self.split:
            self.split = True
            self.count("chunks_split")
            self.put_chunk(self.n + self.delta)
        return self.waits()

    def finish(self):
        """The stream ends here: whatever is pending becomes final.  Returns what `take` returns."""
        self.close()
        return self.given() or [], self.covered

    cdef int close(self) except -1:
        self.settle()
        return self.waits()

    # -- what they share

    cdef count(self, str reason, Py_ssize_t n=1):
        if n:
            self.counters[reason] = self.counters.get(reason, 0) + n

    cdef keep(self, list edits):
        """Add to the edits of the body that are pending."""
        if edits:
            if self.edits is NO_EDITS:
                self.edits = []
            self.edits += edits

    cdef let(self, list edits, uint64_t end):
        """Make edits and all up to `end` final."""
        if edits:
            self.final += edits
        self.covered = end

    cdef list fitting(self, edits, str reason):
        """Of edits, those that keep the length; the others are counted."""
        if not edits:
            return NO_EDITS
        kept = [edit for edit in edits if edit[1] == len(edit[2])]
        self.count(reason, len(edits) - len(kept))
        return kept

    # -- heads

    cdef begin(self, uint64_t start, uint64_t end, list edits, bytes data, bint response):
        """A head: how its message is framed decides what is to be done (RFC 9112 section 6.3)."""
        cdef Head head, asked = None, by_hand
        cdef bint bodiless = False
        self.reset(F_FREE)
        if data is None:
            self.count("unknown_head")
            if not response:
                self.exchange.ask(None)
            self.refuse("refused_limit", edits, end)
            return
        head = Head(data)
        self.head, self.start, self.head_edits = head, start, edits
        if response:
            self.exchange.server_is_1_1 = bool(head.start.is_1_1)
            asked = self.exchange.answer(head.start.value >= 200 or head.start.value == 101)
            if self.peer_head is not None:
                asked = Head(bytes(self.peer_head))
            self.asked = asked
            bodiless = head.start.value < 200 or head.start.value == 204 or head.start.value == 304
            if asked is not None:
                bodiless |= asked.start.value == FOS_HTTP_HEAD \
                    or asked.start.value == FOS_HTTP_CONNECT and head.start.value < 300
        else:
            self.exchange.ask(head)
        if edits:
            by_hand = Head(edited(head.text, edits, start))
            if not by_hand.frames_like(head):
                self.count("length_by_hand")
                self.let(edits, end)
                head.text = b""
                return
        if bodiless:
            self.refuse("refused_bodiless", edits, end)
        elif head.fields.has_coding and head.fields.chunked:
            self.mode = F_CHUNKED
            self.let(edits, end)
        elif head.fields.has_coding or head.fields.bad_length or not head.fields.has_length:
            self.let(edits, end)
            if not response:
                self.refuse("refused_bodiless", [], end)
        else:
            self.mode = F_LENGTH
            self.size = head.fields.length
            return
        head.text = b""

    cdef refuse(self, str reason, list edits, uint64_t end):
        """Let all go up to `end`; from there on only edits that keep the length pass."""
        self.mode = F_REFUSE
        self.why = reason
        self.let(edits, end)

    cdef put_head(self, list own):
        """Make the head final, with the module's edits and our own."""
        cdef Head head = self.head
        if self.head_edits and own:
            text = edited(edited(head.text, self.head_edits, self.start), own)
            self.final.append((self.start, len(head.text), text))
        else:
            self.final += self.head_edits or [(self.start + at, removed, data) for at, removed, data in own]

    cdef Head head_to_edit(self):
        """The head as the module leaves it: what our own edits of it refer to."""
        cdef Head head = self.head
        return Head(edited(head.text, self.head_edits, self.start)) if self.head_edits else head

    # -- a message with a length

    cdef take_body(self, uint64_t start, uint64_t end, list edits):
        if self.mode == F_LENGTH:
            self.n += end - start
            self.pend(edits)
        elif self.mode == F_CHUNKING:
            self.n += end - start
            self.put_run(start, end - start, edits)
            self.covered = end
        elif self.mode == F_CHUNKED:
            self.take_chunk(start, end, edits)
        elif self.mode == F_REFUSE:
            self.let(self.fitting(edits, self.why), end)
        else:
            self.let(edits, end)

    cdef pend(self, list edits):
        self.keep(edits)
        for _, removed, data in edits:
            self.delta += len(data) - <int64_t>removed

    cdef put_run(self, uint64_t start, int64_t n, edits):
        """Send a run of body bytes as a chunk of its own; its line end comes with what follows."""
        for _, removed, data in edits:
            n += len(data) - <int64_t>removed
        if n:
            self.final.append((start, 0, (b"\r\n%x\r\n" if self.open else b"%x\r\n") % n))
            self.open = True
        self.final += edits

    cdef leave_length(self):
        """The body is too long to wait for: frame it another way, or edit no more."""
        cdef Head head = self.head, asked = self.asked, to_edit
        if head.start.response:
            heard = asked is not None and asked.start.is_1_1
            closes = self.closes_after(head, asked)
        else:
            heard, closes = self.exchange.server_is_1_1 is not False, False
        to_edit = self.head_to_edit()
        first = self.start + len(head.text)
        if heard and head.start.is_1_1:
            self.count("to_chunked")
            self.count("to_chunked_unheard", not head.start.response and self.exchange.server_is_1_1 is None)
            self.put_head(to_edit.without_length(b"Transfer-Encoding: chunked\r\n"))
            self.mode = F_CHUNKING
            self.put_run(first, self.n, self.edits)
        elif closes:
            self.count("to_close")
            self.put_head(to_edit.without_length(b""))
            self.mode = F_FREE
            self.final += self.edits
        else:
            self.count("kept_length")
            self.put_head([])
            self.mode = F_REFUSE
            self.why = "refused_limit"
            self.final += self.fitting(self.edits, self.why)
        self.edits, self.delta = NO_EDITS, 0
        self.covered = self.at

    cdef bint closes_after(self, Head head, Head asked):
        """Whether the connection closes after a response (RFC 9112 section 9.3); its request may be unknown."""
        cdef bint asked_1_1 = asked is None or asked.start.is_1_1
        if head.closes or asked is not None and asked.closes:
            return True
        if head.start.is_1_1 and asked_1_1:
            return False
        return not (head.keeps and (asked_1_1 or asked.keeps))

    # -- a chunked message

    cdef take_framing(self, uint64_t start, bytes data):
        """Line ends, size lines, and what ends the body: read them, and hold a size line."""
        cdef const char *p = NULL
        cdef Py_ssize_t at = 0, end, n = 0
        if data is not None:
            p = data
            n = len(data)
        if not n and self.at > start:
            self.give_up()
        while at < n and self.chunk != C_LAST:
            end = line_end(p, at, n)
            if self.chunk == C_DATA:                    # shorter than its line said
                self.give_up()
                return
            if self.chunk == C_EOL:
                self.let(NO_EDITS if self.open else [(start + at, end - at, b"")], start + end)
                if p[end - 1] == 10:
                    self.open = False
                    self.chunk = C_LINE
            else:
                if not self.line:
                    self.line_at = start + at
                self.line = self.line + data[at:end] if self.line else data[at:end]
                if p[end - 1] == 10:
                    self.read_line()
            at = end

    cdef read_line(self):
        """A size line is whole."""
        cdef fos_http_chunk line
        cdef size_t used
        memset(&line, 0, sizeof(line))
        if fos_http_chunk_line(&line, self.line, len(self.line), &used) != FOS_HTTP_DONE:
            self.give_up()
            return
        self.size = line.size
        self.n = self.delta = 0
        self.edits = NO_EDITS
        self.split = False
        self.chunk = C_DATA if self.size else C_LAST

    cdef take_chunk(self, uint64_t start, uint64_t end, list edits):
        if self.chunk != C_DATA:
            self.give_up()
        if self.mode != F_CHUNKED:
            self.let(self.fitting(edits, self.why), end)
            return
        self.n += end - start
        if self.split:
            self.put_run(start, end - start, edits)
            self.covered = end
        else:
            self.pend(edits)
        if self.n >= self.size:
            if not self.split:
                self.put_chunk(self.n + self.delta)
            self.chunk = C_EOL

    cdef put_chunk(self, int64_t n):
        """Make a chunk final, of n bytes as edited; its size line with it."""
        line = self.line
        if n == 0:
            line = b""
            self.count("chunks_removed", not self.split)
        elif self.edits or self.split:
            line = b"%x\r\n" % n
            self.count("chunks_resized", not self.split and n != self.size)
        if line != self.line:
            self.final.append((self.line_at, len(self.line), line))
        self.open = n > 0
        self.line = b""
        self.let(self.edits, self.at)
        self.edits, self.delta = NO_EDITS, 0

    cdef give_up(self):
        """The framing is not what it should be: what is left of the message passes unedited."""
        if self.chunk == C_DATA and not self.split:
            self.put_chunk(self.size + self.delta)
        self.mode = F_REFUSE
        self.why = "refused_damaged"
        self.covered = self.at

    # -- the end of a message

    cdef settle(self, list edits=NO_EDITS, bint ended=False):
        """The message is over, or the stream is: make all final.  `edits` are the module's at its end."""
        if self.mode == F_LENGTH:
            self.pend(edits)
            self.settle_length()
        elif self.mode == F_CHUNKING:
            self.put_run(self.at, 0, edits)
            if ended and self.n >= self.size:   # a message that was cut stays cut
                self.final.append((self.at, 0, b"\r\n0\r\n\r\n" if self.open else b"0\r\n\r\n"))
        elif self.mode == F_CHUNKED:
            self.settle_chunked(edits)
        elif self.mode == F_REFUSE:
            self.final += self.fitting(edits, self.why)
        else:
            self.final += edits
        self.covered = max(self.covered, self.at)
        if ended:
            self.reset(F_FREE)

    cdef settle_length(self):
        """The whole body is in hand: correct the head if its length changed."""
        cdef list own = NO_EDITS
        if self.delta:
            self.count("corrected")
            own = self.head_to_edit().with_length(max(0, self.size + self.delta))
        if own or self.head_edits:
            self.put_head(own)
        self.final += self.edits

    cdef settle_chunked(self, list edits):
        """A chunked message is over; what the module adds at its end goes in front of the last chunk."""
        data = b"".join([data for _, _, data in edits])
        if self.chunk == C_LAST:
            if data:
                self.final.append((self.line_at, 0, b"%x\r\n%s\r\n" % (len(data), data)))
            self.final += self.edits
        elif self.chunk == C_DATA and not self.split:   # cut: as much is missing as before
            self.pend(edits)
            self.put_chunk(self.size + self.delta)
        else:
            self.count("refused_damaged", len(edits))


# ------------------------------------------------------------------ the decoder

cdef class HttpDecoder(Decoder):
    """Decode both directions of one HTTP/1 connection (RFC 9112).

    Units, by `KINDS`; `message` counts the messages of a direction from 0:
    request, response   a head in one piece, blank line included; value: place in METHODS, or the
                        status; incomplete: the head is cut after its start line
    body                body bytes as they come, without chunk framing; value: offset in the body
    framing             chunk-size lines, the line ends behind chunks, blank lines before a message
    trailer             trailer fields in one piece, blank line included
    end                 empty, one per message; value: body bytes; incomplete: bytes are missing
    other               what is not HTTP: a tunnel, an upgraded protocol, garbage
    gap                 bytes that the capture lacks

    >>> head = HttpDecoder().describe(REQUEST, b"GET /a HTTP/1.1\\r\\nHost: b.example\\r\\n\\r\\n")
    >>> head.method, head.uri, head.host
    ('GET', '/a', 'b.example')
    """

    name = "http"
    over = ("tcp", "sctp")
    framing = HttpFraming

    cdef Side side[2]
    cdef uint32_t reasons[R_COUNT]

    def __dealloc__(self):
        cdef int i
        for i in range(2):
            free(self.side[i].held)
            free(self.side[i].pending)

    @property
    def counters(self):
        """How often each reason of REASONS was met: {name: count}, without the zeros."""
        return {REASON_NAMES[i]: self.reasons[i] for i in range(R_COUNT) if self.reasons[i]}

    @property
    def unsynced(self):
        """Whether a direction looks for the next head after a gap or bytes that are not HTTP."""
        return self.side[0].state == S_SEARCH or self.side[1].state == S_SEARCH

    @staticmethod
    def probe(data, direction, port):
        """Say whether a stream's first bytes begin an HTTP message; None asks for more.

        >>> HttpDecoder.probe(b"GET / HTTP/1.1\\r\\n", 0, 80)
        True
        >>> HttpDecoder.probe(b"OPTIONS rtsp://a/b RTSP/1.0\\r\\n", 0, 554)
        False
        >>> HttpDecoder.probe(b"PO", 0, 80) is None
        True
        """
        return probe_start(bytes(data[:PROBE_BYTES]))

    def kind_name(self, int kind):
        """Name a kind of unit."""
        return KINDS[kind]

    def describe(self, int kind, bytes data):
        """Give the HttpHead of a head, the (name, value) list of a trailer, else None."""
        if kind == K_REQUEST or kind == K_RESPONSE:
            return parse_head(data)
        if kind == K_TRAILER:
            return parse_fields(data.split(b"\n"))
        return None

    # -- the three calls of the core

    cdef int feed(self, int direction, const uint8_t *data, size_t n, uint64_t offset,
                  int64_t ts, fos_sink *sink) except -1 nogil:
        cdef Piece p = Piece(data, n, 0, offset, ts, sink)
        cdef Side *s = &self.side[direction & 1]
        if n == 0:
            return 0
        if s.state == S_SEARCH:
            s.state = S_START
            s.strict = True
        s.held_old = s.held_n
        if self.run(s, &p) < 0:
            with gil:
                raise MemoryError("no memory for an HTTP unit")
        return 0

    cdef int gap(self, int direction, uint64_t offset, uint64_t length,
                 int64_t ts, fos_sink *sink) except -1 nogil:
        cdef Piece p = Piece(NULL, 0, 0, offset, ts, sink)
        if length and self.miss(&self.side[direction & 1], &p, length) < 0:
            with gil:
                raise MemoryError("no memory for an HTTP unit")
        return 0

    cdef int finish(self, int direction, uint64_t offset, int64_t ts,
                    fos_sink *sink) except -1 nogil:
        cdef Piece p = Piece(NULL, 0, 0, offset, ts, sink)
        cdef Side *s = &self.side[direction & 1]
        cdef int flags = FOS_UNIT_INCOMPLETE
        if s.state == S_ENDING or s.state == S_UNTIL_CLOSE or s.state == S_TRAILER and not s.held_n:
            flags = 0               # the last chunk was seen: RFC 9112 section 8
        if self.cut(s, &p, flags) < 0:
            with gil:
                raise MemoryError("no memory for an HTTP unit")
        return 0

    # -- the machine: each returns 0, or -1 without memory

    cdef inline Side *peer(self, Side *s) noexcept nogil:
        return &self.side[s == &self.side[0]]

    cdef int run(self, Side *s, Piece *p) noexcept nogil:
        cdef int result = 0
        while result == 0:
            if s.state == S_ENDING:
                result = self.end(s, p, here(p), 0)
            elif p.at == p.n:
                break
            elif s.state == S_BODY or s.state == S_CHUNK or s.state == S_UNTIL_CLOSE:
                result = self.take_body(s, p)
            elif s.state == S_SIZE or s.state == S_CHUNK_END:
                result = self.take_framing(s, p)
            elif s.state == S_START:
                result = self.take_start(s, p)
            elif s.state == S_HEAD:
                result = self.take_head(s, p)
            elif s.state == S_TRAILER:
                result = self.take_trailer(s, p)
            else:                                   # a tunnel, or nothing found in this piece
                result = put_held(s, p, K_OTHER, 0, s.message)
                if result == 0:
                    result = put_rest(s, p)
        return result

    cdef int take_start(self, Side *s, Piece *p) noexcept nogil:
        """START: read the start line, or find that this is not HTTP as early as may be."""
        cdef size_t n, at = p.at
        cdef bint whole
        cdef const uint8_t *text
        if s.held_n == 0 and not s.strict:
            while at < p.n and (p.data[at] == 13 or p.data[at] == 10):
                at += 1
            if at > p.at:
                n = at - p.at
                p.at = at
                return put(s, p, K_FRAMING, p.offset + at - n, n, p.data + at - n, 0, 0, s.message)
        n = line_left(p, &whole)
        if s.held_n + n > HEAD_MAX:
            return self.give_up(s, p, R_HEAD_TOO_LARGE)
        text = p.data + p.at
        if s.held_n or not whole:
            if not s.held_n and not fos_http_may_start(text, n, s.strict):
                return self.give_up(s, p, R_NOT_HTTP)
            if hold(s, p, n) < 0:
                return -1
            text = s.held
            n = s.held_n
        if whole and fos_http_start_line(&s.start, text, n, s.strict):
            s.state = S_HEAD
            return 0
        if whole or not fos_http_may_start(text, n, s.strict):
            return self.give_up(s, p, R_NOT_HTTP)
        return 0

    cdef int take_head(self, Side *s, Piece *p) noexcept nogil:
        """HEAD: find the blank line; the head is used where it lies unless pieces cut it."""
        cdef size_t n, room = p.n - p.at
        cdef bint whole
        if s.held_n == 0:
            n = fos_http_head_end(p.data + p.at, room)
            if n > HEAD_MAX or n == 0 and room > HEAD_MAX:
                return self.give_up(s, p, R_HEAD_TOO_LARGE)
            if n == 0:
                return hold(s, p, room)
            return self.head(s, p, p.data + p.at, n)
        while p.at < p.n:
            n = line_left(p, &whole)
            if s.held_n + n > HEAD_MAX:
                return self.give_up(s, p, R_HEAD_TOO_LARGE)
            if hold(s, p, n) < 0:
                return -1
            if whole and fos_http_ends_blank(s.held, s.held_n):
                return self.head(s, p, s.held, s.held_n)
        return 0

    cdef int head(self, Side *s, Piece *p, const uint8_t *text, size_t n) noexcept nogil:
        """Take a whole head: at p.at, or held with p.at behind it."""
        cdef fos_http_framing f
        cdef int next_state, result
        fos_http_fields(&f, text, n)
        if f.fields > FIELD_MAX:
            return self.give_up(s, p, R_TOO_MANY_FIELDS)
        self.reasons[R_BAD_FIELD] += f.bad_fields
        self.reasons[R_ODD_REQUEST_LINE] += s.start.odd
        self.reasons[R_RESYNC] += s.strict
        next_state = self.frame(s, self.peer(s), &f)
        if s.held_n:
            result = put_held(s, p, K_REQUEST + s.start.response, 0, s.message)
        else:
            result = put(s, p, K_REQUEST + s.start.response, here(p), n, text, s.start.value, 0,
                         s.message)
            p.at += n
        s.message += 1
        if result < 0:
            return -1
        if next_state == S_NO_BODY:
            return self.end(s, p, here(p), 0)
        if next_state == S_UNFRAMED:
            result = self.end(s, p, here(p), FOS_UNIT_INCOMPLETE)
            s.strict = s.state == S_START
            return result
        s.state = next_state
        s.left = f.length if next_state == S_BODY else 0
        s.chunk = fos_http_chunk(0, 0, 0, 0)
        return 0

    cdef int frame(self, Side *s, Side *peer, fos_http_framing *f) noexcept nogil:
        """Decide how the message's body is framed: RFC 9112 section 6.3, rule by rule."""
        cdef bint request = not s.start.response
        cdef int method
        if request:
            self.ask(s, peer)
        elif s.start.value < 200:
            if s.start.value == 101:
                self.open_tunnel(s, peer, s.answers)
                s.answers += 1
            return S_NO_BODY
        else:
            method = self.answer(s, peer)
            if method == FOS_HTTP_HEAD or s.start.value == 204 or s.start.value == 304:
                return S_NO_BODY
            if method == FOS_HTTP_CONNECT and s.start.value < 300:
                self.open_tunnel(s, peer, s.answers - 1)
                return S_NO_BODY
        if f.has_coding:
            self.reasons[R_LENGTH_AND_CHUNKED] += f.has_length or f.bad_length
            self.reasons[R_CHUNKED_IN_1_0] += not s.start.is_1_1
            if f.chunked:
                return S_SIZE
            if request:
                self.reasons[R_BAD_CODING] += 1
                return S_UNFRAMED
            return S_UNTIL_CLOSE
        if f.bad_length:
            self.reasons[R_BAD_LENGTH] += 1
            return S_UNFRAMED if request else S_UNTIL_CLOSE
        if f.has_length:
            self.reasons[R_CONFLICTING_LENGTHS] += f.conflict
            return S_BODY if f.length else S_NO_BODY
        return S_NO_BODY if request else S_UNTIL_CLOSE

    cdef void ask(self, Side *s, Side *peer) noexcept nogil:
        """A request begins: give it its number, and remember what frames its response."""
        cdef uint64_t index
        cdef bint waiting
        cdef void *more
        if s.strict and s.requests < peer.answers:
            s.requests = peer.answers       # requests were lost; the next answer is this one's
        index = s.requests
        s.requests += 1
        if s.start.value != FOS_HTTP_HEAD and s.start.value != FOS_HTTP_CONNECT:
            return
        if index >= peer.answers:
            if s.pending_n == PENDING_MAX:
                self.reasons[R_PENDING_OVERFLOW] += 1
                return
            if s.pending_n == s.pending_room:
                more = realloc(s.pending, (s.pending_room * 2 + 4) * sizeof(uint64_t))
                if more == NULL:
                    self.reasons[R_PENDING_OVERFLOW] += 1
                    return
                s.pending = <uint64_t *>more
                s.pending_room = s.pending_room * 2 + 4
            s.pending[s.pending_n] = index * 2 + (s.start.value == FOS_HTTP_CONNECT)
            s.pending_n += 1
            return
        # The response came first.  While nothing of its supposed body came, it can be put right.
        waiting = peer.state == S_BODY or peer.state == S_UNTIL_CLOSE \
            or peer.state == S_SIZE and peer.chunk.n == 0
        if not (peer.unsure and waiting and peer.body == 0 and index + 1 == peer.answers):
            return
        if s.start.value == FOS_HTTP_HEAD:
            peer.state = S_ENDING
        elif peer.start.value < 300:
            peer.state = S_ENDING
            peer.tunnel_next = True
            s.tunnel_at = index + 1

    cdef int answer(self, Side *s, Side *peer) noexcept nogil:
        """A final response begins: the method of its request, or M_UNKNOWN."""
        cdef uint64_t index
        cdef uint32_t gone = 0
        cdef int method = 0
        if s.strict and peer.requests > s.answers + 1:
            s.answers = peer.requests - 1   # responses were lost; this is the last request's
        index = s.answers
        s.answers += 1
        if index >= peer.requests:
            self.reasons[R_RESPONSE_FIRST] += 1
            s.unsure = True
            return M_UNKNOWN
        while gone < peer.pending_n and peer.pending[gone] >> 1 <= index:
            if peer.pending[gone] >> 1 == index:
                method = FOS_HTTP_CONNECT if peer.pending[gone] & 1 else FOS_HTTP_HEAD
            gone += 1
        if gone:
            peer.pending_n -= gone
            memmove(peer.pending, peer.pending + gone, peer.pending_n * sizeof(uint64_t))
        return method

    cdef void open_tunnel(self, Side *s, Side *peer, uint64_t index) noexcept nogil:
        """Response number `index`, on `s`, ends HTTP in both directions."""
        s.tunnel_next = True
        peer.tunnel_at = index + 1
        if peer.state == S_SEARCH or peer.state == S_START and peer.requests >= peer.tunnel_at:
            peer.state = S_TUNNEL

    cdef int end(self, Side *s, Piece *p, uint64_t at, int flags) noexcept nogil:
        """The message ends at offset `at` of the stream below."""
        cdef uint64_t body = s.body
        s.state = S_START
        if s.tunnel_next or s.tunnel_at and s.requests >= s.tunnel_at:
            s.state = S_TUNNEL
        if s.broken:
            flags = FOS_UNIT_INCOMPLETE
        s.body = 0
        s.strict = s.broken = s.unsure = False
        return put(s, p, K_END, at, 0, NULL, <int64_t>body, flags, s.message - 1)

    cdef int take_body(self, Side *s, Piece *p) noexcept nogil:
        cdef size_t n = p.n - p.at, at = p.at
        if s.state != S_UNTIL_CLOSE:
            if n > s.left:
                n = <size_t>s.left
            s.left -= n
        p.at += n
        s.body += n
        if put(s, p, K_BODY, p.offset + at, n, p.data + at, <int64_t>(s.body - n), 0,
               s.message - 1) < 0:
            return -1
        if s.left == 0 and s.state == S_BODY:
            return self.end(s, p, here(p), 0)
        if s.left == 0 and s.state == S_CHUNK:
            s.state = S_CHUNK_END
            s.behind_cr = False
        return 0

    cdef int take_framing(self, Side *s, Piece *p) noexcept nogil:
        """SIZE and CHUNK_END: step over line ends and size lines."""
        cdef size_t mark = p.at, used
        cdef uint8_t c
        cdef int reason = -1
        cdef fos_http_chunk_result result = FOS_HTTP_MORE
        while p.at < p.n and reason < 0 and result != FOS_HTTP_DONE:
            if s.state == S_CHUNK_END:
                c = p.data[p.at]
                if c == 13 and not s.behind_cr:
                    s.behind_cr = True
                elif c == 10:
                    s.state = S_SIZE
                    s.chunk = fos_http_chunk(0, 0, 0, 0)
                else:
                    reason = R_BAD_CHUNK
                    break
                p.at += 1
                continue
            result = fos_http_chunk_line(&s.chunk, p.data + p.at, p.n - p.at, &used)
            p.at += used
            if result == FOS_HTTP_BAD:
                reason = R_BAD_CHUNK
            elif result == FOS_HTTP_LONG:
                reason = R_CHUNK_LINE_TOO_LONG
        if result == FOS_HTTP_DONE:
            self.reasons[R_ODD_CHUNK] += s.chunk.odd
            s.left = s.chunk.size
            s.state = S_CHUNK
            if s.left == 0:                     # mostly the blank line follows at once
                s.state = S_TRAILER
                used = p.n - p.at
                if used and p.data[p.at] == 10:
                    p.at += 1
                    s.state = S_ENDING
                elif used > 1 and p.data[p.at] == 13 and p.data[p.at + 1] == 10:
                    p.at += 2
                    s.state = S_ENDING
        if p.at > mark and put(s, p, K_FRAMING, p.offset + mark, p.at - mark, p.data + mark, 0, 0,
                               s.message - 1) < 0:
            return -1
        return self.abandon(s, p, reason) if reason >= 0 else 0

    cdef int take_trailer(self, Side *s, Piece *p) noexcept nogil:
        """TRAILER: lines up to a blank one; a blank line alone is framing."""
        cdef size_t n
        cdef bint whole
        while p.at < p.n:
            n = line_left(p, &whole)
            if s.held_n + n > HEAD_MAX:
                return self.abandon(s, p, R_TRAILER_TOO_LARGE)
            if hold(s, p, n) < 0:
                return -1
            if not whole:
                return 0
            if s.held_n == 1 or s.held_n == 2 and s.held[0] == 13:
                if put_held(s, p, K_FRAMING, 0, s.message - 1) < 0:
                    return -1
                return self.end(s, p, here(p), 0)
            if fos_http_ends_blank(s.held, s.held_n):
                if put_held(s, p, K_TRAILER, 0, s.message - 1) < 0:
                    return -1
                return self.end(s, p, here(p), 0)
        return 0

    # -- damage

    cdef int give_up(self, Side *s, Piece *p, int reason) noexcept nogil:
        """No head begins where one should.  This piece's own start gets a second, strict look."""
        self.reasons[reason] += not s.strict
        if s.state == S_HEAD:               # its start line was good: the peer will answer it
            self.pair(s)
        s.state = S_SEARCH
        if s.held_n == 0:
            return 0
        s.state = S_START
        s.strict = True
        s.held_n = s.held_old
        p.at = 0
        return put_held(s, p, K_OTHER, 0, s.message)

    cdef int abandon(self, Side *s, Piece *p, int reason) noexcept nogil:
        """The framing of the body is lost: end the message and look for the next head."""
        cdef uint64_t at = s.held_at if s.held_n else here(p)
        self.reasons[reason] += 1
        if self.end(s, p, at, FOS_UNIT_INCOMPLETE) < 0:
            return -1
        if s.state == S_START:
            s.state = S_SEARCH
        return 0

    cdef int cut(self, Side *s, Piece *p, int flags) noexcept nogil:
        """The direction ends here, or what follows is lost: emit what there is of the message."""
        cdef int kind = K_TRAILER
        if s.state == S_START or s.state == S_SEARCH or s.state == S_TUNNEL:
            return put_held(s, p, K_OTHER, flags, s.message)
        if s.state == S_HEAD:
            self.pair(s)
            s.message += 1
            kind = K_REQUEST + s.start.response
        if put_held(s, p, kind, flags, s.message - 1) < 0:
            return -1
        return self.end(s, p, here(p), flags)

    cdef void pair(self, Side *s) noexcept nogil:
        """Count a message whose head was not taken whole."""
        if not s.start.response:
            self.ask(s, self.peer(s))
        elif s.start.value >= 200:
            self.answer(s, self.peer(s))

    cdef int miss(self, Side *s, Piece *p, uint64_t length) noexcept nogil:
        """Bytes will never come.  Framing outlives a gap that lies inside a body."""
        cdef uint64_t inside = 0
        if s.state == S_ENDING and self.end(s, p, here(p), 0) < 0:
            return -1
        if s.state == S_BODY or s.state == S_CHUNK or s.state == S_UNTIL_CLOSE:
            inside = length if s.state == S_UNTIL_CLOSE or length < s.left else s.left
            s.broken = True
            if self.put_gap(s, p, inside, s.message - 1) < 0:
                return -1
            if s.state == S_UNTIL_CLOSE:
                return 0
            s.left -= inside
            if inside == length and s.left:
                return 0
            if inside == length and s.state == S_CHUNK:
                s.state = S_CHUNK_END
                s.behind_cr = False
                return 0
            if inside == length:
                return self.end(s, p, here(p), 0)
            self.reasons[R_GAP_PAST_MESSAGE] += 1
        elif s.state == S_HEAD:
            self.reasons[R_GAP_IN_HEAD] += 1
        elif s.state == S_SIZE or s.state == S_CHUNK_END or s.state == S_TRAILER:
            self.reasons[R_GAP_IN_FRAMING] += 1
        if self.cut(s, p, FOS_UNIT_INCOMPLETE) < 0:
            return -1
        if s.state == S_START:
            s.state = S_SEARCH
        return self.put_gap(s, p, length - inside, s.message)

    cdef int put_gap(self, Side *s, Piece *p, uint64_t n, uint32_t message) noexcept nogil:
        cdef uint64_t start = p.offset
        p.offset += n
        return put(s, p, FOS_UNIT_GAP, start, n, NULL, 0, 0, message)


# ------------------------------------------------------------------ the view that Python gets

cdef object probe_start(bytes data):
    cdef fos_http_start start
    cdef bytes text = data.lstrip(b"\r\n")
    cdef Py_ssize_t n = len(text), lf = text.find(b"\n")
    if lf < 0:
        if n and not fos_http_may_start(text, n, False):
            return False
        if n > 12 and text.startswith(b"HTTP/"):
            return fos_http_status_line(&start, text, n, False)
        if len(data) < DECIDE_BYTES:
            return None
        return fos_http_may_start(text, n, True) and text.isascii() and text.rstrip(b"\r").decode().isprintable()
    if not fos_http_start_line(&start, text, lf + 1, False):
        return None if b"HTTP/1" in text[:lf] else False    # a broken request: the answer will tell
    if start.response or not start.odd:
        return True
    target = text[:lf].split()[1:2]         # no version: HTTP/0.9 and scanners, not IMAP or SIP
    if not target:
        return start.value <= FOS_HTTP_CORE
    return target[0].startswith((b"/", b"*", b"http", b"HTTP/"))


cdef list parse_fields(list lines):
    """(name, value) of each field up to a blank line; a folded value is joined by a space."""
    cdef list fields = []
    cdef bytes line, name, value
    cdef bint good = False
    for line in lines:
        line = line.rstrip(b"\r")
        if not line:
            break
        if line[0] == 32 or line[0] == 9:
            if good:
                name, value = fields[len(fields) - 1]
                fields[len(fields) - 1] = name, (value + b" " + line.strip()).strip()
            continue
        name, colon, value = line.partition(b":")
        good = colon and name and fos_http_is_token(name[0])
        if good:
            fields.append((name.rstrip(b" \t"), value.strip(b" \t")))
    return fields


cdef class HttpHead:
    """A request's or response's head, read-only; text is Latin-1, fields are bytes as sent.

    kind      "request" or "response"
    version   "HTTP/1.1", or "" where a request has none
    method, uri      of a request, else None
    status, reason   of a response, else None
    headers   list of (name, value), in order; folded values are joined
    """

    cdef readonly str kind, version, method, uri, reason
    cdef readonly object status
    cdef readonly list headers

    def get(self, name, default=None):
        """Give the value of the first field of that name (any case), as bytes."""
        cdef bytes wanted = (name.encode("latin-1") if isinstance(name, str) else name).lower()
        for key, value in self.headers:
            if (<bytes>key).lower() == wanted:
                return value
        return default

    cdef str text(self, bytes name):
        value = self.get(name)
        return None if value is None else (<bytes>value).decode("latin-1")

    @property
    def host(self):
        """The Host field, or None."""
        return self.text(b"host")

    @property
    def content_length(self):
        """What the first Content-Length says, or None where there is none or it is no number.

        Where several differ, framing follows the last (reason "conflicting_lengths").
        """
        value = self.get(b"content-length")
        if value is None:
            return None
        value = value.split(b",")[0].strip()
        return int(value) if value.isdigit() and len(value) <= 18 else None

    @property
    def transfer_encoding(self):
        """The Transfer-Encoding fields joined by commas, or None."""
        values = [v for k, v in self.headers if (<bytes>k).lower() == b"transfer-encoding"]
        return b", ".join(values).decode("latin-1") if values else None

    @property
    def content_encoding(self):
        """The Content-Encoding field, or None."""
        return self.text(b"content-encoding")

    @property
    def upgrade(self):
        """The Upgrade field, or None."""
        return self.text(b"upgrade")

    @property
    def chunked(self):
        """Whether the last transfer coding is chunked."""
        last = ""
        for coding in (self.transfer_encoding or "").lower().split(","):
            coding = coding.partition(";")[0].strip()
            if coding and coding != "identity":
                last = coding
        return last == "chunked"

    def __repr__(self):
        if self.kind == "request":
            return f"<HttpHead {self.method} {self.uri} {self.version}>"
        return f"<HttpHead {self.version} {self.status} {self.reason}>"


def parse_head(data):
    """Parse the bytes of one head into an HttpHead; None when they begin with no start line.

    >>> parse_head(b"HTTP/1.1 404 Not Found\\r\\nContent-Length: 3\\r\\n\\r\\n").content_length
    3
    """
    cdef fos_http_start start
    cdef list lines = bytes(data).lstrip(b"\r\n").split(b"\n")
    cdef bytes line = lines[0].rstrip(b"\r") + b"\n"
    if not fos_http_start_line(&start, line, len(line), False):
        return None
    cdef HttpHead head = HttpHead.__new__(HttpHead)
    cdef list words = line.split(None, 2)
    line = line.strip()
    if start.response:
        head.kind = "response"
        head.version = words[0].decode("latin-1")
        head.status = start.value
        head.reason = words[2].strip().decode("latin-1") if len(words) > 2 else ""
    else:
        head.kind = "request"
        head.method = words[0].decode("latin-1")
        line = line[len(words[0]):].strip()
        head.version = ""
        if len(words) > 2:
            line, version = line.rsplit(None, 1)
            head.version = version.decode("latin-1")
        head.uri = line.decode("latin-1")
    head.headers = parse_fields(lines[1:])
    return head
