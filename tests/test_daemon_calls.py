"""The control socket under hostile clients: each gets a clear fault or is cut off, and the traffic does not notice.

The daemon is the real process between two hosts.  While every kind of nonsense is sent, pages are fetched
through it; afterwards it is the same process, and answers.
"""
import contextlib
import datetime
import ipaddress
import os
import select
import socket
import ssl
import stat
import struct
import threading
import time
import xmlrpc.client

import pytest

from daemons import PAGE, Flowosd, Hosts, between, fetch, spaces
from flowos.daemon.client import Client, DaemonError
from flowos.daemon.server import AT_ONCE, PATIENCE
from flowos.daemon.wire import DEEPEST, LARGEST, MOST, read_call, write_answer, write_call
from namespaces import inside
from waiting import until

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def running(root):
    """A daemon between two hosts, with a web server; one for all tests of this file."""
    with spaces() as make, between(make) as (hosts, daemon):
        yield hosts, daemon


class Fetching:
    """Pages fetched over one connection on a thread, as long as the block lasts; none may fail."""

    def __init__(self, hosts):
        self.connection, self.pages, self.errors, self.running = hosts.connection(), 0, [], True
        self.thread = threading.Thread(target=self.work)

    def work(self):
        """Fetch."""
        try:
            while self.running:
                assert fetch(self.connection) == PAGE
                self.pages += 1
                time.sleep(0.01)
        except Exception as error:
            self.errors.append(error)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exception):
        self.running = False
        self.thread.join()
        self.connection.close()
        assert not self.errors and self.pages


def threads(daemon):
    """Give how many threads the daemon has: one per call that it serves, and some more."""
    return len(os.listdir(f"/proc/{daemon.pid}/task"))


@pytest.fixture
def daemon(running):
    """The daemon; pages are fetched through it during the test, and it is the same and answers after it."""
    hosts, daemon = running
    idle = threads(daemon)
    with Fetching(hosts):
        yield daemon
    assert daemon.alive()
    until(lambda: threads(daemon) <= idle, "all who called were served or cut off, their places are free")
    assert daemon.alive() and daemon.client().command("items")["tasks"] == ["upgrade"]
    assert "Traceback" not in daemon.log()


def ask(daemon, data, shut=False, patience=3 * PATIENCE):
    """Send bytes to the socket; give all that comes back."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(patience)
        sock.connect(daemon.socket)
        try:
            sock.sendall(data)
            if shut:
                sock.shutdown(socket.SHUT_WR)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return everything(sock)


def everything(sock):
    """Receive until the other end is done."""
    pieces = []
    try:
        while piece := sock.recv(1 << 16):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)


def post(daemon, body, **fields):
    """Post a body; give (status, the Fault or the value)."""
    fields = {"Content_Length": len(body), **fields}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items() if value is not None)
    answer = ask(daemon, b"POST /RPC2 HTTP/1.1\r\n" + head.encode() + b"\r\n" + body)
    status = int(answer.split(b" ", 2)[1])
    if status != 200:
        return status, None
    try:
        return status, xmlrpc.client.loads(answer.partition(b"\r\n\r\n")[2], use_builtin_types=True)[0][0]
    except xmlrpc.client.Fault as fault:
        return status, fault


LAUGHS = b"<?xml version='1.0'?><!DOCTYPE l [<!ENTITY l0 'lol'>" + b"".join(
    b"<!ENTITY l%d '%s'>" % (n, b"&l%d;" % (n - 1) * 10) for n in range(1, 10)) + b"]><methodCall><methodName>&l9;</methodName></methodCall>"
EXTERNAL = b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><methodCall><methodName>&x;</methodName></methodCall>"
NESTED = b"<methodCall><methodName>command</methodName><params><param>" + b"<value><array><data>" * 5000


@pytest.mark.parametrize("body, told", [
    (LAUGHS, "declares a document type"), (EXTERNAL, "declares a document type"),
    (b"<!DOCTYPE x SYSTEM 'http://127.0.0.1/x.dtd'><methodCall/>", "declares a document type"),
    (NESTED, f"nests more than {DEEPEST} elements"),
    (b"<methodCall><methodName>x</methodName><params>" + b"<param/>" * MOST + b"</params></methodCall>", f"or has more than {MOST}"),
    (b"", "no XML-RPC call"), (b"<methodCall>", "no XML-RPC call"), (b"\0\xff\xfe" * 400, "no XML-RPC call"), (os.urandom(5000), "no XML-RPC call"),
    (b"<methodCall><params/></methodCall>", "names no method"),
    (b"<methodCall><methodName>x</methodName><params><param><value><int>one</int></value></param></params></methodCall>", "no XML-RPC call"),
    (b"<methodCall><methodName>x</methodName><params><param><value><int>" + b"9" * 100_000 + b"</int></value></param></params></methodCall>", "no"),
    (b"<methodCall><methodName>x</methodName><params><param><value><boolean>7</boolean></value></param></params></methodCall>", "no XML-RPC call"),
    (write_call("commnd", ["show"]), "there is no method 'commnd'; expected command, task, compound, result"),
    (write_call("__init__", []), "there is no method"), (write_call("command", []), "command takes 1 to 2 arguments, not 0"),
    (write_call("result", [1, 2]), "result takes 1 to 1 arguments"),
])
def test_what_is_no_call_is_a_fault(daemon, body, told):
    status, fault = post(daemon, body)
    assert status == 200 and isinstance(fault, xmlrpc.client.Fault) and told in fault.faultString
    assert len(fault.faultString) < 500


@pytest.mark.parametrize("arguments, told", [
    (["shwo"], "there is no command 'shwo'; did you mean 'show'?"), (["../../../etc/passwd"], "there is no command"), (["_x"], "there is no command"),
    ([["show"]], "a command is named by a text, not by ['show']"), ([None], "a command is named by a text"), (["x" * 200_000], "there is no command 'xxx"),
    (["show", 7], "show: the parameter is 7, expected a table"), (["show", {"flwo": "x"}], "there is no field 'flwo'; did you mean 'flow'?"),
    (["show", {"flow": 7}], "show: flow is 7, expected a text"), (["flow_add", {"priority": True}], "priority is True, expected a whole number"),
    (["flow_add", {"priority": 1 << 62}], "priority"), (["flow_add", {"match": "tcp,tp_dst=eighty"}], "eighty"),
    (["attach", {"module": "http_strip"}], "attach: flow is missing, expected a text"),
    (["attach", {"module": "http_strip", "flow": "nowhere"}], "there is no flow 'nowhere'"),
    (["load", {"module": "http_strip", "parameters": {"pattern": [1]}}], "load.parameters.pattern is [1], expected a text or a number"),
    (["load", {"module": "http_strip", "parameters": {"patern": "x"}}], "there is no parameter 'patern'; did you mean 'pattern'?"),
    (["load", {"module": "/etc/passwd"}], "there is no module"), (["load", {"module": "/tmp/x.py"}], "loads modules from"),
    (["load", {"module": "x" * 100_000}], "there is no module"),
    (["apply", {"configuration": {"flows": {"a": {"mtach": "any"}}}}], "flows.a: there is no field 'mtach'; did you mean 'match'?"),
    (["set", {"module": "m", "flow": "f", "parameters": {}}], "there is no flow 'f'"), (["unload", {"module": "x"}], "module 'x' is not loaded"),
])
def test_a_wrong_command_fails_and_says_why(daemon, arguments, told):
    found = daemon.client().call("command", *arguments)
    assert found.status == 1 and told in found.message and len(found.message) < 1000, found.message[:2000]
    assert daemon.client().command("show") == []


def test_wrong_tasks_fail(daemon):
    client = daemon.client()
    for arguments, told in (["upgrad"], "there is no task 'upgrad'; did you mean 'upgrade'?"), (["upgrade", {"files": 1}], "files is 1, expected a table"), \
            (["upgrade", {}, "urgent"], "priority is 'urgent'"), ([["upgrade"]], "a task is named by a text"):
        found = client.call("task", *arguments)
        assert found.status == 1 and told in found.message
    for steps in [], "upgrade", [["upgrade"]], [["upgrade", {}, 3]], {}:
        assert "expected a list of [task, parameter]" in client.call("compound", steps).message
    for number in 10 ** 9, "1", -1, [1], 1.5:
        assert "there is no task" in client.result(number).message
    for path in "../../x.py", "commands/../x.py", "commands/X.py", "commands/x.py\n", "/etc/x.py", "tasks/.py":
        assert "expected commands/NAME.py or tasks/NAME.py" in client.wait_for(client.task("upgrade", files={path: ""})).message
    found = client.wait_for(client.task("upgrade", files={"commands/x.py": "def"}))
    assert (found.status, found.message.partition("; ")[0]) == (1, "upgrade: commands/x.py:1: invalid syntax")


@pytest.mark.parametrize("fields, status", [
    ({"Content_Length": None}, 411), ({"Content_Length": "1e3"}, 411), ({"Content_Length": "-5"}, 411), ({"Content_Length": "²"}, 411),
    ({"Transfer_Encoding": "chunked"}, 411), ({"Content_Length": LARGEST + 1}, 413), ({"Content_Length": "9" * 5000}, 413),
    ({"Content_Encoding": "gzip"}, 415), ({f"X{n}": n for n in range(200)}, 431), ({"X": "y" * 70_000}, 431),
])
def test_a_request_that_is_none_gets_its_status(daemon, fields, status):
    assert post(daemon, b"<methodCall/>", **fields) == (status, None)


def test_other_than_requests_is_cut_off(daemon):
    for junk in b"\x16\x03\x01\x02\0" + os.urandom(500), b"\n\n\n", b"GET", b"POST", os.urandom(3000), b"GET / HTTP/9.9\r\n\r\n":
        assert b" 200 " not in ask(daemon, junk, shut=True)
    assert b" 501 " in ask(daemon, b"GET / HTTP/1.1\r\n\r\n") and b" 414 " in ask(daemon, b"GET /" + b"x" * 70_000)
    whole = b"POST / HTTP/1.1\r\nContent-Length: 500\r\n\r\n<methodCall>"
    assert ask(daemon, whole, shut=True) == b""           # half closed, before it is whole
    call = write_call("command", ["items"])
    assert b" 200 " in ask(daemon, b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(call), call), shut=True)
    for _ in range(50):                                   # gone without waiting for the answer, with a reset
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(daemon.socket)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.sendall(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(call), call))


def test_who_drips_is_cut_off_and_the_others_are_served(daemon):
    socks = [socket.socket(socket.AF_UNIX) for _ in range(AT_ONCE - 2)]
    try:
        for sock in socks:
            sock.settimeout(4 * PATIENCE)
            sock.connect(daemon.socket)
        ends, data = set(), b"POST /RPC2 HTTP/1.1\r\nX: " + b"y" * 500
        for place in range(len(data)):                    # a byte now and then: each comes in time, the whole does not
            for sock in socks:
                try:
                    if sock not in ends:
                        sock.send(data[place:place + 1])
                except OSError:
                    ends.add(sock)
            assert place > 20 or daemon.client().command("items")
            if len(ends) == len(socks):
                break
            time.sleep(0.1)
        assert len(ends) == len(socks) and place < len(data) - 1
    finally:
        for sock in socks:
            sock.close()


def test_too_many_at_once_are_cut_off(daemon):
    socks = [socket.socket(socket.AF_UNIX) for _ in range(3 * AT_ONCE)]
    try:
        began = time.monotonic()
        for sock in socks:
            sock.connect(daemon.socket)
        cut = until(lambda: len(found := select.select(socks, [], [], 0)[0]) >= 2 * AT_ONCE and found, "the surplus is cut off")
        assert len(cut) == 2 * AT_ONCE or time.monotonic() - began >= PATIENCE      # by then the others are, who say nothing
        for sock in cut:
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
    finally:
        for sock in socks:
            sock.close()

    def served():
        with contextlib.suppress(DaemonError):
            return daemon.client().command("items")
    until(served, "their places are free again")


def test_the_socket_is_its_owners_alone(daemon):
    told = os.stat(daemon.socket)
    assert stat.S_IMODE(told.st_mode) == 0o600 and told.st_uid == os.geteuid()
    child = os.fork()
    if child == 0:                                        # another user may not even connect
        try:
            os.setuid(65534)
            socket.socket(socket.AF_UNIX).connect(daemon.socket)
        except PermissionError:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# ---- TCP, with certificates on both sides ---------------------------------------------------------

def certificate(name, issuer=None):
    """Make (key, certificate) of a name, signed by another's, or by itself as an authority."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    now, title = datetime.datetime.now(datetime.timezone.utc), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    signer, by = (key, title) if issuer is None else (issuer[0], issuer[1].subject)
    made = (x509.CertificateBuilder().subject_name(title).issuer_name(by).public_key(key.public_key()).serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1))
            .add_extension(x509.BasicConstraints(issuer is None, None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
            .sign(signer, hashes.SHA256()))
    return key, made


def write_pair(folder, name, pair):
    """Write (key, certificate) as PEM; give (certificate's path, key's path)."""
    from cryptography.hazmat.primitives import serialization as form

    paths = str(folder / f"{name}.pem"), str(folder / f"{name}.key")
    with open(paths[0], "wb") as file:
        file.write(pair[1].public_bytes(form.Encoding.PEM))
    with open(paths[1], "wb") as file:
        file.write(pair[0].private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()))
    return paths


def test_tcp_only_with_certificates_on_both_sides(netns, tmp_path):
    ours, theirs = certificate("ours"), certificate("theirs")
    ca, wrong_ca = write_pair(tmp_path, "ca", ours)[0], write_pair(tmp_path, "wrong-ca", theirs)[0]
    server, client = (write_pair(tmp_path, name, certificate(name, ours)) for name in ("server", "client"))
    stranger = write_pair(tmp_path, "stranger", certificate("stranger", theirs))
    hosts = Hosts(netns)
    daemon = Flowosd(hosts.middle, "--listen", f"127.0.0.1:7443,{server[0]},{server[1]},{ca}")
    try:
        daemon.up()
        with inside(hosts.middle):
            address = "127.0.0.1:7443"
            assert Client(address, (*client, ca)).command("flow_add", name="far") == "far"
            for certificates in (*stranger, ca), (*client, wrong_ca):
                with pytest.raises(DaemonError, match="does not answer"):
                    Client(address, (*certificates, )).command("flow_del", flow="far")
            call = write_call("command", ["flow_del", {"flow": "far"}])
            data = b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(call), call)
            with socket.create_connection(("127.0.0.1", 7443), timeout=300) as sock:   # no TLS at all
                sock.sendall(data)
                assert b" 200 " not in everything(sock)
            context = ssl.create_default_context(cafile=ca)                           # TLS, but nobody in particular
            with pytest.raises(OSError), socket.create_connection(("127.0.0.1", 7443), timeout=300) as sock, \
                    context.wrap_socket(sock, server_hostname="127.0.0.1") as secure:
                secure.sendall(data)
                if not secure.recv(1):
                    raise ConnectionResetError
        assert [flow["name"] for flow in daemon.client().command("show")] == ["far"]
    finally:
        daemon.end()
        hosts.end()


# ---- the wire, alone ------------------------------------------------------------------------------

def test_answers_that_hold_anything_are_well_formed():
    values = [1 << 31, -1 << 63, 1.5, None, True, b"\0", [], {"<": ""}]
    (back,), _ = xmlrpc.client.loads(write_answer({"a": "\0\x1b\ud800\uffff<&>]]>", "b": values}), use_builtin_types=True)
    assert back == {"a": "\ufffd" * 4 + "<&>]]>", "b": values}
    assert read_call(write_call("command", ["show", {"flow": "<x>"}])) == ("command", ["show", {"flow": "<x>"}])
