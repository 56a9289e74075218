"""List the processing modules there are, with their parameters.

Shipped ones, those of installed packages (entry points of the group flowos.modules), and with
FILE… those in files of your own. A parameter without a default must be given.
"""
import inspect
import json
import sys

from . import OK


def configure(parser):
    """Add the command's arguments."""
    parser.add_argument("specs", nargs="*", metavar="MODULE", help="only these: a name, or path.py:Class")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def described(module):
    """Give what is told of a module class, for JSON."""
    from flowos.parameters import parameters_of, spell

    return {
        "summary": (inspect.getdoc(module) or "").split("\n", 1)[0], "protocol": module.protocol, "mode": module.mode,
        "scope": module.scope,
        "parameters": {parameter.name: {
            "type": parameter.kind, "needed": parameter.default is parameter.NEEDED,
            "default": None if parameter.default is parameter.NEEDED else spell(parameter.default)}
            for parameter in parameters_of(module).values()},
    }


def run(arguments):
    """Run `flowos modules`; the result is the exit code."""
    from flowos.registry import all_modules, find_module

    found = {spec: find_module(spec) for spec in arguments.specs} or all_modules()
    told = {name: described(module) for name, module in found.items()}
    if arguments.json:
        sys.stdout.write(json.dumps(told) + "\n")
        return OK
    width = max(map(len, told), default=0)
    for name, module in told.items():
        kind = "reads" if module["mode"] == "rdonly" else "edits"
        print(f"{name:<{width}}  {kind} {module['protocol']}: {module['summary']}")
        for title, parameter in module["parameters"].items():
            default = "needed" if parameter["needed"] else f"default {parameter['default'] or 'empty'}"
            print(f"{'':<{width}}    {title} ({parameter['type']}; {default})")
    return OK
