"""An engine and the pipeline's model driven side by side: the same packets, the same modules, step by step.

    packets ──┬─► engine with a recorder at "tcp" ──► units, delivery by delivery ──► models.pipeline
              └─► engine with the modules under test ──► what they saw, what left

Reassembly has a model of its own (models.tcp): here the recorder's units are the input.  Each TCP
packet carries its number in its window field, so that what leaves can be traced to what came.
"""
import random
from dataclasses import dataclass

import flowos
from flowos.core.pipe import pipe
from fragmented import cut, joined
from left import judge, parse
from models.pipeline import Answer, Edit, Pipeline, Unit, View

SLOTS = 1024


class Deliberate(Exception):
    """What a module under test raises on purpose."""


@dataclass(frozen=True)
class Habit:
    """A module's decision, a function from View to Answer that depends on nothing but the View.

    It deletes, replaces, inserts, drops, holds, releases partly and fails; a `steady` one only edits.
    """

    seed: int
    reads: bool = False
    steady: bool = False

    def __call__(self, view):
        size = view.tail - view.head
        if not size and not view.complete:
            return Answer()                   # a SYN alone, or units that an earlier stage emptied
        dice = random.Random(f"{self.seed} {view[:4]} {view.complete}")
        release = None if self.steady or dice.random() < 0.6 else dice.choice([0, size // 2, dice.randint(0, size)])
        fails = not self.steady and dice.random() < 0.08
        if self.reads:
            return Answer(release=release, fails=fails)
        edits, at, most = [], 0, size if release is None else release
        while dice.random() < 0.5:
            start = dice.randint(at, most)
            end = dice.choice([start, min(most, start + dice.randint(0, 4)), most if dice.random() < 0.1 else start])
            data = dice.randbytes(dice.choice([0, 1, 3, 3, 40]))
            if end == start and (not data or edits and edits[-1].end == start):
                break
            edits.append(Edit(start, end, data))
            at = end
        if not edits and view.units and release is None and dice.random() < 0.15:
            return Answer(drop=dice.randrange(view.units), fails=fails)
        return Answer(tuple(edits), release=release, fails=fails)


class Driven(flowos.Module):
    """A module that does what its stage's decision says, and writes down what it saw."""

    def __init__(self, stage, protocol="tcp", name="driven"):
        self.decide, self.protocol, self.name = stage.decide, protocol, name
        self.depends = tuple(f"driven{j}" for j in sorted(stage.depends))
        self.mode = flowos.RDWR if stage.writes else flowos.RDONLY
        self.hold, self.hold_bytes = stage.hold / 1e9, stage.hold_bytes
        self.seen = []

    def process(self, window):
        if window.head == window.tail and not window.complete:
            return
        units = [unit for unit in window.units if unit.kind == "data"]
        view = View(window.connection.id, window.direction, window.head, window.tail, bytes(window.data),
                    window.complete, len(units))
        self.seen.append(view)
        answer = self.decide(view)
        for start, end, data in answer.edits:
            if start == end:
                window.insert(window.head + start, data)
            elif data:
                window.replace(window.head + start, window.head + end, data)
            else:
                window.delete(window.head + start, window.head + end)
        if answer.drop is not None:
            window.drop(units[answer.drop])
        if answer.release is not None:
            window.release(upto=window.head + answer.release)
        if answer.fails:
            raise Deliberate


class Recorder(flowos.Module):
    """Writes down every unit of the transport's streams as the model wants them."""

    name, protocol = "recorder", "tcp"

    def __init__(self):
        self.units, self.ended = [], []
        self.ends, self.firsts = {}, {}       # a connection's ends; a direction's first unit: (kind, packet)

    def opened(self, connection):
        self.ends[connection.id] = tuple(connection.a), tuple(connection.b)

    def process(self, window):
        number, direction = window.connection.id, window.direction
        for unit in window.units:
            data = bytes(unit.data) if unit.kind == "data" else None
            if unit.kind != "gap" and not unit.offset:
                self.firsts.setdefault((number, direction), (unit.kind, unit.packet))
            self.units.append((number, direction, Unit(unit.kind, unit.offset, unit.length, data)))

    def closed(self, connection, reason):
        self.ended.append(connection.id)

    def taken(self):
        """Give what came since the last call, and forget it: (units, connections that ended)."""
        given = self.units, self.ended
        self.units, self.ended = [], []
        return given


class Pair:
    """Two engines and the model, fed alike; `threads` says of each stage where it runs ("inline")."""

    def __init__(self, stages, protocols=None, threads=(), policy="first", cut=0):
        config = flowos.Config.offline(isolate=True, tcp_policy=policy)
        self.recorder = Recorder()
        self.modules = [Driven(stage, protocol, f"driven{k}")
                        for k, (stage, protocol) in enumerate(zip(stages, protocols or ["tcp"] * len(stages)))]
        self.model, self.policy = Pipeline(stages), policy
        self.engines, self.ports, self.outputs = [], [], []
        for modules in ([self.recorder], self.modules):
            engine = flowos.Engine(config)
            ours, theirs = pipe("in", SLOTS, buffer_size=4096)
            engine.add_port(theirs)
            out, end = pipe("out", SLOTS * 4, buffer_size=4096)
            engine.add_output(out)
            for k, module in enumerate(modules):
                if modules is self.modules:
                    engine.attach(module, None, stages[k].order, (*threads, *["inline"] * len(stages))[k])
                else:
                    engine.attach(module)
            self.engines.append(engine)
            self.ports.append(ours)
            self.outputs.append(end)
        self.came, self.left, self.now = [], [], 0
        self.cut, self.brought = cut, []      # bytes of an IP fragment, 0: none; which packet each frame brought a part of

    def flush(self, frames):
        """Send frames through both engines as one delivery, and through the model; compare what modules saw."""
        parts = []
        for ts, frame in frames:
            self.came.append(parse(ts, frame))
            self.now = max(self.now, ts)
            pieces = cut((ts, frame), self.cut, len(self.came)) if self.cut else [(ts, frame)]
            parts += pieces
            self.brought += [len(self.came)] * len(pieces)
        for port in self.ports:
            for ts, frame in parts:
                assert port.send(frame, ts)
            port.tx_sync()
        for engine in self.engines:
            for _ in range(len(self.modules) + 2):   # takes them; finds nothing, and delivers; what was held too long goes on
                engine.step()
                engine.drain()                # what is out to threads comes back: nobody's pace shows
        self.compare()

    def finish(self):
        """End the input."""
        for port in self.ports:
            port.close()
        for engine in self.engines:
            while engine.step():
                pass
        self.compare()
        origins = {way: self.origin(*way, *first) for way, first in self.recorder.firsts.items()}
        left = [parse(*packet) for packet in joined(self.left)]
        judge(self.model, self.recorder.ends, origins, self.came, left, self.policy)

    def origin(self, connection, direction, kind, number):
        """Give the raw sequence number of a stream's first byte, by its first unit's packet."""
        if kind == "fin":                     # made known by a later packet, perhaps
            side = self.recorder.ends[connection][direction]
            return next(packet.seq + len(packet.payload) for packet in self.came if packet.src == side and packet.flags & 1)
        return self.came[self.brought[number - 1] - 1].seq + (kind == "syn")

    def close(self):
        for engine in self.engines:
            engine.close()

    def compare(self):
        """Give the model what the recorder saw, and hold the engine to what the model says."""
        units, closed = self.recorder.taken()
        self.model.deliver(self.now, units, closed)
        for _ in self.modules:
            self.model.deliver(self.now, ())
        self.engines[1]._check()
        self.left += [(ts, bytes(frame)) for ts, frame in self.outputs[1].receive()]
        self.outputs[0].receive()
        for k, module in enumerate(self.modules):
            expected = [view for view in self.model.seen[k] if view.tail > view.head or view.complete]
            for way in {view[:2] for view in module.seen + expected}:
                saw, should = ([view for view in views if view[:2] == way] for views in (module.seen, expected))
                assert saw == should, f"stage {k} saw {saw}, by the model {should}"
