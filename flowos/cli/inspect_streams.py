"""What `flowos inspect` says of a connection: its counters, and its two streams' digests.

A stream is hashed as its bytes come, and kept nowhere; with --write-streams it is also written
to a file.  A direction that carries nothing costs nothing.
"""
import collections
import hashlib
import os

from flowos import Module

OPEN_FILES = 128           # stream files held open at a time: below any usual ulimit -n
SMALL = 128                # bytes kept as they are before a hash is begun
MOST_GAPS = 1 << 16        # gaps listed per direction; more are counted only


class Digest:
    """What is known of one direction's stream so far.

    Most streams of many captures are one small datagram: the first bytes are kept as they are
    until more come, which takes a quarter of the memory of a hash in progress.
    """

    __slots__ = ("size", "hash", "gaps")

    def __init__(self):
        self.size, self.hash, self.gaps = 0, b"", None

    def feed(self, data):
        """Take the next bytes."""
        if self.size == 0 and len(data) <= SMALL:
            self.hash = bytes(data)
        else:
            if type(self.hash) is bytes:
                self.hash = hashlib.sha256(self.hash)
            self.hash.update(data)
        self.size += len(data)

    def gap(self, offset, length):
        """Note a gap; one that follows on another makes it longer.  False: there are too many."""
        if self.gaps is None:
            self.gaps = []
        if self.gaps and sum(self.gaps[-1]) == offset:
            self.gaps[-1] = (self.gaps[-1][0], self.gaps[-1][1] + length)
        elif len(self.gaps) < MOST_GAPS:
            self.gaps.append((offset, length))
        else:
            return False
        return True

    def record(self):
        """Give the JSON record of the stream."""
        whole = hashlib.sha256(self.hash) if type(self.hash) is bytes else self.hash
        return {"bytes": self.size, "sha256": whole.hexdigest(), "gaps": inner_gaps(self.gaps or (), self.size)}


class Streams(Module):
    """Digest every stream of every connection; report each connection when it has closed."""

    name, protocol, scope = "inspect_streams", "transport", "connection"

    def __init__(self, report, files=None):
        self.report, self.files = report, files
        self.digests = {}          # connection * 2 + direction -> Digest, of those that carried anything
        self.unlisted = 0

    def process(self, window):
        digest = connection = None
        for unit in window.units:
            data = unit.data
            if not len(data) and unit.kind != "gap":
                continue                           # a SYN, FIN or RST: a position, no bytes
            if digest is None:
                connection = window.connection
                key = connection.id * 2 + window.direction
                digest = self.digests.get(key) or self.digests.setdefault(key, Digest())
            if not len(data):
                self.unlisted += not digest.gap(unit.offset, unit.length)
                continue
            digest.feed(data)
            if self.files is not None:
                self.files.write(connection, window.direction, data)

    def closed(self, connection, reason):
        ends = [self.digests.pop(connection.id * 2 + way, None) or Digest() for way in (0, 1)]
        self.report.connection(connection.id, record(connection, ends))
        if self.files is not None:
            self.files.finish(connection)

    def statistics(self):
        """Give the counter of gaps that are not listed."""
        return {"stream_gaps_not_listed": self.unlisted}


def record(connection, ends):
    """Give the JSON record of a connection; `ends` are its directions' Digests."""
    return {
        "proto": connection.proto, "a": end(connection.a), "b": end(connection.b),
        "vlans": [list(stack) for stack in connection.vlans], "depth": connection.depth,
        "flow": connection.flow, "first_ns": connection.first_ns, "last_ns": connection.last_ns,
        "state": connection.state, "detected": connection.detected,
        "a_to_b": way(connection.a_to_b, ends[0]), "b_to_a": way(connection.b_to_a, ends[1]),
    }


def end(endpoint):
    return {"addr": endpoint.addr, "port": endpoint.port}


def way(direction, digest):
    return {
        "packets": direction.packets, "bytes": direction.bytes,
        "payload_bytes": direction.payload_bytes,
        "syn": direction.syn, "fin": direction.fin, "rst": direction.rst, "stream": digest.record(),
    }


def inner_gaps(gaps, size):
    """List the gaps that lie before delivered bytes.

    What is missing behind the last delivered byte (a FIN tells that there was more) is counted
    in `tcp_gap_bytes`, and is no gap in what `bytes` and `sha256` cover.

    >>> inner_gaps([(10, 5), (20, 7)], 15)
    [{'offset': 10, 'length': 5}]
    """
    found, missing = [], 0
    for offset, length in gaps:
        if offset - missing >= size:
            break
        found.append({"offset": offset, "length": length})
        missing += length
    return found


class StreamFiles:
    """One file per direction that carried bytes: `000004.tcp.10.0.0.1.80-10.0.0.2.1024`.

    A file holds exactly the bytes that the report's digest covers.  Its name has the
    connection's number, its protocol, and the two ends, sender first (with "-" for the colons
    of an IPv6 address).  Few files are open at a time: the one written longest ago is closed.
    """

    def __init__(self, directory):
        os.makedirs(directory, exist_ok=True)
        self.directory = directory
        self.open = collections.OrderedDict()      # name -> file
        self.known = set()                         # names of connections that are still open

    def name(self, connection, direction):
        """Give the name of a direction's file."""
        ends = [connection.a, connection.b]
        source, target = (ends[direction], ends[1 - direction])
        spelled = ["{}{}".format(point.addr.replace(":", "-"),
                                 "" if point.port is None else f".{point.port}")
                   for point in (source, target)]
        return f"{connection.id:06d}.{connection.proto}.{spelled[0]}-{spelled[1]}"

    def write(self, connection, direction, segment):
        """Append a piece of a stream to its file."""
        name = self.name(connection, direction)
        if connection.a == connection.b and direction:
            name += ".b"                           # both ends alike: the directions are not
        file = self.open.get(name)
        if file is None:
            while len(self.open) >= OPEN_FILES:
                self.open.popitem(last=False)[1].close()
            mode = "ab" if name in self.known else "wb"
            file = self.open[name] = open(os.path.join(self.directory, name), mode)
            self.known.add(name)
        else:
            self.open.move_to_end(name)
        file.write(segment)

    def finish(self, connection):
        """Close a connection's files."""
        for direction in (0, 1):
            for name in (self.name(connection, direction), self.name(connection, direction) + ".b"):
                self.known.discard(name)
                file = self.open.pop(name, None)
                if file is not None:
                    file.close()

    def close(self):
        """Close what is open."""
        while self.open:
            self.open.popitem()[1].close()
