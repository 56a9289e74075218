"""What modules see behind an editor, and behind what a snap length cut off: units, offsets, windows."""
import flowos
from conversations import datagram, records, run_in_line
from flowos.registry import find_module
from models import build
from models.talk import Talk


def run(folder, packets, *modules, **config):
    """Run records through modules in line; give what left."""
    return [frame for _, frame in run_in_line(folder, packets, *modules, **config)[0]]


class Edit(flowos.Module):
    """Does what a function says to each window."""

    mode = flowos.RDWR

    def __init__(self, protocol, do):
        self.protocol, self.do = protocol, do

    def process(self, window):
        self.do(window)


class Units(flowos.Module):
    """Writes down windows and their units."""

    def __init__(self, protocol, hold=False):
        self.protocol, self.hold_all, self.windows = protocol, hold, []

    hold = 600.0

    def process(self, window):
        self.windows.append((window.head, window.tail, bytes(window.data),
                             [(unit.offset, unit.end, bytes(unit.data)) for unit in window.units if unit.length]))
        window.release(upto=window.head if self.hold_all and not window.complete else window.tail)


def test_a_datagram_replaced_behind_one_that_was_dropped_is_seen_once(tmp_path):
    def change(window):
        if window.data == b"first":
            window.delete(window.head, window.tail)
        elif window.data == b"second":
            window.replace(window.head, window.tail, b"2")

    units = Units("udp")
    left = run(tmp_path, [datagram(word, at=i) for i, word in enumerate([b"first", b"second", b"third"])], Edit("udp", change), units)
    assert [unit[2] for window in units.windows for unit in window[3]] == [b"2", b"third"]
    assert [frame[42:] for frame in left] == [b"2", b"third"]


def test_units_behind_an_editor_are_at_offsets_of_the_window(tmp_path):
    """So that a unit's range may be edited: what is deleted here is the second segment, as the editor left it."""
    def grow(window):
        for span in window.find(b"one"):
            window.replace(span, b"one and a half ")

    def drop_second(window):
        for unit in window.units:
            if bytes(unit.data) == b"two ":
                window.delete(unit.offset, unit.end)

    talk = Talk().open().a(0, b"one", ack=0).a(3, b"two ", ack=0).a(7, b"three", ack=0).b(0, ack=12)
    units = Units("tcp")
    left = run(tmp_path, records(talk), Edit("tcp", grow), units, Edit("tcp", drop_second))
    assert [unit for window in units.windows for unit in window[3]] == [
        (0, 15, b"one and a half "), (15, 19, b"two "), (19, 24, b"three")]
    assert b"".join(frame[54:] for frame in left) == b"one and a half three"


def test_a_body_whose_beginning_an_earlier_module_took_away(tmp_path):
    """A removal from the head into the body: the next module sees the rest of it, at its place."""
    message = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nabcdefghijkl"
    talk = Talk().open().a(0, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", ack=0).b(0, message, ack=27)
    body = message.index(b"abc")

    def cut(window):
        if window.direction:
            window.delete(window.head + 10, window.head + body + 4)

    units = Units("http.body")
    run(tmp_path, records(talk), Edit("tcp", cut), units)
    assert [window[:3] for window in units.windows if window[2]] == [(10, 18, b"efghijkl")]


def test_windows_of_datagrams_that_a_snap_length_cut(tmp_path):
    """What was cut off counts in the window's range, as a gap does; what came behind it is there."""
    whole = [datagram(bytes([65 + i]) * 100, at=i) for i in range(3)]
    packets = [(ts, frame[:42 + 30], len(frame)) for ts, frame in whole]
    for hold in (False, True):
        units = Units("udp", hold)
        left = run(tmp_path, packets, units, batch=1, deliver_units=1)
        run(tmp_path, packets, Units("udp", hold))     # in one window, whose tail is an offset that it knows
        head, tail, data, _ = units.windows[-1]
        assert (head, tail, data) == ((0, 230, b"A" * 30 + b"B" * 30 + b"C" * 30) if hold else (200, 230, b"C" * 30))
        assert left == [frame for _, frame, _ in packets]


def test_shipped_editors_let_pass_what_is_tunnelled(tmp_path):
    """They cannot edit it, and it is no error: what is tunnelled leaves as it came."""
    talk = Talk().open().a(0, b"GET / HTTP/1.1\r\nHost: h\r\nCookie: c\r\n\r\n", ack=0)
    talk.b(0, b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nSECRET", ack=38)
    ends = ("192.0.2.1", "192.0.2.2")
    packets = [(ts, build.ethernet(build.ipv4(*ends, 4, frame[14:]))) for ts, frame, *_ in records(talk)]
    strip = find_module("http_strip")(b"SECRET", identity=True)
    modules = [*strip.companions(), strip, find_module("http_header")(remove=["Cookie"]),
               find_module("replace")(b"SECRET", b"***", "tcp"), find_module("rate_limit")(1, 1)]
    firewall, records_of = find_module("firewall")(default="drop"), []
    firewall.emit = records_of.append
    assert run(tmp_path, packets, *modules, firewall) == [frame for _, frame in packets]
    # Of the two connections the tunnel itself can be dropped, had it not brought what it holds along.
    assert firewall.counts["drop"] == len(records_of)
