"""The errors that FlowOS raises, in two families.

`UsageError` and its kin say that the caller broke a rule; they are raised at once and name
the object, what came and what was expected.  What the wire does wrong never raises on the data
path: it is counted under a named reason (`Engine.statistics`).
"""


class FlowOSError(Exception):
    """Base of every error that FlowOS raises."""


class UsageError(FlowOSError, ValueError):
    """A rule of the library was broken by its caller: a bad argument, match or order of calls."""


class StaleError(FlowOSError, RuntimeError):
    """A handle (`Window`, `DataUnit`, `Pointer`) was used after its data was released."""


class CaptureError(FlowOSError, OSError):
    """An input cannot be read as a capture: the message names file, offset and what was expected."""


class LimitError(FlowOSError, MemoryError):
    """Memory ran out inside the core; what was delivered before stays valid."""


class DecoderError(FlowOSError, RuntimeError):
    """A decoder is registered wrongly or failed; the message names it."""
