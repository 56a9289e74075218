/* Fragments out: an IP packet too long for a link, cut to its MTU.
 *
 *     [ link ][ IP header, options ][ data .................................. ]
 *     [ link ][ IP header, options ][ data, 8 k bytes ]  [ link ][ IP header ][ data, 8 k ] ...
 *
 * IPv4 (RFC 791 section 3.2): options that are not to be copied become no-operations in all but the
 * first, as Linux does, so every header is as long as the first; what is a fragment already is cut
 * further; DF forbids it.  IPv6 (RFC 8200 section 4.5): a fragment header goes behind the headers
 * that routers look at; what has one already is refused.  The packet must be whole.
 */
#ifndef FOS_FRAGMENT_H
#define FOS_FRAGMENT_H

#include "repack.h"

/* How one packet is to be cut. */
typedef struct fos_cut {
    const uint8_t *frame;
    uint32_t l3;              /* offset of the IP header */
    uint32_t head;            /* bytes from l3 on that each fragment repeats */
    uint32_t next_at;         /* IPv6: offset from l3 of the byte that will name the fragment header */
    uint32_t data;            /* bytes to be cut */
    uint32_t step;            /* data bytes per fragment, a multiple of eight */
    uint32_t count;           /* fragments */
    uint16_t link;            /* LINKTYPE_* of the frame */
    uint8_t four;
} fos_cut;

/* Plan the fragments of a frame of `captured` bytes whose IP packet begins at l3, for links that carry `mtu`
 * bytes of IP.  Returns their number, 1 when it fits as it is, 0 when it must not or cannot be cut. */
FOS_NOINLINE uint32_t fos_cut_plan(fos_cut *c, const uint8_t *frame, uint32_t captured, uint16_t link, uint32_t l3,
                                   uint32_t mtu) {
    memset(c, 0, sizeof *c);
    if (captured < l3 + 20) return 0;
    const uint8_t *ip = frame + l3;
    c->frame = frame;
    c->l3 = l3;
    c->link = link;
    c->four = ip[0] >> 4 == 4;
    uint32_t total = c->four ? fos_be16(ip + 2) : captured < l3 + 40 ? 0 : 40u + fos_be16(ip + 4), extra = 0;
    c->head = c->four ? (ip[0] & 15) * 4u : 40;
    if (c->head < 20 || total <= c->head || total > captured - l3) return 0;
    if (total <= mtu) return c->count = 1;
    if (c->four) {
        if (ip[6] & 0x40) return 0;
    } else {
        extra = 8;
        c->next_at = 6;
        /* Hop-by-hop options, routing, and destination options in front of routing are the routers' (4.5). */
        uint32_t next = ip[6], at = 40;
        while (next == 0 || next == 43 || next == 60) {
            if (at + 8 > total || at + 8u + 8u * ip[at + 1] > total) return 0;
            uint32_t after = at + 8u + 8u * ip[at + 1];
            if (next != 60) {
                c->head = after;
                c->next_at = at;
            }
            next = ip[at];
            at = after;
        }
        if (next == 44) return 0;
    }
    if (mtu < c->head + extra + 8) return 0;
    c->data = total - c->head;
    c->step = (mtu - c->head - extra) & ~7u;
    return c->count = (c->data + c->step - 1) / c->step;
}

/* Turn the options that only a first fragment carries into no-operations (RFC 791: the copied flag). */
static void fos_blank_options(uint8_t *ip) {
    for (uint32_t at = 20, end = (ip[0] & 15) * 4u; at < end && ip[at];) {
        uint32_t len = ip[at] == 1 ? 1 : at + 1 < end ? ip[at + 1] : 0;
        if (len == 0 || len > end - at || (len < 2 && ip[at] != 1)) return;
        if (!(ip[at] & 0x80)) memset(ip + at, 1, len);
        at += len;
    }
}

/* Build the i-th fragment; `id` is IPv6's identification (IPv4 keeps the packet's).  Returns the bytes written,
 * or 0: it does not fit `room`, or there is no such fragment. */
FOS_NOINLINE uint32_t fos_cut_build(const fos_cut *c, uint32_t i, uint32_t id, uint8_t *out, uint32_t room) {
    if (c->count < 2 || i >= c->count) return 0;
    uint32_t from = i * c->step, n = c->data - from < c->step ? c->data - from : c->step, extra = c->four ? 0 : 8;
    uint32_t more = i + 1 < c->count, total = c->head + extra + n;
    if (room < c->l3 + total) return 0;
    memcpy(out, c->frame, c->l3 + c->head);
    uint8_t *ip = out + c->l3;
    if (c->four) {
        uint32_t word = fos_be16(ip + 6);     /* flags, and where this already lies in its datagram */
        fos_put16(ip + 2, total);
        fos_put16(ip + 6, ((word & 0xe000) | (more ? 0x2000 : 0)) | (((word & 0x1fff) + from / 8) & 0x1fff));
        if (from) fos_blank_options(ip);
        fos_make_ip4_checksum(ip);
    } else {
        uint8_t *h = ip + c->head;
        h[0] = ip[c->next_at];
        h[1] = 0;
        fos_put16(h + 2, from | more);
        fos_put32(h + 4, id);
        ip[c->next_at] = 44;
        fos_put16(ip + 4, total - 40);
    }
    memcpy(ip + c->head + extra, c->frame + c->l3 + c->head + from, n);
    fos_fix_link(out, c->link, c->l3, total);
    return c->l3 + total;
}

#endif
