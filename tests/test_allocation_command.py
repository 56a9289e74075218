"""`flowos allocate`: files in, solution out, exit codes and messages."""
import json

import pytest

from flowos.cli import main


def run(capsys, *arguments):
    """Run the command; give exit code, output, errors."""
    code = main(["allocate", *map(str, arguments)])
    return code, *capsys.readouterr()


@pytest.fixture
def instance(tmp_path, capsys):
    """The folder of a written instance: 44 services on the basic platform."""
    assert run(capsys, "--generate", "basic", "--services", 44, "--write", tmp_path) == (0, "", "")
    return tmp_path


def test_solve_write_and_check(instance, capsys):
    files = instance / "platform.json", instance / "services.json"
    code, out, err = run(capsys, *files, "-o", instance / "solution.json")
    assert code == 0 and err == ""
    assert "feasible" in out and "violations  total 0" in out
    code, out, err = run(capsys, "--check", instance / "solution.json")
    assert code == 0 and "feasible" in out and err == ""
    code, out, err = run(capsys, "--check", instance / "solution.json", *files, "--json")
    report = json.loads(out)
    assert report["violations"]["total"] == 0 and report["modules"] == 198
    code, out, err = run(capsys, "--check", instance / "solution.json", "--delay-bound", 4)
    assert code == 1 and "violated" in out and "bound 4" in out


def test_a_spoilt_solution_is_found_out(instance, capsys):
    path = instance / "solution.json"
    run(capsys, instance / "platform.json", instance / "services.json", "-o", path)
    document = json.loads(path.read_text())
    for nodes in document["placement"].values():
        for name, spot in nodes.items():
            if spot.startswith("s"):
                nodes[name] = "s0"
    document["paths"] = [["io0", "tor0", "s0"], ["s0", "tor0", "io0"]]
    path.write_text(json.dumps(document))
    code, out, _ = run(capsys, "--check", path)
    assert code == 1 and "violated" in out and "s0: " in out
    document["instance"]["digest"] = "0"
    path.write_text(json.dumps(document))
    code, _, err = run(capsys, "--check", path)
    assert code == 1 and "another instance" in err


def test_generated_instances_need_no_files(tmp_path, capsys):
    path = tmp_path / "solution.json"
    code, out, _ = run(capsys, "--generate", "basic", "--services", 48, "-o", path, "--json", "--seed", 3)
    assert code == 0 and json.loads(out)["verdict"] == "feasible"
    assert run(capsys, "--check", path)[0] == 0
    document = json.loads(path.read_text())
    document["instance"]["seed"] = 4
    path.write_text(json.dumps(document))
    assert "another instance" in run(capsys, "--check", path)[2]


def test_a_proof_is_the_answer(tmp_path, capsys):
    path = tmp_path / "proof.json"
    code, out, _ = run(capsys, "--generate", "basic", "--services", 52, "-o", path)
    assert code == 1 and "infeasible" in out and "83,954 MB" in out
    code, out, _ = run(capsys, "--check", path)
    assert code == 1 and "infeasible" in out


@pytest.mark.parametrize("objective", ["delay", "max-bandwidth"])
def test_objectives(objective, capsys):
    code, out, _ = run(capsys, "--generate", "basic", "--services", 12, "--objective", objective, "--time-limit", 0.5, "--json")
    report = json.loads(out)
    assert code == 0 and report["violations"]["total"] == 0
    name = {"delay": "total_delay", "max-bandwidth": "max_bandwidth"}[objective]
    assert report["statistics"][name] == pytest.approx(report["metrics"][name])
    assert report["statistics"][f"{name}_bound"] <= report["metrics"][name]


@pytest.mark.parametrize("solver, code", [("greedy", 1), ("tabu", 0)])
def test_the_sources_solvers(solver, code, capsys):
    found, out, _ = run(capsys, "--generate", "basic", "--services", 48, "--solver", solver)
    assert found == code and ("violated" in out) is bool(code)


@pytest.mark.parametrize("arguments, message", [
    ((), "expected PLATFORM and SERVICES"), (("one",), "expected PLATFORM and SERVICES"),
    (("--generate", "basic"), "expected --services N"), (("--generate", "basic", "--services", "0"), "expected --services N"),
    (("--generate", "basic", "--services", "4", "file"), "reads no files"),
    (("--generate", "tiny", "--services", "4"), "invalid choice"), (("a", "b", "--spread"), "only with --generate"),
    (("a", "b", "--services", "3"), "only with --generate"), (("a", "b", "--write", "x"), "only with --generate"),
    (("a", "b", "--time-limit", "0"), "time-limit"), (("a", "b", "--time-limit", "soon"), "time-limit"),
    (("a", "b", "--delay-bound", "-1"), "delay-bound"), (("a", "b", "--solver", "magic"), "invalid choice"),
    (("--generate", "basic", "--services", "4", "--packet-bits", "0"), "packet bits")], ids=str)
def test_wrong_command_lines(arguments, message, capsys):
    code, out, err = run(capsys, *arguments)
    assert code == 2 and out == "" and message in err and err.count("\n") == 1


@pytest.mark.parametrize("content, message", [
    (b"{", "no JSON"), (b"\xff", "not UTF-8"), (b"[]", "expected an object"), (b'{"format": 1, "format": 2}', "twice"),
    (b'{"format": "flowos-services"}', "format: expected 'flowos-platform'"), (b"[" * 10**6, "nested too deeply"),
    (b'{"format": "flowos-platform", "version": 2}', "version: expected 1, not 2")])
def test_wrong_files(content, message, tmp_path, capsys):
    path = tmp_path / "platform.json"
    path.write_bytes(content)
    code, out, err = run(capsys, path, path)
    assert code == 2 and out == "" and message in err and str(path) in err


def test_files_that_are_not_there(tmp_path, capsys):
    code, _, err = run(capsys, tmp_path / "none.json", tmp_path / "none.json")
    assert code == 1 and "No such file" in err


@pytest.mark.parametrize("field, value", [
    ("services", "many"), ("generate", 3), ("generate", "other"), ("seed", None), ("spread", 1), ("memory", "none"),
    ("packet_bits", 0), ("delay_bound", -1), ("delay_bound", "x")])
def test_wrong_origins(field, value, tmp_path, capsys):
    path = tmp_path / "solution.json"
    run(capsys, "--generate", "basic", "--services", 4, "-o", path)
    document = json.loads(path.read_text())
    document["instance"][field] = value
    path.write_text(json.dumps(document))
    code, out, err = run(capsys, "--check", path)
    assert code == 2 and out == "" and err.startswith("flowos: ") and err.count("\n") == 1
