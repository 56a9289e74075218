"""Attach a module to a flow of the daemon while traffic runs: `flowos attach http_strip flow1`.

Without --order it goes last. Parameters are those given here, else those of `flowos load`, else the
module's defaults.
"""
from .daemon_calls import client, configure_socket, say, values


def configure(parser):
    """Add the command's arguments."""
    parser.add_argument("module", metavar="MODULE", help="a module; one that is not loaded is loaded")
    parser.add_argument("flow", metavar="FLOW", help="a flow's name")
    parser.add_argument("values", nargs="*", metavar="NAME=VALUE", help="parameters")
    parser.add_argument("--order", type=int, help="its place in the pipeline")
    parser.add_argument("--threads", choices=("inline", "own"), default="inline",
                        help="run it in the engine's loop, or on a thread of its own (inline)")
    configure_socket(parser)


def run(arguments):
    """Run `flowos attach`; the result is the exit code."""
    given = {} if arguments.order is None else {"order": arguments.order}
    made = client(arguments).command("attach", module=arguments.module, flow=arguments.flow, threads=arguments.threads,
                                     parameters=values(arguments.values), **given)
    return say(arguments, made)
