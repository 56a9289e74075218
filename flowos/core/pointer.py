"""Stream pointers: one byte in a stream, mapped up and down between levels (D3.2 section 4.3.2.8).

    http    |   head   |  body ...        start, end: offsets in the transport stream
    tcp        |  segment  | segment |    offset: in the stream;  frame_offset: in the frame
    ip      [h|  payload  ]
    frame   [link|ip h|tcp h| payload]

The levels frame, ip and transport are views of one record, so mapping between them keeps the
byte's place in the frame; to and from a decoder's level it goes by the transport stream's
offsets.  A byte that has no counterpart (a header's, seen from above) maps to a null pointer.
"""
from flowos.core.errors import UsageError

_LOW = ("frame", "ip")


class Pointer:
    """Point at one byte of a data unit's payload; `Pointer()` is the null pointer.

    Pointers are immutable; they hold as long as their unit does, then raise `StaleError`.

    >>> Pointer().is_null
    True
    >>> Pointer() + 1 == Pointer()
    True
    """

    __slots__ = ("unit", "at")

    def __init__(self, unit=None, at=0):
        if unit is not None and not 0 <= at <= max(0, len(unit.data) - 1):
            raise UsageError(f"byte {at} of {unit!r}: it has {len(unit.data)} bytes of payload")
        object.__setattr__(self, "unit", unit)
        object.__setattr__(self, "at", at if unit is not None else 0)

    def __setattr__(self, name, value):
        raise AttributeError("a Pointer does not change: adding to it makes another")

    @property
    def is_null(self):
        """Say whether this points nowhere (IsNull)."""
        return self.unit is None

    @property
    def byte(self):
        """Give the byte pointed at, 0 to 255; None for the null pointer and an empty unit."""
        return None if self.unit is None or not len(self.unit.data) else self.unit.data[self.at]

    @property
    def offset(self):
        """Give the offset in the stream of the pointer's level, or None."""
        return None if self.unit is None else self.unit.offset + self.at

    def __eq__(self, other):
        if not isinstance(other, Pointer):
            return NotImplemented
        return self.unit == other.unit and self.at == other.at

    def __hash__(self):
        return hash((self.unit, self.at))

    def __add__(self, n):
        """Move right by n bytes (IncPointer), across units; null beyond the last one held."""
        if n < 0:
            raise UsageError(f"a pointer moves right only, not by {n}")
        unit, at = self.unit, self.at
        while unit is not None:
            size = len(unit.data)
            if at + n < size:
                return Pointer(unit, at + n)
            n -= size - at
            unit, at = unit.next, 0
        return Pointer()

    def next_unit(self):
        """Move to the first byte of the next unit (MovePointerNext); null when there is none."""
        unit = self.unit.next if self.unit is not None else None
        return Pointer(unit) if unit is not None else Pointer()

    def up(self):
        """Map to the next higher level (MovePointerUp); null where the byte has no counterpart."""
        if self.unit is None:
            return self
        if self.unit.lower is not None:
            return Pointer()
        for parent in self.unit.parents:
            if parent is None:
                continue
            if parent.lower is not None:
                start, end = parent.lower
                where = self.offset - start
                if 0 <= where < end - start and len(parent.data) == end - start:
                    return Pointer(parent, where)
            elif parent.frame_offset is not None:
                where = self.unit.frame_offset + self.at - parent.frame_offset
                if 0 <= where < len(parent.data):
                    return Pointer(parent, where)
        return Pointer()

    def down(self):
        """Map to the next lower level (MovePointerDown); null below the frame and in gaps."""
        if self.unit is None:
            return self
        for child in self.unit.children:
            if self.unit.lower is not None:
                if len(self.unit.data) != self.unit.lower[1] - self.unit.lower[0]:
                    return Pointer()
                where = self.unit.lower[0] + self.at - child.offset
            elif child.frame_offset is None:
                continue
            else:
                where = self.unit.frame_offset + self.at - child.frame_offset
            if 0 <= where < len(child.data):
                return Pointer(child, where)
        return Pointer()

    def map_up(self, protocol):
        """Map to a higher level by its protocol (MapPointerUp); null where there is no counterpart."""
        return self._walk(protocol, Pointer.up)

    def map_down(self, protocol):
        """Map to a lower level by its protocol (MapPointerDown); null where there is no counterpart."""
        return self._walk(protocol, Pointer.down)

    def map_to(self, protocol):
        """Map to the level of this protocol, wherever it lies (MapPointer)."""
        if self.unit is None or self.unit.level == protocol:
            return self
        mapped = self.map_down(protocol)
        return self.map_up(protocol) if mapped.is_null else mapped

    def _walk(self, protocol, move):
        pointer = self
        while pointer.unit is not None and pointer.unit.level != protocol:
            pointer = move(pointer)
        return pointer

    def __repr__(self):
        return "<Pointer null>" if self.unit is None else f"<Pointer {self.unit.level} {self.offset}>"
