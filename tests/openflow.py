"""Frames and matches made by chance, from so few values that they meet.

Every function takes the `Random` that decides, so that a seed, or Hypothesis, replays a case.
Frames are built byte by byte, right or damaged; matches are written in every notation there is.
"""
import ipaddress
import struct

MACS = ["02:00:00:00:00:01", "02:00:00:00:00:02", "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:fb", "0a:bc:de:f0:12:34"]
ADDRESSES = ["10.0.0.1", "10.0.0.2", "10.1.2.3", "192.168.1.1", "224.0.0.251", "0.0.0.0", "255.255.255.255"]
ADDRESSES6 = ["fe80::1", "fe80::2", "2001:db8::1", "2001:db8:1::1", "ff02::1", "::"]
PORTS = [0, 53, 80, 443, 0x1234, 65535]
VLANS = [0, 1, 5, 4095]
ETHERTYPES = {"ip": 0x0800, "ipv6": 0x86dd, "arp": 0x0806, "rarp": 0x8035, "mpls": 0x8847, "mplsm": 0x8848}
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132, "icmp": 1, "icmp6": 58, "igmp": 2, "gre": 47, "udplite": 136}


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


def address(text):
    return ipaddress.ip_address(text).packed


# ---- frames ------------------------------------------------------------------------------------

def tcp(rng):
    flags = rng.choice([0x002, 0x012, 0x010, 0x018, 0x011, 0x004, 0x1c2, 0xe00, rng.getrandbits(12)])
    words = rng.choice([5, 5, 5, 6, 8, 4, 15])
    return struct.pack("!HHIIHHHH", rng.choice(PORTS), rng.choice(PORTS), rng.getrandbits(32), rng.getrandbits(32),
                       words << 12 | flags, 8192, 0, 0) + bytes(max(0, words * 4 - 20))


def udp(rng):
    return struct.pack("!HHHH", rng.choice(PORTS), rng.choice(PORTS), rng.choice([8, 8, 12, 0]), 0)


def sctp(rng):
    return struct.pack("!HHII", rng.choice(PORTS), rng.choice(PORTS), rng.getrandbits(32), 0)


def icmp(rng):
    return bytes([rng.choice([0, 3, 8, 11, 135, 255]), rng.choice([0, 1, 3])]) + bytes(6)


def icmp6(rng):
    kind = rng.choice([135, 135, 136, 136, 128, 1, 133])
    head = bytes([kind, rng.choice([0, 0, 0, 0, 1])]) + bytes(6)
    if kind not in (135, 136):
        return head
    options = b"".join(
        rng.choice([b"\x01\x01", b"\x01\x01", b"\x02\x01", b"\x02\x01", b"\x05\x01", b"\x01\x02", b"\x01\x00", b"\x02\x05"])
        + mac(rng.choice([*MACS, "00:00:00:00:00:00"])) for _ in range(rng.choice([0, 1, 1, 2, 3])))
    return head + address(rng.choice(ADDRESSES6)) + options


TRANSPORTS = {6: tcp, 17: udp, 132: sctp, 1: icmp, 2: icmp, 58: icmp6}


def payload(rng):
    return bytes(rng.choice([0, 0, 1, 7, 40]))


def ip4(rng, damage):
    proto = rng.choice(list(PROTOCOLS.values()))
    body = TRANSPORTS.get(proto, payload)(rng) + payload(rng)
    options = bytes(rng.choice([0, 0, 0, 4, 40]))
    fragment = rng.choice([0, 0, 0, 0x4000, 0x2000, 0x2000, 0x2007, 0x0007, 0x8000])
    words, total, version = 5 + len(options) // 4, 20 + len(options) + len(body), 4
    if damage:
        words, total, version = rng.choice([
            (words - 1, total, 4), (4, total, 4), (words, total + 1, 4), (words, 19, 4), (words, total - 1, 4),
            (words, words * 4, 4), (words, total, 5), (15, total, 4)])
    head = struct.pack("!BBHHHBBH", version << 4 | words & 15, rng.choice([0, 0, 4, 0xb8, 0xfd, 3]), max(total, 0), 1,
                       fragment, rng.choice([0, 1, 64, 255]), proto, 0)
    return head + address(rng.choice(ADDRESSES)) + address(rng.choice(ADDRESSES)) + options + body


def ip6(rng, damage):
    proto = rng.choice([6, 17, 132, 58, 58, 58, 1, 47, 59])
    body, kind = TRANSPORTS.get(proto, payload)(rng) + payload(rng), proto
    for _ in range(rng.choice([0, 0, 0, 1, 1, 2, 4])):
        extension = rng.choice([0, 43, 60, 51, 44, 44])
        if extension == 44:
            head = bytes([kind, 0]) + struct.pack("!HI", rng.choice([0, 1, 1, 0x0009, 0x0008, 0xfff8, 0x0006]), 7)
        elif extension == 51:
            words = rng.choice([0, 1, 4])
            head = bytes([kind, words]) + bytes((words + 2) * 4 - 2)
        else:
            words = rng.choice([0, 0, 1, 3])
            head = bytes([kind, words]) + bytes((words + 1) * 8 - 2)
        body, kind = head + body, extension
    length = len(body)
    if damage:
        length = max(0, length + rng.choice([1, -1, -8, -length, 300]))
    first = 6 << 28 | rng.choice([0, 0xb8, 3, 255]) << 20 | rng.choice([0, 5, 0xfffff, 0x12345])
    return struct.pack("!IHBB", first, length, kind, rng.choice([0, 1, 64, 255])) + address(rng.choice(ADDRESSES6)) + \
        address(rng.choice(ADDRESSES6)) + body


def arp(rng, damage):
    shape = rng.choice([(2, 0x0800, 6, 4), (1, 0x86dd, 6, 4), (1, 0x0800, 8, 4), (1, 0x0800, 6, 16)]) if damage \
        else (1, 0x0800, 6, 4)
    op = rng.choice([1, 1, 2, 2, 3, 4, 0, 255, 256, 300])
    return struct.pack("!HHBBH", *shape, op) + mac(rng.choice(MACS)) + address(rng.choice(ADDRESSES)) + \
        mac(rng.choice(MACS)) + address(rng.choice(ADDRESSES))


def mpls(rng, damage):
    depth = rng.choice([1, 1, 2, 3, 5])
    entries = [rng.choice([0, 3, 16, 1048575]) << 12 | rng.choice([0, 5, 7]) << 9 | (level == depth - 1) << 8 |
               rng.choice([0, 1, 64, 255]) for level in range(depth)]
    if damage:
        entries[-1] &= ~0x100
    return b"".join(struct.pack("!I", entry) for entry in entries) + ip4(rng, False)


def llc(rng, damage):
    inner = rng.choice([0x0800, 0x86dd, 0x0806, 0x1234, 0x0100])
    return rng.choice([b"\xaa\xaa\x03\x00\x00\x00", b"\xaa\xaa\x03\x00\x00\x01", b"\x42\x42\x03\x00\x00\x00"]) + \
        struct.pack("!H", inner) + BODIES.get(inner, lambda rng, damage: payload(rng))(rng, damage)


BODIES = {0x0800: ip4, 0x86dd: ip6, 0x0806: arp, 0x8035: arp, 0x8847: mpls, 0x8848: mpls}


def frame(rng, tags=2):
    """Make an Ethernet frame with up to `tags` VLAN tags: mostly right, now and then damaged or cut."""
    kind = rng.choice([0x0800] * 6 + [0x86dd] * 5 + [0x0806] * 2 + [0x8035, 0x8847, 0x8848, 0x1234, 0x9100, None])
    damage = rng.random() < 0.15
    if kind is None:
        body = llc(rng, damage)
        kind = rng.choice([len(body), 0, 0x5ff])
    else:
        body = BODIES.get(kind, lambda rng, damage: payload(rng))(rng, damage)
    stack = b"".join(struct.pack("!HH", rng.choice([0x8100, 0x8100, 0x88a8]),
                                 rng.choice([0, 0, 3, 7]) << 13 | rng.choice([0, 0, 1]) << 12 | rng.choice(VLANS))
                     for _ in range(rng.choice([0, 0, 0, 1, 1, 2][:4 + tags])))
    made = mac(rng.choice(MACS)) + mac(rng.choice(MACS)) + stack + struct.pack("!H", kind) + body
    if rng.random() < 0.25:
        made += bytes(rng.choice([1, 6, 46, 300]))          # padding
    if rng.random() < 0.15:
        made = made[:rng.randint(14, len(made))]
    if rng.random() < 0.1:
        made = bytearray(made)
        for _ in range(rng.randint(1, 3)):
            made[rng.randrange(12, len(made))] = rng.getrandbits(8)
    return bytes(made)


# ---- matches -----------------------------------------------------------------------------------

def number(rng, value):
    """Write a number in decimal or hexadecimal."""
    return rng.choice([str, hex])(value)


def masked(rng, value, bits):
    """Write value/mask, the mask arbitrary."""
    mask = rng.choice([(1 << bits) - 1, rng.getrandbits(bits), 1 << rng.randrange(bits), ((1 << bits) - 1) >> bits // 2])
    return f"{number(rng, value & mask)}/{number(rng, mask)}"


def some_mac(rng, value=None):
    value = int.from_bytes(mac(rng.choice(MACS)), "big") if value is None else value
    text = lambda n: ":".join(f"{n >> shift & 255:x}" for shift in range(40, -8, -8))
    if rng.random() < 0.7:
        return text(value)
    mask = rng.choice([0xffffff000000, 0x010000000000, rng.getrandbits(48), (1 << 48) - 1, 0])
    return f"{text(value & mask)}/{text(mask)}"


def some_address(rng, family, value=None):
    bits, make = (32, ipaddress.IPv4Address) if family == 4 else (128, ipaddress.IPv6Address)
    value = int(make(rng.choice(ADDRESSES if family == 4 else ADDRESSES6))) if value is None else value
    style = rng.random()
    if style < 0.4:
        return str(make(value))
    if style < 0.8:
        length = rng.choice([0, 1, 8, 16, 24, bits - 1, bits, rng.randint(0, bits)])
        return f"{make(value >> (bits - length) << (bits - length))}/{length}"
    # ovs-ofctl takes a leading decimal digit of an IPv6 mask for a prefix length, and then refuses it.
    mask = rng.choice([rng.getrandbits(bits) | 5 << bits - 3, (1 << bits) - 1, 1,
                       ((1 << bits) - 1) << bits // 2 & (1 << bits) - 1])
    return f"{make(value & mask)}/{make(mask)}"


def some_flags(rng, value):
    names = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns", "[200]", "[400]", "[800]"]
    style = rng.random()
    if style < 0.5:
        chosen = rng.sample(range(12), rng.randint(1, 4))
        return "".join("-+"[value >> bit & 1] + names[bit] for bit in chosen)
    if style < 0.7 and value:
        return "|".join(name for bit, name in enumerate(names) if value >> bit & 1)
    return number(rng, value) if style < 0.85 else masked(rng, value, 12)


def some_tag(rng, tci):
    """Write what a match may say about the VLAN tag: one or two parts."""
    vid, pcp = tci & 0xfff, tci >> 13
    choice = rng.randrange(8)
    if choice == 0 or not tci and choice < 4:
        return [rng.choice(["dl_vlan=0xffff", "vlan_vid=0", "vlan_tci=0", "vlan_tci=0/0x1fff"])]
    if choice == 1:
        return [f"dl_vlan={vid}"]
    if choice == 2:
        return [f"{rng.choice(['dl_vlan_pcp', 'vlan_pcp'])}={pcp}"]
    if choice == 3:
        return [f"dl_vlan={number(rng, vid)}", f"vlan_pcp={pcp}"]
    if choice == 4:
        return [f"vlan_vid={number(rng, 0x1000 | vid)}"]
    if choice == 5:
        mask = 0x1000 | rng.getrandbits(12)
        return [f"vlan_vid={(0x1000 | vid) & mask:#x}/{mask:#x}"]
    if choice == 6:
        return ["vlan_vid=0x1000/0x1000"]
    # The priority whole or not at all: OpenFlow 1.2 and later cannot say less (see test_openvswitch).
    mask = 0x1000 | rng.choice([0, 0xe000]) | rng.getrandbits(12)
    return [f"vlan_tci={(0x1000 | tci) & mask:#06x}/{mask:#06x}"]


def match(rng, packet=None):
    """Write a match that is right; one that `packet` (a `Fields`) nearly or fully meets, if given."""
    def value(name, *others):
        return packet[name] if packet is not None and rng.random() < 0.85 else rng.choice(others)

    def maybe(chance, *texts):
        if rng.random() < chance:
            parts.append(rng.choice(texts)())

    parts = []
    maybe(0.1, lambda: f"in_port={value('in_port', 1, 2, 65534)}")
    maybe(0.05, lambda: f"metadata={rng.choice([number, lambda r, v: masked(r, v, 64)])(rng, value('metadata', 0, 5))}",
          lambda: f"{rng.choice(['tun_id', 'tunnel_id'])}={number(rng, value('tun_id', 0, 1 << 63))}")
    maybe(0.15, lambda: f"{rng.choice(['dl_src', 'eth_src'])}={some_mac(rng, packet and packet['dl_src'])}")
    maybe(0.15, lambda: f"{rng.choice(['dl_dst', 'eth_dst'])}={some_mac(rng, packet and packet['dl_dst'])}")
    if rng.random() < 0.25:
        parts += some_tag(rng, value("vlan_tci", 0, 0x1005, 0x7001))
    kind = value("dl_type", *ETHERTYPES.values(), 0x1234, 0x5ff) if rng.random() < 0.9 else None
    if kind is not None and kind < 0x5ff:
        kind = None
    if kind in (0x0800, 0x86dd):
        parts += ip_parts(rng, packet, kind, value)
    elif kind in (0x0806, 0x8035):
        word = "arp" if kind == 0x0806 else "rarp"
        parts.append(rng.choice([word, f"dl_type={kind:#x}"]))
        for name, shown in (("arp_spa", ["arp_spa", "nw_src"]), ("arp_tpa", ["arp_tpa", "nw_dst"])):
            maybe(0.3, lambda: f"{rng.choice(shown)}={some_address(rng, 4, packet and packet[name])}")
        maybe(0.3, lambda: f"{rng.choice(['arp_op', 'nw_proto'])}={value('arp_op', 0, 1, 2, 255)}")
        maybe(0.2, lambda: f"arp_sha={some_mac(rng, packet and packet['arp_sha'])}")
        maybe(0.2, lambda: f"arp_tha={some_mac(rng, packet and packet['arp_tha'])}")
    elif kind in (0x8847, 0x8848):
        parts.append(rng.choice(["mpls" if kind == 0x8847 else "mplsm", f"dl_type={kind}"]))
        maybe(0.4, lambda: f"mpls_label={number(rng, value('mpls_label', 0, 3, 1048575))}")
        maybe(0.3, lambda: f"mpls_tc={value('mpls_tc', 0, 7)}")
        maybe(0.3, lambda: f"mpls_bos={value('mpls_bos', 0, 1)}")
        maybe(0.3, lambda: f"mpls_ttl={value('mpls_ttl', 0, 64)}")
    elif kind is not None:
        parts.append(f"{rng.choice(['dl_type', 'eth_type'])}={number(rng, kind)}")
    rng.shuffle(parts)
    return rng.choice([",", ", ", " "]).join(parts)


def ip_parts(rng, packet, kind, value):
    """Write the part of a match that speaks of IP and what it carries."""
    six, parts = kind == 0x86dd, []

    def maybe(chance, *texts):
        if rng.random() < chance:
            parts.append(rng.choice(texts)())

    proto = value("nw_proto", 6, 17, 132, 58 if six else 1, 47) if rng.random() < 0.8 else None
    words = {6: "tcp", 17: "udp", 132: "sctp", 58: "icmp"} if six else {6: "tcp", 17: "udp", 132: "sctp", 1: "icmp"}
    word = words[proto] + "6" * six if proto in words else None
    plain = rng.choice([["ipv6", "ip6"] if six else ["ip", "ipv4", "ip4"], [f"dl_type={kind}", f"eth_type={kind:#x}"]])
    if word and rng.random() < 0.7:
        parts.append(word)
    else:
        parts.append(rng.choice(plain))
        if proto is not None:
            parts.append(f"{rng.choice(['nw_proto', 'ip_proto'])}={number(rng, proto)}")
    family, prefix = (6, ["ipv6_"]) if six else (4, ["nw_", "ip_"])
    for end in ("src", "dst"):
        maybe(0.3, lambda: f"{rng.choice(prefix)}{end}=" +
              some_address(rng, family, packet and packet[("ipv6_" if six else "nw_") + end]))
    if six:
        maybe(0.1, lambda: f"ipv6_label={number(rng, value('ipv6_label', 0, 5, 0xfffff))}",
              lambda: f"ipv6_label={masked(rng, value('ipv6_label', 0, 5), 20)}")
    maybe(0.1, lambda: f"nw_tos={number(rng, value('nw_tos', 0, 1, 46) << 2)}",
          lambda: f"ip_dscp={value('nw_tos', 0, 1, 46)}")
    maybe(0.1, lambda: f"{rng.choice(['nw_ecn', 'ip_ecn'])}={value('nw_ecn', 0, 1, 3)}")
    maybe(0.1, lambda: f"nw_ttl={value('nw_ttl', 0, 64, 255)}")
    later = False
    if rng.random() < 0.15:
        fragment = rng.choice(["no", "yes", "first", "later", "not_later"])
        later = fragment == "later"
        parts.append(f"{rng.choice(['ip_frag', 'nw_frag'])}={fragment}")
    if later:
        return parts
    if proto in (6, 17, 132):
        own = {6: "tcp", 17: "udp", 132: "sctp"}[proto]
        for end in ("src", "dst"):
            maybe(0.35, lambda: f"{rng.choice(['tp', own])}_{end}={number(rng, value('tp_' + end, *PORTS))}",
                  lambda: f"tp_{end}={masked(rng, value('tp_' + end, *PORTS), 16)}")
        if proto == 6:
            maybe(0.25, lambda: f"tcp_flags={some_flags(rng, value('tcp_flags', 2, 0x12, 0x800))}")
    elif proto == 1 and not six or proto == 58 and six:
        six_name = ["icmpv6_type"] if six else []
        kinds = value("icmp_type", 0, 8, 135, 136)
        if rng.random() < 0.6:
            parts.append(f"{rng.choice(['icmp_type', 'tp_src', *six_name])}={kinds}")
            code = None
            if rng.random() < 0.3:
                code = value("icmp_code", 0, 1)
                parts.append(f"{rng.choice(['icmp_code', 'tp_dst'])}={code}")
            if six and kinds in (135, 136) and not code:
                maybe(0.5, lambda: f"nd_target={some_address(rng, 6, packet and packet['nd_target'])}")
                name = "nd_sll" if kinds == 135 else "nd_tll"
                maybe(0.5, lambda: f"{name}={some_mac(rng, packet and packet[name])}")
    return parts
