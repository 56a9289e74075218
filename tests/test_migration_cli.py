"""`flowos migrate` as its users meet it: the table, the JSON's shape, diagrams, errors, exit codes."""
import json

import pytest

from flowos import cli
from flowos.services.migration_diagram import machines

FEW = ["migrate", "--simulate", "--states", "2000"]


def test_the_table(capsys):
    assert cli.main(FEW) == 0
    out, err = capsys.readouterr()
    for name in ("cohort", "stationary"):
        assert f"2,000 states, {name} population" in out
    for rival in ("two phases", "pre-copy", "total copy", "demand paging"):
        assert out.count(rival) == 2
    assert err == ""


def test_one_population(capsys):
    assert cli.main([*FEW, "--population", "cohort"]) == 0
    assert "stationary" not in capsys.readouterr().out


def test_the_json(capsys):
    assert cli.main([*FEW, "--json", "--batch", "50", "--shared-bytes", "8192"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["policy"]["batch"] == 50
    cohort, stationary = found["populations"]
    assert cohort["setting"]["population"] == "cohort" and stationary["setting"]["shared_bytes"] == 8192
    for one in (cohort, stationary):
        assert set(one) == {"setting", "flowos", "total_copy", "demand_paging", "pre_copy"}
        ours = one["flowos"]
        assert ours["copied"] + ours["ended"] == 2000
        assert ours["bytes"] == 8192 + 100 * ours["copied"]
        assert set(ours["series"][0]) == {"time", "at_a", "frozen", "copied"}
    assert cohort["flowos"]["copied"] < stationary["flowos"]["copied"]


def test_the_same_seed_gives_the_same(capsys):
    texts = []
    for seed in ("7", "7", "8"):
        cli.main([*FEW, "--json", "--seed", seed])
        texts.append(capsys.readouterr().out.replace(f'"seed": {seed}', ""))
    assert texts[0] == texts[1] != texts[2]


def test_the_diagrams(capsys):
    assert cli.main(["migrate", "--diagram"]) == 0
    out = capsys.readouterr().out
    assert out.count("stateDiagram-v2") == 3
    assert cli.main(["migrate", "--diagram", "--json"]) == 0
    tables = json.loads(capsys.readouterr().out)
    assert {name: len(rows) for name, rows in tables.items()} == {name: len(rows) for name, rows in machines().items()}
    assert set(tables["batch"][0]) == {"state", "event", "guard", "next", "actions"}


@pytest.mark.parametrize("option, value, expected", [
    ("--states", "0", "--states: got 0, expected a whole number from 1"),
    ("--states", "60000000", "--states: got 60000000, expected at most 50000000"),
    ("--states", "x", "argument --states: invalid int value: 'x'"),
    ("--mean", "0.05", "--mean: got 0.05 s, expected more than the minimum, 0.1 s"),
    ("--minimum", "0", "--minimum: got 0.0, expected seconds above 0"),
    ("--packet-rate", "-1", "--packet-rate: got -1.0, expected a number from 0"),
    ("--state-bytes", "0", "--state-bytes: got 0, expected a whole number from 1"),
    ("--shared-bytes", "-1", "--shared-bytes: got -1, expected a whole number from 0"),
    ("--group", "0", "--group: got 0, expected a whole number from 1"),
    ("--slow", "0", "--slow: got 0.0, expected a number above 0"),
    ("--fast", "nan", "--fast: got nan, expected a number above 0"),
    ("--round-trip", "inf", "--round-trip: got inf, expected a number from 0"),
    ("--round-trip", "2", "--patience: got 1 s, but one state takes 2 s to be staged"),
    ("--seed", "-1", "--seed: got -1, expected a whole number from 0"),
    ("--batch", "0", "--batch: got 0, expected a whole number above 0"),
    ("--window", "-2", "--window: got -2, expected a whole number above 0"),
    ("--expiry-rate", "-1", "--expiry-rate: got -1.0, expected a number from 0"),
    ("--expiry-share", "nan", "--expiry-share: got nan, expected a number from 0"),
    ("--idle-least", "40", "--idle-most: got 30, expected at least idle_least, 40"),
    ("--idle-most", "-1", "--idle-most: got -1.0, expected a number from 0"),
    ("--patience", "-1", "--patience: got -1.0, expected a number from 0"),
    ("--rate-window", "0", "--rate-window: got 0, expected seconds above 0"),
    ("--population", "old", "argument --population: invalid choice: 'old'"),
])
def test_each_option_wrong(option, value, expected, capsys):
    assert cli.main([*FEW, option, value]) == cli.USAGE
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"flowos: migrate: {expected}") and err.count("\n") == 1


def test_what_to_do_must_be_said(capsys):
    assert cli.main(["migrate"]) == cli.USAGE
    assert "--simulate" in capsys.readouterr().err
    assert cli.main(["migrate", "--simulate", "--diagram"]) == cli.USAGE
