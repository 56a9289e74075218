"""`flowos balance`: on captures and on loads, from the command line to files that ovs-ofctl takes."""
import ipaddress
import json
import random
import struct

import dpkt
import ovs
import pytest

from flowos.cli import main


def frame(source, target, sport, dport, size=100, flags=0x10, seq=1):
    """Make an Ethernet frame of a TCP segment, or over IPv6 of a UDP datagram."""
    source, target = ipaddress.ip_address(source), ipaddress.ip_address(target)
    if source.version == 4:
        body = struct.pack("!HHIIHHHH", sport, dport, seq, 1, 0x5000 | flags, 8192, 0, 0) + bytes(size)
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 7, 0, 64, 6, 0)
        return bytes(12) + b"\x08\x00" + head + source.packed + target.packed + body
    body = struct.pack("!HHHH", sport, dport, 8 + size, 0) + bytes(size)
    return bytes(12) + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(body), 17, 64) + source.packed + target.packed + body


@pytest.fixture(scope="module")
def capture(tmp_path_factory):
    """Write a capture of 60 hosts that talk to one server; give its path and {host: bytes}."""
    path, rng, truth = tmp_path_factory.mktemp("balance") / "hosts.pcap", random.Random(1), {}
    with path.open("wb") as file:
        writer = dpkt.pcap.Writer(file)
        clock = 1_700_000_000.0
        for number in range(60):
            six = number % 4 == 0
            host = str(ipaddress.ip_address(rng.getrandbits(128))) if six else str(ipaddress.IPv4Address(rng.getrandbits(32)))
            server = "2001:db8::80" if six else "192.0.2.80"
            for index in range(rng.randint(3, 12)):
                pair = (host, server, 1024 + number, 80) if index % 3 == 0 else (server, host, 80, 1024 + number)
                if index == 0:
                    pair = (host, server, 1024 + number, 80)
                data = frame(*pair, rng.randint(0, 1200), seq=1 + 2000 * index)
                truth[host] = truth.get(host, 0) + len(data)
                writer.writepkt(data, ts=clock)
                clock += 0.001
    return path, truth


def run(capsys, *words):
    """Run `flowos balance`; give its exit code, output and errors."""
    code = main(["balance", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_capture_is_balanced_by_what_its_hosts_carried(capture, capsys):
    path, truth = capture
    code, out, err = run(capsys, path, "--machines", 5, "--counters", 0, "--json")
    result = json.loads(out)
    assert code == 0 and not err and result["total"] == sum(truth.values())
    assert result["imbalance"] <= 1.1 * (1 + 1e-9) and result["prefixes"] == len(result["plan"]) and not result["assumed"]
    loads = dict.fromkeys((machine["name"] for machine in result["machines"]), 0)
    for host, octets in truth.items():
        address = ipaddress.ip_address(host)
        holding = [(ipaddress.ip_network(entry["prefix"]), entry["machine"]) for entry in result["plan"]]
        loads[max((network.prefixlen, name) for network, name in holding
                  if network.version == address.version and address in network)[1]] += octets
    assert loads == {machine["name"]: pytest.approx(machine["load"]) for machine in result["machines"]}


def test_packets_can_be_what_is_weighed_and_few_be_sampled(capture, capsys):
    path, _ = capture
    whole = json.loads(run(capsys, path, "--machines", 3, "--weigh", "packets", "--json")[1])["total"]
    sampled = json.loads(run(capsys, path, "--machines", 3, "--weigh", "packets", "--sample", 4, "--json")[1])["total"]
    assert sampled % 4 == 0 and 0.5 * whole < sampled < 1.5 * whole and sampled != whole


@pytest.mark.live
def test_the_files_are_what_ovs_ofctl_takes(capture, capsys, tmp_path):
    path, _ = capture
    (ofctl,) = ovs.need("ovs-ofctl")
    files = [tmp_path / name for name in ("plan.json", "rules", "groups")]
    code, out, _ = run(capsys, path, "--machines", 5, "--on", "src+port", "--share", "-o", files[0], "--rules", files[1], "--groups", files[2])
    assert code == 0 and "5 machines" in out
    lines = files[1].read_text().splitlines()
    printed = ovs.run(ofctl, "-O", "OpenFlow13", "parse-flows", str(files[1])).splitlines()
    assert sum("ADD" in line for line in printed) == len(lines) > 14
    assert json.loads(files[0].read_text())["on"] == "src+port"


def test_a_plan_is_mended_and_connections_are_told(capture, capsys, tmp_path):
    path, truth = capture
    plan, pins = tmp_path / "plan.json", tmp_path / "pins"
    assert run(capsys, path, "--machines", 4, "--counters", 0, "-o", plan)[0] == 0
    again = json.loads(run(capsys, path, "--machines", 4, "--counters", 0, "--plan", plan, "--json")[1])
    assert again["moves"] == again["stay"] == again["migrate"] == [] and again["moved"] == 0
    fewer = json.loads(run(capsys, path, "--machines", 3, "--counters", 0, "--plan", plan, "--pins", pins, "--json")[1])
    assert {move["before"] for move in fewer["moves"]} >= {"m4"} and fewer["imbalance"] <= 1.1 * (1 + 1e-9)
    assert {entry["before"] for entry in fewer["migrate"]} == {"m4"}
    assert all(entry["before"] != "m4" for entry in fewer["stay"])
    moved = sum(truth[entry["a"][0]] for entry in fewer["migrate"] + fewer["stay"])
    assert moved == pytest.approx(fewer["moved"])             # every host has one connection, open to the end
    assert len(pins.read_text().splitlines()) == 2 * len(fewer["stay"])


def test_loads_come_from_a_file_and_go_to_one(capture, capsys, tmp_path):
    path, truth = capture
    loads = tmp_path / "loads"
    first = json.loads(run(capsys, path, "--machines", 5, "--counters", 0, "--write-loads", loads, "--json")[1])
    second = json.loads(run(capsys, "--loads", loads, "--machines", 5, "--json")[1])
    assert first == second
    assert {line.split("/")[0]: float(line.split()[1]) for line in loads.read_text().splitlines()} == \
        {str(ipaddress.ip_address(host)): octets for host, octets in truth.items()}


def test_tables_say_what_matters(capture, capsys, tmp_path):
    machines, loads = tmp_path / "machines.json", tmp_path / "loads"
    machines.write_text(json.dumps({"machines": [{"name": "big", "capacity": 3, "port": 10}, {"name": "small", "port": 11}]}))
    loads.write_text("10.1.2.3/32 90\n11.0.0.0/8 10\n")
    code, out, _ = run(capsys, "--loads", loads, "--machines", machines, "--compare")
    assert code == 0
    assert "2 machines" in out and "at least 1.200" in out and "unsplittable" in out and "Wang et al." in out
    code, out, _ = run(capsys, "--loads", loads, "--machines", machines, "--share", "--limit", 1)
    assert "big 74% + small 26%" in out or "%" in out and "more: --limit 0" in out
    code, out, _ = run(capsys, capture[0], "--machines", 4, "--compare")
    assert "5-tuple hash" in out and "hash of src" in out


@pytest.mark.parametrize("words, code, said", [
    ((), 2, "--machines"), (("x.pcap", "--machines", "0"), 2, "--machines 0: expected 1 to 65000"),
    (("--machines", "2"), 2, "no input"), (("nothing.pcap", "--machines", "2"), 1, "nothing.pcap: No such file"),
    (("--loads", "nothing", "--machines", "2"), 1, "nothing: No such file"), (("--loads", "LOADS", "--machines", "none.json"), 1, "none.json"),
    (("x.pcap", "--loads", "LOADS", "--machines", "2"), 2, "not from both"),
    (("--loads", "LOADS", "--machines", "2", "--wiring", "1,2"), 2, "--wiring 1,2: expected four"),
    (("--loads", "LOADS", "--machines", "2", "--wiring", "1,1,5,6", "--rules", "OUT"), 2, "differ"),
    (("--loads", "LOADS", "--machines", "2", "--on", "vlan"), 2, "--on"),
    (("--loads", "LOADS", "--machines", "2", "--imbalance", "0.5"), 2, "maximum imbalance"),
    (("--loads", "LOADS", "--machines", "2", "--finest-ipv4", "33"), 2, "ipv4 has 0 to 32 bits"),
    (("--loads", "LOADS", "--machines", "2", "--finest-port", "8"), 2, "where ports are balanced on"),
    (("--loads", "LOADS", "--machines", "LOADS"), 2, "not JSON"),
    (("--loads", "LOADS", "--machines", "2", "--plan", "LOADS"), 2, "LOADS, line 1: not JSON"),
    (("--loads", "LOADS", "--machines", "2", "--share", "--rules", "OUT"), 2, "expected --groups"),
    (("demo", "--machines", "2", "--counters", "1"), 2, "2 to"), (("demo", "--machines", "2", "--sample", "0.5"), 2, "one packet in N"),
])
def test_errors_are_one_line_that_names_what(words, code, said, capsys, tmp_path, monkeypatch, demo_capture):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "LOADS").write_text("10.1.2.3/32 90\n11.0.0.0/8 10\n")
    words = [str(demo_capture) if word == "demo" else word for word in words]
    found, out, err = run(capsys, *words)
    assert (found, out) == (code, "") and err.startswith("flowos: ") and err.count("\n") == 1 and said in err, err
