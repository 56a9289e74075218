"""Open vSwitch in the middle of live_path.py: a private instance with the userspace datapath, gone in the end."""
import contextlib
import os
import subprocess
from pathlib import Path

from live_net import OTHERS, TESTED, running, wait_for

SCHEMA = "/usr/share/openvswitch/vswitch.ovsschema"


@contextlib.contextmanager
def open_vswitch(folder, sides):
    """Run a bridge that leads all packets of each side to the other; gives the process of ovs-vswitchd."""
    place = Path(folder) / "switch"
    place.mkdir(exist_ok=True)
    for left in place.iterdir():
        left.unlink()
    environment = {f"OVS_{kind}DIR": str(place) for kind in ("RUN", "LOG", "DB", "SYSCONF")}
    os.environ.update(environment)
    quiet = ["-vconsole:off", f"--log-file={place}/log"]
    subprocess.run(["ovsdb-tool", "create", place / "conf.db", SCHEMA], check=True, timeout=30)
    data, flows = f"unix:{place}/db.sock", f"unix:{place}/br0.mgmt"
    with contextlib.ExitStack() as stack:
        stack.enter_context(running("middle", OTHERS, "ovsdb-server", place / "conf.db", f"--remote=p{data}",
                                    f"--unixctl={place}/db.ctl", *quiet, ready=None))
        wait_for((place / "db.sock").exists, 10, "ovsdb-server")
        tool("ovs-vsctl", f"--db={data}", "--no-wait", "init")
        switch = stack.enter_context(running("middle", TESTED, "ovs-vswitchd", data, f"--unixctl={place}/switch.ctl", *quiet, ready=None))
        tool("ovs-vsctl", f"--db={data}", "--timeout=10", "add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev",
             "fail_mode=secure", "protocols=OpenFlow13", *[word for number, side in enumerate(sides, 1) for word in
                                   ("--", "add-port", "br0", side, "--", "set", "interface", side, f"ofport_request={number}")])
        for here, there in (1, 2), (2, 1):
            tool("ovs-ofctl", "-O", "OpenFlow13", "add-flow", flows, f"in_port={here},actions=output:{there}")
        try:
            yield switch
        finally:
            tool("ovs-appctl", "-t", f"{place}/switch.ctl", "exit", "--cleanup")


def tool(*words):
    """Run one of the switch's tools, which must succeed."""
    subprocess.run(list(map(str, words)), check=True, capture_output=True, timeout=30)
