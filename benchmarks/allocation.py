"""Claim: every instance of D3.2 §3.2.4 is solved, or proved infeasible, in under 60 s on one core: 30 times faster than the source.

    python benchmarks/allocation.py run [--tabu-limit S] [--only PART]    measure; write the result file
    python benchmarks/allocation.py report                               write figures and the tables of docs/allocation.md

The source's searches (greedy round robin and tabu search, Algorithm 1, in FlowOS's compiled version)
run on the same instances in the same run; the source's own figures, from a machine of 2012, stand
beside them (results/…-allocation-d32.json).  The result file holds what the page shows, and the
digest of each instance, so that an instance made elsewhere can be told to be the same.
"""
import argparse
import json
import random
import re
import time
from pathlib import Path

from measure import host

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks/results/2026-11-21-allocation.json"
SOURCE = ROOT / "benchmarks/results/2026-11-21-allocation-d32.json"
FIGURES = {"3.3": ROOT / "benchmarks/results/2026-11-21-allocation-basic.svg",
           "3.4": ROOT / "benchmarks/results/2026-11-21-allocation-large.svg"}
PAGE = ROOT / "docs/allocation.md"
COUNTS, BOUNDS = (4000, 6000, 8000, 10000, 12000), range(10, 21)
LIMIT = 60.0


def solve(instance, bound, solver, limit, objective="feasible", seed=1):
    """Solve an instance; give what happened, judged by the evaluator."""
    from flowos.cli.allocate_files import check_solution
    from flowos.services.allocation import allocate

    instance.delay_bound = bound
    begun = time.perf_counter()
    solution = allocate(instance.platform, instance.services, bound, objective, limit, solver, seed)
    seconds = time.perf_counter() - begun
    report = check_solution(instance, solution) if solution.placement else None
    if solution.verdict == "feasible" and report.violations:
        raise AssertionError(f"{instance.origin}: {report.worst}")
    over = solution.violations
    return {"solver": solver, "verdict": solution.verdict, "seconds": round(seconds, 3), "proof": solution.proof,
            "violations": {"cpu": over.cpu, "memory": over.memory, "bandwidth": over.bandwidth, "delay": over.delay},
            "metrics": None if report is None else {"total_delay": report.total_delay, "max_bandwidth": report.max_bandwidth},
            "statistics": {name: value for name, value in solution.statistics.items() if name != "history"},
            "history": thin(solution.statistics.get("history", []))}


def thin(history, most=60):
    """Keep so many points of a history, the first and last among them."""
    step = max(1, -(-len(history) // most))
    return history[::step] + (history[-1:] if len(history) > 1 and (len(history) - 1) % step else [])


def basic(limit):
    """The basic platform, 40 to 52 services (§3.2.4.1, figure 3.3)."""
    from flowos.cli.allocate_files import Instance

    for count in (40, 44, 48, 52):
        instance = Instance.generate("basic", count)
        runs = [solve(instance, None, solver, min(limit, 10)) for solver in ("packing", "greedy", "tabu")]
        yield {"services": count, "digest": instance.digest(), "runs": runs}


def large(limit, counts=COUNTS):
    """The large platform, 4,000 to 12,000 services, bounds 10 to 20 (tables 3.2 to 3.6, figure 3.4)."""
    from flowos.cli.allocate_files import Instance

    for count in counts:
        instance = Instance.generate("large", count)
        digest = instance.digest()
        for bound in BOUNDS:
            runs = [solve(instance, bound, "packing", LIMIT), solve(instance, bound, "tabu", limit)]
            yield {"services": count, "delay_bound": bound, "modules": instance.modules(), "digest": digest, "runs": runs}


def spread(limit):
    """12,000 services: sources dealt evenly to the I/O switches, other seeds of the drawn ones, and memory drawn too."""
    from flowos.cli.allocate_files import Instance

    for seed, even, memory in ((1, True, "fixed"), (2, True, "fixed"), (1, True, "uniform"), (2, False, "fixed"),
                               (3, False, "fixed")):
        instance = Instance.generate("large", 12000, seed, even, memory)
        for bound in (10, 11, 12, 13, 16, 20):
            yield {"services": 12000, "seed": seed, "spread": even, "memory": memory, "delay_bound": bound,
                   "digest": instance.digest(), "runs": [solve(instance, bound, "packing", LIMIT)]}


def drawn(limit):
    """52 services on the basic platform with memory drawn from the ranges of table 3.1."""
    from flowos.cli.allocate_files import Instance

    for seed in range(1, 11):
        instance = Instance.generate("basic", 52, seed, memory="uniform")
        need = sum(node.memory for one in instance.services for node in one.modules())
        yield {"services": 52, "seed": seed, "memory_needed": need, "memory": 40 * 2048,
               "runs": [solve(instance, None, "packing", LIMIT)]}


def objectives(limit):
    """The objectives of §3.2.1, against the bounds that are proved."""
    from flowos.cli.allocate_files import Instance

    for platform, count in (("basic", 40), ("basic", 48), ("large", 4000), ("large", 10000)):
        instance = Instance.generate(platform, count)
        for objective in ("delay", "max-bandwidth"):
            yield {"platform": platform, "services": count, "objective": objective,
                   "runs": [solve(instance, None, "packing", 30, objective)]}


def exact(limit):
    """Small instances against CP-SAT: the gap to the optimum."""
    from flowos.cli.allocate_files import Instance
    from flowos.services.allocation_generate import large_platform, services

    for seed in range(1, 6):
        for count in (2, 3, 4):
            platform = large_platform(2, 2, 1, 2)
            instance = Instance(platform, services(platform, count, seed), {"small": seed})
            for objective in ("delay", "max-bandwidth"):
                ours = solve(instance, 13, "packing", 2, objective)
                theirs = solve(instance, 13, "exact", 30, objective)
                yield {"services": count, "seed": seed, "objective": objective, "runs": [ours, theirs]}


def online(limit):
    """Services that arrive and leave at a level of load; the rival solves anew after each step."""
    from flowos.services.allocation import Allocator, allocate
    from flowos.services.allocation_generate import basic_platform, large_platform, services
    from flowos.services.allocation_online import Move

    for name, platform, level, steps, bound in (("basic", basic_platform(), 40, 400, None), ("basic", basic_platform(), 44, 400, None),
                                                ("basic", basic_platform(), 48, 400, None),
                                                ("large", large_platform(), 10000, 400, 12)):
        catalogue = services(platform, level + level // 4, spread=True)
        allocator, draw = Allocator(platform, catalogue, bound), random.Random(1)
        idle = [one.name for one in catalogue]
        draw.shuffle(idle)
        running, moves, times, refused = [], [], [], 0

        def arrive():
            begun = time.perf_counter()
            actions = allocator.arrive(idle[-1])
            times.append(time.perf_counter() - begun)
            if actions is None:
                idle.insert(0, idle.pop())
                return False
            running.append(idle.pop())
            moves.append(sum(isinstance(action, Move) for action in actions))
            return True

        tries = 0
        while len(running) < level and tries < 2 * level:
            tries += 1
            arrive()
        filled = len(running)
        moves.clear()
        times.clear()
        for _ in range(steps):
            name_left = running.pop(draw.randrange(len(running)))
            allocator.leave(name_left)
            idle.insert(0, name_left)
            refused += not arrive() if len(running) < level else 0
        chosen = set(running)
        made = [one for one in catalogue if one.name in chosen]
        anew = allocate(platform, made, bound, time_limit=30)
        begun = {one.name: solution_nodes(allocator, one.name) for one in made}
        moved = sum(anew.placement[name][node] != spot for name, nodes in begun.items() for node, spot in nodes.items()) \
            if anew.placement else None
        times.sort()
        yield {"platform": name, "level": level, "filled": filled, "steps": steps, "refused": refused,
               "moves_per_arrival": sum(moves) / max(len(moves), 1), "arrivals_without_move": moves.count(0) / max(len(moves), 1),
               "most_moves": max(moves, default=0), "median_ms": 1000 * times[len(times) // 2], "worst_ms": 1000 * times[-1],
               "moved_by_solving_anew": moved, "nodes": sum(len(nodes) for nodes in begun.values())}


def solution_nodes(allocator, name):
    """Give where the modules and sinks of a running service lie."""
    problem = allocator.problem
    number = problem.service_of[name]
    return {problem.node_names[node]: problem.spot_names[allocator.state.spot[node]]
            for node in range(problem.node_first[number], problem.node_first[number + 1]) if problem.kind[node] != 0}


PARTS = {"basic": basic, "large": large, "spread": spread, "drawn": drawn, "objectives": objectives, "exact": exact, "online": online}


def run(tabu_limit, only):
    """Measure the parts; write the result file after each."""
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    result |= {"claim": __doc__.splitlines()[0].removeprefix("Claim: "), "date": "2026-11-21", "host": host(),
               "limit": LIMIT, "tabu_limit": tabu_limit}
    for name in only or PARTS:
        result[name] = []
        for entry in PARTS[name](tabu_limit):
            result[name].append(entry)
            print(name, summary(entry), flush=True)
        write(result)


def summary(entry):
    """Give an entry as a line."""
    head = " ".join(f"{key}={value}" for key, value in entry.items() if key not in ("runs", "digest"))
    runs = "; ".join(f"{one['solver']} {one['verdict']} {one['seconds']:.3g} s, violations {sum(one['violations'].values()):g}"
                     for one in entry.get("runs", ()))
    return f"{head}: {runs}"


def write(result):
    """Write the result file, a line per entry."""
    parts = []
    for name, value in result.items():
        text = "[\n" + ",\n".join(json.dumps(entry) for entry in value) + "]" if isinstance(value, list) else json.dumps(value)
        parts.append(f"{json.dumps(name)}: {text}")
    RESULT.write_text("{" + ",\n".join(parts) + "}\n")


def claims(result):
    """Give a line per claim: claim, number, unit."""
    source = {(entry["services"], entry["delay_bound"]): entry["rows"] for entry in json.loads(SOURCE.read_text())["large"]}
    solved = [(entry, entry["runs"][0]) for entry in result.get("large", ())]
    theirs = [(entry, run_) for entry, run_ in solved if source[entry["services"], entry["delay_bound"]][-1]["total"] == 0]
    if theirs:
        yield from _large_claims(source, solved, theirs)
    for entry in result.get("basic", ()):
        best = entry["runs"][0]
        yield f"basic platform, {entry['services']} services: {best['verdict']} in {best['seconds']:.3f} s"


def _large_claims(source, solved, theirs):
    yield (f"instances of tables 3.2 to 3.6 answered: {sum(run_['verdict'] != 'unknown' for _, run_ in solved)} of {len(solved)}, "
           f"the slowest in {max(run_['seconds'] for _, run_ in solved):.2f} s (aim: under 60 s)")
    yield (f"instances that the source solves, also solved: {sum(run_['verdict'] == 'feasible' for _, run_ in theirs)} of "
           f"{len(theirs)}; times faster: {min(ratio(entry, run_, source) for entry, run_ in theirs):,.0f} at least (aim: 30)")


def ratio(entry, run_, source):
    """Give how much faster a run was than the source's."""
    return source[entry["services"], entry["delay_bound"]][-1]["seconds"] / run_["seconds"]


def main():
    """Run or report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("--tabu-limit", type=float, default=15.0, help="seconds for tabu search, per instance (15)")
    parser.add_argument("--only", action="append", choices=PARTS, help="measure only this part (may be repeated)")
    arguments = parser.parse_args()
    if arguments.what == "run":
        run(arguments.tabu_limit, arguments.only)
    result = json.loads(RESULT.read_text())
    if arguments.what == "report":
        from allocation_report import figures, tables

        figures(result, FIGURES)
        page = PAGE.read_text()
        for name, table in tables(result, json.loads(SOURCE.read_text())).items():
            page = re.sub(rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda found, table=table: found[1] + table + found[2],
                          page, flags=re.S)
        PAGE.write_text(page)
    for line in claims(result):
        print(line)


if __name__ == "__main__":
    main()
