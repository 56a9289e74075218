"""The result of jobs.py as lines, tables and plots.

    python benchmarks/jobs_report.py RESULT.json        make the table and the plots of a result anew
"""
import json
import sys
from pathlib import Path

from contestants import FLOOR, FLOWOS

COLOURS = {FLOWOS: "#1b6ca8", FLOOR: "#777777", "per packet (Cython)": "#c0392b", "libnids (C)": "#7d5ba6",
           "dpkt": "#d9a441", "scapy": "#5a9e6f", "NFStream plugin": "#444444", "NFStream": "#444444"}
PLOTS = {"pipeline": ("k", "modules, each of which needs the stream", "Throughput by the number of modules", "linear"),
         "sizes": ("size", "bytes per segment", "Throughput by packet size, searching TCP streams", "log"),
         "connections": ("connections", "connections", "Throughput by the number of connections, searching TCP streams", "log")}


def times(result, job, which="ns_min"):
    """Give {contestant: {x: ns per packet}} of a job."""
    table = {}
    for entry in result["runs"]:
        if entry["job"] == job:
            table.setdefault(entry["contestant"], {})[entry["x"]] = entry[which]
    return table


def aims(result):
    """Give a line per aim: what was asked, what was measured, whether it is met."""
    search, strip, forward, pipeline = (times(result, job) for job in ("search", "strip", "forward", "pipeline"))
    if FLOWOS in search and FLOOR in search:
        yield verdict("search in TCP streams", search[FLOWOS][None] / search[FLOOR][None], 1.5, "x the floor's search")
    if FLOWOS in strip and FLOOR in strip:
        yield verdict("strip from HTTP bodies, full fix-up, to /dev/null", strip[FLOWOS][None] / strip[FLOOR][None], 1.9,
                      "x the floor's strip")
    if "FlowOS, to a file" in strip and "floor (C), to a file" in strip:
        written = strip["floor (C), to a file"][None] - strip[FLOOR][None]
        yield verdict("strip, to a file", strip["FlowOS, to a file"][None], 1.9 * strip[FLOOR][None] + written,
                      f"ns per packet, writing the file costs the floor {written:.0f}")
    if FLOWOS in forward and "FlowOS, bypassed" in forward:
        yield verdict("a connection that no module is attached to", forward["FlowOS, bypassed"][None] / forward[FLOWOS][None], 1.05,
                      "x forwarding alone")
    one, many = pipeline.get(FLOWOS, {}).get(1), pipeline.get(FLOWOS, {}).get(8)
    again = next((by for name, by in search.items() if name.startswith("FlowOS, searched")), None)
    if one and many and again:
        work = (again[None] - search[FLOWOS][None]) / (result["again"] - 1)
        yield verdict(f"eight modules: T(8) with T(1) = {one:.0f} and W = {work:.0f}", many, 1.6 * one + 7 * work, "ns per packet")
    for name, what, aim in ((FLOWOS, "one window to a Python module", 75), ("FlowOS, in batches", "one window of a batch", 55)):
        runs = {run["x"]: run for run in result["runs"] if run["job"] == "windows" and run["contestant"] == name}
        if len(runs) == 2:
            few, more = sorted(runs)
            per = runs[few]["packets"] / runs[few]["answer"]["windows"] / (more - few)
            yield verdict(what, (runs[more]["ns_min"] - runs[few]["ns_min"]) * per, aim, "ns")


def verdict(what, measured, aim, unit):
    """Put an aim beside its figure."""
    over = "met" if measured <= aim else f"not met, by {(measured / aim - 1) * 100:.0f} %"
    digits = 2 if aim < 10 else 0
    return f"{what}: {measured:.{digits}f} {unit} (aim {aim:.{digits}f}): {over}"


def markdown(result, plots):
    """Give the tables of a result as Markdown."""
    host = result["host"]
    versions = ", ".join(f"{name} {version}" for name, version in host["versions"].items())
    lines = [f"# Jobs, packet by packet and on flows, {result['date']}", "",
             f"{host['cpu']}, {host['cpus']} CPUs{' (virtual)' if host['virtual'] else ''}, Linux {host['kernel']}, "
             f"{host['compiler']}, Python {host['python']}; {versions}.", "",
             f"CPU time of whole processes, net of the same on one packet; minimum and median of {result['rounds']} interleaved "
             f"rounds ({result['slow_rounds']} for what runs on a part, and for the curves). Load before {result['load'][0]:.1f}, after "
             f"{result['load'][1]:.1f}; the hypervisor took {result['steal']:.1f} s. Made by `benchmarks/jobs.py`.", ""]
    lines += [f"- {line}" for line in aims(result)] + [""]
    lines += [f"![{title}]({name})" for title, name in plots]
    for job in dict.fromkeys(entry["job"] for entry in result["runs"]):
        runs = [entry for entry in result["runs"] if entry["job"] == job]
        own = {entry["x"]: entry["ns_min"] for entry in runs if entry["contestant"] == FLOWOS}
        varies = any(entry["x"] is not None for entry in runs)
        lines += ["", f"## {job}", "", f"|{' |' if varies else ''} | packets | ns/packet, min | median | times FlowOS | answer |",
                  "|---|---|---|---|---|---|" + ("---|" if varies else "")]
        for entry in sorted(runs, key=lambda entry: (entry["x"] or 0, entry["ns_min"])):
            answer = "; ".join(entry["differs"]) or "exact"
            note = f"; {entry['note']}" if entry["note"] else ""
            x = f" {entry['x']:,} |" if varies else ""
            ratio = f"{entry['ns_min'] / own[entry['x']]:.3g}" if own.get(entry["x"]) else ""
            lines.append(f"|{x} {entry['contestant']} | {entry['packets']:,} | {entry['ns_min']:,.0f} | {entry['ns_median']:,.0f} | "
                         f"{ratio} | {answer}{note} |")
    if result["skipped"]:
        lines += ["", "Not run here:", ""] + [f"- {reason}" for reason in result["skipped"]]
    return "\n".join(lines) + "\n"


def plot(result, base):
    """Draw millions of packets per second of CPU time by k, by size and by connections; give (title, file name) each."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "flowos", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    drawn = []
    for job, (name, label, title, scale) in PLOTS.items():
        table = times(result, job)
        if not table:
            continue
        figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
        for contestant, by in table.items():
            xs = sorted(by)
            axes.plot(xs, [1e3 / max(by[x], 0.1) for x in xs], marker="o", markersize=3, label=contestant,
                      color=COLOURS.get(contestant))
        axes.set_yscale("log")
        axes.set_xscale(scale)
        axes.set_xlabel(label)
        axes.set_ylabel("million packets per second of CPU time")
        axes.set_title(title, loc="left")
        axes.grid(alpha=0.3, which="both", linewidth=0.4)
        axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        path = base.with_name(f"{base.name}-{name}.svg")
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)
        drawn.append((title, path.name))
    return drawn


def write(result, base, say):
    """Write the result beside its tables and plots."""
    base.with_name(f"{base.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    plots = []
    try:
        plots = plot(result, base)
    except ImportError:
        say("skipped: the plots: matplotlib is not installed")
    base.with_name(f"{base.name}.md").write_text(markdown(result, plots))
    say(f"written: {base}.json, .md" + (", .svg" if plots else ""))


if __name__ == "__main__":
    given = Path(sys.argv[1])
    write(json.loads(given.read_text()), given.with_suffix(""), print)
