"""HTTP exchanges: each request beside the response that answers it, for modules that want both.

A module is lent the directions of a connection one after the other, so a response may come before
its request although it was sent behind it.  Here they are put together: in order, as RFC 9112
section 9.3.2 has it, and never a request with a response that is older.
"""
from collections import deque

from flowos.module import Module

SWITCHING = 101            # the one 1xx status that is a final answer
MOST_WAITING = 1024        # exchanges kept per connection: of a capture of one side none is ever over


class Exchange:
    """A request and its response, as far as they came.

    `ts` is the request's time, or the response's where that came alone; `request` and `response` are
    heads or None; `informational` lists the 1xx statuses before the response.  Pairs are [of the
    request, of the response]: `sizes` of the bodies as transferred, `lasts` (times of the ends; None:
    under way) and `whole`.
    """

    def __init__(self, ts):
        self.ts = ts
        self.request = self.response = None
        self.informational = []
        self.sizes, self.lasts, self.whole = [0, 0], [None, None], [False, False]

    def over(self, now):
        """Say whether both messages ended; of a response that came alone before `now`, whether it did."""
        if self.request is None and self.ts >= now:
            return False
        return self.lasts[1] is not None and (self.request is None or self.lasts[0] is not None)


class Exchanges:
    """The exchanges of one connection that are not over yet, in the order of their requests."""

    def __init__(self):
        self.waiting = deque()
        self.current = [None, None]        # direction -> (exchange, 1: the message in hand is the response)

    def head(self, direction, unit, head):
        """Take a message's head; give (exchange, 0: request or 1: response)."""
        side, ts = int(head.kind == "response"), unit.ts
        informational = side and 100 <= (head.status or 0) < 200 and head.status != SWITCHING
        if side:
            match = next((other for other in self.waiting if other.response is None and other.request), None)
        else:
            match = next((other for other in self.waiting if other.request is None and other.ts >= ts), None)
        if match is None:
            match = Exchange(ts)
            self.waiting.append(match)
        if informational:
            match.informational.append(head.status)
            self.current[direction] = None
            return None
        if side:
            match.response = head
        else:
            match.request, match.ts = head, ts
        self.current[direction] = (match, side)
        return match, side

    def end(self, direction, unit):
        """Take a message's end; give (exchange, side), or None where its head was not seen."""
        current, self.current[direction] = self.current[direction], None
        if current is not None:
            exchange, side = current
            exchange.sizes[side] = unit.value or 0
            exchange.lasts[side] = unit.ts
            exchange.whole[side] = not unit.incomplete
        return current

    def over(self, now=0):
        """Yield, and forget, the exchanges that are over; all that came before `now` was delivered."""
        while self.waiting and self.waiting[0].over(now):
            yield self.waiting.popleft()


class ExchangeModule(Module):
    """The base of modules that work on HTTP exchanges: override `exchanged`, and `head`, `body`, `end` if needed."""

    protocol = "http"

    def __init__(self):
        self.talks = {}                    # connection -> Exchanges, of those that live
        self.alone = {}                    # connection -> its handle, where a response waits for a request

    def head(self, exchange, side):
        """Hear of a head; `side` is 0 for the request, 1 for the response."""

    def body(self, exchange, side, unit):
        """Hear of bytes of a body."""

    def end(self, exchange, side):
        """Hear that a message ended."""

    def exchanged(self, connection, exchange):
        """Hear of an exchange that is over, oldest first, or that the connection's end cut short."""

    def process(self, window):
        """Put the messages of a window where they belong."""
        connection, direction = window.connection, window.direction
        talk = self.talks.get(connection.id)
        if talk is None:
            talk = self.talks[connection.id] = Exchanges()
        for unit in window.units:
            kind = unit.kind
            if kind == "body":
                if talk.current[direction] is not None:
                    self.body(*talk.current[direction], unit)
            elif kind == "end":
                if (ended := talk.end(direction, unit)) is not None:
                    self.end(*ended)
            elif kind in ("request", "response") and unit.info is not None:
                if (begun := talk.head(direction, unit, unit.info)) is not None:
                    self.head(*begun)
        for exchange in talk.over():
            self.exchanged(connection, exchange)
        while len(talk.waiting) > MOST_WAITING:
            self.exchanged(connection, talk.waiting.popleft())
        if talk.waiting and talk.waiting[0].request is None:
            self.alone[connection.id] = connection

    def tick(self, now):
        """Settle the responses whose request did not come."""
        alone, self.alone = self.alone, {}
        for number, connection in alone.items():
            if number in self.talks:
                for exchange in self.talks[number].over(now):
                    self.exchanged(connection, exchange)

    def closed(self, connection, reason):
        """Tell the exchanges that were under way."""
        talk = self.talks.pop(connection.id, None)
        self.alone.pop(connection.id, None)
        if talk is not None:
            for exchange in talk.waiting:
                self.exchanged(connection, exchange)
