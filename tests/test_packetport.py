"""The port on a network interface, on pairs of interfaces in namespaces of its own."""
import os
import select
import socket
import time

import pytest
import scapy.all as scapy

from flowos.core.arena import Arena
from flowos.core.errors import CaptureError, FlowOSError, UsageError
from flowos.core.packetport import PacketPort
from flowos.core.ports import open_port
from namespaces import carried, inside, ip, join, raw_socket
from waiting import PATIENCE, until
from wire import HEAD, fill, frames_of, received, send, wire

pytestmark = pytest.mark.live


@pytest.fixture
def pair(netns):
    """A raw socket on one end of a pair of interfaces, and how to open a port on the other."""
    with wire(netns, PacketPort) as there:
        yield there



def receive(port, count, patience=PATIENCE):
    """Take `count` frames from a port, fewer when no more come in time; rings are checked at each step."""
    taken, end = [], time.monotonic() + patience
    while len(taken) < count and time.monotonic() < end:
        if not port.rx_sync():
            select.select([port], [], [], 0.05)
        ring = port.rx_ring
        ring._check()
        while ring.avail:
            slot = ring[ring.cur]
            taken.append((slot.ts, slot.wire, slot.link, bytes(slot.data)))
            ring.cur += 1
        ring.head = ring.cur
    return taken




def test_frames_come_as_they_are(pair):
    sock, open_end, *_ = pair
    with open_end(slots=16) as port:
        extra = stamped(sock, port)
        frames, begun = frames_of(100, 100) + frames_of(30, 1514), time.time_ns()
        for frame in frames:
            sock.send(frame)
        taken = receive(port, len(frames))
        assert [frame for *_, frame in taken] == frames
        times = [ts for ts, *_ in taken]
        assert times == sorted(times) and begun <= times[0] <= times[-1] <= time.time_ns()
        assert all((wire, link) == (len(frame), 1) for _, wire, link, frame in taken)
        counted = port.statistics()
        assert counted["received"] == len(frames) + extra and counted.keys() == port.descriptions.keys()
        assert sum(counted.values()) == len(frames) + extra
        assert not port.stable and port.fileno() >= 0


def stamped(sock, port):
    """Wait until the kernel stamps frames as they come; give how many came meanwhile.

    It begins in the background when the first socket asks for it; a frame that was not stamped has the time of its reading.
    """
    count = 0

    def stamps():
        nonlocal count
        sock.send(frames_of(1)[0])
        sent, count = time.time_ns(), count + 1
        time.sleep(0.001)
        (ts, *_), = receive(port, 1)
        return ts <= sent
    until(stamps, "frames are stamped")
    return count


def test_frames_leave_as_they_are_and_are_not_echoed(pair):
    sock, open_end, *_ = pair
    with open_end(slots=16) as port:
        frames = frames_of(100) + frames_of(30, 1514)
        send(port, frames)
        assert received(sock, len(frames)) == frames
        assert port.rx_sync() == 0 and port.statistics()["sent"] == len(frames)


def test_what_others_send_is_seen_when_asked_for(pair):
    sock, open_end, _near, far = pair
    with open_end() as port, open_end(outgoing=True) as onlooker, inside(far):
        with raw_socket("far") as other:
            ours, theirs, came = frames_of(3)
            send(onlooker, [ours])            # never its own
            other.send(theirs)
            sock.send(came)
        assert [frame for *_, frame in receive(onlooker, 2)] == [theirs, came]
        assert [frame for *_, frame in receive(port, 1)] == [came]
        assert onlooker.rx_sync() == port.rx_sync() == 0


def test_a_full_ring_leaves_frames_to_the_kernel(pair):
    sock, open_end, *_ = pair
    with open_end(slots=8) as port:
        frames = frames_of(30)
        for frame in frames:
            sock.send(frame)
        fill(port, 8)
        assert port.rx_sync() == 0
        ring = port.rx_ring
        assert [bytes(ring[i].data) for i in range(8)] == frames[:8]
        ring.head += 3
        fill(port, 8)
        assert bytes(ring[ring.head].data) == frames[3]
        ring.cur = ring.head = ring.tail
        assert [frame for *_, frame in receive(port, 19)] == frames[11:]


@pytest.mark.parametrize("tags", [
    scapy.Dot1Q(vlan=5, prio=3), scapy.Dot1AD(vlan=7) / scapy.Dot1Q(vlan=8), scapy.Dot1Q(vlan=1) / scapy.Dot1Q(vlan=2)])
def test_tags_are_put_back(pair, tags):
    sock, open_end, *_ = pair
    with open_end() as port:
        frame = bytes(scapy.Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / tags / scapy.IP(src="10.0.0.1") / (b"x" * 50))
        sock.send(frame)
        assert [data for *_, data in receive(port, 1)] == [frame]
        send(port, [frame])
        assert port.statistics()["tags"] == 1 and port.statistics()["refused"] == 0


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_checksums_left_to_the_card_are_completed(netns, version, kind):
    near, far = netns(), netns()
    join(near, far, "near", "far", offloads=True)
    local, remote = ("10.1.0.1", "10.1.0.2") if version == 4 else ("fd00::1", "fd00::2")
    ip("-n", near, "addr", "add", f"{local}/{24 if version == 4 else 64}", "dev", "near",
       *(["nodad"] if version == 6 else []))
    ip("-n", near, "neigh", "add", remote, "lladdr", "02:00:00:00:00:02", "dev", "near")
    with inside(far):
        port = PacketPort("far")
    with inside(near):
        sock = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, kind)
    sock.setblocking(False)
    with sock, port:
        if sock.connect_ex((remote, 4711)) == 0:
            sock.send(b"payload of odd length")
        layer, ours = (scapy.UDP, 17) if kind == socket.SOCK_DGRAM else (scapy.TCP, 6)
        packet = next(packet for packet in packets_of(port) if layer in packet)
        chksum, mended = packet[layer].chksum, scapy.Ether(bytes(packet))
        mended[layer].chksum = None
        assert scapy.Ether(bytes(mended))[layer].chksum == chksum and ours
        assert port.statistics()["checksums"] >= 1


def packets_of(port):
    """Yield what comes: the kernel may report its multicast groups first."""
    while came := receive(port, 1):
        yield from (scapy.Ether(data) for *_, data in came)


def test_what_fits_no_buffer_is_counted_and_the_rest_keeps_its_order(pair):
    sock, open_end, *_ = pair
    with open_end(slots=16, arena=Arena(32, 256)) as port:
        frames = [frame for n, short in enumerate(frames_of(20)) for frame in (short, short[:18] + bytes(300 + n))]
        for frame in frames:
            sock.send(frame)
        assert [data for *_, data in receive(port, 20)] == frames[::2]
        until(lambda: port.rx_sync() or port.statistics()["too_long"] >= 20, "the last one came")
        assert port.rx_sync() == 0 == len(port.rx_ring) and port.statistics()["too_long"] == 20
        assert port.arena.statistics()["free"] == 0


def test_buffers_hold_the_mtu(netns):
    near, far = netns(), netns()
    join(near, far, "near", "far", mtu=9000)
    with inside(near):
        sock = raw_socket("near")
    with inside(far):
        port = PacketPort("far")
    with port, sock:
        assert (port.name, port.arena.buffer_size) == ("packet:far", 16384)
        frame, = frames_of(1, 9014)
        sock.send(frame)
        assert [data for *_, data in receive(port, 1)] == [frame]


def test_what_the_kernel_refuses_is_counted_by_reason(pair):
    _sock, open_end, _near, far = pair
    with open_end() as port:
        send(port, [HEAD + bytes(1501), HEAD[:9], *frames_of(2), HEAD + bytes(1501)])
        counted = port.statistics()
        assert (counted["refused_long"], counted["refused"], counted["sent"]) == (2, 1, 2)
        ip("-n", far, "link", "set", "far", "down")
        send(port, frames_of(3))
        assert port.statistics()["refused_down"] == 3


def test_what_nobody_takes_is_counted(pair):
    sock, open_end, *_ = pair
    with open_end(slots=16) as port:
        count = 40000
        frame, = frames_of(1, 1000)
        for _ in range(count):
            sock.send(frame)
        taken = 0

        def accounted():
            nonlocal taken
            taken += len(receive(port, count, patience=0.1))
            return taken + port.statistics()["kernel_dropped"] >= count
        until(accounted, "each frame was taken, or counted")
        assert taken < count == taken + port.statistics()["kernel_dropped"]


def test_an_interface_may_go_down_and_come_back_or_go_for_good(pair):
    sock, open_end, near, far = pair
    with open_end() as port:
        ip("-n", far, "link", "set", "far", "down")
        assert port.rx_sync() == 0 and not port.ended
        ip("-n", far, "link", "set", "far", "up")
        carried(near, "near")
        sock.send(frames_of(1)[0])
        assert [frame for *_, frame in receive(port, 1)] == frames_of(1)
        ip("-n", near, "link", "del", "near")
        until(lambda: port.rx_sync() or port.ended, "the port ended")
        assert port.ended
        send(port, frames_of(1))
        assert port.statistics()["refused_down"] == 1


def test_a_closed_port_does_nothing_more(pair):
    _sock, open_end, *_ = pair
    port = open_end()
    port.close()
    port.close()
    assert port.closed and port.ended and port.rx_sync() == port.tx_sync() == 0
    assert port.statistics()["received"] == 0
    with pytest.raises(UsageError, match="closed"):
        port.fileno()


def test_no_such_interface(root):
    for name in "no-such-one", "", "far too long a name for an interface", "a\0b":
        with pytest.raises(CaptureError, match="no such network interface"):
            open_port(f"packet:{name}")


def test_without_the_right_the_error_names_it(root):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            PacketPort("lo")
            os.write(writer, b"opened")
        except FlowOSError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader) as told:
        assert "CAP_NET_RAW" in told.read()
