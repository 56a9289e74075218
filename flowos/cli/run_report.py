"""What `flowos run` says in the end: per module what it did, and the books of the packets."""
import json
import sys

from .inspect_tables import PIPED_WIDTH, cut_off, shown

#: Counters of an attachment, in the order of the table's columns.
COUNTERS = ("windows", "units", "bytes", "edits", "bytes_removed", "bytes_inserted", "drops", "held_released", "errors")
MERGED = "merged_"
LEFT = ("unchanged", "rewritten", "edited", "made")


def summary(session):
    """Give the summary of a session that was closed, as a dict for JSON."""
    engine = session.engine
    capture, statistics = engine.capture, engine.statistics()
    return {
        "capture": {"packets": capture.packets, "bytes": capture.bytes, "truncated": capture.truncated,
                    "first_ns": capture.first_ns, "last_ns": capture.last_ns},
        "output": session.output,
        "modules": [module_record(session, attachment, want) for attachment, want in session.attached],
        "books": books(statistics) if session.output is not None else {},
        "counters": {name: value for name, value in statistics.items() if value},
    }


def errors_of(attachment):
    """Count what an attachment's module raised; `errors` itself keeps the newest only."""
    return max(getattr(attachment, "counters", {}).get("errors", 0), len(attachment.errors))


def module_record(session, attachment, want):
    """Give what one attachment did."""
    module = attachment.module
    counters = dict(getattr(attachment, "counters", {}))
    counters["errors"] = errors_of(attachment)
    return {
        "module": module.name or type(module).__name__, "spec": want.spec, "flow": want.flow, "order": attachment.order,
        "protocol": attachment.protocol, "mode": module.mode,
        **{name: counters.get(name, 0) for name in COUNTERS},
        "seconds": counters.get("ns", 0) / 1e9, "records": session.emitter.counts.get(id(module), 0),
    }


def books(statistics):
    """Give the books of an in-line run (invariant 6): every packet that came left, or was dropped for a reason.

    `left` is the sum of `unchanged`, `rewritten`, `edited` and `made`; `stayed` says why others did not.
    """
    merged = {name.removeprefix(MERGED): value for name, value in statistics.items() if name.startswith(MERGED)}
    left = {name: merged.pop(name, 0) for name in LEFT}
    merged.pop("spilled", None)            # they waited on the heap, and left
    return {"left": merged.pop("packets", 0), **left, "stayed": {name: value for name, value in merged.items() if value}}


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
    console.print(f"{capture['packets']:,} packets, {capture['bytes']:,} bytes, {seconds:,.3f} s{cut_off(told['counters'])}")
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
        parts = ", ".join(f"{left[name]:,} {name}" for name in LEFT)
        stayed = "".join(f"; {count:,} stayed ({reason.replace('_', ' ')})" for reason, count in left["stayed"].items())
        console.print(f"{left['left']:,} packets left: {parts}{stayed}")
    elif any(module["edits"] for module in told["modules"]):
        console.print("edited packets were counted, and not written: -w OUT writes them")
    out.flush()


def print_errors(session):
    """Print what modules raised on stderr, the newest traceback of each; say whether there was anything."""
    failed = False
    for attachment, want in session.attached:
        if attachment.errors:
            failed = True
            times = errors_of(attachment)
            sys.stderr.write(f"flowos: {want.spec} raised {'once' if times == 1 else f'{times:,} times; the last was'}:\n"
                             f"{attachment.errors[-1].rstrip()}\n")
    return failed
