"""Change parameters of an attached module while it runs; its state is kept."""
from flowos.daemon.items import Command, texts


class Set(Command):
    """Set parameters; `only`: those that are not given go back to the loaded or default value."""

    takes = {"module": str, "flow": str, "parameters": dict, "only": bool}
    needs, changes = ("module", "flow", "parameters"), True

    def run_command(self, parameter):
        placed = self.daemon.find(parameter["module"], parameter["flow"])
        before = {} if parameter.get("only") else placed.values
        values = texts(parameter["parameters"], "set")
        self.daemon.change(placed, {**before, **values})
