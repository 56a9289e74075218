"""Dump the packets of a flow into a capture file, in the order in which they are forwarded.

    flowos run x.pcap --flow web=tcp,tp_dst=80 --attach pcap_dump:path=web.pcapng@web

What reaches a module is written: packets of the flow's connections.  Where a module of the same flow
works at tcp or above, retransmissions are left out; a datagram that came in fragments is written
once, joined, with the time of the last.  (`flowos run -w` writes all packets of all flows.)
"""
import os
from pathlib import Path

from flowos import Module, UsageError
from flowos.core.writer import CaptureWriter

ETHERNET = 1               # LINKTYPE_ETHERNET
SNAPLEN = 262_144          # what tcpdump and Wireshark take at most


class PcapDump(Module):
    """Write each packet of a flow to `path`: pcap where it ends in .pcap, else pcapng.

    Frames are cut to `snaplen` bytes.  With `rotate_bytes` a new file is begun when one has so many:
    `x.pcap`, `x-2.pcap`, …  `link` is the LINKTYPE_* of packets whose port does not say.
    CaptureError: it cannot be written.

    >>> import tempfile
    >>> from flowos import Engine
    >>> with tempfile.TemporaryDirectory() as folder, Engine() as engine:
    ...     engine.add_port("examples/demo.pcap")
    ...     flow = engine.create_flow("dns", "udp,tp_dst=53")
    ...     dump = PcapDump(Path(folder) / "dns.pcap")
    ...     attachment = engine.attach(dump, "dns")
    ...     engine.run()
    ...     dump.packets
    52
    """

    name = "pcap_dump"
    protocol = "frame"

    def __init__(self, path: Path, snaplen: int = SNAPLEN, rotate_bytes: int = 0, link: int = ETHERNET):
        if not 1 <= snaplen <= SNAPLEN:
            raise UsageError(f"pcap_dump: snaplen is {snaplen}, expected 1 to {SNAPLEN}")
        if rotate_bytes < 0:
            raise UsageError(f"pcap_dump: rotate_bytes is {rotate_bytes}, expected 0 (never) or more")
        self.path, self.snaplen, self.rotate_bytes, self.link = os.fspath(path), snaplen, rotate_bytes, link
        self.writer = None
        self.files = self.packets = self.bytes = 0     # bytes: of packets in the file in hand

    def start(self, flow):
        self.begin()

    def begin(self):
        """Begin the next file."""
        self.files, self.bytes = self.files + 1, 0
        stem, suffix = os.path.splitext(self.path)
        self.writer = CaptureWriter(self.path if self.files == 1 else f"{stem}-{self.files}{suffix}",
                                    snaplen=self.snaplen)

    def process(self, window):
        for unit in window.units:
            frame = bytes(unit.header) + bytes(unit.data)
            if self.rotate_bytes and self.bytes and self.bytes + len(frame) > self.rotate_bytes:
                self.writer.close()
                self.begin()
            self.writer.write(unit.ts, frame, unit.wire, getattr(unit, "link", self.link))
            self.packets += 1
            self.bytes += len(frame)

    def stop(self):
        if self.writer is not None:
            self.writer.close()
