/* The fields of a packet that a match may name, and how they are taken from a frame.
 *
 *     frame --Ethernet, tags--> dl_*, vlan_tci --> MPLS | IPv4 | IPv6 | ARP --> ports, ICMP, ND
 *              fos_extract        ^                ^
 *                       fos_extract_typed     fos_extract_ip, fos_extract_inner
 *
 * The meaning of each field is that of Open vSwitch: what a packet has not is zero, and so is
 * everything behind a header that is cut, or that contradicts its own lengths.  One difference:
 * a frame that the snap length cut (captured < wire) is judged by its length on the wire, so that
 * the addresses and ports of a truncated capture count.  fields.py holds the same table for
 * Python; extract.pyx compares the two.  Nothing here allocates or reads beyond `captured`.
 */
#ifndef FOS_FIELDS_H
#define FOS_FIELDS_H

#include "cursor.h"

/* Numbers in host order, addresses of six and sixteen bytes as on the wire.  Fields that exclude
 * each other share a place.  The words of one kind of match lie together: a table that asks for
 * ports and addresses reads words 4 to 7. */
typedef struct fos_fields {
    uint64_t metadata;        /* word 0: set by the owner of the packet, like tun_id and in_port */
    uint64_t tun_id;
    uint8_t dl_dst[6];        /* words 2, 3 */
    uint8_t dl_src[6];
    uint32_t in_port;
    uint16_t dl_type;         /* word 4; 0x5ff: a length stands in its place */
    uint16_t vlan_tci;        /* first tag, with bit 0x1000 set; 0: no tag */
    uint32_t mpls_lse;        /* first label stack entry */
    uint32_t nw_src;          /* ARP: arp_spa */
    uint32_t nw_dst;          /* ARP: arp_tpa */
    uint8_t nw_proto;         /* word 6; ARP: the opcode, up to 255 */
    uint8_t nw_tos;           /* DSCP and ECN */
    uint8_t nw_ttl;
    uint8_t nw_frag;          /* bit 0: a fragment, bit 1: not the first */
    uint16_t tp_src;          /* ICMP: the type */
    uint16_t tp_dst;          /* ICMP: the code */
    uint16_t tcp_flags;       /* word 7; 12 bits */
    uint16_t spare;
    uint32_t ipv6_label;
    uint8_t arp_sha[6];       /* words 8, 9; ND: nd_sll */
    uint8_t arp_tha[6];       /* ND: nd_tll */
    uint32_t spare2;
    uint8_t ipv6_src[16];
    uint8_t ipv6_dst[16];
    uint8_t nd_target[16];
} fos_fields;
FOS_ASSERT_SIZE(fos_fields, 128);

enum {
    FOS_FIELD_WORDS = sizeof(fos_fields) / 8,
    FOS_FRAG_ANY = 1, FOS_FRAG_LATER = 2,
    FOS_VLAN_PRESENT = 0x1000,
    FOS_DL_TYPE_NONE = 0x5ff,
    FOS_MAX_TAGS = 255,       /* as a limit: step over every VLAN tag */
};

/* What is left of a frame: bytes present, and how many more the wire had. */
typedef struct fos_rest {
    fos_cursor c;
    uint32_t missing;         /* bytes beyond c.end that the capture left out */
    int lenient;              /* an IP length of 0, or beyond the frame, means the frame's end, as in parse.h */
} fos_rest;

FOS_INLINE size_t fos_rest_size(const fos_rest *r) {
    return fos_cur_left(&r->c) + r->missing;
}

/* Drop what lies beyond the next n bytes: padding. */
FOS_INLINE void fos_rest_trim(fos_rest *r, size_t n) {
    size_t here = fos_cur_left(&r->c);
    if (n < here) {
        r->c.end = r->c.p + n;
        r->missing = 0;
    } else r->missing = (uint32_t)(n - here);
}

/* ---- above IP ------------------------------------------------------------------------------ */

enum { FOS_ND_SOLICIT = 135, FOS_ND_ADVERT = 136, FOS_ND_SLL = 1, FOS_ND_TLL = 2 };

/* Neighbour discovery (RFC 4861, 4.3 and 4.4): the target, and link-layer addresses among the
 * options.  One that is given twice makes all of them void. */
FOS_NOINLINE void fos_extract_nd(fos_cursor *c, fos_fields *f) {
    const uint8_t *target = fos_cur_bytes(c, 16);
    if (!target) return;
    memcpy(f->nd_target, target, 16);
    static const uint8_t none[6];
    while (fos_cur_left(c) >= 8) {
        fos_cursor o = *c;
        uint8_t type = fos_cur_u8(&o);
        size_t length = (size_t)fos_cur_u8(&o) * 8;
        if (!length || !fos_cur_bytes(c, length)) return;
        if (length != 8 || (type != FOS_ND_SLL && type != FOS_ND_TLL)) continue;
        uint8_t *address = type == FOS_ND_SLL ? f->arp_sha : f->arp_tha;
        if (memcmp(address, none, 6)) {
            memset(f->nd_target, 0, 16);
            memset(f->arp_sha, 0, 6);
            memset(f->arp_tha, 0, 6);
            return;
        }
        memcpy(address, fos_cur_bytes(&o, 6), 6);
    }
}

FOS_INLINE void fos_extract_transport(fos_rest *r, fos_fields *f) {
    fos_cursor *c = &r->c;
    const uint8_t *t;
    size_t size = fos_rest_size(r);
    switch (f->nw_proto) {
    case 6:
        if (!(t = fos_cur_bytes(c, 20))) return;
        if (FOS_UNLIKELY(t[12] < 0x50 || (size_t)(t[12] >> 4) * 4 > size)) return;
        f->tcp_flags = fos_be16(t + 12) & 0xfff;
        break;
    case 17:
        if (!(t = fos_cur_bytes(c, 8))) return;
        break;
    case 132:
        if (!(t = fos_cur_bytes(c, 12))) return;
        break;
    case 1:                   /* in IPv6 too, as in Open vSwitch, though no match can name it there */
        if (!(t = fos_cur_bytes(c, 8))) return;
        f->tp_src = t[0];
        f->tp_dst = t[1];
        return;
    case 2:
        if (!(t = fos_cur_bytes(c, 8))) return;
        f->tp_src = t[0];
        f->tp_dst = t[1];
        return;
    case 58:
        if (!(t = fos_cur_bytes(c, 8))) return;
        f->tp_src = t[0];
        f->tp_dst = t[1];
        if (t[1] == 0 && (t[0] == FOS_ND_SOLICIT || t[0] == FOS_ND_ADVERT)) fos_extract_nd(c, f);
        return;
    default:
        return;
    }
    f->tp_src = fos_be16(t);
    f->tp_dst = fos_be16(t + 2);
}

/* ---- MPLS, IP, ARP ------------------------------------------------------------------------- */

FOS_NOINLINE void fos_extract_ip4(fos_rest *r, fos_fields *f) {
    const uint8_t *h = fos_cur_bytes(&r->c, 20);
    if (FOS_UNLIKELY(!h)) return;
    size_t header = (size_t)(h[0] & 15) * 4, total = fos_be16(h + 2), size = fos_rest_size(r) + 20;
    if (FOS_UNLIKELY(r->lenient && (!total || total > size))) total = size;
    if (FOS_UNLIKELY(header < 20 || header > total || total > size)) return;
    f->nw_src = fos_be32(h + 12);
    f->nw_dst = fos_be32(h + 16);
    f->nw_tos = h[1];
    f->nw_ttl = h[8];
    f->nw_proto = h[9];
    uint16_t fragment = fos_be16(h + 6);
    if (FOS_UNLIKELY(fragment & 0x3fff))
        f->nw_frag = FOS_FRAG_ANY | (fragment & 0x1fff ? FOS_FRAG_LATER : 0);
    fos_rest_trim(r, total - 20);
    fos_cur_skip(&r->c, header - 20);
    if (FOS_LIKELY(!(f->nw_frag & FOS_FRAG_LATER))) fos_extract_transport(r, f);
}

/* Step over extension headers (RFC 8200, section 4) to the transport, whose number goes to *proto.
 * Returns 0 when one of them is cut. */
FOS_INLINE int fos_extract_extensions(fos_cursor *c, uint8_t *proto, uint8_t *frag) {
    for (;;) {
        uint8_t kind = *proto;
        if (FOS_LIKELY(kind != 0 && kind != 43 && kind != 60 && kind != 51 && kind != 44)) return 1;
        const uint8_t *h = fos_cur_bytes(c, 8);
        if (FOS_UNLIKELY(!h)) return 0;
        *proto = h[0];
        if (kind == 44) {
            uint16_t offset = fos_be16(h + 2);
            if (offset) *frag = FOS_FRAG_ANY;
            if (offset & 0xfff8) {
                *frag |= FOS_FRAG_LATER;
                *proto = 44;
                return 1;
            }
            continue;
        }
        /* the authentication header counts in words of four bytes (RFC 4302) */
        size_t length = kind == 51 ? ((size_t)h[1] + 2) * 4 : ((size_t)h[1] + 1) * 8;
        if (FOS_UNLIKELY(length < 8 || !fos_cur_bytes(c, length - 8))) return 0;
    }
}

FOS_NOINLINE void fos_extract_ip6(fos_rest *r, fos_fields *f) {
    const uint8_t *h = fos_cur_bytes(&r->c, 40);
    if (FOS_UNLIKELY(!h)) return;
    size_t payload = fos_be16(h + 4), size = fos_rest_size(r);
    if (FOS_UNLIKELY(r->lenient && (!payload || payload > size))) payload = size;
    if (FOS_UNLIKELY(payload > size)) return;
    memcpy(f->ipv6_src, h + 8, 16);
    memcpy(f->ipv6_dst, h + 24, 16);
    fos_rest_trim(r, payload);
    uint8_t proto = h[6], frag = 0;
    if (!fos_extract_extensions(&r->c, &proto, &frag)) return;
    uint32_t first = fos_be32(h);
    f->ipv6_label = first & 0xfffff;
    f->nw_proto = proto;
    f->nw_frag = frag;
    f->nw_tos = (uint8_t)(first >> 20);
    f->nw_ttl = h[7];
    if (FOS_LIKELY(!(frag & FOS_FRAG_LATER))) fos_extract_transport(r, f);
}

/* ARP and RARP for IPv4 over Ethernet (RFC 826); any other kind has no fields. */
FOS_NOINLINE void fos_extract_arp(fos_cursor *c, fos_fields *f) {
    const uint8_t *h = fos_cur_bytes(c, 28);
    if (!h || fos_be16(h) != 1 || fos_be16(h + 2) != 0x0800 || h[4] != 6 || h[5] != 4) return;
    uint16_t op = fos_be16(h + 6);
    f->nw_proto = op <= 255 ? (uint8_t)op : 0;
    memcpy(f->arp_sha, h + 8, 6);
    f->nw_src = fos_be32(h + 14);
    memcpy(f->arp_tha, h + 18, 6);
    f->nw_dst = fos_be32(h + 24);
}

/* What follows the link header; its dl_type is in f. */
FOS_INLINE void fos_extract_network(fos_rest *r, fos_fields *f) {
    const uint8_t *h;
    switch (f->dl_type) {
    case 0x0800: fos_extract_ip4(r, f); return;
    case 0x86dd: fos_extract_ip6(r, f); return;
    case 0x0806: case 0x8035: fos_extract_arp(&r->c, f); return;
    case 0x8847: case 0x8848:
        if ((h = fos_cur_bytes(&r->c, 4))) f->mpls_lse = fos_be32(h);
        return;
    default: return;
    }
}

/* ---- the link ------------------------------------------------------------------------------ */

FOS_INLINE fos_rest fos_extract_begin(const uint8_t *data, uint32_t captured, uint32_t wire, uint32_t in_port,
                                      fos_fields *f) {
    memset(f, 0, sizeof *f);
    f->in_port = in_port;
    fos_rest r = {fos_cur(data, captured), wire > captured ? wire - captured : 0, 0};
    return r;
}

/* Addresses and tags; returns 0 when there is no whole Ethernet header. */
FOS_INLINE int fos_extract_ethernet(fos_rest *r, unsigned max_tags, fos_fields *f) {
    if (FOS_UNLIKELY(fos_cur_left(&r->c) < 14)) return 0;
    const uint8_t *h = fos_cur_bytes(&r->c, 12);
    memcpy(f->dl_dst, h, 6);
    memcpy(f->dl_src, h + 6, 6);
    uint16_t type = fos_cur_be16(&r->c);
    for (unsigned tags = 0; (type == 0x8100 || type == 0x88a8) && tags < max_tags; tags++) {
        fos_cursor tag = r->c;
        uint16_t tci = fos_cur_be16(&tag), next = fos_cur_be16(&tag);
        if (!fos_cur_ok(&tag)) break;
        if (!tags) f->vlan_tci = tci | FOS_VLAN_PRESENT;
        type = next;
        r->c = tag;
    }
    if (FOS_UNLIKELY(type < 0x600)) {               /* 802.3: a length; the type may follow in SNAP (RFC 1042) */
        static const uint8_t snap[6] = {0xaa, 0xaa, 3, 0, 0, 0};
        type = FOS_DL_TYPE_NONE;
        if (fos_cur_left(&r->c) >= 8 && !memcmp(r->c.p, snap, 6)) {
            fos_cur_skip(&r->c, 6);
            uint16_t inner = fos_cur_be16(&r->c);
            if (inner >= 0x600) type = inner;
        }
    }
    f->dl_type = type;
    return 1;
}

/* An Ethernet frame of which `captured` bytes are at hand and `wire` were sent.  Up to `max_tags`
 * VLAN tags are stepped over: 1 is Open vSwitch as it comes, 2 the most it does, FOS_MAX_TAGS all.
 * vlan_tci is the first tag's in any case. */
static inline void fos_extract(const uint8_t *frame, uint32_t captured, uint32_t wire, uint32_t in_port,
                               unsigned max_tags, fos_fields *f) {
    fos_rest r = fos_extract_begin(frame, captured, wire, in_port, f);
    if (fos_extract_ethernet(&r, max_tags, f)) fos_extract_network(&r, f);
}

/* A packet without a link header whose EtherType is known (Linux cooked): dl_* and tags are zero. */
static inline void fos_extract_typed(const uint8_t *data, uint32_t captured, uint32_t wire, uint16_t dl_type,
                                     uint32_t in_port, fos_fields *f) {
    fos_rest r = fos_extract_begin(data, captured, wire, in_port, f);
    f->dl_type = dl_type;
    fos_extract_network(&r, f);
}

FOS_INLINE uint16_t fos_ip_type(const fos_rest *r) {
    if (!fos_cur_left(&r->c)) return 0;
    return r->c.p[0] >> 4 == 4 ? 0x0800 : r->c.p[0] >> 4 == 6 ? 0x86dd : 0;
}

/* An IP packet by itself (raw IP, a reassembled datagram, what a tunnel carries); dl_type by its
 * version.  Its lengths are taken as leniently as parse.h takes them. */
static inline void fos_extract_ip(const uint8_t *ip, uint32_t captured, uint32_t wire, uint32_t in_port, fos_fields *f) {
    fos_rest r = fos_extract_begin(ip, captured, wire, in_port, f);
    r.lenient = 1;
    f->dl_type = fos_ip_type(&r);
    fos_extract_network(&r, f);
}

/* The IP packet at offset l3 of an Ethernet frame, whatever lies between (MPLS, PPPoE, a tunnel):
 * addresses and first tag are the frame's, the rest is the packet's.  Where nothing but tags lies
 * between, the same as fos_extract with FOS_MAX_TAGS, but as lenient as fos_extract_ip. */
static inline void fos_extract_inner(const uint8_t *frame, uint32_t captured, uint32_t wire, uint32_t l3,
                                     uint32_t in_port, fos_fields *f) {
    fos_rest r = fos_extract_begin(frame, captured, wire, in_port, f), ip = r;
    (void)fos_extract_ethernet(&r, 1, f);
    fos_cur_skip(&ip.c, l3);
    ip.lenient = 1;
    f->dl_type = fos_ip_type(&ip);
    fos_extract_network(&ip, f);
}

#endif
