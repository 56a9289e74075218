"""Claim: two compiled modules that compute take at most 0.65 of their inline time on threads of their own, given two cores.

    python benchmarks/threads.py [--rounds N] [--quick]       measures, writes the result file
    python benchmarks/threads.py --report                     writes the table of docs/performance.md from it

The example of a compiled module (examples/compiled_module) counts bytes without the GIL.  Two of it are attached to
the same 4 MiB of TCP, once inline and once each on its own thread, in one process and in turn; `work` is how often each
goes over its bytes.  What is measured is the wall time of `Engine.run`, and told is the best of all rounds on either
side: another program on the machine can only add to it.  Both ways must emit the same records.

The line to count from is `bare`: two hashes of 64 MiB, one after the other and on two threads, which share nothing.  Where
they do not come near 0.5, other programs had the second core.  `alone` is what is left of the ratio when they
are taken off: of each run the wall time less that for which the thread that waited longest for a processor was ready to run
(/proc/self/task/*/schedstat), best of all rounds on either side.  Waiting for each other, for the GIL and for work is in it.
"""
import argparse
import datetime
import hashlib
import json
import os
import shlex
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

import measure
import numpy as np
from text import words

import flowos
from flowos.core.worker import ModuleThread
from flowos.packets import Conversation, save

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "benchmarks"
RESULT = ROOT / "benchmarks/results/2026-11-21-threads.json"
PAGE = ROOT / "docs/performance.md"
MARKS = "<!-- threads.py writes this table -->", "<!-- to here -->"
AIM = 0.65
WORK = 1, 4, 16, 64, 256
CONNECTIONS, TURN, TURNS = 64, 16 << 10, 4                # 4 MiB in all
BARE = bytes(64 << 20)


def module():
    """Compile the example; give its class."""
    source = ROOT / "examples/compiled_module/byte_entropy.pyx"
    target = BUILD / f"byte_entropy{sysconfig.get_config_var('EXT_SUFFIX')}"
    contract = [source, *(ROOT / "flowos/core").glob("*.pxd"), *(ROOT / "flowos/core").glob("*.h")]
    if not target.exists() or target.stat().st_mtime < max(path.stat().st_mtime for path in contract):
        BUILD.mkdir(parents=True, exist_ok=True)
        generated = BUILD / "byte_entropy.c"
        for command in ([sys.executable, "-m", "cython", "-3", "-X", "boundscheck=False", "-X", "wraparound=False", "-I", ROOT,
                         "-o", generated, source],
                        [*shlex.split(os.environ.get("CC", "gcc")), "-O3", "-shared", "-fPIC", "-w", f"-I{ROOT / 'flowos/core'}",
                         f"-I{sysconfig.get_path('include')}", generated, "-o", target]):
            subprocess.run(command, check=True, timeout=300)
    sys.path.insert(0, str(BUILD))
    from byte_entropy import ByteEntropy
    return ByteEntropy


def capture(turns):
    """Write the capture: conversations side by side; give its path."""
    path, packets = BUILD / f"threads-{turns}.pcap", []
    if not path.exists():
        text = words(np.random.default_rng(7), CONNECTIONS * TURN)
        for number in range(CONNECTIONS):
            talk = Conversation((f"10.1.{number}.1", 40000), ("10.0.0.2", 80), start=1_700_000_000 * 10**9 + number * 1000).open()
            for turn in range(turns):
                talk.send(turn % 2, text[number * TURN:(number + 1) * TURN])
            packets += talk.close().packets
        save(path, sorted(packets))
    return path


def queued(thread):
    """Give the seconds for which a thread, by the kernel's number, was ready to run and did not."""
    return int(Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[1]) / 1e9


class Records:
    """A sink that keeps what was emitted, but for the time: a window that waited for its module is of a later delivery."""

    def __init__(self):
        self.kept = []

    def write(self, record):
        self.kept.append(sorted((name, value) for name, value in record.items() if name != "ts"))


def run(kind, path, work, where):
    """Run two modules over the capture; give the seconds of wall time, of CPU time, the longest that a thread was queued, and the records."""
    records = Records()
    with flowos.Engine(flowos.Config.offline()) as engine:
        engine.add_port(path)
        engine.sink = records
        for _ in range(2):
            engine.attach(kind(work), threads=where)
        wall, cpu = time.perf_counter(), time.process_time()
        threads = [thread.native_id for thread in threading.enumerate() if thread is threading.current_thread() or type(thread) is ModuleThread]
        before = [queued(thread) for thread in threads]
        engine.run()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return wall, cpu, max(queued(thread) - was for thread, was in zip(threads, before, strict=True)), sorted(records.kept)


def bare(where):
    """Hash twice, in turn or on two threads; give the seconds of wall time, of CPU time, the longest that a thread was queued; in turn, both were."""
    spent = []

    def work():
        hashlib.sha256(BARE)
        spent.append(queued(threading.get_native_id()))

    threads = [threading.Thread(target=work) for _ in range(2)]
    wall, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
        if where == "inline":
            thread.join()
    for thread in threads:
        thread.join()
    return time.perf_counter() - wall, time.process_time() - cpu, sum(spent) if where == "inline" else max(spent)


def compare(kind, path, rounds):
    """Run everything in turn; give the rows of the result."""
    times = {(work, where): [] for work in ("bare", *WORK) for where in ("inline", "own")}
    for _ in range(rounds):
        for where in ("inline", "own"):
            times["bare", where].append(bare(where))
        for work in WORK:
            (*inline, known), (*own, found) = (run(kind, path, work, where) for where in ("inline", "own"))
            if known != found or len(known) != 4 * CONNECTIONS:
                raise SystemExit(f"work {work}: {len(found)} records on own threads, {len(known)} inline, and they differ")
            times[work, "inline"].append(inline)
            times[work, "own"].append(own)
    rows = []
    for work in ("bare", *WORK):
        best = {where: min(wall for wall, *_ in times[work, where]) for where in ("inline", "own")}
        own, inline = (min(wall - wait for wall, _, wait in times[work, where]) for where in ("own", "inline"))
        rows.append({"work": work, **{f"{where}_s": round(seconds, 4) for where, seconds in best.items()},
                     "ratio": round(best["own"] / best["inline"], 3), "alone": round(own / inline, 3),
                     **{f"{where}_all": [[round(seconds, 4) for seconds in one] for one in times[work, where]] for where in best}})
    return rows


def report():
    """Write the table of the page, between its two marks."""
    told = json.loads(RESULT.read_text())
    lines = [f"| work | inline, ms | on own threads, ms | ratio, aim {AIM} | alone |", "|---|---|---|---|---|"]
    lines += [f"| {row['work']} | {row['inline_s'] * 1e3:.0f} | {row['own_s'] * 1e3:.0f} | {row['ratio']:.2f} | {row['alone']:.2f} |" for row in told["rows"]]
    before, _, rest = PAGE.read_text().partition(MARKS[0])
    PAGE.write_text("\n".join([before + MARKS[0], *lines, MARKS[1] + rest.partition(MARKS[1])[2]]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="does everything work? figures mean nothing")
    parser.add_argument("--report", action="store_true", help="write the table of docs/performance.md from the result file")
    arguments = parser.parse_args()
    if arguments.report:
        report()
        return
    load, stolen = os.getloadavg()[0], measure.steal()
    rows = compare(module(), capture(2 if arguments.quick else TURNS), 1 if arguments.quick else arguments.rounds)
    for row in rows:
        print("work {work:>4}: inline {inline_s:.4f} s, on own threads {own_s:.4f} s, ratio {ratio:.2f}, alone {alone:.2f}".format(**row))
    if not arguments.quick:
        RESULT.write_text(json.dumps({"date": datetime.date.today().isoformat(), "host": measure.host(), "rounds": arguments.rounds,
                                      "cores": len(os.sched_getaffinity(0)), "load": [load, os.getloadavg()[0]],
                                      "steal": measure.steal() - stolen, "aim": AIM, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
