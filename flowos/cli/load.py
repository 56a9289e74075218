"""Load a module in the daemon, with parameters that its attachments start from: `flowos load http_strip pattern=SECRET`."""
from .daemon_calls import client, configure_socket, say, values


def configure(parser):
    """Add the command's arguments."""
    parser.add_argument("module", metavar="MODULE", help="a name, or path.py:Class")
    parser.add_argument("values", nargs="*", metavar="NAME=VALUE", help="parameters")
    configure_socket(parser)


def run(arguments):
    """Run `flowos load`; the result is the exit code."""
    import os

    spec = os.path.abspath(arguments.module) if ".py" in arguments.module else arguments.module
    made = client(arguments).command("load", module=spec, parameters=values(arguments.values))
    return say(arguments, made, made)
