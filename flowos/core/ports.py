"""Port specifications: from what a user names to the port that an engine reads.

    path            a capture file, mapped; a compressed one, FIFO or socket is read as it comes
    "-"             standard input
    "packet:IFACE"  a network interface, through packet sockets, beside the host's own stack; "packet:IFACE/GROUP": shared
                    with other ports of that group, each having its connections
    "xdp:IFACE"     a network interface, through AF_XDP, instead of the host's own stack; "xdp:IFACE/QUEUE": one queue
    "host:IFACE"    what the host's own stack sends and receives on that interface
    "tap:NAME"      a network interface of this host that is made for it
    "pipe:NAME"     one end of a pipe in memory; whoever opens that name next gets the other
    a Port          itself
    a list of these one port that merges them by time
"""
import os
import stat

from flowos.core.blockport import BlockPort
from flowos.core.capture import CapturePort
from flowos.core.errors import CaptureError, UsageError
from flowos.core.hostport import HostPort
from flowos.core.interface import switch
from flowos.core.merged import MergedPort
from flowos.core.packetport import PacketPort
from flowos.core.pipe import open_end
from flowos.core.port import Port
from flowos.core.stream_input import compression_of
from flowos.core.streamport import StreamPort
from flowos.core.tapport import TapPort
from flowos.core.xdpport import XdpPort

__all__ = ["merge_ports", "open_pair", "open_port"]

#: Slots of an input that is read as it comes: units may refer to so many packets before they are released.
STREAM_SLOTS = 4096


def open_port(spec):
    """Open one input.

    CaptureError: it cannot be read, or is no capture; the message says what it looks like.
    UsageError: not a spec.

    >>> open_port("pipe:doc").name
    'pipe:doc:a'
    """
    if isinstance(spec, Port):
        return spec
    if isinstance(spec, (list, tuple)):
        return open_several(spec)
    if spec == "-":
        return open_standard_input()
    kind, colon, name = spec.partition(":") if isinstance(spec, str) else ("", "", "")
    if colon and kind in LIVE:
        return LIVE[kind](name)
    if not isinstance(spec, (str, bytes, os.PathLike)):
        raise UsageError(f"a port is named by a path, '-', {', '.join(map(repr, FORMS))}, a Port or a list of these, "
                         f"not by {spec!r}")
    name = os.fsdecode(spec)
    try:
        mode = os.stat(spec).st_mode
        if stat.S_ISDIR(mode):
            raise CaptureError(f"{name}: is a directory, expected a capture file")
        if not stat.S_ISREG(mode):
            return StreamPort(spec, slots=STREAM_SLOTS)
        with open(spec, "rb") as file:
            compressed = compression_of(file.read(4))
    except CaptureError:
        raise
    except OSError as error:
        raise CaptureError(f"{name}: {error.strerror}") from error
    return StreamPort(spec, slots=STREAM_SLOTS) if compressed else CapturePort(spec)


def open_packet(name):
    """Open "IFACE" or "IFACE/GROUP" to look on: both ways, in blocks."""
    interface, slash, group = name.partition("/")
    if slash and not group.isdecimal():
        raise UsageError(f"packet:{name}: expected packet:IFACE or packet:IFACE/GROUP, the group being a number from 1")
    return BlockPort(interface, group=int(group) if slash else None)


def open_packet_in_line(name):
    """Open "IFACE" to stand in line on it: what comes, each frame at once, and a way out."""
    port = PacketPort(name)
    if switch(name, "gro"):
        port.close()
        raise CaptureError(f"{port.name}: merged segments (GRO) fit no buffer and no link, so in line they would be lost: "
                           f"`ethtool -K {name} gro off`, or `flowos doctor {name} --fix`")
    return port


def open_xdp(name, **options):
    """Open "IFACE" or "IFACE/QUEUE" through AF_XDP."""
    interface, slash, queue = name.partition("/")
    if slash and not queue.isdecimal():
        raise UsageError(f"xdp:{name}: expected xdp:IFACE or xdp:IFACE/QUEUE, the queue being a number from 0")
    return XdpPort(interface, queue=int(queue) if slash else None, **options)


LIVE = {"host": HostPort, "packet": open_packet, "pipe": open_end, "tap": TapPort, "xdp": open_xdp}
FORMS = ["packet:IFACE[/GROUP]", "xdp:IFACE[/QUEUE]", "host:IFACE", "tap:NAME", "pipe:NAME"]


def open_pair(left, right):
    """Open two ports that are to be connected; AF_XDP ones share one UMEM.  Where one cannot be opened, none stays open.

    >>> [port.name for port in open_pair("pipe:in", "pipe:out")]
    ['pipe:in:a', 'pipe:out:a']
    """
    specs, ports = (left, right), []
    names = [spec[4:] for spec in specs if isinstance(spec, str) and spec.startswith("xdp:")]
    try:
        if len(names) == 2:
            arena = XdpPort.arena_for(*(name.partition("/")[0] for name in names))
            ports.append(open_xdp(names[0], arena=arena))
            ports.append(open_xdp(names[1], beside=ports[0]))
        else:
            for spec in specs:
                packet = isinstance(spec, str) and spec.startswith("packet:")
                ports.append(open_packet_in_line(spec[len("packet:"):]) if packet else open_port(spec))
    except BaseException:
        for port in ports:
            port.close()
        raise
    return ports


def open_standard_input():
    """Open standard input: an uncompressed file from its start is mapped, all else is read as it comes."""
    try:
        regular = stat.S_ISREG(os.fstat(0).st_mode) and os.lseek(0, 0, os.SEEK_CUR) == 0
        if regular and not compression_of(os.pread(0, 4, 0)):
            return CapturePort("/proc/self/fd/0", name="standard input")
    except OSError as error:
        raise CaptureError(f"standard input: {error.strerror}") from error
    return StreamPort(0, slots=STREAM_SLOTS, name="standard input")


def open_several(specs):
    """Open several inputs as one port; where one of them cannot be opened, none stays open."""
    ports = []
    try:
        for spec in specs:
            ports.append(open_port(spec))
    except BaseException:
        for port in ports:
            port.close()
        raise
    return ports[0] if len(ports) == 1 else merge_ports(ports)


def merge_ports(ports):
    """Give one port that merges several by time."""
    return MergedPort(ports, slots=STREAM_SLOTS)
