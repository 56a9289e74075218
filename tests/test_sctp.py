"""SCTP's DATA chunks in the order of their sequence numbers, whatever the order of coming (RFC 9260 section 6.6)."""
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from models import build

SCTP, SECOND = 132, 10**9
A, B = "10.0.0.1", "10.0.0.2"


def chunk(tsn, data):
    """Give a DATA chunk, whole and unordered streams aside: flags B and E, stream 0."""
    head = struct.pack(">BBHIHHI", 0, 3, 16 + len(data), tsn & 0xffffffff, 0, tsn & 0xffff, 0)
    return head + data + bytes(-len(data) % 4)


def packet(at, *chunks):
    """Give a record with one packet; `at` in seconds from the start."""
    return build.START_NS + round(at * SECOND), build.ethernet(
        build.ip((A, 5000), (B, 5001), SCTP, struct.pack(">HHII", 5000, 5001, 7, 0) + b"".join(chunks)))


def stream(tmp_path_factory, records, **options):
    """Read packets; give (bytes, gaps as offsets) of a's stream."""
    folder = tmp_path_factory.mktemp("sctp")
    path = folder / "x.pcap"
    path.write_bytes(build.pcap(records))
    report = oracle.inspect_file(path, files=str(folder), **options)
    found = [file.read_bytes() for file in folder.iterdir() if file != path]
    connection, = report["connections"]
    return b"".join(found), [gap["offset"] for gap in connection["a_to_b"]["stream"]["gaps"]]


@given(st.integers(0, 2**32 - 1), st.permutations(range(1, 12)))
def test_chunks_in_any_order(tmp_path_factory, first, order):
    records = [packet(0.001 * i, chunk(first + number, b"<%d>" % number)) for i, number in enumerate([0, *order])]
    assert stream(tmp_path_factory, records) == (b"".join(b"<%d>" % number for number in range(12)), [])


@pytest.mark.parametrize("first", [0, 2**32 - 3])
def test_a_chunk_far_ahead_does_not_cut_a_slow_association_off(tmp_path_factory, first):
    records = [packet(0, chunk(first, b"0")), packet(1, chunk(first + 1000, b"forged"))]
    records += [packet(29 * n, chunk(first + n, b"%d" % n)) for n in range(1, 5)]
    records += [packet(120, chunk(first + 6, b"6")), packet(121, chunk(first + 5, b"5"))]
    assert stream(tmp_path_factory, records, gap_seconds=30) == (b"0123456forged", [7])
