"""The engine's loop: batches from the port through the core, windows to the modules.

    port.rxsync -> fos_burst (nogil) -> ... until something is due -> deliver (GIL) -> release

Python is called per window, never per packet: units gather while batches run without the GIL,
and are delivered together when enough of them wait (`deliver_packets`, `deliver_rows`), when the
ring must move on, and at the end.  Within one delivery the order is: `opened`, windows by the
modules' order, rows, `closed`.  The file is long because a compiled class cannot be spread over several.
"""
import traceback

from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_REFCNT
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc

from flowos.core.connection cimport Connection, connection_of
from flowos.core.core cimport *
from flowos.core.flowtable cimport FlowTable
from flowos.core.decoding cimport Decoding
from flowos.core.journal cimport FlowWindow, flow_window, give_back
from flowos.core.port cimport Port
from flowos.core.ring cimport fos_ring
from flowos.core.state cimport Core
from flowos.core.window cimport LEVEL_DECODER, LEVEL_FRAME, LEVEL_IP, LEVEL_TRANSPORT, Window

from flowos.core.connection import REASONS
from flowos.core.errors import LimitError, UsageError

cdef dict LEVELS = {
    "frame": (LEVEL_FRAME, FOS_CLASS_ALL), "ip": (LEVEL_IP, FOS_CLASS_ALL),
    "transport": (LEVEL_TRANSPORT, FOS_CLASS_ALL), "tcp": (LEVEL_TRANSPORT, FOS_CLASS_TCP),
    "udp": (LEVEL_TRANSPORT, FOS_CLASS_UDP), "sctp": (LEVEL_TRANSPORT, FOS_CLASS_SCTP),
    "icmp": (LEVEL_TRANSPORT, FOS_CLASS_ICMP),
}
cdef dict CLASSES = {"tcp": FOS_CLASS_TCP, "udp": FOS_CLASS_UDP, "sctp": FOS_CLASS_SCTP, "icmp": FOS_CLASS_ICMP}


cdef class Attachment:
    """A module at work on a flow: D3.2's Thread (section 4.3.2.7)."""

    def __init__(self):
        raise TypeError("attachments are made by Engine.attach")

    def __repr__(self):
        return f"<Attachment {type(self.module).__name__} at {self.protocol}, order {self.order}>"


cdef class BaseEngine:
    """Runs packets through the core; `flowos.Engine` is its public face."""

    def __cinit__(self, config, *args, **kwargs):
        self.config = config
        self.core = Core(config)
        self.attachments = []
        self.names = [None]
        self.names_tuple = (None,)
        self.flow_decoders = [{}]
        self.decoder_classes = {}
        self.decoder_errors = []
        self.nothing = Decoding(self.core, 0, [], self.decoder_errors)
        self.ticked = -1
        self.batch = config.batch
        self.deliver_units = config.deliver_units
        self.deliver_rows = config.deliver_rows

    def __dealloc__(self):
        free(self.ready)

    # ---- what to run ----------------------------------------------------------------------

    def _set_port(self, Port port):
        self.port = port
        self.core.owner = port
        self.core.c.stable = port.stable
        self.core.c.defrag.stable = port.stable

    def _match_flow(self, match, priority, number):
        if self.flow_table is None:
            self.flow_table = FlowTable(self.core)
        self.deliver()
        self.flow_table.add(match, priority, number)

    def _unmatch_flow(self, number):
        self.deliver()
        self.flow_table.remove(number)

    @property
    def _flow_table(self):
        return self.flow_table

    def _set_decoders(self, classes):
        """Tell which decoders there are: {protocol: class}."""
        self.decoder_classes = dict(classes)
        self.replan()

    @property
    def decoder_names(self):
        """Name the protocols whose decoders are in use."""
        return frozenset(self.decoder_classes)

    @property
    def _decoders(self):
        return dict(self.decoder_classes)

    def _tell_datagrams(self, callback):
        self.core.on_datagram = callback
        self.core.c.wants_datagrams = callback is not None

    def _add_flow(self, name):
        """Give a new flow its number."""
        if self.delivering:
            raise UsageError("flows cannot be made while windows are lent")
        self.names.append(name)
        self.names_tuple = tuple(self.names)
        if fos_core_add_plan(self.core.c):
            raise LimitError("no memory for a flow")
        self.flow_decoders.append({})
        self.replan()
        return len(self.names) - 1

    def _name_flow(self, number, name):
        self.names[number] = name
        self.names_tuple = tuple(self.names)

    def _attach(self, module, flow, int order):
        """Put a module to work on flow number `flow` (None: on everything)."""
        cdef Attachment a = Attachment.__new__(Attachment)
        protocol = module.protocol
        if protocol in LEVELS:
            a.lvl, a.classes = LEVELS[protocol]
        elif protocol in self.decoder_classes:
            a.lvl = LEVEL_DECODER
            a.classes = 0
            for over in self.decoder_classes[protocol].over:
                a.classes |= <uint32_t>CLASSES.get(over, 0)
        else:
            known = ", ".join([*LEVELS, *sorted(self.decoder_classes)])
            raise UsageError(f"{type(module).__name__}: protocol {protocol!r} is unknown; there are {known}")
        if module.scope not in ("connection", "flow"):
            raise UsageError(f"{type(module).__name__}: scope {module.scope!r}, expected 'connection' or 'flow'")
        a.whole_flow = module.scope == "flow"
        if a.whole_flow and a.lvl == LEVEL_DECODER:
            raise UsageError(f"{type(module).__name__}: scope 'flow' works on transport levels and below, "
                             f"not on {protocol!r}")
        a.module = module
        a.flow = flow
        a.protocol = protocol
        a.order = order
        a.pool = []
        a.errors = []
        a.journals = {}
        base = getattr(module, "_defaults", ())
        for name in ("opened", "closed", "tick", "process_batch", "process"):
            method = getattr(module, name, None)
            if name in base and getattr(method, "__func__", None) is base[name]:
                method = None                 # not overridden: nobody waits for the call
            if name == "opened":
                a.opened = method
            elif name == "closed":
                a.closed = method
            elif name == "tick":
                a.tick = method
            elif name == "process_batch":
                a.process_batch = method
            else:
                a.process = method
        self.attachments.append(a)
        self.attachments.sort(key=_order)
        try:
            self.replan()
        except BaseException:
            self.attachments.remove(a)
            self.replan()
            raise
        return a

    def _detach(self, attachment):
        self.attachments.remove(attachment)
        self.replan()

    cdef int replan(self) except -1:
        """Work out, for each flow, what its modules want of the core."""
        cdef fos_plan *plan
        cdef Attachment a
        cdef uint32_t f, i
        self.core.c.packet_units = 0
        for f in range(len(self.names)):
            plan = &self.core.c.plans[f]
            plan.units = plan.rows = plan.events = plan.packets = 0
            journals = 0
            levels = set()
            decoders = {}
            for a in self.attachments:
                if a.flow is not None and a.flow != f:
                    continue
                levels.add(a.lvl)
                if a.opened is not None or a.closed is not None:
                    plan.events = 1
                if a.whole_flow:
                    if journals == FOS_MAX_JOURNALS:
                        raise UsageError(f"a flow takes at most {FOS_MAX_JOURNALS} modules of scope 'flow'")
                    plan.journal[journals].classes = a.classes
                    a.journals[f] = journals
                    journals += 1
                    plan.rows |= a.classes
                    continue
                if a.process is not None or a.process_batch is not None:
                    plan.units |= a.classes
                if a.lvl == LEVEL_DECODER:
                    plan.events = 1
                    self._add_decoder(decoders, a.protocol)
            if self.config.detect:
                for protocol in self.decoder_classes:
                    self._add_decoder(decoders, protocol)
                for bit in decoders:
                    plan.units |= <uint32_t>bit
                plan.events |= 1 if decoders else 0
            plan.journals = journals
            plan.packets = 1 if levels and max(levels) <= LEVEL_IP and not decoders else 0
            if plan.packets:
                self.core.c.packet_units = 1
            self.flow_decoders[f] = decoders
        return 0

    def _add_decoder(self, decoders, protocol):
        decoder = self.decoder_classes[protocol]
        for over in decoder.over:
            bit = CLASSES.get(over)
            if bit is not None and decoder not in decoders.setdefault(bit, []):
                decoders[bit].append(decoder)

    # ---- the loop -------------------------------------------------------------------------

    cdef bint due(self) noexcept nogil:
        cdef fos_core *c = self.core.c
        return (c.units_pending >= self.deliver_units or c.rows_pending >= self.deliver_rows
                or c.closed.count >= 4096 or c.opened.count >= 4096 or c.failed)

    cdef int pump(self, uint32_t most) except -1 nogil:
        """Run batches until something is due, the port has nothing, or `most` of them are done.

        Returns how many packets were taken; -1 with an exception set on a fault of the port.
        """
        cdef fos_ring *ring = &self.port.rx
        cdef fos_core *c = self.core.c
        cdef uint32_t n, done = 0
        cdef int taken = 0
        while done < most:
            if ring.cur == ring.tail:
                if self.port.ended:
                    break
                self.port.rxsync()
                if ring.cur == ring.tail:
                    break
            n = ring.tail - ring.cur
            if n > self.batch:
                n = self.batch
            fos_burst(c, ring, ring.cur, n)
            ring.cur += n
            taken += n
            done += 1
            # Frames that units refer to must stay until these are released; stable ones do anyway.
            if c.stable or c.units_pending == 0:
                ring.head = ring.cur
            if self.due():
                break
        return taken

    def step(self):
        """Run until something was delivered or a few batches are done; say whether there is more to come."""
        cdef int taken
        if self.port is None:
            raise UsageError("the engine has no port: call add_port first")
        if self.ended:
            return False
        if self.delivering:
            raise UsageError("step() was called from within a module's call")
        with nogil:
            taken = self.pump(64)
        PyErr_CheckSignals()
        if self.core.c.failed:
            raise LimitError("memory ran out inside the core")
        if self.core.error is not None:
            error, self.core.error = self.core.error, None
            raise error
        if self.due() or not taken:
            self.deliver()
            self.port.rx.head = self.port.rx.cur
        if not taken and self.port.ended and self.port.rx.cur == self.port.rx.tail:
            self.finish()
            return False
        return True

    def finish(self):
        """End every connection as the input's end does, and deliver what is left."""
        if self.ended:
            return
        self.ended = True
        self.deliver()
        fos_core_end(self.core.c)
        self.deliver()

    @property
    def finished(self):
        """Say whether the input has ended and everything was delivered."""
        return self.ended

    # ---- delivery -------------------------------------------------------------------------

    cdef int deliver(self) except -1:
        self.delivering = True
        try:
            self._tell_opened()
            self._gather()
            self._lend_windows()
            self._free_units()
            self._lend_rows()
            self._tell_closed()
            self._tell_time()
        finally:
            self.delivering = False
        return 0

    cdef Connection handle(self, uint32_t index):
        cdef Connection handle = connection_of(self.core, index)
        handle.flow_names = self.names_tuple
        cdef void *decoding = self.core.c.table.cold[index].decoding
        if decoding != NULL:
            handle.detected = (<Decoding>decoding).name
        return handle

    def _fault(self, Attachment a, error):
        """A module raised: keep the error; pass it on unless modules are isolated."""
        self.core.c.counters.v[FOS_C_module_errors] += 1
        a.errors.append("".join(traceback.format_exception(type(error), error, error.__traceback__)))
        a.errors = a.errors[max(0, len(a.errors) - 16):]
        if not self.config.isolate:
            raise error

    def _tell_opened(self):
        cdef fos_core *c = self.core.c
        cdef uint32_t i, index, flow
        cdef Attachment a
        for i in range(c.opened.count):
            index = c.opened.items[i]
            flow = c.table.conns[index].flow
            c.table.conns[index].flags |= FOS_CONN_ANNOUNCED
            for a in self.attachments:
                if a.opened is None or (a.flow is not None and a.flow != flow):
                    continue
                if not a.classes & fos_class_of(c.table.conns[index].key.proto):
                    continue
                try:
                    a.opened(self.handle(index))
                except Exception as error:
                    self._fault(a, error)
        c.opened.count = 0

    def _gather(self):
        """List the connections with something to deliver; run the decoders on them."""
        cdef fos_core *c = self.core.c
        cdef uint32_t i, index, n = 0
        cdef fos_conn *conn
        for i in range(c.closed.count):
            index = c.closed.items[i]
            if c.table.cold[index].decoding != NULL:
                fos_make_ready(c, index, &c.table.conns[index])
        if c.ready_count > self.ready_room:
            self.ready = <uint32_t *>realloc(self.ready, c.ready_count * sizeof(uint32_t))
            if self.ready == NULL:
                self.ready_room = 0
                raise LimitError("no memory for the list of ready connections")
            self.ready_room = c.ready_count
        index = c.ready_first
        while index:
            self.ready[n] = index
            n += 1
            conn = &c.table.conns[index]
            index = conn.next_ready
            conn.flags &= <uint8_t>~FOS_CONN_READY
        c.ready_first = c.ready_last = 0
        c.ready_count = 0
        c.units_pending = 0
        self.ready_count = n
        for i in range(n):
            self._decode(self.ready[i])

    cdef int _decode(self, uint32_t index) except -1:
        cdef fos_core *c = self.core.c
        cdef fos_conn *conn = &c.table.conns[index]
        cdef fos_cold *cold = &c.table.cold[index]
        cdef Decoding decoding
        cdef int d
        if cold.decoding == NULL:
            decoders = self.flow_decoders[conn.flow]
            if not decoders:
                return 0
            candidates = decoders.get(fos_class_of(conn.key.proto))
            if not candidates:
                return 0
            decoding = Decoding(self.core, index, candidates, self.decoder_errors)
            Py_INCREF(decoding)
            cold.decoding = <void *>decoding
        decoding = <Decoding>cold.decoding
        decoding.decode()
        if decoding.over and decoding is not self.nothing:
            # Every decoder declined: what was kept for them goes, one object stands for all such connections.
            Py_INCREF(self.nothing)
            cold.decoding = <void *>self.nothing
            Py_DECREF(decoding)
            return 0
        if conn.flags & FOS_CONN_CLOSED:
            for d in range(2):
                decoding.finish(d, fos_half_of(c, index, d).next if conn.flags & FOS_CONN_HALVES else 0, conn.last_ns)
        if cold.handle != NULL:
            (<Connection>cold.handle).detected = decoding.name
        return 0

    cdef Window window(self, Attachment a, uint32_t n):
        """The n-th window of an attachment's pool."""
        cdef Window w
        if n == <uint32_t>len(a.pool):
            w = Window.__new__(Window)
            w.core = self.core
            a.pool.append(w)
        w = <Window>a.pool[n]
        return w

    def _lend_windows(self):
        cdef fos_core *c = self.core.c
        cdef Attachment a
        cdef Window w
        cdef uint32_t i, index, n
        cdef fos_conn *conn
        cdef fos_stream *s
        cdef Decoding decoding
        cdef int direction, dir
        cdef void *held
        if not self.ready_count:
            return
        for a in self.attachments:
            if a.whole_flow or (a.process is None and a.process_batch is None):
                continue
            n = 0
            for i in range(self.ready_count):
                index = self.ready[i]
                conn = &c.table.conns[index]
                if (a.flow is not None and a.flow != conn.flow) or not a.classes & fos_class_of(conn.key.proto):
                    continue
                held = NULL
                if a.lvl == LEVEL_DECODER:
                    held = c.table.cold[index].decoding
                    if held == NULL or (<Decoding>held).name != a.protocol or not (<Decoding>held).sink.emitted:
                        continue
                    decoding = <Decoding>held
                for direction in range(2):
                    dir = direction ^ (conn.flags & FOS_CONN_A_IS_HIGH)
                    s = &(<Decoding>held).up[dir] if held != NULL else fos_half_of(c, index, dir).stream
                    if held != NULL and decoding.native is None:
                        if not decoding.made[dir]:
                            continue
                        w = self.window(a, n)
                        w.made = decoding.made[dir]
                        w.first = 0
                        w.stop = len(w.made)
                        w.offset = w.made[0].start
                        w.length = w.made[len(w.made) - 1].end - w.offset
                    else:
                        if s == NULL or s.head_index == s.tail_index:
                            continue
                        w = self.window(a, n)
                        w.made = None
                        w.first = s.head_index
                        w.stop = s.tail_index
                        w.offset = s.head_off
                        w.length = s.tail_off - s.head_off
                    w.stream = s
                    w.index = index
                    w.generation = conn.generation
                    w.dir = dir
                    w.direction = direction
                    w.lvl = a.lvl
                    w.decoding = <Decoding>held if held != NULL else None
                    w.protocol = a.protocol
                    w.complete = conn.flags & FOS_CONN_CLOSED or (
                        conn.flags & FOS_CONN_HALVES and fos_half_of(c, index, dir).flags & FOS_HALF_FIN_DONE)
                    w.now = c.now
                    w.live = True
                    n += 1
            if n:
                self._call(a, n)

    cdef int _call(self, Attachment a, uint32_t n) except -1:
        """Hand n windows to a module; take them back whatever it does."""
        cdef Window w
        cdef uint32_t i
        for i in range(n):
            w = <Window>a.pool[i]
            if self.core.c.table.cold[w.index].handle != NULL:
                (<Connection>self.core.c.table.cold[w.index].handle).flow_names = self.names_tuple
        try:
            if a.process_batch is not None:
                a.process_batch(a.pool[:n])
            else:
                for i in range(n):
                    a.process(a.pool[i])
        except Exception as error:
            self._fault(a, error)
        finally:
            for i in range(n):
                w = <Window>a.pool[i]
                w.live = False
                w.decoding = None
                w.made = None
                if Py_REFCNT(w) > 2:          # the pool's reference and `w`: more means that somebody kept it
                    w = Window.__new__(Window)
                    w.core = self.core
                    a.pool[i] = w
            del a.pool[4096:]
        return 0

    def _free_units(self):
        cdef fos_core *c = self.core.c
        cdef fos_stream *s
        cdef uint32_t i, index
        cdef int dir
        for i in range(self.ready_count):
            index = self.ready[i]
            if not c.table.conns[index].flags & FOS_CONN_HALVES:
                continue
            if c.table.cold[index].decoding != NULL:
                (<Decoding>c.table.cold[index].decoding).release()
            for dir in range(2):
                s = fos_half_of(c, index, dir).stream
                if s != NULL:
                    fos_stream_free_to(s, s.tail_index, &c.chunks)
        self.ready_count = 0

    def _lend_rows(self):
        cdef fos_core *c = self.core.c
        cdef Attachment a
        cdef FlowWindow w
        cdef fos_journal *journal
        cdef uint32_t f
        if not c.rows_pending:
            return
        for a in self.attachments:
            if not a.whole_flow:
                continue
            for f in range(len(self.names)):
                if a.flow is not None and a.flow != f:
                    continue
                journal = &c.plans[f].journal[<uint32_t>a.journals[f]]
                if not journal.count:
                    continue
                w = flow_window(journal, self.names[f], a.protocol)
                try:
                    if a.process_batch is not None:
                        a.process_batch([w])
                    elif a.process is not None:
                        a.process(w)
                except Exception as error:
                    self._fault(a, error)
                finally:
                    give_back(w, journal)
        c.rows_pending = 0

    def _tell_closed(self):
        cdef fos_core *c = self.core.c
        cdef uint32_t i, index, flow
        cdef Attachment a
        cdef Connection handle
        cdef void *decoding
        for i in range(c.closed.count):
            index = c.closed.items[i]
            flow = c.table.conns[index].flow
            reason = REASONS[c.table.conns[index].reason]
            for a in self.attachments:
                if a.closed is None or (a.flow is not None and a.flow != flow):
                    continue
                if not a.classes & fos_class_of(c.table.conns[index].key.proto):
                    continue
                try:
                    a.closed(self.handle(index), reason)
                except Exception as error:
                    self._fault(a, error)
            if c.table.cold[index].handle != NULL:
                handle = <Connection>c.table.cold[index].handle
                handle.flow_names = self.names_tuple
                handle.settle()
            decoding = c.table.cold[index].decoding
            if decoding != NULL:
                c.table.cold[index].decoding = NULL
                Py_DECREF(<object>decoding)
            fos_conn_free(c, index)
        c.closed.count = 0

    def _tell_time(self):
        """Tell the modules that want it the time, once a second of capture time."""
        cdef Attachment a
        cdef int64_t second = self.core.c.now // 1_000_000_000
        if not self.core.c.packet_number or second == self.ticked:
            return
        self.ticked = second
        for a in self.attachments:
            if a.tick is None:
                continue
            try:
                a.tick(self.core.c.now)
            except Exception as error:
                self._fault(a, error)

    # ---- what can be read -----------------------------------------------------------------

    def statistics(self):
        """Give every counter by name: the core's and the port's."""
        values = self.core.counters()
        if self.port is not None:
            values.update(self.port.statistics())
        return values

    @property
    def ip_reassembly(self):
        """Count what defragmentation did: datagrams, fragments, timed_out, overlaps, conflicts."""
        values = self.core.counters()
        return {"datagrams": values["datagrams_reassembled"], "fragments": values["fragments"],
                "timed_out": values["ip_fragments_timed_out"], "overlaps": values["ip_fragment_overlaps"],
                "conflicts": values["ip_fragment_conflicts"]}

    @property
    def _capture(self):
        cdef fos_core *c = self.core.c
        cdef uint32_t i
        values = self.core.counters()
        return (values["packets"], values["bytes"], values["truncated"], [c.links[i] for i in range(c.link_count)],
                c.first_ns if c.packet_number else None, c.last_ns if c.packet_number else None)

    @property
    def now(self):
        """Give the latest capture time seen, in ns since the epoch; None before the first packet."""
        return self.core.c.now if self.core.c.packet_number else None

    @property
    def packets(self):
        """Count the packets taken so far."""
        return self.core.c.packet_number

    def connections(self):
        """List handles on the live connections, in order of their records."""
        cdef uint32_t i
        found = []
        for i in range(1, self.core.c.table.used + 1):
            if self.core.c.table.conns[i].generation & 1 and not self.core.c.table.conns[i].flags & FOS_CONN_CLOSED:
                found.append(self.handle(i))
        return found

    def _check(self):
        """Verify the core's invariants; AssertionError names the broken one."""
        self.core._check()


def _order(attachment):
    return attachment.order
