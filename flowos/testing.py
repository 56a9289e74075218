"""Test modules: a conversation is played to a module at every cut, and must come to the same.

    from flowos.testing import run

    def test_strip():
        done = run(Strip, a=b"GET / HTTP/1.1\r\n\r\n", b=b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<scr!")
        assert done.b.endswith(b"!")

Where TCP cuts a stream is the network's affair; a module that depends on it has a fault that shows
once in a thousand connections.  Here it shows at once, and the error names the cut.
"""
import os
import random
import tempfile
from dataclasses import dataclass, field

import flowos
from flowos.core.ports import open_port
from flowos.emit import open_sink
from flowos.packets import Conversation, ethernet, save, tcp, udp, valid

__all__ = ["Conversation", "Outcome", "ethernet", "play", "run", "save", "tcp", "udp", "valid"]

#: Keys of records that tell of time, which other cuts change.
TIMES = frozenset(("ts", "duration", "rtt"))
#: With more bytes than this, `cuts="all"` tries so many cuts, spread evenly with both ends among them.
MOST_CUTS = 400


@dataclass
class Outcome:
    """What became of a conversation: the streams that left, records, packets, the module itself.

    `a` is what b received from a, `b` what a received from b: of a module that only reads, what was
    sent.  `packets` lists (ns, frame) as they left; `units` what the module was lent, for messages.
    """

    a: bytes
    b: bytes
    records: list
    module: object
    packets: list = field(repr=False, default_factory=list)
    statistics: dict = field(repr=False, default_factory=dict)

    def same(self, other):
        """Say what differs from another outcome: "" when nothing that counts does."""
        for name in ("a", "b"):
            ours, theirs = getattr(self, name), getattr(other, name)
            if ours != theirs:
                at = next((i for i, (x, y) in enumerate(zip(ours, theirs, strict=False)) if x != y),
                          min(len(ours), len(theirs)))
                return (f"stream {name} differs at byte {at}: {ours[at:at + 40]!r} ({len(ours)} bytes), "
                        f"without cuts {theirs[at:at + 40]!r} ({len(theirs)} bytes)")
        ours, theirs = timeless(self.records), timeless(other.records)
        return "" if ours == theirs else f"records differ: {ours}, without cuts {theirs}"


def timeless(records):
    """Give records without what tells of time."""
    return [{key: value for key, value in record.items() if key not in TIMES} for record in records]


def play(module, packets, match="any", config=None):
    """Run packets (ns, frame) through a module; give the Outcome.

    A module that writes stands in line: its streams are read back from what left, and every packet
    that left must have right checksums.  What the module raises is raised here.
    """
    records = []
    with tempfile.TemporaryDirectory(prefix="flowos-") as folder:
        source, target = os.path.join(folder, "in.pcap"), os.path.join(folder, "out.pcap")
        save(source, packets)
        with flowos.Engine(config or flowos.Config.offline()) as engine:
            engine.add_port(source)
            if module.mode == flowos.RDWR:
                engine.add_output(target)
            engine.sink = open_sink(records.append)
            engine.attach(module, engine.create_flow("tested", match))
            engine.run()
            engine.finish()
            statistics = engine.statistics()
        left = read_packets(target) if module.mode == flowos.RDWR else list(packets)
    for number, (_, frame) in enumerate(left, 1):
        assert valid(frame), f"packet {number} left with a wrong checksum"
    streams = read_streams(left)
    return Outcome(*streams, records, module, left, statistics)


def read_packets(path):
    """Give a capture's packets as (ns, frame)."""
    port = open_port(path)
    found = []
    try:
        while port.rx_sync() or not port.ended:
            ring = port.rx_ring
            for slot in ring:
                found.append((slot.ts, bytes(slot.data)))
            ring.head = ring.cur = ring.tail
    finally:
        port.close()
    return found


def read_streams(packets):
    """Give what the first connection of some packets carried: (a to b, b to a)."""
    with tempfile.TemporaryDirectory(prefix="flowos-") as folder:
        path = os.path.join(folder, "left.pcap")
        save(path, packets)
        for connection in flowos.open(path):
            return connection.a_to_b.read(), connection.b_to_a.read()
    return b"", b""


def turns(a, b):
    """Give the turns of a conversation, (side, bytes) each: a begins; lists alternate.

    >>> turns([b"1", b"3"], b"2")
    [(0, b'1'), (1, b'2'), (0, b'3')]
    """
    a, b = ([side] if isinstance(side, (bytes, bytearray)) else list(side) for side in (a, b))
    found = []
    for number in range(max(len(a), len(b))):
        found += [(side, bytes(parts[number])) for side, parts in ((0, a), (1, b))
                  if number < len(parts) and parts[number]]
    return found


def talk(said, cuts=(), reorder=None):
    """Write a conversation down: turns, cut at offsets (turn, byte), and perhaps shuffled.

    `reorder` is the seed of a shuffle: segments of one turn come out of order, some of them twice.
    """
    conversation, dice = Conversation().open(), random.Random(reorder)
    for number, (side, data) in enumerate(said):
        at = len(conversation.packets)
        borders = [0, *sorted({cut for turn, cut in cuts if turn == number and 0 < cut < len(data)}), len(data)]
        for start, end in zip(borders, borders[1:], strict=False):
            conversation.send(side, data[start:end])
        conversation.segment(1 - side)                # the other end acknowledges
        if reorder is not None:
            shuffle(conversation.packets, at, dice)
    return conversation.close()


def shuffle(packets, at, dice):
    """Shuffle the packets from `at` up to the last, an acknowledgement; some come twice; times stay in order."""
    *chosen, last = packets[at:]
    frames = [frame for _, frame in chosen]
    frames += [frame for frame in frames if dice.random() < 0.2]
    dice.shuffle(frames)
    begin, end = (chosen or [last])[0][0], last[0]
    step = (end - begin) / (len(frames) + 1)
    packets[at:] = [*((begin + int(number * step), frame) for number, frame in enumerate(frames)), last]


def choose(said, cuts):
    """Give the sets of cuts to try: "all" single ones, "none", or offsets (in every turn that has them)."""
    if cuts == "none":
        return []
    if cuts != "all":
        return [{(turn, cut) for turn, (_, data) in enumerate(said) if cut < len(data)} for cut in cuts]
    every = [{(turn, cut)} for turn, (_, data) in enumerate(said) for cut in range(1, len(data))]
    if len(every) > MOST_CUTS:
        every = [every[round(i * (len(every) - 1) / (MOST_CUTS - 1))] for i in range(MOST_CUTS)]
    # The two extremes beside single cuts: a byte at a time, and every turn in two.
    bytewise = {(turn, cut) for turn, (_, data) in enumerate(said) for cut in range(1, min(len(data), MOST_CUTS))}
    return [*every, bytewise] if bytewise else every


def run(make, a=b"", b=b"", cuts="all", reorder=None, match="any", config=None, **parameters):
    """Play a conversation to fresh instances of a module, whole and cut, and compare; give the whole one's Outcome.

    `make` is a Module class (made with `parameters`) or a function that makes one.  `a` and `b` are what the ends
    send, or lists that they send in turn, a first.  `cuts` is "all" (each byte border of each turn, and all of
    them), "none", or a list of offsets; `reorder` is a seed: every cut conversation also comes shuffled, with
    duplicates.  AssertionError names the first cut whose outcome differs.

    >>> from flowos import Module
    >>> class Loud(Module):
    ...     def closed(self, connection, reason):
    ...         self.emit({"bytes": connection.a_to_b.stream_bytes})
    >>> run(Loud, a=b"hello").records
    [{'bytes': 5}]
    """
    said = turns(a, b)
    whole = play(make(**parameters), talk(said).packets, match, config)
    # Windows are joined where packets come close together: here each packet is lent as it comes.
    apart = config or flowos.Config.offline(deliver_units=1, batch=1)
    for chosen in choose(said, cuts):
        for seed in {None, reorder}:
            outcome = play(make(**parameters), talk(said, chosen, seed).packets, match, apart)
            difference = outcome.same(whole)
            where = ", ".join(f"turn {turn} at byte {cut}" for turn, cut in sorted(chosen)[:3])
            more = f" and {len(chosen) - 3} more" if len(chosen) > 3 else ""
            shuffled = f", shuffled with seed {seed}" if seed is not None else ""
            assert not difference, f"cut {where}{more}{shuffled}: {difference}"
    return whole
