"""Policies, limits and time-outs of an engine: one immutable record, every value with its unit."""
from dataclasses import dataclass, fields

from flowos.core.errors import UsageError

POLICIES = ("first", "last", "linux", "bsd", "windows")
OVERLOAD = ("drop", "wait")
#: Seconds that no capture lasts, yet few enough that a deadline fits 64 bits of nanoseconds: 73 years.
NEVER = 2.3e9

TUNNELS = ("ipip", "6in4", "teredo", "gre", "vxlan", "geneve", "gtpu")


@dataclass(frozen=True, slots=True)
class Config:
    """Hold what an engine is run with; wrong values raise `UsageError` and name the field.

    Everything that grows has a limit here; docs/reassembly.md says what happens at each.

    >>> Config(tcp_policy="linux").tcp_policy
    'linux'
    >>> Config(max_connections=0)
    Traceback (most recent call last):
        ...
    flowos.core.errors.UsageError: Config.max_connections is 0, expected 1 to 2300000000
    """

    tcp_policy: str = "first"               # who wins overlapping TCP segments that wait
    ip_policy: str = "first"                # who wins overlapping IPv4 fragments
    tunnels: frozenset = frozenset(TUNNELS)  # which tunnels are followed
    detect: bool = False                    # look for every decoder's protocol, even if no module wants it
    isolate: bool = False                   # keep a module's exception and go on, instead of raising it
    measure: bool = False                   # time what modules do: an attachment's counters["ns"]

    max_connections: int = 1 << 20
    timeout_tcp: float = 432_000.0          # seconds idle: established, or picked up in mid-stream (RFC 5382: > 2 h 4 min)
    timeout_tcp_opening: float = 600.0      # ... before the handshake is over
    timeout_tcp_closing: float = 7_440.0    # ... after the first FIN (RFC 9293 keeps half-closed connections)
    timeout_tcp_closed: float = 600.0       # ... after both FINs or a RST: late packets still belong to it
    timeout_unanswered: float = 3_600.0     # UDP and others, one direction only
    timeout_answered: float = 3_600.0       # ... both directions seen
    timeout_icmp: float = 3_600.0

    reassembly_bytes: int = 8 << 20         # waiting for earlier bytes, per direction: more than Linux's largest buffer (6 MiB)
    reassembly_pieces: int = 4096           # ... in so many pieces: the walk over them is what one segment may cost
    reassembly_total: int = 256 << 20       # ... over all connections
    gap_packets: int = 32                   # packets of patience with a hole that the receiver acknowledged
    gap_seconds: float = 120.0              # ... with any hole: retransmission timers back off to 64 s and beyond
    pickup_pieces: int = 16                 # patience with the first bytes of a stream picked up midway
    pickup_bytes: int = 64 << 10
    pickup_seconds: float = 1.0

    overload: str = "drop"                  # connected ports, no room on a way out: drop what comes, or take nothing in
    busy: bool = False                      # connected ports: ask again and again instead of sleeping until something comes
    keep_bytes: int = 2 << 20               # in line, per direction of an edited connection: held, queued, not acknowledged

    defrag_datagrams: int = 8192            # under defragmentation at once
    defrag_pieces: int = 8192               # fragments that may arrive for one datagram: 65,535 bytes in pieces of 8
    defrag_bytes: int = 64 << 20
    defrag_seconds_ipv4: float = 30.0
    defrag_seconds_ipv6: float = 60.0       # RFC 8200 section 4.5

    batch: int = 256                        # packets taken from the ring at once
    deliver_units: int = 1024               # units that may wait before modules are called
    deliver_rows: int = 16_384              # rows that may wait before modules of scope "flow" are called

    @classmethod
    def offline(cls, **values):
        """Make a Config for capture files: connections do not expire by time, only by the limit.

        A capture may hold pauses of years between packets of one conversation, and memory is
        bounded by `max_connections` all the same.  `values` set further fields.
        """
        never = {field.name: NEVER for field in fields(cls) if field.name.startswith("timeout_")}
        return cls(**{**never, **values})

    def __post_init__(self):
        for field in fields(self):
            self._check_field(field.name, getattr(self, field.name))

    def _check_field(self, name, value):
        if name in ("tcp_policy", "ip_policy"):
            if value not in POLICIES:
                raise UsageError(f"Config.{name} is {value!r}, expected one of {', '.join(POLICIES)}")
        elif name == "overload":
            if value not in OVERLOAD:
                raise UsageError(f"Config.{name} is {value!r}, expected one of {', '.join(OVERLOAD)}")
        elif name == "tunnels":
            object.__setattr__(self, name, frozenset(value))
            for tunnel in self.tunnels:
                if tunnel not in TUNNELS:
                    raise UsageError(f"Config.tunnels has {tunnel!r}, expected some of {', '.join(TUNNELS)}")
        elif isinstance(value, bool):
            return
        elif not isinstance(value, (int, float)):
            raise UsageError(f"Config.{name} is {value!r}, expected a number")
        else:
            most = NEVER
            least = 1 if name not in ("gap_packets",) and not name.startswith(("timeout", "gap", "pickup_s")) else 0
            if not least <= value <= most:
                raise UsageError(f"Config.{name} is {value}, expected {least} to {most:.0f}")
