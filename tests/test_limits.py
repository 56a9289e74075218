"""Limits: what grows has a cap, what is dropped at the cap has a counter, and memory stays flat.

Who is evicted and when a connection expires; what waits for earlier bytes or for fragments; what a
long run, a run of very many connections, and a run of hostile ones need.  Memory is measured in processes of their own.
"""
import hashlib
import json
import os
import subprocess
import sys

import pytest

import flowos
from conversations import (
    MILLISECOND, Log, datagram, datagrams, exchange, exchanges, in_fragments, records, run, save)
from flowos import Config, Engine, Module
from models import build
from models.build import A, B, START_NS
from models.engine import run_pcap
from models.talk import Talk

SECOND = 1000 * MILLISECOND


class Ends(Module):
    """Notes why and in which order connections end, and the first address of each."""

    protocol = "transport"

    def __init__(self):
        self.ends = []

    def closed(self, connection, reason):
        self.ends.append((connection.a.addr, reason))

    def of(self, *reasons):
        return [addr for addr, reason in self.ends if reason in reasons]


def ends_of(tmp_path, parts, **config):
    module = Ends()
    engine = run(save(tmp_path, parts), module, **config)
    counters = engine.statistics()
    assert counters["connections"] == counters["connections_closed"] == len(module.ends) and counters["connections_live"] == 0
    assert counters["connections_evicted"] == len(module.of("evicted"))
    assert counters["connections_timed_out"] == len(module.of("timeout"))
    return module, counters


def client(i):
    return f"10.2.{i >> 8}.{i & 255}", 1000


# ------------------------------------------------------------------------------------ connections: the cap

def test_the_oldest_unanswered_goes_first(tmp_path):
    """Ten that were answered, then many that were not: at the cap of 15 only the latter are evicted, oldest first."""
    parts = [part for i in range(10)
             for part in (datagram(b"q", client(i), B, i), datagram(b"a", B, client(i), i + 1))]
    parts += [datagram(b"q", client(100 + i), B, 1000 + i) for i in range(30)]
    module, counters = ends_of(tmp_path, sorted(parts), max_connections=15)
    assert module.of("evicted") == [client(100 + i)[0] for i in range(25)] and counters["connections"] == 40


def test_what_is_over_goes_before_what_is_not(tmp_path):
    """Connections that were reset or closed only wait for stragglers."""
    parts = [datagram(b"q", client(0), B, 0)]
    parts += records(Talk().open().a(0, b"x", ack=0).b(0, ack=1, flags="R"), ("10.3.0.1", 1))
    parts += exchange(a=("10.3.0.2", 1), at=20 * MILLISECOND)
    parts += exchange(a=("10.3.0.3", 1), at=40 * MILLISECOND, close=False)
    parts += [datagram(b"q", client(10 + i), B, 100 * MILLISECOND + i) for i in range(3)]
    module, counters = ends_of(tmp_path, parts, max_connections=4)
    assert module.ends[:3] == [("10.3.0.1", "rst"), ("10.3.0.2", "fin"), (client(0)[0], "evicted")]
    assert counters["connections_evicted"] == 1


def test_one_that_is_busy_is_spared(tmp_path):
    """All answered: the oldest goes, unless it had a packet a moment ago and another has been quiet for long."""
    parts = [part for i in range(4)
             for part in (datagram(b"q", client(i), B, i * SECOND), datagram(b"a", B, client(i), i * SECOND + 1))]
    parts.append(datagram(b"busy", client(0), B, 30 * SECOND - 1))
    parts.append(datagram(b"new", client(9), B, 30 * SECOND))
    module, _ = ends_of(tmp_path, parts, max_connections=4)
    assert module.of("evicted") == [client(1)[0]]


def test_an_evicted_connection_s_bytes_are_delivered_first(tmp_path):
    """Also those that wait behind a hole."""
    log = Log()
    parts = records(Talk().a(flags="S").a(0, b"abc", ack=0).a(10, b"xyz", ack=0), ("10.3.0.1", 1))
    parts += [datagram(b"q", client(i), B, SECOND + i) for i in range(3)]
    engine = run(save(tmp_path, parts), log, max_connections=2)
    assert log.units == [(0, 0, "syn", 0, 0, b""), (0, 0, "data", 0, 3, b"abc"), (0, 0, "gap", 3, 7, b""),
                         (0, 0, "data", 10, 3, b"xyz")]
    assert engine.statistics()["connections_evicted"] == 2 and log.told("opened") == log.told("closed")


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_the_cap_holds_at_every_moment(tmp_path, limit):
    path = save(tmp_path, sorted(exchanges(40) + datagrams(100)))
    engine, log = Engine(Config(max_connections=limit, batch=3, deliver_units=1)), Log("transport")
    engine.add_port(path)
    engine.attach(log)
    most = 0
    while engine.step():
        most = max(most, engine.statistics()["connections_live"], len(engine.connections()))
        engine._check()
    assert most == limit
    assert engine.statistics()["packets"] == 40 * 8 + 100
    assert sorted(log.told("opened")) == sorted(log.told("closed")) == list(range(engine.statistics()["connections"]))


def test_more_connections_in_one_batch_than_the_cap(tmp_path):
    """Their records wait for the delivery; there is room for those of a batch."""
    module, counters = ends_of(tmp_path, datagrams(30_000, apart=1000), max_connections=1, batch=256, deliver_units=1 << 30)
    assert counters["connections_evicted"] == 29_999 and len(module.ends) == 30_000


# ------------------------------------------------------------------------------------ connections: time

@pytest.mark.parametrize("parts, timeout, seconds", [
    ([datagram(b"q")], "timeout_unanswered", 5),
    ([datagram(b"q"), datagram(b"a", B, A, 1)], "timeout_answered", 7),
    (records(Talk().a(flags="S")), "timeout_tcp_opening", 4),
    (records(Talk().open()), "timeout_tcp", 6),
    (records(Talk().open().a(0, ack=0, flags="F")), "timeout_tcp_closing", 3),
    (exchange(), "timeout_tcp_closed", 2),
    (records(Talk().open().a(0, ack=0, flags="R")), "timeout_tcp_closed", 2),
    ([(START_NS, build.ethernet(build.ipv4("10.0.0.1", "10.0.0.2", 1, b"\x08\0\0\0\0\1\0\1")))], "timeout_icmp", 9)])
def test_each_kind_has_its_own_time_out(tmp_path, parts, timeout, seconds):
    """A packet before the time is out belongs to the connection; one after it begins another."""
    names = [name for name in Config.__dataclass_fields__ if name.startswith("timeout_")]
    config = {**{name: 1000 for name in names}, timeout: seconds}
    if timeout == "timeout_tcp":              # nobody waits longer for a handshake than for data
        config["timeout_tcp_opening"] = seconds
    last = parts[-1][0] - START_NS
    for after, expected in ((seconds - 0.5, []), (seconds + 2, ["10.0.0.1"])):
        module, _ = ends_of(tmp_path, [*parts, datagram(b"tick", client(1), B, last + round(after * SECOND))], **config)
        assert module.of("timeout", "fin", "rst") == expected


def test_packets_put_the_time_out_off(tmp_path):
    parts = [datagram(b"q", at=i * 3 * SECOND) for i in range(20)] + [datagram(b"q", at=80 * SECOND)]
    module, counters = ends_of(tmp_path, parts, timeout_unanswered=5)
    assert module.ends == [("10.0.0.1", "timeout"), ("10.0.0.1", "end")] and counters["connections"] == 2


def test_expiry_is_told_in_time(tmp_path):
    """With the delivery of the packet that shows the time; long silences and a clock set back do no harm."""
    log = Log("udp")
    day = 86_400 * SECOND
    parts = [datagram(b"1", client(1), B, 0), datagram(b"2", client(2), B, 3 * SECOND), datagram(b"3", client(3), B, 7 * SECOND),
             datagram(b"4", client(2), B, 8 * SECOND), datagram(b"5", client(2), B, 400 * day), datagram(b"6", client(4), B, day),
             datagram(b"7", client(5), B, day + 20 * SECOND)]
    run(save(tmp_path, parts), log, timeout_unanswered=5.5, batch=1, deliver_units=1)
    first = [call for call in log.calls if call[0] in ("opened", "closed")]
    assert first[:4] == [("opened", 0), ("opened", 1), ("opened", 2), ("closed", 0)], "1 was silent for 7 s, 2 was not"
    assert first.index(("closed", 1)) < first.index(("opened", 4)), "400 days later"
    assert sorted(log.told("opened")) == sorted(log.told("closed")) and len(log.units) == 7


def test_offline_nothing_expires(tmp_path):
    years = 365 * 86_400 * SECOND
    assert len(list(flowos.open(save(tmp_path, [datagram(b"q", at=0), datagram(b"q", at=3 * years)])))) == 1


# ------------------------------------------------------------------------------------ what waits

def holes(count, size=1000):
    """Segments behind a hole that is never filled."""
    talk = Talk().open()
    for i in range(count):
        talk.a(1 + i * size, bytes([i & 255]) * size, ack=0)
    return records(talk)


def test_a_whole_window_may_wait_for_its_first_segment():
    data = bytes(range(256)) * (12 << 10)            # 3 MiB: what Linux offers when half of 6 MiB (tcp_rmem) is for data
    talk = Talk().open()
    for at in [*range(1400, len(data), 1400), 0]:
        talk.a(at, data[at:at + 1400], ack=0)
    way = run_pcap(build.pcap([build.tcp_record(packet) for packet in talk.packets]))["connections"][0]["a_to_b"]
    assert way["gaps"] == []
    assert way["digest"] == hashlib.sha256(data).hexdigest()      # not the bytes: a failure would print them


@pytest.mark.parametrize("config, counter", [({"reassembly_bytes": 10_000}, "tcp_gap_by_limit"),
                                             ({"reassembly_pieces": 10}, "tcp_gap_by_limit"),
                                             ({"reassembly_total": 10_000}, "tcp_gap_by_limit"),
                                             ({"gap_seconds": 0.01}, "tcp_gap_by_time")])
def test_what_waits_behind_a_hole_is_bounded(tmp_path, config, counter):
    log = Log()
    engine = run(save(tmp_path, holes(50)), log, **config)
    assert engine.statistics()[counter] == 1 == engine.statistics()["tcp_gaps"] and engine.statistics()["tcp_gap_bytes"] == 1
    assert [unit[2:5] for unit in log.units if unit[1] == 0][1:3] == [("gap", 0, 1), ("data", 1, 1000)]
    assert sum(unit[4] for unit in log.units if unit[2] == "data") == 50_000, "nothing that came is lost"


def test_the_total_holds_over_all_connections(tmp_path):
    """Holes in many connections at a time: none waits for more than its share of the total for long."""
    parts = sorted(part for i in range(40) for part in records(holes_talk(i), (f"10.4.0.{i}", 4)))
    log = Log()
    engine = run(save(tmp_path, parts), log, reassembly_total=20_000)
    assert engine.statistics()["tcp_gap_by_limit"] >= 20
    assert sum(unit[4] for unit in log.units if unit[2] == "data") == 40 * 10 * 300


def holes_talk(i):
    talk = Talk()
    talk.now += i
    talk.open()
    for j in range(10):
        talk.a(1 + j * 300, bytes(300), ack=0)
    return talk


@pytest.mark.parametrize("config", [{"defrag_datagrams": 5}, {"defrag_bytes": 400}])
def test_what_waits_for_fragments_is_bounded(tmp_path, config):
    """First fragments only: the oldest datagrams are given up, counted; one whose rest comes at once is whole."""
    lonely = [in_fragments([datagram(bytes(100), client(i))], size=64, first_id=i)[0] for i in range(50)]
    whole = in_fragments([datagram(bytes(range(100)))], size=64, first_id=99)
    log = Log("udp")
    engine = run(save(tmp_path, lonely + whole), log, **config)
    counters = engine.statistics()
    assert counters["ip_fragments_evicted"] >= 44 and counters["datagrams_reassembled"] == 1
    assert counters["ip_fragments_evicted"] + counters["ip_fragments_timed_out"] == 50
    assert [unit[5] for unit in log.units] == [bytes(range(100))]


def test_fragments_of_one_datagram_are_bounded(tmp_path):
    parts = in_fragments([datagram(bytes(2000))], size=8)
    assert run(save(tmp_path, parts), Log("udp"), defrag_pieces=100).statistics()["ip_fragment_too_many"] >= 1
    assert run(save(tmp_path, parts), Log("udp")).statistics()["datagrams_reassembled"] == 1


def test_fragments_time_out(tmp_path):
    first, second = in_fragments([datagram(bytes(100))], size=64)
    for after, joined in ((29, 1), (31, 0)):
        late = (second[0] + after * SECOND, second[1])
        engine = run(save(tmp_path, [first, late]), Log("udp"))
        assert engine.ip_reassembly["datagrams"] == joined


def test_gaps_remembered_are_bounded(tmp_path):
    """More holes than are listed: they are all units, and all counted."""
    talk = Talk().open()
    for i in range(5000):
        talk.a(2 * i + 1, b"x", ack=0).packets[-1]
    talk.b(0, b"", ack=10_000)
    log, kept = Log(), []

    class Keep(Module):
        def closed(self, connection, reason):
            kept.append(connection)

    engine = run(save(tmp_path, records(talk)), log, Keep())
    assert engine.statistics()["tcp_gaps"] == 5000 == sum(unit[2] == "gap" for unit in log.units)
    assert len(kept[0].a_to_b.gaps) == 4096


def test_errors_kept_are_bounded(tmp_path):
    class Bad(Module):
        def process(self, window):
            raise RuntimeError(window.connection.id)

    engine = Engine(Config(isolate=True))
    engine.add_port(save(tmp_path, exchanges(50)))
    attachment = engine.attach(Bad())
    engine.run()
    assert len(attachment.errors) == 16 and "RuntimeError: 49" in attachment.errors[-1]
    assert engine.statistics()["module_errors"] == 100


# ------------------------------------------------------------------------------------ the table cannot be crafted

def test_every_engine_hashes_with_a_key_of_its_own(monkeypatch):
    """12 words of 64 bits from the system's source of secrets; else who knows the key piles connections up."""
    import secrets

    drawn, token_bytes = [], secrets.token_bytes

    def note(size):
        drawn.append(token_bytes(size))
        return drawn[-1]

    monkeypatch.setattr(secrets, "token_bytes", note)
    engines = [Engine() for _ in range(3)]
    assert len(engines) == 3 == len(set(drawn)) and {len(key) for key in drawn} == {96}


# ------------------------------------------------------------------------------------ memory

MEASURE = '''
import gc, json, sys
sys.path[:0] = json.loads(sys.argv[1])
import flowos
from flowos import Config, Engine, Module
from models import build
def resident():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * 4096
'''


def measured(script, *arguments):
    """Run a script that prints JSON, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", MEASURE + script, json.dumps([*sys.path, os.path.dirname(__file__)]),
                           *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def checked_build():
    """Say whether a sanitizer's own bookkeeping would be measured instead."""
    return os.environ.get("FLOWOS_PROFILE", "release") != "release"


LONG = '''
import os, threading
# One capture for ever: connections come and go, some with holes, some in fragments, some that never answer.
from conversations import exchange, in_fragments, datagram, records
from models.talk import Talk
def parts(n):
    at = n * 50_000_000
    a = (f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}", 1000 + n % 50_000)
    hole = Talk(); hole.now += at; hole.open().a(5, b"behind a hole", ack=0)
    return (exchange(a=a, at=at) + records(hole, (a[0], 7)) + [datagram(b"q", (a[0], 9), ("10.0.0.2", 53), at)]
            + in_fragments([datagram(bytes(50), (a[0], 8), ("10.0.0.2", 53), at)], 24, n)[:n % 3])
block = [part for n in range(400) for part in parts(n)]
way_in, way_out = os.pipe()
ROUNDS = int(sys.argv[3])
def feed():
    import struct
    with os.fdopen(way_out, "wb") as out:
        out.write(build.pcap([])[:24])
        for turn in range(ROUNDS):
            shift = turn * 60_000_000_000
            out.write(build.pcap([(part[0] + shift, *part[1:]) for part in block])[24:])
thread = threading.Thread(target=feed); thread.start()
class Seen(Module):
    protocol, bytes = sys.argv[2], 0
    def process(self, window):
        self.bytes += window.length
engine = Engine(Config(timeout_tcp=20, timeout_tcp_opening=20, timeout_tcp_closing=20, timeout_tcp_closed=5, timeout_unanswered=5, gap_seconds=8))
engine.add_port(f"/proc/self/fd/{way_in}")
module = Seen(); engine.attach(module)
sizes, live, next_at = [], [], 0
while engine.step():
    if engine.packets >= next_at:
        next_at += len(block)
        sizes.append(resident()); live.append(engine.statistics()["connections_live"])
thread.join()
print(json.dumps([sizes, live, engine.packets, module.bytes, engine.statistics()["connections"]]))
'''


@pytest.mark.parametrize("protocol", ["transport", "http"])
def test_a_long_run_needs_flat_memory(protocol):
    rounds = 40
    sizes, live, packets, seen, connections = measured(LONG, protocol, rounds)
    assert packets > 5000 * rounds and seen > 0 and connections == 3 * 400 * rounds
    assert max(live) < 2500, "connections expire"
    if not checked_build():
        quarter = len(sizes) // 4
        assert max(sizes[-quarter:]) - max(sizes[quarter:2 * quarter]) < 1 << 20, sizes


MANY = '''
count, proto = int(sys.argv[2]), sys.argv[3]
import struct
# Two frames as patterns; only addresses and ports change (checksums are not looked at).
from conversations import datagram, exchange
frame = bytearray(datagram(b"q")[1] if proto == "udp" else exchange()[0][1])
with open(sys.argv[4], "wb") as out:
    out.write(build.pcap([])[:24])
    for i in range(count):
        frame[26:30] = struct.pack(">I", 0x0a000000 + i)
        out.write(struct.pack("<IIII", 1_700_000_000 + i // 100_000, i % 100_000 * 10_000, len(frame), len(frame)))
        out.write(frame)
engine = Engine(Config())
engine.add_port(sys.argv[4])
class Opened(Module):
    protocol, opened_count = "transport", 0
    def tick(self, now):
        pass
engine.attach(Opened())
before = resident()
while engine.packets < count:
    engine.step()
live = engine.statistics()["connections_live"]
grown = resident() - before
engine._check()
engine.close()
print(json.dumps([live, grown / count, engine.statistics()["connections_closed"]]))
'''


@pytest.mark.parametrize("proto, most", [("udp", 420), ("tcp", 600)])
def test_many_connections(tmp_path, proto, most):
    """A hundred thousand at once: a million of these would need less than 0.6 GB."""
    count = 100_000
    live, each, closed = measured(MANY, count, proto, tmp_path / "many.pcap")
    assert live == closed == count
    assert each < most or checked_build(), f"{each} bytes for a connection"


HOSTILE = '''
# Each connection asks the decoders to keep what they can: heads that never end, half a probe, holes.
from conversations import records
from models.talk import Talk
def parts(n):
    talk = Talk(); talk.now += n * 1000
    kind = n % 4
    if kind == 0:
        talk.open().a(0, b"GET / HTTP/1.1\\r\\nX: " + b"a" * 1000, ack=0)
    elif kind == 1:
        talk.open().a(0, b"GE", ack=0)
    elif kind == 2:
        talk.a(0, b"no SYN, no known start", ack=0)
    else:
        talk.open().a(100, b"a hole", ack=0).a(300, b"and another", ack=0)
    return records(talk, (f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}", 1000))
count = int(sys.argv[2])
with open(sys.argv[3], "wb") as out:
    out.write(build.pcap(sorted(part for n in range(count) for part in parts(n))))
class Http(Module):
    protocol = "http"
    def process(self, window): pass
sizes = []
for limit in (500, 500, 500):
    engine = Engine(Config(max_connections=limit))
    engine.add_port(sys.argv[3])
    engine.attach(Http())
    most = 0
    while engine.step():
        most = max(most, engine.statistics()["connections_live"])
    assert most <= limit
    engine.close()
    sizes.append(resident())
print(json.dumps(sizes))
'''


def test_hostile_connections_need_no_more_than_their_number(tmp_path):
    sizes = measured(HOSTILE, 8000, tmp_path / "hostile.pcap")
    assert checked_build() or sizes[-1] - sizes[0] < 2 << 20 and sizes[0] < 150 << 20, sizes
