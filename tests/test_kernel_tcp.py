"""Edited streams judged by the kernel's own TCP; and first of all, that the judge can be trusted.

The upper half needs no editor: the impairments do what they say, a plain forwarder between the
hosts passes, and a forwarder that edits wrongly, loses or invents bytes is found out.  The lower
half edits: by a proxy, which shows that each case can be met, and with FlowOS in line.  One run
costs 0.05 s on a good network and 0.1 to 0.3 s on a bad one.
"""
import functools
import os
import random
import socket

import pytest
from editscript import Edit, Scripted, edited, random_script
from hypothesis import given
from hypothesis import strategies as st
from impaired import DropAt, Impairment, Narrow, segment_in
from kernel_tcp import Forwarder, InLine, Network, Program, bad_network
from terminating import Stage, Terminating

from flowos import Engine, Module
from flowos.core.repack import rewrite

# Random runs in the default profile; soak does 1,000 more.  TCP_SEEDS="1007 1011" repeats some of them, and
# TCP_RECORD=FOLDER keeps captures of both sides of what fails, TCP_PATIENCE=SECONDS gives up sooner.
SEEDS = [int(seed) for seed in os.environ.get("TCP_SEEDS", "").split()] or range(30)


@pytest.fixture(scope="module")
def network(root):
    """Two hosts for all the runs of this file."""
    with Network() as made:
        yield made


# ------------------------------------------------------------------------------ the model

SCRIPTS = st.builds(random_script, st.integers(0, 10 ** 6), st.just(200), st.integers(0, 12), st.sampled_from([3, 30]))


@given(SCRIPTS)
def test_the_model_against_one_that_goes_byte_by_byte(script):
    data, out, removing = bytes(range(200)), [], set()
    for edit in script:
        removing.update(range(edit.position, edit.position + edit.removed))
    inserted = {edit.position: edit.inserted for edit in script}
    for place in range(201):
        out += inserted.get(place, b"")
        if place < 200 and place not in removing:
            out.append(data[place])
    assert edited(data, script) == bytes(out)


@given(SCRIPTS, st.lists(st.integers(0, 200), max_size=20), st.one_of(st.none(), st.integers(0, 99)), st.booleans())
def test_a_script_is_carried_out_whatever_the_windows(script, cuts, seed, fin_apart):
    data, out, at = bytes(range(200)), b"", 0
    stage = Stage(Scripted(script, seed=seed, hold_most=50), 0)
    for cut, complete in [*((cut, False) for cut in sorted(cuts)), *[(200, False)] * fin_apart, (200, True)]:
        out += stage.feed(data[at:cut], complete)
        at = cut
    assert out == edited(data, script)


# ------------------------------------------------------------------------------ the impairments

def through(impairment, count=2000, step=0.001):
    """Send numbered frames through an impairment: a list of (time, number) as they come out, and the last due ones."""
    out, now = [], 0.0
    for number in range(count):
        now = number * step
        impairment.offer(now, number)
        out += [(now, frame) for frame in impairment.take(now)]
    while impairment.next_due is not None:
        now = max(now, impairment.next_due)
        out += [(now, frame) for frame in impairment.take(now)]
    return out


def test_a_good_network_changes_nothing():
    assert through(Impairment(seed=1)) == [(n * 0.001, n) for n in range(2000)]


def test_loss_duplication_and_reordering_are_as_frequent_as_asked():
    impairment = Impairment(seed=1, loss=0.1, duplicate=0.05, reorder=0.1)
    numbers = [number for _, number in through(impairment)]
    counts = impairment.counts
    assert 140 < counts["lost"] < 260 and 60 < counts["duplicated"] < 140 and 140 < counts["reordered"] < 260
    assert len(set(numbers)) == 2000 - counts["lost"]
    assert len(numbers) - len(set(numbers)) == counts["duplicated"] and counts["given"] == len(numbers)
    first = list(dict.fromkeys(numbers))
    assert sum(later < earlier for earlier, later in zip(first, first[1:])) > 100


def test_delay_and_jitter_keep_the_order():
    out = through(Impairment(seed=1, delay=0.01, jitter=0.02))
    assert [number for _, number in out] == list(range(2000))
    waits = [time - number * 0.001 for time, number in out]
    assert min(waits) >= 0.01 - 1e-9 and max(waits) <= 0.031 + 0.001 and max(waits) - min(waits) > 0.01


def test_the_same_seed_does_the_same():
    def one(seed):
        return through(Impairment(seed=seed, loss=0.1, duplicate=0.1, reorder=0.1, jitter=0.01))
    assert one(5) == one(5) != one(6)


# ------------------------------------------------------------------------------ the judge

class SameLength:
    """Edit frames one by one, by position, where that is possible: what is inserted is as long as what goes."""

    def __init__(self, forth, back):
        self.scripts, self.origins, self.rewritten = (forth, back), [None, None], 0

    def __call__(self, side, frame):
        segment = segment_in(frame)
        if segment is None:
            return [frame]
        flags, sequence, size = segment
        if flags & 2:
            self.origins[side] = sequence + 1
        begin = (sequence - self.origins[side]) & 0xffffffff
        made = bytearray(frame)
        start = len(frame) - size
        for edit in self.scripts[side]:
            for place in range(max(begin, edit.position), min(begin + size, edit.position + edit.removed)):
                made[start + place - begin] = edit.inserted[place - edit.position]
        if made == frame:
            return [frame]
        self.rewritten += 1
        return [mended(bytes(made))]


def mended(frame):
    """Make the checksums of a frame right."""
    from flowos.core.repack import rebuild
    *_, size = segment_in(frame)
    return rebuild(frame, frame[len(frame) - size:])


def same_length_script(seed, size, count=20):
    rng = random.Random(seed)
    return [edit._replace(inserted=rng.randbytes(edit.removed)) for edit in random_script(seed, size, count) if edit.removed]


@pytest.mark.live
@pytest.mark.parametrize("version", [4, 6])
def test_a_forwarder_passes(network, version):
    run = network.check(Program(1, 400_000), Program(2, 300_000), [], [], Forwarder(), version=version)
    assert run.counts["lost"] == run.counts["duplicated"] == 0 < run.counts["given"]


@pytest.mark.live
def test_a_forwarder_passes_without_relays(network):
    network.check(Program(1, 4_000_000), Program(2, 3_000_000), [], [], Forwarder(), None)


@pytest.mark.live
def test_bad_networks_are_bad_and_survived(network):
    counts, again = dict.fromkeys(Impairment().counts, 0), 0
    for seed in range(10):
        run = network.check(Program(seed, 100_000), Program(seed + 50, 100_000), [], [], Forwarder(), bad_network(seed))
        counts = {name: counts[name] + count for name, count in run.counts.items()}
        again += run.client.retransmitted + run.server.retransmitted
    assert min(counts["lost"], counts["duplicated"], counts["reordered"]) > 20 and again > 20


@pytest.mark.live
@pytest.mark.parametrize("seed", range(5))
def test_right_edits_pass_on_bad_networks_and_wrong_ones_are_found(network, seed):
    client, server = Program(seed, 60_000), Program(seed + 9, 60_000)
    forth, back = same_length_script(seed, 60_000), same_length_script(seed + 9, 60_000)
    editor = SameLength(forth, back)
    network.check(client, server, forth, back, Forwarder(editor), bad_network(seed))
    assert editor.rewritten > 10
    place = forth[3].position
    wrong = [edit._replace(inserted=bytes([edit.inserted[0] ^ 1]) + edit.inserted[1:]) if n == 3 else edit
             for n, edit in enumerate(forth)]
    with pytest.raises(AssertionError, match=rf"server received 60000 bytes.* from byte {place} on"):
        network.check(client, server, forth, back, Forwarder(SameLength(wrong, back)), bad_network(seed))


@pytest.mark.live
def test_a_wrong_checksum_is_not_forgiven(network):
    def spoil(side, frame):
        segment = segment_in(frame)
        return [frame if side or not segment or not segment[2] else frame[:-1] + bytes([frame[-1] ^ 1])]
    with pytest.raises(AssertionError, match="server ended with 'timeout'"):
        network.check(Program(1, 1000), Program(2, 0), [], [], Forwarder(spoil), seconds=1)


@pytest.mark.live
def test_edits_of_another_length_need_more_than_a_forwarder(network):
    from flowos.core.repack import rebuild

    def shorten(side, frame):
        segment = segment_in(frame)
        if side or not segment or segment[2] < 2:
            return [frame]
        return [rebuild(frame, frame[len(frame) - segment[2]:-1])]
    with pytest.raises(AssertionError, match="server received"):
        network.check(Program(1, 20_000), Program(2, 0), [Edit(10_000, 1)], [], Forwarder(shorten), seconds=1)


@pytest.mark.live
def test_programs_do_as_they_say(network):
    # asks, waits for the answer, asks again; the other end answers each question
    client = Program(1, 300, [("send", 100), ("await", 50_000), ("send", 200), ("shutdown",)])
    server = Program(2, 60_000, [("await", 100), ("send", 50_000), ("await", 300), ("sleep", 0.1), ("send", 10_000),
                                 ("shutdown",)], [("read", 100), ("sleep", 0.1)])
    run = network.check(client, server, [], [], Forwarder())
    assert run.seconds > 0.2
    with pytest.raises(AssertionError, match="timeout"):     # each waits for the other
        network.check(Program(1, 10, [("await", 1), ("send", 10)]), Program(2, 10, [("await", 1), ("send", 10)]), [], [],
                      Forwarder(), seconds=0.5)


@pytest.mark.live
def test_a_reset_is_told_from_an_end(network):
    run = network.run(Program(1, 5000, [("send", 5000), ("await", 1), ("reset",)]),
                      Program(2, 1, [("await", 5000), ("send", 1), ("await", 9999)]), Forwarder())
    assert (run.server.end, run.client.end, run.server.received) == ("reset", "closed", Program(1, 5000).content)
    run = network.run(Program(1, 9), Program(2, 9), Forwarder(lambda side, frame: []), seconds=0.5)
    assert (run.client.end, run.server.end) == ("timeout", "timeout")


@pytest.mark.live
def test_segments_of_choice_are_lost(network):
    drop = DropAt(30_000, times=3)
    run = network.check(Program(1, 60_000), Program(2, 0), [], [], Forwarder(), [Impairment(drop=drop)])
    assert drop.dropped == run.counts["dropped"] == 3 <= run.client.retransmitted


@pytest.mark.live
@pytest.mark.parametrize("version, mtu", [(4, 1000), (6, 1300)])
def test_a_narrow_link_is_heeded(network, version, mtu):
    narrow = Narrow(mtu)
    network.check(Program(1, 100_000), Program(2, 0), [], [], Forwarder(), [None, None, None, Impairment(drop=narrow)], version=version)
    assert 0 < narrow.dropped < 30


@pytest.mark.live
def test_frames_are_rewritten_by_difference_alone(network):
    # both hosts speak of other sequence numbers, and neither notices
    def shift(side, frame):
        segment = segment_in(frame)
        if segment is None:
            return [frame]
        flags, sequence, _ = segment
        tcp = 34 if frame[12] == 8 else 54
        acknowledged = int.from_bytes(frame[tcp + 8:tcp + 12], "big")
        edges = {}
        if side == 0:
            edges["seq"] = sequence + 12345
        elif flags & 16:
            edges["ack"] = acknowledged - 12345
        return [rewrite(frame, **edges)] if edges else [frame]
    network.check(Program(1, 200_000), Program(2, 200_000), [], [], Forwarder(shift), sysctls={"ipv4.tcp_sack": 0})


# ------------------------------------------------------------------------------ streams edited

in_line_only = pytest.mark.skipif(not hasattr(Engine, "connect"), reason="this engine does not connect ports yet")


def by_proxy(network, *modules, config=None, **_):
    """Edit by a proxy: shows that a test asks what can be done."""
    return Terminating(network, *(module for module, _ in modules))


def by_flowos(network, *modules, **options):
    """Edit with FlowOS in line."""
    return InLine(*modules, **options)


#: Every test below is made of both.
both = pytest.mark.parametrize("editor", [by_proxy, pytest.param(by_flowos, marks=in_line_only)])
QUIET = Program(99, 0)
SMALL = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)]
TEXT = b"something that was not there before"


class Reader(Module):
    """Read a stream in pieces, keeping some of it back, and remember it."""

    protocol, hold, hold_bytes = "tcp", 600.0, 64 << 20

    def __init__(self, seed):
        self.random, self.seen = random.Random(seed), [b"", b""]

    def process(self, window):
        upto = window.tail
        if not window.complete:
            upto = self.random.randint(max(window.head, upto - 3000), upto)
        start = len(self.seen[window.direction])
        self.seen[window.direction] += bytes(window.data)[start - window.head:upto - window.head]
        window.release(upto=upto)


CASES = {
    # name: (client, server, forth, back, options of Network.check and of Scripted)
    "nothing is edited": (Program(1, 90_000), Program(2, 90_000), [], [], {}),
    "append, FIN in the same segment":
        (Program(1, 5000, [("more", 5000), ("shutdown",)]), QUIET, [Edit(5000, 0, TEXT)], [], {}),
    "append, FIN in the next segment":
        (Program(1, 5000, [("send", 5000), ("sleep", 0.1), ("shutdown",)]), QUIET, [Edit(5000, 0, TEXT)], [], {}),
    "append to nothing": (Program(1, 0), QUIET, [Edit(0, 0, TEXT)], [], {}),
    "append much": (Program(1, 5000), QUIET, [Edit(5000, 0, TEXT * 3000)], [], {}),
    "insert before the first byte":
        (Program(1, 5000), Program(2, 5000), [Edit(0, 0, TEXT)], [Edit(0, 0, TEXT * 100)], {}),
    "insert before the first byte, the rest coming late":
        (Program(1, 20, [("send", 1), ("sleep", 0.2), ("send", 19), ("shutdown",)]), QUIET, [Edit(0, 0, TEXT)], [], {}),
    "delete the last byte": (Program(1, 5000), QUIET, [Edit(4999, 1)], [], {}),
    "delete the last byte, FIN in the next segment":
        (Program(1, 5000, [("send", 5000), ("sleep", 0.1), ("shutdown",)]), QUIET, [Edit(4999, 1)], [], {}),
    "delete everything":
        (Program(1, 50_000), Program(2, 5000), [Edit(0, 50_000)], [Edit(0, 5000)], {}),
    "delete all but the ends": (Program(1, 200_000), QUIET, [Edit(1, 199_998)], [], {}),
    "replace everything": (Program(1, 50_000), QUIET, [Edit(0, 50_000, TEXT * 2000)], [], {}),
    "hole under a writer, filled late":
        (Program(1, 60_000), QUIET, random_script(3, 60_000, 40), [],
         dict(impair=lambda: [Impairment(drop=DropAt(3000, 4, 6000))])),
    "insertion lost while the connection is idle":
        (Program(1, 2000, [("send", 1000), ("await", 10), ("send", 1000), ("shutdown",)]),
         Program(2, 10, [("await", 1000 + len(TEXT)), ("send", 10), ("shutdown",)]),
         [Edit(1000, 0, TEXT, eager=True)], [],
         dict(impair=lambda: [None, None, None, Impairment(drop=DropAt(1000, 3, 1000 + len(TEXT)))])),
    "appended bytes lost":
        (Program(1, 2000), QUIET, [Edit(2000, 0, TEXT * 100)], [],
         dict(impair=lambda: [None, None, None, Impairment(drop=DropAt(2100, 3))])),
    "SACK around a replacement":
        (Program(1, 300_000), QUIET, [Edit(40_000, 3000, TEXT * 200), Edit(60_000, 9000, b"x")], [],
         dict(impair=lambda: [None, None, None, Impairment(drop=DropAt(40_500, 2, 46_000), delay=0.002)])),
    "SACK around a deletion, lost on both sides":
        (Program(1, 300_000), QUIET, [Edit(40_000, 20_000)], [],
         dict(impair=lambda: [Impairment(drop=DropAt(50_000, 2)), None, None, Impairment(drop=DropAt(40_000, 2), delay=0.002)])),
    "a receiver's window overrun by insertions":
        (Program(1, 50_000), Program(2, 0, read=[("read", 100), ("sleep", 0.3)], options=SMALL),
         [Edit(place, 0, bytes([place >> 8]) * 30_000) for place in range(0, 50_000, 5000)], [], {}),
    "a window that stays shut":
        (Program(1, 50_000), Program(2, 0, read=[("sleep", 1.0)], options=SMALL), [Edit(10, 0, TEXT * 1000)], [], {}),
    "half-close":
        (Program(1, 3000), Program(2, 200_000, [("await", 3000 - 10), ("send", 200_000), ("shutdown",)]),
         [Edit(100, 10)], random_script(4, 200_000, 50), {}),
    "idle past its time-out after an edit":
        (Program(1, 4000, [("send", 2000), ("sleep", 2.5), ("send", 2000), ("shutdown",)]),
         Program(2, 4000, [("send", 2000), ("sleep", 2.5), ("send", 2000), ("shutdown",)]),
         [Edit(1000, 5, TEXT)], [Edit(10, 300)], dict(config=dict(timeout_tcp=1.0))),
    "a host without SACK": (Program(1, 200_000), Program(2, 200_000), random_script(5, 200_000, 40),
                            random_script(6, 200_000, 40),
                            dict(impair=lambda: bad_network(5), sysctls={"ipv4.tcp_sack": 0})),
    "a host without time stamps": (Program(1, 200_000), Program(2, 200_000), random_script(7, 200_000, 40),
                                   random_script(8, 200_000, 40),
                                   dict(impair=lambda: bad_network(7), sysctls={"ipv4.tcp_timestamps": 0})),
    "a host without window scaling": (Program(1, 200_000), Program(2, 200_000), random_script(9, 200_000, 40),
                                      random_script(10, 200_000, 40),
                                      dict(impair=lambda: bad_network(9), sysctls={"ipv4.tcp_window_scaling": 0})),
    "IPv6": (Program(1, 200_000), Program(2, 200_000), random_script(11, 200_000, 40), random_script(12, 200_000, 40),
             dict(impair=lambda: bad_network(11), version=6)),
    "a narrow link behind the editor":
        (Program(1, 200_000), Program(2, 50_000), [Edit(0, 0, TEXT * 20), *random_script(15, 200_000, 40)[1:]], [],
         dict(impair=lambda: [None, None, None, Impairment(drop=Narrow(1000))])),
    "a narrow link behind the editor, IPv6":
        (Program(1, 200_000), Program(2, 50_000), [Edit(0, 0, TEXT * 20), *random_script(15, 200_000, 40)[1:]], [],
         dict(impair=lambda: [None, None, None, Impairment(drop=Narrow(1300))], version=6)),
    "a narrow link in front of the editor":
        (Program(1, 50_000), Program(2, 200_000), [], random_script(15, 200_000, 40),
         dict(impair=lambda: [None, Impairment(drop=Narrow(1000))])),
    "small segments": (Program(1, 60_000, options=[(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 100)]), Program(2, 60_000),
                       random_script(13, 60_000, 60), random_script(14, 60_000, 60), {}),
}


@pytest.mark.live
@both
@pytest.mark.parametrize("name", CASES)
def test_case(network, name, editor):
    client, server, forth, back, options = CASES[name]
    options = dict(options)
    impair, config = options.pop("impair", list)(), options.pop("config", None)
    run = network.check(client, server, forth, back, editor(network, (Scripted(forth, back), 1), config=config), impair, **options)
    drops = [part.drop.dropped for part in impair if part is not None and part.drop is not None]
    assert 0 not in drops and run.counts["dropped"] == sum(drops)      # the case took place


@pytest.mark.live
@in_line_only
def test_in_line_on_interfaces(network):
    forth, back = random_script(1, 4_000_000, 300), random_script(2, 3_000_000, 300)
    network.check(Program(1, 4_000_000), Program(2, 3_000_000), forth, back, by_flowos(network, (Scripted(forth, back), 1)),
                  None)


@pytest.mark.live
@both
def test_a_held_request_while_the_response_flows(network, editor):
    forth, passed = [Edit(100, 10, TEXT)], [0]

    def until(direction, window):
        if direction:
            passed[0] = window.tail
        return not direction and passed[0] < 300_000
    network.check(Program(1, 1000, [("send", 500), ("await", 400_000), ("send", 500), ("shutdown",)]),
                  Program(2, 400_000), forth, [], editor(network, (Scripted(forth, [], until=until), 1)))


@pytest.mark.live
@in_line_only
@pytest.mark.parametrize("end", ["eof", "reset"])
def test_detach_of_an_edited_connection(network, end):
    # what was edited stays edited, what comes after the detach is left alone, and all of it is in one stream
    forth, back = random_script(1, 5000, 10), random_script(2, 5000, 10)
    done = [len(edited(bytes(5000), script)) for script in (forth, back)]
    module = Scripted(forth, back)

    def each(middle, now):
        if middle.attachments and module.next == [len(forth), len(back)]:
            middle.engine.detach(middle.attachments.pop())
    last = ("shutdown",) if end == "eof" else ("reset",)
    client = Program(1, 10_000, [("send", 5000), ("await", done[1]), ("send", 5000), ("await", done[1] + 5000), last])
    server = Program(2, 10_000, [("send", 5000), ("await", done[0]), ("send", 5000), ("await", done[0] + 5000),
                                 ("sleep", 0.1), ("shutdown",)])
    middle = InLine((module, 1), each=each)
    if end == "eof":
        network.check(client, server, forth, back, middle, bad_network(3, level=0.5))
    else:
        run = network.run(client, server, middle)
        assert run.server.received == edited(client.content, forth)
        assert run.client.received == edited(server.content, back)
        assert run.server.end == "reset"
    assert not middle.attachments


@pytest.mark.live
@both
@pytest.mark.parametrize("seed", range(3))
def test_overlapping_readers_before_a_writer_and_one_behind(network, seed, editor):
    forth, back = random_script(seed, 100_000, 30), random_script(seed + 5, 100_000, 30)
    client, server = Program(seed, 100_000), Program(seed + 5, 100_000)
    first, second, behind = Reader(1), Reader(2), Reader(3)
    middle = editor(network, (first, 1), (second, 1), (Scripted(forth, back, seed=seed), 2), (behind, 3))
    network.check(client, server, forth, back, middle, bad_network(seed))
    assert first.seen == second.seen == [client.content, server.content]
    assert behind.seen == [edited(client.content, forth), edited(server.content, back)]


@pytest.mark.live
@both
@pytest.mark.parametrize("seed", range(3))
def test_two_writers(network, seed, editor):
    client, server = Program(seed, 80_000), Program(seed + 5, 80_000)
    forth, back = random_script(seed, 80_000, 30), random_script(seed + 5, 80_000, 30)
    once, once_back = edited(client.content, forth), edited(server.content, back)
    again, again_back = random_script(seed + 20, len(once), 30), random_script(seed + 25, len(once_back), 30)
    middle = editor(network, (Scripted(forth, back, seed=seed), 1), (Scripted(again, again_back, seed=seed + 1), 2))
    run = network.run(client, server, middle, bad_network(seed))
    assert (run.server.end, run.client.end) == ("eof", "eof")
    assert run.server.received == edited(once, again) and run.client.received == edited(once_back, again_back)


@pytest.mark.live
@both
@pytest.mark.parametrize("seed", range(4))
def test_resets(network, seed, editor):
    forth, back = random_script(seed, 50_000, 20), random_script(seed + 5, 50_000, 20)
    client = Program(seed, 50_000, [("send", 50_000), ("await", 20_000), ("reset",)])
    server = Program(seed + 5, 50_000, [("send", 50_000), ("await", 10 ** 9)])
    run = network.run(client, server, editor(network, (Scripted(forth, back), 1)), bad_network(seed, level=0.3 if seed else 0))
    assert run.server.end == "reset"
    assert edited(client.content, forth).startswith(run.server.received)
    assert edited(server.content, back).startswith(run.client.received)


def random_run(network, seed, editor):
    """Make up a run from a seed and check it."""
    rng = random.Random(seed)

    def program(other):
        size = int(10 ** rng.uniform(0, 5.3))
        write, left = [], size
        while left and rng.random() < 0.5:
            part = rng.randint(1, left)
            write += [("more" if rng.random() < 0.2 else "send", part)] + [("sleep", rng.uniform(0, 0.02))] * rng.randint(0, 1)
            left -= part
        write += [("send", left)] * bool(left) + [("sleep", 0.03)] * (rng.random() < 0.2) + [("shutdown",)]
        read = [("read", rng.randint(1, 5000)), ("sleep", 0.05)] if rng.random() < 0.2 else []
        options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)] * rng.randint(0, 1)
        options += [(socket.SOL_SOCKET, socket.SO_RCVBUF, rng.choice([4096, 20_000]))] * (rng.random() < 0.2)
        options += [(socket.IPPROTO_TCP, socket.TCP_MAXSEG, rng.choice([100, 536, 1200]))] * (rng.random() < 0.2)
        return Program(rng.random(), size, write, read, options)
    client, server = program(0), program(1)
    forth, back = (random_script(rng.random(), each.size, rng.choice([0, 1, 5, 40]), rng.choice([30, 3000]))
                   for each in (client, server))
    sysctls = {f"ipv4.tcp_{name}": 0 for name in ("sack", "timestamps", "window_scaling") if rng.random() < 0.15}
    middle = editor(network, (Scripted(forth, back, seed=rng.choice([None, seed])), 1))
    network.check(client, server, forth, back, middle, bad_network(seed), version=rng.choice([4, 6]), sysctls=sysctls)


@pytest.mark.live
@pytest.mark.parametrize("seed", range(5))
def test_random_by_proxy(network, seed):
    random_run(network, seed, by_proxy)


@pytest.mark.live
@in_line_only
@pytest.mark.parametrize("seed", SEEDS)
def test_random(network, seed):
    random_run(network, seed, by_flowos)


@pytest.mark.live
@in_line_only
@pytest.mark.parametrize("seed", [2000 + seed for seed in SEEDS][:10])
def test_random_on_a_thread(network, seed):
    """The editor has a thread of its own: what it was lent stands still until it comes back."""
    random_run(network, seed, functools.partial(by_flowos, threads="own"))


@pytest.mark.live
@pytest.mark.soak
@in_line_only
@pytest.mark.parametrize("hundred", range(10))
def test_a_thousand_random_runs(network, hundred):
    for seed in range(1000 + 100 * hundred, 1100 + 100 * hundred):
        try:
            random_run(network, seed, by_flowos)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


@pytest.mark.live
@pytest.mark.soak
@in_line_only
@pytest.mark.parametrize("bad", [False, True])
def test_hundreds_of_megabytes(network, bad):
    size = 300 << 20
    client, server = Program(1, size), Program(2, size // 2)
    forth, back = random_script(1, size, 20_000), random_script(2, size // 2, 20_000)
    network.check(client, server, forth, back, by_flowos(network, (Scripted(forth, back), 1)),
                  bad_network(8, level=0.2) if bad else [], seconds=900)


@pytest.mark.live
@pytest.mark.soak
@in_line_only
def test_long_idle(network):
    pause = [("send", 2000), ("sleep", 90), ("send", 2000), ("shutdown",)]
    forth, back = [Edit(1000, 5, TEXT), Edit(3000, 9)], [Edit(10, 300), Edit(4000, 0, TEXT)]
    network.check(Program(1, 4000, pause), Program(2, 4000, pause), forth, back,
                  by_flowos(network, (Scripted(forth, back), 1)), seconds=150)
