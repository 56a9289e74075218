"""Balance the traffic of a capture, or given loads, over machines, and write the OpenFlow rules.

The load by prefix comes from capture files (pcap, pcapng, also compressed; `-` is standard input),
where who opened a connection is its source, or with --loads from a file of lines PREFIX LOAD.
--machines is a number of equal machines or a JSON file: {"machines": [{"name": "m1",
"capacity": 10, "port": 3}, …]}.  With --plan an earlier plan is mended instead, and it is said
what moves, and which of the capture's connections that were open at its end must stay or migrate.

  flowos balance traffic.pcap --machines 8 -o plan.json --rules rules.txt
  ovs-ofctl -O OpenFlow13 --bundle replace-flows br0 rules.txt
  flowos balance later.pcap --machines 9 --plan plan.json -o plan.json
"""
import os
import sys

from . import OK, UsageFault
from .inspect import natural

ON = ("src", "dst", "src+port", "dst+port", "src-port", "dst-port")


def configure(parser):
    """Add the command's arguments."""
    parser.add_argument("inputs", nargs="*", metavar="IN", help="capture file, or - for standard input")
    parser.add_argument("--loads", metavar="FILE", help="take the load from this file (PREFIX LOAD) and from no capture")
    parser.add_argument("--machines", required=True, metavar="N|FILE",
                        help="how many equal machines, or a JSON file of them")
    parser.add_argument("--on", choices=ON, default="src", help="what to balance on (src): " + ", ".join(ON))
    parser.add_argument("--imbalance", type=float, default=1.1, metavar="X",
                        help="the most load over what a machine is meant to have (1.1)")
    parser.add_argument("--chunk", type=float, default=0.2, metavar="X", help="chunk threshold, in mean loads (0.2)")
    parser.add_argument("--weigh", choices=("bytes", "packets"), default="bytes", help="what load is (bytes)")
    parser.add_argument("--counters", type=natural, default=16384, metavar="N",
                        help="counters per family of addresses (16384; 0: one for every address)")
    parser.add_argument("--sample", type=float, default=1, metavar="N", help="count one packet in N (1)")
    for name, what in (("ipv4", "IPv4 prefix"), ("ipv6", "IPv6 prefix"), ("port", "prefix of ports")):
        parser.add_argument(f"--finest-{name}", type=natural, metavar="BITS", help=f"the longest {what} to use (all bits)")
    parser.add_argument("--share", action="store_true", help="share what is too hot by hash groups")
    parser.add_argument("--plan", metavar="FILE", help="mend this plan instead of making one")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the plan (JSON)")
    parser.add_argument("--rules", metavar="FILE", help="write the flows for ovs-ofctl")
    parser.add_argument("--groups", metavar="FILE", help="write the hash groups for ovs-ofctl")
    parser.add_argument("--pins", metavar="FILE", help="write flows that keep connections where they are")
    parser.add_argument("--wiring", default="1,2,100,200", metavar="A,B,SRC,DST",
                        help="outside ports and the VLAN tags from A to B and back (1,2,100,200)")
    parser.add_argument("--write-loads", metavar="FILE", help="write the loads as --loads reads them")
    parser.add_argument("--compare", action="store_true", help="say what Wang et al. and hashing would do")
    parser.add_argument("--limit", type=natural, default=25, metavar="N", help="rows per table (25; 0: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def wiring_of(text):
    """Read A,B,SRC,DST.

    >>> wiring_of("1,2,100,200").vlan_dst
    200
    """
    from flowos.services.balancing_rules import Wiring

    words = text.split(",")
    if len(words) != 4 or not all(word.isascii() and word.isdigit() for word in words):
        raise UsageFault(f"balance: --wiring {text}: expected four numbers A,B,SRC,DST")
    return Wiring(*map(int, words))


def machines_of(text, wiring):
    """Read --machines: that many equal machines on the ports that are free, or those of a file."""
    from flowos.services.balancing_plan import Fleet, Machine, machines_of as listed, read_json

    if not text.isascii() or not text.isdigit():
        with open(text, encoding="utf-8") as file:
            return read_json(file.read(), text, listed)
    if not 1 <= int(text) <= 65000:
        raise UsageFault(f"balance: --machines {text}: expected 1 to 65000")
    ports = [port for port in range(1, int(text) + 3) if port not in (wiring.a, wiring.b)]
    return Fleet(Machine(f"m{number}", 1.0, port) for number, port in zip(range(1, int(text) + 1), ports))


def loads_of(arguments, space):
    """Get the loads, and the counter that saw the capture (None: they come from a file)."""
    from flowos.services.balancing_loads import Loads, read_loads

    if arguments.loads is not None:
        if arguments.inputs:
            raise UsageFault("balance: the load comes from captures or from --loads, not from both")
        with open(arguments.loads, encoding="utf-8") as file:
            return read_loads(file, space, arguments.loads), None
    if not arguments.inputs:
        raise UsageFault("balance: no input: expected captures, or --loads FILE")
    for path in arguments.inputs:
        if path != "-":
            os.stat(path)
    from .balance_capture import read

    loads = Loads(space, arguments.counters or None)
    bar = None
    if sys.stderr.isatty():
        from .inspect_tables import progress

        bar = progress(arguments.inputs)
    how = (arguments.inputs, loads, arguments.sample, arguments.weigh, arguments.compare)
    if bar is None:
        return loads, read(*how)
    with bar:
        return loads, read(*how, lambda done: bar.update(bar.task_ids[0], completed=done))


def write(arguments, made, loads, touched, wiring):
    """Write the files that were asked for."""
    import json

    from flowos.services import balancing_rules
    from flowos.services.balancing_loads import write_loads

    texts = []
    if arguments.rules is not None:                    # what is wrong with them is said before a file is touched
        texts.append((arguments.rules, balancing_rules.rules(made.plan, wiring)))
        if arguments.groups is not None:
            texts.append((arguments.groups, balancing_rules.groups(made.plan, wiring)))
    if arguments.pins is not None:
        texts.append((arguments.pins, balancing_rules.pins(made.plan, wiring, touched.pins())))
    if arguments.output is not None:
        texts.append((arguments.output, [json.dumps(made.plan.to_json(), indent=1)]))
    for path, lines in texts:
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
    if arguments.write_loads is not None:
        with open(arguments.write_loads, "w", encoding="utf-8") as file:
            write_loads(loads, file)


def run(arguments):
    """Run `flowos balance`; the result is the exit code."""
    import json

    from flowos.services.balancing import Plan, Space, balance
    from flowos.services.balancing_mend import rebalance
    from flowos.services.balancing_moves import transition
    from flowos.services.balancing_plan import read_json
    from .balance_report import as_json, as_tables

    if arguments.pins is not None and (arguments.plan is None or not arguments.inputs):
        raise UsageFault("balance: --pins holds a capture's connections where an earlier plan had them: "
                         "expected IN and --plan")
    space, wiring = Space(arguments.on), wiring_of(arguments.wiring)
    machines = machines_of(arguments.machines, wiring)
    finest = space.finest(arguments.finest_ipv4, arguments.finest_ipv6, arguments.finest_port)
    before = touched = rivals = None
    if arguments.plan is not None:
        with open(arguments.plan, encoding="utf-8") as file:
            before = read_json(file.read(), arguments.plan, Plan.from_json)
    loads, counter = loads_of(arguments, space)
    options = {"imbalance": arguments.imbalance, "chunk": arguments.chunk, "finest": finest, "share": arguments.share}
    made = balance(loads, machines, **options) if before is None else rebalance(before, loads, machines, **options)
    if made.plan.groups and arguments.rules is not None and arguments.groups is None:
        raise UsageFault("balance: the rules use hash groups: expected --groups FILE beside --rules")
    if before is not None and counter is not None:
        touched = transition(before, made.plan, counter.open)
    if arguments.compare:
        from flowos.services.balancing_rivals import compare

        rivals = compare(loads, machines, counter.traffic if counter is not None else None)
    write(arguments, made, loads, touched, wiring)
    if arguments.json:
        json.dump(as_json(made, loads, touched, rivals), sys.stdout)
        print()
    else:
        as_tables(made, touched, rivals, arguments.limit, sys.stdout)
    return OK
