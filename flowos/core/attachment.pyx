"""A module at work on a flow: D3.2's Thread (section 4.3.2.7).

It holds what the engine must know to call the module, the state that the system keeps for it, and
what it did so far.  Written by the engine loop alone.
"""


cdef class Attachment:
    """A module at work on a flow; made by `Engine.attach`, taken off by `Engine.detach`.

    `counters` says what it did, `errors` what it raised last (tracebacks, 16 at most).
    """

    def __init__(self):
        raise TypeError("attachments are made by Engine.attach")

    def state_at(self, index):
        """Give the module's state of the connection of this record; it is made at the first call."""
        state = self.states.get(index)
        if state is None:
            state = self.states[index] = self.make_state()
        return state

    @property
    def shared(self):
        """Give the state that the module has once: what its `shared` makes, a dict by default."""
        if self.common is None:
            self.common = self.make_shared()
        return self.common

    def group(self, key):
        """Give the state that belongs to a key: what the module's `group` makes, a dict by default."""
        state = self.groups.get(key)
        if state is None:
            state = self.groups[key] = self.make_group()
        return state

    def _states(self):
        """All state there is, by kind: [(key, state), …]."""
        return {"state": list(self.states.items()), "group": list(self.groups.items()),
                "shared": [] if self.common is None else [(None, self.common)]}

    @property
    def name(self):
        """Give the module's name, or that of its class."""
        return self.module.name or type(self.module).__name__

    @property
    def counters(self):
        """Count what it did: {name: int}, bytes as the module saw them, ns of processing time."""
        return {"windows": self.windows, "units": self.units, "bytes": self.bytes, "edits": self.edits,
                "bytes_removed": self.removed, "bytes_inserted": self.inserted, "held_released": self.held,
                "errors": self.failures, "ns": self.ns}

    def __repr__(self):
        return f"<Attachment {self.name} at {self.protocol}, order {self.order}>"
