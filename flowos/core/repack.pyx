"""Packets out, for Python: frames rebuilt, rewritten, split and cut by the C of the merger.

The functions parse a frame as the engine does, call one function of repack.h, rewrite.h or
fragment.h, and give new bytes; the frame handed in stays as it is.  They serve tests, tools that
mend a capture, and modules that make packets; the merger calls the C itself.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

import ipaddress

from flowos.core.errors import UsageError

__all__ = ["fragments", "rebuild", "rewrite", "rewrite_quote", "split"]

cdef extern from "segment.h" nogil:
    ctypedef struct fos_seg:
        const uint8_t *p
        uint64_t n, at

cdef extern from "parse.h" nogil:
    enum:
        FOS_MAX_LAYERS
        FOS_TUNNEL_ALL

    ctypedef struct fos_counters:
        pass

    ctypedef struct fos_pkt:
        uint32_t payload, paycap
        uint16_t l3, l4
        uint32_t seq
        uint8_t tcp_flags

    ctypedef struct fos_fragment:
        uint32_t l3

    ctypedef struct fos_datagram:
        pass

    ctypedef struct fos_parser:
        fos_counters *counters
        uint32_t tunnels
        void *defrag
        int (*on_fragment)(void *defrag, const fos_fragment *fragment, fos_datagram *out) noexcept

    int fos_parse_frame(const fos_parser *parser, const uint8_t *frame, uint32_t cap, uint32_t wire, uint16_t link,
                        int64_t ts, uint64_t number, uint16_t iface, fos_pkt *out)

cdef extern from "repack.h" nogil:
    enum:
        FOS_SACK_EDGES
        FOS_SET_SEQ
        FOS_SET_ACK
        FOS_SET_WINDOW
        FOS_SET_FLAGS
        FOS_SET_URGENT
        FOS_SET_TSVAL
        FOS_SET_TSECR
        FOS_SET_SACK
        FOS_SET_SRC
        FOS_SET_DST
        FOS_SET_SPORT
        FOS_SET_DPORT

    ctypedef struct fos_rewrite:
        uint32_t set
        uint32_t seq, ack
        uint16_t window, urgent
        uint32_t tsval, tsecr
        uint8_t tcp_flags
        uint8_t sack_edges
        uint16_t sport, dport
        uint32_t[8] sack
        uint8_t[16] src
        uint8_t[16] dst

    ctypedef struct fos_repack:
        const uint8_t *frame
        uint32_t captured, l3, l4, payload
        uint16_t link, ip_id_add
        uint32_t options_len
        const uint8_t *options
        const fos_seg *segs
        uint32_t seg_count
        uint64_t skip, n
        fos_rewrite fields

    uint32_t fos_repack_build(const fos_repack *r, uint8_t *out, uint32_t room)
    uint64_t fos_split_count(uint64_t n, uint32_t mss)
    uint32_t fos_split_build(const fos_repack *r, uint32_t mss, uint64_t i, uint8_t *out, uint32_t room)
    int fos_rewrite_packet(uint8_t *frame, uint32_t captured, uint32_t l3, uint32_t l4, const fos_rewrite *w)
    int fos_rewrite_quote(uint8_t *frame, uint32_t captured, uint32_t l3, uint32_t l4, const fos_rewrite *w)

cdef extern from "fragment.h" nogil:
    ctypedef struct fos_cut:
        uint32_t count

    uint32_t fos_cut_plan(fos_cut *c, const uint8_t *frame, uint32_t captured, uint16_t link, uint32_t l3, uint32_t mtu)
    uint32_t fos_cut_build(const fos_cut *c, uint32_t i, uint32_t id, uint8_t *out, uint32_t room)

cdef enum:
    MARGIN = 512                    # headers in front of a payload: more than 9 layers of them is no packet of ours


cdef int note_fragment(void *found, const fos_fragment *fragment, fos_datagram *out) noexcept nogil:
    (<int64_t *> found)[0] = fragment.l3
    return 0


cdef int64_t locate(const uint8_t *frame, uint32_t size, int link, object layer, fos_pkt *found) except -2:
    """Parse a frame; fill in *found for its `layer`-th IP packet.  The IP header's offset, also of a fragment, or -1."""
    cdef fos_pkt packets[8]
    cdef fos_counters counters
    cdef fos_parser parser
    cdef int64_t fragment = -1
    cdef int n
    memset(&counters, 0, sizeof(fos_counters))
    memset(&parser, 0, sizeof(fos_parser))
    parser.counters = &counters
    parser.tunnels = FOS_TUNNEL_ALL
    parser.defrag = &fragment
    parser.on_fragment = note_fragment
    n = fos_parse_frame(&parser, frame, size, size, <uint16_t> link, 0, 1, 0, packets)
    if not n and fragment >= 0:
        found.l4 = 0
        return fragment
    if not -n <= layer < n:
        return -1
    found[0] = packets[layer + n if layer < 0 else layer]
    return found.l3


cdef fos_pkt packet_of(const uint8_t[::1] frame, int link, object layer, str what) except *:
    """Find the packet to work on, or raise UsageError."""
    cdef fos_pkt found
    if not frame.shape[0] or locate(&frame[0], <uint32_t> frame.shape[0], link, layer, &found) < 0 or not found.l4:
        raise UsageError(f"{what}: no whole IP packet of layer {layer} in {frame.shape[0]} bytes of link type {link}")
    return found


cdef int fill(fos_rewrite *w, dict fields) except -1:
    """Turn keywords into a fos_rewrite."""
    memset(w, 0, sizeof(fos_rewrite))
    for name, value in fields.items():
        if value is None:
            continue
        if name == "seq":
            w.seq = value & 0xffffffff; w.set |= FOS_SET_SEQ
        elif name == "ack":
            w.ack = value & 0xffffffff; w.set |= FOS_SET_ACK
        elif name == "window":
            w.window = value; w.set |= FOS_SET_WINDOW
        elif name == "flags":
            w.tcp_flags = value; w.set |= FOS_SET_FLAGS
        elif name == "urgent":
            w.urgent = value; w.set |= FOS_SET_URGENT
        elif name == "tsval":
            w.tsval = value & 0xffffffff; w.set |= FOS_SET_TSVAL
        elif name == "tsecr":
            w.tsecr = value & 0xffffffff; w.set |= FOS_SET_TSECR
        elif name == "sack":
            edges = [edge & 0xffffffff for block in value for edge in block]
            if len(edges) > FOS_SACK_EDGES:
                raise UsageError(f"{len(edges) // 2} SACK blocks; a TCP header has room for {FOS_SACK_EDGES // 2}")
            w.sack_edges = len(edges)
            for i, edge in enumerate(edges):
                w.sack[i] = edge
            w.set |= FOS_SET_SACK
        elif name in ("src", "dst"):
            packed = ipaddress.ip_address(value).packed
            memcpy(&w.src[0] if name == "src" else &w.dst[0], <const char *> packed, len(packed))
            w.set |= FOS_SET_SRC if name == "src" else FOS_SET_DST
        elif name == "sport":
            w.sport = value; w.set |= FOS_SET_SPORT
        elif name == "dport":
            w.dport = value; w.set |= FOS_SET_DPORT
        else:
            raise UsageError(f"{name}: no header field of that name; there are seq, ack, window, flags, urgent, tsval, "
                             "tsecr, sack, src, dst, sport, dport")
    return 0


cdef list packets_of(const uint8_t[::1] frame, object payload, int link, object layer, object options, int id_add,
                     object mss, dict fields):
    """Build the packets of `rebuild` (mss None) or `split`."""
    cdef fos_pkt found = packet_of(frame, link, layer, "rebuild" if mss is None else "split")
    cdef list pieces = [payload] if isinstance(payload, (bytes, bytearray, memoryview)) else list(payload)
    cdef list held = [bytes(piece) for piece in pieces], made = []
    cdef fos_repack r
    cdef fos_seg *segs = <fos_seg *> calloc(len(held) + 1, sizeof(fos_seg))
    cdef uint64_t total = 0, i, count = 1
    cdef uint32_t n, room
    if segs == NULL:
        raise MemoryError
    try:
        for i, piece in enumerate(held):
            segs[i].p = <const uint8_t *> PyBytes_AS_STRING(piece)
            segs[i].n = len(piece)
            segs[i].at = total
            total += segs[i].n
        memset(&r, 0, sizeof(fos_repack))
        fill(&r.fields, fields)
        r.frame = &frame[0]
        r.captured = <uint32_t> frame.shape[0]
        r.l3, r.l4, r.payload, r.link, r.ip_id_add = found.l3, found.l4, found.payload, link, id_add
        if options is not None:
            if len(options) > 40 or len(options) % 4:
                raise UsageError(f"{len(options)} bytes of TCP options; expected a multiple of 4 up to 40")
            r.options, r.options_len = options, len(options)
        r.segs, r.seg_count, r.n = segs, len(held), total
        if mss is not None:
            if not 1 <= mss <= 65535:
                raise UsageError(f"a segment size of {mss}; expected 1 to 65535")
            if not r.fields.set & FOS_SET_SEQ:
                r.fields.seq, r.fields.set = found.seq, r.fields.set | FOS_SET_SEQ
            if not r.fields.set & FOS_SET_FLAGS:
                r.fields.tcp_flags, r.fields.set = found.tcp_flags, r.fields.set | FOS_SET_FLAGS
            count = fos_split_count(total, mss)
        room = found.payload + MARGIN + <uint32_t> min(total, 65535)
        for i in range(count):
            out = PyBytes_FromStringAndSize(NULL, room)
            if mss is None:
                n = fos_repack_build(&r, <uint8_t *> PyBytes_AS_STRING(out), room)
            else:
                n = fos_split_build(&r, mss, i, <uint8_t *> PyBytes_AS_STRING(out), room)
            if not n:
                raise UsageError(f"a payload of {total} bytes does not fit one IP packet with these headers")
            made.append(out[:n])
    finally:
        free(segs)
    return made


def rebuild(frame, payload, *, link=1, layer=-1, options=None, id_add=0, **fields):
    """Give a frame with the headers of `frame` and another payload; lengths and checksums are made right.

    `payload` is bytes or a list of them.  `layer` counts IP headers from 0, the outermost; what lies outside is
    copied.  Keywords set header fields: seq, ack, window, flags, urgent, tsval, tsecr, sack (a list of (left,
    right)), src, dst, sport, dport; `options` replaces TCP's options.  UsageError: no IP packet in `frame`, an
    unknown field, or more than an IP packet holds.  Source: D3.2 section 4.3.2.3.

    >>> head = bytes.fromhex("45000021000100004011 0000 7f0000017f000001 0035 1000 000d 0001".replace(" ", ""))
    >>> rebuild(head + b"hello", b"bye", link=101)[-3:]
    b'bye'
    """
    return packets_of(frame, payload, link, layer, options, id_add, None, fields)[0]


def split(frame, payload, mss, *, link=1, layer=-1, options=None, id_add=0, **fields):
    """Give the TCP segments that carry `payload` in pieces of `mss` bytes at most; keywords as for `rebuild`.

    FIN and PSH stand in the last, SYN and CWR in the first alone; identifications count up from `id_add`.
    """
    return packets_of(frame, payload, link, layer, options, id_add, mss, fields)


def rewrite(frame, *, link=1, layer=-1, **fields):
    """Give a frame with some header fields rewritten and its checksums updated by the difference (RFC 1624).

    A checksum that was wrong stays exactly as wrong.  UsageError: the packet has no such field.
    """
    return rewritten(frame, link, layer, fields, False)


def rewrite_quote(frame, *, link=1, layer=-1, **fields):
    """Give an ICMP error with the packet that it quotes rewritten, checksums inside and outside updated."""
    return rewritten(frame, link, layer, fields, True)


cdef bytes rewritten(const uint8_t[::1] frame, int link, object layer, dict fields, bint quote):
    cdef fos_pkt found = packet_of(frame, link, layer, "rewrite")
    cdef fos_rewrite w
    cdef bytes out = PyBytes_FromStringAndSize(<const char *> &frame[0], frame.shape[0])
    cdef uint8_t *data = <uint8_t *> PyBytes_AS_STRING(out)
    cdef int missing
    fill(&w, fields)
    if quote:
        missing = fos_rewrite_quote(data, <uint32_t> frame.shape[0], found.l3, found.l4, &w)
    else:
        missing = fos_rewrite_packet(data, <uint32_t> frame.shape[0], found.l3, found.l4, &w)
    if missing:
        raise UsageError(f"rewrite: the packet has no such field ({', '.join(fields)})")
    return out


def fragments(frame, mtu, *, link=1, layer=0, identification=0):
    """Give the fragments of a frame's IP packet for links that carry `mtu` bytes of IP; [frame] when it fits.

    UsageError: it may not be cut (DF), cannot be, or is not whole.  Source: RFC 791, RFC 8200 section 4.5.
    """
    cdef const uint8_t[::1] view = frame
    cdef fos_pkt found
    cdef fos_cut cut
    cdef int64_t l3 = locate(&view[0], <uint32_t> view.shape[0], link, layer, &found) if view.shape[0] else -1
    cdef uint32_t i, n
    cdef uint32_t room = <uint32_t> view.shape[0] + 8
    cdef list made = []
    if l3 < 0 or not fos_cut_plan(&cut, &view[0], <uint32_t> view.shape[0], link, <uint32_t> l3, mtu):
        raise UsageError(f"fragments: no IP packet that may be cut to {mtu} bytes in {view.shape[0]} bytes")
    if cut.count == 1:
        return [bytes(frame)]
    for i in range(cut.count):
        out = PyBytes_FromStringAndSize(NULL, room)
        n = fos_cut_build(&cut, i, identification, <uint8_t *> PyBytes_AS_STRING(out), room)
        made.append(out[:n])
    return made
