"""The daemon of one engine on live ports: flows, loaded modules, attachments, and their configuration on disk.

Its commands (commands/flowosd) are thin: what they share is here.  Everything is called on the
engine's thread, between two steps.  The configuration is what is there now, told as a table; it is saved
after each command that changed it, and taken up again at the start.
"""
import contextlib
import os
import sys
import time

from flowos import Config, Engine
from flowos.core.errors import UsageError
from flowos.daemon import configuration
from flowos.daemon.base import Daemon
from flowos.daemon.modulecode import Code, Made
from flowos.daemon.values import told
from flowos.parameters import nearest, spell


class Loaded:
    """A module that was loaded: its spec, its class, the parameters that attachments start from."""

    def __init__(self, name, spec, cls, values):
        self.name, self.spec, self.cls, self.values = name, spec, cls, values


class Placed:
    """A module at work on a flow: the engine's attachments, the module's companions before itself, and how they were made."""

    def __init__(self, loaded, flow, values, threads, made, parts):
        self.loaded, self.flow, self.values, self.threads, self.made, self.parts = loaded, flow, values, threads, made, parts

    @property
    def attachment(self):
        """Give the attachment of the module itself."""
        return self.parts[-1]

    @property
    def order(self):
        """Give the order of the first part."""
        return self.parts[0].order


class FlowDaemon(Daemon):
    """Run an engine between two ports, {name: spec}, and change what it does while traffic runs.

    `state`: the file of its configuration; None keeps none.  `code`: where modules come from.
    """

    name = "flowosd"

    def __init__(self, ports, state=None, code=None, config=None):
        super().__init__()
        if len(ports) != 2:
            raise UsageError(f"flowos up stands between two ports, not {len(ports)}: --port lan=SPEC --port wan=SPEC")
        self.specs, self.state, self.code = dict(ports), state, code or Code()
        self.loaded, self.placed, self.began = {}, [], time.time()
        self.engine = Engine(config or Config(isolate=True, measure=True))
        self.engine.connect(*self.specs.values())
        self.engine.bell = self.mailbox.bell
        self.ports = dict(zip(self.specs, self.engine._inputs, strict=True))

    # ---- running --------------------------------------------------------------------------

    def run(self):
        """Run until `down`, or a port is gone."""
        try:
            self.engine.run(self.between)
        finally:
            self.mailbox.close()
            self.engine.close()

    def between(self):
        """Do what is due between two steps."""
        self.turn()
        if not self.running and not self.board.busy:
            self.engine.stop()

    # ---- flows ----------------------------------------------------------------------------

    def flow(self, name):
        """Give the flow of a name; UsageError names the nearest."""
        found = self.engine.find_flow(name)
        if found is None:
            raise UsageError(f"there is no flow {name!r}; {nearest(name, [flow.name for flow in self.engine.flows])}")
        return found

    def free_name(self):
        """Give the first of flow1, flow2, … that is free."""
        number = 1
        while self.engine.find_flow(f"flow{number}") is not None:
            number += 1
        return f"flow{number}"

    def delete_flow(self, name):
        """Delete a flow and what is attached to it."""
        flow = self.flow(name)
        self.placed = [placed for placed in self.placed if placed.flow != name]
        self.engine.delete_flow(flow)

    # ---- modules --------------------------------------------------------------------------

    def load(self, spec, values):
        """Load a module; UsageError: it is loaded already, or cannot be."""
        cls = self.code.find(spec)
        name = cls.name or cls.__name__
        if name in self.loaded:
            raise UsageError(f"module {name!r} is loaded already; `flowos unload {name}` lets it go")
        from flowos.parameters import parameters_of, read

        known = parameters_of(cls)
        for field, text in values.items():    # wrong ones are told now, missing ones may come at attach
            if field not in known:
                raise UsageError(f"{name}: there is no parameter {field!r}; {nearest(field, known)}")
            read(name, known[field], text)
        self.loaded[name] = Loaded(name, self.code.resolve(spec), cls, dict(values))
        return self.loaded[name]

    def module(self, name, load=False):
        """Give a loaded module by name; `load`: load it if it is not.  UsageError: there is none."""
        if name in self.loaded:
            return self.loaded[name]
        if load:
            return self.load(name, {})
        raise UsageError(f"module {name!r} is not loaded; {nearest(name, self.loaded)}")

    def unload(self, name):
        """Detach a module wherever it is, and forget it."""
        loaded = self.module(name)
        for placed in [placed for placed in self.placed if placed.loaded is loaded]:
            self.detach(placed)
        del self.loaded[name]

    def attach(self, name, flow, values, order=None, threads="inline"):
        """Attach a module to a flow, loading it if it is not; its companions go before it."""
        flow = self.flow(flow)
        fresh = name not in self.loaded
        loaded = self.module(name, load=True)
        try:
            if any(placed.loaded is loaded and placed.flow == flow.name for placed in self.placed):
                raise UsageError(f"{loaded.name} is attached to {flow.name} already")
            placed = self._place(loaded, flow.name, values, order, threads)
        except BaseException:
            if fresh:
                del self.loaded[loaded.name]
            raise
        self.placed.append(placed)
        return placed

    def _place(self, loaded, flow, values, order, threads):
        made = Made(loaded.cls, {**loaded.values, **values})
        parts = []
        try:
            for module in [*getattr(made.module, "companions", list)(), made.module]:
                parts.append(self.engine.attach(module, flow, order, threads))
                order = None if order is None else order + 1
        except BaseException:
            for part in parts:
                self.engine.detach(part)
            raise
        return Placed(loaded, flow, dict(values), threads, made, parts)

    def detach(self, placed):
        """Take a module off its flow."""
        self.placed.remove(placed)
        for part in placed.parts:
            with contextlib.suppress(UsageError):     # the engine took it off: it overstayed its time_limit
                self.engine.detach(part)

    def find(self, module, flow):
        """Give what is attached; UsageError names what is."""
        name = self.flow(flow).name
        there = {placed.loaded.name: placed for placed in self.placed if placed.flow == name}
        if module not in there:
            raise UsageError(f"{module!r} is not attached to {name}; {nearest(module, there)}")
        return there[module]

    def change(self, placed, values, cls=None):
        """Let a module go on with other parameters, or other code: between two calls, its state kept."""
        cls = cls or placed.loaded.cls
        made = Made(cls, {**placed.loaded.values, **values})
        made.inherit(placed.made)
        old, new = ([type(part) for part in getattr(module, "companions", list)()]
                    for module in (placed.made.module, made.module))
        if [part.__name__ for part in old] != [part.__name__ for part in new]:
            raise UsageError(f"{placed.loaded.name}: with these parameters it needs other companions; detach it and attach it anew")
        self.engine.reload(placed.attachment, made.module)
        placed.made, placed.values = made, dict(values)

    def reload(self, name):
        """Take up changed code of a module, wherever it is attached; UsageError: refused as a whole, the old goes on."""
        loaded = self.module(name)
        old = loaded.cls
        cls = self.code.reload(loaded.spec)
        if (cls.name or cls.__name__) != name:
            raise UsageError(f"{loaded.spec}: the module is now called {cls.name!r}; load it anew")
        done = []
        try:
            for placed in [placed for placed in self.placed if placed.loaded is loaded]:
                self.change(placed, placed.values, cls)
                done.append(placed)
        except Exception:
            for placed in done:
                self.change(placed, placed.values, old)
            raise
        loaded.cls = cls
        return len(done)

    # ---- configuration --------------------------------------------------------------------

    def configuration(self):
        """Tell what there is, as `flowos save` writes it."""
        return {
            "modules": {loaded.name: {"spec": loaded.spec, "parameters": dict(loaded.values)} for loaded in self.loaded.values()},
            "flows": {flow.name: {"match": str(flow.match), "priority": flow.priority, "attach": [
                {"module": placed.loaded.name, "order": placed.order, "threads": placed.threads,
                 "parameters": dict(placed.values)}
                for placed in sorted(self.placed, key=lambda placed: placed.order) if placed.flow == flow.name]}
                for flow in self.engine.flows}}

    def apply(self, wanted):
        """Turn what there is into what is wanted; give the changes that were made.

        The first that fails ends it: what was done before stays, and the error says how far it came.
        """
        wanted = self._with_names(configuration.checked(wanted))
        planned = configuration.changes(self.configuration(), wanted)
        for number, (name, parameter) in enumerate(planned):
            found = self.commands.find(name)
            try:
                found(self).run_command(found.check(name, parameter))
            except Exception as error:
                raise UsageError(f"apply: change {number + 1} of {len(planned)}, {name}: {told(error)}") from error
        return [{"command": name, **parameter} for name, parameter in planned]

    def _with_names(self, wanted):
        """Give matches as the engine prints them, so that two spellings of one match are no difference."""
        from flowos.core.match import Match

        for title, flow in wanted["flows"].items():
            try:
                flow["match"] = str(Match.parse(flow["match"]))
            except UsageError as error:
                raise UsageError(f"flows.{title}.match: {error}") from None
        for title, module in wanted["modules"].items():
            module["spec"] = self.code.resolve(module["spec"])
            if title not in self.loaded or self.loaded[title].spec != module["spec"]:
                cls = self.code.find(module["spec"])
                if (cls.name or cls.__name__) != title:
                    raise UsageError(f"modules.{title}: {module['spec']} is called {cls.name or cls.__name__!r}, and must be here, too")
        return wanted

    def restore(self):
        """Take up the saved configuration, if there is one.

        What cannot be had is said and left out; the file is then kept beside the one that the next change writes.
        """
        if self.state is None or not os.path.exists(self.state):
            return
        wanted = configuration.read_file(self.state)
        whole = True
        for name, parameter in configuration.changes(self.configuration(), wanted):
            found = self.commands.find(name)
            try:
                found(self).run_command(found.check(name, parameter))
            except Exception as error:        # a module's own, too: the others are to run
                whole = False
                sys.stderr.write(f"flowosd: {self.state}: {name}: {told(error)}\n")
        if not whole:
            configuration.save(f"{self.state}.before", configuration.write(wanted))
            sys.stderr.write(f"flowosd: {self.state}: not all of it runs; it is kept as {self.state}.before\n")

    def changed(self):
        """Save what there is."""
        if self.state is not None:
            configuration.save(self.state, configuration.write(self.configuration()))

    # ---- what can be seen -----------------------------------------------------------------

    def shown(self, flow):
        """Tell of a flow and its pipeline."""
        return {"name": flow.name, "match": str(flow.match), "priority": flow.priority, "pipeline": [
            {"module": placed.loaded.name, "order": placed.order, "protocol": placed.attachment.protocol,
             "mode": placed.made.module.mode, "threads": placed.threads,
             "parameters": {name: spell(value) for name, value in placed.made.values.items()},
             "attached": not placed.attachment.detached,
             "last_error": placed.attachment.errors[-1] if placed.attachment.errors else "",
             **placed.attachment.counters}
            for placed in sorted(self.placed, key=lambda placed: placed.order) if placed.flow == flow.name]}
