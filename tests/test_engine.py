"""The engine: what modules are called with and when, what they may do meanwhile, and how it ends.

Above all what a careless or hostile module does: raising, calling back into the engine, coming and
going in the middle.  The books must balance whatever it is: each byte is delivered once, in order.
"""
import gc
import hashlib
import json
import os
import signal
import threading
import time
import weakref
from pathlib import Path

import pytest

import flowos
from conversations import (
    MILLISECOND, REQUEST, RESPONSE, Log, datagram, datagrams, exchange, exchanges, in_fragments, run, save)
from flowos import Config, Engine, Module, UsageError
from flowos.core.counters import DESCRIPTIONS
from models import build
from models.build import A, B, START_NS

CAPTURES = sorted((Path(__file__).resolve().parent.parent.parent / "shared" / "pcaps").glob("*.pcap*"))
CAPTURES = [path for path in CAPTURES if path.suffix != ".json"]
SMALL_STEPS = {"batch": 4, "deliver_units": 1}
STREAMS = [REQUEST, RESPONSE]


@pytest.fixture
def ten(tmp_path):
    """A capture of ten connections of eight packets each."""
    return save(tmp_path, exchanges(10))


def engine_on(path, **config):
    engine = Engine(Config(**config))
    engine.add_port(path)
    return engine


# ------------------------------------------------------------------------------------ the calls

def test_the_order_of_calls(ten):
    log = Log()
    engine = run(ten, log)
    assert log.calls[0] == ("start", None) and log.calls[-1] == ("stop",)
    for number in range(10):
        mine = [call[0] for call in log.calls if call[1:] == (number,)]
        assert mine[0] == "opened" and mine[-1] == "closed" and set(mine[1:-1]) == {"process"}
    assert log.streams() == {(number, way): STREAMS[way] for number in range(10) for way in (0, 1)}
    kinds = [unit[2] for unit in log.units if unit[:2] == (3, 0)]
    assert kinds == ["syn", "data", "fin"]
    assert engine.finished and engine.packets == 80


@pytest.mark.parametrize("steps", [{}, SMALL_STEPS, {"batch": 1, "deliver_units": 1 << 20}])
def test_the_same_comes_whatever_the_batches(ten, steps):
    log = Log()
    run(ten, log, **steps)
    whole = Log()
    run(ten, whole)
    assert sorted(log.units) == sorted(whole.units)
    assert log.told("opened") == log.told("closed") == list(range(10))


def test_what_the_engine_tells_of_its_input(tmp_path):
    records = exchanges(3)
    cut = [(ts, frame[:70], len(frame)) if i == 3 else (ts, frame) for i, (ts, frame, *_) in enumerate(records)]
    engine = engine_on(save(tmp_path, cut))
    assert engine.capture == (0, 0, 0, [], None, None) and engine.now is None
    engine.run()
    assert engine.capture.packets == 24 and engine.capture.bytes == sum(len(record[1]) for record in records)
    assert engine.capture.truncated == 1 and engine.capture.linktypes == [1]
    assert (engine.capture.first_ns, engine.capture.last_ns) == (records[0][0], records[-1][0])
    assert engine.now == records[-1][0]


def test_every_counter_is_described(ten):
    engine = run(ten, Log("http"))
    counters = engine.statistics()
    assert counters["packets"] == 80 and counters["connections"] == counters["connections_closed"] == 10
    assert counters["connections_live"] == 0
    port = flowos.core.ports.open_port(ten)
    assert set(counters) <= set(DESCRIPTIONS) | set(port.descriptions)
    assert all(DESCRIPTIONS.values())


def test_process_batch_is_called_instead_of_process(ten):
    class Batch(Module):
        calls, seen = 0, 0

        def process(self, window):
            raise AssertionError("not with process_batch")

        def process_batch(self, windows):
            self.calls += 1
            self.seen += len(windows)
            assert isinstance(windows, list)
            assert len({(window.connection.id, window.direction) for window in windows}) == len(windows)

    module = Batch()
    run(ten, module)
    assert module.calls == 1 and module.seen == 20


def test_modules_run_in_their_order(ten):
    calls = []

    class Named(Module):
        def __init__(self, name):
            self.name = name

        def process(self, window):
            calls.append(self.name)

    engine = engine_on(ten)
    for name, order in (("c", 9), ("a", 1), ("last", None), ("b", 9)):
        engine.attach(Named(name), order=order)
    engine.run()
    assert calls == ["a"] * 20 + ["c"] * 20 + ["b"] * 20 + ["last"] * 20


def test_only_what_a_module_overrides_is_asked_for(ten):
    """Nobody wants units here, so none are made."""
    class Ends(Module):
        ends = 0

        def closed(self, connection, reason):
            assert reason == "fin" or reason == "end"
            self.ends += 1

    module = Ends()
    run(ten, module)
    assert module.ends == 10


def test_ticks_come_at_full_seconds_of_capture_time(tmp_path):
    class Clock(Module):
        protocol = "udp"

        def __init__(self):
            self.ticks, self.seen = [], 0

        def process(self, window):
            self.seen += len(window)

        def tick(self, now):
            self.ticks.append(((now - START_NS) / 1e9, self.seen))

    records = datagrams(30, apart=100 * MILLISECOND)
    records += [datagram(b"late", at=8_500 * MILLISECOND), datagram(b"later", at=8_600 * MILLISECOND)]
    for steps in ({}, SMALL_STEPS):
        module = Clock()
        run(save(tmp_path, records), module, **steps)
        assert module.ticks == [(1, 10), (2, 20), (8, 30)], "what came before a second is delivered before it is told"


def test_ticks_go_on_after_the_clock_was_set_back(tmp_path):
    ticks = []

    class Clock(Module):
        protocol = "udp"

        def tick(self, now):
            ticks.append(now // 10**9 - START_NS // 10**9)

    day = 86_400_000 * MILLISECOND
    run(save(tmp_path, [datagram(b"x", at=at) for at in (0, 1_100 * MILLISECOND, -day, 2_200 * MILLISECOND - day)]), Clock())
    assert ticks == [1, 2 - 86400]


# ------------------------------------------------------------------------------------ modules that raise

class Boom(RuntimeError):
    """Raised by the modules here."""


def raising(call, scope="connection"):
    """Make a module whose method `call` raises each time."""
    def fail(self, *arguments):
        self.calls += 1
        raise Boom(f"{call} {self.calls}")

    return type("Raising", (Module,), {"calls": 0, "protocol": "tcp", "scope": scope, call: fail})()


CALLS = [("opened", "connection"), ("process", "connection"), ("process_batch", "connection"),
         ("closed", "connection"), ("tick", "connection"), ("process", "flow"), ("process_batch", "flow")]


@pytest.mark.parametrize("call, scope", CALLS)
@pytest.mark.parametrize("steps", [{}, SMALL_STEPS])
def test_an_isolated_module_harms_nobody(tmp_path, call, scope, steps):
    path = save(tmp_path, exchanges(10, apart=1500 * MILLISECOND))
    bad, before, after, alone = raising(call, scope), Log(), Log(), Log()
    engine = engine_on(path, isolate=True, **steps)
    engine.attach(before)
    attachment = engine.attach(bad)
    engine.attach(after)
    engine.run()
    engine.close()
    run(path, alone)
    assert sorted(before.units) == sorted(after.units) == sorted(alone.units)
    assert before.told("opened") == before.told("closed") == after.told("closed") == list(range(10))
    expected = {"opened": 10, "closed": 10, "tick": 9, "process": 20 if scope == "connection" else 1, "process_batch": 1}
    assert bad.calls == expected[call] if not steps else bad.calls >= expected[call], "an error kept the next call away"
    assert engine.statistics()["module_errors"] == bad.calls
    assert len(attachment.errors) == min(bad.calls, 16) and "Boom: " in attachment.errors[0] and call in attachment.errors[0]


@pytest.mark.parametrize("call, scope", CALLS)
@pytest.mark.parametrize("steps", [{}, SMALL_STEPS])
def test_an_error_is_raised_and_running_on_loses_and_repeats_nothing(tmp_path, call, scope, steps):
    path = save(tmp_path, exchanges(10, apart=1500 * MILLISECOND))
    bad, log, alone = raising(call, scope), Log(), Log()
    run(path, alone)
    engine = engine_on(path, **steps)
    engine.attach(bad)
    engine.attach(log)
    raised = 0
    while not engine.finished:
        try:
            engine.run()
        except Boom as error:
            raised += 1
            assert error.__traceback__.tb_next is not None, "it shows where it was raised"
        engine._check()
    engine.close()
    assert raised >= (1 if not steps or call == "closed" else 3)
    assert sorted(log.units) == sorted(alone.units)
    assert log.told("opened") == log.told("closed") == list(range(10))


@pytest.mark.parametrize("call", ["opened", "process", "closed"])
def test_closing_after_an_error_is_orderly(ten, call):
    log = Log()
    with pytest.raises(Boom, match=f"{call} 1$"):
        with engine_on(ten) as engine:
            engine.attach(raising(call))
            engine.attach(log)
            engine.run()
    assert log.told("opened") == log.told("closed") == list(range(10)) and log.calls[-1] == ("stop",)
    assert engine.statistics()["connections_live"] == 0
    engine._check()


def test_a_module_that_cannot_start_is_not_attached(ten):
    log = Log()
    engine = engine_on(ten)
    with pytest.raises(Boom):
        engine.attach(raising("start"))
    engine.attach(log)
    engine.run()
    assert len(log.units) == 60


def test_all_are_stopped_whoever_raises(ten):
    modules = [raising("stop"), raising("stop"), Log()]
    engine = engine_on(ten)
    for module in modules:
        engine.attach(module)
    engine.run()
    with pytest.raises(Boom, match="stop 1"):
        engine.close()
    assert [module.calls for module in modules[:2]] == [1, 1] and modules[2].calls[-1] == ("stop",)
    engine.close()
    assert modules[0].calls == 1, "closing twice stops nobody twice"


@pytest.mark.parametrize("call", ["process", "process_batch"])
def test_a_module_that_overstays_its_time_is_detached(ten, call):
    """Its one call took too long; what follows passes it by, and the others hear all."""
    class Slow(Log):
        time_limit = 0.001
        calls_made = 0

        def process(self, window):
            self.calls_made += 1
            time.sleep(0.003)

    if call == "process_batch":
        Slow.process_batch = lambda self, windows: self.process(windows[0])
    slow, log = Slow(), Log()
    engine = engine_on(ten, **SMALL_STEPS)
    attachment = engine.attach(slow)
    engine.attach(log)
    engine.run()
    assert slow.calls_made == 1 and slow.calls[-1] == ("stop",) and attachment.detached
    assert "more than its time_limit of 0.001 s" in attachment.errors[0] and attachment.counters["errors"] == 1
    assert engine.statistics()["module_errors"] == 1
    assert log.streams() == {(number, way): STREAMS[way] for number in range(10) for way in (0, 1)}


@pytest.mark.parametrize("call, scope", CALLS)
@pytest.mark.parametrize("isolate", [False, True])
def test_an_interrupt_stops_at_once_and_leaves_the_engine_usable(tmp_path, call, scope, isolate):
    path = save(tmp_path, exchanges(10, apart=1500 * MILLISECOND))
    bad = raising(call, scope)
    log = Log()

    def interrupt(*arguments):
        bad.calls += 1
        if bad.calls == 1:
            signal.raise_signal(signal.SIGINT)

    setattr(bad, call, interrupt)
    engine = engine_on(path, isolate=isolate)
    engine.attach(bad)
    engine.attach(log)
    with pytest.raises(KeyboardInterrupt):
        engine.run()
    assert bad.calls == 1, "nobody is called once the user wants out"
    engine._check()
    engine.run()
    engine.close()
    assert len(log.told("closed")) == len(set(log.told("closed")))
    assert len(log.units) == len(set(log.units)), "nothing comes twice"
    assert engine.statistics()["connections_closed"] == 10


# ------------------------------------------------------------------------------------ calling back into the engine

BACK = {
    "step": lambda engine, attachment: engine.step(), "run": lambda engine, attachment: engine.run(),
    "finish": lambda engine, attachment: engine.finish(), "close": lambda engine, attachment: engine.close(),
    "add_port": lambda engine, attachment: engine.add_port("pipe:nowhere"),
    "create_flow": lambda engine, attachment: engine.create_flow("new", "udp"),
    "delete_flow": lambda engine, attachment: engine.delete_flow("web"),
}


@pytest.mark.parametrize("back", BACK)
@pytest.mark.parametrize("call, scope", CALLS)
def test_what_a_module_must_not_do_while_it_is_called(tmp_path, call, scope, back):
    path = save(tmp_path, exchanges(4, apart=1500 * MILLISECOND))
    refused = []

    def try_it(self, *arguments):
        with pytest.raises(UsageError):
            BACK[back](engine, attachment)
        refused.append(call)

    module = type("Back", (Module,), {"scope": scope, call: try_it})()
    log = Log()
    engine = engine_on(path, **SMALL_STEPS)
    engine.create_flow("web", "tcp")
    attachment = engine.attach(module, "web")
    engine.attach(log, "web")
    engine.run()
    assert refused and len(log.streams()) == 8 and set(log.streams().values()) == set(STREAMS)


def test_on_datagram_runs_amid_packets_and_may_not_change_the_engine(tmp_path):
    path = save(tmp_path, in_fragments(exchanges(2)))
    engine, seen = engine_on(path), []

    def on_datagram(*datagram):
        for name, back in BACK.items():
            with pytest.raises(UsageError):
                back(engine, None)
        seen.append(datagram)

    log = Log()
    engine.create_flow("web", "tcp")
    engine.on_datagram = on_datagram
    engine.attach(log)
    engine.run()
    assert len(seen) == 16 and set(log.streams().values()) == set(STREAMS)


def test_modules_come_and_go_from_within_calls(ten):
    """A detached module is called no more; one attached in a call begins with the next delivery."""
    into = []

    class Leaving(Log):
        def process(self, window):
            super().process(window)
            if self.attachment is not None:
                engine.detach(self.attachment)
                self.attachment = None

    first, leaving, last = Log(name="first"), Leaving(into=into), Log(name="last")
    engine = engine_on(ten, **SMALL_STEPS)
    engine.attach(first)
    leaving.attachment = engine.attach(leaving)
    engine.attach(last)
    engine.run()
    assert leaving.told("process") == [0] and into[-1] == ("stop",)
    assert leaving.told("closed") == []
    assert first.streams() == last.streams() and len(first.streams()) == 20

    joined = []

    class Joining(Log):
        def opened(self, connection):
            if connection.id == 4:
                joined.append(Log())
                engine.attach(joined[0])

    engine, whole = engine_on(ten, **SMALL_STEPS), Log()
    engine.attach(whole)
    engine.attach(Joining())
    engine.run()
    late = joined[0].units
    assert late == whole.units[-len(late):] and (4, 0, "data", 0, len(REQUEST), REQUEST) not in late
    assert [unit[:2] for unit in late if unit[2] == "syn"] == [(number, way) for number in range(5, 10) for way in (0, 1)]


@pytest.mark.parametrize("scope", ["connection", "flow"])
def test_one_module_detaches_another_in_a_call(ten, scope):
    class Other(Module):
        calls = stopped = 0

        def process(self, window):
            self.calls += 1

        def stop(self):
            self.stopped += 1

    class Judge(Module):
        protocol = "tcp"

        def opened(self, connection):
            if not victim.stopped:
                engine.detach(attachment)

    victim, bystander = Other(), Other()
    victim.scope = bystander.scope = scope
    engine = engine_on(ten)
    attachment = engine.attach(victim)
    engine.attach(bystander)
    engine.attach(Judge())
    engine.run()
    assert (victim.calls, victim.stopped) == (0, 1)
    assert bystander.calls == (20 if scope == "connection" else 1)


# ------------------------------------------------------------------------------------ attaching and detaching on the way

@pytest.mark.parametrize("protocol", ["tcp", "frame", "http", "transport"])
def test_one_takes_over_from_another(tmp_path, protocol):
    """What the first saw and what the second saw is all there is, each unit once."""
    body = bytes(range(256)) * 100
    path = save(tmp_path, exchange(REQUEST, RESPONSE[:17] + b"Content-Length: %d\r\n\r\n" % len(body) + body, cut=500))
    whole = Log(protocol)
    run(path, whole)
    for steps in (3, 9, 20):
        first, second = Log(protocol), Log(protocol)
        engine = engine_on(path, batch=2, deliver_units=5)
        keep = engine.attach(Log(protocol)) if protocol == "http" else None      # the decoder goes on in between
        attachment = engine.attach(first)
        for _ in range(steps):
            engine.step()
        engine.detach(attachment)
        engine.attach(second)
        engine.run()
        assert first.units + second.units == [*first.units, *second.units]
        assert sorted(first.units + second.units) == sorted(whole.units)
        assert first.units and (second.units or steps == 20)
        assert keep is None or sorted(keep.module.units) == sorted(whole.units)


def test_a_window_holds_only_its_own_bytes_after_a_pause(tmp_path):
    """While nobody listens no units are kept: the next window begins where its first unit does."""
    path = save(tmp_path, exchange(bytes(10_000), b"", cut=100))
    windows = []

    class Spans(Module):
        def process(self, window):
            units = list(window.units)
            windows.append((window.direction, window.offset, window.length))
            assert (window.head, window.tail) == (units[0].offset, units[-1].end)

    engine = engine_on(path, **SMALL_STEPS)
    attachment = engine.attach(Spans())
    engine.step()
    engine.detach(attachment)
    while engine.packets < 40:
        engine.step()
    engine.attach(Spans())
    engine.run()
    pieces = [window[1:] for window in windows if window[0] == 0]
    assert sum(length for _, length in pieces) < 10_000, "there was a pause"
    assert all(length <= 400 for _, length in pieces)


def test_rows_of_the_one_that_leaves_do_not_reach_the_one_that_stays(tmp_path):
    path = save(tmp_path, sorted(datagrams(300, apart=100_000) + exchanges(50, apart=600_000)))
    counts = {}

    class Rows(Module):
        scope = "flow"

        def __init__(self, protocol):
            self.protocol = protocol
            counts[protocol] = [0, set()]

        def process(self, window):
            counts[self.protocol][0] += len(window)
            counts[self.protocol][1] |= set(window.array()["proto"].tolist())

    engine = engine_on(path, batch=2)
    leaving = engine.attach(Rows("udp"))
    engine.attach(Rows("tcp"))
    engine.step()
    datagrams_so_far = engine.statistics()["units"]
    assert counts["udp"][0] == 0, "rows wait"
    engine.detach(leaving)
    assert 0 < counts["udp"][0] < datagrams_so_far and counts["udp"][1] == {17}
    engine.attach(Rows("icmp"))
    engine.run()
    assert counts["tcp"] == [50 * 6, {6}] and counts["icmp"][0] == 0


# ------------------------------------------------------------------------------------ the end

def test_closing(ten):
    engine, log = engine_on(ten), Log()
    engine.attach(log)
    engine.step()
    engine.close()
    before = list(log.calls)
    engine.close()
    engine.finish()
    engine.run()
    assert engine.step() is False and log.calls == before
    assert log.told("closed") == list(range(10)) and log.calls.count(("stop",)) == 1
    assert engine.capture.packets == 80 and engine.statistics()["packets"] == 80, "figures stay"
    with pytest.raises(UsageError, match="before the first packet"):
        engine.add_port(ten)


def test_closed_before_it_ran(ten):
    engine, log = engine_on(ten), Log()
    engine.attach(log)
    engine.close()
    engine.run()
    assert log.calls == [("start", None), ("stop",)] and engine.packets == 0


def test_closing_closes_the_ports(ten, tmp_path):
    packed = save(tmp_path, exchanges(1), "capture.pcap.gz")

    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    before = descriptors()
    for several in ((ten,), (packed,), (ten, packed)):
        engine = Engine()
        for path in several:
            engine.add_port(path)
        engine.run()
        engine.close()
        assert descriptors() == before


def test_an_engine_that_is_dropped_in_the_middle_is_freed(ten):
    """With a decoder at work, flows (which refer to the engine), and handles that outlive it."""
    for protocol in ("tcp", "http", "dns", "frame"):
        module, kept = Log(protocol), []
        module.process = lambda window: kept.append((window, window.connection, window.data, list(window.units)))
        engine = engine_on(ten, **SMALL_STEPS)
        engine.create_flow("web", "tcp")
        engine.attach(module, "web")
        for _ in range(4):
            engine.step()
        gone = weakref.ref(module)
        data = [bytes(entry[2]) for entry in kept]
        del engine, module
        gc.collect()
        assert gone() is None, f"{protocol}: something kept the engine"
        for window, connection, view, units in kept:
            assert connection.a.port == 40000 and connection.a_to_b.packets > 0 and connection.flow == "web"
            with pytest.raises(flowos.StaleError):
                window.data
            repr((window, connection, units))
        assert [bytes(entry[2]) for entry in kept] == data


def test_many_dropped_engines_need_no_more_memory_than_one(ten):
    def once():
        engine = engine_on(ten, **SMALL_STEPS)
        engine.attach(Log("http"))
        engine.create_flow("web", "tcp")
        for _ in range(4):
            engine.step()

    def mapped():
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")

    once()
    before = mapped()
    for _ in range(20):
        once()
    assert mapped() - before < 150 << 20, "each engine reserves some 400 MB of address space"


def test_several_engines_at_once(tmp_path):
    paths = [save(tmp_path, exchanges(count), f"{count}.pcap") for count in (3, 7, 12)]
    logs, engines = [Log("http") for _ in paths], []
    for path, log in zip(paths, logs):
        engines.append(engine_on(path, **SMALL_STEPS))
        engines[-1].attach(log)
    while [engine for engine in engines if not engine.finished]:
        for engine in engines:
            engine.step()
    for path, log in zip(paths, logs):
        alone = Log("http")
        run(path, alone)
        assert sorted(log.units) == sorted(alone.units)


@pytest.mark.threads
def test_an_engine_is_one_thread_s_at_a_time(tmp_path):
    engine, refused = engine_on(save(tmp_path, in_fragments(exchange()))), []

    def meanwhile():
        try:
            engine.step()
        except UsageError as error:
            refused.append(error)

    def on_datagram(*datagram):
        thread = threading.Thread(target=meanwhile)
        thread.start()
        thread.join()

    engine.on_datagram = on_datagram
    engine.run()
    assert len(refused) == 8


# ------------------------------------------------------------------------------------ reassembled datagrams

def test_on_datagram_tells_each_joined_datagram(tmp_path):
    long = bytes(range(200))
    records = in_fragments([datagram(long), datagram(long[::-1])], size=64, first_id=7)
    six = build.extension(build.UDP, b"options") + build.udp(build.A6, build.B6, long)
    for at in range(0, len(six), 64):
        part = build.fragment_header(build.DESTINATION, 9, at, at + 64 < len(six)) + six[at:at + 64]
        routed = build.extension(build.FRAGMENT, bytes(6)) + part
        records.append((START_NS, build.ethernet(build.ipv6(build.A6[0], build.B6[0], build.HOP_BY_HOP, routed))))
    seen = []
    engine = engine_on(save(tmp_path, records))
    engine.on_datagram = lambda *told: seen.append(told)
    assert engine.on_datagram is not None
    engine.run()
    assert seen == [(4, A[0], B[0], 7, build.udp(A, B, long)), (4, A[0], B[0], 8, build.udp(A, B, long[::-1])),
                    (6, build.A6[0], build.B6[0], 9, six)]
    assert engine.ip_reassembly == {"datagrams": 3, "fragments": len(records), "timed_out": 0, "overlaps": 0, "conflicts": 0}


def test_on_datagram_that_raises_is_heard_and_the_run_goes_on(tmp_path):
    path = save(tmp_path, in_fragments(exchanges(3)))
    engine, seen, raised, log = engine_on(path, **SMALL_STEPS), [], [], Log()

    def on_datagram(*datagram):
        seen.append(datagram)
        raise Boom(len(seen))

    engine.on_datagram = on_datagram
    engine.attach(log)
    while not engine.finished:
        try:
            engine.run()
        except Boom as error:
            raised.append(error.args[0])
    assert len(seen) == 24 and raised[0] == 1 and raised == sorted(set(raised))
    assert set(log.streams().values()) == set(STREAMS) and len(log.streams()) == 6


def test_a_datagram_whose_headers_lie_does_not_raise(tmp_path):
    """Behind the fragment header: a routing header that claims more bytes than there are."""
    parts = [(bytes([build.ROUTING, 255]) + bytes(6), 0, True), (bytes(8), 8, False)]
    records = [(START_NS, build.ethernet(build.ipv6("2001:db8::1", "2001:db8::2", build.FRAGMENT,
                                                    build.fragment_header(build.ROUTING, 1, at, more) + part)))
               for part, at, more in parts]
    seen = []
    engine = engine_on(save(tmp_path, records))
    engine.on_datagram = lambda *told: seen.append(told)
    engine.run()
    assert seen == [(6, "2001:db8::1", "2001:db8::2", 1, b"")]


def test_an_interrupt_amid_packets(tmp_path):
    engine = engine_on(save(tmp_path, in_fragments(exchanges(3))))
    engine.on_datagram = lambda *datagram: signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        engine.run()
    engine.on_datagram = None
    log = Log()
    engine.run()
    engine.close()
    assert engine.statistics()["connections_closed"] == 3 and log.calls == []


# ------------------------------------------------------------------------------------ inputs that do not stay

def everything(path, protocol, **config):
    """Give all there is to know of a run: each unit, each connection, the counters."""
    found, ends = {}, {}

    class All(Module):
        def process(self, window):
            units = found.setdefault((window.connection.id, window.direction), [])
            for unit in window.units:
                units.append((unit.kind, unit.offset, unit.length, unit.ts, unit.packet, unit.wire, unit.truncated,
                              unit.reassembled, unit.incomplete, unit.message, unit.value, unit.lower,
                              unit.frame_offset, hashlib.md5(unit.data).digest(), hashlib.md5(unit.header).digest()))

        def closed(self, connection, reason):
            ways = (connection.a_to_b, connection.b_to_a)
            ends[connection.id] = (repr(connection), reason, connection.vlans, connection.detected, connection.depth,
                                   *[(way.packets, way.bytes, way.payload_bytes, way.stream_bytes, way.gaps) for way in ways])

    module = All()
    module.protocol = protocol
    engine = run(path, module, **config)
    counters = engine.statistics()
    for name in ("bytes_copied", "input_bytes", "carried_bytes", "blocks", "units"):
        counters.pop(name, None)
    return found, ends, counters, engine.capture, engine.ip_reassembly


@pytest.mark.parametrize("path", CAPTURES or [pytest.param(None, marks=pytest.mark.skip("no captures in ../shared/pcaps"))],
                         ids=lambda path: path and path.name)
def test_input_that_passes_gives_what_a_mapped_file_gives(path, tmp_path):
    """Out-of-order segments and fragments are held while the buffers go on: nothing may depend on where a frame lies."""
    import gzip

    packed = tmp_path / "packed.gz"
    packed.write_bytes(gzip.compress(path.read_bytes(), 1))
    for protocol in ("transport", "frame", "http", "tls", "dns"):
        mapped = everything(path, protocol)
        assert everything(packed, protocol) == mapped
        assert everything(packed, protocol, batch=7, deliver_units=3) == mapped
        if protocol == "transport" and path.with_name(path.name + ".json").exists():
            told = json.loads(path.with_name(path.name + ".json").read_text())
            assert mapped[3].packets == told["capture"]["packets"]


def test_a_capture_split_over_ports_is_merged_by_time(tmp_path):
    records = exchanges(20, apart=2 * MILLISECOND)
    records.sort(key=lambda record: record[0])
    whole, split = Log("http"), Log("http")
    run(save(tmp_path, records, "whole.pcap"), whole)
    engine = Engine()
    engine.add_port(save(tmp_path, records[::2], "even.pcap"))
    engine.add_port(save(tmp_path, records[1::4], "some.pcap.gz"))
    engine.add_port(save(tmp_path, records[3::4], "rest.pcap"))
    engine.attach(split)
    engine.run()
    assert sorted(split.streams().values()) == sorted(whole.streams().values())
    assert engine.capture.packets == len(records)


# ------------------------------------------------------------------------------------ wrong use

def test_wrong_modules_are_refused(ten):
    class Wrong(Module):
        pass

    cases = [({"protocol": "gopher"}, "protocol 'gopher' is unknown; expected .*tcp.*http"), ({"protocol": None}, "protocol None, expected a name"),
             ({"protocol": "HTTP"}, "did you mean 'http'"), ({"scope": "planet"}, "scope 'planet'"),
             ({"mode": "write"}, "mode 'write'"), ({"mode": flowos.RDWR, "scope": "flow"}, "read-only"), ({"protocol": "http", "scope": "flow"}, "transport levels and below")]
    for attributes, message in cases:
        engine = engine_on(ten)
        with pytest.raises(UsageError, match=message):
            engine.attach(type("Wrong", (Module,), attributes)())
        engine.run()
    for module in (Wrong, object(), None, "Wrong"):
        with pytest.raises(UsageError, match="expected an instance of a flowos.Module"):
            Engine().attach(module)


def test_a_flow_takes_eight_modules_that_watch_it_whole(ten):
    class Rows(Module):
        scope, rows = "flow", 0

        def process(self, window):
            self.rows += len(window)

    engine, modules = engine_on(ten), [Rows() for _ in range(8)]
    engine.create_flow("web", "tcp")
    for module in modules[:4]:
        engine.attach(module, "web")
    for module in modules[4:]:
        engine.attach(module)
    for flow in ("web", None):
        with pytest.raises(UsageError, match="at most 8"):
            engine.attach(Rows(), flow)
    engine.run()
    assert [module.rows for module in modules] == [60] * 8


def test_wrong_calls_are_refused(ten, tmp_path):
    with pytest.raises(UsageError, match="no port"):
        Engine().step()
    for config in ("x.pcap", 7, object()):
        with pytest.raises(UsageError, match="flowos.Config"):
            Engine(config)
    with pytest.raises(flowos.CaptureError):
        Engine().add_port(tmp_path / "nothing.pcap")
    with pytest.raises(UsageError):
        Engine().add_port(7)
    one, other = engine_on(ten), engine_on(ten)
    attachment = one.attach(Log())
    with pytest.raises(UsageError, match="not attached to this engine"):
        other.detach(attachment)
    one.detach(attachment)
    with pytest.raises(UsageError, match="not attached to this engine"):
        one.detach(attachment)
    one.step()
    with pytest.raises(UsageError, match="before the first packet"):
        one.add_port(ten)
    for made in (flowos.Window, flowos.DataUnit, flowos.Connection, flowos.Direction, flowos.FlowWindow, type(attachment)):
        with pytest.raises(TypeError):
            made()


@pytest.mark.parametrize("field, value", [
    ("tcp_policy", "best"), ("ip_policy", 3), ("max_connections", 0), ("batch", 0), ("timeout_tcp", -1),
    ("gap_seconds", "x"), ("tunnels", {"wormhole"}), ("deliver_units", 0), ("reassembly_bytes", -1), ("gap_seconds", float("nan"))])
def test_wrong_configurations_name_the_field(field, value):
    with pytest.raises(UsageError, match=field):
        Config(**{field: value})
