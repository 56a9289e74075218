"""Rings on their own, and the examples that use nothing else."""
import importlib.util
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from conftest import program
from flowos.core.arena import Arena
from flowos.core.errors import UsageError
from flowos.core.pipe import pipe
from flowos.core.ring import Ring
from flowos.rings import poll, register, register_pair
from namespaces import inside, ip, join, raw_socket
from waiting import PATIENCE, asleep, until

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_read_write_and_take():
    arena = Arena(32)
    came, free = Ring(8, arena), Ring(8, arena)
    came.offer(8)
    free.offer(5)
    assert came.write(b"frame", 3) == 3 and (came.head, came.cur) == (3, 3)
    assert came.write(b"other", 99) == 5 and came.write(b"none") == 0
    with pytest.raises(UsageError, match="the buffer holds 2048"):
        free.write(bytes(2049))
    came = Ring(8, Arena(8))
    with pytest.raises(UsageError, match="on one arena"):
        free.take(came)
    with pytest.raises(UsageError, match="two rings"):
        free.take(free)
    came = Ring(8, arena)
    came.offer(8)
    for number in range(8):
        came[number].data = b"%d" % number
        came[number].ts = number
    held = [came[number].address for number in range(8)]
    assert free.take(came, 2) == 2 and free.take(came) == 3 and free.take(came) == 0
    assert came.avail == 3 and free.avail == 0 and (free.head, came.head) == (5, 5)
    came._check()
    free._check()
    assert [(ts, data) for ts, _wire, data in came.read(2)] == [(5, b"5"), (6, b"6")]
    assert came.read() == [(7, 1, b"7")] and came.read() == [] and came.head == came.tail
    free.offer(3)
    assert len(set(held)) == 8


def test_poll_says_who_is_ready_and_when_all_is_over():
    (a, b), (c, d) = pipe("one"), pipe("two")
    assert poll(b, d, timeout=0) == []
    a.send(b"x")
    a.tx_sync()
    assert poll(b, d) == [b] and poll(b, d, timeout=0) == [b]
    b.rx_ring.read()
    assert poll(b, send=[c]) == [c]
    a.close()
    c.close()
    assert poll(b, d) == []                   # both have ended: there is nothing to wait for
    with pytest.raises(UsageError, match="no ports"):
        poll()


def test_the_examples_are_short():
    for path in EXAMPLES.glob("ring_*.py"):
        assert len(path.read_text().splitlines()) < 60


def test_the_examples_on_pipes():
    forwarder, out = example("ring_forwarder"), []
    (left, far_left), (right, far_right) = pipe("left"), pipe("right")
    del left, right, far_left, far_right
    generate, receive = example("ring_generator").generate, example("ring_receiver").receive
    reader = threading.Thread(target=lambda: out.append(receive("pipe:example", seconds=PATIENCE)))
    reader.start()
    assert generate("pipe:example", 5000)["sent"] == 5000
    reader.join()
    assert out == [(5000, 300000)] and forwarder


@pytest.mark.live
def test_generator_forwarder_and_receiver_as_commands(netns):
    one, middle, two = netns(), netns(), netns()
    join(one, middle, "one", "left")
    join(middle, two, "right", "two")
    for where, name in (one, "one"), (middle, "left"), (middle, "right"), (two, "two"):
        subprocess.run([program("ip"), "netns", "exec", where, "tc", "qdisc", "replace", "dev", name, "root", "pfifo", "limit", "1000"],
                       check=False, capture_output=True, timeout=PATIENCE)

    def command(where, name, *words):
        return subprocess.Popen([program("ip"), "netns", "exec", where, sys.executable, EXAMPLES / f"{name}.py", *words],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    with command(two, "ring_receiver", "xdp:two") as receiver, command(middle, "ring_forwarder", "xdp:left", "xdp:right") as forwarder:
        for where, name in (middle, "left"), (middle, "right"), (two, "two"):
            until(lambda where=where, name=name: "xdp" in link(where, name), f"a program on {name}")
        with command(one, "ring_generator", "xdp:one", "900") as generator:
            told = generator.communicate(timeout=PATIENCE)[0]
        assert "'sent': 900" in told
        until(lambda: link(two, "two")["stats64"]["rx"]["packets"] >= 900, "all have come")
        for process in forwarder, receiver:
            until(lambda process=process: asleep(process.pid), "what came was dealt with")
            process.send_signal(2)
        assert receiver.communicate(timeout=PATIENCE)[0] == "900 packets, 54000 bytes\n"
        assert forwarder.communicate(timeout=PATIENCE)[0] == "{'xdp:left': 900, 'xdp:right': 0}\n"


def link(where, name):
    """Give what `ip` tells of an interface."""
    command = [program("ip"), "-n", where, "-s", "-j", "link", "show", "dev", name]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout)[0]


@pytest.mark.live
def test_one_ring_pair_and_both_ends_of_a_pair(netns):
    near, far = netns(), netns()
    join(near, far, "near", "far")
    with inside(near), raw_socket("near") as sock:
        with inside(far), register("xdp:far/0") as port:
            sock.send(bytes(60))
            assert poll(port, timeout=PATIENCE) == [port] and port.rx_ring.avail == 1
            ip("-n", near, "link", "del", "near")
            assert poll(port) == [port]
            port.rx_ring.read()
            assert poll(port) == [] and port.ended
    near = netns()
    with inside(near), register("packet:lo") as port:
        frame = bytes(12) + b"\x88\xb5" + bytes(46)
        assert port.tx_ring.write(frame) == 1 and port.tx_sync() == 1
        assert poll(port, timeout=PATIENCE) == [port] and port.rx_ring.read()[0][2] == frame
    left, right = register_pair("pipe:l", "pipe:r")
    assert (left.name, right.name) == ("pipe:l:a", "pipe:r:a")
