"""Why a packet belongs to its flow: the classifier's search, told in words.

What is told is the search as `Classifier.lookup` does it: shapes from the best rank down, in each
the packet's fields under the shape's mask, and an end where nothing left can be better.  Beside it
stands, rule by rule, why the others lost.
"""
from dataclasses import dataclass, field

from flowos.core.fields import EVERY_BIT, FIELD, FIELDS, PRINTED


class Namer:
    """Names what masks cover, in the words that fit one packet.

    Where several fields share a place and the packet has none of them, the one that covers most speaks.
    """

    def __init__(self, packet):
        self.packet = packet
        self.had = {entry for entry in FIELDS if entry.need.met(packet.block, EVERY_BIT)}

    def covered(self, mask):
        """List (field, its bits in the mask) for what a mask covers."""
        touched = [(entry, mask & entry.full) for entry in FIELDS if mask & entry.full]
        chosen, left = {}, mask
        for entry, bits in sorted(touched, key=lambda pair: (pair[0] not in self.had, -pair[1].bit_count())):
            if left & bits:
                chosen[entry] = left & bits
                left &= ~bits
        return [(entry, chosen[entry]) for entry, _ in touched if entry in chosen]

    def shape(self, mask):
        """Name what rules of one shape look at: `dl_type,nw_src/0xffffff00`."""
        return ",".join(entry.name if bits == entry.full else f"{entry.name}/{entry.number(bits):#x}"
                        for entry, bits in self.covered(mask)) or "nothing"

    def fields(self, mask):
        """Say what the packet has in the fields that a mask covers: `ip,nw_proto=17,tp_dst=80`."""
        word = PRINTED.get((self.packet["dl_type"], None)) if mask & FIELD["dl_type"].full else None
        shown = [entry.show(self.packet.block & bits, bits) for entry, bits in self.covered(mask)
                 if not (word and entry.name == "dl_type")]
        return ",".join(([word] if word else []) + shown) or "anything"


@dataclass
class Step:
    """One shape of the search: what was looked for, and the rule found (None: no such rule)."""

    shape: str
    rules: int
    highest: int                    # priority
    looked_for: str
    found: object


@dataclass
class Explanation:
    """Which rule a packet belongs to, the steps that led there, and why other rules lost."""

    rule: object                    # None: the packet belongs to no flow
    steps: list = field(default_factory=list)       # the shapes tried, in order
    shapes: int = 0                                 # of all there are
    losers: list = field(default_factory=list)      # (rule, reason), the best first
    left_out: int = 0                               # losers not listed
    names: dict = field(default_factory=dict)

    @property
    def flow(self):
        """The id of the packet's flow; 0: none."""
        return self.rule.id if self.rule else 0

    def name(self, rule):
        """Name a rule's flow."""
        return f"flow {self.names.get(rule.id, rule.id)}"

    def __str__(self):
        rule = self.rule
        lines = [f"{self.name(rule)}: {rule.match}, priority {rule.priority}" if rule else "no flow"]
        for number, step in enumerate(self.steps, 1):
            lines.append(f"  shape {number} of {self.shapes} ({step.shape}: {step.rules} rule"
                         f"{'s' * (step.rules != 1)}, highest priority {step.highest})")
            found = f"{self.name(step.found)}, priority {step.found.priority}" if step.found else "no such rule"
            lines.append(f"    looked for {step.looked_for}: {found}")
        if self.shapes > len(self.steps):
            lines.append(f"  {self.shapes - len(self.steps)} not tried: no rule of these shapes can win")
        lines += [f"  {self.name(loser)} ({loser.match}, priority {loser.priority}): {reason}"
                  for loser, reason in self.losers]
        if self.left_out:
            lines.append(f"  and {self.left_out} more rules that do not win")
        return "\n".join(lines)


def why_lost(rule, winner, packet):
    """Say why a rule is not the one that the packet belongs to."""
    if not rule.match.matches(packet):
        wants, has = zip(*rule.match.differences(packet))
        return f"wants {','.join(wants)} where the packet has {','.join(has)}"
    if rule.priority < winner.priority:
        return f"matches too, with a lower priority than {winner.priority}"
    return "matches too, with the same priority, but is younger"


def explain(packet, tables, winner, names, limit=20):
    """Make the `Explanation` of a search over tables in their order; `limit` losers are listed."""
    found, namer, best = Explanation(winner, shapes=len(tables), names=names), Namer(packet), 0
    for table in tables:
        top = table.rules[0]
        if top.rank < best:
            break
        equal = table.equal.get(packet.block & table.mask)
        hit = equal[0] if equal else None
        best = max(best, hit.rank if hit else 0)
        found.steps.append(Step(namer.shape(table.mask), len(table.rules), top.priority, namer.fields(table.mask), hit))
    assert best == (winner.rank if winner else 0), "the search as told is not the search as done"
    count = sum(len(table.rules) for table in tables) - (winner is not None)
    # the best of each table are candidates enough for the best of all
    others = [rule for table in tables for rule in table.rules[:limit + 1] if rule is not winner]
    others.sort(key=lambda rule: -rule.rank)
    found.losers = [(rule, why_lost(rule, winner, packet)) for rule in others[:limit]]
    found.left_out = count - len(found.losers)
    return found
