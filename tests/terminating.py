"""A proxy where FlowOS would stand: the simple way to edit TCP, which the tests are tried on first.

    left port ── p0 ─ veth ─ p1 [socket with the server's address]
                                     modules, on windows of plain bytes
    right port ─ q0 ─ veth ─ q1 [socket with the client's address]

Both hosts talk to a kernel of ours that has the other's address, so every acknowledgement, loss and
window is the kernel's business.  What passes here can be asked of FlowOS; what fails here is wrong
in the test.  The modules' windows are the least that a module needs, over bytes.
"""
import contextlib
import errno
import select
import socket
import struct

from editscript import Edit, edited
from impaired import frames_in, put
from namespaces import add, inside, join

from flowos.core.packetport import PacketPort

AHEAD = 256 << 10                             # bytes that wait for a slow receiver before reading stops


class Window:
    """What a module sees of [head, tail) of a stream: edits are gathered, and carried out when it returns."""

    def __init__(self, direction, data, head, complete):
        self.direction, self.data, self.head, self.tail, self.complete = direction, data, head, head + len(data), complete
        self.upto, self.edits = self.tail, []

    def replace(self, start, end, data):
        assert self.head <= start < end <= self.tail
        self.edits.append(Edit(start, end - start, data))

    def insert(self, offset, data):
        assert self.head <= offset <= self.tail
        self.edits.append(Edit(offset, 0, data))

    def delete(self, start, end):
        self.replace(start, end, b"")

    def release(self, upto):
        assert self.head <= upto <= self.tail
        self.upto = upto

    def released(self):
        """Give the bytes that go on, edited."""
        assert all(edit.position + edit.removed <= self.upto for edit in self.edits)
        return edited(self.data[:self.upto - self.head],
                      [edit._replace(position=edit.position - self.head) for edit in self.edits])


class Stage:
    """One module on one direction: what it holds, and where that begins in its own input."""

    def __init__(self, module, direction):
        self.module, self.direction, self.held, self.head, self.done = module, direction, b"", 0, False

    def feed(self, data, complete):
        """Give what the module lets go when `data` came."""
        if self.done or not data and not complete:
            return b""
        window = Window(self.direction, self.held + data, self.head, complete)
        self.module.process(window)
        self.held, self.head, self.done = window.data[window.upto - window.head:], window.upto, complete
        assert not (complete and self.held)
        return window.released()


class Way:
    """One direction of the proxy: from one socket through the stages to the other."""

    def __init__(self, modules, direction):
        self.stages = [Stage(module, direction) for module in modules]
        self.out, self.ended, self.closed = b"", False, False

    def pump(self, source, sink):
        """Move what can be moved without waiting; True if something was."""
        moved = False
        while not self.ended and len(self.out) < AHEAD:
            try:
                data = source.recv(65536)
            except BlockingIOError:
                break
            moved, self.ended = True, not data
            for stage in self.stages:
                data = stage.feed(data, self.ended)
            self.out += data
        while self.out:
            try:
                sent = sink.send(self.out[:AHEAD])
            except BlockingIOError:
                break
            moved, self.out = True, self.out[sent:]
        if self.ended and not self.out and not self.closed:
            self.closed = moved = True
            sink.shutdown(socket.SHUT_WR)
        return moved


class Terminating:
    """Edit by proxy with `modules`, in the order given.  `network` is the Network; its namespaces come to it."""

    def __init__(self, network, *modules):
        self.network, self.modules = network, modules
        self.stack = contextlib.ExitStack()

    def start(self, left, right, port, version):
        """Begin between two ports: a host with the other's address on each."""
        self.ways, self.pair, names = [], [], self.hosts()
        for near, end in ("p", left), ("q", right):
            with inside(self.network.names["middle"]):
                outer = self.stack.enter_context(PacketPort(f"{near}0", slots=1024))
            self.ways += [(outer, outer.rx_ring, end, end.tx_ring), (end, end.rx_ring, outer, outer.tx_ring)]
        addresses, family = self.network.addresses(version), socket.AF_INET if version == 4 else socket.AF_INET6
        self.target, self.source = (addresses[1], port), (addresses[0], 0)
        with inside(names[0]):
            self.listener = self.stack.enter_context(socket.create_server(self.target, family=family))
        with inside(names[1]):
            self.onward = self.stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        self.onward.bind(self.source)
        self.listener.setblocking(False)
        self.onward.setblocking(False)
        self.streams = [Way(self.modules, 0), Way(self.modules, 1)]
        self.over = False

    def hosts(self):
        """Give the names of the two hosts of ours, which the first run makes and the network removes."""
        made = self.network.proxies
        if not made:
            middle = self.network.names["middle"]
            for number, near in enumerate("pq"):
                name = f"{middle}-{near}"
                add(name, self.network.stack)
                join(middle, name, f"{near}0", f"{near}1")
                self.network.set_up_host(name, f"{near}1", 1 - number)
                made.append(name)
        return made

    def step(self, now):
        """Move frames, then bytes; True if there was anything."""
        moved = False
        for source, rx, target, tx in self.ways:
            if frames := frames_in(source, rx):
                moved = True
                put(target, tx, frames)
        return self.pump() or moved

    def pump(self):
        """Move bytes from socket to socket; a reset on one side becomes one on the other."""
        if not self.pair:
            with contextlib.suppress(BlockingIOError):
                client, _ = self.listener.accept()
                client.setblocking(False)
                self.pair = [self.stack.enter_context(client), self.onward]
                self.onward.connect_ex(self.target)
            return False
        client, server = self.pair
        if self.over or not select.select([], [server], [], 0)[1] and not self.streams[0].closed:
            return False
        try:
            forth = self.streams[0].pump(client, server)
            return self.streams[1].pump(server, client) or forth
        except (ConnectionError, OSError) as error:
            if error.errno not in (errno.ECONNRESET, errno.EPIPE, errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ENOTCONN):
                raise
            self.over = True
            for sock in self.pair:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
            return True

    def close(self):
        """Close the sockets and the ports."""
        self.stack.close()
