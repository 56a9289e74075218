"""The fields of a packet that a match may name: where each lies, how it is written, what it needs.

A packet's fields are one block of SIZE bytes, `fos_fields` in fields.h.  Python holds the same
block as one integer, read little-endian, so that to mask, to compare and to intersect are single
operations.  Fields that never occur together share their place, as in Open vSwitch: `arp_spa` lies
where `nw_src` does, `icmp_type` where `tp_src` does.  This table is data; match.py is the grammar.
"""
from dataclasses import dataclass

from flowos.core import values
from flowos.core.errors import UsageError

SIZE = 128                          # bytes of fos_fields
EVERY_BIT = (1 << 8 * SIZE) - 1

# name: (offset, bytes, byte order); extract.pyx compares this with the C compiler's view
SLOTS = {
    "metadata": (0, 8, "little"), "tun_id": (8, 8, "little"),
    "dl_dst": (16, 6, "big"), "dl_src": (22, 6, "big"), "in_port": (28, 4, "little"),
    "dl_type": (32, 2, "little"), "vlan_tci": (34, 2, "little"), "mpls_lse": (36, 4, "little"),
    "nw_src": (40, 4, "little"), "nw_dst": (44, 4, "little"),
    "nw_proto": (48, 1, "little"), "nw_tos": (49, 1, "little"), "nw_ttl": (50, 1, "little"),
    "nw_frag": (51, 1, "little"), "tp_src": (52, 2, "little"), "tp_dst": (54, 2, "little"),
    "tcp_flags": (56, 2, "little"), "ipv6_label": (60, 4, "little"),
    "arp_sha": (64, 6, "big"), "arp_tha": (70, 6, "big"),
    "ipv6_src": (80, 16, "big"), "ipv6_dst": (96, 16, "big"), "nd_target": (112, 16, "big"),
}


def place(slot, number):
    """Give the block, as an integer, in which one slot holds a number and all else is zero."""
    offset, size, order = SLOTS[slot]
    return int.from_bytes(number.to_bytes(size, order), "little") << 8 * offset


def fetch(slot, block):
    """Give the number that a slot of a block holds."""
    offset, size, order = SLOTS[slot]
    number = block >> 8 * offset & (1 << 8 * size) - 1
    return int.from_bytes(number.to_bytes(size, "little"), order)


class Need:
    """What a match must say for a field to exist: a set of allowed values per slot.

    None among them allows the slot to be unmatched.  Or other needs, one of which suffices.
    `text` is what an error message calls it.
    """

    def __init__(self, text, *either, **allowed):
        self.text, self.either, self.allowed = text, either, allowed

    def met(self, value, mask):
        """Say whether a match with this value and mask ensures it."""
        if self.either:
            return any(need.met(value, mask) for need in self.either)
        for slot, allowed in self.allowed.items():
            seen = fetch(slot, mask)
            if fetch(slot, value) not in allowed if seen else None not in allowed:
                return False
        return True


IP4, IP6, ARPS, MPLSES = {0x0800}, {0x86dd}, {0x0806, 0x8035}, {0x8847, 0x8848}
# Only the first fragment has a transport header: "no", "first" and "yes" may have ports,
# "later" (bit 2 set) may not.  Open vSwitch has the rule for ports, and here it covers ICMP too.
UNCUT = {None, 0, 1}
ANYTHING = Need("")
NEED_IP4 = Need("ip", dl_type=IP4)
NEED_IP6 = Need("ipv6", dl_type=IP6)
NEED_IP = Need("ip or ipv6", dl_type=IP4 | IP6)
NEED_ARP = Need("arp or rarp", dl_type=ARPS)
NEED_MPLS = Need("mpls or mplsm", dl_type=MPLSES)
NEED_TCP = Need("tcp or tcp6", dl_type=IP4 | IP6, nw_proto={6}, nw_frag=UNCUT)
NEED_UDP = Need("udp or udp6", dl_type=IP4 | IP6, nw_proto={17}, nw_frag=UNCUT)
NEED_SCTP = Need("sctp or sctp6", dl_type=IP4 | IP6, nw_proto={132}, nw_frag=UNCUT)
NEED_PORTS = Need("tcp, udp or sctp (tcp6, udp6 or sctp6)", NEED_TCP, NEED_UDP, NEED_SCTP)
NEED_ICMP4 = Need("icmp", dl_type=IP4, nw_proto={1}, nw_frag=UNCUT)
NEED_ICMP6 = Need("icmp6", dl_type=IP6, nw_proto={58}, nw_frag=UNCUT)
NEED_ICMP = Need("icmp or icmp6", NEED_ICMP4, NEED_ICMP6)
NEED_ICMP_TOO = Need("", NEED_ICMP)     # another meaning, which error messages leave out
NEED_ND = Need("icmp6, icmp_type=135 or 136, and no icmp_code but 0", **NEED_ICMP6.allowed,
               tp_src={135, 136}, tp_dst={None, 0})
NEED_SLL = Need("icmp6, icmp_type=135, and no icmp_code but 0", **NEED_ICMP6.allowed, tp_src={135}, tp_dst={None, 0})
NEED_TLL = Need("icmp6, icmp_type=136, and no icmp_code but 0", **NEED_ICMP6.allowed, tp_src={136}, tp_dst={None, 0})


@dataclass(frozen=True, eq=False)
class Field:
    """One field under the name that it is printed with."""

    name: str
    slot: str
    kind: values.Kind               # how its values are read and printed
    need: Need
    width: int                      # bits of a value
    shift: int = 0                  # from bit 0 of the slot
    masked: bool = False            # whether a match may leave out some of its bits

    def block(self, number):
        """Give the block in which this field holds a number and all else is zero."""
        return place(self.slot, number << self.shift)

    def number(self, block):
        """Give what a block holds in this field."""
        return fetch(self.slot, block) >> self.shift & (1 << self.width) - 1

    @property
    def full(self):
        """The block in which every bit of this field is set."""
        return self.block((1 << self.width) - 1)

    def read(self, text, ports=None, kind=None):
        """Turn written text into (value, mask) blocks; `Wrong` says what was expected."""
        number, mask = (kind or self.kind).read(text, self, ports)
        return self.block(number), self.block(mask)

    def show(self, value, mask, ports=None):
        """Write this field's part of a match, `name=value[/mask]` or for a tag several."""
        return self.kind.show(self.number(value), self.number(mask), self, ports)


# In the order in which Open vSwitch prints them.
FIELDS = (
    Field("tun_id", "tun_id", values.HEX, ANYTHING, 64, masked=True),
    Field("metadata", "metadata", values.HEX, ANYTHING, 64, masked=True),
    Field("in_port", "in_port", values.PORT, ANYTHING, 32),
    Field("vlan_tci", "vlan_tci", values.TCI, ANYTHING, 16, masked=True),
    Field("dl_src", "dl_src", values.MAC, ANYTHING, 48, masked=True),
    Field("dl_dst", "dl_dst", values.MAC, ANYTHING, 48, masked=True),
    Field("dl_type", "dl_type", values.ETHERTYPE, ANYTHING, 16),
    Field("ipv6_src", "ipv6_src", values.ADDRESS6, NEED_IP6, 128, masked=True),
    Field("ipv6_dst", "ipv6_dst", values.ADDRESS6, NEED_IP6, 128, masked=True),
    Field("ipv6_label", "ipv6_label", values.LABEL, NEED_IP6, 20, masked=True),
    Field("arp_spa", "nw_src", values.ADDRESS4, NEED_ARP, 32, masked=True),
    Field("arp_tpa", "nw_dst", values.ADDRESS4, NEED_ARP, 32, masked=True),
    Field("nw_src", "nw_src", values.ADDRESS4, NEED_IP4, 32, masked=True),
    Field("nw_dst", "nw_dst", values.ADDRESS4, NEED_IP4, 32, masked=True),
    Field("arp_op", "nw_proto", values.NUMBER, NEED_ARP, 8),
    Field("nw_proto", "nw_proto", values.NUMBER, NEED_IP, 8),
    Field("arp_sha", "arp_sha", values.MAC, NEED_ARP, 48, masked=True),
    Field("arp_tha", "arp_tha", values.MAC, NEED_ARP, 48, masked=True),
    Field("nw_tos", "nw_tos", values.TOS, NEED_IP, 6, shift=2),
    Field("nw_ecn", "nw_tos", values.NUMBER, NEED_IP, 2),
    Field("nw_ttl", "nw_ttl", values.NUMBER, NEED_IP, 8),
    Field("mpls_label", "mpls_lse", values.NUMBER, NEED_MPLS, 20, shift=12),
    Field("mpls_tc", "mpls_lse", values.NUMBER, NEED_MPLS, 3, shift=9),
    Field("mpls_ttl", "mpls_lse", values.NUMBER, NEED_MPLS, 8),
    Field("mpls_bos", "mpls_lse", values.NUMBER, NEED_MPLS, 1, shift=8),
    Field("nw_frag", "nw_frag", values.FRAGMENT, NEED_IP, 2, masked=True),
    Field("icmp_type", "tp_src", values.NUMBER, NEED_ICMP, 8),
    Field("icmp_code", "tp_dst", values.NUMBER, NEED_ICMP, 8),
    Field("nd_target", "nd_target", values.ADDRESS6, NEED_ND, 128, masked=True),
    Field("nd_sll", "arp_sha", values.MAC, NEED_SLL, 48, masked=True),
    Field("nd_tll", "arp_tha", values.MAC, NEED_TLL, 48, masked=True),
    Field("tp_src", "tp_src", values.NUMBER, NEED_PORTS, 16, masked=True),
    Field("tp_dst", "tp_dst", values.NUMBER, NEED_PORTS, 16, masked=True),
    Field("tcp_flags", "tcp_flags", values.TCP_FLAGS, NEED_TCP, 12, masked=True),
)

FIELD = {field.name: field for field in FIELDS}


class Spelling:
    """One way to name a field in a match: under which need, and in which notation."""

    def __init__(self, name, need=None, kind=None):
        self.field = FIELD[name]
        self.need = need or self.field.need
        self.kind = kind or self.field.kind
        extent = self.kind.extent
        self.extent = self.field.full if extent is None else self.field.block(extent)   # bits it speaks of


# Everything that may stand before "=".  Where a name has several meanings the match decides:
# tp_src is the ICMP type under icmp, as in OpenFlow 1.0.
NAMES = {field.name: (Spelling(field.name),) for field in FIELDS} | {
    "tunnel_id": (Spelling("tun_id"),),
    "in_port_oxm": (Spelling("in_port"),),
    "eth_src": (Spelling("dl_src"),), "eth_dst": (Spelling("dl_dst"),), "eth_type": (Spelling("dl_type"),),
    "dl_vlan": (Spelling("vlan_tci", kind=values.DL_VLAN),),
    "vlan_vid": (Spelling("vlan_tci", kind=values.VLAN_VID),),
    "dl_vlan_pcp": (Spelling("vlan_tci", kind=values.VLAN_PCP),),
    "vlan_pcp": (Spelling("vlan_tci", kind=values.VLAN_PCP),),
    "nw_src": (Spelling("nw_src"), Spelling("arp_spa")), "ip_src": (Spelling("nw_src"), Spelling("arp_spa")),
    "nw_dst": (Spelling("nw_dst"), Spelling("arp_tpa")), "ip_dst": (Spelling("nw_dst"), Spelling("arp_tpa")),
    "nw_proto": (Spelling("nw_proto"), Spelling("arp_op")), "ip_proto": (Spelling("nw_proto"), Spelling("arp_op")),
    "ip_dscp": (Spelling("nw_tos", kind=values.NUMBER),), "ip_ecn": (Spelling("nw_ecn"),),
    "ip_frag": (Spelling("nw_frag"),),
    "icmpv6_type": (Spelling("icmp_type", NEED_ICMP6),), "icmpv6_code": (Spelling("icmp_code", NEED_ICMP6),),
    "tp_src": (Spelling("tp_src"), Spelling("icmp_type", NEED_ICMP_TOO)),
    "tp_dst": (Spelling("tp_dst"), Spelling("icmp_code", NEED_ICMP_TOO)),
    "tcp_src": (Spelling("tp_src", NEED_TCP),), "tcp_dst": (Spelling("tp_dst", NEED_TCP),),
    "udp_src": (Spelling("tp_src", NEED_UDP),), "udp_dst": (Spelling("tp_dst", NEED_UDP),),
    "sctp_src": (Spelling("tp_src", NEED_SCTP),), "sctp_dst": (Spelling("tp_dst", NEED_SCTP),),
}

# Words that stand alone: (dl_type, nw_proto).
KEYWORDS = {
    "ip": (0x0800, None), "ip4": (0x0800, None), "ipv4": (0x0800, None), "icmp": (0x0800, 1), "tcp": (0x0800, 6),
    "udp": (0x0800, 17), "sctp": (0x0800, 132), "ipv6": (0x86dd, None), "ip6": (0x86dd, None), "icmp6": (0x86dd, 58),
    "tcp6": (0x86dd, 6), "udp6": (0x86dd, 17), "sctp6": (0x86dd, 132), "arp": (0x0806, None), "rarp": (0x8035, None),
    "mpls": (0x8847, None), "mplsm": (0x8848, None),
}
PRINTED = {pair: word for word, pair in KEYWORDS.items() if word not in ("ip4", "ipv4", "ip6")}


class Fields:
    """The fields of one packet: what a match is held against.

    Made from a frame by `flowos.core.extract.extract`, or by name; what is not named is
    zero, as in Open vSwitch for fields that a packet has not.

    >>> packet = Fields(dl_type=0x0800, nw_proto=6, nw_src="10.1.2.3", tp_dst=80)
    >>> packet["nw_src"], packet["tp_dst"], packet["tp_src"]
    (167838211, 80, 0)
    """

    __slots__ = ("block",)

    def __init__(self, block=0, **named):
        if not isinstance(block, int):
            block = int.from_bytes(bytes(block).ljust(SIZE, b"\0"), "little")
        if not 0 <= block <= EVERY_BIT:
            raise UsageError(f"Fields: expected a block of at most {SIZE} bytes, got {block.bit_length() // 8 + 1}")
        for name, given in named.items():
            if name not in NAMES:
                raise UsageError(f"Fields: no field {name!r}")
            spelling = NAMES[name][0]
            try:
                block |= spelling.field.read(str(given), kind=spelling.kind)[0]
            except values.Wrong as wrong:
                raise UsageError(f"Fields: {name}={given!r}: {wrong}") from None
        self.block = block

    def __getitem__(self, name):
        """Give the number that a field holds."""
        if name not in NAMES:
            raise UsageError(f"Fields: no field {name!r}")
        return NAMES[name][0].field.number(self.block)

    def __bytes__(self):
        return self.block.to_bytes(SIZE, "little")

    def __eq__(self, other):
        return self.block == other.block if isinstance(other, Fields) else NotImplemented

    def __hash__(self):
        return hash(self.block)

    def __repr__(self):
        shown = (f"{slot}=0x{fetch(slot, self.block):x}" for slot in SLOTS if fetch(slot, self.block))
        return f"Fields({', '.join(shown)})"
