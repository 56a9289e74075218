"""Hand-written overlaps: which byte of two segments wins, under each policy; VECTORS as in `tcp_vectors`.

The policies are told apart by where the new segment starts and ends against the old one; the first
vector is the arrangement by which operating systems were told apart.
"""

from .talk import Talk, Vectors, whole

VECTORS = Vectors()
vector = VECTORS.add


def novak(expected):
    """Give a vector in Shankar and Paxson's arrangement of six segments, behind a hole of one byte."""
    def pattern():
        talk = Talk().open().a(1, b"111", ack=0).a(5, b"22", ack=0).a(7, b"333", ack=0)
        talk.a(2, b"4444", ack=0).a(7, b"555", ack=0).a(10, b"666", ack=0).a(0, b"0", ack=0)
        return talk, whole(b"0" + expected), [], {"tcp_overlaps": 2, "tcp_conflicts": 2}
    return pattern


vector("first")(novak(b"111422333666"))
vector("last")(novak(b"144442555666"))
vector("bsd")(novak(b"111442333666"))
vector("linux")(novak(b"111442555666"))
vector("windows")(novak(b"111422333666"))


def overlapped(old, new, size, expected):
    """Give a vector of two segments, behind a hole of one byte."""
    def overlap():
        talk = Talk().open().a(*old, ack=0).a(*new, ack=0).a(0, b".", ack=0)
        return talk, whole(b"." + expected), [], {"tcp_overlaps": 1, "tcp_conflicts": 1}
    overlap.__name__ = f"overlap_{old[1].decode()}_{new[1].decode()}_at_{new[0] - old[0]}"
    return overlap


# The new segment's start and end against the old one's: before, equal, after.
for policies, old, new, expected in (
        (("first",), (2, b"oooo"), (1, b"nnnnnn"), b"noooon"),
        (("last", "bsd", "linux", "windows"), (2, b"oooo"), (1, b"nnnnnn"), b"nnnnnn"),
        (("first", "windows"), (2, b"oooo"), (1, b"nnnnn"), b"noooo"),
        (("last", "bsd", "linux"), (2, b"oooo"), (1, b"nnnnn"), b"nnnnn"),
        (("first", "windows"), (2, b"oooo"), (1, b"nnn"), b"noooo"),
        (("last", "bsd", "linux"), (2, b"oooo"), (1, b"nnn"), b"nnnoo"),
        (("first", "bsd", "windows"), (1, b"oooo"), (1, b"nnnnnn"), b"oooonn"),
        (("last", "linux"), (1, b"oooo"), (1, b"nnnnnn"), b"nnnnnn"),
        (("first", "bsd", "windows"), (1, b"oooo"), (1, b"nnnn"), b"oooo"),
        (("last", "linux"), (1, b"oooo"), (1, b"nnnn"), b"nnnn"),
        (("first", "bsd", "windows"), (1, b"oooo"), (1, b"nn"), b"oooo"),
        (("last", "linux"), (1, b"oooo"), (1, b"nn"), b"nnoo"),
        (("first", "bsd", "linux", "windows"), (1, b"oooo"), (2, b"nn"), b"oooo"),
        (("last",), (1, b"oooo"), (2, b"nn"), b"onno"),
        (("first", "bsd", "linux", "windows"), (1, b"oooo"), (3, b"nnnn"), b"oooonn"),
        (("last",), (1, b"oooo"), (3, b"nnnn"), b"oonnnn")):
    vector(*policies)(overlapped(old, new, len(expected), expected))


def over_two(expected):
    """Give a vector of one segment over two: both inside it, the second up to its end."""
    def over_two_segments():
        talk = Talk().open().a(2, b"cd", ack=0).a(5, b"fg", ack=0).a(1, b"BCDEFG", ack=0).a(0, b"a", ack=0)
        return talk, whole(expected), [], {"tcp_overlaps": 1, "tcp_conflicts": 1}
    return over_two_segments


vector("first")(over_two(b"aBcdEfg"))
vector("windows")(over_two(b"aBCDEfg"))
vector("last", "bsd", "linux")(over_two(b"aBCDEFG"))


@vector("bsd")
def what_is_left_of_a_segment_keeps_its_start():
    talk = Talk().open().a(4, b"AAAA", ack=0).a(2, b"BBBB", ack=0).a(5, b"CC", ack=0).a(0, b"..", ack=0)
    return talk, whole(b"..BBBBAA"), [], {"tcp_overlaps": 2, "tcp_conflicts": 2}


@vector("windows")
def what_a_fin_cuts_off_still_counts_as_its_end():
    talk = Talk().open().a(7, ack=0, flags="F").a(5, b"oo", ack=0).a(4, b"nnnnn", ack=0).a(0, b"....", ack=0)
    return talk, whole(b"....nnn", True), [], {"tcp_beyond_fin": 1, "tcp_overlaps": 1, "tcp_conflicts": 1}


@vector()
def what_was_delivered_stands():
    talk = Talk().open().a(0, b"abc", ack=0).a(0, b"XYZdef", ack=0)
    return talk, whole(b"abcdef"), [], {}


@vector()
def equal_bytes_overlap_without_conflict():
    talk = Talk().open().a(2, b"cd", ack=0).a(1, b"bcde", ack=0).a(0, b"abc", ack=0)
    return talk, whole(b"abcde"), [], {"tcp_overlaps": 2}
