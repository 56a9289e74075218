"""The base class of processing modules."""

RDONLY = "rdonly"
RDWR = "rdwr"


class Module:
    """Process the units of one protocol level of a flow: subclass it and override what you need.

    `protocol` is the level: "frame", "ip", "transport" (any), "tcp", "udp", "sctp", "icmp", or
    a decoder's, such as "http".  `scope` "connection" gives a window per direction of a
    connection; "flow" gives one window over all of them, whose `array()` is made for NumPy.
    Windows are valid for the call only; what a view was taken of stays valid.  A kind of a
    decoder's units is a level of its own: "http.body".  With `mode` RDWR, `process` edits the bytes
    (`window.delete`, `replace`, `insert`) and what leaves is valid again.

    >>> class Count(Module):
    ...     protocol = "tcp"
    ...     total = 0
    ...     def process(self, window):
    ...         self.total += window.length
    """

    name = ""
    protocol = "tcp"
    mode = RDONLY
    scope = "connection"
    #: Edits change the length of framed messages: heads wait for their bodies (HTTP's Content-Length).
    resizes = False
    #: Seconds of capture time that a window may be held; then the system releases it unchanged.
    hold = 1.0
    #: ... and how many bytes of one window.
    hold_bytes = 1 << 20
    #: Seconds of wall time that one call may take, or None.  A call in the engine's loop that took longer was the
    #: last: the module is detached.  On a thread of its own its windows pass unchanged, and are stale for it.
    time_limit = None
    #: What becomes of a window when `process` raises: "open", it is released unchanged; "close", dropped with its connection.
    fail = "open"
    #: Names of modules that this one must follow, even where neither edits.
    depends = ()
    #: Makes the state of a connection that `window.state` shows: a class or function without arguments; None: a dict.
    state = None
    #: Make the state that the module has once per attachment (`window.shared`), and by key (`window.group(key)`).
    shared = group = None
    #: Tells apart what changed code makes of saved state.
    state_version = 1

    _sink = None

    def emit(self, record):
        """Send a record, a dict, to the run's sinks (`Engine.sink`); without one it goes nowhere."""
        if self._sink is not None:
            self._sink.write(record)

    def start(self, flow):
        """Hear that the module was attached to a flow (None: to all traffic)."""

    def opened(self, connection):
        """Hear of a new connection, before its first window."""

    def process(self, window):
        """Process one window: new units of one direction of one connection, or of a flow."""

    #: A method `process_batch(windows)`: when defined it is called instead, with a list of windows.
    process_batch = None

    def closed(self, connection, reason):
        """Hear that a connection ended: "fin", "rst", "timeout", "evicted", "reused" or "end"."""

    def tick(self, now):
        """Hear that capture time reached `now`, a full second in ns since the epoch.

        What came before was delivered; where a capture is silent for longer there is one call.
        """

    def stop(self):
        """Hear that the module was detached or the engine closed."""


#: The methods of the base class: an attachment does not call what is not overridden.
Module._defaults = {name: vars(Module)[name] for name in ("opened", "process", "closed", "tick")}
