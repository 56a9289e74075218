"""`flowos.testing` finds modules that depend on how TCP cuts a stream, and its packets are what tshark says they are."""
import ipaddress
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

import flowos
from flowos import packets
from flowos.testing import Conversation, choose, play, read_streams, run, talk, turns
from models import build


class Whole(flowos.Module):
    """A module with no fault: counts a word wherever it is cut."""

    def __init__(self, word=b"word"):
        self.word, self.count = word, 0

    def process(self, window):
        self.count += sum(1 for _ in window.find(self.word))
        window.release(keep=window.partial(self.word))

    def closed(self, connection, reason):
        self.emit({"count": self.count})


class Cut(Whole):
    """The same with the usual fault: it looks at each window alone."""

    def process(self, window):
        self.count += bytes(window.data).count(self.word)


class Greedy(flowos.Module):
    """An editor with a fault: it deletes a byte of each window."""

    mode = flowos.RDWR

    def process(self, window):
        if window.length:
            window.delete(window.head, window.head + 1)


def test_a_right_module_passes_at_every_cut():
    done = run(Whole, a=b"a word and a word", b=[b"word", b"wo"], reorder=4)
    assert done.records == [{"count": 3}]
    assert (done.a, done.b) == (b"a word and a word", b"wordwo")
    assert run(Whole, a=b"-x-", word=b"x").records == [{"count": 1}]
    assert run(lambda: Whole(b"x"), a=b"-x-").module.count == 1


@pytest.mark.parametrize("wrong", [Cut, Greedy])
def test_a_module_that_depends_on_the_cut_is_found_and_the_cut_named(wrong):
    with pytest.raises(AssertionError, match=r"cut turn 0 at byte \d+.*without cuts"):
        run(wrong, a=b"a word")
    run(wrong, a=b"a word", cuts="none")


def test_every_cut_is_tried_and_few_of_many():
    said = turns(b"abcd", [b"xy"])
    assert choose(said, "none") == []
    assert choose(said, [1, 3]) == [{(0, 1), (1, 1)}, {(0, 3)}]
    singles = [{(0, 1)}, {(0, 2)}, {(0, 3)}, {(1, 1)}]
    assert choose(said, "all") == [*singles, set().union(*singles)]
    many = choose(turns(bytes(5000), b""), "all")
    assert len(many) == 401 and many[0] == {(0, 1)} and many[-2] == {(0, 4999)}


@given(st.binary(min_size=1, max_size=60), st.binary(max_size=60), st.sets(st.integers(1, 59), max_size=9), st.integers(0, 99))
def test_a_conversation_carries_what_was_said_however_cut_and_shuffled(a, b, cuts, seed):
    said = turns(a, b)
    conversation = talk(said, {(turn, cut) for turn in range(len(said)) for cut in cuts}, seed)
    assert read_streams(conversation.packets) == (a, b)
    times = [ts for ts, _ in conversation.packets]
    assert times == sorted(times) and all(packets.valid(frame) for _, frame in conversation.packets)


@given(st.booleans(), st.binary(max_size=80), st.integers(0, 2**32 - 1), st.integers(1, 65535))
def test_packets_are_those_of_another_builder(six, payload, seq, port):
    a, b = (("2001:db8::1", port), ("2001:db8::2", 80)) if six else (("10.0.0.1", port), ("10.0.0.2", 80))
    ours = packets.ethernet(packets.tcp(a, b, seq, 7, payload=payload))
    theirs = build.ethernet(build.ip(a, b, build.TCP, build.tcp(a, b, seq, 7, packets.ACK, payload)))
    assert ours[14:20] + ours[24:] == theirs[14:20] + theirs[24:] or six is False
    assert ours[34 + 20 * six:] == theirs[34 + 20 * six:]
    datagram = packets.ethernet(packets.udp(a, b, payload))
    assert datagram[34 + 20 * six:] == build.udp(a, b, payload)
    assert packets.valid(ours) and packets.valid(datagram)
    flipped = bytearray(datagram)
    flipped[-1] ^= 0x10
    assert not packets.valid(bytes(flipped))
    assert ipaddress.ip_address(a[0]).packed in ours


def test_tshark_finds_nothing_to_complain_of(tshark, tmp_path):
    from anomalies import anomalies

    Conversation().open().a(b"x" * 5000).b(b"y" * 3000, mss=100).close().save(tmp_path / "one.pcap")
    Conversation(("2001:db8::1", 5), ("2001:db8::2", 6)).open().a(b"z").reset(1).save(tmp_path / "two.pcap")
    for name in ("one.pcap", "two.pcap"):
        found = anomalies(tshark, tmp_path / name)
        assert not found
    done = subprocess.run([tshark, "-r", tmp_path / "one.pcap", "-q", "-z", "conv,tcp"], capture_output=True, text=True, check=True)
    assert "10.0.0.1:40000" in done.stdout


def test_what_a_module_raises_is_raised():
    class Bad(flowos.Module):
        def process(self, window):
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        play(Bad(), talk(turns(b"x", b"")).packets)


@pytest.mark.parametrize("call, words", [
    (lambda window: window.find("a"), "find: 'a' is text, expected bytes, as in b'a'"),
    (lambda window: window.find(7), "find: 7, expected bytes"),
    (lambda window: window.replace(window.head, window.tail, 7), "replace: 7, expected bytes"),
    (lambda window: window.insert(window.head, "a"), "insert: 'a' is text"),
])
def test_texts_and_numbers_are_no_bytes(call, words):
    class Wrong(flowos.Module):
        mode = flowos.RDWR

        def process(self, window):
            call(window)

    with pytest.raises(flowos.UsageError, match=words):
        run(Wrong, a=b"abc", cuts="none")
