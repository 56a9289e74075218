"""Traces that differ in one thing alone: the size of packets, or the number of connections.

    size-N          200,000 segments of N bytes over 1,000 TCP connections
    connections-N   300,000 segments of 512 bytes over N TCP connections, drawn at random

Every connection opens with a handshake, all of them before the first data; then data comes from the
server, in order, and every sixteenth segment is acknowledged.  The text has `webtrace.PATTERN` in it, also across segments.  Files are kept as
those of traces.py are, and made again when what makes them changed.
"""
import hashlib
import json
from pathlib import Path

import numpy as np

import frames
import generators
from text import words
from webtrace import PATTERN

HERE = Path(__file__).resolve().parent
SIZES = (16, 64, 200, 512, 1024, 1448)
CONNECTIONS = (10, 100, 1000, 10_000, 100_000)
ACKNOWLEDGED = 16                                       # libnids takes no more than a window that nobody acknowledged
SEEDED = 4096                                           # a pattern in so many bytes of the pool


def packets_of(payload, connections, segments, seed):
    """Give packets, the pool of payloads and the truth of one trace."""
    rng = np.random.default_rng(seed)
    pool = bytearray(words(rng, 4 << 20))
    for at in range(0, len(pool) - len(PATTERN), SEEDED):
        pool[at:at + len(PATTERN)] = PATTERN
    pool = np.frombuffer(bytes(pool), np.uint8)
    owner = rng.integers(0, connections, segments)
    # The number of each segment within its connection; each connection reads the pool from a place of its own.
    order = np.argsort(owner, kind="stable")
    first = np.flatnonzero(np.diff(owner[order], prepend=-1))
    nth = np.empty(segments, np.int64)
    nth[order] = np.arange(segments) - np.repeat(first, np.diff(first, append=segments))
    begin = rng.integers(0, len(pool) // payload, connections)[owner]
    at = (begin + nth) % (len(pool) // payload) * payload

    told = np.flatnonzero(nth % ACKNOWLEDGED == ACKNOWLEDGED - 1)
    flow = np.concatenate([np.repeat(np.arange(connections), 3), owner, owner[told]])
    step = np.concatenate([np.tile([0, 1, 2], connections), np.full(segments, 3), np.full(len(told), 4)])
    packets = generators.endpoints(rng, connections)[flow]
    packets["layout"] = np.where(step < 2, frames.TCP_OPENING, frames.TCP_STAMPED)
    packets["proto"], packets["fragment"] = 6, frames.DO_NOT_FRAGMENT
    packets["flags"] = np.choose(step, [frames.SYN, frames.SYN | frames.ACK, frames.ACK, frames.ACK, frames.ACK])
    sent = 1 + nth * payload
    packets["seq"] = np.concatenate([np.tile([0, 0, 1], connections), sent, np.ones(len(told), np.int64)]) & 0xFFFFFFFF
    packets["ack"] = np.concatenate([np.tile([0, 1, 1], connections), np.ones(segments, np.int64), sent[told] + payload]) & 0xFFFFFFFF
    packets["length"] = np.where(step == 3, payload, 0)
    packets["at"][step == 3] = at
    generators.turn(packets, (step == 1) | (step == 3))
    turn = np.concatenate([np.arange(3 * connections), 3 * connections + 2 * np.arange(segments), 3 * connections + 2 * told + 1])
    packets = packets[np.argsort(turn)]
    packets["time"] = np.arange(len(packets)) * 2

    truth = {"packets": len(packets), "bytes": int(frames.frame_lengths(packets).sum()), "connections": connections,
             "stream_bytes": segments * payload, "matches": matches(pool, owner[order], at[order], payload)}
    return packets, pool, truth


def matches(pool, owner, at, payload):
    """Count the pattern in the streams: segments come sorted by connection, and are ranges of the pool."""
    places = np.frombuffer(pool.tobytes().replace(PATTERN, b"\x01" + bytes(len(PATTERN) - 1)), np.uint8) == 1
    before = np.concatenate([[0], np.cumsum(places)])
    # A run of segments that follow each other in the pool is one range: what crosses its segments is whole.
    breaks = np.flatnonzero((np.diff(owner, prepend=-1) != 0) | (np.diff(at, prepend=-1) != payload))
    start, stop = at[breaks], at[np.append(breaks[1:], len(at)) - 1] + payload
    last = np.maximum(stop - len(PATTERN) + 1, start)
    found = int((before[last] - before[start]).sum())
    joined = 0
    for i in range(1, len(breaks)):                     # where a stream goes round the pool's end
        if owner[breaks[i]] == owner[breaks[i] - 1]:
            seam = pool[stop[i - 1] - len(PATTERN) + 1:stop[i - 1]].tobytes() + pool[:len(PATTERN) - 1].tobytes()
            joined += PATTERN in seam
    return found + joined


def ensure(directory, say=print):
    """Make the traces that are not there; give {name: (path, truth)}."""
    directory = Path(directory) / "streams"
    directory.mkdir(parents=True, exist_ok=True)
    record = directory / "truth.json"
    known = json.loads(record.read_text()) if record.exists() else {}
    text = b"".join((HERE / name).read_bytes() for name in ("frames.py", "generators.py", "text.py", "streamtraces.py"))
    digest, result = hashlib.sha256(text).hexdigest()[:16], {}
    wanted = [(f"size-{size}", size, 1000, 200_000) for size in SIZES]
    wanted += [(f"connections-{count}", 512, count, 300_000) for count in CONNECTIONS]
    for seed, (name, payload, connections, segments) in enumerate(wanted):
        path = directory / f"{name}.pcap"
        if known.get(name, {}).get("generator") != digest or not path.exists():
            packets, pool, truth = packets_of(payload, connections, segments, seed)
            generators.write(path, packets, pool)
            known[name] = {**truth, "generator": digest, "size": path.stat().st_size}
            record.write_text(json.dumps(known, indent=1) + "\n")
            say(f"{path}: {truth['packets']:,} packets")
        result[name] = path, known[name]
    return result
