"""A bump in the wire: an engine between two named ports forwards everything, and sheds by a named policy.

The judge is the raw socket at the other end: what left one host is what reaches the other, byte for byte.
"""
import random
import struct
import threading
import time

import pytest
import scapy.all as scapy
from scapy.contrib.lldp import LLDPDU, LLDPDUChassisID, LLDPDUEndOfLLDPDU, LLDPDUPortID, LLDPDUTimeToLive

from flowos import Config, Engine, Module, UsageError
from flowos.core.counters import DESCRIPTIONS
from flowos.core.pipe import pipe
from namespaces import inside, join, raw_socket
from waiting import PATIENCE
from wire import one_processor

A, B = "02:00:00:00:00:01", "02:00:00:00:00:02"


def strange_frames():
    """Frames of all sorts: understood, not understood, and broken."""
    ether = scapy.Ether(src=A, dst=B)
    tcp = scapy.IP(src="10.0.0.1", dst="10.0.0.2") / scapy.TCP(sport=5, dport=80, flags="S")
    good = [
        ether / scapy.ARP(psrc="10.0.0.1", pdst="10.0.0.2"),
        scapy.Ether(src=A, dst="01:80:c2:00:00:0e") / LLDPDU() / LLDPDUChassisID(subtype=4, id=b"\2\0\0\0\0\1") / LLDPDUPortID(subtype=7, id=b"x")
        / LLDPDUTimeToLive(ttl=120) / LLDPDUEndOfLLDPDU(),
        scapy.Dot3(src=A, dst="01:80:c2:00:00:00") / scapy.LLC() / scapy.STP(),
        ether / scapy.Dot1Q(vlan=5, prio=3) / tcp, ether / scapy.Dot1AD(vlan=7) / scapy.Dot1Q(vlan=8) / scapy.IPv6() / scapy.UDP() / b"x",
        ether / scapy.Dot1Q(vlan=9) / scapy.ARP(), ether / tcp, ether / scapy.IPv6(src="fd00::1", dst="fd00::2") / scapy.ICMPv6EchoRequest(),
        ether / scapy.IP(src="10.0.0.1", dst="10.0.0.2", proto=99) / b"unknown", ether / scapy.IP(src="10.0.0.1", dst="224.0.0.5", proto=89) / bytes(30),
        ether / scapy.IP(src="10.0.0.1", dst="10.0.0.2", flags="MF", id=7) / bytes(64), ether / scapy.IP(src="10.0.0.1", dst="10.0.0.2", frag=8, id=7) / bytes(9),
        ether / scapy.GRE() / b"", scapy.Ether(src=A, dst=B, type=0x88b5) / bytes(100), scapy.Ether(src=A, dst=B, type=0x8847) / bytes(40),
        ether / scapy.IP(src="10.0.0.1", dst="10.0.0.2", options=scapy.IPOption(b"\x94\x04\0\0")) / scapy.UDP(chksum=0) / b"x",
    ]
    frames, rng = [bytes(frame) for frame in good], random.Random(3)
    for frame in list(frames):                # each one cut, and with bytes turned
        frames.append(frame[:rng.randrange(14, len(frame))])
        broken = bytearray(frame)
        for _ in range(4):
            broken[rng.randrange(12, len(frame))] ^= 1 << rng.randrange(8)
        frames.append(bytes(broken))
    return frames


@pytest.mark.live
@pytest.mark.parametrize("kind", ["xdp", "packet"])
@pytest.mark.parametrize("module", [False, True])
def test_everything_is_forwarded_unchanged_both_ways(netns, kind, module):
    one, middle, two = netns(), netns(), netns()
    join(one, middle, "one", "left")
    join(middle, two, "right", "two")
    with inside(one):
        near = raw_socket("one")
    with inside(two):
        far = raw_socket("two")
    with inside(middle):
        engine = Engine(Config(busy=kind == "xdp"), ports={"lan": f"{kind}:left", "wan": f"{kind}:right"})

    class Look(Module):
        protocol = "tcp"

        def process(self, window):
            window.release()

    if module:
        engine.attach(Look())
    assert engine.ports["lan"].name == f"{kind}:left" and engine.ports["wan"].interface == "right"
    runner = threading.Thread(target=engine.run)
    runner.start()
    frames = strange_frames()
    try:
        with near, far, one_processor():
            for sender, receiver in (near, far), (far, near):
                for frame in frames:
                    sender.send(frame)
                assert took(receiver, len(frames)) == frames
    finally:
        engine.stop()
        runner.join()
    assert engine.packets == 2 * len(frames)
    for port in engine.ports.values():
        counted = port.statistics()
        assert counted["received"] == counted["sent"] == len(frames)
    engine.close()


def took(sock, count, patience=PATIENCE):
    """The frames that a raw socket got, tags put back into them."""
    sock.setsockopt(263, 8, 1)                # PACKET_AUXDATA
    taken, end = [], time.monotonic() + patience
    while len(taken) < count and time.monotonic() < end:
        try:
            data, beside, *_ = sock.recvmsg(2000, 200)
        except BlockingIOError:
            time.sleep(0.005)
            continue
        for _level, _kind, aux in beside:
            status, *_rest, tci, tpid = struct.unpack("IIIHHHH", aux[:20])
            if status & 0x10:                 # TP_STATUS_VLAN_VALID
                data = data[:12] + struct.pack("!HH", tpid if status & 0x40 else 0x8100, tci) + data[12:]
        taken.append(data)
    return taken


def test_names_of_ports():
    (left, _), (right, _) = pipe("l"), pipe("r")
    with Engine(ports={"lan": left, "wan": right}) as engine:
        assert engine.ports == {"lan": left, "wan": right} and engine.connected
    for wrong in {"lan": "pipe:x"}, ["pipe:x", "pipe:y"], {}:
        with pytest.raises(UsageError, match="expected two by name"):
            Engine(ports=wrong)
    with pytest.raises(UsageError, match="overload is 'panic', expected one of drop, wait"):
        Config(overload="panic")


@pytest.mark.parametrize("policy", ["drop", "wait"])
def test_overload_sheds_by_policy_and_every_packet_is_accounted_for(policy):
    (left, near), (right, far) = pipe("l", slots=64), pipe("r", slots=64)
    frame = bytes(scapy.Ether() / scapy.IP() / scapy.UDP() / (b"x" * 30))
    with Engine(Config(overload=policy), ports={"lan": left, "wan": right}) as engine:
        sent = 0
        for turn in range(40):                # the far end takes nothing
            while near.send(frame):
                sent += 1
            near.tx_sync()
            engine.step()
            near.tx_sync()
        stuck = near.tx_ring.size - near.tx_ring.avail
        dropped = engine.statistics()["merged_port_full"]
        if policy == "drop":
            assert dropped > 1000 and not engine.stalled
        else:
            assert dropped == 0 and engine.stalled and sent < 400        # the sender had to wait instead
        got = 0
        for turn in range(40):                # and now it takes everything
            got += len(far.receive())
            engine.step()
            near.tx_sync()
        got += len(far.receive())
        assert got + engine.statistics()["merged_port_full"] == sent
        assert stuck <= 64 and "merged_port_full" in DESCRIPTIONS and not engine.stalled


def test_an_engine_that_waits_for_a_way_out_runs_on():
    (left, near), (right, far) = pipe("l", slots=64), pipe("r", slots=64)
    frame = bytes(scapy.Ether() / scapy.IP() / scapy.UDP() / (b"x" * 30))
    sent, got, stalls = 0, 0, 0
    with Engine(Config(overload="wait"), ports={"lan": left, "wan": right}) as engine:
        def between():
            nonlocal sent, got, stalls
            while sent < 300 and near.send(frame):
                sent += 1
            near.tx_sync()
            stalls += engine.stalled
            if stalls > 5:                    # it slept some times; now there is a way
                got += len(far.receive())
            if got == 300:
                engine.stop()
        engine.run(between)
    assert got == sent == 300 and stalls > 5
