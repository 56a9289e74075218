/* libnids: IP fragments joined, TCP payload in order, UDP as it comes.  It has no table of UDP flows.
 *
 *     libnids_streams FILE.pcap [PATTERN]
 *
 * With a pattern its matches in the streams are counted; what may begin one is left in libnids's buffer.
 * Checksums are not verified, as nowhere in this comparison; its scan detection is off.
 */
#define _GNU_SOURCE
#include <nids.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static uint64_t packets, connections, stream_bytes, datagrams, udp_bytes, matches;
static const char *pattern;

static void search(struct tcp_stream *stream, struct half_stream *half)
{
    const int m = (int)strlen(pattern), length = half->count - half->offset;
    const char *at = half->data, *end = at + length, *hit;
    while ((hit = memmem(at, (size_t)(end - at), pattern, (size_t)m))) {
        matches++;
        at = hit + m;
    }
    int kept = (int)(end - at) < m - 1 ? (int)(end - at) : m - 1;
    nids_discard(stream, length - kept);
}

static void on_tcp(struct tcp_stream *stream, void **unused)
{
    (void)unused;
    if (stream->nids_state == NIDS_JUST_EST) {
        connections++;
        stream->client.collect++;
        stream->server.collect++;
    } else if (stream->nids_state == NIDS_DATA) {
        stream_bytes += (uint64_t)(stream->client.count_new + stream->server.count_new);
        if (pattern) search(stream, stream->client.count_new ? &stream->client : &stream->server);
    }
}

static void on_udp(struct tuple4 *address, char *data, int length, struct ip *ip)
{
    (void)address, (void)data, (void)ip;
    datagrams++;
    udp_bytes += (uint64_t)length;
}

static void on_fragment(struct ip *ip, int length)
{
    (void)ip, (void)length;
    packets++;
}

static void quiet() {}

int main(int argc, char **argv)
{
    static struct nids_chksum_ctl everywhere = {.netaddr = 0, .mask = 0, .action = NIDS_DONT_CHKSUM};
    if (argc < 2) { fprintf(stderr, "usage: libnids_streams FILE.pcap [PATTERN]\n"); return 2; }
    pattern = argc > 2 ? argv[2] : NULL;
    nids_params.filename = argv[1];
    nids_params.device = NULL;
    nids_params.scan_num_hosts = 0;
    nids_params.n_tcp_streams = 1 << 17;
    nids_params.n_hosts = 1 << 12;
    nids_params.syslog = quiet;
    if (!nids_init()) { fprintf(stderr, "libnids: %s\n", nids_errbuf); return 1; }
    nids_register_chksum_ctl(&everywhere, 1);
    nids_register_ip_frag(on_fragment);
    nids_register_tcp(on_tcp);
    nids_register_udp(on_udp);
    nids_run();
    printf("{\"packets\": %lu, \"established\": %lu, \"stream_bytes\": %lu, \"udp_datagrams\": %lu, \"udp_bytes\": %lu, "
           "\"matches\": %lu}\n",
           (unsigned long)packets, (unsigned long)connections, (unsigned long)stream_bytes, (unsigned long)datagrams,
           (unsigned long)udp_bytes, (unsigned long)matches);
    return 0;
}
