"""The example modules do what their docstrings say, wherever TCP cuts the stream."""
import doctest
from pathlib import Path

from flowos.registry import find_module
from flowos.testing import run

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
REQUEST = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def answer(body):
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def test_cards_are_masked_at_every_cut():
    mask = find_module(str(EXAMPLES / "mask_cards.py"))
    body = b"card 4111111111111111, not 4111111111111112, nor 1234, 5500005555555559"
    done = run(mask, a=REQUEST, b=answer(body), cuts=range(38, 38 + len(body), 3), reorder=2)
    assert done.b == answer(b"card ************1111, not 4111111111111112, nor 1234, ************5559")
    assert [record["masked"] for record in done.records] == [2]


def test_the_examples_docstrings():
    import sys

    mask = find_module(str(EXAMPLES / "mask_cards.py"))
    result = doctest.testmod(sys.modules[mask.__module__])
    assert result.attempted == 1 and result.failed == 0
