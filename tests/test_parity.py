"""docs/api-parity.md is true: the names it gives exist, its tests exist, and each call works once.

The calls run on the demo capture; what a pointer should lead to is worked out from the frames.
"""
import itertools
import re
from pathlib import Path

import pytest

import flowos
from flowos.core.arena import Arena
from flowos.core.attachment import Attachment
from flowos.core.match import Match
from flowos.core.pipe import pipe
from flowos.core.ports import open_port
from flowos.core.ring import Ring, Slot
from flowos.decoder import Decoder
from flowos.registry import all_decoders

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "api-parity.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in PAGE.splitlines()
        if line.startswith("| ") and not line.startswith(("| D3.2", "|---"))]
CLASSES = {"arena": Arena, "ring": Ring, "slot": Slot, "attachment": Attachment, "unit": flowos.DataUnit,
           "window": flowos.Window, "connection": flowos.Connection, "pointer": flowos.Pointer,
           "module": flowos.Module, "port": open_port("pipe:parity"), "Match": Match, "Arena": Arena, "Ring": Ring,
           "Slot": Slot, "decoder": Decoder}
SYNTAX = {"==", "+", "[head, tail)", "ovs-ofctl", "ring[index]"}


def exists(name, engine):
    """Say whether a name of the middle column is there."""
    owner, _, rest = name.partition(".")
    item = {"engine": engine, "flow": engine.create_flow(f"probe{id(name)}")}.get(owner, CLASSES.get(owner))
    if item is None:
        item, rest = flowos, name
    return not rest or hasattr(item, re.split(r"[\[(]", rest)[0])


def planned_away(cell):
    """Strip what a cell sets in italics: planned, not there."""
    return re.sub(r"(?<!\*)\*[^*]+\*(?!\*)", "", cell)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: re.sub(r"\W+", " ", row[0]).strip())
def test_the_names_exist(row):
    assert len(row) == 3, "three columns"
    with flowos.Engine() as engine:
        names = [name for name in re.findall(r"`([^`]+)`", planned_away(row[1])) if name not in SYNTAX | {"Port"}]
        assert [name for name in names if not exists(name, engine)] == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: re.sub(r"\W+", " ", row[0]).strip())
def test_the_proof_exists(row):
    proofs = re.split(r"[,;] ", row[2])
    assert proofs and all(proof in ("windows", "live", "platform") or (Path(__file__).parent.parent / proof).exists()
                          for proof in proofs)


def test_planned_names_are_not_there_yet():
    # A name that arrives must lose its italics.
    with flowos.Engine() as engine:
        for row in ROWS:
            for planned in re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", row[1]):
                for name in re.findall(r"`([\w.]+)", planned):
                    owners = [engine, flowos, flowos.Window, flowos.Connection, flowos.Module, flowos.Pointer]
                    assert not any(hasattr(owner, name.split(".")[-1]) for owner in owners), name


def test_rings():
    a, b = pipe("rings")
    ring = a.tx_ring
    assert ring.size & (ring.size - 1) == 0 and ring.avail == ring.tail - ring.cur > 0
    slot = ring[ring.head]
    slot.data = b"x" * 60
    assert (slot.len, bytes(slot.data)) == (60, b"x" * 60) and slot.address
    buffer = slot.buffer
    ring.cur = ring.head = ring.head + 1
    assert a.tx_sync() == 1 and b.rx_sync() == 1
    received = b.rx_ring
    assert received.avail == 1 and received[received.head].buffer == buffer, "swapped, not copied"
    ring._check()
    received._check()
    assert isinstance(a.statistics(), dict)
    a.close()
    b.close()


class Watcher(flowos.Module):
    """Runs a check in every window of its level."""

    def __init__(self, protocol, check):
        self.protocol, self.check, self.heard, self.windows = protocol, check, [], 0

    def start(self, flow):
        self.heard.append("start")

    def process(self, window):
        self.windows += 1
        self.check(window)

    def stop(self):
        self.heard.append("stop")


def watch(capture, protocol, check, match="any"):
    """Run one watcher over a capture."""
    with flowos.Engine() as engine:
        engine.add_port(str(capture))
        engine.create_flow("watched", match)
        watcher = Watcher(protocol, check)
        engine.attach(watcher, flow="watched")
        engine.run()
    assert watcher.windows > 0 and watcher.heard == ["start", "stop"]


def test_units_and_windows(demo_capture):
    def check(window):
        offset = window.head
        for unit, following in itertools.pairwise([*window.units, None]):
            if unit.kind == "data":
                assert unit.offset == offset
                assert len(unit.data) == unit.length == sum(map(len, unit.payload))
                assert unit.header[:2] == window.connection.a.port.to_bytes(2, "big") or unit.direction
                assert unit.packet > 0 and not unit.truncated and not unit.incomplete
                assert bytes(unit.data) in bytes(window.data)
            offset += unit.length
            assert following is None or unit.next == following
        assert offset == window.tail

    watch(demo_capture, "tcp", check, "tcp,tp_dst=80")


def test_units_get_dirty(demo_capture):
    class Editor(flowos.Module):
        protocol, mode, seen = "tcp", flowos.RDWR, 0

        def process(self, window):
            units = [unit for unit in window.units if unit.length > 1]
            if len(units) > 1:
                window.replace(units[0].offset, units[0].offset + 1, b"longer")
                window.insert(units[1].end - 1, b"in it")
                assert [unit.dirty for unit in window.units if unit.length > 1] == [True, True] + [False] * (len(units) - 2)
                self.seen += 1
                self.kept = units[0]

    with flowos.Engine() as engine:
        engine.add_port(str(demo_capture))
        editor = Editor()
        engine.attach(editor)
        engine.run()
    assert editor.seen and not editor.kept.dirty


def test_pointers(demo_capture):
    seen = set()

    def check(window):
        for unit in window.units:
            if not len(unit.data):
                continue
            pointer = flowos.Pointer(unit)
            assert not pointer.is_null and pointer == flowos.Pointer(unit, 0)
            assert pointer.unit == unit and pointer.offset == unit.offset and pointer.byte == unit.data[0]
            last = pointer + (len(unit.data) - 1)
            assert last.byte == unit.data[-1] and last != pointer or len(unit.data) == 1
            following = last.next_unit()
            while not following.is_null and not len(following.unit.data):     # units without bytes: the end of a message
                following = following.next_unit()
            assert last + 1 == following
            for level in ("tcp", "ip", "frame"):
                below = last.map_down(level)
                assert below == last.map_to(level)
                if below.is_null:
                    continue
                seen.add(level)
                assert below.unit.level == level and below.byte == last.byte
            step = last.down()
            if not step.is_null:
                assert step.up() == last or step.map_up(unit.level) == last
        if window.direction:
            assert (flowos.Pointer() + 1).is_null and flowos.Pointer().up().is_null

    watch(demo_capture, "http", check, "tcp,tp_dst=80")
    assert seen == {"tcp", "ip", "frame"}


def test_parents_and_children(demo_capture):
    families = []

    def check(window):
        for unit in window.units:
            for child in unit.children:
                parents = list(child.parents)
                assert child.level == "tcp" and unit in parents
                families.append(len(parents))

    watch(demo_capture, "http", check, "tcp,tp_dst=80")
    assert max(families) >= 3, "pipelined requests came in one segment"


def test_flows_and_attachments(demo_capture):
    with flowos.Engine() as engine:
        engine.add_port(str(demo_capture))
        web = engine.create_flow("web", "tcp,tp_dst=80", priority=5)
        assert engine.find_flow("web") is web and engine.find_flow("none") is None and engine.flows == [web]
        assert (web.name, web.priority, str(web.match)) == ("web", 5, str(Match.parse("tcp,tp_dst=80")))
        with pytest.raises(flowos.UsageError, match="web"):
            engine.create_flow("web")
        names = set()
        watcher = Watcher("tcp", lambda window: names.add(window.connection.flow))
        attachment = engine.attach(watcher, flow="web", order=3)
        assert (attachment.module, attachment.order, attachment.protocol) == (watcher, 3, "tcp")
        assert engine.step()
        while engine.step():
            pass
        assert names == {"web"}
        engine.detach(attachment)
        assert watcher.heard == ["start", "stop"]
        engine.delete_flow("web")
        assert engine.find_flow("web") is None


def test_the_decoder_registry():
    class Gopher:
        """Decodes nothing."""

        name, over = "gopher", ("tcp",)

        @staticmethod
        def probe(data, direction, port):
            return False

    assert flowos.get_decoder("gopher") is None
    flowos.register_decoder(Gopher)
    try:
        assert flowos.get_decoder("gopher") is Gopher and "gopher" in all_decoders()
        with pytest.raises(flowos.UsageError):
            flowos.register_decoder(Gopher)
    finally:
        flowos.unregister_decoder("gopher")
    assert flowos.get_decoder("gopher") is None


def test_modules_are_loaded_found_and_unloaded(demo_capture):
    with flowos.Engine(flowos.Config.offline()) as engine:
        engine.add_port(demo_capture)
        module = engine.load_module("byte_count")
        assert engine.find_module("byte_count") is module and engine.find_module("no such") is None
        with pytest.raises(flowos.UsageError, match="loaded already"):
            engine.load_module("byte_count")
        flow = engine.create_flow("all", "any")
        attachment = engine.attach(module, flow)
        assert flow.attachments == [attachment]
        engine.unload_module("byte_count")
        assert flow.attachments == [] and engine.find_module("byte_count") is None
        with pytest.raises(flowos.UsageError, match="is not loaded"):
            engine.unload_module(module)
        with pytest.raises(flowos.UsageError, match="no module 'bytecount'|bytecount"):
            engine.load_module("bytecount")


def test_data_is_released_by_unit(demo_capture):
    """Each byte is offered until it is released, and once more never."""
    class Slow(flowos.Module):
        protocol, hold = "tcp", 1e9

        def __init__(self):
            self.seen = {}

        def process(self, window):
            units, key = list(window.units), (window.connection.id, window.direction)
            if window.complete or len(units) < 2:
                self.seen[key] = self.seen.get(key, b"") + bytes(window.data)
                return
            self.seen[key] = self.seen.get(key, b"") + bytes(units[0].data)
            window.release_units(1)

    class All(flowos.Module):
        protocol = "tcp"

        def __init__(self):
            self.seen = {}

        def process(self, window):
            key = window.connection.id, window.direction
            self.seen[key] = self.seen.get(key, b"") + bytes(window.data)

    found = []
    for module in (Slow(), All()):
        with flowos.Engine(flowos.Config.offline(deliver_units=4, batch=3)) as engine:
            engine.add_port(demo_capture)
            engine.attach(module)
            engine.run()
        found.append(module.seen)
    assert found[0] == found[1]
