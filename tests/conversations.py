"""Captures made by hand for the engine's tests, and modules that write down what they are given.

A capture is a list of records for `models.build.pcap`; `save` writes it, compressed where the name
says so, so that one capture can be read where it lies and as it comes.
"""
import gzip

import flowos
from flowos.testing import read_packets
from models import build
from models.build import A, B, START_NS
from models.talk import Talk

REQUEST = b"GET /page HTTP/1.1\r\nHost: a.example\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
MILLISECOND = 10**6


def save(folder, records, name="capture.pcap"):
    """Write records to a file; a name that ends in .gz makes it compressed.  Gives its path."""
    data, path = build.pcap(records), folder / name
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def records(talk, a=A, b=B):
    """Turn a Talk into records."""
    return [build.tcp_record(packet, a, b) for packet in talk.packets]


def exchange(request=REQUEST, response=RESPONSE, a=A, b=B, at=0, cut=1000, close=True):
    """Give the records of one connection: handshake, a request, its response, FINs; `at` in ns from the start.

    Segments carry `cut` bytes at most.
    """
    talk = Talk()
    talk.now += at
    talk.open()
    for start in range(0, len(request), cut):
        talk.a(start, request[start:start + cut], ack=0)
    for start in range(0, len(response), cut):
        talk.b(start, response[start:start + cut], ack=len(request))
    if close:
        talk.a(len(request), ack=len(response), flags="F").b(len(response), ack=len(request) + 1, flags="F")
        talk.a(len(request) + 1, ack=len(response) + 1)
    return records(talk, a, b)


def exchanges(count, apart=10 * MILLISECOND, **parts):
    """Give the records of several connections from different clients, one after the other."""
    return [record for i in range(count)
            for record in exchange(a=(f"10.1.{i >> 8}.{i & 255}", 40000), at=i * apart, **parts)]


def datagram(payload, a=A, b=B, at=0):
    """Give the record of one UDP datagram."""
    return START_NS + at, build.ethernet(build.ip(a, b, build.UDP, build.udp(a, b, payload)))


def datagrams(count, apart=MILLISECOND, size=20, port=53):
    """Give the records of datagrams from different clients: one connection each."""
    return [datagram(bytes([i & 255]) * size, (f"10.2.{i >> 8}.{i & 255}", 1000), ("10.0.0.2", port), i * apart)
            for i in range(count)]


def in_fragments(records, size=8, first_id=0):
    """Cut each record's IPv4 datagram into fragments of `size` bytes, a multiple of eight."""
    found = []
    for number, (ts, frame, *_) in enumerate(records, first_id):
        packet = frame[14:]
        src, dst = (".".join(map(str, packet[at:at + 4])) for at in (12, 16))
        payload = packet[20:]
        for at in range(0, len(payload), size):
            part = payload[at:at + size]
            found.append((ts, build.ethernet(build.ipv4(src, dst, packet[9], part, id=number & 0xffff, offset=at,
                                                        more=at + size < len(payload)))))
    return found


class Log(flowos.Module):
    """Writes down every call, and every unit as (connection, direction, kind, offset, length, bytes)."""

    def __init__(self, protocol="tcp", name="log", into=None):
        self.protocol, self.name = protocol, name
        self.calls = [] if into is None else into
        self.units = []

    def start(self, flow):
        self.calls.append(("start", None if flow is None else flow.name))

    def opened(self, connection):
        self.calls.append(("opened", connection.id))

    def process(self, window):
        number = window.connection.id
        self.calls.append(("process", number))
        for unit in window.units:
            self.units.append((number, window.direction, unit.kind, unit.offset, unit.length, bytes(unit.data)))

    def closed(self, connection, reason):
        self.calls.append(("closed", connection.id))

    def stop(self):
        self.calls.append(("stop",))

    def told(self, what):
        """List the arguments of the calls of one kind."""
        return [call[1] for call in self.calls if call[0] == what]

    def streams(self):
        """Give {(connection, direction): bytes}, each byte at its place: a byte twice or none fails."""
        found = {}
        for number, direction, kind, offset, length, data in self.units:
            stream = found.setdefault((number, direction), b"")
            if kind == "data":
                assert offset == len(stream), "a byte was repeated, or is missing"
                found[number, direction] = stream + data
        return found


def run(path, *modules, flow=None, **config):
    """Run a capture through an engine to its end; gives the engine, closed."""
    engine = flowos.Engine(flowos.Config(**config))
    engine.add_port(path)
    for module in modules:
        engine.attach(module, flow)
    engine.run()
    engine._check()
    engine.close()
    return engine


def run_in_line(folder, packets, *modules, **config):
    """Run records through modules in line; give what left as (ts, frame) and the engine's counters."""
    source, target = save(folder, packets), folder / "out.pcap"
    with flowos.Engine(flowos.Config.offline(**config)) as engine:
        engine.add_port(source)
        engine.add_output(target)
        for module in modules:
            engine.attach(module)
        engine.run()
        engine._check()
        counters = engine.statistics()
    return read_packets(target), counters
