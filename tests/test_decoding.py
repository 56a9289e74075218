"""Decoders at work: found by content, fed in order, taken off when they fail.

A decoder here is one file that registers itself: in Python, defined in the test, or in Cython,
compiled by it.  `Lines` cuts a stream at line ends, so what it must be fed can be read off what it made.
"""
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flowos
from conversations import (
    MILLISECOND, Log, datagram, exchange, exchanges, in_fragments, records, run, save)
from flowos import Config, DecoderError, Engine, Module, UsageError
from flowos.decoder import Decoder, Unit
from flowos.decoders.http import HttpFraming
from models.build import A, B
from models.talk import Talk

SMALL_STEPS = {"batch": 4, "deliver_units": 1}
QUERY = bytes.fromhex("1234010000010000000000000161036f72670000010001")


class Lines(Decoder):
    """Lines of text in both directions: a stream that begins with "TALK", from either side."""

    name, over = "lines", ("tcp",)
    made = []                                  # (decoder, call, direction, data or length, offset)

    def __init__(self):
        super().__init__()
        self.held = {0: b"", 1: b""}
        self.made.append(self)
        self.calls = []

    @staticmethod
    def probe(data, direction, port):
        head = bytes(data[:4])
        return True if head == b"TALK" else None if b"TALK".startswith(head) else False

    def feed(self, direction, data, offset, ts):
        self.calls.append(("feed", direction, data, offset))
        start = offset - len(self.held[direction])
        *whole, self.held[direction] = (self.held[direction] + data).split(b"\n")
        units = []
        for line in whole:
            units.append(Unit(start, start + len(line) + 1, "line", info=len(line), data=line))
            start = units[-1].end
            if line == b"odd":
                self.count("odd")
        return units

    def gap(self, direction, offset, length, ts):
        self.calls.append(("gap", direction, length, offset))
        self.held[direction] = b""
        return [Unit(offset, offset + length, "lost")]

    def finish(self, direction, offset, ts):
        self.calls.append(("finish", direction, None, offset))
        held, self.held[direction] = self.held[direction], b""
        return [Unit(offset - len(held), offset, "rest", data=held)] if held else []


@pytest.fixture
def lines():
    """Register the decoder for one test."""
    Lines.made = []
    flowos.register_decoder(Lines)
    yield Lines
    flowos.unregister_decoder("lines")


class Units(Module):
    """Collects (direction, kind, data, offset, packet) of each unit."""

    def __init__(self, protocol="lines"):
        self.protocol, self.seen, self.numbers = protocol, [], []

    def process(self, window):
        assert window.protocol == self.protocol == window.connection.detected
        for unit in window.units:
            self.seen.append((unit.direction, unit.kind, bytes(unit.data), unit.lower, unit.packet))
            self.numbers.append(window.connection.id)


def decode(tmp_path, parts, module=None, name="capture.pcap", **config):
    module = module or Units()
    engine = run(save(tmp_path, parts, name), module, **config)
    return module.seen, engine


# ------------------------------------------------------------------------------------ a decoder in Python

def test_a_decoder_in_one_file_registered_at_run_time(tmp_path, lines):
    seen, engine = decode(tmp_path, exchange(b"TALK 1\nodd\nend", b"well\n\n"))
    assert seen == [(0, "line", b"TALK 1", (0, 7), 4), (0, "line", b"odd", (7, 11), 4), (0, "rest", b"end", (11, 14), 6),
                    (1, "line", b"well", (0, 5), 5), (1, "line", b"", (5, 6), 5)]
    assert engine.statistics()["lines_odd"] == 1 and engine.statistics()["decoder_errors"] == 0
    assert flowos.get_decoder("lines") is Lines


@settings(max_examples=30)
@given(cut=st.integers(1, 30), name=st.sampled_from(["mapped.pcap", "passing.pcap.gz"]), data=st.data())
def test_however_the_stream_is_cut(tmp_path_factory, cut, name, data):
    request = b"TALK\n" + b"\n".join(data.draw(st.lists(st.binary(max_size=9).filter(lambda line: b"\n" not in line)))) + b"\n"
    response = b"first\nsecond\n" * 5
    flowos.register_decoder(Lines)
    try:
        seen, _ = decode(tmp_path_factory.mktemp("cut"), exchange(request, response, cut=cut), name=name,
                         batch=data.draw(st.integers(1, 9)), deliver_units=data.draw(st.integers(1, 9)))
    finally:
        flowos.unregister_decoder("lines")
    for way, stream in enumerate((request, response)):
        mine = [unit for unit in seen if unit[0] == way]
        assert b"".join(unit[2] + b"\n" for unit in mine) == stream and {unit[1] for unit in mine} == {"line"}
        assert [unit[3][0] for unit in mine][1:] == [unit[3][1] for unit in mine][:-1]


def test_gaps_and_ends_are_told(tmp_path, lines):
    talk = Talk().open().a(0, b"TALK\nab", ack=0).a(20, b"cd\nef", ack=0).a(25, ack=0, flags="F").b(0, b"x\ny", ack=0)
    seen, _ = decode(tmp_path, records(talk))
    assert [unit[:4] for unit in seen if unit[0] == 0] == [
        (0, "line", b"TALK", (0, 5)), (0, "lost", b"", (7, 20)), (0, "line", b"cd", (20, 23)), (0, "rest", b"ef", (23, 25))]
    assert [unit[:4] for unit in seen if unit[0] == 1] == [(1, "line", b"x", (0, 2)), (1, "rest", b"y", (2, 3))]
    decoder, = Lines.made
    assert [call[0] for call in decoder.calls].count("finish") == 2, "each direction ends once"


def test_feeding_follows_the_packets_of_both_directions(tmp_path, lines):
    talk = Talk().open()
    for i in range(5):
        talk.a(5 * i, b"TALK\n", ack=i).b(i, b"\n", ack=5 * i + 5)
    for steps in ({}, SMALL_STEPS):
        Lines.made = []
        decode(tmp_path, records(talk), **steps)
        decoder, = Lines.made
        assert [call[1] for call in decoder.calls if call[0] == "feed"] == [0, 1] * 5


# ------------------------------------------------------------------------------------ probing

@pytest.mark.parametrize("request_bytes, response, found", [
    (b"TALK\n", b"yes\n", True), (b"hello\n", b"TALK\n", True), (b"", b"TALK\n", True), (b"TALK\n", b"", True),
    (b"hello\n", b"yes\n", False), (b"TAL", b"", False), (b"TAL", b"TAX", False), (b"", b"", False), (b"\nTALK\n", b"", False)])
@pytest.mark.parametrize("cut", [1, 2, 1000])
def test_each_direction_may_tell(tmp_path, lines, request_bytes, response, found, cut):
    for steps in ({}, {"batch": 1, "deliver_units": 1}):
        seen, engine = decode(tmp_path, exchange(request_bytes, response, cut=cut), **steps)
        assert bool(seen) is found
        whole = b"".join(unit[2] + b"\n" * (unit[1] == "line") for unit in seen if unit[0] == 1)
        assert not found or whole == response, "what came before it was told is fed, too"


def test_the_probe_is_told_the_direction_and_the_port(tmp_path):
    asked = []

    class Curious(Decoder):
        name, over = "curious", ("tcp", "udp")

        @staticmethod
        def probe(data, direction, port):
            asked.append((bytes(data), direction, port, data.readonly))
            return False

    flowos.register_decoder(Curious)
    try:
        decode(tmp_path, exchange(b"q" * 100, b"r", a=("10.9.0.9", 443), b=("10.0.0.1", 9))
               + [datagram(b"u", B, A)], Units("curious"))
    finally:
        flowos.unregister_decoder("curious")
    assert asked == [(b"q" * 100, 0, 9, True), (b"r", 1, 9, True), (b"u", 0, A[1], True)]


def test_what_no_decoder_wants_is_not_kept(tmp_path, lines):
    """Both directions were declined: nothing more is asked, fed or made, however long it goes on."""
    asked = []
    probe = Lines.probe
    Lines.probe = staticmethod(lambda *arguments: asked.append(arguments) or probe(*arguments))
    try:
        seen, engine = decode(tmp_path, exchange(b"x" * 5000, b"y" * 5000, cut=10), **SMALL_STEPS)
    finally:
        Lines.probe = staticmethod(probe)
    assert len(asked) == 2 and seen == [] and Lines.made == []


def test_a_decoder_that_cannot_tell_is_not_waited_for_for_ever(tmp_path):
    class Unsure(Decoder):
        name, over, asked = "unsure", ("tcp",), []

        @staticmethod
        def probe(data, direction, port):
            Unsure.asked.append(len(data))

    flowos.register_decoder(Unsure)
    try:
        decode(tmp_path, exchange(b"x" * 5000, b"", cut=50), Units("unsure"))
        assert 1 < len(Unsure.asked) < 60 and max(Unsure.asked) <= 2048
        Unsure.asked.clear()
        decode(tmp_path, exchange(b"x" * 5000, b"", cut=1), Units("unsure"))
        assert len(Unsure.asked) < 100
    finally:
        flowos.unregister_decoder("unsure")


def test_picked_up_in_mid_stream(tmp_path, lines):
    """No SYN: the stream may begin anywhere, so the start of each early piece is tried."""
    talk = Talk().a(0, b"tail of a line\n", ack=0).b(0, b"answer\n", ack=15)
    talk.a(15, b"TALK again\n", ack=7).b(7, b"good\n", ack=26).a(26, b"more\n", ack=12)
    for steps in ({}, {"batch": 1, "deliver_units": 1}):
        seen, engine = decode(tmp_path, records(talk), **steps)
        assert [unit[:3] for unit in seen if unit[0] == 0] == [(0, "line", b"TALK again"), (0, "line", b"more")]
        assert [unit[2] for unit in seen if unit[0] == 1][-1] == b"good"
    opened = Talk().open()
    opened.packets += [packet for packet in talk.packets]
    assert decode(tmp_path, records(opened))[0] == [], "behind a SYN the first bytes alone tell"


def test_two_decoders_over_one_port(tmp_path, lines):
    parts = (exchange(b"TALK\n", b"x\n") + exchange(at=100 * MILLISECOND, a=("10.8.0.1", 5))
             + exchange(b"neither", b"nor", at=200 * MILLISECOND, a=("10.8.0.2", 5)))
    talks, webs, found = Units("lines"), Units("http"), {}

    class Found(Module):
        def closed(self, connection, reason):
            found[connection.id] = connection.detected

    run(save(tmp_path, parts), talks, webs, Found())
    assert found == {0: "lines", 1: "http", 2: None}
    assert len(talks.seen) == 2 and [unit[1] for unit in webs.seen] == ["request", "end", "response", "body", "end"]


def test_detection_without_a_module_that_asks(tmp_path, lines):
    found = {}

    class Found(Module):
        protocol = "transport"

        def closed(self, connection, reason):
            found[connection.id] = connection.detected

    parts = exchange(b"TALK\n") + exchange(at=100 * MILLISECOND, a=("10.8.0.1", 5)) + [datagram(QUERY, b=("10.0.0.2", 53), at=10**9)]
    path = save(tmp_path, parts)
    run(path, Found(), detect=True)
    assert found == {0: "lines", 1: "http", 2: "dns"}
    found.clear()
    run(path, Found())
    assert found == {0: None, 1: None, 2: None}, "unless asked for, nothing is decoded"


# ------------------------------------------------------------------------------------ decoders that fail

class Faulty(Lines):
    """Fails in the call, and at the line, that a test says."""

    name, call, line = "faulty", "feed", b"bad"

    def __init__(self):
        if self.call == "__init__":
            raise RuntimeError("cannot begin")
        super().__init__()

    @staticmethod
    def probe(data, direction, port):
        if Faulty.call == "probe":
            raise RuntimeError("cannot tell")
        return Lines.probe(data, direction, port)

    def fails(self, call, data=b""):
        if call == self.call and self.line in data:
            raise RuntimeError(f"{call} fails")

    def feed(self, direction, data, offset, ts):
        self.fails("feed", data)
        units = super().feed(direction, data, offset, ts)
        if self.call == "units" and self.line in data:
            return self.bad_units(units)
        return units

    def bad_units(self, units):
        raise NotImplementedError

    def gap(self, direction, offset, length, ts):
        self.fails("gap", self.line)
        return super().gap(direction, offset, length, ts)

    def finish(self, direction, offset, ts):
        self.fails("finish", self.line)
        return super().finish(direction, offset, ts)


def test_a_framing_that_the_core_cannot_call_is_refused(tmp_path):
    class Mine(Lines):
        name, framing = "mine", list

    class Half(Mine):
        name, framing = "half", HttpFraming      # compiled, but the decoder is not

    for decoder in Mine, Half:
        flowos.register_decoder(decoder)
        try:
            with pytest.raises(DecoderError, match=f"{decoder.name}: framing is .*, expected a subclass of flowos.core.framing.Framing"):
                decode(tmp_path, [datagram(b"x", A, B)], Units(decoder.name))
        finally:
            flowos.unregister_decoder(decoder.name)


@pytest.fixture
def faulty():
    flowos.register_decoder(Faulty)
    yield Faulty
    flowos.unregister_decoder("faulty")
    Faulty.call = "feed"


def fault(tmp_path, steps):
    """Run ten connections of which each meets the fault; gives (units, engine, what was seen at tcp)."""
    parts = []
    for i in range(10):
        talk = Talk().open().a(0, b"TALK\n", ack=0).a(5, b"bad\n", ack=0).a(30, b"late\n", ack=0).a(35, ack=0, flags="F")
        parts += records(talk, (f"10.8.1.{i}", 99))
    units, below = Units("faulty"), Log()
    engine = Engine(Config(**steps))
    engine.add_port(save(tmp_path, parts))
    engine.attach(units)
    engine.attach(below)
    engine.run()
    engine.close()
    assert [unit[5] for unit in sorted(below.units) if unit[2] == "data"] == [b"TALK\n", b"bad\n", b"late\n"] * 10
    by_connection = sorted(range(len(units.seen)), key=lambda i: units.numbers[i])
    return [units.seen[i] for i in by_connection], engine


@pytest.mark.parametrize("call, lines_before", [("probe", 0), ("__init__", 0), ("feed", 1), ("gap", 2), ("finish", 3)])
@pytest.mark.parametrize("steps", [{}, SMALL_STEPS])
def test_a_decoder_that_raises_is_taken_off_its_connection(tmp_path, faulty, call, lines_before, steps):
    """What it made before is delivered, the error is kept, and the other connections go on."""
    faulty.call = call
    seen, engine = fault(tmp_path, steps)
    whole = [b"TALK", b"bad", b"late"]
    assert [unit[2] for unit in seen if unit[1] == "line"] == whole[:lines_before] * 10
    errors = engine.statistics()["decoder_errors"]
    assert errors == 10 if call != "probe" else errors >= 10
    assert {(name, str(error)) for name, error in engine.decoder_errors} == {("faulty", {
        "probe": "cannot tell", "__init__": "cannot begin"}.get(call, f"{call} fails"))}
    assert engine.statistics()["module_errors"] == 0


@pytest.mark.parametrize("bad", [
    lambda units: 7, lambda units: ["unit"], lambda units: [None], lambda units: [Unit(5, 3, "backwards")],
    lambda units: [Unit(-1, 3, "negative")], lambda units: [Unit(0, 1 << 64, "huge")], lambda units: [Unit("a", "b", "text")],
    lambda units: [Unit(0, 1, "line", data="text")],
    lambda units: (unit for unit in [1 // 0])])
def test_what_a_decoder_must_not_make(tmp_path, faulty, monkeypatch, bad):
    faulty.call = "units"
    monkeypatch.setattr(faulty, "bad_units", lambda self, units: bad(units))
    seen, engine = fault(tmp_path, SMALL_STEPS)
    assert [unit[2] for unit in seen] == [b"TALK"] * 10 and engine.statistics()["decoder_errors"] == 10


def test_units_in_any_order_do_no_harm(tmp_path, faulty, monkeypatch):
    faulty.call = "units"
    monkeypatch.setattr(faulty, "bad_units", lambda self, units: [Unit(100, 200, "line", data=b"far"), Unit(3, 4, "line"), *units])
    seen, engine = fault(tmp_path, SMALL_STEPS)
    assert engine.statistics()["decoder_errors"] == 0 and (0, "line", b"far", (100, 200)) in [unit[:4] for unit in seen]


def test_an_interrupt_in_a_decoder_is_no_fault_of_its(tmp_path, faulty, monkeypatch):
    calls = []

    def feed(self, direction, data, offset, ts):
        calls.append(data)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return Lines.feed(self, direction, data, offset, ts)

    monkeypatch.setattr(faulty, "feed", feed)
    engine, units = Engine(Config(**SMALL_STEPS)), Units("faulty")
    engine.add_port(save(tmp_path, exchanges(5, request=b"TALK\n", response=b"x\n")))
    engine.attach(units)
    with pytest.raises(KeyboardInterrupt):
        engine.run()
    engine.run()
    engine.close()
    assert engine.statistics()["decoder_errors"] == 0 and len(calls) == 10 and len(units.seen) >= 8


# ------------------------------------------------------------------------------------ the registry

def test_the_registry():
    for shipped in ("http", "tls", "dns"):
        assert flowos.get_decoder(shipped).name == shipped
    assert flowos.get_decoder("gopher") is None and flowos.get_decoder("../http") is None

    @flowos.register_decoder
    class Mine(Decoder):
        name, over = "http", ("tcp",)

    try:
        assert flowos.get_decoder("http") is Mine, "what is registered goes before what is shipped"
        with pytest.raises(UsageError, match="has a decoder already"):
            flowos.register_decoder(Lines if Lines.name == "http" else type("Other", (Mine,), {}))
    finally:
        flowos.unregister_decoder("http")
    assert flowos.get_decoder("http") is not Mine
    with pytest.raises(UsageError, match="no decoder was registered"):
        flowos.unregister_decoder("http")


@pytest.mark.parametrize("missing", [{"name": ""}, {"over": ()}, {"probe": None}])
def test_a_decoder_needs_name_over_and_probe(missing):
    with pytest.raises(DecoderError, match=next(iter(missing))):
        flowos.register_decoder(type("Bad", (Lines,), {"name": "bad", **missing}))
    assert flowos.get_decoder("bad") is None


@pytest.mark.parametrize("over", [("http",), ("gopher", "quic"), "tcp"])
def test_a_decoder_over_what_there_is_not(over):
    try:
        with pytest.raises((UsageError, DecoderError), match="over"):
            flowos.register_decoder(type("Bad", (Lines,), {"name": "bad", "over": over}))
            Engine().attach(Units("bad"))
    finally:
        if flowos.get_decoder("bad"):
            flowos.unregister_decoder("bad")


# ------------------------------------------------------------------------------------ a decoder in Cython

CYTHON_DECODER = '''
"""Words between blanks: a compiled decoder in one file, built against the declarations that FlowOS ships."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memset

from flowos.core.decoder cimport Decoder
from flowos.core.unit cimport FOS_UNIT_DECODER, FOS_UNIT_OWNED, fos_sink, fos_unit

cdef enum:
    WORD = FOS_UNIT_DECODER
    BLANK
    ODD = 0

KINDS = {WORD: "word", BLANK: "blank"}


cdef class WordsDecoder(Decoder):
    name = "words"
    over = ("tcp", "udp")
    cdef uint64_t off[2]
    cdef public dict counters

    def __init__(self):
        self.counters = {}

    @staticmethod
    def probe(data, direction, port):
        return bytes(data[:1]) == b"w"

    def describe(self, int kind, bytes data):
        return data.decode().upper()

    cdef int put(self, int direction, int kind, const uint8_t *data, size_t n, uint64_t start, fos_sink *sink) noexcept nogil:
        cdef fos_unit u
        memset(&u, 0, sizeof(u))
        u.kind = <uint16_t>kind
        u.off = self.off[direction]
        u.len = n
        u.start = start
        u.end = start + n
        u.flags = FOS_UNIT_OWNED                # none of a decoder's business: the sink decides
        u.value = data[0]
        self.off[direction] += n
        return sink.emit(sink, &u, data, n)

    cdef int feed(self, int direction, const uint8_t *data, size_t n, uint64_t offset, int64_t ts,
                  fos_sink *sink) except -1 nogil:
        cdef size_t at = 0, mark = 0
        cdef uint8_t copy[4]
        while at < n:
            if data[at] == 33:                  # "!"
                with gil:
                    raise ValueError("an exclamation mark")
            if data[at] == 63:                  # "?": bytes of the decoder's own, and a kind below all decoders'
                copy[0] = 63
                self.put(direction, WORD, copy, 1, offset + at, sink)
                self.put(direction, ODD, copy, 1, offset + at, sink)
                mark = at + 1
            elif data[at] == 32:
                if mark < at and self.put(direction, WORD, data + mark, at - mark, offset + mark, sink):
                    return -1
                if self.put(direction, BLANK, data + at, 1, offset + at, sink):
                    return -1
                mark = at + 1
            at += 1
        if mark < n:
            self.put(direction, WORD, data + mark, n - mark, offset + mark, sink)
        return 0
'''


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Compile the decoder above, with the flags that keep it quick, and register it."""
    folder = tmp_path_factory.mktemp("words")
    source = folder / "words.pyx"
    source.write_text(CYTHON_DECODER)
    core = Path(flowos.core.__path__[0])
    script = textwrap.dedent(f"""
        import sys
        sys.path[:0] = {[str(part) for part in sys.path]!r}
        from Cython.Compiler.Main import compile, CompilationOptions
        result = compile({str(source)!r}, CompilationOptions(language_level=3, include_path={[str(core.parent.parent)]!r}))
        sys.exit(result.num_errors)
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    built = folder / f"words{sysconfig.get_config_var('EXT_SUFFIX')}"
    done = subprocess.run(["gcc", "-shared", "-fPIC", "-O0", "-w", f"-I{core}", f"-I{sysconfig.get_paths()['include']}",
                           str(source.with_suffix(".c")), "-o", str(built)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    sys.path.insert(0, str(folder))
    try:
        import words as module
    finally:
        sys.path.remove(str(folder))
    flowos.register_decoder(module.WordsDecoder)
    yield module
    flowos.unregister_decoder("words")


@pytest.mark.parametrize("steps", [{}, SMALL_STEPS])
def test_a_decoder_in_cython(tmp_path, words, steps):
    seen = []

    class Words(Module):
        protocol = "words"

        def process(self, window):
            for unit in window.units:
                seen.append((window.connection.proto, unit.direction, unit.kind, bytes(unit.data), unit.info, unit.offset,
                             unit.lower, unit.value))

    parts = exchange(b"wine and", b"bread ?") + [datagram(b"w u"), datagram(b"v", B, A)]
    for name in ("mapped.pcap", "passing.pcap.gz"):
        for each in (parts, in_fragments(parts)):
            seen.clear()
            engine = run(save(tmp_path, each, name), Words(), **steps)
            assert [unit[2:] for unit in seen if unit[:2] == ("tcp", 0)] == [
                ("word", b"wine", "WINE", 0, (0, 4), 119), ("blank", b" ", " ", 4, (4, 5), 32), ("word", b"and", "AND", 5, (5, 8), 97)]
            assert [unit[2:4] for unit in seen if unit[:2] == ("tcp", 1)] == [
                ("word", b"bread"), ("blank", b" "), ("word", b"?"), ("data", b"")], "no bytes go with a kind that is not a decoder's"
            assert [(unit[1], unit[3]) for unit in seen if unit[0] == "udp"] == [(0, b"w"), (0, b" "), (0, b"u"), (1, b"v")]
            assert engine.statistics()["decoder_errors"] == 0


def test_a_compiled_decoder_that_raises(tmp_path, words):
    """What it made in the same piece is delivered, also when the fault comes in the same delivery."""
    units = Units("words")
    engine = run(save(tmp_path, exchanges(3, request=b"what now ! more", response=b"x")), units)
    assert [unit[1:3] for unit in units.seen if unit[0] == 0] == [("word", b"what"), ("blank", b" "), ("word", b"now"), ("blank", b" ")] * 3
    assert [str(error) for _, error in engine.decoder_errors] == ["an exclamation mark"] * 3
