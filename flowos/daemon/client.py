"""The other end of the control socket: what the command line, and any program, speaks to a daemon with.

    client = Client("/run/flowos/flowosd.sock")
    client.command("attach", module="http_strip", flow="flow1")
"""
import http.client
import os
import socket
import ssl
import time
import xmlrpc.client

from flowos.core.errors import FlowOSError
from flowos.daemon.values import CODE_NOT_READY, CODE_SUCCESS, ReturnValue
from flowos.daemon.wire import write_call

WAIT = 60.0


class DaemonError(FlowOSError):
    """A daemon refused a call, or none answers."""


def default_socket():
    """Give the path of the control socket: $FLOWOS_SOCKET, else under /run/flowos or the user's own runtime folder."""
    folder = "/run/flowos" if os.geteuid() == 0 else os.path.join(os.environ.get("XDG_RUNTIME_DIR", "/tmp"), "flowos")
    return os.environ.get("FLOWOS_SOCKET") or os.path.join(folder, "flowosd.sock")


class Client:
    """Call a daemon at a socket's path, or at "HOST:PORT" with `tls=(certificate, key, ca)`."""

    def __init__(self, address=None, tls=None, wait=WAIT):
        self.address, self.tls, self.wait = address or default_socket(), tls, wait

    def command(self, name, /, **parameter):
        """Run a command; give its value.  DaemonError: it failed, and why."""
        return self._value(self.call("command", name, parameter))

    def task(self, name, /, priority="normal", **parameter):
        """Queue a task; give its number, for `result`."""
        return self._value(self.call("task", name, parameter, priority))

    def compound(self, steps, priority="normal"):
        """Queue a compound task, a list of (task, parameter); give its number."""
        return self._value(self.call("compound", [list(step) for step in steps], priority))

    def result(self, number):
        """Give a task's ReturnValue; CODE_NOT_READY while it waits or runs."""
        return self.call("result", number)

    def wait_for(self, number):
        """Wait for a task; give its ReturnValue.  DaemonError: it is not done in time."""
        end = time.monotonic() + self.wait
        while (found := self.result(number)).status == CODE_NOT_READY:
            if time.monotonic() > end:
                raise DaemonError(f"task {number} is not done after {self.wait:g} s")
            time.sleep(0.01)
        return found

    def call(self, method, *arguments):
        """Make one call; give its ReturnValue.  DaemonError: a Fault, or nobody there."""
        body = write_call(method, arguments)
        connection = http.client.HTTPConnection("flowosd")
        try:
            connection.sock = self._connect()
            connection.request("POST", "/RPC2", body, {"Content-Type": "text/xml"})
            response = connection.getresponse()
            data = response.read()
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise DaemonError(f"{self.address}: no daemon runs there; `flowos up` starts one") from error
        except (OSError, http.client.HTTPException) as error:
            raise DaemonError(f"{self.address}: the daemon does not answer: {error or type(error).__name__}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise DaemonError(f"{self.address}: {response.status} {response.reason}")
        try:
            (value,), _ = xmlrpc.client.loads(data, use_builtin_types=True)
        except xmlrpc.client.Fault as fault:
            raise DaemonError(fault.faultString) from None
        return ReturnValue(**value)

    def _connect(self):
        if self.tls is None:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(self.wait)
            try:
                sock.connect(self.address)
            except BaseException:
                sock.close()
                raise
            return sock
        certificate, key, ca = self.tls
        host, _, port = self.address.rpartition(":")
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=ca)
        context.load_cert_chain(certificate, key)
        return context.wrap_socket(socket.create_connection((host.strip("[]"), int(port)), self.wait), server_hostname=host.strip("[]"))

    @staticmethod
    def _value(result):
        if result.status != CODE_SUCCESS:
            raise DaemonError(result.message)
        return result.value
