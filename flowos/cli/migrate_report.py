"""What `flowos migrate --simulate` found, as one JSON object or as a table per population."""
import json

SERIES = ("time", "at_a", "frozen", "copied")
HEADS = ("", "downtime", "whole", "states copied", "what else")


def outcome(setting, policy):
    """Run the simulation and its rivals for one setting; give a dict that JSON can hold."""
    from flowos.services.migration_rivals import demand_paging, pre_copy, total_copy
    from flowos.services.migration_simulation import simulate

    ours = simulate(setting, policy)._asdict()
    ours["series"] = [dict(zip(SERIES, row)) for row in ours["series"]]
    return {
        "setting": {**setting._asdict(), "durations": setting.durations._asdict()},
        "flowos": ours,
        "total_copy": total_copy(setting)._asdict(),
        "demand_paging": demand_paging(setting)._asdict(),
        "pre_copy": pre_copy(setting)._asdict(),
    }


def write_json(out, value):
    """Write one JSON object and a line's end."""
    json.dump(value, out, indent=1)
    out.write("\n")


def span(seconds):
    """Spell a time in the unit that fits.

    >>> span(0.0000123), span(0.0123), span(12.3)
    ('12.3 µs', '12.3 ms', '12.3 s')
    """
    for unit, size in (("s", 1), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def rows(found):
    """Give the table's rows for one population."""
    ours, paging, copying = found["flowos"], found["demand_paging"], found["pre_copy"]
    yield ("two phases", span(max(ours["downtime"], ours["handover"])), span(ours["total_time"]), f"{ours['copied']:,}",
           f"{ours['ended']:,} ended in place; frozen from {span(ours['idle_time'])} on, {ours['batches']:,} "
           f"batches; {ours['buffered']:,} packets waited")
    yield ("pre-copy", span(copying["downtime"]), span(copying["total_time"]), f"{copying['copied']:,}",
           f"{len(copying['rounds'])} rounds, {copying['last']:,} states in the last copy")
    total = found["total_copy"]
    yield ("total copy", span(total["downtime"]), span(total["total_time"]), f"{total['copied']:,}", "")
    yield ("demand paging", span(paging["downtime"]), span(paging["total_time"]), f"{paging['copied']:,}",
           f"first packets wait {span(paging['wait_mean'])} on average, {span(paging['wait_most'])} at most")


def write_tables(out, outcomes):
    """Write a table per population; downtime is the longest that one connection stands still."""
    for number, found in enumerate(outcomes):
        setting = found["setting"]
        out.write("\n" if number else "")
        out.write(f"{setting['states']:,} states, {setting['population']} population\n")
        table = [HEADS, *rows(found)]
        widths = [max(len(row[column]) for row in table) for column in range(4)]
        for row in table:
            cells = [row[0].ljust(widths[0]), *(row[column].rjust(widths[column]) for column in (1, 2, 3)), row[4]]
            out.write("  ".join(cells).rstrip() + "\n")
