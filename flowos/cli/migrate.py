"""Move the states of connections to another machine: simulate it, or draw its state machine.

`--simulate` runs FlowOS's two phases (let short connections end where they are, then freeze and
copy the rest in batches) beside total copy, demand paging and pre-copy, on the same connections:
Poisson arrivals, Pareto durations.  `--diagram` prints the tables that both ends follow, as
Mermaid diagrams.  Times are in seconds, rates per second or bits per second.
"""
import sys

from . import OK, UsageFault

KINDS = ("cohort", "stationary", "both")


def configure(parser):
    """Add the command's arguments."""
    from flowos.services.migration import Policy
    from flowos.services.migration_simulation import Setting

    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--simulate", action="store_true", help="simulate a migration, and its rivals")
    what.add_argument("--diagram", action="store_true", help="print the state machines as Mermaid diagrams")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--population", choices=KINDS, default="both",
                        help="connections that began together, that have always come and gone, or both (both)")
    settings, policy = Setting(), Policy()

    def add(name, kind, value, text):
        parser.add_argument("--" + name, type=kind, default=value, metavar="N", help=f"{text} ({value:g})")

    add("states", int, settings.states, "states at the start")
    add("mean", float, settings.durations.mean, "mean duration of a connection")
    add("minimum", float, settings.durations.minimum, "shortest duration")
    add("packet-rate", float, settings.packet_rate, "packets of a connection per second")
    add("state-bytes", int, settings.state_bytes, "bytes of a state")
    add("group", int, settings.group, "linked states that move together, on average")
    add("shared-bytes", int, settings.shared_bytes, "bytes of shared state, copied at the start")
    add("slow", float, settings.slow, "bit/s in the rounds of pre-copy")
    add("fast", float, settings.fast, "bit/s when states are frozen")
    add("round-trip", float, settings.round_trip, "round trip between the machines")
    add("seed", int, settings.seed, "seed of the draw")
    add("batch", int, policy.batch, "most states of a batch")
    add("window", int, policy.window, "batches in flight")
    add("expiry-rate", float, policy.expiry_rate, "freeze when fewer states end per second")
    add("expiry-share", float, policy.expiry_share, "or fewer than this share of those left")
    add("idle-least", float, policy.idle_least, "shortest idle phase")
    add("idle-most", float, policy.idle_most, "longest idle phase")
    add("patience", float, policy.patience, "recall a batch that is not staged by then")
    add("rate-window", float, policy.rate_window, "measure the rate over this time")


def settings(arguments):
    """Give (settings, one per population; policy); UsageFault names the option that is wrong."""
    from flowos import UsageError
    from flowos.services.migration import Policy
    from flowos.services.migration_population import Durations
    from flowos.services.migration_simulation import Setting, check

    given = vars(arguments)
    kinds = KINDS[:2] if arguments.population == "both" else (arguments.population,)
    durations = Durations(arguments.mean, arguments.minimum)
    try:
        policy = Policy(**{name: given[name] for name in Policy._fields})
        common = {name: given[name] for name in Setting._fields if name not in ("population", "durations")}
        found = [Setting(population=kind, durations=durations, **common) for kind in kinds]
        check(found[0], policy)
        return found, policy
    except UsageError as error:
        option, colon, reason = str(error).partition(":")
        raise UsageFault(f"migrate: --{option.replace('_', '-')}{colon}{reason}") from None


def waited(outcome, setting, policy):
    """Give outcome(setting, policy); whoever sits at a terminal sees that it goes on."""
    if not sys.stderr.isatty():
        return outcome(setting, policy)
    from rich.console import Console

    with Console(stderr=True).status(f"{setting.states:,} states, {setting.population} population"):
        return outcome(setting, policy)


def run(arguments):
    """Run `flowos migrate`; the result is the exit code."""
    if arguments.diagram:
        from flowos.services.migration_diagram import machines, mermaid

        if arguments.json:
            from .migrate_report import write_json

            write_json(sys.stdout, {name: [row._asdict() for row in rows] for name, rows in machines().items()})
            return OK
        for name, rows in machines().items():
            sys.stdout.write(f"%% {name}\n{mermaid(rows)}\n")
        return OK
    from .migrate_report import outcome, write_json, write_tables

    chosen, policy = settings(arguments)
    found = [waited(outcome, setting, policy) for setting in chosen]
    if arguments.json:
        write_json(sys.stdout, {"policy": policy._asdict(), "populations": found})
    else:
        write_tables(sys.stdout, found)
    return OK
