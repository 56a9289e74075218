"""The port on a network interface through AF_XDP sockets."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from flowos.core.arena cimport Arena, fos_arena
from flowos.core.port cimport Port
from flowos.core.ring cimport fos_ring


cdef extern from "xdpprogram.h" nogil:
    enum:
        FOS_XDP_QUEUES

    ctypedef struct fos_xdp_program:
        int map, link

    int fos_xdp_attach(fos_xdp_program *program, int ifindex, uint32_t flags)
    int fos_xdp_join(fos_xdp_program *program, uint32_t program_id)
    int fos_xdp_lead(const fos_xdp_program *program, uint32_t queue, int socket)
    void fos_xdp_detach(fos_xdp_program *program)


cdef extern from "xsk.h" nogil:
    enum:
        FOS_XDP_HEADROOM
        FOS_AF_XDP

    ctypedef struct fos_counters:
        pass

    ctypedef struct fos_parser:
        fos_counters *counters
        uint32_t tunnels

    ctypedef struct fos_xsk:
        int fd
        uint32_t queue

    ctypedef struct fos_xdp_io:
        fos_xsk *queues
        uint32_t count
        uint32_t quota
        fos_arena *arena
        uint8_t *lent
        uint32_t *spare
        uint32_t spares
        fos_parser parser
        fos_counters unused
        uint32_t released, sent, longest
        int zero_copy
        int gone
        uint64_t received, completed, strange
        uint64_t transmitted, refused_long, refused_short, refused_full, refused_down

    void fos_xsk_close(fos_xsk *socket)
    int fos_xsk_register(const fos_xsk *socket, const fos_arena *arena)
    int fos_xsk_rings(fos_xsk *socket, uint32_t n)
    int fos_xsk_bind(const fos_xsk *socket, int ifindex, uint32_t flags, int shared)
    bint fos_xsk_is_zero_copy(const fos_xsk *socket)
    void fos_xsk_count(const fos_xsk *socket, uint64_t *counters)
    uint32_t fos_xdp_receive(fos_xdp_io *io, fos_ring *rx)
    void fos_xdp_begin(fos_xdp_io *io, fos_ring *tx)
    uint32_t fos_xdp_send(fos_xdp_io *io, fos_ring *tx)


cdef class XdpPort(Port):
    cdef fos_xdp_io *io
    cdef fos_xdp_program program
    cdef readonly Arena arena
    cdef readonly str interface
    cdef readonly object queue      # the one that this port is bound to, or None: all
    cdef readonly str mode          # "driver", "generic", or "joined" where another port of ours attached the program
    cdef int index
    cdef bint begun                 # the spare buffers are out of the TX slots
    cdef object wait                # the epoll object of several queues
    cdef list sharing               # descriptors of the open sockets on one UMEM
    cdef dict kernel                # the kernel's counters at the end

    cdef int open_queue(self, fos_xsk *sock, zero_copy) except -1
    cdef int let_go(self) except -1
    cdef void give_back(self) noexcept
