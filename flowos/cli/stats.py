"""Print the daemon's counters: packets, bytes, drops by reason, ports; those that are zero only with --all."""
from .daemon_calls import client, configure_socket, say


def configure(parser):
    """Add the command's arguments."""
    parser.add_argument("--all", action="store_true", help="those that are zero, too")
    configure_socket(parser)


def run(arguments):
    """Run `flowos stats`; the result is the exit code."""
    told = client(arguments).command("stats")
    lines = [f"{name:<32} {value:,}" for name, value in told["counters"].items() if value or arguments.all]
    for title, port in told["ports"].items():
        lines.append(f"port {title} ({port['spec']})")
        lines += [f"  {name:<30} {value:,}" for name, value in port.items() if name != "spec" and (value or arguments.all)]
    return say(arguments, told, "\n".join(lines))
