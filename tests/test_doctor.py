"""`flowos doctor`: each trap of an interface is found and mended; every setting comes back as it was.

The judges are `ip -d -j link`, `ethtool` and the kernel's own files, before and after.
"""
import json
import os
import random
import signal
import subprocess
import time

import pytest

from conftest import program
from flowos import hostchecks
from flowos.cli import main
from flowos.core import interface
from flowos.core.errors import UsageError
from flowos.core.xdpport import XdpPort
from flowos.hostchecks import check_host, check_interface, check_sender
from flowos.hostsettings import Journal, read_setting
from namespaces import inside, ip, join
from waiting import PATIENCE

pytestmark = pytest.mark.live
SYSCTLS = [f"/proc/sys/net/{name}" for name in (
    "ipv4/conf/{}/rp_filter", "ipv4/conf/{}/forwarding", "ipv6/conf/{}/forwarding", "ipv4/conf/all/rp_filter")]


def state_of(where, name):
    """Everything that is set on an interface, as other programs tell it."""
    def run(*words):
        return subprocess.run([program("ip"), "netns", "exec", where, *words], capture_output=True, text=True, check=True, timeout=PATIENCE).stdout

    link = json.loads(run(program("ip"), "-d", "-j", "link", "show", "dev", name))
    with inside(where):
        files = []
        for path in SYSCTLS:
            with open(path.format(name)) as file:
                files.append(file.read())
    return link, run(program("ethtool"), "-k", name), run(program("ethtool"), "-l", name), files


@pytest.fixture
def doctor(capsys):
    """Run the command in a namespace: `doctor(where, *words, expect=code)` gives what it printed."""
    def run(where, *words, expect):
        with inside(where):
            code = main(["doctor", *map(str, words)])
        told = capsys.readouterr()
        assert code == expect, told
        assert bool(told.err) == (expect == 2)
        return told.out + told.err
    return run


@pytest.fixture
def pair(netns):
    """Two namespaces and an interface in each, offloads on, as a machine is when nobody cared."""
    near, far = netns(), netns()
    join(near, far, "near", "far", offloads=True, queues=(4, 4))
    return near, far


def found(where, name, check=check_interface):
    """The findings about an interface that are not good, by name."""
    with inside(where):
        return {finding.what: finding for finding in check(name) if finding.state != "ok"}


def test_each_trap_is_found_and_the_remedy_works(pair):
    _near, far = pair
    set_ = lambda *words: subprocess.run([program("ip"), "netns", "exec", far, *words], check=True, capture_output=True, timeout=PATIENCE)
    set_(program("ethtool"), "-K", "far", "gro", "off")
    assert found(far, "far") == {}
    set_(program("ethtool"), "-K", "far", "gro", "on")
    set_(program("ip"), "link", "set", "far", "mtu", "9000")
    set_("sysctl", "-qw", "net.ipv4.conf.far.forwarding=1")
    set_("sysctl", "-qw", "net.ipv4.conf.far.rp_filter=1")
    traps = found(far, "far")
    assert traps.keys() == {"gro", "mtu", "forwarding ipv4", "rp_filter"}
    for trap in traps.values():               # the remedy as it is printed, pasted into a shell
        set_(*trap.remedy.replace("ethtool", program("ethtool")).replace("ip link", f"{program('ip')} link").split())
    assert found(far, "far") == {}
    set_(program("ip"), "link", "set", "far", "down")
    assert found(far, "far").keys() == {"up"}
    set_(*found(far, "far")["up"].remedy.replace("ip link", f"{program('ip')} link").split())
    with inside(far), XdpPort("far", slots=16):
        assert found(far, "far").keys() == {"xdp"}
    assert found(far, "no-such-one").keys() == {"interface"}


def test_a_sender_without_a_wire(pair, tmp_path, doctor):
    near, _far = pair
    traps = found(near, "near", check_sender)
    assert {"tx", "tso", "txvlan"} == traps.keys() and traps["tso"].state == "bad"
    doctor(near, "--sender", "near", "--fix", "--journal", tmp_path / "journal", expect=0)
    assert found(near, "near", check_sender) == {}
    doctor(near, "--restore", "--journal", tmp_path / "journal", expect=0)
    assert found(near, "near", check_sender).keys() == traps.keys()


def test_more_queues_at_the_other_end(netns, tmp_path):
    where = netns()
    ip("-n", where, "link", "add", "one", "numtxqueues", 4, "numrxqueues", 4, "type", "veth", "peer", "name", "two", "numtxqueues", 4, "numrxqueues", 4)
    ip("-n", where, "link", "set", "two", "up")
    with inside(where):
        interface.set_channels("two", 2, 2)
        assert interface.channels("two") == (2, 2)
    trap = found(where, "two")["channels"]
    assert trap.state == "bad" and trap.fix == ("channels", [4, 4]) and trap.remedy == "ethtool -L two rx 4 tx 4"
    with inside(where):
        Journal(tmp_path / "journal").change("two", *trap.fix)
    assert "channels" not in found(where, "two")
    with inside(where):
        Journal(tmp_path / "journal").restore()
        assert interface.channels("two") == (2, 2)


def test_fixed_and_restored_to_the_letter(pair, tmp_path, doctor):
    _near, far = pair
    journal = tmp_path / "state" / "journal"
    ip("-n", far, "link", "set", "far", "mtu", 8000)
    with inside(far):
        interface.set_switch("far", "gro", True)
    subprocess.run([program("ip"), "netns", "exec", far, program("ethtool"), "-K", "far", "tx-checksum-sctp", "off"], check=True, timeout=PATIENCE)
    subprocess.run([program("ip"), "netns", "exec", far, "sysctl", "-qw", "net.ipv4.conf.far.rp_filter=1"], check=True, timeout=PATIENCE)
    before = state_of(far, "far")
    assert doctor(far, "far", "--journal", journal, expect=1).count("remedy:") >= 3
    assert state_of(far, "far") == before and not journal.exists()        # looking changes nothing
    text = doctor(far, "far", "--sender", "far", "--fix", "--journal", journal, expect=0)
    assert "changed  far: ethtool -K far gro off" in text and "changed  far: ip link set dev far mtu 1500" in text
    assert state_of(far, "far") != before
    doctor(far, "far", "--fix", "--journal", journal, expect=0)           # once more: nothing left to do
    text = doctor(far, "--restore", "--journal", journal, "--json", expect=0)
    assert [line["problem"] for line in json.loads(text)].count(None) == len(json.loads(text)) >= 4
    assert state_of(far, "far") == before
    assert "nothing was changed" in doctor(far, "--restore", "--journal", journal, expect=0)


def test_a_process_killed_at_any_moment_leaves_nothing_that_cannot_be_put_back(pair, tmp_path):
    _near, far = pair
    before, path, rng = state_of(far, "far"), tmp_path / "journal", random.Random(5)
    for _turn in range(20):
        child = os.fork()
        if child == 0:
            try:
                with inside(far):
                    journal = Journal(path)
                    while True:
                        journal.change("far", "offloads", {"gro": bool(rng.getrandbits(1))})
                        journal.change("far", "offloads", {"tx": bool(rng.getrandbits(1))})
                        journal.change("far", "mtu", rng.randrange(1300, 1600))
                        journal.change("far", "sysctl:net/ipv4/conf/far/rp_filter", str(rng.randrange(3)))
            finally:
                os._exit(1)
        time.sleep(rng.random() * 0.02)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if rng.random() < 0.5 and path.exists():
            with open(path, "ab") as file:
                file.write(b'{"namespace": 1, "inter')             # cut short as it was written
        with inside(far):
            assert all(problem is None for _line, problem in Journal(path).restore())
        assert state_of(far, "far") == before


def test_what_is_gone_or_elsewhere(pair, tmp_path):
    near, far = pair
    journal = Journal(tmp_path / "journal")
    with inside(near):
        journal.change("near", "mtu", 1400)
    with inside(far):
        journal.change("far", "mtu", 1400)
        assert [line["interface"] for line, _ in journal.restore()] == ["far"]       # another namespace's stay
        assert [line["interface"] for line in journal.entries] == ["near"]
        journal.change("far", "mtu", 1400)
        journal.change("far", "mtu", 1400)    # as it is already: no line
        assert len(journal.entries) == 2
    ip("-n", near, "link", "del", "near")
    for where in (near, far):
        with inside(where):
            (_line, problem), = journal.restore()
            assert "gone" in problem
    assert journal.entries == []


def test_settings_that_there_are_not(pair, tmp_path):
    _near, far = pair
    with inside(far):
        with pytest.raises(UsageError, match="there is no setting 'colour'"):
            Journal(tmp_path / "journal").change("far", "colour", 1)
        for bad in "sysctl:kernel/panic", "sysctl:net/../kernel/panic":
            with pytest.raises(UsageError, match="expected sysctl:net/"):
                read_setting("far", bad)
        with pytest.raises(OSError):
            Journal(tmp_path / "journal").change("far", "mtu", 10 ** 6)
        assert Journal(tmp_path / "journal").restore()[0][1] is None       # it was never changed, and it is as it was
        assert interface.mtu_of("far") == 1500


def test_the_host_and_its_rights(root, monkeypatch):
    assert {finding.state for finding in check_host()} == {"ok"}
    monkeypatch.setattr(hostchecks, "effective_capabilities", lambda: {12})
    monkeypatch.setattr(hostchecks.resource, "getrlimit", lambda _which: (1 << 20, 1 << 20))
    monkeypatch.setattr(hostchecks, "kernel_version", lambda: (5, 4))
    poor = {finding.what: finding for finding in check_host() if finding.state != "ok"}
    assert poor.keys() == {"kernel", "CAP_NET_RAW", "CAP_BPF", "memlock"}
    assert "ulimit -l" in poor["memlock"].remedy and "5.9" in poor["kernel"].text


def test_the_command_line(pair, doctor):
    _near, far = pair
    assert "expected the interfaces" in doctor(far, "--fix", expect=2)
    assert "--restore stands alone" in doctor(far, "far", "--restore", expect=2)
    told = json.loads(doctor(far, "lo", "--json", expect=1))
    assert {finding["what"] for finding in told["findings"] if finding["state"] == "bad"} >= {"mtu"}
