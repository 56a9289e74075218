"""The evaluator: what a solution violates, and its metrics, from the definitions alone.

Written apart from the searches, on names and dictionaries, so that one finds the other's errors: it
reads D3.2 §3.2.2's constraints one by one over the platform's links as they stand in the solution's
paths, and uses none of the arrays, distances or routes of the solver.
"""
from typing import NamedTuple

from flowos import UsageError
from flowos.services.allocation_model import MODULE, Violations


class Report(NamedTuple):
    """What the evaluator found.

    `violations` are sums of excess; `worst` lists up to ten constraints that are violated, the worst
    of each kind first, as texts.  The metrics are those of §3.2.1: `total_delay` sums over services
    the longest given path, `approximate_delay` the delays of all edges, `max_bandwidth` and
    `average_bandwidth` are shares of links' bandwidth (the platform's links only, not those inside
    servers, for the average).
    """

    violations: Violations
    worst: list
    total_delay: int
    approximate_delay: int
    max_bandwidth: float
    average_bandwidth: float
    max_delay: int


def evaluate(platform, services, solution):
    """Evaluate a complete solution.

    Raises UsageError where it is none at all: a node without place or on a place it may not lie on,
    a path that is missing or leads over what is no link.  O(size of the solution).
    """
    servers = {server.name: server for server in platform.servers}
    inputs = set(platform.io())
    links = {(link.tail, link.head): number for number, link in enumerate(platform.links)}
    cpu, memory, inside = dict.fromkeys(servers, 0), dict.fromkeys(servers, 0), dict.fromkeys(servers, 0)
    load = [0] * len(platform.links)
    known = {service.name for service in services}
    for name in solution.placement:
        if name not in known:
            raise UsageError(f"placement.{name}: no such service")
    ways = {pair: _links_of(path, links, inputs) for pair, path in solution.paths.items()}
    late, total, approximate, longest = [], 0, 0, 0
    for service in services:
        spots = _spots(service, solution.placement, servers, inputs)
        for node in service.nodes:
            if node.kind == MODULE:
                cpu[spots[node.name]] += node.cpu
                memory[spots[node.name]] += node.memory
        delay = {}
        for edge in service.edges:
            pair = spots[edge.tail], spots[edge.head]
            if pair[0] == pair[1]:
                inside[pair[0]] += edge.traffic
                delay[edge.tail, edge.head] = servers[pair[0]].delay
                continue
            if pair not in ways:
                raise UsageError(f"paths: none from {pair[0]} to {pair[1]}, for {service.name}: {edge.tail} to {edge.head}")
            for link in ways[pair]:
                load[link] += edge.traffic
            delay[edge.tail, edge.head] = sum(platform.links[link].delay for link in ways[pair])
        times = [sum(delay[hop] for hop in zip(path.nodes, path.nodes[1:])) for path in service.paths]
        for path, time in zip(service.paths, times):
            if path.bound is not None and time > path.bound:
                late.append((time - path.bound, f"{service.name}: {' > '.join(path.nodes)} takes {time}, bound {path.bound}"))
        total += max(times, default=0)
        longest = max(longest, *times, 0)
        approximate += sum(delay.values())
    full = [[], [], []]
    for server in platform.servers:
        for found, used, room, unit in ((full[0], cpu[server.name], server.cpu, "of 0.01 core"),
                                        (full[1], memory[server.name], server.memory, "MB"),
                                        (full[2], inside[server.name], server.bandwidth, "bit/s inside")):
            if used > room:
                found.append((used - room, f"{server.name}: {used:,} {unit}, has {room:,}"))
    for link, used in zip(platform.links, load):
        if used > link.bandwidth:
            full[2].append((used - link.bandwidth, f"{link.tail} > {link.head}: {used:,} bit/s, has {link.bandwidth:,}"))
    sums = [sum(excess for excess, _ in found) for found in (*full, late)]
    worst = [text for found in (*full, late) for _, text in sorted(found, key=lambda item: -item[0])[:10]]
    shares = [_share(used, link.bandwidth) for link, used in zip(platform.links, load)]
    within = [_share(inside[server.name], server.bandwidth) for server in platform.servers]
    return Report(Violations(sums[0], sums[1], _megabits(sums[2]), sums[3]), worst[:10], total, approximate,
                  max(shares + within, default=0.0), sum(shares) / len(shares) if shares else 0.0, longest)


def _share(used, room):
    return used / room if room else (float("inf") if used else 0.0)


def _megabits(bits):
    return bits // 10**6 if bits % 10**6 == 0 else bits / 10**6


def _spots(service, placement, servers, inputs):
    """Give {node: place} of a service after checking each."""
    if not isinstance(placement.get(service.name), dict):
        raise UsageError(f"placement.{service.name}: missing")
    spots = placement[service.name]
    for node in service.nodes:
        place = f"placement.{service.name}.{node.name}"
        if node.name not in spots:
            raise UsageError(f"{place}: missing")
        spot = spots[node.name]
        if node.kind == MODULE and spot not in servers:
            raise UsageError(f"{place}: {spot} is no server")
        if node.kind != MODULE and (spot not in inputs or spot not in node.io):
            raise UsageError(f"{place}: {spot} is not among {', '.join(node.io)}")
    if len(spots) > len(service.nodes):
        extra = next(name for name in spots if name not in {node.name for node in service.nodes})
        raise UsageError(f"placement.{service.name}.{extra}: no such node")
    return spots


def _links_of(path, links, inputs):
    """Give the numbers of the links of a path."""
    found = []
    for tail, head in zip(path, path[1:]):
        if (tail, head) not in links:
            raise UsageError(f"paths: {' > '.join(path)}: no link from {tail} to {head}")
        found.append(links[tail, head])
    if inputs.intersection(path[1:-1]):
        raise UsageError(f"paths: {' > '.join(path)}: it leads through an I/O switch")
    return found
