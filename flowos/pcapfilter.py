"""Capture filters in tcpdump's words, on top of FlowOS's matches.

    "tcp port 80 or 443 and not host 10.0.0.1"  ──►  and/or/not over primitives  ──►  each primitive: some matches

`and` and `or` bind equally and from the left, `not` binds closest, as in libpcap.  Taken are:

    [ip|ip6|arp|tcp|udp|sctp] [src|dst|src or dst|src and dst] host|net|port|portrange WHAT
    ether [src|dst] host MAC, ether proto N, ether broadcast|multicast, [ip|ip6] proto N
    ip ip6 arp rarp tcp udp sctp icmp icmp6 vlan [N] less N, greater N

A FlowOS match ("tcp,tp_dst=80") is taken as it is.  Names of hosts and services are not looked up, and bytes
(`tcp[13] & 2 != 0`) are not compared.  VLAN tags and IPv6 extension headers are looked through: `tcp` is true of
tagged packets too, of which libpcap asks `vlan and tcp`.  Of a fragmented IPv6 packet, only the first fragment
has a protocol: the others are `ip6 proto 44`.
"""
import ipaddress
import re

from flowos.core.classifier import Classifier
from flowos.core.errors import UsageError
from flowos.core.extract import extract, extract_packet
from flowos.core.match import Match

__all__ = ["compile_filter"]

TOKEN = re.compile(r"\s*(\(|\)|&&|\|\||!|[\w.:/-]+)")
PROTOCOLS = {"ip": ["ip"], "ip6": ["ipv6"], "arp": ["arp"], "rarp": ["rarp"], "tcp": ["tcp", "tcp6"], "udp": ["udp", "udp6"],
             "sctp": ["sctp", "sctp6"], "icmp": ["icmp"], "icmp6": ["icmp6"]}
WITH_PORTS = ["tcp", "tcp6", "udp", "udp6", "sctp", "sctp6"]
TYPES = {"host", "net", "port", "portrange", "proto"}
ENDS = {"src": ["src"], "dst": ["dst"]}
GROUP = "01:00:00:00:00:00/01:00:00:00:00:00"
RAW, COOKED = {12, 14, 101, 228, 229}, {113: (14, 16), 276: (0, 20)}     # LINKTYPE_*: where the type and the packet stand


def compile_filter(text):
    """Make a predicate (frame, wire length, LINKTYPE_*) -> bool of a filter; "" is true of all.

    UsageError: not a filter; the message names what was not understood.

    >>> web = compile_filter("tcp dst port 80 or 8080")
    >>> web(bytes(60), 60, 1)
    False
    """
    if not isinstance(text, str):
        raise UsageError(f"a filter is a text, not {text!r}")
    if not text.strip():
        return lambda frame, wire, link: True
    if "[" in text:
        raise UsageError(f"filter {text!r}: bytes of packets are not compared")
    test = any_of([text]) if "=" in text else Parser(text).parse()
    return lambda frame, wire, link: test(fields_of(frame, wire, link), wire)


def fields_of(frame, wire, link):
    """Give the `Fields` of a frame of a link type."""
    if link in RAW:
        return extract_packet(frame, wire=wire)
    if link in COOKED and len(frame) >= COOKED[link][1]:
        kind, start = COOKED[link]
        return extract_packet(frame[start:], int.from_bytes(frame[kind:kind + 2], "big"), wire=wire - start)
    return extract(frame, wire=wire)


def any_of(texts):
    """Make a test that is true where one of some matches is."""
    classifier = Classifier()
    for number, match in enumerate({Match(text) for text in texts}, 1):
        classifier.add(match, 1, number)
    return lambda fields, wire: classifier.find(fields) != 0


class Parser:
    """One filter: its words, and the qualifiers that a bare value repeats (`port 80 or 443`)."""

    def __init__(self, text):
        self.text, self.words, at = text, [], 0
        while at < len(text.rstrip()):
            found = TOKEN.match(text, at)
            if not found:
                raise self.wrong(f"{text[at:].strip()!r} is not understood")
            self.words.append({"&&": "and", "||": "or", "!": "not"}.get(found[1], found[1]))
            at = found.end()
        self.last = None

    def wrong(self, what):
        return UsageError(f"filter {self.text!r}: {what}")

    def peek(self):
        return self.words[0] if self.words else None

    def word(self, what="a word"):
        if not self.words:
            raise self.wrong(f"expected {what} at the end")
        return self.words.pop(0)

    def parse(self):
        test = self.expression()
        if self.words:
            raise self.wrong(f"{self.words[0]!r} is not understood there")
        return test

    def expression(self):
        test = self.factor()
        while self.peek() in ("and", "or"):
            how, left, right = self.word(), test, self.factor()
            test = both(left, right) if how == "and" else either(left, right)
        return test

    def factor(self):
        if self.peek() == "not":
            self.word()
            inner = self.factor()
            return lambda fields, wire: not inner(fields, wire)
        if self.peek() == "(":
            self.word()
            inner = self.expression()
            if self.word("')'") != ")":
                raise self.wrong("a parenthesis is not closed")
            return inner
        return self.primitive()

    def primitive(self):
        """Read one primitive, as a test."""
        first = self.word("a primitive")
        if first in ("less", "greater"):
            size = self.number(1 << 16)
            return (lambda fields, wire: wire <= size) if first == "less" else (lambda fields, wire: wire >= size)
        if first == "vlan":
            return any_of([f"dl_vlan={self.number(4095)}"] if self.peek() and self.peek().isdecimal() else ["vlan_tci=0x1000/0x1000"])
        if first == "ether":
            return any_of(self.ethernet())
        protocol = first if first in PROTOCOLS else None
        word = self.word() if protocol and (self.peek() in TYPES or self.peek() in ENDS) else None if protocol else first
        if protocol and word is None:
            return any_of(PROTOCOLS[protocol])
        ends, word = self.ends(word)
        if word not in TYPES:
            if self.last and not protocol and ends is None:
                protocol, ends, kind, value = *self.last, word
            elif ends is not None:
                kind, value = "host", word
            else:
                raise self.wrong(f"{word!r} is not understood")
        else:
            kind, value = word, self.word(f"a {word}")
        self.last = protocol, ends, kind
        return self.test(protocol, ends or "or", kind, value)

    def ends(self, word):
        """Read src, dst, src or dst, src and dst; gives ("src", "dst", "or", "and" or None, the next word)."""
        if word not in ENDS:
            return None, word
        if self.peek() in ("or", "and") and len(self.words) > 1 and self.words[1] in ENDS and self.words[1] != word:
            how = self.word()
            self.word()
            return how, self.word("host, net or port")
        return word, self.word("host, net or port")

    def number(self, most):
        word = self.word("a number")
        try:
            value = int(word, 0)
        except ValueError:
            value = -1
        if not 0 <= value <= most:
            raise self.wrong(f"{word!r}: expected a number up to {most}")
        return value

    def ethernet(self):
        """Read what follows `ether`, as matches."""
        word = self.word("src, dst, host, proto, broadcast or multicast")
        if word == "proto":
            return [f"dl_type={self.number(0xffff)}"]
        if word in ("broadcast", "multicast"):
            return ["dl_dst=ff:ff:ff:ff:ff:ff" if word == "broadcast" else f"dl_dst={GROUP}"]
        ends = [word] if word in ENDS else ["src", "dst"]
        address = self.word("a MAC address")
        if word in ENDS and address == "host":
            address = self.word("a MAC address")
        if not re.fullmatch(r"([0-9a-fA-F]{1,2}:){5}[0-9a-fA-F]{1,2}", address):
            raise self.wrong(f"{address!r}: expected a MAC address")
        return [f"dl_{end}={address}" for end in ends]

    def test(self, protocol, ends, kind, value):
        """Make the test of one primitive: for each end, some matches; `or` and `and` join the ends."""
        if kind == "net" and self.peek() == "mask":
            self.word()
            value += "/" + self.word("a mask")
        make = {"host": self.network, "net": self.network, "port": self.ports, "portrange": self.ports, "proto": self.protocol}[kind]
        tests = [any_of(make(protocol, end, kind, value)) for end in (["src", "dst"] if ends in ("or", "and") else [ends])]
        return tests[0] if len(tests) == 1 else both(*tests) if ends == "and" else either(*tests)

    def network(self, protocol, end, kind, value):
        """Matches of a host or net at one end."""
        if kind == "net" and re.fullmatch(r"\d+(\.\d+){0,2}", value):         # 10, 192.168: the rest is zero
            value += ".0" * (3 - value.count(".")) + f"/{8 * (value.count('.') + 1)}"
        try:
            net = ipaddress.ip_network(value)
        except ValueError as error:
            raise self.wrong(f"{value!r}: expected an address{' or network' * (kind == 'net')} in numbers ({error})") from None
        if kind == "host" and net.prefixlen != net.max_prefixlen:
            raise self.wrong(f"{value!r} is a network: expected net in front of it")
        if net.version == 6:
            names = {None: ["ipv6"], "ip6": ["ipv6"]}.get(protocol) or [n for n in PROTOCOLS[protocol] if n.endswith("6")]
            return [f"{name},ipv6_{end}={net}" for name in names]
        names = ["ip", "arp", "rarp"] if protocol is None else [n for n in PROTOCOLS[protocol] if not n.endswith("6")]
        return [f"{name},nw_{end}={net}" for name in names]

    def ports(self, protocol, end, kind, value):
        """Matches of a port or a range of ports at one end."""
        first, dash, last = value.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) > 65535 or (dash and kind == "port"):
            raise self.wrong(f"{value!r}: expected a port{' range A-B' * (kind == 'portrange')} in numbers")
        names = [n for n in WITH_PORTS if protocol is None or n in PROTOCOLS[protocol]
                 or (protocol in ("ip", "ip6") and n.endswith("6") == (protocol == "ip6"))]
        return [f"{name},tp_{end}={block}" for name in names for block in blocks(int(first), int(last or first))]

    def protocol(self, protocol, _end, _kind, value):
        """Matches of an IP protocol number."""
        self.words.insert(0, value)
        number = self.number(255)
        return [f"{name},nw_proto={number}" for name in (PROTOCOLS[protocol] if protocol else ["ip", "ipv6"])]


def both(left, right):
    return lambda fields, wire: left(fields, wire) and right(fields, wire)


def either(left, right):
    return lambda fields, wire: left(fields, wire) or right(fields, wire)


def blocks(first, last):
    """Cut a range of ports into blocks that a value and a mask can say.

    >>> list(blocks(80, 83)), list(blocks(5, 7))
    (['80/0xfffc'], ['5/0xffff', '6/0xfffe'])
    """
    while first <= last:
        size = first & -first or 1 << 16
        while first + size - 1 > last:
            size >>= 1
        yield f"{first}/{(0x10000 - size) & 0xffff:#06x}"
        first += size
