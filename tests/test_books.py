"""The books of what came and what left balance: connections dropped while something is held, fragments, cut packets, split ones."""
import pytest

import flowos
from conversations import datagram, in_fragments, records, run_in_line
from flowos.cli.run_report import books
from models.talk import Talk


def run(folder, packets, *modules, **config):
    """Run records through modules in line: what left, and the counters; the books are checked."""
    left, counters = run_in_line(folder, packets, *modules, isolate=True, **config)
    told = books(counters)
    assert told["left"] == len(left) == sum(told[way] for way in ("unchanged", "rewritten", "edited", "made"))
    assert counters["packets"] + told["made"] == told["left"] + sum(told["stayed"].values()), told
    return left, counters


class Grip(flowos.Module):
    """Holds all it is lent, and ends the connection when a word is there."""

    protocol, mode, hold = "tcp", flowos.RDWR, 600.0

    def __init__(self, way):
        self.way = way

    def process(self, window):
        if b"stop" in bytes(window.data):
            if self.way == "raise":
                raise ValueError("stop")
            getattr(window.connection, self.way)()
        window.release(upto=window.head)


@pytest.mark.parametrize("way", ["drop", "reset", "raise"])
@pytest.mark.parametrize("batch", [1, 3, 256])
def test_a_connection_that_is_dropped_while_its_packets_are_held(tmp_path, way, batch):
    """What was held, what waits for earlier bytes and what comes later stays, each packet under the reason `dropped`."""
    talk = Talk().open().a(0, b"one ", ack=0).b(0, ack=4).a(9, b"late", ack=0).a(4, b"stop ", ack=0).b(0, b"yes", ack=13)
    talk.a(13, ack=3, flags="F").b(3, ack=14, flags="F")
    module = Grip(way)
    module.fail = "close"
    left, counters = run(tmp_path, records(talk), module, batch=batch)
    # Behind the handshake nothing leaves but what tells the ends.
    made = counters["merged_made"]
    assert made <= 2 and counters["merged_dropped"] == len(talk.packets) - (len(left) - made)
    assert counters["merged_dropped"] >= 5


class Shorten(flowos.Module):
    """Drops datagrams that say so, and cuts others to their first bytes."""

    protocol, mode = "udp", flowos.RDWR

    def process(self, window):
        if window.data[:4] == b"drop":
            window.delete(window.head, window.tail)
        elif window.data[:4] == b"trim":
            window.delete(window.head + 10, window.tail)


def test_fragments_of_datagrams_that_are_edited_or_dropped(tmp_path):
    packets = in_fragments([datagram(word + bytes(60), at=i) for i, word in enumerate([b"drop", b"keep", b"trim"])], 24)
    left, counters = run(tmp_path, packets, Shorten())
    assert counters["merged_dropped"] == counters["merged_edited"] == 1
    assert counters["merged_unchanged"] == 3 and len(left) == 4 and counters["merged_joined"] == 4


class Insert(flowos.Module):
    """Puts bytes in front of each window that has some."""

    protocol, mode = "tcp", flowos.RDWR

    def process(self, window):
        if window.length:
            window.insert(window.head, b"++")


def test_a_packet_cut_before_its_payload_leaves_although_a_module_may_edit(tmp_path):
    """Picked up in mid-stream it waits for where its stream begins, and brings no bytes."""
    cut = [(ts, frame[:54], len(frame)) for ts, frame, *_ in records(Talk().a(0, bytes(500), ack=0))]
    left, _ = run(tmp_path, cut, Grip("drop"))
    assert [frame for _, frame in left] == [frame for _, frame, _ in cut]


def test_a_syn_that_leaves_apart_from_its_data_is_one_packet_made(tmp_path):
    talk = Talk().a(-1, b"hello", flags="S").b(flags="SA", ack=5).a(5, ack=0)
    left, counters = run(tmp_path, records(talk), Insert())
    assert len(left) == 4 and counters["merged_made"] == counters["merged_edited"] == 1


def test_a_segment_that_leaves_in_two_pieces_is_one_packet_edited(tmp_path):
    """Its middle came before, ahead of earlier bytes, and won: what leaves of it is two packets, one of them made."""
    talk = Talk().open().a(4, b"45", ack=0).a(2, b"234567", ack=0).a(0, b"01", ack=0).b(0, ack=8)
    left, counters = run(tmp_path, records(talk), Scatter())
    assert len(left) == 8 and (counters["merged_edited"], counters["merged_made"]) == (3, 1)


class Scatter(flowos.Module):
    """Replaces each byte by two."""

    protocol, mode = "tcp", flowos.RDWR

    def process(self, window):
        for at in range(window.head, window.tail):
            window.replace(at, at + 1, b"--")
