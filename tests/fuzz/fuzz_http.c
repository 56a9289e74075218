/* libFuzzer harness for decoders/http.h: HTTP's text, read whole and read in pieces.
 *
 * The input is copied to a block of its exact size, so that ASan sees any byte read beyond it.
 * What must hold whatever the bytes: a start line that is accepted whole was possible at every
 * cut; the end of a head is the same found at once and line by line; a chunk-size line reads the
 * same whole and byte by byte; no field list reads past its head.
 */
#include <stdlib.h>

#include "http.h"

#define CHECK(x) do { if (!(x)) abort(); } while (0)

static void start_lines(const uint8_t *data, size_t n) {
    const uint8_t *lf = memchr(data, '\n', n);
    size_t line = lf ? (size_t)(lf + 1 - data) : 0;
    for (int strict = 0; strict < 2; strict++) {
        fos_http_start start;
        int taken = line && fos_http_start_line(&start, data, line, strict);
        for (size_t i = 1; i < (line ? line : n); i++)
            CHECK(fos_http_may_start(data, i, strict) || !taken);
        if (taken && strict) CHECK(fos_http_start_line(&start, data, line, 0));
    }
}

static void head_ends(const uint8_t *data, size_t n) {
    size_t end = fos_http_head_end(data, n), found = 0;
    for (size_t i = 1; i <= n && !found; i++)
        if (data[i - 1] == '\n' && fos_http_ends_blank(data, i)) found = i;
    CHECK(end == found);
}

static void fields(const uint8_t *data, size_t n) {
    fos_http_framing f;
    fos_http_fields(&f, data, n);
    CHECK(f.bad_fields <= 2 * f.fields && f.fields <= n);
    CHECK(!f.has_length || f.length < 1000000000000000000u);
    CHECK(!f.chunked || f.has_coding);
}

static void chunk_lines(const uint8_t *data, size_t n) {
    fos_http_chunk whole = {0}, single = {0};
    size_t used, step = 0, at = 0;
    enum fos_http_chunk_result a = fos_http_chunk_line(&whole, data, n, &used), b = FOS_HTTP_MORE;
    while (at < n && b == FOS_HTTP_MORE) {
        b = fos_http_chunk_line(&single, data + at, 1, &step);
        at += step;
    }
    CHECK(a == b && used == at && whole.size == single.size && whole.n == single.n);
    CHECK(used <= n && whole.n <= FOS_HTTP_LINE_MAX && whole.size >> 62 == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *input, size_t n) {
    uint8_t *data;
    if (n == 0 || !(data = malloc(n))) return 0;
    memcpy(data, input, n);
    start_lines(data, n);
    head_ends(data, n);
    fields(data, n);
    chunk_lines(data, n);
    free(data);
    return 0;
}
