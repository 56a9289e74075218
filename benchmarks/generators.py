"""The formulas of the traces: packets, the pool of their payloads, and what is true of them.

    python generators.py NAME SCALE FILE.pcap       writes the file, prints the truth as JSON

traces.py says what the traces are, runs this where one is missing and keeps the files.
"""
import json
import sys
import zlib

import numpy as np

import frames
import webtrace
from text import words

_SERVICES = np.array([53, 80, 123, 443, 1194, 4500, 5060, 8080, 8443, 51820], np.uint16)


def endpoints(rng, count):
    """Give a table of `count` flows with distinct sources: columns source, destination, sport, dport."""
    number = np.arange(count, dtype=np.uint32)
    scrambled = number * np.uint32(0x9E3779B1)             # odd, so no two are equal
    flows = np.zeros(count, frames.PACKET)
    flows["source"] = 10 << 24 | scrambled & 0xFFFFFF
    flows["destination"] = 172 << 24 | 16 << 16 | rng.integers(0, 1 << 16, count, np.uint32)
    flows["sport"] = rng.integers(1024, 61024, count)
    flows["dport"] = rng.choice(_SERVICES, count)
    return flows


def zipf(rng, flows, exponent, count):
    """Draw `count` flow numbers with Zipf's law over the ranks, the ranks shuffled."""
    weight = np.cumsum(np.arange(1, flows + 1, dtype=float) ** -exponent)
    rank = np.searchsorted(weight, rng.random(count) * weight[-1])
    return rng.permutation(flows)[rank]


def turn(packets, backwards):
    """Swap the endpoints of the packets where `backwards`."""
    for one, other in (("source", "destination"), ("sport", "dport")):
        packets[one], packets[other] = (np.where(backwards, packets[other], packets[one]),
                                        np.where(backwards, packets[one], packets[other]))


def counts(packets, flow):
    """Describe packets and their distribution over connections."""
    per_flow = np.bincount(flow).astype(np.int64)
    lengths = frames.frame_lengths(packets)
    return {"packets": len(packets), "bytes": int(lengths.sum()), "connections": int((per_flow > 0).sum()),
            "largest": int(per_flow.max()), "packets_squared": int((per_flow * per_flow).sum()),
            "udp_bytes": int(packets["length"][packets["proto"] == 17].sum())}


def udp64(scale, seed, flows, exponent):
    """Make frames of 60 bytes: every flow is one-way, so a flow is a connection is a direction."""
    rng = np.random.default_rng(seed)
    count, flows = round(2_000_000 * scale), max(1, round(flows * min(scale, 1)))
    flow = zipf(rng, flows, exponent, count) if exponent else rng.integers(0, flows, count)
    packets = endpoints(rng, flows)[flow]
    packets["time"] = np.arange(count)                     # a million packets a second
    packets["layout"], packets["proto"] = frames.UDP, 17
    packets["identification"] = np.arange(count) & 0xFFFF
    packets["length"] = frames.SHORTEST - frames.ETHER - frames.IP - 8
    pool = rng.integers(97, 123, 1 << 20, np.uint8)
    packets["at"] = rng.integers(0, len(pool) - 64, count)
    truth = counts(packets, flow)
    return packets, pool, {**truth, "delivered_bytes": truth["udp_bytes"]}


def imix(scale, seed):
    """Make the mix of sizes; TCP connections open with a handshake and number their bytes right."""
    rng = np.random.default_rng(seed)
    count, flows = round(1_000_000 * scale), max(2, round(50_000 * min(scale, 1)))
    flow = zipf(rng, flows, 1.0, count)
    packets = endpoints(rng, flows)[flow]
    tcp = (rng.random(flows) < 0.6)[flow]
    size = rng.choice(np.array([60, 576, 1500]), count, p=[7 / 12, 4 / 12, 1 / 12])
    back = rng.random(count) < 0.5

    # The number of each packet within its flow, and where each flow begins when sorted by flow.
    order = np.argsort(flow, kind="stable")
    first = np.flatnonzero(np.diff(flow[order], prepend=-1))
    lengths = np.diff(first, append=count)
    nth = np.empty(count, np.int64)
    nth[order] = np.arange(count) - np.repeat(first, lengths)
    opening = tcp & (nth < 3)
    back[opening] = nth[opening] == 1                       # SYN, SYN and ACK, ACK
    size[opening] = frames.SHORTEST

    packets["time"] = np.arange(count, dtype=np.int64) * 5
    packets["layout"] = np.where(tcp, np.where(nth < 2, frames.TCP_SCALED, frames.TCP), frames.UDP)
    packets["proto"] = np.where(tcp, 6, 17)
    packets["identification"] = np.arange(count) & 0xFFFF
    # A TCP frame of 60 bytes is a pure acknowledgement with 6 bytes of padding.
    packets["length"] = np.where(tcp, np.where(size == 60, 0, size - 54), size - 42)
    packets["flags"] = np.where(tcp, np.select(
        [nth == 0, nth == 1, packets["length"] > 0],
        [frames.SYN, frames.SYN | frames.ACK, frames.PSH | frames.ACK], frames.ACK), 0)

    initial = rng.integers(0, 1 << 32, (2, flows))
    moves = np.where(tcp, packets["length"] + (nth < 2), 0)
    for direction in (0, 1):
        mine = back == bool(direction)
        moved = np.where(mine, moves, 0)[order]
        before = np.cumsum(moved) - moved
        sent = np.empty(count, np.int64)
        sent[order] = before - np.repeat(before[first], lengths)
        position = (initial[direction][flow] + sent) & 0xFFFFFFFF
        packets["seq"] = np.where(tcp & mine, position, packets["seq"])
        packets["ack"] = np.where(tcp & ~mine & (nth > 0), position, packets["ack"])
    turn(packets, back)

    pool = np.frombuffer(words(rng, 1 << 20), np.uint8)
    packets["at"] = rng.integers(0, len(pool) - 2048, count)
    truth = counts(packets, flow)
    truth["tcp_connections"] = len(np.unique(flow[tcp]))
    truth["tcp_packets"] = int(tcp.sum())
    truth["udp_packets"] = count - truth["tcp_packets"]
    truth["stream_bytes"] = int(packets["length"][tcp].sum())
    truth["delivered_bytes"] = truth["stream_bytes"] + truth["udp_bytes"]
    data = np.flatnonzero(tcp & (packets["length"] > 0))
    truth["streams_crc"] = crc_of_streams((flow * 2 + back)[data], packets["at"][data], packets["length"][data], pool)
    return packets, pool, truth


def crc_of_streams(stream, at, length, pool):
    """Sum the CRC-32 of every stream, given the ranges of each in order: a digest that knows no order of streams."""
    view, crcs = memoryview(pool), {}
    for key, a, n in zip(stream.tolist(), at.tolist(), length.tolist()):
        crcs[key] = zlib.crc32(view[a:a + n], crcs.get(key, 0))
    return sum(crcs.values()) & 0xFFFFFFFFFFFFFFFF


def frag(scale, seed, payload=4000):
    """Make datagrams larger than a frame, each in fragments of 1480 bytes and a rest."""
    rng = np.random.default_rng(seed)
    count, flows = round(50_000 * scale), max(1, round(1000 * min(scale, 1)))
    flow = rng.integers(0, flows, count)
    ends = endpoints(rng, flows)[flow]
    text = np.frombuffer(words(rng, 1 << 20), np.uint8)

    # All datagrams, UDP header first, one after the other: the pool of the fragments.
    row = np.dtype([("sport", ">u2"), ("dport", ">u2"), ("length", ">u2"), ("sum", ">u2"), ("data", "u1", payload)])
    datagrams = np.zeros(count, row)
    datagrams["sport"], datagrams["dport"], datagrams["length"] = ends["sport"], ends["dport"], 8 + payload
    datagrams["data"] = frames.windows(text, payload)[rng.integers(0, len(text) - payload, count)]
    pool = datagrams.view(np.uint8).reshape(-1)
    begin = np.arange(count, dtype=np.int64) * row.itemsize
    pseudo = sum((ends[name] >> 16) + (ends[name] & 0xFFFF) for name in ("source", "destination")).astype(np.int64)
    value = frames.fold(frames.sums(pool, begin, begin + row.itemsize) + pseudo + 17 + row.itemsize)
    datagrams["sum"] = np.where(value == 0, 0xFFFF, value)

    offset = np.arange(0, row.itemsize, 1480)
    pieces = len(offset)
    packets = np.repeat(ends, pieces)
    packets["layout"], packets["proto"] = frames.RAW, 17
    packets["identification"] = np.repeat(np.arange(count) & 0xFFFF, pieces)
    packets["fragment"] = np.tile(offset // 8 | np.where(offset + 1480 < row.itemsize, frames.MORE_FRAGMENTS, 0), count)
    packets["at"] = np.repeat(begin, pieces) + np.tile(offset, count)
    packets["length"] = np.tile(np.minimum(1480, row.itemsize - offset), count)

    # Every eighth datagram or so overlaps the next in time; 5 % have their fragments shuffled.
    rank = np.tile(np.arange(pieces), (count, 1))
    shuffled = rng.random(count) < 0.05
    rank[shuffled] = np.argsort(rng.random((int(shuffled.sum()), pieces)), axis=1)
    late = np.where(rng.random((count, 1)) < 0.125, 35, 0) * (rank == pieces - 1)
    packets["time"] = (np.arange(count)[:, None] * 30 + rank * 5 + late).reshape(-1)
    order = np.argsort(packets["time"], kind="stable")

    truth = counts(packets, np.repeat(flow, pieces))
    del truth["largest"], truth["packets_squared"]
    truth.update(datagrams=count, datagram_bytes=len(pool), udp_bytes=count * payload, delivered_bytes=count * payload,
                 shuffled=int(shuffled.sum()))
    truth["datagrams_crc"] = sum(zlib.crc32(pool[a:a + row.itemsize]) for a in begin.tolist()) & 0xFFFFFFFFFFFFFFFF
    return packets[order], pool, truth


def make(name, scale):
    """Give the packets, the pool of payloads and the truth of one trace."""
    if name == "udp64":
        return udp64(scale, 1, 10_000, 1.1)
    if name == "udp64-1m":
        return udp64(scale, 2, 1_000_000, None)
    if name == "imix":
        return imix(scale, 3)
    if name == "http":
        return webtrace.web(scale, 4)
    return frag(scale, 5)


def write(path, packets, pool):
    """Write a pcap file, 200,000 packets at a time."""
    with open(path, "wb") as file:
        file.write(frames.file_header())
        for at in range(0, len(packets), 200_000):
            file.write(frames.assemble(packets[at:at + 200_000], pool).data)


if __name__ == "__main__":
    chosen_packets, chosen_pool, known = make(sys.argv[1], float(sys.argv[2]))
    write(sys.argv[3], chosen_packets, chosen_pool)
    print(json.dumps(known))
