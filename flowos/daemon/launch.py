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
import sys
from dataclasses import dataclass, field

from flowos.core.errors import UsageError
from flowos.daemon import privileges
from flowos.daemon.client import default_socket
from flowos.daemon.flowosd import FlowDaemon
from flowos.daemon.modulecode import Code
from flowos.daemon.server import TLSServer, unix_server


def default_state():
    """Give the path of the saved configuration: $FLOWOS_STATE, else under /var/lib/flowos or the user's own state."""
    folder = "/var/lib/flowos" if os.geteuid() == 0 else os.environ.get("XDG_STATE_HOME", os.path.expanduser("~/.local/state/flowos"))
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


def prepare_state(path, entry):
    """Make the folder of the configuration, its user's own; take the lock that one daemon alone may hold.

    UsageError: another daemon has it.  The lock goes with the process.
    """
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, mode=0o750, exist_ok=True)
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise UsageError(f"{path}: another daemon keeps its configuration there; give this one --state") from None
    if entry is not None:
        os.chown(folder, entry.pw_uid, entry.pw_gid)
        if os.path.exists(path):
            os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=False)
    return lock


def serve(settings, ready=None):
    """Be the daemon, until `down` or a signal.  `ready(text)` hears "" once calls are answered.

    What is wrong before that is raised.
    """
    as_root = os.geteuid() == 0
    user = settings.user or ("nobody" if as_root else "")
    entry = privileges.account(user) if as_root and user != "root" else None
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
            privileges.drop(user)
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

    Gives its process's number.  UsageError: it did not come up, and what it said.
    """
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    pid = os.posix_spawn(sys.executable, [
        sys.executable, "-m", "flowos.cli", "up", "--foreground", "--ready", str(writer), *arguments], os.environ, setsid=True,
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                      (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640),
                      (os.POSIX_SPAWN_DUP2, 1, 2)])
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    if said != "ready\n":
        raise UsageError(f"up: {said.strip() or f'the daemon ended before it was ready; {log} tells more'}")
    return pid


def told_ready(descriptor):
    """Give what tells a waiting starter that all is well, or what is wrong."""
    def ready(text):
        with contextlib.suppress(OSError):
            os.write(descriptor, (text or "ready").encode() + b"\n")
            os.close(descriptor)
    return ready
