"""The base class of processing modules."""

RDONLY = "rdonly"
RDWR = "rdwr"


class Module:
    """Process the units of one protocol level of a flow: subclass it and override what you need.

    `protocol` is the level: "frame", "ip", "transport" (any), "tcp", "udp", "sctp", "icmp", or
    a decoder's, such as "http".  `scope` "connection" gives a window per direction of a
    connection; "flow" gives one window over all of them, whose `array()` is made for NumPy.
    Windows are valid for the call only; what a view was taken of stays valid.

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
