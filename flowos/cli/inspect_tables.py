"""The report of `flowos inspect` for people: tables, and a progress bar while they wait.

Only the rows that will be shown are kept.  Text from the wire is shown with its control
characters spelled out: it must not steer a terminal.
"""
import heapq
import os
import sys

from rich import box
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from .inspect_report import Report

ARROWS = {"a_to_b": "→", "b_to_a": "←"}
ROOMY = 110                # columns from which both ends of a connection fit beside each other
NUMBERS = ("packets", "bytes", "body", "gaps", "count", "answers", "→ ←")
LONG_TEXTS = ("a", "b", "a, b", "state", "detected", "message", "host", "names", "server name", "ALPN",
              "versions")  # these may take several lines
ENDPOINT = 21              # columns that hold any IPv4 address with its port
PIPED_WIDTH = 160          # columns when standard output is no terminal
LONG = 16 << 20            # bytes of input from which a progress bar is shown


def shown(value):
    """Spell a value for a cell: `-` for none, control characters escaped.

    >>> shown(None), shown(True), shown("a\\x1b[2J"), shown(["h2", "http/1.1"])
    ('-', 'yes', 'a\\\\x1b[2J', 'h2, http/1.1')
    """
    if value is None:
        return "-"
    if isinstance(value, Lines):
        return "\n".join(shown(part) for part in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, (list, tuple)):
        return ", ".join(shown(part) for part in value) or "-"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))


def cut_off(counters):
    """Say that an input ended inside a record, or nothing.

    >>> cut_off({"cut_records": 1, "unread_bytes": 34}), cut_off({})
    ('; an input ends inside a record: 34 bytes were not read', '')
    """
    if not counters.get("cut_records"):
        return ""
    return f"; an input ends inside a record: {counters.get('unread_bytes', 0):,} bytes were not read"


class Lines(tuple):
    """Values of one cell, each on a line of its own."""


def point(endpoint):
    """Spell an endpoint: `10.0.0.1:80`, `[::1]:80`, or the address alone."""
    address, port = endpoint["addr"], endpoint["port"]
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class Rows:
    """The rows with the lowest numbers (as many as `limit`; 0: all), and how many there were.

    >>> rows = Rows("numbers", 2, ("n",))
    >>> for number in (5, 1, 3): rows.add((number,), number)
    >>> rows.total, rows.kept()
    (3, [(1,), (3,)])
    """

    def __init__(self, title, limit, columns):
        self.title, self.limit, self.columns = title, limit, columns
        self.heap, self.total = [], 0          # of (-number, cells): the highest number first

    def add(self, cells, number=None):
        """Take a row; rows leave in order of `number` (default: order of coming)."""
        entry = (-(self.total if number is None else number), cells)
        self.total += 1
        if not self.limit or len(self.heap) < self.limit:
            heapq.heappush(self.heap, entry)
        else:
            heapq.heappushpop(self.heap, entry)

    def kept(self):
        """List the rows that are shown."""
        return [cells for _, cells in sorted(self.heap, key=lambda entry: -entry[0])]

    def table(self):
        """Give the rich table; columns that say nothing in any row are left out."""
        table = Table(title=f"{self.title} ({self.total:,})", title_justify="left", box=box.SIMPLE_HEAD,
                      title_style="bold")
        rows = [[shown(cell) for cell in cells] for cells in self.kept()]
        used = [place for place in range(len(self.columns)) if any(row[place] != "-" for row in rows)]
        for place in used:
            name = self.columns[place]
            table.add_column(name, justify="right" if name.startswith("#") or name in NUMBERS else "left",
                             overflow="fold", no_wrap=name not in LONG_TEXTS,
                             min_width=ENDPOINT if name == "a, b" else None)
        for row in rows:
            table.add_row(*[Text(row[place]) for place in used])
        return table


class TableReport(Report):
    """Tables of connections, HTTP messages, DNS messages, TLS hellos and counters."""

    def __init__(self, out, selection=None, limit=25):
        super().__init__(selection)
        self.console = Console(file=out, highlight=False, soft_wrap=False,
                               width=None if out.isatty() else PIPED_WIDTH)
        self.narrow = self.console.width < ROOMY
        self.connections = Rows("connections", limit, (
            "#", "proto", *(("a, b",) if self.narrow else ("a", "b")), "state", "detected", "flow", "packets", "bytes",
            "→ ←" if self.narrow else "stream → / ←", "gaps"))
        self.sections = {
            "http": Rows("HTTP messages", limit, (
                "# conn", "", "message", "host", "type", "body", "sha-256", "complete")),
            "dns": Rows("DNS messages", limit, ("# id", "", "names", "types", "rcode", "answers")),
            "tls": Rows("TLS hellos", limit, ("# conn", "", "kind", "server name", "ALPN", "versions")),
        }

    def connection(self, number, record):
        """Take the record of a connection that has closed."""
        if not self.selection.connection(record):
            return
        ways = [record["a_to_b"], record["b_to_a"]]
        ends = (point(record["a"]), point(record["b"]))
        sizes = [way["stream"]["bytes"] for way in ways]
        self.connections.add((
            number, record["proto"], *((Lines(ends),) if self.narrow else ends), record["state"],
            record["detected"], record["flow"], sum(way["packets"] for way in ways),
            sum(way["bytes"] for way in ways), Lines(sizes) if self.narrow else " / ".join(map(shown, sizes)),
            sum(len(way["stream"]["gaps"]) for way in ways)), number)

    def pass_on(self, section, number, record):
        self.sections[section].add(getattr(self, section)(number, record))

    @staticmethod
    def http(number, record):
        if record["kind"] == "request":
            line = f"{record['method']} {record['uri']} {record['version'] or ''}".rstrip()
        else:
            line = f"{record['version'] or ''} {record['status']}".lstrip()
        return (number, ARROWS[record["direction"]], line, record["host"], record["kind"],
                record["body_bytes"], record["body_sha256"][:12], record["complete"])

    @staticmethod
    def dns(number, record):
        return (str(record["id"]), "response" if record["response"] else "query", record["qnames"],
                [str(kind) for kind in record["qtypes"]], record["rcode"], record["answers"])

    @staticmethod
    def tls(number, record):
        return (number, ARROWS[record["direction"]], record["kind"].replace("_", " "), record["sni"],
                record["alpn"], record["versions"])

    def finish(self, capture, ip_reassembly, counters):
        """Print the tables."""
        seconds = ((capture["last_ns"] or 0) - (capture["first_ns"] or 0)) / 1e9
        kinds = ", ".join(str(kind) for kind in capture["linktypes"]) or "none"
        self.console.print(
            f"{capture['packets']:,} packets, {capture['bytes']:,} bytes, {capture['truncated']:,} cut short, "
            f"{seconds:,.3f} s, link types {kinds}{cut_off(counters)}")
        for rows in (self.connections, *self.sections.values()):
            if rows.total:
                self.console.print(rows.table())
                if len(rows.heap) < rows.total:
                    self.console.print(f"  … {rows.total - len(rows.heap):,} more (--limit 0 shows all)\n")
        known = {**{f"ip_reassembly {name}": count for name, count in ip_reassembly.items()}, **counters}
        table = Rows("counters that are not 0", 0, ("counter", "count"))
        for name, count in known.items():
            if count:
                table.add((name, count))
        if table.total:
            self.console.print(table.table())
        self.console.file.flush()


def total_size(paths):
    """Give the bytes of all inputs, or None where one has no size (a pipe, standard input)."""
    if all(os.path.isfile(path) for path in paths):
        return sum(os.path.getsize(path) for path in paths)
    return None


def progress(paths):
    """Make a progress bar on stderr: for a terminal, and when there is much to read."""
    size = total_size(paths)
    if not sys.stderr.isatty() or (size is not None and size < LONG):
        return None
    bar = Progress("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(),
                   TimeRemainingColumn(), console=Console(stderr=True), transient=True)
    bar.add_task("reading", total=size)
    return bar
