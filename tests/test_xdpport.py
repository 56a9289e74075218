"""The AF_XDP port, on pairs of interfaces in namespaces of its own: frames, buffers, and each trap of the interface.

The judge is the other end of the pair: the kernel's packet sockets, its TCP, its checksums.
"""
import ctypes
import hashlib
import multiprocessing
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import threading
import time

import pytest
import scapy.all as scapy

from conftest import program
from flowos import Engine
from flowos.core import interface, xdpport
from flowos.core.arena import Arena
from flowos.core.errors import CaptureError, FlowOSError, LimitError, UsageError
from flowos.core.ports import open_pair, open_port
from flowos.core.xdpport import XdpPort
from namespaces import inside, ip, join, libc, raw_socket, switch
from waiting import PATIENCE, until
from wire import HEAD, fill, frames_of, received, send, wire

pytestmark = pytest.mark.live
fork = multiprocessing.get_context("fork")


@pytest.fixture
def pair(netns):
    """A raw socket on one end of a pair of interfaces, and how to open a port on the other."""
    with wire(netns, XdpPort) as there:
        yield there



def take(port):
    """Take what a port has now; its ring is checked."""
    port.rx_sync()
    ring, taken = port.rx_ring, []
    ring._check()
    while ring.avail:
        taken.append(ring[ring.cur].data)
        ring.cur += 1
    ring.head = ring.cur
    return taken


def receive(port, count, patience=PATIENCE):
    """Take `count` frames, fewer when no more come in time."""
    taken, end = take(port), time.monotonic() + patience
    while len(taken) < count and time.monotonic() < end:
        select.select([port], [], [], 0.05)
        taken += take(port)
    return taken




# ------------------------------------------------------------------------------ frames and buffers

@pytest.mark.parametrize("mode", ["driver", "generic"])
def test_frames_come_and_leave_as_they_are(pair, mode):
    sock, open_end, *_ = pair
    with open_end(slots=16, mode=mode) as port:
        assert (port.mode, port.queues, port.zero_copy, port.link) == (mode, [0], False, 1)
        frames, taken, begun = frames_of(100, 60) + frames_of(30, 1514), [], time.time_ns()
        for frame in frames:                  # many times round each ring
            sock.send(frame)
            taken += receive(port, 1)
        assert taken == frames
        sock.send(frames[0])
        fill(port, 1)
        slot = port.rx_ring[port.rx_ring.head]
        assert begun <= slot.ts <= time.time_ns() and (slot.wire, slot.link, slot.iface) == (60, 1, 0)
        for frame in frames:
            send(port, [frame])
        assert received(sock, len(frames)) == frames
        counted = port.statistics()
        assert (counted["received"], counted["sent"]) == (131, 130) and counted.keys() == port.descriptions.keys()
        assert sum(counted.values()) == 261 + counted["kernel_idle"]


def test_a_full_ring_leaves_frames_to_the_kernel(pair):
    sock, open_end, *_ = pair
    with open_end(slots=8) as port:
        frames = frames_of(20)
        for frame in frames:
            sock.send(frame)
        fill(port, 8)
        assert port.rx_sync() == 0
        ring = port.rx_ring
        assert [ring[i].data for i in range(8)] == frames[:8]
        until(lambda: lost(port) >= 12, "nobody took them in time: told, not silent")
        assert lost(port) == 12
        ring.head += 3
        port.rx_sync()
        for frame in frames[8:12]:
            sock.send(frame)
        fill(port, 8)
        assert [ring[ring.tail - 3 + i].data for i in range(3)] == frames[8:11]


def lost(port):
    """Give how many frames the kernel had no place for."""
    counted = port.statistics()
    return counted["kernel_no_buffer"] + counted["kernel_ring_full"]


def test_forwarding_is_a_swap_of_slots(netns):
    near, middle, far = netns(), netns(), netns()
    join(near, middle, "near", "left")
    join(middle, far, "right", "far")
    with inside(near):
        sock = raw_socket("near")
    with inside(far):
        sink = raw_socket("far")
    with inside(middle):
        left, right = open_pair("xdp:left", "xdp:right")
    with left, right, sock, sink:
        assert left.arena is right.arena
        frames, moved, buffers = frames_of(6000), 0, set()
        rx, tx, got = left.rx_ring, right.tx_ring, []
        for first in range(0, 6000, 50):
            for frame in frames[first:first + 50]:
                sock.send(frame)
            end = time.monotonic() + PATIENCE
            while moved < first + 50 and time.monotonic() < end:
                left.rx_sync()
                while rx.avail:
                    assert tx.avail
                    buffers.add(rx[rx.cur].buffer)
                    before = rx[rx.cur].address
                    tx[tx.cur].take(rx[rx.cur])
                    assert tx[tx.cur].address == before           # not a byte was copied
                    rx.cur += 1
                    tx.cur += 1
                    moved += 1
                rx.head, tx.head = rx.cur, tx.cur
                right.tx_sync()
                rx._check()
                tx._check()
            got += received(sink, 50)
        assert got == frames
        assert len(buffers) > 2048            # they went round through both ports
    free, size = left.arena, len(left.arena)
    del left, right, rx, tx
    assert free.free == size
    free._check()


def test_received_frames_can_be_written_within_their_buffer(pair):
    sock, open_end, *_ = pair
    with open_end(slots=16) as port:
        sock.send(frames_of(1)[0])
        fill(port, 1)
        slot = port.rx_ring[port.rx_ring.head]
        slot.data = bytes(2048 - 256)
        with pytest.raises(UsageError, match="the buffer holds 1792"):
            slot.data = bytes(2048 - 255)


def test_what_cannot_be_sent_is_counted_and_the_rest_goes(pair):
    sock, open_end, _near, far = pair
    with open_end(slots=64) as port:
        good = frames_of(20)
        send(port, [frame for n, one in enumerate(good) for frame in ((one, one[:13]) if n % 2 else (one, HEAD + bytes(1600)))])
        assert received(sock, 20) == good
        counted = port.statistics()
        assert (counted["sent"], counted["refused_short"], counted["refused_long"]) == (20, 10, 10)
        assert counted["kernel_bad_sends"] == counted["strange"] == 0
        ip("-n", far, "link", "set", "far", "down")
        send(port, good[:3])
        assert port.statistics()["refused_down"] >= 1
        ip("-n", far, "link", "set", "far", "up")
        out = []

        def complete():
            port.tx_sync()
            out.extend(received(sock, 3 - len(out), patience=0.05))
            return len(out) == 3
        until(complete, "all three came")
        assert out == good[:3]                # they waited, and none was lost


def test_a_flood_is_sent_or_counted(pair):
    sock, open_end, *_ = pair
    with open_end() as port:
        frame, = frames_of(1, 60)
        send(port, [frame] * 20000)
        counted = port.statistics()
        assert counted["sent"] + counted["refused_full"] == 20000
        until(lambda: port.tx_sync() or port.tx_ring.avail == 256, "every buffer came back")


# ------------------------------------------------------------------------------ queues

def test_all_queues_or_one_each(netns):
    near, far = netns(), netns()
    join(near, far, "near", "far", queues=(4, 4))
    with inside(near):
        ends = [XdpPort("near", queue=q, slots=256) for q in range(4)]
        assert [end.mode for end in ends] == ["driver", "joined", "joined", "joined"]
    with inside(far):
        everything = open_port("xdp:far")
        assert everything.queues == [0, 1, 2, 3]
        with pytest.raises(CaptureError, match="no such queue; far has 4"):
            XdpPort("far", queue=4)
    for number, end in enumerate(ends):
        send(end, frames_of(100 + number, seed=1000 * number))
    got = receive(everything, 406)
    for number in range(4):
        mine = [frame for frame in got if 1000 * number <= struct.unpack("!I", frame[14:18])[0] < 1000 * number + 200]
        assert mine == frames_of(100 + number, seed=1000 * number)        # the order within a queue stays
    everything.close()
    with inside(far):
        apart = [open_port(f"xdp:far/{q}") for q in range(3)]           # nobody is on queue 3: the host has it
    for number, end in enumerate(ends):
        send(end, frames_of(50 + number))
    assert [len(receive(port, 50 + q)) for q, port in enumerate(apart)] == [50, 51, 52]
    for port in ends + apart:
        port.close()


def test_processes_share_an_interface_by_its_queues(netns):
    near, far = netns(), netns()
    join(near, far, "near", "far", offloads=True, queues=(2, 2))
    ours, theirs = fork.Pipe()

    def worker():
        with inside(far):
            port = XdpPort("far", queue=1, slots=64)
        theirs.send(port.mode)
        theirs.recv()
        theirs.send(len(receive(port, 30)))

    with inside(far):
        port = XdpPort("far", queue=0, slots=64)
    child = fork.Process(target=worker)
    child.start()
    assert ours.recv() == "joined"
    port.close()                              # the program stays for the other
    with inside(near):
        sender = XdpPort("near", queue=1, slots=64)
    ours.send("go")
    send(sender, frames_of(30))
    assert ours.recv() == 30
    child.join()
    sender.close()
    with inside(far):
        until(lambda: interface.xdp_attached(socket.if_nametoindex("far")) == (0, False), "the program went with the last port")


# ------------------------------------------------------------------------------ the interface's traps

def test_a_second_program_or_socket_is_refused_with_the_remedy(pair, monkeypatch):
    _sock, open_end, _near, far = pair
    with monkeypatch.context() as hasty, open_end(slots=16), pytest.raises(CaptureError, match="taken by another program"):
        hasty.setattr(xdpport, "PATIENCE", 0.1)
        open_end(slots=16)
    with open_end(slots=16):                  # and a queue is free again at once
        pass
    compiler = bytes.fromhex("b700000002000000 9500000000000000".replace(" ", ""))      # r0 = XDP_PASS; exit
    other = foreign_program(far, compiler)
    try:
        with pytest.raises(CaptureError, match="ip link set dev far xdp off"):
            open_end(slots=16)
    finally:
        os.close(other)


def foreign_program(namespace, code):
    """Attach somebody else's XDP program to `far`; returns the descriptor of its link."""
    insns, license_ = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
    load = struct.pack("=IIQQ", 6, len(code) // 8, ctypes.addressof(insns), ctypes.addressof(license_)).ljust(128, b"\0")
    program_ = libc.syscall(321, 5, ctypes.create_string_buffer(load), 128)
    assert program_ >= 0, os.strerror(ctypes.get_errno())
    with inside(namespace):
        index = socket.if_nametoindex("far")
        link = libc.syscall(321, 28, ctypes.create_string_buffer(struct.pack("=IIII", program_, index, 37, 0).ljust(128, b"\0")), 128)
    assert link >= 0, os.strerror(ctypes.get_errno())
    os.close(program_)
    return link


def test_the_program_goes_with_the_process_however_it_goes(pair):
    _sock, open_end, _near, far = pair
    ours, theirs = fork.Pipe()

    def hold():
        port = open_end(slots=16)
        theirs.send(port.mode)
        time.sleep(60)

    child = fork.Process(target=hold)
    child.start()
    assert ours.recv() == "driver"
    with inside(far):
        index = socket.if_nametoindex("far")
        assert interface.xdp_attached(index)[0]
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        until(lambda: interface.xdp_attached(index) == (0, False), "the program went with the process")
    open_end(slots=16).close()


def test_an_mtu_that_does_not_fit_is_refused_with_the_remedy(netns):
    near, far = netns(), netns()
    join(near, far, "near", "far", mtu=9000)
    with inside(far), pytest.raises(CaptureError, match="ip link set dev far mtu 3818"):
        XdpPort("far")
    for where, name in (near, "near"), (far, "far"):
        ip("-n", where, "link", "set", name, "mtu", 3000)
    with inside(far), XdpPort("far", slots=16) as port, inside(near), raw_socket("near") as sock:
        assert port.arena.buffer_size == 4096
        frame, = frames_of(1, 3014)
        sock.send(frame)
        assert receive(port, 1) == [frame]
        send(port, [frame])
        assert received(sock, 1) == [frame]
    with inside(far), pytest.raises(CaptureError, match="does not fit the arena's buffers: `ip link set dev far mtu 1770`"):
        XdpPort("far", slots=16, arena=Arena(64, 2048))
    small = Arena(24, 4096)
    with inside(far), pytest.raises(LimitError, match="the arena has 8 free buffers"):
        XdpPort("far", slots=16, arena=small)
    assert small.free == 24                   # what was taken for one ring came back
    with inside(far), pytest.raises(UsageError, match="takes 2048 or 4096"):
        XdpPort("far", slots=16, arena=Arena(64, 8192))


def test_an_mtu_above_the_drivers_falls_back(netns):
    near, far = netns(), netns()
    join(near, far, "near", "far", mtu=3700)  # fits a buffer, but veth's driver stops at 3,506
    with inside(far):
        with pytest.raises(CaptureError, match="ip link set dev far mtu 1500"):
            XdpPort("far", slots=16, mode="driver")
        with XdpPort("far", slots=16) as port:
            assert port.mode == "generic"


def test_segments_that_nobody_cut_are_counted(netns):
    near, far = netns(), netns()
    join(near, far, "near", "far", offloads=True)
    ip("-n", near, "addr", "add", "10.1.0.1/24", "dev", "near")
    ip("-n", near, "neigh", "add", "10.1.0.2", "lladdr", "02:00:00:00:00:02", "dev", "near")
    with inside(near):
        sock, segmented = raw_socket("near"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    segmented.setsockopt(17, 103, 1000)       # UDP_SEGMENT: the kernel leaves the cutting to the card
    with inside(far):
        switch("far", gro=0)
        port = XdpPort("far", slots=16, mode="generic")
    with port, sock, segmented:
        segmented.sendto(bytes(8000), ("10.1.0.2", 9))
        frame, = frames_of(1)
        sock.send(frame)
        assert receive(port, 1) == [frame] and port.statistics()["kernel_dropped"] == 1


def test_more_queues_at_the_other_end_are_refused_with_the_remedy(netns):
    near, far = netns(), netns()
    join(near, far, "near", "far", queues=(4, 1))
    with inside(far), pytest.raises(CaptureError, match="ethtool -L far rx N"):
        XdpPort("far")


def test_merged_segments_in_generic_mode_are_refused_with_the_remedy(pair):
    _sock, open_end, _near, far = pair
    with inside(far):
        switch("far", gro=1)
    with pytest.raises(CaptureError, match="ethtool -K far gro off"):
        open_end(slots=16, mode="generic")
    with open_end(slots=16) as port:          # the driver's mode switches nothing of the kind
        assert port.mode == "driver"


def test_zero_copy_that_a_driver_lacks_is_refused_with_the_remedy(pair):
    _sock, open_end, *_ = pair
    with pytest.raises(CaptureError, match="the driver veth does not do zero-copy"):
        open_end(slots=16, zero_copy=True)
    with open_end(slots=16, zero_copy=False) as port:
        assert not port.zero_copy


def test_an_interface_without_a_driver_of_its_own_falls_back(netns):
    where = netns()
    ip("-n", where, "link", "set", "lo", "mtu", 1500)
    with inside(where):
        switch("lo", gro=0)
        with XdpPort("lo", slots=16) as port:
            assert port.mode == "generic"
        with pytest.raises(CaptureError, match="leave mode out"):
            XdpPort("lo", slots=16, mode="driver")


def test_wrong_arguments_are_refused(pair):
    _sock, open_end, *_ = pair
    with pytest.raises(UsageError, match="mode 'fast'"):
        open_end(mode="fast")
    with pytest.raises(UsageError, match="power of two"):
        open_end(slots=1000)
    with pytest.raises(UsageError, match="the queue being a number"):
        open_port("xdp:lo/x")
    with pytest.raises(CaptureError, match="no such network interface"):
        open_port("xdp:no-such-one")


def unprivileged(where, name, capabilities, patience=PATIENCE, **options):
    """Open a port as user 65534 with some capabilities; returns the mode or the error's text.

    `patience`: seconds to wait for what the one before it had to be free again.
    """
    ours, theirs = fork.Pipe()

    def attempt():
        xdpport.PATIENCE = patience
        with inside(where):
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 20, 1 << 20))
            libc.prctl(8, 1, 0, 0, 0)         # PR_SET_KEEPCAPS
            os.setgid(65534)
            os.setuid(65534)
            bits = sum(1 << number for number in capabilities)
            header = struct.pack("=II", 0x20080522, 0)
            data = struct.pack("=6I", bits & 0xffffffff, bits & 0xffffffff, 0, bits >> 32, bits >> 32, 0)
            assert libc.capset(header, data) == 0
            try:
                theirs.send(XdpPort(name, **options).mode)
            except FlowOSError as error:
                theirs.send(str(error))

    child = fork.Process(target=attempt)
    child.start()
    said = ours.recv()
    child.join()
    return said


NET_ADMIN, NET_RAW, IPC_LOCK, BPF = 12, 13, 14, 39


def test_rights_and_locked_memory_are_named(pair):
    _sock, _open_end, _near, far = pair
    assert "CAP_NET_RAW" in unprivileged(far, "far", [])
    assert "CAP_BPF" in unprivileged(far, "far", [NET_RAW], slots=16)
    assert unprivileged(far, "far", [NET_RAW, NET_ADMIN, BPF], slots=16) == "driver"
    assert "CAP_IPC_LOCK" in unprivileged(far, "far", [NET_RAW, NET_ADMIN, BPF], 0.1, slots=1024)
    assert unprivileged(far, "far", [NET_RAW, NET_ADMIN, BPF, IPC_LOCK], slots=1024) == "driver"


def test_an_interface_that_is_deleted_ends_the_port(pair):
    sock, open_end, near, far = pair
    with open_end(slots=16) as port:
        sock.send(frames_of(1)[0])
        assert len(receive(port, 1)) == 1
        ip("-n", near, "link", "del", "near")
        until(lambda: port.rx_sync() or port.ended, "the port ended")
        send(port, frames_of(3))
    assert port.closed
    with pytest.raises(UsageError, match="closed"):
        port.fileno()
    assert port.rx_sync() == port.tx_sync() == 0 and port.statistics()["received"] == 1


# ------------------------------------------------------------------------------ checksums and tags

@pytest.mark.parametrize("mode", ["driver", "generic"])
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_checksums_left_to_the_card_are_completed(netns, version, kind, mode):
    near, far = netns(), netns()
    join(near, far, "near", "far", offloads=True)
    local, remote = ("10.1.0.1", "10.1.0.2") if version == 4 else ("fd00::1", "fd00::2")
    ip("-n", near, "addr", "add", f"{local}/{24 if version == 4 else 64}", "dev", "near", *(["nodad"] if version == 6 else []))
    ip("-n", near, "neigh", "add", remote, "lladdr", "02:00:00:00:00:02", "dev", "near")
    with inside(far):
        switch("far", gro=0)
        port = XdpPort("far", slots=64, mode=mode)
    with inside(near):
        sock = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, kind)
    sock.setblocking(False)
    with sock, port:
        if sock.connect_ex((remote, 4711)) == 0:
            sock.send(b"payload of odd length")
        layer = scapy.UDP if kind == socket.SOCK_DGRAM else scapy.TCP
        # The kernel may report its multicast groups first.
        packet = next(packet for packet in map(scapy.Ether, iter(lambda: receive(port, 1)[0], None)) if layer in packet)
        mended = scapy.Ether(bytes(packet))
        mended[layer].chksum = None
        assert scapy.Ether(bytes(mended))[layer].chksum == packet[layer].chksum
        assert port.statistics()["checksums"] >= 1


def test_tags_in_the_frame_stay(pair):
    sock, open_end, *_ = pair
    with open_end(slots=16) as port:
        frame = bytes(scapy.Ether(dst="02:00:00:00:00:02") / scapy.Dot1AD(vlan=7) / scapy.Dot1Q(vlan=8, prio=3) / scapy.IP() / (b"x" * 1472))
        sock.send(frame)
        assert receive(port, 1) == [frame] and len(frame) == 1514
        longer = frame[:18] + frame[14:]      # a tag more than the MTU's frame: as long as a tagged one may be
        send(port, [longer])
        assert received(sock, 1)[0][-100:] == longer[-100:]


# ------------------------------------------------------------------------------ in line

@pytest.mark.parametrize("offloads", [False, True])
def test_a_transfer_through_an_engine_in_line(netns, offloads):
    client, middle, server = netns(), netns(), netns()
    join(client, middle, "c0", "m0", offloads=offloads)
    join(middle, server, "m1", "s0", offloads=offloads)
    for where, name, address in (client, "c0", "10.9.0.1/24"), (server, "s0", "10.9.0.2/24"):
        ip("-n", where, "addr", "add", address, "dev", name)
    content = os.urandom(4 << 20)
    with inside(server):
        listener = socket.create_server(("10.9.0.2", 80))

    def serve():
        peer, _ = listener.accept()
        with peer:
            peer.sendall(content)

    with inside(middle):
        engine = Engine()
        engine.connect("xdp:m0", "xdp:m1")
    threading.Thread(target=serve, daemon=True).start()
    runner = threading.Thread(target=engine.run)
    runner.start()
    try:
        with inside(client):
            with socket.create_connection(("10.9.0.2", 80), timeout=PATIENCE) as sock:
                digest = hashlib.sha256()
                while data := sock.recv(1 << 16):
                    digest.update(data)
            pings = subprocess.run([program("ip"), "netns", "exec", client, "ping", "-q", "-c", "3", "-i", "0.1", "-W", "20", "10.9.0.2"],
                                   capture_output=True, text=True, timeout=PATIENCE, check=False)
    finally:
        engine.stop()
        runner.join()
        listener.close()
    assert digest.digest() == hashlib.sha256(content).digest()
    assert " 3 received" in pings.stdout
    engine.close()
