"""The figures in docs/balancing.md are those of the checked-in result, and the result bears out what is claimed."""
import importlib
import json
import re

import pytest


@pytest.fixture
def report(project, monkeypatch):
    """The benchmark's report module."""
    monkeypatch.syspath_prepend(str(project / "benchmarks"))
    return importlib.import_module("balancing_report")


@pytest.fixture
def result(project):
    """The newest checked-in result."""
    return json.loads(sorted((project / "benchmarks" / "results").glob("*-balancing.json"))[-1].read_text())


def test_the_tables_are_those_of_the_result(project, report, result):
    page = (project / "docs" / "balancing.md").read_text()
    assert set(re.findall(r"<!-- ((?!end)[\w. ]+) -->", page)) == set(report.tables(result))
    assert report.rewritten(page, result) == page


def test_the_claims_hold_in_the_result(report, result):
    assert all(row["prefixes"] < 3 * row["machines"] and row["imbalance"] <= 1.1 * (1 + 1e-9) for row in result["figures"])
    assert max(row["rules"] for row in result["figures"] if row["machines"] == 50) < 300
    assert all(row["balance"]["ms_median"] < 1 for row in result["times"] if row["machines"] == 1000)      # as recorded
    assert all(row["imbalance"] <= 1.1 * (1 + 1e-9) for row in result["drift"] + result["capacities"] + result["fleets"])
    tail = {(row["exponent"], row["way"]): row for row in result["tail"]}
    for exponent in (0.8, 1.0, 1.2):
        hosts = tail[exponent, "to hosts, all counted"]
        assert hosts["imbalance"] < 1.05 * max(1.1, hosts["bound"]) and tail[exponent, "to ports, all counted"]["imbalance"] < 1.15
        assert hosts["torn"] == 0 and tail[exponent, "Wang et al."]["imbalance"] > 5
        assert tail[exponent, "to ports, all counted"]["torn"] < 0.5 < tail[exponent, "5-tuple hash"]["torn"]


def test_the_listing_in_python_is_the_same_algorithm(report):
    """The rival in the benchmark gives as many prefixes, where no loads tie."""
    benchmark = importlib.import_module("balancing")
    for name in ("gauss-narrow", "random-uniform", "random-exponential"):
        values = benchmark.distribution(name, 12)
        for count in (2, 10, 50):
            assert benchmark.listing(values, count) == benchmark.given(benchmark.balance(benchmark.spread(values), benchmark.fleet(count)).plan)
    assert benchmark.listing(benchmark.distribution("zipf", 8, exponent=2.0), 10) is None


def test_a_page_that_wants_a_table_that_is_not_there_is_refused(report, result):
    with pytest.raises(KeyError, match="nothing"):
        report.rewritten("<!-- nothing -->\n\n<!-- end -->", result)
    assert report.rewritten("<!-- chunk -->\nold\n<!-- end -->", result).count("|") > 20
