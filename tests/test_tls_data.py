"""TLS opened with a key log: recorded connections of every version and kind of cipher, gaps, damage, key logs.

tests/data/tls.pcap was recorded from openssl s_client and s_server; what was typed is known, and tshark
opens the same connections with the same key log.
"""
import collections
import re
import subprocess
from pathlib import Path

import pytest
from follow import follow
from hypothesis import given
from hypothesis import strategies as st

from flowos import Engine, Module
from flowos.decoders import tls_data
from flowos.decoders.tls_data import REASONS, KeyLog, TlsDataDecoder, prf

DATA = Path(__file__).parent / "data"
CAPTURE, KEYS = DATA / "tls.pcap", DATA / "tls.keys"
LINES = [b"hello, server\n", b"x" * 3000 + b"\n"]
STREAMS = range(24)
CIPHERS = dict.fromkeys(range(16), LINES)                    # streams 0 to 15: a cipher each
TYPED = CIPHERS | {16: [b"before\n", b"between\n", b"after\n", b"at last\n"], 17: [b"before\n", b"after\n"],
                   18: [b"a retry\n"], 19: [b"a session\n"], 20: [b"resumed\n"], 21: [b"a session\n"],
                   22: [b"early words\n", b"late words\n"], 23: [b"early words\n", b"late words\n"]}
KEY_UPDATES, RENEGOTIATION, RETRY, RESUMED, EARLY, REFUSED = 16, 17, 18, 20, 22, 23


class Decoder(TlsDataDecoder):
    keylog = KEYS


@pytest.fixture(scope="module")
def streams(tshark):
    """{stream: [(direction, piece)]} of the recorded connections."""
    found = follow(tshark, CAPTURE, STREAMS)
    assert sorted(found) == list(STREAMS)
    return found


def play(steps, decoder=None):
    """Feed (direction, bytes | gap length | None), then finish: (decoder, units with their directions)."""
    decoder, at, units = decoder or Decoder(), [0, 0], []

    def take(direction, made):
        for unit in made:
            assert unit.start == (units_end[direction]) <= unit.end, unit
            units_end[direction] = unit.end
            units.append((direction, unit))

    units_end = [0, 0]
    for direction, what in steps:
        if isinstance(what, int):
            take(direction, decoder.gap(direction, at[direction], what, 0))
            at[direction] += what
        else:
            take(direction, decoder.feed(direction, what, at[direction], 0))
            at[direction] += len(what)
    for direction in (0, 1):
        take(direction, decoder.finish(direction, at[direction], 0))
        assert units_end[direction] == at[direction]
    assert set(decoder.counters) <= set(REASONS)
    return decoder, units


def said(units, direction=0):
    return b"".join(unit.data for d, unit in units if d == direction and unit.kind == "data")


def told(units):
    return [(d, unit.start, unit.end, unit.kind, unit.info, unit.data) for d, unit in units]


# ---- recorded connections --------------------------------------------------------------------

@pytest.mark.parametrize("number", STREAMS)
def test_what_was_typed_comes_out(streams, number):
    decoder, units = play(streams[number])
    assert decoder.counters == {}
    assert {unit.kind for _, unit in units} <= {"handshake", "data", "alert", "change_cipher_spec"}
    assert [unit.data for d, unit in units if d == 0 and unit.kind == "data" and unit.data] == TYPED[number]
    if number < 21 and number != KEY_UPDATES:
        assert said(units, 1) == b"".join(line[-2::-1] + b"\n" for line in TYPED[number])


def test_every_kind_of_cipher_was_recorded(streams):
    met = set()
    for pieces in streams.values():
        decoder, _ = play(pieces)
        suite = decoder.suite
        met.add((decoder.version, suite.cipher, suite.size, suite.mac, decoder.encrypt_then_mac))
    assert met >= {(0x0303, "gcm", 16, None, False), (0x0303, "gcm", 32, None, False), (0x0303, "ccm", 16, None, False),
                   (0x0303, "chacha", 32, None, False), (0x0303, "ccm8", 32, None, False),
                   (0x0303, "cbc", 16, "sha1", True), (0x0303, "cbc", 32, "sha384", True),
                   (0x0303, "cbc", 16, "sha256", False), (0x0303, "cbc", 32, "sha1", False),
                   (0x0302, "cbc", 16, "sha1", True), (0x0301, "cbc", 32, "sha1", False),
                   (0x0304, "gcm", 16, None, False), (0x0304, "gcm", 32, None, False), (0x0304, "chacha", 32, None, False),
                   (0x0304, "ccm", 16, None, False), (0x0304, "ccm8", 16, None, False)}


def test_tshark_opens_the_same(streams, tshark):
    command = [tshark, "-r", str(CAPTURE), "-q", "-o", f"tls.keylog_file:{KEYS}"]
    for number in STREAMS:
        command += ["-z", f"follow,tls,raw,{number}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    theirs, pieces = {}, None
    for line in done.stdout.splitlines():
        if match := re.match(r"Filter: tcp\.stream eq (\d+)", line):
            pieces = theirs.setdefault(int(match[1]), [])
        elif re.fullmatch(r"\t?[0-9a-f]+", line):
            pieces.append((int(line.startswith("\t")), bytes.fromhex(line.strip())))
    assert sorted(theirs) == list(STREAMS)
    for number, pieces in theirs.items():
        _, units = play(streams[number])
        mine = [(d, unit.data) for d, unit in units if unit.kind == "data" and unit.data]
        # Which side tshark calls 0 differs from stream to stream: it is who speaks that counts.
        assert [(d != mine[0][0], text) for d, text in mine] == [(d != pieces[0][0], text) for d, text in pieces]


def messages(units, direction, epoch):
    return [name for d, unit in units if d == direction and unit.kind == "handshake" and unit.info.epoch == epoch
            for name in unit.info.messages]


def test_the_epochs_of_tls_13(streams):
    _, units = play(streams[EARLY])
    assert messages(units, 0, "plain") == ["client_hello"]
    assert messages(units, 0, "early") == ["end_of_early_data"]
    assert messages(units, 0, "handshake") == ["finished"]
    assert messages(units, 1, "handshake") == ["encrypted_extensions", "finished"]
    assert messages(units, 1, "application") == ["new_session_ticket"]
    assert [(unit.info.epoch, unit.info.number) for d, unit in units if d == 0 and unit.kind == "data"] == [
        ("early", 0), ("application", 0)]
    _, units = play(streams[REFUSED])
    assert messages(units, 0, "early") == [] and "certificate" in messages(units, 1, "handshake")


def test_key_updates(streams):
    _, units = play(streams[KEY_UPDATES])
    assert messages(units, 0, "application").count("key_update") == 3
    assert messages(units, 1, "application").count("key_update") == 2
    numbers = [unit.info.number for d, unit in units if d == 0 and unit.info.epoch == "application"]
    assert numbers.count(0) == 4                            # each update begins to count anew


def test_a_retry_and_a_renegotiation(streams):
    _, units = play(streams[RETRY])
    assert messages(units, 0, "plain") == ["client_hello"] * 2 and messages(units, 1, "plain") == ["server_hello"] * 2
    _, units = play(streams[RENEGOTIATION])
    assert messages(units, 0, "sealed") == [
        "finished", "client_hello", "client_key_exchange", "finished", "client_hello"]      # the last one to no end
    assert "server_hello" in messages(units, 1, "sealed")


class Log(Module):
    protocol = "tls_data"

    def __init__(self):
        self.said = collections.defaultdict(bytes)

    def process(self, window):
        for unit in window.units:
            if unit.kind == "data":
                self.said[window.connection.b.port, window.direction] += bytes(unit.data or b"")


def test_through_the_engine(monkeypatch):
    monkeypatch.setenv("SSLKEYLOGFILE", str(KEYS))
    log = Log()
    with Engine() as engine:
        engine.add_port(CAPTURE)
        engine.attach(log)
        engine.run()
    assert log.said[4461, 0] == b"before\nbetween\nafter\nat last\n"
    assert log.said[4453, 1] == b"".join(line[-2::-1] + b"\n" for line in LINES)
    assert len(log.said) >= 2 * 20


ASKED_BY = ["smtp", "lmtp", "pop3", "imap", "ftp", "nntp", "sieve", "xmpp", "postgres", "mysql", "ldap"]


def test_behind_other_protocols(monkeypatch):
    monkeypatch.setenv("SSLKEYLOGFILE", str(DATA / "starttls.keys"))
    log = Log()
    with Engine() as engine:
        engine.add_port(DATA / "starttls.pcap")
        engine.attach(log)
        engine.run()
        assert engine.statistics()["tls_data_greeting"] >= len(ASKED_BY)
    for number, name in enumerate(ASKED_BY):
        for direction in (0, 1):                    # the servers send back what they got
            assert log.said[4500 + number, direction] == b"hello by %s\n" % name.encode()


@pytest.mark.parametrize("number", range(len(ASKED_BY)))
def test_behind_other_protocols_at_any_cut(tshark, number):
    class Decoder(TlsDataDecoder):
        keylog = DATA / "starttls.keys"

    def story(steps):
        """Join adjoining units of another protocol, which come as they are cut."""
        decoder, units = play(steps, Decoder())
        found = [(d, unit.end, unit.kind, unit.data) for d, unit in units if unit.kind != "other"]
        plain = [b"".join(unit.data for d, unit in units if (d, unit.kind) == (way, "other")) for way in (0, 1)]
        return found, plain, decoder.counters

    (steps,) = follow(tshark, DATA / "starttls.pcap", [number]).values()
    expected = story(steps)
    assert set(expected[2]) == {"greeting"} and [kind for _, _, kind, _ in expected[0]].count("data") == 2
    assert story([(d, piece[n:n + 1]) for d, piece in steps for n in range(len(piece))]) == expected
    for index, (direction, piece) in enumerate(steps):
        for cut in range(1, min(len(piece), 40)):
            assert story([*steps[:index], (direction, piece[:cut]), (direction, piece[cut:]), *steps[index + 1:]]) == expected


def test_another_protocol_without_end(monkeypatch):
    monkeypatch.setattr(tls_data, "PLAIN_LIMIT", 1000)
    decoder, units = play([(0, b"words " * 100)] * 3)
    assert decoder.counters == {"greeting": 1} and {unit.kind for _, unit in units} == {"other"}
    assert decoder.sides[0].searching and said(units) == b""


# ---- cuts and order --------------------------------------------------------------------------

@pytest.mark.parametrize("number", STREAMS)
def test_byte_by_byte(streams, number):
    single = [(d, piece[n:n + 1]) for d, piece in streams[number] for n in range(len(piece))]
    assert told(play(single)[1]) == told(play(streams[number])[1])


@pytest.mark.parametrize("number", [RESUMED, EARLY])
def test_at_every_cut(streams, number):
    steps = streams[number]
    expected = told(play(steps)[1])
    for index, (direction, piece) in enumerate(steps):
        for cut in range(1, len(piece)):
            cuts = [(direction, piece[:cut]), (direction, piece[cut:])]
            assert told(play(steps[:index] + cuts + steps[index + 1:])[1]) == expected


@pytest.mark.parametrize("number", [11, 12, 13, KEY_UPDATES, EARLY, RETRY])
def test_of_tls_13_the_client_alone_is_enough(streams, number):
    decoder, units = play([step for step in streams[number] if step[0] == 0])
    assert [unit.data for _, unit in units if unit.kind == "data"] == TYPED[number]
    assert decoder.counters == {}


def test_up_to_tls_12_both_hellos_are_needed(streams):
    decoder, units = play([step for step in streams[0] if step[0] == 0])
    assert said(units) == b"" and set(decoder.counters) == {"no_secret"}


# ---- gaps and damage -------------------------------------------------------------------------

def records(stream, direction):
    """Give the whole records of a direction, and its place in the story: [(index of step, record)]."""
    joined = [(d, piece) for d, piece in stream if d == direction]
    data, found, at = b"".join(piece for _, piece in joined), [], 0
    while at < len(data):
        end = at + 5 + int.from_bytes(data[at + 3:at + 5], "big")
        found.append(data[at:end])
        at = end
    return found


def in_turn(stream):
    """Give a stream as [(direction, whole record)], as its records were finished."""
    held, steps = [b"", b""], []
    for direction, piece in stream:
        held[direction] += piece
        while len(held[direction]) >= 5 and len(held[direction]) >= (
                end := 5 + int.from_bytes(held[direction][3:5], "big")):
            steps.append((direction, held[direction][:end]))
            held[direction] = held[direction][end:]
    return steps


@pytest.mark.parametrize("number", [0, 2, 3, 6, 8, 9, 11, 13, KEY_UPDATES])
def test_a_record_lost(streams, number):
    steps = in_turn(streams[number])
    _, units = play(steps)
    places = [n for n, (_, unit) in enumerate(units) if unit.kind == "data"]
    assert len(steps) == len(units)
    for place in places[:-1]:
        direction, record = steps[place]
        lossy = [*steps[:place], (direction, len(record)), *steps[place + 1:]]
        decoder, left = play(lossy)
        assert decoder.counters == ({"resync": 1} if any(d == direction for d, _ in steps[place + 1:]) else {})
        assert [unit.data for d, unit in left if unit.kind == "data"] == [
            unit.data for n, (d, unit) in enumerate(units) if unit.kind == "data" and n != place]


@pytest.mark.parametrize("number", [11, 12, 13])
def test_the_handshake_lost(streams, number):
    """The server's sealed handshake is lost: what is said under the next keys is opened all the same."""
    steps = in_turn(streams[number])
    _, units = play(steps)
    lossy = [(d, len(record)) if d == 1 and unit.info.epoch == "handshake" else (d, record)
             for (d, record), (_, unit) in zip(steps, units, strict=True)]
    _, left = play(lossy)
    assert said(left, 1) == said(units, 1) and said(left, 0) == said(units, 0)


def test_a_gap_inside_a_record(streams):
    steps = in_turn(streams[11])
    _, units = play(steps)
    place = next(n for n, (_, unit) in enumerate(units) if unit.kind == "data")
    direction, record = steps[place]
    decoder, left = play([*steps[:place], (direction, record[:9]), (direction, 7), (direction, record[16:]),
                          *steps[place + 1:]])
    assert [unit.kind for _, unit in left][place:place + 3] == ["other", "gap", "other"]
    assert said(left) == LINES[1] and decoder.counters == {"resync": 1}


def test_cut_in_a_record(streams):
    steps = in_turn(streams[11])
    place = [n for n, step in enumerate(steps) if step[0] == 0][-1]
    _, units = play([*steps[:place], (0, steps[place][1][:11])])
    assert units[-1][1].kind == "other" and units[-1][1].data == steps[place][1][:11]


def test_garbage_between_records(streams):
    steps = in_turn(streams[11])
    last = [n for n, step in enumerate(steps) if step[0] == 0][-1]
    decoder, units = play([*steps[:last], (0, b"no record at all"), *steps[last:]])
    assert decoder.counters == {"bad_record": 1, "resync": 1}
    assert [unit.kind for _, unit in units if unit.kind == "other"] == ["other"] and said(units) == b"".join(LINES)


def test_a_cipher_that_is_not_known(streams):
    at = next(n for n, (d, piece) in enumerate(streams[1]) if d == 1)
    _, piece = streams[1][at]
    place = 5 + 4 + 2 + 32 + 1 + piece[43]      # behind the session ID
    assert piece[place:place + 2] == b"\x00\x9d"
    decoder, units = play([*streams[1][:at], (1, piece[:place] + b"\x00\x0a" + piece[place + 2:]),
                           *streams[1][at + 1:]])
    assert set(decoder.counters) == {"unknown_cipher"} and {unit.kind for _, unit in units} >= {"record"}
    assert all(unit.data is None for _, unit in units if unit.kind == "record")


def test_a_wrong_secret(streams, tmp_path):
    text = KEYS.read_text()
    (tmp_path / "keys").write_text(re.sub(r"(?m)(.)$", lambda found: "0" if found[1] != "0" else "1", text))

    class Wrong(TlsDataDecoder):
        keylog = tmp_path / "keys"

    for number in (0, 5, 11):
        decoder, units = play(streams[number], Wrong())
        assert said(units) == said(units, 1) == b"" and set(decoder.counters) == {"undecryptable"}


def test_a_damaged_hello(streams):
    (direction, piece), *rest = streams[0]
    decoder, units = play([(direction, piece[:9] + bytes([piece[9]]) + piece[10:43] + b"\xff" + piece[44:]), *rest])
    assert decoder.counters["bad_hello"] == 1 and said(units) == b""


@given(data=st.data())
def test_damage_never_raises_and_nothing_false_comes_out(streams, data):
    number = data.draw(st.sampled_from([0, 2, 5, 8, 10, 11, KEY_UPDATES, RENEGOTIATION, RETRY, EARLY]))
    steps = [(d, bytearray(piece)) for d, piece in in_turn(streams[number])]
    truth = {unit.data for _, unit in play(streams[number])[1]}
    for _ in range(data.draw(st.integers(1, 6))):
        _, piece = steps[data.draw(st.integers(0, len(steps) - 1))]
        what = data.draw(st.sampled_from(["flip", "head", "cut"]))
        if what == "cut":
            del piece[data.draw(st.integers(0, len(piece))):]
        elif piece:
            piece[data.draw(st.integers(0, (len(piece) if what == "flip" else min(48, len(piece))) - 1))] = \
                data.draw(st.integers(0, 255))
    steps = [(d, bytes(piece)) for d, piece in steps]
    if data.draw(st.booleans()):
        steps.insert(data.draw(st.integers(0, len(steps))), (data.draw(st.integers(0, 1)), data.draw(st.integers(1, 5000))))
    _, units = play(steps)
    assert {unit.data for _, unit in units if unit.kind == "data"} <= truth


@given(st.lists(st.tuples(st.integers(0, 1), st.binary(max_size=80)), max_size=12), st.binary(max_size=60))
def test_any_records_never_raise(payloads, hello):
    steps = [(0, b"\x16\x03\x01" + (len(hello) + 4).to_bytes(2, "big") + b"\x01" + len(hello).to_bytes(3, "big") + hello)]
    for n, (direction, payload) in enumerate(payloads):
        steps.append((direction, bytes([20 + n % 5]) + b"\x03\x03" + len(payload).to_bytes(2, "big") + payload))
    play(steps)


# ---- key logs --------------------------------------------------------------------------------

def test_without_the_secret(streams, tmp_path):
    (tmp_path / "keys").write_text("")

    class Empty(TlsDataDecoder):
        keylog = tmp_path / "keys"

    for number in (0, 5, 11, EARLY):
        decoder, units = play(streams[number], Empty())
        assert said(units) == b"" and set(decoder.counters) == {"no_secret"}
        assert "handshake" in {unit.kind for _, unit in units}


def test_a_key_log_that_grows(streams, tmp_path):
    path = tmp_path / "keys"
    path.write_text("# a comment\n")

    class Growing(TlsDataDecoder):
        keylog = path

    assert said(play(streams[11], Growing())[1]) == b""
    decoder, steps = Growing(), in_turn(streams[11])
    at = [0, 0]
    texts = []
    for n, (direction, record) in enumerate(steps):
        if n == 4:
            path.write_text("# a comment\n" + KEYS.read_text()[:-1])       # the last line is not whole yet
        texts += [u.data for u in decoder.feed(direction, record, at[direction], 0) if u.kind == "data"]
        at[direction] += len(record)
    assert texts[0] == LINES[0] and len(texts) == 4


def test_lines_of_a_key_log(tmp_path):
    path = tmp_path / "keys"
    random, secret = bytes(range(32)), bytes(48)
    path.write_bytes(b"# text\n\nCLIENT_RANDOM %s %s\r\nCLIENT_RANDOM zz 00\nEXPORTER_SECRET %s 00\n\xff\xfe\nRSA x\n"
                     b"CLIENT_RANDOM 00" % (random.hex().encode(), secret.hex().encode(), random.hex().encode()))
    log = KeyLog(path)
    assert log.find(random, "CLIENT_RANDOM") == secret
    assert list(log.secrets) == [random] and list(log.secrets[random]) == ["CLIENT_RANDOM"]
    path.write_bytes(b"CLIENT_RANDOM 01 02\n")                               # begun anew
    assert log.find(b"\x01", "CLIENT_RANDOM") == b"\x02" and log.find(random, "CLIENT_RANDOM") == secret
    path.unlink()
    assert log.find(b"\x03", "CLIENT_RANDOM") is None


def test_a_key_log_is_read_once_and_bounded(tmp_path, monkeypatch):
    path = tmp_path / "keys"
    path.write_text("".join(f"CLIENT_RANDOM {n:04x} {n:04x}\n" for n in range(100)))
    monkeypatch.setattr(tls_data, "SESSION_LIMIT", 10)
    assert KeyLog.at(path) is KeyLog.at(str(path))
    assert KeyLog.at(path).find(b"\x00\x63", "CLIENT_RANDOM") == b"\x00\x63"
    assert len(KeyLog.at(path).secrets) == 10 and KeyLog.at(path).find(b"\x00\x00", "CLIENT_RANDOM") is None


# RFC 5246 gives no vectors for its function; these went round the TLS working group's list and are
# used by every implementation's tests (PRF with SHA-256).
def test_the_function_that_derives_keys():
    secret, seed = bytes.fromhex("9bbe436ba940f017b17652849a71db35"), bytes.fromhex("a0ba9f936cda311827a6f796ffd5198c")
    assert prf(0x0303, secret, b"test label" + seed, 100, "sha256").hex() == (
        "e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a6b301791e90d35c9c9a46b4e14baf9af0fa0"
        "22f7077def17abfd3797c0564bab4fbc91666e9def9b97fce34f796789baa48082d122ee42c5a72e5a5110fff70187347b66")


# ---- probing ---------------------------------------------------------------------------------

HELLO = bytes.fromhex("16030100c8010000c40303")
KNOWN = next(line.split()[1] for line in KEYS.read_text().splitlines() if line[0] != "#")     # a client's random
PROBES = [(HELLO, True), (b"\x16\x03\x03\x00\x10\x02\x00\x00", True), (HELLO[:5], None), (b"\x16", None), (b"", None),
          (b"\x16\x03\x09", None), (b"\x16\x03\x03\x00\x10\x0b\x00", None), (b"220 go ahead\r\n", None),
          (b"x" * 2048, False), (b"220 go ahead\r\n" + HELLO + bytes(60), False), (b"220 go ahead\r\n" + HELLO, False),
          (b"220 go ahead\r\n" + HELLO + bytes.fromhex(KNOWN), True)]


@pytest.mark.parametrize("data, expected", PROBES)
def test_probe(data, expected):
    assert Decoder.probe(memoryview(data), 0, 443) is expected


def test_without_a_key_log_tls_is_left_to_others(monkeypatch):
    monkeypatch.delenv("SSLKEYLOGFILE", raising=False)
    assert TlsDataDecoder.probe(HELLO, 0, 443) is False
    monkeypatch.setenv("SSLKEYLOGFILE", "/no/such/file")
    assert TlsDataDecoder.probe(HELLO, 0, 443) is True          # it may be written yet
    monkeypatch.setattr(tls_data, "Cipher", None)
    assert Decoder.probe(HELLO, 0, 443) is False


def test_a_key_log_that_was_named_must_exist():
    class Missing(TlsDataDecoder):
        keylog = "/no/such/file"

    with pytest.raises(RuntimeError, match="/no/such/file"):
        Missing.probe(HELLO, 0, 443)


def test_every_counter_is_described():
    page = (DATA.parent.parent / "docs" / "decoders.md").read_text()
    section = re.search(r"^## TLS with a key log\n(.*?)^## ", page, re.M | re.S)[1]
    for reason in REASONS:
        assert f"`{reason}`" in section
