"""The JSON formats of platforms, services and solutions: read, checked, written.

docs/allocation.md describes them field by field.  Whatever is wrong is a UsageError that names the
place in the document, what stands there and what was expected: a field that is missing, unknown, of
the wrong kind or out of range; a name that is taken or means nothing; a graph that is no DAG.
Units on paper are those of the source (cores, Mbit/s, packets per second); in memory they are
whole (allocation_model.py), and what would have to be rounded is refused.
"""
import heapq

from flowos import UsageError
from flowos.services.allocation_model import (
    KINDS,
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
    Solution,
    Switch,
    Violations,
    chains,
)

PLATFORM, SERVICES, SOLUTION = "flowos-platform", "flowos-services", "flowos-solution"
VERSION = 1
VERDICTS = ("feasible", "infeasible", "unknown")
#: The largest values: sums over a million of them still fit the arrays.
MOST_CORES, MOST_MEMORY, MOST_DELAY = 10**4, 10**8, 10**6
MOST_BITS = 10**13


def _wrong(place, value, expected):
    shown = repr(value)
    return UsageError(f"{place}: expected {expected}, not {shown if len(shown) <= 60 else shown[:57] + '...'}")


class _Reader:
    """A JSON object whose fields are taken one by one; what is left over in the end is an error."""

    def __init__(self, value, place):
        if not isinstance(value, dict):
            raise _wrong(place, value, "an object")
        self.value, self.place, self.taken = value, place, set()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        unknown = [name for name in self.value if name not in self.taken]
        if kind is None and unknown:
            raise UsageError(f"{self.at(unknown[0])}: no such field; expected {', '.join(sorted(self.taken))}")

    def at(self, name):
        """Give the place of a field."""
        return f"{self.place}.{name}" if self.place else name

    def get(self, name, default=...):
        """Give a field's raw value."""
        self.taken.add(name)
        if name not in self.value:
            if default is ...:
                raise UsageError(f"{self.at(name)}: missing")
            return default
        return self.value[name]

    def text(self, name, among=None):
        """Give a text that is not empty, or one of `among`."""
        value = self.get(name)
        if among is not None and value not in among:
            raise _wrong(self.at(name), value, f"one of {', '.join(among)}")
        if not isinstance(value, str) or not value:
            raise _wrong(self.at(name), value, "a name")
        return value

    def whole(self, name, most, least=0, scale=1, unit="", default=...):
        """Give a number times `scale`, which must be whole."""
        value = self.get(name, default)
        if value is None and default is None:
            return None
        kind = "a whole number" if scale == 1 else f"a multiple of {1 / scale:g}"
        expected = f"{kind} from {least} to {most:,}{unit}"
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            raise _wrong(self.at(name), value, expected)
        number = round(value * scale)
        if abs(number - value * scale) > 1e-6 * max(1, min(abs(number), 1000)):
            raise _wrong(self.at(name), value, expected)
        return number

    def many(self, name, least=0):
        """Yield (element, its place) of a list."""
        value = self.get(name)
        if not isinstance(value, list) or len(value) < least:
            raise _wrong(self.at(name), value, f"a list of {least} or more" if least else "a list")
        for number, element in enumerate(value):
            yield element, f"{self.at(name)}[{number}]"

    def head(self, name):
        """Check what every document begins with."""
        if self.get("format") != name:
            raise _wrong(self.at("format"), self.value.get("format"), repr(name))
        if self.get("version") != VERSION or isinstance(self.value["version"], bool):
            raise _wrong(self.at("version"), self.value["version"], str(VERSION))


def _new(name, names, place):
    if name in names:
        raise UsageError(f"{place}.name: {name} is taken")
    names[name] = len(names)
    return name


def read_platform(document):
    """Make a Platform of a parsed JSON document."""
    names, links, pairs = {}, [], set()
    with _Reader(document, "") as top:
        top.head(PLATFORM)
        title = top.text("name")
        servers, switches = [], []
        for element, place in top.many("servers", 1):
            with _Reader(element, place) as field:
                servers.append(Server(
                    _new(field.text("name"), names, place),
                    field.whole("cores", MOST_CORES, scale=100, unit=" cores"),
                    field.whole("memory", MOST_MEMORY, unit=" MB"),
                    field.whole("bandwidth", MOST_BITS // 10**6, scale=10**6, unit=" Mbit/s"),
                    field.whole("delay", MOST_DELAY)))
        for element, place in top.many("switches", 1):
            with _Reader(element, place) as field:
                switches.append(Switch(_new(field.text("name"), names, place), field.text("kind", KINDS)))
        for element, place in top.many("links", 1):
            with _Reader(element, place) as field:
                tail, head = field.text("from"), field.text("to")
                for end, name in (("from", tail), ("to", head)):
                    if name not in names:
                        raise _wrong(field.at(end), name, "the name of a server or switch")
                if tail == head:
                    raise _wrong(field.at("to"), head, "another end than from")
                bandwidth = field.whole("bandwidth", MOST_BITS // 10**6, scale=10**6, unit=" Mbit/s")
                delay, directed = field.whole("delay", MOST_DELAY), field.get("directed", False)
                if not isinstance(directed, bool):
                    raise _wrong(field.at("directed"), directed, "true or false")
                links.append((place, Link(tail, head, bandwidth, delay)))
                if not directed:
                    links.append((place, Link(head, tail, bandwidth, delay)))
                for one in ((tail, head), (head, tail))[:1 if directed else 2]:
                    if one in pairs:
                        raise UsageError(f"{place}: a link from {one[0]} to {one[1]} is there already; "
                                         "parallel links are given as one, of their bandwidths' sum")
                    pairs.add(one)
    kinds = {switch.name: switch.kind for switch in switches}
    _check_access(servers, kinds, links)
    if "io" not in kinds.values():
        raise UsageError("switches: no I/O switch among them; services could not come in")
    return Platform(title, tuple(servers), tuple(switches), tuple(link for _, link in links))


def _check_access(servers, kinds, links):
    """Check that each server has one link to and one from a ToR switch, the same."""
    ways = {server.name: {} for server in servers}
    for place, link in links:
        if link.tail not in kinds and link.head not in kinds:
            raise UsageError(f"{place}: {link.tail} and {link.head} are servers; servers meet at a ToR switch")
        for server, switch, way in ((link.tail, link.head, "to"), (link.head, link.tail, "from")):
            if server in ways:
                if kinds[switch] != "tor":
                    raise UsageError(f"{place}: server {server} hangs from {switch}, which is no ToR switch")
                if way in ways[server]:
                    raise UsageError(f"{place}: server {server} has a link {way} its ToR switch already")
                ways[server][way] = switch
    for server, ends in ways.items():
        if set(ends) != {"to", "from"} or ends["to"] != ends["from"]:
            raise UsageError(f"server {server}: it needs a link to a ToR switch and one back")


def read_services(document, platform):
    """Make a tuple of Services of a parsed JSON document, for a platform."""
    io, names = set(platform.io()), {}
    with _Reader(document, "") as top:
        top.head(SERVICES)
        bits = top.whole("packet_bits", 10**6, 1)
        made = []
        for element, place in top.many("services"):
            with _Reader(element, place) as field:
                made.append(_read_service(field, place, names, io, bits))
    return tuple(made)


def _read_service(field, place, names, io, bits):
    name = _new(field.text("name"), names, place)
    own, nodes, edges = {}, [], {}
    for element, at in field.many("nodes", 1):
        with _Reader(element, at) as inner:
            node, kind = _new(inner.text("name"), own, at), inner.text("kind", (SOURCE, MODULE, SINK))
            if kind == MODULE:
                nodes.append(Node(node, kind, inner.whole("cores", MOST_CORES, scale=100, unit=" cores"),
                                  inner.whole("memory", MOST_MEMORY, unit=" MB")))
            else:
                nodes.append(Node(node, kind, io=_read_io(inner, kind, io)))
    kinds = {node.name: node.kind for node in nodes}
    for element, at in field.many("links"):
        with _Reader(element, at) as inner:
            tail, head = inner.text("from"), inner.text("to")
            for end, other in (("from", tail), ("to", head)):
                if other not in kinds:
                    raise _wrong(inner.at(end), other, f"the name of a node of {name}")
            if kinds[tail] == SINK:
                raise _wrong(inner.at("from"), tail, "a source or module: nothing leaves a sink")
            if kinds[head] == SOURCE:
                raise _wrong(inner.at("to"), head, "a module or sink: nothing enters a source")
            if kinds[tail] == SOURCE and kinds[head] == SINK:
                raise _wrong(inner.at("to"), head, "a module: paths between I/O switches are not the platform's")
            if (tail, head) in edges:
                raise UsageError(f"{at}: a link from {tail} to {head} is there already")
            edges[tail, head] = Edge(tail, head, inner.whole("traffic", MOST_BITS // bits, unit=" packets/s") * bits)
    nodes = _in_order(nodes, edges, place)
    touched = {end for pair in edges for end in pair}
    for node in nodes:
        if node.kind != MODULE and node.name not in touched:
            raise UsageError(f"{place}.links: none leads {'from' if node.kind == SOURCE else 'to'} {node.name}")
    if not any(node.kind == MODULE for node in nodes):
        raise UsageError(f"{place}.nodes: no module among them")
    return Service(name, nodes, tuple(edges.values()), _read_paths(field, place, nodes, edges, kinds))


def _read_io(inner, kind, io):
    if kind == SOURCE:
        found = [(inner.get("io"), inner.at("io"))]
    else:
        found = list(inner.many("io", 1))
    for name, at in found:
        if not isinstance(name, str) or name not in io:
            raise _wrong(at, name, "the name of an I/O switch of the platform")
    return tuple(dict.fromkeys(name for name, _ in found))


def _in_order(nodes, edges, place):
    """Sort nodes: sources, modules along the links, sinks, else as they stand; an error if there is a circle."""
    number = {node.name: at for at, node in enumerate(nodes)}
    waits, after = [0] * len(nodes), [[] for _ in nodes]
    for tail, head in edges:
        waits[number[head]] += 1
        after[number[tail]].append(number[head])
    ready, order = [at for at, count in enumerate(waits) if not count], []
    while ready:
        at = heapq.heappop(ready)
        order.append(nodes[at])
        for head in after[at]:
            waits[head] -= 1
            if not waits[head]:
                heapq.heappush(ready, head)
    if len(order) < len(nodes):
        stuck = next(node.name for node, count in zip(nodes, waits) if count)
        raise UsageError(f"{place}.links: they lead in a circle, through or before {stuck}; a service is a DAG")
    modules = [node for node in order if node.kind == MODULE]
    return (*(node for node in nodes if node.kind == SOURCE), *modules, *(node for node in nodes if node.kind == SINK))


def _read_paths(field, place, nodes, edges, kinds):
    if field.get("paths", None) is None:
        found = chains(nodes, edges.values())
        if found is None:
            raise UsageError(f"{place}: over 1,000 paths from sources to sinks; name those that matter in paths")
        return tuple(Bounded(path) for path in found)
    made = []
    for element, at in field.many("paths"):
        with _Reader(element, at) as inner:
            path = []
            for name, where in inner.many("nodes", 2):
                if not isinstance(name, str) or name not in kinds:
                    raise _wrong(where, name, "the name of a node of the service")
                if path and (path[-1], name) not in edges:
                    raise UsageError(f"{where}: no link leads from {path[-1]} to {name}")
                path.append(name)
            if kinds[path[0]] != SOURCE or kinds[path[-1]] != SINK:
                raise UsageError(f"{at}.nodes: a path leads from a source to a sink")
            made.append(Bounded(tuple(path), inner.whole("bound", MOST_DELAY, default=None)))
    return tuple(made)


def _number(value, scale):
    return value // scale if value % scale == 0 else value / scale


def write_platform(platform):
    """Give a platform as a document for JSON; two links that mirror each other become one."""
    links, at = [], 0
    while at < len(platform.links):
        link = platform.links[at]
        back = platform.links[at + 1] if at + 1 < len(platform.links) else None
        entry = {"from": link.tail, "to": link.head, "bandwidth": _number(link.bandwidth, 10**6), "delay": link.delay}
        if back == Link(link.head, link.tail, link.bandwidth, link.delay):
            at += 1
        else:
            entry["directed"] = True
        links.append(entry)
        at += 1
    return {"format": PLATFORM, "version": VERSION, "name": platform.name,
            "servers": [{"name": server.name, "cores": _number(server.cpu, 100), "memory": server.memory,
                         "bandwidth": _number(server.bandwidth, 10**6), "delay": server.delay}
                        for server in platform.servers],
            "switches": [{"name": switch.name, "kind": switch.kind} for switch in platform.switches],
            "links": links}


def write_services(services, packet_bits=1):
    """Give services as a document for JSON; traffic must be whole packets of `packet_bits`."""
    document = []
    for service in services:
        nodes = []
        for node in service.nodes:
            entry = {"name": node.name, "kind": node.kind}
            if node.kind == MODULE:
                entry |= {"cores": _number(node.cpu, 100), "memory": node.memory}
            else:
                entry["io"] = node.io[0] if node.kind == SOURCE else list(node.io)
            nodes.append(entry)
        links = []
        for edge in service.edges:
            if edge.traffic % packet_bits:
                raise UsageError(f"{service.name}: {edge.traffic} bit/s are not whole packets of {packet_bits} bits")
            links.append({"from": edge.tail, "to": edge.head, "traffic": edge.traffic // packet_bits})
        document.append({"name": service.name, "nodes": nodes, "links": links,
                         "paths": [{"nodes": list(path.nodes), "bound": path.bound} for path in service.paths]})
    return {"format": SERVICES, "version": VERSION, "packet_bits": packet_bits, "services": document}


def write_solution(solution, instance):
    """Give a solution as a document for JSON; `instance` says what it is a solution of."""
    over = solution.violations
    return {"format": SOLUTION, "version": VERSION, "instance": instance, "verdict": solution.verdict,
            "proof": solution.proof,
            "violations": {"total": over.total, "cpu": over.cpu, "memory": over.memory,
                           "bandwidth": over.bandwidth, "delay": over.delay},
            "statistics": solution.statistics, "placement": solution.placement,
            "paths": [list(path) for path in solution.paths.values()]}


def read_solution(document):
    """Make (Solution, instance) of a parsed JSON document.

    Whether it fits a platform and services, and what it violates, is the evaluator's to say
    (allocation_check.py): the violations that stand in the document are not believed.
    """
    with _Reader(document, "") as top:
        top.head(SOLUTION)
        instance, verdict, proof = top.get("instance"), top.text("verdict", VERDICTS), top.get("proof", "")
        if not isinstance(instance, dict):
            raise _wrong("instance", instance, "an object")
        if not isinstance(proof, str):
            raise _wrong("proof", proof, "a text")
        for name in ("statistics", "violations"):
            if not isinstance(top.get(name, {}), dict):
                raise _wrong(name, top.get(name), "an object")
        placement = top.get("placement")
        if not isinstance(placement, dict):
            raise _wrong("placement", placement, "an object")
        for service, nodes in placement.items():
            if not isinstance(nodes, dict):
                raise _wrong(f"placement.{service}", nodes, "an object")
            for node, spot in nodes.items():
                if not isinstance(spot, str):
                    raise _wrong(f"placement.{service}.{node}", spot, "the name of a server or I/O switch")
        paths = {}
        for path, place in top.many("paths"):
            if not isinstance(path, list) or len(path) < 2 or not all(isinstance(name, str) for name in path):
                raise _wrong(place, path, "a list of two or more names")
            if (path[0], path[-1]) in paths:
                raise UsageError(f"{place}: a path from {path[0]} to {path[-1]} is there already")
            paths[path[0], path[-1]] = tuple(path)
    return Solution(verdict, placement, paths, Violations(), proof, top.get("statistics", {})), instance
