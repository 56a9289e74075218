"""The result of the balancing benchmark as claims, tables of docs/balancing.md, and plots.

Tables stand in the page between `<!-- NAME -->` and `<!-- end -->`; `rewritten` replaces what is there.
"""
import re

NAMES = {"gauss-narrow": "bell curve, narrow", "gauss-wide": "bell curve, wide", "constant": "constant",
         "random-uniform": "random, uniform", "random-exponential": "random, exponential", "zipf": "Zipf, /16s"}
COLOURS = ("#1b6ca8", "#5aa9d6", "#777777", "#d9a441", "#a8651b", "#b33a3a")


def row_of(rows, **wanted):
    """Give the row that has these values."""
    return next(row for row in rows if all(row[key] == value for key, value in wanted.items()))


def distributions(rows):
    """List the distributions of rows, in order."""
    return list(dict.fromkeys(row["distribution"] for row in rows))


def claims(result):
    """Give a line per claim: claim, number, unit."""
    sources = [row for row in result["figures"] if row["distribution"] != "zipf"]
    at_50 = [row["rules"] for row in result["figures"] if row["machines"] == 50]
    slow = max((row for row in result["times"] if row["machines"] == 1000), key=lambda row: row["balance"]["ms_median"])
    listed = [row["listing"]["ms_min"] for row in result["times"] if row["machines"] == 1000 and row["listing"]]
    yield (f"prefixes per machine at imbalance 1.1, most of the source's five distributions (claim: below 3): "
           f"{max(row['prefixes'] / row['machines'] for row in sources):.2f}; with Zipf's "
           f"{max(row['prefixes'] / row['machines'] for row in result['figures']):.2f}")
    yield f"imbalance, most of all (claim: at most 1.1): {max(row['imbalance'] for row in result['figures']):.4f}"
    yield f"rules at 50 machines, most (claim: below 300): {max(at_50)} rules"
    yield (f"1,000 machines, slowest distribution (aim 1 ms, source 7 ms): {slow['balance']['ms_median']:.3f} ms median, "
           f"{slow['balance']['ms_min']:.3f} ms minimum; the listing in Python {min(listed):.1f} to {max(listed):.1f} ms")
    for row in result["counting"]:
        yield f"counting on {row['on']}, 1 in {row['every']}: {1e3 / row['mpps']:.1f} ns per packet"


def table(head, rows):
    """Write a Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def grid(rows, corner, column, cell, last=None):
    """Write a table with a row per distribution and a column per value of a field; `last` (title, function) adds one."""
    values, lines = sorted({row[column] for row in rows}), []
    for name in distributions(rows):
        mine = [row for row in rows if row["distribution"] == name]
        lines.append([NAMES[name], *(cell(row_of(mine, **{column: value})) for value in values)])
        if last:
            lines[-1].append(last[1](mine))
    return table([corner, *(f"{value:,}" for value in values), *([last[0]] if last else [])], lines)


def tables(result):
    """Give {name: Markdown} of every table of the page."""
    return {
        "figure 2.3": grid(result["figures"], "machines", "machines", lambda row: f"{row['prefixes']:,.0f}"),
        "figure 2.4": grid(result["figures"], "machines", "machines", lambda row: f"{row['prefixes'] / row['machines']:.2f}",
                           ("largest imbalance", lambda rows: f"{max(row['imbalance'] for row in rows):.3f}")),
        "figure 2.5": grid(result["by_imbalance"], "maximum imbalance", "limit", lambda row: f"{row['prefixes']:,}"),
        "chunk": grid(result["by_chunk"], "chunk threshold", "chunk", lambda row: f"{row['prefixes']:,}"),
        "times": times(result["times"]),
        "capacities": table(
            ["", "machines", "imbalance", "prefixes per machine", "Wang et al.: imbalance", "prefixes per machine"],
            [[NAMES[row["distribution"]], str(row["machines"]), f"{row['imbalance']:.3f}",
              f"{row['prefixes'] / row['machines']:.2f}", f"{row['wang_imbalance']:.2f}",
              f"{row['wang_prefixes'] / row['machines']:.2f}"] for row in result["capacities"]]),
        "tail": tail(result["tail"]),
        "drift": table(
            ["", "moved per period, mended", "afresh", "prefixes, mended (most)", "afresh", "largest imbalance, mended"],
            [[NAMES[row["distribution"]], f"{row['moved']:.1%}", f"{row['fresh_moved']:.0%}",
              f"{row['prefixes']:.0f} ({row['most_prefixes']})", f"{row['fresh_prefixes']:.0f}",
              f"{row['imbalance']:.3f}"] for row in result["drift"]]),
        "fleets": table(
            ["machines", "one joins: load moved", "its quota", "more prefixes", "one leaves: load moved", "what it had",
             "more prefixes"],
            [[str(row["machines"]), f"{row['joined']:.2%}", f"{row['join_least']:.2%}", str(row["join_prefixes"]),
              f"{row['left']:.2%}", f"{row['leave_least']:.2%}", str(row["leave_prefixes"])] for row in result["fleets"]]),
        "counting": table(
            ["balanced on", "counted", "ns per packet"],
            [[row["on"], f"1 in {row['every']}" if row["every"] > 1 else "all", f"{1e3 / row['mpps']:.1f}"]
             for row in result["counting"]])}


def times(rows):
    """Write the table of times."""
    lines = []
    for name in distributions(rows):
        few, some, many = (row_of(rows, distribution=name, machines=count) for count in (10, 100, 1000))
        listed = "stops" if many["listing"] is None else f"{many['listing']['ms_min']:.1f}"
        made = [row["balance"] for row in (few, some, many)]
        lines.append([NAMES[name], *(f"{time['ms_min']:.3f} / {time['ms_median']:.3f}" for time in made), listed,
                      f"{many['mend']['ms_min']:.0f}"])
    return table(["", "10 machines", "100", "1,000", "the listing in Python, 1,000", "mending, 1,000"], lines)


def tail(rows):
    """Write the table of heavy tails."""
    exponents, ways = sorted({row["exponent"] for row in rows}), list(dict.fromkeys(row["way"] for row in rows))
    head, lines = [""], []
    for title in ("imbalance, s =", "prefixes, s =", "torn, s ="):
        head += [f"{title} {exponent:g}" for exponent in exponents]
    for way in ways:
        mine = [row_of(rows, exponent=exponent, way=way) for exponent in exponents]
        lines.append([way, *(f"{row['imbalance']:.2f}" for row in mine), *(str(row["prefixes"] or "–") for row in mine),
                      *(f"{row['torn']:.0%}" for row in mine)])
    bounds = [next(row["bound"] for row in rows if row["exponent"] == exponent and row["bound"]) for exponent in exponents]
    lines.append(["no plan that keeps hosts whole can do better", *(f"{bound:.2f}" for bound in bounds),
                  *[""] * (2 * len(exponents))])
    return table(head, lines)


def rewritten(page, result):
    """Give a page with its tables made anew.  KeyError: the page wants a table that there is not."""
    found = tables(result)
    return re.sub(r"<!-- ((?!end)[\w. ]+) -->\n.*?\n<!-- end -->",
                  lambda match: f"<!-- {match[1]} -->\n{found[match[1]]}\n<!-- end -->", page, flags=re.S)


def plot(result, path):
    """Draw figures 2.3, 2.4 and 2.5.  Needs matplotlib: ImportError without it."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "flowos", "svg.fonttype": "none", "font.size": 8})
    from matplotlib import pyplot

    figure, (total, mean, limit) = pyplot.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    for name, colour in zip(distributions(result["figures"]), COLOURS):
        rows = [row for row in result["figures"] if row["distribution"] == name]
        counts = [row["machines"] for row in rows]
        total.plot(counts, [row["prefixes"] for row in rows], marker=".", color=colour, label=NAMES[name])
        mean.plot(counts, [row["prefixes"] / row["machines"] for row in rows], marker=".", color=colour)
    for name, colour in zip(distributions(result["by_imbalance"]), COLOURS):
        rows = [row for row in result["by_imbalance"] if row["distribution"] == name]
        limit.plot([row["limit"] - 1 for row in rows], [row["prefixes"] for row in rows], marker=".", color=colour)
    mean.axhline(3, color="#b33a3a", linewidth=0.8, linestyle="--")
    mean.annotate("the source's claim: below 3", (12, 3), textcoords="offset points", xytext=(0, -9), color="#b33a3a")
    for axes, title, label in ((total, "Figure 2.3: prefixes", "machines"),
                               (mean, "Figure 2.4: prefixes per machine", "machines"),
                               (limit, "Figure 2.5: prefixes, 100 machines", "maximum imbalance, less 1")):
        axes.set_title(title, loc="left")
        axes.set_xlabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in (mean, limit):
        axes.set_xscale("log")
    limit.set_ylim(0)
    mean.set_ylim(0, 3.3)
    total.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
