/* A lane: what the pipeline and the merger know of one connection that is not simply passing by.
 *
 *     stream of units (what arrived)
 *        |  stage 1 reads [at, limit)      out: edits of stage 1          at: the first byte not released
 *        |  stage 2 reads what stage 1     out: edits of stages 1 and 2   head: below it all is covered
 *        v  released, through its edits
 *     merger: units below the least head leave, through the last writer's edits, which move to `sent`
 *
 * Most connections have no lane: each module released all it was lent, unchanged, and packets leave
 * as they came.  A lane is made by the first window that is held, the first edit, or the first
 * packet that must wait, and stays until the connection ends.  Positions are original offsets; `skip`
 * counts the bytes taken of what the stage before inserted there.  Writer: the engine loop.
 */
#ifndef FOS_LANE_H
#define FOS_LANE_H

#include "splice.h"
#include "transit.h"

#define FOS_ALL (~(uint64_t)0)
#define FOS_ALL_SO_FAR (FOS_ALL - 1)  /* of what is inserted at a place; more may be put there */

/* A place in a stage's input: the byte at original offset `off`, behind `skip` bytes inserted there. */
typedef struct fos_at {
    uint64_t off;
    uint64_t skip;
} fos_at;

FOS_INLINE int fos_at_before(fos_at a, fos_at b) { return a.off < b.off || (a.off == b.off && a.skip < b.skip); }

FOS_INLINE fos_at fos_at_least(fos_at a, fos_at b) { return fos_at_before(b, a) ? b : a; }

enum fos_stage_flags {
    FOS_STAGE_WRITES = 1,     /* its module may edit: `out` is in use */
    FOS_STAGE_GONE = 2,       /* its module was detached: what it edited is on its way, what comes passes through */
    FOS_STAGE_AWAY = 4,       /* a thread of its module works on the connection: what stands at its place is not decided */
    FOS_STAGE_LENT = 8,       /* ... on a window of this direction */
    FOS_STAGE_WOKEN = 16,     /* its module asked to be called again by now */
    FOS_STAGE_TOLD = 32,      /* it holds a message of which it knows that it is complete */
};

typedef struct fos_stage {
    uint64_t serial;          /* of the attachment */
    fos_at at;                /* the first byte that the module has not released */
    uint64_t head;            /* all bytes below are covered: later stages may have them; <= at.off */
    fos_edits out;            /* edits of this stage and those before it, of bytes that are not merged yet */
    uint32_t flags;           /* fos_stage_flags */
    int32_t order;            /* of the attachment */
    uint64_t unit;            /* index of the first unit of its level that it has not released */
    uint64_t seen_unit;       /* one past the last unit that it was lent, */
    uint64_t seen_off;        /* ... and the original offset up to which: nothing new, no call; */
    uint64_t seen_skip;       /* ... with so many of the bytes inserted there */
    int64_t held_since;       /* capture time since which it holds what it was lent, or 0 */
    int64_t wake;             /* when it is to be called again with what it holds, or 0 */
    uint64_t wake_bytes;      /* ... not before so many bytes are there, or 0: with what comes; */
    uint64_t wake_units;      /* ... or so many units */
    uint64_t begins;          /* original offset below which all passes it: it came when that had left, or 0 */
    uint32_t bypass;          /* the module wants no more of this direction */
    uint32_t ended;           /* it was told that nothing more joins */
} fos_stage;

enum { FOS_TEMPLATE_ROOM = 192 };  /* link, IP and transport headers, as a rule */

typedef struct fos_way {
    fos_stage *stages;        /* as many as the lane says, in the pipeline's order */
    fos_edits sent;           /* edits of bytes that left */
    uint64_t next_unit;       /* index of the first unit that has not left */
    uint64_t passed;          /* number of the last packet that left on arrival though it came ahead of earlier bytes */
    uint64_t gone;            /* original offset behind the last byte that left, */
    uint64_t ahead;           /* ... and behind what left before earlier bytes, or is held and was repeated: no writer begins before it */
    fos_parked *first, *last;
    fos_parked *early;        /* packets that came ahead of earlier bytes and wait as units, newest first */
    uint64_t acked_in;        /* highest acknowledgement sent by this way's sender: as it came, */
    uint64_t acked_out;       /* ... and as it left */
    uint16_t mss;             /* largest payload to send, 0: not known */
    uint8_t acked;            /* acked_in and acked_out are valid */
    uint8_t fin_gone;
    uint8_t forgot;           /* some of `sent` is forgotten: the map is right from its first edit on */
    uint8_t template_l3;
    uint8_t template_l4;
    uint16_t template_n;      /* bytes of the template, 0: none yet */
    uint16_t link, iface;
    uint32_t ends;            /* of the parked: FINs without payload that came ahead of earlier bytes */
    struct fos_keep *keep;    /* in line: what its sender gave us and its receiver has not acknowledged */
    uint8_t template[FOS_TEMPLATE_ROOM];  /* headers of the last packet that left this way */
} fos_way;

typedef struct fos_lane {
    uint32_t index;           /* of the connection */
    uint32_t stage_count;
    uint32_t writes;          /* some stage writes, or did */
    uint32_t probes;          /* in line: how often both ends were asked, since one was heard last */
    uint32_t reset;           /* an end reset the connection: what is held goes, or is dropped */
    uint32_t away;            /* windows of it that modules' threads work on: its end waits for them */
    int64_t lent;             /* capture time when a module's thread was last lent windows of it, or 0 */
    int64_t floor;            /* ... then: nothing leaves as if before this capture time, when what was held was released */
    uint32_t touched;         /* on the list of lanes to look after in this delivery */
    struct fos_lane *next;    /* that list */
    struct fos_lane *all_next, *all_prev;   /* list of all lanes */
    void *owner;              /* the engine's object, or NULL */
    fos_way way[2];           /* by direction of the key */
} fos_lane;

/* ---- moving a stage through its input ------------------------------------------------------------ */

enum fos_take { FOS_TAKE_PASS, FOS_TAKE_REMOVE };

/* Move a stage on to `to` through what the stage before released: `in` are that one's edits, or NULL.
 * PASS: what lies between goes on as it is; REMOVE: it goes no further.  0, or -1 without memory. */
static int fos_stage_take(fos_stage *s, fos_blocks *blocks, const fos_edits *in, fos_at to, enum fos_take how) {
    static const fos_edits none;
    if (!in) in = &none;
    fos_edits *out = s->flags & FOS_STAGE_WRITES ? &s->out : NULL;
    uint64_t o = s->at.off, skip = s->at.skip;
    uint32_t i = o ? fos_edits_above(in, o - 1) : in->first;
    uint64_t acc = 0;                         /* bytes inserted at o by edits before i */
    for (;;) {
        /* edits at o, as far as they are not consumed */
        if (i < in->end && in->items[i].pos == o) {
            const fos_edit *e = &in->items[i];
            uint64_t have = skip > acc ? skip - acc : 0;       /* of this edit's bytes, already taken */
            if (have > e->inserted) have = e->inserted;
            if (have == e->inserted && !e->removed) { acc += e->inserted; i++; continue; }
            if (!fos_at_before((fos_at){o, skip}, to)) break;
            uint64_t n = e->inserted - have;
            if (to.off == o && to.skip < acc + e->inserted) n = to.skip - acc - have;
            int whole = have + n == e->inserted;
            uint64_t removed = whole && (to.off > o || !e->removed) ? e->removed : 0;
            if (out) {
                int failed = 0;
                if (how == FOS_TAKE_REMOVE) failed = fos_edits_put(out, blocks, o, removed, NULL, 0);
                else if (have == 0 && whole && removed == e->removed) failed = fos_edits_share(out, o, removed, e);
                else failed = fos_edits_put(out, blocks, o, removed, e->data ? e->data + have : NULL, n);
                if (failed) return -1;
            }
            skip += n;
            if (removed) { o += removed; skip = acc = 0; i++; }
            else if (whole && !e->removed) { acc += e->inserted; i++; }
            else break;
            continue;
        }
        if (o >= to.off) break;
        uint64_t stop = i < in->end && in->items[i].pos < to.off ? in->items[i].pos : to.off;
        if (how == FOS_TAKE_REMOVE && out && fos_edits_put(out, blocks, o, stop - o, NULL, 0)) return -1;
        o = stop;
        skip = acc = 0;
    }
    s->at = (fos_at){o, skip};
    return 0;
}

/* The next run of a stage's input from *at on, no further than `to`; *at moves behind it.  1: n bytes at *data that
 * an edit put in (the data of a block); 2: n original bytes from offset *start on; 0: there are no more. */
static int fos_stage_run(const fos_edits *in, fos_at *at, fos_at to, uint64_t *start, const uint8_t **data, const uint8_t **block,
                         uint64_t *n) {
    static const fos_edits none;
    if (!in) in = &none;
    uint32_t i = at->off ? fos_edits_above(in, at->off - 1) : in->first;
    uint64_t acc = 0;
    if (i > in->first && in->items[i - 1].pos + in->items[i - 1].removed > at->off)      /* a unit that begins among bytes taken away */
        *at = (fos_at){in->items[i - 1].pos + in->items[i - 1].removed, 0};
    for (;;) {
        if (i < in->end && in->items[i].pos == at->off) {
            const fos_edit *e = &in->items[i];
            uint64_t have = at->skip > acc ? at->skip - acc : 0;
            if (have > e->inserted) have = e->inserted;
            if (have == e->inserted && !e->removed) { acc += e->inserted; i++; continue; }
            if (!fos_at_before(*at, to)) return 0;
            *n = e->inserted - have;
            if (to.off == at->off && to.skip < acc + e->inserted) *n = to.skip - acc - have;
            if (*n) {
                *start = at->off;
                *data = e->data + have;
                *block = e->data;
                at->skip += *n;
                return 1;
            }
            if (to.off == at->off) return 0;
            *at = (fos_at){e->pos + e->removed, 0};
            acc = 0;
            i++;
            continue;
        }
        if (at->off >= to.off) return 0;
        uint64_t stop = i < in->end && in->items[i].pos < to.off ? in->items[i].pos : to.off;
        *start = at->off;
        *n = stop - at->off;
        *at = (fos_at){stop, 0};
        return 2;
    }
}

/* Insert n bytes where the stage stands. */
FOS_INLINE int fos_stage_insert(fos_stage *s, fos_blocks *blocks, const uint8_t *data, uint64_t n) {
    return fos_edits_put(&s->out, blocks, s->at.off, 0, data, n);
}

/* The edits that stage k reads its input through: the last writer's before it, or NULL. */
FOS_INLINE const fos_edits *fos_stage_input(const fos_way *w, uint32_t k) {
    while (k--)
        if (w->stages[k].flags & FOS_STAGE_WRITES) return &w->stages[k].out;
    return NULL;
}

/* How many bytes a list of edits (NULL: none) puts in front of the byte at `off`. */
static uint64_t fos_inserted_at(const fos_edits *in, uint64_t off) {
    uint64_t n = 0;
    for (uint32_t i = in ? off ? fos_edits_above(in, off - 1) : in->first : 0; in && i < in->end && in->items[i].pos == off; i++)
        n += in->items[i].inserted;
    return n;
}

/* Does a thread have what decides on the place of stage j: its own module's, or an earlier one's at that place? */
static int fos_undecided(const fos_way *w, uint32_t j) {
    for (uint32_t i = 0; i <= j; i++)
        if (w->stages[i].flags & FOS_STAGE_AWAY && w->stages[i].head <= w->stages[j].head) return 1;
    return 0;
}

/* How far stage k may go when the stream ends at `tail` (invariant 3): `skip` FOS_ALL means with all that
 * was inserted at `off`, and what stands there without bytes: a FIN, for all stages before k have released all in
 * front of it.  `depends` says on which stages before it depends, as bits. */
static fos_at fos_stage_limit(const fos_way *w, uint32_t k, uint64_t tail, uint32_t depends) {
    fos_at limit = {tail, FOS_ALL};
    const fos_stage *s = &w->stages[k];
    for (uint32_t j = k; j--;) {
        const fos_stage *e = &w->stages[j];
        int undecided = fos_undecided(w, j);
        if (e->flags & FOS_STAGE_WRITES) {    /* those before it are ahead of it */
            int all = e->at.skip == fos_inserted_at(fos_stage_input(w, j), e->at.off);
            return fos_at_least(limit, (fos_at){e->head, e->head < e->at.off ? 0 : undecided ? e->at.skip : all ? FOS_ALL : FOS_ALL_SO_FAR});
        }
        if (e->order == s->order || !((s->flags & FOS_STAGE_WRITES) || (depends >> j & 1))) continue;
        fos_at at = e->head < e->at.off ? (fos_at){e->head, 0} : e->at;
        if (!undecided && at.skip == fos_inserted_at(fos_stage_input(w, k), at.off)) at.skip = FOS_ALL;
        limit = fos_at_least(limit, at);
    }
    return limit;
}

/* Where the merger must stop: the least head. */
FOS_INLINE uint64_t fos_way_limit(const fos_way *w, uint32_t stages) {
    uint64_t limit = FOS_ALL;
    for (uint32_t k = 0; k < stages; k++)
        if (w->stages[k].head < limit) limit = w->stages[k].head;
    return limit;
}

/* 0 when one direction keeps the invariants of windows, else the number of the first that is broken.  `head` and
 * `tail` are those of its stream: what is held lies between them. */
static int fos_way_check(const fos_way *w, uint32_t stages, uint64_t head, uint64_t tail) {
    for (uint32_t k = 0; k < stages; k++) {
        const fos_stage *s = &w->stages[k];
        if (s->head > s->at.off) return 1;
        if (s->at.off > tail) return 2;
        if (head < tail && s->at.off < head) return 3;
        if (s->at.off > s->head && fos_at_before(fos_stage_limit(w, k, tail, 0), s->at)) return 4;
        if (fos_edits_check(&s->out)) return 5;
    }
    return fos_edits_check(&w->sent) ? 6 : 0;
}

/* The edits that the merger applies: the last writer's, or NULL. */
FOS_INLINE fos_edits *fos_way_edits(const fos_way *w, uint32_t stages) {
    while (stages--)
        if (w->stages[stages].flags & FOS_STAGE_WRITES) return &w->stages[stages].out;
    return NULL;
}

/* Forget, in the stages before the last writer, the edits of bytes that left. */
static void fos_way_forget(fos_way *w, uint32_t stages, fos_blocks *blocks, const fos_edits *last) {
    for (uint32_t k = 0; k < stages; k++) {
        fos_edits *e = &w->stages[k].out;
        if (e == last) continue;
        /* Below every position: a later stage may still stand inside what was inserted at its head. */
        fos_edits_forget(e, blocks, w->gone);
    }
}

#endif
