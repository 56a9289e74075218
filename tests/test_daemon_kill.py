"""A daemon that is killed at any moment leaves nothing behind that the next start, or `flowos doctor --restore`, does not mend.

The host is asked by other programs: `ip -d -j link` and `ethtool -k`, before and after.
"""
import json
import os
import random
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from conftest import program
from daemons import PAGE, STRIPPED, SERVER, Flowosd, Hosts, between
from flowos.cli import main
from flowos.daemon.configuration import read
from flowos.daemon.wire import write_call
from namespaces import inside, switch
from waiting import PATIENCE

pytestmark = pytest.mark.live
URL = f"http://{SERVER[0]}/"


def settings(namespace):
    """Give what `ip` and `ethtool` say of the daemon's interfaces, without counters."""
    def run(*words):
        return subprocess.run([program("ip"), "netns", "exec", namespace, *words], check=True, capture_output=True, text=True, timeout=300).stdout

    links = json.loads(run(program("ip"), "-d", "-j", "link"))
    return links, [run(program("ethtool"), "-k", name) for name in ("left", "right")]


def settled(namespace, wanted=None):
    """Give the settings once the kernel has noticed that both wires are up, and has cleared away what was killed.

    Where they are not as wanted after a while they are given as they are.
    """
    end = time.monotonic() + PATIENCE
    while True:
        found = settings(namespace)
        up = all(link["operstate"] == "UP" for link in found[0] if link["ifname"] in ("left", "right"))
        if time.monotonic() > end or (up and wanted in (None, found)):
            return found
        time.sleep(0.05)


def running(namespace):
    """Give the processes that have files of the namespace's network open."""
    return subprocess.run([program("ip"), "netns", "pids", namespace], capture_output=True, text=True, timeout=300, check=True).stdout.split()


@pytest.mark.parametrize("kind", ["packet", "xdp"])
def test_a_killed_daemon_leaves_the_host_as_it_was(netns, kind, tmp_path, capsys):
    hosts = Hosts(netns)
    with inside(hosts.middle):
        for name in "left", "right":
            switch(name, tx=1, gro=1, sg=1)
    before, journal = settled(hosts.middle), str(tmp_path / "journal")
    with inside(hosts.middle):
        main(["doctor", "left", "right", "--fix", "--journal", journal])
    changed = settled(hosts.middle)
    assert changed[1] != before[1]
    daemon = Flowosd(hosts.middle, ports=(f"lan={kind}:left", f"wan={kind}:right"))
    try:
        daemon.up()
        up = settled(hosts.middle)
        assert (up[0] != changed[0]) and ("xdp" in json.dumps(up[0])) == (kind == "xdp")
        daemon.type("flow", "add", "web=tcp,tp_dst=80")
        daemon.type("attach", "http_strip", "web", "pattern=SECRET")
        assert hosts.curl(URL) == STRIPPED
        daemon.kill()
        assert settled(hosts.middle, changed) == changed and not running(hosts.middle)
        daemon.up()                           # over the stale socket, and with what was configured
        assert hosts.curl(URL) == STRIPPED
        daemon.kill()
    finally:
        daemon.end()
        hosts.end()
    with inside(hosts.middle):
        assert main(["doctor", "--restore", "--journal", journal]) == 0
    assert settled(hosts.middle, before) == before


def test_killed_at_any_moment_it_comes_back_with_a_whole_configuration(netns):
    dice = random.Random(5)
    hosts = Hosts(netns)
    daemon = Flowosd(hosts.middle)
    told = []
    try:
        for _ in range(4):
            daemon.up()
            flows = [flow["name"] for flow in json.loads(daemon.type("flow", "list", "--json"))]
            assert flows == told or flows == [*told, f"n{len(told)}"]     # all that was answered, at most one more
            told = flows
            for _ in range(dice.randrange(1, 9)):
                assert daemon.type("flow", "add", f"n{len(told)}=tcp,tp_dst={1000 + len(told)}") == f"n{len(told)}"
                told.append(f"n{len(told)}")
            pending = socket.socket(socket.AF_UNIX)                       # a call is under way when it dies
            pending.connect(daemon.socket)
            call = write_call("command", ["flow_add", {"name": f"n{len(told)}", "match": "udp"}])
            pending.sendall(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(call), call))
            time.sleep(dice.choice([0, 0, 0.001, 0.003, 0.01]))
            daemon.kill()
            pending.close()
            assert set(read(Path(daemon.state).read_text())["flows"]) >= set(told)
            assert hosts.client and Path(daemon.socket).is_socket()
        for _ in range(2):                                                # killed while it starts
            process = subprocess.Popen([program("ip"), "netns", "exec", hosts.middle, os.sys.executable, "-m", "flowos.cli",
                                        *daemon.arguments(), "--foreground"], env={**os.environ, "PYTHONPATH": os.getcwd()},
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(dice.uniform(0.2, 0.7))
            process.send_signal(signal.SIGKILL)
            process.wait()
        daemon.up()
        assert {flow["name"] for flow in json.loads(daemon.type("flow", "list", "--json"))} >= set(told) and len(told) > 2
        assert hosts.curl(URL) == PAGE
        assert sorted(path.name for path in Path(daemon.state).parent.iterdir() if not path.name.startswith(".save-")) == [
            "flowosd.toml", "flowosd.toml.lock", "flowosd.toml.log"]
        daemon.type("down")
    finally:
        daemon.end()
        hosts.end()


def test_a_second_daemon_and_a_lost_one(netns):
    with between(netns) as (hosts, daemon):
        other = Flowosd(hosts.middle)
        try:
            mine = other.socket
            other.socket = daemon.socket                  # the same socket, another configuration
            done = other.try_up()
            assert done.returncode == 2 and "a daemon runs there already; `flowos down` ends it" in done.stderr
            other.socket, other.state = mine, daemon.state
            done = other.try_up()
            assert done.returncode == 2 and "another daemon keeps its configuration there" in done.stderr
            assert hosts.curl(URL) == PAGE
            os.kill(daemon.pid, signal.SIGSTOP)           # one that does not answer is there all the same
            other.socket, other.state = daemon.socket, str(other.folder / "state" / "flowosd.toml")
            assert "a daemon runs there already" in other.try_up().stderr
            os.kill(daemon.pid, signal.SIGCONT)
            daemon.kill(signal.SIGTERM)                   # a polite end
            assert "Traceback" not in daemon.log()
            other.ports = ("lan=packet:nowhere", "wan=packet:right")
            done = other.try_up()
            assert done.returncode == 1 and "nowhere" in done.stderr and "Traceback" not in done.stderr
            other.ports = ("lan=packet:left", "wan=packet:right")
            Path(other.state).parent.mkdir(exist_ok=True)
            Path(other.state).write_text("[flows.web]\nmtach = 'any'\n")
            done = other.try_up()
            assert done.returncode == 2 and "flows.web: there is no field 'mtach'; did you mean 'match'?" in done.stderr
            Path(other.state).write_bytes(b"\xff\xfe")
            assert "TOML is UTF-8, and byte 0 is none" in other.try_up().stderr
        finally:
            other.end()
