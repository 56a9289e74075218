"""The C declarations of data units and of the sink that decoders emit into (unit.h)."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "unit.h" nogil:
    enum fos_unit_kind:
        FOS_UNIT_DATA
        FOS_UNIT_GAP
        FOS_UNIT_SYN
        FOS_UNIT_FIN
        FOS_UNIT_RST
        FOS_UNIT_DECODER

    enum fos_unit_flags:
        FOS_UNIT_SAME_DATAGRAM
        FOS_UNIT_REASSEMBLED
        FOS_UNIT_WAITED
        FOS_UNIT_CUT
        FOS_UNIT_COPIED
        FOS_UNIT_INCOMPLETE
        FOS_UNIT_OWNED

    ctypedef struct fos_unit:
        uint64_t off
        uint64_t len
        int64_t ts
        uint16_t kind
        uint16_t flags
        uint32_t wire
        uint32_t message
        const uint8_t *frame
        uint64_t packet
        uint16_t l3
        uint16_t l4
        uint32_t payload
        uint32_t captured
        uint64_t start
        uint64_t end
        const uint8_t *bytes
        int64_t value

    ctypedef struct fos_sink:
        int (*emit)(fos_sink *sink, const fos_unit *unit, const uint8_t *bytes, size_t n) noexcept nogil
