"""The engine, as the models see it: a capture file in, the delivered items of each connection out."""

import hashlib
import os
import tempfile

import flowos

from .tcp import data

# The counters that the models keep as well.
TCP_COUNTERS = ("tcp_before_start", "tcp_beyond_fin", "tcp_conflicts", "tcp_cut_bytes", "tcp_fin_ignored",
                "tcp_gaps", "tcp_gap_bytes", "tcp_gap_by_ack", "tcp_gap_by_limit", "tcp_gap_by_time", "tcp_gap_by_end",
                "tcp_late_after_gap", "tcp_out_of_window", "tcp_overlaps", "tcp_picked_up", "tcp_retransmitted",
                "tcp_syn_ignored")
IP_COUNTERS = ("ip6_fragment_overlap", "ip_fragment_conflict_end", "ip_fragment_malformed",
               "ip_fragment_overlaps", "ip_fragment_conflicts", "ip_fragment_too_big",
               "ip_fragment_too_many", "ip_fragment_truncated", "ip_fragments_evicted", "ip_fragments_timed_out",
               "ip_fragment_poisoned", "datagrams_reassembled")


def tcp_config(config):
    """Turn the TCP model's configuration into fields of `flowos.Config`."""
    return {"tcp_policy": config.policy, "gap_packets": config.gap_packets, "gap_seconds": config.gap_seconds,
            "reassembly_bytes": config.reassembly_bytes, "reassembly_pieces": config.reassembly_pieces}


def tcp_counters(result):
    """Pick the counters of TCP reassembly that are not zero."""
    return {name: result["counters"][name] for name in TCP_COUNTERS if result["counters"][name]}


def ip_counters(result):
    """Pick the counters of defragmentation that are not zero."""
    return {name: result["counters"][name] for name in IP_COUNTERS if result["counters"][name]}


def new_recorder():
    """Make a module that writes down what it is given, per connection and direction."""

    class Recorder(flowos.Module):
        """Record every unit of every TCP connection."""

        name, protocol = "recorder", "tcp"

        def __init__(self):
            self.items = {}             # connection's number -> (items of a, items of b)
            self.connections = {}
            self.reasons = {}

        def opened(self, connection):
            self.connections[connection.id] = connection
            self.items[connection.id] = ([], [])

        def process(self, window):
            items = self.items[window.connection.id][window.direction]
            for unit in window.units:
                add(items, unit.kind, unit.offset, bytes(unit.data) if unit.kind == "data" else unit.length)

        def closed(self, connection, reason):
            self.connections[connection.id] = connection
            self.reasons[connection.id] = reason

    return Recorder()


def add(items, kind, offset, what):
    """Add a unit to a list of items; data joins data before it, a gap the gap before it."""
    if kind not in ("data", "gap", "fin"):
        return
    if kind == "fin":
        items.append(("fin", offset))
    elif items and items[-1][0] == kind:
        _, start, before = items[-1]
        assert offset == start + (before if kind == "gap" else len(before)), "units do not follow each other"
        items[-1] = (kind, start, before + what)
    else:
        items.append((kind, offset, what))


def direction(items, way):
    """Describe one direction: its items, the digest of its data, and its counters."""
    gaps = [tuple(gap) for gap in way.gaps]
    delivered = [(item[1], item[1] + item[2]) for item in items if item[0] == "gap"]
    assert all(any(start <= offset and offset + length <= end for start, end in delivered) for offset, length in gaps)
    return {"items": items, "digest": hashlib.sha256(data(items)).hexdigest(),
            "packets": way.packets, "bytes": way.bytes, "payload_bytes": way.payload_bytes,
            "syn": way.syn, "fin": way.fin, "rst": way.rst,
            "stream_bytes": way.stream_bytes, "gaps": gaps}


def run_pcap(capture, **config):
    """Run a capture file's bytes through the engine.

    Gives {"connections": [{"a", "b", "reason", "a_to_b", "b_to_a"}], "counters": {...}, "datagrams":
    [(version, src, dst, id, payload)], "ip_reassembly": {...}}. `config` holds fields of `flowos.Config`.
    """
    recorder, datagrams = new_recorder(), []
    file, path = tempfile.mkstemp(suffix=".pcap")
    try:
        with os.fdopen(file, "wb") as out:
            out.write(capture)
        engine = flowos.Engine(config=flowos.Config(**config))
        engine.on_datagram = lambda *datagram: datagrams.append((*datagram[:4], bytes(datagram[4])))
        engine.add_port(path)
        engine.attach(recorder)
        engine.run()
        found = []
        for number, connection in sorted(recorder.connections.items()):
            items = recorder.items[number]
            found.append({"a": tuple(connection.a), "b": tuple(connection.b),
                          "reason": recorder.reasons.get(number),
                          "a_to_b": direction(items[0], connection.a_to_b),
                          "b_to_a": direction(items[1], connection.b_to_a)})
        result = {"connections": found, "counters": dict(engine.statistics()), "datagrams": datagrams,
                  "ip_reassembly": dict(engine.ip_reassembly)}
        engine.close()
        return result
    finally:
        os.unlink(path)
