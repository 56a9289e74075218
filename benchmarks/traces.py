"""The traces that the benchmarks run on, made by formula: the same bytes wherever NumPy is the same.

    python benchmarks/traces.py [--output build/traces] [--scale 1.0] [NAME...]

    udp64     2,000,000 UDP frames of 60 bytes over 10,000 flows, Zipf 1.1
    udp64-1m  2,000,000 UDP frames of 60 bytes, uniform over 1,000,000 flows
    imix      1,000,000 frames of 60, 576 and 1500 bytes at 7:4:1 over 50,000 flows, 60 % of them TCP
    http      300 MB of HTTP/1.1 over 2,000 TCP connections: webtrace.py
    frag      50,000 UDP datagrams of 4,000 bytes in 3 IP fragments each, 5 % of them out of order

Each is a pcap file with right checksums; `truth.json` beside them says what is in it.  A file is
made again when its generator, its scale or its size changed.  A scale below 1 divides packets,
flows and connections alike.
"""
import argparse
import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEFAULT = HERE.parent / "build" / "traces"
NAMES = ("udp64", "udp64-1m", "imix", "http", "frag")


def first(path, count, truth):
    """Give the file of the first `count` packets of a trace, made beside it when it is not there."""
    if count >= truth["packets"]:
        return path
    part = path.with_name(f"{path.stem}.first-{count}.pcap")
    if not part.exists() or part.stat().st_mtime < path.stat().st_mtime:
        with open(path, "rb") as source, open(part, "wb") as target:
            target.write(source.read(24))
            for _ in range(count):
                record = source.read(16)
                target.write(record + source.read(int.from_bytes(record[8:12], "little")))
    return part


def generator_digest():
    """Digest the programs that make the traces, so that a change of theirs makes the files anew."""
    text = b"".join((HERE / name).read_bytes() for name in ("frames.py", "generators.py", "text.py", "webtrace.py"))
    return hashlib.sha256(text).hexdigest()[:16]


def generate(name, scale, path):
    """Write one trace in a process of its own, whose memory goes with it; give the truth."""
    made = subprocess.run([sys.executable, HERE / "generators.py", name, repr(scale), path],
                          stdout=subprocess.PIPE, check=True)
    return json.loads(made.stdout)


def ensure(directory=DEFAULT, scale=1.0, names=NAMES, say=print):
    """Make the traces that are not there; give {name: (path, truth)}."""
    directory = Path(directory) / f"scale-{scale:g}"
    directory.mkdir(parents=True, exist_ok=True)
    record = directory / "truth.json"
    known = json.loads(record.read_text()) if record.exists() else {}
    digest, result = generator_digest(), {}
    for name in names:
        path = directory / f"{name}.pcap"
        truth = known.get(name)
        if not truth or truth["generator"] != digest or not path.exists() or path.stat().st_size != truth["size"]:
            begun = time.monotonic()
            truth = generate(name, scale, path)
            truth.update(generator=digest, size=path.stat().st_size)
            known[name] = truth
            record.write_text(json.dumps(known, indent=1) + "\n")
            say(f"{path}: {truth['packets']:,} packets, {truth['size'] / 1e6:.0f} MB, "
                f"{time.monotonic() - begun:.1f} s")
        result[name] = path, truth
    return result


def main():
    parser = argparse.ArgumentParser(description="Make the traces that the benchmarks run on.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--output", type=Path, default=DEFAULT, help="directory (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="size of the traces (default: 1)")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(NAMES)
    if unknown:
        parser.error(f"no trace {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    for path, truth in ensure(arguments.output, arguments.scale, arguments.names or NAMES).values():
        print(path, json.dumps(truth))


if __name__ == "__main__":
    main()
