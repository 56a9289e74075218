"""Start the daemon: ports first, then rights are given up, then threads, then traffic.

    open ports, control socket, folders   as root
    drop to the unprivileged user         privileges.py
    restore the configuration             module code runs only from here on
    answer calls, run the engine

Whoever started it is told when it is ready: through a pipe, and systemd through its socket.
"""
import contextlib
import fcntl
import os
import signal
import socket
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path

import flowos
from flowos.core.errors import FlowOSError, UsageError
from flowos.daemon import privileges
from flowos.daemon.client import default_socket
from flowos.daemon.flowosd import FlowDaemon
from flowos.daemon.modulecode import Code
from flowos.daemon.server import TLSServer, unix_server


#: First words of what a starter is told: it runs, something failed, it was asked for what cannot be.
READY, FAILED, WRONG = "ready", "failed", "wrong"
#: What a daemon in the background runs: this very FlowOS, and nothing from the folder that its starter stands in.
START = """import os, sys
home = sys.argv.pop(1)
sys.path[:] = [place for place in sys.path if os.path.isabs(place)]
sys.path += [] if home in sys.path else [home]
os.chdir("/")
from flowos.cli import main
sys.exit(main())
"""


def default_state():
    """Give the path of the saved configuration: $FLOWOS_STATE, else under /var/lib/flowos or the user's own state."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    folder = "/var/lib/flowos" if os.geteuid() == 0 else os.path.join(home, "flowos")
    return os.environ.get("FLOWOS_STATE") or os.path.join(folder, "flowosd.toml")


@dataclass
class Settings:
    """What a daemon is started with."""

    ports: dict                               # {name: spec}
    socket: str = field(default_factory=default_socket)
    state: str = field(default_factory=default_state)
    user: str = ""                            # "": nobody, when started as root
    folders: tuple = ()                       # more folders that modules may come from
    listen: tuple = None                      # ((host, port), certificate, key, ca)
    metrics: tuple = None                     # (host, port)


def unprivileged(user=""):
    """Give the account that a daemon started now becomes; None: it stays who it is."""
    if os.geteuid() != 0 or user == "root":
        return None
    return privileges.account(user or "nobody")


def state_folder(path, entry):
    """Make the folder of the configuration, its user's own, or see that it is.

    UsageError: it is there and is not that user's, or others may write in it.  It is not given away, for it may hold
    more than the configuration.
    """
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        os.makedirs(folder, mode=0o750, exist_ok=True)
        if entry is not None:
            os.chown(folder, entry.pw_uid, entry.pw_gid)
    told = os.stat(folder)
    owner, name = (os.geteuid(), "you") if entry is None else (entry.pw_uid, entry.pw_name)
    if told.st_uid != owner or told.st_mode & stat.S_IWOTH:
        raise UsageError(f"{folder}: the folder of the configuration must be {name}'s own, and nobody else may write there; "
                         "give another by --state, which is made if it is not there")
    return folder


def prepare_state(path, entry):
    """Have the folder of the configuration; take the lock that one daemon alone may hold.

    UsageError: another daemon has it.  The lock goes with the process.
    """
    state_folder(path, entry)
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise UsageError(f"{path}: another daemon keeps its configuration there; give this one --state") from None
    if entry is not None and os.path.lexists(path):
        os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=False)
    return lock


def check_reach(entry, state, libraries):
    """UsageError: the user that the daemon became cannot get at commands and modules it has yet to load, or at its folder.

    `libraries`: where other code comes from; most of it is loaded by now, so what cannot be reached is only said.
    """
    for place in flowos.__path__:
        if not os.access(place, os.R_OK | os.X_OK):
            raise UsageError(f"{place}: {entry.pw_name} cannot read the daemon's code there; open the way to it, or give --user")
    for place in libraries:
        if not os.access(place, os.R_OK | os.X_OK):
            sys.stderr.write(f"flowosd: {place}: {entry.pw_name} cannot read there: what a module imports from it will be missing\n")
    folder = os.path.dirname(os.path.abspath(state))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{folder}: {entry.pw_name} cannot write the configuration there; open the way to it, or give --state")


def serve(settings, ready=None):
    """Be the daemon, until `down` or a signal.  `ready(text)` hears "" once calls are answered.

    What is wrong before that is raised.
    """
    as_root = os.geteuid() == 0
    entry = unprivileged(settings.user)
    servers, daemon, lock = [], None, prepare_state(settings.state, entry)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, lock)
        servers.append(unix_server(settings.socket))
        stack.callback(_remove, settings.socket)
        if settings.listen is not None:
            servers.append(TLSServer(*settings.listen))
        daemon = FlowDaemon(settings.ports, settings.state, Code(settings.folders, guarded=as_root))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: _end(daemon))
        if entry is not None:
            libraries = [place for place in sys.path if os.path.exists(place)]
            privileges.drop(entry.pw_name)
            check_reach(entry, settings.state, libraries)
        daemon.restore()
        for server in servers:
            server.start(daemon)
            stack.callback(server.stop)
        if settings.metrics is not None:
            from flowos.daemon.metrics import expose

            stack.callback(expose(daemon, settings.metrics))
        notify("READY=1")
        if ready is not None:
            ready("")
        daemon.run()
        notify("STOPPING=1")


def _end(daemon):
    daemon.running = False
    daemon.mailbox.wake()


def _remove(path):
    with contextlib.suppress(OSError):        # the folder may be root's: the next start removes it
        os.unlink(path)


def notify(text):
    """Tell systemd, if it asked to be told (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto(text.encode(), "\0" + address[1:] if address[0] == "@" else address)


def background(arguments, log):
    """Start `flowos up --foreground` with these arguments in a session of its own; wait until it is ready.

    Gives its process's number.  FlowOSError: it did not come up, and what it said; UsageError, if that was one.
    """
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    pid = os.posix_spawn(sys.executable, [
        sys.executable, "-c", START, str(Path(flowos.__file__).parent.parent), "up", "--foreground", "--ready", str(writer),
        *arguments], os.environ, setsid=True,
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                      (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o640),
                      (os.POSIX_SPAWN_DUP2, 1, 2)])
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    mark, _, text = said.strip().partition(" ")
    if mark == READY:
        return pid
    os.waitpid(pid, 0)
    raise (UsageError if mark == WRONG else FlowOSError)(f"up: {text or f'the daemon ended before it was ready; {log} tells more'}")


def told_ready(descriptor):
    """Give what tells a waiting starter that all is well, or what is wrong."""
    def ready(text, wrong=False):
        with contextlib.suppress(OSError):
            os.write(descriptor, f"{(WRONG if wrong else FAILED) if text else READY} {text}\n".encode(errors="backslashreplace"))
            os.close(descriptor)
    return ready
