"""The pcap face: files against tshark and tcpdump, devices against raw sockets in namespaces."""
import itertools
import subprocess
import time

import pytest
import scapy.all as scapy
from hypothesis import given
from hypothesis import strategies as st

from conftest import program
from flowos import pcap
from flowos.core.errors import CaptureError, UsageError
from flowos.core.pipe import pipe
from flowos.pcapfilter import blocks, compile_filter
from namespaces import inside, join, raw_socket
from wire import HEAD, one_processor, received

FILTERS = [
    "tcp", "udp", "ip", "ip6", "arp", "icmp", "icmp6", "tcp port 80", "port 53", "udp port 53 or tcp dst port 80", "src port 80",
    "dst port 80 or 443", "portrange 50-90", "not tcp", "! (tcp or udp)", "tcp and not port 80", "host 127.0.0.1", "ip host 10.0.0.1",
    "src net 10.0.0.0/8", "net 10", "net 10.1", "net 10.0.0.0 mask 255.0.0.0", "dst host 10.0.0.2 and udp", "src or dst port 53",
    "src and dst port 53", "less 70", "greater 200", "ether proto 0x0806", "ip proto 17", "ip6 proto 6", "tcp || udp && less 100",
    "ether host 02:00:00:00:00:02", "ether src 02:00:00:00:00:02", "ether broadcast", "ether multicast", "host fd00::1", "net fd00::/16",
    "port 53 or 80 and not src 10.0.0.1", "not not tcp", "sctp", "src 10.0.0.1", "sctp port 7", "ip and not (host 10.0.0.1 and port 53)",
]


def made_up():
    """Packets of all kinds that filters tell apart, none tagged."""
    macs = [dict(src="02:00:00:00:00:01", dst="02:00:00:00:00:02"), dict(src="02:00:00:00:00:02", dst="ff:ff:ff:ff:ff:ff"),
            dict(src="02:00:00:00:00:03", dst="01:00:5e:00:00:01")]
    ips = [scapy.IP(src="10.0.0.1", dst="10.0.0.2"), scapy.IP(src="10.1.2.3", dst="127.0.0.1"), scapy.IPv6(src="fd00::1", dst="fe80::2"),
           scapy.IPv6(src="fe80::1", dst="fd00::1"), scapy.IP(src="10.0.0.2", dst="10.0.0.1", frag=40)]
    tops = [scapy.TCP(sport=1234, dport=80), scapy.TCP(sport=80, dport=50), scapy.UDP(sport=53, dport=53), scapy.UDP(sport=90, dport=443),
            scapy.SCTP(sport=7, dport=9), scapy.ICMP()]
    for number, (mac, ip_, top) in enumerate(itertools.product(macs, ips, tops)):
        yield scapy.Ether(**mac) / ip_ / (scapy.ICMPv6EchoRequest() if isinstance(top, scapy.ICMP) and scapy.IPv6 in ip_ else top) / (b"x" * (number * 7 % 250))
    yield scapy.Ether(**macs[1]) / scapy.ARP(psrc="10.0.0.1", pdst="10.1.0.1")
    yield scapy.Ether(**macs[0]) / scapy.ARP(psrc="127.0.0.1", pdst="10.1.0.1")
    yield scapy.Ether(**macs[0], type=0x88b5) / (b"y" * 46)


@pytest.fixture(scope="module")
def made_capture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pcap") / "made.pcap"
    scapy.wrpcap(str(path), list(made_up()))
    return path


@pytest.mark.parametrize("text", FILTERS)
def test_filters_choose_what_tcpdump_chooses(text, made_capture, demo_capture):
    for path in made_capture, demo_capture:
        wanted = subprocess.run([program("tcpdump"), "-nr", path, "-w", "-", text], capture_output=True, timeout=300, check=True).stdout
        with pcap.open_offline(path) as reader, scapy.PcapReader(made_file(wanted, made_capture)) as judge:
            reader.setfilter(text)
            ours, theirs = ([data for data in side if not behind_an_extension(data)]
                            for side in ([data for _ts, data in reader], map(bytes, judge)))
        if ours != theirs:
            for data in set(ours) ^ set(theirs):
                print("ours" if data in ours else "theirs", scapy.Ether(data).summary())
        assert len(ours) == len(theirs) and ours == theirs


def behind_an_extension(data):
    """Say whether libpcap looks at an IPv6 packet differently, as flowos/pcapfilter.py tells."""
    return data[12:14] == b"\x86\xdd" and data[20] in (0, 44)


def made_file(data, beside):
    path = beside.parent / "wanted.pcap"
    path.write_bytes(data)
    return str(path)


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_ranges_of_ports_are_cut_exactly(first, last):
    covered = []
    for block in blocks(first, last):
        value, mask = (int(part, 0) for part in block.split("/"))
        assert value & ~mask == 0
        covered += [value, value | ~mask & 0xffff]
    if first > last:
        assert covered == []
    else:
        assert covered[0] == first and covered[-1] == last
        assert all(after == before + 1 for before, after in zip(covered[1::2], covered[2::2]))


@pytest.mark.parametrize("text, what", [
    ("tcp[13] & 2 != 0", "not compared"), ("port http", "in numbers"), ("host example.org", "in numbers"), ("tcp or", "at the end"),
    ("(tcp", "at the end"), ("tcp)", "not understood"), ("colour 7", "'colour'"), ("host 10.0.0.0/8", "is a network"), ("vlan 9999", "up to 4095"),
    ("port 70000", "a port"), ("ether host 1:2", "a MAC"), ("net 10.0.0.1/8", "network"), ("less x", "a number"), ("tcp $", "not understood"),
    ("tp_dst=80", "needs")])
def test_what_is_no_filter_is_refused_by_name(text, what):
    with pytest.raises(UsageError, match=what):
        compile_filter(text)


def test_a_match_is_a_filter_and_tags_are_looked_through():
    frame = bytes(scapy.Ether() / scapy.Dot1Q(vlan=5) / scapy.IP() / scapy.TCP(dport=80))
    for text, said in ("tcp,tp_dst=80", True), ("dl_vlan=6", False), ("vlan 5 and tcp port 80", True), ("vlan", True), ("vlan 6", False), ("tcp", True):
        assert compile_filter(text)(frame, len(frame), 1) is said
    packet = bytes(scapy.IP() / scapy.TCP(dport=80))
    assert compile_filter("tcp port 80")(packet, len(packet), 101)
    cooked = bytes(scapy.CookedLinux(proto=0x800) / scapy.IP() / scapy.TCP(dport=80))
    assert compile_filter("tcp port 80")(cooked, len(cooked), 113)


def test_a_file_is_read_by_each_call(demo_capture):
    judge = [(packet.time, bytes(packet)) for packet in scapy.PcapReader(str(demo_capture))]
    with pcap.open_offline(demo_capture) as reader:
        assert reader.datalink() == pcap.DLT_EN10MB and reader.snapshot() >= 65535
        header, data = reader.next()
        seconds, micros = header.getts()
        assert data == judge[0][1] and f"{seconds}.{micros:06d}" == f"{judge[0][0]:.6f}" and header.getcaplen() == len(data)
        seen = [data]
        assert reader.dispatch(5, lambda header, data: seen.append(data)) == 5
        assert reader.loop(10, lambda header, data: seen.append(data)) == 10

        def third(header, data):
            seen.append(data)
            if len(seen) == 19:
                reader.breakloop()
        assert reader.loop(-1, third) == 3
        assert reader.loop(-1, lambda header, data: seen.append(data)) == len(judge) - 19
        assert seen == [data for _, data in judge]
        assert reader.next() == (None, b"") and reader.loop(-1, None) == 0
        assert reader.stats() == (len(judge), 0, 0)
        with pytest.raises(UsageError, match="nothing can be sent"):
            reader.inject(HEAD)


def test_packets_are_cut_to_the_snap_length():
    near, far = pipe("snap")
    with pcap.open_live(near, snaplen=20) as reader:
        far.send(bytes(range(100)))
        far.tx_sync()
        header, data = reader.next()
        assert (header.getcaplen(), header.getlen(), data) == (20, 100, bytes(range(20)))
        assert reader.inject(b"frame") == 5 and [data for _, data in far.receive()] == [b"frame"]
        reader.setnonblock(True)
        assert reader.getnonblock() and reader.next() == (None, b"")
        while reader.inject(b"x" * 14) > 0:   # until the other end's ring is full
            pass
        with pytest.raises(CaptureError, match="no room"):
            reader.sendpacket(b"x" * 14)
    with pytest.raises(UsageError, match="snaplen 0"):
        pcap.open_live(far, snaplen=0)


@pytest.mark.live
@pytest.mark.parametrize("device", ["far", "xdp:far"])
def test_a_device_is_read_and_written(netns, device):
    near, far = netns(), netns()
    join(near, far, "near", "far")
    with inside(near):
        sock = raw_socket("near")
    with inside(far):
        assert pcap.findalldevs() == ["lo", "far"] and pcap.lookupdev() == "far"
        reader = pcap.open_live(device, 65535, True, 200)
        begun = time.monotonic()
        assert reader.next() == (None, b"") and time.monotonic() - begun >= 0.2
        frames = [HEAD + bytes([n]) * 50 for n in range(40)]
        seen = []
        with sock, reader, one_processor():
            assert reader.datalink() == 1 and reader.fileno() == reader.getfd()
            for frame in frames:
                sock.send(frame)
            assert reader.loop(40, lambda header, data: seen.append(data)) == 40
            assert seen == frames
            for frame in frames:
                reader.sendpacket(frame)
            assert received(sock, 40) == frames
            reader.setfilter("tcp")
            sock.send(frames[0])
            assert reader.next() == (None, b"")
            assert reader.stats()[1:] == (0, 0)
