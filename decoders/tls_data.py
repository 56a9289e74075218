"""What was said inside TLS 1.0 to 1.3: records over a stream, opened with a key log (RFC 8446, 5246, 7366).

A key log is the file that browsers, curl and OpenSSL write when SSLKEYLOGFILE or an option asks for
it; with it a recorded connection can be read afterwards.  Each whole record is held (18 KiB at most),
opened with its direction's keys, and becomes one unit:

    record -> header -> plain: handshake, alert, change_cipher_spec
                     -> sealed, keys there: data, handshake, alert     the keys follow the handshake
                     -> sealed, no keys: record                        messages, wherever they are read

The plaintext of `data` may be fed on to a decoder inside (`inner`), whose units take its place.
The record's authenticity is always checked: what comes out is what was sent.  Damage never raises; it
is counted.  The file is long because records, ciphers and handshake are one protocol, and decoders
stand alone.
"""
import hmac
import os
import re
from dataclasses import dataclass
from functools import partial

from flowos.core.errors import DecoderError
from flowos.core.inside import Inside
from flowos.decoder import Decoder, Unit

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM, ChaCha20Poly1305
except ImportError:             # the probe then leaves TLS to others
    Cipher = None

HEADER = 5
CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, DATA = 20, 21, 22, 23
KINDS = {CHANGE_CIPHER_SPEC: "change_cipher_spec", ALERT: "alert", HANDSHAKE: "handshake", DATA: "data"}
RECORD_LIMIT = 16384 + 2048     # bytes of a record behind its header: RFC 5246 section 6.2.3
HELLO_LIMIT = 1 << 16           # bytes of a hello that are put together; other messages are counted past
GAP_RECORDS = 256               # records that may be lost in a gap without losing their numbers
SESSION_LIMIT = 1 << 20         # sessions that are remembered of a key log: about 0.6 KB each
PLAIN_SEEN = 2048               # bytes of another protocol in which a probe looks for a hello
PLAIN_LIMIT = 1 << 16           # ... and in which one is found
HELLO = re.compile(rb"\x16\x03[\0-\x04][\0-\x48].[\1\2]\0", re.S)       # the beginning of a record with a hello
HELLO_SEEN = 7                  # bytes of it
TLS12, TLS13 = 0x0303, 0x0304
RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")   # RFC 8446 section 4.1.3

REASONS = {
    "no_secret": "sealed records that pass unopened: the key log lacks their secret, or the hellos are missing",
    "unknown_cipher": "sealed records that pass unopened: their cipher suite is not known here",
    "undecryptable": "sealed records that the keys do not open",
    "bad_hello": "hellos that are damaged or too long: what follows cannot be opened",
    "greeting": "directions that begin with another protocol's words, passed on as other",
    "bad_record": "bytes where a record should begin that are no record's header",
    "resync": "records found again after a gap or bytes that were not TLS",
    "gap_in_inner": "gaps that ended the decoder inside: what follows are data units",
}

NAMES = {0: "hello_request", 1: "client_hello", 2: "server_hello", 4: "new_session_ticket", 5: "end_of_early_data",
         8: "encrypted_extensions", 11: "certificate", 12: "server_key_exchange", 13: "certificate_request",
         14: "server_hello_done", 15: "certificate_verify", 16: "client_key_exchange", 20: "finished",
         22: "certificate_status", 24: "key_update", 25: "compressed_certificate"}


@dataclass(slots=True)
class TlsRecord:
    """What is known of a record: `type` is the content type, inside where it was opened.

    `epoch` names the keys: "plain", "sealed" (up to TLS 1.2), "early", "handshake" or "application";
    `number` counts the records under them.  `messages` are names of handshake messages that end here.
    """

    type: int
    epoch: str = "plain"
    number: int = 0
    messages: tuple = ()


# ---- the key log ------------------------------------------------------------------------------

EPOCHS = ("early", "handshake", "application")
LABELS = {("early", True): "CLIENT_EARLY_TRAFFIC_SECRET",
          ("handshake", True): "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
          ("handshake", False): "SERVER_HANDSHAKE_TRAFFIC_SECRET",
          ("application", True): "CLIENT_TRAFFIC_SECRET_0", ("application", False): "SERVER_TRAFFIC_SECRET_0"}
MASTER = "CLIENT_RANDOM"
KNOWN = {MASTER, *LABELS.values()}


class KeyLog:
    """The secrets in a key log file; it is read on when it has grown."""

    logs = {}                   # {path: KeyLog}: connections share what was read

    def __init__(self, path):
        self.path, self.size = path, 0
        self.secrets = {}       # {client random: {label: secret}}, oldest first

    @classmethod
    def at(cls, path):
        """Give the KeyLog of a path, the same one each time."""
        path = os.fspath(path)
        if path not in cls.logs:
            cls.logs[path] = cls(path)
        return cls.logs[path]

    def find(self, random, label):
        """Give a secret, or None."""
        secret = self.secrets.get(random, {}).get(label)
        if secret is None and self.read_on():
            secret = self.secrets.get(random, {}).get(label)
        return secret

    def knows(self, random):
        """Say whether there are secrets of a client random."""
        return random in self.secrets or self.read_on() and random in self.secrets

    def read_on(self):
        """Read the lines that came since the last time; False when there are none."""
        try:
            size = os.stat(self.path).st_size
            if size == self.size:
                return False
            with open(self.path, "rb") as file:
                file.seek(self.size if size > self.size else 0)
                text = file.read()
                self.size = file.tell() - len(text) + text.rfind(b"\n") + 1
        except OSError:
            return False
        for line in text[:text.rfind(b"\n") + 1].splitlines():
            words = line.decode("ascii", "replace").split()
            if len(words) == 3 and words[0] in KNOWN:
                try:
                    random, secret = bytes.fromhex(words[1]), bytes.fromhex(words[2])
                except ValueError:
                    continue
                self.secrets.setdefault(random, {})[words[0]] = secret
        while len(self.secrets) > SESSION_LIMIT:
            del self.secrets[next(iter(self.secrets))]
        return True


# ---- keys and ciphers -------------------------------------------------------------------------

@dataclass(frozen=True)
class Suite:
    """What a cipher suite says of records: cipher, bytes of its key, hash of its key derivation, MAC."""

    cipher: str
    size: int
    hash: str = "sha256"
    mac: str | None = None


SUITES = {0x1301: Suite("gcm", 16), 0x1302: Suite("gcm", 32, "sha384"), 0x1303: Suite("chacha", 32),
          0x1304: Suite("ccm", 16), 0x1305: Suite("ccm8", 16)}
# By the key exchanges RSA, DHE, ECDHE and PSK, with RSA, ECDSA and without signatures.
for suite, codes in {
        Suite("gcm", 16): (
            0x9c, 0x9e, 0xa0, 0xa2, 0xa4, 0xa6, 0xa8, 0xaa, 0xac, 0xc02b, 0xc02d, 0xc02f, 0xc031, 0xd001),
        Suite("gcm", 32, "sha384"): (
            0x9d, 0x9f, 0xa1, 0xa3, 0xa5, 0xa7, 0xa9, 0xab, 0xad, 0xc02c, 0xc02e, 0xc030, 0xc032, 0xd002),
        Suite("chacha", 32): (0xcca8, 0xcca9, 0xccaa, 0xccab, 0xccac, 0xccad, 0xccae),
        Suite("ccm", 16): (0xc09c, 0xc09e, 0xc0a4, 0xc0a6, 0xc0ac, 0xd005),
        Suite("ccm", 32): (0xc09d, 0xc09f, 0xc0a5, 0xc0a7, 0xc0ad),
        Suite("ccm8", 16): (0xc0a0, 0xc0a2, 0xc0a8, 0xc0aa, 0xc0ae, 0xd003),
        Suite("ccm8", 32): (0xc0a1, 0xc0a3, 0xc0a9, 0xc0ab, 0xc0af),
        Suite("cbc", 16, mac="sha1"): (
            0x2f, 0x30, 0x31, 0x32, 0x33, 0x34, 0x8c, 0x90, 0x94, 0xc004, 0xc009, 0xc00e, 0xc013, 0xc018, 0xc035),
        Suite("cbc", 32, mac="sha1"): (
            0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x8d, 0x91, 0x95, 0xc005, 0xc00a, 0xc00f, 0xc014, 0xc019, 0xc036),
        Suite("cbc", 16, mac="sha256"): (
            0x3c, 0x3e, 0x3f, 0x40, 0x67, 0x6c, 0xae, 0xb2, 0xb6, 0xc023, 0xc025, 0xc027, 0xc029, 0xc037),
        Suite("cbc", 32, mac="sha256"): (0x3d, 0x68, 0x69, 0x6a, 0x6b, 0x6d),
        Suite("cbc", 32, "sha384", "sha384"): (0xaf, 0xb3, 0xb7, 0xc024, 0xc026, 0xc028, 0xc02a, 0xc038)}.items():
    SUITES.update(dict.fromkeys(codes, suite))


def expand(secret, label, size, digest):
    """Derive bytes from a secret: HKDF-Expand-Label with an empty context (RFC 8446 section 7.1)."""
    name = b"tls13 " + label.encode()
    info = size.to_bytes(2, "big") + bytes([len(name)]) + name + b"\x00"
    return hmac.digest(secret, info + b"\x01", digest)[:size]       # one block: size is the hash's at most


def p_hash(secret, seed, size, digest):
    """Expand a secret by P_hash (RFC 5246 section 5)."""
    made, a = b"", seed
    while len(made) < size:
        a = hmac.digest(secret, a, digest)
        made += hmac.digest(secret, a + seed, digest)
    return made[:size]


def prf(version, secret, seed, size, digest):
    """The pseudorandom function of TLS up to 1.2; before 1.2 it joins MD5 and SHA-1 (RFC 2246 section 5)."""
    if version >= TLS12:
        return p_hash(secret, seed, size, digest)
    half = (len(secret) + 1) // 2
    return bytes(a ^ b for a, b in zip(p_hash(secret[:half], seed, size, "md5"),
                                       p_hash(secret[-half:], seed, size, "sha1"), strict=True))


def aead(suite, key):
    """Make the authenticated cipher of a suite."""
    kinds = {"gcm": AESGCM, "chacha": ChaCha20Poly1305, "ccm": AESCCM, "ccm8": partial(AESCCM, tag_length=8)}
    return kinds[suite.cipher](key)


def xor(iv, number):
    """Give the nonce of a record number (RFC 8446 section 5.3)."""
    return (int.from_bytes(iv, "big") ^ number).to_bytes(len(iv), "big")


class Opener13:
    """Open the records under one TLS 1.3 traffic secret."""

    def __init__(self, secret, suite):
        self.secret, self.suite = secret, suite
        self.aead = aead(suite, expand(secret, "key", suite.size, suite.hash))
        self.iv = expand(secret, "iv", 12, suite.hash)

    def open(self, record, number):
        """Open a record: (content type, plaintext), or None."""
        try:
            text = self.aead.decrypt(xor(self.iv, number), record[HEADER:], record[:HEADER]).rstrip(b"\x00")
        except (InvalidTag, ValueError):        # ValueError: shorter than a tag
            return None
        return (text[-1], text[:-1]) if text else None

    def next(self):
        """Give the opener behind a KeyUpdate (RFC 8446 section 7.2)."""
        return Opener13(expand(self.secret, "traffic upd", len(self.secret), self.suite.hash), self.suite)


def head(record, number, size):
    """What a record's MAC or tag covers besides its plaintext (RFC 5246 section 6.2.3.3)."""
    return number.to_bytes(8, "big") + record[:3] + size.to_bytes(2, "big")


class OpenerAead:
    """Open the records of TLS 1.2 under an authenticated cipher."""

    def __init__(self, suite, key, iv):
        self.aead, self.iv = aead(suite, key), iv
        self.explicit = 0 if suite.cipher == "chacha" else 8        # RFC 7905 section 2, RFC 5288 section 3
        self.tag = 8 if suite.cipher == "ccm8" else 16

    def open(self, record, number):
        """Open a record: (content type, plaintext), or None."""
        body = record[HEADER + self.explicit:]
        nonce = self.iv + record[HEADER:HEADER + 8] if self.explicit else xor(self.iv, number)
        if len(body) < self.tag:
            return None
        try:
            return record[0], self.aead.decrypt(nonce, body, head(record, number, len(body) - self.tag))
        except InvalidTag:
            return None


class OpenerCbc:
    """Open the records of TLS 1.0 to 1.2 under AES-CBC with HMAC, either of them first (RFC 7366)."""

    def __init__(self, suite, key, mac_key, iv, version, encrypt_then_mac):
        self.mac, self.mac_key, self.key = suite.mac, mac_key, key
        self.size = len(hmac.digest(b"", b"", suite.mac))
        self.iv = iv if version < 0x0302 else None      # from TLS 1.1 on each record brings its own
        self.encrypt_then_mac = encrypt_then_mac

    def open(self, record, number):
        """Open a record: (content type, plaintext), or None."""
        body = record[HEADER:]
        if self.encrypt_then_mac:
            body, tag = body[:-self.size], body[-self.size:]
            if not self.is_right(record, number, body, tag):
                return None
        iv, body = (body[:16], body[16:]) if self.iv is None else (self.iv, body)
        if len(iv) < 16 or not body or len(body) % 16:
            return None
        text = Cipher(algorithms.AES(self.key), modes.CBC(iv)).decryptor().update(body)
        padding = text[-1] + 1
        if len(text) < padding or text[-padding:] != bytes([padding - 1]) * padding:
            return None
        text = text[:-padding]
        if not self.encrypt_then_mac:
            text, tag = text[:-self.size], text[-self.size:]
            if not self.is_right(record, number, text, tag):
                return None
        if self.iv is not None:
            self.iv = body[-16:]
        return record[0], text

    def is_right(self, record, number, covered, tag):
        """Say whether a MAC is the record's."""
        return hmac.digest(self.mac_key, head(record, number, len(covered)) + covered, self.mac) == tag


def openers12(version, suite, master, client_random, server_random, encrypt_then_mac):
    """Derive both directions' openers of TLS up to 1.2: (client's, server's) (RFC 5246 section 6.3)."""
    mac = len(hmac.digest(b"", b"", suite.mac)) if suite.mac else 0
    fixed = {"cbc": 16, "chacha": 12}.get(suite.cipher, 4)
    block = prf(version, master, b"key expansion" + server_random + client_random, 2 * (mac + suite.size + fixed),
                suite.hash)
    parts, at = [], 0
    for size in (mac, mac, suite.size, suite.size, fixed, fixed):
        parts.append(block[at:at + size])
        at += size
    if suite.cipher == "cbc":
        return tuple(OpenerCbc(suite, parts[2 + n], parts[n], parts[4 + n], version, encrypt_then_mac) for n in (0, 1))
    return tuple(OpenerAead(suite, parts[2 + n], parts[4 + n]) for n in (0, 1))


# ---- handshake messages -----------------------------------------------------------------------

def read_hello(body, kind):
    """Read what keys need of a hello: (legacy version, random, cipher or None, {extension: bytes}); None: damaged."""
    def block(width):
        nonlocal at
        size = int.from_bytes(body[at:at + width], "big")
        at += width + size
        return body[at - size:at]

    version, random, at = int.from_bytes(body[:2], "big"), body[2:34], 34
    block(1)
    cipher = None
    if kind == 1:
        block(2)
        block(1)
    else:
        cipher = int.from_bytes(body[at:at + 2], "big")
        if body[at + 2:at + 3] != b"\x00":
            return None                 # compressed: nobody does, since CRIME
        at += 3
    if at > len(body):
        return None
    extensions, end = {}, at
    if at < len(body):
        end = at + 2 + int.from_bytes(body[at:at + 2], "big")
        at += 2
        while at + 4 <= end <= len(body):
            number = int.from_bytes(body[at:at + 2], "big")
            at += 2
            extensions[number] = block(2)
        end = max(end, at)
    return (version, random, cipher, extensions) if end <= len(body) else None


class Side:
    """One direction's state."""

    def __init__(self):
        self.held = bytearray()         # the record in hand
        self.begun = False              # TLS was met, or given up
        self.greeted = False            # the direction begins with another protocol
        self.plain = 0                  # bytes of it
        self.searching = False          # a gap or garbage: wait for a piece that begins with records
        self.missed = False             # records were lost: the next one's number must be found out
        self.lossy = False              # it ever was so: messages that change keys may have been missed
        self.epoch = "plain"
        self.number = 0
        self.openers = None             # of the epoch; None: not asked for yet; several: the cipher is not known
        self.head = bytearray()         # of a handshake message: its header, and its body where it is a hello
        self.skip = 0                   # bytes of another message still to come


def is_header(data):
    """Say whether five bytes are a record's header."""
    return 20 <= data[0] <= 24 and data[1] == 3 and data[2] <= 4 and int.from_bytes(data[3:5], "big") <= RECORD_LIMIT


def begins_records(data):
    """Say whether a piece begins with a record, and with another one behind it as far as can be seen."""
    if len(data) < HEADER or not is_header(data):
        return False
    end = HEADER + int.from_bytes(data[3:5], "big")
    return end + HEADER > len(data) or is_header(data[end:end + HEADER])


class TlsDataDecoder(Decoder):
    """Decode the plaintext of TLS connections whose secrets are in a key log.

    Units, one for each record: `data`, `handshake`, `alert` and `change_cipher_spec` with the plaintext
    as data; `record`, sealed and not opened, without; `other`, no TLS; `gap`.  Their info is a
    TlsRecord.  `keylog` is the key log's path; None takes the environment's SSLKEYLOGFILE.

    `inner` lists decoder classes that are tried on the plaintext, in order; the units of the one that
    takes it replace `data` units.  A subclass with a name of its own may set both.
    """

    name = "tls_data"
    over = ("tcp",)
    keylog = None
    inner = ()

    def __init__(self):
        super().__init__()
        self.log = KeyLog.at(self.keylog or os.environ.get("SSLKEYLOGFILE", ""))
        self.sides = (Side(), Side())
        self.client = None              # the client's direction
        self.version = None             # the one that the server chose
        self.suite = None               # None: not known; False: known, and unknown to us
        self.random = [None, None]      # the client's, the server's
        self.encrypt_then_mac = False
        self.inside = Inside(self.inner, Unit) if self.inner else None

    @classmethod
    def probe(cls, data, direction, port):
        """Say whether a stream begins with a hello, or has one that the key log knows; None asks for more.

        Without a key log every stream is left to others.  DecoderError: `keylog` names no file.
        """
        path = cls.keylog or os.environ.get("SSLKEYLOGFILE")
        if not path or Cipher is None:
            return False
        if cls.keylog and not os.path.exists(cls.keylog):
            raise DecoderError(f"{cls.name}: the key log {os.fspath(cls.keylog)!r} does not exist")
        data = bytes(data)
        if len(data) >= 6 and is_header(data) and data[0] == HANDSHAKE and data[5] in (1, 2):
            return True
        found = HELLO.search(data)
        if found is not None:                       # behind another protocol, or a proxy's
            at = found.start() + HEADER + 6         # the random follows two lengths and a version
            return KeyLog.at(path).knows(data[at:at + 32])
        return None if len(data) < PLAIN_SEEN else False

    # -- the three calls of the core

    def feed(self, direction, data, offset, ts):
        """Take a piece; give the units of the records that it completes."""
        side, data = self.sides[direction], bytes(data)
        start = offset - len(side.held)
        if side.searching and data:
            if not begins_records(data):
                return self.told(direction, ts, Unit(offset, offset + len(data), "other", None, data))
            side.searching, side.missed, side.lossy = False, True, True
            self.count("resync")
        side.held += data
        units, at = [], 0
        if not side.begun:
            at = self.plain(side) if data else 0
            units += [Unit(start, start + at, "other", None, bytes(side.held[:at]))] if at else []
        while side.begun and len(side.held) >= at + HEADER:
            if not is_header(side.held[at:at + HEADER]):
                self.count("bad_record")
                side.searching = True
                units.append(Unit(start + at, start + len(side.held), "other", None, bytes(side.held[at:])))
                at = len(side.held)
                break
            end = at + HEADER + int.from_bytes(side.held[at + 3:at + 5], "big")
            if len(side.held) < end:
                break
            units.append(self.record(direction, bytes(side.held[at:end]), start + at, start + end))
            at = end
        del side.held[:at]
        return self.told(direction, ts, *units)

    def plain(self, side):
        """Look for where TLS begins: how many of the held bytes are another protocol's."""
        held = side.held
        if not side.greeted:
            if len(held) < HEADER and 20 <= held[0] <= 24 and held[1:2] in (b"", b"\x03"):
                return 0
            if len(held) >= HEADER and is_header(held):
                side.begun = True
                return 0
            self.count("greeting")
            side.greeted = True
        found = HELLO.search(held)
        size = max(0, len(held) - HELLO_SEEN + 1) if found is None else found.start()
        side.begun = found is not None
        side.plain += size
        if side.plain > PLAIN_LIMIT:
            side.begun = side.searching = True
            return len(held)
        return size

    def gap(self, direction, offset, length, ts):
        """Give up the record in hand; numbers of records are found out behind the gap."""
        units = self.cut(direction, offset)
        side = self.sides[direction]
        side.begun = side.searching = True
        side.head.clear()
        side.skip = 0
        if self.inside is not None and self.inside.end(direction, ts):
            self.count("gap_in_inner")
        return self.told(direction, ts, *units, Unit(offset, offset + length, "gap"))

    def finish(self, direction, offset, ts):
        """Give what is held of a record that never came whole."""
        units = self.told(direction, ts, *self.cut(direction, offset))
        if self.inside is not None:
            self.inside.end(direction, ts)
            units += self.inside.units(direction)
            self.counters.update(self.inside.counters())
        return units

    def cut(self, direction, offset):
        """Give the beginning of a record that never came whole, as a list of units."""
        held = bytes(self.sides[direction].held)
        self.sides[direction].held.clear()
        return [Unit(offset - len(held), offset, "other", None, held)] if held else []

    def told(self, direction, ts, *units):
        """Give units, those of the decoder inside in the place of its plaintext."""
        if self.inside is None:
            return list(units)
        for unit in units:
            self.inside.take(direction, unit, ts)
        return self.inside.units(direction)

    # -- records

    def record(self, direction, record, start, end):
        """Make the unit of one record, and follow what it says of keys."""
        side, kind = self.sides[direction], record[0]
        info, text = TlsRecord(kind), record[HEADER:]
        if side.epoch == "sealed" or side.epoch != "plain" and kind == DATA:
            info.epoch, info.number = side.epoch, side.number
            opened = self.open(direction, record)
            if opened is None:
                side.number += 1
                return Unit(start, end, "record", info)
            info = TlsRecord(opened[0], side.epoch, side.number)
            kind, text = opened
            side.number += 1
        elif kind == DATA:
            self.count("no_secret")
            return Unit(start, end, "record", info)
        if kind == HANDSHAKE:
            info.messages = tuple(self.handshake(direction, text))
        elif kind == CHANGE_CIPHER_SPEC and not self.is_tls13():
            side.epoch, side.number, side.openers = "sealed", 0, None
        return Unit(start, end, KINDS.get(kind, "record"), info, text)

    def open(self, direction, record):
        """Open a sealed record: (content type, plaintext), the side's epoch and number set; else None, counted."""
        side = self.sides[direction]
        epochs = (side.epoch,)
        if side.epoch == "early" or side.lossy and side.epoch in EPOCHS:
            epochs = EPOCHS[EPOCHS.index(side.epoch):]
        tried = False
        for epoch in epochs:
            same = epoch == side.epoch
            openers = self.openers(direction, epoch) if side.openers is None or not same else side.openers
            if same:
                side.openers = openers
            first = side.number if same else 0
            for opener in openers:
                for number in range(first, first + (GAP_RECORDS if side.missed else 1)):
                    tried = True
                    opened = opener.open(record, number)
                    if opened is not None:
                        side.epoch, side.number, side.openers, side.missed = epoch, number, [opener], False
                        return opened
        if tried:
            self.count("undecryptable")
        elif self.suite is False:
            self.count("unknown_cipher")
        else:
            self.count("no_secret")
            side.openers = None             # the key log may have grown when the next one comes
        return None

    def openers(self, direction, epoch):
        """Derive the openers of an epoch; several where the cipher is not known yet."""
        client = direction == self.client
        if self.suite is False or self.random[0] is None:
            return []
        if epoch == "sealed":
            master = self.log.find(self.random[0], MASTER)
            if master is None or not self.suite or self.random[1] is None:
                return []
            return [openers12(self.version, self.suite, master, *self.random, self.encrypt_then_mac)[not client]]
        secret = self.log.find(self.random[0], LABELS.get((epoch, client)))
        if secret is None:
            return []
        size = len(secret)
        suites = [self.suite] if self.suite and epoch != "early" else [SUITES[0x1301 + n] for n in range(5)]
        return [Opener13(secret, suite) for suite in suites if size == (48 if suite.hash == "sha384" else 32)]

    def is_tls13(self):
        """Say whether the connection is TLS 1.3: before the server said so, whether the key log has its secrets."""
        if self.version is None:
            return self.random[0] is not None and self.log.find(self.random[0], LABELS["handshake", True]) is not None
        return self.version >= TLS13

    # -- handshake messages

    def handshake(self, direction, text):
        """Follow handshake messages; yields the names of those that end in this text."""
        side, at = self.sides[direction], 0
        while at < len(text):
            if side.skip:
                step = min(side.skip, len(text) - at)
                side.skip -= step
                at += step
            else:
                want = 4
                if len(side.head) >= 4:
                    want += int.from_bytes(side.head[1:4], "big")
                step = min(want - len(side.head), len(text) - at)
                side.head += text[at:at + step]
                at += step
                if len(side.head) < 4:
                    break
                size = int.from_bytes(side.head[1:4], "big")
                if side.head[0] in (1, 2) and size <= HELLO_LIMIT:
                    if len(side.head) < 4 + size:
                        continue
                elif size and len(side.head) == 4:
                    side.skip = size
                    continue
            if not side.skip:
                kind, body = side.head[0], bytes(side.head[4:])
                side.head.clear()
                self.message(direction, kind, body)
                yield NAMES.get(kind, f"message-{kind}")

    def message(self, direction, kind, body):
        """Follow one whole handshake message: which keys are next."""
        side = self.sides[direction]
        if kind in (1, 2):
            if not side.lossy:          # behind a gap anything may look like a hello
                self.hello(direction, kind, read_hello(body, kind))
        elif kind == 5 and side.epoch == "early":
            side.epoch, side.number, side.openers = "handshake", 0, None
        elif kind == 20 and side.epoch == "handshake":
            side.epoch, side.number, side.openers = "application", 0, None
        elif kind == 24 and side.epoch == "application" and side.openers:
            side.number, side.openers = 0, [side.openers[0].next()]

    def hello(self, direction, kind, hello):
        """Take what keys need from a hello."""
        if hello is None:
            self.count("bad_hello")
            self.random = [None, None]
            return
        version, random, cipher, extensions = hello
        if kind == 1:
            self.client, self.random = direction, [random, None]
            if self.version is None:
                side = self.sides[direction]
                side.epoch, side.number, side.openers = "early" if 42 in extensions else "handshake", 0, None
            return
        self.client = 1 - direction
        chosen = int.from_bytes(extensions.get(43, b""), "big") or version
        sides = [self.sides[direction], self.sides[1 - direction]]
        if chosen < TLS13:
            for side in sides if self.version is None else ():
                side.epoch, side.number, side.openers = "plain", 0, None
        elif random == RETRY:
            self.version = chosen
            sides[1].epoch, sides[1].openers = "handshake", None       # early data is refused
            return
        else:
            sides[0].epoch, sides[0].number, sides[0].openers = "handshake", 0, None
        self.version, self.random[1], self.suite = chosen, random, SUITES.get(cipher, False)
        self.encrypt_then_mac = 22 in extensions
