"""The engine's pipeline against its model: random traffic, random modules, every window and every packet compared."""
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from driven import Habit, Pair
from left import record
from models import build
from models.pipeline import Stage
from models.talk import Talk
from models.traffic import ISNS, content

SECOND = 10**9


@st.composite
def pipelines(draw):
    """Draw the stages of a flow: readers and writers, in an order, some of which depend on earlier ones."""
    stages = []
    for k in range(draw(st.integers(1, 4))):
        writes = draw(st.booleans())
        alone = writes or not stages or stages[-1].writes or draw(st.booleans())
        order = (stages[-1].order if stages else 0) + alone
        seed = draw(st.integers(0, 10**6))
        stages.append(Stage(Habit(seed, not writes), writes, order,
                            depends=frozenset(draw(st.sets(st.integers(0, k - 1), max_size=1))) if k and alone else frozenset(),
                            hold=draw(st.sampled_from([SECOND, 600 * SECOND])),
                            hold_bytes=draw(st.sampled_from([10, 1 << 20]))))
    return stages


class Sides:
    """A TCP connection that honest ends make over a bad network: what was sent, and what is missing."""

    def __init__(self, number, isns, version, clock):
        self.talk, self.clock = Talk(*isns), clock
        self.a, self.b = [((f"10.0.{number}.1", 40000), (f"10.0.{number}.2", 80)),
                          ((f"2001:db8::{number:x}:1", 40000), (f"2001:db8::{number:x}:2", 80))][version]
        self.sent, self.missing, self.fin = [0, 0], [[], []], [None, None]
        self.opened, self.given = False, 0

    def packet(self, side, at, length=0, flags="", ack=True):
        talk = self.talk
        talk.now = self.clock()
        other = 1 - side
        got = min([start for start, _ in self.missing[other]], default=self.sent[other])
        if self.fin[other] is not None and got == self.fin[other]:
            got += 1
        talk.packet(side, at, content(side, max(at, 0), length), got if ack else None, flags, 0.001, None)

    def new(self):
        """Give the packets since the last call."""
        given, self.given = self.talk.packets[self.given:], len(self.talk.packets)
        return given


CONNECTIONS = st.integers(0, 1)
SIDES = st.integers(0, 1)


class Machine(RuleBasedStateMachine):
    """Two connections and a pipeline; packets gather until they are delivered together."""

    @initialize(stages=pipelines(), isns=st.tuples(ISNS, ISNS, ISNS, ISNS), versions=st.tuples(SIDES, SIDES),
                picked_up=st.tuples(st.booleans(), st.booleans()), own=st.booleans(),
                policy=st.sampled_from(["first", "first", "last", "linux"]), cut=st.sampled_from([0, 0, 0, 24, 48]))
    def begin(self, stages, isns, versions, picked_up, own=False, policy="first", cut=0):
        self.now, self.number, self.waiting = build.START_NS, 0, []
        own = own and len(stages) == 1        # of several, how windows are cut depends on when they come back
        self.pair = Pair(stages, threads=["own"] * own, policy=policy, cut=cut)
        self.sides = [Sides(i, isns[2 * i:2 * i + 2], versions[i], lambda: self.now) for i in range(2)]
        for sides, late in zip(self.sides, picked_up):
            if not late:
                sides.opened = True
                sides.packet(0, -1, flags="S", ack=False)
                sides.packet(1, -1, flags="S")
                sides.packet(0, 0)
            self.take(sides)

    def take(self, sides):
        for packet in sides.new():
            self.number = self.number % 65535 + 1
            self.now = max(self.now, packet.ts)
            self.waiting.append(record(packet, self.number, sides.a, sides.b))

    @rule(c=CONNECTIONS, side=SIDES, length=st.integers(1, 40), flags=st.sampled_from(["", "", "P"]))
    def send(self, c, side, length, flags):
        sides = self.sides[c]
        if sides.fin[side] is None:
            sides.packet(side, sides.sent[side], length, flags)
            sides.sent[side] += length
            self.take(sides)

    @rule(c=CONNECTIONS, side=SIDES, length=st.integers(1, 20))
    def lose(self, c, side, length):
        """Bytes that come later, or never."""
        sides = self.sides[c]
        if sides.fin[side] is None and (sides.opened or sides.sent[side]):
            sides.missing[side].append((sides.sent[side], sides.sent[side] + length))
            sides.sent[side] += length

    @rule(c=CONNECTIONS, side=SIDES, more=st.integers(0, 8))
    def repair(self, c, side, more):
        """What was missing comes, with some that had come."""
        sides = self.sides[c]
        if sides.missing[side]:
            start, end = sides.missing[side].pop(0)
            sides.packet(side, max(0, start - more), min(end + more, sides.sent[side]) - max(0, start - more))
            self.take(sides)

    @rule(c=CONNECTIONS, side=SIDES, back=st.integers(1, 60), length=st.integers(0, 30))
    def repeat(self, c, side, back, length):
        """A retransmission, or a keep-alive."""
        sides = self.sides[c]
        start = max(0, sides.sent[side] - back)
        if not any(a < start + length and start < b for a, b in sides.missing[side]):
            sides.packet(side, start, min(length, sides.sent[side] - start))
            self.take(sides)

    @rule(c=CONNECTIONS, side=SIDES)
    def acknowledge(self, c, side):
        sides = self.sides[c]
        sides.packet(side, sides.sent[side] + (sides.fin[side] is not None))
        self.take(sides)

    @rule(c=CONNECTIONS, side=SIDES, length=st.integers(0, 20))
    def end(self, c, side, length):
        """FIN, in the same segment as the last bytes or in its own."""
        sides = self.sides[c]
        if sides.fin[side] is None:
            sides.packet(side, sides.sent[side], length, "F")
            sides.sent[side] += length
            sides.fin[side] = sides.sent[side]
            self.take(sides)

    @rule(c=CONNECTIONS, side=SIDES)
    def reset(self, c, side):
        sides = self.sides[c]
        sides.packet(side, sides.sent[side], flags="R")
        self.take(sides)

    @rule(seconds=st.sampled_from([2, 2, 700]))
    def wait(self, seconds):
        self.now += seconds * SECOND

    @rule()
    def deliver(self):
        waiting, self.waiting = self.waiting, []
        self.pair.flush(waiting)

    def teardown(self):
        if hasattr(self, "pair"):
            try:
                self.deliver()
                self.pair.finish()
            finally:
                self.pair.close()


TestMachine = Machine.TestCase
#: Some 15 ms each: 500 cases in the default profile, 10,000 in soak.
TestMachine.settings = settings(max_examples=5 * settings.default.max_examples, stateful_step_count=30)
