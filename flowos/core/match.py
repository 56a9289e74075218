"""Matches of OpenFlow 1.0 to 1.3, in the words of ovs-ofctl: read, printed, compared.

A match is a value and a mask over the block of fields (fields.py): it takes a packet when
`(packet ^ value) & mask == 0`.  Its value has no bit outside its mask and every field in it has
what it needs, so equal matches are equal pairs.  What Open vSwitch drops, rounds or overrides in
silence is a `UsageError` here; docs/match.md lists the cases.
"""
import difflib
import re

from flowos.core import fields
from flowos.core.errors import UsageError
from flowos.core.values import Wrong

DEFAULT_PRIORITY = 32768            # OpenFlow's, when a rule names none
HIGHEST_PRIORITY = 65535

# Words of ovs-ofctl that are no part of what a packet looks like.
AROUND = {"actions", "action", "table", "cookie", "idle_timeout", "hard_timeout", "importance", "out_port", "out_group",
          "send_flow_rem", "check_overlap", "reset_counts", "no_packet_counts", "no_byte_counts", "duration",
          "n_packets", "n_bytes", "idle_age", "hard_age"}
# Fields of Open vSwitch that stand for its own state, or came after OpenFlow 1.3.
FOREIGN = re.compile(r"x*reg\d+|ct_\w+|tun_\w+|nsh_\w+|eth|packet_type|pkt_mark|conj_id|recirc_id|dp_hash|skb_priority|"
                     r"actset_output|nd_reserved|nd_options_type")
# What people write who come from elsewhere; the nearest by spelling would mislead.
MEANT = {"ipv4_src": "nw_src", "ipv4_dst": "nw_dst", "src": "nw_src", "dst": "nw_dst", "sport": "tp_src",
         "dport": "tp_dst", "src_port": "tp_src", "dst_port": "tp_dst", "port": "tp_dst", "proto": "nw_proto",
         "vlan": "dl_vlan", "vlan_id": "dl_vlan", "ether_type": "dl_type", "ethertype": "dl_type", "ip_ttl": "nw_ttl",
         "ttl": "nw_ttl", "tos": "nw_tos", "dscp": "ip_dscp", "icmpv4_type": "icmp_type", "icmpv4_code": "icmp_code",
         "icmpv6": "icmp6", "all": "any", "*": "any"}


class Match:
    """What a packet must look like to belong to a flow.

    Immutable and hashable; the text of a match made from a match's text is the same text.

    >>> match = Match("dl_type=0x800, ip_proto=6, ip_src=10.0.0.0/8, tcp_dst=80")
    >>> print(match)
    tcp,nw_src=10.0.0.0/8,tp_dst=80
    >>> match.subset_of(Match("ip")), match.overlaps(Match("udp"))
    (True, False)
    >>> Match("nw_src=10.0.0.1")
    Traceback (most recent call last):
    flowos.core.errors.UsageError: match 'nw_src=10.0.0.1': nw_src needs ip, arp or rarp; add one
    """

    __slots__ = ("value", "mask")

    def __init__(self, text="", ports=None):
        """Read a match; `ports` maps the names that in_port may use to port numbers."""
        if isinstance(text, Match):
            value, mask = text.value, text.mask
        elif isinstance(text, str):
            value, mask = Reader(text, ports).read()
        else:
            raise UsageError(f"match {text!r}: expected text, got {type(text).__name__}")
        object.__setattr__(self, "value", value)
        object.__setattr__(self, "mask", mask)

    @classmethod
    def parse(cls, text, ports=None):
        """Read a match, as `Match(text, ports)` does."""
        return cls(text, ports)

    def __setattr__(self, name, value):
        raise AttributeError(f"a Match does not change: cannot set {name}")

    def __reduce__(self):
        return Match, (str(self),)

    def __eq__(self, other):
        return (self.value, self.mask) == (other.value, other.mask) if isinstance(other, Match) else NotImplemented

    def __hash__(self):
        return hash((self.value, self.mask))

    def __repr__(self):
        return f"Match({str(self)!r})"

    def __str__(self):
        return self.text()

    def text(self, ports=None):
        """Print the match as ovs-ofctl does; what matches everything is `any`.

        `ports` maps names to port numbers: in_port is printed by name where it has one.
        """
        return ",".join(part for _, part in parts(self.value, self.mask, ports)) or "any"

    def matches(self, packet):
        """Say whether a packet belongs to the match: `Fields`, or a mapping of what they are made from."""
        if not isinstance(packet, fields.Fields):
            packet = fields.Fields(**packet)
        return not (packet.block ^ self.value) & self.mask

    def subset_of(self, other):
        """Say whether every packet of this match belongs to the other one too."""
        return not (other.mask & ~self.mask or (self.value ^ other.value) & other.mask)

    def overlaps(self, other):
        """Say whether some packet may belong to both."""
        return not (self.value ^ other.value) & self.mask & other.mask

    def differences(self, packet):
        """Give (what the match wants, what the packet has) for each field that a packet does not meet.

        Fields that the packet cannot have are left out: their prerequisite is listed.

        >>> Match("tcp,tp_dst=80").differences(fields.Fields(dl_type=0x800, nw_proto=6, tp_dst=443))
        [('tp_dst=80', 'tp_dst=443')]
        >>> Match("tcp,tp_dst=80").differences(fields.Fields(dl_type=0x800, nw_proto=47))
        [('nw_proto=6', 'nw_proto=47')]
        """
        wrong = []
        for field in fields.FIELDS:
            mask = self.mask & field.full
            if mask and (packet.block ^ self.value) & mask and field.need.met(self.value, self.mask) \
                    and field.need.met(packet.block, fields.EVERY_BIT):
                wrong.append((field.show(self.value & mask, mask), field.show(packet.block & mask, mask)))
        return wrong


def short(text, length):
    """Cut a text that came from outside to what an error message can show."""
    return text if len(text) <= length else text[:length] + "..."


def parts(value, mask, ports=None):
    """Yield (field or None for the keyword, text) for each part of a match, in the order of printing."""
    about_type = fields.fetch("dl_type", mask)
    kind = fields.fetch("dl_type", value) if about_type else None
    proto = fields.fetch("nw_proto", value) if fields.fetch("nw_proto", mask) else None
    hidden = set()
    for pair in ((kind, proto), (kind, None)):
        if pair in fields.PRINTED:
            hidden = {"dl_type"} if pair[1] is None else {"dl_type", "nw_proto"}
            yield None, fields.PRINTED[pair]
            break
    for field in fields.FIELDS:
        if mask & field.full and field.name not in hidden and field.need.met(value, mask):
            yield field, field.show(value, mask, ports)


class Reader:
    """One reading of one text.

    Names are taken in any order: those whose needs are met by what was read so far go first,
    until nothing more can be; what is then left lacks something, and the error says what.
    """

    def __init__(self, text, ports=None):
        self.text, self.ports = text, ports
        self.value = self.mask = 0
        self.words = []                             # keywords read
        self.fields = []                            # (name, spelling) of the fields read

    def fail(self, what):
        """Raise the error that says what is wrong with the text."""
        raise UsageError(f"match {short(self.text, 200)!r}: {what}")

    def read(self):
        """Give the match's (value, mask)."""
        found, waiting = list(self.split()), []
        for name, given in found:
            if given is not None:
                waiting.append((name, given))
            elif name != "any":
                self.keyword(name)
            elif len(found) > 1:
                self.fail("any matches every packet and stands alone; remove it or the rest")
        while waiting:
            again = [item for item in waiting if not self.field(*item)]
            if len(again) == len(waiting):
                self.lacking(again[0][0])
            waiting = again
        for name, spelling in self.fields:          # nd_target, and then icmp_code=1
            if not spelling.need.met(self.value, self.mask):
                self.lacking(name)
        return self.value, self.mask

    def split(self):
        """Yield (name, value) and (keyword, None), all of them known names."""
        for word in re.split(r"[,\s]+", self.text):
            if not word:
                continue
            name, equals, given = word.partition("=")
            if name in fields.KEYWORDS or name == "any":
                if equals:
                    self.fail(f"{name} stands alone, but came as {short(word, 60)!r}")
                yield name, None
            elif name in fields.NAMES:
                if not given:
                    self.fail(f"{name} has no value; expected {name}=VALUE, without spaces around =")
                yield name, given
            else:
                self.unknown(name)

    def unknown(self, name):
        """Say of a name that is none of a match's which one may have been meant."""
        if name == "priority":
            self.fail("priority is no part of a match and is given beside it")
        if name in AROUND:
            self.fail(f"{name} is no part of a match")
        if FOREIGN.fullmatch(name):
            self.fail(f"{name} is a field of Open vSwitch that no packet here has")
        if not re.fullmatch(r"[A-Za-z0-9_*]+", name):
            self.fail(f"cannot read {short(name, 60)!r}; expected NAME=VALUE or a keyword such as tcp, with commas between")
        known = [*fields.NAMES, *fields.KEYWORDS, "any"]
        near = [MEANT[name.lower()]] if name.lower() in MEANT else difflib.get_close_matches(name.lower(), known, 1, 0.5)
        self.fail(f"unknown name {short(name, 60)!r}" + (f"; did you mean {near[0]}?" if near else ""))

    def keyword(self, name):
        """Take a word such as tcp, which says dl_type and for some nw_proto too."""
        kind, proto = fields.KEYWORDS[name]
        for other in self.words:
            if fields.KEYWORDS[other] == (kind, proto):
                self.fail(f"{name} is named twice" if other == name else f"{other} and {name} say the same")
        self.words.append(name)
        value, mask = fields.place("dl_type", kind), fields.FIELD["dl_type"].full
        if proto is not None:
            value, mask = value | fields.place("nw_proto", proto), mask | fields.FIELD["nw_proto"].full
        self.merge(name, value, mask)

    def merge(self, name, value, mask):
        """Add a constraint; one that contradicts what was read before can never match."""
        if (self.value ^ value) & self.mask & mask:
            said = ",".join(part for _, part in parts(self.value, self.mask))
            self.fail(f"{name} contradicts {said}: no packet can be both")
        self.value |= value
        self.mask |= mask

    def field(self, name, given):
        """Take name=value if what it needs is there; say whether it was."""
        for spelling in fields.NAMES[name]:
            if spelling.need.met(self.value, self.mask):
                break
        else:
            return False
        for other, earlier in self.fields:
            if earlier.extent & spelling.extent:
                self.fail(f"{name} is named twice" if other == name else
                          f"{other} and {name} are the same field" if earlier.extent == spelling.extent else
                          f"{other} and {name} speak of the same bits")
        self.fields.append((name, spelling))
        if given != "*":
            try:
                value, mask = spelling.field.read(given, self.ports, spelling.kind)
            except Wrong as wrong:
                self.fail(f"{name}={short(given, 60)}: {wrong}")
            self.merge(name, value, mask)
        return True

    def lacking(self, name):
        """Say what a field needs that the match does not say."""
        uncut = self.mask & ~fields.FIELD["nw_frag"].full
        if any(spelling.need.met(self.value, uncut) for spelling in fields.NAMES[name]):
            self.fail(f"{name} is not in later fragments, which nw_frag=later asks for")
        *most, last = filter(None, dict.fromkeys(spelling.need.text for spelling in fields.NAMES[name]))
        needs = f"{', '.join(most)}, {last}" if most else last
        said = ",".join(part for _, part in parts(self.value, self.mask))
        self.fail(f"{name} needs {needs}; " + (f"the match says {said}" if fields.fetch("dl_type", self.mask) else
                                               "add one"))


def parse_rule(text, ports=None):
    """Read a match that may begin or end with priority=N: give (Match, priority).

    >>> parse_rule("priority=100,tcp,tp_dst=80")
    (Match('tcp,tp_dst=80'), 100)
    >>> parse_rule("udp")
    (Match('udp'), 32768)
    """
    words = [word for word in re.split(r"[,\s]+", text) if word]
    given = [word for word in words if word.partition("=")[0] == "priority"]
    if len(given) > 1:
        raise UsageError(f"rule {text!r}: priority is named twice")
    priority = DEFAULT_PRIORITY
    if given:
        number = given[0].partition("=")[2]
        if not re.fullmatch(r"0|[1-9][0-9]{0,4}", number) or int(number) > HIGHEST_PRIORITY:
            raise UsageError(f"rule {text!r}: priority={number}: expected a number from 0 to {HIGHEST_PRIORITY}")
        priority = int(number)
    return Match(",".join(word for word in words if word not in given), ports), priority
