"""State that a module declares and the system owns: carried over to changed code, and turned into plain data.

    class Watch(Module):
        state = Counters                  # a dataclass, or dict: one per connection, window.state
        shared = Pool                     # one per attachment, window.shared
        group = Address                   # one per key, window.group(key): states that belong together
        state_version = 2

A module whose code changed goes on with the state of the old one (`Engine.reload`): fields of equal name
and type are kept, new ones have their defaults, and for the rest there is the module's
`migrate_state(kind, old)`.  Plain data is what a file or another machine takes: dicts, lists, texts, bytes, numbers.
"""
import collections
import dataclasses

from flowos.core.errors import UsageError

PLAIN = (type(None), bool, int, float, str, bytes)
#: The kinds of state, as modules declare them and `migrate_state` is told.
KINDS = ("state", "shared", "group")


def fields_of(state):
    """Give a state's fields by name: of a dict its items, of a dataclass what it declares."""
    if isinstance(state, dict):
        return dict(state)
    if dataclasses.is_dataclass(state):
        return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    raise UsageError(f"a state is a dict or a dataclass, not a {type(state).__name__}")


def carry(kind, old, make, migrate=None):
    """Make the state that changed code goes on with, from the old one.

    `make()` gives a new state with its defaults.  A field is kept when both have it and the values are of
    one type, or the new default is None.  Fields that only the old one has, or of another type, are
    `migrate(kind, old)`'s, which gives the whole new state; without it they are dropped.

    >>> carry("state", {"seen": 3, "gone": 1}, lambda: {"seen": 0, "new": []})
    {'seen': 3, 'new': []}
    """
    new = make()
    if isinstance(new, dict) and not new and isinstance(old, dict):
        return old                            # a dict that declares nothing takes all
    if not (isinstance(new, dict) or dataclasses.is_dataclass(new)) or not (isinstance(old, dict) or dataclasses.is_dataclass(old)):
        if type(new) is type(old):
            return old
        if migrate is None:
            raise UsageError(f"{kind}: a {type(old).__name__} cannot go on as a {type(new).__name__}: the module needs migrate_state")
        return migrate(kind, old)
    had, has = fields_of(old), fields_of(new)
    kept = {name: had[name] for name in has if name in had and (type(had[name]) is type(has[name]) or has[name] is None)}
    if len(kept) < len(had) and migrate is not None:
        return migrate(kind, old)
    if isinstance(new, dict):
        new.update(kept)
        return new
    for name, value in kept.items():
        setattr(new, name, value)
    return new


def plain(value, where="state", above=()):
    """Turn a state into plain data.  UsageError names the part that is none, or that holds itself.

    >>> plain({"hosts": {("10.0.0.1", 80)}, "n": 1})
    {'hosts': [['10.0.0.1', 80]], 'n': 1}
    """
    if isinstance(value, PLAIN):
        return value
    if any(value is other for other in above):
        raise UsageError(f"{where}: a {type(value).__name__} that holds itself is no plain data")
    above = (*above, value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: plain(part, f"{where}.{name}", above) for name, part in fields_of(value).items()}
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: plain(part, f"{where}[{key!r}]", above) for key, part in value.items()}
        return [[plain(key, where, above), plain(part, f"{where}[{key!r}]", above)] for key, part in value.items()]
    if isinstance(value, (list, tuple, collections.deque)):
        return [plain(part, f"{where}[{i}]", above) for i, part in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return [plain(part, where, above) for part in in_order(value)]
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    raise UsageError(f"{where}: a {type(value).__name__} is no plain data")


def in_order(values):
    """Sort what a set holds, so that equal sets are saved alike; what has no order goes by its text."""
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=repr)
