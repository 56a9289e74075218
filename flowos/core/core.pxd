"""The C declarations of the core: its state, connections, streams and journals (loop.h, core.h)."""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from flowos.core.lane cimport fos_blocks, fos_lane, fos_outlets
from flowos.core.ring cimport fos_ring
from flowos.core.unit cimport fos_sink, fos_unit


cdef extern from "loop.h" nogil:
    enum:
        FOS_STATE_COUNT
        FOS_C_COUNT
        FOS_C_decoder_errors
        FOS_C_module_errors
        FOS_C_windows_held
        FOS_C_windows_hold_limit
        FOS_C_edits
        FOS_C_edit_bytes_removed
        FOS_C_edit_bytes_inserted
        FOS_C_edits_refused
        FOS_C_bytes_copied
        FOS_MAX_JOURNALS
        FOS_CHUNK_UNITS
        FOS_CLASS_TCP
        FOS_CLASS_UDP
        FOS_CLASS_SCTP
        FOS_CLASS_ICMP
        FOS_CLASS_OTHER
        FOS_CLASS_ALL
        FOS_CONN_A_IS_HIGH
        FOS_CONN_READY
        FOS_CONN_CLOSED
        FOS_CONN_ANNOUNCED
        FOS_CONN_HALVES
        FOS_DEPTH_SHARED
        FOS_DEPTH_BYPASSED
        FOS_DEPTH_COUNT
        FOS_HALF_STARTED
        FOS_HALF_FROM_SYN
        FOS_HALF_FIN_DONE
        FOS_STATE_NEW
        FOS_STATE_SYN_SENT
        FOS_STATE_SYN_RECEIVED
        FOS_STATE_ESTABLISHED
        FOS_STATE_CLOSING
        FOS_STATE_CLOSED
        FOS_STATE_RESET
        FOS_STATE_MIDSTREAM
        FOS_STATE_ACTIVE
        FOS_STATE_ANSWERED
        FOS_PKT_BLOCK

    const char *const *fos_counter_names
    const char *const *fos_counter_texts

    ctypedef struct fos_key:
        uint64_t[4] w
        uint32_t ports
        uint8_t proto
        uint8_t ver
        uint16_t zone

    ctypedef struct fos_pkt:
        const uint8_t *frame
        int64_t ts
        uint64_t number
        uint32_t wire
        uint32_t captured
        fos_key key
        uint64_t vlans
        uint16_t l3
        uint16_t l4
        uint8_t depth
        uint8_t flags
        uint16_t iface
        uint16_t link

    ctypedef struct fos_counters:
        uint64_t *v

    ctypedef struct fos_hash_key:
        uint64_t *k

    ctypedef struct fos_fragment:
        const uint8_t *frame
        uint32_t l3
        uint32_t id
        uint8_t ver
        uint8_t proto

    ctypedef struct fos_datagram:
        const uint8_t *data
        uint32_t len
        uint32_t l3
        uint32_t id

    ctypedef struct fos_parser:
        fos_hash_key hash_key
        uint32_t tunnels
        int (*on_fragment)(void *defrag, const fos_fragment *fragment, fos_datagram *out) noexcept nogil

    ctypedef struct fos_defrag:
        fos_hash_key hash_key
        int stable
        int policy
        uint32_t max_datagrams
        uint32_t max_pieces
        uint64_t max_bytes
        int64_t *timeout_ns
        uint32_t count
        uint64_t bytes

    ctypedef struct fos_gap:
        uint64_t start
        uint64_t end

    ctypedef struct fos_ooo:
        fos_gap *gaps
        uint32_t gap_count

    ctypedef struct fos_chunk:
        fos_chunk *next
        uint64_t base
        fos_unit *units

    ctypedef struct fos_stream:
        fos_chunk *first
        fos_chunk *last
        fos_chunk *cursor
        uint64_t head_index
        uint64_t tail_index
        uint64_t head_off
        uint64_t tail_off

    ctypedef struct fos_half:
        uint64_t next
        uint64_t fin
        uint64_t acked
        fos_ooo *ooo
        fos_stream *stream
        uint16_t syn
        uint16_t fin_count
        uint16_t rst
        uint8_t flags

    ctypedef struct fos_conn:
        fos_key key
        int64_t last_ns
        uint8_t state
        uint8_t flags
        uint8_t depth
        uint8_t reason
        uint32_t flow
        uint32_t next_ready
        uint32_t generation
        uint64_t *packets
        uint64_t *bytes
        uint64_t *payload

    ctypedef struct fos_vlans:
        fos_vlans *next
        uint64_t vlans

    ctypedef struct fos_cold:
        uint64_t id
        int64_t first_ns
        uint64_t vlans
        fos_vlans *more_vlans
        void *handle
        void *decoding
        void *fields
        uint32_t icmp_errors
        uint32_t hash

    ctypedef struct fos_table:
        fos_conn *conns
        fos_cold *cold
        uint32_t used
        uint32_t count
        uint32_t limit

    ctypedef struct fos_row:
        uint64_t offset

    ctypedef struct fos_journal:
        fos_row *rows
        uint32_t count
        uint32_t capacity
        uint32_t classes

    ctypedef struct fos_plan_stage:
        uint64_t serial
        uint32_t flags
        int32_t order

    ctypedef struct fos_log:
        uint32_t count

    ctypedef struct fos_plan:
        uint32_t units
        uint32_t rows
        uint32_t events
        uint32_t packets
        uint32_t writes
        uint32_t stage_count
        fos_plan_stage *stage
        uint32_t journals
        fos_journal *journal

    ctypedef struct fos_limits:
        uint32_t max_connections
        uint32_t reassembly_pieces
        uint64_t reassembly_bytes
        uint64_t reassembly_total
        uint32_t gap_packets
        uint32_t pickup_pieces
        uint64_t pickup_bytes
        int64_t gap_ns
        int64_t pickup_ns
        int64_t *timeout_ns
        int64_t icmp_timeout_ns
        uint64_t keep_bytes

    ctypedef struct fos_list:
        uint32_t *items
        uint32_t count
        uint32_t capacity

    ctypedef struct fos_pool:
        uint64_t in_use

    ctypedef struct fos_core:
        fos_table table
        fos_parser parser
        fos_defrag defrag
        fos_counters counters
        fos_limits limits
        fos_plan *plans
        uint32_t plan_count
        uint32_t ready_first
        uint32_t ready_last
        uint32_t ready_count
        uint32_t rows_pending
        uint32_t units_pending
        fos_list opened
        fos_list closed
        fos_pool chunks
        fos_pool streams
        fos_pool pieces
        fos_pool fields
        fos_blocks blocks
        uint64_t waiting_bytes
        uint64_t packet_number
        int64_t now
        int64_t first_ns
        int64_t last_ns
        uint16_t *links
        uint32_t link_count
        int tcp_policy
        int stable
        int failed
        void *owner
        int packet_units
        int wants_datagrams
        uint32_t in_line
        uint32_t writes
        uint32_t live
        uint32_t iface_base
        int64_t tick_ns
        uint32_t lane_count
        int64_t keep_deadline
        fos_list merged
        fos_lane *all_lanes
        fos_log log
        fos_outlets outlets
        uint32_t (*classify)(void *classifier, const fos_pkt *p, uint32_t index) noexcept nogil
        void *classifier

    uint32_t fos_class_of(uint8_t proto)
    int fos_core_add_plan(fos_core *core)
    fos_half *fos_half_of(const fos_core *core, uint32_t index, int dir)
    int fos_core_init(fos_core *core)
    void fos_core_destroy(fos_core *core)
    void fos_expire(fos_core *core, int64_t now)
    void fos_core_end(fos_core *core)
    int fos_core_check(const fos_core *core)
    void fos_burst(fos_core *core, const fos_ring *ring, uint32_t start, uint32_t n)
    void fos_conn_free(fos_core *core, uint32_t index)
    void fos_make_ready(fos_core *core, uint32_t index, fos_conn *c)
    int fos_core_on_fragment(void *core, const fos_fragment *fragment, fos_datagram *out)
    fos_unit *fos_stream_append(fos_stream *s, fos_pool *chunks)
    fos_unit *fos_stream_unit(const fos_stream *s, uint64_t index)
    fos_unit *fos_stream_walk(const fos_stream *s, fos_chunk **chunk, uint64_t index)
    void fos_stream_free_to(fos_stream *s, uint64_t index, fos_pool *chunks)
    void fos_pool_init(fos_pool *pool, size_t item, fos_blocks *blocks)
    void fos_pool_destroy(fos_pool *pool)
    void *fos_pool_take(fos_pool *pool)
    void fos_pool_give(fos_pool *pool, void *item)
    void fos_block_keep(const uint8_t *frame)
    void fos_block_drop(fos_blocks *cache, const uint8_t *frame)

    ctypedef struct fos_block:
        uint32_t size
        uint32_t fragments
        uint8_t *data

    ctypedef struct fos_origin_fragment:
        uint64_t packet
        uint32_t offset
        uint32_t len

    fos_block *fos_block_of(const uint8_t *frame)
    size_t fos_fragments_at(uint32_t size)

    fos_block *fos_block_new(fos_blocks *cache, size_t size)

cdef extern from "fate.h" nogil:
    int fos_fate_drop(fos_core *core, uint32_t index, int reset)

cdef extern from "translate.h" nogil:
    ctypedef struct fos_end:
        uint8_t addr[16]
        uint16_t port

    int fos_translate_set(fos_core *core, uint32_t index, const fos_end *a2, const fos_end *b2)
