"""Claim: 1,000 machines are balanced in under 1 ms, with fewer than 3 prefixes each, heavy tails or not.

    python benchmarks/balancing.py [--quick] [--results DIR]
    python benchmarks/balancing.py --draw RESULT.json      plot and write the tables of docs/balancing.md anew

Reproduces figures 2.3 to 2.5 of D3.2 and what §2.2.7 says in words, and measures in the same run the
listing of §2.2.4 in plain Python, Wang et al., and hashing.  Loads are the five distributions of the
source at /16 and Zipf's law; random ones are drawn with five seeds.  The heavy-tail part makes
packets of hosts and ports, counts half of them as servers would, and puts the other half through
the plan.  One line per claim is printed, everything goes to benchmarks/results/, quick runs to
build/benchmarks/.  No time is asserted.
"""
import argparse
import datetime
import heapq
import json
import statistics
import sys
import time
from pathlib import Path

import numpy

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE), str(ROOT)]

import balancing_report                                    # noqa: E402
import measure                                             # noqa: E402
from flowos.services.balancing import Fleet, Loads, Machine, Space, balance                    # noqa: E402
from flowos.services.balancing_loads import DISTRIBUTIONS, distribution, spread                # noqa: E402
from flowos.services.balancing_mend import moves, rebalance                                    # noqa: E402
from flowos.services.balancing_rivals import wang                                              # noqa: E402

MACHINES = (10, 20, 50, 100, 200, 500, 1000)
IMBALANCES = (1.005, 1.01, 1.02, 1.05, 1.1, 1.2, 1.3, 1.5, 2.0)
CHUNKS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
SEEDS = range(1, 6)
DRAWN = ("random-uniform", "random-exponential", "zipf")


def fleet(count, capacities=None):
    """Make so many machines, on the ports from 3."""
    return Fleet(Machine(f"m{number}", 1.0 if capacities is None else float(capacities[number]), number + 3)
                 for number in range(count))


def given(plan):
    """Count the prefixes of a plan, those of the default machine left out."""
    return len(plan) - len(plan.tables)


def timed(function, rounds):
    """Run a function so often; give the minimum and the median in ms."""
    times = []
    for _ in range(rounds):
        begun = time.perf_counter_ns()
        function()
        times.append((time.perf_counter_ns() - begun) / 1e6)
    return {"ms_min": min(times), "ms_median": statistics.median(times), "rounds": rounds}


def listing(values, count, imbalance=1.1, chunk=0.2):
    """Balance as the listing of §2.2.4 does, in plain Python with heaps: the number of prefixes given.

    None where it ends without a balance: it says nothing of what cannot be split.

    `values` are the loads of the 2**n prefixes of one length; prefix sums make the load of any prefix one subtraction.
    """
    bits, total = len(values).bit_length() - 1, float(values.sum())
    sums = numpy.concatenate([[0.0], numpy.cumsum(values)]).tolist()
    quota, threshold = total / count, chunk * total / count
    computers = [(-quota, index, 0.0) for index in range(1, count)]
    leaves, last, prefixes = [(-total, 0, 0)], total, 0
    while last > quota * imbalance:
        room, index, load = computers[0]
        weight, value, length = heapq.heappop(leaves)
        weight = -weight
        if load + weight <= (quota if weight > threshold else quota * imbalance):
            heapq.heapreplace(computers, (room + weight, index, load + weight))
            last -= weight
            prefixes += 1
        elif length < bits:
            size = 1 << (bits - length - 1)
            for half in (2 * value, 2 * value + 1):
                heapq.heappush(leaves, (sums[half * size] - sums[(half + 1) * size], half, length + 1))
        else:
            return None
    return prefixes


def figures(seeds):
    """Figures 2.3 and 2.4: prefixes by machines."""
    rows = []
    for name in DISTRIBUTIONS:
        drawn = [spread(distribution(name, seed=seed)) for seed in (seeds if name in DRAWN else [1])]
        for count in MACHINES:
            made = [balance(loads, fleet(count)) for loads in drawn]
            rows.append({"distribution": name, "machines": count, "prefixes": statistics.mean(given(b.plan) for b in made),
                         "imbalance": max(b.imbalance for b in made), "rules": max(2 * len(b.plan) + 4 for b in made)})
    return rows


def by_imbalance():
    """Figure 2.5: prefixes by the maximum imbalance; 100 machines, bell curves only."""
    return [{"distribution": name, "limit": limit, "prefixes": given(made.plan), "imbalance": made.imbalance}
            for name in DISTRIBUTIONS[:2] for limit in IMBALANCES
            for made in [balance(spread(distribution(name)), fleet(100), imbalance=limit)]]


def by_chunk():
    """What the chunk threshold does: 100 machines."""
    return [{"distribution": name, "chunk": chunk, "prefixes": given(made.plan), "imbalance": made.imbalance}
            for name in DISTRIBUTIONS for chunk in CHUNKS
            for made in [balance(spread(distribution(name)), fleet(100), chunk=chunk)]]


def times(rounds):
    """How long a plan takes, from loads and machines to a table that can be asked; the listing beside it."""
    rows = []
    for name in DISTRIBUTIONS:
        values = distribution(name)
        loads = spread(values)
        for count in (10, 100, 1000):
            machines = fleet(count)
            made = balance(loads, machines)
            drifted = spread(values * numpy.random.default_rng(3).lognormal(0, 0.2, len(values)))
            rows.append({
                "distribution": name, "machines": count, "balance": timed(lambda: balance(loads, machines), rounds),
                "listing": timed(lambda: listing(values, count), max(3, rounds // 20)) if listing(values, count) else None,
                "mend": timed(lambda: rebalance(made.plan, drifted), max(3, rounds // 20))})
    return rows


def capacities(seeds):
    """Machines of unlike capacity (1 to 10, uniform): the imbalance and prefixes of ours and of Wang et al."""
    rows = []
    for name in DISTRIBUTIONS:
        for count in (10, 50):
            ours, theirs = [], []
            for seed in seeds:
                machines = fleet(count, numpy.random.default_rng(seed).uniform(1, 10, count))
                loads = spread(distribution(name, seed=seed))
                made, rival = balance(loads, machines), wang(loads.space, machines)
                ours.append((made.imbalance, given(made.plan)))
                theirs.append((rival.imbalance(loads), len(rival.tables[0].prefixes()) - 1))
            rows.append({"distribution": name, "machines": count, "imbalance": max(b for b, _ in ours),
                         "prefixes": statistics.mean(p for _, p in ours), "wang_imbalance": max(b for b, _ in theirs),
                         "wang_prefixes": statistics.mean(p for _, p in theirs)})
    return rows


def packets(count, exponent, seed=1, hosts=50000):
    """Draw packets of hosts by Zipf's law, in networks by Zipf's law: keys (count, 6) of address and port, and hosts.

    A host has 4 connections or, if it is busy, one for each 20,000th of the traffic.
    """
    rng = numpy.random.default_rng(seed)
    ranks = numpy.arange(1, 1001, dtype=float) ** -1.0
    networks = rng.permutation(65536)[:1000][rng.choice(1000, hosts, p=ranks / ranks.sum())]
    addresses = networks.astype("u4") << 16 | rng.integers(0, 65536, hosts, dtype="u4")
    parts = numpy.arange(1, hosts + 1, dtype=float) ** -exponent
    parts /= parts.sum()
    who = rng.choice(hosts, count, p=parts)
    connections = numpy.maximum(4, (parts * 20000).astype(int))[who]
    number = (rng.random(count) * connections).astype("u8")
    ports = ((number * 2654435761 + who.astype("u8") * 40503) >> 7) % 64512 + 1024
    keys = numpy.empty((count, 6), "u1")
    keys[:, :4] = addresses[who].astype(">u4").view("u1").reshape(-1, 4)
    keys[:, 4:] = ports.astype(">u2").view("u1").reshape(-1, 2)
    return keys


def mixed(keys):
    """Hash keys to [0, 1): a multiplicative mix (splitmix64) of their six bytes."""
    wide = numpy.zeros((len(keys), 8), "u1")
    wide[:, 8 - keys.shape[1]:] = keys
    x = wide.view(">u8").ravel().astype("u8")
    for shift, factor in ((30, 0xbf58476d1ce4e5b9), (27, 0x94d049bb133111eb)):
        x = (x ^ (x >> numpy.uint64(shift))) * numpy.uint64(factor)
    return (x ^ (x >> numpy.uint64(31))) / 2.0 ** 64


def receive(plan, keys):
    """Give the machine of each packet: what the switch would do, a hash group by address and port."""
    owners = plan.tables[0].owners(numpy.ascontiguousarray(keys[:, :plan.tables[0].width])).astype(int)
    count = len(plan.machines)
    for number, group in enumerate(plan.groups):
        mine = owners == count + number
        members, weights = zip(*sorted(group.items()))
        edges = numpy.cumsum(weights) / sum(weights)
        owners[mine] = numpy.array(members)[numpy.minimum(numpy.searchsorted(edges, mixed(keys[mine])), len(members) - 1)]
    return owners


def tail(count, exponents, machines=50):
    """Heavy tails: half of the packets are counted, the other half goes through the plan."""
    rows, equal = [], fleet(machines)

    def judge(exponent, way, owners, keys, prefixes, bound=None):
        loads = numpy.bincount(owners, minlength=machines)
        hosts, who = numpy.unique(keys[:, :4].copy().view(">u4").ravel(), return_inverse=True)
        pairs = numpy.unique(who.astype("i8") * machines + owners)
        spans = numpy.bincount(pairs // machines, minlength=len(hosts))
        torn = numpy.isin(who, numpy.flatnonzero(spans > 1)).mean()
        rows.append({"exponent": exponent, "way": way, "imbalance": float(loads.max() / loads.mean()),
                     "idle": int((loads == 0).sum()), "prefixes": prefixes, "bound": bound, "torn": float(torn)})

    for exponent in exponents:
        keys = packets(count, exponent)
        seen, later = keys[:count // 2], keys[count // 2:]
        ones = numpy.ones(len(seen))
        _, times_ = numpy.unique(later[:, :4].copy().view(">u4"), return_counts=True)
        bound = float(max(1.0, times_.max() / len(later) * machines))
        for on, every in (("src", 100), ("src", 1), ("src+port", 100), ("src+port", 1)):
            loads = Loads(Space(on))
            loads.count(0, seen[:, :loads.trees[0].width], ones, every)
            said = f"1 in {every}" if every > 1 else "all"
            if on == "src":
                if every > 1:
                    coarse = balance(loads, equal, finest=(16, 128)).plan
                    judge(exponent, f"to /16, {said} counted", receive(coarse, later), later, given(coarse))
                    shared = balance(loads, equal, share=True).plan
                    judge(exponent, f"to hosts, hash groups, {said} counted", receive(shared, later), later, given(shared))
                plan = balance(loads, equal).plan
                judge(exponent, f"to hosts, {said} counted", receive(plan, later), later, given(plan), bound)
            else:
                plan = balance(loads, equal).plan
                judge(exponent, f"to ports, {said} counted", receive(plan, later), later, given(plan))
        plan = wang(Space("src"), equal)
        judge(exponent, "Wang et al.", receive(plan, later), later, len(plan.tables[0].prefixes()) - 1)
        for way, part in (("5-tuple hash", later), ("hash of hosts", later[:, :4])):
            judge(exponent, way, (mixed(part) * machines).astype(int), later, None)
    return rows


def drift(periods, machines=50):
    """Loads that wander (a random factor of 20 % per prefix and period): mending against starting afresh."""
    rows = []
    for name in ("gauss-wide", "random-exponential", "zipf"):
        values, rng = distribution(name), numpy.random.default_rng(4)
        mended = balance(spread(values), fleet(machines))
        afresh, seen = mended, []
        for _ in range(periods):
            values = values * rng.lognormal(0, 0.2, len(values))
            values /= values.sum()
            loads = spread(values)
            mended = rebalance(mended.plan, loads)
            fresh = balance(loads, fleet(machines))
            seen.append((mended.moved, sum(move.load for move in moves(afresh.plan, fresh.plan, loads)), given(mended.plan),
                         given(fresh.plan), mended.imbalance))
            afresh = fresh
        moved, fresh_moved, prefixes, fresh_prefixes, imbalance = zip(*seen)
        rows.append({"distribution": name, "machines": machines, "periods": periods, "moved": statistics.mean(moved),
                     "fresh_moved": statistics.mean(fresh_moved), "prefixes": statistics.mean(prefixes),
                     "most_prefixes": max(prefixes), "fresh_prefixes": statistics.mean(fresh_prefixes),
                     "imbalance": max(imbalance)})
    return rows


def fleets(counts=(10, 50, 200)):
    """A machine more, a machine less: the load that moves, against the least that must."""
    rows = []
    for count in counts:
        loads = spread(distribution("random-exponential"))
        made = balance(loads, fleet(count))
        more, fewer = rebalance(made.plan, loads, fleet(count + 1)), rebalance(made.plan, loads, fleet(count)[:-1])
        rows.append({"machines": count, "imbalance": max(more.imbalance, fewer.imbalance),
                     "joined": more.moved, "join_least": 1 / (count + 1),
                     "join_prefixes": given(more.plan) - given(made.plan),
                     "left": fewer.moved, "leave_least": float(made.loads[-1]),
                     "leave_prefixes": given(fewer.plan) - given(made.plan)})
    return rows


def counting(count):
    """How fast the tree of load counts: packets per second of one core, hosts by Zipf's law."""
    keys, rows = packets(count, 1.1), []
    for on, every in (("src", 1), ("src", 100), ("src+port", 1), ("src+port", 100)):
        loads = Loads(Space(on))
        mine, ones = numpy.ascontiguousarray(keys[:, :loads.trees[0].width]), numpy.ones(count)
        loads.count(0, mine, ones, every)
        result = timed(lambda: loads.count(0, mine, ones, every), 5)
        rows.append({"on": on, "every": every, "mpps": count / result["ms_min"] / 1e3, "leaves": loads.trees[0].leaves})
    return rows


def main():
    parser = argparse.ArgumentParser(description="Reproduce figures 2.3 to 2.5 and measure the rivals.")
    parser.add_argument("--quick", action="store_true", help="small and few; figures mean little")
    parser.add_argument("--results", type=Path, help="where to write the result")
    parser.add_argument("--draw", type=Path, metavar="RESULT.json", help="measure nothing: plots and tables of this result")
    arguments = parser.parse_args()
    if arguments.draw:
        result = json.loads(arguments.draw.read_text())
        page = ROOT / "docs" / "balancing.md"
        page.write_text(balancing_report.rewritten(page.read_text(), result))
        balancing_report.plot(result, arguments.draw.with_suffix(".svg"))
        return
    quick = arguments.quick
    result = {"date": datetime.date.today().isoformat(), "host": measure.host()}
    for name, part in (("figures", lambda: figures(SEEDS[:1] if quick else SEEDS)), ("by_imbalance", by_imbalance),
                       ("by_chunk", by_chunk), ("times", lambda: times(20 if quick else 400)),
                       ("capacities", lambda: capacities(SEEDS[:1] if quick else SEEDS)),
                       ("tail", lambda: tail(200_000 if quick else 8_000_000, (0.8, 1.0, 1.2))),
                       ("drift", lambda: drift(5 if quick else 100)), ("fleets", fleets),
                       ("counting", lambda: counting(100_000 if quick else 2_000_000))):
        result[name] = part()
        print(f"{name}: done", file=sys.stderr, flush=True)
    for line in balancing_report.claims(result):
        print(line)
    directory = arguments.results or ROOT / ("build/benchmarks" if quick else "benchmarks/results")
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{result['date']}-balancing.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    try:
        balancing_report.plot(result, path.with_suffix(".svg"))
    except ImportError:
        print("skipped: the plot: matplotlib is not installed")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
