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
    while arguments.tls is None and os.path.exists(f"/proc/{pid}/fd") and time.monotonic() < end:
        with open(f"/proc/{pid}/stat") as file:
            if file.read().rpartition(")")[2].split()[0] == "Z":
                break
        time.sleep(0.01)
    return say(arguments, {"pid": pid})
