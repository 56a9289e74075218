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


def view(told):
    """Give what is to be printed."""
    return Group(heading(told), ports(told), *(pipeline(flow, told["rates"]["stages"]) for flow in told["flows"]), drops(told))


def heading(told):
    """Give the first line."""
    rate, counters = told["rates"]["counters"], told["counters"]
    return Text(f"flowosd {told['pid']}  up {lasting(told['seconds'])}  {amount(rate['packets'])} packets/s  "
                f"{amount(8 * rate['bytes'], 'bit/s')}  {counters['connections_live']:,} connections  "
                f"{amount(rate['connections'])} new/s  {amount(rate['edits'])} edits/s", "bold")


def table(title, *columns):
    """Give an empty table: a column that begins with < is text, others are numbers."""
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        left = column.startswith("<")
        made.add_column(column.lstrip("<"), justify="left" if left else "right", no_wrap=not left)
    return made


def ports(told):
    """Give the table of ports."""
    made, rate = table(None, "<port", "<spec", "received/s", "sent/s", "received", "sent", "dropped"), told["rates"]["ports"]
    for name, port in told["ports"].items():
        lost = sum(drop["count"] for drop in told["drops"] if drop["where"] == name)
        made.add_row(Text(name), Text(port["spec"]), amount(rate[name].get("received", 0)), amount(rate[name].get("sent", 0)),
                     f"{port.get('received', 0):,}", f"{port.get('sent', 0):,}", Text(f"{lost:,}", "red" if lost else ""))
    return made


def pipeline(flow, rate):
    """Give the table of a flow's pipeline."""
    title = f"{flow['name']}  priority={flow['priority']}  {flow['match']}"
    if not flow["pipeline"]:
        return Text(f"{title}\n  nothing is attached\n")
    made = table(Text(title), "#", "<module", "<level", "bytes/s", "windows/s", "edits/s", "busy", "head", "<", "<tail", "holds", "errors")
    for stage in flow["pipeline"]:
        now = rate[f"{flow['name']}/{stage['module']}"]
        name = Text(stage["module"]) if stage["attached"] else Text(f"{stage['module']} (taken off)", "red")
        made.add_row(str(stage["order"]), name, f"{stage['mode']} {stage['protocol']}", amount(now["bytes"]), amount(now["windows"]),
                     amount(now["edits"]), f"{now['ns'] / 1e7:.1f}%", amount(stage["head"], "B"), bar(stage), amount(stage["tail"], "B"),
                     amount(stage["tail"] - stage["head"], "B"), Text(f"{stage['errors']:,}", "red" if stage["errors"] else ""))
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
