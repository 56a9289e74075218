"""Write the daemon's configuration as TOML, for `flowos apply`."""
from .daemon_calls import client, configure_socket, say


def configure(parser):
    """Add the command's arguments."""
    parser.add_argument("file", nargs="?", metavar="FILE", help="where to (standard output)")
    configure_socket(parser)


def run(arguments):
    """Run `flowos save`; the result is the exit code."""
    text = client(arguments).command("save")
    if arguments.file is None:
        return say(arguments, text, text.rstrip("\n"))
    from flowos.daemon.configuration import save

    save(arguments.file, text)
    return say(arguments, arguments.file)
