"""Show the daemon's flows: matches, pipelines, and what each module did."""
from .daemon_calls import client, configure_socket, say

COUNTERS = ("windows", "units", "bytes", "edits", "bytes_removed", "bytes_inserted", "held_released", "errors")


def configure(parser):
    """Add the command's arguments."""
    parser.add_argument("flow", nargs="?", default="", metavar="FLOW", help="only this one")
    configure_socket(parser)


def lines(flow):
    """Yield the lines that tell of a flow."""
    yield f"{flow['name']}  priority={flow['priority']}  {flow['match']}"
    for stage in flow["pipeline"]:
        settings = "".join(f" {name}={value}" for name, value in stage["parameters"].items())
        done = ", ".join(f"{stage[name]:,} {name.replace('_', ' ')}" for name in COUNTERS if stage[name])
        yield f"  {stage['order']:>3} {stage['module']}{settings} ({stage['mode']} {stage['protocol']}, {stage['threads']}): " \
              f"{done or 'idle'}{'' if stage['attached'] else '; taken off: it took too long'}"
        if stage["last_error"]:
            yield f"      last error: {stage['last_error'].strip().splitlines()[-1]}"


def run(arguments):
    """Run `flowos show`; the result is the exit code."""
    flows = client(arguments).command("show", flow=arguments.flow)
    return say(arguments, flows, "\n".join(line for flow in flows for line in lines(flow)))
