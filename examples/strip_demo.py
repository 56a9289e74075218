"""Strip a pattern from the HTTP bodies of a capture, show before and after, and let tshark judge the output.

    python examples/strip_demo.py [CAPTURE [PATTERN [OUTPUT]]]

It does with the library what `flowos run CAPTURE -w OUTPUT --attach http_strip:pattern=PATTERN` does.  Exit
code 1 where a stripped body is not the original without the pattern, or tshark finds a new anomaly.
"""
import collections
import shutil
import subprocess
import sys
from pathlib import Path

import flowos
from flowos.registry import find_module

CAPTURE, PATTERN = Path(__file__).with_name("demo.pcap"), b"Hello."
SHOWN, AROUND = 3, 28              # bodies shown; characters on each side of a match
COMPLAINTS = ("tcp.analysis.retransmission", "tcp.analysis.out_of_order", "tcp.analysis.lost_segment",
              "tcp.analysis.ack_lost_segment", "tcp.analysis.duplicate_ack", "ip.checksum.status == 0",
              "tcp.checksum.status == 0", "_ws.malformed")


def bodies(path):
    """Give the bodies of a capture's responses as transferred: {(connection, message): (Content-Length or None, bytes)}."""
    found, lengths = collections.defaultdict(bytes), {}

    class Bodies(flowos.Module):
        protocol = "http"

        def process(self, window):
            for unit in window.units:
                key = (window.connection.id, unit.message)
                if unit.kind == "response":
                    lengths[key] = unit.info.content_length
                elif unit.kind == "body" and window.direction == 1:
                    found[key] += unit.data

    with flowos.Engine(flowos.Config.offline()) as engine:
        engine.add_port(path)
        engine.attach(Bodies())
        engine.run()
    return {key: (lengths.get(key), body) for key, body in found.items()}


def strip(source, target, pattern):
    """Strip a capture; give the engine's counters."""
    with flowos.Engine(flowos.Config.offline()) as engine:
        engine.add_port(source)
        engine.add_output(target)
        engine.create_flow("web", "tcp")
        engine.attach(find_module("http_strip")(pattern), "web")
        engine.run()
        engine.finish()
        return engine.statistics()


def excerpt(body, at, length, colour):
    """Show a place of a body on one line, what is at it in colour."""
    def text(data):
        return "".join(chr(c) if 32 <= c < 127 else "·" for c in data)

    mark, plain = ("\033[1;31m", "\033[0m") if colour else ("[", "]")
    middle = f"{mark}{text(body[at:at + length])}{plain}" if length else f"{mark}|{plain}" if colour else "|"
    return text(body[max(0, at - AROUND):at]) + middle + text(body[at + length:at + length + AROUND])


def complaints(path):
    """Count tshark's complaints about a capture, {kind: packets}; None without tshark."""
    tshark = shutil.which("tshark")
    if tshark is None:
        return None
    found = collections.Counter()
    for kind in COMPLAINTS:
        done = subprocess.run([tshark, "-r", path, "-Y", kind, "-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE"],
                              capture_output=True, text=True, timeout=300, check=True)
        found[kind] += len(done.stdout.splitlines())
    return found


def main(source=CAPTURE, pattern=PATTERN, target="stripped.pcap"):
    """Run the demonstration; give the exit code."""
    pattern = pattern if isinstance(pattern, bytes) else pattern.encode()
    counters = strip(source, target, pattern)
    before, after = bodies(source), bodies(target)
    print(f"http_strip:pattern={pattern.decode('latin-1')}   {source} -> {target}\n")
    touched = [key for key, (_, body) in before.items() if pattern in body]
    for key in touched[:SHOWN]:
        (length, body), (new_length, new_body) = before[key], after.get(key, (None, b""))
        at = body.find(pattern)
        print(f"  connection {key[0]}, response {key[1]}: {body.count(pattern)} times")
        print(f"    before  {excerpt(body, at, len(pattern), sys.stdout.isatty())}  Content-Length {length}")
        print(f"    after   {excerpt(new_body, at, 0, sys.stdout.isatty())}  Content-Length {new_length}\n")
    right = all(after.get(key, (None, b""))[1] == body.replace(pattern, b"") for key, (_, body) in before.items())
    print(f"  {len(touched)} of {len(before)} bodies held it; " + ("each is now the original without it" if right else
                                                                   "SOME ARE NOT the original without it"))
    print(f"  {counters['merged_packets']} packets left: {counters['merged_unchanged']} as they came, "
          f"{counters['merged_edited']} edited, {counters['merged_rewritten']} with new numbers")
    old, new = complaints(source), complaints(target)
    worse = {} if old is None else new - old
    print("  tshark is not installed: nobody judged the output" if old is None else
          f"  tshark finds no new anomaly ({sum(new.values())} now, {sum(old.values())} before)" if not worse else
          f"  tshark finds NEW anomalies: {dict(worse)}")
    return 0 if right and not worse else 1


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
