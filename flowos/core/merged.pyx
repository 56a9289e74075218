"""Several ports merged by time into one ring.

    port 0:  held by who uses the merged ring | next --+
    port 1:  held ............................| next --+-- heap of next packets --> merged ring
    port 2:  ..                                        |

What is live is not waited for: its packets are merged as they come.  Slots are copied, frames are not: unless frames stay anyway, a port's slot is kept until the
merged one is released.  `iface` becomes the number of the port.  Packets of one port keep their
order, even where its times go backwards; among equal times the port named first comes first.
"""
from libc.stdint cimport int64_t, uint16_t, uint32_t
from libc.stdlib cimport calloc, free

from flowos.core.port cimport Port
from flowos.core.ring cimport fos_ring, fos_ring_slot, fos_slot
from flowos.core.errors import UsageError

__all__ = ["MergedPort"]


cdef class MergedPort(Port):
    """Merge the packets of several ports by time.

    The ports belong to this one from now on; it closes them.  rxsync waits for as long as the
    slowest of them does.  Counters are the ports' sums.  Complexity: O(log ports) per packet.
    UsageError: no ports, or more than 65,536.
    """

    def __cinit__(self, ports, slots=256, name=None):
        cdef Port port
        cdef uint32_t number
        self.ports = tuple(ports)
        self.count = len(self.ports)
        if not 1 <= self.count <= 1 << 16:
            raise UsageError(f"merging {self.count} ports; expected 1 to 65536")
        self.name = name or "+".join(other.name for other in self.ports)
        self.make_ring(&self.rx, slots)
        self.sources = <void **> calloc(self.count, sizeof(void *))
        self.rings = <fos_ring **> calloc(self.count, sizeof(fos_ring *))
        self.heap = <uint32_t *> calloc(self.count, sizeof(uint32_t))
        self.lacking = <uint32_t *> calloc(self.count, sizeof(uint32_t))
        self.origin = <uint16_t *> calloc(self.rx.size, sizeof(uint16_t))
        if not (self.sources and self.rings and self.heap and self.lacking and self.origin):
            raise MemoryError(f"{self.name}: no memory for {self.count} ports")
        self.stable = self.live = True
        for number in range(self.count):
            port = self.ports[number]
            if port.rx.size == 0:
                raise UsageError(f"{port.name}: a port without an RX ring cannot be merged")
            self.sources[number] = <void *> port
            self.rings[number] = &port.rx
            self.lacking[number] = number
            self.stable = self.stable and port.stable
            self.live = self.live and port.live
        self.lacking_count = self.count

    def __dealloc__(self):
        free(self.sources)
        free(self.rings)
        free(self.heap)
        free(self.lacking)
        free(self.origin)

    cdef bint earlier(self, uint32_t a, uint32_t b) noexcept nogil:
        cdef int64_t at = fos_ring_slot(self.rings[a], self.rings[a].cur).ts
        cdef int64_t bt = fos_ring_slot(self.rings[b], self.rings[b].cur).ts
        return at < bt or (at == bt and a < b)

    cdef void sift_down(self) noexcept nogil:
        """Put the first of the heap where it belongs."""
        cdef uint32_t at = 0, child, number = self.heap[0]
        while True:
            child = 2 * at + 1
            if child >= self.waiting:
                break
            if child + 1 < self.waiting and self.earlier(self.heap[child + 1], self.heap[child]):
                child += 1
            if not self.earlier(self.heap[child], number):
                break
            self.heap[at] = self.heap[child]
            at = child
        self.heap[at] = number

    cdef void push(self, uint32_t number) noexcept nogil:
        cdef uint32_t at = self.waiting
        self.waiting += 1
        while at and self.earlier(number, self.heap[(at - 1) >> 1]):
            self.heap[at] = self.heap[(at - 1) >> 1]
            at = (at - 1) >> 1
        self.heap[at] = number

    cdef void give_back(self) noexcept nogil:
        """Release in their ports the slots that were released here: in each port they are in order."""
        cdef uint32_t number
        while self.released != self.rx.head:
            number = self.origin[self.released & (self.rx.size - 1)]
            if not (<Port> self.sources[number]).stable:
                self.rings[number].head += 1
            self.released += 1

    cdef bint ask(self) except -1 nogil:
        """Find the next packet of each port that lacks one; return whether all that are waited for are known or ended."""
        cdef uint32_t i = 0, number
        cdef bint known = True
        while i < self.lacking_count:
            number = self.lacking[i]
            (<Port> self.sources[number]).rxsync()
            if self.rings[number].cur == self.rings[number].tail and not (<Port> self.sources[number]).ended:
                known = known and (<Port> self.sources[number]).live
                i += 1
                continue
            self.lacking_count -= 1
            self.lacking[i] = self.lacking[self.lacking_count]
            if self.rings[number].cur != self.rings[number].tail:
                self.push(number)
        return known

    cdef int rxsync(self) except -1 nogil:
        cdef fos_ring *ring = &self.rx
        cdef fos_ring *source
        cdef fos_slot *slot
        cdef uint32_t before = ring.tail, number
        if self.ended:
            return 0
        self.give_back()
        while ring.tail - ring.head < ring.size:
            # Without the next packet of every port nobody knows which is the earliest.
            if self.lacking_count and not self.ask():
                break
            if self.waiting == 0:
                self.ended = self.lacking_count == 0
                break
            number = self.heap[0]
            source = self.rings[number]
            slot = fos_ring_slot(ring, ring.tail)
            slot[0] = fos_ring_slot(source, source.cur)[0]
            slot.iface = <uint16_t> number
            self.origin[ring.tail & (ring.size - 1)] = <uint16_t> number
            ring.tail += 1
            source.cur += 1
            if (<Port> self.sources[number]).stable:
                source.head = source.cur
            if source.cur == source.tail:
                self.lacking[self.lacking_count] = number
                self.lacking_count += 1
                self.waiting -= 1
                self.heap[0] = self.heap[self.waiting]
            if self.waiting:
                self.sift_down()
        return ring.tail - before

    def close(self):
        """Close all the ports."""
        Port.close(self)
        for port in self.ports:
            port.close()

    def statistics(self):
        sums = {}
        for port in self.ports:
            for name, value in port.statistics().items():
                sums[name] = sums.get(name, 0) + value
        return sums

    @property
    def descriptions(self):
        return {name: text for port in self.ports for name, text in port.descriptions.items()}
