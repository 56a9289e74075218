"""Frames of each link type that carries IP: who talks in them, by tshark and by FlowOS.

One pcapng file has an interface per link type; each frame holds one UDP datagram whose port says
which frame it was.
"""
import struct
import subprocess

import capturebytes as cb
import oracle
from models import build

ETHER, IP4, SNAP = bytes(12), b"\x08\x00", bytes.fromhex("aaaa03000000")
LABELS = bytes.fromhex("00010040" "00020140")                                # two MPLS labels
SLL = bytes.fromhex("0000000100060000000000000000")                          # cooked, up to the protocol
FRAMES = [                                                                   # link type, what is before IPv4
    (0, struct.pack("<I", 2)), (0, struct.pack(">I", 2)), (108, struct.pack(">I", 2)),
    (1, ETHER + IP4), (1, ETHER + bytes.fromhex("81000007") + IP4), (1, ETHER + bytes.fromhex("88a80007" "81000008") + IP4),
    (1, ETHER + bytes.fromhex("8847") + LABELS), (1, ETHER + bytes.fromhex("8864" "110000010034" "0021")),
    (9, bytes.fromhex("ff030021")), (9, bytes.fromhex("0021")), (9, bytes.fromhex("0f000800")), (9, bytes.fromhex("8f000800")),
    (50, bytes.fromhex("ff030021")), (50, bytes.fromhex("0f000800")), (104, bytes.fromhex("0f000800")),
    (101, b""), (228, b""), (113, SLL + IP4), (276, IP4 + bytes(18)),
]


def build_capture():
    """Build the file: frame i goes to port 2000 + i."""
    data, blocks = cb.section(), b""
    for i, (link, head) in enumerate(FRAMES):
        a, b = ("10.0.0.1", 1000), ("10.0.0.2", 2000 + i)
        data += cb.interface(link)
        blocks += cb.enhanced(i, 10**6 * i, head + build.ip(a, b, build.UDP, build.udp(a, b, b"twenty-two bytes long!")))
    return data + blocks


def test_ip_is_found_behind_every_link_layer(tmp_path, tshark):
    path = cb.save(tmp_path, build_capture(), "links.pcapng")
    report = oracle.inspect_file(path)
    shown = subprocess.run([tshark, "-r", path, "-T", "fields", "-e", "udp.dstport"], capture_output=True, text=True,
                           timeout=60, check=True).stdout.split("\n")[:-1]
    assert [connection["b"]["port"] for connection in report["connections"]] == list(map(int, shown))
    assert len(shown) == len(FRAMES)
    assert all(connection["a_to_b"]["payload_bytes"] == 22 for connection in report["connections"])
