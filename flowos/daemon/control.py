"""The daemon's ear: an XML-RPC server on a Unix socket, a thread for each of a few clients.

Whoever may open the socket commands the daemon, so it is made for its owner alone (mode 0600), and what
comes through it is still not trusted with the daemon's life: a request has a size, a time in which to
arrive, and a shape, and every refusal is counted.  The threads parse and wait; the command is carried
out elsewhere, by the function this server was given.
"""
import collections
import contextlib
import fcntl
import io
import os
import socketserver
import stat
import threading
import time
from http.server import BaseHTTPRequestHandler
from xmlrpc.client import Fault

from flowos import UsageError

from . import wire

#: Seconds in which a request has to arrive, and then an answer to be taken.
DEADLINE = 10.0
MAX_CLIENTS = 16
BUSY = b"HTTP/1.0 503 Too many clients\r\nContent-Length: 0\r\n\r\n"


class _Timed(io.RawIOBase):
    """Read a socket until a moment: the deadline is the request's, not each read's."""

    def __init__(self, sock, seconds):
        self.sock, self.end = sock, time.monotonic() + seconds

    def readable(self):
        return True

    def readinto(self, buffer):
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.sock.settimeout(left)
        return self.sock.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    """Answer one request; the connection ends with it."""

    server_version, sys_version = "FlowOS", ""
    wbufsize = -1

    def setup(self):
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Timed(self.connection, self.server.seconds))

    def do_POST(self):
        size = self.headers.get("Content-Length", "")
        if not size.isascii() or not size.isdecimal():
            return self.refuse(411, "no_length", "a request says its length")
        if len(size) > 9 or int(size) > wire.MAX_REQUEST:
            return self.refuse(413, "too_large", f"a request has {wire.MAX_REQUEST} bytes at most")
        body = self.rfile.read(int(size))
        if len(body) < int(size):
            self.server.count("cut_short")
            return None
        answer = self.server.answer(body)
        self.connection.settimeout(self.server.seconds)
        self.send_response(200)
        self.send_header("Content-Type", "text/xml")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
        self.wfile.flush()
        return None

    def refuse(self, code, reason, message):
        """Answer with an HTTP error and read no further."""
        self.server.count(reason)
        self.connection.settimeout(self.server.seconds)
        self.send_error(code, message)

    def address_string(self):
        return "client"                       # a Unix socket's peer has no address

    def log_message(self, *_arguments):
        """Say nothing: refusals are counted."""

    def log_error(self, form, *arguments):
        """Count a request that did not arrive in time; of the rest `refuse` spoke."""
        if "timed out" in form:
            self.server.count("timed_out")


class ControlServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Serve `call(command, arguments) -> (status, message, value)` on a Unix socket, from a thread of its own.

    `call` runs in the client's thread; a Fault that it raises is answered as it is.  UsageError: another
    daemon has the socket, or what lies at its path is no socket.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = MAX_CLIENTS

    def __init__(self, path, call, seconds=DEADLINE):
        self.path, self.call, self.seconds = os.fspath(path), call, seconds
        self.counters = collections.Counter()
        self._counting = threading.Lock()
        self._places = threading.BoundedSemaphore(MAX_CLIENTS)
        self._lock = _take_lock(self.path)
        try:
            super().__init__(self.path, _Handler)
        except BaseException:
            os.close(self._lock)
            raise
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), name="control", daemon=True)
        self._thread.start()

    def server_bind(self):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)              # a dead daemon's: the lock says so
        before = os.umask(0o177)
        try:
            super().server_bind()
        finally:
            os.umask(before)

    def close(self):
        """Stop listening and remove the socket; clients that are being answered are answered."""
        self.shutdown()
        self._thread.join()
        self.server_close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        os.close(self._lock)

    def count(self, reason):
        """Count a request under a name."""
        with self._counting:
            self.counters[reason] += 1

    def answer(self, body):
        """Give the answer to a request's body, as bytes of XML."""
        try:
            answer = self.call(*wire.read_call(body))
            self.count("answered")
            return wire.write_answer(answer)
        except Fault as fault:
            self.count("faults")
            return wire.write_answer(fault)
        except Exception as error:            # the server outlives whatever a command gives back
            self.count("faults")
            return wire.write_answer(Fault(wire.INTERNAL, f"{type(error).__name__}: {error}"))

    # ---- of socketserver ------------------------------------------------------------------

    def process_request(self, request, client_address):
        if not self._places.acquire(blocking=False):
            self.count("too_many")
            with contextlib.suppress(OSError):
                request.setblocking(False)
                request.send(BUSY)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:                 # no thread was to be had
            self._places.release()
            raise

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request, client_address):
        """Count a client that went away, or took no answer."""
        self.count("broken_off")


def _take_lock(path):
    """Give a descriptor that holds the lock of a socket's path for this process's life, however it ends."""
    folder = os.path.dirname(path) or "."
    os.makedirs(folder, mode=0o700, exist_ok=True)
    if len(os.fsencode(path)) > 107:
        raise UsageError(f"{path}: a socket's path has 107 bytes at most")
    if os.path.lexists(path) and not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise UsageError(f"{path}: is no socket, so it is not replaced")
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise UsageError(f"{path}: a daemon is listening there; `flowos down` ends it, --socket names another") from None
    return lock
