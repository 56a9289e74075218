"""The fields of an IPv6 header and its chain of extension headers (RFC 8200, 4302, 8754)."""
import struct
from dataclasses import dataclass
from socket import AF_INET6, inet_ntop

FIXED = struct.Struct(">IHBB16s16s")
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION = 0, 43, 44, 51, 60
NAMES = {HOP_BY_HOP: "hop_by_hop", ROUTING: "routing", FRAGMENT: "fragment", AUTHENTICATION: "authentication",
         DESTINATION: "destination", 135: "mobility", 139: "host_identity", 140: "shim6"}
CHAIN_LIMIT = 64                # headers that are followed: RFC 8200 wants each at most once or twice


@dataclass(frozen=True, slots=True)
class Ip6Extension:
    """One extension header.

    `data` is all of it; `options`, (type, data) pairs, padding left out, of hop-by-hop and
    destination options; `routing_type` and `segments_left` of a routing header; the other fields
    of a fragment header, its offset in bytes.  What another kind of header lacks is None.
    """

    kind: int
    name: str
    data: bytes
    options: tuple = ()
    routing_type: int | None = None
    segments_left: int | None = None
    fragment_offset: int | None = None
    more_fragments: bool | None = None
    identification: int | None = None


@dataclass(frozen=True, slots=True)
class Ip6Header:
    """An IPv6 header; `next_header` is the fixed header's, `protocol` what follows the chain.

    `header_length` counts the extensions in.  `protocol` is None where the chain is cut.
    """

    version: int
    dscp: int
    ecn: int
    flow_label: int
    payload_length: int
    next_header: int
    hop_limit: int
    source_address: str
    destination_address: str
    extensions: tuple
    header_length: int
    protocol: int | None


def options(data):
    """Read the options behind an extension's first two bytes: a tuple of (type, data), no padding."""
    found, at = [], 2
    while at + 2 <= len(data):
        kind, size = data[at], data[at + 1]
        if kind == 0:           # Pad1 has no length
            at += 1
            continue
        if at + 2 + size > len(data):
            break
        if kind != 1:
            found.append((kind, bytes(data[at + 2:at + 2 + size])))
        at += 2 + size
    return tuple(found)


def extension(kind, data):
    """Read one extension header from its bytes."""
    name = NAMES[kind]
    if kind == FRAGMENT:
        _, offset, number = struct.unpack(">HHI", data)
        return Ip6Extension(kind, name, data, fragment_offset=offset & 0xfff8, more_fragments=bool(offset & 1),
                            identification=number)
    if kind == ROUTING:
        return Ip6Extension(kind, name, data, routing_type=data[2], segments_left=data[3])
    return Ip6Extension(kind, name, data, options(data) if kind in (HOP_BY_HOP, DESTINATION) else ())


def fields(header):
    """Read the header and its extensions at the beginning of bytes; None where the fixed part is cut.

    The chain ends at the first header that is no extension, at ESP, at a fragment that is not the
    first, or where the bytes end.

    >>> header = bytes.fromhex("60000000000011403f" + "fe" * 15 + "20010db8" + "00" * 11 + "01")
    >>> fields(header).protocol, fields(header).destination_address
    (17, '2001:db8::1')
    """
    if len(header) < FIXED.size:
        return None
    first, length, protocol, hops, source, target = FIXED.unpack_from(header)
    following, at, chain = protocol, FIXED.size, []
    while following in NAMES and len(chain) < CHAIN_LIMIT:
        if at + 8 > len(header):
            following = None
            break
        size = 8 if following == FRAGMENT else 4 * (header[at + 1] + 2) if following == AUTHENTICATION \
            else 8 * (header[at + 1] + 1)
        if at + size > len(header):
            following = None
            break
        chain.append(extension(following, bytes(header[at:at + size])))
        following, at = header[at], at + size
        if chain[-1].fragment_offset:
            break
    return Ip6Header(
        first >> 28, first >> 22 & 63, first >> 20 & 3, first & 0xfffff, length, protocol, hops,
        inet_ntop(AF_INET6, source), inet_ntop(AF_INET6, target), tuple(chain), at, following)
