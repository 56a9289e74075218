"""What `flowos inspect` says of HTTP, DNS and TLS messages, in the order of their completion.

The decoders say where messages begin and end and what their heads hold; here their records are
made, and HTTP bodies are counted and digested with their content coding undone.
"""
from flowos import Module

from .inspect_bodies import Body

DIRECTIONS = ("a_to_b", "b_to_a")
PROBLEMS = {                 # why a body was reported as transferred, its coding not undone
    "unknown": "http_bodies_unknown_coding", "damaged": "http_bodies_damaged",
    "cut": "http_bodies_cut", "bomb": "http_bodies_bomb",
}


class Messages(Module):
    """What the modules of messages share: with which packet a message was whole.

    A unit tells the packet that brought its last byte; where earlier bytes of the stream came
    later, it was they that completed it.
    """

    scope = "connection"

    def __init__(self, report):
        self.report = report
        self.latest = {}           # connection * 2 + direction -> highest number of a packet so far

    def packet_of(self, unit, key):
        """Give the number of the packet that completed a unit; 0: the connection's end did."""
        packet = unit.packet
        if packet:
            packet = self.latest[key] = max(packet, self.latest.get(key, 0))
        return packet

    def closed(self, connection, reason):
        for direction in (0, 1):
            self.latest.pop(connection.id * 2 + direction, None)


class Requests(Messages):
    """Report every HTTP message when its end is known."""

    name, protocol = "inspect_http", "http"

    def __init__(self, report):
        super().__init__(report)
        self.open = {}             # connection * 2 + direction -> (record, Body)
        self.problems = dict.fromkeys(PROBLEMS, 0)

    def process(self, window):
        connection, direction = window.connection, window.direction
        key = connection.id * 2 + direction
        for unit in window.units:
            kind = unit.kind
            if kind == "body":
                if key in self.open:
                    self.open[key][1].feed(unit.data)
            elif kind == "end":
                self.finish(connection, key, not unit.incomplete, self.packet_of(unit, key))
            elif kind in ("request", "response") and unit.info is not None:
                head = unit.info
                self.open[key] = (head_record(head, DIRECTIONS[direction]), Body(head.content_encoding or ""))

    def finish(self, connection, key, complete, packet):
        """The message in hand of a direction is over."""
        if key not in self.open:
            return                 # what began it was not seen
        record, body = self.open.pop(key)
        size, sha256, problem = body.finish(complete)
        if problem is not None:
            self.problems[problem] += 1
        self.report.message("http", connection, {
            **record, "body_bytes": size, "body_sha256": sha256, "complete": complete}, packet)

    def closed(self, connection, reason):
        for direction in (0, 1):
            self.finish(connection, connection.id * 2 + direction, False, 0)
        super().closed(connection, reason)

    def statistics(self):
        """Give the counters of bodies whose content coding could not be undone."""
        return {name: self.problems[problem] for problem, name in PROBLEMS.items()}


def head_record(head, direction):
    """Give the part of a message's record that its head says."""
    return {
        "direction": direction, "kind": head.kind, "version": head.version or None,
        "method": head.method, "uri": head.uri, "host": head.host, "status": head.status,
        "content_length": head.content_length,
    }


class Names(Messages):
    """Report every message of a protocol whose messages are single units: `dns` or `tls`."""

    def __init__(self, report, protocol):
        super().__init__(report)
        self.protocol = protocol
        self.name = f"inspect_{protocol}"
        self.record = {"dns": dns_record, "tls": tls_record}[protocol]

    def process(self, window):
        for unit in window.units:
            record = None if unit.info is None else self.record(unit, window)
            if record is not None:
                connection = window.connection
                packet = self.packet_of(unit, connection.id * 2 + window.direction)
                self.report.message(self.protocol, connection, record, packet)


def dns_record(unit, window):
    """Give the record of a DNS message."""
    message = unit.info
    return {
        "id": message.id, "response": message.response, "opcode": message.opcode, "rcode": message.rcode,
        "qnames": list(message.qnames), "qtypes": list(message.qtypes), "answers": message.answers,
    }


def tls_record(unit, window):
    """Give the record of a TLS hello; None for anything else."""
    hello = unit.info
    return {
        "direction": DIRECTIONS[window.direction], "kind": f"{hello.kind}_hello", "sni": hello.sni,
        "alpn": list(hello.alpn), "versions": list(hello.versions),
    }
