"""Log HTTP exchanges: each request beside the response that answered it.

    flowos run x.pcap --attach http_log --emit -

A record per exchange, when its response is whole or the connection ends.  What was never answered,
and responses whose request was not seen, are told too.
"""
from flowos.emit import ends
from flowos.exchanges import ExchangeModule


class HttpLog(ExchangeModule):
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

    def exchanged(self, connection, exchange):
        request, response, last = exchange.request, exchange.response, exchange.lasts[1]
        self.emit({
            "ts": exchange.ts, **ends(connection),
            "method": request and request.method, "host": request and request.host, "uri": request and request.uri,
            "version": request and request.version or None, "user_agent": field(request, "user-agent"),
            "referer": field(request, "referer"), "request_bytes": exchange.sizes[0],
            "status": response and response.status, "reason": response and response.reason,
            "server": field(response, "server"), "content_type": field(response, "content-type"),
            "content_encoding": field(response, "content-encoding"), "response_bytes": exchange.sizes[1],
            "informational": exchange.informational,
            "duration": None if last is None else (last - exchange.ts) / 1e9,
            "complete": all(exchange.whole),
        })


def field(head, name):
    """Give a header field as text, or None."""
    value = None if head is None else head.get(name)
    return None if value is None else value.decode("latin-1")
