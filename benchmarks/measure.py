"""CPU time of whole processes, and what the machine is."""
import json
import os
import platform
import re
import subprocess
import sys
import time
from importlib import metadata
from typing import NamedTuple


class Run(NamedTuple):
    """One process from start to end: CPU time and the system's part of it, seconds; peak memory, bytes; its last line."""

    cpu: float
    system: float
    wall: float
    peak: int
    answer: dict


def run(command):
    """Run a command that prints one line of JSON; RuntimeError when it fails.

    The time is that of the process and of those that it waited for, as the kernel adds them up.
    """
    begun = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        output, errors = process.stdout.read(), process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: status {process.returncode}: {errors.decode().strip()[-2000:]}")
    return Run(used.ru_utime + used.ru_stime, used.ru_stime, time.monotonic() - begun, used.ru_maxrss * 1024,
               json.loads(output.decode().strip().splitlines()[-1]))


def warm(paths):
    """Bring files into the page cache."""
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.read(8 << 20):
                pass


_TOUCH = """
import mmap, sys
room = mmap.mmap(-1, int(sys.argv[1]))
room.madvise(mmap.MADV_HUGEPAGE)
part = bytes(1 << 20)
for _ in range(len(room) >> 20):
    room.write(part)
"""


def touch(size):
    """Have so much free memory backed with pages: a process fills it and ends.

    A virtual machine may give free memory back to its host every other second; who touches it
    next pays for getting it again, eight times and more what clearing it costs otherwise (32 and
    257 to 540 ms for 256 MB where this was found).  So this comes right before each measured run.
    It helps those runs that no giving back falls into: with enough rounds, the minimum.
    """
    subprocess.run([sys.executable, "-S", "-c", _TOUCH, str(size)], check=True)


def steal():
    """Give the seconds that the hypervisor kept from this machine since it started."""
    with open("/proc/stat") as file:
        fields = file.readline().split()
    return int(fields[8]) / os.sysconf("SC_CLK_TCK") if len(fields) > 8 else 0.0


def host():
    """Describe the machine and the versions that were compared."""
    with open("/proc/cpuinfo") as file:
        info = file.read()
    model = re.search(r"model name\s*:\s*(.+)", info)
    with open("/proc/meminfo") as file:
        memory = int(file.readline().split()[1]) * 1024
    compiler = subprocess.run(["cc", "--version"], capture_output=True, text=True, check=False)
    versions = {}
    for package in ("flowos", "numpy", "dpkt", "scapy", "nfstream"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            pass
    for package in ("libpcap", "libnids", "glib-2.0"):
        version = package_version(package)
        if version:
            versions[package] = version
    return {"cpu": model.group(1).strip() if model else platform.machine(), "cpus": os.cpu_count(),
            "virtual": "hypervisor" in info, "memory_gb": round(memory / 1e9), "kernel": platform.release(),
            "compiler": compiler.stdout.splitlines()[0] if compiler.returncode == 0 else None,
            "python": platform.python_version(), "versions": versions}


def package_version(name):
    """Ask pkg-config, then dpkg, for the version of a C library; None when neither knows it."""
    for command in (["pkg-config", "--modversion", name], ["dpkg-query", "-Wf", "${Version}", f"{name}-dev"]):
        try:
            result = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            continue
        if result.returncode == 0 and result.stdout.strip():
            return result.stdout.strip()
    return None


def host_kind(description):
    """Name the kind of machine for a file name."""
    return re.sub(r"[^a-z0-9]+", "-", f"{description['cpu']} {description['cpus']}cpu".lower()).strip("-")
