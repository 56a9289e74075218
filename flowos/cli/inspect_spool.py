"""Records of a report, kept in temporary files until the report is written.

A section's records go to a file as they come, one line each, so that a report of any length
needs no memory.  Connections close in another order than they began: their numbers index a
second file that says where each one's line stands.

    data:   {…}\\n{…}\\n{…}\\n            in order of closing
    index:  [offset u64][length u64] …   by number; length 0: none with this number

The files are unlinked from the start; they live where `tempfile` puts them (TMPDIR).
"""
import os
import struct
import tempfile

ENTRY = struct.Struct("<QQ")
BLOCK = 4096 * ENTRY.size      # index read at a time
CHUNK = 1 << 16                # bytes of an unordered section read at a time


class Spool:
    """Lines in the order in which they came."""

    def __init__(self):
        self.file = tempfile.TemporaryFile(prefix="flowos-")
        self.count = 0

    def append(self, line):
        """Add one line (text without a line feed)."""
        self.file.write(line.encode() + b"\n")
        self.count += 1

    def lines(self):
        """Give the lines again, in order.

        >>> spool = Spool(); spool.append("one"); spool.append("two"); list(spool.lines())
        ['one', 'two']
        """
        self.file.seek(0)
        for line in self.file:
            yield line[:-1].decode()

    def close(self):
        """Drop the lines."""
        self.file.close()


class NumberedSpool(Spool):
    """Lines that come in any order, each under its own number, and leave in order of number."""

    def __init__(self):
        super().__init__()
        self.index = tempfile.TemporaryFile(prefix="flowos-", buffering=0)
        self.offset = 0
        self.last = -1

    def put(self, number, line):
        """Store a line under a number that has none yet.

        >>> spool = NumberedSpool(); spool.put(2, "two"); spool.put(0, "zero"); list(spool.numbered())
        [(0, 'zero'), (2, 'two')]
        """
        length = self.file.write(line.encode() + b"\n")
        os.pwrite(self.index.fileno(), ENTRY.pack(self.offset, length), number * ENTRY.size)
        self.offset += length
        self.last = max(self.last, number)
        self.count += 1

    def numbered(self):
        """Give (number, line) in order of number."""
        self.file.flush()
        data, index = self.file.fileno(), self.index.fileno()
        for at in range(0, (self.last + 1) * ENTRY.size, BLOCK):
            block = os.pread(index, BLOCK, at)
            for number, (offset, length) in enumerate(ENTRY.iter_unpack(block), at // ENTRY.size):
                if length:
                    yield number, os.pread(data, length, offset)[:-1].decode()

    def lines(self):
        """Give the lines in order of number."""
        for _, line in self.numbered():
            yield line

    def close(self):
        """Drop the lines."""
        super().close()
        self.index.close()
