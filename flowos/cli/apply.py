"""Make the daemon be as a TOML file says: the difference alone is applied, while traffic runs.

    [flows.web]
    match = "tcp,tp_dst=80"

    [[flows.web.attach]]
    module = "http_strip"
    parameters = { pattern = "SECRET" }
"""
import sys

from .daemon_calls import client, configure_socket, say


def configure(parser):
    """Add the command's arguments."""
    parser.add_argument("file", metavar="FILE", help="TOML, or - for standard input")
    parser.add_argument("--plan", action="store_true", help="only say what would change")
    configure_socket(parser)


def run(arguments):
    """Run `flowos apply`; the result is the exit code."""
    from flowos.daemon.configuration import read, read_file

    wanted = read(sys.stdin.read(), "standard input") if arguments.file == "-" else read_file(arguments.file)
    done = client(arguments).command("apply", configuration=wanted, plan=arguments.plan)
    return say(arguments, done, "\n".join(
        " ".join([change.pop("command").replace("_", " "), *(f"{name}={value}" for name, value in change.items() if value != {})])
        for change in map(dict, done)))
