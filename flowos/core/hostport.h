/* Leading frames from one interface to another: a program of four instructions on a tcx link.
 *
 * The link goes with the last process that holds it, however that ends (Linux 6.6).
 */
#ifndef FOS_HOSTPORT_H
#define FOS_HOSTPORT_H

#include "xdpprogram.h"

enum { FOS_TCX_INGRESS = 46, FOS_TCX_EGRESS = 47 };   /* enum bpf_attach_type; newer than the oldest headers built with */

/* Lead what passes `from`, at this hook, to interface `to`: as if it had come in there, or out by it.
 * Returns the descriptor of the link, or -1 with errno. */
static int fos_lead_frames(int from, int hook, int to, int as_received) {
    struct bpf_insn code[] = {
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 1, .imm = to},
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 2, .imm = as_received ? BPF_F_INGRESS : 0},
        {.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_redirect},
        {.code = BPF_JMP | BPF_EXIT},
    };
    union bpf_attr a;
    memset(&a, 0, sizeof a);
    a.prog_type = BPF_PROG_TYPE_SCHED_CLS;
    a.insns = (uint64_t)(uintptr_t)code;
    a.insn_cnt = sizeof code / sizeof code[0];
    a.license = (uint64_t)(uintptr_t)"Dual BSD/GPL";
    memcpy(a.prog_name, "flowos_host", sizeof "flowos_host");
    int program = fos_bpf(BPF_PROG_LOAD, &a);
    if (program < 0) return -1;
    memset(&a, 0, sizeof a);
    a.link_create.prog_fd = (uint32_t)program;
    a.link_create.target_ifindex = (uint32_t)from;
    a.link_create.attach_type = (uint32_t)hook;
    int link = fos_bpf(BPF_LINK_CREATE, &a), error = errno;
    close(program);
    errno = error;
    return link;
}

#endif
