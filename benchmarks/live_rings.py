"""What live_sweep.py runs in the middle on FlowOS's side: rings and the pcap face, by frame size, and a ping responder.

    python benchmarks/live_rings.py tx PORT… BATCH SECONDS SIZE | rx PORT BATCH SECONDS SIZE
        | forward IN OUT BATCH SECONDS SIZE | stamp … | pcap … | ping PORT BATCH SECONDS SIZE

`tx` with two ports, such as xdp:eth0/0 and xdp:eth0/1, sends a batch on each in turn.  `stamp` forwards and looks at each
packet's time.  Otherwise as live_flowos.py, whose loops it shares: "ready", then a line of JSON.
"""
import json
import signal
import sys
import time

from live_flowos import forward, receive, waiter

from flowos import pcap
from flowos.rings import register, register_pair

HEAD = bytes.fromhex("02000000000202000000000188b5")
ECHO_REQUEST = b"\x08\x00\x45"                             # the end of an Ethernet header with IPv4 without options


def send(ports, batch, end, size):
    """Send frames of a size in batches, on each port in turn, until the time is over."""
    frame, packets = HEAD + bytes(size - len(HEAD)), 0
    while time.monotonic() < end:
        for port in ports:
            packets += port.tx_ring.write(frame, batch)
            port.tx_sync()
    return packets


def forward_stamped(left, right, batch, end):
    """Forward by swaps, and look at the time of each packet."""
    rx, tx, waiting, packets, latest = left.rx_ring, right.tx_ring, waiter(left), 0, 0
    while time.monotonic() < end:
        if not left.rx_sync() and not rx.avail:
            waiting.poll(100)
            continue
        while rx.avail:
            for index in range(rx.cur, rx.cur + min(batch, rx.avail)):
                latest = max(latest, rx[index].ts)
            packets += tx.take(rx, batch)
            right.tx_sync()
    if packets and not latest:
        raise RuntimeError("packets have no time")
    return packets


def forward_pcap(left, right, batch, end):
    """Forward by the pcap face: a callback for each packet, which injects a copy."""
    packets = 0
    with pcap.open_live(left, to_ms=100) as reader, pcap.open_live(right) as writer:
        def forwarded(_header, data):
            writer.inject(data)

        print("ready", flush=True)
        end += time.monotonic()
        cpu = time.process_time()
        while time.monotonic() < end:
            packets += reader.dispatch(batch, forwarded)
        return {"packets": packets, "cpu": time.process_time() - cpu}


def answer(port, batch, end):
    """Answer each ICMP echo request, whoever it is for, in the buffer that it came in; all else is dropped."""
    ring, waiting, answered = port.rx_ring, waiter(port), 0
    while time.monotonic() < end:
        if not port.rx_sync():
            waiting.poll(100)
            continue
        for _ns, _wire, data in ring.read(batch):
            if data[12:15] == ECHO_REQUEST and data[23] == 1 and data[34] == 8:
                # From request to reply the type falls by 8, so the sum rises by 0x0800 (RFC 1624).
                total = int.from_bytes(data[36:38], "big") + 0x0800
                total = (total & 0xffff) + (total >> 16)
                port.tx_ring.write(data[6:12] + data[:6] + data[12:26] + data[30:34] + data[26:30] + b"\0" + data[35:36]
                                   + total.to_bytes(2, "big") + data[38:])
                answered += 1
        port.tx_sync()
    return answered


def main(mode, *words):
    """Run one mode."""
    *specs, batch, seconds, size = words
    batch, seconds, size = int(batch), float(seconds), int(size)
    signal.signal(signal.SIGINT, signal.SIG_IGN)              # it ends when its time is over
    if mode == "pcap":
        print(json.dumps(forward_pcap(*specs, batch, seconds)))
        return
    ports = register_pair(*specs) if mode in ("forward", "stamp") else tuple(register(spec) for spec in specs)
    print("ready", flush=True)
    end, cpu = time.monotonic() + seconds, time.process_time()
    if mode == "tx":
        packets = send(ports, batch, end, size)
    else:
        packets = {"rx": receive, "forward": forward, "stamp": forward_stamped, "ping": answer}[mode](*ports, batch, end)
    print(json.dumps({"packets": packets, "cpu": time.process_time() - cpu}))


if __name__ == "__main__":
    main(*sys.argv[1:])
