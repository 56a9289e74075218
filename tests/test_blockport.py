"""The port that looks on an interface in blocks, on pairs of interfaces in namespaces of its own."""
import select
import socket
import threading
import time

import pytest
import scapy.all as scapy

from flowos import Engine, Module
from flowos.core.blockport import BlockPort
from flowos.core.errors import CaptureError, UsageError
from flowos.core.merged import MergedPort
from flowos.core.ports import open_pair, open_port
from namespaces import inside, ip, join, switch
from waiting import PATIENCE, until
from wire import fill, frames_of, wire

pytestmark = pytest.mark.live


@pytest.fixture
def pair(netns):
    """A raw socket on one end of a pair of interfaces, and how to open a port on the other."""
    with wire(netns, BlockPort) as there:
        yield there



def receive(port, count, patience=PATIENCE):
    """Take `count` frames, fewer when no more come in time."""
    taken, end = [], time.monotonic() + patience
    while len(taken) < count and time.monotonic() < end:
        if not port.rx_sync():
            select.select([port], [], [], 0.02)
        ring = port.rx_ring
        ring._check()
        while ring.avail:
            taken.append(ring[ring.cur].data)
            ring.cur += 1
        ring.head = ring.cur
    return taken


def test_frames_come_as_they_are_many_times_round_the_blocks(pair):
    sock, open_end, *_ = pair
    with open_end(slots=64, blocks=4) as port:
        frames, taken, begun = frames_of(200, 1514), [], time.time_ns()
        for turn in range(20):                # 6 MB: six times all blocks
            for frame in frames:
                sock.send(frame)
            taken = receive(port, 200)
            assert taken == frames, turn
        sock.send(frames[0])
        fill(port, 1)
        slot = port.rx_ring[port.rx_ring.head]
        assert begun <= slot.ts <= time.time_ns() and (slot.wire, slot.link, slot.buffer) == (1514, 1, None)
        counted = port.statistics()
        assert counted["received"] == 4001 and counted["kernel_dropped"] == 0 and counted.keys() == port.descriptions.keys()


def test_held_slots_keep_their_blocks_and_what_is_lost_is_counted(pair):
    sock, open_end, *_ = pair
    with open_end(slots=1 << 12, blocks=8) as port:
        frames = frames_of(2000, 1500)        # 3 MB, more than all blocks
        got = 0
        for first in range(0, 2000, 100):
            for frame in frames[first:first + 100]:
                sock.send(frame)
            got += port.rx_sync()

        def accounted():
            nonlocal got
            got += port.rx_sync()
            return got + port.statistics()["kernel_dropped"] >= 2000
        until(accounted, "each frame was taken, or counted")
        ring = port.rx_ring
        assert [ring[i].data for i in range(got)] == frames[:got]
        assert got < 2000 == got + port.statistics()["kernel_dropped"]
        ring.head = ring.tail
        port.rx_sync()
        sock.send(frames[-1])
        assert receive(port, 1) == [frames[-1]]


@pytest.mark.parametrize("tags", [
    scapy.Dot1Q(vlan=5, prio=3), scapy.Dot1AD(vlan=7) / scapy.Dot1Q(vlan=8), scapy.Dot1Q(vlan=1) / scapy.Dot1Q(vlan=2)])
def test_tags_are_put_back(pair, tags):
    sock, open_end, *_ = pair
    with open_end() as port:
        frame = bytes(scapy.Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / tags / scapy.IP(src="10.0.0.1") / (b"x" * 50))
        sock.send(frame)
        assert receive(port, 1) == [frame] and port.statistics()["tags"] == 1


def test_checksums_are_completed_and_merged_segments_come_whole(netns):
    near, far = netns(), netns()
    join(near, far, "near", "far", offloads=True)
    ip("-n", near, "addr", "add", "10.1.0.1/24", "dev", "near")
    ip("-n", far, "addr", "add", "10.1.0.2/24", "dev", "far")
    with inside(far):
        port, listener = BlockPort("far"), socket.create_server(("10.1.0.2", 80))
    with inside(near), port, listener, socket.create_connection(("10.1.0.2", 80), timeout=PATIENCE) as sock:
        peer, _ = listener.accept()
        with peer:
            sock.sendall(bytes(100_000))
            left = 100_000
            while left:
                left -= len(peer.recv(left))
            segments = []

            def complete():
                packets = map(scapy.Ether, receive(port, 1000, patience=0.02))
                segments.extend(packet for packet in packets if scapy.TCP in packet)
                carried = sum(len(packet[scapy.TCP].payload) for packet in segments if packet[scapy.TCP].dport == 80)
                return carried >= 100_000 and {packet[scapy.IP].src for packet in segments} == {"10.1.0.1", "10.1.0.2"}
            until(complete, "all that was sent was seen, and answers to it")
    assert max(map(len, segments)) > 1514     # the sender left cutting to the card as well
    for packet in segments:
        mended = scapy.Ether(bytes(packet))
        mended[scapy.TCP].chksum = None
        assert scapy.Ether(bytes(mended))[scapy.TCP].chksum == packet[scapy.TCP].chksum


def test_a_group_shares_connections_both_directions_together(pair):
    sock, open_end, *_ = pair
    ports = [open_end(group=7) for _ in range(3)]
    base = dict(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    for n in range(60):
        there = scapy.IP(src="10.0.0.1", dst="10.0.0.2") / scapy.UDP(sport=1000 + n, dport=53)
        back = scapy.IP(src="10.0.0.2", dst="10.0.0.1") / scapy.UDP(sport=53, dport=1000 + n)
        for packet in there, back:
            sock.send(bytes(scapy.Ether(**base) / packet / (b"x" * 20)))
    shares = [[] for _ in ports]

    def complete():
        for port, share in zip(ports, shares):
            packets = [scapy.Ether(data)[scapy.UDP] for data in receive(port, 121, patience=0.02)]
            share += [{packet.sport, packet.dport} - {53} for packet in packets]
        return sum(map(len, shares)) >= 120
    until(complete, "each frame went to one of them")
    for port in ports:
        port.close()
    flat = [ports_ for share in shares for ports_ in share]
    assert len(flat) == 120
    for share in shares:
        assert share and all(share.count(one) == 2 for one in share)


def test_a_deleted_interface_ends_the_port(pair):
    sock, open_end, near, _far = pair
    with open_end() as port:
        sock.send(frames_of(1)[0])
        assert receive(port, 1) == frames_of(1)
        ip("-n", near, "link", "del", "near")
        until(lambda: port.rx_sync() or port.ended, "the port ended", pause=0)
    with pytest.raises(UsageError, match="closed"):
        port.fileno()


def test_an_engine_looks_on_until_it_is_stopped(pair):
    sock, _open, _near, far = pair

    class Stop(Module):
        protocol, seen = "udp", 0

        def process(self, window):
            self.seen += window.length
            if self.seen >= 1000:
                engine.stop()

    with inside(far):
        engine = Engine()
        engine.add_port("packet:far")
    module = Stop()
    engine.attach(module)
    runner = threading.Thread(target=engine.run)
    runner.start()
    for n in range(50):
        sock.send(bytes(scapy.Ether(dst="02:00:00:00:00:02") / scapy.IP(src="10.0.0.1") / scapy.UDP(sport=n) / (b"x" * 20)))
    runner.join(PATIENCE)
    engine.stop()
    runner.join()
    assert module.seen == 1000
    engine.close()


def test_live_ports_that_are_merged_do_not_wait_for_each_other(pair, netns):
    sock, open_end, _near, far = pair
    other = netns()
    join(other, far, "other", "idle")
    with inside(far):
        idle = BlockPort("idle")
    with MergedPort([idle, open_end()]) as port:
        frames = frames_of(10)
        for frame in frames:
            sock.send(frame)
        fill(port, 10)
        assert [port.rx_ring[i].data for i in range(10)] == frames and not port.ended


def test_wrong_specs_are_refused(root):
    with pytest.raises(UsageError, match="the group being a number"):
        open_port("packet:lo/x")
    with pytest.raises(UsageError, match="expected 1 to 65535"):
        open_port("packet:lo/0")
    with pytest.raises(UsageError, match="2 to 4096"):
        BlockPort("lo", blocks=1)
    with pytest.raises(CaptureError, match="no such network interface"):
        open_port("packet:no-such-one")


def test_in_line_merged_segments_are_refused_with_the_remedy(pair):
    _sock, _open, _near, far = pair
    with inside(far):
        switch("far", gro=1)
        with pytest.raises(CaptureError, match="ethtool -K far gro off"):
            open_pair("packet:far", "pipe:x")
