"""Mask payment card numbers in HTTP bodies: all digits but the last four become asterisks.

    flowos run in.pcap -w out.pcap --attach examples/mask_cards.py

The length does not change, so no message waits for its end.  A run of digits that touches the
window's end may go on in the next packet: it is kept back.
"""
import re

from flowos import RDWR, Module

RUN = re.compile(rb"[0-9]+")
LONGEST = 19                        # digits of a card number: ISO/IEC 7812


class MaskCards(Module):
    """Mask runs of 13 to 19 digits whose check digit is right; emit how many there were."""

    name = "mask_cards"
    protocol = "http.body"
    mode = RDWR

    def __init__(self, mask: bytes = b"*"):
        self.mask = mask[:1]
        self.masked = {}                   # connection -> numbers masked

    def process(self, window):
        data, keep = bytes(window.data), 0
        for run in RUN.finditer(data):
            if run.end() == len(data) and not window.complete:
                keep = min(len(run[0]), LONGEST + 1)       # longer runs are no card numbers, however they go on
            elif 13 <= len(run[0]) <= LONGEST and luhn(run[0]):
                number = window.connection.id
                self.masked[number] = self.masked.get(number, 0) + 1
                hidden = len(run[0]) - 4
                start = window.head + run.start()
                window.replace(start, start + hidden, self.mask * hidden)
        window.release(keep=keep)

    def closed(self, connection, reason):
        if connection.id in self.masked:
            self.emit({"connection": connection.id, "masked": self.masked.pop(connection.id)})


def luhn(digits):
    """Say whether the last digit checks the others (ISO/IEC 7812-1, annex B).

    >>> luhn(b"4111111111111111"), luhn(b"4111111111111112")
    (True, False)
    """
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = (digit - 48) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0
