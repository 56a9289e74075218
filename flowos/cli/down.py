"""End the daemon: what is held leaves, edited connections are reset, its ports are closed."""
import os
import time

from .daemon_calls import client, configure_socket, say


def configure(parser):
    """Add the command's arguments."""
    configure_socket(parser)


def run(arguments):
    """Run `flowos down`; the result is the exit code."""
    pid = client(arguments).command("down")
    end = time.monotonic() + 10
    while arguments.tls is None and runs(pid) and time.monotonic() < end:
        time.sleep(0.01)
    return say(arguments, {"pid": pid})


def runs(pid):
    """Say whether a process of this machine runs; one that waits for its parent's attention has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX" or len(os.listdir(f"/proc/{pid}/task")) > 1
    except OSError:                           # it went, perhaps between being found and being read
        return False
