"""Take up a module's changed code while it runs; its state is kept."""
from flowos.daemon.items import Command


class Reload(Command):
    """Reload a module; the value is on how many flows it runs."""

    takes, needs = {"module": str}, ("module",)

    def run_command(self, parameter):
        return self.daemon.reload(parameter["module"])
