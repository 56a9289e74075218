"""The OpenFlow rules of a plan: parsed by ovs-ofctl, and packets put through a switch in dummy mode.

Frames go in at the outside ports; what comes out, where and with which tag is read from what the
ports of the switch sent.  A machine is a mirror: what it got comes back in at its port with the other
tag, and must leave by the outside port across.
"""
import ipaddress
import random
import struct
import time

import dpkt
import ovs
import pytest

from flowos import UsageError
from flowos.core.classifier import Classifier
from flowos.core.extract import extract
from flowos.services.balancing import Loads, Machine, Plan, Space, balance
from flowos.services.balancing_loads import distribution, spread
from flowos.services.balancing_rules import Wiring, groups, matches, pins, protocol, rules

PORTS = 8                          # 1 and 2 outside, machines on 3 to 8
MACHINES = [Machine(f"m{port}", 1.0, port) for port in range(3, PORTS + 1)]


def frame(source, target, sport=1000, dport=80, proto="tcp", fragment=0, tag=None):
    """Make an Ethernet frame."""
    source, target = ipaddress.ip_address(source), ipaddress.ip_address(target)
    sport, dport = sport or 0, dport or 0
    number = {"tcp": 6, "udp": 17, "icmp": 1 if source.version == 4 else 58}[proto]
    body = {"tcp": struct.pack("!HHIIHHHH", sport, dport, 1, 0, 0x5010, 8192, 0, 0), "udp": struct.pack("!HHHH", sport, dport, 8, 0),
            "icmp": bytes([8 if source.version == 4 else 128, 0]) + bytes(6)}[proto]
    if source.version == 4:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 7, fragment, 64, number, 0)
    else:
        head = struct.pack("!IHBB", 6 << 28, len(body), number, 64)
    vlan = b"" if tag is None else struct.pack("!HH", 0x8100, tag)
    kind = b"\x08\x00" if source.version == 4 else b"\x86\xdd"
    return bytes.fromhex("020000000002020000000001") + vlan + kind + head + source.packed + target.packed + body


@pytest.fixture(scope="module")
def switch(tmp_path_factory):
    """A switch whose ports write what they send to files."""
    with ovs.Switch(PORTS) as made:
        made.sent = {port: tmp_path_factory.mktemp("sent") / f"{port}.pcap" for port in range(1, PORTS + 1)}
        for port, path in made.sent.items():
            made.configure("set", "interface", f"p{port}", f"options:tx_pcap={path}")
        # Fragments have no ports for a switch as it comes; ovs.Switch had it look into first ones.
        ovs.run(made.ofctl, "set-frags", f"unix:{made.folder}/br0.mgmt", "normal", env=made.env)
        yield made


def install(switch, plan, wiring=Wiring(), more=()):
    """Install a plan's rules and groups, and no others."""
    bridge = f"unix:{switch.folder}/br0.mgmt"
    ovs.run(switch.ofctl, "-O", "OpenFlow13", "del-groups", bridge, env=switch.env)
    for line in groups(plan, wiring):
        ovs.run(switch.ofctl, "-O", "OpenFlow13", "add-group", bridge, line, env=switch.env)
    switch.replace([*rules(plan, wiring), *more])


def seen(path, since=0):
    """Read the frames a port sent, from number `since` on."""
    if not path.exists() or path.stat().st_size < 24:
        return []
    with path.open("rb") as file:
        return [bytes(data) for _, data in dpkt.pcap.Reader(file)][since:]


def put(switch, port, frames, patience=60):
    """Let frames come in at a port; give [(port, frame)] of what the switch sends, as many."""
    before = {number: len(seen(path)) for number, path in switch.sent.items()}
    switch.receive(port, frames)
    end = time.monotonic() + patience
    while True:
        found = [(number, data) for number, path in switch.sent.items() for data in seen(path, before[number])]
        if len(found) >= len(frames) or time.monotonic() > end:
            return found
        time.sleep(0.02)


def split_tag(data):
    """Give (tag or None, frame without it)."""
    if data[12:14] == b"\x81\x00":
        return int.from_bytes(data[14:16], "big") & 0xfff, data[:12] + data[16:]
    return None, data


def through(switch, plan, packets, wiring=Wiring()):
    """Send (frame, its answer) pairs through the platform; give {frame: machine} after checking both ways out."""
    met = {}
    for inside, outside, tag, back in ((wiring.a, wiring.b, wiring.vlan_src, wiring.vlan_dst),
                                       (wiring.b, wiring.a, wiring.vlan_dst, wiring.vlan_src)):
        frames = [pair[inside == wiring.b] for pair in packets]
        delivered = put(switch, inside, frames)
        assert sorted(split_tag(data)[1] for _, data in delivered) == sorted(frames)
        by_port = {}
        for port, data in delivered:
            assert split_tag(data)[0] == tag and port in {machine.port for machine in plan.machines}
            met[split_tag(data)[1]] = next(machine.name for machine in plan.machines if machine.port == port)
            by_port.setdefault(port, []).append(data[:14] + back.to_bytes(2, "big") + data[16:])
        for port, answers in by_port.items():
            returned = put(switch, port, answers)
            assert sorted(returned) == sorted((outside, split_tag(data)[1]) for data in answers)
    return met


def addresses(rng, plan, count):
    """Draw addresses at the borders of a plan's prefixes, and anywhere."""
    found = []
    for prefix, _ in plan.prefixes():
        text = prefix.rsplit(":", 1)[0].strip("[]") if prefix.count(":") in (1,) or "]" in prefix else prefix
        network = ipaddress.ip_network(text, strict=False)
        first, last = int(network[0]), int(network[-1])
        most = (1 << network.max_prefixlen) - 1
        found += [type(network[0])(min(max(value, 0), most)) for value in (first - 1, first, last, last + 1, rng.randint(first, last))]
    return [str(address) for address in rng.sample(found, min(count, len(found)))]


def expected(plan, source, sport, target, dport, proto):
    """Say who gets a packet that goes from the first outside port to the second."""
    end = (source, sport) if plan.space.end == "src" else (target, dport)
    return plan.owner(end[0], end[1], proto)


def skewed(on):
    """Make loads with a hot IPv4 and a hot IPv6 host, with ports if they count."""
    rng, loads = random.Random(3), Loads(Space(on))
    for _ in range(60):
        address = ipaddress.ip_address(rng.getrandbits(32))
        key = loads.space.key(str(address), rng.randrange(65536), "tcp")
        loads.trees[key[0]].add(key[1], loads.trees[key[0]].bits, rng.random())
    for host, part in (("10.1.2.3", 40), ("2001:db8::7", 20)):
        for _ in range(50):
            tree, key = loads.space.key(host, rng.randrange(65536), "udp")
            loads.trees[tree].add(key, loads.trees[tree].bits, part / 50)
    return loads


PLANS = {
    "src": lambda: balance(spread(distribution("random-exponential", 8)), MACHINES).plan,
    "dst": lambda: balance(spread(distribution("gauss-wide", 8), Space("dst")), MACHINES).plan,
    "src+port": lambda: balance(skewed("src+port"), MACHINES).plan,
    "dst+port": lambda: balance(skewed("dst+port"), MACHINES).plan,
    "src-port": lambda: balance(skewed("src-port"), MACHINES).plan,
    "dst-port": lambda: balance(skewed("dst-port"), MACHINES).plan,
    "hot": lambda: balance(skewed("src"), MACHINES).plan,
}


def conversations(rng, plan, count):
    """Draw packets (source, sport, target, dport, proto) that a plan tells apart."""
    near = addresses(rng, plan, 5 * count) if plan.space.trees[0].address else []
    for number in range(count):
        near_one = near[number % len(near)] if near else str(ipaddress.ip_address(rng.getrandbits(32)))
        six = ":" in near_one
        other = str(ipaddress.IPv6Address(rng.getrandbits(128)) if six else ipaddress.IPv4Address(rng.getrandbits(32)))
        if rng.random() < 0.3:
            near_one = "2001:db8::7" if six else "10.1.2.3"
        source, target = (near_one, other) if plan.space.end == "src" else (other, near_one)
        yield source, rng.randrange(65536), target, rng.randrange(65536), rng.choice(["tcp", "udp", "icmp"])


@pytest.mark.parametrize("name", PLANS)
def test_rules_send_packets_where_the_plan_says(name):
    """FlowOS's own classifier evaluates the rules; Open vSwitch does below."""
    plan, rng, wiring = PLANS[name](), random.Random(5), Wiring()
    classifier, where = Classifier(), {}
    for number, line in enumerate(rules(plan, wiring), 1):
        fields, _, actions = line.partition(",actions=")
        fields = dict(field.partition("=")[::2] for field in fields.split(","))
        priority, _ = int(fields.pop("priority")), fields.pop("cookie", None)
        classifier.add(",".join(f"{key}={value}" if value else key for key, value in fields.items()), priority, number)
        where[number] = actions
    ports = {machine.name: machine.port for machine in plan.machines}
    met = set()
    for source, sport, target, dport, proto in conversations(rng, plan, 400):
        owner = expected(plan, source, sport, target, dport, proto)
        met.add(owner)
        for port, tag, data in ((1, 100, frame(source, target, sport, dport, proto)), (2, 200, frame(target, source, dport, sport, proto))):
            rule = classifier.find(extract(data, in_port=port))
            assert where[rule] == f"push_vlan:0x8100,set_field:{4096 + tag}->vlan_vid,output:{ports[owner]}"
    assert len(met) > 2


def test_two_rules_per_prefix():
    plan = balance(spread(distribution("gauss-narrow", 12)), [Machine(f"m{port}", 1.0, port) for port in range(3, 53)]).plan
    lines = rules(plan)
    assert len(lines) == 2 * len(plan) + 4 < 300
    assert len({line.partition(",actions=")[0] for line in lines}) == len(lines)


# ---- Open vSwitch ---------------------------------------------------------------------------------------

@pytest.mark.live
@pytest.mark.parametrize("name", PLANS)
def test_ovs_ofctl_parses_every_rule_as_it_is_meant(name):
    lines = rules(PLANS[name]())
    parted = [line.partition(",actions=") for line in lines]
    fields = [",".join(field for field in match.split(",") if not field.startswith("cookie")) for match, _, _ in parted]
    printed = ovs.parse(fields)
    assert len(set(printed)) == len(lines)                   # a field it dropped would make two alike
    for line, text in zip(fields, printed):
        words = dict(field.partition("=")[::2] for field in line.split(","))
        got = dict(field.partition("=")[::2] for field in text.split(","))
        assert words["priority"] == got["priority"] and ("in_port" in words) == ("in_port" in got)
        assert sum(key.startswith(("nw_", "ipv6_")) for key in words) == sum(key.startswith(("nw_", "ipv6_")) for key in got)
        assert any(key.startswith("tp_") for key in words) == any(key.startswith("tp_") for key in got)


@pytest.mark.live
@pytest.mark.parametrize("name", PLANS)
def test_a_switch_sends_packets_where_the_plan_says(switch, name):
    plan, rng = PLANS[name](), random.Random(6)
    install(switch, plan)
    packets, wanted = [], {}
    for source, sport, target, dport, proto in conversations(rng, plan, 300):
        pair = frame(source, target, sport, dport, proto), frame(target, source, dport, sport, proto)
        packets.append(pair)
        wanted.update(dict.fromkeys(pair, expected(plan, source, sport, target, dport, proto)))
    assert through(switch, plan, packets) == wanted and len(set(wanted.values())) > 2


@pytest.mark.live
def test_fragments_stay_together(switch):
    plan = PLANS["src+port"]()
    install(switch, plan)
    frames = [frame("10.1.2.3", "192.0.2.1", 50000, 80, "udp", fragment) for fragment in (0x2000, 0x2001, 0x0002)]
    ports = {port for port, _ in put(switch, 1, frames)}
    assert ports == {next(machine.port for machine in plan.machines if machine.name == plan.owner("10.1.2.3", 0, "udp"))}


@pytest.mark.live
def test_what_is_not_balanced_passes_by(switch):
    install(switch, PLANS["src"]())
    arp = bytes.fromhex("ffffffffffff020000000001080600010800060400010200000000010a0000010000000000000a000002") + bytes(18)
    assert put(switch, 1, [arp]) == [(2, arp)] and put(switch, 2, [arp]) == [(1, arp)]
    # A frame from outside that has a machine's tag is not taken for a machine's; what is tagged already gets one more.
    tagged = frame("10.0.0.1", "192.0.2.1", tag=200)
    ((port, data),) = put(switch, 1, [tagged])
    assert port > 2 and split_tag(data) == (100, tagged)


@pytest.mark.live
def test_a_hash_group_shares_a_hot_host_and_keeps_connections_whole(switch):
    plan = Plan.of_prefixes(Space("src"), MACHINES, [("0.0.0.0/0", "m3"), ("::/0", "m3"),
                                                     ("10.1.2.3/32", {"m4": 1.0, "m5": 1.0, "m6": 2.0})])
    install(switch, plan)
    pairs = [(frame("10.1.2.3", f"192.0.2.{number % 250}", 1024 + number, 80), frame(f"192.0.2.{number % 250}", "10.1.2.3", 80, 1024 + number))
             for number in range(160)]
    met = through(switch, plan, pairs)
    assert all(met[there] == met[back] for there, back in pairs)
    counts = {name: sum(met[there] == name for there, _ in pairs) for name in set(met.values())}
    assert set(counts) == {"m4", "m5", "m6"} and counts["m6"] > max(counts["m4"], counts["m5"]) > 10


@pytest.mark.live
def test_pinned_connections_stay_whatever_the_plan_says(switch):
    plan = Plan.of_prefixes(Space("src"), MACHINES, [("0.0.0.0/0", "m3"), ("::/0", "m4"), ("10.0.0.0/8", "m5")])
    held = [("tcp", ("10.0.0.1", 1000), ("192.0.2.1", 80), "m8"), ("udp", ("2001:db8::1", 53), ("2001:db8::2", 53), "m7"),
            ("icmp", ("10.0.0.2", None), ("192.0.2.1", None), "m6")]
    install(switch, plan, more=pins(plan, Wiring(), held))
    pairs = [(frame(a[0], b[0], a[1], b[1], proto), frame(b[0], a[0], b[1], a[1], proto)) for proto, a, b, _ in held]
    other = frame("10.0.0.1", "192.0.2.1", 1001, 80), frame("192.0.2.1", "10.0.0.1", 80, 1001)
    met = through(switch, plan, [*pairs, other])
    assert [met[there] for there, _ in pairs] == [met[back] for _, back in pairs] == ["m8", "m7", "m6"]
    assert met[other[0]] == met[other[1]] == "m5"


# ---- bad input ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("wiring, said", [
    (Wiring(a=0), "port a"), (Wiring(b=2.0), "port b"), (Wiring(b=1), "differ"), (Wiring(vlan_src=0), "VLAN_SRC"),
    (Wiring(vlan_dst=4095), "VLAN_DST"), (Wiring(vlan_dst=100), "differ"), (Wiring(a=3), "port of its own"), (Wiring(a=True), "port a")])
def test_wiring_that_cannot_be_is_refused(wiring, said):
    with pytest.raises(UsageError, match=said):
        rules(PLANS["src"](), wiring)


def test_machines_need_ports():
    plan = Plan.of_prefixes(Space("src"), [Machine("a")], [("0.0.0.0/0", "a"), ("::/0", "a")])
    with pytest.raises(UsageError, match="machine a: its rules need a port"):
        rules(plan)
    with pytest.raises(UsageError, match="pinned to 'x'"):
        pins(PLANS["src"](), Wiring(), [("tcp", ("1.1.1.1", 1), ("2.2.2.2", 2), "x")])


def test_protocols_are_named_as_matches_name_them():
    assert [protocol("icmpv6", True), protocol("ip-89", True), protocol("sctp", False)] == ["icmp6", "ipv6,nw_proto=89", "sctp"]
    space = Space("dst-port")
    assert matches(space, 0, bytes([4, 0]), 6, True) == [f"{proto}{six},tp_dst=0x400/0xfc00" for six in ("", "6") for proto in ("tcp", "udp")]
