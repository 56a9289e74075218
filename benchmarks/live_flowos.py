"""FlowOS's side of live_ports.py: receive, send and forward with rings from Python, and an engine in line.

    python benchmarks/live_flowos.py rx xdp:IFACE BATCH SECONDS | tx … | forward xdp:IN xdp:OUT BATCH SECONDS
        | engine … | module … | stream … | both … | strip … | busy …

It says "ready" when its ports are open, and in the end one line of JSON: packets and the CPU seconds of the loop.
"""
import json
import select
import signal
import sys
import time

from flowos import Config, Engine, Module
from flowos.modules.http_strip import HttpStrip
from flowos.rings import register, register_pair

FRAME = bytes.fromhex("02000000000202000000000188b5") + bytes(46)


def waiter(port):
    """A poll object that wakes when a port has packets."""
    waiting = select.poll()
    waiting.register(port.fileno(), select.POLLIN)
    return waiting


def receive(port, batch, end):
    """Take packets until the time is over."""
    ring, waiting, packets, sync = port.rx_ring, waiter(port), 0, port.rx_sync
    while time.monotonic() < end:
        if not sync():
            waiting.poll(100)
            continue
        while ring.avail:
            n = min(batch, ring.avail)
            packets += n
            ring.head += n
    return packets


def send(port, batch, end):
    """Send packets until the time is over."""
    ring, packets = port.tx_ring, 0
    while time.monotonic() < end:
        packets += ring.write(FRAME, batch)
        port.tx_sync()
    return packets


def forward(left, right, batch, end):
    """Swap buffers from left to right until the time is over."""
    rx, tx, waiting, packets = left.rx_ring, right.tx_ring, waiter(left), 0
    while time.monotonic() < end:
        if not left.rx_sync() and not rx.avail:
            waiting.poll(100)
            continue
        while rx.avail:
            packets += tx.take(rx, batch)
            right.tx_sync()
    return packets


class Count(Module):
    """Count the packets and the bytes of all UDP, from arrays."""

    protocol, scope, packets, bytes = "udp", "flow", 0, 0

    def process(self, window):
        rows = window.array()
        self.packets += len(rows)
        self.bytes += int(rows["length"].sum())


class Streams(Module):
    """Count the windows and the bytes of all TCP streams, put in order."""

    protocol, packets, bytes = "tcp", 0, 0

    def process_batch(self, windows):
        for window in windows:
            self.packets += 1
            self.bytes += window.length


# What goes with an engine in line: a list of modules, made anew.
MODULES = {"engine": list, "module": lambda: [Count()], "stream": lambda: [Streams()], "both": lambda: [Count(), Streams()],
           "strip": lambda: [HttpStrip(b"SECRET")], "busy": list}


def engine(left, right, end, modules, busy=False):
    """Let an engine stand in line: classify, follow connections, merge; with modules, or without."""
    with Engine(Config(busy=busy)) as engine_:
        engine_.connect(left, right)
        for module in modules:
            engine_.attach(module)
        signal.signal(signal.SIGALRM, lambda *_: engine_.stop())
        signal.setitimer(signal.ITIMER_REAL, max(0.01, end - time.monotonic()))
        engine_.run()
        if len(modules) == 1 and getattr(modules[0], "packets", 1) == 0 < engine_.packets:
            raise RuntimeError("the module saw nothing")
        return engine_.packets


def main(mode, *words):
    """Run one mode."""
    *specs, batch, seconds = words
    signal.signal(signal.SIGINT, signal.SIG_IGN)      # it ends when its time is over
    ports = register_pair(*specs) if len(specs) == 2 else (register(*specs),)
    print("ready", flush=True)
    end, cpu = time.monotonic() + float(seconds), time.process_time()
    work = {"rx": receive, "tx": send, "forward": forward}.get(mode)
    packets = work(*ports, int(batch), end) if work else engine(*ports, end, MODULES[mode](), mode == "busy")
    print(json.dumps({"packets": packets, "cpu": time.process_time() - cpu}))


if __name__ == "__main__":
    main(*sys.argv[1:])
