"""What can go wrong with a host and its interfaces, found before it does: the checks of `flowos doctor`.

Each check is a function that yields findings.  A finding says what is so, whether that is good, what it
would do, and the remedy; where the remedy is a setting of an interface, it is there to be carried out
(hostsettings.py).  Nothing is changed here.
"""
import os
import platform
import resource
import socket
from dataclasses import dataclass, field
from pathlib import Path

from flowos.core import interface as network
from flowos.core.errors import CaptureError

__all__ = ["Finding", "check_host", "check_interface", "check_sender"]

GOOD, DOUBTFUL, BAD = "ok", "doubtful", "bad"
#: Capabilities by number, and what each is for.
CAPABILITIES = {13: ("CAP_NET_RAW", "packet sockets and AF_XDP"), 12: ("CAP_NET_ADMIN", "XDP programs, TAP, settings"),
                39: ("CAP_BPF", "XDP programs"), 14: ("CAP_IPC_LOCK", "packet buffers above the limit of locked memory")}
SYS_ADMIN = 21                      # has all that CAP_BPF has
AF_XDP = 44
UMEM = 16 << 20                     # bytes that two connected AF_XDP ports lock
XDP_MTU = 4096 - 256 - 22           # what a buffer of a page holds behind the headroom, less Ethernet and two tags


@dataclass
class Finding:
    """One thing that was looked at.  `fix`: (setting, value) for `Journal.change`, or None."""

    what: str
    state: str
    text: str
    remedy: str = ""
    fix: tuple = None
    interface: str = field(default=None, kw_only=True)


def kernel_version(release=None):
    """Give the kernel's version as two numbers.

    >>> kernel_version("6.1.0-18-amd64")
    (6, 1)
    """
    major, minor = (release or platform.release()).split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdecimal()) or 0)


def effective_capabilities():
    """Give the set of numbers of the capabilities in effect."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            bits = int(line.split()[1], 16)
            return {number for number in range(64) if bits >> number & 1}
    return set()


# ------------------------------------------------------------------------------ the host

def check_host():
    """Yield findings about the kernel and this process's rights."""
    yield from check_kernel()
    yield from check_rights()


def check_kernel():
    version = kernel_version()
    text = f"Linux {platform.release()}"
    if version < (5, 9):
        yield Finding("kernel", BAD, f"{text}: xdp: ports need 5.9", "take packet: ports")
    elif version < (6, 6):
        yield Finding("kernel", DOUBTFUL, f"{text}: host: ports need 6.6", "leave host: ports out")
    else:
        yield Finding("kernel", GOOD, text)
    try:
        socket.socket(AF_XDP, socket.SOCK_RAW, 0).close()
        yield Finding("af_xdp", GOOD, "AF_XDP sockets can be opened")
    except PermissionError:
        yield Finding("af_xdp", BAD, "no right to open AF_XDP sockets", "run as root, or give the program CAP_NET_RAW")
    except OSError:
        yield Finding("af_xdp", BAD, "this kernel has no AF_XDP sockets (CONFIG_XDP_SOCKETS)", "take packet: ports")
    if os.access("/dev/net/tun", os.R_OK | os.W_OK):
        yield Finding("tap", GOOD, "TAP devices can be made")
    else:
        yield Finding("tap", DOUBTFUL, "/dev/net/tun cannot be opened: no tap: and host: ports", "run as root; CONFIG_TUN")


def check_rights():
    have = effective_capabilities()
    for number, (name, purpose) in CAPABILITIES.items():
        if number in have or (number == 39 and SYS_ADMIN in have):
            yield Finding(name, GOOD, f"{name}, for {purpose}")
        elif number == 14:
            yield from check_locked_memory()
        else:
            yield Finding(name, BAD, f"no {name}, for {purpose}", f"run as root, or give the program {name}")


def check_locked_memory():
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if limit == resource.RLIM_INFINITY or limit >= UMEM:
        yield Finding("memlock", GOOD, "enough memory can be locked for packet buffers")
    else:
        yield Finding("memlock", BAD, f"only {limit >> 10} KiB of memory can be locked; two xdp: ports take {UMEM >> 10}",
                      "raise `ulimit -l` (LimitMEMLOCK= of a unit), or give the program CAP_IPC_LOCK")


# ------------------------------------------------------------------------------ interfaces

def check_interface(name):
    """Yield findings about an interface that is to be a port."""
    try:
        index = network.index_of(name)
    except CaptureError:
        yield Finding("interface", BAD, "there is no such network interface", interface=name)
        return
    checks = check_up(name), check_xdp(name, index), check_mtu(name), check_merging(name), check_tags(name), \
        check_channels(name, index), check_forwarding(name), check_return_path(name)
    for check in checks:
        for finding in check:
            finding.interface = name
            yield finding


def check_up(name):
    if network.is_up(name):
        yield Finding("up", GOOD, f"up; driver {network.driver(name) or 'unknown'}")
    else:
        yield Finding("up", BAD, "it is down", f"ip link set dev {name} up")


def check_xdp(name, index):
    program, _generic = network.xdp_attached(index)
    if program:
        yield Finding("xdp", DOUBTFUL, f"XDP program {program} is on it: FlowOS runs there already, or another program has it",
                      f"end its owner, or `ip link set dev {name} xdp off`")
    else:
        yield Finding("xdp", GOOD, "no XDP program is on it")


def check_mtu(name):
    mtu = network.mtu_of(name)
    if mtu <= XDP_MTU:
        yield Finding("mtu", GOOD, f"MTU {mtu}")
    else:
        yield Finding("mtu", BAD, f"its MTU of {mtu} is more than XDP takes", f"ip link set dev {name} mtu 1500", ("mtu", 1500))


def check_merging(name):
    merging = [offload for offload in ("gro", "lro") if network.switch(name, offload)]
    for offload in merging:
        yield Finding(offload, BAD, f"{offload} merges segments on receipt: in line, with packet: or XDP in generic mode, they fit "
                      "no buffer and are lost", f"ethtool -K {name} {offload} off", ("offloads", {offload: False}))
    if not merging:
        yield Finding("gro", GOOD, "segments are not merged on receipt")


def check_tags(name):
    if network.switch(name, "rxvlan") and network.driver(name) != "veth":
        yield Finding("rxvlan", BAD, "VLAN tags are taken out before XDP sees the frame, and lost (packet: puts them back)",
                      f"ethtool -K {name} rxvlan off", ("offloads", {"rxvlan": False}))
    else:
        yield Finding("rxvlan", GOOD, "VLAN tags stay in the frame")


def check_channels(name, index):
    ours = network.channels(name)
    other = network.other_end(name, index)
    if ours is None:
        return
    theirs = other and network.channels(other)
    if theirs and theirs[1] > ours[0]:
        remedy = f"ethtool -L {name} rx {theirs[1]} tx {theirs[1]}"
        yield Finding("channels", BAD, f"it receives on {ours[0]} queues, and its other end {other} sends on {theirs[1]}: its driver "
                      "refuses XDP", remedy, ("channels", [theirs[1], theirs[1]]))
    else:
        yield Finding("channels", GOOD, f"queues: {ours[0]} receiving, {ours[1]} sending")


def check_forwarding(name):
    for family in ("ipv4", "ipv6"):
        setting = f"net/{family}/conf/{name}/forwarding"
        if read_text(setting) == "1":
            yield Finding(f"forwarding {family}", DOUBTFUL, f"the host forwards {family} from it too: between packet: ports packets "
                          "would go twice", f"sysctl -w {setting.replace('/', '.')}=0", (f"sysctl:{setting}", "0"))


def check_return_path(name):
    setting = f"net/ipv4/conf/{name}/rp_filter"
    if "1" == max(read_text(setting), read_text("net/ipv4/conf/all/rp_filter")):
        yield Finding("rp_filter", DOUBTFUL, "the host drops packets whose way back is another interface, as beside a port in line it "
                      "may be", f"sysctl -w {setting.replace('/', '.')}=2", (f"sysctl:{setting}", "2"))


def read_text(setting):
    """Read a sysctl, "" where there is none."""
    try:
        return Path("/proc/sys", setting).read_text().strip()
    except OSError:
        return ""


def check_sender(name):
    """Yield findings about an interface of this machine whose frames reach a port without a wire: a veth's other end.

    Such a sender leaves checksums, cutting and tags to a card that is not there.
    """
    try:
        network.index_of(name)
    except CaptureError:
        yield Finding("interface", BAD, "there is no such network interface", interface=name)
        return
    harm = {"tso": "sends segments uncut: XDP in generic mode and packet: in line lose them",
            "tx": "leaves checksums to a card: others than FlowOS on the way would drop the packets",
            "txvlan": "leaves VLAN tags to a card: XDP does not see them"}
    for offload, text in harm.items():
        if network.switch(name, offload):
            state = DOUBTFUL if offload == "tx" else BAD
            yield Finding(offload, state, text, f"ethtool -K {name} {offload} off", ("offloads", {offload: False}), interface=name)
        else:
            yield Finding(offload, GOOD, f"{offload} is off", interface=name)
