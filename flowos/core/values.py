"""How the values in a match are read and printed, one kind per notation.

`read` turns text into (number, mask) within a field's width and raises `Wrong`, which says what
was expected.  `show` is its inverse and prints as Open vSwitch 3.1 does.  Reading is stricter:
what Open vSwitch would round, truncate or reinterpret is refused here.
"""
import re
import socket
from dataclasses import dataclass
from typing import Callable


class Wrong(ValueError):
    """A value is not what its field takes; the text says what is."""


@dataclass(frozen=True, eq=False)
class Kind:
    """A notation: how to read it, how to print it, and which bits of the field it speaks of."""

    read: Callable                  # (text, field, ports) -> (number, mask)
    show: Callable                  # (number, mask, field, ports) -> text
    extent: int | None = None       # None: all of the field


def integer(text, limit):
    """Read a decimal or 0x number from 0 to limit."""
    if len(text) > 40 and re.fullmatch(r"[0-9]+|0[xX][0-9a-fA-F]+", text):
        raise Wrong(f"out of range, expected 0 to {limit}")     # no field is so wide
    if re.fullmatch(r"0|[1-9][0-9]*", text):
        number = int(text)
    elif re.fullmatch(r"0[xX][0-9a-fA-F]+", text):
        number = int(text, 16)
    elif re.fullmatch(r"0[0-9]+", text):
        raise Wrong("a leading zero is octal to some programs and decimal to others; leave it out, or write 0x")
    else:
        raise Wrong(f"expected a number from 0 to {limit}")
    if number > limit:
        raise Wrong(f"out of range, expected 0 to {limit}")
    return number


def halves(text, field):
    """Split value/mask; the mask is None when there is none, and refused where none may be."""
    value, slash, mask = text.partition("/")
    if slash and not field.masked:
        raise Wrong("this field takes one exact value and no mask")
    return value, mask if slash else None


def within(number, mask, show):
    """Refuse value bits that the mask leaves out: they would be ignored in silence."""
    if number & ~mask:
        raise Wrong(f"has bits that its mask leaves out; did you mean {show(number & mask)}?")
    return number, mask


def read_number(text, field, ports):
    full = (1 << field.width) - 1
    value, mask = halves(text, field)
    if mask is None:
        return integer(value, full), full
    return within(integer(value, full), integer(mask, full), lambda kept: f"{kept:#x}/{mask}")


def show_number(number, mask, field, ports):
    if mask == (1 << field.width) - 1:
        return f"{field.name}={number}"
    return f"{field.name}=0x{number:x}/0x{mask:x}"


def show_hex(number, mask, field, ports):
    value = f"{field.name}={number:#x}" if number else f"{field.name}=0"
    return value if mask == (1 << field.width) - 1 else f"{value}/{mask:#x}"


def show_label(number, mask, field, ports):
    value = f"{field.name}=0x{number:05x}"
    return value if mask == 0xfffff else f"{value}/0x{mask:05x}"


# ---- EtherTypes, type of service, fragments ----------------------------------------------------

NO_ETHERTYPE = 0x5ff                # what Open vSwitch calls a frame with a length instead of a type


def read_ethertype(text, field, ports):
    number, mask = read_number(text, field, ports)
    if number < NO_ETHERTYPE:
        raise Wrong("no EtherType: they begin at 0x600; 0x5ff means frames without one (802.3)")
    return number, mask


def show_ethertype(number, mask, field, ports):
    return f"{field.name}=0x{number:04x}"


def read_tos(text, field, ports):
    value, _ = halves(text, field)
    number = integer(value, 255)
    if number & 3:
        raise Wrong("the low two bits are nw_ecn's; expected a multiple of 4 up to 252 (or ip_dscp=0 to 63)")
    return number >> 2, 63


def show_tos(number, mask, field, ports):
    return f"{field.name}={number << 2}"


FRAGMENTS = {"no": (0, 3), "yes": (1, 1), "first": (1, 3), "later": (3, 3), "not_later": (0, 2)}
FRAGMENT_WORDS = {pair: word for word, pair in FRAGMENTS.items()} | {(2, 2): "later", (0, 1): "no"}


def read_fragment(text, field, ports):
    if text not in FRAGMENTS:
        raise Wrong(f"expected {', '.join(FRAGMENTS)}")
    return FRAGMENTS[text]


def show_fragment(number, mask, field, ports):
    return f"{field.name}={FRAGMENT_WORDS[number, mask]}"


# ---- addresses ---------------------------------------------------------------------------------

def show_mac_number(number):
    return ":".join(f"{number >> shift & 255:02x}" for shift in range(40, -8, -8))


def read_mac(text, field, ports):
    def one(part):
        if not re.fullmatch(r"[0-9a-fA-F]{1,2}(:[0-9a-fA-F]{1,2}){5}", part):
            raise Wrong("expected six pairs of hex digits, 01:23:45:67:89:ab, and after / a mask written so")
        return int("".join(pair.zfill(2) for pair in part.split(":")), 16)

    value, mask = halves(text, field)
    if mask is None:
        return one(value), (1 << 48) - 1
    return within(one(value), one(mask), lambda kept: f"{show_mac_number(kept)}/{mask}")


def show_mac(number, mask, field, ports):
    value = f"{field.name}={show_mac_number(number)}"
    return value if mask == (1 << 48) - 1 else f"{value}/{show_mac_number(mask)}"


def address_kind(family, bits, example):
    """Make the kind of IP addresses of one family: ADDRESS, ADDRESS/PREFIX or ADDRESS/MASK."""
    full = (1 << bits) - 1

    def one(text, what):
        try:
            return int.from_bytes(socket.inet_pton(family, text), "big")
        except (OSError, ValueError, UnicodeError):
            raise Wrong(f"expected {what} like {example}") from None

    def text_of(number):
        return socket.inet_ntop(family, number.to_bytes(bits // 8, "big"))

    def read(text, field, ports):
        value, mask = halves(text, field)
        if mask is None:
            return one(value, "an address"), full
        if re.fullmatch(r"[0-9]+", mask):
            ones = full >> (bits - integer(mask, bits)) << (bits - int(mask))
        else:
            ones = one(mask, f"a prefix length up to {bits}, or a mask,")
        return within(one(value, "an address"), ones, lambda kept: f"{text_of(kept)}/{mask}")

    def show(number, mask, field, ports):
        value = f"{field.name}={text_of(number)}"
        if mask == full:
            return value
        hosts = full ^ mask
        if hosts & hosts + 1:                       # not a run of ones at the top
            return f"{value}/{text_of(mask)}"
        return f"{value}/{bits - hosts.bit_length()}"

    return Kind(read, show)


# ---- ports of the switch -----------------------------------------------------------------------

HIGHEST_PORT = 65279                # 0xfeff: OpenFlow 1.0 keeps what lies above
NAMED_PORTS = {"LOCAL": 65534, "CONTROLLER": 65533}
OUTPUT_ONLY = {"IN_PORT", "TABLE", "NORMAL", "FLOOD", "ALL", "ANY", "NONE"}
PORT_WORDS = {number: name for name, number in NAMED_PORTS.items()}


def read_port(text, field, ports):
    full = (1 << field.width) - 1
    if ports and text in ports:
        return ports[text], full
    if text.upper() in NAMED_PORTS:
        return NAMED_PORTS[text.upper()], full
    if text.upper() in OUTPUT_ONLY:
        raise Wrong("names where packets go; none comes from there" + (
            " (to match every port, leave in_port out)" if text.upper() in ("ANY", "NONE", "ALL") else ""))
    value, _ = halves(text, field)
    names = ", ".join([*(ports or ()), *NAMED_PORTS])
    if not value.isdecimal() and not value.startswith(("0x", "0X")):
        raise Wrong(f"no such port; expected a number up to {HIGHEST_PORT}, or {names}")
    number = integer(value, full)
    if 0xffffff00 <= number:                        # OpenFlow 1.1 and later
        number -= 0xffff0000
    if number > HIGHEST_PORT and number not in PORT_WORDS:
        raise Wrong(f"out of range, expected 0 to {HIGHEST_PORT}, or {names}")
    return number, full


def show_port(number, mask, field, ports):
    names = {known: name for name, known in (ports or {}).items()}
    return f"{field.name}={names.get(number) or PORT_WORDS.get(number, number)}"


# ---- VLAN tags: all speak of vlan_tci, whose bit 12 means "there is a tag" ----------------------

PRESENT, VID, PCP = 0x1000, 0x0fff, 0xe000
UNTAGGED = (0, PRESENT | VID)       # its one normal form: that of OpenFlow 1.2 and later


def settle_tag(number, mask):
    """Bring a constraint on the tag to its normal form; one that no frame can meet is refused."""
    if mask & PRESENT and not number & PRESENT:
        if number:
            raise Wrong("asks for bits of a VLAN tag and for its absence; a tagged frame has bit 0x1000 set")
        return UNTAGGED
    return number, mask


def read_dl_vlan(text, field, ports):
    value, slash, _ = text.partition("/")
    if slash:
        raise Wrong("takes no mask; vlan_vid and vlan_tci do")
    number = integer(value, 0xffff)
    if number == 0xffff:
        return UNTAGGED
    if number > VID:
        raise Wrong("out of range, expected 0 to 4095, or 0xffff for frames without a tag")
    return PRESENT | number, PRESENT | VID


def read_vid(text, field, ports):
    value, slash, mask = text.partition("/")
    number, bits = integer(value, PRESENT | VID), integer(mask, PRESENT | VID) if slash else PRESENT | VID
    within(number, bits, lambda kept: f"{kept:#x}/{mask}")
    if bits & PRESENT and number and not number & PRESENT:
        raise Wrong(f"never matches without bit 0x1000, which says that there is a tag; did you mean "
                    f"{number | PRESENT:#x}, or dl_vlan={number}?")
    return settle_tag(number, bits)


def read_pcp(text, field, ports):
    value, slash, _ = text.partition("/")
    if slash:
        raise Wrong("takes no mask; vlan_tci does")
    return PRESENT | integer(value, 7) << 13, PRESENT | PCP


def read_tci(text, field, ports):
    return settle_tag(*read_number(text, field, ports))


def show_tci(number, mask, field, ports):
    rest = mask ^ PRESENT
    if number & mask & PRESENT and rest in (VID, PCP, VID | PCP):
        parts = [f"dl_vlan={number & VID}"] * bool(rest & VID) + [f"dl_vlan_pcp={number >> 13}"] * bool(rest & PCP)
        return ",".join(parts)
    value = f"{field.name}=0x{number:04x}"
    return value if mask == 0xffff else f"{value}/0x{mask:04x}"


# ---- TCP flags ---------------------------------------------------------------------------------

FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns", "[200]", "[400]", "[800]")


def flag_bits(words):
    bits = 0
    for word in words:
        if word not in FLAGS:
            raise Wrong(f"no TCP flag {word!r}; expected some of {', '.join(FLAGS)}")
        if bits & 1 << FLAGS.index(word):
            raise Wrong(f"names {word} twice")
        bits |= 1 << FLAGS.index(word)
    return bits


def read_flags(text, field, ports):
    if re.match(r"[0-9]", text):
        return read_number(text, field, ports)
    if re.match(r"[+-]", text):
        signs, words = re.findall(r"[+-]", text), re.split(r"[+-]", text)[1:]
        mask = flag_bits(words)
        return flag_bits(word for sign, word in zip(signs, words) if sign == "+"), mask
    if not text or "+" in text or "-" in text:
        raise Wrong("expected a number, flags to be all there are (syn|ack), or each with + or - (+syn-ack)")
    return flag_bits(text.split("|")), 0xfff


def show_flags(number, mask, field, ports):
    if mask == 0xfff:
        return f"{field.name}=" + ("|".join(flag for bit, flag in enumerate(FLAGS) if number >> bit & 1) or "0")
    return f"{field.name}=" + "".join(
        "-+"[number >> bit & 1] + flag for bit, flag in enumerate(FLAGS) if mask >> bit & 1)


NUMBER = Kind(read_number, show_number)
HEX = Kind(read_number, show_hex)
LABEL = Kind(read_number, show_label)
ETHERTYPE = Kind(read_ethertype, show_ethertype)
TOS = Kind(read_tos, show_tos)
FRAGMENT = Kind(read_fragment, show_fragment)
MAC = Kind(read_mac, show_mac)
ADDRESS4 = address_kind(socket.AF_INET, 32, "10.0.0.1")
ADDRESS6 = address_kind(socket.AF_INET6, 128, "fe80::1")
PORT = Kind(read_port, show_port)
TCI = Kind(read_tci, show_tci)
DL_VLAN = Kind(read_dl_vlan, show_tci, extent=VID)
VLAN_VID = Kind(read_vid, show_tci, extent=VID)
VLAN_PCP = Kind(read_pcp, show_tci, extent=PCP)
TCP_FLAGS = Kind(read_flags, show_flags)
