"""Claim: rings from Python receive, send and forward at least 0.9 of the packets per CPU-second of C, from batch 32 on.

    python benchmarks/live_ports.py [--rounds N] [--seconds S] [--quick]      needs root; measures, writes the result file
    python benchmarks/live_ports.py --report                                  writes the table of docs/ports.md from it

    namespaces:   one ── veth ── middle ── veth ── two        60-byte frames, AF_XDP in copy mode, one queue

The program under test runs in the middle, on one core: FlowOS's rings (live_flowos.py), an engine in line without and
with a module, and the C program (live_floor.c), one after another in each round.  Generator and sink are the C program in every
case, on the other core, and send what comes through (only the receiver is flooded).  Packets per CPU-second of the process's own loop are compared round by round; told are the
medians, and between what the ratio lay.
"""
import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from live_net import OTHERS, ROOT, TESTED, build_floor, network, running
from measure import host

RESULT = ROOT / "benchmarks/results/2026-11-21-live-ports.json"
PAGE = ROOT / "docs/ports.md"
MARKS = "<!-- live_ports.py writes this table -->", "<!-- to here -->"
NAMES = {"rx": "receive", "tx": "send", "forward": "forward by swap", "engine": "engine in line", "module": "... and a module that counts",
         "stream": "... and a module on TCP streams"}
BATCHES = (1, 8, 32, 64, 256)
ENGINES = ("engine", "module", "stream")      # in line: classified and merged; a module that counts datagrams; one on 64 TCP streams


def measure(floor, who, mode, batch, seconds, traffic="tx"):
    """Run one mode of one program with the traffic it needs, as much as passes; gives {"packets", "cpu"}."""
    ends = ["mid0", "mid1"] if mode in ("forward", *ENGINES) else ["mid1"] if mode == "tx" else ["mid0"]
    program = [floor, mode, *ends] if who == "c" else [
        sys.executable, ROOT / "benchmarks/live_flowos.py", mode, *(f"xdp:{end}" for end in ends)]
    tally = Path(floor).with_name("tally")
    tally.write_bytes(bytes(8))
    with contextlib.ExitStack() as stack:
        if mode != "rx":
            stack.enter_context(running("two", OTHERS, floor, "rx", "far1", 64, 60, tally))
        tested = stack.enter_context(running("middle", TESTED, *program, batch, seconds))
        if mode != "tx":
            stack.enter_context(running("one", OTHERS, floor, traffic, "far0", 32, seconds + 5, *[tally] * (mode != "rx")))
        return json.loads(tested.stdout.readline())


def report():
    """Write the table of the page, between its two marks."""
    told = json.loads(RESULT.read_text())["figures"]
    rows = ["| | batch | FlowOS | C | ratio | between |", "|---|---|---|---|---|---|"]
    for name, row in told.items():
        mode, batch = name.split()
        rows.append(f"| {NAMES[mode]} | {batch} | {row['flowos'] / 1e6:.2f} | {row['c'] / 1e6:.2f} | {row['ratio']:.2f} "
                    f"| {row['least']:.2f} and {row['most']:.2f} |")
    before, _, rest = PAGE.read_text().partition(MARKS[0])
    PAGE.write_text("\n".join([before + MARKS[0], *rows, MARKS[1] + rest.partition(MARKS[1])[2]]))


def main():
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.6)
    parser.add_argument("--quick", action="store_true", help="does everything work? figures mean nothing")
    parser.add_argument("--report", action="store_true", help="write the table of docs/ports.md from the result file")
    arguments = parser.parse_args()
    if arguments.report:
        report()
        return
    rounds, seconds = (1, 0.3) if arguments.quick else (arguments.rounds, arguments.seconds)
    figures, load = {}, [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder, network():
        floor = build_floor(folder)
        cases = [(mode, batch) for mode in ("rx", "tx", "forward") for batch in BATCHES] + [(mode, 256) for mode in ENGINES]
        for _round in range(rounds):
            for mode, batch in cases:
                for who in ("flowos", "c"):
                    done = measure(floor, who, "forward" if who == "c" and mode in ENGINES else mode, batch, seconds,
                                   "stream" if mode == "stream" else "tx")
                    figures.setdefault(f"{mode} {batch} {who}", []).append(done["packets"] / max(done["cpu"], 1e-6))
                    time.sleep(0.05)
    load.append(os.getloadavg()[0])
    told = {}
    for mode, batch in cases:
        ours, theirs = figures[f"{mode} {batch} flowos"], figures[f"{mode} {batch} c"]
        ratios = [one / other for one, other in zip(ours, theirs)]        # neighbours in time
        told[f"{mode} {batch}"] = {"flowos": round(statistics.median(ours)), "c": round(statistics.median(theirs)),
                                   "ratio": round(statistics.median(ratios), 2), "least": round(min(ratios), 2), "most": round(max(ratios), 2)}
        print("{:<8} batch {:>3}: {flowos:>9,} packets per CPU-second, C {c:>9,}, ratio {ratio:.2f} ({least:.2f} to {most:.2f})".format(
            mode, batch, **told[f"{mode} {batch}"]))
    if not arguments.quick:
        RESULT.write_text(json.dumps({"date": "2026-11-21", "host": host(), "load": load, "rounds": rounds, "seconds": seconds, "figures": told,
                                      "all": {name: [round(value) for value in values] for name, values in figures.items()}}, indent=1) + "\n")


if __name__ == "__main__":
    main()
