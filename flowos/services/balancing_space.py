"""The key that traffic is balanced on: an address, a port, or both, of one end.

`on` names the end as seen by packets that enter at the platform's first port: `src` is their
source; packets of the other way are looked up by their destination, so both directions of a
connection have one key and meet at one machine (D3.2 §2.2.6).  NAT wants `src` or `src+port`, a
firewall of many rules `dst` or `dst+port` (§2.2.3).  With a port the key is the address followed
by the port, so an address is split by ports only once it is too hot as a whole.

Keys are strings of bits in trees: one for IPv4 and one for IPv6, or a single one for ports alone.
A protocol without ports counts as port 0, and so do IP fragments, whose ports a switch does not see.
"""
import ipaddress
from typing import NamedTuple

from flowos import UsageError

#: What can be balanced on: name -> (end, has the address, has the port).
CHOICES = {"src": ("src", True, False), "dst": ("dst", True, False), "src+port": ("src", True, True),
           "dst+port": ("dst", True, True), "src-port": ("src", False, True), "dst-port": ("dst", False, True)}
#: The protocols whose ports count; for SCTP it would take rules of its own.
PORTED = ("tcp", "udp")
PORT_BITS = 16


class Tree(NamedTuple):
    """One tree of keys: how many bits of address and of port a key has."""

    family: str                    # "ipv4", "ipv6", or "port"
    address: int
    port: int

    @property
    def bits(self):
        """Bits of a key."""
        return self.address + self.port

    @property
    def width(self):
        """Bytes of a key."""
        return self.bits // 8


class Space:
    """All keys of one choice: what is balanced, how keys and prefixes are written.

    UsageError: a choice that does not exist.

    >>> space = Space("src+port")
    >>> space.parse("10.1.0.0/16")
    (0, b'\\n\\x01\\x00\\x00\\x00\\x00', 16)
    >>> space.format(0, bytes([10, 1, 2, 3, 0x80, 0]), 33), space.format(1, bytes(18), 0)
    ('10.1.2.3:32768/1', '::/0')
    """

    def __init__(self, on="src"):
        if on not in CHOICES:
            raise UsageError(f"cannot balance on {on!r}: expected one of {', '.join(CHOICES)}")
        self.on = on
        self.end, address, port = CHOICES[on]
        bits = PORT_BITS if port else 0
        self.trees = (Tree("ipv4", 32, bits), Tree("ipv6", 128, bits)) if address else (Tree("port", 0, bits),)

    def __eq__(self, other):
        return isinstance(other, Space) and other.on == self.on

    def __hash__(self):
        return hash(self.on)

    def __repr__(self):
        return f"Space({self.on!r})"

    def parse(self, text):
        """Read a prefix: (tree, key, length).

        `10.0.0.0/8`, `2001:db8::/32`; a port follows a whole address, `10.1.2.3:80/16` or
        `[2001:db8::1]:0/8`, or stands alone, `:1024/6`.  Without a length all bits count.
        UsageError: what is no prefix of this space, or has bits set beyond its length.
        """
        address, port, slash, length = self._divide(text)
        number = 0
        if self.trees[0].address:
            try:
                parsed = ipaddress.ip_address(address)
            except ValueError:
                raise UsageError(f"{text!r} is no prefix: {address!r} is no address") from None
            number = parsed.version == 6
            packed = parsed.packed
        elif address:
            raise UsageError(f"{text!r} is no prefix of ports: expected one such as :1024/6")
        else:
            packed = b""
        tree = self.trees[number]
        if port is not None and not (tree.port and port.isascii() and port.isdigit() and int(port) < 1 << PORT_BITS):
            raise UsageError(f"{text!r} is no prefix: " + (
                f"{port!r} is no port" if tree.port else f"ports are not balanced on, but {self.on}"))
        most = PORT_BITS if port is not None else tree.address
        if slash and not (length.isascii() and length.isdigit() and int(length) <= most):
            raise UsageError(f"{text!r} is no prefix: its length is 0 to {most}, not {length!r}")
        bits = (int(length) if slash else most) + (tree.address if port is not None else 0)
        key = packed + (int(port or 0).to_bytes(2, "big") if tree.port else b"")
        if int.from_bytes(key, "big") & ((1 << (tree.bits - bits)) - 1):
            raise UsageError(f"{text!r} is no prefix: it has bits set beyond its length")
        return int(number), key, bits

    def _divide(self, text):
        """Take the text of a prefix apart: address, port or None, "/" or "", length."""
        if not isinstance(text, str):
            raise UsageError(f"{text!r} is no prefix: expected text such as '10.0.0.0/8'")
        front, slash, length = text.strip().partition("/")
        if front.startswith("["):
            address, bracket, port = front[1:].partition("]")
            if not bracket or (port and not port.startswith(":")):
                raise UsageError(f"{text!r} is no prefix: expected [ADDRESS]:PORT")
            return address, port[1:] if port else None, slash, length
        address, colon, port = front.rpartition(":")
        if colon and ":" not in address:                   # more colons than one: IPv6
            return address, port, slash, length
        return front, None, slash, length

    def format(self, tree, key, length):
        """Write a prefix as `parse` reads it."""
        family, address_bits, _ = self.trees[tree]
        key = bytes(key)
        address = str(ipaddress.ip_address(key[:address_bits // 8])) if address_bits else ""
        if length <= address_bits and address_bits:
            return f"{address}/{length}"
        port = int.from_bytes(key[address_bits // 8:][:2], "big")
        if family == "ipv6":
            address = f"[{address}]"
        return f"{address}:{port}/{length - address_bits}"

    def key(self, address, port, proto):
        """Give (tree, key) of an end: its address as text, its port or None, its protocol."""
        packed = ipaddress.ip_address(address).packed
        tree = self.trees[0] if len(packed) == 4 or len(self.trees) == 1 else self.trees[1]
        key = packed if tree.address else b""
        if tree.port:
            key += (port if proto in PORTED and port is not None else 0).to_bytes(2, "big")
        return (0 if tree is self.trees[0] else 1), key

    def finest(self, ipv4=None, ipv6=None, port=None):
        """Give the longest prefix that may be used in each tree, in bits: all, unless said otherwise.

        A limit on the address keeps addresses together; one on the port, the last bits of ports.
        """
        limits = []
        for tree in self.trees:
            limit = {"ipv4": ipv4, "ipv6": ipv6, "port": None}[tree.family]
            if limit is not None and not 0 <= limit <= tree.address:
                raise UsageError(f"the finest prefix of {tree.family} has 0 to {tree.address} bits, not {limit}")
            if port is not None and not (tree.port and 0 <= port <= tree.port):
                raise UsageError(f"the finest prefix of ports has 0 to {PORT_BITS} bits, where ports are balanced on, "
                                 f"not {port}")
            limits.append(limit if limit is not None else tree.address + (tree.port if port is None else port))
        return tuple(limits)
