"""The engine: ports, flows and modules put together.

What a program calls to build, change and run a pipeline; the loop itself is flowos.core.engine.  The file is
long because all of it is one class, whose methods' docstrings are its reference.
"""
import math
import select
import threading
import time
from collections import namedtuple

from flowos.config import Config
from flowos.core.engine import BaseEngine
from flowos.core.errors import UsageError
from flowos.core.ports import merge_ports, open_pair, open_port
from flowos.core.worker import Bell
from flowos.module import RDONLY, RDWR
from flowos.parameters import nearest
from flowos.registry import all_decoders, get_decoder

_NEEDED = ("protocol", "scope", "mode", "start", "stop")
_LEVELS = frozenset(("frame", "ip", "transport", "tcp", "udp", "sctp", "icmp"))

Capture = namedtuple("Capture", "packets bytes truncated linktypes first_ns last_ns")
Capture.__doc__ = """What the input was so far: packets, bytes on the wire, packets cut short, link types in the
order seen, times of the first and the last packet in ns since the epoch (None before one came)."""


class _Turns:
    """A sink that several threads write to: one record at a time."""

    def __init__(self, sink):
        self._sink = sink
        self._lock = threading.Lock()

    def write(self, record):
        with self._lock:
            self._sink.write(record)


class Flow:
    """A named match and the modules attached to it (D3.2 section 4.3.2.5).  Made by `Engine.create_flow`."""

    def __init__(self, engine, name, match, priority, number):
        self.engine = engine
        self.name = name
        self.match = match
        self.priority = priority
        self.number = number

    @property
    def attachments(self):
        """List what is attached to this flow, in the pipeline's order."""
        return sorted((a for a in self.engine._modules if a.flow == self.number), key=lambda a: a.order)

    def __repr__(self):
        return f"<Flow {self.name} priority={self.priority} {self.match}>"


class Engine(BaseEngine):
    """Turn packets into flows and hand their data to modules.

    >>> from flowos import Engine, Module
    >>> class Bytes(Module):
    ...     protocol, total = "tcp", 0
    ...     def process(self, window):
    ...         self.total += window.length
    >>> engine = Engine()
    >>> engine.add_port("examples/demo.pcap")
    >>> count = Bytes()
    >>> attachment = engine.attach(count)
    >>> engine.run()
    >>> count.total > 0
    True

    `ports`, two specs or ports by name, connects them: Engine(ports={"lan": "xdp:eth0", "wan": "xdp:eth1"}).

    One engine has no globals and belongs to one thread at a time.  UsageError where a rule of
    the library is broken, CaptureError where an input is no capture.
    """

    def __init__(self, config=None, ports=None):
        super().__init__()
        self._flows = {}
        self._inputs = []
        self._outputs = []
        self._record_sink = None
        self._loaded = {}
        self._modules = []
        self._classifier = None
        self._stopping = False
        self._poll, self._polled, self._longest = None, None, 0.2
        self._threads = False
        self.ports = {}
        if ports is not None:
            if not isinstance(ports, dict) or len(ports) != 2:
                raise UsageError(f"ports={ports!r}; expected two by name, such as {{'lan': 'xdp:eth0', 'wan': 'xdp:eth1'}}")
            self.connect(*ports.values())
            self.ports = dict(zip(ports, self._inputs))

    def __new__(cls, config=None, ports=None):
        if config is not None and not isinstance(config, Config):
            raise UsageError(f"an engine is made with a flowos.Config, not with {config!r}")
        return super().__new__(cls, Config() if config is None else config)

    # ---- ports ----------------------------------------------------------------------------

    def add_port(self, spec):
        """Add an input: a path, "-" for standard input, a spec such as "packet:eth0", or a `Port`; several are merged by time.

        docs/ports.md lists the specs; what is live is not waited for.  The port is the engine's from then on: `close` closes it.
        """
        self._own_thread("add_port()")
        if self.packets or self.finished:
            raise UsageError("ports are added before the first packet is taken")
        port = open_port(spec)
        self._set_port(merge_ports([*self._inputs, port]) if self._inputs else port)
        self._inputs.append(port)

    def add_output(self, target, file_format=None):
        """Let packets leave by a port: a path (.pcap, else pcapng), "-" for standard output, or a `Port`.

        From then on the engine is in line: every packet leaves, as it came or as modules edited it, in
        the order in which each connection's data was released.  The port is the engine's: `close`
        closes it.
        """
        from flowos.core.port import Port
        from flowos.core.writer import CaptureWriter

        if self.packets or self.finished:
            raise UsageError("outputs are added before the first packet is taken")
        port = target if isinstance(target, Port) else CaptureWriter(target, file_format)
        self._add_output(port, isinstance(port, CaptureWriter), None)
        self._outputs.append(port)
        return port

    def connect(self, left, right):
        """Stand in line between two ports: what one receives leaves by the other, edited on its way.

        Each is a spec ("xdp:eth0") or a `Port` that receives and sends.  The ends are alive, so
        edited TCP is kept going on their behalf.  `run` waits for packets; `step` does not.
        """
        if self.packets or self.finished or self._inputs:
            raise UsageError("connect() comes first, before other ports and packets")
        ports = open_pair(left, right)
        self._connect(ports)
        self._inputs.extend(ports)

    @property
    def sink(self):
        """Where records go that modules emit: an object with `write(record)`, or None."""
        return self._record_sink

    @sink.setter
    def sink(self, sink):
        self._record_sink = sink
        for attachment in self._modules:
            attachment.module._sink = self._turns(sink)

    def _turns(self, sink):
        """Let one at a time write to a sink, once modules have threads of their own."""
        return sink if sink is None or not self._threads else _Turns(sink)

    # ---- flows ----------------------------------------------------------------------------

    def create_flow(self, name, match="any", priority=0):
        """Create a flow: connections whose first packet matches belong to it (D3.2, CreateFlow).

        `match` is an OpenFlow match as ovs-ofctl writes it, such as "tcp,tp_dst=80".  The highest
        priority wins, then the oldest.  UsageError: the name is taken, or the match is wrong.
        """
        from flowos.core.match import Match

        if not name or not isinstance(name, str):
            raise UsageError(f"a flow is named by a text, not by {name!r}")
        if name in self._flows:
            raise UsageError(f"flow {name!r} exists already")
        parsed = match if isinstance(match, Match) else Match.parse(match)
        self._deliver("create_flow()")
        flow = Flow(self, name, parsed, priority, self._add_flow(name))
        try:
            self._match_flow(flow.match, priority, flow.number)
        except UsageError:                    # a priority out of range
            self._drop_flow(flow.number)
            raise
        self._flows[name] = flow
        return flow

    def delete_flow(self, flow):
        """Delete a flow, detaching its modules; its connections are decided anew (D3.2, DeleteFlow)."""
        flow = self._flow_of(flow)
        self._deliver("delete_flow()")
        del self._flows[flow.name]
        try:
            self._detach_all([a for a in self._modules if a.flow == flow.number])
        finally:
            self._unmatch_flow(flow.number)
            self._drop_flow(flow.number)

    def modify_flow(self, flow, match=None, priority=None):
        """Change a flow's match or priority; its modules stay, and connections are decided anew.

        UsageError: the match or the priority is wrong; the flow is as it was.
        """
        from flowos.core.match import Match

        flow = self._flow_of(flow)
        wanted = flow.match if match is None else match if isinstance(match, Match) else Match.parse(match)
        rank = flow.priority if priority is None else priority
        self._deliver("modify_flow()")
        self._rematch_flow(flow.number, (flow.match, flow.priority), (wanted, rank))
        flow.match, flow.priority = wanted, rank

    def find_flow(self, name):
        """Give the flow of this name, or None (D3.2, FindFlowByName)."""
        return self._flows.get(name)

    def explain(self, frame, in_port=1):
        """Say which flow an Ethernet frame's connection would belong to, and why: text for people.

        Every table of the classifier is shown with what it compared, and why the other flows lost.
        UsageError: there are no flows.
        """
        if not self._flows:
            raise UsageError("explain: there are no flows; create_flow makes one")
        names = {flow.number: flow.name for flow in self._flows.values()}
        return str(self._flow_table.classifier.explain(bytes(frame), in_port, names))

    @property
    def flows(self):
        """List the flows, oldest first."""
        return list(self._flows.values())

    def _flow_of(self, flow):
        """Give the flow of a name, or the flow itself; UsageError when this engine has no such flow."""
        found = self.find_flow(flow) if isinstance(flow, str) else flow
        if not isinstance(found, Flow) or self._flows.get(found.name) is not found:
            raise UsageError(f"there is no flow {flow!r}; the flows are: {', '.join(self._flows) or 'none'}")
        return found

    def packet_to_flow(self, frame, in_port=1):
        """Give the flow that a connection would belong to if this Ethernet frame were its first packet, or None.

        `in_port` counts the engine's ports from 1.  D3.2, PacketToFlow.
        """
        number = self._flow_table.classifier.find(bytes(frame), in_port) if self._flows else 0
        return next((flow for flow in self.flows if flow.number == number), None)

    # ---- modules --------------------------------------------------------------------------

    def load_module(self, name, **parameters):
        """Make a module by its name, "path.py:Class" or class, ready to be attached (D3.2, LoadModule).

        Texts given as parameters are typed by the class's annotations.  UsageError: no such module, a
        wrong parameter, or one of this name is loaded already.
        """
        from flowos.parameters import make
        from flowos.registry import get_module

        found = name if isinstance(name, type) else get_module(name)
        if found is None:
            raise UsageError(f"there is no module {name!r}; `flowos modules` lists them")
        module = make(found, parameters)
        known = module.name or type(module).__name__
        if known in self._loaded:
            raise UsageError(f"module {known!r} is loaded already; unload_module() lets it go")
        self._loaded[known] = module
        return module

    def find_module(self, name):
        """Give the loaded module of this name, or None (D3.2, FindModuleByName)."""
        return self._loaded.get(name)

    def unload_module(self, module):
        """Detach a loaded module wherever it is attached, and forget it (D3.2, UnloadModule)."""
        self._own_thread("unload_module()")
        name = module if isinstance(module, str) else module.name or type(module).__name__
        if name not in self._loaded:
            raise UsageError(f"module {name!r} is not loaded; loaded are: {', '.join(self._loaded) or 'none'}")
        gone = self._loaded.pop(name)
        self._detach_all([a for a in self._modules if a.module is gone])

    def attach(self, module, flow=None, order=None, threads="inline", cpus=None):
        """Attach a module to a flow by name or object; None: to all traffic (D3.2, AttachModule).

        Without `order` it goes last.  Returns the attachment, which `detach` takes.  A module that is
        attached while packets run is given what comes from then on; from within a module's call, what
        the next delivery brings.

        `threads`: "inline", the module is called in the engine's loop, or "own", on a thread of its own (D3.2
        section 4.3.2.7): for modules that wait or compute for long.  It is lent copies, the engine goes on, and
        what it was lent stays where it is until its call returned; on connected ports for `Module.hold` seconds
        at most, then the windows pass unchanged and are stale.  A capture waits for its modules.  `cpus`, a set of
        numbers, pins that thread to these processors; else it runs where the thread that attaches may.
        """
        self._own_thread("attach()")
        if flow is not None:
            flow = self._flow_of(flow)
        self._attachable(module)
        if module.protocol not in _LEVELS or self.config.detect:
            self._load_decoders(module.protocol)
        name = module.protocol.partition(".")[0]
        if not {module.protocol, name} & (_LEVELS | set(self.decoder_names)):
            known = [*sorted(_LEVELS), *all_decoders()]
            raise UsageError(f"{type(module).__name__}: protocol {module.protocol!r} is unknown; "
                             f"{nearest(module.protocol, known)}")
        if threads not in ("inline", "own"):
            raise UsageError(f"threads is {threads!r}, expected 'inline' or 'own'")
        if cpus is not None and threads != "own":
            raise UsageError(f"cpus={cpus!r} pins a module's thread, and threads is {threads!r}; expected 'own'")
        if order is None:
            order = 1 + max((a.order for a in self._modules), default=0)
        number = None if flow is None else flow.number
        for other in self._modules:
            if other.order == order and RDWR in (module.mode, other.module.mode) and (
                    None in (number, other.flow) or number == other.flow):
                raise UsageError(f"order {order} is taken by {other.name}: a module that edits is alone in its order, "
                                 f"so {module.name or type(module).__name__} needs another")
        if threads == "own" and self.connected and self.bell is None:
            self.bell = Bell()
            self._poll = None                 # it is to be woken by it, too
        attachment = self._attach(module, number, order, threads == "own", cpus)
        self._modules.append(attachment)
        if threads == "own":
            self._threads = True
            self.sink = self._record_sink     # from now on in turns
        module._sink = self._turns(self._record_sink)
        try:
            module.start(flow)
        except BaseException:                 # it never began: take it off again, without `stop`
            if attachment in self._modules:
                self._modules.remove(attachment)
                self._detach(attachment)
            raise
        return attachment

    def detach(self, attachment):
        """Take a module off its flow (D3.2, DetachModule).

        It is given what came so far, unless it is detached from within a module's call: then it is
        not called any more, but for `stop`.
        """
        self._own_thread("detach()")
        self._attached(attachment)
        self._modules.remove(attachment)
        try:
            self._detach(attachment)
        finally:
            attachment.module.stop()

    def reload(self, attachment, module):
        """Let changed code go on in a module's place, at a border of calls: nothing is lost or seen twice.

        The state that the system keeps for the module is carried over (flowos.state).  If that fails the old module
        goes on: UsageError says why.  `module` works on the same protocol, in the same mode and scope.
        """
        from flowos.state import KINDS, carry

        self._idle("reload()")
        self._attached(attachment)
        self._attachable(module)
        old = attachment.module
        if module is old:
            raise UsageError(f"reload: {attachment.name} is at work there already: it takes another instance")
        for what in ("protocol", "mode", "scope", "resizes"):
            if getattr(module, what, None) != getattr(old, what, None):
                raise UsageError(f"reload: {what} was {getattr(old, what, None)!r} and is {getattr(module, what, None)!r}: detach the one, attach the other")
        self._border(attachment, "reload()")
        self._attached(attachment)            # what it was just given may have been its last
        migrate, states = getattr(module, "migrate_state", None), attachment._states()
        for kind in KINDS:
            try:
                states[kind] = [(key, carry(kind, state, getattr(module, kind, None) or dict, migrate)) for key, state in states[kind]]
            except Exception as error:
                raise UsageError(f"reload: the {kind} of {attachment.name} cannot be carried over: {error}") from error
        module._sink = getattr(old, "_sink", None)
        self._reload(attachment, module, next((flow for flow in self.flows if flow.number == attachment.flow), None), states)
        if not any(a.module is old for a in self._modules):
            self._loaded = {name: module if loaded is old else loaded for name, loaded in self._loaded.items()}
        old.stop()

    def _attached(self, attachment):
        if attachment not in self._modules:
            raise UsageError(f"{attachment!r} is not attached to this engine")

    @staticmethod
    def _attachable(module):
        if isinstance(module, type) or not all(hasattr(module, name) for name in _NEEDED):
            raise UsageError(f"{module!r} cannot be attached: expected an instance of a flowos.Module")
        if module.mode not in (RDONLY, RDWR):
            raise UsageError(f"{type(module).__name__}: mode {module.mode!r}, expected {RDONLY!r} or {RDWR!r}")
        if not isinstance(module.protocol, str):
            raise UsageError(f"{type(module).__name__}: protocol {module.protocol!r}, expected a name, such as 'tcp'")

    def saved_state(self, attachment):
        """Give what the system keeps for a module as plain data: dicts, lists, texts, bytes, numbers.

        {"module", "version", "shared", "groups": [[key, state], …], "connections": [[number, state], …]}.
        """
        from flowos.state import plain

        self._border(attachment, "saved_state()")
        numbers = {connection.slot: connection.id for connection in self.connections()}
        states = attachment._states()
        return {"module": attachment.name, "version": attachment.module.state_version,
                "shared": plain(states["shared"][0][1], "shared") if states["shared"] else None,
                "groups": [[plain(key, "group"), plain(state, f"group({key!r})")] for key, state in states["group"]],
                "connections": [[numbers[slot], plain(state)] for slot, state in states["state"] if slot in numbers]}

    def _detach_all(self, attachments):
        """Detach several, whatever they raise; the first error is raised in the end."""
        errors = []
        for attachment in attachments:
            try:
                self.detach(attachment)
            except BaseException as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _load_decoders(self, protocol):
        if self.config.detect:
            self._set_decoders(all_decoders())
        elif protocol not in self.decoder_names:
            name, decoder = protocol, get_decoder(protocol)
            if decoder is None and protocol is not None and "." in protocol:    # a kind of a decoder's units
                name = protocol.partition(".")[0]
                decoder = get_decoder(name) if name not in self.decoder_names else None
            if decoder is not None:
                self._set_decoders({**self._decoders, name: decoder})

    # ---- running --------------------------------------------------------------------------

    def run(self, between=None):
        """Run until every port has ended and all data was delivered, or `stop` is called; Ctrl-C leaves what was done.

        On network interfaces it goes on until it is stopped, and sleeps while nothing comes.  `between()` is called
        after each step, on this thread: there flows and modules may be changed; `Engine.bell` ends a sleep.

        What a module raises is raised here, once the delivery under way is complete: running on loses
        and repeats nothing.  With `Config.isolate` it is kept in the attachment's `errors` instead.
        """
        if self.config.detect:
            self._load_decoders(None)
        self._stopping = False
        before, live = self.packets, self.connected or any(port.live for port in self._inputs)
        while self.step() and not self._stopping:
            if between is not None:
                between()
                if self._stopping:
                    return
            if live and before == self.packets and not self.config.busy:
                self._wait()
            before = self.packets

    def stop(self):
        """Let `run` return after the step under way.  May be called by a module, a signal handler or another thread."""
        self._stopping = True

    def _wait(self):
        """Sleep until a live port has something or a timer is due; a fifth of a second at most."""
        there = [port for port in self._inputs if not port.ended]      # one whose interface is gone would wake us at once
        if self._poll is None or self._polled != there:
            self._poll, self._polled, self._longest = select.poll(), there, 0.2
            for port in there:
                try:
                    self._poll.register(port.fileno(), select.POLLIN)
                except UsageError:            # a pipe in memory: nobody wakes us when something comes
                    self._longest = 0.001
            if self.bell is not None:
                self._poll.register(self.bell, select.POLLIN)
        seconds = min(self._longest, self.next_timer)
        if self.stalled:                      # a port that is not read from would wake us at once
            time.sleep(min(seconds, 0.001))
            return
        for descriptor, _event in self._poll.poll(max(0, math.ceil(seconds * 1000))):
            if self.bell is not None and descriptor == self.bell.fileno():
                self.bell.hush()

    def close(self):
        """End every connection, deliver what is left, tell the modules to stop, close the ports.

        Closing twice is harmless.  Whatever modules raise, all of this is done.
        """
        self._idle("close()")
        try:
            self.finish()
        finally:
            try:
                self._detach_all(list(self._modules))
            finally:
                while self._inputs:
                    self._inputs.pop().close()
                while self._outputs:
                    self._outputs.pop().close()
                self._poll = self.bell = None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    @property
    def capture(self):
        """Give what the input was so far: a `Capture`."""
        return Capture(*self._capture)

    @property
    def on_datagram(self):
        """Set to a callable to be told each reassembled datagram: (version, src, dst, id, payload)."""
        return self._datagram_callback

    @on_datagram.setter
    def on_datagram(self, callback):
        self._datagram_callback = callback
        self._tell_datagrams(None if callback is None else _datagram_teller(callback))


def _datagram_teller(callback):
    import socket

    def tell(packet, ident):
        if packet[0] >> 4 == 4:
            header = (packet[0] & 15) * 4
            src, dst = (socket.inet_ntop(socket.AF_INET, packet[i:i + 4]) for i in (12, 16))
            callback(4, src, dst, int.from_bytes(packet[4:6], "big"), packet[header:])
        else:
            src, dst = (socket.inet_ntop(socket.AF_INET6, packet[i:i + 16]) for i in (8, 24))
            callback(6, src, dst, ident, packet[_ip6_payload(packet):])
    return tell


def _ip6_payload(packet):
    """Where the part of an IPv6 datagram that was fragmented begins: behind the per-fragment headers."""
    at, kind = 40, packet[6]
    while kind in (0, 43) and at + 8 <= len(packet):
        kind, at = packet[at], at + 8 + 8 * packet[at + 1]
    return at
