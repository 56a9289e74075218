"""Replace a byte pattern in streams or datagrams by other bytes, of any length.

    flowos run x.pcap -w y.pcap --attach replace:pattern=secret,replacement=XXXXXX

It knows nothing of what the bytes mean: at level "tcp" a replacement of another length breaks
protocols that count bytes.  For HTTP bodies take `protocol=http.body`, where the messages' lengths
are put right.
"""
from typing import Literal

from flowos import RDWR, Module, UsageError


class Replace(Module):
    """Replace every occurrence of `pattern` by `replacement`, in one direction or both.

    `protocol` is the level: "tcp", "udp", "http.body", …; `direction` is "both", "a_to_b" or "b_to_a".
    A match may lie across any number of packets; it is found wherever they are cut.

    >>> from flowos.testing import run
    >>> run(Replace, a=b"my secret is a secret", pattern=b"secret", replacement=b"word").a
    b'my word is a word'
    """

    name = "replace"
    mode = RDWR

    def __init__(self, pattern: bytes, replacement: bytes, protocol: str = "tcp",
                 direction: Literal["both", "a_to_b", "b_to_a"] = "both"):
        if not pattern:
            raise UsageError("replace: pattern is empty, expected at least one byte")
        if direction not in ("both", "a_to_b", "b_to_a"):
            raise UsageError(f"replace: direction is {direction!r}, expected both, a_to_b or b_to_a")
        self.pattern, self.replacement, self.protocol = pattern, replacement, protocol
        self.spared = {"both": None, "a_to_b": 1, "b_to_a": 0}[direction]
        self.resizes = len(pattern) != len(replacement)

    def process(self, window):
        if window.direction == self.spared or not window.writable:
            return
        for match in window.find(self.pattern):
            window.replace(match, self.replacement)
        window.release(keep=window.partial(self.pattern))
