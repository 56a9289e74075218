"""Services that arrive and leave: after every step the allocation is feasible, and the actions tell it all."""
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_allocation_instances import instances

from flowos import UsageError
from flowos.services.allocation import Allocator, evaluate, solution_of
from flowos.services.allocation_generate import basic_platform, large_platform, services
from flowos.services.allocation_online import Move, Place, Remove


def replay(placement, actions):
    """Carry actions out on {(service, node): spot}, checking each against what is there."""
    for action in actions:
        key = action.service, action.node
        if isinstance(action, Place):
            assert key not in placement
            placement[key] = action.to
        else:
            assert placement[key] == action.origin
            if isinstance(action, Remove):
                del placement[key]
            else:
                assert action.to != action.origin
                placement[key] = action.to


def judge(allocator, platform, catalogue, placement):
    """Evaluate what runs, and compare it with what the actions made."""
    running = [one for one in catalogue if one.name in set(allocator.running)]
    solution = solution_of(allocator.state)
    for one in catalogue:
        if one not in running:
            assert solution.placement.pop(one.name) == {}
    assert not evaluate(platform, running, solution).violations
    told = {(one.name, node.name): solution.placement[one.name][node.name]
            for one in running for node in one.nodes if node.kind != "source"}
    assert told == placement
    allocator.state._check()


@settings(max_examples=40)
@given(instances(), st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=12), st.integers(1, 2**32))
def test_every_step_is_feasible(instance, steps, seed):
    platform, catalogue = instance
    allocator, placement = Allocator(platform, catalogue, effort=50, seed=seed), {}
    for arrives, which in steps:
        one = catalogue[which % len(catalogue)]
        runs = one.name in allocator.running
        if arrives and not runs:
            actions = allocator.arrive(one.name)
            assert (actions is not None) is (one.name in allocator.running)
            replay(placement, actions or [])
        elif not arrives and runs:
            replay(placement, allocator.leave(one.name))
            assert one.name not in allocator.running
        else:
            with pytest.raises(UsageError, match="runs already" if arrives else "does not run"):
                (allocator.arrive if arrives else allocator.leave)(one.name)
        judge(allocator, platform, catalogue, placement)


def test_a_full_platform_moves_little():
    platform = basic_platform()
    catalogue = services(platform, 60)
    allocator, placement, draw = Allocator(platform, catalogue), {}, random.Random(5)
    moves, placed = 0, 0
    for step in range(300):
        idle = [one.name for one in catalogue if one.name not in set(allocator.running)]
        if len(allocator.running) >= 46:
            replay(placement, allocator.leave(draw.choice(allocator.running)))
            continue
        actions = allocator.arrive(draw.choice(idle))
        if actions is None:
            continue
        replay(placement, actions)
        moves += sum(isinstance(action, Move) for action in actions)
        placed += 1
        if step % 25 == 0:
            judge(allocator, platform, catalogue, placement)
    judge(allocator, platform, catalogue, placement)
    assert placed > 150
    assert 0 < moves < 3 * placed        # 46 services have 207 modules: to solve anew would move most of them
    assert allocator.statistics() == {"arrivals": allocator.arrivals, "refused": allocator.refused, "moves": moves}


def test_what_cannot_be_placed_changes_nothing():
    platform = basic_platform()
    catalogue = services(platform, 80)
    allocator = Allocator(platform, catalogue, effort=20)
    refused = None
    for one in catalogue:
        before = allocator.state.spot.copy()
        if allocator.arrive(one.name) is None:
            refused = one.name
            assert (before == allocator.state.spot).all()
    assert refused is not None and allocator.refused > 0
    allocator.state._check()


def test_a_bound_that_no_place_keeps_is_refused():
    platform = basic_platform()
    allocator = Allocator(platform, services(platform, 4), delay_bound=2)
    assert allocator.arrive("tunnelling-0") is None


def test_unknown_services_are_refused():
    platform = basic_platform()
    with pytest.raises(UsageError, match="catalogue"):
        Allocator(platform, services(platform, 4)).arrive("nobody")


def test_a_new_catalogue_leaves_what_runs_in_peace():
    platform = large_platform(2, 10, 2, 2)
    catalogue = services(platform, 24, seed=1)
    allocator = Allocator(platform, catalogue)
    for one in catalogue[:18]:
        assert allocator.arrive(one.name) is not None
    allocator.state.reroute(0, 21, 1)
    before = {one.name: solution_of(allocator.state).placement[one.name] for one in catalogue[:18]}
    load = allocator.state.load.copy()
    others = [replace(one, name=f"new-{one.name}") for one in services(platform, 24, seed=2)]
    allocator.learn(others)
    assert {name: solution_of(allocator.state).placement[name] for name in allocator.running} == before
    assert (allocator.state.load == load).all() and (0, 21, 1) in allocator.state.rerouted()
    allocator.state._check()
    assert allocator.arrive(others[0].name) is not None
    with pytest.raises(UsageError, match="catalogue"):
        allocator.arrive(catalogue[20].name)
    with pytest.raises(UsageError, match="runs already"):
        allocator.learn([catalogue[0]])
