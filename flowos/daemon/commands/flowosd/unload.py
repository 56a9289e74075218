"""Forget a loaded module; wherever it is attached it is detached."""
from flowos.daemon.items import Command


class Unload(Command):
    """Unload a module."""

    takes, needs, changes = {"module": str}, ("module",), True

    def run_command(self, parameter):
        self.daemon.unload(parameter["module"])
