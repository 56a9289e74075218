"""List the decoders there are: protocols that modules may name beside frame, ip, tcp, udp and the like.

Shipped ones and those of installed packages (entry points of the group flowos.decoders).
"""
import inspect
import json
import sys

from . import OK


def configure(parser):
    """Add the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments):
    """Run `flowos decoders`; the result is the exit code."""
    from flowos import all_decoders

    told = {name: {"over": list(decoder.over), "summary": (inspect.getdoc(decoder) or "").split("\n", 1)[0]}
            for name, decoder in all_decoders().items()}
    if arguments.json:
        sys.stdout.write(json.dumps(told) + "\n")
        return OK
    width = max(map(len, told), default=0)
    for name, decoder in told.items():
        print(f"{name:<{width}}  over {', '.join(decoder['over'])}: {decoder['summary']}")
    return OK
