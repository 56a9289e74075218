"""The comparison: FlowOS, the floor and the rivals as whole processes on the same traces.

    python benchmarks/run.py [--rounds 10] [--scale 1] [--only TRACE]... [--quick]

What is measured is the CPU time (user and system) of the process, net of the same program on
the trace's first packet.  Rounds are interleaved: each round runs everybody once, so that what
disturbs the machine disturbs all.  Every answer is compared with what is known of the trace.

No time is ever asserted; a wrong answer of FlowOS or of the floor ends in exit status 1.
A complete run at scale 1 is written to benchmarks/results/, any other to build/benchmarks/.
"""
import argparse
import datetime
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import measure
import report
import traces
from contestants import CLAIMS, FLOOR, FLOWOS, build, contestants, differences, found, importable

ROOT = Path(__file__).resolve().parent.parent
SLOW_ROUNDS = 3
FIRST_TOUCH = 512 << 20                                 # bytes made ready before a first run, whose need is unknown


def read_arguments():
    parser = argparse.ArgumentParser(description="Compare FlowOS with the floor and with rivals.")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of the fast ones (default: 10)")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the traces (default: 1)")
    parser.add_argument("--only", action="append", choices=[claim.trace for claim in CLAIMS], metavar="TRACE",
                        help="only this trace; may be given more than once")
    parser.add_argument("--fast", action="store_true", help="leave out what runs on a part of a trace")
    parser.add_argument("--quick", action="store_true", help="--scale 0.05 --rounds 2: does everything work?")
    parser.add_argument("--traces", type=Path, default=traces.DEFAULT, help="where traces are kept (default: %(default)s)")
    parser.add_argument("--results", type=Path, help="where to write the result")
    parser.add_argument("--no-micro", action="store_true", help="leave out the small benchmarks of the parts")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.scale, arguments.rounds = 0.05, 2
    return arguments


def expected(trace, contestant, path, built):
    """Say what is true of what a contestant is given: of a part of a trace, what the floor finds in it."""
    if not contestant.slow or contestant.limit >= trace["packets"]:
        return trace
    if FLOOR not in built:
        return {}
    mode = next(claim.floor for claim in CLAIMS if claim.trace == contestant.trace)
    return measure.run([built[FLOOR], mode, path, "check"]).answer


class Series:
    """All runs of one contestant."""

    def __init__(self, contestant, path, one, truth, size):
        self.contestant, self.path, self.one, self.truth, self.size = contestant, path, one, truth, size
        self.runs, self.starts = [], []

    def round(self):
        """Run it once on what it is measured on and once on one packet."""
        command = self.contestant.command
        for path, runs in ((self.one, self.starts), (self.path, self.runs)):
            measure.touch(max([run.peak * 5 // 4 for run in runs], default=FIRST_TOUCH))
            runs.append(measure.run([*command, path]))

    def entry(self):
        """Give what is kept of the runs.

        `ns_unsure` is how far start-up times lie apart, per packet; `ns_inside` is what a program
        that times itself found for its work, imports and exit left out.
        """
        cpu, start = [run.cpu for run in self.runs], [run.cpu for run in self.starts]
        packets, size = self.size
        least, median = min(cpu) - min(start), statistics.median(cpu) - statistics.median(start)
        inside = [run.answer.pop("inside_ns", 0) for run in self.runs]
        answer = self.runs[-1].answer
        return {"trace": self.contestant.trace, "contestant": self.contestant.name, "note": self.contestant.note,
                "packets": packets, "ns_min": least / packets * 1e9, "ns_median": median / packets * 1e9,
                "ns_unsure": (statistics.median(start) - min(start)) / packets * 1e9,
                "ns_inside": min(inside) / packets if all(inside) else None,
                "mb_per_s": size / max(least, 1e-9) / 1e6, "startup_ms": min(start) * 1e3,
                "wall_min_s": min(run.wall for run in self.runs), "peak": max(run.peak for run in self.runs),
                "cpu_s": cpu, "system_s": [run.system for run in self.runs], "startup_s": start,
                "answer": answer, "differs": differences(answer, self.truth)}


def give_up(contestant, error, say):
    """Leave a rival out that failed, and say so; a failure of FlowOS or of the floor ends the run."""
    if contestant.name.startswith((FLOWOS, FLOOR)):
        raise error
    say(f"skipped: {contestant.name} on {contestant.trace}: {str(error).splitlines()[-1]}")


def prepare(everybody, made, built, say):
    """Give the series to run: parts of traces cut, contestants that fail at once left out."""
    series = []
    for contestant in everybody:
        whole, truth = made[contestant.trace]
        path = traces.first(whole, contestant.limit or truth["packets"], truth)
        known = expected(truth, contestant, path, built)
        packets = min(contestant.limit or truth["packets"], truth["packets"])
        size = path.stat().st_size - 24 - 16 * packets
        one = Series(contestant, path, traces.first(whole, 1, truth), known, (packets, size))
        try:
            measure.run([*contestant.command, one.one])
        except RuntimeError as error:
            give_up(contestant, error, say)
            continue
        series.append(one)
    return series


def check_answers(made, built):
    """Compare FlowOS's and the floor's digests with what is known; give what is wrong."""
    wrong = []
    for claim in CLAIMS:
        if claim.trace not in made:
            continue
        path, truth = made[claim.trace]
        commands = {FLOWOS: [sys.executable, ROOT / "benchmarks/flowos_count.py", claim.flowos, path, "--check"]}
        if FLOOR in built:
            commands[FLOOR] = [built[FLOOR], claim.floor, path, "check"]
        for name, command in commands.items():
            answer = measure.run(command).answer
            known = {**truth, "streams_crc": truth.get("streams_crc", 0), "datagrams_crc": truth.get("datagrams_crc", 0)}
            wrong += [f"{name} on {claim.trace}: {what}" for what in differences(answer, known)]
    return wrong


def micro(target):
    """Run the small benchmarks of the parts, and keep their figures beside the others."""
    if importlib.util.find_spec("pytest_benchmark") is None:
        print("skipped: the small benchmarks: pytest-benchmark is not installed")
        return 0
    command = [sys.executable, "-m", "pytest", "-q", ROOT / "benchmarks", "--benchmark-columns=min,median,rounds",
               "--benchmark-max-time=0.5", f"--benchmark-json={target}"]
    status = subprocess.run(command, check=False, cwd=ROOT).returncode
    figures = json.loads(target.read_text() or "{}") if target.exists() else {}
    kept = [{"name": one["name"], "params": one["params"], **one["extra_info"],
             **{f"{key}_s": one["stats"][key] for key in ("min", "median", "stddev")}, "rounds": one["stats"]["rounds"]}
            for one in figures.get("benchmarks", [])]
    target.write_text(json.dumps(kept, indent=1) + "\n")
    return status


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
    built = build(ROOT / "build" / "benchmarks", say)
    names = arguments.only or [claim.trace for claim in CLAIMS]
    made = traces.ensure(arguments.traces, arguments.scale, names, say)
    everybody = [one for one in contestants(built, say) if one.trace in names and not (arguments.fast and one.slow)]
    measure.warm([path for path, _ in made.values()])
    wrong = check_answers(made, built)
    series = prepare(everybody, made, built, say)

    load, stolen = os.getloadavg()[0], measure.steal()
    for number in range(arguments.rounds):
        say(f"round {number + 1} of {arguments.rounds}")
        for one in list(series):
            if number < SLOW_ROUNDS or not one.contestant.slow:
                try:
                    one.round()
                except RuntimeError as error:
                    give_up(one.contestant, error, say)
                    series.remove(one)

    description = measure.host()
    result = {"date": datetime.date.today().isoformat(), "host": description, "scale": arguments.scale,
              "rounds": arguments.rounds, "slow_rounds": min(SLOW_ROUNDS, arguments.rounds),
              "load": [load, os.getloadavg()[0]], "steal": measure.steal() - stolen, "skipped": skipped,
              "traces": {name: truth for name, (_, truth) in made.items()}, "runs": [one.entry() for one in series]}
    complete = arguments.scale == 1 and not arguments.only and not arguments.fast
    directory = arguments.results or ROOT / ("benchmarks/results" if complete else "build/benchmarks")
    directory.mkdir(parents=True, exist_ok=True)
    base = directory / f"{result['date']}-{measure.host_kind(description)}"
    write(result, base, say)

    print("\nCPU time; FlowOS in Python callbacks; how many times as long the others take:")
    for line in report.claims(result):
        print(line)
    wrong += [f"{entry['contestant']} on {entry['trace']}: {what}" for entry in result["runs"] for what in entry["differs"]
              if entry["contestant"].startswith((FLOWOS, FLOOR))]
    for line in dict.fromkeys(wrong):
        print(f"WRONG ANSWER: {line}")
    failed = 0 if arguments.no_micro else micro(base.with_name(f"{base.name}-micro.json"))
    return 1 if wrong or failed else 0


def write(result, base, say):
    """Write the result beside its table and its plot."""
    base.with_name(f"{base.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    plots = []
    try:
        plots = report.plot(result, base.with_name(f"{base.name}.svg"))
    except ImportError:
        say("skipped: the plot: matplotlib is not installed")
    base.with_name(f"{base.name}.md").write_text(report.markdown(result, plots))
    say(f"written: {base}.json, .md" + (", .svg" if plots else ""))


if __name__ == "__main__":
    sys.exit(main())
