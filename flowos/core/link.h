/* Link layers: from the first byte of a frame to its IP packet.
 *
 *     Ethernet -> [802.1Q/802.1ad tags] -> IPv4, IPv6, MPLS, PPPoE, FabricPath, LLC/SNAP
 *     Linux cooked v1/v2, raw IP, BSD null/loop, PPP, Cisco HDLC
 *
 * Part of parse.h, which includes it.  What carries no IP is counted, never followed.
 */
#ifndef FOS_LINK_H
#define FOS_LINK_H

enum fos_linktype {
    FOS_LINK_NULL = 0, FOS_LINK_ETHERNET = 1, FOS_LINK_PPP = 9, FOS_LINK_RAW_BSD = 12, FOS_LINK_RAW_OPENBSD = 14,
    FOS_LINK_PPP_HDLC = 50, FOS_LINK_PPP_ETHER = 51, FOS_LINK_RAW = 101, FOS_LINK_C_HDLC = 104,
    FOS_LINK_LOOP = 108, FOS_LINK_SLL = 113, FOS_LINK_IPV4 = 228, FOS_LINK_IPV6 = 229, FOS_LINK_SLL2 = 276,
};

enum fos_ethertype {
    FOS_ETHER_IP4 = 0x0800, FOS_ETHER_VLAN = 0x8100, FOS_ETHER_IP6 = 0x86dd, FOS_ETHER_MPLS = 0x8847,
    FOS_ETHER_MPLS_MULTI = 0x8848, FOS_ETHER_PPPOE = 0x8864, FOS_ETHER_QINQ = 0x88a8, FOS_ETHER_FABRICPATH = 0x8903,
    FOS_ETHER_TEB = 0x6558,
};

FOS_INLINE int fos_is_vlan(uint32_t type) {
    /* 0x9100..0x9300: stacked tags before 802.1ad gave them 0x88a8 */
    return type == FOS_ETHER_VLAN || type == FOS_ETHER_QINQ || type == 0x9100 || type == 0x9200 || type == 0x9300;
}

static void fos_link_cut(fos_scan *s) { FOS_COUNT(s->parser->counters, link_truncated); }

/* A stack of labels (RFC 3032); what lies below is guessed from its first nibble (RFC 4928). */
static void fos_parse_mpls(fos_scan *s, uint32_t off, uint32_t end) {
    for (;;) {
        if (!fos_has(s, off, 4)) { fos_link_cut(s); return; }
        uint32_t bottom = s->frame[off + 2] & 1;
        off += 4;
        if (bottom) break;
    }
    if (!fos_has(s, off, 1)) { fos_link_cut(s); return; }
    uint8_t nibble = s->frame[off] >> 4;
    if (nibble == 4 || nibble == 6) fos_parse_ip(s, off, end);
    else if (nibble == 0) fos_parse_ether(s, off + 4, end);   /* pseudowire control word: RFC 4448 */
    else if (nibble == 1) FOS_COUNT(s->parser->counters, not_ip);  /* associated channel: RFC 5586 */
    else fos_parse_ether(s, off, end);
}

/* A PPP frame: optional address and control, then a protocol number (RFC 1661, 1662). */
static void fos_parse_ppp(fos_scan *s, uint32_t off, uint32_t end) {
    if (fos_has(s, off, 2) && s->frame[off] == 0xff && s->frame[off + 1] == 0x03) off += 2;
    if (!fos_has(s, off, 2)) { fos_link_cut(s); return; }
    uint32_t proto = s->frame[off];
    if (proto & 1) off += 1;                                  /* compressed to one byte */
    else { proto = fos_be16(s->frame + off); off += 2; }
    switch (proto) {
    case 0x0021: case 0x0057: fos_parse_ip(s, off, end); return;
    case 0x0281: case 0x0283: fos_parse_mpls(s, off, end); return;
    default: FOS_COUNT(s->parser->counters, not_ip);
    }
}

static void fos_parse_pppoe(fos_scan *s, uint32_t off, uint32_t end) {
    if (!fos_has(s, off, 6)) { fos_link_cut(s); return; }
    uint32_t len = fos_be16(s->frame + off + 4);              /* RFC 2516 section 4 */
    if (s->frame[off + 1] != 0) { FOS_COUNT(s->parser->counters, not_ip); return; }
    off += 6;
    fos_parse_ppp(s, off, len < end - off ? off + len : end);
}

/* 802.3 with a length instead of a type: IP only behind SNAP, or at its own LSAP (RFC 1042). */
static void fos_parse_llc(fos_scan *s, uint32_t len, uint32_t off, uint32_t end) {
    if (len && off < end && len < end - off) end = off + len;
    if (!fos_has(s, off, 3)) { fos_link_cut(s); return; }
    const uint8_t *h = s->frame + off;
    if (h[0] == 0xaa && h[1] == 0xaa && h[2] == 0x03 && fos_has(s, off, 8) && !h[3] && !h[4] && (!h[5] || h[5] == 0xf8))
        fos_parse_ethertype(s, fos_be16(h + 6), off + 8, end);
    else if (h[0] == 0x06 && h[1] == 0x06 && h[2] == 0x03) fos_parse_ip(s, off + 3, end);
    else FOS_COUNT(s->parser->counters, not_ip);
}

static void fos_parse_ethertype(fos_scan *s, uint32_t type, uint32_t off, uint32_t end) {
    int shift = 48;
    while (fos_is_vlan(type)) {
        if (!fos_has(s, off, 4)) { fos_link_cut(s); return; }
        if (shift >= 0) s->vlans |= (uint64_t)(0x1000u | (fos_be16(s->frame + off) & 0xfff)) << shift;
        shift -= 16;
        type = fos_be16(s->frame + off + 2);
        off += 4;
    }
    switch (type) {
    case FOS_ETHER_IP4: case FOS_ETHER_IP6: fos_parse_ip(s, off, end); return;
    case FOS_ETHER_MPLS: case FOS_ETHER_MPLS_MULTI: fos_parse_mpls(s, off, end); return;
    case FOS_ETHER_PPPOE: fos_parse_pppoe(s, off, end); return;
    case FOS_ETHER_FABRICPATH: fos_parse_ether(s, off + 2, end); return;   /* tag: FTAG and TTL */
    case FOS_ETHER_TEB: fos_parse_ether(s, off, end); return;
    default:
        if (type < 0x0600) fos_parse_llc(s, type, off, end);
        else FOS_COUNT(s->parser->counters, not_ip);
    }
}

static void fos_parse_ether(fos_scan *s, uint32_t off, uint32_t end) {
    if (!fos_has(s, off, 14)) { fos_link_cut(s); return; }
    fos_parse_ethertype(s, fos_be16(s->frame + off + 12), off + 14, end);
}

/* BSD null: the address family in the byte order of the machine that captured. */
static void fos_parse_null(fos_scan *s, uint32_t end) {
    if (!fos_has(s, 0, 4)) { fos_link_cut(s); return; }
    uint32_t family = fos_be32(s->frame);
    if (family > 0xffff) family = __builtin_bswap32(family);
    switch (family) {
    case 2: case 10: case 24: case 28: case 30: fos_parse_ip(s, 4, end); return;   /* AF_INET; AF_INET6 of four systems */
    default: FOS_COUNT(s->parser->counters, not_ip);
    }
}

FOS_NOINLINE void fos_parse_link(fos_scan *s, uint32_t link, uint32_t end) {
    switch (link) {
    case FOS_LINK_ETHERNET: fos_parse_ether(s, 0, end); return;
    case FOS_LINK_RAW: case FOS_LINK_RAW_BSD: case FOS_LINK_RAW_OPENBSD: case FOS_LINK_IPV4: case FOS_LINK_IPV6:
        fos_parse_ip(s, 0, end);
        return;
    case FOS_LINK_SLL:
        if (!fos_has(s, 0, 16)) { fos_link_cut(s); return; }
        fos_parse_ethertype(s, fos_be16(s->frame + 14), 16, end);
        return;
    case FOS_LINK_SLL2:
        if (!fos_has(s, 0, 20)) { fos_link_cut(s); return; }
        fos_parse_ethertype(s, fos_be16(s->frame), 20, end);
        return;
    case FOS_LINK_NULL: case FOS_LINK_LOOP: fos_parse_null(s, end); return;
    case FOS_LINK_PPP: case FOS_LINK_PPP_HDLC:
        /* Cisco's framing, unicast or multicast (RFC 1547 section 4.3.1); no PPP protocol begins so. */
        if (fos_has(s, 0, 4) && (s->frame[0] == 0x0f || s->frame[0] == 0x8f) && !s->frame[1])
            fos_parse_ethertype(s, fos_be16(s->frame + 2), 4, end);
        else fos_parse_ppp(s, 0, end);
        return;
    case FOS_LINK_PPP_ETHER: fos_parse_pppoe(s, 0, end); return;
    case FOS_LINK_C_HDLC:
        if (!fos_has(s, 0, 4)) { fos_link_cut(s); return; }
        fos_parse_ethertype(s, fos_be16(s->frame + 2), 4, end);
        return;
    default: FOS_COUNT(s->parser->counters, link_unknown);
    }
}

#endif
