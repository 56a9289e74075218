"""Claim: searching segments costs no more than bytes.find or re on the same bytes joined, and is linear at worst.

    python benchmarks/search.py [--quick]

On two rows built against it (a...aba...a, and nested sets) the searches of FlowOS cost a third more.

One text of 32 MB per row, in segments of 1,448 bytes as packets bring it.  FlowOS searches the
segments; the rivals search the same bytes already joined (what they are given free), and `+join`
says what joining costs first.  Every answer is compared.  The best of five rounds, interleaved,
in nanoseconds per byte; the result is written to benchmarks/results/ (--quick: nowhere).
"""
import argparse
import datetime
import json
import re
import time
from pathlib import Path

import measure
import numpy as np
from text import words as text_of

from flowos.core.patterns import Patterns, Pieces, find

RESULTS = Path(__file__).resolve().parent / "results"
SEGMENT = 1448


def count(text, pattern):
    """Count a pattern by bytes.find, each match one step of Python."""
    at = found = 0
    while (at := text.find(pattern, at)) >= 0:
        at += len(pattern)
        found += 1
    return found


def count_pieces(pieces, pattern):
    """Count a pattern by find, each match one step of Python."""
    at = found = 0
    while (at := find(pieces, pattern, at)) >= 0:
        at += len(pattern)
        found += 1
    return found


def rows(size):
    """Give (name, text, patterns)."""
    html = text_of(np.random.default_rng(1), size)
    one = {"absent, 8 bytes": b"<iframe>", "absent, 40 bytes": b"a paragraph of made-up words, not therein", "absent, 1 byte": b"~",
           "absent, of common letters": b"tasteless"}
    for name, pattern in one.items():
        yield name, html, [pattern]
    yield "a match every 2 kB", b"<iframe>".join(html[i:i + 2040] for i in range(0, size, 2048)), [b"<iframe>"]
    yield "adversary: a...aba...a in a...a", b"a" * size, [b"a" * 2000 + b"b" + b"a" * 2000]
    yield "adversary: near matches", (b"a" * 499 + b"c") * (size // 500), [b"a" * 499 + b"ca" + b"a" * 499 + b"a"]
    yield "10 patterns", html, [b"User-Agent%d" % i for i in range(10)]
    yield "100 patterns", html, [b"%dneedle%d" % (i * 7919 % 1000, i) for i in range(100)]
    yield "2,000 patterns", html, [b"%c%dneedle%d" % (97 + i % 26, i * 7919 % 1000, i) for i in range(2000)]
    yield "adversary: a set that nests", b"a" * (size // 32), [b"a" * 200 + b"b", b"a" * 100]


def best(rounds, calls):
    """Give the least seconds of each call, and its answer, over interleaved rounds."""
    least, answers = dict.fromkeys(calls, 1e9), {}
    for _ in range(rounds):
        for name, call in calls.items():
            begun = time.perf_counter()
            answers[name] = call()
            least[name] = min(least[name], time.perf_counter() - begun)
    return least, answers


def run(size, rounds):
    """Measure each row; give dictionaries, after comparing the answers."""
    for name, text, patterns in rows(size):
        cut = [text[i:i + SEGMENT] for i in range(0, len(text), SEGMENT)]
        pieces = Pieces(cut)
        if len(patterns) == 1:
            compiled = re.compile(re.escape(patterns[0]))
            calls = {"flowos": lambda: count_pieces(pieces, patterns[0]), "find": lambda: count(text, patterns[0])}
        else:
            compiled = re.compile(b"|".join(map(re.escape, sorted(patterns, key=len, reverse=True))))
            ours = Patterns(patterns)
            calls = {"flowos": lambda: sum(1 for _ in ours.find_all(pieces))}
        if len(patterns) < 1000:               # re tries the alternatives one by one
            calls["re"] = lambda: sum(1 for _ in compiled.finditer(text))
        calls["join"] = lambda: b"".join(cut) and None
        least, answers = best(rounds, calls)
        assert len({answer for answer in answers.values() if answer is not None}) == 1, (name, answers)
        yield {"row": name, "matches": answers["flowos"], "bytes": len(text),
               "ns_per_byte": {who: round(seconds * 1e9 / len(text), 4) for who, seconds in least.items()}}


def main():
    parser = argparse.ArgumentParser(description="Compare searching segments with bytes.find and re.")
    parser.add_argument("--quick", action="store_true", help="a fiftieth of the text, one round, no result")
    quick = parser.parse_args().quick
    print(__doc__.splitlines()[0])
    print(f"{'ns per byte':34}{'matches':>9}{'FlowOS':>9}{'find':>9}{'re':>9}{'+join':>9}")
    table = []
    for row in run(640_000 if quick else 32_000_000, 1 if quick else 5):
        table.append(row)
        cost = row["ns_per_byte"]
        print(f"{row['row']:34}{row['matches']:9}" + "".join(
            f"{cost[who]:9.3f}" if who in cost else f"{'-':>9}" for who in ("flowos", "find", "re", "join")))
    if not quick:
        host = measure.host()
        path = RESULTS / f"{datetime.date.today().isoformat()}-{measure.host_kind(host)}-search.json"
        path.write_text(json.dumps({"host": host, "rows": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
