"""A result file as text, tables and plots."""
from contestants import CLAIMS, FLOOR, FLOWOS


def by_trace(result):
    """Give {trace: {contestant: run}}, in the order of running."""
    table = {}
    for entry in result["runs"]:
        table.setdefault(entry["trace"], {})[entry["contestant"]] = entry
    return table


def claims(result):
    """Give a line per claim: claim, number, unit, ratios to the floor and to the rivals."""
    table = by_trace(result)
    for claim in CLAIMS:
        runs = table.get(claim.trace, {})
        if FLOWOS not in runs:
            continue
        if runs[FLOWOS]["ns_min"] <= runs[FLOWOS]["ns_unsure"]:
            yield f"{claim.trace}: {claim.text}: too short to be told from the start-up at this scale"
            continue
        mine, parts = runs[FLOWOS]["ns_min"], []
        if FLOOR in runs:
            ratio = mine / runs[FLOOR]["ns_min"]
            parts.append(f"{ratio:.2f} x the floor of {runs[FLOOR]['ns_min']:.1f} (aim {claim.aim})")
        parts += [f"{name} {entry['ns_min'] / mine:.3g} x" for name, entry in runs.items()
                  if not name.startswith((FLOWOS, FLOOR))]
        yield (f"{claim.trace}: {claim.text}: {mine:.1f} ns/packet (median {runs[FLOWOS]['ns_median']:.1f}, "
               f"start-up varies by {runs[FLOWOS]['ns_unsure']:.1f}); " + "; ".join(parts))


def markdown(result, plots):
    """Give the tables of a result as Markdown."""
    host = result["host"]
    versions = ", ".join(f"{name} {version}" for name, version in host["versions"].items())
    lines = [
        f"# Benchmarks, {result['date']}", "",
        f"{host['cpu']}, {host['cpus']} CPUs{' (virtual)' if host['virtual'] else ''}, {host['memory_gb']} GB, "
        f"Linux {host['kernel']}, {host['compiler']}, Python {host['python']}; {versions}.", "",
        f"User and system CPU time of whole processes, net of the same program on the trace's first packet; minimum and "
        f"median of {result['rounds']} rounds, interleaved ({result['slow_rounds']} rounds for what runs on a part). "
        f"\"Inside\" is the same as the process timed it itself, from making the engine to the last count, minimum. "
        f"MB/s are frame bytes per second of CPU time. Load before {result['load'][0]:.1f}, after {result['load'][1]:.1f}; "
        f"the hypervisor took {result['steal']:.1f} s.", ""]
    lines += [f"![{title}]({name})" for title, name in plots]
    lines += ["", "| trace | what is counted | FlowOS, ns/packet | inside | floor | ratio | aim |",
              "|---|---|---|---|---|---|---|"]
    table = by_trace(result)
    for claim in CLAIMS:
        runs = table.get(claim.trace, {})
        if FLOWOS in runs and FLOOR in runs:
            mine, floor = runs[FLOWOS], runs[FLOOR]
            ratios = [mine[kind] / floor[kind] for kind in ("ns_min", "ns_median")]
            lines.append(f"| {claim.trace} | {claim.text} | {mine['ns_min']:.1f} / {mine['ns_median']:.1f} | "
                         f"{mine['ns_inside']:.1f} | {floor['ns_min']:.1f} / {floor['ns_median']:.1f} | "
                         f"{ratios[0]:.2f} / {ratios[1]:.2f} | {claim.aim} |")
    for trace, runs in table.items():
        truth = result["traces"][trace]
        lines += ["", f"## {trace}: {truth['packets']:,} packets, {truth['bytes'] / 1e6:.0f} MB, "
                      f"{truth['connections']:,} connections", "",
                  "| | packets | ns/packet, min | median | MB/s | times FlowOS | start-up, ms | peak MB | answer |",
                  "|---|---|---|---|---|---|---|---|---|"]
        mine = runs[FLOWOS]["ns_min"] if FLOWOS in runs else None
        for name, entry in sorted(runs.items(), key=lambda item: item[1]["ns_min"]):
            times = f"{entry['ns_min'] / mine:.3g}" if mine else ""
            answer = "exact" if not entry["differs"] else "; ".join(entry["differs"])
            note = f"; {entry['note']}" if entry["note"] else ""
            lines.append(f"| {name} | {entry['packets']:,} | {entry['ns_min']:,.1f} | {entry['ns_median']:,.1f} | "
                         f"{entry['mb_per_s']:,.0f} | {times} | {entry['startup_ms']:.0f} | {entry['peak'] / 1e6:.0f} | "
                         f"{answer}{note} |")
    if result["skipped"]:
        lines += ["", "Not run here:", ""] + [f"- {reason}" for reason in result["skipped"]]
    return "\n".join(lines) + "\n"


def plot(result, path):
    """Draw a bar per contestant and trace, ns per packet on a logarithmic scale; give (title, file name) of each plot.

    Needs matplotlib: ImportError without it.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "flowos", "svg.fonttype": "none", "font.size": 8})
    from matplotlib import pyplot

    table = by_trace(result)
    figure, rows = pyplot.subplots(len(table), figsize=(7.5, 0.5 + 1.5 * len(table)), squeeze=False, layout="constrained")
    for (trace, runs), axes in zip(table.items(), rows[:, 0]):
        ordered = sorted(runs.items(), key=lambda item: -item[1]["ns_min"])
        colours = ["#1b6ca8" if name.startswith(FLOWOS) else "#777777" if name == FLOOR else "#d9a441"
                   for name, _ in ordered]
        values = [max(entry["ns_min"], 0.1) for _, entry in ordered]
        bars = axes.barh([name for name, _ in ordered], values, color=colours)
        axes.bar_label(bars, [f"{value:,.0f}" for value in values], padding=2)
        axes.set_xscale("log")
        axes.set_xlim(left=5, right=max(values) * 4)
        axes.set_title(f"{trace}: CPU ns per packet", loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return [("CPU time per packet of FlowOS, the floor and the rivals", path.name)]
