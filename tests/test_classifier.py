"""The classifier against a linear search, and the fields of a frame against wire bytes."""
import ctypes
import ipaddress
import mmap
import random
import struct

import openflow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from flowos.core.classifier import Classifier
from flowos.core.errors import UsageError
from flowos.core.extract import extract, extract_inner, extract_packet
from flowos.core.fields import Fields
from flowos.core.match import Match

# ---- rules: against the definition -------------------------------------------------------------

rng = random.Random(7)
PACKETS = [extract(openflow.frame(rng), in_port=1) for _ in range(60)]
# Few matches, many of one shape, many met by the same packets.
MATCHES = [Match(text) for text in (
    "any", "ip", "ipv6", "arp", "tcp", "udp", "tcp6", "dl_vlan=5", "dl_vlan=0xffff", "ip,nw_src=10.0.0.0/8",
    "ip,nw_src=10.0.0.1", "ip,nw_src=10.0.0.2", "ip,nw_src=10.0.0.0/31", "tcp,tp_dst=80", "tcp,tp_dst=443", "udp,tp_dst=80",
    "tcp6,tp_dst=80", "ip,ip_frag=yes", "tcp,tcp_flags=+syn", "arp,arp_spa=10.0.0.0/8")]
MATCHES += [Match(openflow.match(rng, rng.choice(PACKETS))) for _ in range(30)]


def linear(rules, packet):
    """Pick a rule by the definition: the highest priority, then the oldest, of those that match."""
    best = None
    for match, priority, id in rules:               # oldest first
        if match.matches(packet) and (best is None or priority > best[1]):
            best = (match, priority, id)
    return best[2] if best else 0


class Changing(RuleBasedStateMachine):
    """Rules come and go; after every step each packet's flow is the one by the definition."""

    def __init__(self):
        super().__init__()
        self.classifier, self.rules, self.next = Classifier(), [], 1

    @rule(match=st.sampled_from(MATCHES), priority=st.sampled_from([0, 1, 5, 65535]))
    def add(self, match, priority):
        before = self.classifier.generation
        self.classifier.add(match, priority, self.next)
        self.rules.append((match, priority, self.next))
        self.next += 1
        assert self.classifier.generation > before

    @rule(count=st.integers(5, 40), random=st.randoms(use_true_random=False))
    def add_many(self, count, random):
        for _ in range(count):
            self.add(random.choice(MATCHES), random.choice([0, 1, 5]))

    @precondition(lambda self: self.rules)
    @rule(where=st.integers(0))
    def remove(self, where):
        before = self.classifier.generation
        _, _, id = self.rules.pop(where % len(self.rules))
        self.classifier.remove(id)
        assert self.classifier.generation > before and id not in self.classifier

    @precondition(lambda self: len(self.rules) > 10)
    @rule(random=st.randoms(use_true_random=False))
    def remove_most(self, random):
        for _ in range(len(self.rules) - random.randint(0, 5)):
            self.remove(random.randrange(1000))

    @precondition(lambda self: self.rules)
    @rule(match=st.sampled_from(MATCHES))
    def refuse(self, match):
        taken = self.rules[0][2]
        before = self.classifier.generation
        with pytest.raises(UsageError, match=f"flow {taken} has a rule already: "):
            self.classifier.add(match, 1, taken)
        with pytest.raises(UsageError, match="flow 0 has no rule"):
            self.classifier.remove(0)
        assert self.classifier.generation == before

    @invariant()
    def sound(self):
        self.classifier._check()
        assert len(self.classifier) == len(self.rules)
        for packet in PACKETS:
            assert self.classifier.find(packet) == linear(self.rules, packet)

    @rule(packet=st.sampled_from(PACKETS))
    def explain(self, packet):
        told = self.classifier.explain(packet)
        assert told.flow == linear(self.rules, packet)
        assert len(told.losers) + told.left_out == len(self.rules) - bool(told.flow)
        for loser, reason in told.losers:
            assert ("matches too" in reason) == loser.match.matches(packet)
        assert str(told)


Changing.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestChanging = Changing.TestCase


def test_many_rules_of_many_shapes():
    rng, rules, classifier = random.Random(11), [], Classifier()
    for id in range(1, 2001):
        match, priority = Match(openflow.match(rng, rng.choice(PACKETS))), rng.randrange(20)
        classifier.add(match, priority, id)
        rules.append((match, priority, id))
    classifier._check()
    assert classifier.statistics()["shapes"] > 500
    found = [classifier.find(packet) for packet in PACKETS]
    assert classifier.find_many(b"".join(map(bytes, PACKETS))).tolist() == found
    assert classifier.find_many(b"").tolist() == []
    with pytest.raises(UsageError, match="127 bytes are no multiple of 128"):
        classifier.find_many(bytes(127))
    assert found == [linear(rules, packet) for packet in PACKETS] and len(set(found)) > 10
    for _ in range(1900):
        _, _, id = rules.pop(rng.randrange(len(rules)))
        classifier.remove(id)
    classifier._check()
    assert [classifier.find(packet) for packet in PACKETS] == [linear(rules, packet) for packet in PACKETS]
    for _, _, id in rules:
        classifier.remove(id)
    classifier._check()
    assert classifier.statistics()["rules"] == classifier.statistics()["shapes"] == classifier.find(PACKETS[0]) == 0


@pytest.mark.parametrize("step", [1, 256, 65536, 1 << 24, 4096 + 16])
def test_rules_in_step_do_not_pile_up(step):
    """Addresses one after another, or apart by a power of two, are what real rules look like."""
    classifier = Classifier()
    for id in range(1, 10001):
        number = (id * step + (id * step >> 32)) & 0xffffffff
        classifier.add(Match(f"ip,nw_src={ipaddress.IPv4Address(number)}"), 1, id)
    seen = classifier.statistics()
    # Half-full tables with random places: a run beyond 100 among 10,000 has a chance below 1 in 10^6.
    assert seen["rules"] == 10000 and seen["shapes"] == 1 and seen["longest_probe"] < 100


def test_no_secret_is_unlucky_with_addresses_in_a_row():
    matches = [Match(f"ip,nw_src=10.0.{number >> 8}.{number & 255}") for number in range(2000)]
    for seed in range(40):
        classifier = Classifier(seed=bytes([seed]))
        for id, match in enumerate(matches, 1):
            classifier.add(match, 1, id)
        assert classifier.statistics()["longest_probe"] < 50, seed


def test_the_secret_differs_and_can_be_given():
    def layout(classifier):
        for id in range(1, 200):
            classifier.add(f"tcp,tp_dst={id}", 1, id)
        return classifier.statistics()["longest_probe"]

    assert layout(Classifier(seed=b"x")) == layout(Classifier(seed=b"x"))
    assert len({layout(Classifier()) for _ in range(20)}) > 1


def test_add_checks_its_arguments():
    classifier = Classifier()
    for arguments, words in [
            ((["ip"], 1, 1), "expected text"), (("ip", -1, 1), "priority -1"), (("ip", 65536, 1), "priority 65536"),
            (("ip", "5", 1), "priority '5'"), (("ip", 1, 0), "id 0"), (("ip", 1, 1 << 32), "id 4294967296"),
            (("nw_src=1.1.1.1", 1, 1), "nw_src needs ip")]:
        with pytest.raises(UsageError, match=words):
            classifier.add(*arguments)
    assert len(classifier) == classifier.generation == 0
    classifier.add("ip", 65535, (1 << 32) - 1)
    assert classifier.find(Fields(dl_type=0x800)) == (1 << 32) - 1


def test_ties_go_to_the_oldest_across_and_within_shapes():
    packet = Fields(dl_type=0x800, nw_proto=6, tp_dst=80)
    classifier = Classifier()
    for id, match in enumerate(["tcp", "tcp,tp_dst=80", "tcp", "ip"], 1):
        classifier.add(match, 10, id)
    assert [classifier.find(packet), classifier.remove(1), classifier.find(packet), classifier.remove(2),
            classifier.find(packet), classifier.remove(3), classifier.find(packet)] == [1, None, 2, None, 3, None, 4]
    classifier.add("tcp", 10, 1)                    # back, but younger
    assert classifier.find(packet) == 4


def test_explanation_in_words():
    classifier = Classifier()
    classifier.add("tcp,tp_dst=443", 200, 1)
    classifier.add("tcp,nw_src=10.0.0.0/8", 100, 2)
    classifier.add("tcp", 100, 3)
    classifier.add("arp", 300, 4)
    classifier.add("any", 0, 5)
    frame = ETHER + b"\x08\x00" + ip4(TCP)
    assert str(classifier.explain(frame, names={2: "office"})) == """\
flow office: tcp,nw_src=10.0.0.0/8, priority 100
  shape 1 of 5 (dl_type: 1 rule, highest priority 300)
    looked for ip: no such rule
  shape 2 of 5 (dl_type,nw_proto,tp_dst: 1 rule, highest priority 200)
    looked for ip,nw_proto=6,tp_dst=80: no such rule
  shape 3 of 5 (dl_type,nw_src/0xff000000,nw_proto: 1 rule, highest priority 100)
    looked for ip,nw_src=10.0.0.0/8,nw_proto=6: flow office, priority 100
  2 not tried: no rule of these shapes can win
  flow 4 (arp, priority 300): wants dl_type=0x0806 where the packet has dl_type=0x0800
  flow 1 (tcp,tp_dst=443, priority 200): wants tp_dst=443 where the packet has tp_dst=80
  flow 3 (tcp, priority 100): matches too, with the same priority, but is younger
  flow 5 (any, priority 0): matches too, with a lower priority than 100"""
    assert str(Classifier().explain(frame)) == "no flow"


def test_a_long_explanation_is_cut():
    classifier = Classifier()
    for id in range(1, 101):
        classifier.add(f"udp,tp_dst={id}", 1, id)
    told = classifier.explain(Fields(dl_type=0x800, nw_proto=17, tp_dst=50))
    assert told.flow == 50 and len(told.losers) == 20 and str(told).endswith("and 79 more rules that do not win")


# ---- fields: wire bytes ------------------------------------------------------------------------

ETHER = bytes.fromhex("0a0000000001 0a0000000002".replace(" ", ""))
TCP = struct.pack("!HHIIHHHH", 1234, 80, 1, 2, 0x5012, 100, 0, 0)


def ip4(body, proto=6, fragment=0, total=None, words=5):
    total = 20 + len(body) if total is None else total
    return struct.pack("!BBHHHBBH", 0x40 | words, 0xb9, total, 7, fragment, 64, proto, 0) + \
        bytes([10, 0, 0, 1, 10, 0, 0, 2]) + body


def ip6(body, proto=6, length=None):
    return struct.pack("!IHBB", 6 << 28 | 0xb9 << 20 | 0x12345, len(body) if length is None else length, proto, 64) \
        + bytes.fromhex("fe80" + "00" * 13 + "01" + "fe80" + "00" * 13 + "02") + body


def met(frame, text, **more):
    return Match(text).differences(extract(frame, **more)) == []


def test_ethernet_and_tags():
    frame = ETHER + b"\x08\x00" + ip4(TCP)
    assert met(frame, "tcp,dl_dst=0a:00:00:00:00:01,dl_src=0a:00:00:00:00:02,in_port=3,dl_vlan=0xffff,nw_src=10.0.0.1,"
               "nw_dst=10.0.0.2,nw_tos=184,nw_ecn=1,nw_ttl=64,nw_frag=no,tp_src=1234,tp_dst=80,tcp_flags=syn|ack", in_port=3)
    tagged = ETHER + bytes.fromhex("8100 6005 88a8 0007 0800".replace(" ", "")) + ip4(TCP)
    assert met(tagged, "tcp,dl_vlan=5,dl_vlan_pcp=3,tp_dst=80")
    assert met(tagged, "dl_type=0x88a8,dl_vlan=5", max_tags=1)
    assert met(tagged, "tcp,dl_vlan=5", max_tags=2)
    assert met(tagged, "dl_type=0x8100,dl_vlan=0xffff", max_tags=0)
    assert met(ETHER + bytes.fromhex("9100000508000000"), "dl_type=0x9100,dl_vlan=0xffff")
    for end in range(14):
        assert extract(frame[:end], in_port=9) == Fields(in_port=9)


def test_802_3():
    snap = b"\xaa\xaa\x03\x00\x00"
    for body, text in [(b"\x42\x42\x03" + bytes(9), "dl_type=0x5ff"), (snap + b"\x00\x08\x00" + ip4(TCP), "tcp,tp_dst=80"),
                       (snap + b"\x01\x08\x00" + ip4(TCP), "dl_type=0x5ff"), (snap + b"\x00\x01\x00", "dl_type=0x5ff")]:
        assert met(ETHER + struct.pack("!H", len(body)) + body, text)


def test_fragments():
    for fragment, text in [(0x4000, "tcp,nw_frag=no,tp_dst=80"), (0x2000, "tcp,nw_frag=first,tp_dst=80"),
                           (0x2001, "tcp,nw_frag=later"), (0x0001, "tcp,nw_frag=later")]:
        frame = ETHER + b"\x08\x00" + ip4(TCP, fragment=fragment)
        assert met(frame, text)
        assert extract(frame)["tp_dst"] == (0 if "later" in text else 80)
    first, later = "tcp6,nw_frag=first,tp_dst=80", "ipv6,nw_proto=44,nw_frag=later"
    for offset, text in [(0, "tcp6,nw_frag=no,tp_dst=80"), (1, first), (6, first), (8, later), (9, later)]:
        assert met(ETHER + b"\x86\xdd" + ip6(bytes([6, 0]) + struct.pack("!HI", offset, 1) + TCP, 44), text)


def test_ip6_extension_headers():
    # hop-by-hop, routing, destination options, authentication (24 bytes in words of four), TCP
    chain = bytes([43, 0]) + bytes(6) + bytes([60, 1]) + bytes(14) + bytes([51, 0]) + bytes(6) + \
        bytes([6, 4]) + bytes(22) + TCP
    packet = extract(ETHER + b"\x86\xdd" + ip6(chain, 0))
    assert Match("tcp6,ipv6_src=fe80::1,ipv6_dst=fe80::2,ipv6_label=0x12345,nw_tos=184,nw_ecn=1,nw_ttl=64,"
                 "tp_dst=80").matches(packet)
    # cut inside the chain: the addresses stand, what follows is unknown
    packet = extract(ETHER + b"\x86\xdd" + ip6(chain[:20], 0))
    assert packet["ipv6_src"] and not packet["nw_proto"] and not packet["ipv6_label"]


def test_arp():
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2) + ETHER[:6] + bytes([10, 0, 0, 1]) + ETHER[6:] + bytes([10, 0, 0, 2])
    text = "arp,arp_op=2,arp_spa=10.0.0.1,arp_tpa=10.0.0.2,arp_sha=0a:00:00:00:00:01,arp_tha=0a:00:00:00:00:02"
    assert met(ETHER + b"\x08\x06" + body, text) and met(ETHER + b"\x80\x35" + body, "r" + text)
    assert extract(ETHER + b"\x08\x06" + body[:27])["nw_src"] == 0
    assert extract(ETHER + b"\x08\x06" + body[:6] + b"\x01\x01" + body[8:])["nw_proto"] == 0      # opcode 257
    for at in (1, 2, 4, 5):
        assert not extract(ETHER + b"\x08\x06" + body[:at] + b"\x09" + body[at + 1:])["nw_src"]
    assert Match(text).matches(Fields(extract_packet(body, dl_type=0x0806).block))


def test_neighbour_discovery():
    target = bytes.fromhex("fe80" + "00" * 13 + "05")
    sll, tll = b"\x01\x01" + ETHER[:6], b"\x02\x01" + ETHER[6:]

    def packet(kind, options, code=0):
        return ETHER + b"\x86\xdd" + ip6(bytes([kind, code]) + bytes(6) + target + options, 58)

    assert met(packet(135, sll), "icmp6,icmp_type=135,icmp_code=0,nd_target=fe80::5,nd_sll=0a:00:00:00:00:01")
    assert met(packet(136, b"\x0e\x02" + bytes(14) + tll), "icmp6,icmp_type=136,nd_target=fe80::5,nd_tll=0a:00:00:00:00:02")
    assert extract(packet(135, sll + sll))["nd_target"] == 0                        # given twice: void
    assert extract(packet(135, sll, code=1))["nd_target"] == 0
    assert extract(packet(135, b"\x05\x00" + bytes(6) + sll))["nd_sll"] == 0        # an empty option ends the list
    assert extract(packet(128, sll))["nd_target"] == 0


def test_mpls():
    body = bytes.fromhex("00010540") + ip4(TCP)
    assert met(ETHER + b"\x88\x47" + body, "mpls,mpls_label=16,mpls_tc=2,mpls_bos=1,mpls_ttl=64")
    assert met(ETHER + b"\x88\x48" + body, "mplsm,mpls_label=16")
    assert extract(ETHER + b"\x88\x47" + body)["nw_src"] == 0
    inner = extract_inner(ETHER + b"\x88\x47" + body, 18)
    assert Match("tcp,dl_src=0a:00:00:00:00:02,tp_dst=80").matches(inner) and not inner["mpls_label"]


def test_contradicting_lengths_leave_nothing():
    for wrong in (ip4(TCP, total=19), ip4(TCP, total=41), ip4(TCP, words=4), ip4(TCP, words=15), ip4(TCP)[:19]):
        assert met(ETHER + b"\x08\x00" + wrong, "ip,nw_src=0.0.0.0,nw_proto=0")
    assert met(ETHER + b"\x86\xdd" + ip6(TCP, length=21), "ipv6,ipv6_src=::,nw_proto=0")
    for body in (TCP[:19], TCP[:12] + b"\x40" + TCP[13:], TCP[:12] + b"\x60" + TCP[13:]):      # cut, or offset wrong
        assert met(ETHER + b"\x08\x00" + ip4(body), "tcp,nw_src=10.0.0.1,tp_src=0,tp_dst=0,tcp_flags=0")
    for proto, size in ((17, 8), (132, 12)):
        assert extract(ETHER + b"\x08\x00" + ip4(TCP[:size], proto))["tp_dst"] == 80
        assert extract(ETHER + b"\x08\x00" + ip4(TCP[:size - 1], proto))["tp_dst"] == 0
    # beyond the IP packet is padding, not a header
    assert extract(ETHER + b"\x08\x00" + ip4(TCP, total=39))["tp_dst"] == 0


def test_a_snapped_frame_keeps_what_was_captured():
    frame = ETHER + b"\x08\x00" + ip4(TCP + bytes(1000))
    assert extract(frame[:54], wire=len(frame)) == extract(frame)
    assert extract(frame[:53], wire=len(frame))["tp_dst"] == 0 and extract(frame[:53], wire=len(frame))["nw_dst"]
    assert extract(frame[:33], wire=len(frame))["nw_src"] == 0
    assert extract(frame[:54])["nw_src"] == 0           # as Open vSwitch: a frame of 54 bytes contradicts itself
    assert extract(frame[:54], wire=1053)["nw_src"] == 0
    with pytest.raises(UsageError, match="54 bytes of a frame that had 53 on the wire"):
        extract(frame[:54], wire=53)


def test_packets_without_ethernet():
    four, six = ip4(TCP), ip6(TCP)
    for packet, text in ((four, "tcp,nw_src=10.0.0.1,tp_dst=80"), (six, "tcp6,ipv6_src=fe80::1,tp_dst=80")):
        fields = extract_packet(packet, in_port=2)
        assert Match(text + ",in_port=2,dl_vlan=0xffff,dl_src=00:00:00:00:00:00").matches(fields)
        for tags in (b"", b"\x81\x00\x00\x05", b"\x81\x00\x00\x05\x88\xa8\x00\x07"):
            frame = ETHER + tags + (b"\x08\x00" if packet is four else b"\x86\xdd") + packet
            assert extract_inner(frame, 14 + len(tags), in_port=2) == extract(frame, in_port=2)
    assert extract_packet(four, dl_type=0x0800) == extract_packet(four)
    assert extract_packet(b"") == extract_packet(b"\x00" * 40) == Fields()
    assert extract_packet(b"", dl_type=0x88cc) == Fields(dl_type=0x88cc)
    # as parse.h takes them: offload leaves the length 0, and a wrong one ends at the frame's end
    for total in (0, 1000):
        assert extract_packet(ip4(TCP, total=total)) == extract_packet(four)
        assert extract_packet(ip6(TCP, length=total)) == extract_packet(six)


@pytest.fixture(scope="module")
def brink():
    """Give a function that lays bytes before a page that nobody may touch: one read too far is fatal."""
    page, libc = mmap.PAGESIZE, ctypes.CDLL(None, use_errno=True)
    area = mmap.mmap(-1, 2 * page)
    keep = ctypes.c_char.from_buffer(area)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    assert libc.mprotect(ctypes.addressof(keep) + page, page, 0) == 0

    def lay(data):
        area[page - len(data):page] = data
        return memoryview(area)[page - len(data):page]

    yield lay
    libc.mprotect(ctypes.addressof(keep) + page, page, mmap.PROT_READ | mmap.PROT_WRITE)


@given(st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_frames_cut_at_every_byte(brink, rng):
    frame = openflow.frame(rng)
    for end in range(len(frame) + 1):
        cut = brink(frame[:end])
        short = extract(cut, wire=len(frame))
        for entry in (lambda: extract(cut), lambda: extract(cut, max_tags=1), lambda: extract_packet(cut),
                      lambda: extract_packet(cut, dl_type=0x0800), lambda: extract_packet(cut, dl_type=0x0806),
                      lambda: extract_inner(cut, 14), lambda: extract_inner(cut, end), lambda: extract_inner(cut, 5000)):
            entry()
        # What a snapped frame shows is true of the whole one, but for a dl_type that went with the
        # SNAP header, and tags that were cut in the middle.
        whole = extract(frame)
        for name in ("nw_src", "nw_dst", "ipv6_src", "tp_src", "tp_dst", "nw_ttl", "vlan_tci", "mpls_label"):
            assert short[name] in (0, whole[name])


@given(st.binary(max_size=120), st.integers(0, 0xffff))
def test_any_bytes(brink, data, dl_type):
    cut = brink(data)
    extract(cut), extract_packet(cut), extract_packet(cut, dl_type=dl_type), extract_inner(cut, dl_type % 64)
    for dl_type in (0x0800, 0x86dd, 0x0806, 0x8847):
        extract_packet(brink(data), dl_type=dl_type)
        extract(brink(bytes(12) + dl_type.to_bytes(2, "big") + data))
