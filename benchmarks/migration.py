"""Claim: when 300,000 states or more migrate, none stands still for a hundredth of the time it does under pre-copy.

    python benchmarks/migration.py              measure everything; a minute
    python benchmarks/migration.py --quick      does everything work? few states, figures mean nothing
    python benchmarks/migration.py --page       only write plots and docs/migration.md's tables from the results

Figure 2.7 a and b of D3.2 (§2.3.3), each for a cohort that began together, as in the source, and for
a stationary population; pre-copy, total copy and demand paging on the same draws; what batches
cost; and how fast simulator and planes are.  Times within a simulation are simulated ones: only
the section on speed depends on the machine.  Results go to benchmarks/results/ (quick ones to
build/benchmarks/), the newest ones to the page.
"""
import argparse
import datetime
import json
import re
import statistics
import sys
import time
from pathlib import Path

import measure
import numpy as np

from flowos.services import migration as m
from flowos.services.migration_diagram import machines, markdown, mermaid
from flowos.services.migration_peers import Redirect, SourceEnd, TargetEnd
from flowos.services.migration_plane import Plane
from flowos.services.migration_population import COHORT, STATIONARY, Durations, population
from flowos.services.migration_rivals import demand_paging, pre_copy, total_copy
from flowos.services.migration_simulation import Setting, simulate

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "migration.md"
KINDS = (COHORT, STATIONARY)
WHOLE = 10**9                           # a batch that takes all there is, as in the source
PATIENT = 1e6                           # seconds: nothing is recalled
SEEDS = 5


def idle(seconds, **more):
    """Give a policy whose idle phase takes just so long."""
    return m.Policy(idle_least=seconds, idle_most=seconds, patience=PATIENT, **more)


def middle(values):
    """Give the median."""
    return statistics.median(list(values))


def states_left(states):
    """Figure 2.7a: the share of states that is still at A, against the time; drawn and in theory."""
    durations, times = Durations(), np.geomspace(0.1, 20, 60)
    theory = {COHORT: durations.survival(times), STATIONARY: durations.residual(times)}
    found = {"states": states, "times": times.tolist()}
    for kind in KINDS:
        drawn = population(kind, states, durations, np.random.default_rng(1))
        ends = np.sort(drawn.ends)
        found[kind] = {"drawn": (1 - np.searchsorted(ends, times, "right") / states).tolist(),
                       "theory": theory[kind].tolist()}
    return found


def waiting_longer(states):
    """What a longer idle phase brings: states left, and the downtime if all of them are frozen at once."""
    rows = []
    for seconds in (0.5, 1.0, 2.0, 5.0, 10.0):
        row = {"idle": seconds}
        for kind in KINDS:
            runs = [simulate(Setting(states=states, population=kind, seed=seed), idle(seconds, batch=WHOLE))
                    for seed in range(1, SEEDS + 1)]
            row[kind] = {"factor": states / max(1, middle(run.copied for run in runs)),
                         "downtime": middle(run.downtime for run in runs)}
        rows.append(row)
    return {"states": states, "rows": rows}


def downtimes(counts):
    """Figure 2.7b: the downtime against the number of states, seconds; medians.

    Ours is the longest that one connection stands still, at the handover or in a batch.
    """
    rows = []
    for count in counts:
        seeds = SEEDS if count <= 1_000_000 else 1
        for kind in KINDS:
            setting = Setting(states=count, population=kind)
            runs = [(simulate(drawn, idle(1.0, batch=WHOLE)), simulate(drawn), pre_copy(drawn), demand_paging(drawn))
                    for drawn in (setting._replace(seed=seed) for seed in range(1, seeds + 1))]
            whole, batches, copied, paged = zip(*runs)
            rows.append({
                "states": count, "population": kind,
                "whole": middle(max(run.downtime, run.handover) for run in whole),
                "batches": middle(max(run.downtime, run.handover) for run in batches),
                "pre_copy": middle(run.downtime for run in copied),
                "total_copy": total_copy(setting).downtime,
                "paging_wait": middle(run.wait_99 for run in paged),
                "total_time": {"whole": middle(run.total_time for run in whole),
                               "batches": middle(run.total_time for run in batches),
                               "pre_copy": middle(run.total_time for run in copied)},
            })
            say(f"{count:>10,} states, {kind}: two phases {rows[-1]['batches'] * 1e3:.3g} ms (all at once "
                f"{rows[-1]['whole'] * 1e3:.3g} ms), pre-copy {rows[-1]['pre_copy'] * 1e3:.3g} ms")
    return rows


def where_pre_copy_works(most):
    """The largest stationary population with which pre-copy stands still for under a tenth of total copy's time."""
    counts, rows = np.unique(np.geomspace(100, most, 33).astype(int)), []
    for rate in (0.0, 5.0, 50.0, 500.0):
        works = 0
        for count in counts.tolist():
            setting = Setting(states=count, packet_rate=rate)
            copied = middle(pre_copy(setting._replace(seed=seed)).last for seed in range(1, SEEDS + 1))
            if copied < count / 10:
                works = count
        rows.append({"packet_rate": rate, "states": works})
    return rows


def batch_sizes(states):
    """Finer batches against coarser ones, one or four in flight."""
    rows = []
    for batch in (10, 100, 1000, 10_000, WHOLE):
        for window in (1, 4):
            run = simulate(Setting(states=states), idle(1.0, batch=batch, window=window))
            rows.append({"batch": batch, "window": window, "downtime": run.downtime, "mean": run.downtime_mean,
                         "copying": run.total_time - run.idle_time, "buffered": run.buffered,
                         "most_buffered": run.most_buffered, "copied": run.copied})
    return {"states": states, "rows": rows}


def group_sizes(states):
    """States that are linked and move together."""
    rows = []
    for group in (1, 10, 1000, 10_000, 60_000):
        run = simulate(Setting(states=states, group=group), idle(1.0))
        rows.append({"group": group, "downtime": run.downtime, "copying": run.total_time - run.idle_time,
                     "batches": run.batches})
    return {"states": states, "rows": rows}


def best(function, rounds=5):
    """Give the least CPU seconds of some rounds: the machine may be shared."""
    times = []
    for _ in range(rounds):
        begun = time.process_time()
        function()
        times.append(time.process_time() - begun)
    return min(times)


def move(states):
    """Migrate so many states through both real ends in this process; give the CPU seconds."""
    a, b = SourceEnd(Plane(), m.Policy(idle_least=0, idle_most=0)), TargetEnd(Plane(serving=False))
    for connection in range(states):
        a.plane.packet(connection, b"", 0.0)

    def pass_on(outputs):
        waiting = list(outputs)
        while waiting:
            output = waiting.pop(0)
            if not isinstance(output, Redirect):
                for reply in b.receive(output.message, 1.0):
                    waiting += a.receive(reply.message, 1.0)

    begun = time.process_time()
    pass_on(a.event(m.START, 0.0))
    pass_on(a.event(m.TICK, 1.0))
    pass_on(a.event(m.REDIRECTED, 1.0))
    spent = time.process_time() - begun
    if len(b.plane.groups) != states or a.plane.groups:
        raise SystemExit(f"error: {len(b.plane.groups)} of {states} states arrived")
    return spent


def speed(states):
    """CPU seconds of this machine: a simulation, a packet in the reference plane, a state through both ends."""
    plane, few = Plane(), min(states, 100_000)
    for connection in range(few):
        plane.packet(connection, b"", 0.0)

    def packets():
        for connection in range(few):
            plane.packet(connection, b"", 1.0)

    found = {"states": states}
    for kind in KINDS:
        setting = Setting(states=states, population=kind)
        found[kind] = {"draw": best(setting.draw, 3), "simulate": best(lambda: simulate(setting), 3),
                       "pre_copy": best(lambda: pre_copy(setting), 3)}
    found["packet"] = best(packets) / few
    found["state"] = min(move(few // 5) for _ in range(3)) / (few // 5)
    return found


def run(quick):
    """Measure everything; give a result for the file."""
    scale = 100 if quick else 1
    counts = [10**power * part for power in range(2, 7) for part in (1, 3)] + [10_000_000]
    return {
        "date": datetime.date.today().isoformat(), "host": measure.host(), "setting": {
            **Setting()._asdict(), "durations": Durations()._asdict()}, "policy": m.Policy()._asdict(),
        "states_left": states_left(1_000_000 // scale),
        "waiting": waiting_longer(300_000 // scale),
        "downtimes": downtimes([count for count in counts if count <= 10_000_000 // scale]),
        "pre_copy_works": where_pre_copy_works(300_000 // scale),
        "batches": batch_sizes(1_000_000 // scale),
        "groups": group_sizes(1_000_000 // scale),
        "speed": speed(10_000_000 // scale),
    }


# -- plots and the page

def axes_of(title, xlabel, ylabel):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "flowos", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.5, 3.6), layout="constrained")
    axes.set(xscale="log", yscale="log", xlabel=xlabel, ylabel=ylabel)
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    return figure, axes


COLOURS = {COHORT: "#1b6ca8", STATIONARY: "#b5442e"}
LINES = {"pre_copy": ("pre-copy", "--"), "whole": ("1 s idle, then all at once", ":"), "batches": ("two phases, batches of 1,000", "-")}


def plots(result, stem):
    """Draw figures 2.7a and b; give their names."""
    found = result["states_left"]
    figure, axes = axes_of("Figure 2.7a: states left at A", "seconds of idle phase", "share of states")
    for kind in KINDS:
        axes.plot(found["times"], found[kind]["drawn"], color=COLOURS[kind], label=kind)
        axes.plot(found["times"], found[kind]["theory"], color="black", linewidth=0.6, linestyle="--",
                  label="theory" if kind == STATIONARY else None)
    axes.axhline(0.01, color="#777777", linewidth=0.8)
    axes.text(0.1, 0.011, "two orders of magnitude", color="#555555")
    axes.legend(frameon=False)
    figure.savefig(f"{stem}-a.svg", metadata={"Date": None})
    figure, axes = axes_of("Figure 2.7b: downtime", "states at the start", "seconds")
    for kind in KINDS:
        rows = [row for row in result["downtimes"] if row["population"] == kind]
        for name, (label, line) in LINES.items():
            axes.plot([row["states"] for row in rows], [row[name] for row in rows], line, color=COLOURS[kind],
                      label=f"{label}, {kind}")
    axes.legend(frameon=False, fontsize=7)
    figure.savefig(f"{stem}-b.svg", metadata={"Date": None})
    return [f"{stem.name}-{part}.svg" for part in "ab"]


def table(heads, rows):
    """Give a Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, ["---"] * len(heads), *rows])


def times(value):
    """Spell a number with three digits that mean something.

    >>> times(7271.2), times(0.6534)
    ('7,270', '0.653')
    """
    return f"{float(f'{value:.3g}'):,g}"


def ms(seconds):
    """Spell seconds as milliseconds of three digits.

    >>> ms(0.0011), ms(0.8)
    ('1.1 ms', '800 ms')
    """
    return f"{times(seconds * 1e3)} ms"


def blocks(result):
    """Give {name of a block of the page: its text}."""
    parts = {}
    for name, rows in machines().items():
        parts[name] = f"```mermaid\n{mermaid(rows)}\n```\n\n<details><summary>The same as a table</summary>\n\n{markdown(rows)}\n\n</details>"
    parts["waiting"] = table(
        ["idle phase", "cohort: states ÷", "copied at once", "stationary: states ÷", "copied at once"],
        [[f"{row['idle']:g} s", *(cell for kind in KINDS for cell in (
            f"{row[kind]['factor']:,.0f}", ms(row[kind]["downtime"])))] for row in result["waiting"]["rows"]])
    parts["downtimes"] = table(
        ["states", "population", "pre-copy", "1 s idle, all at once", "÷", "two phases, batches", "÷", "total copy",
         "demand paging: 99 % of first packets wait up to"],
        [[f"{row['states']:,}", row["population"], ms(row["pre_copy"]), ms(row["whole"]),
          times(row["pre_copy"] / row["whole"]), ms(row["batches"]), times(row["pre_copy"] / row["batches"]),
          ms(row["total_copy"]), ms(row["paging_wait"])]
         for row in result["downtimes"] if str(row["states"])[0] == "1" or row["states"] == 300_000])
    parts["pre_copy"] = table(
        ["packets per connection and second", "pre-copy works up to"],
        [[f"{row['packet_rate']:g}", f"{row['states']:,} states"] for row in result["pre_copy_works"]])
    parts["batches"] = table(
        ["states of a batch", "in flight", "one stands still", "phase two takes", "packets that wait, all", "at a time"],
        [["all" if row["batch"] == WHOLE else f"{row['batch']:,}", str(row["window"]), ms(row["downtime"]),
          ms(row["copying"]), f"{row['buffered']:,}", f"{row['most_buffered']:,}"] for row in result["batches"]["rows"]])
    parts["groups"] = table(
        ["states of a group", "batches", "a group stands still, at most", "phase two takes"],
        [[f"{row['group']:,}", f"{row['batches']:,}", ms(row["downtime"]), ms(row["copying"])]
         for row in result["groups"]["rows"]])
    found, host = result["speed"], result["host"]
    parts["speed"] = table(["what", "CPU time"], [
        *([f"simulate {found['states']:,} states, {kind} (of it to draw them)",
           f"{found[kind]['simulate']:.2f} s ({found[kind]['draw']:.2f} s)"] for kind in KINDS),
        ["pre-copy with as many, stationary", f"{found[STATIONARY]['pre_copy']:.2f} s"],
        ["a packet in the reference plane", f"{found['packet'] * 1e6:.2f} µs"],
        ["a state through both ends, in one process", f"{found['state'] * 1e6:.1f} µs"],
    ]) + f"\n\n({host['cpu']}, Python {host['python']}, NumPy {host['versions'].get('numpy')}; a shared machine; the least of three or five rounds.)"
    return parts


def write_page(result, pictures):
    """Put plots, diagrams and tables between the page's marks; SystemExit when one is missing."""
    text = PAGE.read_text()
    parts = blocks(result) | {f"figure {name[-5]}": f"![Figure 2.7{name[-5]}](../benchmarks/results/{name})" for name in pictures}
    for name, part in parts.items():
        pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end -->)", re.S)
        text, count = pattern.subn(lambda found, part=part: f"{found[1]}{part}\n{found[2]}", text)
        if count != 1:
            raise SystemExit(f"error: {PAGE.name} has {count} places for {name}")
    PAGE.write_text(text)


def say(line):
    """Print a line at once."""
    print(line, flush=True)


def claims(result):
    """Give a line per claim: claim, number, unit."""
    for row in result["downtimes"]:
        if row["states"] >= 100_000:
            yield (f"{row['states']:,} states, {row['population']}: pre-copy's downtime is "
                   f"{row['pre_copy'] / row['batches']:.0f} x ours in batches, {row['pre_copy'] / row['whole']:.0f} x ours at once")
    for row in result["waiting"]["rows"]:
        yield f"{row['idle']:g} s idle: states fall {row[COHORT]['factor']:.0f} x (cohort), {row[STATIONARY]['factor']:.0f} x (stationary)"
    found = result["speed"]
    yield f"simulator: {found['states'] / found[STATIONARY]['simulate'] / 1e6:.1f} million states per second of CPU time"


def main():
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few states; results go to build/benchmarks")
    parser.add_argument("--page", action="store_true", help="only write plots and the page, from the newest results")
    arguments = parser.parse_args()
    if arguments.page:
        newest = max(RESULTS.glob("*-migration.json"), default=None)
        if newest is None:
            sys.exit("error: no results yet")
    else:
        say(__doc__.splitlines()[0])
        folder = ROOT / "build" / "benchmarks" if arguments.quick else RESULTS
        folder.mkdir(parents=True, exist_ok=True)
        result = run(arguments.quick)
        newest = folder / f"{result['date']}-migration.json"
        newest.write_text(json.dumps(result, indent=1) + "\n")
    result = json.loads(newest.read_text())
    for line in claims(result):
        say(line)
    pictures = plots(result, newest.with_suffix(""))
    if not arguments.quick:
        write_page(result, pictures)


if __name__ == "__main__":
    main()
