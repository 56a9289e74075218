"""Tell all that a live view shows, as of one moment: counters, ports, drops, flows with where each module stands."""
import time

from flowos.core.counters import DESCRIPTIONS
from flowos.core.positions import positions
from flowos.daemon.items import Command

#: Counters of packets that came and do not leave, and that nobody asked to be dropped but a module.
ENGINE = ("merged_dropped", "merged_no_port", "merged_port_full", "merged_oversize", "kept_no_room", "tcp_out_of_window",
          "ip6_fragment_overlap", "ip_fragment_conflict_end", "ip_fragment_malformed", "ip_fragment_too_big",
          "ip_fragment_poisoned", "ip_fragment_too_many")
PORT = ("kernel_dropped", "kernel_ring_full", "kernel_no_buffer", "kernel_bad_sends", "too_long", "refused_long", "refused_short",
        "refused_full", "refused", "full", "lost")
NOWHERE = {"open": 0, "head": 0, "tail": 0}


class Top(Command):
    """Tell what `stats` and `show` tell, and more; `at` is the moment, in seconds of a clock that never steps back.

    `drops` lists {where, reason, count, meaning}, `where` a port's name or "engine".  Each stage also has `head` and `tail`,
    the bytes it released and the bytes it was lent, over the connections that live and in which some module holds or
    edits; and `open`, in how many directions it holds something.
    """

    def run_command(self, parameter):
        daemon = self.daemon
        told = daemon.commands.find("stats")(daemon).run_command({})
        drops = [drop("engine", reason, told["counters"], DESCRIPTIONS) for reason in ENGINE]
        for name, port in daemon.ports.items():
            counters = port.statistics()
            drops += [drop(name, reason, counters, port.descriptions) for reason in PORT if reason in counters]
        return {"at": time.monotonic(), **told, "drops": drops, "flows": self.flows()}

    def flows(self):
        """Tell of the flows, with places."""
        places = positions(self.daemon.engine)
        serials = {(placed.flow, placed.loaded.name): placed.attachment.serial for placed in self.daemon.placed}
        return [{**flow, "pipeline": [{**stage, **places.get(serials[flow["name"], stage["module"]], NOWHERE)}
                                      for stage in flow["pipeline"]]}
                for flow in map(self.daemon.shown, self.daemon.engine.flows)]


def drop(where, reason, counters, descriptions):
    """Tell of one reason."""
    return {"where": where, "reason": reason, "count": counters[reason], "meaning": descriptions[reason]}
