"""Hand-written fragments and the datagrams they make, for IPv4 under each policy, and for IPv6.

VECTORS maps a name to (policy, fragments, [(id, payload)] in order of completion, counters).
"""

from .build import A, A6, B, B6, START_NS, TCP, UDP
from .defrag import Fragment
from .tcp import POLICIES

VECTORS = {}


class Pieces(list):
    """Fragments, each later than the one before: `at` in bytes, a data length may be given for what was cut."""

    def __init__(self, version):
        super().__init__()
        self.version = version
        self.now = START_NS

    def add(self, at, data, more=True, *, id=7, protocol=UDP, after=0.001, length=None, turned=False):
        self.now += round(after * 1e9)
        ends = (A[0], B[0]) if self.version == 4 else (A6[0], B6[0])
        self.append(Fragment(self.version, *(ends[::-1] if turned else ends), id, protocol, self.now, at, more,
                             len(data) if length is None else length, data))
        return self

    def last(self, at, data, **fields):
        return self.add(at, data, False, **fields)


def vector(versions=(4, 6), policies=POLICIES):
    """Register a function (pieces) -> (datagrams, counters) that adds its fragments to `pieces`."""
    def register(function):
        for version in versions:
            for policy in policies if version == 4 else policies[:1]:
                pieces = Pieces(version)
                datagrams, counters = function(pieces)
                counters = {**counters, **({"datagrams_reassembled": len(datagrams)} if datagrams else {})}
                VECTORS[f"{function.__name__}-ip{version}-{policy}"] = policy, pieces, datagrams, counters
        return function
    return register


X, Y, Z = b"x" * 8, b"y" * 8, b"z" * 8


@vector()
def in_order(pieces):
    pieces.add(0, X).add(8, Y).last(16, b"end")
    return [(7, X + Y + b"end")], {}


@vector()
def backwards(pieces):
    pieces.last(16, b"end").add(8, Y).add(0, X)
    return [(7, X + Y + b"end")], {}


@vector()
def exact_repetitions(pieces):
    pieces.add(0, X).add(0, X).last(8, b"end")
    return [(7, X + b"end")], {"ip_fragment_overlaps": 1}


@vector()
def two_datagrams_interleaved(pieces):
    pieces.add(0, X, id=1).add(0, Y, id=2).last(8, b"2", id=2).last(8, b"1", id=1)
    return [(2, Y + b"2"), (1, X + b"1")], {}


@vector()
def both_ways_with_one_id(pieces):
    pieces.add(0, X).add(0, Y, turned=True).last(8, b"there").last(8, b"back", turned=True)
    return [(7, X + b"there"), (7, Y + b"back")], {}


@vector(versions=(4,))
def the_protocol_is_part_of_the_key(pieces):
    pieces.add(0, X).add(0, Y, protocol=TCP).last(8, b"udp").last(8, b"tcp", protocol=TCP)
    return [(7, X + b"udp"), (7, Y + b"tcp")], {}


@vector(versions=(6,))
def the_next_header_is_no_part_of_the_key(pieces):
    pieces.add(0, X).last(8, b"end", protocol=TCP)
    return [(7, X + b"end")], {}


@vector()
def an_id_used_again(pieces):
    pieces.add(0, X).last(8, b"1").last(8, b"2").add(0, Y)
    return [(7, X + b"1"), (7, Y + b"2")], {}


@vector()
def never_completed(pieces):
    pieces.add(0, X).last(16, b"end")
    return [], {"ip_fragments_timed_out": 1}


@vector()
def timed_out(pieces):
    seconds = 30 if pieces.version == 4 else 60
    pieces.add(0, X).last(8, b"end", after=seconds).add(0, Y)
    return [(7, Y + b"end")], {"ip_fragments_timed_out": 1}


@vector()
def in_time_counts_from_the_first_fragment(pieces):
    seconds = 30 if pieces.version == 4 else 60
    pieces.add(0, X).add(8, Y, after=seconds / 2).last(16, b"end", after=seconds / 2 - 0.01)
    return [(7, X + Y + b"end")], {}


@vector()
def late_by_the_first_fragment(pieces):
    seconds = 30 if pieces.version == 4 else 60
    pieces.add(0, X).add(8, Y, after=seconds / 2).last(16, b"end", after=seconds / 2)
    return [], {"ip_fragments_timed_out": 2}


@vector()
def malformed(pieces):
    pieces.add(0, X).add(8, Y[:5]).add(8, b"").last(8, b"").last(8, b"end")
    return [(7, X + b"end")], {"ip_fragment_malformed": 3}


@vector()
def too_big(pieces):
    pieces.add(0, X).last(65528, X).last(8, b"end")
    return [(7, X + b"end")], {"ip_fragment_too_big": 1}


@vector()
def cut_by_the_snaplen(pieces):
    pieces.add(0, X[:5], length=8).add(0, X).last(8, b"e", length=3).last(8, b"end")
    return [(7, X + b"end")], {"ip_fragment_truncated": 2}


@vector()
def another_end(pieces):
    pieces.last(16, b"end").last(16, b"the end").last(8, b"e").add(8, Y).add(0, X)
    return [(7, X + Y + b"end")], {"ip_fragment_conflict_end": 2}


@vector()
def beyond_the_end(pieces):
    pieces.last(8, b"end").add(16, X).add(8, X).add(0, X)
    return [(7, X + b"end")], {"ip_fragment_conflict_end": 2}


@vector()
def an_end_below_what_came(pieces):
    pieces.add(16, Z).last(8, b"e").add(8, Y).last(24, b"end").add(0, X)
    return [(7, X + Y + Z + b"end")], {"ip_fragment_conflict_end": 1}


@vector(versions=(4,))
def teardrop(pieces):
    pieces.add(0, X + Y + X + Y).last(24, b"drop")
    return [], {"ip_fragment_conflict_end": 1, "ip_fragments_timed_out": 1}


def novak(expected):
    """Give a vector in Shankar and Paxson's arrangement of six fragments."""
    def pattern(pieces):
        for at, digit, length in ((0, b"1", 3), (4, b"2", 2), (6, b"3", 3), (1, b"4", 4), (6, b"5", 3)):
            pieces.add(at * 8, digit * 8 * length)
        pieces.last(72, b"6" * 24)
        return [(7, b"".join(bytes([digit]) * 8 for digit in expected))], \
            {"ip_fragment_overlaps": 2, "ip_fragment_conflicts": 2}
    return pattern


vector((4,), ("first",))(novak(b"111422333666"))
vector((4,), ("last",))(novak(b"144442555666"))
vector((4,), ("bsd",))(novak(b"111442333666"))
vector((4,), ("linux",))(novak(b"111442555666"))
vector((4,), ("windows",))(novak(b"111422333666"))


def repeated(expected):
    def an_extent_repeated_with_other_bytes(pieces):
        pieces.add(0, X).add(0, Y).last(8, b"end")
        return [(7, expected + b"end")], {"ip_fragment_overlaps": 1, "ip_fragment_conflicts": 1}
    return an_extent_repeated_with_other_bytes


vector((4,), ("first", "bsd", "windows"))(repeated(X))
vector((4,), ("last", "linux"))(repeated(Y))


@vector((4,), ("windows",))
def what_surrounds_wins(pieces):
    pieces.add(8, Y).add(0, X * 3).last(24, b"end")
    return [(7, X * 3 + b"end")], {"ip_fragment_overlaps": 1, "ip_fragment_conflicts": 1}


@vector(versions=(6,))
def overlap_poisons(pieces):
    pieces.add(0, X + Y).add(8, Y).add(0, X + Y).last(16, b"end")
    return [], {"ip_fragment_overlaps": 1, "ip6_fragment_overlap": 1, "ip_fragment_poisoned": 2}


@vector(versions=(6,))
def a_repetition_with_other_bytes_poisons(pieces):
    pieces.add(0, X).add(0, Y).last(8, b"end")
    return [], {"ip_fragment_overlaps": 1, "ip_fragment_conflicts": 1, "ip6_fragment_overlap": 1,
                "ip_fragment_poisoned": 1}


@vector(versions=(6,))
def poisoned_until_the_timeout(pieces):
    pieces.add(0, X + Y).add(8, Y).add(0, X, after=59.9).add(0, X, after=0.2).last(8, b"end")
    return [(7, X + b"end")], {"ip_fragment_overlaps": 1, "ip6_fragment_overlap": 1, "ip_fragment_poisoned": 1}


@vector(versions=(6,))
def atomic_fragments_stand_alone(pieces):
    pieces.add(0, X).last(0, b"atomic").last(8, b"end")
    return [(7, X + b"end")], {}
