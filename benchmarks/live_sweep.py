"""The measurements of D3.2's figures 4.5 to 4.7 and of its section 4.1.10, made with FlowOS's rings, beside the source's figures.

    python benchmarks/live_sweep.py [--rounds N] [--seconds S] [--quick]      needs root; writes the result file
    python benchmarks/live_sweep.py --report                                  writes the tables of docs/ports.md from it

    4.5     sending, receiving and forwarding by frame size, 60 to 1,514 bytes, batches of 64
    4.6     sending by batch size, 1 to 256, on one queue and on two, 60-byte frames, one core
    4.7     forwarding plain, looking at time stamps, by the pcap face
    4.1.10  the answer to a ping, by the kernel's stack and by a program on rings; median round trips

The source measured a 10 Gbit/s card (Intel 82599, i7-870) that rings reach without a copy; this is veth, in copy mode, where
each frame passes the kernel's skb: the shapes compare, the levels do not.  Rates are packets per CPU-second of the
process.  Figures 4.4 and 4.8 vary the processor's clock and measure power, which needs control of both.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from live_net import OTHERS, ROOT, SPACES, TESTED, build_floor, inside, ip, network, running
from measure import host

RESULT = ROOT / "benchmarks/results/2026-11-21-live-sweep.json"
PAGE = ROOT / "docs/ports.md"
MARKS = "<!-- live_sweep.py writes these tables -->", "<!-- to here -->"
SIZES = 60, 64, 65, 128, 256, 512, 1024, 1514
BATCHES = 1, 2, 4, 8, 16, 32, 64, 128, 256
# Figure 4.6, in Mpps: by burst size, with one ring and with two.  Figure 4.7, in Mpps.
SOURCE_BURSTS = {1: (1.41, 1.91), 2: (2.77, 3.65), 4: (5.44, 7.15), 8: (10.03, 12.84), 16: (12.48, 14.88), 32: (12.51, 14.88)}
SOURCE_FORWARD = {"forward": ("netmap-fwd", 10.66), "stamp": ("netmap-fwd + ts", 9.42), "pcap": ("netmap-fwd + pcap", 7.50)}
SOURCE_PING = {"kernel": 17, "rings": 20}                # microseconds, medians
FORWARDS = {"forward": "by swap", "stamp": "... and each packet's time read", "pcap": "the pcap face, a callback per packet"}


def rate(floor, mode, ports, batch, seconds, size, c=False):
    """Run one mode with the traffic it needs; gives packets per CPU-second."""
    tally = Path(floor).with_name("tally")
    tally.write_bytes(bytes(8))
    program = [sys.executable, ROOT / "benchmarks/live_rings.py", mode, *(f"xdp:{port}" for port in ports), batch, seconds, size]
    if c:
        program = [floor, mode, *ports, batch, seconds, "-", size]
    with ExitStack() as stack:
        if len(ports) == 2 and mode == "tx":
            stack.enter_context(running("two", OTHERS, sys.executable, ROOT / "benchmarks/live_flowos.py", "rx", "xdp:far1", 64, seconds + 2))
        elif mode != "rx":
            stack.enter_context(running("two", OTHERS, floor, "rx", "far1", 64, 60, tally))
        tested = stack.enter_context(running("middle", TESTED, *program))
        if mode != "tx":
            stack.enter_context(running("one", OTHERS, floor, "tx", "far0", 32, seconds + 5, "-" if mode == "rx" else tally, size))
        done = json.loads(tested.stdout.readline())
    return done["packets"] / max(done["cpu"], 1e-6)


def ends(mode):
    """Name the interfaces that a mode is for."""
    return {"tx": ["mid1"], "rx": ["mid0"]}.get(mode, ["mid0", "mid1"])


def ping(count):
    """Give the median round trip of pings from the first namespace, in microseconds."""
    told = inside("one", "ping", "-i", "0.002", "-c", count, "10.92.0.2").decode()
    times = [float(value) * 1000 for value in re.findall(r"time=([\d.]+) ms", told)]
    if len(times) < count * 0.9:
        raise RuntimeError(f"{len(times)} answers of {count}")
    return statistics.median(times)


def pings(count):
    """Give both medians: by the kernel, and by a program on rings in its place."""
    neighbour = json.loads(subprocess.run(["ip", "-j", "-n", SPACES["middle"], "link", "show", "mid0"], check=True, capture_output=True).stdout)
    ip("-n", SPACES["one"], "neighbour", "replace", "10.92.0.2", "lladdr", neighbour[0]["address"], "dev", "far0")
    kernel = ping(count)
    with running("middle", TESTED, sys.executable, ROOT / "benchmarks/live_rings.py", "ping", "xdp:mid0", 64, count * 0.002 + 1.5, 0):
        return {"kernel": kernel, "rings": ping(count)}


def sweep(floor, seconds):
    """Measure all of one round; gives {name: figure}."""
    told = {}
    for size in SIZES:
        for mode in "tx", "rx", "forward":
            told[f"size {size} {mode}"] = rate(floor, mode, ends(mode), 64, seconds, size)
            told[f"size {size} {mode} c"] = rate(floor, mode, ends(mode), 64, seconds, size, c=True)
    for batch in BATCHES:
        told[f"batch {batch} 1"] = rate(floor, "tx", ["mid1"], batch, seconds, 60)
    for mode in FORWARDS:
        told[f"forward {mode}"] = rate(floor, mode, ends(mode), 256, seconds, 60)
    return told


def tables(told):
    """Lay the figures out as the source does."""
    def million(name):
        return f"{told[name] / 1e6:.2f}"

    lines = ["", "Figure 4.5: by frame size, batches of 64, FlowOS and C:", "",
             "| bytes | send | C | receive | C | forward | C | source, sending: line rate |", "|---|---|---|---|---|---|---|---|"]
    for size in SIZES:
        cells = [million(f"size {size} {mode}{who}") for mode in ("tx", "rx", "forward") for who in ("", " c")]
        line = 10e9 / 8 / (size + 4 + 20) / 1e6               # with checksum, preamble and gap
        lines.append(f"| {size} | {' | '.join(cells)} | {line:.2f} |")
    lines += ["", "Figure 4.6: sending 60-byte frames from one core, by batch:", "",
              "| batch | one queue | two | source: one ring | two |", "|---|---|---|---|---|"]
    for batch in BATCHES:
        source = [f"{value:.2f}" for value in SOURCE_BURSTS.get(batch, ())] or ["–", "–"]
        lines.append(f"| {batch} | {million(f'batch {batch} 1')} | {million(f'batch {batch} 2')} | {' | '.join(source)} |")
    lines += ["", "Figure 4.7: forwarding 60-byte frames:", "", "| | FlowOS | | source |", "|---|---|---|---|"]
    for mode, (name, figure) in SOURCE_FORWARD.items():
        lines.append(f"| {FORWARDS[mode]} | {million(f'forward {mode}')} | {name} | {figure:.2f} |")
    lines += ["", "Section 4.1.10: median round trip of a ping, µs:", "", "| | here | source |", "|---|---|---|"]
    for who, name in ("kernel", "the kernel's stack"), ("rings", "a Python program on rings"):
        lines.append(f"| {name} | {told[f'ping {who}']:.0f} | {SOURCE_PING[who]} |")
    return lines


def report():
    """Write the tables of the page, between their marks."""
    lines = tables(json.loads(RESULT.read_text())["figures"])
    before, _, rest = PAGE.read_text().partition(MARKS[0])
    PAGE.write_text("\n".join([before + MARKS[0], *lines, "", MARKS[1] + rest.partition(MARKS[1])[2]]))


def main():
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.4)
    parser.add_argument("--quick", action="store_true", help="does everything work? figures mean nothing; nothing is written")
    parser.add_argument("--report", action="store_true", help="write the tables of docs/ports.md from the result file")
    arguments = parser.parse_args()
    if arguments.report:
        report()
        return
    rounds, seconds, count = (1, 0.1, 50) if arguments.quick else (arguments.rounds, arguments.seconds, 500)
    all_, load = {}, [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        floor = build_floor(folder)
        for _round in range(rounds):
            with network():
                for name, figure in sweep(floor, seconds).items():
                    all_.setdefault(name, []).append(figure)
            with network(queues=2):
                for batch in BATCHES:
                    all_.setdefault(f"batch {batch} 2", []).append(rate(floor, "tx", ["mid1/0", "mid1/1"], batch, seconds, 60))
            with network(addresses=True):
                for who, figure in pings(count).items():
                    all_.setdefault(f"ping {who}", []).append(figure)
            time.sleep(0.1)
    load.append(os.getloadavg()[0])
    told = {name: round(statistics.median(values), 1) for name, values in all_.items()}
    print("\n".join(tables(told)))
    if not arguments.quick:
        RESULT.write_text(json.dumps({"date": "2026-11-21", "host": host(), "load": load, "rounds": rounds, "seconds": seconds,
                                      "figures": told, "all": all_}, indent=1) + "\n")


if __name__ == "__main__":
    main()
