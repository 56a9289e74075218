"""State that the system owns: per connection, per key, once; carried over to changed code, and saved."""
import collections
import json
import threading
import time
from dataclasses import dataclass, field

import pytest
from conversations import REQUEST, RESPONSE, exchanges, save
from hypothesis import given, settings
from hypothesis import strategies as st

import flowos
from flowos import Config, Engine, Module, UsageError
from flowos.core.pipe import pipe
from flowos.state import carry, plain

WHERE = ["inline", pytest.param("own", marks=pytest.mark.threads)]
SMALL_STEPS = {"batch": 4, "deliver_units": 1}


@dataclass
class Seen:
    units: int = 0
    hosts: set = field(default_factory=set)


class Old(Module):
    """Counts at every level of state."""

    name, protocol, state, group = "counter", "tcp", Seen, Seen

    def __init__(self):
        self.calls = []

    def process(self, window):
        window.state.units += 1
        window.group(window.connection.b.port).units += 1
        window.shared["units"] = window.shared.get("units", 0) + 1

    def start(self, flow):
        self.calls.append("start")

    def stop(self):
        self.calls.append("stop")


@dataclass
class SeenMore:
    units: int = 0
    bytes: int = 0


class New(Old):
    state = SeenMore

    def process(self, window):
        window.state.bytes += window.length
        super().process(window)


@pytest.fixture
def engine(tmp_path):
    engine = Engine(Config(**SMALL_STEPS))
    engine.add_port(save(tmp_path, exchanges(10)))
    with engine:
        yield engine


def halfway(engine, packets=44):
    while engine.packets < packets:
        engine.step()


@pytest.mark.parametrize("threads", WHERE)
def test_changed_code_goes_on_with_the_state(engine, threads):
    """Every window is counted once, by the one or by the other."""
    old, new, calls = Old(), New(), []

    class Reader(Module):
        protocol = "tcp"

        def process(self, window):
            calls.append(window.length)

    attachment = engine.attach(old, threads=threads)
    engine.attach(Reader())
    halfway(engine)
    engine.drain()
    before = attachment.shared["units"]
    assert 0 < before == len(calls)
    engine.reload(attachment, new)
    assert attachment.shared["units"] == before and attachment.module is new
    engine.run()
    engine.drain()
    assert attachment.shared["units"] == len(calls) == attachment.group(80).units and sum(calls) == 10 * (len(REQUEST) + len(RESPONSE))
    assert (old.calls, new.calls) == (["start", "stop"], ["start"])


def test_a_reload_that_fails_changes_nothing(engine):
    class Broken(New):
        state = int

        @staticmethod
        def migrate_state(kind, old):
            raise ValueError("what was that")

    class Elsewhere(New):
        protocol = "udp"

    old = Old()
    attachment = engine.attach(old)
    halfway(engine)
    with pytest.raises(UsageError, match="reload: the state of counter cannot be carried over: what was that"):
        engine.reload(attachment, Broken())
    with pytest.raises(UsageError, match="protocol was 'tcp' and is 'udp'"):
        engine.reload(attachment, Elsewhere())
    assert attachment.module is old and old.calls == ["start"]
    engine.run()
    assert attachment.errors == []


def test_a_reload_is_of_a_module_at_rest(tmp_path):
    """Refused: a class, the same object, a module that was detached by what it was just given, one whose numbers are none."""
    class Leaving(Old):
        leaving = False

        def process(self, window):
            if self.leaving:
                engine.detach(attachment)

    engine = Engine(Config(batch=4))
    engine.add_port(save(tmp_path, exchanges(10)))
    old = Leaving()
    attachment = engine.attach(old)
    for wrong, what in ((New, "expected an instance"), (old, "takes another instance")):
        with pytest.raises(UsageError, match=what):
            engine.reload(attachment, wrong)

    class Spelled(New):
        fail, hold = "close", "for ever"

    class Late(New):
        def start(self, flow):
            raise ValueError("not today")

    for broken in (Spelled(), Late()):
        with pytest.raises(ValueError):
            engine.reload(attachment, broken)
        assert attachment.module is old and attachment.fail == "open" and broken.calls == []
    new, old.leaving = New(), True
    engine.step()                             # takes what is there; it is delivered by the reload
    with pytest.raises(UsageError, match="is not attached"):
        engine.reload(attachment, new)
    assert (old.calls, new.calls) == (["start", "stop"], [])
    engine.close()


def test_a_module_may_attach_others_while_it_takes_over(engine):
    class Two(New):
        def start(self, flow):
            super().start(flow)
            with pytest.raises(UsageError, match="from within a module's call"):
                engine.step()
            self.other = engine.attach(New())

    attachment = engine.attach(Old())
    halfway(engine)
    engine.reload(attachment, two := Two())
    engine.run()
    assert 0 < two.other.shared["units"] < attachment.shared["units"]


def test_processing_may_come_and_go_with_the_code(engine):
    class Deaf(Module):
        name, protocol, shared = "counter", "tcp", None

        def closed(self, connection, reason):
            pass

    attachment = engine.attach(Old())
    reader = engine.attach(Old())
    counts = []
    for packets, module in enumerate((Deaf(), New(), Deaf(), New()), 1):
        halfway(engine, 16 * packets)
        engine.drain()
        counts.append(attachment.shared.get("units", 0))
        engine.reload(attachment, module)
    engine.run()
    assert 0 < counts[0] == counts[1] < counts[2] == counts[3]
    assert counts[-1] < attachment.shared["units"] < reader.shared["units"]


def test_a_reloaded_module_is_unloaded_by_its_name(engine):
    attachment = engine.attach(engine.load_module(Old))
    engine.reload(attachment, new := New())
    assert engine.find_module("counter") is new
    engine.unload_module("counter")
    assert new.calls == ["start", "stop"]


class Gate(Module):
    """Waits in its call until it is let through."""

    protocol, hold = "tcp", 0.05

    def __init__(self):
        self.entered, self.go = threading.Event(), threading.Event()

    def process(self, window):
        window.state["seen"] = window.state.get("seen", 0) + window.length
        self.entered.set()
        self.go.wait(60)
        window.state["done"] = window.state.get("done", 0) + window.length


def live_pair():
    """Two pipes with an engine between them: (its ends' other ends, the engine)."""
    (left, left_in), (right, right_in) = pipe("left", 256), pipe("right", 256)
    engine = Engine(Config(isolate=True))
    engine.connect(left_in, right_in)
    return left, right, engine


def test_on_live_ports_no_call_is_under_way_when_the_code_changes():
    """A call that returns in time is waited for, and its state goes along; one that does not is the old module's, and the reload is refused."""
    left, _right, engine = live_pair()
    with engine:
        gate = Gate()
        gate.hold = 5
        attachment = engine.attach(gate, threads="own")
        for _, frame, *_ in exchanges(1, close=False):
            left.send(frame, time.time_ns())
        left.tx_sync()
        while not gate.entered.is_set():
            engine.step()
        threading.Timer(0.2, gate.go.set).start()
        other = Gate()
        other.hold = 5
        other.go.set()
        engine.reload(attachment, other)
        saved = engine.saved_state(attachment)["connections"]
        assert saved == [[0, {"seen": len(REQUEST) + len(RESPONSE), "done": len(REQUEST) + len(RESPONSE)}]]

        stuck = Gate()
        engine.reload(attachment, stuck)
        for _, frame, *_ in exchanges(2, close=False)[5:]:
            left.send(frame, time.time_ns())
        left.tx_sync()
        while not stuck.entered.is_set():
            engine.step()
        with pytest.raises(UsageError, match="has been in one call for longer than its hold of 0.05 s"):
            engine.reload(attachment, Gate())
        assert attachment.module is stuck
        stuck.go.set()


def test_the_module_may_migrate_what_does_not_fit():
    assert carry("state", {"n": 3}, lambda: {"n": "", "more": 1}, lambda kind, old: {"n": str(old["n"]), "more": kind}) == {"n": "3", "more": "state"}
    assert carry("state", Seen(4, {"a"}), SeenMore) == SeenMore(4, 0)
    assert carry("group", {"anything": 1}, dict) == {"anything": 1}
    with pytest.raises(UsageError, match="shared: a list cannot go on as a dict: the module needs migrate_state"):
        carry("shared", [1], dict)


def test_saved_state_is_plain_data(engine):
    attachment = engine.attach(Old())
    halfway(engine)
    saved = json.loads(json.dumps(engine.saved_state(attachment)))
    assert (saved["module"], saved["version"]) == ("counter", 1)
    assert saved["shared"] == {"units": sum(state["units"] for _key, state in saved["groups"])}
    live = {connection.id for connection in engine.connections()}
    assert {number for number, _state in saved["connections"]} <= live and saved["groups"][0][0] == 80
    attachment.shared["last"] = collections.deque([{1, "a"}, (None, b"b")])
    assert engine.saved_state(attachment)["shared"]["last"] == [["a", 1], [None, b"b"]]
    attachment.shared["last"].append(attachment.shared)
    with pytest.raises(UsageError, match=r"shared\['last'\]\[2\]: a dict that holds itself"):
        engine.saved_state(attachment)
    attachment.shared["sink"] = flowos
    attachment.shared["last"].pop()
    with pytest.raises(UsageError, match=r"shared\['sink'\]: a module is no plain data"):
        engine.saved_state(attachment)


LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.binary(max_size=4)
KEYS = st.text(max_size=4)


@given(st.dictionaries(KEYS, st.recursive(LEAVES, lambda part: st.lists(part) | st.dictionaries(KEYS, part), max_leaves=8)))
@settings(max_examples=50)
def test_plain_data_stays_as_it_is(data):
    assert plain(data) == data
