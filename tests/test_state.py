"""State that the system owns: per connection, per key, once; carried over to changed code, and saved."""
import json
from dataclasses import dataclass, field

import pytest
from conversations import REQUEST, RESPONSE, exchanges, save
from hypothesis import given, settings
from hypothesis import strategies as st

import flowos
from flowos import Config, Engine, Module, UsageError
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


def halfway(engine):
    while engine.packets < 44:
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
    attachment.shared["sink"] = flowos
    with pytest.raises(UsageError, match=r"shared\['sink'\]: a module is no plain data"):
        engine.saved_state(attachment)


LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.binary(max_size=4)
KEYS = st.text(max_size=4)


@given(st.dictionaries(KEYS, st.recursive(LEAVES, lambda part: st.lists(part) | st.dictionaries(KEYS, part), max_leaves=8)))
@settings(max_examples=50)
def test_plain_data_stays_as_it_is(data):
    assert plain(data) == data
