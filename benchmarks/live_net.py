"""Three network namespaces in a row, and programs that run in them on a given core: what the live benchmarks share.

    one [far0] ── veth ── [mid0] middle [mid1] ── veth ── [far1] two

The program under test stands in the middle, on core 1; who generates and receives traffic runs on core 0.  What
is made here is gone when `network` ends, and what an interrupted run left when it begins.
"""
import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SPACES = {where: f"flowos-bench-{where}" for where in ("one", "middle", "two")}
PAIRS = ("one", "far0", "middle", "mid0"), ("middle", "mid1", "two", "far1")
# Straight through the middle, 10.91.0.0/24; by a proxy that has addresses of its own there, 10.92 and 10.93.
ADDRESSES = (("one", "far0", "10.91.0.1/24"), ("two", "far1", "10.91.0.2/24"), ("one", "far0", "10.92.0.1/24"),
             ("middle", "mid0", "10.92.0.2/24"), ("middle", "mid1", "10.93.0.1/24"), ("two", "far1", "10.93.0.2/24"))
OTHERS, TESTED = 0, 1               # cores


def ip(*words):
    """Run an `ip` command, which must succeed."""
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=30)


def inside(where, *words, **options):
    """Run a command in a namespace, on the core of the others, to its end; give what it printed."""
    command = ["ip", "netns", "exec", SPACES[where], "taskset", "-c", str(OTHERS), *map(str, words)]
    return subprocess.run(command, check=True, capture_output=True, timeout=options.pop("timeout", 60), **options).stdout


@contextlib.contextmanager
def network(addresses=False, queues=1):
    """Make the namespaces; with addresses, the outer two can speak TCP, with checksums made in software."""
    number = "numtxqueues", str(queues), "numrxqueues", str(queues)
    clear()
    try:
        for space in SPACES.values():
            ip("netns", "add", space)
            ip("-n", space, "link", "set", "lo", "up")
        for left, one, right, two in PAIRS:
            ip("link", "add", one, "netns", SPACES[left], *number, "type", "veth",
               "peer", "name", two, "netns", SPACES[right], *number)
            for where, name in (left, one), (right, two):
                inside(where, "sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=1")
                ip("-n", SPACES[where], "link", "set", name, "up")
        if addresses:
            for where, name, address in ADDRESSES:
                ip("-n", SPACES[where], "address", "add", address, "dev", name)
            for where, name in ("one", "far0"), ("two", "far1"):
                inside(where, "ethtool", "-K", name, "tx", "off")
        yield
    finally:
        clear()


def clear():
    """Remove what an earlier run may have left."""
    for space in SPACES.values():
        subprocess.run(["ip", "netns", "del", space], capture_output=True, timeout=30, check=False)


@contextlib.contextmanager
def running(where, core, *words, ready="ready\n", end=signal.SIGINT):
    """Run a program in a namespace on one core; it has printed `ready` when this is entered, and gets `end` when it is left.

    With `ready` None nothing is waited for.  `process.pid` is the program's own.
    """
    command = ["ip", "netns", "exec", SPACES[where], "taskset", "-c", str(core), *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        try:
            if ready is not None and process.stdout.readline() != ready:
                raise RuntimeError(f"{' '.join(map(str, words))}: did not start")
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(end)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def cpu_of(process):
    """Give the CPU seconds that a running process, with all its threads, has used so far.

    This is clock_getcpuclockid(3), as Linux composes it: the clock of a process beside one's own.
    """
    return time.clock_gettime(~process.pid << 3 | 2)


def wait_for(condition, seconds, what):
    """Wait until a condition holds; RuntimeError after so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"{what}: not after {seconds} s")
        time.sleep(0.02)


def build_floor(folder):
    """Compile live_floor.c; give the program's path."""
    floor = Path(folder) / "live_floor"
    subprocess.run(["gcc", "-O2", "-o", floor, ROOT / "benchmarks/live_floor.c"], check=True, timeout=60)
    return floor
