"""`flowos offload`: captures and generated traffic, from the command line to tables, JSON and the log of changes."""
import ipaddress
import json
import random
import struct
from collections import Counter

import dpkt
import pytest

from flowos.cli import main

BEGIN = 1_700_000_000.0


def frame(source, target, size):
    """Make an Ethernet frame of a UDP datagram."""
    source, target = ipaddress.ip_address(source), ipaddress.ip_address(target)
    body = struct.pack("!HHHH", 4000, 4001, 8 + size, 0) + bytes(size)
    if source.version == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 7, 0, 64, 17, 0)
        return bytes(12) + b"\x08\x00" + head + source.packed + target.packed + body
    return bytes(12) + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(body), 17, 64) + source.packed + target.packed + body


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    """Write 80 s of packets to hosts of 40 networks; give the path and [(bin of 10 s, target)]."""
    path, rng, sent = tmp_path_factory.mktemp("offload") / "traffic.pcap", random.Random(2), []
    targets = [f"10.{number // 4}.{number % 4}.9" for number in range(30)] + [f"2001:db8:{number:x}::9" for number in range(10)]
    with path.open("wb") as file:
        writer, now = dpkt.pcap.Writer(file), 0.0
        while now < 80:
            target = targets[min(int(rng.paretovariate(0.7)) - 1, 39)]
            writer.writepkt(frame("192.0.2.1" if "." in target else "2001:db8:ffff::1", target, rng.randrange(99)), BEGIN + now)
            sent.append((int(now / 10), ipaddress.ip_address(target)))
            now += 0.0625 if not 30 < now < 45 else 25                 # a bin without a packet
    return path, sent


def run(capsys, *words):
    """Run `flowos offload`; give its exit code, output and errors."""
    code = main(["offload", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def by_bin(sent, lengths=(24, 48)):
    """Count packets by network in each bin."""
    bins = [Counter() for _ in range(8)]
    for number, target in sent:
        bins[number][ipaddress.ip_network((target, lengths[target.version == 6]), strict=False)] += 1
    return bins


def test_a_capture_is_served_bin_by_bin(capture, capsys):
    path, sent = capture
    code, out, err = run(capsys, path, "-n", "3,8", "--json", "--series")
    found, bins = json.loads(out), by_bin(sent)
    assert (code, err) == (0, "") and found["totals"] == [sum(bin.values()) for bin in bins] and 0 in found["totals"]
    assert found["prefixes"] == len(set().union(*bins)) and found["packets"] == len(sent) and found["uncovered"] == 0
    series = {(row["strategy"], row["n"]): row for row in found["series"]}
    for n in (3, 8):
        best = [sum(bin.values()) - sum(count for _, count in bin.most_common(n)) for bin in bins]
        assert series["bin-optimal", n]["left"] == best
        assert all(ours >= least for ours, least in zip(series["tfo", n]["left"], best))
    assert {(row["strategy"], row["n"]) for row in found["rows"]} == set(series)
    whole = next(row for row in found["rows"] if (row["strategy"], row["n"]) == ("bin-optimal", 8))
    assert whole["gain"] == pytest.approx(1 - sum(series["bin-optimal", 8]["left"]) / len(sent))


def test_the_changes_replayed_leave_what_is_said_to_be_left(capture, capsys, tmp_path):
    path, sent = capture
    code, out, _ = run(capsys, path, "-n", "2,6", "--changes", tmp_path / "changes", "--json", "--series", "--aggregate", "20,40")
    lines = [json.loads(line) for line in (tmp_path / "changes").read_text().splitlines()]
    found, entries, left = json.loads(out), set(), []
    for number, bin in enumerate(by_bin(sent, (20, 40))):
        left.append(sum(bin.values()) - sum(bin[ipaddress.ip_network(prefix)] for prefix in entries))
        for line in (line for line in lines if line["time"] == 10 * (number + 1)):
            assert (line["change"] == "add") == (line["prefix"] not in entries)
            (entries.add if line["change"] == "add" else entries.remove)(line["prefix"])
            assert len(entries) <= 6
    assert code == 0 and len(entries) == found["installed"] == 6
    assert left == next(row["left"] for row in found["series"] if (row["strategy"], row["n"]) == ("tfo", 6))


def test_a_table_of_routes_names_the_prefixes(capture, capsys, tmp_path):
    path, sent = capture
    routes = tmp_path / "routes"
    routes.write_text("# a table\n0.0.0.0/0 via somewhere\n10.0.0.0/16\n\n10.0.1.0/24  # longer\n10.0.2.0/24\n10.3.0.0/16\n2001:db8::/33\n11.0.0.0/8\n")
    found = json.loads(run(capsys, path, "--routes", routes, "-n", "5", "--most-guards", "2", "--json")[1])
    nets = [ipaddress.ip_network(text) for text in ("10.0.0.0/16", "10.3.0.0/16", "2001:db8::/33")]
    covered = sum(any(target in net for net in nets if net.version == target.version) for _, target in sent)
    assert found["uncovered"] == len(sent) - covered and found["prefixes"] == 5 and found["guards"] == 0
    found = json.loads(run(capsys, path, "--routes", routes, "-n", "1", "--strategy", "tfo", "--json")[1])
    assert found["uncovered"] == 0 and found["guards"] in (2, 3)       # 10.0.0.0/16 has 2 next longer ones, the default route 3
    out = run(capsys, path, "--routes", routes, "-n", "1")[1]
    assert "guards" in out and "tfo" in out


def test_few_prefixes_are_known_and_the_rest_stays(capture, capsys):
    path, sent = capture
    found = json.loads(run(capsys, path, "--prefixes", "4", "-n", "4", "--json")[1])
    first = list(dict.fromkeys(ipaddress.ip_network((target, 24 if target.version == 4 else 48), strict=False) for _, target in sent))[:4]
    known = sum(any(target in net for net in first if net.version == target.version) for _, target in sent)
    assert found["prefixes"] == 4 and found["packets"] - found["uncovered"] == known


def test_generated_traffic(capsys):
    words = ("--generate", "ixp", "--set", "prefixes=2000", "--set", "packets=500", "--duration", "60", "--warm", "20", "-n", "20,100")
    code, out, err = run(capsys, *words, "--factor", "auto", "--price", "3", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "") and found["bins"] == 4 and found["source"] == "generated ixp" and found["factor"] >= 1
    gains = {(row["strategy"], row["n"]): row["gain"] for row in found["rows"]}
    assert gains["tfo", 20] < gains["tfo", 100] and all(gains["tfo", n] <= gains["bin-optimal", n] for n in (20, 100))
    assert run(capsys, *words, "--factor", "auto", "--price", "3", "--json")[1] == out
    assert json.loads(run(capsys, *words, "--seed", "2", "--json")[1])["packets"] != found["packets"]
    shown = run(capsys, *words, "--strategy", "tfo,lru", "--most-changes", "1")[1]
    assert "generated ixp" in shown and "bin-optimal" not in shown
    assert max(row["changes_max"] for row in json.loads(run(
        capsys, *words, "--strategy", "tfo", "--most-changes", "1", "--json")[1])["rows"]) <= 1


@pytest.mark.parametrize("words, code, said", [
    ((), 2, "no input"), (("nothing.pcap",), 1, "nothing.pcap: No such file"), (("ROUTES", "--routes", "none"), 1, "none: No such file"),
    (("demo", "--routes", "ROUTES"), 2, "ROUTES, line 2: 10.0.0.1/8: bits are set"), (("demo", "--routes", "EMPTY"), 2, "EMPTY: no prefix in it"),
    (("demo", "-n", "x"), 2, "-n x: expected numbers"), (("demo", "-n", "0"), 2, "n: got 0"), (("demo", "-n", "5,5"), 2, "there twice"),
    (("demo", "--strategy", "fifo"), 2, "fifo: no such strategy"), (("demo", "--strategy", "tfo,tfo"), 2, "there twice"),
    (("demo", "--scales", "60,10"), 2, "rising"), (("demo", "--scales", "a"), 2, "--scales a"), (("demo", "--factor", "0.5"), 2, "factor: got 0.5"),
    (("demo", "--factor", "much"), 2, "--factor much: expected a number or auto"), (("demo", "--price", "5"), 2, "--price is for --factor auto"),
    (("demo", "--factor", "auto", "--price", "-1"), 2, "price: got -1"), (("demo", "--aggregate", "24"), 2, "expected two lengths"),
    (("demo", "--aggregate", "33,48"), 2, "a length of 33"), (("demo", "--aggregate", "24,48", "--routes", "ROUTES"), 2, "not allowed with"),
    (("demo", "--prefixes", "0"), 2, "--prefixes: got 0"), (("demo", "--prefixes", "99999999"), 2, "--prefixes: got 99999999"),
    (("demo", "--changes", "OUT", "--strategy", "lru"), 2, "--changes are TFO's"), (("demo", "--changes", "none/OUT"), 1, "none/OUT"),
    (("demo", "--set", "zipf=1"), 2, "--set is of generated"), (("demo", "--seed", "0"), 2, "--seed is of generated"),
    (("demo", "--warm", "600"), 2, "no bin of traffic"), (("EMPTY",), 1, "EMPTY"),
    (("demo", "--generate", "isp"), 2, "expected no input"), (("--generate", "moon"), 2, "--generate"),
    (("--generate", "isp", "--set", "zipf"), 2, "--set zipf: '' is no number"), (("--generate", "isp", "--set", "sun=1"), 2, "FIELD one of prefixes"),
    (("--generate", "isp", "--set", "swing=2"), 2, "swing: got 2.0"), (("--generate", "isp", "--duration", "60"), 2, "600 s of warming up"),
    (("--generate", "isp", "--scales", "0.5,1"), 2, "whole seconds"),
])
def test_errors_are_one_line_that_names_what(words, code, said, capsys, tmp_path, monkeypatch, demo_capture):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ROUTES").write_text("10.0.0.0/8\n10.0.0.1/8\n")
    (tmp_path / "EMPTY").write_text("# none\n")
    words = [str(demo_capture) if word == "demo" else word for word in words]
    found, out, err = run(capsys, *words)
    assert (found, out) == (code, "") and err.startswith("flowos: ") and err.count("\n") == 1 and said in err, err
