"""A decoder inside a decoder: what one takes out of a stream is fed to another, whose units take its place.

A decoder that turns a connection's bytes into those of another stream (it decrypts them, say) hands
its units to an `Inside`.  Those of kind "data" carry the other stream; the decoder that takes it is found
by content, as the engine finds decoders.

    units of the outer decoder -> data -> probe -> decoder inside -> its units --.
                               -> any other kind ------------------------------> in one row
"""
import sys

from flowos.core.decoder import Decoder as CompiledDecoder
from flowos.core.recorder import Recorder

PROBE_BYTES = 2048              # what a probe is shown at most
PENDING_UNITS = 64              # units that are kept until a decoder agrees


class Inside:
    """The decoder inside one connection: it is fed their data, its units are laid over those of the outer.

    A unit of the decoder inside ends with the outer unit that brought its last byte, and begins where the
    one before ended; so of several in one outer unit all but the first are empty.  While no decoder has
    agreed, what came is kept: 2,048 bytes of data at most.  `classes` are the decoders to try, in order;
    `unit` is the class of units to make, called as (start, end, kind, info, data).
    """

    def __init__(self, classes, unit):
        self.classes = classes
        self.unit = unit
        self.decoder = None             # None: undecided, or given up when `classes` is empty
        self.waiting = []               # (direction, unit, ts) until it is decided, in the order of arrival
        self.made = ([], [])            # units to be given, by direction
        self.done = [0, 0]              # end of what the units made cover
        self.seen = [0, 0]              # end of the units that came
        self.size = [0, 0]              # bytes of data that came
        self.marks = ([], [])           # (end in the data, end below) where units may still end
        self.ended = [False, False]

    def units(self, direction):
        """Give the units made of a direction, once."""
        units = self.made[direction][:]
        self.made[direction].clear()
        return units

    def counters(self):
        """Give what the decoder inside counted, under its name."""
        counters = self.decoder.decoder.counters if self.decoder else {}
        return {f"{self.decoder.decoder.name}_{reason}": number for reason, number in counters.items()}

    def take(self, direction, unit, ts):
        """Take the next unit of a direction."""
        if self.decoder is None and self.classes and (unit.kind == "data" or self.waiting):
            self.waiting.append((direction, unit, ts))
            if unit.kind == "data":
                self.decide(direction)
        else:
            self.pass_on(direction, unit, ts)

    def decide(self, direction):
        """Ask the decoders whether the data is theirs; feed what waits when that is clear."""
        first = b"".join(unit.data for way, unit, _ in self.waiting if way == direction and unit.kind == "data")
        left = []
        for decoder in self.classes:
            answer = decoder.probe(memoryview(first)[:PROBE_BYTES], direction, 0)
            if answer:
                self.decoder = Fed(decoder(), self.unit)
                break
            if answer is None:
                left.append(decoder)
        waits = sum(len(unit.data or b"") for _, unit, _ in self.waiting)
        if self.decoder is None and left and waits <= PROBE_BYTES and len(self.waiting) < PENDING_UNITS:
            return
        self.give_up()

    def give_up(self):
        """Let what waits go its way: to the decoder there is, or out as it came."""
        self.classes = ()
        waiting, self.waiting = self.waiting, []
        for direction, unit, ts in waiting:
            self.pass_on(direction, unit, ts)

    def pass_on(self, direction, unit, ts):
        """Feed a data unit to the decoder; lay any other behind what was made before."""
        self.seen[direction] = unit.end
        if unit.kind != "data" or self.decoder is None or self.ended[direction]:
            self.lay(direction, unit, unit.end)
            return
        start = self.size[direction]
        self.size[direction] += len(unit.data)
        self.marks[direction].append((self.size[direction], unit.end))
        self.lay_all(direction, self.decoder.feed(direction, unit.data, start, ts))

    def lay_all(self, direction, units):
        """Lay the decoder's units over those that brought their last bytes."""
        marks = self.marks[direction]
        for unit in units:
            while len(marks) > 1 and marks[0][0] < unit.end:
                del marks[0]
            self.lay(direction, unit, marks[0][1] if marks else self.done[direction])

    def lay(self, direction, unit, end):
        """Make a unit that goes from the end of the one before to `end`."""
        end = max(end, self.done[direction])
        self.made[direction].append(self.unit(self.done[direction], end, unit.kind, unit.info, unit.data))
        self.done[direction] = end

    def end(self, direction, ts):
        """End a direction of the decoder; True when it was at work."""
        if self.waiting:
            self.give_up()
        if self.decoder is None:
            self.classes = ()
        if self.decoder is None or self.ended[direction]:
            return False
        self.ended[direction] = True
        self.lay_all(direction, self.decoder.finish(direction, self.size[direction], ts))
        if self.done[direction] < self.seen[direction]:         # units without any data
            self.lay(direction, self.unit(0, 0, "data"), self.seen[direction])
        return True


class Fed:
    """A decoder, compiled or in Python, that is fed by hand and gives units."""

    def __init__(self, decoder, unit):
        self.decoder = decoder
        self.unit = unit
        self.recorder = Recorder(decoder) if isinstance(decoder, CompiledDecoder) else None
        self.kinds = getattr(sys.modules[type(decoder).__module__], "KINDS", {})

    def feed(self, direction, data, offset, ts):
        """Feed one piece; give the units it completes."""
        if self.recorder is None:
            return self.decoder.feed(direction, data, offset, ts)
        return self.recorded(self.recorder.feed(direction, data, offset, ts))

    def finish(self, direction, offset, ts):
        """End a direction; give the units of what is left."""
        if self.recorder is None:
            return self.decoder.finish(direction, offset, ts)
        return self.recorded(self.recorder.finish(direction, offset, ts))

    def recorded(self, records):
        """Turn a compiled decoder's records into units; the recorder keeps none."""
        self.recorder.records.clear()
        return [self.unit(r.start, r.end, self.kinds.get(r.kind, f"kind-{r.kind}"),
                          None if r.data is None else self.decoder.describe(r.kind, r.data), r.data) for r in records]
