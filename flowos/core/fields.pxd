"""The C declarations of a packet's fields and of how they are taken from a frame (fields.h)."""
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
