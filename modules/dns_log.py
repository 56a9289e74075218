"""Log DNS: each question beside its answer (RFC 1035), over UDP and TCP, mDNS and LLMNR too.

    flowos run x.pcap --attach dns_log --emit dns.jsonl

A record per question, when it is answered or its connection ends.  A response belongs to the
oldest unanswered query of its connection with the same number and the same question.
"""
import socket
import struct

from flowos import Module
from flowos.emit import ends

HEADER = 12                # bytes of a message's header
RECORD = struct.Struct(">HHIH")    # behind a record's name: type, class, time to live, length of its data
LONGEST_NAME = 255         # RFC 1035 section 2.3.4
TYPES = {
    1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 12: "PTR", 13: "HINFO", 15: "MX", 16: "TXT", 24: "SIG", 25: "KEY",
    28: "AAAA", 29: "LOC", 33: "SRV", 35: "NAPTR", 39: "DNAME", 41: "OPT", 43: "DS", 44: "SSHFP", 46: "RRSIG",
    47: "NSEC", 48: "DNSKEY", 50: "NSEC3", 51: "NSEC3PARAM", 52: "TLSA", 64: "SVCB", 65: "HTTPS", 99: "SPF",
    249: "TKEY", 250: "TSIG", 251: "IXFR", 252: "AXFR", 255: "ANY", 257: "CAA",
}
RCODES = {
    0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 6: "YXDOMAIN", 7: "YXRRSET",
    8: "NXRRSET", 9: "NOTAUTH", 10: "NOTZONE",
}
MOST_WAITING = 256         # unanswered questions kept per connection: beyond, the oldest is told
MOST_REPEATED = 16         # ... of one that is asked again and again


class DnsLog(Module):
    """Emit a record per DNS query and its response.

    Keys: `ts` (ns, the query's or else the response's), `connection`, `proto`, `a`, `b`, `id`, `qname`,
    `qtype`, `rcode` (None: unanswered), `answers` (texts, in order), `ttl` (the least of them),
    `authoritative`, `truncated`, `rtt` (seconds; None where one of both is missing).

    >>> from flowos import Engine
    >>> log, records = DnsLog(), []
    >>> log.emit = records.append
    >>> with Engine() as engine:
    ...     engine.add_port("examples/demo.pcap")
    ...     attachment = engine.attach(log)
    ...     engine.run()
    >>> [(record["qname"], record["qtype"], record["rcode"], record["answers"]) for record in records][0]
    ('www.flowos.example', 'A', 'NOERROR', ['192.0.2.2'])
    """

    name = "dns_log"
    protocol = "dns"

    def __init__(self):
        self.asked = {}                    # connection -> {question: [(ts, query), …]}, unanswered, in order
        self.early = {}                    # connection -> (handle, {question: [(ts, response), …]})

    def process(self, window):
        connection = window.connection
        asked = self.asked.setdefault(connection.id, {})
        for unit in window.units:
            message = unit.info
            if message is None:
                continue
            key = (message.id, *message.qnames, *message.qtypes)
            if message.response:
                self.answer(connection, asked, key, unit.ts, message)
            else:
                self.ask(connection, asked, key, unit.ts, message)

    def ask(self, connection, asked, key, ts, query):
        """Take a query; its response may wait already, because directions are lent one after the other."""
        early = self.early.get(connection.id, (None, {}))[1].get(key, ())
        for place, (answered, response) in enumerate(early):
            if answered >= ts:
                del early[place]
                self.emit(record(connection, ts, query, answered, response))
                return
        waiting = asked.setdefault(key, [])
        waiting.append((ts, query))
        if len(waiting) > MOST_REPEATED:
            self.emit(record(connection, *waiting.pop(0), None, None))
        if len(asked) > MOST_WAITING:
            self.give_up(connection, asked)

    def answer(self, connection, asked, key, ts, response):
        """Take a response: it belongs to the oldest query that waits, or it waits itself."""
        queries = asked.get(key)
        if not queries:
            self.early.setdefault(connection.id, (connection, {}))[1].setdefault(key, []).append((ts, response))
            return
        self.emit(record(connection, *queries.pop(0), ts, response))
        if not queries:
            del asked[key]

    def give_up(self, connection, asked):
        """Tell the queries of the oldest question as unanswered."""
        for ts, query in asked.pop(next(iter(asked))):
            self.emit(record(connection, ts, query, None, None))

    def tick(self, now):
        for number in list(self.early):    # all before `now` was delivered: their queries were not seen
            self.tell_early(number)

    def tell_early(self, number):
        """Tell the responses of a connection that no query asked for."""
        connection, early = self.early.pop(number, (None, {}))
        for responses in early.values():
            for ts, response in responses:
                self.emit(record(connection, None, None, ts, response))

    def closed(self, connection, reason):
        self.tell_early(connection.id)
        asked = self.asked.pop(connection.id, {})
        while asked:
            self.give_up(connection, asked)


def record(connection, asked, query, answered, response):
    """Make the record of a query (at time `asked`), its response (at `answered`), or one of both."""
    message = query or response
    answers, ttl = ([], None) if response is None else answers_of(response)
    return {
        "ts": answered if asked is None else asked, **ends(connection), "id": message.id,
        "qname": message.qnames[0] if message.qnames else None,
        "qtype": type_name(message.qtypes[0]) if message.qtypes else None,
        "rcode": None if response is None else RCODES.get(response.rcode, f"RCODE{response.rcode}"),
        "answers": answers, "ttl": ttl,
        "authoritative": response is not None and response.authoritative,
        "truncated": message.truncated if response is None else response.truncated,
        "rtt": None if asked is None or answered is None else (answered - asked) / 1e9,
    }


def type_name(number):
    """Give a type's name; an unknown one's is spelled as RFC 3597 does.

    >>> type_name(28), type_name(65280)
    ('AAAA', 'TYPE65280')
    """
    return TYPES.get(number, f"TYPE{number}")


class Damaged(Exception):
    """A message contradicts itself; never leaves this file."""


def answers_of(message):
    """Give (answers as texts, the least time to live or None), as far as they can be read."""
    data, at, texts, ttls = message.data, HEADER, [], []
    try:
        for _ in range(message.questions):
            at = behind_name(data, at) + 4
        for _ in range(message.answers):
            at = behind_name(data, at)
            if at + RECORD.size > len(data):
                raise Damaged
            kind, _, ttl, length = RECORD.unpack_from(data, at)
            at += RECORD.size
            texts.append(answer_text(data, TYPES.get(kind), at, length))
            ttls.append(ttl)
            at += length
    except (Damaged, struct.error):
        pass                               # what was read before stands
    return texts, min(ttls, default=None)


def answer_text(data, kind, at, length):
    """Spell one resource record's data as text; that of an unknown type in RFC 3597's way."""
    end = at + length
    if end > len(data):
        raise Damaged
    if kind == "A" and length == 4:
        return socket.inet_ntop(socket.AF_INET, data[at:end])
    if kind == "AAAA" and length == 16:
        return socket.inet_ntop(socket.AF_INET6, data[at:end])
    if kind in ("NS", "CNAME", "PTR", "DNAME"):
        return read_name(data, at)[0]
    if kind == "MX":
        return f"{struct.unpack_from('>H', data, at)[0]} {read_name(data, at + 2)[0]}"
    if kind == "SRV":
        priority, weight, port = struct.unpack_from(">3H", data, at)
        return f"{priority} {weight} {port} {read_name(data, at + 6)[0]}"
    if kind == "SOA":
        server, behind = read_name(data, at)
        mailbox, behind = read_name(data, behind)
        return f"{server} {mailbox} {struct.unpack_from('>I', data, behind)[0]}"
    if kind == "TXT":
        parts = []
        while at < end:
            parts.append(data[at + 1:min(at + 1 + data[at], end)])
            at += 1 + data[at]
        return " ".join(part.decode("utf-8", "backslashreplace") for part in parts)
    return f"\\# {length} {data[at:end].hex()}"


def behind_name(data, at):
    """Step over a name: the offset behind it, wherever its pointer leads; raises Damaged."""
    while at < len(data) and 0 < data[at] < 0x40:
        at += 1 + data[at]
    if at >= len(data) or 0x40 <= data[at] < 0xc0:
        raise Damaged
    return at + (2 if data[at] else 1)


def read_name(data, at):
    """Read a name at an offset: (text without the dot at the end, offset behind it); raises Damaged.

    Each compression pointer must lead further back than the one before, which ends any loop.

    >>> read_name(b"\\x01b\\x00\\x01a\\xc0\\x00", 3)
    ('a.b', 7)
    """
    labels, behind, limit, size = [], None, at, 0
    while True:
        length = data[at] if at < len(data) else 0x80
        if length >= 0xc0:
            if at + 2 > len(data):
                raise Damaged
            behind = behind or at + 2
            at = (length & 0x3f) << 8 | data[at + 1]
            if at >= limit:
                raise Damaged
            limit = at
        elif length > 0x3f or at + 1 + length > len(data) or size > LONGEST_NAME:
            raise Damaged
        elif length:
            labels.append(data[at + 1:at + 1 + length])
            at, size = at + 1 + length, size + 1 + length
        else:
            return b".".join(labels).decode("utf-8", "backslashreplace"), behind or at + 1
