"""A daemon between two hosts, for tests: namespaces, a web server, `flowos up` as typed, and the commands.

    client ── port0 │ left   middle   right │ port0 ── server
    10.9.0.1                flowosd                  10.9.0.2
    fd09::1                                          fd09::2

The daemon is the real process, started by the real command line; the other commands run in this process,
which is all the same to it.  `Flowosd.end` leaves nothing behind, whatever happened.
"""
import contextlib
import hashlib
import http.client
import http.server
import io
import os
import random
import re
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from conftest import ROOT, program
from flowos.cli import main
from flowos.daemon.client import Client
from namespaces import add, inside, ip, join
from waiting import PATIENCE, until

CLIENT, SERVER = ("10.9.0.1", "fd09::1"), ("10.9.0.2", "fd09::2")
PAGE = b"<p>hello SECRET world</p>\n"
STRIPPED = PAGE.replace(b"SECRET", b"")


def text_of(seed, length):
    """Give bytes that hold SECRET now and then, and otherwise nothing that a removal could put together to it."""
    words = random.Random(seed)
    pieces, size = [], 0
    while size < length:
        piece = words.randbytes(words.randrange(1, 900)).hex().encode() + b"SECRET"
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)[:length]


def digest(data, removed=b"SECRET"):
    """Give the hash of what stays of a body whatever was stripped of it, and what a cut left of a marker at its end."""
    return hashlib.sha256(data.replace(removed, b"").rstrip(b"SECRT")).hexdigest()


class Pages(http.server.BaseHTTPRequestHandler):
    """Answers: / is the page; /text?seed=…&length=… a text, with `chunked=1` in chunks."""

    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self):
        """Answer one request."""
        asked = {name: int(value[0]) for name, value in parse_qs(urlsplit(self.path).query).items()}
        body = text_of(asked["seed"], asked["length"]) if asked else PAGE
        self.send_response(200)
        chunked = asked.get("chunked") and self.request_version == "HTTP/1.1"
        self.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(len(body)))))
        self.end_headers()
        if chunked:
            for at in range(0, len(body), 7000):
                piece = body[at:at + 7000]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            body = b"0\r\n\r\n"
        self.wfile.write(body)

    def log_message(self, *_):
        """Say nothing."""


class Web(socketserver.ThreadingTCPServer):
    """A web server of both families."""

    address_family, allow_reuse_address, daemon_threads, block_on_close = socket.AF_INET6, True, True, False
    request_queue_size = 64

    def handle_error(self, request, address):
        """A client that went away is none."""


class Hosts:
    """Three namespaces: a client, a web server on port 80, and between them the place of the daemon."""

    def __init__(self, netns, addresses=True):
        self.client, self.middle, self.server = netns(), netns(), netns()
        join(self.client, self.middle, "port0", "left")
        join(self.middle, self.server, "right", "port0")
        for namespace, (four, six) in ((self.client, CLIENT), (self.server, SERVER)):
            ip("-n", namespace, "address", "add", f"{four}/24", "dev", "port0")
            ip("-n", namespace, "address", "add", f"{six}/64", "dev", "port0", "nodad")
        with inside(self.server):
            self.web = Web(("::", 80), Pages)
        threading.Thread(target=self.web.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def end(self):
        """End the server."""
        self.web.shutdown()
        self.web.server_close()

    def curl(self, *words, patience=PATIENCE):
        """Run curl on the client; give what it printed."""
        done = subprocess.run([program("ip"), "netns", "exec", self.client, program("curl"), "-sS", "-g", "-m", str(patience), *words],
                              capture_output=True, timeout=patience + 5, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def connection(self, family=0, patience=PATIENCE):
        """Give an `http.client.HTTPConnection` of the client to the server, kept alive."""
        connection = http.client.HTTPConnection(SERVER[family], 80, timeout=patience)
        with inside(self.client):
            connection.connect()
        return connection


def fetch(connection, path="/"):
    """Fetch a page over a connection that is kept alive; give its body."""
    connection.request("GET", path)
    return connection.getresponse().read()


class Flowosd:
    """The daemon in a namespace, with folders that it may reach when it is nobody's."""

    def __init__(self, where, *words, ports=("lan=packet:left", "wan=packet:right")):
        self.where, self.words, self.ports = where, words, ports
        self.folder = Path(tempfile.mkdtemp(prefix="flowos-test-"))
        self.folder.chmod(0o755)
        self.modules = self.folder / "modules"
        self.modules.mkdir(mode=0o755)
        self.socket, self.state = str(self.folder / "run" / "flowosd.sock"), str(self.folder / "state" / "flowosd.toml")
        self.pid = None

    def arguments(self):
        """Give the words of `flowos up`."""
        ports = [word for port in self.ports for word in ("--port", port)]
        return ["up", *ports, "--socket", self.socket, "--state", self.state, "--modules-from", str(self.modules), *self.words]

    def try_up(self):
        """Type `flowos up`; give the finished process."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run([program("ip"), "netns", "exec", self.where, sys.executable, "-m", "flowos.cli", *self.arguments()],
                              capture_output=True, text=True, env=environment, timeout=300, check=False)

    def up(self):
        """Start the daemon; give itself."""
        done = self.try_up()
        assert done.returncode == 0, done.stderr + self.log()
        self.pid = int(re.search(r"runs as process (\d+);", done.stdout)[1])
        return self

    def log(self):
        """Give what the daemon said."""
        path = Path(f"{self.state}.log")
        return path.read_text() if path.exists() else ""

    def alive(self):
        """Say whether the process is there and runs."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z" \
                or len(os.listdir(f"/proc/{self.pid}/task")) > 1      # its other threads are still ending
        except OSError:
            return False

    def kill(self, number=signal.SIGKILL):
        """Send a signal, and wait until the process is gone."""
        if self.pid is not None and self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
            until(lambda: not self.alive(), "the daemon is gone", pause=0.002)

    def try_(self, *words):
        """Type a command; give (exit code, what it printed, what it complained of)."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([*map(str, words), "--socket", self.socket])
        return code, out.getvalue(), err.getvalue()

    def type(self, *words):
        """Type a command that must succeed; give what it printed."""
        code, out, err = self.try_(*words)
        assert (code, err) == (0, ""), (words, code, err, self.log())
        return out.rstrip("\n")

    def client(self, **settings):
        """Give a client of the control socket."""
        return Client(self.socket, **settings)

    def end(self):
        """Leave nothing of it."""
        try:
            self.kill()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def spaces():
    """Give what makes namespaces, as the fixture `netns` does, for fixtures that outlast a test."""
    with contextlib.ExitStack() as stack:
        def make():
            name = f"flowos-test-{os.getpid()}-m{random.getrandbits(32):x}"
            add(name, stack)
            return name
        yield make


@contextlib.contextmanager
def between(netns, *words, **settings):
    """Give (hosts, daemon) with the daemon up."""
    hosts = Hosts(netns)
    daemon = Flowosd(hosts.middle, *words, **settings)
    try:
        yield hosts, daemon.up()
    finally:
        daemon.end()
        hosts.end()
