"""The aims of the live ports beside what the live benchmarks measured: writes that table of docs/ports.md.

    python benchmarks/live_aims.py

An aim is met if the median of the ratios is; how far these lie apart stands in the tables of the benchmarks.
"""
import json
from pathlib import Path

import live_latency
import live_path
import live_ports

PAGE = live_ports.PAGE
MARKS = "<!-- live_aims.py writes this table -->", "<!-- to here -->"


def figures(path):
    """Read a result file's figures."""
    return json.loads(Path(path).read_text())["figures"]


def rows():
    """Yield (aim, least or most, measured, met) of each aim."""
    ports, path, latency = figures(live_ports.RESULT), figures(live_path.RESULT), figures(live_latency.RESULT)
    for mode, name in ("rx", "receive"), ("tx", "send"), ("forward", "forward by swap"):
        measured = [ports[f"{mode} {batch}"]["ratio"] for batch in live_ports.BATCHES if batch >= 32]
        yield f"{name}, batches of 32, 64, 256: packets per CPU-second, × C", "≥ 0.9", measured, min(measured) >= 0.9
    measured = [ports["module 256"]["ratio"], ports["stream 256"]["ratio"]]
    yield "an engine with one read-only module, on UDP and on TCP streams: × C's forwarder", "≥ 0.7", measured, min(measured) >= 0.7
    for job, name in ("edit", "pages of 1 MB"), ("pages", "pages of 16 kB"), ("requests", "pages of 0.5 kB, each on a new connection"):
        rivals = [path[job][rival]["first_is"] for rival in live_path.STRIP[1:] if rival in path[job]]
        ceiling = path[job]["C forwarder"]["per_cpu"] / max(path[job][rival]["per_cpu"] for rival in live_path.STRIP[1:] if rival in path[job])
        yield (f"http_strip in line, {name}: bytes per CPU-second, × mitmproxy on whole bodies, on pieces "
               f"(C that edits nothing: {ceiling:.1f} ×)"), "≥ 20", rivals, min(rivals) >= 20
    measured = [latency["engine"]["p99"]["ratio"]]
    between = "{:.2f} to {:.2f}".format(*latency["engine"]["p99"]["quartiles"])
    yield f"p99 of the latency added at 1,000 packets/s: × C's forwarder (quartiles {between})", "≤ 2", measured, max(measured) <= 2


def report():
    """Write the table of the page, between its two marks."""
    lines = ["| | aim | measured | met |", "|---|---|---|---|"]
    for name, aim, measured, met in rows():
        lines.append(f"| {name} | {aim} | {', '.join(f'{value:.2f}' for value in measured)} | {'yes' if met else '**no**'} |")
    before, _, rest = PAGE.read_text().partition(MARKS[0])
    PAGE.write_text("\n".join([before + MARKS[0], *lines, MARKS[1] + rest.partition(MARKS[1])[2]]))


if __name__ == "__main__":
    report()
