"""Ports on TAP devices: a network interface of this host's own, with us at its other end.

What the host sends on the interface is received here; what is sent here, the host receives.  The device
is made if there is none of its name, and goes with the port; one that somebody made to stay (`ip tuntap add NAME mode
tap`) stays.
"""
import errno
import fcntl
import os
import struct

cimport cython

from flowos.core.arena cimport Arena
from flowos.core.port cimport Port
from flowos.core.ring cimport Ring, fos_ring, free_slots, make_slots, ring_over
from flowos.core.errors import CaptureError, UsageError
from flowos.core.interface import bring_up, mtu_of

__all__ = ["TapPort"]

# Of linux/if_tun.h.
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454ca, 0x0002, 0x1000
LINK_HEADER = 14 + 4 + 4            # Ethernet with two tags

DESCRIPTIONS = {
    "received": "packets received",
    "too_long": "packets not received because they are longer than a buffer",
    "sent": "packets sent",
    "refused_down": "packets not sent because the interface is down or gone",
    "refused": "packets not sent for other reasons: shorter than a link header, say",
}


@cython.no_gc_clear                 # the arena is needed to the last
cdef class TapPort(Port):
    """Be the other end of a network interface of this host.

    `name`: of the interface, up to 15 characters.  It is brought up; addresses are its user's business.  `slots`,
    a power of two, is the size of each ring; twice as many buffers come from `arena`, or from a new
    one whose buffers hold the interface's MTU.  No call blocks; `fileno` can be waited on.  CaptureError: no right to it, or the name is another interface's.

    >>> from flowos import UsageError
    >>> try: TapPort("a name that is too long")
    ... except UsageError as error: print(error)
    tap:a name that is too long: expected a name of 1 to 15 characters without '/' and blanks
    """

    def __cinit__(self, *arguments, **options):
        self.io.fd = -1

    def __init__(self, name, slots=512, Arena arena=None):
        self.open_device(f"tap:{name}", name, slots, arena)

    cdef int open_device(self, str title, str name, object slots, Arena arena) except -1:
        """Make or join the device, bring it up and make the rings; `title` is what messages call the port."""
        if self.device is not None:
            raise UsageError(f"{self.name}: a port is opened once")
        self.name, self.interface, self.live = title, name, True
        if not 1 <= len(name.encode()) <= 15 or "/" in name or any(c.isspace() or c == "\0" for c in name):
            raise UsageError(f"{self.name}: expected a name of 1 to 15 characters without '/' and blanks")
        try:
            self.device = open("/dev/net/tun", "r+b", buffering=0)
            fcntl.ioctl(self.device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
            self.prepare()
            bring_up(name)
            most = mtu_of(name) + LINK_HEADER + 1         # a frame that fills its buffer may have been cut
        except OSError as error:
            if self.device is not None:
                self.device.close()
            self.closed = self.ended = True
            raise CaptureError(f"{self.name}: " + {
                errno.EPERM: "no right to make a network interface; run as root, or give the program CAP_NET_ADMIN",
                errno.EACCES: "no right to open /dev/net/tun; run as root",
                errno.ENOENT: "this kernel has no TAP devices (/dev/net/tun; CONFIG_TUN)",
                errno.EBUSY: "another program is at the other end of this interface",
                errno.EINVAL: f"there is an interface {name} that is no TAP device",
            }.get(error.errno, error.strerror)) from error
        os.set_blocking(self.device.fileno(), False)
        self.io.fd = self.device.fileno()
        if arena is None:
            arena = Arena(2 * slots, max(2048, 1 << (most - 1).bit_length()))
        self.arena = arena
        make_slots(&self.rx, slots, arena, self.name)
        make_slots(&self.tx, slots, arena, self.name)
        self.tx.tail = self.tx.size
        return 0

    def prepare(self):
        """Set the device up before it is brought up; here there is nothing to do."""

    def __dealloc__(self):
        if self.arena is not None:
            free_slots(&self.rx, self.arena)
            free_slots(&self.tx, self.arena)

    cdef Ring show(self, fos_ring *ring):
        return ring_over(ring, self, self.arena)

    cdef int rxsync(self) except -1 nogil:
        cdef int n
        if self.ended:
            return 0
        n = fos_tap_receive(&self.io, &self.rx)
        if self.io.gone:
            self.ended = True
        return n

    cdef int txsync(self) except -1 nogil:
        if self.closed:
            return 0
        return fos_tap_send(&self.io, &self.tx)

    def fileno(self):
        """Give the descriptor to wait on; UsageError when the port was closed."""
        if self.closed:
            raise UsageError(f"{self.name}: the port is closed")
        return self.io.fd

    @property
    def link(self):
        """The LINKTYPE_* of the frames: 1, Ethernet."""
        return 1

    def close(self):
        """Send what the TX ring holds and let go of the device."""
        if not self.closed:
            self.txsync()
            self.device.close()
            self.io.fd = -1
        Port.close(self)

    def statistics(self):
        return {"received": self.io.received, "too_long": self.io.too_long, "sent": self.io.transmitted,
                "refused_down": self.io.refused_down, "refused": self.io.refused}

    @property
    def descriptions(self):
        return DESCRIPTIONS
