"""Ports that look on a network interface: TPACKET_V3 blocks (blockport.h has the picture).

Made for onlookers: one wake-up and no copy per block of frames, at the price of latency, up to the block's
time.  Who stands in line takes packetport.pyx, which gives each frame at once, or xdpport.pyx.
Frames are as they would be on a wire, but for merged segments (GRO, TSO), which come whole, up to 64 KB.
"""
import fcntl
import mmap
import socket
import struct

cimport cython
from libc.stdint cimport uint8_t
from libc.stdlib cimport calloc, free

from flowos.core.port cimport Port
from flowos.core.ring cimport fos_ring
from flowos.core.errors import CaptureError, UsageError
from flowos.core.interface import index_of
from flowos.core.packetport import LINKS

__all__ = ["BlockPort"]

# Of linux/if_packet.h; Python lacks some.
ETH_P_ALL = 3
SOL_PACKET, ADD_MEMBERSHIP, RX_RING, STATISTICS, VERSION, RESERVE, FANOUT, IGNORE_OUTGOING = 263, 1, 5, 6, 10, 12, 18, 23
MR_PROMISC, TPACKET_V3, FANOUT_HASH, SIOCGIFNAME = 1, 2, 0, 0x8910
BLOCK, BLOCKS, FRAME = 1 << 18, 64, 1 << 11         # 16 MiB: 130 ms at 1 Gbit/s
MILLISECONDS = 8                                    # after which a block is handed over, full or not

DESCRIPTIONS = {
    "received": "packets received",
    "kernel_dropped": "packets that the kernel dropped because all blocks were full or held",
    "frozen": "times that the kernel found all blocks full or held",
    "tags": "VLAN tags put back into their frames",
    "checksums": "checksums completed that a local sender had left to a network card",
}


@cython.no_gc_clear                 # the mapping is needed to the last
cdef class BlockPort(Port):
    """Receive what passes an interface, both ways, beside the host's own stack.

    `slots`, a power of two, is the size of the RX ring; there is no TX ring.  `group`, 1 to 65535: ports
    of that number, also of other processes, share the interface's connections among them, each
    connection and both its directions going to one of them (PACKET_FANOUT).  `promiscuous`: also what is not for this
    host.  `outgoing`: also what the host sends.  `blocks`: of 256 KiB each.  No call blocks; `fileno` can be waited on.  CaptureError: no such
    interface, or no right to it.

    >>> from flowos import FlowOSError
    >>> try: BlockPort("no-such-one")
    ... except FlowOSError as error: print(error)
    packet:no-such-one: no such network interface
    """

    def __cinit__(self, interface, slots=4096, group=None, promiscuous=True, outgoing=True, blocks=BLOCKS):
        cdef uint8_t[::1] view
        self.interface, self.live = interface, True
        self.name = f"packet:{interface}" if group is None else f"packet:{interface}/{group}"
        if group is not None and not 1 <= group <= 65535:
            raise UsageError(f"{self.name}: group {group}; expected 1 to 65535")
        if not 2 <= blocks <= 4096:
            raise UsageError(f"{self.name}: {blocks} blocks; expected 2 to 4096")
        self.index = index_of(interface, self.name)
        self.io = <fos_block_io *> calloc(1, sizeof(fos_block_io))
        if self.io == NULL:
            raise MemoryError(f"{self.name}: no memory")
        self.io.parser.counters = &self.io.unused
        self.io.parser.tunnels = FOS_TUNNEL_ALL
        self.make_ring(&self.rx, slots)
        self.io.ends = <uint8_t *> calloc(self.rx.size, 1)
        if self.io.ends == NULL:
            raise MemoryError(f"{self.name}: no memory")
        try:
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
            self.open_socket(group, promiscuous, outgoing, blocks)
        except PermissionError as error:
            raise CaptureError(f"{self.name}: no right to open a packet socket; run as root, or give the program "
                               "CAP_NET_RAW (setcap cap_net_raw+ep PROGRAM)") from error
        except OSError as error:
            raise CaptureError(f"{self.name}: {error.strerror}") from error
        view = self.mapping
        self.io.map = &view[0]
        self.io.size, self.io.count = BLOCK, blocks

    def __dealloc__(self):
        if self.io != NULL:
            free(self.io.ends)
            free(self.io)

    def open_socket(self, group, promiscuous, outgoing, blocks):
        """Set the socket up, map its blocks and bind it; only then do frames come."""
        sock = self.socket
        sock.setsockopt(SOL_PACKET, VERSION, TPACKET_V3)
        sock.setsockopt(SOL_PACKET, RESERVE, FOS_BLOCK_TAG)
        if not outgoing:
            sock.setsockopt(SOL_PACKET, IGNORE_OUTGOING, 1)
        sock.setsockopt(SOL_PACKET, RX_RING, struct.pack("7I", BLOCK, blocks, FRAME, BLOCK // FRAME * blocks, MILLISECONDS, 0, 0))
        self.mapping = mmap.mmap(sock.fileno(), BLOCK * blocks, mmap.MAP_SHARED)
        if promiscuous:
            sock.setsockopt(SOL_PACKET, ADD_MEMBERSHIP, struct.pack("iHH8s", self.index, MR_PROMISC, 0, b""))
        sock.bind((self.interface, ETH_P_ALL))
        kind = sock.getsockname()[3]
        if kind not in LINKS:
            raise CaptureError(f"{self.name}: its frames are of hardware type {kind}; expected Ethernet or raw IP")
        self.io.link = LINKS[kind]
        if group is not None:
            sock.setsockopt(SOL_PACKET, FANOUT, group | FANOUT_HASH << 16)

    cdef int rxsync(self) except -1 nogil:
        cdef int n
        if self.ended:
            return 0
        n = fos_block_receive(self.io, &self.rx)
        self.empty = 0 if n else self.empty + 1
        if self.empty == 256:
            self.empty = 0
            with gil:
                self.look()
        return n

    def look(self):
        """Nothing came for a while: end where the interface is gone."""
        try:                                  # ask the socket: its namespace may be another than this thread's
            fcntl.ioctl(self.socket.fileno(), SIOCGIFNAME, struct.pack("16si12x", b"", self.index))
        except OSError:
            self.ended = True

    def fileno(self):
        """Give the descriptor to wait on; UsageError when the port was closed."""
        if self.closed:
            raise UsageError(f"{self.name}: the port is closed")
        return self.socket.fileno()

    @property
    def link(self):
        """The LINKTYPE_* of the interface's frames: 1, Ethernet, or 101, raw IP."""
        return self.io.link

    def close(self):
        """Let go of the interface.  The blocks stay as long as this object: frames held stay readable."""
        if not self.closed:
            self.statistics()                 # for the last time
            self.socket.close()
        Port.close(self)

    def statistics(self):
        if not self.closed:                   # reading them starts them anew
            _packets, drops, freezes = struct.unpack("3I", self.socket.getsockopt(SOL_PACKET, STATISTICS, 12))
            self.kernel_dropped += drops
            self.frozen += freezes
        return {"received": self.io.received, "kernel_dropped": self.kernel_dropped, "frozen": self.frozen,
                "tags": self.io.tags, "checksums": self.io.completed}

    @property
    def descriptions(self):
        return DESCRIPTIONS
