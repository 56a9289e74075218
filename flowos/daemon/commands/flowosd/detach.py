"""Detach a module from a flow; what it held leaves unchanged."""
from flowos.daemon.items import Command


class Detach(Command):
    """Detach a module."""

    takes, needs, changes = {"module": str, "flow": str}, ("module", "flow"), True

    def run_command(self, parameter):
        self.daemon.detach(self.daemon.find(parameter["module"], parameter["flow"]))
