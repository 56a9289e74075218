"""Tell the configuration as it is now, as a TOML text."""
from flowos.daemon import configuration
from flowos.daemon.items import Command


class Save(Command):
    """Tell the configuration."""

    def run_command(self, parameter):
        return configuration.write(self.daemon.configuration())
