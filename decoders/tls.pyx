"""TLS over a byte stream: records, and the hellos that name what a connection is for (RFC 8446).

Each direction is a sequence of records, five bytes of header and up to 18 KiB of payload; nothing
is decrypted.  Records pass by as their bytes come.  Only a hello is held until it is whole
(64 KiB at most), because its message may span records and its records may span pieces:

    START --- a record ---> RECORD --- all of it ---> START
      | '---- a hello ---> one unit up to the hello's last byte; what is behind it in its
      |                    last record is RECORD
      |  no header
      v
    SEARCH: until a piece begins with a record        SKIP: a client hello in SSL 2.0 format
    PLAIN: another protocol's words, which asked for TLS, up to a hello or an alert

Every byte of the stream below is in exactly one unit.  Damage never raises; it is counted.
The file is long because finding a hello and reading it are both one decoder's work.
"""
import hashlib
import re

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove

from flowos.core.cursor cimport (fos_cur, fos_cur_be16, fos_cur_be24, fos_cur_bytes, fos_cur_left,
                                 fos_cur_ok, fos_cur_skip, fos_cur_sub, fos_cur_u8, fos_cursor)
from flowos.core.decoder cimport Decoder
from flowos.core.unit cimport (FOS_UNIT_DECODER, FOS_UNIT_GAP, FOS_UNIT_INCOMPLETE, fos_sink,
                               fos_unit)

cdef enum:
    K_RECORD = FOS_UNIT_DECODER
    K_CLIENT_HELLO
    K_SERVER_HELLO
    K_OTHER

RECORD, CLIENT_HELLO, SERVER_HELLO, OTHER = range(K_RECORD, K_OTHER + 1)
KINDS = {RECORD: "record", CLIENT_HELLO: "client_hello", SERVER_HELLO: "server_hello",
         OTHER: "other", FOS_UNIT_GAP: "gap"}
# A record unit's value.
CONTENT_TYPES = {20: "change_cipher_spec", 21: "alert", 22: "handshake", 23: "application_data",
                 24: "heartbeat"}
VERSIONS = {0x0002: "SSL 2.0", 0x0300: "SSL 3.0", 0x0301: "TLS 1.0", 0x0302: "TLS 1.1",
            0x0303: "TLS 1.2", 0x0304: "TLS 1.3"}

cdef enum:
    PROBE_BYTES = 64
    HEADER = 5
    HANDSHAKE = 22
    RECORD_MAX = 16384 + 2048    # RFC 5246 section 6.2.3; TLS 1.3 allows 256 instead of 2048
    HELLO_MAX = 65536            # bytes of a hello message
    HELLO_MIN = 38               # version, random, and the lengths behind it
    HELLO_RECORDS = 64           # records that it may span
    ALERT = 21
    PLAIN_MAX = 65536            # bytes of another protocol that are searched for a hello
    BEGINNING = 7                # bytes by which a hello or an alert is known in them

cdef enum:
    R_BAD_RECORD, R_RESYNC, R_SSLV2_HELLO, R_BAD_HELLO, R_GAP_IN_HELLO, R_GAP_PAST_RECORD, R_GREETING
    R_COUNT

REASONS = {
    "bad_record": "bytes where a record should begin that are no record's header",
    "resync": "records found again after bytes that were not TLS, or a gap",
    "sslv2_hello": "client hellos in SSL 2.0 format, passed on as other",
    "bad_hello": "hellos too long, in too many records or broken off, passed on as records",
    "gap_in_hello": "hellos cut by a gap, passed on as records",
    "gap_past_record": "records whose end lies inside a gap",
    "greeting": "directions that begin with another protocol's words, passed on as other",
}
cdef tuple REASON_NAMES = tuple(REASONS)
assert len(REASON_NAMES) == R_COUNT

cdef enum:
    S_START, S_RECORD, S_SEARCH, S_SKIP, S_PLAIN
    V_MORE, V_RECORD, V_HELLO, V_NONE, V_BROKEN     # what look() finds


cdef struct Side:             # one direction
    uint64_t off              # bytes of the tls stream emitted
    uint64_t held_at          # offset below of held[0]
    uint8_t *held             # a cut header, or the records of a hello so far
    uint32_t held_n
    uint32_t held_room
    uint32_t left             # bytes of the record (or SSL 2.0 hello) still to come
    uint32_t records          # records begun
    uint8_t state
    uint8_t type              # content type of the record
    uint8_t plain             # the next record is no hello: it was found out before


cdef struct Piece:
    const uint8_t *data
    size_t n
    size_t at                 # data[:at] is done
    uint64_t offset           # of data[0] in the stream below
    int64_t ts
    fos_sink *sink


cdef struct Look:             # what begins where a record should
    size_t want               # V_MORE: bytes that must be there to look again
    size_t end                # V_HELLO: bytes up to and with its last one
    uint32_t left             # V_HELLO: bytes of its last record behind it
    uint32_t records          # V_HELLO: records that it spans
    uint32_t type             # V_HELLO: 1 from a client, 2 from a server
    uint32_t version          # V_HELLO: legacy_version


# ------------------------------------------------------------------ records: pure functions

cdef inline size_t record_bytes(const uint8_t *h) noexcept nogil:
    return HEADER + (h[3] << 8 | h[4])


cdef inline bint is_header(const uint8_t *h) noexcept nogil:
    """Whether five bytes are a record's header: known type, version 3.x, a possible length."""
    cdef size_t n = record_bytes(h) - HEADER
    return 20 <= h[0] <= 24 and h[1] == 3 and h[2] <= 4 and n <= RECORD_MAX and (n or h[0] == 23)


cdef inline bint is_sslv2_hello(const uint8_t *h) noexcept nogil:
    """Whether five bytes begin a client hello in SSL 2.0 format (RFC 5246 appendix E.2)."""
    return h[0] & 0x80 and h[2] == 1 and (h[3] == 3 or h[3] == 0 and h[4] == 2)


cdef inline bint is_plain(const uint8_t *h) noexcept nogil:
    """Whether five bytes may begin a protocol that asks for TLS: text, or the packets of LDAP and databases."""
    return 33 <= h[0] <= 126 or not h[1] and not h[2] and h[3] <= 8


cdef bint begins_tls(const uint8_t *p, size_t n) noexcept nogil:
    """Whether bytes, BEGINNING at most, begin a record with a hello at its front, or an alert."""
    if p[0] != HANDSHAKE and p[0] != ALERT:
        return False
    if n > 1 and p[1] != 3 or n > 2 and p[2] > 4:
        return False
    if p[0] == ALERT:
        return not (n > 3 and p[3] or n > 4 and p[4] != 2 or n > 5 and p[5] != 1 and p[5] != 2)
    return not (n > 3 and p[3] > RECORD_MAX >> 8 or n > 5 and p[5] != 1 and p[5] != 2 or n > 6 and p[6])


cdef bint may_be_record(const uint8_t *p, size_t n) noexcept nogil:
    """Whether a piece begins with a record: where its end is seen, another must follow."""
    cdef size_t end
    if n < HEADER or not is_header(p):
        return False
    end = record_bytes(p)
    return end + HEADER > n or is_header(p + end)


cdef int look(Look *found, const uint8_t *t, size_t n) noexcept nogil:
    """Find out what t[:n], where a record should begin, is: a V_ word."""
    cdef uint8_t head[6]              # the handshake message's type, length and version
    cdef size_t at = 0, body, seen, need = 6, have = 0, k
    found.records = 0
    found.want = HEADER
    if n < HEADER:
        return V_MORE
    if not is_header(t):
        return V_NONE
    if t[0] != HANDSHAKE:
        return V_RECORD
    while True:
        found.want = at + HEADER
        if n < found.want:
            return V_MORE
        if t[at] != HANDSHAKE or not is_header(t + at) or found.records == HELLO_RECORDS:
            return V_BROKEN
        found.records += 1
        body = record_bytes(t + at) - HEADER
        at += HEADER
        seen = n - at if n - at < body else body
        k = 0
        while have < 6 and k < seen:
            head[have] = t[at + k]
            have += 1
            k += 1
        if have and head[0] != 1 and head[0] != 2:
            return V_RECORD
        if have == 6 and need == 6:
            need = 4 + (<size_t>head[1] << 16 | head[2] << 8 | head[3])
            if head[4] != 3 or need < 4 + HELLO_MIN:
                return V_RECORD
            if need > HELLO_MAX:
                return V_BROKEN
        have += seen - k
        if have >= need and need > 6:
            found.end = at + seen - (have - need)
            found.left = <uint32_t>(at + body - found.end)
            found.type = head[0]
            found.version = head[4] << 8 | head[5]
            return V_HELLO
        if seen < body:
            k = need - have
            found.want = at + seen + (k if k < body - seen else body - seen)
            return V_MORE
        at += body


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


cdef int put_next(Side *s, Piece *p, int kind, size_t n, int64_t value,
                  uint32_t message) noexcept nogil:
    """Emit the piece's next n bytes."""
    cdef size_t at = p.at
    p.at += n
    return put(s, p, kind, p.offset + at, n, p.data + at, value, 0, message)


cdef int hold(Side *s, Piece *p, size_t n) noexcept nogil:
    """Move the piece's next n bytes to `held`; look() bounds them."""
    cdef uint32_t room
    cdef void *more
    if s.held_n + n > s.held_room:
        room = 64
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


cdef uint8_t *let_go(Side *s) noexcept nogil:
    """Take what is held off the side; the caller frees it."""
    cdef uint8_t *held = s.held
    s.held = NULL
    s.held_n = s.held_room = 0
    return held


# ------------------------------------------------------------------ the decoder

cdef class TlsDecoder(Decoder):
    """Decode both directions of one TLS connection.

    Units, by `KINDS`; `message` counts the records of a direction from 0:
    record         bytes of one record, its header included, as they come; value: content type;
                   empty and incomplete where the record breaks off
    client_hello   the records that carry a hello, headers included, up to its last byte, in one
    server_hello   piece; value: its legacy_version
    other          what is not TLS, or a client hello in SSL 2.0 format
    gap            bytes that the capture lacks
    """

    name = "tls"
    over = ("tcp", "sctp")

    cdef Side side[2]
    cdef uint32_t reasons[R_COUNT]

    def __dealloc__(self):
        free(self.side[0].held)
        free(self.side[1].held)

    @property
    def counters(self):
        """How often each reason of REASONS was met: {name: count}, without the zeros."""
        return {REASON_NAMES[i]: self.reasons[i] for i in range(R_COUNT) if self.reasons[i]}

    @property
    def unsynced(self):
        """Whether a direction looks for the next record after a gap or bytes that are not TLS."""
        return self.side[0].state in (S_SEARCH, S_PLAIN) or self.side[1].state in (S_SEARCH, S_PLAIN)

    @staticmethod
    def probe(data, direction, port):
        """Say whether a stream's first bytes are TLS records; None asks for more.

        A stream met in its middle is recognised where it begins with a record, one that begins with
        another protocol where the client asks for TLS and then sends a hello.

        >>> TlsDecoder.probe(bytes.fromhex("16030100c8010000c40303"), 0, 443)
        True
        >>> TlsDecoder.probe(b"GET / HTTP/1.1", 0, 443)
        False
        """
        answer = probe_start(bytes(data[:PROBE_BYTES]))
        return probe_plain(bytes(data)) if answer is False else answer

    def kind_name(self, int kind):
        """Name a kind of unit."""
        return KINDS[kind]

    def describe(self, int kind, bytes data):
        """Give the TlsHello of a hello unit, else None."""
        if kind == K_CLIENT_HELLO or kind == K_SERVER_HELLO:
            return parse_hello(data)
        return None

    # -- the three calls of the core

    cdef int feed(self, int direction, const uint8_t *data, size_t n, uint64_t offset,
                  int64_t ts, fos_sink *sink) except -1 nogil:
        cdef Piece p = Piece(data, n, 0, offset, ts, sink)
        cdef Side *s = &self.side[direction & 1]
        if n and s.state == S_SEARCH and may_be_record(data, n):
            s.state = S_START
            self.reasons[R_RESYNC] += 1
        if self.run(s, &p) < 0:
            with gil:
                raise MemoryError("no memory for a TLS unit")
        return 0

    cdef int gap(self, int direction, uint64_t offset, uint64_t length,
                 int64_t ts, fos_sink *sink) except -1 nogil:
        cdef Piece p = Piece(NULL, 0, 0, offset, ts, sink)
        if length and self.miss(&self.side[direction & 1], &p, length) < 0:
            with gil:
                raise MemoryError("no memory for a TLS unit")
        return 0

    cdef int finish(self, int direction, uint64_t offset, int64_t ts,
                    fos_sink *sink) except -1 nogil:
        cdef Piece p = Piece(NULL, 0, 0, offset, ts, sink)
        if self.cut(&self.side[direction & 1], &p) < 0:
            with gil:
                raise MemoryError("no memory for a TLS unit")
        return 0

    # -- the machine: each returns 0, or -1 without memory

    cdef int run(self, Side *s, Piece *p) noexcept nogil:
        cdef int result = 0
        cdef size_t n
        while result == 0 and p.at < p.n:
            n = p.n - p.at
            if s.state == S_START:
                result = self.take_start(s, p)
            elif s.state == S_SEARCH:
                result = put_next(s, p, K_OTHER, n, 0, s.records)
            elif s.state == S_PLAIN:
                result = self.take_plain(s, p)
            else:
                if n > s.left:
                    n = s.left
                s.left -= <uint32_t>n
                if s.state == S_SKIP:
                    result = put_next(s, p, K_OTHER, n, 0, s.records)
                else:
                    result = put_next(s, p, K_RECORD, n, s.type, s.records - 1)
                if s.left == 0:
                    s.state = S_START
        return result

    cdef int take_start(self, Side *s, Piece *p) noexcept nogil:
        """START: a record begins, or a hello; held bytes grow only to where look() wants them."""
        cdef Look found
        cdef size_t n = p.n - p.at
        cdef const uint8_t *t = p.data + p.at
        cdef int verdict
        if s.held_n:
            look(&found, s.held, s.held_n)
            if hold(s, p, n if n < found.want - s.held_n else found.want - s.held_n) < 0:
                return -1
            t = s.held
            n = s.held_n
        verdict = look(&found, t, n)
        if s.plain and n >= HEADER and verdict != V_NONE:
            verdict = V_RECORD
        if verdict == V_MORE:
            return hold(s, p, n) if s.held_n == 0 else 0
        if verdict == V_BROKEN:
            self.reasons[R_BAD_HELLO] += 1
        if verdict == V_HELLO:
            return self.put_hello(s, p, &found)
        if s.held_n:
            return self.replay(s, p)
        s.plain = False
        if verdict == V_NONE:
            return self.no_record(s, t)
        s.type = t[0]
        s.left = <uint32_t>record_bytes(t)
        s.records += 1
        s.state = S_RECORD
        return 0

    cdef int take_plain(self, Side *s, Piece *p) noexcept nogil:
        """PLAIN: pass what cannot begin TLS; hold what may, until it is clear."""
        cdef const uint8_t *t = p.data + p.at
        cdef size_t n = p.n - p.at, k = 0
        cdef int result
        if s.held_n == 0:
            while k < n and not begins_tls(t + k, 1):
                k += 1
            if k == 0:
                return hold(s, p, 1)
            if s.off + k > PLAIN_MAX:
                s.state = S_SEARCH
            return put_next(s, p, K_OTHER, k, 0, s.records)
        if hold(s, p, 1) < 0:
            return -1
        while k < s.held_n and not begins_tls(s.held + k, s.held_n - k):
            k += 1
        if k == 0:
            if s.held_n == BEGINNING:
                s.state = S_START
            return 0
        result = put(s, p, K_OTHER, s.held_at, k, s.held, 0, 0, s.records)
        memmove(s.held, s.held + k, s.held_n - k)
        s.held_n -= <uint32_t>k
        s.held_at += k
        return result

    cdef int put_hello(self, Side *s, Piece *p, Look *found) noexcept nogil:
        cdef int kind = K_CLIENT_HELLO if found.type == 1 else K_SERVER_HELLO, result
        cdef uint32_t first = s.records
        cdef uint8_t *held
        s.records += found.records
        s.type = HANDSHAKE
        s.left = found.left
        s.state = S_RECORD if s.left else S_START
        if s.held_n == 0:
            return put_next(s, p, kind, found.end, found.version, first)
        held = let_go(s)
        result = put(s, p, kind, s.held_at, found.end, held, found.version, 0, first)
        free(held)
        return result

    cdef int replay(self, Side *s, Piece *p) noexcept nogil:
        """Read the held bytes again, the first record as no hello."""
        cdef Piece again = Piece(NULL, s.held_n, 0, s.held_at, p.ts, p.sink)
        cdef uint8_t *held = let_go(s)
        cdef int result
        again.data = held
        s.plain = True
        result = self.run(s, &again)
        free(held)
        return result

    cdef int no_record(self, Side *s, const uint8_t *t) noexcept nogil:
        if s.off == 0 and is_sslv2_hello(t):
            self.reasons[R_SSLV2_HELLO] += 1
            s.state = S_SKIP
            s.left = 2 + ((t[0] & 0x7f) << 8 | t[1])
        elif s.off == 0 and is_plain(t):
            self.reasons[R_GREETING] += 1
            s.state = S_PLAIN
        else:
            self.reasons[R_BAD_RECORD] += 1
            s.state = S_SEARCH
        return 0

    cdef int cut(self, Side *s, Piece *p) noexcept nogil:
        """What follows is lost: emit what is held, and mark the record that breaks off."""
        cdef uint8_t *held
        cdef uint32_t n
        cdef int result = 0
        while result == 0 and s.held_n >= HEADER and s.state != S_PLAIN:
            result = self.replay(s, p)
        if result == 0 and s.held_n:            # not even a header
            n = s.held_n
            held = let_go(s)
            result = put(s, p, K_OTHER, s.held_at, n, held, 0, FOS_UNIT_INCOMPLETE, s.records)
            free(held)
        if result == 0 and s.state == S_RECORD:
            s.state = S_SEARCH
            result = put(s, p, K_RECORD, p.offset, 0, NULL, s.type, FOS_UNIT_INCOMPLETE,
                         s.records - 1)
        return result

    cdef int miss(self, Side *s, Piece *p, uint64_t length) noexcept nogil:
        """Bytes will never come.  Framing outlives a gap that lies inside a record."""
        cdef uint64_t start = p.offset
        cdef uint32_t message
        cdef int result = 0
        self.reasons[R_GAP_IN_HELLO] += s.held_n > HEADER and s.state != S_PLAIN
        while result == 0 and s.held_n >= HEADER and s.state != S_PLAIN:
            result = self.replay(s, p)
        if result < 0:
            return -1
        if (s.state == S_RECORD or s.state == S_SKIP) and length <= s.left:
            message = s.records - (s.state == S_RECORD)
            s.left -= <uint32_t>length
            if s.left == 0:
                s.state = S_START
            return put(s, p, FOS_UNIT_GAP, start, length, NULL, 0, 0, message)
        self.reasons[R_GAP_PAST_RECORD] += s.state == S_RECORD
        if self.cut(s, p) < 0:
            return -1
        s.state = S_SEARCH
        return put(s, p, FOS_UNIT_GAP, start, length, NULL, 0, 0, s.records)


# ------------------------------------------------------------------ the view that Python gets

cdef object probe_start(bytes data):
    cdef const uint8_t *p = data
    cdef Py_ssize_t n = len(data)
    cdef uint8_t head[HEADER]
    if n < HEADER:                      # could the bytes so far begin a header?
        memcpy(head, b"\x17\x03\x03\x00\x10", HEADER)
        memcpy(head, p, n)
        return None if is_header(head) else False
    return may_be_record(p, n) and p[2] <= 3


# How a client asks for TLS: SMTP, IMAP, POP3, FTP, NNTP, ManageSieve; XMPP; LDAP; PostgreSQL; MySQL.
ASKS = re.compile(
    rb"(?:\A|[ \n])(?:STARTTLS|STLS|AUTH (?:TLS|SSL))\r?\n\Z"
    rb"|<starttls\s[^>]*(?:/>|>\s*</starttls>)\s*\Z"
    rb"|\A0.{1,40}1\.3\.6\.1\.4\.1\.1466\.20037\Z"
    rb"|\A(?:\0\0\0\x08\x04\xd2\x16\x30)?\0\0\0\x08\x04\xd2\x16\x2f\Z"
    rb"|\A\x20\0\0\x01.{9}\0{19}.{4}\Z", re.I | re.S)
# How it begins before it asks, as far as it has come.
WORDS = (b"EHLO ", b"LHLO ", b"HELO ", b"STARTTLS", b"STLS", b"CAPA", b"AUTH ", b"FEAT", b"MODE READER", b"<?XML ",
         b"<STREAM:STREAM", b"\0\0\0\x08\x04\xd2\x16", b"\x20\0\0\x01")
TAGGED = re.compile(rb"[!-~]{1,16} (?:STARTTLS|CAPABILITY|ID|NOOP)\b", re.I)       # IMAP
FIRST_HELLO = re.compile(rb"\x16\x03[\0-\x04][\0-\x48].\x01\0", re.S)


cdef object probe_plain(bytes data):
    """Say whether a client speaks another protocol, asks for TLS and sends a hello; None: it may yet.

    A server is not asked: what it said before is no hello of its own.
    """
    hello = FIRST_HELLO.search(data)
    if hello is not None:
        return ASKS.search(data, 0, hello.start()) is not None
    first = data[:16].upper()
    if any([first.startswith(word[:len(first)]) for word in WORDS]):
        return None
    return None if TAGGED.match(data) or ASKS.search(data) else False


def is_grease(int value):
    """Say whether a code is one of those sent to be ignored (RFC 8701).

    >>> is_grease(0x1a1a), is_grease(0x1301)
    (True, False)
    """
    return (value & 0x0f0f) == 0x0a0a and value >> 8 == (value & 0xff)


def version_name(int value):
    """Give a protocol version's name; GREASE is marked, other codes are in hexadecimal.

    >>> [version_name(code) for code in (0x0304, 0x7a7a, 0x7f1c)]
    ['TLS 1.3', 'GREASE 0x7a7a', '0x7f1c']
    """
    return VERSIONS.get(value) or f"GREASE 0x{value:04x}" * is_grease(value) or f"0x{value:04x}"


cdef class TlsHello:
    """What a hello says, read-only.  Codes are ints as sent, GREASE included (see is_grease).

    kind          "client" or "server"
    version       legacy_version; `versions` has what supported_versions offers or chooses
    sni           server name asked for, or None
    alpn          protocols offered, or the one chosen: list of str
    ciphers       offered by a client;  cipher  chosen by a server, else None
    extensions    types, in order of appearance
    groups, signature_algorithms, point_formats    of these extensions
    random, session_id    bytes
    retry         a server's HelloRetryRequest
    ja4           a client's fingerprint by JA4, "t13d1516h2_8daaf6152771_e5627efa2ab1"; a server's is None
    ja3           the older fingerprint: JA3 of a client, JA3S of a server
    damaged       the message is cut or contradicts itself; what was read before stands
    """

    cdef readonly str kind, sni
    cdef readonly int version
    cdef readonly list version_codes, alpn, ciphers, extensions, groups, signature_algorithms
    cdef readonly list point_formats
    cdef readonly object cipher
    cdef readonly bytes random, session_id
    cdef readonly bint damaged
    cdef bytes first_alpn           # as sent: JA4 looks at its bytes

    @property
    def versions(self):
        """Names of the versions offered or chosen, GREASE marked; the legacy one without others."""
        return [version_name(code) for code in self.version_codes or [self.version]]

    @property
    def retry(self):
        """Whether this is a HelloRetryRequest: RFC 8446 section 4.1.3 fixes its random."""
        return self.kind == "server" and self.random == RETRY

    @property
    def ja4(self):
        """The client's fingerprint by FoxIO's JA4 (technical_details/JA4.md there); None for a server.

        Clients that differ in the order of their extensions alone, as browsers shuffle it, are alike.
        """
        if self.kind != "client":
            return None
        ciphers = hexes(self.ciphers)
        extensions = hexes(self.extensions)
        version = max([code for code in self.version_codes if not is_grease(code)], default=self.version)
        told = sorted([code for code in extensions if code not in ("0000", "0010")])
        algorithms = hexes(self.signature_algorithms)
        return (f"t{JA4_VERSIONS.get(version, '00')}{'d' if '0000' in extensions else 'i'}"
                f"{min(len(ciphers), 99):02}{min(len(extensions), 99):02}{ends(self.first_alpn)}"
                f"_{short_hash(','.join(sorted(ciphers)))}"
                f"_{short_hash('_'.join([','.join(told)] + [','.join(algorithms)] * bool(algorithms)))}")

    @property
    def ja3(self):
        """The MD5 of version, ciphers, extensions and, of a client, groups and point formats, as JA3 joins them."""
        fields = [self.ciphers, self.extensions, self.groups] if self.kind == "client" else [
            [] if self.cipher is None else [self.cipher], self.extensions]
        parts = [str(self.version)]
        for field in fields:
            parts.append("-".join([str(code) for code in field if not is_grease(code)]))
        if self.kind == "client":
            parts.append("-".join([str(code) for code in self.point_formats]))
        return hashlib.md5(",".join(parts).encode(), usedforsecurity=False).hexdigest()

    def __repr__(self):
        return f"<TlsHello {self.kind} {self.sni or ''} {'/'.join(self.versions)}>"


JA4_VERSIONS = {0x0002: "s2", 0x0300: "s3", 0x0301: "10", 0x0302: "11", 0x0303: "12", 0x0304: "13"}


cdef list hexes(list numbers):
    """Codes as JA4 writes them, without GREASE."""
    return [f"{code:04x}" for code in numbers if not is_grease(code)]


cdef str ends(bytes name):
    """JA4's two characters of the first protocol offered: its own, or those of its hexadecimal form."""
    if not name:
        return "00"
    if not (name[:1].isalnum() and name[len(name) - 1:].isalnum()):     # of bytes: ASCII alone
        name = name.hex().encode()
    return chr(name[0]) + chr(name[len(name) - 1])


cdef str short_hash(str text):
    return hashlib.sha256(text.encode()).hexdigest()[:12] if text else "0" * 12


RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")


cdef bytes take(fos_cursor *c, size_t n):
    cdef const uint8_t *p = fos_cur_bytes(c, n)
    return (<const char *>p)[:n] if p != NULL else b""


cdef str text(bytes name):
    """Printable ASCII as it is, other bytes escaped: a name from the wire may hold anything."""
    return "".join([chr(c) if 32 < c < 127 else f"\\x{c:02x}" for c in name])


cdef list codes(fos_cursor c, size_t width):
    """The 8- or 16-bit codes of a list, to its end."""
    cdef list found = []
    while fos_cur_left(&c) >= width:
        found.append(fos_cur_u8(&c) if width == 1 else fos_cur_be16(&c))
    return found


cdef int read_extension(TlsHello hello, int number, fos_cursor c) except -1:
    """Read one extension's data; returns whether it was sound."""
    cdef fos_cursor entries
    cdef bint client = hello.kind == "client"
    if number == 0 and client:
        entries = fos_cur_sub(&c, fos_cur_be16(&c))
        while fos_cur_left(&entries) and hello.sni is None:
            kind = fos_cur_u8(&entries)
            name = take(&entries, fos_cur_be16(&entries))
            if kind == 0 and fos_cur_ok(&entries):
                hello.sni = text(name)
        return fos_cur_ok(&c) and fos_cur_ok(&entries)
    if number == 16:
        entries = fos_cur_sub(&c, fos_cur_be16(&c))
        while fos_cur_left(&entries):
            name = take(&entries, fos_cur_u8(&entries))
            if fos_cur_ok(&entries):
                hello.first_alpn = hello.first_alpn if hello.alpn else name
                hello.alpn.append(text(name))
        return fos_cur_ok(&c) and fos_cur_ok(&entries)
    if number == 43 and client:
        hello.version_codes = codes(fos_cur_sub(&c, fos_cur_u8(&c)), 2)
    elif number == 43:
        hello.version_codes = [fos_cur_be16(&c)]
    elif number == 10:
        hello.groups = codes(fos_cur_sub(&c, fos_cur_be16(&c)), 2)
    elif number == 13:
        hello.signature_algorithms = codes(fos_cur_sub(&c, fos_cur_be16(&c)), 2)
    elif number == 11:
        hello.point_formats = codes(fos_cur_sub(&c, fos_cur_u8(&c)), 1)
    return fos_cur_ok(&c)


def parse_hello(bytes data not None):
    """Read the hello in a hello unit's bytes: records, headers included.  None when there is none.

    Never raises on what the wire says: a damaged hello gives what was read up to the damage.
    """
    cdef fos_cursor records = fos_cur(data, len(data)), c, extensions
    cdef const uint8_t *h
    cdef int number
    cdef list parts = []
    while fos_cur_left(&records) >= HEADER:
        h = fos_cur_bytes(&records, HEADER)
        if h[0] != HANDSHAKE:
            break
        parts.append(take(&records, min(record_bytes(h) - HEADER, fos_cur_left(&records))))
    cdef bytes message = b"".join(parts)
    c = fos_cur(message, len(message))
    number = fos_cur_u8(&c)
    if number != 1 and number != 2:
        return None
    cdef TlsHello hello = TlsHello.__new__(TlsHello)
    hello.kind = "client" if number == 1 else "server"
    hello.version_codes, hello.alpn, hello.ciphers, hello.extensions = [], [], [], []
    hello.groups, hello.signature_algorithms, hello.point_formats = [], [], []
    cdef size_t length = fos_cur_be24(&c)
    cdef bint sound = length <= fos_cur_left(&c)
    c = fos_cur_sub(&c, min(length, fos_cur_left(&c)))
    hello.version = fos_cur_be16(&c)
    hello.random = take(&c, 32)
    hello.session_id = take(&c, fos_cur_u8(&c))
    if number == 1:
        hello.ciphers = codes(fos_cur_sub(&c, fos_cur_be16(&c)), 2)
        fos_cur_skip(&c, fos_cur_u8(&c))            # compression methods
    else:
        cipher = fos_cur_be16(&c)
        hello.cipher = cipher if fos_cur_ok(&c) else None
        fos_cur_skip(&c, 1)
    sound = sound and fos_cur_ok(&c)
    if sound and fos_cur_left(&c):                  # SSL 3.0 and early TLS have none
        extensions = fos_cur_sub(&c, fos_cur_be16(&c))
        sound = fos_cur_ok(&c)
        while fos_cur_left(&extensions) and sound:
            number = fos_cur_be16(&extensions)
            c = fos_cur_sub(&extensions, fos_cur_be16(&extensions))
            sound = fos_cur_ok(&extensions)
            if sound:
                hello.extensions.append(number)
                sound = read_extension(hello, number, c)
    hello.damaged = not sound
    return hello
