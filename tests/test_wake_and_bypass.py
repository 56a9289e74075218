"""Windows that are offered again when their module asked, and connections that a module wants no more of."""
import pytest

import flowos
from flowos.packets import Conversation, ethernet, save, udp
from flowos.testing import read_packets

WHERE = ["inline", pytest.param("own", marks=pytest.mark.threads)]
START, SECOND = 1_700_000_000 * 10**9, 10**9


def said(path, *turns, others=()):
    """Save a conversation: (seconds, side, bytes) each; give the path."""
    talk = Conversation(start=START).open()
    for seconds, side, data in turns:
        talk.now = START + int(seconds * SECOND)
        talk.send(side, data)
    talk.close()
    save(path, sorted([*talk.packets, *others]))
    return path


class Seen(flowos.Module):
    """Do with each window what a function says; write down when it came and what it held."""

    hold = 1e6

    def __init__(self, do, mode=flowos.RDONLY, protocol="tcp", **more):
        self.do, self.mode, self.protocol, self.seen, self.ended = do, mode, protocol, [], []
        vars(self).update(more)

    def process(self, window):
        if window.length or window.complete:
            self.seen.append(((window.now - START) / 1e9, window.direction, bytes(window.data), window.complete))
            self.do(self, window)

    def closed(self, connection, reason):
        self.ended.append(reason)


def run(path, module, out=None, threads="inline", **config):
    """Run one module over a capture; give the engine's statistics."""
    with flowos.Engine(flowos.Config.offline(batch=1, deliver_units=1, **config)) as engine:
        engine.add_port(path)
        if out is not None:
            engine.add_output(out)
        attachment = engine.attach(module, threads=threads)
        while engine.step():
            if threads == "own":
                engine.drain()
            engine._check()
        return {**engine.statistics(), **attachment.counters}


@pytest.mark.parametrize("threads", WHERE)
def test_a_module_is_woken_at_the_time_it_asked_for(tmp_path, threads):
    """The capture is silent meanwhile, and its next packet is another connection's."""
    def do(module, window):
        if window.direction == 0 and len(module.seen) == 1:
            window.release(upto=window.head)
            window.wake(after=2.5)

    other = [(START + 9 * SECOND, ethernet(udp(("10.3.0.1", 1), ("10.3.0.2", 2), b"x")))]
    module = Seen(do)
    run(said(tmp_path / "in.pcap", (1, 0, b"held"), (20, 1, b"end"), others=other), module, tmp_path / "out.pcap", threads)
    assert module.seen[:2] == [(1.001, 0, b"held", False), (3.501, 0, b"held", False)]
    assert [ts for ts, frame in read_packets(tmp_path / "out.pcap") if frame.endswith(b"held")] == [START + 3_501_000_000]


@pytest.mark.parametrize("threads", WHERE)
@pytest.mark.parametrize("ask, sizes", [({"bytes": 10}, [4, 12]), ({"bytes": 10**9}, [4, 16]), ({"units": 2}, [4, 8]),
                                        ({"bytes": 10**9, "after": 0.5}, [4, 8])])
def test_a_module_sleeps_although_data_come(tmp_path, threads, ask, sizes):
    def do(module, window):
        if window.direction == 0 and len(module.seen) == 1:
            window.release(upto=window.head)
            window.wake(**ask)

    turns = [(1 + number / 3, 0, b"four") for number in range(4)]
    module = Seen(do)
    run(said(tmp_path / "in.pcap", *turns), module, None, threads)
    assert [len(data) for _, way, data, _ in module.seen if way == 0][:2] == sizes
    assert b"".join(data for _, way, data, _ in module.seen[1:] if way == 0) == b"four" * 4


def test_who_sleeps_is_let_go_of_at_the_hold_limit(tmp_path):
    def do(module, window):
        if window.direction == 0 and len(module.seen) == 1:
            window.release(upto=window.head)
            window.wake(bytes=10**6)

    module = Seen(do, hold=2.0)
    statistics = run(said(tmp_path / "in.pcap", (1, 0, b"one"), (2, 0, b"two"), (8, 0, b"three"), (9, 0, b"four")), module)
    assert statistics["windows_hold_limit"] == 1
    assert module.seen[1][2] == b"twothreefour" and any(complete for *_, complete in module.seen)


def test_wake_says_what_is_wrong(tmp_path):
    def do(_module, window):
        with pytest.raises(flowos.UsageError, match="after, bytes or units"):
            window.wake()
        with pytest.raises(flowos.UsageError, match="-1"):
            window.wake(after=-1)

    module = Seen(do)
    run(said(tmp_path / "in.pcap", (1, 0, b"x")), module)
    assert module.seen


@pytest.mark.parametrize("threads", WHERE)
@pytest.mark.parametrize("protocol, mode", [("tcp", flowos.RDONLY), ("tcp", flowos.RDWR), ("http", flowos.RDONLY), ("ip", flowos.RDONLY)])
def test_a_bypassed_connection_is_only_forwarded(tmp_path, protocol, mode, threads):
    """No unit of it is made any more, its packets leave as they came, and its end is told."""
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    source = said(tmp_path / "in.pcap", *[(1 + number, 0, request) for number in range(50)])
    module = Seen(lambda _module, window: window.bypass(), mode, protocol)
    statistics = run(source, module, tmp_path / "out.pcap", threads)
    assert len([1 for _, _, data, _ in module.seen if data]) == 1 and module.ended == ["end"]
    assert [frame for _, frame in read_packets(tmp_path / "out.pcap")] == [frame for _, frame in read_packets(source)]
    if protocol != "ip":
        assert statistics["windows"] < 10 and statistics["merged_unchanged"] == statistics["packets"]


@pytest.mark.parametrize("threads", WHERE)
def test_what_was_edited_before_stays_edited(tmp_path, threads):
    def do(_module, window):
        if window.direction == 0 and window.length:
            window.insert(window.head, b"+++")
            window.bypass()

    source = said(tmp_path / "in.pcap", (1, 0, b"one"), (2, 1, b"reply"), (3, 0, b"two"))
    module = Seen(do, flowos.RDWR)
    run(source, module, tmp_path / "out.pcap", threads)
    streams = {}
    for connection in flowos.open(tmp_path / "out.pcap"):
        streams = connection.a_to_b.read(), connection.b_to_a.read()
    assert streams == (b"+++onetwo", b"reply") and all(b"two" not in data for _, _, data, _ in module.seen)


def test_others_go_on_and_newcomers_begin_there(tmp_path):
    """One module leaves; another sees all; one that comes later sees what comes from then on."""
    source = said(tmp_path / "in.pcap", *[(number, 0, b"%03d" % number) for number in range(1, 60)])
    first, late = Seen(lambda _module, window: window.bypass()), Seen(lambda _module, _window: None)
    with flowos.Engine(flowos.Config.offline(batch=1, deliver_units=1)) as engine:
        engine.add_port(source)
        engine.add_output(tmp_path / "out.pcap")
        engine.attach(first)
        while engine.packets < 30:
            engine.step()
        engine.attach(late)
        engine.run()
        engine._check()
    assert len(first.seen) <= 2
    data = b"".join(data for _, _, data, _ in late.seen)
    assert data == b"".join(b"%03d" % number for number in range(int(data[:3]), 60)) and 20 < int(data[:3]) < 40
    assert len(read_packets(tmp_path / "out.pcap")) == len(read_packets(source))
