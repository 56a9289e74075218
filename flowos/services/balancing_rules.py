"""A plan as OpenFlow rules, in the syntax of ovs-ofctl (D3.2 §2.2.6).

Two ports of the switch lead outside, machines hang on one port each, as routers on a stick:

    outside a ──►│ match the end balanced on, tag VLAN_SRC ├──► machine
    outside b ◄──│ untag                          VLAN_DST │◄──  its answer, in the other tag
                 (and the same from b to a, tags exchanged)

A packet from `a` is looked up by the end that the plan balances on, a packet from `b` by the other
end of the same name, so both directions of a connection meet.  The machine knows the direction by
the tag and returns the packet with the other one.  That makes two rules per prefix, whatever the
number of machines; the default machine has one pair per family of addresses, of lowest priority.  Traffic that is
not balanced (ARP, other protocols) passes between the outside ports.

    priority  10             what machines return: two rules, by tag
    priority  20             outside, not balanced: two rules
    priority  100 + length   balanced, longer prefixes first

Parts of an address split by ports take a rule for TCP and one for UDP, per direction.  What has no
ports there (ICMP, fragments) belongs to port 0, whose machine gets the address itself.
"""
from ipaddress import ip_address
from typing import NamedTuple

from flowos import UsageError
from flowos.services.balancing_plan import LAST_PORT
from flowos.services.balancing_space import PORT_BITS, PORTED

RETURN, BYPASS, BALANCED = 10, 20, 100
#: Bit 12 of OpenFlow 1.3's vlan_vid says that there is a tag.
TAGGED = 0x1000
#: A connection pinned to its machine comes before every prefix: 128 bits of address and 16 of port.
PINNED = 300


class Wiring(NamedTuple):
    """How the switch is wired: the outside ports, the tags of the two directions, the first group's number."""

    a: int = 1
    b: int = 2
    vlan_src: int = 100            # from a to b, before a machine; from b to a, behind it
    vlan_dst: int = 200
    group: int = 1


def rules(plan, wiring=Wiring()):
    """Give the flows of a plan: lines for `ovs-ofctl -O OpenFlow13 --bundle replace-flows SWITCH -`.

    The cookie of a balanced rule is its owner's number and 1.  `groups` gives the groups that they use, which
    must exist before.  UsageError: a machine without a port, ports or tags that clash.
    """
    check(plan, wiring)
    a, b = wiring.a, wiring.b
    lines = [f"priority={RETURN},dl_vlan={wiring.vlan_dst},actions=pop_vlan,output:{b}",
             f"priority={RETURN},dl_vlan={wiring.vlan_src},actions=pop_vlan,output:{a}",
             f"priority={BYPASS},in_port={a},actions=output:{b}", f"priority={BYPASS},in_port={b},actions=output:{a}"]
    for number, table in enumerate(plan.tables):
        tree = plan.space.trees[number]
        for key, length, owner in with_ports(tree, table):
            for outward in (True, False):
                lines += [f"priority={BALANCED + length},cookie={owner + 1:#x},{match},"
                          f"in_port={a if outward else b},actions={actions(plan, wiring, owner, outward)}"
                          for match in matches(plan.space, number, key, length, outward)]
    return lines


def groups(plan, wiring=Wiring()):
    """Give the hash groups of a plan, one per direction: lines for `ovs-ofctl -O OpenFlow13 add-groups SWITCH -`.

    Open vSwitch hashes so that both directions of a connection meet, and divides by the weights.
    """
    check(plan, wiring)
    lines = []
    for number, group in enumerate(plan.groups):
        total = sum(group.values())
        for outward in (True, False):
            buckets = [f"bucket=weight:{max(1, round(1000 * weight / total))},"
                       f"actions={to_machine(plan, wiring, index, outward)}" for index, weight in sorted(group.items())]
            lines.append(f"group_id={group_number(wiring, number, outward)},type=select,{','.join(buckets)}")
    return lines


def pins(plan, wiring, connections):
    """Give rules that keep connections at machines, whatever the plan says: two for each, above all others.

    `connections` are (proto, end a, end b, machine's name), an end (address, port or None) and end `a` behind port a.
    """
    check(plan, wiring)
    index = {machine.name: number for number, machine in enumerate(plan.machines)}
    lines = []
    for proto, one, other, machine in connections:
        if machine not in index:
            raise UsageError(f"a connection cannot be pinned to {machine!r}, which is none of the machines")
        six = ":" in one[0]
        names = ("ipv6_src", "ipv6_dst") if six else ("nw_src", "nw_dst")
        for port, (source, target), outward in ((wiring.a, (one, other), True), (wiring.b, (other, one), False)):
            match = f"{protocol(proto, six)},{names[0]}={source[0]},{names[1]}={target[0]}"
            if proto in PORTED:
                match += f",tp_src={source[1]},tp_dst={target[1]}"
            lines.append(f"priority={PINNED},cookie={index[machine] + 1:#x},{match},in_port={port},"
                         f"actions={to_machine(plan, wiring, index[machine], outward)}")
    return lines


def protocol(proto, six):
    """Name a protocol as a match does.

    >>> protocol("tcp", True), protocol("icmp", False), protocol("ip-89", False)
    ('tcp6', 'icmp', 'ip,nw_proto=89')
    """
    if proto in ("tcp", "udp", "sctp"):
        return proto + "6" * six
    if proto in ("icmp", "icmpv6"):
        return "icmp6" if six else "icmp"
    number = {"igmp": 2, "gre": 47, "esp": 50, "ah": 51}.get(proto) or proto.removeprefix("ip-")
    return f"{'ipv6' if six else 'ip'},nw_proto={number}"


def check(plan, wiring):
    """Check that ports and tags are there and differ."""
    for value, least, most, what in ((wiring.a, 1, LAST_PORT, "port a"), (wiring.b, 1, LAST_PORT, "port b"),
                                     (wiring.vlan_src, 1, 4094, "the tag VLAN_SRC"),
                                     (wiring.vlan_dst, 1, 4094, "the tag VLAN_DST")):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise UsageError(f"{what} is a number from {least} to {most}, not {value!r}")
    if wiring.a == wiring.b or wiring.vlan_src == wiring.vlan_dst:
        raise UsageError("the two outside ports differ, and so do the two tags")
    for machine in plan.machines:
        if machine.port is None or machine.port in (wiring.a, wiring.b):
            raise UsageError(f"machine {machine.name}: its rules need a port of its own, not {machine.port!r}")


def group_number(wiring, number, outward):
    """Number the group of a direction."""
    return wiring.group + 2 * number + (not outward)


def to_machine(plan, wiring, index, outward):
    """Give the actions that send a packet from outside to a machine."""
    tag = wiring.vlan_src if outward else wiring.vlan_dst
    return f"push_vlan:0x8100,set_field:{TAGGED | tag}->vlan_vid,output:{plan.machines[index].port}"


def actions(plan, wiring, owner, outward):
    """Give the actions for an owner: a machine's, or its hash group's."""
    count = len(plan.machines)
    if owner < count:
        return to_machine(plan, wiring, owner, outward)
    return f"group:{group_number(wiring, owner - count, outward)}"


def matches(space, number, key, length, outward):
    """Give the matches of a prefix in one direction: one, or one per protocol where it splits ports."""
    tree = space.trees[number]
    end = "src" if (space.end == "src") == outward else "dst"
    fields = ""
    if tree.address:
        bits = min(length, tree.address)
        field = f"{'nw' if tree.family == 'ipv4' else 'ipv6'}_{end}"
        fields = f",{field}={ip_address(key[:tree.address // 8])}/{bits}" if bits else ""
    families = {"ipv4": ("",), "ipv6": ("6",), "port": ("", "6")}[tree.family]
    if length <= tree.address:
        return [f"ip{'v6' * bool(family)}{fields}" for family in families]
    mask = -1 << (PORT_BITS - (length - tree.address)) & 0xffff
    port = int.from_bytes(key[tree.address // 8:], "big")
    return [f"{proto}{family}{fields},tp_{end}={port:#x}/{mask:#x}" for family in families for proto in PORTED]


def with_ports(tree, table):
    """Give the prefixes of a table such that what has no ports goes where port 0 does: (key, length, owner).

    An address that is split by ports gets a prefix of its own for port 0's owner; then the ports of
    all others must be named, those of the owner around the address included.
    """
    size = tree.address // 8

    def head(key, length):
        return int.from_bytes(key[:size], "big") >> (tree.address - length)

    whole, split = [], {}                                 # split: address -> {(port, bits): owner}
    for key, length, owner in table.prefixes():
        if length <= tree.address:
            whole.append((key, length, owner))
        else:
            split.setdefault(key[:size], {})[int.from_bytes(key[size:], "big"), length - tree.address] = owner
    found = [entry for entry in whole if entry[1] < tree.address or entry[0][:size] not in split]
    for address, inner in split.items():
        around = max((length, owner) for key, length, owner in whole if head(key, length) == head(address, length))[1]
        (_, _, first), *others = cut(inner, 0, 0, around)
        found.append((address + bytes(2), tree.address, first))
        found += [(address + port.to_bytes(2, "big"), tree.address + bits, owner)
                  for port, bits, owner in others if owner != first]
    return found


def cut(inner, port, bits, owner):
    """Cut the ports of an address into prefixes of one owner each: (port, bits, owner)."""
    owner = inner.get((port, bits), owner)
    size = 1 << (PORT_BITS - bits)
    if not any(length > bits and port <= other < port + size for other, length in inner):
        yield port, bits, owner
        return
    yield from cut(inner, port, bits + 1, owner)
    yield from cut(inner, port + size // 2, bits + 1, owner)
