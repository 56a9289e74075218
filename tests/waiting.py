"""Waiting in tests: for what is to happen, not for a time that may be too short where the machine is busy.

A limit is there so that a test which fails ends; it is generous, and costs nothing when all goes well.
"""
import fcntl
import struct
import termios
import time
from pathlib import Path

PATIENCE = 60.0                     # seconds


def until(condition, what, patience=PATIENCE, pause=0.005):
    """Wait until a condition holds, and give what it gave; AssertionError, naming it, when it does not come to hold."""
    end = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < end, f"{what}: not in {patience:g} s"
        time.sleep(pause)
    return found


def asleep(pid):
    """Say whether a process waits for something, all its threads, and goes on waiting for a while."""
    try:
        for _ in range(10):
            for task in Path(f"/proc/{pid}/task").iterdir():
                if (task / "stat").read_text().rpartition(")")[2].split()[0] != "S":
                    return False
            time.sleep(0.005)
    except (FileNotFoundError, ProcessLookupError):       # a thread has ended, or all of it
        return False
    return True


def unread(descriptor):
    """Give how many bytes of a pipe nobody has read yet."""
    return struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))[0]


def taken(descriptor, pid):
    """Wait until a process has read all there is in a pipe, has dealt with it, and waits for more."""
    until(lambda: not unread(descriptor) and asleep(pid), f"process {pid} waits for more")
