"""Who runs on which trace, and with what command.

Each is a program that takes a capture and prints one line of JSON.  What is slow runs on the
first packets of a trace only, in fewer rounds.  What cannot be built or imported here is left
out, with the reason.
"""
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
RIVALS = HERE / "rivals"


class Contestant(NamedTuple):
    """One program on one trace."""

    name: str
    trace: str
    command: tuple            # the capture's path is appended
    limit: int | None         # only the first packets; None: all
    note: str                 # where it does not do the same work

    @property
    def slow(self):
        return self.limit is not None


class Claim(NamedTuple):
    """What a trace is for: the floor's mode, FlowOS's mode, the ratio aimed at."""

    trace: str
    text: str
    floor: str
    flowos: str
    aim: float


CLAIMS = (
    Claim("udp64", "packets and bytes per connection, 10,000 connections", "tcp", "udp", 2.0),
    Claim("udp64-1m", "packets and bytes per connection, 1,000,000 connections", "tcp", "udp", 1.9),
    Claim("imix", "TCP in order and UDP, packets and bytes per connection", "tcp", "transport", 1.6),
    Claim("http", "TCP streams in order, windows and bytes", "tcp", "tcp", 1.5),
    Claim("frag", "datagrams joined from IP fragments, counted per connection", "defrag", "defrag", 1.5),
)
FLOWOS, FLOOR = "FlowOS", "floor (C)"
PCAP, NIDS = "libpcap + hash table (C)", "libnids (C)"


def build(directory, say):
    """Compile the floor and the rivals in C; give {name: path}."""
    directory.mkdir(parents=True, exist_ok=True)
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        say("skipped: the floor and the rivals in C: no C compiler")
        return {}
    programs = {FLOOR: (HERE / "floor.c", []), PCAP: (RIVALS / "libpcap_hash.c", ["-lpcap", *glib()]),
                NIDS: (RIVALS / "libnids_streams.c", ["-lnids", "-lpcap"])}
    built = {}
    for name, (source, libraries) in programs.items():
        target = directory / source.stem
        if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
            result = subprocess.run([compiler, "-O3", "-march=native", "-o", target, source, *libraries],
                                    capture_output=True, text=True, check=False)
            if result.returncode:
                errors = [line for line in result.stderr.splitlines() if "error" in line or "cannot find" in line]
                say(f"skipped: {name}: {(errors or [result.stderr.strip()])[0]}")
                continue
        built[name] = target
    return built


def glib():
    """Give what compiling with GLib takes."""
    try:
        result = subprocess.run(["pkg-config", "--cflags", "--libs", "glib-2.0"], capture_output=True, text=True,
                                check=False)
    except FileNotFoundError:
        return ["-lglib-2.0"]
    return result.stdout.split() or ["-lglib-2.0"]


def found(module):
    """Try an import as the contestants would: from anywhere, in a process of its own."""
    return subprocess.run([sys.executable, "-c", f"import {module}"], cwd="/", capture_output=True,
                          check=False).returncode == 0


def importable(module, say):
    """Say whether the interpreter has a package; announce it when not."""
    if found(module):
        return True
    say(f"skipped: {module}: not installed (pip install {module})")
    return False


def contestants(built, say):
    """List everybody who can run here."""
    python = sys.executable
    everybody = []

    def add(name, traces, command, limit=None, note=""):
        everybody.extend(Contestant(name, trace, tuple(map(str, command)), limit, note) for trace in traces)

    all_flows = ("udp64", "udp64-1m", "imix", "http")
    for claim in CLAIMS:
        add(FLOWOS, [claim.trace], [python, HERE / "flowos_count.py", claim.flowos])
        if FLOOR in built:
            add(FLOOR, [claim.trace], [built[FLOOR], claim.floor])
    add("FlowOS, HTTP decoded", ["http"], [python, HERE / "flowos_count.py", "http"],
        note="also finds messages and bodies")
    if PCAP in built:
        add(PCAP, all_flows, [built[PCAP]], note="no TCP reassembly, no expiry")
    if NIDS in built:
        add(NIDS, ["udp64", "udp64-1m"], [built[NIDS]], note="has no table of UDP connections")
        add(NIDS, ["imix", "http", "frag"], [built[NIDS]])
    if importable("dpkt", say):
        loop = [python, RIVALS / "dpkt_loop.py"]
        add("dpkt, dict", all_flows, [*loop, "flows"], 200_000, "no TCP reassembly, no expiry")
        add("dpkt, naive reassembly", ["imix", "http"], [*loop, "streams"], 200_000, "no counts per connection, no limits")
        add("dpkt, naive reassembly", ["frag"], [*loop, "datagrams"], 50_000, "no counts per connection, no limits")
    if importable("scapy", say):
        add("scapy, dict", all_flows, [python, RIVALS / "scapy_loop.py"], 20_000, "no TCP reassembly, no expiry")
    if importable("nfstream", say):
        add("NFStream", ["udp64", "imix", "http"], [python, RIVALS / "nfstream_flows.py"], 200_000, "no TCP reassembly")
        add("NFStream", ["udp64-1m"], [python, RIVALS / "nfstream_flows.py"], 50_000)
    return everybody


def differences(answer, truth):
    """Name what an answer gives otherwise than the truth, for what both speak of."""
    return [f"{key} {answer[key]:,} for {truth[key]:,}" for key in sorted(answer.keys() & truth.keys())
            if answer[key] != truth[key]]
