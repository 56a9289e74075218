"""Compare what `flowos inspect` says of a capture with its oracle.

An oracle is a JSON file beside a capture, made from tshark, tcpflow and a replay of segments.
Each comparison here gives a list of Difference: where, what the oracle says, what we say.  A
Difference is either a fault or a decision that the test's table gives a reason for.

The two are matched by what they are about: a connection by protocol, enclosing IP headers,
ends and order; a message by its connection and direction.  `a` and `b` may be swapped: the
oracle's `a` sent the first packet, ours opened the connection.
"""
import collections
import hashlib
import io
import ipaddress
import json
import os
import struct

Difference = collections.namedtuple("Difference", "where oracle ours")

WAYS = ("a_to_b", "b_to_a")
COMPARED = ("tcp", "udp", "sctp", "icmp", "icmpv6")   # what the oracle calls a conversation
EMPTY = hashlib.sha256(b"").hexdigest()


def directory():
    """Give the directory of the captures, or None where there is none."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    found = os.path.join(root, "..", "shared", "pcaps")
    return os.path.normpath(found) if os.path.isdir(found) else None


def names():
    """List the captures that have an oracle, sorted."""
    place = directory()
    found = os.listdir(place) if place else ()
    return sorted(name for name in found if name + ".json" in found)


def load(name):
    """Read the oracle of a capture."""
    with open(os.path.join(directory(), name + ".json"), encoding="utf-8") as file:
        return json.load(file)


def inspect_file(path, datagrams=None, files=None, flows=(), protocol=None, **options):
    """Run `flowos inspect --json` in this process; give its object.

    `datagrams`, a list, gets (version, src, dst, id, payload) of each reassembled datagram;
    `files`, a directory, gets the streams; `options` are Config's.
    """
    from flowos import Config
    from flowos.cli.inspect import Inspection
    from flowos.cli.inspect_report import JsonReport, Selection
    from flowos.cli.inspect_streams import StreamFiles

    out = io.StringIO()
    streams = None if files is None else StreamFiles(files)
    inspection = Inspection([str(path)], JsonReport(out, Selection(protocol)), Config.offline(**options), flows, streams)
    if datagrams is not None:
        inspection.engine.on_datagram = lambda *datagram: datagrams.append(datagram)
    try:
        inspection.run()
    finally:
        inspection.close()
    return json.loads(out.getvalue())


# ---- times, read from the file by this file's own means ------------------------------------

PCAP = {b"\xd4\xc3\xb2\xa1": ("<", 1000), b"\xa1\xb2\xc3\xd4": (">", 1000),
        b"\x4d\x3c\xb2\xa1": ("<", 1), b"\xa1\xb2\x3c\x4d": (">", 1)}


def frame_times(data):
    """Give the times of a capture's packets, in ns."""
    if data[:4] in PCAP:
        order, unit = PCAP[data[:4]]
        times, at = [], 24
        while at + 16 <= len(data):
            seconds, fraction, captured = struct.unpack_from(order + "III", data, at)
            times.append(seconds * 10**9 + fraction * unit)
            at += 16 + captured
        return times
    times, at, order, ticks = [], 0, "<", []
    while at + 12 <= len(data):
        if data[at:at + 4] == b"\x0a\x0d\x0d\x0a":
            order = "<" if data[at + 8:at + 12] == b"\x4d\x3c\x2b\x1a" else ">"
            ticks = []
        kind, length = struct.unpack_from(order + "II", data, at)
        if kind == 1:
            ticks.append(ticks_per_second(data[at + 16:at + length - 4], order))
        elif kind in (2, 6):
            interface, = struct.unpack_from(order + ("I" if kind == 6 else "H"), data, at + 8)
            high, low = struct.unpack_from(order + "iI", data, at + 12)     # signed: before 1970
            times.append((high * 2**32 + low) * 10**9 // ticks[interface])
        elif kind == 3:
            times.append(0)
        at += length
    return times


def ticks_per_second(options, order):
    """Read if_tsresol among a pcapng interface's options."""
    at = 0
    while at + 4 <= len(options):
        code, length = struct.unpack_from(order + "HH", options, at)
        if code == 9:
            value = options[at + 4]
            return 2 ** (value & 127) if value & 128 else 10 ** value
        if code == 0:
            break
        at += 4 + (length + 3) // 4 * 4
    return 10**6


def nanoseconds(text):
    """Read a time as the oracle spells it; None for none.

    tshark takes microseconds before 1970 for some after the year 500,000.

    >>> nanoseconds("1.5"), nanoseconds("18446744073709.551615000")
    (1500000000, -1000)
    """
    if text is None:
        return None
    seconds, _, fraction = text.partition(".")
    time = int(seconds) * 10**9 + int((fraction + "0" * 9)[:9])
    return time - 2**64 * 1000 if time >= 2**63 else time


# ---- comparisons ----------------------------------------------------------------------------

def equal(where, oracle, ours):
    return [] if oracle == ours else [Difference(where, oracle, ours)]


def compare_capture(oracle, ours):
    """Compare the capture's own figures."""
    theirs, mine = oracle["capture"], ours["capture"]
    found = equal("capture packets", theirs["packets"], mine["packets"])
    found += equal("capture bytes", theirs["bytes_on_wire"], mine["bytes"])
    found += equal("capture truncated", theirs["packets_cut_by_snaplen"], mine["truncated"])
    found += equal("capture linktypes", sorted(theirs["linktypes"]), sorted(mine["linktypes"]))
    found += equal("capture first_ns", nanoseconds(theirs["first_time"]), mine["first_ns"])
    found += equal("capture last_ns", nanoseconds(theirs["last_time"]), mine["last_ns"])
    return found


def address(text):
    return str(ipaddress.ip_address(text))


def ends(entry):
    return tuple((address(entry[side]["addr"]), entry[side]["port"]) for side in ("a", "b"))


def spelled(entry, order):
    """Name a connection in a Difference: `tcp 10.0.0.1:80-10.0.0.2:1024 #0`."""
    points = [addr if port is None else f"{addr}:{port}" for addr, port in sorted(ends(entry), key=str)]
    depth = f" depth {entry['depth']}" if entry["depth"] != 1 else ""
    return f"{entry['proto']} {'-'.join(points)}{depth} #{order}"


Pair = collections.namedtuple("Pair", "name theirs index ours swapped")


def pair_connections(oracle, ours):
    """Match conversations and connections: ([Pair], [Difference])."""
    sides = []
    for entries in (oracle["conversations"], ours["connections"]):
        groups = collections.defaultdict(list)
        for index, entry in enumerate(entries):
            if entry["proto"] in COMPARED:
                groups[entry["proto"], entry["depth"], tuple(sorted(ends(entry), key=str))].append((index, entry))
        sides.append(groups)
    pairs, found = [], []
    for key in dict.fromkeys([*sides[0], *sides[1]]):
        theirs, mine = (groups.get(key, []) for groups in sides)
        for order in range(max(len(theirs), len(mine))):
            name = spelled((theirs or mine)[0][1], order)
            if order >= len(mine):
                entry = theirs[order][1]
                packets = sum(entry[way]["packets"] for way in WAYS)
                found.append(Difference(f"{name} present", f"{packets} packets", None))
            elif order >= len(theirs):
                entry = mine[order][1]
                packets = sum(entry[way]["packets"] for way in WAYS)
                found.append(Difference(f"{name} present", None, f"{packets} packets"))
            else:
                entry, (index, our) = theirs[order][1], mine[order]
                pairs.append(Pair(name, entry, index, our, ends(entry) != ends(our)))
    return pairs, found


def ways(pair):
    """Give (oracle's word, ours) for both directions of a pair."""
    return tuple(zip(WAYS, reversed(WAYS) if pair.swapped else WAYS))


def compare_connections(oracle, ours, times=None):
    """Compare connections: who they are between, packets, bytes, payload, tags, flags, times."""
    pairs, found = pair_connections(oracle, ours)
    streams = {stream["stream"]: stream for stream in oracle["tcp_streams"]}
    for pair in pairs:
        stream = streams.get(pair.theirs.get("stream")) if pair.theirs["proto"] == "tcp" else None
        found += equal(f"{pair.name} vlans", pair.theirs["vlans"], pair.ours["vlans"])
        if stream is None or "SYN" not in stream["starts_with"] and not any(stream[w]["syn"] for w in WAYS):
            found += equal(f"{pair.name} a", ends(pair.theirs)[0], ends(pair.ours)[0])
        elif stream["starts_with"] in ("SYN", "SYN,ACK"):
            opener = ends(pair.theirs)["ACK" in stream["starts_with"]]
            found += equal(f"{pair.name} a", opener, ends(pair.ours)[0])
        for theirs, mine in ways(pair):
            keys = ("packets", "bytes") + (("payload_bytes",) if pair.theirs["proto"] in ("tcp", "udp") else ())
            for key in keys:
                found += equal(f"{pair.name} {theirs} {key}", pair.theirs[theirs][key], pair.ours[mine][key])
            if stream is not None:
                for flag in ("syn", "fin", "rst"):
                    found += equal(f"{pair.name} {theirs} {flag}", stream[theirs][flag], pair.ours[mine][flag])
        if times is not None:
            for key, frame in (("first_ns", "first_frame"), ("last_ns", "last_frame")):
                found += equal(f"{pair.name} {key}", times[pair.theirs[frame] - 1], pair.ours[key])
    return found


def stream_of(direction):
    """Give (bytes, SHA-256, gaps) of one of our directions."""
    stream = direction["stream"]
    return stream["bytes"], stream["sha256"], [[gap["offset"], gap["length"]] for gap in stream["gaps"]]


def compare_streams(oracle, ours):
    """Compare the bytes of TCP streams and their gaps.

    Where the oracle expects nothing because the snap length cut segments, its own layout of the
    captured bytes is the measure.  Where it expects nothing for another reason, there is a
    Difference in any case: what a stream is then, is a decision.
    """
    found = []
    pairs, _ = pair_connections(oracle, ours)
    streams = {stream["stream"]: stream for stream in oracle["tcp_streams"]}
    for pair in pairs:
        if pair.theirs["proto"] != "tcp" or pair.theirs.get("stream") is None:
            continue
        for theirs, mine in ways(pair):
            way = streams[pair.theirs["stream"]][theirs]
            segments = way.get("segments", {"bytes": 0, "sha256": EMPTY, "gaps": []})
            layout = (segments["bytes"], segments["sha256"], segments["gaps"])
            expected = way["expected"]
            unsettled = expected is None and set(way.get("doubts", ())) - {"gapped", "start not seen"} != {
                "cut by snaplen"}
            if expected is not None:
                layout = (expected["bytes"], expected["sha256"], segments["gaps"])
            if unsettled or layout != stream_of(pair.ours[mine]):
                found.append(Difference(f"{pair.name} {theirs} stream", None if unsettled else layout,
                                        stream_of(pair.ours[mine])))
    return found


def compare_datagrams(oracle, ours, datagrams):
    """Compare reassembled datagrams: those settled must be there, and no others."""
    theirs = oracle["ip_reassembly"]
    found = equal("fragments", theirs["fragment_headers"], ours["ip_reassembly"]["fragments"])
    found += equal("datagrams", len(datagrams), ours["ip_reassembly"]["datagrams"])
    left = collections.Counter((version, address(src), address(dst), hashlib.sha256(payload).hexdigest())
                               for version, src, dst, _, payload in datagrams)
    for number, datagram in enumerate(theirs["datagrams"]):
        key = (datagram["version"], address(datagram["src"]), address(datagram["dst"]), datagram["payload_sha256"])
        if left[key] > 0:
            left[key] -= 1
        else:
            found.append(Difference(f"datagram {number} in frame {datagram['completed_in_frame']}",
                                    datagram["payload_bytes"], None))
    for key in left.elements():
        found.append(Difference(f"datagram {key[1]}-{key[2]}", None, key[3]))
    return found


# ---- messages -------------------------------------------------------------------------------

def head_of(message):
    """What says that two records are of one HTTP message; the version where it is known."""
    return (message["kind"], message.get("method"), message.get("uri"), message.get("status"))


def http_fields(theirs, mine, whole):
    """List the fields in which our record of a message differs from the oracle's."""
    wrong = []
    for key in ("version", "host", "content_length"):
        if theirs.get(key) != mine[key] and not (key == "content_length" and isinstance(theirs.get(key), str)):
            wrong.append((key, theirs.get(key), mine[key]))
    if whole:
        if not mine["complete"]:
            wrong.append(("complete", True, False))
        if theirs.get("body_bytes", 0) != mine["body_bytes"]:
            wrong.append(("body_bytes", theirs.get("body_bytes", 0), mine["body_bytes"]))
        elif "body_sha256" in theirs and theirs["body_sha256"] != mine["body_sha256"]:
            wrong.append(("body_sha256", theirs["body_sha256"], mine["body_sha256"]))
    return wrong


def compare_http(oracle, ours, stream_bytes):
    """Compare HTTP messages: in their connection and direction, and in order.

    The oracle's are a floor: each must be among ours.  Each other one of ours must have its
    start line in the stream; `stream_bytes(connection index, direction)` gives the stream.
    """
    pairs, _ = pair_connections(oracle, ours)
    places = {pair.theirs["stream"]: pair for pair in pairs if pair.theirs.get("stream") is not None}
    mine = collections.defaultdict(list)
    for number, message in enumerate(ours["http"]):
        mine[message["connection"], message["direction"]].append((number, message))
    found, used, order = [], set(), []
    for message, whole in ([(m, True) for m in oracle["http"]]
                           + [(m, False) for m in oracle["http_heads_of_incomplete"]]):
        pair = places.get(message.get("tcp_stream"))
        if pair is None:
            lists = [(key, mine[key]) for key in list(mine) if ours["connections"][key[0]]["proto"] != "tcp"]
            whole = False          # not over TCP: tshark shows heads, and does not wait for bodies
        else:
            key = (pair.index, dict(ways(pair))[message["direction"]])
            lists = [(key, mine[key])]
        candidates = [(len(http_fields(message, m, whole)), number) for key, messages in lists for number, m in messages
                      if head_of(m) == head_of(message) and number not in used]
        where = f"http frame {message['frame']} {message.get('method') or message.get('status')}"
        if not candidates:
            found.append(Difference(where, message.get("uri", message.get("status")), None))
            continue
        number = min(candidates)[1]
        used.add(number)
        if whole:
            order.append(number)
        for field, theirs, our in http_fields(message, ours["http"][number], whole):
            found.append(Difference(f"{where} {field}", theirs, our))
    if order != sorted(order):
        found.append(Difference("http order", "as captured", "another"))
    for key, messages in mine.items():
        wanted = collections.Counter(start_line(message) for _, message in messages)
        data = stream_bytes(*key)
        for line, count in wanted.items():
            if data.count(line) < count:
                found.append(Difference(f"http {key} {line.decode('latin-1')!r}", data.count(line), count))
    return found


def start_line(message):
    """Give the part of a message's start line that its record determines."""
    if message["kind"] == "request":
        return f"{message['method']} {message['uri']}".rstrip().encode("latin-1")
    return f"{message['version']} {message['status']}".encode("latin-1")


def compare_dns(oracle, ours):
    """Compare DNS messages: all of them, in order."""
    theirs = [(m["id"], m["response"], m["opcode"], m["rcode"] if m["response"] else None,
               tuple(m["qnames"]), tuple(m["qtypes"]), m["answers"])
              for m in oracle["dns"]]
    mine = [(m["id"], m["response"], m["opcode"], m["rcode"] if m["response"] else None,
             tuple(m["qnames"]), tuple(m["qtypes"]), m["answers"]) for m in ours["dns"]]
    if theirs == mine:
        return []
    left = collections.Counter(mine)
    missing = []
    for place, message in enumerate(theirs):
        if left[message] > 0:
            left[message] -= 1
        else:
            missing.append(Difference(f"dns frame {oracle['dns'][place]['frame']}", message, None))
    extra = [Difference("dns extra", None, message) for message in left.elements()]
    if missing or extra:
        gone = collections.Counter(difference.oracle for difference in missing)
        kept = []
        for message in theirs:
            if gone[message] > 0:
                gone[message] -= 1
            else:
                kept.append(message)
        added = collections.Counter(difference.ours for difference in extra)
        rest = []
        for message in reversed(mine):
            if added[message] > 0:
                added[message] -= 1
            else:
                rest.insert(0, message)
        in_order = kept == rest
    else:
        in_order = False
    return missing + extra + ([] if in_order else [Difference("dns order", "as captured", "another")])


def compare_tls(oracle, ours):
    """Compare TLS hellos over TCP: their number and server names, per connection and direction."""
    pairs, _ = pair_connections(oracle, ours)
    places = {pair.theirs["stream"]: pair for pair in pairs if pair.theirs.get("stream") is not None}
    theirs, mine, found = collections.defaultdict(list), collections.defaultdict(list), []
    for hello in oracle["tls_hellos"]:
        if hello["over"] != "tcp":
            found.append(Difference(f"tls frame {hello['frame']} over {hello['over']}", hello["handshake_types"], None))
            continue
        pair = places.get(hello["tcp_stream"])
        if pair is None:
            found.append(Difference(f"tls frame {hello['frame']}", hello["handshake_types"], None))
            continue
        key = (pair.index, dict(ways(pair))[hello["direction"]])
        for kind, word in ((1, "client_hello"), (2, "server_hello")):
            for _ in range(hello["handshake_types"].count(kind)):
                sni = hello.get("server_names", [None])[0] if kind == 1 else None
                theirs[key].append((word, sni))
    for hello in ours["tls"]:
        sni = hello["sni"] if hello["kind"] == "client_hello" else None
        mine[hello["connection"], hello["direction"]].append((hello["kind"], sni))
    for key in sorted({*theirs, *mine}):
        found += equal(f"tls connection {key[0]} {key[1]}", theirs[key], mine[key])
    return found


def compare(oracle, ours, datagrams=(), stream_bytes=lambda index, direction: b"", times=None):
    """Make every comparison; give all Differences."""
    return (compare_capture(oracle, ours) + compare_connections(oracle, ours, times)
            + compare_streams(oracle, ours) + compare_datagrams(oracle, ours, datagrams)
            + compare_http(oracle, ours, stream_bytes) + compare_dns(oracle, ours) + compare_tls(oracle, ours))
