"""What `flowos allocate` prints: progress on a terminal, the result as text or as one JSON object."""
from dataclasses import asdict


class Progress:
    """A line on a terminal that says how far the search is; nothing elsewhere."""

    def __init__(self, stream):
        self.stream, self.shown, self.active = stream, 0, stream.isatty()

    def __enter__(self):
        return self if self.active else None

    def __exit__(self, *failure):
        if self.shown:
            self.stream.write("\r" + " " * self.shown + "\r")
            self.stream.flush()

    def __call__(self, seconds, phase, violations, unplaced):
        """Show a phase: total violations, or services without place."""
        left = f"violations {violations:,.0f}" if violations is not None and phase != "bandwidth" \
            else f"fullest link {violations:.1%}" if violations is not None else f"{unplaced:,} services without place"
        line = f"{seconds:7.1f} s  {phase}: {left}"
        self.stream.write("\r" + line.ljust(self.shown))
        self.stream.flush()
        self.shown = len(line)


def record(instance, solution, report):
    """Give the result as an object for JSON."""
    document = {"platform": instance.platform.name, "servers": len(instance.platform.servers),
                "services": len(instance.services), "modules": instance.modules(), "delay_bound": instance.delay_bound,
                "verdict": solution.verdict, "proof": solution.proof, "violations": None, "metrics": None, "worst": [],
                "statistics": {name: value for name, value in solution.statistics.items() if name != "history"}}
    if report is not None:
        document["violations"] = {**asdict(report.violations), "total": report.violations.total}
        document["metrics"] = {"total_delay": report.total_delay, "approximate_delay": report.approximate_delay,
                               "max_delay": report.max_delay, "max_bandwidth": report.max_bandwidth,
                               "average_bandwidth": report.average_bandwidth}
        document["worst"] = report.worst
    return document


def text(instance, solution, report):
    """Give the result as lines."""
    spent = solution.statistics.get("seconds")
    bound = "" if instance.delay_bound is None else f", delay bound {instance.delay_bound}"
    lines = [f"{instance.platform.name}: {len(instance.platform.servers):,} servers, {len(instance.services):,} services, "
             f"{instance.modules():,} modules{bound}"]
    verdict = solution.verdict if report is None or solution.verdict == "infeasible" else \
        "violated" if report.violations else "feasible"
    lines.append(verdict + ("" if spent is None else f" ({spent:.2f} s)") + (f": {solution.proof}" if solution.proof else ""))
    if report is not None:
        over = report.violations
        lines += [f"violations  total {over.total:,}: cpu {over.cpu:,}, memory {over.memory:,}, "
                  f"bandwidth {over.bandwidth:,}, delay {over.delay:,}",
                  f"delay       total {report.total_delay:,}, longest {report.max_delay:,}, "
                  f"approximate {report.approximate_delay:,}",
                  f"bandwidth   fullest link {report.max_bandwidth:.1%}, mean {report.average_bandwidth:.1%}"]
        lines += [f"  {one}" for one in report.worst]
    return "\n".join(lines) + "\n"
