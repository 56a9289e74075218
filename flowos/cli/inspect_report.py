"""The reports of `flowos inspect` for programs: one JSON object, or a line per record.

A report is told of connections as they close and of messages as they complete, in any order,
and in the end of the capture as a whole.  `docs/inspect.md` says what each field means; the
shape is stable, because scripts depend on it.
"""
import json
import os
import struct
import tempfile

from .inspect_spool import NumberedSpool, Spool

MESSAGES = ("http", "dns", "tls")
POSITION = struct.Struct("<Q")
AT_THE_END = float("inf")      # sorts behind every packet's number


class Selection:
    """Which records are wanted: all, or those of one protocol at any level."""

    def __init__(self, protocol=None):
        self.protocol = protocol

    def connection(self, record):
        """Say whether a connection's record is wanted."""
        return self.protocol in (None, record["proto"], record["detected"])

    def message(self, section, proto):
        """Say whether a message of `section` is wanted; `proto` carries its connection."""
        return self.protocol in (None, section, proto)


class Report:
    """What every report shares: the selection, and the order of messages.

    Messages come connection by connection; they are held until `settle`, which is called
    after each batch of packets, and then pass in the order of the packets that completed them.
    """

    def __init__(self, selection=None):
        self.selection = selection or Selection()
        self.waiting = []          # (packet, order of coming, section, connection's number, record)

    def message(self, section, connection, record, packet):
        """Take the record of a message that came in `connection` and was whole with `packet`, or
        with the end of the connection (0)."""
        if self.selection.message(section, connection.proto):
            self.waiting.append((packet or AT_THE_END, len(self.waiting), section, connection.id, record))

    def settle(self):
        """Pass on the messages that wait."""
        if self.waiting:
            self.waiting.sort()
            for _, _, section, number, record in self.waiting:
                self.pass_on(section, number, record)
            self.waiting.clear()

    def close(self):
        """Drop what is kept."""


class JsonReport(Report):
    """One JSON object; its sections are spooled to disk and joined at the end.

    `out` is a text stream.  A record stands on a line of its own, so that the object can be
    read by line as well.
    """

    def __init__(self, out, selection=None):
        super().__init__(selection)
        self.out = out
        self.connections = NumberedSpool()
        self.messages = {section: Spool() for section in MESSAGES}

    def connection(self, number, record):
        """Take the record of a connection that has closed."""
        if self.selection.connection(record):
            self.connections.put(number, json.dumps(record))

    def pass_on(self, section, number, record):
        self.messages[section].append(f"{number}\t{json.dumps(record)}")

    def finish(self, capture, ip_reassembly, counters):
        """Write the object."""
        write = self.out.write
        write(f'{{"capture": {json.dumps(capture)},\n"connections": [')
        write_list(write, self.connections.lines())
        positions = self.positions()
        for section in MESSAGES:
            write(f',\n"{section}": [')
            write_list(write, numbered(self.messages[section].lines(), positions,
                                       section != "dns"))
        write(f',\n"ip_reassembly": {json.dumps(ip_reassembly)},\n'
              f'"counters": {json.dumps(counters)}}}\n')
        self.out.flush()

    def positions(self):
        """Give a function from a connection's number to its place in the list (None: not in it)."""
        if self.connections.count == self.connections.last + 1:
            return lambda number: number
        table = tempfile.TemporaryFile(prefix="flowos-", buffering=0)
        for place, (number, _) in enumerate(self.connections.numbered(), 1):
            os.pwrite(table.fileno(), POSITION.pack(place), number * POSITION.size)

        def look_up(number):
            entry = os.pread(table.fileno(), POSITION.size, number * POSITION.size)
            place = POSITION.unpack(entry)[0] if len(entry) == POSITION.size else 0
            return place - 1 if place else None
        return look_up

    def close(self):
        """Drop the spooled records."""
        for spool in (self.connections, *self.messages.values()):
            spool.close()


def numbered(lines, positions, named):
    """Give spooled messages with `connection` put in front (left out unless `named`)."""
    for line in lines:
        number, _, text = line.partition("\t")
        place = positions(int(number))
        if place is not None:
            yield f'{{"connection": {place}, {text[1:]}' if named else text


def write_list(write, lines):
    """Write records as the rest of a JSON list, a line each."""
    separator = "\n"
    for line in lines:
        write(f"{separator}{line}")
        separator = ",\n"
    write("]")


class JsonlReport(Report):
    """A line per record, written when the record is complete.

    The key `record` names the section.  A connection's `id` is the number that messages give
    as `connection`; without a selection it is the place in the list of the one-object report.
    """

    def __init__(self, out, selection=None):
        super().__init__(selection)
        self.out = out

    def line(self, section, record, **front):
        self.out.write(json.dumps({"record": section, **front, **record}) + "\n")

    def connection(self, number, record):
        """Write the record of a connection that has closed."""
        if self.selection.connection(record):
            self.line("connection", record, id=number)

    def pass_on(self, section, number, record):
        self.line(section, record, **({} if section == "dns" else {"connection": number}))

    def settle(self):
        """Pass on the messages that wait, and let the reader have all lines."""
        super().settle()
        self.out.flush()

    def finish(self, capture, ip_reassembly, counters):
        """Write the records about the capture as a whole."""
        self.line("capture", capture)
        self.line("ip_reassembly", ip_reassembly)
        self.line("counters", counters)
        self.out.flush()
