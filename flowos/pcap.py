"""The calls that users of libpcap know, on top of rings (D3.2 section 4.1.7).

    >>> from flowos import pcap
    >>> reader = pcap.open_offline("examples/demo.pcap")
    >>> reader.setfilter("tcp port 80")
    >>> header, data = reader.next()
    >>> header.getlen() == len(data)
    True

Names and results are those of pcapy, and of pypcap where a reader is iterated.  A device is the name of a network
interface, which is looked on through packet sockets, or a port's spec: "xdp:eth0", "tap:name".  What differs from
libpcap's filters is told in flowos/pcapfilter.py.
"""
import os
import socket
import time

from flowos.core.blockport import BlockPort
from flowos.core.errors import CaptureError, UsageError
from flowos.core.packetport import PacketPort
from flowos.core.ports import open_port
from flowos.pcapfilter import compile_filter
from flowos.rings import poll

__all__ = ["DLT_EN10MB", "DLT_RAW", "Pkthdr", "Reader", "findalldevs", "lookupdev", "open_live", "open_offline"]

DLT_EN10MB, DLT_RAW = 1, 101
SPECS = ("xdp:", "packet:", "tap:", "host:", "pipe:")
FOR_EVER = 0                        # to_ms: as libpcap has it


def open_live(device, snaplen=65535, promisc=True, to_ms=1000):
    """Open a device; reads wait `to_ms` milliseconds at most, 0: for ever.  CaptureError: it cannot be opened."""
    if not isinstance(device, str):
        port = open_port(device)
    elif device.startswith(SPECS):
        port = open_port(device)
    else:
        port = BlockPort(device, promiscuous=bool(promisc))
    return Reader(port, snaplen, to_ms)


def open_offline(path):
    """Open a capture file, pcap or pcapng, compressed or not; "-" is standard input.  CaptureError: it is none."""
    return Reader(open_port(path), 1 << 18, FOR_EVER)


def findalldevs():
    """List the names of the network interfaces."""
    return [name for _number, name in socket.if_nameindex()]


def lookupdev():
    """Give the first interface that is not the loopback; CaptureError: there is none."""
    for name in findalldevs():
        if name != "lo":
            return name
    raise CaptureError("there is no network interface but the loopback")


class Pkthdr:
    """What is known of a packet beside its bytes; `ns` is its time in nanoseconds since the epoch."""

    __slots__ = ("caplen", "len", "ns")

    def __init__(self, ns, caplen, length):
        self.ns, self.caplen, self.len = ns, caplen, length

    def getts(self):
        """Give the time as (seconds, microseconds)."""
        return self.ns // 1_000_000_000, self.ns % 1_000_000_000 // 1000

    def getcaplen(self):
        """Give the number of bytes that are here."""
        return self.caplen

    def getlen(self):
        """Give the number of bytes that there were on the wire."""
        return self.len


class Reader:
    """An opened device or file; a context manager.  `open_live` and `open_offline` make it."""

    def __init__(self, port, snaplen, to_ms):
        if not 1 <= snaplen <= 1 << 18:
            raise UsageError(f"{port.name}: snaplen {snaplen}; expected 1 to {1 << 18}")
        self.port, self.snaplen, self.to_ms = port, snaplen, to_ms
        self.blocking, self.broken = True, False
        self.passes = None
        self.link, self.received, self.waiting = None, 0, []
        self.sender = None

    # ---- reading ----------------------------------------------------------------------------

    def packets(self, most):
        """Take at most `most` packets that are here and pass the filter, without waiting: (header, data) pairs."""
        if self.waiting:                      # left over when a callback broke off
            taken, self.waiting = self.waiting[:most], self.waiting[most:]
            return taken
        if not self.port.rx_ring.avail:
            self.port.rx_sync()
        ring = self.port.rx_ring
        if self.link is None and ring.avail:
            self.link = ring[ring.cur].link
        taken = []
        while ring.avail and len(taken) < most:
            links = [ring[ring.cur].link] if self.passes else None
            for ns, wire, data in ring.read(1 if self.passes else most - len(taken)):
                self.received += 1
                if self.passes is None or self.passes(data, wire, links[0]):
                    taken.append((Pkthdr(ns, min(len(data), self.snaplen), wire), data[:self.snaplen]))
        return taken

    def await_packets(self, most):
        """Take packets, waiting for the first; [] at the time-out, at the end, or at once if told not to block."""
        deadline = None if self.to_ms == FOR_EVER else time.monotonic() + self.to_ms / 1000
        while not (taken := self.packets(most)):
            if self.over or not self.blocking or self.broken:
                break
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                break
            if self.port.live:
                poll(self.port, timeout=0.2 if left is None else min(left, 0.2))
        return taken

    @property
    def over(self):
        """Say whether all was read and no more will come."""
        return self.port.ended and not self.port.rx_ring.avail and not self.waiting

    def next(self):
        """Give the next packet as (header, data); (None, b"") at the end and at the time-out."""
        taken = self.await_packets(1)
        return taken[0] if taken else (None, b"")

    def dispatch(self, count, callback):
        """Call `callback(header, data)` for at most `count` packets, -1: all that are here; returns how many.

        It waits for the first one, to_ms at most.
        """
        done = self.hand_out(count if count > 0 else 1 << 30, callback)
        self.broken = False
        return done

    def hand_out(self, most, callback):
        """Call back for at most `most` packets; what follows the one that broke off is kept."""
        taken = self.await_packets(most)
        for number, (header, data) in enumerate(taken):
            callback(header, data)
            if self.broken:
                self.waiting = taken[number + 1:] + self.waiting
                return number + 1
        return len(taken)

    def loop(self, count, callback):
        """Call `callback(header, data)` for `count` packets, -1: to the end; returns how many there were.

        It ends before that where the port does, or at `breakloop`; a time-out does not end it.
        """
        done = 0
        while (count <= 0 or done < count) and not self.broken:
            done += self.hand_out(min(256, count - done) if count > 0 else 256, callback)
            if self.over:
                break
        self.broken = False
        return done

    def breakloop(self):
        """End `loop` or `dispatch` after the packet under way; may be called by the callback."""
        self.broken = True

    def __iter__(self):
        """Yield (seconds since the epoch, bytes) to the end; on a device, on and on."""
        while not self.over:
            header, data = self.next()
            if header is not None:
                yield header.ns / 1e9, data

    # ---- sending ----------------------------------------------------------------------------

    def inject(self, data):
        """Send a frame; returns its length, or -1 when there is no room for it now.  UsageError: this sends nothing."""
        port = self.port if self.port.tx_ring is not None else self.sender
        if port is None:
            if not isinstance(self.port, BlockPort):
                raise UsageError(f"{self.port.name}: nothing can be sent here")
            port = self.sender = PacketPort(self.port.interface, slots=64, receive=False)
        port.tx_sync()
        if not port.tx_ring.write(data):
            return -1
        port.tx_sync()
        return len(data)

    def sendpacket(self, data):
        """Send a frame; CaptureError when there is no room for it."""
        if self.inject(data) < 0:
            raise CaptureError(f"{self.port.name}: no room to send")

    # ---- settings ---------------------------------------------------------------------------

    def setfilter(self, text):
        """Let only packets through that a filter is true of.  UsageError: not a filter."""
        self.passes = compile_filter(text) if text.strip() else None

    def datalink(self):
        """Give the LINKTYPE_* of the packets: DLT_EN10MB, DLT_RAW, ...; a file's is its first packet's."""
        if self.link is None:
            self.link = getattr(self.port, "link", None)
        if self.link is None:
            self.port.rx_sync()
            ring = self.port.rx_ring
            self.link = ring[ring.cur].link if ring.avail else DLT_EN10MB
        return self.link

    def snapshot(self):
        """Give the most bytes that are handed out of a packet."""
        return self.snaplen

    def stats(self):
        """Give (packets received, packets dropped for want of room, packets dropped by the interface)."""
        counted = self.port.statistics()
        names = "kernel_dropped", "kernel_ring_full", "too_long"
        return self.received, sum(counted.get(name, 0) for name in names), counted.get("kernel_no_buffer", 0)

    def setnonblock(self, on):
        """Let reads return at once where nothing is here."""
        self.blocking = not on

    def getnonblock(self):
        """Say whether reads return at once."""
        return not self.blocking

    def fileno(self):
        """Give the descriptor to wait on."""
        return self.port.fileno()

    getfd = fileno

    def close(self):
        """Let go of the device or file."""
        for port in filter(None, (self.sender, self.port)):
            port.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __repr__(self):
        return f"<pcap.Reader of {os.fspath(self.port.name)!r}>"
