"""Tell which commands and tasks there are."""
from flowos.daemon.items import Command


class Items(Command):
    """Tell the names of commands and tasks."""

    def run_command(self, parameter):
        return {"commands": self.daemon.commands.names(), "tasks": self.daemon.tasks.names()}
