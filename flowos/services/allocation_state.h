/* The state of an allocation: where each node lies, what that loads, and how far it is too much.
 *
 *   node ── spot ── attach            a spot is a server or, behind the servers, an I/O switch;
 *                                     its attach point is its ToR switch, or itself
 *   edge a → b, on different spots:   up[a] ── route between the attach points ── down[b]
 *   edge a → b, on one server:        inner[a]
 *
 * All loads are kept up to date by `fos_place` and `fos_clear`, with the four violations beside them,
 * so that a move costs what its own edges and paths cost and nothing else.  A search tries a move by
 * making it and taking it back.
 *
 * allocation_state.pyx owns the memory and fills it; the searches (allocation_tabu.pyx,
 * allocation_packing.pyx) change it only through the functions below.  The score of a state is
 *   cpu/0.01 core + memory/MB + bandwidth/(Mbit/s) + delay,  times FOS_UNIT to stay whole.
 */
#ifndef FOS_ALLOCATION_STATE_H
#define FOS_ALLOCATION_STATE_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define FOS_UNIT 1000000            /* bits per second in a Mbit/s */
#define FOS_ROUTES 16               /* least-delay paths kept between two attach points */

/* Written by allocation_state.pyx when it is made, and then by nobody, if not said otherwise. */
typedef struct fos_allocation {
    int32_t servers, spots, nodes, edges, services, paths, links, attaches, switches;
    /* spots */
    const int32_t *cpu_cap, *memory_cap;            /* per server */
    const int32_t *attach, *up, *down, *out_delay, *in_delay;     /* per spot; up, down -1 at I/O */
    const int32_t *inner, *inner_delay;             /* per server */
    const int32_t *rack_first, *rack_server;        /* servers by attach point */
    /* links and the graph of switches */
    const int64_t *cap;
    const int32_t *switch_first, *switch_to, *switch_link, *switch_delay;  /* links out of a switch */
    const uint8_t *transit;                         /* 0: an I/O switch, which no path passes through */
    const int32_t *attach_switch, *distance;        /* distance[switch * attaches + attach], -1: none */
    /* services: nodes, edges and paths of service s are [first[s], first[s + 1]) */
    const int32_t *node_first, *edge_first, *path_first;
    const int32_t *node_service, *cpu, *memory;     /* cpu and memory are 0 at sources and sinks */
    const uint8_t *kind;                            /* 0 source, 1 module, 2 sink */
    const int32_t *choice_first, *choice;           /* the spots a source or sink may lie on */
    const int32_t *touch_first, *touch;             /* edges of a node */
    const int32_t *tail, *head, *least;             /* least: delay that the edge has at least */
    const int64_t *traffic;
    const int32_t *hop_first, *hop;                 /* edges of a path */
    int32_t *bound;                                 /* of a path; the packer tightens it for a while */
    /* what moves: written by fos_place and fos_clear only */
    int32_t *spot;                                  /* per node, -1: nowhere */
    int32_t *cpu_used, *memory_used;                /* per server */
    int32_t *member, *member_next, *member_prev;    /* modules of a server */
    int64_t *load;                                  /* per link */
    int32_t *delay;                                 /* per path: hops that lie, least of those that do not */
    int64_t cpu_over, memory_over, bandwidth_over, delay_over;
    /* routes: filled on demand by fos_routes */
    int32_t *route;                                 /* attaches x attaches: place in pool, 0: not asked yet */
    int32_t *pool;                                  /* count, then per path: length, links */
    int64_t pool_size, pool_room;
    /* routes other than the hashed one, by (from, to); written by fos_reroute */
    uint64_t *other_key;
    uint8_t *other;
    uint32_t others, other_room;                    /* room is a power of two */
    uint64_t seed;                                  /* of fos_random */
    int32_t failed;                                 /* out of memory somewhere: the owner raises */
} fos_allocation;

static inline uint64_t fos_mix(uint64_t x)          /* the finaliser of MurmurHash3 */
{
    x ^= x >> 33; x *= 0xff51afd7ed558ccdULL;
    x ^= x >> 33; x *= 0xc4ceb9fe1a85ec53ULL;
    return x ^ x >> 33;
}

static inline uint32_t fos_random(fos_allocation *s, uint32_t below)      /* splitmix64 */
{
    s->seed += 0x9e3779b97f4a7c15ULL;
    return (uint32_t)((fos_mix(s->seed) >> 32) * below >> 32);
}

static inline int64_t fos_score(const fos_allocation *s)
{
    return (s->cpu_over + s->memory_over + s->delay_over) * FOS_UNIT + s->bandwidth_over;
}

static inline int64_t fos_excess(int64_t used, int64_t room)
{
    return used > room ? used - room : 0;
}

/* The delay from one spot to another, on any of their routes: all are least-delay paths. */
static inline int32_t fos_hop_delay(const fos_allocation *s, int32_t from, int32_t to)
{
    if (from == to)
        return s->inner_delay[from];
    return s->out_delay[from] + s->in_delay[to]
        + s->distance[(int64_t)s->attach_switch[s->attach[from]] * s->attaches + s->attach[to]];
}

static inline int fos_reaches(const fos_allocation *s, int32_t from, int32_t to)
{
    return from == to || s->distance[(int64_t)s->attach_switch[s->attach[from]] * s->attaches + s->attach[to]] >= 0;
}

static inline int fos_pool_put(fos_allocation *s, int32_t value)
{
    if (s->pool_size == s->pool_room) {
        int64_t room = s->pool_room ? s->pool_room * 2 : 4096;
        int32_t *pool = (int32_t *)realloc(s->pool, room * sizeof *pool);
        if (!pool || room > INT32_MAX) {
            s->failed = 1;
            if (pool) s->pool = pool;
            return -1;
        }
        s->pool = pool;
        s->pool_room = room;
    }
    s->pool[s->pool_size++] = value;
    return 0;
}

#define FOS_DEPTH 64                /* switches on a path */

/* Give the least-delay paths between two attach points: a place in the pool; negative without memory.
 * Depth first along links that keep to the distance; which links come first is hashed, so that the
 * FOS_ROUTES that are kept share as few links as possible. */
static int32_t fos_routes(fos_allocation *s, int32_t from, int32_t to)
{
    int32_t *known = &s->route[(int64_t)from * s->attaches + to];
    if (*known)
        return *known;
    int32_t start = s->attach_switch[from], goal = s->attach_switch[to];
    int64_t place = s->pool_size;
    if (place == 0) {                               /* place 0 means "not asked yet" */
        fos_pool_put(s, 0);
        place = 1;
    }
    if (fos_pool_put(s, 0))
        return -1;
    int32_t at[FOS_DEPTH], tried[FOS_DEPTH], by[FOS_DEPTH], depth = 0, count = 0;
    uint32_t turn = (uint32_t)fos_mix(((uint64_t)from << 32 | (uint32_t)to) + 1);
    at[0] = start; tried[0] = 0;
    while (depth >= 0 && count < FOS_ROUTES) {
        int32_t here = at[depth];
        if (here == goal) {
            fos_pool_put(s, depth);
            for (int32_t i = 0; i < depth; i++)
                fos_pool_put(s, by[i]);
            if (s->failed)
                return -1;
            count++;
            depth--;
            continue;
        }
        int32_t first = s->switch_first[here], degree = s->switch_first[here + 1] - first;
        int32_t left = s->distance[(int64_t)here * s->attaches + to], found = 0;
        while (tried[depth] < degree && depth + 1 < FOS_DEPTH) {
            int32_t k = first + (int32_t)((turn + (uint32_t)tried[depth]) % (uint32_t)degree);
            tried[depth]++;
            int32_t next = s->switch_to[k], rest = s->distance[(int64_t)next * s->attaches + to], seen = 0;
            if (rest < 0 || s->switch_delay[k] + rest != left || (!s->transit[next] && next != goal))
                continue;
            for (int32_t i = 0; i <= depth; i++)    /* links of no delay could lead in a circle */
                seen |= at[i] == next;
            if (seen)
                continue;
            by[depth] = s->switch_link[k];
            at[++depth] = next;
            tried[depth] = 0;
            found = 1;
            break;
        }
        if (!found)
            depth--;
    }
    s->pool[place] = count;
    *known = (int32_t)place;
    return *known;
}

/* Give the number of the route between two spots: the hashed one, or what fos_reroute set. */
static inline int32_t fos_choice(const fos_allocation *s, int32_t from, int32_t to, int32_t count)
{
    uint64_t key = ((uint64_t)(uint32_t)from << 32 | (uint32_t)to) + 1, hash = fos_mix(key);
    for (uint64_t i = hash; s->others; i++) {
        uint64_t found = s->other_key[i & (s->other_room - 1)];
        if (!found)
            break;
        if (found == key)
            return s->other[i & (s->other_room - 1)];
    }
    return (int32_t)((hash >> 32) % (uint32_t)count);
}

/* Give the links of the route from one spot to another, between their attach points; NULL: none. */
static inline const int32_t *fos_route(fos_allocation *s, int32_t from, int32_t to, int32_t *length)
{
    *length = 0;
    if (s->attach[from] == s->attach[to])
        return NULL;
    int32_t place = fos_routes(s, s->attach[from], s->attach[to]);
    if (place < 0 || s->pool[place] == 0)
        return NULL;
    int32_t choice = fos_choice(s, from, to, s->pool[place]);
    const int32_t *path = s->pool + place + 1;
    while (choice--)
        path += 1 + *path;
    *length = *path;
    return path + 1;
}

static inline void fos_load_link(fos_allocation *s, int32_t link, int64_t by)
{
    int64_t room = s->cap[link], before = s->load[link];
    s->load[link] = before + by;
    s->bandwidth_over += fos_excess(before + by, room) - fos_excess(before, room);
}

/* Load (by > 0) or unload the links of an edge between two spots. */
static inline void fos_load_hop(fos_allocation *s, int32_t from, int32_t to, int64_t by)
{
    if (from == to) {
        fos_load_link(s, s->inner[from], by);
        return;
    }
    if (s->up[from] >= 0)
        fos_load_link(s, s->up[from], by);
    if (s->down[to] >= 0)
        fos_load_link(s, s->down[to], by);
    int32_t length;
    const int32_t *route = fos_route(s, from, to, &length);
    for (int32_t i = 0; i < length; i++)
        fos_load_link(s, route[i], by);
}

static inline void fos_load_edges(fos_allocation *s, int32_t node, int sign)
{
    for (int32_t i = s->touch_first[node]; i < s->touch_first[node + 1]; i++) {
        int32_t edge = s->touch[i], from = s->spot[s->tail[edge]], to = s->spot[s->head[edge]];
        if (from >= 0 && to >= 0)
            fos_load_hop(s, from, to, sign * s->traffic[edge]);
    }
}

/* Compute the delays of a service's paths anew. */
static inline void fos_time_paths(fos_allocation *s, int32_t service)
{
    for (int32_t p = s->path_first[service]; p < s->path_first[service + 1]; p++) {
        int32_t sum = 0;
        for (int32_t i = s->hop_first[p]; i < s->hop_first[p + 1]; i++) {
            int32_t edge = s->hop[i], from = s->spot[s->tail[edge]], to = s->spot[s->head[edge]];
            sum += from >= 0 && to >= 0 ? fos_hop_delay(s, from, to) : s->least[edge];
        }
        s->delay_over += fos_excess(sum, s->bound[p]) - fos_excess(s->delay[p], s->bound[p]);
        s->delay[p] = sum;
    }
}

static inline void fos_set_bound(fos_allocation *s, int32_t path, int32_t bound)
{
    s->delay_over += fos_excess(s->delay[path], bound) - fos_excess(s->delay[path], s->bound[path]);
    s->bound[path] = bound;
}

/* Say whether a node may lie on a spot, as far as routes go: each neighbour that lies must be reachable. */
static inline int fos_connects(const fos_allocation *s, int32_t node, int32_t spot)
{
    for (int32_t i = s->touch_first[node]; i < s->touch_first[node + 1]; i++) {
        int32_t edge = s->touch[i], from = s->tail[edge] == node ? spot : s->spot[s->tail[edge]];
        int32_t to = s->head[edge] == node ? spot : s->spot[s->head[edge]];
        if (from >= 0 && to >= 0 && !fos_reaches(s, from, to))
            return 0;
    }
    return 1;
}

/* Put a node that lies nowhere on a spot. */
static inline void fos_place(fos_allocation *s, int32_t node, int32_t spot)
{
    s->spot[node] = spot;
    if (s->kind[node] == 1) {
        int32_t cpu = s->cpu_used[spot], memory = s->memory_used[spot], next = s->member[spot];
        s->cpu_used[spot] = cpu + s->cpu[node];
        s->memory_used[spot] = memory + s->memory[node];
        s->cpu_over += fos_excess(s->cpu_used[spot], s->cpu_cap[spot]) - fos_excess(cpu, s->cpu_cap[spot]);
        s->memory_over += fos_excess(s->memory_used[spot], s->memory_cap[spot]) - fos_excess(memory, s->memory_cap[spot]);
        s->member_next[node] = next;
        s->member_prev[node] = -1;
        if (next >= 0)
            s->member_prev[next] = node;
        s->member[spot] = node;
    }
    fos_load_edges(s, node, 1);
    fos_time_paths(s, s->node_service[node]);
}

/* Take a node away from where it lies. */
static inline void fos_clear(fos_allocation *s, int32_t node)
{
    int32_t spot = s->spot[node];
    fos_load_edges(s, node, -1);
    s->spot[node] = -1;
    if (s->kind[node] == 1) {
        int32_t cpu = s->cpu_used[spot], memory = s->memory_used[spot];
        int32_t next = s->member_next[node], prev = s->member_prev[node];
        s->cpu_used[spot] = cpu - s->cpu[node];
        s->memory_used[spot] = memory - s->memory[node];
        s->cpu_over += fos_excess(s->cpu_used[spot], s->cpu_cap[spot]) - fos_excess(cpu, s->cpu_cap[spot]);
        s->memory_over += fos_excess(s->memory_used[spot], s->memory_cap[spot]) - fos_excess(memory, s->memory_cap[spot]);
        if (next >= 0)
            s->member_prev[next] = prev;
        if (prev >= 0)
            s->member_next[prev] = next;
        else
            s->member[spot] = next;
    }
    fos_time_paths(s, s->node_service[node]);
}

/* Load or unload all edges that lie between two spots, in this direction. */
static inline void fos_load_pair(fos_allocation *s, int32_t from, int32_t to, int sign)
{
    int32_t server = from < s->servers ? from : to;         /* one of the two is always a server */
    for (int32_t node = s->member[server]; node >= 0; node = s->member_next[node])
        for (int32_t i = s->touch_first[node]; i < s->touch_first[node + 1]; i++) {
            int32_t edge = s->touch[i];
            if (s->spot[s->tail[edge]] == from && s->spot[s->head[edge]] == to)
                fos_load_hop(s, from, to, sign * s->traffic[edge]);
        }
}

/* Say that what flows from one spot to another takes route `choice`; 0, or -1 without memory. */
static int fos_reroute(fos_allocation *s, int32_t from, int32_t to, int32_t choice)
{
    if (s->others * 2 >= s->other_room) {
        uint32_t room = s->other_room ? s->other_room * 2 : 64;
        uint64_t *keys = (uint64_t *)calloc(room, sizeof *keys);
        uint8_t *values = (uint8_t *)calloc(room, 1);
        if (!keys || !values) {
            free(keys);
            free(values);
            s->failed = 1;
            return -1;
        }
        for (uint32_t i = 0; i < s->other_room; i++)
            if (s->other_key[i]) {
                uint64_t at = fos_mix(s->other_key[i]);
                while (keys[at & (room - 1)])
                    at++;
                keys[at & (room - 1)] = s->other_key[i];
                values[at & (room - 1)] = s->other[i];
            }
        free(s->other_key);
        free(s->other);
        s->other_key = keys;
        s->other = values;
        s->other_room = room;
    }
    fos_load_pair(s, from, to, -1);
    uint64_t key = ((uint64_t)(uint32_t)from << 32 | (uint32_t)to) + 1, at = fos_mix(key);
    while (s->other_key[at & (s->other_room - 1)] && s->other_key[at & (s->other_room - 1)] != key)
        at++;
    s->others += !s->other_key[at & (s->other_room - 1)];
    s->other_key[at & (s->other_room - 1)] = key;
    s->other[at & (s->other_room - 1)] = (uint8_t)choice;
    fos_load_pair(s, from, to, 1);
    return 0;
}

#endif
