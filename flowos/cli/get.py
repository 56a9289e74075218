"""Print a parameter of an attached module: `flowos get flow1/http_strip.pattern`."""
from .daemon_calls import client, configure_socket, say, target


def configure(parser):
    """Add the command's arguments."""
    parser.add_argument("parameter", metavar="FLOW/MODULE.PARAMETER", help="which")
    configure_socket(parser)


def run(arguments):
    """Run `flowos get`; the result is the exit code."""
    value = client(arguments).command("get", **target(arguments.parameter))
    return say(arguments, value, value)
