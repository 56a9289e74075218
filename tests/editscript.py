"""Edit scripts: what is to become of a stream, as data, and two independent ways to carry it out.

`edited` applies a script to the whole stream at once: three lines of Python, the truth.  `Scripted`
is a module that carries out one script per direction window by window, as real modules must.
Positions are those of the original stream; scripts are sorted and their edits do not overlap.
"""
import random
from typing import NamedTuple

from flowos import RDWR, Module


class Edit(NamedTuple):
    """Replace `removed` bytes at `position` by `inserted`, which stands in front of the byte there.

    `eager`: what is inserted at the end of a window goes at once, not with the byte that follows.
    """

    position: int
    removed: int = 0
    inserted: bytes = b""
    eager: bool = False


def edited(data, script):
    """Give what a stream becomes: the model."""
    pieces, at = [], 0
    for edit in script:
        pieces += data[at:edit.position], edit.inserted
        at = edit.position + edit.removed
    return b"".join([*pieces, data[at:]])


def random_script(seed, size, count, longest=3000):
    """Give `count` edits at random places of a stream of `size` bytes: deletions, insertions, replacements."""
    rng = random.Random(seed)
    places = sorted(rng.sample(range(size + 1), min(count, size + 1)))
    script = []
    for place, following in zip(places, [*places[1:], size]):
        room = following - place
        longest_here = min(room, longest if rng.random() < 0.2 else 40)
        removed = rng.choice([0, longest_here, rng.randint(0, longest_here)])
        inserted = rng.randbytes(rng.choice([0, 1, rng.randint(1, 40), rng.randint(1, longest)]))
        if removed or inserted:
            script.append(Edit(place, removed, inserted))
    return script


class Scripted(Module):
    """Carry out a script in each direction: `scripts[0]` from the connection's first end to its second.

    With a `seed`, windows are released in random pieces, up to `hold_most` bytes being held back until
    more comes; what is held is not edited yet.  `until(direction, window)`, where given, holds a
    direction whole as long as it says so.
    """

    name, protocol, mode, hold, hold_bytes = "scripted", "tcp", RDWR, 600.0, 64 << 20

    def __init__(self, forth=(), back=(), seed=None, hold_most=2000, until=None):
        self.scripts = [list(forth), list(back)]
        self.next = [0, 0]                    # the first edit not yet carried out in full, by direction
        self.random = None if seed is None else random.Random(seed)
        self.hold_most = hold_most
        self.until = until

    def process(self, window):
        head, tail = window.head, window.tail
        if self.until is not None and not window.complete and self.until(window.direction, window):
            window.release(upto=head)
            return
        upto = tail
        if self.random is not None and not window.complete and self.random.random() < 0.5:
            upto = self.random.randint(max(head, tail - self.hold_most), tail)
        self.carry_out(window, head, upto, ends=upto == tail and window.complete)
        if upto < tail:
            window.release(upto=upto)

    def carry_out(self, window, head, upto, ends):
        """Edit [head, upto) as the script says; an edit across its end is begun here and goes on in the next window."""
        script, at = self.scripts[window.direction], self.next[window.direction]
        while at < len(script):
            edit = script[at]
            end = edit.position + edit.removed
            begins_here = head <= edit.position < upto
            if edit.position == upto and not edit.removed and (ends or edit.eager and upto == window.tail > head):
                begins_here = True
            if edit.position > upto or edit.position == upto and not begins_here:
                break
            first, last = max(head, edit.position), min(end, upto)
            if begins_here and edit.inserted and last > first:
                window.replace(first, last, edit.inserted)
            elif begins_here and edit.inserted:
                window.insert(edit.position, edit.inserted)
            elif last > first:
                window.delete(first, last)
            if end > upto:
                break
            at += 1
        self.next[window.direction] = at
