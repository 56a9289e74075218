"""In line, a body that is held whole is let go before its sender's window closes, so that nobody waits for the time to be up."""
import pytest
from models.tcp import ACK, PSH
from test_in_line import Between

from flowos.modules.http_strip import HttpStrip

REQUEST = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
LENGTH = 200_000


class Patient(HttpStrip):
    """Strip, and be held by the number of bytes alone: the time never comes."""

    hold = 1e6


@pytest.mark.parametrize("keep_bytes", [1 << 15, 1 << 16])
def test_a_long_body_is_let_go_while_its_sender_may_still_send(keep_bytes):
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LENGTH
    with Between(Patient(b"SECRET"), keep_bytes=keep_bytes) as between:
        between.open().say(0, 0, REQUEST, flags=ACK | PSH)
        between.say(1, 0, head + b"a SECRET; ", ack=len(REQUEST))
        sent, came = len(head) + 10, b""
        while not came and sent < keep_bytes:
            left, _ = between.say(1, sent, b"x" * 1000, ack=len(REQUEST))
            sent += 1000
            came += b"".join(segment[3] for segment in left)
        assert sent < keep_bytes * 3 // 4
        assert came.startswith(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n") and b"SECRET" not in came
        assert between.count("windows_hold_limit") == 1
