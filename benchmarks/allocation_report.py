"""The results of benchmarks/allocation.py as figures and as the tables of docs/allocation.md."""

TABLES = {4000: "3.2", 6000: "3.3", 8000: "3.4", 10000: "3.5", 12000: "3.6"}


def tables(result, source):
    """Give {name of the place in the page: Markdown table}."""
    theirs = {(entry["services"], entry["delay_bound"]): entry["rows"] for entry in source["large"]}
    made = {"basic": basic(result, source)}
    for count, number in TABLES.items():
        made[f"table {number}"] = large([entry for entry in result["large"] if entry["services"] == count], theirs,
                                        result["tabu_limit"])
    made["spread"] = spread(result["spread"])
    made["drawn"] = drawn(result["drawn"])
    made["objectives"] = objectives(result["objectives"])
    made["exact"] = exact(result["exact"])
    made["online"] = online(result["online"])
    made["host"] = f"{result['host']['cpu']}, one core of {result['host']['cpus']}, shared; Python {result['host']['python']}; {result['date']}.\n"
    return made


def rows(head, lines):
    """Give a Markdown table."""
    return "\n".join([f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"


def total(violations):
    """Give the sum of a run's violations as text."""
    return f"{sum(violations.values()):,.0f}"


def four(violations):
    """Give CPU, memory, bandwidth and delay as text."""
    return " / ".join(f"{violations[name]:,.0f}" for name in ("cpu", "memory", "bandwidth", "delay"))


def basic(result, source):
    """Give the table of the basic platform."""
    published = {entry["services"]: entry for entry in source["basic"]}
    lines = []
    for entry in result["basic"]:
        runs = {one["solver"]: one for one in entry["runs"]}
        theirs = published[entry["services"]]
        lines.append([str(entry["services"]), f"{theirs['seconds']} s, {theirs['by']}" if theirs["seconds"] else "not solved",
                      outcome(runs["greedy"]), outcome(runs["tabu"]), outcome(runs["packing"])])
    return rows(["services", "D3.2", "greedy", "tabu", "packing"], lines)


def outcome(run):
    """Give a run's verdict and time."""
    if run["verdict"] == "unknown":
        return f"violations {total(run['violations'])} after {run['seconds']:.3g} s"
    return f"{'**infeasible**' if run['verdict'] == 'infeasible' else run['verdict']}, {run['seconds']:.2g} s"


def large(entries, theirs, limit):
    """Give one of the tables 3.2 to 3.6."""
    lines = []
    for entry in entries:
        packing, tabu = entry["runs"]
        start, *_, last = theirs[entry["services"], entry["delay_bound"]]
        solved = next((row for row in theirs[entry["services"], entry["delay_bound"]] if row["total"] == 0), None)
        faster = f"{solved['seconds'] / packing['seconds']:,.0f} x" if solved and packing["verdict"] == "feasible" else ""
        lines.append([
            f"NS{entry['services']}-D{entry['delay_bound']}", four(start), f"{start['seconds']:.0f} s",
            f"{solved['seconds']:,.0f} s" if solved else f"{last['total']:,} left",
            four(tabu["statistics"]["greedy_violations"]), f"{tabu['statistics']['greedy_seconds']:.2f} s",
            f"{tabu['seconds']:.2g} s" if tabu["verdict"] == "feasible" else f"{total(tabu['violations'])} left",
            outcome(packing), faster])
    return rows(["instance", "D3.2: start", "in", "D3.2: tabu, 1 h", "our start", "in", f"our tabu, {limit:g} s", "packing",
                 "faster"], lines)


def spread(entries):
    """Give the table of 12,000 services: other seeds, even sources, drawn memory."""
    groups = {}
    for entry in entries:
        groups.setdefault((entry["seed"], entry["spread"], entry["memory"]), []).append(entry)
    lines = [[str(seed), "evenly" if even else "drawn", memory, *(outcome(entry["runs"][0]) for entry in group)]
             for (seed, even, memory), group in groups.items()]
    bounds = [f"D{entry['delay_bound']}" for entry in next(iter(groups.values()))]
    return rows(["seed", "sources", "memory", *bounds], lines)


def drawn(entries):
    """Give the table of 52 services on the basic platform with drawn memory."""
    lines = [[str(entry["seed"]), f"{entry['memory_needed'] / entry['memory']:.1%}", outcome(entry["runs"][0])] for entry in entries]
    return rows(["seed", "memory needed, of all", "packing"], lines)


def value(run, objective):
    """Give what a run reached for an objective."""
    return run["metrics"]["total_delay" if objective == "delay" else "max_bandwidth"]


def shown(number, objective):
    """Give a value of an objective as text."""
    return f"{number:,.0f}" if objective == "delay" else f"{number:.2%}"


def objectives(entries):
    """Give the table of the objectives against what is proved."""
    lines = []
    for entry in entries:
        run, objective = entry["runs"][0], entry["objective"]
        bound = run["statistics"]["total_delay_bound" if objective == "delay" else "max_bandwidth_bound"]
        reached = value(run, objective)
        gap = (reached - bound) / bound if bound else 0
        lines.append([entry["platform"], f"{entry['services']:,}", objective, shown(reached, objective), shown(bound, objective),
                      "optimal" if gap < 1e-3 else f"{gap:.1%}", f"{run['seconds']:.2g} s"])
    return rows(["platform", "services", "objective", "reached", "proved bound", "gap", "time"], lines)


def exact(entries):
    """Give the table of gaps to CP-SAT."""
    groups = {}
    for entry in entries:
        groups.setdefault((entry["services"], entry["objective"]), []).append(entry["runs"])
    lines = []
    for (count, objective), runs in sorted(groups.items()):
        proved = [(ours, theirs) for ours, theirs in runs if theirs["verdict"] == "feasible"
                  and theirs["statistics"]["objective"] - theirs["statistics"]["objective_bound"] < 1e-6]
        gaps = [value(ours, objective) / value(theirs, objective) - 1 for ours, theirs in proved]
        gaps = [gap if gap > 1e-4 else 0 for gap in gaps]
        lines.append([str(count), objective, f"{len(proved)} of {len(runs)}",
                      f"{sum(gaps) / len(gaps):.1%}, {max(gaps):.1%}" if gaps else "",
                      f"{sum(ours['seconds'] for ours, _ in runs) / len(runs):.2g} s",
                      f"{sum(theirs['seconds'] for _, theirs in runs) / len(runs):.2g} s"])
    return rows(["services", "objective", "optimum proved by CP-SAT", "gap of packing: mean, most", "packing", "CP-SAT"], lines)


def online(entries):
    """Give the table of the online mode."""
    lines = [[entry["platform"], f"{entry['level']:,}", f"{entry['filled']:,}", f"{entry['refused']} of {entry['steps']}",
              f"{entry['arrivals_without_move']:.0%}", f"{entry['moves_per_arrival']:.2f}, {entry['most_moves']}",
              "no solution" if entry["moved_by_solving_anew"] is None else
              f"{entry['moved_by_solving_anew']:,} of {entry['nodes']:,}",
              f"{entry['median_ms']:.2g}, {entry['worst_ms']:.2g} ms"] for entry in entries]
    return rows(["platform", "services aimed at", "reached", "refused", "arrivals without a move", "nodes moved: mean, most",
                 "moved by solving anew", "time: median, worst"], lines)


def figures(result, paths):
    """Draw figures 3.3 and 3.4: the best total of violations against time."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "flowos"
    from matplotlib import pyplot

    plots = {"3.3": [(f"{entry['services']} services", entry) for entry in result["basic"] if entry["services"] > 40],
             "3.4": [(f"NS{entry['services']}-D12", entry) for entry in result["large"] if entry["delay_bound"] == 12]}
    for name, entries in plots.items():
        figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
        for number, (label, entry) in enumerate(entries):
            runs = {one["solver"]: one for one in entry["runs"]}
            history = [(seconds, violations) for seconds, _, violations, _ in runs["tabu"]["history"]]
            axes.plot(*zip(*[(max(seconds, 1e-4), violations) for seconds, violations in history]), color=f"C{number}",
                      marker=".", label=f"{label}, tabu")
            packing = runs["packing"]
            axes.axvline(max(packing["seconds"], 1e-4), color=f"C{number}", linestyle=":",
                         label=f"{label}, packing: {packing['verdict']}")
        axes.set(xscale="log", yscale="symlog", xlabel="seconds", ylabel="violations, total", ylim=(0, None))
        axes.set_yscale("symlog", linthresh=100)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="x-small", ncols=2)
        figure.savefig(paths[name], metadata={"Date": None})
        pyplot.close(figure)
