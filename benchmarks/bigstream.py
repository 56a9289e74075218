"""A capture without end, written to standard output as it is made: for runs whose memory must stay flat.

    python benchmarks/bigstream.py [--bytes 10e9] [--connections 1e6] [--together 50e3] | flowos inspect -

Every connection opens with a handshake, carries a request and a response, and closes with FINs;
the response is as long as the bytes asked for allow.  `--together` of them are open at a time,
each at its own stage.  Packets are evenly spaced over `--seconds` of capture time.  `--bytes 0` goes
on until nobody reads, as fast as ten gigabytes an hour.

    group (1,024 connections)   emits its next step, a block of 1,024 packets, then queues up again
    active groups               [g3 g4 g5 ... ] -> one block -> [g4 g5 ... g3]

A block is a template whose addresses, numbers, times and checksums are filled in for all rows at
once, so memory is that of a few blocks.  `--truth FILE` says at the end what was written.
"""
import argparse
import fcntl
import json
import os
import sys
from collections import deque

import numpy as np

import frames
from text import words

GROUP = 1024
SEGMENT = 1448
PIPE_BYTES = 1 << 20
ENDLESS_GAP = 225                                       # microseconds: 16 million packets of some 600 bytes in an hour
_EMPTY = frames.ETHER + frames.IP + 32                  # a frame with timestamps and no payload
_OVERHEAD = 2 * (_EMPTY + 8) + 5 * _EMPTY               # the opening, one acknowledgement, the closing


class Step:
    """One packet of the exchange: a block of equal packets, one per connection of a group."""

    def __init__(self, way, flags, sent, payload=b""):
        self.way, self.flags, self.sent = way, flags, sent          # sent: bytes so far, by way
        self.payload = len(payload)
        layout = frames.TCP_OPENING if flags & frames.SYN else frames.TCP_STAMPED
        self.size = frames.ETHER + frames.IP + int(frames.HEADER_BYTES[layout]) + self.payload
        packet = np.zeros(1, frames.PACKET)
        packet["layout"], packet["proto"], packet["flags"], packet["length"] = layout, 6, flags, self.payload
        packet["fragment"] = frames.DO_NOT_FRAGMENT
        header = frames.header_rows(packet, layout, np.array([self.size]))
        for name in ("stamp", "echo", "ip_sum"):                    # filled in, or counted on below
            header[name] = 0
        row = np.concatenate([header.view(np.uint8), np.frombuffer(payload, np.uint8)])
        at = np.array([frames.RECORD + frames.ETHER])
        self.ip_part = int(frames.sums(row, at, at + frames.IP)[0])
        transport = len(row) - int(at[0]) - frames.IP
        self.tcp_part = int(frames.sums(row, at + frames.IP, at + frames.IP + transport)[0]) + 6 + transport
        rows = np.tile(row, (GROUP, 1))
        self.rows = rows.reshape(-1)
        self.header = np.ndarray(GROUP, header.dtype, self.rows, strides=(len(row),))

    def fill(self, group, time, gap):
        """Make the block of a group, its first packet at a time in microseconds."""
        h, way = self.header, self.way
        times = time + np.arange(GROUP, dtype=np.int64) * gap
        source, destination = group.address[way], group.address[1 - way]
        sport, dport = group.port[way], group.port[1 - way]
        seq = (group.initial[way] + self.sent[way]) & 0xFFFFFFFF
        ack = (group.initial[1 - way] + self.sent[1 - way]) & 0xFFFFFFFF if self.flags & frames.ACK else np.zeros_like(seq)
        stamp = times // 1000 & 0xFFFFFFFF
        h["seconds"], h["micros"] = frames.EPOCH + times // 1_000_000, times % 1_000_000
        h["source"], h["destination"], h["sport"], h["dport"] = source, destination, sport, dport
        h["seq"], h["ack"], h["stamp"], h["identification"] = seq, ack, stamp, group.identification
        addresses = group.address_sum
        h["ip_sum"] = frames.fold(self.ip_part + group.identification + addresses)
        h["sum"] = frames.fold(self.tcp_part + addresses + sport + dport + halves(seq) + halves(ack) + halves(stamp))
        return self.rows


def halves(number):
    """Add the two 16-bit words of 32-bit numbers."""
    return (number >> 16) + (number & 0xFFFF)


class Group:
    """1,024 connections that go through the steps side by side."""

    def __init__(self, first):
        number = np.arange(first, first + GROUP, dtype=np.int64)
        self.address = [10 << 24 | (number * 0x9E3779B1 & 0xFFFFFF), 172 << 24 | 16 << 16 | (number * 40503 >> 5 & 0xFFFF)]
        self.port = [1024 + (number >> 24 & 0x3FFF) + (number & 0x7FFF), np.full(GROUP, 80)]
        self.address_sum = halves(self.address[0]) + halves(self.address[1])
        self.initial = [number * 2654435761 & 0xFFFFFFFF, number * 2246822519 & 0xFFFFFFFF]
        self.identification = number & 0xFFFF
        self.step = 0


def exchange(response_bytes, seed=7):
    """Give the steps of one connection, and the bytes that it carries."""
    syn, ack, psh, fin = frames.SYN, frames.ACK, frames.PSH, frames.FIN
    text = words(np.random.default_rng(seed), max(response_bytes, 1) + 64)
    request = b"GET /stream HTTP/1.1\r\nHost: www.example.net\r\nAccept: */*\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % response_bytes
    response = head + text[:response_bytes]
    steps = [Step(0, syn, (0, 0)), Step(1, syn | ack, (1, 0)), Step(0, ack, (1, 1)), Step(0, psh | ack, (1, 1), request)]
    sent = [1 + len(request), 1]
    for at in range(0, len(response), SEGMENT):
        part = response[at:at + SEGMENT]
        steps.append(Step(1, psh | ack if at + SEGMENT >= len(response) else ack, tuple(sent), part))
        sent[1] += len(part)
        if at // SEGMENT % 2 == 1 and at + SEGMENT < len(response):
            steps.append(Step(0, ack, tuple(sent)))
    steps.append(Step(0, fin | ack, tuple(sent)))
    steps.append(Step(1, fin | ack, (sent[0] + 1, sent[1])))
    steps.append(Step(0, ack, (sent[0] + 1, sent[1] + 1)))
    return steps, len(request) + len(response)


def response_for(size):
    """Give the body size that makes a connection's frames take some `size` bytes."""
    request, head = 60, 80
    rest = size - _OVERHEAD - (_EMPTY + request) - (_EMPTY + head)
    per_two = 2 * (SEGMENT + _EMPTY) + _EMPTY            # two segments and the acknowledgement of both
    return max(1, int(rest * 2 * SEGMENT / per_two))


def blocks(steps, connections, together, gap):
    """Yield (block, step), one group's next step after the other; `connections` None: without end."""
    active, opened, time = deque(), 0, 0
    limit = max(1, -(-together // GROUP))
    while True:
        if len(active) < limit and (connections is None or opened < connections):
            active.append(Group(opened))
            opened += GROUP
        if not active:
            return
        group = active.popleft()
        step = steps[group.step]
        yield step.fill(group, time, gap), step
        time += GROUP * gap
        group.step += 1
        if group.step < len(steps):
            active.append(group)


def write(block):
    """Write a whole block to standard output."""
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(1, rest):]


def main():
    parser = argparse.ArgumentParser(description="Write a long capture to standard output.")
    number = lambda text: int(float(text))                          # noqa: E731: so that 1e6 is a number
    parser.add_argument("--bytes", type=number, default=10_000_000_000, help="frame bytes, about; 0: without end")
    parser.add_argument("--connections", type=number, default=1_000_000, help="how many share them (a multiple of 1,024)")
    parser.add_argument("--together", type=number, default=50_000, help="how many are open at a time")
    parser.add_argument("--seconds", type=number, default=3600, help="how long the capture lasts, in its own time")
    parser.add_argument("--truth", help="file for what was written, as JSON")
    arguments = parser.parse_args()
    if sys.stdout.isatty():
        parser.error("this writes a capture to standard output: pipe it into something")
    try:
        fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except OSError:
        pass                                                        # no pipe, or no such right
    groups = -(-arguments.connections // GROUP)
    steps, carried = exchange(response_for(arguments.bytes / (groups * GROUP)) if arguments.bytes else 8000)
    gap = max(1, arguments.seconds * 1_000_000 // (groups * GROUP * len(steps))) if arguments.bytes else ENDLESS_GAP
    packets = size = 0
    try:
        write(frames.file_header())
        for block, step in blocks(steps, groups * GROUP if arguments.bytes else None, arguments.together, gap):
            write(block)
            packets += GROUP
            size += GROUP * step.size
    except BrokenPipeError:
        sys.stderr.close()                                          # nobody reads any more: that is an end too
    if arguments.truth:
        truth = {"packets": packets, "bytes": size}
        if arguments.bytes:
            truth.update(connections=groups * GROUP, tcp_connections=groups * GROUP, stream_bytes=groups * GROUP * carried)
        with open(arguments.truth, "w", encoding="utf-8") as file:
            json.dump(truth, file)


if __name__ == "__main__":
    main()
