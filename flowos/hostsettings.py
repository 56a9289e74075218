"""Settings of the host that FlowOS changes, and a journal of them, so that each one can be put back.

    read what it is ──► one line in the journal, on the disk ──► change it        ... restore: newest line first

The line is there before the change is made, so a process that is killed at any moment leaves either nothing changed or a
line that says how it was.  Putting back what is so already changes nothing.  The journal lies where it
does not outlive the machine's running (/run): the settings do not either.

A line is a JSON object: namespace (the number of the network namespace), interface, setting, before.
"""
import contextlib
import fcntl
import json
import os
from pathlib import Path

from flowos.core import interface as network
from flowos.core.errors import CaptureError, UsageError

__all__ = ["JOURNAL", "Journal", "read_setting"]

#: Where the journal of this machine's settings lies.
JOURNAL = Path("/run/flowos/settings.journal")
SYSCTL = "sysctl:"


def sysctl_path(setting):
    """Give the file of a setting named "sysctl:net/ipv4/conf/eth0/rp_filter"."""
    name = setting[len(SYSCTL):]
    if not name.startswith("net/") or ".." in name.split("/"):
        raise UsageError(f"{setting}: expected {SYSCTL}net/…")
    return Path("/proc/sys", name)


def read_setting(interface, setting):
    """Read a setting, as JSON has it.

    "offloads": which are wanted, in words of the kernel's; "mtu": bytes; "channels": [receiving, sending];
    "sysctl:net/…": its text.
    """
    if setting.startswith(SYSCTL):
        return sysctl_path(setting).read_text().strip()
    if setting == "offloads":
        return network.features(interface)
    if setting == "mtu":
        return network.mtu_of(interface)
    if setting == "channels":
        return list(network.channels(interface) or (1, 1))
    raise UsageError(f"there is no setting {setting!r}; expected offloads, mtu, channels or {SYSCTL}…")


def write_setting(interface, setting, value):
    """Set what `read_setting` reads; offloads also as {short name: on}."""
    if setting.startswith(SYSCTL):
        sysctl_path(setting).write_text(f"{value}\n")
    elif setting == "offloads" and isinstance(value, dict):
        for name, on in value.items():
            network.set_switch(interface, name, on)
    elif setting == "offloads":
        network.set_features(interface, value)
    elif setting == "mtu":
        network.set_mtu(interface, value)
    else:
        network.set_channels(interface, *value)


def namespace():
    """Give the number of this thread's network namespace."""
    return os.stat("/proc/thread-self/ns/net").st_ino


class Journal:
    """The settings that were changed and how they were before.

    Several processes may write one journal: a lock on it keeps their changes whole.
    """

    def __init__(self, path=JOURNAL):
        self.path = Path(path)

    @contextlib.contextmanager
    def locked(self):
        """Hold the journal's lock; gives the open file, at its end."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file

    @staticmethod
    def lines(file):
        """List the lines of an open journal, oldest first; a last line that was cut short stands for no change."""
        file.seek(0)
        return [json.loads(line) for line in file.read().split(b"\n")[:-1]]

    @property
    def entries(self):
        """List what was changed and not put back, oldest first."""
        if not self.path.exists():
            return []
        with self.locked() as file:
            return self.lines(file)

    def change(self, interface, setting, value):
        """Change a setting of an interface, after writing down how it was; OSError where the kernel refuses."""
        with self.locked() as file:
            before = read_setting(interface, setting)
            if before == value:
                return
            whole = file.read().rfind(b"\n") + 1
            file.truncate(whole)              # what a killed process left of a line
            line = {"namespace": namespace(), "interface": interface, "setting": setting, "before": before}
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            write_setting(interface, setting, value)

    def restore(self):
        """Put every setting of this network namespace back, newest first; list the lines as (line, problem or None).

        What went with its interface is done with.  A line that could not be carried out stays in the journal, as
        do those of other namespaces.
        """
        done, kept = [], []
        if not self.path.exists():
            return done
        with self.locked() as file:
            here = namespace()
            for line in reversed(self.lines(file)):
                if line["namespace"] != here:
                    kept.append(line)
                    continue
                problem = None
                try:
                    network.index_of(line["interface"])
                    write_setting(line["interface"], line["setting"], line["before"])
                except CaptureError:
                    problem = "the interface is gone, and its settings with it"
                except OSError as error:
                    problem = error.strerror or str(error)
                    kept.append(line)
                done.append((line, problem))
            file.truncate(0)
            file.write(b"".join(json.dumps(line).encode() + b"\n" for line in reversed(kept)))
            file.flush()
            os.fsync(file.fileno())
        return done
