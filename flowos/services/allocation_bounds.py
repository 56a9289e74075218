"""Proofs that an instance has no feasible solution, from bounds that take milliseconds.

Each function gives a sentence with the numbers that contradict each other, or None.  None of them
searches for a solution: they hold whatever a solver does.

    ways               an I/O switch that no path joins with any server
    a module alone     one that no server takes
    a service alone    its modules grouped on servers in every way, on an empty platform: none keeps
                       the delay bounds (at D10 this is what ends the instances of D3.2)
    servers            CPU, memory and the traffic between I/O and servers are packed like bins: the
                       sum, and Martello and Toth's bound L2 (1990) on pieces over half a bin
    I/O                what is fixed to an I/O switch, and what has to leave by a set of them, against
                       its links (NS12000 of D3.2 ends here)
    racks              traffic of sources and sinks against the uplinks of all racks
"""
import numpy

from flowos.services.allocation_model import MODULE, SINK, SOURCE
from flowos.services.allocation_problem import FREE, NO_WAY

#: Groupings tried per service before its bound is given up as unproven.
EFFORT = 100_000
#: Thresholds of the bound L2 that are tried, spread over the sizes that occur.
THRESHOLDS = 200


def prove(problem):
    """Give the first proof of infeasibility that is found; None if there is none."""
    for bound in (ways, modules, servers, io, racks, alone):
        proof = bound(problem)
        if proof:
            return proof
    return None


def ways(problem):
    """Find an edge to or from I/O that no path could carry."""
    for edge in numpy.flatnonzero(problem.least >= NO_WAY)[:1].tolist():
        tail, head = int(problem.tail[edge]), int(problem.head[edge])
        end = tail if problem.kind[tail] == 0 else head
        name = problem.service_records[problem.node_service[end]].name
        spots = problem.choice[problem.choice_first[end]:problem.choice_first[end + 1]].tolist()
        switches = ", ".join(problem.spot_names[spot] for spot in spots)
        return f"paths: none leads {'from' if end == tail else 'to'} {switches}, where {name}/{problem.node_names[end]} lies, " \
               f"{'to' if end == tail else 'from'} any server"
    return None


def modules(problem):
    """Find a module that no server takes."""
    cpu, memory = problem.cpu_cap.astype(int), problem.memory_cap.astype(int)
    kinds = {(int(c), int(m)) for c, m in zip(problem.cpu[problem.kind == 1], problem.memory[problem.kind == 1])}
    for need_cpu, need_memory in sorted(kinds):
        if not ((cpu >= need_cpu) & (memory >= need_memory)).any():
            node = int(numpy.flatnonzero((problem.kind == 1) & (problem.cpu == need_cpu) & (problem.memory == need_memory))[0])
            return (f"module {problem.service_records[problem.node_service[node]].name}/{problem.node_names[node]} needs "
                    f"{need_cpu / 100:g} cores and {need_memory} MB; no server has both")
    return None


def packing_bound(items, bins):
    """Give (need, room) of the threshold at which items of these sizes fit bins of these sizes least.

    With need > room they do not fit.  For a threshold t up to half of the largest bin M, a size x
    counts M if x > M - t, nothing if x < t, and x otherwise; whatever fits together in a bin of size
    y counts no more than y does (Martello and Toth).  Threshold 0 compares the sums.

    >>> packing_bound([6, 6, 6], [10, 10])      # 18 of 20, but no two of them fit together
    (30, 20)
    >>> packing_bound([5, 5, 5, 5], [10, 10])
    (20, 20)
    """
    items, bins = numpy.asarray(items, numpy.int64), numpy.asarray(bins, numpy.int64)
    most = int(bins.max(initial=0))
    thresholds = numpy.unique(numpy.concatenate((items[items <= most // 2], most - items[items > most // 2] + 1)))
    thresholds = thresholds[(thresholds > 0) & (thresholds <= most // 2)]
    if len(thresholds) > THRESHOLDS:
        thresholds = thresholds[numpy.linspace(0, len(thresholds) - 1, THRESHOLDS).astype(int)]
    worst = None
    for threshold in (0, *thresholds.tolist()):
        need, room = (int(numpy.where(sizes > most - threshold, most, numpy.where(sizes < threshold, 0, sizes)).sum())
                      if threshold else int(sizes.sum()) for sizes in (items, bins))
        if worst is None or need - room > worst[0] - worst[1]:
            worst = need, room
    return worst


def _at_io(problem, edge_end, other_end, kind):
    """Give, per module, the traffic that it has with nodes of a kind: it crosses the module's server link."""
    sums = numpy.zeros(problem.nodes, numpy.int64)
    at = problem.kind[other_end] == kind
    numpy.add.at(sums, edge_end[at], problem.traffic[at])
    return sums[sums > 0]


def servers(problem):
    """Compare what modules need of servers with what servers have."""
    number = problem.servers
    place = problem.kind == 1
    for what, unit, items, bins in (
            ("memory", "MB", problem.memory[place], problem.memory_cap),
            ("CPU", "of 0.01 core", problem.cpu[place], problem.cpu_cap),
            ("traffic from sources", "bit/s", _at_io(problem, problem.head, problem.tail, 0), problem.capacity[problem.down[:number]]),
            ("traffic to sinks", "bit/s", _at_io(problem, problem.tail, problem.head, 2), problem.capacity[problem.up[:number]])):
        need, room = packing_bound(items, bins)
        if need > room:
            total, whole = int(items.sum(dtype=numpy.int64)), int(bins.sum(dtype=numpy.int64))
            if total > whole:
                return f"{what}: all modules need {total:,} {unit}, all servers have {whole:,}"
            return (f"{what}: modules need {total:,} {unit} of {whole:,}, but they do not pack: by the bound L2 "
                    f"they count {need:,}, the servers {room:,}")
    return None


def _access(problem):
    """Give the bandwidth into and out of each switch, over links between switches."""
    into, out = numpy.zeros(problem.switches, numpy.int64), numpy.zeros(problem.switches, numpy.int64)
    for switch in range(problem.switches):
        span = slice(problem.switch_first[switch], problem.switch_first[switch + 1])
        capacity = problem.capacity[problem.switch_link[span]]
        out[switch] += capacity.sum()
        numpy.add.at(into, problem.switch_to[span], capacity)
    return into, out


def io(problem):
    """Compare the traffic of sources and sinks with the links of the I/O switches they may lie on."""
    into, out = _access(problem)
    for kind, ends, room, word in ((0, problem.tail, out, "from its sources"), (2, problem.head, into, "to its sinks")):
        traffic, groups = numpy.zeros(problem.nodes, numpy.int64), {}
        numpy.add.at(traffic, ends, problem.traffic)
        for node in numpy.flatnonzero(problem.kind == kind):
            spots = frozenset(problem.choice[problem.choice_first[node]:problem.choice_first[node + 1]].tolist())
            groups[spots] = groups.get(spots, 0) + int(traffic[node])
        rooms = {spot: int(room[problem.attach_switch[problem.attach[spot]]]) for spot in range(problem.servers, problem.spots)}
        sets = sorted((spots for spots in groups if len(spots) == 1), key=min)
        if len(groups) <= 1000:                     # Hall's condition on each set of choices that occurs
            sets += [spots for spots in groups if len(spots) > 1]
        if groups:
            sets.append(frozenset().union(*groups))
        for spots in sets:
            need = groups[spots] if len(spots) == 1 else sum(size for inner, size in groups.items() if inner <= spots)
            have = sum(rooms[spot] for spot in spots)
            if need > have:
                names = sorted(problem.spot_names[spot] for spot in spots)
                who = names[0] if len(names) == 1 else f"{len(names)} I/O switches ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
                return f"I/O: {need:,} bit/s {word if len(names) == 1 else word.replace('its', 'their')} at {who}, whose links take {have:,}"
    return None


def racks(problem):
    """Compare the traffic of sources and sinks with the uplinks of all racks together."""
    into, out = _access(problem)
    switches = problem.attach_switch[:problem.racks]
    for kind, ends, room, word in ((0, problem.tail, into, "sources"), (2, problem.head, out, "sinks")):
        need, have = int(problem.traffic[problem.kind[ends] == kind].sum()), int(room[switches].sum())
        if need > have:
            return f"racks: {need:,} bit/s of all {word} pass the links of the ToR switches, which take {have:,}"
    return None


def least_cross(problem):
    """Give the least delay between two different servers, wherever they are."""
    out, back = problem.out_delay[:problem.servers], problem.in_delay[:problem.servers]
    if (numpy.diff(problem.rack_first[:problem.racks + 1]) > 1).any():
        return int(out.min() + back.min())
    between = problem.distance.reshape(problem.switches, -1)[problem.attach_switch[:problem.racks], :problem.racks].astype(int)
    between[(between < 0) | numpy.eye(problem.racks, dtype=bool)] = FREE
    return int(between.min() + out.min() + back.min())


def alone(problem):
    """Find a service that could not keep its delay bounds if it had the platform to itself."""
    cross, inside, known = least_cross(problem), int(problem.inner_delay.min()), {}
    for service in range(problem.services):
        key = _shape(problem, service)
        if key not in known:
            known[key] = shortest(problem, service, cross, inside)
            if known[key] is False:
                return _late(problem, service, cross, inside)
    return None


def _shape(problem, service):
    """Give what `shortest` depends on, as a key."""
    nodes = slice(problem.node_first[service], problem.node_first[service + 1])
    edges = slice(problem.edge_first[service], problem.edge_first[service + 1])
    paths = slice(problem.path_first[service], problem.path_first[service + 1])
    hops = slice(problem.hop_first[paths.start], problem.hop_first[paths.stop])
    base = int(nodes.start)
    return (problem.cpu[nodes].tobytes(), problem.memory[nodes].tobytes(), problem.kind[nodes].tobytes(),
            (problem.tail[edges] - base).tobytes(), (problem.head[edges] - base).tobytes(), problem.least[edges].tobytes(),
            (problem.hop[hops] - edges.start).tobytes(), problem.bound[paths].tobytes())


def shortest(problem, service, cross, inside, tighten=0):
    """Say whether groups of a service's modules, a server each, can keep the bounds less `tighten`.

    True, False, or None if it takes too long to say.  Every way of grouping is tried, the modules one
    after another, cut off where a path is late already; capacities are those of the best server.
    """
    first, last = int(problem.node_first[service]), int(problem.node_first[service + 1])
    place = [node for node in range(first, last) if problem.kind[node] == 1]
    most_cpu, most_memory = int(problem.cpu_cap.max()), int(problem.memory_cap.max())
    hops, slack = {}, []
    for number, path in enumerate(range(problem.path_first[service], problem.path_first[service + 1])):
        edges = problem.hop[problem.hop_first[path]:problem.hop_first[path + 1]]
        slack.append(int(problem.bound[path]) - tighten - int(problem.least[edges].sum()))
        for edge in edges.tolist():
            tail, head = int(problem.tail[edge]), int(problem.head[edge])
            if problem.kind[tail] == 1 and problem.kind[head] == 1:
                hops.setdefault(tail, []).append((head, number))
                hops.setdefault(head, []).append((tail, number))
    if min(slack, default=0) < 0:
        return False
    # `least` holds the smaller of the two for an edge between modules; what more each choice costs:
    same, apart = inside - min(inside, cross), cross - min(inside, cross)
    group, sizes, effort = {}, [], [EFFORT]

    def descend(at):
        if at == len(place):
            return True
        effort[0] -= 1
        if effort[0] < 0:
            return None
        node = place[at]
        cpu, memory = int(problem.cpu[node]), int(problem.memory[node])
        for number in range(len(sizes) + 1):
            if number < len(sizes) and (sizes[number][0] + cpu > most_cpu or sizes[number][1] + memory > most_memory):
                continue
            costs = [(path, same if group[other] == number else apart)
                     for other, path in hops.get(node, ()) if other in group]
            for path, cost in costs:
                slack[path] -= cost
            if all(slack[path] >= 0 for path, _ in costs):
                new = number == len(sizes)
                if new:
                    sizes.append((0, 0))
                before, sizes[number] = sizes[number], (sizes[number][0] + cpu, sizes[number][1] + memory)
                group[node] = number
                found = descend(at + 1)
                if found or found is None:
                    return found
                del group[node]
                sizes[number] = before
                if new:
                    sizes.pop()
            for path, cost in costs:
                slack[path] += cost
        return False

    return descend(0)


def _late(problem, service, cross, inside):
    """Say by how much a service that is proved late is late at least."""
    late = 1
    while shortest(problem, service, cross, inside, -late) is False:
        late += 1
    record = problem.service_records[service]
    kinds = {kind: sum(node.kind == kind for node in record.nodes) for kind in (SOURCE, MODULE, SINK)}
    memory, cpu = sum(node.memory for node in record.nodes), sum(node.cpu for node in record.nodes)
    return (f"delay: service {record.name} ({kinds[MODULE]} modules, {cpu / 100:g} cores, {memory:,} MB; one server has at "
            f"most {problem.cpu_cap.max() / 100:g} and {int(problem.memory_cap.max()):,}) is late by {late} or more "
            f"on one of its paths however its modules share servers")


def least_delays(problem):
    """Give, per service, a delay that its longest path cannot go below.

    Where the search for it takes too long, the sum of what each edge takes at least.
    """
    cross, inside, known = least_cross(problem), int(problem.inner_delay.min()), {}
    found = numpy.zeros(problem.services, numpy.int64)
    bound = problem.bound.copy()
    try:
        for service in range(problem.services):
            paths = slice(problem.path_first[service], problem.path_first[service + 1])
            if paths.start == paths.stop:
                continue
            least = int(problem.least_delay[paths].max())
            problem.bound[paths] = 0
            key = _shape(problem, service)
            if key not in known:
                late = least
                while shortest(problem, service, cross, inside, -late) is False:
                    late += 1
                known[key] = late
            found[service] = known[key]
    finally:
        problem.bound[:] = bound
    return found
