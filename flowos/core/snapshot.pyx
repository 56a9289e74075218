"""A window that goes to another thread: all that it shows is copied into memory of its own.

    store:  [bytes of the segments][headers of the units][bytes that a decoder made]
    own:    a chain of the units' records, under the numbers they have, which point into the store

The engine goes on while the module works: streams grow, tables move, buffers are used again.  A
snapshot refers to none of it, so no lock is taken to read it and nothing that a slow module was lent
is held back.  What it keeps of the original is where each segment stands (`marks`): that is what
edits are carried out by when the window comes back.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc
from libc.string cimport memcpy

from flowos.core.connection cimport connection_of
from flowos.core.core cimport *
from flowos.core.lane cimport FOS_ALL, fos_inserted_at
from flowos.core.unit cimport *
from flowos.core.window cimport LEVEL_DECODER, Window

from flowos.core.errors import LimitError


cdef uint64_t kept_of(Window w, const fos_unit *u) noexcept:
    """How many bytes of a unit go along beside the segments: its headers, or what a decoder made of several pieces.

    Of what nobody edits, in a tunnel, there are no segments yet: all of it goes along.
    """
    if w.lvl == LEVEL_DECODER:
        return u.len if u.bytes != NULL and (u.flags & FOS_UNIT_OWNED or not w.by_offset) else 0
    if u.frame == NULL:
        return 0
    return u.payload if w.by_offset and u.kind == FOS_UNIT_DATA and u.payload < u.captured else u.captured


cdef int snapshot(Window w) except -1:
    """Make a window independent of the engine's memory.  LimitError: there is none to copy to."""
    cdef uint64_t i, n, total = 0, at = 0
    cdef uint32_t k
    cdef fos_unit *u
    cdef fos_chunk *chunk
    cdef fos_conn *conn = &w.core.c.table.conns[w.index]
    cdef char *store
    w.handle = connection_of(w.core, w.index)
    w.proto = conn.key.proto
    if w.by_offset or w.made is not None:
        w.build()
    if w.limit.skip == FOS_ALL:               # what an earlier stage puts there from now on was not shown
        w.limit.skip = fos_inserted_at(w.input, w.limit.off)
    w.input = NULL
    for k in range(w.seg_count):
        total += w.segs[k].n if w.segs[k].p != NULL else 0
    if w.made is None:
        for i in range(w.first, w.stop):
            total += kept_of(w, fos_stream_unit(w.stream, i))
    w.store = PyBytes_FromStringAndSize(NULL, total)
    store = PyBytes_AS_STRING(w.store)
    for k in range(w.seg_count):
        w.marks[k].block = NULL
        if w.segs[k].p != NULL:
            memcpy(store + at, w.segs[k].p, w.segs[k].n)
            w.segs[k].p = <uint8_t *>store + at
            at += w.segs[k].n
    if w.made is not None:
        w.packets = None
        w.made = list(w.made)
        return 0
    w.packets = [] if w.lvl == LEVEL_DECODER else None
    w.own.head_index = w.own.tail_index = w.first
    for i in range(w.first, w.stop):
        u = fos_stream_unit(w.stream, i)
        if w.own.last == NULL or i - w.own.last.base == FOS_CHUNK_UNITS:
            chunk = <fos_chunk *>calloc(1, sizeof(fos_chunk))
            if chunk == NULL:
                raise LimitError("no memory for a window that goes to another thread")
            chunk.base = i
            if w.own.last != NULL:
                w.own.last.next = chunk
            else:
                w.own.first = chunk
            w.own.last = chunk
        if w.packets is not None:
            w.packets.append(w.decoding.packet_of(w.dir, u))
        n = kept_of(w, u)
        chunk = w.own.last
        chunk.units[i - chunk.base] = u[0]
        w.own.tail_index = i + 1
        u = &chunk.units[i - chunk.base]
        u.flags &= <uint16_t>~(FOS_UNIT_OWNED | FOS_UNIT_REASSEMBLED)
        if i == w.first and not w.shows(i):   # the record before it, which tells, does not go along
            u.flags |= FOS_UNIT_SAME_DATAGRAM
        if w.lvl == LEVEL_DECODER:
            if n:
                memcpy(store + at, u.bytes, n)
            u.bytes = <uint8_t *>store + at if n else NULL
        elif u.frame != NULL:
            memcpy(store + at, u.frame, n)
            u.frame = <uint8_t *>store + at
            u.captured = <uint32_t>n
        at += n
    w.stream = &w.own
    return 0
