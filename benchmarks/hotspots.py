"""Where FlowOS's time goes, by function: perf's samples on the traces, from making the engine on.

    python benchmarks/hotspots.py [--only TRACE]... [--scale 1] [--least 1.5]

Needs perf.  Samples of the interpreter's start and of imports are subtracted: the same program
on one packet is profiled too.  Functions of the core that the compiler joined show up as one.
"""
import argparse
import collections
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import measure
import traces
from contestants import CLAIMS, found

HERE = Path(__file__).resolve().parent
FREQUENCY = 10_000                                      # samples per second of CPU time


def samples(command, times):
    """Count the samples of some runs by (library, function)."""
    counts = collections.Counter()
    with tempfile.TemporaryDirectory() as directory:
        data = str(Path(directory, "perf.data"))
        for _ in range(times):
            measure.touch(512 << 20)
            subprocess.run(["perf", "record", "-q", "-e", "cpu-clock", "-F", str(FREQUENCY), "-o", data, *command],
                           stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)
            output = subprocess.run(["perf", "script", "-i", data, "-F", "ip,sym,dso"], capture_output=True, text=True,
                                    check=True).stdout
            for line in output.splitlines():
                parts = re.match(r"\s*[0-9a-f]+ (.*) \((.*)\)$", line)
                if parts:
                    counts[parts[2].rsplit("/", 1)[-1].strip("[]").split(".")[0], parts[1]] += 1
    return counts


def main():
    parser = argparse.ArgumentParser(description="Show where FlowOS's time goes.")
    parser.add_argument("--only", action="append", choices=[claim.trace for claim in CLAIMS], metavar="TRACE")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--traces", type=Path, default=traces.DEFAULT)
    parser.add_argument("--least", type=float, default=1.5, help="leave out functions below so many percent (default: 1.5)")
    parser.add_argument("--times", type=int, default=5, help="runs that are added up (default: 5)")
    arguments = parser.parse_args()
    if not shutil.which("perf"):
        sys.exit("hotspots.py: perf is not installed")
    if not found("flowos"):                             # compiled in place, not installed
        os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    made = traces.ensure(arguments.traces, arguments.scale, arguments.only or traces.NAMES)
    measure.warm([path for path, _ in made.values()])
    for claim in CLAIMS:
        if claim.trace not in made:
            continue
        path, truth = made[claim.trace]
        command = [sys.executable, str(HERE / "flowos_count.py"), claim.flowos]
        counts = samples([*command, str(path)], arguments.times)
        counts.subtract(samples([*command, str(traces.first(path, 1, truth))], arguments.times))
        total = sum(counts.values())
        each = 1e9 / FREQUENCY / arguments.times / truth["packets"]
        print(f"\n{claim.trace}: {total * each:.1f} ns/packet")
        for (library, function), count in counts.most_common(40):
            if count * 100 >= arguments.least * total:
                print(f"{count * each:8.1f} ns {100 * count / total:5.1f} %  {library}: {function}")


if __name__ == "__main__":
    main()
