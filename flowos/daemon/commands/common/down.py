"""End the daemon, after its answer."""
from flowos.daemon.items import Command


class Down(Command):
    """End the daemon; the value is its process's number."""

    def run_command(self, parameter):
        import os

        self.daemon.running = False
        return os.getpid()
