/* Every counter of the core, each born with its one-line description (STYLE 16).
 *
 * X(name, description): `name` becomes an index FOS_C_name into fos_counters.v and a key of
 * Engine.statistics(); the description is shown by `flowos stats` and the docs.
 */
#ifndef FOS_COUNTERS_H
#define FOS_COUNTERS_H

#include "base.h"

#define FOS_COUNTERS(X) \
    X(packets, "packets taken from the ports") \
    X(bytes, "bytes of these packets on the wire") \
    X(truncated, "packets that a snap length cut short") \
    X(not_ip, "frames that carry no IP: ARP, LLC, spanning tree and the like") \
    X(link_unknown, "frames of a link type without IP, or one that is not decoded") \
    X(link_truncated, "frames that end inside their link-layer headers") \
    X(link_damaged, "frames whose link-layer headers contradict themselves") \
    X(ip_truncated, "packets that end inside the IP header") \
    X(ip_damaged, "packets whose IP header contradicts itself: version, length") \
    X(ip_nested_too_deep, "packets inside more tunnels or extension headers than are followed") \
    X(transport_truncated, "packets that end inside the transport header") \
    X(transport_damaged, "packets whose transport header contradicts itself") \
    X(tunnel_damaged, "tunnelled packets whose tunnel header contradicts itself") \
    X(fragments, "IP fragments seen") \
    X(datagrams_reassembled, "datagrams put together from fragments") \
    X(ip_fragments_timed_out, "datagrams given up because fragments did not come in time") \
    X(ip_fragments_held, "fragments that waited in line for their datagram, because a module may edit it") \
    X(ip_fragments_evicted, "datagrams given up to stay below the limits of defragmentation") \
    X(ip_fragment_overlaps, "fragments that overlapped others of their datagram") \
    X(ip_fragment_conflicts, "overlapping fragments whose bytes differed") \
    X(ip6_fragment_overlap, "IPv6 datagrams discarded because fragments overlapped (RFC 5722)") \
    X(ip_fragment_conflict_end, "fragments dropped: beyond, or another, end of the datagram") \
    X(ip_fragment_malformed, "fragments dropped: empty, or not a multiple of eight bytes") \
    X(ip_fragment_too_big, "fragments dropped: the datagram would exceed 65,535 bytes") \
    X(ip_fragment_truncated, "fragments dropped: cut by the snap length") \
    X(ip_fragment_poisoned, "fragments dropped: of an IPv6 datagram discarded before") \
    X(ip_fragment_too_many, "datagrams dropped: in more fragments than the limit") \
    X(connections, "connections opened") \
    X(connections_closed, "connections ended, for any reason") \
    X(connections_timed_out, "connections ended because they were idle") \
    X(connections_evicted, "connections ended to stay below the limit") \
    X(connections_reused, "connections ended because a new one began on the same ports") \
    X(connections_unmatched, "connections that belong to no flow") \
    X(icmp_errors, "ICMP errors attributed to the connection that they quote") \
    X(icmp_errors_unknown, "ICMP errors that quote no known connection") \
    X(tcp_retransmitted, "TCP segments without new bytes") \
    X(tcp_out_of_order, "TCP segments that came ahead of bytes still missing") \
    X(tcp_overlaps, "TCP segments that overlapped bytes waiting for reassembly") \
    X(tcp_conflicts, "overlapping TCP segments whose bytes differed") \
    X(tcp_out_of_window, "TCP segments dropped: more than 1 GB ahead") \
    X(tcp_before_start, "TCP segments with bytes before the point where the stream was picked up") \
    X(tcp_beyond_fin, "TCP segments with bytes beyond the end that a FIN set") \
    X(tcp_late_after_gap, "TCP segments with bytes for a gap that was closed before") \
    X(tcp_gaps, "gaps closed in TCP streams") \
    X(tcp_gap_bytes, "bytes missing in these gaps") \
    X(tcp_gap_by_ack, "gaps closed because the receiver had acknowledged the bytes") \
    X(tcp_gap_by_limit, "gaps closed because too much waited behind them") \
    X(tcp_gap_by_time, "gaps closed because nothing came to fill them in time") \
    X(tcp_gap_by_end, "gaps closed because the connection ended") \
    X(tcp_cut_bytes, "stream bytes lost to the snap length") \
    X(tcp_syn_ignored, "SYNs that contradict the connection's first one, ignored") \
    X(tcp_fin_ignored, "FINs without ACK, or that contradict an earlier one, ignored") \
    X(tcp_picked_up, "TCP directions picked up in mid-stream") \
    X(udp_bad_length, "UDP datagrams whose length field contradicts IP's") \
    X(sctp_damaged, "SCTP packets whose chunks contradict themselves") \
    X(sctp_retransmitted, "SCTP DATA chunks seen before") \
    X(sctp_gaps, "runs of missing SCTP DATA chunks that were passed over") \
    X(sctp_gap_by_limit, "... because too much waited behind them, or for too long") \
    X(bytes_copied, "bytes copied to the heap because their buffer had to go on") \
    X(units, "data units made at the transport level") \
    X(decoder_errors, "connections whose decoder failed and was taken off") \
    X(module_errors, "exceptions raised by modules") \
    X(windows_held, "windows that a module did not release as a whole") \
    X(windows_hold_limit, "windows released unchanged because they were held too long, or too much was") \
    X(edits, "edits that modules committed") \
    X(edit_bytes_removed, "stream bytes that edits took away") \
    X(edit_bytes_inserted, "bytes that edits put in") \
    X(edits_refused, "edits of what cannot be edited: tunnelled packets, messages whose head had left") \
    X(merged_packets, "packets that left") \
    X(merged_unchanged, "... as they came") \
    X(merged_rewritten, "... with other sequence numbers, acknowledgements or addresses") \
    X(merged_edited, "... with an edited payload") \
    X(merged_made, "... that no packet brought: more payload than one holds, acknowledgements, retransmissions") \
    X(merged_emptied, "packets that did not leave because edits took their whole payload") \
    X(merged_acks_dropped, "acknowledgements of nothing but deleted bytes that did not leave") \
    X(merged_absorbed, "packets that repeated bytes which wait, and did not leave") \
    X(merged_stale, "retransmissions of bytes acknowledged long ago that did not leave") \
    X(merged_dropped, "packets that a module dropped") \
    X(merged_joined, "fragments that did not leave by themselves: their datagram was edited, or dropped, as one packet") \
    X(kept_timeouts, "retransmission time-outs of connections that are kept going in line") \
    X(kept_given_up, "... and connections reset because nobody answered any more") \
    X(kept_probes, "idle connections whose both ends were asked whether they are there") \
    X(kept_resets, "connections that were reset on both sides because they could neither go on nor be forgotten") \
    X(kept_resets_refused, "resets that did not name the next byte: their sender is asked back") \
    X(kept_path_mtu, "ICMP errors that told of a narrower link behind us") \
    X(kept_no_room, "segments dropped because too much waited: their sender repeats them") \
    X(merged_no_port, "packets that no port was there for") \
    X(merged_port_full, "packets that a port had no room for") \
    X(merged_oversize, "packets too large for a port's buffers") \
    X(merged_spilled, "packets copied to the heap because they had to wait")

enum fos_counter {
#define X(name, text) FOS_C_##name,
    FOS_COUNTERS(X)
#undef X
    FOS_C_COUNT
};

typedef struct fos_counters {
    uint64_t v[FOS_C_COUNT];  /* writer: the engine loop that owns them */
} fos_counters;

#define FOS_COUNT(c, name) ((c)->v[FOS_C_##name]++)
#define FOS_COUNT_N(c, name, n) ((c)->v[FOS_C_##name] += (n))

static const char *const fos_counter_names[] FOS_UNUSED = {
#define X(name, text) #name,
    FOS_COUNTERS(X)
#undef X
};

static const char *const fos_counter_texts[] FOS_UNUSED = {
#define X(name, text) text,
    FOS_COUNTERS(X)
#undef X
};

#endif
