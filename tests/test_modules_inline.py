"""Firewall and rate limit in line: what leaves, on real captures and on conversations made by hand."""
import collections
import subprocess

import pytest

import flowos
from anomalies import new_anomalies
from flowos.modules.firewall import Firewall
from flowos.modules.rate_limit import RateLimit
from flowos.packets import RST, Conversation, ethernet, save, udp, valid
from flowos.testing import play, read_packets

START, SECOND = 1_700_000_000 * 10**9, 10**9


def filtered(folder, source, *modules, config=None):
    """Run a capture through modules in line; give (the output's path, records, statistics)."""
    target, records = folder / "out.pcap", []
    with flowos.Engine(config or flowos.Config.offline()) as engine:
        engine.add_port(source)
        engine.add_output(target)
        for module in modules:
            module.emit = records.append
            engine.attach(module)
        engine.run()
        engine.finish()
        statistics = engine.statistics()
    return target, records, statistics


def frames(tshark, path, display=""):
    """Give the frames of a capture that a display filter takes, as tshark sees them: (time, length, IP id, ports)."""
    command = [tshark, "-r", path, "-o", "ip.defragment:FALSE", "-T", "fields", "-e", "frame.time_epoch", "-e", "frame.len",
               "-e", "ip.id", "-e", "tcp.srcport", "-e", "udp.srcport", "-e", "tcp.seq_raw"]
    done = subprocess.run(command + (["-Y", display] if display else []), capture_output=True, text=True, timeout=300, check=True)
    return collections.Counter(done.stdout.splitlines())


@pytest.mark.parametrize("rules, default, leaves", [
    (["udp -> drop"], "pass", "!udp || icmp || ipv6"),
    (["tcp,tp_dst=80 -> pass", "tcp,tp_src=80 -> pass"], "drop", "(tcp.port == 80 || !(ip || ipv6)) && !icmp"),
])
def test_dropped_connections_are_gone_and_others_untouched(shared_pcaps, tshark, tmp_path, rules, default, leaves):
    source = shared_pcaps / "pcapplusplus_many-protocols.pcap"
    target, records, _ = filtered(tmp_path, source, Firewall(rules, default=default))
    assert frames(tshark, target) == frames(tshark, source, leaves)
    assert records and {record["action"] for record in records} == {"drop"}
    assert new_anomalies(tshark, source, target) == collections.Counter()


def test_a_rule_sees_the_first_packet_alone(tmp_path):
    talk = Conversation(("10.0.0.1", 5000), ("10.0.0.2", 23)).open().a(b"login").b(b"no").close()
    for rules, left in ((["tcp,tp_src=23 -> drop"], 10), (["tcp,tp_dst=23 -> drop"], 0), (["tcp,nw_src=10.0.0.1 -> drop"], 0)):
        assert len(play(Firewall(rules), talk.packets).packets) == (len(talk.packets) if left else 0)


def test_a_reset_tells_both_ends():
    talk = Conversation(("10.0.0.1", 5000), ("10.0.0.2", 23)).open().a(b"login").b(b"no").close()
    done = play(Firewall(["tcp,tp_dst=23 -> reset"]), talk.packets)
    assert done.packets and all(valid(frame) for _, frame in done.packets)
    flags = [frame[14 + 20 + 13] for _, frame in done.packets]
    assert all(flag & RST for flag in flags)
    # The client sent a SYN with number 1000: its RST acknowledges exactly that (RFC 9293 section 3.10.7.1).
    to_client = [frame for _, frame in done.packets if frame[30:34] == bytes([10, 0, 0, 1])]
    assert to_client and int.from_bytes(to_client[0][42:46], "big") == 1001


def test_a_policed_flow_keeps_its_rate(tmp_path):
    packets = [(START + number * 10**7, ethernet(udp(("10.0.0.1", 1000 + number % 5), ("10.0.0.2", 9), bytes(458))))
               for number in range(1000)]                    # 500 bytes each 10 ms: 50,000 bytes a second
    save(tmp_path / "in.pcap", packets)
    limit = RateLimit(20_000, burst=1000, per="flow")
    target, _, _ = filtered(tmp_path, tmp_path / "in.pcap", limit)
    left = read_packets(target)
    assert limit.passed == len(left) and limit.dropped == 1000 - len(left)
    assert abs(len(left) * 500 - (20_000 * 9.99 + 1000)) <= 1000
    for begin in range(0, len(left), 7):
        for end in range(begin + 1, len(left), 11):
            span = (left[end][0] - left[begin][0]) / SECOND
            assert (end - begin + 1) * 500 <= 1000 + 20_000 * span + 1


def test_each_connection_has_its_own_bucket(tmp_path):
    packets = [(START + number, ethernet(udp(("10.0.0.1", 1000 + number % 4), ("10.0.0.2", 9), bytes(458)))) for number in range(40)]
    save(tmp_path / "in.pcap", packets)
    target, _, _ = filtered(tmp_path, tmp_path / "in.pcap", RateLimit(1, burst=1500))
    ports = collections.Counter(int.from_bytes(frame[34:36], "big") for _, frame in read_packets(target))
    assert ports == {1000: 3, 1001: 3, 1002: 3, 1003: 3}
