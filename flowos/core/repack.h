/* Packets out: a frame rebuilt around a new payload, split to a segment size.
 *
 *     template:  [ link ][ IP, options, extension headers ][ transport, options ][ old payload ][ padding ]
 *                0       l3                                l4                    payload
 *     out:       [ copied ][ copied, lengths set ][ fields set, sums made ][ segs[skip, skip + n) ]
 *
 * Everything in front of the payload is copied from a template frame; `fields` changes some of it
 * (rewrite.h), `options` replaces TCP's options as a whole.  Lengths and checksums are made anew,
 * except that a UDP checksum of 0 (none was made) stays 0.  Ethernet's padding, and whatever else
 * stood behind the IP packet, is left out.  Headers outside l3 are copied as they are, but for the
 * length fields of an Ethernet frame's LLC and PPPoE headers.  An authentication header is copied:
 * nobody but its key's owner can make it right.
 */
#ifndef FOS_REPACK_H
#define FOS_REPACK_H

#include "rewrite.h"
#include "segment.h"

typedef struct fos_repack {
    const uint8_t *frame;     /* the template */
    uint32_t captured;        /* its bytes present: the headers at least */
    uint32_t l3, l4;          /* offsets of the IP and the transport header */
    uint32_t payload;         /* offset of the transport payload; = l4: no transport header is known */
    uint16_t link;            /* LINKTYPE_* of the frame; of use to Ethernet alone */
    uint16_t ip_id_add;       /* added to IPv4's identification: packets made from one template differ */
    uint32_t options_len;     /* of `options`; a multiple of four, up to 40 */
    const uint8_t *options;   /* TCP: these instead of the template's; NULL: the template's */
    const fos_seg *segs;      /* contiguous pieces of payload ... */
    uint32_t seg_count;
    uint64_t skip, n;         /* ... of which bytes [skip, skip + n) are sent, from segs[0].p on */
    fos_rewrite fields;
} fos_repack;

/* Copy bytes [skip, skip + n) of some segments; returns how many there were. */
FOS_INLINE uint64_t fos_segs_copy(uint8_t *out, const fos_seg *segs, uint32_t count, uint64_t skip, uint64_t n) {
    uint64_t done = 0;
    for (uint32_t i = 0; i < count && done < n; i++) {
        if (skip >= segs[i].n) { skip -= segs[i].n; continue; }
        uint64_t part = segs[i].n - skip;
        if (part > n - done) part = n - done;
        memcpy(out + done, segs[i].p + skip, part);
        done += part;
        skip = 0;
    }
    return done;
}

/* Make the transport's checksum anew, `len` bytes from l4 on being present.  What has none is left alone. */
static void fos_make_checksum(uint8_t *frame, uint32_t l3, uint32_t l4, uint32_t len) {
    uint32_t proto = fos_final_protocol(frame, l3, l4), covered = len;
    fos_csum_place csum = fos_csum_of(proto);
    uint8_t *t = frame + l4;
    if (!csum.at || len < csum.at + 2) return;
    if (csum.udp && fos_csum_load(t + csum.at) == 0) return;
    if (proto == FOS_PROTO_UDPLITE) {
        uint32_t coverage = fos_be16(t + 4);              /* RFC 3828 section 3.1 */
        if (coverage >= 8 && coverage < len) covered = coverage;
    }
    uint64_t sum = 0;
    if (csum.pseudo) sum = fos_sum_addresses(frame, l3, l4) + fos_sum_of16(proto) + fos_sum_of16(len);
    fos_csum_store(t + csum.at, 0);
    uint32_t made = (uint16_t)~fos_fold(sum + fos_sum(t, covered));
    fos_csum_store(t + csum.at, csum.udp && made == 0 ? 0xffff : made);
}

FOS_INLINE void fos_make_ip4_checksum(uint8_t *ip) {
    fos_csum_store(ip + 10, 0);
    fos_csum_store(ip + 10, ~fos_sum(ip, (ip[0] & 15) * 4u));
}

/* Correct the lengths that an Ethernet frame's headers before l3 say, for `len` bytes from l3 on. */
static void fos_fix_link(uint8_t *frame, uint16_t link, uint32_t l3, uint32_t len) {
    if (link != 1 || l3 < 14) return;
    uint32_t at = 12;
    while (at + 6 <= l3 && (fos_be16(frame + at) == 0x8100 || fos_be16(frame + at) == 0x88a8)) at += 4;
    uint32_t type = fos_be16(frame + at), inside = l3 - at - 2;
    if (type == 0x8864 && (inside == 7 || inside == 8)) fos_put16(frame + at + 6, inside - 6 + len);   /* RFC 2516 */
    else if (type < 0x0600 && (inside == 3 || inside == 8)) fos_put16(frame + at, inside + len);       /* LLC, SNAP */
}

/* Build the packet; returns the bytes written to `out`, or 0: it does not fit `room` or an IP packet, or the
 * template lacks a header.  `out` must not overlap the template or the segments. */
FOS_NOINLINE uint32_t fos_repack_build(const fos_repack *r, uint8_t *out, uint32_t room) {
    uint32_t l3 = r->l3, l4 = r->l4, header = r->payload - l4;
    if (r->payload < l4 || l4 < l3 + 20 || r->payload > r->captured) return 0;
    uint32_t four = r->frame[l3] >> 4 == 4, proto = fos_final_protocol(r->frame, l3, l4);
    if (!four && (r->frame[l3] >> 4 != 6 || l4 < l3 + 40)) return 0;
    int tcp = proto == FOS_PROTO_TCP && header;
    if (header && header < (tcp ? 20 : fos_csum_of(proto).at + 2)) return 0;   /* a cut or damaged header */
    if (tcp && r->options) header = 20 + r->options_len;
    uint64_t start = (uint64_t)l4 + header, total = start - l3 + r->n;
    if (header > 60 || start + r->n > room || (four ? total : total - 40) > 65535) return 0;
    memcpy(out, r->frame, tcp && r->options ? l4 + 20 : r->payload);
    uint8_t *ip = out + l3, *t = out + l4;
    if (four) {
        fos_put16(ip + 2, (uint32_t)total);
        fos_put16(ip + 4, fos_be16(ip + 4) + r->ip_id_add);
    } else {
        if (ip[6] == 0 && fos_be16(ip + 4) == 0) return 0;               /* a jumbogram (RFC 2675) */
        fos_put16(ip + 4, (uint32_t)total - 40);
    }
    if (tcp && r->options) {
        memcpy(t + 20, r->options, r->options_len);
        t[12] = (uint8_t)((t[12] & 15) | header / 4 << 4);
    }
    if (fos_segs_copy(t + header, r->segs, r->seg_count, r->skip, r->n) != r->n) return 0;
    uint32_t len = header + (uint32_t)r->n;
    if (proto == FOS_PROTO_UDP && header >= 8) fos_put16(t + 4, len);
    if (proto == FOS_PROTO_UDPLITE && header >= 8 && fos_be16(t + 4) > len) fos_put16(t + 4, 0);
    if (r->fields.set) fos_rewrite_packet(out, l4 + header, l3, l4, &r->fields);
    if (four) fos_make_ip4_checksum(ip);
    if (header) fos_make_checksum(out, l3, l4, len);
    fos_fix_link(out, r->link, l3, (uint32_t)total);
    return (uint32_t)(start + r->n);
}

/* How many segments of at most `mss` payload bytes n bytes make: one at least, for a FIN has none. */
FOS_INLINE uint64_t fos_split_count(uint64_t n, uint32_t mss) { return n ? (n + mss - 1) / mss : 1; }

/* Build the i-th of the segments that *r splits into at `mss`, as a network card would: sequence numbers go on,
 * SYN and CWR stand in the first alone, FIN and PSH in the last, identifications count up.  `fields` must set seq
 * and flags.  Returns as fos_repack_build. */
FOS_NOINLINE uint32_t fos_split_build(const fos_repack *r, uint32_t mss, uint64_t i, uint8_t *out, uint32_t room) {
    uint64_t count = fos_split_count(r->n, mss), from = i * mss;
    if (i >= count) return 0;
    fos_repack part = *r;
    fos_rewrite *f = &part.fields;
    part.skip = r->skip + from;
    part.n = r->n - from < mss ? r->n - from : mss;
    part.ip_id_add = (uint16_t)(r->ip_id_add + i);
    f->seq += (uint32_t)from + (i && (f->tcp_flags & FOS_TCP_SYN));
    if (i) f->tcp_flags &= (uint8_t)~(FOS_TCP_SYN | 0x80);
    if (i + 1 < count) f->tcp_flags &= (uint8_t)~(FOS_TCP_FIN | FOS_TCP_PSH);
    if (f->tcp_flags & FOS_TCP_URG) {
        uint32_t urgent = f->set & FOS_SET_URGENT ? f->urgent : fos_be16(r->frame + r->l4 + 18);
        if (from && urgent <= from) f->tcp_flags &= (uint8_t)~FOS_TCP_URG;      /* it stood in an earlier one */
        f->urgent = (uint16_t)(f->tcp_flags & FOS_TCP_URG ? urgent - from : 0);
        f->set |= FOS_SET_URGENT;
    }
    return fos_repack_build(&part, out, room);
}

#endif
