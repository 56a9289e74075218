"""`flowos inspect` over every shared capture equals the capture's oracle.

Where it does not, the table below says what, what we say instead, and why.  Everything that is
not in the table must be equal, and everything in the table must really differ in that way.
Captures are read from `../shared/pcaps`; without it these tests are skipped.
"""
import collections
import fnmatch
import os

import pytest

import oracle

Decision = collections.namedtuple("Decision", "capture where ours reason")

ANY = object()          # a value that the reason makes immaterial

FIRST = ("policy first: of overlapping bytes those that came first stand; RFC 9293 3.10.7.4 has a receiver "
         "process bytes once, in sequence, and so keep what it has")
NO_QUIC = "tshark opens QUIC initials with keys from the connection ID; decoding QUIC is not attempted"
QUOTED = "an ICMP error quotes the message; a quoted packet is not sent again (RFC 792), so it counts nowhere"

DECISIONS = (
    # ---- streams that are disputed, or that depend on policy
    Decision("ndpi_ultrasurf.pcap", "tcp *37898-* #0 a_to_b stream",
             (61816, "e274b2e2cb207fcb9b260e6470185ff45d02a92abdf6ebc4356205e41532b5ff",
              [[2576, 5152], [12880, 6943], [22399, 10304], [35279, 2576], [43007, 16553], [62136, 7728],
               [72440, 7728], [82744, 5152], [95624, 143], [98343, 2576], [103495, 2576], [108647, 10304]]),
             "picked up in a loss recovery: the receiver still waits for bytes before the first one captured "
             "(its ACK lies lower), so the stream starts at the lowest byte; equal to the layout by sequence number"),
    Decision("ndpi_fuzz-2006-09-29-28586.pcap", "tcp *53136-172.20.3.5:80 #0 b_to_a stream",
             (657, "48a4594f488867bd97c75628f445cccb33f23e28b790ebb388c9b7fd69a8d0bf", []),
             "picked up in mid-stream after a segment whose sequence number was damaged; the bytes run without a "
             "hole from the lowest to the FIN, equal to the layout by sequence number"),
    Decision("pcapplusplus_many-protocols.pcap", "tcp *55260-212.58.244.71:80 #0 a_to_b stream",
             (286, "7f8349b0e01c0a87fe40add1ea0a4a0b9bcbb60ce7556c2af4772c445ec4ed04", []), FIRST),
    Decision("peafowl_tcp_resegment-http_no_syn_synack_ack.pcap", "tcp *80-10.0.2.102:1093 #0 b_to_a stream",
             (2366, "51339a3cfc6bc5b7ba0d2807d7170b1881715ebb7461c81258a09535e9c50a64", []), FIRST),
    Decision("suricata_eve-overlap-payload-01--tcp-overlap.pcap", "tcp *12345-2.2.2.2:8080 #0 a_to_b stream",
             (4, "278f14e96cc67489e5c0d6cebec8a2718fb158ec656fd41fed7ecd031cd472b2", []), FIRST),
    Decision("zeek_tcp-reassembly.pcap", "tcp *80-63.193.213.194:2564 #0 a_to_b stream",
             (28832, "dd9885920986910148a1479d9ae2c9d545ca02a7cde906b667ac3d8b58937c46",
              [[1714, 8], [6094, 8], [11910, 32], [15570, 728], [16310, 708], [17677, 81], [17782, 1343],
               [23443, 20], [29957, 1448]]), FIRST),
    Decision("suricata_bug-3286-02-linux-evasion--with_evasion_linux.pcap", "tcp *35532-192.168.1.90:80 #0 b_to_a stream",
             (79, "46417b1b3b283d76350920b0be6e3a1bb13ea37f28dcddbaa6f33ffc32bb06f2", []),
             "the FIN was forged: 26 KB before the stream's start, outside any window (RFC 9293 3.10.7.4), ignored"),

    # ---- packets that are damaged, and who counts them
    Decision("ndpi_fuzz-2006-09-29-28586.pcap", "tcp *53136-172.20.3.5:80 #1 present", None,
             "frame 111 has 15 bytes of a TCP header: no connection's packet; tshark lists it apart, with no stream"),
    Decision("zeek_cisco-fabric-path.pcap", "sctp * a_to_b packets", 2,
             "tshark takes the last 4 bytes of a FabricPath frame for a check sequence that these frames do not have, "
             "and so finds the SCTP header cut"),
    Decision("zeek_cisco-fabric-path.pcap", "sctp * a_to_b bytes", ANY, "as above: the second packet's bytes"),
    Decision("zeek_cisco-fabric-path.pcap", "sctp * last_ns", ANY, "as above: the second packet's time"),

    # ---- fragments that do not make a datagram
    Decision("peafowl_ip_fragmentation-teardrop.pcap", "udp * present", None,
             "the first fragment is not a multiple of 8 bytes long and reaches beyond the last (RFC 791 3.2): dropped"),
    Decision("peafowl_ip_fragmentation-teardrop.pcap", "datagram 0 *", None, "as above"),
    Decision("zeek_ipv4-fragmented-1.pcap", "udp * present", None,
             "first fragments not a multiple of 8 bytes long, or beyond the datagram's end (RFC 791 3.2): dropped"),
    Decision("zeek_ipv4-fragmented-1.pcap", "datagram 0 *", None, "as above"),
    Decision("suricata_ipv6-malformed-fragments-1--frag-1.pcap", "datagram 0 *", None,
             "two fragments cover the same bytes with other content: the datagram is discarded (RFC 5722 4, RFC 8200 4.5)"),
    Decision("suricata_ipv6-malformed-fragments-1--frag-1.pcap", "icmpv6 2001:db8:1::1-2001:db8:1::2 #0 a_to_b packets", 2,
             "as above: the datagram is no packet"),
    Decision("suricata_ipv6-malformed-fragments-1--frag-1.pcap", "icmpv6 2001:db8:1::1-2001:db8:1::2 #0 a_to_b bytes", 144,
             "as above"),

    # ---- messages that are quoted, or encrypted
    Decision("arkime_v6.pcap", "dns frame *", None, QUOTED),
    Decision("zeek_tunnels-gre-sample.pcap", "dns frame 3[56]", None, QUOTED),
    Decision("ndpi_quic_frags_ch_in_multiple_packets.pcapng", "tls frame * over quic", None, NO_QUIC),
    Decision("suricata_tcp-fastopen-10-syn-data-ignore.pcap", "tls connection 0 b_to_a", [("server_hello", None)],
             "the stream begins with a ServerHello; tshark, which follows the other SYN+ACK, does not see it"),

    # ---- HTTP
    Decision("ndpi_fuzz-2006-09-29-28586.pcap", "http frame 20 POST host", "%s\x002.20.3.5",
             "tshark prints text up to a NUL; the field's value goes on"),
    Decision("ndpi_fuzz-2006-09-29-28586.pcap", "http frame 107 POST", None,
             "the version is HTTP/d.1: no HTTP start line (RFC 9112 2.3), and the stream begins with it"),
    Decision("ndpi_fuzz-2006-09-29-28586.pcap", "http order", "another",
             "a response that lasts until the connection closes counts from its last byte; tshark waits for the FIN"),
    Decision("pcapplusplus_pcapng-example.pcapng", "http frame 139 200 complete", False,
             "the snap length cut the body; tshark calls it whole because the segments are there"),
    Decision("suricata_http-evader-017.pcap", "http frame 5 200 body_bytes", 68,
             "the chunk sizes end in CR alone; taken as line ends (as browsers do), the body is the 68 bytes of EICAR"),
    Decision("zeek_http-smuggle-http-request.pcap", "http frame 10 POST body_bytes", 80,
             "the body is said to be gzip and is not: reported as transferred; tshark takes the MIME part within for chunked"),
    Decision("zeek_http-smuggle-http-request.pcap", "http frame 17 POST", None,
             "the text of a response's body, taken by tshark for a request"),
)


def decisions_for(name):
    return [decision for decision in DECISIONS if decision.capture == name]


def undecided(differences, decisions):
    """List what the table does not cover: faults, and decisions that do not occur (stale)."""
    used, faults = set(), []
    for difference in differences:
        for number, decision in enumerate(decisions):
            if fnmatch.fnmatchcase(difference.where, decision.where) and (
                    decision.ours is ANY or decision.ours == difference.ours):
                used.add(number)
                break
        else:
            faults.append(f"{difference.where}: the oracle says {difference.oracle!r}, we say {difference.ours!r}")
    return faults + [f"{decision.where}: decided, but does not occur"
                     for number, decision in enumerate(decisions) if number not in used]


def stream_reader(report, files):
    """Give a function that reads the written stream of (connection index, direction)."""
    found = {}
    for name in os.listdir(files):
        number, _, rest = name.partition(".")
        found.setdefault(int(number), []).append((rest, os.path.join(files, name)))

    def read(index, direction):
        connection = report["connections"][index]
        sender = connection["a" if direction == "a_to_b" else "b"]
        port = "" if sender["port"] is None else f".{sender['port']}"
        start = f"{connection['proto']}.{sender['addr'].replace(':', '-')}{port}-"
        for rest, path in found.get(index, ()):
            if rest.startswith(start):
                with open(path, "rb") as file:
                    return file.read()
        return b""
    return read


@pytest.mark.skipif(oracle.directory() is None, reason="no ../shared/pcaps beside this project")
@pytest.mark.parametrize("name", oracle.names())
def test_capture_agrees_with_its_oracle(name, tmp_path):
    path = os.path.join(oracle.directory(), name)
    expected, datagrams = oracle.load(name), []
    report = oracle.inspect_file(path, datagrams=datagrams, files=str(tmp_path))
    times = None
    if not expected["capture"]["records_that_are_no_packets"]:    # frame numbers are packet numbers
        with open(path, "rb") as file:
            times = oracle.frame_times(file.read())
    differences = oracle.compare(expected, report, datagrams, stream_reader(report, str(tmp_path)), times)
    assert undecided(differences, decisions_for(name)) == []


def test_every_decision_names_a_capture():
    if oracle.directory() is None:
        pytest.skip("no ../shared/pcaps beside this project")
    assert {decision.capture for decision in DECISIONS} <= set(oracle.names())
    assert all(decision.reason for decision in DECISIONS)


# ---- the comparison itself: each thing it compares, changed, must be found -------------------

def direction(packets=0, size=0, payload=0):
    return {"packets": packets, "bytes": size, "payload_bytes": payload}


def small_oracle():
    """Give an oracle of one HTTP exchange over TCP, one DNS query, a TLS hello and a datagram."""
    body = {"bytes": 5, "sha256": "aa", "gaps": [[2, 3]]}
    way = {"syn": 1, "fin": 1, "rst": 0, "verdict": "unanimous", "doubts": ["gapped"],
           "segments": body, "expected": {"bytes": 5, "sha256": "aa"}}
    back = {"syn": 1, "fin": 0, "rst": 1, "verdict": "no payload", "expected": {"bytes": 0, "sha256": oracle.EMPTY}}
    a, b = {"addr": "10.0.0.1", "port": 1024}, {"addr": "10.0.0.2", "port": 80}
    return {
        "capture": {"packets": 3, "bytes_on_wire": 300, "packets_cut_by_snaplen": 1, "linktypes": [1],
                    "first_time": "1.000000005", "last_time": "2.5", "records_that_are_no_packets": 0},
        "conversations": [
            {"proto": "tcp", "stream": 0, "depth": 1, "a": a, "b": b, "first_frame": 1, "last_frame": 3,
             "vlans": [[7]], "a_to_b": direction(2, 200, 5), "b_to_a": direction(1, 60, 0)},
            {"proto": "icmp", "stream": None, "depth": 1, "a": {"addr": "10.0.0.1", "port": None},
             "b": {"addr": "10.0.0.2", "port": None}, "first_frame": 2, "last_frame": 2, "vlans": [],
             "a_to_b": direction(1, 40), "b_to_a": direction()}],
        "tcp_streams": [{"stream": 0, "starts_with": "SYN", "a_to_b": way, "b_to_a": back}],
        "ip_reassembly": {"fragment_headers": 2, "datagrams": [
            {"version": 4, "src": "10.0.0.1", "dst": "10.0.0.2", "completed_in_frame": 2, "payload_bytes": 3,
             "payload_sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}]},
        "http": [{"frame": 1, "tcp_stream": 0, "direction": "a_to_b", "kind": "request", "version": "HTTP/1.1",
                  "method": "POST", "uri": "/x", "host": "h", "content_length": 2, "body_bytes": 2, "body_sha256": "bb"}],
        "http_heads_of_incomplete": [],
        "dns": [{"frame": 2, "id": 9, "response": True, "opcode": 0, "qnames": ["n.example"], "qtypes": [1],
                 "answers": 1, "rcode": 0}],
        "tls_hellos": [{"frame": 3, "over": "tcp", "tcp_stream": 0, "direction": "a_to_b", "handshake_types": [1],
                        "server_names": ["s.example"]}],
    }


def small_report():
    """Give the report that agrees with `small_oracle` (with `a` and `b` of the ICMP swapped not)."""
    def way(packets, size, payload, flags, stream):
        return {"packets": packets, "bytes": size, "payload_bytes": payload,
                **dict(zip(("syn", "fin", "rst"), flags)), "stream": stream}

    nothing = {"bytes": 0, "sha256": oracle.EMPTY, "gaps": []}
    gapped = {"bytes": 5, "sha256": "aa", "gaps": [{"offset": 2, "length": 3}]}
    end = {"addr": "10.0.0.1", "port": 1024}, {"addr": "10.0.0.2", "port": 80}
    common = {"depth": 1, "flow": None, "state": "closed", "detected": "http"}
    return {
        "capture": {"packets": 3, "bytes": 300, "truncated": 1, "linktypes": [1], "first_ns": 1000000005,
                    "last_ns": 2500000000},
        "connections": [
            {"proto": "tcp", "a": end[0], "b": end[1], "vlans": [[7]], **common, "first_ns": 10, "last_ns": 30,
             "a_to_b": way(2, 200, 5, (1, 1, 0), gapped), "b_to_a": way(1, 60, 0, (1, 0, 1), nothing)},
            {"proto": "icmp", "a": {"addr": "10.0.0.1", "port": None}, "b": {"addr": "10.0.0.2", "port": None},
             "vlans": [], **common, "first_ns": 20, "last_ns": 20,
             "a_to_b": way(1, 40, 0, (0, 0, 0), nothing), "b_to_a": way(0, 0, 0, (0, 0, 0), nothing)}],
        "http": [{"connection": 0, "direction": "a_to_b", "kind": "request", "version": "HTTP/1.1", "method": "POST",
                  "uri": "/x", "host": "h", "status": None, "content_length": 2, "body_bytes": 2, "body_sha256": "bb",
                  "complete": True}],
        "dns": [{"id": 9, "response": True, "opcode": 0, "rcode": 0, "qnames": ["n.example"], "qtypes": [1],
                 "answers": 1}],
        "tls": [{"connection": 0, "direction": "a_to_b", "kind": "client_hello", "sni": "s.example", "alpn": [],
                 "versions": []}],
        "ip_reassembly": {"datagrams": 1, "fragments": 2, "timed_out": 0, "overlaps": 0, "conflicts": 0},
        "counters": {},
    }


def compared(report, reference=None):
    return oracle.compare(reference or small_oracle(), report, [(4, "10.0.0.1", "10.0.0.2", 1, b"abc")],
                          lambda index, way: b"POST /x HTTP/1.1\r\n", [10, 20, 30])


def test_agreement_is_found():
    assert compared(small_report()) == []


def leaves(value, path=()):
    """Give the path of every number, text and None in a report."""
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], path + (key,))
    elif isinstance(value, list):
        for place, part in enumerate(value):
            yield from leaves(part, path + (place,))
    else:
        yield path


# What an oracle does not say: state, flow, detection, ALPN, counters of other units
NOT_COMPARED = ("flow", "state", "detected", "timed_out", "overlaps", "conflicts", "alpn", "versions")
NOT_IN_ICMP = ("payload_bytes", "stream", "syn", "fin", "rst")


def compared_leaves():
    for path in leaves(small_report()):
        if path[-1] in NOT_COMPARED or path[:2] == ("connections", 1) and set(path) & set(NOT_IN_ICMP):
            continue
        yield path


@pytest.mark.parametrize("path", list(compared_leaves()), ids=lambda path: ".".join(map(str, path)))
def test_a_changed_value_is_found(path):
    report = small_report()
    place = report
    for step in path[:-1]:
        place = place[step]
    value = place[path[-1]]
    if path[-1] == "addr":
        value = "10.9.9.9"
    elif path[-1] == "connection":
        value = 1
    elif path[-1] == "direction":
        value = "b_to_a"
    elif isinstance(value, bool):
        value = not value
    else:
        value = 1 if value is None else value + 1 if isinstance(value, int) else value + "x"
    place[path[-1]] = value
    assert compared(report) != []


@pytest.mark.parametrize("section", ["connections", "http", "dns", "tls"])
def test_a_missing_and_an_extra_record_are_found(section):
    report = small_report()
    record = report[section].pop()
    assert compared(report) != []
    report[section] += [record, record]
    assert compared(report) != []


def test_a_missing_datagram_and_an_extra_one_are_found():
    whole = (4, "10.0.0.1", "10.0.0.2", 1, b"abc")
    for datagrams in ([], [whole, whole], [whole[:4] + (b"abd",)]):
        assert oracle.compare_datagrams(small_oracle(), small_report(), datagrams) != []


def test_swapped_ends_are_the_same_connection():
    reference = small_oracle()
    entry = reference["conversations"][0]
    entry["a"], entry["b"] = entry["b"], entry["a"]
    entry["a_to_b"], entry["b_to_a"] = entry["b_to_a"], entry["a_to_b"]
    stream = reference["tcp_streams"][0]
    stream["a_to_b"], stream["b_to_a"] = stream["b_to_a"], stream["a_to_b"]
    stream["starts_with"] = "SYN,ACK"
    reference["http"][0]["direction"] = reference["tls_hellos"][0]["direction"] = "b_to_a"
    assert compared(small_report(), reference) == []


def test_messages_in_another_order_are_found():
    reference, report = small_oracle(), small_report()
    reference["dns"].append({**reference["dns"][0], "id": 10})
    report["dns"].insert(0, {**report["dns"][0], "id": 10})
    assert [difference.where for difference in compared(report, reference)] == ["dns order"]


def test_an_unsettled_stream_is_always_a_decision():
    reference = small_oracle()
    reference["tcp_streams"][0]["a_to_b"].update(expected=None, doubts=["conflicting overlap"])
    found = compared(small_report(), reference)
    assert [(difference.oracle, difference.ours) for difference in found] == [(None, (5, "aa", [[2, 3]]))]


def test_a_stale_decision_is_a_fault():
    difference = oracle.Difference("tcp x a_to_b bytes", 1, 2)
    fitting = Decision("c", "tcp * bytes", 2, "r")
    assert undecided([difference], [fitting]) == []
    assert undecided([], [fitting]) != []
    assert undecided([difference], []) != []
    assert undecided([difference], [fitting._replace(ours=3)]) != []
