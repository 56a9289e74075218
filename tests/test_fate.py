"""Connections that a module ends: what matches, what leaves, what the ends are told."""
import pytest

import flowos
from conversations import exchanges, save
from flowos.packets import ACK, RST, SYN, Conversation, ethernet, tcp, valid
from flowos.testing import play

MATCHES = ["tcp", "udp", "tcp,tp_dst=80", "ip,nw_src=10.0.0.0/8", "tcp6", "udp6,tp_dst=53", "tcp,tcp_flags=+syn-ack", "in_port=1",
           "icmp", "tcp,tp_src=0x8000/0x8000", "dl_type=0x86dd", "ip,nw_ttl=64"]


class Fate(flowos.Module):
    """Ends connections by a method's name, at the opening or once so many bytes came."""

    protocol, mode = "tcp", flowos.RDWR

    def __init__(self, what, after=0):
        self.what, self.after, self.answers = what, after, []

    def opened(self, connection):
        if not self.after:
            self.answers.append(getattr(connection, self.what)())

    def process(self, window):
        if self.after and window.direction == 0 and window.tail >= self.after:
            self.answers.append(getattr(window.connection, self.what)())


@pytest.mark.parametrize("name", ["pcapplusplus_many-protocols.pcap", "ndpi_alexa-app.pcapng", "zeek_mixed-vlan-mpls.pcap"])
def test_a_match_says_what_the_classifier_says(shared_pcaps, name):
    for text in MATCHES:
        told = []

        class Ask(flowos.Module):
            protocol = "transport"

            def opened(self, connection):
                told.append((connection.matches(text), connection.matches(flowos.core.match.Match(text)), connection.flow == "asked"))  # noqa: B023

        with flowos.Engine(flowos.Config.offline()) as engine:
            engine.add_port(shared_pcaps / name)
            engine.create_flow("asked", text)
            engine.attach(Ask())
            engine.run()
        assert told and all(a == b == c for a, b, c in told), text


def test_without_flows_and_after_the_end_the_ends_decide(tmp_path):
    kept = []

    class Keep(flowos.Module):
        def opened(self, connection):
            kept.append((connection, connection.matches("tcp,tp_dst=80"), connection.matches("tcp,tp_dst=81")))

    with flowos.Engine() as engine:
        engine.add_port(save(tmp_path, exchanges(1)))
        engine.attach(Keep())
        engine.run()
    connection, yes, no = kept[0]
    assert yes and not no and connection.matches("ip,nw_src=10.1.0.0/16") and not connection.matches("udp")
    with pytest.raises(flowos.UsageError):
        connection.matches("tcq")
    for method in (connection.drop, connection.reset):
        with pytest.raises(flowos.StaleError, match="has ended"):
            method()


def test_dropped_from_the_first_packet_nothing_leaves():
    fate = Fate("drop")
    done = play(fate, Conversation().open().a(b"hello").b(b"there").close().packets)
    assert done.packets == [] and fate.answers == [True]
    assert done.statistics["merged_dropped"] == 8 and done.statistics["merged_packets"] == 0


def test_dropped_in_the_middle_what_left_has_left():
    packets = Conversation().open().a(b"hello").b(b"there").a(b"more").close().packets
    done = play(Fate("drop", after=9), packets, config=flowos.Config.offline(batch=1, deliver_units=1))
    assert done.packets == packets[:len(done.packets)] and 5 <= len(done.packets) < len(packets)


def numbers(frame):
    """Give (source port, sequence number, acknowledgement, flags) of an IPv4 frame."""
    return (int.from_bytes(frame[34:36], "big"), int.from_bytes(frame[38:42], "big"), int.from_bytes(frame[42:46], "big"), frame[47])


def test_a_syn_is_answered_by_a_reset_alone():
    a, b = ("10.0.0.1", 40000), ("10.0.0.2", 80)
    done = play(Fate("reset"), [(10**18, ethernet(tcp(a, b, 5000, 0, SYN, options=b"\2\4\5\xb4"), src=b"\2aaaaa", dst=b"\2bbbbb"))])
    (_, frame), = done.packets
    assert numbers(frame) == (80, 0, 5001, RST | ACK) and valid(frame)
    assert frame[:12] == b"\2aaaaa\2bbbbb" and frame[26:34] == bytes([10, 0, 0, 2, 10, 0, 0, 1])


@pytest.mark.parametrize("ends", [{}, {"a": ("2001:db8::1", 40000), "b": ("2001:db8::2", 80)}])
def test_both_ends_of_a_live_connection_are_told(ends):
    talk = Conversation(**ends).open().a(b"hello").b(b"there").a(b"more").close()
    done = play(Fate("reset", after=5), talk.packets, config=flowos.Config.offline(batch=1, deliver_units=1))
    left = [packet for packet in done.packets if packet in talk.packets]
    resets = [frame for _, frame in done.packets[len(left):]]
    assert left == talk.packets[:len(left)] and len(left) >= 2 and all(valid(frame) for frame in resets)
    if not ends:
        # Each RST bears the number that its receiver expects next (RFC 5961 section 3.2): to a in b's name, to b in a's.
        assert sorted((port, seq, flags) for port, seq, _, flags in map(numbers, resets)) == [
            (80, 70001, RST | ACK), (40000, 1001, RST | ACK)]
    else:
        assert len(resets) == 2


def test_a_tunnelled_connection_cannot_be_dropped(shared_pcaps, tmp_path):
    fate = Fate("drop")
    source = shared_pcaps / "zeek_tunnels-vxlan-encapsulated-http.pcap"
    with flowos.Engine(flowos.Config.offline()) as engine:
        engine.add_port(source)
        engine.add_output(tmp_path / "out.pcap")
        engine.create_flow("web", "tcp")
        engine.attach(fate, "web")
        engine.run()
        assert engine.statistics()["merged_dropped"] == 0
    assert set(fate.answers) == {False}
