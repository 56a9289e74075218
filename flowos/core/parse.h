/* From a frame to its IP packets: IPv4 and IPv6 headers, extension headers, tunnels.
 *
 *     frame --link.h--> IP header --> [AH, extension headers] --> transport
 *                          ^                                        | IPIP, 6in4, GRE, EtherIP,
 *                          '----------------------------------------' UDP tunnels (tunnel.h)
 *
 * One call parses one frame and writes at most FOS_MAX_LAYERS packets.  Fragments are handed to
 * the caller's defragmenter through `on_fragment`; what it completes is parsed on from there.
 * Nothing here allocates, and no byte beyond the captured ones is read.
 */
#ifndef FOS_PARSE_H
#define FOS_PARSE_H

#include "counters.h"
#include "hash.h"
#include "packet.h"

#define FOS_MAX_LAYERS 8      /* IP layers in one frame; tunnels in tunnels beyond it are counted */
#define FOS_MAX_EXTENSIONS 128 /* extension headers followed in one packet; its length bounds them too */

enum fos_tunnel {
    FOS_TUNNEL_IPIP = 1, FOS_TUNNEL_6IN4 = 2, FOS_TUNNEL_TEREDO = 4, FOS_TUNNEL_GRE = 8, FOS_TUNNEL_VXLAN = 16,
    FOS_TUNNEL_GENEVE = 32, FOS_TUNNEL_GTPU = 64, FOS_TUNNEL_ALL = 127,
};

/* A fragment as the parser found it, for the defragmenter. */
typedef struct fos_fragment {
    const uint8_t *frame;
    int64_t ts;
    uint64_t number;
    uint32_t wire;
    uint32_t l3;              /* offset of the IP header */
    uint32_t header;          /* bytes of the header part that every fragment repeats */
    uint32_t next_at;         /* IPv6: offset from l3 of the byte naming the fragment header */
    uint32_t data;            /* offset of the fragment's payload */
    uint32_t len;             /* its bytes, as the headers say */
    uint32_t captured;        /* its bytes that are present */
    uint32_t offset;          /* where it belongs in the datagram */
    uint32_t id;
    uint32_t lead;            /* bytes in front of the IP header that are its link's; 0 inside a tunnel */
    uint8_t ver, proto, more;
    uint8_t block;            /* `frame` is itself a reassembled datagram: it will not stay */
    uint8_t outer;            /* it is what its frame holds, not something in a tunnel */
    uint8_t passes;           /* in line: it is the first, and its datagram's fragments need not wait */
    struct fos_transit *entry;    /* in line: its frame's entry in the log, when it has to wait; else NULL */
} fos_fragment;

/* A datagram put together, in one heap block: the link's header of its first fragment, then the IP packet. */
typedef struct fos_datagram {
    const uint8_t *data;
    uint32_t len;
    uint32_t l3;              /* offset of the IP header */
    uint32_t id;              /* the fragments' identification */
    uint32_t longest;         /* bytes of the longest fragment's IP packet */
    struct fos_parked *first, *last;  /* the fragments that waited for it, in order of arrival */
} fos_datagram;

typedef struct fos_parser {
    fos_counters *counters;
    fos_hash_key hash_key;
    uint32_t tunnels;         /* fos_tunnel bits that are followed */
    void *defrag;             /* handed to on_fragment */
    /* Takes a fragment; returns 1 and fills *out when it completes a datagram, else 0. */
    int (*on_fragment)(void *defrag, const fos_fragment *fragment, fos_datagram *out);
} fos_parser;

/* The frame being parsed, and the packets found in it so far. */
typedef struct fos_scan {
    const fos_parser *parser;
    const uint8_t *frame;
    uint32_t cap;             /* bytes present */
    uint32_t wire;            /* bytes of the frame on the wire */
    int64_t ts;
    uint64_t number;
    uint64_t vlans;
    fos_pkt *out;
    int n;
    uint8_t depth;
    uint8_t block;            /* `frame` is a reassembled datagram */
    uint16_t iface, link;
    uint32_t wire_outer;      /* what counts as the frame's bytes for every packet in it */
} fos_scan;

FOS_INLINE int fos_has(const fos_scan *s, uint32_t off, uint32_t n) {
    return FOS_LIKELY(off <= s->cap && n <= s->cap - off);
}

static void fos_parse_ip(fos_scan *s, uint32_t off, uint32_t end);
static void fos_parse_ether(fos_scan *s, uint32_t off, uint32_t end);
static void fos_parse_ethertype(fos_scan *s, uint32_t type, uint32_t off, uint32_t end);
static void fos_parse_udp_tunnel(fos_scan *s, uint16_t sport, uint16_t dport, uint32_t off, uint32_t end);

/* ---- the key ---------------------------------------------------------------------------- */

FOS_INLINE void fos_key4(fos_pkt *p, uint32_t src, uint32_t dst, uint16_t sport, uint16_t dport) {
    uint64_t a = (uint64_t)src << 16 | sport, b = (uint64_t)dst << 16 | dport;
    int swap = a > b;
    p->dir = (uint8_t)swap;
    p->key.w[0] = swap ? (uint64_t)dst << 32 | src : (uint64_t)src << 32 | dst;
    p->key.ports = swap ? (uint32_t)dport << 16 | sport : (uint32_t)sport << 16 | dport;
}

FOS_INLINE void fos_key6(fos_pkt *p, const uint8_t *src, const uint8_t *dst, uint16_t sport, uint16_t dport) {
    int order = memcmp(src, dst, 16);
    int swap = order ? order > 0 : sport > dport;
    p->dir = (uint8_t)swap;
    memcpy(&p->key.w[0], swap ? dst : src, 16);
    memcpy(&p->key.w[2], swap ? src : dst, 16);
    p->key.ports = swap ? (uint32_t)dport << 16 | sport : (uint32_t)sport << 16 | dport;
}

/* ---- transports -------------------------------------------------------------------------- */

/* Fill in a packet's common part; NULL when the frame holds more layers than are followed. */
FOS_INLINE fos_pkt *fos_new_pkt(fos_scan *s, uint32_t l3, uint32_t l4) {
    if (FOS_UNLIKELY(s->n >= FOS_MAX_LAYERS || l4 > 65535)) {
        FOS_COUNT(s->parser->counters, ip_nested_too_deep);
        return NULL;
    }
    fos_pkt *p = &s->out[s->n++];
    p->frame = s->frame;
    p->ts = s->ts;
    p->number = s->number;
    p->wire = s->wire_outer;
    p->captured = s->cap;
    p->vlans = s->vlans;
    p->l3 = (uint16_t)l3;
    p->l4 = (uint16_t)l4;
    p->depth = s->depth;
    p->flags = s->block ? FOS_PKT_BLOCK : 0;
    p->iface = s->iface;
    p->link = s->link;
    p->tcp_flags = 0;
    p->key.zone = 0;
    return p;
}

/* Where a transport begins and ends, and between whom. */
typedef struct fos_ip {
    const uint8_t *src, *dst; /* 4 or 16 bytes each */
    uint32_t l3, l4, end;     /* offsets; end is by the headers and may lie beyond the capture */
    uint8_t ver, proto;
} fos_ip;

FOS_INLINE void fos_finish_key(fos_scan *s, fos_pkt *p, const fos_ip *ip, uint16_t sport, uint16_t dport) {
    p->key.proto = ip->proto;
    p->key.ver = ip->ver;
    if (FOS_LIKELY(ip->ver == 4)) {
        fos_key4(p, fos_be32(ip->src), fos_be32(ip->dst), sport, dport);
        p->hash = fos_hash4(&s->parser->hash_key, &p->key);
    } else {
        fos_key6(p, ip->src, ip->dst, sport, dport);
        p->hash = fos_hash6(&s->parser->hash_key, &p->key);
    }
}

/* payload, paylen and paycap from where the transport header ends. */
FOS_INLINE void fos_set_payload(const fos_scan *s, fos_pkt *p, uint32_t off, uint32_t end) {
    if (FOS_UNLIKELY(off > end)) off = end;
    p->payload = off;
    p->paylen = end - off;
    uint32_t here = off < s->cap ? s->cap - off : 0;
    p->paycap = here < p->paylen ? here : p->paylen;
}

FOS_INLINE void fos_parse_tcp(fos_scan *s, const fos_ip *ip) {
    uint32_t l4 = ip->l4;
    /* 16 bytes reach past the flags: less cannot be told apart from noise, and is not counted. */
    if (FOS_UNLIKELY(!fos_has(s, l4, 16) || ip->end - l4 < 16)) {
        FOS_COUNT(s->parser->counters, transport_truncated);
        return;
    }
    fos_pkt *p = fos_new_pkt(s, ip->l3, l4);
    if (FOS_UNLIKELY(!p)) return;
    const uint8_t *t = s->frame + l4;
    fos_finish_key(s, p, ip, fos_be16(t), fos_be16(t + 2));
    uint32_t header = (uint32_t)(t[12] >> 4) * 4;
    p->seq = fos_be32(t + 4);
    p->ack = fos_be32(t + 8);
    p->tcp_flags = t[13];
    p->window = fos_be16(t + 14);
    if (FOS_UNLIKELY(header < 20 || header > ip->end - l4 || !fos_has(s, l4, 20))) {
        p->flags |= FOS_PKT_BAD;
        fos_set_payload(s, p, ip->end, ip->end);
        FOS_COUNT(s->parser->counters, transport_damaged);
        return;
    }
    fos_set_payload(s, p, l4 + header, ip->end);
}

FOS_INLINE void fos_parse_udp(fos_scan *s, const fos_ip *ip) {
    uint32_t l4 = ip->l4, end = ip->end;
    if (FOS_UNLIKELY(!fos_has(s, l4, 4) || end - l4 < 4)) {
        FOS_COUNT(s->parser->counters, transport_truncated);
        return;
    }
    fos_pkt *p = fos_new_pkt(s, ip->l3, l4);
    if (FOS_UNLIKELY(!p)) return;
    const uint8_t *t = s->frame + l4;
    uint16_t sport = fos_be16(t), dport = fos_be16(t + 2);
    fos_finish_key(s, p, ip, sport, dport);
    if (FOS_UNLIKELY(!fos_has(s, l4, 8) || end - l4 < 8)) {
        p->flags |= FOS_PKT_BAD;
        FOS_COUNT(s->parser->counters, transport_truncated);
        fos_set_payload(s, p, l4 + 8, end);
        return;
    }
    uint32_t len = fos_be16(t + 4);
    if (ip->proto == FOS_PROTO_UDPLITE || len == 0) len = end - l4;  /* coverage; jumbogram (RFC 2675) */
    if (FOS_UNLIKELY(len < 8 || len > end - l4)) {
        FOS_COUNT(s->parser->counters, udp_bad_length);
        if (len < 8) {
            p->flags |= FOS_PKT_BAD;
            fos_set_payload(s, p, l4 + 8, l4 + 8);
            return;
        }
        len = end - l4;
    }
    fos_set_payload(s, p, l4 + 8, l4 + len);
    if (s->parser->tunnels && ip->proto == FOS_PROTO_UDP && p->paycap >= 8)
        fos_parse_udp_tunnel(s, sport, dport, l4 + 8, l4 + len);
}

FOS_NOINLINE void fos_parse_sctp(fos_scan *s, const fos_ip *ip) {
    uint32_t l4 = ip->l4;
    if (!fos_has(s, l4, 12) || ip->end - l4 < 12) {
        FOS_COUNT(s->parser->counters, transport_truncated);
        return;
    }
    fos_pkt *p = fos_new_pkt(s, ip->l3, l4);
    if (!p) return;
    fos_finish_key(s, p, ip, fos_be16(s->frame + l4), fos_be16(s->frame + l4 + 2));
    fos_set_payload(s, p, l4 + 12, ip->end);
}

/* A protocol without ports: its connection is the pair of addresses. */
FOS_NOINLINE void fos_parse_plain(fos_scan *s, const fos_ip *ip, uint32_t header) {
    fos_pkt *p = fos_new_pkt(s, ip->l3, ip->l4);
    if (!p) return;
    p->flags |= FOS_PKT_NO_PORTS;
    fos_finish_key(s, p, ip, 0, 0);
    fos_set_payload(s, p, ip->l4 + header, ip->end);
    if (ip->proto == FOS_PROTO_ICMP || ip->proto == FOS_PROTO_ICMP6) {
        p->type = p->code = 0xff;
        if (fos_has(s, ip->l4, 2) && ip->end - ip->l4 >= 2) {
            p->type = s->frame[ip->l4];
            p->code = s->frame[ip->l4 + 1];
        } else {
            p->flags |= FOS_PKT_BAD;
            FOS_COUNT(s->parser->counters, transport_truncated);
        }
    }
}

#include "link.h"
#include "tunnel.h"

FOS_INLINE void fos_parse_transport(fos_scan *s, const fos_ip *ip) {
    switch (ip->proto) {
    case FOS_PROTO_TCP: fos_parse_tcp(s, ip); return;
    case FOS_PROTO_UDP: case FOS_PROTO_UDPLITE: fos_parse_udp(s, ip); return;
    case FOS_PROTO_SCTP: fos_parse_sctp(s, ip); return;
    case FOS_PROTO_ICMP: case FOS_PROTO_ICMP6: fos_parse_plain(s, ip, 8); return;
    default:
        if (!fos_parse_ip_tunnel(s, ip)) fos_parse_plain(s, ip, 0);
    }
}

/* ---- IP ---------------------------------------------------------------------------------- */

FOS_NOINLINE void fos_parse_fragment(fos_scan *s, fos_fragment *f) {
    f->frame = s->frame;
    f->ts = s->ts;
    f->number = s->number;
    f->wire = s->wire;
    f->block = s->block;
    f->outer = s->depth == 1 && !s->block;
    f->lead = f->outer ? f->l3 : 0;
    uint32_t here = f->data < s->cap ? s->cap - f->data : 0;
    f->captured = here < f->len ? here : f->len;
    fos_datagram whole;
    FOS_COUNT(s->parser->counters, fragments);
    if (!s->parser->on_fragment || !s->parser->on_fragment(s->parser->defrag, f, &whole)) return;
    fos_scan inner = *s;
    inner.frame = whole.data;
    inner.cap = inner.wire = whole.len;
    inner.block = 1;
    inner.link = f->outer ? s->link : FOS_LINK_RAW;
    inner.depth = (uint8_t)(s->depth - 1);
    fos_parse_ip(&inner, whole.l3, whole.len);
    s->n = inner.n;
}

/* What follows an IPv6 or AH header: walk to the transport.  Returns 0 when there is none to follow. */
FOS_NOINLINE int fos_walk_extensions(fos_scan *s, fos_ip *ip) {
    uint32_t next_at = ip->ver == 6 ? ip->l3 + 6 : ip->l3 + 9;
    for (int i = 0; i < FOS_MAX_EXTENSIONS; i++) {
        uint32_t off = ip->l4, left = ip->end - off, len;
        const uint8_t *h = s->frame + off;
        switch (ip->proto) {
        case 0: case 43: case 60: case 135: case 139: case 140:
            if (ip->ver == 4) return 1;
            if (!fos_has(s, off, 8) || left < 8) goto cut;
            len = 8 + 8u * h[1];
            /* A routing header with segments left names the real destination last or first
             * (RFC 8200 4.4, RFC 6275 6.4, RFC 8754 2). */
            if (ip->proto == 43 && h[3] && fos_has(s, off, 24)) {
                if (h[2] == 0 && h[3] <= h[1] / 2 && fos_has(s, off, 8 + 16u * (h[1] / 2u)) && h[1] >= 2)
                    ip->dst = h + 8 + 16 * (h[1] / 2 - 1);
                else if ((h[2] == 2 || h[2] == 4) && h[1] >= 2)
                    ip->dst = h + 8;
            }
            break;
        case FOS_PROTO_AH:
            if (!fos_has(s, off, 8) || left < 8) goto cut;
            len = 8 + 4u * h[1];
            break;
        case 44: {
            if (ip->ver == 4) return 1;
            if (!fos_has(s, off, 8) || left < 8) goto cut;
            uint32_t word = fos_be16(h + 2);
            if ((word & 0xfff9) == 0) {       /* atomic: RFC 6946 */
                len = 8;
                break;
            }
            fos_fragment f = {.l3 = ip->l3, .header = off - ip->l3, .next_at = next_at - ip->l3, .data = off + 8,
                              .len = left - 8, .offset = word & 0xfff8, .id = fos_be32(h + 4),
                              .ver = 6, .proto = h[0], .more = word & 1};
            fos_parse_fragment(s, &f);
            return 0;
        }
        default:
            return 1;
        }
        if (len > left) goto damaged;
        next_at = off;
        ip->proto = h[0];
        ip->l4 = off + len;
        if (ip->proto == 59) return 1;
    }
    FOS_COUNT(s->parser->counters, ip_nested_too_deep);
    return 0;
cut:
    FOS_COUNT(s->parser->counters, ip_truncated);
    return 0;
damaged:
    FOS_COUNT(s->parser->counters, ip_damaged);
    return 0;
}

FOS_NOINLINE void fos_parse_ip6(fos_scan *s, uint32_t off, uint32_t end) {
    if (!fos_has(s, off, 40) || end - off < 40) {
        FOS_COUNT(s->parser->counters, ip_truncated);
        return;
    }
    const uint8_t *h = s->frame + off;
    uint32_t len = fos_be16(h + 4);
    fos_ip ip = {.src = h + 8, .dst = h + 24, .l3 = off, .l4 = off + 40, .ver = 6, .proto = h[6]};
    /* 0: a jumbogram (RFC 2675) or a segmentation-offload super-frame; the frame's end stands in. */
    ip.end = len == 0 || len > end - ip.l4 ? end : ip.l4 + len;
    s->depth++;
    if (ip.proto != FOS_PROTO_TCP && ip.proto != FOS_PROTO_UDP && !fos_walk_extensions(s, &ip)) return;
    fos_parse_transport(s, &ip);
}

FOS_INLINE void fos_parse_ip4(fos_scan *s, uint32_t off, uint32_t end) {
    if (FOS_UNLIKELY(!fos_has(s, off, 20) || end - off < 20)) {
        FOS_COUNT(s->parser->counters, ip_truncated);
        return;
    }
    const uint8_t *h = s->frame + off;
    uint32_t header = (uint32_t)(h[0] & 15) * 4, total = fos_be16(h + 2);
    if (FOS_UNLIKELY(total == 0)) total = end - off;   /* a super-frame: segmentation offload leaves it 0 */
    if (FOS_UNLIKELY(header < 20 || total < header)) {
        FOS_COUNT(s->parser->counters, ip_damaged);
        return;
    }
    fos_ip ip = {.src = h + 12, .dst = h + 16, .l3 = off, .l4 = off + header, .ver = 4, .proto = h[9]};
    ip.end = total > end - off ? end : off + total;
    if (FOS_UNLIKELY(ip.l4 > ip.end)) {
        FOS_COUNT(s->parser->counters, ip_damaged);
        return;
    }
    s->depth++;
    uint32_t word = fos_be16(h + 6);
    if (FOS_UNLIKELY(word & 0x3fff)) {
        fos_fragment f = {.l3 = off, .header = header, .data = ip.l4, .len = ip.end - ip.l4,
                          .offset = (word & 0x1fff) * 8, .id = fos_be16(h + 4), .ver = 4,
                          .proto = h[9], .more = word >> 13 & 1};
        fos_parse_fragment(s, &f);
        return;
    }
    if (FOS_UNLIKELY(ip.proto == FOS_PROTO_AH) && !fos_walk_extensions(s, &ip)) return;
    fos_parse_transport(s, &ip);
}

/* An IP packet at `off`; `end` is where the enclosing layer says it ends at the latest. */
static void fos_parse_ip(fos_scan *s, uint32_t off, uint32_t end) {
    if (FOS_UNLIKELY(!fos_has(s, off, 1) || off >= end)) {
        FOS_COUNT(s->parser->counters, ip_truncated);
        return;
    }
    uint8_t version = s->frame[off] >> 4;
    if (FOS_LIKELY(version == 4)) fos_parse_ip4(s, off, end);
    else if (version == 6) fos_parse_ip6(s, off, end);
    else FOS_COUNT(s->parser->counters, ip_damaged);
}

/* The common case in one straight line: Ethernet, IPv4 without options, whole, TCP or UDP, not on
 * a tunnel's port.  1: *p is filled in, exactly as fos_parse_frame would; 0: ask that one. */
FOS_INLINE int fos_parse_fast(const fos_parser *parser, const uint8_t *f, uint32_t cap, uint32_t wire, uint16_t link,
                              int64_t ts, uint64_t number, uint16_t iface, fos_pkt *p) {
    if (FOS_UNLIKELY(link != FOS_LINK_ETHERNET || cap < 54)) return 0;
    uint32_t total = fos_be16(f + 16), proto = f[23];
    /* type 0x0800, version and header length 0x45; no fragment; not longer than the frame */
    if (FOS_UNLIKELY((fos_be32(f + 12) & 0xffffff00u) != 0x08004500u || (fos_be16(f + 20) & 0x3fff) || total > wire - 14 ||
                     wire < cap)) return 0;
    uint32_t end = 14 + total, header;
    uint16_t sport = fos_be16(f + 34), dport = fos_be16(f + 36);
    if (proto == FOS_PROTO_TCP) {
        header = (uint32_t)(f[46] >> 4) * 4;
        if (FOS_UNLIKELY(total < 40 || header < 20 || header > total - 20)) return 0;
        p->seq = fos_be32(f + 38);
        p->ack = fos_be32(f + 42);
        p->tcp_flags = f[47];
        p->window = fos_be16(f + 48);
    } else if (proto == FOS_PROTO_UDP) {
        header = 8;
        if (FOS_UNLIKELY(total < 28 || fos_be16(f + 38) != total - 20)) return 0;
        if (FOS_UNLIKELY(parser->tunnels && fos_udp_tunnel_port(sport, dport))) return 0;
        p->tcp_flags = 0;
    } else return 0;
    p->frame = f;
    p->ts = ts;
    p->number = number;
    p->wire = wire;
    p->captured = cap;
    p->payload = 34 + header;
    p->paylen = end - p->payload;
    uint32_t here = p->payload < cap ? cap - p->payload : 0;
    p->paycap = here < p->paylen ? here : p->paylen;
    p->vlans = 0;
    p->l3 = 14;                               /* these five are one store */
    p->l4 = 34;
    p->depth = 1;
    p->flags = 0;
    p->link = FOS_LINK_ETHERNET;
    p->iface = iface;
    p->key.proto = (uint8_t)proto;
    p->key.ver = 4;
    p->key.zone = 0;
    fos_key4(p, fos_be32(f + 26), fos_be32(f + 30), sport, dport);
    p->hash = fos_hash4(&parser->hash_key, &p->key);
    return 1;
}

/* Parse one frame; returns how many packets were written to out[FOS_MAX_LAYERS]. */
FOS_INLINE int fos_parse_frame(const fos_parser *parser, const uint8_t *frame, uint32_t cap, uint32_t wire,
                               uint16_t link, int64_t ts, uint64_t number, uint16_t iface, fos_pkt *out) {
    fos_scan s = {.parser = parser, .frame = frame, .cap = cap, .wire = wire, .ts = ts, .number = number,
                  .out = out, .iface = iface, .link = link, .wire_outer = wire};
    uint32_t end = wire > cap ? wire : cap;
    if (FOS_LIKELY(link == 1 && cap >= 34 && fos_be16(frame + 12) == 0x0800)) {
        if (FOS_LIKELY((frame[14] >> 4) == 4)) fos_parse_ip4(&s, 14, end);
        else fos_parse_ip(&s, 14, end);
    } else {
        fos_parse_link(&s, link, end);
    }
    return s.n;
}

#endif
