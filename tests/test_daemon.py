"""The daemon's parts, each alone: configurations and their differences, tasks, files found by name, module code, rights.

The judge of `changes` is a model of the daemon that carries them out; that of the rights given up is the
kernel, asked in a child.
"""
import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import ROOT
from flowos import FlowOSError, UsageError
from flowos.cli import main
from flowos.core.errors import LimitError
from flowos.core.pipe import pipe
from flowos.daemon import CODE_FAILURE, CODE_NOT_READY, CODE_SUCCESS, ReturnValue, board, privileges
from flowos.daemon.base import Daemon
from flowos.daemon.configuration import changes, checked, read, write
from flowos.daemon.flowosd import FlowDaemon
from flowos.daemon.items import Command, Shelf
from flowos.daemon.launch import Settings, background, prepare_state
from flowos.daemon.modulecode import Code, Made

# ---- configurations -------------------------------------------------------------------------------

names = st.sampled_from(["a", "b", "c", "d"])
parameters = st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from(["1", "2"]), max_size=2)


@st.composite
def configurations(draw):
    """A configuration, its attachments with places that are all given, or all left open."""
    flows = {}
    for flow in draw(st.lists(names, unique=True)):
        modules, placed = draw(st.lists(names, unique=True)), draw(st.booleans())
        orders = draw(st.permutations(range(1, 9)))
        flows[flow] = {"match": draw(st.sampled_from(["any", "tcp", "udp"])), "priority": draw(st.integers(0, 2)), "attach": [
            {"module": module, "order": orders[place] if placed else 0, "threads": draw(st.sampled_from(["inline", "own"])),
             "parameters": draw(parameters)} for place, module in enumerate(modules)]}
    return checked({"modules": {name: {"parameters": draw(parameters)} for name in draw(st.lists(names, unique=True))}, "flows": flows})


class Model:
    """What the daemon's commands do to its configuration."""

    def __init__(self):
        self.modules, self.flows = {}, {}

    def state(self):
        """Give it as the daemon tells it."""
        return {"modules": {name: {"spec": name, "parameters": dict(values)} for name, values in self.modules.items()},
                "flows": {name: {"match": flow["match"], "priority": flow["priority"],
                                 "attach": sorted((dict(attach) for attach in flow["attach"].values()), key=lambda attach: attach["order"])}
                          for name, flow in self.flows.items()}}

    def do(self, command, module=None, flow=None, **given):
        """Carry out a command; what the daemon refuses is an error here."""
        if command == "flow_add":
            assert given["name"] not in self.flows
            self.flows[given["name"]] = {"match": given["match"], "priority": given["priority"], "attach": {}}
        elif command == "flow_mod":
            self.flows[flow].update(given)
        elif command == "flow_del":
            del self.flows[flow]
        elif command == "load":
            assert module not in self.modules
            self.modules[module] = given["parameters"]
        elif command == "unload":
            del self.modules[module]
            for other in self.flows.values():
                other["attach"].pop(module, None)
        elif command == "attach":
            there = self.flows[flow]["attach"]
            self.modules.setdefault(module, {})
            order = given.get("order") or 1 + max((attach["order"] for other in self.flows.values() for attach in other["attach"].values()), default=0)
            assert module not in there and order not in [attach["order"] for attach in there.values()]
            there[module] = {"module": module, "order": order, "threads": given["threads"], "parameters": given["parameters"]}
        elif command == "detach":
            del self.flows[flow]["attach"][module]
        else:
            assert command == "set" and given["only"]
            self.flows[flow]["attach"][module]["parameters"] = given["parameters"]


def opened(configuration):
    """Leave out what a wanted configuration leaves open, and the order of names, which means nothing."""
    return configuration["modules"], {
        name: {**flow, "attach": {attach["module"]: {**attach, "order": 0} for attach in flow["attach"]}}
        for name, flow in configuration["flows"].items()}


@given(st.lists(configurations(), min_size=1, max_size=4))
def test_the_changes_lead_to_what_is_wanted_and_then_there_are_none(wanted):
    model = Model()
    for step in wanted:
        before = model.state()
        planned = changes(before, step)
        assert before == model.state()
        for command, parameter in planned:
            model.do(command, **parameter)
        assert opened(model.state()) == opened(step)
        for name, flow in step["flows"].items():
            placed = {attach["module"]: attach["order"] for attach in model.state()["flows"][name]["attach"]}
            assert all(attach["order"] in (0, placed[attach["module"]]) for attach in flow["attach"])
        assert changes(model.state(), step) == []
        assert changes(model.state(), read(write(model.state()))) == []


anything = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.dictionaries(anything, st.fixed_dictionaries({"spec": anything, "parameters": st.dictionaries(anything, anything)})),
       st.dictionaries(anything, st.fixed_dictionaries({
           "match": anything, "priority": st.integers(0, 65535),
           "attach": st.lists(st.fixed_dictionaries({"module": anything, "order": st.integers(0, 99), "threads": anything,
                                                     "parameters": st.dictionaries(anything, anything)}),
                              unique_by=lambda attach: attach["module"], max_size=3)})))
def test_what_is_written_is_read_back(modules, flows):
    table = checked({"modules": modules, "flows": flows})
    assert read(write(table)) == table


@pytest.mark.parametrize("text, told", [
    ("[flows]\nweb = 3", "flows.web: 3, expected a table"), ("flows = 3", "f.flows is 3, expected dict"), ("[flow.web]", "there is no field 'flow'; did you mean 'flows'?"),
    ("[flows.web]\nmatch = 3", "f: flows.web.match is 3, expected str"), ("[flows.web]\npriority = true", "flows.web.priority is True, expected int"),
    ("[flows.web]\npriority = 1.5", "flows.web.priority is 1.5, expected int"), ("[flows.web]\nattach = 'x'", "flows.web.attach is 'x', expected list"),
    ("[flows.web]\nattach = ['x']", "flows.web.attach[0]: 'x', expected a table"), ("[[flows.web.attach]]\norder = 1", "flows.web.attach[0]: module is missing"),
    ("[[flows.w.attach]]\nmodule = 'a'\n[[flows.w.attach]]\nmodule = 'a'", "flows.w.attach[1]: a is attached twice"),
    ("[[flows.w.attach]]\nmodule = 'a'\nodrer = 1", "there is no field 'odrer'; did you mean 'order'?"),
    ("[modules.m]\nspec = 1", "modules.m.spec is 1, expected str"), ("[modules.m.parameters]\nx = [1]", "modules.m.parameters.x is [1], expected a text or a number"),
    ("[modules.m.parameters]\nx = 2020-01-01", "modules.m.parameters.x is datetime.date(2020, 1, 1), expected a text or a number"), ("[", "f: "), ("a = 1\na = 2", "f: "),
])
def test_a_wrong_field_is_named(text, told):
    with pytest.raises(UsageError) as caught:
        read(text, "f")
    assert told in str(caught.value) and str(caught.value).startswith("f")


# ---- tasks ----------------------------------------------------------------------------------------

def finish(tasks):
    """Let all tasks end."""
    for _ in range(10_000):
        if not tasks.busy:
            return
        tasks.turn()
    raise AssertionError("the tasks do not end")


def test_high_tasks_go_first_and_compounds_in_order():
    done = []

    def work(name, parameter):
        done.append(name)
        yield
        done.append(name)
        return name.upper()

    tasks = board.Board(work)
    slow = tasks.add([("slow", None)], "normal")
    tasks.turn()
    assert done == ["slow"] and tasks.result(slow) == ReturnValue(CODE_NOT_READY, "runs")
    late = tasks.add([("late", None)], "normal")
    first, second = tasks.add([("one", None), ("two", None)], "high"), tasks.add([("three", None)], "high")
    assert tasks.result(late) == ReturnValue(CODE_NOT_READY, "waits")
    finish(tasks)
    assert done == ["slow", *[name for name in ("one", "two", "three") for _ in range(2)], "slow", "late", "late"]
    assert tasks.result(second) == ReturnValue(CODE_SUCCESS, "", "THREE") and tasks.result(slow).value == "SLOW"
    assert [part["value"] for part in tasks.result(first).value] == ["ONE", "TWO"]


def test_a_failure_ends_a_compound_and_nothing_else():
    done = []

    def work(name, parameter):
        done.append(name)
        if name == "raises":
            raise KeyError("x")
        return ReturnValue(CODE_FAILURE, "no") if name == "fails" else None

    tasks = board.Board(work)
    numbers = [tasks.add([("one", None), (name, None), ("never", None)], "normal") for name in ("fails", "raises")]
    other = tasks.add([("other", None)], "normal")
    finish(tasks)
    assert done == ["one", "fails", "one", "raises", "other"] and tasks.result(other).status == CODE_SUCCESS
    assert [tasks.result(number).message for number in numbers] == ["fails: no", "raises: KeyError: 'x'"]
    assert [part["status"] for part in tasks.result(numbers[0]).value] == [CODE_SUCCESS, CODE_FAILURE]


def test_results_are_kept_for_a_while_and_waiting_is_bounded():
    tasks = board.Board(lambda name, parameter: name)
    numbers = []
    for turn in range(3):
        for place in range(board.WAITING * 2):
            numbers.append(tasks.add([(str(place), None)], "normal"))
            finish(tasks)
    assert tasks.result(numbers[-1]).value == str(board.WAITING * 2 - 1)
    for _ in range(board.WAITING):
        tasks.add([("x", None)], "high")
    with pytest.raises(LimitError, match=f"{board.WAITING} tasks wait already"):
        tasks.add([("x", None)], "normal")
    assert tasks.result(numbers[0]).status == CODE_FAILURE and tasks.result(numbers[-1]).status == CODE_SUCCESS
    with pytest.raises(UsageError, match="did you mean 'normal'"):
        tasks.add([("x", None)], "nromal")


# ---- commands and tasks in folders ----------------------------------------------------------------

ITEM = "from flowos.daemon.items import {0}\nclass Mine({0}):\n    takes = {{'n': int}}\n    def {1}(self, parameter):\n        return {2}\n"


@pytest.fixture
def patched(tmp_path):
    """A daemon whose commands and tasks lie in a folder of the test's."""
    for kind, base, method in (("commands", "Command", "run_command"), ("tasks", "Task", "run_task")):
        (tmp_path / kind / "common").mkdir(parents=True)
        (tmp_path / kind / "common" / "mine.py").write_text(ITEM.format(base, method, 1))
    (tmp_path / "tasks" / "common" / "upgrade.py").write_bytes((ROOT / "flowos/daemon/tasks/common/upgrade.py").read_bytes())
    return Daemon(tmp_path), tmp_path


def upgrade(daemon, **parameter):
    """Run the upgrade task to its end."""
    number = daemon._task("upgrade", parameter).value
    finish(daemon.board)
    return daemon.board.result(number)


def test_commands_and_tasks_are_patched_while_the_daemon_runs(patched):
    daemon, folder = patched
    assert daemon._command("mine") == ReturnValue(value=1)
    done = upgrade(daemon, files={"commands/mine.py": ITEM.format("Command", "run_command", 2), "commands/new.py": ITEM.format("Command", "run_command", 3)})
    assert done == ReturnValue(value={"commands": ["mine"], "tasks": []})
    assert [daemon._command(name).value for name in ("mine", "new")] == [2, 3]
    (folder / "commands/common/mine.py").write_text("broken = (")            # copied there by hand
    done = upgrade(daemon)
    assert done.status == CODE_FAILURE and "mine.py: SyntaxError" in done.message and daemon._command("mine").value == 2
    (folder / "commands/common/mine.py").write_text("1 / 0")
    assert "mine.py: ZeroDivisionError" in upgrade(daemon).message and daemon._command("mine").value == 2
    (folder / "commands/common/mine.py").write_text("x = 1")
    assert "0 classes derived from Command, expected one" in upgrade(daemon).message and daemon._command("mine").value == 2
    (folder / "commands/common/mine.py").unlink()
    assert upgrade(daemon).value == {"commands": ["mine"], "tasks": []}
    assert "there is no command 'mine'" in daemon._command("mine").message
    assert daemon._command("new", {"n": "x"}).message == "new: n is 'x', expected a whole number"


def test_the_first_folder_that_has_a_name_wins(tmp_path):
    for name in "one", "two":
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.py").write_text(ITEM.format("Command", "run_command", repr(name)))
    (tmp_path / "two" / "_hidden.py").write_text("")
    shelf = Shelf(Command, [tmp_path / "one", tmp_path / "two"])
    assert shelf.find("mine")(None).run_command({}) == "one" and shelf.names() == ["mine"]
    with pytest.raises(UsageError, match="there is no command 'mime'; did you mean 'mine'?"):
        shelf.find("mime")


def test_a_command_whose_effect_cannot_be_saved_says_so(patched, monkeypatch):
    daemon, folder = patched
    (folder / "commands/common/mine.py").write_text(ITEM.format("Command", "run_command", 1) + "    changes = True\n")

    def full():
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(daemon, "changed", full)
    found = daemon._command("mine")
    assert found.status == CODE_FAILURE and found.message.startswith("mine is done, but the configuration could not be saved: ") and found.value == 1


# ---- module code ----------------------------------------------------------------------------------

MODULE = "from flowos import Module\nclass Mine(Module):\n    name = 'mine'\n    def __init__(self, n: int = 1):\n        self.n, self.seen = n, 0\n    value = {}\n"


@pytest.fixture
def places(root):
    """A folder of the list and one beside it, both root's own."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="flowos-test-"))
    folder.chmod(0o755)
    for name in "listed", "other":
        (folder / name).mkdir(mode=0o755)
        (folder / name / "mine.py").write_text(MODULE.format(1))
        (folder / name / "mine.py").chmod(0o644)
    yield folder / "listed", folder / "other"
    shutil.rmtree(folder)


def test_code_comes_only_from_where_root_alone_writes(places):
    listed, other = places
    code, path = Code([listed], guarded=True), listed / "mine.py"
    assert code.find("mine").value == code.find(str(path)).value == code.find(f"{path}:Mine").value == 1

    def refused(spec, why):
        with pytest.raises(UsageError, match=why):
            code.find(str(spec))
        with pytest.raises(UsageError, match=why):
            code.reload(str(spec))

    refused(other / "mine.py", "the daemon loads modules from .*; move it there, or start the daemon with --modules-from")
    refused(f"{listed}/../other/mine.py", "loads modules from")
    (listed / "link.py").symlink_to(other / "mine.py")
    refused("link", "loads modules from")
    refused(listed / "link.py", "loads modules from")
    (listed / "gone.py").symlink_to(other / "nowhere.py")
    refused(listed / "gone.py", "loads modules from")
    refused(listed / "missing.py", "No such file")
    for place, mode, owner in ((path, 0o664, 0), (path, 0o646, 0), (listed, 0o775, 0), (listed, 0o757, 0), (path, 0o644, 65534), (listed, 0o755, 65534),
                               (listed.parent, 0o777, 0)):
        before = place.stat()
        place.chmod(mode)
        os.chown(place, owner, -1)
        refused("mine", f"{place}: others than root may write here")
        place.chmod(before.st_mode & 0o7777)
        os.chown(place, before.st_uid, -1)
    assert code.find("mine").value == 1


def test_a_link_that_is_pointed_elsewhere_after_the_check_is_not_followed(places):
    listed, other = places
    trap = other / "trap.py"
    trap.symlink_to(listed / "mine.py")
    code = Code([listed], guarded=True)
    assert code.resolve(f"{trap}:Mine") == f"{listed / 'mine.py'}:Mine"
    (other / "evil.py").write_text(MODULE.format(666))
    real = code.check

    def check(path):
        real(path)
        trap.unlink(missing_ok=True)
        trap.symlink_to(other / "evil.py")        # in the very moment between check and use

    code.check = check
    assert code.find(str(trap)).value == 1


def test_broken_code_leaves_the_old(places):
    listed, _other = places
    code = Code([listed], guarded=True)
    (listed / "mine.py").write_text(MODULE.format(2))
    assert code.reload("mine").value == 2
    (listed / "mine.py").write_text("1 / 0")
    with pytest.raises(Exception, match="ZeroDivisionError|division"):
        code.reload("mine")


def test_what_a_module_gathered_goes_on_in_the_next(places):
    listed, _other = places
    code = Code([listed])
    old = Made(code.find("mine"), {"n": "5"})
    old.module.seen = 7
    (listed / "mine.py").write_text(MODULE.format(2))
    new = Made(code.reload("mine"), {"n": "6"})
    new.inherit(old)
    assert (new.module.n, new.module.seen, new.module.value, new.parameter("n")) == (6, 7, 2, 6)
    with pytest.raises(UsageError, match="there is no parameter 'm'"):
        new.parameter("m")


MOODY = "from flowos import Module\nclass Moody(Module):\n    name, protocol = 'moody', 'tcp'\n    def __init__(self, n: int = 1):\n        self.n = n // (n - 9)\n"


@pytest.fixture
def flows(tmp_path):
    """Make daemons between two pipes that share a configuration and a folder of modules."""
    with contextlib.ExitStack() as stack:
        def make():
            (left, _), (right, _) = pipe("l"), pipe("r")
            daemon = FlowDaemon({"lan": left, "wan": right}, str(tmp_path / "x.toml"), Code([tmp_path]))
            stack.callback(daemon.engine.close)
            daemon.restore()
            return daemon
        yield make


def test_what_cannot_be_taken_up_again_is_kept(flows, tmp_path, capsys):
    (tmp_path / "moody.py").write_text(MOODY)
    daemon = flows()
    for name, parameter in ("flow_add", {"name": "a", "match": "tcp"}), ("attach", {"module": "moody", "flow": "a"}), \
            ("attach", {"module": "byte_count", "flow": "a"}):
        assert daemon._command(name, parameter).status == CODE_SUCCESS
    saved = (tmp_path / "x.toml").read_text()
    assert [stage["module"] for stage in flows()._command("show").value[0]["pipeline"]] == ["moody", "byte_count"]
    assert not (tmp_path / "x.toml.before").exists()
    (tmp_path / "moody.py").write_text(MOODY.replace("(n - 9)", "0"))
    later = flows()
    assert [stage["module"] for stage in later._command("show").value[0]["pipeline"]] == ["byte_count"]
    assert "attach: moody: its __init__ raised ZeroDivisionError" in (said := capsys.readouterr().err) and "not all of it runs" in said
    assert later._command("flow_add", {"name": "b"}).status == CODE_SUCCESS
    assert read((tmp_path / "x.toml.before").read_text()) == read(saved)


def test_an_apply_that_fails_on_the_way_says_how_far_it_came_and_is_saved_so(flows, tmp_path):
    (tmp_path / "moody.py").write_text(MOODY)
    daemon = flows()
    wanted = {"flows": {"a": {"match": "tcp", "attach": [{"module": "byte_count"}, {"module": "moody", "parameters": {"n": 9}}]}}}
    found = daemon._command("apply", {"configuration": wanted})
    assert found.status == CODE_FAILURE and found.message.startswith("apply: change 5 of 5, attach: moody: its __init__ raised ZeroDivisionError")
    assert read((tmp_path / "x.toml").read_text()) == checked(daemon.configuration())
    assert [stage["module"] for stage in daemon._command("show").value[0]["pipeline"]] == ["byte_count"]
    wanted["flows"]["a"]["attach"][1]["parameters"]["n"] = "12"
    assert [change["command"] for change in daemon._command("apply", {"configuration": wanted, "plan": True}).value] == ["attach"]
    assert daemon._command("apply", {"configuration": wanted}).status == CODE_SUCCESS
    assert daemon._command("apply", {"configuration": wanted}).value == []
    for spoiled, told in ({"flows": {"a": {"match": "tcp,tp_dst=x"}}}, "flows.a.match: "), ({"modules": {"mine": {"spec": "moody"}}}, "is called 'moody'"), \
            ({"flows": {"a": {"attach": [{"module": "mody"}]}}}, "there is no module 'mody'"):
        before = daemon.configuration()
        found = daemon._command("apply", {"configuration": spoiled})
        assert found.status == CODE_FAILURE and told in found.message and daemon.configuration() == before


def test_parameters_that_are_refused_leave_the_old_at_work(flows, tmp_path):
    (tmp_path / "moody.py").write_text(MOODY)
    daemon = flows()
    daemon._command("flow_add", {"name": "a"})
    daemon._command("attach", {"module": "moody", "flow": "a", "parameters": {"n": 10}})
    for values, told in ({"n": 9}, "ZeroDivisionError"), ({"n": "x"}, "n is 'x', expected a whole number"), ({"m": 1}, "there is no parameter 'm'"):
        found = daemon._command("set", {"module": "moody", "flow": "a", "parameters": values})
        assert found.status == CODE_FAILURE and told in found.message
        assert daemon._command("get", {"module": "moody", "flow": "a", "parameter": "n"}).value == "10"
    (tmp_path / "moody.py").write_text(MOODY.replace("'tcp'", "'udp'"))
    found = daemon._command("reload", {"module": "moody"})
    assert found.status == CODE_FAILURE and "protocol was 'tcp' and is 'udp'" in found.message
    assert "moody" in daemon._command("save").value and daemon.loaded["moody"].cls.protocol == "tcp"


# ---- rights ---------------------------------------------------------------------------------------

CHILD = """
import os, subprocess, sys
sys.path.insert(0, sys.argv[1])
from flowos.daemon import privileges
privileges.drop("nobody")
status = open("/proc/self/status").read()
for line in status.splitlines():
    if line.split(":")[0] in ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"):
        print(*line.replace(":", "").split())
print("setuid", subprocess.run([sys.argv[2]], capture_output=True, text=True).stdout.strip())
for call in (lambda: os.setuid(0), lambda: open("/etc/shadow"), lambda: os.setgroups([0]), lambda: os.chroot("/")):
    try:
        call()
        print("may", call)
    except PermissionError:
        print("refused")
"""


def test_rights_are_given_up_for_good(places):
    listed, _other = places
    tool = listed / "id"
    tool.write_bytes(Path("/usr/bin/id").read_bytes())
    tool.chmod(0o4755)                            # a setuid program of root's: it is run and gains nothing
    done = subprocess.run([sys.executable, "-c", CHILD, str(ROOT), str(tool)], capture_output=True, text=True, timeout=300, check=False)
    told = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    assert done.returncode == 0, done.stderr
    bits = f"{sum(1 << bit for bit in privileges.CAPABILITIES.values() if bit in privileges.held()):016x}"
    assert told["CapEff"] == told["CapPrm"] == told["CapBnd"] == [bits] and int(bits, 16) & ~0x8000007000 == 0 != int(bits, 16)
    assert told["CapInh"] == told["CapAmb"] == ["0" * 16] and told["NoNewPrivs"] == ["1"] and told["Groups"] == []
    assert set(told["Uid"]) == {"65534"} and "euid=0" not in done.stdout and "uid=65534" in " ".join(told["setuid"])
    assert done.stdout.count("refused") == 4 and "may" not in told


def test_the_folder_of_the_configuration_is_not_taken_from_others(places):
    listed, _other = places
    entry = privileges.account("nobody")
    with pytest.raises(UsageError, match="the folder of the configuration must be nobody's own"):
        prepare_state(str(listed / "x.toml"), entry)
    assert listed.stat().st_uid == 0
    os.close(prepare_state(str(listed / "new" / "x.toml"), entry))
    assert (listed / "new").stat().st_uid == entry.pw_uid
    (listed / "new").chmod(0o777)
    with pytest.raises(UsageError, match="nobody else may write there"):
        prepare_state(str(listed / "new" / "x.toml"), entry)
    with pytest.raises(UsageError, match="there is no user 'nobdoy'"):
        privileges.account("nobdoy")


def test_nothing_is_run_from_the_folder_that_the_starter_stands_in(tmp_path, monkeypatch):
    (tmp_path / "flowos").mkdir()
    (tmp_path / "flowos" / "__init__.py").write_text("open('taken', 'w')")
    (tmp_path / "socket.py").write_text("open('taken', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    words = ["--port", "a=packet:nowhere", "--port", "b=packet:nowhere", "--user", "root",
             "--state", str(tmp_path / "state" / "x.toml"), "--socket", str(tmp_path / "socket")]
    with pytest.raises(FlowOSError, match="up: .*nowhere"):
        background(words, str(tmp_path / "log"))
    assert not (tmp_path / "taken").exists()
    (tmp_path / "link").symlink_to(tmp_path / "log")
    with pytest.raises(OSError):                  # a log that somebody put a link for is not written through
        background(words, str(tmp_path / "link"))


# ---- the command line -----------------------------------------------------------------------------

@pytest.mark.parametrize("words, code, told", [
    (["shwo"], 2, "did you mean show?"), (["atach", "x", "y"], 2, "did you mean attach?"), (["attach", "x"], 2, "attach: the following arguments are required: FLOW"),
    (["attach", "x", "y", "z"], 2, "z: expected NAME=VALUE"), (["attach", "x", "y", "a=1", "a=2"], 2, "a=2: a is given twice"),
    (["load", "x", "pattern=\udcff"], 2, "in a pattern of bytes write \\xHH for it"), (["set", "f/m.p", "\x01"], 2, "cannot be sent"),
    (["set", "f.p", "1"], 2, "f.p: expected FLOW/MODULE.PARAMETER"), (["get", "x"], 2, "expected FLOW/MODULE.PARAMETER"), (["flow", "add"], 2, "flow add: which?"),
    (["flow", "make"], 2, "invalid choice"), (["show"], 1, "no daemon runs there; `flowos up` starts one"), (["down"], 1, "no daemon runs there"),
    (["show", "--tls", "x"], 2, "expected HOST:PORT,CERT,KEY,CA"), (["show", "--tls", "h:x,a,b,c"], 2, "h:x is no HOST:PORT"),
    (["show", "--tls", "h:1,/nowhere,b,c"], 1, "/nowhere: No such file or directory"), (["apply", "/nowhere"], 1, "/nowhere: No such file or directory"),
    (["up"], 2, "0 ports given, expected two"), (["up", "--port", "x"], 2, "expected NAME=SPEC"), (["up", "--port", "a=b", "--port", "a=c"], 2, "each name once"),
    (["up", "--port", "a=b", "--port", "c=d", "--listen", "1"], 2, "expected HOST:PORT,CERT,KEY,CA"), (["up", "--port", "a=b", "--port", "c=d", "--metrics", "x"], 2, "expected [HOST:]PORT"),
])
def test_exit_codes_and_what_is_said(words, code, told, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FLOWOS_SOCKET", str(tmp_path / "s"))
    monkeypatch.setenv("FLOWOS_STATE", str(tmp_path / "state.toml"))
    assert main(words) == code
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("flowos: ") and told in said.err and said.err.count("\n") == 1


def test_a_configuration_that_is_no_text_is_named(capsys, tmp_path):
    (tmp_path / "x.toml").write_bytes(b"[flows.web]\n\xff")
    assert main(["apply", str(tmp_path / "x.toml")]) == 2
    assert "x.toml: TOML is UTF-8, and byte 12 is none" in capsys.readouterr().err


def test_settings_have_places_of_their_own(monkeypatch, tmp_path):
    monkeypatch.delenv("FLOWOS_SOCKET", raising=False)
    monkeypatch.delenv("FLOWOS_STATE", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert (Settings({}).socket, Settings({}).state) == ("/run/user/1000/flowos/flowosd.sock", f"{tmp_path}/flowos/flowosd.toml")
