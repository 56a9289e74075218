"""Change a parameter of an attached module while traffic runs: `flowos set flow1/http_strip.pattern SECRET`."""
from .daemon_calls import client, configure_socket, say, target, text_of


def configure(parser):
    """Add the command's arguments."""
    parser.add_argument("parameter", metavar="FLOW/MODULE.PARAMETER", help="which")
    parser.add_argument("value", metavar="VALUE", help="its new value")
    configure_socket(parser)


def run(arguments):
    """Run `flowos set`; the result is the exit code."""
    where = target(arguments.parameter)
    return say(arguments, client(arguments).command(
        "set", flow=where["flow"], module=where["module"], parameters={where["parameter"]: text_of(arguments.value)}))
