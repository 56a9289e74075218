"""Tell the value of a parameter of an attached module."""
from flowos.daemon.items import Command
from flowos.parameters import spell


class Get(Command):
    """Tell a parameter, as a text."""

    takes, needs = {"module": str, "flow": str, "parameter": str}, ("module", "flow", "parameter")

    def run_command(self, parameter):
        placed = self.daemon.find(parameter["module"], parameter["flow"])
        return spell(placed.made.parameter(parameter["parameter"]))
