"""Take up a module's changed code while traffic runs; its state is kept.

Where the new code fails, or changes protocol, mode or scope, all is refused and the old code goes on.
"""
from .daemon_calls import client, configure_socket, say


def configure(parser):
    """Add the command's arguments."""
    parser.add_argument("module", metavar="MODULE", help="a loaded module")
    configure_socket(parser)


def run(arguments):
    """Run `flowos reload`; the result is the exit code."""
    count = client(arguments).command("reload", module=arguments.module)
    return say(arguments, count, f"{arguments.module}: new code on {count} flow{'' if count == 1 else 's'}")
