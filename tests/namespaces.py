"""Network namespaces for tests: to be inside one, to join two by a pair of interfaces, offloads off.

The `netns` fixture makes and removes namespaces; here is what one does with them.  There is no need
of the ethtool program: switches are set as it sets them.
"""
import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import subprocess

import pytest

from conftest import program

CLONE_NEWNET = 0x40000000
SIOCETHTOOL = 0x8946
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
    subprocess.run([program("ip"), *map(str, words)], check=True, capture_output=True, timeout=30)


def add(name, stack):
    """Make a namespace that goes when `stack` is closed: its loopback up, its interfaces to come silent.

    Silent: without a link-local address the kernel sends no router solicitation and no report of
    multicast groups, which would come between a test's own frames.
    """
    stack.callback(subprocess.run, [program("ip"), "netns", "del", name], capture_output=True, timeout=30, check=False)
    for words in ("netns", "add", name), ("-n", name, "link", "set", "lo", "up"):
        done = subprocess.run([program("ip"), *words], capture_output=True, text=True, timeout=30, check=False)
        if done.returncode:                   # in a chroot, say, `ip` cannot remount /
            pytest.skip(f"no network namespaces here: {done.stderr.strip()}")
    # /proc/sys/net shows the namespace of the thread that opens it; the file is absent without IPv6.
    with inside(name), contextlib.suppress(FileNotFoundError), \
            open("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "w") as file:
        file.write("1")                       # no link-local address


def join(one, two, first="port0", second="port0", mtu=1500, offloads=False):
    """Join two namespaces by a pair of interfaces, both up."""
    ip("link", "add", first, "netns", one, "mtu", mtu, "type", "veth", "peer", "name", second, "netns", two, "mtu", mtu)
    for namespace, interface in (one, first), (two, second):
        if not offloads:
            with inside(namespace):
                switch(interface, **dict.fromkeys(SWITCHES, 0))
        ip("-n", namespace, "link", "set", interface, "up")


def switch(interface, **values):
    """Set offloads of an interface of this thread's namespace: `switch("veth0", tx=0, gro=0)`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for name, value in values.items():
            data = ctypes.create_string_buffer(struct.pack("=II", SWITCHES[name], value))
            request = struct.pack("16sP16x", interface.encode(), ctypes.addressof(data))
            with contextlib.suppress(OSError):        # not every driver has every switch
                fcntl.ioctl(sock, SIOCETHTOOL, request)


def raw_socket(interface):
    """Open a packet socket that sees all of an interface's incoming frames; non-blocking."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    sock.setsockopt(263, 23, 1)               # PACKET_IGNORE_OUTGOING
    sock.bind((interface, 3))
    os.set_blocking(sock.fileno(), False)
    return sock
