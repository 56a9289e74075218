"""The picture that `flowos top` draws of one look: a heading, ports, a pipeline per flow, drops.

    head ━━━━━━━╸······ tail        a stage's bytes: released, and lent but not released

Only drawing: what is told comes from the daemon's command `top`, with `rates`.
"""
import sys

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

PIPED_WIDTH = 160
BAR = 12


def console():
    """Give the console to draw on; one that is no terminal is wide enough for all."""
    return Console() if sys.stdout.isatty() else Console(width=PIPED_WIDTH)


def live():
    """Give a whole screen that is drawn anew at each update, and goes away at the end."""
    return Live(console=console(), screen=True, auto_refresh=False)


def amount(value, unit=""):
    """Write a number shortly, in powers of a thousand.

    >>> amount(999), amount(12345, "B"), amount(0.25)
    ('999', '12.3 kB', '0.25')
    """
    for prefix in ("", "k", "M", "G", "T", "P"):
        if abs(value) < 999.5 or prefix == "P":
            break
        value /= 1000
    text = f"{value:.0f}" if value == int(value) else f"{value:.3g}"
    return f"{text} {prefix}{unit}".rstrip() if prefix or unit else text


def lasting(seconds):
    """Write a time span.

    >>> lasting(3725)
    '1:02:05'
    """
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def bar(stage):
    """Draw a stage's head and tail: what it holds is the light end, at least one mark if there is any."""
    held = stage["tail"] - stage["head"]
    if not stage["tail"]:
        return Text("·" * BAR, "dim")
    light = min(BAR, max(1, round(BAR * held / stage["tail"]))) if held else 0
    return Text("━" * (BAR - light), "green") + Text("╸" * light, "yellow")


def module_name(stage):
    """Write a module's name, and whether it is still at work."""
    return Text(stage["module"]) if stage["attached"] else Text(f"{stage['module']} (taken off)", "red")


#: A pipeline's columns: title, from how wide a screen on it is there, and what stands in it.  Those that begin with < are text.
COLUMNS = (
    ("#", 0, lambda stage, rate: str(stage["order"])),
    ("<module", 0, lambda stage, rate: module_name(stage)),
    ("<level", 125, lambda stage, rate: f"{stage['mode']} {stage['protocol']}"),
    ("bytes/s", 0, lambda stage, rate: amount(rate["bytes"])),
    ("windows/s", 125, lambda stage, rate: amount(rate["windows"])),
    ("edits/s", 100, lambda stage, rate: amount(rate["edits"])),
    ("busy", 0, lambda stage, rate: f"{rate['ns'] / 1e7:.1f}%"),
    ("head", 0, lambda stage, rate: amount(stage["head"], "B")),
    ("<", 0, lambda stage, rate: bar(stage)),
    ("<tail", 0, lambda stage, rate: amount(stage["tail"], "B")),
    ("holds", 0, lambda stage, rate: amount(stage["tail"] - stage["head"], "B")),
    ("errors", 100, lambda stage, rate: Text(f"{stage['errors']:,}", "red" if stage["errors"] else "")),
)


def view(told, width=PIPED_WIDTH):
    """Give what is to be printed on a screen so wide."""
    return Group(heading(told), ports(told), *(pipeline(flow, told["rates"]["stages"], width) for flow in told["flows"]), drops(told))


def heading(told):
    """Give the first line."""
    rate, counters = told["rates"]["counters"], told["counters"]
    return Text(f"flowosd {told['pid']}  up {lasting(told['seconds'])}  {amount(rate['packets'])} packets/s  "
                f"{amount(8 * rate['bytes'], 'bit/s')}  {counters['connections_live']:,} connections  "
                f"{amount(rate['connections'])} new/s", "bold")


def table(title, *columns):
    """Give an empty table: a column that begins with < is text, others are numbers."""
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        left = column.startswith("<")
        made.add_column(column.lstrip("<"), justify="left" if left else "right", no_wrap=column != "<meaning")
    return made


def ports(told):
    """Give the table of ports."""
    made, rate = table(None, "<port", "<spec", "received/s", "sent/s", "received", "sent", "dropped"), told["rates"]["ports"]
    for name, port in told["ports"].items():
        lost = sum(drop["count"] for drop in told["drops"] if drop["where"] == name)
        made.add_row(Text(name), Text(port["spec"]), amount(rate[name].get("received", 0)), amount(rate[name].get("sent", 0)),
                     f"{port.get('received', 0):,}", f"{port.get('sent', 0):,}", Text(f"{lost:,}", "red" if lost else ""))
    return made


def pipeline(flow, rates, width):
    """Give the table of a flow's pipeline."""
    title = f"{flow['name']}  priority={flow['priority']}  {flow['match']}"
    if not flow["pipeline"]:
        return Text(f"{title}\n  nothing is attached\n")
    columns = [(name, cell) for name, least, cell in COLUMNS if width >= least]
    made = table(Text(title), *(name for name, _ in columns))
    for stage in flow["pipeline"]:
        made.add_row(*(cell(stage, rates[f"{flow['name']}/{stage['module']}"]) for _, cell in columns))
    return made


def drops(told):
    """Give the table of what was dropped, by reason; a line where nothing was."""
    found = [drop for drop in told["drops"] if drop["count"]]
    if not found:
        return Text("nothing dropped", "dim")
    made = table(None, "<where", "<dropped", "per second", "in all", "<meaning")
    for drop in found:
        made.add_row(Text(drop["where"]), drop["reason"], amount(told["rates"]["drops"][f"{drop['where']} {drop['reason']}"]),
                     f"{drop['count']:,}", Text(drop["meaning"], "dim"))
    return made
