"""The field decoders against scapy and dpkt, on random headers and on the shared captures.

Headers are built by scapy, field by field, or taken from real packets; a header cut or damaged
anywhere never raises.
"""
import struct

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowos.core.errors import UsageError
from flowos.decoders import icmp, ip4, ip6, sctp, tcp, udp

scapy = pytest.importorskip("scapy.all", reason="scapy is not installed")

U8, U16, U32 = st.integers(0, 255), st.integers(0, 0xffff), st.integers(0, 0xffffffff)
BITS = st.integers(0, 1)


# ------------------------------------------------------------------------------ IPv4

IP4_OPTIONS = st.lists(st.one_of(
    st.just(b"\x01"), st.builds(lambda data: bytes([7, len(data) + 2]) + data, st.binary(min_size=1, max_size=12)),
    st.builds(lambda kind, data: bytes([kind, len(data) + 2]) + data, st.integers(2, 255), st.binary(max_size=8))),
    max_size=4).map(b"".join).filter(lambda options: len(options) <= 40)


@given(U8, U16, U16, st.integers(0, 7), st.integers(0, 8191), U8, U8, U16, U32, U32, IP4_OPTIONS)
def test_ip4(service, length, number, flags, fragment, ttl, protocol, checksum, source, target, options):
    options += bytes(-len(options) % 4)
    data = struct.pack(">BBHHHBBHII", 0x45 + len(options) // 4, service, length, number, flags << 13 | fragment, ttl,
                       protocol, checksum, source, target) + options
    header, theirs = ip4.fields(data + b"payload"), scapy.IP(data)
    check_ip4(header, theirs)
    assert (header.dscp << 2 | header.ecn, header.fragment_offset) == (service, 8 * fragment)
    assert b"".join(bytes([o.kind]) + (bytes([len(o.data) + 2]) + o.data if o.kind > 1 else b"")
                    for o in header.options) + bytes(40) >= options


def check_ip4(header, theirs):
    assert (header.version, header.header_length, header.total_length, header.identification) == (
        theirs.version, 4 * theirs.ihl, theirs.len, theirs.id)
    assert (header.dscp << 2 | header.ecn, header.time_to_live, header.protocol, header.header_checksum) == (
        theirs.tos, theirs.ttl, theirs.proto, theirs.chksum)
    assert (header.reserved, header.dont_fragment, header.more_fragments, header.fragment_offset) == (
        bool(theirs.flags.evil), bool(theirs.flags.DF), bool(theirs.flags.MF), 8 * theirs.frag)
    assert (header.source_address, header.destination_address) == (theirs.src, theirs.dst)


def test_ip4_options():
    data = bytes.fromhex("4900002400000000400100000000000000000000 01 94040000 070704c0000201 00 01 000000")
    assert ip4.fields(data).options == (
        ip4.Ip4Option(1, "no_operation", b""), ip4.Ip4Option(148, "router_alert", b"\x00\x00"),
        ip4.Ip4Option(7, "record_route", b"\x04\xc0\x00\x02\x01"), ip4.Ip4Option(0, "end", b""))
    assert ip4.options(b"\x01\x94\x00\x00") == (ip4.Ip4Option(1, "no_operation", b""),)
    assert ip4.options(b"\x94") == ip4.options(b"\x94\x09\x00") == ()


# ------------------------------------------------------------------------------ IPv6

def test_ip6_chain():
    packet = scapy.IPv6(src="2001:db8::1", dst="2001:db8::2", tc=0xb9, fl=0xabcde, hlim=7) / scapy.IPv6ExtHdrHopByHop(
        options=[scapy.RouterAlert(value=2), scapy.PadN(optdata=bytes(4)), scapy.Jumbo(jumboplen=70000)]) \
        / scapy.IPv6ExtHdrRouting(addresses=["2001:db8::3"]) / scapy.IPv6ExtHdrDestOpt(options=[scapy.Pad1()] * 6) \
        / scapy.IPv6ExtHdrFragment(offset=0, m=1, id=0xdeadbeef) / scapy.UDP(sport=1, dport=2)
    data = bytes(packet)
    header = ip6.fields(data)
    assert (header.version, header.dscp << 2 | header.ecn, header.flow_label, header.hop_limit) == (6, 0xb9, 0xabcde, 7)
    assert (header.source_address, header.destination_address) == ("2001:db8::1", "2001:db8::2")
    assert [extension.name for extension in header.extensions] == ["hop_by_hop", "routing", "destination", "fragment"]
    assert header.extensions[0].options == ((5, b"\x00\x02"), (0xc2, struct.pack(">I", 70000)))
    assert (header.extensions[1].routing_type, header.extensions[1].segments_left) == (0, 1)
    assert header.extensions[2].options == ()
    assert header.extensions[3].fragment_offset == 0 and header.extensions[3].more_fragments is True
    assert header.extensions[3].identification == 0xdeadbeef
    assert (header.next_header, header.protocol, header.header_length) == (0, 17, len(data) - 8)
    assert header.payload_length == len(data) - 40


def test_ip6_chain_ends():
    later = bytes(scapy.IPv6() / scapy.IPv6ExtHdrFragment(offset=9, nh=60) / (b"\xff" * 30))
    header = ip6.fields(later)
    assert (len(header.extensions), header.protocol, header.extensions[0].fragment_offset) == (1, 60, 72)
    cut = bytes(scapy.IPv6(nh=0) / bytes(7))
    assert (ip6.fields(cut).extensions, ip6.fields(cut).protocol, ip6.fields(cut).header_length) == ((), None, 40)
    secured = bytes(scapy.IPv6() / scapy.AH(nh=6, payloadlen=4, icv=b"x" * 12) / bytes(20))
    assert (ip6.fields(secured).extensions[0].name, ip6.fields(secured).protocol) == ("authentication", 6)
    assert ip6.fields(secured).header_length == 40 + 24
    assert ip6.fields(bytes(scapy.IPv6(nh=50) / bytes(20))).protocol == 50
    endless = bytes(scapy.IPv6(nh=60)) + b"\x3c\x00\x01\x04\x00\x00\x00\x00" * 100
    assert len(ip6.fields(endless).extensions) == ip6.CHAIN_LIMIT


@given(U32, U16, U8.filter(lambda protocol: protocol not in ip6.NAMES), U8, st.binary(min_size=32, max_size=32))
def test_ip6(first, length, protocol, hops, addresses):
    data = struct.pack(">IHBB", first, length, protocol, hops) + addresses
    header, theirs = ip6.fields(data), dpkt.ip6.IP6(data)
    assert (header.version, header.dscp << 2 | header.ecn, header.flow_label) == (theirs.v, theirs.fc, theirs.flow)
    assert (header.payload_length, header.next_header, header.hop_limit) == (theirs.plen, theirs.nxt, theirs.hlim)
    assert header.source_address == dpkt.utils.inet_to_str(theirs.src)
    assert header.destination_address == dpkt.utils.inet_to_str(theirs.dst)


# ------------------------------------------------------------------------------ TCP, UDP

TCP_OPTIONS = st.lists(st.one_of(
    st.tuples(st.just("MSS"), U16), st.tuples(st.just("WScale"), st.integers(0, 14)), st.just(("NOP", None)),
    st.just(("SAckOK", b"")), st.tuples(st.just("Timestamp"), st.tuples(U32, U32)),
    st.lists(U32, min_size=2, max_size=2).map(lambda edges: ("SAck", tuple(edges)))), max_size=4)


@given(U16, U16, U32, U32, st.integers(0, 511), U16, U16, TCP_OPTIONS)
def test_tcp(source, target, sequence, acknowledged, flags, window, urgent, options):
    data = bytes(scapy.TCP(sport=source, dport=target, seq=sequence, ack=acknowledged, flags=flags, window=window,
                           urgptr=urgent, chksum=7, options=options))
    header = tcp.fields(data + b"payload")
    check_tcp(header, scapy.TCP(data))
    wanted = {}
    for kind, value in options:
        wanted.setdefault(kind, value)
    assert header.maximum_segment_size == wanted.get("MSS")
    assert header.window_scale == wanted.get("WScale")
    assert header.sack_permitted == ("SAckOK" in wanted)
    assert header.timestamps == wanted.get("Timestamp")
    assert header.sack_blocks == ((wanted["SAck"],) if "SAck" in wanted else ())


def check_tcp(header, theirs):
    assert (header.source_port, header.destination_port) == (theirs.sport, theirs.dport)
    assert (header.sequence_number, header.acknowledgment_number) == (theirs.seq, theirs.ack)
    assert (header.header_length, header.window, header.checksum, header.urgent_pointer) == (
        4 * theirs.dataofs, theirs.window, theirs.chksum, theirs.urgptr)
    names = {"F": "fin", "S": "syn", "R": "rst", "P": "psh", "A": "ack", "U": "urg", "E": "ece", "C": "cwr", "N": "ae"}
    assert {name for name in names.values() if getattr(header, name)} == {names[flag] for flag in str(theirs.flags)}


def test_tcp_options():
    data = bytes.fromhex("000100020000000300000004b0100005000600070101050a000000010000000200000000")
    header = tcp.fields(data)
    assert [option.name for option in header.options] == ["no_operation", "no_operation", "sack", "end"]
    assert header.sack_blocks == ((1, 2),) and header.maximum_segment_size is None
    assert tcp.options(b"\x02\x04\x05\xb4\x03\x00\x01") == (tcp.TcpOption(2, "maximum_segment_size", b"\x05\xb4"),)
    odd = tcp.fields(bytes.fromhex("0001000200000003000000048010000500060007 0203ff 0803ff 0506ffff".replace(" ", "")))
    assert (odd.maximum_segment_size, odd.timestamps, odd.sack_blocks) == (None, None, ())


@given(U16, U16, U16, U16)
def test_udp(source, target, length, checksum):
    header = udp.fields(bytes(scapy.UDP(sport=source, dport=target, len=length, chksum=checksum)))
    assert header == udp.UdpHeader(source, target, length, checksum)
    assert udp.fields(bytes(7)) is None


# ------------------------------------------------------------------------------ SCTP, ICMP

def test_sctp():
    packet = scapy.SCTP(sport=80, dport=9999, tag=0x01020304) / scapy.SCTPChunkSACK(cumul_tsn_ack=7) \
        / scapy.SCTPChunkData(tsn=5, stream_id=2, stream_seq=3, proto_id=4, beginning=1, ending=0, unordered=1,
                              data=b"hello") \
        / scapy.SCTPChunkData(tsn=6, stream_id=2, stream_seq=3, ending=1, data=b"!")
    header = sctp.fields(bytes(packet))
    assert (header.source_port, header.destination_port, header.verification_tag) == (80, 9999, 0x01020304)
    assert [chunk.name for chunk in header.chunks] == ["SACK", "DATA", "DATA"]
    first, second = header.chunks[1:]
    assert (first.tsn, first.stream, first.sequence, first.payload_protocol) == (5, 2, 3, 4)
    assert (first.beginning, first.ending, first.unordered) == (True, False, True)
    assert (first.value[12:], second.value[12:], second.tsn, second.ending) == (b"hello", b"!", 6, True)
    assert header.chunks[0].tsn is None
    assert sctp.fields(bytes(packet)[:20]).chunks[0].length == 16
    assert sctp.fields(bytes(packet)[:11]) is None
    assert sctp.chunks(b"\x00\x00\x00\x03more") == ()


def what_it_has(header):
    return (header.name, header.identifier, header.sequence_number, header.mtu, header.pointer, header.quoted)


@pytest.mark.parametrize("message, expected", [
    (scapy.ICMP(type=8, id=3, seq=4) / b"x", ("echo_request", 3, 4, None, None, None)),
    (scapy.ICMP(type=3, code=4, nexthopmtu=1400) / b"quoted",
     ("destination_unreachable", None, None, 1400, None, b"quoted")),
    (scapy.ICMP(type=12, ptr=9) / b"q", ("parameter_problem", None, None, None, 9, b"q")),
    (scapy.ICMP(type=11) / b"q", ("time_exceeded", None, None, None, None, b"q")),
    (scapy.ICMP(type=200), ("", None, None, None, None, None)),
])
def test_icmp(message, expected):
    header = icmp.fields(bytes(message))
    assert (header.kind, header.code) == (message.type, message.code)
    assert what_it_has(header) == expected


@pytest.mark.parametrize("message, expected", [
    (scapy.ICMPv6EchoReply(id=3, seq=4), ("echo_reply", 3, 4, None, None, None)),
    (scapy.ICMPv6PacketTooBig(mtu=1280) / b"quoted", ("packet_too_big", None, None, 1280, None, b"quoted")),
    (scapy.ICMPv6ParamProblem(ptr=40) / b"q", ("parameter_problem", None, None, None, 40, b"q")),
    (scapy.ICMPv6ND_NS(), ("neighbor_solicitation", None, None, None, None, None)),
])
def test_icmp6(message, expected):
    assert what_it_has(icmp.fields(bytes(scapy.IPv6() / message)[40:], 6)) == expected


def test_icmp_knows_two_versions():
    with pytest.raises(UsageError, match="not 5"):
        icmp.fields(bytes(8), 5)


# ------------------------------------------------------------------------------ damage, captures

@given(st.binary(max_size=120), st.sampled_from([4, 6]))
def test_damage_never_raises(data, version):
    for read in (ip4.fields, ip6.fields, tcp.fields, udp.fields, sctp.fields):
        header = read(data)
        assert header is None or read(data) == header
    assert icmp.fields(data, version) is None or len(data) >= 4


@pytest.mark.parametrize("name", ["tcpreplay_test.pcap", "arkime_v6.pcap", "zeek_ipv6-http-atomic-frag.pcap",
                                  "arkime_sctp-www.pcap", "libpcap_ipv6_ext_headers.pcap",
                                  "zeek_http-206_example_a.pcap"])
def test_capture(name, shared_pcaps):
    compared = 0
    for packet in scapy.rdpcap(str(shared_pcaps / name), count=400):
        for layer in (scapy.IP, scapy.IPv6, scapy.TCP, scapy.UDP, scapy.SCTP):
            if layer not in packet:
                continue
            theirs = packet[layer]
            data = theirs.original
            if layer is scapy.IP:
                check_ip4(ip4.fields(data), theirs)
            elif layer is scapy.IPv6:
                ours = ip6.fields(data)
                assert (ours.payload_length, ours.source_address, ours.destination_address) == (
                    theirs.plen, theirs.src, theirs.dst)
                if scapy.TCP in theirs:
                    assert (ours.protocol, data[ours.header_length:]) == (6, theirs[scapy.TCP].original)
            elif layer is scapy.TCP:
                check_tcp(tcp.fields(data), theirs)
                real = dpkt.tcp.TCP(data)
                assert [(o.kind, o.data) for o in tcp.fields(data).options if o.kind > 1] == [
                    (kind, value) for kind, value in dpkt.tcp.parse_opts(real.opts) if kind > 1]
            elif layer is scapy.UDP:
                assert udp.fields(data) == udp.UdpHeader(theirs.sport, theirs.dport, theirs.len, theirs.chksum)
            else:
                assert [c.kind for c in sctp.fields(data).chunks] == [
                    c.type for c in dpkt.sctp.SCTP(data).chunks]
            compared += 1
    assert compared
