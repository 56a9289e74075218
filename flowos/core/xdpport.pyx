"""Ports on network interfaces: AF_XDP sockets, the fast way (xsk.h has the picture).

An interface's frames come here instead of the host's own stack; `host:IFACE` is for what the host
is to have of them.  Frames are as they were on the wire but for what was taken from them before XDP: tags that a card
strips (`ethtool -K IFACE rxvlan off`), and segments merged or never cut, which fit no buffer: those are
dropped by the kernel and counted.  Checksums that a neighbour on this machine left to a card are completed.
Whatever is known to go wrong is refused when the port opens, with its remedy; `flowos doctor` looks for the rest.
"""
import errno
import os
import select
import socket
import time

cimport cython
from libc.errno cimport errno as c_errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from flowos.core.arena cimport Arena, fos_arena_give
from flowos.core.port cimport Port
from flowos.core.ring cimport FOS_RING_LENT, Ring, fos_ring, fos_ring_slot, free_slots, make_slots, ring_over
from flowos.core.errors import CaptureError, UsageError
from flowos.core.interface import channels, driver, index_of, mtu_of, switch, xdp_attached

__all__ = ["XdpPort"]

COPY, ZERO_COPY, NEED_WAKEUP = 2, 4, 8                  # flags of bind, if_xdp.h
MODES = {"generic": 2, "driver": 4}                     # XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE
LINK_HEADER = 14 + 4 + 4            # Ethernet with two tags
SLOTS = 2048                        # an engine holds 1024 at once; as many again take what comes meanwhile
PATIENCE = 1.0                      # seconds: a queue is free, and memory unlocked, some 20 ms after its last user closed

DESCRIPTIONS = {
    "received": "packets received",
    "checksums": "checksums completed that a neighbour on this machine had left to a network card",
    "strange": "buffers that the kernel handed back without having been given them",
    "sent": "packets sent",
    "refused_long": "packets not sent because they are longer than the interface's MTU",
    "refused_short": "packets not sent because they are shorter than an Ethernet header",
    "refused_full": "packets dropped by the interface, most often because its other end takes them too slowly",
    "refused_down": "times that packets had to wait because the interface was down",
    "kernel_dropped": "packets that the kernel dropped because they fit no buffer, or none was free",
    "kernel_bad_receives": "addresses for receiving that the kernel refused",
    "kernel_bad_sends": "packets to send that the kernel refused",
    "kernel_ring_full": "packets that the kernel dropped because nobody took them in time",
    "kernel_no_buffer": "packets for which the kernel had no buffer, all being held",
    "kernel_idle": "times that the kernel found nothing to send",
}
KERNEL = [name for name in DESCRIPTIONS if name.startswith("kernel_")]


@cython.no_gc_clear                 # the arena is needed to the last
cdef class XdpPort(Port):
    """Receive and send frames on a network interface through AF_XDP; the arena is the UMEM.

    `slots`, a power of two, is the size of each ring, of which the user has 256 free TX slots at once; twice as many buffers of 2048 or 4096 bytes come from
    `arena`, or from a new one whose buffers hold the interface's MTU.  `queue`: bind to that ring pair alone,
    so that other ports, also of other processes, take the others; None: all queues, sending on the first.
    `beside`: another XdpPort whose arena, as one UMEM, this one shares: `Ring.swap` forwards
    between them.  `mode`: "driver" or "generic"; None: the driver's if it has one.  `zero_copy`: True or
    False to insist; None: where the driver can.  The program goes with the last port on the interface, even if the process
    is killed.  No call blocks; `fileno` can be waited on, but it does not tell when the interface is deleted: wait
    with a time-out, and `rx_sync` notices.

    CaptureError: no such interface or no right to it, or one of the traps of the interface's settings; the message
    has the remedy.  UsageError: arguments that cannot be.  Source: D3.2 section 4.1.3.

    >>> from flowos import FlowOSError
    >>> try: XdpPort("no-such-one")
    ... except FlowOSError as error: print(error)
    xdp:no-such-one: no such network interface
    """

    def __cinit__(self, interface, slots=SLOTS, Arena arena=None, queue=None, mode=None, zero_copy=None, XdpPort beside=None):
        cdef uint32_t i
        self.program.map = self.program.link = -1
        self.interface, self.queue = interface, queue
        self.name = f"xdp:{interface}" if queue is None else f"xdp:{interface}/{queue}"
        if mode not in (None, *MODES):
            raise UsageError(f"{self.name}: mode {mode!r}; expected 'driver', 'generic' or None")
        if beside is not None and arena is not None:
            raise UsageError(f"{self.name}: `beside` brings its own arena")
        self.index = index_of(interface, self.name)
        queues = self.queue_numbers()
        if not 2 * len(queues) <= slots:
            raise UsageError(f"{self.name}: rings of {slots} slots for {len(queues)} queues")
        if beside is not None:
            arena, self.sharing = beside.arena, beside.sharing
        else:
            self.sharing = []
            if arena is None:
                arena = self.arena_for(interface, slots=slots)
        self.check_buffers(arena)
        self.arena = arena
        self.io = <fos_xdp_io *> calloc(1, sizeof(fos_xdp_io))
        if self.io == NULL:
            raise MemoryError(f"{self.name}: no memory")
        self.io.arena = &self.arena.c
        self.io.parser.counters = &self.io.unused
        self.io.longest = mtu_of(interface) + 14 + 4
        self.io.lent = <uint8_t *> calloc(len(arena), 1)
        self.io.queues = <fos_xsk *> calloc(len(queues), sizeof(fos_xsk))
        self.io.spare = <uint32_t *> calloc(slots, sizeof(uint32_t))
        if self.io.lent == NULL or self.io.queues == NULL or self.io.spare == NULL:
            raise MemoryError(f"{self.name}: no memory")
        make_slots(&self.rx, slots, arena, self.name)
        self.io.released = 0 - self.rx.size   # all are to go to the kernel
        make_slots(&self.tx, slots, arena, self.name)
        self.rx.flags = self.tx.flags = FOS_RING_LENT
        self.live = True
        self.io.quota = (slots + len(queues) - 1) // len(queues)
        try:
            for i, number in enumerate(queues):
                self.io.queues[i].queue = number
                self.io.queues[i].fd = -1
                self.io.count += 1
                self.open_queue(&self.io.queues[i], zero_copy)
            self.attach(mode)
            for i in range(self.io.count):
                if fos_xdp_lead(&self.program, self.io.queues[i].queue, self.io.queues[i].fd):
                    self.refuse("attach", c_errno)
        except BaseException:
            self.let_go()
            raise
        if self.io.count > 1:
            self.wait = select.epoll()
            for i in range(self.io.count):
                self.wait.register(self.io.queues[i].fd, select.EPOLLIN)
        fos_xdp_receive(self.io, &self.rx)    # the kernel gets its buffers
        fos_xdp_begin(self.io, &self.tx)
        self.begun = True

    def __dealloc__(self):
        self.let_go()
        if self.io != NULL:
            self.give_back()
            free(self.io.lent)
            free(self.io.spare)
            free(self.io.queues)
            free(self.io)
        free_slots(&self.rx, None)
        free_slots(&self.tx, None)

    # ---- opening ----------------------------------------------------------------------------

    @staticmethod
    def arena_for(*interfaces, slots=SLOTS):
        """Make an arena for one port on each of these interfaces; CaptureError: an MTU does not fit.

        >>> XdpPort.arena_for("lo")
        Traceback (most recent call last):
            ...
        flowos.core.errors.CaptureError: xdp:lo: its MTU of 65536 is more than XDP takes: `ip link set dev lo mtu 3818` or less, or take packet:lo
        """
        size = 2048
        for interface in interfaces:
            index_of(interface, f"xdp:{interface}")
            most = mtu_of(interface)
            if most + LINK_HEADER > 2048 - FOS_XDP_HEADROOM:
                size = 4096
            if most + LINK_HEADER > 4096 - FOS_XDP_HEADROOM:
                raise CaptureError(f"xdp:{interface}: its MTU of {most} is more than XDP takes: `ip link set dev {interface} "
                                   f"mtu {4096 - FOS_XDP_HEADROOM - LINK_HEADER}` or less, or take packet:{interface}")
        return Arena(2 * slots * len(interfaces), size)

    def queue_numbers(self):
        """List the queues to bind to; CaptureError: there is no such queue."""
        there = (channels(self.interface) or (1, 1))[0] or 1
        if self.queue is None:
            return range(min(there, FOS_XDP_QUEUES))
        if not isinstance(self.queue, int) or not 0 <= self.queue < min(there, FOS_XDP_QUEUES):
            raise CaptureError(f"{self.name}: no such queue; {self.interface} has {there}, and "
                               f"`ethtool -L {self.interface} rx N` sets how many")
        return [self.queue]

    def check_buffers(self, Arena arena):
        """Raise where the arena's buffers are none of a UMEM, or too small for the interface's frames."""
        most = mtu_of(self.interface)
        if arena.buffer_size not in (2048, 4096):
            raise UsageError(f"{self.name}: an arena with buffers of {arena.buffer_size} bytes; XDP takes 2048 or 4096")
        room = arena.buffer_size - FOS_XDP_HEADROOM - LINK_HEADER
        if most > room:
            raise CaptureError(f"{self.name}: its MTU of {most} does not fit the arena's buffers: `ip link set dev "
                               f"{self.interface} mtu {room}` or less")

    cdef int open_queue(self, fos_xsk *sock, zero_copy) except -1:
        """Open, set up and bind one queue's socket."""
        cdef uint32_t flags = NEED_WAKEUP | (0 if zero_copy is None else ZERO_COPY if zero_copy else COPY)
        cdef int shared = self.sharing[0] if self.sharing else -1
        cdef int failed
        try:
            made = socket.socket(FOS_AF_XDP, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        except OSError as error:
            self.refuse("socket", error.errno)
        sock.fd = made.detach()
        end = time.monotonic() + PATIENCE
        while shared < 0 and fos_xsk_register(sock, &self.arena.c):
            failed = c_errno
            if failed != errno.ENOBUFS or time.monotonic() > end:
                self.refuse("memory", failed)
            time.sleep(0.01)
        if fos_xsk_rings(sock, self.rx.size):
            self.refuse("rings", c_errno)
        while fos_xsk_bind(sock, self.index, flags, shared):
            failed = c_errno
            if failed != errno.EBUSY or time.monotonic() > end:
                self.refuse("bind", failed)
            time.sleep(0.01)
        self.sharing.append(sock.fd)
        self.io.zero_copy = fos_xsk_is_zero_copy(sock)
        return 0

    def attach(self, mode):
        """Put the program on the interface, or join the one that another port of ours put there."""
        cdef int failed
        there, _generic = xdp_attached(self.index)
        if there and fos_xdp_join(&self.program, there) == 0:
            self.mode = "joined"
            return
        if there:
            self.refuse("attach", errno.EPERM if c_errno == errno.EPERM else errno.EBUSY)
        for way in [mode] if mode else ["driver", "generic"]:
            if way == "generic" and switch(self.interface, "gro"):
                raise CaptureError(f"{self.name}: in generic mode, merged segments (GRO) would be lost: "
                                   f"`ethtool -K {self.interface} gro off`, or `flowos doctor {self.interface} --fix`")
            if fos_xdp_attach(&self.program, self.index, MODES[way]) == 0:
                self.mode = way
                return
            failed = c_errno
            if mode or way == "generic" or failed not in (errno.EOPNOTSUPP, errno.ERANGE):
                self.refuse("attach", failed)

    def refuse(self, step, code):
        """Raise CaptureError for a step of opening that failed, with the remedy."""
        name, megabytes = self.interface, (len(self.arena) * self.arena.buffer_size) >> 20
        rights = "no right to it; run as root, or give the program CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF"
        text = {
            ("socket", errno.EPERM): rights,
            ("socket", errno.EACCES): rights,
            ("socket", errno.EAFNOSUPPORT): "this kernel has no AF_XDP sockets (CONFIG_XDP_SOCKETS); "
                                            f"take packet:{name}",
            ("memory", errno.ENOBUFS): f"no room to lock {megabytes} MiB of packet buffers: raise `ulimit -l` "
                                       "(LimitMEMLOCK= of a unit), give the program CAP_IPC_LOCK, or take fewer slots",
            ("bind", errno.EBUSY): "the queue is taken by another program; each queue has one socket",
            ("bind", errno.EINVAL): f"the kernel refuses to bind to the queue; `ethtool -l {name}` shows which there are",
            ("bind", errno.EOPNOTSUPP): f"the driver {driver(name) or 'of this interface'!s} does not do zero-copy, or not beside "
                                        "the other port; leave zero_copy out",
            ("bind", errno.ENETDOWN): f"the interface is down: `ip link set dev {name} up`",
            ("attach", errno.EPERM): rights,
            ("attach", errno.EBUSY): f"another XDP program is on it: end its owner, or `ip link set dev {name} xdp off`",
            ("attach", errno.EEXIST): f"another XDP program is on it: end its owner, or `ip link set dev {name} xdp off`",
            ("attach", errno.ERANGE): f"its MTU of {mtu_of(name)} is more than the driver takes with XDP: "
                                      f"`ip link set dev {name} mtu 1500`, or mode='generic'",
            ("attach", errno.ENOSPC): "its other end sends on more queues than it receives on: "
                                      f"`ethtool -L {name} rx N` with the other end's number, or fewer there",
            ("attach", errno.EOPNOTSUPP): f"the driver {driver(name) or 'of this interface'!s} has no XDP of its own; leave mode out",
            ("attach", errno.EINVAL): "the kernel refuses the XDP program; Linux 5.9 or later is needed",
        }.get((step, code), os.strerror(code))
        raise CaptureError(f"{self.name}: {text}")

    # ---- running ----------------------------------------------------------------------------

    cdef Ring show(self, fos_ring *ring):
        return ring_over(ring, self, self.arena)

    cdef int rxsync(self) except -1 nogil:
        cdef int n
        if self.ended:
            return 0
        n = fos_xdp_receive(self.io, &self.rx)
        if self.io.gone:
            self.ended = True
        return n

    cdef int txsync(self) except -1 nogil:
        if self.closed or self.io.gone:
            return 0
        return fos_xdp_send(self.io, &self.tx)

    def fileno(self):
        """Give the descriptor to wait on; UsageError when the port was closed."""
        if self.closed:
            raise UsageError(f"{self.name}: the port is closed")
        return self.io.queues[0].fd if self.wait is None else self.wait.fileno()

    @property
    def link(self):
        """The LINKTYPE_* of the interface's frames: 1, Ethernet."""
        return 1

    @property
    def zero_copy(self):
        """Say whether the driver reads and writes the arena itself."""
        return bool(self.io.zero_copy)

    @property
    def queues(self):
        """List the numbers of the queues that this port is bound to."""
        return [self.io.queues[i].queue for i in range(self.io.count)]

    # ---- the end ----------------------------------------------------------------------------

    def close(self):
        """Send what the TX ring holds and let go of the interface; its frames go to the host again."""
        if not self.closed:
            self.txsync()
            self.kernel = self.count_kernel()
            self.let_go()
        Port.close(self)

    cdef int let_go(self) except -1:
        """Close the sockets and let go of the program."""
        cdef uint32_t i
        fos_xdp_detach(&self.program)
        if self.io == NULL:
            return 0
        for i in range(self.io.count):
            if self.sharing is not None and self.io.queues[i].fd in self.sharing:
                self.sharing.remove(self.io.queues[i].fd)
            if self.io.queues[i].fd >= 0:
                fos_xsk_close(&self.io.queues[i])
        if self.wait is not None:
            self.wait.close()
            self.wait = None
        return 0

    cdef void give_back(self) noexcept:
        """Give the arena all buffers: those the kernel had, spare ones, those of RX slots not taken back and of TX slots not sent."""
        cdef uint32_t i
        if self.io.lent == NULL:
            return
        for i in range(self.arena.c.count):
            if self.io.lent[i]:
                fos_arena_give(&self.arena.c, i)
        if self.rx.slots != NULL:
            for i in range(self.rx.tail - self.io.released):
                fos_arena_give(&self.arena.c, fos_ring_slot(&self.rx, self.io.released + i).buffer)
        for i in range(self.io.spares):
            fos_arena_give(&self.arena.c, self.io.spare[i])
        if self.tx.slots != NULL:             # where opening failed, each slot has its own
            for i in range(self.tx.tail - self.io.sent if self.begun else self.tx.size):
                fos_arena_give(&self.arena.c, fos_ring_slot(&self.tx, self.io.sent + i).buffer)

    def count_kernel(self):
        """Sum up the kernel's counters of all queues."""
        cdef uint64_t[6] counters = [0, 0, 0, 0, 0, 0]
        cdef uint32_t i
        for i in range(self.io.count):
            fos_xsk_count(&self.io.queues[i], counters)
        return {name: counters[i] for i, name in enumerate(KERNEL)}

    def statistics(self):
        kernel = self.kernel if self.closed else self.count_kernel()
        return {"received": self.io.received, "checksums": self.io.completed, "strange": self.io.strange,
                "sent": self.io.transmitted - self.io.refused_full, "refused_long": self.io.refused_long,
                "refused_short": self.io.refused_short, "refused_full": self.io.refused_full,
                "refused_down": self.io.refused_down, **kernel}

    @property
    def descriptions(self):
        return DESCRIPTIONS
