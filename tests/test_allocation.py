"""Allocation: the state's books, the searches, the proofs and the objectives, against judges of their own.

The judges: the evaluator, which knows nothing of the searches; a search through every placement of
tiny instances, written here; and CP-SAT.
"""
import itertools
from dataclasses import replace

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_allocation_instances import instances, seeded, small_platform, small_services

from flowos import UsageError
from flowos.services.allocation import allocate, evaluate, solution_of
from flowos.services.allocation_bounds import least_delays, packing_bound, prove
from flowos.services.allocation_generate import basic_platform, large_platform, services
from flowos.services.allocation_model import MODULE, SINK, SOURCE, Solution
from flowos.services.allocation_packing import Packer
from flowos.services.allocation_problem import FREE, Problem
from flowos.services.allocation_state import State
from flowos.services.allocation_tabu import Tabu, complete, greedy


@settings(max_examples=60)
@given(instances(), st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), st.booleans()), max_size=25))
def test_the_state_keeps_its_books(instance, steps):
    platform, made = instance
    problem = Problem(platform, made)
    state = State(problem)
    state._check()
    for node, spot, reroute in steps:
        node %= problem.nodes
        choices = range(problem.servers) if problem.kind[node] == 1 else \
            problem.choice[problem.choice_first[node]:problem.choice_first[node + 1]]
        if spot % 5 == 0 and problem.kind[node] != 0:
            state.clear(node)
        else:
            state.place(node, int(choices[spot % len(choices)]))
        if reroute:
            tail, head = spot % problem.servers, int(problem.spots - 1)
            state.reroute(tail, head, node % state.routes(tail, head))
        state._check()


@settings(max_examples=60)
@given(instances(), st.integers(0, 2**32))
def test_the_evaluator_and_the_state_agree(instance, seed):
    platform, made = instance
    state, draw = State(Problem(platform, made), seed), seeded(seed)
    problem = state.problem
    for node in range(problem.nodes):
        choices = range(problem.servers) if problem.kind[node] == 1 else \
            problem.choice[problem.choice_first[node]:problem.choice_first[node + 1]]
        state.place(node, int(choices[draw(0, len(choices) - 1)]))
    solution = solution_of(state)
    report = evaluate(platform, made, solution)
    assert report.violations == solution.violations
    assert (solution.verdict == "feasible") is (report.violations.total == 0)


def everything(platform, made):
    """Yield every placement of an instance whose routes are unique, as solutions."""
    problem = Problem(platform, made)
    state = State(problem)
    spots = [range(problem.servers) if problem.kind[node] == 1 else
             problem.choice[problem.choice_first[node]:problem.choice_first[node + 1]].tolist()
             for node in range(problem.nodes)]
    for placement in itertools.product(*spots):
        for node, spot in enumerate(placement):
            state.place(node, spot)
        yield solution_of(state)


def tiny(seed):
    """Give an instance with one spine, so one path between two places, and few placements."""
    draw = seeded(seed)
    platform = small_platform(draw, racks=2, most=2, spines=1)
    return platform, small_services(draw, platform, most=2, modules=3)


SEEDS = range(24)


@pytest.mark.parametrize("seed", SEEDS)
def test_verdicts_against_a_search_through_everything(seed):
    platform, made = tiny(seed)
    feasible = any(not evaluate(platform, made, one).violations for one in everything(platform, made))
    proof = prove(Problem(platform, made))
    assert not (proof and feasible), proof
    ours = allocate(platform, made, time_limit=0.1)
    exact = allocate(platform, made, solver="exact", time_limit=20)
    assert exact.verdict == ("feasible" if feasible else "infeasible")
    assert ours.verdict in (("feasible",) if feasible else ("infeasible", "unknown"))
    if feasible:
        assert not evaluate(platform, made, ours).violations
        assert not evaluate(platform, made, exact).violations


def test_the_tiny_instances_are_of_both_kinds():
    proofs = [prove(Problem(*tiny(seed))) for seed in SEEDS]
    assert 3 <= sum(proof is None for proof in proofs) <= len(SEEDS) - 3


@pytest.mark.parametrize("seed", range(3))
def test_objectives_against_the_optimum(seed):
    platform = large_platform(2, 2, 1, 2)
    made = services(platform, 2 + seed % 2, seed)
    for objective, value, slack in (("delay", lambda report: report.total_delay, 0),
                                    ("max-bandwidth", lambda report: report.max_bandwidth, 2e-3)):
        ours = allocate(platform, made, 13, objective, time_limit=0.4)
        exact = allocate(platform, made, 13, objective, time_limit=20, solver="exact")
        bounded = [one.bounded(13) for one in made]
        best = exact.statistics["objective_bound"]
        assert not evaluate(platform, bounded, ours).violations
        assert value(evaluate(platform, bounded, exact)) == pytest.approx(exact.statistics["objective"], abs=2e-5)
        assert best - 2e-5 <= value(evaluate(platform, bounded, ours)) <= exact.statistics["objective"] + slack
        stated = ours.statistics["total_delay_bound" if objective == "delay" else "max_bandwidth_bound"]
        assert stated <= exact.statistics["objective"] + 2e-5


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.lists(st.integers(4, 12), min_size=1, max_size=3))
def test_the_packing_bound_never_lies(items, bins):
    need, room = packing_bound(items, bins)
    fits = any(all(sum(item for item, at in zip(items, where) if at == number) <= size for number, size in enumerate(bins))
               for where in itertools.product(range(len(bins)), repeat=len(items)))
    assert not (fits and need > room)


def test_the_packing_bound_sees_more_than_the_sum():
    need, room = packing_bound([6, 6, 6], [10, 10])
    assert need > room


def test_least_delays_are_reached_alone():
    platform = large_platform(2, 3, 2, 1)
    for one in services(platform, 4):
        alone = allocate(platform, [one], objective="delay", time_limit=1)
        assert evaluate(platform, [one], alone).total_delay == least_delays(Problem(platform, [one])).sum()


def bound_instances():
    """Yield (what is wrong, platform, services, delay bound) of instances that cannot be solved."""
    basic = basic_platform()
    made = services(basic, 4)
    yield "memory: all", basic, services(basic, 52), None
    yield "delay: service intrusion-detection", large_platform(4, 4, 2, 2), services(large_platform(4, 4, 2, 2), 4), 10
    yield "I/O", basic, services(basic, 24, packet_bits=8192), None
    narrow = replace(basic, links=tuple(replace(link, bandwidth=link.bandwidth // 20) if link.head == "tor0" and
                                        link.tail == "io0" else link for link in basic.links))
    yield "I/O", narrow, services(basic, 8), None
    mute = replace(basic, links=tuple(link for link in basic.links if (link.tail, link.head) != ("tor0", "io0")))
    yield "paths: none leads to io0", mute, made, None
    thin = replace(basic, servers=tuple(replace(one, memory=1000) for one in basic.servers))
    yield "module", thin, made, None
    few = replace(basic, servers=tuple(replace(one, cpu=260) for one in basic.servers))
    yield "CPU", few, services(basic, 40), None
    slow = replace(basic, links=tuple(replace(link, bandwidth=110 * 10**6) if link.tail == "tor0" and link.head != "io0"
                                      else link for link in basic.links))
    yield "traffic from sources", slow, services(basic, 44), None


@pytest.mark.parametrize("word, platform, made, bound", list(bound_instances()), ids=lambda value: value if isinstance(value, str) else "")
def test_proofs(word, platform, made, bound):
    solution = allocate(platform, made, bound, time_limit=5)
    assert solution.verdict == "infeasible"
    assert solution.proof.startswith(word)


def test_sinks_that_share_too_few_switches_are_proved():
    platform = large_platform(4, 8, 1, 2)
    made = [replace(one, nodes=tuple(replace(node, io=("io0",)) if node.kind == SINK else node for node in one.nodes))
            for one in services(platform, 20, packet_bits=8192, spread=True) if "intrusion" not in one.name]
    assert "to its sinks at io0" in allocate(platform, made, time_limit=5).proof


@pytest.mark.parametrize("count", [40, 44, 48])
def test_the_basic_platform(count):
    platform = basic_platform()
    made = services(platform, count)
    for solver in ("packing", "tabu"):
        solution = allocate(platform, made, solver=solver, time_limit=30)
        assert solution.verdict == "feasible", solver
        assert not evaluate(platform, made, solution).violations


@pytest.mark.parametrize("bound", [11, 12, 16])
def test_a_twenty_fifth_of_the_large_platform(bound):
    platform = large_platform(20, 20, 8, 2)
    made = services(platform, 480, spread=True)            # as full as 12,000 services on 10,000 servers
    solution = allocate(platform, made, bound, time_limit=60)
    report = evaluate(platform, [one.bounded(bound) for one in made], solution)
    assert solution.verdict == "feasible" and not report.violations and report.max_delay <= bound


def test_the_greedy_start_shows_the_signature_of_the_tables():
    platform = large_platform(100, 20, 32, 5)
    made = services(platform, 800)                         # 4,000 on 10,000 servers
    late = {}
    for bound in range(10, 18):
        over = allocate(platform, made, bound, solver="greedy").violations
        assert over.bandwidth == 0
        late[bound] = over.delay
    assert late[10] > 10 * late[11] > 0
    assert min(late[bound] for bound in (11, 12, 13, 14)) > 0
    assert late[16] == late[17] == 0


def test_tabu_search_never_loses_what_it_found():
    platform = large_platform(6, 10, 4, 2)
    made = services(platform, 70, spread=True)
    state = State(Problem(platform, made, 13))
    greedy(state)
    search, seen = Tabu(state), [state.score]
    assert seen[0] > 0
    for _ in range(10):
        seen.append(search.run(0.02))
        state._check()
    assert seen == sorted(seen, reverse=True) and seen[-1] < seen[0]
    scores = [score for _, score in search.trace]
    assert scores == sorted(scores, reverse=True) and scores[-1] == search.best
    again = State(state.problem)
    for node, spot in enumerate(search.best_spot.tolist()):
        again.place(node, spot)
    assert again.score == search.best


@settings(max_examples=40)
@given(instances(), st.integers(0, 2**32))
def test_packing_violates_nothing(instance, seed):
    platform, made = instance
    problem = Problem(platform, made)
    state = State(problem, seed)
    before, packer = state.score, Packer(state)
    packer.fill(10)
    packer.repair(10, rounds=200)
    state._check()
    assert state.score == before
    for service in range(problem.services):
        lies = state.spot[problem.node_first[service]:problem.node_first[service + 1]][1:] >= 0
        assert lies.all() if service not in packer.unplaced else not lies.any()
    complete(state)
    assert (state.spot >= 0).all()
    state._check()


def test_a_bound_on_every_path_replaces_those_that_stand():
    platform = basic_platform()
    problem = Problem(platform, services(platform, 4), 9)
    assert set(problem.bound.tolist()) == {9}
    assert set(Problem(platform, services(platform, 4)).bound.tolist()) == {FREE}


def planted():
    """Yield (how a good solution is spoilt, what the evaluator must say)."""
    def module_to_io(placement, made):
        placement[made[0].name][made[0].modules()[0].name] = "io0"

    def sink_elsewhere(placement, made):
        placement[made[0].name][made[0].nodes[-1].name] = "s0"

    def source_elsewhere(placement, made):
        placement[made[0].name]["in"] = "s0"

    def forgotten_node(placement, made):
        del placement[made[0].name]["in"]

    def forgotten_service(placement, made):
        del placement[made[0].name]

    def unknown_service(placement, made):
        placement["nobody"] = {}

    def unknown_node(placement, made):
        placement[made[0].name]["nothing"] = "s0"

    yield from ((module_to_io, "no server"), (sink_elsewhere, "not among"), (source_elsewhere, "not among"),
                (forgotten_node, "missing"), (forgotten_service, "missing"), (unknown_service, "no such service"),
                (unknown_node, "no such node"))


@pytest.mark.parametrize("spoil, word", list(planted()), ids=lambda value: getattr(value, "__name__", ""))
def test_the_evaluator_refuses_what_is_no_solution(spoil, word):
    platform = basic_platform()
    made = services(platform, 4)
    solution = allocate(platform, made)
    placement = {name: dict(nodes) for name, nodes in solution.placement.items()}
    spoil(placement, made)
    with pytest.raises(UsageError, match=word):
        evaluate(platform, made, replace(solution, placement=placement))


def test_the_evaluator_finds_each_violation():
    platform = basic_platform()
    made = services(platform, 8)
    solution = allocate(platform, made)
    crowd = {one.name: {node.name: "s0" if node.kind == MODULE else "io0" for node in one.nodes} for one in made}
    paths = {("io0", "s0"): ("io0", "tor0", "s0"), ("s0", "io0"): ("s0", "tor0", "io0")}
    report = evaluate(platform, [one.bounded(4) for one in made], replace(solution, placement=crowd, paths=paths))
    modules = [node for one in made for node in one.modules()]
    assert report.violations.cpu == sum(node.cpu for node in modules) - 800
    assert report.violations.memory == sum(node.memory for node in modules) - 2048
    assert report.violations.delay == sum(len(path.nodes) - 3 + 4 - 4 for one in made for path in one.paths)
    wide = evaluate(platform, services(platform, 8, packet_bits=2048), replace(solution, placement=crowd, paths=paths))
    arriving = sum(edge.traffic * 2 for one in made for edge in one.edges if edge.tail == "in") - 10**9
    leaving = sum(edge.traffic * 2 for one in made for edge in one.edges if edge.head.startswith("out")) - 10**9
    assert wide.violations.bandwidth == pytest.approx((max(arriving, 0) + max(leaving, 0)) / 10**6)
    assert report.worst and wide.worst


@pytest.mark.parametrize("path, word", [
    (("io0", "s0"), "no link from io0 to s0"), (("io0", "tor0", "s1", "tor0", "s0"), None)])
def test_the_evaluator_follows_paths(path, word):
    platform = basic_platform()
    made = services(platform, 1)
    solution = allocate(platform, made)
    server = next(spot for spot in solution.placement[made[0].name].values() if spot != "io0")
    path = tuple(server if name == "s0" else name for name in path)
    spoilt = replace(solution, paths={**solution.paths, ("io0", server): path})
    if word:
        with pytest.raises(UsageError, match="no link"):
            evaluate(platform, made, spoilt)
    missing = replace(solution, paths={pair: way for pair, way in solution.paths.items() if pair != ("io0", server)})
    if ("io0", server) in solution.paths:
        with pytest.raises(UsageError, match="none from io0"):
            evaluate(platform, made, missing)


def test_traffic_that_no_hashed_route_carries_is_rerouted():
    # Two uplinks of 150 Mbit/s per rack; each server's two flows of 100 Mbit/s need one each.
    platform = large_platform(1, 8, 2, 1)
    platform = replace(platform, links=tuple(
        replace(link, bandwidth=420 * 10**6) if link.head.startswith("intermediate") or link.tail.startswith("intermediate")
        else link for link in platform.links))
    made = services(platform, 8, seed=3)
    solution = allocate(platform, made, time_limit=10)
    assert solution.verdict == "feasible"
    assert not evaluate(platform, made, solution).violations


@pytest.mark.parametrize("seed", range(8))
def test_routes_are_as_before_when_a_ruin_is_undone(seed):
    # Uplinks so narrow that most placements change routes, and most ruins fail.
    platform = large_platform(4, 8, 4, 2)
    platform = replace(platform, links=tuple(
        replace(link, bandwidth=300 * 10**6) if "intermediate" in link.head + link.tail else link for link in platform.links))
    state = State(Problem(platform, services(platform, 40, seed)), seed)
    packer = Packer(state)
    packer.fill(10)
    for _ in range(20):
        left = packer.repair(10, rounds=100)              # raises if a violation slips in
        assert state.score == 0
    state._check()
    assert left and state.rerouted()


@pytest.mark.parametrize("wrong", [
    {"objective": "best"}, {"solver": "oracle"}, {"time_limit": 0}, {"time_limit": "5"}, {"delay_bound": -1},
    {"delay_bound": 1.5}, {"solver": "tabu", "objective": "delay"}], ids=str)
def test_parameters_are_checked(wrong):
    platform = basic_platform()
    with pytest.raises(UsageError):
        allocate(platform, services(platform, 4), **wrong)


def test_where_no_path_leads_nothing_is_placed():
    platform = large_platform(2, 4, 2, 2)
    # Rack 1 hears nothing from outside: what has sources lies in rack 0, whose servers do for 8 services.
    deaf = replace(platform, links=tuple(link for link in platform.links
                                         if not (link.tail.startswith("intermediate") and link.head == "tor1")))
    made = services(deaf, 4)
    for solver in ("packing", "greedy", "tabu", "exact"):
        solution = allocate(deaf, made, solver=solver, time_limit=20)
        placed = {spot for nodes in solution.placement.values() for name, spot in nodes.items()
                  if name in ("preprocessor", "root", "classifier")}
        assert placed and placed <= {"s0", "s1", "s2", "s3"}, solver
        if solution.verdict == "feasible":
            assert not evaluate(deaf, made, solution).violations
    assert allocate(deaf, made).verdict == "feasible"


def test_two_services_of_a_name_are_refused():
    platform = basic_platform()
    with pytest.raises(UsageError, match="two of this name"):
        allocate(platform, services(platform, 4) * 2)


def test_no_services_are_allocated_at_once():
    solution = allocate(basic_platform(), ())
    assert solution.verdict == "feasible" and solution.placement == {} and solution.paths == {}
    assert isinstance(solution, Solution) and evaluate(basic_platform(), (), solution).total_delay == 0


def test_exact_refuses_what_is_too_large():
    platform = basic_platform()
    with pytest.raises(UsageError, match="small instances"):
        allocate(platform, services(platform, 48), solver="exact")


def test_a_state_refuses_what_cannot_be():
    state = State(Problem(basic_platform(), services(basic_platform(), 4)))
    io, module = 40, int(numpy.flatnonzero(state.problem.kind == 1)[0])
    for call in (lambda: state.place(10**6, 0), lambda: state.place(module, io), lambda: state.place(module, -1),
                 lambda: state.reroute(0, io, 5), lambda: state.set_bound(-1, 3)):
        with pytest.raises(UsageError):
            call()
    assert {node.kind for one in state.problem.service_records for node in one.nodes} == {SOURCE, MODULE, SINK}
