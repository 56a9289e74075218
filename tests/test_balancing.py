"""Balancing: plans against the source's pseudo-code and an evaluator that looks at every part of the load.

The evaluator knows nothing of tries: it takes a plan's prefixes as text and finds the longest that
holds each loaded prefix with `ipaddress`.
"""
import ipaddress
import itertools
import json
import math
import random

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowos import UsageError
from flowos.services.balancing import Fleet, Loads, Machine, Plan, Space, balance
from flowos.services.balancing_greedy import shed
from flowos.services.balancing_loads import DISTRIBUTIONS, distribution, read_loads, spread, write_loads
from flowos.services.balancing_mend import rebalance
from flowos.services.balancing_moves import transition
from flowos.services.balancing_plan import machines_of, read_json
from flowos.services.balancing_rivals import Traffic, compare, hashed, wang, weights_of
from flowos.services.radix import CHUNK, LoadTree


def fleet(count, capacities=None):
    """Make machines m0, m1, …"""
    return [Machine(f"m{number}", capacity) for number, capacity in zip(range(count), capacities or itertools.repeat(1.0))]


def evaluate(plan, rows):
    """Give {machine: load} of (prefix, load) rows, each cut down until one longest prefix holds all of it."""
    parsed = [(ipaddress.ip_network(prefix), owner) for prefix, owner in plan.prefixes()]
    loads = dict.fromkeys((machine.name for machine in plan.machines), 0.0)

    def assign(network, load, around):
        inside = [entry for entry in around if entry[0].version == network.version and entry[0].subnet_of(network)
                  and entry[0] != network]
        holding = [entry for entry in around if entry[0].version == network.version and network.subnet_of(entry[0])]
        if inside:
            for half in network.subnets():
                assign(half, load / 2, inside + holding)
            return
        owner = max(holding, key=lambda entry: entry[0].prefixlen)[1]
        for name, weight in (owner.items() if isinstance(owner, dict) else ((owner, 1),)):
            loads[name] += load * weight / (sum(owner.values()) if isinstance(owner, dict) else 1)

    for prefix, load in rows:
        assign(ipaddress.ip_network(prefix), load, parsed)
    return loads


def check(made, rows):
    """Check what a Balance says of its plan against the evaluator."""
    loads = evaluate(made.plan, rows)
    total = sum(load for _, load in rows)
    for machine, load in zip(made.plan.machines, made.loads):
        assert math.isclose(load, loads[machine.name], rel_tol=1e-9, abs_tol=1e-9 * total)
    capacity = sum(machine.capacity for machine in made.plan.machines)
    worst = max(loads[machine.name] / (total * machine.capacity / capacity) for machine in made.plan.machines)
    assert math.isclose(made.imbalance, worst, rel_tol=1e-9)
    return worst


ROWS = st.lists(st.tuples(st.integers(0, 4095), st.integers(1, 10 ** 6)), min_size=1, max_size=40, unique_by=lambda row: row[0]).map(
    lambda rows: [(f"{ipaddress.ip_address(value << 20)}/12", float(load)) for value, load in rows])
CAPACITIES = st.lists(st.sampled_from([1.0, 1.0, 1.0, 2.0, 3.5, 10.0]), min_size=1, max_size=12)


# ---- a fresh plan -------------------------------------------------------------------------------------

def pseudo_code(loads, quotas, imbalance, threshold):
    """Do what the listing in §2.2.4 does, word for word, on 8-bit keys: {(value, length): machine}.

    `loads` are the 256 loads of keys.  Leaves that hold one key are not to be split here.
    """
    def weight(leaf):
        value, length = leaf
        return sum(loads[value << (8 - length):(value + 1) << (8 - length)])

    computers = [[quota, index, 0.0] for index, quota in enumerate(quotas)]
    last = max(computers, key=lambda computer: computer[0] - computer[2])
    computers.remove(last)
    last[2] = weight((0, 0))
    leaves, assigned = [(0, 0)], {}
    while last[2] > last[0] * imbalance:
        computer = max(computers, key=lambda computer: computer[0] - computer[2])
        leaf = max(leaves, key=weight)
        leaves.remove(leaf)
        room = computer[0] if weight(leaf) > threshold else computer[0] * imbalance
        if computer[2] + weight(leaf) <= room:
            assigned[leaf] = computer[1]
            computer[2] += weight(leaf)
            last[2] -= weight(leaf)
        else:
            assert leaf[1] < 8, "the example is too coarse"
            leaves += [(leaf[0] * 2, leaf[1] + 1), (leaf[0] * 2 + 1, leaf[1] + 1)]
    return last[1], assigned


@pytest.mark.parametrize("seed", range(25))
def test_the_greedy_is_the_pseudo_code(seed):
    rng = random.Random(seed)
    loads = [rng.random() for _ in range(256)]
    capacities = [rng.choice([1.0, 1.001, 1.7, 2.3]) * (1 + rng.random() / 1000) for _ in range(rng.randint(2, 9))]
    quotas = [sum(loads) * capacity / sum(capacities) for capacity in capacities]
    imbalance, threshold = rng.choice([1.05, 1.1, 1.3]), 0.2 * sum(loads) / len(quotas)
    last, assigned = pseudo_code(loads, quotas, imbalance, threshold)
    tree = LoadTree(8)
    for key, load in enumerate(loads):
        tree.add(bytes([key]), 8, load)
    root, mine, quotas = numpy.zeros(1, CHUNK), numpy.zeros(len(quotas)), numpy.array(quotas)
    root["load"] = mine[last] = tree.total
    chunks, owners, groups = shed(mine, quotas, quotas * imbalance, last, root, [tree], [8], threshold, 0.0, quotas[last] * imbalance)
    found = {(int(chunk["bits"][0]) >> (8 - int(chunk["length"])), int(chunk["length"])): int(owner)
             for chunk, owner in zip(chunks, owners)}
    assert found == assigned and not groups


@given(ROWS, CAPACITIES, st.sampled_from([1.02, 1.1, 1.5]))
@settings(max_examples=60)
def test_a_fresh_plan_is_balanced_as_the_evaluator_sees_it(rows, capacities, imbalance):
    loads = Loads.of_rows(Space("src"), rows)
    made = balance(loads, fleet(len(capacities), capacities), imbalance)
    assert check(made, rows) <= imbalance * (1 + 1e-6)
    assert not made.unsplittable and made.bound == 1 and made.moves is None and made.moved == 0
    assert made.plan.prefixes() == Plan.from_json(json.loads(json.dumps(made.plan.to_json()))).prefixes()


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("count", [2, 10, 50])
def test_the_claims_of_the_source(name, count):
    """Fewer than three prefixes per machine at 1.1; with two rules each, fewer than 300 at 50 ports."""
    made = balance(spread(distribution(name, 12)), fleet(count))
    assert made.imbalance <= 1.1 * (1 + 1e-9)
    assert len(made.plan) - 2 < 3 * count                    # without the two defaults
    assert count < 50 or 2 * len(made.plan) + 4 < 300


def test_both_families_are_balanced_together():
    rows = [("2001:db8::/32", 300.0), ("10.0.0.0/8", 100.0), ("2001:db9::/48", 100.0)]
    made = balance(Loads.of_rows(Space("dst"), rows), fleet(5))
    assert check(made, rows) <= 1.1 * (1 + 1e-9)
    assert made.assumed > 0                                  # a /32 alone holds three machines' load


def test_without_load_the_space_is_taken_to_be_uniform():
    made = balance(Loads(Space("src")), fleet(4))
    assert made.imbalance <= 1.1 and len(made.plan) == 5     # a half of each family twice: default, 3 given, default
    assert rebalance(made.plan, Loads(Space("src"))).moves == []


def test_one_machine_gets_all():
    made = balance(spread(distribution("zipf", 8)), fleet(1))
    assert made.imbalance == 1 and made.plan.prefixes() == [("0.0.0.0/0", "m0"), ("::/0", "m0")]


# ---- heavy tails ---------------------------------------------------------------------------------------

def hot(part, finest=None, others=64):
    """Give loads of 1000 with one host that has a part of it, and the rows."""
    rows = [("10.1.2.3/32", 1000 * part)] + [(f"{100 + number}.0.0.0/8", 1000 * (1 - part) / others) for number in range(others)]
    return Loads.of_rows(Space("src"), rows), rows


@pytest.mark.parametrize("part", [0.15, 0.5, 0.9])
def test_a_hot_host_is_reported_and_does_not_break_the_rest(part):
    loads, rows = hot(part)
    made = balance(loads, fleet(10))
    worst = check(made, rows)
    assert [prefix for prefix, _ in made.unsplittable] == ["10.1.2.3/32"]
    assert math.isclose(made.bound, part * 10) and math.isclose(worst, made.bound)      # no plan does better
    rest = sorted(made.loads)[:-1]
    assert max(rest) <= 100 * 1.1 * (1 + 1e-9)


@pytest.mark.parametrize("part", [0.15, 0.5, 0.9])
def test_a_hot_host_is_shared_by_a_hash_group(part):
    loads, rows = hot(part)
    made = balance(loads, fleet(10), share=True)
    assert check(made, rows) <= 1.1 * (1 + 1e-9)
    shared = [owner for _, owner in made.plan.prefixes() if isinstance(owner, dict)]
    assert len(shared) == 1 and math.isclose(sum(shared[0].values()), 1000 * part)
    again = rebalance(made.plan, loads, share=True)
    assert again.moves == [] and check(again, rows) <= 1.1 * (1 + 1e-9)


def test_a_hot_host_is_split_by_ports():
    loads = Loads(Space("src+port"))
    rng = numpy.random.default_rng(1)
    hosts = rng.integers(0, 1 << 32, 40000)
    hosts[rng.random(40000) < 0.6] = 0x0a010203
    keys = numpy.concatenate([hosts.astype(">u4").view("u1").reshape(-1, 4),
                              rng.integers(1024, 65536, 40000).astype(">u2").view("u1").reshape(-1, 2)], axis=1)
    loads.count(0, keys, numpy.ones(40000))
    made = balance(loads, fleet(10))
    assert made.imbalance <= 1.1 * (1 + 1e-9) and not made.unsplittable
    assert any(prefix.startswith("10.1.2.3:") for prefix, _ in made.plan.prefixes())
    # What the switch would do with these very packets, not with the estimate of them.
    true = numpy.bincount(made.plan.tables[0].owners(keys), minlength=10) / 4000
    assert true.max() < 1.2
    coarse = balance(loads, fleet(10), finest=loads.space.finest(ipv4=32, ipv6=128))
    assert coarse.imbalance > 5 and [prefix for prefix, _ in coarse.unsplittable] == ["10.1.2.3/32"]


def test_limits_on_prefixes_hold():
    loads = spread(distribution("gauss-narrow", 12))
    made = balance(loads, fleet(40), finest=loads.space.finest(ipv4=10, ipv6=0))
    assert max(ipaddress.ip_network(prefix).prefixlen for prefix, _ in made.plan.prefixes()) <= 10


@pytest.mark.parametrize("exponent", [0.8, 1.0, 1.2, 2.0])
@pytest.mark.parametrize("count", [10, 100])
def test_zipf_over_hosts_is_as_good_as_its_hottest_host_allows(exponent, count):
    rng = numpy.random.default_rng(7)
    values = distribution("zipf", 12, exponent=exponent)
    rows = [(f"{ipaddress.ip_address(int(address))}/32", float(load))
            for address, load in zip(rng.permutation(1 << 32 >> 12)[:4096] << 12, values)]
    made = balance(Loads.of_rows(Space("src"), rows), fleet(count))
    assert made.imbalance <= max(1.1, made.bound) * (1 + 1e-9)
    assert balance(Loads.of_rows(Space("src"), rows), fleet(count), share=True).imbalance <= 1.1 * (1 + 1e-9)


def test_what_cannot_be_split_is_packed_nearly_as_well_as_can_be():
    """Against the best of all assignments of up to seven hosts to two or three machines."""
    rng, worse = random.Random(1), []
    for _ in range(150):
        parts = [rng.choice([1, 1, 2, 3, rng.uniform(0.01, 5)]) for _ in range(rng.randint(1, 7))]
        capacities = [rng.choice([1.0, 1.0, 2.0, 5.0]) for _ in range(rng.randint(2, 3))]
        rows = [(f"{rng.getrandbits(8)}.{number}.3.4/32", float(part)) for number, part in enumerate(parts)]
        quotas = [sum(parts) * capacity / sum(capacities) for capacity in capacities]
        best = min(max(sum(part for part, mine in zip(parts, owners) if mine == machine) / quota
                       for machine, quota in enumerate(quotas))
                   for owners in itertools.product(range(len(quotas)), repeat=len(parts)))
        made = balance(Loads.of_rows(Space("src"), rows), fleet(len(capacities), capacities))
        assert made.bound <= best * (1 + 1e-9) and check(made, rows) <= 1.5 * max(best, 1.1)
        worse.append(made.imbalance > max(best, 1.1) * (1 + 1e-9))
    assert sum(worse) <= 0.05 * len(worse)


# ---- mending ---------------------------------------------------------------------------------------------

@given(ROWS, ROWS, CAPACITIES, st.data())
@settings(max_examples=60)
def test_a_mended_plan_is_balanced_and_its_moves_are_all(before, after, capacities, data):
    machines = fleet(len(capacities), capacities)
    made = balance(Loads.of_rows(Space("src"), before), machines)
    gone = data.draw(st.sets(st.integers(0, len(machines) - 1), max_size=len(machines) - 1))
    came = [Machine(f"new{number}", 1.0) for number in range(data.draw(st.integers(0, 2)))]
    machines = [machine for number, machine in enumerate(machines) if number not in gone] + came
    loads = Loads.of_rows(Space("src"), after)
    mended = rebalance(made.plan, loads, machines)
    assert check(mended, after) <= 1.1 * (1 + 1e-6)
    # The moves, done one by one to the old plan, give the new one.
    parts = {}
    for prefix, load in after:
        for piece in pieces(prefix, [move.prefix for move in mended.moves]):
            parts[piece] = load / 2 ** (ipaddress.ip_network(piece).prefixlen - ipaddress.ip_network(prefix).prefixlen)
    moved = {move.prefix: (move.before, move.after) for move in mended.moves}
    for piece in parts:
        key = str(ipaddress.ip_network(piece)[0])
        now, was = mended.plan.owner(key), made.plan.owner(key)
        holding = [pair for prefix, pair in moved.items() if ipaddress.ip_network(prefix).version == 4 and
                   ipaddress.ip_network(piece).subnet_of(ipaddress.ip_network(prefix))]
        assert holding == ([(was, now)] if was != now else [])


def pieces(prefix, cuts):
    """Cut a prefix at the borders of others that lie in it."""
    network = ipaddress.ip_network(prefix)
    inside = [cut for cut in cuts if ipaddress.ip_network(cut).version == 4 and ipaddress.ip_network(cut) != network
              and ipaddress.ip_network(cut).subnet_of(network)]
    if not inside:
        return [prefix]
    return [piece for half in network.subnets() for piece in pieces(str(half), inside)]


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_balanced_plan_is_left_alone(name):
    loads = spread(distribution(name, 10))
    made = balance(loads, fleet(20))
    again = rebalance(made.plan, loads)
    assert again.moves == [] and again.moved == 0 and len(again.plan) <= len(made.plan)


@pytest.mark.parametrize("name", DISTRIBUTIONS[:-1])
def test_mending_moves_less_than_starting_afresh(name):
    values, rng = distribution(name, 12), numpy.random.default_rng(2)
    made = balance(spread(values), fleet(50))
    loads = spread(values * rng.lognormal(0, 0.5, len(values)))
    mended, fresh = rebalance(made.plan, loads), balance(loads, fleet(50)).plan
    owners = [(plan.owner(str(ipaddress.ip_address(value << 20))), value) for plan in (made.plan, fresh) for value in range(4096)]
    changed = sum(loads.load(f"{ipaddress.ip_address(value << 20)}/12")
                  for (was, value), (now, _) in zip(owners[:4096], owners[4096:]) if was != now)
    assert mended.imbalance <= 1.1 * (1 + 1e-9) and mended.moved < 0.5 * changed
    assert len(mended.plan) <= 3 * 50 + 2


def test_few_prefixes_stay_few_over_a_hundred_periods():
    rng, values = numpy.random.default_rng(8), distribution("random-exponential", 10)
    made, moved = balance(spread(values), fleet(30)), 0.0
    for _ in range(100):
        values = values * rng.lognormal(0, 0.2, len(values))
        values /= values.sum()
        made = rebalance(made.plan, spread(values))
        assert made.imbalance <= 1.1 * (1 + 1e-9) and len(made.plan) <= 3 * 30 + 2
        moved += made.moved
    assert moved / 100 < 0.15


def test_machines_come_and_go_with_little_moved():
    loads = spread(distribution("gauss-wide", 12))
    made = balance(loads, fleet(20))
    more = rebalance(made.plan, loads, fleet(21))
    assert more.loads[20] >= 0.85 * more.quotas[20] and more.moved <= 1.2 / 21 * loads.total
    for gone in (0, 7):                                      # the default machine too
        fewer = rebalance(made.plan, loads, fleet(20)[:gone] + fleet(20)[gone + 1:])
        assert fewer.imbalance <= 1.1 * (1 + 1e-9)
        left = made.loads[gone]
        assert left * (1 - 1e-9) <= fewer.moved <= 1.5 * left
        assert {move.before for move in fewer.moves if move.load > left / 2} <= {f"m{gone}"}


def test_a_hash_group_whose_member_leaves_is_made_anew():
    loads, rows = hot(0.5)
    made = balance(loads, fleet(10), share=True)
    group = next(owner for _, owner in made.plan.prefixes() if isinstance(owner, dict))
    leaver = sorted(group)[0]
    mended = rebalance(made.plan, loads, [machine for machine in fleet(10) if machine.name != leaver], share=True)
    assert check(mended, rows) <= 1.1 * (1 + 1e-9)
    cool = Loads.of_rows(Space("src"), [(prefix, 1.0) for prefix, _ in rows])
    assert not rebalance(made.plan, cool, share=True).plan.groups


def test_a_plan_on_something_else_is_refused():
    with pytest.raises(UsageError, match="balances on src, the loads are on dst"):
        rebalance(balance(Loads(Space("src")), fleet(2)).plan, Loads(Space("dst")))


# ---- connections ----------------------------------------------------------------------------------------

def test_connections_stay_or_migrate():
    space = Space("src")
    plans = [Plan.of_prefixes(space, [Machine(name) for name in names], prefixes) for names, prefixes in (
        ("abc", [("0.0.0.0/0", "a"), ("::/0", "a"), ("10.0.0.0/8", "b"), ("11.0.0.0/8", "c"), ("12.0.0.0/8", {"a": 1, "b": 2})]),
        ("abd", [("0.0.0.0/0", "a"), ("::/0", "b"), ("10.128.0.0/9", "b"), ("11.0.0.0/8", "d"), ("12.0.0.0/8", {"a": 1, "b": 2})]))]
    connections = [Traffic("tcp", (address, 1000), ("192.0.2.9", 80), 1.0) for address in
                   ("1.1.1.1", "10.0.0.1", "10.200.0.1", "11.0.0.1", "2001:db8::1", "12.0.0.1")]
    found = transition(*plans, connections)
    assert [(c.a[0], was, now) for c, was, now in found.stay] == [("10.0.0.1", "b", "a"), ("2001:db8::1", "a", "b")]
    assert [(c.a[0], was, now) for c, was, now in found.migrate] == [("11.0.0.1", "c", "d")]
    assert [(c.a[0], was) for c, was, _ in found.unknown] == [("12.0.0.1", {"a": 1.0, "b": 2.0})]
    assert found.pins()[0] == ("tcp", ("10.0.0.1", 1000), ("192.0.2.9", 80), "b")


# ---- rivals ---------------------------------------------------------------------------------------------

@given(st.lists(st.floats(1, 10), min_size=1, max_size=30))
def test_wang_divides_uniform_traffic_and_no_other(capacities):
    machines = fleet(len(capacities), capacities)
    weights = weights_of(machines)
    assert sum(weights).bit_count() == 1 and min(weights) >= 1
    plan = wang(Space("src"), machines)
    uniform = Loads.uniform(Space("src"))
    assert plan.imbalance(uniform) <= 1.1 * (1 + 1e-9)
    found = plan.loads(uniform)
    assert [math.isclose(load, weight / sum(weights)) for load, weight in zip(found, weights)] == [True] * len(weights)


def test_the_rivals_fail_where_the_source_says():
    loads = spread(distribution("gauss-narrow", 12))
    assert balance(loads, fleet(20)).imbalance <= 1.1 < 2 < wang(Space("src"), fleet(20)).imbalance(loads)
    rng = random.Random(1)
    connections = [Traffic("tcp", (f"10.0.0.{rng.randrange(250)}", rng.randrange(1024, 65536)), ("192.0.2.1", 80), 1.0)
                   for _ in range(20000)]
    tuples, ends = (hashed(Space("src"), fleet(10), connections, by) for by in ("5tuple", "end"))
    assert tuples.imbalance < 1.15 and tuples.torn == tuples.ends == 250          # even, and every host is torn
    assert ends.torn == 0 and ends.imbalance > tuples.imbalance
    both = hashed(Space("src"), fleet(10), [Traffic(c.proto, c.b, c.a, c.load) for c in connections])
    assert math.isclose(both.imbalance, tuples.imbalance)    # the other direction meets the same machine
    assert [row["rival"] for row in compare(loads, fleet(20), connections)] == ["Wang et al.", "5-tuple hash", "hash of src"]


# ---- files and bad input ----------------------------------------------------------------------------------

def test_loads_are_written_as_they_are_read(tmp_path):
    rows = [("10.0.0.0/8", 1.5), ("10.1.2.3:80/16", 2.0), ("[2001:db8::1]:0/1", 1 / 3)]
    rows = [("11.0.0.0/8", 1.5), *rows[1:]]
    loads, path = Loads.of_rows(Space("src+port"), rows), tmp_path / "loads"
    with path.open("w") as file:
        write_loads(loads, file)
    assert read_loads(path.read_text().splitlines(), Space("src+port"), "loads").rows() == loads.rows() == sorted(
        loads.rows(), key=lambda row: Space("src+port").parse(row[0]))
    assert dict(loads.rows()) == dict(rows)


@pytest.mark.parametrize("on, text", [
    ("src", "0.0.0.0/0"), ("src", "10.1.2.3/32"), ("src", "2001:db8::/32"), ("dst", "::/0"), ("src+port", "10.1.2.3/32"),
    ("src+port", "10.1.2.3:8080/16"), ("dst+port", "[2001:db8::1]:1024/6"), ("src-port", ":0/0"), ("dst-port", ":443/16")])
def test_prefixes_are_written_as_they_are_read(on, text):
    space = Space(on)
    assert space.format(*space.parse(text)) == text


@pytest.mark.parametrize("on, text", [
    ("src", "10.0.0.1/8"), ("src", "10.0.0/8"), ("src", "10.0.0.0/33"), ("src", "10.0.0.0/-1"), ("src", "10.0.0.0/x"),
    ("src", ""), ("src", "10.0.0.1:80/16"), ("src+port", "10.0.0.1:65536/16"), ("src+port", "10.0.0.1:81/4"),
    ("src+port", "10.0.0.1:/4"), ("src-port", "10.0.0.1:80/16"), ("src-port", "80"), ("src", "[::1"), ("src", None), ("src", "::/129"),
    ("src+port", "[::1]80/16"), ("src", "١.0.0.0/8")])
def test_what_is_no_prefix_is_refused(on, text):
    with pytest.raises(UsageError, match="no prefix"):
        Space(on).parse(text)


@pytest.mark.parametrize("lines, said", [
    (["10.0.0.0/8 1", "# nothing", "10.1.0.0/16 2"], "f: the prefixes 10.0.0.0/8 and 10.1.0.0/16 overlap"),
    (["10.0.0.0/8 1", "10.0.0.0/8 2"], "overlap"), (["10.0.0.0/8"], "f, line 1: expected PREFIX LOAD"),
    (["", "10.0.0.0/8 -1"], "f, line 2: a load is"), (["10.0.0.0/8 nan"], "line 1: a load is"), (["10.0.0.0/8 inf"], "a load is"),
    (["10.0.0.0/8 x"], "a load is"), (["10.0.0.0/40 1"], "f, line 1: '10.0.0.0/40' is no prefix"), (["# empty"], "f: no loads")])
def test_wrong_lines_of_loads_are_named(lines, said):
    with pytest.raises(UsageError) as caught:
        read_loads(lines, Space("src"), "f")
    assert said in str(caught.value)


PLAN = {"on": "src", "machines": [{"name": "a", "capacity": 1.0, "port": 3}, {"name": "b", "capacity": 1.0, "port": None}],
        "prefixes": [{"prefix": "0.0.0.0/0", "machine": "a"}, {"prefix": "::/0", "machine": "a"},
                     {"prefix": "10.0.0.0/8", "machine": "b"}, {"prefix": "11.0.0.0/8", "shared": {"a": 1.0, "b": 2.0}}]}


def test_a_plan_is_written_as_it_is_read():
    assert Plan.from_json(PLAN).to_json()["prefixes"] == [PLAN["prefixes"][0], *PLAN["prefixes"][2:], PLAN["prefixes"][1]]
    assert Plan.from_json(Plan.from_json(PLAN).to_json()).prefixes() == Plan.from_json(PLAN).prefixes()


WRONG = [(("on",), "x", "on:"), (("on",), ["src"], "on:"), (("on",), None, "on:"), (("machines",), {}, "machines:"), (("machines",), [], "no machines"),
         (("machines", 0), 5, "machines[0]"), (("machines", 0, "name"), "", "machine ''"), (("machines", 0, "name"), 5, "machine 5"),
         (("machines", 0, "name"), "b", "machine 'b'"), (("machines", 0, "capacity"), 0, "capacity"),
         (("machines", 0, "capacity"), "1", "capacity"), (("machines", 0, "capacity"), True, "capacity"),
         (("machines", 0, "port"), -1, "port"), (("machines", 0, "port"), 1.5, "port"), (("machines", 0, "size"), 1, "'size' is no field"),
         (("machines", 1, "port"), 3, "port"), (("prefixes",), None, "prefixes:"), (("prefixes", 2), "x", "prefixes[2]"),
         (("prefixes", 2, "prefix"), "10.0.0.1/8", "no prefix"), (("prefixes", 2, "prefix"), 5, "no prefix"),
         (("prefixes", 2, "prefix"), "0.0.0.0/0", "two owners"), (("prefixes", 2, "machine"), "c", "none of the machines"),
         (("prefixes", 2, "machine"), None, "none of the machines"), (("prefixes", 3, "shared"), [], "prefixes[3].shared"),
         (("prefixes", 3, "shared"), {}, "weights above 0"), (("prefixes", 3, "shared", "a"), 0, "weights above 0"),
         (("prefixes", 3, "shared", "a"), "1", "weights above 0"), (("prefixes", 3, "shared", "c"), 1, "none of the machines"),
         (("prefixes", 0, "prefix"), "12.0.0.0/8", "no default machine for ipv4"), (("more",), 1, "'more' is no field")]


@pytest.mark.parametrize("path, value, said", WRONG, ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else None)
def test_each_field_of_a_plan_wrong_in_turn(path, value, said):
    data = json.loads(json.dumps(PLAN))
    place = data
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(UsageError) as caught:
        read_json(json.dumps(data), "plan.json", Plan.from_json)
    assert str(caught.value).startswith("plan.json: ") and said in str(caught.value)


@pytest.mark.parametrize("field", ["on", "machines", "prefixes"])
def test_each_field_of_a_plan_missing_in_turn(field):
    data = {name: value for name, value in PLAN.items() if name != field}
    with pytest.raises(UsageError, match=f"'{field}' is missing"):
        Plan.from_json(data)


@pytest.mark.parametrize("data, said", [
    ([], "expected an object"), ({}, "'machines' is missing"), ({"machines": 3}, "machines: expected a list"),
    ({"machines": [{}]}, "machines[0]: 'name' is missing"), ({"machines": [{"name": "a"}, {"name": "a"}]}, "no other machine")])
def test_wrong_machines_are_named(data, said):
    with pytest.raises(UsageError) as caught:
        machines_of(data)
    assert said in str(caught.value)


def test_a_file_that_is_no_json_is_named():
    with pytest.raises(UsageError, match="plan.json, line 2: not JSON"):
        read_json("{\n x", "plan.json", Plan.from_json)


@pytest.mark.parametrize("options", [
    {"imbalance": 0.9}, {"imbalance": math.nan}, {"imbalance": "1.1"}, {"imbalance": math.inf}, {"chunk": -1}, {"chunk": True},
    {"finest": (32,)}, {"finest": (33, 128)}, {"finest": (-1, 128)}])
def test_parameters_out_of_range_are_refused(options):
    with pytest.raises(UsageError):
        balance(Loads(Space("src")), fleet(2), **options)


def test_machines_that_are_none_are_refused():
    for machines in ([], [Machine("a", -1.0)], [Machine("a", math.nan)], [Machine("a"), Machine("a")], [Machine("a", 1.0, 0)]):
        with pytest.raises(UsageError):
            Fleet(machines)
    with pytest.raises(UsageError, match="cannot balance on 'vlan'"):
        Space("vlan")
    with pytest.raises(UsageError, match="no distribution"):
        distribution("pareto")
