"""Claim: on flows a job costs little more than a C program that does the least for it, and eight modules cost far less than eight times one.

    python benchmarks/jobs.py [--rounds 10] [--only count|search|strip|forward|windows|pipeline|sizes|connections]... [--quick]

The same job done packet by packet and by FlowOS, in one run:

    count        packets and bytes per connection, on udp64 and on the web trace
    search       a pattern in TCP streams, on the web trace
    strip        a pattern out of HTTP bodies, the capture written, on the web trace
    forward      every packet written as it came, with nobody attached and with an editor on another flow
    windows      modules that are called with every window and do nothing: what handing one over costs
    pipeline     k = 1 to 8 modules that each search the streams for a pattern of their own
    sizes        search, by bytes per segment; connections: by how many there are

Measured as run.py measures: CPU time of whole processes net of the same on one packet, rounds
interleaved, answers compared with the truth.  What is slow runs on the first packets; it and the
curves take three rounds, what an aim is held against ten.  No time is asserted; a wrong answer of FlowOS or of the floor ends in exit status 1.
"""
import argparse
import datetime
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import jobs_report
import measure
import streamtraces
import traces
from contestants import FLOOR, FLOWOS, HERE, NIDS, RIVALS, Contestant, build, found, importable
from run import ROOT, SLOW_ROUNDS, Series, give_up
from webtrace import PATTERN

SECRET = PATTERN.decode()
PACKETS = "per packet (Cython)"
JOBS = ("count", "search", "strip", "forward", "windows", "pipeline", "sizes", "connections")
# What eight modules look for: one that is there, others of its length that are not.
PATTERNS = [SECRET] + [f"NOT{i}THEREat" for i in range(2, 9)]
AGAIN = 9                                               # how often the bare loop goes over a window, and how many modules do nothing
PYTHON_SLICE, SCAPY_SLICE, PIPELINE_SLICE = 100_000, 20_000, 20_000


def build_cython(directory, say):
    """Compile the per-packet loop of rivals/packets.pyx; give the command that runs it, or None."""
    source, target = RIVALS / "packets.pyx", directory / f"packets{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        generated = directory / "packets.c"
        cython = [sys.executable, "-m", "cython", "-3", "-o", generated, source]
        for directive in ("boundscheck=False", "wraparound=False", "cdivision=True", "initializedcheck=False"):
            cython[4:4] = ["-X", directive]
        compiled = [shutil.which("cc") or "gcc", "-O3", "-march=native", "-shared", "-fPIC", "-w",
                    f"-I{sysconfig.get_path('include')}", generated, "-o", target]
        for command in (cython, compiled):
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                say(f"skipped: {PACKETS}: {(result.stderr.strip().splitlines() or ['?'])[-1]}")
                return None
    program = "import sys; sys.path.insert(0, sys.argv.pop(1)); import packets; packets.main(sys.argv[1:])"
    return [sys.executable, "-c", program, directory]


class Row(Series):
    """All runs of one contestant; what it needs of memory is too little to make ready before (measure.touch)."""

    def round(self):
        self.starts.append(measure.run([*self.contestant.command, self.one]))
        self.runs.append(measure.run([*self.contestant.command, self.path]))


def rounds_of(job, x, contestant, rounds):
    """How many rounds one is run: those that an aim is held against all of them, curves fewer."""
    fewer = contestant.slow or job in ("sizes", "connections") or (job == "pipeline" and x not in (1, 8))
    return min(rounds, SLOW_ROUNDS) if fewer else rounds


class Field:
    """Who does which job on which trace."""

    def __init__(self, made, built, cython, scratch, say):
        self.made, self.built, self.cython, self.scratch = made, built, cython, scratch
        self.dpkt = importable("dpkt", say) and [sys.executable, RIVALS / "dpkt_jobs.py"]
        self.scapy = importable("scapy", say) and [sys.executable, RIVALS / "scapy_jobs.py"]
        self.nfstream = importable("nfstream", say) and [sys.executable, RIVALS]
        self.entries = []                               # (job, x, trace, Contestant)

    def add(self, job, x, trace, name, command, limit=None, note=""):
        """Enter one; a command that is None or False is of somebody who is not here."""
        if command:
            self.entries.append((job, x, trace, Contestant(name, trace, tuple(map(str, command)), limit, note)))

    def flowos(self, *words):
        return [sys.executable, HERE / "flowos_jobs.py", *words]

    def floor(self, *words):
        return [self.built[FLOOR], *words] if FLOOR in self.built else None

    def packets(self, *words):
        return [*self.cython, *words] if self.cython else None

    def count(self):
        for trace in ("udp64", "http"):
            job = f"count, {trace}"
            self.add(job, None, trace, FLOWOS, self.flowos("count"))
            self.add(job, None, trace, FLOOR, self.floor("flow"))
            self.add(job, None, trace, PACKETS, self.packets("count"))
            self.add(job, None, trace, "dpkt", self.dpkt and [*self.dpkt, "count"], PYTHON_SLICE)
            self.add(job, None, trace, "scapy", self.scapy and [*self.scapy, "count"], SCAPY_SLICE)
            self.add(job, None, trace, "NFStream", self.nfstream and [self.nfstream[0], RIVALS / "nfstream_flows.py"],
                     PYTHON_SLICE, "flow statistics beyond counting")

    def search(self):
        self.add("search", None, "http", FLOWOS, self.flowos("search", SECRET))
        self.add("search", None, "http", f"FlowOS, searched {AGAIN} times", self.flowos("bare", AGAIN, SECRET))
        self.add("search", None, "http", FLOOR, self.floor("search", SECRET))
        self.add("search", None, "http", PACKETS, self.packets("search", SECRET))
        if NIDS in self.built:
            # It takes its pattern behind the capture's path.
            self.add("search", None, "http", NIDS, ["sh", "-c", f'exec {self.built[NIDS]} "$0" {SECRET}'])
        self.add("search", None, "http", "dpkt", self.dpkt and [*self.dpkt, "search", SECRET], PYTHON_SLICE)
        self.add("search", None, "http", "scapy", self.scapy and [*self.scapy, "search", SECRET], SCAPY_SLICE)
        self.add("search", None, "http", "NFStream plugin", self.nfstream and [
            self.nfstream[0], RIVALS / "nfstream_search.py", SECRET], PYTHON_SLICE, "no reassembly: misses what lies across packets")

    def strip(self):
        file = self.scratch / "stripped.pcap"
        edits = "in one packet only; HTTP's lengths are wrong afterwards"
        self.add("strip", None, "http", FLOWOS, self.flowos("strip", SECRET, "/dev/null"))
        self.add("strip", None, "http", "FlowOS, to a file", self.flowos("strip", SECRET, file))
        self.add("strip", None, "http", FLOOR, self.floor("strip", SECRET, "/dev/null"), note=edits)
        self.add("strip", None, "http", "floor (C), to a file", self.floor("strip", SECRET, file), note=edits)
        self.add("strip", None, "http", PACKETS, self.packets("strip", SECRET, "/dev/null"), note=edits)
        self.add("strip", None, "http", "dpkt", self.dpkt and [*self.dpkt, "strip", SECRET, "/dev/null"], PYTHON_SLICE,
                 f"{edits}, TCP's numbers too")
        self.add("strip", None, "http", "scapy", self.scapy and [*self.scapy, "strip", SECRET, "/dev/null"], SCAPY_SLICE,
                 f"{edits}, TCP's numbers too")

    def pipeline(self):
        for k in range(1, 9):
            self.add("pipeline", k, "http", FLOWOS, self.flowos("pipeline", *PATTERNS[:k]))
            self.add("pipeline", k, "http", PACKETS, self.packets("pipeline", *PATTERNS[:k]),
                     note="each module has a table and a reassembly of its own")
            if k in (1, 2, 4, 8):
                self.add("pipeline", k, "http", "dpkt", self.dpkt and [*self.dpkt, "pipeline", *PATTERNS[:k]], PIPELINE_SLICE)
                self.add("pipeline", k, "http", "scapy", self.scapy and [*self.scapy, "pipeline", *PATTERNS[:k]], PIPELINE_SLICE // 4)

    def forward(self):
        self.add("forward", None, "http", FLOWOS, self.flowos("forward", "/dev/null"))
        self.add("forward", None, "http", "FlowOS, bypassed", self.flowos("bypass", "/dev/null"))

    def windows(self):
        for k in (1, AGAIN):
            self.add("windows", k, "http", FLOWOS, self.flowos("windows", k))
            self.add("windows", k, "http", "FlowOS, in batches", self.flowos("batches", k))

    def sizes(self, job="sizes", values=streamtraces.SIZES, name="size"):
        for x in values:
            trace = f"{name}-{x}"
            self.add(job, x, trace, FLOWOS, self.flowos("search", SECRET))
            self.add(job, x, trace, FLOOR, self.floor("search", SECRET))
            self.add(job, x, trace, PACKETS, self.packets("search", SECRET))
            if NIDS in self.built:
                self.add(job, x, trace, NIDS, ["sh", "-c", f'exec {self.built[NIDS]} "$0" {SECRET}'])
            self.add(job, x, trace, "dpkt", self.dpkt and [*self.dpkt, "search", SECRET], PIPELINE_SLICE)

    def connections(self):
        self.sizes("connections", streamtraces.CONNECTIONS, "connections")


def truth_of(entry, path, truth, built):
    """Say what is true of what a contestant is given: of a part of a trace, what the floor finds in it."""
    job, x, trace, contestant = entry
    known = dict(truth)
    if job in ("search", "pipeline"):
        known["matches"] = truth["patterns_in_streams"]
    if contestant.slow and FLOOR in built:
        known = measure.run([built[FLOOR], "search", SECRET, path]).answer
        del known["windows"]
    return {key: value for key, value in known.items() if key != "bytes" or not contestant.slow}


def check_strip(field, path, wrong):
    """Look into what FlowOS wrote: no pattern is left in its streams, and only the pattern and lengths are gone."""
    out = field.scratch / "stripped.pcap"
    measure.run([*map(str, field.flowos("strip", SECRET, out)), path])
    seen = measure.run([*map(str, field.floor("search", SECRET)), out]).answer
    if seen["matches"]:
        wrong.append(f"strip: {seen['matches']} patterns left in what FlowOS wrote")
    out.unlink()


def read_arguments():
    parser = argparse.ArgumentParser(description="The same job packet by packet and on flows.")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of the fast ones (default: 10)")
    parser.add_argument("--only", action="append", choices=JOBS, metavar="JOB", help=f"one of {', '.join(JOBS)}; may be repeated")
    parser.add_argument("--fast", action="store_true", help="leave out what runs on a part of a trace")
    parser.add_argument("--quick", action="store_true", help="one round, fast: does everything work?")
    parser.add_argument("--traces", type=Path, default=traces.DEFAULT, help="where traces are kept (default: %(default)s)")
    parser.add_argument("--results", type=Path, help="where to write the result")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.fast = 1, True
    return arguments


def main():
    arguments = read_arguments()
    skipped = []

    def say(line):
        print(line, flush=True)
        if line.startswith("skipped: "):
            skipped.append(line.removeprefix("skipped: "))

    if not found("flowos"):                             # compiled in place, not installed
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    if not importable("flowos", say):
        return 1
    os.environ["OPENBLAS_NUM_THREADS"] = "1"            # NumPy's idle threads spin: noise
    scratch = ROOT / "build" / "benchmarks"
    built = build(scratch, say)
    made = traces.ensure(arguments.traces, 1.0, ("udp64", "http"), say)
    chosen = arguments.only or JOBS
    if {"sizes", "connections"} & set(chosen):
        made.update(streamtraces.ensure(arguments.traces, say))
    field = Field(made, built, build_cython(scratch, say), scratch, say)
    for job in chosen:
        getattr(field, job)()
    measure.warm([path for path, _ in made.values()])
    wrong, series = [], []
    if "strip" in chosen and FLOOR in built:
        check_strip(field, made["http"][0], wrong)
    for entry in field.entries:
        job, x, trace, contestant = entry
        if contestant.slow and arguments.fast:
            continue
        whole, truth = made[trace]
        packets = min(contestant.limit or truth["packets"], truth["packets"])
        path = traces.first(whole, packets, truth)
        size = path.stat().st_size - 24 - 16 * packets
        one = Row(contestant, path, traces.first(whole, 1, truth), truth_of(entry, path, truth, built), (packets, size))
        series.append((job, x, one))

    load, stolen = os.getloadavg()[0], measure.steal()
    for number in range(arguments.rounds):
        say(f"round {number + 1} of {arguments.rounds}")
        for row in list(series):
            job, x, one = row
            if number < rounds_of(job, x, one.contestant, arguments.rounds):
                try:
                    one.round()
                except RuntimeError as error:
                    give_up(one.contestant, error, say)
                    series.remove(row)

    description = measure.host()
    result = {"date": datetime.date.today().isoformat(), "host": description, "rounds": arguments.rounds,
              "slow_rounds": min(SLOW_ROUNDS, arguments.rounds), "again": AGAIN, "load": [load, os.getloadavg()[0]],
              "steal": measure.steal() - stolen, "skipped": skipped,
              "traces": {name: truth for name, (_, truth) in made.items()},
              "runs": [{"job": job, "x": x, **one.entry()} for job, x, one in series]}
    complete = not arguments.only and not arguments.fast
    directory = arguments.results or ROOT / ("benchmarks/results" if complete else "build/benchmarks")
    directory.mkdir(parents=True, exist_ok=True)
    base = directory / f"{result['date']}-{measure.host_kind(description)}-jobs"
    jobs_report.write(result, base, say)
    for line in jobs_report.aims(result):
        print(line)
    wrong += [f"{entry['contestant']}, {entry['job']}: {what}" for entry in result["runs"] for what in entry["differs"]
              if entry["contestant"].startswith((FLOWOS, FLOOR))]
    for line in dict.fromkeys(wrong):
        print(f"WRONG ANSWER: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
