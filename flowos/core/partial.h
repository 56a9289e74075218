/* Checksums that a local sender left to a network card, made here.
 *
 * Such a frame bears the folded sum of its pseudo-header in place of the transport's checksum.  Where the
 * kernel does not say which frames these are (AF_XDP), the field itself tells: a good checksum
 * looks like that once in 65,536 frames, and making it again changes nothing.
 */
#ifndef FOS_PARTIAL_H
#define FOS_PARTIAL_H

#include "parse.h"
#include "repack.h"

/* Is the checksum of an Ethernet frame's TCP or UDP packet the bare sum of its pseudo-header? */
static int fos_partial(const uint8_t *frame, uint32_t len) {
    uint32_t at = 14, proto, l4, n, addresses, bytes;
    if (len < 14 + 20 + 8) return 0;
    uint32_t type = fos_be16(frame + 12);
    while (fos_is_vlan(type)) {
        if (at + 4 > len) return 0;
        type = fos_be16(frame + at + 2);
        at += 4;
    }
    if (type == FOS_ETHER_IP4) {
        if (at + 20 > len || fos_be16(frame + at + 6) & 0x3fff) return 0;     /* a fragment's sum is its datagram's */
        proto = frame[at + 9];
        l4 = at + (frame[at] & 15) * 4u;
        n = fos_be16(frame + at + 2) - (l4 - at);
        addresses = at + 12;
        bytes = 8;
    } else if (type == FOS_ETHER_IP6) {
        if (at + 40 > len) return 0;
        proto = frame[at + 6];
        l4 = at + 40;
        n = fos_be16(frame + at + 4);
        addresses = at + 8;
        bytes = 32;
    } else return 0;
    uint32_t place = proto == FOS_PROTO_TCP ? 16 : proto == FOS_PROTO_UDP ? 6 : 0;
    if (!place || n < place + 2 || n > 65535 || l4 + n > len) return 0;
    uint64_t sum = (uint64_t)fos_sum(frame + addresses, bytes) + fos_sum_of16(proto) + fos_sum_of16(n);
    return fos_csum_load(frame + l4 + place) == fos_fold(sum);
}

/* Make the transport checksum of a frame; returns whether there was one to make. */
FOS_NOINLINE int fos_partial_complete(fos_parser *parser, uint8_t *frame, uint32_t len, uint16_t link) {
    fos_pkt packets[FOS_MAX_LAYERS];
    int n = fos_parse_frame(parser, frame, len, len, link, 0, 0, 0, packets);
    if (n == 0) return 0;
    const fos_pkt *p = &packets[n - 1];       /* the card would have done the innermost */
    if (p->flags & FOS_PKT_BAD || p->paycap < p->paylen) return 0;
    fos_make_checksum(frame, p->l3, p->l4, p->payload + p->paylen - p->l4);
    return 1;
}

#endif
