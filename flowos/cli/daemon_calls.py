"""What the commands that speak to a running daemon share: the socket's option, one call, and how its value is printed."""
import json
import re
import sys

from . import OK, UsageFault

# Bytes that were no UTF-8, which Python keeps as lone surrogates, and what XML 1.0 has no place for.
UNSENT = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def configure_socket(parser):
    """Add the options that every such command has."""
    parser.add_argument("--socket", metavar="PATH", help="the daemon's control socket ($FLOWOS_SOCKET, or /run/flowos/flowosd.sock)")
    parser.add_argument("--tls", metavar="HOST:PORT,CERT,KEY,CA", help="speak to a daemon elsewhere, with certificates on both sides")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def client(arguments):
    """Give the client of the daemon that the arguments name."""
    from flowos.daemon.client import Client

    if arguments.tls:
        parts = arguments.tls.split(",")
        if len(parts) != 4:
            raise UsageFault(f"--tls {arguments.tls}: expected HOST:PORT,CERT,KEY,CA")
        host, _, port = parts[0].rpartition(":")
        if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
            raise UsageFault(f"--tls {arguments.tls}: {parts[0]} is no HOST:PORT")
        for path in parts[1:]:
            with open(path, "rb"):            # the one that is missing is named here; TLS would not say which
                pass
        return Client(parts[0], tuple(parts[1:]))
    return Client(arguments.socket)


def say(arguments, value, text=""):
    """Print a result: as JSON where it is asked for, else the text, if there is any."""
    if arguments.json:
        sys.stdout.write(json.dumps(value) + "\n")
    elif text:
        sys.stdout.write(f"{text}\n")
    return OK


def text_of(word):
    """Give a word of the command line, as XML can carry it; UsageFault: it holds bytes that are no text.

    >>> text_of("caf\u00e9")
    'café'
    """
    if found := UNSENT.search(word):
        raise UsageFault(f"{word!r:.80}: {found[0]!r} cannot be sent; in a pattern of bytes write \\xHH for it")
    return word


def values(words):
    """Read k=v words; UsageFault: one is none.

    >>> values(["pattern=a=b", "identity=yes"])
    {'pattern': 'a=b', 'identity': 'yes'}
    """
    found = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not sign or not name.isidentifier():
            raise UsageFault(f"{word}: expected NAME=VALUE")
        if name in found:
            raise UsageFault(f"{word}: {name} is given twice")
        found[name] = text_of(value)
    return found


def target(text):
    """Split FLOW/MODULE.PARAMETER.

    >>> target("flow1/http_strip.pattern")
    {'flow': 'flow1', 'module': 'http_strip', 'parameter': 'pattern'}
    """
    flow, slash, rest = text.partition("/")
    module, dot, parameter = rest.rpartition(".")
    if not (slash and dot and flow and module and parameter):
        raise UsageFault(f"{text}: expected FLOW/MODULE.PARAMETER, as in flow1/http_strip.pattern")
    return {"flow": flow, "module": module, "parameter": parameter}
