"""Counts and statistics of flows: NFStream's own figures, the textbook definitions, tshark's sums."""
import collections
import csv
import io
import statistics
import subprocess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flowos
from flowos.modules.byte_count import ByteCount
from flowos.modules.flow_stats import MOMENTS, SIDES, FlowStats, merge

CAPTURES = ["pcapplusplus_many-protocols.pcap", "ndpi_netflix.pcap", "zeek_http-methods.pcap"]


def told(module, path, **config):
    """Run a capture through a module; give its records."""
    found = []
    module.emit = found.append
    with flowos.Engine(flowos.Config.offline(**config)) as engine:
        engine.add_port(path)
        engine.attach(module)
        engine.run()
    return found


def packets_of(tshark, path):
    """Let tshark list TCP and UDP packets: (time in ns, length, source, destination), not tunnelled, not fragmented."""
    done = subprocess.run(
        [tshark, "-r", path, "-Y", "(tcp or udp) && !icmp && !icmpv6", "-T", "fields", "-E", "separator=,", "-E",
         "occurrence=f", "-o", "ip.defragment:FALSE", "-e", "frame.time_epoch", "-e", "frame.len", "-e", "ip.src", "-e", "ip.dst",
         "-e", "tcp.srcport", "-e", "tcp.dstport", "-e", "udp.srcport", "-e", "udp.dstport", "-e", "ipv6.src",
         "-e", "ipv6.dst"], capture_output=True, text=True, timeout=300, check=True)
    for time, length, src, dst, *ports, src6, dst6 in csv.reader(io.StringIO(done.stdout)):
        seconds, _, fraction = time.partition(".")
        tp_src, tp_dst = ports[:2] if ports[0] else ports[2:]
        proto = "tcp" if ports[0] else "udp"
        yield (int(seconds) * 10**9 + int(fraction.ljust(9, "0")), int(length),
               (proto, src or src6, int(tp_src)), (proto, dst or dst6, int(tp_dst)))


def key_of(record):
    """Give the ends of a record as tshark's rows have them."""
    ends = []
    for name in ("a", "b"):
        address, _, port = record[name].rpartition(":")
        ends.append((record["proto"], address.strip("[]"), int(port)))
    return tuple(ends)


def expect(packets):
    """Work the features out from a list of (ns, size) as the textbook does, names without the side."""
    times, sizes = [ts / 1e6 for ts, _ in packets], [size for _, size in packets]
    gaps = [(b - a) / 1e6 for (a, _), (b, _) in zip(packets, packets[1:], strict=False)]
    found = {"packets": len(packets), "bytes": sum(sizes), "duration_ms": times[-1] - times[0] if times else 0.0}
    for kind, values in (("ps", sizes), ("piat_ms", gaps)):
        found[f"min_{kind}"] = min(values, default=0)
        found[f"max_{kind}"] = max(values, default=0)
        found[f"mean_{kind}"] = statistics.fmean(values) if values else 0
        found[f"stddev_{kind}"] = statistics.stdev(values) if len(values) > 1 else 0
    return found


@pytest.mark.parametrize("rows", [40, 16_384])
@pytest.mark.parametrize("name", CAPTURES)
def test_the_features_are_the_textbooks_on_tsharks_packets(shared_pcaps, tshark, name, rows):
    path = shared_pcaps / name
    ours = [record for record in told(FlowStats(), path, deliver_rows=rows) if record["proto"] in ("tcp", "udp")]
    by_ends = collections.defaultdict(list)
    for ts, size, src, dst in packets_of(tshark, path):
        by_ends[frozenset((src, dst))].append((ts, size, src))
    checked = 0
    ends = collections.Counter(frozenset(key_of(record)) for record in ours)
    for record in ours:
        a, b = key_of(record)
        packets = by_ends[frozenset((a, b))]
        if ends[frozenset((a, b))] > 1:               # ports used again: tshark's list covers several connections
            continue
        sides = [packets, [p for p in packets if p[2] == a], [p for p in packets if p[2] != a]]
        for side, chosen in zip(SIDES, sides, strict=True):
            for key, value in expect([(ts, size) for ts, size, _ in chosen]).items():
                assert record[f"{side}_{key}"] == pytest.approx(value, rel=1e-6, abs=1e-3), (a, b, side, key)
        checked += 1
    assert checked > 10 or checked == len(ours) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", CAPTURES)
def test_the_features_are_nfstreams(shared_pcaps, name):
    nfstream = pytest.importorskip("nfstream", reason="NFStream is not installed")
    path = shared_pcaps / name
    theirs = {}
    doubled = set()
    for flow in nfstream.NFStreamer(source=str(path), statistical_analysis=True, n_dissections=0, idle_timeout=10**6,
                                    active_timeout=10**6, n_meters=1):
        proto = {6: "tcp", 17: "udp"}.get(flow.protocol)
        key = frozenset(((proto, flow.src_ip, flow.src_port), (proto, flow.dst_ip, flow.dst_port)))
        doubled |= {key} & theirs.keys()
        theirs[key] = flow
    checked = 0
    ours = [record for record in told(FlowStats(), path) if record["proto"] in ("tcp", "udp")]
    ends = collections.Counter(frozenset(key_of(record)) for record in ours)
    for record in ours:
        key = frozenset(key_of(record))
        flow = theirs.get(key)
        if flow is None or key in doubled or ends[key] > 1 or flow.bidirectional_packets != record["bidirectional_packets"]:
            continue                                  # NFStream leaves out some packets, and splits at RSTs
        checked += 1
        for side in SIDES:
            for feature in ("packets", "bytes", "min_ps", "mean_ps", "stddev_ps", "max_ps", "syn_packets", "fin_packets",
                            "rst_packets"):
                assert record[f"{side}_{feature}"] == pytest.approx(getattr(flow, f"{side}_{feature}")), (key, feature)
            for feature in ("min_piat_ms", "mean_piat_ms", "stddev_piat_ms", "max_piat_ms", "duration_ms"):
                # NFStream's clock has whole milliseconds.
                assert record[f"{side}_{feature}"] == pytest.approx(getattr(flow, f"{side}_{feature}"), abs=1.01)
    assert checked > 0.6 * len(ours)


@given(st.lists(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1e6)), min_size=1, max_size=12), max_size=8))
def test_batches_merge_to_the_moments_of_all(batches):
    moments = np.zeros(5, MOMENTS)
    every = collections.defaultdict(list)
    for batch in batches:
        batch.sort(key=lambda pair: pair[0])
        keys = np.array([key for key, _ in batch])
        values = np.array([value for _, value in batch])
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
        merge(moments, keys[starts], values, starts)
        for key, value in batch:
            every[key].append(value)
    for key, values in every.items():
        count, least, most, mean, m2 = moments[key].tolist()
        assert (count, least, most) == (len(values), min(values), max(values))
        assert mean == pytest.approx(statistics.fmean(values))
        assert m2 == pytest.approx(statistics.pvariance(values) * len(values), rel=1e-6, abs=1e-3)


def test_many_connections_at_once_grow_the_arrays(tmp_path):
    from conversations import datagrams, save

    ours = told(FlowStats(), save(tmp_path, datagrams(3000)))
    assert len(ours) == 3000
    assert {record["bidirectional_packets"] for record in ours} == {1}


@pytest.mark.parametrize("name", CAPTURES)
def test_bytes_are_tsharks_payloads(shared_pcaps, tshark, name):
    path = shared_pcaps / name
    count = ByteCount("udp")
    records = told(count, path)
    done = subprocess.run([tshark, "-r", path, "-Y", "udp && !icmp && !icmpv6", "-T", "fields", "-E", "occurrence=f",
                           "-e", "udp.length"], capture_output=True, text=True, timeout=300, check=True)
    expected = sum(int(length) - 8 for length in done.stdout.split())
    assert count.total == expected == sum(record["a_to_b"] + record["b_to_a"] for record in records)


def test_missing_bytes_are_told_apart(shared_pcaps):
    records = told(ByteCount("tcp"), shared_pcaps / "ndpi_ultrasurf.pcap")
    assert sum(record["a_to_b_missing"] + record["b_to_a_missing"] for record in records) > 0

    class Bytes(flowos.Module):
        total = 0

        def process(self, window):
            self.total += len(window.data)

    oracle = Bytes()
    told(oracle, shared_pcaps / "ndpi_ultrasurf.pcap")
    assert oracle.total == sum(record["a_to_b"] + record["b_to_a"] for record in records)
