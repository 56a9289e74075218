"""Tell of one flow, or of all: match, priority, and the pipeline with what each module did."""
from flowos.daemon.items import Command


class Show(Command):
    """Tell of flows; the value is a list."""

    takes = {"flow": str}

    def run_command(self, parameter):
        flows = [self.daemon.flow(parameter["flow"])] if parameter.get("flow") else self.daemon.engine.flows
        return [self.daemon.shown(flow) for flow in flows]
