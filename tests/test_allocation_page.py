"""docs/allocation.md shows the results that are checked in, and these keep what they claim."""
import json
import re

import pytest


@pytest.fixture
def measured(project, monkeypatch):
    """The benchmark's result, the source's figures, and the functions that make the page's tables."""
    monkeypatch.syspath_prepend(project / "benchmarks")
    import allocation
    import allocation_report

    return json.loads(allocation.RESULT.read_text()), json.loads(allocation.SOURCE.read_text()), allocation, allocation_report


def test_the_pages_tables_are_those_of_the_results(project, measured):
    result, source, _, report = measured
    page = (project / "docs/allocation.md").read_text()
    for name, table in report.tables(result, source).items():
        shown = re.search(rf"<!-- {name} -->\n(.*?)<!-- end -->", page, re.S)
        assert shown and shown[1] == table, f"{name}: run `python benchmarks/allocation.py report`"


def test_the_results_keep_the_aims(measured):
    result, source, module, _ = measured
    theirs = {(entry["services"], entry["delay_bound"]): entry["rows"] for entry in source["large"]}
    assert len(result["large"]) == len(theirs) == 55
    for entry in result["large"]:
        rows, packing = theirs[entry["services"], entry["delay_bound"]], entry["runs"][0]
        assert packing["verdict"] != "unknown" and packing["seconds"] < 60
        if rows[-1]["total"] == 0 or (entry["services"] <= 10000 and entry["delay_bound"] > 10):
            assert packing["verdict"] == "feasible" and packing["seconds"] * 30 < rows[-1]["seconds"]
    for entry, limit in zip(result["basic"], (0.7, 0.79, 1.68)):
        assert entry["runs"][0]["verdict"] == "feasible" and entry["runs"][0]["seconds"] < limit
    assert result["basic"][3]["runs"][0]["verdict"] == "infeasible"
    assert len(list(module.claims(result))) == 6


def test_the_sources_tables_were_copied_right(measured):
    _, source, _, _ = measured
    for entry in source["large"]:
        assert entry["modules"] == entry["services"] * 18 // 4
        assert [row["search"] for row in entry["rows"]] == ["initial solution", "120s", "600s", "3600s"]
        for row in entry["rows"]:
            assert row["total"] == sum(row[name] for name in ("cpu", "memory", "bandwidth", "delay"))


def test_the_instances_are_those_that_were_measured(measured):
    from flowos.cli.allocate_files import Instance

    result = measured[0]
    assert {entry["services"]: entry["digest"] for entry in result["basic"]} == \
        {count: Instance.generate("basic", count).digest() for count in (40, 44, 48, 52)}
    digests = {entry["services"]: entry["digest"] for entry in result["large"]}
    assert digests[4000] == Instance.generate("large", 4000).digest()
