"""Network namespaces for tests: to be inside one, to join two by a pair of interfaces, offloads off.

The `netns` fixture makes and removes namespaces; here is what one does with them.  There is no need
of the ethtool program: switches are set as it sets them.  A pair that was joined carries frames at
once: the kernel brings a wire up in the background, and until it has, what is sent is lost.
"""
import contextlib
import ctypes
import fcntl
import functools
import os
import re
import socket
import struct
import subprocess

import pytest

from conftest import program
from waiting import PATIENCE, until

CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS, IFF_RUNNING = 0x8913, 0x40
SIOCETHTOOL = 0x8946
ETHTOOL_GLINK = 0x0a
# ETHTOOL_S*: sums on receipt and on sending, scatter-gather, TSO, GSO, GRO.
SWITCHES = {"rx": 0x15, "tx": 0x17, "sg": 0x19, "tso": 0x1f, "gso": 0x24, "gro": 0x2c}
libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def inside(name):
    """Run this thread inside a namespace; sockets made there stay there."""
    with open("/proc/thread-self/ns/net", "rb") as before, open(f"/run/netns/{name}", "rb") as wanted:
        enter(wanted.fileno())
        try:
            yield
        finally:
            enter(before.fileno())


def enter(descriptor):
    """Move this thread into the namespace of a descriptor."""
    if libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def ip(*words):
    """Run an `ip` command, which must succeed."""
    subprocess.run([program("ip"), *map(str, words)], check=True, capture_output=True, timeout=PATIENCE)


def add(name, stack):
    """Make a namespace that goes when `stack` is closed: its loopback up, its interfaces to come silent.

    Its name is flowos-, a word, this process's number and something more.

    Silent: without a link-local address the kernel sends no router solicitation and no report of
    multicast groups, which would come between a test's own frames.
    """
    clear()
    stack.callback(subprocess.run, [program("ip"), "netns", "del", name], capture_output=True, timeout=PATIENCE, check=False)
    for words in ("netns", "add", name), ("-n", name, "link", "set", "lo", "up"):
        done = subprocess.run([program("ip"), *words], capture_output=True, text=True, timeout=PATIENCE, check=False)
        if done.returncode:                   # in a chroot, say, `ip` cannot remount /
            pytest.skip(f"no network namespaces here: {done.stderr.strip()}")
    # /proc/sys/net shows the namespace of the thread that opens it; the file is absent without IPv6.
    with inside(name), contextlib.suppress(FileNotFoundError), \
            open("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "w") as file:
        file.write("1")                       # no link-local address


@functools.cache
def clear():
    """Remove, once, what runs left that were killed: namespaces named after a process that is no more, or after this one."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir("/run/netns"):
            process = re.match(r"flowos-(?:test|tcp)-(\d+)-", name)
            if process and (int(process[1]) == os.getpid() or not os.path.exists(f"/proc/{process[1]}")):
                subprocess.run([program("ip"), "netns", "del", name], capture_output=True, timeout=PATIENCE, check=False)


def join(one, two, first="port0", second="port0", mtu=1500, offloads=False, queues=()):
    """Join two namespaces by a pair of interfaces, both up; `queues`, two numbers, is how many each end has."""
    ends = [["mtu", mtu, *(["numtxqueues", count, "numrxqueues", count] if count else [])] for count in queues or (None, None)]
    ip("link", "add", first, "netns", one, *ends[0], "type", "veth", "peer", "name", second, "netns", two, *ends[1])
    for namespace, interface in (one, first), (two, second):
        if not offloads:
            with inside(namespace):
                switch(interface, **dict.fromkeys(SWITCHES, 0))
        ip("-n", namespace, "link", "set", interface, "up")
    for namespace, interface in (one, first), (two, second):
        carried(namespace, interface)


def carried(namespace, interface):
    """Have the kernel notice at once that the wire of an interface is up; wait until it has."""
    with inside(namespace), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        def running():
            ethtool(sock, interface, ETHTOOL_GLINK, 0)       # deals with what it has put off, for up to a second
            asked = fcntl.ioctl(sock, SIOCGIFFLAGS, struct.pack("16sH22x", interface.encode(), 0))
            return struct.unpack_from("H", asked, 16)[0] & IFF_RUNNING
        until(running, f"{interface}: the wire is up", pause=0.001)


def ethtool(sock, interface, command, value):
    """Ask or set what struct ethtool_value holds."""
    data = ctypes.create_string_buffer(struct.pack("=II", command, value))
    fcntl.ioctl(sock, SIOCETHTOOL, struct.pack("16sP16x", interface.encode(), ctypes.addressof(data)))


def switch(interface, **values):
    """Set offloads of an interface of this thread's namespace: `switch("veth0", tx=0, gro=0)`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for name, value in values.items():
            with contextlib.suppress(OSError):        # not every driver has every switch
                ethtool(sock, interface, SWITCHES[name], value)


def raw_socket(interface):
    """Open a packet socket that sees all of an interface's incoming frames; non-blocking."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    sock.setsockopt(263, 23, 1)               # PACKET_IGNORE_OUTGOING
    sock.bind((interface, 3))
    os.set_blocking(sock.fileno(), False)
    return sock
