"""Turn what runs into a wanted configuration: the difference alone is applied."""
from flowos.daemon import configuration
from flowos.daemon.items import Command


class Apply(Command):
    """Apply a configuration; the value lists the changes.  `plan`: only say them."""

    takes, needs, changes = {"configuration": dict, "plan": bool}, ("configuration",), True

    def run_command(self, parameter):
        if parameter.get("plan"):
            wanted = self.daemon._with_names(configuration.checked(parameter["configuration"]))
            return [{"command": name, **rest} for name, rest in configuration.changes(self.daemon.configuration(), wanted)]
        return self.daemon.apply(parameter["configuration"])
