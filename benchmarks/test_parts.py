"""What the parts cost by themselves: one claim per benchmark, figures by pytest-benchmark.

    pytest benchmarks

The parts that work per packet are fed thousands at once, so that the call from Python does not
count.  Not collected by a plain `pytest`: these measure, the tests are in tests/.
"""
from ipaddress import ip_address, ip_network

import pytest

np = pytest.importorskip("numpy")
pytest.importorskip("pytest_benchmark")

import flowos                                           # noqa: E402
import frames                                           # noqa: E402
from flowos.core.classifier import Classifier           # noqa: E402
from flowos.core.fields import Fields                   # noqa: E402
from flowos.core.match import Match                     # noqa: E402
from flowos.core.recorder import Recorder               # noqa: E402
from generators import endpoints                        # noqa: E402

PACKETS = 20_000


def test_match_parse(benchmark):
    """A match is read in microseconds: flows can be made by the thousand."""
    match = benchmark(Match, "tcp,nw_src=10.1.0.0/16,nw_dst=192.168.0.0/24,tp_src=1024/0xfc00,tp_dst=443")
    benchmark.extra_info["unit"] = "per match"
    assert str(Match(str(match))) == str(match)


@pytest.mark.parametrize("shapes", [1, 4, 16])
def test_classifier_lookup(benchmark, shapes):
    """A lookup costs a probe per shape of mask, whatever the number of rules."""
    classifier, blocks = Classifier(), []
    for number in range(1000):
        prefix, source = 32 - number % shapes, ip_address(10 << 24 | number << 8)
        rule = f"tcp,nw_src={ip_network((source, prefix), strict=False)},tp_dst={number % 50}"
        classifier.add(Match(rule), number % 7, number + 1)
        blocks.append(bytes(Fields(dl_type=0x800, nw_proto=6, nw_src=source, nw_dst="192.168.0.1", tp_dst=number % 50)))
    np.random.default_rng(3).shuffle(blocks)
    blocks = b"".join(blocks) * (PACKETS // len(blocks))
    found = benchmark(classifier.find_many, blocks)
    benchmark.extra_info.update(unit=f"per {PACKETS:,} packets", rules=len(classifier), shapes=shapes)
    assert len(found) == PACKETS and (found > 0).all()


@pytest.mark.parametrize("coding", ["length", "chunked"])
def test_http_feed(benchmark, coding):
    """The HTTP decoder finds messages at memory speed: 1,000 exchanges with bodies of 8 kB, in segments."""
    from flowos.decoders.http import HttpDecoder

    body = bytes(range(256)) * 32
    request = b"GET /index.html HTTP/1.1\r\nHost: www.example.net\r\nAccept: */*\r\nUser-Agent: test\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nServer: example\r\n"
    response = head + (b"Content-Length: %d\r\n\r\n%s" % (len(body), body) if coding == "length" else
                       b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
    segments = [response[at:at + 1448] for at in range(0, len(response), 1448)]

    def feed():
        recorder = Recorder(HttpDecoder(), keep=False)
        for _ in range(1000):
            recorder.feed(0, request)
            for segment in segments:
                recorder.feed(1, segment)
        return recorder

    recorder = benchmark(feed)
    benchmark.extra_info["unit"] = f"per {1000 * (len(request) + len(response)) / 1e6:.1f} MB"
    assert recorder.units >= 4000


@pytest.mark.parametrize("connections", [100, 10_000])
def test_connection_lookup(benchmark, tmp_path, connections):
    """Finding a packet's connection is the work of an engine without modules: 20,000 UDP packets."""
    rng = np.random.default_rng(1)
    packets = endpoints(rng, connections)[rng.integers(0, connections, PACKETS)]
    packets["time"], packets["layout"], packets["proto"], packets["length"] = np.arange(PACKETS), frames.UDP, 17, 18
    path = tmp_path / "small.pcap"
    path.write_bytes(frames.file_header() + frames.assemble(packets, np.zeros(64, np.uint8)).tobytes())

    def run():
        with flowos.Engine() as engine:
            engine.add_port(str(path))
            engine.run()
            return engine.capture.packets

    assert benchmark(run) == PACKETS
    benchmark.extra_info["unit"] = f"per {PACKETS:,} packets and one engine"


def test_window_delivery(benchmark, tmp_path):
    """A window costs a Python callback well under a microsecond, in batches: 2,000 streams of one segment."""
    rng = np.random.default_rng(2)
    packets = endpoints(rng, 2000)
    packets["time"], packets["layout"], packets["proto"], packets["length"] = np.arange(2000), frames.TCP, 6, 100
    packets["flags"], packets["seq"] = frames.ACK | frames.PSH, 1000
    opening = packets.copy()
    opening["flags"], opening["seq"], opening["length"] = frames.SYN, 999, 0
    packets["time"] += 2000
    path = tmp_path / "small.pcap"
    records = frames.assemble(np.concatenate([opening, packets]), np.zeros(256, np.uint8))
    path.write_bytes(frames.file_header() + records.tobytes())

    class Count(flowos.Module):
        protocol, bytes = "tcp", 0

        def process_batch(self, windows):
            for window in windows:
                self.bytes += window.length

    def run():
        module = Count()
        with flowos.Engine() as engine:
            engine.add_port(str(path))
            engine.attach(module)
            engine.run()
        return module.bytes

    assert benchmark(run) == 2000 * 100
    benchmark.extra_info["unit"] = "per 2,000 streams and one engine"
