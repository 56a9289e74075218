"""The instances of D3.2 §3.2.4, made again: two platforms and four service templates.

The source gives sizes and capacities, table 3.1, and no drawing of the templates (figure 3.2) in
its text.  What had to be chosen, and from what it follows:

    shapes     the number of sources, sinks and modules is the table's; load balancing with 7 modules,
               4 sinks and three CPU sizes is a binary tree, whose leaves carry a quarter of 100,000
               packets: the table's least, 25,000
    memory     fixed per role, as "all network services of a given type have the same
               characteristics" (§3.2.1); the sum of the four templates is such that 52 services
               exceed the memory of 40 servers, the reason that the source gives for their failure
    a packet   1,024 bits.  With 1,024 bytes, 4,000 services bring 3.3 Tb/s, the 160 I/O links take
               1.6 Tb/s: nothing in the source's tables could be feasible (ask for packet_bits=8192)
    uplinks    two per ToR, 20 servers at 1 Gb/s being two links of 10 Gb/s; racks r and r + 1 share
               no intermediate switch
    I/O        each source is drawn from all I/O switches, each sink may lie on any of 8 drawn ones;
               or, with spread=True, sources are dealt out evenly

Everything follows from the seed: the same call gives the same instance on every machine.
"""
import random

from flowos import UsageError
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

PACKET_BITS = 1024
GIGABIT = 10**9
SINK_CHOICES = 8
#: The services of a list of n: n/4 of each template, in an order that the seed shuffles.
ORDER = ("intrusion-detection", "load-balancing", "network-access-control", "tunnelling")
# {name: ([(module, cpu in 0.01 core, memory in MB)], [(from, to, packets per second)])}; "in" is the
# source, "out…" are sinks.  The numbers are those of table 3.1, dealt to roles.
TEMPLATES = {
    "intrusion-detection": (
        [("preprocessor", 50, 100), ("signatures", 200, 1024), ("anomalies", 200, 1024), ("protocols", 200, 512),
         ("responder", 50, 200)],
        [("in", "preprocessor", 100_000), ("preprocessor", "signatures", 38_800), ("preprocessor", "anomalies", 38_800),
         ("preprocessor", "protocols", 38_800), ("signatures", "responder", 38_800),
         ("anomalies", "responder", 38_800), ("protocols", "responder", 38_800), ("responder", "out", 38_800)]),
    "load-balancing": (
        [("root", 150, 200), ("left", 100, 150), ("right", 100, 150), ("leaf1", 70, 100), ("leaf2", 70, 100),
         ("leaf3", 70, 100), ("leaf4", 70, 100)],
        [("in", "root", 100_000), ("root", "left", 50_000), ("root", "right", 50_000), ("left", "leaf1", 25_000),
         ("left", "leaf2", 25_000), ("right", "leaf3", 25_000), ("right", "leaf4", 25_000), ("leaf1", "out1", 25_000),
         ("leaf2", "out2", 25_000), ("leaf3", "out3", 25_000), ("leaf4", "out4", 25_000)]),
    "network-access-control": (
        [("classifier", 50, 100), ("authenticator", 100, 200), ("policy", 50, 150)],
        [("in", "classifier", 100_000), ("classifier", "authenticator", 98_000), ("authenticator", "policy", 96_000),
         ("policy", "out", 96_000)]),
    "tunnelling": (
        [("classifier", 150, 200), ("tunnel1", 250, 1024), ("tunnel2", 250, 1024)],
        [("in", "classifier", 100_000), ("classifier", "tunnel1", 50_000), ("classifier", "tunnel2", 50_000),
         ("tunnel1", "out1", 50_000), ("tunnel2", "out2", 50_000)]),
}
# Table 3.1: what memory=uniform draws from.
MEMORY = {"intrusion-detection": (100, 1024), "load-balancing": (100, 200), "network-access-control": (100, 200),
          "tunnelling": (200, 1024)}


def _server(name):
    return Server(name, cpu=800, memory=2048, bandwidth=10 * GIGABIT, delay=1)


def _both(tail, head, bandwidth):
    return Link(tail, head, bandwidth, 1), Link(head, tail, bandwidth, 1)


def basic_platform():
    """Give the basic platform of §3.2.4.1: 40 servers at one ToR switch, one I/O switch.

    >>> platform = basic_platform()
    >>> len(platform.servers), len(platform.switches), len(platform.links)
    (40, 2, 82)
    """
    servers = tuple(_server(f"s{number}") for number in range(40))
    links = [link for server in servers for link in _both(server.name, "tor0", GIGABIT)]
    return Platform("basic", servers, (Switch("tor0", "tor"), Switch("io0", "io")),
                    (*links, *_both("tor0", "io0", 10 * GIGABIT)))


def large_platform(racks=500, per_rack=20, fabric=32, io_per_core=5):
    """Give the large platform of §3.2.4.2; the parameters shrink it for tests.

    `racks` ToR switches with `per_rack` servers each, `fabric` intermediate and as many core
    switches, all of the ones linked to all of the others, `io_per_core` I/O switches at each core
    switch.  Servers have 1 Gb/s, all other links 10 Gb/s; every delay is 1.

    >>> platform = large_platform()
    >>> len(platform.servers), len(platform.io())
    (10000, 160)
    """
    switches = [Switch(f"tor{rack}", "tor") for rack in range(racks)]
    switches += [Switch(f"{kind}{number}", kind) for kind in ("intermediate", "core") for number in range(fabric)]
    switches += [Switch(f"io{number}", "io") for number in range(fabric * io_per_core)]
    servers, links = [], []
    for rack in range(racks):
        for number in range(rack * per_rack, (rack + 1) * per_rack):
            servers.append(_server(f"s{number}"))
            links += _both(f"s{number}", f"tor{rack}", GIGABIT)
        for other in {rack % fabric, (rack + fabric // 2) % fabric}:
            links += _both(f"tor{rack}", f"intermediate{other}", 10 * GIGABIT)
    for core in range(fabric):
        for other in range(fabric):
            links += _both(f"intermediate{other}", f"core{core}", 10 * GIGABIT)
        for number in range(io_per_core):
            links += _both(f"core{core}", f"io{core * io_per_core + number}", 10 * GIGABIT)
    return Platform("large", tuple(servers), tuple(switches), tuple(links))


def platform_named(name):
    """Make the platform "basic" or "large"."""
    if name == "basic":
        return basic_platform()
    if name == "large":
        return large_platform()
    raise UsageError(f"platform {name}: not one that can be generated; expected basic or large")


def _service(template, name, source, draw, memory, packet_bits):
    """Make one service of a template; `draw()` gives the I/O switches of a sink."""
    modules, traffic = TEMPLATES[template]
    nodes = [Node("in", SOURCE, io=(source,))]
    nodes += [Node(module, MODULE, cpu, memory(template, size)) for module, cpu, size in modules]
    outs = [head for _, head, _ in traffic if head.startswith("out")]
    nodes += [Node(out, SINK, io=draw()) for out in outs]
    edges = tuple(Edge(tail, head, packets * packet_bits) for tail, head, packets in traffic)
    return Service(name, tuple(nodes), edges, tuple(Bounded(path) for path in chains(nodes, edges)))


def services(platform, count, seed=1, *, spread=False, memory="fixed", packet_bits=PACKET_BITS):
    """Draw `count` services, as many of each of the four templates, for a platform.

    Parameters: `spread` deals sources evenly over the I/O switches; `memory` is "fixed" per role or
    "uniform" over the template's range in table 3.1.

    >>> sorted(service.name for service in services(basic_platform(), 4))
    ['intrusion-detection-0', 'load-balancing-0', 'network-access-control-0', 'tunnelling-0']
    >>> sum(len(service.modules()) for service in services(basic_platform(), 4000))
    18000
    """
    if not isinstance(count, int) or count < 1:
        raise UsageError(f"services: expected a number of services from 1, not {count!r}")
    if memory not in ("fixed", "uniform"):
        raise UsageError(f"memory {memory!r}: expected fixed or uniform")
    random_io, random_memory = random.Random(f"io {seed}"), random.Random(f"memory {seed}")
    switches = platform.io()
    deal = list(switches)
    random_io.shuffle(deal)
    choices = min(SINK_CHOICES, len(switches))

    def size(template, fixed):
        return fixed if memory == "fixed" else random_memory.randint(*MEMORY[template])

    made = []
    arrivals = [(ORDER[number % len(ORDER)], number // len(ORDER)) for number in range(count)]
    random.Random(f"order {seed}").shuffle(arrivals)
    for number, (template, instance) in enumerate(arrivals):
        source = deal[number % len(deal)] if spread else random_io.choice(switches)
        made.append(_service(template, f"{template}-{instance}", source,
                             lambda: tuple(random_io.sample(switches, choices)), size, packet_bits))
    return tuple(made)
