"""Claim: http_strip in line costs at most a twentieth of the CPU time per byte of mitmproxy, and forwarding less than its rivals'.

    python benchmarks/live_path.py [--rounds N] [--seconds S] [--only JOB] [--quick]     needs root; writes the result file
    python benchmarks/live_path.py --report                                               writes the tables of docs/ports.md

Jobs, each with everybody once per round, on the namespaces of live_net.py:

    edit       curl fetches pages of 1 MB from nginx, 200 patterns in each, stripped on the way
    requests   curl fetches small pages, a new connection for each, stripped on the way
    bulk       iperf3, one TCP connection, 1,514-byte frames
    small      60-byte UDP frames from live_floor.c

What is told is work per CPU-second of the process in the middle, read from the process's own clock, so that neither its
start nor its sleep counts; and work per CPU-second of all three, since the kernel's bridge has no process and works in its
neighbours'.  Open vSwitch is Debian's, with the userspace datapath.  mitmproxy comes from PyPI into an environment of its own,
build/mitmproxy, made when it is missing.  Answers are compared: what was not stripped, or is not whole, fails the run.
"""
import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from live_net import OTHERS, ROOT, SPACES, TESTED, build_floor, cpu_of, inside, ip, network, running, wait_for
from live_switch import open_vswitch
from measure import host

RESULT = ROOT / "benchmarks/results/2026-11-21-live-path.json"
PAGE = ROOT / "docs/ports.md"
MARKS = "<!-- live_path.py writes this table -->", "<!-- to here -->"
PATTERN, PIECE = b"SECRET", b"All work and no play makes Jack a dull boy. " * 119         # 5,236 bytes between two patterns
BIG, SMALL = (PIECE + PATTERN) * 200, PIECE[:500] + PATTERN
STRIP = "flowos http_strip", "mitmproxy", "mitmproxy pieces"
PASS = "C forwarder", "flowos", "flowos module", "flowos packet:", "bridge", "Open vSwitch", "dpkt loop", "scapy loop"
JOBS = {"edit": (*STRIP, "flowos", "C forwarder"), "requests": (*STRIP, "flowos", "C forwarder"), "bulk": PASS, "small": PASS}
UNITS = {"edit": "MB", "requests": "requests", "bulk": "MB", "small": "thousand packets"}


def mitmdump():
    """Give mitmproxy's program, installed in an environment of its own."""
    program = ROOT / "build/mitmproxy/bin/mitmdump"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", program.parent.parent], check=True, timeout=300)
        subprocess.run([program.with_name("pip"), "install", "-q", "mitmproxy"], check=True, timeout=900)
    return program


@contextlib.contextmanager
def bridge():
    """Join both sides with the kernel's bridge."""
    ip("-n", SPACES["middle"], "link", "add", "br0", "type", "bridge")
    try:
        for side in "mid0", "mid1":
            ip("-n", SPACES["middle"], "link", "set", side, "master", "br0")
        ip("-n", SPACES["middle"], "link", "set", "br0", "up")
        yield None
    finally:
        ip("-n", SPACES["middle"], "link", "delete", "br0")


@contextlib.contextmanager
def proxy(folder, streams):
    """Run mitmproxy with the stripping addon."""
    words = ["-q", "--mode", "reverse:http://10.93.0.2:80", "--listen-port", 80, "-s", ROOT / "benchmarks/live_mitm.py",
             "--set", f"strip_streams={str(streams).lower()}", "--set", f"confdir={folder}/mitmproxy"]
    with running("middle", TESTED, mitmdump(), *words, ready=None, end=signal.SIGTERM) as process:
        wait_for(lambda: b":80 " in inside("middle", "ss", "-ltn"), 30, "mitmproxy")
        yield process


def middle(name, floor, folder):
    """Give the context in which a contestant stands in the middle; entered, it gives the process or None."""
    flowos = [sys.executable, ROOT / "benchmarks/live_flowos.py"]
    xdp, end = ["xdp:mid0", "xdp:mid1", 256, 600], signal.SIGTERM
    return {
        "C forwarder": lambda: running("middle", TESTED, floor, "both", "mid0", "mid1", 256, 600),
        "flowos": lambda: running("middle", TESTED, *flowos, "engine", *xdp, end=end),
        "flowos module": lambda: running("middle", TESTED, *flowos, "both", *xdp, end=end),
        "flowos packet:": lambda: running("middle", TESTED, *flowos, "engine", "packet:mid0", "packet:mid1", 256, 600, end=end),
        "flowos http_strip": lambda: running("middle", TESTED, *flowos, "strip", *xdp, end=end),
        "bridge": bridge,
        "Open vSwitch": lambda: open_vswitch(folder, ("mid0", "mid1")),
        "dpkt loop": lambda: running("middle", TESTED, sys.executable, ROOT / "benchmarks/live_rivals.py", "dpkt", "mid0", "mid1", 600, end=end),
        "scapy loop": lambda: running("middle", TESTED, sys.executable, ROOT / "benchmarks/live_rivals.py", "scapy", "mid0", "mid1", 600, end=end),
        "mitmproxy": lambda: proxy(folder, False),
        "mitmproxy pieces": lambda: proxy(folder, True),
    }[name]()


@contextlib.contextmanager
def nginx(folder):
    """Serve the pages in the last namespace."""
    for name, page in ("big", BIG), ("small", SMALL):
        (Path(folder) / name).write_bytes(page)
    os.chmod(folder, 0o755)
    conf = Path(folder) / "nginx.conf"
    conf.write_text(f"daemon off; master_process off; user root; pid {folder}/nginx.pid; error_log {folder}/nginx.log;\n"
                    "events {} http { access_log off; server { listen 80; keepalive_requests 100000; root " + str(folder) + "; } }\n")
    with running("two", OTHERS, "nginx", "-c", conf, "-e", f"{folder}/nginx.log", ready=None, end=signal.SIGTERM) as process:
        wait_for(lambda: b":80 " in inside("two", "ss", "-ltn"), 10, "nginx")
        yield process


def fetch(name, page, number, stripped, close=False):
    """Fetch a page so often with curl; what comes must be right.  Gives bytes as the server sent them."""
    address = "10.92.0.2" if name.startswith("mitm") else "10.91.0.2"
    words = ["-sS", *(["-H", "Connection: close"] if close else []), f"http://{address}/{page}?[1-{number}]"]
    body = inside("one", "curl", "--max-time", 50, *words)
    sent = BIG if page == "big" else SMALL
    # Edited piece by piece, a pattern that lies across two pieces stays: told, not failed.
    if len(body) != number * len(sent.replace(PATTERN, b"") if stripped else sent) and name != "mitmproxy pieces":
        raise RuntimeError(f"{name}: {len(body)} bytes of {number} × {page}")
    return number * len(sent)


def work(job, name, floor, folder, server, seconds):
    """Do a job's work through a contestant for about so many seconds; gives the amount done, in the job's unit, and others' CPU."""
    if job in ("edit", "requests"):
        page, count = ("big", 4) if job == "edit" else ("small", 25)
        before, children, end, done = cpu_of(server), os.times(), time.monotonic() + seconds, 0
        while time.monotonic() < end:
            octets = fetch(name, page, count, name in STRIP, close=job == "requests")
            done += octets / 1e6 if job == "edit" else count
        after = os.times()
        return done, cpu_of(server) - before + after.children_user + after.children_system - children.children_user - children.children_system
    if job == "bulk":
        with running("two", OTHERS, "iperf3", "-s", "-1", ready=None, end=signal.SIGTERM) as _server:
            wait_for(lambda: b":5201 " in inside("two", "ss", "-ltn"), 10, "iperf3")
            told = json.loads(inside("one", "iperf3", "-c", "10.91.0.2", "-J", "-t", max(1, round(seconds))))["end"]
        used = told["cpu_utilization_percent"]
        return told["sum_received"]["bytes"] / 1e6, (used["host_total"] + used["remote_total"]) / 100 * told["sum_received"]["seconds"]
    tally = Path(folder) / "tally"
    tally.write_bytes(bytes(8))
    with running("two", OTHERS, floor, "rx", "far1", 64, 60, tally) as sink:
        source = json.loads(inside("one", floor, "tx", "far0", 32, seconds, tally).splitlines()[-1])
        done = int.from_bytes(tally.read_bytes(), "little")
        used = cpu_of(sink)
    return done / 1e3, used + source["cpu"]


def measure(job, name, floor, folder, server, seconds):
    """Give {"rate", "per_cpu", "per_all"} of one contestant at one job."""
    with middle(name, floor, folder) as process:
        wait_for(lambda: reaches(name), 20, f"{name}: through to the other side")
        before, begun = cpu_of(process) if process else 0, time.monotonic()
        done, others = work(job, name, floor, folder, server, seconds)
        mine, wall = cpu_of(process) - before if process else 0, time.monotonic() - begun
    return {"rate": done / wall, "per_cpu": done / mine if process else None, "per_all": done / (mine + others)}


def reaches(name):
    """Tell whether the path is open; it also fills the neighbours' ARP tables."""
    address = "10.92.0.2" if name.startswith("mitm") else "10.91.0.2"
    with contextlib.suppress(subprocess.CalledProcessError):
        return bool(inside("one", "ping", "-c", 1, "-W", 1, address))
    return False


def summary(all_):
    """Give the medians of each contestant and its ratio to the job's first, round by round, with its spread."""
    told = {}
    for job, rows in all_.items():
        first = next(iter(rows))
        for name, rounds in rows.items():
            row = told.setdefault(job, {})[name] = {}
            for key in ("rate", "per_cpu", "per_all"):
                values = [one[key] for one in rounds]
                row[key] = None if None in values else round(statistics.median(values), 2)
            pairs = [(one["per_cpu"], other["per_cpu"]) for one, other in zip(rows[first], rounds)]
            if None not in sum(pairs, ()):
                ratios = [one / other for one, other in pairs]
                row |= {"first_is": round(statistics.median(ratios), 2), "least": round(min(ratios), 2), "most": round(max(ratios), 2)}
    return told


def report():
    """Write the tables of the page, between their marks."""
    lines = []
    for job, rows in json.loads(RESULT.read_text())["figures"].items():
        first = next(iter(rows))
        lines += ["", f"| {job}: {UNITS[job]} | per second | per CPU-second of the middle | of all three | {first} is × | between |",
                  "|---|---|---|---|---|---|"]
        for name, row in rows.items():
            told = [f"{row[key]:,.3g}" if row[key] is not None and row[key] < 1000 else f"{row[key]:,.0f}" if row[key] is not None else "–"
                    for key in ("rate", "per_cpu", "per_all")]
            times = [f"{row['first_is']:.2f}", f"{row['least']:.2f} and {row['most']:.2f}"] if "first_is" in row else ["–", ""]
            lines.append(f"| {name} | {' | '.join([*told, *times])} |")
    before, _, rest = PAGE.read_text().partition(MARKS[0])
    PAGE.write_text("\n".join([before + MARKS[0], *lines, "", MARKS[1] + rest.partition(MARKS[1])[2]]))


def main():
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1)
    parser.add_argument("--only", choices=JOBS, action="append", help="this job alone; may be given again; nothing is written")
    parser.add_argument("--skip", action="append", default=[], help="leave out a contestant, such as mitmproxy")
    parser.add_argument("--quick", action="store_true", help="does everything work? figures mean nothing; nothing is written")
    parser.add_argument("--report", action="store_true", help="write the tables of docs/ports.md from the result file")
    arguments = parser.parse_args()
    if arguments.report:
        report()
        return
    rounds, seconds = (1, 0.2) if arguments.quick else (arguments.rounds, arguments.seconds)
    needs = {"Open vSwitch": "ovs-vswitchd"}
    absent = [name for name, program in needs.items() if not shutil.which(program)]
    all_, load = {}, [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder, network(addresses=True), nginx(folder) as server:
        floor = build_floor(folder)
        for _round in range(rounds):
            for job in arguments.only or JOBS:
                for name in JOBS[job]:
                    if name not in absent and name not in arguments.skip:
                        all_.setdefault(job, {}).setdefault(name, []).append(measure(job, name, floor, folder, server, seconds))
    load.append(os.getloadavg()[0])
    told = summary(all_)
    for job, rows in told.items():
        for name, row in rows.items():
            print(f"{job:<9} {name:<18}", {key: value for key, value in row.items() if value is not None}, UNITS[job])
    if not arguments.quick and not arguments.only:
        RESULT.write_text(json.dumps({"date": "2026-11-21", "host": host(), "load": load, "absent": absent + arguments.skip, "rounds": rounds,
                                      "seconds": seconds, "figures": told, "all": all_}, indent=1) + "\n")


if __name__ == "__main__":
    main()
