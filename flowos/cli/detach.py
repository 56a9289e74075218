"""Detach a module from a flow of the daemon while traffic runs; nothing is lost, repeated or reordered."""
from .daemon_calls import client, configure_socket, say


def configure(parser):
    """Add the command's arguments."""
    parser.add_argument("module", metavar="MODULE", help="what is attached")
    parser.add_argument("flow", metavar="FLOW", help="a flow's name")
    configure_socket(parser)


def run(arguments):
    """Run `flowos detach`; the result is the exit code."""
    return say(arguments, client(arguments).command("detach", module=arguments.module, flow=arguments.flow))
