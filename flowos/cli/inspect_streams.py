"""What `flowos inspect` says of a connection: its counters, and its two streams' digests.

A stream is hashed as its bytes come, and kept nowhere; with --write-streams it is also written
to a file.  A direction that carries nothing costs nothing.
"""
import collections
import hashlib
import os

from flowos import Module

EMPTY = hashlib.sha256(b"").hexdigest()
OPEN_FILES = 128           # stream files held open at a time: below any usual ulimit -n


class Streams(Module):
    """Digest every stream of every connection; report each connection when it has closed."""

    name, protocol, scope = "inspect_streams", "transport", "connection"

    def __init__(self, report, files=None):
        self.report, self.files = report, files
        self.digests = {}          # (connection, direction) -> [bytes, hash]

    def process_batch(self, windows):
        for window in windows:
            self.process(window)

    def process(self, window):
        connection, digest = window.connection, None
        for segment in window.segments:
            if digest is None:
                key = (connection.id, window.direction)
                digest = self.digests.get(key)
                if digest is None:
                    digest = self.digests[key] = [0, hashlib.sha256()]
            digest[0] += len(segment)
            digest[1].update(segment)
            if self.files is not None:
                self.files.write(connection, window.direction, segment)

    def closed(self, connection, reason):
        ends = [self.digests.pop((connection.id, way), None) for way in (0, 1)]
        self.report.connection(connection.id, record(connection, ends))
        if self.files is not None:
            self.files.finish(connection)


def record(connection, ends):
    """Give the JSON record of a connection; `ends` are its directions' [bytes, hash] or None."""
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
    size, sha256 = (0, EMPTY) if digest is None else (digest[0], digest[1].hexdigest())
    return {
        "packets": direction.packets, "bytes": direction.bytes,
        "payload_bytes": direction.payload_bytes,
        "syn": direction.syn, "fin": direction.fin, "rst": direction.rst,
        "stream": {"bytes": size, "sha256": sha256, "gaps": inner_gaps(direction.gaps, size)},
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
