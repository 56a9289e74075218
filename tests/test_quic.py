"""The QUIC decoder: packets of the RFCs' examples, recorded connections, hellos in pieces, damage.

tests/data/quic.pcap was recorded from aioquic; its key log, which the endpoint wrote, has the random of
every hello, and tshark reads the headers.  What nobody sends is encrypted here by RFC 9001 section 5.
"""
import collections
import itertools
import re
import subprocess
from pathlib import Path

import dpkt
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from flowos import Engine, Module
from flowos.decoders import quic, tls
from flowos.decoders.quic import REASONS, VERSIONS, Handshake, Keys, QuicDecoder, parse_hello, retry_is_sound

DATA = Path(__file__).parent / "data"
V1, V2 = 1, 0x6b3343cf
CID = bytes.fromhex("8394c8f03e515708")         # of the RFCs' examples


def varint(value):
    size = next(n for n in range(4) if value < 1 << 8 * 2 ** n - 2)
    return (value | size << 8 * 2 ** size - 2).to_bytes(2 ** size, "big")


def crypto(offset, data):
    return b"\x06" + varint(offset) + varint(len(data)) + data


def initial(payload, number=0, version=V1, dcid=CID, scid=b"scid", cid=CID, sender="client in", token=b""):
    """Protect an Initial packet."""
    keys = Keys(version, cid, sender)
    payload += bytes(max(0, 20 - len(payload)))
    first = 0xc1 | VERSIONS[version].types.index("initial") << 4
    header = bytes([first]) + version.to_bytes(4, "big") + bytes([len(dcid)]) + dcid + bytes([len(scid)]) + scid
    header += varint(len(token)) + token + varint(len(payload) + 2 + 16) + number.to_bytes(2, "big")
    nonce = (int.from_bytes(keys.iv, "big") ^ number).to_bytes(12, "big")
    sealed = AESGCM(keys.key).encrypt(nonce, payload, header)
    mask = Cipher(algorithms.AES(keys.hp), modes.ECB()).encryptor().update(sealed[2:18])
    end = bytes(a ^ b for a, b in zip(header[-2:], mask[1:], strict=False))
    return bytes([header[0] ^ mask[0] & 15]) + header[1:-2] + end + sealed


def read(path):
    """Yield (ends of the datagram as (source, destination) ports, payload) of a capture's UDP datagrams."""
    with open(path, "rb") as file:
        reader = (dpkt.pcapng if path.suffix == ".pcapng" else dpkt.pcap).Reader(file)
        for _, frame in reader:
            udp = dpkt.ethernet.Ethernet(frame).data.data
            yield (udp.sport, udp.dport), bytes(udp.data)


def connections(path):
    """Give {(client's port, server's port): [(direction, payload)]} of a capture."""
    found = {}
    for (source, target), payload in read(path):
        if (target, source) in found:
            found[target, source].append((1, payload))
        else:
            found.setdefault((source, target), []).append((0, payload))
    return found


def play(datagrams, decoder=None):
    """Feed datagrams and finish: (decoder, units).  Each byte must be in exactly one unit, in order."""
    decoder, at, units = decoder or QuicDecoder(), [0, 0], []
    for direction, payload in datagrams:
        place = at[direction]
        for unit in decoder.feed(direction, payload, place, 0):
            assert unit.start == place <= unit.end
            assert unit.data == payload[unit.start - at[direction]:unit.end - at[direction]] or unit.start == unit.end
            units.append((direction, unit))
            place = unit.end
        at[direction] += len(payload)
        assert place == at[direction]
    for direction in (0, 1):
        assert decoder.finish(direction, at[direction], 0) == []
    assert set(decoder.counters) <= set(REASONS)
    return decoder, units


def kinds(units):
    return [unit.kind for _, unit in units]


def hellos(units):
    return [unit.info for _, unit in units if unit.kind.endswith("_hello")]


# ---- the RFCs' examples ----------------------------------------------------------------------

SERVER_INITIAL = {                              # RFC 9001 appendix A.3, RFC 9369 appendix A.3
    V1: (
        "cf000000010008f067a5502a4262b5004075c0d95a482cd0991cd25b0aac406a5816b6394100f37a1c69797554780bb3"
        "8cc5a99f5ede4cf73c3ec2493a1839b3dbcba3f6ea46c5b7684df3548e7ddeb9c3bf9c73cc3f3bded74b562bfb19fb84"
        "022f8ef4cdd93795d77d06edbb7aaf2f58891850abbdca3d20398c276456cbc42158407dd074ee"),
    V2: (
        "dc6b3343cf0008f067a5502a4262b5004075d92faaf16f05d8a4398c47089698baeea26b91eb761d9b89237bbf872630"
        "17915358230035f7fd3945d88965cf17f9af6e16886c61bfc703106fbaf3cb4cfa52382dd16a393e42757507698075b2"
        "c984c707f0a0812d8cd5a6881eaf21ceda98f4bd23f6fe1a3e2c43edd9ce7ca84bed8521e2e140")}
SERVER_PAYLOAD = (
        "02000000000600405a020000560303eefce7f7b37ba1d1632e96677825ddf73988cfc79825df566dc5430b9a045a1200"
        "130100002e00330024001d00209d3c940d89690b84d08a60993c144eca684d1081287c834d5311bcf32bb9da1a002b00"
        "020304")
RETRY = {V1: "ff000000010008f067a5502a4262b5746f6b656e04a265ba2eff4d829058fb3f0f2496ba",
         V2: "cf6b3343cf0008f067a5502a4262b5746f6b656ec8646ce8bfe33952d955543665dcc7b6"}


@pytest.mark.parametrize("version", [V1, V2])
def test_the_examples_of_the_rfcs(version):
    packet = bytes.fromhex(SERVER_INITIAL[version])
    info, place, end = quic.read_packet(packet, 0)
    assert (info.type, info.dcid, info.scid.hex(), end) == ("initial", b"", "f067a5502a4262b5", len(packet))
    number, payload = Keys(version, CID, "server in").open(packet, place, -1)
    assert (number, payload.hex()) == (1, SERVER_PAYLOAD)
    assert Keys(version, CID, "client in").open(packet, place, -1) is None
    retry = bytes.fromhex(RETRY[version])
    info, _, _ = quic.read_packet(retry, 0)
    assert (info.type, info.token) == ("retry", b"token")
    assert retry_is_sound(VERSIONS[version], retry, CID)
    assert not retry_is_sound(VERSIONS[version], retry, CID[::-1])


def test_keys_of_the_rfcs():                    # RFC 9001 appendix A.1, RFC 9369 appendix A.1
    keys = Keys(V1, CID, "client in")
    assert (keys.key.hex(), keys.hp.hex()) == ("1f369613dd76d5467730efcbe3b1a22d", "9f50449e04a0e810283a1e9933adedd2")
    keys = Keys(V2, CID, "client in")
    assert (keys.key.hex(), keys.iv.hex()) == ("8b1a0bc121284290a29e0971b5cd045d", "91f73e2351d8fa91660e909f")


@pytest.mark.parametrize("text, value", [("c2197c5eff14e88c", 151288809941952652), ("9d7f3e7d", 494878333),
                                         ("7bbd", 15293), ("25", 37), ("4025", 37)])
def test_numbers_of_the_rfc(text, value):       # RFC 9000 appendix A.1
    assert quic.Cursor(bytes.fromhex(text)).varint() == value


# ---- recorded connections --------------------------------------------------------------------

NAMES = ["v1", "retry", "v2", "negotiated", "upgraded", "retry2", "long"]
TYPES = {"v1": ["initial", "client_hello"], "retry": ["initial", "client_hello", "retry", "initial", "client_hello"],
         "v2": ["initial", "client_hello"], "retry2": ["initial", "client_hello", "retry", "initial", "client_hello"],
         "negotiated": ["initial", "client_hello", "version_negotiation", "initial", "client_hello"],
         "upgraded": ["initial", "client_hello", "initial", "server_hello"],
         "long": ["initial", "initial", "client_hello", "initial", "initial", "server_hello"]}


@pytest.fixture(scope="module")
def recorded():
    """{name: (datagrams, decoder, units)} of the recorded connections."""
    found = {}
    for datagrams in connections(DATA / "quic.pcap").values():
        decoder, units = play(datagrams)
        found[hellos(units)[0].sni.split(".")[0]] = datagrams, decoder, units
    assert sorted(found) == sorted(NAMES)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_connection(recorded, name):
    _, decoder, units = recorded[name]
    # When the version changes in the middle, this client seals one more packet, marked version 2, with
    # the keys of version 1.
    assert decoder.counters == ({"undecryptable": 1} if name == "upgraded" else {})
    assert [kind for kind in kinds(units) if kind != "padding"][:len(TYPES[name])] == TYPES[name]
    assert {"handshake", "one_rtt", "server_hello"} <= set(kinds(units))
    first, *_, last = hellos(units)
    assert (first.kind, first.sni, first.versions) == ("client", f"{name}.flowos.example", [0x0304])
    assert (last.kind, last.versions, last.damaged) == ("server", [0x0304], False)
    assert first.alpn[-1] == "h3" and len(first.alpn) == (61 if name == "long" else 1)
    scid = next(unit.info.scid for _, unit in units)
    assert first.transport_parameters[15] == scid       # initial_source_connection_id
    # Behind the handshake packets bear the IDs that the sides gave each other first, or later ones.
    ids = [unit.info.dcid for d, unit in units if unit.kind == "one_rtt" and d == 1]
    assert ids and set(ids) <= {scid, None}


def test_the_keys_were_logged_for_these_hellos(recorded):
    logged = {line.split()[1] for line in (DATA / "quic.keys").read_text().splitlines()}
    for _, _, units in recorded.values():
        # A client that was sent back by a negotiation or a Retry logs nothing for its first hello.
        last = [hello for hello in hellos(units) if hello.kind == "client"][-1]
        assert last.random.hex() in logged
        logged.discard(last.random.hex())
    assert not logged


def test_versions_change(recorded):
    versions = {name: [unit.info.version for _, unit in units if unit.kind == "initial"]
                for name, (_, _, units) in recorded.items()}
    assert set(versions["v1"]) == {V1} and set(versions["v2"]) == {V2}
    assert versions["negotiated"][0] == V1 and set(versions["negotiated"][1:]) == {V2}
    assert versions["upgraded"][:2] == [V1, V2]
    (_, unit), = [u for u in recorded["negotiated"][2] if u[1].kind == "version_negotiation"]
    assert V2 in unit.info.versions and V1 not in unit.info.versions


@pytest.mark.parametrize("name", ["retry", "retry2"])
def test_a_retry(recorded, name):
    datagrams, _, units = recorded[name]
    (_, retry), = [u for u in units if u[1].kind == "retry"]
    assert retry.info.sound is True
    again = [unit for direction, unit in units if unit.kind == "initial" and direction == 0][1]
    assert again.info.dcid == retry.info.scid and again.info.token == retry.info.token != b""
    broken = [(d, p[:-1] + bytes([p[-1] ^ 1]) if p == retry.data else p) for d, p in datagrams]
    decoder, units = play(broken)
    assert decoder.counters == {"bad_retry": 1}
    assert [u.info.sound for _, u in units if u.kind == "retry"] == [False]


def test_headers_are_as_tshark_reads_them(recorded, tshark):
    done = subprocess.run(
        [tshark, "-r", str(DATA / "quic.pcap"), "-T", "fields", "-e", "udp.srcport", "-e",
         "udp.dstport", "-e", "quic.long.packet_type", "-e", "quic.long.packet_type_v2", "-e", "quic.version",
         "-e", "quic.dcid", "-e", "quic.scid"], capture_output=True, text=True, timeout=300, check=True)
    theirs = []
    for line in done.stdout.splitlines():
        source, target, old, new, versions, dcids, scids = line.split("\t")
        if versions:
            words = [int(word) for word in filter(None, f"{old},{new}".split(","))]
            theirs.append((int(source), int(target), words, [int(v, 0) for v in versions.split(",")],
                           dcids.split(","), scids.split(",")))
    mine = []
    decoders, at = {}, collections.Counter()
    for (source, target), payload in read(DATA / "quic.pcap"):
        ends = min((source, target), (target, source), key=lambda pair: pair[1])
        packets = [unit.info for unit in decoders.setdefault(ends, QuicDecoder()).feed(
            int((source, target) == ends), payload, at[source, target], 0) if isinstance(unit.info, quic.QuicPacket)]
        at[source, target] += len(payload)
        ids = [packet.dcid.hex() for packet in packets if packet.dcid]
        packets = [packet for packet in packets if packet.version is not None]
        if packets:
            types = [VERSIONS[p.version].types.index(p.type) for p in packets if p.version]
            mine.append((source, target, types, [p.version for p in packets], ids,
                         [p.scid.hex() for p in packets]))
    assert len(theirs) == len(mine) > 30
    for their, my in zip(theirs, mine, strict=True):
        if my[2]:
            assert their == my
        else:                                   # of a negotiation tshark prints a type, which says nothing
            assert their[:2] == my[:2] and their[4:] == my[4:]


def test_one_hello_gives_one_fingerprint(recorded):
    for _, _, units in recorded.values():
        for _, unit in units:
            if unit.kind.endswith("_hello"):
                other = tls.parse_hello(b"\x16\x03\x01" + len(unit.data).to_bytes(2, "big") + unit.data)
                mine = unit.info
                assert (other.sni, other.alpn, other.ciphers, other.cipher, other.extensions, other.random) == (
                    mine.sni, mine.alpn, mine.ciphers, mine.cipher, mine.extensions, mine.random)
                assert mine.ja4 == (other.ja4 and "q" + other.ja4[1:])
    assert re.fullmatch(r"q13d\d{4}h3_[0-9a-f]{12}_[0-9a-f]{12}", hellos(recorded["v1"][2])[0].ja4)


def test_a_shared_capture(shared_pcaps):
    (datagrams,) = connections(shared_pcaps / "ndpi_quic_frags_ch_in_multiple_packets.pcapng").values()
    decoder, units = play(datagrams)
    assert decoder.counters == {}
    assert kinds(units) == ["initial", "initial", "client_hello", "initial", "initial", "server_hello", "handshake"]
    hello, _ = hellos(units)
    assert hello.alpn[0] == "h3-34" and hello.sni is None
    assert hello.ja4 == "q00i0307h4_55b375c5d22e_af0a630e9e67"      # nDPI's result for this capture


class Names(Module):
    protocol = "quic"

    def __init__(self):
        self.found = []

    def process(self, window):
        for unit in window.units:
            if unit.kind == "client_hello":
                self.found.append(unit.info.sni)


def test_through_the_engine():
    names = Names()
    with Engine() as engine:
        engine.add_port(DATA / "quic.pcap")
        engine.attach(names)
        engine.run()
    assert set(names.found) == {f"{name}.flowos.example" for name in NAMES}


# ---- hellos in pieces ------------------------------------------------------------------------

def client_hello(recorded, name="long"):
    return next(unit.data for _, unit in recorded[name][2] if unit.kind == "client_hello")


@given(data=st.data())
def test_a_hello_in_any_pieces_and_order(recorded, data):
    message = client_hello(recorded)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(message) - 1), max_size=12)) | {0, len(message)})
    pieces = [crypto(a, message[a:b]) for a, b in itertools.pairwise(cuts)]
    if data.draw(st.booleans()):                # sent again, cut otherwise
        a, b = sorted(data.draw(st.tuples(st.integers(0, len(message)), st.integers(0, len(message)))))
        pieces.append(crypto(a, message[a:b]))
    pieces = data.draw(st.permutations(pieces))
    datagrams, number = [], 0
    while pieces:
        datagram = b""
        for _ in range(data.draw(st.integers(1, 3))):       # coalesced packets
            take = data.draw(st.integers(min(1, len(pieces)), len(pieces)))
            filler = data.draw(st.sampled_from([b"", b"\x01", bytes(7), b"\x02\x00\x00\x00\x00"]))
            datagram += initial(filler.join([b"", *pieces[:take]]) + filler + b"\x01", number)
            pieces, number = pieces[take:], number + 1
        datagrams.append((0, datagram))
    decoder, units = play(datagrams)
    assert [unit.data for _, unit in units if unit.kind == "client_hello"] == [message]
    assert kinds(units).count("initial") == number
    assert set(decoder.counters) <= {"cut_hello"}           # what is sent again behind the whole may stay


@pytest.mark.parametrize("cut", range(1, 1600, 7))
def test_a_hello_cut_in_two(recorded, cut):
    message = client_hello(recorded)
    first, second = initial(crypto(0, message[:cut])), initial(crypto(cut, message[cut:]), 1)
    for datagrams in ([(0, first), (0, second)], [(0, second), (0, first)], [(0, first + second)]):
        _, units = play(datagrams)
        assert [unit.data for _, unit in units if unit.kind == "client_hello"] == [message]


def test_a_hello_that_never_comes_whole(recorded):
    decoder, units = play([(0, initial(crypto(0, client_hello(recorded)[:900])))])
    assert kinds(units) == ["initial"] and decoder.counters == {"cut_hello": 1}


def test_a_second_hello_after_a_retry_request(recorded):
    message = client_hello(recorded)
    _, units = play([(0, initial(crypto(0, message))), (0, initial(crypto(len(message), message), 1))])
    assert kinds(units) == ["initial", "client_hello", "initial", "client_hello"]


def test_ports_are_used_again(recorded):
    datagrams = recorded["v1"][0] + recorded["v2"][0]
    decoder, units = play(datagrams)
    names = [hello.sni for hello in hellos(units) if hello.kind == "client"]
    assert names == ["v1.flowos.example", "v2.flowos.example"]
    assert decoder.counters == {}


# ---- damage and limits -----------------------------------------------------------------------

def test_a_server_alone_cannot_be_opened(recorded):
    datagrams = [(d, p) for d, p in recorded["v1"][0] if d == 1]
    decoder, units = play(datagrams)
    assert decoder.counters["undecryptable"] >= 1 and hellos(units) == []


def test_without_the_package_for_decryption(recorded, monkeypatch):
    monkeypatch.setattr(quic, "AESGCM", None)
    decoder, units = play(recorded["retry"][0])
    assert set(decoder.counters) == {"no_cryptography"}
    assert hellos(units) == [] and {"initial", "retry", "one_rtt"} <= set(kinds(units))


def test_an_error_is_told():
    _, units = play([(0, initial(b"\x1c" + varint(0x128) + b"\x00" + b"\x02no"))])
    (_, unit), = units
    assert unit.info.error == 0x128 and unit.info.frames == ("connection_close", "padding")


@pytest.mark.parametrize("frames", [
    b"\x04", b"\x06\x00\x44\x00abc", b"\x02\x00", b"\x02\x00\x00\x3f\x00", b"\x1d\x00\x00"])
def test_bad_frames(frames):
    decoder, units = play([(0, initial(b"\x01" * 20 + frames))])
    assert kinds(units) == ["initial"] and decoder.counters == {"bad_frame": 1}


def test_crypto_beyond_the_limits():
    decoder, _ = play([(0, initial(crypto(quic.CRYPTO_LIMIT - 1, b"ab") + crypto(1 << 40, b"x")))])
    assert decoder.counters == {"crypto_limit": 2}
    frames = b"".join(crypto(2 * n + 1, b"x") for n in range(quic.RANGE_LIMIT + 3))
    decoder, _ = play([(0, initial(frames))])
    assert decoder.counters == {"crypto_limit": 3, "cut_hello": 1}


def test_no_more_keys_are_tried_than_allowed(monkeypatch):
    made = []
    monkeypatch.setattr(quic, "Keys", lambda *arguments: made.append(arguments) or Keys(*arguments))
    packet = initial(b"\x01")
    bad = packet[:-1] + bytes([packet[-1] ^ 1])
    decoder, _ = play([(0, bad)] * 50)
    assert decoder.counters == {"undecryptable": 50} and len(made) == quic.KEY_LIMIT


def test_other_messages_and_damaged_hellos():
    decoder, units = play([(0, initial(crypto(0, b"\x08\x00\x00\x02ab" + b"\x01\x00\x00\x03\x03\x03a")))])
    assert kinds(units) == ["initial", "client_hello"] and decoder.counters == {"bad_hello": 2}
    assert hellos(units)[0].damaged and hellos(units)[0].legacy_version == 0x0303


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 40)), max_size=60))
def test_bytes_are_put_in_order(pieces):
    stream, whole, came = Handshake(), bytes(range(256)) + bytes(range(256)), set()
    for start, size in pieces:
        assert stream.add(start, whole[start:start + size])
        came |= set(range(start, start + size))
    covered = {n for a, b in stream.ranges for n in range(a, b)}
    assert covered == came and len(stream.ranges) <= len(pieces)
    assert all(stream.data[n] == whole[n] for n in came)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(stream.ranges))


@given(data=st.data())
def test_damage_never_raises(recorded, data):
    datagrams = [(d, bytearray(p)) for d, p in recorded[data.draw(st.sampled_from(NAMES))][0][:6]]
    for _ in range(data.draw(st.integers(1, 8))):
        _, payload = data.draw(st.sampled_from(datagrams))
        what = data.draw(st.sampled_from(["flip", "cut", "head"]))
        if what == "cut":
            del payload[data.draw(st.integers(1, max(1, len(payload)))):]
        elif payload:
            payload[data.draw(st.integers(0, len(payload) - 1 if what == "flip" else min(40, len(payload) - 1)))] = \
                data.draw(st.integers(0, 255))
    for direction, payload in datagrams:
        QuicDecoder.probe(memoryview(bytes(payload))[:2048], direction, 443)
    play([(direction, bytes(payload)) for direction, payload in datagrams])


@given(data=st.data())
def test_damage_behind_the_keys_never_raises(recorded, data):
    message = bytearray(crypto(0, client_hello(recorded, "v1")))
    for _ in range(data.draw(st.integers(1, 6))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    _, units = play([(0, initial(bytes(message)))])
    for hello in hellos(units):
        assert hello.kind == "server" or len(hello.ja4) == 36


@given(st.binary(max_size=300))
def test_a_hello_of_any_bytes_never_raises(data):
    for first in (b"\x01", b"\x02"):
        parse_hello(first + data)
        hello = parse_hello(first + len(data).to_bytes(3, "big") + data)
        assert hello.ja4 is None if first == b"\x02" else len(hello.ja4) >= 36


# ---- probing ---------------------------------------------------------------------------------

GREASED = b"\xc0\x1a\x2a\x3a\x4a\x08" + CID + b"\x04scid" + bytes(1200)
PROBES = [
    (bytes.fromhex(SERVER_INITIAL[V1]), True), (bytes.fromhex(SERVER_INITIAL[V2]), True),
    (bytes.fromhex(RETRY[V1]), True), (initial(b"\x01"), True), (b"\x80\x00\x00\x00\x00\x00\x00" + V1.to_bytes(4, "big"), True),
    (b"\x80\x00\x00\x00\x00\x00\x00" + b"what", False), (b"\x80\x00\x00\x00\x00\x00\x00\x00\x00", False),
    (GREASED, True), (GREASED[:1199], False), (b"", False), (b"\xc0", False), (initial(b"\x01")[:20], False),
    (b"\x40" + bytes(1300), False), (b"\x80" + initial(b"\x01")[1:], False),
    (b"\x80\x00\x00\x01" + bytes(60), False),                               # RTP
    (b"\x16\xfe\xff" + bytes(60), False), (bytes.fromhex("1234010000010000000000000161036f72670000010001"), False),
]


@pytest.mark.parametrize("data, expected", PROBES)
def test_probe(data, expected):
    assert QuicDecoder.probe(memoryview(data)[:2048], 0, 443) is expected


def test_what_was_recorded_is_found(recorded):
    for datagrams, _, _ in recorded.values():
        assert QuicDecoder.probe(memoryview(datagrams[0][1])[:2048], 0, 443) is True


def test_every_counter_is_described():
    page = (DATA.parent.parent / "docs" / "decoders.md").read_text()
    section = re.search(r"^## QUIC\n(.*?)^## ", page, re.M | re.S)[1]
    for reason in REASONS:
        assert f"`{reason}`" in section
