/* The merger: what the last stage released becomes packets again.
 *
 *     log of arrivals ──► has its connection a lane? ── no ──► leaves as it came
 *                                  | yes
 *                                  v
 *         units of the stream, in order ──┐
 *         parked: acknowledgements,       ├──► below all heads, acknowledged bytes left ──► leaves
 *         retransmissions, resets       ──┘         rewritten, rebuilt, split, or dropped
 *
 * One direction of a connection leaves in stream order; a packet waits for the bytes it carries to be
 * released and for those it acknowledges to leave.  Sequence numbers and acknowledgements follow the
 * edits (splice.h).  A packet that leaves later than it came bears the time of the one that set it free.
 * The units are the packets with new bytes: a packet in whose range nothing was edited leaves as it
 * came, what it repeats included; else what leaves is what modules saw, whatever it repeats.  Sources: DESIGN section 9; RFC 9293, RFC 2018, RFC 7323.
 * The file is long because a packet's way out is one piece.
 */
#ifndef FOS_MERGE_H
#define FOS_MERGE_H

#include "lifecycle.h"
#include "fate.h"
#include "repack.h"

enum {
    FOS_EDITS_KEPT = 256,     /* edits remembered behind the acknowledged bytes, for late packets */
    FOS_MERGE_FETCH = 512,    /* bytes of a frame that are fetched ahead: from there on the processor sees where it goes */
};

/* ---- TCP as it leaves -------------------------------------------------------------------------- */

FOS_INLINE uint32_t fos_tcp_header_len(const uint8_t *th) { return (uint32_t)(th[12] >> 4) * 4; }

/* Offset in direction `dir` that a raw sequence or acknowledgement number means, near `about`. */
FOS_INLINE uint64_t fos_raw_offset(const fos_half *h, uint32_t raw, uint64_t about) {
    return about + (uint64_t)(int64_t)fos_seq_diff(raw, (uint32_t)(h->origin + (uint32_t)about));
}

/* An acknowledgement of `dir`'s bytes up to original offset q, as its sender will understand it: in final offsets. */
static uint64_t fos_merge_ack(const fos_core *core, const fos_lane *lane, int dir, uint64_t q) {
    const fos_half *h = fos_half_of(core, lane->index, dir);
    const fos_edits *sent = &lane->way[dir].sent;
    if (h->fin != FOS_NO_OFFSET && q > h->fin) return fos_edits_seq(sent, h->fin) + (q - h->fin);
    return fos_edits_seq(sent, q);
}

/* What the sequence numbers of one packet become. */
typedef struct fos_respun {
    uint32_t seq, ack;        /* raw values to write */
    uint64_t q, final;        /* the acknowledgement: original and final offset */
    int acks;                 /* the packet has one that is mapped */
    int changed;              /* something differs from what came */
    uint32_t edges[8];        /* SACK edges mapped, raw */
    uint32_t edge_count;
} fos_respun;

static uint32_t fos_sack_edges(const uint8_t *th, uint32_t n, const uint8_t **at) {
    for (uint32_t i = 20; i + 1 < n;) {
        uint8_t kind = th[i];
        if (kind == 0) break;
        if (kind == 1) { i++; continue; }
        uint8_t len = th[i + 1];
        if (len < 2 || i + len > n) break;
        if (kind == 5) {
            *at = th + i + 2;
            uint32_t edges = (uint32_t)(len - 2) / 4;
            return edges > 8 ? 8 : edges & ~1u;
        }
        i += len;
    }
    return 0;
}

/* Map the numbers of a TCP packet of direction dir whose header is at th: it stands at original offset off. */
static void fos_merge_respin(const fos_core *core, const fos_lane *lane, int dir, const uint8_t *th, int64_t off, uint64_t final,
                             fos_respun *r) {
    const fos_half *h = fos_half_of(core, lane->index, dir), *other = fos_half_of(core, lane->index, !dir);
    const fos_way *back = &lane->way[!dir];
    uint32_t seq = fos_be32(th + 4), ack = fos_be32(th + 8);
    r->seq = seq + (uint32_t)(final - (uint64_t)off);
    r->ack = ack;
    r->acks = 0;
    r->edge_count = 0;
    (void)h;
    if ((th[13] & FOS_TCP_ACK) && (other->flags & FOS_HALF_STARTED)) {
        r->q = fos_raw_offset(other, ack, back->gone);
        r->final = r->q > (uint64_t)1 << 62 ? r->q : fos_merge_ack(core, lane, !dir, r->q);
        const fos_way *w = &lane->way[dir];
        if (back->forgot && w->acked && r->q < w->acked_in && r->q < back->sent.items[back->sent.first].pos)
            r->final = w->acked_out;          /* an old one, of bytes whose edits are forgotten: the newest says as much */
        r->acks = r->q <= (uint64_t)1 << 62;
        if (r->acks) r->ack = other->origin + (uint32_t)r->final;
        const uint8_t *at;
        uint32_t n = fos_sack_edges(th, fos_tcp_header_len(th), &at);
        if (n && back->sent.delta | (int64_t)fos_edits_count(&back->sent))
            for (uint32_t i = 0; i < n; i++) {
                uint64_t q = fos_raw_offset(other, fos_be32(at + 4 * i), back->gone);
                r->edges[r->edge_count++] = other->origin + (uint32_t)fos_merge_ack(core, lane, !dir, q);
            }
    }
    r->changed = r->seq != seq || r->ack != ack || r->edge_count;
}

/* Keep a packet's headers, n bytes: what is made later bears them. */
static void fos_merge_template(fos_way *w, const uint8_t *frame, uint32_t l3, uint32_t l4, uint32_t n) {
    if (n > FOS_TEMPLATE_ROOM || l3 >= 256 || l4 >= 256) return;
    memcpy(w->template, frame, n);
    w->template_n = (uint16_t)n;
    w->template_l3 = (uint8_t)l3;
    w->template_l4 = (uint8_t)l4;
}

static void fos_merge_note(fos_core *core, fos_lane *lane, int dir, const uint8_t *frame, uint32_t l3, uint32_t l4, uint32_t n,
                           const fos_respun *r) {
    fos_way *w = &lane->way[dir], *back = &lane->way[!dir];
    fos_merge_template(w, frame, l3, l4, n);
    if (r->acks && (!w->acked || r->q > w->acked_in)) {
        w->acked = 1;
        w->acked_in = r->q;
        w->acked_out = r->final;
        while (fos_edits_count(&back->sent) > FOS_EDITS_KEPT) {
            const fos_edit *e = &back->sent.items[back->sent.first];
            if (e->pos + e->removed >= r->q) break;
            fos_edit old = fos_edits_take(&back->sent);
            if (old.data) fos_block_drop(&core->blocks, old.data);
            back->forgot = 1;
        }
    }
}

/* Edits whose time has come: those in front of `end`, and at it what every later reader has passed. */
static int fos_merge_due(const fos_lane *lane, const fos_way *w, const fos_edit *e, uint64_t end, int datagram) {
    if (e->pos < end) return 1;
    if (e->pos > end || e->removed || datagram) return 0;   /* what stands for bytes leaves where they would */
    for (uint32_t k = lane->stage_count; k--;) {
        if (w->stages[k].flags & FOS_STAGE_WRITES) return 1;
        if (w->stages[k].at.off <= end && w->stages[k].at.skip < e->inserted) return 0;
    }
    return 1;
}

/* Does a stage still hold what was put in at `end`?  A FIN there must wait for it. */
static int fos_merge_edits_wait(const fos_lane *lane, const fos_way *w, uint64_t end) {
    for (uint32_t k = 1; k < lane->stage_count; k++) {
        const fos_stage *s = &w->stages[k];
        if (s->at.off < end || (s->at.off == end && s->at.skip < fos_inserted_at(fos_stage_input(w, k), end))) return 1;
    }
    return 0;
}

/* Move the edits that go with the bytes up to `end` to `sent`: how many, or -1 without memory. */
static int fos_merge_take(fos_core *core, fos_lane *lane, int dir, uint64_t end, int datagram) {
    fos_way *w = &lane->way[dir];
    fos_edits *from = fos_way_edits(w, lane->stage_count);
    int n = 0;
    while (from && fos_edits_count(from) && fos_merge_due(lane, w, &from->items[from->first], end, datagram)) {
        fos_edit edit = fos_edits_take(from);
        for (uint32_t k = lane->stage_count; k-- && !(w->stages[k].flags & FOS_STAGE_WRITES);) {   /* they stood behind it */
            fos_stage *s = &w->stages[k];
            if (s->at.off == edit.pos) s->at.skip -= edit.inserted;
            if (s->seen_off == edit.pos) s->seen_skip -= edit.inserted < s->seen_skip ? edit.inserted : s->seen_skip;
        }
        if (fos_edits_give(&w->sent, edit)) { core->failed = 1; return -1; }
        n++;
    }
    return n;
}

/* Room for the pieces that `edits` edits cut a payload into, until the next call; NULL without memory. */
static fos_seg *fos_merge_room(fos_core *core, uint32_t edits) {
    uint32_t need = 2 * edits + 2;
    if (need <= core->seg_room) return core->segs;
    need = need < 256 ? 256 : need * 2;
    fos_seg *segs = realloc(core->segs, need * sizeof *segs);
    if (!segs) { core->failed = 1; return NULL; }
    core->segs = segs;
    core->seg_room = need;
    return segs;
}

/* The payload that [s, e) leaves with, as segments: the edits of `sent` with numbers [first, stop_at) put their bytes
 * in; earlier ones only took bytes away.  `bytes` are those of [s, e).  Returns the count, *n the bytes. */
static uint32_t fos_merge_segs(const fos_edits *sent, uint32_t first, uint32_t stop_at, uint64_t s, uint64_t e, const uint8_t *bytes,
                               fos_seg *segs, uint64_t *n) {
    uint32_t count = 0;
    uint64_t o = s, total = 0;
    if (first > sent->first) {
        const fos_edit *before = &sent->items[first - 1];
        if (before->pos + before->removed > o) o = before->pos + before->removed < e ? before->pos + before->removed : e;
    }
    for (uint32_t i = first; i < stop_at; i++) {
        const fos_edit *edit = &sent->items[i];
        if (edit->pos > o && o < e) {
            uint64_t stop = edit->pos < e ? edit->pos : e;
            segs[count++] = (fos_seg){.p = bytes + (o - s), .n = stop - o, .at = total};
            total += stop - o;
            o = stop;
        }
        if (edit->inserted && edit->data) {
            segs[count++] = (fos_seg){.p = edit->data, .n = edit->inserted, .at = total};
            total += edit->inserted;
        }
        if (edit->pos + edit->removed > o) o = edit->pos + edit->removed;
    }
    if (o < e) {
        segs[count++] = (fos_seg){.p = bytes + (o - s), .n = e - o, .at = total};
        total += e - o;
    }
    *n = total;
    return count;
}

/* A packet as it came: what leaves in its place bears its headers. */
typedef struct fos_came {
    const uint8_t *frame;
    uint32_t captured, wire;
    uint32_t l3, l4;
    uint16_t link, iface;
    int joined;               /* `frame` is a datagram joined from fragments */
    int lent;                 /* nobody's packet came: the headers are another's */
} fos_came;

FOS_INLINE fos_came fos_came_of(const fos_transit *t) {
    return (fos_came){.frame = t->frame, .captured = t->captured, .wire = t->wire, .l3 = t->l3, .l4 = t->l4, .link = t->link,
                      .iface = t->iface, .joined = t->flags & FOS_TRANSIT_JOINED};
}

FOS_INLINE fos_came fos_came_of_unit(const fos_way *w, const fos_unit *u) {
    return (fos_came){.frame = u->frame, .captured = u->captured, .wire = u->wire, .l3 = u->l3, .l4 = u->l4, .link = w->link,
                      .iface = w->iface, .joined = u->flags & FOS_UNIT_REASSEMBLED};
}

/* Send it so. */
static void fos_merge_send(fos_core *core, const fos_came *p, int64_t ts) {
    fos_send_came(core, p->joined, p->frame, p->captured, p->wire, p->l3, ts, p->link, p->iface);
}

/* Send `size` bytes made in its place, the nth packet that is: 1, or more when they leave in fragments. */
FOS_INLINE uint32_t fos_merge_send_made(fos_core *core, const fos_came *p, uint8_t *out, uint32_t size, uint32_t wire, uint16_t nth, int64_t ts) {
    return fos_send_made(core, p->joined ? fos_block_of(p->frame)->bundle : NULL, out, size, wire, p->l3, nth, ts, p->link, p->iface);
}

static fos_rewrite fos_merge_fields(const fos_respun *r) {
    fos_rewrite f = {.set = FOS_SET_SEQ, .seq = r->seq, .ack = r->ack, .sack_edges = (uint8_t)r->edge_count};
    if (r->acks) f.set |= FOS_SET_ACK;
    if (r->edge_count) f.set |= FOS_SET_SACK;
    memcpy(f.sack, r->edges, sizeof r->edges);
    return f;
}

/* Send a frame whose TCP numbers change and nothing else. */
static void fos_merge_rewrite(fos_core *core, const fos_came *p, const fos_respun *r, int64_t ts) {
    uint8_t *out = fos_outlets_room(&core->outlets);
    if (!out || p->captured > FOS_SCRATCH_FRAME) { core->failed = !out; return; }
    memcpy(out, p->frame, p->captured);
    fos_rewrite fields = fos_merge_fields(r);
    fos_rewrite_packet(out, p->captured, p->l3, p->l4, &fields);
    FOS_COUNT(&core->counters, merged_rewritten);
    fos_merge_send_made(core, p, out, p->captured, p->wire, 0, ts);
}

/* Send it as it came, but for the sequence numbers that changed. */
static void fos_merge_renumber(fos_core *core, const fos_came *p, const fos_respun *r, int64_t ts) {
    if (r->changed) fos_merge_rewrite(core, p, r, ts);
    else fos_merge_send(core, p, ts);
}

/* Send TCP payload in as many packets as it takes, with the headers of *p. */
static void fos_merge_build(fos_core *core, const fos_lane *lane, int dir, const fos_came *p, const fos_respun *r, uint8_t flags,
                            const fos_seg *segs, uint32_t count, uint64_t n, uint64_t room, int64_t ts) {
    const fos_way *w = &lane->way[dir];
    uint64_t most = w->mss ? w->mss : FOS_DEFAULT_MSS;
    if (room > most) most = room;             /* what came in one packet may leave in one */
    uint64_t at = 0;
    uint16_t made = 0;
    do {
        uint64_t part = n - at < most ? n - at : most;
        uint8_t *out = fos_outlets_room(&core->outlets);
        if (!out) { core->failed = 1; return; }
        fos_repack job = {.frame = p->frame, .captured = p->captured, .l3 = p->l3, .l4 = p->l4,
                          .payload = p->l4 + fos_tcp_header_len(p->frame + p->l4), .link = p->link, .ip_id_add = made, .segs = segs, .seg_count = count, .skip = at, .n = part,
                          .fields = fos_merge_fields(r)};
        job.fields.set |= FOS_SET_FLAGS;
        job.fields.seq += (uint32_t)at;
        if (flags & FOS_TCP_ACK) job.fields.set |= FOS_SET_ACK;
        job.fields.tcp_flags = at + part == n ? flags : (uint8_t)(flags & ~(FOS_TCP_FIN | FOS_TCP_PSH));
        uint32_t size = fos_repack_build(&job, out, FOS_SCRATCH_FRAME);
        if (!size) { FOS_COUNT(&core->counters, merged_oversize); return; }
        if (made || p->lent) FOS_COUNT(&core->counters, merged_made);
        else FOS_COUNT(&core->counters, merged_edited);
        fos_merge_send_made(core, p, out, size, size, made, ts);
        at += part;
        made++;
    } while (at < n);
}

/* ---- units leave --------------------------------------------------------------------------------- */

/* Where the IP packet at l3 ends in the frame, within what was captured. */
static uint32_t fos_ip_end(const uint8_t *frame, uint32_t l3, uint32_t captured) {
    const uint8_t *h = frame + l3;
    uint32_t total = h[0] >> 4 == 4 ? fos_be16(h + 2) : 40u + fos_be16(h + 4);
    if (total == 0 || (h[0] >> 4 == 6 && total == 40)) return captured;
    return total < captured - l3 ? l3 + total : captured;
}

/* In line nothing is mapped any more once it is in the queue: only the sum of the edits counts. */
static void fos_merge_prune(fos_core *core, fos_way *w) {
    while (fos_edits_count(&w->sent) > 1) {
        fos_edit old = fos_edits_take(&w->sent);
        if (old.data) fos_block_drop(&core->blocks, old.data);
    }
}

/* Was [s, e) edited by what left, or in front of a byte inside it? */
static int fos_merge_edited(const fos_way *w, uint64_t s, uint64_t e) {
    uint32_t i = fos_edits_above(&w->sent, s);           /* the first behind s; one at s only counts for what it removed */
    if (w->forgot && (i == w->sent.first || s < w->sent.items[w->sent.first].pos)) return 1;
    if (i < w->sent.end && w->sent.items[i].pos < e) return 1;
    return i > w->sent.first && w->sent.items[i - 1].pos + w->sent.items[i - 1].removed > s;
}

/* Of a connection that nobody edits packets leave as they came, what they repeat and a FIN included: fragments before
 * the last left when they came. */
static int fos_merge_whole(fos_core *core, fos_lane *lane, int dir, const fos_unit *u, int64_t ts) {
    fos_way *w = &lane->way[dir];
    const fos_half *h = fos_half_of(core, lane->index, dir);
    fos_unit *own;
    for (uint64_t i = w->next_unit + 1; (own = fos_stream_unit(h->stream, i)); i++)
        if (own->packet == u->packet) own->flags |= FOS_UNIT_LEFT;
    fos_respun r;
    fos_merge_respin(core, lane, dir, u->frame + u->l4, (int64_t)u->off, u->off, &r);
    fos_came came = fos_came_of_unit(w, u);
    fos_merge_send(core, &came, ts);
    fos_merge_note(core, lane, dir, u->frame, u->l3, u->l4, u->l4 + fos_tcp_header_len(u->frame + u->l4), &r);
    if (u->len > w->mss) w->mss = u->len > 0xffff ? 0xffff : (uint16_t)u->len;
    if (u->frame[u->l4 + 13] & FOS_TCP_FIN) w->fin_gone = 1;
    return 1;
}

/* Send the whole packet that a unit comes from, as it came but for its numbers, if it repeats bytes or has more units,
 * all of it is released, and nobody edited any of it: 1, else 0.  Its other units are marked. */
static int fos_merge_packet(fos_core *core, fos_lane *lane, int dir, const fos_unit *u, uint64_t limit, uint64_t number, int64_t ts) {
    fos_way *w = &lane->way[dir];
    const fos_half *h = fos_half_of(core, lane->index, dir);
    const uint8_t *th = u->frame + u->l4;
    uint32_t start = u->l4 + fos_tcp_header_len(th), end = fos_ip_end(u->frame, u->l3, u->captured), before = u->payload - start;
    int ends = (th[13] & FOS_TCP_FIN) != 0;
    if (u->payload < start || u->payload + u->len > end || (u->flags & FOS_UNIT_SAME_DATAGRAM) || th[13] & FOS_TCP_SYN) return 0;
    if (!lane->writes) return fos_merge_whole(core, lane, dir, u, ts);
    if ((!before && u->payload + u->len == end) || before > u->off) return 0;     /* simply a packet; one from before the stream */
    uint64_t first = u->off - before, behind = first + (end - start);
    const fos_edits *edits = fos_way_edits(w, lane->stage_count);
    if (behind > limit || behind > h->stream->tail_off || fos_merge_edited(w, first, behind)) return 0;
    if (edits && fos_edits_count(edits) && edits->items[edits->first].pos <= behind) return 0;
    fos_unit *own, *fin = NULL;
    for (uint64_t i = w->next_unit + 1; ends && (own = fos_stream_unit(h->stream, i)) && own->off <= behind && own->packet <= number; i++)
        if (own->kind == FOS_UNIT_FIN && own->off == behind) fin = own;
    if (ends && (!fin || fos_merge_edits_wait(lane, w, behind))) return 0;
    for (uint64_t i = w->next_unit + 1; (own = fos_stream_unit(h->stream, i)) && own->off <= behind; i++)
        if (own->packet == u->packet && (own->kind == FOS_UNIT_DATA || own == fin)) own->flags |= FOS_UNIT_LEFT;
    fos_respun r;
    fos_merge_respin(core, lane, dir, th, (int64_t)first, fos_edits_seq(&w->sent, first), &r);
    r.seq = h->origin + (uint32_t)fos_edits_seq(&w->sent, first);
    r.changed = r.seq != fos_be32(th + 4) || r.ack != fos_be32(th + 8) || r.edge_count;
    fos_came came = fos_came_of_unit(w, u);
    fos_merge_renumber(core, &came, &r, ts);
    fos_merge_note(core, lane, dir, u->frame, u->l3, u->l4, start, &r);
    if (end - start > w->mss) w->mss = end - start > 0xffff ? 0xffff : (uint16_t)(end - start);
    if (fin) w->fin_gone = 1;
    return 1;
}

/* Do bytes that came with a SYN leave behind it, when the other direction's SYN has left?  Then they acknowledge that one: no
 * segment behind a SYN goes without (RFC 9293 section 3.1). */
static int fos_merge_late(const fos_core *core, const fos_lane *lane, int dir, const uint8_t *th) {
    return (th[13] & (FOS_TCP_SYN | FOS_TCP_ACK)) == FOS_TCP_SYN &&
           (lane->way[dir].acked || (fos_half_of(core, lane->index, !dir)->flags & FOS_HALF_STARTED && lane->way[!dir].template_n));
}

/* A unit of TCP's stream leaves: its bytes with their edits, and a FIN that came in the same packet. */
static void fos_merge_tcp_unit(fos_core *core, fos_lane *lane, int dir, const fos_unit *u, const fos_unit *fin, int64_t ts) {
    fos_way *w = &lane->way[dir];
    const uint8_t *th = u->frame + u->l4;
    uint64_t s = u->off, e = u->off + u->len, total = u->len;
    uint32_t before = w->sent.end - w->sent.first;
    uint64_t final = fos_edits_seq(&w->sent, s);
    const fos_bundle *bundle = u->flags & FOS_UNIT_REASSEMBLED ? fos_block_of(u->frame)->bundle : NULL;
    /* A SYN goes before all bytes; what half left takes nothing along. */
    int taken = u->kind == FOS_UNIT_SYN ? 0 : fos_merge_take(core, lane, dir, e, bundle && bundle->begun);
    if (taken < 0) return;
    uint32_t first = w->sent.first + before;
    int spans = before && u->len && w->sent.items[first - 1].pos + w->sent.items[first - 1].removed > s;
    fos_respun r;
    int64_t header_off = u->kind == FOS_UNIT_SYN ? -1 : (int64_t)s;
    /* The header's sequence number is that of its packet's first byte, which may lie before this unit's. */
    fos_merge_respin(core, lane, dir, th, header_off, u->kind == FOS_UNIT_SYN ? (uint64_t)-1 : final, &r);
    const fos_half *h = fos_half_of(core, lane->index, dir);
    if (u->kind != FOS_UNIT_SYN) r.seq = h->origin + (uint32_t)final;
    if (w->keep) {                            /* in line: into the queue */
        fos_seg *segs = fos_merge_room(core, fos_edits_count(&w->sent));
        if (!segs) return;
        uint32_t count = fos_merge_segs(&w->sent, first, w->sent.end, s, e, u->frame + u->payload, segs, &total);
        fos_keep_append(core, w, segs, count, total);
        if (fin || u->kind == FOS_UNIT_FIN) w->keep->fin = w->fin_gone = 1;
        fos_merge_prune(core, w);
        return;
    }
    uint32_t end = fos_ip_end(u->frame, u->l3, u->captured);
    uint32_t hl = fos_tcp_header_len(th);
    int has_fin = (th[13] & FOS_TCP_FIN) != 0;
    int whole = u->kind == FOS_UNIT_SYN || (u->payload == u->l4 + hl && u->payload + u->len == end && has_fin == (fin != NULL)) ||
                (u->kind == FOS_UNIT_FIN && end == u->l4 + hl);
    fos_came came = fos_came_of_unit(w, u);
    if (!taken && !spans && whole) {
        r.changed = fos_be32(th + 4) != r.seq || r.ack != fos_be32(th + 8) || r.edge_count;
        fos_merge_renumber(core, &came, &r, ts);
    } else {
        fos_seg *segs = fos_merge_room(core, fos_edits_count(&w->sent));
        if (!segs) return;
        uint32_t count = fos_merge_segs(&w->sent, first, w->sent.end, s, e, u->frame + u->payload, segs, &total);
        uint8_t flags = (uint8_t)(th[13] & ~(FOS_TCP_FIN | FOS_TCP_SYN));
        if (fos_merge_late(core, lane, dir, th)) {
            flags |= FOS_TCP_ACK;
            r.ack = fos_half_of(core, lane->index, !dir)->origin + (uint32_t)w->acked_out;
        }
        if (fin || u->kind == FOS_UNIT_FIN) flags |= FOS_TCP_FIN;
        int news = r.acks && (!w->acked || r.final > w->acked_out);
        came.lent = (u->flags & FOS_UNIT_SAME_DATAGRAM) != 0;     /* its packet was counted with the piece before */
        if (!total && !(flags & (FOS_TCP_FIN | FOS_TCP_SYN | FOS_TCP_RST)) && !news) FOS_COUNT_N(&core->counters, merged_emptied, !came.lent);
        else {
            if (!total && !(flags & FOS_TCP_FIN)) flags &= (uint8_t)~FOS_TCP_PSH;
            fos_merge_build(core, lane, dir, &came, &r, flags, segs, count, total, u->len, ts);
        }
    }
    fos_merge_note(core, lane, dir, u->frame, u->l3, u->l4, u->l4 + hl, &r);
    if (u->len > w->mss) w->mss = u->len > 0xffff ? 0xffff : (uint16_t)u->len;
    if (fin || u->kind == FOS_UNIT_FIN) w->fin_gone = 1;
}

/* A datagram leaves, whole. */
static void fos_merge_datagram(fos_core *core, fos_lane *lane, int dir, const fos_unit *u, int64_t ts) {
    fos_way *w = &lane->way[dir];
    uint32_t before = w->sent.end - w->sent.first;
    int taken = fos_merge_take(core, lane, dir, u->off + u->len, 1);
    if (taken < 0) return;
    uint32_t first = w->sent.first + before;
    int spans = before && u->len && w->sent.items[first - 1].pos + w->sent.items[first - 1].removed > u->off;
    fos_came came = fos_came_of_unit(w, u);
    if (!taken && !spans) {
        fos_merge_send(core, &came, ts);
        return;
    }
    fos_seg *segs = fos_merge_room(core, fos_edits_count(&w->sent));
    if (!segs) return;
    uint64_t total;
    uint32_t count = fos_merge_segs(&w->sent, first, w->sent.end, u->off, u->off + u->len, u->frame + u->payload, segs, &total);
    if (!total) FOS_COUNT(&core->counters, merged_dropped);
    else {
        uint8_t *out = fos_outlets_room(&core->outlets);
        if (!out) { core->failed = 1; return; }
        fos_repack job = {.frame = u->frame, .captured = u->captured, .l3 = u->l3, .l4 = u->l4, .payload = u->payload, .segs = segs,
                          .seg_count = count, .n = total, .link = came.link};
        uint32_t size = fos_repack_build(&job, out, FOS_SCRATCH_FRAME);
        /* A unit of the IP level holds the transport header too: whatever the module did, its sum is made right. */
        if (size && u->payload == u->l4) fos_make_checksum(out, u->l3, u->l4, size - u->l4);
        if (!size) FOS_COUNT(&core->counters, merged_oversize);
        else {
            FOS_COUNT(&core->counters, merged_edited);
            fos_merge_send_made(core, &came, out, size, size, 0, ts);
        }
    }
    fos_edits_forget(&w->sent, &core->blocks, u->off + u->len);   /* nothing of a datagram comes again */
}

/* Send bytes that no packet brought, at a final offset, with the headers of the last packet that left. */
static void fos_merge_make(fos_core *core, fos_lane *lane, int dir, uint64_t final, const fos_seg *segs, uint32_t count, uint64_t total,
                           int64_t ts) {
    const fos_way *w = &lane->way[dir];
    fos_respun r = {.seq = fos_half_of(core, lane->index, dir)->origin + (uint32_t)final, .acks = w->acked, .q = w->acked_in,
                    .final = w->acked_out};
    const fos_half *other = fos_half_of(core, lane->index, !dir);
    if (!w->acked && (w->template[w->template_l4 + 13] & FOS_TCP_ACK) && (other->flags & FOS_HALF_STARTED)) {
        const fos_way *back = &lane->way[!dir];   /* what the header says, as far as that left */
        uint64_t q = fos_raw_offset(other, fos_be32(w->template + w->template_l4 + 8), back->gone), left = back->gone;
        left += other->flags & FOS_HALF_FIN_DONE && !back->ends && (!other->stream || back->next_unit >= other->stream->tail_index);
        r.final = fos_merge_ack(core, lane, !dir, q < left ? q : left);
    }
    r.ack = w->acked || other->flags & FOS_HALF_STARTED ? other->origin + (uint32_t)r.final : fos_be32(w->template + w->template_l4 + 8);
    uint8_t flags = (uint8_t)((w->template[w->template_l4 + 13] & ~(FOS_TCP_SYN | FOS_TCP_FIN | FOS_TCP_RST)) | FOS_TCP_PSH);
    if (w->acked || fos_merge_late(core, lane, dir, w->template + w->template_l4)) flags |= FOS_TCP_ACK;
    fos_came like = {.frame = w->template, .captured = w->template_n, .l3 = w->template_l3, .l4 = w->template_l4, .link = w->link,
                     .iface = w->iface, .lent = 1};
    fos_merge_build(core, lane, dir, &like, &r, flags, segs, count, total, 0, ts);
}

/* A gap is passed: its bytes are nobody's to send, what was put among them leaves by itself. */
static int fos_merge_gap(fos_core *core, fos_lane *lane, int dir, const fos_unit *u, int tcp, int64_t ts) {
    fos_way *w = &lane->way[dir];
    uint32_t before = w->sent.end - w->sent.first;
    if (fos_merge_take(core, lane, dir, u->off + u->len, 1) < 0) return -1;
    const fos_unit *behind = fos_stream_unit(fos_half_of(core, lane->index, dir)->stream, w->next_unit + 1);
    if (tcp && !w->template_n && behind && behind->frame)
        fos_merge_template(w, behind->frame, behind->l3, behind->l4, behind->l4 + fos_tcp_header_len(behind->frame + behind->l4));
    const fos_transit *parked = w->first ? &w->first->packet : NULL;
    if (tcp && !w->template_n && parked && parked->flags & FOS_TRANSIT_TCP)
        fos_merge_template(w, parked->frame, parked->l3, parked->l4, parked->l4 + fos_tcp_header_len(parked->frame + parked->l4));
    for (uint32_t i = w->sent.first + before; tcp && w->template_n && i < w->sent.end; i++) {
        const fos_edit *e = &w->sent.items[i];
        fos_seg seg = {.p = e->data, .n = e->inserted};
        if (e->inserted) fos_merge_make(core, lane, dir, e->pos + (uint64_t)e->delta, &seg, 1, e->inserted, ts);
    }
    return 0;
}

/* Edits behind the last unit that left: they travel on a packet of their own. */
static void fos_way_trailing(fos_core *core, fos_lane *lane, int dir, int64_t ts) {
    fos_way *w = &lane->way[dir];
    const fos_conn *c = &core->table.conns[lane->index];
    if (c->key.proto != FOS_PROTO_TCP || core->plans[c->flow].packets) return;
    uint64_t limit = fos_way_limit(w, lane->stage_count);
    if ((!w->template_n && !w->keep) || w->fin_gone || w->gone > limit || (lane->away && w->gone == limit)) return;
    uint32_t before = w->sent.end - w->sent.first;
    uint64_t final = fos_edits_seq(&w->sent, w->gone), total;
    if (fos_merge_take(core, lane, dir, w->gone, 0) <= 0) return;
    fos_seg *segs = fos_merge_room(core, fos_edits_count(&w->sent));
    if (!segs) return;
    uint32_t count = fos_merge_segs(&w->sent, w->sent.first + before, w->sent.end, w->gone, w->gone, NULL, segs, &total);
    if (!total) return;
    if (w->keep) {
        fos_keep_append(core, w, segs, count, total);
        fos_merge_prune(core, w);
        return;
    }
    fos_merge_make(core, lane, dir, final, segs, count, total, ts);
}

/* ---- parked packets leave -------------------------------------------------------------------------- */

static void fos_merge_bare(fos_core *core, fos_lane *lane, int dir, fos_transit *t, int64_t ts) {
    fos_way *w = &lane->way[dir];
    if (t->flags & FOS_TRANSIT_END) {         /* where it stands may only be known by now */
        const fos_half *h = fos_half_of(core, lane->index, dir);
        if (h->flags & FOS_HALF_STARTED) {
            t->off = (int64_t)fos_raw_offset(h, fos_be32(t->frame + t->l4 + 4), w->gone);
            t->flags |= FOS_TRANSIT_OFF;
        }
        if (!w->template_n) fos_merge_template(w, t->frame, t->l3, t->l4, t->l4 + fos_tcp_header_len(t->frame + t->l4));
        fos_way_trailing(core, lane, dir, ts);
        w->fin_gone = 1;
    }
    if (!lane->writes && t->flags & FOS_TRANSIT_OFF && t->off >= 0) {     /* readers hold what it repeats */
        uint64_t end = t->tcp_flags & FOS_TCP_FIN && !w->fin_gone ? FOS_ALL : (uint64_t)t->off + t->paylen;
        if (end > w->gone && end > w->ahead) w->ahead = end;
    }
    const uint8_t *th = t->frame + t->l4;
    fos_came came = fos_came_of(t);
    if (t->flags & FOS_TRANSIT_TCP && !(t->flags & FOS_TRANSIT_OFF) && !(t->tcp_flags & FOS_TCP_SYN)) {
        fos_respun r;                         /* its own stream never began: what it acknowledges is mapped all the same */
        fos_merge_respin(core, lane, dir, th, 0, 0, &r);
        fos_merge_renumber(core, &came, &r, ts);
        fos_merge_note(core, lane, dir, t->frame, t->l3, t->l4, t->l4 + fos_tcp_header_len(th), &r);
        return;
    }
    if (!(t->flags & FOS_TRANSIT_TCP) || !(t->flags & FOS_TRANSIT_OFF) || t->off < 0) {
        fos_merge_send(core, &came, ts);
        return;
    }
    uint64_t off = (uint64_t)t->off;
    const fos_half *h = fos_half_of(core, lane->index, dir);
    fos_respun r;
    uint64_t fin = h->fin, final = fin != FOS_NO_OFFSET && off > fin ? fos_edits_seq(&w->sent, fin) + (off - fin) : fos_edits_seq(&w->sent, off);
    fos_merge_respin(core, lane, dir, th, t->off, final, &r);
    r.seq = h->origin + (uint32_t)final;
    r.changed = r.changed || r.seq != fos_be32(th + 4);
    if (r.acks && w->acked && r.q < w->acked_in && r.final != w->acked_out && fos_edits_count(&lane->way[!dir].sent)) {
        r.final = w->acked_out < r.final ? w->acked_out : r.final;
        r.ack = fos_half_of(core, lane->index, !dir)->origin + (uint32_t)r.final;
        r.changed = r.changed || r.ack != fos_be32(th + 8);
    }
    int pure = !t->paylen && !(t->tcp_flags & (FOS_TCP_SYN | FOS_TCP_FIN | FOS_TCP_RST));
    if (pure && r.acks && w->acked && r.q > w->acked_in && r.final == w->acked_out && !r.edge_count) {
        w->acked_in = r.q;
        FOS_COUNT(&core->counters, merged_acks_dropped);
        return;
    }
    uint64_t e = off + t->paylen;
    uint32_t first = off ? fos_edits_above(&w->sent, off - 1) : w->sent.first;
    int inside = t->paylen && ((first < w->sent.end && w->sent.items[first].pos < e) ||
                               (first > w->sent.first && w->sent.items[first - 1].pos + w->sent.items[first - 1].removed > off));
    if (t->paylen && w->sent.delta && first == w->sent.first && fos_edits_count(&w->sent) >= FOS_EDITS_KEPT && off < w->sent.items[first].pos) {
        FOS_COUNT(&core->counters, merged_stale);   /* what stood here was forgotten: its receiver has it */
        return;
    }
    if (inside) {
        fos_seg *segs = fos_merge_room(core, fos_edits_count(&w->sent));
        uint64_t total;
        if (!segs) return;
        if (t->payload + t->paylen > t->captured) { FOS_COUNT(&core->counters, merged_stale); return; }
        /* Bytes inserted in front of its first byte left with the packet before, or with it: the map says after.
         * Those that replace it are its own. */
        uint32_t own = first;
        while (own < w->sent.end && w->sent.items[own].pos == off && !w->sent.items[own].removed) own++;
        if (own == w->sent.end || w->sent.items[own].pos != off) first = own;
        else r.seq = h->origin + (uint32_t)off + (uint32_t)w->sent.items[first].delta;
        uint32_t count = fos_merge_segs(&w->sent, first, fos_edits_above(&w->sent, e - 1), off, e, t->frame + t->payload, segs, &total);
        if (!total && !(t->tcp_flags & FOS_TCP_FIN)) FOS_COUNT(&core->counters, merged_emptied);
        else fos_merge_build(core, lane, dir, &came, &r, t->tcp_flags, segs, count, total, t->paylen, ts);
    } else fos_merge_renumber(core, &came, &r, ts);
    fos_merge_note(core, lane, dir, t->frame, t->l3, t->l4, t->l4 + fos_tcp_header_len(th), &r);
}

/* ---- what may leave -------------------------------------------------------------------------------- */

/* Is there a unit in direction dir, come before packet `number`, with bytes below `off`, that has not left? */
FOS_INLINE int fos_merge_awaits(const fos_core *core, const fos_lane *lane, int dir, uint64_t off, uint64_t number) {
    const fos_way *w = &lane->way[dir];
    const fos_stream *s = fos_half_of(core, lane->index, dir)->stream;
    /* One may have come early and wait for one that came late. */
    for (uint64_t i = w->next_unit; s && i < s->tail_index; i++) {
        const fos_unit *u = fos_stream_unit(s, i);
        if (!u || u->off >= off) return 0;
        if (u->packet < number) return 1;
    }
    return 0;
}

/* May a packet with this header leave, as far as the bytes that it acknowledges go? */
FOS_INLINE int fos_merge_ack_clear(const fos_core *core, const fos_lane *lane, int dir, const uint8_t *th, uint64_t number) {
    const fos_half *other = fos_half_of(core, lane->index, !dir);
    if (!(th[13] & FOS_TCP_ACK)) return 1;
    if (!(other->flags & FOS_HALF_STARTED)) return !(other->flags & FOS_HALF_PICKUP);   /* where its stream begins is still open */
    uint64_t q = fos_raw_offset(other, fos_be32(th + 8), lane->way[!dir].gone);
    if (q > (uint64_t)1 << 62) return 1;
    if (lane->writes && other->ooo && other->ooo->pieces.first && q > lane->way[!dir].gone) return 0;   /* of what waits here */
    for (const fos_parked *p = lane->way[!dir].ends ? lane->way[!dir].first : NULL; p && p->packet.number < number; p = p->next)
        if (p->packet.flags & FOS_TRANSIT_END && q > fos_raw_offset(other, fos_be32(p->packet.frame + p->packet.l4 + 4), lane->way[!dir].gone))
            return 0;                         /* of a FIN that is parked */
    return !fos_merge_awaits(core, lane, !dir, q, number);
}

/* A FIN that came ahead of earlier bytes: the frame is that of the packet that completed them, of either direction. */
FOS_INLINE int fos_unit_is_told(const fos_core *core, const fos_lane *lane, int dir, const fos_unit *u) {
    if (u->kind != FOS_UNIT_FIN) return 0;
    if (lane->way[dir].ends) return 1;
    const uint8_t *th = u->frame + u->l4;
    uint32_t ports = core->table.conns[lane->index].key.ports;   /* both ends may count from one number */
    if (!core->translations && fos_be16(th) != (uint16_t)(dir ? ports : ports >> 16)) return 1;
    uint32_t n = fos_ip_end(u->frame, u->l3, u->captured) - u->l4 - fos_tcp_header_len(th);
    return !(th[13] & FOS_TCP_FIN) || fos_be32(th + 4) + n != fos_half_of(core, lane->index, dir)->origin + (uint32_t)u->off;
}

/* A SYN whose data was edited, or is held, leaves without it: the data follows. */
static int fos_merge_bare_syn(fos_core *core, fos_lane *lane, int dir, const fos_unit *u, int64_t ts) {
    fos_way *w = &lane->way[dir];
    fos_respun r = {.seq = fos_be32(u->frame + u->l4 + 4), .ack = fos_be32(u->frame + u->l4 + 8)};
    fos_came came = fos_came_of_unit(w, u);
    came.lent = 1;                            /* the packet that came is the one with the data */
    fos_merge_build(core, lane, dir, &came, &r, (uint8_t)(u->frame[u->l4 + 13] & ~FOS_TCP_FIN), NULL, 0, 0, 0, ts);
    w->next_unit++;
    return 1;
}

/* Have the frame of the unit that is likely next fetched while this one is copied: it came long ago. */
FOS_INLINE void fos_merge_fetch(const fos_unit *u) {
    if (!u || !u->frame) return;
    for (uint32_t at = 0; at < u->captured && at < FOS_MERGE_FETCH; at += 64) __builtin_prefetch(u->frame + at);
}

/* A packet that came early left with its units: it need not leave by itself. */
static void fos_merge_not_early(fos_core *core, fos_way *w, uint64_t number) {
    for (fos_parked **at = &w->early; *at; at = &(*at)->next)
        if ((*at)->packet.number == number) {
            fos_parked *p = *at;
            *at = p->next;
            fos_parked_free(core, p);
            return;
        }
}

/* Packets that came early and have no units left, for later ones took the place of all their bytes (tcp_policy), leave
 * as what they are by now: repetitions.  1: one did. */
static int fos_merge_next_early(fos_core *core, fos_lane *lane, int dir, int64_t ts, int force) {
    fos_way *w = &lane->way[dir];
    const fos_half *h = fos_half_of(core, lane->index, dir);
    if (!(h->flags & FOS_HALF_STARTED) && !force) return 0;
    fos_parked **oldest = NULL;
    for (fos_parked **at = &w->early; *at; at = &(*at)->next) {
        fos_transit *t = &(*at)->packet;
        if (h->flags & FOS_HALF_STARTED) {
            t->off = (int64_t)fos_raw_offset(h, fos_be32(t->frame + t->l4 + 4), w->gone);
            t->flags |= FOS_TRANSIT_OFF;
        }
        if (force || (t->off + (int64_t)t->paylen <= (int64_t)w->gone && fos_merge_ack_clear(core, lane, dir, t->frame + t->l4, t->number)))
            oldest = at;
    }
    if (!oldest) return 0;
    fos_parked *p = *oldest;
    *oldest = p->next;
    fos_merge_bare(core, lane, dir, &p->packet, ts > p->packet.ts ? ts : p->packet.ts);
    fos_parked_free(core, p);
    return 1;
}

/* Send the next unit of a direction if it may leave: 1, else 0. */
static int fos_merge_next_unit(fos_core *core, fos_lane *lane, int dir, uint64_t limit, uint64_t number, int64_t ts) {
    fos_way *w = &lane->way[dir];
    const fos_conn *c = &core->table.conns[lane->index];
    const fos_stream *s = fos_half_of(core, lane->index, dir)->stream;
    const fos_unit *u = s ? fos_stream_unit(s, w->next_unit) : NULL;
    if (!u || u->packet > number || u->off + u->len > limit) return 0;
    if (ts < u->ts) ts = u->ts;
    const fos_unit *fin = NULL, *data = NULL;
    int tcp = c->key.proto == FOS_PROTO_TCP && !core->plans[c->flow].packets;
    if (u->kind == FOS_UNIT_FIN && limit < FOS_ALL && (fos_merge_edits_wait(lane, w, u->off) || (lane->away && u->off == limit))) return 0;
    if (u->kind == FOS_UNIT_GAP) {
        if (fos_merge_gap(core, lane, dir, u, tcp, ts) < 0) return 0;
    } else if (w->keep && u->kind == FOS_UNIT_SYN) {
        ;                                     /* handshakes pass as they come */
    } else if (w->keep && u->kind == FOS_UNIT_FIN) {
        fos_way_trailing(core, lane, dir, ts);
        w->keep->fin = w->fin_gone = 1;
    } else if (!u->frame || (u->flags & FOS_UNIT_LEFT) || fos_unit_is_told(core, lane, dir, u) || (u->packet <= w->passed && (u->flags & FOS_UNIT_WAITED))) {
        ;                                     /* no packet brought it, or it left when it came, or leaves by itself */
    } else if (tcp) {
        if (!w->keep && !fos_merge_ack_clear(core, lane, dir, u->frame + u->l4, u->packet)) return 0;
        if (u->kind == FOS_UNIT_DATA) {
            fin = fos_stream_unit(s, w->next_unit + 1);
            if (fin && (fin->kind != FOS_UNIT_FIN || !(u->frame[u->l4 + 13] & FOS_TCP_FIN) || fin->packet > number)) fin = NULL;
            if (fin && limit < FOS_ALL && (fos_merge_edits_wait(lane, w, fin->off) || (lane->away && fin->off == limit))) fin = NULL;
        } else if (u->kind == FOS_UNIT_SYN && !w->keep) {  /* data that came with it leaves with it */
            data = fos_stream_unit(s, w->next_unit + 1);
            if (data && (data->kind != FOS_UNIT_DATA || data->packet != u->packet || data->off)) data = NULL;
            const fos_edits *edits = fos_way_edits(w, lane->stage_count);
            if (data && (data->len > limit || (edits && fos_edits_count(edits) && edits->items[edits->first].pos <= data->len)))
                return fos_merge_bare_syn(core, lane, dir, u, ts);
        }
        fos_merge_fetch(fos_stream_unit(s, w->next_unit + 1));
        if (u->kind == FOS_UNIT_DATA && !w->keep && fos_merge_packet(core, lane, dir, u, limit, number, ts)) fin = NULL;
        else fos_merge_tcp_unit(core, lane, dir, u, fin, ts);
        if (data) u = data;
    } else fos_merge_datagram(core, lane, dir, u, ts);
    w->gone = u->off + u->len;
    w->next_unit += fin || data ? 2 : 1;
    if (FOS_UNLIKELY(w->early != NULL) && u->flags & FOS_UNIT_WAITED && u->kind != FOS_UNIT_GAP) fos_merge_not_early(core, w, u->packet);
    return 1;
}

static int fos_merge_next_parked(fos_core *core, fos_lane *lane, int dir, uint64_t number, int64_t ts, int force) {
    fos_way *w = &lane->way[dir];
    fos_parked *p = w->first;
    if (!p || p->packet.number > number) return 0;
    fos_transit *t = &p->packet;
    const fos_half *half = fos_half_of(core, lane->index, dir);
    if ((t->flags & (FOS_TRANSIT_TCP | FOS_TRANSIT_OFF)) == FOS_TRANSIT_TCP && !(t->tcp_flags & FOS_TCP_SYN)) {
        if (half->flags & FOS_HALF_STARTED) { /* where its stream begins was not known when it came */
            t->off = (int64_t)fos_raw_offset(half, fos_be32(t->frame + t->l4 + 4), w->gone);
            t->flags |= FOS_TRANSIT_OFF;
        } else if ((t->paylen || half->flags & FOS_HALF_PICKUP) && !force) return 0;
    }
    if (!force) {
        if ((t->flags & FOS_TRANSIT_OFF) && fos_merge_awaits(core, lane, dir, (uint64_t)t->off, t->number) && t->off > 0) return 0;
        /* A later packet may have taken the place of bytes that came before this one. */
        for (const fos_parked *e = t->flags & FOS_TRANSIT_OFF && t->off > (int64_t)w->gone ? w->early : NULL; e; e = e->next)
            if (e->packet.number < t->number) return 0;
        /* A repetition of bytes that wait goes behind them. */
        const fos_half *h = fos_half_of(core, lane->index, dir);
        if (t->flags & FOS_TRANSIT_END && lane->writes) {
            uint64_t off = h->flags & FOS_HALF_STARTED ? fos_raw_offset(h, fos_be32(t->frame + t->l4 + 4), w->gone) : FOS_ALL;
            if (off > w->gone || fos_merge_edits_wait(lane, w, off)) return 0;
            if (lane->away && off == fos_way_limit(w, lane->stage_count)) return 0;
            const fos_unit *u = h->stream ? fos_stream_unit(h->stream, w->next_unit) : NULL;
            if (u && u->packet < t->number) return 0;    /* one that contradicts the bytes that came before it does not overtake them */
        }
        if ((t->flags & FOS_TRANSIT_OFF) && t->paylen && lane->writes && t->off >= 0 && (uint64_t)t->off + t->paylen > w->gone &&
            (h->ooo || (uint64_t)t->off + t->paylen <= h->next)) return 0;
        if ((t->flags & FOS_TRANSIT_TCP) && !fos_merge_ack_clear(core, lane, dir, t->frame + t->l4, t->number)) return 0;
    }
    fos_merge_bare(core, lane, dir, t, ts > t->ts ? ts : t->ts);
    w->first = p->next;
    if (!w->first) w->last = NULL;
    w->ends -= (t->flags & FOS_TRANSIT_END) != 0;
    fos_parked_free(core, p);
    return 1;
}

/* The number of the packet that a direction sends next; FOS_ALL: it has none. */
FOS_INLINE uint64_t fos_merge_turn(const fos_core *core, const fos_lane *lane, int dir) {
    const fos_way *w = &lane->way[dir];
    const fos_stream *s = fos_half_of(core, lane->index, dir)->stream;
    const fos_unit *u = s ? fos_stream_unit(s, w->next_unit) : NULL;
    uint64_t unit = u ? u->packet : FOS_ALL, parked = w->first ? w->first->packet.number : FOS_ALL;
    return unit < parked ? unit : parked;
}

/* Send the next packet of a direction if it may leave: 1, else 0. */
static int fos_merge_step(fos_core *core, fos_lane *lane, int dir, uint64_t limit, uint64_t number, int64_t ts) {
    fos_way *w = &lane->way[dir];
    const fos_stream *s = fos_half_of(core, lane->index, dir)->stream;
    const fos_unit *u = s ? fos_stream_unit(s, w->next_unit) : NULL;
    int due = u && u->packet <= number && u->off + u->len <= limit;
    int parked_due = w->first && w->first->packet.number <= number;
    int parked_first = parked_due && u && w->first->packet.number < u->packet;
    return (parked_first && fos_merge_next_parked(core, lane, dir, number, ts, 0)) ||
           (due && fos_merge_next_unit(core, lane, dir, limit, number, ts)) ||
           (parked_due && !parked_first && fos_merge_next_parked(core, lane, dir, number, ts, 0)) ||
           (FOS_UNLIKELY(w->early != NULL) && fos_merge_next_early(core, lane, dir, ts, 0));
}

/* Send all that may leave of what came up to packet `number`, as far as may be in the order in which it came;
 * `force`: all of it. */
static void fos_lane_drain(fos_core *core, fos_lane *lane, uint64_t number, int64_t ts, int force) {
    int moved;
    uint64_t limit[2];
    for (int dir = 0; dir < 2; dir++) limit[dir] = force ? FOS_ALL : fos_way_limit(&lane->way[dir], lane->stage_count);
    do {
        moved = 0;
        uint64_t turn[2];
        int stuck[2];                         /* until the other direction has sent all it can */
        for (int dir = 0; dir < 2; dir++) {
            turn[dir] = fos_merge_turn(core, lane, dir);
            stuck[dir] = turn[dir] > number && !lane->way[dir].early;
        }
        while (!stuck[0] || !stuck[1]) {
            int dir = stuck[0] || (!stuck[1] && turn[1] < turn[0]);
            if (fos_merge_step(core, lane, dir, limit[dir], number, ts)) {
                moved = 1;
                turn[dir] = fos_merge_turn(core, lane, dir);
            } else stuck[dir] = 1;
        }
        if (!moved && force)                  /* two directions wait for each other: time is over for both */
            for (int dir = 0; dir < 2 && !moved; dir++)
                moved = fos_merge_next_parked(core, lane, dir, number, ts, 1) || (lane->way[dir].early && fos_merge_next_early(core, lane, dir, ts, 1));
    } while (moved);
}

/* ---- the log ------------------------------------------------------------------------------------ */

/* Keep a packet until it may leave; `early`: until its units do. */
static void fos_merge_park(fos_core *core, fos_lane *lane, const fos_transit *t, int early) {
    fos_way *w = &lane->way[t->dir];
    fos_parked *p = fos_pool_take(&core->parked);
    if (!p) { core->failed = 1; return; }
    p->next = NULL;
    p->packet = *t;
    if (t->flags & FOS_TRANSIT_BLOCK) fos_block_keep(t->frame);
    if (early) {
        p->next = w->early;
        w->early = p;
        return;
    }
    w->ends += (t->flags & FOS_TRANSIT_END) != 0;
    if (w->last) w->last->next = p;
    else w->first = p;
    w->last = p;
}

/* A packet that came ahead of earlier bytes, in a flow that edits: it must wait, so its connection gets a lane. */
FOS_NOINLINE fos_lane *fos_merge_lane_at(fos_core *core, const fos_transit *t) {
    fos_lane *lane = fos_lane_new(core, t->conn, FOS_MAX_STAGES);
    for (int dir = 0; lane && dir < 2; dir++) {
        const fos_stream *s = fos_half_of(core, t->conn, dir)->stream;
        fos_way *w = &lane->way[dir];
        const fos_unit *u;
        while (s && (u = fos_stream_unit(s, w->next_unit)) && u->packet < t->number) {
            w->gone = u->off + u->len;
            if (u->kind == FOS_UNIT_FIN) w->fin_gone = 1;
            w->next_unit++;
        }
    }
    return lane;
}

/* In line, TCP with a lane is kept going by us; it begins with the first packet behind the lane's making. */
FOS_INLINE int fos_merge_keeps(fos_core *core, fos_lane *lane) {
    const fos_conn *c = &core->table.conns[lane->index];
    if (c->key.proto != FOS_PROTO_TCP || core->plans[c->flow].packets) return 0;
    return lane->way[0].keep || !fos_keep_begin(core, lane);
}

/* The capture time at which something leaves a lane off line: that a module's thread took its time is no time of the capture. */
FOS_INLINE int64_t fos_lane_time(const fos_core *core, const fos_lane *lane, int64_t ts) {
    return lane->lent && !core->live ? lane->floor : ts;
}

static void fos_merge_entry(fos_core *core, const fos_transit *t) {
    if (FOS_UNLIKELY(core->translations != NULL)) fos_translate_leaving(core, t->conn);
    fos_lane *lane = t->conn ? fos_lane_of(core, t->conn) : NULL;
    if (FOS_UNLIKELY(fos_fate_drops(core, t->conn))) {
        if (lane) fos_lane_touch(core, lane);
        if (lane && lane->way[0].keep) fos_keep_dropped(core, lane);
        else fos_fate_packet(core, t);
        return;
    }
    if (FOS_LIKELY(!lane)) {
        if (FOS_UNLIKELY(t->flags & (FOS_TRANSIT_AHEAD | FOS_TRANSIT_END | FOS_TRANSIT_FRAGMENT))) {
            const fos_conn *c = &core->table.conns[t->conn];
            if (t->flags & FOS_TRANSIT_FRAGMENT) return;    /* its datagram's last one brings it along */
            if (core->plans[c->flow].writes & FOS_CLASS_TCP && !(c->depth & FOS_DEPTH_BYPASSED)) lane = fos_merge_lane_at(core, t);
        }
        if (FOS_LIKELY(!lane)) {
            fos_send_came(core, t->flags & FOS_TRANSIT_JOINED, t->frame, t->captured, t->wire, t->l3, t->ts, t->link, t->iface);
            return;
        }
    }
    lane->way[t->dir].link = t->link;
    lane->way[t->dir].iface = t->iface;
    fos_lane_touch(core, lane);
    if (core->live && fos_merge_keeps(core, lane)) {
        if (t->flags & FOS_TRANSIT_TCP && t->tcp_flags & FOS_TCP_RST) fos_lane_drain(core, lane, t->number, t->ts, 0);   /* what was before it */
        fos_keep_packet(core, lane, t);
        fos_lane_drain(core, lane, t->number, t->ts, 0);
        return;
    }
    int early = t->flags & FOS_TRANSIT_AHEAD && lane->writes;
    if (early || !(t->flags & FOS_TRANSIT_DATA)) fos_merge_park(core, lane, t, early);
    fos_lane_drain(core, lane, t->number, fos_lane_time(core, lane, t->ts), 0);
}

/* Frames of units and parked packets that stay behind must not depend on the ring. */
static void fos_lane_spill(fos_core *core, fos_lane *lane) {
    for (int dir = 0; dir < 2; dir++) {
        for (fos_parked *p = lane->way[dir].first; p; p = p->next) fos_parked_spill(core, p);
        for (fos_parked *p = lane->way[dir].early; p; p = p->next) fos_parked_spill(core, p);
    }
}

/* Count the packets of one list that stay, and let go of them. */
static void fos_parked_lost(fos_core *core, fos_parked **list) {
    while (*list) {
        fos_parked *p = *list;
        *list = p->next;
        FOS_COUNT(&core->counters, merged_dropped);
        fos_parked_free(core, p);
    }
}

/* Count the packets that were held when a module dropped their connection: those before number `logged`, the others are
 * in the log, and counted there. */
static void fos_lane_lost(fos_core *core, fos_lane *lane, uint64_t logged) {
    for (int dir = 0; dir < 2; dir++) {
        fos_way *w = &lane->way[dir];
        const fos_stream *s = fos_half_of(core, lane->index, dir)->stream;
        uint64_t last = FOS_ALL;
        fos_parked_lost(core, &w->first);
        fos_parked_lost(core, &w->early);
        w->last = NULL;
        w->ends = 0;
        for (; s && w->next_unit < s->tail_index; w->next_unit++) {
            const fos_unit *u = fos_stream_unit(s, w->next_unit);
            if (!u || !u->frame || u->kind == FOS_UNIT_GAP || u->packet >= logged || u->packet == last) continue;
            if (u->flags & (FOS_UNIT_LEFT | FOS_UNIT_WAITED) || fos_unit_is_told(core, lane, dir, u)) continue;   /* it left, or was parked */
            last = u->packet;
            FOS_COUNT(&core->counters, merged_dropped);
        }
    }
}

/* Nothing leaves: edits have done their duty once every later stage has read through them. */
static void fos_lane_discard(fos_core *core, fos_lane *lane) {
    for (int dir = 0; dir < 2; dir++) {
        fos_way *w = &lane->way[dir];
        uint64_t limit = fos_way_limit(w, lane->stage_count);
        const fos_stream *s = fos_half_of(core, lane->index, dir)->stream;
        if (limit == FOS_ALL) limit = s ? s->tail_off : w->gone;
        for (uint32_t k = 0; k < lane->stage_count; k++) fos_edits_forget(&w->stages[k].out, &core->blocks, limit);
        w->gone = limit;
        if (!s || w->next_unit < s->head_index) w->next_unit = s ? s->head_index : 0;
    }
}

/* What a lane may send after the modules: packets, and edits behind the last of them. */
static void fos_lane_send(fos_core *core, fos_lane *lane, int64_t ts, int over) {
    if (FOS_UNLIKELY(core->translations != NULL)) fos_translate_leaving(core, lane->index);
    fos_lane_drain(core, lane, FOS_ALL, ts, over);
    if (ts != core->now && ts < lane->lent) ts = lane->lent;
    for (int dir = 0; dir < 2; dir++) fos_way_trailing(core, lane, dir, ts);
}

/* How many connections, from the first of `closed` on, may still hold packets though their ports were taken by a new one? */
static uint32_t fos_merge_reused(const fos_core *core) {
    uint32_t n = 0;
    if (FOS_LIKELY(!core->lane_count) || core->live || !core->in_line) return 0;
    for (uint32_t i = 0; i < core->closed.count; i++)
        if (core->table.conns[core->closed.items[i]].reason == FOS_CLOSE_REUSED && fos_lane_of(core, core->closed.items[i])) n = i + 1;
    return n;
}

/* The SYN of a new connection goes behind all of the one whose ports it took: `reused` is where to look. */
FOS_NOINLINE void fos_merge_before_syn(fos_core *core, const fos_transit *t, uint32_t reused) {
    for (uint32_t i = 0; i < reused; i++) {
        uint32_t index = core->closed.items[i];
        const fos_conn *c = &core->table.conns[index];
        fos_lane *lane = c->reason == FOS_CLOSE_REUSED ? fos_lane_of(core, index) : NULL;
        if (!lane || lane->away || core->table.cold[index].id > core->table.cold[t->conn].id || fos_fate_drops(core, index)) continue;
        if (index != t->conn && fos_key_equal(&c->key, &core->table.conns[t->conn].key)) fos_lane_send(core, lane, t->ts, 1);
    }
}

/* After the modules: let everything leave that may. */
static void fos_merge(fos_core *core) {
    uint32_t reused = fos_merge_reused(core);
    uint64_t logged = FOS_ALL;                /* the first packet of a connection in the log */
    for (uint32_t i = 0; core->fated && i < core->log.count && logged == FOS_ALL; i++)
        if (core->log.items[i].conn) logged = core->log.items[i].number;
    for (uint32_t i = 0; i < core->log.count; i++) {
        const fos_transit *t = &core->log.items[i];
        if (FOS_UNLIKELY(reused && t->conn && (t->tcp_flags & (FOS_TCP_SYN | FOS_TCP_ACK)) == FOS_TCP_SYN))
            fos_merge_before_syn(core, t, reused);
        fos_merge_entry(core, &core->log.items[i]);
        fos_transit_drop(core, &core->log.items[i]);
    }
    core->log.count = 0;
    while (core->touched_lanes) {
        fos_lane *lane = core->touched_lanes;
        core->touched_lanes = lane->next;
        lane->touched = 0;
        if (fos_list_add(&core->merged, lane->index)) core->failed = 1;
        int over = (core->table.conns[lane->index].flags & FOS_CONN_CLOSED) && !lane->away;
        if (core->in_line && !fos_fate_drops(core, lane->index)) {
            fos_lane_send(core, lane, fos_lane_time(core, lane, core->now), over);
            if (core->live && fos_merge_keeps(core, lane)) {
                fos_keep_output(core, lane);
                if (over) fos_keep_end(core, lane, core->table.conns[lane->index].reason);
            }
        } else {
            if (core->in_line && !core->live) fos_lane_lost(core, lane, logged);
            fos_lane_discard(core, lane);
        }
        for (int dir = 0; dir < 2; dir++)
            fos_way_forget(&lane->way[dir], lane->stage_count, &core->blocks, fos_way_edits(&lane->way[dir], lane->stage_count));
        if (!core->stable) fos_lane_spill(core, lane);
    }
    if (core->live) fos_keep_timers(core);
    if (FOS_UNLIKELY(core->bundles != NULL)) fos_bundles_sweep(core, 0);
    core->outlets.change_with = NULL;
    if (core->outlets.count) fos_outlets_sync(&core->outlets);
}

#endif
