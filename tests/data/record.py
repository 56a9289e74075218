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
import signal
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


def main():
    """Make the recordings that are named, or all."""
    os.environ["SSLKEYLOGFILE"] = ""
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
