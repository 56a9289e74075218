"""Load a module, with the parameters that its attachments start from."""
from flowos.daemon.items import Command, texts


class Load(Command):
    """Load a module; the value is its name."""

    takes, needs, changes = {"module": str, "parameters": dict}, ("module",), True

    def run_command(self, parameter):
        values = texts(parameter.get("parameters", {}), "load")
        return self.daemon.load(parameter["module"], values).name
