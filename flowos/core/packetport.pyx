"""Ports on network interfaces: AF_PACKET sockets, with one copy per frame and no driver's help.

It works on every interface, beside the host's own stack, which sees the same frames: a host that
is to stay out of the way has no address there.  Frames come as they were on the wire, tags and
checksums included (packetport.h).  An interface that merges segments on receipt (GRO) gives frames
that fit no buffer and no link: `ethtool -K IFACE gro off` turns that off.
"""
import errno
import fcntl
import os
import socket
import struct

cimport cython
from libc.stdlib cimport calloc, free

from flowos.core.arena cimport Arena
from flowos.core.port cimport Port
from flowos.core.ring cimport Ring, fos_ring, free_slots, make_slots, ring_over
from flowos.core.errors import CaptureError, UsageError
from flowos.core.interface import index_of

__all__ = ["PacketPort"]

# Of linux/if_packet.h, linux/if_arp.h, linux/sockios.h and asm-generic/socket.h; Python lacks some.
ETH_P_ALL = 3
SOL_PACKET, ADD_MEMBERSHIP, STATISTICS, AUXDATA, IGNORE_OUTGOING, MR_PROMISC = 263, 1, 6, 8, 23, 1
SIOCGIFMTU, SIOCGIFNAME = 0x8921, 0x8910
SO_TIMESTAMPNS, SO_SNDBUFFORCE, SO_RCVBUFFORCE = 35, 32, 33
# Hardware types (ARPHRD_*) and the LINKTYPE_* of what a raw socket gives there.
LINKS = {1: 1, 772: 1, 65534: 101, 512: 101, 768: 101, 776: 101}
LINK_HEADER = 14 + 4 + 4            # Ethernet with two tags
SOCKET_BUFFER = 8 << 20             # a burst of 60 ms at 1 Gbit/s

DESCRIPTIONS = {
    "received": "packets received",
    "too_long": "packets not received because they are longer than a buffer, as merged segments (GRO) are",
    "kernel_dropped": "packets that the kernel dropped because nobody took them in time",
    "tags": "VLAN tags put back into their frames",
    "checksums": "checksums completed that a local sender had left to a network card",
    "sent": "packets sent",
    "refused_long": "packets not sent because they are longer than the interface's MTU",
    "refused_full": "packets dropped by the interface because its queue was full",
    "refused_down": "packets not sent because the interface is down or gone",
    "refused": "packets not sent for other reasons: shorter than a link header, say",
}


@cython.no_gc_clear                 # the arena is needed to the last
cdef class PacketPort(Port):
    """Receive and send frames on a network interface.

    Frames are gone once their slot was released and the port synced again.  `slots`, a power of two, is
    the size of each ring; twice as many buffers come from `arena`, or from a new one whose buffers hold
    the interface's MTU.  `promiscuous`: also what is not for this host.  `outgoing`: also what others send
    on the interface, for those who only look on; in line it would make loops.  `receive`: False to send only.  No call blocks; `fileno` can
    be waited on.  CaptureError: no such interface, or no right to it.

    >>> from flowos import FlowOSError
    >>> try: PacketPort("no-such-one")
    ... except FlowOSError as error: print(error)
    packet:no-such-one: no such network interface
    """

    def __cinit__(self, interface, slots=512, Arena arena=None, promiscuous=True, outgoing=False, receive=True):
        self.name = f"packet:{interface}"
        self.interface = interface
        self.index = index_of(interface, self.name)
        self.io = <fos_packet_io *> calloc(1, sizeof(fos_packet_io))
        if self.io == NULL:
            raise MemoryError(f"{self.name}: no memory")
        self.io.fd = -1
        self.io.parser.counters = &self.io.unused
        self.io.parser.tunnels = FOS_TUNNEL_ALL
        try:
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
            self.open_socket(promiscuous and receive, outgoing, receive)
        except PermissionError as error:
            raise CaptureError(f"{self.name}: no right to open a packet socket; run as root, or give the program "
                               "CAP_NET_RAW (setcap cap_net_raw+ep PROGRAM)") from error
        except OSError as error:
            raise CaptureError(f"{self.name}: {error.strerror}") from error
        if arena is None:
            arena = Arena(2 * slots, self.buffer_size())
        self.arena = arena
        make_slots(&self.rx, slots, arena, self.name)
        make_slots(&self.tx, slots, arena, self.name)
        self.tx.tail = self.tx.size
        self.live = True

    def __dealloc__(self):
        free_slots(&self.rx, self.arena)
        free_slots(&self.tx, self.arena)
        free(self.io)

    def open_socket(self, promiscuous, outgoing, receive):
        """Set the socket up and bind it; only then do frames come."""
        cdef int kind
        sock = self.socket
        for option, forced in (socket.SO_RCVBUF, SO_RCVBUFFORCE), (socket.SO_SNDBUF, SO_SNDBUFFORCE):
            try:
                sock.setsockopt(socket.SOL_SOCKET, forced, SOCKET_BUFFER)
            except PermissionError:           # CAP_NET_ADMIN alone may pass the system's limit
                sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        sock.setsockopt(SOL_PACKET, AUXDATA, 1)
        try:
            sock.setsockopt(SOL_PACKET, IGNORE_OUTGOING, 0 if outgoing else 1)
        except OSError as error:
            raise OSError(error.errno, "this kernel cannot tell received from sent frames; Linux 4.20 can") from error
        if promiscuous:
            sock.setsockopt(SOL_PACKET, ADD_MEMBERSHIP, struct.pack("iHH8s", self.index, MR_PROMISC, 0, b""))
        sock.bind((self.interface, ETH_P_ALL if receive else 0))
        kind = sock.getsockname()[3]
        if kind not in LINKS:
            raise OSError(errno.EAFNOSUPPORT, f"its frames are of hardware type {kind}; expected Ethernet or raw IP")
        self.io.link = LINKS[kind]
        self.io.fd = sock.fileno()

    def buffer_size(self):
        """Give the power of two that holds a frame of the interface's MTU with its tags."""
        request = struct.pack("16si12x", self.interface.encode(), 0)
        mtu = struct.unpack("16si12x", fcntl.ioctl(self.socket.fileno(), SIOCGIFMTU, request))[1]
        return max(2048, 1 << (mtu + LINK_HEADER + FOS_PACKET_TAG - 1).bit_length())

    cdef Ring show(self, fos_ring *ring):
        return ring_over(ring, self, self.arena)

    cdef int rxsync(self) except -1 nogil:
        cdef int n
        if self.ended:
            return 0
        n = fos_packet_receive(self.io, &self.rx)
        if self.io.error:
            with gil:
                self.heed_error()
        return n

    cdef int txsync(self) except -1 nogil:
        if self.closed:
            return 0
        return fos_packet_send(self.io, &self.tx)

    cdef int heed_error(self) except -1:
        """After a failed receive: an interface that is down may come back, one that is gone has ended."""
        cdef int error = self.io.error
        self.io.error = 0
        if error != errno.ENETDOWN:
            raise CaptureError(f"{self.name}: cannot receive: {os.strerror(error)}")
        try:                                  # ask the socket: its namespace may be another than this thread's
            fcntl.ioctl(self.io.fd, SIOCGIFNAME, struct.pack("16si12x", b"", self.index))
        except OSError:
            self.ended = True
        return 0

    def fileno(self):
        """Give the descriptor to wait on; UsageError when the port was closed."""
        if self.closed:
            raise UsageError(f"{self.name}: the port is closed")
        return self.io.fd

    @property
    def link(self):
        """The LINKTYPE_* of the interface's frames: 1, Ethernet, or 101, raw IP."""
        return self.io.link

    def close(self):
        """Send what the TX ring holds and let go of the interface."""
        if not self.closed:
            self.txsync()
            self.statistics()                 # for the last time
            self.socket.close()
            self.io.fd = -1
        Port.close(self)

    def statistics(self):
        if not self.closed:                   # reading them starts them anew
            counted = self.socket.getsockopt(SOL_PACKET, STATISTICS, 8)
            self.kernel_dropped += struct.unpack("II", counted)[1]
        return {"received": self.io.received, "too_long": self.io.too_long, "kernel_dropped": self.kernel_dropped,
                "tags": self.io.tags, "checksums": self.io.completed, "sent": self.io.transmitted,
                "refused_long": self.io.refused_long, "refused_full": self.io.refused_full,
                "refused_down": self.io.refused_down, "refused": self.io.refused}

    @property
    def descriptions(self):
        return DESCRIPTIONS
