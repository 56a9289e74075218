"""What is allocated to what (D3.2 §3.2.2): a platform, services, a solution.

    Platform   servers, switches and the links between them: the graph D = (F, E)
    Service    a DAG of sources, modules and sinks, and the paths through it whose delay is bounded
    Solution   for each node of each service the server or I/O switch it lies on, and the path
               between each two of those that talk

All are plain immutable records with integer units, so that sums are exact: CPU in hundredths of a
core, memory in MB, bandwidth and traffic in bits per second, delay in units that the user chooses.
Names are checked where records are made (allocation_format.py, allocation_generate.py); this file
only says what they are.
"""
from dataclasses import dataclass, field

SOURCE, MODULE, SINK = "source", "module", "sink"
#: Kinds of switches; only "tor" (servers hang from it) and "io" (services come in and go out) matter.
KINDS = ("tor", "intermediate", "core", "io")


@dataclass(frozen=True, slots=True)
class Server:
    """A server: `cpu` hundredths of a core, `memory` MB; `bandwidth` bit/s and `delay` inside it."""

    name: str
    cpu: int
    memory: int
    bandwidth: int
    delay: int


@dataclass(frozen=True, slots=True)
class Switch:
    """A switch of one of KINDS."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Link:
    """A directed link: `bandwidth` bit/s, `delay`."""

    tail: str
    head: str
    bandwidth: int
    delay: int


@dataclass(frozen=True)
class Platform:
    """Servers, switches and directed links; each server has one link to and one from its ToR."""

    name: str
    servers: tuple
    switches: tuple
    links: tuple

    def io(self):
        """Give the names of the I/O switches.

        >>> Platform("p", (), (Switch("a", "io"), Switch("b", "tor")), ()).io()
        ['a']
        """
        return [switch.name for switch in self.switches if switch.kind == "io"]


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a service: a source (`io` has one name), a module (`cpu`, `memory`), a sink (`io` lists where it may lie)."""

    name: str
    kind: str
    cpu: int = 0
    memory: int = 0
    io: tuple = ()


@dataclass(frozen=True, slots=True)
class Edge:
    """Traffic in bit/s that flows from one node of a service to another."""

    tail: str
    head: str
    traffic: int


@dataclass(frozen=True, slots=True)
class Bounded:
    """A path from a source to a sink, by its nodes' names, and the bound on its delay (None: free)."""

    nodes: tuple
    bound: int | None = None


@dataclass(frozen=True, slots=True)
class Service:
    """A network service.  `nodes` are in topological order, `paths` those whose delay counts."""

    name: str
    nodes: tuple
    edges: tuple
    paths: tuple

    def modules(self):
        """Give the nodes that need a server."""
        return [node for node in self.nodes if node.kind == MODULE]

    def bounded(self, bound):
        """Give the same service with `bound` on every path (None leaves what each path says)."""
        if bound is None:
            return self
        return Service(self.name, self.nodes, self.edges, tuple(Bounded(path.nodes, bound) for path in self.paths))


def chains(nodes, edges, limit=1000):
    """Give every path from a source to a sink, as tuples of names; None if there are more than `limit`.

    >>> a, b, c = Node("a", SOURCE), Node("b", MODULE), Node("c", SINK)
    >>> chains((a, b, c), (Edge("a", "b", 1), Edge("b", "c", 1)))
    [('a', 'b', 'c')]
    """
    kind = {node.name: node.kind for node in nodes}
    after = {node.name: [] for node in nodes}
    for edge in edges:
        after[edge.tail].append(edge.head)
    found, stack = [], [(node.name,) for node in reversed(nodes) if node.kind == SOURCE]
    while stack:
        path = stack.pop()
        if kind[path[-1]] == SINK:
            found.append(path)
            if len(found) > limit:
                return None
        stack.extend((*path, head) for head in reversed(after[path[-1]]))
    return found


@dataclass(frozen=True)
class Violations:
    """How far a solution is from feasible, in the units of D3.2's tables 3.2 to 3.6.

    `cpu` in hundredths of a core, `memory` in MB, `bandwidth` in Mbit/s, `delay` in units of delay:
    each the sum, over what is overloaded or late, of the excess.
    """

    cpu: int = 0
    memory: int = 0
    bandwidth: float = 0
    delay: int = 0

    @property
    def total(self):
        """The sum of the four, which the searches reduce."""
        return self.cpu + self.memory + self.bandwidth + self.delay

    def __bool__(self):
        return self.total > 0


@dataclass(frozen=True)
class Solution:
    """An answer.

    `placement` is {service: {node: server or I/O switch}}; `paths` {(from, to): names of the nodes
    from the one to the other, both included}; `verdict` is "feasible", "infeasible" (then `proof`
    says why) or "unknown" (the best found within the time).
    """

    verdict: str
    placement: dict = field(default_factory=dict)
    paths: dict = field(default_factory=dict)
    violations: Violations = Violations()
    proof: str = ""
    statistics: dict = field(default_factory=dict)
