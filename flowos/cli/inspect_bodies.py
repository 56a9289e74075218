"""HTTP bodies: counted and digested as they come, their content coding undone on the way.

Nothing of a body is kept.  A coding that is unknown, or data that do not follow it, leave the
bytes as they were transferred; so does a body that unpacks to far more than it should (a
decompression bomb): past 64 MiB, more than a hundred times its size.
"""
import hashlib

from flowos.codings import Undecodable, decoders, unpack

BOMB_FLOOR = 64 << 20      # no body below this is a bomb
BOMB_RATIO = 100           # RFC 1951's own limit is 1032 to 1


class Body:
    """Counts and digests one message's body.

    >>> import zlib
    >>> body = Body("deflate"); body.feed(zlib.compress(b"plain")); body.finish(True)
    (5, 'a116c9ed46d6207734a43317d30fd88f52ac8634c37d904bbf4e41d865f90475', None)
    """

    def __init__(self, content_encoding=""):
        self.raw, self.raw_hash = 0, hashlib.sha256()
        self.size, self.hash = 0, hashlib.sha256()
        chain = decoders(content_encoding)
        self.problem = "unknown" if chain is None else None
        self.chain = chain or []

    def feed(self, data):
        """Take bytes of the body in order, transfer coding undone."""
        self.raw += len(data)
        self.raw_hash.update(data)
        if not self.chain or self.problem is not None:
            return
        try:
            for piece in unpack(self.chain, data):
                self.size += len(piece)
                self.hash.update(piece)
                if self.size > BOMB_FLOOR and self.size > BOMB_RATIO * self.raw:
                    raise Undecodable("bomb")
        except Undecodable as fault:
            self.problem = str(fault)

    def finish(self, complete):
        """Give (bytes, SHA-256 in hex, problem): of the decoded body, or of the raw one when
        `problem` (None, "unknown", "damaged", "cut", "bomb") says why it was not decoded."""
        if self.raw and complete and self.problem is None:
            if not all(decoder.ended() for decoder in self.chain):
                self.problem = "cut"
        if not self.chain or self.problem is not None:
            return self.raw, self.raw_hash.hexdigest(), self.problem
        return self.size, self.hash.hexdigest(), None
