"""Count the occurrences of byte patterns in streams, across packets and wherever they are cut (D3.2, figure 4.13).

    flowos run x.pcap --attach 'pattern_count:patterns=GET ;POST ' --emit hits.jsonl

A record per connection in which a pattern occurred, when it ends.
"""
from flowos import Module, Patterns, UsageError
from flowos.emit import ends
from flowos.parameters import spell


class PatternCount(Module):
    """Count patterns per connection and direction.

    Of patterns that overlap the leftmost counts, of several that begin together the longest; nothing
    is found across a gap.  `protocol` is the level that is searched.  Keys: `ts`, `connection`, `proto`,
    `a`, `b`, and `a_to_b`, `b_to_a`: {pattern: count}, patterns spelled with escapes.

    >>> from flowos import Engine
    >>> with Engine() as engine:
    ...     engine.add_port("examples/demo.pcap")
    ...     count = PatternCount([b"HTTP/1.1 200 OK", b"GET /"])
    ...     attachment = engine.attach(count)
    ...     engine.run()
    >>> count.totals
    [12, 15]
    """

    name = "pattern_count"

    def __init__(self, patterns: list[bytes], protocol: str = "tcp"):
        if not patterns or not all(patterns):
            raise UsageError("pattern_count: patterns: expected at least one, and none that is empty")
        self.protocol, self.texts = protocol, [spell(pattern) for pattern in patterns]
        # One pattern is found by memmem's ways, several at once by an automaton.
        self.pattern = patterns[0] if len(patterns) == 1 else None
        self.patterns = Patterns(patterns)
        self.totals = [0] * len(patterns)
        self.counts = {}                   # connection -> ([of each pattern, a to b], [b to a])

    def process(self, window):
        if self.pattern is not None:
            counts = None
            for _ in window.find(self.pattern):
                counts = counts or self.counts_of(window)
                counts[0] += 1
            window.release(keep=window.partial(self.pattern))
            return
        for _, which in window.find_many(self.patterns):
            self.counts_of(window)[which] += 1
        window.release(keep=window.partial(self.patterns))

    def counts_of(self, window):
        """Give the counts of a window's direction."""
        number = window.connection.id
        if number not in self.counts:
            self.counts[number] = ([0] * len(self.texts), [0] * len(self.texts))
        return self.counts[number][window.direction]

    def closed(self, connection, reason):
        sides = self.counts.pop(connection.id, None)
        if sides is not None:
            self.totals = [sum(parts) for parts in zip(self.totals, *sides, strict=True)]
            told = [dict(zip(self.texts, side, strict=True)) for side in sides]
            self.emit({"ts": connection.last_ns, **ends(connection), "a_to_b": told[0], "b_to_a": told[1]})
