"""What a network interface is set to, and setting it: ethtool's ioctls and one netlink question.

No program and no library is needed.  All of it concerns the network namespace of the calling
thread.  Ports ask before they open, so that what would go wrong silently is refused with the remedy;
`flowos doctor` asks and sets.
"""
import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct

from flowos.core.errors import CaptureError

__all__ = ["SWITCHES", "bring_up", "channels", "driver", "features", "index_of", "is_up", "mtu_of", "other_end", "set_channels",
           "set_features", "set_mtu", "set_switch", "switch", "without_addresses", "xdp_attached"]

SIOCETHTOOL, SIOCGIFMTU, SIOCSIFMTU, SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8946, 0x8921, 0x8922, 0x8913, 0x8914, 1
GDRVINFO, GCHANNELS, SCHANNELS, GFLAGS, SFLAGS, GFEATURES, SFEATURES = 0x03, 0x3c, 0x3d, 0x25, 0x26, 0x3a, 0x3b
#: Offloads by ethtool's short names: (command that reads, command that sets), or a bit of the flags.
SWITCHES = {"rx": (0x14, 0x15), "tx": (0x16, 0x17), "sg": (0x18, 0x19), "tso": (0x1e, 0x1f), "gso": (0x23, 0x24),
            "gro": (0x2b, 0x2c), "txvlan": 1 << 7, "rxvlan": 1 << 8, "lro": 1 << 15}
RTM_GETLINK, NLM_F_REQUEST, IFLA_XDP, IFLA_XDP_ATTACHED, IFLA_XDP_PROG_ID, NESTED = 18, 1, 43, 2, 4, 0x3fff
IFLA_LINK, IFLA_LINK_NETNSID = 5, 37
XDP_GENERIC = 2                     # of XDP_ATTACHED_*


def index_of(name, port=None):
    """Give an interface's number; CaptureError: there is none of this name here."""
    try:
        return socket.if_nametoindex(name)
    except (OSError, ValueError) as error:
        raise CaptureError(f"{port or name}: no such network interface") from error


def request(name, number, data):
    """Carry out an interface ioctl on 24 bytes; OSError as the kernel gives it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return fcntl.ioctl(sock, number, struct.pack("16s24s", name.encode(), data))[16:]


def ethtool(name, *words, room=0):
    """Carry out an ethtool command, 32-bit words followed by zeros; returns its bytes after the call."""
    data = ctypes.create_string_buffer(struct.pack(f"={len(words)}I", *words), max(4 * len(words), room))
    request(name, SIOCETHTOOL, struct.pack("P", ctypes.addressof(data)))
    return data.raw


def mtu_of(name):
    """Give the MTU in bytes."""
    return struct.unpack_from("i", request(name, SIOCGIFMTU, b""))[0]


def set_mtu(name, value):
    """Set the MTU."""
    request(name, SIOCSIFMTU, struct.pack("i", value))


def is_up(name):
    """Say whether an interface is up."""
    return bool(struct.unpack_from("H", request(name, SIOCGIFFLAGS, b""))[0] & IFF_UP)


def bring_up(name):
    """Set an interface up."""
    flags = struct.unpack_from("H", request(name, SIOCGIFFLAGS, b""))[0]
    request(name, SIOCSIFFLAGS, struct.pack("H", flags | IFF_UP))


def without_addresses(name):
    """Keep an interface, before it is up, from giving itself IPv6 addresses and talking about them."""
    with contextlib.suppress(OSError), open(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", "w") as file:
        file.write("1")


def switch(name, offload):
    """Say whether an offload is on; None where the driver has no such thing."""
    way = SWITCHES[offload]
    try:
        if isinstance(way, int):
            return bool(struct.unpack_from("=I", ethtool(name, GFLAGS, 0), 4)[0] & way)
        return bool(struct.unpack_from("=I", ethtool(name, way[0], 0), 4)[0])
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
            return None
        raise


def set_switch(name, offload, on):
    """Switch an offload; OSError where the driver does not let it be switched, or it stays as it was."""
    way = SWITCHES[offload]
    if isinstance(way, int):
        flags = struct.unpack_from("=I", ethtool(name, GFLAGS, 0), 4)[0]
        ethtool(name, SFLAGS, flags | way if on else flags & ~way)
    else:
        ethtool(name, way[1], int(on))
    if switch(name, offload) != bool(on):
        raise OSError(errno.EOPNOTSUPP, f"{name}: {offload} cannot be switched {'on' if on else 'off'}")


def feature_words(name):
    """List the kernel's words of 32 features: (may be switched, wanted, on, never switched)."""
    data = ethtool(name, GFEATURES, 8, room=8 + 16 * 8)
    return [struct.unpack_from("=4I", data, 8 + 16 * i) for i in range(struct.unpack_from("=I", data, 4)[0])]


def features(name):
    """List, in words of 32 bits, which of all of an interface's offloads are wanted: what `set_features` takes."""
    return [wanted & may for may, wanted, _on, _never in feature_words(name)]


def set_features(name, wanted):
    """Want just these offloads, of those that may be switched: what `features` gave comes back exactly."""
    words = [word for (may, *_), want in zip(feature_words(name), wanted, strict=True) for word in (may, want)]
    ethtool(name, SFEATURES, len(wanted), *words)


def channels(name):
    """Give (receiving, sending) queues in use, combined ones in both; None where the driver does not say."""
    try:
        words = struct.unpack("=9I", ethtool(name, GCHANNELS, room=36))
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return None
        raise
    return words[5] + words[8], words[6] + words[8]


def set_channels(name, receiving, sending):
    """Set the numbers of queues, keeping combined ones combined; OSError where the driver refuses."""
    words = list(struct.unpack("=9I", ethtool(name, GCHANNELS, room=36)))
    words[0] = SCHANNELS
    if words[4]:                              # the driver knows combined ones
        words[8] = min(receiving, sending)
    words[5], words[6] = receiving - words[8], sending - words[8]
    ethtool(name, *words)


def driver(name):
    """Give the driver's name, "" where none is told."""
    try:
        return ethtool(name, GDRVINFO, room=196)[4:36].split(b"\0")[0].decode("ascii", "replace")
    except OSError:
        return ""


def other_end(name, index):
    """Give the name of a veth's other end where that is in this namespace too, else None."""
    if driver(name) != "veth":
        return None
    with contextlib.suppress(OSError):
        peer = struct.unpack_from("=i", link_attributes(index).get(IFLA_LINK, b"\0\0\0\0"))[0]
        if peer and IFLA_LINK_NETNSID not in link_attributes(index):
            return socket.if_indextoname(peer)
    return None


def link_attributes(index):
    """Ask for the netlink attributes of the interface of this number, {kind: value}."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        ask = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, 0)
        sock.send(struct.pack("=IHHII", 16 + len(ask), RTM_GETLINK, NLM_F_REQUEST, 1, 0) + ask)
        answer = sock.recv(65536)
    if struct.unpack_from("=H", answer, 4)[0] == 2:       # NLMSG_ERROR
        code = -struct.unpack_from("=i", answer, 16)[0]
        raise OSError(code, os.strerror(code))
    return dict(attributes(answer[32:]))


def xdp_attached(index):
    """Give (identifier, generic) of the XDP program on the interface of this number; (0, False): none."""
    told = dict(attributes(link_attributes(index).get(IFLA_XDP, b"")))
    ident = told.get(IFLA_XDP_PROG_ID)
    return struct.unpack("=I", ident)[0] if ident else 0, told.get(IFLA_XDP_ATTACHED) == bytes([XDP_GENERIC])


def attributes(data):
    """Yield the (kind, value) pairs of netlink attributes."""
    at = 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4:
            return
        yield kind & NESTED, data[at + 4:at + size]
        at += (size + 3) & ~3
