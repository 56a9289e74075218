"""Create a flow; without a name it is flow1, flow2, …"""
from flowos.daemon.items import Command


class FlowAdd(Command):
    """Create a flow; the value is its name."""

    takes, changes = {"name": str, "match": str, "priority": int}, True

    def run_command(self, parameter):
        name = parameter.get("name") or self.daemon.free_name()
        return self.daemon.engine.create_flow(name, parameter.get("match", "any"), parameter.get("priority", 0)).name
