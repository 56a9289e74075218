"""A platform and services as arrays: numbers for names, for the searches to run on.

    spots      the servers, in order, then the I/O switches
    links      those of the platform, in order, then one inside each server ("the model can be used
               to handle in a uniform way the different kinds of bandwidth", D3.2 §3.2.2)
    attach     an attach point: a ToR switch that has servers, or an I/O switch
    nodes      of all services, in order; so are edges and bounded paths

The layout is that of allocation_state.h, and a Problem does not change once it is made.  Making it
takes O(links x attach points) for the distances and O(size) for the rest.
"""
import numpy

from flowos import UsageError
from flowos.services.allocation_model import MODULE, SINK, SOURCE
from flowos.services.allocation_state import distances

#: The bound of a path that has none: more than any sum of delays that is accepted.
FREE = 2**30
#: The least delay of an edge that no path could carry, wherever its ends lie.
NO_WAY = FREE // 64
_KIND = {SOURCE: 0, MODULE: 1, SINK: 2}


def _ints(values):
    return numpy.array(values, numpy.int32).reshape(-1)


def _firsts(groups):
    """Give where each group begins when they stand one after another, and the end of the last."""
    return numpy.cumsum([0, *map(len, groups)]).astype(numpy.int32)


def _index(groups):
    """Give (first, flat): group i is flat[first[i]:first[i + 1]]."""
    return _firsts(groups), _ints([item for group in groups for item in group])


class Problem:
    """The arrays of a platform and of services; `delay_bound`, if given, is the bound of every path."""

    def __init__(self, platform, services, delay_bound=None):
        self.platform = platform
        self.service_records = tuple(service.bounded(delay_bound) for service in services)
        self._platform(platform)
        self._services(self.service_records)
        self._check_sizes()

    def _check_sizes(self):
        """Raise UsageError where a sum might not fit 32 bits."""
        farthest = int(self.distance.max(initial=0)) + int(self.out_delay.max()) + int(self.in_delay.max())
        hops = int(numpy.diff(self.hop_first).max(initial=0))
        for what, size, most in (("CPU", int(self.cpu.sum(dtype=int)), 2**31), ("memory", int(self.memory.sum(dtype=int)), 2**31),
                                 ("delay", max(farthest, int(self.inner_delay.max())) * hops, FREE)):
            if size >= most:
                raise UsageError(f"services: their {what} adds up to {size:,} or so; the limit is {most:,}")

    def _platform(self, platform):
        servers = {server.name: number for number, server in enumerate(platform.servers)}
        switches = {switch.name: number for number, switch in enumerate(platform.switches)}
        io = platform.io()
        self.servers, self.switches = len(servers), len(switches)
        self.spot_names = [*servers, *io]
        self.spot_of = {name: number for number, name in enumerate(self.spot_names)}
        self.spots = len(self.spot_names)
        self.links = len(platform.links) + self.servers
        self.cpu_cap = _ints([server.cpu for server in platform.servers])
        self.memory_cap = _ints([server.memory for server in platform.servers])
        self.inner_delay = _ints([server.delay for server in platform.servers])
        self.inner = numpy.arange(len(platform.links), self.links, dtype=numpy.int32)
        self.capacity = numpy.array([link.bandwidth for link in platform.links]
                                    + [server.bandwidth for server in platform.servers], numpy.int64)
        self.link_delay = _ints([link.delay for link in platform.links] + [server.delay for server in platform.servers])
        up, down = numpy.full(self.spots, -1, numpy.int32), numpy.full(self.spots, -1, numpy.int32)
        tor, out = [None] * self.servers, [[] for _ in switches]
        for number, link in enumerate(platform.links):
            if link.tail in servers:
                tor[servers[link.tail]] = link.head
                up[servers[link.tail]] = number
            elif link.head in servers:
                down[servers[link.head]] = number
            else:
                out[switches[link.tail]].append((switches[link.head], number, link.delay))
        for name, number in servers.items():
            if up[number] < 0 or down[number] < 0:
                raise UsageError(f"server {name}: it needs a link to its ToR switch and one back")
        self.up, self.down = up, down
        self.out_delay = numpy.where(up >= 0, self.link_delay[up], 0).astype(numpy.int32)
        self.in_delay = numpy.where(down >= 0, self.link_delay[down], 0).astype(numpy.int32)
        points = {name: number for number, name in enumerate([*dict.fromkeys(tor), *io])}
        self.attaches, self.racks = len(points), len(points) - len(io)
        self.attach = _ints([points[name] for name in [*tor, *io]])
        self.attach_switch = _ints([switches[name] for name in points])
        racks = [[] for _ in points]
        for server in range(self.servers):
            racks[self.attach[server]].append(server)
        self.rack_first, self.rack_server = _index(racks)
        self.switch_first, self.switch_to = _index([[to for to, _, _ in links] for links in out])
        self.switch_link = _ints([number for links in out for _, number, _ in links])
        self.switch_delay = _ints([delay for links in out for _, _, delay in links])
        self.transit = numpy.array([switch.kind != "io" for switch in platform.switches], numpy.uint8)
        self.distance = distances(self.switch_first, self.switch_to, self.switch_delay, self.transit,
                                  self.attach_switch).reshape(-1)

    def spot_distance(self, tails, heads):
        """Give the delays between spots that are not the same, for arrays that broadcast; FREE: no way."""
        between = self.distance.reshape(self.switches, -1)[self.attach_switch[self.attach[tails]], self.attach[heads]]
        return numpy.where(between < 0, FREE, between + self.out_delay[tails] + self.in_delay[heads])

    def _services(self, services):
        self.services = len(services)
        names, nodes, edges, paths = {}, [], [], []
        node_of, edge_of = {}, {}
        for number, service in enumerate(services):
            for node in service.nodes:
                node_of[number, node.name] = len(nodes)
                nodes.append((number, node))
            for edge in service.edges:
                edge_of[number, edge.tail, edge.head] = len(edges)
                edges.append((node_of[number, edge.tail], node_of[number, edge.head], edge.traffic))
            for path in service.paths:
                paths.append(([edge_of[number, *pair] for pair in zip(path.nodes, path.nodes[1:])],
                              FREE if path.bound is None else path.bound))
            if names.setdefault(service.name, number) != number:
                raise UsageError(f"service {service.name}: there are two of this name")
        self.service_of, self.node_of = names, node_of
        self.nodes, self.edges, self.paths = len(nodes), len(edges), len(paths)
        self.node_names = [node.name for _, node in nodes]
        self.node_service = _ints([number for number, _ in nodes])
        self.node_first = _firsts([service.nodes for service in services])
        self.edge_first = _firsts([service.edges for service in services])
        self.path_first = _firsts([service.paths for service in services])
        self.kind = numpy.array([_KIND[node.kind] for _, node in nodes], numpy.uint8)
        self.cpu, self.memory = _ints([node.cpu for _, node in nodes]), _ints([node.memory for _, node in nodes])
        self.choice_first, self.choice = _index([[self.spot_of[name] for name in node.io] for _, node in nodes])
        self.tail, self.head = _ints([edge[0] for edge in edges]), _ints([edge[1] for edge in edges])
        self.traffic = numpy.array([edge[2] for edge in edges], numpy.int64)
        touch = [[] for _ in nodes]
        for number, (tail, head, _) in enumerate(edges):
            touch[tail].append(number)
            touch[head].append(number)
        self.touch_first, self.touch = _index(touch)
        self.hop_first, self.hop = _index([hops for hops, _ in paths])
        self.bound = _ints([bound for _, bound in paths])
        #: What never moves: sources, (node, spot).
        self.fixed = [(number, int(self.choice[self.choice_first[number]])) for number, (_, node) in enumerate(nodes)
                      if node.kind == SOURCE]
        self.least = self._least(nodes, edges)
        self.least_delay = numpy.add.reduceat(numpy.append(self.least[self.hop], 0), self.hop_first[:-1]).astype(numpy.int32) \
            if paths else _ints([])

    def _least(self, nodes, edges):
        """Give the least delay that each edge can have, wherever its modules lie."""
        first = self.rack_server[self.rack_first[:self.racks]]      # a server of each rack: near enough for a bound
        out, back = self.out_delay[:self.servers].min(), self.in_delay[:self.servers].min()
        inside = min(int(self.inner_delay.min()), int(out + back))
        arrive, leave = {}, {}
        for spot in range(self.servers, self.spots):
            arrive[spot] = int((self.spot_distance(spot, first) - self.in_delay[first]).min() + back)
            leave[spot] = int((self.spot_distance(first, spot) - self.out_delay[first]).min() + out)
        least = []
        for tail, head, _ in edges:
            if nodes[tail][1].kind == SOURCE:
                least.append(arrive[int(self.choice[self.choice_first[tail]])])
            elif nodes[head][1].kind == SINK:
                least.append(min(leave[int(spot)] for spot in self.choice[self.choice_first[head]:self.choice_first[head + 1]]))
            else:
                least.append(inside)
        return numpy.minimum(_ints(least), NO_WAY) if least else _ints([])
