"""The jobs of jobs.py on small traces: everybody finds what is there, and what the traces say of themselves is so."""
import json
import subprocess
import sys
from pathlib import Path

import pytest

import generators
import streamtraces
from webtrace import PATTERN

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """Give a capture of 40 connections whose segments are shorter than the distance of patterns, and its truth."""
    packets, pool, truth = streamtraces.packets_of(payload=300, connections=40, segments=4000, seed=1)
    path = tmp_path_factory.mktemp("jobs") / "streams.pcap"
    generators.write(path, packets, pool)
    return path, packets, pool, truth


def test_the_truth_of_a_stream_trace(trace):
    _, packets, pool, truth = trace
    streams = {}
    for packet in packets[packets["length"] > 0]:
        streams.setdefault((packet["source"], packet["sport"]), []).append(packet)
    texts = []
    for of in streams.values():
        assert [int(one["seq"]) for one in of] == [1 + 300 * i for i in range(len(of))]
        texts.append(b"".join(pool[one["at"]:one["at"] + 300].tobytes() for one in of))
    assert truth["matches"] == sum(text.count(PATTERN) for text in texts) > 0
    assert truth["stream_bytes"] == sum(map(len, texts))


@pytest.mark.parametrize("job", [["search"], ["pipeline"], ["bare", "3"]])
def test_flowos_finds_what_is_there(trace, job):
    path, _, _, truth = trace
    command = [sys.executable, HERE / "flowos_jobs.py", *job, PATTERN.decode(), path]
    answer = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60).stdout)
    assert (answer["packets"], answer["matches"]) == (truth["packets"], truth["matches"])


@pytest.mark.parametrize("rival", ["dpkt", "scapy"])
def test_rivals_find_what_is_there(trace, rival):
    pytest.importorskip(rival)
    path, _, _, truth = trace
    command = [sys.executable, HERE / "rivals" / f"{rival}_jobs.py", "search", PATTERN.decode(), path]
    answer = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60).stdout)
    assert (answer["packets"], answer["matches"]) == (truth["packets"], truth["matches"])
