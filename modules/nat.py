"""Source NAT: many internal hosts behind few external addresses (RFC 4787, 5382, 5508, 7857).

    flowos run x.pcap -w y.pcap --attach 'nat:external=192.0.2.1;192.0.2.2,internal=10.0.0.0/8'

    internal endpoint ── mapping ── external endpoint      one mapping for all destinations (EIM, REQ-1)
    internal address  ── pairing ── external address       all its mappings use this one (paired, REQ-2)

A mapping lives while one of its connections does, and `linger` seconds longer for TCP (RFC 5382
REQ-5); how long silent connections live is the engine's to say (`Config.timeout_…`, whose defaults keep the
RFCs' minima).  What the module decides is pure book-keeping in `Book`, plain data that can be
stored and moved; the core rewrites the packets, so that other modules see the original ends.
"""
import ipaddress
import random
from dataclasses import dataclass, field
from typing import Literal

from flowos import RDWR, Module, UsageError
from flowos.emit import ends

FILTERS = ("endpoint-independent", "address-dependent", "address-and-port-dependent")
MOST_PEERS = 1024          # peers remembered per mapping for filtering; beyond, the oldest is forgotten
SECOND = 10**9


@dataclass
class Mapping:
    """One internal endpoint and its external one; `live` counts its connections, `idle_since` when the last ended."""

    inside: tuple
    outside: tuple
    live: int = 0
    idle_since: int | None = None
    peers: dict = field(default_factory=dict)      # endpoints it has talked to, in order -> None


@dataclass
class Book:
    """All that a NAT must remember: mappings by both ends, pairings, and how many mappings each address has.

    Keys are (protocol, address, port).
    """

    inside: dict = field(default_factory=dict)
    outside: dict = field(default_factory=dict)
    paired: dict = field(default_factory=dict)     # internal address -> external address
    used: dict = field(default_factory=dict)       # external address -> its mappings
    hosts: dict = field(default_factory=dict)      # internal address -> its mappings


class Pool:
    """Hand out external endpoints: paired, one mapping per internal endpoint, none shared.

    >>> pool = Pool(Book(), ["192.0.2.1"], range(5000, 5002), seed=1)
    >>> one = pool.map("udp", "10.0.0.1", 5000)
    >>> one.outside, pool.map("udp", "10.0.0.1", 5000) is one
    (('udp', '192.0.2.1', 5000), True)
    >>> pool.map("udp", "10.0.0.2", 5000).outside, pool.map("udp", "10.0.0.3", 5000)
    (('udp', '192.0.2.1', 5001), None)
    """

    def __init__(self, book, external, ports, preserve=True, seed=None):
        self.book, self.external, self.ports, self.preserve = book, list(external), ports, preserve
        self.dice = random.Random(seed)
        for address in self.external:
            book.used.setdefault(address, 0)

    def map(self, protocol, address, port):
        """Give the mapping of an internal endpoint, a new one if need be; None: no port is free."""
        key = (protocol, address, port)
        found = self.book.inside.get(key)
        if found is not None:
            return found
        for external in self.choices(address):
            chosen = self.free_port(protocol, external, port)
            if chosen is not None:
                mapping = Mapping(key, (protocol, external, chosen))
                self.book.inside[key] = self.book.outside[mapping.outside] = mapping
                self.book.paired.setdefault(address, external)
                self.book.used[external] += 1
                self.book.hosts[address] = self.book.hosts.get(address, 0) + 1
                return mapping
        return None

    def address(self, host):
        """Give the external address of a host, for protocols without ports."""
        return self.choices(host)[0]

    def choices(self, address):
        """List the external addresses to try: the one paired with the host, then the least used (RFC 7857 section 4)."""
        paired = self.book.paired.get(address)
        others = sorted((other for other in self.external if other != paired), key=self.book.used.__getitem__)
        return others if paired is None else [paired, *others]

    def free_port(self, protocol, external, port):
        """Find a free port: the internal one if it may be, else a random one of equal parity (RFC 4787 REQ-4)."""
        if self.preserve and port in self.ports and (protocol, external, port) not in self.book.outside:
            return port
        begin = self.dice.randrange(len(self.ports))
        for parity in (port % 2, 1 - port % 2):
            for step in range(len(self.ports)):
                chosen = self.ports[(begin + step) % len(self.ports)]
                if chosen % 2 == parity and (protocol, external, chosen) not in self.book.outside:
                    return chosen
        return None

    def drop(self, mapping):
        """Forget a mapping; the pairing of a host goes with its last one."""
        del self.book.inside[mapping.inside], self.book.outside[mapping.outside]
        self.book.used[mapping.outside[1]] -= 1
        host = mapping.inside[1]
        self.book.hosts[host] -= 1
        if not self.book.hosts[host]:
            del self.book.hosts[host], self.book.paired[host]


class Nat(Module):
    """Translate connections from `internal` prefixes to `external` addresses, and those that come back.

    `ports` is the range handed out (`1024-65535`); `preserve` keeps the internal port where it is free;
    `filtering` says who may use a mapping from outside: anybody, addresses, or endpoints that it has talked to
    (RFC 4787 REQ-8); hairpinning is on (REQ-9).  Connections that need no translation pass; so does one that was
    picked up midway with a packet from outside.  What cannot be
    translated is dropped and emitted: `ts`, `connection`, `proto`, `a`, `b`, `reason` ("no port is free", "no mapping",
    "filtered", "taken"); each new mapping is emitted too (`mapping`: inside and outside).
    """

    name = "nat"
    protocol = "frame"
    mode = RDWR

    def __init__(self, external: list[str], internal: list[str] = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
                 ports: str = "1024-65535", preserve: bool = True,
                 filtering: Literal["endpoint-independent", "address-dependent", "address-and-port-dependent"] = "endpoint-independent",
                 linger: float = 240.0, seed: int | None = None):
        if filtering not in FILTERS:
            raise UsageError(f"nat: filtering is {filtering!r}, expected one of {', '.join(FILTERS)}")
        self.internal = [parsed(ipaddress.ip_network, text, "a prefix") for text in internal]
        addresses = [str(parsed(ipaddress.ip_address, text, "an address")) for text in external]
        if not addresses:
            raise UsageError("nat: external is empty, expected at least one address")
        self.external, self.filtering, self.linger = frozenset(addresses), filtering, linger
        self.book = Book()
        self.pool = Pool(self.book, addresses, port_range(ports), preserve, seed)
        self.serving = {}                  # connection -> its mappings
        self.idle = {}                     # mappings without connections that linger, oldest first
        self.translated = self.dropped = 0

    def is_internal(self, address):
        """Say whether an address lies in the internal prefixes."""
        address = ipaddress.ip_address(address)
        return any(address in network for network in self.internal)

    def opened(self, connection):
        (source, source_port), (target, target_port), protocol = connection.a, connection.b, connection.proto
        outward, inward = self.is_internal(source), target in self.external
        if not outward and not inward or outward and not inward and self.is_internal(target):
            return
        mappings, src, dst = [], None, None
        if source_port is None:            # ICMP and others: the address alone, and only outward
            if inward:
                return self.refuse(connection, "no mapping")
            src, outward = (self.pool.address(source), None), False
        if inward:
            mapping = self.book.outside.get((protocol, target, target_port))
            if mapping is None:
                return self.refuse(connection, "no mapping")
            if not self.admits(mapping, source, source_port):
                return self.refuse(connection, "filtered")
            mappings.append(mapping)
            dst = mapping.inside[1:]
        if outward:
            known = (protocol, source, source_port) in self.book.inside
            mapping = self.pool.map(protocol, source, source_port)
            if mapping is None:
                return self.refuse(connection, "no port is free")
            if not known:
                self.emit({"ts": connection.first_ns, **ends(connection), "mapping": [list(mapping.inside), list(mapping.outside)]})
            self.remember(mapping, target, target_port)
            mappings.append(mapping)
            src = mapping.outside[1:]
        if not connection.translate(src=src, dst=dst):
            for mapping in mappings:
                self.rest(mapping, connection.first_ns)
            return self.refuse(connection, "taken")
        self.translated += 1
        self.serving[connection.id] = mappings
        for mapping in mappings:
            mapping.live += 1
            mapping.idle_since = None
            self.idle.pop(mapping.inside, None)

    def process(self, window):
        pass                               # to be lent packets is to hear of their connections before the answers come

    def refuse(self, connection, reason):
        """Let nothing of a connection through."""
        self.dropped += 1
        self.emit({"ts": connection.first_ns, **ends(connection), "reason": reason})
        connection.drop()

    def admits(self, mapping, address, port):
        """Say whether an outside endpoint may use a mapping."""
        if self.filtering == FILTERS[0]:
            return True
        if self.filtering == FILTERS[1]:
            return any(peer == address for peer, _ in mapping.peers)
        return (address, port) in mapping.peers

    def remember(self, mapping, address, port):
        """Note whom a mapping talks to, for filtering."""
        if self.filtering != FILTERS[0]:
            mapping.peers.pop((address, port), None)
            mapping.peers[address, port] = None
            if len(mapping.peers) > MOST_PEERS:
                del mapping.peers[next(iter(mapping.peers))]

    def closed(self, connection, reason):
        for mapping in self.serving.pop(connection.id, ()):
            mapping.live -= 1
            self.rest(mapping, connection.last_ns)

    def rest(self, mapping, now):
        """A mapping whose last connection ended lingers if it is TCP's, and is dropped at once else."""
        if mapping.live:
            return
        if mapping.inside[0] == "tcp" and self.linger:
            mapping.idle_since = now
            self.idle[mapping.inside] = mapping
        elif mapping.inside in self.book.inside:
            self.pool.drop(mapping)

    def tick(self, now):
        for key, mapping in list(self.idle.items()):
            if now - mapping.idle_since < self.linger * SECOND:
                break
            del self.idle[key]
            self.pool.drop(mapping)


def parsed(make, text, expected):
    """Read an address or a prefix; UsageError names it."""
    try:
        return make(text)
    except ValueError:
        raise UsageError(f"nat: {text!r}, expected {expected}") from None


def port_range(text):
    """Read `FIRST-LAST`.

    >>> port_range("1024-1025")
    range(1024, 1026)
    """
    first, dash, last = text.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last) <= 65535):
        raise UsageError(f"nat: ports {text!r}, expected FIRST-LAST within 1-65535")
    return range(int(first), int(last) + 1)
