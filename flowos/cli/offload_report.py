"""What `flowos offload` prints: a table for people, or one JSON object; and the log of changes."""
import json

from rich import box
from rich.console import Console
from rich.table import Table

PIPED_WIDTH = 160          # columns when standard output is no terminal


def rows(evaluation):
    """Give a row per strategy and n, as what `json` can write."""
    return [{"strategy": name, "n": n, **figures} for (name, n), figures in evaluation.summary().items()]


def series(evaluation):
    """Give, per strategy and n, packets left and entries changed in each bin."""
    return [{"strategy": name, "n": n, "left": [bin.left for bin in served], "changes": [bin.changes for bin in served]}
            for (name, n), served in evaluation.results.items()]


def as_json(source, evaluation, more, with_series):
    """Give the result as what `json` can write."""
    result = {"source": source, "step": evaluation.traffic.step, "scales": list(evaluation.traffic.scales),
              "bins": len(evaluation.totals), "packets": sum(evaluation.totals),
              "uncovered": sum(evaluation.uncovered), **more, "rows": rows(evaluation)}
    if with_series:
        result["totals"], result["series"] = evaluation.totals, series(evaluation)
    return result


def as_table(source, evaluation, more, file):
    """Print the result for people: a line that sums it up, and a row per strategy and n."""
    found, step, packets = rows(evaluation), evaluation.traffic.step, sum(evaluation.totals)
    line = (f"{source}: {packets:,} packets in {len(evaluation.totals):,} bins of {step:g} s, to {more['prefixes']:,} prefixes")
    if sum(evaluation.uncovered):
        line += f"; {sum(evaluation.uncovered):,} packets to no prefix that may be offloaded"
    print(line, file=file)
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("strategy", "n", "offloaded", "left/s", "at most", "changes/bin", "at most", "of n"):
        table.add_column(heading, justify="left" if heading == "strategy" else "right")
    for row in found:
        table.add_row(row["strategy"], f"{row['n']:,}", f"{row['gain']:.1%}", f"{row['left_median']:,.0f}",
                      f"{row['left_max']:,.0f}", f"{row['changes_median']:,.0f}", f"{row['changes_max']:,}",
                      f"{row['changes_median'] / row['n']:.1%}")
    console = Console(file=file, width=None if file.isatty() else PIPED_WIDTH)
    console.print(table)
    if "guards" in more:
        print(f"TFO's last {more['installed']:,} entries need {more['guards']:,} guards: "
              "longer prefixes that must go to the controller.", file=file)
    if "factor" in more:
        print(f"The factor that was chosen last: {more['factor']:g}.", file=file)


class ChangeLog:
    """Write TFO's actions as lines of JSON: {"time": s, "change": "add"|"remove", "prefix": …}."""

    def __init__(self, file, step, name):
        self.file, self.step, self.name, self.time = file, step, name, 0.0

    def __call__(self, done):
        """Write what a round did, at the end of its bin."""
        self.time += self.step
        for change in done.actions():
            line = {"time": self.time, "change": change.kind, "prefix": self.name(change.id)}
            self.file.write(json.dumps(line) + "\n")
