"""The figures in docs/offload.md are those of the checked-in result, and its verdicts follow from them."""
import importlib
import json
import re

import pytest


@pytest.fixture
def report(project, monkeypatch):
    """The benchmark's report module."""
    monkeypatch.syspath_prepend(str(project / "benchmarks"))
    return importlib.import_module("offload_report")


@pytest.fixture
def result(project):
    """The newest checked-in result."""
    return json.loads(sorted((project / "benchmarks" / "results").glob("*-offload.json"))[-1].read_text())


def test_the_tables_are_those_of_the_result(project, report, result):
    page = (project / "docs" / "offload.md").read_text()
    assert set(re.findall(r"<!-- ((?!end)[\w. ]+) -->", page)) == set(report.tables(result))
    assert report.rewritten(page, result) == page


def test_the_profiles_are_those_that_were_measured(result):
    from flowos.services.offload_trace import PROFILES

    assert result["profiles"] == {name: profile._asdict() for name, profile in PROFILES.items()}


def test_verdicts_can_be_either_way(report, result):
    verdicts = [claim.verdict for claim in report.claims(result)]
    assert set(verdicts) == {"holds", "fails", "fitted"}
    assert report.claims(result).__next__().claim and verdicts[-1] == "holds"
    for row in result["traces"]["isp"]["rows"]:
        if row["strategy"] == "lru" and row["n"] >= 10_000:
            row["changes_median"] = 0
    assert report.crossing(result) == 10_000
    result["speed"]["zipf"] = 9.9
    assert list(report.claims(result))[-1].verdict == "fails"


def test_the_loads_that_were_fitted_are_near_the_source(report, result):
    for trace, strategy, n, gain, left in (("isp", "bin-optimal", 1000, 0.92, 3400), ("mawi", "tfo", 6000, 0.86, 4200),
                                           ("ixp", "tfo", 6000, 0.90, 1000), ("isp", "tfo", 6000, 0.99, 500)):
        found = report.row(result, trace, strategy, n)
        assert abs(found["gain"] - gain) < 0.01 and found["left_median"] == pytest.approx(left, rel=0.15)


def test_a_result_is_written_with_lists_on_a_line(report, result):
    text = report.dumped(result)
    assert json.loads(text) == result and max(map(len, text.splitlines())) > 500


def test_a_page_that_wants_a_table_that_is_not_there_is_refused(report, result):
    with pytest.raises(KeyError, match="nothing"):
        report.rewritten("<!-- nothing -->\n\n<!-- end -->", result)
    assert report.rewritten("<!-- speed -->\n<!-- end -->", result).count("|") > 20


def test_what_is_timed_is_right(report):
    """The benchmark's table agrees with the rival, where that is installed, and every packet is counted."""
    benchmark = importlib.import_module("offload")
    networks, lengths = benchmark.routes(3000)
    assert len(set(zip(networks.tolist(), lengths.tolist()))) == 3000 and set(lengths.tolist()) <= set(benchmark.LENGTHS)
    assert not (networks & ((1 << (32 - lengths.astype("u4"))) - 1)).any()
    found = benchmark.speed(3000, 32_000)
    assert found["prefixes"] == 3000 and all(found[what] > 0 for what in ("zipf", "anywhere", "ipv6", "tick", "round"))
