"""A daemon between two namespaces, with a client in one and a server in the other: for tests of what shows a daemon.

    client port0 ── lan  middle  wan ── port0 server
"""
import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import namespaces

from flowos.daemon.client import Client

ROOT = Path(__file__).resolve().parent.parent
SERVER, PORT = "192.0.2.2", 4000
KEEP = '''"""Hold back the last bytes of all that comes."""
from flowos import RDWR, Module


class Keep(Module):
    """Hold back the last bytes."""
    name, protocol, mode, hold = "keep", "tcp", RDWR, 600.0

    def __init__(self, count: int = 100):
        self.count = count

    def process(self, window):
        window.release(keep=min(self.count, window.length))
'''


class Facing:
    """The namespaces and the daemon; use as a context."""

    def __init__(self, netns, folder):
        self.client, self.middle, self.server = netns(), netns(), netns()
        self.folder = Path(folder)
        self.socket = self.folder / "socket"
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT), "FLOWOS_SOCKET": str(self.socket),
                            "FLOWOS_STATE": str(self.folder / "state" / "flowosd.toml")}
        self.things = contextlib.ExitStack()

    def __enter__(self):
        for outer, inner in (self.client, "lan"), (self.server, "wan"):
            namespaces.join(outer, self.middle, "port0", inner)
        for outer, address in (self.client, "192.0.2.1/24"), (self.server, f"{SERVER}/24"):
            namespaces.ip("-n", outer, "addr", "add", address, "dev", "port0")
        return self

    def __exit__(self, *_):
        self.things.close()

    def up(self, *more):
        """Start the daemon with a flow `web` that `keep` works on, and have it end with the context."""
        (self.folder / "keep.py").write_text(KEEP)
        self.flowos("up", "--user", "root", "--modules-from", str(self.folder), "--port", "lan=packet:lan", "--port",
                    "wan=packet:wan", *more)
        daemon = Client(str(self.socket))
        self.things.callback(daemon.command, "down")
        daemon.command("flow_add", name="web", match=f"tcp,tp_dst={PORT}")
        daemon.command("attach", module="keep", flow="web")

    def command(self, *words):
        """Give the words that run a command of the shell in the middle."""
        return ["ip", "netns", "exec", self.middle, sys.executable, "-m", "flowos.cli", *words]

    def flowos(self, *words):
        """Run a command, which must succeed; give what it printed."""
        done = subprocess.run(self.command(*words), env=self.environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def told(self, *words):
        """Run a command; give its value."""
        return json.loads(self.flowos(*words, "--json"))

    def talk(self):
        """Connect client and server through the daemon; give both sockets."""
        with namespaces.inside(self.server), socket.create_server(("", PORT)) as listener:
            with namespaces.inside(self.client):
                near = self.things.enter_context(socket.create_connection((SERVER, PORT), timeout=300))
            far = self.things.enter_context(listener.accept()[0])
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            far.settimeout(60)
        return near, far


def send(sock, *pieces):
    """Send pieces, each as a segment of its own: what is released leaves segment by segment."""
    for piece in pieces:
        sock.sendall(piece)


def read(sock, count):
    """Read so many bytes."""
    data = b""
    while len(data) < count:
        data += sock.recv(count - len(data)) or end()
    return data


def end():
    """Say that a stream ended too early."""
    raise EOFError("the stream ended before all was read")
