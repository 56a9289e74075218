"""Open vSwitch as an oracle: its command line, and a private switch in dummy mode.

`parse` asks `ovs-ofctl` how it reads and prints matches.  `Switch` starts ovsdb-server and
ovs-vswitchd as children in a directory of their own: no root, no interface, no kernel module; its
ports exist only inside.  Whatever happens, both are gone when the `with` block ends.
"""
import contextlib
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import pytest

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"


def need(*names):
    """Give the paths of Open vSwitch's programs, or skip the test that asks."""
    found = [shutil.which(name, path=PATH) for name in names]
    if None in found:
        pytest.skip(f"{names[found.index(None)]} is not installed (Open vSwitch)")
    if "ovs-vswitchd" in names and not os.path.exists(SCHEMA):
        pytest.skip(f"{SCHEMA} is not there (Open vSwitch)")
    return found


def version():
    """Give the installed version as numbers, such as (3, 1)."""
    (ofctl,) = need("ovs-ofctl")
    return tuple(map(int, re.search(r"(\d+)\.(\d+)", run(ofctl, "--version")).groups()))


def run(*words, text=None, check=True, env=None):
    """Run a program; give its output, errors included."""
    done = subprocess.run(words, input=text, capture_output=True, text=True, timeout=300, env=env, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(words[:6])}: {done.stderr or done.stdout}")
    return done.stdout


PRINTED = re.compile(r"^(?:OFPT|NXT)_FLOW_MOD (?:\(OF1\.\d\) )?\(xid=0x[0-9a-f]+\): ADD (?:(.*?) )?actions=drop$", re.M)


def parse(matches, options=("-O", "OpenFlow13")):
    """Give how ovs-ofctl prints each match; all of them must be such as it accepts."""
    (ofctl,) = need("ovs-ofctl")
    text = "".join(f"{match}{',' if match else ''}actions=drop\n" for match in matches)
    printed = [found or "" for found in PRINTED.findall(run(ofctl, *options, "parse-flows", "-", text=text))]
    if len(printed) != len(matches):
        raise RuntimeError(f"{len(matches)} matches in, {len(printed)} out")
    return printed


def parse_one(match, options=("-O", "OpenFlow13")):
    """Give how ovs-ofctl prints one match, or None when it refuses it."""
    (ofctl,) = need("ovs-ofctl")
    found = PRINTED.findall(run(ofctl, *options, "parse-flow", f"{match}{',' if match else ''}actions=drop", check=False))
    return (found[0] or "") if found else None


LIBC = ctypes.CDLL(None)


def end_with_the_parent():
    """Have the kernel end this process when its parent dies, even if that is killed (prctl, PR_SET_PDEATHSIG)."""
    LIBC.prctl(1, signal.SIGKILL)


class Switch:
    """A switch with one bridge, br0, and ports 1 to `ports`; use it in a `with` block."""

    def __init__(self, ports=2):
        programs = need("ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl", "ovs-ofctl", "ovs-appctl")
        self.tool, self.server, self.vswitchd, self.vsctl, self.ofctl, self.appctl = programs
        self.ports = ports
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *error):
        self.stack.close()

    def start(self):
        """Bring both daemons up and make the bridge."""
        # A short path: a Unix socket's name has at most 107 bytes.
        self.folder = folder = tempfile.mkdtemp(prefix="ovs-", dir="/tmp")
        self.stack.callback(shutil.rmtree, folder, ignore_errors=True)
        self.env = dict(os.environ, OVS_RUNDIR=folder, OVS_LOGDIR=folder, OVS_DBDIR=folder, OVS_SYSCONFDIR=folder)
        run(self.tool, "create", f"{folder}/conf.db", SCHEMA, env=self.env)
        self.spawn(self.server, f"{folder}/conf.db", f"--remote=punix:{folder}/db.sock",
                   f"--unixctl={folder}/server.ctl", f"--log-file={folder}/server.log")
        self.reach("db.sock")
        self.configure("--no-wait", "init")
        self.spawn(self.vswitchd, f"unix:{folder}/db.sock", f"--unixctl={folder}/vswitchd.ctl",
                   f"--log-file={folder}/vswitchd.log", "--enable-dummy=override", "--disable-system")
        self.reach("vswitchd.ctl")
        words = ["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=dummy", "fail_mode=secure",
                 "protocols=OpenFlow10,OpenFlow13"]
        for port in range(1, self.ports + 1):
            words += ["--", "add-port", "br0", f"p{port}", "--", "set", "interface", f"p{port}", "type=dummy",
                      f"ofport_request={port}"]
        self.configure(*words)
        self.reach("br0.mgmt")
        # Only so do the ports of a first fragment count; as it comes, all fragments have none.
        run(self.ofctl, "set-frags", f"unix:{folder}/br0.mgmt", "nx-match", env=self.env)

    def spawn(self, *words):
        """Start a daemon in the foreground, to be killed whatever happens."""
        log = self.stack.enter_context(open(f"{self.folder}/console.log", "ab"))
        child = subprocess.Popen([*words, "-vconsole:off"], env=self.env, cwd=self.folder, stdin=subprocess.DEVNULL,
                                 stdout=log, stderr=log, preexec_fn=end_with_the_parent)
        self.stack.callback(child.wait)
        self.stack.callback(child.kill)

    def reach(self, name, patience=60):
        """Wait until a socket answers: the file is there before anyone listens."""
        end = time.monotonic() + patience
        while True:
            with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
                try:
                    return probe.connect(f"{self.folder}/{name}")
                except OSError:
                    if time.monotonic() > end:
                        raise TimeoutError(f"{name} does not answer") from None
            time.sleep(0.002)

    def configure(self, *words):
        """Change the switch's database (ovs-vsctl)."""
        return run(self.vsctl, f"--db=unix:{self.folder}/db.sock", "--timeout=300", *words, env=self.env)

    def control(self, *words):
        """Send a command to the running switch (ovs-appctl)."""
        return run(self.appctl, "-t", f"{self.folder}/vswitchd.ctl", *words, env=self.env)

    def vlan_limit(self, limit):
        """Set how many VLAN tags the switch steps over; 0: as many as it can, two."""
        self.configure("set", "Open_vSwitch", ".", f"other_config:vlan-limit={limit}")

    def replace(self, rules, options=("-O", "OpenFlow13", "--bundle")):
        """Install these rules, and no others."""
        bridge = f"unix:{self.folder}/br0.mgmt"
        run(self.ofctl, *options[:2], "del-flows", bridge, env=self.env)
        run(self.ofctl, *options, "add-flows", bridge, "-", text="\n".join(rules) + "\n", env=self.env)

    def trace(self, frame, in_port=1, more=""):
        """Give the cookies of the rules that a frame meets on its way, in order."""
        text = self.control("ofproto/trace", "br0", f"in_port={in_port}{more}", bytes(frame).hex())
        return [int(cookie, 16) for cookie in re.findall(r"cookie (0x[0-9a-f]+)$", text, re.M)]

    def receive(self, port, frames):
        """Let frames arrive at a port, in real: through the datapath."""
        for start in range(0, len(frames), 50):
            self.control("netdev-dummy/receive", f"p{port}", *(bytes(frame).hex() for frame in frames[start:start + 50]))

    def counters(self):
        """Give {cookie: packets} of all rules, up to date."""
        self.control("revalidator/purge")
        text = run(self.ofctl, "-O", "OpenFlow13", "dump-flows", f"unix:{self.folder}/br0.mgmt", env=self.env)
        found = {}
        for cookie, packets in re.findall(r"cookie=(0x[0-9a-f]+),.*?n_packets=(\d+)", text):
            found[int(cookie, 16)] = found.get(int(cookie, 16), 0) + int(packets)
        return found
