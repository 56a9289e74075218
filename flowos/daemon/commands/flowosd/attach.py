"""Attach a module to a flow; one that is not loaded is loaded with its defaults."""
from flowos.daemon.items import Command, texts


class Attach(Command):
    """Attach a module; the value tells its place."""

    takes = {"module": str, "flow": str, "order": int, "threads": str, "parameters": dict}
    needs, changes = ("module", "flow"), True

    def run_command(self, parameter):
        values = texts(parameter.get("parameters", {}), "attach")
        placed = self.daemon.attach(parameter["module"], parameter["flow"], values, parameter.get("order"),
                                    parameter.get("threads", "inline"))
        return {"module": placed.loaded.name, "flow": placed.flow, "order": placed.order}
