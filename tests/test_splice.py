"""Edits and their maps (splice.h), stages moving through their input (lane.h): the C against lists of bytes."""
import ctypes
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import ROOT, program

SHIM = r"""
#include "lane.h"

static fos_blocks blocks;

fos_stage *stage_new(void) {
    fos_stage *s = calloc(1, sizeof *s);
    s->flags = FOS_STAGE_WRITES;
    return s;
}
void stage_free(fos_stage *s) { fos_edits_free(&s->out, &blocks); free(s); }
const fos_edits *stage_out(const fos_stage *s) { return &s->out; }
int edits_check(const fos_edits *e) { return fos_edits_check(e); }
uint32_t edits_count(const fos_edits *e) { return fos_edits_count(e); }
uint64_t edits_seq(const fos_edits *e, uint64_t pos) { return fos_edits_seq(e, pos); }
uint64_t edits_ack(const fos_edits *e, uint64_t final) { return fos_edits_ack(e, final); }
uint64_t edits_inserted_at(const fos_edits *e, uint64_t off) { return fos_inserted_at(e, off); }
void edits_forget(fos_stage *s, uint64_t pos) { fos_edits_forget(&s->out, &blocks, pos); }
void edits_take(fos_stage *s) { fos_edit edit = fos_edits_take(&s->out); if (edit.data) fos_block_drop(&blocks, edit.data); }
int edits_put(fos_stage *s, uint64_t pos, uint64_t removed, const uint8_t *data, uint64_t n) {
    return fos_edits_put(&s->out, &blocks, pos, removed, data, n);
}
int stage_insert(fos_stage *s, const uint8_t *data, uint64_t n) { return fos_stage_insert(s, &blocks, data, n); }
int stage_take(fos_stage *s, const fos_edits *in, uint64_t off, uint64_t skip, int removes) {
    return fos_stage_take(s, &blocks, in, (fos_at){off, skip}, removes ? FOS_TAKE_REMOVE : FOS_TAKE_PASS);
}
void stage_at(const fos_stage *s, uint64_t at[2]) { at[0] = s->at.off; at[1] = s->at.skip; }

/* The bytes of [from, to) of an input over `original`, each with its place: returns how many. */
uint64_t input_bytes(const fos_edits *in, const uint8_t *original, const uint64_t from[2], const uint64_t to[2], uint8_t *bytes,
                     uint64_t *places, uint8_t *came) {
    fos_at at = {from[0], from[1]};
    uint64_t start = 0, n = 0, count = 0;
    const uint8_t *data = NULL, *block = NULL;
    for (int kind; (kind = fos_stage_run(in, &at, (fos_at){to[0], to[1]}, &start, &data, &block, &n));)
        for (uint64_t i = 0; i < n; i++, count++) {
            bytes[count] = kind == 2 ? original[start + i] : data[i];
            places[count] = kind == 2 ? start + i : start;
            came[count] = kind == 2;
        }
    return count;
}
"""
ALL = (1 << 64) - 1
STREAM = bytes(range(60))


@pytest.fixture(scope="module")
def c(tmp_path_factory):
    """The headers' functions, compiled for this test alone."""
    folder = tmp_path_factory.mktemp("splice")
    (folder / "shim.c").write_text(SHIM)
    subprocess.run([program("gcc"), "-shared", "-fPIC", "-std=gnu11", "-O1", "-Wall", "-Wno-unused-function", "-Werror",
                    f"-I{ROOT / 'flowos/core'}", folder / "shim.c", "-o", folder / "shim.so"], check=True)
    library = ctypes.CDLL(str(folder / "shim.so"))
    u64, pointer, data = ctypes.c_uint64, ctypes.c_void_p, ctypes.c_char_p
    for name, result, arguments in (
            ("stage_new", pointer, ()), ("stage_free", None, (pointer,)), ("stage_out", pointer, (pointer,)),
            ("edits_check", ctypes.c_int, (pointer,)), ("edits_count", ctypes.c_uint32, (pointer,)),
            ("edits_seq", u64, (pointer, u64)), ("edits_ack", u64, (pointer, u64)),
            ("edits_inserted_at", u64, (pointer, u64)), ("edits_forget", None, (pointer, u64)), ("edits_take", None, (pointer,)),
            ("edits_put", ctypes.c_int, (pointer, u64, u64, data, u64)), ("stage_insert", ctypes.c_int, (pointer, data, u64)),
            ("stage_take", ctypes.c_int, (pointer, pointer, u64, u64, ctypes.c_int)),
            ("stage_at", None, (pointer, u64 * 2)),
            ("input_bytes", u64, (pointer, data, u64 * 2, u64 * 2, ctypes.c_char_p, ctypes.POINTER(u64), ctypes.c_char_p))):
        getattr(library, name).restype, getattr(library, name).argtypes = result, arguments
    return library


class Writer:
    """A stage in C, with its input: another Writer's output or the stream itself."""

    def __init__(self, c, before=None):
        self.c, self.before, self.stage = c, before, c.stage_new()

    @property
    def out(self):
        return self.c.stage_out(self.stage)

    @property
    def input(self):
        return self.before.out if self.before else None

    def close(self):
        self.c.stage_free(self.stage)

    def at(self):
        place = (ctypes.c_uint64 * 2)()
        self.c.stage_at(self.stage, place)
        return tuple(place)

    def read(self, edits, start, end):
        """List the bytes between two places as (value, place, came)."""
        room = 4096
        values, came, places = ctypes.create_string_buffer(room), ctypes.create_string_buffer(room), (ctypes.c_uint64 * room)()
        n = self.c.input_bytes(edits, STREAM, (ctypes.c_uint64 * 2)(*start), (ctypes.c_uint64 * 2)(*end), values, places, came)
        return [(values.raw[i], places[i], bool(came.raw[i])) for i in range(n)]

    def window(self, limit):
        return self.read(self.input, self.at(), limit)

    def released(self, upto):
        return self.read(self.out, (0, 0), upto)

    def take(self, place, removes):
        assert self.c.stage_take(self.stage, self.input, *place, removes) == 0
        assert self.c.edits_check(self.out) == 0


# ------------------------------------------------------------------------------ one list of edits

LISTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 5), st.binary(max_size=4)), max_size=8)


def placed(parts):
    """Turn (distance, removed, inserted) into edits at ascending positions."""
    edits, at = [], 0
    for distance, removed, inserted in parts:
        if removed or inserted:
            edits.append((at + distance, removed, inserted))
            at += distance + removed
    return edits


def filled(c, edits):
    writer = Writer(c)
    for position, removed, inserted in edits:
        assert c.edits_put(writer.stage, position, removed, inserted, len(inserted)) == 0
    assert c.edits_check(writer.out) == 0
    return writer


def seq(edits, p):
    """Give where original offset p stands in what leaves, as the design words it: behind all edits at p or before."""
    delta = 0
    found = p
    for position, removed, inserted in edits:
        if position > p:
            break
        if p < position + removed:
            found = position + delta + len(inserted)
        else:
            found = p + delta + len(inserted) - removed
        delta += len(inserted) - removed
    return found


@given(LISTS)
def test_the_maps_are_those_of_the_design(c, parts):
    edits = placed(parts)
    writer = filled(c, edits)
    try:
        numbers = [c.edits_seq(writer.out, p) for p in range(80)]
        assert numbers == [seq(edits, p) for p in range(80)]
        acks = [c.edits_ack(writer.out, q) for q in range(120)]
        assert numbers == sorted(numbers) and acks == sorted(acks), "monotone"
        for p in range(60):
            assert acks[numbers[p]] >= p or any(s <= p < s + r for s, r, _ in edits)
        final = edited(edits)
        for q, ack in enumerate(acks[:len(final) + 1]):
            # What is acknowledged is no more than what the receiver has: each byte below `ack` is gone or below q.
            assert all(place < ack for value, place, came in final[:q] if came)
            assert not any(place < ack for value, place, came in final[q:] if came)
    finally:
        writer.close()


def edited(edits):
    """Carry edits out on the stream at once: a list of (value, place, came)."""
    out, at = [], 0
    for position, removed, inserted in edits:
        out += [(STREAM[i], i, True) for i in range(at, min(position, 60))]
        out += [(value, position, False) for value in inserted]
        at = max(at, position + removed)
    return out + [(STREAM[i], i, True) for i in range(at, 60)]


@given(LISTS, st.integers(0, 60))
def test_what_is_forgotten_changes_nothing_above(c, parts, upto):
    edits = placed(parts)
    writer = filled(c, edits)
    try:
        numbers = [c.edits_seq(writer.out, p) for p in range(upto, 80)]
        low = c.edits_seq(writer.out, upto)
        acks = [c.edits_ack(writer.out, q) for q in range(low, 120)]
        c.edits_forget(writer.stage, upto)
        assert c.edits_check(writer.out) == 0
        assert [c.edits_seq(writer.out, p) for p in range(upto, 80)] == numbers
        assert [c.edits_ack(writer.out, q) for q in range(low, 120)] == acks
    finally:
        writer.close()


# ------------------------------------------------------------------------------ stages, one behind the other

MOVES = st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["pass", "remove", "insert"]), st.integers(0, 9),
                           st.binary(min_size=1, max_size=3)), max_size=40)


@given(MOVES)
def test_stages_one_behind_the_other_make_what_edits_one_after_the_other_make(c, moves):
    """Three writers move at will, each in what the one before released; lists do the same."""
    writers = []
    for _ in range(3):
        writers.append(Writer(c, writers[-1] if writers else None))
    streams = [[(value, i, True) for i, value in enumerate(STREAM)], [], [], []]
    heads = [0, 0, 0]                         # how far each read its input
    try:
        for number, what, size, data in [*moves, (0, "rest", 0, b""), (1, "rest", 0, b""), (2, "rest", 0, b"")]:
            writer, source = writers[number], streams[number]
            limit = (60, ALL) if number == 0 else (writers[number - 1].at()[0], ALL)
            assert writer.window(limit) == source[heads[number]:]
            if what == "insert":
                place = writer.at()[0]
                assert c.stage_insert(writer.stage, data, len(data)) == 0
                streams[number + 1] += [(value, place, False) for value in data]
            else:
                stop = len(source) if what == "rest" else min(heads[number] + size, len(source))
                taken = source[heads[number]:stop]
                if what == "rest":
                    place = limit
                elif not taken:
                    continue
                else:
                    _, off, came = taken[-1]
                    start = writer.at()
                    inside = sum(1 for _, p, o in taken if p == off and not o) + (start[1] if start[0] == off else 0)
                    place = (off + 1, 0) if came else (off, inside)
                writer.take(place, what == "remove")
                heads[number] = stop
                if what != "remove":
                    streams[number + 1] += taken
            released = writer.released((writer.at()[0], ALL))
            assert released == streams[number + 1]
        assert [value for value, _, _ in writers[2].released((60, ALL))] == [value for value, _, _ in streams[3]]
    finally:
        for writer in writers:
            writer.close()
