/* Reading HTTP/1's text: start lines, where a head ends, the fields that frame a body, chunk sizes.
 *
 * Pure functions over bytes (RFC 9110, 9112): nothing is kept, emitted or allocated here, so that
 * a fuzzer can drive them without Python.  The machine that walks a connection is
 * decoders/http.pyx.  Text is read as real peers read it: a bare LF ends a line, a target may
 * contain raw spaces, a folded line belongs to its field; what is odd is reported for counting.
 */
#ifndef FOS_HTTP_H
#define FOS_HTTP_H

#include "cursor.h"

enum {
    FOS_HTTP_METHOD_MAX = 32, /* bytes of a method: the longest registered one has 17 */
    FOS_HTTP_LINE_MAX = 4096, /* bytes of a chunk-size line with its extensions */
};

/* Methods known by name: RFC 9110 and PATCH first, then WebDAV and its kin (RFC 3253, 3744, 4918,
 * 5323, 5842), UPnP, and what Microsoft's servers added.  A method's number is its place, from 1. */
#define FOS_HTTP_METHODS(X) \
    X("GET") X("HEAD") X("POST") X("PUT") X("DELETE") X("CONNECT") X("OPTIONS") X("TRACE") \
    X("PATCH") X("COPY") X("LOCK") X("MKCOL") X("MOVE") X("PROPFIND") X("PROPPATCH") X("UNLOCK") \
    X("SEARCH") X("BIND") X("UNBIND") X("REBIND") X("ACL") X("LABEL") X("MERGE") X("REPORT") \
    X("UPDATE") X("CHECKIN") X("CHECKOUT") X("UNCHECKOUT") X("MKACTIVITY") X("MKWORKSPACE") \
    X("MKCALENDAR") X("LINK") X("UNLINK") X("VERSION-CONTROL") X("BASELINE-CONTROL") \
    X("ORDERPATCH") X("QUERY") X("PURGE") X("SOURCE") X("NOTIFY") X("SUBSCRIBE") \
    X("UNSUBSCRIBE") X("M-SEARCH") X("POLL") X("BCOPY") X("BMOVE") X("BDELETE") X("BPROPFIND") \
    X("BPROPPATCH") X("CCM_POST") X("RPC_CONNECT") X("RPC_IN_DATA") X("RPC_OUT_DATA") \
    X("SSTP_DUPLEX_POST")

enum { FOS_HTTP_HEAD = 2, FOS_HTTP_CONNECT = 6, FOS_HTTP_CORE = 9 };

typedef struct fos_http_name {
    const char *text;
    size_t n;
} fos_http_name;

static const fos_http_name fos_http_methods[] = {
    {"", 0},
#define X(name) {name, sizeof(name) - 1},
    FOS_HTTP_METHODS(X)
#undef X
};
enum { FOS_HTTP_METHOD_COUNT = sizeof(fos_http_methods) / sizeof(fos_http_methods[0]) };

/* A start line, as read. */
typedef struct fos_http_start {
    int value;                /* a request: the method's number, 0 for another; else the status */
    uint8_t response;
    uint8_t is_1_1;           /* HTTP/1.1 or later */
    uint8_t odd;              /* a request without a proper version, taken for its known method */
} fos_http_start;

/* What the fields of a head say of the body's framing. */
typedef struct fos_http_framing {
    uint64_t length;          /* the last Content-Length, below 2^60 */
    uint32_t fields;
    uint32_t bad_fields;      /* lines without a colon, or with space before it */
    uint8_t has_length;
    uint8_t bad_length;       /* a Content-Length that is no number */
    uint8_t conflict;         /* Content-Lengths that differ */
    uint8_t has_coding;       /* a Transfer-Encoding other than identity */
    uint8_t chunked;          /* its last coding is chunked */
} fos_http_framing;

/* tchar of RFC 9110 section 5.6.2. */
FOS_INLINE int fos_http_is_token(uint8_t c) {
    static const uint8_t map[32] = {
        0, 0, 0, 0, 0xfa, 0x6c, 0xff, 0x03, 0xfe, 0xff, 0xff, 0xc7, 0xff, 0xff, 0xff, 0x57,
    };
    return map[c >> 3] >> (c & 7) & 1;
}

FOS_INLINE int fos_http_is_space(uint8_t c) {
    return c == ' ' || c == '\t';
}

FOS_INLINE int fos_http_is_digit(uint8_t c) {
    return c >= '0' && c <= '9';
}

/* The value of a hexadecimal digit, or -1. */
FOS_INLINE int fos_http_hex(uint8_t c) {
    uint8_t low = c | 32;
    return fos_http_is_digit(c) ? c - '0' : low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
}

/* The number of the known method t[0:n] begins, or with `whole`, is; else 0. */
FOS_INLINE int fos_http_method(const uint8_t *t, size_t n, int whole) {
    for (int i = 1; i < FOS_HTTP_METHOD_COUNT; i++) {
        size_t all = fos_http_methods[i].n;
        if ((all == n || (!whole && all > n)) && !memcmp(fos_http_methods[i].text, t, n)) return i;
    }
    return 0;
}

/* Whether c can begin the target of a request that must be beyond doubt: origin form, asterisk,
 * absolute form with http:, or CONNECT's authority. */
FOS_INLINE int fos_http_is_target(int method, uint8_t c) {
    if (method == FOS_HTTP_CONNECT) return fos_http_is_token(c) || c == '[';
    return c == '/' || c == '*' || c == 'h' || c == 'H';
}

/* Whether t[0:n], n > 0 and without a line end yet, can still become a start line; looks at 33
 * bytes at most.  `strict` admits known methods and HTTP/1 alone. */
static int fos_http_may_start(const uint8_t *t, size_t n, int strict) {
    size_t i = 0;
    int method;
    if (!memcmp(t, "HTTP/", n < 5 ? n : 5))
        return !strict || ((n < 6 || t[5] == '1') && (n < 7 || t[6] == '.'));
    while (i < n && i <= FOS_HTTP_METHOD_MAX && fos_http_is_token(t[i])) i++;
    if (i == 0 || i > FOS_HTTP_METHOD_MAX) return 0;
    if (i == n) return !strict || fos_http_method(t, n, 0);
    if (!strict) return fos_http_is_space(t[i]) || t[i] == '\r';
    method = fos_http_method(t, i, 1);
    return method && t[i] == ' ' && (i + 1 == n || fos_http_is_target(method, t[i + 1]));
}

/* `HTTP/1.1 200 OK`; the reason may be absent.  t begins with HTTP/. */
static int fos_http_status_line(fos_http_start *s, const uint8_t *t, size_t n, int strict) {
    size_t i = 8;
    if (n < 12 || !fos_http_is_digit(t[5]) || t[6] != '.' || !fos_http_is_digit(t[7])) return 0;
    if (!fos_http_is_space(t[8]) || (strict && t[5] != '1')) return 0;
    while (i < n && fos_http_is_space(t[i])) i++;
    if (n - i < 3 || t[i] == '0') return 0;
    for (size_t j = i; j < i + 3; j++)
        if (!fos_http_is_digit(t[j])) return 0;
    if (n - i > 3 && !fos_http_is_space(t[i + 3])) return 0;
    s->response = 1;
    s->odd = 0;
    s->value = (t[i] - '0') * 100 + (t[i + 1] - '0') * 10 + (t[i + 2] - '0');
    s->is_1_1 = t[5] > '1' || (t[5] == '1' && t[7] > '0');
    return 1;
}

/* `GET /path HTTP/1.1`.  The version is the last word, the target all between.  A known method may
 * go without a version or with a damaged one, as HTTP/0.9 clients and scanners have it; any other
 * method needs HTTP/1.x. */
static int fos_http_request_line(fos_http_start *s, const uint8_t *t, size_t n, int strict) {
    size_t name = 0, target, word;
    int method, version, http;
    while (name < n && name <= FOS_HTTP_METHOD_MAX && fos_http_is_token(t[name])) name++;
    if (name == 0 || name > FOS_HTTP_METHOD_MAX || (name < n && !fos_http_is_space(t[name]))) return 0;
    while (n > name && fos_http_is_space(t[n - 1])) n--;
    for (target = name; target < n && fos_http_is_space(t[target]);) target++;
    for (word = n; word > target && !fos_http_is_space(t[word - 1]);) word--;
    method = fos_http_method(t, name, 1);
    http = word > target && n - word >= 5 && !memcmp(t + word, "HTTP/", 5);
    version = http && n - word == 8 && fos_http_is_digit(t[word + 5]) && t[word + 6] == '.'
        && fos_http_is_digit(t[word + 7]);
    s->response = 0;
    s->value = method;
    s->odd = !version;
    s->is_1_1 = version && t[word + 7] > '0';
    if (strict) {                             /* three words, one space behind the first */
        version = version && t[name] == ' ' && target == name + 1;
        for (size_t i = target; version && i + 1 < word; i++) version = !fos_http_is_space(t[i]);
        return version && t[word + 5] == '1' && method && fos_http_is_target(method, t[target]);
    }
    return (version && t[word + 5] == '1') || (method && (http || word <= target));
}

/* A start line of n > 0 bytes, its LF included.  Control bytes are damage, and pass only where
 * they do none: in a reason. */
static int fos_http_start_line(fos_http_start *s, const uint8_t *t, size_t n, int strict) {
    int response = n > 5 && !memcmp(t, "HTTP/", 5);
    n--;
    if (n && t[n - 1] == '\r') n--;
    for (size_t i = 0; i < n && (strict || !response); i++)
        if ((t[i] < 32 && t[i] != '\t') || t[i] == 127) return 0;
    return response ? fos_http_status_line(s, t, n, strict) : fos_http_request_line(s, t, n, strict);
}

/* The bytes of t up to and with the first blank line behind another line; 0 when there is none. */
static size_t fos_http_head_end(const uint8_t *t, size_t n) {
    const uint8_t *end = t + n, *p = t;
    while (p < end && (p = memchr(p, '\n', (size_t)(end - p)))) {
        p++;
        if (p < end && *p == '\n') return (size_t)(p + 1 - t);
        if (end - p > 1 && p[0] == '\r' && p[1] == '\n') return (size_t)(p + 2 - t);
    }
    return 0;
}

/* Whether t[0:n], which ends in LF, ends in a blank line behind another line. */
FOS_INLINE int fos_http_ends_blank(const uint8_t *t, size_t n) {
    return (n >= 2 && t[n - 2] == '\n') || (n >= 3 && t[n - 2] == '\r' && t[n - 3] == '\n');
}

FOS_INLINE int fos_http_is_word(const uint8_t *t, size_t n, const char *lower, size_t lower_n) {
    if (n != lower_n) return 0;
    for (size_t i = 0; i < n; i++)
        if ((t[i] >= 'A' && t[i] <= 'Z' ? t[i] | 32 : t[i]) != (uint8_t)lower[i]) return 0;
    return 1;
}

/* Take white space, a folded line's ends included, off both sides. */
static void fos_http_trim(const uint8_t **t, size_t *n) {
    while (*n && (fos_http_is_space(**t) || **t == '\r' || **t == '\n')) (*t)++, (*n)--;
    while (*n) {
        uint8_t c = (*t)[*n - 1];
        if (!fos_http_is_space(c) && c != '\r' && c != '\n') return;
        (*n)--;
    }
}

/* One member of a Content-Length. */
static void fos_http_read_length(fos_http_framing *f, const uint8_t *t, size_t n) {
    uint64_t value = 0;
    fos_http_trim(&t, &n);
    f->bad_length |= n == 0 || n > 18;
    for (size_t i = 0; i < n && !f->bad_length; i++) {
        f->bad_length |= !fos_http_is_digit(t[i]);
        value = value * 10 + (uint64_t)(t[i] - '0');
    }
    if (f->bad_length) return;
    f->conflict |= f->has_length && value != f->length;
    f->has_length = 1;
    f->length = value;
}

/* One member of a Transfer-Encoding: the last one counts (RFC 9112 section 6.1). */
static void fos_http_read_coding(fos_http_framing *f, const uint8_t *t, size_t n) {
    const uint8_t *semicolon = n ? memchr(t, ';', n) : NULL;
    if (semicolon) n = (size_t)(semicolon - t);
    fos_http_trim(&t, &n);
    if (n == 0 || fos_http_is_word(t, n, "identity", 8)) return;
    f->has_coding = 1;
    f->chunked = (uint8_t)fos_http_is_word(t, n, "chunked", 7);
}

/* Read the fields of a head, its start line included, for what frames the body. */
static void fos_http_fields(fos_http_framing *f, const uint8_t *head, size_t head_n) {
    fos_cursor c = fos_cur(head, head_n);
    size_t n, more, name;
    const uint8_t *line, *colon, *comma;
    memset(f, 0, sizeof(*f));
    fos_cur_line(&c, &n);
    while ((line = fos_cur_line(&c, &n)) && line[0] != '\n' && !(line[0] == '\r' && n == 2)) {
        colon = memchr(line, ':', n);
        while (fos_cur_left(&c) && fos_http_is_space(*c.p) && fos_cur_line(&c, &more)) n += more;
        f->fields++;
        if (!colon || !fos_http_is_token(line[0])) {
            f->bad_fields++;
            continue;
        }
        name = (size_t)(colon - line);
        f->bad_fields += (uint32_t)fos_http_is_space(line[name - 1]);
        while (fos_http_is_space(line[name - 1])) name--;
        int length = fos_http_is_word(line, name, "content-length", 14);
        if (!length && !fos_http_is_word(line, name, "transfer-encoding", 17)) continue;
        n -= (size_t)(colon + 1 - line);
        line = colon + 1;
        for (;;) {
            comma = memchr(line, ',', n);
            more = comma ? (size_t)(comma - line) : n;
            if (length) fos_http_read_length(f, line, more);
            else fos_http_read_coding(f, line, more);
            if (!comma) break;
            line = comma + 1;
            n -= more + 1;
        }
    }
}

/* A chunk-size line, read as its bytes come; zero it before each line. */
typedef struct fos_http_chunk {
    uint64_t size;
    uint32_t n;               /* bytes of the line so far */
    uint8_t phase;            /* 0 before the digits, 1 in them, 2 in extensions, 3 behind a CR */
    uint8_t odd;              /* space or a bare CR came before the digits; read all the same */
} fos_http_chunk;

enum fos_http_chunk_result {
    FOS_HTTP_MORE,            /* all bytes used, the line goes on */
    FOS_HTTP_DONE,            /* its LF was used */
    FOS_HTTP_BAD,             /* the byte at *used fits in no size line */
    FOS_HTTP_LONG,            /* the line passes FOS_HTTP_LINE_MAX */
};

static enum fos_http_chunk_result fos_http_chunk_line(fos_http_chunk *k, const uint8_t *p, size_t n,
                                                      size_t *used) {
    for (*used = 0; *used < n; ++*used, k->n++) {
        uint8_t c = p[*used];
        int digit = fos_http_hex(c);
        if (k->n == FOS_HTTP_LINE_MAX) return FOS_HTTP_LONG;
        if (k->phase < 2 && digit >= 0) {
            if (k->size >> 58) return FOS_HTTP_BAD;       /* the size would pass 2^62 */
            k->size = k->size << 4 | (uint64_t)digit;
            k->phase = 1;
        } else if (k->phase && c == '\n') {
            ++*used;
            return FOS_HTTP_DONE;
        } else if (k->phase == 0 && (fos_http_is_space(c) || c == '\r')) {
            k->odd = 1;
        } else if (k->phase == 1 && (c == ';' || fos_http_is_space(c))) {
            k->phase = 2;
        } else if (k->phase == 1 && c == '\r') {
            k->phase = 3;
        } else if (k->phase != 2) {
            return FOS_HTTP_BAD;
        }
    }
    return FOS_HTTP_MORE;
}

#endif
