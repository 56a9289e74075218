"""Several inputs merged by time, against a model that always takes the earliest of the next packets."""
import heapq

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import capturebytes as cb
from capturebytes import drain, save
from flowos.core.capture import CapturePort
from flowos.core.errors import CaptureError
from flowos.core.merged import MergedPort
from flowos.core.pipe import pipe
from flowos.core.ports import open_port
from flowos.core.streamport import StreamPort


def timed_capture(tmp_path, name, times):
    """Write a capture whose packets have these times in ns; each frame tells file and position."""
    data = cb.pcap_header(magic=cb.NANO, link=len(name))
    for i, ts in enumerate(times):
        data += cb.pcap_record(ts // 10**9, ts % 10**9, f"{name}{i}".encode())
    return save(tmp_path, data, name)


def in_order(ts_lists):
    """Give (ts, file, position) in the order in which a merge takes them: always the earliest head."""
    heads = [(times[0], number, 0) for number, times in enumerate(ts_lists) if times]
    heapq.heapify(heads)
    while heads:
        ts, number, i = heapq.heappop(heads)
        yield ts, number, i
        if i + 1 < len(ts_lists[number]):
            heapq.heappush(heads, (ts_lists[number][i + 1], number, i + 1))


@settings(max_examples=60)
@given(st.lists(st.lists(st.integers(0, 30)), min_size=1, max_size=5), st.sampled_from([1, 4, 64]), st.data())
def test_merged_in_order(tmp_path_factory, ts_lists, slots, data):
    tmp_path = tmp_path_factory.mktemp("merge")
    paths = [timed_capture(tmp_path, chr(97 + i), times) for i, times in enumerate(ts_lists)]
    makers = [data.draw(st.sampled_from([CapturePort, StreamPort])) for _ in paths]
    with MergedPort([make(path, 4) for make, path in zip(makers, paths)], slots) as port:
        assert port.stable == all(make is CapturePort for make in makers)
        expected = list(in_order(ts_lists))
        seen, ring = [], port.rx_ring
        while not (port.ended and len(ring) == 0):
            port.rx_sync()
            ring._check()
            # Slots are held here and there: their frames must stay until they are released.
            go = len(ring) if port.ended else data.draw(st.integers(0 if len(ring) < slots else 1, len(ring)))
            for _ in range(go):
                slot = ring[ring.head]
                seen.append((slot.ts, slot.iface, slot.data.decode()))
                ring.head += 1
        assert seen == [(ts, number, f"{chr(97 + number)}{i}") for ts, number, i in expected]
        assert port.statistics()["packets"] == len(expected)


def test_merged_by_spec(tmp_path):
    a = timed_capture(tmp_path, "a", [5, 7, 9])
    b = timed_capture(tmp_path, "b", [1, 7, 8])
    with open_port([a, str(b)]) as port:
        assert [(p.ts, p.iface, p.data) for p in drain(port)] == [
            (1, 1, b"b0"), (5, 0, b"a0"), (7, 0, b"a1"), (7, 1, b"b1"), (8, 1, b"b2"), (9, 0, b"a2")]
        assert port.name == f"{a}+{b}"
    assert all(other.closed for other in port.ports)
    with open_port([a]) as port:
        assert isinstance(port, CapturePort)
    with pytest.raises(CaptureError):
        open_port([a, tmp_path / "none"])


def test_a_merge_waits_for_the_port_without_a_packet(tmp_path):
    left, right = pipe(slots=8)
    with MergedPort([CapturePort(timed_capture(tmp_path, "a", [5, 7])), right]) as port:
        assert port.rx_sync() == 0, "an earlier packet may still come through the pipe"
        left.send(b"x", ts=6)
        left.tx_sync()
        assert port.rx_sync() == 2, "what comes behind it may be earlier than 7"
        left.close()
        assert port.rx_sync() == 1
        assert [slot.ts for slot in port.rx_ring] == [5, 6, 7]
        port.rx_ring.head = port.rx_ring.tail
        assert port.rx_sync() == 0 and port.ended
