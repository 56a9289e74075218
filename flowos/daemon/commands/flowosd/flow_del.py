"""Delete a flow; what is attached to it is detached."""
from flowos.daemon.items import Command


class FlowDel(Command):
    """Delete a flow."""

    takes, needs, changes = {"flow": str}, ("flow",), True

    def run_command(self, parameter):
        self.daemon.delete_flow(parameter["flow"])
