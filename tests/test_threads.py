"""Modules on threads of their own, off line: nothing but time tells them from modules in the engine's loop.

The oracle is the same pipeline inline.  The modules here are such that how windows are cut changes
nothing: readers that join what they are given, editors that replace patterns and keep back what may
still become a match.  Pauses of random length let the threads overtake and fall behind each other.
"""
import collections
import contextlib
import gc
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flowos
from flowos.core.worker import ModuleThread
from flowos.emit import open_sink
from flowos.packets import Conversation, ethernet, save, udp, valid
from flowos.testing import read_packets, shuffle

pytestmark = pytest.mark.threads
CAPTURES = ["arkime_wireshark-retrans.pcap", "ndpi_dns_fragmented.pcap", "ndpi_6in4tunnel.pcap", "pcapplusplus_many-protocols.pcap",
            "arkime_sctp-www.pcap", "chrissanders_tcp_zerowindowdead.pcapng", "ndpi_rtsp.pcapng"]
SMALL = {"batch": 8, "deliver_units": 4, "deliver_rows": 16}


class Paced(flowos.Module):
    """A module that now and then pauses, on whatever thread it runs."""

    def __init__(self, protocol="tcp", seed=0):
        self.protocol, self.dice, self.threads = protocol, random.Random(seed), set()

    def pace(self):
        self.threads.add(threading.current_thread())
        if self.dice.random() < 0.1:
            time.sleep(self.dice.random() * 0.002)


class Join(Paced):
    """Join what each direction of each connection brings, and write down what else it hears."""

    def __init__(self, protocol="tcp", seed=0):
        super().__init__(protocol, seed)
        self.seen, self.told, self.ticks = {}, {}, []

    def opened(self, connection):
        self.pace()
        self.told.setdefault(connection.id, []).append("opened")

    def process(self, window):
        self.pace()
        way = window.connection.id, window.direction
        self.seen[way] = self.seen.get(way, b"") + bytes(window.data)
        self.told.setdefault(way[0], []).append("process")

    def closed(self, connection, reason):
        self.pace()
        self.told[connection.id].append((reason, connection.a_to_b.packets, connection.b_to_a.packets))

    def tick(self, now):
        self.ticks.append(now)


class Units(Paced):
    """Write down every unit: what each of its attributes says."""

    def __init__(self, protocol, seed=0):
        super().__init__(protocol, seed)
        self.units = {}

    def process(self, window):
        self.pace()
        connection = window.connection
        units = list(window.units)
        rows = window.array()
        assert len(units) == len(window) == len(rows) and [unit.ts for unit in units] == list(rows["ts"])
        assert b"".join(window.segments) == b"".join(bytes(unit.data) for unit in units if self.protocol not in ("ip", "frame")) or (
            self.protocol in ("ip", "frame"))
        for unit, row in zip(units, rows, strict=True):
            assert unit.connection is connection and unit.packet == row["packet"] and row["connection"] == window.slot
            info = unit.info
            self.units.setdefault((connection.id, window.direction), []).append((
                unit.kind, unit.level, unit.offset, unit.length, unit.ts, unit.packet, unit.wire, unit.truncated, unit.incomplete,
                unit.message, unit.value, unit.lower, unit.frame_offset, bytes(unit.data), bytes(unit.header),
                info if isinstance(info, (bytes, str, type(None))) else repr(vars(info)) if hasattr(info, "__dict__") else repr(info)))


class Batch(Join):
    """The same from lists of windows."""

    process = None

    def process_batch(self, windows):
        for window in windows:
            Join.process(self, window)


class Swap(Paced):
    """Replace a pattern wherever it stands."""

    mode, resizes, hold = flowos.RDWR, True, 1e6

    def __init__(self, old, new, protocol="tcp", seed=0):
        super().__init__(protocol, seed)
        self.old, self.new = old, new

    def process(self, window):
        self.pace()
        if not window.writable:
            return
        for span in window.find(self.old):
            window.replace(span, self.new)
        window.release(keep=window.partial(self.old))


def play(path, modules, threads, out, config=None, sink=None):
    """Run modules over a capture; give the statistics."""
    with flowos.Engine(config or flowos.Config.offline(**SMALL)) as engine:
        engine.add_port(path)
        if out is not None:
            engine.add_output(out)
        engine.sink = sink
        for module, where in zip(modules, threads, strict=True):
            engine.attach(module, threads=where)
        while engine.step():
            engine._check()
        engine._check()
        statistics = engine.statistics()
        for module, where in zip(modules, threads, strict=True):
            own = isinstance(module, Paced) and {type(thread) is ModuleThread for thread in module.threads}
            assert not own or own == {where == "own"}
    return statistics


def frames(path):
    """Give the packets of a capture by connection and direction, joined datagrams left out: {(proto, end, end): [bytes, …]}."""
    class Frames(flowos.Module):
        protocol = "frame"

        def __init__(self):
            self.found = {}

        def process(self, window):
            ends = window.connection.a, window.connection.b
            key = (window.connection.proto, *map(tuple, ends[::-1] if window.direction else ends))
            for unit in window.units:
                if not unit.reassembled and len(unit.header):
                    self.found.setdefault(key, []).append(bytes(unit.header) + bytes(unit.data))

    module = Frames()
    with flowos.Engine(flowos.Config.offline(tunnels=frozenset())) as engine:
        engine.add_port(path)
        engine.attach(module)
        engine.run()
    return module.found


def streams(path):
    """Give what the TCP connections of a capture carried: {(end, end): bytes}."""
    class Streams(flowos.Module):
        def __init__(self):
            self.found = {}

        def process(self, window):
            ends = window.connection.a, window.connection.b
            key = ends[::-1] if window.direction else ends
            self.found[key] = self.found.get(key, b"") + bytes(window.data)

    module = Streams()
    with flowos.Engine(flowos.Config.offline()) as engine:
        engine.add_port(path)
        engine.attach(module)
        engine.run()
        engine.finish()
    return module.found


def same(theirs, ours, protocols=("tcp", "udp", "icmp", "icmpv6")):
    """The same packets left in each direction; those that carry no new bytes may stand elsewhere among the others."""
    assert set(map(repr, ours)) == set(map(repr, theirs))
    for key in theirs:
        if key[0] not in protocols:
            continue
        more, less = (collections.Counter(map(bytes.hex, one[key])) for one in (ours, theirs))
        assert more == less, f"{key}: {len(ours[key])} packets, {len(theirs[key])} inline; {sum((more - less).values())} differ"


def books(statistics):
    """Every packet that came left, or has a reason why not."""
    return statistics["packets"] - sum(statistics[f"merged_{name}"] for name in ("emptied", "acks_dropped", "absorbed", "stale", "dropped")) == (
        statistics["merged_packets"] - statistics["merged_made"])


def pipeline(kinds, seed):
    """Make the modules of a pipeline by their kinds."""
    makers = {"join": lambda k: Join("tcp", seed + k), "batch": lambda k: Batch("tcp", seed + k), "ip": lambda k: Join("ip", seed + k),
              "grow": lambda k: Swap(b"ab", b"-long-", seed=seed + k), "shrink": lambda k: Swap(b"-long", b"", seed=seed + k),
              "same": lambda k: Swap(b"the", b"THE", "transport", seed + k)}
    return [makers[kind](k) for k, kind in enumerate(kinds)]


def assert_units(ours, theirs):
    """The same units were seen of each direction."""
    assert list(theirs.units) == list(ours.units) or sorted(theirs.units) == sorted(ours.units)
    for way, units in ours.units.items():
        for number, (mine, other) in enumerate(zip(units, theirs.units[way], strict=False)):
            assert other == mine, f"{way}, unit {number}"
        assert len(units) == len(theirs.units[way])


KINDS = st.lists(st.sampled_from(["join", "batch", "grow", "shrink", "same"]), min_size=1, max_size=4)


def compare(path, folder, kinds, threads, seed=0, make=pipeline):
    """Run a pipeline inline and on threads, and compare what modules saw and what left."""
    outs, modules, statistics = [], [], []
    for number, where in enumerate((["inline"] * len(kinds), threads)):
        outs.append(folder / f"out{number}.pcapng")
        modules.append(make(kinds, seed))
        statistics.append(play(path, modules[-1], where, outs[-1]))
    for ours, theirs in zip(*modules, strict=True):
        if isinstance(ours, Join):
            # A window without bytes, a SYN's, may come with the next one or before it.
            assert ({way: data for way, data in theirs.seen.items() if data} == {way: data for way, data in ours.seen.items() if data})
            assert theirs.ticks == sorted(set(theirs.ticks)) and set(theirs.ticks) <= set(ours.ticks)
            assert [told[0] for told in theirs.told.values()] == ["opened"] * len(ours.told)
            assert [told[-1] for told in theirs.told.values()] == [told[-1] for told in ours.told.values()]
            assert all("opened" not in told[1:] and all(what == "process" for what in told[1:-1]) for told in theirs.told.values())
        if isinstance(ours, Units):
            assert_units(ours, theirs)
    # What edits put in is cut into packets as what is known of the segment size says, which time decides.
    same(*map(frames, outs), **{} if all(module.mode == flowos.RDONLY for module in modules[0]) else {"protocols": ("udp", "icmp", "icmpv6")})
    assert streams(outs[0]) == streams(outs[1])
    for name in ("packets", "edit_bytes_inserted", "edit_bytes_removed", "connections_closed", "module_errors"):
        assert statistics[0][name] == statistics[1][name], name
    return statistics[1]


@pytest.mark.parametrize("name", CAPTURES)
def test_a_capture_comes_out_as_inline(name, shared_pcaps, tmp_path):
    compare(shared_pcaps / name, tmp_path, ["join", "same", "join", "grow"], ["own", "own", "own", "inline"])


def test_the_demo_in_every_arrangement(demo_capture, tmp_path):
    for number, kinds in enumerate((["grow"], ["join", "batch"], ["grow", "shrink", "join"], ["batch", "same", "join", "grow"])):
        for threads in (["own"] * len(kinds), [("own", "inline")[k % 2] for k in range(len(kinds))]):
            assert books(compare(demo_capture, tmp_path, kinds, threads, number))


@given(seed=st.integers(0, 10**6), kinds=KINDS, where=st.lists(st.sampled_from(["own", "inline"]), min_size=4, max_size=4))
@settings(max_examples=25)
def test_random_traffic_comes_out_as_inline(seed, kinds, where, tmp_path_factory):
    dice, packets = random.Random(seed), []
    for number in range(dice.randint(1, 4)):
        talk = Conversation((f"10.0.{number}.1", 40000), (f"10.0.{number}.2", 80), start=1_700_000_000 * 10**9 + number)
        if dice.random() < 0.9:
            talk.open()
        for _ in range(dice.randint(0, 12)):
            at, side = len(talk.packets), dice.randrange(2)
            talk.send(side, b"".join(dice.choice([b"ab", b"a", b"b", b"-long", b"the ", b"t", b"x"]) for _ in range(dice.randint(1, 30))),
                      mss=dice.randint(1, 20))
            talk.segment(1 - side)
            if dice.random() < 0.5:
                shuffle(talk.packets, at, dice)
        if dice.random() < 0.8:
            talk.close()
        packets += talk.packets
    packets.sort(key=lambda packet: packet[0])
    folder = tmp_path_factory.mktemp("random")
    save(folder / "in.pcap", packets)
    statistics = compare(folder / "in.pcap", folder, kinds, where[:len(kinds)], seed)
    assert books(statistics)
    assert all(valid(frame) for connection in frames(folder / "out1.pcapng").values() for frame in connection)


# ---- levels and scopes -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("protocol, capture", [
    ("tcp", "examples/demo.pcap"), ("udp", "examples/demo.pcap"), ("icmp", "examples/demo.pcap"), ("ip", "examples/demo.pcap"),
    ("frame", "examples/demo.pcap"), ("http", "examples/demo.pcap"), ("http.body", "examples/demo.pcap"), ("tls", "examples/demo.pcap"),
    ("dns", "examples/demo.pcap"), ("transport", "ndpi_6in4tunnel.pcap"), ("frame", "ndpi_6in4tunnel.pcap"), ("ip", "ndpi_6in4tunnel.pcap"),
    ("sctp", "arkime_sctp-www.pcap"), ("frame", "ndpi_dns_fragmented.pcap"), ("ip", "arkime_wireshark-retrans.pcap"),
    ("tcp", "arkime_wireshark-retrans.pcap"), ("http", "ndpi_6in4tunnel.pcap"), ("dns", "ndpi_6in4tunnel.pcap")])
def test_units_are_those_of_an_inline_module(protocol, capture, project, shared_pcaps):
    path = project / capture if "/" in capture else shared_pcaps / capture
    found = []
    for where in ("inline", "own"):
        module = Units(protocol)
        play(path, [module], [where], None)
        found.append(module)
    assert_units(*found)
    assert found[0].units or (protocol, capture) == ("http", "ndpi_6in4tunnel.pcap")


def test_units_behind_an_editor(demo_capture, tmp_path):
    """What earlier stages edited shows in the units of a snapshot."""
    def make(kinds, seed):
        return [Swap(b"the", b"all of the", "http.body", seed), Join("http.body", seed + 1), Join("tcp", seed + 2)]

    assert books(compare(demo_capture, tmp_path, "123", ["inline", "own", "own"], make=make))
    assert books(compare(demo_capture, tmp_path, "123", ["own", "own", "own"], make=make))


class Rows(flowos.Module):
    """Add the rows of a flow up."""

    scope, protocol = "flow", "ip"

    def __init__(self):
        self.count = self.bytes = 0
        self.windows, self.kept = [], []

    def process(self, window):
        rows = window.array()
        self.count += len(rows)
        self.bytes += int(rows["wire"].sum())
        self.windows.append(window)
        self.kept.append((rows, rows.copy()))


def test_scope_flow(demo_capture):
    found = []
    for where in ("inline", "own"):
        module = Rows()
        play(demo_capture, [module], [where], None)
        found.append((module.count, module.bytes))
        assert all((rows == copy).all() for rows, copy in module.kept)
        for window in module.windows:
            with pytest.raises(flowos.StaleError):
                window.array()
    assert found[0] == found[1] and found[0][0] > 100


# ---- what a window gives -----------------------------------------------------------------------------------------

class Keeps(Paced):
    """Keep windows, units and views, and use the rest of what a window has."""

    def __init__(self):
        super().__init__()
        self.windows, self.views, self.refused, self.states = [], [], 0, {}

    def process(self, window):
        self.pace()
        count = window.state["count"] = window.state.get("count", 0) + 1
        self.states[window.connection.id] = count
        window.emit({"module": "keeps", "bytes": window.length})
        unit = next(window.units)
        for ask in (lambda: unit.parents, lambda: unit.children):
            with contextlib.suppress(flowos.UsageError):
                ask()
                continue
            self.refused += 1
        self.windows.append((window, unit, window.head))
        self.views.append((window.data, bytes(window.data)))


def test_windows_are_stale_afterwards_and_views_stay(demo_capture):
    module, records = Keeps(), []
    play(demo_capture, [module], ["own"], None, sink=open_sink(records.append))
    assert len(records) == len(module.windows) and all({"ts", "connection", "direction", "module", "bytes"} <= set(r) for r in records)
    assert sum(module.states.values()) == len(module.windows) and module.refused == 2 * len(module.windows)
    for window, unit, head in module.windows:
        assert window.head == head and repr(window) == "<Window released>"
        for ask in (lambda w=window: w.data, lambda w=window: list(w.units), lambda w=window: w.release(), lambda w=window: w.find(b"x"),
                    lambda w=window: w.state, lambda w=window: w.connection, lambda u=unit: u.data, lambda u=unit: u.header):
            with pytest.raises(flowos.StaleError):
                ask()
    assert all(bytes(view) == copy for view, copy in module.views)


def test_fragments_are_refused_and_told_why(shared_pcaps):
    refusals = []

    class Ask(flowos.Module):
        protocol = "ip"

        def process(self, window):
            for unit in window.units:
                try:
                    assert unit.fragments == []
                except flowos.UsageError as error:
                    refusals.append(str(error))

    play(shared_pcaps / "ndpi_dns_fragmented.pcap", [Ask()], ["own"], None)
    assert refusals == [] or all("thread of its own" in text for text in refusals)


def test_flowos_run_with_threads(demo_capture, tmp_path):
    from flowos.cli import main
    outs = []
    for where in ("inline", "own"):
        outs.append(tmp_path / f"{where}.jsonl")
        assert main(["run", str(demo_capture), "--attach", "http_log", "--attach", "byte_count", "--threads", where, "--emit", str(outs[-1]),
                     "--quiet"]) in (0, None)
    lines = [sorted(path.read_text().splitlines()) for path in outs]
    assert lines[0] == lines[1] and len(lines[0]) > 10


# ---- the connection, from the module's thread -----------------------------------------------------------------------

class Asks(Paced):
    """Ask a connection all there is to ask, while the engine goes on."""

    def __init__(self):
        super().__init__()
        self.answers, self.handles = {}, {}

    def process(self, window):
        c = window.connection
        self.handles[c.id] = c
        assert c is window.connection and c.proto == "tcp" and c.ip_version in (4, 6) and c.depth == 1
        assert c.matches("tcp") and not c.matches("udp") and c.closed is None or c.closed
        ways = [(way.packets, way.bytes, way.payload_bytes, way.gaps) for way in (c.a_to_b, c.b_to_a)]
        before = self.answers.get(c.id, [(0, 0, 0)] * 2)
        assert all(now[i] >= was[i] for now, was in zip(ways, before) for i in range(3))
        assert c.first_ns <= c.last_ns and c.flow is None and c.vlans == [] and c.gaps(0) == [] and c.detected is None and c.state
        self.answers[c.id] = ways
        repr(c)


def many(path, connections=40, turns=6, size=3000):
    """Save a capture of interleaved conversations."""
    packets = []
    for number in range(connections):
        talk = Conversation((f"10.1.{number}.1", 40000 + number), ("10.0.0.2", 80), start=1_700_000_000 * 10**9 + number * 1000).open()
        for turn in range(turns):
            talk.send(turn % 2, bytes([number]) * size)
        packets += talk.close().packets
    save(path, sorted(packets))
    return path


def test_a_connection_is_asked_while_the_engine_runs(tmp_path):
    module = Asks()
    play(many(tmp_path / "in.pcap"), [module], ["own"], None)
    assert len(module.answers) == 40
    for number, handle in module.handles.items():
        assert [way.payload_bytes for way in (handle.a_to_b, handle.b_to_a)] == [9000, 9000], number


def test_fates_decided_on_a_module_s_thread(tmp_path):
    class Judge(Paced):
        def process(self, window):
            self.pace()
            c = window.connection
            if window.length and c.id % 4 == 0:
                c.drop()
            elif window.length and c.id % 4 == 1:
                c.reset()

    source, out = many(tmp_path / "in.pcap"), tmp_path / "out.pcap"
    play(source, [Judge()], ["own"], out)
    came, left = frames(source), frames(out)
    for key in came:
        number = int(next(end for end in key[1:] if end[1] != 80)[0].split(".")[2])
        if number % 4 > 1:
            assert left[key] == came[key]
        else:
            assert len(left.get(key, ())) < len(came[key])


def test_translation_from_a_module_s_thread(tmp_path):
    done = []

    class Translate(flowos.Module):
        def opened(self, connection):
            done.append(connection.translate(src=(f"192.0.2.{connection.id + 1}", 1000)))

        def process(self, window):
            """It has windows, so that the connection does not end before it has heard of it."""

    source, out = many(tmp_path / "in.pcap", connections=8), tmp_path / "out.pcap"
    play(source, [Translate()], ["own"], out)
    assert done == [True] * 8
    assert {(f"192.0.2.{n}", 1000) for n in range(1, 9)} <= {end for key in frames(out) for end in key[1:]}


# ---- errors, and engines that end ----------------------------------------------------------------------------------

class Faulty(Paced):
    """Raise at windows with a certain byte."""

    mode, hold = flowos.RDWR, 1e6

    def process(self, window):
        self.pace()
        for span in window.find(b"good"):
            window.replace(span, b"best")
        if b"bad" in bytes(window.data):
            raise ValueError("bad")


def conversation(path, *texts):
    talk = Conversation().open()
    for side, text in enumerate(texts):
        talk.send(side % 2, text)
    save(path, talk.close().packets)
    return path


@pytest.mark.parametrize("where", ["inline", "own"])
def test_an_error_is_isolated(where, tmp_path):
    source = conversation(tmp_path / "in.pcap", b"good one", b"good and bad", b"good again")
    module, after = Faulty(), Join()
    config = flowos.Config.offline(isolate=True, batch=1, deliver_units=1)
    with flowos.Engine(config) as engine:
        engine.add_port(source)
        engine.add_output(tmp_path / "out.pcap")
        attachment = engine.attach(module, threads=where)
        engine.attach(after, threads=where)
        engine.run()
        assert len(attachment.errors) == 1 and "ValueError: bad" in attachment.errors[0]
        assert engine.statistics()["module_errors"] == 1
    assert after.seen == {(0, 0): b"best onebest again", (0, 1): b"good and bad"}


@pytest.mark.parametrize("where", ["inline", "own"])
def test_fail_close_resets(where, tmp_path):
    source = conversation(tmp_path / "in.pcap", b"good one", b"good and bad", b"good again")
    module = Faulty()
    module.fail = "close"
    with flowos.Engine(flowos.Config.offline(isolate=True, batch=1, deliver_units=1)) as engine:
        engine.add_port(source)
        engine.add_output(tmp_path / "out.pcap")
        engine.attach(module, threads=where)
        while engine.step():
            engine.drain()
    left = [frame for way in frames(tmp_path / "out.pcap").values() for frame in way]
    assert not any(b"bad" in frame or b"again" in frame for frame in left) and any(b"best one" in frame for frame in left)
    assert any(frame[14 + 20 + 13] & 4 for frame in left)


def test_errors_are_raised_once_all_is_done(tmp_path):
    source = many(tmp_path / "in.pcap", connections=6)
    raised, after = [], Join()

    class Every(Paced):
        def process(self, window):
            self.pace()
            if window.length:
                raise ValueError(len(raised))

    with flowos.Engine(flowos.Config.offline(**SMALL)) as engine:
        engine.add_port(source)
        attachment = engine.attach(Every(), threads="own")
        engine.attach(after)
        while not engine.finished:
            try:
                engine.run()
            except ValueError as error:
                raised.append(error)
        assert 0 < len(raised) <= attachment.counters["errors"] == engine.statistics()["module_errors"]
    assert all(len(data) == 9000 for data in after.seen.values()) and len(after.seen) == 12


def test_detach_and_attach_while_windows_are_out(tmp_path):
    source, out = many(tmp_path / "in.pcap", connections=10, turns=20), tmp_path / "out.pcap"
    steady = Join()
    with flowos.Engine(flowos.Config.offline(**SMALL)) as engine:
        engine.add_port(source)
        engine.add_output(out)
        engine.attach(steady, order=100, threads="own")
        attachment, steps = None, 0
        while engine.step():
            steps += 1
            if steps % 5 == 0:
                if attachment is not None:
                    engine.detach(attachment)
                attachment = engine.attach(Swap(bytes([steps % 7]) * 3, b"---", seed=steps), order=steps, threads="own")
            engine._check()
    assert steps > 20 and all(len(data) == 30000 for data in steady.seen.values()) and len(steady.seen) == 20
    assert [len(data) for data in streams(out).values()] == [30000] * 20


def test_a_flow_deleted_and_a_module_unloaded_while_windows_are_out(tmp_path):
    source = many(tmp_path / "in.pcap", connections=10, turns=20)
    with flowos.Engine(flowos.Config.offline(**SMALL)) as engine:
        engine.add_port(source)
        engine.add_output(tmp_path / "out.pcap")
        engine.load_module(Join)
        engine.create_flow("web", "tcp,tp_dst=80")
        joined = engine.find_module("Join")
        engine.attach(joined, threads="own")
        engine.attach(Swap(b"\x03", b"+"), "web", threads="own")
        for _ in range(10):
            engine.step()
        engine.delete_flow("web")
        engine._check()
        for _ in range(10):
            engine.step()
        engine.unload_module("Join")
        engine.run()
        engine._check()
        assert books(engine.statistics())


def test_a_detach_from_an_inline_module_revokes_what_is_out(tmp_path):
    engine = flowos.Engine(flowos.Config.offline(**SMALL))
    begun, go, stale = threading.Event(), threading.Event(), []

    class Blocked(flowos.Module):
        mode = flowos.RDWR

        def process(self, window):
            begun.set()
            go.wait(60)
            try:
                window.insert(window.head, b"!")
            except flowos.StaleError:
                stale.append(window)

    class Detaches(flowos.Module):
        first = None

        def process(self, window):
            self.first = self.first or window.now
            if window.now > self.first and attachment in engine._modules and begun.wait(60):    # in the second delivery
                engine.detach(attachment)
                go.set()

    with engine:
        engine.add_port(many(tmp_path / "in.pcap", connections=2))
        engine.add_output(tmp_path / "out.pcap")
        engine.attach(Detaches(), order=1)
        attachment = engine.attach(Blocked(), order=2, threads="own")
        engine.run()
        engine._check()
        assert not engine._modules[1:]
    same(frames(tmp_path / "in.pcap"), frames(tmp_path / "out.pcap"))
    attachment = None


def test_engine_methods_are_refused_on_a_module_s_thread(demo_capture):
    refused, asked = [], []

    class Calls(flowos.Module):
        def process(self, window):
            for call in (lambda: engine.attach(Join()), lambda: engine.detach(attachment), engine.step, engine.finish, engine.close, engine.drain,
                         engine.connections, lambda: engine.create_flow("x"), lambda: engine.add_port("x")):
                try:
                    call()
                except flowos.UsageError as error:
                    refused.append("thread" in str(error))
            engine.stop()
            asked.append(engine.statistics())

    with flowos.Engine(flowos.Config.offline(**SMALL)) as engine:
        engine.add_port(demo_capture)
        attachment = engine.attach(Calls(), threads="own")
        while engine.step():
            pass
        windows, told = attachment.counters["windows"], engine.statistics()
        assert len(asked) == windows and all(set(one) >= {*engine._inputs[0].statistics(), "packets"} for one in asked)
        assert all(0 < one[name] <= two[name] for one, two in zip(asked, [*asked[1:], told]) for name in ("packets", "bytes"))
        assert windows and len(refused) == 9 * windows
        assert sum(refused) >= 8 * windows


def test_ctrl_c_while_windows_are_out(tmp_path):
    main, module = threading.main_thread(), Join()

    class Interrupts(flowos.Module):
        asked = False

        def process(self, window):
            if window.connection.id == 3 and not self.asked:
                self.asked = True
                signal.pthread_kill(main.ident, signal.SIGINT)
                time.sleep(0.01)

    with flowos.Engine(flowos.Config.offline(**SMALL)) as engine:
        engine.add_port(many(tmp_path / "in.pcap", connections=10))
        engine.add_output(tmp_path / "out.pcap")
        engine.attach(module, threads="own")
        engine.attach(Interrupts(), threads="own")
        interrupts = 0
        while not engine.finished:
            try:
                engine.run()
            except KeyboardInterrupt:
                interrupts += 1
        engine._check()
        assert interrupts and books(engine.statistics())
    assert all(len(data) == 9000 for data in module.seen.values()) and len(module.seen) == 20
    same(frames(tmp_path / "in.pcap"), frames(tmp_path / "out.pcap"))


@pytest.mark.parametrize("where", ["inline", "own"])
def test_handles_that_only_the_garbage_collector_can_free(where, tmp_path):
    """A collection may begin at any object that is made, also while a connection's end is written into its handle."""
    class Cycle(flowos.Module):
        def process(self, window):
            knot = [window.connection]
            knot.append(knot)

        def closed(self, connection, reason):
            gc.enable()

    before = gc.get_threshold()
    source = many(tmp_path / "in.pcap", connections=60, turns=2, size=100)
    gc.collect()
    gc.disable()
    gc.set_threshold(100)
    try:
        statistics = play(source, [Cycle()], [where], None)
    finally:
        gc.set_threshold(*before)
        gc.enable()
    assert statistics["connections_closed"] == 60 and statistics["connections_live"] == 0


def test_an_engine_that_is_let_go_ends_its_threads(demo_capture):
    before = set(threading.enumerate())
    engine = flowos.Engine()
    engine.add_port(demo_capture)
    attachment = engine.attach(Join(), threads="own")
    engine.step()
    threads = set(threading.enumerate()) - before
    assert len(threads) == 1
    del engine, attachment
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_a_thread_is_pinned(demo_capture):
    """The kernel is asked where the module's thread may run, by that thread's own number."""
    found, cpu = set(), max(os.sched_getaffinity(0))

    class Where(flowos.Module):
        def process(self, window):
            text = Path(f"/proc/self/task/{threading.get_native_id()}/status").read_text()
            found.add(next(line.split()[1] for line in text.splitlines() if line.startswith("Cpus_allowed_list:")))

    with flowos.Engine() as engine:
        engine.add_port(demo_capture)
        engine.attach(Where(), threads="own", cpus={cpu})
        engine.run()
    assert found == {str(cpu)} and cpu in os.sched_getaffinity(0)


def test_processors_that_cannot_be_had(demo_capture):
    before = set(threading.enumerate())
    with flowos.Engine() as engine:
        engine.add_port(demo_capture)
        for threads, cpus, why in (("inline", {0}, "threads is 'inline'"), ("own", 0, "not iterable"), ("own", set(), "Invalid argument"),
                                   ("own", {-1}, "negative"), ("own", {"0"}, "int"), ("own", [4095], r"cpus=\[4095\]: .*expected numbers")):
            with pytest.raises(flowos.UsageError, match=why):
                engine.attach(Join(), threads=threads, cpus=cpus)
        for thread in set(threading.enumerate()) - before:
            thread.join(60)
            assert not thread.is_alive()
        engine.run()
        assert engine.statistics()["packets"]


def test_datagrams_beyond_what_may_be_out(tmp_path):
    """More windows than may be out at once: a capture waits for its module."""
    packets = [(1_700_000_000 * 10**9 + i, ethernet(udp((f"10.0.{i >> 8}.{i & 255}", 5000), ("10.9.9.9", 53), b"x" * 40))) for i in range(2500)]
    save(tmp_path / "in.pcap", packets)
    module = Join("udp")
    statistics = play(tmp_path / "in.pcap", [module], ["own"], tmp_path / "out.pcap")
    assert len(module.seen) == statistics["merged_unchanged"] == 2500


@pytest.mark.parametrize("protocol", ["tcp", "http", "http.body", "udp"])
def test_what_is_never_released_leaves_unchanged_in_the_end(protocol, demo_capture, tmp_path):
    """Nor is it offered again and again meanwhile."""

    class Never(flowos.Module):
        mode, calls = flowos.RDWR, 0

        def process(self, window):
            self.calls += 1
            window.release(upto=window.head)

    module, output = Never(), tmp_path / "out.pcapng"
    module.protocol = protocol
    with flowos.Engine(flowos.Config.offline()) as engine:
        engine.add_port(demo_capture)
        engine.add_output(output)
        engine.attach(module, threads="own")
        engine.run()
        engine.drain()
    came, left = (collections.Counter(bytes(frame) for _, frame in read_packets(path)) for path in (demo_capture, output))
    assert left == came and 0 < module.calls < 1000
