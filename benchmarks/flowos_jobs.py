"""FlowOS does the jobs of jobs.py: what the benchmarks run on FlowOS's side, through the public face only.

    python benchmarks/flowos_jobs.py count FILE.pcap
    python benchmarks/flowos_jobs.py search PATTERN FILE.pcap            a pattern in TCP streams
    python benchmarks/flowos_jobs.py bare TIMES PATTERN FILE.pcap        the same, each window searched TIMES times
    python benchmarks/flowos_jobs.py pipeline PATTERN... FILE.pcap       a module per pattern
    python benchmarks/flowos_jobs.py windows K FILE.pcap                 K modules that are called and do nothing
    python benchmarks/flowos_jobs.py batches K FILE.pcap                 the same, called with lists of windows
    python benchmarks/flowos_jobs.py forward OUT.pcap FILE.pcap          nobody attached, all written
    python benchmarks/flowos_jobs.py bypass OUT.pcap FILE.pcap           an editor attached to a flow that has no packet here
    python benchmarks/flowos_jobs.py strip PATTERN OUT.pcap FILE.pcap    modules/http_strip.py, as it is shipped

The modules are Python, called per window.  One line of JSON says what was found.
"""
import json
import sys

import flowos
from flowos.modules.http_strip import HttpStrip
from flowos_count import PerConnection


class Search(flowos.Module):
    """Count a pattern in TCP streams, wherever they are cut."""

    protocol = "tcp"

    def __init__(self, pattern):
        self.pattern = pattern
        self.matches = 0

    def process(self, window):
        for _ in window.find(self.pattern):
            self.matches += 1
        window.release(keep=window.partial(self.pattern))


class Bare(Search):
    """Search each window several times: what a time more costs is the module's own work, and nothing else."""

    def __init__(self, pattern, times):
        super().__init__(pattern)
        self.times = range(times)

    def process(self, window):
        for _ in self.times:
            super().process(window)


class Nothing(flowos.Module):
    """Be called with every window of TCP streams."""

    protocol = "tcp"

    def process(self, window):
        pass


class NothingAtOnce(flowos.Module):
    """Be called with every window of TCP streams, many at a time."""

    protocol = "tcp"

    def process_batch(self, windows):
        pass


def run(path, modules, out=None, match=None):
    """Run one engine over a file; give how many packets it took, and the attachments."""
    with flowos.Engine() as engine:
        engine.add_port(path)
        if out is not None:
            engine.add_output(out, "pcap")
        if match is not None:
            engine.create_flow("jobs", match)
        attached = [engine.attach(module, None if match is None else "jobs") for module in modules]
        engine.run()
        return {"packets": engine.packets, "windows": sum(one.counters["windows"] for one in attached)}, attached


def main(job, *given):
    *given, path = given
    patterns = [one.encode() for one in given]
    if job == "count":
        module = PerConnection("ip")
        answer, _ = run(path, [module])
        counted = module.answer()
        return {**answer, "connections": counted["connections"], "bytes": counted["rows_bytes"],
                "packets_squared": counted["rows_squared"]}
    if job in ("windows", "batches"):
        return run(path, [Nothing() if job == "windows" else NothingAtOnce() for _ in range(int(given[0]))])[0]
    if job in ("forward", "bypass"):
        return run(path, [HttpStrip(b"-")] if job == "bypass" else [], given[0], "tcp,tp_dst=1" if job == "bypass" else None)[0]
    if job == "strip":
        answer, attached = run(path, [HttpStrip(patterns[0])], given[1])
        return {**answer, "patterns": attached[0].counters["edits"]}
    if job == "bare":
        modules = [Bare(patterns[1], int(given[0]))]
        return {**run(path, modules)[0], "matches": modules[0].matches // int(given[0])}
    modules = [Search(pattern) for pattern in patterns]
    return {**run(path, modules)[0], "matches": sum(module.matches for module in modules)}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
