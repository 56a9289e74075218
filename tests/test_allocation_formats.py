"""The JSON formats of allocation: what is written is read back, and each field wrong in turn is an error."""
import copy
import json
import re

import pytest
from hypothesis import given, settings
from test_allocation_instances import instances

from flowos import FlowOSError, UsageError
from flowos.services.allocation import allocate
from flowos.services.allocation_format import (
    read_platform,
    read_services,
    read_solution,
    write_platform,
    write_services,
    write_solution,
)
from flowos.services.allocation_generate import basic_platform, large_platform, services

PLATFORM = {
    "format": "flowos-platform", "version": 1, "name": "two",
    "servers": [{"name": "s0", "cores": 8, "memory": 2048, "bandwidth": 10000, "delay": 1},
                {"name": "s1", "cores": 0.5, "memory": 64, "bandwidth": 0.5, "delay": 0}],
    "switches": [{"name": "tor0", "kind": "tor"}, {"name": "io0", "kind": "io"}],
    "links": [{"from": "s0", "to": "tor0", "bandwidth": 1000, "delay": 1},
              {"from": "s1", "to": "tor0", "bandwidth": 1000, "delay": 1, "directed": True},
              {"from": "tor0", "to": "s1", "bandwidth": 500, "delay": 2, "directed": True},
              {"from": "tor0", "to": "io0", "bandwidth": 10000, "delay": 1}]}
SERVICES = {
    "format": "flowos-services", "version": 1, "packet_bits": 1024,
    "services": [{"name": "web", "nodes": [{"name": "in", "kind": "source", "io": "io0"},
                                           {"name": "filter", "kind": "module", "cores": 0.5, "memory": 64},
                                           {"name": "out", "kind": "sink", "io": ["io0"]}],
                  "links": [{"from": "in", "to": "filter", "traffic": 1000}, {"from": "filter", "to": "out", "traffic": 900}],
                  "paths": [{"nodes": ["in", "filter", "out"], "bound": 9}]}]}


def solved():
    """Give the document of a solution."""
    platform = read_platform(PLATFORM)
    return write_solution(allocate(platform, read_services(SERVICES, platform)), {"platform": "p", "services": "s"})


READERS = {
    "platform": (PLATFORM, read_platform),
    "services": (SERVICES, lambda document: read_services(document, read_platform(PLATFORM))),
    "solution": (json.loads(json.dumps(solved())), read_solution)}
OPTIONAL = {"directed", "paths", "bound", "proof", "statistics", "violations"}
# What a solution says beside placement and paths is free in its depth; only the evaluator is believed.
FREE = {"instance", "statistics", "violations", "placement"}


def places(value, path=()):
    """Yield the path of every field and list element of a document."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*path, name)
            if not (len(path) == 0 and name in FREE and "verdict" in value):
                yield from places(inner, (*path, name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield (*path, number)
            yield from places(inner, (*path, number))


def changed(document, path, change):
    """Give a copy with one place changed; `change(container, key)` does it."""
    document = copy.deepcopy(document)
    inner = document
    for key in path[:-1]:
        inner = inner[key]
    change(inner, path[-1])
    return document


def place_of(path):
    """Write a path as the messages do."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")


CASES = [(name, path) for name, (document, _) in READERS.items() for path in places(document)]


@pytest.mark.parametrize("name, path", CASES, ids=lambda value: value if isinstance(value, str) else place_of(value))
def test_each_field_wrong_in_turn(name, path):
    document, read = READERS[name]
    read(document)
    key, was = path[-1], document
    for step in path:
        was = was[step]
    wrong = [["none"], {"none": 1}, None, float("nan")]
    wrong += [-1, 1e30, True] if not isinstance(was, bool) else [0, "yes"]
    if isinstance(was, str):
        wrong += ["", "no such thing"] if key not in ("name", "proof") and name != "solution" else [7]
    if isinstance(was, (int, float)):
        wrong += [str(was), 0.123456789]
    for value in wrong:
        if isinstance(was, list) and isinstance(value, list) or isinstance(was, dict) and isinstance(value, dict):
            if name == "solution" or key == "io":
                continue                         # names are the evaluator's to judge
        if value is None and key in ("bound", "paths"):
            continue
        with pytest.raises(UsageError) as caught:
            read(changed(document, path, lambda inner, at, value=value: inner.__setitem__(at, value)))
        parent = re.escape(place_of(path[:-1]))
        assert re.match(rf"{parent}|server ", str(caught.value)), (value, str(caught.value))


@pytest.mark.parametrize("name, path", [case for case in CASES if isinstance(case[1][-1], str)],
                         ids=lambda value: value if isinstance(value, str) else place_of(value))
def test_each_field_missing_and_unknown(name, path):
    document, read = READERS[name]
    without = changed(document, path, lambda inner, at: inner.pop(at))
    if path[-1] in OPTIONAL and path != ("paths",):       # a service's paths may be all; a solution's are given
        try:
            read(without)
        except UsageError as error:              # without "directed" the link back is there twice
            assert path[-1] == "directed" and "already" in str(error)
    else:
        with pytest.raises(UsageError, match=re.escape(f"{place_of(path)}: missing")):
            read(without)
    with pytest.raises(UsageError, match=re.escape(f"{place_of((*path[:-1], 'x' + path[-1]))}: no such field")):
        read(changed(document, path, lambda inner, at: inner.__setitem__("x" + at, 1)))


def edit(document, *steps):
    """Give a copy of a document with values set: (path, value) pairs."""
    for path, value in steps:
        document = changed(document, path, lambda inner, at, value=value: inner.append(value)
                           if at == "+" else inner.__setitem__(at, value))
    return document


LINKS, NODES = ("services", 0, "links"), ("services", 0, "nodes")


@pytest.mark.parametrize("name, steps, message", [
    ("platform", [(("servers", 1, "name"), "s0")], "servers[1].name: s0 is taken"),
    ("platform", [(("links", 0, "to"), "s0")], "another end"),
    ("platform", [(("links", 0, "to"), "s1")], "servers meet at a ToR switch"),
    ("platform", [(("links", 0, "to"), "io0")], "no ToR switch"),
    ("platform", [(("links", "+"), {"from": "tor0", "to": "io0", "bandwidth": 1, "delay": 1})], "already"),
    ("platform", [(("switches", 1, "kind"), "core")], "no I/O switch"),
    ("platform", [(("links", 0, "directed"), True)], "server s0: it needs a link"),
    ("services", [((*LINKS, "+"), {"from": "out", "to": "filter", "traffic": 1})], "nothing leaves a sink"),
    ("services", [((*LINKS, "+"), {"from": "filter", "to": "in", "traffic": 1})], "nothing enters a source"),
    ("services", [((*LINKS, "+"), {"from": "in", "to": "out", "traffic": 1})], "not the platform's"),
    ("services", [((*LINKS, "+"), {"from": "in", "to": "filter", "traffic": 1})], "already"),
    ("services", [((*NODES, "+"), {"name": "filter", "kind": "module", "cores": 1, "memory": 1})], "taken"),
    ("services", [((*NODES, "+"), {"name": "more", "kind": "source", "io": "io0"})], "none leads from more"),
    ("services", [((*NODES, "+"), {"name": "more", "kind": "sink", "io": ["io0"]})], "none leads to more"),
    ("services", [((*NODES, "+"), {"name": "b", "kind": "module", "cores": 1, "memory": 1}),
                  ((*LINKS, "+"), {"from": "filter", "to": "b", "traffic": 1}),
                  ((*LINKS, "+"), {"from": "b", "to": "filter", "traffic": 1})], "circle"),
    ("services", [(("services", 0, "paths", 0, "nodes"), ["in", "out"])], "no link leads from in to out"),
    ("services", [(("services", 0, "paths", 0, "nodes"), ["in", "filter"])], "from a source to a sink"),
    ("services", [((*NODES, 1, "cores"), 0.555)], "a multiple of 0.01"),
    ("services", [(("services", "+"), SERVICES["services"][0])], "web is taken"),
    ("solution", [(("paths", "+"), ["io0", "tor0", "s0"]), (("paths", "+"), ["io0", "s0"])], "already"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_what_makes_no_sense_is_refused(name, steps, message):
    document, read = READERS[name]
    with pytest.raises(UsageError, match=re.escape(message)):
        read(edit(document, *steps))


def test_a_usage_error_is_a_value_error_of_flowos():
    with pytest.raises(ValueError) as caught:
        read_platform([])
    assert isinstance(caught.value, FlowOSError)


@settings(max_examples=60)
@given(instances())
def test_what_is_written_is_read_back(instance):
    platform, made = instance
    again = read_platform(json.loads(json.dumps(write_platform(platform))))
    assert again == platform
    assert read_services(json.loads(json.dumps(write_services(made))), again) == made


@pytest.mark.parametrize("platform", [basic_platform(), large_platform(4, 4, 4, 2)], ids=lambda one: one.name)
def test_generated_instances_are_read_back(platform):
    made = services(platform, 16)
    assert read_platform(json.loads(json.dumps(write_platform(platform)))) == platform
    assert read_services(json.loads(json.dumps(write_services(made, 1024))), platform) == made


def test_a_solution_is_read_back():
    platform = basic_platform()
    solution = allocate(platform, services(platform, 8))
    again, instance = read_solution(json.loads(json.dumps(write_solution(solution, {"any": 1}))))
    assert (again.placement, again.paths, instance) == (solution.placement, solution.paths, {"any": 1})


def test_paths_that_are_not_named_are_all():
    platform = read_platform(PLATFORM)
    document = changed(SERVICES, ("services", 0, "paths"), lambda inner, at: inner.pop(at))
    assert read_services(document, platform)[0].paths[0].nodes == ("in", "filter", "out")


def test_nodes_are_put_in_order():
    platform = read_platform(PLATFORM)
    document = changed(SERVICES, NODES, lambda inner, at: inner[at].reverse())
    assert [node.name for node in read_services(document, platform)[0].nodes] == ["in", "filter", "out"]
