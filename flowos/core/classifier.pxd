"""The classifier and the fields that it looks at, for other compiled modules (classifier.pyx, fields.h).

A module that holds a `Classifier` and a frame calls, without the GIL:

    cdef fos_fields fields
    fos_extract(frame, captured, wire, in_port, FOS_MAX_TAGS, &fields)
    flow = classifier.lookup(&fields)          # 0: none

Rules change under the GIL, and never while another thread is in `lookup`: the engine changes
them between batches.  Each change raises `generation`.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "fields.h" nogil:
    enum:
        FOS_FIELD_WORDS
        FOS_FRAG_ANY
        FOS_FRAG_LATER
        FOS_VLAN_PRESENT
        FOS_DL_TYPE_NONE
        FOS_MAX_TAGS

    ctypedef struct fos_fields:
        uint64_t metadata
        uint64_t tun_id
        uint8_t[6] dl_dst
        uint8_t[6] dl_src
        uint32_t in_port
        uint16_t dl_type
        uint16_t vlan_tci
        uint32_t mpls_lse
        uint32_t nw_src
        uint32_t nw_dst
        uint8_t nw_proto
        uint8_t nw_tos
        uint8_t nw_ttl
        uint8_t nw_frag
        uint16_t tp_src
        uint16_t tp_dst
        uint16_t tcp_flags
        uint32_t ipv6_label
        uint8_t[6] arp_sha
        uint8_t[6] arp_tha
        uint8_t[16] ipv6_src
        uint8_t[16] ipv6_dst
        uint8_t[16] nd_target

    void fos_extract(const uint8_t *frame, uint32_t captured, uint32_t wire, uint32_t in_port, unsigned max_tags,
                     fos_fields *f) noexcept
    void fos_extract_typed(const uint8_t *data, uint32_t captured, uint32_t wire, uint16_t dl_type, uint32_t in_port,
                           fos_fields *f) noexcept
    void fos_extract_ip(const uint8_t *ip, uint32_t captured, uint32_t wire, uint32_t in_port, fos_fields *f) noexcept
    void fos_extract_inner(const uint8_t *frame, uint32_t captured, uint32_t wire, uint32_t l3, uint32_t in_port,
                           fos_fields *f) noexcept


# All rules of one shape, which is one mask: a hash table with linear probing.  A record is
# {rank, hash << 32 | id, the masked words that the shape covers}; rank 0 is an empty place.  Of
# rules with equal words only the best has a record.
cdef struct Shape:
    uint64_t top                    # the best rank of its rules
    uint64_t *records
    uint32_t capacity               # of records: a power of two, at least twice `count`
    uint32_t count
    uint32_t stride                 # words per record
    uint32_t words                  # how many words of fos_fields the mask touches
    uint8_t[16] word                # which
    uint64_t[16] mask               # and their masks


cdef class Classifier:
    cdef readonly uint32_t generation      # of the rules: raised by every change
    cdef Shape **order                     # the shapes, best top first
    cdef uint32_t shapes
    cdef uint64_t[32] key                  # secret; two per word of fos_fields
    cdef uint64_t age                      # rules added so far
    cdef dict rules                        # id: Rule
    cdef dict tables                       # mask: Table

    cdef uint32_t lookup(self, const fos_fields *fields) noexcept nogil
    cdef int places(self, const Shape *s) noexcept
    cdef int reserve(self, uint32_t shapes) except -1
    cdef void settle(self, Shape *s, uint64_t top) noexcept
