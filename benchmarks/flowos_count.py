"""FlowOS counts: what the benchmarks run on FlowOS's side, through the public face only.

    python benchmarks/flowos_count.py udp|transport|tcp|defrag|http FILE.pcap [--check]

    udp        a module of scope "flow" counts packets and bytes per connection, from arrays
    transport  the same over all transports: TCP in order, UDP as it comes
    tcp        a module counts windows and bytes of every stream, called with batches of windows
    defrag     udp, where datagrams came in IP fragments
    http       a module counts responses and body bytes, called with batches of windows

One line of JSON says what was counted, and `inside_ns`, the CPU time from before the engine was
made until all was counted.  `--check` adds digests that the measured runs leave out.
"""
import json
import sys
import time

import flowos


class PerConnection(flowos.Module):
    """Count the packets and the frame bytes of every connection.

    Both live in one 64-bit word, packets above bit 40, so that a row costs one addition in memory:
    up to 16 million packets and a terabyte for each connection.
    """

    scope = "flow"

    def __init__(self, protocol):
        import numpy

        self.numpy = numpy
        self.protocol = protocol
        self.packet = numpy.uint64(1 << 40)
        self.totals = numpy.zeros(1 << 16, numpy.uint64)
        self.payload = 0

    def process(self, window):
        numpy, rows = self.numpy, window.array()
        connection = rows["connection"].astype(numpy.intp)
        while connection.max(initial=0) >= len(self.totals):
            self.totals = numpy.concatenate([self.totals, numpy.zeros_like(self.totals)])
        numpy.add.at(self.totals, connection, rows["wire"] + self.packet)
        self.payload += int(rows["length"].sum(dtype=numpy.int64))

    def answer(self):
        packets = (self.totals >> self.numpy.uint64(40)).astype(self.numpy.int64)
        octets = (self.totals & (self.packet - self.numpy.uint64(1))).astype(self.numpy.int64)
        return {"rows": int(packets.sum()), "rows_bytes": int(octets.sum()), "delivered_bytes": self.payload,
                "connections": int((packets > 0).sum()), "rows_squared": int((packets * packets).sum())}


class PerWindow(flowos.Module):
    """Count the windows and the bytes of all TCP streams."""

    protocol = "tcp"
    windows = bytes = 0

    def process_batch(self, windows):
        self.windows += len(windows)
        for window in windows:
            self.bytes += window.length

    def answer(self):
        return {"windows": self.windows, "stream_bytes": self.bytes}


class PerResponse(flowos.Module):
    """Count HTTP responses and the bytes of their bodies, chunk framing left out."""

    protocol = "http"
    responses = bodies = 0

    def process_batch(self, windows):
        for window in windows:
            for unit in window.units:
                if unit.kind == "response":
                    self.responses += 1
                elif unit.kind == "body":
                    self.bodies += unit.length

    def answer(self):
        return {"responses": self.responses, "body_bytes": self.bodies}


class Digest(flowos.Module):
    """Take the CRC-32 of every stream, and the number of connections."""

    protocol = "tcp"

    def __init__(self):
        self.crcs = {}
        self.connections = 0

    def opened(self, connection):
        self.connections += 1

    def process(self, window):
        import zlib

        key = window.connection.id, window.direction
        crc = self.crcs.get(key, 0)
        for segment in window.segments:
            crc = zlib.crc32(segment, crc)
        self.crcs[key] = crc

    def answer(self):
        return {"streams_crc": sum(self.crcs.values()), "tcp_connections": self.connections}


class DatagramDigest:
    """Take the CRC-32 of every datagram that was joined."""

    count = crc = 0

    def __call__(self, version, source, destination, identification, payload):
        import zlib

        self.count += 1
        self.crc += zlib.crc32(payload)

    def answer(self):
        return {"datagrams_told": self.count, "datagrams_crc": self.crc}


def consumers(mode, check):
    """Make the modules of a mode, and who is told of datagrams (None: nobody)."""
    if mode in ("udp", "transport", "defrag"):
        modules = [PerConnection("transport" if mode == "transport" else "udp")]
    else:
        modules = [{"tcp": PerWindow, "http": PerResponse}[mode]()]
    if check and mode in ("transport", "tcp"):
        modules.append(Digest())
    return modules, DatagramDigest() if check and mode == "defrag" else None


def count(mode, path, modules, told):
    """Run one engine over a file; give what was counted."""
    engine = flowos.Engine()
    engine.add_port(path)
    if told is not None:
        engine.on_datagram = told
    for module in modules:
        engine.attach(module)
    engine.run()
    result = {"packets": engine.capture.packets}
    if mode == "defrag":
        result["datagrams"] = engine.ip_reassembly["datagrams"]
    engine.close()
    for answering in [*modules, told] if told else modules:
        result.update(answering.answer())
    if mode == "udp":                                   # a row is a packet
        result["bytes"], result["packets_squared"] = result["rows_bytes"], result["rows_squared"]
    return result


def main():
    arguments = [argument for argument in sys.argv[1:] if argument != "--check"]
    if len(arguments) != 2 or arguments[0] not in ("udp", "transport", "tcp", "defrag", "http"):
        sys.exit("usage: flowos_count.py udp|transport|tcp|defrag|http FILE.pcap [--check]")
    modules, told = consumers(arguments[0], "--check" in sys.argv)
    begun = time.process_time_ns()
    result = count(*arguments, modules, told)
    result["inside_ns"] = time.process_time_ns() - begun
    print(json.dumps(result))


if __name__ == "__main__":
    main()
