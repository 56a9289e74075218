"""Change parameters of an attached module while it runs; its state is kept."""
from flowos.daemon.items import Command


class Set(Command):
    """Set parameters; `only`: those that are not given go back to the loaded or default value."""

    takes = {"module": str, "flow": str, "parameters": dict, "only": bool}
    needs, changes = ("module", "flow", "parameters"), True

    def run_command(self, parameter):
        placed = self.daemon.find(parameter["module"], parameter["flow"])
        before = {} if parameter.get("only") else placed.values
        values = {str(name): str(value) for name, value in parameter["parameters"].items()}
        self.daemon.change(placed, {**before, **values})
