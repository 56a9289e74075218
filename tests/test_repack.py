"""Packets out: rebuilt, rewritten, split and cut frames, against scapy's own and tshark's verdicts."""
import subprocess

import pytest
import scapy.all as scapy
from hypothesis import given
from hypothesis import strategies as st

from flowos import UsageError
from flowos.core.repack import fragments, rebuild, rewrite, rewrite_quote, split

U8, U16, U32 = (st.integers(0, 2 ** bits - 1) for bits in (8, 16, 32))
PAYLOAD = st.binary(max_size=80)
IP4 = st.tuples(U32, U32).map(lambda a: tuple(".".join(str(n >> s & 255) for s in (24, 16, 8, 0)) for n in a))


def valid(frame, payload=None, layer=scapy.Ether):
    """Give scapy's own rendering of a frame, lengths and checksums made anew, around another payload if given."""
    packet = layer(bytes(frame)) if isinstance(frame, bytes) else frame
    if payload is not None:
        body = packet[scapy.TCP] if scapy.TCP in packet else packet[scapy.UDP]
        body.remove_payload()
        body.add_payload(scapy.Raw(payload))
    for part in packet.layers():
        for name in ("len", "plen", "chksum", "cksum"):
            try:
                packet[part].delfieldval(name)
            except (AttributeError, KeyError, ValueError):
                pass
    return bytes(packet)


ETHERNET = scapy.Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
LINKS = st.sampled_from([
    ETHERNET,
    ETHERNET / scapy.Dot1Q(vlan=5) / scapy.Dot1Q(vlan=6),
    ETHERNET / scapy.PPPoE(sessionid=7) / scapy.PPP(),
])
ROUTED = scapy.IPv6(src="2001:db8::1", dst="2001:db8::2") / scapy.IPv6ExtHdrHopByHop() \
    / scapy.IPv6ExtHdrRouting(addresses=["2001:db8::9"]) / scapy.IPv6ExtHdrDestOpt()
NETWORKS = st.one_of(
    IP4.map(lambda ends: scapy.IP(src=ends[0], dst=ends[1], id=77)),
    st.just(scapy.IP(src="10.0.0.1", dst="10.0.0.2", options=[scapy.IPOption_Timestamp(), scapy.IPOption_NOP()])),
    st.just(scapy.IPv6(src="2001:db8::1", dst="fe80::2", fl=9)), st.just(ROUTED))
OPTIONS = st.sampled_from([
    [], [("NOP", None), ("NOP", None), ("Timestamp", (5, 6))],
    [("NOP", None), ("SAck", (1, 2, 3, 4)), ("Timestamp", (1, 1))],
    [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (9, 0)), ("NOP", None), ("WScale", 7)]])
TRANSPORTS = st.one_of(
    st.builds(lambda s, a, o: scapy.TCP(sport=1025, dport=7, seq=s, ack=a, flags="PA", options=o), U32, U32, OPTIONS),
    st.just(scapy.UDP(sport=1025, dport=9)))
FRAMES = st.builds(lambda link, ip, transport, payload: bytes(link / ip / transport / payload),
                   LINKS, NETWORKS, TRANSPORTS, PAYLOAD)


def payload_offset(frame):
    """Where the transport payload of one of FRAMES begins, by scapy."""
    packet = scapy.Ether(frame)
    body = packet[scapy.TCP] if scapy.TCP in packet else packet[scapy.UDP]
    return len(frame) - len(body.payload)


@given(FRAMES, st.lists(PAYLOAD, max_size=5), st.binary(max_size=9))
def test_rebuild(frame, pieces, padding):
    assert rebuild(frame + padding, pieces) == valid(frame, b"".join(pieces))


@given(FRAMES, PAYLOAD, st.lists(st.tuples(U32, U32), max_size=4), U32, U32, U16, U8)
def test_rebuild_sets_fields(frame, payload, sack, seq, ack, window, flags):
    packet = scapy.Ether(frame)
    made = rebuild(frame, payload, seq=seq, ack=ack, window=window, flags=flags, sport=1025, dport=9, tsval=0xabc,
                   tsecr=0xdef) if scapy.TCP in packet else rebuild(frame, payload, sport=1025, dport=9)
    if scapy.TCP in packet:
        tcp = packet[scapy.TCP]
        tcp.seq, tcp.ack, tcp.window, tcp.flags = seq, ack, window, flags | (int(tcp.flags) & 256)
        tcp.options = [(kind, (0xabc, 0xdef)) if kind == "Timestamp" else (kind, value) for kind, value in tcp.options]
        tcp.dport = 9
        made_tcp = scapy.Ether(rebuild(frame, payload, sack=sack))[scapy.TCP]
        blocks = [value for kind, value in made_tcp.options if kind == "SAck"]
        room = sum(len(value) // 2 for kind, value in tcp.options if kind == "SAck")
        assert blocks == ([sum(sack[:room], ())] if sack and room else [])
        assert made_tcp.dataofs == tcp.dataofs
    assert made == valid(packet, payload)


@given(FRAMES, PAYLOAD, st.lists(st.tuples(U32, U32), max_size=4), st.booleans())
def test_rebuild_replaces_options(frame, payload, sack, stamped):
    packet = scapy.Ether(frame)
    if scapy.TCP not in packet:
        assert rebuild(frame, payload, options=bytes(4)) == rebuild(frame, payload)
        return
    options = [("NOP", None)] * 2 + [("Timestamp", (3, 4))] if stamped else []
    if sack[:3]:
        options += [("NOP", None)] * 2 + [("SAck", sum(sack[:3], ()))]
    head = scapy.TCP(options=options)
    raw = bytes(head)[20:]
    made = rebuild(frame, payload, options=raw)
    assert made == valid(made) and made.endswith(payload)
    assert bytes(scapy.Ether(made)[scapy.TCP])[20:20 + len(raw)] == raw
    assert len(made) == payload_offset(frame) - 4 * (packet[scapy.TCP].dataofs - 5) + len(raw) + len(payload)


def test_rebuild_inside_a_tunnel_leaves_the_outside():
    inner = scapy.IP(src="10.9.9.9", dst="10.8.8.8") / scapy.TCP(sport=1, dport=2, seq=5) / b"abcdef"
    outer = ETHERNET / scapy.IP(src="192.0.2.1", dst="192.0.2.2") / scapy.GRE()
    frame = bytes(outer / inner)
    made = rebuild(frame, b"xy")
    assert made[:38] == frame[:38]
    assert made[38:] == valid(bytes(inner), b"xy", scapy.IP)


def test_what_has_no_checksum_keeps_none():
    frame = bytes(scapy.IP() / scapy.UDP(sport=1, dport=9, chksum=0) / b"abc")
    made = rebuild(frame, b"longer payload", link=101)
    assert made[26:28] == b"\0\0" and made[24:26] == (8 + 14).to_bytes(2, "big")
    # UDP-Lite: the coverage stays while it can (RFC 3828)
    lite = bytes(scapy.IP(proto=136) / (b"\0\1\0\11\0\14\0\0" + b"12345678"))
    short = rebuild(lite, b"1", link=101)
    assert short[24:26] == b"\0\0"


def test_a_udp_sum_of_zero_is_written_ffff():
    # The last word is chosen so that all else sums to 0xffff.
    frame = bytes(scapy.IP(src="0.0.0.1", dst="0.0.0.2") / scapy.UDP(sport=1, dport=2) / b"xx")
    made = rebuild(frame, b"\0\0", link=101)
    rest = int.from_bytes(made[26:28], "big")
    assert rebuild(frame, rest.to_bytes(2, "big"), link=101)[26:28] == b"\xff\xff"


def test_what_does_not_fit_is_refused():
    frame = bytes(scapy.IP() / scapy.UDP(sport=1, dport=9))
    assert len(rebuild(frame, bytes(65535 - 28), link=101)) == 65535
    with pytest.raises(UsageError, match="does not fit"):
        rebuild(frame, bytes(65535 - 27), link=101)
    with pytest.raises(UsageError, match="no whole IP packet"):
        rebuild(b"\0" * 60, b"")
    with pytest.raises(UsageError, match="no header field"):
        rebuild(frame, b"", link=101, colour=1)


# ------------------------------------------------------------------------------ split

@given(FRAMES.filter(lambda f: scapy.TCP in scapy.Ether(f)), st.binary(max_size=300), st.integers(1, 120), U8, U32, U16)
def test_split(frame, payload, mss, flags, seq, urgent):
    made = split(frame, payload, mss, flags=flags, seq=seq, urgent=urgent, id_add=3)
    assert len(made) == max(1, -(-len(payload) // mss))
    at, joined = seq, b""
    for i, out in enumerate(made):
        assert out == valid(out)
        packet = scapy.Ether(out)
        tcp, last = packet[scapy.TCP], i == len(made) - 1
        body = bytes(tcp.payload)
        assert tcp.seq == at and len(body) <= mss
        wanted = flags & ~0x82 if i else flags
        wanted = wanted if last else wanted & ~9
        begun = mss * i
        if flags & 32 and i and urgent <= begun:
            wanted &= ~32
        assert int(tcp.flags) & 255 == wanted
        assert not wanted & 32 or tcp.urgptr == urgent - begun
        if scapy.IP in packet:
            assert packet[scapy.IP].id == (scapy.Ether(frame)[scapy.IP].id + 3 + i) & 0xffff
        at = (at + len(body) + (1 if wanted & 2 else 0)) & 0xffffffff
        joined += body
    assert joined == payload


# ------------------------------------------------------------------------------ rewrite

def wrong_by(frame):
    """How far each checksum of a frame is from the right one, in one's complement."""
    right = valid(frame)
    packet, mended = scapy.Ether(frame), scapy.Ether(right)
    found = []
    for layer in (scapy.IP, scapy.TCP, scapy.UDP):
        if layer in packet:
            found.append((packet[layer].chksum - mended[layer].chksum) % 0xffff)
    return found


def keeps_what_is_wrong(frame, fields, wrong):
    """Rewrite a frame whose transport checksum is `wrong` too high: it stays so, and comes back as it was.

    Of the two zeros of one's complement, UDP's senders write 0xffff, for 0 says that there is no checksum (RFC 768).
    """
    packet = scapy.Ether(frame)
    tcp = scapy.TCP in packet
    where = payload_offset(frame) - (4 * packet[scapy.TCP].dataofs - 16 if tcp else 2)
    old = int.from_bytes(frame[where:where + 2], "big")
    damaged = bytearray(frame)
    damaged[where:where + 2] = ((old + wrong) % 0xffff or (0 if tcp else 0xffff)).to_bytes(2, "big")
    version = 4 if scapy.IP in packet else 6
    fields = {**fields, "sport": 1025, "src": "198.51.100.7" if version == 4 else "2001:db8::77",
              "dst": "198.51.100.8" if version == 4 else "2001:db8::78"}
    made = rewrite(bytes(damaged), **fields)
    assert len(made) == len(frame) and made[payload_offset(frame):] == frame[payload_offset(frame):]
    assert wrong_by(made) == wrong_by(bytes(damaged))
    after = scapy.Ether(made)
    if tcp:
        assert (after[scapy.TCP].seq, after[scapy.TCP].ack, after[scapy.TCP].window) == (
            fields["seq"], fields["ack"], fields["window"])
    # and back again: every byte as before
    body = packet[scapy.TCP if tcp else scapy.UDP]
    ends = packet[scapy.IP if version == 4 else scapy.IPv6]
    back = {"sport": body.sport, "dport": body.dport, "src": ends.src, "dst": ends.dst}
    if tcp:
        back |= {"seq": body.seq, "ack": body.ack, "window": body.window, "flags": int(body.flags) & 255}
        for kind, value in body.options:
            if kind == "Timestamp":
                back |= {"tsval": value[0], "tsecr": value[1]}
        if any(kind == "SAck" for kind, _ in body.options):
            return
    assert rewrite(made, **back) == bytes(damaged)


FIELDS = st.fixed_dictionaries({"dport": st.sampled_from([7, 9]), "seq": U32, "ack": U32, "window": U16, "flags": U8, "tsval": U32,
                                "tsecr": U32, "sack": st.lists(st.tuples(U32, U32), max_size=4)})


@given(FRAMES, FIELDS, st.sampled_from([0, 1, 0x1234]))
def test_rewrite_keeps_a_checksum_as_wrong_as_it_was(frame, fields, wrong):
    keeps_what_is_wrong(frame, fields if scapy.TCP in scapy.Ether(frame) else {"dport": fields["dport"]}, wrong)


@pytest.mark.parametrize("wrong", [0, 1, 0x1234])
@pytest.mark.parametrize("network", [scapy.IP(src="10.0.0.1", dst="10.0.0.2", id=77), scapy.IPv6(src="2001:db8::1", dst="fe80::2", fl=9), ROUTED])
def test_checksums_that_are_zero_are_rewritten(network, wrong):
    """Right before, right after, or one off: where the two zeros of one's complement could be taken for each other."""
    segment = scapy.TCP(sport=1025, dport=7, flags="PA")
    zero = scapy.Ether(bytes(ETHERNET / network / segment))[scapy.TCP].chksum
    fields = {"dport": 7, "ack": 0, "window": 8192, "flags": 24, "tsval": 0, "tsecr": 0, "sack": []}
    for off in (0, 1, 2, 0xfffe):
        segment.seq = (zero - off) % 0xffff
        frame = bytes(ETHERNET / network / segment)
        after = scapy.Ether(valid(rewrite(frame, seq=0, sport=1025, dport=7, src="198.51.100.7" if network.version == 4 else "2001:db8::77",
                                          dst="198.51.100.8" if network.version == 4 else "2001:db8::78")))[scapy.TCP].chksum
        for seq in (after, (after - 1) % 0xffff, segment.seq, 0):
            keeps_what_is_wrong(frame, {**fields, "seq": seq}, wrong)
    zero = scapy.Ether(bytes(ETHERNET / network / scapy.UDP(sport=1025, dport=9) / b"\0\0"))[scapy.UDP].chksum
    for off in (0, 1, 2, 0xfffe):
        frame = bytes(ETHERNET / network / scapy.UDP(sport=1025, dport=9) / ((zero - off) % 0xffff).to_bytes(2, "big"))
        keeps_what_is_wrong(frame, {"dport": 7}, wrong)


@given(FRAMES, st.integers(0, 40))
def test_a_truncated_packet_is_rewritten_as_far_as_it_is_there(frame, kept):
    packet = scapy.Ether(frame)
    if scapy.TCP not in packet:
        return
    start = payload_offset(frame) - 4 * packet[scapy.TCP].dataofs
    cut = frame[:start + min(20 + kept, len(frame) - start)]
    whole = rewrite(frame, seq=1, ack=2, window=3)
    assert rewrite(cut, seq=1, ack=2, window=3) == whole[:len(cut)]


@pytest.mark.parametrize("ip, icmp", [
    (scapy.IP(src="192.0.2.1", dst="10.0.0.1"), scapy.ICMP(type=8, id=7, seq=1)),
    (scapy.IPv6(src="2001:db8::1", dst="2001:db8::2"), scapy.ICMPv6EchoRequest(id=7, seq=1)),
])
def test_an_icmp_identifier_is_a_port(ip, icmp):
    target = "10.0.0.9" if ip.version == 4 else "2001:db8::9"
    frame = bytes(ETHERNET / ip / icmp / b"ping")
    made = rewrite(frame, sport=4711, dst=target)
    ip.dst, icmp.id = target, 4711
    assert made == bytes(ETHERNET / ip / icmp / b"ping")


@pytest.mark.parametrize("kept", [8, 20, 24, 60])
@pytest.mark.parametrize("transport", [scapy.TCP(sport=5, dport=6, seq=9, flags="A"), scapy.UDP(sport=5, dport=6)])
@pytest.mark.parametrize("version", [4, 6])
def test_an_icmp_error_is_rewritten_inside(version, transport, kept):
    def error(source, port, seq):
        inner = (scapy.IP(src=source, dst="203.0.113.5", id=3) if version == 4 else scapy.IPv6(src=source)) / transport
        inner[transport.__class__].sport = port
        if scapy.TCP in inner:
            inner[scapy.TCP].seq = seq
        quote = bytes(inner / (b"x" * 20))[:(20 if version == 4 else 40) + kept]
        outer = scapy.IP(src="192.0.2.1", dst="10.0.0.1") / scapy.ICMP(type=3, code=4, nexthopmtu=1400) \
            if version == 4 else scapy.IPv6(src="2001:db8::1", dst="2001:db8::2") / scapy.ICMPv6PacketTooBig()
        return bytes(ETHERNET / outer / scapy.Raw(quote))
    before, after = ("10.0.0.1", "198.51.100.9") if version == 4 else ("2001:db8::7", "2001:db8::1:7")
    fields = {"src": after, "sport": 77} | ({"seq": 99} if isinstance(transport, scapy.TCP) else {})
    assert rewrite_quote(error(before, 5, 9), **fields) == error(after, 77, 99)
    with pytest.raises(UsageError):
        rewrite_quote(bytes(ETHERNET / scapy.IP() / scapy.ICMP() / (b"E" * 60)), sport=1)


def test_a_field_that_is_not_there_is_an_error():
    udp = bytes(ETHERNET / scapy.IP() / scapy.UDP())
    with pytest.raises(UsageError, match="no such field"):
        rewrite(udp, seq=1)


# ------------------------------------------------------------------------------ fragments

@given(st.binary(min_size=1, max_size=2000), st.integers(68, 700), st.booleans())
def test_fragments_of_ip4(payload, mtu, optioned):
    options = [scapy.IPOption_RR(), scapy.IPOption_Security()] if optioned else []
    packet = ETHERNET / scapy.IP(src="10.0.0.1", dst="10.0.0.2", id=9, options=options) \
        / scapy.UDP(sport=1025, dport=2) / payload
    frame = bytes(packet)
    made = fragments(frame, mtu)
    assert all(len(out) - 14 <= mtu for out in made)
    assert all(out == valid(out) or len(made) == 1 for out in made)
    if len(made) > 1:
        parts = [scapy.Ether(out) for out in made]
        assert all(bytes(part[scapy.IP])[20:24] == bytes(parts[1][scapy.IP])[20:24] for part in parts[2:])
        whole = scapy.defragment(parts)
        assert len(whole) == 1 and bytes(whole[0][scapy.IP].payload) == bytes(packet[scapy.IP].payload)
        # what is a fragment already is cut further
        again = [scapy.Ether(piece) for out in made for piece in fragments(out, 68)]
        whole = scapy.defragment(again)
        assert len(whole) == 1 and bytes(whole[0][scapy.IP].payload) == bytes(packet[scapy.IP].payload)
        if optioned:
            later = bytes(parts[1][scapy.IP])[20:4 * parts[1][scapy.IP].ihl]
            first = bytes(parts[0][scapy.IP])[20:4 * parts[0][scapy.IP].ihl]
            assert first[0] == 7 and later[0] == 1 and 0x82 in later


@given(st.binary(min_size=1, max_size=3000), st.integers(140, 700), st.booleans())
def test_fragments_of_ip6(payload, mtu, routed):
    ip = ROUTED.copy() if routed else scapy.IPv6(src="2001:db8::1", dst="2001:db8::2")
    frame = bytes(ETHERNET / ip / scapy.UDP(sport=1025, dport=2) / payload)
    made = fragments(frame, mtu, identification=0xfeed)
    assert all(len(out) - 14 <= mtu for out in made)
    if len(made) > 1:
        parts = [scapy.Ether(out)[scapy.IPv6] for out in made]
        assert {part[scapy.IPv6ExtHdrFragment].id for part in parts} == {0xfeed}
        assert all((scapy.IPv6ExtHdrRouting in part) == routed for part in parts)
        assert all(part.plen == len(bytes(part)) - 40 for part in parts)
        whole = bytes(scapy.defragment6(parts))
        assert whole == frame[14:]


def test_fragments_that_must_not_be():
    frame = bytes(ETHERNET / scapy.IP(flags="DF") / scapy.UDP() / bytes(600))
    assert fragments(frame, 1500) == [frame]
    for refused in (frame, bytes(ETHERNET / scapy.ARP()), frame[:300], b""):
        with pytest.raises(UsageError, match="no IP packet"):
            fragments(refused, 500)


# ------------------------------------------------------------------------------ what tshark says

def test_tshark_finds_every_checksum_right(tshark, tmp_path, shared_pcaps):
    packets = []
    for name in ("tcpreplay_test.pcap", "zeek_http-206_example_a.pcap", "libpcap_ipv6_ext_headers.pcap"):
        for packet in scapy.rdpcap(str(shared_pcaps / name), count=300):
            frame = bytes(packet)
            try:
                made = rebuild(frame, b"another payload")
            except UsageError:
                continue
            packets.append(made)
            if scapy.TCP in packet:
                packets.append(rewrite(made, seq=1, ack=77, window=5))
    assert len(packets) > 200
    out = tmp_path / "out.pcap"
    scapy.wrpcap(str(out), [scapy.Ether(frame) for frame in packets])
    checks = [word for name in ("ip", "tcp", "udp") for word in ("-o", f"{name}.check_checksum:TRUE")]
    verdict = subprocess.run(
        [tshark, "-r", str(out), *checks, "-T", "fields", "-e", "ip.checksum.status", "-e", "tcp.checksum.status",
         "-e", "udp.checksum.status"], capture_output=True, text=True, check=True)
    statuses = [set(line.replace(",", " ").split()) for line in verdict.stdout.splitlines()]
    assert len(statuses) == len(packets)
    assert not any("0" in status for status in statuses)
    assert sum("1" in status for status in statuses) == len(packets)


# ------------------------------------------------------------------------------ damage

def attempt(function, *arguments, **fields):
    """Call; what is refused is refused by UsageError."""
    try:
        return function(*arguments, **fields)
    except UsageError:
        return None


ERRORS = st.sampled_from([
    bytes(ETHERNET / scapy.IP() / scapy.ICMP(type=3) / scapy.IP() / scapy.TCP() / b"abc"),
    bytes(ETHERNET / scapy.IPv6() / scapy.ICMPv6TimeExceeded() / ROUTED / scapy.UDP()),
])


@given(st.one_of(FRAMES, ERRORS), st.lists(st.tuples(st.integers(0, 120), U8), max_size=6), st.integers(0, 200), PAYLOAD)
def test_damage_is_refused_or_survived(frame, changes, kept, payload):
    damaged = bytearray(frame)
    for place, value in changes:
        if place < len(damaged):
            damaged[place] = value
    cut = bytes(damaged[:max(kept, 14)])
    fields = {"seq": 1, "ack": 2, "sport": 3, "src": "10.0.0.1", "tsval": 4, "sack": [(1, 2)], "urgent": 9}
    for function in rewrite, rewrite_quote:
        made = attempt(function, cut, **fields)
        assert made is None or len(made) == len(cut)
    made = attempt(rebuild, cut, payload, **fields)
    assert made is None or made.endswith(payload)
    parts = attempt(split, cut, payload, 7)
    assert parts is None or b"".join(part[-7:] for part in parts[:-1]) == payload[:7 * (len(parts) - 1)]
    attempt(fragments, cut, 100)
