"""The pull face: streams read like files, in bounded memory, no byte lost; tables of connections."""
import gc
import os
import subprocess
import sys
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flowos
from conversations import MILLISECOND, REQUEST, RESPONSE, Log, datagram, datagrams, exchange, exchanges, records, run, save
from flowos import Config, UsageError
from models.build import B
from models.talk import Talk

PAGE = b"HTTP/1.1 200 OK\r\n\r\n" + bytes(range(256)) * 100


@pytest.fixture
def ten(tmp_path):
    return save(tmp_path, exchanges(10))


def overlapping(count, size=3000, cut=100):
    """Make connections that all go on at the same time."""
    return sorted(record for i in range(count)
                  for record in exchange(bytes([i]) * size, bytes([255 - i]) * size, a=(f"10.4.0.{i}", 4000), at=i, cut=cut))


# ------------------------------------------------------------------------------------ reading

def test_reading_one_after_the_other(ten):
    found = []
    for connection in flowos.open(ten):
        found.append((connection.id, connection.a_to_b.read(), connection.b_to_a.read()))
        assert connection.a_to_b.ended and connection.a_to_b.read() == b"" == connection.a_to_b.read(5)
        assert connection.proto == "tcp" and connection.a_to_b.packets == 5, "the rest is the connection's"
        assert repr(connection).startswith("<Connection") and "ended" in repr(connection.a_to_b)
    assert found == [(number, REQUEST, RESPONSE) for number in range(10)]


@settings(max_examples=30)
@given(sizes=st.lists(st.one_of(st.integers(0, 40), st.integers(100, 30_000)), min_size=1), memory=st.sampled_from([0, 500, 1 << 20]))
def test_reading_in_pieces_of_any_size(tmp_path_factory, sizes, memory):
    path = save(tmp_path_factory.mktemp("pull"), exchange(REQUEST, PAGE, cut=700))
    with flowos.open(path, memory=memory, config=Config.offline(deliver_units=3, batch=5)) as reader:
        connection = next(reader)
        parts, stream = [], connection.b_to_a
        for size in sizes:
            parts.append(stream.read(size))
            assert len(parts[-1]) == min(size, len(PAGE) - sum(map(len, parts[:-1])))
        parts.append(stream.read(None))
        assert b"".join(parts) == PAGE and connection.a_to_b.read(-1) == REQUEST


def test_iterating_over_a_stream(ten):
    for connection in flowos.open(ten):
        assert b"".join(connection.a_to_b) == REQUEST
        assert connection.b_to_a.read(9) == RESPONSE[:9]
        pieces = list(connection.b_to_a)
        assert b"".join(pieces) == RESPONSE[9:] and all(isinstance(piece, bytes) for piece in pieces)


def test_the_engine_runs_only_as_far_as_it_must(tmp_path):
    path = save(tmp_path, exchanges(2000))
    with flowos.open(path, config=Config.offline(deliver_units=16, batch=16)) as reader:
        connection = next(reader)
        assert reader.engine.packets < 5000
        assert connection.a_to_b.read(4) == b"GET "
        assert reader.engine.packets < 5000 and not reader.engine.finished


@pytest.mark.parametrize("memory", [0, 700, 1 << 20])
def test_all_at_the_same_time_and_read_in_any_order(tmp_path, memory):
    path = save(tmp_path, overlapping(20))
    with flowos.open(path, memory=memory, config=Config.offline(deliver_units=7)) as reader:
        connections = list(reader)
        assert len(connections) == 20 and reader._store.held <= memory
        for i in (7, 3, 19, 0):
            connection = connections[i]
            assert connection.b_to_a.read(10) == bytes([255 - i]) * 10
        for i, connection in reversed(list(enumerate(connections))):
            assert connection.a_to_b.read() == bytes([i]) * 3000
            assert len(connection.b_to_a.read()) == (2990 if i in (7, 3, 19, 0) else 3000)
        assert reader._store.held == 0 and reader._store.files == []


def test_files_are_given_back_when_they_were_read(tmp_path, monkeypatch):
    """A long run needs no more disk than what waits at a time, and a rest in each file."""
    monkeypatch.setattr(flowos.pull, "FILE_SIZE", 50_000)
    path, most = save(tmp_path, exchanges(100, response=PAGE)), 0
    before = len(os.listdir("/proc/self/fd"))
    with flowos.open(path, memory=0, config=Config.offline(deliver_units=16, batch=16)) as reader:
        for connection in reader:
            assert connection.b_to_a.read() == PAGE
            most = max(most, sum(file.end for file in reader._store.files))
        del connection
        assert 25_000 < most < 300_000 < 100 * len(PAGE) and reader._store.files == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_small_reads_do_not_copy_what_is_left_each_time(tmp_path):
    path = save(tmp_path, exchange(b"", bytes(200_000)))
    with flowos.open(path) as reader:
        stream = next(reader).b_to_a
        puts, put = [], reader._store.put
        reader._store.put = lambda data: puts.append(len(data)) or put(data)
        assert sum(len(stream.read(10)) for _ in range(20_000)) == 200_000 and stream.read(1) == b""
        assert sum(puts) <= 200_000, "a byte is put away once"


def test_what_nobody_refers_to_is_let_go(tmp_path):
    path = save(tmp_path, overlapping(20))
    with flowos.open(path, config=Config.offline(deliver_units=7)) as reader:
        kept = {i: connection for i, connection in enumerate(reader) if i in (4, 11)}
        gc.collect()
        assert reader._store.held == 2 * 2 * 3000
        stream = kept.pop(11).b_to_a
        gc.collect()
        assert reader._store.held == 3 * 3000, "the direction that is still referred to stays"
        assert stream.read() == bytes([255 - 11]) * 3000


def test_a_stream_outlives_its_connection_and_the_name_of_the_reader(ten):
    assert next(flowos.open(ten)).a_to_b.read(4) == b"GET "
    streams = [connection.b_to_a for connection in flowos.open(ten)]
    gc.collect()
    assert [stream.read() for stream in streams] == [RESPONSE] * 10


def test_a_reader_that_is_left_in_the_middle_is_freed(tmp_path):
    path = save(tmp_path, overlapping(20))
    for connection in flowos.open(path, memory=100, config=Config.offline(deliver_units=7)):
        connection.a_to_b.read(10)
        break
    reader = weakref.ref(connection.a_to_b._reader)
    engine = weakref.ref(reader()._attached.module)
    assert reader()._waiting
    del connection
    gc.collect()
    assert reader() is None and engine() is None


# ------------------------------------------------------------------------------------ what streams tell

def test_gaps_are_left_out_and_listed(tmp_path):
    talk = Talk().open().a(0, b"abc", ack=0).a(10, b"xyz", ack=0).a(13, ack=0, flags="F")
    connection, = flowos.open(save(tmp_path, records(talk)))
    assert connection.a_to_b.read() == b"abcxyz" and connection.a_to_b.gaps == [(3, 7)]
    assert connection.b_to_a.read() == b"" and connection.b_to_a.gaps == []


def test_ended_is_known_at_the_fin(tmp_path):
    parts = exchange() + [datagram(b"much later", at=60_000 * MILLISECOND)]
    with flowos.open(save(tmp_path, parts), config=Config.offline(batch=1, deliver_units=1)) as reader:
        connection = next(reader)
        while not connection.b_to_a.ended:
            connection.b_to_a.read(1)
        assert reader.engine.packets < 9
        assert connection.state in ("closing", "closed") and connection.closed is None


def test_datagrams_are_joined(tmp_path):
    path = save(tmp_path, [datagram(b"one"), datagram(b"two", B, ("10.0.0.1", 40000)), datagram(b"three")])
    connection, = flowos.open(path)
    assert (connection.a_to_b.read(), connection.b_to_a.read()) == (b"onethree", b"two")


def test_only_what_matches_comes(tmp_path):
    path = save(tmp_path, sorted(exchanges(5) + datagrams(7)))
    assert len(list(flowos.open(path, match="udp"))) == 7
    assert [connection.flow for connection in flowos.open(path, match="tcp,nw_src=10.1.0.3")] == ["open"]
    assert len(list(flowos.open(path))) == 12
    with pytest.raises(UsageError):
        flowos.open(path, match="tcp,nonsense=1")


def test_several_inputs(tmp_path):
    parts = exchanges(6)
    one, two = save(tmp_path, parts[::2], "even.pcap"), save(tmp_path, parts[1::2], "odd.pcap.gz")
    assert [connection.b_to_a.read() for connection in flowos.open(one, two)] == [RESPONSE] * 6


def test_standard_input(ten):
    script = "import flowos; print(sum(len(connection.b_to_a.read()) for connection in flowos.open('-')))"
    for feed in (f"cat {ten} |", f"gzip -c {ten} |", f"< {ten}"):
        done = subprocess.run(["bash", "-c", f"{feed} {sys.executable} -c \"$0\"", script], capture_output=True, text=True,
                              timeout=300, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=False)
        assert (done.stdout, done.stderr) == (f"{10 * len(RESPONSE)}\n", "")


def test_every_byte_that_modules_are_given(tmp_path):
    """With losses, repetitions and overlaps, cut into small deliveries, through a store that holds nothing."""
    import random

    chance = random.Random(5)
    parts = overlapping(10, size=2000, cut=90)
    parts = [part for part in parts if chance.random() > 0.05]
    parts = [part for part in parts for _ in range(1 + (chance.random() < 0.1))]
    path, log = save(tmp_path, parts), Log()
    run(path, log)
    by_module, missing = {}, {}
    for number, direction, kind, offset, length, data in log.units:
        by_module[number, direction] = by_module.get((number, direction), b"") + data
        if kind == "gap":
            missing.setdefault((number, direction), []).append((offset, length))
    config = Config(deliver_units=3, batch=5)
    with flowos.open(path, memory=0, config=config) as reader:
        for connection in reader:
            for way, stream in enumerate((connection.a_to_b, connection.b_to_a)):
                assert stream.read() == by_module.get((connection.id, way), b"")
                assert stream.gaps == missing.get((connection.id, way), [])
    assert missing


# ------------------------------------------------------------------------------------ closing and wrong use

def test_closing(ten):
    with flowos.open(ten, memory=0) as reader:
        connection = next(reader)
        connection.a_to_b.read(3)
    reader.close()
    for use in (lambda: connection.a_to_b.read(), lambda: list(connection.b_to_a), lambda: next(reader), reader.columns):
        with pytest.raises(UsageError, match="closed"):
            use()
    with flowos.open(ten) as reader:
        pass
    assert reader.engine.packets == 0, "nothing was asked for, nothing was read"


def test_wrong_use(ten, tmp_path):
    with pytest.raises(UsageError, match="at least one input"):
        flowos.open()
    with pytest.raises(flowos.CaptureError):
        flowos.open(tmp_path / "nothing.pcap")
    reader = flowos.open(ten)
    next(reader)
    with pytest.raises(UsageError, match="open it again"):
        reader.columns()
    connection = next(reader)
    for name in ("nonsense", "_nonsense"):
        for part in (connection, connection.a_to_b):
            with pytest.raises(AttributeError):
                getattr(part, name)


# ------------------------------------------------------------------------------------ tables

def test_tables(tmp_path):
    path = save(tmp_path, sorted(exchanges(5) + datagrams(7)))
    columns = flowos.open(path).columns()
    assert set(map(len, columns.values())) == {12} and columns["id"] == list(range(12))
    row = {name: values[columns["proto"].index("tcp")] for name, values in columns.items()}
    assert (row["a_addr"], row["a_port"], row["b_addr"], row["b_port"]) == ("10.1.0.0", 40000, *B)
    assert (row["a_to_b_packets"], row["b_to_a_packets"], row["a_to_b_syn"], row["b_to_a_fin"]) == (5, 3, 1, 1)
    assert (row["a_to_b_stream_bytes"], row["b_to_a_payload_bytes"]) == (len(REQUEST), len(RESPONSE))
    assert row["last_ns"] - row["first_ns"] == 7 * MILLISECOND and row["state"] == "closed" and row["a_to_b_gaps"] == 0
    for name, make in (("pandas", lambda: flowos.open(path).to_pandas().to_dict("list")),
                       ("pyarrow", lambda: flowos.open(path).to_arrow().to_pydict())):
        pytest.importorskip(name)
        table = make()
        assert list(table) == list(columns)
        assert {key: list(map(str, values)) for key, values in table.items()} == \
            {key: list(map(str, values)) for key, values in columns.items()}
