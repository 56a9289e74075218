"""Record examples/demo.pcap: real programs talking in two network namespaces.

    sudo python examples/record_demo.py [FOLDER]

        client namespace                          server namespace
        curl dig ping, a few sockets  ── veth ──  nginx dnsmasq, a small upload server
                                            └──── the recorder (AF_PACKET)

The traffic: HTTP/1.1 over IPv4 and IPv6 with keep-alive, pipelining, gzip, chunked bodies both
ways, uploads, ranges, 100-continue, a refused connection; HTTPS; DNS over UDP, over TCP and
fragmented; UDP bulk in fragments; pings and unreachable ports.  Checksum and segmentation
offloads are off, so the frames are what a wire would carry.

Beside the capture, demo.json keeps what the programs themselves said they got: per transfer the
status, the size and SHA-256 of the body, and the client's port.  The tests compare it with what
FlowOS finds in the capture.  Nothing leaves the namespaces; both go at the end, come what may.
"""
import argparse
import contextlib
import ctypes
import fcntl
import hashlib
import http.server
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NAME = "www.flowos.example"
CLIENT4, SERVER4 = "192.0.2.1", "192.0.2.2"                    # RFC 5737: for documentation
CLIENT6, SERVER6 = "2001:db8::1", "2001:db8::2"                # RFC 3849
PROGRAMS = ("ip", "curl", "openssl", "nginx", "dnsmasq", "dig", "ping")
LIMIT = 30                                                     # seconds that any one program may take

NGINX = """
daemon off; master_process off; user root; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    types {{ text/html html; text/plain txt; text/css css; application/octet-stream bin; }}
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    gzip on; gzip_types text/plain text/css; gzip_min_length 500;
    keepalive_timeout 5s;
    server {{
        listen 80; listen [::]:80; server_name {name}; root {folder}/www;
        location /old {{ return 301 /index.html; }}
    }}
    server {{
        listen 443 ssl; listen [::]:443 ssl; server_name {name}; root {folder}/www;
        ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
    }}
}}
"""


class Upload(http.server.BaseHTTPRequestHandler):
    """Answers POST and PUT with a chunked description of the body that came."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        """Read the body, chunked or not, and answer in chunks with a trailer."""
        digest, size = hashlib.sha256(), 0
        for piece in self.pieces():
            digest.update(piece)
            size += len(piece)
        self.send_response(201)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Trailer", "X-Bytes")
        self.end_headers()
        for text in (f"{size} bytes\n", f"sha256 {digest.hexdigest()}\n"):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text.encode()))
        self.wfile.write(b"0\r\nX-Bytes: %d\r\n\r\n" % size)

    do_PUT = do_POST

    def pieces(self):
        """Yield the body of the request as it comes."""
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            yield self.rfile.read(int(self.headers.get("Content-Length", 0)))
            return
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline() not in (b"\r\n", b"\n", b""):
            pass

    def log_message(self, *arguments):
        """Keep the terminal quiet."""


class DualStackServer(http.server.ThreadingHTTPServer):
    """Listens on IPv6 and IPv4 at once, which is what "::" means on Linux."""

    address_family = socket.AF_INET6


def enter(namespace):
    """Move this process into a network namespace made by `ip netns add`."""
    with open(f"/run/netns/{namespace}") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0x40000000):     # CLONE_NEWNET
            raise OSError(ctypes.get_errno(), f"cannot enter namespace {namespace}")


def offloads_off(device):
    """Turn off what would leave checksums unfinished or frames joined: ethtool -K, as an ioctl."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in (0x15, 0x17, 0x1f, 0x24, 0x2c):     # ETHTOOL_SRXCSUM, STXCSUM, STSO, SGSO, SGRO
            value = ctypes.create_string_buffer(struct.pack("=II", command, 0))
            request = struct.pack("16sP16x", device.encode(), ctypes.addressof(value))
            with contextlib.suppress(OSError):             # a switch that the device lacks is off
                fcntl.ioctl(control, 0x8946, request)      # SIOCETHTOOL


def record(device, path):
    """Write every frame on a device to a pcap file with nanoseconds, until SIGTERM comes."""
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))                # ETH_P_ALL
    tap.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)                                       # SO_RCVBUFFORCE
    tap.setsockopt(socket.SOL_SOCKET, 35, 1)                                              # SO_TIMESTAMPNS
    tap.bind((device, 0))
    tap.settimeout(0.2)
    with open(path, "wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 1 << 18, 1))           # Ethernet
        print("ready", flush=True)
        while True:
            try:
                frame, ancillary, _, _ = tap.recvmsg(1 << 16, 64)
            except TimeoutError:
                if stopped:
                    break
                continue
            stamp = next(data for _, kind, data in ancillary if kind == 35)
            file.write(struct.pack("<IIII", *struct.unpack("=qq", stamp), len(frame), len(frame)) + frame)
    dropped = struct.unpack("=II", tap.getsockopt(263, 6, 8))[1]                # PACKET_STATISTICS
    if dropped:
        raise SystemExit(f"the recorder lost {dropped} frames")


class Hosts:
    """The two namespaces, what runs in them, and the end of it all."""

    def __init__(self, folder):
        self.folder = folder
        self.client, self.server = (f"flowos-demo-{os.getpid()}-{end}" for end in "ab")
        self.programs = []

    def __enter__(self):
        try:
            for name in (self.client, self.server):
                run("ip", "netns", "add", name)
                folder = Path("/etc/netns", name)          # `ip netns exec` lays it over /etc
                folder.mkdir(parents=True)
                (folder / "resolv.conf").write_text(f"nameserver {SERVER4}\n")
            run("ip", "link", "add", "wire", "netns", self.client, "type", "veth",
                "peer", "name", "wire", "netns", self.server)
            for name, v4, v6, mac in ((self.client, CLIENT4, CLIENT6, "02:00:00:00:00:01"),
                                      (self.server, SERVER4, SERVER6, "02:00:00:00:00:02")):
                run("ip", "-n", name, "link", "set", "wire", "address", mac)
                run("ip", "-n", name, "addr", "add", f"{v4}/24", "dev", "wire")
                run("ip", "-n", name, "addr", "add", f"{v6}/64", "dev", "wire", "nodad")
                run("ip", "-n", name, "link", "set", "lo", "up")
                self.here(name, "offloads", "wire")
                run("ip", "-n", name, "link", "set", "wire", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for program in reversed(self.programs):
            program.terminate()
        for program in self.programs:
            try:
                program.wait(5)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()
        for name in (self.client, self.server):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=LIMIT, check=False)
            shutil.rmtree(Path("/etc/netns", name), ignore_errors=True)

    def here(self, namespace, *command):
        """Run one of this script's own inner commands in a namespace."""
        run(sys.executable, __file__, "--in", namespace, *command)

    def start(self, *command, ready=None):
        """Start a program in the server's namespace; wait until it prints `ready`, if given."""
        output = subprocess.PIPE if ready else subprocess.DEVNULL
        program = subprocess.Popen(["ip", "netns", "exec", self.server, *command], stdout=output, text=True)
        self.programs.append(program)
        if ready and ready not in program.stdout.readline():
            raise SystemExit(f"{command[0]} did not start")
        return program

    def ask(self, *command, check=True):
        """Run a program in the client's namespace and give what it printed."""
        return run("ip", "netns", "exec", self.client, *command, check=check)


def run(*command, check=True):
    """Run a command to its end, within the limit, and give its output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    if check and done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def make_site(folder):
    """Make the files that the web server offers, the same in every recording."""
    chance = random.Random(1)
    words = "flow stream window segment packet router bridge switch buffer ring".split()
    www = folder / "www"
    www.mkdir()
    (www / "index.html").write_text(
        f"<html><head><link rel=stylesheet href=style.css></head><body>{'<p>Hello.</p>' * 40}</body></html>\n")
    (www / "style.css").write_text("p { margin: 0 }\n" * 60)
    (www / "book.txt").write_text("\n".join(
        " ".join(chance.choices(words, k=12)) for _ in range(500)))
    (www / "photo.bin").write_bytes(chance.randbytes(60_000))
    (folder / "upload.bin").write_bytes(chance.randbytes(20_000))
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "7", "-subj", f"/CN={NAME}",
        "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem"))


def serve(hosts, folder):
    """Start the servers, and come back when they answer."""
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, name=NAME))
    hosts.start("nginx", "-e", "stderr", "-c", str(folder / "nginx.conf"))
    hosts.start("dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null",
                "--user=root", "--pid-file=", "--edns-packet-max=4096", "--local=/flowos.example/",
                f"--host-record={NAME},{SERVER4},{SERVER6}", f"--mx-host=flowos.example,{NAME},10",
                *(f"--txt-record=big.flowos.example,{str(i) * 125}" for i in range(10, 22)))
    hosts.start(sys.executable, __file__, "--in", hosts.server, "upload", ready="ready")
    for _ in range(100):
        if hosts.ask("dig", "+short", "+tries=1", "+time=1", NAME, check=False).strip() == SERVER4 and \
                hosts.ask("curl", "-s", f"http://{NAME}/index.html", check=False):
            return
        time.sleep(0.1)
    raise SystemExit("the servers did not come up")


class Truth:
    """What the programs say they did."""

    def __init__(self, hosts, folder):
        self.hosts, self.folder = hosts, folder
        self.transfers, self.lookups = [], []

    def curl(self, *arguments, paths, port=None, scheme="http"):
        """Fetch some paths with one curl (one connection when it can), and keep its report."""
        site = f"{scheme}://{NAME}" + (f":{port}" if port else "")
        command, files = ["curl", "-s", "-w", "%{json}\n", *arguments], []
        for path in paths:
            files.append(self.folder / f"got{len(files)}")
            command += ["-o", str(files[-1]), site + path]
        for file in files:
            file.unlink(missing_ok=True)
        for line, file in zip(self.hosts.ask(*command, check=False).splitlines(), files):
            report = json.loads(line)
            body = file.read_bytes() if file.exists() and report["method"] != "HEAD" else b""
            self.transfers.append({
                "scheme": scheme, "path": report["url_effective"].removeprefix(site), "method": report["method"],
                "status": report["response_code"], "ip": 6 if ":" in report["remote_ip"] else 4,
                "client_port": report["local_port"], "body_bytes": len(body),
                "body_sha256": hashlib.sha256(body).hexdigest()})

    def dig(self, *arguments):
        """Look a name up, and keep its status and the number of answers."""
        output = self.hosts.ask("dig", *arguments)
        status = output.split("status: ")[1].split(",")[0]
        self.lookups.append({"query": " ".join(arguments), "status": status,
                             "answers": int(output.split("ANSWER: ")[1].split(",")[0])})


def talk(truth, folder):
    """Let the client's programs do all that the capture shows."""
    upload = str(folder / "upload.bin")
    truth.curl("-4", paths=["/index.html", "/style.css", "/photo.bin"])            # keep-alive
    truth.curl("-6", paths=["/index.html", "/missing.html"])
    truth.curl("-4", "--compressed", paths=["/book.txt"])                          # gzip, chunked
    truth.curl("-6", "--compressed", paths=["/style.css", "/book.txt"])
    truth.curl("-4", "-r", "1000-4999", paths=["/photo.bin"])                      # 206
    truth.curl("-4", "-I", paths=["/index.html"])
    truth.curl("-4", "-L", paths=["/old"])
    truth.curl("-4", "--http1.0", paths=["/style.css"])
    truth.curl("-4", "-d", "name=flow&value=stream", paths=["/form"], port=8080)
    truth.curl("-4", "-H", "Expect: 100-continue", "--data-binary", f"@{upload}", paths=["/upload"], port=8080)
    truth.curl("-6", "-T", upload, paths=["/put"], port=8080)
    truth.curl("-6", "-X", "POST", "-T", upload, "-H", "Transfer-Encoding: chunked", "-H", "Expect:",
               paths=["/chunked"], port=8080)
    truth.curl("-4", paths=["/nobody"], port=81)                                   # refused
    truth.curl("-4", "-k", "--http1.1", paths=["/index.html", "/style.css"], scheme="https")
    truth.curl("-6", "-k", "--tls-max", "1.2", paths=["/index.html"], scheme="https")
    truth.dig(NAME, "A")
    truth.dig(NAME, "AAAA")
    truth.dig("flowos.example", "MX")
    truth.dig("nothing.flowos.example", "A")
    truth.dig("+bufsize=4096", "big.flowos.example", "TXT")                        # comes in fragments
    truth.dig("+tcp", "big.flowos.example", "TXT")
    truth.dig("+ignore", "+noedns", "big.flowos.example", "TXT")                   # cut to 512 bytes
    truth.dig(f"@{SERVER6}", NAME, "AAAA")
    truth.hosts.ask("ping", "-q", "-c", "3", "-i", "0.2", SERVER4)
    truth.hosts.ask("ping", "-q", "-c", "2", "-i", "0.2", "-s", "4000", SERVER6)   # fragments too
    truth.hosts.here(truth.hosts.client, "sockets")


def sockets():
    """Say what no ready-made client says: pipelined requests, UDP bulk, a port that is closed."""
    request = "GET {} HTTP/1.1\r\nHost: " + NAME + "\r\n{}\r\n"
    with socket.create_connection((SERVER4, 80), timeout=LIMIT) as wire:
        wire.sendall("".join(request.format(path, "") for path in ("/index.html", "/style.css")).encode()
                     + request.format("/missing", "Connection: close\r\n").encode())
        while wire.recv(1 << 16):
            pass
    for family, address in ((socket.AF_INET, SERVER4), (socket.AF_INET6, SERVER6)):
        with socket.socket(family, socket.SOCK_DGRAM) as bulk:
            for number in range(4):
                bulk.sendto(bytes([number]) * (3000 + 1000 * number), (address, 8080))
            bulk.sendto(b"anybody?", (address, 9))                                 # answered by ICMP
            time.sleep(0.2)


def upload_server():
    """Serve uploads on port 8080, TCP, and take what comes there by UDP."""
    sink = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sink.bind(("::", 8080))
    server = DualStackServer(("::", 8080), Upload)
    print("ready", flush=True)
    server.serve_forever()


def record_all(folder, out):
    """Make the hosts, let them talk, and put capture and truth into `out`."""
    make_site(folder)
    with Hosts(folder) as hosts:
        serve(hosts, folder)
        capture = folder / "demo.pcap"
        recorder = hosts.start(sys.executable, __file__, "--in", hosts.server, "record", "wire",
                               str(capture), ready="ready")
        truth = Truth(hosts, folder)
        talk(truth, folder)
        time.sleep(0.5)
        recorder.terminate()
        if recorder.wait(LIMIT):
            raise SystemExit("the recorder failed")
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(capture, out / "demo.pcap")
    told = {"transfers": truth.transfers, "lookups": truth.lookups}
    (out / "demo.json").write_text(json.dumps(told, indent=1) + "\n")
    print(f"recorded {out / 'demo.pcap'}: {len(truth.transfers)} transfers, {len(truth.lookups)} lookups")


def main():
    """Record into a folder (default: where this script stands)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--in", dest="inner", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inner:
        namespace, command, *rest = options.inner
        enter(namespace)
        {"record": record, "offloads": offloads_off, "sockets": sockets, "upload": upload_server}[command](*rest)
        return
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    if os.geteuid():
        raise SystemExit("needs root")
    if lacking := [name for name in PROGRAMS if not shutil.which(name)]:
        raise SystemExit(f"needs {', '.join(lacking)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="flowos-demo-") as name:
        Path(name).chmod(0o755)
        record_all(Path(name), options.folder)


if __name__ == "__main__":
    main()
