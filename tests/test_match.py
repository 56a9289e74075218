"""Matches: reading and printing, what is refused and how it is said, and the algebra of matches."""
import itertools
import pickle
import random
import re

import openflow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowos.core import fields
from flowos.core.errors import UsageError
from flowos.core.extract import extract
from flowos.core.fields import Fields
from flowos.core.match import Match, parse_rule

# What is written, and the one text that it is printed as.
PRINTED = """
                                          -> any
any                                       -> any
ip                                        -> ip
dl_type=0x800                             -> ip
eth_type=2048,ip_proto=6,tcp_dst=80       -> tcp,tp_dst=80
tcp, tp_dst=0x50                          -> tcp,tp_dst=80
tp_dst=80 tcp                             -> tcp,tp_dst=80
ip,tcp                                    -> tcp
tcp,nw_proto=6                            -> tcp
ip,,tcp,                                  -> tcp
tcp6,tcp_src=1,tcp_dst=2                  -> tcp6,tp_src=1,tp_dst=2
udp,udp_dst=53                            -> udp,tp_dst=53
sctp6,sctp_src=1                          -> sctp6,tp_src=1
ip,nw_proto=132,sctp_dst=5                -> sctp,tp_dst=5
ip,nw_proto=2                             -> ip,nw_proto=2
ipv6,nw_proto=1                           -> ipv6,nw_proto=1
ipv6,ip_proto=58                          -> icmp6
icmp,tp_src=8,tp_dst=0                    -> icmp,icmp_type=8,icmp_code=0
icmp6,icmpv6_type=135,icmpv6_code=0       -> icmp6,icmp_type=135,icmp_code=0
icmp6,icmp_type=136,nd_target=fe80::/10   -> icmp6,icmp_type=136,nd_target=fe80::/10
icmp6,tp_src=136,nd_tll=1:0:0:0:0:0       -> icmp6,icmp_type=136,nd_tll=01:00:00:00:00:00
ip,ip_src=10.0.0.0/255.0.0.0              -> ip,nw_src=10.0.0.0/8
ip,nw_dst=10.0.1.0/255.0.255.0            -> ip,nw_dst=10.0.1.0/255.0.255.0
ip,nw_src=10.0.0.1/32                     -> ip,nw_src=10.0.0.1
ip,nw_src=0.0.0.0/0                       -> ip
ip,nw_src=*                               -> ip
ipv6,ipv6_src=FE80:0::1                   -> ipv6,ipv6_src=fe80::1
ipv6,ipv6_dst=::ffff:10.0.0.1             -> ipv6,ipv6_dst=::ffff:10.0.0.1
ipv6,ipv6_src=::1/::1                     -> ipv6,ipv6_src=::1/::1
ipv6,ipv6_label=5                         -> ipv6,ipv6_label=0x00005
ipv6,ipv6_label=5/0xff                    -> ipv6,ipv6_label=0x00005/0x000ff
arp,nw_src=10.0.0.1,ip_dst=10.0.0.2,nw_proto=2 -> arp,arp_spa=10.0.0.1,arp_tpa=10.0.0.2,arp_op=2
rarp,arp_sha=1:2:3:4:5:6                  -> rarp,arp_sha=01:02:03:04:05:06
arp,arp_tha=2:0:0:0:0:0/2:0:0:0:0:0       -> arp,arp_tha=02:00:00:00:00:00/02:00:00:00:00:00
eth_src=1:2:3:4:5:6,eth_dst=ff:ff:ff:ff:ff:ff -> dl_src=01:02:03:04:05:06,dl_dst=ff:ff:ff:ff:ff:ff
ip,nw_ttl=64,ip_ecn=1,ip_dscp=46          -> ip,nw_tos=184,nw_ecn=1,nw_ttl=64
ip,nw_tos=0xb8                            -> ip,nw_tos=184
ip,ip_frag=not_later                      -> ip,nw_frag=not_later
tcp,nw_frag=first,tp_dst=80               -> tcp,nw_frag=first,tp_dst=80
tcp,tp_src=0x400/0xfc00                   -> tcp,tp_src=0x400/0xfc00
tcp,tp_src=0/0xff00                       -> tcp,tp_src=0x0/0xff00
tcp,tp_src=80/0xffff                      -> tcp,tp_src=80
tcp,tcp_flags=+syn-ack                    -> tcp,tcp_flags=+syn-ack
tcp,tcp_flags=-ack+syn                    -> tcp,tcp_flags=+syn-ack
tcp,tcp_flags=ack|syn                     -> tcp,tcp_flags=syn|ack
tcp,tcp_flags=0x802/0xfff                 -> tcp,tcp_flags=syn|[800]
tcp,tcp_flags=0                           -> tcp,tcp_flags=0
mpls,mpls_bos=1,mpls_ttl=9,mpls_tc=2,mpls_label=0x10 -> mpls,mpls_label=16,mpls_tc=2,mpls_ttl=9,mpls_bos=1
mplsm                                     -> mplsm
dl_type=0x88cc                            -> dl_type=0x88cc
dl_type=0x5ff                             -> dl_type=0x05ff
in_port=65534                             -> in_port=LOCAL
in_port=controller                        -> in_port=CONTROLLER
in_port=4294967294                        -> in_port=LOCAL
tunnel_id=7,metadata=0x10/0xf0            -> tun_id=0x7,metadata=0x10/0xf0
tun_id=0,metadata=0/0xff                  -> tun_id=0,metadata=0/0xff
dl_vlan=5                                 -> dl_vlan=5
dl_vlan=0                                 -> dl_vlan=0
dl_vlan=0xffff                            -> vlan_tci=0x0000/0x1fff
vlan_vid=0                                -> vlan_tci=0x0000/0x1fff
vlan_tci=0                                -> vlan_tci=0x0000/0x1fff
vlan_tci=0/0x1000                         -> vlan_tci=0x0000/0x1fff
vlan_vid=0x1005                           -> dl_vlan=5
vlan_vid=0x1000/0x1000                    -> vlan_tci=0x1000/0x1000
dl_vlan_pcp=3                             -> dl_vlan_pcp=3
vlan_pcp=3,dl_vlan=5                      -> dl_vlan=5,dl_vlan_pcp=3
vlan_tci=0xf123                           -> dl_vlan=291,dl_vlan_pcp=7
vlan_tci=0x1103/0x1f0f                    -> vlan_tci=0x1103/0x1f0f
vlan_tci=0x4000/0xe000                    -> vlan_tci=0x4000/0xe000
"""
PRINTED = [tuple(part.strip() for part in line.split("->")) for line in PRINTED.splitlines()[1:]]

# What is written, and words that the refusal must contain: the field, what came, what is expected.
REFUSED = {
    # a prerequisite is missing
    "nw_src=10.0.0.1": "nw_src needs ip, arp or rarp; add one",
    "ip,tp_dst=80": "tp_dst needs tcp, udp or sctp (tcp6, udp6 or sctp6); the match says ip",
    "tp_dst=80": "tp_dst needs tcp, udp or sctp",
    "tp_dst=*": "tp_dst needs tcp",
    "udp,tcp_dst=80": "tcp_dst needs tcp or tcp6; the match says udp",
    "udp,tcp_flags=+syn": "tcp_flags needs tcp or tcp6",
    "ipv6,nw_src=10.0.0.1": "nw_src needs ip, arp or rarp; the match says ipv6",
    "ip,ipv6_src=::1": "ipv6_src needs ipv6; the match says ip",
    "ip,arp_spa=10.0.0.1": "arp_spa needs arp or rarp",
    "arp,nw_ttl=1": "nw_ttl needs ip or ipv6; the match says arp",
    "nw_proto=6": "nw_proto needs ip or ipv6, arp or rarp",
    "mpls_label=5": "mpls_label needs mpls or mplsm",
    "ip,icmp_type=8": "icmp_type needs icmp or icmp6; the match says ip",
    "icmp,icmpv6_type=3": "icmpv6_type needs icmp6; the match says icmp",
    "icmp6,nd_target=fe80::1": "nd_target needs icmp6, icmp_type=135 or 136",
    "icmp6,icmp_type=135,icmp_code=1,nd_target=::1": "nd_target needs icmp6, icmp_type=135 or 136, and no icmp_code but 0",
    "icmp6,icmp_type=136,nd_sll=1:2:3:4:5:6": "nd_sll needs icmp6, icmp_type=135",
    "icmp6,icmp_type=135,nd_tll=1:2:3:4:5:6": "nd_tll needs icmp6, icmp_type=136",
    "tcp,ip_frag=later,tp_dst=80": "tp_dst is not in later fragments",
    "icmp,ip_frag=later,icmp_type=8": "icmp_type is not in later fragments",
    "ip,ip_frag=later,ipv6_src=::1": "ipv6_src needs ipv6; the match says ip,nw_frag=later",
    # one field twice
    "ip,nw_src=10.0.0.1,nw_src=10.0.0.2": "nw_src is named twice",
    "ip,nw_src=10.0.0.1,ip_src=10.0.0.1": "nw_src and ip_src are the same field",
    "tcp,tp_dst=80,tcp_dst=80": "tp_dst and tcp_dst are the same field",
    "icmp,icmp_type=8,tp_src=8": "icmp_type and tp_src are the same field",
    "ip,nw_tos=4,ip_dscp=1": "nw_tos and ip_dscp are the same field",
    "dl_vlan=5,vlan_vid=0x1005": "dl_vlan and vlan_vid are the same field",
    "dl_vlan=5,vlan_tci=0x1006": "dl_vlan and vlan_tci speak of the same bits",
    "ip,ip": "ip is named twice",
    "ip,ip4": "ip and ip4 say the same",
    # contradictions
    "tcp,udp": "udp contradicts tcp",
    "tcp,ipv6": "ipv6 contradicts tcp",
    "ip,dl_type=0x86dd": "dl_type contradicts ip",
    "tcp,nw_proto=17": "nw_proto contradicts tcp",
    "dl_vlan=0xffff,dl_vlan_pcp=3": "dl_vlan_pcp contradicts vlan_tci=0x0000/0x1fff",
    "vlan_tci=0x0123/0x1fff": "vlan_tci=0x0123/0x1fff: asks for bits of a VLAN tag and for its absence",
    "vlan_vid=5": "vlan_vid=5: never matches without bit 0x1000, which says that there is a tag; did you mean 0x1005",
    "any,tcp": "any matches every packet and stands alone",
    # values
    "tcp,tp_dst=65536": "tp_dst=65536: out of range, expected 0 to 65535",
    "tcp,tp_dst=-1": "tp_dst=-1: expected a number from 0 to 65535",
    "tcp,tp_dst=http": "tp_dst=http: expected a number",
    "tcp,tp_dst=080": "tp_dst=080: a leading zero",
    "ip,nw_proto=256": "expected 0 to 255",
    "ip,nw_proto=6/0xf": "nw_proto=6/0xf: this field takes one exact value and no mask",
    "arp,arp_op=300": "arp_op=300: out of range, expected 0 to 255",
    "icmp,tp_src=256": "tp_src=256: out of range, expected 0 to 255",
    "icmp,tp_src=8/0xf": "tp_src=8/0xf: this field takes one exact value",
    "ip,nw_tos=3": "nw_tos=3: the low two bits are nw_ecn's",
    "ip,ip_dscp=64": "expected 0 to 63",
    "ip,nw_ecn=4": "expected 0 to 3",
    "dl_vlan=4096": "dl_vlan=4096: out of range, expected 0 to 4095, or 0xffff",
    "dl_vlan_pcp=8": "dl_vlan_pcp=8: out of range, expected 0 to 7",
    "mpls,mpls_label=1048576": "expected 0 to 1048575",
    "mpls,mpls_bos=2": "expected 0 to 1",
    "ipv6,ipv6_label=0x100000": "expected 0 to 1048575",
    "dl_type=0x10000": "expected 0 to 65535",
    "dl_type=0x100": "dl_type=0x100: no EtherType",
    "tun_id=0x10000000000000000": "expected 0 to 18446744073709551615",
    "in_port=70000": "in_port=70000: out of range, expected 0 to 65279, or LOCAL, CONTROLLER",
    "in_port=65280": "expected 0 to 65279",
    "in_port=any": "in_port=any: names where packets go; none comes from there (to match every port, leave",
    "in_port=eth0": "in_port=eth0: no such port",
    "in_port=1/1": "this field takes one exact value",
    "ip,nw_src=10.0.0.1/16": "nw_src=10.0.0.1/16: has bits that its mask leaves out; did you mean 10.0.0.0/16?",
    "ip,nw_src=10.0.0.0/33": "expected 0 to 32",
    "ip,nw_src=10.0.0.256": "expected an address like 10.0.0.1",
    "ip,nw_src=010.0.0.1": "expected an address like 10.0.0.1",
    "ip,nw_src=10.1": "expected an address",
    "ipv6,ipv6_src=1::/129": "expected 0 to 128",
    "ipv6,ipv6_src=fe80::1%eth0": "expected an address like fe80::1",
    "ipv6,ipv6_src=fe80::1/ff00::": "did you mean fe00::/ff00::?",
    "dl_src=1:2:3:4:5": "dl_src=1:2:3:4:5: expected six pairs of hex digits",
    "dl_src=01:00:00:00:00:01/01:00:00:00:00:00": "did you mean 01:00:00:00:00:00/01:00:00:00:00:00?",
    "metadata=6/3": "did you mean 0x2/3?",
    "tcp,tp_src=80/0": "has bits that its mask leaves out",
    "tcp,tcp_flags=0x1000": "expected 0 to 4095",
    "tcp,tcp_flags=+syn-syn": "tcp_flags=+syn-syn: names syn twice",
    "tcp,tcp_flags=+bogus": "no TCP flag 'bogus'",
    "tcp,tcp_flags=syn+ack": "expected a number, flags to be all there are",
    "ip,ip_frag=maybe": "expected no, yes, first, later, not_later",
    # words
    "ip,nw_src=": "nw_src has no value",
    "ip,nw_src = 10.0.0.1": "nw_src has no value; expected nw_src=VALUE, without spaces around =",
    "ip=1": "ip stands alone, but came as 'ip=1'",
    "ip,nw_src(10.0.0.1)": "cannot read 'nw_src(10.0.0.1)'",
    "IP": "unknown name 'IP'; did you mean ip?",
    "tcp,tp_dts=80": "unknown name 'tp_dts'; did you mean tp_dst?",
    "ip,ipv4_src=10.0.0.1": "unknown name 'ipv4_src'; did you mean nw_src?",
    "bogus=1": "unknown name 'bogus'",
    "priority=5,ip": "priority is no part of a match",
    "tcp,actions=drop": "actions is no part of a match",
    "reg0=1": "reg0 is a field of Open vSwitch that no packet here has",
    "eth": "eth is a field of Open vSwitch",
}


@pytest.mark.parametrize("written, printed", PRINTED)
def test_reads_and_prints(written, printed):
    match = Match(written)
    assert str(match) == printed
    assert Match(printed) == match and hash(Match(printed)) == hash(match)
    assert eval(repr(match)) == match and pickle.loads(pickle.dumps(match)) == match
    assert Match(match) == match == Match.parse(written)


@pytest.mark.parametrize("written", REFUSED)
def test_refuses_and_says_why(written):
    with pytest.raises(UsageError) as caught:
        Match(written)
    assert REFUSED[written] in str(caught.value)
    assert str(caught.value).startswith(f"match {written!r}: ")
    assert isinstance(caught.value, ValueError)


def test_refuses_what_is_no_text():
    with pytest.raises(UsageError, match="expected text, got int"):
        Match(5)
    for text, words in [("x" * 10000, r"match 'x{200}\.\.\.': unknown name 'x{60}\.\.\.'"),
                        ("metadata=" + "9" * 10000, r"metadata=9{60}\.\.\.: out of range"),
                        ("metadata=0x" + "f" * 10000, "out of range"), ("ip,nw_src=1.1.1.1/" + "1" * 10000, "expected 0 to 32"),
                        ("in_port=" + "1" * 5000, "out of range"), ("in_port=\u0663", "expected a number"),
                        ("ipv6,ipv6_src=\0", "expected an address"), ("ip\0", "cannot read")]:
        with pytest.raises(UsageError, match=words):
            Match(text)


def test_a_match_does_not_change():
    match = Match("tcp")
    with pytest.raises(AttributeError):
        match.value = 5
    assert {match: 1}[Match("ip,nw_proto=6")] == 1
    assert match != "tcp"


def test_port_names():
    ports = {"eth0": 1, "LOCAL": 7}
    assert Match("in_port=eth0", ports) == Match("in_port=1")
    assert Match("in_port=1").text(ports) == "in_port=eth0"
    assert Match("in_port=2").text(ports) == "in_port=2"
    assert Match("in_port=LOCAL", ports) == Match("in_port=7")
    with pytest.raises(UsageError, match="or eth0, LOCAL"):
        Match("in_port=eth1", ports)


def test_priority_stands_beside_the_match():
    assert parse_rule("priority=7,tcp,tp_dst=80") == (Match("tcp,tp_dst=80"), 7)
    assert parse_rule("tcp priority=0") == (Match("tcp"), 0)
    assert parse_rule("") == (Match("any"), 32768)
    for wrong in ("priority=65536", "priority=", "priority=-1", "priority=1,priority=1", "priority=07"):
        with pytest.raises(UsageError, match="priority"):
            parse_rule(wrong)


@given(st.randoms(use_true_random=False))
def test_round_trip(rng):
    packet = extract(openflow.frame(rng), in_port=1) if rng.random() < 0.5 else None
    match = Match(openflow.match(rng, packet))
    assert Match(str(match)) == match
    assert str(Match(str(match))) == str(match)
    assert not match.value & ~match.mask


@given(st.text(st.sampled_from("ip,tcp=0x18/.:dst_vlan*- "), max_size=40) | st.text(max_size=30))
def test_any_text_is_read_or_refused(text):
    try:
        match = Match(text)
    except UsageError:
        return
    assert Match(str(match)) == match


def test_order_does_not_matter():
    parts = ["tcp", "nw_src=10.0.0.0/8", "tp_dst=80", "dl_vlan=5", "in_port=1"]
    assert len({Match(",".join(order)) for order in itertools.permutations(parts)}) == 1


# ---- the algebra: held against all packets of a small world ------------------------------------

WORLD = {
    "dl_type": [0x0800, 0x86dd], "nw_proto": [6, 17], "nw_src": [10 << 24, 10 << 24 | 1, 10 << 24 | 2, 10 << 24 | 3, 0],
    "tp_dst": [80, 81, 82, 83, 0], "vlan_tci": [0, 0x1004, 0x1005, 0x3004, 0x3005],
}
PACKETS = [Fields(sum(fields.place(slot, number) for slot, number in zip(WORLD, numbers)))
           for numbers in itertools.product(*WORLD.values())]
KINDS = ["", "ip", "ipv6", "tcp", "udp", "tcp6"]
# Every value under every mask of the two low bits, and no constraint.
LOW = [(low, mask) for mask in range(4) for low in range(4) if not low & ~mask]
SOURCES = ["", *(f"nw_src=10.0.0.{low}/255.255.255.{252 | mask}" for low, mask in LOW)]
TARGETS = ["", *(f"tp_dst={80 | low}/{0xfffc | mask}" for low, mask in LOW)]
TAGS = ["", "dl_vlan=5", "dl_vlan=4", "dl_vlan=0xffff", "dl_vlan_pcp=1", "dl_vlan=5,dl_vlan_pcp=0",
        "vlan_tci=0x1000/0x1000"]


def small_matches():
    """Yield every match that these parts make."""
    for parts in itertools.product(KINDS, SOURCES, TARGETS, TAGS):
        try:
            yield Match(",".join(parts))
        except UsageError:                          # ports without tcp, an IPv4 address under ipv6
            continue


def test_subset_and_overlap_by_brute_force():
    matches = list(small_matches())
    met = [frozenset(i for i, packet in enumerate(PACKETS) if match.matches(packet)) for match in matches]
    assert len(matches) > 1000 and all(met)
    rng, subsets, overlaps = random.Random(5), 0, 0
    for _ in range(100000):
        i, j = rng.randrange(len(matches)), rng.randrange(len(matches))
        a, b = matches[i], matches[j]
        assert a.subset_of(b) == (met[i] <= met[j]), (a, b)
        assert a.overlaps(b) == b.overlaps(a) == bool(met[i] & met[j]), (a, b)
        subsets, overlaps = subsets + a.subset_of(b), overlaps + a.overlaps(b)
    assert subsets > 300 and overlaps > 10000


@given(st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_algebra_on_any_matches(rng):
    packet = extract(openflow.frame(rng), in_port=rng.choice([1, 2]))
    a, b = Match(openflow.match(rng, packet)), Match(openflow.match(rng, packet))
    assert a.subset_of(a) and a.overlaps(a) and a.subset_of(Match()) and Match().overlaps(a)
    if a.subset_of(b):
        assert a.overlaps(b) and (not a.matches(packet) or b.matches(packet))
        assert not b.subset_of(a) or a == b
    if a.matches(packet) and b.matches(packet):
        assert a.overlaps(b)
    if a.overlaps(b):
        both = Fields(a.value | b.value)            # what both name, and nothing else
        assert a.matches(both) and b.matches(both)


def test_matches_takes_names_too():
    match = Match("tcp,nw_src=10.0.0.0/8,tp_dst=80")
    assert match.matches({"dl_type": 0x800, "ip_proto": 6, "ip_src": "10.9.9.9", "tcp_dst": 80})
    assert not match.matches({"dl_type": 0x800, "nw_proto": 6, "nw_src": "11.0.0.0", "tp_dst": 80})
    with pytest.raises(UsageError, match="no field 'sport'"):
        match.matches({"sport": 1})


def test_fields():
    packet = Fields(dl_type=0x86dd, ipv6_src="fe80::1", dl_src="1:2:3:4:5:6", dl_vlan=5, nw_frag="first")
    assert packet["ipv6_src"] == 0xfe800000000000000000000000000001 and packet["dl_src"] == 0x010203040506
    assert packet["vlan_tci"] == 0x1005 and packet["ip_frag"] == 1
    assert Fields(bytes(packet)) == packet and hash(Fields(bytes(packet))) == hash(packet)
    assert "ipv6_src=0xfe80000000000000" in repr(packet) and "vlan_tci=0x1005" in repr(packet)
    for wrong in ({"tp_dst": 65536}, {"bogus": 1}, {"nw_src": "x"}):
        with pytest.raises(UsageError):
            Fields(**wrong)
    with pytest.raises(UsageError, match="at most 128 bytes"):
        Fields(1 << 8 * 128)


def test_differences_name_what_a_packet_lacks():
    packet = Fields(dl_type=0x800, nw_proto=6, nw_src="10.0.0.1", tp_dst=81)
    assert Match("tcp,tp_dst=80").differences(packet) == [("tp_dst=80", "tp_dst=81")]
    assert Match("udp,tp_dst=80").differences(packet) == [("nw_proto=17", "nw_proto=6"), ("tp_dst=80", "tp_dst=81")]
    assert Match("ipv6,ipv6_src=::1").differences(packet) == [("dl_type=0x86dd", "dl_type=0x0800")]
    assert Match("tcp,nw_src=10.0.0.0/8").differences(packet) == []
    assert Match("ip,nw_frag=not_later").differences(Fields(dl_type=0x800, nw_frag="later")) == [
        ("nw_frag=not_later", "nw_frag=later")]


def test_slots_of_fields_do_not_collide():
    taken = 0
    for slot in fields.SLOTS:
        bits = fields.place(slot, (1 << 8 * fields.SLOTS[slot][1]) - 1)
        assert not taken & bits
        taken |= bits
    assert all(field.full & taken == field.full for field in fields.FIELDS)


def test_the_documentation_names_every_name(project):
    page = (project / "docs" / "match.md").read_text()
    named = set(re.findall(r"`(\w+)`", page))
    assert named >= set(fields.NAMES) | set(fields.KEYWORDS), sorted({*fields.NAMES, *fields.KEYWORDS} - named)
    # and what its table shows as refused is
    table = page.partition("| refused |")[2].partition("\n\n")[0]
    shown = [text for row in table.splitlines()[2:] for text in re.findall(r"`([^`]+)`", row.split("|")[2])]
    assert len(shown) > 20
    for text in shown:
        with pytest.raises(UsageError):
            Match(text)
