"""Extract files from HTTP: responses' bodies, and uploads when asked for, into a folder.

    flowos run x.pcap --attach extract:directory=files --emit files/index.jsonl

A file holds the body with its content coding (gzip, deflate, zstd, brotli) undone; where that fails
it holds the bytes as transferred, and its record says so.  Ranges of one resource (RFC 9110 section 14)
are put together.  Names come from the wire, so nothing of them is trusted: they are plain names in
the folder, no existing file is ever written to, and a body ends at `max_bytes`.
"""
import hashlib
import os
import re
import tempfile
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes

from flowos import UsageError
from flowos.codings import Undecodable, decoders, unpack
from flowos.emit import ends
from flowos.exchanges import ExchangeModule

CONTENT_RANGE = re.compile(r"bytes\s+(\d{1,18})-(\d{1,18})/(\d{1,18}|\*)\s*$")
DISPOSITION = re.compile(r"""filename(\*?)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;]+))""", re.I)
UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202f\u2066-\u2069/\\\\:*?\"<>|]+")
NAME_BYTES = 160           # well below the 255 that file systems allow, with room for a number
IN_MEMORY = 1 << 18        # bytes of a body before it moves to a temporary file
MOST_PARTIAL = 256         # resources of which ranges wait for more; the oldest is written as it is
COPIED = 1 << 16           # bytes copied or unpacked at a time


class Extract(ExchangeModule):
    """Write the bodies of HTTP messages to files, and emit a record for each.

    `directory` is made if need be; `types` keeps content types that begin so (`image/`), `uploads` adds
    requests' bodies and `errors` those of redirections and errors, `decode` undoes content codings, `max_bytes`
    bounds each file.  Keys: `ts`,
    `connection`, `proto`, `a`, `b`, `host`, `uri`, `status`, `content_type`, `file`, `bytes`, `sha256`,
    `complete` (all of it was captured), `problem` ("unknown coding", "damaged", "cut", or None).

    >>> import tempfile
    >>> from flowos import Engine
    >>> with tempfile.TemporaryDirectory() as folder, Engine() as engine:
    ...     engine.add_port("examples/demo.pcap")
    ...     attachment = engine.attach(Extract(Path(folder), types=["text/css"]))
    ...     engine.run()
    ...     sorted(path.name for path in Path(folder).iterdir())
    ['style-2.css', 'style-3.css', 'style-4.css', 'style.css']
    """

    name = "extract"

    def __init__(self, directory: Path = Path("extracted"), types: list[str] = (), uploads: bool = False,
                 errors: bool = False, decode: bool = True, max_bytes: int = 1 << 30):
        super().__init__()
        if max_bytes < 1:
            raise UsageError(f"extract: max_bytes is {max_bytes}, expected at least 1")
        self.directory, self.types, self.uploads = Path(directory), tuple(kind.lower() for kind in types), uploads
        self.errors, self.decode, self.max_bytes = errors, decode, max_bytes
        self.partial = {}                  # (host, uri, validator, length) -> Partial

    def start(self, flow):
        self.directory.mkdir(parents=True, exist_ok=True)

    def head(self, exchange, side):
        head = exchange.response if side else exchange.request
        if not side and not self.uploads or side and not self.errors and (head.status or 0) >= 300:
            return
        if not text(head, "content-type").lower().startswith(self.types or ""):
            return
        if not hasattr(exchange, "bodies"):
            exchange.bodies = [None, None]
        exchange.bodies[side] = Body(self.max_bytes)

    def body(self, exchange, side, unit):
        body = getattr(exchange, "bodies", (None, None))[side]
        if body is not None:
            body.put(unit.value or 0, unit.data)

    def exchanged(self, connection, exchange):
        for side, body in enumerate(getattr(exchange, "bodies", ())):
            if body is not None and body.end:
                head = exchange.response if side else exchange.request
                request = exchange.request
                record = {
                    "ts": exchange.ts, **ends(connection), "host": request and request.host,
                    "uri": request and request.uri, "status": head.status, "content_type": text(head, "content-type") or None,
                }
                body.whole = exchange.whole[side]
                self.keep(record, head, body)

    def keep(self, record, head, body):
        """Write a body, or put it with the other ranges of its resource."""
        found = CONTENT_RANGE.match(text(head, "content-range")) if head.status == 206 else None
        if found is None or found[3] == "*" or not int(found[1]) <= int(found[2]) < int(found[3]) <= self.max_bytes:
            self.write(record, head, body)
            return
        first, length = int(found[1]), int(found[3])
        key = (record["host"], record["uri"], text(head, "etag") or text(head, "last-modified"), length)
        if key not in self.partial:
            if len(self.partial) >= MOST_PARTIAL:
                self.give_up(next(iter(self.partial)))
            self.partial[key] = (record, head, Body(length))
        whole = self.partial[key][2]
        for start, piece in body.pieces():
            whole.put(first + start, piece)
        body.close()
        if whole.covered == [(0, length)]:
            whole.whole = True
            self.write(*self.partial.pop(key))

    def give_up(self, key):
        """Write the ranges of a resource that never came whole: holes are zeros."""
        self.write(*self.partial.pop(key))

    def write(self, record, head, body):
        """Write a body to a file of its own and emit its record."""
        complete = body.whole and body.covered == [(0, body.end)] and not body.cut
        codings = text(head, "content-encoding") if self.decode else ""
        path, file = self.create(file_name(head, record["uri"]))
        with file:
            digest, size, problem = self.pour(body, codings, file, complete)
        body.close()
        self.emit({**record, "file": path.name, "bytes": size, "sha256": digest, "complete": complete,
                   "problem": "cut" if body.cut else problem})

    def pour(self, body, codings, file, complete):
        """Copy a body into a file with its codings undone if they can be; give (SHA-256, bytes, problem)."""
        chain, problem = decoders(codings), None
        if chain is None:
            chain, problem = [], "unknown coding"
        try:
            digest, size, cut = self.copy(body, chain, file)
            if cut or complete and not all(coding.ended() for coding in chain):
                problem = "cut"
        except Undecodable:
            file.seek(0)
            file.truncate()
            (digest, size, _), problem = self.copy(body, [], file), "damaged"
        return digest, size, problem

    def copy(self, body, chain, file):
        """Copy what the decoders make of a body: (SHA-256, bytes, whether the limit cut it)."""
        digest, size = hashlib.sha256(), 0
        for data in body.read():
            for piece in unpack(chain, data):
                part = piece[:self.max_bytes - size]
                file.write(part)
                digest.update(part)
                size += len(part)
                if len(part) < len(piece):
                    return digest.hexdigest(), size, True
        return digest.hexdigest(), size, False

    def create(self, name):
        """Create a file of this name, or of one like it that is free: (path, file)."""
        stem, suffix = os.path.splitext(name)
        number = 1
        while True:
            path = self.directory / (name if number == 1 else f"{stem}-{number}{suffix}")
            try:
                return path, open(path, "xb")
            except FileExistsError:
                number += 1

    def stop(self):
        while self.partial:
            self.give_up(next(iter(self.partial)))


class Body:
    """The bytes of one body, put at their places; what is missing between them reads as zeros."""

    def __init__(self, limit):
        self.limit, self.cut, self.whole = limit, False, False
        self.file = tempfile.SpooledTemporaryFile(IN_MEMORY, prefix="flowos-")
        self.covered = []                  # [(start, end), …], ascending, not touching

    @property
    def end(self):
        """The offset behind the last byte."""
        return self.covered[-1][1] if self.covered else 0

    def put(self, at, data):
        """Put bytes at an offset; what lies beyond the limit is cut off."""
        if at + len(data) > self.limit:
            self.cut = True
            data = data[:max(self.limit - at, 0)]
        if not len(data):
            return
        self.file.seek(at)
        self.file.write(data)
        self.covered = joined([*self.covered, (at, at + len(data))])

    def pieces(self):
        """Yield (offset, bytes) of what was put."""
        for start, end in self.covered:
            self.file.seek(start)
            for at in range(start, end, COPIED):
                yield at, self.file.read(min(COPIED, end - at))

    def read(self):
        """Yield the bytes from the first to the last."""
        self.file.seek(0)
        while data := self.file.read(COPIED):
            yield data

    def close(self):
        """Drop the bytes."""
        self.file.close()


def joined(ranges):
    """Join ranges that touch or overlap.

    >>> joined([(5, 9), (0, 5), (12, 13), (8, 10)])
    [(0, 10), (12, 13)]
    """
    found = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def text(head, name):
    """Give a header field as text; "" where there is none."""
    value = head.get(name)
    return "" if value is None else value.decode("latin-1")


def file_name(head, uri):
    """Give a safe file name for a message: what it says of itself, or the end of its URI."""
    given = ""
    for star, quoted, bare in DISPOSITION.findall(text(head, "content-disposition")):
        value = re.sub(r"\\(.)", r"\1", quoted) or bare
        if star:                           # RFC 8187: charset'language'percent-encoded
            charset, _, encoded = value.partition("'")
            data = unquote_to_bytes(encoded.partition("'")[2])
            value = data.decode("utf-8" if charset.lower() == "utf-8" else "latin-1", "replace")
        given = value if star or not given else given
    if not given:
        path = re.sub(r"^[a-z]+://[^/]*", "", uri or "", flags=re.I).partition("?")[0].partition("#")[0]
        given = unquote(path.rpartition("/")[2])
    return safe_name(re.split(r"[/\\]", given)[-1]) or "index.html" * ("html" in text(head, "content-type")) or "unnamed"


def safe_name(name):
    """Make a name that is safe to create in a folder; "" where nothing of it is left.

    >>> safe_name("a\\0b?.txt"), safe_name(".."), safe_name("  .hidden "), len(safe_name("x" * 999 + ".tar"))
    ('a_b_.txt', '', 'hidden', 160)
    """
    name = UNSAFE.sub("_", name).strip().strip(".").strip()
    stem, suffix = os.path.splitext(name)
    suffix = suffix if len(suffix.encode()) <= 16 else ""
    stem = stem if suffix else name
    room = NAME_BYTES - len(suffix.encode())
    return stem.encode("utf-8", "replace")[:room].decode("utf-8", "ignore") + suffix
