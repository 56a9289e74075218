"""Record the captures of this folder: real programs talking over the loopback of a network namespace.

    sudo python tests/data/record.py quic [...]      (no name: all of them)

A recording is NAME.pcap, and NAME.keys where it needs a key log.  Nothing leaves the namespace, which
goes at the end.  dumpcap records.  The programs of each recording are named at its function; aioquic
and h2 are imported from the interpreter that runs this file.
"""
import asyncio
import contextlib
import ctypes
import datetime
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
HOST, NAME = "127.0.0.1", "www.flowos.example"
RECORDINGS = {}


def recording(function):
    """Note a function that makes the traffic of one recording: function(folder, key log)."""
    RECORDINGS[function.__name__] = function
    return function


def enter_namespace():
    """Move this process into a network namespace of its own, its loopback up."""
    if ctypes.CDLL(None, use_errno=True).unshare(0x40000000):           # CLONE_NEWNET
        raise OSError(ctypes.get_errno(), "no network namespace: run as root")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


@contextlib.contextmanager
def dumpcap(path):
    """Record the loopback into a file while the body runs."""
    process = subprocess.Popen(["dumpcap", "-q", "-P", "-i", "lo", "-w", str(path)], stderr=subprocess.DEVNULL)
    while not path.exists():
        time.sleep(0.05)
    time.sleep(1)
    try:
        yield
        time.sleep(1.5)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(10)


def certificate(folder):
    """Make a self-signed certificate: (certificate's path, key's path)."""
    paths = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", "-subj", f"/CN={NAME}",
         "-addext", f"subjectAltName=DNS:{NAME}", "-out", str(paths[0]), "-keyout", str(paths[1])],
        check=True, capture_output=True)
    return paths


@recording
def quic(folder, keys):
    """Talk QUIC between aioquic's client and server: version 1 and 2, Retry, negotiation, a long hello."""
    from aioquic.asyncio import connect, serve
    from aioquic.quic.configuration import QuicConfiguration
    from aioquic.quic.packet import QuicProtocolVersion as Version

    cert, key = certificate(folder)

    def server(**more):
        configuration = QuicConfiguration(is_client=False, alpn_protocols=["h3", "hq-interop"], **more)
        configuration.load_cert_chain(cert, key)
        return configuration

    async def echo(reader, writer):
        writer.write(b"you said " + await reader.read())
        writer.write_eof()

    def handler(reader, writer):
        tasks.add(asyncio.ensure_future(echo(reader, writer)))

    async def exchange(port, name, **more):
        settings = {"alpn_protocols": ["h3"], **more}
        configuration = QuicConfiguration(server_name=name, verify_mode=ssl.CERT_NONE, secrets_log_file=log, **settings)
        with contextlib.suppress(ConnectionError):
            async with connect(HOST, port, configuration=configuration) as client:
                reader, writer = await client.create_stream()
                writer.write(b"hello")
                writer.write_eof()
                await reader.read()

    async def run():
        v1, v2 = Version.VERSION_1, Version.VERSION_2
        for port, retry, versions in ((4431, False, [v1]), (4432, True, [v1]), (4433, False, [v2]),
                                      (4434, False, [v2, v1]), (4435, True, [v2])):
            await serve(HOST, port, configuration=server(supported_versions=versions), stream_handler=handler,
                        retry=retry)
        await exchange(4431, "v1.flowos.example", supported_versions=[v1])
        await exchange(4432, "retry.flowos.example", supported_versions=[v1])
        await exchange(4433, "v2.flowos.example", supported_versions=[v2], original_version=v2)
        await exchange(4433, "negotiated.flowos.example", supported_versions=[v1, v2], original_version=v1)
        await exchange(4434, "upgraded.flowos.example", supported_versions=[v2, v1], original_version=v1)
        await exchange(4435, "retry2.flowos.example", supported_versions=[v2], original_version=v2)
        await exchange(4431, "long.flowos.example", supported_versions=[v1], alpn_protocols=[
            f"protocol-number-{n}-of-many" for n in range(60)] + ["h3"])

    tasks = set()
    with open(keys, "w") as log:
        asyncio.run(run())


def openssl_server(port, folder, *options):
    """Run openssl s_server on a port; give its process."""
    process = subprocess.Popen(
        ["openssl", "s_server", "-accept", f"{HOST}:{port}", "-cert", str(folder / "cert.pem"), "-key",
         str(folder / "key.pem"), *options], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL)
    time.sleep(0.3)
    return process


def openssl_client(port, keys, lines, *options):
    """Run openssl s_client, and type lines into it."""
    process = subprocess.Popen(
        ["openssl", "s_client", "-connect", f"{HOST}:{port}", "-servername", NAME, "-keylogfile", str(keys), *options],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for line in (*lines, "Q"):
        time.sleep(0.3)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()
    process.wait(20)


TLS = {         # port: what both sides are told
    4441: ("-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"), 4442: ("-tls1_2", "-cipher", "AES256-GCM-SHA384"),
    4443: ("-tls1_2", "-cipher", "ECDHE-RSA-CHACHA20-POLY1305"), 4444: ("-tls1_2", "-cipher", "AES128-CCM"),
    4445: ("-tls1_2", "-cipher", "AES256-CCM8"), 4446: ("-tls1_2", "-cipher", "ECDHE-RSA-AES128-SHA"),
    4447: ("-tls1_2", "-cipher", "ECDHE-RSA-AES256-SHA384"),
    4448: ("-tls1_2", "-no_etm", "-cipher", "AES128-SHA256"), 4449: ("-tls1_2", "-no_etm", "-cipher", "AES256-SHA"),
    4450: ("-tls1_1", "-cipher", "AES128-SHA:@SECLEVEL=0"),
    4451: ("-tls1", "-no_etm", "-cipher", "AES256-SHA:@SECLEVEL=0"),
    4452: ("-tls1_3", "-ciphersuites", "TLS_AES_128_GCM_SHA256"),
    4453: ("-tls1_3", "-ciphersuites", "TLS_AES_256_GCM_SHA384"),
    4454: ("-tls1_3", "-ciphersuites", "TLS_CHACHA20_POLY1305_SHA256"),
    4455: ("-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_SHA256"),
    4456: ("-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_8_SHA256")}


@recording
def tls(folder, keys):
    """Talk TLS between openssl s_client and s_server: versions, ciphers, key updates, renegotiation, 0-RTT."""
    certificate(folder)
    session, early = folder / "session.pem", folder / "early.txt"
    early.write_text("early words\n")
    lines = ["hello, server", "x" * 3000]
    with contextlib.ExitStack() as stack:
        def serve(port, *options):
            process = openssl_server(port, folder, *options)
            stack.callback(process.kill)
            return process

        for port, options in TLS.items():
            serve(port, "-rev", *options)
            openssl_client(port, keys, lines, *options)
        serve(4461, "-rev", "-tls1_3")
        openssl_client(4461, keys, ["before", "K", "between", "k", "after", "K", "at last"], "-tls1_3")
        serve(4462, "-rev", "-tls1_2", "-client_renegotiation")
        openssl_client(4462, keys, ["before", "R", "after", "R", "at last"], "-tls1_2")
        serve(4463, "-rev", "-tls1_3", "-groups", "P-384")
        openssl_client(4463, keys, ["a retry"], "-tls1_3", "-groups", "X25519:P-384")
        serve(4464, "-rev", "-tls1_2")
        openssl_client(4464, keys, ["a session"], "-tls1_2", "-sess_out", str(session))
        openssl_client(4464, keys, ["resumed"], "-tls1_2", "-sess_in", str(session))
        server = serve(4465, "-tls1_3", "-early_data", "-ciphersuites", "TLS_AES_256_GCM_SHA384")
        server.stdin.write(b"the server says this\n")
        server.stdin.flush()
        openssl_client(4465, keys, ["a session"], "-tls1_3", "-sess_out", str(session))
        openssl_client(4465, keys, ["late words"], "-tls1_3", "-sess_in", str(session), "-early_data", str(early))
        server.kill()
        server.wait()
        serve(4465, "-tls1_3", "-early_data", "-ciphersuites", "TLS_AES_256_GCM_SHA384")     # knows no tickets
        openssl_client(4465, keys, ["late words"], "-tls1_3", "-sess_in", str(session), "-early_data", str(early))


NGINX = """
daemon off; master_process off; user root; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    types {{ text/html html; text/plain txt; }}
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{ listen {host}:8080 http2; root {folder}/www; }}
    server {{
        listen {host}:8443 ssl http2; root {folder}/www; ssl_protocols TLSv1.2 TLSv1.3;
        ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
    }}
}}
"""
# Node's own HTTP/2: padding, a push, trailers, headers too long for one frame, a ping, a stream that is reset.
NODE = """
const http2 = require('http2'), strategy = {paddingStrategy: http2.constants.PADDING_STRATEGY_MAX};
const large = {...strategy, maxSendHeaderBlockLength: 100000, maxHeaderListPairs: 200};
const server = http2.createServer(large);
server.on('stream', (stream, headers) => {
  stream.on('error', () => {}); stream.resume();
  if (headers[':path'] === '/reset') return stream.close(http2.constants.NGHTTP2_ENHANCE_YOUR_CALM);
  if (headers[':path'] === '/push') stream.pushStream({':path': '/pushed'}, (error, push) => {
    push.respond({':status': 200, 'content-type': 'text/plain'}); push.end('pushed words'); });
  stream.respond({':status': 200, 'set-cookie': ['a=1', 'b=2'], 'x-long': 'y'.repeat(headers['x-much'] | 0)},
                 {waitForTrailers: true});
  stream.on('wantTrailers', () => stream.sendTrailers({'x-trailer': 'the end'}));
  stream.end('you asked for ' + headers[':path']);
});
server.listen(8090, '127.0.0.1', async () => {
  const client = http2.connect('http://127.0.0.1:8090', large);
  client.on('stream', push => push.resume());
  const ask = (headers, words) => new Promise(done => {
    const request = client.request(headers, {endStream: !words});
    request.on('error', done); request.on('close', done); request.resume(); request.end(words); });
  await ask({':path': '/plain'});
  await ask({':path': '/words', ':method': 'POST'}, 'some words '.repeat(30));
  await Promise.all([ask({':path': '/push'}), ask({':path': '/reset'})]);
  await ask({':path': '/long', 'x-words': Array.from({length: 9000}, (_, n) => n).join(' '), 'x-much': '20000'});
  await ask({':path': '/again', 'x-much': '3'});
  client.ping(() => client.close(() => server.close()));
});
"""


@contextlib.contextmanager
def nginx(folder):
    """Run nginx with a few files while the body runs."""
    certificate(folder)
    (folder / "www").mkdir()
    (folder / "www" / "index.html").write_text("<p>the first page</p>\n")
    (folder / "www" / "large.txt").write_text("".join(f"line {n}\n" for n in range(1000)))
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, host=HOST))
    process = subprocess.Popen(["nginx", "-c", str(folder / "nginx.conf")])
    time.sleep(0.5)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def curl(*arguments, **environment):
    """Run curl, what it gets thrown away.  It may complain: of an answer that comes before all was sent, say."""
    subprocess.run(["curl", "-sk", "-o", "/dev/null", "-o", "/dev/null", "-o", "/dev/null", *arguments], check=False,
                   timeout=20, env={**os.environ, **environment})


def upgrading_server():
    """Serve one connection that begins with HTTP/1.1 and is upgraded, by h2; runs in a child process."""
    from h2.config import H2Configuration
    from h2.connection import H2Connection

    with socket.create_server((HOST, 8070)) as listener:
        peer = listener.accept()[0]
        head = b""
        while b"\r\n\r\n" not in head:
            head += peer.recv(65536)
        settings = re.search(rb"(?i)http2-settings: *([^\r]*)", head)[1]
        peer.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
        connection = H2Connection(config=H2Configuration(client_side=False))
        connection.initiate_upgrade_connection(settings)
        connection.send_headers(1, [(":status", "200"), ("server", "one of ours"), ("content-type", "text/plain")])
        connection.send_data(1, b"upgraded words", end_stream=True)
        peer.sendall(connection.data_to_send())
        while data := peer.recv(65536):
            connection.receive_data(data)
            peer.sendall(connection.data_to_send())


@recording
def http2(folder, keys):
    """Talk HTTP/2 in the clear: curl with nginx, curl with h2 by way of an upgrade, Node with itself."""
    url = f"http://{HOST}:8080"
    with nginx(folder):
        curl("--http2-prior-knowledge", f"{url}/large.txt")         # this curl reuses no such connection
        curl("--http2-prior-knowledge", "-I", f"{url}/index.html")
    child = os.fork()
    if not child:
        upgrading_server()
        os._exit(0)
    time.sleep(0.5)
    curl("--http2", f"http://{HOST}:8070/upgrade")
    os.waitpid(child, 0)
    subprocess.run(["node", "-e", NODE], check=True, timeout=20)


@recording
def https(folder, keys):
    """Talk HTTP/2 and HTTP/1.1 in TLS: curl with nginx."""
    url = f"https://{HOST}:8443"
    with nginx(folder):
        for version in ("1.2", "1.3"):
            for protocol in ("--http2", "--http1.1"):
                curl(protocol, f"--tlsv{version}", "--tls-max", version, f"{url}/index.html", f"{url}/large.txt",
                     f"{url}/missing", SSLKEYLOGFILE=str(keys))
        curl("-Z", f"{url}/index.html", f"{url}/large.txt", f"{url}/index.html?again", SSLKEYLOGFILE=str(keys))


# What a server says, and what it waits for in between, up to the client's hello.
GREETINGS = {
    "smtp": (b"220 mail.flowos.example ESMTP\r\n", b"\n", b"250-mail.flowos.example\r\n250-SIZE 9\r\n250 STARTTLS\r\n",
             b"STARTTLS\r\n", b"220 go ahead\r\n"),
    "lmtp": (b"220 mail.flowos.example LMTP\r\n", b"\n", b"250-mail.flowos.example\r\n250 STARTTLS\r\n",
             b"STARTTLS\r\n", b"220 go ahead\r\n"),
    "pop3": (b"+OK here we are\r\n", b"STLS\r\n", b"+OK begin\r\n"),
    "imap": (b"* OK IMAP4rev1 here\r\n", b"CAPABILITY\r\n",
             b"* CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED\r\n. OK done\r\n", b"STARTTLS\r\n", b". OK begin\r\n"),
    "ftp": (b"220 files here\r\n", b"AUTH TLS\r\n", b"234 begin\r\n"),
    "nntp": (b"200 news here\r\n", b"CAPABILITIES\r\n", b"101 list:\r\nVERSION 2\r\nSTARTTLS\r\n.\r\n", b"STARTTLS\r\n",
             b"382 begin\r\n"),
    "sieve": (b'"IMPLEMENTATION" "ours"\r\n"STARTTLS"\r\nOK "ready"\r\n', b"STARTTLS\r\n", b'OK "begin"\r\n'),
    "xmpp": (b"", b">", b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/"
             b"streams' version='1.0'><stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:features>",
             b"/>", b"<proceed xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"),
    "postgres": (b"", b"\x04\xd2\x16\x2f", b"S"),
    "mysql": (b"\x4a\0\0\0\x0a8.0.30\0\x08\0\0\0secretsa\0\xff\xff\xff\x02\0\xff\xdf\x15" + bytes(10)
              + b"moresecretsa\0mysql_native_password\0", b"\0" * 23),
    "ldap": (b"", b"1.3.6.1.4.1.1466.20037", bytes.fromhex("300c02010178070a010004000400")),
}


def starttls_server(port, words, cert, key):
    """Serve one connection that becomes TLS after some words; runs in a child process."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with socket.create_server((HOST, port)) as listener:
        peer = listener.accept()[0]
        for number, said in enumerate(words):
            if number % 2 == 0:
                peer.sendall(said)
            else:
                heard = b""
                while not heard.endswith(said):
                    heard += peer.recv(1)           # no byte of the hello
        with context.wrap_socket(peer, server_side=True) as sealed:
            sealed.sendall(sealed.recv(100))


@recording
def starttls(folder, keys):
    """Talk TLS behind the words of other protocols: openssl s_client with a server for each."""
    cert, key = certificate(folder)
    for number, (protocol, words) in enumerate(GREETINGS.items()):
        child = os.fork()
        if not child:
            starttls_server(4500 + number, words, cert, key)
            os._exit(0)
        time.sleep(0.3)
        openssl_client(4500 + number, keys, [f"hello by {protocol}"], "-starttls", protocol)
        os.waitpid(child, 0)


def main():
    """Make the recordings that are named, or all."""
    os.environ.pop("SSLKEYLOGFILE", None)
    enter_namespace()
    for name in sys.argv[1:] or RECORDINGS:
        with tempfile.TemporaryDirectory() as scratch:
            capture, keys = FOLDER / f"{name}.pcap", FOLDER / f"{name}.keys"
            for path in (capture, keys):
                path.unlink(missing_ok=True)
            with dumpcap(capture):
                RECORDINGS[name](Path(scratch), keys)
        print(f"{datetime.date.today()} {name}: {capture.stat().st_size} bytes")


if __name__ == "__main__":
    main()
