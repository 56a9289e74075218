"""Tell every counter: the engine's and each port's."""
import os
import time

from flowos.daemon.items import Command


class Stats(Command):
    """Tell counters, {name: number}; those of ports under their names."""

    def run_command(self, parameter):
        return {"pid": os.getpid(), "seconds": time.time() - self.daemon.began, "counters": self.daemon.engine.statistics(),
                "ports": {name: {"spec": self.daemon.specs[name], **port.statistics()} for name, port in self.daemon.ports.items()}}
