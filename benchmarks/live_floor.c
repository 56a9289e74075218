/* The least that moves packets through AF_XDP, in C: the line that live_ports.py counts from.
 *
 *     live_floor rx IFACE BATCH SECONDS [TALLY] | tx IFACE BATCH SECONDS [TALLY [SIZE]] | forward IN OUT BATCH SECONDS
 *         | stream IFACE BATCH SECONDS TALLY | both ONE OTHER BATCH SECONDS
 *
 * forward goes one way, both goes both ways.
 * tx sends UDP frames of 64 flows, of 60 bytes or of SIZE; stream 60-byte segments of 64 TCP connections, in order, each begun with a SYN.
 * TALLY, if it is not "-", is a file of eight bytes in which rx counts what it received: tx and stream then have at most FLIGHT frames on
 * their way, so that a path is kept busy and nothing is lost; what is lost all the same is written off after a while.
 *
 * One queue, copy mode, poll when there is nothing, one UMEM; no check of any kind, no counters, no time stamps.
 * It prints one line of JSON: packets and the CPU seconds of the loop.  Interrupted (SIGINT), it ends early.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <linux/if_xdp.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { RING = 1024, FRAMES = 4 * RING, CHUNK = 2048, XDP = 283, FLIGHT = 512, FLOWS = 64 };

struct ring { uint32_t *made, *taken; void *items; };
struct port { int fd; struct ring rx, tx, fill, done; };

static uint8_t *area;
static volatile sig_atomic_t stopping;

static void stop(int unused) { (void)unused; stopping = 1; }

static void must(int ok, const char *what) {
    if (ok) return;
    perror(what);
    exit(1);
}

static void map_ring(struct ring *r, int fd, off_t page, const struct xdp_ring_offset *at, size_t size) {
    uint8_t *p = mmap(NULL, at->desc + RING * size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, page);
    must(p != MAP_FAILED, "mmap");
    r->made = (uint32_t *)(p + at->producer);
    r->taken = (uint32_t *)(p + at->consumer);
    r->items = p + at->desc;
}

/* Attach the program and open the socket; `shared` is the port whose UMEM this one shares. */
static void open_port(struct port *p, const char *name, const struct port *shared) {
    union bpf_attr a;
    int map, program, n = RING, budget = 256, zero = 0;
    struct xdp_mmap_offsets at;
    socklen_t size = sizeof at;
    must((p->fd = socket(44, SOCK_RAW, 0)) >= 0, "socket");
    if (!shared) {
        struct { uint64_t addr, len; uint32_t chunk, headroom, flags, metadata; } reg = {
            .addr = (uint64_t)(uintptr_t)area, .len = (uint64_t)FRAMES * CHUNK, .chunk = CHUNK};
        must(!setsockopt(p->fd, XDP, XDP_UMEM_REG, &reg, sizeof reg), "umem");
    }
    int kinds[] = {XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING, XDP_RX_RING, XDP_TX_RING};
    for (int i = 0; i < 4; i++) must(!setsockopt(p->fd, XDP, kinds[i], &n, sizeof n), "ring");
    setsockopt(p->fd, XDP, 9, &budget, sizeof budget);        /* XDP_MAX_TX_SKB_BUDGET */
    must(!getsockopt(p->fd, XDP, XDP_MMAP_OFFSETS, &at, &size), "offsets");
    map_ring(&p->fill, p->fd, (off_t)XDP_UMEM_PGOFF_FILL_RING, &at.fr, 8);
    map_ring(&p->done, p->fd, (off_t)XDP_UMEM_PGOFF_COMPLETION_RING, &at.cr, 8);
    map_ring(&p->rx, p->fd, XDP_PGOFF_RX_RING, &at.rx, 16);
    map_ring(&p->tx, p->fd, XDP_PGOFF_TX_RING, &at.tx, 16);
    struct sockaddr_xdp to = {.sxdp_family = 44, .sxdp_ifindex = if_nametoindex(name),
                              .sxdp_flags = shared ? XDP_SHARED_UMEM : XDP_COPY | XDP_USE_NEED_WAKEUP,
                              .sxdp_shared_umem_fd = shared ? (uint32_t)shared->fd : 0};
    for (int i = 0; bind(p->fd, (struct sockaddr *)&to, sizeof to); i++) {
        must(errno == EBUSY && i < 100, "bind");
        usleep(10000);
    }
    memset(&a, 0, sizeof a);
    a.map_type = BPF_MAP_TYPE_XSKMAP;
    a.key_size = a.value_size = 4;
    a.max_entries = 1;
    must((map = (int)syscall(SYS_bpf, BPF_MAP_CREATE, &a, sizeof a)) >= 0, "map");
    struct bpf_insn code[] = {
        {.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = 2, .src_reg = 1, .off = 16},
        {.code = BPF_LD | BPF_DW | BPF_IMM, .dst_reg = 1, .src_reg = BPF_PSEUDO_MAP_FD, .imm = map}, {0},
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 3, .imm = XDP_PASS},
        {.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_redirect_map}, {.code = BPF_JMP | BPF_EXIT}};
    memset(&a, 0, sizeof a);
    a.prog_type = BPF_PROG_TYPE_XDP;
    a.insns = (uint64_t)(uintptr_t)code;
    a.insn_cnt = 6;
    a.license = (uint64_t)(uintptr_t)"GPL";
    must((program = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &a, sizeof a)) >= 0, "program");
    memset(&a, 0, sizeof a);
    a.link_create.prog_fd = (uint32_t)program;
    a.link_create.target_ifindex = to.sxdp_ifindex;
    a.link_create.attach_type = BPF_XDP;
    must(syscall(SYS_bpf, BPF_LINK_CREATE, &a, sizeof a) >= 0, "link");
    memset(&a, 0, sizeof a);
    a.map_fd = (uint32_t)map;
    a.key = (uint64_t)(uintptr_t)&zero;
    a.value = (uint64_t)(uintptr_t)&p->fd;
    must(!syscall(SYS_bpf, BPF_MAP_UPDATE_ELEM, &a, sizeof a), "lead");
}

static uint32_t ready(const struct ring *r) { return __atomic_load_n(r->made, __ATOMIC_ACQUIRE) - *r->taken; }

static void give(struct port *p, uint64_t address, uint32_t i) {
    ((uint64_t *)p->fill.items)[(*p->fill.made + i) & (RING - 1)] = address & ~(uint64_t)(CHUNK - 1);
}

static void publish(uint32_t *made, uint32_t n) { __atomic_store_n(made, *made + n, __ATOMIC_RELEASE); }

static void kick(struct port *p) {
    for (uint32_t last; *p->tx.made != (last = __atomic_load_n(p->tx.taken, __ATOMIC_ACQUIRE));) {
        sendto(p->fd, NULL, 0, MSG_DONTWAIT, NULL, 0);
        if (last == __atomic_load_n(p->tx.taken, __ATOMIC_ACQUIRE)) return;
    }
}

static double seconds(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Move what came in by one port, at most a batch, to the other, and what that has sent back to the first; gives how many. */
static uint32_t forward(struct port *from, struct port *to, uint32_t batch) {
    uint32_t n = ready(&from->rx), sent;
    if (n > batch) n = batch;
    if (n == 0) return 0;
    for (uint32_t i = 0; i < n; i++) {
        struct xdp_desc *d = (struct xdp_desc *)from->rx.items + ((*from->rx.taken + i) & (RING - 1));
        ((struct xdp_desc *)to->tx.items)[(*to->tx.made + i) & (RING - 1)] = (struct xdp_desc){.addr = d->addr, .len = d->len};
    }
    __atomic_store_n(from->rx.taken, *from->rx.taken + n, __ATOMIC_RELEASE);
    publish(to->tx.made, n);
    kick(to);
    sent = ready(&to->done);
    for (uint32_t i = 0; i < sent; i++) give(from, ((uint64_t *)to->done.items)[(*to->done.taken + i) & (RING - 1)], i);
    __atomic_store_n(to->done.taken, *to->done.taken + sent, __ATOMIC_RELEASE);
    publish(from->fill.made, sent);
    return n;
}

/* The eight bytes that sink and source share. */
static uint64_t *open_tally(const char *path) {
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    must(fd >= 0 && !ftruncate(fd, 8), path);
    uint64_t *tally = mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    must(tally != MAP_FAILED, path);
    return tally;
}

/* Make the next segment in place: of FLOWS connections in turn, first a SYN of each, then six bytes of each. */
static void fill_segment(uint8_t *p, uint64_t number) {
    static const uint8_t head[60] = {2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 46, 0, 0, 0x40, 0, 64, 6, 0x26, 0xc8,
                                     10, 0, 0, 1, 10, 0, 0, 2, 0, 0, 0, 80, 0, 0, 0, 0, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff};
    uint32_t port = 1024 + number % FLOWS, turn = (uint32_t)(number / FLOWS), seq = turn ? 1 + 6 * (turn - 1) : 0;
    memcpy(p, head, sizeof head);
    p[34] = (uint8_t)(port >> 8), p[35] = (uint8_t)port;
    for (int i = 0; i < 4; i++) p[38 + i] = (uint8_t)(seq >> (24 - 8 * i));
    if (!turn) p[47] = 2;
    uint32_t sum = 6 + 26;                                     /* the pseudo-header's protocol and length */
    for (int i = 26; i < 60; i += 2) sum += (uint32_t)(p[i] << 8 | p[i + 1]);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = ~((sum & 0xffff) + (sum >> 16));
    p[50] = (uint8_t)(sum >> 8), p[51] = (uint8_t)sum;
}

/* How many frames may be sent now: what the sink has received makes room, and silence of 20 ms writes off what is on its way. */
static uint32_t credit(const uint64_t *tally, uint64_t sent) {
    static uint64_t lost, last;
    static double since;
    uint64_t received = __atomic_load_n(tally, __ATOMIC_ACQUIRE);
    double now = seconds(CLOCK_MONOTONIC);
    if (received != last || sent == received + lost) last = received, since = now;
    else if (now - since > 0.02) lost = sent - received;
    uint64_t away = sent - received - lost;
    return away < FLIGHT ? (uint32_t)(FLIGHT - away) : 0;
}

int main(int argc, char **argv) {
    must(argc >= 5, "arguments");
    int both = !strcmp(argv[1], "both"), forwards = both || !strcmp(argv[1], "forward"), streams = !strcmp(argv[1], "stream"), sends = streams || !strcmp(argv[1], "tx");
    uint64_t *tally = !forwards && argc > 5 && strcmp(argv[5], "-") ? open_tally(argv[5]) : NULL;
    uint32_t size = sends && !streams && argc > 6 ? (uint32_t)atoi(argv[6]) : 60;
    uint32_t batch = (uint32_t)atoi(argv[3 + forwards]);
    double end = atof(argv[4 + forwards]);
    struct port in, out;
    uint64_t packets = 0, *spare = malloc(FRAMES * sizeof *spare);
    uint32_t spares = 0;
    area = mmap(NULL, (size_t)FRAMES * CHUNK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    open_port(&in, argv[2], NULL);
    if (forwards) open_port(&out, argv[3], &in);
    for (uint32_t i = 0; i < RING; i++) give(&in, (uint64_t)i * CHUNK, i);
    publish(in.fill.made, RING);
    for (uint32_t i = 0; both && i < RING; i++) give(&out, (uint64_t)(i + RING) * CHUNK, i);
    if (both) publish(out.fill.made, RING);
    for (uint32_t i = RING; sends && i < 2 * RING; i++) {
        /* UDP from 10.0.0.1 to 10.0.0.2, 64 source ports in turn, no UDP checksum */
        static const uint8_t head[42] = {2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0x66, 0xbd,
                                         10, 0, 0, 1, 10, 0, 0, 2, 4, 0, 0, 9, 0, 26};
        memcpy(area + (size_t)i * CHUNK, head, sizeof head);
        uint8_t *p = area + (size_t)i * CHUNK;
        uint32_t sum = 0;
        p[16] = (uint8_t)((size - 14) >> 8), p[17] = (uint8_t)(size - 14);
        p[38] = (uint8_t)((size - 34) >> 8), p[39] = (uint8_t)(size - 34);
        p[24] = p[25] = 0;
        for (int j = 14; j < 34; j += 2) sum += (uint32_t)(p[j] << 8 | p[j + 1]);
        sum = ~((sum & 0xffff) + (sum >> 16));
        p[24] = (uint8_t)(sum >> 8), p[25] = (uint8_t)sum;
        p[35] = (uint8_t)(i & 63);
        spare[spares++] = (uint64_t)i * CHUNK;
    }
    signal(SIGINT, stop);
    printf("ready\n");
    fflush(stdout);
    end += seconds(CLOCK_MONOTONIC);
    double cpu = seconds(CLOCK_PROCESS_CPUTIME_ID);
    while (!stopping && seconds(CLOCK_MONOTONIC) < end) {
        uint32_t n;
        if (sends) {
            n = ready(&in.done);
            for (uint32_t i = 0; i < n; i++) spare[spares++] = ((uint64_t *)in.done.items)[(*in.done.taken + i) & (RING - 1)];
            __atomic_store_n(in.done.taken, *in.done.taken + n, __ATOMIC_RELEASE);
            n = spares < batch ? spares : batch;
            if (tally && credit(tally, packets) < n) {
                sched_yield();
                continue;
            }
            for (uint32_t i = 0; streams && i < n; i++) fill_segment(area + spare[spares - 1 - i], packets + i);
            for (uint32_t i = 0; i < n; i++)
                ((struct xdp_desc *)in.tx.items)[(*in.tx.made + i) & (RING - 1)] = (struct xdp_desc){.addr = spare[--spares], .len = size};
            publish(in.tx.made, n);
            packets += n;
            kick(&in);
            continue;
        }
        if (forwards) {
            struct pollfd wait[2] = {{.fd = in.fd, .events = POLLIN}, {.fd = out.fd, .events = POLLIN}};
            n = forward(&in, &out, batch);
            if (both) n += forward(&out, &in, batch);
            packets += n;
            if (n == 0) poll(wait, 1 + (nfds_t)both, 100);
            continue;
        }
        n = ready(&in.rx);
        if (n > batch) n = batch;
        if (n == 0) {
            struct pollfd wait = {.fd = in.fd, .events = POLLIN};
            poll(&wait, 1, 100);
            continue;
        }
        for (uint32_t i = 0; i < n; i++) give(&in, ((struct xdp_desc *)in.rx.items)[(*in.rx.taken + i) & (RING - 1)].addr, i);
        __atomic_store_n(in.rx.taken, *in.rx.taken + n, __ATOMIC_RELEASE);
        publish(in.fill.made, n);
        packets += n;
        if (tally) __atomic_fetch_add(tally, n, __ATOMIC_RELEASE);
    }
    printf("{\"packets\": %llu, \"cpu\": %.6f}\n", (unsigned long long)packets, seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu);
    return 0;
}
