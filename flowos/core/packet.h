/* What the parser says of one packet: where its layers lie, whose it is.
 *
 * A frame yields one fos_pkt per IP layer that carries a transport (a tunnel yields the outer
 * UDP datagram and the inner packet).  Nothing is copied: offsets lead into `frame`.  The two
 * ends of the key stand in canonical order, so both directions of a connection have one key;
 * `dir` says which way this packet went (0: from the lower end).
 */
#ifndef FOS_PACKET_H
#define FOS_PACKET_H

#include "base.h"

enum { FOS_TCP_FIN = 1, FOS_TCP_SYN = 2, FOS_TCP_RST = 4, FOS_TCP_PSH = 8, FOS_TCP_ACK = 16, FOS_TCP_URG = 32, FOS_TCP_ECE = 64, FOS_TCP_CWR = 128 };

enum {
    FOS_PROTO_ICMP = 1, FOS_PROTO_IPIP = 4, FOS_PROTO_TCP = 6, FOS_PROTO_UDP = 17, FOS_PROTO_IPV6 = 41,
    FOS_PROTO_GRE = 47, FOS_PROTO_ESP = 50, FOS_PROTO_AH = 51, FOS_PROTO_ICMP6 = 58, FOS_PROTO_ETHERIP = 97,
    FOS_PROTO_SCTP = 132, FOS_PROTO_UDPLITE = 136,
};

enum fos_pkt_flags {
    FOS_PKT_BAD = 1,          /* the transport header is damaged or cut: counted, not followed */
    FOS_PKT_BLOCK = 2,        /* `frame` is a reassembled datagram's heap block */
    FOS_PKT_NO_PORTS = 4,     /* a protocol without ports (ICMP, GRE, ...) */
};

/* Whose packet: lower end, higher end, protocol.  IPv4: w[0] holds both addresses, the rest is
 * not used and not set. */
typedef struct fos_key {
    uint64_t w[4];            /* IPv6: lower end's address, higher end's, as loaded from the wire */
    uint32_t ports;           /* lower end's port << 16 | higher end's */
    uint8_t proto;
    uint8_t ver;              /* 4 or 6 */
    uint16_t zone;            /* 0; keeps equal tuples of different places apart */
} fos_key;
FOS_ASSERT_SIZE(fos_key, 40);

typedef struct fos_pkt {
    const uint8_t *frame;
    int64_t ts;
    uint64_t number;          /* of the packet in the input, from 1 */
    uint32_t wire;            /* the frame's bytes on the wire */
    uint32_t captured;        /* bytes at `frame` */
    uint32_t payload;         /* offset of the transport payload */
    uint32_t paylen;          /* its bytes, as the headers say */
    uint32_t paycap;          /* its bytes that are present, <= paylen */
    uint32_t hash;
    uint32_t seq, ack;        /* TCP */
    fos_key key;
    uint64_t vlans;           /* up to four tags, outermost in the top 16 bits: 0x1000 | id each */
    uint16_t l3, l4;          /* offsets of the IP and the transport header */
    uint8_t depth;            /* enclosing IP headers, this one included */
    uint8_t flags;            /* fos_pkt_flags */
    uint16_t link;            /* LINKTYPE_* of `frame`; 101 (raw IP) for a block made in a tunnel */
    uint32_t conn;            /* what the first probe of the table found: a guess, checked by key */
    uint16_t window;          /* TCP */
    uint8_t dir;              /* 1: from the higher end of the key */
    uint8_t tcp_flags;
    uint16_t iface;
    uint8_t type, code;       /* ICMP */
    uint32_t log;             /* in line: number of its entry in the log, from 1; 0: it has none */
} fos_pkt;
FOS_ASSERT_SIZE(fos_pkt, 128);

#endif
