/* The XDP program that leads an interface's frames to AF_XDP sockets: by bpf(2) alone, with no library.
 *
 *     frame on queue q ──► sockets[q] if a socket is there, else on to the host's own stack (XDP_PASS)
 *
 * The program hangs on a link (BPF_LINK_CREATE, Linux 5.9): the kernel takes it off when the last
 * process that holds the link is gone, however it went.  Another process may join: it finds the link by
 * the program on the interface, and puts its own sockets into the same map.  The program needs no BTF and no
 * compiler; constants newer than the oldest headers built with are spelt out.
 */
#ifndef FOS_XDPPROGRAM_H
#define FOS_XDPPROGRAM_H

#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base.h"

#define FOS_XDP_NAME "flowos_xsk"

enum { FOS_XDP_QUEUES = 256 };            /* sockets in a map */

typedef struct fos_xdp_program {
    int map, link;                        /* file descriptors; -1: none */
} fos_xdp_program;

static int fos_bpf(int command, union bpf_attr *attr) { return (int)syscall(SYS_bpf, command, attr, sizeof *attr); }

static int fos_bpf_map(void) {
    union bpf_attr a;
    memset(&a, 0, sizeof a);
    a.map_type = BPF_MAP_TYPE_XSKMAP;
    a.key_size = a.value_size = 4;
    a.max_entries = FOS_XDP_QUEUES;
    memcpy(a.map_name, FOS_XDP_NAME, sizeof FOS_XDP_NAME);
    return fos_bpf(BPF_MAP_CREATE, &a);
}

static int fos_bpf_load(int map) {
    struct bpf_insn code[] = {
        {.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = 2, .src_reg = 1, .off = 16},     /* xdp_md.rx_queue_index */
        {.code = BPF_LD | BPF_DW | BPF_IMM, .dst_reg = 1, .src_reg = BPF_PSEUDO_MAP_FD, .imm = map}, {0},
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 3, .imm = XDP_PASS},           /* where no socket is */
        {.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_redirect_map},
        {.code = BPF_JMP | BPF_EXIT},
    };
    union bpf_attr a;
    memset(&a, 0, sizeof a);
    a.prog_type = BPF_PROG_TYPE_XDP;
    a.insns = (uint64_t)(uintptr_t)code;
    a.insn_cnt = sizeof code / sizeof code[0];
    a.license = (uint64_t)(uintptr_t)"Dual BSD/GPL";
    memcpy(a.prog_name, FOS_XDP_NAME, sizeof FOS_XDP_NAME);
    return fos_bpf(BPF_PROG_LOAD, &a);
}

/* Make a map and a program and attach it, `flags` being XDP_FLAGS_DRV_MODE or XDP_FLAGS_SKB_MODE.  0, or -1 with errno. */
static int fos_xdp_attach(fos_xdp_program *x, int ifindex, uint32_t flags) {
    union bpf_attr a;
    int program = -1, error;
    x->link = -1;
    if ((x->map = fos_bpf_map()) < 0) return -1;
    if ((program = fos_bpf_load(x->map)) >= 0) {
        memset(&a, 0, sizeof a);
        a.link_create.prog_fd = (uint32_t)program;
        a.link_create.target_ifindex = (uint32_t)ifindex;
        a.link_create.attach_type = BPF_XDP;
        a.link_create.flags = flags;
        x->link = fos_bpf(BPF_LINK_CREATE, &a);
    }
    error = errno;
    if (program >= 0) close(program);         /* the link holds it */
    if (x->link < 0) {
        close(x->map);
        x->map = -1;
        errno = error;
        return -1;
    }
    return 0;
}

static int fos_bpf_info(int fd, void *info, uint32_t size) {
    union bpf_attr a;
    memset(&a, 0, sizeof a);
    a.info.bpf_fd = (uint32_t)fd;
    a.info.info = (uint64_t)(uintptr_t)info;
    a.info.info_len = size;
    return fos_bpf(BPF_OBJ_GET_INFO_BY_FD, &a);
}

static int fos_bpf_open(int command, uint32_t id) {
    union bpf_attr a;
    memset(&a, 0, sizeof a);
    a.prog_id = id;                           /* of a union: the identifier of whatever the command opens */
    return fos_bpf(command, &a);
}

/* The map of a program of ours: its descriptor, or -1 when the program is another's (EBUSY) or there is no right to it. */
static int fos_xdp_map_of(uint32_t program_id) {
    struct bpf_prog_info info;
    uint32_t map = 0;
    int fd = fos_bpf_open(BPF_PROG_GET_FD_BY_ID, program_id), error;
    if (fd < 0) return -1;
    memset(&info, 0, sizeof info);
    info.nr_map_ids = 1;
    info.map_ids = (uint64_t)(uintptr_t)&map;
    error = fos_bpf_info(fd, &info, sizeof info) ? errno : strcmp(info.name, FOS_XDP_NAME) || info.nr_map_ids != 1 ? EBUSY : 0;
    close(fd);
    if (error) {
        errno = error;
        return -1;
    }
    return fos_bpf_open(BPF_MAP_GET_FD_BY_ID, map);
}

/* Join the program that another socket of ours put on an interface.  0, or -1 with errno: EBUSY, it is not ours. */
static int fos_xdp_join(fos_xdp_program *x, uint32_t program_id) {
    union bpf_attr a;
    uint32_t id = 0;
    x->link = -1;
    if ((x->map = fos_xdp_map_of(program_id)) < 0) return -1;
    for (;;) {
        struct bpf_link_info info;
        memset(&a, 0, sizeof a);
        a.start_id = id;
        if (fos_bpf(BPF_LINK_GET_NEXT_ID, &a)) break;
        id = a.next_id;
        int fd = fos_bpf_open(BPF_LINK_GET_FD_BY_ID, id);
        if (fd < 0) continue;
        memset(&info, 0, sizeof info);
        if (fos_bpf_info(fd, &info, sizeof info) == 0 && info.type == BPF_LINK_TYPE_XDP && info.prog_id == program_id) {
            x->link = fd;
            return 0;
        }
        close(fd);
    }
    close(x->map);
    x->map = -1;
    errno = EBUSY;
    return -1;
}

/* Lead queue `queue` to a socket. */
static int fos_xdp_lead(const fos_xdp_program *x, uint32_t queue, int socket) {
    union bpf_attr a;
    uint32_t value = (uint32_t)socket;
    memset(&a, 0, sizeof a);
    a.map_fd = (uint32_t)x->map;
    a.key = (uint64_t)(uintptr_t)&queue;
    a.value = (uint64_t)(uintptr_t)&value;
    return fos_bpf(BPF_MAP_UPDATE_ELEM, &a);
}

static void fos_xdp_detach(fos_xdp_program *x) {
    if (x->map >= 0) close(x->map);
    if (x->link >= 0) close(x->link);
    x->map = x->link = -1;
}

#endif
