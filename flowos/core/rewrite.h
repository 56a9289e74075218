/* Header fields rewritten in place, with their checksums carried along (checksum.h).
 *
 *     frame:  ... | l3: IP header | l4: transport header | payload
 *                   src, dst        ports, seq, ack, window, flags, SACK, time stamps
 *
 * `set` names the fields that change; all others, and the payload, stay as they are, so a packet
 * need not be whole: what the capture does not hold is not written.  The length of no header
 * changes: SACK blocks that go are replaced by no-operations.  Where l3 belongs to a tunnelled
 * packet, what lies outside it is the caller's business.
 *
 * In ICMP an identifier takes the place of both ports (RFC 5508 section 3.1).  SCTP's ports stand
 * under a CRC over the whole packet and are not rewritten; its addresses are.
 */
#ifndef FOS_REWRITE_H
#define FOS_REWRITE_H

#include "checksum.h"
#include "packet.h"

enum { FOS_SACK_EDGES = 8 };  /* four blocks: all that fit 40 bytes of options (RFC 2018 section 3) */

enum fos_set {
    FOS_SET_SEQ = 1, FOS_SET_ACK = 2, FOS_SET_WINDOW = 4, FOS_SET_FLAGS = 8, FOS_SET_URGENT = 16,
    FOS_SET_TSVAL = 32, FOS_SET_TSECR = 64, FOS_SET_SACK = 128,
    FOS_SET_SRC = 256, FOS_SET_DST = 512, FOS_SET_SPORT = 1024, FOS_SET_DPORT = 2048,
    FOS_SET_TCP = 255,        /* any of TCP's own */
};

typedef struct fos_rewrite {
    uint32_t set;             /* FOS_SET_*: which of the fields below to write */
    uint32_t seq, ack;
    uint16_t window, urgent;
    uint32_t tsval, tsecr;
    uint8_t tcp_flags;        /* CWR and ECE included; the AE bit stays */
    uint8_t sack_edges;       /* values in `sack`: two per block, left and right, in the order to be written */
    uint16_t sport, dport;
    uint32_t sack[FOS_SACK_EDGES];
    uint8_t src[16], dst[16]; /* 4 bytes for IPv4 */
} fos_rewrite;

/* ---- TCP options -------------------------------------------------------------------------- */

/* Where the options that editing touches stand: offsets from the TCP header, 0 when absent. */
typedef struct fos_tcp_options {
    uint8_t timestamps;       /* of TSval; TSecr is 4 on */
    uint8_t sack;             /* of the first edge */
    uint8_t sack_edges;       /* edges present: 2 per block */
    uint8_t sack_permitted;
    uint8_t mss;              /* of its 16-bit value */
    uint8_t scale;            /* of the window scale's byte */
} fos_tcp_options;
FOS_ASSERT_SIZE(fos_tcp_options, 6);

/* Find the options of a TCP header of which `present` bytes are there.  A damaged list ends the search. */
static fos_tcp_options fos_tcp_find_options(const uint8_t *tcp, uint32_t present) {
    fos_tcp_options o = {0};
    if (present < 20) return o;
    uint32_t end = (uint32_t)(tcp[12] >> 4) * 4;
    if (end > present) end = present;
    for (uint32_t at = 20; at < end;) {
        uint32_t kind = tcp[at];
        if (kind == 0) break;
        if (kind == 1) { at++; continue; }
        if (end - at < 2) break;
        uint32_t len = tcp[at + 1];
        if (len < 2 || len > end - at) break;
        if (kind == 2 && len == 4) o.mss = (uint8_t)(at + 2);
        else if (kind == 3 && len == 3) o.scale = (uint8_t)(at + 2);
        else if (kind == 4 && len == 2) o.sack_permitted = 1;
        else if (kind == 5 && len >= 10 && (len - 2) % 8 == 0) {
            o.sack = (uint8_t)(at + 2);
            o.sack_edges = (uint8_t)((len - 2) / 4);
        } else if (kind == 8 && len == 10) o.timestamps = (uint8_t)(at + 2);
        at += len;
    }
    return o;
}

/* Write the options of a segment of our own: time stamps when asked for, then as many of the SACK blocks as
 * fit; at most 40 bytes.  Returns their length, a multiple of four (RFC 7323 appendix A's layout). */
FOS_UNUSED static uint32_t fos_tcp_make_options(uint8_t *out, int timestamps, uint32_t tsval, uint32_t tsecr,
                                                const uint32_t *sack, uint32_t sack_edges) {
    uint32_t n = 0;
    if (timestamps) {
        memcpy(out, "\1\1\10\12", 4);
        fos_put32(out + 4, tsval);
        fos_put32(out + 8, tsecr);
        n = 12;
    }
    uint32_t most = (36 - n) / 8 * 2;
    if (sack_edges > most) sack_edges = most;
    if (sack_edges >= 2) {
        memcpy(out + n, "\1\1\5", 3);
        out[n + 3] = (uint8_t)(2 + 4 * (sack_edges & ~1u));
        n += 4;
        for (uint32_t i = 0; i < (sack_edges & ~1u); i++, n += 4) fos_put32(out + n, sack[i]);
    }
    return n;
}

/* ---- the transport header ----------------------------------------------------------------- */

FOS_INLINE void fos_patch16(uint8_t *base, uint32_t at, uint32_t v, uint64_t *before, uint64_t *after) {
    uint8_t bytes[2];
    fos_put16(bytes, v);
    fos_patch(base, at, bytes, 2, before, after);
}

FOS_INLINE void fos_patch32(uint8_t *base, uint32_t at, uint32_t v, uint64_t *before, uint64_t *after) {
    uint8_t bytes[4];
    fos_put32(bytes, v);
    fos_patch(base, at, bytes, 4, before, after);
}

/* TCP's own fields, of a header of which `present` bytes are there; sums are gathered, no checksum is written. */
FOS_NOINLINE void fos_patch_tcp(uint8_t *tcp, uint32_t present, const fos_rewrite *w, uint64_t *before, uint64_t *after) {
    if ((w->set & FOS_SET_SEQ) && present >= 8) fos_patch32(tcp, 4, w->seq, before, after);
    if ((w->set & FOS_SET_ACK) && present >= 12) fos_patch32(tcp, 8, w->ack, before, after);
    if ((w->set & FOS_SET_FLAGS) && present >= 14) fos_patch(tcp, 13, &w->tcp_flags, 1, before, after);
    if ((w->set & FOS_SET_WINDOW) && present >= 16) fos_patch16(tcp, 14, w->window, before, after);
    if ((w->set & FOS_SET_URGENT) && present >= 20) fos_patch16(tcp, 18, w->urgent, before, after);
    if (!(w->set & (FOS_SET_TSVAL | FOS_SET_TSECR | FOS_SET_SACK)) || present <= 20) return;
    fos_tcp_options o = fos_tcp_find_options(tcp, present & ~1u);  /* no word is half there */
    if (o.timestamps) {
        if (w->set & FOS_SET_TSVAL) fos_patch32(tcp, o.timestamps, w->tsval, before, after);
        if (w->set & FOS_SET_TSECR) fos_patch32(tcp, o.timestamps + 4u, w->tsecr, before, after);
    }
    if (o.sack && (w->set & FOS_SET_SACK)) {
        uint8_t option[34];
        uint32_t n = 2 + 4u * o.sack_edges, edges = w->sack_edges & ~1u;
        if (edges > o.sack_edges) edges = o.sack_edges;
        if (n > sizeof option) return;
        memset(option, 1, sizeof option);
        if (edges) {
            option[0] = 5;
            option[1] = (uint8_t)(2 + 4 * edges);
            for (uint32_t i = 0; i < edges; i++) fos_put32(option + 2 + 4 * i, w->sack[i]);
        }
        fos_patch(tcp, o.sack - 2u, option, n, before, after);
    }
}

/* Where a transport header keeps its checksum, and whether addresses are summed into it. */
typedef struct fos_csum_place {
    uint32_t at;              /* offset from the transport header; 0: none, or none of this kind */
    uint8_t pseudo, udp;      /* udp: 0 says that there is none, so a sum of 0 is written 0xffff (RFC 768) */
} fos_csum_place;

FOS_INLINE fos_csum_place fos_csum_of(uint32_t proto) {
    switch (proto) {
    case FOS_PROTO_TCP: return (fos_csum_place){16, 1, 0};
    case FOS_PROTO_UDP: case FOS_PROTO_UDPLITE: return (fos_csum_place){6, 1, 1};
    case FOS_PROTO_ICMP: return (fos_csum_place){2, 0, 0};
    case FOS_PROTO_ICMP6: return (fos_csum_place){2, 1, 0};
    default: return (fos_csum_place){0, 0, 0};
    }
}

/* Whether an ICMP message has an identifier: echo, time stamp, information and address mask. */
FOS_INLINE int fos_icmp_has_id(uint32_t proto, uint8_t type) {
    if (proto == FOS_PROTO_ICMP6) return type == 128 || type == 129;
    return type == 0 || type == 8 || (type >= 13 && type <= 18);
}

/* The IP header's final protocol: as it says, or as its chain of extension headers up to l4 does. */
static uint32_t fos_final_protocol(const uint8_t *frame, uint32_t l3, uint32_t l4) {
    uint32_t four = frame[l3] >> 4 == 4, proto = frame[l3 + (four ? 9 : 6)];
    uint32_t at = l3 + (four ? (frame[l3] & 15) * 4u : 40);
    while (l4 >= 8 && at <= l4 - 8) {
        uint32_t len = proto == 44 ? 8 : proto == FOS_PROTO_AH ? 8 + 4u * frame[at + 1] : 8 + 8u * frame[at + 1];
        proto = frame[at];
        at += len;
    }
    return proto;
}

/* The sum of a packet's addresses as its transport's checksum sees them: a routing header with segments left
 * names the real destination (RFC 8200 section 8.1), a home address option the real source (RFC 6275 11.3.1). */
static uint64_t fos_sum_addresses(const uint8_t *frame, uint32_t l3, uint32_t l4) {
    const uint8_t *ip = frame + l3;
    if (ip[0] >> 4 == 4) return fos_sum(ip + 12, 8);
    const uint8_t *src = ip + 8, *dst = ip + 24;
    uint32_t next = ip[6];
    for (uint32_t at = l3 + 40; l4 >= 8 && at <= l4 - 8;) {
        const uint8_t *h = frame + at;
        uint32_t len = next == 44 ? 8 : next == FOS_PROTO_AH ? 8 + 4u * h[1] : 8 + 8u * h[1];
        if (len > l4 - at) break;
        if (next == 43 && h[3] && len >= 24) {
            if (h[2] == 0 && h[3] <= h[1] / 2) dst = h + 8 + 16 * (h[1] / 2 - 1);
            else if (h[2] == 2 || h[2] == 4) dst = h + 8;
        }
        if (next == 60)
            for (uint32_t o = 2; o + 2 <= len && (h[o] == 0 || o + 2u + h[o + 1] <= len); o += h[o] ? 2u + h[o + 1] : 1)
                if (h[o] == 0xc9 && h[o + 1] == 16) src = h + o + 2;
        next = h[0];
        at += len;
    }
    return (uint64_t)fos_sum(src, 16) + fos_sum(dst, 16);
}

/* Rewrite the fields that `set` names; of the frame, `captured` bytes are there.
 * 0: done.  -1: there is no such field in this packet (no ports, not TCP); the others were written. */
FOS_NOINLINE int fos_rewrite_packet(uint8_t *frame, uint32_t captured, uint32_t l3, uint32_t l4, const fos_rewrite *w) {
    uint32_t set = w->set, four = frame[l3] >> 4 == 4, proto = fos_final_protocol(frame, l3, l4);
    uint64_t ip_before = 0, ip_after = 0, before = 0, after = 0;
    uint8_t *ip = frame + l3, *t = frame + l4;
    uint32_t present = captured > l4 ? captured - l4 : 0;
    fos_csum_place csum = fos_csum_of(proto);
    int missing = 0, pseudo = csum.pseudo && (set & (FOS_SET_SRC | FOS_SET_DST));
    if (pseudo) before += fos_sum_addresses(frame, l3, l4);
    if (set & FOS_SET_SRC) fos_patch(ip, four ? 12 : 8, w->src, four ? 4 : 16, &ip_before, &ip_after);
    if (set & FOS_SET_DST) fos_patch(ip, four ? 16 : 24, w->dst, four ? 4 : 16, &ip_before, &ip_after);
    if (four) fos_csum_update(ip + 10, fos_fold(ip_before), fos_fold(ip_after));
    if (pseudo) after += fos_sum_addresses(frame, l3, l4);
    if (set & (FOS_SET_SPORT | FOS_SET_DPORT)) {
        if (proto == FOS_PROTO_TCP || proto == FOS_PROTO_UDP || proto == FOS_PROTO_UDPLITE) {
            if ((set & FOS_SET_SPORT) && present >= 2) fos_patch16(t, 0, w->sport, &before, &after);
            if ((set & FOS_SET_DPORT) && present >= 4) fos_patch16(t, 2, w->dport, &before, &after);
        } else if (csum.at == 2 && present >= 6 && fos_icmp_has_id(proto, t[0])) {
            fos_patch16(t, 4, set & FOS_SET_SPORT ? w->sport : w->dport, &before, &after);
        } else missing = -1;
    }
    if (set & FOS_SET_TCP) {
        if (proto == FOS_PROTO_TCP) fos_patch_tcp(t, present, w, &before, &after);
        else missing = -1;
    }
    if (csum.at && present >= csum.at + 2 && !(csum.udp && fos_csum_load(t + csum.at) == 0)) {
        fos_csum_update(t + csum.at, fos_fold(before), fos_fold(after));
        if (csum.udp && fos_csum_load(t + csum.at) == 0) fos_csum_store(t + csum.at, 0xffff);
    }
    return missing;
}

/* ---- the packet that an ICMP error quotes ---------------------------------------------------- */

/* Where an ICMP error keeps the packet it is about. */
typedef struct fos_quote {
    uint32_t l3, l4;          /* of the quoted packet, in the frame; l4 may lie at the end of what is there */
    uint32_t end;             /* of the quote's bytes present */
} fos_quote;

/* 1: *q is filled in.  0: this ICMP message quotes nothing, or too little to say whose it is. */
FOS_NOINLINE int fos_find_quote(const uint8_t *frame, uint32_t captured, uint32_t l3, uint32_t l4, fos_quote *q) {
    uint32_t proto = fos_final_protocol(frame, l3, l4), at = l4 + 8;
    if (captured < at + 20) return 0;
    uint8_t type = frame[l4];
    if (proto == FOS_PROTO_ICMP6 ? type < 1 || type > 4 : type != 3 && type != 4 && type != 5 && type != 11 && type != 12)
        return 0;
    if (proto != FOS_PROTO_ICMP && proto != FOS_PROTO_ICMP6) return 0;
    uint32_t four = frame[at] >> 4 == 4, length = four ? (frame[at] & 15) * 4u : 40, next = frame[at + (four ? 9 : 6)];
    if ((!four && frame[at] >> 4 != 6) || length < 20 || captured < at + length) return 0;
    if (four && (fos_be16(frame + at + 6) & 0x1fff)) return 0;           /* a later fragment: no ports */
    q->l3 = at;
    q->l4 = at + length;
    q->end = captured;
    while (!four && (next == 0 || next == 43 || next == 60 || next == 44 || next == FOS_PROTO_AH)) {
        if (captured < q->l4 + 8) return 0;
        const uint8_t *h = frame + q->l4;
        if (next == 44 && (fos_be16(h + 2) & 0xfff8)) return 0;
        uint32_t len = next == 44 ? 8 : next == FOS_PROTO_AH ? 8 + 4u * h[1] : 8 + 8u * h[1];
        if (captured < q->l4 + len) return 0;
        next = h[0];
        q->l4 += len;
    }
    return 1;
}

/* Rewrite the packet that an ICMP error quotes (its direction is the opposite of the error's), its own
 * checksums as far as they are there, and the error's.  0: done.  -1: nothing quoted, or no such field. */
FOS_NOINLINE int fos_rewrite_quote(uint8_t *frame, uint32_t captured, uint32_t l3, uint32_t l4, const fos_rewrite *w) {
    fos_quote q;
    if (!fos_find_quote(frame, captured, l3, l4, &q)) return -1;
    /* All that can change ends with the longest TCP header; ICMP's sum covers the quote from an even offset on. */
    uint32_t end = q.l4 + 60 < q.end ? q.l4 + 60 : q.end;
    uint32_t before = fos_sum(frame + q.l3, end - q.l3);
    int missing = fos_rewrite_packet(frame, q.end, q.l3, q.l4, w);
    fos_csum_update(frame + l4 + 2, before, fos_sum(frame + q.l3, end - q.l3));
    return missing;
}

#endif
