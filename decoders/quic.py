"""QUIC version 1 and 2 over UDP: packets, connection IDs, and the hellos of the handshake (RFC 9000, 9001, 9369).

A datagram holds one or more packets.  Those with a long header say who talks to whom; the bodies of
Initial packets are encrypted with keys that anybody can derive from the client's first connection
ID, so that what they carry can be read: CRYPTO frames, in any order and over several packets, which
make up the TLS hellos.  What is behind the handshake's keys stays closed.

    datagram -> long header -> Initial: unprotect, decrypt -> CRYPTO frames -> bytes in order -> hello
                            -> Retry, Version Negotiation: read;  0-RTT, Handshake: passed on
             -> short header: the rest of the datagram, passed on

Damage never raises; it is counted.  Without the package `cryptography` (extra `tls`) packets are told,
hellos are not.  The file is long because decoders stand alone: the hello and its fingerprint JA4 are
read here as well as in the decoder of TLS records.
"""
import hashlib
import hmac
from dataclasses import dataclass, field

from flowos.decoder import Decoder, Unit

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
except ImportError:             # what can be told without decryption is told
    AESGCM = None

CID_LIMIT = 20                  # bytes of a connection ID in versions 1 and 2: RFC 9000 section 17.2
INITIAL_SIZE = 1200             # bytes of a datagram with a client's Initial: RFC 9000 section 14.1
CRYPTO_LIMIT = 1 << 16          # bytes of hellos that are put together in one direction
RANGE_LIMIT = 64                # pieces of them that wait for earlier ones
KEY_LIMIT = 16                  # times that keys are derived for one pair of ports: a Retry takes one more
SAMPLE = 16

REASONS = {
    "bad_packet": "packets that break off or contradict themselves, passed on as other with the rest of the datagram",
    "bad_frame": "Initial packets with a frame that breaks off or may not be there",
    "undecryptable": "Initial packets that the keys do not open",
    "no_cryptography": "Initial packets that were not opened because the package cryptography is missing",
    "bad_retry": "Retry packets whose tag is wrong",
    "crypto_limit": "CRYPTO frames too far ahead or in too many pieces, left out",
    "bad_hello": "messages in Initial packets that are no hellos, or damaged ones",
    "cut_hello": "hellos that never came whole",
}


class Damaged(Exception):
    """Bytes break off or contradict themselves; never leaves this file."""


class Cursor:
    """Read big-endian fields from bytes, in order; Damaged where they break off."""

    def __init__(self, data, at=0):
        self.data, self.at = data, at

    def left(self):
        """Give the number of bytes that are left."""
        return len(self.data) - self.at

    def take(self, size):
        """Give the next bytes."""
        if size > self.left():
            raise Damaged
        self.at += size
        return self.data[self.at - size:self.at]

    def number(self, size):
        """Read an unsigned number of some bytes."""
        return int.from_bytes(self.take(size), "big")

    def block(self, width):
        """Give the bytes behind their length, which is a number of `width` bytes."""
        return self.take(self.number(width))

    def varint(self):
        """Read a variable-length number (RFC 9000 section 16)."""
        first = self.number(1)
        size = (1 << (first >> 6)) - 1
        return (first & 0x3f) << 8 * size | self.number(size)

    def codes(self, width, size=2):
        """Read a list of codes behind its length in bytes."""
        data = self.block(width)
        return [int.from_bytes(data[at:at + size], "big") for at in range(0, len(data) - size + 1, size)]


# ---- versions and keys ------------------------------------------------------------------------

@dataclass(frozen=True)
class Version:
    """What differs between the versions of QUIC."""

    name: str
    salt: bytes
    label: str
    types: tuple                # packet types, by the two bits of the first byte
    retry_key: bytes
    retry_nonce: bytes


VERSIONS = {
    1: Version("QUIC v1", bytes.fromhex("38762cf7f55934b34d179ae6a4c80cadccbb7f0a"), "quic",
               ("initial", "zero_rtt", "handshake", "retry"),
               bytes.fromhex("be0c690b9f66575a1d766b54e368c84e"), bytes.fromhex("461599d35d632bf2239825bb")),
    0x6b3343cf: Version("QUIC v2", bytes.fromhex("0dede3def700a6db819381be6e269dcbf9bd2ed9"), "quicv2",
                        ("retry", "initial", "zero_rtt", "handshake"),
                        bytes.fromhex("8fb4b01b56ac48e260fbcbcead7ccc92"), bytes.fromhex("d86969bc2d7c6d9990efb04a")),
}


def is_reserved(version):
    """Say whether a version is one that forces negotiation (RFC 9000 section 15)."""
    return version & 0x0f0f0f0f == 0x0a0a0a0a


def expand(secret, label, size):
    """Derive bytes from a secret by HKDF-Expand-Label with an empty context (RFC 8446 section 7.1)."""
    name = b"tls13 " + label.encode()
    info = size.to_bytes(2, "big") + bytes([len(name)]) + name + b"\x00"
    return hmac.digest(secret, info + b"\x01", "sha256")[:size]      # one block: size is 32 at most


class Keys:
    """What opens the Initial packets of one sender (RFC 9001 section 5.2).

    >>> Keys(1, bytes.fromhex("8394c8f03e515708"), "client in").iv.hex()
    'fa044b2f42a3fd3b46fb255c'
    """

    def __init__(self, number, cid, sender):
        version = VERSIONS[number]
        secret = expand(hmac.digest(version.salt, cid, "sha256"), sender, 32)
        self.key = expand(secret, f"{version.label} key", 16)
        self.iv = expand(secret, f"{version.label} iv", 12)
        self.hp = expand(secret, f"{version.label} hp", 16)

    def open(self, packet, at, largest):
        """Decrypt a packet whose number is at an offset: (packet number, payload), or None."""
        sample = packet[at + 4:at + 4 + SAMPLE]
        if len(sample) < SAMPLE:
            return None
        mask = Cipher(algorithms.AES(self.hp), modes.ECB()).encryptor().update(sample)
        first = packet[0] ^ mask[0] & 0x0f
        size = (first & 3) + 1
        number = bytes(a ^ b for a, b in zip(packet[at:at + size], mask[1:], strict=False))
        header = bytes([first]) + packet[1:at] + number
        number = whole_number(int.from_bytes(number, "big"), 8 * size, largest)
        nonce = (int.from_bytes(self.iv, "big") ^ number).to_bytes(12, "big")
        try:
            return number, AESGCM(self.key).decrypt(nonce, packet[at + size:], header)
        except InvalidTag:
            return None


def whole_number(number, bits, largest):
    """Give the packet number that is nearest to the next one expected (RFC 9000 appendix A.3).

    >>> hex(whole_number(0x9b32, 16, 0xa82f30ea))
    '0xa82f9b32'
    """
    expected, window = largest + 1, 1 << bits
    number |= expected & -window
    if number + window // 2 <= expected and number + window < 1 << 62:
        return number + window
    return number - window if number > expected + window // 2 and number >= window else number


def retry_is_sound(version, packet, cid):
    """Say whether a Retry's tag is that of the connection ID it answers (RFC 9001 section 5.8)."""
    pseudo = bytes([len(cid)]) + cid + packet[:-16]
    return AESGCM(version.retry_key).encrypt(version.retry_nonce, b"", pseudo) == packet[-16:]


# ---- hellos -----------------------------------------------------------------------------------

JA4_VERSIONS = {0x0300: "s3", 0x0301: "10", 0x0302: "11", 0x0303: "12", 0x0304: "13"}


def is_grease(code):
    """Say whether a code is one of those sent to be ignored (RFC 8701)."""
    return code & 0x0f0f == 0x0a0a and code >> 8 == code & 0xff


def text(name):
    """Write a name from the wire: printable ASCII as it is, other bytes escaped."""
    return "".join(chr(c) if 32 < c < 127 else f"\\x{c:02x}" for c in name)


@dataclass
class QuicHello:
    """What a hello in a QUIC handshake says; codes are ints as sent, GREASE included.

    `kind` is "client" or "server"; `versions` are the codes offered, or the one chosen; `cipher` a
    server's choice; `extensions` in order; `transport_parameters` {id: bytes} of RFC 9000 section
    18.  `damaged`: the message contradicts itself; what was read before stands.
    """

    kind: str
    random: bytes = b""
    sni: str | None = None
    alpn: list = field(default_factory=list)
    versions: list = field(default_factory=list)
    ciphers: list = field(default_factory=list)
    cipher: int | None = None
    extensions: list = field(default_factory=list)
    groups: list = field(default_factory=list)
    signature_algorithms: list = field(default_factory=list)
    transport_parameters: dict = field(default_factory=dict)
    legacy_version: int = 0
    damaged: bool = False
    first_alpn: bytes = field(default=b"", repr=False)

    @property
    def ja4(self):
        """The client's fingerprint by FoxIO's JA4 (technical_details/JA4.md there); None for a server."""
        if self.kind != "client":
            return None
        ciphers = [f"{code:04x}" for code in self.ciphers if not is_grease(code)]
        extensions = [f"{code:04x}" for code in self.extensions if not is_grease(code)]
        signatures = [f"{code:04x}" for code in self.signature_algorithms if not is_grease(code)]
        version = max((code for code in self.versions if not is_grease(code)), default=self.legacy_version)
        name = self.first_alpn
        if not (name[:1].isalnum() and name[-1:].isalnum()):
            name = name.hex().encode()
        ends = f"{name[0]:c}{name[-1]:c}" if name else "00"
        told = ",".join(sorted(code for code in extensions if code not in ("0000", "0010")))
        return (f"q{JA4_VERSIONS.get(version, '00')}{'d' if '0000' in extensions else 'i'}"
                f"{min(len(ciphers), 99):02}{min(len(extensions), 99):02}{ends}_{short_hash(','.join(sorted(ciphers)))}"
                f"_{short_hash('_'.join([told] + [','.join(signatures)] * bool(signatures)))}")


def short_hash(string):
    """Give the first 12 digits of a string's SHA-256; zeros for none."""
    return hashlib.sha256(string.encode()).hexdigest()[:12] if string else "0" * 12


def parse_hello(message):
    """Read a handshake message; None when it is no hello."""
    if message[:1] not in (b"\x01", b"\x02"):
        return None
    hello = QuicHello("client" if message[0] == 1 else "server")
    try:
        read_hello(hello, Cursor(Cursor(message, 1).block(3)))
    except Damaged:
        hello.damaged = True
    return hello


def read_hello(hello, cursor):
    """Read a hello's fields (RFC 8446 section 4.1); Damaged where they break off."""
    hello.legacy_version = cursor.number(2)
    hello.random = cursor.take(32)
    cursor.block(1)                     # session ID
    if hello.kind == "client":
        hello.ciphers = cursor.codes(2)
        cursor.block(1)                 # compression methods
    else:
        hello.cipher = cursor.number(2)
        cursor.take(1)
    extensions = Cursor(cursor.block(2))
    while extensions.left():
        number, body = extensions.number(2), Cursor(extensions.block(2))
        hello.extensions.append(number)
        read_extension(hello, number, body)


def read_extension(hello, number, body):
    """Read an extension's body into the hello."""
    client = hello.kind == "client"
    if number == 0 and client and body.left():
        names = Cursor(body.block(2))
        while names.left():
            kind, name = names.number(1), names.block(2)
            if kind == 0 and hello.sni is None:
                hello.sni = text(name)
    elif number == 16:
        names = Cursor(body.block(2))
        while names.left():
            name = names.block(1)
            hello.first_alpn = hello.first_alpn if hello.alpn else name
            hello.alpn.append(text(name))
    elif number == 43:
        hello.versions = body.codes(1) if client else [body.number(2)]
    elif number == 10:
        hello.groups = body.codes(2)
    elif number == 13:
        hello.signature_algorithms = body.codes(2)
    elif number == 57:
        while body.left():
            parameter = body.varint()
            hello.transport_parameters[parameter] = body.take(body.varint())


class Handshake:
    """One direction's bytes of CRYPTO frames, put in order; what was read is dropped."""

    def __init__(self):
        self.base = 0                   # offset of data[0]: what is before was read
        self.data = bytearray()
        self.ranges = []                # [start, end) that came, sorted, apart from each other

    def add(self, offset, data):
        """Take a frame's bytes; False where they are beyond the limits."""
        skip = max(0, self.base - offset)
        start, data = offset - self.base + skip, data[skip:]
        end = start + len(data)
        if not data:
            return True
        if end > CRYPTO_LIMIT:
            return False
        touched = [r for r in self.ranges if r[0] <= end and start <= r[1]]
        apart = [r for r in self.ranges if not (r[0] <= end and start <= r[1])]
        if len(apart) >= RANGE_LIMIT:
            return False
        self.data.extend(bytes(max(0, end - len(self.data))))
        self.data[start:end] = data
        self.ranges = sorted([*apart, (min([start, *(r[0] for r in touched)]), max([end, *(r[1] for r in touched)]))])
        return True

    def messages(self):
        """Take out the messages that are whole, as bytes."""
        found = []
        while self.ranges and self.ranges[0][0] == 0 and self.ranges[0][1] >= 4:
            size = 4 + int.from_bytes(self.data[1:4], "big")
            if self.ranges[0][1] < size:
                break
            found.append(bytes(self.data[:size]))
            del self.data[:size]
            self.base += size
            self.ranges = [(max(0, a - size), b - size) for a, b in self.ranges if b > size]
        return found


# ---- packets ----------------------------------------------------------------------------------

@dataclass(slots=True)
class QuicPacket:
    """What a packet's header says, and of an Initial that was opened its number and frames.

    `version` is None for a short header; `versions` are those that a Version Negotiation packet
    offers; `dcid` and `scid` are connection IDs, None where they are not known.  `frames` are
    names, `error` a CONNECTION_CLOSE's code.  `sound` says whether a Retry's tag was right.
    """

    type: str
    version: int | None = None
    dcid: bytes | None = None
    scid: bytes | None = None
    token: bytes = b""
    versions: tuple = ()
    number: int | None = None
    frames: tuple = ()
    error: int | None = None
    sound: bool | None = None


def read_packet(data, at):
    """Read a long header at an offset: (QuicPacket, offset of what is protected, offset behind the packet)."""
    cursor = Cursor(data, at)
    first, version = cursor.number(1), cursor.number(4)
    packet = QuicPacket("other", version, cursor.block(1), cursor.block(1))
    if version == 0:
        packet.type = "version_negotiation"
        packet.versions = tuple(cursor.number(4) for _ in range(cursor.left() // 4))
        if cursor.left() or not packet.versions:
            raise Damaged
    elif version in VERSIONS:
        packet.type = VERSIONS[version].types[first >> 4 & 3]
        if max(len(packet.dcid), len(packet.scid)) > CID_LIMIT:
            raise Damaged
        if packet.type == "retry":
            packet.token = cursor.take(cursor.left() - 16) if cursor.left() >= 16 else cursor.take(16)
            return packet, cursor.at, len(data)
        if packet.type == "initial":
            packet.token = cursor.take(cursor.varint())
        size = cursor.varint()
        place = cursor.at
        cursor.take(size)
        return packet, place, cursor.at
    return packet, cursor.at, len(data)


def read_frames(packet, payload):
    """Note the frames of an Initial; yields (offset, bytes) of each with CRYPTO.  Damaged: one is not sound."""
    cursor, names = Cursor(payload), []
    try:
        while cursor.left():
            kind = cursor.varint()
            if kind == 0:
                cursor.at = len(payload) - len(payload[cursor.at:].lstrip(b"\x00"))
                names.append("padding")
            elif kind == 1:
                names.append("ping")
            elif kind in (2, 3):
                _, _, ranges, _ = (cursor.varint() for _ in range(4))
                for _ in range(2 * ranges + 3 * (kind - 2)):
                    cursor.varint()
                names.append("ack")
            elif kind == 6:
                offset = cursor.varint()
                yield offset, cursor.take(cursor.varint())
                names.append("crypto")
            elif kind == 0x1c:
                packet.error = cursor.varint()
                cursor.varint()
                cursor.take(cursor.varint())
                names.append("connection_close")
            else:
                raise Damaged
    finally:
        packet.frames = tuple(names)


class QuicDecoder(Decoder):
    """Decode the QUIC packets between two ports.

    Units: `initial`, `zero_rtt`, `handshake`, `retry`, `version_negotiation` and `one_rtt`, one for
    each packet, with a QuicPacket as info and the packet as data; `client_hello` and `server_hello`,
    empty, behind the packet that made them whole, with a QuicHello as info and the message as data;
    `padding`, zeros behind a datagram's packets; `other`.
    """

    name = "quic"
    over = ("udp",)

    def __init__(self):
        super().__init__()
        self.client = None              # the client's direction
        self.cid = None                 # the connection ID that the keys come from
        self.keys = {}                  # (version, direction): Keys
        self.derived = 0                # times that self.cid was set
        self.largest = [-1, -1]         # packet numbers
        self.streams = (Handshake(), Handshake())
        self.scid = [None, None]        # what each side calls itself: the other's short headers bear it

    @staticmethod
    def probe(data, direction, port):
        """Say whether a datagram begins with a long header that holds together; a short one tells nothing.

        >>> QuicDecoder.probe(bytes.fromhex("c300000001088394c8f03e51570800004013") + bytes(19), 0, 443)
        True
        >>> QuicDecoder.probe(b"\\x00\\x17\\x12\\x34\\x01\\x00\\x00\\x01", 0, 53)
        False
        """
        data = bytes(data)
        if not data or not data[0] & 0x80:
            return False
        try:
            packet, _, _ = read_packet(data, 0)
        except Damaged:
            return False
        if packet.type == "version_negotiation":
            return any(version in VERSIONS for version in packet.versions)
        if packet.version in VERSIONS:
            return bool(data[0] & 0x40)
        return is_reserved(packet.version) and len(data) >= INITIAL_SIZE and max(
            len(packet.dcid), len(packet.scid)) <= CID_LIMIT

    def feed(self, direction, data, offset, ts):
        """Take a datagram; give its packets."""
        data, at, units = bytes(data), 0, []
        while at < len(data):
            if not any(data[at:at + 8]) and not any(data[at:]):     # senders fill up a datagram behind its packets
                return [*units, Unit(offset + at, offset + len(data), "padding", None, data[at:])]
            try:
                packet, place, end = self.packet(direction, data, at)
            except Damaged:
                self.count("bad_packet")
                packet, place, end = None, at, len(data)
            kind = "other" if packet is None else packet.type
            units.append(Unit(offset + at, offset + end, kind, packet, data[at:end]))
            if kind == "initial":
                units += self.initial(direction, packet, data[at:end], place - at, offset + end)
            elif kind == "retry":
                self.retry(packet, data[at:end])
            elif kind == "version_negotiation" and packet.scid == self.cid and direction != self.client:
                self.client = self.client if self.largest[direction] >= 0 else None     # the client begins anew
            at = end
        return units

    def packet(self, direction, data, at):
        """Read the packet at an offset: (QuicPacket, offset of its body, offset behind it)."""
        if data[at] & 0x80:
            packet, place, end = read_packet(data, at)
            if packet.version:
                self.scid[direction] = packet.scid
            return packet, place, end
        cid = self.scid[1 - direction]
        known = cid is not None and data[at + 1:at + 1 + len(cid)] == cid
        if not data[at] & 0x40 and not (known and cid):     # peers may agree to clear the bit: RFC 9287
            raise Damaged
        return QuicPacket("one_rtt", dcid=cid if known else None), at + 1, len(data)

    def initial(self, direction, packet, data, place, end):
        """Open an Initial packet and read it; give the hellos that are whole with it."""
        opened = self.open(direction, packet, data, place)
        if opened is None:
            self.count("undecryptable" if AESGCM else "no_cryptography")
            return []
        packet.number, payload = opened
        self.largest[direction] = max(self.largest[direction], packet.number)
        stream = self.streams[direction]
        try:
            for offset, piece in read_frames(packet, payload):
                if not stream.add(offset, piece):
                    self.count("crypto_limit")
        except Damaged:
            self.count("bad_frame")
        units = []
        for message in stream.messages():
            hello = parse_hello(message)
            if hello is None or hello.damaged:
                self.count("bad_hello")
            if hello is not None:
                units.append(Unit(end, end, f"{hello.kind}_hello", hello, message))
        return units

    def open(self, direction, packet, data, place):
        """Decrypt an Initial with the keys there are, else as the first of a new connection; None: neither."""
        if AESGCM is None:
            return None
        if self.client is not None:
            opened = self.keys_of(packet.version, direction).open(data, place, self.largest[direction])
            if opened or direction != self.client:
                return opened
        if self.derived == KEY_LIMIT:
            return None
        self.derived += 1
        keys = Keys(packet.version, packet.dcid, "client in")
        opened = keys.open(data, place, -1)
        if opened:                      # the first packet of a connection, or the first behind a Retry
            self.client, self.cid = direction, packet.dcid
            self.keys = {(packet.version, direction): keys}
            self.largest = [-1, -1]
            self.streams = (Handshake(), Handshake())
        return opened

    def keys_of(self, version, direction):
        """Give the keys of a direction; the versions may change in the middle (RFC 9368)."""
        keys = self.keys.get((version, direction))
        if keys is None:
            sender = "client in" if direction == self.client else "server in"
            keys = self.keys[version, direction] = Keys(version, self.cid, sender)
        return keys

    def retry(self, packet, data):
        """Check a Retry's tag, which stands for the connection ID that the client sent."""
        if AESGCM and self.cid is not None:
            packet.sound = retry_is_sound(VERSIONS[packet.version], data, self.cid)
            if not packet.sound:
                self.count("bad_retry")

    def finish(self, direction, offset, ts):
        """Count a hello that is not whole."""
        if self.streams[direction].ranges:
            self.count("cut_hello")
        return []
