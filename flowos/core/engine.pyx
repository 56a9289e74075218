"""The engine's loop: batches from the port through the core, windows to the modules.

    port.rxsync -> fos_burst (nogil) -> ... until something is due -> deliver (GIL) -> release

Python is called per window, never per packet: units gather while batches run without the GIL,
and are delivered together when enough of them wait (`deliver_units`, `deliver_rows`), when the
ring must move on, and at the end.  Within one delivery the order is: `opened`, windows by the
modules' order, rows, `closed`, ticks.  A delivery is always finished: what a module raises is kept
until the books are in order, so that running on loses and repeats nothing.  The file is long because a compiled class cannot be spread over several.
"""
import os
import sys
import threading
import time
import traceback

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.pythread cimport PyThread_acquire_lock, PyThread_get_thread_ident, PyThread_release_lock, WAIT_LOCK
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_REFCNT
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc

from flowos.core.attachment cimport Attachment
from flowos.core.connection cimport Connection, connection_of
from flowos.core.core cimport *
from flowos.core.flowtable cimport FlowTable
from flowos.core.decoder cimport Decoder
from flowos.core.decoding cimport Decoding
from flowos.core.framing cimport Framing
from flowos.core.journal cimport FlowWindow, flow_window, give_back
from flowos.core.lane cimport FOS_MAX_OUTLETS, FOS_MAX_ROUTES, FOS_MAX_STAGES, FOS_STAGE_AWAY, FOS_STAGE_LENT, FOS_STAGE_WOKEN, FOS_STAGE_WRITES, fos_lane, fos_outlet, fos_stage
from flowos.core.lending cimport (
    commit, decoding_of, forget, lane_at, let_go, offer, pass_by, plan_stage, pooled, reads, settle, settle_gone, stage_number, untouched)
from flowos.core.merge cimport fos_lane_free, fos_lane_idle, fos_lane_of, fos_lane_touch, fos_merge, fos_way_ahead
from flowos.core.port cimport Port
from flowos.core.reframing cimport Reframer
from flowos.core.reshaping cimport reshape
from flowos.core.ring cimport fos_ring, fos_ring_slot
from flowos.core.snapshot cimport snapshot
from flowos.core.state cimport Core
from flowos.core.worker cimport Call, Loan, Worker
from flowos.core.worker import ModuleThread
from flowos.core.window cimport LEVEL_DECODER, LEVEL_FRAME, LEVEL_IP, LEVEL_TRANSPORT, Window

from flowos.core.connection import REASONS
from flowos.core.errors import DecoderError, LimitError, UsageError

cdef extern from "fetch.h" nogil:
    void fos_fetch_ready(const fos_core *core, const uint32_t *ready, uint32_t i, uint32_t count)
    void fos_fetch_bytes(const fos_stream *s)

cdef dict LEVELS = {
    "frame": (LEVEL_FRAME, FOS_CLASS_ALL), "ip": (LEVEL_IP, FOS_CLASS_ALL),
    "transport": (LEVEL_TRANSPORT, FOS_CLASS_ALL), "tcp": (LEVEL_TRANSPORT, FOS_CLASS_TCP),
    "udp": (LEVEL_TRANSPORT, FOS_CLASS_UDP), "sctp": (LEVEL_TRANSPORT, FOS_CLASS_SCTP),
    "icmp": (LEVEL_TRANSPORT, FOS_CLASS_ICMP),
}
cdef uint64_t REFRAMER = 0xffffffffffffffff   # the serial of a flow's stage that keeps messages valid
cdef int64_t NEVER = 0x7fffffffffffffff
cdef int64_t SECOND = 1_000_000_000
cdef int64_t CLOCK_SET_BACK = 3600 * SECOND   # as the core sees it (loop.h)
cdef dict CLASSES = {"tcp": FOS_CLASS_TCP, "udp": FOS_CLASS_UDP, "sctp": FOS_CLASS_SCTP, "icmp": FOS_CLASS_ICMP}


cdef bint holds(const fos_lane *lane) noexcept nogil:
    """Does any stage hold what it was lent?"""
    cdef uint32_t k
    for k in range(lane.stage_count):
        if lane.way[0].stages[k].held_since or lane.way[1].stages[k].held_since:
            return True
    return False


cdef int _sync_port(void *port) noexcept nogil:
    """Send what waits in a port's ring; -1: it failed, and says why when it is asked again with the GIL."""
    with gil:
        try:
            (<Port>port).txsync()
        except BaseException:
            return -1
    return 0


@cython.no_gc_clear                 # the core is needed to the last: records own references
cdef class BaseEngine:
    """Runs packets through the core; `flowos.Engine` is its public face."""

    def __cinit__(self, config, *args, **kwargs):
        self.config = config
        self.core = Core(config)
        self.attachments = []
        self.serving = []
        self.names = [None]
        self.free_numbers = []
        self.flow_decoders = [{}]
        self.decoder_classes = {}
        self.decoder_errors = []
        self.workers = []
        self.port_counts = {}
        self.checks = os.environ.get("FLOWOS_CHECKS", "0") not in ("", "0")
        self.outputs = []
        self.reframers = [None]
        self.nothing = Decoding(self.core, 0, [], self.decoder_errors)
        self.tick_at = self.ticking = self.waking = NEVER
        self.resting = set()
        self.batch = config.batch
        self.deliver_units = config.deliver_units
        self.deliver_rows = config.deliver_rows

    def __dealloc__(self):
        cdef uint32_t i
        cdef void *decoding
        free(self.ready)
        for a in self.workers or ():          # their threads end with their calls
            (<Worker>(<Attachment>a).worker).jobs.put(None)
        if self.core is None:
            return
        for i in range(1, self.core.c.table.used + 1):      # an engine that never came to its end
            decoding = self.core.c.table.cold[i].decoding
            if decoding != NULL:
                self.core.c.table.cold[i].decoding = NULL
                Py_DECREF(<object>decoding)

    # ---- what to run ----------------------------------------------------------------------

    def _idle(self, what):
        """UsageError while packets are on their way through or windows are lent, and on a module's thread."""
        self._own_thread(what)
        if self.busy:
            raise UsageError(f"{what} was called from within a module's call: it waits for the call to return")

    def _own_thread(self, what):
        thread = threading.current_thread() if self.core.guarded else None
        if isinstance(thread, ModuleThread) and thread.engine_core is self.core:
            raise UsageError(f"{what} was called on a module's thread: the engine is its own thread's alone")

    def _deliver(self, what):
        """Deliver what gathered, before `what` changes to whom it belongs; of a capture, see it worked on."""
        self._idle(what)
        self.deliver()
        if not self.core.c.live:
            self._drain(self.workers)

    def _set_port(self, Port port):
        self._idle("add_port()")
        self.port = port
        self.core.owner = port
        self.core.c.stable = port.stable
        self.core.c.defrag.stable = port.stable

    def _add_output(self, Port port, bint lends, interfaces):
        """Let packets that came from these interfaces leave by a port; None: from all."""
        cdef fos_core *c = self.core.c
        cdef uint32_t i
        cdef fos_outlet *out
        if not port.tx.size:
            raise UsageError(f"{port.name}: this port sends nothing")
        if c.outlets.count == FOS_MAX_OUTLETS:
            raise LimitError(f"an engine has at most {FOS_MAX_OUTLETS} outputs")
        out = &c.outlets.list[c.outlets.count]
        out.tx = &port.tx
        out.port = <void *>port
        out.sync = _sync_port
        out.lends = lends
        for i in range(FOS_MAX_ROUTES) if interfaces is None else interfaces:
            c.outlets.route[i] = c.outlets.count
        c.outlets.count += 1
        c.in_line = 1
        self.outputs.append(port)

    def _match_flow(self, match, priority, number):
        if self.flow_table is None:
            self.flow_table = FlowTable(self.core)
        self.flow_table.add(match, priority, number)
        self.change()

    def _unmatch_flow(self, number):
        self.flow_table.remove(number)
        self.change()

    def _rematch_flow(self, number, before, after):
        self.flow_table.change(number, before, after)
        self.change()

    @property
    def _flow_table(self):
        return self.flow_table

    def _set_decoders(self, classes):
        """Tell which decoders there are: {protocol: class}.  DecoderError: the core cannot call the framing of one."""
        for name, decoder in classes.items():
            framing = getattr(decoder, "framing", None)
            if framing is not None and not (isinstance(framing, type) and issubclass(framing, Framing) and issubclass(decoder, Decoder)):
                raise DecoderError(f"{name}: framing is {framing!r} of {decoder.__name__}, expected a subclass of "
                                   f"flowos.core.framing.Framing, of a compiled decoder")
        try:
            if not self.busy:
                self.deliver()
        finally:
            self.decoder_classes = dict(classes)
            self.change()

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
        if self.free_numbers:
            number = self.free_numbers.pop()
            self.names[number] = name
        else:
            if fos_core_add_plan(self.core.c):
                raise LimitError("no memory for a flow")
            number = len(self.names)
            self.names.append(name)
            self.flow_decoders.append({})
            self.reframers.append(None)
        self.core.flow_names = tuple(self.names)
        self.plan_flow(number)
        return number

    def _drop_flow(self, number):
        """A flow is gone and nothing refers to it: its number serves again."""
        self.names[number] = None
        self.core.flow_names = tuple(self.names)
        self.free_numbers.append(number)

    def _attach(self, module, flow, int order, bint own=False, cpus=None):
        """Put a module to work on flow number `flow` (None: on everything); `own`: on a thread of its own, on these `cpus`."""
        cdef Attachment a = Attachment.__new__(Attachment)
        self._own_thread("attach()")
        protocol = module.protocol
        name, _, kind = protocol.partition(".")
        if protocol not in self.decoder_classes and name in self.decoder_classes and kind:
            a.kinds, a.end_kind = self._kinds(module, self.decoder_classes[name], kind)
        else:
            name, a.kinds, a.end_kind = protocol, None, -1
        a.decoder = name
        if protocol in LEVELS:
            a.lvl, a.classes = LEVELS[protocol]
        elif name in self.decoder_classes:
            a.lvl = LEVEL_DECODER
            a.classes = 0
            for over in self.decoder_classes[name].over:
                a.classes |= <uint32_t>CLASSES.get(over, 0)
            if not a.classes:
                raise UsageError(f"{type(module).__name__}: the decoder of {protocol!r} is over "
                                 f"{self.decoder_classes[name].over!r}; expected some of {', '.join(CLASSES)}")
        else:
            known = ", ".join([*LEVELS, *sorted(self.decoder_classes)])
            raise UsageError(f"{type(module).__name__}: protocol {protocol!r} is unknown; there are {known}")
        if module.scope not in ("connection", "flow"):
            raise UsageError(f"{type(module).__name__}: scope {module.scope!r}, expected 'connection' or 'flow'")
        a.whole_flow = module.scope == "flow"
        if a.whole_flow and a.lvl == LEVEL_DECODER:
            raise UsageError(f"{type(module).__name__}: scope 'flow' works on transport levels and below, "
                             f"not on {protocol!r}")
        if a.whole_flow and self._crowded(flow):
            raise UsageError(f"a flow takes at most {FOS_MAX_JOURNALS} modules of scope 'flow'")
        a.writes = module.mode == "rdwr"
        if a.writes and a.whole_flow:
            raise UsageError(f"{type(module).__name__}: scope 'flow' is read-only, mode is {module.mode!r}")
        if a.writes and (a.classes & ~FOS_CLASS_SCTP) == 0:
            raise UsageError(f"{type(module).__name__}: SCTP cannot be edited: its chunks are under a checksum of the whole packet")
        a.same_length = (a.lvl == LEVEL_DECODER and a.kinds is not None and "body" in a.kinds and not getattr(module, "resizes", False)
                         and getattr(self.decoder_classes[name], "framing", None) is not None)
        self.serials += 1
        a.serial = self.serials
        a.states = {}
        a.groups = {}
        a.flow = flow
        a.protocol = protocol
        a.order = order
        a.pool = []
        a.errors = []
        a.journals = {}
        self._equip(a, module)
        if not self.busy:
            self.deliver()                    # what came before is not for the newcomer
        if own:
            self.core.guard()
            a.worker = Worker(a, self.core, self.bell, cpus)
            self.workers.append(a)
        self.attachments = sorted([*self.attachments, a], key=_order)
        self.change()
        return a

    cdef int _equip(self, Attachment a, module) except -1:
        """Take over what a module says of itself, and its functions."""
        hold, limit = float(getattr(module, "hold", 1.0)), getattr(module, "time_limit", None)
        limit = None if limit is None else float(limit)
        hold_bytes, depends = int(getattr(module, "hold_bytes", 1 << 20)), tuple(getattr(module, "depends", ()))
        a.hold_bytes = hold_bytes             # from here on nothing fails that is not taken back as a whole
        a.hold_ns = <int64_t>(hold * SECOND)
        a.limit_ns = 0 if limit is None else <int64_t>(limit * SECOND)
        a.depends = depends
        a.fail = getattr(module, "fail", "open")
        a.make_state = getattr(module, "state", None) or dict
        a.make_shared = getattr(module, "shared", None) or dict
        a.make_group = getattr(module, "group", None) or dict
        a.module = module
        base = getattr(module, "_defaults", ())
        for name in ("opened", "closed", "process_batch", "process", "tick"):
            method = getattr(module, name, None)
            if name in base and getattr(method, "__func__", None) is base[name]:
                method = None                 # not overridden: nobody waits for the call
            if name == "opened":
                a.opened = method
            elif name == "closed":
                a.closed = method
            elif name == "process_batch":
                a.process_batch = method
            elif name == "process":
                a.process = method
            else:
                a.tick = method
        return 0

    def _border(self, Attachment a, what):
        """Deliver what gathered, and wait until no call of a module is under way; UsageError: one does not return."""
        self._deliver(what)
        if a.worker is None:
            return
        self._drain([a])
        if (<Worker>a.worker).behind() or not (<Worker>a.worker).idle():
            raise UsageError(f"{what}: {a.name} has been in one call for longer than its hold of {a.hold_ns / 1e9:g} s, "
                             f"and its state is not at rest; detach() takes it off")

    def _reload(self, Attachment a, module, flow, states):
        """Let another module go on in an attachment's place, which is at a border, with these states by kind."""
        cdef bint worked = a.process is not None or a.process_batch is not None
        old = a.module
        self.busy = True                      # what the module starts by the way waits until it is there
        try:
            self._equip(a, module)
            module.start(flow)
        except BaseException:
            self._equip(a, old)
            raise
        else:
            a.states, a.groups = dict(states["state"]), dict(states["group"])
            a.common = states["shared"][0][1] if states["shared"] else None
            if worked != (a.process is not None or a.process_batch is not None):
                self.serials += 1             # its stages came, or went for good
                a.serial = self.serials
        finally:
            self.busy = False
            self.replan()

    def _kinds(self, module, decoder, kind):
        """The kind of a decoder's units that "http.body" names: by number and name; and the number of its kind "end"."""
        table = getattr(sys.modules[decoder.__module__], "KINDS", {})
        numbers = {text: number for number, text in table.items()}
        if table and kind not in numbers:
            raise UsageError(f"{type(module).__name__}: protocol {module.protocol!r}: the units of {decoder.name!r} are "
                             f"{', '.join(sorted(numbers))}")
        return frozenset({kind, numbers.get(kind, kind)}), numbers.get("end", -1)

    def _crowded(self, flow):
        """Say whether a flow has as many modules of scope "flow" as it takes; None: whether some flow has."""
        cdef Attachment a
        flows = [a.flow for a in self.attachments if a.whole_flow]
        mine = set(flows) - {None} if flow is None else {flow}
        return flows.count(None) + max([flows.count(f) for f in mine], default=0) >= FOS_MAX_JOURNALS

    def _detach(self, Attachment a):
        """Take a module off: at once when it is idle, or as soon as its call has returned."""
        self._own_thread("detach()")
        try:
            if not self.busy:
                self.deliver()
                if a.worker is not None:
                    self._drain([a])
        finally:
            a.detached = True
            self.attachments = [other for other in self.attachments if other is not a]
            if a.worker is not None:
                self.workers.remove(a)
                self._dismiss(a)
            self.change()

    cdef int change(self) except -1:
        """What modules want has changed: plan anew, but not under a delivery that goes by the old plans."""
        if self.busy:
            self.replan_due = True
        else:
            self.replan()
        return 0

    cdef int replan(self) except -1:
        """Work out, for each flow, what its modules want of the core."""
        cdef Attachment a
        cdef uint32_t f
        cdef fos_lane *lane
        self.replan_due = False
        self._look_again()
        self._foresee()
        self.core.c.packet_units = 0
        for f in range(len(self.names)):
            self.plan_flow(f)
        lane = self.core.c.all_lanes
        while lane != NULL:
            reshape(self.core, self.attachments, lane)
            lane = lane.all_next
        if not any([a.tick is not None for a in self.attachments]):
            self.tick_at = self.ticking = NEVER
        elif self.tick_at == NEVER:
            self.tick_at = -NEVER             # the next packet sets the clock
        return 0

    cdef int plan_flow(self, uint32_t f) except -1:
        """Work out what the modules of one flow want."""
        cdef fos_plan *plan = &self.core.c.plans[f]
        cdef Attachment a
        cdef Reframer reframer
        cdef uint32_t i
        plan.units = plan.rows = plan.events = plan.packets = plan.writes = plan.stage_count = 0
        journals = 0
        levels = set()
        decoders = {}
        resizes = None
        for a in self.attachments:
            if a.flow is not None and a.flow != f:
                continue
            levels.add(a.lvl)
            if a.opened is not None or a.closed is not None:
                plan.events = 1
            if a.whole_flow:
                plan.journal[journals].classes = a.classes
                a.journals[f] = journals
                journals += 1
                plan.rows |= a.classes
                continue
            if a.process is not None or a.process_batch is not None:
                plan.units |= a.classes
                if plan.stage_count == FOS_MAX_STAGES:
                    raise LimitError(f"a flow takes at most {FOS_MAX_STAGES} modules of scope 'connection'")
                plan.stage[plan.stage_count].serial = a.serial
                plan.stage[plan.stage_count].order = a.order
                plan.stage[plan.stage_count].flags = FOS_STAGE_WRITES if a.writes else 0
                plan.stage_count += 1
                if a.writes:
                    plan.writes |= a.classes
                    self.core.c.writes |= a.classes
            if a.lvl == LEVEL_DECODER:
                plan.events = 1
                self._add_decoder(decoders, a.decoder)
                if a.writes and getattr(a.module, "resizes", False) and getattr(self.decoder_classes[a.decoder], "framing", None) is not None:
                    resizes = a if resizes is None else resizes
        if self.config.detect:
            for protocol in self.decoder_classes:
                self._add_decoder(decoders, protocol)
            for bit in decoders:
                plan.units |= <uint32_t>bit
            plan.events |= 1 if decoders else 0
        reframer = <Reframer>self.reframers[f] if self.reframers[f] is not None else None
        if plan.stage_count == FOS_MAX_STAGES or (resizes is None and reframer is None):
            self.reframers[f] = None
        elif resizes is None:                 # heads that have left promise a framing which their bodies still need
            reframer.retiring = True
            self._add_decoder(decoders, reframer.decoder)
            for over in self.decoder_classes[reframer.decoder].over:
                plan.units |= <uint32_t>CLASSES.get(over, 0)
                plan.writes |= <uint32_t>CLASSES.get(over, 0)
            plan.events = 1
            plan.stage[plan.stage_count].serial = REFRAMER
            plan.stage[plan.stage_count].order = 0x7fffffff
            plan.stage[plan.stage_count].flags = FOS_STAGE_WRITES
            plan.stage_count += 1
        else:                                 # a last stage of the system's own keeps messages valid
            if reframer is not None:
                reframer.retiring = False
            if self.reframers[f] is None or self.reframers[f].decoder != (<Attachment>resizes).decoder:
                self.reframers[f] = Reframer(self.core, (<Attachment>resizes).decoder, self.decoder_classes[(<Attachment>resizes).decoder].framing,
                                             (<Attachment>resizes).hold_ns, (<Attachment>resizes).hold_bytes)
            plan.stage[plan.stage_count].serial = REFRAMER
            plan.stage[plan.stage_count].order = 0x7fffffff
            plan.stage[plan.stage_count].flags = FOS_STAGE_WRITES
            plan.stage_count += 1
        plan.journals = journals
        for i in range(FOS_MAX_JOURNALS):     # rows of a module that went in the middle are nobody's
            plan.journal[i].count = 0
            if i >= plan.journals:
                free(plan.journal[i].rows)
                plan.journal[i].rows = NULL
                plan.journal[i].capacity = 0
        # Connections that are kept going live by their streams.
        plan.packets = 1 if levels and max(levels) <= LEVEL_IP and not decoders and not (self.core.c.live and self.core.c.lane_count) else 0
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
                or c.closed.count >= 4096 or c.opened.count >= 4096 or c.failed or c.log.count >= 4 * self.deliver_units)

    cdef uint32_t before_tick(self, const fos_ring *ring, uint32_t n) noexcept nogil:
        """How many of the next n packets come before the next tick, or a module's waking; 0: it is due."""
        cdef uint32_t i
        cdef int64_t ts
        for i in range(n):
            ts = fos_ring_slot(ring, ring.cur + i).ts
            if ts >= self.core.wake_at:
                self.waking = self.core.wake_at
                return i
            if self.tick_at == NEVER:
                continue
            if self.tick_at == -NEVER or ts < self.tick_at - CLOCK_SET_BACK:
                self.tick_at = ts - ts % SECOND + SECOND
            elif ts >= self.tick_at:
                self.ticking = ts - ts % SECOND
                return i
        return n

    cdef int pump(self, uint32_t most) except -1 nogil:
        """Run batches until something is due, the port has nothing, or `most` of them are done.

        It stops where a tick is due, too.  Returns how many packets were taken; -1 with an exception set on a fault of the port.
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
            if self.tick_at != NEVER or self.core.wake_at != NEVER:
                n = self.before_tick(ring, n)
                if n == 0:
                    break
            if self.core.guarded:
                PyThread_acquire_lock(self.core.quiet, WAIT_LOCK)
                fos_burst(c, ring, ring.cur, n)
                PyThread_release_lock(self.core.quiet)
            else:
                fos_burst(c, ring, ring.cur, n)
            ring.cur += n
            taken += n
            done += 1
            # Frames that units refer to must stay until these are released; stable ones do anyway.
            if c.stable or (c.units_pending == 0 and not c.in_line):
                ring.head = ring.cur
            if self.due() and not c.live:
                break
        return taken

    cdef int _check_core(self) except -1:
        """Raise what went wrong where no Python exception could."""
        PyErr_CheckSignals()
        if self.core.c.failed:
            raise LimitError("memory ran out inside the core")
        if self.core.error is not None:
            error, self.core.error = self.core.error, None
            raise error
        return 0

    def _connect(self, ports):
        """Let what each of two ports receives leave by the other."""
        cdef Port port
        cdef int i
        self._idle("connect()")
        self.wired = list(ports)
        for i, port in enumerate(self.wired):
            if not port.rx.size or not port.tx.size:
                raise UsageError(f"{port.name}: this port does not both receive and send")
            if port.stable:
                raise UsageError(f"{port.name}: a file cannot be connected")
        self.port = <Port>self.wired[0]
        self.core.c.stable = self.core.c.defrag.stable = 0
        self.core.c.live = 1
        for i in range(2):
            self._add_output(self.wired[1 - i], False, [i])

    cdef int _step_wired(self) except -1:
        """Take what came on each of the connected ports, deliver it, send what is due."""
        cdef Port port
        cdef fos_core *c = self.core.c
        cdef int taken = 0
        cdef int64_t now
        self.busy, self.stalled = True, False
        try:
            for number, port in enumerate(self.wired):
                self.port = port
                c.iface_base = number
                taken += self.pump_into(<Port>self.wired[1 - number])
        finally:
            self.busy = False
        self._check_core()
        if self.ended:                        # a signal's handler closed the engine
            return 0
        now = time.time_ns()
        if now > c.now:
            c.now = now
            if now >= c.tick_ns:
                fos_expire(c, now)
            if self.tick_at != NEVER and self.tick_at != -NEVER and now >= self.tick_at:
                self.ticking = now - now % SECOND
            if now >= self.core.wake_at:
                self.waking = now
        if taken or c.log.count or c.closed.count or c.lane_count or self.workers or self.replan_due or self.ticking != NEVER:
            try:
                self.deliver()
            finally:
                for port in self.wired:
                    port.rx.head = port.rx.cur
        return taken

    cdef int pump_into(self, Port out) except -1:
        """Send what waits on a way out, and take in what came for it: all, or what it has room for, by the policy of overload."""
        cdef uint32_t batch = self.batch, room
        cdef int taken
        if out.tx.tail - out.tx.head < out.tx.size:
            out.txsync()
        if self.config.overload == "drop":
            with nogil:
                taken = self.pump(4)
            return taken
        room = out.tx.tail - out.tx.head
        self.batch = min(batch, room)
        try:
            with nogil:
                taken = self.pump(1 if room else 0)
        finally:
            self.batch = batch
        self.stalled = self.stalled or room == 0
        return taken

    cdef bint _wired_ended(self) except -1:
        """Have both of the connected ports ended, with all that came taken?"""
        cdef Port port
        for port in self.wired:
            if not port.ended or port.rx.cur != port.rx.tail:
                return False
        return True

    @property
    def connected(self):
        """Say whether the engine stands between two ports."""
        return self.wired is not None

    @property
    def next_timer(self):
        """Give the seconds until something is due although nothing comes: a retransmission, a hold limit, a tick."""
        cdef fos_core *c = self.core.c
        cdef int64_t now = time.time_ns(), due = now + SECOND
        if c.keep_deadline and c.keep_deadline < due:
            due = c.keep_deadline
        if self.tick_at != NEVER and self.tick_at != -NEVER and self.tick_at < due:
            due = self.tick_at
        if self.core.wake_at < due:
            due = self.core.wake_at
        if c.lane_count and now + SECOND // 20 < due:    # what is held is looked at so often
            due = now + SECOND // 20
        return max(0, due - now) / 1e9

    def step(self):
        """Run until something was delivered or a few batches are done; say whether there is more to come.

        On connected ports it takes what is there, without waiting, and there is more to come until both have ended.
        """
        cdef int taken
        self._idle("step()")
        self._claim()
        if self.wired is not None and not self.ended:
            if not self._step_wired() and self._wired_ended():
                self.finish()
            return not self.ended
        if self.port is None:
            raise UsageError("the engine has no port: call add_port first")
        if self.ended:
            return False
        self.busy = True
        try:
            with nogil:
                taken = self.pump(64)
        finally:
            self.busy = False
        self._check_core()
        if self.due() or not taken or self.replan_due or self.ticking != NEVER or self.waking != NEVER:
            try:
                self.deliver()
            finally:
                self.port.rx.head = self.port.rx.cur
        if not taken and self.port.ended and self.port.rx.cur == self.port.rx.tail:
            self.finish()
            return False
        return True

    def finish(self):
        """End every connection as the input's end does, and deliver what is left."""
        self._idle("finish()")
        if self.ended:
            return
        self.ended = True
        try:
            self.deliver()
        finally:
            fos_core_end(self.core.c)
            try:
                self.deliver()
            finally:
                self._drain(self.workers)

    def drain(self):
        """Wait until the modules on threads of their own have worked on all that came so far.

        What they release then goes on to later modules and leaves.  On connected ports a module that
        takes longer than its `hold` is not waited for.
        """
        self._idle("drain()")
        self.deliver()
        self._drain(self.workers)

    cdef int _drain(self, list workers) except -1:
        """Deliver until these modules are done with all they were given; raise the first error when they are."""
        cdef Attachment a
        first = None
        while True:
            busy = [a for a in workers if self._owes(a)]
            if not busy:
                break
            for a in busy:
                self._await(a)
            try:
                self.deliver()
            except BaseException as error:
                if not isinstance(error, Exception):
                    raise
                first = first or error
        if first is not None:
            raise first
        return 0

    cdef bint _owes(self, Attachment a) except -1:
        """Is a module's thread to be waited for?  On live ports not when it is behind and its windows were revoked."""
        cdef Worker worker = <Worker>a.worker
        if worker.idle() or self.core.c.live and not worker.loans and not worker.waiting and worker.behind():
            return False
        return True

    @property
    def finished(self):
        """Say whether the input has ended and everything was delivered."""
        return self.ended

    # ---- delivery -------------------------------------------------------------------------

    cdef int _claim(self) except -1:
        """Note that the engine runs on the thread that calls."""
        if self.core.guarded:
            self.core.thread = PyThread_get_thread_ident()
        return 0

    cdef int deliver(self) except -1:
        """Hand out what gathered; raise what a module raised when all of it is done."""
        cdef Attachment a
        self._claim()
        if self.workers and self.port is not None:
            self.port_counts = self.port.statistics()
        self.busy = True
        self.serving = self.attachments
        try:
            for a in self.workers:
                (<Worker>a.worker).round += 1
                self._take_back(a)
                while not self.core.c.live and ((<Worker>a.worker).full() or (<Worker>a.worker).lags()):
                    self._await(a)            # a capture waits for its modules: what leaves keeps its time, nearly
            if self.waking != NEVER:
                self._wake()
            self._tell_opened()
            self._gather()
            self._lend_windows()
            self._settle()
            self._merge()
            self._free_units()
            self._lend_rows()
            self._tell_closed()
            self._tell_time()
        finally:
            self.busy = self.aborting = False
            self.serving = []
            if self.replan_due:
                self.replan()
        if self.checks:
            self.core._check()
        if self.raised is not None:
            error, self.raised = self.raised, None
            raise error
        return 0

    cdef int _fault(self, Attachment a, error) except -1:
        """A module raised: keep the error; it is raised again unless modules are isolated."""
        if not isinstance(error, Exception):  # Ctrl-C, or the program's end: nobody is called any more
            self.raised = error
            self.aborting = True
            return 0
        self.core.c.counters.v[FOS_C_module_errors] += 1
        a.failures += 1
        a.errors.append("".join(traceback.format_exception(type(error), error, error.__traceback__)))
        del a.errors[:max(0, len(a.errors) - 16)]
        if not self.config.isolate and self.raised is None:
            self.raised = error
        return 0

    cdef bint hears(self, Attachment a, const fos_conn *conn):
        """Is this connection one of the module's?"""
        return (not self.aborting and not a.detached and (a.flow is None or a.flow == conn.flow)
                and a.classes & fos_class_of(conn.key.proto))

    def _tell_opened(self):
        cdef fos_core *c = self.core.c
        cdef uint32_t i, index
        cdef Attachment a
        for i in range(c.opened.count):
            index = c.opened.items[i]
            c.table.conns[index].flags |= FOS_CONN_ANNOUNCED
            for a in self.serving:
                if a.opened is None or not self.hears(a, &c.table.conns[index]):
                    continue
                if a.worker is not None and c.live and (<Worker>a.worker).behind():
                    (<Worker>a.worker).unheard.add(index)
                    continue
                self._tell(a, a.opened, (connection_of(self.core, index),))
        c.opened.count = 0

    def _tell_time(self):
        """Tell that a second of capture time is over, if the next packet says so."""
        cdef Attachment a
        cdef int64_t now = self.ticking
        if now == NEVER:
            return
        self.ticking = NEVER
        self.tick_at = now + SECOND
        for a in self.serving:
            if a.tick is None or a.detached or self.aborting:
                continue
            if a.worker is not None:          # a module that is behind is told the latest second alone
                if (<Worker>a.worker).ticking is None:
                    (<Worker>a.worker).ticking = (<Worker>a.worker).tell(a.tick, (now,))
                continue
            self._tell(a, a.tick, (now,))

    cdef int _tell(self, Attachment a, function, tuple arguments) except -1:
        """Call one of the module's functions, on its thread if it has one."""
        if a.worker is not None:
            (<Worker>a.worker).tell(function, arguments)
            return 0
        try:
            function(*arguments)
        except BaseException as error:
            self._fault(a, error)
        return 0

    def _gather(self):
        """List the connections with something to deliver; run the decoders on them."""
        cdef fos_core *c = self.core.c
        cdef uint32_t i, index, n = 0
        cdef fos_conn *conn
        for i in range(c.closed.count):
            index = c.closed.items[i]
            if c.table.cold[index].decoding != NULL or fos_lane_of(c, index) != NULL:
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
            fos_fetch_ready(c, self.ready, i, n)
            try:
                self._decode(self.ready[i])
            except BaseException as error:    # not a decoder's fault, which is its connection's alone
                self.raised = error
                self.aborting = True

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
        if decoding.decoder is None and decoding.over and decoding is not self.nothing:
            # Every decoder declined: what was kept for them goes, one object stands for all such connections.
            Py_INCREF(self.nothing)
            cold.decoding = <void *>self.nothing
            Py_DECREF(decoding)
            return 0
        if conn.flags & FOS_CONN_CLOSED:
            for d in range(2):
                decoding.finish(d, fos_half_of(c, index, d).next if conn.flags & FOS_CONN_HALVES else 0, conn.last_ns)
        return 0

    def _lend_windows(self):
        """Stage by stage, hand each module its windows of the connections with something new."""
        cdef fos_core *c = self.core.c
        cdef Attachment a
        cdef uint32_t i, index, n
        cdef fos_conn *conn
        cdef fos_lane *lane
        cdef int k
        cdef bint deaf
        if not self.ready_count:
            return
        for a in self.serving:
            if a.whole_flow or (a.process is None and a.process_batch is None):
                continue
            if a.worker is not None:
                self._hand_over(a)
                continue
            n = 0
            for i in range(self.ready_count):
                fos_fetch_ready(c, self.ready, i, self.ready_count)
                index = self.ready[i]
                conn = &c.table.conns[index]
                if a.flow is not None and a.flow != conn.flow:
                    continue
                deaf = not self.hears(a, conn)
                if c.lane_count:
                    lane = fos_lane_of(c, index)
                    if lane != NULL:
                        k = stage_number(lane, a)
                        if k > 0:
                            settle_gone(self.core, lane, <uint32_t>k)
                        if deaf:
                            settle(self.core, self.serving, a, index, False)
                if deaf:
                    continue
                n = offer(self.core, self.serving, a, index, 0, n)
                n = offer(self.core, self.serving, a, index, 1, n)
            if n:
                self._call(a, n)
            if c.lane_count or (a.writes and a.lvl == LEVEL_DECODER):
                for i in range(self.ready_count):
                    index = self.ready[i]
                    conn = &c.table.conns[index]
                    if (a.flow is None or a.flow == conn.flow) and (a.writes or fos_lane_of(c, index) != NULL):
                        lane = fos_lane_of(c, index)
                        settle(self.core, self.serving, a, index, self.aborting or a.detached or self.over(index))

    cdef bint over(self, uint32_t index) noexcept:
        """Has the connection ended or been reset, with no window of it out to a module's thread?"""
        cdef fos_lane *lane = fos_lane_of(self.core.c, index)
        if lane == NULL:
            return (self.core.c.table.conns[index].flags & FOS_CONN_CLOSED) != 0
        return not lane.away and (lane.reset != 0 or (self.core.c.table.conns[index].flags & FOS_CONN_CLOSED) != 0)

    # ---- modules on threads of their own (worker.pyx) -------------------------------------------

    cdef int _hand_over(self, Attachment a) except -1:
        """Lend a module's thread its windows of the connections with something new.

        Where the stage stands it stays until they come back: that is what later stages, the merger and
        the books go by.
        """
        cdef fos_core *c = self.core.c
        cdef Worker worker = <Worker>a.worker
        cdef uint32_t i, index, n
        cdef fos_conn *conn
        cdef fos_lane *lane
        cdef int k
        for i in range(self.ready_count):
            index = self.ready[i]
            conn = &c.table.conns[index]
            if a.flow is not None and a.flow != conn.flow:
                if index in worker.waiting:
                    self._admit(a, index)
                continue
            lane = fos_lane_of(c, index)
            if lane != NULL:
                k = stage_number(lane, a)
                if k > 0:
                    settle_gone(self.core, lane, <uint32_t>k)
            if index in worker.lent and not untouched(conn):
                continue                      # what came since waits behind it
            if not self.hears(a, conn):
                if index in worker.waiting:
                    self._admit(a, index)
                if lane != NULL:
                    settle(self.core, self.serving, a, index, False)
                continue
            if a.bypassed and index in a.bypassed:
                if lane != NULL:
                    settle(self.core, self.serving, a, index, False)
                continue
            if c.live and self._overtakes(a, index):
                continue
            if untouched(conn):
                lane = NULL
            elif a.lvl != LEVEL_DECODER or reads(a, decoding_of(self.core, index)):
                lane = lane_at(self.core, self.serving, index, plan_stage(self.core, a, index))
            n = 0
            if lane != NULL or untouched(conn):
                n = offer(self.core, self.serving, a, index, 0, n)
                n = offer(self.core, self.serving, a, index, 1, n)
            if n:
                self._lend(a, index, lane, n)
            elif a.writes or lane != NULL:
                settle(self.core, self.serving, a, index, self.aborting or a.detached or self.over(index))
        return 0

    cdef int _wake(self) except -1:
        """Offer again what modules hold that asked to be called by now."""
        cdef fos_core *c = self.core.c
        cdef fos_lane *lane = c.all_lanes
        cdef fos_stage *st
        cdef uint32_t k
        cdef int dir
        c.now = max(c.now, self.waking)
        self.waking = self.core.wake_at = NEVER
        while lane != NULL:
            for k in range(lane.stage_count):
                for dir in range(2):
                    st = &lane.way[dir].stages[k]
                    if st.wake and st.wake <= c.now:
                        st.wake = 0
                        st.flags |= FOS_STAGE_WOKEN
                        fos_make_ready(c, lane.index, &c.table.conns[lane.index])
                    elif st.wake:
                        self.core.wake_at = min(self.core.wake_at, st.wake)
            lane = lane.all_next
        return 0

    cdef int _let_be(self, uint32_t index) except -1:
        """A module wants no more of a connection: if none does, it is only forwarded from now on."""
        cdef fos_core *c = self.core.c
        cdef fos_conn *conn = &c.table.conns[index]
        cdef fos_lane *lane = fos_lane_of(c, index)
        cdef Attachment a
        if conn.flags & FOS_CONN_CLOSED or self.aborting or self.config.detect or self.reframers[conn.flow] is not None:
            return 0
        for a in self.attachments:
            if a.whole_flow or (a.process is None and a.process_batch is None) or not self.hears(a, conn):
                continue
            if a.bypassed is None or index not in a.bypassed:
                return 0
        if lane != NULL:
            if c.live or not fos_lane_idle(c, lane):
                return 0
            fos_lane_free(c, lane)
        if c.table.cold[index].decoding != NULL and c.table.cold[index].decoding != <void *>self.nothing:
            self._add_up(<Decoding>c.table.cold[index].decoding)
            Py_DECREF(<object>c.table.cold[index].decoding)
            Py_INCREF(self.nothing)
            c.table.cold[index].decoding = <void *>self.nothing
        conn.depth |= FOS_DEPTH_BYPASSED
        self.resting.add(index)
        return 0

    cdef int _foresee(self) except -1:
        """A flow's first writer came: it begins behind what left ahead of earlier bytes, and a lane remembers how far that is."""
        cdef fos_core *c = self.core.c
        cdef fos_conn *conn
        cdef Attachment a
        cdef uint32_t index, f
        flows = {f for f in range(len(self.names)) if not c.plans[f].writes & FOS_CLASS_TCP and any([
            a.writes and a.classes & FOS_CLASS_TCP and (a.flow is None or a.flow == f) for a in self.attachments])}
        if not flows:
            return 0
        for index in range(1, c.table.used + 1):
            conn = &c.table.conns[index]
            if conn.generation & 1 and conn.flags & FOS_CONN_HALVES and not conn.flags & FOS_CONN_CLOSED and conn.key.proto == 6 and (
                    fos_lane_of(c, index) == NULL and not untouched(conn) and conn.flow in flows):
                if fos_way_ahead(c, index, 0) or fos_way_ahead(c, index, 1):
                    lane_at(self.core, self.attachments, index, FOS_MAX_STAGES)
        return 0

    cdef int _look_again(self) except -1:
        """Modules came or went: what is only forwarded may be wanted again, from here on."""
        cdef fos_core *c = self.core.c
        cdef fos_half *h
        cdef uint32_t index
        cdef int dir
        for index in self.resting:
            c.table.conns[index].depth &= <uint8_t>~FOS_DEPTH_BYPASSED
            for dir in range(2):
                h = fos_half_of(c, index, dir)
                if h.stream != NULL and not c.plans[c.table.conns[index].flow].packets and c.table.conns[index].flags & FOS_CONN_HALVES:
                    h.stream.tail_off = h.stream.head_off = h.next if c.table.conns[index].key.proto == 6 else c.table.conns[index].payload[dir]
        self.resting.clear()
        return 0

    cdef int _lend(self, Attachment a, uint32_t index, fos_lane *lane, uint32_t n) except -1:
        """Send the first n windows of an attachment's pool to its thread."""
        cdef Worker worker = <Worker>a.worker
        cdef Window w
        cdef Loan loan
        if index in worker.unheard:           # it was behind when the connection began
            worker.unheard.discard(index)
            worker.tell(a.opened, (connection_of(self.core, index),))
        for w in a.pool[:n]:
            snapshot(w)
        w = None
        loan = worker.lend(index, self.core.c.table.conns[index].generation, a.pool[:n])
        del a.pool[:n]
        a.windows += n
        if lane != NULL:
            loan.laned = True
            lane.lent = max(1, self.core.c.now)
            lane.away += 1
            mark(lane, a, loan.windows)
        return 0

    cdef bint _overtakes(self, Attachment a, uint32_t index) except -1:
        """On live ports: may what came on a connection not go to the module's thread, because it has too much?

        While there is no room in its queue it waits, for `hold` at most; while the thread is behind it passes.
        """
        cdef fos_core *c = self.core.c
        cdef Worker worker = <Worker>a.worker
        cdef fos_lane *lane = fos_lane_of(c, index)
        cdef bint waits = index in worker.waiting
        cdef bint behind = worker.behind()
        if not behind and not worker.full():
            if waits:
                self._admit(a, index)
            return False
        if a.lvl == LEVEL_DECODER and not reads(a, decoding_of(self.core, index)):
            return False                      # nothing of it is the module's
        if untouched(&c.table.conns[index]):
            self._count_passed(a)
            return True
        if not behind and not (waits and time.monotonic_ns() - <int64_t>worker.waiting[index] > a.hold_ns):
            if not waits:
                lane = lane_at(self.core, self.serving, index, plan_stage(self.core, a, index))
                if stage_number(lane, a) >= 0:
                    worker.waiting[index] = time.monotonic_ns()
                    lane.away += 1
            return True
        if waits:
            self._admit(a, index)
        if lane != NULL and pass_by(self.core, self.serving, a, index):
            self._count_passed(a)
            fos_lane_touch(c, lane)
        elif lane == NULL:
            self._count_passed(a)
        return True

    cdef int _admit(self, Attachment a, uint32_t index) except -1:
        """What waited for room in the queue of a module's thread waits no longer."""
        cdef fos_lane *lane = fos_lane_of(self.core.c, index)
        del (<Worker>a.worker).waiting[index]
        if lane != NULL:
            lane.away -= 1
            fos_lane_touch(self.core.c, lane)
            fos_make_ready(self.core.c, index, &self.core.c.table.conns[index])
        return 0

    cdef int _count_passed(self, Attachment a) except -1:
        """A window passed a module by that took too long."""
        self.core.c.counters.v[FOS_C_windows_hold_limit] += 1
        a.held += 1
        return 0

    cdef int _await(self, Attachment a) except -1:
        """Wait for a module's thread to give something back, and take it."""
        cdef Worker worker = <Worker>a.worker
        job = worker.returned(0.05) if worker.loans or worker.calls else None
        if job is not None:
            self._accept(a, job)
        PyErr_CheckSignals()                  # what came back is taken by now
        return 0

    cdef int _take_back(self, Attachment a) except -1:
        """Take what a module's thread is done with, and revoke what took too long."""
        cdef fos_core *c = self.core.c
        cdef Worker worker = <Worker>a.worker
        cdef int64_t late
        while True:
            job = worker.returned(0)
            if job is None:
                break
            self._accept(a, job)
        if not c.live and not a.limit_ns:
            return 0
        late = time.monotonic_ns() - (a.limit_ns or a.hold_ns)
        while worker.loans and (<Loan>worker.loans[0]).since < late:
            self._revoke(a, worker.loans[0])
            self._count_passed(a)
        for index in worker.waiting:          # they are looked at again, as they came
            fos_make_ready(c, index, &c.table.conns[<uint32_t>index])
        return 0

    cdef int _dismiss(self, Attachment a) except -1:
        """End a module's thread: what it has passes unchanged."""
        cdef Worker worker = <Worker>a.worker
        for loan in list(worker.loans):
            self._revoke(a, loan)
        for index in list(worker.waiting):
            self._admit(a, index)
        worker.stop()
        while True:                           # what it gave back before it ended
            job = worker.returned(0)
            if job is None:
                return 0
            self._accept(a, job)

    cdef int _accept(self, Attachment a, job) except -1:
        """Commit the windows of a loan that came back, or hear how a call ended."""
        cdef Worker worker = <Worker>a.worker
        cdef Loan loan
        if type(job) is Call:
            worker.heard(job)
            if (<Call>job).error is not None:
                self._fault(a, (<Call>job).error)
            return 0
        loan = <Loan>job
        a.ns += loan.ns
        for error in loan.errors:
            self._fault(a, error)
        if not loan.over:
            worker.end(loan)
            self._commit_loan(a, loan, False)
        return 0

    cdef int _revoke(self, Attachment a, Loan loan) except -1:
        """Take a loan back although its module has it still: the windows pass unchanged, and are stale for it."""
        (<Worker>a.worker).end(loan)
        self._commit_loan(a, loan, True)
        if not loan.begun:                    # it will find nothing to do
            loan.windows = []
        return 0

    cdef int _commit_loan(self, Attachment a, Loan loan, bint revoked) except -1:
        cdef fos_core *c = self.core.c
        cdef fos_conn *conn = &c.table.conns[loan.index]
        cdef fos_lane *lane = fos_lane_of(c, loan.index) if loan.laned else NULL
        cdef Window w
        cdef uint32_t i = 0
        cdef int k, dir
        cdef bint failed
        if lane != NULL:
            lane.away -= 1
            mark(lane, a, [])
        for w in loan.windows:
            failed = revoked or i in loan.failed
            w.live = False
            if conn.generation == loan.generation:
                self._take(a, w, failed)
                if failed and not revoked:
                    self._fail(a, loan.index)
            a.units += w.stop - w.first
            a.bytes += w.length
            if not revoked:                   # else its module may be about to find it stale
                w.attachment = w.decoding = w.made = None
            i += 1
        if lane != NULL:
            k = stage_number(lane, a)
            for dir in range(2 if k >= 0 else 0):
                if lane.way[dir].stages[k].held_since and c.now - lane.way[dir].stages[k].held_since >= a.hold_ns:
                    self.held_checked = c.now + 1     # it was out when holds were looked at, and is overdue
            fos_lane_touch(c, lane)
            fos_make_ready(c, loan.index, conn)
        if revoked:
            return 0
        w = None
        while loan.windows and len(a.pool) < 4096:
            w = loan.windows.pop()
            if Py_REFCNT(w) == 1:             # nobody kept it
                a.pool.append(w)
        return 0

    def _settle(self):
        """Let stages pass whose modules are gone, and what was held for too long."""
        cdef fos_core *c = self.core.c
        cdef fos_lane *lane
        cdef Attachment a
        cdef uint32_t i
        cdef int k, dir
        for i in range(self.ready_count):
            if self.reframers[c.table.conns[self.ready[i]].flow] is not None:
                self._reframe(self.ready[i])
        if not c.lane_count:
            return
        for i in range(self.ready_count):
            lane = fos_lane_of(c, self.ready[i])
            if lane != NULL:
                settle_gone(self.core, lane, lane.stage_count)
                fos_lane_touch(c, lane)
        if c.now - self.held_checked < SECOND // 20 and c.now >= self.held_checked and not self.ended:
            return
        self.held_checked = c.now
        lane = c.all_lanes
        while lane != NULL:
            if not holds(lane):
                lane = lane.all_next
                continue
            if self.reframers[c.table.conns[lane.index].flow] is not None:
                self._reframe(lane.index)
            for a in self.serving:
                k = stage_number(lane, a)
                if k < 0:
                    continue
                for dir in range(2):
                    if lane.way[dir].stages[k].flags & FOS_STAGE_LENT:
                        continue
                    if lane.way[dir].stages[k].held_since and c.now - lane.way[dir].stages[k].held_since >= a.hold_ns:
                        let_go(self.core, a, lane, <uint32_t>k, dir)
                        fos_lane_touch(c, lane)
                        fos_make_ready(c, lane.index, &c.table.conns[lane.index])   # later stages have something new
            lane = lane.all_next

    cdef int _reframe(self, uint32_t index) except -1:
        """Keep a connection's messages valid: its heads wait for their bodies."""
        cdef fos_core *c = self.core.c
        cdef fos_conn *conn = &c.table.conns[index]
        cdef fos_plan *plan = &c.plans[conn.flow]
        cdef Reframer reframer = <Reframer>self.reframers[conn.flow]
        cdef fos_lane *lane = fos_lane_of(c, index)
        cdef void *held = c.table.cold[index].decoding
        cdef uint32_t k
        if untouched(conn) or not plan.stage_count or plan.stage[plan.stage_count - 1].serial != REFRAMER:
            return 0
        if lane == NULL:                      # only what speaks the protocol is looked after
            if reframer.retiring or held == NULL or (<Decoding>held).decoder is None or (<Decoding>held).name != reframer.decoder:
                return 0
            lane = lane_at(self.core, self.serving, index, plan.stage_count - 1)
        for k in range(lane.stage_count):
            if lane.way[0].stages[k].serial == REFRAMER:
                settle_gone(self.core, lane, k)
                reframer.work(lane, k, self.aborting or self.over(index))
                fos_lane_touch(c, lane)
        return 0

    def _merge(self):
        """Let packets leave."""
        cdef fos_core *c = self.core.c
        cdef uint32_t i
        if c.in_line or c.lane_count:
            with nogil:
                if self.core.guarded:
                    PyThread_acquire_lock(self.core.quiet, WAIT_LOCK)
                fos_merge(c)
                if self.core.guarded:
                    PyThread_release_lock(self.core.quiet)
            if c.outlets.failed:
                c.outlets.failed = 0
                for port in self.outputs:
                    port.tx_sync()

    cdef int _call(self, Attachment a, uint32_t n) except -1:
        """Hand n windows to a module; take them back whatever it does.  An error in one does not keep the next away."""
        cdef Window w
        cdef uint32_t i = 0, taken = 0
        cdef int64_t start = time.perf_counter_ns() if self.config.measure else 0, began = 0
        try:
            while i < n and not a.detached and not self.aborting:
                try:
                    if a.process_batch is not None:
                        i = n
                        if a.limit_ns:
                            began = time.perf_counter_ns()
                        a.process_batch(a.pool[:n])
                        while taken < n:
                            taken += 1
                            self._take(a, <Window>a.pool[taken - 1], False)
                    while i < n and not a.detached:
                        i += 1
                        if a.limit_ns:
                            began = time.perf_counter_ns()
                        if i < n:             # the next one's bytes
                            fos_fetch_bytes((<Window>a.pool[i]).stream)
                        w = <Window>a.pool[i - 1]
                        if a.bypassed is None or w.index not in a.bypassed:
                            a.process(w)
                        taken = i
                        if w.edits is not None or w.asked or w.by_offset or w.leaves or (
                                self.core.c.lane_count and fos_lane_of(self.core.c, w.index) != NULL):
                            self._take(a, w, False)
                        if began and time.perf_counter_ns() - began > a.limit_ns:
                            break
                    if began and time.perf_counter_ns() - began > a.limit_ns:
                        self._overstayed(a, time.perf_counter_ns() - began)
                except BaseException as error:
                    self._fault(a, error)
                    while taken < i:
                        taken += 1
                        self._take(a, <Window>a.pool[taken - 1], True)
                        self._fail(a, (<Window>a.pool[taken - 1]).index)
        finally:
            a.windows += n
            if self.config.measure:
                a.ns += time.perf_counter_ns() - start
            for i in range(n):
                w = <Window>a.pool[i]
                w.live = False
                w.attachment = w.decoding = w.made = None
                if w.lent is not None:
                    w.lent = None
                a.units += w.stop - w.first
                a.bytes += w.length
                if Py_REFCNT(w) > 2:          # the pool's reference and `w`: more means that somebody kept it
                    w = Window.__new__(Window)
                    w.core = self.core
                    a.pool[i] = w
            del a.pool[4096:]
        return 0

    cdef int _overstayed(self, Attachment a, int64_t ns) except -1:
        """A call took longer than the module's `time_limit`: it is detached, and hears so by `stop`."""
        self.core.c.counters.v[FOS_C_module_errors] += 1
        a.failures += 1
        a.errors.append(f"{a.name}: a call took {ns / 1e9:.3f} s, more than its time_limit of {a.limit_ns / 1e9:g} s; it was detached\n")
        self.detach(a)
        return 0

    cdef int _fail(self, Attachment a, uint32_t index) except -1:
        """The module raised at a window of this connection: end it, if that is how it fails."""
        if a.fail == "close" and not self.aborting:
            fos_fate_drop(self.core.c, index, 1)
        return 0

    cdef int _take(self, Attachment a, Window w, bint failed) except -1:
        """Take one window back; what is wrong with its edits is the module's error."""
        self.bypassing |= w.leaves
        try:
            commit(self.core, self.serving or self.attachments, a, w, failed)
        except Exception as error:
            self._fault(a, error)
            w.edits = None
            commit(self.core, self.serving or self.attachments, a, w, True)
        return 0

    def _free_units(self):
        cdef fos_core *c = self.core.c
        cdef fos_lane *lane
        cdef uint32_t i, index
        for i in range(self.ready_count):
            fos_fetch_ready(c, self.ready, i, self.ready_count)
            index = self.ready[i]
            if c.table.conns[index].flags & FOS_CONN_HALVES:
                forget(self.core, self.serving, index)
        for i in range(c.merged.count):
            index = c.merged.items[i]
            if c.table.conns[index].flags & FOS_CONN_HALVES and fos_lane_of(c, index) != NULL:
                forget(self.core, self.serving, index)
        c.merged.count = 0
        for i in range(self.ready_count if self.bypassing else 0):
            self._let_be(self.ready[i])
        self.ready_count = 0

    def _lend_rows(self):
        cdef fos_core *c = self.core.c
        cdef Attachment a
        cdef FlowWindow w
        cdef fos_journal *journal
        cdef uint32_t f
        if not c.rows_pending:
            return
        for a in self.serving:
            if not a.whole_flow:
                continue
            for f in range(len(self.names)):
                if a.flow is not None and a.flow != f:
                    continue
                journal = &c.plans[f].journal[<uint32_t>a.journals[f]]
                if not journal.count:
                    continue
                w = flow_window(journal, self.names[f], a.protocol)
                if a.worker is not None:      # the rows go along
                    journal.rows = NULL
                    journal.count = journal.capacity = 0
                    if a.detached or self.aborting or a.process_batch is None and a.process is None:
                        continue
                    if c.live and ((<Worker>a.worker).full() or (<Worker>a.worker).behind()):
                        self._count_passed(a)
                    else:
                        (<Worker>a.worker).tell_rows(w)
                    continue
                try:
                    if a.detached or self.aborting:
                        pass
                    elif a.process_batch is not None:
                        a.process_batch([w])
                    elif a.process is not None:
                        a.process(w)
                except BaseException as error:
                    self._fault(a, error)
                finally:
                    give_back(w, journal)
        c.rows_pending = 0

    def _tell_closed(self):
        cdef fos_core *c = self.core.c
        cdef uint32_t i, index, kept = 0
        cdef Attachment a
        cdef Connection handle
        cdef void *decoding
        for i in range(c.closed.count):
            index = c.closed.items[i]
            if self.workers and any([index in (<Worker>a.worker).lent or index in (<Worker>a.worker).waiting for a in self.workers]):
                c.closed.items[kept] = index  # it has ended when its windows are back
                kept += 1
                continue
            reason = REASONS[c.table.conns[index].reason]
            self.resting.discard(index)
            for a in self.serving:
                if a.worker is not None and index in (<Worker>a.worker).unheard:
                    (<Worker>a.worker).unheard.discard(index)
                    continue                  # it never heard of it
                if a.closed is None or not self.hears(a, &c.table.conns[index]):
                    continue
                self._tell(a, a.closed, (connection_of(self.core, index), reason))
            for a in self.attachments:
                if a.states:
                    a.states.pop(index, None)
                if a.bypassed:
                    a.bypassed.discard(index)
            if self.reframers[c.table.conns[index].flow] is not None:
                self.reframers[c.table.conns[index].flow].forget(index)
            if c.table.cold[index].handle != NULL:
                handle = <Connection>c.table.cold[index].handle
                handle.settle()               # held by a name: what it makes may start a collection that frees the handle
                handle = None
            decoding = c.table.cold[index].decoding
            if decoding != NULL:
                self._add_up(<Decoding>decoding)
                c.table.cold[index].decoding = NULL
                Py_DECREF(<object>decoding)
            fos_conn_free(c, index)
        c.closed.count = kept

    def _add_up(self, Decoding decoding):
        """Add what a connection's decoder counted to the engine's counters: "<protocol>_<reason>"."""
        for reason, count in decoding.counters().items():
            name = f"{decoding.name}_{reason}"
            self.core.extra[name] = self.core.extra.get(name, 0) + count

    # ---- what can be read -----------------------------------------------------------------

    def statistics(self):
        """Give every counter by name: the core's and the port's; on a module's thread the port's as of the last delivery."""
        cdef bint entered = self.core.enter()
        try:
            values = self.core.counters()
        finally:
            if entered:
                self.core.leave()
        if self.port is not None:
            values.update(self.port_counts if entered else self.port.statistics())   # it may be reading now
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
        self._own_thread("capture")
        values = self.core.counters()
        return (values["packets"], values["bytes"], values["truncated"], [c.links[i] for i in range(c.link_count)],
                c.first_ns if c.packet_number else None, c.last_ns if c.packet_number else None)

    @property
    def now(self):
        """Give the latest capture time seen, in ns since the epoch; None before the first packet."""
        cdef bint entered = self.core.enter()
        value = self.core.c.now if self.core.c.packet_number else None
        if entered:
            self.core.leave()
        return value

    @property
    def packets(self):
        """Count the packets taken so far."""
        cdef bint entered = self.core.enter()
        value = self.core.c.packet_number
        if entered:
            self.core.leave()
        return value

    def connections(self):
        """List handles on the live connections, in order of their records."""
        cdef uint32_t i
        self._own_thread("connections()")
        found = []
        for i in range(1, self.core.c.table.used + 1):
            if self.core.c.table.conns[i].generation & 1 and not self.core.c.table.conns[i].flags & FOS_CONN_CLOSED:
                found.append(connection_of(self.core, i))
        return found

    def _check(self):
        """Verify the core's invariants; AssertionError names the broken one."""
        self.core._check()


cdef int mark(fos_lane *lane, Attachment a, list windows) except -1:
    """Note which windows of a connection are out to an attachment's thread; none: they are back."""
    cdef int k = stage_number(lane, a), dir
    cdef Window w
    for dir in range(2):
        if k >= 0:
            lane.way[dir].stages[k].flags &= ~<uint32_t>(FOS_STAGE_AWAY | FOS_STAGE_LENT)
            if windows:
                lane.way[dir].stages[k].flags |= FOS_STAGE_AWAY
    for w in windows:
        if k >= 0:
            lane.way[w.dir].stages[k].flags |= FOS_STAGE_LENT
    return 0


def _order(attachment):
    return attachment.order
