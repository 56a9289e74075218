"""What `flowos balance` prints: tables for people, or one JSON object."""
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPED_WIDTH = 160          # columns when standard output is no terminal


def as_json(made, loads, touched, rivals):
    """Give the result as what `json` can write."""
    plan = made.plan
    counts = prefix_counts(plan)
    result = {
        "on": plan.space.on, "total": loads.total, "imbalance": made.imbalance, "bound": made.bound,
        "prefixes": len(plan), "assumed": made.assumed,
        "machines": [{"name": machine.name, "capacity": machine.capacity, "load": float(load), "quota": float(quota),
                      "prefixes": counts.get(machine.name, 0)}
                     for machine, load, quota in zip(plan.machines, made.loads, made.quotas)],
        "unsplittable": [{"prefix": prefix, "load": load} for prefix, load in made.unsplittable],
        "plan": plan.to_json()["prefixes"]}
    if made.moves is not None:
        result["moved"] = made.moved
        result["moves"] = [move._asdict() for move in made.moves]
    if touched is not None:
        for name in ("stay", "migrate", "unknown"):
            result[name] = [{"proto": connection.proto, "a": list(connection.a), "b": list(connection.b),
                             "before": before, "after": after} for connection, before, after in getattr(touched, name)]
    if rivals is not None:
        result["rivals"] = rivals
    return result


def prefix_counts(plan):
    """Count the prefixes of each machine; a shared one counts for all that share it."""
    counts = {}
    for _, owner in plan.prefixes():
        for name in owner if isinstance(owner, dict) else (owner,):
            counts[name] = counts.get(name, 0) + 1
    return counts


def end(pair):
    """Write an end of a connection."""
    address, port = pair
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def owner_text(owner):
    """Write an owner: a machine's name, or a hash group's machines with their parts."""
    if isinstance(owner, str):
        return owner
    total = sum(owner.values())
    return " + ".join(f"{name} {weight / total:.0%}" for name, weight in owner.items())


def as_tables(made, touched, rivals, limit, file):
    """Print the result for people: a line that sums it up, then tables of at most `limit` rows."""
    console = Console(file=file, width=None if file.isatty() else PIPED_WIDTH, highlight=False)
    plan, total = made.plan, max(float(made.loads.sum()), 1e-300)
    say = f"{len(plan.machines)} machines, {len(plan)} prefixes on {plan.space.on}: imbalance {made.imbalance:.3f}"
    if made.bound > 1:
        say += f" (at least {made.bound:.3f} without hash groups)"
    if made.moves is not None:
        say += f"; {made.moved / total:.1%} of the load moves"
    print(say, file=file)
    if made.assumed:
        print(f"{made.assumed} prefixes end below the counters: their load is a guess; count finer", file=file)
    counts = prefix_counts(plan)
    show(console, "machines", ("machine", "#capacity", "#load", "#part", "#of its quota", "#prefixes"),
         [(machine.name, f"{machine.capacity:g}", f"{load:,.0f}", f"{load / total:.2%}", f"{load / quota:.3f}",
           str(counts.get(machine.name, 0))) for machine, load, quota in zip(plan.machines, made.loads, made.quotas)], limit)
    show(console, "prefixes", ("prefix", "owner"),
         [(prefix, owner_text(owner)) for prefix, owner in plan.prefixes()], limit)
    show(console, "unsplittable", ("prefix", "#load", "#part"),
         [(prefix, f"{load:,.0f}", f"{load / total:.2%}") for prefix, load in made.unsplittable], limit)
    show(console, "moves", ("prefix", "from", "to", "#part"),
         [(move.prefix, owner_text(move.before), owner_text(move.after), f"{move.load / total:.2%}")
          for move in made.moves or ()], limit)
    if touched is not None:
        for title, rows in (("connections that may stay", touched.stay), ("connections that must migrate", touched.migrate),
                            ("connections of hash groups", touched.unknown)):
            show(console, title, ("protocol", "a", "b", "from", "to"),
                 [(connection.proto, end(connection.a), end(connection.b), owner_text(before), owner_text(after))
                  for connection, before, after in rows], limit)
    show(console, "rivals", ("rival", "#imbalance", "#prefixes", "#load of ends on several machines"),
         [(row["rival"], f"{row['imbalance']:.3f}", str(row["prefixes"] or "-"),
           "-" if row["torn"] is None else f"{row['torn']:.1%}") for row in rivals or ()], limit)


def show(console, title, columns, rows, limit):
    """Print a table, or nothing when it has no rows."""
    if not rows:
        return
    table = Table(title=f"{title} ({len(rows):,})", title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")
    for name in columns:
        table.add_column(name.removeprefix("#"), justify="right" if name.startswith("#") else "left", overflow="fold")
    for row in rows[:limit or None]:
        table.add_row(*map(Text, row))
    console.print(table)
    if limit and len(rows) > limit:
        console.print(f"… {len(rows) - limit:,} more: --limit 0 shows them")
