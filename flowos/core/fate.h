/* Connections that a module ended: nothing of them leaves any more, and TCP's ends may be told.
 *
 *     drop      every packet that has not left stays, in both directions
 *     reset     ... and the next packet is answered: a RST to each end (RFC 9293 sections 3.5.2, 3.10.7)
 *
 * The verdict is two bits in the record, which stays until it times out, so that later packets cost
 * a lookup.  Writer: the engine loop, on behalf of Connection.drop and Connection.reset.
 */
#ifndef FOS_FATE_H
#define FOS_FATE_H

#include "lanes.h"
#include "repack.h"

enum { FOS_DEPTH_DROPPED = 0x40, FOS_DEPTH_RESET = 0x20 };    /* bits of fos_conn.depth that are no depth */

FOS_INLINE int fos_fate_drops(const fos_core *core, uint32_t index) {
    return core->fated && index && core->table.conns[index].depth & FOS_DEPTH_DROPPED;
}

static void fos_fate_swap(uint8_t *p, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        uint8_t kept = p[i];
        p[i] = p[n + i];
        p[n + i] = kept;
    }
}

/* Send a RST made from a packet's headers: onward as its sender's, or back to it.  To swap ends keeps checksums right. */
static void fos_fate_rst(fos_core *core, const fos_transit *t, uint32_t seq, uint32_t ack, int back) {
    uint8_t *out = fos_outlets_room(&core->outlets);
    if (!out) { core->failed = 1; return; }
    static const uint8_t no_options[1];
    fos_repack job = {.frame = t->frame, .captured = t->captured, .l3 = t->l3, .l4 = t->l4,
                      .payload = t->l4 + (uint32_t)(t->frame[t->l4 + 12] >> 4) * 4, .link = t->link, .options = no_options};
    job.fields.set = FOS_SET_SEQ | FOS_SET_ACK | FOS_SET_FLAGS;
    job.fields.seq = seq;
    job.fields.ack = ack;
    job.fields.tcp_flags = FOS_TCP_RST | FOS_TCP_ACK;
    uint32_t n = fos_repack_build(&job, out, FOS_SCRATCH_FRAME);
    if (!n) return;
    if (back) {
        if (t->link == 1) fos_fate_swap(out, 6);
        if (out[t->l3] >> 4 == 4) fos_fate_swap(out + t->l3 + 12, 4);
        else fos_fate_swap(out + t->l3 + 8, 16);
        fos_fate_swap(out + t->l4, 2);
    }
    FOS_COUNT(&core->counters, merged_made);
    fos_outlets_send(&core->outlets, &core->counters, out, n, n, t->ts, t->link, back && core->outlets.count > 1 ? t->iface ^ 1 : t->iface);
    fos_outlets_keep(&core->outlets, n);
}

/* A packet of a dropped connection came: it stays, and the first one may tell both ends. */
static void fos_fate_packet(fos_core *core, const fos_transit *t) {
    fos_conn *c = &core->table.conns[t->conn];
    FOS_COUNT(&core->counters, merged_dropped);
    if (!(c->depth & FOS_DEPTH_RESET) || c->key.proto != FOS_PROTO_TCP || t->captured < t->l4 + 20u) return;
    c->depth &= (uint8_t)~FOS_DEPTH_RESET;
    const uint8_t *th = t->frame + t->l4;
    uint32_t seq = fos_be32(th + 4), ack = fos_be32(th + 8);
    uint32_t next = seq + t->paylen + !!(th[13] & FOS_TCP_SYN) + !!(th[13] & FOS_TCP_FIN);
    if (th[13] & FOS_TCP_RST) return;         /* it says so itself, and nobody answers a RST */
    fos_fate_rst(core, t, th[13] & FOS_TCP_ACK ? ack : 0, next, 1);
    if (th[13] & FOS_TCP_ACK) fos_fate_rst(core, t, seq, ack, 0);     /* whoever has seen nothing yet is told nothing */
}

/* Pronounce a connection dropped, once: 0, or -1 where its packets share frames with others (tunnels). */
static int fos_fate_drop(fos_core *core, uint32_t index, int reset) {
    fos_conn *c = &core->table.conns[index];
    if (c->depth & FOS_DEPTH_SHARED) return -1;
    if (!(c->depth & FOS_DEPTH_DROPPED)) c->depth |= FOS_DEPTH_DROPPED | (reset ? FOS_DEPTH_RESET : 0);
    core->fated = 1;
    return 0;
}

#endif
