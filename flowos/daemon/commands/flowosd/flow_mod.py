"""Change a flow's match or priority; its modules stay."""
from flowos.daemon.items import Command


class FlowMod(Command):
    """Change a flow."""

    takes, needs, changes = {"flow": str, "match": str, "priority": int}, ("flow",), True

    def run_command(self, parameter):
        self.daemon.engine.modify_flow(self.daemon.flow(parameter["flow"]), parameter.get("match"), parameter.get("priority"))
