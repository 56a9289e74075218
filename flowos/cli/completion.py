"""Print a completion script for a shell, made from what --help shows.

    source <(flowos completion bash)                            or into /etc/bash_completion.d/flowos
    flowos completion zsh >"${fpath[1]}/_flowos"
    flowos completion fish >~/.config/fish/completions/flowos.fish

Names of modules, of flows and of parameters are asked of the daemon that runs, by --names.
"""
import sys

from flowos.core.errors import FlowOSError

from . import OK, UsageFault
from .completion_model import NAMES
from .daemon_calls import client, configure_socket

SHELLS = ("bash", "zsh", "fish")


def configure(parser):
    """Add the command's arguments."""
    parser.add_argument("shell", nargs="?", choices=SHELLS, help="whose script to print")
    parser.add_argument("--names", choices=NAMES, help="print names instead, one to a line: what the scripts call")
    configure_socket(parser)


def names_of(kind, arguments):
    """Give the names of a kind; of a daemon that does not run there are none."""
    from flowos.registry import module_names

    try:
        flows = client(arguments).command("show")
    except FlowOSError:
        flows = []
    stages = [(flow["name"], stage) for flow in flows for stage in flow["pipeline"]]
    if kind == "flows":
        return [flow["name"] for flow in flows]
    if kind == "modules":
        return sorted({*module_names(), *(stage["module"] for _, stage in stages)})
    if kind == "attached":
        return sorted({stage["module"] for _, stage in stages})
    return [f"{flow}/{stage['module']}.{parameter}" for flow, stage in stages for parameter in stage["parameters"]]


def run(arguments):
    """Run `flowos completion`; the result is the exit code."""
    if (arguments.shell is None) == (arguments.names is None):
        raise UsageFault(f"completion: expected a shell, one of {', '.join(SHELLS)}, or --names")
    if arguments.names is not None:
        sys.stdout.write("".join(f"{name}\n" for name in names_of(arguments.names, arguments)))
        return OK
    from . import completion_shells
    from .completion_model import model

    sys.stdout.write(getattr(completion_shells, arguments.shell)(model()))
    return OK
