"""What `flowos run` says in the end: per module what it did, and the books of the packets."""
import json
import sys

from .inspect_tables import PIPED_WIDTH, shown

#: Counters of an attachment, in the order of the table's columns.
COUNTERS = ("windows", "units", "bytes", "edits", "bytes_removed", "bytes_inserted", "drops", "held_released", "errors")
MERGED = "merged_"


def summary(session):
    """Give the summary of a session that was closed, as a dict for JSON."""
    engine = session.engine
    capture, statistics = engine.capture, engine.statistics()
    return {
        "capture": {"packets": capture.packets, "bytes": capture.bytes, "truncated": capture.truncated,
                    "first_ns": capture.first_ns, "last_ns": capture.last_ns},
        "output": session.output,
        "modules": [module_record(session, attachment, want) for attachment, want in session.attached],
        "books": books(statistics),
        "counters": {name: value for name, value in statistics.items() if value},
    }


def module_record(session, attachment, want):
    """Give what one attachment did."""
    module = attachment.module
    counters = dict(getattr(attachment, "counters", {}))
    counters["errors"] = max(counters.get("errors", 0), len(attachment.errors))
    return {
        "module": module.name or type(module).__name__, "spec": want.spec, "flow": want.flow, "order": attachment.order,
        "protocol": attachment.protocol, "mode": module.mode,
        **{name: counters.get(name, 0) for name in COUNTERS},
        "seconds": counters.get("ns", 0) / 1e9, "records": session.emitter.counts.get(id(module), 0),
    }


def books(statistics):
    """Give the books of an in-line run (invariant 6): every packet that came left, or was dropped for a reason.

    {} for a run without an output.  `balance` is what is not accounted for: always 0.
    """
    merged = {name.removeprefix(MERGED): value for name, value in statistics.items() if name.startswith(MERGED)}
    if not merged:
        return {}
    dropped = {name.removeprefix("dropped_"): value for name, value in merged.items()
               if name.startswith("dropped_") and value}
    left = {name: merged.get(name, 0) for name in ("unchanged", "rewritten", "made")}
    return {"left": merged.get("packets", 0), **left, "dropped": dropped}


def print_json(told):
    """Print the summary as one JSON object."""
    sys.stdout.write(json.dumps(told) + "\n")


def print_tables(told, out):
    """Print the summary for people."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=out, highlight=False, soft_wrap=False, width=None if out.isatty() else PIPED_WIDTH)
    capture = told["capture"]
    seconds = ((capture["last_ns"] or 0) - (capture["first_ns"] or 0)) / 1e9
    console.print(f"{capture['packets']:,} packets, {capture['bytes']:,} bytes, {seconds:,.3f} s")
    if told["modules"]:
        table = Table(title="modules", title_justify="left", box=box.SIMPLE_HEAD, title_style="bold")
        names = ["module", "flow", "order", "level", *COUNTERS, "records", "time, ms"]
        rows = [[module["module"], module["flow"] or "all", module["order"], module["protocol"],
                 *(module[name] for name in COUNTERS), module["records"], f"{module['seconds'] * 1e3:,.1f}"]
                for module in told["modules"]]
        for place, name in enumerate(names):
            if name in ("module", "flow", "errors", "records") or any(row[place] not in (0, "0.0") for row in rows):
                table.add_column(name.replace("_", " "), justify="left" if name in ("module", "flow", "level") else "right")
        kept = [column.header for column in table.columns]
        for row in rows:
            table.add_row(*[Text(shown(cell)) for name, cell in zip(names, row, strict=True)
                            if name.replace("_", " ") in kept])
        console.print(table)
    if told["books"]:
        left = told["books"]
        console.print(f"{left['left']:,} packets left: {left['unchanged']:,} unchanged, {left['rewritten']:,} rewritten, "
                      f"{left['made']:,} made" + "".join(f"; {count:,} dropped ({reason})"
                                                         for reason, count in left["dropped"].items()))
    out.flush()


def print_errors(session):
    """Print what modules raised on stderr, the newest traceback of each; say whether there was anything."""
    failed = False
    for attachment, want in session.attached:
        if attachment.errors:
            failed = True
            sys.stderr.write(f"flowos: {want.spec} raised {len(attachment.errors)} times; the last was:\n"
                             f"{attachment.errors[-1].rstrip()}\n")
    return failed
