"""Which flow a connection belongs to: the classifier, asked once per connection.

The flow is decided on the first packet, all fields included; later packets find it in the
connection's record.  While there are flows, what the decision rested on is kept (128 bytes per
connection), so that a change of the flows can decide each live connection anew.  One that began
before there were any flows is decided on its addresses, ports and protocol alone.
"""
from libc.stdint cimport uint32_t
from libc.string cimport memcpy, memset

from flowos.core.classifier cimport (
    FOS_MAX_TAGS, Classifier, fos_extract_inner, fos_extract_ip, fos_fields)
from flowos.core.core cimport *
from flowos.core.state cimport Core


cdef void _fields_of(const fos_pkt *p, fos_fields *f) noexcept nogil:
    """The fields of the packet's own IP layer; dl_* and the tag are the frame's.  in_port counts from 1."""
    cdef uint32_t wire = p.captured if p.flags & FOS_PKT_BLOCK else p.wire
    if p.link == 1 and not p.flags & FOS_PKT_BLOCK:
        fos_extract_inner(p.frame, p.captured, wire, p.l3, p.iface + 1, f)
    else:
        fos_extract_ip(p.frame + p.l3, p.captured - p.l3, wire - p.l3, p.iface + 1, f)


cdef uint32_t _classify(void *table, const fos_pkt *p, uint32_t index) noexcept nogil:
    cdef fos_core *core = (<FlowTable>table).c
    cdef fos_fields *kept = <fos_fields *>fos_pool_take(&core.fields)
    if kept == NULL:
        core.failed = 1
        return 0
    _fields_of(p, kept)
    core.table.cold[index].fields = <void *>kept
    return (<FlowTable>table).classifier.lookup(kept)


cdef void _fields_of_key(const fos_conn *c, fos_fields *f) noexcept nogil:
    """What the connection's key tells, in the direction from a to b."""
    cdef bint high = c.flags & FOS_CONN_A_IS_HIGH
    memset(f, 0, sizeof(fos_fields))
    f.nw_proto = c.key.proto
    f.tp_src = <uint32_t>(c.key.ports & 0xffff) if high else <uint32_t>(c.key.ports >> 16)
    f.tp_dst = <uint32_t>(c.key.ports >> 16) if high else <uint32_t>(c.key.ports & 0xffff)
    if c.key.ver == 4:
        f.dl_type = 0x0800
        f.nw_src = <uint32_t>c.key.w[0] if high else <uint32_t>(c.key.w[0] >> 32)
        f.nw_dst = <uint32_t>(c.key.w[0] >> 32) if high else <uint32_t>c.key.w[0]
    else:
        f.dl_type = 0x86dd
        memcpy(&f.ipv6_src[0], &c.key.w[2 if high else 0], 16)
        memcpy(&f.ipv6_dst[0], &c.key.w[0 if high else 2], 16)


cdef class FlowTable:
    """The rules of an engine's flows; the flow's number is the rule's id."""

    def __cinit__(self, Core core):
        self.core = core
        self.c = core.c
        self.classifier = Classifier()

    def add(self, match, priority, number):
        """Add a flow's match and decide the live connections anew."""
        self.classifier.add(match, priority, number)
        self.core.c.classifier = <void *>self
        self.core.c.classify = _classify
        self.redecide()

    def remove(self, number):
        """Take a flow's match away and decide the live connections anew."""
        self.classifier.remove(number)
        self.redecide()

    def change(self, number, before, after):
        """Put a flow's rule, (match, priority), in place of another; connections that match both never leave the flow.

        UsageError: the rule is wrong, and the one before stays.
        """
        self.classifier.remove(number)
        try:
            self.classifier.add(*after, number)
        except BaseException:
            self.classifier.add(*before, number)
            raise
        self.redecide()

    cdef int redecide(self) except -1:
        cdef fos_core *c = self.core.c
        cdef fos_conn *conn
        cdef fos_fields f
        cdef uint32_t i
        for i in range(1, c.table.used + 1):
            conn = &c.table.conns[i]
            if not c.table.cold[i].hash or conn.flags & FOS_CONN_CLOSED or not conn.generation & 1:
                continue
            if c.table.cold[i].fields != NULL:
                conn.flow = self.classifier.lookup(<fos_fields *>c.table.cold[i].fields)
            else:
                _fields_of_key(conn, &f)
                conn.flow = self.classifier.lookup(&f)
        return 0
