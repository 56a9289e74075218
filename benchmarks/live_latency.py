"""Claim: at 1,000 packets a second the 99th percentile of the latency that FlowOS adds is at most twice that of C.

    python benchmarks/live_latency.py [--pairs N] [--seconds S] [--quick]      needs root; writes the result file
    python benchmarks/live_latency.py --report                                 writes the table of docs/ports.md from it

A 60-byte frame leaves far0 every millisecond, through the middle (live_net.py), to far1.  It left when this process called
send; it arrived when the kernel put it on the receiving socket, by the kernel's own time stamp: when this process wakes
does not matter.  What the same frames need over a veth pair without anybody between is taken off, by its median.
All take turns, and each round's ratios are of neighbours in time: told are the medians over the rounds, and their quartiles.
"""
import argparse
import ctypes
import json
import os
import signal
import socket
import statistics
import struct
import sys
import tempfile
import time

from live_net import OTHERS, ROOT, SPACES, TESTED, build_floor, ip, network, running
from measure import host

RESULT = ROOT / "benchmarks/results/2026-11-21-live-latency.json"
PAGE = ROOT / "docs/ports.md"
MARKS = "<!-- live_latency.py writes this table -->", "<!-- to here -->"
NAMES = {"c": "C forwarder", "forward": "rings from Python", "engine": "engine in line", "both": "... and two modules", "busy": "engine, `busy=True`"}
HEAD = bytes.fromhex("020000000002020000000001")
ETHERTYPE = 0x88b5                  # for local experiments (IEEE 802)
SO_TIMESTAMPNS = 35
CLONE_NEWNET = 0x40000000


def packet_socket(where, interface):
    """Open a packet socket on an interface of a namespace, with the kernel's time stamps."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as here, open(f"/run/netns/{SPACES[where]}") as there:
        if libc.setns(there.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        try:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE))
            made.bind((interface, ETHERTYPE))
        finally:
            libc.setns(here.fileno(), CLONE_NEWNET)
    made.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    made.setblocking(False)
    return made


def travel(source, sink, seconds):
    """Send a frame every millisecond for so long; give the time that each took, in microseconds, sorted."""
    number, sent, took = 0, {}, []
    begun = time.monotonic()
    while (now := time.monotonic()) < begun + seconds + 0.02:
        if now < begun + seconds:
            frame = HEAD + struct.pack("!HI", ETHERTYPE, number) + bytes(42)
            sent[number] = time.time_ns()
            source.send(frame)
            number += 1
        time.sleep(max(0, begun + number / 1000 - time.monotonic()) if now < begun + seconds else 0.01)
        while True:
            try:
                data, extra, _flags, _from = sink.recvmsg(2048, 64)
            except BlockingIOError:
                break
            which, = struct.unpack_from("!I", data, 14)
            at, nanoseconds = struct.unpack("ll", extra[0][2])
            if which in sent:
                took.append((at * 10**9 + nanoseconds - sent.pop(which)) / 1000)
    if not took:
        raise RuntimeError("nothing came through")
    return sorted(took)


def percentiles(took):
    """Give p50 and p99 of sorted times."""
    return took[len(took) // 2], took[len(took) * 99 // 100]


def through(who, floor, sockets, seconds):
    """Measure one forwarder; gives p50, p99."""
    program = [floor, "forward", "mid0", "mid1"] if who == "c" else [
        sys.executable, ROOT / "benchmarks/live_flowos.py", who, "xdp:mid0", "xdp:mid1"]
    with running("middle", TESTED, *program, 256, 600, end=signal.SIGTERM):
        travel(*sockets, 0.2)                     # tables, caches and the interpreter are warm
        return percentiles(travel(*sockets, seconds))


def summary(rounds):
    """Give medians of all, and ratios to C of what was added, round by round."""
    told = {"direct": round(statistics.median(one["direct"][0] for one in rounds), 1)}
    for who in NAMES:
        row = told[who] = {}
        for at, name in enumerate(("p50", "p99")):
            added = [one[who][at] - one["direct"][0] for one in rounds]
            ratios = [mine / (one["c"][at] - one["direct"][0]) for mine, one in zip(added, rounds)]
            quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
            row[name] = {"added_us": round(statistics.median(added), 1), "ratio": round(statistics.median(ratios), 2),
                         "quartiles": [round(quartiles[0], 2), round(quartiles[2], 2)]}
    return told


def report():
    """Write the table of the page, between its two marks."""
    told = json.loads(RESULT.read_text())["figures"]
    rows = ["| | p50, µs | × C | quartiles | p99, µs | × C | quartiles |", "|---|---|---|---|---|---|---|"]
    for who, name in NAMES.items():
        cells = []
        for at in "p50", "p99":
            one = told[who][at]
            cells += [f"{one['added_us']:.0f}", f"{one['ratio']:.2f}", "{:.2f} to {:.2f}".format(*one["quartiles"])]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    before, _, rest = PAGE.read_text().partition(MARKS[0])
    PAGE.write_text("\n".join([before + MARKS[0], *rows, MARKS[1] + rest.partition(MARKS[1])[2]]))


def main():
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--quick", action="store_true", help="does everything work? figures mean nothing; nothing is written")
    parser.add_argument("--report", action="store_true", help="write the table of docs/ports.md from the result file")
    arguments = parser.parse_args()
    if arguments.report:
        report()
        return
    pairs, seconds = (1, 0.2) if arguments.quick else (arguments.pairs, arguments.seconds)
    os.sched_setaffinity(0, {OTHERS})
    rounds, load = [], [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder, network():
        floor = build_floor(folder)
        ip("link", "add", "side0", "netns", SPACES["one"], "type", "veth", "peer", "name", "side1", "netns", SPACES["two"])
        for where, name in ("one", "side0"), ("two", "side1"):
            ip("-n", SPACES[where], "link", "set", name, "up")
        sockets, straight = [[packet_socket("one", one), packet_socket("two", two)] for one, two in (("far0", "far1"), ("side0", "side1"))]
        for _pair in range(pairs):
            done = {"direct": percentiles(travel(*straight, seconds / 2))}
            for who in NAMES:
                done[who] = through(who, floor, sockets, seconds)
            rounds.append(done)
    load.append(os.getloadavg()[0])
    told = summary(rounds)
    for who, row in told.items():
        print(who, row)
    if not arguments.quick:
        RESULT.write_text(json.dumps({"date": "2026-11-21", "host": host(), "load": load, "pairs": pairs, "seconds": seconds,
                                      "figures": told, "all": rounds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
