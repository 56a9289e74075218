"""From what a user names to the port that an engine reads.

    path          a capture file, mapped; a compressed one, FIFO or socket is read as it comes
    "-"           standard input
    a Port        itself
"""
import os
import stat
import sys

from flowos.core.capture import CapturePort
from flowos.core.errors import CaptureError, UsageError
from flowos.core.merged import MergedPort
from flowos.core.port import Port
from flowos.core.stream_input import compression_of
from flowos.core.streamport import StreamPort

#: Slots of an input that is read as it comes: units may refer to so many packets before they are released.
STREAM_SLOTS = 4096


def open_port(spec):
    """Open one input.  CaptureError: it cannot be read, or is no capture; UsageError: not a spec."""
    if isinstance(spec, Port):
        return spec
    if spec == "-":
        return StreamPort(sys.stdin.fileno(), slots=STREAM_SLOTS, name="standard input")
    if not isinstance(spec, (str, bytes, os.PathLike)):
        raise UsageError(f"a port is named by a path, '-' or a Port, not by {spec!r}")
    name = os.fsdecode(spec)
    try:
        mode = os.stat(spec).st_mode
        if stat.S_ISDIR(mode):
            raise CaptureError(f"{name}: is a directory, expected a capture file")
        if not stat.S_ISREG(mode):
            return StreamPort(spec, slots=STREAM_SLOTS)
        with open(spec, "rb") as file:
            compressed = compression_of(file.read(4))
    except OSError as error:
        if isinstance(error, CaptureError):
            raise
        raise CaptureError(f"{name}: {error.strerror}") from error
    return StreamPort(spec, slots=STREAM_SLOTS) if compressed else CapturePort(spec)


def merge_ports(ports):
    """Give one port that merges several by time."""
    return MergedPort(ports, slots=STREAM_SLOTS)
