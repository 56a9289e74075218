"""Make, change, delete and list the daemon's flows.

    flowos flow add web=tcp,tp_dst=80      flowos flow add tcp,tp_dst=80     (flow1, flow2, …)
    flowos flow mod web --priority 10      flowos flow del web               flowos flow list

A match is written as ovs-ofctl writes it; the highest priority wins, then the oldest.
"""
import re

from . import UsageFault
from .daemon_calls import client, configure_socket, say

# A name is told from a match by what stands before the first sign: no field of a match is a flow's name.
NAMED = re.compile(r"([A-Za-z][\w-]*)=((?:[a-z][a-z0-9_]*)(?:[,=].*)?)", re.S)


def split(text):
    """Split [NAME=]MATCH; a field of a match is no name.

    >>> split("web=tcp,tp_dst=80"), split("tcp,tp_dst=80"), split("tp_dst=80"), split("any")
    (('web', 'tcp,tp_dst=80'), ('', 'tcp,tp_dst=80'), ('', 'tp_dst=80'), ('', 'any'))
    """
    from flowos.core.match import Match
    from flowos import UsageError

    found = NAMED.fullmatch(text)
    if found:
        try:
            Match.parse(text)
        except UsageError:
            return found[1], found[2]
    return "", text


def configure(parser):
    """Add the command's arguments."""
    parser.add_argument("action", choices=("add", "mod", "del", "list"), help="what to do")
    parser.add_argument("what", nargs="?", metavar="[NAME=]MATCH", help="add: a match, mod: NAME or NAME=MATCH, del: NAME")
    parser.add_argument("--priority", type=int, help="0 to 65535 (0)")
    configure_socket(parser)


def run(arguments):
    """Run `flowos flow`; the result is the exit code."""
    daemon, action = client(arguments), arguments.action
    if action != "list" and arguments.what is None:
        raise UsageFault(f"flow {action}: which? expected " + {"add": "[NAME=]MATCH"}.get(action, "NAME"))
    given = {} if arguments.priority is None else {"priority": arguments.priority}
    if action == "add":
        name, match = split(arguments.what)
        made = daemon.command("flow_add", name=name, match=match, **given)
        return say(arguments, made, made)
    if action == "mod":
        name, sign, match = arguments.what.partition("=")
        return say(arguments, daemon.command("flow_mod", flow=name, **({"match": match} if sign else {}), **given))
    if action == "del":
        return say(arguments, daemon.command("flow_del", flow=arguments.what))
    flows = daemon.command("show")
    return say(arguments, flows, "\n".join(
        f"{flow['name']}  priority={flow['priority']}  {flow['match']}  "
        f"{' '.join(stage['module'] for stage in flow['pipeline'])}".rstrip() for flow in flows))
