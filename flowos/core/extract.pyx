"""From frames to fields for Python: the entries of fields.h, over any buffer.

Importing this module compares the table of fields.py with what the C compiler made of fields.h.
"""
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from flowos.core.fields cimport (FOS_MAX_TAGS, fos_extract, fos_extract_inner, fos_extract_ip, fos_extract_typed,
                                 fos_fields)

from flowos.core.errors import UsageError
from flowos.core.fields import SIZE, SLOTS, Fields


cdef enum Entry:
    ETHERNET, TYPED, IP, INNER


cdef object extracted(Entry entry, object data, object wire, uint32_t in_port, uint32_t extra):
    """Run one of the entries of fields.h over a buffer, where it lies; `extra` is its last argument."""
    cdef Py_buffer view
    cdef fos_fields f
    cdef uint32_t length
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        if wire is not None and wire < view.len:
            raise UsageError(f"extract: {view.len} bytes of a frame that had {wire} on the wire")
        length = view.len if wire is None else wire
        if entry == ETHERNET:
            fos_extract(<const uint8_t *>view.buf, <uint32_t>view.len, length, in_port, extra, &f)
        elif entry == TYPED:
            fos_extract_typed(<const uint8_t *>view.buf, <uint32_t>view.len, length, <uint16_t>extra, in_port, &f)
        elif entry == IP:
            fos_extract_ip(<const uint8_t *>view.buf, <uint32_t>view.len, length, in_port, &f)
        else:
            fos_extract_inner(<const uint8_t *>view.buf, <uint32_t>view.len, length, extra, in_port, &f)
    finally:
        PyBuffer_Release(&view)
    return Fields(int.from_bytes((<const char *>&f)[:sizeof(fos_fields)], "little"))


def extract(frame, in_port=0, wire=None, max_tags=FOS_MAX_TAGS):
    """Give the `Fields` of an Ethernet frame of which `wire` bytes were sent (default: all are here).

    `max_tags` VLAN tags at most are stepped over: 1 for Open vSwitch as it comes, by default all.
    """
    return extracted(ETHERNET, frame, wire, in_port, max_tags)


def extract_packet(packet, dl_type=None, in_port=0, wire=None):
    """Give the `Fields` of a packet without a link header, such as raw IP or Linux cooked.

    `dl_type` is its EtherType; None takes it from the version of an IP packet, whose lengths are
    then taken leniently (see fields.h).
    """
    if dl_type is None:
        return extracted(IP, packet, wire, in_port, 0)
    return extracted(TYPED, packet, wire, in_port, dl_type)


def extract_inner(frame, l3, in_port=0, wire=None):
    """Give the `Fields` of the IP packet at offset `l3` of an Ethernet frame, whatever lies between."""
    return extracted(INNER, frame, wire, in_port, l3)


cdef int compare_layouts() except -1:
    """Hold fields.py against what the compiler made of fields.h."""
    cdef fos_fields f
    cdef char *base = <char *>&f
    seen = {
        "metadata": (<char *>&f.metadata - base, sizeof(f.metadata)),
        "tun_id": (<char *>&f.tun_id - base, sizeof(f.tun_id)),
        "dl_dst": (<char *>&f.dl_dst - base, sizeof(f.dl_dst)),
        "dl_src": (<char *>&f.dl_src - base, sizeof(f.dl_src)),
        "in_port": (<char *>&f.in_port - base, sizeof(f.in_port)),
        "dl_type": (<char *>&f.dl_type - base, sizeof(f.dl_type)),
        "vlan_tci": (<char *>&f.vlan_tci - base, sizeof(f.vlan_tci)),
        "mpls_lse": (<char *>&f.mpls_lse - base, sizeof(f.mpls_lse)),
        "nw_src": (<char *>&f.nw_src - base, sizeof(f.nw_src)),
        "nw_dst": (<char *>&f.nw_dst - base, sizeof(f.nw_dst)),
        "nw_proto": (<char *>&f.nw_proto - base, sizeof(f.nw_proto)),
        "nw_tos": (<char *>&f.nw_tos - base, sizeof(f.nw_tos)),
        "nw_ttl": (<char *>&f.nw_ttl - base, sizeof(f.nw_ttl)),
        "nw_frag": (<char *>&f.nw_frag - base, sizeof(f.nw_frag)),
        "tp_src": (<char *>&f.tp_src - base, sizeof(f.tp_src)),
        "tp_dst": (<char *>&f.tp_dst - base, sizeof(f.tp_dst)),
        "tcp_flags": (<char *>&f.tcp_flags - base, sizeof(f.tcp_flags)),
        "ipv6_label": (<char *>&f.ipv6_label - base, sizeof(f.ipv6_label)),
        "arp_sha": (<char *>&f.arp_sha - base, sizeof(f.arp_sha)),
        "arp_tha": (<char *>&f.arp_tha - base, sizeof(f.arp_tha)),
        "ipv6_src": (<char *>&f.ipv6_src - base, sizeof(f.ipv6_src)),
        "ipv6_dst": (<char *>&f.ipv6_dst - base, sizeof(f.ipv6_dst)),
        "nd_target": (<char *>&f.nd_target - base, sizeof(f.nd_target)),
    }
    said = {name: place[:2] for name, place in SLOTS.items()}
    if seen != said or sizeof(fos_fields) != SIZE:
        raise ImportError(f"fields.py and fields.h differ: {sorted(set(seen.items()) ^ set(said.items()))}")
    return 0


compare_layouts()
