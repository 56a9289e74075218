"""The demo of `make demo`: a module strips a pattern from the pages in a real capture.

    examples/demo.pcap ─► flow "web" ─► http_strip ─► build/stripped.pcap

It runs `flowos run` as anybody would, then reads both captures back and shows a page before and
after, and what tshark, if it is there, thinks of the packets.
"""
import collections
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import flowos

CAPTURE, OUT = Path("examples/demo.pcap"), Path("build/stripped.pcap")
PATTERN = "<p>Hello.</p>"
COMMAND = ["run", str(CAPTURE), "-w", str(OUT), "--flow", "web=any", "--attach", f"http_strip:pattern={PATTERN}@web"]
COMPLAINTS = "tcp.analysis.flags || tcp.checksum.status == Bad || ip.checksum.status == Bad"


class Pages(flowos.Module):
    """Keep the responses whose body is HTML: head and body of each."""

    protocol = "http"

    def __init__(self):
        self.pages, self.open = [], {}

    def process(self, window):
        for unit in window.units:
            key = window.connection.id, window.direction
            if unit.kind == "response":
                self.open[key] = [unit.info, b""]
            elif unit.kind == "body" and key in self.open:
                self.open[key][1] += bytes(unit.data)
            elif unit.kind == "end" and key in self.open:
                head, body = self.open.pop(key)
                if (head.get("Content-Type") or b"").startswith(b"text/html"):
                    self.pages.append((head, body))


def pages(capture):
    """Give the HTML pages of a capture."""
    module = Pages()
    with flowos.Engine(flowos.Config.offline()) as engine:
        engine.add_port(str(capture))
        engine.attach(module)
        engine.run()
    return module.pages


def show(title, page):
    """Print a page's length fields and the start of its text."""
    head, body = page
    length = head.content_length if head.content_length is not None else head.transfer_encoding
    print(f"\n{title}: status {head.status}, Content-Length {length}, body of {len(body)} bytes")
    print("  " + body.decode("latin-1")[:160].replace("\n", " ") + ("…" if len(body) > 160 else ""))


def complaints(capture):
    """Count tshark's complaints about the packets of a capture, by kind."""
    fields = ["-T", "fields", "-e", "_ws.expert.message"]
    done = subprocess.run(["tshark", "-r", str(capture), "-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE",
                           "-Y", COMPLAINTS, *fields], capture_output=True, text=True, timeout=60, check=False)
    return collections.Counter(done.stdout.splitlines())


def command():
    """Spell the command `flowos` as the shell that called `make` finds it."""
    beside = Path(sys.executable).with_name("flowos")
    return "flowos" if shutil.which("flowos") or not beside.exists() else os.path.relpath(beside)


def main():
    """Run the demo; give the exit code."""
    OUT.parent.mkdir(exist_ok=True)
    print(f"$ {command()} {shlex.join(COMMAND)}\n", flush=True)
    code = subprocess.run([sys.executable, "-m", "flowos.cli", *COMMAND], check=False).returncode
    if code:
        return code
    before, after = pages(CAPTURE), pages(OUT)
    changed = [(b, a) for b, a in zip(before, after) if b[1] != a[1]]
    if not changed or len(before) != len(after):
        print(f"no page was stripped: {len(before)} pages before, {len(after)} after")
        return 1
    show("before", changed[0][0])
    show("after ", changed[0][1])
    right = all(a[1] == b[1].replace(PATTERN.encode(), b"") for b, a in zip(before, after))
    print(f"\n{len(changed)} of {len(before)} pages changed; each is the original without the pattern: {'yes' if right else 'NO'}")
    if shutil.which("tshark"):
        new = complaints(OUT) - complaints(CAPTURE)
        print(f"tshark's new complaints about {OUT}: {dict(new) if new else 'none'}")
        right = right and not new
    print(f"Look for yourself: {command()} inspect {OUT} --protocol http")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
