"""The control socket: HTTP with one XML-RPC call per connection, on threads that never touch the engine.

Whoever connects has `PATIENCE` seconds in all to say what it wants, however it drips; a request has one
length, known in advance and bounded; so many connections are served at once, more are cut off.  The
socket is a Unix socket that its owner alone may open, or TCP with certificates on both sides.
"""
import contextlib
import io
import os
import socket
import socketserver
import ssl
import stat
import threading
import time
from http.server import BaseHTTPRequestHandler
from xmlrpc.client import Fault

from flowos.core.errors import FlowOSError, UsageError
from flowos.daemon.values import told
from flowos.daemon.wire import LARGEST, read_call, write_answer

PATIENCE = 5.0
AT_ONCE = 16
#: Fault codes, of the XML-RPC community's list: parse error, application error.
MALFORMED, FAILED = -32700, -32500


class Timed(io.RawIOBase):
    """What a socket receives, until a deadline."""

    def __init__(self, sock, deadline):
        self.sock, self.deadline = sock, deadline

    def readable(self):
        """Say that it is read from."""
        return True

    def readinto(self, buffer):
        """Read what is there, or wait; TimeoutError at the deadline."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request took too long")
        self.sock.settimeout(left)
        return self.sock.recv_into(buffer)


class Handler(BaseHTTPRequestHandler):
    """One connection: one POST of an XML-RPC call, one answer."""

    server_version, sys_version = "flowosd", ""

    def setup(self):
        """Begin: the clock runs."""
        sock = self.request
        sock.settimeout(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        if self.server.context is not None:
            sock = self.request = self.server.context.wrap_socket(sock, server_side=True)
        self.connection, self.close_connection = sock, True
        self.rfile = io.BufferedReader(Timed(sock, deadline))
        self.wfile = socketserver._SocketWriter(sock)

    def handle(self):
        """Serve one request."""
        self.handle_one_request()

    def finish(self):
        """End."""
        self.rfile.close()
        if isinstance(self.connection, ssl.SSLSocket):
            self.connection.close()

    def do_POST(self):
        """Answer one call; a request that is none of ours gets an HTTP error, and no more is read of it."""
        length = self.headers.get("Content-Length", "")
        if self.headers.get("Transfer-Encoding") or not (length.isascii() and length.isdigit()):
            return self.send_error(411)
        if len(length) > 9 or int(length) > LARGEST:
            return self.send_error(413)
        if self.headers.get("Content-Encoding", "identity") != "identity":
            return self.send_error(415)
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            return None                       # it hung up
        self.connection.settimeout(None)
        data = write_answer(self.answer(body))
        self.connection.settimeout(PATIENCE)
        self.send_response(200)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        return self.wfile.write(data)

    def answer(self, body):
        """Carry out a call; give what it gave, or a Fault."""
        try:
            method, arguments = read_call(body)
        except UsageError as error:
            return Fault(MALFORMED, str(error))
        try:
            return self.server.daemon.call(method, arguments).wire()
        except Exception as error:
            return Fault(FAILED, told(error))

    def log_message(self, *_):
        """Say nothing: who may speak here is the operator."""


class _Threads(socketserver.ThreadingMixIn):
    """A thread per connection, within limits."""

    daemon_threads, block_on_close, context = True, False, None

    def process_request(self, request, address):
        if not self.room.acquire(blocking=False):
            return self.shutdown_request(request)
        try:
            return super().process_request(request, address)
        except BaseException:
            self.room.release()
            raise

    def process_request_thread(self, request, address):
        try:
            super().process_request_thread(request, address)
        finally:
            self.room.release()

    def handle_error(self, request, address):
        """A client that hung up, was too slow or spoke no TLS is nobody's fault."""

    def start(self, daemon):
        """Serve a daemon from now on."""
        self.daemon, self.room = daemon, threading.BoundedSemaphore(AT_ONCE)
        threading.Thread(target=self.serve_forever, name="control", daemon=True).start()

    def stop(self, patience=1.0):
        """Take no more; let answers that are on their way leave."""
        self.shutdown()
        self.server_close()
        end = time.monotonic() + patience
        for _ in range(AT_ONCE):
            self.room.acquire(timeout=max(0, end - time.monotonic()))


def listens(path):
    """Say whether a process has a Unix socket open for connections, even one that does not take them."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except BlockingIOError:               # its queue is full
            return True
    return True


class UnixServer(_Threads, socketserver.UnixStreamServer):
    """The control socket at a path, mode 0600.  UsageError: a daemon serves there already, or it is no socket."""

    def server_bind(self):
        """Bind where nobody is; what a killed daemon left there is removed."""
        path = self.server_address
        os.makedirs(os.path.dirname(path) or ".", mode=0o755, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise UsageError(f"{path}: is there and is no socket")
            if listens(path):
                raise UsageError(f"{path}: a daemon runs there already; `flowos down` ends it")
            os.unlink(path)
        before = os.umask(0o177)
        try:
            super().server_bind()
        except OSError as error:
            raise FlowOSError(f"{path}: {error.strerror or error}") from error
        finally:
            os.umask(before)


class TLSServer(_Threads, socketserver.TCPServer):
    """The control socket on TCP: only with certificates on both sides that `ca` signed."""

    allow_reuse_address = True

    def __init__(self, address, certificate, key, ca):
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.load_cert_chain(certificate, key)
        super().__init__(address, Handler)


def unix_server(path):
    """Give a server at a path."""
    return UnixServer(path, Handler)
