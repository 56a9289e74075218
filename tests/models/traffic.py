"""Random traffic for the property tests: TCP conversations and fragmented datagrams.

Two kinds of TCP: `wild` places segments anywhere near the window, with any flag, acknowledgement and
pause, to reach every rule; `carried` sends two byte streams over a network that cuts, delays, repeats
and loses, with the acknowledgements that a receiver beside the capture could have sent.
"""

from hypothesis import strategies as st

from . import build, defrag
from .talk import Talk

# Sequence numbers that wrap within a few bytes, at once, or not at all.
ISNS = st.one_of(st.integers(0, 2**32 - 1), st.integers(2**32 - 60, 2**32 - 1), st.integers(2**31 - 60, 2**31 + 60))
PAUSES = st.sampled_from([0.001] * 8 + [0.0, 0.3, 1.1, 12.0, 31.0, -0.5])


def content(side, offset, length, variant=0):
    """Give the bytes a side has at an offset: another variant differs in some of them."""
    return bytes(((at * 7 + side * 101) ^ (variant if at % 3 else 0)) & 0xFF for at in range(offset, offset + length))


WILD_STEP = st.tuples(
    st.sampled_from([0, 0, 0, 1]),                                  # side
    st.integers(-4, 44),                                            # offset
    st.one_of(st.integers(0, 12), st.integers(0, 3)),               # length
    st.sampled_from([0, 0, 1, 2]),                                  # variant
    st.sampled_from([""] * 14 + ["F", "F", "R", "S"]),              # flags beside ACK
    st.one_of(st.none(), st.integers(-3, 48), st.integers(0, 12)),  # ack
    st.one_of(st.none(), st.none(), st.none(), st.integers(0, 6)),  # bytes captured at most
    PAUSES)
STEPS = st.tuples(*[st.lists(WILD_STEP, max_size=14)] * 3).map(lambda parts: sum(parts, []))


@st.composite
def wild(draw):
    """Draw the packets of one conversation in which anything may happen."""
    talk = Talk(draw(ISNS), draw(ISNS))
    opening = draw(st.sampled_from(["open", "open", "syn", "syn-ack", "none"]))
    if opening == "open":
        talk.open()
    elif opening == "syn":
        talk.a(flags="S")
    elif opening == "syn-ack":
        talk.b(flags="SA", ack=0)
    for side, at, length, variant, flags, ack, captured, pause in draw(STEPS):
        if flags == "S":
            at = -1 if variant == 0 else at
        start = 0 if flags == "S" and at == -1 else at
        data = content(side, start, length, variant)
        if captured is not None and captured < length:
            data = (data[:captured], length - captured)
        talk.packet(side, at, data, ack, flags, pause, None)
    return talk.packets


@st.composite
def segments(draw, side, size):
    """Draw segments (offset, end) that cover [0, size), cut anywhere, some of them overlapping."""
    cuts = sorted({0, size} | (draw(st.sets(st.integers(1, size - 1), max_size=12)) if size > 1 else set()))
    pieces = list(zip(cuts, cuts[1:]))
    for start, end in draw(st.lists(st.tuples(st.integers(0, size), st.integers(0, size)), max_size=4)):
        if start != end:
            pieces.append((min(start, end), max(start, end)))
    return pieces


@st.composite
def carried(draw, lossy=True):
    """Draw (packets, stream of a, stream of b) of a conversation between two honest ends.

    Every segment is a true piece of its stream unless `lossy`, which loses some and gives others
    conflicting bytes. An acknowledgement says what had reached the capture, or, when `lossy`, also
    what had been lost there.
    """
    talk = Talk(draw(ISNS), draw(ISNS)).open()
    sizes = draw(st.integers(0, 120)), draw(st.integers(0, 120))
    pieces = [(side, start, end) for side in (0, 1) for start, end in draw(segments(side, sizes[side]))]
    pieces = draw(st.permutations(pieces)) if draw(st.booleans()) else sorted(pieces, key=lambda p: p[1])
    arrived = [set(), set()]
    for side, start, end in pieces:
        fate = draw(st.sampled_from(["send"] * 6 + ["twice"] + (["lose", "conflict"] if lossy else [])))
        if lossy or fate != "lose":
            arrived[side].update(range(start, end))
        other = 1 - side
        seen = min(set(range(sizes[other] + 1)) - arrived[other])
        if fate == "lose":
            continue
        data = content(side, start, end - start, 0x40 if fate == "conflict" else 0)
        for _ in range(2 if fate == "twice" else 1):
            talk.packet(side, start, data, draw(st.integers(0, seen)) if draw(st.booleans()) else seen, "", 0.001, None)
    for side in (0, 1):
        if draw(st.booleans()):
            talk.packet(side, sizes[side], b"", 0, "F", 0.001, None)
    return talk.packets, content(0, 0, sizes[0]), content(1, 0, sizes[1])


@st.composite
def fragments(draw, version, honest=False):
    """Draw fragments of a few datagrams; honest ones cover their datagram, agree, and may overlap in IPv4."""
    found, now = [], build.START_NS
    for identity in range(draw(st.integers(1, 3))):
        units = draw(st.integers(2, 8))
        tail = draw(st.integers(1, 8))
        total = units * 8 + tail
        payload = content(identity, 0, total)
        cuts = sorted(draw(st.sets(st.integers(1, units), min_size=1, max_size=6)) | {0})
        spans = [(start, end, True) for start, end in zip(cuts, cuts[1:])] + [(cuts[-1], None, False)]
        if version == 4 or not honest:
            for start, end in draw(st.lists(st.tuples(st.integers(0, units), st.integers(0, units)), max_size=4)):
                if start != end:
                    spans.append((min(start, end), max(start, end), True))
        if not honest:
            spans += draw(st.lists(st.sampled_from(spans), max_size=2))
        for start, end, more in spans:
            part = payload[start * 8:total if end is None else end * 8]
            fault = "" if honest else draw(st.sampled_from([""] * 14 + ["lose", "conflict", "short", "odd", "long"]))
            if fault == "lose":
                continue
            if fault == "conflict":
                part = content(identity, start * 8, len(part), 0x40)
            if fault == "odd" and len(part) > 1:
                part = part[:-1]
            if fault == "long":
                part += b"12345678"
            captured = part[:-1] if fault == "short" else part
            found.append((version, identity, start * 8, more, len(part), captured))
    found = draw(st.permutations(found))
    result = []
    ends = (build.A[0], build.B[0]) if version == 4 else (build.A6[0], build.B6[0])
    for version, identity, offset, more, length, captured in found:
        now += round((0.001 if honest else draw(st.sampled_from([0.001] * 10 + [11.0, 31.0]))) * 1e9)
        result.append(defrag.Fragment(version, *ends, identity, build.UDP, now, offset, more, length, captured))
    return result
