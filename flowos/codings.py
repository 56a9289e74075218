"""Content codings of HTTP undone as the bytes come: gzip, deflate, brotli, zstd (RFC 9110 section 8.4.1).

A decoder's `feed(data)` yields pieces of at most 64 KiB or so, whatever the ratio, so that a
decompression bomb can be met piece by piece; `ended()` says whether the coded data came to their end.
"""
import importlib
import zlib

PIECE = 1 << 16            # most bytes unpacked at a time
ZSTD_WINDOW = 8 << 20      # RFC 9659: the largest window allowed as a content coding
MOST_CODINGS = 4           # one over another; nobody sends more than two


class Undecodable(Exception):
    """The body does not follow its content coding; the message names the reason."""


class Deflate:
    """gzip and deflate, the latter with and without its zlib header (RFC 9110 8.4.1.2)."""

    def __init__(self, gzip):
        self.gzip = gzip
        self.inner = None
        self.head = b""

    def feed(self, data):
        """Give what `data` unpacks to, in pieces of at most PIECE bytes."""
        data = self.head + bytes(data) if self.head else data
        self.head = b""
        while len(data):
            if self.inner is None or self.inner.eof:
                if len(data) < 2:
                    self.head = bytes(data)      # two bytes tell what begins here
                    return
                if not self.begin(data):
                    return
            try:
                piece = self.inner.decompress(data, PIECE)
            except zlib.error:
                raise Undecodable("damaged") from None
            if piece:
                yield piece
            data = self.inner.unconsumed_tail or self.inner.unused_data

    def begin(self, data):
        """Begin a member; False at padding behind the end, which is ignored as browsers do."""
        if self.inner is not None and not (self.gzip and bytes(data[:2]) == b"\x1f\x8b"):
            return False                         # RFC 1952 2.2: only gzip members follow each other
        wrapped = data[0] & 15 == 8 and (data[0] << 8 | data[1]) % 31 == 0
        self.inner = zlib.decompressobj(31 if self.gzip else 15 if wrapped else -15)
        return True

    def ended(self):
        """Say whether the coded data came to their end."""
        return self.inner is not None and self.inner.eof


class Pushed:
    """A decoder that unpacks all it is given at once: it is given little at a time."""

    def __init__(self, decode, errors, ended, step):
        self.decode, self.errors, self.ended, self.step = decode, errors, ended, step

    def feed(self, data):
        """Give what `data` unpacks to, in pieces."""
        view = memoryview(data)
        for at in range(0, len(view), self.step):
            if self.ended():
                return
            try:
                piece = self.decode(bytes(view[at:at + self.step]))
            except self.errors:
                raise Undecodable("damaged") from None
            if piece:
                yield piece


def optional(*names):
    """Import the first of these modules that is installed; None when none is."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def brotli():
    """Make a decoder for `br`, or None without a module for it."""
    module = optional("brotli", "brotlicffi")
    if module is None:
        return None
    inner = module.Decompressor()
    decode = getattr(inner, "process", None) or inner.decompress
    return Pushed(decode, module.error, inner.is_finished, 64)


def zstd():
    """Make a decoder for `zstd`, or None without a module for it."""
    module = optional("zstandard")
    if module is None:
        return None
    inner = module.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj()
    # a frame's block of four bytes may unpack to 128 KiB: 1 KiB in, 32 MiB out at the most
    return Pushed(inner.decompress, module.ZstdError, lambda: inner.eof, 1024)


CODINGS = {"gzip": lambda: Deflate(True), "x-gzip": lambda: Deflate(True),
           "deflate": lambda: Deflate(False), "br": brotli, "zstd": zstd}


def decoders(content_encoding):
    """Make the decoders that undo a Content-Encoding, in order; None when one is unknown.

    >>> [type(decoder).__name__ for decoder in decoders("identity, gzip")]
    ['Deflate']
    >>> decoders("rot13") is None
    True
    """
    names = [name.strip().lower() for name in content_encoding.split(",")]
    names = [name for name in reversed(names) if name not in ("", "identity")]
    if len(names) > MOST_CODINGS:
        return None
    chain = [CODINGS.get(name, lambda: None)() for name in names]
    return None if None in chain else chain


def unpack(chain, data):
    """Yield what some decoders, one behind the other, make of the next bytes; Undecodable where they fail.

    >>> b"".join(unpack(decoders("gzip"), zlib.compress(b"plain", wbits=31)))
    b'plain'
    """
    if not chain:
        yield data
        return
    for piece in chain[0].feed(data):
        yield from unpack(chain[1:], piece)
