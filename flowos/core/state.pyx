"""The owner of one core: allocated with its limits, freed with the last handle that needs it.

Connections, windows and units hold a reference to it, so their pointers stay valid; the
engine drives it.  It belongs to one engine; nothing in it is shared.
"""
import secrets

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.pythread cimport (
    PyThread_acquire_lock, PyThread_allocate_lock, PyThread_free_lock, PyThread_get_thread_ident, PyThread_release_lock,
    WAIT_LOCK)
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free

from flowos.core.core cimport *

from flowos.core.errors import LimitError, UsageError

POLICIES = {"first": 0, "last": 1, "linux": 2, "bsd": 3, "windows": 4}
TUNNELS = {"ipip": 1, "6in4": 2, "teredo": 4, "gre": 8, "vxlan": 16, "geneve": 32, "gtpu": 64}
SECOND = 1_000_000_000


def _nanoseconds(seconds):
    return int(seconds * SECOND)


cdef int _on_fragment(void *core, const fos_fragment *fragment, fos_datagram *out) noexcept nogil:
    if not fos_core_on_fragment(core, fragment, out):
        return 0
    if (<fos_core *>core).wants_datagrams:
        with gil:
            _tell_datagram(<fos_core *>core, out)
    return 1


cdef int _tell_datagram(fos_core *core, fos_datagram *out) noexcept:
    cdef Core owner
    owner = <Core>core.owner
    try:
        packet = PyBytes_FromStringAndSize(<char *>out.data + out.l3, out.len - out.l3)
        owner.on_datagram(packet, out.id)
    except BaseException as error:
        if owner.error is None or not isinstance(error, Exception):
            owner.error = error
    return 0


cdef class Core:
    """The state of one engine: tables, pools, counters.  Made by `Engine`; see core.h."""

    def __cinit__(self, config):
        cdef int i
        self.extra = {}
        self.wake_at = 0x7fffffffffffffff
        self.flow_names = (None,)
        self.c = <fos_core *>calloc(1, sizeof(fos_core))
        if self.c == NULL:
            raise LimitError("no memory for the state of an engine")
        cdef fos_core *c = self.c
        c.limits.max_connections = config.max_connections
        c.limits.reassembly_pieces = config.reassembly_pieces
        c.limits.reassembly_bytes = config.reassembly_bytes
        c.limits.reassembly_total = config.reassembly_total
        c.limits.gap_packets = config.gap_packets
        c.limits.gap_ns = _nanoseconds(config.gap_seconds)
        c.limits.pickup_pieces = config.pickup_pieces
        c.limits.pickup_bytes = config.pickup_bytes
        c.limits.pickup_ns = _nanoseconds(config.pickup_seconds)
        c.limits.keep_bytes = config.keep_bytes
        c.limits.icmp_timeout_ns = _nanoseconds(config.timeout_icmp)
        for i in range(FOS_STATE_COUNT):
            c.limits.timeout_ns[i] = _nanoseconds(config.timeout_tcp_opening)
        for i in (FOS_STATE_ESTABLISHED, FOS_STATE_MIDSTREAM):
            c.limits.timeout_ns[i] = _nanoseconds(config.timeout_tcp)
        for i in (FOS_STATE_CLOSING,):
            c.limits.timeout_ns[i] = _nanoseconds(config.timeout_tcp_closing)
        for i in (FOS_STATE_CLOSED, FOS_STATE_RESET):
            c.limits.timeout_ns[i] = _nanoseconds(config.timeout_tcp_closed)
        c.limits.timeout_ns[FOS_STATE_ACTIVE] = _nanoseconds(config.timeout_unanswered)
        c.limits.timeout_ns[FOS_STATE_ANSWERED] = _nanoseconds(config.timeout_answered)
        c.tcp_policy = POLICIES[config.tcp_policy]
        c.defrag.policy = POLICIES[config.ip_policy]
        c.defrag.max_datagrams = config.defrag_datagrams
        c.defrag.max_pieces = config.defrag_pieces
        c.defrag.max_bytes = config.defrag_bytes
        c.defrag.timeout_ns[0] = _nanoseconds(config.defrag_seconds_ipv4)
        c.defrag.timeout_ns[1] = _nanoseconds(config.defrag_seconds_ipv6)
        for name in config.tunnels:
            c.parser.tunnels |= <uint32_t>TUNNELS[name]
        seed = secrets.token_bytes(12 * 8)
        for i in range(12):
            word = int.from_bytes(seed[8 * i:8 * i + 8], "little")
            c.parser.hash_key.k[i] = word
            c.defrag.hash_key.k[i] = word
        if fos_core_init(c):
            raise LimitError(f"no address space for {config.max_connections} connections")
        c.owner = <void *>self
        c.parser.on_fragment = _on_fragment

    cdef int guard(self) except -1:
        """From now on threads of modules may ask for what the engine's thread changes without the GIL."""
        if self.quiet == NULL:
            self.quiet = PyThread_allocate_lock()
            if self.quiet == NULL:
                raise LimitError("no memory for a lock")
        self.thread = PyThread_get_thread_ident()
        self.guarded = True
        return 0

    cdef bint enter(self) noexcept:
        """Called on any thread, with the GIL: wait until the engine does nothing without the GIL, and keep it so.

        True: `leave` must follow, before the GIL is released.  False: there is nobody to wait for.
        Who waits does so without the GIL, and who has the lock waits for the GIL only: so nobody waits for ever.
        """
        if not self.guarded or PyThread_get_thread_ident() == self.thread:
            return False
        with nogil:
            PyThread_acquire_lock(self.quiet, WAIT_LOCK)
        return True

    cdef void leave(self) noexcept:
        PyThread_release_lock(self.quiet)

    def __dealloc__(self):
        if self.quiet != NULL:
            PyThread_free_lock(self.quiet)
        if self.c != NULL:
            fos_core_destroy(self.c)
            free(self.c)
            self.c = NULL

    def counters(self):
        """Give every counter with its value: {name: int}."""
        cdef int i
        values = {}
        for i in range(FOS_C_COUNT):
            values[fos_counter_names[i].decode()] = self.c.counters.v[i]
        values["connections_live"] = self.c.table.count
        values.update(self.extra)
        return values

    def _check(self):
        """Verify the invariants of tables, streams and pieces; AssertionError names the broken one."""
        cdef int broken = fos_core_check(self.c)
        assert not broken, f"core invariant {broken} is broken"


def descriptions():
    """Give every counter of the core with its one-line description: {name: text}."""
    cdef int i
    texts = {}
    for i in range(FOS_C_COUNT):
        texts[fos_counter_names[i].decode()] = fos_counter_texts[i].decode()
    texts["connections_live"] = "connections in the table now"
    return texts
