"""TAP ports and the host's stack as a port: the kernel's own ping and TCP are at the other end."""
import os
import select
import signal
import socket
import subprocess
import threading
import time

import pytest
import scapy.all as scapy

from conftest import program
from flowos import Engine
from flowos.core.errors import CaptureError, UsageError
from flowos.core.hostport import HostPort
from flowos.core.packetport import PacketPort
from flowos.core.ports import open_port
from flowos.core.tapport import TapPort
from flowos.core.xdpport import XdpPort
from namespaces import inside, ip, join, raw_socket, switch
from waiting import PATIENCE, until
from wire import send

pytestmark = pytest.mark.live


def take(port, patience=0.0):
    """Take what a port has, waiting for the first; its ring is checked."""
    end, taken = time.monotonic() + patience, []
    while not taken:
        port.rx_sync()
        ring = port.rx_ring
        ring._check()
        while ring.avail:
            taken.append(ring[ring.cur].data)
            ring.cur += 1
        ring.head = ring.cur
        if time.monotonic() >= end:
            break
        if not taken:
            select.select([port], [], [], 0.05)
    return taken



def answer(packet, mac="02:00:00:00:00:09"):
    """What a host would say to an ARP question or a ping; None: nothing."""
    if scapy.ARP in packet and packet[scapy.ARP].op == 1:
        asked = packet[scapy.ARP]
        return scapy.Ether(src=mac, dst=packet.src) / scapy.ARP(op=2, hwsrc=mac, psrc=asked.pdst, hwdst=asked.hwsrc, pdst=asked.psrc)
    if scapy.ICMP in packet and packet[scapy.ICMP].type == 8:
        ours = packet.copy()
        ours.src, ours.dst = packet.dst, packet.src
        ours[scapy.IP].src, ours[scapy.IP].dst = packet[scapy.IP].dst, packet[scapy.IP].src
        ours[scapy.ICMP].type, ours[scapy.ICMP].chksum, ours[scapy.IP].chksum = 0, None, None
        return ours
    return None


def ping(where, address, count=3, patience=20):
    """Run ping in a namespace."""
    return subprocess.Popen([program("ip"), "netns", "exec", where, "ping", "-q", "-c", str(count), "-i", "0.1", "-W", str(patience), address],
                            stdout=subprocess.PIPE, text=True)


def test_the_kernel_pings_us_through_a_tap(netns):
    where = netns()
    with inside(where):
        port = open_port("tap:t0")
    ip("-n", where, "addr", "add", "10.4.0.1/24", "dev", "t0")
    with port, ping(where, "10.4.0.2") as pinging:
        end = time.monotonic() + PATIENCE
        while pinging.poll() is None and time.monotonic() < end:
            for frame in take(port, patience=0.05):
                if said := answer(scapy.Ether(frame)):
                    send(port, [bytes(said)])
        assert " 3 received" in pinging.stdout.read()
        counted = port.statistics()
        assert counted["received"] >= 4 <= counted["sent"] and counted.keys() == port.descriptions.keys()
        assert (counted["too_long"], counted["refused"], counted["refused_down"]) == (0, 0, 0)


def test_the_host_cuts_and_sums_what_it_sends(netns):
    where = netns()
    with inside(where):
        port = TapPort("t0", slots=16)
        ip("-n", where, "addr", "add", "10.4.0.1/24", "dev", "t0")
        ip("-n", where, "neigh", "add", "10.4.0.2", "lladdr", "02:00:00:00:00:09", "dev", "t0")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, port:
            sock.sendto(bytes(range(251)) * 20, ("10.4.0.2", 9))
            sock.sendto(b"odd", ("10.4.0.2", 9))
            packets = []
            while not any(scapy.UDP in p and p[scapy.UDP].len == 11 for p in packets):
                came = take(port, patience=PATIENCE)
                assert came
                packets += map(scapy.Ether, came)
    assert max(map(len, packets)) <= 1514
    small = next(p for p in packets if scapy.UDP in p and p[scapy.UDP].len == 11)
    mended = scapy.Ether(bytes(small))
    mended[scapy.UDP].chksum = None
    assert scapy.Ether(bytes(mended))[scapy.UDP].chksum == small[scapy.UDP].chksum


def test_what_a_tap_refuses_is_counted_and_a_deleted_one_ends(netns):
    where = netns()
    with inside(where):
        port = TapPort("t0", slots=16)
    with port:
        send(port, [b"short", bytes(60)])
        assert (port.statistics()["refused"], port.statistics()["sent"]) == (1, 1)
        ip("-n", where, "link", "set", "t0", "down")
        send(port, [bytes(60)])
        assert port.statistics()["refused_down"] == 1 and not port.ended
        ip("-n", where, "link", "del", "t0")
        port.rx_sync()
        assert port.ended
        send(port, [bytes(60)])
        assert port.statistics()["refused_down"] == 2
    with pytest.raises(UsageError, match="closed"):
        port.fileno()
    assert port.tx_sync() == port.rx_sync() == 0


def test_names_and_owners(netns):
    where = netns()
    with inside(where):
        with pytest.raises(UsageError, match="15 characters"):
            open_port("tap:")
        with pytest.raises(CaptureError, match="no TAP device"):
            open_port("tap:lo")
        with TapPort("t0"), pytest.raises(CaptureError, match="another program"):
            TapPort("t0")
        with pytest.raises(OSError):
            socket.if_nametoindex("t0")       # it went with the port
        ip("-n", where, "tuntap", "add", "t1", "mode", "tap")
        TapPort("t1").close()
        assert socket.if_nametoindex("t1")    # it was made to stay
        with pytest.raises(CaptureError, match="no such network interface"):
            open_port("host:no-such-one")


def test_the_host_is_led_through_and_back_again(netns):
    """A host whose interface is taken over: ping and TCP pass through an engine; afterwards as before."""
    host, far = netns(), netns()
    join(host, far, "eth", "far", offloads=True)
    ip("-n", host, "addr", "add", "10.5.0.1/24", "dev", "eth")
    ip("-n", far, "addr", "add", "10.5.0.2/24", "dev", "far")
    with inside(host):
        listener = socket.create_server(("10.5.0.1", 80))
        switch("eth", gro=0)
        engine = Engine()
        engine.connect("xdp:eth", "host:eth")
    content = os.urandom(2 << 20)

    def serve():
        peer, _ = listener.accept()
        with peer:
            peer.sendall(content)

    threading.Thread(target=serve, daemon=True).start()
    runner = threading.Thread(target=engine.run)
    runner.start()
    try:
        with inside(far), socket.create_connection(("10.5.0.1", 80), timeout=PATIENCE) as sock:
            got = b"".join(iter(lambda: sock.recv(1 << 16), b""))
        with ping(host, "10.5.0.2") as pinging:
            assert " 3 received" in pinging.communicate(timeout=PATIENCE)[0]
    finally:
        engine.stop()
        runner.join()
        listener.close()
    assert got == content
    passed = engine.packets
    assert passed > 2 * (2 << 20) // 65536
    engine.close()
    with ping(host, "10.5.0.2") as pinging:
        assert " 3 received" in pinging.communicate(timeout=PATIENCE)[0]
    assert engine.packets == passed           # nobody was in between any more


def test_the_host_is_on_the_wire_again_when_the_process_is_killed(netns):
    host, far = netns(), netns()
    join(host, far, "eth", "far")
    ip("-n", host, "addr", "add", "10.5.0.1/24", "dev", "eth")
    ip("-n", far, "addr", "add", "10.5.0.2/24", "dev", "far")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with inside(host):
                port = HostPort("eth")
            os.write(writer, port.interface.encode())
            time.sleep(60)
        finally:
            os._exit(1)
    assert os.read(reader, 99) == b"h-eth"
    with ping(host, "10.5.0.2", 1, 0.3) as pinging:
        assert " 0 received" in pinging.communicate(timeout=PATIENCE)[0]        # nobody takes what the host sends
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

    def answered():
        with ping(host, "10.5.0.2", 1, 1) as pinging:
            return " 1 received" in pinging.communicate(timeout=PATIENCE)[0]
    until(answered, "the host came back to the wire")
    with inside(host), pytest.raises(OSError):
        socket.if_nametoindex("h-eth")
    os.close(reader)
    os.close(writer)


def test_generic_mode_beside_the_hosts_stack_is_refused(netns):
    host, far = netns(), netns()
    join(host, far, "eth", "far")
    with inside(host), XdpPort("eth", slots=16, mode="generic"), pytest.raises(CaptureError, match="generic mode"):
        HostPort("eth")


def test_a_host_port_beside_a_packet_port(netns):
    """Without XDP the host receives by itself; what it sends comes here first."""
    host, far = netns(), netns()
    join(host, far, "eth", "far")
    ip("-n", host, "addr", "add", "10.5.0.1/24", "dev", "eth")
    ip("-n", host, "neigh", "add", "10.5.0.2", "lladdr", "02:00:00:00:00:09", "dev", "eth")
    with inside(far):
        sink = PacketPort("far")
    with inside(host), HostPort("eth") as port, sink:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"hello", ("10.5.0.2", 9))
        assert [frame.endswith(b"hello") for frame in take(port, patience=PATIENCE)] == [True] and take(sink) == []
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("10.5.0.1", 9))
            sock.settimeout(PATIENCE)
            with raw_socket("eth") as raw:
                mac = raw.getsockname()[4].hex(":")
            send(port, [bytes(scapy.Ether(src="02:00:00:00:00:09", dst=mac) / scapy.IP(src="10.5.0.2", dst="10.5.0.1") / scapy.UDP(dport=9) / b"back")])
            assert sock.recv(99) == b"back"
