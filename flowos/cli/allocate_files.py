"""The files of `flowos allocate`: instances and solutions, read and written.

A solution names its instance: the two files, relative to its own folder, or how it was generated;
and a digest of both, so that it is not checked against another one by mistake.
"""
import hashlib
import json
import os

from flowos import FlowOSError, UsageError


def load(path):
    """Read a JSON file; UsageError with the place where it is none."""
    with open(path, encoding="utf-8") as file:
        try:
            return json.load(file, object_pairs_hook=lambda pairs: _once(path, pairs))
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from None
        except json.JSONDecodeError as error:
            raise UsageError(f"{path}: no JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
        except RecursionError:
            raise UsageError(f"{path}: nested too deeply") from None


def _once(path, pairs):
    """Make an object of its fields; a field that stands twice is an error."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise UsageError(f"{path}: {next(name for name in names if names.count(name) > 1)}: twice in one object")
    return fields


def save(path, document):
    """Write a JSON file, whole or not at all, a line per element of its longest lists."""
    parts = ",\n".join(f"{json.dumps(name)}: {_lines(value)}" for name, value in document.items())
    part = f"{path}.part"
    with open(part, "w", encoding="utf-8") as file:
        file.write(f"{{{parts}}}\n")
    os.replace(part, path)


def _lines(value):
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(json.dumps(element) for element in value) + "]"
    if isinstance(value, dict) and len(value) > 8:
        return "{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(inner)}" for name, inner in value.items()) + "}"
    return json.dumps(value)


class Instance:
    """A platform and services, and where they come from (`origin`, as a solution names it)."""

    def __init__(self, platform, services, origin, packet_bits=1):
        self.platform, self.services, self.origin = platform, services, origin
        self.packet_bits, self.delay_bound = packet_bits, None

    @classmethod
    def read(cls, platform_path, services_path):
        """Read an instance from its two files."""
        from flowos.services.allocation_format import read_platform, read_services

        platform = _named(platform_path, read_platform, load(platform_path))
        services = _named(services_path, read_services, load(services_path), platform)
        return cls(platform, services, {"platform": platform_path, "services": services_path})

    @classmethod
    def generate(cls, name, count, seed=1, spread=False, memory="fixed", packet_bits=1024):
        """Make an instance of D3.2."""
        from flowos.services.allocation_generate import platform_named, services

        if packet_bits < 1:
            raise UsageError(f"packet bits: expected a number from 1, not {packet_bits}")
        platform = platform_named(name)
        made = services(platform, count, seed, spread=spread, memory=memory, packet_bits=packet_bits)
        return cls(platform, made, {"generate": name, "services": count, "seed": seed, "spread": spread,
                                    "memory": memory, "packet_bits": packet_bits}, packet_bits)

    @classmethod
    def named(cls, origin, folder):
        """Give the instance that a solution names."""
        if "generate" in origin:
            made = {"generate": (str, "a name"), "services": (int, "a number"), "seed": (int, "a number"),
                    "spread": (bool, "true or false"), "memory": (str, "a name"), "packet_bits": (int, "a number")}
            for name, (kind, expected) in made.items():
                if type(origin.get(name)) is not kind:
                    raise UsageError(f"instance.{name}: expected {expected}, not {origin.get(name)!r}")
            instance = cls.generate(*(origin[name] for name in made))
        else:
            for name in ("platform", "services"):
                if not isinstance(origin.get(name), str):
                    raise UsageError(f"instance.{name}: expected the name of a file, not {origin.get(name)!r}")
            instance = cls.read(*(os.path.join(folder, origin[name]) for name in ("platform", "services")))
        bound = origin.get("delay_bound")
        if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int) or bound < 0):
            raise UsageError(f"instance.delay_bound: expected a whole number from 0 or null, not {bound!r}")
        instance.delay_bound = bound
        return instance

    def digest(self):
        """Give a digest of the platform and services, however they are written down."""
        from flowos.services.allocation_format import write_platform, write_services

        text = json.dumps([write_platform(self.platform), write_services(self.services)], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def modules(self):
        """Give the number of modules of all services."""
        return sum(len(service.modules()) for service in self.services)


def _named(path, read, *arguments):
    """Read a document; put the file's name before what is wrong with it."""
    try:
        return read(*arguments)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def save_instance(instance, folder):
    """Write platform.json and services.json into a folder, which is made if it is not there."""
    from flowos.services.allocation_format import write_platform, write_services

    os.makedirs(folder, exist_ok=True)
    save(os.path.join(folder, "platform.json"), write_platform(instance.platform))
    save(os.path.join(folder, "services.json"), write_services(instance.services, instance.packet_bits))


def save_solution(solution, instance, path):
    """Write a solution."""
    from flowos.services.allocation_format import write_solution

    origin, folder = dict(instance.origin), os.path.dirname(os.path.abspath(path))
    if "generate" not in origin:
        origin = {name: os.path.relpath(file, folder) for name, file in origin.items()}
    origin |= {"delay_bound": instance.delay_bound, "digest": instance.digest()}
    save(path, write_solution(solution, origin))


def load_solution(path):
    """Read a solution; give it and what it says of its instance."""
    from flowos.services.allocation_format import read_solution

    return _named(path, read_solution, load(path))


def check_solution(instance, solution, named=None):
    """Evaluate a solution of an instance; None where there is nothing to evaluate.

    That is a proof, or what was found when not even a place for every node was.
    """
    from flowos.services.allocation_check import evaluate

    if named is not None and named.get("digest", instance.digest()) != instance.digest():
        raise FlowOSError("the solution is one of another instance: its digest differs")
    if not solution.placement and solution.verdict == "infeasible":
        return None
    if named is None and solution.verdict == "unknown" and \
            sum(map(len, solution.placement.values())) < sum(len(service.nodes) for service in instance.services):
        return None
    services = [service.bounded(instance.delay_bound) for service in instance.services]
    return evaluate(instance.platform, services, solution)
