"""Allocate services to servers and paths, or prove that they do not fit (D3.2 §3.2).

    flowos allocate PLATFORM SERVICES [--delay-bound D] [-o SOLUTION]
    flowos allocate --generate large --services 4000 --delay-bound 11
    flowos allocate --check SOLUTION

Files are JSON, as docs/allocation.md describes them.  The exit code is 0 for a solution without
violations, 1 for anything else.
"""
import argparse
import json
import os
import sys

from . import FAILED, OK, UsageFault
from .allocate_files import Instance, check_solution, load_solution, save_instance, save_solution
from .allocate_report import Progress, record, text

PLATFORMS = ("basic", "large")


def configure(parser):
    """Add the command's arguments."""
    parser.add_argument("platform", nargs="?", metavar="PLATFORM", help="JSON file of the platform")
    parser.add_argument("services", nargs="?", metavar="SERVICES", help="JSON file of the services")
    parser.add_argument("--delay-bound", type=natural, metavar="D", help="bound the delay of every path by D")
    parser.add_argument("--objective", choices=("feasible", "delay", "max-bandwidth"), default="feasible",
                        help="any solution; or that of least total delay; or with the least full links")
    parser.add_argument("--time-limit", type=seconds, default=60.0, metavar="S", help="seconds of search (60)")
    parser.add_argument("--solver", choices=("packing", "tabu", "greedy", "exact"), default="packing",
                        help="packing (FlowOS's), tabu or greedy (D3.2's), exact (CP-SAT; small instances)")
    parser.add_argument("--seed", type=natural, default=1, metavar="N", help="seed of what is drawn (1)")
    parser.add_argument("-o", "--output", metavar="SOLUTION", help="write the solution to this file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--check", metavar="SOLUTION", help="evaluate a solution instead of looking for one")
    made = parser.add_argument_group("instances of D3.2")
    made.add_argument("--generate", choices=PLATFORMS, help="make the instance instead of reading it")
    made.add_argument("--services", dest="count", type=natural, metavar="N", help="number of services to generate")
    made.add_argument("--spread", action="store_true", help="deal sources evenly to I/O switches")
    made.add_argument("--memory", choices=("fixed", "uniform"), default="fixed",
                      help="fixed per role, or drawn from the range of table 3.1")
    made.add_argument("--packet-bits", type=natural, default=1024, metavar="B", help="bits per packet (1024)")
    made.add_argument("--write", metavar="DIR", help="write the instance to DIR, and do nothing else")


def natural(value):
    """Read a number that is not negative (an argparse type)."""
    number = int(value)
    if number < 0:
        raise ValueError(value)
    return number


def seconds(value):
    """Read a time in seconds, over 0 (an argparse type)."""
    number = float(value)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"invalid seconds value: {value!r}")
    return number


def instance_of(arguments):
    """Give the Instance that the arguments name."""
    if arguments.generate:
        if arguments.platform:
            raise UsageFault(f"allocate: {arguments.platform}: --generate makes the instance; it reads no files")
        if not arguments.count:
            raise UsageFault("allocate: --generate: expected --services N with it, N from 1")
        return Instance.generate(arguments.generate, arguments.count, arguments.seed, arguments.spread,
                                 arguments.memory, arguments.packet_bits)
    for option, given in (("--services", arguments.count is not None), ("--write", arguments.write),
                          ("--spread", arguments.spread)):
        if given:
            raise UsageFault(f"allocate: {option}: only with --generate")
    if not arguments.platform or not arguments.services:
        raise UsageFault("allocate: expected PLATFORM and SERVICES, or --generate, or --check")
    return Instance.read(arguments.platform, arguments.services)


def check(arguments):
    """Evaluate a solution; the result is the exit code."""
    solution, named = load_solution(arguments.check)
    if arguments.generate or arguments.platform:
        instance = instance_of(arguments)
        instance.delay_bound = named.get("delay_bound")
    else:
        instance = Instance.named(named, os.path.dirname(arguments.check))
    if arguments.delay_bound is not None:
        instance.delay_bound = arguments.delay_bound
    report = check_solution(instance, solution, named)
    show(arguments, instance, solution, report)
    return FAILED if report is None or report.violations else OK


def show(arguments, instance, solution, report):
    """Print what was found."""
    if arguments.json:
        sys.stdout.write(json.dumps(record(instance, solution, report)) + "\n")
    else:
        sys.stdout.write(text(instance, solution, report))


def run(arguments):
    """Run `flowos allocate`; the result is the exit code."""
    from flowos.services.allocation import allocate

    if arguments.check:
        return check(arguments)
    instance = instance_of(arguments)
    if arguments.write:
        save_instance(instance, arguments.write)
        return OK
    instance.delay_bound = arguments.delay_bound
    with Progress(sys.stderr) as progress:
        solution = allocate(instance.platform, instance.services, arguments.delay_bound, arguments.objective,
                            arguments.time_limit, arguments.solver, arguments.seed, progress)
    report = check_solution(instance, solution) if solution.placement else None
    if arguments.output:
        save_solution(solution, instance, arguments.output)
    show(arguments, instance, solution, report)
    return OK if solution.verdict == "feasible" else FAILED
