"""Searching segments, against bytes.find and against a set searched the slow way.

The texts are of few letters, so that they are full of near matches; they are cut everywhere.
That searching is linear shows in that the adversarial cases, quadratic for a naive search, end.
"""
import itertools
import pickle

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowos.core.errors import UsageError
from flowos.core.patterns import Patterns, find, partial


def cut(text, places):
    """Cut a text at places, which may be equal and out of order, into pieces."""
    places = sorted(min(place, len(text)) for place in places)
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)])]


def naive_matches(text, patterns, start=0):
    """Search a text for a set: the leftmost match, the longest there, then behind it."""
    while start < len(text):
        found = [(len(p), -i) for i, p in enumerate(patterns) if text.startswith(p, start)]
        if found:
            length, index = max(found)
            yield start, start + length, -index
            start += length
        else:
            start += 1


def naive_partial(text, patterns, start=0):
    """Try every suffix, the longest first."""
    for at in range(start, len(text)):
        if any(len(p) > len(text) - at and p.startswith(text[at:]) for p in patterns):
            return len(text) - at
    return 0


def words(letters, **sizes):
    return st.text(letters, **sizes).map(lambda word: word.encode("latin-1"))


TEXTS = st.one_of(words("ab", max_size=80), words("abc", max_size=200), st.binary(max_size=200),
                  st.builds(lambda word, n, end: word * n + end, words("ab", min_size=1, max_size=7),
                            st.integers(0, 40), words("abc", max_size=9)))
PATTERNS = st.one_of(words("ab", min_size=1, max_size=12), words("abc", min_size=1, max_size=6),
                     st.binary(min_size=1, max_size=3),
                     st.builds(lambda word, n, end: word * n + end, words("ab", min_size=1, max_size=5),
                               st.integers(1, 12), words("abc", max_size=3)))
CUTS = st.lists(st.integers(0, 300), max_size=40)
SETS = st.lists(PATTERNS, max_size=8)


# ------------------------------------------------------------------ one pattern

@given(TEXTS, PATTERNS, CUTS, st.integers(0, 250))
@example(b"ab" * 60 + b"b", b"ab" * 20 + b"b", [1, 2, 3, 7, 7, 90], 1)
def test_find_is_that_of_bytes(text, pattern, places, start):
    assert find(cut(text, places), pattern, start) == text.find(pattern, start)


@given(TEXTS, PATTERNS, CUTS, st.integers(0, 250))
def test_partial(text, pattern, places, start):
    assert partial(cut(text, places), pattern, start) == naive_partial(text, [pattern], start)


def test_every_cut_in_three():
    text, pattern = b"xaabaabaaabaabc", b"aabaabc"
    for places in itertools.combinations_with_replacement(range(len(text) + 1), 2):
        pieces = cut(text, places)
        assert find(pieces, pattern) == 8
        assert [find(pieces, pattern[:n]) for n in range(1, 8)] == [text.find(pattern[:n]) for n in range(1, 8)]
        assert partial(pieces[:-1], pattern) == naive_partial(text[:sorted(places)[1]], [pattern])


@pytest.mark.parametrize("length", range(1, 8))
def test_every_pattern_of_two_letters(length):
    texts = [bytes(t) for t in itertools.product(b"ab", repeat=9)] if length < 6 else \
        [bytes(t) * 3 for t in itertools.product(b"ab", repeat=6)]
    for letters in itertools.product(b"ab", repeat=length):
        pattern = bytes(letters)
        assert [find([t], pattern) for t in texts] == [t.find(pattern) for t in texts]
        assert [partial([t], pattern) for t in texts] == [naive_partial(t, [pattern]) for t in texts]


@given(words("ab", min_size=1, max_size=9), st.integers(200, 900), words("ab", max_size=9),
       st.integers(1, 400), st.integers(1, 70))
def test_find_where_comparing_fails_late(word, times, end, pattern_times, step):
    """Texts that make the first algorithm give way to the second, in small segments."""
    text, pattern = word * times + end, word * pattern_times + b"b" + end
    pieces = [text[i:i + step] for i in range(0, len(text), step)]
    assert find(pieces, pattern) == text.find(pattern)
    assert partial(pieces, pattern) == naive_partial(text, [pattern], max(0, len(text) - len(pattern) + 1))


@given(st.binary(min_size=1, max_size=40), st.integers(0, 700), st.integers(0, 50), st.integers(1, 99))
def test_find_in_a_long_text_at_any_alignment(pattern, before, after, step):
    text = bytes(range(1, 200)) * (before // 199 + 1)
    text = text[:before] + pattern + text[:after]
    assert find([text], pattern) == find([text[i:i + step] for i in range(0, len(text), step)], pattern) \
        == text.find(pattern)


def test_adversaries_end():
    """Quadratic for a naive search: 10^10 comparisons and more."""
    text = [b"a" * 1460] * 700
    for pattern, held in ((b"a" * 50_000 + b"b", 50_000), (b"b" + b"a" * 50_000, 0),
                          (b"a" * 25_000 + b"b" + b"a" * 25_000, 25_000), (b"ab" * 25_000 + b"b", 1)):
        assert find(text, pattern) == find([b"a"] * 100_000, pattern) == -1
        assert partial(text, pattern) == held
    assert find([b"ab" * 700] * 700, b"ab" * 25_000 + b"b") == -1
    assert find([*text, b"b"], b"a" * 50_000 + b"b") == 700 * 1460 - 50_000


def test_gaps_are_not_matched_across():
    assert find([b"xab", None, b"cd"], b"abcd") == -1
    assert find([b"xab", None, b"cd", b"ab", b"cd"], b"abcd") == 6
    assert find([b"ab", None, b"cd"], b"cd") == 3
    assert find([None, b"a" * 3000, None, b"a" * 4000 + b"b"], b"a" * 3500 + b"b") == 3502
    assert partial([b"ab", None, b"a"], b"aba") == 1
    assert partial([b"ab", None], b"aba") == 0
    one = Patterns([b"abcd", b"ab", b"d"])
    assert list(one.find_all([b"abc", None, b"d"])) == [(0, 2, 1), (4, 5, 2)]
    assert list(one.find_all([b"abc", None, b"d"], more=True)) == [(0, 2, 1), (4, 5, 2)]
    assert one.partial([b"abc", None]) == 0 and one.partial([b"ab", None, b"ab"]) == 2


# ------------------------------------------------------------------ many patterns

@given(TEXTS, SETS, CUTS)
@example(b"aaaaaaaaab", [b"a", b"aaaab"], [3])
@example(b"abcx abcd bcx", [b"abcd", b"bc", b"bcx"], [1, 2])
@example(b"xabcabcabd", [b"abc", b"abcabcabcd", b"b", b"cabd"], [4])
def test_patterns(text, patterns, places):
    assert list(Patterns(patterns).find_all(cut(text, places))) == list(naive_matches(text, patterns))


@given(TEXTS, SETS, CUTS, st.integers(0, 250))
def test_patterns_partial(text, patterns, places, start):
    assert Patterns(patterns).partial(cut(text, places), start) == naive_partial(text, patterns, start)


@given(TEXTS, SETS, CUTS)
def test_windows_cut_anywhere_give_the_same_matches(text, patterns, places):
    """What a module does with `find_many` and `partial`: matches do not depend on the cuts."""
    compiled, matches, held, at = Patterns(patterns), [], b"", 0
    for piece in cut(text, places):
        held += piece
        found = list(compiled.find_all([held], more=True))
        matches += [(at + start, at + end, index) for start, end, index in found]
        behind = found[-1][1] if found else 0
        keep = compiled.partial([held], behind)
        assert keep <= len(held) - behind
        at += len(held) - keep
        held = held[len(held) - keep:]
    matches += [(at + start, at + end, index) for start, end, index in compiled.find_all([held])]
    assert matches == list(naive_matches(text, patterns))


def test_every_set_of_short_patterns():
    """All sets of three patterns of up to three letters, on every text of seven."""
    short = [bytes(p) for n in (1, 2, 3) for p in itertools.product(b"ab", repeat=n)]
    text = b"".join(bytes(t) for t in itertools.product(b"ab", repeat=7))
    for patterns in itertools.combinations(short, 3):
        assert list(Patterns(patterns).find_all([text])) == list(naive_matches(text, patterns))


@given(st.integers(1, 300), st.integers(1, 6), st.integers(0, 2**32), st.integers(1, 200))
def test_large_sets(count, length, seed, step):
    """Sets too rich for the filter, and sets that use every byte there is."""
    def stream(n):
        nonlocal seed
        out = bytearray()
        while len(out) < n:
            seed = (seed * 6364136223846793005 + 1442695040888963407) % 2**64
            out.append(seed >> 56)
        return bytes(out)

    patterns = [stream(1 + seed % length) for _ in range(count)]
    if count > 200:
        patterns.append(bytes(range(256)))
    text = b"".join(stream(3) + patterns[i * 7 % len(patterns)] for i in range(60))
    pieces = [text[i:i + step] for i in range(0, len(text), step)]
    assert list(Patterns(patterns).find_all(pieces)) == list(naive_matches(text, patterns))
    assert Patterns(patterns).partial(pieces) == naive_partial(text, patterns)


def test_a_set_that_outgrows_the_table():
    """Nodes behind the dense rows: found by searching children and following links."""
    patterns = [b"%dpattern%d" % (i * 2654435761 % 2**32, i) for i in range(60_000)]
    patterns += [bytes(range(256)), b"pattern12"]
    compiled = Patterns(patterns)
    text = b"".join(patterns[i] + b"-" for i in range(0, 60_000, 7)) + b"xxpattern12pattern1"
    matches = list(compiled.find_all([text[i:i + 1000] for i in range(0, len(text), 1000)]))
    assert [index for _, _, index in matches] == [*range(0, 60_000, 7), 60_001]
    assert all(text[start:end] == patterns[index] for start, end, index in matches)
    assert compiled.partial([text]) == len(b"pattern1")


def test_sets_that_nest_end():
    """Each place could match for long before it fails: quadratic for a scan that begins again."""
    nest = Patterns([b"a", b"a" * 20_000 + b"b"])
    assert sum(1 for _ in nest.find_all([b"a" * 1460] * 150)) == 150 * 1460
    nest = Patterns([b"ab", b"ab" * 10_000 + b"b", b"ba" * 10_000])
    assert sum(1 for _ in nest.find_all([b"ab" * 100_000])) == 100_000


def test_equal_patterns_and_none():
    assert list(Patterns([b"b", b"ab", b"ab"]).find_all(b"cab")) == [(1, 3, 1)]
    assert list(Patterns([]).find_all(b"cab")) == [] and Patterns([]).partial(b"c") == 0
    assert len(Patterns([b"a", b"b"])) == 2 and Patterns(iter([b"a"])).patterns == (b"a",)
    assert list(Patterns([b"a"]).find_all([])) == [] and find([], b"a") == -1
    again = pickle.loads(pickle.dumps(Patterns([b"xy"])))
    assert list(again.find_all([b"x", b"y"])) == [(0, 2, 0)]


def test_what_is_no_pattern():
    for bad, words_of_it in (([b"a", b""], "empty"), (["a"], "str"), (b"abc", "iterable"), ("abc", "iterable"),
                             ([7], "int"), ([b"x" * (3 << 20), b"y" * (2 << 20)], "4194304")):
        with pytest.raises(UsageError, match=words_of_it):
            Patterns(bad)
    for call in (find, partial):
        with pytest.raises(UsageError, match="empty"):
            call([b"a"], b"")
        with pytest.raises(UsageError, match="str"):
            call([b"a"], "a")
