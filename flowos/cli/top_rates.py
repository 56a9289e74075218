"""What changed from one look at the daemon to the next, per second: pure, from two answers of the command `top`."""


def rates(before, now):
    """Give rates per second: {"counters": {name}, "ports": {port: {name}}, "drops": {"where reason"}, "stages": {"flow/module": {name}}}.

    What was not there before, or began anew, counts from zero.

    >>> stage = {"module": "http_strip", "bytes": 0, "ns": 0}
    >>> old = {"at": 10.0, "pid": 1, "counters": {"packets": 5}, "ports": {"lan": {"spec": "x", "sent": 2}}, "drops": [],
    ...        "flows": [{"name": "web", "pipeline": [stage]}]}
    >>> new = {**old, "at": 12.0, "counters": {"packets": 25}, "flows": [{"name": "web", "pipeline": [{**stage, "bytes": 80}]}]}
    >>> rates(old, new)["counters"], rates(old, new)["stages"]
    ({'packets': 10.0}, {'web/http_strip': {'bytes': 40.0, 'ns': 0.0}})
    """
    seconds = max(now["at"] - before["at"], 1e-9)
    if before["pid"] != now["pid"]:           # another daemon: its clock of work began at zero
        before = {"counters": {}, "ports": {}, "drops": [], "flows": []}

    def grown(old, new):
        return {name: (value - old.get(name, 0) if value >= old.get(name, 0) else value) / seconds
                for name, value in new.items() if isinstance(value, int) and not isinstance(value, bool)}

    stages_before, stages_now = stages(before), stages(now)
    return {"counters": grown(before["counters"], now["counters"]),
            "ports": {name: grown(before["ports"].get(name, {}), port) for name, port in now["ports"].items()},
            "drops": grown(drops(before), drops(now)),
            "stages": {name: grown(stages_before.get(name, {}), stage) for name, stage in stages_now.items()}}


def stages(told):
    """Give {flow/module: stage}."""
    return {f"{flow['name']}/{stage['module']}": stage for flow in told["flows"] for stage in flow["pipeline"]}


def drops(told):
    """Give {"where reason": count}."""
    return {f"{drop['where']} {drop['reason']}": drop["count"] for drop in told["drops"]}
