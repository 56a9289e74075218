"""The result of the offload benchmark as claims, tables of docs/offload.md, and plots.

Tables stand in the page between `<!-- NAME -->` and `<!-- end -->`; `rewritten` replaces what is there.
A claim's verdict is computed: "holds", "fails", or "fitted" where the generated traffic was made to
match the number, so that it proves nothing.
"""
import json
import math
import re
from typing import NamedTuple

from balancing_report import row_of, table

NAMES = {"isp": "ISP", "mawi": "MAWI", "ixp": "IXP"}
KINDS = {"tfo": "TFO", "bin-optimal": "bin-optimal", "lru": "LRU", "lfu": "LFU"}
BINS = {1: "1 s", 10: "10 s", 600: "10 min"}
COLOURS = {"tfo": "#1b6ca8", "bin-optimal": "#777777", "lru": "#d9a441", "lfu": "#b33a3a",
           "isp": "#1b6ca8", "mawi": "#b33a3a", "ixp": "#4a8c4a", 1: "#b33a3a", 10: "#1b6ca8", 600: "#777777"}
SHOWN = (100, 500, 1000, 2000, 5000, 6000, 10_000, 18_000, 30_000)


class Claim(NamedTuple):
    """What the source says, its number, ours, and whether it holds."""

    claim: str
    source: str
    ours: str
    verdict: str


def row(result, trace, strategy, n, bin=10):
    """Give the figures of a strategy on a trace."""
    return row_of(result["traces"][trace]["rows"], strategy=strategy, n=n, bin=bin)


def entries(result, trace="isp", strategy="tfo", bin=10):
    """List the numbers of entries that a strategy was tried with."""
    return [found["n"] for found in result["traces"][trace]["rows"] if found["strategy"] == strategy and found["bin"] == bin]


def share(result, trace, rank):
    """Give the share of the traffic that the top prefixes have."""
    return dict(map(tuple, result["traces"][trace]["popularity"]))[rank]


def churn(found):
    """Give the median share of the entries that change in a bin."""
    return found["changes_median"] / found["n"]


def crossing(result, rival="lru", other="tfo"):
    """Give the least n from which on a rival changes fewer entries than another in each larger n that was tried; None: none."""
    least = None
    for n in reversed(entries(result)):
        if row(result, "isp", rival, n)["changes_median"] >= row(result, "isp", other, n)["changes_median"]:
            break
        least = n
    return least


def by_hour(result, strategy, n):
    """Give the mean changes per bin at night and by day, in the quarters around the lowest and the highest rate."""
    profile = result["profiles"]["isp"]
    changes = row_of(result["traces"]["isp"]["series"], strategy=strategy, n=n)["changes"]
    phases = [math.cos(2 * math.pi * (600 + 10 * number + 5) / profile["day"]) for number in range(len(changes))]
    means = []
    for sign in (1, -1):
        picked = [count for count, phase in zip(changes, phases) if sign * phase > math.sqrt(0.5)]
        means.append(sum(picked) / len(picked))
    return tuple(means)


def verdict(holds):
    """Name a truth."""
    return "holds" if holds else "fails"


def popularity_claims(result):
    """Judge what §2.4.1.1 says of the traces."""
    tops = {name: share(result, name, 10) for name in NAMES}
    yield Claim("the top 10 prefixes have", "ISP and MAWI over 20 %, IXP under 10 %",
                ", ".join(f"{NAMES[name]} {top:.0%}" for name, top in tops.items()), "fitted")
    heads = {name: share(result, name, 1000) for name in NAMES}
    yield Claim("the top 1,000 prefixes have", "over 50 %", ", ".join(f"{NAMES[name]} {top:.0%}" for name, top in heads.items()), "fitted")
    seconds = {name: share(result, name, 2000) - heads[name] for name in NAMES}
    yield Claim("the next 1,000 have", "under 5 %", ", ".join(f"{NAMES[name]} {more:.1%}" for name, more in seconds.items()),
                verdict(max(seconds.values()) < 0.05))
    half = result["traces"]["mawi"]["half"]
    yield Claim("MAWI: the least popular half has", "under 1 %", f"{half:.1%}", verdict(half < 0.01))


def load_claims(result):
    """Judge what is said of the load that is left."""
    found = row(result, "isp", "bin-optimal", 1000)
    yield Claim("ISP, bin-optimal, n = 1,000", "92 % offloaded, 3,400 PPS left, at most 6,400",
                f"{found['gain']:.1%}, {found['left_median']:,.0f} PPS, at most {found['left_max']:,.0f}", "fitted")
    for name, said in (("isp", "over 99 %, 500 PPS left"), ("mawi", "86 %, 4,200 PPS left"), ("ixp", "90 %, under 1,000 PPS left")):
        found = row(result, name, "tfo", 6000)
        yield Claim(f"{NAMES[name]}, TFO, n = 6,000", said, f"{found['gain']:.1%}, {found['left_median']:,.0f} PPS",
                    "fitted")
    left = {name: row(result, name, "bin-optimal", 5000)["left_median"] for name in NAMES}
    yield Claim("bin-optimal, n = 5,000, leaves", "up to around 1,000 PPS in all traces",
                ", ".join(f"{NAMES[name]} {rate:,.0f}" for name, rate in left.items()), verdict(max(left.values()) < 1500))
    gains = {bin: row(result, "isp", "bin-optimal", 1000, bin)["gain"] for bin in BINS}
    yield Claim("shorter bins offload more (ISP, bin-optimal, n = 1,000)", "yes",
                ", ".join(f"{BINS[bin]} {gain:.1%}" for bin, gain in gains.items()), verdict(gains[1] > gains[10] > gains[600]))
    lost = {n: row(result, "isp", "bin-optimal", n)["gain"] - row(result, "isp", "tfo", n)["gain"] for n in (200, 1000, 2000, 6000)}
    yield Claim("TFO offloads marginally less than bin-optimal (ISP)", "yes",
                ", ".join(f"n = {n:,}: {100 * less:.1f} points" for n, less in lost.items()), verdict(max(lost.values()) < 0.05))
    large = [n for n in entries(result) if n > 200]
    worst = all(row(result, "isp", "lfu", n)["left_median"] >= max(
        row(result, "isp", kind, n)["left_median"] for kind in ("tfo", "bin-optimal", "lru")) for n in large)
    yield Claim("LFU leaves the most (ISP, n over 200)", "yes", "at every n" if worst else "up to n = " + format(max(
        n for n in large if row(result, "isp", "lfu", n)["left_median"] >= row(result, "isp", "tfo", n)["left_median"]), ","),
        verdict(worst))


def churn_claims(result):
    """Judge what is said of changes."""
    small, some, more = (row(result, "isp", "bin-optimal", n) for n in (200, 2000, 5000))
    yield Claim("ISP, bin-optimal, n of a few hundred: changed per bin", "about 15 %", f"n = 200: {churn(small):.0%}",
                verdict(0.1 < churn(small) < 0.2))
    yield Claim("…, n of a few thousand", "around half", f"n = 5,000: {churn(more):.0%}", verdict(0.4 < churn(more) < 0.6))
    yield Claim("…, n = 2,000", "over 70 %", f"{churn(some):.0%}, at most {some['changes_max'] / 2000:.0%}", verdict(churn(some) > 0.7))
    wide = {bin: churn(row(result, "isp", "bin-optimal", 2000, bin)) for bin in BINS}
    yield Claim("larger bins do not change much less (ISP, n = 2,000)", "yes",
                ", ".join(f"{BINS[bin]} {part:.0%}" for bin, part in wide.items()), verdict(wide[600] > 0.7 * wide[10]))
    ours = row(result, "isp", "tfo", 2000)
    yield Claim("ISP, TFO, n = 2,000: changed per bin", "under 10 % at all times",
                f"{churn(ours):.1%}, at most {ours['changes_max'] / 2000:.1%}", verdict(ours["changes_max"] < 200))
    times = {n: churn(row(result, "isp", "bin-optimal", n)) / churn(row(result, "isp", "tfo", n)) for n in (200, 1000, 2000, 6000)}
    yield Claim("bin-optimal changes ten times as much as TFO (ISP)", "about",
                ", ".join(f"n = {n:,}: {ratio:.1f}" for n, ratio in times.items()), verdict(min(times.values()) > 7))
    rates = {name: churn(row(result, name, "tfo", 2000)) for name in NAMES}
    yield Claim("TFO changes most on MAWI, then ISP, then IXP (n = 2,000)", "yes",
                ", ".join(f"{NAMES[name]} {rate:.1%}" for name, rate in rates.items()),
                verdict(rates["mawi"] > rates["isp"] > rates["ixp"]))
    calm = row(result, "ixp", "tfo", 500)
    yield Claim("IXP, TFO, n = 500: median of the changes", "0", f"{calm['changes_median']:g} a bin", verdict(calm["changes_median"] == 0))
    below = [n for n in entries(result) if n < 10_000]
    ahead = all(row(result, "isp", kind, n)["changes_median"] > row(result, "isp", "tfo", n)["changes_median"]
                for kind in ("lru", "lfu") for n in below)
    yield Claim("TFO changes less than LRU and LFU (ISP, n under 10,000)", "yes", "at every n" if ahead else "not at every n", verdict(ahead))
    fewer = {kind: crossing(result, kind, "bin-optimal") for kind in ("lru", "lfu")}
    yield Claim("caches change more than bin-optimal up to a few thousand entries, then less (ISP)", "yes", ", ".join(
        f"{KINDS[kind]} less from n = {n:,} on" if n else f"{KINDS[kind]} never less" for kind, n in fewer.items()),
        verdict(all(n is not None and 2000 < n <= 20_000 for n in fewer.values())))
    met = crossing(result)
    near = {n: row(result, "isp", "lru", n)["changes_median"] / row(result, "isp", "tfo", n)["changes_median"] for n in (2000, 10_000, 30_000)}
    yield Claim("LRU begins to change less than TFO (ISP)", "around n = 10,000",
                ("not up to n = 30,000" if met is None else f"from n = {met:,} on") + "; LRU over TFO: "
                + ", ".join(f"n = {n:,}: {ratio:.2f}" for n, ratio in near.items()),
                verdict(met is not None and 5000 <= met <= 20_000))
    better = [n for n in entries(result) if row(result, "isp", "lru", n)["changes_median"] > row(result, "isp", "lfu", n)["changes_median"]]
    yield Claim("LRU changes less than LFU (ISP)", "yes", "at every n" if not better else "but at n = " + ", ".join(f"{n:,}" for n in better),
                verdict(not better))
    (night, day), (night_large, day_large) = by_hour(result, "bin-optimal", 200), by_hour(result, "bin-optimal", 18_000)
    yield Claim("the day's effect on bin-optimal's changes inverts with n (ISP)", "yes",
                f"day over night: n = 200: {day / night:.2f}, n = 18,000: {day_large / night_large:.2f}",
                verdict((day / night - 1) * (day_large / night_large - 1) < 0))
    (night, day), (night_large, day_large) = by_hour(result, "tfo", 2000), by_hour(result, "tfo", 18_000)
    yield Claim("TFO's changes follow the day at n = 18,000, hardly at 2,000 (ISP)", "yes",
                f"day over night: n = 2,000: {day / night:.2f}, n = 18,000: {day_large / night_large:.2f}",
                verdict(abs(math.log(day_large / night_large)) > 1.5 * abs(math.log(day / night))))


def claims(result):
    """Give every claim in turn."""
    yield from popularity_claims(result)
    yield from load_claims(result)
    yield from churn_claims(result)
    found = result["speed"]
    yield Claim("our aim: a million prefixes, 10 million packets per second counted on one core", "–",
                f"{found['prefixes']:,} prefixes, {found['zipf']:.1f} million", verdict(found["prefixes"] >= 10**6 and found["zipf"] >= 10))


def pps(found):
    """Spell a median and a maximum."""
    return f"{found['left_median']:,.0f} / {found['left_max']:,.0f}"


def percent(part):
    """Spell a share, with a digit more where it is small."""
    return f"{part:.1%}" if part < 0.1 else f"{part:.0%}"


def grid(heads, keys, cell, result, corner="n ="):
    """Write a table with a column for each n that is shown, and a row for each key."""
    ns = [n for n in SHOWN if n in entries(result)]
    return table([corner, *(f"{n:,}" for n in ns)], [[head, *(cell(key, n) for n in ns)] for head, key in zip(heads, keys)])


def tables(result):
    """Give {name: Markdown} of every table of the page."""
    bins = [("isp", "bin-optimal", bin) for bin in BINS]
    kinds = list(KINDS)
    return {
        "claims": table(["", "the source", "ours", ""], [list(claim) for claim in claims(result)]),
        "profiles": profiles(result),
        "figure 2.9a": table(["top prefixes", *(f"{rank:,}" for rank in (10, 100, 1000, 2000, 6000, 10_000))],
                             [[f"{NAMES[name]}, of {result['traces'][name]['prefixes']:,}",
                               *(f"{share(result, name, rank):.0%}" for rank in (10, 100, 1000, 2000, 6000, 10_000))] for name in NAMES]),
        "figure 2.9b": grid(BINS.values(), bins, lambda key, n: pps(row(result, *key[:2], n, key[2])), result),
        "figure 2.9c": grid(NAMES.values(), NAMES, lambda name, n: pps(row(result, name, "bin-optimal", n)), result),
        "figure 2.10": grid([f"ISP, {word}" for word in BINS.values()] + ["MAWI, 10 s", "IXP, 10 s"],
                            bins + [("mawi", "bin-optimal", 10), ("ixp", "bin-optimal", 10)],
                            lambda key, n: percent(churn(row(result, *key[:2], n, key[2]))), result),
        "figure 2.11a": grid(KINDS.values(), kinds, lambda kind, n: f"{row(result, 'isp', kind, n)['changes_median'] / 10:,.1f}", result),
        "figure 2.11b": grid(KINDS.values(), kinds, lambda kind, n: f"{row(result, 'isp', kind, n)['left_median']:,.0f}", result),
        "figure 2.13b": grid(NAMES.values(), NAMES, lambda name, n: f"{row(result, name, 'tfo', n)['changes_median']:,.0f} "
                             f"({percent(churn(row(result, name, 'tfo', n)))})", result),
        "figure 2.13c": grid(NAMES.values(), NAMES, lambda name, n: f"{row(result, name, 'tfo', n)['gain']:.1%}: "
                             f"{pps(row(result, name, 'tfo', n))}", result),
        "factors": factors(result["factors"]), "prices": prices(result["factors"]),
        "scales": scales(result["scales"]), "speed": speeds(result)}


def profiles(result):
    """Write the table of what the generated traces are made of."""
    fields = list(result["profiles"]["isp"])
    return table(["", *NAMES.values()], [[f"`{field}`", *(f"{result['profiles'][name][field]:,.12g}" for name in NAMES)] for field in fields])


def factors(rows):
    """Write the table of fixed factors."""
    heads = ["factor", *(f"{what}, n = {found['n']:,}" for found in rows for what in ("offloaded", "changed per bin"))]
    lines = []
    for number, first in enumerate(rows[0]["fixed"]):
        lines.append([f"{first['factor']:g}", *(cell for found in rows for at in [found["fixed"][number]]
                                               for cell in (f"{at['gain']:.2%}", percent(at["changes_mean"] / found["n"])))])
    return table(heads, lines)


def prices(rows):
    """Write the table of the tuned factor beside the best and the source's."""
    lines = []
    for found in rows:
        for at in found["tuned"]:
            best = min(at["fixed"], key=at["fixed"].get)
            lines.append([f"{found['n']:,}", f"{at['price']:,}", f"{at['cost']:,.0f}", f"{at['last']:g}",
                          f"{at['fixed'][best]:,.0f} ({float(best):g})", over(at["cost"], at["fixed"][best]),
                          over(at["fixed"]["2.0"], at["fixed"][best])])
    return table(["n", "price of a change", "tuned: cost per bin", "factor at the end", "best fixed (factor)", "tuned over best",
                  "factor 2 over best"], lines)


def over(cost, best):
    """Spell by how much a cost exceeds the best.

    >>> over(102, 100), over(99.999, 100)
    ('+2.0%', '+0.0%')
    """
    return f"{round(cost / best - 1, 3) + 0.0:+.1%}"


def scales(rows):
    """Write the table of TFO with fewer time scales."""
    ns = sorted({found["n"] for found in rows})
    lines = []
    for name in NAMES:
        for chosen in list(dict.fromkeys(tuple(found["scales"]) for found in rows)):
            mine = [next(found for found in rows if (found["trace"], tuple(found["scales"]), found["n"]) == (name, chosen, n)) for n in ns]
            lines.append([NAMES[name], ", ".join(f"{scale:g} s" for scale in chosen),
                          *(f"{found['gain']:.1%}, {percent(churn(found))}" for found in mine)])
    return table(["", "time scales", *(f"n = {n:,}" for n in ns)], lines)


def speeds(result):
    """Write the table of speeds."""
    found, host = result["speed"], result["host"]
    lines = [["packets to prefixes by Zipf's law, IPv4", f"{found['zipf']:.1f} million/s"],
             ["packets to addresses anywhere, IPv4", f"{found['anywhere']:.1f} million/s"],
             ["packets to 200,000 prefixes /32, IPv6", f"{found['ipv6']:.1f} million/s"],
             ["put a prefix in, as text", f"{found['fill'] / found['prefixes'] * 1e6:.2f} µs"],
             ["the table's memory", f"{found['bytes'] / 1e6:.0f} MB"],
             ["counts and rates of three scales", f"{found['traffic_bytes'] / 1e6:.0f} MB"],
             ["a tick, each 10 s", f"{found['tick'] * 1e3:.1f} ms"],
             ["a round of TFO, n = 6,000, each 10 s", f"{found['round'] * 1e3:.1f} ms"]]
    if found["rival"]:
        lines += [[f"{found['rival']['name']}: look-ups, uncounted", f"{found['rival']['mpps']:.2f} million/s"],
                  [f"{found['rival']['name']}: put a prefix in, as text", f"{found['rival']['fill'] / found['prefixes'] * 1e6:.2f} µs"]]
    return table([f"{found['prefixes']:,} prefixes", "one core, CPU time"], lines) + (
        f"\n\n({host['cpu']}, Python {host['python']}, NumPy {host['versions'].get('numpy')}; a shared machine; the least of five rounds.)")


def rewritten(page, result):
    """Give a page with its tables made anew.  KeyError: the page wants a table that there is not."""
    found = tables(result)
    return re.sub(r"<!-- ((?!end)[\w. ]+) -->\n.*?\n?<!-- end -->",
                  lambda match: f"<!-- {match[1]} -->\n{found[match[1]]}\n<!-- end -->", page, flags=re.S)


def dumped(result):
    """Write a result as JSON whose innermost lists are a line each."""
    text = json.dumps(result, indent=1)
    return re.sub(r"\[\s+([-\d.,\se]+?)\s+\]", lambda match: "[" + re.sub(r"\s+", " ", match[1]) + "]", text) + "\n"


def plots(result, stem):
    """Draw figures 2.9, 2.10, 2.11 and 2.13.  Needs matplotlib: ImportError without it."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "flowos", "svg.fonttype": "none", "font.size": 8})
    from matplotlib import pyplot

    def panels(titles):
        figure, axes = pyplot.subplots(1, len(titles), figsize=(3.7 * len(titles), 3.1), layout="constrained")
        for ax, (title, across, up) in zip(axes, titles):
            ax.set_title(title, loc="left")
            ax.set_xlabel(across)
            ax.set_ylabel(up)
            ax.spines[["top", "right"]].set_visible(False)
        return figure, axes

    def line(ax, trace, kind, value, key, label, bin=10, style="-"):
        ns = [n for n in entries(result, trace, kind, bin)]
        ax.plot(ns, [value(row(result, trace, kind, n, bin)) for n in ns], style, color=COLOURS[key], label=label, linewidth=1.2)

    def over_time(ax, kind):
        for n, colour in zip((200, 2000, 18_000), ("#4a8c4a", "#1b6ca8", "#b33a3a")):
            changes = row_of(result["traces"]["isp"]["series"], strategy=kind, n=n)["changes"]
            hours = [(600 + 10 * number) / 150 for number in range(len(changes))]      # a day of 3,600 s has 24 hours
            ax.plot(hours, [100 * count / n for count in changes], color=colour, linewidth=0.7, label=f"n = {n:,}")
        ax.set_ylim(0, 1.2 * ax.get_ylim()[1])
        ax.legend(frameon=False, loc="upper left", ncols=3, columnspacing=1)

    def saved(figure, number):
        figure.savefig(f"{stem}-{number}.svg", metadata={"Date": None})
        pyplot.close(figure)

    median, most = (lambda found: max(1, found["left_median"])), (lambda found: max(1, found["left_max"]))
    changed = lambda found: 100 * churn(found)                                          # noqa: E731
    n_axis, load, part = "n: entries in the switch", "PPS at the controller", "entries changed per bin, %"

    figure, (a, b, c) = panels([("2.9a: popularity", "top prefixes", "share of packets, %"),
                                ("2.9b: ISP, bin-optimal", n_axis, load), ("2.9c: bins of 10 s, bin-optimal", n_axis, load)])
    for name in NAMES:
        ranks, shares = zip(*result["traces"][name]["popularity"])
        a.plot(ranks, [100 * found for found in shares], color=COLOURS[name], label=NAMES[name])
        line(c, name, "bin-optimal", median, name, NAMES[name])
        line(c, name, "bin-optimal", most, name, None, style=":")
    for bin in BINS:
        line(b, "isp", "bin-optimal", median, bin, BINS[bin], bin)
        line(b, "isp", "bin-optimal", most, bin, None, bin, ":")
    a.set_xscale("log")
    for ax in (b, c):
        ax.loglog()
    for ax in (a, b, c):
        ax.legend(frameon=False, title=None if ax is a else "median; dotted: most")
    saved(figure, "2.9")

    figure, (a, b, c) = panels([("2.10a: ISP, bins of 10 s", "hour", part), ("2.10b: ISP", n_axis, part), ("2.10c: bins of 10 s", n_axis, part)])
    over_time(a, "bin-optimal")
    for bin in BINS:
        line(b, "isp", "bin-optimal", changed, bin, BINS[bin], bin)
    for name in NAMES:
        line(c, name, "bin-optimal", changed, name, NAMES[name])
    for ax in (b, c):
        ax.set_xscale("log")
        ax.legend(frameon=False)
    saved(figure, "2.10")

    figure, (a, b) = panels([("2.11a: ISP, changes", n_axis, "entries changed per second"), ("2.11b: ISP, load", n_axis, load)])
    for kind in KINDS:
        line(a, "isp", kind, lambda found: max(0.1, found["changes_median"] / 10), kind, KINDS[kind])
        line(b, "isp", kind, median, kind, KINDS[kind])
    for ax in (a, b):
        ax.loglog()
        ax.legend(frameon=False)
    saved(figure, "2.11")

    figure, (a, b, c) = panels([("2.13a: ISP, TFO", "hour", part), ("2.13b: TFO, changes", n_axis, "entries changed per bin"),
                                ("2.13c: TFO, load", n_axis, load)])
    over_time(a, "tfo")
    for name in NAMES:
        line(b, name, "tfo", lambda found: found["changes_median"], name, NAMES[name])
        line(c, name, "tfo", median, name, NAMES[name])
        line(c, name, "tfo", most, name, None, style=":")
    b.set_xscale("log")
    c.set_yscale("log")
    b.legend(frameon=False)
    c.legend(frameon=False, title="median; dotted: most")
    saved(figure, "2.13")
