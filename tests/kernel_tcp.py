"""The kernel's own TCP on both sides of what is under test: the judge of edited streams.

    namespace "client"        namespace "middle", this process          namespace "server"
    [ sockets ] c0 ─ veth ─ m0 [ImpairedPort] ─ Middle ─ [ImpairedPort] m1 ─ veth ─ s0 [ sockets ]

A `Network` makes the namespaces and keeps one process in each of the outer two.  `Network.run` has
these carry out a `Program` each on one TCP connection, both directions at once, while a `Middle`
moves the frames: `Forwarder` here, `InLine` with FlowOS, or a proxy (terminating.py).  What each end received is compared with
the script's model (editscript.py).  Programs are lists of steps, so a run can be printed and
repeated:

    ("send", n)      the next n bytes of the content       ("more", n)    ... waiting for company (MSG_MORE)
    ("await", n)     until n bytes were received           ("sleep", s)
    ("shutdown",)    the end of our stream, a FIN          ("reset",)     close with a RST

A reader takes ("sleep", s), ("read", n) and in the end everything.  Times are limits, never what is
tested.
"""
import contextlib
import itertools
import multiprocessing
import os
import random
import select
import socket
import struct
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from editscript import edited
from impaired import ImpairedPort, Impairment, Narrow, frames_in, put
from namespaces import add, inside, ip, join

from flowos.core.packetport import PacketPort

ADDRESSES = {4: ("10.77.0.1", "10.77.0.2"), 6: ("fd77::1", "fd77::2")}
MACS = "02:77:00:00:00:01", "02:77:00:00:00:02"
#: Recovery in milliseconds, not seconds, where the kernel has such settings (Linux 6.11, 6.15).
SYSCTLS = {"ipv4.tcp_rto_min_us": 10_000, "ipv4.tcp_rto_max_ms": 1000, "ipv4.tcp_syn_linear_timeouts": 0}
TCPI_STATE, TCPI_TOTAL_RETRANS = ("B", 0), ("I", 100)     # type and place in struct tcp_info
TCP_CLOSE = 7
#: Seconds after which a run is given up.
PATIENCE = float(os.environ.get("TCP_PATIENCE", "60"))
#: A folder for captures of both sides of runs that fail, as FlowOS saw them; none without it.
RECORD = os.environ.get("TCP_RECORD")
fork = multiprocessing.get_context("fork")


# ------------------------------------------------------------------------------ programs

@dataclass
class Program:
    """What one end does: `size` bytes of content from `seed`, sent in steps; how it reads; its socket's options."""

    seed: int = 0
    size: int = 0
    write: list = None                        # default: send all, shutdown
    read: list = field(default_factory=list)
    options: list = field(default_factory=list)      # (level, name, value), set before connecting

    @property
    def content(self):
        """The original bytes of this end's stream."""
        rng, part = random.Random(self.seed), 1 << 20
        return b"".join(rng.randbytes(min(part, self.size - at)) for at in range(0, self.size, part))

    @property
    def steps(self):
        """What the writer does."""
        return [("send", self.size), ("shutdown",)] if self.write is None else self.write


@dataclass
class Outcome:
    """What one end saw: its bytes, how its stream ended, segments it sent again.

    `end` is "eof" when both streams ended and our own was acknowledged to its FIN, else "reset",
    "timeout", "unacknowledged", "closed" (it sent a reset itself) or "refused".
    """

    received: bytes
    end: str
    retransmitted: int
    problem: str = ""


class Endpoint:
    """Carry out a program on a connected socket, reading and writing at once."""

    def __init__(self, sock, program, out, deadline):
        self.sock, self.out, self.deadline = sock, out, deadline
        self.content, self.sent, self.received = memoryview(program.content), 0, 0
        self.writing, self.reading = list(program.steps), [*program.read, ("all",)]
        self.upto = self.write_wakes = self.read_wakes = self.end = None
        sock.setblocking(False)

    def run(self):
        """Go on until both streams are done and acknowledged; returns (end, segments sent again)."""
        try:
            while self.writing or self.end is None:
                now = time.monotonic()
                wants_write = self.write(now)
                wants_read = self.read(now)
                if self.end == "closed" or now > self.deadline:
                    return self.end or "timeout", self.sent_again()
                if wants_read or wants_write:
                    select.select([self.sock] * wants_read, [self.sock] * wants_write, [], 0.02)
                elif self.writing or self.end is None:
                    time.sleep(0.002)
            while self.info(TCPI_STATE) != TCP_CLOSE:     # our FIN is not acknowledged yet
                if time.monotonic() > self.deadline:
                    return "unacknowledged", self.sent_again()
                time.sleep(0.001)
        except (ConnectionResetError, BrokenPipeError, TimeoutError):
            return "reset", self.sent_again()
        return self.end, self.sent_again()

    def info(self, what):
        """Give a field of struct tcp_info."""
        return struct.unpack_from(what[0], self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256), what[1])[0]

    def sent_again(self):
        """How many segments the kernel sent again; 0 when the socket is closed already."""
        return self.info(TCPI_TOTAL_RETRANS) if self.sock.fileno() >= 0 else 0

    def write(self, now):
        """Take the steps that can be taken; True when the socket must become writable first."""
        while self.writing:
            what, *how = self.writing[0]
            if what in ("send", "more"):
                if self.upto is None:
                    self.upto = min(self.sent + how[0], len(self.content))
                try:
                    while self.sent < self.upto:
                        self.sent += self.sock.send(self.content[self.sent:min(self.upto, self.sent + 262144)],
                                                    socket.MSG_MORE if what == "more" else 0)
                except BlockingIOError:
                    return True
                self.upto = None
            elif what == "sleep":
                self.write_wakes = self.write_wakes or now + how[0]
                if now < self.write_wakes:
                    return False
                self.write_wakes = None
            elif what == "await":
                if self.received < how[0] and self.end is None:
                    return False
            elif what == "shutdown":
                self.sock.shutdown(socket.SHUT_WR)
            elif what == "reset":
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.sock.close()
                self.writing, self.end = [], "closed"
                return False
            else:
                raise ValueError(f"no such step: {what}")
            self.writing.pop(0)
        return False

    def read(self, now):
        """Read as far as the steps allow; True when the socket must become readable first."""
        while self.end is None:
            what, *how = self.reading[0]
            if what == "sleep":
                self.read_wakes = self.read_wakes or now + how[0]
                if now < self.read_wakes:
                    return False
                self.read_wakes = None
                self.reading.pop(0)
                continue
            room = how[0] - self.received if what == "read" else 1 << 20
            if room <= 0:
                self.reading.pop(0)
                continue
            try:
                data = self.sock.recv(min(room, 1 << 20))
            except BlockingIOError:
                return True
            if not data:
                self.end = "eof"
            self.out.write(data)
            self.received += len(data)
        return False


def serve(namespace, calls):
    """Be one end's process: carry out jobs until told to stop."""
    with inside(namespace):
        while (job := calls.recv()) is not None:
            calls.send(carry_out(*job, calls))


def carry_out(role, version, port, program, path, seconds, calls):
    """Do one job: connect, or listen and accept, then run the program.  Returns an Outcome without its bytes."""
    deadline = time.monotonic() + seconds
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        for level, name, value in program.options:
            sock.setsockopt(level, name, value)
        sock.settimeout(seconds)
        if role == "server":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((ADDRESSES[version][1], port))
            sock.listen(1)
            calls.send("listening")
            listener, (sock, _) = sock, sock.accept()
            listener.close()
        else:
            sock.connect((ADDRESSES[version][1], port))
        with open(path, "wb") as out:
            return Outcome(b"", *Endpoint(sock, program, out, deadline).run())
    except Exception as error:                # the test that waits must hear of it, whatever it is
        return Outcome(b"", "timeout" if isinstance(error, TimeoutError) else "refused", 0, repr(error))
    finally:
        sock.close()


# ------------------------------------------------------------------------------ what stands between

class Forwarder:
    """Move every frame to the other side; `change(side, frame)` may give another one, several, or none."""

    def __init__(self, change=None):
        self.change = change

    def start(self, left, right, port, version):
        """Begin between two ports; the run's connection is to TCP `port`, over IP of `version`."""
        self.ways = [(left, left.rx_ring, right, right.tx_ring, 0), (right, right.rx_ring, left, left.tx_ring, 1)]

    def step(self, now):
        """Move what is there; True if there was anything."""
        moved = False
        for source, rx, target, tx, side in self.ways:
            frames = frames_in(source, rx)
            if frames:
                moved = True
                if self.change is not None:
                    frames = [made for frame in frames for made in self.change(side, frame)]
                put(target, tx, frames)
        return moved

    def close(self):
        """Nothing is held."""


class InLine:
    """FlowOS between two ports: modules of `attach`, a list of (module, order); more through `setup(engine)`.

    `each(engine, now)` is called between steps: for what is done while traffic runs.  `config` is a
    dict for flowos.Config.
    """

    def __init__(self, *attach, setup=None, each=None, config=None, threads="inline"):
        self.modules, self.setup, self.each, self.config, self.threads = attach, setup, each, config or {}, threads
        self.engine = None

    def start(self, left, right, port, version):
        """Make an engine, attach the modules, connect the ports."""
        from flowos import Config, Engine
        self.engine = Engine(Config(**self.config))
        self.engine.connect(left, right)
        self.attachments = [self.engine.attach(module, order=order, threads=self.threads) for module, order in self.modules]
        if self.setup is not None:
            self.setup(self)

    def step(self, now):
        """Take one step of the engine; True if there may be more at once."""
        before = self.engine.packets
        self.engine.step()
        if self.each is not None:
            self.each(self, now)
        return self.engine.packets != before

    def close(self):
        """Close the engine."""
        if self.engine is not None:
            self.engine.close()


# ------------------------------------------------------------------------------ the network

@dataclass
class Run:
    """What came of a run: both ends, what the networks did, how long it took."""

    client: Outcome
    server: Outcome
    sides: tuple                              # the two ImpairedPorts
    seconds: float

    @property
    def counts(self):
        """What the impairments did in all, {what: frames}."""
        parts = [part.counts for side in self.sides for part in (side.inward, side.outward)]
        return {name: sum(part[name] for part in parts) for name in Impairment().counts}


def difference(name, received, expected):
    """Say where a stream differs from what was expected, or give an empty text."""
    if received == expected:
        return ""
    at, step = 0, 1 << 16
    while received[at:at + step] == expected[at:at + step]:
        at += step
    at += len(os.path.commonprefix([received[at:at + step], expected[at:at + step]]))
    return (f"{name} received {len(received)} bytes, expected {len(expected)}; they differ from byte {at} on: "
            f"{received[at:at + 24]!r} instead of {expected[at:at + 24]!r}")


class Network:
    """Two hosts and the place between them, for many runs.  Needs root; a context manager."""

    numbers = itertools.count()

    def __init__(self):
        stem = f"flowos-tcp-{os.getpid()}-{next(self.numbers)}"
        self.names = {role: f"{stem}-{role}" for role in ("client", "middle", "server")}
        self.ports = itertools.count(20000)
        self.proxies = []                     # two more hosts (terminating.py)
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        with self.stack as stack:
            for name in self.names.values():
                add(name, stack)
            self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            join(self.names["client"], self.names["middle"], "c0", "m0")
            join(self.names["server"], self.names["middle"], "s0", "m1")
            for number, (role, interface) in enumerate((("client", "c0"), ("server", "s0"))):
                self.set_up_host(self.names[role], interface, number)
            self.hosts = {}
            for role in ("client", "server"):
                calls, theirs = fork.Pipe()
                process = fork.Process(target=serve, args=(self.names[role], theirs), daemon=True)
                process.start()
                self.hosts[role] = calls
                stack.callback(process.join, 10)
                stack.callback(calls.send, None)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *exception):
        self.stack.close()

    def set_up_host(self, name, interface, number):
        """Give a host its addresses; its neighbour's are fixed, so no ARP is lost on a bad network."""
        ip("-n", name, "link", "set", interface, "address", MACS[number])
        for version, prefix in (4, 24), (6, 64):
            ip("-n", name, "addr", "add", f"{ADDRESSES[version][number]}/{prefix}", "dev", interface,
               *(["nodad"] if version == 6 else []))
            ip("-n", name, "neigh", "add", ADDRESSES[version][1 - number], "lladdr", MACS[1 - number], "dev", interface,
               "nud", "permanent")
        self.set_sysctls(name, SYSCTLS, optional=True)

    def addresses(self, version):
        """Give the client's and the server's address."""
        return ADDRESSES[version]

    def set_sysctls(self, name, values, optional=False):
        """Set `net.` sysctls of a namespace."""
        with inside(name):
            for key, value in values.items():
                try:
                    Path("/proc/sys/net", key.replace(".", "/")).write_text(f"{value}\n")
                except OSError:
                    if not optional:
                        raise

    def run(self, client, server, middle, impair=(), *, version=4, seconds=PATIENCE, sysctls=None):
        """Have both ends carry out their programs through `middle`; returns a Run.

        `impair` is up to four `Impairment`s: client to middle, middle to client, server to middle, middle to
        server; None: the middle is given the interfaces' own ports.  `sysctls` hold for both hosts during this run, {"ipv4.tcp_sack": 0}.  After `seconds` ends
        report "timeout".
        """
        begun, port, paths = time.monotonic(), next(self.ports), {}
        with contextlib.ExitStack() as stack:
            for role in ("client", "server"):
                self.change_sysctls(stack, self.names[role], sysctls or {})
            with inside(self.names["middle"]):
                ends = [PacketPort(name, slots=1024) for name in ("m0", "m1")]
            if impair is None:
                sides = []
            else:
                ways = [*impair, *[None] * (4 - len(impair))]
                sides = [ImpairedPort(ends[0], *ways[:2], "m0"), ImpairedPort(ends[1], *ways[2:], "m1")]
            for side in [*ends, *sides]:
                stack.callback(side.close)
            for side in sides:
                side.record = [] if RECORD else None
            if any(way is not None and isinstance(way.drop, Narrow) for way in impair or ()):
                stack.callback(self.forget_mtus)
            stack.callback(middle.close)
            middle.start(*([side.port for side in sides] or ends), port, version)
            wakers = [end.fileno() for end in ends]
            waiting, outcomes = dict(self.hosts), {}
            for role, program in ("server", server), ("client", client):
                paths[role] = self.folder / role
                paths[role].write_bytes(b"")
                self.hosts[role].send((role, version, port, program, paths[role], seconds))
                if role == "server" and isinstance(said := self.hosts[role].recv(), Outcome):
                    raise RuntimeError(f"the server cannot listen: {said.problem}")
            while waiting:
                self.turn(sides, middle, [*wakers, *waiting.values()])
                for role in [role for role, calls in waiting.items() if calls.poll()]:
                    outcomes[role] = waiting.pop(role).recv()
                    outcomes[role].received = paths[role].read_bytes()
            # the last acknowledgements still go their way
            end = time.monotonic() + 0.02
            while time.monotonic() < end:
                self.turn(sides, middle, wakers)
        return Run(outcomes["client"], outcomes["server"], tuple(sides), time.monotonic() - begun)

    def forget_mtus(self):
        """Have every host forget what it learned of the way's MTU, so that the next run learns it anew."""
        for name in [*self.names.values(), *self.proxies]:
            for version in "-4", "-6":
                ip("-n", name, version, "route", "flush", "cache")

    def change_sysctls(self, stack, name, values):
        """Set sysctls of a namespace until the stack is closed."""
        with inside(name):
            before = {key: Path("/proc/sys/net", key.replace(".", "/")).read_text().strip() for key in values}
        stack.callback(self.set_sysctls, name, before)
        self.set_sysctls(name, values)

    def turn(self, sides, middle, wakers):
        """Move everything once; when there was nothing, wait for something, two milliseconds at most."""
        now = time.monotonic()
        moved = [side.step(now) for side in sides]
        if middle.step(now) or any(moved):
            return
        due = min((side.next_due for side in sides if side.next_due is not None), default=now + 1)
        select.select(wakers, [], [], max(0, min(0.002, due - now)))

    def check(self, client, server, forth, back, middle, impair=(), **options):
        """Run, and check that both ends received exactly the edited streams to their end; returns the Run.

        `forth` is the script of what the client sends, `back` of what the server sends.
        """
        run = self.run(client, server, middle, impair, **options)
        problems = [
            difference("server", run.server.received, edited(client.content, forth)),
            difference("client", run.client.received, edited(server.content, back)),
            *(f"{role} ended with {outcome.end!r} {outcome.problem}" for role, outcome in
              (("client", run.client), ("server", run.server)) if outcome.end != "eof")]
        if any(problems):
            problems += [f"{run.seconds:.1f} s, {run.counts}", *self.captures(run)]
            raise AssertionError("\n".join(filter(None, problems)))
        return run

    def captures(self, run):
        """Write what was recorded of a failed run; yield where."""
        number = next(self.numbers)
        for side, end in zip(run.sides, ("client", "server")):
            if side.record is not None:
                path = Path(RECORD, f"{os.getpid()}-{number}-{end}.pcap")
                side.write_record(path)
                yield f"the {end}'s side: {path}"


def bad_network(seed, level=1.0):
    """Give four impairments of a random kind: each a little bad, or good, in its own way."""
    rng = random.Random(seed)
    return [Impairment(
        seed=rng.random(),
        loss=level * rng.choice([0, 0, 0.005, 0.02, 0.05]),
        duplicate=level * rng.choice([0, 0, 0.01, 0.05]),
        reorder=level * rng.choice([0, 0, 0.02, 0.1]),
        delay=rng.choice([0, 0, 0.001, 0.005]),
        jitter=rng.choice([0, 0, 0.001, 0.004]),
        lateness=rng.choice([0.001, 0.004, 0.012])) for _ in range(4)]
