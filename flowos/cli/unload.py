"""Detach a module from all flows of the daemon, and forget it."""
from .daemon_calls import client, configure_socket, say


def configure(parser):
    """Add the command's arguments."""
    parser.add_argument("module", metavar="MODULE", help="a loaded module")
    configure_socket(parser)


def run(arguments):
    """Run `flowos unload`; the result is the exit code."""
    return say(arguments, client(arguments).command("unload", module=arguments.module))
