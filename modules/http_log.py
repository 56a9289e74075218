"""Log HTTP transactions: each request beside the response that answered it.

    flowos run x.pcap --attach http_log --emit -

A record per transaction, when its response is whole or the connection ends.  Requests and
responses of a connection go together in order (RFC 9112 section 9.3.2); 1xx responses but 101
answer nothing yet.  What was never answered, and responses whose request was not seen, are told too.
"""
from collections import deque

from flowos import Module
from flowos.emit import ends

SWITCHING = 101


class HttpLog(Module):
    """Emit a record per HTTP request and its response.

    Keys: `ts` (ns, the request's or else the response's head), `connection`, `proto`, `a`, `b`,
    `method`, `host`, `uri`, `version`, `user_agent`, `referer`, `request_bytes`, `status`, `reason`,
    `server`, `content_type`, `content_encoding`, `response_bytes` (as transferred), `informational`
    (1xx statuses before it), `duration` (seconds to the response's end), `complete`.

    >>> from flowos import Engine
    >>> log, records = HttpLog(), []
    >>> log.emit = records.append
    >>> with Engine() as engine:
    ...     engine.add_port("examples/demo.pcap")
    ...     attachment = engine.attach(log)
    ...     engine.run()
    >>> records[0]["method"], records[0]["uri"], records[0]["status"], records[0]["response_bytes"]
    ('GET', '/index.html', 200, 596)
    """

    name = "http_log"
    protocol = "http"

    def __init__(self):
        self.talks = {}                    # connection -> Talk, of those that live
        self.alone = {}                    # connection -> its handle, where a response waits for a request

    def process(self, window):
        connection = window.connection
        talk = self.talks.get(connection.id)
        if talk is None:
            talk = self.talks[connection.id] = Talk()
        for unit in window.units:
            kind = unit.kind
            if kind == "end":
                talk.ended(window.direction, unit)
            elif kind in ("request", "response") and unit.info is not None:
                talk.begun(window.direction, unit, unit.info)
        self.settle(connection, talk)
        if talk.waiting and talk.waiting[0].request is None:
            self.alone[connection.id] = connection

    def settle(self, connection, talk, now=0):
        """Tell the transactions that are over, oldest first; `now`: all before that time was delivered."""
        while talk.waiting and talk.waiting[0].over(now):
            self.emit(talk.waiting.popleft().record(ends(connection)))

    def tick(self, now):
        alone, self.alone = self.alone, {}
        for number, connection in alone.items():
            if number in self.talks:
                self.settle(connection, self.talks[number], now)

    def closed(self, connection, reason):
        talk = self.talks.pop(connection.id, None)
        if talk is not None:
            for transaction in talk.waiting:
                self.emit(transaction.record(ends(connection)))


class Talk:
    """The transactions of one connection that are not told yet, in the order of their requests.

    Directions are lent one after the other, so a response may come before its request: it waits
    for one that is no younger.
    """

    def __init__(self):
        self.waiting = deque()
        self.current = [None, None]        # direction -> (transaction, whether the message is a response)

    def begun(self, direction, unit, head):
        """Take a message's head."""
        response, ts = head.kind == "response", unit.ts
        informational = response and 100 <= (head.status or 0) < 200 and head.status != SWITCHING
        if response:
            match = next((other for other in self.waiting if other.response is None and other.request), None)
        else:
            match = next((other for other in self.waiting if other.request is None and other.ts >= ts), None)
        if match is None:
            match = Transaction(ts)
            self.waiting.append(match)
        if informational:
            match.informational.append(head.status)
            self.current[direction] = None
        elif response:
            match.response = head
            self.current[direction] = (match, True)
        else:
            match.request, match.ts = head, ts
            self.current[direction] = (match, False)

    def ended(self, direction, unit):
        """Take a message's end."""
        current, self.current[direction] = self.current[direction], None
        if current is not None:
            transaction, response = current
            transaction.sizes[response] = unit.value or 0
            transaction.lasts[response] = unit.ts
            transaction.whole[response] = not unit.incomplete


class Transaction:
    """A request and its response, as far as they came."""

    def __init__(self, ts):
        self.ts = ts
        self.request = self.response = None
        self.informational = []
        self.sizes, self.lasts, self.whole = [0, 0], [None, None], [False, False]   # [request's, response's]

    def over(self, now):
        """Say whether both messages ended; of a response that came alone before `now`, whether it did."""
        if self.request is None and self.ts >= now:
            return False
        return self.lasts[1] is not None and (self.request is None or self.lasts[0] is not None)

    def record(self, connection):
        """Make the record; `connection` is how it begins."""
        request, response = self.request, self.response
        return {
            "ts": self.ts, **connection,
            "method": request and request.method, "host": request and request.host, "uri": request and request.uri,
            "version": request and request.version or None, "user_agent": field(request, "user-agent"),
            "referer": field(request, "referer"), "request_bytes": self.sizes[0],
            "status": response and response.status, "reason": response and response.reason,
            "server": field(response, "server"), "content_type": field(response, "content-type"),
            "content_encoding": field(response, "content-encoding"), "response_bytes": self.sizes[1],
            "informational": self.informational,
            "duration": None if self.lasts[1] is None else (self.lasts[1] - self.ts) / 1e9,
            "complete": all(self.whole),
        }


def field(head, name):
    """Give a header field as text, or None."""
    value = None if head is None else head.get(name)
    return None if value is None else value.decode("latin-1")
