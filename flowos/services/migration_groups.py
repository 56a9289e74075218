"""Groups: states that must not be separated, and what of them travels.

Linked connections (an FTP control connection and its data connections, all mappings of one
external address of a NAT) form one group; a connection that is linked to none is a group of its
own.  A group is at one machine: it is frozen, copied and owned as a whole, and a connection that
it *expects* (the data connection that was announced) is made where the group is, also when that
machine makes no other states any more.
"""
from typing import NamedTuple

# What a machine has of a group, and what happens to its packets there.
RESIDENT = "resident"           # its own: packets change it
FROZEN = "frozen"               # its own, and a copy is under way: packets wait
GIVEN = "given"                 # the peer's; kept, with a log of packets, until the peer confirms
STAGED = "staged"               # the peer's; a copy without effect
REGAINED = "regained"           # its own again, when the peer has forgotten it: packets wait


class Member:
    """The state of one connection: a value, its idle timer's deadline (seconds), and its unit, or None."""

    __slots__ = ("state", "deadline", "unit")

    def __init__(self, state, deadline, unit):
        self.state, self.deadline, self.unit = state, deadline, unit


class Group:
    """One group at one machine: members by connection, expected connections, and packets that wait.

    It has no name: whoever began it may have ended, and begun again at the other machine.

    `relaxed` says that all that can happen to its states is to expire, and that their timers may
    begin anew: such a group is copied while it goes on.  `batch` is the one it travels in.
    """

    __slots__ = ("status", "members", "expected", "relaxed", "batch", "buffer")

    def __init__(self, status=RESIDENT, relaxed=False):
        self.status, self.relaxed = status, relaxed
        self.members, self.expected, self.batch, self.buffer = {}, set(), None, []

    @property
    def units(self):
        """The shared units that its members hold."""
        return {member.unit for member in self.members.values() if member.unit is not None}

    def snapshot(self, now, timeout):
        """Give the group's Copy.  Timers travel as what is left of them: clocks differ."""
        return Copy(self.relaxed, tuple(
            (connection, member.state, timeout if self.relaxed else member.deadline - now, member.unit)
            for connection, member in self.members.items()), tuple(sorted(self.expected)))


class Copy(NamedTuple):
    """A group on the wire; each member is (connection, state, seconds left of its idle timer, unit)."""

    relaxed: bool
    members: tuple
    expected: tuple

    def revive(self, now, status, batch=None):
        """Make the group at the other end."""
        group = Group(status, self.relaxed)
        group.members = {connection: Member(state, now + left, unit) for connection, state, left, unit in self.members}
        group.expected, group.batch = set(self.expected), batch
        return group


def pick(groups, size):
    """Choose the groups of a batch of at most `size` states; at least one, if there is one.

    `groups` are (group, states) with the oldest first.  Old ones go first because with a heavy tail
    those that have lasted longest will last longest, while young ones may still end by themselves.
    A group larger than a batch goes alone.  O(groups chosen).

    >>> pick([("a", 2), ("b", 1), ("c", 1)], 3)
    ['a', 'b']
    >>> pick([("a", 9), ("b", 1)], 3)
    ['a']
    """
    chosen, total = [], 0
    for group, states in groups:
        if chosen and total + states > size:
            break
        chosen.append(group)
        total += states
        if total >= size:
            break
    return chosen
