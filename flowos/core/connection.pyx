"""Connections as Python sees them: a handle on the record, its copy once the record is gone.

A handle is made when somebody asks for one and found again by later calls, so `is` works.
While the connection lives, attributes read the record; when it ends, the handle keeps a copy
and its counters stay readable for as long as the handle does.
"""
import socket
from collections import namedtuple

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from flowos.core.core cimport *
from flowos.core.decoding cimport Decoding

from flowos.core.errors import StaleError, UsageError

STATES = {
    FOS_STATE_NEW: "new", FOS_STATE_SYN_SENT: "syn_sent", FOS_STATE_SYN_RECEIVED: "syn_received",
    FOS_STATE_ESTABLISHED: "established", FOS_STATE_CLOSING: "closing", FOS_STATE_CLOSED: "closed",
    FOS_STATE_RESET: "reset", FOS_STATE_MIDSTREAM: "midstream", FOS_STATE_ACTIVE: "unanswered",
    FOS_STATE_ANSWERED: "answered",
}
REASONS = (None, "fin", "rst", "timeout", "evicted", "reused", "end")
PROTOCOLS = {
    1: "icmp", 2: "igmp", 4: "ipip", 6: "tcp", 17: "udp", 41: "ipv6", 46: "rsvp", 47: "gre", 50: "esp", 51: "ah",
    58: "icmpv6", 88: "eigrp", 89: "ospf", 97: "etherip", 103: "pim", 112: "vrrp", 115: "l2tp", 132: "sctp",
    136: "udplite",
}
_PORTS = frozenset((6, 17, 132, 136))

Endpoint = namedtuple("Endpoint", "addr port")
Endpoint.__doc__ = "One end of a connection: `addr` as text, `port` an int, or None where there are none."


cdef str _address(const fos_conn *c, int high):
    cdef uint64_t w
    cdef uint32_t v
    if c.key.ver == 4:
        w = c.key.w[0]
        v = <uint32_t>w if high else <uint32_t>(w >> 32)
        return f"{v >> 24}.{(v >> 16) & 255}.{(v >> 8) & 255}.{v & 255}"
    return socket.inet_ntop(socket.AF_INET6, (<char *>&c.key.w[2 if high else 0])[:16])


cdef list _stack(uint64_t vlans):
    cdef int shift
    tags = []
    for shift in (48, 32, 16, 0):
        if vlans >> shift & 0x1000:
            tags.append(vlans >> shift & 0xfff)
    return tags


@cython.no_gc_clear                 # the core is needed to the last: its record leads back here
cdef class Connection:
    """A bidirectional conversation between two ends, as the engine tracks it.

    Handles come from windows and from `Module.opened`; they cannot be made by hand.
    Once the connection has ended the handle shows its last counters.
    """

    def __init__(self):
        raise TypeError("connections are made by the engine, from packets")

    def __dealloc__(self):
        if not self.gone and self.core is not None and self.core.c != NULL:
            self.core.c.table.cold[self.index].handle = NULL

    cdef const fos_conn *conn(self):
        if self.gone or self.copied():
            return &self.conn_copy
        return &self.core.c.table.conns[self.index]

    cdef bint copied(self):
        """On a module's thread: copy the record as it is now, which the engine's thread may be changing."""
        cdef Core core = self.core
        if not core.guarded or not core.enter():
            return False
        if not self.gone:                     # it may have ended while we waited
            self.conn_copy = core.c.table.conns[self.index]
            self.cold_copy = core.c.table.cold[self.index]
            self.half_copy[0] = fos_half_of(core.c, self.index, 0)[0]
            self.half_copy[1] = fos_half_of(core.c, self.index, 1)[0]
        core.leave()
        return True

    cdef const fos_cold *cold(self):
        if self.gone or self.copied():
            return &self.cold_copy
        return &self.core.c.table.cold[self.index]

    cdef const fos_half *half(self, int direction):
        cdef int high = self.conn().flags & FOS_CONN_A_IS_HIGH
        if self.gone or self.copied():
            return &self.half_copy[direction ^ high]
        return fos_half_of(self.core.c, self.index, direction ^ high)

    cdef int settle(self) except -1:
        """The record is about to go: copy it."""
        if self.gone:
            return 0
        self.gaps_copy = [self.gaps(0), self.gaps(1)]
        self.vlans_copy = self.vlans
        self.flow_copy = self.flow
        self.detected_copy = self.detected
        cdef uint32_t i = self.index
        self.conn_copy = self.core.c.table.conns[i]
        self.cold_copy = self.core.c.table.cold[i]
        self.half_copy[0] = fos_half_of(self.core.c, i, 0)[0]
        self.half_copy[1] = fos_half_of(self.core.c, i, 1)[0]
        self.core.c.table.cold[i].handle = NULL
        self.gone = True
        self.core = None                  # a kept handle does not keep the tables
        return 0

    def gaps(self, int direction):
        """List the gaps closed in a direction (0: a to b): [(offset, length), …], at most 4,096."""
        cdef Core core = self.core
        cdef bint entered
        if self.gone:
            return list(self.gaps_copy[direction])
        if not self.conn().flags & FOS_CONN_HALVES:
            return []
        entered = core.enter()
        try:
            return [] if self.gone else self.gaps_of(direction)
        finally:
            if entered:
                core.leave()

    cdef list gaps_of(self, int direction):
        cdef const fos_half *h = fos_half_of(
            self.core.c, self.index, direction ^ (self.core.c.table.conns[self.index].flags & FOS_CONN_A_IS_HIGH))
        cdef uint32_t i
        if h.ooo == NULL:
            return []
        return [(h.ooo.gaps[i].start, h.ooo.gaps[i].end - h.ooo.gaps[i].start) for i in range(h.ooo.gap_count)]

    @property
    def id(self):
        """Give the connection's number in order of first packets, from 0."""
        return self.cold().id

    @property
    def slot(self):
        """Give the index of the record: unique among live connections, used again later."""
        return self.index

    @property
    def proto(self):
        """Name the protocol over IP: "tcp", "udp", "icmp", …, or "ip-<number>"."""
        cdef int number = self.conn().key.proto
        return PROTOCOLS.get(number) or f"ip-{number}"

    @property
    def ip_version(self):
        """Give 4 or 6."""
        return self.conn().key.ver

    def matches(self, match):
        """Say whether the connection's first packet matches: a text as `Engine.create_flow` takes, or a `Match`.

        Of a connection that began before there were any flows, and of one that has ended, only addresses,
        ports and protocol are known.  UsageError: the match is wrong.
        """
        from flowos.core.fields import place
        from flowos.core.match import Match

        cdef const fos_conn *c = self.conn()
        wanted = match if isinstance(match, Match) else Match(match)
        fields = self.fields()
        if fields is not None:
            return int.from_bytes(fields, "little") & wanted.mask == wanted.value
        a, b = self.a, self.b
        family, names = (socket.AF_INET, ("nw_src", "nw_dst")) if c.key.ver == 4 else (socket.AF_INET6, ("ipv6_src", "ipv6_dst"))
        block = place("dl_type", 0x0800 if c.key.ver == 4 else 0x86dd) | place("nw_proto", c.key.proto)
        for name, end in zip(names, (a, b)):
            block |= place(name, int.from_bytes(socket.inet_pton(family, end.addr), "big"))
        if a.port is not None:
            block |= place("tp_src", a.port) | place("tp_dst", b.port)
        return block & wanted.mask == wanted.value

    cdef object fields(self):
        """The packed fields of the first packet, as bytes, or None."""
        cdef Core core = self.core
        cdef bint entered
        if self.gone:
            return None
        entered = core.enter()
        fields = None
        if not self.gone and core.c.table.cold[self.index].fields != NULL:
            fields = (<const char *>core.c.table.cold[self.index].fields)[:128]
        if entered:
            core.leave()
        return fields

    cdef int fate(self, what, int reset) except -1:
        cdef Core core = self.core
        cdef bint entered = not self.gone and core.enter()
        cdef int done = not self.gone and not fos_fate_drop(core.c, self.index, reset)
        if entered:
            core.leave()
        if self.gone:
            raise StaleError(f"{what}: the connection has ended")
        return done

    def drop(self):
        """Let nothing of the connection leave any more, in either direction; the ends are not told.

        What has not left stays, the packet that is under way included; from `Module.opened` that is all.
        False, and nothing changes, where its packets share frames with others, as in a tunnel.
        StaleError: it has ended.
        """
        return bool(self.fate("drop()", 0))

    def reset(self):
        """Drop the connection and tell TCP's ends: the next packet is answered by a RST to each that has seen any.

        Others than TCP's are dropped alone, and one that was dropped before stays as it is.  False and StaleError as for `drop`.
        """
        return bool(self.fate("reset()", 1))

    cdef int end_of(self, what, given, end, fos_end *into) except -1:
        """Read a translated end: (address, port), whose port is None where there are none."""
        cdef bytes packed
        family, size = (socket.AF_INET, 4) if self.ip_version == 4 else (socket.AF_INET6, 16)
        try:
            address, port = given
            packed = socket.inet_pton(family, address)
        except (TypeError, ValueError, OSError):
            raise UsageError(f"translate: {what} is {given!r}, expected (IPv{self.ip_version} address, port)") from None
        if (port is None) != (end.port is None) or port is not None and not 0 <= port <= 65535:
            raise UsageError(f"translate: {what} has port {port!r}, expected {'none' if end.port is None else '0 to 65535'}")
        memset(into, 0, sizeof(fos_end))
        memcpy(into.addr, <const char *>packed, size)
        into.port = port or 0
        return 0

    def translate(self, src=None, dst=None):
        """Let packets from a to b leave with other ends, and those that come back find the connection: NAT.

        `src` and `dst` are (address, port) in place of a and b; None keeps one.  What comes from b leaves as
        from b to a, whether it is addressed to the new end or to a.  Modules see a and b.  False, and nothing
        changes: the new tuple is another connection's, this one is translated already, or goes through a tunnel.
        UsageError: not an end of this IP version.  StaleError: it has ended.
        """
        cdef fos_end ends[2]
        if self.gone:
            raise StaleError("translate(): the connection has ended")
        if src is not None:
            self.end_of("src", src, self.a, &ends[0])
        if dst is not None:
            self.end_of("dst", dst, self.b, &ends[1])
        cdef Core core = self.core
        cdef bint entered = core.enter()
        cdef bint done = not self.gone and fos_translate_set(
            core.c, self.index, NULL if src is None else &ends[0], NULL if dst is None else &ends[1]) == 0
        if entered:
            core.leave()
        return done

    @property
    def a(self):
        """Give the end that opened the connection: an `Endpoint`."""
        return self._end(0)

    @property
    def b(self):
        """Give the other end: an `Endpoint`."""
        return self._end(1)

    def _end(self, int which):
        cdef const fos_conn *c = self.conn()
        cdef int high = which ^ (c.flags & FOS_CONN_A_IS_HIGH)
        port = None
        if c.key.proto in _PORTS:
            port = c.key.ports & 0xffff if high else c.key.ports >> 16
        return Endpoint(_address(c, high), port)

    @property
    def vlans(self):
        """List the distinct stacks of VLAN ids seen, outermost tag first: [[int, …], …]."""
        cdef fos_vlans *more
        if self.gone:
            return [list(stack) for stack in self.vlans_copy]
        cdef Core core = self.core
        cdef bint entered = core.enter()
        stacks = []
        if not self.gone and core.c.table.cold[self.index].vlans:
            stacks.append(_stack(core.c.table.cold[self.index].vlans))
            more = core.c.table.cold[self.index].more_vlans
            while more != NULL:
                stacks.append(_stack(more.vlans))
                more = more.next
        if entered:
            core.leave()
        return stacks

    @property
    def depth(self):
        """Count the IP headers around the transport: 1 when not tunnelled."""
        return self.conn().depth & FOS_DEPTH_COUNT

    @property
    def flow(self):
        """Name the flow that the connection belongs to, or None."""
        if self.gone:
            return self.flow_copy
        return self.core.flow_names[self.conn().flow]

    @property
    def detected(self):
        """Name the protocol that a decoder found in the connection's bytes, or None."""
        cdef void *decoding
        if self.gone:
            return self.detected_copy
        decoding = self.cold().decoding
        return (<Decoding>decoding).name if decoding != NULL else None

    @property
    def first_ns(self):
        """Give the time of the first packet, in ns since the epoch."""
        return self.cold().first_ns

    @property
    def last_ns(self):
        """Give the time of the last packet, in ns since the epoch."""
        return self.conn().last_ns

    @property
    def state(self):
        """Name the state that the packets show, such as "established" or "closed"."""
        return STATES[self.conn().state]

    @property
    def closed(self):
        """Say why the connection ended ("fin", "timeout", …), or None while it lives."""
        return REASONS[self.conn().reason]

    @property
    def icmp_errors(self):
        """Count the ICMP errors that quoted a packet of this connection."""
        return self.cold().icmp_errors

    @property
    def a_to_b(self):
        """Give the direction from `a` to `b`."""
        return _direction(self, 0)

    @property
    def b_to_a(self):
        """Give the direction from `b` to `a`."""
        return _direction(self, 1)

    def __repr__(self):
        a, b = self.a, self.b
        ends = f"{a.addr}:{a.port} -> {b.addr}:{b.port}" if a.port is not None else f"{a.addr} -> {b.addr}"
        return f"<Connection {self.id} {self.proto} {ends} {self.state}>"


cdef class Direction:
    """One direction of a connection: its counters."""

    def __init__(self):
        raise TypeError("directions are had from their connection: a_to_b, b_to_a")

    cdef uint64_t _count(self, int what):
        cdef const fos_conn *c = self.connection.conn()
        cdef int i = self.number ^ (c.flags & FOS_CONN_A_IS_HIGH)
        return c.packets[i] if what == 0 else c.bytes[i] if what == 1 else c.payload[i]

    @property
    def packets(self):
        """Count the packets; a fragmented datagram counts once."""
        return self._count(0)

    @property
    def bytes(self):
        """Count the frames' bytes on the wire; a fragmented datagram's is its last frame."""
        return self._count(1)

    @property
    def payload_bytes(self):
        """Count the bytes that the transport carried, retransmissions included."""
        return self._count(2)

    @property
    def syn(self):
        """Count the packets with SYN."""
        return self.connection.half(self.number).syn if self.connection.conn().flags & FOS_CONN_HALVES else 0

    @property
    def fin(self):
        """Count the packets with FIN."""
        return self.connection.half(self.number).fin_count if self.connection.conn().flags & FOS_CONN_HALVES else 0

    @property
    def rst(self):
        """Count the packets with RST."""
        return self.connection.half(self.number).rst if self.connection.conn().flags & FOS_CONN_HALVES else 0

    @property
    def stream_bytes(self):
        """Give how far the stream has come: its bytes delivered, gaps included."""
        cdef const fos_conn *c = self.connection.conn()
        if c.key.proto == 6:
            return self.connection.half(self.number).next if self.connection.half(self.number).flags & 1 else 0
        return self.payload_bytes

    @property
    def complete(self):
        """Say whether a FIN ended the stream and all before it was delivered."""
        return bool(self.connection.conn().flags & FOS_CONN_HALVES
                    and self.connection.half(self.number).flags & FOS_HALF_FIN_DONE)

    @property
    def gaps(self):
        """List the holes closed so far: [(offset, length), …], at most 4,096.

        Bytes that a snap length cut off are gap units too, but are not listed here.
        """
        return self.connection.gaps(self.number)

    def __repr__(self):
        return f"<Direction {'a_to_b' if self.number == 0 else 'b_to_a'} {self.packets} packets>"


cdef Direction _direction(Connection connection, int number):
    cdef Direction d = Direction.__new__(Direction)
    d.connection = connection
    d.number = number
    return d


cdef Connection connection_of(Core core, uint32_t index):
    """The handle on record `index`: the one there is, or a new one."""
    cdef Connection handle
    cdef fos_cold *cold = &core.c.table.cold[index]
    if cold.handle != NULL:
        return <Connection>cold.handle
    handle = Connection.__new__(Connection)
    handle.core = core
    handle.index = index
    handle.generation = core.c.table.conns[index].generation
    cold.handle = <void *>handle
    return handle
