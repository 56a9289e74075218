"""The web trace: HTTP/1.1 over TCP with reordering, retransmission and acknowledgements.

Each connection carries requests and responses in turn, kept alive, then closes with FINs.
Response sizes follow Pareto's law; four in ten are chunked, the others give their length; eight
in ten bodies are text, and half of those have PATTERN in them now and then.

Of the data segments 1 % arrive one to three places late and 0.5 % are retransmitted: half of
these were seen before, half were lost before the capture, so that only the late copy is there.
The receiver acknowledges every second segment, and at once what comes out of order.

All is computed on columns, over the segments of all connections at once.
"""
import zlib

import numpy as np

import frames
from text import words

PATTERN = b"SECRETWORD!"
SEGMENT = 1448                          # 1500 less the IP header and a TCP header with timestamps
CONNECTIONS, RESPONSE_BYTES = 2000, 290_000_000
_AGENT = (b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n"
          b"Accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en\r\nConnection: keep-alive\r\n")


def response_sizes(rng, total):
    """Draw body sizes until they reach `total`: Pareto 1.2 from 6 kB, at most 4 MB."""
    sizes = np.minimum(6000 * (1 + rng.pareto(1.2, total // 6000 + 16)), 4_000_000).astype(np.int64)
    return sizes[:max(1, int(np.searchsorted(np.cumsum(sizes), total)))]


class Bodies:
    """Draws bodies of a size, and counts what it drew."""

    def __init__(self, rng):
        self.rng = rng
        self.text = words(rng, 8 << 20)
        self.noise = rng.bytes(8 << 20)
        self.patterns = self.with_pattern = self.bytes = 0

    def draw(self, size):
        """Give one body and its media type."""
        rng, text = self.rng, self.rng.random() < 0.8
        source = self.text if text else self.noise
        at = int(rng.integers(0, len(source) - size))
        body = source[at:at + size]
        if text and rng.random() < 0.5:
            changed, count = bytearray(body), 0
            place = int(rng.exponential(8000))
            while place + len(PATTERN) <= size:
                changed[place:place + len(PATTERN)] = PATTERN
                count += 1
                place += len(PATTERN) + 1 + int(rng.exponential(40_000))
            body = bytes(changed)
            self.patterns += count
            self.with_pattern += count > 0
        self.bytes += size
        return body, b"text/html; charset=utf-8" if text else b"application/octet-stream"


def chunked(rng, body):
    """Give a body as chunks of 1 to 16 kB and the last, empty one."""
    parts, at = [], 0
    for size in rng.choice([1024, 4096, 8192, 8192, 16384], len(body) // 1024 + 1).tolist():
        part = body[at:at + size]
        at += size
        if not part:
            break
        parts += b"%x\r\n" % len(part), part, b"\r\n"
    parts.append(b"0\r\n\r\n")
    return b"".join(parts)


def messages(rng, sizes, connections, truth):
    """Make the requests and responses of every connection, in order.

    Returns all their bytes in one array, and of each message its connection, its direction
    (0 from the client) and its length.
    """
    bodies, parts, rows, crcs = Bodies(rng), [], [], {}
    owner = np.sort(np.concatenate([np.arange(connections), rng.integers(0, connections, len(sizes))])[:len(sizes)])
    truth.update(responses=len(sizes), chunked=0)

    def add(connection, direction, message):
        parts.append(message)
        rows.append((connection, direction, len(message)))
        key = connection * 2 + direction
        crcs[key] = zlib.crc32(message, crcs.get(key, 0))

    for number, (connection, size) in enumerate(zip(owner.tolist(), sizes.tolist())):
        add(connection, 0, b"GET /%s/%d HTTP/1.1\r\nHost: www%d.example.net\r\n%sCookie: session=%s\r\n\r\n" % (
            (b"static", b"api/v1", b"img", b"news")[number % 4], number, connection % 50, _AGENT,
            rng.bytes(16).hex().encode()))
        body, media = bodies.draw(size)
        head = b"HTTP/1.1 200 OK\r\nServer: example\r\nDate: Tue, 14 Nov 2023 22:13:20 GMT\r\nContent-Type: %s\r\n" % media
        if rng.random() < 0.4:
            truth["chunked"] += 1
            message = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(rng, body)
        else:
            message = head + b"Content-Length: %d\r\n\r\n" % size + body
        add(connection, 1, message)
    stream = b"".join(parts)
    truth.update(body_bytes=bodies.bytes, patterns=bodies.patterns, responses_with_pattern=bodies.with_pattern,
                 stream_bytes=len(stream), streams_crc=sum(crcs.values()),
                 patterns_in_streams=sum(part.count(PATTERN) for part in parts))
    return np.frombuffer(stream, np.uint8), np.array(rows, np.int64).reshape(-1, 3).T


def deliver(rng, message_of, index_of, truth):
    """Decide in which order segments arrive: numbers of segments, one per arrival, some of them twice."""
    count = len(message_of)
    chance = rng.random(count)
    last = np.diff(message_of, append=-1) != 0
    moved = (chance < 0.01) & ~last
    twice = (chance >= 0.01) & (chance < 0.0125)
    once = (chance >= 0.0125) & (chance < 0.015)
    key = index_of + np.where(moved, rng.choice([1.5, 1.5, 2.5, 3.5], count), np.where(once, 8.5, 0.0))
    again = np.flatnonzero(twice)
    segment = np.concatenate([np.arange(count), again])
    key = np.concatenate([key, index_of[again] + 10.5])
    truth.update(data_segments=len(segment), reordered=int(moved.sum()), retransmitted=int((twice | once).sum()))
    return segment[np.lexsort((key, message_of[segment]))]


def acknowledge(arrivals, message_of, end_of, start_of):
    """Play the receiver: which arrivals it answers at once, and up to which byte it has all.

    `end_of` and `start_of` are stream positions of segments.  A segment counts once it and all
    before it arrived; messages do not overlap, so one pass over all connections does.
    """
    count, when = len(message_of), np.arange(len(arrivals))
    came = np.full(count, len(arrivals))
    np.minimum.at(came, arrivals, when)
    complete = np.maximum.accumulate(came)
    whole = np.searchsorted(complete, when, "right")            # segments complete after each arrival
    before = np.concatenate([[0], whole[:-1]])
    message = message_of[arrivals]
    opens = np.diff(message, prepend=-1) != 0
    ends = np.diff(message, append=-1) != 0
    first_segment = np.searchsorted(message_of, message)
    reached = np.where(whole > first_segment, end_of[whole - 1], start_of[first_segment])
    in_order = arrivals == np.where(opens, first_segment, before)
    nth = when - np.maximum.accumulate(np.where(opens, when, 0))
    return (nth % 2 == 1) | ends | ~in_order | (whole - before > 1), reached


def positions(owner, direction, length):
    """Give where each message begins in its own stream, and how far the other direction's stream was then."""
    first = np.searchsorted(owner, owner)                       # the first message of the same connection
    sent = []
    for way in (0, 1):
        moved = np.where(direction == way, length, 0)
        before = np.cumsum(moved) - moved
        sent.append(before - before[first])
    return np.where(direction == 0, sent[0], sent[1]), np.where(direction == 0, sent[1], sent[0])


EVENT = np.dtype([("connection", "i8"), ("order", "i8"), ("rank", "i8"),    # sorted by these three
                  ("way", "i8"), ("flags", "u1"), ("seq", "i8"), ("ack", "i8"), ("at", "i8"), ("length", "i8"),
                  ("pause", "f8")])                                         # microseconds since the event before


def events(connection, **columns):
    """Make events, one per connection given; columns that are not named are 0."""
    rows = np.zeros(len(connection), EVENT)
    rows["connection"] = connection
    for name, column in columns.items():
        rows[name] = column
    return rows


def opening_and_closing(connections, total, round_trip, after):
    """Make the three packets at either end of every connection; `total` bytes were sent each way."""
    every, syn, ack, fin = np.arange(connections), frames.SYN, frames.ACK, frames.FIN
    return [
        events(every, order=-1, rank=0, flags=syn, seq=-1),
        events(every, order=-1, rank=1, way=1, flags=syn | ack, seq=-1, pause=round_trip),
        events(every, order=-1, rank=2, flags=ack, pause=200),
        events(every, order=after, rank=0, flags=fin | ack, seq=total[0], ack=total[1], pause=round_trip),
        events(every, order=after, rank=1, way=1, flags=fin | ack, seq=total[1], ack=total[0] + 1, pause=300),
        events(every, order=after, rank=2, flags=ack, seq=total[0] + 1, ack=total[1] + 1, pause=round_trip),
    ]


def transfers(rng, owner, direction, length, round_trip, truth):
    """Make the data segments as they arrive, and the acknowledgements."""
    position, peer_position = positions(owner, direction, length)
    in_pool = np.cumsum(length) - length
    segments = -(-length // SEGMENT)
    message_of = np.repeat(np.arange(len(length)), segments)
    index_of = np.arange(len(message_of)) - np.repeat(np.cumsum(segments) - segments, segments)
    start_of = position[message_of] + index_of * SEGMENT
    size_of = np.minimum(SEGMENT, length[message_of] - index_of * SEGMENT)
    arrivals = deliver(rng, message_of, index_of, truth)
    answered, reached = acknowledge(arrivals, message_of, start_of + size_of, start_of)

    message, order = message_of[arrivals], np.arange(len(arrivals))
    way, start, size = direction[message], start_of[arrivals], size_of[arrivals]
    opens = np.diff(message, prepend=-1) != 0
    think = np.where(way == 1, round_trip[owner[message]], rng.exponential(300_000, len(message)))
    final = start + size == (position + length)[message]
    data = events(owner[message], order=order, way=way, seq=start, ack=peer_position[message],
                  flags=np.where(final, frames.PSH | frames.ACK, frames.ACK),
                  at=in_pool[message] + index_of[arrivals] * SEGMENT, length=size,
                  pause=12 + rng.exponential(60, len(message)) + np.where(opens, think, 0))
    told = np.flatnonzero(answered)
    message = message[told]
    truth["acknowledgements"] = len(told)
    return data, events(owner[message], order=order[told], rank=1, way=1 - direction[message], flags=frames.ACK,
                        seq=peer_position[message], ack=reached[told], pause=8)


def packets_of(rng, event, connections):
    """Number and address the events of each connection, which come sorted, and give them a time."""
    connection, way, flags = event["connection"], event["way"], event["flags"]
    packets = np.zeros(len(event), frames.PACKET)
    for name in ("flags", "at", "length"):
        packets[name] = event[name]
    clock = np.cumsum(event["pause"])
    opening = np.searchsorted(connection, np.arange(connections))
    packets["time"] = rng.integers(0, 30_000_000, connections)[connection] + clock - clock[opening][connection]

    initial = rng.integers(0, 1 << 32, (2, connections))
    packets["seq"] = (initial[way, connection] + 1 + event["seq"]) & 0xFFFFFFFF
    packets["ack"] = np.where(flags & frames.ACK, (initial[1 - way, connection] + 1 + event["ack"]) & 0xFFFFFFFF, 0)
    client = 10 << 24 | 1 << 16 | connection
    server = 192 << 24 | 168 << 16 | 1 + connection % 50
    port = 20_000 + connection * 7919 % 40_000
    packets["source"], packets["destination"] = np.where(way == 0, client, server), np.where(way == 0, server, client)
    packets["sport"], packets["dport"] = np.where(way == 0, port, 80), np.where(way == 0, 80, port)
    packets["layout"] = np.where(flags & frames.SYN, frames.TCP_OPENING, frames.TCP_STAMPED)
    packets["proto"], packets["fragment"] = 6, frames.DO_NOT_FRAGMENT
    packets["identification"] = np.arange(len(packets)) & 0xFFFF
    return packets


def web(scale, seed):
    """Give the packets, the pool of payloads and the truth of the web trace."""
    rng, truth = np.random.default_rng(seed), {}
    sizes = response_sizes(rng, max(100_000, round(RESPONSE_BYTES * scale)))
    connections = min(max(1, round(CONNECTIONS * min(scale, 1))), len(sizes))
    pool, (owner, direction, length) = messages(rng, sizes, connections, truth)
    round_trip = rng.integers(5_000, 80_000, connections)
    data, acknowledgements = transfers(rng, owner, direction, length, round_trip, truth)
    total = [np.bincount(owner[direction == way], length[direction == way], connections).astype(np.int64)
             for way in (0, 1)]
    event = np.concatenate([data, acknowledgements, *opening_and_closing(connections, total, round_trip, len(data))])
    event = event[np.lexsort((event["rank"], event["order"], event["connection"]))]
    packets = packets_of(rng, event, connections)
    merged = np.argsort(packets["time"], kind="stable")
    packets, connection = packets[merged], event["connection"][merged]

    per_connection = np.bincount(connection).astype(np.int64)
    truth.update(packets=len(packets), bytes=int(frames.frame_lengths(packets).sum()), connections=connections,
                 largest=int(per_connection.max()), packets_squared=int((per_connection ** 2).sum()),
                 tcp_connections=connections, tcp_packets=len(packets))
    return packets, pool, truth
