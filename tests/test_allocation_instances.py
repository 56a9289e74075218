"""The instances of D3.2 §3.2.4 as they are generated; and small random ones, for the other tests."""
import random
from collections import Counter

import pytest
from hypothesis import strategies as st

from flowos import UsageError
from flowos.services.allocation_generate import (
    TEMPLATES,
    basic_platform,
    large_platform,
    platform_named,
    services,
)
from flowos.services.allocation_model import (
    MODULE,
    SINK,
    SOURCE,
    Bounded,
    Edge,
    Link,
    Node,
    Platform,
    Server,
    Service,
    Switch,
    chains,
)

# Table 3.1 of D3.2, copied: #IO, #PM, cpu, memory, traffic.
TABLE = {
    "intrusion-detection": (2, 5, {50, 200}, (100, 1024), (38_800, 100_000)),
    "load-balancing": (5, 7, {70, 100, 150}, (100, 200), (25_000, 100_000)),
    "network-access-control": (2, 3, {50, 100}, (100, 200), (96_000, 100_000)),
    "tunnelling": (3, 3, {150, 250}, (200, 1024), (50_000, 100_000)),
}
MEGABIT = 10**6


@pytest.mark.parametrize("name", TABLE)
def test_templates_are_those_of_table_3_1(name):
    ends, modules, cpu, memory, traffic = TABLE[name]
    made = next(one for one in services(basic_platform(), 4) if one.name == f"{name}-0")
    assert sum(node.kind != MODULE for node in made.nodes) == ends
    assert len(made.modules()) == modules
    assert {node.cpu for node in made.modules()} == cpu
    assert all(memory[0] <= node.memory <= memory[1] for node in made.modules())
    packets = [edge.traffic / 1024 for edge in made.edges]
    assert (min(packets), max(packets)) == traffic
    assert set(TEMPLATES) == set(TABLE)


def test_the_large_platform_has_the_sources_sizes():
    platform = large_platform()
    kinds = Counter(switch.kind for switch in platform.switches)
    assert kinds == {"tor": 500, "intermediate": 32, "core": 32, "io": 160}
    assert len(platform.servers) == 10_000
    assert all((one.cpu, one.memory, one.bandwidth) == (800, 2048, 10**10) for one in platform.servers)
    access = [link for link in platform.links if link.tail[0] == "s" or link.head[0] == "s"]
    assert {link.bandwidth for link in access} == {10**9} and len(access) == 20_000
    assert {link.bandwidth for link in platform.links} - {10**9} == {10**10}
    assert {link.delay for link in platform.links} == {1}


def test_an_instance_is_its_seed():
    platform = large_platform(4, 4, 4, 2)
    assert services(platform, 20, 7) == services(platform, 20, 7)
    assert services(platform, 20, 7) != services(platform, 20, 8)
    assert Counter(one.name.rsplit("-", 1)[0] for one in services(platform, 20, 7)) == dict.fromkeys(TABLE, 5)


def test_spread_deals_sources_evenly():
    platform = large_platform(4, 4, 4, 2)
    io = Counter(one.nodes[0].io[0] for one in services(platform, 24, spread=True))
    assert set(io.values()) == {3} and len(io) == 8


def test_uniform_memory_is_within_the_table():
    sizes = {name: [] for name in TABLE}
    for one in services(basic_platform(), 400, memory="uniform"):
        sizes[one.name.rsplit("-", 1)[0]] += [node.memory for node in one.modules()]
    for name, (_, _, _, (least, most), _) in TABLE.items():
        assert least <= min(sizes[name]) and max(sizes[name]) <= most and len(set(sizes[name])) > 20


@pytest.mark.parametrize("call", [
    lambda: platform_named("middling"), lambda: services(basic_platform(), 0),
    lambda: services(basic_platform(), "4"), lambda: services(basic_platform(), 4, memory="none")])
def test_what_cannot_be_generated_is_refused(call):
    with pytest.raises(UsageError):
        call()


def small_platform(draw, racks=3, most=3, spines=2):
    """Build a random platform of a few racks, spines and I/O switches; `draw(a, b)` gives a whole number."""
    switches = [Switch(f"tor{number}", "tor") for number in range(draw(1, racks))]
    switches += [Switch(f"spine{number}", "intermediate") for number in range(draw(1, spines))]
    switches += [Switch(f"io{number}", "io") for number in range(draw(1, 2))]
    servers, links = [], []
    for switch in switches:
        if switch.kind == "tor":
            for _ in range(draw(1, most)):
                name = f"s{len(servers)}"
                servers.append(Server(name, draw(1, 4) * 100, draw(2, 8), draw(2, 40) * MEGABIT, draw(0, 1)))
                links += [Link(name, switch.name, draw(2, 30) * MEGABIT, draw(0, 2)),
                          Link(switch.name, name, draw(2, 30) * MEGABIT, draw(0, 2))]
        if switch.kind != "intermediate":
            for other in switches:
                if other.kind == "intermediate":
                    links += [Link(switch.name, other.name, draw(2, 40) * MEGABIT, draw(0, 2)),
                              Link(other.name, switch.name, draw(2, 40) * MEGABIT, draw(0, 2))]
    return Platform("small", tuple(servers), tuple(switches), tuple(links))


def small_services(draw, platform, most=3, modules=4):
    """Build random services for a platform: DAGs whose sources, modules and sinks are drawn."""
    made, io = [], platform.io()
    for number in range(draw(1, most)):
        count = draw(1, modules)
        names = [f"m{at}" for at in range(count)]
        edges = {}
        for at in range(1, count):
            edges[names[draw(0, at - 1)], names[at]] = draw(0, 9) * MEGABIT
        if count > 2 and draw(0, 1):
            edges[names[0], names[-1]] = draw(0, 9) * MEGABIT
        nodes = [Node("in", SOURCE, io=(io[draw(0, len(io) - 1)],))]
        nodes += [Node(name, MODULE, draw(0, 20) * 10, draw(0, 4)) for name in names]
        edges["in", names[0]] = draw(1, 9) * MEGABIT
        for at in range(draw(1, 2)):
            choice = tuple(io) if draw(0, 1) else (io[draw(0, len(io) - 1)],)
            nodes.append(Node(f"out{at}", SINK, io=choice))
            edges[names[-1 - at if at < count else -1], f"out{at}"] = draw(0, 9) * MEGABIT
        listed = tuple(Edge(*pair, traffic) for pair, traffic in edges.items())
        paths = tuple(Bounded(path, draw(3, 16) if draw(0, 2) else None) for path in chains(nodes, listed))
        made.append(Service(f"service{number}", tuple(nodes), listed, paths))
    return tuple(made)


def seeded(seed):
    """Give a `draw` from a seed."""
    return random.Random(seed).randint


@st.composite
def instances(draw, **limits):
    """Draw a small platform and services for it."""
    def number(least, most):
        return draw(st.integers(least, most))
    platform = small_platform(number, **limits)
    return platform, small_services(number, platform)
