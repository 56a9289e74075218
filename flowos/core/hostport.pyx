"""The host's stack as a port: what the host sends and receives on an interface that FlowOS took over.

    wire ── xdp:eth0 ──► engine ──► host:eth0 ── TAP ──ingress──► as if it had come in on eth0 ──► the host's stack
    wire ◄── xdp:eth0 ◄── engine ◄── host:eth0 ── TAP ◄──egress─── what leaves by eth0 ◄────────── the host's stack

The host keeps its addresses and routes on the interface and sees no difference.  Two programs lead its
frames to a TAP device and back; frames sent through AF_XDP pass below them.  They and the device go with the
process, however it ends, and the host is on the wire again.
"""
import errno
import os
import socket

from libc.errno cimport errno as c_errno

from flowos.core.arena cimport Arena
from flowos.core.tapport cimport TapPort
from flowos.core.errors import CaptureError
from flowos.core.interface import index_of, mtu_of, set_mtu, without_addresses, xdp_attached

__all__ = ["HostPort"]


cdef class HostPort(TapPort):
    """Stand between the host's stack and one of its interfaces (D3.2 section 4.1.3.7).

    What the host sends on the interface is received here instead of leaving; what is sent here, the host receives as
    if from the wire.  What comes from the wire reaches the host as well, unless an XdpPort takes it first.
    `slots` and `arena` are as for TapPort.  CaptureError: no such interface, no right to it, Linux before
    6.6, or XDP in generic mode on the interface, which would take what is sent to the host.

    >>> from flowos import FlowOSError
    >>> try: HostPort("no-such-one")
    ... except FlowOSError as error: print(error)
    host:no-such-one: no such network interface
    """

    def __init__(self, name, slots=512, Arena arena=None):
        self.stands_for, self.links = name, []
        index = index_of(name, f"host:{name}")
        if xdp_attached(index)[1]:
            raise CaptureError(f"host:{name}: XDP is in generic mode on it, so what is sent to the host would come back: "
                               "it takes a driver with XDP of its own")
        self.open_device(f"host:{name}", f"h-{name}"[:15], slots, arena)
        tap = socket.if_nametoindex(self.interface)
        self.lead(tap, FOS_TCX_INGRESS, index, True)
        self.lead(index, FOS_TCX_EGRESS, tap, False)

    def prepare(self):
        """Give the device the interface's MTU, and nothing to say of its own."""
        without_addresses(self.interface)
        set_mtu(self.interface, mtu_of(self.stands_for))

    def lead(self, int origin, int hook, int to, bint as_received):
        """Lead frames from one interface to the other until the port is closed."""
        cdef int link = fos_lead_frames(origin, hook, to, as_received)
        cdef int failed = c_errno
        if link >= 0:
            self.links.append(link)
            return
        self.close()
        raise CaptureError(f"{self.name}: " + {
            errno.EPERM: "no right to it; run as root, or give the program CAP_NET_ADMIN and CAP_BPF",
            errno.EINVAL: "this kernel cannot lead the host's frames elsewhere; Linux 6.6 can",
        }.get(failed, os.strerror(failed)))

    def close(self):
        """Send what the TX ring holds; the host sends and receives on the interface itself again."""
        if not self.closed:
            self.txsync()
        while self.links:                     # before the device goes: nothing the host sends may be lost on the way there
            os.close(self.links.pop())
        TapPort.close(self)
