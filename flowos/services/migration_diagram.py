"""The migration's tables as diagrams (Mermaid) and as Markdown, for docs/migration.md."""
from . import migration as m


def machines():
    """Give {name: rows} of the three state machines."""
    return {"source": m.PHASES, "batch": m.BATCHES, "destination": m.DESTINATION}


def mermaid(rows):
    """Draw a table as a Mermaid state diagram; rows that change nothing and do nothing are left out.

    >>> print(mermaid([m.Row("a", "go", "ready", "b", ("sing", "dance"))]))
    stateDiagram-v2
        [*] --> a
        a --> b: go [ready] / sing, dance
    """
    rows = list(rows)
    lines = ["stateDiagram-v2", f"    [*] --> {rows[0].state}"]
    for row in rows:
        if row.state == row.next and not row.actions:
            continue
        label = row.event + (f" [{row.guard}]" if row.guard else "")
        label += f" / {', '.join(row.actions)}" if row.actions else ""
        lines.append(f"    {row.state} --> {row.next}: {label}")
    return "\n".join(lines)


def markdown(rows):
    """Give a table as a Markdown table, every row of it.

    >>> print(markdown([m.Row("a", "go", "", "b", ())]))
    | in | on | if | to | does |
    |---|---|---|---|---|
    | a | go |  | b |  |
    """
    lines = ["| in | on | if | to | does |", "|---|---|---|---|---|"]
    lines += [f"| {row.state} | {row.event} | {row.guard} | {row.next} | {', '.join(row.actions)} |" for row in rows]
    return "\n".join(lines)
