/* Tunnels: IP in IP, GRE, EtherIP, and those over UDP; each can be switched off.
 *
 * A tunnel over UDP is recognised by its port, and only when its header is right; the outer
 * datagram stays a packet of its own connection.  A tunnel directly over IP is followed instead
 * of counted; one that cannot be followed counts as a connection of its protocol.
 * Part of parse.h, which includes it.
 */
#ifndef FOS_TUNNEL_H
#define FOS_TUNNEL_H

FOS_INLINE int fos_is_ip(const fos_scan *s, uint32_t off) {
    return fos_has(s, off, 20) && ((s->frame[off] >> 4) == 4 || ((s->frame[off] >> 4) == 6 && fos_has(s, off, 40)));
}

static void fos_parse_ppp(fos_scan *s, uint32_t off, uint32_t end);
static void fos_parse_mpls(fos_scan *s, uint32_t off, uint32_t end);

/* GRE: RFC 2784 and 2890 (version 0), RFC 2637 (version 1, PPTP), ERSPAN.  Returns 0: not followed. */
static int fos_parse_gre(fos_scan *s, uint32_t off, uint32_t end) {
    if (!fos_has(s, off, 4) || end - off < 4) return 0;
    uint32_t flags = fos_be16(s->frame + off), type = fos_be16(s->frame + off + 2);
    uint32_t len = 4;
    if (flags & 0x4000) return 0;                        /* source routing: obsolete, RFC 2784 2.3 */
    if (flags & 0x8000) len += 4;
    if (flags & 0x2000) len += 4;
    if (flags & 0x1000) len += 4;
    if ((flags & 7) == 1 && (flags & 0x0080)) len += 4;  /* acknowledgement number */
    if (len > end - off || !fos_has(s, off, len)) return 0;
    uint32_t inner = off + len;
    switch (type) {
    case FOS_ETHER_IP4: case FOS_ETHER_IP6:
        if (!fos_is_ip(s, inner)) return 0;
        fos_parse_ip(s, inner, end);
        return 1;
    case 0x883e:                                         /* WCCP: a redirect header may come first */
        if (fos_has(s, inner, 1) && (s->frame[inner] >> 4) != 4) inner += 4;
        if (!fos_is_ip(s, inner)) return 0;
        fos_parse_ip(s, inner, end);
        return 1;
    case FOS_ETHER_TEB: fos_parse_ether(s, inner, end); return 1;
    case FOS_ETHER_MPLS: case FOS_ETHER_MPLS_MULTI: fos_parse_mpls(s, inner, end); return 1;
    case 0x88be: fos_parse_ether(s, inner + ((flags & 0x1000) ? 8 : 0), end); return 1;   /* ERSPAN II, I */
    case 0x22eb: fos_parse_ether(s, inner + 12, end); return 1;                           /* ERSPAN III */
    case 0x880b:
        if (inner == end) return 0;                      /* a bare acknowledgement */
        fos_parse_ppp(s, inner, end);
        return 1;
    default: return 0;
    }
}

/* A tunnel directly over IP; 1 when it was followed. */
FOS_NOINLINE int fos_parse_ip_tunnel(fos_scan *s, const fos_ip *ip) {
    uint32_t on = s->parser->tunnels;
    switch (ip->proto) {
    case FOS_PROTO_IPIP:
        if (!(on & FOS_TUNNEL_IPIP) || !fos_is_ip(s, ip->l4)) return 0;
        fos_parse_ip(s, ip->l4, ip->end);
        return 1;
    case FOS_PROTO_IPV6:
        if (!(on & FOS_TUNNEL_6IN4) || !fos_is_ip(s, ip->l4)) return 0;
        fos_parse_ip(s, ip->l4, ip->end);
        return 1;
    case FOS_PROTO_GRE:
        return (on & FOS_TUNNEL_GRE) && fos_parse_gre(s, ip->l4, ip->end);
    case FOS_PROTO_ETHERIP:                              /* RFC 3378 */
        if (!(on & FOS_TUNNEL_GRE) || !fos_has(s, ip->l4, 16) || s->frame[ip->l4] != 0x30) return 0;
        fos_parse_ether(s, ip->l4 + 2, ip->end);
        return 1;
    default: return 0;
    }
}

static void fos_parse_gtpu(fos_scan *s, uint32_t off, uint32_t end) {
    const uint8_t *h = s->frame + off;
    if ((h[0] & 0xf0) != 0x30 || h[1] != 255) return;    /* version 1, G-PDU only: 3GPP TS 29.281 */
    uint32_t at = off + 8, stop = at + fos_be16(h + 2);
    if (stop > end) stop = end;
    if (h[0] & 7) {
        if (!fos_has(s, at, 4)) return;
        uint8_t next = (h[0] & 4) ? s->frame[at + 3] : 0;
        at += 4;
        for (int i = 0; next && i < FOS_MAX_EXTENSIONS; i++) {
            if (!fos_has(s, at, 4) || s->frame[at] == 0) goto damaged;
            uint32_t len = 4u * s->frame[at];
            if (!fos_has(s, at, len)) goto damaged;
            next = s->frame[at + len - 1];
            at += len;
        }
        if (next) goto damaged;
    }
    if (at < stop && fos_is_ip(s, at)) { fos_parse_ip(s, at, stop); return; }
damaged:
    FOS_COUNT(s->parser->counters, tunnel_damaged);
}

/* RFC 4380: an authentication and an origin indication may stand before the IPv6 packet. */
static void fos_parse_teredo(fos_scan *s, uint32_t off, uint32_t end) {
    if (fos_has(s, off, 4) && fos_be16(s->frame + off) == 1)
        off += 13u + s->frame[off + 2] + s->frame[off + 3];
    if (fos_has(s, off, 8) && fos_be16(s->frame + off) == 0) off += 8;
    if (off < end && fos_has(s, off, 40) && (s->frame[off] >> 4) == 6) fos_parse_ip(s, off, end);
}

FOS_NOINLINE void fos_parse_vxlan(fos_scan *s, uint32_t off, uint32_t end) {
    const uint8_t *h = s->frame + off;
    if (!(h[0] & 0x08) || h[7] != 0) { FOS_COUNT(s->parser->counters, tunnel_damaged); return; }
    fos_parse_ether(s, off + 8, end);                    /* RFC 7348 */
}

FOS_NOINLINE void fos_parse_geneve(fos_scan *s, uint32_t off, uint32_t end) {
    const uint8_t *h = s->frame + off;
    uint32_t len = 8 + 4u * (h[0] & 0x3f);
    if ((h[0] >> 6) || !fos_has(s, off, len) || len > end - off) {
        FOS_COUNT(s->parser->counters, tunnel_damaged);
        return;
    }
    fos_parse_ethertype(s, fos_be16(h + 2), off + len, end);  /* RFC 8926 */
}

/* Six bits of each port, as a mask: one test rules out most others, and all the common services. */
#define FOS_TUNNEL_PORT_BIT(port) (1ull << ((port) >> 2 & 63))
#define FOS_TUNNEL_PORT_BITS (FOS_TUNNEL_PORT_BIT(4789) | FOS_TUNNEL_PORT_BIT(8472) | FOS_TUNNEL_PORT_BIT(6081) | \
                              FOS_TUNNEL_PORT_BIT(2152) | FOS_TUNNEL_PORT_BIT(3544))

FOS_INLINE int fos_udp_tunnel_port(uint16_t sport, uint16_t dport) {
    if (FOS_LIKELY(!((FOS_TUNNEL_PORT_BITS >> (dport >> 2 & 63) | FOS_TUNNEL_PORT_BITS >> (sport >> 2 & 63)) & 1))) return 0;
    return dport == 4789 || dport == 8472 || dport == 6081 || sport == 2152 || dport == 2152 || sport == 3544 || dport == 3544;
}

/* At least eight bytes are captured at `off`. */
static void fos_parse_udp_tunnel(fos_scan *s, uint16_t sport, uint16_t dport, uint32_t off, uint32_t end) {
    uint32_t on = s->parser->tunnels;
    if (FOS_LIKELY(!fos_udp_tunnel_port(sport, dport))) return;
    if ((dport == 4789 || dport == 8472) && (on & FOS_TUNNEL_VXLAN)) fos_parse_vxlan(s, off, end);
    else if (dport == 6081 && (on & FOS_TUNNEL_GENEVE)) fos_parse_geneve(s, off, end);
    else if ((sport == 2152 || dport == 2152) && (on & FOS_TUNNEL_GTPU)) fos_parse_gtpu(s, off, end);
    else if ((sport == 3544 || dport == 3544) && (on & FOS_TUNNEL_TEREDO)) fos_parse_teredo(s, off, end);
}

#endif
