"""Memory over time: a long capture with a million connections, streamed through standard input.

    python benchmarks/memory.py [--quick] [--inspect] [--run BYTES:CONNECTIONS:TOGETHER]...

Two runs: ten gigabytes of a million connections, 50,000 of them open at a time, where memory
must stay flat; and a million connections open at once, which must fit in a gigabyte.  Both last
an hour of capture time, so that connections that ended time out on the way.  `--quick` takes a
twentieth of everything else.  The consumer counts the windows and bytes of every stream in Python
(flowos_count.py); with `--inspect` it is `flowos inspect - --json`.

What /proc says of the consumer is sampled as it reads: resident memory, of it what belongs to no
file, and the bytes read so far.  Results go to benchmarks/results/ (quick ones to
build/benchmarks/).  A wrong count ends in exit status 1; how much memory is much is for the reader.
"""
import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure
from contestants import differences, found

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PAGE = os.sysconf("SC_PAGE_SIZE")
INTERVAL = 0.1                                          # seconds between samples
RUNS = {"flat": (10_000_000_000, 1_000_000, 50_000), "open at once": (1_000_000_000, 1_000_000, 1_000_000)}


def sample(pid):
    """Give (resident, of it anonymous, read so far) of a process in bytes; None when it is over."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            _, resident, shared = file.readline().split()[:3]
        with open(f"/proc/{pid}/io") as file:
            read = int(file.readline().split()[1])
    except (OSError, ValueError):
        return None
    return (int(resident) * PAGE, (int(resident) - int(shared)) * PAGE, read) if int(resident) else None


def watch(process):
    """Sample a process until it ends; give rows of (seconds, resident, anonymous, read)."""
    rows, begun = [], time.monotonic()
    while process.poll() is None:
        values = sample(process.pid)
        if values:
            rows.append((round(time.monotonic() - begun, 3), *values))
        time.sleep(INTERVAL)
    return rows


def run(size, connections, together, inspect):
    """Stream one capture into one consumer; give what was seen."""
    with tempfile.TemporaryDirectory() as directory:
        truth_file, answer_file = Path(directory, "truth"), Path(directory, "answer")
        make = [sys.executable, HERE / "bigstream.py", "--bytes", str(size), "--connections", str(connections),
                "--together", str(together), "--truth", truth_file]
        take = [sys.executable, "-m", "flowos.cli", "inspect", "-", "--json"] if inspect else \
            [sys.executable, HERE / "flowos_count.py", "tcp", "-"]
        begun = time.monotonic()
        with open(answer_file, "wb") as output:
            source = subprocess.Popen(make, stdout=subprocess.PIPE)
            consumer = subprocess.Popen(take, stdin=source.stdout, stdout=output)
            source.stdout.close()                       # the consumer alone holds the reading end
            rows = watch(consumer)
            if consumer.wait() or source.wait():
                raise RuntimeError(f"the consumer ended with {consumer.returncode}, the source with {source.returncode}")
        wall = time.monotonic() - begun
        truth = json.loads(truth_file.read_text())
        answer = read_inspect(answer_file) if inspect else json.loads(answer_file.read_text())
    return {"asked": {"bytes": size, "connections": connections, "together": together},
            "consumer": "inspect" if inspect else "count", "truth": truth, "answer": answer,
            "differs": differences(answer, truth), "wall_s": wall, "mb_per_s": truth["bytes"] / wall / 1e6,
            **summary(rows), "samples": thin(rows)}


def read_inspect(path):
    """Count what `inspect` printed, a line at a time: its output is long too."""
    with open(path, encoding="utf-8") as file:
        document = json.load(file)
    return {"packets": document["capture"]["packets"], "connections": len(document["connections"]),
            "stream_bytes": sum(connection[way]["stream"]["bytes"]
                                for connection in document["connections"] for way in ("a_to_b", "b_to_a"))}


def summary(rows):
    """Give the highest resident memory, and where it stood after a quarter, a half and all of the input."""
    total = rows[-1][3]
    at = {name: next(row[1] for row in rows if row[3] >= part * total)
          for name, part in (("quarter", 0.25), ("half", 0.5), ("three_quarters", 0.75), ("end", 1.0))}
    return {"peak": max(row[1] for row in rows), "resident_at": at}


def thin(rows, most=400):
    """Keep so many samples, evenly."""
    return rows[::max(1, len(rows) // most)]


def plot(results, path):
    """Draw resident memory over the bytes read."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "flowos", "svg.fonttype": "none", "font.size": 8})
    from matplotlib import pyplot

    figure, rows = pyplot.subplots(len(results), figsize=(7.5, 2.2 * len(results)), squeeze=False, layout="constrained")
    for (name, result), axes in zip(results.items(), rows[:, 0]):
        asked = result["asked"]
        axes.plot([row[3] / 1e9 for row in result["samples"]], [row[1] / 1e6 for row in result["samples"]], color="#1b6ca8")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("GB read")
        axes.set_ylabel("resident MB")
        axes.set_title(f"{name}: {asked['bytes'] / 1e9:g} GB, {asked['connections']:,} connections, "
                       f"{asked['together']:,} open at a time", loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main():
    parser = argparse.ArgumentParser(description="Sample the memory of FlowOS on long captures.")
    parser.add_argument("--quick", action="store_true", help="a twentieth of everything")
    parser.add_argument("--inspect", action="store_true", help="`flowos inspect` in place of a counting module")
    parser.add_argument("--run", action="append", metavar="BYTES:CONNECTIONS:TOGETHER", help="this in place of the two runs")
    parser.add_argument("--results", type=Path, help="where to write the result")
    arguments = parser.parse_args()
    runs = RUNS
    if arguments.run:
        runs = {f"run {i + 1}": tuple(int(float(n)) for n in text.split(":")) for i, text in enumerate(arguments.run)}
    elif arguments.quick:
        runs = {name: tuple(number // 20 for number in numbers) for name, numbers in RUNS.items()}
    if not found("flowos"):                             # compiled in place, not installed
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])

    results = {}
    for name, numbers in runs.items():
        result = results[name] = run(*numbers, arguments.inspect)
        truth, at = result["truth"], result["resident_at"]
        print(f"{name}: {truth['bytes'] / 1e9:.2f} GB, {truth['packets']:,} packets, {truth['connections']:,} connections, "
              f"{numbers[2]:,} open at a time: resident at most {result['peak'] / 1e6:.0f} MB; after a quarter, a half, "
              f"three quarters, all: {', '.join(f'{value / 1e6:.0f}' for value in at.values())} MB; "
              f"{result['mb_per_s']:.0f} MB/s", flush=True)
        for what in result["differs"]:
            print(f"WRONG ANSWER: {what}")

    description = measure.host()
    partial = arguments.quick or arguments.run
    directory = arguments.results or ROOT / ("build/benchmarks" if partial else "benchmarks/results")
    directory.mkdir(parents=True, exist_ok=True)
    kind = "memory-inspect" if arguments.inspect else "memory"
    base = directory / f"{datetime.date.today().isoformat()}-{measure.host_kind(description)}-{kind}"
    record = {"date": datetime.date.today().isoformat(), "host": description, "runs": results}
    base.with_name(f"{base.name}.json").write_text(json.dumps(record) + "\n")
    try:
        plot(results, base.with_name(f"{base.name}.svg"))
    except ImportError:
        print("skipped: the plot: matplotlib is not installed")
    print(f"written: {base}.json")
    return 1 if any(result["differs"] for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
